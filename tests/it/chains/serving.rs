//! What each path serves, however the chains are configured.

use chaincast::devnode::SharedChain;
use serde_json::{Value, json};

use super::{NAMES, Scene, Side};
use crate::harness::{Client, Watcher, http};
use crate::operations::daemon::Daemon;

/// The answers that name a chain.
async fn names(client: &mut Client) -> [Value; 3] {
    let mut result = async |method| client.call(method, json!([])).await["result"].clone();
    [result("eth_chainId").await, result("net_version").await, result("eth_blockNumber").await]
}

/// Heads, logs and calls of one path are those of its chain.
async fn serves(url: &str, chain: &SharedChain, id: u64) {
    let mut watcher = Watcher::start(url).await;
    for _ in 0..3 {
        watcher.lives(chain).await;
    }
    chain.reorg(2, 3);
    watcher.reach(chain).await;
    let head = chain.head();
    let expected = [json!(format!("{id:#x}")), json!(id.to_string()), json!(format!("{:#x}", head.number))];
    assert_eq!(names(&mut watcher.client).await, expected);
    let block = watcher.client.call("eth_getBlockByHash", json!([head.hash, false])).await;
    assert_eq!(block["result"]["hash"], json!(head.hash));
    let logs = watcher.client.call("eth_getLogs", json!([{ "blockHash": head.hash }])).await;
    assert_eq!(logs["result"].as_array().map(Vec::len), Some(10));
}

#[tokio::test]
async fn each_path_serves_its_chain() {
    let scene = Scene::start(&[]).await;
    serves(&scene.url(""), &scene.red.chain, 1).await;
    serves(&scene.url("red"), &scene.red.chain, 1).await;
    serves(&scene.url("blue"), &scene.blue.chain, 2).await;
    let call = r#"{"jsonrpc":"2.0","id":7,"method":"eth_chainId","params":[]}"#;
    let address = scene.gateway.address();
    for (path, answer) in [("/", "0x1"), ("/red", "0x1"), ("/blue", "0x2")] {
        let request = http::posting(address, "application/json", call).replacen("POST / ", &format!("POST {path} "), 1);
        let reply = http::exchange(address, request.as_bytes()).await.expect("an answer comes").json();
        assert_eq!((&reply["id"], &reply["result"]), (&json!(7), &json!(answer)), "{path}");
    }
    for path in ["/green", "/red/blue", "/Red", "/red%2F"] {
        assert_eq!(http::get(address, path).await.status, 404, "{path}");
    }
    scene.stop().await;
}

#[tokio::test]
async fn neither_events_nor_calls_of_two_chains_mix() {
    let scene = Scene::start(&[]).await;
    let (mut red, mut blue) = (scene.watcher("red").await, scene.watcher("blue").await);
    // In turn and at once, with the same numbers and the same counts of logs.
    for round in 0..20 {
        scene.red.chain.mine(round % 4);
        scene.blue.chain.mine(round % 4);
        if round % 5 == 4 {
            scene.red.chain.reorg(3, 4);
            scene.blue.chain.reorg(2, 3);
        }
        tokio::join!(red.reach(&scene.red.chain), blue.reach(&scene.blue.chain));
    }
    let (of_red, of_blue) = (scene.red.chain.head(), scene.blue.chain.head());
    for (watcher, foreign) in [(&mut red, of_blue), (&mut blue, of_red)] {
        let block = watcher.client.call("eth_getBlockByHash", json!([foreign.hash, false])).await;
        assert_eq!(block["result"], Value::Null, "a block of the other chain");
        let logs = watcher.client.call("eth_getLogs", json!([{ "blockHash": foreign.hash }])).await;
        assert!(logs.get("error").is_some(), "logs of the other chain: {logs}");
    }
    // What one chain's node is asked, the other's is not.
    let asked = |side: &Side| side.node.counters().calls("eth_getBalance");
    let address = "0x00000000000000000000000000000000000000aa";
    blue.client.call("eth_getBalance", json!([address, "latest"])).await;
    assert_eq!((asked(&scene.red), asked(&scene.blue)), (0, 1));
    drop((red, blue));
    scene.stop().await;
}

#[tokio::test]
async fn ids_belong_to_one_chain_and_one_connection() {
    let scene = Scene::start(&[]).await;
    let mut ids = Vec::new();
    for name in NAMES {
        let mut client = Client::connect(&scene.url(name)).await;
        let heads = client.subscribe(json!(["newHeads"])).await;
        let logs = client.subscribe(json!(["logs", {}])).await;
        let foreign = ids.last().cloned();
        if let Some(foreign) = foreign {
            let answer = client.call("eth_unsubscribe", json!([foreign])).await;
            assert_eq!(answer["error"]["message"], "subscription not found", "{answer}");
        }
        assert_eq!(client.call("eth_unsubscribe", json!([heads])).await["result"], true);
        ids.extend([heads, logs]);
    }
    let mut different = ids.clone();
    different.sort();
    different.dedup();
    assert_eq!(different.len(), 4, "equal subscriptions on two chains have ids of their own: {ids:?}");
    scene.stop().await;
}

/// Both chains of a gateway in a process of its own.
async fn both(daemon: Daemon, red: &Side, blue: &Side) {
    daemon.ready().await;
    for name in NAMES {
        daemon.logs_are_there(name).await;
    }
    serves(&daemon.ws_url(), &red.chain, 1).await;
    serves(&format!("{}/blue", daemon.ws_url()), &blue.chain, 2).await;
    let metrics = http::get(daemon.admin, "/metrics").await.body;
    for (name, side) in NAMES.into_iter().zip([red, blue]) {
        let line = format!("chaincast_head_block{{chain=\"{name}\"}} {}", side.chain.head().number);
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chains_are_configured_by_a_file_or_by_the_environment() {
    let (red, blue) = (Side::start(1), Side::start(2));
    let environment = [
        ("CHAINCAST__CHAIN__RED__UPSTREAMS", &*red.node.ws_url()),
        ("CHAINCAST__CHAIN__BLUE__UPSTREAMS", &blue.node.ws_url()),
        ("CHAINCAST__DEFAULT_CHAIN", "red"),
    ];
    both(Daemon::run(&[], &environment).await, &red, &blue).await;

    let (of_red, of_blue) = (red.node.ws_url(), blue.node.ws_url());
    let text = format!(
        "default_chain = \"red\"\n[chain.red]\nupstreams = [\"{of_red}\"]\nchain_id = 1\n[chain.blue]\nupstreams = [\"{of_blue}\"]\nchain_id = 2\n"
    );
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("two-chains.toml");
    std::fs::write(&file, text).expect("target is writable");
    let file = file.to_str().expect("it is UTF-8");
    both(Daemon::run_with(&["--config", file], &[]).await, &red, &blue).await;
}
