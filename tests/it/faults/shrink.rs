//! A chain that goes back to an ancestor of its head. It counts when it is told twice 2 s apart, or by two nodes; not from a
//! node that is syncing, nor when it is a node's first word after a connect.
//!
//! Clients learn of it by the removal of logs, and by the ancestor's head, which is sent again with its logs.

use std::time::{Duration, Instant};

use chaincast::devnode::{BlockRef, DevNode, SharedChain};
use tokio::time::interval;

use super::{Scene, kill, mine, revive};
use crate::harness::{Watcher, until};

/// How long one node must stand by a lower head.
const STANDS: Duration = Duration::from_secs(2);
/// How long nothing may happen where a shrink does not count.
const QUIET: Duration = Duration::from_secs(4);

/// A scene with a few blocks, and the ancestor so many below the head.
async fn scene(nodes: usize) -> Scene {
    let mut scene = Scene::start(nodes).await;
    mine(&scene.chain, 12, Duration::from_millis(50)).await;
    scene.watcher.reach(&scene.chain).await;
    // Every node told the head: only such a one can take it back.
    for node in &scene.nodes {
        told_its_head(&scene, node).await;
    }
    scene
}

/// Waits until the gateway has heard of a node what the chain's head is.
async fn told_its_head(scene: &Scene, node: &DevNode) {
    let head = scene.gateway.metrics.upstream_head.with_label_values(&["default", &node.address().to_string()]);
    let number = i64::try_from(scene.chain.head().number).expect("it is small");
    until("the node told its head", async || head.get() == number).await;
}

fn ancestor(chain: &SharedChain, depth: u64) -> BlockRef {
    chain.canonical_at(chain.head().number - depth).expect("the chain is that long").reference()
}

/// How many logs stand above a block.
fn logs_above(chain: &SharedChain, block: BlockRef) -> usize {
    chain.canonical_blocks().iter().filter(|one| one.number() > block.number).map(|one| one.log_count()).sum()
}

/// Reads on until so many logs more were taken back; says how long that took.
async fn taken_back(watcher: &mut Watcher, logs: usize) -> Duration {
    let (begun, removed) = (Instant::now(), watcher.view.removed + logs);
    let reading = async {
        while watcher.view.removed < removed {
            watcher.step().await.expect("the connection stands");
        }
    };
    let read = tokio::time::timeout(QUIET * 3, reading).await;
    assert!(read.is_ok(), "{} logs were not taken back", removed - watcher.view.removed);
    begun.elapsed()
}

/// Nothing comes for a while.
async fn stays(watcher: &mut Watcher) {
    let came = tokio::time::timeout(QUIET, watcher.step()).await;
    assert!(came.is_err(), "something came: {came:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shrink_told_twice_by_one_node_counts() {
    let mut scene = scene(1).await;
    let to = ancestor(&scene.chain, 4);
    let logs = logs_above(&scene.chain, to);
    scene.chain.set_head(to.hash);
    scene.nodes[0].caught_up().await;
    let again = async {
        let mut ticks = interval(STANDS + Duration::from_millis(100));
        ticks.tick().await;
        ticks.tick().await;
        scene.nodes[0].announce_head_again();
    };
    let (took, ()) = tokio::join!(taken_back(&mut scene.watcher, logs), again);
    println!("told twice by one node: it took {} ms", took.as_millis());
    assert!(took + Duration::from_millis(200) > STANDS, "after {took:?} it was told once");
    mine(&scene.chain, 6, Duration::from_millis(50)).await;
    scene.watcher.reach(&scene.chain).await;
    assert_eq!(scene.watcher.view.replaced, 5, "four blocks went, and the ancestor was sent again");
    scene.ends_exact("a shrink told twice by one node").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shrink_told_by_two_nodes_counts_at_once() {
    let mut scene = scene(2).await;
    let to = ancestor(&scene.chain, 3);
    let logs = logs_above(&scene.chain, to);
    scene.chain.set_head(to.hash);
    let took = taken_back(&mut scene.watcher, logs).await;
    println!("told by two nodes: it took {} ms", took.as_millis());
    assert!(took < STANDS, "it took {took:?}");
    mine(&scene.chain, 1, Duration::from_millis(50)).await;
    scene.watcher.reach(&scene.chain).await;
    assert_eq!(scene.watcher.view.replaced, 4, "three blocks went, and the ancestor was sent again");
    scene.ends_exact("a shrink told by two nodes").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shrink_told_by_a_syncing_node_does_not_count() {
    let mut scene = scene(1).await;
    let tip = scene.chain.head();
    scene.nodes[0].faults().set_syncing(true);
    scene.chain.set_head(ancestor(&scene.chain, 5).hash);
    scene.nodes[0].caught_up().await;
    stays(&mut scene.watcher).await;
    scene.nodes[0].announce_head_again();
    stays(&mut scene.watcher).await;
    scene.nodes[0].faults().set_syncing(false);
    scene.chain.set_head(tip.hash);
    mine(&scene.chain, 3, Duration::from_millis(50)).await;
    scene.watcher.reach(&scene.chain).await;
    assert_eq!((scene.watcher.view.replaced, scene.watcher.view.removed), (0, 0));
    scene.ends_exact("a shrink told by a syncing node").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lower_head_after_a_reconnect_does_not_count() {
    let mut scene = scene(1).await;
    let tip = scene.chain.head();
    kill(&scene.nodes[0]);
    let up = scene.gateway.metrics.upstream_up.with_label_values(&["default", &scene.nodes[0].address().to_string()]);
    until("the loss is seen", async || up.get() == 0).await;
    scene.chain.set_head(ancestor(&scene.chain, 5).hash);
    revive(&scene.nodes[0]);
    until("it is back", async || up.get() == 1).await;
    stays(&mut scene.watcher).await;
    scene.nodes[0].announce_head_again();
    stays(&mut scene.watcher).await;
    scene.chain.set_head(tip.hash);
    mine(&scene.chain, 3, Duration::from_millis(50)).await;
    scene.watcher.reach(&scene.chain).await;
    assert_eq!((scene.watcher.view.replaced, scene.watcher.view.removed), (0, 0));
    scene.ends_exact("a lower head after a reconnect").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shrink_does_not_count_while_the_giver_of_the_head_stands_by_it() {
    let mut scene = scene(2).await;
    // The second node gives the head and stays there; the first one only repeats it, and goes back.
    scene.nodes[0].faults().set_lag(Duration::from_millis(300));
    scene.chain.mine(2);
    scene.watcher.reach(&scene.chain).await;
    told_its_head(&scene, &scene.nodes[0]).await;
    let tip = scene.chain.head();
    scene.nodes[1].faults().set_lag(Duration::MAX);
    scene.chain.set_head(ancestor(&scene.chain, 3).hash);
    scene.nodes[0].caught_up().await;
    stays(&mut scene.watcher).await;
    scene.chain.set_head(tip.hash);
    told_its_head(&scene, &scene.nodes[0]).await;
    // The other makes up for what it missed unheard, or both would have told the shrink in the end.
    kill(&scene.nodes[1]);
    scene.nodes.iter().for_each(|node| node.faults().set_lag(Duration::ZERO));
    scene.nodes[1].caught_up().await;
    revive(&scene.nodes[1]);
    mine(&scene.chain, 3, Duration::from_millis(50)).await;
    scene.watcher.reach(&scene.chain).await;
    scene.ends_exact("a shrink against the giver of the head").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_shrink_the_chain_goes_on_by_another_branch() {
    for nodes in [1, 2] {
        let mut scene = scene(nodes).await;
        // At once, so that the shrink of one node is not confirmed: the branch counts, shorter as it is. That of two
        // may be, and then the ancestor is sent again.
        scene.chain.set_head(ancestor(&scene.chain, 5).hash);
        for node in &scene.nodes {
            told_its_head(&scene, node).await;
        }
        mine(&scene.chain, 2, Duration::from_millis(50)).await;
        scene.watcher.reach(&scene.chain).await;
        assert!((5..=4 + nodes).contains(&scene.watcher.view.replaced), "{} replaced", scene.watcher.view.replaced);
        // And back to where it was, and on from there.
        mine(&scene.chain, 6, Duration::from_millis(50)).await;
        scene.watcher.reach(&scene.chain).await;
        scene.ends_exact("a shrink and another branch").await;
    }
}
