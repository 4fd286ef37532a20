//! The figures of runs and what is said of them: medians, spreads, ratios and goals, as text and as JSON.
//!
//! Owns the form of the report. Measures nothing. Pure.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

/// A server of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Floor,
    Chaincast,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Chaincast => "chaincast",
        }
    }
}

/// The figures of one run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Measure {
    /// Clients.
    pub clients: usize,
    /// Measured blocks.
    pub blocks: usize,
    /// Events of all clients in those blocks.
    pub deliveries: u64,
    /// How long they took.
    pub wall_seconds: f64,
    /// The server's user and system time.
    pub cpu_seconds: Option<f64>,
    /// Deliveries by the server's CPU time.
    pub deliveries_per_cpu_second: Option<f64>,
    /// What the server's memory grew by for each subscribed client.
    pub rss_per_client_bytes: Option<f64>,
    /// 50th and 99th percentile and maximum: from the making of a block, or from the first client that had the event
    /// where others make the blocks, to a client's reading it.
    pub latency_ms: [f64; 3],
    /// The share of one core that generator and node used.
    pub generator_share: f64,
    /// Why the figures do not count.
    pub void: Option<String>,
}

impl Display for Measure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let [p50, p99, max] = self.latency_ms;
        write!(f, "{} deliveries in {:.2} s", self.deliveries, self.wall_seconds)?;
        if let Some(rate) = self.deliveries_per_cpu_second {
            write!(f, ", {rate:.0} per CPU-second of the server")?;
        }
        if let Some(rss) = self.rss_per_client_bytes {
            write!(f, ", {:.2} KiB a client", rss / 1024.0)?;
        }
        write!(f, ", p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms")?;
        write!(f, ", generator {:.0} % busy", self.generator_share * 100.0)?;
        match &self.void {
            Some(why) => write!(f, ": VOID, {why}"),
            None => Ok(()),
        }
    }
}

/// The middle of some figures, and how far they spread.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let (min, max) = (*figures.first()?, *figures.last()?);
        let half = figures.len() / 2;
        let median =
            if figures.len() % 2 == 1 { figures[half] } else { f64::midpoint(figures[half - 1], figures[half]) };
        Some(Self { median, min, max })
    }
}

/// All rounds with one number of clients.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Clients.
    pub clients: usize,
    /// Blocks of a run.
    pub blocks: usize,
    /// Runs of the bare loop.
    pub floor: Vec<Measure>,
    /// Runs of the gateway.
    pub chaincast: Vec<Measure>,
    /// Deliveries per CPU-second of the gateway by those of the floor, round by round.
    pub ratio: Option<Spread>,
}

/// A figure of a run, if the run has it.
type Figure = fn(&Measure) -> Option<f64>;

/// The rows of the table: name, decimals, figure, and the goal of the gateway.
const ROWS: [(&str, usize, Figure, &str); 6] = [
    ("deliveries per CPU-second", 0, |m| m.deliveries_per_cpu_second, "see ratio"),
    ("RSS per client, KiB", 2, |m| m.rss_per_client_bytes.map(|b| b / 1024.0), "≤ 2"),
    ("p50, ms", 1, |m| Some(m.latency_ms[0]), "–"),
    ("p99, ms", 1, |m| Some(m.latency_ms[1]), "–"),
    ("greatest latency, ms", 1, |m| Some(m.latency_ms[2]), "–"),
    ("generator's share of its core, %", 0, |m| Some(m.generator_share * 100.0), "≤ 90"),
];

impl Summary {
    pub(super) fn new(clients: usize, blocks: usize) -> Self {
        Self { clients, blocks, floor: Vec::new(), chaincast: Vec::new(), ratio: None }
    }

    pub(super) fn add(&mut self, kind: Kind, measure: Measure) {
        match kind {
            Kind::Floor => self.floor.push(measure),
            Kind::Chaincast => self.chaincast.push(measure),
        }
        let rate = |m: &Measure| m.deliveries_per_cpu_second.filter(|_| m.void.is_none());
        let rounds = self.chaincast.iter().zip(&self.floor);
        self.ratio = Spread::of(rounds.filter_map(|(ours, floor)| Some(rate(ours)? / rate(floor)?)));
    }

    /// Number of runs that do not count.
    #[must_use]
    pub fn void_runs(&self) -> usize {
        self.floor.iter().chain(&self.chaincast).filter(|m| m.void.is_some()).count()
    }
}

/// The table, in Markdown, so that it can stand in docs/performance.md as it is printed.
impl Display for Summary {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let rounds = self.chaincast.len();
        writeln!(
            f,
            "{} clients, heads of 1.8 KB, {} blocks a run, {rounds} rounds: median (least to greatest)\n",
            self.clients, self.blocks
        )?;
        writeln!(f, "| | floor | chaincast | goal |\n|---|---|---|---|")?;
        for (name, decimals, figure, goal) in ROWS {
            let cell = |runs: &[Measure]| {
                let counted = runs.iter().filter(|m| m.void.is_none()).filter_map(figure);
                Spread::of(counted).map_or("–".into(), |s| format!("{s:.decimals$}"))
            };
            writeln!(f, "| {name} | {} | {} | {goal} |", cell(&self.floor), cell(&self.chaincast))?;
        }
        let ratio = self.ratio.map_or("–".into(), |ratio| format!("{ratio:.2}"));
        writeln!(f, "| deliveries per CPU-second, by the floor's | 1 | {ratio} | ≥ 0.95 |")?;
        let voids = self.floor.iter().chain(&self.chaincast).filter_map(|m| m.void.as_ref());
        voids.into_iter().try_for_each(|why| writeln!(f, "\nA run is void and not counted: {why}"))
    }
}

impl Display for Spread {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let decimals = f.precision().unwrap_or(2);
        write!(f, "{:.decimals$} ({:.decimals$} to {:.decimals$})", self.median, self.min, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spreads() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0]).map(|s| s.median), Some(2.5));
    }

    #[test]
    fn void_runs_are_told_and_not_counted() {
        let mut summary = Summary::new(10, 1);
        for (rate, void) in [(100.0, None), (900.0, Some("client 1: closed with 1013 gap".to_owned()))] {
            let measure = Measure { deliveries_per_cpu_second: Some(rate), void, ..Measure::default() };
            summary.add(Kind::Floor, Measure { deliveries_per_cpu_second: Some(200.0), ..Measure::default() });
            summary.add(Kind::Chaincast, measure);
        }
        assert_eq!(summary.ratio.map(|r| r.max), Some(0.5));
        assert_eq!(summary.void_runs(), 1);
        assert!(summary.to_string().contains("not counted: client 1: closed with 1013 gap"));
    }
}
