//! Tables for the tracker, and a walk over random trees against a naive oracle.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy_primitives::{Address, B256, Bloom};
use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::chain::{BlockRef, accrue};

fn hash(name: &str, number: u64) -> B256 {
    alloy_primitives::keccak256(format!("{name}{number}"))
}

/// A block of branch `name`; its one log has an address of its own.
fn block(name: &str, number: u64, parent: B256) -> (Arc<Header>, Vec<Log>) {
    let hash = hash(name, number);
    let log = Log {
        address: Address::from_slice(&hash[..20]),
        topics: vec![],
        block_hash: hash,
        block_number: number,
        index: 0,
        json: Bytes::from_static(b"{}"),
    };
    let mut bloom = Bloom::ZERO;
    accrue(&mut bloom, &log);
    let header = Header {
        number,
        hash,
        parent,
        timestamp: number,
        bloom: Some(Box::new(bloom)),
        json: Bytes::from(format!("{name}{number}")),
    };
    (Arc::new(header), vec![log])
}

/// A tracker with a world of blocks that answers what it asks, and a client that applies what it publishes.
struct Bench {
    tracker: Tracker,
    now: Instant,
    world: HashMap<B256, (Arc<Header>, Vec<Log>)>,
    deaf: bool,
    heads: Vec<BlockRef>,
    logs: Vec<BlockRef>,
    told: Vec<String>,
    gaps: usize,
}

impl Bench {
    fn new(window: usize) -> Self {
        let bounds = Bounds { window, window_bytes: usize::MAX, logs_in_flight: 4, logs_wait: Duration::from_secs(60) };
        Self {
            tracker: Tracker::new(bounds),
            now: Instant::now(),
            world: HashMap::new(),
            deaf: false,
            heads: vec![],
            logs: vec![],
            told: vec![],
            gaps: 0,
        }
    }

    /// Makes `count` blocks of branch `name` on `parent`; returns their hashes.
    fn branch(&mut self, name: &str, from: u64, count: u64, parent: B256) -> Vec<B256> {
        let mut parent = parent;
        let make = |number| {
            let (header, logs) = block(name, number, parent);
            parent = header.hash;
            self.world.insert(header.hash, (header, logs));
            parent
        };
        (from..from + count).map(make).collect()
    }

    fn say(&mut self, node: u16, what: Saying) {
        let actions = self.tracker.observe(Observation { node: NodeId(node), at: self.now, what });
        self.act(actions);
    }

    fn connect(&mut self, node: u16, tip: B256) {
        let header = self.world[&tip].0.clone();
        self.say(node, Saying::Connected(header));
    }

    fn head(&mut self, node: u16, tip: B256) {
        let header = self.world[&tip].0.clone();
        self.say(node, Saying::Head(header));
    }

    fn wait(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(due) = self.tracker.next_due().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            let actions = self.tracker.tick(self.now);
            self.act(actions);
        }
        self.now = end;
    }

    /// Carries actions out in order; answers come after all of them, as they do in the driver.
    fn act(&mut self, actions: Vec<Action>) {
        let mut answers = VecDeque::new();
        let mut actions = actions;
        loop {
            for action in actions {
                let (node, what) = match action {
                    Action::Publish(update, _) => {
                        self.apply(&update);
                        continue;
                    }
                    Action::Retry(_) => continue,
                    Action::FetchBlock(node, hash) => {
                        let block = self.world.get(&hash).filter(|_| !self.deaf).map(|(header, _)| header.clone());
                        (node, Saying::Block(hash, block))
                    }
                    Action::FetchLogs(node, hash) => {
                        let logs =
                            if self.deaf { Some(vec![]) } else { self.world.get(&hash).map(|(_, logs)| logs.clone()) };
                        (node, Saying::Logs(hash, logs))
                    }
                };
                answers.push_back(Observation { node, at: self.now, what });
            }
            let Some(answer) = answers.pop_front() else { return };
            actions = self.tracker.observe(answer);
        }
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
                self.heads.clear();
                self.logs.clear();
            }
        }
    }

    fn tip(&self) -> B256 {
        self.heads.last().expect("there is a head").hash
    }
}

#[test]
fn a_plain_chain_and_a_jump() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 9, B256::ZERO);
    b.connect(0, a[0]);
    b.head(0, a[1]);
    b.head(0, a[1]);
    b.head(0, a[6]);
    assert_eq!(b.told, ["a1", "a2", "a3", "a4", "a5", "a6", "a7"]);
    assert_eq!(b.logs.len(), 7);
}

#[test]
fn what_left_the_window_is_never_taken_for_unpublished() {
    let mut b = Bench::new(8);
    let a = b.branch("a", 1, 20, B256::ZERO);
    a.iter().enumerate().for_each(|(at, tip)| if at == 0 { b.connect(0, *tip) } else { b.head(0, *tip) });
    // A shorter branch leaves room in the window; the next one leaves the chain below it, where logs were published.
    let short = b.branch("s", 15, 2, a[13]);
    b.head(0, short[1]);
    assert_eq!((b.gaps, b.tip()), (0, short[1]));
    let deep = b.branch("d", 11, 8, a[9]);
    b.head(0, deep[7]);
    assert_eq!((b.gaps, b.tip()), (1, deep[7]), "logs that cannot be taken back are a gap");
}

#[test]
fn a_reorg_told_by_its_tip_is_told_whole() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 5, B256::ZERO);
    let c = b.branch("c", 3, 4, a[1]);
    b.connect(0, a[0]);
    b.head(0, a[4]);
    b.told.clear();
    b.head(0, c[3]);
    assert_eq!(b.told, ["-5", "-4", "-3", "c3", "c4", "c5", "c6"]);
    b.told.clear();
    b.head(0, a[3]);
    assert_eq!(b.told, ["-6", "-5", "-4", "-3", "a3", "a4"], "shorter, but from the node that had our tip");
    b.head(0, c[1]);
    assert_eq!(b.tip(), c[1], "A, B, A at equal height");
    assert_eq!(b.gaps, 0);
}

#[test]
fn a_reorg_below_the_first_block_after_the_start_is_followed() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 6, B256::ZERO);
    let c = b.branch("c", 4, 4, a[2]);
    b.connect(0, a[5]);
    b.head(0, c[3]);
    assert_eq!(
        (b.gaps, b.told.as_slice()),
        (0, &["a6", "-6", "-5", "-4", "c4", "c5", "c6", "c7"].map(String::from)[..])
    );
}

#[test]
fn a_lagging_or_foreign_node_undoes_nothing() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 6, B256::ZERO);
    let c = b.branch("c", 2, 5, a[0]);
    b.connect(0, a[4]);
    b.connect(1, a[2]);
    b.head(1, c[3]);
    assert_eq!(b.tip(), a[4], "equal height, from a node that never had our tip");
    b.head(1, c[4]);
    assert_eq!(b.tip(), c[4], "higher: any node may");
    b.say(0, Saying::Lost);
    b.connect(0, a[1]);
    assert_eq!(b.tip(), c[4], "a lower latest after a reconnect is lag");
}

#[test]
fn a_claim_that_leads_nowhere_keeps_nothing_back() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 4, B256::ZERO);
    let liar = block("x", 900, B256::repeat_byte(0xee));
    b.connect(0, a[0]);
    b.connect(1, a[0]);
    b.say(1, Saying::Head(liar.0));
    b.head(0, a[1]);
    b.head(0, a[2]);
    b.wait(Duration::from_secs(30));
    assert_eq!((b.tip(), b.gaps), (a[2], 0));
}

#[test]
fn empty_answers_are_not_taken_for_none() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 4, B256::ZERO);
    b.connect(0, a[0]);
    b.deaf = true;
    b.head(0, a[1]);
    b.head(0, a[2]);
    b.wait(Duration::from_secs(20));
    assert_eq!((b.heads.len(), b.logs.len()), (3, 1), "heads go on, logs wait");
    b.deaf = false;
    b.wait(Duration::from_secs(5));
    assert_eq!((b.logs.len(), b.gaps), (3, 0));
}

#[test]
fn logs_that_never_come_end_the_stream_visibly_but_not_while_no_node_is_there() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 4, B256::ZERO);
    b.connect(0, a[0]);
    b.deaf = true;
    b.head(0, a[1]);
    b.say(0, Saying::Lost);
    b.wait(Duration::from_secs(600));
    assert_eq!(b.gaps, 0);
    b.connect(0, a[1]);
    b.wait(Duration::from_secs(59));
    assert_eq!(b.gaps, 0);
    b.wait(Duration::from_secs(2));
    assert_eq!(b.gaps, 1);
}

#[test]
fn an_outage_is_filled_in_order_and_beyond_the_window_ends_visibly() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 200, B256::ZERO);
    b.connect(0, a[0]);
    b.say(0, Saying::Lost);
    b.connect(0, a[50]);
    assert_eq!((b.heads.len(), b.logs.len(), b.gaps), (51, 51, 0));
    b.say(0, Saying::Lost);
    b.connect(0, a[180]);
    assert_eq!((b.gaps, b.tip()), (1, a[180]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    /// Whatever two nodes say about a random tree: the client's view stays linked (checked in `apply`), and once one
    /// node says a strictly highest tip, the client holds exactly the path to it.
    #[test]
    fn random_trees(
        parents in prop::collection::vec(0usize..100, 1..40),
        words in prop::collection::vec((0u16..2, 0usize..100), 1..60),
    ) {
        let mut b = Bench::new(64);
        let mut nodes = vec![(b.branch("root", 0, 1, B256::ZERO)[0], 0u64)];
        for (n, parent) in parents.iter().enumerate() {
            let (on, height) = nodes[parent % nodes.len()];
            nodes.push((b.branch(&format!("n{n}-"), height + 1, 1, on)[0], height + 1));
        }
        b.connect(0, nodes[0].0);
        b.connect(1, nodes[0].0);
        for (node, word) in words {
            b.head(node, nodes[word % nodes.len()].0);
        }
        let highest = nodes.iter().max_by_key(|(_, height)| *height).expect("there is a root");
        let top = b.branch("top", highest.1 + 1, 2, highest.0);
        b.head(1, top[1]);
        b.wait(Duration::from_secs(5));
        let mut path = vec![];
        let mut at = top[1];
        while let Some((header, _)) = b.world.get(&at) {
            path.push(header.block());
            at = header.parent;
        }
        path.reverse();
        prop_assert_eq!(&b.heads, &path);
        prop_assert_eq!(&b.logs, &path);
        prop_assert_eq!(b.gaps, 0);
    }
}
