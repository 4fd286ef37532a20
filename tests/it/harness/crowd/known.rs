//! What the events of a chain look like: the text of a result, held against the chain's own block once, is known to all
//! clients from then on.
//!
//! Owns that memory, and the filters with a matcher that shares nothing with the gateway's. Judges no order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use alloy_primitives::{Address, B256};
use chaincast::devnode::{Block, Economy, SharedChain, TRANSFER_TOPIC};
use serde_json::{Value, json};

/// One log among all: its place, then its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LogKey {
    pub(super) number: u64,
    pub(super) index: usize,
    pub(super) block: B256,
}

/// An event, as far as rules need it.
#[derive(Debug)]
pub(super) enum Event {
    Head {
        number: u64,
        hash: B256,
        parent: B256,
    },
    Log {
        key: LogKey,
        removed: bool,
        address: Address,
        topics: [B256; 3],
    },
    /// Not what the chain's own block says.
    Wrong(String),
}

/// A filter: an address and topics, where `None` allows any.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    address: Option<Address>,
    topics: Vec<Option<B256>>,
}

impl Filter {
    pub(super) fn takes(&self, address: &Address, topics: &[B256; 3]) -> bool {
        self.address.is_none_or(|wanted| wanted == *address)
            && self.topics.iter().zip(topics).all(|(wanted, topic)| wanted.is_none_or(|wanted| wanted == *topic))
    }

    pub(super) fn json(&self) -> Value {
        let mut filter = json!({});
        if let Some(address) = self.address {
            filter["address"] = json!(address);
        }
        if !self.topics.is_empty() {
            filter["topics"] = json!(self.topics);
        }
        filter
    }
}

/// Everything, by token, by sender, by receiver, and nothing at all.
pub(super) fn filters(economy: &Economy) -> Vec<Filter> {
    let token = |n: usize| Some(economy.tokens()[n % economy.tokens().len()].address);
    let holder = |n: usize| Some(economy.holders()[n % economy.holders().len()].into_word());
    let of = |address, topics: &[Option<B256>]| Filter { address, topics: topics.to_vec() };
    vec![
        of(None, &[]),
        of(token(0), &[]),
        of(None, &[Some(TRANSFER_TOPIC)]),
        of(token(1), &[Some(TRANSFER_TOPIC)]),
        of(None, &[None, holder(0)]),
        of(None, &[None, None, holder(1)]),
        of(token(2), &[None, None, None]),
        of(None, &[Some(B256::repeat_byte(0x11))]),
    ]
}

/// The logs of a block, added or removed, as the chain has them.
type OwnLogs = HashMap<(B256, bool), Arc<Vec<Value>>>;

/// The texts that are known.
pub(super) struct Known {
    chain: SharedChain,
    heads: Mutex<HashMap<Box<str>, Arc<Event>>>,
    logs: Mutex<HashMap<Box<str>, Arc<Event>>>,
    own: Mutex<OwnLogs>,
    arrivals: Mutex<HashMap<B256, Instant>>,
}

impl Known {
    pub(super) fn new(chain: SharedChain) -> Self {
        let (heads, logs, own, arrivals) = (Mutex::default(), Mutex::default(), Mutex::default(), Mutex::default());
        Self { chain, heads, logs, own, arrivals }
    }

    /// The event that a result is, of a subscription to heads or to logs.
    pub(super) fn event(&self, result: &str, heads: bool) -> Arc<Event> {
        let texts = if heads { &self.heads } else { &self.logs };
        let mut texts = texts.lock().expect("no client panics");
        let known = texts.get(result).cloned();
        let event = known.unwrap_or_else(|| {
            let read = if heads { self.head(result) } else { self.log(result) };
            let event = Arc::new(read.unwrap_or_else(Event::Wrong));
            texts.insert(result.into(), Arc::clone(&event));
            event
        });
        drop(texts);
        if let Event::Head { hash, .. } = &*event {
            self.arrivals.lock().expect("no client panics").insert(*hash, Instant::now());
        }
        event
    }

    /// When this head came last to anybody.
    pub(super) fn arrival(&self, hash: B256) -> Option<Instant> {
        self.arrivals.lock().expect("no client panics").get(&hash).copied()
    }

    fn block(&self, event: &Value, hash: &str) -> Result<Arc<Block>, String> {
        let hash =
            event[hash].as_str().and_then(|hash| hash.parse().ok()).ok_or_else(|| format!("no hash: {event}"))?;
        self.chain.block(hash).ok_or_else(|| format!("no block of this chain: {event}"))
    }

    /// The logs of a block as values, read once.
    fn own_logs(&self, block: &Block, removed: bool) -> Arc<Vec<Value>> {
        let read = |json: &String| serde_json::from_str(json).expect("the chain writes JSON");
        let mut own = self.own.lock().expect("no client panics");
        let logs = own.entry((block.hash(), removed));
        Arc::clone(logs.or_insert_with(|| Arc::new(block.logs_json(removed).iter().map(read).collect())))
    }

    fn head(&self, text: &str) -> Result<Event, String> {
        let value: Value = serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))?;
        let block = self.block(&value, "hash")?;
        let own: Value = serde_json::from_str(&block.header_json()).expect("the chain writes JSON");
        if value != own {
            return Err(format!("a head is not the chain's own: {text}"));
        }
        Ok(Event::Head { number: block.number(), hash: block.hash(), parent: block.parent_hash() })
    }

    fn log(&self, text: &str) -> Result<Event, String> {
        let value: Value = serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))?;
        let block = self.block(&value, "blockHash")?;
        let removed = value["removed"] == json!(true);
        let index = value["logIndex"].as_str().and_then(|index| index.strip_prefix("0x"));
        let index = index.and_then(|index| usize::from_str_radix(index, 16).ok()).unwrap_or(usize::MAX);
        if self.own_logs(&block, removed).get(index) != Some(&value) {
            return Err(format!("a log is not the chain's own: {text}"));
        }
        let at = block.logs().nth(index).expect("it was compared");
        let key = LogKey { number: block.number(), index: at.log_index, block: block.hash() };
        let (address, topics) = (at.transfer.address(block.economy()), at.transfer.topics(block.economy()));
        Ok(Event::Log { key, removed, address, topics })
    }
}
