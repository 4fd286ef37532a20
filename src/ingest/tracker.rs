//! Decides what is true on the chain: observations in, actions out.
//!
//! Owns the canonical window, each node's word, and what is being asked for. Parent hashes are the truth: a tip is
//! taken only once its parents lead to the known chain. No clock, no I/O: time comes with the observations. Pure.
//!
//! Invariants: the window is linked by parent hash; logs are published in the order of the blocks, each after its
//! head; a block's logs are published once for each time that the block joins the chain.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy_primitives::B256;

use super::ask::{Ask, choose};
use super::logs::{Blooms, Incomplete};
use crate::chain::{BlockLogs, ChainUpdate, Header, Log, NodeId, Observation, Saying, Undone};

/// Bounds of the tracker.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Most blocks that are kept to be undone, and most that are walked to link a tip.
    pub window: usize,
    /// Most bytes of logs kept to be undone.
    pub window_bytes: usize,
    /// Blocks whose logs are asked for at the same time.
    pub logs_in_flight: usize,
    /// How long a block's logs may stay incomplete before the stream ends with a gap.
    pub logs_wait: Duration,
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Publish an update; the time is when its cause was read off a node.
    Publish(ChainUpdate, Instant),
    /// Ask this node for the block with this hash.
    FetchBlock(NodeId, B256),
    /// Ask this node for the logs of the block with this hash.
    FetchLogs(NodeId, B256),
    /// Logs had to be asked for again.
    Retry(Incomplete),
}

/// Announcements remembered of one connection.
const RECENT: usize = 256;
/// One connection's word.
#[derive(Debug, Default)]
struct View {
    tip: Option<Arc<Header>>,
    recent: VecDeque<B256>,
}

#[derive(Debug)]
enum Logs {
    Wanted(Ask),
    Complete(Arc<BlockLogs>),
    Published(Arc<BlockLogs>),
}

#[derive(Debug)]
struct Entry {
    header: Arc<Header>,
    since: Instant,
    logs: Logs,
}

/// The deciding part of the ingest.
#[derive(Debug)]
pub struct Tracker {
    bounds: Bounds,
    nodes: BTreeMap<NodeId, View>,
    giver: Option<NodeId>,
    chain: VecDeque<Entry>,
    /// How many entries at the front have their logs published.
    published: usize,
    /// Blocks that were published are no longer in the window.
    cut: bool,
    bytes: usize,
    heard: HashMap<B256, Arc<Header>>,
    heard_order: VecDeque<B256>,
    walks: BTreeMap<B256, (NodeId, Ask)>,
    blooms: Blooms,
    actions: Vec<Action>,
}

impl Tracker {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            nodes: BTreeMap::new(),
            giver: None,
            chain: VecDeque::new(),
            published: 0,
            cut: false,
            bytes: 0,
            heard: HashMap::new(),
            heard_order: VecDeque::new(),
            walks: BTreeMap::new(),
            blooms: Blooms::default(),
            actions: Vec::new(),
        }
    }

    /// The tip, once there is one.
    #[must_use]
    pub fn tip(&self) -> Option<&Arc<Header>> {
        self.chain.back().map(|e| &e.header)
    }

    /// Number of heads whose logs are not published yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.chain.len() - self.published
    }

    /// Whether this chain's blooms say nothing about its logs.
    #[must_use]
    pub fn blooms_are_empty(&self) -> bool {
        self.blooms == Blooms::Empty
    }

    /// Takes an observation in and returns what is to be done, in order.
    pub fn observe(&mut self, observation: Observation) -> Vec<Action> {
        let Observation { node, at, what } = observation;
        match what {
            Saying::Connected(header) => {
                let first = self.nodes.is_empty();
                self.nodes.insert(node, View::default());
                self.heard_from(node, header);
                self.hurry(first, at);
            }
            Saying::Head(header) => self.heard_from(node, header),
            Saying::Lost => {
                self.nodes.remove(&node);
                if self.giver == Some(node) {
                    self.giver = None;
                }
            }
            Saying::Block(hash, block) => self.answered_block(hash, block, at),
            Saying::Logs(hash, logs) => self.answered_logs(hash, logs, at),
        }
        self.settle(at);
        std::mem::take(&mut self.actions)
    }

    /// Does what has become due, and returns what is to be done.
    pub fn tick(&mut self, now: Instant) -> Vec<Action> {
        self.settle(now);
        if self.late_at().is_some_and(|late| late <= now) {
            let tip = self.tip().expect("an entry is late").clone();
            self.restart(tip, now);
        }
        std::mem::take(&mut self.actions)
    }

    /// When [`Tracker::tick`] has something to do.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        let walks = self.walks.values().filter_map(|(_, ask)| ask.due);
        let logs =
            self.chain.iter().skip(self.published).take(self.bounds.logs_in_flight).filter_map(|e| match &e.logs {
                Logs::Wanted(ask) => ask.due,
                _ => None,
            });
        walks.chain(logs).chain(self.late_at()).min()
    }

    /// When the oldest missing logs have been waited for too long. Not while there is no node to ask.
    fn late_at(&self) -> Option<Instant> {
        let oldest = self.chain.get(self.published).filter(|_| !self.nodes.is_empty())?;
        Some(oldest.since + self.bounds.logs_wait)
    }

    /// A node came: what waits for a repetition is asked for now, and after an outage the time for logs starts anew.
    fn hurry(&mut self, after_outage: bool, now: Instant) {
        let waiting = self.chain.iter_mut().skip(self.published);
        let logs = waiting.filter_map(|entry| {
            if after_outage {
                entry.since = now;
            }
            match &mut entry.logs {
                Logs::Wanted(ask) => Some(ask),
                Logs::Complete(_) | Logs::Published(_) => None,
            }
        });
        for ask in logs.chain(self.walks.values_mut().map(|(_, ask)| ask)) {
            ask.due = ask.due.map(|_| now);
        }
    }

    fn heard_from(&mut self, node: NodeId, header: Arc<Header>) {
        let Some(view) = self.nodes.get_mut(&node) else { return };
        if view.recent.len() == RECENT {
            view.recent.pop_front();
        }
        view.recent.push_back(header.hash);
        view.tip = Some(header.clone());
        self.remember(header);
    }

    fn remember(&mut self, header: Arc<Header>) {
        self.blooms.see(&header);
        let hash = header.hash;
        if self.heard.insert(hash, header).is_none() {
            self.heard_order.push_back(hash);
        }
        while self.heard_order.len() > self.bounds.window * 2 {
            let oldest = self.heard_order.pop_front().expect("it is not empty");
            self.heard.remove(&oldest);
        }
    }

    /// Brings the chain to the best tip that the nodes' words allow, and asks for what is missing.
    fn settle(&mut self, now: Instant) {
        let mut wanted = Vec::new();
        while self.step(&mut wanted, now) {
            wanted.clear();
        }
        for (node, hash) in &wanted {
            self.walks.entry(*hash).or_insert((*node, Ask { attempt: 0, due: Some(now) }));
        }
        self.walks.retain(|hash, _| wanted.iter().any(|(_, w)| w == hash));
        self.ask_blocks(now);
        self.ask_logs(now);
        self.publish_logs(now);
    }

    /// Follows the first claim that can be followed. Returns whether anything changed; else `wanted` holds the blocks
    /// without which nothing can be told. A claim that leads nowhere does not keep a lower one back.
    fn step(&mut self, wanted: &mut Vec<(NodeId, B256)>, now: Instant) -> bool {
        for (node, target) in self.claims() {
            match self.link(&target) {
                Link::To(at, path) => self.adopt(node, at, path, now),
                Link::Broken => self.disregard(target.hash),
                Link::TooFar => {
                    self.restart(target, now);
                    self.giver = Some(node);
                }
                Link::Missing(hash) => {
                    wanted.push((node, hash));
                    continue;
                }
                Link::Below => {
                    if let Err(hash) = self.extend_down(now) {
                        wanted.push((node, hash));
                        continue;
                    }
                }
            }
            return true;
        }
        false
    }

    /// The tips that a node may move us to, highest first.
    fn claims(&self) -> Vec<(NodeId, Arc<Header>)> {
        let tips = self.nodes.iter().filter_map(|(node, view)| Some((*node, view.tip.as_ref()?)));
        let mut claims: Vec<_> =
            tips.filter(|(node, tip)| self.may_move(*node, tip)).map(|(n, t)| (n, t.clone())).collect();
        claims.sort_by_key(|(node, tip)| (std::cmp::Reverse(tip.number), *node));
        claims
    }

    /// Puts the parent of the oldest block under it, as known but never published; or names it where it is not known.
    /// Returns false where its number contradicts our chain, which can then not be followed further down.
    fn extend_down(&mut self, now: Instant) -> Result<bool, B256> {
        let first = &self.chain.front().expect("a claim lies below it").header;
        let Some(parent) = self.heard.get(&first.parent).cloned() else { return Err(first.parent) };
        if parent.number + 1 != first.number {
            return Ok(false);
        }
        let none = Arc::new(BlockLogs { block: parent.block(), logs: Vec::new() });
        self.chain.push_front(Entry { header: parent, since: now, logs: Logs::Published(none) });
        self.published += 1;
        Ok(true)
    }

    /// The undo rule: a higher tip moves us; an equal or lower one only from a node that had our tip itself, and where
    /// another such node still stands by our tip, only from the one that gave it to us.
    fn may_move(&self, node: NodeId, claim: &Header) -> bool {
        let Some(tip) = self.tip() else { return true };
        if self.position(claim.number, claim.hash).is_some() {
            return false;
        }
        if claim.number > tip.number {
            return true;
        }
        let had = |view: &View| view.recent.contains(&tip.hash);
        let giver_stands = self.giver.filter(|giver| *giver != node).and_then(|giver| self.nodes.get(&giver));
        let giver_stands = giver_stands.is_some_and(|view| view.tip.as_ref().is_some_and(|t| t.hash == tip.hash));
        had(&self.nodes[&node]) && !giver_stands
    }

    /// Place of a block in the window, if it is in the chain.
    fn position(&self, number: u64, hash: B256) -> Option<usize> {
        let first = self.chain.front()?.header.number;
        let at = usize::try_from(number.checked_sub(first)?).ok()?;
        self.chain.get(at).filter(|e| e.header.hash == hash).map(|_| at)
    }

    /// Walks from `target` to the known chain.
    fn link(&self, target: &Arc<Header>) -> Link {
        let Some(first) = self.chain.front() else { return Link::To(None, vec![target.clone()]) };
        let mut path = vec![target.clone()];
        loop {
            let lowest = path.last().expect("it starts with the target");
            if path.len() > self.bounds.window {
                return Link::TooFar;
            }
            if lowest.number <= first.header.number {
                let young = !self.cut && self.chain.len() < self.bounds.window && first.header.number > 0;
                return if young { Link::Below } else { Link::TooFar };
            }
            let Some(parent_number) = lowest.number.checked_sub(1) else { return Link::Broken };
            if let Some(at) = self.position(parent_number, lowest.parent) {
                path.reverse();
                return Link::To(Some(at), path);
            }
            match self.heard.get(&lowest.parent) {
                Some(parent) if parent.number == parent_number => path.push(parent.clone()),
                Some(_) => return Link::Broken,
                None => return Link::Missing(lowest.parent),
            }
        }
    }

    /// Undoes to the entry at `at` and applies `path`, which stands on it.
    fn adopt(&mut self, node: NodeId, at: Option<usize>, path: Vec<Arc<Header>>, now: Instant) {
        let keep = at.map_or(0, |at| at + 1);
        let undone: Vec<Undone> = self.chain.drain(keep..).rev().map(Entry::undo).collect();
        for logs in undone.iter().filter_map(|u| u.logs.as_ref()) {
            self.bytes -= logs_bytes(logs);
        }
        self.published = self.published.min(keep);
        if !undone.is_empty() {
            self.actions.push(Action::Publish(ChainUpdate::Undo(undone), now));
        }
        path.into_iter().for_each(|header| self.append(header, now));
        self.giver = Some(node);
    }

    fn append(&mut self, header: Arc<Header>, now: Instant) {
        self.actions.push(Action::Publish(ChainUpdate::Head(header.clone()), now));
        let logs = if self.blooms.proves_none(&header) {
            Logs::Complete(Arc::new(BlockLogs { block: header.block(), logs: Vec::new() }))
        } else {
            Logs::Wanted(Ask { attempt: 0, due: Some(now) })
        };
        self.chain.push_back(Entry { header, since: now, logs });
    }

    /// Starts anew at `tip`: what follows does not connect to what was published.
    fn restart(&mut self, tip: Arc<Header>, now: Instant) {
        self.chain.clear();
        (self.published, self.bytes, self.cut) = (0, 0, false);
        self.actions.push(Action::Publish(ChainUpdate::Gap, now));
        self.append(tip, now);
    }

    /// Forgets a claim that cannot be true.
    fn disregard(&mut self, hash: B256) {
        for view in self.nodes.values_mut().filter(|v| v.tip.as_ref().is_some_and(|t| t.hash == hash)) {
            view.tip = None;
        }
    }

    fn answered_block(&mut self, hash: B256, block: Option<Arc<Header>>, now: Instant) {
        let Some((_, ask)) = self.walks.get_mut(&hash) else { return };
        match block.filter(|block| block.hash == hash) {
            Some(block) => {
                self.walks.remove(&hash);
                self.remember(block);
            }
            None => ask.again(now),
        }
    }

    fn answered_logs(&mut self, hash: B256, logs: Option<Vec<Log>>, now: Instant) {
        let wanted = |e: &&mut Entry| e.header.hash == hash && matches!(e.logs, Logs::Wanted(_));
        let Some(entry) = self.chain.iter_mut().skip(self.published).find(wanted) else { return };
        let judged = logs.ok_or(Incomplete::Absent).and_then(|logs| {
            self.blooms.check(&entry.header, &logs)?;
            Ok(logs)
        });
        match judged {
            Ok(logs) => entry.logs = Logs::Complete(Arc::new(BlockLogs { block: entry.header.block(), logs })),
            Err(why) => {
                self.actions.push(Action::Retry(why));
                if let Logs::Wanted(ask) = &mut entry.logs {
                    ask.again(now);
                }
            }
        }
    }

    fn ask_blocks(&mut self, now: Instant) {
        for (hash, (node, ask)) in &mut self.walks {
            if let Some(attempt) = ask.is_due(now) {
                let first = Some(*node).filter(|n| self.nodes.contains_key(n));
                match choose(told(&self.nodes, *hash), first, attempt) {
                    Some(node) => self.actions.push(Action::FetchBlock(node, *hash)),
                    None => ask.again(now),
                }
            }
        }
    }

    fn ask_logs(&mut self, now: Instant) {
        for entry in self.chain.iter_mut().skip(self.published).take(self.bounds.logs_in_flight) {
            let Logs::Wanted(ask) = &mut entry.logs else { continue };
            if let Some(attempt) = ask.is_due(now) {
                let giver = self.giver.filter(|n| self.nodes.contains_key(n));
                match choose(told(&self.nodes, entry.header.hash), giver, attempt) {
                    Some(node) => self.actions.push(Action::FetchLogs(node, entry.header.hash)),
                    None => ask.again(now),
                }
            }
        }
    }

    /// Publishes complete logs up to the first block whose logs are not.
    fn publish_logs(&mut self, now: Instant) {
        while let Some(entry) = self.chain.get_mut(self.published) {
            let Logs::Complete(logs) = &entry.logs else { break };
            let logs = logs.clone();
            entry.logs = Logs::Published(logs.clone());
            self.bytes += logs_bytes(&logs);
            self.published += 1;
            self.actions.push(Action::Publish(ChainUpdate::Logs(logs), now));
        }
        let too_much = |t: &Self| t.chain.len() > t.bounds.window || t.bytes > t.bounds.window_bytes;
        while too_much(self) && self.published > 1 {
            let oldest = self.chain.pop_front().expect("an entry is published");
            (self.published, self.cut) = (self.published - 1, true);
            self.bytes -= oldest.undo().logs.map_or(0, |logs| logs_bytes(&logs));
        }
    }
}

/// How a claimed tip relates to the known chain.
enum Link {
    /// It stands on the entry at this place (none: there is no chain yet) by these blocks, parents first.
    To(Option<usize>, Vec<Arc<Header>>),
    /// This block is needed to tell.
    Missing(B256),
    /// It leaves our chain below the oldest block of a window that is not full yet.
    Below,
    /// Its numbers contradict its parents.
    Broken,
    /// It leaves the window.
    TooFar,
}

impl Entry {
    fn undo(self) -> Undone {
        let logs = match self.logs {
            Logs::Published(logs) => Some(logs),
            Logs::Wanted(_) | Logs::Complete(_) => None,
        };
        Undone { block: self.header.block(), logs }
    }
}

/// Of each node, whether it announced the block.
fn told(nodes: &BTreeMap<NodeId, View>, hash: B256) -> impl Iterator<Item = (NodeId, bool)> {
    nodes.iter().map(move |(id, view)| (*id, view.recent.contains(&hash)))
}

fn logs_bytes(logs: &BlockLogs) -> usize {
    logs.logs.iter().map(|log| log.json.len() + 128).sum()
}
