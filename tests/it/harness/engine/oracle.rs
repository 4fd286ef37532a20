//! What is true of each block that was made, as the builder says it by the block's hash.
//!
//! Owns the comparison of a single event with that. Knows nothing of the order of events.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use serde_json::{Value, json};

use super::Block;
use crate::harness::geth::quantity;
use crate::harness::view::Breach;

/// All blocks that were made, by their hashes.
#[derive(Debug, Default)]
pub(crate) struct Oracle(RwLock<HashMap<String, Arc<Block>>>);

/// Something that a client was told.
#[derive(Debug)]
pub(crate) enum Event {
    Head(Value),
    Log(Value),
}

impl Oracle {
    pub(super) fn add(&self, block: &Arc<Block>) {
        self.0.write().expect("no writer panics").insert(block.hash.clone(), block.clone());
    }

    /// The block that a member of an event names.
    fn block(&self, hash: &Value) -> Result<Arc<Block>, String> {
        let blocks = self.0.read().expect("no writer panics");
        hash.as_str().and_then(|hash| blocks.get(hash)).cloned().ok_or_else(|| format!("there is no block {hash}"))
    }

    /// An event must be, member by member, what the block has.
    pub(crate) fn check(&self, event: &Event) -> Breach {
        let (told, block) = match event {
            Event::Head(head) => (head, self.block(&head["hash"])?),
            Event::Log(log) => (log, self.block(&log["blockHash"])?),
        };
        let own = match event {
            Event::Head(_) => block.header.clone(),
            Event::Log(log) => {
                let at = usize::try_from(quantity(&log["logIndex"])).expect("blocks are small");
                let mut own =
                    block.logs.get(at).cloned().ok_or_else(|| format!("block {} has no log {at}", block.number))?;
                own["removed"] = json!(log["removed"] == json!(true));
                own
            }
        };
        if *told == own { Ok(()) } else { Err(format!("altered:\n  got {told}\n  is  {own}")) }
    }

    /// The blocks from `first` to the tip, lowest first.
    pub(crate) fn chain(&self, tip: &Arc<Block>, first: u64) -> Vec<Arc<Block>> {
        let parent = |block: &Arc<Block>| self.block(&json!(block.parent)).ok();
        let down = std::iter::successors(Some(tip.clone()), parent);
        let mut chain: Vec<_> = down.take_while(|block| block.number >= first).collect();
        chain.reverse();
        chain
    }
}
