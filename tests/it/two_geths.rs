//! Two real Geths, killed and stopped in turn and both at once, while blocks and reorgs go on: two hundred clients miss
//! nothing, and no head is late.
//!
//! Owns the course of the faults and the bounds. The nodes are fed by `two_geths/pair.rs`.

mod pair;
mod recovery;

use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::harness::engine::{Follower, Reader};
use crate::harness::{Gateway, GatewayOptions, asked};
use pair::Pair;
use recovery::{Cause, Recovery};

const CLIENTS: usize = 200;
/// How long faults go on where nobody asks for more.
const OUTAGE_SECS: u64 = 180;
/// Time between blocks.
const BEAT: Duration = Duration::from_millis(600);
/// Blocks for which a node is away.
const AWAY: usize = 5;
/// Blocks between a node's return and the next fault.
const CALM: usize = 3;

/// The faults, in turn: which nodes, and what is done to them.
const COURSE: [(&[usize], Cause); 6] = [
    (&[0], Cause::Kill),
    (&[1], Cause::Stall),
    (&[1], Cause::Kill),
    (&[0], Cause::Stall),
    (&[0, 1], Cause::Kill),
    (&[0, 1], Cause::Stall),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_miss_nothing_while_two_geths_fail_in_turn() {
    let (seconds, seed) = (asked("CHAINCAST_OUTAGE_SECS", OUTAGE_SECS), asked("CHAINCAST_SEED", 1));
    println!("CHAINCAST_SEED={seed}");
    let mut pair = Pair::start(StdRng::seed_from_u64(seed)).await;
    let gateway = Gateway::start(GatewayOptions::upstreams(pair.urls())).await;
    gateway.ready().await;
    let mut readers = Vec::with_capacity(CLIENTS);
    for _ in 0..CLIENTS {
        readers.push(Reader::spawn(Follower::start(&gateway.ws_url(), pair.oracle()).await));
    }

    let recovery = fail_in_turn(&mut pair, Duration::from_secs(seconds)).await;
    let mut judged = JoinSet::new();
    for mut reader in readers {
        let tip = pair.tip().clone();
        judged.spawn(async move {
            reader.reach(&tip).await?;
            reader.finish().await
        });
    }
    let (followers, breaches): (Vec<_>, Vec<_>) = judged.join_all().await.into_iter().partition(Result::is_ok);
    let followers: Vec<Follower> = followers.into_iter().flatten().collect();
    let breaches: Vec<String> = breaches.into_iter().filter_map(Result::err).collect();
    report(&pair, &followers, &breaches);
    assert!(breaches.is_empty(), "{} of {CLIENTS} clients: {}", breaches.len(), breaches[0]);
    recovery.judge(&followers);
    gateway.stop().await;
}

/// Blocks come at every beat; every few of them a fault begins or ends.
async fn fail_in_turn(pair: &mut Pair, time: Duration) -> Recovery {
    let (mut recovery, mut beats, begun) = (Recovery::default(), tokio::time::interval(BEAT), Instant::now());
    // A beat that took long is not made up for: heads that give way at once would reach nobody.
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for (nodes, cause) in COURSE.into_iter().cycle().take_while(|_| begun.elapsed() < time) {
        for _ in 0..CALM {
            beats.tick().await;
            recovery.accepted(pair.next_head().await);
        }
        recovery.begins(cause, nodes.len());
        pair.fail(nodes, cause);
        for _ in 0..AWAY {
            beats.tick().await;
            recovery.accepted(pair.next_head().await);
        }
        pair.heal(nodes, cause);
        while !pair.all_up() {
            beats.tick().await;
            recovery.accepted(pair.next_head().await);
        }
        recovery.ends();
    }
    beats.tick().await;
    recovery.accepted(pair.next_head().await);
    recovery
}

/// One line: how much there was, and what was wrong.
fn report(pair: &Pair, followers: &[Follower], breaches: &[String]) {
    let kinds: [(&str, &[&str]); 5] = [
        ("missing", &["leaves a hole", "has a parent that is not", "not in time", " instead of "]),
        ("doubled", &["comes twice"]),
        ("disordered", &["does not follow", "not the newest", "of no head", "was not removed"]),
        ("wrong", &["altered", "there is no block", "differ at", "has no log"]),
        ("closed", &["Closed", "Lost"]),
    ];
    let count = |words: &[&str]| breaches.iter().filter(|b| words.iter().any(|word| b.contains(word))).count();
    let counts: Vec<String> = kinds.iter().map(|(kind, words)| format!("{} {kind}", count(words))).collect();
    let (blocks, reorgs) = pair.made();
    let replaced = followers.first().map_or(0, |follower| follower.view.replaced);
    println!("{CLIENTS} clients, {blocks} blocks, {reorgs} reorgs, {replaced} heads replaced: {}", counts.join(", "));
}
