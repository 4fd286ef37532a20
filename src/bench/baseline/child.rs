//! A server in a process of its own.
//!
//! Owns the children: dropping one ends it. Knows them by what they write: JSON lines, of which one has the address where
//! clients connect.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;

use super::cores;

/// How long a server may take to listen.
const START_MAX: Duration = Duration::from_secs(10);

/// A running server.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    addresses: Addresses,
    words: Option<JoinHandle<()>>,
}

/// Where a server listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Addresses {
    public: SocketAddr,
    /// For metrics, if it has them.
    admin: Option<SocketAddr>,
}

impl Server {
    /// Starts this program with other arguments on a core, and waits until it listens.
    pub(super) fn start(command: &mut Command, core: usize, back_to: usize) -> Result<Self, String> {
        // A process begins where the thread that starts it is allowed to run.
        let pinned = |core| cores::stay_on(core).map_err(|e| format!("{e:#}"));
        pinned(core)?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        pinned(back_to)?;
        let mut child = child.map_err(|e| format!("cannot start a server: {e}"))?;
        let lines = BufReader::new(child.stderr.take().expect("it was asked for")).lines();
        let (listening, listens) = std::sync::mpsc::sync_channel(1);
        let words = std::thread::spawn(move || watch(lines.map_while(Result::ok), &listening));
        // Dropped where it does not come to listen, which ends the child.
        let nowhere = Addresses { public: SocketAddr::from(([0, 0, 0, 0], 0)), admin: None };
        let mut server = Self { child, addresses: nowhere, words: Some(words) };
        server.addresses = match listens.recv_timeout(START_MAX) {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(last_words)) => return Err(format!("the server ended: {last_words}")),
            Err(_) => return Err("the server did not listen in time".into()),
        };
        Ok(server)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where clients connect.
    pub(super) fn address(&self) -> SocketAddr {
        self.addresses.public
    }

    /// The sum of a gauge that counts, over its labels.
    pub(super) fn gauge(&self, name: &str) -> anyhow::Result<usize> {
        let admin = self.addresses.admin.context("the server has no metrics")?;
        let mut socket = TcpStream::connect(admin)?;
        write!(socket, "GET /metrics HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        socket.read_to_string(&mut text)?;
        Ok(sum_of(&text, name))
    }
}

/// Reads what a server writes to the end, so that it never waits for a full pipe. Sends its addresses, or its last words
/// where it ended before it listened.
fn watch(lines: impl Iterator<Item = String>, listening: &SyncSender<Result<Addresses, String>>) {
    let (mut last, mut listens) = (String::new(), false);
    for line in lines {
        match addresses_in(&line) {
            Some(addresses) => {
                listens = true;
                drop(listening.try_send(Ok(addresses)));
            }
            None if line.contains(r#""INFO""#) => {}
            None if listens => eprintln!("server: {line}"),
            None => last = line,
        }
    }
    if !listens {
        drop(listening.try_send(Err(last)));
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

/// The addresses in the line with which a server says where it listens.
fn addresses_in(line: &str) -> Option<Addresses> {
    let address = |key: &str| line.split_once(key)?.1.split_once('"')?.0.parse().ok();
    Some(Addresses { public: address(r#""public":""#)?, admin: address(r#""admin":""#) })
}

/// The sum of the samples of one gauge in the text exposition format.
fn sum_of(text: &str, name: &str) -> usize {
    let samples = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        rest.starts_with([' ', '{']).then(|| rest.rsplit_once(' ')?.1.parse::<usize>().ok())?
    });
    samples.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_are_found() {
        let line = r#"{"level":"INFO","fields":{"message":"x","public":"127.0.0.1:77","admin":"127.0.0.1:1"}}"#;
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(addresses_in(line), Some(Addresses { public: at(77), admin: Some(at(1)) }));
        let bare = addresses_in(r#"{"public":"127.0.0.1:77"}"#);
        assert_eq!(bare, Some(Addresses { public: at(77), admin: None }));
        assert_eq!(addresses_in("{}"), None);
    }

    #[test]
    fn the_last_words_of_a_server_that_does_not_listen_are_told() {
        let (send, get) = std::sync::mpsc::sync_channel(1);
        watch(["a".to_owned(), "server.x: unknown key".into()].into_iter(), &send);
        assert_eq!(get.recv().unwrap(), Err("server.x: unknown key".into()));
    }

    #[test]
    fn a_gauge_is_summed_over_its_labels() {
        let text = "# TYPE a gauge\na{chain=\"x\"} 3\na{chain=\"y z\"} 4\nab 9\n";
        assert_eq!((sum_of(text, "a"), sum_of(text, "b")), (7, 0));
    }
}
