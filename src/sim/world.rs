//! What the parts of one seed share: the network, the chain, each client's view, the trace, and the verdict.
//!
//! Owns the first failure, which ends the seed. All of it lives on one thread.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::B256;
use tokio::sync::watch;
use tokio::time::Instant;

use super::net::{End, Net};
use super::promises::Promises;
use super::trace::{Tally, Trace, What};
use super::view::{Event, Head, Log, Truth, View};
use crate::devnode::SharedChain;
use crate::metrics::Metrics;
use crate::server::MemoryDoor;
use crate::session::Addresses;

/// Different notifications that are remembered as read.
const WORDS: usize = 100_000;

pub(super) struct World {
    pub(super) net: Net,
    pub(super) chain: SharedChain,
    pub(super) workers: Vec<MemoryDoor>,
    pub(super) addresses: Arc<Addresses>,
    pub(super) metrics: Metrics,
    /// Whether clients may be closed for a gap in this seed.
    pub(super) gap_has_cause: Cell<bool>,
    pub(super) trace: RefCell<Trace>,
    started: Instant,
    failure: watch::Sender<Option<String>>,
    calm: watch::Sender<bool>,
    views: RefCell<BTreeMap<usize, View>>,
    words: RefCell<hashbrown::HashMap<Vec<u8>, Rc<Event>>>,
    /// When each block was made, and when the first client that reads at once was told.
    pub(super) made: RefCell<HashMap<B256, Duration>>,
    pub(super) told: RefCell<HashMap<B256, Duration>>,
    pub(super) promises: Promises,
    tally: Cell<Tally>,
}

impl World {
    pub(super) fn new(
        net: Net,
        chain: SharedChain,
        workers: Vec<MemoryDoor>,
        addresses: Arc<Addresses>,
        metrics: Metrics,
    ) -> Self {
        Self {
            net,
            chain,
            workers,
            addresses,
            metrics,
            gap_has_cause: Cell::new(false),
            trace: RefCell::new(Trace::new(super::number("CHAINCAST_SIM_SEED").is_some())),
            started: Instant::now(),
            failure: watch::Sender::new(None),
            calm: watch::Sender::new(false),
            views: RefCell::default(),
            words: RefCell::default(),
            made: RefCell::default(),
            told: RefCell::default(),
            promises: Promises::default(),
            tally: Cell::default(),
        }
    }

    /// Simulated time since the seed began.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn note(&self, what: What) {
        self.trace.borrow_mut().note(self.now(), what);
    }

    pub(super) fn note_client(&self, client: usize, does: &str) {
        self.note(What::Client { client, does: does.to_owned() });
    }

    pub(super) fn count(&self, count: impl FnOnce(&mut Tally)) {
        let mut tally = self.tally.get();
        count(&mut tally);
        self.tally.set(tally);
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally.get()
    }

    /// Something happened that must not. The first such thing ends the seed.
    pub(super) fn fail(&self, why: &str) {
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert_with(|| format!("at {:.3} s: {why}", self.now().as_secs_f64()));
            first
        });
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    pub(super) async fn fails(&self) {
        // The sender is in this very value.
        drop(self.failure.subscribe().wait_for(Option::is_some).await);
    }

    /// A client was closed for a gap.
    pub(super) fn gap(&self, why: &str) {
        self.count(|tally| tally.gaps += 1);
        if !self.gap_has_cause.get() {
            self.fail(&format!("{why}, without a cause"));
        }
    }

    /// From now on nothing goes wrong, and clients come, stay, and read all.
    pub(super) fn calm(&self) {
        self.calm.send_replace(true);
    }

    pub(super) fn is_calm(&self) -> bool {
        *self.calm.borrow()
    }

    pub(super) async fn becomes_calm(&self) {
        // The sender is in this very value.
        drop(self.calm.subscribe().wait_for(|calm| *calm).await);
    }

    /// Waits so long, or until nothing goes wrong any more.
    pub(super) async fn calm_or(&self, wait: Duration) {
        drop(tokio::time::timeout(wait, self.becomes_calm()).await);
    }

    /// Hands the gateway a client's connection.
    pub(super) async fn hand_over(&self, client: usize, end: End) {
        let [.., high, low] = client.to_be_bytes();
        let permit = self.addresses.admit(IpAddr::V4(Ipv4Addr::new(10, 0, high, low)));
        MemoryDoor::hand_over(&self.workers, Box::new(end), permit, &self.metrics).await;
    }

    pub(super) fn enter(&self, client: usize) {
        self.count(|tally| tally.came += 1);
        self.views.borrow_mut().insert(client, View::default());
    }

    pub(super) fn leave(&self, client: usize) {
        self.views.borrow_mut().remove(&client);
    }

    pub(super) fn with_view<T>(&self, client: usize, act: impl FnOnce(&mut View) -> T) -> T {
        act(self.views.borrow_mut().get_mut(&client).expect("it is connected"))
    }

    /// Reads the result of a notification. Equal bytes are read once.
    pub(super) fn read(&self, json: &[u8]) -> Option<Rc<Event>> {
        self.count(|tally| tally.events += 1);
        let mut words = self.words.borrow_mut();
        if let Some(event) = words.get(json) {
            return Some(event.clone());
        }
        let event = Rc::new(Event::read(json)?);
        if words.len() == WORDS {
            words.clear();
        }
        words.insert(json.to_vec(), event.clone());
        Some(event)
    }

    /// A client that reads at once was told of this head.
    pub(super) fn told(&self, head: B256) {
        let now = self.now();
        self.told.borrow_mut().entry(head).or_insert(now);
    }

    /// What the chain is now.
    pub(super) fn truth(&self) -> Vec<Truth> {
        let made = self.made.borrow();
        let block = |block: &Arc<crate::devnode::Block>| {
            let economy = block.economy();
            let logs = block.logs().map(|at| Log {
                number: block.number(),
                block: block.hash(),
                index: at.log_index as u64,
                address: at.transfer.address(economy),
                topics: at.transfer.topics(economy).to_vec(),
            });
            Truth {
                made: made.get(&block.hash()).copied().unwrap_or_default(),
                head: Head { number: block.number(), hash: block.hash(), parent: block.parent_hash() },
                logs: logs.collect(),
            }
        };
        self.chain.canonical_blocks().iter().map(block).collect()
    }

    /// Whether every client is there and holds exactly the chain.
    pub(super) fn all_hold(&self, clients: usize) -> Result<(), String> {
        let (truth, views) = (self.truth(), self.views.borrow());
        for client in 0..clients {
            let view = views.get(&client).ok_or_else(|| format!("client {client} is not there"))?;
            view.compare(&truth).map_err(|why| format!("client {client}: {why}"))?;
        }
        Ok(())
    }
}
