//! Clients that talk all the time while a broadcast goes on to them: subscribing and unsubscribing, asking, pinging.

use std::collections::{BTreeMap, VecDeque};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Scene;
use super::reader::Reader;
use super::script::Wish;
use crate::harness::wanted::Wanted;

const MORE_MIB: u64 = 24;
/// Clients that talk.
const TALKERS: usize = 24;

/// Heads, all logs, those of one token, and some twice.
fn some_wishes(scene: &Scene, rng: &mut StdRng) -> Vec<Wish> {
    let economy = scene.chain.economy();
    let token = |n: usize| Wish::Logs(Wanted { addresses: vec![economy.tokens()[n].address], topics: Vec::new() });
    let mut all = vec![Wish::Heads, Wish::Heads, Wish::all_logs(), Wish::all_logs(), token(0), token(1)];
    all.shuffle(rng);
    all.truncate(rng.random_range(1..=6));
    all
}

/// Subscribes and unsubscribes until told to stop; how many subscriptions it had.
async fn churn(mut reader: Reader, wishes: Vec<Vec<Wish>>, seed: u64, stop: CancellationToken) -> (Reader, usize) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut count = 0;
    for wishes in wishes.iter().cycle() {
        if stop.is_cancelled() {
            break;
        }
        let mut held = reader.subscribe(wishes.clone()).await;
        count += held.len();
        // Sometimes at once, so that answer meets answer, sometimes after some notifications.
        for _ in 0..rng.random_range(0..40) {
            tokio::select! {
                stray = reader.step() => assert_eq!(stray.expect("the connection stands"), None),
                () = stop.cancelled() => break,
            }
        }
        held.shuffle(&mut rng);
        while !held.is_empty() {
            let some = held.split_off(held.len() - rng.random_range(1..=held.len()));
            reader.unsubscribe(&some).await;
        }
    }
    (reader, count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_subscribe_and_unsubscribe_in_a_loop() {
    let mut scene = Scene::start(80, &[]).await;
    let stop = CancellationToken::new();
    let mut talkers = JoinSet::new();
    for n in 0..TALKERS {
        let reader = if n % 3 == 0 { scene.narrow_reader().await } else { scene.reader().await };
        let mut rng = StdRng::seed_from_u64(n as u64);
        let wishes = (0..50).map(|_| some_wishes(&scene, &mut rng)).collect();
        talkers.spawn(churn(reader, wishes, n as u64, stop.clone()));
    }
    for _ in 0..60 {
        scene.block(60).await;
    }
    stop.cancel();
    let (mut kept, mut received) = (Vec::new(), 0);
    for (mut reader, count) in talkers.join_all().await {
        assert!(count > 10, "it had {count} subscriptions only");
        received += reader.received;
        // What is subscribed to after all that is as exact as what was first.
        reader.subscribe(vec![Wish::Heads, Wish::all_logs()]).await;
        kept.push(reader);
    }
    assert!(received > 10_000, "{received} notifications came between");
    scene.block(20).await;
    for reader in &mut kept {
        reader.reach().await;
        assert_eq!(reader.ids().len(), 2);
    }
    drop(kept);
    scene.closed(&[("peer_gone", TALKERS)]).await;
    scene.ends("subscribe in a loop", MORE_MIB).await;
}

/// Requests under way, and what must come of them.
#[derive(Default)]
struct Asked {
    next: u64,
    /// Answered at once, so in their order.
    own: VecDeque<(u64, Value)>,
    /// Answered by the node, in any order.
    forwarded: BTreeMap<u64, Value>,
}

impl Asked {
    /// Asks twice, once of the gateway and once of the node, and pings.
    async fn more(&mut self, reader: &mut Reader, block: &Value) {
        let call = |id: u64, method: &str, params: &Value| json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.next += 2;
        let (own, forwarded) = (self.next, self.next + 1);
        self.own.push_back((own, json!("0x539")));
        self.forwarded.insert(forwarded, block["hash"].clone());
        reader.client().send(call(own, "eth_chainId", &json!([])).to_string()).await;
        let params = json!([block["hash"], true]);
        reader.client().send(call(forwarded, "eth_getBlockByHash", &params).to_string()).await;
    }

    /// An answer has come.
    fn answered(&mut self, answer: &Value) {
        let id = answer["id"].as_u64().unwrap_or_else(|| panic!("no id of ours: {answer}"));
        if let Some(hash) = self.forwarded.remove(&id) {
            assert_eq!(answer["result"]["hash"], hash);
            assert!(answer["result"]["transactions"].is_array(), "it is whole: {answer}");
        } else {
            let (next, result) = self.own.pop_front().unwrap_or_else(|| panic!("nobody asked: {answer}"));
            assert_eq!((id, &answer["result"]), (next, &result), "{answer}");
        }
    }

    fn is_done(&self) -> bool {
        self.own.is_empty() && self.forwarded.is_empty()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_ask_while_they_are_written_to() {
    // They are to be behind for as long as it takes, and not to be given up for it.
    let patient = ["limits.lag_max", "limits.write_stall_max", "limits.tcp_user_timeout"].map(|key| (key, "60s"));
    let keys = [&patient[..], &[("limits.calls_waiting", "5000")]].concat();
    let mut scene = Scene::start(80, &keys).await;
    let mut talkers = Vec::new();
    for n in 0..TALKERS {
        let mut reader = if n % 2 == 0 { scene.narrow_reader().await } else { scene.reader().await };
        reader.subscribe([vec![Wish::Heads], vec![Wish::all_logs(); 20]].concat()).await;
        talkers.push((reader, Asked::default()));
    }
    let block = scene.chain.canonical_at(1).expect("it was mined");
    let block = serde_json::from_str(&block.header_json()).expect("the chain writes JSON");
    for _ in 0..4 {
        for _ in 0..6 {
            scene.chain.mine(60);
            for (reader, asked) in &mut talkers {
                asked.more(reader, &block).await;
            }
            scene.block(20).await;
        }
        // They have asked and not read: the narrow ones are behind, and answers wait between what they are owed.
        scene.behind(TALKERS / 2).await;
        for (reader, asked) in &mut talkers {
            while !asked.is_done() {
                if let Some(answer) = reader.step().await.expect("the connection stands") {
                    asked.answered(&answer);
                }
            }
            reader.reach().await;
        }
    }
    drop(talkers);
    scene.closed(&[("peer_gone", TALKERS)]).await;
    scene.ends("ask while written to", MORE_MIB).await;
}
