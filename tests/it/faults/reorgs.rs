//! Reorgs that nodes tell by their tip alone, or that happen behind the gateway's back.

use std::time::Duration;

use chaincast::devnode::{DevNode, SharedChain};

use super::{Scene, kill, mine, revive};
use crate::harness::{Watcher, until};

const PERIOD: Duration = Duration::from_millis(100);

/// Reorgs of growing depth with blocks between them. The watcher sees each before the next, so that none is made up for
/// by another.
async fn reorgs(chain: &SharedChain, watcher: &mut Watcher) {
    for (depth, new) in [(2, 3), (7, 8), (40, 41), (7, 9), (2, 3), (40, 60)] {
        let before = watcher.view.replaced;
        chain.reorg(depth, new);
        watcher.reach(chain).await;
        let replaced = usize::try_from(depth).expect("it is small");
        assert_eq!(watcher.view.replaced - before, replaced, "a reorg of depth {depth} replaces as many");
        mine(chain, 3, PERIOD).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reorgs_of_two_seven_and_forty_blocks_are_told_by_their_tip() {
    let mut scene = Scene::start(2).await;
    mine(&scene.chain, 45, Duration::from_millis(20)).await;
    reorgs(&scene.chain, &mut scene.watcher).await;
    scene.ends_exact("reorgs of 2, 7 and 40").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reorgs_while_a_node_is_behind() {
    let mut scene = Scene::start(2).await;
    mine(&scene.chain, 45, Duration::from_millis(20)).await;
    for behind in [0, 1] {
        scene.nodes[behind].faults().set_lag(Duration::from_millis(700));
        reorgs(&scene.chain, &mut scene.watcher).await;
        scene.nodes[behind].faults().set_lag(Duration::ZERO);
        scene.nodes[behind].caught_up().await;
        scene.watcher.reach(&scene.chain).await;
    }
    scene.ends_exact("reorgs while a node is behind").await;
}

/// The node is gone, and known to be, while something happens to the chain.
async fn behind_its_back(scene: &mut Scene, happens: impl FnOnce(&SharedChain)) {
    scene.watcher.reach(&scene.chain).await;
    let node = &scene.nodes[0];
    kill(node);
    let up = scene.gateway.metrics.upstream_up.with_label_values(&["default", &node.address().to_string()]);
    until("the loss is seen", async || up.get() == 0).await;
    happens(&scene.chain);
    revive(node);
    scene.watcher.reach(&scene.chain).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_node_is_lost_while_the_chain_reorgs() {
    let mut scene = Scene::start(1).await;
    mine(&scene.chain, 45, Duration::from_millis(20)).await;
    for (depth, new) in [(1, 2), (7, 8), (40, 42)] {
        scene.watcher.reach(&scene.chain).await;
        let before = scene.watcher.view.replaced;
        behind_its_back(&mut scene, |chain| drop(chain.reorg(depth, new))).await;
        assert_eq!(scene.watcher.view.replaced - before, usize::try_from(depth).expect("it is small"));
        mine(&scene.chain, 3, PERIOD).await;
    }
    // Away to another branch and back to the first while nobody looks: nothing has happened but what came on top.
    let before = scene.watcher.view.replaced;
    behind_its_back(&mut scene, |chain| {
        let old = chain.head();
        chain.reorg(3, 4);
        chain.set_head(old.hash);
        chain.mine(2);
    })
    .await;
    assert_eq!(scene.watcher.view.replaced, before);
    scene.ends_exact("reorgs behind the gateway's back").await;
}

/// Moves the chain to a block and waits until everybody could know.
async fn move_to(scene: &mut Scene, head: chaincast::devnode::BlockRef) {
    scene.chain.set_head(head.hash);
    futures_util::future::join_all(scene.nodes.iter().map(DevNode::caught_up)).await;
    scene.watcher.reach(&scene.chain).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_chain_goes_from_a_to_b_and_back_to_a() {
    let mut scene = Scene::start(2).await;
    mine(&scene.chain, 10, Duration::from_millis(20)).await;
    scene.watcher.reach(&scene.chain).await;
    for (depth, new) in [(1, 1), (3, 3), (3, 2), (2, 4)] {
        let a = scene.chain.head();
        let b = *scene.chain.reorg(depth, new).last().expect("it has blocks");
        scene.watcher.reach(&scene.chain).await;
        for head in [a, b, a, b, a] {
            move_to(&mut scene, head).await;
        }
        mine(&scene.chain, 2, PERIOD).await;
        scene.watcher.reach(&scene.chain).await;
    }
    // Faster than anybody can follow: where it ends counts.
    let a = scene.chain.head();
    let b = *scene.chain.reorg(4, 4).last().expect("it has blocks");
    for head in [a, b].into_iter().cycle().take(21) {
        scene.chain.set_head(head.hash);
    }
    scene.chain.mine(3);
    scene.watcher.reach(&scene.chain).await;
    scene.ends_exact("from A to B and back").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shorter_branch_is_not_left_again_for_a_node_that_is_behind() {
    let mut scene = Scene::start(2).await;
    // The first node gives the heads, the second one repeats them later.
    scene.nodes[1].faults().set_lag(Duration::from_millis(400));
    mine(&scene.chain, 12, Duration::from_millis(50)).await;
    scene.nodes[1].caught_up().await;
    scene.watcher.reach(&scene.chain).await;
    for (depth, new) in [(5, 3), (4, 4), (6, 1)] {
        let before = scene.watcher.view.replaced;
        scene.chain.reorg(depth, new);
        scene.watcher.reach(&scene.chain).await;
        scene.nodes[1].caught_up().await;
        scene.watcher.lives(&scene.chain).await;
        scene.nodes[1].caught_up().await;
        let replaced = usize::try_from(depth).expect("it is small");
        assert_eq!(scene.watcher.view.replaced - before, replaced, "{depth} blocks gave way to {new}");
    }
    scene.ends_exact("a shorter branch while a node is behind").await;
}
