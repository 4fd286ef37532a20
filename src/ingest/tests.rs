//! Tables for the tracker: one situation each, told by a bench that answers what it asks.

mod bench;
mod hostile;
mod properties;

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::B256;

use super::{Action, GapCause, Note};
use crate::chain::{Header, NodeId, Saying};
use crate::upstream::{Aside, Order};
use bench::{Answers, Bench, block};

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
    b.lose(0);
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
    b.answer(Answers::Blank);
    b.head(0, a[1]);
    b.head(0, a[2]);
    b.wait(Duration::from_secs(20));
    assert_eq!((b.heads.len(), b.logs.len()), (3, 1), "heads go on, logs wait");
    b.answer(Answers::Well);
    b.wait(Duration::from_secs(5));
    assert_eq!((b.logs.len(), b.gaps), (3, 0));
}

#[test]
fn logs_that_never_come_end_the_stream_visibly_but_not_while_no_node_is_there() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 4, B256::ZERO);
    b.connect(0, a[0]);
    b.answer(Answers::Blank);
    b.head(0, a[1]);
    b.lose(0);
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
    b.lose(0);
    b.connect(0, a[50]);
    assert_eq!((b.heads.len(), b.logs.len(), b.gaps), (51, 51, 0));
    b.lose(0);
    b.connect(0, a[180]);
    assert_eq!((b.gaps, b.tip()), (1, a[180]));
}

#[test]
fn a_step_back_counts_when_its_node_stands_by_it() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 6, B256::ZERO);
    b.connect(0, a[0]);
    b.head(0, a[5]);
    b.head(0, a[3]);
    b.wait(Duration::from_millis(1_900));
    assert_eq!(b.tip(), a[5], "it may be a slip of the tongue");
    b.wait(Duration::from_millis(200));
    assert_eq!((b.tip(), b.logs.len()), (a[3], 4), "it was asked, and says the same");
    b.head(0, a[4]);
    assert_eq!(b.told[6..], ["-6", "-5", "-4", "a4", "a5"], "what joins again is sent again");
    b.stray(0, a[2]);
    b.wait(Duration::from_secs(5));
    assert_eq!((b.tip(), b.gaps), (a[4], 0), "its latest block is another");
}

#[test]
fn a_step_back_by_a_syncing_or_reconnected_node_is_lag_and_two_nodes_are_believed_at_once() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 6, B256::ZERO);
    b.connect(0, a[0]);
    b.head(0, a[5]);
    b.nodes.get_mut(&0).unwrap().syncing = true;
    b.head(0, a[3]);
    b.wait(Duration::from_secs(10));
    assert_eq!(b.tip(), a[5], "it is syncing");
    b.connect(1, a[3]);
    b.wait(Duration::from_secs(10));
    assert_eq!(b.tip(), a[5], "it never had our tip");
    b.nodes.get_mut(&0).unwrap().syncing = false;
    b.head(0, a[5]);
    b.head(1, a[5]);
    b.head(1, a[4]);
    b.wait(Duration::from_secs(10));
    assert_eq!(b.tip(), a[5], "the node that gave us the tip stands by it");
    b.head(0, a[4]);
    assert_eq!(b.tip(), a[4], "two of them");
}

#[test]
fn a_branch_that_is_left_while_it_is_walked_does_not_hide_a_step_back() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 17, B256::ZERO);
    let c = b.branch("c", 8, 3, a[6]);
    b.connect(0, a[0]);
    b.head(0, a[16]);
    b.answer(Answers::Late);
    b.head(0, c[2]);
    b.head(0, a[11]);
    b.answer(Answers::Well);
    b.release();
    b.wait(Duration::from_secs(10));
    assert_eq!((b.tip(), b.gaps), (a[11], 0));
}

#[test]
fn a_far_jump_ends_the_stream_only_where_no_other_node_stands_on_the_chain() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 3, B256::ZERO);
    let far = b.branch("far", 100_000, 2, B256::repeat_byte(7));
    let liar = block("x", 200_000, B256::repeat_byte(0xee));
    b.connect(0, a[0]);
    b.connect(1, a[0]);
    b.say(1, Saying::Head(liar.0));
    b.head(1, far[1]);
    b.head(0, a[1]);
    b.wait(Duration::from_secs(9));
    b.head(0, a[2]);
    b.wait(Duration::from_secs(9));
    assert_eq!((b.tip(), b.gaps), (a[2], 0));
    b.wait(Duration::from_secs(2));
    assert_eq!((b.tip(), b.gaps), (far[1], 1), "the other one has fallen silent");
    assert!(b.notes.contains(&Note::Gap(GapCause::TooFar)));
}

#[test]
fn nothing_final_is_undone_and_who_asks_for_it_is_set_aside() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 10, B256::ZERO);
    let c = b.branch("c", 5, 9, a[3]);
    let d = b.branch("d", 7, 9, a[5]);
    b.finalized = Some(a[4]);
    b.connect(0, a[9]);
    b.connect(1, a[9]);
    b.connect(2, a[9]);
    assert_eq!(b.tracker.finality().1.map(|block| block.number), Some(5));
    b.head(1, c[8]);
    assert_eq!((b.tip(), b.orders.as_slice()), (a[9], &[(1, Order::SetAside(Aside::BelowFinalized))][..]));
    b.head(1, c[7]);
    assert_eq!(b.tip(), a[9], "it is not heard until it is connected anew");
    b.head(0, d[8]);
    assert_eq!((b.tip(), b.orders.len()), (d[8], 1), "above it anything may happen");
    b.head(0, a[3]);
    b.wait(Duration::from_secs(5));
    let aside = (0, Order::SetAside(Aside::BelowFinalized));
    assert_eq!((b.tip(), b.orders.contains(&aside)), (d[8], true), "nor by a step back");
}

#[test]
fn finality_is_asked_for_seldom_and_only_moves_up_our_chain() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 12, B256::ZERO);
    let c = b.branch("c", 3, 3, a[1]);
    let known = |b: &Bench| b.tracker.finality().1.map(|block| block.hash);
    b.connect(0, a[0]);
    b.head(0, a[6]);
    for (head, finalized, want, why) in [
        (7, c[1], None, "it is of another branch"),
        (8, a[11], None, "it is ahead of us"),
        (9, a[4], Some(a[4]), "it is ours"),
        (10, a[2], Some(a[4]), "it does not go back"),
    ] {
        b.finalized = Some(finalized);
        b.wait(Duration::from_secs(7));
        b.head(0, a[head]);
        assert_eq!(known(&b), want, "{why}");
    }
    b.finalized = Some(a[8]);
    b.head(0, a[11]);
    b.wait(Duration::from_millis(1_900));
    assert_eq!(known(&b), Some(a[4]), "it was asked for less than 6 s ago");
    b.wait(Duration::from_millis(200));
    assert_eq!(known(&b), Some(a[8]));
}

#[test]
fn a_long_outage_is_filled_in_batches_and_a_reorg_block_by_block() {
    let mut b = Bench::new(1_024);
    let a = b.branch("a", 1, 300, B256::ZERO);
    let c = b.branch("c", 290, 12, a[288]);
    b.connect(0, a[0]);
    b.lose(0);
    b.asked.clear();
    b.connect(0, a[299]);
    let counts = |b: &Bench| -> Vec<u64> {
        let count = |action: &Action| match action {
            Action::FetchBlocks { count, .. } => Some(*count),
            _ => None,
        };
        b.asked.iter().filter_map(count).collect()
    };
    assert_eq!(counts(&b), [64, 64, 64, 64, 42]);
    assert_eq!((b.heads.len(), b.logs.len(), b.gaps), (300, 300, 0));
    b.asked.clear();
    b.head(0, c[11]);
    assert_eq!((counts(&b), b.tip()), (vec![1; 11], c[11]));
}

#[test]
fn logs_are_asked_of_another_node_where_the_first_is_slow() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 3, B256::ZERO);
    b.connect(0, a[0]);
    b.connect(1, a[0]);
    b.nodes.get_mut(&0).unwrap().answers = Answers::Late;
    b.head(0, a[1]);
    assert_eq!(b.logs.len(), 1);
    b.wait(Duration::from_millis(800));
    assert_eq!(b.logs.len(), 2, "the other node had them");
    b.release();
    assert_eq!((b.logs.len(), b.gaps), (2, 0));
}

#[test]
fn what_a_node_announced_falsely_is_fetched_when_it_leads_nowhere() {
    for (number, parent) in [(3, B256::repeat_byte(0xee)), (77, B256::ZERO)] {
        let mut b = Bench::new(64);
        let a = b.branch("a", 1, 6, B256::ZERO);
        b.connect(0, a[0]);
        b.head(0, a[1]);
        let truth = b.world[&a[2]].0.clone();
        b.say(0, Saying::Head(Arc::new(Header { number, parent, ..(*truth).clone() })));
        b.head(0, a[3]);
        b.head(0, a[4]);
        b.wait(Duration::from_secs(5));
        b.head(0, a[5]);
        assert_eq!((b.tip(), b.gaps), (a[5], 0), "{number} {parent}");
    }
}

#[test]
fn a_head_without_a_bloom_is_skipped_where_blooms_are_known() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 3, B256::ZERO);
    b.connect(0, a[0]);
    let truth = b.world[&a[1]].0.clone();
    b.say(0, Saying::Head(Arc::new(Header { bloom: None, ..(*truth).clone() })));
    assert_eq!((b.tip(), b.notes.contains(&Note::Malformed(NodeId(0)))), (a[0], true));
    b.head(0, a[2]);
    assert_eq!((b.tip(), b.logs.len()), (a[2], 3));
}

#[test]
fn a_node_that_owes_an_answer_is_not_asked_first_for_the_rest_of_a_walk() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 42, B256::ZERO);
    let c = b.branch("c", 3, 41, a[1]);
    b.connect(0, a[0]);
    b.connect(1, a[0]);
    b.head(0, a[41]);
    b.head(1, a[41]);
    b.nodes.get_mut(&0).unwrap().answers = Answers::Late;
    b.head(0, c[40]);
    b.head(1, c[40]);
    b.wait(Duration::from_millis(800));
    assert_eq!((b.tip(), b.logs.len()), (c[40], 43));
}

#[test]
fn a_lone_nodes_false_numbers_do_not_end_the_stream() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 8, B256::ZERO);
    b.connect(0, a[0]);
    for block in &a[1..6] {
        let truth = b.world[block].0.clone();
        let number = truth.number + 100_000;
        b.say(0, Saying::Head(Arc::new(Header { number, ..(*truth).clone() })));
    }
    b.wait(Duration::from_secs(5));
    b.head(0, a[6]);
    b.head(0, a[7]);
    b.wait(Duration::from_secs(5));
    assert_eq!((b.tip(), b.logs.len(), b.gaps), (a[7], 8, 0));
}

#[test]
fn a_late_node_does_not_lead_back_to_a_branch_that_was_left() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 6, B256::ZERO);
    let c = b.branch("c", 3, 2, a[1]);
    b.connect(0, a[0]);
    b.connect(1, a[0]);
    b.head(0, a[5]);
    b.head(1, a[5]);
    b.told.clear();
    b.head(0, c[1]);
    assert_eq!((b.tip(), b.told.len()), (c[1], 6), "{:?}", b.told);
    b.head(1, c[1]);
    assert_eq!(b.told.len(), 6);
}

#[test]
fn a_late_node_that_goes_the_way_we_went_undoes_nothing() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 3, B256::ZERO);
    let c = b.branch("c", 3, 1, a[1]);
    b.connect(0, a[0]);
    b.connect(1, a[0]);
    b.head(0, a[2]);
    b.head(1, a[2]);
    b.head(0, c[0]);
    b.head(0, a[2]);
    b.lose(0);
    b.told.clear();
    b.head(1, c[0]);
    assert_eq!(b.told, Vec::<String>::new(), "it told our tip before we left that block");
    b.head(1, a[2]);
    b.head(1, c[0]);
    assert_eq!(b.told, ["-3", "c3"], "it told our tip after that");
}

#[test]
fn the_highest_of_two_tips_is_taken_without_a_way_round() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 2, B256::ZERO);
    let fork = b.branch("x", 2, 1, a[0])[0];
    let low = b.branch("c", 3, 1, fork);
    let high = b.branch("d", 3, 2, fork);
    b.connect(0, a[1]);
    b.connect(1, a[1]);
    b.answer(Answers::Late);
    b.head(0, low[0]);
    b.head(1, high[1]);
    b.told.clear();
    b.answer(Answers::Well);
    b.release();
    assert_eq!(b.told, ["-2", "x2", "d3", "d4"]);
}

#[test]
fn a_number_that_does_not_follow_its_parent_is_not_taken() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 4, B256::ZERO);
    b.connect(0, a[0]);
    b.head(0, a[1]);
    for number in [2, 3 + 5, 1_000] {
        let truth = b.world[&a[2]].0.clone();
        b.say(0, Saying::Head(Arc::new(Header { number, ..(*truth).clone() })));
        b.wait(Duration::from_secs(5));
        assert_eq!((b.tip(), b.gaps), (a[1], 0), "{number}");
    }
    b.head(0, a[3]);
    b.wait(Duration::from_secs(5));
    assert_eq!((b.tip(), b.logs.len()), (a[3], 4));
}

#[test]
fn another_block_than_the_one_asked_for_is_no_answer() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 4, B256::ZERO);
    b.connect(0, a[0]);
    b.answer(Answers::Late);
    b.head(0, a[3]);
    let asked = b.asked.len();
    let other = b.world[&a[0]].0.clone();
    b.say(0, Saying::Blocks(a[2], vec![other]));
    assert_eq!(b.asked.len(), asked, "it is not asked again at once");
    b.wait(Duration::from_millis(100));
    assert!(b.asked.len() > asked);
    b.answer(Answers::Well);
    b.release();
    b.wait(Duration::from_secs(10));
    assert_eq!(b.tip(), a[3]);
}

#[test]
fn the_node_that_gave_us_the_tip_decides_while_it_is_there() {
    let mut b = Bench::new(64);
    let a = b.branch("a", 1, 3, B256::ZERO);
    let c = b.branch("c", 3, 1, a[1]);
    b.connect(0, a[0]);
    b.connect(1, a[0]);
    b.head(0, a[2]);
    b.head(1, a[2]);
    b.head(1, c[0]);
    assert_eq!(b.tip(), a[2]);
    b.lose(0);
    assert_eq!((b.tip(), b.gaps), (c[0], 0));
}
