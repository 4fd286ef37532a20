//! `chaincast bench`: measures an endpoint, or compares the gateway with other servers on this machine.
//!
//! Owns the flags and where results go: the report to standard output, progress to standard error.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{FAILED, wrong};
use crate::bench::{self, Baseline, Mode, Peer, Run, Subscription};

/// The flags of `bench`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag")]
pub(super) struct Bench {
    /// Measure this WebSocket endpoint, whose node makes the blocks.
    #[arg(long, value_name = "WS_URL", required_unless_present = "baseline", conflicts_with = "baseline")]
    url: Option<String>,
    /// Take any certificate of a wss:// endpoint; none is checked otherwise either, so wss:// needs this.
    #[arg(long, requires = "url")]
    insecure: bool,
    /// Connections, each with one subscription.
    #[arg(long, value_name = "N", default_value_t = 1_000, requires = "url")]
    clients: usize,
    /// Blocks to measure.
    #[arg(long, value_name = "N", default_value_t = 10, requires = "url")]
    blocks: usize,
    /// Subscribe to newHeads; the default.
    #[arg(long, conflicts_with = "logs", requires = "url")]
    heads: bool,
    /// Subscribe to logs.
    #[arg(long, requires = "url")]
    logs: bool,
    /// The filter of the logs.
    #[arg(long, value_name = "JSON", default_value = "{}", requires = "logs")]
    filter: String,
    /// So many per cent of further clients that subscribe and never read.
    #[arg(long, value_name = "PERCENT", default_value_t = 0, requires = "url", conflicts_with_all = ["storm", "idle"])]
    stuck: usize,
    /// Offer permessage-deflate, which the endpoint must take.
    #[arg(long, requires = "url")]
    compress: bool,
    /// Only connect and subscribe, as fast as the endpoint takes it.
    #[arg(long, requires = "url", conflicts_with = "idle")]
    storm: bool,
    /// Only connect and subscribe, and let all go again: what that leaves of the memory of --pid.
    #[arg(long, requires_all = ["url", "pid"])]
    idle: bool,
    /// The endpoint's process: measures its CPU time and memory.
    #[arg(long, value_name = "PID", requires = "url")]
    pid: Option<u32>,
    /// Compare the gateway with a bare `send` loop and with other servers, and print the table of docs/performance.md.
    #[arg(long)]
    baseline: bool,
    /// Rows of the table [default: all].
    #[arg(long, value_name = "ROW", value_delimiter = ',', requires = "baseline")]
    only: Vec<String>,
    /// Rounds of the comparison.
    #[arg(long, value_name = "N", default_value_t = 5, requires = "baseline")]
    rounds: usize,
    /// The share of every load of the comparison that is put on, for a quick look.
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, requires = "baseline")]
    scale: f64,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// A server of the comparison, in the process of its own that `bench` starts.
    #[command(hide = true)]
    Serve {
        peer: Peer,
        #[arg(long)]
        upstream: String,
        #[arg(long)]
        clients: usize,
    },
}

/// Runs the command.
pub(super) fn run(bench: &Bench) -> ExitCode {
    if let Err(why) = check(bench) {
        return wrong(&why);
    }
    let result = match (&bench.part, &bench.url) {
        (Some(Part::Serve { peer, upstream, clients }), _) => {
            bench::serve(*peer, upstream, *clients).map(|()| ExitCode::SUCCESS)
        }
        (None, Some(url)) => measure(bench, url),
        (None, None) => compare(bench),
    };
    result.unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::from(FAILED)
    })
}

fn check(bench: &Bench) -> Result<(), String> {
    if bench.clients == 0 || bench.blocks == 0 || bench.rounds == 0 {
        return Err("--clients, --blocks, --rounds: at least 1".into());
    }
    if bench.scale <= 0.0 || bench.scale > 1.0 {
        return Err("--scale: above 0, and at most 1".into());
    }
    if serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&bench.filter).is_err() {
        return Err("--filter: a JSON object".into());
    }
    let rows = bench::row_names();
    match bench.only.iter().find(|name| !rows.contains(&name.as_str())) {
        Some(name) => Err(format!("--only: there is no row {name}; there are {}", rows.join(", "))),
        None => Ok(()),
    }
}

fn measure(bench: &Bench, url: &str) -> anyhow::Result<ExitCode> {
    let mode = match (bench.storm, bench.idle) {
        (true, _) => Mode::Storm,
        (_, true) => Mode::Idle,
        _ => Mode::Deliveries,
    };
    let subscription = if bench.logs { Subscription::Logs(bench.filter.clone()) } else { Subscription::Heads };
    let measure = bench::measure(&Run {
        url: url.to_owned(),
        insecure: bench.insecure,
        mode,
        clients: bench.clients,
        stuck_percent: bench.stuck,
        subscription,
        compress: bench.compress,
        blocks: bench.blocks,
        pid: bench.pid,
    })?;
    if bench.json {
        println!("{}", serde_json::to_string_pretty(&measure)?);
    } else {
        println!("{measure}");
    }
    Ok(verdict(usize::from(measure.void.is_some())))
}

fn compare(bench: &Bench) -> anyhow::Result<ExitCode> {
    let baseline = Baseline { only: bench.only.clone(), rounds: bench.rounds, scale: bench.scale };
    let report = bench::baseline(&baseline, |line| eprintln!("{line}"))?;
    if bench.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
    }
    Ok(verdict(report.void_runs()))
}

/// A void run is a failure: what was measured is not what the report would say.
fn verdict(void_runs: usize) -> ExitCode {
    if void_runs == 0 { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
}
