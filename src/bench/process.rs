//! A server in a process of its own, and what a process has used.
//!
//! Owns the children: dropping one ends it. The kernel's accounts are read from /proc, user and system time together,
//! because loopback's soft interrupts are charged to who sends.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;

use super::cores;

/// How long a server may take to listen.
const START_MAX: Duration = Duration::from_secs(10);

/// What a process has used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usage {
    pub(super) cpu_seconds: f64,
    pub(super) rss_bytes: u64,
}

impl Usage {
    pub(super) fn of(pid: u32) -> anyhow::Result<Self> {
        let read = |name: &str| {
            std::fs::read_to_string(format!("/proc/{pid}/{name}"))
                .with_context(|| format!("process {pid} cannot be read"))
        };
        // The command's name may hold spaces; after its bracket come the state and then numbers (proc_pid_stat(5)).
        let stat = read("stat")?;
        let fields: Vec<&str> = stat.rsplit_once(')').context("/proc/PID/stat")?.1.split_whitespace().collect();
        let number =
            |text: Option<&&str>| text.and_then(|text| text.parse::<u64>().ok()).context("/proc/PID: a number");
        let ticks = number(fields.get(11))? + number(fields.get(12))?;
        let pages = number(read("statm")?.split_whitespace().collect::<Vec<_>>().get(1))?;
        Ok(Self {
            cpu_seconds: ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
            rss_bytes: pages * rustix::param::page_size() as u64,
        })
    }
}

/// A running server.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    pub(super) address: SocketAddr,
    words: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts this program with other arguments on a core, and waits until it listens.
    pub(super) fn start(command: &mut Command, core: usize, back_to: usize) -> anyhow::Result<Self> {
        // A process begins where the thread that starts it is allowed to run.
        cores::stay_on(core)?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        cores::stay_on(back_to)?;
        let mut child = child.context("cannot start a server")?;
        let lines = BufReader::new(child.stderr.take().context("a server has no stderr")?).lines();
        let (listening, listens) = std::sync::mpsc::sync_channel(1);
        let words = std::thread::spawn(move || {
            // Read to the end, so that the server never waits for a full pipe.
            for line in lines.map_while(Result::ok) {
                match address_in(&line) {
                    Some(address) => drop(listening.try_send(address)),
                    None if line.contains(r#""INFO""#) => {}
                    None => eprintln!("server: {line}"),
                }
            }
        });
        let mut server = Self { child, address: SocketAddr::from(([0, 0, 0, 0], 0)), words: Some(words) };
        server.address = listens.recv_timeout(START_MAX).context("a server did not listen in time")?;
        Ok(server)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that has ended by itself is what is wanted.
        let _ended = self.child.kill().and_then(|()| self.child.wait());
        if let Some(words) = self.words.take() {
            let _ended = words.join();
        }
    }
}

/// The address in the line with which a server says where clients connect.
fn address_in(line: &str) -> Option<SocketAddr> {
    line.split_once(r#""public":""#)?.1.split_once('"')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_can_be_read() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.rss_bytes > 100_000 && usage.cpu_seconds >= 0.0, "{usage:?}");
        assert!(Usage::of(u32::MAX).is_err());
    }

    #[test]
    fn the_address_is_found() {
        let line = r#"{"level":"INFO","fields":{"message":"x","public":"127.0.0.1:77","admin":"127.0.0.1:1"}}"#;
        assert_eq!(address_in(line), Some(SocketAddr::from(([127, 0, 0, 1], 77))));
        assert_eq!(address_in("{}"), None);
    }
}
