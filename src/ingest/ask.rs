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
    /// When it began to be asked.
    pub(super) since: Instant,
    attempt: u32,
    /// Who was asked in this round, which ends when all were.
    asked: Vec<NodeId>,
    /// Whose answers are awaited.
    under_way: Vec<NodeId>,
    /// When the next attempt is made, an answer that comes before that aside.
    pub(super) due: Instant,
}

impl Ask {
    /// To be asked at once.
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, attempt: 0, asked: Vec::new(), under_way: Vec::new(), due: now }
    }

    /// The nodes that were given time to answer and have not, once that time is over.
    pub(super) fn owing(&self, now: Instant) -> impl Iterator<Item = NodeId> {
        self.under_way.iter().copied().filter(move |_| self.due <= now)
    }

    /// Makes an attempt now, if one is due, and says whom to ask: `first` to begin with, then those that announced the
    /// block, then the others, slow ones last. Where there are others, a node that does not answer soon is not waited
    /// for.
    pub(super) fn take(
        &mut self,
        now: Instant,
        nodes: impl Iterator<Item = Candidate>,
        first: Option<NodeId>,
    ) -> Option<NodeId> {
        if self.due > now {
            return None;
        }
        let mut nodes: Vec<_> = nodes.collect();
        nodes.sort_unstable_by_key(|c| {
            (self.under_way.contains(&c.node), c.slow, Some(c.node) != first, !c.told, c.node)
        });
        if nodes.iter().all(|c| self.asked.contains(&c.node)) {
            self.asked.clear();
        }
        let chosen = nodes.iter().map(|c| c.node).find(|node| !self.asked.contains(node));
        let patience = PATIENCE_MIN.saturating_mul(1 << self.attempt.min(8)).min(PATIENCE_MAX);
        self.due = now + if nodes.len() > 1 { patience } else { PATIENCE_MAX };
        self.attempt = self.attempt.saturating_add(1);
        match chosen {
            Some(node) => {
                self.asked.push(node);
                self.under_way.push(node);
            }
            None => self.later(now),
        }
        chosen
    }

    /// This node's answer was of no use: another attempt follows after a doubling wait.
    pub(super) fn failed(&mut self, node: NodeId, now: Instant) {
        if let Some(at) = self.under_way.iter().position(|asked| *asked == node) {
            self.under_way.swap_remove(at);
        }
        self.later(now);
    }

    /// No answer comes of this node any more.
    pub(super) fn gone(&mut self, node: NodeId, now: Instant) {
        if self.under_way.contains(&node) {
            self.failed(node, now);
        }
    }

    fn later(&mut self, now: Instant) {
        let wait = RETRY_MIN.saturating_mul(1 << self.attempt.clamp(1, 10).saturating_sub(1)).min(RETRY_MAX);
        self.due = if self.under_way.is_empty() { now + wait } else { self.due.min(now + wait) };
    }

    /// How many attempts were made.
    pub(super) fn attempts(&self) -> u32 {
        self.attempt
    }

    /// Asks at once where no answer is under way.
    pub(super) fn hurry(&mut self, now: Instant) {
        if self.under_way.is_empty() {
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
    /// It was slow to answer of late.
    pub(super) slow: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: u16, slow: u16) -> impl Iterator<Item = Candidate> {
        (0..count).map(move |n| Candidate { node: NodeId(n), told: n > 0, slow: n == slow })
    }

    #[test]
    fn a_slow_node_is_not_waited_for_where_there_are_others() {
        let start = Instant::now();
        let mut ask = Ask::new(start);
        assert_eq!(ask.take(start, nodes(2, 9), Some(NodeId(0))), Some(NodeId(0)));
        assert_eq!((ask.take(start, nodes(2, 9), None), ask.owing(start).next()), (None, None));
        assert_eq!(ask.due, start + PATIENCE_MIN);
        let later = ask.due;
        assert_eq!(ask.owing(later).collect::<Vec<_>>(), [NodeId(0)]);
        assert_eq!(ask.take(later, nodes(2, 0), Some(NodeId(0))), Some(NodeId(1)));
        ask.failed(NodeId(1), later);
        assert_eq!(ask.due, later + RETRY_MIN * 2, "a bad answer is not waited out, though one is under way");
        assert_eq!(ask.owing(ask.due).collect::<Vec<_>>(), [NodeId(0)], "the other one has answered");
        assert_eq!(ask.take(ask.due, nodes(2, 0), None), Some(NodeId(1)));
        let mut alone = Ask::new(start);
        alone.take(start, nodes(1, 9), None);
        alone.hurry(start);
        assert_eq!(alone.due, start + PATIENCE_MAX, "it is under way");
    }

    #[test]
    fn those_that_told_the_block_come_first_then_all_in_turn() {
        let order = |slow| {
            let mut ask = Ask::new(Instant::now());
            let mut next = || ask.take(ask.due, nodes(3, slow), Some(NodeId(2))).map(|node| node.0);
            [next(), next(), next(), next()]
        };
        assert_eq!(order(9), [2, 1, 0, 2].map(Some));
        assert_eq!(order(2), [1, 0, 2, 1].map(Some));
        assert_eq!(Ask::new(Instant::now()).take(Instant::now(), nodes(0, 0), None), None);
    }
}
