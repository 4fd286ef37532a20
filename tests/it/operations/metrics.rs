//! The admin listener: what `/metrics` holds once there was traffic, and that the Prometheus tools take it.

use std::io::Write;
use std::process::{Command, Stdio};

use chaincast::devnode::Kind;
use serde_json::json;

use crate::harness::stage::Stage;
use crate::harness::{http, until};

/// The checker of Debian's package prometheus.
const PROMTOOL: &str = "/usr/bin/promtool";

/// Every series that the issue asks for, by the beginning of its line; each must be there with traffic.
const WANTED: [&str; 31] = [
    "chaincast_build_info{version=",
    "chaincast_ready 1",
    "chaincast_upstream_up{chain=\"default\",upstream=\"127.0.0.1:",
    "chaincast_upstream_head_block{",
    "chaincast_upstream_head_timestamp_seconds{",
    "chaincast_upstream_connects_total{chain=\"default\",outcome=\"up\"",
    "chaincast_upstream_calls_total{chain=\"default\",outcome=\"ok\"",
    "chaincast_upstream_calls_total{chain=\"default\",outcome=\"error\"",
    "chaincast_upstream_call_duration_seconds_bucket{",
    "chaincast_head_block{chain=\"default\"} ",
    "chaincast_head_published_timestamp_seconds{",
    "chaincast_heads_published_total{",
    "chaincast_logs_published_total{",
    "chaincast_logs_removed_total{",
    "chaincast_reorgs_total{chain=\"default\",depth=\"2\"} 1",
    "chaincast_connections ",
    "chaincast_clients{chain=\"default\"} 1",
    "chaincast_subscriptions{chain=\"default\",kind=\"newHeads\"} 1",
    "chaincast_subscriptions{chain=\"default\",kind=\"logs\"} 1",
    "chaincast_subscriptions{chain=\"default\",kind=\"newPendingTransactions\"} 1",
    "chaincast_deliveries_total{chain=\"default\",kind=\"newHeads\"} ",
    "chaincast_deliveries_total{chain=\"default\",kind=\"logs\"} ",
    "chaincast_sent_bytes_total{",
    "chaincast_closes_total{chain=\"default\",reason=\"client_closed\"} 1",
    "chaincast_closes_total{chain=\"default\",reason=\"protocol\"} 1",
    "chaincast_refusals_total{limit=\"filter_addresses\",scope=\"filter\"} 1",
    "chaincast_outbox_bytes{",
    "chaincast_call_cache_total{chain=\"default\",outcome=",
    "chaincast_calls_total{chain=\"default\",class=\"own\",outcome=\"ok\"} ",
    "chaincast_calls_total{chain=\"default\",class=\"forward\",outcome=\"error\"} ",
    "chaincast_delivery_duration_seconds_bucket{chain=\"default\",kind=\"newHeads\",le=",
];

/// A gateway with a client that has subscriptions of three kinds, after blocks, a reorg, calls, a refusal and two ends.
async fn with_traffic() -> (Stage, crate::harness::Watcher) {
    let stage = Stage::start(&[("limits.filter_addresses", "1")]).await;
    let mut watcher = stage.watcher().await;
    for _ in 0..4 {
        watcher.lives(&stage.chain).await;
    }
    stage.chain.reorg(2, 3);
    watcher.reach(&stage.chain).await;
    let address = "0x00000000000000000000000000000000000000aa";
    for (method, params) in [
        ("eth_chainId", json!([])),
        ("eth_getBlockByNumber", json!(["latest", false])),
        ("eth_getBlockByNumber", json!(["latest", false])),
        ("eth_getBalance", json!([address, "latest"])),
        ("eth_getBalance", json!(["nonsense"])),
        ("eth_subscribe", json!(["logs", { "address": [address, address.replace("aa", "bb")] }])),
        ("eth_subscribe", json!(["newPendingTransactions"])),
    ] {
        watcher.client.call(method, params).await;
    }
    until("the node is asked for its feed", async || {
        stage.node.counters().subscriptions(Kind::NewPendingTransactions) == 1
    })
    .await;
    let mut leaving = stage.client().await;
    leaving.socket().close(None).await.expect("it closes");
    leaving.end().await;
    let mut breaking = stage.client().await;
    let unmasked = [0x81, 1, b'x'];
    tokio::io::AsyncWriteExt::write_all(breaking.socket().get_mut(), &unmasked).await.expect("it goes out");
    breaking.end().await;
    drop((leaving, breaking));
    until("both are forgotten", async || stage.gateway.metrics.connections.get() == 1).await;
    (stage, watcher)
}

#[tokio::test]
async fn metrics_hold_what_was_asked_for_and_promtool_takes_them() {
    let (stage, watcher) = with_traffic().await;
    let reply = http::get(stage.gateway.admin_address(), "/metrics").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.headers["content-type"], "text/plain; version=0.0.4");
    for wanted in WANTED {
        assert!(reply.body.lines().any(|line| line.starts_with(wanted)), "no {wanted} in\n{}", reply.body);
    }
    drop(watcher);
    stage.stop().await;

    let mut promtool = Command::new(PROMTOOL)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{PROMTOOL}: {error}: run tests/setup.sh, or apt-get install prometheus"));
    promtool.stdin.take().expect("it is piped").write_all(reply.body.as_bytes()).expect("promtool reads");
    let output = promtool.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

#[tokio::test]
async fn probes_say_how_it_is() {
    let stage = Stage::start(&[("server.ready_head_age_max", "2s")]).await;
    let admin = stage.gateway.admin_address();
    assert_eq!(stage.gateway.readiness().await, (200, "default: ready\n".to_owned()));
    let live = http::get(admin, "/livez").await;
    assert_eq!((live.status, live.body.as_str()), (200, "ok\n"));
    assert_eq!(http::get(admin, "/").await.status, 404);
    let post = http::exchange(admin, http::posting(admin, "application/json", "{}").as_bytes()).await;
    assert_eq!(post.map(|reply| reply.status), Some(405));
    for path in ["/metrics", "/livez", "/readyz"] {
        assert_eq!(http::get(stage.gateway.address(), path).await.status, 404, "{path} is not for the public");
    }
    until("the head is too old", async || stage.gateway.readiness().await.0 == 503).await;
    let (_, words) = stage.gateway.readiness().await;
    assert!(words.starts_with("default: the head is ") && words.ends_with(" s old\n"), "{words}");
    let metrics = http::get(admin, "/metrics").await.body;
    assert!(metrics.contains("\nchaincast_ready 0\n"));
    stage.chain.mine(1);
    stage.gateway.ready().await;
    stage.stop().await;
}
