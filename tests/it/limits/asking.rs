//! Too many subscriptions, calls and messages, and too much in one of them.

use std::time::{Duration, Instant};

use chaincast::devnode::{Span, Spoil};
use serde_json::{Value, json};

use super::{end, limit, refused, retry_after_ms};
use crate::harness::Stage;
use crate::harness::client::Client;

fn heads() -> Value {
    json!(["newHeads"])
}

/// A call as it goes out.
fn request(id: u64, method: &str, params: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string()
}

/// Reads so many answers, notifications left out.
async fn answers(client: &mut Client, count: usize) -> Vec<Value> {
    let mut answers = Vec::new();
    while answers.len() < count {
        let text = client.text().await.expect("the connection stands");
        answers.push(serde_json::from_str(&text).expect("it is JSON"));
    }
    answers
}

#[tokio::test]
async fn subscriptions_of_one_connection() {
    let stage = Stage::start(&[("limits.subscriptions_per_connection", "3")]).await;
    let beside = stage.watcher().await;
    let mut client = stage.client().await;
    let mut ids = Vec::new();
    for params in [heads(), heads(), json!(["logs", {}])] {
        ids.push(client.subscribe(params).await);
    }
    let answer = client.call("eth_subscribe", heads()).await;
    refused(&stage, &answer, "subscriptions", "connection", 1);
    // A mistake is no subscription, and an end makes room.
    assert_eq!(client.call("eth_subscribe", json!(["foo"])).await["error"]["code"], -32601);
    assert_eq!(client.call("eth_unsubscribe", json!([ids[0]])).await["result"], true);
    let again = client.call("eth_subscribe", heads()).await;
    assert!(again["result"].is_string() || limit(&again).0 == "subscribe_rate", "{again}");
    drop(client);
    end(stage, beside).await;
}

#[tokio::test]
async fn subscriptions_of_one_address() {
    let stage = Stage::start(&[("limits.subscriptions_per_address", "5")]).await;
    let beside = stage.watcher().await;
    let mut first = stage.client().await;
    first.subscribe(heads()).await;
    let id = first.subscribe(heads()).await;
    let mut second = stage.client().await;
    second.subscribe(heads()).await;
    refused(&stage, &second.call("eth_subscribe", heads()).await, "subscriptions", "address", 1);
    assert_eq!(first.call("eth_unsubscribe", json!([id])).await["result"], true);
    second.subscribe(heads()).await;
    refused(&stage, &first.call("eth_subscribe", heads()).await, "subscriptions", "address", 2);
    drop(second);
    crate::harness::until("a closed connection makes room", async || {
        first.call("eth_subscribe", heads()).await["result"].is_string()
    })
    .await;
    drop(first);
    end(stage, beside).await;
}

#[tokio::test]
async fn new_subscriptions() {
    let keys = [("limits.subscribes_per_second", "1"), ("limits.subscriptions_per_connection", "4")];
    let stage = Stage::start(&keys).await;
    let beside = stage.watcher().await;
    let mut client = stage.client().await;
    for _ in 0..4 {
        let id = client.subscribe(heads()).await;
        client.call("eth_unsubscribe", json!([id])).await;
    }
    let answer = client.call("eth_subscribe", heads()).await;
    let asked = Instant::now();
    refused(&stage, &answer, "subscribe_rate", "connection", 1);
    let wait = retry_after_ms(&answer);
    assert!((1..=1000).contains(&wait), "{wait} ms");
    crate::harness::until("it may subscribe again", async || {
        client.call("eth_subscribe", heads()).await["result"].is_string()
    })
    .await;
    assert!(asked.elapsed() < Duration::from_millis(wait + 1000), "it was told {wait} ms, not {:?}", asked.elapsed());
    drop(client);
    end(stage, beside).await;
}

#[tokio::test]
async fn calls_by_their_weight() {
    let stage = Stage::start(&[("limits.calls_per_second", "1"), ("limits.calls_burst", "22")]).await;
    let beside = stage.watcher().await;
    let mut client = stage.client().await;
    let logs = json!([{ "fromBlock": "latest" }]);
    assert!(client.call("eth_getLogs", logs.clone()).await["result"].is_array(), "it weighs 20");
    for _ in 0..2 {
        assert!(client.call("eth_gasPrice", json!([])).await["result"].is_string(), "it weighs 1");
    }
    let answer = client.call("eth_gasPrice", json!([])).await;
    refused(&stage, &answer, "calls", "connection", 1);
    assert!((1..=1000).contains(&retry_after_ms(&answer)));
    let answer = client.call("eth_getLogs", logs).await;
    refused(&stage, &answer, "calls", "connection", 2);
    assert!((15_000..=20_000).contains(&retry_after_ms(&answer)), "{answer}");
    for own in ["eth_chainId", "eth_blockNumber", "net_version", "eth_syncing", "eth_accounts"] {
        assert!(client.call(own, json!([])).await.get("result").is_some(), "{own} weighs nothing");
    }
    drop(client);
    end(stage, beside).await;
}

#[tokio::test]
async fn calls_under_way() {
    let stage = Stage::start(&[("limits.calls_in_flight", "1"), ("limits.calls_waiting", "1")]).await;
    let beside = stage.watcher().await;
    let mut client = stage.client().await;
    stage.node.faults().spoil("eth_getBalance", Spoil::Delay(Duration::from_millis(300)), Span::Always);
    let params = json!(["0x00000000000000000000000000000000000000aa", "latest"]);
    for id in 1..=4 {
        client.send(request(id, "eth_getBalance", &params)).await;
    }
    client.send(request(5, "eth_chainId", &json!([]))).await;
    let got = answers(&mut client, 5).await;
    let ids: Vec<_> = got.iter().map(|answer| answer["id"].as_u64().expect("ours")).collect();
    assert_eq!(ids, [3, 4, 5, 1, 2], "refusals and own answers at once, calls one after the other");
    for answer in &got[..2] {
        refused(&stage, answer, "calls_in_flight", "connection", 2);
    }
    assert!(got[3]["result"].is_string() && got[4]["result"].is_string(), "{got:?}");
    stage.node.faults().unspoil_all();
    assert!(client.call("eth_getBalance", params).await["result"].is_string(), "there is room again");
    drop(client);
    end(stage, beside).await;
}

#[tokio::test]
async fn messages_are_slowed_and_none_is_lost() {
    let stage = Stage::start(&[("limits.messages_per_second", "20"), ("limits.messages_burst", "5")]).await;
    let beside = stage.watcher().await;
    let mut client = stage.client().await;
    let begun = Instant::now();
    for id in 1..=20 {
        client.send(request(id, "eth_chainId", &json!([]))).await;
    }
    let ids: Vec<_> = answers(&mut client, 20).await.iter().map(|answer| answer["id"].as_u64()).collect();
    assert!(ids.into_iter().eq((1..=20).map(Some)), "all are answered in their order");
    let took = begun.elapsed();
    assert!((Duration::from_millis(700)..Duration::from_secs(5)).contains(&took), "15 of them at 20/s took {took:?}");
    assert!(stage.gateway.refused("messages", "connection") >= 15);
    drop(client);
    end(stage, beside).await;
}

#[tokio::test]
async fn batches() {
    let keys = [("limits.batch_max", "3"), ("limits.batch_answer_max_bytes", "1000"), ("limits.calls_burst", "100")];
    let stage = Stage::start(&keys).await;
    let beside = stage.watcher().await;
    let mut client = stage.client().await;
    let batch = |count: u64, method: &str, params: &Value| {
        let all: Vec<_> = (1..=count).map(|id| request(id, method, params)).collect();
        format!("[{}]", all.join(","))
    };
    let none = json!([]);
    assert_eq!(client.exchange(batch(3, "eth_chainId", &none)).await.as_array().map(Vec::len), Some(3));
    let answer = client.exchange(batch(4, "eth_chainId", &none)).await;
    let error = answer.get(0).unwrap_or(&answer);
    assert_eq!((&error["id"], &error["error"]["code"]), (&json!(1), &json!(-32600)), "{answer}");
    assert_eq!(error["error"]["message"], "batch too large");
    let answer = client.exchange(batch(3, "eth_getBlockByNumber", &json!(["latest", false]))).await;
    assert_eq!(limit(&answer), ("batch_answer_bytes".to_owned(), "batch".to_owned()));
    assert_eq!(stage.gateway.refused("batch", "message"), 1);
    assert_eq!(stage.gateway.refused("batch_answer_bytes", "batch"), 1);
    drop(client);
    end(stage, beside).await;
}

#[tokio::test]
async fn alternatives_in_filters() {
    let stage = Stage::start(&[("limits.filter_addresses", "2"), ("limits.filter_topics", "3")]).await;
    let beside = stage.watcher().await;
    let mut client = stage.client().await;
    let addresses = |count: u64| (0..count).map(|n| format!("0x{n:040x}")).collect::<Vec<_>>();
    let topics = |count: u64| (0..count).map(|n| format!("0x{n:064x}")).collect::<Vec<_>>();
    client.subscribe(json!(["logs", { "address": addresses(2), "topics": [null, topics(3)] }])).await;
    let answer = client.call("eth_subscribe", json!(["logs", { "address": addresses(3) }])).await;
    refused(&stage, &answer, "filter_addresses", "filter", 1);
    let answer = client.call("eth_subscribe", json!(["logs", { "topics": [null, topics(4)] }])).await;
    refused(&stage, &answer, "filter_topics", "filter", 1);
    drop(client);
    end(stage, beside).await;
}

#[tokio::test]
async fn spans_and_rows_of_get_logs() {
    let keys = [("limits.logs_max_blocks", "5"), ("limits.logs_max_rows", "8"), ("limits.calls_burst", "1000")];
    let stage = Stage::start(&keys).await;
    let mut beside = stage.watcher().await;
    for logs in [1, 1, 1, 1, 1, 9] {
        stage.chain.mine(logs);
    }
    beside.reach(&stage.chain).await;
    let mut client = stage.client().await;
    let ask = async |client: &mut Client, from: &str, to: &str| {
        client.call("eth_getLogs", json!([{ "fromBlock": from, "toBlock": to }])).await
    };
    assert_eq!(ask(&mut client, "0x1", "0x5").await["result"].as_array().map(Vec::len), Some(5));
    refused(&stage, &ask(&mut client, "0x1", "0x6").await, "logs_blocks", "call", 1);
    refused(&stage, &ask(&mut client, "0x0", "latest").await, "logs_blocks", "call", 2);
    refused(&stage, &ask(&mut client, "earliest", "0xffffff").await, "logs_blocks", "call", 3);
    refused(&stage, &ask(&mut client, "0x6", "0x6").await, "logs_rows", "call", 1);
    let by_hash = json!([{ "blockHash": stage.chain.head().hash }]);
    refused(&stage, &client.call("eth_getLogs", by_hash).await, "logs_rows", "call", 2);
    drop(client);
    end(stage, beside).await;
}
