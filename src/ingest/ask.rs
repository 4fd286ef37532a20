//! Something asked of the nodes: when the next attempt is due, and whom it goes to.
//!
//! Knows nothing of what is asked. Pure.

use std::time::{Duration, Instant};

use crate::chain::NodeId;

/// First wait before something is asked for again; doubles to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(25);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Something asked of the nodes.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) attempt: u32,
    /// `None` while an answer is awaited.
    pub(super) due: Option<Instant>,
}

impl Ask {
    /// The number of the attempt to make now, if one is due; it is then under way.
    pub(super) fn is_due(&mut self, now: Instant) -> Option<u32> {
        self.due.filter(|due| *due <= now)?;
        self.due = None;
        self.attempt += 1;
        Some(self.attempt - 1)
    }

    /// The attempt failed: another one follows after a doubling wait.
    pub(super) fn again(&mut self, now: Instant) {
        let wait = RETRY_MIN.saturating_mul(1 << self.attempt.clamp(1, 10).saturating_sub(1)).min(RETRY_MAX);
        self.due = Some(now + wait);
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
