//! Whom the gateway calls and subscribes to: not who is stalled, deaf or failing, no more than is allowed, and no more
//! nodes than it is told to.

use std::time::{Duration, Instant};

use chaincast::devnode::{DevNode, Kind, SharedChain, Span, Spoil};
use serde_json::{Value, json};

use crate::harness::stage::{CHAIN, Stage, new_chain, new_node};
use crate::harness::{Client, Gateway, GatewayOptions, Watcher, until};

/// Two nodes on a chain, and a gateway that has both.
struct Pair {
    chain: SharedChain,
    nodes: [DevNode; 2],
    gateway: Gateway,
}

impl Pair {
    async fn start(keys: &[(&str, &str)]) -> Self {
        let chain = new_chain();
        let nodes = [new_node(&chain), new_node(&chain)];
        let options = GatewayOptions::upstreams(nodes.each_ref().map(DevNode::ws_url));
        let options = keys.iter().fold(options, |all, (key, value)| all.set(key, value));
        let gateway = Gateway::start(options).await;
        let pair = Self { chain, nodes, gateway };
        until("both nodes are up", async || [0, 1].iter().all(|n| pair.is_up(*n))).await;
        pair.gateway.ready().await;
        pair
    }

    fn is_up(&self, node: usize) -> bool {
        let address = self.nodes[node].address().to_string();
        self.gateway.metrics.upstream_up.with_label_values(&[CHAIN, &address]).get() == 1
    }

    fn is_stalled(&self, node: usize) -> bool {
        let address = self.nodes[node].address().to_string();
        self.gateway.metrics.upstream_stalled.with_label_values(&[CHAIN, &address]).get() == 1
    }

    fn calls(&self, node: usize) -> u64 {
        self.nodes[node].counters().calls("eth_call")
    }
}

/// A call that no cache answers.
async fn call(client: &mut Client) -> Value {
    client.call("eth_call", json!([{ "to": format!("0x{:040x}", 7), "data": "0x01" }, "latest"])).await
}

#[tokio::test]
async fn a_stalled_node_is_not_called_while_another_is_ahead() {
    let pair = Pair::start(&[]).await;
    let mut client = Client::connect(&pair.gateway.ws_url()).await;
    pair.chain.mine(1);
    assert!(call(&mut client).await.get("result").is_some());
    assert_eq!((pair.calls(0), pair.calls(1)), (1, 0), "the first is preferred");
    pair.nodes[0].faults().set_lag(Duration::MAX);
    let begun = Instant::now();
    pair.chain.mine(1);
    until("the stall is seen", async || pair.is_stalled(0)).await;
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(1), "{took:?} is no stall");
    assert!(call(&mut client).await.get("result").is_some());
    assert_eq!((pair.calls(0), pair.calls(1)), (1, 1));
    pair.nodes[0].faults().set_lag(Duration::ZERO);
    until("it has caught up", async || !pair.is_stalled(0)).await;
    pair.gateway.stop().await;
}

#[tokio::test]
async fn a_call_that_hangs_on_a_stopped_node_is_answered_by_another() {
    let pair = Pair::start(&[]).await;
    let mut client = Client::connect(&pair.gateway.ws_url()).await;
    pair.chain.mine(1);
    // It takes the call and stops.
    pair.nodes[0].faults().spoil("eth_call", Spoil::Silent, Span::Always);
    let chain = pair.chain.clone();
    let nodes = &pair.nodes;
    let stop = async {
        until("the call is there", async || nodes[0].counters().calls("eth_call") == 1).await;
        nodes[0].faults().stall(true);
        chain.mine(1);
    };
    let (answer, ()) = tokio::join!(call(&mut client), stop);
    assert!(answer.get("result").is_some(), "{answer}");
    assert_eq!(pair.calls(1), 1);
    pair.nodes[0].faults().stall(false);
    pair.gateway.stop().await;
}

#[tokio::test]
async fn a_node_that_fails_calls_is_left_alone_until_it_answers_again() {
    let stage = Stage::start(&[]).await;
    let mut watcher = stage.watcher().await;
    let mut client = stage.client().await;
    let address = stage.node.address().to_string();
    let is_open = || stage.gateway.metrics.upstream_breaker.with_label_values(&[CHAIN, &address]).get() == 1;
    let calls = || stage.node.counters().calls("eth_call");
    watcher.lives(&stage.chain).await;
    let error = Spoil::Error(-32603, "internal error".into());
    stage.node.faults().spoil("eth_call", error, Span::Always);
    for n in 1..=5 {
        assert!(!is_open(), "before error {n}");
        assert_eq!(call(&mut client).await["error"]["message"], "internal error");
    }
    assert!(is_open());
    let refused = call(&mut client).await;
    assert!(calls() <= 6, "single calls see whether it is back");
    assert!(refused["error"]["code"] == -32603, "{refused}");
    // What keeps the stream exact is asked for all the same.
    watcher.lives(&stage.chain).await;
    stage.node.faults().unspoil_all();
    let answered = async || call(&mut client).await.get("result").is_some();
    until("it answers again", answered).await;
    assert!(!is_open());
    drop(watcher);
    stage.stop().await;
}

#[tokio::test]
async fn clients_calls_are_bounded_and_leave_a_share_to_the_stream() {
    const CALLS: u64 = 60;
    let keys = [("upstream.calls_per_second", "10"), ("upstream.calls_burst", "10"), ("limits.calls_in_flight", "60")];
    let pair = Pair::start(&keys).await;
    let mut watcher = Watcher::start(&pair.gateway.ws_url()).await;
    watcher.lives(&pair.chain).await;
    let mut client = Client::connect(&pair.gateway.ws_url()).await;
    let of = |id: u64| json!([{ "to": format!("0x{:040x}", id), "data": "0x01" }, "latest"]);
    for id in 0..CALLS {
        client.send(json!({"jsonrpc": "2.0", "id": id, "method": "eth_call", "params": of(id)}).to_string()).await;
    }
    for _ in 0..3 {
        watcher.lives(&pair.chain).await;
    }
    let (mut answered, mut refused) = (0, 0);
    for _ in 0..CALLS {
        let answer: Value = serde_json::from_str(&client.text().await.expect("an answer comes")).expect("it is JSON");
        answered += u32::from(answer.get("result").is_some());
        let error = &answer["error"];
        refused += u32::from(error["code"] == -32005 && error["data"]["limit"] == "upstream_calls");
    }
    assert_eq!(u64::from(answered + refused), CALLS);
    assert!(answered >= 16 && refused > 0, "{answered} answered, {refused} refused");
    assert_eq!(u64::from(answered), pair.calls(0) + pair.calls(1));
    drop(watcher);
    pair.gateway.stop().await;
}

#[tokio::test]
async fn as_many_nodes_are_subscribed_to_as_is_wanted_and_another_takes_over() {
    let pair = Pair::start(&[("upstream.subscribe_max", "1")]).await;
    let heads = |node: usize| pair.nodes[node].counters().subscriptions(Kind::NewHeads);
    until("one is subscribed to", async || heads(0) + heads(1) == 1).await;
    let mut watcher = Watcher::start(&pair.gateway.ws_url()).await;
    watcher.lives(&pair.chain).await;
    for _ in 0..2 {
        let (followed, other) = if heads(0) == 1 { (0, 1) } else { (1, 0) };
        pair.nodes[followed].faults().refuse_connections(true).expect("the port is given back");
        pair.nodes[followed].faults().cut_connections();
        let begun = Instant::now();
        watcher.lives(&pair.chain).await;
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        assert_eq!(heads(other), 1);
        pair.nodes[followed].faults().refuse_connections(false).expect("the port is free");
        until("it is back", async || pair.is_up(followed)).await;
        watcher.lives(&pair.chain).await;
        assert_eq!(heads(followed), 0, "who took over goes on");
    }
    drop(watcher);
    pair.gateway.stop().await;
}

#[tokio::test]
async fn a_node_that_announces_nothing_more_is_connected_to_anew() {
    let chain = new_chain();
    let node = new_node(&chain);
    let gateway = Gateway::start(GatewayOptions::upstream(node.ws_url())).await;
    gateway.ready().await;
    let mut watcher = Watcher::start(&gateway.ws_url()).await;
    for _ in 0..6 {
        watcher.lives(&chain).await;
    }
    // Nothing but the gateway's own question can bring what is not announced.
    node.faults().spoil("newHeads", Spoil::Silent, Span::Always);
    chain.mine(2);
    chain.mine(2);
    watcher.reach(&chain).await;
    assert!(node.counters().calls("eth_blockNumber") >= 2);
    node.faults().unspoil_all();
    watcher.lives(&chain).await;
    drop(watcher);
    gateway.stop().await;
}

#[tokio::test]
async fn a_gateway_whose_nodes_are_all_syncing_is_not_ready() {
    let chain = new_chain();
    let node = new_node(&chain);
    node.faults().set_syncing(true);
    let gateway = Gateway::start(GatewayOptions::upstream(node.ws_url())).await;
    let said = format!("{CHAIN}: all nodes are syncing\n");
    until("it says so", async || gateway.readiness().await == (503, said.clone())).await;
    node.faults().set_syncing(false);
    gateway.ready().await;
    gateway.stop().await;
}
