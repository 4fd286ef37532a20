//! Listeners: the public one, where WebSocket and HTTP share a port, and the admin one.
//!
//! The acceptor takes connections and hands each to the shard thread with the fewest; the handshake and all that
//! follows happen there. Owns the caps on connections. Knows nothing of what is said on them.

mod admin;
mod extensions;
mod http;
mod tls;
mod transport;
mod worker;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::net::SocketFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::session::{Addresses, Permit};

pub use admin::{Readiness, serve_admin};
pub use tls::{Tls, WrongFile};
use transport::Carrier;
pub use worker::{Chain, Worker};

/// Bounds of the public listener.
#[derive(Debug, Clone)]
pub struct Options {
    /// Most connections in all.
    pub connections_max: usize,
    /// Most connections whose handshake is not done.
    pub handshakes_max: usize,
    /// What clients speak TLS with; without it they speak none.
    pub tls: Option<Tls>,
    /// How long a TLS handshake may take.
    pub tls_timeout: Duration,
    /// How long the head of a request may take.
    pub header_timeout: Duration,
    /// Most bytes of the head of a request.
    pub header_max_bytes: usize,
    /// Most headers of a request.
    pub headers_max: usize,
    /// Most bytes of a request's body.
    pub body_max_bytes: usize,
    /// How long a request's body may take.
    pub body_timeout: Duration,
    /// Bytes that the kernel holds for a client (`SO_SNDBUF`).
    pub send_buffer_bytes: usize,
    /// How long sent bytes may stay without acknowledgement (`TCP_USER_TIMEOUT`).
    pub tcp_user_timeout: Duration,
    /// Whether permessage-deflate is accepted.
    pub compression: bool,
    /// Whether `GET` shows the live page.
    pub page: bool,
    /// How long calls under way may take when the gateway stops.
    pub drain_calls_max: Duration,
    /// How long clients may take to go when the gateway stops.
    pub drain_clients_max: Duration,
}

/// Counts connections while it lives.
#[derive(Debug)]
pub(crate) struct Counted {
    count: Arc<AtomicUsize>,
    metrics: Metrics,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.metrics.connections.dec();
    }
}

/// Connections that are accepted before they are handed over.
const TOGETHER: usize = 32;

/// A connection on its way to a shard thread.
#[derive(Debug)]
pub struct Accepted {
    carrier: Carrier,
    permit: Permit,
    counted: Counted,
}

/// A shard thread as the acceptor sees it.
#[derive(Debug, Clone)]
pub struct WorkerHandle {
    connections: Arc<AtomicUsize>,
    queue: mpsc::Sender<Vec<Accepted>>,
}

impl WorkerHandle {
    /// A handle and the queue's other end. The queue is short: a thread that does not take is passed over.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Vec<Accepted>>) {
        let (queue, taken) = mpsc::channel(4);
        (Self { connections: Arc::default(), queue }, taken)
    }
}

/// Accepts until stopped.
pub struct Acceptor {
    /// Bounds.
    pub options: Options,
    /// Who may connect.
    pub addresses: Arc<Addresses>,
    /// Where connections go.
    pub workers: Vec<WorkerHandle>,
    /// Metrics.
    pub metrics: Metrics,
}

impl Acceptor {
    /// Accepts on a listening socket until stopped. Fails only at once, if it is none.
    pub async fn run(self, listener: TcpListener, stop: CancellationToken) -> io::Result<()> {
        prepare(&listener, &self.options)?;
        // Not tokio's own listener: what it accepts is registered with this thread's reactor, and is to go to another.
        #[expect(
            deprecated,
            reason = "its unsafe successor asks for what std's listener gives: it keeps its descriptor"
        )]
        let listener = AsyncFd::with_interest(listener, Interest::READABLE)?;
        loop {
            let mut ready = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                ready = listener.readable() => ready?,
            };
            // Handed over together: a thread that is woken for each would take turns with this one.
            let (mut waiting, mut failed) = (Vec::new(), None);
            while waiting.len() < TOGETHER && failed.is_none() {
                match ready.try_io(|listener| accept(listener.get_ref())) {
                    Ok(Ok((stream, peer))) => waiting.extend(self.admit(stream, peer)),
                    Ok(Err(error)) => failed = Some(error),
                    Err(_would_block) => break,
                }
            }
            drop(ready);
            hand_over(&self.workers, waiting).await;
            if let Some(error) = failed {
                // Out of descriptors, mostly: accepting at once again would spin.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    fn refuse(&self, limit: &str) {
        self.metrics.refusals.with_label_values(&[limit, "server"]).inc();
    }

    /// Counts a connection in and gives it to a thread, unless there are too many.
    fn admit(&self, stream: TcpStream, peer: IpAddr) -> Option<(usize, Accepted)> {
        self.metrics.connections_total.inc();
        let in_all: usize = self.workers.iter().map(|w| w.connections.load(Ordering::Relaxed)).sum();
        if in_all >= self.options.connections_max {
            self.refuse("connections");
            return None;
        }
        let permit = self.addresses.admit(peer);
        Some(assign(&self.workers, Carrier::Tcp(stream), permit, &self.metrics))
    }
}

/// Sets the options that every accepted socket has from the listening one (tcp(7), socket(7): Linux hands them on).
fn prepare(listener: &TcpListener, options: &Options) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let socket = socket2::SockRef::from(listener);
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(options.send_buffer_bytes)?;
    socket.set_tcp_user_timeout(Some(options.tcp_user_timeout))
}

/// One waiting connection, as a socket that does not block, and who it is.
fn accept(listener: &TcpListener) -> io::Result<(TcpStream, IpAddr)> {
    let (stream, peer) = rustix::net::acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    // Nobody has an address if the socket is none of IP; it is one for the limits then.
    Ok((stream.into(), peer.map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.ip())))
}

/// Chooses the thread with the fewest connections, of those that take what they are given.
fn assign(workers: &[WorkerHandle], carrier: Carrier, permit: Permit, metrics: &Metrics) -> (usize, Accepted) {
    let burden = |worker: &WorkerHandle| (worker.queue.capacity() == 0, worker.connections.load(Ordering::Relaxed));
    let (at, worker) =
        workers.iter().enumerate().min_by_key(|(_, worker)| burden(worker)).expect("there is at least one thread");
    worker.connections.fetch_add(1, Ordering::Relaxed);
    metrics.connections.inc();
    let counted = Counted { count: worker.connections.clone(), metrics: metrics.clone() };
    (at, Accepted { carrier, permit, counted })
}

/// Gives connections to their threads, each all of its own at once. Waits while all threads are busy: the kernel's
/// backlog holds who comes meanwhile.
async fn hand_over(workers: &[WorkerHandle], accepted: Vec<(usize, Accepted)>) {
    let mut shares: Vec<Vec<Accepted>> = workers.iter().map(|_| Vec::new()).collect();
    accepted.into_iter().for_each(|(at, accepted)| shares[at].push(accepted));
    for (worker, share) in workers.iter().zip(shares).filter(|(_, share)| !share.is_empty()) {
        if worker.queue.send(share).await.is_err() {
            tracing::debug!("connections came while the gateway stops");
        }
    }
}

/// Gives a connection in memory to a shard thread, as an acceptor does with one of its own.
#[cfg(test)]
pub(crate) async fn hand_in_memory(
    workers: &[WorkerHandle],
    end: Box<dyn crate::hub::InMemory>,
    permit: Permit,
    metrics: &Metrics,
) {
    hand_over(workers, vec![assign(workers, Carrier::Memory(end), permit, metrics)]).await;
}
