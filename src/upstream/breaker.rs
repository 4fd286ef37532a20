//! Keeps calls away from a node that fails them.
//!
//! Opens after five errors within ten seconds that are at least half of the answers of that time, then lets single
//! calls through to see whether the node is back, after waits that are drawn from zero to a doubling bound ("full
//! jitter", so that several gateways do not come back together). Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Errors that open it, and within which time.
const ERRORS: usize = 5;
const WITHIN: Duration = Duration::from_secs(10);
/// Errors remembered.
const REMEMBERED: usize = 1_024;
/// Bound of the first wait; doubles to [`WAIT_MAX`].
const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(60);
/// A call that is let through and never answered is given up after this.
const PROBE_MAX: Duration = Duration::from_secs(10);

/// The breaker of one node.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    errors: VecDeque<Instant>,
    /// Answers since the oldest of the errors.
    answers: usize,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    /// No call before this.
    until: Instant,
    failures: u32,
}

impl Breaker {
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// When the next call may be made; `None` for now.
    pub(super) fn opens_at(&self, now: Instant) -> Option<Instant> {
        self.open.as_ref().map(|open| open.until).filter(|until| *until > now)
    }

    /// A call is being made. Where the breaker is open it is the only one until it ends.
    pub(super) fn begin(&mut self, now: Instant) {
        if let Some(open) = &mut self.open {
            open.until = now + PROBE_MAX;
        }
    }

    /// A call was answered.
    pub(super) fn ok(&mut self) {
        if self.open.take().is_some() {
            self.errors.clear();
        }
        self.answers = if self.errors.is_empty() { 0 } else { self.answers.saturating_add(1) };
    }

    /// A call failed. `unit` in 0..1 draws the wait. Returns whether this opened the breaker.
    pub(super) fn failed(&mut self, now: Instant, unit: f64) -> bool {
        let wait = |failures: u32| WAIT_MIN.saturating_mul(1 << failures.min(6)).min(WAIT_MAX).mul_f64(unit);
        if let Some(open) = &mut self.open {
            open.failures = open.failures.saturating_add(1);
            open.until = now + wait(open.failures);
            return false;
        }
        while self.errors.front().is_some_and(|at| *at + WITHIN < now) {
            self.errors.pop_front();
            self.answers = 0;
        }
        // More than are counted need not be kept; the oldest stay, so that their time ends.
        if self.errors.len() < REMEMBERED {
            self.errors.push_back(now);
        }
        let opens = self.errors.len() >= ERRORS && self.errors.len() >= self.answers;
        if opens {
            self.open = Some(Open { until: now + wait(0), failures: 0 });
        }
        opens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn five_errors_open_it_and_an_answer_closes_it() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        (0..100).for_each(|_| breaker.ok());
        for n in 0..4 {
            assert!(!breaker.failed(at(start, n), 0.5));
        }
        assert!(!breaker.is_open());
        assert!(breaker.failed(at(start, 4), 0.5));
        assert_eq!(breaker.opens_at(at(start, 5)), Some(at(start, 504)));
        assert_eq!(breaker.opens_at(at(start, 504)), None);
        breaker.begin(at(start, 504));
        assert!(breaker.opens_at(at(start, 505)).is_some(), "one call at a time");
        assert!(!breaker.failed(at(start, 600), 1.0));
        assert_eq!(breaker.opens_at(at(start, 600)), Some(at(start, 2_600)), "the wait doubles");
        breaker.ok();
        assert!(!breaker.is_open());
        assert!(!breaker.failed(at(start, 700), 0.5), "it begins to count anew");
    }

    #[test]
    fn slow_errors_and_few_among_many_answers_do_not_open_it() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        for n in 0..20 {
            assert!(!breaker.failed(at(start, n * 2_600), 0.5));
        }
        let mut breaker = Breaker::default();
        for n in 0..100 {
            (0..3).for_each(|_| breaker.ok());
            assert!(!breaker.failed(at(start, n * 10), 0.5));
        }
    }

    #[test]
    fn waits_are_bounded() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..40 {
            breaker.failed(start, 1.0);
        }
        assert_eq!(breaker.opens_at(start), Some(start + WAIT_MAX));
    }

    #[test]
    fn it_opens_after_a_time_with_one_error() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        breaker.failed(start, 0.5);
        (0..100).for_each(|_| breaker.ok());
        let opened = (0..10_000u64).find(|n| breaker.failed(at(start, 2_000 + n * 10), 0.5));
        assert!(opened.is_some(), "10,000 errors in 100 s and not one answer");
    }
}
