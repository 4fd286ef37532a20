//! Answers of 50 MB, before a gateway in a process of its own: over the bound they end the node's connection, under it they
//! are read and judged, and what the process holds stays bounded.

use chaincast::devnode::{DevNode, SharedChain, Span, Spoil};
use serde_json::{Value, json};

use crate::harness::Watcher;
use crate::harness::stage::{new_chain, new_node};
use crate::operations::daemon::Daemon;

const HUGE: usize = 50_000_000;

/// A gateway beside these nodes, and a strict client of it.
async fn beside(nodes: &[&DevNode], message_max_bytes: usize) -> (Daemon, Watcher) {
    let urls: Vec<String> = nodes.iter().map(|node| node.ws_url()).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let most = message_max_bytes.to_string();
    let environment =
        [("CHAINCAST__UPSTREAM__MESSAGE_MAX_BYTES", &*most), ("CHAINCAST__UPSTREAM__BACKOFF_MAX", "200ms")];
    let daemon = Daemon::run(&urls, &environment).await;
    daemon.ready().await;
    let watcher = Watcher::start(&daemon.ws_url()).await;
    (daemon, watcher)
}

/// 50 MB that are no answer to anything.
fn junk() -> Spoil {
    Spoil::rewrite(|answer| *answer = json!("x".repeat(HUGE)))
}

/// The right logs, the first with 50 MB more than it should have.
fn stuffed() -> Spoil {
    Spoil::rewrite(|logs| {
        if let Some(log) = logs.get_mut(0).and_then(Value::as_object_mut) {
            log.insert("stuffing".into(), json!("x".repeat(HUGE)));
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
        for (method, spoil) in [("eth_getLogs", junk()), ("eth_getLogs", stuffed()), ("eth_getBlockByHash", junk())] {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_huge_log_is_not_held_once_a_client() {
    let chain = new_chain();
    let node = new_node(&chain);
    let (daemon, mut watcher) = beside(&[&node], 64 << 20).await;
    lives(&mut watcher, &chain, 2).await;
    // They do not read, so what they are owed is held for them.
    let mut stuck = Vec::new();
    for _ in 0..40 {
        stuck.push(Watcher::start(&daemon.ws_url()).await);
    }
    let before = daemon.memory_mib("VmRSS");
    node.faults().spoil("eth_getLogs", stuffed(), Span::Times(1));
    chain.mine(2);
    // A plain client takes no message of that size, and so it ends.
    watcher.client.end().await;
    // What follows is as it should be, for who comes now.
    daemon.logs_are_there("default").await;
    let mut late = Watcher::start(&daemon.ws_url()).await;
    lives(&mut late, &chain, 2).await;
    holds_at_most(&daemon, before, 400);
}
