//! The canonical chain's newest blocks: what was published of them, and what is still missing of their logs.
//!
//! Owns the order of publication: entries are linked by parent hash, and logs come out in the order of the blocks, each
//! block's once for each time that it joins. Does not know nodes. Pure.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use alloy_primitives::B256;

use super::Bounds;
use super::ask::Ask;
use super::logs::{Blooms, Incomplete};
use crate::chain::{BlockLogs, Header, Log, NodeId, Undone};

#[derive(Debug)]
enum Logs {
    Wanted(Ask),
    Complete(Arc<BlockLogs>),
    Published(Arc<BlockLogs>),
}

#[derive(Debug)]
struct Entry {
    header: Arc<Header>,
    since: Instant,
    logs: Logs,
}

impl Entry {
    fn undo(self) -> Undone {
        let logs = match self.logs {
            Logs::Published(logs) => Some(logs),
            Logs::Wanted(_) | Logs::Complete(_) => None,
        };
        Undone { block: self.header.block(), logs }
    }
}

/// The window.
#[derive(Debug)]
pub(super) struct Window {
    entries: VecDeque<Entry>,
    /// How many entries at the front have their logs published.
    published: usize,
    /// Blocks that were published are no longer here.
    cut: bool,
    bytes: usize,
    /// When logs were last published, or entries left.
    progress: Option<Instant>,
    blocks_max: usize,
    bytes_max: usize,
    logs_in_flight: usize,
}

impl Window {
    pub(super) fn new(bounds: &Bounds) -> Self {
        Self {
            entries: VecDeque::new(),
            published: 0,
            cut: false,
            bytes: 0,
            progress: None,
            blocks_max: bounds.window,
            bytes_max: bounds.window_bytes,
            logs_in_flight: bounds.logs_in_flight,
        }
    }

    pub(super) fn tip(&self) -> Option<&Arc<Header>> {
        self.entries.back().map(|entry| &entry.header)
    }

    pub(super) fn first(&self) -> Option<&Arc<Header>> {
        self.entries.front().map(|entry| &entry.header)
    }

    /// Number of heads whose logs are not published yet.
    pub(super) fn waiting(&self) -> usize {
        self.entries.len() - self.published
    }

    /// Since when the oldest missing logs are missing, and were the oldest.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.entries.get(self.published).map(|entry| self.progress.map_or(entry.since, |at| at.max(entry.since)))
    }

    /// No answer comes of this node any more.
    pub(super) fn gone(&mut self, node: NodeId, now: Instant) {
        self.wanted_asks().for_each(|ask| ask.gone(node, now));
    }

    fn wanted_asks(&mut self) -> impl Iterator<Item = &mut Ask> {
        self.entries.iter_mut().skip(self.published).filter_map(|entry| match &mut entry.logs {
            Logs::Wanted(ask) => Some(ask),
            Logs::Complete(_) | Logs::Published(_) => None,
        })
    }

    /// The block at a place.
    pub(super) fn get(&self, at: usize) -> Option<&Arc<Header>> {
        self.entries.get(at).map(|entry| &entry.header)
    }

    /// Place of a block, if it is in the chain.
    pub(super) fn position(&self, number: u64, hash: B256) -> Option<usize> {
        let at = usize::try_from(number.checked_sub(self.first()?.number)?).ok()?;
        self.entries.get(at).filter(|entry| entry.header.hash == hash).map(|_| at)
    }

    /// Most blocks that are kept.
    pub(super) fn blocks_max(&self) -> usize {
        self.blocks_max
    }

    /// Whether blocks below the first may be put under it: none that was published is gone, and there is room.
    pub(super) fn may_grow_down(&self) -> bool {
        let above_genesis = self.first().is_some_and(|first| first.number > 0);
        !self.cut && self.entries.len() < self.blocks_max && above_genesis
    }

    /// Puts the parent of the first block under it, as known but never published.
    pub(super) fn put_under(&mut self, header: Arc<Header>, now: Instant) {
        let none = Arc::new(BlockLogs { block: header.block(), logs: Vec::new() });
        self.entries.push_front(Entry { header, since: now, logs: Logs::Published(none) });
        self.published += 1;
    }

    /// Puts a block on the tip. `none` where it is known to have no logs.
    pub(super) fn push(&mut self, header: Arc<Header>, none: bool, now: Instant) {
        let logs = if none {
            Logs::Complete(Arc::new(BlockLogs { block: header.block(), logs: Vec::new() }))
        } else {
            Logs::Wanted(Ask::new(now))
        };
        self.entries.push_back(Entry { header, since: now, logs });
    }

    /// Takes off all entries but the first `keep`, newest first.
    pub(super) fn undo(&mut self, keep: usize) -> Vec<Undone> {
        let undone: Vec<Undone> = self.entries.drain(keep..).rev().map(Entry::undo).collect();
        self.bytes -= undone.iter().filter_map(|u| u.logs.as_deref()).map(logs_bytes).sum::<usize>();
        self.published = self.published.min(keep);
        undone
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        (self.published, self.bytes, self.cut) = (0, 0, false);
    }

    /// What is being asked for: the oldest blocks whose logs are missing, as many as may be asked for at a time.
    pub(super) fn wanted(&mut self) -> impl Iterator<Item = (B256, &mut Ask)> {
        let first = self.entries.iter_mut().skip(self.published).take(self.logs_in_flight);
        first.filter_map(|entry| match &mut entry.logs {
            Logs::Wanted(ask) => Some((entry.header.hash, ask)),
            Logs::Complete(_) | Logs::Published(_) => None,
        })
    }

    /// When the next of [`Window::wanted`] is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let first = self.entries.iter().skip(self.published).take(self.logs_in_flight);
        let due = first.filter_map(|entry| match &entry.logs {
            Logs::Wanted(ask) => Some(ask.due),
            Logs::Complete(_) | Logs::Published(_) => None,
        });
        due.min()
    }

    /// What waits is asked for now; with `anew`, the time for it starts anew.
    pub(super) fn hurry(&mut self, anew: bool, now: Instant) {
        for entry in self.entries.iter_mut().skip(self.published) {
            if anew {
                entry.since = now;
            }
            if let Logs::Wanted(ask) = &mut entry.logs {
                ask.hurry(now);
            }
        }
    }

    /// Takes a node's answer to a question for logs. `Err` says why they are not all; they are then asked for again.
    pub(super) fn answered(
        &mut self,
        node: NodeId,
        hash: B256,
        logs: Option<Vec<Log>>,
        blooms: &mut Blooms,
        now: Instant,
    ) -> Result<(), Incomplete> {
        let wanted = |entry: &&mut Entry| entry.header.hash == hash && matches!(entry.logs, Logs::Wanted(_));
        let Some(entry) = self.entries.iter_mut().skip(self.published).find(wanted) else { return Ok(()) };
        let judged = logs.ok_or(Incomplete::Absent).and_then(|logs| {
            blooms.check(&entry.header, &logs)?;
            Ok(logs)
        });
        match judged {
            Ok(logs) => entry.logs = Logs::Complete(Arc::new(BlockLogs { block: entry.header.block(), logs })),
            Err(why) => {
                if let Logs::Wanted(ask) = &mut entry.logs {
                    ask.failed(node, now);
                }
                return Err(why);
            }
        }
        Ok(())
    }

    /// The next logs to publish, if they are complete; they are then published.
    pub(super) fn publish_next(&mut self, now: Instant) -> Option<Arc<BlockLogs>> {
        let entry = self.entries.get_mut(self.published)?;
        let Logs::Complete(logs) = &entry.logs else { return None };
        let logs = logs.clone();
        entry.logs = Logs::Published(logs.clone());
        self.bytes += logs_bytes(&logs);
        self.published += 1;
        self.progress = Some(now);
        Some(logs)
    }

    /// Forgets the oldest blocks beyond the bounds, those whose logs are not published and the newest one aside.
    pub(super) fn trim(&mut self) {
        while (self.entries.len() > self.blocks_max || self.bytes > self.bytes_max) && self.published > 1 {
            let oldest = self.entries.pop_front().expect("an entry is published");
            (self.published, self.cut) = (self.published - 1, true);
            self.bytes -= oldest.undo().logs.map_or(0, |logs| logs_bytes(&logs));
        }
    }
}

fn logs_bytes(logs: &BlockLogs) -> usize {
    logs.logs.iter().map(|log| log.json.len() + 128).sum()
}
