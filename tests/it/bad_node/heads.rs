//! Heads that are not true: wrong parents, equal numbers, numbers going back or far ahead, missing fields, a hash that
//! changes. Beside a healthy node nobody notices; alone, the stream is exact again once the node is.

use alloy_primitives::{B256, keccak256};
use chaincast::devnode::{DevNode, SharedChain, Span, Spoil};
use serde_json::{Value, json};

use crate::harness::client::{End, PATIENCE};
use crate::harness::stage::{CHAIN, new_chain, new_node};
use crate::harness::{Gateway, GatewayOptions, Watcher, until};

/// Blocks that a node lies about.
const LIES: u32 = 4;

fn number(head: &Value) -> u64 {
    crate::harness::geth::quantity(&head["number"])
}

/// Replaces a field by what is made of the head.
fn field(name: &'static str, make: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Spoil {
    Spoil::rewrite(move |head| {
        let told = make(head);
        head[name] = told;
    })
}

/// A hash that nobody has, different for each head.
fn nobodys(head: &Value) -> Value {
    json!(keccak256(head["hash"].as_str().unwrap_or_default()))
}

/// A number so many away.
fn shifted(by: i64) -> impl Fn(&Value) -> Value + Send + Sync {
    move |head| json!(format!("{:#x}", number(head).saturating_add_signed(by)))
}

/// Ways to lie in a head that can be read.
fn lies(chain: &SharedChain) -> Vec<(&'static str, Spoil)> {
    let of = chain.clone();
    let grandparent = move |head: &Value| {
        let hash: B256 = head["parentHash"].as_str().and_then(|hash| hash.parse().ok()).expect("it has a parent");
        json!(of.block(hash).expect("the parent is known").parent_hash())
    };
    vec![
        ("a parent that nobody has", field("parentHash", nobodys)),
        ("its grandparent for a parent", field("parentHash", grandparent)),
        ("itself for a parent", field("parentHash", |head| head["hash"].clone())),
        ("no parent at all", field("parentHash", |_| json!(B256::ZERO))),
        ("the number of its parent", field("number", shifted(-1))),
        ("a number going back", field("number", shifted(-5))),
        ("number 0", field("number", |_| json!("0x0"))),
        ("a number too high", field("number", shifted(1))),
        ("the highest number", field("number", |_| json!("0xffffffffffffffff"))),
    ]
}

/// Heads of another place on the same chain.
fn far() -> Vec<(&'static str, Spoil)> {
    vec![("a number 100,000 too high", field("number", shifted(100_000)))]
}

/// Heads that cannot be read.
fn unreadable() -> Vec<(&'static str, Spoil)> {
    vec![
        ("a number that is too long", field("number", |_| json!("0x10000000000000000"))),
        ("a number that is a number", field("number", |head| json!(number(head)))),
        ("a number that is null", field("number", |_| Value::Null)),
        ("a hash that is null", field("hash", |_| Value::Null)),
        ("a hash that is too short", field("hash", |_| json!("0x1234"))),
        ("a parent that is null", field("parentHash", |_| Value::Null)),
        ("a time that is null", field("timestamp", |_| Value::Null)),
        ("a bloom that is too short", field("logsBloom", |_| json!("0x00"))),
        ("null", Spoil::rewrite(|head| *head = Value::Null)),
        ("a list", Spoil::rewrite(|head| *head = json!([head.clone()]))),
        ("an empty object", Spoil::rewrite(|head| *head = json!({}))),
    ]
}

/// A gateway that follows these nodes, and a strict client.
async fn follow(chain: &SharedChain, nodes: &[&DevNode]) -> (Gateway, Watcher) {
    let options = GatewayOptions::upstreams(nodes.iter().map(|node| node.ws_url()));
    let gateway = Gateway::start(options.set("upstream.backoff_max", "200ms")).await;
    gateway.ready().await;
    let mut watcher = Watcher::start(&gateway.ws_url()).await;
    for _ in 0..6 {
        watcher.lives(chain).await;
    }
    (gateway, watcher)
}

async fn end(gateway: Gateway, watcher: Watcher) {
    assert_eq!(gateway.metrics.panics.get(), 0);
    assert_eq!(gateway.gaps(CHAIN), 0);
    drop(watcher);
    gateway.stop().await;
}

#[tokio::test]
async fn heads_that_lie_change_nothing_beside_a_healthy_node() {
    let chain = new_chain();
    let (liar, healthy) = (new_node(&chain), new_node(&chain));
    let (gateway, mut watcher) = follow(&chain, &[&liar, &healthy]).await;
    for (lie, spoil) in lies(&chain).into_iter().chain(far()).chain(unreadable()) {
        println!("{lie}");
        liar.faults().spoil("newHeads", spoil, Span::Times(LIES));
        for _ in 0..LIES {
            watcher.lives(&chain).await;
        }
    }
    watcher.lives(&chain).await;
    assert_eq!(watcher.view.replaced, 0);
    end(gateway, watcher).await;
}

/// Beside a liar alone: what it lied about is made up for when it is healed.
async fn is_made_up_for(chain: &SharedChain, lies: Vec<(&'static str, Spoil)>) {
    let liar = new_node(chain);
    let (gateway, mut watcher) = follow(chain, &[&liar]).await;
    for (lie, spoil) in lies {
        println!("{lie}");
        liar.faults().spoil("newHeads", spoil, Span::Times(LIES));
        for logs in 0..LIES {
            chain.mine(logs as usize);
        }
        liar.caught_up().await;
        watcher.lives(chain).await;
    }
    assert_eq!(watcher.view.replaced, 0);
    end(gateway, watcher).await;
}

#[tokio::test]
async fn heads_that_cannot_be_read_are_made_up_for_when_the_node_is_healed() {
    is_made_up_for(&new_chain(), unreadable()).await;
}

/// Reads on until the view is the chain, or the connection ends.
async fn read_on(watcher: &mut Watcher, chain: &SharedChain) -> Result<(), End> {
    let reading = async {
        while watcher.view.compare(chain).is_err() {
            watcher.step().await?;
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE / 2, reading).await.expect("the stream goes on or ends")
}

#[tokio::test]
async fn heads_that_lie_are_made_up_for_or_end_the_stream_visibly() {
    let chain = new_chain();
    for (lie, spoil) in lies(&chain).into_iter().chain(far()) {
        println!("{lie}");
        let liar = new_node(&chain);
        // Each by itself: a lie that is not made up for must not be covered by the next.
        let (gateway, mut watcher) = follow(&chain, &[&liar]).await;
        liar.faults().spoil("newHeads", spoil, Span::Times(LIES));
        for logs in 0..LIES {
            chain.mine(logs as usize);
        }
        liar.caught_up().await;
        chain.mine(3);
        if let Err(end) = read_on(&mut watcher, &chain).await {
            // Nobody else says that the chain did not go on there.
            assert_eq!((&*end_of(&gateway, end).await, lie.contains("number")), ("gap", true), "{lie}");
            watcher = Watcher::start(&gateway.ws_url()).await;
        }
        for _ in 0..2 {
            watcher.lives(&chain).await;
        }
        drop(watcher);
        gateway.stop().await;
    }
}

/// Why a connection ended; what comes now is then the beginning of something new, with its logs.
async fn end_of(gateway: &Gateway, end: End) -> String {
    until("its logs are there", async || gateway.metrics.logs_waiting.with_label_values(&[CHAIN]).get() == 0).await;
    match end {
        End::Closed(1013, reason) => reason,
        other => format!("{other:?}"),
    }
}

/// A hash that is not the header's, another one each time that the header is told.
fn changing() -> Spoil {
    let told = std::sync::atomic::AtomicU64::new(0);
    field("hash", move |head| {
        let times = told.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        json!(keccak256(format!("{} {times}", head["hash"])))
    })
}

#[tokio::test]
async fn a_hash_that_changes_for_the_same_header_is_taken_back() {
    let chain = new_chain();
    let (liar, healthy) = (new_node(&chain), new_node(&chain));
    for nodes in [vec![&liar], vec![&liar, &healthy]] {
        let (gateway, mut watcher) = follow(&chain, &nodes).await;
        for methods in [&["newHeads"][..], &["newHeads", "eth_getBlockByHash"]] {
            for method in methods {
                liar.faults().spoil(method, changing(), Span::Always);
            }
            for logs in 0..6 {
                chain.mine(logs);
                liar.caught_up().await;
                healthy.caught_up().await;
            }
            liar.faults().unspoil_all();
            // What stands under a false hash gives way to what stands on the true one.
            watcher.lives(&chain).await;
        }
        end(gateway, watcher).await;
    }
}
