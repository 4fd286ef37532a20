//! What clients can count on in subscriptions: best-effort feeds on demand, ids, the answer first, and the order within
//! one connection.

use chaincast::devnode::Kind;
use serde_json::{Value, json};

use crate::harness::{Client, Gateway, GatewayOptions, Stage, until};

#[tokio::test]
async fn pending_transactions_are_asked_of_the_node_only_while_someone_listens() {
    let stage = Stage::start(&[]).await;
    let upstream = || stage.node.counters().subscriptions(Kind::NewPendingTransactions);
    assert_eq!(upstream(), 0);
    let (mut hashes, mut full) = (stage.client().await, stage.client().await);
    let id = hashes.subscribe(json!(["newPendingTransactions"])).await;
    until("hashes are asked for", async || upstream() == 1).await;
    full.subscribe(json!(["newPendingTransactions", true])).await;
    until("full ones are asked for beside", async || upstream() == 2).await;

    stage.chain.mine(1);
    let (from, hash) = hashes.notification().await.expect("a hash comes");
    let (_, transaction) = full.notification().await.expect("a transaction comes");
    assert_eq!((from, &transaction["hash"]), (id.clone(), &hash));

    assert_eq!(hashes.call("eth_unsubscribe", json!([id])).await["result"], true);
    drop(full);
    until("nothing is asked for any more", async || upstream() == 0).await;
    stage.stop().await;
}

#[tokio::test]
async fn a_pending_transaction_that_two_nodes_tell_comes_once() {
    let stage = Stage::start(&[]).await;
    let second = crate::harness::stage::new_node(&stage.chain);
    let both = Gateway::start(GatewayOptions::upstreams([stage.node.ws_url(), second.ws_url()])).await;
    both.ready().await;
    let mut client = Client::connect(&both.ws_url()).await;
    client.subscribe(json!(["newPendingTransactions"])).await;
    let asked = || [&stage.node, &second].map(|node| node.counters().subscriptions(Kind::NewPendingTransactions));
    until("both nodes are asked", async || asked() == [1, 1]).await;
    let mut seen = std::collections::HashSet::new();
    for _ in 0..5 {
        stage.chain.mine(0);
        for _ in 0..stage.chain.options().pending_per_block {
            let (_, hash) = client.notification().await.expect("a hash comes");
            assert!(seen.insert(hash.to_string()), "{hash} comes twice");
        }
    }
    drop(client);
    both.stop().await;
    stage.stop().await;
}

#[tokio::test]
async fn ids_are_equal_on_all_connections_and_differ_on_one() {
    let stage = Stage::start(&[]).await;
    let (mut a, mut b) = (stage.client().await, stage.client().await);
    let first = a.subscribe(json!(["newHeads"])).await;
    assert_eq!(first, b.subscribe(json!(["newHeads", {}])).await);
    let second = a.subscribe(json!(["newBlockHeaders"])).await;
    assert_ne!(first, second);
    assert_eq!(a.call("eth_unsubscribe", json!([second])).await["result"], true);
    assert_ne!(second, a.subscribe(json!(["newHeads"])).await, "an id is never given twice");
    let digits = first.strip_prefix("0x").expect("a quantity");
    assert!(digits.len() == 32 && !digits.starts_with('0'), "{first}");
    stage.stop().await;
}

#[tokio::test]
async fn three_equal_subscriptions_of_one_connection_each_get_every_head_in_order() {
    let stage = Stage::start(&[]).await;
    let mut client = stage.client().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(client.subscribe(json!(["newHeads"])).await);
    }
    for _ in 0..5 {
        let block = stage.chain.mine(2);
        for id in &ids {
            let (from, head) = client.notification().await.expect("a head comes");
            assert_eq!((&from, &head["hash"]), (id, &json!(block.hash)), "in the order of subscribing");
        }
    }
    stage.stop().await;
}

#[tokio::test]
async fn logs_of_several_subscriptions_come_by_their_place_in_the_block() {
    let stage = Stage::start(&[]).await;
    let mut client = stage.client().await;
    let address = stage.chain.economy().tokens()[0].address;
    let all = client.subscribe(json!(["logs", {}])).await;
    let some = client.subscribe(json!(["logs", { "address": address }])).await;
    let block = stage.chain.mine(40);
    let logs: Vec<Value> = stage
        .chain
        .block(block.hash)
        .expect("it was mined")
        .logs_json(false)
        .iter()
        .map(|log| serde_json::from_str(log).expect("it is JSON"))
        .collect();
    let of_token = |log: &&Value| log["address"] == json!(address);
    assert!(logs.iter().any(|log| of_token(&log)), "the block has logs of the token");
    let want = logs.iter().flat_map(|log| {
        let both = of_token(&log).then(|| (some.clone(), log.clone()));
        std::iter::once((all.clone(), log.clone())).chain(both)
    });
    for want in want {
        assert_eq!(client.notification().await.expect("a log comes"), want);
    }
    stage.stop().await;
}

#[tokio::test]
async fn in_a_batch_notifications_follow_the_whole_answer() {
    let stage = Stage::start(&[]).await;
    let mut client = stage.client().await;
    let call =
        |id: u64, method: &str, params: Value| json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
    let batch = json!([
        call(1, "eth_subscribe", json!(["newHeads"])),
        call(2, "eth_getBalance", json!([format!("0x{:040x}", 1), "latest"])),
        call(3, "eth_subscribe", json!(["logs", {}])),
    ]);
    client.send(batch.to_string()).await;
    let answer: Value = serde_json::from_str(&client.text().await.expect("an answer comes")).expect("it is JSON");
    let ids: Vec<_> = answer.as_array().expect("a batch").iter().map(|a| a["id"].as_u64()).collect();
    assert_eq!(ids, [Some(1), Some(2), Some(3)]);
    let block = stage.chain.mine(1);
    let (heads, head) = client.notification().await.expect("a head comes");
    let (logs, log) = client.notification().await.expect("its log follows");
    assert_eq!((&json!(heads), &json!(logs)), (&answer[0]["result"], &answer[2]["result"]));
    assert_eq!((&head["hash"], &log["blockHash"]), (&json!(block.hash), &json!(block.hash)));
    stage.stop().await;
}
