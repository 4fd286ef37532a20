//! The faults of one node, all switchable while it runs.
//!
//! Owns what is wrong now. Those who serve ask it at each step; it does nothing by itself but turn the valves and the door.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use super::door::Door;
use super::spoil::{Rules, Span, Spoil};
use super::wire::{Connections, frame};

/// How a node answers a WebSocket upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Handshake {
    /// As it should.
    Accept,
    /// Accepts, then closes the connection without a word.
    AcceptAndClose,
    /// With a web page, as a wrong port or a captive proxy does.
    Html,
}

const HANDSHAKES: [Handshake; 3] = [Handshake::Accept, Handshake::AcceptAndClose, Handshake::Html];

/// Stands for "the node's own" where a chain id may be replaced. No chain has this id.
const OWN_CHAIN_ID: u64 = u64::MAX;

/// A handle to the faults of one node. Clones are the same faults.
#[derive(Debug, Clone)]
pub struct Faults(Arc<State>);

#[derive(Debug)]
struct State {
    connections: Arc<Connections>,
    door: Arc<Door>,
    rules: Rules,
    lag: watch::Sender<Duration>,
    syncing: watch::Sender<bool>,
    every_block: AtomicBool,
    handshake: AtomicU8,
    chain_id: AtomicU64,
    foreign_genesis: AtomicBool,
}

#[allow(clippy::must_use_candidate, reason = "what is counted is worth knowing now and then")]
impl Faults {
    pub(super) fn new(connections: Arc<Connections>, door: Arc<Door>) -> Self {
        Self(Arc::new(State {
            connections,
            door,
            rules: Rules::default(),
            lag: watch::Sender::new(Duration::ZERO),
            syncing: watch::Sender::new(false),
            every_block: AtomicBool::new(false),
            handshake: AtomicU8::new(Handshake::Accept as u8),
            chain_id: AtomicU64::new(OWN_CHAIN_ID),
            foreign_genesis: AtomicBool::new(false),
        }))
    }

    /// Ends all connections now, without a close frame; says how many.
    pub fn cut_connections(&self) -> usize {
        self.0.connections.cut_all()
    }

    /// Refuses connects from now on (or no longer), as a stopped process does. Open connections stay; see
    /// [`cut_connections`](Self::cut_connections).
    ///
    /// # Errors
    /// If the system does not give the port back.
    pub fn refuse_connections(&self, refuse: bool) -> io::Result<()> {
        if refuse { self.0.door.close() } else { self.0.door.open() }
    }

    /// How WebSocket upgrades are answered from now on.
    pub fn set_handshake(&self, handshake: Handshake) {
        self.0.handshake.store(handshake as u8, Ordering::Relaxed);
    }

    /// Stops the flow on all connections, also on new ones (or lets it go on). They stay open and nothing is read or
    /// written, pongs included, as with a stopped process. What the node had to say waits and comes later.
    pub fn stall(&self, stalled: bool) {
        self.0.connections.stall(stalled);
    }

    /// The node sees what happens on the chain so much later; [`Duration::MAX`] freezes its view.
    pub fn set_lag(&self, lag: Duration) {
        self.0.lag.send_replace(lag);
    }

    /// Whether each block of a change of several is announced, or only the last, as Geth does and as is the default.
    pub fn announce_every_block(&self, every: bool) {
        self.0.every_block.store(every, Ordering::Relaxed);
    }

    /// Answers another chain id (`eth_chainId`, `net_version`), or the true one again.
    pub fn set_chain_id(&self, chain_id: Option<u64>) {
        self.0.chain_id.store(chain_id.unwrap_or(OWN_CHAIN_ID), Ordering::Relaxed);
    }

    /// Whether block 0 is that of another chain, though blocks above are the same.
    pub fn set_foreign_genesis(&self, foreign: bool) {
        self.0.foreign_genesis.store(foreign, Ordering::Relaxed);
    }

    /// Whether the node says it is syncing: in `eth_syncing`, and to `syncing` subscribers when it changes.
    pub fn set_syncing(&self, syncing: bool) {
        self.0.syncing.send_if_modified(|now| std::mem::replace(now, syncing) != syncing);
    }

    /// Spoils the answers to a method, by its name, or announcements, by their kind (`newHeads`, `logs`,
    /// `newPendingTransactions`). Several rules about one subject all apply, in the order they were made.
    pub fn spoil(&self, subject: &str, spoil: Spoil, span: Span) {
        self.0.rules.add(subject, spoil, span);
    }

    /// Ends the spoiling of one subject.
    pub fn unspoil(&self, subject: &str) {
        self.0.rules.clear(Some(subject));
    }

    /// Ends all spoiling.
    pub fn unspoil_all(&self) {
        self.0.rules.clear(None);
    }

    /// Puts any text on every open WebSocket, as a frame of its own; says on how many. It need not be JSON.
    pub fn send_text(&self, text: &str) -> usize {
        self.send_frame(1, text.as_bytes())
    }

    /// Puts a frame with this opcode (RFC 6455: 2 binary, 8 close, 9 ping) on every open WebSocket; says on how many.
    pub fn send_frame(&self, opcode: u8, payload: &[u8]) -> usize {
        self.0.connections.inject(&frame(opcode, payload))
    }

    /// Ends what the node has open, when it ends itself.
    pub(super) fn end(&self) {
        self.0.door.give_up();
        self.0.connections.cut_all();
    }

    #[cfg(test)]
    pub(super) fn takes_portless(&self) -> bool {
        self.0.door.takes_portless()
    }

    pub(super) fn spoils(&self, subject: &str) -> Vec<Spoil> {
        self.0.rules.next(subject)
    }

    pub(super) fn handshake(&self) -> Handshake {
        HANDSHAKES[usize::from(self.0.handshake.load(Ordering::Relaxed))]
    }

    pub(super) fn lag(&self) -> watch::Receiver<Duration> {
        self.0.lag.subscribe()
    }

    pub(super) fn syncing(&self) -> watch::Receiver<bool> {
        self.0.syncing.subscribe()
    }

    pub(super) fn every_block(&self) -> bool {
        self.0.every_block.load(Ordering::Relaxed)
    }

    pub(super) fn chain_id(&self) -> Option<u64> {
        Some(self.0.chain_id.load(Ordering::Relaxed)).filter(|id| *id != OWN_CHAIN_ID)
    }

    pub(super) fn foreign_genesis(&self) -> bool {
        self.0.foreign_genesis.load(Ordering::Relaxed)
    }
}
