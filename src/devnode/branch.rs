//! One view of a chain: the blocks from genesis to a head, by number, and what changes when the head moves.
//!
//! Owns the walk from one head to another. Does not know which heads there are. Pure.

use std::collections::VecDeque;
use std::sync::Arc;

use alloy_primitives::B256;

use super::block::Block;

/// What a move of the head took away and brought.
#[derive(Debug, Default)]
pub struct HeadChange {
    /// Blocks that are no longer on the branch, newest first.
    pub removed: Vec<Arc<Block>>,
    /// Blocks that came onto the branch, oldest first.
    pub added: Vec<Arc<Block>>,
}

/// The blocks that lead to a head.
#[derive(Debug)]
pub(super) struct Branch {
    genesis: Arc<Block>,
    /// Blocks after genesis, without a gap, the head last; the oldest are let go beyond `keep`.
    blocks: VecDeque<Arc<Block>>,
    keep: usize,
}

impl Branch {
    /// A branch whose head is genesis and that remembers so many blocks.
    pub(super) fn new(genesis: Arc<Block>, keep: usize) -> Self {
        Self { genesis, blocks: VecDeque::new(), keep: keep.max(1) }
    }

    pub(super) fn head(&self) -> &Arc<Block> {
        self.blocks.back().unwrap_or(&self.genesis)
    }

    pub(super) fn genesis(&self) -> &Arc<Block> {
        &self.genesis
    }

    /// The block of this height, if it is on the branch and still remembered.
    pub(super) fn at(&self, number: u64) -> Option<&Arc<Block>> {
        if number == 0 {
            return Some(&self.genesis);
        }
        let offset = number.checked_sub(self.blocks.front()?.number())?;
        self.blocks.get(usize::try_from(offset).ok()?)
    }

    /// Whether this very block is on the branch.
    pub(super) fn contains(&self, block: &Block) -> bool {
        self.at(block.number()).is_some_and(|ours| ours.hash() == block.hash())
    }

    /// The remembered blocks, genesis first.
    pub(super) fn blocks(&self) -> impl Iterator<Item = &Arc<Block>> {
        std::iter::once(&self.genesis).chain(&self.blocks)
    }

    /// Makes `head` the head. A walk that meets neither this branch nor genesis (its blocks were let go) starts the branch
    /// anew at the oldest block it reached, and then nothing counts as removed.
    pub(super) fn move_to(&mut self, head: &Arc<Block>, block: impl Fn(B256) -> Option<Arc<Block>>) -> HeadChange {
        let mut change = HeadChange::default();
        let mut walk = Some(Arc::clone(head));
        while let Some(step) = walk.take_if(|step| !self.contains(step)) {
            walk = block(step.parent_hash());
            change.added.push(step);
        }
        change.added.reverse();
        match walk {
            Some(ancestor) => {
                while self.head().number() > ancestor.number() {
                    change.removed.extend(self.blocks.pop_back());
                }
            }
            None => self.blocks.clear(),
        }
        self.blocks.extend(change.added.iter().cloned());
        while self.blocks.len() > self.keep {
            self.blocks.pop_front();
        }
        change
    }
}
