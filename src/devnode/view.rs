//! What one node knows of the chain: its own head, which may be behind, and the blocks it has heard of.
//!
//! Owns the node's branch and look-ups by hash, number and tag on it. Does not know when the head moves.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use alloy_primitives::B256;
use serde_json::Value;

use super::args::{self, RpcError, at};
use super::block::Block;
use super::branch::{Branch, HeadChange};
use super::chain::DevOptions;
use super::faults::Faults;
use super::shared::SharedChain;
use super::transaction::Transaction;

#[derive(Debug)]
struct Seen {
    branch: Branch,
    /// How many moves of the chain's head this node has followed.
    head_changes: u64,
}

/// One node's view.
#[derive(Debug)]
pub(super) struct View {
    chain: SharedChain,
    faults: Faults,
    foreign_genesis: Arc<Block>,
    seen: Mutex<Seen>,
}

/// A transaction as far as this node knows it.
pub(super) enum Found {
    Mined(Arc<Block>, usize),
    Waiting(Arc<Transaction>),
}

impl View {
    /// A view that is up to date, and the number of happenings it has seen.
    pub(super) fn new(chain: SharedChain, faults: Faults) -> (Self, u64) {
        let (seen, foreign_genesis, happened) = chain.with(|chain, happened| {
            let options = chain.options();
            let mut branch = Branch::new(Arc::clone(chain.genesis()), options.keep_blocks);
            branch.move_to(chain.head(), |hash| chain.block(hash).cloned());
            let foreign = Block::genesis(Arc::clone(chain.economy()), !options.chain_id, options.genesis_time);
            (Seen { branch, head_changes: chain.head_changes() }, Arc::new(foreign), happened)
        });
        (Self { chain, faults, foreign_genesis, seen: Mutex::new(seen) }, happened)
    }

    pub(super) fn chain(&self) -> &SharedChain {
        &self.chain
    }

    /// Follows one move of the chain's head.
    pub(super) fn move_to(&self, head: &Arc<Block>, head_changes: u64) -> HeadChange {
        let mut seen = self.lock();
        seen.head_changes = head_changes;
        self.chain.with(|chain, _| seen.branch.move_to(head, |hash| chain.block(hash).cloned()))
    }

    pub(super) fn head(&self) -> Arc<Block> {
        Arc::clone(self.lock().branch.head())
    }

    /// The block of this height on the way to this node's head.
    pub(super) fn at(&self, number: u64) -> Option<Arc<Block>> {
        if number == 0 && self.faults.foreign_genesis() {
            return Some(Arc::clone(&self.foreign_genesis));
        }
        self.lock().branch.at(number).cloned()
    }

    /// A block of any branch that this node has heard of.
    pub(super) fn by_hash(&self, hash: B256) -> Option<Arc<Block>> {
        if self.faults.foreign_genesis() && hash == self.foreign_genesis.hash() {
            return Some(Arc::clone(&self.foreign_genesis));
        }
        let head_changes = self.lock().head_changes;
        let known = |since: u64| since <= head_changes;
        self.chain.with(|chain, _| chain.block(hash).filter(|_| chain.known_since(hash).is_some_and(known)).cloned())
    }

    /// A transaction on this node's branch, or in the pool.
    pub(super) fn transaction(&self, hash: B256) -> Option<Found> {
        let (places, waiting) = self.chain.with(|chain, _| {
            let blocks = chain.inclusions(hash).iter().filter_map(|block| chain.block(*block).cloned());
            (blocks.collect::<Vec<_>>(), chain.waiting(hash).cloned())
        });
        let mined = {
            let seen = self.lock();
            places.into_iter().find(|block| seen.branch.contains(block))
        };
        match mined {
            Some(block) => {
                let index = block.transactions().position(|tx| tx.hash() == hash)?;
                Some(Found::Mined(block, index))
            }
            None => waiting.map(Found::Waiting),
        }
    }

    /// The height that a tag or quantity means now.
    pub(super) fn number(&self, value: &Value) -> Result<u64, String> {
        let head = self.head().number();
        let below =
            |depth: fn(&DevOptions) -> u64| head.saturating_sub(self.chain.with(|chain, _| depth(chain.options())));
        match value.as_str() {
            Some("latest" | "pending") => Ok(head),
            Some("safe") => Ok(below(|options| options.safe_depth)),
            Some("finalized") => Ok(below(|options| options.finalized_depth)),
            Some("earliest") => Ok(0),
            _ => args::quantity(value),
        }
    }

    /// The block that the argument at `place` names by number or tag.
    pub(super) fn by_number(&self, value: &Value, place: usize) -> Result<Option<Arc<Block>>, RpcError> {
        Ok(self.at(self.number(value).map_err(|why| at(place, &why))?))
    }

    /// The block that the argument at `place` names by number, tag, hash, or an object of one (EIP-1898).
    pub(super) fn by_any(&self, value: &Value, place: usize) -> Result<Option<Arc<Block>>, RpcError> {
        let (hash, number) = match value {
            Value::Object(fields) => (fields.get("blockHash"), fields.get("blockNumber")),
            Value::String(text) if text.len() == 66 => (Some(value), None),
            _ => (None, Some(value)),
        };
        match (hash, number) {
            (Some(hash), _) => Ok(self.by_hash(args::hash(hash).map_err(|why| at(place, &why))?)),
            (None, Some(number)) => self.by_number(number, place),
            (None, None) => Err(at(place, "at least one of blockNumber or blockHash is needed")),
        }
    }

    /// The block whose state a call asks about, which the argument at `place` must name.
    pub(super) fn state_at(&self, args: &args::Args, place: usize) -> Result<Arc<Block>, RpcError> {
        let value = args.required(place)?;
        let by_hash = value.is_object();
        let unknown = || RpcError::failed(if by_hash { "header for hash not found" } else { "header not found" });
        self.by_any(value, place)?.ok_or_else(unknown)
    }

    pub(super) fn chain_id(&self) -> u64 {
        self.faults.chain_id().unwrap_or_else(|| self.chain.with(|chain, _| chain.options().chain_id))
    }

    pub(super) fn is_syncing(&self) -> bool {
        *self.faults.syncing().borrow()
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
