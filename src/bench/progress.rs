//! A line a second on standard error while something runs, with counts only.

use std::time::{Duration, Instant};

const PERIOD: Duration = Duration::from_secs(1);

/// Says how far something is.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    what: String,
    last: Instant,
}

impl Progress {
    /// Every line begins with `what`; the first comes after a second.
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), last: Instant::now() }
    }

    /// Says it, if a second has passed since the last time.
    pub(super) fn say(&mut self, words: impl FnOnce() -> String) {
        if self.last.elapsed() >= PERIOD {
            self.last = Instant::now();
            eprintln!("{}: {}", self.what, words());
        }
    }
}
