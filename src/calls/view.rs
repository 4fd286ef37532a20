//! What is known of the chain for answering calls: the recent blocks by number and hash, and their logs.
//!
//! Turns calls about a number or a tag into calls about the hash that was announced. Owns no truth: it follows the
//! chain's updates.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use alloy_primitives::B256;
use bytes::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::chain::{BlockLogs, BlockRef, ChainUpdate};
use crate::filter;

/// Blocks remembered.
const BLOCKS: usize = 1024;
/// Blocks whose logs are remembered.
const BLOCKS_WITH_LOGS: usize = 64;
/// Geth's own bounds on a filter: what is answered from memory is answered as a node would.
const FILTER_BOUNDS: filter::Bounds = filter::Bounds { addresses: 1000, topics: 1000 };

/// The head.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tip {
    pub(super) block: BlockRef,
    /// When it became the head here.
    pub(super) since: Instant,
}

#[derive(Debug, Default)]
struct Known {
    blocks: VecDeque<BlockRef>,
    numbers: HashMap<B256, u64>,
    logs: HashMap<B256, Arc<BlockLogs>>,
    since: Option<Instant>,
}

/// The view. Locked for a look-up at a time.
#[derive(Debug, Default)]
pub(super) struct View(Mutex<Known>);

/// How a call stands to the announced blocks.
#[derive(Debug)]
pub(super) enum Target {
    /// It is about an announced block: this is the same call by hash.
    Announced { method: &'static str, params: Box<RawValue>, height: u64 },
    /// It is about a height that nodes may have and we have not announced.
    Ahead(u64),
    /// It is not about a recent block.
    Other,
}

/// Methods by number, with the equal one by hash.
const BY_HASH: [(&str, &str); 8] = [
    ("eth_getBlockByNumber", "eth_getBlockByHash"),
    ("eth_getBlockReceipts", "eth_getBlockReceipts"),
    ("eth_getBlockTransactionCountByNumber", "eth_getBlockTransactionCountByHash"),
    ("eth_getHeaderByNumber", "eth_getHeaderByHash"),
    ("eth_getRawTransactionByBlockNumberAndIndex", "eth_getRawTransactionByBlockHashAndIndex"),
    ("eth_getTransactionByBlockNumberAndIndex", "eth_getTransactionByBlockHashAndIndex"),
    ("eth_getUncleByBlockNumberAndIndex", "eth_getUncleByBlockHashAndIndex"),
    ("eth_getUncleCountByBlockNumber", "eth_getUncleCountByBlockHash"),
];

/// A block parameter in the strict form of a quantity.
fn quantity(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x")?;
    let strict = digits == "0" || (!digits.is_empty() && !digits.starts_with('0') && !digits.starts_with('+'));
    u64::from_str_radix(digits, 16).ok().filter(|_| strict)
}

impl View {
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn follow(&self, update: &ChainUpdate) {
        self.known().follow(update);
    }

    pub(super) fn tip(&self) -> Option<Tip> {
        let known = self.known();
        Some(Tip { block: *known.blocks.back()?, since: known.since? })
    }

    pub(super) fn target(&self, method: &'static str, params: &RawValue) -> Target {
        let Ok(mut list) = serde_json::from_str::<Vec<Value>>(params.get()) else { return Target::Other };
        let Some(Value::String(first)) = list.first() else { return Target::Other };
        let known = self.known();
        if let Ok(hash) = first.parse::<B256>()
            && first.len() == 66
        {
            let by_hash = BY_HASH.iter().find(|(_, by_hash)| *by_hash == method);
            return match (by_hash, known.numbers.get(&hash)) {
                (Some((_, method)), Some(height)) => {
                    Target::Announced { method, params: params.to_owned(), height: *height }
                }
                _ => Target::Other,
            };
        }
        let Some((_, method)) = BY_HASH.iter().find(|(by_number, _)| *by_number == method) else {
            return Target::Other;
        };
        let number = if first == "latest" { known.blocks.back().map(|b| b.number) } else { quantity(first) };
        let Some(number) = number else { return Target::Other };
        let Some(block) = known.at(number) else { return Target::Ahead(number) };
        list[0] = Value::String(block.hash.to_string());
        let params = serde_json::value::to_raw_value(&list).expect("values are JSON");
        Target::Announced { method, params, height: number }
    }

    /// The answer to `eth_getLogs` by the hash of a block whose logs are held.
    pub(super) fn logs(&self, params: &RawValue) -> Option<Bytes> {
        let (mut filter, hash) = by_hash(params)?;
        let logs = self.known().logs.get(&hash)?.clone();
        filter.remove("blockHash");
        if filter.contains_key("fromBlock") || filter.contains_key("toBlock") {
            return None;
        }
        // Whatever is wrong with the filter, the node says it in its own words.
        let filter = filter::parse(&Value::Object(filter).to_string(), &FILTER_BOUNDS).ok()?;
        let mut json = Vec::from(b"[");
        for log in logs.logs.iter().filter(|log| filter.matches(log)) {
            if json.len() > 1 {
                json.push(b',');
            }
            json.extend_from_slice(&log.json);
        }
        json.push(b']');
        Some(json.into())
    }

    /// Whether the call is `eth_getLogs` by the hash of an announced block whose logs are not here yet.
    pub(super) fn logs_are_coming(&self, params: &RawValue) -> bool {
        let Some((_, hash)) = by_hash(params) else { return false };
        let known = self.known();
        let oldest = known.blocks.len().saturating_sub(BLOCKS_WITH_LOGS);
        let recent = known.blocks.iter().skip(oldest).any(|block| block.hash == hash);
        recent && !known.logs.contains_key(&hash)
    }

    /// Number of blocks that a call of `eth_getLogs` spans at most; `None` where the node will refuse it anyway.
    ///
    /// Read as loosely as any node does: Go takes keys in any case and the last one of them, some take leading zeros.
    pub(super) fn span(&self, params: &RawValue) -> Option<u64> {
        let list: Vec<serde_json::Map<String, Value>> = serde_json::from_str(params.get()).ok()?;
        let filter = list.first()?;
        let named = |name: &str| -> Vec<&Value> {
            filter.iter().filter(|(key, _)| key.to_lowercase() == name).map(|(_, value)| value).collect()
        };
        let hashes = named("blockhash");
        if !hashes.is_empty() && hashes.iter().all(|hash| !hash.is_null()) {
            return Some(1);
        }
        let tip = self.tip().map_or(0, |tip| tip.block.number);
        let number = |value: &Value| match value {
            Value::Null => Some(tip),
            Value::String(text) => match text.as_str() {
                "latest" | "pending" | "safe" | "finalized" => Some(tip),
                "earliest" => Some(0),
                text => text.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok()),
            },
            other => other.as_u64(),
        };
        let numbers = |name: &str| named(name).into_iter().map(number).collect::<Option<Vec<u64>>>();
        let from = numbers("fromblock")?.into_iter().min().unwrap_or(tip);
        let to = numbers("toblock")?.into_iter().max().unwrap_or(tip);
        to.checked_sub(from).map(|span| span.saturating_add(1))
    }
}

/// The filter and the block hash of a call of `eth_getLogs` by hash.
fn by_hash(params: &RawValue) -> Option<(serde_json::Map<String, Value>, B256)> {
    let list: Vec<serde_json::Map<String, Value>> = serde_json::from_str(params.get()).ok()?;
    let [filter] = <[_; 1]>::try_from(list).ok()?;
    let hash = filter.get("blockHash")?.as_str().filter(|text| text.len() == 66)?.parse().ok()?;
    Some((filter, hash))
}

impl Known {
    fn at(&self, number: u64) -> Option<BlockRef> {
        let first = self.blocks.front()?.number;
        self.blocks.get(usize::try_from(number.checked_sub(first)?).ok()?).copied()
    }

    fn follow(&mut self, update: &ChainUpdate) {
        match update {
            ChainUpdate::Head(header) => {
                self.blocks.push_back(header.block());
                self.numbers.insert(header.hash, header.number);
                self.since = Some(Instant::now());
                while self.blocks.len() > BLOCKS {
                    let oldest = self.blocks.pop_front().expect("it is not empty");
                    self.numbers.remove(&oldest.hash);
                }
            }
            ChainUpdate::Logs(logs) => {
                self.logs.insert(logs.block.hash, logs.clone());
                if let Some(at) = self.blocks.len().checked_sub(BLOCKS_WITH_LOGS + 1) {
                    self.logs.remove(&self.blocks[at].hash);
                }
            }
            ChainUpdate::Undo(undone) => {
                for block in undone {
                    self.logs.remove(&block.block.hash);
                    self.numbers.remove(&block.block.hash);
                    if self.blocks.back() == Some(&block.block) {
                        self.blocks.pop_back();
                    }
                }
            }
            ChainUpdate::Gap => *self = Self::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::{Header, Log, Undone};

    fn hash(n: u64) -> B256 {
        B256::left_padding_from(&n.to_be_bytes())
    }

    fn head(number: u64) -> ChainUpdate {
        ChainUpdate::Head(Arc::new(Header {
            number,
            hash: hash(number),
            parent: hash(number - 1),
            timestamp: 0,
            bloom: None,
            json: Bytes::new(),
        }))
    }

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.into()).unwrap()
    }

    #[test]
    fn calls_about_announced_blocks_are_asked_by_hash() {
        let view = View::default();
        (10..13).for_each(|n| view.follow(&head(n)));
        let announced = |method, params: &str| match view.target(method, &raw(params)) {
            Target::Announced { method, params, height } => Some((method, params.get().to_owned(), height)),
            _ => None,
        };
        let eleven = Some(("eth_getBlockByHash", format!("[\"{}\",true]", hash(11)), 11));
        assert_eq!(announced("eth_getBlockByNumber", r#"["0xb",true]"#), eleven);
        assert_eq!(announced("eth_getBlockByHash", &format!("[\"{}\",true]", hash(11))), eleven);
        assert_eq!(announced("eth_getBlockByNumber", r#"["latest",false]"#).map(|a| a.2), Some(12));
        assert!(matches!(view.target("eth_getBlockByNumber", &raw(r#"["0xd",false]"#)), Target::Ahead(13)));
        for (method, params) in [
            ("eth_getBlockByNumber", r#"["0x0b",false]"#),
            ("eth_getBlockByNumber", r#"["pending",false]"#),
            ("eth_getBlockByNumber", "[]"),
            ("eth_getTransactionReceipt", r#"["0xb"]"#),
        ] {
            assert!(matches!(view.target(method, &raw(params)), Target::Other), "{method} {params}");
        }
        view.follow(&ChainUpdate::Undo(vec![Undone { block: BlockRef { number: 12, hash: hash(12) }, logs: None }]));
        assert_eq!(view.tip().unwrap().block.number, 11);
        assert_eq!(announced("eth_getBlockByNumber", r#"["0xc",false]"#), None);
    }

    #[test]
    fn logs_of_announced_blocks_are_answered_from_memory() {
        let view = View::default();
        view.follow(&head(10));
        let log = |n: u8| Log {
            address: alloy_primitives::Address::repeat_byte(n),
            topics: vec![],
            block_hash: hash(10),
            block_number: 10,
            index: u64::from(n) - 1,
            json: Bytes::from(format!("{{\"n\":{n}}}")),
        };
        let block = BlockRef { number: 10, hash: hash(10) };
        let params = raw(&format!("[{{\"blockHash\":\"{}\"}}]", hash(10)));
        assert!(view.logs_are_coming(&params));
        view.follow(&ChainUpdate::Logs(Arc::new(BlockLogs { block, logs: vec![log(1), log(2)] })));
        assert!(!view.logs_are_coming(&params));
        let ask = |rest: &str| view.logs(&raw(&format!("[{{\"blockHash\":\"{}\"{rest}}}]", hash(10))));
        assert_eq!(ask("").as_deref(), Some(&br#"[{"n":1},{"n":2}]"#[..]));
        assert_eq!(
            ask(r#","address":"0x0202020202020202020202020202020202020202""#).as_deref(),
            Some(&br#"[{"n":2}]"#[..])
        );
        assert_eq!(ask(r#","address":"0x03""#), None, "the node words the error");
        assert_eq!(ask(r#","fromBlock":"0x1""#), None);
        assert_eq!(view.span(&raw(r#"[{"fromBlock":"0x1","toBlock":"latest"}]"#)), Some(10));
        assert_eq!(view.span(&raw(r#"[{"fromBlock":"0x5","toBlock":"0x1"}]"#)), None);
        assert_eq!(view.span(&raw(r#"[{"fromBlock":"0x000","toBlock":"latest"}]"#)), Some(11));
        for hidden in [
            r#"[{"FromBlock":"0x0"}]"#,
            "[{\"fromBloc\u{212a}\":\"0x0\"}]",
            r#"[{"blockHash":"0x1","BLOCKHASH":null,"fromBlock":"0x0"}]"#,
        ] {
            assert_eq!(view.span(&raw(hidden)), Some(11), "{hidden}");
        }
    }
}
