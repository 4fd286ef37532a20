//! Fan-out: who subscribes to what, and the bytes that go to each socket.
//!
//! A shard belongs to one thread and one chain. It owns its connections' sockets for writing, their subscriptions and
//! the filter index; nobody else writes to a socket, so nothing lands inside a half-sent frame. A chain update is
//! matched and encoded once for each stream and written to every subscriber with a non-blocking write: no task is woken
//! and nothing is queued for a client that takes its bytes.
//!
//! A client whose socket is full gets an outbox: the rest of the frame that was cut, and a place in the journal. When
//! the socket takes bytes again, what follows that place is encoded for this client alone until it has caught up. A large
//! result is not copied for that but shared with the journal. So a slow client holds one piece of an update at a time,
//! however far it is behind and however large the update is, and costs the others nothing.
//!
//! Invariants:
//! - a connection gets the entries of the journal in order, each once, from the one after it subscribed;
//! - within an entry the order is by item (a log's place), then by the order of subscribing, live and catching up alike;
//! - the shard never waits for a client; every bound that a client passes ends its connection with a stated reason.

mod backlog;
mod broadcast;
mod catchup;
mod compressor;
mod conn;
mod feeds;
mod frame;
mod items;
mod lag;
mod meters;
mod plan;
mod shard;
mod socket;
mod streams;
mod timers;
mod tls;

#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::chain::Feed;
use crate::filter::Filter;

pub use conn::ConnKey;
pub use shard::{Links, Shard};
#[cfg(test)]
pub(crate) use socket::InMemory;
pub use socket::Socket;
pub use streams::{IdText, SubId};

/// What a subscription is for. Equal keys are one stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StreamKey {
    /// `newHeads`.
    Heads,
    /// `logs` with a filter.
    Logs(Filter),
    /// Passed through from the nodes, best effort.
    Feed(Feed),
}

impl StreamKey {
    /// All values of the `kind` label.
    pub const LABELS: [&str; 5] = ["newHeads", "logs", "newPendingTransactions", "syncing", "other"];

    /// The value of the `kind` label, one of [`StreamKey::LABELS`].
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Heads => "newHeads",
            Self::Logs(_) => "logs",
            Self::Feed(feed) if feed.is_of("newPendingTransactions") => "newPendingTransactions",
            Self::Feed(feed) if feed.is_of("syncing") => "syncing",
            Self::Feed(_) => "other",
        }
    }

    /// Bytes that are equal for equal keys only.
    #[must_use]
    pub fn canonical_bytes(&self) -> Vec<u8> {
        match self {
            Self::Heads => b"newHeads".to_vec(),
            Self::Logs(filter) => [b"logs".as_slice(), filter.canonical_bytes()].concat(),
            Self::Feed(feed) => [b"feed".as_slice(), feed.0.as_bytes()].concat(),
        }
    }
}

/// Bounds and times of a shard.
#[derive(Debug, Clone)]
pub struct Options {
    /// Most bytes held for one client alone, when an answer is added.
    pub outbox_max_bytes: usize,
    /// How many blocks a client may be behind, not counting those of the last 5 seconds.
    pub lag_max_blocks: u64,
    /// How long a client may be behind.
    pub lag_max: Duration,
    /// How long a full socket may take no byte.
    pub write_stall_max: Duration,
    /// How long after a ping the next one follows.
    pub ping_interval: Duration,
    /// How long a pong may take.
    pub pong_timeout: Duration,
    /// How long a closed connection may take to answer the close frame.
    pub close_timeout: Duration,
    /// Key of the subscription ids.
    pub id_secret: [u8; 32],
}
