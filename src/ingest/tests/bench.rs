//! A tracker with a world of blocks that answers what it asks, and a client that applies what it publishes and checks
//! the rules of the stream on the way. Owns nothing of the rule by which the tracker decides.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy_primitives::{Address, B256, Bloom};
use bytes::Bytes;

use crate::chain::{BlockRef, ChainUpdate, Header, Log, NodeId, Observation, Saying, Standing, accrue};
use crate::ingest::{Action, Blooms, Bounds, Note, Tracker};
use crate::upstream::Order;

fn hash(name: &str, number: u64) -> B256 {
    alloy_primitives::keccak256(format!("{name}{number}"))
}

/// A block of branch `name`; its two logs have addresses of their own.
pub(super) fn block(name: &str, number: u64, parent: B256) -> (Arc<Header>, Vec<Log>) {
    let hash = hash(name, number);
    let log = |index: u64| Log {
        address: Address::from_slice(&hash[usize::try_from(index).unwrap()..][..20]),
        topics: vec![],
        block_hash: hash,
        block_number: number,
        index,
        json: Bytes::from_static(b"{}"),
    };
    let logs = vec![log(0), log(1)];
    let mut bloom = Bloom::ZERO;
    logs.iter().for_each(|log| accrue(&mut bloom, log));
    let json = Bytes::from(format!("{name}{number}"));
    let header = Header { number, hash, parent, timestamp: number, bloom: Some(Box::new(bloom)), json };
    (Arc::new(header), logs)
}

/// How a node answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answers {
    /// As it should.
    Well,
    /// As if it did not have what is asked for; logs are `[]`.
    Blank,
    /// Logs less the last one; blocks not at all.
    Partly,
    /// Not before [`Bench::release`].
    Late,
}

/// One node of the world.
#[derive(Debug)]
pub(super) struct At {
    pub(super) connected: bool,
    /// Its head.
    pub(super) head: B256,
    /// What it told on this connection.
    pub(super) words: Vec<B256>,
    pub(super) answers: Answers,
    pub(super) syncing: bool,
    /// It was not syncing when it was asked, at least once on this connection.
    calm: bool,
}

/// The bench.
pub(super) struct Bench {
    pub(super) tracker: Tracker,
    pub(super) now: Instant,
    pub(super) world: HashMap<B256, (Arc<Header>, Vec<Log>)>,
    pub(super) nodes: BTreeMap<u16, At>,
    /// What each node calls finalized.
    pub(super) finalized: Option<B256>,
    /// Nothing at or below this may be undone.
    pub(super) floor: Option<u64>,
    pub(super) late: Vec<Observation>,
    /// The client's chain, and the blocks whose logs it has.
    pub(super) heads: Vec<BlockRef>,
    pub(super) logs: Vec<BlockRef>,
    pub(super) told: Vec<String>,
    pub(super) gaps: usize,
    pub(super) orders: Vec<(u16, Order)>,
    pub(super) notes: Vec<Note>,
    /// Questions for blocks and for logs.
    pub(super) asked: Vec<Action>,
    /// The client's tip before the step that is being applied, and how many heads that step kept.
    before: Option<(BlockRef, usize)>,
}

pub(super) fn bounds(window: usize) -> Bounds {
    Bounds {
        window,
        window_bytes: usize::MAX,
        logs_in_flight: 4,
        logs_alarm: Duration::from_secs(5),
        logs_wait: Duration::from_secs(60),
        finality_every: Duration::from_secs(6),
        blooms: Blooms::Unknown,
    }
}

impl Bench {
    pub(super) fn new(window: usize) -> Self {
        Self::with(bounds(window))
    }

    pub(super) fn with(bounds: Bounds) -> Self {
        Self {
            tracker: Tracker::new(bounds),
            now: Instant::now(),
            world: HashMap::new(),
            nodes: BTreeMap::new(),
            finalized: None,
            floor: None,
            late: vec![],
            heads: vec![],
            logs: vec![],
            told: vec![],
            gaps: 0,
            orders: vec![],
            notes: vec![],
            asked: vec![],
            before: None,
        }
    }

    /// Makes `count` blocks of branch `name` on `parent`; returns their hashes.
    pub(super) fn branch(&mut self, name: &str, from: u64, count: u64, parent: B256) -> Vec<B256> {
        let mut parent = parent;
        let make = |number| {
            let (header, logs) = block(name, number, parent);
            parent = header.hash;
            self.world.insert(header.hash, (header, logs));
            parent
        };
        (from..from + count).map(make).collect()
    }

    fn header(&self, hash: B256) -> Arc<Header> {
        self.world[&hash].0.clone()
    }

    fn at(&mut self, node: u16) -> &mut At {
        let fresh = || At {
            connected: false,
            head: B256::ZERO,
            words: vec![],
            answers: Answers::Well,
            syncing: false,
            calm: false,
        };
        self.nodes.entry(node).or_insert_with(fresh)
    }

    /// All nodes answer so from now on.
    pub(super) fn answer(&mut self, answers: Answers) {
        self.nodes.values_mut().for_each(|at| at.answers = answers);
    }

    pub(super) fn say(&mut self, node: u16, what: Saying) {
        let actions = self.observe(Observation { node: NodeId(node), at: self.now, what });
        self.act(actions);
    }

    pub(super) fn connect(&mut self, node: u16, tip: B256) {
        let at = self.at(node);
        (at.connected, at.head, at.words, at.calm) = (true, tip, vec![tip], false);
        let header = self.header(tip);
        self.say(node, Saying::Connected(header));
    }

    /// The node's head moves there and it says so.
    pub(super) fn head(&mut self, node: u16, tip: B256) {
        self.at(node).head = tip;
        self.stray(node, tip);
    }

    /// The node says a head that it is not at.
    pub(super) fn stray(&mut self, node: u16, tip: B256) {
        self.at(node).words.push(tip);
        let header = self.header(tip);
        self.say(node, Saying::Head(header));
    }

    pub(super) fn lose(&mut self, node: u16) {
        self.at(node).connected = false;
        self.say(node, Saying::Lost);
    }

    pub(super) fn wait(&mut self, span: Duration) {
        let end = self.now + span;
        let mut turns = 0;
        while let Some(due) = self.tracker.next_due().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            let actions = self.tracker.tick(self.now);
            self.act(actions);
            turns += 1;
            assert!(turns < 100_000, "it turns in circles");
        }
        self.now = end;
    }

    /// Late answers come now, the newest first.
    pub(super) fn release(&mut self) {
        while let Some(late) = self.late.pop() {
            let actions = self.observe(Observation { at: self.now, ..late });
            self.act(actions);
        }
    }

    /// Carries actions out in order; answers come after all of them, as they do in the driver.
    pub(super) fn act(&mut self, actions: Vec<Action>) {
        let mut answers = VecDeque::new();
        let mut actions = actions;
        loop {
            for action in actions {
                if let Action::Publish(ChainUpdate::Undo(undone), _) = &action {
                    self.justify();
                    let kept = self.heads.len().saturating_sub(undone.len());
                    self.before = self.heads.last().map(|tip| (*tip, kept));
                }
                self.carry_out(action, &mut answers);
            }
            self.justify();
            let Some(answer) = answers.pop_front() else { return };
            actions = self.observe(answer);
        }
    }

    pub(super) fn observe(&mut self, observation: Observation) -> Vec<Action> {
        if let Saying::Finality { finalized: Some(block), .. } = &observation.what
            && self.heads.last().is_some_and(|tip| self.path(tip.hash).contains(block))
        {
            self.floor = self.floor.max(Some(block.number));
        }
        self.tracker.observe(observation)
    }

    fn carry_out(&mut self, action: Action, answers: &mut VecDeque<Observation>) {
        let (node, what) = match action {
            Action::Publish(update, _) => return self.apply(&update),
            Action::Note(note) => return self.notes.push(note),
            Action::Order(_, Order::Stalled(false)) => return,
            Action::Order(node, order) => return self.orders.push((node.0, order)),
            Action::FetchBlocks { node, block, count } => {
                self.asked.push(action.clone());
                (node, Saying::Blocks(block.hash, self.blocks(node, block, count)))
            }
            Action::FetchLogs(node, hash) => {
                self.asked.push(action.clone());
                (node, Saying::Logs(hash, self.logs_of(node, hash)))
            }
            Action::Confirm(node, number) => {
                let at = self.at(node.0);
                let (head, syncing) = (at.head, at.syncing);
                at.calm |= !syncing;
                (node, Saying::Stands(number, Some(Standing { latest: self.header(head), syncing })))
            }
            Action::Probe(node) => {
                let head = self.at(node.0).head;
                (node, Saying::Height(Some(self.header(head).number)))
            }
            Action::AskFinality(node) => {
                let finalized = self.finalized.map(|hash| self.header(hash).block());
                (node, Saying::Finality { safe: None, finalized })
            }
        };
        let answer = Observation { node, at: self.now, what };
        if self.at(node.0).answers == Answers::Late {
            self.late.push(answer);
        } else {
            answers.push_back(answer);
        }
    }

    fn blocks(&mut self, node: NodeId, block: BlockRef, count: u64) -> Vec<Arc<Header>> {
        let at = self.at(node.0);
        if !at.connected || matches!(at.answers, Answers::Blank | Answers::Partly) {
            return vec![];
        }
        let mut blocks = Vec::from_iter(self.world.get(&block.hash).map(|(header, _)| header.clone()));
        // By number a node gives the blocks of its own chain.
        let mut below = self.world.get(&self.nodes[&node.0].head).map(|(header, _)| header.clone());
        while let Some(header) = below {
            if header.number < block.number && header.number + count > block.number {
                blocks.push(header.clone());
            }
            below = self.world.get(&header.parent).map(|(header, _)| header.clone());
        }
        blocks
    }

    fn logs_of(&mut self, node: NodeId, hash: B256) -> Option<Vec<Log>> {
        let at = self.at(node.0);
        let (connected, answers) = (at.connected, at.answers);
        let mut logs = self.world.get(&hash).filter(|_| connected).map(|(_, logs)| logs.clone())?;
        match answers {
            Answers::Blank => logs.clear(),
            Answers::Partly => drop(logs.pop()),
            Answers::Well | Answers::Late => {}
        }
        Some(logs)
    }

    /// After a step that undid something: a node must have asked for one of the tips on the way, by being higher, or by a
    /// head of its own after it had told our tip itself. (Another node may then have led further up.)
    fn justify(&mut self) {
        let Some((before, kept)) = self.before.take() else { return };
        let asks = |at: &At, after: &BlockRef| {
            let higher = after.number > before.number;
            let itself = at.words.contains(&before.hash) && (at.calm || !self.is_below(*after, before));
            (at.words.last() == Some(&after.hash) || at.head == after.hash || higher && at.words.contains(&after.hash))
                && (higher || itself)
        };
        let way = &self.heads[kept.saturating_sub(1).min(self.heads.len())..];
        // The block that the way stands on need not be one that the client has.
        let below = way.first().and_then(|first| self.world.get(&self.world[&first.hash].0.parent));
        let below = below.map(|(header, _)| header.block());
        let asked = way.iter().chain(&below).any(|after| self.nodes.values().any(|at| asks(at, after)));
        assert!(asked || way.is_empty(), "nobody asked for going from {before} to {:?}", self.heads.last());
    }

    /// Whether `low` is an ancestor of `high`.
    fn is_below(&self, low: BlockRef, high: BlockRef) -> bool {
        let mut at = high.hash;
        while let Some((header, _)) = self.world.get(&at).filter(|(header, _)| header.number > low.number) {
            at = header.parent;
        }
        at == low.hash
    }

    /// The client: every head stands on the one before, logs follow heads, what is undone was there.
    fn apply(&mut self, update: &ChainUpdate) {
        match update {
            ChainUpdate::Head(header) => {
                if let Some(tip) = self.heads.last() {
                    assert_eq!((header.parent, header.number), (tip.hash, tip.number + 1), "a head that does not link");
                }
                self.heads.push(header.block());
                self.told.push(String::from_utf8_lossy(&header.json).into_owned());
            }
            ChainUpdate::Logs(logs) => {
                assert_eq!(Some(&logs.block), self.heads.get(self.logs.len()), "logs out of order");
                assert_eq!(logs.logs, self.world[&logs.block.hash].1);
                self.logs.push(logs.block);
            }
            ChainUpdate::Undo(undone) => {
                for block in undone {
                    assert!(self.floor.is_none_or(|floor| block.block.number > floor), "{} was final", block.block);
                    self.told.push(format!("-{}", block.block.number));
                    if self.heads.is_empty() {
                        assert!(block.logs.as_ref().is_none_or(|l| l.logs.is_empty()), "undone logs that nobody had");
                        continue;
                    }
                    assert_eq!(self.heads.pop(), Some(block.block), "not newest first");
                    let had = self.logs.last() == Some(&block.block);
                    assert_eq!(had, block.logs.is_some(), "removed logs that were not told, or the reverse");
                    if had {
                        self.logs.pop();
                    }
                }
            }
            ChainUpdate::Gap => {
                self.gaps += 1;
                self.before = None;
                self.heads.clear();
                self.logs.clear();
            }
        }
    }

    pub(super) fn tip(&self) -> B256 {
        self.heads.last().expect("there is a head").hash
    }

    /// The blocks from the root to this one.
    pub(super) fn path(&self, tip: B256) -> Vec<BlockRef> {
        let mut path = vec![];
        let mut at = tip;
        while let Some((header, _)) = self.world.get(&at) {
            path.push(header.block());
            at = header.parent;
        }
        path.reverse();
        path
    }
}
