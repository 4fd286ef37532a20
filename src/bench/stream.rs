//! What all clients with one subscription receive, and whether each of them receives it once, whole and in order.
//!
//! The first client to get an event defines it; every other must get the same bytes at the same place. That all of them
//! missed an event shows in the parent hashes. Owns the events of one subscription. Pure.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::time::Instant;

use serde::Deserialize;

/// One event as the first client got it.
#[derive(Debug)]
struct Event {
    result: Box<[u8]>,
    /// From when its latency counts.
    since: Instant,
}

/// Where a client is: the number of the event that it gets next. `None` before its first.
pub(super) type Place = Option<u32>;

/// The events of one subscription.
#[derive(Debug, Default)]
pub(super) struct Stream {
    events: Vec<Event>,
    /// The number of the first event of each block.
    starts: Vec<usize>,
    /// Blocks so far, by hash.
    blocks: HashSet<String>,
    /// Hashes of the events so far.
    seen: HashSet<u64>,
    hasher: RandomState,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Names<'a> {
    hash: Option<&'a str>,
    parent_hash: Option<&'a str>,
    block_hash: Option<&'a str>,
}

impl Stream {
    /// Takes an event that a client got. `since` is when it was sent, if a first client has it. Returns when it was
    /// sent, or what is wrong with it.
    pub(super) fn take(&mut self, place: &mut Place, result: &[u8], since: Instant) -> Result<Instant, String> {
        let at = match *place {
            Some(next) => next as usize,
            // Who comes while events flow begins with any of them.
            None => self.events.iter().rposition(|e| *e.result == *result).unwrap_or(self.events.len()),
        };
        if at == self.events.len() {
            self.define(result, since)?;
        }
        let event = &self.events[at];
        if *event.result != *result {
            return Err(match self.events.iter().position(|e| *e.result == *result) {
                Some(other) if other < at => format!("event {other} came again where {at} was due"),
                Some(other) => format!("event {other} came where {at} was due"),
                None => format!("an event came that nobody else got where {at} was due"),
            });
        }
        *place = Some(u32::try_from(at + 1).expect("a run has fewer events"));
        Ok(event.since)
    }

    fn define(&mut self, result: &[u8], since: Instant) -> Result<(), String> {
        let names: Names<'_> =
            serde_json::from_slice(result).map_err(|e| format!("an event that cannot be read: {e}"))?;
        let block = names.block_hash.or(names.hash).ok_or("an event without a block hash")?;
        if !self.seen.insert(self.hasher.hash_one(result)) {
            return Err("an event came twice".into());
        }
        if let Some(parent) = names.parent_hash.filter(|_| names.block_hash.is_none())
            && !self.blocks.is_empty()
            && !self.blocks.contains(parent)
        {
            return Err(format!("a head was missed by all clients: the parent of {block} did not come"));
        }
        if self.blocks.insert(block.to_owned()) {
            self.starts.push(self.events.len());
        }
        self.events.push(Event { result: result.into(), since });
        Ok(())
    }

    /// The number of the first event after `blocks` blocks, once it is known. Heads are one a block, so that the end of
    /// a block is known with it; logs of a block end where those of another begin.
    pub(super) fn end_of(&self, blocks: usize, one_a_block: bool) -> Option<u32> {
        let end = match self.starts.get(blocks) {
            Some(end) => *end,
            None if one_a_block && self.starts.len() == blocks => self.events.len(),
            None => return None,
        };
        u32::try_from(end).ok()
    }

    /// Whether this block has begun.
    pub(super) fn has_block(&self, hash: &str) -> bool {
        self.blocks.contains(hash)
    }

    /// Number of blocks that have begun.
    pub(super) fn blocks(&self) -> usize {
        self.starts.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(n: u64) -> Vec<u8> {
        format!(r#"{{"hash":"0x{n}","parentHash":"0x{}"}}"#, n - 1).into_bytes()
    }

    fn log(block: u64, index: u64) -> Vec<u8> {
        format!(r#"{{"blockHash":"0x{block}","logIndex":"0x{index}"}}"#).into_bytes()
    }

    /// Feeds each client its events; what is wrong with the last one.
    fn feed(clients: &[&[Vec<u8>]]) -> Result<(), String> {
        let (mut stream, now) = (Stream::default(), Instant::now());
        for events in clients {
            let mut place = None;
            for event in *events {
                stream.take(&mut place, event, now)?;
            }
        }
        Ok(())
    }

    #[test]
    fn equal_records_are_right_wherever_they_begin() {
        assert_eq!(feed(&[&[head(1), head(2), head(3)], &[head(1), head(2), head(3)], &[head(3), head(4)]]), Ok(()));
        assert_eq!(feed(&[&[log(1, 0), log(1, 1), log(5, 0)], &[log(1, 0), log(1, 1)]]), Ok(()));
    }

    #[test]
    fn every_mistake_is_found() {
        let whole = [head(1), head(2), head(3)];
        for (wrong, word) in [
            (vec![head(1), head(3)], "event 2 came where 1"),
            (vec![head(1), head(1)], "event 0 came again"),
            (vec![head(1), head(2), head(2)], "event 1 came again"),
            (vec![head(1), head(2), head(3), head(3)], "came twice"),
            (vec![head(2), head(1)], "event 0 came again"),
            (vec![head(1), log(7, 7)], "nobody else"),
            (vec![head(1), head(2), head(3), head(5)], "missed by all"),
        ] {
            let found = feed(&[&whole, &wrong]).expect_err(word);
            assert!(found.contains(word), "{found}");
        }
    }

    #[test]
    fn blocks_end_where_the_next_begins_or_with_their_head() {
        let (mut stream, now, mut place) = (Stream::default(), Instant::now(), None);
        for event in [log(1, 0), log(1, 1), log(2, 0)] {
            stream.take(&mut place, &event, now).unwrap();
        }
        assert_eq!((stream.end_of(1, false), stream.end_of(2, false), stream.blocks()), (Some(2), None, 2));
        let (mut stream, mut place) = (Stream::default(), None);
        stream.take(&mut place, &head(1), now).unwrap();
        assert_eq!((stream.end_of(1, true), stream.end_of(2, true)), (Some(1), None));
    }
}
