//! The control arm: the same checker on Geth's own socket, which announces only the last head of a reorg.
//!
//! Counts what is wrong there and goes on; what it must find is for the test to say.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::harness::engine::{Event, Follower, Oracle};
use crate::harness::view::View;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Heads that came.
    pub(super) heads: usize,
    /// Heads that came before those below them.
    pub(super) missing: usize,
    /// Other breaches, by what they say.
    pub(super) others: BTreeMap<&'static str, usize>,
}

/// Other breaches that Geth's socket may show.
const OTHERS: [&str; 5] = ["not the newest", "is of no head", "does not follow", "comes twice", "was not removed"];

pub(super) struct Control {
    task: AbortOnDropHandle<Found>,
    stop: CancellationToken,
}

impl Control {
    pub(super) async fn start(url: &str, oracle: &Arc<Oracle>) -> Self {
        let (mut follower, stop) = (Follower::start(url, oracle).await, CancellationToken::new());
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut found = Found::default();
            while let Some(event) = stopped.run_until_cancelled(follower.event()).await {
                found.judge(&mut follower, event.expect("Geth keeps its clients"));
            }
            found
        });
        Self { task: AbortOnDropHandle::new(task), stop }
    }

    pub(super) async fn stop(self) -> Found {
        self.stop.cancel();
        self.task.await.expect("it does not panic")
    }
}

impl Found {
    fn judge(&mut self, follower: &mut Follower, event: Event) {
        let again = match &event {
            Event::Head(head) => Some(head.clone()),
            Event::Log(_) => None,
        };
        self.heads += usize::from(again.is_some());
        let Err(breach) = follower.take(event) else { return };
        if breach.contains("leaves a hole") || breach.contains("has a parent that is not") {
            self.missing += 1;
        } else {
            let kind = OTHERS.into_iter().find(|words| breach.contains(words)).unwrap_or("other");
            *self.others.entry(kind).or_default() += 1;
        }
        if let Some(head) = again {
            // What follows is judged from here on.
            follower.view = View::new(None);
            follower.view.head(head).expect("the first head may be any");
        }
    }
}
