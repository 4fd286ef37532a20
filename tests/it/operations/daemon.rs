//! The binary in a process of its own: started, listened to, signalled by its id, and ended with its owner.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::harness::{http, until};

/// The binary, with nothing of this process's environment.
pub(crate) fn chaincast(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chaincast"));
    command.args(args).env_clear().stdin(Stdio::null());
    command
}

/// What a stream has said so far.
type Said = Arc<Mutex<String>>;

/// A running gateway.
pub(crate) struct Daemon {
    child: Child,
    readers: Vec<JoinHandle<()>>,
    stdout: Said,
    stderr: Said,
    pub(crate) public: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Daemon {
    /// `chaincast run` beside these nodes, on ports that the system chooses; returns when it listens.
    pub(crate) async fn run(upstreams: &[&str], environment: &[(&str, &str)]) -> Self {
        let args: Vec<&str> = upstreams.iter().flat_map(|url| ["--upstream", url]).collect();
        Self::run_with(&args, environment).await
    }

    /// The same with any flags.
    pub(crate) async fn run_with(flags: &[&str], environment: &[(&str, &str)]) -> Self {
        let args = [&["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"], flags].concat();
        let mut daemon = Self::start(chaincast(&args).envs(environment.iter().copied()));
        until("it says where it listens", async || daemon.stderr().contains("chaincast is listening")).await;
        let said = daemon.stderr();
        let after = |key: &str| {
            let (_, rest) = said.split_once(key).unwrap_or_else(|| panic!("no {key} in {said}"));
            rest.split_whitespace().next().and_then(|text| text.parse().ok()).expect("an address follows")
        };
        (daemon.public, daemon.admin) = (after(" public="), after(" admin="));
        daemon
    }

    /// Any command that goes on; where it listens is not known yet.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let (stdout, reader) = follow(child.stdout.take().expect("it is piped"));
        let (stderr, other) = follow(child.stderr.take().expect("it is piped"));
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        Self { child, readers: vec![reader, other], stdout, stderr, public: nowhere, admin: nowhere }
    }

    pub(crate) fn stdout(&self) -> String {
        self.stdout.lock().expect("its reader does not panic").clone()
    }

    pub(crate) fn stderr(&self) -> String {
        self.stderr.lock().expect("its reader does not panic").clone()
    }

    pub(crate) fn ws_url(&self) -> String {
        format!("ws://{}", self.public)
    }

    /// Memory of the process in MiB: what it has now (`VmRSS`), or the most it ever had (`VmHWM`).
    pub(crate) fn memory_mib(&self, which: &str) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the process is there");
        let line = status.lines().find_map(|line| line.strip_prefix(which)?.strip_prefix(':'));
        let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.unwrap_or_else(|| panic!("no {which} in {status}")) / 1024
    }

    /// Waits until it is ready.
    pub(crate) async fn ready(&self) {
        until("it is ready", async || http::get(self.admin, "/readyz").await.status == 200).await;
    }

    /// Waits until a chain's heads all have their logs: who comes between a head and its logs gets the logs alone.
    pub(crate) async fn logs_are_there(&self, chain: &str) {
        let none_waits = format!("chaincast_logs_waiting_blocks{{chain=\"{chain}\"}} 0");
        until("all logs are there", async || {
            http::get(self.admin, "/metrics").await.body.lines().any(|line| line == none_waits)
        })
        .await;
    }

    /// The process's number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status().expect("kill is everywhere");
        assert!(sent.success(), "the process is there");
    }

    /// Waits until it has ended and all that it said is here.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("the process ends", async || {
            status = self.child.try_wait().expect("it is a child of this process");
            status.is_some()
        })
        .await;
        self.readers.drain(..).for_each(|reader| reader.join().expect("it does not panic"));
        status.expect("it was waited for")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a stream to its end, as the process would stop at a full pipe.
fn follow(stream: impl Read + Send + 'static) -> (Said, JoinHandle<()>) {
    let said = Said::default();
    let writer = Arc::clone(&said);
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let mut said = writer.lock().expect("no reader panics");
            said.push_str(&line);
            said.push('\n');
        }
    });
    (said, reader)
}
