//! Does the runs of the comparison: a fresh node and a fresh server for each, so that no run sees another's memory.
//!
//! Owns how the servers are started and what each kind of run does. What runs there are is in `jobs`.

use std::process::Command;
use std::time::Duration;

use super::certificate::Certificate;
use super::child::Server;
use super::cores::Cores;
use super::filters;
use super::jobs::{Deliveries, Job, Side, Traffic, Work};
use super::node::Node;
use crate::bench::drive;
use crate::bench::endpoint::Endpoint;
use crate::bench::load::{Arrival, Fleet, Goal, Plan, any_certificate};
use crate::bench::measure::{Measure, Reading};
use crate::bench::progress::Progress;
use crate::bench::run::Subscription;
use crate::bench::stuck::StuckClients;

/// Deliveries of a run of heads: some two seconds of a core.
const HEADS: usize = 400_000;
/// Deliveries of a run of bursts: one to three seconds.
const LOGS: usize = 8_000_000;
/// Blocks of a run that is about latencies.
const LATENCY_BLOCKS: usize = 60;
/// Blocks of the run with one client.
const EXTRA_BLOCKS: usize = 200;
/// Blocks that may pass until clients that never read are full.
const FILL_BLOCKS: usize = 2_000;
/// Between a block's last delivery and the next block. Blocks have gaps on every chain; without any, a generator on one
/// core is nearly as busy as the floor.
const PAUSE: Duration = Duration::from_millis(5);
/// The same where a block is very many events: the floor needs one write for what the generator checks one by one.
const BURST_PAUSE: Duration = Duration::from_millis(20);
/// Requests of a batch; the gateway's default bound.
const BATCH: usize = 20;
/// Descriptors of a process that are no clients.
const OTHER_DESCRIPTORS: u64 = 200;

/// Bounds that a client who never reads would pass while others are measured. With the defaults it would be closed.
const NEVER_CLOSED: [(&str, &str); 4] = [
    ("CHAINCAST__LIMITS__LAG_MAX_BLOCKS", "1000000"),
    ("CHAINCAST__LIMITS__LAG_MAX", "30m"),
    ("CHAINCAST__LIMITS__WRITE_STALL_MAX", "30m"),
    ("CHAINCAST__LIMITS__TCP_USER_TIMEOUT", "30m"),
];

/// Variables for a server's environment.
type Env<'a> = &'a [(&'a str, &'a str)];

fn told<E: std::fmt::Display>(error: E) -> String {
    format!("{error:#}")
}

/// Where runs are done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ground {
    pub(super) cores: Cores,
    /// The share of every load that is put on, from 0 to 1.
    pub(super) scale: f64,
}

/// A node, a server on it, and the server's address. The server ends first: to lose its node is not what it is asked.
struct Stage {
    server: Server,
    node: Node,
    target: Endpoint,
}

impl Ground {
    /// Does a run; its measure says if it came to nothing.
    pub(super) fn run(self, job: &Job) -> Measure {
        let clients = self.scaled(job.clients).min(descriptors());
        let mut measure = Measure { clients, ..Measure::default() };
        let done = match job.work {
            Work::Deliveries(what) => self.deliveries(job, what, clients, &mut measure),
            Work::Stuck { percent } => self.stuck(job, clients, percent, &mut measure),
            Work::Idle { tls } => self.idle(job, clients, tls, &mut measure),
            Work::Storm { side } => self.storm(job, side, clients, &mut measure),
            Work::Extra => self.extra(job, &mut measure),
            Work::Filters { each } => self.filters(job, clients, each, &mut measure),
            Work::Matching { few, many } => {
                let (few, many) = (self.scaled(few as usize), self.scaled(many as usize));
                filters::matching(number(few), number(many)).map(|done| measure = done)
            }
            Work::Upkeep { filters } => {
                measure = filters::upkeep(number(self.scaled(filters as usize)));
                Ok(())
            }
        };
        if let Err(why) = done {
            measure.void.get_or_insert(why);
        }
        measure
    }

    /// So many, or their share; never so few that there is nothing to compare.
    fn scaled(self, count: usize) -> usize {
        let scaled = (count as f64 * self.scale).round();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not greater than a count")]
        let scaled = scaled as usize;
        scaled.max(count.min(20))
    }

    fn stage(self, side: Side, clients: usize, env: Env<'_>) -> Result<Stage, String> {
        let node = Node::start().map_err(told)?;
        let mut command = command(side, &node.url, clients, env).map_err(told)?;
        let server = Server::start(&mut command, self.cores.server, self.cores.generator)?;
        if side != Side::Peer(super::Peer::Accept) {
            node.wait_for_subscriber().map_err(told)?;
        }
        let target = Endpoint::local(server.address());
        Ok(Stage { server, node, target })
    }

    fn deliveries(self, job: &Job, what: Deliveries, clients: usize, measure: &mut Measure) -> Result<(), String> {
        let Deliveries { side, traffic, deflate } = what;
        let env: Env<'_> = if deflate { &[("CHAINCAST__SERVER__COMPRESSION", "true")] } else { &[] };
        let stage = self.stage(side, clients, env)?;
        let pid = Some(stage.server.pid());
        let request = requests(traffic, &stage.node.emitter());
        let plan = Plan { deflate, ..Plan::each(&stage.target, request) };
        let mut fleet = Fleet::new(plan, Progress::new(job.name)).map_err(told)?;
        drive::connect(&mut fleet, clients, pid, measure)?;
        let mut chain = Chain::begin(&stage.node, &mut fleet, traffic)?;
        let deliveries = if chain.logs == 0 { HEADS } else { LOGS };
        let blocks = self.scaled(deliveries.div_ceil(job.clients * chain.logs.max(1)));
        drive::blocks(&mut fleet, blocks, pid, measure, |fleet| chain.next(fleet))
    }

    fn stuck(self, job: &Job, clients: usize, percent: usize, measure: &mut Measure) -> Result<(), String> {
        let stage = self.stage(Side::Chaincast, clients, &NEVER_CLOSED)?;
        let (pid, request) = (Some(stage.server.pid()), Subscription::Heads.request());
        let plan = Plan::new(&stage.target, vec![request.clone()]);
        let mut fleet = Fleet::new(plan, Progress::new(job.name)).map_err(told)?;
        drive::connect(&mut fleet, clients, pid, measure)?;
        let stuck = StuckClients::connect(&stage.target, &request, (clients * percent).div_ceil(100))?;
        let mut chain = Chain::begin(&stage.node, &mut fleet, Traffic::Heads)?;
        let held = || stage.server.gauge("chaincast_outbox_clients").map_err(told);
        let mut filled = 0;
        while held()? < stuck.len() {
            chain.next(&mut fleet)?;
            filled += 1;
            if filled > FILL_BLOCKS {
                return Err(format!("only {} of {} stuck clients were full in time", held()?, stuck.len()));
            }
        }
        let blocks = self.scaled(LATENCY_BLOCKS);
        drive::blocks(&mut fleet, blocks, pid, measure, |fleet| chain.next(fleet))?;
        if percent == 0 {
            return Ok(());
        }
        let still = stuck.with_full(held()?.min(stuck.len()));
        measure.stuck = Some(still);
        if still.full < still.clients { Err("stuck clients did not stay stuck".into()) } else { Ok(()) }
    }

    fn idle(self, job: &Job, clients: usize, tls: bool, measure: &mut Measure) -> Result<(), String> {
        let most = (clients + 100).to_string();
        let mut env = vec![("CHAINCAST__LIMITS__CONNECTIONS_MAX", most.as_str())];
        let certificate = tls.then(Certificate::new).transpose().map_err(told)?;
        env.extend(certificate.iter().flat_map(Certificate::env));
        let mut stage = self.stage(Side::Chaincast, clients, &env)?;
        stage.target.tls = tls.then(any_certificate).transpose().map_err(told)?;
        let plan = Plan::new(&stage.target, vec![Subscription::Heads.request()]);
        let fleet = Fleet::new(plan, Progress::new(job.name)).map_err(told)?;
        drive::idle(fleet, clients, stage.server.pid(), measure)
    }

    fn storm(self, job: &Job, side: Side, clients: usize, measure: &mut Measure) -> Result<(), String> {
        let stage = self.stage(side, clients, &[])?;
        let plan = Plan::new(&stage.target, vec![Subscription::Heads.request()]);
        let mut fleet = Fleet::new(plan, Progress::new(job.name)).map_err(told)?;
        drive::storm(&mut fleet, clients, Some(stage.server.pid()), measure)
    }

    /// One client at the node and one at the gateway, both with the same check.
    fn extra(self, job: &Job, measure: &mut Measure) -> Result<(), String> {
        let stage = self.stage(Side::Chaincast, 1, &[])?;
        let direct = Endpoint::parse(&stage.node.url, false).map_err(told)?;
        let plan = Plan {
            targets: vec![direct, stage.target],
            ..Plan::new(&Endpoint::local(stage.server.address()), vec![Subscription::Heads.request()])
        };
        let mut fleet = Fleet::new(plan, Progress::new(job.name)).map_err(told)?;
        fleet.connect(2)?;
        let mut chain = Chain::begin(&stage.node, &mut fleet, Traffic::Heads)?;
        fleet.note_arrivals();
        for _ in 0..self.scaled(EXTRA_BLOCKS) {
            chain.next(&mut fleet)?;
        }
        let mut extra = extra_ms(fleet.arrivals());
        extra.sort_by(f64::total_cmp);
        measure.clients = 1;
        measure.blocks = Some(extra.len());
        measure.more.insert("extra_ms_p50", extra[extra.len() / 2]);
        measure.more.insert("extra_ms_p99", extra[extra.len() * 99 / 100]);
        Ok(())
    }

    fn filters(self, job: &Job, clients: usize, each: usize, measure: &mut Measure) -> Result<(), String> {
        let each_text = each.to_string();
        let env = [
            ("CHAINCAST__LIMITS__SUBSCRIPTIONS_PER_CONNECTION", each_text.as_str()),
            ("CHAINCAST__LIMITS__SUBSCRIPTIONS_PER_ADDRESS", "1000000"),
            ("CHAINCAST__LIMITS__SUBSCRIBES_PER_SECOND", "1000000"),
        ];
        let stage = self.stage(Side::Chaincast, clients, &env)?;
        let plan = Plan::new(&stage.target, vec![]);
        let mut fleet = Fleet::new(plan, Progress::new(job.name)).map_err(told)?;
        fleet.connect(clients)?;
        let pid = Some(stage.server.pid());
        let before = Reading::take(pid, &fleet)?;
        fleet.ask(|client| batches(client, each))?;
        let after = Reading::take(pid, &fleet)?;
        let filters = clients * each;
        let cpu = after.since(&before).1.ok_or("the server's process is not known")?;
        measure.more.insert("cpu_us", cpu * 1e6 / filters as f64);
        measure.more.insert("rss_bytes", after.growth_each(&before, filters).unwrap_or_default());
        Ok(())
    }
}

/// The node's chain as it grows under a run: the next block comes when every client has this one.
struct Chain<'a> {
    node: &'a Node,
    /// Logs of a block; 0 where heads are what is delivered.
    logs: usize,
    events: u32,
}

impl<'a> Chain<'a> {
    /// Makes the first block and waits until every client has it. With a log in it, it shows the gateway that this chain's
    /// blooms are true, as they are on most real chains.
    fn begin(node: &'a Node, fleet: &mut Fleet, traffic: Traffic) -> Result<Self, String> {
        let logs = match traffic {
            Traffic::Heads => 0,
            Traffic::Logs { a_block, .. } => a_block,
        };
        let newest = node.mine(logs.max(1));
        if logs == 0 {
            fleet.settle(Some(&newest), true)?;
        } else {
            fleet.receive(Goal::Events(number(logs)))?;
        }
        Ok(Self { node, logs, events: fleet.events() })
    }

    fn next(&mut self, fleet: &mut Fleet) -> Result<(), String> {
        std::thread::sleep(if self.logs > 1 { BURST_PAUSE } else { PAUSE });
        fleet.expect_block();
        self.node.mine(self.logs);
        self.events += number(self.logs.max(1));
        fleet.receive(Goal::Events(self.events))
    }
}

/// What a client asks for, by its number.
fn requests(traffic: Traffic, emitter: &str) -> impl Fn(usize) -> Vec<String> + 'static {
    let emitter = emitter.to_owned();
    move |client| {
        let subscription = match traffic {
            Traffic::Heads => Subscription::Heads,
            Traffic::Logs { own_filters: false, .. } => Subscription::Logs(format!(r#"{{"address":"{emitter}"}}"#)),
            Traffic::Logs { own_filters: true, .. } => {
                Subscription::Logs(format!(r#"{{"address":["{emitter}","0x{client:040x}"]}}"#))
            }
        };
        vec![subscription.request()]
    }
}

/// Subscriptions to a client's own filters, some in each message.
fn batches(client: usize, each: usize) -> Vec<String> {
    let numbers: Vec<usize> = (client * each..(client + 1) * each).collect();
    let batch = |numbers: &[usize]| {
        let one = |n: &usize| Subscription::Logs(filters::filter_json(number(*n))).request();
        format!("[{}]", numbers.iter().map(one).collect::<Vec<_>>().join(","))
    };
    numbers.chunks(BATCH).map(batch).collect()
}

/// By how much the client at the gateway had each event later than the one at the node, in milliseconds.
fn extra_ms(arrivals: &[Arrival]) -> Vec<f64> {
    let (direct, through): (Vec<&Arrival>, Vec<&Arrival>) = arrivals.iter().partition(|arrival| arrival.client == 0);
    let late = |(direct, through): (&Arrival, &Arrival)| {
        assert_eq!(direct.event, through.event, "both have all events in order");
        let late = through.at.saturating_duration_since(direct.at).as_secs_f64();
        let early = direct.at.saturating_duration_since(through.at).as_secs_f64();
        (late - early) * 1000.0
    };
    direct.into_iter().zip(through).map(late).collect()
}

/// The clients that this process, and a server like it, can have.
fn descriptors() -> usize {
    let limit = rlimit::Resource::NOFILE.get_soft().unwrap_or(1024);
    usize::try_from(limit.saturating_sub(OTHER_DESCRIPTORS)).unwrap_or(usize::MAX)
}

fn number(count: usize) -> u32 {
    u32::try_from(count).expect("loads are far below 2^32")
}

fn command(side: Side, url: &str, clients: usize, env: Env<'_>) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    // What is measured must not hang on the caller's environment.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CHAINCAST__")) {
        command.env_remove(name);
    }
    match side {
        Side::Peer(peer) => {
            command.args(["bench", "serve", peer.name(), "--upstream", url, "--clients", &clients.to_string()]);
        }
        Side::Chaincast => {
            command.args(["run", "--upstream", url, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
            command.envs([("CHAINCAST__SERVER__SHARDS", "1"), ("CHAINCAST__LOG__FORMAT", "json")]);
            command.envs(env.iter().copied());
        }
    }
    Ok(command)
}
