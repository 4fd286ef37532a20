//! Where clients come in: one listening socket that all shard threads accept from, each for itself.
//!
//! A thread that is busy leaves who is waiting to the others, and no connection changes its thread. Owns the cap on all
//! connections and how they are spread. Knows nothing of what is said on them.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::net::SocketFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::transport::Carrier;
use super::{Accepted, Counted, Options};
use crate::metrics::Metrics;
use crate::session::Addresses;

/// Connections that a thread accepts before it does something else.
const TOGETHER: usize = 16;
/// Connections that a thread may have more than another before it lets that one accept first.
const AHEAD_MAX: usize = 32;
/// How long it lets others accept first: they may be too busy to.
const COURTESY: Duration = Duration::from_millis(2);
/// How long after a failure to accept it is tried again: mostly there are no descriptors, and trying at once would spin.
const FAILED_WAIT: Duration = Duration::from_millis(50);

/// A thread's part in the listening socket.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    gate: Gate,
}

/// Who is let in by a thread.
#[derive(Debug)]
struct Gate {
    addresses: Arc<Addresses>,
    connections_max: usize,
    /// Connections of each thread.
    counts: Arc<[Arc<AtomicUsize>]>,
    /// Which of these is its own.
    own: usize,
    metrics: Metrics,
}

impl Door {
    /// One for each of so many threads. Fails if the socket is none that listens.
    pub fn shared(
        listener: &TcpListener,
        threads: usize,
        options: &Options,
        addresses: &Arc<Addresses>,
        metrics: &Metrics,
    ) -> io::Result<Vec<Self>> {
        // One that was made elsewhere may not have them yet.
        listener.set_nonblocking(true)?;
        options.apply(&socket2::SockRef::from(listener))?;
        let counts: Arc<[Arc<AtomicUsize>]> = (0..threads).map(|_| Arc::default()).collect();
        let one = |own| {
            let gate = Gate {
                addresses: addresses.clone(),
                connections_max: options.connections_max,
                counts: counts.clone(),
                own,
                metrics: metrics.clone(),
            };
            Ok(Self { listener: listener.try_clone()?, gate })
        };
        (0..threads).map(one).collect()
    }

    /// Begins to listen, on the reactor of this thread.
    pub(super) fn open(self) -> io::Result<Open> {
        #[expect(
            deprecated,
            reason = "its unsafe successor asks for what std's listener gives: it keeps its descriptor"
        )]
        let readiness = AsyncFd::with_interest(self.listener, Interest::READABLE)?;
        Ok(Open { gate: self.gate, readiness, was_courteous: false })
    }
}

impl Gate {
    fn count(&self, thread: usize) -> usize {
        self.counts[thread].load(Ordering::Relaxed)
    }

    /// Whether another thread has clearly fewer connections.
    fn is_ahead(&self) -> bool {
        let least = (0..self.counts.len()).map(|thread| self.count(thread)).min().unwrap_or(0);
        self.count(self.own) > least + AHEAD_MAX
    }

    /// Counts a connection in, unless there are too many.
    fn admit(&self, stream: TcpStream, peer: IpAddr) -> Option<Accepted> {
        self.metrics.connections_total.inc();
        let in_all: usize = (0..self.counts.len()).map(|thread| self.count(thread)).sum();
        if in_all >= self.connections_max {
            self.metrics.refusals.with_label_values(&["connections", "server"]).inc();
            return None;
        }
        let counted = Counted::new(self.counts[self.own].clone(), self.metrics.clone());
        Some(Accepted { carrier: Carrier::Tcp(stream), permit: self.addresses.admit(peer), counted })
    }
}

/// A [`Door`] that is listened at.
#[derive(Debug)]
pub(super) struct Open {
    gate: Gate,
    readiness: AsyncFd<TcpListener>,
    /// Others were let accept first.
    was_courteous: bool,
}

impl Open {
    /// Who comes next. Safe to drop while waiting: nobody is lost.
    pub(super) async fn next(&mut self) -> Vec<Accepted> {
        loop {
            let mut ready = match self.readiness.readable().await {
                Ok(ready) => ready,
                Err(error) => {
                    // The reactor is gone: the thread is at its end.
                    tracing::debug!(%error, "no more connections are accepted");
                    return std::future::pending().await;
                }
            };
            if self.gate.is_ahead() && !self.was_courteous {
                self.was_courteous = true;
                drop(ready);
                tokio::time::sleep(COURTESY).await;
                continue;
            }
            self.was_courteous = false;
            let (mut accepted, mut failed) = (Vec::new(), None);
            for _ in 0..TOGETHER {
                match ready.try_io(|listener| accept(listener.get_ref())) {
                    Ok(Ok((stream, peer))) => accepted.extend(self.gate.admit(stream, peer)),
                    Ok(Err(error)) => {
                        failed = Some(error);
                        break;
                    }
                    Err(_would_block) => break,
                }
            }
            drop(ready);
            if !accepted.is_empty() {
                return accepted;
            }
            if let Some(error) = failed {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(FAILED_WAIT).await;
            }
        }
    }
}

/// One waiting connection, as a socket that does not block, and who it is.
fn accept(listener: &TcpListener) -> io::Result<(TcpStream, IpAddr)> {
    let (stream, peer) = rustix::net::acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    // Nobody has an address if the socket is none of IP; all are one for the limits then.
    Ok((stream.into(), peer.map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.ip())))
}
