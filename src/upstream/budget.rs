//! How many calls a node is sent: a rate, and calls under way, each with a share that is kept for repair.
//!
//! Repair is what the gateway itself needs to keep the stream exact; clients' calls never take its share. Rates are
//! governor's, on the clock that timers keep to.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout_at;

use super::client::CallError;
use super::now;

/// One part in so many is kept for repair.
const REPAIR_SHARE: u32 = 5;

/// The clock of tokio's timers, so that simulated time passes here too.
#[derive(Debug, Clone)]
struct TimerClock;

impl Clock for TimerClock {
    type Instant = Instant;

    fn now(&self) -> Instant {
        now()
    }
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, TimerClock, NoOpMiddleware<Instant>>;

/// Bounds of the calls to one node.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// Calls a second, sustained.
    pub per_second: NonZeroU32,
    /// Calls at once.
    pub burst: NonZeroU32,
    /// Calls under way.
    pub in_flight: usize,
}

/// For whom a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// For a client.
    Client,
    /// To keep the stream exact.
    Repair,
}

#[derive(Debug)]
struct Share {
    rate: Limiter,
    most: usize,
    slots: Semaphore,
}

impl Share {
    fn new(rates: &Rates, part: u32) -> Self {
        let some = |n: NonZeroU32| NonZeroU32::new(n.get() / REPAIR_SHARE * part).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(some(rates.per_second)).allow_burst(some(rates.burst));
        let most = (rates.in_flight * part as usize / REPAIR_SHARE as usize).max(1);
        Self { rate: RateLimiter::direct_with_clock(quota, TimerClock), most, slots: Semaphore::new(most) }
    }
}

/// The budget of one node.
#[derive(Debug)]
pub(super) struct Budget {
    clients: Share,
    repair: Share,
}

impl Budget {
    pub(super) fn new(rates: &Rates) -> Self {
        Self { clients: Share::new(rates, REPAIR_SHARE - 1), repair: Share::new(rates, 1) }
    }

    /// Waits for room for a call, at most until `ends`. A client's call over the rate is refused at once: another node
    /// may have room.
    pub(super) async fn take(&self, usage: Use, ends: tokio::time::Instant) -> Result<SemaphorePermit<'_>, CallError> {
        let share = match usage {
            Use::Client => &self.clients,
            Use::Repair => &self.repair,
        };
        // Nothing was sent: that is not the node's fault.
        let over = |_| CallError::OverBudget(Duration::ZERO);
        let slot = timeout_at(ends, share.slots.acquire()).await.map_err(over)?;
        let slot = slot.expect("it is never closed");
        while let Err(not_until) = share.rate.check() {
            // What clients leave unused may serve repair.
            if usage == Use::Client {
                return Err(CallError::OverBudget(not_until.wait_time_from(TimerClock.now())));
            }
            if self.clients.rate.check().is_ok() {
                break;
            }
            let wait = not_until.wait_time_from(TimerClock.now()).max(Duration::from_millis(1));
            timeout_at(ends, tokio::time::sleep(wait)).await.map_err(over)?;
        }
        Ok(slot)
    }

    /// Clients' calls under way.
    pub(super) fn under_way(&self) -> usize {
        self.clients.most.saturating_sub(self.clients.slots.available_permits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(per_second: u32, in_flight: usize) -> Rates {
        let per_second = NonZeroU32::new(per_second).unwrap();
        Rates { per_second, burst: per_second, in_flight }
    }

    #[tokio::test(start_paused = true)]
    async fn clients_leave_a_share_to_repair() {
        let budget = Budget::new(&rates(10, 5));
        let soon = tokio::time::Instant::now() + Duration::from_millis(10);
        for _ in 0..8 {
            drop(budget.take(Use::Client, soon).await.expect("within the rate"));
        }
        assert!(matches!(budget.take(Use::Client, soon).await, Err(CallError::OverBudget(_))));
        for _ in 0..2 {
            drop(budget.take(Use::Repair, soon).await.expect("its share is kept"));
        }
        assert!(matches!(budget.take(Use::Repair, soon).await, Err(CallError::OverBudget(_))));
        let later = tokio::time::Instant::now() + Duration::from_secs(2);
        drop(budget.take(Use::Repair, later).await.expect("it waits its turn"));
    }

    #[tokio::test(start_paused = true)]
    async fn slots_are_kept_apart_too() {
        let budget = Budget::new(&rates(1_000, 5));
        let soon = tokio::time::Instant::now() + Duration::from_millis(10);
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(budget.take(Use::Client, soon).await.expect("a slot"));
        }
        assert_eq!(budget.under_way(), 4);
        assert!(matches!(budget.take(Use::Client, soon).await, Err(CallError::OverBudget(_))));
        assert!(budget.take(Use::Repair, soon).await.is_ok());
    }
}
