//! Two Geths that are fed the same blocks, each as soon as it can take them.
//!
//! Owns both nodes, the course of the chain, and what a node must be given after it was away. Measures nothing.

use std::sync::Arc;
use std::time::Instant;

use rand::Rng;
use rand::rngs::StdRng;

use super::recovery::Cause;
use crate::harness::engine::{Block, EngineNode, KEEPING_STATES, Lab, Oracle};

/// Most blocks that a reorg undoes.
const DEEPEST: usize = 4;
/// Blocks before the first client comes: enough that they are on disk when a node is killed.
const TRUNK: usize = 40;
/// What transactions a block may have: so many ticks each.
const TICKS: [&[u64]; 6] = [&[1], &[], &[2, 0], &[0], &[1, 1], &[3]];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is given each block as it is made.
    Up,
    Away,
    /// It was told to come back, and does not answer yet or lacks blocks.
    Returning,
}

pub(super) struct Pair {
    lab: Lab,
    nodes: [(EngineNode, State); 2],
    tip: Arc<Block>,
    rng: StdRng,
    blocks: usize,
    reorgs: usize,
}

/// A head that a node took.
pub(super) type Accepted = Option<(Arc<Block>, Instant)>;

impl Pair {
    /// Both stand at the same block.
    pub(super) async fn start(rng: StdRng) -> Self {
        let mut lab = Lab::start().await;
        let first = EngineNode::start(KEEPING_STATES).await;
        let second = EngineNode::start(KEEPING_STATES).await;
        let tip = lab.genesis().await;
        let trunk = lab.branch(&tip, &[TICKS[0]; TRUNK]).await;
        let tip = trunk.last().expect("there are several").clone();
        let mut pair = Self {
            lab,
            nodes: [(first, State::Returning), (second, State::Returning)],
            tip,
            rng,
            blocks: 0,
            reorgs: 0,
        };
        pair.feed(&[]).await;
        assert!(pair.all_up());
        pair
    }

    pub(super) fn urls(&self) -> [String; 2] {
        self.nodes.each_ref().map(|(node, _)| node.ws_url())
    }

    pub(super) fn oracle(&self) -> &Arc<Oracle> {
        &self.lab.oracle
    }

    pub(super) fn tip(&self) -> &Arc<Block> {
        &self.tip
    }

    /// How many blocks there were, and how many times some of them gave way.
    pub(super) fn made(&self) -> (usize, usize) {
        (self.blocks, self.reorgs)
    }

    pub(super) fn all_up(&self) -> bool {
        self.nodes.iter().all(|(_, state)| *state == State::Up)
    }

    pub(super) fn fail(&mut self, nodes: &[usize], cause: Cause) {
        for at in nodes {
            let (node, state) = &mut self.nodes[*at];
            match cause {
                Cause::Kill => node.kill(),
                Cause::Stall => node.freeze(),
            }
            *state = State::Away;
        }
    }

    /// They come back by themselves, some beats later.
    pub(super) fn heal(&mut self, nodes: &[usize], cause: Cause) {
        for at in nodes {
            let (node, state) = &mut self.nodes[*at];
            match cause {
                Cause::Kill => node.restart(),
                Cause::Stall => node.thaw(),
            }
            *state = State::Returning;
        }
    }

    /// A new head: mostly a block more, now and then a reorg told by its tip. Says whether a node took it.
    pub(super) async fn next_head(&mut self) -> Accepted {
        let made = if self.rng.random_bool(0.2) { self.reorg().await } else { self.extend(1).await };
        self.feed(&made).await
    }

    async fn extend(&mut self, blocks: usize) -> Vec<Arc<Block>> {
        let mut made = Vec::with_capacity(blocks);
        for _ in 0..blocks {
            let ticks = TICKS[self.rng.random_range(0..TICKS.len())];
            self.tip = self.lab.build(&self.tip, ticks).await;
            made.push(self.tip.clone());
        }
        self.blocks += blocks;
        made
    }

    /// While a node is away the new branch is always the longer one: at equal height the absent node's word would count.
    async fn reorg(&mut self) -> Vec<Arc<Block>> {
        let depth = self.rng.random_range(1..=DEEPEST);
        let above = self.lab.oracle.chain(&self.tip, self.tip.number - depth as u64);
        self.tip = above[0].clone();
        self.reorgs += 1;
        let more = if self.all_up() { self.rng.random_range(0..=1) } else { 1 };
        self.extend(depth + more).await
    }

    /// Gives the new blocks to each node that is up, and all that it lacks to one that is back.
    async fn feed(&mut self, made: &[Arc<Block>]) -> Accepted {
        let (mut accepted, tip, oracle) = (None, self.tip.clone(), self.lab.oracle.clone());
        for (node, state) in &mut self.nodes {
            match state {
                State::Away => continue,
                State::Returning if !node.answers().await => continue,
                State::Returning => catch_up(node, &oracle.chain(&tip, 1)).await,
                State::Up => {
                    for block in made {
                        node.give(block).await;
                    }
                    node.set_head(&tip).await;
                }
            }
            *state = State::Up;
            accepted.get_or_insert_with(|| (tip.clone(), Instant::now()));
        }
        accepted
    }
}

/// Gives a node the part of the chain that it lacks, and makes the tip its head.
///
/// A Geth that was killed may have a block whose state it had not written, and then takes none on it. It works the state
/// out again when the block is made its head.
async fn catch_up(node: &EngineNode, chain: &[Arc<Block>]) {
    let mut known = chain.len();
    while known > 0 && !node.has(&chain[known - 1]).await {
        known -= 1;
    }
    if known > 0 {
        node.set_head(&chain[known - 1]).await;
    }
    for block in &chain[known..] {
        node.give(block).await;
    }
    node.set_head(chain.last().expect("the chain has blocks")).await;
}
