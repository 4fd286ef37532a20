//! Filters that want the logs of some blocks only: which of them can want a log now.
//!
//! Others are kept out of the index's tables, so that 100,000 filters for blocks that are far away cost a log nothing.
//! What is decided by the tip is only who is in the tables: a log of a block before or beyond the tip, as in a reorg,
//! is asked about among the others too: there all filters that ended from that block on are asked, so a block whose logs
//! come late, or are undone, costs more if very many filters end with it. Does not know what else filters say. Pure.

use std::collections::BTreeSet;

/// The filters that have a first or last block, each in one of the sets at most.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    /// The highest block that was heard of.
    tip: u64,
    /// First block and id of filters that begin beyond the tip.
    early: BTreeSet<(u64, u32)>,
    /// Last block and id of filters that the tip lies in.
    open: BTreeSet<(u64, u32)>,
    /// Last block and id of filters that ended before the tip.
    past: BTreeSet<(u64, u32)>,
}

/// What the tip's rise means for one filter.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is to be admitted anew: the tip has reached its first block.
    Begins(u32),
    /// It is to leave the tables: the tip has passed its last block.
    Ends(u32),
}

impl Ranges {
    /// Takes a filter in. Returns whether it belongs in the tables.
    pub(super) fn admit(&mut self, id: u32, first: u64, last: u64) -> bool {
        if first > self.tip {
            self.early.insert((first, id));
        } else if last < self.tip {
            self.past.insert((last, id));
        } else {
            if last < u64::MAX {
                self.open.insert((last, id));
            }
            return true;
        }
        false
    }

    /// Forgets a filter. Returns whether it is in the tables.
    pub(super) fn dismiss(&mut self, id: u32, first: u64, last: u64) -> bool {
        let out = self.early.remove(&(first, id)) || self.past.remove(&(last, id));
        if !out {
            self.open.remove(&(last, id));
        }
        !out
    }

    /// Hears of a block.
    pub(super) fn hear(&mut self, number: u64) {
        self.tip = self.tip.max(number);
    }

    /// The next filter that is not where the tip wants it.
    pub(super) fn turn(&mut self) -> Option<Turn> {
        if self.early.first().is_some_and(|(first, _)| *first <= self.tip) {
            return self.early.pop_first().map(|(_, id)| Turn::Begins(id));
        }
        let ended = self.open.first().copied().filter(|(last, _)| *last < self.tip)?;
        self.open.remove(&ended);
        self.past.insert(ended);
        Some(Turn::Ends(ended.1))
    }

    /// Filters that are not in the tables and yet may want a log of this block.
    pub(super) fn others(&self, number: u64) -> impl Iterator<Item = u32> {
        let early = self.early.range(..=(number, u32::MAX));
        early.chain(self.past.range((number, 0)..)).map(|(_, id)| *id)
    }
}
