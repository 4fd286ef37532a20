//! The nodes: one task a node that connects, checks the chain, subscribes, keeps alive and reconnects; and calls with
//! deadlines to whichever node can answer.
//!
//! A node task says what its node said ([`Observation`]); it never decides what is true on the chain, and takes
//! [`Order`]s from who does. A [`Pool`] picks nodes for calls; it never retries a call that may have an effect. Node
//! URLs are secrets: everything that is logged or labelled uses the host.

mod breaker;
mod budget;
mod client;
mod dial;
mod feeds;
mod node;
mod pool;
mod score;
mod url;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use alloy_primitives::B256;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::chain::{BlockRef, NodeId, Observation};
use crate::metrics::Metrics;

pub use budget::Rates;
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
    /// How many calls one node is sent.
    pub calls: Rates,
    /// How many nodes are subscribed to at a time; 0 for all of them.
    pub subscribe_max: usize,
    /// Seed of all jitter; `None` for a fresh one.
    pub seed: Option<u64>,
    /// Largest message a node may send, in bytes.
    pub message_max_bytes: u32,
    /// First wait before connecting again; doubles with each failure.
    pub backoff_min: Duration,
    /// Longest wait before connecting again.
    pub backoff_max: Duration,
    /// A node that sends nothing for this long, pongs included, is taken for gone.
    pub silence_max: Duration,
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
    /// Connected, on the right chain, and subscribed if it is to be.
    Up,
    /// Being connected, or checked.
    Connecting,
    /// Not reachable; tried again later.
    Down,
    /// On another chain; tried again later.
    WrongChain,
    /// It would undo what is final; tried again later.
    SetAside,
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
            Self::SetAside => "set aside",
        }
    }
}

/// Why a node is not to be believed for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aside {
    /// It has another chain id.
    ChainId,
    /// It has another first block.
    Genesis,
    /// It would undo a finalized block.
    BelowFinalized,
}

impl Aside {
    /// The value of the `reason` label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::ChainId => "chain_id",
            Self::Genesis => "genesis",
            Self::BelowFinalized => "below_finalized",
        }
    }

    fn state(self) -> State {
        match self {
            Self::ChainId | Self::Genesis => State::WrongChain,
            Self::BelowFinalized => State::SetAside,
        }
    }
}

/// How a node is to be treated from now on, by who judges what the nodes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// It is behind the others: calls go to others while there are any. Or no longer.
    Stalled(bool),
    /// It is not to be believed: the connection is ended and made anew later.
    SetAside(Aside),
    /// The connection is of no use, for this reason: it is made anew.
    Reconnect(&'static str),
}

/// What is known of one node at the moment.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    pub(crate) state: State,
    /// The last head that it told on the present connection; `None` for nodes that are only called.
    pub(crate) head: Option<BlockRef>,
    /// It is behind the others.
    pub(crate) stalled: bool,
    /// It says that it is syncing.
    pub(crate) syncing: bool,
    pub(crate) client: Option<client::Client>,
}

impl Status {
    fn without_client(state: State) -> Self {
        Self { state, head: None, stalled: false, syncing: false, client: None }
    }

    /// Whether it keeps up with the chain.
    fn is_fresh(&self) -> bool {
        self.state == State::Up && !self.stalled && !self.syncing
    }
}

/// One node as the rest of the program sees it.
#[derive(Debug)]
pub struct Node {
    pub(crate) id: NodeId,
    /// Host and port: what may be shown of the URL.
    pub label: Arc<str>,
    url: NodeUrl,
    status: watch::Sender<Status>,
    /// What its task is to do with the present connection.
    order: watch::Sender<Option<Order>>,
    budget: budget::Budget,
    record: Mutex<Record>,
    chain: Arc<str>,
    metrics: Metrics,
}

/// How calls to a node went.
#[derive(Debug)]
struct Record {
    breaker: breaker::Breaker,
    score: score::Score,
    jitter: StdRng,
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
        let id = NodeId(u16::try_from(at).expect("the configuration bounds the number of nodes"));
        Arc::new(Node::new(id, label, url.clone(), options, metrics.clone()))
    });
    let pool = Arc::new(Pool::new(nodes.collect(), options, Arc::new(Notify::new())));
    for node in pool.nodes() {
        let task = node::Task {
            node: node.clone(),
            pool: pool.clone(),
            options: options.clone(),
            ears: ears.clone(),
            demand: demand.subscribe(),
            jitter: jitter(options.seed, node.id, 1),
            stop: stop.clone(),
        };
        tasks.spawn(task.run());
    }
    pool
}

/// Now, by the clock that timers keep to.
pub(crate) fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

/// A source of jitter for one purpose of one node.
fn jitter(seed: Option<u64>, node: NodeId, purpose: u64) -> StdRng {
    StdRng::seed_from_u64(seed.unwrap_or_else(rand::random) ^ (u64::from(node.0) << 8) ^ purpose)
}

impl Node {
    fn new(id: NodeId, label: Arc<str>, url: NodeUrl, options: &Options, metrics: Metrics) -> Self {
        let record = Record {
            breaker: breaker::Breaker::default(),
            score: score::Score::default(),
            jitter: jitter(options.seed, id, 0),
        };
        Self {
            id,
            label,
            url,
            status: watch::Sender::new(Status::without_client(State::Connecting)),
            order: watch::Sender::new(None),
            budget: budget::Budget::new(&options.calls),
            record: Mutex::new(record),
            chain: options.chain.clone(),
            metrics,
        }
    }

    fn record(&self) -> std::sync::MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
