//! The standard comparison: the gateway and the floor, in turns, on the same node, sockets and bytes.
//!
//! Owns the rounds. Each run is a fresh process, so that no run sees another's memory.

use std::process::Command;
use std::time::Duration;

use super::cores::{self, Cores};
use super::fleet::Fleet;
use super::node::Node;
use super::process::{Server, Usage};
use super::report::{Kind, Measure, Summary};
use super::{Probe, Subscription, Target, drive};

/// What is compared.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// Numbers of clients, each a comparison of its own.
    pub clients: Vec<usize>,
    /// Rounds; in each, every server runs once.
    pub rounds: usize,
    /// Blocks that are measured in a run; without, as many as make 200,000 deliveries.
    pub blocks: Option<usize>,
}

/// Deliveries of a run: about two seconds of a core, so that a tick of 10 ms is half a per cent.
const DELIVERIES: usize = 200_000;

/// Between a block's last delivery and the next block. Blocks have gaps on every chain; without any, a generator on one
/// core is nearly as busy as the floor.
const PAUSE: Duration = Duration::from_millis(5);

/// Runs all rounds. `progress` is told of each run as it ends.
pub fn compare(comparison: &Comparison, mut progress: impl FnMut(&str)) -> anyhow::Result<Vec<Summary>> {
    let cores = Cores::choose()?;
    cores::stay_on(cores.generator)?;
    let mut summaries = Vec::new();
    for &clients in &comparison.clients {
        let blocks = comparison.blocks.unwrap_or_else(|| DELIVERIES.div_ceil(clients.max(1)));
        let mut summary = Summary::new(clients, blocks);
        for round in 0..comparison.rounds {
            // Who comes first changes, in case the machine grows busier or quieter.
            let order = if round % 2 == 0 { [Kind::Floor, Kind::Chaincast] } else { [Kind::Chaincast, Kind::Floor] };
            for kind in order {
                let measure = run(kind, clients, blocks, cores)?;
                progress(&format!("{clients} clients, round {}: {} {measure}", round + 1, kind.name()));
                summary.add(kind, measure);
            }
        }
        summaries.push(summary);
    }
    Ok(summaries)
}

fn run(kind: Kind, clients: usize, blocks: usize, cores: Cores) -> anyhow::Result<Measure> {
    let node = Node::start()?;
    let server = Server::start(&mut command(kind, &node.url, clients)?, cores.server, cores.generator)?;
    node.wait_for_subscriber()?;
    let target = Target { address: server.address, host: server.address.to_string(), path: "/".into() };
    let before = Usage::of(server.pid())?;
    let mut fleet = Fleet::new(&target, Subscription::Heads)?;
    let connected = fleet.connect(clients);
    let idle = Usage::of(server.pid())?;
    let mut probe = Probe::new(Some(server.pid()), Some(before), Some(idle));
    // A block with a log shows the gateway that this chain's blooms are true, as they are on most real chains.
    let newest = node.mine(1);
    let next = |fleet: &mut Fleet| {
        std::thread::sleep(PAUSE);
        fleet.expect_block();
        node.mine(0);
    };
    let driven = connected.and_then(|()| drive(&mut fleet, blocks, Some(&newest), &mut probe, next));
    Ok(probe.measure(&fleet, blocks, driven.err()))
}

fn command(kind: Kind, url: &str, clients: usize) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    // What is measured must not hang on the caller's environment.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CHAINCAST__")) {
        command.env_remove(name);
    }
    match kind {
        Kind::Floor => {
            command.args(["bench", "serve-floor", "--upstream", url, "--clients", &clients.to_string()]);
        }
        Kind::Chaincast => {
            command.args(["run", "--upstream", url, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
            command.envs([("CHAINCAST__SERVER__SHARDS", "1"), ("CHAINCAST__LOG__FORMAT", "json")]);
        }
    }
    Ok(command)
}
