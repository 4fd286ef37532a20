//! Clients that are behind: what they are owed is encoded for each alone, piece by piece, as their socket takes it.
//!
//! Owns the order of the frames of an entry: by item, then by the order of subscribing. The live walk keeps the same
//! order, so a client may fall behind and catch up in the middle of an entry.

use std::rc::Rc;
use std::slice::from_ref;

use bytes::Bytes;
use tokio::time::Instant;

use super::backlog::Backlog;
use super::conn::{Conn, ConnKey, Place, Sub};
use super::shard::State;
use super::{Shard, Socket, StreamKey, SubId};
use crate::close::Reason;
use crate::journal::{Entry, Update};
use crate::planted::{self, Bug};

/// Bytes that are encoded ahead for a client that is behind.
const PIECE: usize = 64 * 1024;

/// Where the writing of an entry to a client broke off.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    /// The first frame that was not written whole.
    pub(super) place: Place,
    /// How many of its bytes were.
    pub(super) written: usize,
}

/// What is left to do for a client with an outbox.
enum Left {
    Nothing,
    More,
}

/// Drains an outbox until the client has caught up or is gone.
pub(super) async fn drain(shard: Rc<Shard>, key: ConnKey, socket: Rc<Socket>) {
    while socket.writable().await.is_ok() {
        match shard.drain_some(key) {
            Left::Nothing => return,
            Left::More => tokio::task::yield_now().await,
        }
    }
}

impl Shard {
    /// Writes a piece of what is owed.
    fn drain_some(self: &Rc<Self>, key: ConnKey) -> Left {
        let now = Instant::now();
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let Some(conn) = state.conns.get_mut(key.slot as usize).filter(|c| c.generation == key.generation) else {
            return Left::Nothing;
        };
        let Some(outbox) = &mut conn.outbox else { return Left::Nothing };
        let (there, taken) = outbox.flush(&conn.socket, now);
        self.count_bytes(taken);
        if !there {
            conn.lost(now);
            return Left::Nothing;
        }
        if !outbox.bytes.is_empty() {
            return Left::More;
        }
        if conn.closing.is_some() {
            conn.outbox = None;
            conn.socket.finish();
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
                let frames = refill(state, key, place, &entry, PIECE);
                self.count_delivered(&entry, frames);
                Left::More
            }
        }
    }

    /// An entry could not be written whole: what follows the cut is caught up later. The rest of a frame that was cut is
    /// taken up now, as the client is owed it even if it unsubscribes.
    pub(super) fn put_off(self: &Rc<Self>, state: &mut State, key: ConnKey, entry: &Entry, cut: Cut, now: Instant) {
        state.conns[key.slot as usize].outbox(now).place = Some(cut.place);
        if cut.written > 0 {
            refill(state, key, cut.place, entry, 1);
            let outbox = state.conns[key.slot as usize].outbox.as_mut().expect("it was just made");
            let gone = if planted::is(Bug::DropRestOfFrame) { outbox.bytes.len() } else { cut.written };
            outbox.bytes.advance(gone);
        }
        self.attend(state, key);
    }

    pub(super) fn count_delivered(&self, entry: &Entry, frames: u64) {
        let kind = match entry.update {
            Update::Head(_) => StreamKey::Heads.label(),
            Update::Logs(_) | Update::Undo(_) | Update::Gap => "logs",
        };
        self.metrics.deliveries.with_label_values(&[&*self.chain, kind]).inc_by(frames);
    }
}

/// Encodes frames of an entry, from `place` on, into an empty outbox until it holds `most` bytes. Returns how many.
fn refill(state: &mut State, key: ConnKey, place: Place, entry: &Entry, most: usize) -> u64 {
    let (mut bytes, mut frames) = (Backlog::default(), 0);
    let next = frames_of(state, &state.conns[key.slot as usize], entry, place, |id, result| {
        bytes.notification(id, result);
        frames += 1;
        bytes.len() < most
    });
    let outbox = state.conns[key.slot as usize].outbox.as_mut().expect("it is being filled");
    outbox.bytes = bytes;
    outbox.place = Some(next.unwrap_or(Place::start_of(entry.seq + 1)));
    frames
}

/// Calls `emit` for each frame of `entry` that `conn` is owed, from `from` on, until it returns false. Returns the place
/// after the last frame if it was stopped.
fn frames_of(
    state: &State,
    conn: &Conn,
    entry: &Entry,
    from: Place,
    mut emit: impl FnMut(&SubId, &[Bytes]) -> bool,
) -> Option<Place> {
    let mut at = |item: u32, sub: &Sub, result: &[Bytes]| {
        let place = Place { seq: entry.seq, item, n: sub.n };
        let stop = place >= from && !emit(&sub.id, result);
        stop.then_some(Place { n: sub.n + 1, ..place })
    };
    let key = |sub: &Sub| &state.streams.get(sub.seat.stream).key;
    match &entry.update {
        Update::Head(header) => {
            let heads = conn.subs.iter().filter(|sub| sub.since <= entry.seq && matches!(key(sub), StreamKey::Heads));
            heads.into_iter().find_map(|sub| at(0, sub, from_ref(&header.json)))
        }
        Update::Logs(logs) => (0u32..).zip(&logs.logs).skip(from.item as usize).find_map(|(item, log)| {
            let wants = |sub: &&Sub| matches!(key(sub), StreamKey::Logs(filter) if filter.matches(log));
            conn.subs
                .iter()
                .filter(|sub| sub.since <= entry.seq)
                .filter(wants)
                .find_map(|sub| at(item, sub, from_ref(&log.json)))
        }),
        Update::Undo(removed) => {
            let logs = removed
                .iter()
                .filter_map(|r| r.logs.as_ref())
                .flat_map(|(logs, published)| logs.logs.iter().rev().map(move |log| (log, *published)));
            (0u32..).zip(logs).skip(from.item as usize).find_map(|(item, (log, published))| {
                let wants = |sub: &&Sub| {
                    let was_told = sub.since <= published || planted::is(Bug::RemovedToStrangers);
                    was_told && matches!(key(sub), StreamKey::Logs(filter) if filter.matches(log))
                };
                let removed = std::cell::OnceCell::new();
                let mut subs = conn.subs.iter().filter(wants);
                subs.find_map(|sub| at(item, sub, removed.get_or_init(|| log.removed_parts())))
            })
        }
        Update::Gap => None,
    }
}
