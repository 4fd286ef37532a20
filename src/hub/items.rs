//! An entry of the journal as the items that it tells, in the order in which they are told.
//!
//! The walk over everyone and the catching up of a single client read entries only through this, so that both tell the
//! same. Knows no connection. Pure.

use std::cell::OnceCell;
use std::slice::from_ref;

use bytes::Bytes;

use super::StreamKey;
use crate::chain::{Header, Log};
use crate::journal::{Entry, Update};
use crate::planted::{self, Bug};

/// The items of one entry.
pub(super) enum Items<'a> {
    /// A head, its only item.
    Head(&'a Header, u64),
    /// The logs of a block.
    Logs(&'a [Log], u64),
    /// The logs of blocks that left the chain, newest first.
    Undo(Vec<Undone<'a>>),
    /// Nothing that is sent.
    Gap,
}

/// A log that is told to be removed.
pub(super) struct Undone<'a> {
    log: &'a Log,
    /// The entry that told it.
    published: u64,
    /// Its JSON, made when it is first wanted.
    parts: OnceCell<[Bytes; 3]>,
}

impl<'a> Items<'a> {
    /// The items of an entry.
    pub(super) fn of(entry: &'a Entry) -> Self {
        match &entry.update {
            Update::Head(header) => Self::Head(header, entry.seq),
            Update::Logs(logs) => Self::Logs(&logs.logs, entry.seq),
            Update::Undo(removed) => {
                let published = removed.iter().filter_map(|removed| removed.logs.as_ref());
                let undone = |log, published| Undone { log, published, parts: OnceCell::new() };
                Self::Undo(
                    published.flat_map(|(logs, seq)| logs.logs.iter().rev().map(|log| undone(log, *seq))).collect(),
                )
            }
            Update::Gap => Self::Gap,
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> u32 {
        let len = match self {
            Self::Head(..) => 1,
            Self::Logs(logs, _) => logs.len(),
            Self::Undo(undone) => undone.len(),
            Self::Gap => 0,
        };
        u32::try_from(len).expect("a node's message is bounded far below 4 GiB")
    }

    /// The log that an item is about.
    pub(super) fn log(&self, item: u32) -> Option<&'a Log> {
        match self {
            Self::Logs(logs, _) => Some(&logs[item as usize]),
            Self::Undo(undone) => Some(undone[item as usize].log),
            Self::Head(..) | Self::Gap => None,
        }
    }

    /// The latest first entry of a subscription that is owed an item: a removed log only goes to who was told of it.
    pub(super) fn owed_since(&self, item: u32) -> u64 {
        match self {
            Self::Undo(_) if planted::is(Bug::RemovedToStrangers) => u64::MAX,
            Self::Undo(undone) => undone[item as usize].published,
            Self::Head(_, seq) | Self::Logs(_, seq) => *seq,
            Self::Gap => 0,
        }
    }

    /// Whether a stream wants an item.
    pub(super) fn is_for(&self, key: &StreamKey, item: u32) -> bool {
        match (key, self.log(item)) {
            (StreamKey::Heads, None) => matches!(self, Self::Head(..)),
            (StreamKey::Logs(filter), Some(log)) => filter.matches(log),
            _ => false,
        }
    }

    /// The JSON of an item, in parts that share the journal's bytes.
    pub(super) fn result(&self, item: u32) -> &[Bytes] {
        match self {
            Self::Head(header, _) => from_ref(&header.json),
            Self::Logs(logs, _) => from_ref(&logs[item as usize].json),
            Self::Undo(undone) => {
                let undone = &undone[item as usize];
                undone.parts.get_or_init(|| undone.log.removed_parts())
            }
            Self::Gap => &[],
        }
    }

    /// About how long an item's JSON is.
    pub(super) fn size(&self, item: u32) -> usize {
        match self {
            Self::Head(header, _) => header.json.len(),
            _ => self.log(item).map_or(0, |log| log.json.len()),
        }
    }

    /// The value of the `kind` label for what is sent of these.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Head(..) => StreamKey::Heads.label(),
            Self::Logs(..) | Self::Undo(_) | Self::Gap => "logs",
        }
    }
}
