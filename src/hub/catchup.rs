//! Clients that are behind: what they are owed is encoded for each alone, piece by piece, as their socket takes it.
//!
//! Owns the order of the frames of an entry: by item, then by the order of subscribing. The live walk keeps the same
//! order, so a client may fall behind and catch up in the middle of an entry.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::time::Instant;

use super::backlog::Backlog;
use super::conn::{Conn, ConnKey, Place};
use super::items::Items;
use super::shard::{State, conn_of};
use super::{Shard, SubId};
use crate::close::Reason;
use crate::planted::{self, Bug};

/// Bytes that are encoded ahead for a client that is behind.
const PIECE: usize = 64 * 1024;

/// What is left to do for a client with an outbox.
enum Left {
    Nothing,
    More,
}

/// Drains an outbox until the client has caught up or is gone.
async fn drain(shard: Rc<Shard>, key: ConnKey) {
    while poll_fn(|cx| shard.poll_writable(key, cx)).await {
        match shard.drain_some(key) {
            Left::Nothing => return,
            Left::More => tokio::task::yield_now().await,
        }
    }
}

impl Shard {
    /// A connection got an outbox: the clock watches it, and a task drains it.
    pub(super) fn attend(self: &Rc<Self>, state: &mut State, key: ConnKey) {
        state.attention.insert(key);
        let outbox = state.conns[key.slot as usize].outbox.as_mut().expect("it was just made");
        outbox.drain = Some(tokio::task::spawn_local(drain(self.clone(), key)).abort_handle());
    }

    /// Whether the socket takes bytes; false if the connection is gone.
    fn poll_writable(&self, key: ConnKey, cx: &mut Context<'_>) -> Poll<bool> {
        match self.state.borrow_mut().conn(key) {
            Some(conn) => conn.socket.poll_writable(cx).map(|ready| ready.is_ok()),
            None => Poll::Ready(false),
        }
    }

    /// Writes a piece of what is owed.
    fn drain_some(self: &Rc<Self>, key: ConnKey) -> Left {
        let now = Instant::now();
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let Some(conn) = conn_of(&mut state.conns, key) else { return Left::Nothing };
        let Some(outbox) = &mut conn.outbox else { return Left::Nothing };
        let (there, taken) = outbox.flush(&conn.socket, now);
        self.count_bytes(taken);
        if !there {
            conn.lost(now);
            return Left::Nothing;
        }
        if !outbox.bytes.is_empty() || conn.socket.has_unsent() {
            return Left::More;
        }
        if conn.closing.is_some() {
            conn.socket.finish();
            if conn.socket.has_unsent() {
                return Left::More;
            }
            conn.outbox = None;
            return Left::Nothing;
        }
        match outbox.place {
            None => {
                conn.outbox = None;
                Left::Nothing
            }
            Some(place) if place.seq > state.seq => {
                conn.outbox = None;
                conn.next_seq = place.seq + u64::from(planted::is(Bug::LoseCaughtUp));
                Left::Nothing
            }
            Some(place) => {
                let Ok(Some(entry)) = self.journal.get(place.seq) else {
                    drop(guard);
                    self.close(key, Reason::SlowConsumer);
                    return Left::More;
                };
                let items = Items::of(&entry);
                let frames = refill(state, key, place, &items);
                self.count_delivered(&items, frames);
                Left::More
            }
        }
    }

    pub(super) fn count_delivered(&self, items: &Items<'_>, frames: u64) {
        self.meters.kind(items.label()).1.inc_by(frames);
    }
}

/// Encodes items of an entry, from `place` on, into an empty outbox until it holds a piece. Returns how many frames.
fn refill(state: &mut State, key: ConnKey, place: Place, items: &Items<'_>) -> u64 {
    let (mut bytes, mut frames) = (Backlog::default(), 0);
    let next = frames_of(state, &state.conns[key.slot as usize], items, place, |id, result| {
        bytes.notification(&id.text(), result);
        frames += 1;
        bytes.len() < PIECE
    });
    let outbox = state.conns[key.slot as usize].outbox.as_mut().expect("it is being filled");
    outbox.bytes = bytes;
    outbox.place = Some(next.unwrap_or(Place::start_of(place.seq + 1)));
    frames
}

/// Calls `emit` for each frame that `conn` is owed, from `from` on, until it returns false. Returns the place after the
/// last frame if it was stopped.
fn frames_of(
    state: &State,
    conn: &Conn,
    items: &Items<'_>,
    from: Place,
    mut emit: impl FnMut(SubId, &[Bytes]) -> bool,
) -> Option<Place> {
    for item in from.item..items.len() {
        let owed_since = items.owed_since(item);
        for sub in conn.subs.iter().filter(|sub| sub.since <= owed_since) {
            let place = Place { item, n: sub.n, ..from };
            let key = &state.streams.get(sub.seat.stream).key;
            if place >= from && items.is_for(key, item) && !emit(state.streams.id(sub.seat), items.result(item)) {
                return Some(Place { n: sub.n + 1, ..place });
            }
        }
    }
    None
}
