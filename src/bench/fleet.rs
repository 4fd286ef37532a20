//! All clients of a run on one epoll instance, with one read buffer.
//!
//! Owns the connections, the pace of connecting, and the latencies. One thread, no tasks, so that the generator costs less
//! than the server that it measures.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};

use super::client::{Client, Got, Stage, masked};
use super::stream::Stream;
use super::{Subscription, Target};

/// Connections that are being made at a time: fewer than the 128 that a listener of the standard library queues.
const CONNECTING: usize = 100;
/// Clients that share a source address, well within the gateway's default limits for one.
const CLIENTS_PER_ADDRESS: usize = 40;
/// One read takes a burst of 200 logs in a few steps.
const BUFFER_BYTES: usize = 64 << 10;
/// Longer latencies count as this.
const LATENCY_MAX_MICROS: u64 = 600_000_000;

/// The clients of a run.
pub(super) struct Fleet {
    target: Target,
    subscription: Subscription,
    subscribe: Vec<u8>,
    poll: Poll,
    events: Events,
    buffer: Vec<u8>,
    clients: Vec<Client>,
    live: usize,
    stream: Stream,
    /// From when the next event's latency counts, where the generator caused it.
    asked: Option<Instant>,
    /// Events so far, of all clients.
    received: u64,
    /// Events when the measure began.
    measured_from: u64,
    /// The event that is waited for, and how many clients have all before it.
    goal: Option<(u32, usize)>,
    /// In microseconds.
    latencies: Histogram<u32>,
    recording: bool,
}

impl Fleet {
    pub(super) fn new(target: &Target, subscription: Subscription) -> anyhow::Result<Self> {
        let params = match &subscription {
            Subscription::Heads => r#"["newHeads"]"#.to_owned(),
            Subscription::Logs(filter) => format!(r#"["logs",{filter}]"#),
        };
        let request = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"eth_subscribe","params":{params}}}"#);
        Ok(Self {
            target: target.clone(),
            subscription,
            subscribe: masked(1, request.as_bytes()),
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            buffer: vec![0; BUFFER_BYTES],
            clients: Vec::new(),
            live: 0,
            stream: Stream::default(),
            asked: None,
            received: 0,
            measured_from: 0,
            goal: None,
            latencies: Histogram::new_with_bounds(1, LATENCY_MAX_MICROS, 3)?,
            recording: false,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }

    /// Connects and subscribes so many clients.
    pub(super) fn connect(&mut self, clients: usize) -> Result<(), String> {
        let deadline = Instant::now() + super::PATIENCE;
        while self.live < clients {
            while self.clients.len() < clients && self.clients.len() - self.live < CONNECTING {
                self.open().map_err(|e| format!("cannot open a connection: {e}"))?;
            }
            self.turn(Duration::from_secs(1))?;
            if Instant::now() > deadline {
                return Err(format!("only {} of {clients} clients were subscribed in time", self.live));
            }
        }
        Ok(())
    }

    fn open(&mut self) -> std::io::Result<()> {
        let number = self.clients.len();
        let to = self.target.address;
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if let IpAddr::V4(ip) = to.ip()
            && ip.is_loopback()
        {
            socket.bind(&SocketAddr::from((source(number), 0)).into())?;
        }
        match socket.connect(&to.into()) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(e) => return Err(e),
        }
        let mut socket = TcpStream::from_std(socket.into());
        self.poll.registry().register(&mut socket, Token(number), Interest::READABLE | Interest::WRITABLE)?;
        self.clients.push(Client::new(socket));
        Ok(())
    }

    /// The next event that nobody has yet is caused now.
    pub(super) fn expect_block(&mut self) {
        self.asked = Some(Instant::now());
    }

    /// Waits until every client has all blocks that any has, and `newest` if there is one, so that the next block is new
    /// to all. Returns how many blocks that are.
    pub(super) fn settle(&mut self, newest: Option<&str>, patience: Duration) -> Result<usize, String> {
        let mut blocks = self.stream.blocks().max(1);
        self.receive_blocks(blocks, patience)?;
        while newest.is_some_and(|hash| !self.stream.has_block(hash) || blocks < self.stream.blocks()) {
            blocks += 1;
            self.receive_blocks(blocks, patience)?;
        }
        Ok(blocks)
    }

    /// Waits until every client has the events of so many blocks. The error says why that will not be.
    pub(super) fn receive_blocks(&mut self, blocks: usize, patience: Duration) -> Result<(), String> {
        let (mut deadline, mut received) = (Instant::now() + patience, self.received);
        self.goal = None;
        loop {
            if self.goal.is_none()
                && let Some(end) = self.stream.end_of(blocks, matches!(self.subscription, Subscription::Heads))
            {
                self.goal = Some((end, self.clients.iter().filter(|client| client.place >= Some(end)).count()));
            }
            let there = self.goal.map_or(0, |(_, clients)| clients);
            if there == self.len() {
                return Ok(());
            }
            if self.received > received {
                (received, deadline) = (self.received, Instant::now() + patience);
            }
            if Instant::now() > deadline {
                let (missing, seen) = (self.len() - there, self.stream.blocks());
                let waited = patience.as_secs();
                return Err(format!(
                    "{missing} clients missed events of block {blocks} ({seen} seen, waited {waited} s)"
                ));
            }
            self.turn(Duration::from_secs(1))?;
        }
    }

    pub(super) fn start_measure(&mut self) {
        self.measured_from = self.received;
        self.recording = true;
    }

    /// Ends the measure; the events since its start.
    pub(super) fn stop_measure(&mut self) -> u64 {
        self.recording = false;
        self.received - self.measured_from
    }

    /// 50th and 99th percentile and the greatest, in milliseconds.
    pub(super) fn latency_ms(&self) -> [f64; 3] {
        [self.latencies.value_at_quantile(0.5), self.latencies.value_at_quantile(0.99), self.latencies.max()]
            .map(|micros| micros as f64 / 1000.0)
    }

    /// Handles what the sockets have, waiting for it if there is nothing. The error is what voids the run.
    fn turn(&mut self, timeout: Duration) -> Result<(), String> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => return Ok(()),
            Err(e) => return Err(format!("epoll: {e}")),
        }
        // The list is taken out so that a client can be changed while it is walked.
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        let result = events.iter().try_for_each(|event| {
            let number = event.token().0;
            self.serve(number, event.is_writable()).map_err(|why| format!("client {number}: {why}"))
        });
        self.events = events;
        result
    }

    fn serve(&mut self, number: usize, writable: bool) -> Result<(), String> {
        let client = &mut self.clients[number];
        if client.stage == Stage::Connecting {
            if !writable {
                return Ok(());
            }
            client.upgrade(&self.target.host, &self.target.path)?;
            let registry = self.poll.registry();
            registry
                .reregister(&mut client.socket, Token(number), Interest::READABLE)
                .map_err(|e| format!("epoll: {e}"))?;
        }
        let now = Instant::now();
        let since = self.asked.unwrap_or(now);
        let (stream, live, received) = (&mut self.stream, &mut self.live, &mut self.received);
        let (latencies, recording, goal) = (&mut self.latencies, self.recording, &mut self.goal);
        client.read(&mut self.buffer, &self.subscribe, |place, got| {
            match got {
                Got::Subscribed => *live += 1,
                Got::Event(result) => {
                    let before = *place;
                    let sent = stream.take(place, result, since)?;
                    if let Some((end, there)) = goal
                        && before < Some(*end)
                        && *place >= Some(*end)
                    {
                        *there += 1;
                    }
                    *received += 1;
                    if recording {
                        let micros = u64::try_from(now.saturating_duration_since(sent).as_micros()).unwrap_or(u64::MAX);
                        latencies.saturating_record(micros);
                    }
                }
            }
            Ok(())
        })
    }
}

/// The source address of a client: loopback is a /8.
fn source(client: usize) -> Ipv4Addr {
    let number = u32::try_from(client / CLIENTS_PER_ADDRESS).expect("clients are bounded by descriptors");
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + number)
}
