//! Very many filters: what each gets equals what the naive matcher says, before, during and after a storm of subscribing and
//! unsubscribing.
//!
//! 20,000 filters over 200 connections; `CHAINCAST_FILTERS=1000000` asks for more, 100 a connection.

use std::collections::HashSet;

use chaincast::devnode::{DevOptions, Economy, TRANSFER_TOPIC};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

use alloy_primitives::B256;

use super::Scene;
use super::reader::Reader;
use super::script::Wish;
use crate::harness::asked;
use crate::harness::wanted::Wanted;

const FILTERS: u64 = 20_000;
/// Filters of each connection.
const EACH: usize = 100;
/// Connections that are made, read or changed at the same time.
const SIDE_BY_SIDE: usize = 50;
/// Logs of the blocks, in turn.
const LOGS: [usize; 4] = [40, 0, 120, 7];
/// Bytes of a filter in the gateway, with its subscription, stream and share of the connection: a few times what it needs.
const FILTER_BYTES: u64 = 2_000;

/// A chain on which a filter may be narrow.
fn layout() -> DevOptions {
    DevOptions { tokens: 60, holders: 600, pending_per_block: 0, ..DevOptions::default() }
}

/// One of very many: by token, sender and receiver, each of them one, several or any; some that nothing can match.
fn draw(economy: &Economy, rng: &mut StdRng) -> Wanted {
    let any = || Vec::new();
    let mut holders = |most: usize| -> Vec<B256> {
        let count = rng.random_range(1..=most);
        let all = economy.holders();
        let mut some: Vec<_> = (0..count).map(|_| all[rng.random_range(0..all.len())].into_word()).collect();
        some.sort_unstable();
        some.dedup();
        some
    };
    let (one, several, many) = (holders(1), holders(4), holders(60));
    let mut tokens: Vec<_> = economy.tokens().iter().map(|token| token.address).collect();
    tokens.shuffle(rng);
    let few = rng.random_range(1..=3);
    tokens.truncate(few);
    tokens.sort_unstable();
    let transfer = || vec![TRANSFER_TOPIC];
    let (addresses, topics) = match rng.random_range(0..9) {
        0 => (tokens, vec![transfer(), one]),
        1 => (tokens, vec![any(), any(), one]),
        2 => (vec![], vec![any(), several]),
        3 => (vec![], vec![transfer(), any(), several]),
        4 => (vec![], vec![transfer(), one, several]),
        5 => (tokens, vec![any(), many]),
        6 => (tokens, vec![any(), several, any()]),
        7 => (vec![], vec![vec![TRANSFER_TOPIC, one[0]], many]),
        _ => (tokens, vec![any(), one, any(), any()]),
    };
    Wanted { addresses, topics }
}

/// Filters that all differ.
struct Deck {
    drawn: HashSet<Wanted>,
    rng: StdRng,
}

impl Deck {
    fn hand(&mut self, economy: &Economy, count: usize) -> Vec<Wish> {
        let mut hand = Vec::new();
        while hand.len() < count {
            let wanted = draw(economy, &mut self.rng);
            if self.drawn.insert(wanted.clone()) {
                hand.push(Wish::Logs(wanted));
            }
        }
        hand
    }
}

/// Does the same with each reader, some side by side.
async fn each<F: Future<Output = Reader> + Send + 'static>(
    readers: Vec<Reader>,
    act: impl Fn(Reader) -> F,
) -> Vec<Reader> {
    let (mut done, mut left, mut acting) = (Vec::new(), readers.into_iter(), JoinSet::new());
    loop {
        while acting.len() < SIDE_BY_SIDE
            && let Some(reader) = left.next()
        {
            acting.spawn(act(reader));
        }
        match acting.join_next().await {
            Some(reader) => done.push(reader.expect("no client is wrong")),
            None => return done,
        }
    }
}

async fn reach(readers: Vec<Reader>) -> Vec<Reader> {
    each(readers, |mut reader| async move {
        reader.reach().await;
        reader
    })
    .await
}

/// Gives up half of what it has and asks for others instead, some at a time.
async fn change(mut reader: Reader, wishes: Vec<Wish>, seed: u64) -> Reader {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut ids = reader.ids();
    ids.sort_unstable();
    ids.shuffle(&mut rng);
    ids.truncate(wishes.len());
    let (mut ids, mut wishes) = (ids.as_slice(), wishes.as_slice());
    while !ids.is_empty() {
        let count = rng.random_range(1..=ids.len().min(10));
        reader.unsubscribe(&ids[..count]).await;
        reader.subscribe(wishes[..count].to_vec()).await;
        (ids, wishes) = (&ids[count..], &wishes[count..]);
    }
    reader
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn very_many_filters() {
    let filters = asked("CHAINCAST_FILTERS", FILTERS);
    let keys = [
        ("limits.lag_max", "10m"),
        ("limits.lag_max_blocks", "100000"),
        ("server.pong_timeout", "30m"),
        ("server.ping_interval", "30m"),
    ];
    let mut scene = Scene::on(layout(), 20, &keys).await;
    let economy = scene.chain.economy();
    let mut deck = Deck { drawn: HashSet::new(), rng: StdRng::seed_from_u64(7) };
    let mut readers = Vec::new();
    for _ in 0..filters / EACH as u64 {
        let mut reader = scene.reader().await;
        reader.subscribe(deck.hand(&economy, EACH)).await;
        readers.push(reader);
    }
    let streams = scene.reading().await.count("chaincast_streams") as u64;
    assert!(streams >= filters, "{streams} streams of {filters} filters");
    let blocks = async |scene: &mut Scene| {
        for logs in LOGS {
            scene.block(logs).await;
        }
    };
    blocks(&mut scene).await;
    let mut readers = reach(readers).await;
    let before: usize = readers.iter().map(|reader| reader.received).sum();
    assert!(before > readers.len(), "{before} logs for {} clients", readers.len());

    // All at once: half of all filters go and others come, while blocks come.
    let mut storm = JoinSet::new();
    for (n, reader) in readers.drain(..).enumerate() {
        let wishes = deck.hand(&economy, EACH / 2);
        storm.spawn(change(reader, wishes, n as u64));
    }
    let mut changed = Vec::new();
    while !storm.is_empty() {
        scene.block(60).await;
        while let Some(reader) = storm.try_join_next() {
            changed.push(reader.expect("no client is wrong"));
        }
    }
    let readers = reach(changed).await;
    blocks(&mut scene).await;
    let readers = reach(readers).await;
    let after: usize = readers.iter().map(|reader| reader.received).sum();
    println!("{filters} filters of {} clients got {before} logs, then {}", readers.len(), after - before);
    each(readers, |mut reader| async move {
        let ids = reader.ids();
        assert_eq!(ids.len(), EACH);
        reader.unsubscribe(&ids).await;
        reader
    })
    .await;
    scene.ends("very many filters", 24 + ((filters * FILTER_BYTES) >> 20)).await;
}
