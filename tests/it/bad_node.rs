//! What a node may do wrong: be away, be something else, break off, talk nonsense, hold back logs, tell only half of a
//! reorg. In each the clients' view stays the chain's own.

mod answers;
mod heads;
mod huge;
mod jump;

use std::time::Duration;

use chaincast::devnode::{DevNode, Handshake, Span, Spoil};
use serde_json::json;

use crate::harness::stage::{CHAIN, Stage, new_chain, new_node};
use crate::harness::{Client, Gateway, GatewayOptions, Watcher, http, until};

/// `chaincast_upstream_up` of a node.
fn is_up(gateway: &Gateway, node: &DevNode) -> i64 {
    gateway.metrics.upstream_up.with_label_values(&[CHAIN, &node.address().to_string()]).get()
}

/// Failed attempts to connect to a node.
fn failures(gateway: &Gateway, node: &DevNode) -> u64 {
    gateway.metrics.upstream_connects.with_label_values(&[CHAIN, &node.address().to_string(), "failed"]).get()
}

/// The states of the nodes as the live page shows them.
async fn states(client: &mut Client) -> Vec<String> {
    let answer = client.call("chaincast_status", json!([])).await;
    let upstreams = answer["result"]["upstreams"].as_array().expect("a list of states");
    upstreams.iter().map(|state| state.as_str().expect("a word").to_owned()).collect()
}

/// Beside a node that cannot be used now: says so everywhere, keeps its clients, and goes on when `mend` has made the
/// node usable.
async fn waits_for(node: &DevNode, chain: &chaincast::devnode::SharedChain, mend: impl FnOnce()) {
    let gateway = Gateway::start(GatewayOptions::upstream(node.ws_url()).set("upstream.backoff_max", "200ms")).await;
    until("it has tried twice", async || failures(&gateway, node) >= 2).await;
    assert_eq!(gateway.readiness().await, (503, format!("{CHAIN}: no node is connected\n")));
    assert_eq!(http::get(gateway.admin_address(), "/livez").await.status, 200);
    let metrics = http::get(gateway.admin_address(), "/metrics").await.body;
    let up = format!(r#"chaincast_upstream_up{{chain="default",upstream="{}"}} 0"#, node.address());
    assert!(metrics.lines().any(|line| line == up), "{up} is not in\n{metrics}");
    let mut watcher = Watcher::start(&gateway.ws_url()).await;
    let answer = watcher.client.call("eth_blockNumber", json!([])).await;
    assert_eq!(answer["error"]["code"], -32603, "{answer}");
    assert!(matches!(states(&mut watcher.client).await[0].as_str(), "down" | "connecting"));

    chain.extend(&[2, 3, 4]);
    mend();
    gateway.ready().await;
    assert_eq!((is_up(&gateway, node), states(&mut watcher.client).await[0].as_str()), (1, "up"));
    watcher.lives(chain).await;
    assert_eq!(watcher.client.call("eth_blockNumber", json!([])).await["result"], "0x4");
    drop(watcher);
    gateway.stop().await;
}

#[tokio::test]
async fn a_node_that_is_down_at_the_start_is_waited_for() {
    let chain = new_chain();
    let node = new_node(&chain);
    node.faults().refuse_connections(true).expect("the port is given back");
    waits_for(&node, &chain, || node.faults().refuse_connections(false).expect("the port is free")).await;
}

#[tokio::test]
async fn a_web_page_is_no_node() {
    let chain = new_chain();
    let node = new_node(&chain);
    node.faults().set_handshake(Handshake::Html);
    waits_for(&node, &chain, || node.faults().set_handshake(Handshake::Accept)).await;
}

#[tokio::test]
async fn a_node_that_closes_right_after_connecting_is_tried_again() {
    let chain = new_chain();
    let node = new_node(&chain);
    node.faults().set_handshake(Handshake::AcceptAndClose);
    waits_for(&node, &chain, || node.faults().set_handshake(Handshake::Accept)).await;
}

#[tokio::test]
async fn a_node_that_answers_nonsense_is_tried_again() {
    let chain = new_chain();
    let node = new_node(&chain);
    node.faults().spoil("eth_chainId", Spoil::rewrite(|id| *id = json!({"chain": "main"})), Span::Always);
    waits_for(&node, &chain, || node.faults().unspoil_all()).await;
}

#[tokio::test]
async fn a_node_on_another_chain_is_set_aside() {
    let chain = new_chain();
    let (ours, foreign) = (new_node(&chain), new_node(&chain));
    foreign.faults().set_chain_id(Some(10));
    let options = GatewayOptions::upstreams([ours.ws_url(), foreign.ws_url()]).set("chain.default.chain_id", "1337");
    let gateway = Gateway::start(options).await;
    gateway.ready().await;
    let mut watcher = Watcher::start(&gateway.ws_url()).await;
    until("the foreign node is refused", async || failures(&gateway, &foreign) == 1).await;
    until("the page says so", async || states(&mut watcher.client).await == ["up", "wrong chain"]).await;
    assert_eq!((is_up(&gateway, &ours), is_up(&gateway, &foreign)), (1, 0));
    watcher.lives(&chain).await;
    assert_eq!(foreign.counters().all_calls().keys().filter(|name| name.starts_with("eth_subscribe")).count(), 0);
    drop(watcher);
    gateway.stop().await;
}

#[tokio::test]
async fn a_node_with_another_first_block_is_on_another_chain() {
    let chain = new_chain();
    let (ours, foreign) = (new_node(&chain), new_node(&chain));
    foreign.faults().refuse_connections(true).expect("the port is given back");
    foreign.faults().set_foreign_genesis(true);
    let options = GatewayOptions::upstreams([ours.ws_url(), foreign.ws_url()]).set("upstream.backoff_max", "200ms");
    let gateway = Gateway::start(options).await;
    gateway.ready().await;
    foreign.faults().refuse_connections(false).expect("the port is free");
    let mut watcher = Watcher::start(&gateway.ws_url()).await;
    until("the page says so", async || states(&mut watcher.client).await == ["up", "wrong chain"]).await;
    watcher.lives(&chain).await;
    drop(watcher);
    gateway.stop().await;
}

#[tokio::test]
async fn heads_without_a_parent_are_skipped_and_made_up_for() {
    let stage = Stage::start(&[]).await;
    let mut watcher = stage.watcher().await;
    watcher.lives(&stage.chain).await;
    stage.node.faults().spoil("newHeads", Spoil::NoParentHash, Span::Times(2));
    stage.chain.mine(3);
    stage.chain.mine(4);
    stage.node.caught_up().await;
    watcher.lives(&stage.chain).await;
    let address = stage.node.address().to_string();
    assert_eq!(stage.gateway.metrics.upstream_malformed.with_label_values(&[CHAIN, &address]).get(), 2);
    drop(watcher);
    stage.stop().await;
}

#[tokio::test]
async fn heads_that_come_twice_or_not_at_all_reach_clients_once() {
    let stage = Stage::start(&[]).await;
    let mut watcher = stage.watcher().await;
    watcher.lives(&stage.chain).await;
    stage.node.faults().spoil("newHeads", Spoil::Twice, Span::Times(3));
    for logs in 1..=3 {
        stage.chain.mine(logs);
    }
    watcher.lives(&stage.chain).await;
    stage.node.faults().spoil("newHeads", Spoil::Silent, Span::Times(3));
    for logs in 1..=3 {
        stage.chain.mine(logs);
    }
    stage.node.caught_up().await;
    stage.chain.mine(1);
    watcher.lives(&stage.chain).await;
    drop(watcher);
    stage.stop().await;
}

#[tokio::test]
async fn nonsense_between_the_frames_ends_at_most_the_nodes_connection() {
    let stage = Stage::start(&[]).await;
    let mut watcher = stage.watcher().await;
    watcher.lives(&stage.chain).await;
    for nonsense in [
        "nonsense",
        "{",
        "[]",
        "17",
        r#"{"jsonrpc":"2.0","id":987654,"result":true}"#,
        r#"{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":"0xbad","result":{}}}"#,
        r#"{"jsonrpc":"2.0","method":"eth_subscription"}"#,
    ] {
        until("the node is up", async || is_up(&stage.gateway, &stage.node) == 1).await;
        stage.node.faults().send_text(nonsense);
        stage.chain.mine(2);
        watcher.lives(&stage.chain).await;
    }
    until("the node is up", async || is_up(&stage.gateway, &stage.node) == 1).await;
    stage.node.faults().send_frame(8, &[]);
    watcher.lives(&stage.chain).await;
    assert_eq!(stage.gateway.metrics.panics.get(), 0);
    drop(watcher);
    stage.stop().await;
}

#[tokio::test]
async fn logs_that_are_not_there_yet_are_asked_for_again() {
    let stage = Stage::start(&[]).await;
    let mut watcher = stage.watcher().await;
    watcher.lives(&stage.chain).await;
    for spoil in [Spoil::Empty, Spoil::LogHole, Spoil::DoubledLogIndex, Spoil::OtherBlock] {
        let said = format!("{spoil:?}");
        let before = stage.node.counters().calls("eth_getLogs");
        stage.node.faults().spoil("eth_getLogs", spoil, Span::Times(3));
        stage.chain.mine(5);
        watcher.reach(&stage.chain).await;
        assert_eq!(stage.node.counters().calls("eth_getLogs"), before + 4, "{said}");
    }
    let error = Spoil::Error(-32_000, "unknown block".into());
    stage.node.faults().spoil("eth_getLogs", error, Span::Times(2));
    stage.chain.mine(5);
    watcher.lives(&stage.chain).await;
    drop(watcher);
    stage.stop().await;
}

#[tokio::test]
async fn what_was_mined_while_the_node_was_away_comes_heads_before_logs() {
    let stage = Stage::start(&[("upstream.backoff_max", "200ms")]).await;
    let mut watcher = stage.watcher().await;
    let mut stranger = Watcher::of(&stage.gateway.ws_url(), Some("0x00000000000000000000000000000000000000aa")).await;
    watcher.lives(&stage.chain).await;
    stage.node.faults().refuse_connections(true).expect("the port is given back");
    assert!(stage.node.faults().cut_connections() > 0);
    until("the loss is seen", async || is_up(&stage.gateway, &stage.node) == 0).await;
    assert_eq!(stage.gateway.readiness().await.0, 503);
    for logs in [3, 0, 7, 200, 1] {
        stage.chain.mine(logs);
    }
    stage.node.faults().refuse_connections(false).expect("the port is free");
    watcher.lives(&stage.chain).await;
    stranger.reach(&stage.chain).await;
    assert_eq!((stranger.view.logs(), watcher.view.replaced), (0, 0));

    // The same with a reorg behind the gateway's back.
    stage.node.faults().refuse_connections(true).expect("the port is given back");
    stage.node.faults().cut_connections();
    until("the loss is seen", async || is_up(&stage.gateway, &stage.node) == 0).await;
    stage.chain.reorg(4, 6);
    stage.chain.mine(2);
    stage.node.faults().refuse_connections(false).expect("the port is free");
    watcher.lives(&stage.chain).await;
    stranger.reach(&stage.chain).await;
    assert_eq!((watcher.view.replaced, stranger.view.replaced), (4, 4));
    drop((watcher, stranger));
    stage.stop().await;
}

#[tokio::test]
async fn a_reorg_told_by_its_tip_alone_reaches_clients_whole() {
    let stage = Stage::start(&[]).await;
    let mut watcher = stage.watcher().await;
    let token = stage.chain.economy().tokens()[0].address.to_string().to_lowercase();
    let mut of_token = Watcher::of(&stage.gateway.ws_url(), Some(&token)).await;
    for logs in [10, 20, 30, 40] {
        stage.chain.mine(logs);
    }
    watcher.reach(&stage.chain).await;
    of_token.reach(&stage.chain).await;
    // It joins before the last block, so it may be told of the removal of that block's logs alone.
    let mut late = stage.watcher().await;
    stage.chain.mine(50);
    late.reach(&stage.chain).await;

    stage.chain.replace(3, &[5, 15, 25, 35]);
    for client in [&mut watcher, &mut of_token, &mut late] {
        client.reach(&stage.chain).await;
    }
    assert_eq!((watcher.view.replaced, watcher.view.removed), (3, 30 + 40 + 50));
    assert_eq!((late.view.replaced, late.view.removed), (1, 50));
    assert!((1..120).contains(&of_token.view.removed), "{} removed", of_token.view.removed);

    for (depth, new) in [(1, 1), (2, 2), (4, 5), (3, 1), (1, 2), (5, 6)] {
        stage.chain.reorg(depth, new);
        stage.node.caught_up().await;
        for client in [&mut watcher, &mut of_token, &mut late] {
            client.lives(&stage.chain).await;
        }
    }
    let reorgs: u64 = ["1", "2", "3", "4-7"]
        .iter()
        .map(|depth| stage.gateway.metrics.reorgs.with_label_values(&[CHAIN, depth]).get())
        .sum();
    assert_eq!(reorgs, 7);
    drop((watcher, of_token, late));
    stage.stop().await;
}

#[tokio::test]
async fn a_stalled_node_is_given_up_and_taken_back() {
    let stage = Stage::start(&[("upstream.silence_max", "1s"), ("upstream.connect_timeout", "1s")]).await;
    let mut watcher = stage.watcher().await;
    watcher.lives(&stage.chain).await;
    stage.node.faults().stall(true);
    stage.chain.mine(3);
    let begun = std::time::Instant::now();
    until("the silence is noticed", async || is_up(&stage.gateway, &stage.node) == 0).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "after {:?}", begun.elapsed());
    stage.node.faults().stall(false);
    watcher.lives(&stage.chain).await;
    drop(watcher);
    stage.stop().await;
}
