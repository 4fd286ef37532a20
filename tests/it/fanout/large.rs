//! A block with 20,000 logs, told to clients with one filter that takes all, with a narrow one and with many, to some that
//! do not read, and taken back by a reorg.

use alloy_primitives::{Address, B256};
use chaincast::devnode::Economy;

use super::Scene;
use super::reader::Reader;
use super::script::Wish;
use crate::harness::wanted::Wanted;

const LOGS: usize = 20_000;
/// Clients of each kind.
const EACH: usize = 2;
/// Clients that do not read: the block alone is some 14 MB for each.
const STUCK: usize = 24;
/// The block is in memory as the node's answer, as what was read of it, and once encoded for all who want all of it. Once
/// more for each who does not read would be some 300 MiB.
const MORE_MIB: u64 = 120;

/// All logs; those of one token and sender; those of each sender and of each receiver, one by one.
fn wishes(economy: &Economy, kind: usize) -> Vec<Wish> {
    let of = |addresses, topics| Wish::Logs(Wanted { addresses, topics });
    let holders: Vec<B256> = economy.holders().iter().map(Address::into_word).collect();
    let token = economy.tokens()[0].address;
    match kind {
        0 => vec![Wish::Heads, Wish::all_logs()],
        1 => vec![of(vec![token], vec![vec![], vec![holders[3]]]), Wish::Heads],
        _ => {
            let senders = holders.iter().map(|holder| of(vec![], vec![vec![], vec![*holder]]));
            let receivers = holders.iter().map(|holder| of(vec![], vec![vec![], vec![], vec![*holder]]));
            senders.chain(receivers).collect()
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_of_20_000_logs_comes_and_goes() {
    // Reading 20,000 logs takes a test's client seconds, which is no fault of the client.
    let patient = ["limits.lag_max", "limits.write_stall_max", "limits.tcp_user_timeout"].map(|key| (key, "90s"));
    let keys = [&patient[..], &[("server.pong_timeout", "30m"), ("server.ping_interval", "30m")]].concat();
    let mut scene = Scene::start(4, &keys).await;
    let economy = scene.chain.economy();
    let (mut readers, mut stuck) = (Vec::new(), Vec::new());
    for n in 0..3 * EACH {
        let mut reader = scene.reader().await;
        reader.subscribe(wishes(&economy, n % 3)).await;
        readers.push(reader);
    }
    for _ in 0..STUCK {
        let mut reader = scene.narrow_reader().await;
        reader.subscribe(wishes(&economy, 0)).await;
        stuck.push(reader);
    }
    all_reach(&mut readers).await;
    scene.block(LOGS).await;
    scene.behind(STUCK).await;
    all_reach(&mut readers).await;
    scene.script.replace(1, &[30, 40]);
    scene.pace.reach().await;
    all_reach(&mut readers).await;
    // Two who did not read now do, and get the block and its removal; one ends in the middle of it.
    all_reach(&mut stuck[..2]).await;
    for _ in 0..5 {
        stuck[2].step().await.expect("the connection stands");
    }
    drop(stuck);
    scene.block(20).await;
    all_reach(&mut readers).await;
    drop(readers);
    scene.closed(&[("peer_gone", 3 * EACH + STUCK)]).await;
    scene.ends("20,000 logs", MORE_MIB).await;
}

/// All at the same time, or the last would be taken for slow.
async fn all_reach(readers: &mut [Reader]) {
    futures_util::future::join_all(readers.iter_mut().map(Reader::reach)).await;
}
