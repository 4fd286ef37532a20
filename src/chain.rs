//! The words for what happens on a chain: headers, logs, what a node said, what became true.
//!
//! Reads from a node's JSON only the members that decisions need and keeps the node's own bytes for the clients, so
//! that members of future forks survive. Never hashes a header: L2 rules differ. Pure.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use alloy_primitives::{Address, B256, Bloom, BloomInput};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Which node of a chain, by its place in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u16);

/// A block by number and hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockRef {
    /// Height.
    pub number: u64,
    /// Hash as the node says it.
    pub hash: B256,
}

impl fmt::Display for BlockRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number, self.hash)
    }
}

/// A block header: what decisions need, and the node's own JSON in the form of a `newHeads` result.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    /// Height.
    pub number: u64,
    /// Hash as the node says it.
    pub hash: B256,
    /// Hash of the parent.
    pub parent: B256,
    /// Seconds since 1970.
    pub timestamp: u64,
    /// Bloom of the block's logs; `None` where the node does not give one.
    pub bloom: Option<Box<Bloom>>,
    /// The header object as the node wrote it.
    pub json: Bytes,
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Header({} {} on {})", self.number, self.hash, self.parent)
    }
}

/// JSON from a node that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed {what}: {why}")]
pub struct Malformed {
    /// What was to be read.
    pub what: &'static str,
    /// The cause; holds at most a short piece of the input.
    pub why: String,
}

/// A quantity as nodes write it: `0x` and at most 16 hex digits.
fn quantity<'de, D: serde::Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    let text = std::borrow::Cow::<str>::deserialize(d)?;
    text.strip_prefix("0x")
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .ok_or_else(|| serde::de::Error::custom("not a quantity of at most 64 bits"))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireHeader {
    hash: B256,
    parent_hash: B256,
    #[serde(deserialize_with = "quantity")]
    number: u64,
    #[serde(deserialize_with = "quantity")]
    timestamp: u64,
    #[serde(default)]
    logs_bloom: Option<Box<Bloom>>,
}

/// Longest header that is believed. One of today has under 2 KiB.
const HEADER_MAX_BYTES: usize = 64 * 1024;

/// Members of a block object that a `newHeads` result does not have.
const BLOCK_ONLY: [&str; 4] = ["transactions", "uncles", "withdrawals", "size"];

impl Header {
    /// Reads a `newHeads` result.
    pub fn from_announcement(json: Bytes) -> Result<Self, Malformed> {
        if json.len() > HEADER_MAX_BYTES {
            return Err(Malformed { what: "header", why: format!("{} bytes", json.len()) });
        }
        let wire: WireHeader = read("header", &json)?;
        Ok(Self {
            number: wire.number,
            hash: wire.hash,
            parent: wire.parent_hash,
            timestamp: wire.timestamp,
            bloom: wire.logs_bloom,
            json,
        })
    }

    /// Reads an `eth_getBlockBy…` result and brings it to the form of a `newHeads` result: the node's own bytes less
    /// the members that only blocks have.
    pub fn from_block(json: &[u8]) -> Result<Self, Malformed> {
        let members = members("block", json)?;
        let kept: Vec<_> = members.into_iter().filter(|(name, _)| !BLOCK_ONLY.contains(&name.as_ref())).collect();
        Self::from_announcement(Bytes::from(object(&kept)))
    }

    /// Number and hash.
    #[must_use]
    pub fn block(&self) -> BlockRef {
        BlockRef { number: self.number, hash: self.hash }
    }
}

/// One log of a block, with the node's own JSON.
#[derive(Clone, PartialEq, Eq)]
pub struct Log {
    /// Emitting contract.
    pub address: Address,
    /// Zero to four topics.
    pub topics: Vec<B256>,
    /// Block it is in, as the log itself says.
    pub block_hash: B256,
    /// Number of that block.
    pub block_number: u64,
    /// Place within the block.
    pub index: u64,
    /// The log object as the node wrote it.
    pub json: Bytes,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Log({} of {})", self.index, self.block_hash)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireLog {
    address: Address,
    topics: Vec<B256>,
    block_hash: B256,
    #[serde(deserialize_with = "quantity")]
    block_number: u64,
    #[serde(deserialize_with = "quantity")]
    log_index: u64,
}

impl Log {
    /// Reads the result of `eth_getLogs`; each log's JSON is a slice of `json`. `null` reads as `None`.
    pub fn list(json: &Bytes) -> Result<Option<Vec<Self>>, Malformed> {
        let Some(items): Option<Vec<&RawValue>> = read("logs", json)? else { return Ok(None) };
        let log = |raw: &RawValue| {
            let wire: WireLog = read("log", raw.get().as_bytes())?;
            if wire.topics.len() > 4 {
                return Err(Malformed { what: "log", why: format!("{} topics", wire.topics.len()) });
            }
            Ok(Self {
                address: wire.address,
                topics: wire.topics,
                block_hash: wire.block_hash,
                block_number: wire.block_number,
                index: wire.log_index,
                json: json.slice_ref(raw.get().as_bytes()),
            })
        };
        items.into_iter().map(log).collect::<Result<_, _>>().map(Some)
    }

    /// The log as it is told when its block leaves the chain: the same JSON with `removed` true, in parts that share the
    /// bytes of `json`.
    #[must_use]
    pub fn removed_parts(&self) -> [Bytes; 3] {
        let members = members("log", &self.json).expect("was read as an object before");
        let removed = members.iter().find(|(name, _)| name == "removed");
        let (from, to, between) = match removed.map(|(_, value)| self.json.slice_ref(value.as_bytes())) {
            Some(value) => {
                let from = value.as_ptr().addr() - self.json.as_ptr().addr();
                (from, from + value.len(), &b"true"[..])
            }
            None => (self.json.len() - 1, self.json.len() - 1, &br#","removed":true"#[..]),
        };
        [self.json.slice(..from), Bytes::from_static(between), self.json.slice(to..)]
    }
}

/// Adds a log's address and topics to a bloom (yellow paper §4.4.2).
pub fn accrue(bloom: &mut Bloom, log: &Log) {
    bloom.accrue(BloomInput::Raw(log.address.as_slice()));
    for topic in &log.topics {
        bloom.accrue(BloomInput::Raw(topic.as_slice()));
    }
}

/// The complete logs of one block, by index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockLogs {
    /// Whose logs these are.
    pub block: BlockRef,
    /// In ascending order of `index`.
    pub logs: Vec<Log>,
}

/// What one node said, or what became of our connection to it.
#[derive(Debug, Clone)]
pub struct Observation {
    /// Which node.
    pub node: NodeId,
    /// When it was read off the socket.
    pub at: Instant,
    /// What.
    pub what: Saying,
}

/// The content of an [`Observation`].
#[derive(Debug, Clone)]
pub enum Saying {
    /// Connected, on the right chain, subscribed; this is its latest block.
    Connected(Arc<Header>),
    /// It announced a head.
    Head(Arc<Header>),
    /// The connection is gone.
    Lost,
    /// Blocks that were asked for, the one with this hash first among them; none of what the node does not have, and
    /// none at all if it could not be asked.
    Blocks(B256, Vec<Arc<Header>>),
    /// The logs of a block that were asked for by hash; `None` if the node could not say.
    Logs(B256, Option<Vec<Log>>),
    /// Where it stands, asked under this number because it seemed to go back; `None` if it could not say.
    Stands(u64, Option<Standing>),
    /// Its `eth_blockNumber`, asked because it was silent; `None` if it gave no answer.
    Height(Option<u64>),
    /// Its `safe` and `finalized` blocks; `None` where it has none.
    Finality {
        /// The block with the tag `safe`.
        safe: Option<BlockRef>,
        /// The block with the tag `finalized`.
        finalized: Option<BlockRef>,
    },
}

/// Whether an answer to `eth_syncing` says that blocks are missing. Geth also gives an object while it only indexes
/// (go-ethereum, `SyncProgress.Done`): its `currentBlock` is then the `highestBlock`.
#[must_use]
pub fn is_syncing(answer: &[u8]) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Progress {
        #[serde(deserialize_with = "quantity")]
        current_block: u64,
        #[serde(deserialize_with = "quantity")]
        highest_block: u64,
    }
    match serde_json::from_slice::<Progress>(answer) {
        Ok(progress) => progress.current_block < progress.highest_block,
        Err(_) => answer.trim_ascii() != b"false",
    }
}

/// A node's latest block, and whether it is still syncing.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Its latest block.
    pub latest: Arc<Header>,
    /// Whether blocks are missing, as [`is_syncing`] reads it.
    pub syncing: bool,
}

/// A block that left the chain, with the logs that had been published of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undone {
    /// The block.
    pub block: BlockRef,
    /// Its logs, if they had been published.
    pub logs: Option<Arc<BlockLogs>>,
}

/// One step of the canonical chain, in the order in which clients get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainUpdate {
    /// These blocks left the chain, newest first.
    Undo(Vec<Undone>),
    /// This block is the new tip; its parent was the tip before.
    Head(Arc<Header>),
    /// The complete logs of a block of the chain; in the order of the blocks, each after its head.
    Logs(Arc<BlockLogs>),
    /// What follows does not connect to what came before: subscribers cannot be told an exact stream.
    Gap,
}

/// A stream that is passed through from the nodes as it comes, best effort: the raw params of its `eth_subscribe`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Feed(pub Arc<str>);

impl Feed {
    /// Whether it is of this kind, the first of the params.
    #[must_use]
    pub fn is_of(&self, kind: &str) -> bool {
        let rest = self.0.strip_prefix("[\"").and_then(|rest| rest.strip_prefix(kind));
        rest.is_some_and(|rest| rest.starts_with('"'))
    }

    /// Whether it is merged over all nodes: each of its events is told once. Others come from one node at a time.
    #[must_use]
    pub fn is_merged(&self) -> bool {
        self.is_of("newPendingTransactions")
    }
}

/// One event of a [`Feed`].
#[derive(Debug, Clone)]
pub struct FeedEvent {
    /// Which feed.
    pub feed: Feed,
    /// The `result` of the notification as the node wrote it.
    pub json: Bytes,
}

fn read<'a, T: Deserialize<'a>>(what: &'static str, json: &'a [u8]) -> Result<T, Malformed> {
    serde_json::from_slice(json).map_err(|e| Malformed { what, why: e.to_string() })
}

type Member<'a> = (std::borrow::Cow<'a, str>, &'a str);

/// The members of a JSON object, in order, values raw.
fn members<'a>(what: &'static str, json: &'a [u8]) -> Result<Vec<Member<'a>>, Malformed> {
    struct InOrder;
    impl<'de> serde::de::Visitor<'de> for InOrder {
        type Value = Vec<Member<'de>>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut list = Vec::with_capacity(32);
            while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                list.push((name, map.next_value::<&'de RawValue>()?.get()));
            }
            Ok(list)
        }
    }
    let mut de = serde_json::Deserializer::from_slice(json);
    let list = serde::Deserializer::deserialize_map(&mut de, InOrder);
    list.map_err(|e| Malformed { what, why: e.to_string() })
}

fn object(members: &[Member<'_>]) -> String {
    let mut text = String::from("{");
    for (name, value) in members {
        if text.len() > 1 {
            text.push(',');
        }
        text.push_str(&serde_json::to_string(name).expect("a string is always JSON"));
        text.push(':');
        text.push_str(value);
    }
    text.push('}');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "0x1111111111111111111111111111111111111111111111111111111111111111";
    const PARENT: &str = "0x2222222222222222222222222222222222222222222222222222222222222222";

    #[test]
    fn a_header_keeps_the_nodes_bytes() {
        let json = format!(
            r#"{{"number":"0x10","hash":"{HASH}","parentHash":"{PARENT}","timestamp":"0x5","futureField":{{"a": 1}}}}"#
        );
        let header = Header::from_announcement(Bytes::from(json.clone())).unwrap();
        assert_eq!((header.number, header.timestamp), (16, 5));
        assert_eq!(header.json, json);
        assert!(header.bloom.is_none());
    }

    #[test]
    fn a_block_becomes_a_head_without_what_only_blocks_have() {
        let json = format!(
            r#"{{"size":"0x1","number":"0x10","hash":"{HASH}","transactions":[{{"x":"]"}}],"parentHash":"{PARENT}","timestamp":"0x5","uncles":[],"new":[1, 2],"withdrawals":[]}}"#
        );
        let header = Header::from_block(json.as_bytes()).unwrap();
        let want =
            format!(r#"{{"number":"0x10","hash":"{HASH}","parentHash":"{PARENT}","timestamp":"0x5","new":[1, 2]}}"#);
        assert_eq!(header.json, want);
    }

    #[test]
    fn malformed_headers_name_the_cause() {
        for (json, why) in [
            (format!(r#"{{"number":"0x1","hash":"{HASH}","timestamp":"0x1"}}"#), "parentHash"),
            (
                format!(
                    r#"{{"number":"0x1ffffffffffffffff","hash":"{HASH}","parentHash":"{PARENT}","timestamp":"0x1"}}"#
                ),
                "quantity",
            ),
            (format!(r#"{{"number":null,"hash":"{HASH}","parentHash":"{PARENT}","timestamp":"0x1"}}"#), "null"),
            ("[]".to_owned(), "expected"),
        ] {
            let error = Header::from_announcement(Bytes::from(json)).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_node_that_only_indexes_is_not_syncing() {
        for (answer, want) in [
            ("false", false),
            ("true", true),
            (r#"{"currentBlock":"0x5","highestBlock":"0x9","x":1}"#, true),
            (r#"{"currentBlock":"0x9","highestBlock":"0x9","txIndexRemainingBlocks":"0x5"}"#, false),
            (r#"{"stages":[]}"#, true),
        ] {
            assert_eq!(is_syncing(answer.as_bytes()), want, "{answer}");
        }
    }

    #[test]
    fn logs_are_slices_and_can_be_told_as_removed() {
        let log = |rest: &str| {
            format!(
                r#"{{"address":"0x0000000000000000000000000000000000000001","topics":["{PARENT}"],"blockHash":"{HASH}","blockNumber":"0x1","logIndex":"0x0"{rest}}}"#
            )
        };
        let json = Bytes::from(format!("[{},{}]", log(r#","removed":false,"z":1"#), log("")));
        let logs = Log::list(&json).unwrap().unwrap();
        assert_eq!(logs[0].json, log(r#","removed":false,"z":1"#));
        assert_eq!(logs[0].removed_parts().concat(), log(r#","removed":true,"z":1"#).as_bytes());
        assert_eq!(logs[1].removed_parts().concat(), log(r#","removed":true"#).as_bytes());
        assert_eq!(Log::list(&Bytes::from_static(b"null")).unwrap(), None);
        assert!(Log::list(&Bytes::from_static(b"[1]")).is_err());
    }
}
