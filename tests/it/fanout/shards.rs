//! A shard that is kept busy beside one that is not, and thousands of connects during a broadcast: nobody is refused, and
//! everybody gets everything.
//!
//! From outside it cannot be chosen which shard accepts a connection: one client alone keeps whichever it is on busy.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use super::Scene;
use super::reader::Reader;
use super::script::Wish;
use crate::harness::client::{Client, PATIENCE};

/// Clients that are there from the start, on either shard.
const CALM: usize = 6;
const BLOCKS: usize = 6;
/// Calls in each of their messages.
const CALLS: usize = 50;
const MORE_MIB: u64 = 48;

/// Clock ticks that each thread of the gateway has used, by its name.
fn ticks(scene: &Scene) -> BTreeMap<String, u64> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", scene.daemon.pid())).expect("the gateway is there");
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
    let used = stats.map(|stat| {
        let (name, rest) = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')')).expect("proc's form");
        // User and system time are fields 14 and 15 of all, the third being the first behind the name.
        let fields = rest.split_whitespace().skip(11).take(2);
        (name.to_owned(), fields.map(|field| field.parse::<u64>().expect("proc's form")).sum())
    });
    used.collect()
}

/// Asks and reads as fast as it can until its end.
async fn flood(mut client: Client) {
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "eth_chainId"}).to_string();
    let batch = format!("[{}]", vec![call; CALLS].join(","));
    let (mut sink, mut stream) = client.socket().split();
    let asking = async { while sink.send(Message::text(batch.clone())).await.is_ok() {} };
    let reading = async { while let Some(Ok(_)) = stream.next().await {} };
    tokio::join!(asking, reading);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_is_kept_busy() {
    let mut scene =
        Scene::start(60, &[("server.shards", "2"), ("server.pong_timeout", "30m"), ("server.ping_interval", "30m")])
            .await;
    let mut calm = Vec::new();
    let (mut floods, before) = (JoinSet::new(), ticks(&scene));
    floods.spawn(flood(scene.client().await));
    for _ in 0..CALM {
        calm.push(scene.reader().await);
    }
    for reader in &mut calm {
        reader.subscribe(vec![Wish::Heads, Wish::all_logs()]).await;
    }
    let (mut late, mut longest) = (Vec::new(), Duration::ZERO);
    for _ in 0..BLOCKS {
        let mined = Instant::now();
        scene.chain.mine(20);
        for reader in &mut calm {
            reader.reach().await;
        }
        longest = longest.max(mined.elapsed());
        assert!(floods.try_join_next().is_none(), "the flood goes on");
        scene.pace.reach().await;
        for _ in 0..2 {
            let mut reader = scene.reader().await;
            reader.subscribe(vec![Wish::Heads]).await;
            late.push(reader);
        }
    }
    for reader in &mut late {
        reader.reach().await;
    }
    let after = ticks(&scene);
    let mut used = ["shard-0", "shard-1"].map(|name| after[name] - before[name]);
    used.sort_unstable();
    println!("ticks of the shards: {used:?}; the clients had a block after {longest:?} at most");
    assert!(used[1] > 3 * used[0], "no shard was busier than the other: {used:?}");
    assert_eq!(scene.reading().await.sum("chaincast_refusals_total"), 0, "nobody was refused");
    floods.shutdown().await;
    drop((calm, late));
    scene.closed(&[("peer_gone", 1 + CALM + 2 * BLOCKS)]).await;
    scene.ends("a busy shard", MORE_MIB).await;
}

/// Clients of the crowd on heads, and as many on logs.
const CROWD: usize = 1_000;
/// Connects during the broadcast, and how many are under way at a time.
const CONNECTS: usize = 3_000;
const CONNECTING: usize = 100;

/// Comes, gets a head, and goes.
async fn visit(mut reader: Reader) {
    reader.subscribe(vec![Wish::Heads, Wish::all_logs()]).await;
    while reader.received == 0 {
        assert_eq!(reader.step().await.expect("the connection stands"), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_connects_during_a_broadcast() {
    let mut scene = Scene::start(CROWD, &[]).await;
    let (url, script) = (scene.daemon.ws_url(), scene.script.clone());
    let storm = tokio::spawn(
        futures_util::stream::iter(0..CONNECTS)
            .map(move |_| {
                let (url, script) = (url.clone(), script.clone());
                tokio::spawn(async move { visit(Reader::new(Client::connect(&url).await, script)).await })
            })
            .buffered(CONNECTING)
            .for_each(async |visit| visit.expect("it is let in and gets a head")),
    );
    let mut blocks = 0;
    while !storm.is_finished() {
        scene.block(3).await;
        blocks += 1;
    }
    tokio::time::timeout(PATIENCE, storm).await.expect("it is finished").expect("no visit fails");
    println!("{CONNECTS} came and went during {blocks} blocks to {} clients", 2 * CROWD);
    assert!(blocks > 10, "there was hardly a broadcast");
    scene.closed(&[("peer_gone", CONNECTS)]).await;
    let reading = scene.reading().await;
    assert_eq!(reading.sum("chaincast_refusals_total"), 0);
    let connected = 2 * CROWD + 1 + CONNECTS;
    assert_eq!(reading.count("chaincast_handshakes_total"), connected);
    scene.ends("thousands of connects", MORE_MIB).await;
}
