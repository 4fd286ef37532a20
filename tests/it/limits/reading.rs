//! Clients that do not read, or not fast enough: closed with 1013, and until then nothing of what they got is wrong.

use serde_json::json;

use crate::harness::client::{Client, End};
use crate::harness::stage::CHAIN;
use crate::harness::{Stage, Watcher, until};

/// Small buffers on both sides, so that a client that does not read is noticed after kilobytes.
const BUFFERS: [(&str, &str); 2] = [("limits.send_buffer_bytes", "4096"), ("server.close_timeout", "20s")];

/// What a client that does not read is owed: little beside what the journal holds, so that no other bound is passed.
const BLOCKS: usize = 20;

/// Subscriptions to heads that are open.
fn head_subscriptions(stage: &Stage) -> i64 {
    stage.gateway.metrics.subscriptions.with_label_values(&[CHAIN, "newHeads"]).get()
}

/// The stuck client is given up; then it reads what it was sent, which must be exact as far as it goes.
async fn is_given_up(keys: &[(&str, &str)], reason: &str, label: &str) {
    let keys = [&BUFFERS, keys].concat();
    let stage = Stage::start(&keys).await;
    let mut beside = stage.watcher().await;
    let mut stuck = Watcher::on(Client::narrow(stage.gateway.address()).await, None).await;
    assert_eq!(head_subscriptions(&stage), 2);
    for _ in 0..BLOCKS {
        stage.chain.mine(50);
        beside.reach(&stage.chain).await;
    }
    until("it is given up", async || head_subscriptions(&stage) == 1).await;
    assert!(stage.gateway.metrics.outbox_bytes.with_label_values(&[CHAIN]).get() < 2 << 20);
    let end = loop {
        if let Err(end) = stuck.step().await {
            break end;
        }
    };
    assert_eq!(end, End::Closed(1013, reason.to_owned()));
    assert!(stuck.view.logs() < BLOCKS * 50, "it was not behind");
    drop(stuck);
    until("the close is counted", async || stage.gateway.closed(label) == 1).await;
    super::end(stage, beside).await;
}

#[tokio::test]
async fn a_client_too_many_blocks_behind() {
    is_given_up(&[("limits.lag_max_blocks", "5")], "slow consumer", "slow_consumer").await;
}

#[tokio::test]
async fn a_client_too_far_behind_in_time() {
    let keys = [("limits.lag_max", "1s"), ("limits.lag_max_blocks", "100000"), ("limits.write_stall_max", "60s")];
    is_given_up(&keys, "slow consumer", "slow_consumer").await;
}

#[tokio::test]
async fn a_socket_that_takes_no_byte() {
    let keys = [("limits.write_stall_max", "1s"), ("limits.lag_max_blocks", "100000"), ("limits.lag_max", "10m")];
    is_given_up(&keys, "socket not read", "write_stalled").await;
}

#[tokio::test]
async fn a_slow_client_within_the_bounds_gets_everything() {
    let stage = Stage::start(&BUFFERS).await;
    let mut beside = stage.watcher().await;
    let mut slow = Watcher::on(Client::narrow(stage.gateway.address()).await, None).await;
    for _ in 0..10 {
        stage.chain.mine(100);
    }
    stage.chain.reorg(3, 4);
    beside.reach(&stage.chain).await;
    let full = stage.gateway.metrics.outbox_clients.with_label_values(&[CHAIN]);
    until("its socket is full", async || full.get() == 1).await;
    slow.reach(&stage.chain).await;
    assert_eq!((slow.view.replaced, beside.view.replaced), (3, 3));
    until("it has caught up", async || full.get() == 0).await;
    slow.lives(&stage.chain).await;
    drop(slow);
    super::end(stage, beside).await;
}

#[tokio::test]
async fn a_client_that_asks_and_does_not_read_is_read_no_more() {
    let keys = [&BUFFERS[..], &[("limits.outbox_max_bytes", "65536"), ("limits.calls_burst", "100000")]].concat();
    let stage = Stage::start(&keys).await;
    let mut beside = stage.watcher().await;
    stage.chain.mine(100);
    beside.reach(&stage.chain).await;
    let mut client = Client::narrow(stage.gateway.address()).await;
    let ask = json!({"jsonrpc": "2.0", "id": 1, "method": "eth_getLogs", "params": [{ "blockHash": stage.chain.head().hash }]});
    let batch = format!("[{}]", vec![ask.to_string(); 10].join(","));
    for _ in 0..20 {
        client.send(batch.clone()).await;
    }
    let held = stage.gateway.metrics.outbox_bytes.with_label_values(&[CHAIN]);
    until("answers are held for it", async || held.get() > 0).await;
    beside.lives(&stage.chain).await;
    for _ in 0..20 {
        let text = client.text().await.expect("all are answered, as it reads after all");
        let answers: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        assert_eq!(answers.as_array().map(Vec::len), Some(10));
    }
    drop(client);
    super::end(stage, beside).await;
}

#[tokio::test]
async fn a_client_without_pongs() {
    let stage = Stage::start(&[("server.ping_interval", "1s"), ("server.pong_timeout", "1s")]).await;
    let mut beside = stage.watcher().await;
    let mut mute = stage.client().await;
    mute.subscribe(json!(["newHeads"])).await;
    // A client answers pings while it is read; this one is not.
    until("it is given up", async || {
        beside.client.call("eth_chainId", json!([])).await;
        head_subscriptions(&stage) == 1
    })
    .await;
    assert_eq!(mute.end().await, End::Closed(1008, "no pong".to_owned()));
    drop(mute);
    until("the close is counted", async || stage.gateway.closed("pong_timeout") == 1).await;
    super::end(stage, beside).await;
}
