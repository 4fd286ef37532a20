//! The nodes: one task a node that connects, checks the chain, subscribes, keeps alive and reconnects; and calls with
//! deadlines to whichever node can answer.
//!
//! A node task says what its node said ([`Observation`]); it never decides what is true on the chain. A [`Pool`] picks
//! nodes for calls; it never retries a call that may have an effect. Node URLs are secrets: everything that is logged
//! or labelled uses the host.

mod client;
mod dial;
mod feeds;
mod node;
mod pool;
mod url;

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::B256;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::chain::{BlockRef, NodeId, Observation};
use crate::metrics::Metrics;

pub use client::CallError;
pub use dial::{Dial, Dialer, Stream};
pub use feeds::{Demand, DemandHandle, FeedSink};
pub use pool::Pool;
pub use url::NodeUrl;

/// How a chain's nodes are talked to.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of the chain, for labels and logs.
    pub chain: Arc<str>,
    /// The nodes, most preferred first.
    pub urls: Vec<NodeUrl>,
    /// How WebSocket nodes are reached.
    pub dial: Dial,
    /// The chain id that every node must have; `None` takes that of the first node to answer.
    pub chain_id: Option<u64>,
    /// Longest time to connect, handshake included.
    pub connect_timeout: Duration,
    /// Longest time for one call.
    pub call_timeout: Duration,
    /// Most calls under way to one node.
    pub calls_in_flight: usize,
    /// Largest message a node may send, in bytes.
    pub message_max_bytes: u32,
    /// First wait before connecting again; doubles with each failure.
    pub backoff_min: Duration,
    /// Longest wait before connecting again.
    pub backoff_max: Duration,
    /// A node that sends nothing for this long, pongs included, is taken for gone.
    pub silence_max: Duration,
}

impl Options {
    /// A number in 0..1 for the wait before a reconnect.
    fn jitter(&self) -> f64 {
        if matches!(self.dial, Dial::Network) { rand::random() } else { 0.5 }
    }
}

/// What the nodes of one chain have in common, learnt from the first that answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// `eth_chainId`.
    pub chain_id: u64,
    /// `net_version`.
    pub net_version: String,
    /// Hash of block 0, where the node still has it.
    pub genesis: Option<B256>,
}

/// State of the connection to one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Connected, on the right chain, subscribed.
    Up,
    /// Being connected, or checked.
    Connecting,
    /// Not reachable; tried again later.
    Down,
    /// On another chain; tried again later.
    WrongChain,
}

impl State {
    /// The word for status pages and logs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Connecting => "connecting",
            Self::Down => "down",
            Self::WrongChain => "wrong chain",
        }
    }
}

/// What is known of one node at the moment.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    pub(crate) state: State,
    /// The last head that it told on the present connection; `None` for nodes that are only called.
    pub(crate) head: Option<BlockRef>,
    pub(crate) client: Option<client::Client>,
}

/// One node as the rest of the program sees it.
#[derive(Debug)]
pub struct Node {
    pub(crate) id: NodeId,
    /// Host and port: what may be shown of the URL.
    pub label: Arc<str>,
    url: NodeUrl,
    status: watch::Sender<Status>,
    slots: tokio::sync::Semaphore,
    chain: Arc<str>,
    metrics: Metrics,
}

/// Where node tasks send what they hear.
#[derive(Debug, Clone)]
pub struct Ears {
    /// Observations for the ingest. Bounded: a node task waits while it is full.
    pub observations: mpsc::Sender<Observation>,
    /// Events of best-effort feeds.
    pub feeds: FeedSink,
}

/// Starts a task a node on `tasks` and returns the pool for calls. The tasks end when `stop` is cancelled.
pub fn spawn(
    options: &Options,
    ears: &Ears,
    demand: &DemandHandle,
    metrics: &Metrics,
    stop: &CancellationToken,
    tasks: &mut tokio::task::JoinSet<()>,
) -> Arc<Pool> {
    let labels = url::labels(&options.urls);
    let nodes = options.urls.iter().zip(labels).enumerate().map(|(at, (url, label))| {
        Arc::new(Node {
            id: NodeId(u16::try_from(at).expect("the configuration bounds the number of nodes")),
            label,
            url: url.clone(),
            status: watch::Sender::new(Status { state: State::Connecting, head: None, client: None }),
            slots: tokio::sync::Semaphore::new(options.calls_in_flight),
            chain: options.chain.clone(),
            metrics: metrics.clone(),
        })
    });
    let pool = Arc::new(Pool::new(nodes.collect(), options.call_timeout, Arc::new(Notify::new())));
    for node in pool.nodes() {
        let task = node::Task {
            node: node.clone(),
            pool: pool.clone(),
            options: options.clone(),
            ears: ears.clone(),
            demand: demand.subscribe(),
            stop: stop.clone(),
        };
        tasks.spawn(task.run());
    }
    pool
}
