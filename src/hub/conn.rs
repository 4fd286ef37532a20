//! One connection as its shard keeps it: its socket, its subscriptions, and what could not be written yet.
//!
//! An idle connection holds no buffer. Does not know what the bytes mean.

use std::io::IoSlice;
use std::rc::Rc;

use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::backlog::Backlog;
use super::socket::Socket;
use super::streams::Seat;
use crate::close::Reason;

/// A connection on its shard; a key of a closed connection never fits a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnKey {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

/// A place in the stream of a connection: the next frame is the first at or after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) seq: u64,
    pub(super) item: u32,
    pub(super) n: u32,
}

impl Place {
    pub(super) fn start_of(seq: u64) -> Self {
        Self { seq, item: 0, n: 0 }
    }
}

/// What waits for a socket to take bytes.
#[derive(Debug)]
pub(super) struct Outbox {
    /// Whole frames, the first perhaps without its beginning.
    pub(super) bytes: Backlog,
    /// What follows in the journal; `None` if nothing was missed.
    pub(super) place: Option<Place>,
    /// When the socket last took a byte.
    pub(super) progress: Instant,
    /// When it was made.
    pub(super) since: Instant,
    /// The task that empties it.
    pub(super) drain: Option<AbortHandle>,
    /// Told when less is held.
    pub(super) room: Rc<Notify>,
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.room.notify_waiters();
    }
}

/// A subscription of a connection. Kept in the order of `n`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sub {
    /// Number on this connection, in the order of subscribing.
    pub(super) n: u32,
    /// First entry that it is owed.
    pub(super) since: u64,
    pub(super) seat: Seat,
}

/// Ordinals that were given out on a connection and are free: they grow and are never given twice. What is remembered
/// is bounded, and nothing while no subscription has ended.
#[derive(Debug, Default)]
pub(super) struct Ordinals {
    /// Ordinals below were given to some stream.
    floor: u32,
    /// What follows the last one of a stream, by the stream's digest.
    next: Vec<(u64, u32)>,
}

/// Streams whose ordinals are remembered one by one.
const ORDINALS_KEPT: usize = 64;

impl Ordinals {
    /// The least ordinal for the stream with this digest that no subscription that has ended had.
    pub(super) fn next(&self, stream: u64) -> u32 {
        self.next.iter().find(|(s, _)| *s == stream).map_or(self.floor, |(_, next)| *next)
    }

    /// A subscription with this ordinal has ended.
    pub(super) fn ended(&mut self, stream: u64, ordinal: u32) {
        if let Some((_, next)) = self.next.iter_mut().find(|(s, _)| *s == stream) {
            *next = (*next).max(ordinal + 1);
            return;
        }
        if self.next.len() == ORDINALS_KEPT {
            self.floor = self.next.iter().map(|(_, next)| *next).max().expect("it is full");
            self.next.clear();
        }
        self.next.push((stream, self.floor.max(ordinal + 1)));
    }
}

/// Why a connection ends, and since when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Closing {
    pub(super) reason: Reason,
    pub(super) since: Instant,
}

#[derive(Debug)]
pub(super) struct Conn {
    pub(super) socket: Socket,
    pub(super) generation: u32,
    pub(super) subs: Vec<Sub>,
    pub(super) next_n: u32,
    pub(super) ordinals: Ordinals,
    /// Entries below were handed over, or are before its first subscription.
    pub(super) next_seq: u64,
    pub(super) outbox: Option<Box<Outbox>>,
    pub(super) closing: Option<Closing>,
    /// It negotiated compression.
    pub(super) compressed: bool,
    /// A ping was sent and nothing came since.
    pub(super) pinged: bool,
    pub(super) ping_slot: u16,
}

/// How much of some bytes a socket took.
pub(super) enum Written {
    All,
    Some(usize),
    Gone,
}

impl Conn {
    /// Writes to the socket at once, past any outbox: only where there is none.
    pub(super) fn write(&self, bytes: &[u8]) -> Written {
        debug_assert!(self.outbox.is_none(), "bytes would overtake the outbox");
        written(self.socket.write_now(bytes), bytes, &self.socket)
    }

    /// The outbox, made if there is none.
    pub(super) fn outbox(&mut self, now: Instant) -> &mut Outbox {
        self.outbox.get_or_insert_with(|| {
            let (bytes, room) = (Backlog::default(), Rc::default());
            Box::new(Outbox { bytes, place: None, progress: now, since: now, drain: None, room })
        })
    }

    /// The socket is gone: nothing more is written, and the reader sees the end.
    pub(super) fn lost(&mut self, now: Instant) {
        self.outbox = None;
        self.closing.get_or_insert(Closing { reason: Reason::PeerGone, since: now });
        self.socket.abort();
    }

    /// Whether the subscription with this number is still there.
    pub(super) fn has(&self, n: u32) -> bool {
        self.subs.iter().any(|sub| sub.n == n)
    }
}

fn written(result: std::io::Result<usize>, bytes: &[u8], socket: &Socket) -> Written {
    match result {
        Ok(n) if n == bytes.len() && !socket.has_unsent() => Written::All,
        Ok(n) => Written::Some(n),
        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => Written::Some(0),
        Err(_) => Written::Gone,
    }
}

/// Parts of an outbox that are written with one call.
const PARTS: usize = 16;

impl Outbox {
    /// Writes what is held. Returns whether the socket is still there, and how many bytes it took.
    pub(super) fn flush(&mut self, socket: &Socket, now: Instant) -> (bool, usize) {
        let mut taken = 0;
        loop {
            match socket.flush() {
                Ok(0) => {}
                Ok(_) => self.progress = now,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return (true, taken),
                Err(_) => return (false, taken),
            }
            if self.bytes.is_empty() {
                return (true, taken);
            }
            let mut parts = [IoSlice::new(&[]); PARTS];
            let parts = self.bytes.parts(&mut parts);
            match socket.try_write(parts) {
                Ok(n) => {
                    taken += n;
                    self.bytes.advance(n);
                    self.room.notify_waiters();
                    self.progress = now;
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return (true, taken),
                Err(_) => return (false, taken),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinals_grow_and_are_never_given_twice() {
        let mut ordinals = Ordinals::default();
        let mut given = std::collections::HashSet::new();
        for round in 0..5 {
            for stream in 0..100u64 {
                let ordinal = ordinals.next(stream);
                assert!(given.insert((stream, ordinal)), "round {round}: {stream} got {ordinal} twice");
                ordinals.ended(stream, ordinal);
            }
        }
        assert!(ordinals.next.len() <= ORDINALS_KEPT);
        let before = ordinals.next(1_000);
        ordinals.ended(1_000, before + 7);
        ordinals.ended(1_000, before);
        assert_eq!(ordinals.next(1_000), before + 8, "they end in any order");
    }
}
