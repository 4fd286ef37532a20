//! Which best-effort feeds are wanted, and the tasks that pass a node's feed on while it is wanted.
//!
//! Owns no truth: a feed (pending transactions, syncing) is passed through as the node tells it. A feed that nobody
//! listens to is not subscribed upstream.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{broadcast, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::Node;
use super::client::Client;
use crate::chain::{Feed, FeedEvent};

/// How many listeners each wanted feed has.
pub type Demand = BTreeMap<Feed, usize>;

/// Where listeners are counted. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DemandHandle(Arc<watch::Sender<Demand>>);

impl Default for DemandHandle {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Demand::new())))
    }
}

impl DemandHandle {
    /// One more listener.
    pub fn add(&self, feed: &Feed) {
        self.0.send_modify(|demand| *demand.entry(feed.clone()).or_default() += 1);
    }

    /// One listener fewer.
    pub fn remove(&self, feed: &Feed) {
        self.0.send_modify(|demand| {
            if let Some(count) = demand.get_mut(feed) {
                *count -= 1;
                if *count == 0 {
                    demand.remove(feed);
                }
            }
        });
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Demand> {
        self.0.subscribe()
    }
}

/// The feeds open on one connection. Dropping it closes them.
#[derive(Default)]
pub(crate) struct Open {
    tasks: JoinSet<()>,
    feeds: BTreeMap<Feed, AbortHandle>,
}

impl Open {
    /// Opens what is wanted and closes what is not wanted any more.
    pub(crate) fn follow(
        &mut self,
        demand: &Demand,
        node: &Arc<Node>,
        client: &Client,
        events: &broadcast::Sender<FeedEvent>,
    ) {
        self.feeds.retain(|feed, task| {
            let wanted = demand.contains_key(feed) && !task.is_finished();
            if !wanted {
                task.abort();
            }
            wanted
        });
        for feed in demand.keys().filter(|feed| !self.feeds.contains_key(*feed)).cloned().collect::<Vec<_>>() {
            let pass = pass_on(feed.clone(), node.clone(), client.clone(), events.clone());
            self.feeds.insert(feed, self.tasks.spawn(pass));
        }
        while self.tasks.try_join_next().is_some() {}
    }
}

/// Passes one feed of one node on until the connection ends.
async fn pass_on(feed: Feed, node: Arc<Node>, client: Client, events: broadcast::Sender<FeedEvent>) {
    let mut subscription = match client.subscribe(&node.url, &feed.0).await {
        Ok(subscription) => subscription,
        Err(error) => {
            tracing::warn!(chain = %node.chain, upstream = %node.label, feed = %feed.0, %error, "the node refuses a feed");
            return;
        }
    };
    while let Some(Ok(raw)) = subscription.next().await {
        let event = FeedEvent { feed: feed.clone(), json: Bytes::from(Box::<str>::from(raw).into_string()) };
        let outcome = if events.send(event).is_ok() { "passed" } else { "no_listener" };
        node.metrics.feed_events.with_label_values(&[&*node.chain, outcome]).inc();
    }
}
