//! The commands. Each turns its flags into options, sets up logging and signals, and runs the app.
//!
//! Exit codes: 0 done, 2 the command line or the configuration is wrong, 1 anything that goes wrong later.

mod bench;
mod demo;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::prelude::*;

use crate::app::{self, Listeners};
use crate::config::{self, Config, Flags, LogFormat};
use crate::metrics::Metrics;

const FAILED: u8 = 1;
const WRONG: u8 = 2;

/// Fans the events of Ethereum-style nodes out to very many WebSocket clients.
#[derive(Debug, Parser)]
#[command(name = "chaincast", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway beside your nodes.
    Run(Run),
    /// Run the gateway on an embedded development chain; nothing else is needed.
    Demo(demo::Demo),
    /// Measure an endpoint's fan-out, or compare the gateway with other servers on this machine.
    Bench(bench::Bench),
    /// Check a configuration file: exit 0, or 2 with every mistake named by its key.
    Check {
        /// The file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// A node: ws:// or wss:// for heads and calls, http:// or https:// for calls only. May be given several times.
    #[arg(long, value_name = "URL")]
    upstream: Vec<String>,
    /// Where clients connect [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Where /metrics, /livez and /readyz are [default: 127.0.0.1:9464].
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// A TOML file; `config/chaincast.toml` explains every key.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where state is kept; without it all is in memory.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// What this process does; `all` is the only role so far.
    #[arg(long, value_enum, default_value_t = Role::All)]
    role: Role,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Role {
    /// Talks to the nodes and serves clients.
    All,
}

/// Runs the command of this process's command line.
#[must_use]
pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    // The soft limit is often 1,024, and every client is a descriptor. The cap on connections is a share of the limit,
    // so it is raised before the configuration is read.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        eprintln!("cannot raise the descriptor limit: {error}");
    }
    match command {
        Command::Run(run) => {
            let Role::All = run.role;
            let flags = Flags {
                config: run.config,
                upstreams: run.upstream,
                listen: run.listen,
                admin: run.admin,
                data_dir: run.data_dir,
            };
            match config::load(&flags, environment()) {
                Ok(config) => serve(config),
                Err(mistakes) => wrong(&mistakes),
            }
        }
        Command::Demo(demo) => demo::run(&demo),
        Command::Bench(bench) => bench::run(&bench),
        Command::Check { config } => {
            let file = config.display().to_string();
            let flags = Flags { config: Some(config), ..Flags::default() };
            match config::load(&flags, environment()) {
                Ok(_) => {
                    println!("{file}: the configuration is right");
                    ExitCode::SUCCESS
                }
                Err(mistakes) => wrong(&mistakes),
            }
        }
    }
}

/// The environment as far as it is text: what is not cannot be a key of ours.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

fn wrong(why: &impl std::fmt::Display) -> ExitCode {
    eprintln!("{why}");
    ExitCode::from(WRONG)
}

/// Runs the gateway until a signal.
fn serve(config: Config) -> ExitCode {
    if let Err(why) = init_logs(&config) {
        return wrong(&why);
    }
    let listeners = match Listeners::bind(&config.app) {
        Ok(listeners) => listeners,
        Err(why) => return wrong(&why),
    };
    block_on(async { app::run(config.app, listeners, Metrics::new(), stop_signal()?).await })
}

/// Runs to the end. What blocks in the background by then (a look-up of a host name) is not waited for.
fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = runtime.map_err(Into::into).and_then(|runtime| {
        let result = runtime.block_on(work);
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn init_logs(config: &Config) -> Result<(), String> {
    let asked = EnvFilter::try_new(&config.log.level).map_err(|e| format!("log.level: {e}"))?;
    // Below `info` the libraries name whole node URLs, keys included: whatever is asked for, that is not written.
    let harmless = filter_fn(|line| line.target().starts_with("chaincast") || *line.level() <= Level::INFO);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match config.log.format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(asked.and(harmless))).init();
    Ok(())
}

/// Ends when the process is told to stop. The handlers stand from the call on.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
