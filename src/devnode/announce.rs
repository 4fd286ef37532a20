//! What a node tells its subscribers, and in which order.
//!
//! Owns the announcements of one happening: the head first, then removed logs oldest first, then new logs. (Geth sends
//! them in no order; see its `newHeads` for the tip-only rule.) Does not know when things happen.

use std::sync::Arc;

use serde_json::Value;
use serde_json::value::RawValue;

use super::block::Block;
use super::branch::HeadChange;
use super::faults::Faults;
use super::hexjson::{self, Object};
use super::spoil::Spoil;
use super::subscribers::{Interest, Kind, Subscribers};
use super::transaction::Transaction;

type Message = Box<RawValue>;

/// Announces one move of the head.
pub(super) fn head_change(subscribers: &Subscribers, faults: &Faults, head: &Arc<Block>, change: &HeadChange) {
    if change.added.is_empty() && change.removed.is_empty() {
        return;
    }
    let tip = std::slice::from_ref(head);
    let heads = if faults.every_block() && !change.added.is_empty() { &change.added } else { tip };
    for block in heads {
        self::head(subscribers, faults, block);
    }
    if subscribers.any(Kind::Logs) {
        for block in change.removed.iter().rev() {
            announce_logs(subscribers, faults, block, true);
        }
        for block in &change.added {
            announce_logs(subscribers, faults, block, false);
        }
    }
}

/// Announces a transaction that waits.
pub(super) fn pending(subscribers: &Subscribers, faults: &Faults, tx: &Transaction) {
    if !subscribers.any(Kind::NewPendingTransactions) {
        return;
    }
    let spoils = faults.spoils("newPendingTransactions");
    let hash = spoilt(hexjson::bytes(tx.hash()), &spoils);
    let whole = spoilt(tx.json(None), &spoils);
    subscribers.announce(|interest| match interest {
        Interest::NewPendingTransactions { full: false } => hash.clone(),
        Interest::NewPendingTransactions { full: true } => whole.clone(),
        _ => Vec::new(),
    });
}

/// Announces that the node began or ended syncing.
pub(super) fn syncing(subscribers: &Subscribers, status: Option<&str>) {
    let json = match status {
        Some(status) => Object::with_capacity(128).raw("syncing", "true").raw("status", status).end(),
        None => "false".into(),
    };
    let message = raw(json);
    subscribers.announce(|interest| match interest {
        Interest::Syncing => vec![message.clone()],
        _ => Vec::new(),
    });
}

/// Announces one head.
pub(super) fn head(subscribers: &Subscribers, faults: &Faults, block: &Block) {
    if !subscribers.any(Kind::NewHeads) {
        return;
    }
    let messages = spoilt(block.header_json(), &faults.spoils("newHeads"));
    subscribers.announce(|interest| match interest {
        Interest::NewHeads => messages.clone(),
        _ => Vec::new(),
    });
}

fn announce_logs(subscribers: &Subscribers, faults: &Faults, block: &Block, removed: bool) {
    let spoils = faults.spoils("logs");
    let all: Vec<Message> = block.logs_json(removed).into_iter().map(raw).collect();
    subscribers.announce(|interest| {
        let Interest::Logs(filter) = interest else { return Vec::new() };
        let wanted = block.logs().zip(&all).filter(|(log, _)| filter.matches(block, log));
        spoilt_list(wanted.map(|(_, json)| json.clone()).collect(), &spoils)
    });
}

/// The messages that come of one announcement: none, one or two.
fn spoilt(json: String, spoils: &[Spoil]) -> Vec<Message> {
    if spoils.is_empty() {
        return vec![raw(json)];
    }
    let mut value: Value = serde_json::from_str(&json).expect("what this node writes is JSON");
    for spoil in spoils {
        spoil.apply(&mut value);
    }
    repeated(vec![raw(value.to_string())], spoils)
}

/// The same for the logs of one block that one subscriber wants.
fn spoilt_list(logs: Vec<Message>, spoils: &[Spoil]) -> Vec<Message> {
    if spoils.is_empty() || logs.is_empty() {
        return logs;
    }
    let read = |log: &Message| serde_json::from_str(log.get()).expect("what this node writes is JSON");
    let mut list = Value::Array(logs.iter().map(read).collect());
    for spoil in spoils {
        spoil.apply(&mut list);
    }
    let left = list.as_array().map_or(Vec::new(), |logs| logs.iter().map(|log| raw(log.to_string())).collect());
    repeated(left, spoils)
}

fn repeated(messages: Vec<Message>, spoils: &[Spoil]) -> Vec<Message> {
    if spoils.iter().any(|spoil| matches!(spoil, Spoil::Silent)) {
        return Vec::new();
    }
    let times = if spoils.iter().any(|spoil| matches!(spoil, Spoil::Twice)) { 2 } else { 1 };
    messages.into_iter().flat_map(|message| vec![message; times]).collect()
}

fn raw(json: String) -> Message {
    RawValue::from_string(json).expect("what this node writes is JSON")
}
