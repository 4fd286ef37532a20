//! Each node's word, and whom it may move: the undo rule.
//!
//! A strictly higher tip moves us, whoever says it. An equal or lower one on another branch does only if its node told
//! our tip itself on the same connection, and where another such node still stands by our tip, only from the one that
//! gave it to us. A step back to an ancestor of our tip (a shrink) must moreover be confirmed: by the node saying so
//! again later, or by a second node, neither of them syncing. A lower tip after a connect is lag. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy_primitives::B256;

use super::ask::{Candidate, PATIENCE_MAX};
use super::window::Window;
use crate::chain::{Header, NodeId, Standing, Undone};

/// Announcements remembered of one connection.
const RECENT: usize = 256;
/// How long a node must stand by a step back.
const SHRINK_STANDS: Duration = Duration::from_secs(2);
/// How long a node that was slow to answer is asked after the others.
const SLOW_FOR: Duration = Duration::from_secs(10);
/// How long after a question without an answer it is asked again.
const CONFIRM_AGAIN: Duration = Duration::from_secs(1);

/// A node went back to an ancestor of our tip.
#[derive(Debug)]
struct Lower {
    head: Arc<Header>,
    /// Tells the answers to its question from those to an older one.
    number: u64,
    since: Instant,
    /// It said that it is not syncing.
    calm: bool,
    /// It said the same again, long enough after the first time.
    again: bool,
    /// When to ask where it stands.
    confirm: Option<Instant>,
}

/// One connection's word.
#[derive(Debug)]
struct View {
    tip: Option<Arc<Header>>,
    /// An older tip of it that is still being linked.
    walked: Option<Arc<Header>>,
    /// What it told, and when by our count.
    recent: VecDeque<(B256, u64)>,
    lower: Option<Lower>,
    spoke: Instant,
    /// It was given time to answer something and has not: it is asked after the others until then.
    slow: Option<Instant>,
}

/// All connected nodes' words.
#[derive(Debug, Default)]
pub(super) struct Views {
    nodes: BTreeMap<NodeId, View>,
    giver: Option<NodeId>,
    /// Steps back seen so far.
    lowers: u64,
    /// Words heard so far.
    count: u64,
    /// The blocks undone last, and when by that count.
    undone: VecDeque<(B256, u64)>,
}

impl Views {
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn has(&self, node: NodeId) -> bool {
        self.nodes.contains_key(&node)
    }

    pub(super) fn first(&self) -> Option<NodeId> {
        self.nodes.keys().next().copied()
    }

    /// The node that gave us our tip, while its connection lasts.
    pub(super) fn giver(&self) -> Option<NodeId> {
        self.giver
    }

    pub(super) fn connected(&mut self, node: NodeId, now: Instant) {
        self.nodes.insert(
            node,
            View { tip: None, walked: None, recent: VecDeque::new(), lower: None, spoke: now, slow: None },
        );
        self.giver = self.giver.filter(|giver| *giver != node);
    }

    pub(super) fn lost(&mut self, node: NodeId) {
        self.nodes.remove(&node);
        self.giver = self.giver.filter(|giver| *giver != node);
    }

    /// How each node stands to a question about this block.
    pub(super) fn candidates(&self, hash: B256, now: Instant) -> impl Iterator<Item = Candidate> {
        let candidate = move |(node, view): (&NodeId, &View)| Candidate {
            node: *node,
            told: view.told(hash).is_some(),
            slow: view.slow.is_some_and(|until| until > now),
        };
        self.nodes.iter().map(candidate)
    }

    /// This node was given time to answer something and has not.
    pub(super) fn is_slow(&mut self, node: NodeId, now: Instant) {
        if let Some(view) = self.nodes.get_mut(&node) {
            view.slow = Some(now + SLOW_FOR);
        }
    }

    /// A connected node tells its head.
    pub(super) fn heard(&mut self, node: NodeId, header: &Arc<Header>, window: &Window, now: Instant) {
        let Some(view) = self.nodes.get_mut(&node) else { return };
        view.spoke = now;
        if window.tip().is_some_and(|tip| view.steps_back(header, tip, window)) {
            match &mut view.lower {
                Some(lower) if lower.head.hash == header.hash => lower.again |= now >= lower.since + SHRINK_STANDS,
                lower => {
                    self.lowers += 1;
                    let (head, number) = (header.clone(), self.lowers);
                    *lower = Some(Lower { head, number, since: now, calm: false, again: false, confirm: Some(now) });
                }
            }
        } else {
            view.lower = None;
        }
        if view.recent.len() == RECENT {
            view.recent.pop_front();
        }
        self.count += 1;
        view.recent.push_back((header.hash, self.count));
        view.walked.take_if(|walked| walked.number > header.number);
        view.tip = Some(header.clone());
    }

    /// A node says where it stands, or nothing. Returns its latest block where it does not step back after all.
    pub(super) fn stands(
        &mut self,
        node: NodeId,
        number: u64,
        standing: Option<Standing>,
        now: Instant,
    ) -> Option<Arc<Header>> {
        let view = self.nodes.get_mut(&node)?;
        let lower = view.lower.as_mut().filter(|lower| lower.number == number)?;
        match standing {
            None => lower.confirm = Some(now + CONFIRM_AGAIN),
            Some(Standing { latest, .. }) if latest.hash != lower.head.hash => {
                view.lower = None;
                (view.tip, view.walked) = (Some(latest.clone()), None);
                return Some(latest);
            }
            Some(Standing { syncing, .. }) => {
                lower.calm = !syncing;
                let stood = now >= lower.since + SHRINK_STANDS;
                lower.again |= stood;
                let done = lower.again && lower.calm;
                lower.confirm =
                    (!done).then_some(if stood { now + CONFIRM_AGAIN } else { lower.since + SHRINK_STANDS });
            }
        }
        None
    }

    /// The nodes to be asked now where they stand.
    pub(super) fn take_doubtful(&mut self, now: Instant) -> Vec<(NodeId, u64)> {
        let due = self.nodes.iter_mut().filter_map(|(node, view)| {
            let lower = view.lower.as_mut()?;
            lower.confirm.filter(|confirm| *confirm <= now)?;
            lower.confirm = Some(now + PATIENCE_MAX);
            Some((*node, lower.number))
        });
        due.collect()
    }

    /// When [`Views::take_doubtful`] has something.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.nodes.values().filter_map(|view| view.lower.as_ref()?.confirm).min()
    }

    /// The tips that a node may move us to, highest first.
    pub(super) fn claims(&self, window: &Window) -> Vec<(NodeId, Arc<Header>)> {
        let tips = self.nodes.iter().flat_map(|(node, view)| {
            let walked = view.walked(window).filter(|w| view.tip.as_ref().is_some_and(|tip| tip.hash != w.hash));
            view.tip.iter().chain(walked).map(|tip| (*node, tip))
        });
        let mut claims: Vec<_> =
            tips.filter(|(node, tip)| self.may_move(*node, tip, window)).map(|(n, t)| (n, t.clone())).collect();
        claims.sort_by_key(|(node, tip)| (std::cmp::Reverse(tip.number), *node));
        claims
    }

    /// Whether what is missing of this claim is to be asked for: one claim of each node at a time, or a node whose heads
    /// come faster than its answers would never be followed.
    pub(super) fn walk(&mut self, node: NodeId, target: &Arc<Header>, window: &Window) -> bool {
        let view = self.nodes.get_mut(&node).expect("it claims");
        let is_next = view.walked(window).is_none_or(|older| older.hash == target.hash);
        if is_next {
            view.walked = Some(target.clone());
        }
        is_next
    }

    /// Gives up an older claim for the node's present one. Returns whether there was an older one.
    pub(super) fn give_up(&mut self, node: NodeId, target: &Header) -> bool {
        let Some(view) = self.nodes.get_mut(&node) else { return false };
        let older = view.tip.as_ref().is_some_and(|tip| tip.hash != target.hash);
        older && view.walked.take_if(|walked| walked.hash == target.hash).is_some()
    }

    fn may_move(&self, node: NodeId, claim: &Header, window: &Window) -> bool {
        let (Some(tip), Some(first)) = (window.tip(), window.first()) else { return true };
        let view = &self.nodes[&node];
        if claim.number < first.number && !view.lower.as_ref().is_some_and(|l| l.again && l.head.hash == claim.hash) {
            // A slip of the tongue, or lag: it is being asked.
            return false;
        }
        if window.position(claim.number, claim.hash).is_some() {
            return false;
        }
        claim.number > tip.number || (self.left_our_tip(node, tip, claim) && !self.giver_stands(node, tip))
    }

    /// Whether this node told our tip before it went on to `claim`. Where we left that block after the node had told our
    /// tip, it is only about to go the way that we went.
    fn left_our_tip(&self, node: NodeId, tip: &Header, claim: &Header) -> bool {
        let left = self.undone.iter().rev().find(|(hash, _)| *hash == claim.hash).map(|(_, at)| *at);
        self.nodes[&node].told(tip.hash).is_some_and(|told| left.is_none_or(|left| left < told))
    }

    /// Whether the node that gave us our tip is another one than `node` and still stands by it.
    fn giver_stands(&self, node: NodeId, tip: &Header) -> bool {
        let giver = self.giver.filter(|giver| *giver != node).and_then(|giver| self.nodes.get(&giver));
        giver.is_some_and(|view| view.tip.as_ref().is_some_and(|t| t.hash == tip.hash))
    }

    /// A confirmed step back: who says it, and the place of the new tip.
    pub(super) fn shrink(&self, window: &Window) -> Option<(NodeId, usize)> {
        let tip = window.tip()?;
        let confirmed = |(node, view): (&NodeId, &View)| {
            let lower = view.lower.as_ref().filter(|lower| lower.calm)?;
            if !view.steps_back(&lower.head, tip, window) {
                return None;
            }
            let second = |(other, view): (&NodeId, &View)| {
                let same =
                    |l: &Lower| l.calm && l.head.hash == lower.head.hash && view.steps_back(&l.head, tip, window);
                other != node && view.lower.as_ref().is_some_and(same)
            };
            let counts = self.nodes.iter().any(second) || (lower.again && !self.giver_stands(*node, tip));
            let at = window.position(lower.head.number, lower.head.hash)?;
            counts.then_some((*node, at))
        };
        self.nodes.iter().filter_map(confirmed).max_by_key(|(_, at)| *at)
    }

    /// The chain moved by this node's word.
    pub(super) fn moved_by(&mut self, node: NodeId) {
        self.giver = Some(node);
    }

    /// These blocks left the chain by a node's word that its head is `to`. Who stood on one must speak anew to be heard: it
    /// may merely be late, and would lead us back to what it is about to leave.
    pub(super) fn left(&mut self, undone: &[Undone], by: NodeId, to: B256) {
        let told = self.nodes.get(&by).and_then(|view| view.told(to)).unwrap_or(self.count);
        // Just before that word, which may be older than others.
        self.undone.extend(undone.iter().map(|undone| (undone.block.hash, told.saturating_sub(1))));
        while self.undone.len() > RECENT {
            self.undone.pop_front();
        }
        for view in self.nodes.values_mut() {
            for told in [&mut view.tip, &mut view.walked] {
                told.take_if(|told| undone.iter().any(|u| u.block.hash == told.hash));
            }
        }
    }

    /// Forgets a claim that cannot be true.
    pub(super) fn disregard(&mut self, hash: B256) {
        for view in self.nodes.values_mut() {
            for told in [&mut view.tip, &mut view.walked] {
                told.take_if(|told| told.hash == hash);
            }
        }
    }

    /// Until when other nodes that stand near our tip, and spoke within `patience`, speak against following this one far
    /// away from it.
    pub(super) fn held_until(&self, node: NodeId, window: &Window, patience: Duration) -> Option<Instant> {
        let ours = window.tip()?.number;
        let stands =
            |view: &&View| view.tip.as_ref().is_some_and(|tip| tip.number.abs_diff(ours) <= window.blocks_max() as u64);
        let others = self.nodes.iter().filter(|(id, _)| **id != node).map(|(_, view)| view);
        others.filter(stands).map(|view| view.spoke + patience).max()
    }
}

impl View {
    /// The older tip that is still being linked, if it would still move us.
    fn walked(&self, window: &Window) -> Option<&Arc<Header>> {
        self.walked.as_ref().filter(|walked| window.tip().is_none_or(|tip| walked.number > tip.number))
    }

    /// When it last told this block.
    fn told(&self, hash: B256) -> Option<u64> {
        self.recent.iter().rev().find(|(told, _)| *told == hash).map(|(_, at)| *at)
    }

    /// Whether this head is a step back from our tip, which the node told itself: on our chain, or to where it is not
    /// known.
    fn steps_back(&self, head: &Header, tip: &Header, window: &Window) -> bool {
        let below = window.first().is_some_and(|first| head.number < first.number);
        head.number < tip.number
            && self.told(tip.hash).is_some()
            && (below || window.position(head.number, head.hash).is_some())
    }
}
