//! How far the chain is final: the nodes' `safe` and `finalized` blocks, as far as they are ours.
//!
//! Owns when they are asked for. Finality only ever moves up, and only along our own chain. Pure.

use std::time::{Duration, Instant};

use super::window::Window;
use crate::chain::BlockRef;

/// Finality of one chain.
#[derive(Debug)]
pub(super) struct Finality {
    every: Duration,
    asked: Option<Instant>,
    head_moved: bool,
    safe: Option<BlockRef>,
    finalized: Option<BlockRef>,
}

impl Finality {
    /// To be asked for at most once in `every`.
    pub(super) fn new(every: Duration) -> Self {
        Self { every, asked: None, head_moved: false, safe: None, finalized: None }
    }

    pub(super) fn safe(&self) -> Option<BlockRef> {
        self.safe
    }

    /// Nothing at or below this block is undone.
    pub(super) fn finalized(&self) -> Option<BlockRef> {
        self.finalized
    }

    /// There is a new head, so there may be news.
    pub(super) fn head_moved(&mut self) {
        self.head_moved = true;
    }

    /// When to ask next, if there has been a new head since.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.asked.filter(|_| self.head_moved).map(|asked| asked + self.every)
    }

    /// Whether to ask now; it then counts as asked.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let due = self.head_moved && self.asked.is_none_or(|asked| asked + self.every <= now);
        if due {
            (self.asked, self.head_moved) = (Some(now), false);
        }
        due
    }

    /// A node's answer. What contradicts our chain, or is ahead of it, does not count.
    pub(super) fn learn(&mut self, window: &Window, safe: Option<BlockRef>, finalized: Option<BlockRef>) {
        let ours = |block: &BlockRef| {
            let Some(first) = window.first() else { return false };
            block.number < first.number || window.position(block.number, block.hash).is_some()
        };
        let higher = |new: &BlockRef| self.finalized.is_none_or(|old| new.number > old.number);
        self.finalized = finalized.filter(ours).filter(higher).or(self.finalized);
        // The safe block may go back, though not below what is final.
        self.safe = safe.filter(ours).or(self.safe);
    }
}
