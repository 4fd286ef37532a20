//! Too many connections, in all and of one address, and too many handshakes.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::AsyncReadExt;

use super::{end, limit, refused, retry_after_ms};
use crate::harness::client::End;
use crate::harness::{Stage, http, until};

/// Longest stay of a client whose address has too many connections.
const STAY: Duration = Duration::from_secs(2);

/// It is let in, told why it must go, and closed with 1013.
async fn is_told_and_closed(stage: &Stage, name: &str) {
    let begun = Instant::now();
    let mut client = stage.client().await;
    for method in ["eth_chainId", "eth_getBlockByNumber"] {
        let answer = client.call(method, json!([])).await;
        assert_eq!(limit(&answer), (name.to_owned(), "address".to_owned()));
        assert!((1..=10_000).contains(&retry_after_ms(&answer)));
    }
    let answer = client.call("eth_subscribe", json!(["newHeads"])).await;
    assert_eq!(limit(&answer), (name.to_owned(), "address".to_owned()));
    assert_eq!(client.end().await, End::Closed(1013, "too many connections from this address".to_owned()));
    assert!(begun.elapsed() < STAY, "closed after {:?}", begun.elapsed());
}

#[tokio::test]
async fn connections_of_one_address() {
    let stage = Stage::start(&[("limits.connections_per_address", "2")]).await;
    let beside = stage.watcher().await;
    let second = stage.client().await;
    is_told_and_closed(&stage, "connections").await;
    assert_eq!(stage.gateway.refused("connections", "address"), 3);
    until("the close is counted", async || stage.gateway.closed("address_limit") == 1).await;

    let body = r#"{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}"#;
    let reply = http::post(stage.gateway.address(), body).await;
    refused(&stage, &reply.json(), "connections", "address", 4);
    assert_eq!(reply.headers.get("connection").map(String::as_str), Some("close"));

    drop(second);
    let clients = stage.gateway.metrics.connections.clone();
    until("the second has gone", async || clients.get() == 1).await;
    let mut third = stage.client().await;
    assert_eq!(third.call("eth_chainId", json!([])).await["result"], "0x539", "there is room again");
    drop(third);
    end(stage, beside).await;
}

#[tokio::test]
async fn new_connections_of_one_address() {
    let keys = [("limits.connects_per_second", "1"), ("limits.connects_burst", "2")];
    let stage = Stage::start(&keys).await;
    let beside = stage.watcher().await;
    let _second = stage.client().await;
    is_told_and_closed(&stage, "connect_rate").await;
    assert_eq!(stage.gateway.refused("connect_rate", "address"), 3);
    end(stage, beside).await;
}

#[tokio::test]
async fn connections_in_all() {
    let stage = Stage::start(&[("limits.connections_max", "2")]).await;
    let beside = stage.watcher().await;
    let second = stage.client().await;
    let mut third = http::connect(stage.gateway.address()).await;
    assert!(matches!(third.read(&mut [0]).await, Ok(0) | Err(_)), "it is dropped without a word");
    assert_eq!(stage.gateway.refused("connections", "server"), 1);
    drop(second);
    until("the second has gone", async || stage.gateway.metrics.connections.get() == 1).await;
    let _fourth = stage.client().await;
    end(stage, beside).await;
}

#[tokio::test]
async fn handshakes_that_are_not_done() {
    let keys = [("limits.handshakes_max", "2"), ("server.shards", "1"), ("limits.header_timeout", "30s")];
    let stage = Stage::start(&keys).await;
    let beside = stage.watcher().await;
    stage.refuses_a_third_handshake().await;
    end(stage, beside).await;
}
