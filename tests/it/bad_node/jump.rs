//! A chain that goes on so far that the blocks between cannot be made up for: the subscriptions end, and say why.

use std::time::Instant;

use chaincast::devnode::{DevOptions, SharedChain, Span, Spoil};

use super::is_up;
use crate::harness::client::End;
use crate::harness::stage::{CHAIN, new_node};
use crate::harness::{Gateway, GatewayOptions, Watcher, until};

/// Many more than `upstream.reorg_max_blocks`.
const FAR: usize = 100_000;

/// The client is told of a gap, and one that comes after it gets the live stream.
async fn ends_and_comes_back(gateway: &Gateway, chain: &SharedChain, mut watcher: Watcher, gaps: u64) -> Watcher {
    assert_eq!(watcher.client.end().await, End::Closed(1013, "gap".into()));
    assert_eq!(gateway.gaps(CHAIN), gaps);
    until("its end is counted", async || gateway.closed("gap") == gaps).await;
    until("the logs are there", async || gateway.metrics.logs_waiting.with_label_values(&[CHAIN]).get() == 0).await;
    let mut again = Watcher::start(&gateway.ws_url()).await;
    for _ in 0..3 {
        again.lives(chain).await;
    }
    again
}

#[tokio::test]
async fn a_jump_too_far_to_be_filled_ends_the_subscriptions() {
    let chain = SharedChain::new(DevOptions { pending_per_block: 0, ..DevOptions::default() });
    let node = new_node(&chain);
    let gateway = Gateway::start(GatewayOptions::upstream(node.ws_url()).set("upstream.backoff_max", "200ms")).await;
    gateway.ready().await;
    let mut watcher = Watcher::start(&gateway.ws_url()).await;
    watcher.lives(&chain).await;

    // On a connection that stands: the node was silent all the time.
    node.faults().spoil("newHeads", Spoil::Silent, Span::Always);
    let begun = Instant::now();
    for _ in 0..FAR {
        chain.mine(0);
    }
    node.caught_up().await;
    println!("{FAR} blocks were mined in {} ms", begun.elapsed().as_millis());
    node.faults().unspoil_all();
    chain.mine(1);
    let watcher = ends_and_comes_back(&gateway, &chain, watcher, 1).await;

    // While the node was away.
    node.faults().refuse_connections(true).expect("the port is given back");
    node.faults().cut_connections();
    until("the loss is seen", async || is_up(&gateway, &node) == 0).await;
    for _ in 0..2_000 {
        chain.mine(0);
    }
    node.faults().refuse_connections(false).expect("the port is free");
    let watcher = ends_and_comes_back(&gateway, &chain, watcher, 2).await;
    drop(watcher);
    gateway.stop().await;
}
