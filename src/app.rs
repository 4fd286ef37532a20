//! The composition root: builds the components, wires them, runs them, stops them.
//!
//! Owns the order of things at start and stop. Listeners and the stop signal come from outside, so that tests, sockets
//! passed in by a supervisor and programs that embed the gateway all use the same door.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::calls::{self, Calls};
use crate::chain::{ChainUpdate, Observation};
use crate::hub;
use crate::ingest::{self, Ingest, Tracker};
use crate::journal::{self, Journal};
use crate::metrics::Metrics;
use crate::server::{self, Arrivals, Door, Readiness, Worker};
use crate::session;
use crate::upstream::{self, DemandHandle, Ears, State};

/// Observations that wait for the ingest.
const OBSERVATIONS: usize = 1024;
/// What the ingest listens to.
pub(crate) type Heard = mpsc::Receiver<Observation>;
/// Best-effort events that wait for a shard.
const FEED_EVENTS: usize = 4096;

/// One chain.
#[derive(Debug, Clone)]
pub struct Chain {
    /// Its name, also its path.
    pub name: String,
    /// Its nodes.
    pub upstream: upstream::Options,
    /// Bounds of the ingest.
    pub ingest: ingest::Bounds,
    /// Bounds of the journal.
    pub journal: journal::Options,
    /// Bounds of calls.
    pub calls: calls::Options,
    /// Kinds of subscription that are handed to a node as they stand.
    pub passed: Arc<[String]>,
}

/// The whole gateway.
#[derive(Debug, Clone)]
pub struct Options {
    /// The chains; the first is the default.
    pub chains: Vec<Chain>,
    /// Public address, for who binds the listeners.
    pub listen: SocketAddr,
    /// Admin address, for who binds the listeners.
    pub admin: SocketAddr,
    /// Where state is kept.
    pub data_dir: Option<PathBuf>,
    /// Threads that serve clients.
    pub shards: usize,
    /// Not ready while the head is older.
    pub ready_head_age_max: Duration,
    /// The public listener.
    pub server: server::Options,
    /// Sessions.
    pub session: session::Options,
    /// Limits of connections and addresses.
    pub limits: session::Limits,
    /// Shards. The secret of the ids is set here at start.
    pub hub: hub::Options,
}

/// Bound sockets.
#[derive(Debug)]
pub struct Listeners {
    /// For clients.
    pub public: std::net::TcpListener,
    /// For metrics and probes.
    pub admin: std::net::TcpListener,
}

impl Listeners {
    /// Binds both addresses. The error names the key.
    pub fn bind(options: &Options) -> Result<Self, String> {
        let bind = |key: &str, address, server| {
            listening(address, server).map_err(|e| format!("{key}: cannot listen on {address}: {e}"))
        };
        let public = bind("server.listen", options.listen, Some(&options.server))?;
        Ok(Self { public, admin: bind("server.admin", options.admin, None)? })
    }
}

/// Connections that the kernel holds until they are accepted: all clients of a restarted gateway come back at once.
const BACKLOG: i32 = 4096;

fn listening(address: SocketAddr, server: Option<&server::Options>) -> std::io::Result<std::net::TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    // Connections of the process before this one may still be in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    // Before it listens: who connects from then on has them.
    if let Some(options) = server {
        options.apply(&socket)?;
    }
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Runs until `stop` ends, then drains. An error is one that the gateway cannot run with or go on after.
pub async fn run(
    mut options: Options,
    listeners: Listeners,
    metrics: Metrics,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let public = listeners.public;
    let admin = listen(listeners.admin).context("server.admin")?;
    tracing::info!(public = %public.local_addr()?, admin = %admin.local_addr()?, "chaincast is listening");
    metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    options.hub.id_secret = id_secret(options.data_dir.as_deref())?;

    let (accepting, serving) = (CancellationToken::new(), CancellationToken::new());
    let mut tasks = JoinSet::new();
    let chains: Vec<_> =
        options.chains.iter().map(|chain| start_chain(chain, &metrics, &serving, &mut tasks)).collect();
    let readiness = Arc::new(Ready {
        chains: chains.iter().map(|chain| (chain.name.clone(), chain.calls.clone())).collect(),
        head_age_max: options.ready_head_age_max,
        draining: accepting.clone(),
    });
    tasks.spawn(server::serve_admin(admin, metrics.clone(), readiness, serving.clone()));
    let ended = CancellationToken::new();
    let addresses = session::Addresses::new(options.limits.clone());
    let doors = Door::shared(&public, options.shards.max(1), &options.server, &addresses, &metrics);
    // The threads alone listen: when the last of them stops to, nobody can connect.
    drop(public);
    let threads = start_workers(doors.context("server.listen")?, &options, &chains, &metrics, (&accepting, &ended))?;

    let early = tokio::select! {
        () = stop => None,
        Some(ended) = next_failure(&mut tasks) => Some(ended),
        () = ended.cancelled() => Some(anyhow::anyhow!("a shard thread ended early")),
    };
    shut_down(&options, &accepting, &serving, threads, tasks).await;
    early.map_or(Ok(()), Err)
}

fn listen(listener: std::net::TcpListener) -> anyhow::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    Ok(tokio::net::TcpListener::from_std(listener)?)
}

/// No task may end before the gateway does.
async fn next_failure(tasks: &mut JoinSet<()>) -> Option<anyhow::Error> {
    Some(match tasks.join_next().await? {
        Ok(()) => anyhow::anyhow!("a task ended early"),
        Err(error) => anyhow::anyhow!("a task failed: {error}"),
    })
}

/// The phases of a stop: not ready and no new connections; calls answered and clients told; then the rest.
async fn shut_down(
    options: &Options,
    accepting: &CancellationToken,
    serving: &CancellationToken,
    threads: Vec<std::thread::JoinHandle<()>>,
    mut tasks: JoinSet<()>,
) {
    let started = Instant::now();
    tracing::info!("stopping: not ready, no new connections, answering what is under way");
    accepting.cancel();
    let bound = options.server.drain_calls_max + options.server.drain_clients_max + Duration::from_secs(1);
    let joined = tokio::task::spawn_blocking(move || threads.into_iter().all(|thread| thread.join().is_ok()));
    match tokio::time::timeout(bound, joined).await {
        Ok(Ok(true)) => tracing::info!("clients are gone"),
        Ok(_) => tracing::error!("a shard thread panicked"),
        Err(_) => tracing::warn!("clients did not go in time"),
    }
    serving.cancel();
    tasks.shutdown().await;
    tracing::info!(took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX), "stopped");
}

/// Starts the nodes and the ingest of one chain.
fn start_chain(chain: &Chain, metrics: &Metrics, stop: &CancellationToken, tasks: &mut JoinSet<()>) -> server::Chain {
    start_chain_through(chain, metrics, stop, tasks, Seams { heard: |heard| heard, publish: |publish| publish })
}

/// What stands at the two ends of the ingest. Nothing, but where the simulation puts something.
pub(crate) struct Seams<H, P> {
    /// Between the nodes and the ingest.
    pub(crate) heard: H,
    /// Between the ingest and the journal.
    pub(crate) publish: P,
}

/// Starts one chain with something at its seams.
pub(crate) fn start_chain_through(
    chain: &Chain,
    metrics: &Metrics,
    stop: &CancellationToken,
    tasks: &mut JoinSet<()>,
    seams: Seams<impl FnOnce(Heard) -> Heard, impl FnOnce(ingest::Publish) -> ingest::Publish>,
) -> server::Chain {
    let (observations, heard) = mpsc::channel(OBSERVATIONS);
    let feeds = upstream::FeedSink::new(broadcast::Sender::new(FEED_EVENTS));
    let demand = DemandHandle::default();
    let ears = Ears { observations, feeds: feeds.clone() };
    let pool = upstream::spawn(&chain.upstream, &ears, &demand, metrics, stop, tasks);
    let name: Arc<str> = chain.name.as_str().into();
    let calls = Arc::new(Calls::new(name.clone(), pool.clone(), chain.calls.clone(), metrics.clone()));
    let journal = Journal::new(chain.journal.clone());
    let publish = {
        let (journal, calls, metrics, name) = (journal.clone(), calls.clone(), metrics.clone(), name.clone());
        Box::new(move |update: ChainUpdate, seen| {
            calls.follow(&update);
            journal.append(update, seen);
            let held = i64::try_from(journal.held()).unwrap_or(i64::MAX);
            metrics.journal_entries.with_label_values(&[&*name]).set(held);
        })
    };
    let ingest = Ingest {
        chain: name.clone(),
        observations: (seams.heard)(heard),
        pool,
        tracker: Tracker::new(chain.ingest.clone()),
        publish: (seams.publish)(publish),
        metrics: metrics.clone(),
    };
    tasks.spawn(ingest.run(stop.clone()));
    server::Chain { name, journal, feeds: feeds.sender().clone(), demand, calls, passed: chain.passed.clone() }
}

/// Starts the shard threads, each with a runtime of its own. They end on the first token; the second is cancelled when
/// one has ended, by a panic too.
fn start_workers(
    doors: Vec<Door>,
    options: &Options,
    chains: &[server::Chain],
    metrics: &Metrics,
    (stop, ended): (&CancellationToken, &CancellationToken),
) -> anyhow::Result<Vec<std::thread::JoinHandle<()>>> {
    let mut threads = Vec::new();
    for (number, door) in doors.into_iter().enumerate() {
        let worker = Worker {
            chains: chains.to_vec(),
            options: options.server.clone(),
            session: options.session.clone(),
            hub: options.hub.clone(),
            metrics: metrics.clone(),
        };
        let (stop, ended) = (stop.clone(), ended.clone().drop_guard());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name(format!("shard-{number}"));
        threads.push(thread.spawn(move || {
            let _ended = ended;
            runtime.block_on(worker.run(Arrivals::Door(door), stop));
        })?);
    }
    Ok(threads)
}

/// The secret behind subscription ids: kept in the data dir, so that ids survive a restart; else made anew.
fn id_secret(data_dir: Option<&Path>) -> anyhow::Result<[u8; 32]> {
    let Some(dir) = data_dir else { return Ok(rand::random()) };
    std::fs::create_dir_all(dir).with_context(|| format!("data_dir: cannot make {}", dir.display()))?;
    let path = dir.join("subscription-ids.secret");
    match std::fs::read(&path) {
        Ok(bytes) => bytes
            .try_into()
            .map_err(|_| anyhow::anyhow!("data_dir: {} is damaged; remove it to make a new one", path.display())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let secret: [u8; 32] = rand::random();
            write_secret(&path, &secret).with_context(|| format!("data_dir: cannot write {}", path.display()))?;
            Ok(secret)
        }
        Err(e) => Err(e).with_context(|| format!("data_dir: cannot read {}", path.display())),
    }
}

/// Writes beside and renames: a crash leaves the whole file or none.
fn write_secret(path: &Path, secret: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let beside = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(secret)?;
    file.sync_all()?;
    std::fs::rename(beside, path)
}

/// Ready while at least one chain has a node and a fresh head, and the gateway is not stopping.
struct Ready {
    chains: Vec<(Arc<str>, Arc<Calls>)>,
    head_age_max: Duration,
    draining: CancellationToken,
}

impl Ready {
    fn chain(&self, calls: &Calls) -> Result<(), String> {
        let mut up = calls.pool().nodes().iter().filter(|node| node.state() == State::Up).peekable();
        if up.peek().is_none() {
            return Err("no node is connected".into());
        }
        if up.all(|node| node.is_syncing()) {
            return Err("all nodes are syncing".into());
        }
        match calls.head_age() {
            None => Err("no head yet".into()),
            Some(age) if age > self.head_age_max => Err(format!("the head is {} s old", age.as_secs())),
            Some(_) => Ok(()),
        }
    }
}

impl Readiness for Ready {
    fn check(&self) -> Result<String, String> {
        if self.draining.is_cancelled() {
            return Err("draining\n".into());
        }
        let (mut any, mut words) = (false, String::new());
        for (name, calls) in &self.chains {
            let state = self.chain(calls);
            any |= state.is_ok();
            words = format!("{words}{name}: {}\n", state.err().unwrap_or_else(|| "ready".into()));
        }
        if any { Ok(words) } else { Err(words) }
    }
}
