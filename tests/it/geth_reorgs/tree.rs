//! The tree of blocks that a test moves about in: a trunk, long branches from its top, and shorter ones from these.
//!
//! Owns the shape, and the way between two blocks of it.

use std::collections::HashMap;
use std::sync::Arc;

use rand::Rng;
use rand::rngs::StdRng;

use crate::harness::engine::{Block, Lab};

/// The longest way down from a block to the top of the trunk, so the deepest reorg.
pub(super) const DEEPEST: usize = 32;
/// Blocks that all branches have in common, genesis aside.
const TRUNK: usize = 3;
const LONG_BRANCHES: usize = 3;
const SHORT_BRANCHES: usize = 10;
/// What transactions a block may have: so many ticks each.
const TICKS: [&[u64]; 8] = [&[], &[0], &[1], &[2, 0], &[4], &[], &[1, 1, 1], &[0, 7]];

pub(super) struct Tree {
    /// Parents first; the trunk is at the front.
    blocks: Vec<Arc<Block>>,
    by_hash: HashMap<String, usize>,
}

impl Tree {
    pub(super) async fn grow(lab: &mut Lab, rng: &mut StdRng) -> Self {
        let genesis = lab.genesis().await;
        let mut tree = Self { blocks: Vec::new(), by_hash: HashMap::new() };
        tree.add(lab.branch(&genesis, &TICKS[1..=TRUNK]).await);
        let top = tree.top().clone();
        for _ in 0..LONG_BRANCHES {
            tree.add(lab.branch(&top, &ticks(rng, DEEPEST)).await);
        }
        for _ in 0..SHORT_BRANCHES {
            let parent = tree.blocks[rng.random_range(TRUNK..tree.blocks.len())].clone();
            let room = DEEPEST - tree.above_top(&parent);
            let length = rng.random_range(0..=room.min(12));
            tree.add(lab.branch(&parent, &ticks(rng, length)).await);
        }
        tree
    }

    fn add(&mut self, blocks: Vec<Arc<Block>>) {
        for block in blocks {
            self.by_hash.insert(block.hash.clone(), self.blocks.len());
            self.blocks.push(block);
        }
    }

    pub(super) fn blocks(&self) -> &[Arc<Block>] {
        &self.blocks
    }

    /// The block from which all branches grow.
    pub(super) fn top(&self) -> &Arc<Block> {
        &self.blocks[TRUNK - 1]
    }

    /// The blocks of the branches.
    pub(super) fn branches(&self) -> &[Arc<Block>] {
        &self.blocks[TRUNK..]
    }

    /// How far a block is above the top of the trunk.
    pub(super) fn above_top(&self, block: &Block) -> usize {
        usize::try_from(block.number - self.top().number).expect("the tree is small")
    }

    fn parent(&self, block: &Block) -> &Arc<Block> {
        &self.blocks[self.by_hash[&block.parent]]
    }

    /// How many blocks are undone and how many added on the way from one block to another.
    pub(super) fn way(&self, from: &Arc<Block>, to: &Arc<Block>) -> (usize, usize) {
        let (mut left, mut right, mut undone, mut added) = (from, to, 0, 0);
        while left.hash != right.hash {
            if left.number >= right.number {
                (left, undone) = (self.parent(left), undone + 1);
            } else {
                (right, added) = (self.parent(right), added + 1);
            }
        }
        (undone, added)
    }
}

fn ticks(rng: &mut StdRng, blocks: usize) -> Vec<&'static [u64]> {
    (0..blocks).map(|_| TICKS[rng.random_range(0..TICKS.len())]).collect()
}
