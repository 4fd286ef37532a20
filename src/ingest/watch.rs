//! Which nodes keep up with the chain, and whether all of them have fallen silent.
//!
//! Learns the time between blocks from the chain itself. A node is stalled while it lacks a block that was published
//! some time ago; it is then asked for its height, and so are all nodes when none says anything. A node that gives no
//! answer, or whose height grows while it announces nothing, is connected to anew. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::{Action, Note};
use crate::chain::NodeId;
use crate::upstream::Order;

/// A node that lacks a block for this long is stalled: well within the 1.5 s of promise P6.
const STALLED_AFTER: Duration = Duration::from_millis(1_250);
/// Times between blocks from which the usual one is learnt, and how many are needed.
const INTERVALS: usize = 32;
const INTERVALS_MIN: usize = 3;
/// Stands for the usual time between blocks until it is learnt.
const BLOCK_TIME_UNKNOWN: Duration = Duration::from_secs(15);
/// All nodes silent for so many times the usual time between blocks.
const SILENT_BLOCKS: u32 = 4;
const SILENT_MIN: Duration = Duration::from_secs(1);
const SILENT_MAX: Duration = Duration::from_secs(600);
/// How soon a node whose height grew without an announcement is asked again.
const SUSPECT_AGAIN: Duration = Duration::from_secs(1);
/// Longest time between two questions to a node; they double from a second.
const PROBE_MAX: Duration = Duration::from_secs(60);
/// Published heights remembered.
const TOLD: usize = 1_024;

#[derive(Debug)]
struct Seen {
    height: u64,
    connected: Instant,
    stalled: bool,
    /// A question is under way.
    asked: bool,
    probes: u32,
    probe: Option<Instant>,
    /// Its height when it was asked, where it had announced less.
    suspect: Option<u64>,
}

impl Seen {
    fn probe_now(&mut self, now: Instant) {
        (self.probes, self.probe) = (0, Some(now));
    }
}

/// The watch over the nodes of one chain.
#[derive(Debug, Default)]
pub(super) struct Watch {
    nodes: BTreeMap<NodeId, Seen>,
    /// When which height was published.
    told: VecDeque<(u64, Instant)>,
    intervals: VecDeque<Duration>,
    heard: Option<Instant>,
    silent: bool,
}

impl Watch {
    pub(super) fn connected(&mut self, node: NodeId, height: u64, now: Instant) {
        let seen = Seen { height, connected: now, stalled: false, asked: false, probes: 0, probe: None, suspect: None };
        self.nodes.insert(node, seen);
        self.heard = Some(now);
    }

    pub(super) fn head(&mut self, node: NodeId, height: u64) {
        if let Some(seen) = self.nodes.get_mut(&node) {
            seen.height = height;
        }
    }

    pub(super) fn lost(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    /// The chain went back to this height.
    pub(super) fn undone(&mut self, to: u64) {
        while self.told.back().is_some_and(|(number, _)| *number > to) {
            self.told.pop_back();
        }
    }

    /// The chain grew by `count` blocks to this height.
    pub(super) fn grown(&mut self, height: u64, count: u32, now: Instant) {
        if let Some((_, last)) = self.told.back() {
            if self.intervals.len() == INTERVALS {
                self.intervals.pop_front();
            }
            self.intervals.push_back(now.saturating_duration_since(*last) / count.max(1));
        }
        self.told.push_back((height, now));
        self.heard = Some(now);
        if self.told.len() > TOLD {
            self.told.pop_front();
        }
    }

    /// The chain goes on at this height, whatever was before.
    pub(super) fn restarted(&mut self, height: u64, now: Instant) {
        self.told.clear();
        self.told.push_back((height, now));
    }

    /// The usual time between blocks, once a few have come.
    pub(super) fn block_time(&self) -> Option<Duration> {
        let mut sorted: Vec<_> = self.intervals.iter().copied().collect();
        sorted.sort_unstable();
        (sorted.len() >= INTERVALS_MIN).then(|| sorted[sorted.len() / 2])
    }

    fn silent_at(&self) -> Option<Instant> {
        let usual = self.block_time().unwrap_or(BLOCK_TIME_UNKNOWN);
        let span = (usual * SILENT_BLOCKS).clamp(SILENT_MIN, SILENT_MAX);
        self.heard.filter(|_| !self.nodes.is_empty()).map(|heard| heard + span)
    }

    /// When a node at this height is stalled, unless it goes on.
    fn stalled_at(told: &VecDeque<(u64, Instant)>, seen: &Seen) -> Option<Instant> {
        let (_, at) = told.get(told.partition_point(|(number, _)| *number <= seen.height))?;
        Some((*at).max(seen.connected) + STALLED_AFTER)
    }

    /// A node answered a question for its height, or did not.
    pub(super) fn answered(&mut self, node: NodeId, height: Option<u64>, now: Instant) -> Option<Order> {
        let seen = self.nodes.get_mut(&node).filter(|seen| seen.asked)?;
        seen.asked = false;
        match height {
            None => Some(Order::Reconnect("it does not answer")),
            Some(height) if height > seen.height => {
                if seen.suspect.is_some_and(|suspect| suspect > seen.height) {
                    return Some(Order::Reconnect("it announces nothing though it has new blocks"));
                }
                (seen.suspect, seen.probe) = (Some(height), Some(now + SUSPECT_AGAIN));
                None
            }
            Some(_) => {
                seen.suspect = None;
                None
            }
        }
    }

    /// What is to be done now.
    pub(super) fn tick(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let silent = self.silent_at().is_some_and(|at| at <= now);
        if silent != self.silent {
            self.silent = silent;
            actions.push(Action::Note(Note::Silent(silent)));
            if silent {
                self.nodes.values_mut().for_each(|seen| seen.probe_now(now));
            }
        }
        for (node, seen) in &mut self.nodes {
            let stalled = Self::stalled_at(&self.told, seen).is_some_and(|at| at <= now);
            if stalled != seen.stalled {
                seen.stalled = stalled;
                actions.push(Action::Order(*node, Order::Stalled(stalled)));
                if stalled {
                    seen.probe_now(now);
                }
            }
            if !seen.stalled && !silent && seen.suspect.is_none_or(|suspect| suspect <= seen.height) {
                (seen.probe, seen.suspect) = (None, None);
            }
            if !seen.asked && seen.probe.is_some_and(|at| at <= now) {
                seen.asked = true;
                seen.probes = seen.probes.saturating_add(1);
                seen.probe = Some(now + Duration::from_secs(1 << seen.probes.min(6)).min(PROBE_MAX));
                actions.push(Action::Probe(*node));
            }
        }
    }

    /// When [`Watch::tick`] has something to do.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let stalls = self.nodes.values().filter(|s| !s.stalled).filter_map(|s| Self::stalled_at(&self.told, s));
        let probes = self.nodes.values().filter(|s| !s.asked).filter_map(|s| s.probe);
        stalls.chain(probes).chain(self.silent_at().filter(|_| !self.silent)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(0);
    const B: NodeId = NodeId(1);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// What happens until `to`, at the times at which it is due.
    fn run(watch: &mut Watch, from: Instant, to: Instant) -> Vec<(u64, Action)> {
        let mut told = Vec::new();
        while let Some(due) = watch.next_due().filter(|due| *due <= to) {
            let mut actions = Vec::new();
            watch.tick(due, &mut actions);
            let at = u64::try_from(due.saturating_duration_since(from).as_millis()).unwrap();
            assert!(!actions.is_empty() || told.len() < 100, "it turns in circles");
            told.extend(actions.into_iter().map(|action| (at, action)));
        }
        told
    }

    fn grow(watch: &mut Watch, height: u64, at: Instant, nodes: &[NodeId]) {
        watch.grown(height, 1, at);
        nodes.iter().for_each(|node| watch.head(*node, height));
    }

    #[test]
    fn a_node_that_lacks_a_block_is_stalled_in_time_and_fresh_when_it_has_it() {
        let start = Instant::now();
        let mut watch = Watch::default();
        watch.connected(A, 1, start);
        watch.connected(B, 1, start);
        grow(&mut watch, 2, start + ms(100), &[A]);
        let told = run(&mut watch, start, start + ms(1_500));
        assert_eq!(told, [(1_350, Action::Order(B, Order::Stalled(true))), (1_350, Action::Probe(B))]);
        assert_eq!(watch.answered(B, Some(1), start + ms(1_400)), None, "it is behind, not deaf");
        watch.head(B, 2);
        let mut actions = Vec::new();
        watch.tick(start + ms(1_600), &mut actions);
        assert_eq!(actions, [Action::Order(B, Order::Stalled(false))]);
    }

    #[test]
    fn a_shorter_branch_does_not_make_its_followers_late() {
        let start = Instant::now();
        let mut watch = Watch::default();
        watch.connected(A, 5, start);
        (6..9).for_each(|height| grow(&mut watch, height, start, &[A]));
        watch.undone(4);
        grow(&mut watch, 5, start + ms(10), &[A]);
        assert_eq!(run(&mut watch, start, start + ms(2_000)), []);
    }

    #[test]
    fn silence_of_all_is_noticed_after_four_blocks_and_a_deaf_subscription_is_made_anew() {
        let start = Instant::now();
        let mut watch = Watch::default();
        watch.connected(A, 0, start);
        (1..=10).for_each(|n| grow(&mut watch, n, start + ms(500 * n), &[A]));
        assert_eq!(watch.block_time(), Some(ms(500)));
        let told = run(&mut watch, start, start + ms(7_500));
        assert_eq!(told, [(7_000, Action::Note(Note::Silent(true))), (7_000, Action::Probe(A))]);
        assert_eq!(watch.answered(A, Some(12), start + ms(7_500)), None, "an announcement may be on its way");
        assert_eq!(run(&mut watch, start, start + ms(8_500)), [(8_500, Action::Probe(A))]);
        assert!(matches!(watch.answered(A, Some(12), start + ms(8_600)), Some(Order::Reconnect(_))));
        watch.lost(A);
        watch.connected(A, 12, start + ms(8_700));
        let mut actions = Vec::new();
        watch.tick(start + ms(8_700), &mut actions);
        assert_eq!(actions, [Action::Note(Note::Silent(false))]);
        assert_eq!(watch.answered(A, None, start + ms(8_800)), None, "an answer for the connection before");
    }

    #[test]
    fn without_an_answer_it_is_connected_to_anew() {
        let start = Instant::now();
        let mut watch = Watch::default();
        watch.connected(A, 1, start);
        watch.connected(B, 1, start);
        grow(&mut watch, 2, start, &[A]);
        assert_eq!(run(&mut watch, start, start + ms(1_300)).len(), 2);
        assert_eq!(watch.answered(B, None, start + ms(3_300)), Some(Order::Reconnect("it does not answer")));
    }

    #[test]
    fn a_sole_node_that_is_deaf_from_the_start_is_asked_some_time() {
        let start = Instant::now();
        let mut watch = Watch::default();
        watch.connected(A, 1, start);
        watch.grown(1, 1, start);
        assert!(watch.next_due().is_some());
    }

    #[test]
    fn heads_that_lead_nowhere_do_not_hide_silence() {
        let start = Instant::now();
        let mut watch = Watch::default();
        watch.connected(A, 0, start);
        watch.connected(B, 0, start);
        (1..=10).for_each(|n| grow(&mut watch, n, start + ms(500 * n), &[A, B]));
        let mut told = vec![];
        for n in 0..600 {
            watch.head(B, 10);
            watch.tick(start + ms(5_000 + 100 * n), &mut told);
        }
        assert!(told.contains(&Action::Probe(A)), "{told:?}");
    }
}
