//! Clients that misbehave, before a gateway in a process of its own that serves a crowd which does not: the crowd stays
//! exact, the process stays small, each misbehaving client ends for the reason that is documented, and afterwards nothing
//! is held for anybody.
//!
//! Owns the scene: the chain, its node, the gateway, the crowd, and what must be as it was in the end.

mod closing;
mod filters;
mod large;
mod reader;
mod script;
mod shards;
mod stuck;
mod talking;

use std::collections::BTreeMap;
use std::sync::Arc;

use chaincast::devnode::{DevNode, DevOptions, SharedChain};

use crate::harness::client::Client;
use crate::harness::stage::{CHAIN, new_node};
use crate::harness::{Crowd, http, until};
use crate::operations::daemon::Daemon;

use reader::Reader;
use script::{Script, Wish};

/// Descriptors of this process at least, and of the gateway, which inherits its limit.
const DESCRIPTORS: u64 = 19_000;
/// What the tests ask of one address is what a crowd asks of many.
const OPEN: [(&str, &str); 11] = [
    ("limits.connections_per_address", "100000"),
    ("limits.connects_per_second", "100000"),
    ("limits.connects_burst", "100000"),
    ("limits.subscriptions_per_connection", "1000"),
    ("limits.subscriptions_per_address", "10000000"),
    ("limits.subscribes_per_second", "1000000"),
    ("limits.messages_per_second", "1000000"),
    ("limits.messages_burst", "1000000"),
    ("limits.calls_per_second", "1000000"),
    ("limits.calls_burst", "1000000"),
    ("limits.batch_max", "1000"),
];
/// Gauges of what is held for clients.
const HELD: [&str; 5] = [
    "chaincast_clients",
    "chaincast_subscriptions",
    "chaincast_streams",
    "chaincast_outbox_clients",
    "chaincast_outbox_bytes",
];

/// What the gateway says of itself at one moment, by series, as far as it is whole numbers.
struct Reading(BTreeMap<String, i64>);

impl Reading {
    fn of(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let series = lines.filter_map(|line| line.rsplit_once(' '));
        let whole = series.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
        Self(whole.collect())
    }

    /// All series of this name together.
    fn sum(&self, name: &str) -> i64 {
        let is_it = |series: &str| series.split('{').next() == Some(name);
        self.0.iter().filter(|(series, _)| is_it(series)).map(|(_, value)| value).sum()
    }

    /// The same, where it cannot be negative.
    fn count(&self, name: &str) -> usize {
        usize::try_from(self.sum(name)).expect("it is a count")
    }

    /// What is held for clients.
    fn held(&self) -> [i64; 5] {
        HELD.map(|name| self.sum(name))
    }

    /// Connections that ended, by reason.
    fn closes(&self) -> BTreeMap<String, i64> {
        let prefix = format!("chaincast_closes_total{{chain=\"{CHAIN}\",reason=\"");
        let ends = self.0.iter().filter_map(|(series, count)| Some((series.strip_prefix(&prefix)?, count)));
        ends.map(|(rest, count)| (rest.trim_end_matches("\"}").to_owned(), *count)).collect()
    }
}

struct Scene {
    script: Arc<Script>,
    chain: SharedChain,
    /// Kept for its connection.
    _node: DevNode,
    daemon: Daemon,
    /// What was held before anybody came.
    before: [i64; 5],
    /// Subscriptions of those who behave.
    subscriptions: usize,
    /// What the process had once the crowd was there.
    memory_mib: u64,
    crowd: Crowd,
    /// Who gets everything, and says when the next block may come.
    pace: Reader,
}

impl Scene {
    /// With a crowd of so many clients on heads and as many on logs.
    async fn start(each: usize, keys: &[(&str, &str)]) -> Self {
        Self::on(DevOptions { pending_per_block: 0, ..DevOptions::default() }, each, keys).await
    }

    /// The same on a chain of this layout.
    async fn on(options: DevOptions, each: usize, keys: &[(&str, &str)]) -> Self {
        let descriptors = rlimit::increase_nofile_limit(DESCRIPTORS).expect("the limit can be read");
        assert!(descriptors >= 8_000, "crowds need 8,000 descriptors, the hard limit here is {descriptors}");
        let chain = SharedChain::new(options);
        let node = new_node(&chain);
        let name = |key: &str| format!("CHAINCAST__{}", key.to_uppercase().replace('.', "__"));
        let open = OPEN.iter().filter(|(key, _)| keys.iter().all(|(other, _)| other != key));
        let keys: Vec<_> = open.chain(keys).map(|(key, value)| (name(key), *value)).collect();
        let keys: Vec<_> = keys.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let daemon = Daemon::run(&[&node.ws_url()], &keys).await;
        daemon.ready().await;
        daemon.logs_are_there(CHAIN).await;
        let before = reading(&daemon).await.held();
        let crowd = Crowd::start(&daemon.ws_url(), &chain, each).await;
        let script = Arc::new(Script::new(chain.clone()));
        let mut pace = Reader::new(Client::connect(&daemon.ws_url()).await, Arc::clone(&script));
        pace.subscribe(vec![Wish::Heads, Wish::all_logs()]).await;
        let memory_mib = daemon.memory_mib("VmRSS");
        let mut scene = Self { script, chain, _node: node, daemon, before, subscriptions: 0, memory_mib, crowd, pace };
        scene.block(5).await;
        scene.subscriptions = scene.reading().await.count("chaincast_subscriptions");
        scene
    }

    /// A block with so many logs is mined, and has come to one that gets everything.
    async fn block(&mut self, logs: usize) {
        self.chain.mine(logs);
        self.pace.reach().await;
    }

    /// Somebody new.
    async fn client(&self) -> Client {
        Client::connect(&self.daemon.ws_url()).await
    }

    /// Somebody new who holds what comes against the script.
    async fn reader(&self) -> Reader {
        Reader::new(self.client().await, Arc::clone(&self.script))
    }

    /// The same over a socket that is soon full.
    async fn narrow_reader(&self) -> Reader {
        Reader::new(Client::narrow(self.daemon.public).await, Arc::clone(&self.script))
    }

    async fn reading(&self) -> Reading {
        reading(&self.daemon).await
    }

    /// Waits until at least so many clients have full sockets.
    async fn behind(&mut self, clients: usize) {
        let full = async || self.look().await.count("chaincast_outbox_clients") >= clients;
        until(&format!("{clients} clients are behind"), full).await;
    }

    /// Waits until nobody but those who behave has subscriptions.
    async fn all_given_up(&mut self) {
        let wanted = self.subscriptions;
        let left = async || self.look().await.count("chaincast_subscriptions") == wanted;
        until("all who misbehave are given up", left).await;
    }

    /// A reading, with a look at what has come: who is not read answers no ping.
    async fn look(&mut self) -> Reading {
        self.pace.reach().await;
        self.reading().await
    }

    /// Waits until so many clients have ended for each of these reasons, and nobody for another one.
    async fn closed(&mut self, closes: &[(&str, usize)]) {
        let count = |count: usize| i64::try_from(count).expect("clients are few");
        let closes: BTreeMap<String, i64> =
            closes.iter().map(|(reason, clients)| ((*reason).to_owned(), count(*clients))).collect();
        let mut last = BTreeMap::new();
        let ends = async || {
            last = self.look().await.closes();
            last == closes
        };
        until(&format!("clients have ended by {closes:?}"), ends).await;
    }

    /// The crowd has missed nothing, the process never had more than so much more than with the crowd alone, and nothing
    /// is left of anybody.
    async fn ends(mut self, name: &str, more_mib: u64) {
        self.block(5).await;
        let tally = self.crowd.ends_exact(name).await;
        assert!(tally.heads > 0 && tally.logs > 0, "{name}: {tally}");
        drop(self.pace);
        let (daemon, before) = (self.daemon, self.before);
        until("nothing is held any more", async || reading(&daemon).await.held() == before).await;
        let (most, memory_mib) = (daemon.memory_mib("VmHWM"), self.memory_mib);
        let now = daemon.memory_mib("VmRSS");
        println!("{name}: {memory_mib} MiB with the crowd, {most} MiB at most, {now} MiB in the end");
        assert!(most <= memory_mib + more_mib, "{name}: {most} MiB at most, {memory_mib} MiB with the crowd alone");
        let reading = reading(&daemon).await;
        assert_eq!(reading.sum("chaincast_gaps_total") + reading.sum("chaincast_panics_total"), 0);
    }
}

async fn reading(daemon: &Daemon) -> Reading {
    Reading::of(&http::get(daemon.admin, "/metrics").await.body)
}
