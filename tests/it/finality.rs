//! Nothing at or below the finalized block is undone: a node that would have it so is set aside, reported, and taken back
//! once it is right again. The questions for finality are few.

use std::time::Duration;

use chaincast::devnode::{DevNode, DevOptions, SharedChain};
use serde_json::json;
use tokio::time::interval;

use crate::harness::stage::{CHAIN, new_node};
use crate::harness::{Gateway, GatewayOptions, Watcher, until};

const FINALIZED_DEPTH: u64 = 5;

/// A chain that finalizes soon. Two of them to which the same is done are the same, until something else is.
fn new_chain() -> SharedChain {
    SharedChain::new(DevOptions {
        pending_per_block: 0,
        safe_depth: 2,
        finalized_depth: FINALIZED_DEPTH,
        ..DevOptions::default()
    })
}

async fn follow(nodes: &[&DevNode]) -> (Gateway, Watcher) {
    let options = GatewayOptions::upstreams(nodes.iter().map(|node| node.ws_url()));
    let gateway = Gateway::start(options.set("upstream.finality_interval", "200ms")).await;
    gateway.ready().await;
    for node in nodes {
        until("every node is followed", async || is_up(&gateway, node)).await;
    }
    let watcher = Watcher::start(&gateway.ws_url()).await;
    (gateway, watcher)
}

fn is_up(gateway: &Gateway, node: &DevNode) -> bool {
    gateway.metrics.upstream_up.with_label_values(&[CHAIN, &node.address().to_string()]).get() == 1
}

/// The value of a series in the text of the metrics, by its beginning.
fn metric(gateway: &Gateway, series: &str) -> Option<u64> {
    let text = gateway.metrics.text();
    text.lines().find_map(|line| line.strip_prefix(series)?.split(' ').next_back()?.parse().ok())
}

/// How often a node was set aside for an undo below the finalized block.
fn set_aside(gateway: &Gateway, node: &DevNode) -> u64 {
    let series = format!(
        r#"chaincast_upstream_set_aside_total{{chain="{CHAIN}",reason="below_finalized",upstream="{}"}}"#,
        node.address()
    );
    metric(gateway, &series).unwrap_or(0)
}

/// Mines on all of the chains alike, until the gateway knows that the present head's ancestor is final.
async fn finalize(gateway: &Gateway, watcher: &mut Watcher, chains: &[&SharedChain]) {
    for _ in 0..12 {
        for chain in chains {
            chain.mine(2);
        }
        watcher.reach(chains[0]).await;
    }
    let mut blocks = interval(Duration::from_millis(250));
    let goal = chains[0].head().number - FINALIZED_DEPTH;
    let series = format!(r#"chaincast_final_block{{chain="{CHAIN}",tag="finalized"}}"#);
    until("the head's ancestor is final", async || {
        blocks.tick().await;
        for chain in chains {
            chain.mine(1);
        }
        watcher.reach(chains[0]).await;
        metric(gateway, &series).is_some_and(|number| number >= goal)
    })
    .await;
}

/// The states of the nodes as the live page shows them.
async fn states(watcher: &mut Watcher) -> serde_json::Value {
    watcher.client.call("chaincast_status", json!([])).await["result"]["upstreams"].clone()
}

#[tokio::test]
async fn one_of_two_nodes_that_undoes_what_is_final_is_not_believed() {
    let (chain, twin) = (new_chain(), new_chain());
    let (honest, rogue) = (new_node(&chain), new_node(&twin));
    let (gateway, mut watcher) = follow(&[&honest, &rogue]).await;
    finalize(&gateway, &mut watcher, &[&chain, &twin]).await;
    assert_eq!(chain.head(), twin.head(), "twins are the same");
    let old = twin.head();

    // Far ahead, on a branch from below the finalized block.
    twin.reorg(FINALIZED_DEPTH * 2, 30);
    until("the rogue is set aside", async || set_aside(&gateway, &rogue) == 1).await;
    until("the page says so", async || states(&mut watcher).await == json!(["up", "set aside"])).await;
    assert_eq!((is_up(&gateway, &honest), is_up(&gateway, &rogue)), (true, false));
    for _ in 0..5 {
        watcher.lives(&chain).await;
    }
    // It is tried again, says the same, and is not believed then either.
    until("it is tried again", async || set_aside(&gateway, &rogue) == 2).await;
    watcher.lives(&chain).await;
    // Where it is right again, it is taken back.
    twin.set_head(old.hash);
    until("it is taken back", async || is_up(&gateway, &rogue)).await;
    for _ in 0..3 {
        watcher.lives(&chain).await;
    }
    assert_eq!((watcher.view.replaced, watcher.view.removed), (0, 0));
    assert_eq!(gateway.gaps(CHAIN), 0);
    drop(watcher);
    gateway.stop().await;
}

#[tokio::test]
async fn the_only_node_that_undoes_what_is_final_is_set_aside_until_it_is_right_again() {
    let chain = new_chain();
    let node = new_node(&chain);
    let (gateway, mut watcher) = follow(&[&node]).await;
    finalize(&gateway, &mut watcher, &[&chain]).await;
    // Above the finalized block all is as ever.
    chain.reorg(2, 3);
    watcher.reach(&chain).await;
    assert_eq!(watcher.view.replaced, 2);

    let old = chain.head();
    chain.reorg(FINALIZED_DEPTH * 2, 30);
    until("it is set aside", async || set_aside(&gateway, &node) == 1).await;
    assert_eq!(states(&mut watcher).await, json!(["set aside"]));
    let came = tokio::time::timeout(Duration::from_secs(1), watcher.step()).await;
    assert!(came.is_err(), "something came: {came:?}");
    chain.set_head(old.hash);
    until("it is taken back", async || is_up(&gateway, &node)).await;
    watcher.lives(&chain).await;
    assert_eq!(watcher.view.replaced, 2);
    drop(watcher);
    gateway.stop().await;
}

#[tokio::test]
async fn finality_is_asked_for_every_six_seconds_by_all_together() {
    let chain = new_chain();
    let nodes = [new_node(&chain), new_node(&chain)];
    let gateway = Gateway::start(GatewayOptions::upstreams(nodes.iter().map(DevNode::ws_url))).await;
    gateway.ready().await;
    let mut watcher = Watcher::start(&gateway.ws_url()).await;
    let mut ticks = interval(Duration::from_millis(200));
    // A little more than 12 seconds: once in the beginning, and twice later.
    for _ in 0..63 {
        ticks.tick().await;
        watcher.lives(&chain).await;
    }
    for tag in ["safe", "finalized"] {
        let asked = |node: &DevNode| node.counters().calls(&format!("eth_getBlockByNumber {tag}"));
        let times: u64 = nodes.iter().map(asked).sum();
        println!("{tag} was asked for {times} times");
        assert!((2..=3).contains(&times), "{tag} was asked for {times} times in 12.4 s");
    }
    drop(watcher);
    gateway.stop().await;
}
