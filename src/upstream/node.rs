//! The task of one node: connect, check the chain, subscribe, tell what is heard, and start over when it ends.
//!
//! Says what the node said and nothing else. A message that cannot be read is counted and skipped; the ingest notices
//! what is missing by parent hash. Does as it is ordered: sets the node aside, or makes the connection anew.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::join4;
use jsonrpsee::core::client::Subscription;
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::breaker::Breaker;
use super::client::{CallError, Client};
use super::feeds::Open;
use super::{Aside, Demand, Ears, Identity, Node, Options, Order, Pool, State, Status, now};
use crate::chain::{Header, Observation, Saying, is_syncing};

/// How long a node that is set aside is left alone at first; doubles to [`ASIDE_MAX`].
const ASIDE_MIN: Duration = Duration::from_secs(5);
const ASIDE_MAX: Duration = Duration::from_secs(60);
/// Longest wait between two attempts while no other node keeps up with the chain (promise P6).
const ALONE_MAX: Duration = Duration::from_secs(1);
/// How long an attempt to connect may take, but for one in so many, which gets the configured time: a node that comes back
/// is found soon, and one that is far away is reached all the same.
const SHORT_ATTEMPT: Duration = Duration::from_secs(2);
const LONG_ATTEMPTS: u32 = 4;
/// A connection that lasted this long counts as having been made.
const STEADY: Duration = Duration::from_secs(3);
/// How often `latest` is asked for when heads come meanwhile.
const LATEST_TRIES: usize = 3;
/// How long a node may take to say whether it is syncing while its heads wait.
const SYNCING_DEADLINE: Duration = Duration::from_secs(2);
/// How often a node that announces no heads to us is checked.
const CHECK_EVERY: Duration = Duration::from_secs(15);
/// How often a node that is syncing is asked whether it still is.
const SYNCING_EVERY: Duration = Duration::from_secs(5);

pub(super) struct Task {
    pub(super) node: Arc<Node>,
    pub(super) pool: Arc<Pool>,
    pub(super) options: Options,
    pub(super) ears: Ears,
    pub(super) demand: watch::Receiver<Demand>,
    pub(super) jitter: StdRng,
    pub(super) stop: CancellationToken,
}

/// Why a connection was not made or did not last.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("{0}")]
    Call(#[from] CallError),
    #[error("{1}")]
    Aside(Aside, String),
    #[error("malformed answer to {0}: {1}")]
    Malformed(&'static str, String),
    #[error("the subscription to newHeads ended")]
    Unsubscribed,
    #[error("{0}")]
    Ordered(&'static str),
    #[error("stopped")]
    Stopped,
}

impl Task {
    /// Runs until stopped.
    pub(super) async fn run(mut self) {
        let (mut failures, mut asides) = (0u32, 0u32);
        let stop = self.stop.clone();
        // A node that never comes must be seen as down, not be missing.
        self.node.metrics.upstream_up.with_label_values(&self.labels()).set(0);
        while !stop.is_cancelled() {
            let is_long = failures % LONG_ATTEMPTS == LONG_ATTEMPTS - 1;
            let patience = self.options.connect_timeout;
            let patience = if is_long { patience } else { patience.min(SHORT_ATTEMPT) };
            let connected = tokio::select! {
                () = stop.cancelled() => return,
                connected = self.connect(patience) => connected,
            };
            let end = match connected {
                Ok(client) => {
                    let since = tokio::time::Instant::now();
                    let end = self.serve(&client).await;
                    if since.elapsed() >= STEADY {
                        failures = 0;
                    }
                    end
                }
                Err(end) => {
                    self.count("failed");
                    end
                }
            };
            match end {
                End::Stopped => return,
                End::Aside(why, reason) => {
                    self.aside(why, &reason, asides).await;
                    asides += 1;
                }
                end => {
                    self.set(Status::without_client(State::Down));
                    self.pause(&end, failures).await;
                    (failures, asides) = (failures.saturating_add(1), 0);
                }
            }
            self.set(Status::without_client(State::Connecting));
        }
    }

    /// Leaves the node alone for a while, ever longer.
    async fn aside(&self, why: Aside, reason: &str, asides: u32) {
        self.set(Status::without_client(why.state()));
        let [chain, upstream] = self.labels();
        self.node.metrics.upstream_set_aside.with_label_values(&[chain, upstream, why.label()]).inc();
        let pause = ASIDE_MIN.saturating_mul(1 << asides.min(8)).min(ASIDE_MAX);
        let retry_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        tracing::error!(chain, upstream, cause = why.label(), reason, retry_ms, "node is set aside");
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }

    /// Waits before the next attempt: no longer than a second while no other node keeps up, whenever that becomes so.
    async fn pause(&mut self, reason: &End, failures: u32) {
        let wait = backoff(&self.options, failures, self.jitter.random());
        let alone = !self.pool.another_is_fresh(self.node.id);
        self.report(reason, failures, if alone { wait.min(ALONE_MAX) } else { wait });
        let started = tokio::time::Instant::now();
        loop {
            let changed = self.pool.changed();
            let alone = !self.pool.another_is_fresh(self.node.id);
            let wait = if alone { wait.min(ALONE_MAX) } else { wait };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep_until(started + wait) => return,
                () = changed => {}
            }
        }
    }

    /// Says why there is no connection; a node that stays away is mentioned ever more rarely.
    fn report(&self, reason: &End, failures: u32, pause: Duration) {
        let (chain, upstream) = (&self.options.chain, &self.node.label);
        let retry_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        if failures == 0 || failures.is_power_of_two() {
            tracing::warn!(%chain, %upstream, %reason, failures, retry_ms, "node is not available");
        } else {
            tracing::debug!(%chain, %upstream, %reason, failures, retry_ms, "node is not available");
        }
    }

    fn labels(&self) -> [&str; 2] {
        [&self.options.chain, &self.node.label]
    }

    fn count(&self, outcome: &str) {
        let [chain, upstream] = self.labels();
        self.node.metrics.upstream_connects.with_label_values(&[chain, upstream, outcome]).inc();
    }

    fn set(&self, status: Status) {
        self.node.status.send_replace(status);
        self.pool.notify();
    }

    async fn tell(&self, at: Instant, what: Saying) {
        let observation = Observation { node: self.node.id, at, what };
        // The receiver ends only when the whole chain is being stopped.
        if self.ears.observations.send(observation).await.is_err() {
            self.stop.cancel();
        }
    }

    /// Connects and checks that the node is on our chain.
    async fn connect(&self, patience: Duration) -> Result<Client, End> {
        let client = Client::connect(&self.node.url, &self.options, patience).await?;
        self.node.order.send_replace(None);
        let syncing = self.checked(&client).await?;
        self.node.status.send_modify(|status| status.syncing = syncing);
        Ok(client)
    }

    /// What a connection is for, until it ends.
    async fn serve(&mut self, client: &Client) -> End {
        let end = loop {
            let end = if self.node.url.is_websocket() && self.pool.follows(self.node.id) {
                self.follow(client).await
            } else {
                self.stand_by(client).await
            };
            if let Some(end) = end {
                break end;
            }
        };
        let labels = self.labels();
        self.node.metrics.upstream_up.with_label_values(&labels).set(0);
        self.node.metrics.upstream_stalled.with_label_values(&labels).set(0);
        end
    }

    fn up(&self, client: &Client, head: Option<&Header>) {
        let was_up = self.node.state() == State::Up;
        self.node.record().breaker = Breaker::default();
        self.node.metrics.upstream_breaker.with_label_values(&self.labels()).set(0);
        self.node.status.send_modify(|status| {
            status.state = State::Up;
            status.head = head.map(Header::block);
            status.client = Some(client.clone());
        });
        self.pool.notify();
        if !was_up {
            self.count("up");
            self.node.metrics.upstream_up.with_label_values(&self.labels()).set(1);
            tracing::info!(chain = %self.options.chain, upstream = %self.node.label, "node is up");
        }
    }

    /// Subscribes, and tells the latest block.
    async fn subscribe(&self, client: &Client) -> Result<Subscription<Box<RawValue>>, End> {
        let mut heads = client.subscribe(&self.node.url, r#"["newHeads"]"#).await?;
        let mut latest = self.latest(client).await?;
        // What was announced before that answer came may be older than it, and would pass for the node's newer word.
        let mut newest = None;
        for _ in 1..LATEST_TRIES {
            newest = newest_of(&mut heads);
            if newest.is_none() {
                break;
            }
            latest = self.latest(client).await?;
        }
        let newest = newest_of(&mut heads).or(newest).filter(|head| head.number > latest.number);
        self.up(client, Some(&latest));
        self.head(latest, now(), Saying::Connected).await;
        if let Some(head) = newest {
            self.head(head, now(), Saying::Head).await;
        }
        Ok(heads)
    }

    async fn latest(&self, client: &Client) -> Result<Header, End> {
        let latest = self.ask(client, "eth_getBlockByNumber", r#"["latest",false]"#).await?;
        let malformed = |e: crate::chain::Malformed| End::Malformed("eth_getBlockByNumber", e.to_string());
        Header::from_block(latest.get().as_bytes()).map_err(malformed)
    }

    async fn ask(&self, client: &Client, method: &'static str, params: &str) -> Result<Box<RawValue>, CallError> {
        let params = RawValue::from_string(params.to_owned()).expect("params are JSON");
        client.call(&self.node.url, method, Some(&params), self.options.call_timeout).await
    }

    /// Asks who the node is, and compares that with the configuration and with the nodes before it. Returns whether it
    /// is syncing.
    async fn checked(&self, client: &Client) -> Result<bool, End> {
        let shown = |raw: &RawValue| self.node.url.redact(raw.get()).chars().take(80).collect();
        let malformed = |method, raw: &RawValue| End::Malformed(method, shown(raw));
        let (chain_id, net_version, genesis, syncing) = join4(
            self.ask(client, "eth_chainId", "[]"),
            self.ask(client, "net_version", "[]"),
            self.ask(client, "eth_getBlockByNumber", r#"["0x0",false]"#),
            self.ask(client, "eth_syncing", "[]"),
        )
        .await;
        let raw = chain_id?;
        let chain_id = serde_json::from_str::<String>(raw.get())
            .ok()
            .and_then(|text| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok())
            .ok_or_else(|| malformed("eth_chainId", &raw))?;
        let raw = net_version?;
        let net_version = serde_json::from_str(raw.get()).map_err(|_| malformed("net_version", &raw))?;
        // A node need not have block 0, nor know eth_syncing.
        let genesis = genesis.ok().and_then(|raw| Header::from_block(raw.get().as_bytes()).ok()).map(|h| h.hash);
        self.compare(&Identity { chain_id, net_version, genesis })?;
        Ok(syncing.is_ok_and(|raw| is_syncing(raw.get().as_bytes())))
    }

    fn compare(&self, identity: &Identity) -> Result<(), End> {
        let differs = |(why, has, want): (Aside, String, String)| {
            let what = if why == Aside::ChainId { "chain id" } else { "genesis block" };
            End::Aside(why, format!("{what} is {has}, expected {want}"))
        };
        if let Some(want) = self.options.chain_id.filter(|want| *want != identity.chain_id) {
            return Err(differs((Aside::ChainId, identity.chain_id.to_string(), want.to_string())));
        }
        self.pool.agree(identity).map_err(differs)
    }

    /// Tells what comes until the connection ends, or the node is not to be followed any more (`None`).
    async fn follow(&mut self, client: &Client) -> Option<End> {
        // An order of the time before is of no meaning any more.
        self.node.order.send_replace(None);
        let subscribed = tokio::select! {
            () = self.stop.cancelled() => return Some(End::Stopped),
            subscribed = self.subscribe(client) => subscribed,
        };
        let mut heads = match subscribed {
            Ok(heads) => heads,
            Err(end) => return Some(end),
        };
        let mut open = Open::default();
        let mut order = self.node.order.subscribe();
        let mut look = tokio::time::interval(SYNCING_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let end = loop {
            let demand = self.demand.borrow_and_update().clone();
            let changed = self.pool.changed();
            open.follow(&demand, self.pool.speaks(self.node.id), &self.node, client, &self.ears.feeds);
            if !self.pool.follows(self.node.id) {
                break None;
            }
            if let Some(end) = ordered(&mut order) {
                break Some(end);
            }
            tokio::select! {
                () = self.stop.cancelled() => break Some(End::Stopped),
                gone = client.gone(&self.node.url) => break Some(gone.into()),
                changed = self.demand.changed() => if changed.is_err() { break Some(End::Stopped) },
                head = heads.next() => match head {
                    Some(Ok(raw)) => self.announced(raw).await,
                    Some(Err(e)) => break Some(End::Malformed("newHeads", e.to_string())),
                    None => break Some(End::Unsubscribed),
                },
                _ = order.changed() => {}
                _ = look.tick(), if self.node.is_syncing() || !demand.is_empty() => {
                    self.look_whether_syncing(client).await;
                }
                () = changed, if self.options.subscribe_max > 0 || !demand.is_empty() => {}
            }
        };
        self.tell(now(), Saying::Lost).await;
        end
    }

    async fn look_whether_syncing(&self, client: &Client) {
        if !self.node.is_syncing() {
            return;
        }
        let asking = tokio::time::timeout(SYNCING_DEADLINE, self.ask(client, "eth_syncing", "[]"));
        if let Ok(Ok(raw)) = asking.await {
            self.node.status.send_modify(|status| status.syncing = is_syncing(raw.get().as_bytes()));
            self.pool.notify();
        }
    }

    async fn announced(&self, raw: Box<RawValue>) {
        let at = now();
        match Header::from_announcement(Bytes::from(Box::<str>::from(raw).into_string())) {
            Ok(header) => self.head(header, at, Saying::Head).await,
            Err(error) => {
                self.node.metrics.upstream_malformed.with_label_values(&self.labels()).inc();
                tracing::warn!(chain = %self.options.chain, upstream = %self.node.label, %error, "skipped a head");
            }
        }
    }

    async fn head(&self, header: Header, at: Instant, what: impl FnOnce(Arc<Header>) -> Saying) {
        self.node.status.send_modify(|status| status.head = Some(header.block()));
        self.pool.notify();
        let number = i64::try_from(header.number).unwrap_or(i64::MAX);
        self.node.metrics.upstream_head.with_label_values(&self.labels()).set(number);
        self.node.metrics.upstream_seen.with_label_values(&self.labels()).set(crate::metrics::unix_seconds());
        self.tell(at, what(Arc::new(header))).await;
    }

    /// A node that is only called has no stream to watch: checks it now and then, until the connection ends or the node
    /// is to be followed (`None`).
    async fn stand_by(&self, client: &Client) -> Option<End> {
        // Who is not followed cannot be seen to be behind.
        self.pool.order(self.node.id, Order::Stalled(false));
        self.up(client, None);
        let follows = || self.node.url.is_websocket() && self.pool.follows(self.node.id);
        let mut check = tokio::time::interval(CHECK_EVERY);
        check.reset();
        loop {
            let changed = self.pool.changed();
            if follows() {
                return None;
            }
            tokio::select! {
                () = self.stop.cancelled() => return Some(End::Stopped),
                gone = client.gone(&self.node.url) => return Some(gone.into()),
                () = changed => {}
                _ = check.tick() => match self.checked(client).await {
                    Ok(syncing) => self.node.status.send_modify(|status| status.syncing = syncing),
                    Err(end) => return Some(end),
                },
            }
        }
    }
}

/// The last of the heads that wait to be read.
fn newest_of(heads: &mut Subscription<Box<RawValue>>) -> Option<Header> {
    let mut newest = None;
    while let Some(Some(Ok(raw))) = heads.next().now_or_never() {
        newest = Header::from_announcement(Bytes::from(Box::<str>::from(raw).into_string())).ok().or(newest);
    }
    newest
}

/// The end that is ordered, if one is.
fn ordered(order: &mut watch::Receiver<Option<Order>>) -> Option<End> {
    match *order.borrow_and_update() {
        Some(Order::SetAside(why)) => Some(End::Aside(
            why,
            "its chain leaves ours below the finalized block; if the chain was begun anew, restart chaincast".into(),
        )),
        Some(Order::Reconnect(why)) => Some(End::Ordered(why)),
        Some(Order::Stalled(_)) | None => None,
    }
}

/// The wait before attempt `failures + 1`: doubling, capped, and jittered down to half of it. `unit` is in 0..1.
fn backoff(options: &Options, failures: u32, unit: f64) -> Duration {
    let doubled = options.backoff_min.saturating_mul(1u32.checked_shl(failures.min(16)).unwrap_or(u32::MAX));
    doubled.min(options.backoff_max).mul_f64(0.5 + unit / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_is_capped_and_jittered() {
        let options = Options {
            chain: "test".into(),
            urls: Vec::new(),
            dial: crate::upstream::Dial::Network,
            chain_id: None,
            connect_timeout: Duration::from_secs(1),
            call_timeout: Duration::from_secs(1),
            calls: super::super::Rates {
                per_second: std::num::NonZeroU32::MIN,
                burst: std::num::NonZeroU32::MIN,
                in_flight: 1,
            },
            subscribe_max: 0,
            seed: None,
            message_max_bytes: 1,
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(5),
            silence_max: Duration::from_secs(1),
        };
        assert_eq!(backoff(&options, 0, 1.0), Duration::from_millis(100));
        assert_eq!(backoff(&options, 0, 0.0), Duration::from_millis(50));
        assert_eq!(backoff(&options, 3, 1.0), Duration::from_millis(800));
        assert_eq!(backoff(&options, 400, 1.0), Duration::from_secs(5));
    }
}
