//! What happened in a seed, in order: a digest of all of it, and the last of it to show.
//!
//! Two runs of a seed are the same where their digests are. Owns no judgement.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use alloy_primitives::B256;
use tokio::time::Instant;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// Happenings that are kept to be shown: of a seed among many, and of one that is played alone.
const KEPT: usize = 160;
const KEPT_ALONE: usize = 1_000_000;

/// One thing that happened.
#[derive(Debug, Clone, Hash)]
pub(super) enum What {
    /// A client got a head.
    Head { client: usize, number: u64, hash: B256 },
    /// A client's subscription got a log, or was told of its end.
    Log { client: usize, sub: usize, number: u64, hash: B256, index: u64, removed: bool },
    /// A client came, went, or was sent away.
    Client { client: usize, does: String },
    /// A step of the scenario.
    Step(String),
    /// The chain's head moved.
    Mined { number: u64, hash: B256 },
    /// The gateway committed an update.
    Update(String),
}

/// How much happened, in a seed or in many: a simulation in which little happens proves little.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    /// Notifications that clients got.
    pub(super) events: usize,
    /// Connections of clients.
    pub(super) came: usize,
    /// Clients that were sent away because they read too slowly, and because of a gap that had a cause.
    pub(super) slow: usize,
    pub(super) gaps: usize,
    /// Branches that were undone, and their blocks.
    pub(super) undos: usize,
    pub(super) undone: usize,
    /// The longest that a head took while a node was well.
    pub(super) longest: Duration,
}

impl Tally {
    pub(super) fn add(&mut self, other: Self) {
        self.events += other.events;
        self.came += other.came;
        self.slow += other.slow;
        self.gaps += other.gaps;
        self.undos += other.undos;
        self.undone += other.undone;
        self.longest = self.longest.max(other.longest);
    }
}

/// All that happened.
pub(super) struct Trace {
    digest: DefaultHasher,
    count: u64,
    kept: usize,
    last: VecDeque<(Duration, What)>,
}

impl Trace {
    pub(super) fn new(alone: bool) -> Self {
        let kept = if alone { KEPT_ALONE } else { KEPT };
        Self { digest: DefaultHasher::new(), count: 0, kept, last: VecDeque::new() }
    }

    pub(super) fn note(&mut self, at: Duration, what: What) {
        (at, &what).hash(&mut self.digest);
        self.count += 1;
        if self.last.len() == self.kept {
            self.last.pop_front();
        }
        self.last.push_back((at, what));
    }

    /// Equal for equal traces.
    pub(super) fn digest(&self) -> (u64, u64) {
        (self.count, self.digest.finish())
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, what) in &self.last {
            write!(f, "{:>10.3} s  ", at.as_secs_f64())?;
            match what {
                What::Head { client, number, hash } => writeln!(f, "client {client}: head {number} {}", short(hash))?,
                What::Log { client, sub, number, hash, index, removed } => {
                    let sign = if *removed { "-" } else { "+" };
                    writeln!(f, "client {client}.{sub}: {sign}log {index} of {number} {}", short(hash))?;
                }
                What::Client { client, does } => writeln!(f, "client {client}: {does}")?,
                What::Step(step) => writeln!(f, "# {step}")?,
                What::Mined { number, hash } => writeln!(f, "chain: {number} {}", short(hash))?,
                What::Update(update) => writeln!(f, "gateway: {update}")?,
            }
        }
        Ok(())
    }
}

/// Enough of a hash to tell it from others.
pub(super) fn short(hash: &B256) -> String {
    alloy_primitives::hex::encode(&hash[..4])
}

/// The time of log lines: that of the runtime's clock since its thread first asked.
pub(super) struct Simulated;

impl FormatTime for Simulated {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        thread_local!(static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) });
        let now = Instant::now();
        let began = BEGAN.get().unwrap_or(now);
        BEGAN.set(Some(began));
        write!(w, "{:>10.3} s", now.duration_since(began).as_secs_f64())
    }
}
