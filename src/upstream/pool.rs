//! Picks a node for a call, and waits a bounded time for one that can answer.
//!
//! Owns no connection. A node must have the block that the call is about; among those, fresh ones come before stalled
//! ones, and cheaper ones before dearer ones. Says which nodes are subscribed to where that is not all of them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::Rng;
use serde_json::value::RawValue;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::budget::Use;
use super::client::CallError;
use super::{Aside, Identity, Node, Options, Order, State, now};
use crate::chain::{BlockRef, NodeId};
use crate::planted::{self, Bug};

/// Blocks behind that make a node dearer. Whoever invents a head far ahead does not get all calls.
const LAG_MAX: u64 = 16;

/// The nodes of one chain.
#[derive(Debug)]
pub struct Pool {
    nodes: Vec<Arc<Node>>,
    identity: Mutex<Option<Identity>>,
    /// Which nodes are subscribed to; `None` for all.
    elected: Mutex<Option<Vec<NodeId>>>,
    subscribe_max: usize,
    call_timeout: Duration,
    changed: Arc<Notify>,
}

impl Pool {
    pub(super) fn new(nodes: Vec<Arc<Node>>, options: &Options, changed: Arc<Notify>) -> Self {
        let websockets = nodes.iter().filter(|node| node.url.is_websocket()).count();
        let some = (1..websockets).contains(&options.subscribe_max);
        Self {
            nodes,
            identity: Mutex::new(None),
            elected: Mutex::new(some.then(Vec::new)),
            subscribe_max: options.subscribe_max,
            call_timeout: options.call_timeout,
            changed,
        }
    }

    /// All nodes, in the order of the configuration.
    #[must_use]
    pub fn nodes(&self) -> &[Arc<Node>] {
        &self.nodes
    }

    /// One node.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&Arc<Node>> {
        self.nodes.get(usize::from(id.0))
    }

    /// What the nodes have in common; `None` until one has answered.
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes the identity, or what is not known of it yet. `Err` says what differs from the one that holds.
    pub(super) fn agree(&self, new: &Identity) -> Result<(), (Aside, String, String)> {
        let mut held = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        let known = held.get_or_insert_with(|| new.clone());
        if known.chain_id != new.chain_id {
            return Err((Aside::ChainId, new.chain_id.to_string(), known.chain_id.to_string()));
        }
        match (new.genesis, known.genesis) {
            (Some(has), Some(want)) if has != want => Err((Aside::Genesis, has.to_string(), want.to_string())),
            (genesis, None) => {
                known.genesis = genesis;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A node's state changed.
    pub(super) fn notify(&self) {
        self.elect();
        self.changed.notify_waiters();
    }

    /// Ends when a node's state has changed after this was called.
    pub(super) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    /// Treats a node as ordered.
    pub fn order(&self, id: NodeId, order: Order) {
        let Some(node) = self.node(id).filter(|_| !planted::is(Bug::NeverGiveUpNode)) else { return };
        if let Order::Stalled(stalled) = order {
            node.status.send_modify(|status| status.stalled = stalled);
            node.metrics.upstream_stalled.with_label_values(&[&*node.chain, &*node.label]).set(i64::from(stalled));
            if stalled {
                node.metrics.upstream_stalls.with_label_values(&[&*node.chain, &*node.label]).inc();
            }
            tracing::debug!(chain = %node.chain, upstream = %node.label, stalled, "a node is behind, or no longer");
            self.notify();
        } else {
            node.order.send_replace(Some(order));
        }
    }

    /// Whether another node than this one keeps up with the chain.
    pub(super) fn another_is_fresh(&self, id: NodeId) -> bool {
        self.nodes.iter().any(|node| node.id != id && node.url.is_websocket() && node.status.borrow().is_fresh())
    }

    /// Whether this node speaks for all in what cannot be merged: the first of those that keep up.
    pub(super) fn speaks(&self, id: NodeId) -> bool {
        let followed = || self.nodes.iter().filter(|node| node.url.is_websocket() && self.follows(node.id));
        let fresh = followed().find(|node| node.status.borrow().is_fresh());
        fresh.or_else(|| followed().find(|node| node.state() == State::Up)).is_some_and(|node| node.id == id)
    }

    /// Whether this node is to be subscribed to.
    pub(super) fn follows(&self, id: NodeId) -> bool {
        self.elected.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_none_or(|elected| elected.contains(&id))
    }

    /// Fills the places of those that do not keep up with those that do. Who keeps up keeps its place.
    fn elect(&self) {
        let mut elected = self.elected.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(elected) = elected.as_mut() else { return };
        let fresh = |id: NodeId| self.node(id).is_some_and(|node| node.status.borrow().is_fresh());
        let mut others = self.nodes.iter().filter(|n| n.url.is_websocket() && !elected.contains(&n.id) && fresh(n.id));
        let mut next = Vec::with_capacity(self.subscribe_max);
        for id in elected.iter().copied() {
            next.push(if fresh(id) { id } else { others.next().map_or(id, |node| node.id) });
        }
        next.extend(others.map(|node| node.id).take(self.subscribe_max - next.len()));
        *elected = next;
    }

    /// Longest time for one call.
    #[must_use]
    pub fn call_timeout(&self) -> Duration {
        self.call_timeout
    }

    /// The best node that can be called and whose head is at least at `height`, other than those in `tried`. Nodes that
    /// are behind the others come after those that are not, and nodes whose head is not known last.
    #[must_use]
    pub fn pick(&self, height: u64, tried: &[NodeId]) -> Option<&Arc<Node>> {
        let now = now();
        let highest = self.nodes.iter().filter_map(|node| node.head()).map(|head| head.number).max().unwrap_or(0);
        let ranked =
            self.nodes.iter().enumerate().filter(|(_, n)| !tried.contains(&n.id)).filter_map(|(place, node)| {
                let (tier, head) = {
                    let status = node.status.borrow();
                    match status.head {
                        _ if status.state != State::Up => return None,
                        Some(head) if head.number < height => return None,
                        Some(head) => (u8::from(!status.is_fresh()), head.number),
                        None => (2, highest),
                    }
                };
                let record = node.record();
                if record.breaker.opens_at(now).is_some() {
                    return None;
                }
                let cost = record.score.cost(place, highest.saturating_sub(head).min(LAG_MAX), node.budget.under_way());
                Some(((tier, cost), node))
            });
        ranked.min_by(|(a, _), (b, _)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))).map(|(_, node)| node)
    }

    /// When the first of the nodes that failed calls may be called again.
    fn next_opening(&self) -> Option<Instant> {
        let now = now();
        self.nodes.iter().filter_map(|node| node.record().breaker.opens_at(now)).min().map(Instant::from_std)
    }

    /// Ends when `node` no longer keeps up and another one that was not tried can take its calls.
    pub async fn another_takes_over(&self, node: &Node, height: u64, tried: &[NodeId]) {
        let tried = [tried, &[node.id]].concat();
        node.falls_behind().await;
        loop {
            let changed = self.changed.notified();
            if self.pick(height, &tried).is_some() {
                return;
            }
            changed.await;
        }
    }

    /// Like [`Pool::pick`], and where there is none, waits for one until `deadline`.
    pub async fn wait(&self, height: u64, tried: &[NodeId], deadline: Instant) -> Option<&Arc<Node>> {
        loop {
            let changed = self.changed.notified();
            if let Some(node) = self.pick(height, tried) {
                return Some(node);
            }
            if Instant::now() >= deadline {
                return None;
            }
            let opening = self.next_opening().map_or(deadline, |at| at.min(deadline));
            // Either way it is looked at again: the time may have come, or a node.
            let _ = tokio::time::timeout_at(opening, changed).await;
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

    /// Whether it says that it is still syncing.
    #[must_use]
    pub fn is_syncing(&self) -> bool {
        self.status.borrow().syncing
    }

    /// The last head that the node told on the present connection.
    #[must_use]
    pub fn head(&self) -> Option<BlockRef> {
        self.status.borrow().head
    }

    /// One call for a client, within `deadline`.
    pub async fn call(
        &self,
        method: &str,
        params: Option<&RawValue>,
        deadline: Duration,
    ) -> Result<Box<RawValue>, CallError> {
        self.measured(Use::Client, method, params, deadline).await
    }

    /// One call that the gateway itself needs to keep the stream exact, within `deadline`.
    pub async fn ask(
        &self,
        method: &str,
        params: Option<&RawValue>,
        deadline: Duration,
    ) -> Result<Box<RawValue>, CallError> {
        self.measured(Use::Repair, method, params, deadline).await
    }

    /// Ends when the node no longer keeps up. Never ends for one that does not now.
    async fn falls_behind(&self) {
        let mut status = self.status.subscribe();
        if status.borrow_and_update().is_fresh() {
            // The sender lives as long as this node.
            let _ = status.wait_for(|status| !status.is_fresh()).await;
        } else {
            std::future::pending::<()>().await;
        }
    }

    async fn measured(
        &self,
        usage: Use,
        method: &str,
        params: Option<&RawValue>,
        deadline: Duration,
    ) -> Result<Box<RawValue>, CallError> {
        let mut started = Instant::now();
        let result = self.try_call(usage, method, params, &mut started, deadline).await;
        let outcome = result.as_ref().err().map_or("ok", CallError::label);
        let labels = [&*self.chain, &*self.label];
        self.metrics.upstream_calls.with_label_values(&[labels[0], labels[1], outcome]).inc();
        if matches!(result, Err(CallError::OverBudget(_))) {
            return result;
        }
        self.metrics.upstream_call_seconds.with_label_values(&labels).observe(started.elapsed().as_secs_f64());
        let trouble = result.as_ref().is_err_and(CallError::is_trouble);
        let mut record = self.record();
        record.score.observe(started.elapsed(), !trouble);
        if trouble {
            let unit = record.jitter.random();
            if record.breaker.failed(now(), unit) {
                tracing::warn!(chain = %self.chain, upstream = %self.label, "the node fails calls; others are called");
            }
        } else {
            record.breaker.ok();
        }
        self.metrics.upstream_breaker.with_label_values(&labels).set(i64::from(record.breaker.is_open()));
        drop(record);
        result
    }

    async fn try_call(
        &self,
        usage: Use,
        method: &str,
        params: Option<&RawValue>,
        started: &mut Instant,
        deadline: Duration,
    ) -> Result<Box<RawValue>, CallError> {
        let ends = *started + deadline;
        let Some(client) = self.status.borrow().client.clone() else {
            return Err(CallError::Unavailable("not connected".into()));
        };
        let _slot = self.budget.take(usage, ends).await?;
        // The wait for it is not the node's.
        *started = Instant::now();
        if usage == Use::Client {
            self.record().breaker.begin(now());
        }
        client.call(&self.url, method, params, ends.saturating_duration_since(Instant::now())).await
    }
}
