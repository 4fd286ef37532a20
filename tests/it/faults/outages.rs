//! Nodes that are lost, stalled or behind while the chain goes on.

use std::time::Duration;

use chaincast::devnode::{Span, Spoil};
use tokio::time::interval;

use super::{Scene, kill, mine, revive, slowest};
use crate::harness::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn either_of_two_nodes_is_killed_every_five_seconds() {
    let mut scene = Scene::start(2).await;
    let mining = mine(&scene.chain, 90, Duration::from_millis(333));
    let killing = async {
        // Half of the time it is away.
        let mut ticks = interval(Duration::from_millis(2500));
        ticks.tick().await;
        for round in 0..6 {
            let node = &scene.nodes[round % 2];
            kill(node);
            ticks.tick().await;
            revive(node);
            ticks.tick().await;
        }
    };
    let (mined, ()) = tokio::join!(mining, killing);
    scene.watcher.reach(&scene.chain).await;
    let slowest = slowest(&scene.crowd, &mined);
    println!("killed in turn: the slowest head took {} ms", slowest.as_millis());
    assert!(slowest < Duration::from_secs(2), "a head took {slowest:?}");
    scene.ends_exact("killed in turn").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_nodes_are_away_for_ten_seconds() {
    let mut scene = Scene::start(2).await;
    mine(&scene.chain, 20, Duration::from_millis(50)).await;
    scene.nodes.iter().for_each(kill);
    let outage = mine(&scene.chain, 200, Duration::from_millis(50)).await;
    scene.nodes.iter().for_each(revive);
    let back = std::time::Instant::now();
    let mining = mine(&scene.chain, 40, Duration::from_millis(50));
    let (more, ()) = tokio::join!(mining, scene.watcher.reach(&scene.chain));
    scene.watcher.reach(&scene.chain).await;
    let first = scene.crowd.arrival(outage[0].0).expect("the first head of the outage has come");
    let last = scene.crowd.arrival(more[more.len() - 1].0).expect("the last head has come");
    let since = |at: std::time::Instant| at.saturating_duration_since(back).as_millis();
    println!("both away: after they were back, the first head took {} ms, the last {} ms", since(first), since(last));
    assert_eq!(scene.watcher.view.replaced, 0);
    scene.ends_exact("both away for 10 s").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_nodes_stalls_for_three_seconds() {
    let mut scene = Scene::start(2).await;
    mine(&scene.chain, 8, Duration::from_millis(125)).await;
    // The first is the one that is preferred, so it is the one that hurts.
    for stalled in [0, 1] {
        scene.nodes[stalled].faults().stall(true);
        let mined = mine(&scene.chain, 24, Duration::from_millis(125)).await;
        until("all heads have come", async || mined.iter().all(|(block, _)| scene.crowd.arrival(*block).is_some()))
            .await;
        scene.nodes[stalled].faults().stall(false);
        let slowest = slowest(&scene.crowd, &mined);
        println!("node {stalled} stalled: the slowest head took {} ms", slowest.as_millis());
        assert!(slowest < Duration::from_millis(1500), "a head took {slowest:?}");
        // What the node had to say comes now, and is old.
        mine(&scene.chain, 8, Duration::from_millis(125)).await;
        scene.watcher.reach(&scene.chain).await;
    }
    assert_eq!(scene.watcher.view.replaced, 0);
    scene.ends_exact("stalled for 3 s").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_behind_and_says_that_there_are_no_logs() {
    let mut scene = Scene::start(2).await;
    let behind = scene.nodes[0].faults();
    behind.set_lag(Duration::from_millis(1500));
    behind.spoil("eth_getLogs", Spoil::EmptyForError, Span::Always);
    let mined = mine(&scene.chain, 20, Duration::from_millis(150)).await;
    scene.watcher.reach(&scene.chain).await;
    println!("a node is behind: the slowest head took {} ms", slowest(&scene.crowd, &mined).as_millis());
    // Even for blocks that it has.
    behind.spoil("eth_getLogs", Spoil::Empty, Span::Always);
    mine(&scene.chain, 20, Duration::from_millis(150)).await;
    scene.watcher.reach(&scene.chain).await;
    behind.unspoil_all();
    // The other is gone for a time: now the late one is all there is.
    behind.spoil("eth_getLogs", Spoil::EmptyForError, Span::Always);
    kill(&scene.nodes[1]);
    mine(&scene.chain, 10, Duration::from_millis(150)).await;
    revive(&scene.nodes[1]);
    scene.watcher.reach(&scene.chain).await;
    assert_eq!(scene.watcher.view.replaced, 0);
    scene.ends_exact("a node 1.5 s behind").await;
}
