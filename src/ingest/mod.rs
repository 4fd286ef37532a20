//! One canonical sequence out of many nodes' words.
//!
//! [`Tracker`] decides, purely; the one task here feeds it what the nodes say and what was asked for, and hands its
//! updates to the journal's writer in order. Nothing else writes there. Knows nothing of clients.

mod ask;
mod logs;
mod tracker;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy_primitives::B256;
use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::chain::{ChainUpdate, Header, Log, NodeId, Observation, Saying};
use crate::metrics::{Metrics, unix_seconds};
use crate::upstream::Pool;

pub use logs::{Blooms, Incomplete};
pub use tracker::{Action, Bounds, Tracker};

/// How long the ingest waits for one answer of a node.
const FETCH_DEADLINE: Duration = Duration::from_secs(5);

/// Where updates go, in order: the journal's append.
pub type Publish = Box<dyn FnMut(ChainUpdate, Instant) + Send>;

/// The ingest of one chain.
pub struct Ingest {
    /// Name of the chain, for labels and logs.
    pub chain: Arc<str>,
    /// What the nodes say.
    pub observations: mpsc::Receiver<Observation>,
    /// The nodes, to ask.
    pub pool: Arc<Pool>,
    /// The deciding part.
    pub tracker: Tracker,
    /// Where updates go.
    pub publish: Publish,
    /// Metrics.
    pub metrics: Metrics,
}

impl Ingest {
    /// Runs until stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut fetches: JoinSet<Observation> = JoinSet::new();
        let mut blooms_told = false;
        loop {
            let due = self.tracker.next_due();
            let actions = tokio::select! {
                () = stop.cancelled() => return,
                Some(observation) = self.observations.recv() => self.tracker.observe(observation),
                Some(Ok(answer)) = fetches.join_next() => self.tracker.observe(answer),
                () = sleep_until(due) => self.tracker.tick(tokio::time::Instant::now().into_std()),
            };
            for action in actions {
                self.act(action, &mut fetches);
            }
            if !blooms_told && self.tracker.blooms_are_empty() {
                blooms_told = true;
                let chain = &*self.chain;
                tracing::warn!(
                    chain,
                    "header blooms are empty on this chain: only log indexes show whether logs are complete"
                );
            }
        }
    }

    fn act(&mut self, action: Action, fetches: &mut JoinSet<Observation>) {
        let chain = &*self.chain;
        match action {
            Action::Publish(update, seen) => self.put_out(update, seen),
            Action::FetchBlock(node, hash) => {
                tracing::debug!(chain, %hash, "asking for a block");
                fetches.spawn(fetch_block(self.pool.clone(), node, hash));
            }
            Action::FetchLogs(node, hash) => {
                fetches.spawn(fetch_logs(self.pool.clone(), node, hash));
            }
            Action::Retry(why) => {
                self.metrics.logs_retries.with_label_values(&[chain, why.label()]).inc();
                tracing::debug!(chain, cause = why.label(), "the logs of a block are not complete yet");
            }
        }
    }

    fn put_out(&mut self, update: ChainUpdate, seen: Instant) {
        self.count(&update);
        (self.publish)(update, seen);
    }

    fn count(&self, update: &ChainUpdate) {
        let (metrics, chain) = (&self.metrics, &*self.chain);
        metrics.logs_waiting.with_label_values(&[chain]).set(i64::try_from(self.tracker.waiting()).unwrap_or(i64::MAX));
        match update {
            ChainUpdate::Head(header) => {
                metrics.heads.with_label_values(&[chain]).inc();
                metrics.head_block.with_label_values(&[chain]).set(i64::try_from(header.number).unwrap_or(i64::MAX));
                metrics.head_seen.with_label_values(&[chain]).set(unix_seconds());
            }
            ChainUpdate::Logs(logs) => metrics.logs.with_label_values(&[chain]).inc_by(logs.logs.len() as u64),
            ChainUpdate::Undo(undone) => {
                metrics.reorgs.with_label_values(&[chain, depth_label(undone.len())]).inc();
                let removed = undone.iter().filter_map(|u| u.logs.as_ref()).map(|l| l.logs.len() as u64).sum();
                metrics.logs_removed.with_label_values(&[chain]).inc_by(removed);
                tracing::info!(chain, depth = undone.len(), "reorg");
            }
            ChainUpdate::Gap => {
                metrics.gaps.with_label_values(&[chain]).inc();
                tracing::error!(chain, "gap: the stream cannot be kept exact; subscribers are closed");
            }
        }
    }
}

/// Few values, so that the label is bounded.
fn depth_label(depth: usize) -> &'static str {
    match depth {
        0 | 1 => "1",
        2 => "2",
        3 => "3",
        4..=7 => "4-7",
        8..=31 => "8-31",
        32..=127 => "32-127",
        _ => "128+",
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

async fn ask(pool: &Pool, node: NodeId, method: &str, params: String) -> Option<Bytes> {
    let node = pool.nodes().iter().find(|n| n.id() == node)?;
    let params = RawValue::from_string(params).expect("params are JSON");
    match node.call(method, Some(&params), FETCH_DEADLINE).await {
        Ok(raw) => Some(Bytes::from(Box::<str>::from(raw).into_string())),
        Err(error) => {
            tracing::debug!(upstream = %node.label, method, %error, "no answer");
            None
        }
    }
}

async fn fetch_block(pool: Arc<Pool>, node: NodeId, hash: B256) -> Observation {
    let json = ask(&pool, node, "eth_getBlockByHash", format!(r#"["{hash}",false]"#)).await;
    let block = json.filter(|json| json.as_ref() != b"null").and_then(|json| match Header::from_block(&json) {
        Ok(header) => Some(Arc::new(header)),
        Err(error) => {
            tracing::warn!(%error, "a node's block cannot be read");
            None
        }
    });
    Observation { node, at: tokio::time::Instant::now().into_std(), what: Saying::Block(hash, block) }
}

async fn fetch_logs(pool: Arc<Pool>, node: NodeId, hash: B256) -> Observation {
    let json = ask(&pool, node, "eth_getLogs", format!(r#"[{{"blockHash":"{hash}"}}]"#)).await;
    let logs = json.and_then(|json| match Log::list(&json) {
        Ok(logs) => logs,
        Err(error) => {
            tracing::warn!(%error, "a node's logs cannot be read");
            None
        }
    });
    Observation { node, at: tokio::time::Instant::now().into_std(), what: Saying::Logs(hash, logs) }
}
