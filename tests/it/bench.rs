//! `chaincast bench` against a gateway that serves every client, and against an endpoint that sends a head twice.

use std::net::TcpListener;
use std::process::{Command, Output};
use std::time::Duration;

use chaincast::devnode::{DevNode, DevOptions, Miner, MinerOptions, SharedChain, Span, Spoil};
use serde_json::Value;

use crate::harness::{Gateway, GatewayOptions};

fn node(chain: &SharedChain) -> DevNode {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    DevNode::start(chain.clone(), listener).expect("the node starts")
}

fn miner(chain: &SharedChain) -> Miner {
    let options = MinerOptions { period: Duration::from_millis(20), reorg_probability: 0.0, ..MinerOptions::default() };
    Miner::start(chain.clone(), options)
}

async fn bench(url: String, more: &'static [&'static str]) -> Output {
    let run = move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chaincast"));
        command.args(["bench", "--url", &url, "--clients", "60", "--blocks", "5", "--json"]).args(more);
        command.output().expect("the binary runs")
    };
    tokio::task::spawn_blocking(run).await.expect("it ends")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_is_measured() {
    let chain = SharedChain::new(DevOptions::default());
    let (node, _miner) = (node(&chain), miner(&chain));
    let gateway = Gateway::start(GatewayOptions::upstream(node.ws_url())).await;
    for more in [&[][..], &["--logs", "--filter", r#"{"topics":[]}"#][..]] {
        let output = bench(gateway.ws_url(), more).await;
        let measure: Value = serde_json::from_slice(&output.stdout).expect("the report is JSON");
        assert_eq!(measure["void"], Value::Null, "{more:?}: {measure}");
        assert!(output.status.success());
        let deliveries = measure["deliveries"].as_u64().expect("a number");
        assert!(deliveries >= 4 * 60, "{more:?}: {measure}");
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_comes_twice_voids_the_run() {
    let chain = SharedChain::new(DevOptions::default());
    let (node, _miner) = (node(&chain), miner(&chain));
    node.faults().spoil("newHeads", Spoil::Twice, Span::Always);
    let output = bench(node.ws_url(), &[]).await;
    let measure: Value = serde_json::from_slice(&output.stdout).expect("the report is JSON");
    let why = measure["void"].as_str().expect("the run is void");
    assert!(why.contains("twice") || why.contains("again"), "{why}");
    assert_eq!(output.status.code(), Some(1));
}
