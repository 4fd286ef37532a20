//! The numbered, bounded memory of a chain's updates.
//!
//! One writer appends; any number of readers follow, each at its own place, woken once however much has come. An entry
//! stays until the bound pushes it out; a reader that is behind the oldest entry learns so and never skips silently.
//! Numbers start at 1 and have no holes; they are this process's own and never leave it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use alloy_primitives::B256;
use tokio::sync::watch;

use crate::chain::{BlockLogs, BlockRef, ChainUpdate, Header};

/// One update with its number.
#[derive(Debug)]
pub struct Entry {
    /// Place in the sequence.
    pub seq: u64,
    /// When the cause of the update was read off a node.
    pub seen: Instant,
    /// The update.
    pub update: Update,
}

/// A [`ChainUpdate`] as it is remembered.
#[derive(Debug)]
pub enum Update {
    /// These blocks left the chain, newest first.
    Undo(Vec<Removed>),
    /// The new tip.
    Head(Arc<Header>),
    /// The complete logs of a block.
    Logs(Arc<BlockLogs>),
    /// What follows does not connect to what came before.
    Gap,
}

/// A block that left the chain.
#[derive(Debug)]
pub struct Removed {
    /// The block.
    pub block: BlockRef,
    /// Its logs and the number of the entry that published them; who was not there then is not told of the removal.
    pub logs: Option<(Arc<BlockLogs>, u64)>,
}

#[derive(Debug, Default)]
struct Ring {
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
    last: u64,
    /// Number of the entry that published a block's logs, for the blocks of the chain that can still be undone.
    published: HashMap<B256, u64>,
    /// The keys of `published`, oldest first.
    order: VecDeque<B256>,
}

/// Bounds of the memory.
#[derive(Debug, Clone)]
pub struct Options {
    /// Most entries.
    pub entries: usize,
    /// Most bytes, as the sizes of the JSON held.
    pub bytes: usize,
}

/// The memory of one chain. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Journal {
    ring: Arc<Mutex<Ring>>,
    last: Arc<watch::Sender<u64>>,
    options: Options,
}

/// What was asked for is no longer held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("entries before {oldest} are no longer held")]
pub struct Trimmed {
    /// Number of the oldest entry held.
    pub oldest: u64,
}

impl Journal {
    /// An empty journal.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { ring: Arc::default(), last: Arc::new(watch::Sender::new(0)), options }
    }

    /// Appends an update and wakes the readers.
    pub fn append(&self, update: ChainUpdate, seen: Instant) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.append(update, seen, &self.options);
        let last = ring.last;
        drop(ring);
        self.last.send_replace(last);
    }

    /// Number of the last entry; 0 if there is none.
    #[must_use]
    pub fn last(&self) -> u64 {
        *self.last.borrow()
    }

    /// Number of entries held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner).entries.len()
    }

    /// The entry with this number; `None` if it has not come yet.
    pub fn get(&self, seq: u64) -> Result<Option<Arc<Entry>>, Trimmed> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if seq > ring.last {
            return Ok(None);
        }
        let oldest = ring.last + 1 - ring.entries.len() as u64;
        let at = seq.checked_sub(oldest).ok_or(Trimmed { oldest })?;
        Ok(ring.entries.get(usize::try_from(at).expect("the ring fits in memory")).cloned())
    }

    /// A reader that begins with the next entry to come.
    #[must_use]
    pub fn tail(&self) -> Tail {
        let last = self.last.subscribe();
        let next = *last.borrow() + 1;
        Tail { journal: self.clone(), last, next }
    }
}

/// A reader that follows the journal.
#[derive(Debug)]
pub struct Tail {
    journal: Journal,
    last: watch::Receiver<u64>,
    next: u64,
}

impl Tail {
    /// The next entry, once there is one. `Ok(None)` when the writer is gone.
    ///
    /// Safe to drop while waiting: nothing is lost.
    pub async fn next(&mut self) -> Result<Option<Arc<Entry>>, Trimmed> {
        loop {
            if let Some(entry) = self.journal.get(self.next)? {
                self.next += 1;
                return Ok(Some(entry));
            }
            if self.last.wait_for(|last| *last >= self.next).await.is_err() {
                return Ok(None);
            }
        }
    }

    /// Number of the last entry that was handed out, or passed over.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.next - 1
    }

    /// Goes on at the end, over what could not be read.
    pub fn skip_to_end(&mut self) {
        self.next = self.journal.last() + 1;
    }
}

impl Ring {
    fn append(&mut self, update: ChainUpdate, seen: Instant, options: &Options) {
        self.last += 1;
        let seq = self.last;
        let update = match update {
            ChainUpdate::Head(header) => Update::Head(header),
            ChainUpdate::Logs(logs) => {
                self.remember(logs.block.hash, seq, options.entries);
                Update::Logs(logs)
            }
            ChainUpdate::Undo(undone) => Update::Undo(
                undone
                    .into_iter()
                    .map(|undone| {
                        let published = self.forget(undone.block.hash);
                        Removed { block: undone.block, logs: undone.logs.zip(published) }
                    })
                    .collect(),
            ),
            ChainUpdate::Gap => Update::Gap,
        };
        let entry = Arc::new(Entry { seq, seen, update });
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
        while self.entries.len() > 1 && (self.entries.len() > options.entries || self.bytes > options.bytes) {
            let oldest = self.entries.pop_front().expect("there is more than one");
            self.bytes -= oldest.bytes();
        }
    }

    fn forget(&mut self, hash: B256) -> Option<u64> {
        let published = self.published.remove(&hash)?;
        // What is undone is young: it stands near the end.
        let at = self.order.iter().rposition(|known| *known == hash).expect("both hold the same blocks");
        self.order.remove(at);
        Some(published)
    }

    fn remember(&mut self, hash: B256, seq: u64, most: usize) {
        if self.published.insert(hash, seq).is_none() {
            self.order.push_back(hash);
        }
        while self.order.len() > most {
            let oldest = self.order.pop_front().expect("it is not empty");
            self.published.remove(&oldest);
        }
    }
}

impl Entry {
    fn bytes(&self) -> usize {
        let of_logs = |logs: &BlockLogs| logs.logs.iter().map(|log| log.json.len() + 128).sum::<usize>();
        match &self.update {
            Update::Head(header) => header.json.len(),
            Update::Logs(logs) => of_logs(logs),
            // Shared with the entry that published them, while that is held.
            Update::Undo(removed) => removed.len() * 64,
            Update::Gap => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::Undone;

    fn logs(n: u8) -> Arc<BlockLogs> {
        Arc::new(BlockLogs { block: BlockRef { number: u64::from(n), hash: B256::repeat_byte(n) }, logs: vec![] })
    }

    fn undo(n: u8) -> ChainUpdate {
        ChainUpdate::Undo(vec![Undone { block: logs(n).block, logs: Some(logs(n)) }])
    }

    fn journal(entries: usize) -> Journal {
        Journal::new(Options { entries, bytes: usize::MAX })
    }

    #[tokio::test]
    async fn readers_get_every_entry_once_and_in_order() {
        let journal = journal(8);
        journal.append(ChainUpdate::Gap, Instant::now());
        let mut tail = journal.tail();
        for n in 1..=5 {
            journal.append(ChainUpdate::Logs(logs(n)), Instant::now());
        }
        for want in 2..=6 {
            assert_eq!(tail.next().await.unwrap().unwrap().seq, want);
        }
        let waiting = tokio::spawn(async move { tail.next().await.unwrap().unwrap().seq });
        journal.append(ChainUpdate::Gap, Instant::now());
        assert_eq!(waiting.await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_reader_that_is_too_far_behind_is_told() {
        let journal = journal(2);
        let mut tail = journal.tail();
        for n in 1..=5 {
            journal.append(ChainUpdate::Logs(logs(n)), Instant::now());
        }
        assert_eq!(tail.next().await.unwrap_err(), Trimmed { oldest: 4 });
        tail.skip_to_end();
        journal.append(ChainUpdate::Gap, Instant::now());
        assert_eq!(tail.next().await.unwrap().unwrap().seq, 6);
    }

    #[test]
    fn a_removal_knows_when_its_logs_were_published_also_the_second_time() {
        let journal = journal(16);
        for update in [ChainUpdate::Logs(logs(1)), undo(1), ChainUpdate::Logs(logs(1)), undo(1), undo(1)] {
            journal.append(update, Instant::now());
        }
        let published = |seq| match &journal.get(seq).unwrap().unwrap().update {
            Update::Undo(removed) => removed[0].logs.as_ref().map(|(_, seq)| *seq),
            _ => panic!("not an undo"),
        };
        assert_eq!((published(2), published(4), published(5)), (Some(1), Some(3), None));
    }

    #[test]
    fn bytes_are_bounded_too() {
        let journal = Journal::new(Options { entries: 100, bytes: 100 });
        let header = |n: u64| {
            ChainUpdate::Head(Arc::new(Header {
                number: n,
                hash: B256::ZERO,
                parent: B256::ZERO,
                timestamp: 0,
                bloom: None,
                json: bytes::Bytes::from(vec![b' '; 40]),
            }))
        };
        for n in 0..10 {
            journal.append(header(n), Instant::now());
        }
        assert_eq!(journal.held(), 2);
    }
}
