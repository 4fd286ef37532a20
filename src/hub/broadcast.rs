//! The walk over everyone who wants an entry: match once, encode once a stream, write to each socket.
//!
//! The list of who gets what is fixed in one step; the writes then go in portions between which reads, pongs and new
//! clients are served. Owns nothing between two entries.

use std::rc::Rc;
use std::slice::from_ref;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::time::Instant;

use super::catchup::Cut;
use super::conn::{Conn, ConnKey, Place, Written};
use super::frame::{Batch, BatchBuilder};
use super::shard::State;
use super::streams::{Group, Member};
use super::{Shard, StreamKey, frame};
use crate::chain::{FeedEvent, Log};
use crate::journal::{Entry, Update};

/// Writes between two yields: about a millisecond of `send` calls. Few in tests, so that much happens in between.
const PORTION: usize = if cfg!(test) { 4 } else { 128 };

/// A result of more bytes is not encoded for each stream that wants it: no socket takes it at once, so who wants it has
/// to catch up with it anyway, and catching up does not copy it. Few in tests, so that it happens.
const ENCODED_MAX: usize = if cfg!(test) { 7_800 } else { 256 * 1024 };

/// One subscription that gets a batch.
#[derive(Debug, Clone, Copy)]
struct Delivery {
    conn: ConnKey,
    n: u32,
    batch: u32,
}

/// Who gets what of an entry.
#[derive(Debug, Default)]
struct Plan {
    batches: Vec<Batch>,
    deliveries: Vec<Delivery>,
    /// Connections that catch up with the entry, each for itself: they want what is too large to encode, or joined in the
    /// middle of what is undone, so that their part of it is not that of the others.
    alone: Vec<ConnKey>,
}

/// Delivers one entry of the journal to every connection that is owed something of it.
pub(super) async fn deliver(shard: &Rc<Shard>, entry: &Arc<Entry>) {
    let started = Instant::now();
    if let Update::Head(header) = &entry.update {
        // Many filters may begin or end with a block; reads and new clients are served between portions of them.
        while shard.state.borrow_mut().streams.index.advance(header.number) {
            tokio::task::yield_now().await;
        }
    }
    let plan = {
        let mut state = shard.state.borrow_mut();
        state.take_up(entry);
        plan(&state, entry)
    };
    if matches!(entry.update, Update::Gap) {
        return shard.close_subscribers();
    }
    let kind = if matches!(entry.update, Update::Head(_)) { "newHeads" } else { "logs" };
    let any = !plan.deliveries.is_empty();
    write_plan(shard, entry, &plan).await;
    if any {
        shard
            .metrics
            .delivery_seconds
            .with_label_values(&[&*shard.chain, kind])
            .observe(Instant::now().into_std().saturating_duration_since(entry.seen).as_secs_f64());
        shard.metrics.broadcast_seconds.observe(started.elapsed().as_secs_f64());
    }
}

async fn write_plan(shard: &Rc<Shard>, entry: &Entry, plan: &Plan) {
    let runs: Vec<&[Delivery]> = plan.deliveries.chunk_by(|a, b| a.conn == b.conn).collect();
    // Another client is the first each time.
    let start = usize::try_from(entry.seq.wrapping_mul(7919)).unwrap_or(0) % runs.len().max(1);
    let mut walk = Walk { shard, entry, plan, now: Instant::now(), sent: Sent::default() };
    for portion in runs[start..].chunks(PORTION).chain(runs[..start].chunks(PORTION)) {
        {
            let mut state = shard.state.borrow_mut();
            portion.iter().for_each(|run| walk.write_run(&mut state, run));
        }
        let Sent { bytes, frames } = std::mem::take(&mut walk.sent);
        shard.count_bytes(bytes);
        shard.count_delivered(entry, frames);
        tokio::task::yield_now().await;
    }
    for portion in plan.alone.chunks(PORTION) {
        portion.iter().for_each(|key| walk.put_off(*key));
        tokio::task::yield_now().await;
    }
}

#[derive(Debug, Default)]
struct Sent {
    bytes: usize,
    frames: u64,
}

/// One entry on its way to everyone.
struct Walk<'a> {
    shard: &'a Rc<Shard>,
    entry: &'a Entry,
    plan: &'a Plan,
    now: Instant,
    sent: Sent,
}

impl Walk<'_> {
    /// Writes what one connection gets.
    fn write_run(&mut self, state: &mut State, run: &[Delivery]) {
        let key = run[0].conn;
        let Some(conn) = self.live(state, key) else { return };
        // What was unsubscribed since the plan was made is not sent any more.
        let merged;
        let frames = match run {
            [one] if conn.sub(one.n).is_some() => {
                Frames::Own { batch: &self.plan.batches[one.batch as usize], n: one.n }
            }
            [_] => return,
            several => {
                merged = merge(several.iter().filter(|d| conn.sub(d.n).is_some()), &self.plan.batches);
                Frames::Merged(&merged)
            }
        };
        match conn.write(frames.bytes()) {
            Written::All => {
                self.sent.bytes += frames.bytes().len();
                self.sent.frames += frames.len() as u64;
            }
            Written::Gone => conn.lost(self.now),
            Written::Some(n) => {
                self.sent.bytes += n;
                let (cut, begun) = frames.cut(n, self.entry.seq);
                self.sent.frames += begun;
                self.shard.put_off(state, key, self.entry, cut, self.now);
            }
        }
    }

    /// The connection, if this entry can be written to it now. One with an outbox gets the entry later, from its place
    /// in the journal.
    fn live<'s>(&self, state: &'s mut State, key: ConnKey) -> Option<&'s mut Conn> {
        let seq = self.entry.seq;
        let conn = state.conn(key).filter(|conn| conn.closing.is_none() && conn.next_seq <= seq)?;
        if let Some(outbox) = &mut conn.outbox {
            outbox.place.get_or_insert(Place::start_of(seq));
            return None;
        }
        Some(conn)
    }

    /// Leaves a connection to catch up with the entry.
    fn put_off(&self, key: ConnKey) {
        let mut state = self.shard.state.borrow_mut();
        if self.live(&mut state, key).is_some() {
            let cut = Cut { place: Place::start_of(self.entry.seq), written: 0 };
            self.shard.put_off(&mut state, key, self.entry, cut, self.now);
        }
    }
}

/// Frames in the order in which one connection gets them.
enum Frames<'a> {
    Own { batch: &'a Batch, n: u32 },
    Merged(&'a Merged),
}

/// Frames of several subscriptions of one connection.
struct Merged {
    bytes: BytesMut,
    /// Item, number of the subscription, and where the frame ends.
    ends: Vec<(u32, u32, u32)>,
}

impl Frames<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Own { batch, .. } => &batch.bytes,
            Self::Merged(merged) => &merged.bytes,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Own { batch, .. } => batch.ends.len(),
            Self::Merged(merged) => merged.ends.len(),
        }
    }

    /// Item, subscription and end of a frame.
    fn end(&self, at: usize) -> (u32, u32, usize) {
        match self {
            Self::Own { batch, n } => (batch.ends[at].0, *n, batch.ends[at].1 as usize),
            Self::Merged(merged) => {
                let (item, n, end) = merged.ends[at];
                (item, n, end as usize)
            }
        }
    }

    /// Where `written` bytes end, and how many frames are begun in them.
    fn cut(&self, written: usize, seq: u64) -> (Cut, u64) {
        if written == 0 {
            return (Cut { place: Place::start_of(seq), written }, 0);
        }
        let at = (0..self.len()).find(|at| written <= self.end(*at).2).expect("less than all was written");
        let (item, n, _) = self.end(at);
        let before = at.checked_sub(1).map_or(0, |before| self.end(before).2);
        (Cut { place: Place { seq, item, n }, written: written - before }, at as u64 + 1)
    }
}

/// Brings the frames of several subscriptions into order.
fn merge<'a>(several: impl Iterator<Item = &'a Delivery>, batches: &[Batch]) -> Merged {
    let mut frames: Vec<(u32, u32, &[u8])> = Vec::new();
    for delivery in several {
        let batch = &batches[delivery.batch as usize];
        let mut from = 0;
        for (item, end) in &batch.ends {
            frames.push((*item, delivery.n, &batch.bytes[from..*end as usize]));
            from = *end as usize;
        }
    }
    frames.sort_unstable_by_key(|(item, n, _)| (*item, *n));
    let mut merged = Merged { bytes: BytesMut::new(), ends: Vec::with_capacity(frames.len()) };
    for (item, n, frame) in frames {
        merged.bytes.extend_from_slice(frame);
        merged.ends.push((item, n, u32::try_from(merged.bytes.len()).expect("a block's logs are far below 4 GiB")));
    }
    merged
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

fn plan(state: &State, entry: &Entry) -> Plan {
    match &entry.update {
        Update::Head(header) => plan_head(state, &header.json),
        Update::Logs(logs) => plan_logs(state, &logs.logs),
        Update::Undo(_) => plan_undo(state, entry),
        Update::Gap => Plan::default(),
    }
}

impl Plan {
    fn add(&mut self, group: &Group, batch: Batch) {
        let number = u32::try_from(self.batches.len()).expect("subscriptions are bounded");
        self.batches.push(batch);
        self.deliveries.extend(group.members.iter().map(|m| Delivery { conn: m.conn, n: m.n, batch: number }));
    }

    /// Leaves members of a stream to catch up.
    fn leave<'a>(&mut self, members: impl Iterator<Item = &'a Member>) {
        self.alone.extend(members.map(|m| m.conn));
    }

    /// Takes out who catches up, and brings the deliveries of a connection together where there may be several.
    fn ordered(mut self) -> Self {
        if !self.alone.is_empty() {
            self.alone.sort_unstable();
            self.alone.dedup();
            let Self { deliveries, alone, .. } = &mut self;
            deliveries.retain(|d| alone.binary_search(&d.conn).is_err());
        }
        if self.batches.len() > 1 {
            self.deliveries.sort_unstable_by_key(|d| (d.conn, d.n));
        }
        self
    }
}

fn plan_head(state: &State, json: &[u8]) -> Plan {
    let mut plan = Plan::default();
    let Some(stream) = state.streams.find(&StreamKey::Heads) else { return plan };
    for group in &state.streams.get(stream).groups {
        let mut batch = BatchBuilder::default();
        batch.push(0, &group.id, json);
        plan.add(group, batch.build());
    }
    plan.ordered()
}

/// The logs that each stream wants, as pairs of stream and item, sorted.
fn matches<'a>(state: &State, logs: impl Iterator<Item = &'a Log>) -> Vec<(u32, u32)> {
    let mut hits = Vec::new();
    for (item, log) in (0u32..).zip(logs) {
        state.streams.index.matching(log, |stream| hits.push((stream, item)));
    }
    hits.sort_unstable();
    hits
}

fn plan_logs(state: &State, logs: &[Log]) -> Plan {
    let mut plan = Plan::default();
    for hits in matches(state, logs.iter()).chunk_by(|a, b| a.0 == b.0) {
        let groups = &state.streams.get(hits[0].0).groups;
        if hits.iter().any(|(_, item)| logs[*item as usize].json.len() > ENCODED_MAX) {
            plan.leave(groups.iter().flat_map(|group| &group.members));
            continue;
        }
        for group in groups {
            let mut batch = BatchBuilder::default();
            hits.iter().for_each(|(_, item)| batch.push(*item, &group.id, &logs[*item as usize].json));
            plan.add(group, batch.build());
        }
    }
    plan.ordered()
}

fn plan_undo(state: &State, entry: &Entry) -> Plan {
    let Update::Undo(removed) = &entry.update else { return Plan::default() };
    let published = removed.iter().filter_map(|r| r.logs.as_ref());
    let logs: Vec<(&Log, u64)> =
        published.flat_map(|(logs, seq)| logs.logs.iter().rev().map(move |log| (log, *seq))).collect();
    let mut json: Vec<Option<Vec<u8>>> = vec![None; logs.len()];
    let mut plan = Plan::default();
    for hits in matches(state, logs.iter().map(|(log, _)| *log)).chunk_by(|a, b| a.0 == b.0) {
        let groups = &state.streams.get(hits[0].0).groups;
        if hits.iter().any(|(_, item)| logs[*item as usize].0.json.len() > ENCODED_MAX) {
            plan.leave(groups.iter().flat_map(|group| &group.members));
            continue;
        }
        let first = hits.iter().map(|(_, item)| logs[*item as usize].1).min().expect("a chunk is not empty");
        for (_, item) in hits {
            json[*item as usize].get_or_insert_with(|| logs[*item as usize].0.removed_parts().concat());
        }
        for group in groups {
            let mut batch = BatchBuilder::default();
            for (_, item) in hits {
                batch.push(*item, &group.id, json[*item as usize].as_ref().expect("just made"));
            }
            plan.add(group, batch.build());
            plan.leave(group.members.iter().filter(|m| m.since > first));
        }
    }
    plan.ordered()
}

/// Passes a best-effort event on. A client that is behind does not get it.
pub(super) async fn pass(shard: &Rc<Shard>, event: &FeedEvent) {
    let mut plan = Plan::default();
    {
        let state = shard.state.borrow();
        let Some(stream) = state.streams.find(&StreamKey::Feed(event.feed.clone())) else { return };
        for group in &state.streams.get(stream).groups {
            let mut bytes = BytesMut::new();
            frame::notification(&mut bytes, &group.id, &event.json);
            plan.add(group, Batch { bytes: bytes.freeze(), ends: Vec::new() });
        }
    }
    let kind = StreamKey::Feed(event.feed.clone()).label();
    for portion in plan.deliveries.chunks(PORTION) {
        let (mut sent, mut dropped) = (Sent::default(), 0);
        {
            let mut state = shard.state.borrow_mut();
            for delivery in portion {
                match pass_one(shard, &mut state, event, &plan.batches[delivery.batch as usize].bytes, delivery) {
                    Some(bytes) => {
                        sent.bytes += bytes;
                        sent.frames += 1;
                    }
                    None => dropped += 1,
                }
            }
        }
        shard.count_bytes(sent.bytes);
        shard.metrics.deliveries.with_label_values(&[&*shard.chain, kind]).inc_by(sent.frames);
        shard.count_dropped("client_behind", dropped);
        tokio::task::yield_now().await;
    }
}

/// Writes one best-effort frame. `None` if the client is behind or gone.
fn pass_one(
    shard: &Rc<Shard>,
    state: &mut State,
    event: &FeedEvent,
    bytes: &[u8],
    delivery: &Delivery,
) -> Option<usize> {
    let now = Instant::now();
    let conn = state.conn(delivery.conn).filter(|c| c.outbox.is_none() && c.closing.is_none())?;
    let id = conn.sub(delivery.n)?.id;
    match conn.write(bytes) {
        Written::All => Some(bytes.len()),
        Written::Gone => {
            conn.lost(now);
            None
        }
        Written::Some(0) => None,
        Written::Some(n) => {
            let rest = &mut conn.outbox(now).bytes;
            rest.notification(&id, from_ref(&event.json));
            rest.advance(n);
            shard.attend(state, delivery.conn);
            Some(n)
        }
    }
}
