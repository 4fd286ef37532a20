//! Accepting while a thread does not take: it is passed over, and no connection is lost.

use std::num::NonZeroU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Accepted, Acceptor, Options, WorkerHandle};
use crate::metrics::Metrics;
use crate::session::{Addresses, Limits, Rate};

/// Connections that wait for a thread at most.
const QUEUE: usize = 64;

fn options() -> Options {
    let second = Duration::from_secs(1);
    Options {
        connections_max: 10_000,
        handshakes_max: 10_000,
        header_timeout: second,
        header_max_bytes: 8_192,
        headers_max: 64,
        body_max_bytes: 8_192,
        body_timeout: second,
        send_buffer_bytes: 8_192,
        tcp_user_timeout: second,
        page: false,
        drain_calls_max: second,
        drain_clients_max: second,
    }
}

fn limits() -> Limits {
    let most = NonZeroU32::MAX;
    let free = Rate { per_second: most, burst: most };
    Limits {
        connections_per_address: usize::MAX,
        connections_per_site: usize::MAX,
        connect: free,
        messages: free,
        calls: free,
        calls_in_flight: 1,
        calls_waiting: 1,
        subscribe: free,
        subscriptions_per_connection: 1,
        subscriptions_per_address: 1,
    }
}

/// An acceptor of two threads' handles, and the clients that connect to it.
struct Scene {
    busy: (WorkerHandle, mpsc::Receiver<Accepted>),
    idle: (WorkerHandle, mpsc::Receiver<Accepted>),
    address: std::net::SocketAddr,
    metrics: Metrics,
    clients: Vec<TcpStream>,
    stop: CancellationToken,
}

impl Scene {
    async fn start() -> Self {
        let (busy, idle) = (WorkerHandle::new(), WorkerHandle::new());
        // By the count of its connections it is never the one to choose.
        idle.0.connections.store(1_000, Ordering::Relaxed);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, metrics, stop) = (listener.local_addr().unwrap(), Metrics::new(), CancellationToken::new());
        let workers = vec![busy.0.clone(), idle.0.clone()];
        let addresses = Addresses::new(limits());
        let acceptor = Acceptor { listener, options: options(), addresses, workers, metrics: metrics.clone() };
        tokio::spawn(acceptor.run(stop.clone()));
        Self { busy, idle, address, metrics, clients: Vec::new(), stop }
    }

    async fn connect(&mut self, clients: usize) {
        for _ in 0..clients {
            self.clients.push(TcpStream::connect(self.address).await.unwrap());
        }
    }
}

async fn take(queue: &mut mpsc::Receiver<Accepted>, connections: usize) -> Vec<Accepted> {
    let mut taken = Vec::new();
    while taken.len() < connections {
        let next = tokio::time::timeout(Duration::from_secs(10), queue.recv());
        taken.push(next.await.expect("it comes in time").expect("the acceptor goes on"));
    }
    taken
}

#[tokio::test]
async fn a_thread_whose_queue_is_full_is_passed_over() {
    let mut scene = Scene::start().await;
    scene.connect(QUEUE + 5).await;
    let passed_on = take(&mut scene.idle.1, 5).await;
    assert_eq!(scene.busy.1.len(), QUEUE, "those before waited for the thread with the fewest");
    assert_eq!(scene.metrics.connections.get(), 69);
    drop(passed_on);
    assert_eq!(scene.metrics.connections.get(), 64);

    // Once it takes again, it is the first choice again.
    drop(take(&mut scene.busy.1, QUEUE).await);
    scene.connect(3).await;
    take(&mut scene.busy.1, 3).await;
    assert!(scene.idle.1.is_empty());
    assert_eq!(scene.metrics.connections.get(), 0);
    scene.stop.cancel();
}

#[tokio::test]
async fn connections_wait_while_no_thread_takes_any_and_none_is_lost() {
    let mut scene = Scene::start().await;
    scene.connect(2 * QUEUE + 20).await;
    // The kernel holds who is not accepted yet.
    let first = take(&mut scene.idle.1, QUEUE).await;
    let rest = take(&mut scene.busy.1, QUEUE).await;
    let mut late = 0;
    while late < 20 {
        let next = async {
            tokio::select! {
                accepted = scene.busy.1.recv() => accepted,
                accepted = scene.idle.1.recv() => accepted,
            }
        };
        let next = tokio::time::timeout(Duration::from_secs(10), next).await;
        assert!(next.expect("it comes in time").is_some());
        late += 1;
    }
    assert_eq!(first.len() + rest.len() + late, scene.clients.len());
    let refused = scene.metrics.text().lines().filter(|line| line.starts_with("chaincast_refusals_total")).count();
    assert_eq!(refused, 0);
    scene.stop.cancel();
}
