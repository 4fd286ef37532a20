//! One seed from beginning to end: the daemon, its nodes and its clients are put together and the script is played.
//!
//! Owns how faults are done, how the seed comes to rest, and the promises that can be measured.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::B256;
use tokio::task::{JoinSet, LocalSet};
use tokio_util::sync::CancellationToken;

use super::client;
use super::net::{Host, Net, Watched};
use super::planted::Planted;
use super::script::{self, Fault, Script, Step};
use super::trace::{Tally, What};
use super::world::World;
use crate::app::{self, Seams};
use crate::config::{self, Flags};
use crate::devnode::{DevNode, DevOptions, SharedChain, Span, Spoil};
use crate::journal::Update;
use crate::metrics::Metrics;
use crate::server::{Chain, MemoryDoor, Worker};
use crate::session::Addresses;
use crate::upstream::{Dial, Stream};

/// How long a node may take to be up again once nothing is wrong with it.
const RECOVERY: Duration = Duration::from_secs(45);
/// How long clients may take to hold what the chain has once it rests.
const REST: Duration = Duration::from_secs(10);
/// Bytes under way on a node's connection.
const NODE_ROOM: usize = 131_072;
/// Limits on addresses and rates, which run on the machine's clock: none is to be met.
const NO_LIMITS: [&str; 8] = [
    "CONNECTIONS_PER_ADDRESS",
    "CONNECTS_PER_SECOND",
    "CONNECTS_BURST",
    "MESSAGES_PER_SECOND",
    "MESSAGES_BURST",
    "SUBSCRIPTIONS_PER_ADDRESS",
    "SUBSCRIBES_PER_SECOND",
    "CALLS_PER_SECOND",
];

/// What came of a seed.
pub(super) struct Outcome {
    pub(super) failure: Option<String>,
    /// The last of what happened.
    pub(super) trace: String,
    pub(super) digest: (u64, u64),
    pub(super) tally: Tally,
}

impl Outcome {
    /// The seed's thread panicked; what it said is on the error output.
    pub(super) fn panicked() -> Self {
        let failure = Some("by a panic".into());
        Self { failure, trace: String::new(), digest: (0, 0), tally: Tally::default() }
    }
}

/// Plays a script.
pub(super) fn play(script: &Script, bug: Option<Planted>) -> Outcome {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&script.seed.to_le_bytes()));
    let runtime = builder.build().expect("a runtime without I/O");
    LocalSet::new().block_on(&runtime, async {
        let stage = Stage::build(script, bug);
        let world = stage.world.clone();
        tokio::select! {
            biased;
            () = world.fails() => {}
            () = stage.play(script) => {}
            () = stage.ends_early() => world.fail("a task of the daemon ended"),
        }
        let trace = world.trace.borrow();
        Outcome {
            failure: world.failure(),
            trace: if world.failure().is_some() { trace.to_string() } else { String::new() },
            digest: trace.digest(),
            tally: world.tally(),
        }
    })
}

/// Everything that runs in a seed. Tasks end with it.
struct Stage {
    world: Rc<World>,
    nodes: Arc<Vec<DevNode>>,
    gateway: Chain,
    head: Cell<B256>,
    highest: Cell<u64>,
    tasks: RefCell<JoinSet<()>>,
    daemon: RefCell<JoinSet<()>>,
    _stop: tokio_util::sync::DropGuard,
}

fn options(script: &Script) -> app::Options {
    let urls = (0..script.nodes).map(|node| format!("ws://node-{node}:8546"));
    let flags = Flags { upstreams: urls.collect(), ..Flags::default() };
    let limits = NO_LIMITS.iter().map(|limit| (format!("CHAINCAST__LIMITS__{limit}"), "1000000".to_owned()));
    let mut options = config::load(&flags, limits).expect("the defaults are right").app;
    options.hub.id_secret = [7; 32];
    if let Some(entries) = script.journal {
        options.chains[0].journal.entries = entries;
    }
    options
}

/// Reaches the node whose number is in the URL's host.
fn dial(net: Net, nodes: Arc<Vec<DevNode>>, patience: Duration) -> Dial {
    Dial::By(Arc::new(move |url| {
        let host = url.host();
        let node = host.trim_start_matches("node-").split(':').next().and_then(|n| n.parse().ok());
        let (net, nodes, node) = (net.clone(), nodes.clone(), node.expect("the URLs are ours"));
        Box::pin(async move {
            let (ours, theirs) = net.connect(Host::Gateway, Host::Node(node), [NODE_ROOM; 2]).await;
            nodes[node].take(theirs)?;
            Ok(Box::new(Watched::new(ours, patience)) as Box<dyn Stream>)
        })
    }))
}

impl Stage {
    fn build(script: &Script, bug: Option<Planted>) -> Self {
        let net = Net::new(script.seed);
        let chain = SharedChain::new(DevOptions {
            seed: script.seed,
            tokens: script::TOKENS,
            holders: script::HOLDERS,
            pending_per_block: 0,
            // Below all that the script undoes.
            finalized_depth: 64,
            ..DevOptions::default()
        });
        chain.extend(&[1; script::BEFORE]);
        let nodes = Arc::new((0..script.nodes).map(|_| DevNode::portless(chain.clone())).collect::<Vec<_>>());
        let mut options = options(script);
        let (metrics, stop, mut daemon) = (Metrics::new(), CancellationToken::new(), JoinSet::new());
        if let Some(bug) = bug {
            bug.plant(&mut options);
        }
        let upstream = &mut options.chains[0].upstream;
        upstream.seed = Some(script.seed);
        upstream.dial = dial(net.clone(), nodes.clone(), upstream.silence_max);
        let seams = Seams {
            heard: |heard| match bug {
                Some(bug) => bug.heard(heard),
                None => heard,
            },
            publish: |publish| match bug {
                Some(bug) => bug.publish(publish),
                None => publish,
            },
        };
        let gateway = app::start_chain_through(&options.chains[0], &metrics, &stop, &mut daemon, seams);
        let (handle, queue) = MemoryDoor::new();
        let worker = Worker {
            chains: vec![gateway.clone()],
            options: options.server.clone(),
            session: options.session.clone(),
            hub: options.hub.clone(),
            metrics: metrics.clone(),
        };
        daemon.spawn_local(worker.run(queue, stop.clone()));
        daemon.spawn(net.clone().carry());
        let head = chain.head();
        let world = World::new(net, chain, vec![handle], Addresses::new(options.limits.clone()), metrics);
        world.gap_has_cause.set(script.journal.is_some());
        Self {
            world: Rc::new(world),
            nodes,
            gateway,
            head: head.hash.into(),
            highest: head.number.into(),
            tasks: RefCell::default(),
            daemon: daemon.into(),
            _stop: stop.drop_guard(),
        }
    }

    async fn play(&self, script: &Script) {
        let mut tail = self.gateway.journal.tail();
        let first = tail.next().await;
        assert!(matches!(first, Ok(Some(_))), "the gateway finds its first head");
        self.spawn(watch_journal(self.world.clone(), tail));
        for (number, character) in script.clients.iter().enumerate() {
            self.spawn(client::live(self.world.clone(), number, character.clone()));
        }
        let began = tokio::time::Instant::now();
        let mut faults = JoinSet::new();
        for (at, step) in &script.steps {
            tokio::time::sleep_until(began + *at).await;
            self.step(step, &mut faults).await;
        }
        tokio::time::sleep_until(began + script.lasts).await;
        let told = self.world.told.borrow().clone();
        match self.world.promises.in_time(script.nodes, |block| told.get(block).copied(), self.world.now()) {
            Ok(longest) => self.world.count(|tally| tally.longest = longest),
            Err(late) if !self.world.gap_has_cause.get() => return self.world.fail(&late),
            Err(_) => {}
        }
        self.world.calm();
        while faults.join_next().await.is_some() {}
        self.rest(script).await;
    }

    async fn ends_early(&self) {
        let next = std::future::poll_fn(|cx| self.daemon.borrow_mut().poll_join_next(cx));
        if let Some(Err(error)) = next.await {
            self.world.fail(&format!("the daemon failed: {error}"));
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.tasks.borrow_mut().spawn_local(task);
    }

    async fn step(&self, step: &Step, faults: &mut JoinSet<()>) {
        if !matches!(step, Step::Mine(_)) {
            self.world.note(What::Step(format!("{step:?}")));
        }
        let chain = &self.world.chain;
        let depth = |depth: u64| depth.min(chain.head().number - 1);
        match step {
            Step::Mine(logs) => drop(chain.extend(logs)),
            Step::Reorg(deep, logs) => drop(chain.replace(depth(*deep), logs)),
            Step::Shrink(deep) => {
                let to = chain.head().number - depth(*deep);
                chain.set_head(chain.canonical_at(to).expect("it is remembered").hash());
            }
            Step::Flip(deep, wait) => {
                let before = chain.head();
                chain.replace(depth(*deep), &vec![1; usize::try_from(*deep).expect("it is small")]);
                self.mined();
                tokio::time::sleep(*wait).await;
                let back = chain.branch(before.hash, &[2]);
                chain.set_head(if wait.as_millis() % 2 == 0 { before.hash } else { back[0].hash });
            }
            Step::Fault(node, fault, lasts) => {
                let now = self.world.now();
                self.world.promises.fault(*node, fault, now, *lasts);
                faults.spawn_local(suffer(self.world.clone(), self.nodes.clone(), *node, fault.clone(), *lasts));
            }
        }
        self.mined();
    }

    /// Notes what is new on the chain, and what has left it.
    fn mined(&self) {
        let (now, chain) = (self.world.now(), &self.world.chain);
        let is_canonical = |number, hash| chain.canonical_at(number).is_some_and(|block| block.hash() == hash);
        let head = chain.head();
        let mut gone = chain.block(self.head.replace(head.hash));
        while let Some(block) = gone.filter(|block| !is_canonical(block.number(), block.hash())) {
            self.world.promises.orphan(block.hash());
            gone = chain.block(block.parent_hash());
        }
        let is_known = |hash| self.world.made.borrow().contains_key(&hash);
        let blocks = (script::BEFORE as u64 + 1..=head.number).rev().map_while(|number| chain.canonical_at(number));
        let mut fresh: Vec<_> = blocks.take_while(|block| !is_known(block.hash())).collect();
        fresh.reverse();
        for block in fresh {
            let (number, hash) = (block.number(), block.hash());
            self.world.made.borrow_mut().insert(hash, now);
            self.world.note(What::Mined { number, hash });
            if number > self.highest.get() {
                self.highest.set(number);
                self.world.promises.rose(hash, now);
            }
        }
    }

    /// Nothing is wrong any more: the chain goes on until all nodes are up, then rests until every client holds it.
    async fn rest(&self, script: &Script) {
        let by = self.world.now() + RECOVERY;
        loop {
            self.world.chain.mine(1);
            self.mined();
            tokio::time::sleep(Duration::from_millis(500)).await;
            let up = self.gateway.calls.pool().nodes().iter().all(|node| node.state() == crate::upstream::State::Up);
            if up && self.world.chain.head().number >= self.highest.get() && self.world.now() + RECOVERY > by + REST {
                break;
            }
            if self.world.now() > by {
                return self.world.fail("a node is not up again");
            }
        }
        let by = self.world.now() + REST;
        while let Err(why) = self.world.all_hold(script.clients.len()) {
            if self.world.now() > by {
                return self.world.fail(&why);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Notes what the gateway takes for true.
async fn watch_journal(world: Rc<World>, mut tail: crate::journal::Tail) {
    while let Ok(Some(entry)) = tail.next().await {
        if let Update::Undo(undone) = &entry.update {
            world.count(|tally| (tally.undos, tally.undone) = (tally.undos + 1, tally.undone + undone.len()));
        }
        if let Err(why) = world.promises.follow(&entry) {
            world.fail(&why);
        }
        let text = match &entry.update {
            Update::Head(header) => format!("head {} {}", header.number, super::trace::short(&header.hash)),
            Update::Logs(logs) => format!("{} logs of {}", logs.logs.len(), logs.block.number),
            Update::Undo(undone) => format!("undo {}", undone.len()),
            Update::Gap => "gap".into(),
        };
        world.note(What::Update(text));
    }
}

/// Does a fault to a node for a while.
async fn suffer(world: Rc<World>, nodes: Arc<Vec<DevNode>>, at: usize, fault: Fault, lasts: Duration) {
    let (node, host) = (nodes[at].faults(), Host::Node(at));
    let span = Span::For(lasts);
    match &fault {
        Fault::Down => {
            node.refuse_connections(true).expect("there is no port to lose");
            node.cut_connections();
        }
        Fault::Cut => world.net.cut(host),
        Fault::Stalled => node.stall(true),
        Fault::Partitioned => world.net.partition(host),
        Fault::Vanished => world.net.forget(host),
        Fault::Lagging(lag) => {
            node.set_lag(*lag);
            // Some nodes say of a block that they do not have yet that it has no logs.
            if lag.as_millis().is_multiple_of(2) {
                node.spoil("eth_getLogs", Spoil::EmptyForError, span);
            }
        }
        Fault::Empty(method) => node.spoil(method, Spoil::Empty, span),
        Fault::Refuses(method) => node.spoil(method, Spoil::Error(-32_000, "unknown block".into()), span),
        Fault::Hole => node.spoil("eth_getLogs", hole(), span),
        Fault::Late(delay) => {
            for method in ["eth_getLogs", "eth_getBlockByHash", "eth_getBlockByNumber"] {
                node.spoil(method, Spoil::Delay(*delay), span);
            }
        }
        Fault::Twice => node.spoil("newHeads", Spoil::Twice, span),
        Fault::Dumb => node.spoil("newHeads", Spoil::Silent, span),
        Fault::Foreign => node.spoil("newHeads", foreign_heads(world.chain.options().seed), span),
        Fault::WrongChain => {
            node.set_chain_id(Some(99));
            node.cut_connections();
        }
        Fault::EveryBlock => node.announce_every_block(true),
    }
    world.calm_or(lasts).await;
    match fault {
        Fault::Down => node.refuse_connections(false).expect("there is no port to lose"),
        Fault::Stalled => node.stall(false),
        Fault::Partitioned => world.net.heal(host),
        Fault::Lagging(_) => node.set_lag(Duration::ZERO),
        Fault::WrongChain => node.set_chain_id(None),
        Fault::EveryBlock => node.announce_every_block(false),
        _ if world.is_calm() => node.unspoil_all(),
        _ => {}
    }
}

/// Drops a log that is not the last: of the last one nothing tells where its bloom bits are those of others too.
fn hole() -> Spoil {
    Spoil::rewrite(|logs| {
        if let Some(logs) = logs.as_array_mut().filter(|logs| logs.len() > 1) {
            logs.remove((logs.len() - 1) / 2);
        }
    })
}

/// Puts the head of another chain, one block higher, in the place of each that is announced.
fn foreign_heads(seed: u64) -> Spoil {
    let foreign = SharedChain::new(DevOptions { seed: !seed, pending_per_block: 0, ..DevOptions::default() });
    Spoil::rewrite(move |header| {
        let number = header["number"].as_str().and_then(|text| u64::from_str_radix(text.get(2..)?, 16).ok());
        let Some(number) = number else { return };
        while foreign.head().number <= number {
            foreign.mine(0);
        }
        let block = foreign.canonical_at(number + 1).expect("it was just made");
        *header = serde_json::from_str(&block.header_json()).expect("what a node writes is JSON");
    })
}
