//! Measures what an endpoint spends on fanning events out: many clients, every event checked, CPU and memory beside it.
//!
//! Owns the load generator, the exactly-once check, the measures and the two servers of the standard comparison: this
//! program's own `run`, and a bare loop of `send` calls as the floor. Knows the gateway only by its command line and its
//! sockets; of the library it uses the development chain alone, as the node that both servers listen to.
//!
//! ```text
//!             core A                                  core B
//! Node ─ heads ─▶ [ server in a process of its own ] ─ frames ─▶ Fleet ─▶ Stream (exactly once?) ─▶ Measure
//!   ▲                                                              │
//!   └──────────── next block, once every client has this one ◀─────┘        (Node and Fleet share core A)
//! ```

#![allow(clippy::cast_precision_loss, reason = "figures for a report, far below 2^52")]

mod client;
mod compare;
mod cores;
mod fleet;
mod floor;
mod node;
mod process;
mod report;
mod stream;

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use anyhow::Context as _;

pub use compare::{Comparison, compare};
pub use floor::serve as serve_floor;
pub use report::{Measure, Summary};

use fleet::Fleet;
use process::Usage;

/// How long anything may stand still before a run is void.
const PATIENCE: Duration = Duration::from_secs(120);
/// Blocks before the measure starts: caches and buffers have then their size.
const WARM_UP: usize = 3;
/// Above this share of a core the generator may be what is measured.
const GENERATOR_SHARE_MAX: f64 = 0.9;

/// What every client subscribes to.
#[derive(Debug, Clone)]
pub enum Subscription {
    /// `newHeads`.
    Heads,
    /// `logs` with this filter, a JSON object.
    Logs(String),
}

/// One run against an endpoint that someone else started.
#[derive(Debug, Clone)]
pub struct Run {
    /// `ws://host:port/path`.
    pub url: String,
    /// Number of connections, each with one subscription.
    pub clients: usize,
    /// What they subscribe to.
    pub subscription: Subscription,
    /// Blocks to measure.
    pub blocks: usize,
    /// The server's process, if its CPU time and memory are to be measured.
    pub pid: Option<u32>,
}

/// Where clients connect.
#[derive(Debug, Clone)]
struct Target {
    address: SocketAddr,
    host: String,
    path: String,
}

impl Target {
    fn parse(url: &str) -> anyhow::Result<Self> {
        let rest = url.strip_prefix("ws://").context("--url: only ws:// can be measured")?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let full = if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
            host.to_owned()
        } else {
            format!("{host}:80")
        };
        let address = full.to_socket_addrs().context("--url: the host is not known")?.next();
        Ok(Self {
            address: address.context("--url: the host has no address")?,
            host: host.into(),
            path: format!("/{path}"),
        })
    }
}

/// Measures an endpoint that someone else feeds and runs.
pub fn measure(run: &Run) -> anyhow::Result<Measure> {
    let target = Target::parse(&run.url)?;
    let before = run.pid.map(Usage::of).transpose()?;
    let mut fleet = Fleet::new(&target, run.subscription.clone())?;
    let connected = fleet.connect(run.clients);
    let idle = run.pid.map(Usage::of).transpose()?;
    let mut probe = Probe::new(run.pid, before, idle);
    let driven = connected.and_then(|()| drive(&mut fleet, run.blocks, None, &mut probe, |_| {}));
    Ok(probe.measure(&fleet, run.blocks, driven.err()))
}

/// Takes the warm-up, the measured blocks and one more, which shows that nothing of the measured ones comes twice. Every
/// client has `newest` before it starts. `next` is called where another block is wanted. The error voids the run.
fn drive(
    fleet: &mut Fleet,
    blocks: usize,
    newest: Option<&str>,
    probe: &mut Probe,
    mut next: impl FnMut(&mut Fleet),
) -> Result<(), String> {
    let settled = fleet.settle(newest, PATIENCE)?;
    for number in 1..=WARM_UP + blocks + 1 {
        next(fleet);
        fleet.receive_blocks(settled + number, PATIENCE)?;
        if number == WARM_UP {
            fleet.start_measure();
            probe.start().map_err(|e| format!("{e:#}"))?;
        }
        if number == WARM_UP + blocks {
            probe.stop(fleet).map_err(|e| format!("{e:#}"))?;
        }
    }
    Ok(())
}

/// Reads the clocks of both sides at the start and the end of the measured blocks.
struct Probe {
    pid: Option<u32>,
    before: Option<Usage>,
    idle: Option<Usage>,
    started: Option<Reading>,
    stopped: Option<Reading>,
    deliveries: u64,
}

#[derive(Clone, Copy)]
struct Reading {
    at: Instant,
    server: Option<Usage>,
    generator: Usage,
}

impl Probe {
    fn new(pid: Option<u32>, before: Option<Usage>, idle: Option<Usage>) -> Self {
        Self { pid, before, idle, started: None, stopped: None, deliveries: 0 }
    }

    fn read(&self) -> anyhow::Result<Reading> {
        let server = self.pid.map(Usage::of).transpose()?;
        Ok(Reading { at: Instant::now(), server, generator: Usage::of(std::process::id())? })
    }

    fn start(&mut self) -> anyhow::Result<()> {
        self.started = Some(self.read()?);
        Ok(())
    }

    fn stop(&mut self, fleet: &mut Fleet) -> anyhow::Result<()> {
        self.stopped = Some(self.read()?);
        self.deliveries = fleet.stop_measure();
        Ok(())
    }

    /// The figures, as far as the run got.
    fn measure(&self, fleet: &Fleet, blocks: usize, void: Option<String>) -> Measure {
        let clients = fleet.len();
        let per_client = |bytes: u64| bytes as f64 / clients.max(1) as f64;
        let mut measure = Measure { clients, blocks, deliveries: self.deliveries, void, ..Measure::default() };
        if let (Some(before), Some(idle)) = (self.before, self.idle) {
            measure.rss_per_client_bytes = Some(per_client(idle.rss_bytes.saturating_sub(before.rss_bytes)));
        }
        let (Some(started), Some(stopped)) = (self.started, self.stopped) else { return measure };
        let wall = (stopped.at - started.at).as_secs_f64();
        measure.wall_seconds = wall;
        measure.generator_share = (stopped.generator.cpu_seconds - started.generator.cpu_seconds) / wall;
        measure.latency_ms = fleet.latency_ms();
        if let (Some(from), Some(to)) = (started.server, stopped.server) {
            let cpu = to.cpu_seconds - from.cpu_seconds;
            measure.cpu_seconds = Some(cpu);
            measure.deliveries_per_cpu_second = Some(self.deliveries as f64 / cpu);
        }
        if measure.generator_share > GENERATOR_SHARE_MAX {
            let why = format!("the generator was {:.1} % busy", measure.generator_share * 100.0);
            measure.void.get_or_insert(why);
        }
        measure
    }
}
