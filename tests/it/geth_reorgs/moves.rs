//! Where the head goes next: every depth first, then any mixture of jumps, replacements, shorter branches and flips.
//!
//! Owns the choice and the count of what was chosen. Moves nothing itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::tree::{DEEPEST, Tree};
use crate::harness::engine::Block;

/// Most moves that follow each other without waiting.
const BURST: usize = 8;

pub(super) struct Moves<'t> {
    tree: &'t Tree,
    at: Arc<Block>,
    /// The depth that is next to be shown.
    shown: usize,
    depths: BTreeMap<usize, usize>,
    kinds: BTreeMap<&'static str, usize>,
    added: usize,
}

impl<'t> Moves<'t> {
    /// From the top of the trunk.
    pub(super) fn new(tree: &'t Tree) -> Self {
        let at = tree.top().clone();
        Self { tree, at, shown: 0, depths: BTreeMap::new(), kinds: BTreeMap::new(), added: 0 }
    }

    /// Moves that undid something.
    pub(super) fn reorgs(&self) -> usize {
        self.depths.values().sum()
    }

    /// How many reorgs there were of each depth.
    pub(super) fn depths(&self) -> &BTreeMap<usize, usize> {
        &self.depths
    }

    /// How many moves there were of each kind; a move may be of several.
    pub(super) fn kinds(&self) -> &BTreeMap<&'static str, usize> {
        &self.kinds
    }

    /// How many heads all moves together brought.
    pub(super) fn added(&self) -> usize {
        self.added
    }

    pub(super) fn assert_every_kind(&self) {
        assert!((1..=DEEPEST).all(|depth| self.depths.contains_key(&depth)), "not every depth: {:?}", self.depths);
        for kind in ["jump", "same height", "shorter", "longer", "flip", "without waiting"] {
            assert!(self.kinds.get(kind).is_some_and(|count| *count > 2), "hardly any {kind}: {:?}", self.kinds);
        }
    }

    /// The next blocks that the head is to go to, one right after the other.
    pub(super) fn next(&mut self, rng: &mut StdRng) -> Vec<Arc<Block>> {
        if self.shown < DEEPEST {
            return self.of_depth(rng, self.shown + 1);
        }
        match rng.random_range(0..5) {
            0 => self.flip(rng),
            1 => self.burst(rng),
            2 => self.one(rng, |at, to| to.number == at.number),
            3 => self.one(rng, |at, to| to.number < at.number),
            _ => self.one(rng, |_, _| true),
        }
    }

    /// To a block as high as this above the trunk, and next time from there to another long branch: a reorg of this depth.
    fn of_depth(&mut self, rng: &mut StdRng, depth: usize) -> Vec<Arc<Block>> {
        let to = if self.tree.above_top(&self.at) == depth {
            self.shown = depth;
            self.any(rng, |tree, at, to| tree.way(at, to).0 == depth)
        } else {
            let to = self.any(rng, |tree, at, to| tree.above_top(to) == depth && leaves(tree, at, to));
            to.or_else(|| self.any(rng, leaves))
        };
        let to = to.expect("there are other long branches");
        self.went(&to);
        vec![to]
    }

    fn one(&mut self, rng: &mut StdRng, fits: impl Fn(&Block, &Block) -> bool) -> Vec<Arc<Block>> {
        let to = self.any(rng, |tree, at, to| leaves(tree, at, to) && fits(at, to));
        let to = to.or_else(|| self.any(rng, leaves)).expect("there is always another branch");
        self.went(&to);
        vec![to]
    }

    /// There and back, several times.
    fn flip(&mut self, rng: &mut StdRng) -> Vec<Arc<Block>> {
        let home = self.at.clone();
        let there = self.any(rng, |tree, at, to| tree.way(at, to).0 > 0 && tree.way(to, at).0 > 0);
        let there = there.expect("there is always another branch");
        let way: Vec<_> = std::iter::repeat_n([there, home], rng.random_range(1..=3)).flatten().collect();
        way.iter().for_each(|block| self.went(block));
        self.count("flip", way.len());
        way
    }

    fn burst(&mut self, rng: &mut StdRng) -> Vec<Arc<Block>> {
        let way: Vec<_> = (0..rng.random_range(2..=BURST)).flat_map(|_| self.one(rng, |_, _| true)).collect();
        self.count("without waiting", way.len());
        way
    }

    /// A block of the branches, by chance.
    fn any(&self, rng: &mut StdRng, fits: impl Fn(&Tree, &Arc<Block>, &Arc<Block>) -> bool) -> Option<Arc<Block>> {
        let all: Vec<_> = self.tree.branches().iter().filter(|to| fits(self.tree, &self.at, to)).collect();
        all.choose(rng).map(|block| Arc::clone(block))
    }

    fn went(&mut self, to: &Arc<Block>) {
        let (undone, added) = self.tree.way(&self.at, to);
        self.added += added;
        if undone > 0 {
            *self.depths.entry(undone).or_default() += 1;
        }
        self.count(if undone > 0 { "reorg" } else { "extension" }, 1);
        self.count("jump", usize::from(added > 1));
        if undone > 0 {
            let kind = match added.cmp(&undone) {
                std::cmp::Ordering::Less => "shorter",
                std::cmp::Ordering::Equal => "same height",
                std::cmp::Ordering::Greater => "longer",
            };
            self.count(kind, 1);
        }
        self.at = to.clone();
    }

    fn count(&mut self, kind: &'static str, many: usize) {
        *self.kinds.entry(kind).or_default() += many;
    }
}

/// Whether there is something to add on the way; Geth ignores a head that is an ancestor of its own.
fn leaves(tree: &Tree, at: &Arc<Block>, to: &Arc<Block>) -> bool {
    tree.way(at, to).1 > 0
}
