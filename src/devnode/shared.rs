//! The handle through which a test, the miner and several nodes stand on one chain.
//!
//! Owns the lock around the [`DevChain`], its clock, and the bounded record of what happened that nodes follow, each at its
//! own pace. Does not know sockets.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use alloy_primitives::B256;
use tokio::sync::watch;
use tokio::time::Instant;

use super::block::{Block, BlockRef};
use super::chain::{BlockTime, DevChain, DevOptions};
use super::economy::Economy;
use super::transaction::Transaction;

/// How many happenings are kept for nodes that lag. A node further behind goes on at the oldest: it jumps many blocks at
/// once and announces all their logs, but misses pending transactions.
const HAPPENINGS_KEPT: usize = 16_384;

/// Something nodes tell their subscribers.
#[derive(Debug, Clone)]
pub(super) struct Happening {
    /// When, for nodes that lag.
    pub(super) at: Instant,
    pub(super) what: What,
}

#[derive(Debug, Clone)]
pub(super) enum What {
    /// The head moved, for the so-many-th time.
    Head { block: Arc<Block>, head_changes: u64 },
    /// A transaction waits for a block.
    Pending(Arc<Transaction>),
}

#[derive(Debug)]
struct State {
    chain: DevChain,
    happenings: VecDeque<Happening>,
    /// The number of the first one kept.
    first: u64,
}

/// A chain that several owners hold. Clones are the same chain.
#[derive(Debug, Clone)]
pub struct SharedChain {
    state: Arc<Mutex<State>>,
    /// The number of happenings so far.
    happened: watch::Sender<u64>,
    nodes: Arc<AtomicU64>,
}

#[allow(clippy::must_use_candidate, reason = "mining is done for its effect")]
impl SharedChain {
    /// A chain of genesis alone.
    #[must_use]
    pub fn new(options: DevOptions) -> Self {
        let state = State { chain: DevChain::new(options), happenings: VecDeque::new(), first: 0 };
        Self { state: Arc::new(Mutex::new(state)), happened: watch::Sender::new(0), nodes: Arc::default() }
    }

    /// Mines one block with so many logs on the head.
    pub fn mine(&self, logs: usize) -> BlockRef {
        self.extend(&[logs])[0]
    }

    /// Mines several blocks, with so many logs each, that nodes see as one move of the head.
    ///
    /// # Panics
    /// If there are no blocks to mine.
    pub fn extend(&self, logs: &[usize]) -> Vec<BlockRef> {
        self.replace(0, logs)
    }

    /// Replaces the last `depth` blocks by `new` others, in one move of the head, with the default number of logs each.
    ///
    /// # Panics
    /// If the chain is not that long, or `new` is 0.
    pub fn reorg(&self, depth: u64, new: usize) -> Vec<BlockRef> {
        let logs = self.lock().chain.options().logs_per_block;
        self.replace(depth, &vec![logs; new])
    }

    /// Replaces the last `depth` blocks by others with so many logs each, in one move of the head.
    ///
    /// # Panics
    /// If the chain is not that long, or there are no new blocks.
    pub fn replace(&self, depth: u64, logs: &[usize]) -> Vec<BlockRef> {
        let mut state = self.lock();
        let parent = state.chain.ancestor(depth);
        let blocks = build(&mut state.chain, parent.hash, logs);
        self.move_head(&mut state, blocks.last().expect("a branch has at least one block").hash);
        blocks
    }

    /// Makes blocks with so many logs each on any parent. The head stays, and nodes hear of them with its next move.
    ///
    /// # Panics
    /// If the parent is not remembered.
    pub fn branch(&self, parent: B256, logs: &[usize]) -> Vec<BlockRef> {
        build(&mut self.lock().chain, parent, logs)
    }

    /// Moves the head to any remembered block: onto a longer, equal or shorter branch, or back to an ancestor.
    ///
    /// # Panics
    /// If the block is not remembered.
    pub fn set_head(&self, hash: B256) {
        self.move_head(&mut self.lock(), hash);
    }

    /// The block that counts.
    #[must_use]
    pub fn head(&self) -> BlockRef {
        self.lock().chain.head().reference()
    }

    /// Any remembered block of any branch.
    #[must_use]
    pub fn block(&self, hash: B256) -> Option<Arc<Block>> {
        self.lock().chain.block(hash).cloned()
    }

    /// The block of this height on the way to the head.
    #[must_use]
    pub fn canonical_at(&self, number: u64) -> Option<Arc<Block>> {
        self.lock().chain.canonical_at(number).cloned()
    }

    /// The remembered blocks on the way to the head, genesis first.
    #[must_use]
    pub fn canonical_blocks(&self) -> Vec<Arc<Block>> {
        self.lock().chain.canonical_blocks().cloned().collect()
    }

    /// Its tokens and holders.
    #[must_use]
    pub fn economy(&self) -> Arc<Economy> {
        Arc::clone(self.lock().chain.economy())
    }

    /// How it was laid out.
    #[must_use]
    pub fn options(&self) -> DevOptions {
        self.lock().chain.options().clone()
    }

    /// Takes a transaction in and tells nodes of it.
    pub(super) fn submit(&self, tx: Transaction) -> B256 {
        let tx = Arc::new(tx);
        let mut state = self.lock();
        state.chain.wait(Arc::clone(&tx));
        self.record(&mut state, [What::Pending(Arc::clone(&tx))]);
        tx.hash()
    }

    /// Runs a short look-up on the chain and the number of happenings so far.
    pub(super) fn with<T>(&self, look: impl FnOnce(&DevChain, u64) -> T) -> T {
        let state = self.lock();
        look(&state.chain, state.first + state.happenings.len() as u64)
    }

    /// The happening with this number or, if it is no longer kept, the oldest; with its number.
    pub(super) fn happening(&self, number: u64) -> Option<(u64, Happening)> {
        let state = self.lock();
        let number = number.max(state.first);
        let place = usize::try_from(number - state.first).expect("no more are kept than fit in memory");
        state.happenings.get(place).map(|happening| (number, happening.clone()))
    }

    /// The number of happenings so far, as it grows.
    pub(super) fn happened(&self) -> watch::Receiver<u64> {
        self.happened.subscribe()
    }

    /// A number for a node, different from those of the chain's other nodes.
    pub(super) fn number_node(&self) -> u64 {
        self.nodes.fetch_add(1, Ordering::Relaxed)
    }

    fn move_head(&self, state: &mut State, hash: B256) {
        state.chain.set_head(hash);
        let block = Arc::clone(state.chain.head());
        let head = What::Head { block, head_changes: state.chain.head_changes() };
        let pending = state.chain.compose_pending().into_iter().map(What::Pending);
        self.record(state, std::iter::once(head).chain(pending));
    }

    fn record(&self, state: &mut State, happenings: impl IntoIterator<Item = What>) {
        let at = Instant::now();
        state.happenings.extend(happenings.into_iter().map(|what| Happening { at, what }));
        while state.happenings.len() > HAPPENINGS_KEPT {
            state.happenings.pop_front();
            state.first += 1;
        }
        self.happened.send_replace(state.first + state.happenings.len() as u64);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a misuse that its test reports; the chain itself is whole after every call.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn build(chain: &mut DevChain, parent: B256, logs: &[usize]) -> Vec<BlockRef> {
    let mut parent = parent;
    let mut build_one = |logs: &usize| {
        let before = chain.block(parent).expect("the parent is a remembered block").timestamp();
        let timestamp = match chain.options().block_time {
            BlockTime::Step(seconds) => before + seconds,
            BlockTime::Wall => before.max(unix_seconds()),
        };
        let block = chain.build(parent, *logs, timestamp).reference();
        parent = block.hash;
        block
    };
    logs.iter().map(&mut build_one).collect()
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
