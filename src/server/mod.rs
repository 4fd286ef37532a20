//! Listeners: the public one, where WebSocket and HTTP share a port, and the admin one.
//!
//! The acceptor takes connections and hands each to the shard thread with the fewest; the handshake and all that
//! follows happen there. Owns the caps on connections. Knows nothing of what is said on them.

mod admin;
mod http;
mod transport;
mod worker;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::session::{Addresses, Permit};

pub use admin::{Readiness, serve_admin};
use transport::Carrier;
pub use worker::{Chain, Worker};

/// Bounds of the public listener.
#[derive(Debug, Clone)]
pub struct Options {
    /// Most connections in all.
    pub connections_max: usize,
    /// Most connections whose handshake is not done.
    pub handshakes_max: usize,
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
    queue: mpsc::Sender<Accepted>,
}

impl WorkerHandle {
    /// A handle and the queue's other end. The queue is short: a thread that does not take is passed over.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Accepted>) {
        let (queue, taken) = mpsc::channel(64);
        (Self { connections: Arc::default(), queue }, taken)
    }
}

/// Accepts until stopped.
pub struct Acceptor {
    /// The listening socket.
    pub listener: TcpListener,
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
    /// Accepts until stopped.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.take(stream, peer).await,
                Err(error) => {
                    // Out of descriptors, mostly: accepting at once again would spin.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn refuse(&self, limit: &str) {
        self.metrics.refusals.with_label_values(&[limit, "server"]).inc();
    }

    async fn take(&self, stream: tokio::net::TcpStream, peer: SocketAddr) {
        self.metrics.connections_total.inc();
        let in_all: usize = self.workers.iter().map(|w| w.connections.load(Ordering::Relaxed)).sum();
        if in_all >= self.options.connections_max {
            return self.refuse("connections");
        }
        let carrier = match prepare(stream, &self.options) {
            Ok(carrier) => carrier,
            Err(error) => return tracing::debug!(%error, "a connection ended before it was served"),
        };
        let permit = self.addresses.admit(peer.ip());
        hand_over(&self.workers, carrier, permit, &self.metrics).await;
    }
}

/// Gives a connection to the thread with the fewest.
async fn hand_over(workers: &[WorkerHandle], carrier: Carrier, permit: Permit, metrics: &Metrics) {
    let mut workers: Vec<&WorkerHandle> = workers.iter().collect();
    workers.sort_by_key(|w| w.connections.load(Ordering::Relaxed));
    let least = workers[0];
    let slot = match workers.iter().find_map(|w| w.queue.try_reserve().ok().map(|slot| (*w, slot))) {
        Some(found) => found,
        // All are busy: wait for the one with the fewest; the kernel's backlog holds who comes meanwhile.
        None => match least.queue.reserve().await {
            Ok(slot) => (least, slot),
            Err(_) => return,
        },
    };
    let (worker, slot) = slot;
    worker.connections.fetch_add(1, Ordering::Relaxed);
    metrics.connections.inc();
    let counted = Counted { count: worker.connections.clone(), metrics: metrics.clone() };
    slot.send(Accepted { carrier, permit, counted });
}

/// Gives a connection in memory to a shard thread, as an acceptor does with one of its own.
#[cfg(test)]
pub(crate) async fn hand_in_memory(
    workers: &[WorkerHandle],
    end: Box<dyn crate::hub::InMemory>,
    permit: Permit,
    metrics: &Metrics,
) {
    hand_over(workers, Carrier::Memory(end), permit, metrics).await;
}

/// Sets the socket's options and takes it off the acceptor's reactor.
fn prepare(stream: tokio::net::TcpStream, options: &Options) -> std::io::Result<Carrier> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(&stream);
    socket.set_send_buffer_size(options.send_buffer_bytes)?;
    socket.set_tcp_user_timeout(Some(options.tcp_user_timeout))?;
    stream.try_into()
}
