//! What a shard does each second: pings on a wheel, and the bounds in time on full sockets and half-closed ones.
//!
//! Owns no connection. A ping and the check for its pong cost one pass over a slot of the wheel, not a timer each.

use std::rc::Rc;

use tokio::time::Instant;

use super::conn::{Conn, ConnKey};
use super::lag::Lag;
use super::shard::{State, conn_of};
use super::{Options, Shard, frame};
use crate::close::Reason;

/// How long a client may take to empty its outbox once, however it trickles.
const OUTBOX_MAX: std::time::Duration = std::time::Duration::from_secs(60);

/// Connections by the second in which they are pinged.
pub(super) struct Wheel {
    slots: Vec<Vec<ConnKey>>,
    now: usize,
    next: usize,
    pong_after: usize,
}

impl Wheel {
    pub(super) fn new(options: &Options) -> Self {
        let seconds =
            |span: std::time::Duration| usize::try_from(span.as_secs().clamp(1, 3600)).expect("at most an hour");
        let slots = seconds(options.ping_interval) + 1;
        Self {
            slots: vec![Vec::new(); slots],
            now: 0,
            next: 0,
            pong_after: seconds(options.pong_timeout).min(slots - 1),
        }
    }

    /// Gives a connection a slot.
    pub(super) fn add(&mut self, key: ConnKey) -> u16 {
        self.next = (self.next + 1) % self.slots.len();
        self.slots[self.next].push(key);
        u16::try_from(self.next).expect("the wheel has at most an hour of slots")
    }

    pub(super) fn remove(&mut self, key: ConnKey, slot: u16) {
        let slot = &mut self.slots[usize::from(slot)];
        if let Some(at) = slot.iter().position(|k| *k == key) {
            slot.swap_remove(at);
        }
    }

    /// Turns by a second: whom to ping now, and whose pong is due.
    fn turn(&mut self) -> (Vec<ConnKey>, Vec<ConnKey>) {
        self.now = (self.now + 1) % self.slots.len();
        let due = (self.now + self.slots.len() - self.pong_after) % self.slots.len();
        (self.slots[self.now].clone(), self.slots[due].clone())
    }
}

/// One second has passed.
pub(super) fn tick(shard: &Rc<Shard>, now: Instant) {
    let (ping, due) = shard.state.borrow_mut().wheel.turn();
    for key in due {
        let silent = shard.state.borrow_mut().conn(key).is_some_and(|conn| conn.pinged && conn.closing.is_none());
        if silent {
            shard.close(key, Reason::PongTimeout);
        }
    }
    let bytes = frame::ping();
    for key in ping {
        // A client whose socket is full is watched by the bounds below; a ping would only grow its outbox.
        let free =
            shard.state.borrow_mut().conn(key).filter(|conn| conn.outbox.is_none()).map(|conn| conn.pinged = true);
        if free.is_some() {
            shard.put(key, &bytes);
        }
    }
    shard.state.borrow_mut().lag.second();
    attend(shard, now);
}

/// Holds the clients that need attention to their bounds.
fn attend(shard: &Rc<Shard>, now: Instant) {
    let keys: Vec<ConnKey> = shard.state.borrow().attention.iter().copied().collect();
    let (mut held, mut full) = (0, 0);
    for key in keys {
        let mut state = shard.state.borrow_mut();
        let State { conns, lag, attention, .. } = &mut *state;
        let Some(conn) = conn_of(conns, key) else { continue };
        if let Some(closing) = conn.closing {
            if now.duration_since(closing.since) > shard.options.close_timeout {
                conn.socket.abort();
            }
            continue;
        }
        let Some(outbox) = &conn.outbox else {
            attention.remove(&key);
            continue;
        };
        held += outbox.bytes.own();
        full += 1;
        let verdict = verdict(shard, conn, lag, now);
        drop(state);
        if let Some(reason) = verdict {
            shard.close(key, reason);
        }
    }
    let gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    show(shard, (gauge(held), gauge(full)));
}

/// Shows the bytes held and the clients they are held for. All shards of a chain add up in one gauge.
fn show(shard: &Shard, now: (i64, i64)) {
    let before = std::mem::replace(&mut shard.state.borrow_mut().shown, now);
    shard.metrics.outbox_bytes.with_label_values(&[&*shard.chain]).add(now.0 - before.0);
    shard.metrics.outbox_clients.with_label_values(&[&*shard.chain]).add(now.1 - before.1);
}

/// Whether a client with an outbox has passed a bound.
fn verdict(shard: &Shard, conn: &Conn, lag: &Lag, now: Instant) -> Option<Reason> {
    let outbox = conn.outbox.as_ref()?;
    if now.duration_since(outbox.progress) > shard.options.write_stall_max {
        return Some(Reason::WriteStalled);
    }
    if now.duration_since(outbox.since) > OUTBOX_MAX.max(shard.options.lag_max * 4) {
        return Some(Reason::SlowConsumer);
    }
    let place = outbox.place?;
    if lag.is_passed(place.seq) {
        return Some(Reason::SlowConsumer);
    }
    match shard.journal.get(place.seq) {
        Err(_) => Some(Reason::SlowConsumer),
        Ok(Some(entry)) if now.into_std().saturating_duration_since(entry.seen) > shard.options.lag_max => {
            Some(Reason::SlowConsumer)
        }
        Ok(_) => None,
    }
}
