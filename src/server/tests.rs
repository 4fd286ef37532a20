//! Accepting on several threads: nobody is lost while one is busy, and they have about as many.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::net::TcpStream;

use super::door::{Door, Open};
use super::{Accepted, Options};
use crate::metrics::Metrics;
use crate::session::{Addresses, Limits, Rate};

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
        tls: None,
        tls_timeout: second,
        compression: false,
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

/// The doors of two threads, and the clients that connect to them.
struct Scene {
    doors: [Open; 2],
    address: std::net::SocketAddr,
    metrics: Metrics,
    clients: Vec<TcpStream>,
}

impl Scene {
    fn new(connections_max: usize) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, metrics) = (listener.local_addr().unwrap(), Metrics::new());
        let options = Options { connections_max, ..options() };
        let doors = Door::shared(&listener, 2, &options, &Addresses::new(limits()), &metrics).unwrap();
        let doors = doors.into_iter().map(|door| door.open().unwrap()).collect::<Vec<_>>();
        Self { doors: doors.try_into().expect("two"), address, metrics, clients: Vec::new() }
    }

    async fn connect(&mut self, clients: usize) {
        for _ in 0..clients {
            self.clients.push(TcpStream::connect(self.address).await.unwrap());
        }
    }
}

async fn take(door: &mut Open, connections: usize) -> Vec<Accepted> {
    let mut taken = Vec::new();
    while taken.len() < connections {
        let next = tokio::time::timeout(Duration::from_secs(10), door.next());
        taken.extend(next.await.expect("they come in time"));
    }
    taken
}

#[tokio::test]
async fn who_waits_is_served_by_the_other_thread_while_one_is_busy() {
    let mut scene = Scene::new(10_000);
    scene.connect(100).await;
    let taken = take(&mut scene.doors[0], 100).await;
    assert_eq!((taken.len(), scene.metrics.connections.get()), (100, 100));
    drop(taken);
    assert_eq!(scene.metrics.connections.get(), 0);
}

#[tokio::test]
async fn two_threads_that_accept_have_about_as_many() {
    let mut scene = Scene::new(10_000);
    let [mut one, mut other] = scene.doors;
    let (mut of_one, mut of_other) = (Vec::new(), Vec::new());
    for _ in 0..400 {
        scene.clients.push(TcpStream::connect(scene.address).await.unwrap());
        // The first is always asked before the second.
        tokio::select! {
            biased;
            accepted = one.next() => of_one.extend(accepted),
            accepted = other.next() => of_other.extend(accepted),
        }
    }
    assert_eq!(of_one.len() + of_other.len(), 400);
    // The other may be late on a busy machine, and then the first goes on; without its courtesy it had all.
    assert!(of_other.len() >= 100, "{} and {}", of_one.len(), of_other.len());
}

#[tokio::test]
async fn nobody_is_taken_beyond_the_cap() {
    let mut scene = Scene::new(5);
    scene.connect(5).await;
    let mut taken = take(&mut scene.doors[0], 2).await;
    taken.extend(take(&mut scene.doors[1], 5 - taken.len()).await);
    scene.connect(3).await;
    let mut byte = [0];
    let refused = scene.clients.last().unwrap();
    tokio::select! {
        _ = scene.doors[1].next() => panic!("there are too many"),
        read = async { refused.readable().await.and_then(|()| refused.try_read(&mut byte)) } => assert!(matches!(read, Ok(0) | Err(_))),
    }
    drop(taken);
    scene.connect(1).await;
    assert_eq!(take(&mut scene.doors[0], 1).await.len(), 1);
}
