//! Decides what is true on the chain: observations in, actions out.
//!
//! Owns what is being asked for, and puts the parts together: each node's word ([`Views`]), the canonical blocks
//! ([`Window`]), finality, and the watch over slow nodes. Parent hashes are the truth: a tip is taken only once its
//! parents lead to the known chain. No clock, no I/O: time comes with the observations. Pure.
//!
//! Invariants: what is published is linked by parent hash; logs are published in the order of the blocks, each after
//! its head; a block's logs are published once for each time that the block joins the chain; nothing at or below the
//! finalized block is undone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy_primitives::B256;

use super::action::{Action, Bounds, GapCause, Note};
use super::ask::Ask;
use super::finality::Finality;
use super::logs::Blooms;
use super::rule::Views;
use super::walk::{self, Headers, Link, Need};
use super::watch::Watch;
use super::window::Window;
use crate::chain::{BlockRef, ChainUpdate, Header, NodeId, Observation, Saying};
use crate::upstream::{Aside, Order};

/// Shortest time for which a node's last word counts against a claim that leads far away.
const SPEAKS: Duration = Duration::from_secs(10);
/// So many attempts to get a block show that what leads to it may be false.
const IN_VAIN: u32 = 4;

#[derive(Debug)]
struct Walk {
    node: NodeId,
    need: Need,
    ask: Ask,
}

/// The deciding part of the ingest.
#[derive(Debug)]
pub struct Tracker {
    bounds: Bounds,
    views: Views,
    window: Window,
    headers: Headers,
    walks: BTreeMap<B256, Walk>,
    blooms: Blooms,
    watch: Watch,
    finality: Finality,
    logs_late: bool,
    /// When a claim that leads far away may be followed.
    far_at: Option<Instant>,
    actions: Vec<Action>,
}

impl Tracker {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            views: Views::default(),
            window: Window::new(&bounds),
            headers: Headers::default(),
            walks: BTreeMap::new(),
            blooms: bounds.blooms,
            watch: Watch::default(),
            finality: Finality::new(bounds.finality_every),
            logs_late: false,
            far_at: None,
            actions: Vec::new(),
            bounds,
        }
    }

    /// The tip, once there is one.
    #[must_use]
    pub fn tip(&self) -> Option<&Arc<Header>> {
        self.window.tip()
    }

    /// Number of heads whose logs are not published yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.window.waiting()
    }

    /// Whether this chain's blooms say nothing about its logs.
    #[must_use]
    pub fn blooms_are_empty(&self) -> bool {
        self.blooms == Blooms::Empty
    }

    /// The usual time between blocks, once a few have come.
    #[must_use]
    pub fn block_time(&self) -> Option<Duration> {
        self.watch.block_time()
    }

    /// The safe and the finalized block, as far as they are known.
    #[must_use]
    pub fn finality(&self) -> (Option<BlockRef>, Option<BlockRef>) {
        (self.finality.safe(), self.finality.finalized())
    }

    /// Takes an observation in and returns what is to be done, in order.
    pub fn observe(&mut self, observation: Observation) -> Vec<Action> {
        let Observation { node, at, what } = observation;
        match what {
            Saying::Connected(header) => self.connected(node, &header, at),
            Saying::Head(header) => self.heard_from(node, &header, at),
            Saying::Lost => self.lost(node, at),
            Saying::Blocks(hash, blocks) => self.answered_blocks(node, hash, blocks, at),
            Saying::Logs(hash, logs) => {
                if let Err(why) = self.window.answered(node, hash, logs, &mut self.blooms, at) {
                    self.actions.push(Action::Note(Note::Retry(why)));
                }
            }
            Saying::Stands(number, standing) => {
                let standing = standing.filter(|standing| self.blooms.fits(&standing.latest));
                if let Some(latest) = self.views.stands(node, number, standing, at) {
                    self.headers.announced(&latest, self.headers_max());
                }
            }
            Saying::Height(height) => {
                if let Some(order) = self.watch.answered(node, height, at) {
                    self.actions.push(Action::Order(node, order));
                }
            }
            Saying::Finality { safe, finalized } => {
                let before = self.finality();
                self.finality.learn(&self.window, safe, finalized);
                if self.finality() != before {
                    self.actions.push(Action::Note(Note::Finality));
                }
            }
        }
        self.settle(at);
        std::mem::take(&mut self.actions)
    }

    /// Does what has become due, and returns what is to be done.
    pub fn tick(&mut self, now: Instant) -> Vec<Action> {
        self.settle(now);
        let too_many = self.window.waiting() > self.bounds.window * 2 && !self.views.is_empty();
        if too_many || self.logs_due(self.bounds.logs_wait).is_some_and(|late| late <= now) {
            let tip = self.tip().expect("an entry is late").clone();
            self.restart(tip, GapCause::Logs, now);
            self.settle(now);
        }
        std::mem::take(&mut self.actions)
    }

    /// When [`Tracker::tick`] has something to do.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        let walks = self.walks.values().map(|walk| walk.ask.due);
        let alarm = self.logs_due(self.bounds.logs_alarm).filter(|_| !self.logs_late);
        let finality = self.finality.next_due().filter(|_| !self.views.is_empty());
        let rest = [
            self.window.next_due(),
            self.watch.next_due(),
            self.views.next_due(),
            finality,
            alarm,
            self.logs_due(self.bounds.logs_wait),
            self.far_at,
        ];
        walks.chain(rest.into_iter().flatten()).min()
    }

    /// When the oldest missing logs have been waited for so long. Not while there is no node to ask.
    fn logs_due(&self, wait: Duration) -> Option<Instant> {
        self.window.waiting_since().filter(|_| !self.views.is_empty()).map(|since| since + wait)
    }

    fn connected(&mut self, node: NodeId, header: &Arc<Header>, now: Instant) {
        let after_outage = self.views.is_empty();
        // Whatever was ordered of the connection before.
        self.actions.push(Action::Order(node, Order::Stalled(false)));
        self.views.connected(node, now);
        self.watch.connected(node, header.number, now);
        self.heard_from(node, header, now);
        // What waits for a repetition is asked for now, and after an outage the time for logs starts anew.
        self.window.hurry(after_outage, now);
        self.walks.values_mut().for_each(|walk| walk.ask.hurry(now));
    }

    fn heard_from(&mut self, node: NodeId, header: &Arc<Header>, now: Instant) {
        if !self.views.has(node) {
            return;
        }
        if !self.blooms.fits(header) {
            // Its logs could never be known to be complete. What comes after it brings it back, fetched.
            return self.actions.push(Action::Note(Note::Malformed(node)));
        }
        self.watch.head(node, header.number);
        self.views.heard(node, header, &self.window, now);
        self.headers.announced(header, self.headers_max());
    }

    fn lost(&mut self, node: NodeId, now: Instant) {
        self.views.lost(node);
        self.watch.lost(node);
        self.window.gone(node, now);
        self.walks.values_mut().for_each(|walk| walk.ask.gone(node, now));
        self.actions.push(Action::Order(node, Order::Stalled(false)));
    }

    /// Room for a branch of full length from each node.
    fn headers_max(&self) -> usize {
        self.bounds.window * (2 + self.views.len())
    }

    /// Brings the chain to the best tip that the nodes' words allow, and asks for what is missing.
    fn settle(&mut self, now: Instant) {
        let mut wanted = Vec::new();
        while self.step_back(now) || self.step(&mut wanted, now) {
            wanted.clear();
        }
        for (node, need) in &wanted {
            let walk = || Walk { node: *node, need: *need, ask: Ask::new(now) };
            self.walks.entry(need.block.hash).or_insert_with(walk);
        }
        self.walks.retain(|hash, _| wanted.iter().any(|(_, need)| need.block.hash == *hash));
        self.ask_blocks(now);
        self.ask_logs(now);
        self.publish_logs(now);
        for (node, number) in self.views.take_doubtful(now) {
            self.actions.push(Action::Confirm(node, number));
        }
        self.watch.tick(now, &mut self.actions);
        if let Some(node) = self.views.giver().or_else(|| self.views.first())
            && self.finality.take(now)
        {
            self.actions.push(Action::AskFinality(node));
        }
        let late = self.logs_due(self.bounds.logs_alarm).is_some_and(|at| at <= now);
        if late != self.logs_late {
            self.logs_late = late;
            self.actions.push(Action::Note(Note::LogsLate(late)));
        }
    }

    /// Goes back to an ancestor of the tip, if that is confirmed. Returns whether it did.
    fn step_back(&mut self, now: Instant) -> bool {
        let Some((node, at)) = self.views.shrink(&self.window) else { return false };
        let tip = self.window.get(at).expect("the place is in the window").clone();
        let (to, word) = (tip.number, (node, tip.hash));
        match self.floor() {
            Some(floor) if to < floor => {
                self.set_aside(node, now);
                return true;
            }
            Some(floor) if to == floor => self.undo(at + 1, word, now),
            // Clients know a new tip by its head alone: it leaves and joins again.
            _ => {
                self.undo(at, word, now);
                self.append(tip, now);
                self.watch.grown(to, 1, now);
            }
        }
        self.views.moved_by(node);
        true
    }

    /// Follows the first claim that can be followed. Returns whether anything changed; else `wanted` holds the blocks
    /// without which nothing can be told. A claim that leads nowhere does not keep a lower one back.
    fn step(&mut self, wanted: &mut Vec<(NodeId, Need)>, now: Instant) -> bool {
        self.far_at = None;
        for (node, target) in self.views.claims(&self.window) {
            match walk::link(&self.window, &self.headers, self.floor(), self.bounds.window, &target) {
                Link::To(at, path) => self.adopt(node, at, path, now),
                Link::Broken => {
                    if !self.headers.doubt(&target) {
                        self.views.disregard(target.hash);
                    }
                }
                Link::Final => self.set_aside(node, now),
                Link::Far => {
                    if !self.jump(node, target, now) {
                        continue;
                    }
                }
                Link::Missing(need) => {
                    let tries = self.walks.get(&need.block.hash).map_or(0, |walk| walk.ask.attempts());
                    let in_vain =
                        tries >= IN_VAIN && (self.headers.doubt(&target) || self.views.give_up(node, &target));
                    if !in_vain {
                        if self.views.walk(node, &target, &self.window) {
                            wanted.push((node, need));
                        }
                        continue;
                    }
                }
                Link::Below => {
                    if let Err(need) = self.extend_down(&target, now) {
                        let asked = self.walks.get(&need.block.hash).map(|walk| walk.ask.since);
                        let in_vain = asked.is_some_and(|since| since + self.bounds.logs_wait <= now);
                        // Nobody has what our first block stands on, so nobody can lead from it to the claim.
                        if !in_vain || !self.jump(node, target, now) {
                            wanted.push((node, need));
                            continue;
                        }
                    }
                }
            }
            return true;
        }
        false
    }

    /// Goes on at a claim that does not connect to the chain, unless another node stands there. Returns whether it did.
    fn jump(&mut self, node: NodeId, target: Arc<Header>, now: Instant) -> bool {
        let held = self.views.held_until(node, &self.window, self.patience()).filter(|until| *until > now);
        if let Some(until) = held {
            self.far_at = Some(self.far_at.map_or(until, |at| at.min(until)));
            return false;
        }
        self.restart(target, GapCause::TooFar, now);
        self.views.moved_by(node);
        true
    }

    /// How long the word of a node that says nothing more counts: a few blocks.
    fn patience(&self) -> Duration {
        self.watch.block_time().map_or(SPEAKS, |time| SPEAKS.max(time * 4))
    }

    /// The number at and below which nothing is undone.
    fn floor(&self) -> Option<u64> {
        self.finality.finalized().map(|block| block.number)
    }

    /// A node would have us undo what is final.
    fn set_aside(&mut self, node: NodeId, now: Instant) {
        self.lost(node, now);
        self.actions.push(Action::Order(node, Order::SetAside(Aside::BelowFinalized)));
    }

    /// Puts the parent of the oldest block under it, as known but never published; or names it where it is not known.
    /// Where its number contradicts our chain, the claim that led here is forgotten.
    fn extend_down(&mut self, target: &Header, now: Instant) -> Result<(), Need> {
        let first = self.window.first().expect("a claim lies below it");
        let block = BlockRef { number: first.number - 1, hash: first.parent };
        let Some(parent) = self.headers.checked(block.hash).cloned() else { return Err(Need { block, count: 1 }) };
        if parent.number == block.number {
            self.window.put_under(parent, now);
        } else {
            self.views.disregard(target.hash);
        }
        Ok(())
    }

    /// Undoes to the entry at `at` and applies `path`, which stands on it.
    fn adopt(&mut self, node: NodeId, at: Option<usize>, path: Vec<Arc<Header>>, now: Instant) {
        let target = path.last().expect("it holds the target");
        let (count, height) = (path.len(), target.number);
        self.undo(at.map_or(0, |at| at + 1), (node, target.hash), now);
        path.into_iter().for_each(|header| self.append(header, now));
        self.watch.grown(height, u32::try_from(count).unwrap_or(u32::MAX), now);
        self.views.moved_by(node);
    }

    /// Undoes all but the first `keep` entries, by a node's word that its head is this.
    fn undo(&mut self, keep: usize, (by, to): (NodeId, B256), now: Instant) {
        let undone = self.window.undo(keep);
        if !undone.is_empty() {
            self.views.left(&undone, by, to);
            self.actions.push(Action::Publish(ChainUpdate::Undo(undone), now));
            self.watch.undone(self.tip().map_or(0, |tip| tip.number));
        }
    }

    fn append(&mut self, header: Arc<Header>, now: Instant) {
        self.actions.push(Action::Publish(ChainUpdate::Head(header.clone()), now));
        let none = self.blooms.proves_none(&header);
        self.window.push(header, none, now);
        self.finality.head_moved();
    }

    /// Starts anew at `tip`: what follows does not connect to what was published.
    fn restart(&mut self, tip: Arc<Header>, why: GapCause, now: Instant) {
        self.window.clear();
        self.actions.push(Action::Note(Note::Gap(why)));
        self.actions.push(Action::Publish(ChainUpdate::Gap, now));
        self.watch.restarted(tip.number, now);
        self.append(tip, now);
    }

    fn answered_blocks(&mut self, node: NodeId, hash: B256, blocks: Vec<Arc<Header>>, now: Instant) {
        let Some(walk) = self.walks.get_mut(&hash) else { return };
        // The block that was asked for, and then parents by hash and number: anything else is not known to be true.
        let mut next = walk.need.block;
        if !blocks.iter().any(|block| block.hash == hash) {
            return walk.ask.failed(node, now);
        }
        self.walks.remove(&hash);
        for block in blocks.into_iter().filter(|block| self.blooms.fits(block)) {
            if block.hash == hash || block.block() == next {
                next = BlockRef { number: block.number.saturating_sub(1), hash: block.parent };
                self.headers.fetched(block, self.headers_max());
            }
        }
    }

    fn ask_blocks(&mut self, now: Instant) {
        for walk in self.walks.values_mut() {
            walk.ask.owing(now).for_each(|slow| self.views.is_slow(slow, now));
            let Need { block, count } = walk.need;
            if let Some(node) = walk.ask.take(now, self.views.candidates(block.hash, now), Some(walk.node)) {
                self.actions.push(Action::FetchBlocks { node, block, count });
            }
        }
    }

    fn ask_logs(&mut self, now: Instant) {
        let giver = self.views.giver();
        for (hash, ask) in self.window.wanted() {
            ask.owing(now).for_each(|slow| self.views.is_slow(slow, now));
            if let Some(node) = ask.take(now, self.views.candidates(hash, now), giver) {
                self.actions.push(Action::FetchLogs(node, hash));
            }
        }
    }

    /// Publishes complete logs up to the first block whose logs are not.
    fn publish_logs(&mut self, now: Instant) {
        while let Some(logs) = self.window.publish_next(now) {
            self.actions.push(Action::Publish(ChainUpdate::Logs(logs), now));
        }
        self.window.trim();
    }
}
