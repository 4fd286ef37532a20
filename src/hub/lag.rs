//! How many blocks a client may be behind.
//!
//! A client is too far behind if the block that was `lag_max_blocks` behind the newest one [`GRACE_SECONDS`] ago has not been
//! handed to its socket. What was published since then counts against nobody: after an outage hundreds of blocks come at
//! once, and whoever reads takes them in a moment. Knows no client and no clock. Pure.

use std::collections::VecDeque;

/// How long a block counts against nobody; up to a second more, as the rule is applied once a second.
pub(super) const GRACE_SECONDS: usize = 5;

/// The rule for one shard's clients.
#[derive(Debug)]
pub(super) struct Lag {
    /// How many blocks a client may be behind.
    most: u64,
    /// Entries of the newest head and of those before it, as many as are allowed, oldest first.
    heads: VecDeque<u64>,
    /// The entry that each of the last seconds asks for, oldest first.
    seconds: VecDeque<u64>,
    /// The entry that must have been handed over by now.
    due: u64,
}

impl Lag {
    pub(super) fn new(most: u64) -> Self {
        Self { most, heads: VecDeque::new(), seconds: VecDeque::new(), due: 0 }
    }

    /// This entry is a head.
    pub(super) fn head(&mut self, seq: u64) {
        self.heads.push_back(seq);
        if self.heads.len() as u64 > self.most.saturating_add(1) {
            self.heads.pop_front();
        }
    }

    /// A second has passed.
    pub(super) fn second(&mut self) {
        let all = self.heads.len() as u64 > self.most;
        self.seconds.push_back(self.heads.front().copied().filter(|_| all).unwrap_or(0));
        if self.seconds.len() > GRACE_SECONDS {
            self.due = self.seconds.pop_front().expect("it is not empty");
        }
    }

    /// Whether a client that is owed this entry next is too far behind.
    pub(super) fn is_passed(&self, next: u64) -> bool {
        next <= self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(lag: &mut Lag, seconds: usize) -> u64 {
        (0..seconds).for_each(|_| lag.second());
        (1..1_000).find(|next| !lag.is_passed(*next)).unwrap()
    }

    #[test]
    fn blocks_count_only_after_the_grace() {
        let mut lag = Lag::new(3);
        (1..=100).for_each(|seq| lag.head(2 * seq));
        assert_eq!(after(&mut lag, GRACE_SECONDS), 1, "all came just now");
        (101..=200).for_each(|seq| lag.head(2 * seq));
        assert_eq!(after(&mut lag, 1), 2 * 97 + 1, "of the first 100, all but 3 must have been taken");
        assert_eq!(after(&mut lag, GRACE_SECONDS - 1), 2 * 97 + 1);
        assert_eq!(after(&mut lag, 1), 2 * 197 + 1);
        assert_eq!((lag.heads.len(), lag.seconds.len()), (4, GRACE_SECONDS));
    }

    #[test]
    fn nobody_is_behind_before_there_are_so_many_blocks() {
        let mut lag = Lag::new(3);
        (10..13).for_each(|seq| lag.head(seq));
        assert_eq!(after(&mut lag, 100), 1);
        lag.head(13);
        assert_eq!(after(&mut lag, 100), 11, "it was owed the first, and three came after");
    }
}
