//! The public listener with a certificate: the same stream, the same answers and the same limits by TLS, what is refused
//! before it, and what is wrong with the files.

mod files;
mod handshakes;

use std::sync::Arc;

use chaincast::devnode::SharedChain;
use rustls::version::{TLS12, TLS13};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use crate::harness::client::{Client, End, PATIENCE};
use crate::harness::http::{self, Reply};
use crate::harness::stage::CHAIN;
use crate::harness::tls::{self, Files};
use crate::harness::{Crowd, Stage, Watcher, until};

/// TLS handshakes that ended so.
fn handshakes(stage: &Stage, outcome: &str) -> u64 {
    stage.gateway.metrics.tls_handshakes.with_label_values(&[outcome]).get()
}

/// All logs of a chain, as a request.
fn all_logs() -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "eth_getLogs", "params": [{"fromBlock": "0x1", "toBlock": "latest"}]})
}

/// A chain with so many logs that an answer about them is larger than a mebibyte.
async fn many_logs(chain: &SharedChain, beside: &mut Watcher) {
    for _ in 0..4 {
        chain.mine(700);
        beside.reach(chain).await;
    }
}

#[tokio::test]
async fn heads_logs_and_reorgs_are_exact() {
    let stage = Stage::start_tls(&Files::new("exact"), &[]).await;
    assert!(stage.gateway.ws_url().starts_with("wss://"));
    let mut watcher = stage.watcher().await;
    for logs in [3, 0, 200, 1] {
        stage.chain.mine(logs);
        watcher.reach(&stage.chain).await;
    }
    stage.chain.reorg(3, 4);
    watcher.reach(&stage.chain).await;
    assert_eq!(watcher.view.replaced, 3);
    watcher.lives(&stage.chain).await;
    assert_eq!((handshakes(&stage, "ok"), stage.gateway.metrics.panics.get()), (1, 0));
    stage.stop().await;
}

#[tokio::test]
async fn large_answers_come_whole() {
    let stage = Stage::start_tls(&Files::new("large"), &[]).await;
    let mut beside = stage.watcher().await;
    many_logs(&stage.chain, &mut beside).await;
    let text = |value: &Value| value["result"].to_string();
    let want = http::post(stage.node.address(), &all_logs().to_string()).await.json();
    assert!(text(&want).len() > 1 << 20, "only {} bytes", text(&want).len());

    let mut client = stage.client().await;
    assert!(text(&client.exchange(all_logs().to_string()).await) == text(&want), "by WebSocket");
    for version in [&TLS12, &TLS13] {
        let config = Arc::new(tls::trusting(&[version]));
        let mut stream = tls::connect(stage.gateway.address(), config).await.expect("the gateway speaks it");
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
        let request = http::posting(stage.gateway.address(), "application/json", &all_logs().to_string());
        stream.write_all(request.as_bytes()).await.expect("it is read");
        let mut reply = Vec::new();
        // An end without close_notify would be an error here.
        stream.read_to_end(&mut reply).await.expect("it is ended properly");
        let reply = Reply::read(&String::from_utf8(reply).expect("it is text")).expect("an answer comes");
        assert_eq!(reply.status, 200);
        assert!(text(&reply.json()) == text(&want), "by POST, {:?}", version.version);
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_clients_go_through_a_reorg() {
    let stage = Stage::start_tls(&Files::new("fifty"), &[]).await;
    let mut watcher = stage.watcher().await;
    watcher.lives(&stage.chain).await;
    stage.chain.mine(5);
    watcher.lives(&stage.chain).await;
    let crowd = Crowd::start(&stage.gateway.ws_url(), &stage.chain, 25).await;
    for logs in [3, 40, 0, 9, 200, 1, 7] {
        stage.chain.mine(logs);
    }
    watcher.reach(&stage.chain).await;
    stage.chain.reorg(5, 7);
    watcher.reach(&stage.chain).await;
    assert_eq!(watcher.view.replaced, 5);
    watcher.lives(&stage.chain).await;
    let tally = crowd.ends_exact("50 clients by TLS through a reorg").await;
    assert!(tally.heads > 0 && tally.logs > 0, "{tally}");
    assert_eq!(handshakes(&stage, "ok"), 51);
    stage.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_catches_up() {
    let stage = Stage::start_tls(&Files::new("slow"), &[("limits.send_buffer_bytes", "4096")]).await;
    let mut beside = stage.watcher().await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("the size may be set before connecting");
    let stream = socket.connect(stage.gateway.address()).await.expect("the gateway listens");
    let upgraded = tls::websocket_on(stream, &stage.gateway.ws_url(), None).await.expect("it takes WebSockets");
    let mut slow = Watcher::on(Client::over(upgraded), None).await;
    let full = stage.gateway.metrics.outbox_clients.with_label_values(&[CHAIN]);
    for round in 1..=3 {
        for _ in 0..6 {
            stage.chain.mine(100);
            beside.reach(&stage.chain).await;
        }
        stage.chain.reorg(3, 4);
        beside.reach(&stage.chain).await;
        until("its socket is full", async || full.get() == 1).await;
        slow.reach(&stage.chain).await;
        assert_eq!(slow.view.replaced, 3 * round);
        until("it has caught up", async || full.get() == 0).await;
    }
    slow.lives(&stage.chain).await;
    stage.stop().await;
}

#[tokio::test]
async fn a_stop_tells_clients_to_come_back() {
    let stage = Stage::start_tls(&Files::new("stop"), &[]).await;
    let mut client = stage.client().await;
    client.subscribe(json!(["newHeads"])).await;
    let ends = tokio::spawn(async move { client.end().await });
    stage.stop().await;
    let end = tokio::time::timeout(PATIENCE, ends).await.expect("it ends in time").expect("the client does not panic");
    assert_eq!(end, End::Closed(1012, "restart".to_owned()));
}
