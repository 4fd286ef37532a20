//! The words between the deciding part and its driver: bounds in, actions out.
//!
//! Types only. Pure.

use std::time::{Duration, Instant};

use alloy_primitives::B256;

use super::logs::{Blooms, Incomplete};
use crate::chain::{BlockRef, ChainUpdate, NodeId};
use crate::upstream::Order;

/// Bounds of the tracker.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Most blocks that are kept to be undone, and most that are walked to link a tip.
    pub window: usize,
    /// Most bytes of logs kept to be undone.
    pub window_bytes: usize,
    /// Blocks whose logs are asked for at the same time.
    pub logs_in_flight: usize,
    /// How long a block's logs may stay incomplete before an alarm is raised.
    pub logs_alarm: Duration,
    /// How long a block's logs may stay incomplete before the stream ends with a gap.
    pub logs_wait: Duration,
    /// How often the nodes' `safe` and `finalized` blocks are asked for, at most.
    pub finality_every: Duration,
    /// What is known of the chain's blooms from the start.
    pub blooms: Blooms,
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Publish an update; the time is when its cause was read off a node.
    Publish(ChainUpdate, Instant),
    /// Ask this node for the block, and for those below it by number until there are `count`.
    FetchBlocks {
        /// Whom to ask.
        node: NodeId,
        /// The block that is asked for by hash.
        block: BlockRef,
        /// How many blocks in all.
        count: u64,
    },
    /// Ask this node for the logs of the block with this hash.
    FetchLogs(NodeId, B256),
    /// Ask this node for its latest block and whether it is syncing; the answer bears this number.
    Confirm(NodeId, u64),
    /// Ask this node for its height.
    Probe(NodeId),
    /// Ask this node for its `safe` and `finalized` blocks.
    AskFinality(NodeId),
    /// Treat this node so from now on.
    Order(NodeId, Order),
    /// Something to be counted or reported.
    Note(Note),
}

/// Something to be counted or reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// Logs had to be asked for again.
    Retry(Incomplete),
    /// Why the next published update is a gap.
    Gap(GapCause),
    /// All nodes have fallen silent, or no longer.
    Silent(bool),
    /// A block's logs are missing for too long, or no longer: they hold back those of the blocks after it.
    LogsLate(bool),
    /// Finality moved.
    Finality,
    /// The node announced a head that cannot be used.
    Malformed(NodeId),
}

/// Why the stream could not be kept exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapCause {
    /// The chain went on further away than can be filled or undone.
    TooFar,
    /// A block's logs did not become complete in time.
    Logs,
}

impl GapCause {
    /// The value of the `cause` label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::TooFar => "too_far",
            Self::Logs => "logs",
        }
    }
}
