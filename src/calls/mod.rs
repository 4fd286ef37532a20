//! Answers to calls: from own state, from the cache, or from a node that can answer.
//!
//! Equal calls that may be shared run once. A call about a block that was announced is asked by that block's hash and
//! waits a bounded time for a node that has it, so that what a client reads fits what it was told. Only methods of a
//! closed list reach a node; those with an effect reach one node once. Knows nothing of connections.

mod cache;
mod methods;
mod view;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::chain::ChainUpdate;
use crate::hub::StreamKey;
use crate::metrics::Metrics;
use crate::rpc::{self, Error};
use crate::upstream::{CallError, Pool};

use cache::{Cache, Scope};
pub use methods::{Class, class};
use view::{Target, View};

/// Bounds of the calls of one chain.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long a call about an announced block waits for a node that can answer.
    pub announced_wait: Duration,
    /// Deadline of a forwarded call.
    pub deadline: Duration,
    /// Deadline of `eth_getLogs`.
    pub logs_deadline: Duration,
    /// Most blocks in the range of `eth_getLogs`.
    pub logs_max_blocks: u64,
    /// Most logs in the answer of `eth_getLogs`.
    pub logs_max_rows: usize,
    /// Most bytes of answers kept.
    pub cache_max_bytes: usize,
    /// Whether the live page's `chaincast_status` is answered.
    pub status: bool,
}

/// The calls of one chain. Shared by all shards.
#[derive(Debug)]
pub struct Calls {
    chain: Arc<str>,
    pool: Arc<Pool>,
    options: Options,
    view: View,
    cache: Cache,
    metrics: Metrics,
}

/// A call as it goes to a node.
#[derive(Debug, Clone)]
struct Outgoing {
    method: &'static str,
    params: Arc<RawValue>,
    /// The node's head must be at least this high.
    height: u64,
    /// It is about a block that was announced: "not found" is not an answer.
    announced: bool,
    deadline: Duration,
}

impl Calls {
    /// No block is known yet; [`Calls::follow`] tells.
    #[must_use]
    pub fn new(chain: Arc<str>, pool: Arc<Pool>, options: Options, metrics: Metrics) -> Self {
        let cache = Cache::new(options.cache_max_bytes, chain.clone(), metrics.clone());
        Self { chain, pool, options, view: View::default(), cache, metrics }
    }

    /// Keeps the view on the chain. To be called before the update reaches clients.
    pub fn follow(&self, update: &ChainUpdate) {
        self.view.follow(update);
        if matches!(update, ChainUpdate::Head(_) | ChainUpdate::Undo(_) | ChainUpdate::Gap) {
            self.cache.next_head();
        }
    }

    /// How old the head is by our own clock; `None` before the first.
    #[must_use]
    pub fn head_age(&self) -> Option<Duration> {
        self.view.tip().map(|tip| tip.since.elapsed())
    }

    /// The nodes.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Whether the call is answered at once from own state, without waiting.
    #[must_use]
    pub fn is_own(&self, method: &str) -> bool {
        class(method).is_some_and(|m| m.class == Class::Own)
    }

    /// The result of a call as raw JSON.
    pub async fn call(&self, method: &str, params: Option<&RawValue>) -> Result<Bytes, Error> {
        let known = class(method);
        let result = match known {
            Some(known) => self.dispatch(known, params).await,
            None => Err(rpc::method_not_found(method)),
        };
        let label = known.map_or("refused", |m| m.class.label());
        let outcome = match &result {
            Ok(_) => "ok",
            Err(e) if e.code() == rpc::TIMEOUT_CODE => "timeout",
            Err(e) if e.code() == rpc::LIMIT_CODE => "limited",
            Err(_) => "error",
        };
        self.metrics.calls.with_label_values(&[&*self.chain, label, outcome]).inc();
        result
    }

    async fn dispatch(&self, method: methods::Method, params: Option<&RawValue>) -> Result<Bytes, Error> {
        match method.class {
            Class::Own => self.own(method.name, params),
            Class::Cached => self.cached(method.name, params).await,
            Class::Forward => self.ask(self.outgoing(method.name, params), false).await,
            Class::Send => self.ask(self.outgoing(method.name, params), true).await,
        }
    }

    fn own(&self, method: &'static str, params: Option<&RawValue>) -> Result<Bytes, Error> {
        if let Some(params) = params {
            let list: Vec<serde::de::IgnoredAny> =
                serde_json::from_str(params.get()).map_err(|_| rpc::invalid_params("non-array args"))?;
            if !list.is_empty() {
                return Err(rpc::invalid_params("too many arguments, want at most 0"));
            }
        }
        let unknown = || rpc::internal_error("no node has been reached yet");
        let identity = || self.pool.identity().ok_or_else(unknown);
        let text = match method {
            "eth_chainId" => format!("\"{:#x}\"", identity()?.chain_id),
            "net_version" => serde_json::to_string(&identity()?.net_version).expect("a string is always JSON"),
            "eth_blockNumber" => format!("\"{:#x}\"", self.view.tip().ok_or_else(unknown)?.block.number),
            "net_listening" => "true".into(),
            "eth_accounts" => "[]".into(),
            "eth_syncing" => "false".into(),
            "web3_clientVersion" => {
                let (version, os, arch) = (env!("CARGO_PKG_VERSION"), std::env::consts::OS, std::env::consts::ARCH);
                format!("\"chaincast/v{version}/{os}-{arch}\"")
            }
            "chaincast_status" if self.options.status => self.status(),
            other => return Err(rpc::method_not_found(other)),
        };
        Ok(text.into())
    }

    /// What the live page shows. Says how the nodes are, not which.
    fn status(&self) -> String {
        let mut upstreams: Vec<_> = self.pool.nodes().iter().map(|node| node.state()).collect();
        upstreams.sort_unstable();
        let words: Vec<_> = upstreams.into_iter().map(crate::upstream::State::word).collect();
        let count = |kind: &&str| self.metrics.subscriptions.with_label_values(&[&*self.chain, kind]).get();
        let head = self.view.tip().map(|tip| {
            serde_json::json!({
                "number": format!("{:#x}", tip.block.number),
                "hash": tip.block.hash,
                "ageMs": u64::try_from(tip.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            })
        });
        serde_json::json!({
            "chain": &*self.chain,
            "chainId": self.pool.identity().map(|id| format!("{:#x}", id.chain_id)),
            "version": env!("CARGO_PKG_VERSION"),
            "head": head,
            "clients": self.metrics.clients.with_label_values(&[&*self.chain]).get(),
            "subscriptions": StreamKey::LABELS.iter().map(count).sum::<i64>(),
            "upstreams": words,
        })
        .to_string()
    }

    fn outgoing(&self, method: &'static str, params: Option<&RawValue>) -> Outgoing {
        let params = params.map_or_else(|| RawValue::from_string("[]".into()).expect("it is JSON"), ToOwned::to_owned);
        Outgoing {
            method,
            params: params.into(),
            height: self.view.tip().map_or(0, |tip| tip.block.number),
            announced: false,
            deadline: self.options.deadline,
        }
    }

    async fn cached(&self, method: &'static str, params: Option<&RawValue>) -> Result<Bytes, Error> {
        let mut outgoing = self.outgoing(method, params);
        let mut scope = Scope::Head;
        if method == "eth_getLogs" {
            outgoing.deadline = self.options.logs_deadline;
            let by = Instant::now() + self.options.announced_wait;
            while self.view.logs_are_coming(&outgoing.params) && Instant::now() < by {
                // A node may answer `[]` for a block it has just announced; ours are complete.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            if let Some(logs) = self.view.logs(&outgoing.params) {
                self.count_cache("own_logs");
                return self.rows(logs);
            }
            if let Some(span) = self.view.span(&outgoing.params).filter(|span| *span > self.options.logs_max_blocks) {
                tracing::debug!(span, "eth_getLogs over too many blocks");
                return Err(self.limited("logs_blocks"));
            }
        }
        match self.view.target(method, &outgoing.params) {
            Target::Announced { method, params, height } => {
                // A block may well have no such index.
                let announced = !method.ends_with("AndIndex");
                outgoing = Outgoing { method, params: params.into(), height, announced, ..outgoing };
                scope = Scope::Block;
            }
            Target::Ahead(height) => outgoing.height = height.min(outgoing.height),
            Target::Other => {}
        }
        let result = self.shared(scope, outgoing).await?;
        if method == "eth_getLogs" { self.rows(result) } else { Ok(result) }
    }

    fn limited(&self, limit: &'static str) -> Error {
        self.metrics.refusals.with_label_values(&[limit, "call"]).inc();
        rpc::limit(limit, "call", 0)
    }

    fn rows(&self, result: Bytes) -> Result<Bytes, Error> {
        // A log is never shorter than this, so a short answer needs no counting.
        if result.len() / 100 > self.options.logs_max_rows {
            let rows: Vec<serde::de::IgnoredAny> = serde_json::from_slice(&result).unwrap_or_default();
            if rows.len() > self.options.logs_max_rows {
                return Err(self.limited("logs_rows"));
            }
        }
        Ok(result)
    }

    fn count_cache(&self, outcome: &str) {
        self.metrics.call_cache.with_label_values(&[&*self.chain, outcome]).inc();
    }

    /// Asks once for all who ask the same.
    async fn shared(&self, scope: Scope, outgoing: Outgoing) -> Result<Bytes, Error> {
        let key = (outgoing.method, outgoing.params.clone());
        let (pool, wait) = (self.pool.clone(), self.options.announced_wait);
        let answer = self.cache.get_or_ask(scope, key, || Box::pin(ask(pool, outgoing, wait, false)));
        answer.await
    }

    async fn ask(&self, outgoing: Outgoing, once: bool) -> Result<Bytes, Error> {
        ask(self.pool.clone(), outgoing, self.options.announced_wait, once).await
    }
}

/// Whether a node's error says that it does not have a block.
fn says_unknown(error: &Error) -> bool {
    let text = error.message();
    ["unknown block", "header not found", "block not found", "header for hash not found"]
        .iter()
        .any(|t| text.contains(t))
}

/// Asks nodes until one answers. With `once` the call has an effect and goes to one node only.
async fn ask(pool: Arc<Pool>, outgoing: Outgoing, wait: Duration, once: bool) -> Result<Bytes, Error> {
    let ends = Instant::now() + outgoing.deadline;
    let found_by = (Instant::now() + wait).min(ends);
    let mut tried = Vec::new();
    let mut last = None;
    loop {
        let Some(node) = pool.wait(outgoing.height, &tried, found_by).await else {
            return last.unwrap_or_else(|| Err(rpc::internal_error("no node can answer at the moment")));
        };
        let left = ends.saturating_duration_since(Instant::now());
        let result = tokio::select! {
            result = node.call(outgoing.method, Some(&outgoing.params), left) => result,
            () = pool.another_takes_over(node, outgoing.height, &tried), if !once => {
                Err(CallError::Unavailable("the node fell behind".into()))
            }
        };
        tried.push(node.id());
        last = Some(match result {
            Ok(raw) if outgoing.announced && raw.get() == "null" => Err(rpc::timeout()),
            Ok(raw) => return Ok(Bytes::from(Box::<str>::from(raw).into_string())),
            Err(CallError::Node(error)) if outgoing.announced && says_unknown(&error) => Err(error),
            Err(CallError::Node(error)) => return Err(error),
            Err(CallError::Timeout) => return Err(rpc::timeout()),
            // It was not sent: another node may have room.
            Err(CallError::OverBudget(wait)) => {
                Err(rpc::limit("upstream_calls", "chain", u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)))
            }
            Err(CallError::Unavailable(_)) if once => return Err(rpc::internal_error("the node could not be asked")),
            Err(CallError::Unavailable(_)) => Err(rpc::internal_error("the node could not be asked")),
        });
        if pool.pick(outgoing.height, &tried).is_none() && Instant::now() < found_by {
            // All that can be asked were: give them a moment to import the block.
            tokio::time::sleep(Duration::from_millis(25)).await;
            tried.clear();
        }
    }
}
