//! One shard thread: its chains' shards, and the connections it was handed.
//!
//! Everything here runs on one thread in one `LocalSet`. Owns the end of a connection's life: when the gateway stops,
//! calls under way are answered, then clients are closed with 1012 and given a moment to go.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1::{self, Parts};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::sync::broadcast;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::transport::{Carrier, Transport};
use super::{Accepted, Arrivals, Counted, Options, Tls, http};
use crate::calls::Calls;
use crate::chain::FeedEvent;
use crate::close::Reason;
use crate::hub::{self, Links, Shard};
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::session::{self, Context, HttpLimits, Permit};
use crate::upstream::DemandHandle;

/// How often a drain looks for clients that came late.
const DRAIN_LOOK: Duration = Duration::from_millis(100);

/// What a shard thread needs of one chain.
#[derive(Clone)]
pub struct Chain {
    /// Its name, also its path.
    pub name: Arc<str>,
    /// Its updates.
    pub journal: Journal,
    /// Where best-effort events come from.
    pub feeds: broadcast::Sender<FeedEvent>,
    /// Where listeners of feeds are counted.
    pub demand: DemandHandle,
    /// Who answers calls.
    pub calls: Arc<Calls>,
    /// Kinds of subscription that are handed to a node as they stand.
    pub passed: Arc<[String]>,
}

/// What a shard thread is made of.
pub struct Worker {
    /// The chains; the first is the default.
    pub chains: Vec<Chain>,
    /// Bounds of the listener.
    pub options: Options,
    /// Bounds of sessions.
    pub session: session::Options,
    /// Bounds of the shards.
    pub hub: hub::Options,
    /// Metrics.
    pub metrics: Metrics,
}

/// What the connections of one thread share.
pub(super) struct Local {
    pub(super) options: Options,
    pub(super) default: Rc<Context>,
    pub(super) by_name: HashMap<Arc<str>, Rc<Context>>,
    pub(super) metrics: Metrics,
    pub(super) sessions: TaskTracker,
    pub(super) draining: CancellationToken,
    handshakes: Cell<usize>,
}

/// Counts a handshake that is not done while it lives.
pub(super) struct Handshake(Rc<Local>);

impl Drop for Handshake {
    fn drop(&mut self) {
        self.0.handshakes.set(self.0.handshakes.get() - 1);
    }
}

/// State of one TCP connection while it speaks HTTP.
pub(super) struct Peer {
    pub(super) limits: RefCell<Option<RefCell<HttpLimits>>>,
    pub(super) counted: RefCell<Option<Counted>>,
    pub(super) handshake: RefCell<Option<Handshake>>,
    /// Whose WebSocket it becomes when the answer is out.
    pub(super) upgrade: RefCell<Option<Upgrade>>,
}

/// What a connection becomes when the answer to its upgrade is out.
pub(super) struct Upgrade {
    pub(super) context: Rc<Context>,
    /// Compression was negotiated.
    pub(super) compressed: bool,
}

impl Worker {
    /// Serves who comes until stopped, then drains.
    pub async fn run(self, arrivals: Arrivals, stop: CancellationToken) {
        let tasks = LocalSet::new();
        let shards = CancellationToken::new();
        tasks
            .run_until(async {
                let (local, mut shard_tasks) = self.build(&shards);
                tokio::select! {
                    () = stop.cancelled() => {}
                    // A shard ends early only by a panic; its clients would wait for events for ever.
                    Some(_ended) = shard_tasks.join_next() => {}
                    () = local.serve_all(arrivals) => {}
                }
                local.drain().await;
                shards.cancel();
                while let Some(ended) = shard_tasks.join_next().await {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a shard ended early");
                    }
                }
            })
            .await;
    }

    fn build(self, stop: &CancellationToken) -> (Rc<Local>, JoinSet<()>) {
        let mut tasks = JoinSet::new();
        let mut contexts = Vec::new();
        for chain in self.chains {
            let demand = chain.demand.clone();
            let links = Links {
                chain: chain.name.clone(),
                journal: chain.journal,
                feeds: chain.feeds.subscribe(),
                feed_listeners: Box::new(move |feed, first| if first { demand.add(feed) } else { demand.remove(feed) }),
                metrics: self.metrics.clone(),
            };
            let (shard, tail, feeds) = Shard::new(links, self.hub.clone());
            tasks.spawn_local(shard.clone().run(tail, feeds, stop.clone()));
            let mut options = self.session.clone();
            options.bounds.passed = chain.passed;
            let context = Context {
                shard,
                calls: chain.calls,
                demand: chain.demand,
                options,
                metrics: self.metrics.clone(),
                busy: Cell::new(0),
            };
            contexts.push((chain.name, Rc::new(context)));
        }
        let local = Local {
            options: self.options,
            default: contexts.first().expect("there is at least one chain").1.clone(),
            by_name: contexts.into_iter().collect(),
            metrics: self.metrics,
            sessions: TaskTracker::new(),
            draining: CancellationToken::new(),
            handshakes: Cell::new(0),
        };
        (Rc::new(local), tasks)
    }
}

impl Local {
    /// Serves who comes, for as long as anybody may.
    async fn serve_all(self: &Rc<Self>, arrivals: Arrivals) {
        match arrivals {
            Arrivals::Door(door) => match door.open() {
                Ok(mut door) => loop {
                    door.next().await.into_iter().for_each(|accepted| self.clone().start(accepted));
                },
                Err(error) => tracing::error!(%error, "server.listen: the socket cannot be listened at"),
            },
            #[cfg(test)]
            Arrivals::Memory(mut memory) => {
                while let Some(accepted) = memory.0.recv().await {
                    self.clone().start(accepted);
                }
            }
        }
    }

    fn start(self: Rc<Self>, accepted: Accepted) {
        if self.handshakes.get() >= self.options.handshakes_max {
            self.metrics.refusals.with_label_values(&["handshakes", "server"]).inc();
            return;
        }
        let Accepted { carrier, permit, counted } = accepted;
        match carrier {
            Carrier::Tcp(stream) => match tokio::net::TcpStream::from_std(stream) {
                Ok(stream) => match self.options.tls.clone() {
                    None => self.begin(stream, permit, counted),
                    Some(tls) => self.begin_tls(tls, stream, permit, counted),
                },
                Err(error) => tracing::warn!(%error, "cannot watch a connection"),
            },
            #[cfg(test)]
            Carrier::Memory(end) => self.begin(end, permit, counted),
        }
    }

    fn begin(self: Rc<Self>, stream: impl Transport, permit: Permit, counted: Counted) {
        let peer = self.peer(permit, counted);
        let sessions = self.sessions.clone();
        sessions.spawn_local(self.serve(stream, peer));
    }

    fn begin_tls(self: Rc<Self>, tls: Tls, stream: tokio::net::TcpStream, permit: Permit, counted: Counted) {
        let peer = self.peer(permit, counted);
        let sessions = self.sessions.clone();
        sessions.spawn_local(self.serve_tls(tls, stream, peer));
    }

    /// A connection whose handshake begins.
    fn peer(self: &Rc<Self>, permit: Permit, counted: Counted) -> Rc<Peer> {
        self.handshakes.set(self.handshakes.get() + 1);
        let limits = HttpLimits::new(permit, self.metrics.clone());
        Rc::new(Peer {
            limits: RefCell::new(Some(RefCell::new(limits))),
            counted: RefCell::new(Some(counted)),
            handshake: RefCell::new(Some(Handshake(self.clone()))),
            upgrade: RefCell::default(),
        })
    }

    /// Makes the TLS handshake, then speaks HTTP. Until the head of the first request is there, all of it is one
    /// handshake that is not done.
    async fn serve_tls(self: Rc<Self>, tls: Tls, stream: tokio::net::TcpStream, peer: Rc<Peer>) {
        let handshake = tokio::time::timeout(self.options.tls_timeout, tls.handshake(stream));
        let result = tokio::select! {
            result = handshake => result,
            () = self.draining.cancelled() => return,
        };
        let count = |outcome: &str| self.metrics.tls_handshakes.with_label_values(&[outcome]).inc();
        match result {
            Ok(Ok(stream)) => {
                count("ok");
                self.serve(stream, peer).await;
            }
            Ok(Err(error)) => {
                count("failed");
                tracing::debug!(%error, "a TLS handshake failed");
            }
            Err(_) => {
                count("timeout");
                self.metrics.refusals.with_label_values(&["tls_timeout", "connection"]).inc();
            }
        }
    }

    /// Speaks HTTP on a connection until it ends or is upgraded.
    async fn serve<T: Transport>(self: Rc<Self>, stream: T, peer: Rc<Peer>) {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.options.header_timeout)
            .max_headers(self.options.headers_max)
            .max_buf_size(self.options.header_max_bytes.max(8192));
        let answer = |request: Request<Incoming>| Box::pin(http::answer(self.clone(), peer.clone(), request));
        let mut connection = builder.serve_connection(TokioIo::new(stream), service_fn(answer));
        let result = tokio::select! {
            result = poll_fn(|cx| connection.poll_without_shutdown(cx)) => result,
            () = self.draining.cancelled() => {
                Pin::new(&mut connection).graceful_shutdown();
                poll_fn(|cx| connection.poll_without_shutdown(cx)).await
            }
        };
        let Parts { io, read_buf, .. } = connection.into_parts();
        match (result, peer.upgrade.take()) {
            (Ok(()), Some(upgrade)) => self.start_session(io.into_inner(), &read_buf, upgrade, &peer),
            (Ok(()), None) => {
                // The end of a peer that is gone already is nothing to tell.
                let _gone = io.into_inner().shutdown().await;
            }
            (Err(error), upgraded) => {
                tracing::debug!(%error, "an HTTP connection ended early");
                self.metrics.handshakes.with_label_values(&["lost"]).inc_by(u64::from(upgraded.is_some()));
            }
        }
    }

    /// The answer to an upgrade is out: from here on the connection is a session's.
    fn start_session(&self, stream: impl Transport, read: &[u8], upgrade: Upgrade, peer: &Peer) {
        let limits = peer.limits.take();
        let outcome = if limits.is_some() { "ok" } else { "lost" };
        self.metrics.handshakes.with_label_values(&[outcome]).inc();
        let Some(limits) = limits else { return };
        let (counted, handshake) = (peer.counted.take(), peer.handshake.take());
        // A copy of what was read behind the handshake, mostly nothing: hyper's own buffer is large.
        let first = read.to_vec();
        let Upgrade { context, compressed } = upgrade;
        let permit = limits.into_inner().into_permit();
        let session = session::serve(context, stream.into_socket(), compressed, first, permit);
        // A task of its own: that of the handshake is as large as the handshake needs it.
        self.sessions.spawn_local(async move {
            session.await;
            drop(counted);
        });
        drop(handshake);
    }

    fn contexts(&self) -> impl Iterator<Item = &Rc<Context>> {
        self.by_name.values()
    }

    /// Answers what is under way, tells every client to come back, and waits until they are gone, each within bounds.
    async fn drain(&self) {
        let calls_by = Instant::now() + self.options.drain_calls_max;
        while Instant::now() < calls_by && self.contexts().any(|context| context.busy.get() > 0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.draining.cancel();
        self.sessions.close();
        let gone = async {
            loop {
                // Again and again: an upgrade may have been under way.
                self.contexts().for_each(|context| context.shard.close_all(Reason::Restart));
                if tokio::time::timeout(DRAIN_LOOK, self.sessions.wait()).await.is_ok() {
                    return;
                }
            }
        };
        if tokio::time::timeout(self.options.drain_clients_max, gone).await.is_err() {
            tracing::info!(left = self.sessions.len(), "connections did not end in time");
        }
    }
}
