//! Answers that are not true, not whole, not asked for, or never come: to the logs of a block, to a block while parents
//! are walked, to the latest block when a node is connected.

use std::time::{Duration, Instant};

use alloy_primitives::B256;
use chaincast::devnode::{Span, Spoil};
use serde_json::{Value, json};

use super::is_up;
use crate::harness::stage::{CHAIN, Stage, new_chain, new_node};
use crate::harness::{Gateway, GatewayOptions, Watcher, until};

fn each(change: impl Fn(&mut Value) + Send + Sync + 'static) -> Spoil {
    Spoil::rewrite(move |list| list.as_array_mut().into_iter().flatten().for_each(&change))
}

/// Ways to lie about the logs of a block.
fn lies_about_logs() -> Vec<(&'static str, Spoil)> {
    let list = |change: fn(&mut Vec<Value>)| {
        Spoil::rewrite(move |logs| {
            if let Some(logs) = logs.as_array_mut() {
                change(logs);
            }
        })
    };
    vec![
        ("out of order", list(|logs| logs.reverse())),
        ("the first two swapped", list(|logs| logs.swap(0, 1))),
        ("each of them twice", list(|logs| *logs = logs.iter().flat_map(|log| [log.clone(), log.clone()]).collect())),
        ("the whole list twice", list(|logs| logs.extend_from_within(..))),
        ("the last is missing", list(|logs| drop(logs.pop()))),
        ("of another contract", each(|log| log["address"] = json!("0x00000000000000000000000000000000000000aa"))),
        ("with other topics", each(|log| log["topics"] = json!([B256::repeat_byte(0x77)]))),
        ("with five topics", each(|log| log["topics"] = vec![json!(B256::ZERO); 5].into())),
        ("of a block that nobody has", each(|log| log["blockHash"] = json!(B256::repeat_byte(0x77)))),
        ("of another height", each(|log| log["blockNumber"] = json!("0x1"))),
        (
            "indexes from one on",
            each(|log| {
                let index = crate::harness::geth::quantity(&log["logIndex"]);
                log["logIndex"] = json!(format!("{:#x}", index + 1));
            }),
        ),
        ("without an address", each(|log| log["address"] = Value::Null)),
        ("without topics", each(|log| log["topics"] = Value::Null)),
        ("without a block", each(|log| log["blockHash"] = Value::Null)),
        ("without an index", each(|log| log["logIndex"] = Value::Null)),
        ("nulls for logs", each(|log| *log = Value::Null)),
        ("null", Spoil::rewrite(|logs| *logs = Value::Null)),
        ("an object", Spoil::rewrite(|logs| *logs = json!({"logs": logs.clone()}))),
        ("a text", Spoil::rewrite(|logs| *logs = json!("no logs today"))),
        ("an error", Spoil::Error(-32_603, "internal error".into())),
    ]
}

#[tokio::test]
async fn lies_about_logs_are_asked_about_again() {
    let stage = Stage::start(&[]).await;
    let mut watcher = stage.watcher().await;
    watcher.lives(&stage.chain).await;
    for (lie, spoil) in lies_about_logs() {
        println!("{lie}");
        let before = stage.node.counters().calls("eth_getLogs");
        stage.node.faults().spoil("eth_getLogs", spoil, Span::Times(2));
        stage.chain.mine(5);
        watcher.reach(&stage.chain).await;
        assert_eq!(stage.node.counters().calls("eth_getLogs"), before + 3, "{lie}");
    }
    assert_eq!(stage.gateway.metrics.panics.get(), 0);
    drop(watcher);
    stage.stop().await;
}

#[tokio::test]
async fn a_node_that_always_lies_about_logs_is_passed_over_for_another() {
    let chain = new_chain();
    let (liar, healthy) = (new_node(&chain), new_node(&chain));
    let gateway = Gateway::start(GatewayOptions::upstreams([liar.ws_url(), healthy.ws_url()])).await;
    gateway.ready().await;
    let mut watcher = Watcher::start(&gateway.ws_url()).await;
    watcher.lives(&chain).await;
    for (lie, spoil) in lies_about_logs() {
        println!("{lie}");
        liar.faults().spoil("eth_getLogs", spoil, Span::Always);
        for _ in 0..2 {
            watcher.lives(&chain).await;
        }
        liar.faults().unspoil_all();
    }
    drop(watcher);
    gateway.stop().await;
}

/// Ways to lie about one block. With the first ones another block is told instead, with the rest none can be read.
fn lies_about_blocks() -> Vec<(&'static str, Spoil)> {
    let field = |name: &'static str, value: Value| Spoil::rewrite(move |block| block[name] = value.clone());
    vec![
        ("the parent instead", Spoil::OtherBlock),
        ("another hash", field("hash", json!(B256::repeat_byte(0x77)))),
        ("null", Spoil::Empty),
        ("no hash", field("hash", Value::Null)),
        ("no number", field("number", Value::Null)),
        ("no parent", field("parentHash", Value::Null)),
        ("a list", Spoil::rewrite(|block| *block = json!([block.clone()]))),
        ("an error", Spoil::Error(-32_000, "header not found".into())),
    ]
}

#[tokio::test]
async fn lies_about_blocks_are_asked_about_again() {
    let stage = Stage::start(&[]).await;
    let mut watcher = stage.watcher().await;
    for _ in 0..6 {
        watcher.lives(&stage.chain).await;
    }
    for (lie, spoil) in lies_about_blocks() {
        println!("{lie}");
        let before = watcher.view.replaced;
        stage.node.faults().spoil("eth_getBlockByHash", spoil, Span::Times(3));
        stage.chain.reorg(3, 4);
        watcher.reach(&stage.chain).await;
        assert_eq!(watcher.view.replaced - before, 3, "{lie}");
    }
    drop(watcher);
    stage.stop().await;
}

#[tokio::test]
async fn a_latest_block_that_cannot_be_read_is_asked_for_by_connecting_again() {
    let stage = Stage::start(&[("upstream.backoff_max", "200ms")]).await;
    let mut watcher = stage.watcher().await;
    watcher.lives(&stage.chain).await;
    let unreadable = lies_about_blocks().into_iter().skip(2);
    for (lie, spoil) in unreadable {
        println!("{lie}");
        // Block 0 is asked for by number as well, and is not needed.
        stage.node.faults().spoil("eth_getBlockByNumber", spoil, Span::Times(4));
        stage.node.faults().cut_connections();
        stage.chain.mine(2);
        watcher.reach(&stage.chain).await;
        stage.node.faults().unspoil_all();
    }
    watcher.lives(&stage.chain).await;
    drop(watcher);
    stage.stop().await;
}

#[tokio::test]
async fn answers_that_nothing_asked_for_are_not_taken_for_others() {
    let stage = Stage::start(&[("upstream.backoff_max", "200ms")]).await;
    let mut watcher = stage.watcher().await;
    watcher.lives(&stage.chain).await;
    for result in [json!([]), json!(true), Value::Null, json!("0x1"), json!([{"address": "0x1"}])] {
        for id in 0..60 {
            stage.chain.mine(1);
            let answer = json!({"jsonrpc": "2.0", "id": id, "result": result});
            stage.node.faults().send_text(&answer.to_string());
        }
        // The node may have been given up for it.
        watcher.reach(&stage.chain).await;
        until("the node is up", async || is_up(&stage.gateway, &stage.node) == 1).await;
    }
    watcher.lives(&stage.chain).await;
    assert_eq!(stage.gateway.metrics.panics.get(), 0);
    drop(watcher);
    stage.stop().await;
}

#[tokio::test]
async fn an_answer_that_never_comes_is_asked_for_again() {
    let chain = new_chain();
    let (silent, healthy) = (new_node(&chain), new_node(&chain));
    let options = GatewayOptions::upstreams([silent.ws_url(), healthy.ws_url()]).set("upstream.call_timeout", "1s");
    let gateway = Gateway::start(options).await;
    gateway.ready().await;
    let mut watcher = Watcher::start(&gateway.ws_url()).await;
    watcher.lives(&chain).await;
    silent.faults().spoil("eth_getLogs", Spoil::Silent, Span::Always);
    silent.faults().spoil("eth_getBlockByHash", Spoil::Silent, Span::Always);
    let begun = Instant::now();
    watcher.lives(&chain).await;
    chain.extend(&[1, 2, 3]);
    watcher.reach(&chain).await;
    println!("with a node that does not answer, two blocks took {} ms", begun.elapsed().as_millis());
    assert_eq!(watcher.view.replaced, 0);

    // Silent from the first call on: it is never up, and nobody waits for it.
    silent.faults().spoil("eth_chainId", Spoil::Silent, Span::Always);
    silent.faults().cut_connections();
    for _ in 0..3 {
        watcher.lives(&chain).await;
    }
    until("it is given up", async || is_up(&gateway, &silent) == 0).await;
    silent.faults().unspoil_all();
    until("it is back", async || is_up(&gateway, &silent) == 1).await;
    watcher.lives(&chain).await;
    drop(watcher);
    gateway.stop().await;
}

#[tokio::test]
async fn logs_that_never_become_complete_end_the_subscriptions_visibly() {
    let stage = Stage::start(&[("upstream.logs_wait_max", "2s")]).await;
    let mut watcher = stage.watcher().await;
    watcher.lives(&stage.chain).await;
    let mut late = stage.client().await;
    late.subscribe(json!(["newHeads"])).await;
    stage.node.faults().spoil("eth_getLogs", Spoil::LogHole, Span::Always);
    let begun = Instant::now();
    stage.chain.mine(5);
    let end = watcher.client.end().await;
    assert_eq!(end, crate::harness::client::End::Closed(1013, "gap".into()));
    assert!(begun.elapsed() > Duration::from_secs(2), "after {:?}", begun.elapsed());
    assert_eq!(stage.gateway.gaps(CHAIN), 1);
    stage.node.faults().unspoil_all();
    // The new beginning is a head like any other: who comes between it and its logs gets the logs alone.
    until("its logs are there", async || stage.gateway.metrics.logs_waiting.with_label_values(&[CHAIN]).get() == 0)
        .await;
    let mut again = stage.watcher().await;
    again.lives(&stage.chain).await;
    drop((watcher, late, again));
    stage.stop().await;
}
