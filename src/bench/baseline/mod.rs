//! The comparison: the gateway beside the servers that are its yardsticks, in turns, on the same node, sockets and bytes.
//!
//! Owns the rounds. One process and one command, so that anyone can reproduce every ratio of docs/performance.md.
//! `jobs` has the runs, `rows` what is made of them, `ground` does a run.

mod certificate;
mod child;
mod cores;
mod filters;
mod ground;
mod jobs;
mod machine;
mod node;
mod report;
mod rows;
mod servers;
mod spread;

pub use report::Report;
pub use servers::{Peer, serve};

use cores::Cores;
use ground::Ground;
use jobs::{JOBS, Job};
use machine::Machine;
use report::RunReport;
use rows::{ROWS, Row};

/// What is compared, and how often.
#[derive(Debug, Clone)]
pub struct Baseline {
    /// Names of rows; none for all.
    pub only: Vec<String>,
    /// Rounds; in each, every run is done once.
    pub rounds: usize,
    /// The share of every load that is put on, above 0 and at most 1.
    pub scale: f64,
}

/// The names of all rows.
#[must_use]
pub fn row_names() -> Vec<&'static str> {
    ROWS.iter().map(|row| row.name).collect()
}

/// Runs all rounds. `progress` is told of each run as it ends.
pub fn baseline(baseline: &Baseline, mut progress: impl FnMut(&str)) -> anyhow::Result<Report> {
    let wanted = |row: &&Row| baseline.only.is_empty() || baseline.only.iter().any(|name| name == row.name);
    let rows: Vec<&Row> = ROWS.iter().filter(wanted).collect();
    let mut jobs: Vec<&Job> = JOBS.iter().filter(|job| rows.iter().any(|row| row.runs.contains(&job.name))).collect();
    let machine = Machine::read();
    progress(&machine.to_string());
    let cores = Cores::choose()?;
    cores::stay_on(cores.generator)?;
    let ground = Ground { cores, scale: baseline.scale };
    let mut runs = Vec::new();
    for round in 1..=baseline.rounds {
        for job in &jobs {
            let measure = ground.run(job);
            progress(&format!("round {round}: {}: {measure}", job.name));
            runs.push(RunReport { run: job.name, round, measure });
        }
        // Who comes first changes, in case the machine grows busier or quieter.
        jobs.reverse();
    }
    Ok(Report::new(machine, baseline.scale, baseline.rounds, &rows, runs))
}
