//! The promises that can be measured: new heads come in time while a node is well (P6), and nothing is undone that the
//! chain has kept (P7).
//!
//! Owns the bounds. Knows the faults as they were planned and the chain as it was, nothing of the gateway.

use std::cell::RefCell;
use std::collections::HashSet;
use std::time::{Duration, Instant};

use alloy_primitives::B256;

use super::script::Fault;
use super::trace::short;
use crate::journal::{Entry, Update};

/// How long after a block is made, or after a node is well again, the block may take to reach clients.
const IN_TIME: Duration = Duration::from_millis(1_500);
/// How long a node may take to be connected and heard once nothing is wrong with it: the longest pause before a
/// reconnect, and some.
const RECOVERY: Duration = Duration::from_secs(6);
/// The same for one that was on another chain, or slow to answer.
const SLOW_RECOVERY: Duration = Duration::from_secs(20);
/// How long a node may go without telling what it kept back: until its next block, or until all were silent for four
/// of the longest block times.
const UNTOLD: Duration = Duration::from_secs(60);
/// How long a node may say nothing until it is taken for gone.
const SILENCE: Duration = Duration::from_secs(21);

/// What the chain did and what was wrong with nodes, for judging the gateway.
#[derive(Default)]
pub(super) struct Promises {
    /// Blocks that made the chain higher than ever.
    rising: RefCell<Vec<(B256, Duration)>>,
    /// Blocks that left the chain at some time, even if they came back.
    orphaned: RefCell<HashSet<B256>>,
    /// The last undo, while it is not explained.
    undone: RefCell<Option<Undone>>,
    /// What is wrong with each node, as (node, from, to, and when it has recovered).
    wrong: RefCell<Vec<(usize, Duration, Duration, Duration)>>,
}

/// An undo.
struct Undone {
    /// What was undone though the chain has always kept it.
    kept: Vec<B256>,
    /// Height of the tip that was undone.
    tip: u64,
    seen: Instant,
}

impl Promises {
    pub(super) fn rose(&self, block: B256, at: Duration) {
        self.rising.borrow_mut().push((block, at));
    }

    pub(super) fn orphan(&self, block: B256) {
        self.orphaned.borrow_mut().insert(block);
    }

    pub(super) fn fault(&self, node: usize, fault: &Fault, from: Duration, lasts: Duration) {
        let recovery = match fault {
            // These take nothing away.
            Fault::Twice | Fault::EveryBlock => return,
            Fault::Dumb | Fault::Foreign => UNTOLD,
            Fault::Vanished => SILENCE + RECOVERY,
            Fault::WrongChain | Fault::Late(_) => SLOW_RECOVERY,
            Fault::Stalled | Fault::Partitioned if lasts > RECOVERY => SLOW_RECOVERY,
            Fault::Lagging(lag) => RECOVERY + *lag,
            _ => RECOVERY,
        };
        self.wrong.borrow_mut().push((node, from, from + lasts, from + lasts + recovery));
    }

    /// P7. The gateway undoes what the chain has always kept only for a branch that is higher (that a node which tells of
    /// one is behind can not be known), or to tell it again.
    pub(super) fn follow(&self, entry: &Entry) -> Result<(), String> {
        let mut undone = self.undone.borrow_mut();
        let goes_on = matches!(&entry.update, Update::Head(_)) && undone.as_ref().is_some_and(|u| u.seen == entry.seen);
        if let Some(lower) = undone.take_if(|undone| !goes_on && !undone.kept.is_empty()) {
            return Err(format!("block {} was undone though the chain has always kept it", short(&lower.kept[0])));
        }
        match &entry.update {
            Update::Head(header) => {
                drop(undone.take_if(|undone| header.number > undone.tip));
                undone.iter_mut().for_each(|undone| undone.kept.retain(|kept| *kept != header.hash));
            }
            Update::Undo(removed) => {
                let orphaned = self.orphaned.borrow();
                let kept = removed.iter().map(|removed| removed.block.hash).filter(|hash| !orphaned.contains(hash));
                let tip = removed.first().map_or(0, |removed| removed.block.number);
                *undone = Some(Undone { kept: kept.collect(), tip, seen: entry.seen });
            }
            Update::Logs(_) | Update::Gap => {}
        }
        Ok(())
    }

    /// P6. `told` says when a block reached clients; what is due after `end` is not judged.
    pub(super) fn in_time(
        &self,
        nodes: usize,
        told: impl Fn(&B256) -> Option<Duration>,
        end: Duration,
    ) -> Result<Duration, String> {
        let mut longest = Duration::ZERO;
        let orphaned = self.orphaned.borrow();
        for (block, made) in self.rising.borrow().iter().filter(|(block, _)| !orphaned.contains(block)) {
            let due = (0..nodes).filter_map(|node| self.due(node, *made)).min();
            let Some(due) = due.filter(|due| *due < end) else { continue };
            match told(block) {
                Some(at) if at <= due => longest = longest.max((at + IN_TIME).saturating_sub(due)),
                at => return Err(format!("block {} of {made:?} was due at {due:?} and told at {at:?}", short(block))),
            }
        }
        Ok(longest)
    }

    /// When a block is due of which this node knows: soon after it was made, or after the node has recovered, if it is
    /// well until then.
    fn due(&self, node: usize, made: Duration) -> Option<Duration> {
        let wrong = self.wrong.borrow();
        let of_node = || wrong.iter().filter(|(n, ..)| *n == node);
        let starts = std::iter::once(made).chain(of_node().map(|(_, _, _, well)| *well).filter(|well| *well > made));
        let mut starts: Vec<Duration> = starts.collect();
        starts.sort_unstable();
        let is_well = |from: Duration| of_node().all(|(_, begins, _, well)| *well <= from || *begins > from + IN_TIME);
        starts.into_iter().find(|from| is_well(*from)).map(|from| from + IN_TIME)
    }
}
