//! Which logs a caller asked for: addresses, topics, and a block or a range.
//!
//! Owns reading and matching of log filters with Geth's semantics. It is deliberately not the gateway's own code, so that a
//! test that compares the two compares two readings of the same rules. Pure.

use alloy_primitives::{Address, B256};
use serde_json::Value;

use super::args::{self, RpcError, at, misfit};
use super::block::{Block, LogAt};

/// Geth's bound on topic positions.
const MAX_POSITIONS: usize = 4;

/// What a log must look like. Empty lists match anything.
#[derive(Debug, Clone, Default)]
pub(super) struct LogFilter {
    addresses: Vec<Address>,
    topics: Vec<Vec<B256>>,
}

/// Where logs are looked for.
#[derive(Debug, Clone)]
pub(super) enum Scope {
    Block(B256),
    /// Both ends by number or tag; absent means the newest block.
    Range(Option<Value>, Option<Value>),
}

/// Reads a filter object that is the argument at `place`.
pub(super) fn parse(value: &Value, place: usize) -> Result<(LogFilter, Scope), RpcError> {
    let object = value.as_object().ok_or_else(|| at(place, &misfit(value, "value of type filters.input")))?;
    let field = |name: &str| object.get(name).filter(|v| !v.is_null()).cloned();
    let (from, to) = (field("fromBlock"), field("toBlock"));
    let scope = match field("blockHash") {
        Some(_) if from.is_some() || to.is_some() => {
            let why = "cannot specify both BlockHash and FromBlock/ToBlock, choose one or the other";
            return Err(at(place, why));
        }
        Some(hash) => Scope::Block(args::hash(&hash).map_err(|why| at(place, &why))?),
        None => Scope::Range(from, to),
    };
    let addresses = field("address").map_or(Ok(Vec::new()), |v| addresses(&v));
    let topics = field("topics").map_or(Ok(Vec::new()), |v| topics(&v));
    let filter =
        LogFilter { addresses: addresses.map_err(|e| at(place, &e))?, topics: topics.map_err(|e| at(place, &e))? };
    Ok((filter, scope))
}

impl LogFilter {
    /// Whether a log of this block is wanted.
    pub(super) fn matches(&self, block: &Block, log: &LogAt<'_>) -> bool {
        let topics = log.transfer.topics(block.economy());
        let address = log.transfer.address(block.economy());
        (self.addresses.is_empty() || self.addresses.contains(&address))
            && self.topics.len() <= topics.len()
            && self.topics.iter().zip(&topics).all(|(any, topic)| any.is_empty() || any.contains(topic))
    }
}

fn addresses(value: &Value) -> Result<Vec<Address>, String> {
    match value {
        Value::Array(list) => list.iter().map(address).collect(),
        Value::String(_) => Ok(vec![address(value)?]),
        _ => Err("invalid addresses in query".into()),
    }
}

/// One list a position; a null, alone or in a list, makes the position a wildcard.
fn topics(value: &Value) -> Result<Vec<Vec<B256>>, String> {
    let wrong = || misfit(value, "struct field input.topics of type []interface {}");
    let positions = value.as_array().ok_or_else(wrong)?;
    if positions.len() > MAX_POSITIONS {
        return Err("exceed max topics".into());
    }
    let position = |value: &Value| match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(list) if list.iter().any(Value::is_null) => Ok(Vec::new()),
        Value::Array(list) => list.iter().map(topic).collect(),
        one => Ok(vec![topic(one)?]),
    };
    positions.iter().map(position).collect()
}

fn address(value: &Value) -> Result<Address, String> {
    let raw = args::bytes(value, "common.Address").map_err(|why| format!("invalid address: {why}"))?;
    Address::try_from(raw.as_slice()).map_err(|_| {
        format!("invalid address: hex has invalid length {} after decoding; expected 20 for address", raw.len())
    })
}

fn topic(value: &Value) -> Result<B256, String> {
    let raw = args::bytes(value, "common.Hash")?;
    B256::try_from(raw.as_slice())
        .map_err(|_| format!("hex has invalid length {} after decoding; expected 32 for topic", raw.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devnode::{DevChain, DevOptions};
    use serde_json::json;

    fn count(filter: &Value) -> usize {
        let mut chain = DevChain::new(DevOptions { tokens: 2, holders: 4, ..DevOptions::default() });
        let block = chain.mine(400, 1);
        let (filter, _) = parse(filter, 0).expect("a filter");
        block.logs().filter(|log| filter.matches(&block, log)).count()
    }

    #[test]
    fn wildcards_match_all_and_values_some() {
        assert_eq!(count(&json!({})), 400);
        assert_eq!(count(&json!({"address": [], "topics": [null, [], [null]]})), 400);
        assert_eq!(count(&json!({"topics": [null, null, null, null]})), 0, "a fourth position wants a fourth topic");
        let token = crate::devnode::Economy::new(1, 1).tokens()[0].address.to_string();
        let some = count(&json!({"address": token}));
        assert!(some > 0 && some < 400);
        assert_eq!(count(&json!({"address": [token, token]})), some);
        assert_eq!(count(&json!({"address": "0x0000000000000000000000000000000000000001"})), 0);
    }

    #[test]
    fn bad_filters_are_refused_in_geths_words() {
        let message = |v: Value| parse(&v, 1).unwrap_err().message;
        assert_eq!(message(json!({"topics": [null, null, null, null, null]})), "invalid argument 1: exceed max topics");
        assert_eq!(
            message(json!({"address": "0x12"})),
            "invalid argument 1: invalid address: hex has invalid length 1 after decoding; expected 20 for address"
        );
        let both = json!({"blockHash": B256::ZERO.to_string(), "toBlock": "0x1"});
        assert!(message(both).contains("cannot specify both BlockHash and FromBlock/ToBlock"));
    }
}
