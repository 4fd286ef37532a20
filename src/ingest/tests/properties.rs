//! The tracker on random block trees, with nodes that lag, repeat themselves, contradict each other, go back, vanish, and
//! answer badly or late, against a naive reading of what must hold. The bench checks each update as it comes; here is
//! what must hold in the end.

use std::time::Duration;

use alloy_primitives::B256;
use proptest::prelude::*;

use super::bench::{Answers, Bench, bounds};
use crate::ingest::Bounds;

const NODES: u16 = 4;

/// Something that happens. Blocks are named by their place in the tree.
#[derive(Debug, Clone)]
enum Event {
    /// A node's head moves there and it says so: forward, sideways, back, or again.
    Head(u16, usize),
    /// The same along the longest branch of the tree, as honest nodes do, up to this share of it.
    Grow(u16, usize),
    /// A node says a head that it is not at.
    Stray(u16, usize),
    /// A node goes back to the ancestor so many blocks below its head.
    Shrink(u16, usize),
    Lose(u16),
    Connect(u16, usize),
    Answers(u16, Answers),
    Syncing(u16, bool),
    Finalized(usize),
    Release,
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let (node, at) = (0..NODES, 0usize..1_000);
    let answers = prop_oneof![
        3 => Just(Answers::Well),
        1 => Just(Answers::Blank),
        1 => Just(Answers::Partly),
        2 => Just(Answers::Late),
    ];
    prop_oneof![
        8 => (node.clone(), at.clone()).prop_map(|(n, a)| Event::Head(n, a)),
        8 => (node.clone(), at.clone()).prop_map(|(n, a)| Event::Grow(n, a)),
        1 => (node.clone(), at.clone()).prop_map(|(n, a)| Event::Stray(n, a)),
        2 => (node.clone(), 1usize..4).prop_map(|(n, a)| Event::Shrink(n, a)),
        1 => node.clone().prop_map(Event::Lose),
        2 => (node.clone(), at.clone()).prop_map(|(n, a)| Event::Connect(n, a)),
        2 => (node.clone(), answers).prop_map(|(n, a)| Event::Answers(n, a)),
        1 => (node, any::<bool>()).prop_map(|(n, s)| Event::Syncing(n, s)),
        1 => at.prop_map(Event::Finalized),
        2 => Just(Event::Release),
        3 => (0u64..4_000).prop_map(Event::Wait),
    ]
}

/// A tree of at most 40 blocks in depth: each block stands on one of the newest few, now and then on any.
fn tree() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![4 => 0usize..2, 2 => 0usize..6, 1 => 0usize..100], 1..60)
}

/// How many cases are tried.
fn cases() -> u32 {
    let wanted = std::env::var("CHAINCAST_CASES").ok();
    wanted.map_or(20_000, |n| n.parse().expect("CHAINCAST_CASES is a number"))
}

struct Tree(Vec<(B256, u64)>);

impl Tree {
    fn grow(bench: &mut Bench, back: &[usize]) -> Self {
        let mut blocks = vec![(bench.branch("root", 0, 1, B256::ZERO)[0], 0u64)];
        for (n, back) in back.iter().enumerate() {
            let (on, height) = blocks[blocks.len() - 1 - back % blocks.len()];
            if height < 40 {
                blocks.push((bench.branch(&format!("n{n}-"), height + 1, 1, on)[0], height + 1));
            }
        }
        Self(blocks)
    }

    fn at(&self, n: usize) -> B256 {
        self.0[n % self.0.len()].0
    }

    fn highest(&self) -> (B256, u64) {
        *self.0.iter().max_by_key(|(_, height)| *height).expect("there is a root")
    }
}

fn happen(b: &mut Bench, tree: &Tree, event: &Event) {
    let connected = |b: &Bench, node: &u16| b.nodes.get(node).is_some_and(|at| at.connected);
    match event {
        Event::Head(node, n) if connected(b, node) => b.head(*node, tree.at(*n)),
        Event::Grow(node, n) if connected(b, node) => {
            let path = b.path(tree.highest().0);
            b.head(*node, path[n % path.len()].hash);
        }
        Event::Stray(node, n) if connected(b, node) => b.stray(*node, tree.at(*n)),
        Event::Shrink(node, by) if connected(b, node) => {
            let path = b.path(b.nodes[node].head);
            b.head(*node, path[path.len().saturating_sub(1 + by)].hash);
        }
        Event::Lose(node) if connected(b, node) => b.lose(*node),
        Event::Connect(node, n) => {
            if connected(b, node) {
                b.lose(*node);
            }
            b.connect(*node, tree.at(*n));
        }
        Event::Answers(node, answers) => {
            if let Some(at) = b.nodes.get_mut(node) {
                at.answers = *answers;
            }
        }
        Event::Syncing(node, syncing) => {
            if let Some(at) = b.nodes.get_mut(node) {
                at.syncing = *syncing;
            }
        }
        Event::Finalized(n) => b.finalized = Some(tree.at(*n)),
        Event::Release => b.release(),
        Event::Wait(ms) => b.wait(Duration::from_millis(*ms)),
        // A node that is not connected says nothing.
        Event::Head(..) | Event::Grow(..) | Event::Stray(..) | Event::Shrink(..) | Event::Lose(_) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn random_trees(back in tree(), events in prop::collection::vec(event(), 1..60), first in 0usize..1_000) {
        // No gap is due: everything is in the window, and logs may take as long as they like.
        let mut b = Bench::with(Bounds { logs_wait: Duration::from_secs(360_000), ..bounds(64) });
        let tree = Tree::grow(&mut b, &back);
        b.connect(0, tree.at(first));
        for event in &events {
            happen(&mut b, &tree, event);
        }
        // All ends well: every node answers, and stands on one highest block.
        b.answer(Answers::Well);
        b.release();
        let (highest, height) = tree.highest();
        let top = b.branch("top", height + 1, 2, highest)[1];
        for node in 0..NODES {
            b.connect(node, top);
        }
        b.wait(Duration::from_secs(30));
        let path = b.path(top);
        prop_assert_eq!(b.gaps, 0);
        prop_assert_eq!(&b.heads, &b.logs, "logs are complete");
        if b.tip() == top {
            prop_assert_eq!(&b.heads[..], &path[path.len() - b.heads.len()..]);
        } else {
            // Only what is final may keep us from it.
            let ours = b.path(b.tip());
            let fork = ours.iter().rev().find(|block| path.contains(block)).expect("they share the root");
            let floor = b.tracker.finality().1.expect("something is final").number;
            prop_assert!(fork.number < floor, "we stay at {:?} though the fork at {} is above {}", ours.last(), fork, floor);
            prop_assert_eq!(&b.heads[..], &ours[ours.len() - b.heads.len()..]);
        }
    }
}
