//! The simulated network: hosts, and connections between them as bounded pipes of bytes that take their time.
//!
//! Owns every byte under way. Bytes of one direction keep their order. A host can be partitioned (its bytes are held until
//! it is healed) or cut (its connections are reset). All on one thread and on the runtime's own clock; what is random
//! comes from the seed.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

use crate::hub::InMemory;

/// A machine on the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Host {
    Gateway,
    Node(usize),
    Client(usize),
}

/// Milliseconds from one host to another, drawn anew for each write.
const LATENCY_MS: RangeInclusive<u64> = 1..=6;

/// The network. Clones are the same one.
#[derive(Clone)]
pub(super) struct Net(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Something is due sooner than anything before.
    sooner: Notify,
    healed: Notify,
}

struct State {
    rng: StdRng,
    lines: BTreeMap<u64, Line>,
    next_line: u64,
    /// What is under way, by the time and order of its arrival.
    parcels: BTreeMap<(Instant, u64), Parcel>,
    sent: u64,
    partitioned: Vec<Host>,
}

/// A connection. Side 0 opened it; way 0 leads from side 0 to side 1.
struct Line {
    hosts: [Host; 2],
    ways: [Way; 2],
    reset: bool,
    /// Nothing arrives any more.
    lost: bool,
    /// Which ends exist.
    held: [bool; 2],
}

/// One direction of a connection.
struct Way {
    room: usize,
    arrived: VecDeque<u8>,
    /// Bytes sent that have not arrived.
    flying: usize,
    last: Instant,
    /// No more is sent; no more will arrive; nobody reads any more.
    finished: bool,
    ended: bool,
    deaf: bool,
    /// What arrived while a host was partitioned.
    stuck: Vec<Load>,
    readers: Vec<Waker>,
    writers: Vec<Waker>,
}

enum Load {
    Bytes(Vec<u8>),
    End,
}

struct Parcel {
    line: u64,
    way: usize,
    load: Load,
}

impl Net {
    pub(super) fn new(seed: u64) -> Self {
        let state = State {
            rng: StdRng::seed_from_u64(seed),
            lines: BTreeMap::new(),
            next_line: 0,
            parcels: BTreeMap::new(),
            sent: 0,
            partitioned: Vec::new(),
        };
        Self(Arc::new(Shared { state: Mutex::new(state), sooner: Notify::new(), healed: Notify::new() }))
    }

    /// Carries what is under way, for ever.
    pub(super) async fn carry(self) {
        loop {
            let next = self.lock().parcels.first_key_value().map(|((at, _), _)| *at);
            tokio::select! {
                biased;
                () = self.0.sooner.notified() => {}
                () = async { match next { Some(at) => tokio::time::sleep_until(at).await, None => std::future::pending().await } } => {}
            }
            self.lock().deliver(Instant::now());
        }
    }

    /// Opens a connection after the time that takes; `room` is what each direction holds, in bytes. Waits while one of
    /// the hosts is partitioned, as packets that are sent again do.
    pub(super) async fn connect(&self, from: Host, to: Host, room: [usize; 2]) -> (End, End) {
        let latency = self.lock().latency() * 2;
        tokio::time::sleep(latency).await;
        loop {
            let healed = self.0.healed.notified();
            if !self.lock().is_parted([from, to]) {
                break;
            }
            healed.await;
        }
        let line = self.lock().open([from, to], room);
        (End { net: self.clone(), line, side: 0 }, End { net: self.clone(), line, side: 1 })
    }

    /// Holds all bytes to and from a host.
    pub(super) fn partition(&self, host: Host) {
        self.lock().partitioned.push(host);
    }

    /// Lets the bytes of a host go on.
    pub(super) fn heal(&self, host: Host) {
        let mut state = self.lock();
        state.partitioned.retain(|parted| *parted != host);
        state.release();
        self.0.healed.notify_waiters();
    }

    /// Loses what is under way on the connections of a host now and later; new ones are well.
    pub(super) fn forget(&self, host: Host) {
        let mut state = self.lock();
        state.lines.values_mut().filter(|line| line.hosts.contains(&host)).for_each(|line| line.lost = true);
    }

    /// Resets all connections of a host.
    pub(super) fn cut(&self, host: Host) {
        let mut state = self.lock();
        for line in state.lines.values_mut().filter(|line| line.hosts.contains(&host)) {
            line.reset = true;
            line.ways.iter_mut().for_each(Way::wake);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn latency(&mut self) -> Duration {
        Duration::from_millis(self.rng.random_range(LATENCY_MS))
    }

    fn is_parted(&self, hosts: [Host; 2]) -> bool {
        hosts.iter().any(|host| self.partitioned.contains(host))
    }

    fn open(&mut self, hosts: [Host; 2], room: [usize; 2]) -> u64 {
        let line = self.next_line;
        self.next_line += 1;
        let ways = room.map(Way::new);
        self.lines.insert(line, Line { hosts, ways, reset: false, lost: false, held: [true; 2] });
        line
    }

    /// Puts a load on its way. Returns whether it is the next to arrive.
    fn send(&mut self, line: u64, way: usize, load: Load) -> bool {
        let due = Instant::now() + self.latency();
        let Some(open) = self.lines.get_mut(&line) else { return false };
        let due = due.max(open.ways[way].last);
        open.ways[way].last = due;
        self.sent += 1;
        self.parcels.insert((due, self.sent), Parcel { line, way, load });
        self.parcels.first_key_value().is_some_and(|((_, number), _)| *number == self.sent)
    }

    fn deliver(&mut self, now: Instant) {
        while let Some(next) = self.parcels.first_entry().filter(|next| next.key().0 <= now) {
            let Parcel { line, way, load } = next.remove();
            let live = self.lines.get(&line).filter(|line| !line.lost);
            let Some(hosts) = live.map(|line| line.hosts) else { continue };
            let parted = self.is_parted(hosts);
            let way = &mut self.lines.get_mut(&line).expect("it was there a moment ago").ways[way];
            if parted { way.stuck.push(load) } else { way.arrive(load) }
        }
    }

    fn release(&mut self) {
        let parted = self.partitioned.clone();
        for line in
            self.lines.values_mut().filter(|line| !line.lost && !line.hosts.iter().any(|host| parted.contains(host)))
        {
            for way in &mut line.ways {
                std::mem::take(&mut way.stuck).into_iter().for_each(|load| way.arrive(load));
            }
        }
    }
}

impl Way {
    fn new(room: usize) -> Self {
        Self {
            room,
            arrived: VecDeque::new(),
            flying: 0,
            last: Instant::now(),
            finished: false,
            ended: false,
            deaf: false,
            stuck: Vec::new(),
            readers: Vec::new(),
            writers: Vec::new(),
        }
    }

    fn arrive(&mut self, load: Load) {
        match load {
            Load::Bytes(bytes) => {
                self.flying -= bytes.len();
                if !self.deaf {
                    // This copies all at once, where `extend` goes byte by byte.
                    self.arrived.write_all(&bytes).expect("memory takes all");
                }
            }
            Load::End => self.ended = true,
        }
        self.wake();
    }

    fn free(&self) -> usize {
        self.room.saturating_sub(self.arrived.len() + self.flying)
    }

    fn wake(&mut self) {
        self.readers.drain(..).chain(self.writers.drain(..)).for_each(Waker::wake);
    }
}

/// One end of a connection. Dropping it closes it.
pub(super) struct End {
    net: Net,
    line: u64,
    side: usize,
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "End({}/{})", self.line, self.side)
    }
}

fn register(wakers: &mut Vec<Waker>, cx: &Context<'_>) {
    if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
        wakers.push(cx.waker().clone());
    }
}

impl End {
    fn with<T>(&self, act: impl FnOnce(&mut Line) -> T) -> T {
        act(self.net.lock().lines.get_mut(&self.line).expect("it is there while it has an end"))
    }

    fn finish(&self) {
        let mut state = self.net.lock();
        let way = &mut state.lines.get_mut(&self.line).expect("it has this end").ways[self.side];
        if !std::mem::replace(&mut way.finished, true) && state.send(self.line, self.side, Load::End) {
            self.net.0.sooner.notify_one();
        }
    }

    fn ready<T>(result: io::Result<T>) -> Poll<io::Result<T>> {
        match result {
            Err(e) if e.kind() == ErrorKind::WouldBlock => Poll::Pending,
            result => Poll::Ready(result),
        }
    }
}

impl End {
    fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        self.with(|line| {
            let reset = line.reset;
            let way = &mut line.ways[1 - self.side];
            if reset || way.deaf || way.ended || !way.arrived.is_empty() {
                return Poll::Ready(());
            }
            register(&mut way.readers, cx);
            Poll::Pending
        })
    }

    fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.with(|line| {
            if line.reset {
                return Err(ErrorKind::ConnectionReset.into());
            }
            let way = &mut line.ways[1 - self.side];
            if way.deaf {
                return Ok(0);
            }
            let n = way.arrived.read(buf)?;
            if n == 0 && !way.ended && !buf.is_empty() {
                return Err(ErrorKind::WouldBlock.into());
            }
            way.writers.drain(..).for_each(Waker::wake);
            Ok(n)
        })
    }
}

impl InMemory for End {
    fn poll_writable(&self, cx: &Context<'_>) -> Poll<()> {
        self.with(|line| {
            let gone = line.reset || line.ways[1 - self.side].ended;
            let way = &mut line.ways[self.side];
            if gone || way.finished || way.free() > 0 {
                return Poll::Ready(());
            }
            register(&mut way.writers, cx);
            Poll::Pending
        })
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.net.lock();
        let line = state.lines.get_mut(&self.line).expect("it has this end");
        if line.reset {
            return Err(ErrorKind::ConnectionReset.into());
        }
        // The other end is closed, and that is known here.
        let gone = line.ways[1 - self.side].ended && !line.held[1 - self.side];
        let way = &mut line.ways[self.side];
        if gone || way.finished {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let n = bytes.len().min(way.free());
        if n == 0 && !bytes.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        way.flying += n;
        if state.send(self.line, self.side, Load::Bytes(bytes[..n].to_vec())) {
            self.net.0.sooner.notify_one();
        }
        Ok(n)
    }

    fn shutdown(&self, how: Shutdown) {
        if how != Shutdown::Write {
            self.with(|line| {
                line.ways[1 - self.side].deaf = true;
                line.ways[1 - self.side].wake();
            });
        }
        self.finish();
    }
}

impl AsyncRead for End {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.poll_readable(cx).is_pending() {
            return Poll::Pending;
        }
        let n = self.try_read(buf.initialize_unfilled())?;
        buf.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.poll_writable(cx).is_pending() {
            return Poll::Pending;
        }
        Self::ready(self.try_write(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.finish();
        let mut state = self.net.lock();
        let line = state.lines.get_mut(&self.line).expect("it has this end");
        line.held[self.side] = false;
        let way = &mut line.ways[1 - self.side];
        (way.deaf, way.arrived) = (true, VecDeque::new());
        way.wake();
        if line.held == [false; 2] {
            state.lines.remove(&self.line);
        }
    }
}

/// An end that takes a silent peer for gone. The node client's own check does that, but on the machine's clock.
pub(super) struct Watched {
    end: End,
    patience: Duration,
    ends: Pin<Box<Sleep>>,
}

impl Watched {
    pub(super) fn new(end: End, patience: Duration) -> Self {
        Self { end, patience, ends: Box::pin(tokio::time::sleep(patience)) }
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.end).poll_read(cx, buf);
        if read.is_ready() {
            let ends = Instant::now() + self.patience;
            self.ends.as_mut().reset(ends);
            return read;
        }
        self.ends.as_mut().poll(cx).map(|()| Err(ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.end).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.end).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.end).poll_shutdown(cx)
    }
}
