//! Listeners: the public one, where WebSocket and HTTP share a port, and the admin one.
//!
//! The shard threads accept connections for themselves; the handshake and all that follows happen where a connection
//! was accepted. Owns the caps on connections. Knows nothing of what is said on them.

mod admin;
mod door;
mod extensions;
mod http;
mod tls;
mod transport;
mod worker;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::metrics::Metrics;
use crate::session::Permit;

pub use admin::{Readiness, serve_admin};
pub use door::Door;
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

impl Options {
    /// Sets what every accepted socket has from the listening one (tcp(7), socket(7): Linux hands it on).
    pub(crate) fn apply(&self, listener: &socket2::Socket) -> std::io::Result<()> {
        listener.set_tcp_nodelay(true)?;
        listener.set_send_buffer_size(self.send_buffer_bytes)?;
        listener.set_tcp_user_timeout(Some(self.tcp_user_timeout))
    }
}

/// Counts a connection while it lives.
#[derive(Debug)]
pub(crate) struct Counted {
    count: Arc<AtomicUsize>,
    metrics: Metrics,
}

impl Counted {
    fn new(count: Arc<AtomicUsize>, metrics: Metrics) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        metrics.connections.inc();
        Self { count, metrics }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.metrics.connections.dec();
    }
}

/// A connection that a shard thread is to serve.
#[derive(Debug)]
pub(crate) struct Accepted {
    carrier: Carrier,
    permit: Permit,
    counted: Counted,
}

/// Where a shard thread's connections come from.
#[derive(Debug)]
pub enum Arrivals {
    /// The listening socket.
    Door(Door),
    /// Connections in memory, which the tests hand over.
    #[cfg(test)]
    Memory(InMemory),
}

/// Takes connections in memory.
#[cfg(test)]
#[derive(Debug)]
pub struct InMemory(tokio::sync::mpsc::Receiver<Accepted>);

/// A shard thread that is handed connections in memory.
#[cfg(test)]
#[derive(Debug, Clone)]
pub(crate) struct MemoryDoor {
    count: Arc<AtomicUsize>,
    queue: tokio::sync::mpsc::Sender<Accepted>,
}

#[cfg(test)]
impl MemoryDoor {
    /// The outside, and what the thread is made with.
    pub(crate) fn new() -> (Self, Arrivals) {
        let (queue, taken) = tokio::sync::mpsc::channel(64);
        (Self { count: Arc::default(), queue }, Arrivals::Memory(InMemory(taken)))
    }

    /// Hands a connection to the thread with the fewest.
    pub(crate) async fn hand_over(
        doors: &[Self],
        end: Box<dyn crate::hub::InMemory>,
        permit: Permit,
        metrics: &Metrics,
    ) {
        let door = doors.iter().min_by_key(|door| door.count.load(Ordering::Relaxed)).expect("there is a thread");
        let counted = Counted::new(door.count.clone(), metrics.clone());
        let accepted = Accepted { carrier: Carrier::Memory(end), permit, counted };
        // A thread that has stopped takes nobody: the connection is cut, as one in the kernel's backlog would be.
        drop(door.queue.send(accepted).await);
    }
}
