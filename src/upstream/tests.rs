//! A node task beside nodes that answer slowly or refuse: it comes up, or leaves them alone ever longer.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};

use jsonrpsee::server::{RpcModule, ServerBuilder, ServerHandle, SubscriptionMessage};
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::time::{interval, timeout};

use super::*;
use crate::chain::Saying;

fn block(n: u64) -> Value {
    let hash = |n: u64| format!("0x{n:064x}");
    json!({"number": format!("{n:#x}"), "hash": hash(n + 1), "parentHash": hash(n), "timestamp": "0x1"})
}

/// A node's methods, less what makes a test; it counts connects.
fn module(connects: &Arc<AtomicUsize>) -> RpcModule<Arc<AtomicUsize>> {
    let mut module = RpcModule::new(connects.clone());
    let chain_id = |_: jsonrpsee::types::Params<'_>, connects: &Arc<AtomicUsize>, _: &jsonrpsee::Extensions| {
        connects.fetch_add(1, Ordering::Relaxed);
        "0x1"
    };
    module.register_method("eth_chainId", chain_id).expect("it is new");
    module.register_method("net_version", |_, _, _| "1").expect("it is new");
    module.register_method("eth_syncing", |_, _, _| false).expect("it is new");
    module
}

/// What keeps a pool alive.
struct Running {
    observations: mpsc::Receiver<Observation>,
    _node: ServerHandle,
    _tasks: tokio::task::JoinSet<()>,
}

async fn run(module: RpcModule<Arc<AtomicUsize>>) -> Running {
    let server = ServerBuilder::default().build("127.0.0.1:0").await.expect("loopback has a free port");
    let url = format!("ws://{}", server.local_addr().expect("it is bound"));
    let node = server.start(module);
    let some = |n| NonZeroU32::new(n).expect("it is not zero");
    let options = Options {
        chain: "test".into(),
        urls: vec![url.parse().expect("it is a URL")],
        dial: Dial::Network,
        chain_id: None,
        connect_timeout: Duration::from_secs(10),
        call_timeout: Duration::from_secs(10),
        calls: Rates { per_second: some(2_000), burst: some(4_000), in_flight: 256 },
        subscribe_max: 0,
        seed: Some(1),
        message_max_bytes: 1 << 26,
        backoff_min: Duration::from_millis(100),
        backoff_max: Duration::from_secs(5),
        silence_max: Duration::from_secs(20),
    };
    let (observations, heard) = mpsc::channel(64);
    let ears = Ears { observations, feeds: FeedSink::new(broadcast::Sender::new(8)) };
    let mut tasks = tokio::task::JoinSet::new();
    let stop = CancellationToken::new();
    spawn(&options, &ears, &DemandHandle::default(), &Metrics::new(), &stop, &mut tasks);
    Running { observations: heard, _node: node, _tasks: tasks }
}

#[tokio::test]
async fn a_node_whose_heads_come_faster_than_its_answers_comes_up() {
    let mut module = module(&Arc::default());
    let late = async |_: jsonrpsee::types::Params<'static>, _: Arc<Arc<AtomicUsize>>, _: jsonrpsee::Extensions| {
        interval(Duration::from_millis(1)).tick().await;
        let mut answer = interval(Duration::from_millis(150));
        answer.tick().await;
        answer.tick().await;
        block(7)
    };
    module.register_async_method("eth_getBlockByNumber", late).expect("it is new");
    let heads = |_: jsonrpsee::types::Params<'static>, pending: jsonrpsee::PendingSubscriptionSink, _, _| async move {
        let Ok(sink) = pending.accept().await else { return };
        let mut ticks = interval(Duration::from_millis(20));
        for n in 8.. {
            ticks.tick().await;
            let raw = serde_json::value::to_raw_value(&block(n)).expect("it is JSON");
            if sink.send(SubscriptionMessage::from(raw)).await.is_err() {
                return;
            }
        }
    };
    module.register_subscription("eth_subscribe", "eth_subscription", "eth_unsubscribe", heads).expect("it is new");
    let mut running = run(module).await;
    let first = timeout(Duration::from_secs(15), running.observations.recv()).await.expect("it comes up");
    assert!(matches!(first.expect("it runs").what, Saying::Connected(_)));
    let second = running.observations.recv().await.expect("it runs");
    assert!(matches!(second.what, Saying::Head(head) if head.number > 7), "what came meanwhile is not lost");
}

#[tokio::test]
async fn a_node_that_refuses_the_subscription_is_left_alone_ever_longer() {
    let connects = Arc::<AtomicUsize>::default();
    let _running = run(module(&connects)).await;
    let mut seconds = interval(Duration::from_secs(4));
    seconds.tick().await;
    seconds.tick().await;
    let connects = connects.load(Ordering::Relaxed);
    assert!((2..20).contains(&connects), "{connects} in 4 s");
}
