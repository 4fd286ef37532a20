//! One run against an endpoint that someone else started: ours, a node, a peer.
//!
//! Owns what the modes of `--url` do. Blocks come when they come.

use std::time::{Duration, Instant};

use super::drive;
use super::endpoint::Endpoint;
use super::load::{Fleet, Goal, Plan};
use super::measure::Measure;
use super::process::Usage;
use super::progress::Progress;
use super::stuck::{self, StuckClients};

/// How long blocks are waited for that fill the sockets of clients that do not read.
const FILL_MAX: Duration = Duration::from_secs(60);

/// What every client subscribes to.
#[derive(Debug, Clone)]
pub enum Subscription {
    /// `newHeads`.
    Heads,
    /// `logs` with this filter, a JSON object.
    Logs(String),
}

impl Subscription {
    pub(super) fn request(&self) -> String {
        let params = match self {
            Self::Heads => r#"["newHeads"]"#.to_owned(),
            Self::Logs(filter) => format!(r#"["logs",{filter}]"#),
        };
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"eth_subscribe","params":{params}}}"#)
    }

    fn one_a_block(&self) -> bool {
        matches!(self, Self::Heads)
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// What deliveries cost and how late they are.
    Deliveries,
    /// The memory of clients that get nothing, and what is left of it when they have gone.
    Idle,
    /// What connecting and subscribing cost.
    Storm,
}

/// One run against an endpoint that someone else started.
#[derive(Debug, Clone)]
pub struct Run {
    /// `ws://host:port/path`, or `wss`.
    pub url: String,
    /// Whether a certificate need not be checked; none is.
    pub insecure: bool,
    /// What is measured.
    pub mode: Mode,
    /// Number of connections, each with one subscription.
    pub clients: usize,
    /// Further connections that never read, in per cent of `clients`.
    pub stuck_percent: usize,
    /// What they subscribe to.
    pub subscription: Subscription,
    /// Whether clients offer permessage-deflate.
    pub compress: bool,
    /// Blocks to measure.
    pub blocks: usize,
    /// The server's process, if its CPU time and memory are to be measured.
    pub pid: Option<u32>,
}

/// Measures an endpoint that someone else feeds and runs.
pub fn measure(run: &Run) -> anyhow::Result<Measure> {
    let target = Endpoint::parse(&run.url, run.insecure)?;
    if let Some(pid) = run.pid {
        Usage::of(pid)?;
    }
    let plan = Plan { deflate: run.compress, ..Plan::new(&target, vec![run.subscription.request()]) };
    let mut fleet = Fleet::new(plan, Progress::new("bench"))?;
    let mut measure = Measure { clients: run.clients, ..Measure::default() };
    let done = match run.mode {
        Mode::Deliveries => deliveries(run, &target, &mut fleet, &mut measure),
        Mode::Storm => drive::storm(&mut fleet, run.clients, run.pid, &mut measure),
        Mode::Idle => match run.pid {
            Some(pid) => drive::idle(fleet, run.clients, pid, &mut measure),
            None => anyhow::bail!("--idle needs the server's --pid"),
        },
    };
    if let Err(why) = done {
        measure.void.get_or_insert(why);
    }
    Ok(measure)
}

fn deliveries(run: &Run, target: &Endpoint, fleet: &mut Fleet, measure: &mut Measure) -> Result<(), String> {
    drive::connect(fleet, run.clients, run.pid, measure)?;
    let stuck = match (run.clients * run.stuck_percent).div_ceil(100) {
        0 => None,
        clients => Some(StuckClients::connect(target, &run.subscription.request(), clients)?),
    };
    let one_a_block = run.subscription.one_a_block();
    fleet.settle(None, one_a_block)?;
    let mut blocks = fleet.blocks();
    let mut next = |fleet: &mut Fleet| {
        blocks += 1;
        fleet.receive(Goal::Blocks { blocks, one_a_block })
    };
    if let Some(stuck) = &stuck {
        let (started, from) = (Instant::now(), fleet.received().1);
        let due = |fleet: &Fleet| {
            let each = (fleet.received().1 - from) / run.clients as u64;
            stuck.when_due(each * stuck::SUBSCRIPTIONS as u64)
        };
        while due(fleet).full < stuck.len() && started.elapsed() < FILL_MAX {
            next(fleet)?;
        }
        measure.stuck = Some(due(fleet));
    }
    drive::blocks(fleet, run.blocks, run.pid, measure, next)
}
