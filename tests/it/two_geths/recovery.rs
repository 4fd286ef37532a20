//! How long after a fault the heads that are to be had reach the clients.
//!
//! Owns the measurement and promise P6: 2 s after the loss of a connection, 1.5 s where a node stalls without a word and
//! another is ahead. Where both nodes were away there is nothing to be had but what the first of them brings back.

use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::pair::Accepted;
use crate::harness::engine::Follower;

/// What is done to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// `SIGKILL`: its connections are lost.
    Kill,
    /// `SIGSTOP`: its connections stay, and it says nothing.
    Stall,
}

/// What is promised, and what a gateway that lost all nodes is given to find one again.
const LOSS_MAX: Duration = Duration::from_secs(2);
const STALL_MAX: Duration = Duration::from_millis(1500);
const ALL_AWAY_MAX: Duration = Duration::from_secs(4);

/// A fault of so many nodes.
struct Fault {
    cause: Cause,
    nodes: usize,
    /// The heads that a node took from its beginning until all were back: places in the whole list.
    heads: Range<usize>,
}

#[derive(Default)]
pub(super) struct Recovery {
    faults: Vec<Fault>,
    /// All heads that a node took, and when.
    taken: Vec<(String, Instant)>,
}

impl Recovery {
    pub(super) fn begins(&mut self, cause: Cause, nodes: usize) {
        let now = self.taken.len();
        self.faults.push(Fault { cause, nodes, heads: now..now });
    }

    /// All nodes are back.
    pub(super) fn ends(&mut self) {
        let fault = self.faults.last_mut().expect("a fault has begun");
        fault.heads.end = self.taken.len();
    }

    pub(super) fn accepted(&mut self, head: Accepted) {
        self.taken.extend(head.map(|(block, at)| (block.hash.clone(), at)));
    }

    /// Prints how long the slowest head of each fault took to the last client, and holds it against what is promised.
    pub(super) fn judge(&self, followers: &[Follower]) {
        let arrived: Vec<HashMap<&str, Instant>> = followers.iter().map(first_arrivals).collect();
        let rows = [
            ("one killed", Cause::Kill, 1, LOSS_MAX),
            ("one stalled", Cause::Stall, 1, STALL_MAX),
            ("both killed", Cause::Kill, 2, ALL_AWAY_MAX),
            ("both stalled", Cause::Stall, 2, ALL_AWAY_MAX),
        ];
        let mut late = Vec::new();
        for (name, cause, nodes, most) in rows {
            let faults = self.faults.iter().filter(|fault| (fault.cause, fault.nodes) == (cause, nodes));
            let mut took: Vec<Duration> = faults.map(|fault| self.took(fault, &arrived)).collect();
            took.sort_unstable();
            let Some(max) = took.last() else { continue };
            println!("{name}: {} times, heads after {:?} (median), {max:?} (most)", took.len(), took[took.len() / 2]);
            if *max > most {
                late.push(format!("{name}: {max:?} instead of {most:?}"));
            }
        }
        assert!(late.is_empty(), "{late:?}");
    }

    /// The longest time from a head's being taken by a node to its coming to a client. One that gave way at once may never
    /// come; then the next one counts.
    fn took(&self, fault: &Fault, arrived: &[HashMap<&str, Instant>]) -> Duration {
        let of_client = |at: usize, arrived: &HashMap<&str, Instant>| {
            let came = self.taken[at..].iter().find_map(|(hash, _)| arrived.get(hash.as_str()));
            came.map_or(Duration::MAX, |came| came.saturating_duration_since(self.taken[at].1))
        };
        let times = fault.heads.clone().flat_map(|at| arrived.iter().map(move |arrived| of_client(at, arrived)));
        times.max().unwrap_or_default()
    }
}

/// When a client was first told each head.
fn first_arrivals(follower: &Follower) -> HashMap<&str, Instant> {
    let mut first = HashMap::new();
    for (hash, at) in &follower.heads_at {
        first.entry(hash.as_str()).or_insert(*at);
    }
    first
}
