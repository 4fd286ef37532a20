//! One canonical sequence out of many nodes' words.
//!
//! [`Tracker`] decides, purely; the one task here feeds it what the nodes say and what was asked for, and hands its
//! updates to the journal's writer in order. Nothing else writes there. Knows nothing of clients.

mod action;
mod ask;
mod finality;
mod logs;
mod questions;
mod rule;
mod tracker;
mod walk;
mod watch;
mod window;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::chain::{BlockRef, ChainUpdate, Observation};
use crate::metrics::{Metrics, unix_seconds};
use crate::upstream::{Pool, now};

pub use action::{Action, Bounds, GapCause, Note};
pub use logs::{Blooms, Incomplete};
pub use tracker::Tracker;

/// Where updates go, in order: the journal's append.
pub type Publish = Box<dyn FnMut(ChainUpdate, Instant) + Send>;

/// The ingest of one chain.
pub struct Ingest {
    /// Name of the chain, for labels and logs.
    pub chain: Arc<str>,
    /// What the nodes say.
    pub observations: mpsc::Receiver<Observation>,
    /// The nodes, to ask.
    pub pool: Arc<Pool>,
    /// The deciding part.
    pub tracker: Tracker,
    /// Where updates go.
    pub publish: Publish,
    /// Metrics.
    pub metrics: Metrics,
}

impl Ingest {
    /// Runs until stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut answers: JoinSet<Observation> = JoinSet::new();
        let mut blooms_told = false;
        loop {
            let due = self.tracker.next_due();
            let actions = tokio::select! {
                () = stop.cancelled() => return,
                Some(observation) = self.observations.recv() => self.tracker.observe(observation),
                Some(answer) = answers.join_next() => match answer {
                    Ok(answer) => self.tracker.observe(answer),
                    Err(error) => {
                        // Whatever was asked is asked again when its patience ends.
                        self.metrics.panics.inc();
                        tracing::error!(chain = &*self.chain, %error, "a question to a node failed");
                        continue;
                    }
                },
                () = sleep_until(due) => self.tracker.tick(now()),
            };
            for action in actions {
                self.act(action, &mut answers);
            }
            if !blooms_told && self.tracker.blooms_are_empty() {
                blooms_told = true;
                let chain = &*self.chain;
                self.metrics.blooms_empty.with_label_values(&[chain]).set(1);
                tracing::warn!(
                    chain,
                    "header blooms are empty on this chain: only log indexes show whether logs are complete"
                );
            }
        }
    }

    fn act(&mut self, action: Action, answers: &mut JoinSet<Observation>) {
        let pool = self.pool.clone();
        match action {
            Action::Publish(update, seen) => self.put_out(update, seen),
            Action::FetchBlocks { node, block, count } => {
                tracing::debug!(chain = &*self.chain, %block, count, "asking for blocks");
                answers.spawn(questions::blocks(pool, node, block, count));
            }
            Action::FetchLogs(node, hash) => drop(answers.spawn(questions::logs(pool, node, hash))),
            Action::Confirm(node, number) => drop(answers.spawn(questions::standing(pool, node, number))),
            Action::Probe(node) => drop(answers.spawn(questions::height(pool, node))),
            Action::AskFinality(node) => drop(answers.spawn(questions::finality(pool, node))),
            Action::Order(node, order) => self.pool.order(node, order),
            Action::Note(note) => self.note(note),
        }
    }

    fn note(&self, note: Note) {
        let (metrics, chain) = (&self.metrics, &*self.chain);
        match note {
            Note::Retry(why) => {
                metrics.logs_retries.with_label_values(&[chain, why.label()]).inc();
                tracing::debug!(chain, cause = why.label(), "the logs of a block are not complete yet");
            }
            Note::Gap(cause) => {
                metrics.gaps.with_label_values(&[chain, cause.label()]).inc();
                let cause = cause.label();
                tracing::error!(chain, cause, "gap: the stream cannot be kept exact; subscribers are closed");
            }
            Note::Malformed(by) => {
                let upstream = self.pool.node(by).map_or("", |node| &*node.label);
                metrics.upstream_malformed.with_label_values(&[chain, upstream]).inc();
                tracing::warn!(chain, upstream, "skipped a head without a bloom");
            }
            Note::Silent(silent) => {
                metrics.silent.with_label_values(&[chain]).set(i64::from(silent));
                if silent {
                    tracing::warn!(chain, "no node has announced anything for four block times; asking each");
                }
            }
            Note::LogsLate(late) => {
                metrics.logs_late.with_label_values(&[chain]).set(i64::from(late));
                if late {
                    tracing::warn!(chain, "the logs of a block stay incomplete and hold back those after it");
                }
            }
            Note::Finality => {
                let (safe, finalized) = self.tracker.finality();
                let show = |tag, block: Option<BlockRef>| {
                    let number = block.map_or(0, |block| i64::try_from(block.number).unwrap_or(i64::MAX));
                    metrics.final_block.with_label_values(&[chain, tag]).set(number);
                };
                show("safe", safe);
                show("finalized", finalized);
            }
        }
    }

    fn put_out(&mut self, update: ChainUpdate, seen: Instant) {
        self.count(&update);
        (self.publish)(update, seen);
    }

    fn count(&self, update: &ChainUpdate) {
        let (metrics, chain) = (&self.metrics, &*self.chain);
        metrics.logs_waiting.with_label_values(&[chain]).set(i64::try_from(self.tracker.waiting()).unwrap_or(i64::MAX));
        match update {
            ChainUpdate::Head(header) => {
                metrics.heads.with_label_values(&[chain]).inc();
                metrics.head_block.with_label_values(&[chain]).set(i64::try_from(header.number).unwrap_or(i64::MAX));
                metrics.head_seen.with_label_values(&[chain]).set(unix_seconds());
                let block_time = self.tracker.block_time().map_or(0.0, |time| time.as_secs_f64());
                metrics.block_time.with_label_values(&[chain]).set(block_time);
            }
            ChainUpdate::Logs(logs) => metrics.logs.with_label_values(&[chain]).inc_by(logs.logs.len() as u64),
            ChainUpdate::Undo(undone) => {
                metrics.reorgs.with_label_values(&[chain, depth_label(undone.len())]).inc();
                let removed = undone.iter().filter_map(|u| u.logs.as_ref()).map(|l| l.logs.len() as u64).sum();
                metrics.logs_removed.with_label_values(&[chain]).inc_by(removed);
                tracing::info!(chain, depth = undone.len(), "reorg");
            }
            ChainUpdate::Gap => {}
        }
    }
}

/// Few values, so that the label is bounded.
fn depth_label(depth: usize) -> &'static str {
    match depth {
        0 | 1 => "1",
        2 => "2",
        3 => "3",
        4..=7 => "4-7",
        8..=31 => "8-31",
        32..=127 => "32-127",
        _ => "128+",
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
