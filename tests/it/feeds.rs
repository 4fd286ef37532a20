//! Best-effort feeds: merged or from one node at a time, shared by equal parameters, passed on only where that is allowed,
//! and bounded.

use std::collections::BTreeMap;

use chaincast::devnode::{DevNode, Kind, SharedChain};
use serde_json::{Value, json};

use crate::harness::geth::Geth;
use crate::harness::stage::{CHAIN, Stage, new_chain, new_node};
use crate::harness::{Client, Gateway, GatewayOptions, until};

/// Waits until a node has so many subscriptions of a kind.
async fn subscribed(node: &DevNode, kind: Kind, count: usize) {
    until("the node is subscribed to", async || node.counters().subscriptions(kind) == count).await;
}

/// Mines until the client has been told `enough` pending transactions; how often it was told each.
async fn pending(client: &mut Client, chain: &SharedChain, enough: usize) -> BTreeMap<String, usize> {
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    while told.len() < enough {
        chain.mine(1);
        let (_, hash) = client.notification().await.expect("the connection stands");
        *told.entry(hash.as_str().expect("it is a hash").to_owned()).or_default() += 1;
    }
    told
}

#[tokio::test]
async fn a_pending_transaction_that_two_nodes_tell_comes_once() {
    let chain = new_chain();
    let nodes = [new_node(&chain), new_node(&chain)];
    let gateway = Gateway::start(GatewayOptions::upstreams(nodes.each_ref().map(DevNode::ws_url))).await;
    gateway.ready().await;
    let mut client = Client::connect(&gateway.ws_url()).await;
    client.subscribe(json!(["newPendingTransactions"])).await;
    for node in &nodes {
        subscribed(node, Kind::NewPendingTransactions, 1).await;
    }
    let told = pending(&mut client, &chain, 40).await;
    assert!(told.values().all(|times| *times == 1), "{told:?}");
    // One goes: the other one tells on.
    nodes[0].faults().refuse_connections(true).expect("the port is given back");
    nodes[0].faults().cut_connections();
    pending(&mut client, &chain, 10).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_state_comes_from_one_node_at_a_time() {
    let chain = new_chain();
    let nodes = [new_node(&chain), new_node(&chain)];
    let gateway = Gateway::start(GatewayOptions::upstreams(nodes.each_ref().map(DevNode::ws_url))).await;
    let all_up = async || {
        let up =
            |n: &DevNode| gateway.metrics.upstream_up.with_label_values(&[CHAIN, &n.address().to_string()]).get() == 1;
        nodes.iter().all(up)
    };
    until("both nodes are up", all_up).await;
    let mut clients = [Client::connect(&gateway.ws_url()).await, Client::connect(&gateway.ws_url()).await];
    for client in &mut clients {
        client.subscribe(json!(["syncing"])).await;
    }
    subscribed(&nodes[0], Kind::Syncing, 1).await;
    assert_eq!(nodes[1].counters().subscriptions(Kind::Syncing), 0);
    nodes[0].faults().refuse_connections(true).expect("the port is given back");
    nodes[0].faults().cut_connections();
    subscribed(&nodes[1], Kind::Syncing, 1).await;
    nodes[1].faults().set_syncing(true);
    for client in &mut clients {
        assert_eq!(client.notification().await.expect("the connection stands").1["syncing"], true);
    }
    gateway.stop().await;
}

#[tokio::test]
async fn what_geth_tells_beyond_the_usual_is_passed_on_where_that_is_allowed() {
    let geth = Geth::start().await;
    let contract = geth.deploy_tick().await;
    let _traffic = geth.traffic(&contract);
    let options =
        GatewayOptions::upstream(geth.ws_url()).set("chain.default.pass_subscriptions", "[transactionReceipts]");
    let gateway = Gateway::start(options).await;
    gateway.ready().await;
    let mut own = Client::connect(&geth.ws_url()).await;
    let mut ours = [Client::connect(&gateway.ws_url()).await, Client::connect(&gateway.ws_url()).await];
    own.subscribe(json!(["transactionReceipts"])).await;
    for client in &mut ours {
        client.subscribe(json!(["transactionReceipts"])).await;
    }
    let block_of = |receipts: &Value| receipts[0]["blockNumber"].clone();
    let mut first = Vec::new();
    for client in &mut ours {
        first.push(client.notification().await.expect("receipts come").1);
    }
    assert_eq!(first[0], first[1], "one stream for both");
    let same = loop {
        let (_, receipts) = own.notification().await.expect("receipts come");
        if block_of(&receipts) == block_of(&first[0]) {
            break receipts;
        }
    };
    assert_eq!(first[0], same);
    gateway.stop().await;
}

#[tokio::test]
async fn other_kinds_are_refused_and_distinct_feeds_are_bounded() {
    let stage = Stage::start(&[("chain.default.pass_subscriptions", "[mine]"), ("limits.feeds", "2")]).await;
    let mut client = stage.client().await;
    let refused = client.call("eth_subscribe", json!(["transactionReceipts"])).await;
    assert_eq!(refused["error"]["code"], -32601, "{refused}");
    client.subscribe(json!(["mine", { "a": 1 }])).await;
    client.subscribe(json!(["syncing"])).await;
    let over = client.call("eth_subscribe", json!(["mine", { "a": 2 }])).await;
    assert_eq!((&over["error"]["code"], &over["error"]["data"]["limit"]), (&json!(-32005), &json!("feeds")), "{over}");
    let mut other = stage.client().await;
    let shared = other.subscribe(json!(["mine", { "a": 1 }])).await;
    let freed = client.call("eth_unsubscribe", json!([shared])).await;
    assert_eq!(freed["result"], true, "equal streams have equal ids");
    assert_eq!(other.call("eth_unsubscribe", json!([shared])).await["result"], true);
    client.subscribe(json!(["mine", { "a": 2 }])).await;
    // What the node refuses does not end the connection to it, nor the stream.
    let mut watcher = stage.watcher().await;
    watcher.lives(&stage.chain).await;
    drop(watcher);
    stage.stop().await;
}
