//! What a gateway must tell, in order: each head once it is there, each log of the chain, and each log taken back.
//!
//! Owns the order, and the place of each text in it: a text that is not here is wrong, byte for byte, but that the members
//! of a head may come in the order of a block that was fetched. Heads and logs are two lists, as a head does not wait for the logs of the block below it. Knows no client.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

use alloy_primitives::{Address, B256};
use chaincast::devnode::{Block, SharedChain};
use serde_json::{Value, json};

use crate::harness::wanted::Wanted;

/// What a subscription asks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Wish {
    Heads,
    Logs(Wanted),
}

impl Wish {
    /// All logs.
    pub(super) fn all_logs() -> Self {
        Self::Logs(Wanted::default())
    }

    /// The parameters of `eth_subscribe`.
    pub(super) fn params(&self) -> Value {
        match self {
            Self::Heads => json!(["newHeads"]),
            Self::Logs(wanted) => json!(["logs", wanted.json()]),
        }
    }

    pub(super) fn list(&self) -> List {
        match self {
            Self::Heads => List::Heads,
            Self::Logs(_) => List::Logs,
        }
    }

    fn takes(&self, item: &Item) -> bool {
        match (self, item) {
            (Self::Heads, None) => true,
            (Self::Logs(wanted), Some((address, topics))) => wanted.takes(address, topics),
            _ => false,
        }
    }
}

/// One of the two lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum List {
    Heads,
    Logs,
}

/// What a filter sees of a log; nothing of a head.
type Item = Option<(Address, [B256; 3])>;

#[derive(Default)]
struct Lane {
    items: Vec<Item>,
    places: HashMap<Box<str>, usize>,
}

impl Lane {
    fn push(&mut self, text: String, item: Item) {
        let before = self.places.insert(text.into(), self.items.len());
        assert!(before.is_none(), "no scene tells the same twice");
        self.items.push(item);
    }
}

#[derive(Default)]
struct Told {
    /// Height of the block that comes next.
    next: u64,
    heads: Lane,
    logs: Lane,
    /// Where the blocks begin, in both lists.
    starts: BTreeMap<u64, (usize, usize)>,
}

impl Told {
    fn lane(&self, list: List) -> &Lane {
        match list {
            List::Heads => &self.heads,
            List::Logs => &self.logs,
        }
    }

    fn add(&mut self, block: &Block) {
        self.starts.insert(block.number(), (self.heads.items.len(), self.logs.items.len()));
        let head = block.header_json();
        self.heads.places.insert(sorted(&head).into(), self.heads.items.len());
        self.heads.push(head, None);
        for (text, item) in block.logs_json(false).into_iter().zip(items(block)) {
            self.logs.push(text, item);
        }
        self.next = block.number() + 1;
    }

    fn remove(&mut self, block: &Block) {
        let all: Vec<_> = block.logs_json(true).into_iter().zip(items(block)).collect();
        all.into_iter().rev().for_each(|(text, item)| self.logs.push(text, item));
    }

    fn follow(&mut self, chain: &SharedChain) {
        while let Some(block) = chain.canonical_at(self.next) {
            self.add(&block);
        }
    }
}

/// The same value with its members in the order of their names.
fn sorted(text: &str) -> String {
    serde_json::from_str::<Value>(text).map(|value| value.to_string()).unwrap_or_default()
}

fn items(block: &Block) -> impl Iterator<Item = Item> {
    let economy = block.economy();
    block.logs().map(|log| Some((log.transfer.address(economy), log.transfer.topics(economy))))
}

/// The lists of one chain, followed as it grows.
pub(super) struct Script {
    chain: SharedChain,
    told: Mutex<Told>,
}

impl Script {
    pub(super) fn new(chain: SharedChain) -> Self {
        Self { chain, told: Mutex::default() }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        let mut told = self.told.lock().expect("no client panics in here");
        told.follow(&self.chain);
        told
    }

    /// Height of the next block, which nobody can have been told of.
    pub(super) fn next_block(&self) -> u64 {
        self.told().next
    }

    /// Replaces the last blocks of the chain by others with so many logs. Those that go must have been told whole.
    pub(super) fn replace(&self, depth: u64, logs: &[usize]) {
        let mut told = self.told();
        let last = told.next - 1;
        for number in (last + 1 - depth..=last).rev() {
            told.remove(&self.chain.canonical_at(number).expect("it is on the chain"));
        }
        self.chain.replace(depth, logs);
        told.next = last + 1 - depth;
        told.follow(&self.chain);
    }

    /// The place of a text.
    pub(super) fn place(&self, list: List, text: &str) -> Option<usize> {
        let mut told = self.told.lock().expect("no client panics in here");
        if let Some(place) = told.lane(list).places.get(text) {
            return Some(*place);
        }
        told.follow(&self.chain);
        let places = &told.lane(list).places;
        places.get(text).or_else(|| places.get(sorted(text).as_str())).copied()
    }

    /// Where a block begins; behind everything where there is no such block yet.
    pub(super) fn start_of(&self, list: List, block: u64) -> usize {
        let told = self.told();
        let start = told.starts.get(&block).map(|(heads, logs)| if list == List::Heads { *heads } else { *logs });
        start.unwrap_or_else(|| told.lane(list).items.len())
    }

    /// All there is so far.
    pub(super) fn end(&self, list: List) -> usize {
        self.told().lane(list).items.len()
    }

    /// How much in a part of a list somebody with this wish is owed.
    pub(super) fn owed(&self, wish: &Wish, part: Range<usize>) -> usize {
        let told = self.told.lock().expect("no client panics in here");
        let lane = told.lane(wish.list());
        lane.items.get(part).map_or(0, |items| items.iter().filter(|item| wish.takes(item)).count())
    }

    /// The last place in a part of a list that somebody with this wish is owed.
    pub(super) fn last_owed(&self, wish: &Wish, part: Range<usize>) -> Option<usize> {
        let told = self.told.lock().expect("no client panics in here");
        let items = told.lane(wish.list()).items.get(part.clone())?;
        items.iter().rposition(|item| wish.takes(item)).map(|at| part.start + at)
    }

    /// Whether a text is one that somebody with this wish asked for.
    pub(super) fn is_wanted(&self, wish: &Wish, place: usize) -> bool {
        self.owed(wish, place..place + 1) == 1
    }
}
