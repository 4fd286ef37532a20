//! The sockets of a node under control: each can be cut, stalled, or given bytes the node never meant to send.
//!
//! Owns the [`Valve`] of each connection, the list of them, and the stream wrapper that obeys. Does not know JSON-RPC; of
//! WebSocket only how a server's frame is built and when one has ended.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How the answer to an accepted upgrade begins.
const SWITCHING: &[u8] = b"HTTP/1.1 101";
/// Extra frames that may wait on one connection; it is cut at the next.
const MAX_EXTRA: usize = 1_024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Open,
    Stalled,
    Cut,
}

#[derive(Debug)]
struct ValveState {
    flow: Flow,
    websocket: bool,
    read: Option<Waker>,
    write: Option<Waker>,
    /// Whole frames to be put on the wire between the node's own.
    extra: VecDeque<Vec<u8>>,
}

/// What controls one connection.
#[derive(Debug)]
pub(super) struct Valve(Mutex<ValveState>);

impl Valve {
    fn new(flow: Flow) -> Self {
        Self(Mutex::new(ValveState { flow, websocket: false, read: None, write: None, extra: VecDeque::new() }))
    }

    /// Ends the connection without a word; the socket is closed as soon as its task runs.
    pub(super) fn cut(&self) {
        self.change(|state| state.flow = Flow::Cut);
    }

    fn stall(&self, stalled: bool) {
        self.change(|state| match (state.flow, stalled) {
            (Flow::Open, true) => state.flow = Flow::Stalled,
            (Flow::Stalled, false) => state.flow = Flow::Open,
            _ => {}
        });
    }

    /// Changes something and has both directions look at it.
    fn change(&self, change: impl FnOnce(&mut ValveState)) {
        let mut state = self.lock();
        change(&mut state);
        let wakers = [state.read.take(), state.write.take()];
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, ValveState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The open connections of a node.
#[derive(Debug, Default)]
pub(super) struct Connections {
    open: Mutex<Open>,
    accepted: AtomicU64,
}

#[derive(Debug, Default)]
struct Open {
    valves: BTreeMap<u64, Arc<Valve>>,
    /// Whether new connections begin stalled, as those of a stopped process do.
    stalled: bool,
}

impl Connections {
    /// Takes a stream under control until it is dropped.
    pub(super) fn adopt<S>(self: &Arc<Self>, io: S) -> Wire<S> {
        let id = self.accepted.fetch_add(1, Ordering::Relaxed);
        let mut open = self.lock();
        let valve = Arc::new(Valve::new(if open.stalled { Flow::Stalled } else { Flow::Open }));
        open.valves.insert(id, Arc::clone(&valve));
        let entry = Entry { connections: Arc::clone(self), id };
        Wire {
            io: Some(io),
            valve,
            _entry: entry,
            started: false,
            upgrading: false,
            mid_frame: false,
            extra: Extra::default(),
        }
    }

    /// How many are open now.
    pub(super) fn count(&self) -> usize {
        self.lock().valves.len()
    }

    /// How many there have been.
    pub(super) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Cuts all; says how many.
    pub(super) fn cut_all(&self) -> usize {
        let valves = self.valves();
        for valve in &valves {
            valve.cut();
        }
        valves.len()
    }

    /// Stops or restarts the flow of all, and of those to come.
    pub(super) fn stall(&self, stalled: bool) {
        self.lock().stalled = stalled;
        for valve in self.valves() {
            valve.stall(stalled);
        }
    }

    /// Puts a frame on every open WebSocket; says on how many.
    pub(super) fn inject(&self, frame: &[u8]) -> usize {
        let mut valves = self.valves();
        valves.retain(|valve| {
            let state = valve.lock();
            state.websocket && state.flow != Flow::Cut
        });
        for valve in &valves {
            valve.change(|state| {
                state.extra.push_back(frame.to_vec());
                if state.extra.len() > MAX_EXTRA {
                    state.flow = Flow::Cut;
                }
            });
        }
        valves.len()
    }

    fn valves(&self) -> Vec<Arc<Valve>> {
        self.lock().valves.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the list of open connections, given back on drop.
#[derive(Debug)]
struct Entry {
    connections: Arc<Connections>,
    id: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.connections.lock().valves.remove(&self.id);
    }
}

/// An extra frame that is partly written.
#[derive(Debug, Default)]
struct Extra {
    frame: Vec<u8>,
    written: usize,
}

/// A stream that obeys its valve.
#[derive(Debug)]
pub(super) struct Wire<S> {
    /// Gone once the valve was cut, so that the peer sees the end at once.
    io: Option<S>,
    valve: Arc<Valve>,
    _entry: Entry,
    /// Whether the node has written anything yet.
    started: bool,
    /// An upgrade's answer is being written.
    upgrading: bool,
    /// The node has written since its last flush. It flushes after every whole frame.
    mid_frame: bool,
    extra: Extra,
}

impl<S: AsyncWrite + Unpin> Wire<S> {
    pub(super) fn valve(&self) -> Arc<Valve> {
        Arc::clone(&self.valve)
    }

    /// Passes when the valve is open; remembers whom to wake in any case.
    fn poll_open(&mut self, cx: &Context<'_>, writing: bool) -> Poll<io::Result<&mut S>> {
        let mut state = self.valve.lock();
        let slot = if writing { &mut state.write } else { &mut state.read };
        if !slot.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *slot = Some(cx.waker().clone());
        }
        match state.flow {
            Flow::Stalled => return Poll::Pending,
            Flow::Cut => self.io = None,
            Flow::Open => {}
        }
        drop(state);
        Poll::Ready(self.io.as_mut().ok_or_else(|| io::ErrorKind::ConnectionReset.into()))
    }

    /// Writes extra frames where no frame of the node's own is under way.
    fn poll_extra(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.mid_frame {
            if self.extra.written == self.extra.frame.len() {
                let Some(frame) = self.valve.lock().extra.pop_front() else { break };
                self.extra = Extra { frame, written: 0 };
            }
            let Some(io) = self.io.as_mut() else { break };
            let rest = &self.extra.frame[self.extra.written..];
            self.extra.written += ready!(Pin::new(io).poll_write(cx, rest))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_open(cx, false))?;
        // The reader is the one that is always waiting, so it also writes extra frames when the node has nothing to say. A
        // full socket has one place for a waker, which the reader may have taken from the writer: hand it on.
        if self.poll_extra(cx)?.is_ready() && self.extra.written > 0 {
            self.extra = Extra::default();
            let writer = self.valve.lock().write.take();
            writer.into_iter().for_each(Waker::wake);
        }
        let io = ready!(self.poll_open(cx, false))?;
        Pin::new(io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(cx, true))?;
        if self.extra.written < self.extra.frame.len() {
            ready!(self.poll_extra(cx))?;
        }
        let io = ready!(self.poll_open(cx, true))?;
        let written = ready!(Pin::new(io).poll_write(cx, buf))?;
        self.upgrading |= !self.started && buf.starts_with(SWITCHING);
        self.started = true;
        self.mid_frame |= written > 0;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let io = ready!(self.poll_open(cx, true))?;
        ready!(Pin::new(io).poll_flush(cx))?;
        self.mid_frame = false;
        if std::mem::take(&mut self.upgrading) {
            self.valve.lock().websocket = true;
        }
        self.poll_extra(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let io = ready!(self.poll_open(cx, true))?;
        Pin::new(io).poll_shutdown(cx)
    }
}

/// A server's unfragmented WebSocket frame (RFC 6455, section 5.2): opcode 1 text, 2 binary, 8 close, 9 ping.
pub(super) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | (opcode & 0x0f)];
    match payload.len() {
        short @ 0..=125 => frame.push(short.to_le_bytes()[0]),
        medium @ 126..=0xffff => {
            frame.push(126);
            frame.extend(&(medium as u64).to_be_bytes()[6..]);
        }
        long => {
            frame.push(127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend(payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn frames_state_their_length_in_the_shortest_form() {
        assert_eq!(frame(1, b"hi"), [0x81, 2, b'h', b'i']);
        assert_eq!(frame(2, &[0; 126])[..4], [0x82, 126, 0, 126]);
        assert_eq!(frame(1, &vec![0; 65_536])[..10], [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[tokio::test]
    async fn a_stalled_wire_moves_nothing_and_loses_nothing() {
        let connections = Arc::new(Connections::default());
        let (mut peer, inner) = tokio::io::duplex(64);
        let mut wire = connections.adopt(inner);
        connections.stall(true);
        peer.write_all(b"ping").await.expect("room");
        let mut buf = [0; 4];
        let read = wire.read_exact(&mut buf);
        tokio::pin!(read);
        assert!(futures_util::poll!(read.as_mut()).is_pending());
        connections.stall(false);
        read.await.expect("resumed");
        assert_eq!(&buf, b"ping");
    }

    #[tokio::test]
    async fn a_cut_wire_is_closed_and_no_longer_counted() {
        let connections = Arc::new(Connections::default());
        let (mut peer, inner) = tokio::io::duplex(64);
        let mut wire = connections.adopt(inner);
        assert_eq!(connections.cut_all(), 1);
        assert!(wire.write_all(b"x").await.is_err());
        assert_eq!(peer.read(&mut [0; 1]).await.expect("an end"), 0);
        assert_eq!(connections.count(), 1);
        drop(wire);
        assert_eq!((connections.count(), connections.accepted()), (0, 1));
    }

    #[tokio::test]
    async fn extra_frames_fall_between_the_nodes_own() {
        let connections = Arc::new(Connections::default());
        let (mut peer, inner) = tokio::io::duplex(1_024);
        let mut wire = connections.adopt(inner);
        assert_eq!(connections.inject(b"early"), 0, "not a WebSocket yet");
        wire.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").await.expect("room");
        wire.flush().await.expect("room");
        wire.write_all(b"own-").await.expect("room");
        assert_eq!(connections.inject(b"[extra]"), 1);
        wire.write_all(b"frame").await.expect("room");
        wire.flush().await.expect("room");
        drop(wire);
        let mut text = String::new();
        peer.read_to_string(&mut text).await.expect("text");
        assert!(text.ends_with("\r\n\r\nown-frame[extra]"), "{text}");
    }
}
