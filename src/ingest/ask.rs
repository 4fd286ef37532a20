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
    /// When the next attempt is made, an answer that comes before that aside.
    pub(super) due: Instant,
}

impl Ask {
    /// To be asked at once.
    pub(super) fn new(now: Instant) -> Self {
        Self { attempt: 0, under_way: 0, due: now }
    }

    /// The number of the attempt to make now, if one is due; it is then under way. With `others` to ask, one that does
    /// not answer soon is not waited for.
    pub(super) fn take(&mut self, now: Instant, others: bool) -> Option<u32> {
        if self.due > now {
            return None;
        }
        let patience = PATIENCE_MIN.saturating_mul(1 << self.attempt.min(8)).min(PATIENCE_MAX);
        self.due = now + if others { patience } else { PATIENCE_MAX };
        self.under_way += 1;
        self.attempt = self.attempt.saturating_add(1);
        Some(self.attempt - 1)
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

/// The node to ask: `first` to begin with, then those that announced the block, then the others, in turn. `nodes` says of
/// each whether it announced the block.
pub(super) fn choose(
    nodes: impl Iterator<Item = (NodeId, bool)>,
    first: Option<NodeId>,
    attempt: u32,
) -> Option<NodeId> {
    let mut order: Vec<(bool, bool, NodeId)> = nodes.map(|(id, told)| (Some(id) != first, !told, id)).collect();
    order.sort_unstable();
    (!order.is_empty()).then(|| order[attempt as usize % order.len()].2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_a_slow_node_is_not_waited_for_where_there_are_others() {
        let start = Instant::now();
        let mut ask = Ask::new(start);
        assert_eq!(ask.take(start, true), Some(0));
        assert_eq!(ask.take(start, true), None);
        assert_eq!(ask.due, start + PATIENCE_MIN);
        let later = ask.due;
        assert_eq!(ask.take(later, true), Some(1), "the answer is slow: another node is asked");
        ask.failed(later);
        assert_eq!(ask.due, later + PATIENCE_MIN * 2, "one is still under way");
        ask.failed(later);
        assert_eq!(ask.due, later + RETRY_MIN * 2);
        let mut alone = Ask::new(start);
        alone.take(start, false);
        assert_eq!(alone.due, start + PATIENCE_MAX);
        alone.hurry(start);
        assert_eq!(alone.due, start + PATIENCE_MAX, "it is under way");
    }

    #[test]
    fn those_that_told_the_block_come_first_then_all_in_turn() {
        let nodes = || [(NodeId(0), false), (NodeId(1), true), (NodeId(2), true)].into_iter();
        let order: Vec<_> = (0..4).map(|n| choose(nodes(), Some(NodeId(2)), n).unwrap().0).collect();
        assert_eq!(order, [2, 1, 0, 2]);
        assert_eq!(choose([].into_iter(), None, 0), None);
    }
}
