//! The walk over everyone who wants an entry: one write to each socket, of bytes that are there once.
//!
//! The list of who gets what is fixed in one step ([`Plan`]); the writes then go in portions between which reads, pongs
//! and new clients are served. Owns nothing between two entries.
//!
//! - Nobody is waited for: what a socket does not take goes to the connection's outbox, and the rest of the entry to its
//!   place in the journal.
//! - Who has an outbox is passed over; it comes to this entry by its place.
//! - Another connection is the first each time.

use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use super::Shard;
use super::backlog::Backlog;
use super::compressor::Compressor;
use super::conn::{Conn, ConnKey, Place, Written};
use super::frame::{self, Batch, BatchBuilder};
use super::items::Items;
use super::plan::{Delivery, Plan, Source};
use super::shard::State;
use crate::journal::{Entry, Update};
use crate::planted::{self, Bug};

/// Writes between two yields, about a millisecond of `send` calls, and bytes in them. Few in tests, so that much happens
/// in between.
const PORTION: (usize, usize) = if cfg!(test) { (4, 4_000) } else { (128, 1 << 20) };

/// Bytes that are encoded for one connection before they are written. Few in tests, so that it happens.
const PIECE: usize = if cfg!(test) { 3_000 } else { 1 << 20 };

/// The rest of frames that many have in common is kept as it is up to so many bytes of them; with more, a client that
/// does not read would hold them all.
const SHARED_REST_MAX: usize = if cfg!(test) { 5_000 } else { 256 * 1024 };

/// Delivers one entry of the journal to every connection that is owed something of it.
pub(super) async fn deliver(shard: &Rc<Shard>, entry: &Arc<Entry>, compressor: &mut Compressor) {
    let started = Instant::now();
    if let Update::Head(header) = &entry.update {
        // Many filters may begin or end with a block; reads and new clients are served between portions of them.
        while shard.state.borrow_mut().streams.index.advance(header.number) {
            tokio::task::yield_now().await;
        }
    }
    shard.state.borrow_mut().take_up(entry);
    if matches!(entry.update, Update::Gap) {
        return shard.close_subscribers();
    }
    let items = Items::of(entry);
    let (mut first, mut any) = (0, false);
    while first < items.len() {
        let (mut plan, left) = {
            let state = shard.state.borrow();
            (Plan::new(&state, &items, first), state.left)
        };
        first = plan.slice.end;
        any |= !plan.deliveries.is_empty();
        compressor.ahead(&mut plan, &items).await;
        let walk = Walk {
            left,
            place: Place { seq: entry.seq, item: plan.slice.start, n: 0 },
            now: Instant::now(),
            shard,
            items: &items,
            plan: &plan,
            sent: Sent::default(),
            told: Vec::new(),
            piece: BatchBuilder::default(),
            compressor: &mut *compressor,
        };
        walk.run().await;
        if first < items.len() {
            tokio::task::yield_now().await;
        }
    }
    if any {
        let since_seen = Instant::now().into_std().saturating_duration_since(entry.seen);
        let metric = shard.metrics.delivery_seconds.with_label_values(&[&*shard.chain, items.label()]);
        metric.observe(since_seen.as_secs_f64());
        shard.metrics.broadcast_seconds.observe(started.elapsed().as_secs_f64());
    }
}

impl State {
    /// From now on, who subscribes is owed what follows this entry.
    fn take_up(&mut self, entry: &Entry) {
        self.seq = entry.seq;
        if matches!(entry.update, Update::Head(_)) {
            self.lag.head(entry.seq);
        }
    }
}

/// What was written since it was last counted.
#[derive(Debug, Default)]
struct Sent {
    bytes: usize,
    frames: u64,
    writes: usize,
}

impl Sent {
    fn add(&mut self, bytes: usize, frames: usize) {
        self.bytes += bytes;
        self.frames += frames as u64;
    }
}

/// A frame by what it tells: the item, the number of the subscription on its connection, and where it comes from.
type Told<'a> = (u32, u32, &'a Source);

/// One slice of an entry on its way to everyone.
struct Walk<'a> {
    shard: &'a Rc<Shard>,
    items: &'a Items<'a>,
    plan: &'a Plan,
    /// Where the slice begins.
    place: Place,
    /// Subscriptions that had ended on this shard when the plan was made.
    left: u64,
    now: Instant,
    sent: Sent,
    /// What one connection gets, where it is not encoded ahead; kept for its memory alone.
    told: Vec<Told<'a>>,
    piece: BatchBuilder,
    compressor: &'a mut Compressor,
}

impl Walk<'_> {
    async fn run(mut self) {
        let runs: Vec<&[Delivery]> = self.plan.deliveries.chunk_by(|a, b| a.conn == b.conn).collect();
        let start = usize::try_from(self.place.seq.wrapping_mul(7919)).unwrap_or(0) % runs.len().max(1);
        for run in runs[start..].iter().chain(&runs[..start]) {
            self.write_run(&mut self.shard.state.borrow_mut(), run);
            self.rest().await;
        }
        for key in &self.plan.alone {
            self.leave(*key);
            self.rest().await;
        }
        self.count();
    }

    /// Lets others go on after each portion.
    async fn rest(&mut self) {
        self.sent.writes += 1;
        if self.sent.writes >= PORTION.0 || self.sent.bytes >= PORTION.1 || self.compressor.had_its_turn() {
            self.compressor.next_turn();
            self.count();
            tokio::task::yield_now().await;
        }
    }

    fn count(&mut self) {
        let Sent { bytes, frames, .. } = std::mem::take(&mut self.sent);
        self.shard.count_bytes(bytes);
        self.shard.count_delivered(self.items, frames);
    }

    /// Writes what one connection gets.
    fn write_run(&mut self, state: &mut State, run: &[Delivery]) {
        let key = run[0].conn;
        // Who has unsubscribed since the plan was made gets nothing more.
        let all_there = state.left == self.left;
        let Some(conn) = self.live(state, key) else { return };
        let is_there = |delivery: &&Delivery| all_there || conn.has(delivery.n);
        match (run, self.plan.source_of(&run[0])) {
            ([one], Source { ahead: Some(batch), .. }) if is_there(&one) => {
                let written = conn.write(&batch.bytes);
                self.batch_written(state, one, batch, &written);
            }
            ([_], Source { ahead: Some(_), .. }) => {}
            _ => {
                let mut told = std::mem::take(&mut self.told);
                told.clear();
                for delivery in run.iter().filter(is_there) {
                    let source = self.plan.source_of(delivery);
                    told.extend(self.plan.items(source).map(|item| (item, delivery.n, source)));
                }
                told.sort_unstable_by_key(|(item, n, _)| (*item, *n));
                self.write_told(state, key, &told);
                self.told = told;
            }
        }
    }

    /// The connection, if this slice can be written to it now. One with an outbox gets it later, from its place in the
    /// journal.
    fn live<'s>(&self, state: &'s mut State, key: ConnKey) -> Option<&'s mut Conn> {
        let conn = state.conn(key).filter(|conn| conn.closing.is_none() && conn.next_seq <= self.place.seq)?;
        if let Some(outbox) = &mut conn.outbox {
            outbox.place.get_or_insert(self.place);
            return None;
        }
        Some(conn)
    }

    /// Frames that several have in common were written to one of them.
    fn batch_written(&mut self, state: &mut State, to: &Delivery, batch: &Batch, written: &Written) {
        let ends = batch.ends.as_slice();
        let n = match *written {
            Written::All => return self.sent.add(batch.bytes.len(), ends.len()),
            Written::Gone => return state.conns[to.conn.slot as usize].lost(self.now),
            Written::Some(n) => n,
        };
        let whole = n > 0 && batch.bytes.len() <= SHARED_REST_MAX;
        let (held, end) = if whole { (ends.len(), batch.bytes.len()) } else { frame::begun(ends, n) };
        self.sent.add(n, held);
        let next = self.plan.items(self.plan.source_of(to)).nth(held).map(|item| (item, to.n));
        // A slice of the batch would hold all of it.
        let keep = |rest: &mut Backlog| {
            if whole { rest.share(&batch.bytes.slice(n..end)) } else { rest.copy(&batch.bytes[n..end]) }
        };
        self.put_off(state, to.conn, next, keep);
    }

    /// Writes frames that this connection alone gets, encoded as far as its socket takes them.
    fn write_told(&mut self, state: &mut State, key: ConnKey, mut told: &[Told<'_>]) {
        while !told.is_empty() {
            self.piece.clear();
            let mut encode = |(item, _, source): &Told<'_>| match self.plan.frame(source, *item) {
                Some(frame) => self.piece.copy(frame),
                None => self.compressor.push(&mut self.piece, source, self.items.result(*item)),
            };
            // The one that fills it is its last.
            let count = told.iter().position(|one| encode(one) >= PIECE).map_or(told.len(), |last| last + 1);
            let conn = &mut state.conns[key.slot as usize];
            match conn.write(&self.piece.bytes) {
                Written::All => self.sent.add(self.piece.bytes.len(), count),
                Written::Gone => return conn.lost(self.now),
                Written::Some(n) => {
                    let (held, end) = frame::begun(&self.piece.ends, n);
                    self.sent.add(n, held);
                    let next = told.get(held).map(|(item, n, _)| (*item, *n));
                    let piece = std::mem::take(&mut self.piece);
                    return self.put_off(state, key, next, |rest| rest.copy(&piece.bytes[n..end]));
                }
            }
            told = &told[count..];
        }
    }

    /// A socket is full: `hold` gives its outbox what it is owed before the frame `next`, and the rest of the entry
    /// follows from there.
    fn put_off(&self, state: &mut State, key: ConnKey, next: Option<(u32, u32)>, hold: impl FnOnce(&mut Backlog)) {
        let outbox = state.conns[key.slot as usize].outbox(self.now);
        hold(&mut outbox.bytes);
        if planted::is(Bug::DropRestOfFrame) {
            outbox.bytes = Backlog::default();
        }
        let (item, n) = next.unwrap_or((self.plan.slice.end, 0));
        outbox.place = Some(Place { seq: self.place.seq, item, n });
        self.shard.attend(state, key);
    }

    /// Leaves a connection to catch up with the slice.
    fn leave(&self, key: ConnKey) {
        let mut state = self.shard.state.borrow_mut();
        if self.live(&mut state, key).is_some() {
            self.put_off(&mut state, key, Some((self.place.item, 0)), |_| {});
        }
    }
}
