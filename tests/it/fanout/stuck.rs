//! Clients that never read, or next to nothing: each is closed with 1013 in time, and until then costs one piece of an
//! update, however much it is owed.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Scene;
use super::reader::Reader;
use super::script::Wish;
use crate::harness::client::{Client, End};

/// Clients of each kind.
const STUCK: usize = 16;
/// Subscriptions of each, so that a few blocks are megabytes.
const HEADS: usize = 64;
const LOGS: usize = 32;
const BLOCKS: usize = 40;
const LOGS_OF_BLOCK: usize = 40;
/// Logs of the block that fills the sockets: what is left of it to a client of logs is 11 MB, if it were all encoded at once.
const LOGS_OF_FIRST: usize = 500;
/// What the process may have beyond what it has with the crowd, mostly the first block encoded once for each kind of
/// client. The stuck clients are owed some hundreds of MB; the rest of the first block, if each held it, is 80.
const MORE_MIB: u64 = 48;

/// What the n-th client of either kind asks for: heads only, or logs only.
fn wishes(n: usize) -> Vec<Wish> {
    if n.is_multiple_of(2) { vec![Wish::Heads; HEADS] } else { vec![Wish::all_logs(); LOGS] }
}

/// Bytes that all who do not read are owed of the chain.
fn owed_mib(scene: &Scene, clients: usize) -> usize {
    let blocks = scene.chain.canonical_blocks();
    let heads: usize = blocks.iter().map(|block| block.header_json().len()).sum();
    let logs: usize = blocks.iter().flat_map(|block| block.logs_json(false)).map(|log| log.len()).sum();
    ((heads * HEADS + logs * LOGS) * clients / 2) >> 20
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_never_read() {
    let stall = Duration::from_secs(5);
    let keys = [("limits.write_stall_max", "5s"), ("limits.lag_max_blocks", "100000"), ("server.close_timeout", "8s")];
    let mut scene = Scene::start(80, &keys).await;
    let mut stuck = Vec::new();
    for n in 0..2 * STUCK {
        let mut reader = scene.narrow_reader().await;
        reader.subscribe(wishes(n)).await;
        stuck.push(reader);
    }
    scene.block(LOGS_OF_FIRST).await;
    for _ in 0..5 {
        scene.block(LOGS_OF_BLOCK).await;
    }
    scene.behind(2 * STUCK).await;
    let full = Instant::now();
    for _ in 0..BLOCKS {
        scene.block(LOGS_OF_BLOCK).await;
    }
    println!("{} MiB are owed to {} stuck clients", owed_mib(&scene, 2 * STUCK), 2 * STUCK);
    scene.all_given_up().await;
    assert!(full.elapsed() < 2 * stall + Duration::from_secs(5), "given up after {:?}", full.elapsed());
    // One half reads at last what was sent, the other half never does.
    let end = End::Closed(1013, "socket not read".to_owned());
    for reader in &mut stuck[..STUCK] {
        assert_eq!(reader.end().await, end);
    }
    drop(stuck.drain(..STUCK));
    scene.closed(&[("write_stalled", 2 * STUCK)]).await;
    scene.ends("never read", MORE_MIB).await;
    drop(stuck);
}

/// A line between a client and the gateway that carries only so much a second to the client.
struct Line {
    address: SocketAddr,
    /// Bytes a tick, and the tick.
    rate: watch::Sender<(usize, Duration)>,
    /// Ends with it.
    _pumps: JoinSet<()>,
}

impl Line {
    /// For as many clients as connect. As fast as can be, until it is told otherwise.
    async fn start(gateway: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let rate = watch::Sender::new((1 << 16, Duration::ZERO));
        let told = rate.subscribe();
        let mut pumps = JoinSet::new();
        pumps.spawn(async move {
            let mut lines = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let socket = TcpSocket::new_v4().expect("a socket");
                socket.set_recv_buffer_size(4096).expect("the size may be set before connecting");
                let gateway = socket.connect(gateway).await.expect("the gateway listens");
                lines.spawn(pump(client, gateway, told.clone()));
            }
        });
        Self { address, rate, _pumps: pumps }
    }
}

async fn pump(
    client: tokio::net::TcpStream,
    gateway: tokio::net::TcpStream,
    mut rate: watch::Receiver<(usize, Duration)>,
) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_gateway, mut to_gateway) = gateway.into_split();
    let up = async { drop(tokio::io::copy(&mut from_client, &mut to_gateway).await) };
    let down = async {
        let mut bytes = vec![0; 1 << 16];
        loop {
            let (most, tick) = *rate.borrow_and_update();
            // Until the next tick, or until another rate is told.
            drop(tokio::time::timeout(tick, rate.changed()).await);
            match from_gateway.read(&mut bytes[..most]).await {
                Ok(n) if n > 0 && to_client.write_all(&bytes[..n]).await.is_ok() => {}
                _ => return,
            }
        }
    };
    // What the gateway still has for the client may come after the client's last word, so only its own end is the end.
    tokio::select! {
        () = down => {}
        () = up.then(|()| std::future::pending()) => {}
    }
}

/// Clients on a line of this rate are given up, and have got nothing that is not right.
async fn trickles(name: &str, rate: (usize, Duration), keys: &[(&str, &str)], why: &str, label: &str) {
    // A small buffer of the kernel, so that it asks for more again and again while the client trickles.
    let buffer = ("limits.send_buffer_bytes", "16384");
    let keys = [&[buffer, ("server.close_timeout", "10s"), ("limits.lag_max_blocks", "100000")], keys].concat();
    let mut scene = Scene::start(60, &keys).await;
    let line = Line::start(scene.daemon.public).await;
    let mut slow = Vec::new();
    for n in 0..STUCK {
        let client = Client::connect(&format!("ws://{}", line.address)).await;
        let mut reader = Reader::new(client, scene.script.clone());
        reader.subscribe(wishes(n)).await;
        slow.push(reader);
    }
    line.rate.send_replace(rate);
    scene.block(LOGS_OF_FIRST).await;
    for _ in 0..BLOCKS {
        scene.block(LOGS_OF_BLOCK).await;
    }
    println!("{} MiB are owed to {STUCK} slow clients", owed_mib(&scene, STUCK));
    scene.all_given_up().await;
    line.rate.send_replace((1 << 16, Duration::ZERO));
    for reader in &mut slow {
        assert_eq!(reader.end().await, End::Closed(1013, why.to_owned()));
        assert!(reader.received > 0, "it read nothing at all");
    }
    drop(slow);
    scene.closed(&[(label, STUCK)]).await;
    scene.ends(name, MORE_MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_read_a_byte_a_second() {
    let keys = [("limits.write_stall_max", "4s"), ("limits.lag_max", "10m")];
    trickles("a byte a second", (1, Duration::from_secs(1)), &keys, "socket not read", "write_stalled").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_read_a_trickle() {
    let keys = [("limits.write_stall_max", "60s"), ("limits.lag_max", "4s")];
    trickles("a trickle", (4096, Duration::from_millis(200)), &keys, "slow consumer", "slow_consumer").await;
}
