//! A client in front of a node: what it gets equals what the chain says, and each fault does what its name says.
//!
//! Owns the common parts of these tests. The faults are tried in `tests/faults.rs`, the calls in `tests/calls.rs`.

mod calls;
mod faults;

use std::future::Future;
use std::net::TcpListener;
use std::time::Duration;

use alloy_primitives::B256;
use jsonrpsee::core::client::{ClientT, Subscription, SubscriptionClientT, SubscriptionKind};
use jsonrpsee::core::params::ArrayParams;
use jsonrpsee::rpc_params;
use jsonrpsee::ws_client::{WsClient, WsClientBuilder};
use serde_json::Value;
use serde_json::value::RawValue;

use super::*;

/// Far beyond what anything here takes; passing it means that something never comes.
const PATIENCE: Duration = Duration::from_secs(20);
/// What the client keeps for a test that reads late.
const CLIENT_BUFFER: usize = 100_000;

type Notices = Subscription<Box<RawValue>>;

fn node(chain: &SharedChain) -> DevNode {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    DevNode::start(chain.clone(), listener).expect("a node")
}

fn chain_and_node() -> (SharedChain, DevNode) {
    let chain = SharedChain::new(DevOptions::default());
    let node = node(&chain);
    (chain, node)
}

async fn connect(node: &DevNode) -> WsClient {
    let builder = WsClientBuilder::default().max_buffer_capacity_per_subscription(CLIENT_BUFFER);
    soon(builder.build(node.ws_url())).await.expect("a connection")
}

async fn subscribe(client: &WsClient, params: ArrayParams) -> Notices {
    soon(client.subscribe("eth_subscribe", params, "eth_unsubscribe")).await.expect("a subscription")
}

/// Fails rather than waits for ever.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
}

async fn next(notices: &mut Notices) -> String {
    soon(notices.next()).await.expect("the subscription goes on").expect("JSON").get().to_owned()
}

async fn take(notices: &mut Notices, count: usize) -> Vec<String> {
    let mut taken = Vec::with_capacity(count);
    while taken.len() < count {
        taken.push(next(notices).await);
    }
    taken
}

async fn call(client: &WsClient, method: &str, params: ArrayParams) -> Value {
    soon(client.request(method, params)).await.expect("an answer")
}

async fn call_error(client: &WsClient, method: &str, params: ArrayParams) -> (i32, String) {
    match soon(client.request::<Value, _>(method, params)).await {
        Err(jsonrpsee::core::ClientError::Call(error)) => (error.code(), error.message().to_owned()),
        other => panic!("{method} should be refused, got {other:?}"),
    }
}

/// Passes when nothing of the kind comes before something that the node sends later on the same connection.
async fn nothing_before_an_answer(client: &WsClient, notices: &mut Notices) {
    call(client, "eth_blockNumber", rpc_params![]).await;
    assert!(futures_util::poll!(Box::pin(notices.next())).is_pending(), "something was announced");
}

fn block(chain: &SharedChain, hash: B256) -> std::sync::Arc<Block> {
    chain.block(hash).expect("a known block")
}

fn headers(chain: &SharedChain, blocks: &[BlockRef]) -> Vec<String> {
    blocks.iter().map(|b| block(chain, b.hash).header_json()).collect()
}

fn logs(chain: &SharedChain, blocks: &[BlockRef], removed: bool) -> Vec<String> {
    blocks.iter().flat_map(|b| block(chain, b.hash).logs_json(removed)).collect()
}

#[tokio::test]
async fn heads_and_logs_arrive_as_the_chain_says_in_growth_and_reorgs() {
    let (chain, node) = chain_and_node();
    let client = connect(&node).await;
    let mut heads = subscribe(&client, rpc_params!["newHeads"]).await;
    let mut all = subscribe(&client, rpc_params!["logs", serde_json::json!({})]).await;

    let mined: Vec<BlockRef> = (0..50).map(|n| chain.mine(n % 7)).collect();
    assert_eq!(take(&mut heads, 50).await, headers(&chain, &mined));
    let expected = logs(&chain, &mined, false);
    assert_eq!(take(&mut all, expected.len()).await, expected);

    let new = chain.reorg(5, 6);
    assert_eq!(take(&mut heads, 1).await, headers(&chain, &new[5..]), "the tip alone, as Geth does");
    let expected = [logs(&chain, &mined[45..], true), logs(&chain, &new, false)].concat();
    assert_eq!(take(&mut all, expected.len()).await, expected, "removed logs oldest first, then the new ones");
    nothing_before_an_answer(&client, &mut heads).await;
}

#[tokio::test]
async fn every_move_of_the_head_is_told_in_order_back_and_forth_and_down() {
    let (chain, node) = chain_and_node();
    node.faults().announce_every_block(true);
    let client = connect(&node).await;
    let mut heads = subscribe(&client, rpc_params!["newHeads"]).await;
    let mut all = subscribe(&client, rpc_params!["logs", serde_json::json!({})]).await;

    let a = chain.extend(&[4, 4, 4, 4]);
    let b = chain.replace(2, &[3, 3, 3]);
    chain.set_head(a[3].hash);
    chain.set_head(a[0].hash);
    let expected = headers(&chain, &[&a[..], &b[..], &a[2..], &a[..1]].concat());
    assert_eq!(take(&mut heads, expected.len()).await, expected);
    let expected = [
        logs(&chain, &a, false),
        logs(&chain, &a[2..], true),
        logs(&chain, &b, false),
        logs(&chain, &b, true),
        logs(&chain, &a[2..], false),
        logs(&chain, &a[1..], true),
    ];
    let expected = expected.concat();
    assert_eq!(take(&mut all, expected.len()).await, expected);
}

#[tokio::test]
async fn a_subscriber_gets_the_logs_its_filter_names() {
    let (chain, node) = chain_and_node();
    let client = connect(&node).await;
    let economy = chain.economy();
    let (token, holder) = (economy.tokens()[1].address.to_string(), economy.holders()[3].into_word().to_string());
    let by_token = serde_json::json!({"address": token});
    let by_receiver = serde_json::json!({"topics": [TRANSFER_TOPIC.to_string(), null, holder]});
    let mut of_token = subscribe(&client, rpc_params!["logs", by_token]).await;
    let mut to_holder = subscribe(&client, rpc_params!["logs", by_receiver]).await;

    let mined = chain.mine(500);
    let has = |part: String| move |log: &String| log.contains(&part);
    let all = logs(&chain, &[mined], false);
    let expected: Vec<String> =
        all.iter().filter(|l| has(format!("\"address\":\"{}\"", token.to_lowercase()))(l)).cloned().collect();
    assert!(!expected.is_empty() && expected.len() < 500);
    assert_eq!(take(&mut of_token, expected.len()).await, expected);
    let expected: Vec<String> = all.iter().filter(|l| has(format!("\"{holder}\"],\"data\""))(l)).cloned().collect();
    assert!(!expected.is_empty());
    assert_eq!(take(&mut to_holder, expected.len()).await, expected);
}

#[tokio::test]
async fn pending_transactions_are_told_by_hash_or_whole() {
    let (chain, node) = chain_and_node();
    let client = connect(&node).await;
    let mut hashes = subscribe(&client, rpc_params!["newPendingTransactions"]).await;
    let mut whole = subscribe(&client, rpc_params!["newPendingTransactions", true]).await;
    chain.mine(1);
    let hashes = take(&mut hashes, 3).await;
    for (hash, whole) in hashes.iter().zip(take(&mut whole, 3).await) {
        let whole: Value = serde_json::from_str(&whole).expect("JSON");
        assert_eq!(*hash, whole["hash"].to_string());
        assert!(whole["blockHash"].is_null());
        let found = call(&client, "eth_getTransactionByHash", rpc_params![whole["hash"].clone()]).await;
        assert_eq!(found, whole);
    }
}

#[tokio::test]
async fn what_happens_right_after_the_answer_to_subscribe_is_announced() {
    let (chain, node) = chain_and_node();
    let client = connect(&node).await;
    for _ in 0..200 {
        let mut heads = subscribe(&client, rpc_params!["newHeads"]).await;
        let mined = chain.mine(0);
        assert_eq!(next(&mut heads).await, block(&chain, mined.hash).header_json());
        let SubscriptionKind::Subscription(id) = heads.kind().clone() else { panic!("a subscription has an id") };
        assert_eq!(call(&client, "eth_unsubscribe", rpc_params![id]).await, true);
    }
    assert_eq!(node.counters().subscriptions(Kind::NewHeads), 0);
}

#[tokio::test]
async fn several_nodes_stand_on_one_chain_and_may_come_and_go() {
    let chain = SharedChain::new(DevOptions::default());
    let (first, second) = (node(&chain), node(&chain));
    chain.mine(3);
    let address = first.address();
    soon(first.stop()).await;
    let mined = chain.mine(3);
    soon(second.caught_up()).await;
    assert_eq!(second.head(), mined);
    let listener = TcpListener::bind(address).expect("the port was given back");
    let third = DevNode::start(chain.clone(), listener).expect("a node");
    assert_eq!(third.head(), mined, "a node starts up to date");
    let client = connect(&third).await;
    assert_eq!(call(&client, "eth_blockNumber", rpc_params![]).await, "0x2");
}

#[tokio::test]
async fn a_dropped_node_ends_its_connections_and_gives_the_port_back() {
    let (_chain, node) = chain_and_node();
    let client = connect(&node).await;
    let (counters, faults, address) = (node.counters(), node.faults().clone(), node.address());
    assert_eq!(counters.connections(), 1);
    drop(node);
    TcpListener::bind(address).expect("the port is free while other handles remain");
    soon(client.on_disconnect()).await;
    assert_eq!(faults.send_text("nobody listens"), 0);
}
