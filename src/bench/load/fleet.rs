//! All clients of a run on one epoll instance, with one read buffer.
//!
//! Owns the connections, the pace of connecting, and the latencies. One thread, no tasks, so that the generator costs less
//! than the server that it measures. A fleet is read only while it waits for something: one that is not asked to wait is
//! made of clients that do not read.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};

use super::frame::{masked, value_of};
use super::link::{Heard, Link, Stage, Upgrade};
use super::stream::{Reader, Stream};
use super::transport::Transport;
use crate::bench::PATIENCE;
use crate::bench::endpoint::Endpoint;
use crate::bench::progress::Progress;

/// Connections that are being made at a time: fewer than the 128 that a listener of the standard library queues.
const CONNECTING: usize = 100;
/// Clients that share a source address, well within the gateway's default limits for one.
const CLIENTS_PER_ADDRESS: usize = 40;
/// One read takes a burst of 200 logs in a few steps.
const BUFFER_BYTES: usize = 64 << 10;
/// Longer latencies count as this.
const LATENCY_MAX_MICROS: u64 = 600_000_000;

/// The requests that a client sends after its upgrade, by its number.
type Requests = Box<dyn Fn(usize) -> Vec<String>>;

/// What the clients of a fleet are.
pub(in crate::bench) struct Plan {
    /// Where they connect, in turns.
    pub(in crate::bench) targets: Vec<Endpoint>,
    pub(in crate::bench) requests: Requests,
    /// Whether they offer compression, and the server must take it.
    pub(in crate::bench) deflate: bool,
    /// `SO_RCVBUF`; without, the kernel's default.
    pub(in crate::bench) receive_buffer_bytes: Option<usize>,
    /// Whether they check what they get; where each has one subscription.
    pub(in crate::bench) checked: bool,
    /// By how many addresses their first source address on loopback is after that of other fleets of this process.
    pub(in crate::bench) sources_after: u32,
}

impl Plan {
    /// Clients of one endpoint that each send the same requests.
    pub(in crate::bench) fn new(target: &Endpoint, requests: Vec<String>) -> Self {
        Self::each(target, move |_| requests.clone())
    }

    /// Clients of one endpoint that each send their own requests.
    pub(in crate::bench) fn each(target: &Endpoint, requests: impl Fn(usize) -> Vec<String> + 'static) -> Self {
        Self {
            targets: vec![target.clone()],
            requests: Box::new(requests),
            deflate: false,
            receive_buffer_bytes: None,
            checked: true,
            sources_after: 0,
        }
    }
}

/// What a fleet waits for.
#[derive(Debug, Clone, Copy)]
pub(in crate::bench) enum Goal {
    /// All events of so many blocks; heads are one a block.
    Blocks { blocks: usize, one_a_block: bool },
    /// So many events.
    Events(u32),
}

struct Client {
    link: Link,
    /// Answers that it waits for; it is live when there are none left.
    unanswered: usize,
    reader: Reader,
}

/// The clients of a run.
pub(in crate::bench) struct Fleet {
    plan: Plan,
    upgrades: Vec<Upgrade>,
    poll: Poll,
    events: Events,
    buffer: Vec<u8>,
    clients: Vec<Client>,
    tally: Tally,
    progress: Progress,
}

/// What a fleet has got so far.
struct Tally {
    checked: bool,
    live: usize,
    stream: Stream,
    /// From when the next event's latency counts, where the generator caused it.
    asked: Option<Instant>,
    /// Events of all clients.
    received: u64,
    /// Bytes of all clients.
    bytes: u64,
    /// The event that is waited for, and how many clients have all before it.
    goal: Option<(u32, usize)>,
    /// In microseconds.
    latencies: Histogram<u32>,
    recording: bool,
    /// Who had which event when, if that is asked for.
    arrivals: Option<Vec<Arrival>>,
}

/// One client's getting one event.
#[derive(Debug, Clone, Copy)]
pub(in crate::bench) struct Arrival {
    pub(in crate::bench) client: usize,
    pub(in crate::bench) event: u32,
    pub(in crate::bench) at: Instant,
}

impl Fleet {
    pub(in crate::bench) fn new(plan: Plan, progress: Progress) -> anyhow::Result<Self> {
        let tally = Tally {
            checked: plan.checked,
            live: 0,
            stream: Stream::default(),
            asked: None,
            received: 0,
            bytes: 0,
            goal: None,
            latencies: Histogram::new_with_bounds(1, LATENCY_MAX_MICROS, 3)?,
            recording: false,
            arrivals: None,
        };
        Ok(Self {
            upgrades: plan.targets.iter().map(|to| Upgrade::new(&to.host, &to.path, plan.deflate)).collect(),
            plan,
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            buffer: vec![0; BUFFER_BYTES],
            clients: Vec::new(),
            tally,
            progress,
        })
    }

    pub(in crate::bench) fn len(&self) -> usize {
        self.clients.len()
    }

    /// Connects so many clients; all that they ask for is then answered.
    pub(in crate::bench) fn connect(&mut self, clients: usize) -> Result<(), String> {
        while self.tally.live < clients {
            while self.clients.len() < clients && self.clients.len() - self.tally.live < CONNECTING {
                self.open().map_err(|e| format!("cannot open a connection: {e:#}"))?;
            }
            self.wait_for_more(
                |fleet| fleet.tally.live as u64,
                |live| format!("{live} of {clients} clients are subscribed"),
            )?;
        }
        Ok(())
    }

    fn open(&mut self) -> anyhow::Result<()> {
        let number = self.clients.len();
        let target = &self.plan.targets[number % self.plan.targets.len()];
        let to = target.address;
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(bytes) = self.plan.receive_buffer_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        if let IpAddr::V4(ip) = to.ip()
            && ip.is_loopback()
        {
            socket.bind(&SocketAddr::from((source(self.plan.sources_after, number), 0)).into())?;
        }
        match socket.connect(&to.into()) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(e) => return Err(e.into()),
        }
        let mut socket = TcpStream::from_std(socket.into());
        self.poll.registry().register(&mut socket, Token(number), Interest::READABLE | Interest::WRITABLE)?;
        let transport = match &target.tls {
            Some(config) => Transport::tls(socket, config, target.name())?,
            None => Transport::plain(socket),
        };
        self.clients.push(Client { link: Link::new(transport), unanswered: usize::MAX, reader: Reader::default() });
        Ok(())
    }

    /// Sends requests by every client, and waits until each has all of its answers.
    pub(in crate::bench) fn ask(&mut self, requests: impl Fn(usize) -> Vec<String>) -> Result<(), String> {
        self.tally.live = 0;
        for (number, client) in self.clients.iter_mut().enumerate() {
            let requests = requests(number);
            client.unanswered = requests.len();
            requests.iter().try_for_each(|request| client.link.send(&masked(1, request.as_bytes())))?;
        }
        while self.tally.live < self.clients.len() {
            self.wait_for_more(|fleet| fleet.tally.live as u64, |live| format!("{live} clients have their answers"))?;
        }
        Ok(())
    }

    /// The next event that nobody has yet is caused now.
    pub(in crate::bench) fn expect_block(&mut self) {
        self.tally.asked = Some(Instant::now());
    }

    /// Since the newest block was caused, where the generator does that.
    pub(in crate::bench) fn since_asked(&self) -> Option<Duration> {
        self.tally.asked.map(|asked| asked.elapsed())
    }

    /// Waits until every client has all blocks of heads that any has, and `newest` if there is one, so that the next
    /// block is new to all.
    pub(in crate::bench) fn settle(&mut self, newest: Option<&str>, one_a_block: bool) -> Result<(), String> {
        let mut blocks = self.tally.stream.blocks().max(1);
        self.receive(Goal::Blocks { blocks, one_a_block })?;
        while newest.is_some_and(|hash| !self.tally.stream.has_block(hash) || blocks < self.tally.stream.blocks()) {
            blocks += 1;
            self.receive(Goal::Blocks { blocks, one_a_block })?;
        }
        Ok(())
    }

    /// Waits until every client has what the goal says. The error says why that will not be.
    pub(in crate::bench) fn receive(&mut self, goal: Goal) -> Result<(), String> {
        self.tally.goal = None;
        loop {
            self.aim(goal);
            let there = self.tally.goal.map_or(0, |(_, clients)| clients);
            if there == self.clients.len() {
                return Ok(());
            }
            let blocks = self.tally.stream.blocks();
            self.wait_for_more(
                |fleet| fleet.tally.received,
                |received| format!("{received} events of {blocks} blocks so far"),
            )
            .map_err(|why| match why.strip_suffix(STANDS_STILL) {
                Some(_) => {
                    let missing = self.clients.len() - there;
                    format!("{missing} clients missed events of block {blocks} ({goal:?}), nothing came any more")
                }
                None => why,
            })?;
        }
    }

    /// Counts who has reached the goal, as soon as it is known which event that is.
    fn aim(&mut self, goal: Goal) {
        if self.tally.goal.is_some() {
            return;
        }
        let end = match goal {
            Goal::Blocks { blocks, one_a_block } => self.tally.stream.end_of(blocks, one_a_block),
            Goal::Events(events) => Some(events),
        };
        if let Some(end) = end {
            let there = self.clients.iter().filter(|client| client.reader.place >= Some(end)).count();
            self.tally.goal = Some((end, there));
        }
    }

    /// Serves the sockets until a count has grown. An error that ends with [`STANDS_STILL`] says that it did not.
    fn wait_for_more(&mut self, count: impl Fn(&Self) -> u64, words: impl Fn(u64) -> String) -> Result<(), String> {
        let (before, deadline) = (count(self), Instant::now() + PATIENCE);
        while count(self) == before {
            if Instant::now() > deadline {
                return Err(format!("{}{STANDS_STILL}", words(before)));
            }
            self.progress.say(|| words(before));
            self.turn(Duration::from_secs(1))?;
        }
        Ok(())
    }

    /// Number of blocks so far.
    pub(in crate::bench) fn blocks(&self) -> usize {
        self.tally.stream.blocks()
    }

    /// Number of events so far.
    pub(in crate::bench) fn events(&self) -> u32 {
        self.tally.stream.events()
    }

    /// Deliveries and bytes so far.
    pub(in crate::bench) fn received(&self) -> (u64, u64) {
        (self.tally.received, self.tally.bytes)
    }

    /// Counts latencies from now on, or not any more.
    pub(in crate::bench) fn record(&mut self, recording: bool) {
        self.tally.recording = recording;
    }

    /// Notes who has which event when from now on.
    pub(in crate::bench) fn note_arrivals(&mut self) {
        self.tally.arrivals = Some(Vec::new());
    }

    pub(in crate::bench) fn arrivals(&self) -> &[Arrival] {
        self.tally.arrivals.as_deref().unwrap_or_default()
    }

    /// 50th and 99th percentile and the greatest, in milliseconds.
    pub(in crate::bench) fn latency_ms(&self) -> [f64; 3] {
        let latencies = &self.tally.latencies;
        [latencies.value_at_quantile(0.5), latencies.value_at_quantile(0.99), latencies.max()]
            .map(|micros| micros as f64 / 1000.0)
    }

    /// Bytes that the clients have not read, each.
    pub(in crate::bench) fn unread(&self) -> impl Iterator<Item = u64> {
        // A socket that cannot tell is gone, and holds nothing.
        self.clients.iter().map(|client| rustix::io::ioctl_fionread(&client.link.transport.socket).unwrap_or(0))
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
        let upgrade = &self.upgrades[number % self.upgrades.len()];
        let Client { link, unanswered, reader } = &mut self.clients[number];
        if link.stage == Stage::Connecting {
            if !writable {
                return Ok(());
            }
            link.upgrade(upgrade)?;
            let socket = &mut link.transport.socket;
            let watched = self.poll.registry().reregister(socket, Token(number), Interest::READABLE);
            watched.map_err(|e| format!("epoll: {e}"))?;
        }
        let (now, tally, requests) = (Instant::now(), &mut self.tally, &self.plan.requests);
        let bytes = link.read(&mut self.buffer, upgrade, |link, heard| match heard {
            Heard::Open => {
                let requests = requests(number);
                *unanswered = requests.len();
                tally.live += usize::from(requests.is_empty());
                requests.iter().try_for_each(|request| link.send(&masked(1, request.as_bytes())))
            }
            Heard::Message { bytes, packed } if *unanswered == 0 => tally.event(number, reader, bytes, packed, now),
            Heard::Message { bytes, packed } => tally.answer(unanswered, reader, bytes, packed),
        })?;
        tally.bytes += bytes as u64;
        Ok(())
    }
}

/// How the error of a wait ends in which nothing came.
const STANDS_STILL: &str = ", and nothing came any more";

impl Tally {
    /// Takes what a client gets while it waits for answers.
    fn answer(
        &mut self,
        unanswered: &mut usize,
        reader: &mut Reader,
        bytes: &[u8],
        packed: bool,
    ) -> Result<(), String> {
        let text = if packed { &super::stream::inflated(bytes)? } else { bytes };
        // Of several subscriptions the first may tell its events while the others are not answered.
        if !self.checked && value_of(text, b"\"subscription\":").is_some() {
            return Ok(());
        }
        let id = value_of(text, b"\"result\":").filter(|_| memchr::memmem::find(text, b"\"error\":").is_none());
        let id = id.ok_or_else(|| format!("a request was refused: {}", String::from_utf8_lossy(text)))?;
        reader.id = text[id].into();
        *unanswered -= 1;
        self.live += usize::from(*unanswered == 0);
        Ok(())
    }

    /// Takes a notification.
    fn event(
        &mut self,
        client: usize,
        reader: &mut Reader,
        bytes: &[u8],
        packed: bool,
        now: Instant,
    ) -> Result<(), String> {
        self.received += 1;
        if !self.checked {
            return Ok(());
        }
        let before = reader.place;
        let since = self.stream.take(reader, bytes, packed, self.asked.unwrap_or(now))?;
        if let Some((end, there)) = &mut self.goal
            && before < Some(*end)
            && reader.place >= Some(*end)
        {
            *there += 1;
        }
        if self.recording {
            let micros = now.saturating_duration_since(since).as_micros();
            self.latencies.saturating_record(u64::try_from(micros).unwrap_or(u64::MAX));
        }
        if let Some(arrivals) = &mut self.arrivals {
            let event = reader.place.expect("it has just got one") - 1;
            arrivals.push(Arrival { client, event, at: now });
        }
        Ok(())
    }
}

/// The source address of a client: loopback is a /8. Each process has addresses of its own, so that runs one after the
/// other do not use up the rate of connects that a server allows an address.
fn source(after: u32, client: usize) -> Ipv4Addr {
    let number = u32::try_from(client / CLIENTS_PER_ADDRESS).expect("clients are bounded by descriptors");
    let process = std::process::id() % 8_192 * 1_024;
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + process + after + number)
}
