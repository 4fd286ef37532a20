//! The task that keeps a demonstration chain alive: a block each period, and a reorg now and then.
//!
//! Owns when and what is mined. Tests have no miner; they mine themselves.

use std::ops::RangeInclusive;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::shared::SharedChain;

/// How a miner works.
#[derive(Debug, Clone)]
pub struct MinerOptions {
    /// Time from block to block.
    pub period: Duration,
    /// Logs of a block, drawn evenly.
    pub logs: RangeInclusive<usize>,
    /// How likely a tick replaces the newest blocks instead of adding one, from 0 to 1.
    pub reorg_probability: f64,
    /// Blocks a reorg replaces, drawn evenly, at least 1. One more block comes than goes.
    pub reorg_depth: RangeInclusive<u64>,
    /// Everything random is drawn from this.
    pub seed: u64,
}

impl Default for MinerOptions {
    fn default() -> Self {
        Self { period: Duration::from_secs(1), logs: 0..=12, reorg_probability: 0.05, reorg_depth: 1..=3, seed: 1 }
    }
}

/// A handle to a miner. Dropping it ends mining.
#[derive(Debug)]
pub struct Miner {
    task: JoinHandle<()>,
}

impl Miner {
    /// Begins to mine, the first block at once. Must be called within a Tokio runtime.
    ///
    /// # Panics
    /// If the period is zero or the probability is not between 0 and 1.
    #[must_use]
    pub fn start(chain: SharedChain, options: MinerOptions) -> Self {
        assert!((0.0..=1.0).contains(&options.reorg_probability), "a probability is between 0 and 1");
        let mut ticks = interval(options.period);
        // A late tick is followed by the next one on the old schedule, not by a burst.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut rng = StdRng::seed_from_u64(options.seed);
        let task = tokio::spawn(async move {
            loop {
                ticks.tick().await;
                mine(&chain, &options, &mut rng);
            }
        });
        Self { task }
    }
}

impl Miner {
    /// Ends mining and waits until the last block is made.
    pub async fn stop(mut self) {
        self.task.abort();
        // The only way for this task to end is the abort.
        drop((&mut self.task).await);
    }
}

impl Drop for Miner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn mine(chain: &SharedChain, options: &MinerOptions, rng: &mut StdRng) {
    let depth = rng.random_range(options.reorg_depth.clone()).max(1);
    let is_reorg = rng.random_bool(options.reorg_probability) && chain.head().number > depth;
    let depth = if is_reorg { depth } else { 0 };
    let logs: Vec<usize> = (0..=depth).map(|_| rng.random_range(options.logs.clone())).collect();
    chain.replace(depth, &logs);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devnode::DevOptions;

    #[tokio::test]
    async fn it_adds_a_block_a_tick_by_growth_or_reorg_and_ends_when_stopped() {
        let chain = SharedChain::new(DevOptions { pending_per_block: 0, ..DevOptions::default() });
        let period = Duration::from_millis(1);
        let miner =
            Miner::start(chain.clone(), MinerOptions { period, reorg_probability: 0.2, ..MinerOptions::default() });
        chain.happened().wait_for(|moves| *moves >= 100).await.expect("the chain lives");
        miner.stop().await;
        let (moves, orphans) = chain.with(|c, moves| (moves, c.remembered() as u64 - 1 - c.head().number()));
        assert_eq!(chain.head().number, moves, "each move adds one to the height");
        assert!((10..80).contains(&(orphans * 100 / moves)), "{orphans} blocks orphaned in {moves} moves");
    }
}
