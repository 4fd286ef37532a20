//! Which best-effort feeds are wanted, and the tasks that pass a node's feed on while it is wanted.
//!
//! Owns no truth: a feed (pending transactions, syncing) is passed through as the node tells it. A feed that nobody
//! listens to is not subscribed upstream.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{broadcast, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Duration, Instant};

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

    /// Whether a listener of this feed would make more than `most` distinct feeds.
    #[must_use]
    pub fn is_full_for(&self, feed: &Feed, most: usize) -> bool {
        let demand = self.0.borrow();
        demand.len() >= most && !demand.contains_key(feed)
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Demand> {
        self.0.subscribe()
    }
}

/// Events remembered to tell repetitions from other nodes.
const SEEN: usize = 32_768;

/// Where node tasks put the events of feeds. Several nodes tell the same pending transaction: it goes on once.
#[derive(Debug, Clone)]
pub struct FeedSink {
    events: broadcast::Sender<FeedEvent>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    hasher: RandomState,
    known: HashSet<u64>,
    order: VecDeque<u64>,
}

impl Seen {
    /// Whether this event is told for the first time within the bound.
    fn is_new(&mut self, event: &FeedEvent) -> bool {
        let digest = self.hasher.hash_one((&event.feed, &event.json));
        if !self.known.insert(digest) {
            return false;
        }
        self.order.push_back(digest);
        if self.order.len() > SEEN
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

impl FeedSink {
    /// Passes on to `events`; a receiver that lags loses the oldest.
    #[must_use]
    pub fn new(events: broadcast::Sender<FeedEvent>) -> Self {
        Self { events, seen: Arc::default() }
    }

    /// Where receivers subscribe.
    #[must_use]
    pub fn sender(&self) -> &broadcast::Sender<FeedEvent> {
        &self.events
    }

    /// Passes an event on unless it is a repetition. Returns the value of the `outcome` label.
    fn put(&self, event: FeedEvent) -> &'static str {
        if event.feed.is_merged() && !self.seen.lock().unwrap_or_else(PoisonError::into_inner).is_new(&event) {
            return "repeated";
        }
        if self.events.send(event).is_ok() { "passed" } else { "no_listener" }
    }
}

/// The feeds open on one connection. Dropping it closes them.
#[derive(Default)]
pub(crate) struct Open {
    tasks: JoinSet<()>,
    feeds: BTreeMap<Feed, (AbortHandle, Instant)>,
}

/// How soon a feed that the node refused or ended is asked for again.
const AGAIN: Duration = Duration::from_secs(5);

impl Open {
    /// Opens what is wanted of this node and closes what is not wanted any more. Feeds that are not merged are wanted only
    /// of the node that `speaks` for all.
    pub(crate) fn follow(
        &mut self,
        demand: &Demand,
        speaks: bool,
        node: &Arc<Node>,
        client: &Client,
        events: &FeedSink,
    ) {
        let wanted = |feed: &Feed| demand.contains_key(feed) && (speaks || feed.is_merged());
        self.feeds.retain(|feed, (task, since)| {
            let stays = wanted(feed) && !(task.is_finished() && since.elapsed() >= AGAIN);
            if !stays {
                task.abort();
            }
            stays
        });
        let new: Vec<Feed> =
            demand.keys().filter(|feed| wanted(feed) && !self.feeds.contains_key(*feed)).cloned().collect();
        for feed in new {
            let pass = pass_on(feed.clone(), node.clone(), client.clone(), events.clone());
            self.feeds.insert(feed, (self.tasks.spawn(pass), Instant::now()));
        }
        while self.tasks.try_join_next().is_some() {}
    }
}

/// Passes one feed of one node on until the connection ends.
async fn pass_on(feed: Feed, node: Arc<Node>, client: Client, events: FeedSink) {
    let mut subscription = match client.subscribe(&node.url, &feed.0).await {
        Ok(subscription) => subscription,
        Err(error) => {
            // Not louder: clients choose what is asked for.
            node.metrics.feed_events.with_label_values(&[&*node.chain, "refused"]).inc();
            let kind = feed.0.chars().take(40).collect::<String>();
            tracing::debug!(chain = %node.chain, upstream = %node.label, kind, %error, "the node refuses a feed");
            return;
        }
    };
    while let Some(Ok(raw)) = subscription.next().await {
        let event = FeedEvent { feed: feed.clone(), json: Bytes::from(Box::<str>::from(raw).into_string()) };
        let outcome = events.put(event);
        node.metrics.feed_events.with_label_values(&[&*node.chain, outcome]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pending_transaction_goes_on_once_and_a_state_each_time() {
        let sink = FeedSink::new(broadcast::Sender::new(8));
        let _listener = sink.sender().subscribe();
        let event = |feed: &str, json: &'static str| FeedEvent {
            feed: Feed(feed.into()),
            json: Bytes::from_static(json.as_bytes()),
        };
        let pending = r#"["newPendingTransactions"]"#;
        assert_eq!(sink.put(event(pending, "\"0x1\"")), "passed");
        assert_eq!(sink.put(event(pending, "\"0x1\"")), "repeated");
        assert_eq!(sink.put(event(pending, "\"0x2\"")), "passed");
        assert_eq!(sink.put(event(r#"["syncing"]"#, "false")), "passed");
        assert_eq!(sink.put(event(r#"["syncing"]"#, "false")), "passed");
    }

    #[test]
    fn demand_counts_listeners() {
        let demand = DemandHandle::default();
        let feed = Feed("x".into());
        demand.add(&feed);
        demand.add(&feed);
        demand.remove(&feed);
        assert_eq!(demand.subscribe().borrow().get(&feed), Some(&1));
        demand.remove(&feed);
        assert!(demand.subscribe().borrow().is_empty());
    }
}
