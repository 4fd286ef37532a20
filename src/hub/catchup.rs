//! Clients that are behind: what they are owed is encoded for each alone, piece by piece, as their socket takes it.
//!
//! Owns the order of the frames of an entry: by item, then by the order of subscribing. The live walk keeps the same
//! order, so a client may fall behind and catch up in the middle of an entry.

use std::rc::Rc;

use bytes::BytesMut;
use tokio::time::Instant;

use super::conn::{Conn, ConnKey, Place, Sub};
use super::shard::State;
use super::{Shard, Socket, StreamKey, frame};
use crate::close::Reason;
use crate::journal::{Entry, Update};
use crate::planted::{self, Bug};

/// Bytes that are encoded ahead for a client that is behind.
const PIECE: usize = 64 * 1024;

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
                self.refill(state, key, place, &entry);
                Left::More
            }
        }
    }

    /// Encodes the next piece of an entry into an empty outbox.
    fn refill(&self, state: &mut State, key: ConnKey, place: Place, entry: &Entry) {
        let conn = &state.conns[key.slot as usize];
        let mut bytes = BytesMut::new();
        let mut frames = 0;
        let next = frames_of(state, conn, entry, place, |id, json| {
            frame::notification(&mut bytes, id, json);
            frames += 1;
            bytes.len() < PIECE
        });
        self.count_delivered(entry, frames);
        let outbox = state.conns[key.slot as usize].outbox.as_mut().expect("it is being drained");
        outbox.bytes = bytes;
        outbox.place = Some(next.unwrap_or(Place::start_of(entry.seq + 1)));
    }

    pub(super) fn count_delivered(&self, entry: &Entry, frames: u64) {
        let kind = match entry.update {
            Update::Head(_) => StreamKey::Heads.label(),
            Update::Logs(_) | Update::Undo(_) | Update::Gap => "logs",
        };
        self.metrics.deliveries.with_label_values(&[&*self.chain, kind]).inc_by(frames);
    }
}

/// All frames of an entry for one connection.
pub(super) fn encode_for(state: &State, conn: &Conn, entry: &Entry) -> (BytesMut, u64) {
    let (mut bytes, mut frames) = (BytesMut::new(), 0);
    let whole = frames_of(state, conn, entry, Place::start_of(entry.seq), |id, json| {
        frame::notification(&mut bytes, id, json);
        frames += 1;
        true
    });
    debug_assert!(whole.is_none(), "nothing stops it");
    (bytes, frames)
}

/// Calls `emit` for each frame of `entry` that `conn` is owed, from `from` on, until it returns false. Returns the place
/// after the last frame if it was stopped.
fn frames_of(
    state: &State,
    conn: &Conn,
    entry: &Entry,
    from: Place,
    mut emit: impl FnMut(&super::SubId, &[u8]) -> bool,
) -> Option<Place> {
    let mut at = |item: u32, sub: &Sub, json: &[u8]| {
        let place = Place { seq: entry.seq, item, n: sub.n };
        let stop = place >= from && !emit(&sub.id, json);
        stop.then_some(Place { n: sub.n + 1, ..place })
    };
    let key = |sub: &Sub| &state.streams.get(sub.seat.stream).key;
    match &entry.update {
        Update::Head(header) => {
            let heads = conn.subs.iter().filter(|sub| sub.since <= entry.seq && matches!(key(sub), StreamKey::Heads));
            heads.into_iter().find_map(|sub| at(0, sub, &header.json))
        }
        Update::Logs(logs) => (0u32..).zip(&logs.logs).skip(from.item as usize).find_map(|(item, log)| {
            let wants = |sub: &&Sub| matches!(key(sub), StreamKey::Logs(filter) if filter.matches(log));
            conn.subs.iter().filter(|sub| sub.since <= entry.seq).filter(wants).find_map(|sub| at(item, sub, &log.json))
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
                let json = std::cell::OnceCell::new();
                conn.subs
                    .iter()
                    .filter(wants)
                    .find_map(|sub| at(item, sub, json.get_or_init(|| log.removed_json()).as_bytes()))
            })
        }
        Update::Gap => None,
    }
}
