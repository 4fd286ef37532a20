//! What the gateway asks of its nodes: the same for one client as for 5,000, for one filter as for 5,000, and little.
//!
//! Owns clients that do no more than count what comes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use chaincast::devnode::{DevNode, DevOptions, Economy, SharedChain, TRANSFER_TOPIC};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::harness::stage::new_node;
use crate::harness::{Gateway, GatewayOptions, Watcher, until};

/// Connections being made at a time.
const CONNECTING: usize = 50;
/// Blocks over which calls are counted.
const BLOCKS: u64 = 12;
/// Logs of each of them.
const LOGS: usize = 2;
/// Calls that come by the clock and not by the block.
const BY_THE_CLOCK: [&str; 3] = ["eth_getBlockByNumber safe", "eth_getBlockByNumber finalized", "eth_blockNumber"];

/// Two nodes and a gateway.
struct Scene {
    chain: SharedChain,
    nodes: [DevNode; 2],
    gateway: Gateway,
    watcher: Watcher,
}

impl Scene {
    async fn start() -> Self {
        // Both ends of 5,000 connections are in this process.
        let limit = rlimit::increase_nofile_limit(20_000).expect("the limit can be read");
        assert!(limit >= 12_000, "5,000 clients need 12,000 descriptors, the hard limit here is {limit}");
        // No reorg here goes below what is final.
        let deep = DevOptions { pending_per_block: 0, finalized_depth: 100, ..DevOptions::default() };
        let chain = SharedChain::new(deep);
        let nodes = [new_node(&chain), new_node(&chain)];
        let gateway = Gateway::start(GatewayOptions::upstreams(nodes.iter().map(DevNode::ws_url))).await;
        gateway.ready().await;
        let mut watcher = Watcher::start(&gateway.ws_url()).await;
        until("both nodes are followed", async || nodes.iter().all(|node| is_up(&gateway, node))).await;
        for _ in 0..3 {
            watcher.lives(&chain).await;
        }
        Self { chain, nodes, gateway, watcher }
    }

    /// All calls to all nodes so far, by method, but for those by the clock.
    fn calls(&self) -> BTreeMap<String, u64> {
        let mut calls = BTreeMap::new();
        for (method, times) in self.nodes.iter().flat_map(|node| node.counters().all_calls()) {
            if !BY_THE_CLOCK.contains(&method.as_str()) {
                *calls.entry(method).or_default() += times;
            }
        }
        calls
    }

    /// The calls that were made meanwhile.
    async fn calls_of(&mut self, what: impl AsyncFnOnce(&mut Self)) -> BTreeMap<String, u64> {
        let before = self.calls();
        what(self).await;
        let mut calls = self.calls();
        calls.iter_mut().for_each(|(method, times)| *times -= before.get(method).copied().unwrap_or(0));
        calls.retain(|_, times| *times > 0);
        calls
    }
}

fn is_up(gateway: &Gateway, node: &DevNode) -> bool {
    gateway.metrics.upstream_up.with_label_values(&["default", &node.address().to_string()]).get() == 1
}

/// Sockets, each with its subscriptions, that count their heads and logs together.
struct Audience {
    heads: Arc<AtomicUsize>,
    logs: Arc<AtomicUsize>,
    _sockets: JoinSet<()>,
}

impl Audience {
    async fn start(url: &str, sockets: usize, wants: impl Fn(usize) -> Vec<Value>) -> Self {
        let (heads, logs) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let mut reading = JoinSet::new();
        let connecting = futures_util::stream::iter((0..sockets).map(wants))
            .map(|wants| tokio::spawn(subscribed(url.to_owned(), wants)))
            .buffered(CONNECTING);
        let mut connecting = std::pin::pin!(connecting);
        while let Some(socket) = connecting.next().await {
            let (mut socket, heads, logs) = (socket.expect("it subscribes"), Arc::clone(&heads), Arc::clone(&logs));
            reading.spawn(async move {
                while let Some(Ok(message)) = socket.next().await {
                    let text = message.to_text().unwrap_or_default();
                    let count = if text.contains("\"parentHash\"") { &heads } else { &logs };
                    count.fetch_add(usize::from(text.contains("eth_subscription")), Ordering::Relaxed);
                }
            });
        }
        Self { heads, logs, _sockets: reading }
    }

    async fn has(&self, heads: usize, logs: usize) {
        until("everybody has everything", async || {
            (self.heads.load(Ordering::Relaxed), self.logs.load(Ordering::Relaxed)) == (heads, logs)
        })
        .await;
    }
}

type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

async fn subscribed(url: String, wants: Vec<Value>) -> Socket {
    let config = WebSocketConfig::default().read_buffer_size(1024);
    let connected = tokio_tungstenite::connect_async_with_config(url, Some(config), true).await;
    let (mut socket, _) = connected.expect("the gateway takes everybody");
    for params in wants {
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": "eth_subscribe", "params": params});
        socket.send(Message::text(call.to_string())).await.expect("the connection stands");
        let answer = loop {
            match socket.next().await {
                Some(Ok(Message::Ping(_))) => {}
                Some(Ok(Message::Text(text))) => break text,
                end => panic!("the connection ended: {end:?}"),
            }
        };
        assert!(answer.contains(r#""result":"0x"#), "no subscription: {answer}");
    }
    socket
}

/// A filter of its own for each number below 9,216: by token, sender and receiver.
fn filter(economy: &Economy, n: usize) -> Value {
    let (tokens, holders) = (economy.tokens(), economy.holders());
    let holder = |n: usize| holders[n % holders.len()].into_word();
    let (token, from, to) = (n % tokens.len(), n / tokens.len(), n / tokens.len() / holders.len());
    json!(["logs", { "address": tokens[token].address, "topics": [TRANSFER_TOPIC, holder(from), holder(to)] }])
}

/// Mines blocks, each after the one before has come with its logs.
async fn mine(scene: &mut Scene) {
    for _ in 0..BLOCKS {
        scene.chain.mine(LOGS);
        scene.watcher.reach(&scene.chain).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_do_not_depend_on_clients_or_filters() {
    let mut scene = Scene::start().await;
    let url = scene.gateway.ws_url();
    let one = scene.calls_of(mine).await;
    println!("one client: {one:?} for {BLOCKS} blocks");
    assert!(one.values().sum::<u64>() <= 3 * BLOCKS, "{one:?}");

    let blocks = usize::try_from(BLOCKS).expect("it is small");
    let (all_logs, heads) = (json!(["logs", {}]), json!(["newHeads"]));
    let wants = |n: usize| vec![if n.is_multiple_of(2) { heads.clone() } else { all_logs.clone() }];
    let clients = Audience::start(&url, 5_000, wants).await;
    let many = scene.calls_of(mine).await;
    clients.has(2_500 * blocks, 2_500 * blocks * LOGS).await;
    drop(clients);
    println!("5,000 clients: {many:?}");
    assert_eq!(many, one);

    let economy = scene.chain.economy();
    let before = scene.gateway.metrics.streams.with_label_values(&["default"]).get();
    let filters = Audience::start(&url, 200, |n| (0..25).map(|k| filter(&economy, 25 * n + k)).collect()).await;
    let streams = scene.gateway.metrics.streams.with_label_values(&["default"]);
    assert!(streams.get() - before >= 4_998, "5,000 filters are {} streams", streams.get() - before);
    let many = scene.calls_of(mine).await;
    println!("5,000 filters: {many:?}");
    assert_eq!(many, one);
    drop(filters);
    drop(scene.watcher);
    scene.gateway.stop().await;
}

#[tokio::test]
async fn a_reorg_costs_its_depth_and_one_more() {
    let mut scene = Scene::start().await;
    for _ in 0..25 {
        scene.watcher.lives(&scene.chain).await;
    }
    for depth in [1, 2, 7, 20] {
        let new = depth + 1;
        let calls = scene
            .calls_of(async |scene| {
                scene.chain.reorg(depth, usize::try_from(new).expect("it is small"));
                scene.watcher.reach(&scene.chain).await;
                scene.watcher.lives(&scene.chain).await;
            })
            .await;
        println!("a reorg of {depth} blocks to {new}, and one more block: {calls:?}");
        assert!(calls.values().sum::<u64>() <= 3 * (new + 1) + depth + 1, "{calls:?} for a reorg of {depth}");
    }
    drop(scene.watcher);
    scene.gateway.stop().await;
}

#[tokio::test]
async fn an_outage_costs_its_blocks_and_a_connect() {
    let mut scene = Scene::start().await;
    for outage in [1, 5, 60] {
        let calls = scene
            .calls_of(async |scene| {
                for node in &scene.nodes {
                    node.faults().refuse_connections(true).expect("the port is given back");
                    node.faults().cut_connections();
                }
                until("the loss is seen", async || scene.nodes.iter().all(|node| !is_up(&scene.gateway, node))).await;
                scene.chain.extend(&vec![LOGS; outage]);
                for node in &scene.nodes {
                    node.faults().refuse_connections(false).expect("the port is free");
                }
                until("both nodes are back", async || scene.nodes.iter().all(|node| is_up(&scene.gateway, node))).await;
                scene.watcher.reach(&scene.chain).await;
            })
            .await;
        println!("an outage of {outage} blocks: {calls:?}");
        // Identity, subscription and latest block of each node.
        let connects = 2 * 6;
        let most = 3 * u64::try_from(outage).expect("it is small") + connects;
        assert!(calls.values().sum::<u64>() <= most, "{calls:?} for {outage} blocks");
    }
    drop(scene.watcher);
    scene.gateway.stop().await;
}
