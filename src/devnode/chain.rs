//! The development chain: a tree of blocks and the head that counts.
//!
//! Owns making blocks on any parent, moving the head, and the pool of transactions that wait for a block. Does not know
//! clocks, tasks or nodes: time is an argument. Pure: the same options and the same calls give the same hashes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use alloy_primitives::B256;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::block::{Block, BlockRef};
use super::branch::{Branch, HeadChange};
use super::economy::Economy;
use super::transaction::Transaction;

/// The most transactions that wait for a block; beyond it the oldest are forgotten.
const POOL_CAP: usize = 4_096;
/// How likely a waiting transaction that fits is taken into a block.
const TAKE_WAITING: f64 = 0.75;

/// How a development chain is laid out.
#[derive(Debug, Clone)]
pub struct DevOptions {
    /// What `eth_chainId` answers.
    pub chain_id: u64,
    /// The timestamp of genesis in seconds of Unix time.
    pub genesis_time: u64,
    /// Everything random is drawn from this.
    pub seed: u64,
    /// How many ERC-20 contracts there are, at least 1.
    pub tokens: u16,
    /// How many accounts transfers go between, at least 1.
    pub holders: u16,
    /// Logs of a block where the caller does not say.
    pub logs_per_block: usize,
    /// New transactions announced as pending with each change of the head.
    pub pending_per_block: usize,
    /// Blocks remembered, branches included. A reorg must not reach deeper.
    pub keep_blocks: usize,
    /// Where timestamps come from.
    pub block_time: BlockTime,
    /// How far below its head a node's `safe` block is.
    pub safe_depth: u64,
    /// How far below its head a node's `finalized` block is.
    pub finalized_depth: u64,
}

/// Where the timestamps of blocks come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockTime {
    /// So many seconds after the parent: hashes do not depend on when a test runs.
    Step(u64),
    /// The machine's clock, never before the parent.
    Wall,
}

impl Default for DevOptions {
    fn default() -> Self {
        Self {
            chain_id: 1337,
            genesis_time: 1_700_000_000,
            seed: 1,
            tokens: 4,
            holders: 48,
            logs_per_block: 10,
            pending_per_block: 3,
            keep_blocks: 8_192,
            block_time: BlockTime::Step(1),
            safe_depth: 8,
            finalized_depth: 16,
        }
    }
}

/// A block and the number of head changes after which nodes know it.
#[derive(Debug)]
struct Known {
    block: Arc<Block>,
    since: u64,
}

/// The tree of blocks.
#[derive(Debug)]
pub struct DevChain {
    options: DevOptions,
    economy: Arc<Economy>,
    rng: StdRng,
    blocks: HashMap<B256, Known>,
    /// Hashes in the order they were made, genesis left out: the order of forgetting.
    made: VecDeque<B256>,
    canonical: Branch,
    head_changes: u64,
    /// Blocks a transaction stands in, on whatever branch.
    included: HashMap<B256, Vec<B256>>,
    /// Transactions that wait, oldest first.
    pool: VecDeque<Arc<Transaction>>,
    composed: u64,
}

impl DevChain {
    /// A chain of genesis alone.
    #[must_use]
    pub fn new(options: DevOptions) -> Self {
        let economy = Arc::new(Economy::new(options.tokens, options.holders));
        let genesis = Arc::new(Block::genesis(Arc::clone(&economy), options.chain_id, options.genesis_time));
        Self {
            rng: StdRng::seed_from_u64(options.seed),
            blocks: HashMap::from([(genesis.hash(), Known { block: Arc::clone(&genesis), since: 0 })]),
            made: VecDeque::new(),
            canonical: Branch::new(genesis, options.keep_blocks),
            head_changes: 0,
            included: HashMap::new(),
            pool: VecDeque::new(),
            composed: 0,
            economy,
            options,
        }
    }

    /// How it was laid out.
    #[must_use]
    pub fn options(&self) -> &DevOptions {
        &self.options
    }

    /// Its tokens and holders.
    #[must_use]
    pub fn economy(&self) -> &Arc<Economy> {
        &self.economy
    }

    /// The block that counts.
    #[must_use]
    pub fn head(&self) -> &Arc<Block> {
        self.canonical.head()
    }

    /// Block 0.
    #[must_use]
    pub fn genesis(&self) -> &Arc<Block> {
        self.canonical.genesis()
    }

    /// Any remembered block of any branch.
    #[must_use]
    pub fn block(&self, hash: B256) -> Option<&Arc<Block>> {
        self.blocks.get(&hash).map(|known| &known.block)
    }

    /// The block of this height on the way to the head.
    #[must_use]
    pub fn canonical_at(&self, number: u64) -> Option<&Arc<Block>> {
        self.canonical.at(number)
    }

    /// The remembered blocks on the way to the head, genesis first.
    pub fn canonical_blocks(&self) -> impl Iterator<Item = &Arc<Block>> {
        self.canonical.blocks()
    }

    /// How many blocks are remembered, of all branches, genesis included.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.blocks.len()
    }

    /// How often the head moved.
    #[must_use]
    pub fn head_changes(&self) -> u64 {
        self.head_changes
    }

    /// The number of head changes after which nodes know this block.
    pub(super) fn known_since(&self, hash: B256) -> Option<u64> {
        self.blocks.get(&hash).map(|known| known.since)
    }

    /// The blocks a transaction stands in, on whatever branch.
    pub(super) fn inclusions(&self, transaction: B256) -> &[B256] {
        self.included.get(&transaction).map_or(&[], Vec::as_slice)
    }

    /// A transaction that waits for a block.
    pub(super) fn waiting(&self, transaction: B256) -> Option<&Arc<Transaction>> {
        self.pool.iter().find(|tx| tx.hash() == transaction)
    }

    /// Makes a block with exactly so many logs on any remembered parent; the head stays. Some of its transactions are ones
    /// that wait, or those of blocks that this branch would orphan: a transaction may be mined again elsewhere.
    ///
    /// # Panics
    /// If the parent is not remembered.
    pub fn build(&mut self, parent: B256, logs: usize, timestamp: u64) -> Arc<Block> {
        let parent = Arc::clone(self.block(parent).expect("the parent is a remembered block"));
        let transactions = self.fill(&parent, logs);
        let salt = B256::from(self.rng.random::<[u8; 32]>());
        let block = Arc::new(Block::after(&parent, transactions, timestamp, salt));
        for tx in block.transactions() {
            self.included.entry(tx.hash()).or_default().push(block.hash());
        }
        self.blocks.insert(block.hash(), Known { block: Arc::clone(&block), since: self.head_changes + 1 });
        self.made.push_back(block.hash());
        self.forget_oldest();
        block
    }

    /// Moves the head to any remembered block: a longer, equal or shorter branch, or an ancestor.
    ///
    /// # Panics
    /// If the block is not remembered.
    pub fn set_head(&mut self, hash: B256) -> HeadChange {
        let head = Arc::clone(self.block(hash).expect("the new head is a remembered block"));
        let blocks = &self.blocks;
        let change = self.canonical.move_to(&head, |hash| blocks.get(&hash).map(|known| Arc::clone(&known.block)));
        self.head_changes += 1;
        self.refill_pool(&change);
        change
    }

    /// Mines one block on the head.
    pub fn mine(&mut self, logs: usize, timestamp: u64) -> Arc<Block> {
        let block = self.build(self.head().hash(), logs, timestamp);
        self.set_head(block.hash());
        block
    }

    /// The block so many below the head.
    ///
    /// # Panics
    /// If the chain is not that long or has forgotten it.
    #[must_use]
    pub fn ancestor(&self, depth: u64) -> BlockRef {
        let number = self.head().number().checked_sub(depth).expect("no reorg goes below genesis");
        self.canonical.at(number).expect("the ancestor is still remembered").reference()
    }

    /// Composes the transactions that are announced as pending with a change of the head.
    pub(super) fn compose_pending(&mut self) -> Vec<Arc<Transaction>> {
        let fresh: Vec<_> = (0..self.options.pending_per_block).map(|_| self.compose(1)).collect();
        for tx in &fresh {
            self.wait(Arc::clone(tx));
        }
        fresh
    }

    /// Puts a transaction in the pool. One without transfers is in the next block that is mined on the head.
    pub(super) fn wait(&mut self, tx: Arc<Transaction>) {
        self.pool.push_back(tx);
        if self.pool.len() > POOL_CAP {
            self.pool.pop_front();
        }
    }

    fn compose(&mut self, room: usize) -> Arc<Transaction> {
        let nonce = self.composed;
        self.composed += 1;
        Arc::new(Transaction::compose(&self.economy, self.options.chain_id, nonce, room, &mut self.rng))
    }

    /// Transactions with exactly so many logs for a block on this parent: about half of the logs come from transactions
    /// that exist already, as far as there are any.
    fn fill(&mut self, parent: &Arc<Block>, logs: usize) -> Vec<Arc<Transaction>> {
        let mut chosen = Vec::new();
        let mut room_for_known = logs.div_ceil(2);
        for tx in self.candidates(parent) {
            let size = tx.transfers().len();
            if size == 0 || (size <= room_for_known && self.rng.random_bool(TAKE_WAITING)) {
                room_for_known -= size;
                chosen.push(tx);
            }
        }
        let mut room = logs / 2 + room_for_known;
        while room > 0 {
            let tx = self.compose(room);
            room -= tx.transfers().len();
            chosen.push(tx);
        }
        chosen
    }

    /// What a block on this parent could take: transactions of the canonical blocks it competes with and those that wait,
    /// less what its own branch has already.
    fn candidates(&self, parent: &Arc<Block>) -> Vec<Arc<Transaction>> {
        let mut taken = HashSet::new();
        let mut walk = Arc::clone(parent);
        while !self.canonical.contains(&walk) {
            taken.extend(walk.transactions().map(|tx| tx.hash()));
            match self.block(walk.parent_hash()) {
                Some(next) => walk = Arc::clone(next),
                None => return Vec::new(),
            }
        }
        let rivals = (walk.number() + 1..=self.head().number()).filter_map(|n| self.canonical.at(n));
        let orphans = rivals.flat_map(|block| block.transactions());
        orphans.chain(&self.pool).filter(|tx| !taken.contains(&tx.hash())).cloned().collect()
    }

    /// Orphaned transactions wait again; mined ones no longer do.
    fn refill_pool(&mut self, change: &HeadChange) {
        let waiting: HashSet<B256> = self.pool.iter().map(|tx| tx.hash()).collect();
        for block in change.removed.iter().rev() {
            for tx in block.transactions().filter(|tx| !waiting.contains(&tx.hash())) {
                self.wait(Arc::clone(tx));
            }
        }
        let mined: HashSet<B256> =
            change.added.iter().flat_map(|block| block.transactions().map(|tx| tx.hash())).collect();
        self.pool.retain(|tx| !mined.contains(&tx.hash()));
    }

    fn forget_oldest(&mut self) {
        while self.made.len() > self.options.keep_blocks {
            let Some(known) = self.made.pop_front().and_then(|hash| self.blocks.remove(&hash)) else { return };
            for tx in known.block.transactions() {
                if let Some(places) = self.included.get_mut(&tx.hash()) {
                    places.retain(|place| *place != known.block.hash());
                    if places.is_empty() {
                        self.included.remove(&tx.hash());
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_consensus::proofs::ordered_trie_root_with_encoder;
    use alloy_primitives::{Log, logs_bloom};

    fn chain(seed: u64) -> DevChain {
        DevChain::new(DevOptions { seed, genesis_time: 1, ..DevOptions::default() })
    }

    /// Mines blocks with 0, 3, 6, … logs.
    fn grow(chain: &mut DevChain, blocks: usize) -> Vec<B256> {
        (0..blocks).map(|n| chain.mine(3 * n, 100 + n as u64).hash()).collect()
    }

    fn canonical(chain: &DevChain) -> Vec<B256> {
        chain.canonical_blocks().map(|block| block.hash()).collect()
    }

    /// Builds a branch and moves to it.
    fn replace(chain: &mut DevChain, depth: u64, new: u64) -> HeadChange {
        let mut parent = chain.ancestor(depth).hash;
        for n in 0..new {
            parent = chain.build(parent, 5, 500 + n).hash();
        }
        chain.set_head(parent)
    }

    fn log(block: &Block, transfer: &crate::devnode::Transfer) -> Log {
        let economy = block.economy();
        Log::new_unchecked(transfer.address(economy), transfer.topics(economy).to_vec(), transfer.data().into())
    }

    #[test]
    fn every_block_names_its_parent_by_the_true_hash_of_its_header() {
        let mut chain = chain(1);
        grow(&mut chain, 20);
        replace(&mut chain, 4, 6);
        let blocks: Vec<_> = chain.canonical_blocks().cloned().collect();
        assert_eq!(blocks.len(), 23);
        for pair in blocks.windows(2) {
            assert_eq!(pair[1].parent_hash(), pair[0].header().hash_slow());
            assert_eq!(pair[1].number(), pair[0].number() + 1);
            assert!(pair[1].timestamp() > pair[0].timestamp());
        }
    }

    #[test]
    fn blooms_and_roots_are_those_of_the_logs_and_transactions() {
        let mut chain = chain(2);
        for logs in [0, 1, 2, 57, 2_000] {
            let block = chain.mine(logs, 1);
            let all: Vec<Log> = block.logs().map(|at| log(&block, at.transfer)).collect();
            assert_eq!(block.header().logs_bloom, logs_bloom(&all));
            assert_eq!((all.len(), block.log_count()), (logs, logs));
            assert!(block.logs().map(|at| at.log_index).eq(0..logs), "indices have no hole");
            let transactions: Vec<_> = block.transactions().cloned().collect();
            let root = ordered_trie_root_with_encoder(&transactions, |tx, out| tx.encode(out));
            assert_eq!(block.header().transactions_root, root);
        }
    }

    #[test]
    fn the_same_seed_and_calls_give_the_same_hashes() {
        let run = |seed| {
            let mut chain = chain(seed);
            grow(&mut chain, 10);
            replace(&mut chain, 3, 4);
            chain.compose_pending();
            grow(&mut chain, 3);
            canonical(&chain)
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7).last(), run(8).last());
    }

    #[test]
    fn reorgs_lead_to_longer_equal_and_shorter_branches() {
        for (depth, new) in [(3, 5), (3, 3), (3, 1), (10, 11), (1, 1)] {
            let mut chain = chain(3);
            let before = grow(&mut chain, 10);
            let change = replace(&mut chain, depth, new);
            let removed: Vec<B256> = change.removed.iter().map(|b| b.hash()).collect();
            let expected: Vec<B256> =
                before.iter().rev().take(usize::try_from(depth).expect("small")).copied().collect();
            assert_eq!(removed, expected, "newest first");
            assert_eq!(change.added.len() as u64, new);
            assert_eq!(change.added[0].parent_hash(), chain.ancestor(new).hash);
            assert_eq!(chain.head().number(), 10 - depth + new);
        }
    }

    #[test]
    fn a_head_may_go_back_to_a_branch_left_before_and_down_to_an_ancestor() {
        let mut chain = chain(4);
        let a = grow(&mut chain, 6);
        let on_a = canonical(&chain);
        replace(&mut chain, 2, 3);
        let on_b = canonical(&chain);
        chain.set_head(a[5]);
        assert_eq!(canonical(&chain), on_a);
        chain.set_head(on_b[7]);
        assert_eq!(canonical(&chain), on_b);
        let change = chain.set_head(a[1]);
        assert_eq!((change.removed.len(), change.added.len()), (5, 0));
        assert_eq!(chain.head().hash(), a[1]);
        let change = chain.set_head(chain.genesis().hash());
        assert_eq!((change.removed.len(), chain.head().number()), (2, 0));
    }

    #[test]
    fn a_branch_mines_some_transactions_of_its_rival_again_and_none_twice() {
        let mut chain = chain(5);
        for _ in 0..5 {
            chain.mine(10, 1);
        }
        let rival: HashSet<B256> = (3..=5).flat_map(|n| hashes(&chain, n)).collect();
        replace(&mut chain, 3, 4);
        let ours: Vec<B256> = (3..=6).flat_map(|n| hashes(&chain, n)).collect();
        assert!(ours.iter().any(|tx| rival.contains(tx)));
        assert!(ours.iter().any(|tx| !rival.contains(tx)));
        assert_eq!(ours.iter().collect::<HashSet<_>>().len(), ours.len());
        assert!(rival.iter().any(|tx| chain.waiting(*tx).is_some()), "the rest waits again");
        assert!(ours.iter().all(|tx| chain.waiting(*tx).is_none()));
    }

    fn hashes(chain: &DevChain, number: u64) -> Vec<B256> {
        chain.canonical_at(number).expect("remembered").transactions().map(|tx| tx.hash()).collect()
    }

    #[test]
    fn only_so_many_blocks_are_remembered() {
        let mut chain = DevChain::new(DevOptions { keep_blocks: 8, ..DevOptions::default() });
        let blocks = grow(&mut chain, 20);
        assert_eq!(chain.remembered(), 9, "and genesis");
        assert!(chain.block(blocks[11]).is_none() && chain.block(blocks[12]).is_some());
        assert_eq!(chain.canonical_at(12).map(|b| b.hash()), None);
        assert_eq!(chain.canonical_at(13).map(|b| b.hash()), Some(blocks[12]));
        assert_eq!(chain.included.len(), (12..20).map(|n| hashes(&chain, n + 1).len()).sum::<usize>());
        replace(&mut chain, 3, 4);
        assert_eq!(chain.head().number(), 21);
    }
}
