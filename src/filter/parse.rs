//! Reads the filter parameter of `eth_subscribe ["logs", …]` as Geth does, and words its errors as Geth does.
//!
//! Where Geth would let a mistake match everything (unknown keys, a `blockHash` that its subscriptions ignore), the
//! filter is refused instead. Pure.

use alloy_primitives::{Address, B256};
use serde_json::{Map, Value};

use super::{Filter, POSITIONS};

/// Most alternatives that Geth itself takes (v1.17.0, eth/filters: maxSubTopics and maxAddresses).
const GETH_ALTERNATIVES: usize = 1000;

/// Bounds of ours on a filter.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Most addresses.
    pub addresses: usize,
    /// Most alternatives at one topic position.
    pub topics: usize,
}

/// Why a filter is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// -32602 with this text.
    Invalid(String),
    /// -32000 with this text.
    Server(&'static str),
    /// A bound of ours: its name.
    Limit(&'static str),
}

fn invalid<T>(text: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Invalid(text.into()))
}

/// Reads a filter that stands at position 1 of the parameters. `null` is the filter that wants everything.
pub fn parse(raw: &str, bounds: &Bounds) -> Result<Filter, Refusal> {
    let value: Value = serde_json::from_str(raw).map_err(|e| Refusal::Invalid(format!("invalid argument 1: {e}")))?;
    let members = match value {
        Value::Null => return Ok(Filter::default()),
        Value::Object(members) => members,
        other => {
            let kind = json_kind(&other);
            return invalid(format!(
                "invalid argument 1: json: cannot unmarshal {kind} into Go value of type filters.input"
            ));
        }
    };
    let at_one = |e: String| Refusal::Invalid(format!("invalid argument 1: {e}"));
    if let Some(key) =
        members.keys().find(|k| !["address", "topics", "fromBlock", "toBlock", "blockHash"].contains(&k.as_str()))
    {
        return Err(at_one(format!("unknown filter key {key:?}")));
    }
    check_hash(&members).map_err(at_one)?;
    let from = block(members.get("fromBlock")).map_err(at_one)?;
    let to = block(members.get("toBlock")).map_err(at_one)?;
    let addresses = addresses(members.get("address")).map_err(at_one)?;
    let topics = topics(members.get("topics")).map_err(at_one)?;
    if addresses.len() > GETH_ALTERNATIVES {
        return Err(Refusal::Server("exceed max addresses or topics per search position"));
    }
    if addresses.len() > bounds.addresses {
        return Err(Refusal::Limit("filter_addresses"));
    }
    if topics.iter().any(|any| any.len() > bounds.topics) {
        return Err(Refusal::Limit("filter_topics"));
    }
    let (from, to) = range(from, to)?;
    Ok(Filter::new(addresses, topics).between(from, to))
}

fn json_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A subscription has no use for a block hash; only `null` passes.
fn check_hash(members: &Map<String, Value>) -> Result<(), String> {
    match members.get("blockHash") {
        None | Some(Value::Null) => Ok(()),
        Some(_) if set(members.get("fromBlock")) || set(members.get("toBlock")) => {
            Err("cannot specify both BlockHash and FromBlock/ToBlock, choose one or the other".into())
        }
        Some(_) => Err("a subscription takes no blockHash".into()),
    }
}

fn set(value: Option<&Value>) -> bool {
    value.is_some_and(|v| !v.is_null())
}

/// A block as `fromBlock` or `toBlock` may name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Number(u64),
    Latest,
    Pending,
    Final,
}

fn block(value: Option<&Value>) -> Result<Block, String> {
    let text = match value {
        None | Some(Value::Null) => return Ok(Block::Latest),
        Some(Value::String(text)) => text.as_str(),
        Some(_) => return Err("hex string without 0x prefix".into()),
    };
    Ok(match text {
        "latest" => Block::Latest,
        "pending" => Block::Pending,
        "safe" | "finalized" => Block::Final,
        "earliest" => Block::Number(0),
        _ => Block::Number(quantity(text)?),
    })
}

/// A quantity in Geth's strict form: `0x`, no leading zero, at most 63 bits.
fn quantity(text: &str) -> Result<u64, String> {
    if text.is_empty() {
        return Err("empty hex string".into());
    }
    let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) else {
        return Err("hex string without 0x prefix".into());
    };
    match digits {
        "" => return Err("hex string \"0x\"".into()),
        "0" => return Ok(0),
        _ if digits.starts_with('0') => return Err("hex number with leading zero digits".into()),
        _ if !digits.bytes().all(|b| b.is_ascii_hexdigit()) => return Err("invalid hex string".into()),
        _ => {}
    }
    match u64::from_str_radix(digits, 16) {
        Err(_) => Err("hex number > 64 bits".into()),
        Ok(n) if i64::try_from(n).is_err() => Err("block number larger than int64".into()),
        Ok(n) => Ok(n),
    }
}

/// The bounds that the numbers put on live logs (Geth, eth/filters: a live log outside of them is not sent).
fn range(from: Block, to: Block) -> Result<(Option<u64>, Option<u64>), Refusal> {
    match (from, to) {
        (Block::Pending, _) | (_, Block::Pending) => invalid("pending logs are not supported"),
        (Block::Latest, Block::Latest) => Ok((None, None)),
        (Block::Number(from), Block::Latest) => Ok((Some(from), None)),
        (Block::Number(from), Block::Number(to)) if from <= to => Ok((Some(from), Some(to))),
        _ => invalid("invalid block range params"),
    }
}

fn addresses(value: Option<&Value>) -> Result<Vec<Address>, String> {
    let address = |text: &str| fixed::<20>(text, "address").map(Address::from);
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![address(text).map_err(|e| format!("invalid address: {e}"))?]),
        Some(Value::Array(list)) => {
            let one = |(i, value): (usize, &Value)| match value {
                Value::String(text) => address(text).map_err(|e| format!("invalid address at index {i}: {e}")),
                _ => Err(format!("non-string address at index {i}")),
            };
            list.iter().enumerate().map(one).collect()
        }
        Some(_) => Err("invalid addresses in query".into()),
    }
}

fn topics(value: Option<&Value>) -> Result<Vec<Vec<B256>>, String> {
    let list = match value {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(other) => {
            let kind = json_kind(other);
            return Err(format!(
                "json: cannot unmarshal {kind} into Go struct field input.topics of type []interface {{}}"
            ));
        }
    };
    if list.len() > POSITIONS {
        return Err("exceed max topics".into());
    }
    list.iter().map(position).collect()
}

/// One topic position: a value, a list of alternatives, or `null`. A `null` among the alternatives means any.
fn position(value: &Value) -> Result<Vec<B256>, String> {
    let topic = |text: &str| fixed::<32>(text, "topic").map(B256::from);
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(text) => Ok(vec![topic(text)?]),
        Value::Array(list) if list.len() > GETH_ALTERNATIVES => Err("exceed max topics".into()),
        Value::Array(list) => {
            let mut any = Vec::with_capacity(list.len());
            for value in list {
                match value {
                    Value::Null => return Ok(Vec::new()),
                    Value::String(text) => any.push(topic(text)?),
                    _ => return Err("invalid topic(s)".into()),
                }
            }
            Ok(any)
        }
        _ => Err("invalid topic(s)".into()),
    }
}

/// Hex of exactly `N` bytes.
fn fixed<const N: usize>(text: &str, what: &str) -> Result<[u8; N], String> {
    if text.is_empty() {
        return Err("empty hex string".into());
    }
    let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) else {
        return Err("hex string without 0x prefix".into());
    };
    if digits.len() % 2 == 1 {
        return Err("hex string of odd length".into());
    }
    let bytes = alloy_primitives::hex::decode(digits).map_err(|_| "invalid hex string".to_owned())?;
    <[u8; N]>::try_from(bytes.as_slice())
        .map_err(|_| format!("hex has invalid length {} after decoding; expected {N} for {what}", bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { addresses: 2, topics: 2 };
    const A: &str = "\"0x1111111111111111111111111111111111111111\"";
    const T: &str = "\"0x2222222222222222222222222222222222222222222222222222222222222222\"";

    #[test]
    fn equal_requests_read_as_equal_filters() {
        let all = parse("{}", &BOUNDS).unwrap();
        for same in [
            "null",
            r#"{"address":[]}"#,
            r#"{"address":null,"topics":null}"#,
            r#"{"topics":[]}"#,
            r#"{"fromBlock":"0x0"}"#,
            r#"{"fromBlock":"latest","toBlock":"latest"}"#,
            r#"{"fromBlock":"earliest"}"#,
            r#"{"blockHash":null}"#,
        ] {
            assert_eq!(parse(same, &BOUNDS).unwrap(), all, "{same}");
        }
        let one = parse(&format!(r#"{{"address":{A},"topics":[{T}]}}"#), &BOUNDS).unwrap();
        for same in [
            format!(r#"{{"address":[{A},{A}],"topics":[[{T}]]}}"#),
            format!(r#"{{"topics":[[{T},{T}]],"address":[{A}]}}"#),
        ] {
            assert_eq!(parse(&same, &BOUNDS).unwrap(), one, "{same}");
        }
        assert_ne!(all, parse(r#"{"topics":[null]}"#, &BOUNDS).unwrap(), "one topic is needed");
        assert_eq!(parse(&format!(r#"{{"topics":[[{T},null]]}}"#), &BOUNDS), parse(r#"{"topics":[null]}"#, &BOUNDS));
        assert_ne!(all, parse(r#"{"fromBlock":"0x5"}"#, &BOUNDS).unwrap());
    }

    #[test]
    fn refusals_are_worded_as_geths() {
        let many = |n: usize| vec![A; n].join(",");
        for (text, want) in [
            ("[]".to_owned(), "invalid argument 1: json: cannot unmarshal array into Go value of type filters.input"),
            (
                r#"{"address":"0x11"}"#.into(),
                "invalid argument 1: invalid address: hex has invalid length 1 after decoding; expected 20 for address",
            ),
            (r#"{"address":"0x111"}"#.into(), "invalid argument 1: invalid address: hex string of odd length"),
            (
                format!(r#"{{"address":[{A},"0x12"]}}"#),
                "invalid argument 1: invalid address at index 1: hex has invalid length 1 after decoding; expected 20 for address",
            ),
            (r#"{"address":7}"#.into(), "invalid argument 1: invalid addresses in query"),
            (r#"{"topics":[null,null,null,null,null]}"#.into(), "invalid argument 1: exceed max topics"),
            (r#"{"topics":[7]}"#.into(), "invalid argument 1: invalid topic(s)"),
            (r#"{"fromBlock":"0x10000000000000000"}"#.into(), "invalid argument 1: hex number > 64 bits"),
            (r#"{"fromBlock":"0x8000000000000000"}"#.into(), "invalid argument 1: block number larger than int64"),
            (r#"{"fromBlock":1}"#.into(), "invalid argument 1: hex string without 0x prefix"),
            (r#"{"fromBlock":"pending"}"#.into(), "pending logs are not supported"),
            (r#"{"fromBlock":"safe"}"#.into(), "invalid block range params"),
            (r#"{"fromBlock":"0x2","toBlock":"0x1"}"#.into(), "invalid block range params"),
            (r#"{"adress":"0x11"}"#.into(), "invalid argument 1: unknown filter key \"adress\""),
            (r#"{"Address":"0x11"}"#.into(), "invalid argument 1: unknown filter key \"Address\""),
            (r#"{"blockHash":"0x11"}"#.into(), "invalid argument 1: a subscription takes no blockHash"),
        ] {
            assert_eq!(parse(&text, &BOUNDS), Err(Refusal::Invalid(want.into())), "{text}");
        }
        assert_eq!(parse(&format!(r#"{{"address":[{}]}}"#, many(3)), &BOUNDS), Err(Refusal::Limit("filter_addresses")));
        assert_eq!(
            parse(&format!(r#"{{"address":[{}]}}"#, many(1001)), &BOUNDS),
            Err(Refusal::Server("exceed max addresses or topics per search position"))
        );
    }
}
