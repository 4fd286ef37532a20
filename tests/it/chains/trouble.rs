//! One chain in trouble: the other's stream, clients and calls do not notice, and probes and metrics say which it is.

use std::time::{Duration, Instant};

use chaincast::devnode::{BlockRef, SharedChain};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use super::{Scene, Side};
use crate::harness::{Client, Crowd, Watcher};

/// Clients on heads, and as many on logs, of the chain that is well.
const EACH: usize = 25;
/// A head of the chain that is well may take so long.
const PROMPT: Duration = Duration::from_secs(1);

/// What is wrong, how it begins, and how it ends.
type Trouble<'a> = (&'static str, &'a dyn Fn(), &'a dyn Fn());

/// The chain that is well goes on for so many blocks, 10 a second, while something is wrong with the other.
async fn is_left_alone(scene: &Scene, crowd: &Crowd, watcher: &mut Watcher, blocks: usize) {
    let mut ticks = interval(Duration::from_millis(100));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let chain = &scene.red.chain;
    let mut mined: Vec<(BlockRef, Instant)> = Vec::new();
    for logs in [3, 0, 7].into_iter().cycle().take(blocks) {
        ticks.tick().await;
        let at = Instant::now();
        mined.push((chain.mine(logs), at));
        watcher.reach(chain).await;
    }
    let latest = watcher.client.call("eth_getBlockByNumber", json!(["latest", false])).await;
    assert_eq!(latest["result"]["hash"], json!(chain.head().hash));
    crate::harness::until("all heads have come", async || mined.iter().all(|(b, _)| crowd.arrival(*b).is_some())).await;
    let took = |(block, at): &(BlockRef, Instant)| {
        crowd.arrival(*block).map_or(Duration::ZERO, |arrival| arrival.saturating_duration_since(*at))
    };
    let slowest = mined.iter().map(took).max().expect("blocks were mined");
    println!("the slowest head of {blocks} took {} ms", slowest.as_millis());
    assert!(slowest < PROMPT, "a head took {slowest:?}");
}

/// A scene with a crowd and a watcher on the chain that is well.
async fn with_crowd(keys: &[(&str, &str)]) -> (Scene, Crowd, Watcher) {
    let scene = Scene::start(keys).await;
    let mut watcher = scene.watcher("red").await;
    watcher.lives(&scene.red.chain).await;
    let crowd = Crowd::start(&scene.url("red"), &scene.red.chain, EACH).await;
    (scene, crowd, watcher)
}

async fn end(scene: Scene, crowd: Crowd, watcher: Watcher, name: &str) {
    crowd.ends_exact(name).await;
    for chain in super::NAMES {
        assert_eq!(scene.gateway.gaps(chain), 0);
    }
    drop(watcher);
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_whose_node_is_away_silent_or_another_leaves_the_other_alone() {
    let keys = [("upstream.silence_max", "1s"), ("upstream.connect_timeout", "1s"), ("chain.blue.chain_id", "2")];
    let (scene, crowd, mut watcher) = with_crowd(&keys).await;
    let mut other = scene.watcher("blue").await;
    other.lives(&scene.blue.chain).await;
    let faults = scene.blue.node.faults();
    let away: Trouble<'_> = (
        "away",
        &|| {
            faults.refuse_connections(true).expect("the port is given back");
            faults.cut_connections();
        },
        &|| faults.refuse_connections(false).expect("the port is free"),
    );
    let stalled: Trouble<'_> = ("stalled", &|| faults.stall(true), &|| faults.stall(false));
    for (name, begin, cease) in [away, stalled] {
        begin();
        let in_trouble = async {
            scene.reads("blue: no node is connected\n").await;
            scene.reads("red: ready\n").await;
            assert_eq!((scene.is_up("red", &scene.red), scene.is_up("blue", &scene.blue)), (true, false), "{name}");
        };
        tokio::join!(in_trouble, is_left_alone(&scene, &crowd, &mut watcher, 20));
        scene.blue.chain.extend(&[1, 2, 3]);
        cease();
        scene.reads("blue: ready\n").await;
        other.lives(&scene.blue.chain).await;
    }
    // The node comes back as one of another chain; the pause after that is long, so this is the last.
    faults.set_chain_id(Some(10));
    faults.cut_connections();
    scene.reads("blue: no node is connected\n").await;
    is_left_alone(&scene, &crowd, &mut watcher, 10).await;
    let mut client = Client::connect(&scene.url("blue")).await;
    let answer = client.call("chaincast_status", json!([])).await;
    assert_eq!(answer["result"]["upstreams"], json!(["wrong chain"]), "{answer}");
    drop((client, other));
    end(scene, crowd, watcher, "beside a chain in trouble").await;
}

/// Blocks as fast as they come, each with very many logs.
async fn flood(chain: &SharedChain) {
    let mut ticks = interval(Duration::from_millis(50));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let chain = chain.clone();
        tokio::task::spawn_blocking(move || chain.mine(200)).await.expect("it mines");
    }
}

/// Reads what a side's chain tells for as long as the connection stands.
async fn read_on(side: &Side, mut watcher: Watcher) {
    loop {
        if let Err(end) = watcher.step().await {
            panic!("a client of the flooded chain was closed at {}: {end:?}", side.chain.head().number);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_that_floods_leaves_the_other_alone() {
    let (scene, crowd, mut watcher) = with_crowd(&[]).await;
    let flooded = scene.watcher("blue").await;
    tokio::select! {
        () = flood(&scene.blue.chain) => {}
        () = read_on(&scene.blue, flooded) => {}
        () = is_left_alone(&scene, &crowd, &mut watcher, 50) => {}
    }
    println!("the other chain is at {}", scene.blue.chain.head().number);
    assert!(scene.blue.chain.head().number > 10, "that was no flood");
    scene.reads("blue: ready\n").await;
    end(scene, crowd, watcher, "beside a chain that floods").await;
}
