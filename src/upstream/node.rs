//! The task of one node: connect, check the chain, subscribe, tell what is heard, and start over when it ends.
//!
//! Says what the node said and nothing else. A message that cannot be read is counted and skipped; the ingest notices
//! what is missing by parent hash.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use jsonrpsee::core::client::Subscription;
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::client::{CallError, Client};
use super::feeds::Open;
use super::{Demand, Ears, Identity, Node, Options, Pool, State, Status};
use crate::chain::{Header, Observation, Saying};

/// How long a node on another chain is left alone.
const WRONG_CHAIN_PAUSE: Duration = Duration::from_secs(15);
/// How often a node that is only called is checked.
const HTTP_CHECK: Duration = Duration::from_secs(15);

pub(super) struct Task {
    pub(super) node: Arc<Node>,
    pub(super) pool: Arc<Pool>,
    pub(super) options: Options,
    pub(super) ears: Ears,
    pub(super) demand: watch::Receiver<Demand>,
    pub(super) stop: CancellationToken,
}

/// Why a connection was not made or did not last.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("{0}")]
    Call(#[from] CallError),
    #[error("{0}")]
    WrongChain(String),
    #[error("malformed answer to {0}: {1}")]
    Malformed(&'static str, String),
    #[error("the subscription to newHeads ended")]
    Unsubscribed,
    #[error("stopped")]
    Stopped,
}

impl Task {
    /// Runs until stopped.
    pub(super) async fn run(mut self) {
        let mut failures = 0u32;
        let stop = self.stop.clone();
        // A node that never comes must be seen as down, not be missing.
        self.node.metrics.upstream_up.with_label_values(&self.labels()).set(0);
        while !stop.is_cancelled() {
            let connected = tokio::select! {
                () = stop.cancelled() => return,
                connected = self.connect() => connected,
            };
            let end = match connected {
                Ok((client, heads)) => {
                    failures = 0;
                    self.count("up");
                    tracing::info!(chain = %self.options.chain, upstream = %self.node.label, "node is up");
                    let end = self.follow(&client, heads).await;
                    self.node.metrics.upstream_up.with_label_values(&self.labels()).set(0);
                    self.tell(tokio::time::Instant::now().into_std(), Saying::Lost).await;
                    end
                }
                Err(end) => {
                    self.count("failed");
                    end
                }
            };
            if matches!(end, End::Stopped) {
                return;
            }
            let wrong = matches!(end, End::WrongChain(_));
            self.set(if wrong { State::WrongChain } else { State::Down }, None);
            let pause = if wrong { WRONG_CHAIN_PAUSE } else { backoff(&self.options, failures, self.options.jitter()) };
            self.report(&end, failures, pause);
            failures = failures.saturating_add(1);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            self.set(State::Connecting, None);
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

    fn set(&self, state: State, client: Option<Client>) {
        self.node.status.send_replace(Status { state, head: None, client });
        self.pool.notify();
    }

    async fn tell(&self, at: Instant, what: Saying) {
        let observation = Observation { node: self.node.id, at, what };
        // The receiver ends only when the whole chain is being stopped.
        if self.ears.observations.send(observation).await.is_err() {
            self.stop.cancel();
        }
    }

    /// Connects, checks the chain, subscribes, and tells the latest block.
    async fn connect(&self) -> Result<(Client, Option<Subscription<Box<RawValue>>>), End> {
        let client = Client::connect(&self.node.url, &self.options).await?;
        let identity = self.identity(&client).await?;
        self.check(&identity)?;
        if !self.node.url.is_websocket() {
            self.up(&client);
            return Ok((client, None));
        }
        let mut heads = client.subscribe(&self.node.url, r#"["newHeads"]"#).await?;
        let mut latest = self.latest(&client).await?;
        // What was announced before that answer came may be older than it, and would pass for the node's newer word.
        while heads.next().now_or_never().is_some_and(|head| head.is_some()) {
            latest = self.latest(&client).await?;
        }
        self.up(&client);
        self.head(latest, tokio::time::Instant::now().into_std(), Saying::Connected).await;
        Ok((client, Some(heads)))
    }

    async fn latest(&self, client: &Client) -> Result<Header, End> {
        let latest = self.ask(client, "eth_getBlockByNumber", r#"["latest",false]"#).await?;
        let malformed = |e: crate::chain::Malformed| End::Malformed("eth_getBlockByNumber", e.to_string());
        Header::from_block(latest.get().as_bytes()).map_err(malformed)
    }

    fn up(&self, client: &Client) {
        self.set(State::Up, Some(client.clone()));
        self.node.metrics.upstream_up.with_label_values(&self.labels()).set(1);
    }

    async fn ask(&self, client: &Client, method: &'static str, params: &str) -> Result<Box<RawValue>, CallError> {
        let params = RawValue::from_string(params.to_owned()).expect("params are JSON");
        client.call(&self.node.url, method, Some(&params), self.options.call_timeout).await
    }

    async fn identity(&self, client: &Client) -> Result<Identity, End> {
        let malformed = |method, raw: &RawValue| End::Malformed(method, raw.get().chars().take(80).collect());
        let raw = self.ask(client, "eth_chainId", "[]").await?;
        let chain_id = serde_json::from_str::<String>(raw.get())
            .ok()
            .and_then(|text| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok())
            .ok_or_else(|| malformed("eth_chainId", &raw))?;
        let raw = self.ask(client, "net_version", "[]").await?;
        let net_version = serde_json::from_str(raw.get()).map_err(|_| malformed("net_version", &raw))?;
        let raw = self.ask(client, "eth_getBlockByNumber", r#"["0x0",false]"#).await;
        let genesis = raw.ok().and_then(|raw| Header::from_block(raw.get().as_bytes()).ok()).map(|h| h.hash);
        Ok(Identity { chain_id, net_version, genesis })
    }

    /// The node must be on the configured chain, and on the same one as the nodes before it.
    fn check(&self, identity: &Identity) -> Result<(), End> {
        let wrong = |what, has: String, want: String| Err(End::WrongChain(format!("{what} is {has}, expected {want}")));
        if let Some(want) = self.options.chain_id.filter(|want| *want != identity.chain_id) {
            return wrong("chain id", identity.chain_id.to_string(), want.to_string());
        }
        let agreed = self.pool.agree(identity.clone());
        if agreed.chain_id != identity.chain_id {
            return wrong("chain id", identity.chain_id.to_string(), agreed.chain_id.to_string());
        }
        match (identity.genesis, agreed.genesis) {
            (Some(has), Some(want)) if has != want => wrong("genesis block", has.to_string(), want.to_string()),
            _ => Ok(()),
        }
    }

    /// Tells what comes until the connection ends.
    async fn follow(&mut self, client: &Client, heads: Option<Subscription<Box<RawValue>>>) -> End {
        let Some(mut heads) = heads else { return self.keep_checking(client).await };
        let mut open = Open::default();
        loop {
            let demand = self.demand.borrow_and_update().clone();
            open.follow(&demand, &self.node, client, &self.ears.feeds);
            tokio::select! {
                () = self.stop.cancelled() => return End::Stopped,
                gone = client.gone(&self.node.url) => return gone.into(),
                changed = self.demand.changed() => if changed.is_err() { return End::Stopped },
                head = heads.next() => match head {
                    Some(Ok(raw)) => self.announced(raw).await,
                    Some(Err(e)) => return End::Malformed("newHeads", e.to_string()),
                    None => return End::Unsubscribed,
                },
            }
        }
    }

    async fn announced(&self, raw: Box<RawValue>) {
        let at = tokio::time::Instant::now().into_std();
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

    /// A node that is only called has no stream to watch: ask it now and then.
    async fn keep_checking(&self, client: &Client) -> End {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return End::Stopped,
                () = tokio::time::sleep(HTTP_CHECK) => {}
            }
            match self.identity(client).await.and_then(|identity| self.check(&identity)) {
                Ok(()) => {}
                Err(end) => return end,
            }
        }
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
            calls_in_flight: 1,
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
