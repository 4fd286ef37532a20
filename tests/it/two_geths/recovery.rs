//! How long after a fault the heads that are to be had reach the clients.
//!
//! Owns the measurement and promise P6: 2 s after the loss of a connection, 1.5 s where a node stalls without a word and
//! another is ahead. Where both nodes were away there is nothing to be had but what the first of them brings back.

use std::collections::HashMap;
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
const ALL_AWAY_MAX: Duration = Duration::from_secs(10);

/// A fault of so many nodes, and the heads that a node took until all were back.
struct Fault {
    cause: Cause,
    nodes: usize,
    accepted: Vec<(String, Instant)>,
}

#[derive(Default)]
pub(super) struct Recovery(Vec<Fault>);

impl Recovery {
    pub(super) fn begins(&mut self, cause: Cause, nodes: usize) {
        self.0.push(Fault { cause, nodes, accepted: Vec::new() });
    }

    pub(super) fn accepted(&mut self, head: Accepted) {
        let fault = self.0.last_mut().expect("a fault has begun");
        fault.accepted.extend(head.map(|(block, at)| (block.hash.clone(), at)));
    }

    /// Prints how long the latest head of each fault took to the last client, and holds it against what is promised.
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
            let faults = self.0.iter().filter(|fault| (fault.cause, fault.nodes) == (cause, nodes));
            let mut took: Vec<Duration> = faults.map(|fault| fault.took(&arrived)).collect();
            took.sort_unstable();
            let Some(max) = took.last() else { continue };
            println!("{name}: {} times, heads after {:?} (median), {max:?} (most)", took.len(), took[took.len() / 2]);
            if *max > most {
                late.push(format!("{name}: {max:?} instead of {most:?}"));
            }
        }
        assert!(late.is_empty(), "{late:?}");
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

impl Fault {
    /// The longest time from a head's being taken by a node to its coming to a client. Where both nodes were away, a head
    /// may have given way before the gateway found a node again.
    fn took(&self, arrived: &[HashMap<&str, Instant>]) -> Duration {
        let of_client = |arrived: &HashMap<&str, Instant>, (hash, taken): &(String, Instant)| {
            let took = arrived.get(hash.as_str()).map(|at| at.saturating_duration_since(*taken));
            took.or((self.nodes == 1).then_some(Duration::MAX))
        };
        let times = self.accepted.iter().flat_map(|head| arrived.iter().filter_map(move |of| of_client(of, head)));
        times.max().unwrap_or_default()
    }
}
