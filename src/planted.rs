//! Bugs that the simulation plants to prove that it would find them. Outside of tests each is constantly absent.
//!
//! Owns the list of those that need a mark in the code that they break; others are planted at the seams of
//! [`crate::app`]. One line a mark.

/// A bug with a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// What the ingest orders for a node is not done.
    NeverGiveUpNode,
    /// The ingest takes `[]` for the logs of any block.
    TrustEmptyLogs,
    /// A shard that lost entries of the journal goes on without a word.
    ContinueAfterLag,
    /// What is left of a frame that was cut is dropped.
    DropRestOfFrame,
    /// A removal is told to who was never told of the log.
    RemovedToStrangers,
    /// Who has caught up misses the next entry.
    LoseCaughtUp,
    /// Events go out before the answer to the subscription that they are for.
    NotifyBeforeAnswer,
    /// Unsubscribing is answered and not done.
    KeepUnsubscribed,
}

#[cfg(not(test))]
pub(crate) const fn is(_: Bug) -> bool {
    false
}

#[cfg(test)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Whether this bug is planted on this thread.
#[cfg(test)]
pub(crate) fn is(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Plants a bug on this thread.
#[cfg(test)]
pub(crate) fn plant(bug: Bug) {
    PLANTED.set(Some(bug));
}
