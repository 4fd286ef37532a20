//! Who gets what of an entry: matched once, and encoded once for each stream that several listen to.
//!
//! A plan covers a slice of the entry's items, nearly always all of them; only what would take too much memory at once is
//! cut. It is made in one step, so that it is of one moment; the writes follow. What a single connection gets is not
//! encoded here but as it is written, into one buffer that is used again. Knows no socket. Pure.

use std::ops::Range;

use super::StreamKey;
use super::conn::ConnKey;
use super::frame::{Batch, BatchBuilder};
use super::items::Items;
use super::shard::State;
use super::streams::{IdText, Member, Streams};
use crate::chain::Log;

/// Logs that are matched in one step: some milliseconds. Few in tests, so that entries are cut.
const SLICE_LOGS: u32 = if cfg!(test) { 3 } else { 4_096 };

/// Logs that are looked up together.
const AT_ONCE: usize = 32;

/// Pairs of stream and item at which a slice ends.
const SLICE_HITS: usize = if cfg!(test) { 40 } else { 1 << 20 };

/// A result of more bytes is not encoded for each stream that wants it: no socket takes it at once, so who wants it has
/// to catch up with it anyway, and catching up does not copy it. Few in tests, so that it happens.
const ENCODED_MAX: usize = if cfg!(test) { 7_800 } else { 256 * 1024 };

/// Bytes that are encoded ahead for streams with several listeners, in all. Beyond that each listener is encoded for
/// alone. Few in tests, so that it happens.
const AHEAD_MAX: usize = if cfg!(test) { 40_000 } else { 32 << 20 };

/// One id of a stream, and what goes out under it.
pub(super) struct Source {
    pub(super) id: IdText,
    /// For connections that negotiated compression.
    pub(super) compressed: bool,
    /// Its items, as a part of the plan's hits.
    hits: Range<usize>,
    /// The frames, where several connections get them.
    pub(super) ahead: Option<Batch>,
}

/// One subscription that gets what a source has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Delivery {
    pub(super) conn: ConnKey,
    pub(super) n: u32,
    source: u32,
}

/// Who gets what of a slice of an entry.
pub(super) struct Plan {
    /// The first item, and the first behind the last.
    pub(super) slice: Range<u32>,
    /// Stream and item, sorted.
    hits: Vec<(u32, u32)>,
    sources: Vec<Source>,
    /// Those of one connection are together.
    pub(super) deliveries: Vec<Delivery>,
    /// Connections that catch up with the slice, each for itself: they want what is too large to encode, or joined in the
    /// middle of what is undone, so that their part of it is not that of the others.
    pub(super) alone: Vec<ConnKey>,
    /// Sources that several connections get compressed, and how many: not encoded ahead yet, as it takes long.
    to_compress: Vec<(usize, u32)>,
    /// Bytes that are encoded ahead.
    ahead: usize,
}

impl Plan {
    /// The plan for the items from `first` on.
    pub(super) fn new(state: &State, items: &Items<'_>, first: u32) -> Self {
        let (hits, end) = matching(&state.streams, items, first);
        let mut plan = Self {
            slice: first..end,
            hits,
            sources: Vec::new(),
            deliveries: Vec::new(),
            alone: Vec::new(),
            to_compress: Vec::new(),
            ahead: 0,
        };
        let kinds: &[bool] = if state.compressed == 0 { &[false] } else { &[false, true] };
        let mut from = 0;
        while let Some((stream, _)) = plan.hits.get(from).copied() {
            let to = from + plan.hits[from..].partition_point(|hit| hit.0 == stream);
            plan.add(&state.streams, stream, from..to, items, kinds);
            from = to;
        }
        plan.order();
        plan
    }

    /// Adds what a stream has, for its members with and without compression.
    fn add(&mut self, streams: &Streams, stream: u32, hits: Range<usize>, items: &Items<'_>, kinds: &[bool]) {
        let wanted = || self.hits[hits.clone()].iter().map(|(_, item)| *item);
        let too_large = wanted().any(|item| items.size(item) > ENCODED_MAX);
        let owed_since = wanted().map(|item| items.owed_since(item)).min().expect("a stream is hit by an item");
        for group in streams.get(stream).groups() {
            let mut served = 0;
            for kind in kinds {
                let is_owed = |m: &&Member| !too_large && m.since <= owed_since && m.compressed == *kind;
                let members = || group.members.iter().filter(is_owed);
                let count = members().count();
                if count > 0 {
                    let number = u32::try_from(self.sources.len()).expect("subscriptions are bounded");
                    let source = Source { id: group.id.text(), compressed: *kind, hits: hits.clone(), ahead: None };
                    self.sources.push(source);
                    self.deliveries.extend(members().map(|m| Delivery { conn: m.conn, n: m.n, source: number }));
                    self.share(number, items, count);
                }
                served += count;
            }
            if served < group.members.len() {
                let others = group.members.iter().filter(|member| too_large || member.since > owed_since);
                self.alone.extend(others.map(|member| member.conn));
            }
        }
    }

    /// Encodes ahead what so many connections get of a source, if that is worth it.
    fn share(&mut self, number: u32, items: &Items<'_>, count: usize) {
        let source = &self.sources[number as usize];
        if count == 1 || self.ahead >= AHEAD_MAX {
            return;
        }
        if source.compressed {
            return self.to_compress.push((count, number));
        }
        let mut batch = BatchBuilder::default();
        for item in self.items(source) {
            batch.push(&source.id, items.result(item));
        }
        self.put_ahead(number, batch);
    }

    /// The frames of a source are encoded.
    pub(super) fn put_ahead(&mut self, number: u32, frames: BatchBuilder) {
        let batch = frames.build();
        self.ahead += batch.bytes.len();
        self.sources[number as usize].ahead = Some(batch);
    }

    /// The next of the sources that several connections get compressed, those with the most first, as long as there is
    /// room for more.
    pub(super) fn next_to_compress(&mut self) -> Option<u32> {
        self.to_compress.pop().filter(|_| self.ahead < AHEAD_MAX).map(|(_, number)| number)
    }

    /// A source by its number.
    pub(super) fn source(&self, number: u32) -> &Source {
        &self.sources[number as usize]
    }

    /// Takes out who catches up, and brings the deliveries of a connection together where there may be several.
    fn order(&mut self) {
        if !self.alone.is_empty() {
            self.alone.sort_unstable();
            self.alone.dedup();
            let Self { deliveries, alone, .. } = self;
            deliveries.retain(|delivery| alone.binary_search(&delivery.conn).is_err());
        }
        self.to_compress.sort_unstable();
        if self.sources.len() > 1 {
            self.deliveries.sort_unstable_by_key(|delivery| (delivery.conn, delivery.n));
        }
    }

    /// What a subscription gets.
    pub(super) fn source_of(&self, delivery: &Delivery) -> &Source {
        self.source(delivery.source)
    }

    /// A source's frame for one of its items, where it is encoded ahead.
    pub(super) fn frame<'a>(&self, source: &'a Source, item: u32) -> Option<&'a [u8]> {
        let batch = source.ahead.as_ref()?;
        Some(batch.frame(self.hits[source.hits.clone()].partition_point(|hit| hit.1 < item)))
    }

    /// The items of a source, in order.
    pub(super) fn items(&self, source: &Source) -> impl Iterator<Item = u32> {
        self.hits[source.hits.clone()].iter().map(|(_, item)| *item)
    }
}

/// The streams that want items from `first` on, as pairs of stream and item, sorted; and where the slice ends.
fn matching(streams: &Streams, items: &Items<'_>, first: u32) -> (Vec<(u32, u32)>, u32) {
    let end = items.len().min(first.saturating_add(SLICE_LOGS));
    let logs: Vec<&Log> = (first..end).map_while(|item| items.log(item)).collect();
    if logs.is_empty() {
        return (streams.find(&StreamKey::Heads).map(|stream| (stream, first)).into_iter().collect(), end);
    }
    let (mut hits, mut next) = (Vec::new(), first);
    for logs in logs.chunks(AT_ONCE) {
        let most = SLICE_HITS - hits.len();
        let add = |at: usize, stream| hits.push((stream, next + u32::try_from(at).expect("few logs are at once")));
        let done = streams.index.matching(logs, most, add);
        next += u32::try_from(done).expect("few logs are at once");
        if done < logs.len() || hits.len() >= SLICE_HITS {
            break;
        }
    }
    hits.sort_unstable();
    (hits, next)
}
