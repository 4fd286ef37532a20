//! What the ingest asks of a node, and what it makes of the answers.
//!
//! Each question is one observation, whatever becomes of it: what cannot be answered is said to be absent. Decides
//! nothing.

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::B256;
use bytes::Bytes;
use futures_util::future::join;
use futures_util::stream::{self, StreamExt};
use serde_json::value::RawValue;

use crate::chain::{BlockRef, Header, Log, NodeId, Observation, Saying, Standing, is_syncing};
use crate::upstream::{CallError, Pool, now};

/// How long one answer of a node is waited for.
const DEADLINE: Duration = Duration::from_secs(5);
/// The same where the question is whether the node still answers.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);
/// Questions of one batch under way at a time.
const SIDE_BY_SIDE: usize = 32;

async fn ask(pool: &Pool, node: NodeId, method: &str, params: &str, deadline: Duration) -> Option<Bytes> {
    try_ask(pool, node, method, params, deadline).await.ok()
}

async fn try_ask(
    pool: &Pool,
    node: NodeId,
    method: &str,
    params: &str,
    deadline: Duration,
) -> Result<Bytes, CallError> {
    let node = pool.node(node).ok_or(CallError::Unavailable("no such node".into()))?;
    let params = RawValue::from_string(params.to_owned()).expect("params are JSON");
    let answer = node.ask(method, Some(&params), deadline).await;
    answer.map(|raw| Bytes::from(Box::<str>::from(raw).into_string())).inspect_err(|error| {
        tracing::debug!(upstream = %node.label, method, %error, "no answer");
    })
}

async fn block(pool: &Pool, node: NodeId, method: &str, params: &str) -> Option<Arc<Header>> {
    let json = ask(pool, node, method, params, DEADLINE).await.filter(|json| json.as_ref() != b"null")?;
    match Header::from_block(&json) {
        Ok(header) => Some(Arc::new(header)),
        Err(error) => {
            tracing::warn!(%error, "a node's block cannot be read");
            None
        }
    }
}

/// A block by hash, and with it `count` in all, downwards by number.
pub(super) async fn blocks(pool: Arc<Pool>, node: NodeId, of: BlockRef, count: u64) -> Observation {
    let hash = of.hash;
    let by_hash = block(&pool, node, "eth_getBlockByHash", &format!(r#"["{hash}",false]"#)).await;
    let mut blocks = Vec::from_iter(by_hash);
    if count > 1 && !blocks.is_empty() {
        let below = (1..count).filter_map(|n| of.number.checked_sub(n)).map(|number| {
            let pool = &pool;
            async move { block(pool, node, "eth_getBlockByNumber", &format!(r#"["{number:#x}",false]"#)).await }
        });
        blocks.extend(
            stream::iter(below).buffered(SIDE_BY_SIDE).filter_map(std::future::ready).collect::<Vec<_>>().await,
        );
    }
    Observation { node, at: now(), what: Saying::Blocks(hash, blocks) }
}

/// The logs of a block.
pub(super) async fn logs(pool: Arc<Pool>, node: NodeId, hash: B256) -> Observation {
    let json = ask(&pool, node, "eth_getLogs", &format!(r#"[{{"blockHash":"{hash}"}}]"#), DEADLINE).await;
    let logs = json.and_then(|json| match Log::list(&json) {
        Ok(logs) => logs,
        Err(error) => {
            tracing::warn!(%error, "a node's logs cannot be read");
            None
        }
    });
    Observation { node, at: now(), what: Saying::Logs(hash, logs) }
}

/// Where the node stands.
pub(super) async fn standing(pool: Arc<Pool>, node: NodeId, number: u64) -> Observation {
    let latest = block(&pool, node, "eth_getBlockByNumber", r#"["latest",false]"#);
    let (latest, syncing) = join(latest, ask(&pool, node, "eth_syncing", "[]", DEADLINE)).await;
    let standing = latest.zip(syncing);
    let standing = standing.map(|(latest, syncing)| Standing { latest, syncing: is_syncing(&syncing) });
    Observation { node, at: now(), what: Saying::Stands(number, standing) }
}

/// The node's height.
pub(super) async fn height(pool: Arc<Pool>, node: NodeId) -> Observation {
    let read = |json: Bytes| {
        let text: String = serde_json::from_slice(&json).ok()?;
        u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
    };
    let height = match try_ask(&pool, node, "eth_blockNumber", "[]", PROBE_DEADLINE).await {
        Ok(json) => read(json),
        // It was not asked: that says nothing about it.
        Err(CallError::OverBudget(_)) => Some(0),
        Err(_) => None,
    };
    Observation { node, at: now(), what: Saying::Height(height) }
}

/// The node's `safe` and `finalized` blocks. Chains without finality answer `null` or an error.
pub(super) async fn finality(pool: Arc<Pool>, node: NodeId) -> Observation {
    let safe = block(&pool, node, "eth_getBlockByNumber", r#"["safe",false]"#);
    let finalized = block(&pool, node, "eth_getBlockByNumber", r#"["finalized",false]"#);
    let (safe, finalized) = join(safe, finalized).await;
    let what = Saying::Finality { safe: safe.map(|b| b.block()), finalized: finalized.map(|b| b.block()) };
    Observation { node, at: now(), what }
}
