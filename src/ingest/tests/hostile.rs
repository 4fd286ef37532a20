//! What hostile, slow or confused nodes must not bring about. Each sequence once broke the stream, or stopped it.

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::B256;

use super::bench::{Answers, Bench, block, bounds};
use crate::chain::{BlockLogs, Header, NodeId, Observation, Saying, Standing};
use crate::ingest::{Action, Bounds};
use crate::upstream::Order;

const S: Duration = Duration::from_secs(1);

/// Delivers all but the newest `keep` late answers, oldest first.
fn deliver(b: &mut Bench, keep: usize) {
    let till = b.late.len().saturating_sub(keep);
    let old: Vec<_> = b.late.drain(..till).collect();
    for late in old {
        let at = b.now;
        let actions = b.observe(Observation { at, ..late });
        b.act(actions);
    }
}

#[test]
fn a_node_that_tells_every_other_head_faster_than_it_answers() {
    let mut b = Bench::new(1024);
    let a = b.branch("a", 1, 400, B256::ZERO);
    b.connect(0, a[0]);
    b.wait(S);
    b.asked.clear();
    b.nodes.get_mut(&0).unwrap().answers = Answers::Late;
    for n in 1..100 {
        let asked = b.late.len();
        b.head(0, a[2 * n]);
        let new = b.late.len() - asked;
        // The answers come 150 ms after the question, heads each 100 ms.
        deliver(&mut b, new);
        b.wait(Duration::from_millis(100));
    }
    let blocks: u64 = b.asked.iter().map(|a| if let Action::FetchBlocks { count, .. } = a { *count } else { 0 }).sum();
    assert!(b.heads.len() > 150, "10 s, 200 blocks: {} heads, {blocks} blocks asked", b.heads.len());
}

#[test]
fn a_falsely_announced_header_is_not_put_under_the_first() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 6, B256::ZERO);
    let c = b.branch("c", 4, 30, a[2]);
    b.connect(0, a[5]);
    b.connect(1, a[5]);
    let truth = b.world[&a[4]].0.clone();
    b.say(1, Saying::Head(Arc::new(Header { parent: B256::repeat_byte(0xee), ..(*truth).clone() })));
    b.lose(1);
    for block in &c[3..30] {
        b.head(0, *block);
        b.wait(12 * S);
    }
    assert_eq!((b.tip(), b.gaps), (c[29], 0));
}

#[test]
fn a_far_jump_on_a_chain_of_12_seconds() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 40, B256::ZERO);
    let far = b.branch("far", 100_000, 2, B256::repeat_byte(7));
    b.connect(0, a[0]);
    b.connect(1, a[0]);
    for block in &a[1..5] {
        b.wait(12 * S);
        b.head(0, *block);
    }
    b.head(1, far[1]);
    for block in &a[5..8] {
        b.wait(12 * S);
        b.head(0, *block);
    }
    assert_eq!((b.tip() == a[7], b.gaps), (true, 0), "the other one goes on along the chain");
}

#[test]
fn a_far_jump_while_the_other_ones_head_is_being_linked() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 40, B256::ZERO);
    let far = b.branch("far", 100_000, 2, B256::repeat_byte(7));
    b.connect(0, a[0]);
    b.connect(1, a[0]);
    b.nodes.get_mut(&0).unwrap().answers = Answers::Late;
    b.head(0, a[2]);
    b.head(1, far[1]);
    b.nodes.get_mut(&0).unwrap().answers = Answers::Well;
    b.release();
    b.wait(S);
    assert_eq!((b.tip() == a[2], b.gaps), (true, 0));
}

#[test]
fn a_latest_block_without_a_bloom_is_not_taken() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 6, B256::ZERO);
    b.connect(0, a[0]);
    b.head(0, a[3]);
    b.nodes.get_mut(&0).unwrap().answers = Answers::Late;
    b.stray(0, a[1]);
    let number = b.late.iter().find_map(|o| if let Saying::Stands(n, _) = &o.what { Some(*n) } else { None }).unwrap();
    let truth = b.world[&a[4]].0.clone();
    let latest = Arc::new(Header { bloom: None, ..(*truth).clone() });
    b.late.clear();
    b.say(0, Saying::Stands(number, Some(Standing { latest, syncing: false })));
    let with = b.tracker.tip().unwrap().bloom.is_some();
    let actions = b.observe(Observation { node: NodeId(0), at: b.now, what: Saying::Logs(a[4], Some(vec![])) });
    let lost = actions.iter().any(|a| {
        matches!(a, Action::Publish(crate::chain::ChainUpdate::Logs(l), _) if matches!(&**l, BlockLogs { logs, .. } if logs.is_empty()))
    });
    assert!(with && !lost, "tip has a bloom: {with}; two logs lost: {lost}");
}

#[test]
fn one_stray_old_head_of_a_sole_node() {
    let mut b = Bench::new(16);
    let a = b.branch("a", 1, 100, B256::ZERO);
    b.connect(0, a[0]);
    (1..80).for_each(|n| b.head(0, a[n]));
    b.stray(0, a[2]);
    b.wait(S);
    b.head(0, a[80]);
    b.wait(S);
    assert_eq!((b.tip(), b.gaps), (a[80], 0));
}

#[test]
fn logs_that_come_steadily_are_not_given_up() {
    let mut b = Bench::with(Bounds { logs_in_flight: 8, ..bounds(1024) });
    let a = b.branch("a", 1, 1000, B256::ZERO);
    b.connect(0, a[0]);
    b.lose(0);
    b.connect(0, a[1]);
    b.nodes.get_mut(&0).unwrap().answers = Answers::Late;
    b.head(0, a[900]);
    for _ in 0..600 {
        b.wait(Duration::from_millis(700));
        deliver(&mut b, 0);
    }
    assert_eq!(b.gaps, 0, "each logs came after half a second, eight at a time: {} of {}", b.logs.len(), b.heads.len());
}

#[test]
fn a_second_node_that_never_had_our_tip() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 12, B256::ZERO);
    b.connect(0, a[0]);
    b.connect(1, a[0]);
    b.head(0, a[5]);
    b.head(1, a[5]);
    b.head(1, a[4]);
    b.head(0, a[9]);
    b.wait(30 * S);
    assert_eq!(b.tip(), a[9]);
    // Node 0 slips; node 1 is merely late and never had our tip.
    b.head(0, a[4]);
    assert_eq!(b.tip(), a[9], "one node that had our tip, and for no time at all");
}

#[test]
fn a_question_of_the_connection_before_does_not_delay() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 12, B256::ZERO);
    b.connect(0, a[0]);
    b.nodes.get_mut(&0).unwrap().answers = Answers::Late;
    b.head(0, a[1]);
    b.lose(0);
    b.late.clear();
    b.nodes.get_mut(&0).unwrap().answers = Answers::Well;
    b.wait(Duration::from_millis(500));
    b.connect(0, a[2]);
    b.wait(S);
    assert_eq!(b.logs.len(), 3, "it is there again for a second");
}

#[test]
fn a_step_back_to_the_final_block_is_told() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 6, B256::ZERO);
    b.connect(0, a[0]);
    b.finalized = Some(a[3]);
    b.head(0, a[5]);
    b.wait(7 * S);
    b.told.clear();
    b.head(0, a[3]);
    b.wait(5 * S);
    assert_eq!(b.told, ["-6", "-5"], "what is final stays, and cannot be told again");
}

#[test]
fn a_step_back_to_the_final_block_below_the_first() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 6, B256::ZERO);
    b.finalized = Some(a[3]);
    b.connect(0, a[5]);
    b.wait(7 * S);
    b.head(0, a[4]);
    b.wait(5 * S);
    assert!(!b.orders.iter().any(|(_, order)| matches!(order, Order::SetAside(_))), "{:?}", b.orders);
    assert_eq!(b.tip(), a[4]);
}

#[test]
fn one_false_answer_in_a_reorg() {
    for (number, parent) in [(9, B256::repeat_byte(0xee)), (19, B256::ZERO)] {
        let mut b = Bench::new(64);
        let a = b.branch("a", 1, 10, B256::ZERO);
        let c = b.branch("c", 6, 60, a[4]);
        b.connect(0, a[0]);
        b.head(0, a[9]);
        b.connect(1, a[9]);
        b.nodes.get_mut(&0).unwrap().answers = Answers::Late;
        b.nodes.get_mut(&1).unwrap().answers = Answers::Late;
        b.head(0, c[5]);
        b.wait(S);
        b.late.clear();
        // Both owe c10; node 0 gives it late, then both owe c9, and node 1 lies.
        let c10 = b.world[&c[4]].0.clone();
        b.say(0, Saying::Blocks(c[4], vec![c10]));
        b.wait(S);
        b.late.clear();
        let truth = b.world[&c[3]].0.clone();
        b.say(1, Saying::Blocks(c[3], vec![Arc::new(Header { number, parent, ..(*truth).clone() })]));
        b.lose(1);
        b.nodes.get_mut(&0).unwrap().answers = Answers::Well;
        let mut at = 0;
        for (n, block) in c.iter().enumerate().take(50).skip(6) {
            b.head(0, *block);
            b.wait(10 * S);
            if at == 0 && b.tip() == *block {
                at = n;
            }
        }
        assert_eq!((b.tip(), at, b.gaps), (c[49], 6, 0));
    }
}

#[test]
fn one_foreign_header_does_not_settle_what_blooms_are() {
    let mut b = Bench::new(64);
    // A chain of empty blooms: strip them.
    let a = b.branch("a", 1, 6, B256::ZERO);
    for h in &a {
        let (header, logs) = b.world[h].clone();
        let header = Arc::new(Header { bloom: Some(Box::default()), ..(*header).clone() });
        b.world.insert(*h, (header, logs));
    }
    b.connect(0, a[0]);
    b.connect(1, a[0]);
    let liar = block("x", 2, B256::repeat_byte(0xee));
    b.say(1, Saying::Head(liar.0));
    b.lose(1);
    b.head(0, a[1]);
    b.wait(70 * S);
    assert_eq!((b.gaps, b.logs.len()), (0, 2));
}

#[test]
fn a_flood_of_heads_asks_boundedly() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 6, B256::ZERO);
    b.connect(0, a[0]);
    b.connect(1, a[0]);
    b.nodes.get_mut(&1).unwrap().answers = Answers::Late;
    b.asked.clear();
    for n in 0..1000u64 {
        let parent = alloy_primitives::keccak256(n.to_be_bytes());
        let (h, _) = block(&format!("x{n}-"), 60, parent);
        b.say(1, Saying::Head(h));
    }
    let asked = b.late.len();
    assert!(asked < 20, "{asked} questions (of 59 calls each) under way at a time");
}

#[test]
fn a_chain_begun_anew_under_a_young_window_ends_the_stream_visibly() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 13, B256::repeat_byte(0xaa));
    let e = b.branch("e", 1, 40, B256::ZERO);
    b.connect(0, a[1]);
    b.head(0, a[12]);
    b.lose(0);
    // Nobody has the old branch any more.
    for block in &a {
        b.world.remove(block);
    }
    b.connect(0, e[20]);
    b.wait(59 * S);
    assert_eq!(b.gaps, 0);
    for block in &e[21..30] {
        b.wait(2 * S);
        b.head(0, *block);
    }
    b.wait(S);
    assert_eq!((b.tip(), b.gaps), (e[29], 1));
}
