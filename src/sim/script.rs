//! What happens in a seed: who is there, what the chain does, and which faults come when. Drawn from the seed alone.
//!
//! Owns the odds. Does nothing itself; [`super::stage`] carries the steps out.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::client::Character;
use super::view::{Want, Wanted};
use crate::devnode::{Economy, TRANSFER_TOPIC};

/// Clients of a seed.
pub(super) const CLIENTS: usize = 50;
/// Tokens and holders of the chain: few, so that filters match and miss.
pub(super) const TOKENS: u16 = 3;
pub(super) const HOLDERS: u16 = 5;
/// Blocks that are there before anything begins, so that a deep reorg finds something to undo.
pub(super) const BEFORE: usize = 48;
/// Entries of a short journal: fewer than a burst of blocks gives.
const SHORT_JOURNAL: usize = 24;
/// Most blocks of a seed.
const BLOCKS: usize = 110;

/// One thing that is done.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// Blocks with so many logs each, in one move of the head.
    Mine(Vec<usize>),
    /// The last so many blocks are replaced.
    Reorg(u64, Vec<usize>),
    /// The head goes back so many blocks.
    Shrink(u64),
    /// A branch replaces so many blocks, and right after the first comes back with more on it.
    Flip(u64, Duration),
    Fault(usize, Fault, Duration),
}

/// What is wrong with a node for a while.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Fault {
    /// Its process is gone.
    Down,
    /// Its connections are reset, once.
    Cut,
    /// Its process is stopped.
    Stalled,
    Partitioned,
    /// What is connected to it goes nowhere any more, and nobody is told.
    Vanished,
    /// It sees the chain so much later.
    Lagging(Duration),
    /// It answers `[]` and `null` to this method.
    Empty(&'static str),
    /// It answers an error to this method.
    Refuses(&'static str),
    /// It answers with a log missing.
    Hole,
    /// It answers late.
    Late(Duration),
    /// It announces heads twice, not at all, or those of another chain.
    Twice,
    Dumb,
    Foreign,
    /// It comes back on another chain.
    WrongChain,
    EveryBlock,
}

/// A whole seed.
pub(super) struct Script {
    pub(super) seed: u64,
    pub(super) nodes: usize,
    pub(super) clients: Vec<Character>,
    /// In the order of their times.
    pub(super) steps: Vec<(Duration, Step)>,
    pub(super) lasts: Duration,
    /// Entries that the journal holds where they are few: a burst may then pass a shard by, which is a gap.
    pub(super) journal: Option<usize>,
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} nodes, {} clients, {:?}, journal {:?}",
            self.nodes,
            self.clients.len(),
            self.lasts,
            self.journal
        )?;
        for (at, step) in self.steps.iter().filter(|(_, step)| !matches!(step, Step::Mine(logs) if logs.len() == 1)) {
            writeln!(f, "{:>10.3} s  {step:?}", at.as_secs_f64())?;
        }
        Ok(())
    }
}

impl Script {
    pub(super) fn draw(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let nodes = rng.random_range(1..=4);
        let lasts = Duration::from_secs(rng.random_range(150..=240));
        let economy = Economy::new(TOKENS, HOLDERS);
        let clients = (0..CLIENTS).map(|_| client(&mut rng, &economy, lasts)).collect();
        let mut steps = chain(&mut rng, lasts);
        steps.extend(faults(&mut rng, nodes, lasts));
        steps.sort_by_key(|(at, _)| *at);
        let journal = rng.random_ratio(1, 10).then_some(SHORT_JOURNAL);
        Self { seed, nodes, clients, steps, lasts, journal }
    }
}

fn millis(rng: &mut StdRng, range: std::ops::RangeInclusive<u64>) -> Duration {
    Duration::from_millis(rng.random_range(range))
}

fn client(rng: &mut StdRng, economy: &Economy, lasts: Duration) -> Character {
    let wants = match rng.random_range(0..10) {
        0..4 => vec![Want::Heads],
        4..7 => vec![logs(rng, economy)],
        7 => vec![Want::Heads, logs(rng, economy)],
        8 => vec![logs(rng, economy), Want::Heads, logs(rng, economy)],
        _ => vec![logs(rng, economy), logs(rng, economy), logs(rng, economy)],
    };
    let is_slow = rng.random_ratio(1, 6);
    let comes = if rng.random_ratio(2, 3) { Duration::ZERO } else { lasts.mul_f64(rng.random_range(0.0..0.9)) };
    let leaves = rng.random_ratio(1, 4);
    Character {
        wants,
        room: if is_slow { rng.random_range(1_000..6_000) } else { 65_536 },
        slow: is_slow.then(|| (rng.random_range(500..8_000), millis(rng, 50..=1_500))),
        comes: comes + millis(rng, 0..=500),
        stays: leaves.then(|| (millis(rng, 2_000..=60_000), millis(rng, 100..=20_000))),
        changes: rng.random_bool(0.5),
        seed: rng.random(),
    }
}

fn logs(rng: &mut StdRng, economy: &Economy) -> Want {
    let token = |rng: &mut StdRng| economy.tokens()[rng.random_range(0..economy.tokens().len())].address;
    let holder = |rng: &mut StdRng| economy.holders()[rng.random_range(0..economy.holders().len())].into_word();
    Want::Logs(match rng.random_range(0..5) {
        0 | 1 => Wanted::default(),
        2 => Wanted { addresses: vec![token(rng)], topics: vec![] },
        3 => Wanted { addresses: vec![], topics: vec![vec![TRANSFER_TOPIC], vec![holder(rng), holder(rng)]] },
        _ => Wanted { addresses: vec![token(rng), token(rng)], topics: vec![vec![], vec![], vec![holder(rng)]] },
    })
}

/// What the chain does: stretches of one pace each, with reorgs, shrinks and jumps between the blocks.
fn chain(rng: &mut StdRng, lasts: Duration) -> Vec<(Duration, Step)> {
    let mut steps = Vec::new();
    let mut at = Duration::from_millis(500);
    let mut blocks = 0;
    while at < lasts {
        let pace = [50, 200, 500, 1_000, 2_000, 5_000, 12_000][rng.random_range(0..7)];
        let stretch = if pace < 500 { millis(rng, 1_000..=3_000) } else { millis(rng, 10_000..=40_000) };
        let most_logs = [0, 2, 2, 4, 4, 12][rng.random_range(0..6)];
        let end = (at + stretch).min(lasts);
        while at < end {
            let step = if blocks < BLOCKS { step(rng, most_logs) } else { Step::Mine(vec![0]) };
            blocks += 1;
            steps.push((at, step));
            at += millis(rng, pace / 2..=pace * 3 / 2).max(Duration::from_millis(if blocks < BLOCKS {
                1
            } else {
                4_000
            }));
        }
    }
    steps
}

fn step(rng: &mut StdRng, most_logs: usize) -> Step {
    let blocks = |rng: &mut StdRng, n: u64| (0..n).map(|_| rng.random_range(0..=most_logs)).collect::<Vec<_>>();
    match rng.random_range(0..100) {
        0..82 => Step::Mine(blocks(rng, 1)),
        82..86 => {
            let n = rng.random_range(2..=6);
            Step::Mine(blocks(rng, n))
        }
        86 => {
            let n = rng.random_range(20..=40);
            Step::Mine(blocks(rng, n))
        }
        87..95 => {
            let depth: u64 = if rng.random_ratio(1, 16) { 40 } else { rng.random_range(1..=8) };
            let new = (depth + rng.random_range(0..=3)).saturating_sub(1).max(1);
            Step::Reorg(depth, blocks(rng, new))
        }
        95..97 => Step::Shrink(rng.random_range(1..=4)),
        _ => Step::Flip(rng.random_range(1..=4), millis(rng, 20..=1_500)),
    }
}

/// Which faults come: a few a minute, now and then of all nodes at once.
fn faults(rng: &mut StdRng, nodes: usize, lasts: Duration) -> Vec<(Duration, Step)> {
    let mut steps = Vec::new();
    let gap = [4_000, 10_000, 25_000][rng.random_range(0..3)];
    let mut at = millis(rng, 2_000..=gap * 2);
    while at < lasts.mul_f64(0.9) {
        let left = lasts.saturating_sub(at);
        if rng.random_ratio(1, 12) {
            let lasts = millis(rng, 1_000..=90_000).min(left);
            let fault = [Fault::Down, Fault::Partitioned, Fault::Cut][rng.random_range(0..3)].clone();
            steps.extend((0..nodes).map(|node| (at, Step::Fault(node, fault.clone(), lasts))));
            at += lasts;
        } else {
            let (fault, longest) = fault(rng);
            let lasts = millis(rng, 200..=longest).min(left);
            steps.push((at, Step::Fault(rng.random_range(0..nodes), fault, lasts)));
        }
        at += millis(rng, gap / 4..=gap * 2);
    }
    steps
}

/// A fault, and how many milliseconds it lasts at most.
fn fault(rng: &mut StdRng) -> (Fault, u64) {
    let method = ["eth_getLogs", "eth_getBlockByHash", "eth_getBlockByNumber"][rng.random_range(0..3)];
    match rng.random_range(0..16) {
        0 | 1 => (Fault::Down, 20_000),
        2 => (Fault::Cut, 1_000),
        3 | 4 => (Fault::Stalled, 30_000),
        5 => (Fault::Partitioned, 30_000),
        6 => (Fault::Vanished, 1_000),
        7 | 8 => (Fault::Lagging(millis(rng, 200..=8_000)), 15_000),
        9 => (Fault::Empty(if rng.random() { "eth_getLogs" } else { method }), 8_000),
        10 => (Fault::Refuses(method), 8_000),
        11 => (if rng.random() { Fault::Hole } else { Fault::Late(millis(rng, 100..=6_000)) }, 8_000),
        12 => (Fault::Twice, 10_000),
        13 => (Fault::Dumb, 5_000),
        14 => (Fault::Foreign, 8_000),
        _ => (if rng.random() { Fault::WrongChain } else { Fault::EveryBlock }, 15_000),
    }
}
