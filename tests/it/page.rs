//! The live page in a real browser, on a chain that has reorgs, and a gateway without the page.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use chaincast::devnode::{BlockTime, DevNode, DevOptions, Miner, MinerOptions, SharedChain};
use serde_json::json;

use crate::harness::stage::CHAIN;
use crate::harness::{Gateway, GatewayOptions, Stage, http, until};

/// Longest time for a visit, reorg and cut connection included.
const VISIT: Duration = Duration::from_mins(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_visitor_sees_the_chain_move() {
    visit("false").await;
}

/// A browser offers compression by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_visitor_sees_the_chain_move_where_compression_is_on() {
    visit("true").await;
}

async fn visit(compression: &str) {
    let chain = SharedChain::new(DevOptions { block_time: BlockTime::Wall, ..DevOptions::default() });
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let node = DevNode::start(chain.clone(), listener).expect("the listener is usable");
    let period = Duration::from_millis(250);
    let miner = Miner::start(chain, MinerOptions { period, reorg_probability: 0.2, ..MinerOptions::default() });
    let options = GatewayOptions::upstream(node.ws_url()).set("server.compression", compression);
    let gateway = Gateway::start(options).await;
    let compressed = gateway.metrics.compressed_clients.with_label_values(&[CHAIN]);

    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/page.mjs");
    let url = gateway.http_url();
    let visit = tokio::task::spawn_blocking(move || {
        Command::new("node")
            .arg(program)
            .args([&url, "--expect-reorg", "--cut"])
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("node does not start: {error}; run tests/setup.sh"))
    });
    if compression == "true" {
        until("the browser has negotiated it", async || compressed.get() > 0).await;
    }
    let output = tokio::time::timeout(VISIT, visit).await.expect("the visit ends in time").expect("it does not panic");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaints}");
    let seen: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it says what it saw");
    assert!(seen["struck"].as_u64().is_some_and(|struck| struck > 0), "{seen}");
    assert!(seen["awayMs"].as_u64().is_some(), "{seen}");
    assert_eq!(seen["upstreams"], json!(["up"]), "{seen}");
    miner.stop().await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_gateway_without_the_page_has_no_status_either() {
    let stage = Stage::start(&[("server.page", "false")]).await;
    let reply = http::get(stage.gateway.address(), "/").await;
    assert_eq!(reply.status, 404);
    assert!(reply.body.contains("connect by WebSocket, or POST JSON-RPC"), "{}", reply.body);
    let mut client = stage.client().await;
    let answer = client.call("chaincast_status", json!([])).await;
    assert_eq!(answer["error"]["code"], -32601);
    assert_eq!(answer["error"]["message"], "the method chaincast_status does not exist/is not available");
    assert!(client.call("eth_blockNumber", json!([])).await["result"].is_string());
    drop(client);
    stage.stop().await;

    let stage = Stage::start(&[]).await;
    let reply = http::get(stage.gateway.address(), "/").await;
    assert_eq!((reply.status, reply.headers["content-type"].as_str()), (200, "text/html; charset=utf-8"));
    let policy = &reply.headers["content-security-policy"];
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    stage.stop().await;
}
