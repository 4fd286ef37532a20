//! What is said of all rounds: a row for each goal, as a table and as JSON. Pure.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use super::machine::Machine;
use super::rows::{Round, Row};
use super::spread::Spread;
use crate::bench::measure::Measure;

/// All that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    machine: Machine,
    /// The share of every load that was put on; the goals are those of the whole.
    scale: f64,
    rounds: usize,
    rows: Vec<RowReport>,
    runs: Vec<RunReport>,
}

/// A row of the table.
#[derive(Debug, Serialize)]
struct RowReport {
    name: &'static str,
    what: &'static str,
    goal: String,
    #[serde(skip)]
    decimals: usize,
    /// Over the rounds in which all of its runs count.
    measured: Option<Spread>,
    rounds: usize,
    /// Whether the median meets the goal, where there are both.
    met: Option<bool>,
}

/// A run, and the round it was in.
#[derive(Debug, Serialize)]
pub(super) struct RunReport {
    pub(super) run: &'static str,
    pub(super) round: usize,
    #[serde(flatten)]
    pub(super) measure: Measure,
}

impl Report {
    pub(super) fn new(machine: Machine, scale: f64, rounds: usize, rows: &[&Row], runs: Vec<RunReport>) -> Self {
        let rows = rows.iter().map(|row| RowReport::of(row, rounds, &runs)).collect();
        Self { machine, scale, rounds, rows, runs }
    }

    /// Number of runs that do not count.
    #[must_use]
    pub fn void_runs(&self) -> usize {
        self.voids().count()
    }

    fn voids(&self) -> impl Iterator<Item = (&RunReport, &str)> {
        self.runs.iter().filter_map(|run| Some((run, run.measure.void.as_deref()?)))
    }
}

impl RowReport {
    fn of(row: &Row, rounds: usize, runs: &[RunReport]) -> Self {
        let figures: Vec<f64> = (0..rounds)
            .filter_map(|round| {
                let counted = runs.iter().filter(|run| run.round == round + 1 && run.measure.void.is_none());
                let round: Round<'_> = counted.map(|run| (run.run, &run.measure)).collect();
                (row.figure)(&round)
            })
            .collect();
        let (rounds, measured) = (figures.len(), Spread::of(figures));
        let met = measured.and_then(|spread| row.goal.met(spread.median));
        let goal = row.goal.to_string();
        Self { name: row.name, what: row.what, goal, decimals: row.decimals, measured, rounds, met }
    }

    fn verdict(&self) -> &'static str {
        match (self.met, self.measured) {
            (Some(true), _) => "met",
            (Some(false), _) => "**not met**",
            (None, Some(_)) => "–",
            (None, None) => "no figure",
        }
    }
}

/// In Markdown, so that it can stand in docs/performance.md as it is printed.
impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}.\n", self.machine)?;
        writeln!(f, "{} rounds; median (least to greatest) of the rounds in which every run counts.", self.rounds)?;
        if self.scale < 1.0 {
            writeln!(f, "Only {} of each load was put on: the goals are those of the whole.", self.scale)?;
        }
        writeln!(f, "\n| row | what | goal | measured | |\n|---|---|---|---|---|")?;
        for row in &self.rows {
            let decimals = row.decimals;
            let measured = row.measured.map_or("–".into(), |spread| format!("{spread:.decimals$}"));
            let short = if row.rounds < self.rounds { format!(", {} rounds", row.rounds) } else { String::new() };
            let (name, what, goal, verdict) = (row.name, row.what, &row.goal, row.verdict());
            writeln!(f, "| {name} | {what} | {goal} | {measured}{short} | {verdict} |")?;
        }
        let (mut voids, mut first) = (self.voids(), true);
        voids.try_for_each(|(run, why)| {
            if std::mem::take(&mut first) {
                writeln!(f, "\nVoid and not counted:\n")?;
            }
            writeln!(f, "- {}, round {}: {why}", run.run, run.round)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::Goal;
    use super::*;

    const ROW: Row = Row {
        name: "x",
        what: "a / b",
        goal: Goal::AtLeast(0.5),
        decimals: 2,
        runs: &["a", "b"],
        figure: |round| Some(round.get("a")?.deliveries_per_cpu_second? / round.get("b")?.deliveries_per_cpu_second?),
    };

    fn run(run: &'static str, round: usize, rate: f64, void: Option<&str>) -> RunReport {
        let (rate, void) = (Some(rate), void.map(str::to_owned));
        RunReport { run, round, measure: Measure { deliveries_per_cpu_second: rate, void, ..Measure::default() } }
    }

    #[test]
    fn void_runs_are_told_and_their_rounds_not_counted() {
        let gap = Some("client 1: closed with 1013 gap");
        let runs = vec![
            run("a", 1, 100.0, None),
            run("b", 1, 200.0, None),
            run("b", 2, 200.0, None),
            run("a", 2, 900.0, gap),
            run("a", 3, 120.0, None),
            run("b", 3, 200.0, None),
        ];
        let report = Report::new(Machine::read(), 1.0, 3, &[&ROW], runs);
        let row = &report.rows[0];
        assert_eq!((row.measured.map(|s| s.max), row.rounds, row.met), (Some(0.6), 2, Some(true)));
        assert_eq!(report.void_runs(), 1);
        let text = report.to_string();
        assert!(text.contains("| x | a / b | ≥ 0.5 | 0.55 (0.50 to 0.60), 2 rounds | met |"), "{text}");
        assert!(text.contains("- a, round 2: client 1: closed with 1013 gap"), "{text}");
    }

    #[test]
    fn a_row_without_a_figure_says_so() {
        let report = Report::new(Machine::read(), 0.5, 1, &[&ROW], vec![run("a", 1, 1.0, None)]);
        assert_eq!((report.rows[0].met, report.void_runs()), (None, 0));
        let text = report.to_string();
        assert!(
            text.contains("| – , 0 rounds | no figure |") || text.contains("| –, 0 rounds | no figure |"),
            "{text}"
        );
        assert!(text.contains("Only 0.5 of each load"));
    }
}
