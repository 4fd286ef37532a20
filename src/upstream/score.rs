//! How dear a call to a node is: what it took lately, how often it failed, how far it is behind.
//!
//! Moving averages, so that a node is forgiven. Pure.

use std::time::Duration;

/// Share of the newest call in the averages.
const WEIGHT: f64 = 0.1;
/// A node all of whose calls fail is so many times dearer.
const ERROR_FACTOR: f64 = 20.0;
/// A node counts as slower by this for each place in the configuration, so that equals are used in that order.
const PLACE_MS: f64 = 1.0;
/// Calls under way at which a node is twice as dear.
const LOAD: f64 = 16.0;

/// The record of one node.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Score {
    latency_ms: f64,
    errors: f64,
}

impl Score {
    /// A call took so long, and was answered or not.
    pub(super) fn observe(&mut self, took: Duration, ok: bool) {
        let ms = took.as_secs_f64() * 1_000.0;
        let failed = if ok { 0.0 } else { 1.0 };
        self.latency_ms += (ms - self.latency_ms) * WEIGHT;
        self.errors += (failed - self.errors) * WEIGHT;
    }

    /// The cost of another call: lower is better. `lag` is in blocks behind the highest node.
    pub(super) fn cost(&self, place: usize, lag: u64, under_way: usize) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "all are far below 2^52, and this is an estimate")]
        let (place, lag, under_way) = (place as f64, lag as f64, under_way as f64);
        (self.latency_ms + PLACE_MS * (1.0 + place))
            * (1.0 + ERROR_FACTOR * self.errors)
            * (1.0 + under_way / LOAD)
            * (1.0 + lag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_go_by_place_and_the_slow_the_failing_the_busy_and_the_late_cost_more() {
        let mut good = Score::default();
        (0..50).for_each(|_| good.observe(Duration::from_millis(10), true));
        let mut slow = good;
        (0..50).for_each(|_| slow.observe(Duration::from_millis(40), true));
        let mut failing = good;
        (0..10).for_each(|_| failing.observe(Duration::from_millis(10), false));
        let base = good.cost(0, 0, 0);
        assert!(base < good.cost(1, 0, 0));
        for dearer in [slow.cost(0, 0, 0), failing.cost(0, 0, 0), good.cost(0, 2, 0), good.cost(0, 0, 32)] {
            assert!(dearer > base * 2.0, "{dearer} {base}");
        }
        (0..50).for_each(|_| failing.observe(Duration::from_millis(10), true));
        assert!(failing.cost(0, 0, 0) < base * 1.5, "it is forgiven");
    }
}
