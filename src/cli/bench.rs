//! `chaincast bench`: measures an endpoint, or compares the gateway with a bare `send` loop on this machine.
//!
//! Owns the flags and where results go: the report to standard output, progress to standard error.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{FAILED, wrong};
use crate::bench::{self, Comparison, Run, Subscription};

/// The flags of `bench`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Bench {
    /// Measure this WebSocket endpoint, whose node makes the blocks [default: compare the gateway with a bare loop].
    #[arg(long, value_name = "WS_URL")]
    url: Option<String>,
    /// Connections, each with one subscription; with commas several comparisons [default: 1000,5000, with --url 1000].
    #[arg(long, value_name = "N", value_delimiter = ',')]
    clients: Vec<usize>,
    /// Blocks to measure [default: as many as make 200,000 deliveries, with --url 10].
    #[arg(long, value_name = "N")]
    blocks: Option<usize>,
    /// Subscribe to newHeads; the default.
    #[arg(long, conflicts_with = "logs")]
    heads: bool,
    /// Subscribe to logs.
    #[arg(long, requires = "url")]
    logs: bool,
    /// The filter of the logs.
    #[arg(long, value_name = "JSON", default_value = "{}", requires = "logs")]
    filter: String,
    /// The server's process: measures its CPU time and memory.
    #[arg(long, value_name = "PID", requires = "url")]
    pid: Option<u32>,
    /// Rounds of the comparison.
    #[arg(long, value_name = "N", default_value_t = 5, conflicts_with = "url")]
    rounds: usize,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// The bare loop of the comparison, in the process of its own that `bench` starts.
    #[command(hide = true)]
    ServeFloor {
        #[arg(long)]
        upstream: String,
        #[arg(long)]
        clients: usize,
    },
}

/// Runs the command.
pub(super) fn run(bench: &Bench) -> ExitCode {
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        eprintln!("cannot raise the descriptor limit: {error}");
    }
    if bench.clients.contains(&0) || bench.blocks == Some(0) || bench.rounds == 0 {
        return wrong(&"--clients, --blocks, --rounds: at least 1");
    }
    if serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&bench.filter).is_err() {
        return wrong(&"--filter: a JSON object");
    }
    let result = match (&bench.part, &bench.url) {
        (Some(Part::ServeFloor { upstream, clients }), _) => {
            bench::serve_floor(upstream, *clients).map(|()| ExitCode::SUCCESS)
        }
        (None, Some(url)) => measure(bench, url),
        (None, None) => compare(bench),
    };
    result.unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::from(FAILED)
    })
}

fn measure(bench: &Bench, url: &str) -> anyhow::Result<ExitCode> {
    let clients = match bench.clients[..] {
        [] => 1_000,
        [clients] => clients,
        _ => return Ok(wrong(&"--clients: one number with --url")),
    };
    let subscription = if bench.logs { Subscription::Logs(bench.filter.clone()) } else { Subscription::Heads };
    let run = Run { url: url.to_owned(), clients, subscription, blocks: bench.blocks.unwrap_or(10), pid: bench.pid };
    let measure = bench::measure(&run)?;
    if bench.json {
        println!("{}", serde_json::to_string_pretty(&measure)?);
    } else {
        println!("{} clients, {} blocks: {measure}", measure.clients, measure.blocks);
    }
    Ok(verdict(usize::from(measure.void.is_some())))
}

fn compare(bench: &Bench) -> anyhow::Result<ExitCode> {
    let clients = if bench.clients.is_empty() { vec![1_000, 5_000] } else { bench.clients.clone() };
    let comparison = Comparison { clients, rounds: bench.rounds, blocks: bench.blocks };
    let summaries = bench::compare(&comparison, |line| eprintln!("{line}"))?;
    if bench.json {
        println!("{}", serde_json::to_string_pretty(&summaries)?);
    } else {
        summaries.iter().for_each(|summary| println!("{summary}"));
    }
    Ok(verdict(summaries.iter().map(bench::Summary::void_runs).sum()))
}

/// A void run is a failure: what was measured is not what the report would say.
fn verdict(void_runs: usize) -> ExitCode {
    if void_runs == 0 { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
}
