//! The node that the servers of the comparison listen to: the development chain, with heads of one size.
//!
//! Owns the node's thread. Blocks are made when asked for.

use std::net::TcpListener;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::oneshot;

use crate::devnode::{Counters, DevNode, DevOptions, Kind, SharedChain, Span, Spoil};

/// JSON of a head: what a mainnet head with its newest fields has.
const HEAD_BYTES: usize = 1_800;
/// How long a server may take to subscribe.
const SUBSCRIBE_MAX: Duration = Duration::from_secs(10);

/// A running node.
pub(super) struct Node {
    chain: SharedChain,
    pub(super) url: String,
    counters: Counters,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Node {
    /// Starts a node on a thread of its own, bound to the cores of the caller.
    pub(super) fn start() -> anyhow::Result<Self> {
        // One contract, so that one address is that of every log.
        let chain = SharedChain::new(DevOptions { pending_per_block: 0, tokens: 1, ..DevOptions::default() });
        let listener = TcpListener::bind("127.0.0.1:0").context("the node cannot listen")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let node = runtime.block_on(async { DevNode::start(chain.clone(), listener) })?;
        node.faults().spoil("newHeads", Spoil::rewrite(pad), Span::Always);
        let (url, counters) = (node.ws_url(), node.counters());
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                // A dropped sender stops it as well.
                drop(stopped.await);
                node.stop().await;
            });
        });
        Ok(Self { chain, url, counters, stop: Some(stop), thread: Some(thread) })
    }

    /// Makes a block with so many logs, and announces it. Returns its hash.
    pub(super) fn mine(&self, logs: usize) -> String {
        self.chain.mine(logs).hash.to_string()
    }

    /// Where every log is from.
    pub(super) fn emitter(&self) -> String {
        self.chain.economy().tokens()[0].address.to_string()
    }

    /// Waits until a server has subscribed to heads.
    pub(super) fn wait_for_subscriber(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + SUBSCRIBE_MAX;
        while self.counters.subscriptions(Kind::NewHeads) == 0 {
            anyhow::ensure!(Instant::now() < deadline, "the server did not subscribe to the node in time");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// Brings a head to its size by its `extraData`.
fn pad(head: &mut serde_json::Value) {
    let missing = HEAD_BYTES.saturating_sub(head.to_string().len());
    if let Some(serde_json::Value::String(extra)) = head.get_mut("extraData") {
        extra.push_str(&"0".repeat(missing));
    }
}
