//! A chain as the driver makes it, and what a subscription is owed of it, said as plainly as can be.
//!
//! Owns the chain's blocks and every entry's meaning. Reads nothing of the shard's.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use alloy_primitives::{Address, B256};
use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;

use crate::chain::{BlockLogs, ChainUpdate, Feed, FeedEvent, Header, Log, Undone};
use crate::filter::Filter;
use crate::hub::StreamKey;
use crate::journal::Journal;

/// What a subscription asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    Heads,
    /// Logs of this address with this first topic; `None` is any.
    Logs(Option<u8>, Option<u8>),
    Feed,
}

impl Want {
    /// One of few, so that many share a stream.
    pub(super) fn any(rng: &mut StdRng) -> Self {
        let some = |rng: &mut StdRng| rng.random_ratio(1, 2).then(|| rng.random_range(0..3));
        match rng.random_range(0..10) {
            0..3 => Self::Heads,
            3 => Self::Feed,
            _ => Self::Logs(some(rng), some(rng)),
        }
    }

    pub(super) fn key(self) -> StreamKey {
        match self {
            Self::Heads => StreamKey::Heads,
            Self::Feed => StreamKey::Feed(feed()),
            Self::Logs(address, topic) => StreamKey::Logs(Filter::new(
                address.map(Address::repeat_byte).into_iter().collect(),
                topic.map(|topic| vec![B256::repeat_byte(topic)]).into_iter().collect(),
            )),
        }
    }

    fn takes(self, item: &Item) -> bool {
        let Self::Logs(address, topic) = self else { return false };
        address.is_none_or(|a| a == item.address) && topic.is_none_or(|t| t == item.topic)
    }
}

fn feed() -> Feed {
    Feed(r#"["newPendingTransactions"]"#.into())
}

/// A log as the model sees it.
#[derive(Debug, Clone)]
struct Item {
    address: u8,
    topic: u8,
    json: String,
}

/// A block of the chain, or one that was and may be again.
#[derive(Debug, Clone)]
struct Block {
    header: Arc<Header>,
    items: Arc<Vec<Item>>,
    logs: Arc<BlockLogs>,
    /// The entry that published its logs.
    published: Option<u64>,
}

/// What an entry of the journal tells.
#[derive(Debug)]
enum Told {
    Head(String),
    Logs(Arc<Vec<Item>>),
    /// Each log with the number of the entry that published it.
    Undo(Vec<(u64, Item)>),
    Gap,
}

/// The chain, and all that was told of it.
#[derive(Debug, Default)]
pub(super) struct Model {
    chain: Vec<Block>,
    /// Blocks that were undone: the chain may come back to them.
    undone: VecDeque<Block>,
    told: Vec<Told>,
    made: u64,
    events: u64,
}

/// Where a subscription stands: the next entry and item to look at.
pub(super) type At = (u64, usize);

impl Model {
    fn tell(&mut self, journal: &Journal, told: Told, update: ChainUpdate) {
        journal.append(update, Instant::now());
        self.told.push(told);
        assert_eq!(journal.last(), self.told.len() as u64);
    }

    /// A new block, or one that was undone from here, becomes the tip.
    pub(super) fn head(&mut self, rng: &mut StdRng, journal: &Journal) {
        let tip = self.chain.last().map_or(B256::ZERO, |block| block.header.hash);
        let known = self.undone.iter().position(|block| block.header.parent == tip).filter(|_| rng.random_ratio(1, 2));
        let block = known.and_then(|at| self.undone.remove(at)).unwrap_or_else(|| self.make(rng, tip));
        let json = String::from_utf8(block.header.json.to_vec()).unwrap();
        self.tell(journal, Told::Head(json), ChainUpdate::Head(block.header.clone()));
        self.chain.push(Block { published: None, ..block });
    }

    /// A new block with one log of about this size becomes the tip.
    pub(super) fn huge(&mut self, rng: &mut StdRng, journal: &Journal, size: usize) {
        let tip = self.chain.last().map_or(B256::ZERO, |block| block.header.hash);
        let json = format!(r#"{{"size":{size},"removed":false,"pad":"{}"}}"#, "x".repeat(size));
        let block = self.block(rng, tip, vec![Item { address: 0, topic: 0, json }]);
        let json = String::from_utf8(block.header.json.to_vec()).unwrap();
        self.tell(journal, Told::Head(json), ChainUpdate::Head(block.header.clone()));
        self.chain.push(block);
    }

    fn make(&mut self, rng: &mut StdRng, parent: B256) -> Block {
        let number = self.made + 1;
        let count = if rng.random_ratio(1, 8) { rng.random_range(0..60) } else { rng.random_range(0..5) };
        let item = |index: u64| {
            let (address, topic) = (rng.random_range(0..3), rng.random_range(0..3));
            let removed = if rng.random_ratio(1, 2) { r#","removed":false"# } else { "" };
            let json = format!(r#"{{"block":{number},"index":{index}{removed},"pad":"{}"}}"#, pad(rng));
            Item { address, topic, json }
        };
        let items = (0..count).map(item).collect();
        self.block(rng, parent, items)
    }

    fn block(&mut self, rng: &mut StdRng, parent: B256, items: Vec<Item>) -> Block {
        self.made += 1;
        let hash = B256::left_padding_from(&self.made.to_be_bytes());
        let number = self.chain.len() as u64;
        let log = |(index, item): (u64, &Item)| Log {
            address: Address::repeat_byte(item.address),
            topics: vec![B256::repeat_byte(item.topic)],
            block_hash: hash,
            block_number: number,
            index,
            json: Bytes::from(item.json.clone()),
        };
        let logs = (0..).zip(&items).map(log).collect();
        let json = Bytes::from(format!(r#"{{"block":{},"pad":"{}"}}"#, self.made, pad(rng)));
        let header = Header { number, hash, parent, timestamp: 0, bloom: None, json };
        let logs = BlockLogs { block: header.block(), logs };
        Block { header: Arc::new(header), items: Arc::new(items), logs: Arc::new(logs), published: None }
    }

    /// The oldest block without logs gets them.
    pub(super) fn logs(&mut self, journal: &Journal) {
        let next = self.told.len() as u64 + 1;
        let Some(block) = self.chain.iter_mut().find(|block| block.published.is_none()) else { return };
        block.published = Some(next);
        let (items, logs) = (block.items.clone(), block.logs.clone());
        self.tell(journal, Told::Logs(items), ChainUpdate::Logs(logs));
    }

    /// The newest blocks leave the chain.
    pub(super) fn undo(&mut self, rng: &mut StdRng, journal: &Journal) {
        let depth = rng.random_range(1..6).min(self.chain.len());
        if depth == 0 {
            return;
        }
        let gone: Vec<Block> = self.chain.drain(self.chain.len() - depth..).rev().collect();
        let removed = |block: &Block| {
            let published = block.published.unwrap_or(u64::MAX);
            let items = if block.published.is_some() { block.items.to_vec() } else { Vec::new() };
            items.into_iter().rev().map(move |item| (published, Item { json: removed(&item.json), ..item }))
        };
        let told = Told::Undo(gone.iter().flat_map(removed).collect());
        let undone = |block: &Block| Undone {
            block: block.header.block(),
            logs: block.published.is_some().then(|| block.logs.clone()),
        };
        self.tell(journal, told, ChainUpdate::Undo(gone.iter().map(undone).collect()));
        self.undone.extend(gone);
        while self.undone.len() > 20 {
            self.undone.pop_front();
        }
    }

    pub(super) fn gap(&mut self, journal: &Journal) {
        self.tell(journal, Told::Gap, ChainUpdate::Gap);
    }

    /// The next best-effort event: a number that grows, behind some blanks.
    pub(super) fn feed_event(&mut self, rng: &mut StdRng) -> FeedEvent {
        self.events += 1;
        let blanks = " ".repeat(pad(rng).len());
        FeedEvent { feed: feed(), json: Bytes::from(format!("{blanks}{}", self.events)) }
    }

    /// The next frame that a subscription is owed from `at` on; `since` is the first entry that it is owed.
    pub(super) fn next(&self, want: Want, since: u64, mut at: At) -> Option<(At, &str)> {
        loop {
            let told = self.told.get(usize::try_from(at.0 - 1).unwrap())?;
            let hit = match told {
                Told::Head(json) => (want == Want::Heads && at.1 == 0).then_some((0, json)),
                Told::Logs(items) => {
                    let mut rest = items.iter().enumerate().skip(at.1);
                    rest.find(|(_, item)| want.takes(item)).map(|(n, item)| (n, &item.json))
                }
                Told::Undo(items) => {
                    let mut rest = items.iter().enumerate().skip(at.1);
                    let owed = rest.find(|(_, (published, item))| *published >= since && want.takes(item));
                    owed.map(|(n, (_, item))| (n, &item.json))
                }
                Told::Gap => None,
            };
            match hit {
                Some((item, json)) => return Some(((at.0, item), json)),
                None => at = (at.0 + 1, 0),
            }
        }
    }
}

/// As hard to compress as hex digits are.
fn pad(rng: &mut StdRng) -> String {
    let most = if rng.random_ratio(1, 10) { 8_000 } else { 200 };
    let length = rng.random_range(0..most);
    (0..length).map(|_| char::from(rng.random_range(b'a'..=b'p'))).collect()
}

/// A log's JSON when its block has left the chain.
fn removed(json: &str) -> String {
    if json.contains(r#""removed":false"#) {
        json.replace(r#""removed":false"#, r#""removed":true"#)
    } else {
        format!(r#"{},"removed":true}}"#, json.strip_suffix('}').unwrap())
    }
}
