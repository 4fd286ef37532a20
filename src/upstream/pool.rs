//! Picks a node for a call, and waits a bounded time for one that can answer.
//!
//! Owns no connection. Prefers nodes whose own head is at least the height that the call is about, in the order of the
//! configuration.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::client::CallError;
use super::{Identity, Node, State};
use crate::chain::{BlockRef, NodeId};

/// The nodes of one chain.
#[derive(Debug)]
pub struct Pool {
    nodes: Vec<Arc<Node>>,
    identity: OnceLock<Identity>,
    call_timeout: Duration,
    changed: Arc<Notify>,
}

impl Pool {
    pub(super) fn new(nodes: Vec<Arc<Node>>, call_timeout: Duration, changed: Arc<Notify>) -> Self {
        Self { nodes, identity: OnceLock::new(), call_timeout, changed }
    }

    /// All nodes, in the order of the configuration.
    #[must_use]
    pub fn nodes(&self) -> &[Arc<Node>] {
        &self.nodes
    }

    /// What the nodes have in common; `None` until one has answered.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.get()
    }

    /// Takes the identity if none is known yet, and returns the one that holds.
    pub(super) fn agree(&self, identity: Identity) -> &Identity {
        self.identity.get_or_init(|| identity)
    }

    pub(super) fn notify(&self) {
        self.changed.notify_waiters();
    }

    /// Longest time for one call.
    #[must_use]
    pub fn call_timeout(&self) -> Duration {
        self.call_timeout
    }

    /// A node that is up and whose head is at least at `height`, other than those in `tried`. Nodes that are only
    /// called come last: their head is not known.
    #[must_use]
    pub fn pick(&self, height: u64, tried: &[NodeId]) -> Option<&Arc<Node>> {
        let mut blind = None;
        for node in self.nodes.iter().filter(|n| !tried.contains(&n.id)) {
            let status = node.status.borrow();
            match (status.state, status.head) {
                (State::Up, Some(head)) if head.number >= height => return Some(node),
                (State::Up, None) => blind = blind.or(Some(node)),
                _ => {}
            }
        }
        blind
    }

    /// Like [`Pool::pick`], and where there is none, waits for one until `deadline`.
    pub async fn wait(&self, height: u64, tried: &[NodeId], deadline: Instant) -> Option<&Arc<Node>> {
        loop {
            let changed = self.changed.notified();
            if let Some(node) = self.pick(height, tried) {
                return Some(node);
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return None;
            }
        }
    }
}

impl Node {
    /// Which one.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// State of the connection.
    #[must_use]
    pub fn state(&self) -> State {
        self.status.borrow().state
    }

    /// The last head that the node told on the present connection.
    #[must_use]
    pub fn head(&self) -> Option<BlockRef> {
        self.status.borrow().head
    }

    /// One call to this node, within `deadline`.
    pub async fn call(
        &self,
        method: &str,
        params: Option<&RawValue>,
        deadline: Duration,
    ) -> Result<Box<RawValue>, CallError> {
        let started = Instant::now();
        let result = self.try_call(method, params, deadline).await;
        let outcome = result.as_ref().err().map_or("ok", CallError::label);
        self.metrics.upstream_calls.with_label_values(&[&*self.chain, &*self.label, outcome]).inc();
        let seconds = started.elapsed().as_secs_f64();
        self.metrics.upstream_call_seconds.with_label_values(&[&*self.chain, &*self.label]).observe(seconds);
        result
    }

    async fn try_call(
        &self,
        method: &str,
        params: Option<&RawValue>,
        deadline: Duration,
    ) -> Result<Box<RawValue>, CallError> {
        let ends = Instant::now() + deadline;
        let Some(client) = self.status.borrow().client.clone() else {
            return Err(CallError::Unavailable("not connected".into()));
        };
        let Ok(Ok(_slot)) = tokio::time::timeout_at(ends, self.slots.acquire()).await else {
            return Err(CallError::Timeout);
        };
        client.call(&self.url, method, params, ends.saturating_duration_since(Instant::now())).await
    }
}
