//! What one connection was told, and whether that is what a client may be told.
//!
//! Naive on purpose and independent of the ingest: a subscription is a stack. Heads pile up by parent hash; logs pile up in
//! the order of blocks and indices and leave only from the top. Does not know what is true; [`View::compare`] is given it.

use std::time::Duration;

use alloy_primitives::{Address, B256};
use serde::Deserialize;

use super::trace::short;

/// A head as a client reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) number: u64,
    pub(super) hash: B256,
    pub(super) parent: B256,
}

/// A log as a client reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Log {
    pub(super) number: u64,
    pub(super) block: B256,
    pub(super) index: u64,
    pub(super) address: Address,
    pub(super) topics: Vec<B256>,
}

/// One notification.
#[derive(Debug, Clone)]
pub(super) enum Event {
    Head(Head),
    Log { log: Log, removed: bool },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    hash: Option<B256>,
    parent_hash: Option<B256>,
    number: Option<String>,
    block_number: Option<String>,
    block_hash: Option<B256>,
    log_index: Option<String>,
    address: Option<Address>,
    topics: Option<Vec<B256>>,
    removed: Option<bool>,
}

fn quantity(text: Option<&String>) -> Option<u64> {
    u64::from_str_radix(text?.strip_prefix("0x")?, 16).ok()
}

impl Event {
    /// Reads the `result` of a notification.
    pub(super) fn read(json: &[u8]) -> Option<Self> {
        let wire: Wire = serde_json::from_slice(json).ok()?;
        if let Some(parent) = wire.parent_hash {
            return Some(Self::Head(Head { number: quantity(wire.number.as_ref())?, hash: wire.hash?, parent }));
        }
        let log = Log {
            number: quantity(wire.block_number.as_ref())?,
            block: wire.block_hash?,
            index: quantity(wire.log_index.as_ref())?,
            address: wire.address?,
            topics: wire.topics?,
        };
        Some(Self::Log { log, removed: wire.removed? })
    }
}

/// What a filter wants: any of the addresses (or all), and any of the values at each place (or all).
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    pub(super) addresses: Vec<Address>,
    pub(super) topics: Vec<Vec<B256>>,
}

impl Wanted {
    pub(super) fn takes(&self, address: Address, topics: &[B256]) -> bool {
        (self.addresses.is_empty() || self.addresses.contains(&address))
            && self.topics.len() <= topics.len()
            && self.topics.iter().zip(topics).all(|(any, topic)| any.is_empty() || any.contains(topic))
    }
}

/// What a subscription is for.
#[derive(Debug, Clone)]
pub(super) enum Want {
    Heads,
    Logs(Wanted),
}

/// One subscription's stack.
#[derive(Debug)]
struct Sub {
    want: Want,
    /// When it was answered.
    since: Duration,
    ended: bool,
    heads: Vec<Head>,
    logs: Vec<Log>,
}

/// All subscriptions of one connection, in the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct View {
    subs: Vec<Sub>,
}

/// A canonical block with all of its logs.
#[derive(Debug)]
pub(super) struct Truth {
    pub(super) made: Duration,
    pub(super) head: Head,
    pub(super) logs: Vec<Log>,
}

impl View {
    /// One more subscription; its number.
    pub(super) fn subscribe(&mut self, want: Want, since: Duration) -> usize {
        self.subs.push(Sub { want, since, ended: false, heads: Vec::new(), logs: Vec::new() });
        self.subs.len() - 1
    }

    /// The subscription was ended: nothing more is owed.
    pub(super) fn end(&mut self, sub: usize) {
        let sub = &mut self.subs[sub];
        sub.ended = true;
        sub.heads.clear();
        sub.logs.clear();
    }

    /// Takes a notification in. An error says what no client may see.
    pub(super) fn take(&mut self, sub: usize, event: &Event) -> Result<(), String> {
        match (&self.subs[sub].want, event) {
            (Want::Heads, Event::Head(head)) => self.head(sub, head),
            (Want::Logs(wanted), Event::Log { log, removed }) => {
                if !wanted.takes(log.address, &log.topics) {
                    return Err(format!("a log that was not asked for: {log:?}"));
                }
                if *removed { self.removed(sub, log) } else { self.log(sub, log) }
            }
            _ => Err("a notification of another kind".into()),
        }
    }

    fn head(&mut self, sub: usize, head: &Head) -> Result<(), String> {
        let heads = &mut self.subs[sub].heads;
        // One below the tip is told again where the chain went back to it.
        if heads.last() == Some(head) {
            return Err(format!("head {} {} was told already", head.number, short(&head.hash)));
        }
        match place(heads, head.number.saturating_sub(1), head.parent) {
            Some(at) => heads.truncate(at + 1),
            None if heads.first().is_none_or(|first| head.number <= first.number) => heads.clear(),
            None => return Err(format!("head {} {} has a parent that was never told", head.number, short(&head.hash))),
        }
        heads.push(head.clone());
        self.nothing_from(head.number)
    }

    /// Where a head is told, the logs of the blocks that it replaces were removed before.
    fn nothing_from(&self, number: u64) -> Result<(), String> {
        match self.subs.iter().filter_map(|sub| sub.logs.last()).find(|top| top.number >= number) {
            Some(top) => Err(format!("a log of {} {} outlived its head", top.number, short(&top.block))),
            None => Ok(()),
        }
    }

    /// Whether all subscriptions to heads know this block, those aside that began above it.
    fn head_was_told(&self, log: &Log) -> bool {
        self.subs
            .iter()
            .filter(|sub| sub.heads.first().is_some_and(|first| first.number <= log.number))
            .all(|sub| place(&sub.heads, log.number, log.block).is_some())
    }

    fn log(&mut self, sub: usize, log: &Log) -> Result<(), String> {
        if !self.head_was_told(log) {
            return Err(format!("a log of {} {} came before its head", log.number, short(&log.block)));
        }
        let logs = &mut self.subs[sub].logs;
        if let Some(top) = logs.last() {
            let in_order = (top.number, top.index) < (log.number, log.index);
            if !in_order || (top.number == log.number && top.block != log.block) {
                let (was, is) = ((top.number, top.index), (log.number, log.index));
                return Err(format!("log {is:?} of {} came after {was:?} of {}", short(&log.block), short(&top.block)));
            }
        }
        logs.push(log.clone());
        Ok(())
    }

    fn removed(&mut self, sub: usize, log: &Log) -> Result<(), String> {
        if !self.head_was_told(log) {
            return Err(format!("log {} of {} was removed after its head", log.index, log.number));
        }
        let logs = &mut self.subs[sub].logs;
        match logs.last() {
            Some(top) if top == log => {
                logs.pop();
                Ok(())
            }
            Some(top) => {
                let (was, is) = ((top.number, top.index), (log.number, log.index));
                Err(format!("log {is:?} of {} was removed while {was:?} is the newest", short(&log.block)))
            }
            None => Err(format!("log {} of {} was removed and never told", log.index, log.number)),
        }
    }

    /// Whether this is exactly the canonical chain, and for each subscription at least all of it that was made after the
    /// answer.
    pub(super) fn compare(&self, chain: &[Truth]) -> Result<(), String> {
        for (number, sub) in self.subs.iter().enumerate().filter(|(_, sub)| !sub.ended) {
            let told = match sub.want {
                Want::Heads => sub.heads.first().map(|head| head.number),
                Want::Logs(_) => sub.logs.first().map(|log| log.number),
            };
            let owed = chain.iter().find(|block| block.made > sub.since).map(|block| block.head.number);
            let Some(from) = [told, owed].into_iter().flatten().min() else { continue };
            let blocks = chain.iter().filter(|block| block.head.number >= from);
            match &sub.want {
                Want::Heads => same(number, &sub.heads, &blocks.map(|b| &b.head).collect::<Vec<_>>())?,
                Want::Logs(wanted) => {
                    let logs = blocks.flat_map(|b| &b.logs).filter(|log| wanted.takes(log.address, &log.topics));
                    same(number, &sub.logs, &logs.collect::<Vec<_>>())?;
                }
            }
        }
        Ok(())
    }
}

/// Where this block stands among heads that count up without a hole.
fn place(heads: &[Head], number: u64, hash: B256) -> Option<usize> {
    let at = usize::try_from(number.checked_sub(heads.first()?.number)?).ok()?;
    heads.get(at).filter(|head| head.hash == hash).map(|_| at)
}

fn same<T: PartialEq + std::fmt::Debug>(sub: usize, has: &[T], must: &[&T]) -> Result<(), String> {
    let at = has.iter().zip(must).position(|(a, b)| a != *b).unwrap_or(has.len().min(must.len()));
    if (has.len(), at) == (must.len(), has.len()) {
        return Ok(());
    }
    Err(format!(
        "subscription {sub} holds {} of {}, and differs at {at}: has {:?}, must have {:?}",
        has.len(),
        must.len(),
        has.get(at),
        must.get(at)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(number: u64, fork: u8, on: u8) -> Event {
        let hash = |number: u64, fork: u8| B256::with_last_byte(u8::try_from(number).unwrap() * 16 + fork);
        Event::Head(Head { number, hash: hash(number, fork), parent: hash(number - 1, on) })
    }

    fn log(number: u64, fork: u8, index: u64, removed: bool) -> Event {
        let block = B256::with_last_byte(u8::try_from(number).unwrap() * 16 + fork);
        Event::Log { log: Log { number, block, index, address: Address::ZERO, topics: vec![] }, removed }
    }

    /// The place of the first event that no client may see.
    fn first_wrong(events: &[(usize, Event)]) -> Option<usize> {
        let mut view = View::default();
        view.subscribe(Want::Heads, Duration::ZERO);
        view.subscribe(Want::Logs(Wanted::default()), Duration::ZERO);
        events.iter().position(|(sub, event)| view.take(*sub, event).is_err())
    }

    #[test]
    fn what_no_client_may_see_is_seen() {
        let start = || vec![(0, head(1, 0, 0)), (0, head(2, 0, 0)), (1, log(2, 0, 0, false)), (1, log(2, 0, 1, false))];
        let with = |more: Vec<(usize, Event)>| first_wrong(&[start(), more].concat());
        assert_eq!(with(vec![]), None);
        assert_eq!(with(vec![(0, head(2, 0, 0))]), Some(4), "a double");
        assert_eq!(with(vec![(0, head(4, 0, 0))]), Some(4), "a hole");
        assert_eq!(with(vec![(0, head(2, 1, 0))]), Some(4), "logs that outlive their head");
        assert_eq!(with(vec![(1, log(2, 0, 0, true))]), Some(4), "the oldest removed first");
        assert_eq!(with(vec![(1, log(3, 0, 0, false))]), Some(4), "a log before its head");
        assert_eq!(with(vec![(1, log(2, 0, 1, false))]), Some(4), "a log twice");
        let undo = vec![(1, log(2, 0, 1, true)), (1, log(2, 0, 0, true)), (0, head(2, 1, 0)), (1, log(2, 1, 0, false))];
        assert_eq!(with(undo.clone()), None);
        assert_eq!(with([undo, vec![(1, log(2, 1, 0, true)), (0, head(2, 0, 0))]].concat()), None, "A, B and A again");
    }

    #[test]
    fn what_is_not_the_chain_is_seen() {
        let truth = |events: &[Event]| -> Vec<Truth> {
            let heads = events.iter().filter_map(|e| if let Event::Head(head) = e { Some(head.clone()) } else { None });
            heads.map(|head| Truth { made: Duration::from_secs(1), head, logs: vec![] }).collect()
        };
        let mut view = View::default();
        view.subscribe(Want::Heads, Duration::ZERO);
        let chain = [head(1, 0, 0), head(2, 0, 0), head(3, 0, 0)];
        chain.iter().for_each(|event| view.take(0, event).unwrap());
        view.compare(&truth(&chain)).unwrap();
        view.compare(&truth(&chain[..2])).unwrap_err();
        view.compare(&truth(&[&chain[..], &[head(4, 0, 0)]].concat())).unwrap_err();
        view.compare(&truth(&[head(1, 0, 0), head(2, 1, 0), head(3, 0, 1)])).unwrap_err();
    }
}
