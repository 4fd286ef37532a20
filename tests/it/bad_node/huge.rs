//! Answers of 50 MB, before a gateway in a process of its own: over the bound they end the node's connection, under it they
//! are read and judged, and what the process holds stays bounded.

use chaincast::devnode::{DevNode, SharedChain, Span, Spoil};
use serde_json::{Value, json};

use crate::harness::Watcher;
use crate::harness::client::Client;
use crate::harness::stage::{CHAIN, new_chain, new_node};
use crate::operations::daemon::Daemon;

const HUGE: usize = 50_000_000;
/// Less than the longest frame that the test's client takes.
const LARGE: usize = 12_000_000;
/// Clients that do not read.
const STUCK: usize = 24;
/// First topic of every log of the chain.
const TRANSFER: &str = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef";

/// A gateway beside these nodes, and a strict client of it.
async fn beside(nodes: &[&DevNode], message_max_bytes: usize) -> (Daemon, Watcher) {
    let urls: Vec<String> = nodes.iter().map(|node| node.ws_url()).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let most = message_max_bytes.to_string();
    let environment = [
        ("CHAINCAST__UPSTREAM__MESSAGE_MAX_BYTES", &*most),
        ("CHAINCAST__UPSTREAM__BACKOFF_MAX", "200ms"),
        ("CHAINCAST__LIMITS__WRITE_STALL_MAX", "60s"),
    ];
    let daemon = Daemon::run(&urls, &environment).await;
    daemon.ready().await;
    // Or it would be sent the logs of a head that came before it.
    daemon.logs_are_there(CHAIN).await;
    let watcher = Watcher::start(&daemon.ws_url()).await;
    (daemon, watcher)
}

/// 50 MB that are no answer to anything.
fn junk() -> Spoil {
    Spoil::rewrite(|answer| *answer = json!("x".repeat(HUGE)))
}

/// The right logs, the first with so many bytes more than it should have.
fn stuffed(size: usize) -> Spoil {
    Spoil::rewrite(move |logs| {
        if let Some(log) = logs.get_mut(0).and_then(Value::as_object_mut) {
            log.insert("stuffing".into(), json!("x".repeat(size)));
        }
    })
}

/// The most that the process may have had: what it had before, and a few times the largest message.
fn holds_at_most(daemon: &Daemon, before: u64, more: u64) {
    let (now, most) = (daemon.memory_mib("VmRSS"), daemon.memory_mib("VmHWM"));
    println!("memory: {before} MiB before, {most} MiB at most, {now} MiB now");
    assert!(most <= before + more, "{most} MiB at most, {before} MiB before");
}

async fn lives(watcher: &mut Watcher, chain: &SharedChain, blocks: usize) {
    for _ in 0..blocks {
        watcher.lives(chain).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_over_the_bound_costs_the_node_its_connection() {
    let chain = new_chain();
    let (liar, healthy) = (new_node(&chain), new_node(&chain));
    for nodes in [vec![&liar, &healthy], vec![&liar]] {
        let (daemon, mut watcher) = beside(&nodes, 1 << 20).await;
        lives(&mut watcher, &chain, 2).await;
        let before = daemon.memory_mib("VmRSS");
        for (method, spoil) in [("eth_getLogs", junk()), ("eth_getLogs", stuffed(HUGE)), ("eth_getBlockByHash", junk())]
        {
            liar.faults().spoil(method, spoil, Span::Times(1));
            chain.reorg(1, 3);
            lives(&mut watcher, &chain, 2).await;
            liar.faults().unspoil_all();
        }
        holds_at_most(&daemon, before, 32);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_under_the_bound_is_judged_like_any_other() {
    let chain = new_chain();
    // Alone: it is sure to be asked.
    let liar = new_node(&chain);
    let (daemon, mut watcher) = beside(&[&liar], 64 << 20).await;
    lives(&mut watcher, &chain, 2).await;
    let before = daemon.memory_mib("VmRSS");
    for method in ["eth_getLogs", "eth_getBlockByHash"] {
        liar.faults().spoil(method, junk(), Span::Times(1));
        chain.reorg(1, 3);
        lives(&mut watcher, &chain, 2).await;
        liar.faults().unspoil_all();
    }
    holds_at_most(&daemon, before, 400);
}

/// A log that no socket takes at once is published, and its block leaves the chain again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_huge_log_is_not_held_once_a_client() {
    let chain = new_chain();
    let node = new_node(&chain);
    let (daemon, mut watcher) = beside(&[&node], 64 << 20).await;
    let mut stuck = Vec::new();
    for _ in 0..STUCK {
        stuck.push(Watcher::start(&daemon.ws_url()).await);
    }
    // Each of these has a filter of its own that takes every log of the chain.
    let mut picky = Vec::new();
    for n in 1..=STUCK {
        let mut client = Client::connect(&daemon.ws_url()).await;
        client.subscribe(json!(["logs", {"topics": [[TRANSFER, format!("0x{n:064x}")]]}])).await;
        picky.push(client);
    }
    lives(&mut watcher, &chain, 2).await;
    let before = daemon.memory_mib("VmRSS");
    node.faults().spoil("eth_getLogs", stuffed(LARGE), Span::Times(1));
    let logs = watcher.view.logs();
    chain.mine(3);
    while watcher.view.logs() < logs + 3 {
        watcher.step().await.expect("it reads");
    }
    chain.reorg(1, 3);
    watcher.reach(&chain).await;
    assert_eq!(watcher.view.removed, 3);
    holds_at_most(&daemon, before, (STUCK * LARGE / 2) as u64 >> 20);
    for late in &mut stuck[..4] {
        late.reach(&chain).await;
        assert_eq!(late.view.removed, 3);
    }
    for client in &mut picky[..4] {
        for _ in 0..4 * 3 {
            client.notification().await.expect("it reads after all");
        }
    }
    lives(&mut watcher, &chain, 1).await;
}
