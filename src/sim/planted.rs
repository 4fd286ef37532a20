//! The bugs that the simulation must find, each planted into a daemon that is otherwise as it should be.
//!
//! Most stand at the two ends of the ingest, where they do to its words what a faulty ingest would say; the others have a
//! mark in the code ([`crate::planted`]) or are a bound that is wrong.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy_primitives::B256;

use crate::app;
use crate::chain::{ChainUpdate, Header, Observation, Saying};
use crate::ingest::Publish;
use crate::planted::{self, Bug};

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Planted {
    Mark(Bug),
    /// Of several new heads at once only the last is told: no walk along the parents.
    NoParentWalk,
    /// A block that was told once is not told again.
    DedupeByHash,
    /// What leaves the chain is not taken back.
    IgnoreUndo,
    UndoOldestFirst,
    /// Each seventh head is told twice, as one that two nodes announce.
    HeadTwice,
    /// The logs of a block overtake those of the one before.
    LogsOutOfOrder,
    /// Blocks that were fetched with others have no logs.
    ForgetFetchedLogs,
    /// Logs go out before their heads.
    LogsBeforeHead,
    /// A reconnected node is taken at its word of before.
    NoLatestAfterReconnect,
    /// A lagging node is followed down: all that a node says counts as new.
    FollowLaggingNode,
    /// A node that says nothing is waited for.
    NeverGiveUpStalled,
}

pub(super) const ALL: [Planted; 18] = [
    Planted::Mark(Bug::TrustEmptyLogs),
    Planted::Mark(Bug::ContinueAfterLag),
    Planted::Mark(Bug::DropRestOfFrame),
    Planted::Mark(Bug::RemovedToStrangers),
    Planted::Mark(Bug::LoseCaughtUp),
    Planted::Mark(Bug::NotifyBeforeAnswer),
    Planted::Mark(Bug::KeepUnsubscribed),
    Planted::NoParentWalk,
    Planted::DedupeByHash,
    Planted::IgnoreUndo,
    Planted::UndoOldestFirst,
    Planted::HeadTwice,
    Planted::LogsOutOfOrder,
    Planted::ForgetFetchedLogs,
    Planted::LogsBeforeHead,
    Planted::NoLatestAfterReconnect,
    Planted::FollowLaggingNode,
    Planted::NeverGiveUpStalled,
];

impl Planted {
    /// Sets what is a mark or a bound.
    pub(super) fn plant(self, options: &mut app::Options) {
        match self {
            Self::Mark(bug) => planted::plant(bug),
            Self::NeverGiveUpStalled => {
                planted::plant(Bug::NeverGiveUpNode);
                options.chains[0].upstream.silence_max = Duration::from_hours(24);
            }
            _ => {}
        }
    }

    /// What the ingest hears instead.
    pub(super) fn heard(self, heard: app::Heard) -> app::Heard {
        match self {
            Self::NoLatestAfterReconnect => altered(heard, stale_connects()),
            Self::FollowLaggingNode => altered(heard, as_if_it_had_the_tip()),
            _ => heard,
        }
    }

    /// What the journal gets instead.
    pub(super) fn publish(self, publish: Publish) -> Publish {
        match self {
            Self::NoParentWalk => last_of_several_heads(publish),
            Self::DedupeByHash => once_each(publish),
            Self::IgnoreUndo => without_undo(publish),
            Self::UndoOldestFirst => oldest_first(publish),
            Self::HeadTwice => seventh_twice(publish),
            Self::LogsOutOfOrder => logs_swapped(publish),
            Self::ForgetFetchedLogs => logs_of_the_last(publish),
            Self::LogsBeforeHead => heads_late(publish),
            _ => publish,
        }
    }
}

fn altered(
    mut heard: app::Heard,
    mut alter: impl FnMut(Observation) -> Vec<Observation> + Send + 'static,
) -> app::Heard {
    let (altered, instead) = tokio::sync::mpsc::channel(1024);
    tokio::spawn(async move {
        while let Some(observation) = heard.recv().await {
            for observation in alter(observation) {
                if altered.send(observation).await.is_err() {
                    return;
                }
            }
        }
    });
    instead
}

/// A node's latest block after a reconnect is the one it told before.
fn stale_connects() -> impl FnMut(Observation) -> Vec<Observation> + Send {
    let mut last: HashMap<crate::chain::NodeId, Arc<Header>> = HashMap::new();
    move |mut observation| {
        match &mut observation.what {
            Saying::Head(header) => drop(last.insert(observation.node, header.clone())),
            Saying::Connected(header) => {
                let before = last.entry(observation.node).or_insert(header.clone());
                *header = before.clone();
            }
            _ => {}
        }
        vec![observation]
    }
}

/// A node that tells a lower head told the highest just before.
fn as_if_it_had_the_tip() -> impl FnMut(Observation) -> Vec<Observation> + Send {
    let mut highest: Option<Arc<Header>> = None;
    move |mut observation| {
        let (Saying::Head(header) | Saying::Connected(header)) = &mut observation.what else {
            return vec![observation];
        };
        let lower = highest.clone().filter(|highest| highest.number >= header.number && highest.hash != header.hash);
        let Some(tip) = lower else {
            highest = Some(header.clone());
            return vec![observation];
        };
        let header = std::mem::replace(header, tip);
        let after = Observation { what: Saying::Head(header), ..observation };
        vec![observation, after]
    }
}

fn last_of_several_heads(mut publish: Publish) -> Publish {
    let mut kept: Option<(Arc<Header>, Instant)> = None;
    Box::new(move |update, seen| {
        if let Some((header, at)) = kept.take()
            && !(matches!(update, ChainUpdate::Head(_)) && at == seen)
        {
            publish(ChainUpdate::Head(header), at);
        }
        match update {
            ChainUpdate::Head(header) => kept = Some((header, seen)),
            update => publish(update, seen),
        }
    })
}

fn once_each(mut publish: Publish) -> Publish {
    let mut known: HashSet<(bool, B256)> = HashSet::new();
    Box::new(move |update, seen| {
        let is_new = match &update {
            ChainUpdate::Head(header) => known.insert((true, header.hash)),
            ChainUpdate::Logs(logs) => known.insert((false, logs.block.hash)),
            _ => true,
        };
        if is_new {
            publish(update, seen);
        }
    })
}

fn without_undo(mut publish: Publish) -> Publish {
    Box::new(move |update, seen| {
        if !matches!(update, ChainUpdate::Undo(_)) {
            publish(update, seen);
        }
    })
}

fn oldest_first(mut publish: Publish) -> Publish {
    Box::new(move |mut update, seen| {
        if let ChainUpdate::Undo(undone) = &mut update {
            undone.reverse();
        }
        publish(update, seen);
    })
}

fn seventh_twice(mut publish: Publish) -> Publish {
    let mut heads = 0;
    Box::new(move |update, seen| {
        heads += usize::from(matches!(update, ChainUpdate::Head(_)));
        if matches!(update, ChainUpdate::Head(_)) && heads % 7 == 0 {
            publish(update.clone(), seen);
        }
        publish(update, seen);
    })
}

fn logs_swapped(mut publish: Publish) -> Publish {
    let mut kept: Option<(ChainUpdate, Instant)> = None;
    Box::new(move |update, seen| {
        let is_logs = matches!(update, ChainUpdate::Logs(_));
        match kept.take() {
            None if is_logs => kept = Some((update, seen)),
            Some((before, at)) if is_logs => {
                publish(update, seen);
                publish(before, at);
            }
            before => {
                before.into_iter().for_each(|(before, at)| publish(before, at));
                publish(update, seen);
            }
        }
    })
}

fn logs_of_the_last(mut publish: Publish) -> Publish {
    let (mut last, mut without) = (None, HashSet::new());
    Box::new(move |update, seen| {
        if let ChainUpdate::Head(header) = &update {
            if let Some((hash, _)) = last.filter(|(_, at)| *at == seen) {
                without.insert(hash);
            }
            last = Some((header.hash, seen));
        }
        if !matches!(&update, ChainUpdate::Logs(logs) if without.contains(&logs.block.hash)) {
            publish(update, seen);
        }
    })
}

fn heads_late(mut publish: Publish) -> Publish {
    let mut kept: Vec<(ChainUpdate, Instant)> = Vec::new();
    Box::new(move |update, seen| {
        let is_head = matches!(update, ChainUpdate::Head(_));
        if !is_head {
            publish(update, seen);
        } else if kept.len() < 2 {
            return kept.push((update, seen));
        } else {
            kept.push((update, seen));
        }
        kept.drain(..).for_each(|(update, seen)| publish(update, seen));
    })
}
