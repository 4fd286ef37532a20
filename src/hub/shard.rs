//! A shard: the connections of one thread on one chain, and all that is done to them.
//!
//! Every method here is one synchronous step on the shard's own thread; none waits. The tasks that wait for sockets and
//! for the journal call them. Owns the connections' outgoing bytes.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::BytesMut;
use tokio::sync::broadcast;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::compressor::Compressor;
use super::conn::{Closing, Conn, ConnKey, Ordinals, Sub, Written};
use super::lag::Lag;
use super::meters::Meters;
use super::streams::{Member, Streams, SubId};
use super::{Options, Socket, StreamKey, broadcast as walk, feeds as best_effort, frame, timers};
use crate::chain::FeedEvent;
use crate::close::Reason;
use crate::journal::{Journal, Tail, Trimmed};
use crate::metrics::Metrics;
use crate::planted::{self, Bug};

/// Called with a feed's key when its first or last listener on the shard comes or goes.
pub type FeedListeners = Box<dyn Fn(&crate::chain::Feed, bool)>;

/// What a shard is connected to.
pub struct Links {
    /// Name of the chain, for labels and subscription ids.
    pub chain: Arc<str>,
    /// The chain's updates.
    pub journal: Journal,
    /// Best-effort events.
    pub feeds: broadcast::Receiver<FeedEvent>,
    /// Told when a feed gets its first listener here (true) and when it loses its last (false).
    pub feed_listeners: FeedListeners,
    /// Metrics.
    pub metrics: Metrics,
}

/// A shard. Lives on one thread; the clones of the `Rc` are its handles.
pub struct Shard {
    pub(super) chain: Arc<str>,
    pub(super) journal: Journal,
    pub(super) options: Options,
    pub(super) metrics: Metrics,
    pub(super) meters: Meters,
    pub(super) state: RefCell<State>,
    feed_listeners: FeedListeners,
    hasher: RandomState,
}

pub(super) struct State {
    pub(super) conns: slab::Slab<Conn>,
    /// How many of them negotiated compression.
    pub(super) compressed: usize,
    generation: u32,
    pub(super) streams: Streams,
    /// How many subscriptions have ended.
    pub(super) left: u64,
    /// Number of the last entry that was taken up.
    pub(super) seq: u64,
    pub(super) lag: Lag,
    /// Connections with an outbox or a close under way.
    pub(super) attention: BTreeSet<ConnKey>,
    pub(super) wheel: timers::Wheel,
    /// Bytes held and clients they are held for, as last added to the metrics.
    pub(super) shown: (i64, i64),
}

impl State {
    pub(super) fn conn(&mut self, key: ConnKey) -> Option<&mut Conn> {
        conn_of(&mut self.conns, key)
    }
}

impl Shard {
    /// A shard with no connection, and the readers for [`Shard::run`]. It is owed every entry after this moment.
    #[must_use]
    pub fn new(links: Links, options: Options) -> (Rc<Self>, Tail, broadcast::Receiver<FeedEvent>) {
        let tail = links.journal.tail();
        let state = State {
            conns: slab::Slab::new(),
            compressed: 0,
            generation: 0,
            streams: Streams::new(),
            left: 0,
            seq: tail.position(),
            lag: Lag::new(options.lag_max_blocks),
            attention: BTreeSet::new(),
            wheel: timers::Wheel::new(&options),
            shown: (0, 0),
        };
        let shard = Self {
            meters: Meters::new(&links.metrics, &links.chain),
            chain: links.chain,
            journal: links.journal,
            options,
            metrics: links.metrics,
            state: RefCell::new(state),
            feed_listeners: links.feed_listeners,
            hasher: RandomState::new(),
        };
        (Rc::new(shard), tail, links.feeds)
    }

    /// Follows the journal, the feeds and the clock until stopped. Must run in the shard's `LocalSet`.
    pub async fn run(
        self: Rc<Self>,
        mut tail: Tail,
        mut feeds: broadcast::Receiver<FeedEvent>,
        stop: CancellationToken,
    ) {
        let mut compressor = Compressor::default();
        let mut seconds = tokio::time::interval(std::time::Duration::from_secs(1));
        seconds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                entry = tail.next() => match entry {
                    Ok(Some(entry)) => walk::deliver(&self, &entry, &mut compressor).await,
                    Ok(None) => return,
                    Err(Trimmed { .. }) => {
                        tail.skip_to_end();
                        if planted::is(Bug::ContinueAfterLag) {
                            continue;
                        }
                        self.fall_behind(tail.position());
                    }
                },
                event = feeds.recv() => match event {
                    Ok(event) => best_effort::pass(&self, &event).await,
                    Err(broadcast::error::RecvError::Lagged(n)) => self.count_dropped("shard_lag", n),
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                _ = seconds.tick() => timers::tick(&self, Instant::now()),
            }
        }
    }

    /// The journal lost entries before this shard could read them: whoever was owed them is told by a close.
    fn fall_behind(self: &Rc<Self>, position: u64) {
        tracing::error!(chain = %self.chain, "a shard fell behind the journal");
        self.close_subscribers();
        self.state.borrow_mut().seq = position;
    }

    pub(super) fn count_dropped(&self, cause: &str, n: u64) {
        self.metrics.feed_dropped.with_label_values(&[&*self.chain, cause]).inc_by(n);
    }

    /// Number of connections.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state.borrow().conns.len()
    }

    /// Whether there is no connection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes a connection over; from now on only the shard writes to its socket. `compressed` is whether
    /// permessage-deflate was negotiated on it.
    pub fn attach(&self, socket: Socket, compressed: bool) -> ConnKey {
        let mut state = self.state.borrow_mut();
        state.generation = state.generation.wrapping_add(1);
        let generation = state.generation;
        let slot = u32::try_from(state.conns.vacant_key()).expect("connections are bounded");
        let key = ConnKey { slot, generation };
        let ping_slot = state.wheel.add(key);
        state.conns.insert(Conn {
            socket,
            generation,
            subs: Vec::new(),
            next_n: 0,
            ordinals: Ordinals::default(),
            next_seq: 0,
            outbox: None,
            closing: None,
            compressed,
            pinged: false,
            ping_slot,
        });
        state.compressed += usize::from(compressed);
        self.meters.compressed.add(i64::from(compressed));
        self.meters.clients.inc();
        key
    }

    /// Forgets a connection whose reader has ended. `why` counts unless the shard ended it itself.
    pub fn detach(&self, key: ConnKey, why: Reason) {
        let subs = match self.state.borrow_mut().conn(key) {
            Some(conn) => std::mem::take(&mut conn.subs),
            None => return,
        };
        subs.iter().for_each(|sub| self.leave(sub));
        let mut state = self.state.borrow_mut();
        let conn = state.conns.remove(key.slot as usize);
        conn.socket.abort();
        if let Some(drain) = conn.outbox.as_ref().and_then(|outbox| outbox.drain.as_ref()) {
            drain.abort();
        }
        state.wheel.remove(key, conn.ping_slot);
        state.compressed -= usize::from(conn.compressed);
        self.meters.compressed.sub(i64::from(conn.compressed));
        state.attention.remove(&key);
        // The slots at the end, once a crowd has gone; not at each one that goes, as those at the end may stay.
        let (slots, left) = (state.conns.capacity(), state.conns.len());
        if slots > 64.max(8 * left) && (left == 0 || left.is_power_of_two()) {
            state.conns.shrink_to_fit();
        }
        let reason = conn.closing.map_or(why, |closing| closing.reason);
        self.metrics.closes.with_label_values(&[&*self.chain, reason.label()]).inc();
        self.meters.clients.dec();
    }

    /// Adds a subscription. The caller writes the answer in the same step, so that nothing comes before it.
    pub fn subscribe(&self, key: ConnKey, stream: StreamKey) -> Option<SubId> {
        let mut state = self.state.borrow_mut();
        state.conn(key)?;
        let bytes = stream.canonical_bytes();
        let (kind, feed) =
            (stream.label(), if let StreamKey::Feed(feed) = &stream { Some(feed.clone()) } else { None });
        let before = state.streams.len();
        let number = state.streams.open(stream);
        let is_new = state.streams.len() > before;
        let since = state.seq + 1;
        let digest = self.hasher.hash_one(&bytes);
        let conn = state.conn(key)?;
        let held = conn.subs.iter().filter(|sub| sub.seat.stream == number).map(|sub| sub.seat.ordinal + 1).max();
        let ordinal = conn.ordinals.next(digest).max(held.unwrap_or(0));
        let (n, compressed) = (conn.next_n, conn.compressed);
        conn.next_n += 1;
        if conn.subs.is_empty() {
            conn.next_seq = conn.next_seq.max(since);
            // Most connections have just one.
            conn.subs.reserve_exact(1);
        }
        let id = || SubId::new(&self.options.id_secret, &self.chain, &bytes, ordinal);
        let (seat, id) = state.streams.join(number, ordinal, Member { conn: key, n, compressed, since }, id);
        state.conn(key)?.subs.push(Sub { n, since, seat });
        self.meters.streams.add(i64::from(is_new));
        drop(state);
        self.meters.kind(kind).0.inc();
        if let Some(feed) = feed.filter(|_| is_new) {
            (self.feed_listeners)(&feed, true);
        }
        Some(id)
    }

    /// Ends a subscription of this connection. Returns whether there was one.
    pub fn unsubscribe(&self, key: ConnKey, id: &str) -> bool {
        if planted::is(Bug::KeepUnsubscribed) {
            return true;
        }
        let sub = {
            let mut state = self.state.borrow_mut();
            let State { conns, streams, .. } = &mut *state;
            let Some(conn) = conn_of(conns, key) else { return false };
            let is_it = |sub: &Sub| streams.id(sub.seat).text().as_str() == id;
            let Some(at) = conn.subs.iter().position(is_it) else { return false };
            let sub = conn.subs.remove(at);
            let bytes = streams.get(sub.seat.stream).key.canonical_bytes();
            conn.ordinals.ended(self.hasher.hash_one(&bytes), sub.seat.ordinal);
            sub
        };
        self.leave(&sub);
        true
    }

    /// Number of subscriptions of a connection.
    #[must_use]
    pub fn subscriptions(&self, key: ConnKey) -> usize {
        self.state.borrow_mut().conn(key).map_or(0, |conn| conn.subs.len())
    }

    /// Takes a subscription out of its stream.
    fn leave(&self, sub: &Sub) {
        let mut state = self.state.borrow_mut();
        let stream = state.streams.get(sub.seat.stream);
        let (key, before) = (stream.key.clone(), state.streams.len());
        state.left += 1;
        if let Some(moved) = state.streams.leave(sub.seat) {
            let conn = state.conn(moved.conn).expect("a member has a connection");
            let moved = conn.subs.iter_mut().find(|s| s.n == moved.n).expect("a member is a subscription");
            moved.seat.at = sub.seat.at;
        }
        let ended = state.streams.len() < before;
        drop(state);
        self.meters.kind(key.label()).0.dec();
        self.meters.streams.sub(i64::from(ended));
        if let StreamKey::Feed(feed) = &key
            && ended
        {
            (self.feed_listeners)(feed, false);
        }
    }

    /// Sends an answer.
    pub fn send(self: &Rc<Self>, key: ConnKey, text: &[u8]) {
        let mut frame = BytesMut::with_capacity(text.len() + 10);
        frame::text(&mut frame, text);
        self.put(key, &frame);
    }

    /// Sends a pong.
    pub fn pong(self: &Rc<Self>, key: ConnKey, payload: &[u8]) {
        let mut frame = BytesMut::with_capacity(payload.len() + 2);
        frame::pong(&mut frame, payload);
        self.put(key, &frame);
    }

    /// Something came from the client: it is alive.
    pub fn heard(&self, key: ConnKey) {
        if let Some(conn) = self.state.borrow_mut().conn(key) {
            conn.pinged = false;
        }
    }

    /// Bytes held for a client alone whose socket is full.
    #[must_use]
    pub fn held(&self, key: ConnKey) -> usize {
        self.state.borrow_mut().conn(key).and_then(|conn| conn.outbox.as_ref()).map_or(0, |outbox| outbox.bytes.own())
    }

    /// Waits until no more than `most` bytes are held for the client, or it is gone.
    pub async fn drained(&self, key: ConnKey, most: usize) {
        loop {
            let room = match self.state.borrow_mut().conn(key) {
                Some(Conn { closing: None, outbox: Some(outbox), .. }) if outbox.bytes.own() > most => {
                    outbox.room.clone()
                }
                _ => return,
            };
            room.notified().await;
        }
    }

    /// Reads what the client has sent, once there is something; nothing at its end. Only one task of a connection reads.
    pub async fn read(&self, key: ConnKey) -> io::Result<Vec<u8>> {
        poll_fn(|cx| match self.state.borrow_mut().conn(key) {
            Some(conn) => conn.socket.poll_read(cx),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        })
        .await
    }

    /// Whether the connection is being closed, so that nothing more is read from it.
    #[must_use]
    pub fn is_closing(&self, key: ConnKey) -> bool {
        self.state.borrow_mut().conn(key).is_none_or(|conn| conn.closing.is_some())
    }

    /// Whether permessage-deflate was negotiated on the connection.
    #[must_use]
    pub fn is_compressed(&self, key: ConnKey) -> bool {
        self.state.borrow_mut().conn(key).is_some_and(|conn| conn.compressed)
    }

    /// Writes a frame of this client alone, behind what is held for it.
    pub(super) fn put(self: &Rc<Self>, key: ConnKey, bytes: &[u8]) {
        let mut state = self.state.borrow_mut();
        let Some(conn) = state.conn(key).filter(|conn| conn.closing.is_none()) else { return };
        if conn.outbox.is_none() {
            match conn.write(bytes) {
                Written::All => return self.count_bytes(bytes.len()),
                Written::Gone => return conn.lost(Instant::now()),
                Written::Some(n) => {
                    self.count_bytes(n);
                    conn.outbox(Instant::now()).bytes.copy(&bytes[n..]);
                    return self.attend(&mut state, key);
                }
            }
        }
        let outbox = conn.outbox.as_mut().expect("it was there a moment ago");
        // One answer alone is bounded where it is made.
        let held = outbox.bytes.own();
        if held > 0 && held + bytes.len() > self.options.outbox_max_bytes {
            drop(state);
            return self.close(key, Reason::OutboxFull);
        }
        outbox.bytes.copy(bytes);
    }

    pub(super) fn count_bytes(&self, n: usize) {
        self.meters.bytes_out.inc_by(n as u64);
    }

    /// Ends a connection with a reason of ours. What is held for it is still offered to its socket for a while.
    pub fn close(self: &Rc<Self>, key: ConnKey, reason: Reason) {
        self.close_with(key, reason, None);
    }

    /// Answers the client's own close frame.
    pub fn echo_close(self: &Rc<Self>, key: ConnKey, code: Option<u16>) {
        self.close_with(key, Reason::ClientClosed, code);
    }

    fn close_with(self: &Rc<Self>, key: ConnKey, reason: Reason, echo: Option<u16>) {
        let mut state = self.state.borrow_mut();
        let Some(conn) = state.conn(key).filter(|conn| conn.closing.is_none()) else { return };
        let now = Instant::now();
        let mut bytes = BytesMut::new();
        frame::close(&mut bytes, reason, echo);
        conn.closing = Some(Closing { reason, since: now });
        let subs = std::mem::take(&mut conn.subs);
        match &mut conn.outbox {
            Some(outbox) => {
                outbox.place = None;
                outbox.bytes.copy(&bytes);
                outbox.room.notify_waiters();
            }
            None => match conn.write(&bytes) {
                Written::All => {
                    conn.socket.finish();
                    if conn.socket.has_unsent() {
                        conn.outbox(now);
                        self.attend(&mut state, key);
                    }
                }
                Written::Some(n) => {
                    conn.outbox(now).bytes.copy(&bytes[n..]);
                    self.attend(&mut state, key);
                }
                Written::Gone => conn.lost(now),
            },
        }
        state.attention.insert(key);
        drop(state);
        subs.iter().for_each(|sub| self.leave(sub));
    }

    /// Ends every connection that is owed chain events: the stream has a gap.
    pub(super) fn close_subscribers(self: &Rc<Self>) {
        let keys: Vec<ConnKey> = {
            let state = self.state.borrow();
            let owed = |conn: &Conn| {
                conn.subs.iter().any(|sub| !matches!(state.streams.get(sub.seat.stream).key, StreamKey::Feed(_)))
            };
            state.conns.iter().filter(|(_, conn)| owed(conn)).map(|(slot, conn)| key_of(slot, conn)).collect()
        };
        keys.into_iter().for_each(|key| self.close(key, Reason::Gap));
    }

    /// Ends every connection.
    pub fn close_all(self: &Rc<Self>, reason: Reason) {
        let keys: Vec<ConnKey> = self.state.borrow().conns.iter().map(|(slot, conn)| key_of(slot, conn)).collect();
        keys.into_iter().for_each(|key| self.close(key, reason));
    }
}

/// The connection with this key, if it is still there: where more of the state is borrowed than the connections.
pub(super) fn conn_of(conns: &mut slab::Slab<Conn>, key: ConnKey) -> Option<&mut Conn> {
    conns.get_mut(key.slot as usize).filter(|conn| conn.generation == key.generation)
}

pub(super) fn key_of(slot: usize, conn: &Conn) -> ConnKey {
    ConnKey { slot: u32::try_from(slot).expect("connections are bounded"), generation: conn.generation }
}
