//! Something asked of the nodes: when the next attempt is due, and whom it goes to.
//!
//! Knows nothing of what is asked. Pure.

use std::time::{Duration, Instant};

use crate::chain::NodeId;

/// First wait before something is asked for again; doubles to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(25);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How long an answer is waited for before another node is asked as well; doubles to [`PATIENCE_MAX`].
const PATIENCE_MIN: Duration = Duration::from_millis(750);
/// Longer than the driver's deadline of a call: a sole node is never asked twice at a time.
pub(super) const PATIENCE_MAX: Duration = Duration::from_secs(6);

/// Something asked of the nodes.
#[derive(Debug)]
pub(super) struct Ask {
    attempt: u32,
    under_way: u32,
    /// Who was asked last.
    asked: Option<NodeId>,
    /// When the next attempt is made, an answer that comes before that aside.
    pub(super) due: Instant,
}

impl Ask {
    /// To be asked at once.
    pub(super) fn new(now: Instant) -> Self {
        Self { attempt: 0, under_way: 0, asked: None, due: now }
    }

    /// The node that was given time to answer and has not.
    pub(super) fn owing(&self, now: Instant) -> Option<NodeId> {
        self.asked.filter(|_| self.under_way > 0 && self.due <= now)
    }

    /// Makes an attempt now, if one is due: `choose` is given its number and names whom to ask. With `others` to ask, a
    /// node that does not answer soon is not waited for.
    pub(super) fn take(
        &mut self,
        now: Instant,
        others: bool,
        choose: impl FnOnce(u32) -> Option<NodeId>,
    ) -> Option<NodeId> {
        if self.due > now {
            return None;
        }
        let patience = PATIENCE_MIN.saturating_mul(1 << self.attempt.min(8)).min(PATIENCE_MAX);
        self.due = now + if others { patience } else { PATIENCE_MAX };
        self.under_way += 1;
        self.attempt = self.attempt.saturating_add(1);
        self.asked = choose(self.attempt - 1);
        if self.asked.is_none() {
            self.failed(now);
        }
        self.asked
    }

    /// An attempt failed: another one follows after a doubling wait, unless one is still under way.
    pub(super) fn failed(&mut self, now: Instant) {
        self.under_way = self.under_way.saturating_sub(1);
        if self.under_way == 0 {
            let wait = RETRY_MIN.saturating_mul(1 << self.attempt.clamp(1, 10).saturating_sub(1)).min(RETRY_MAX);
            self.due = now + wait;
        }
    }

    /// How many attempts were made.
    pub(super) fn attempts(&self) -> u32 {
        self.attempt
    }

    /// Asks at once where no answer is under way.
    pub(super) fn hurry(&mut self, now: Instant) {
        if self.under_way == 0 {
            self.due = now;
        }
    }
}

/// How a node stands to a question.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) node: NodeId,
    /// It announced the block.
    pub(super) told: bool,
    /// It owes an answer to an older question.
    pub(super) owes: bool,
}

/// The node to ask: `first` to begin with, then those that announced the block, then the others, in turn; those that owe an
/// answer only where all do.
pub(super) fn choose(nodes: impl Iterator<Item = Candidate>, first: Option<NodeId>, attempt: u32) -> Option<NodeId> {
    let (owing, mut rest): (Vec<_>, Vec<_>) = nodes.partition(|candidate| candidate.owes);
    if rest.is_empty() {
        rest = owing;
    }
    rest.sort_unstable_by_key(|c| (Some(c.node) != first, !c.told, c.node));
    (!rest.is_empty()).then(|| rest[attempt as usize % rest.len()].node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_a_slow_node_is_not_waited_for_where_there_are_others() {
        let start = Instant::now();
        let mut ask = Ask::new(start);
        let node = |n: u32| Some(NodeId(u16::try_from(n).unwrap()));
        assert_eq!(ask.take(start, true, node), Some(NodeId(0)));
        assert_eq!((ask.take(start, true, node), ask.owing(start)), (None, None));
        assert_eq!(ask.due, start + PATIENCE_MIN);
        let later = ask.due;
        assert_eq!(ask.owing(later), Some(NodeId(0)));
        assert_eq!(ask.take(later, true, node), Some(NodeId(1)), "the answer is slow: another node is asked");
        ask.failed(later);
        assert_eq!(ask.due, later + PATIENCE_MIN * 2, "one is still under way");
        ask.failed(later);
        assert_eq!(ask.due, later + RETRY_MIN * 2);
        let mut alone = Ask::new(start);
        alone.take(start, false, node);
        assert_eq!(alone.due, start + PATIENCE_MAX);
        alone.hurry(start);
        assert_eq!(alone.due, start + PATIENCE_MAX, "it is under way");
    }

    #[test]
    fn those_that_told_the_block_come_first_then_all_in_turn() {
        let nodes = |owes: u16| {
            let candidate = move |n| Candidate { node: NodeId(n), told: n > 0, owes: n == owes };
            (0..3).map(candidate)
        };
        let order = |owes| (0..4).map(|n| choose(nodes(owes), Some(NodeId(2)), n).unwrap().0).collect::<Vec<_>>();
        assert_eq!(order(9), [2, 1, 0, 2]);
        assert_eq!(order(2), [1, 0, 1, 0]);
        assert_eq!(choose([].into_iter(), None, 0), None);
    }
}
