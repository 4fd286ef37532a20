//! The usual scene of a test: a chain, a fault node on it, a gateway beside it. Decides nothing.

use std::net::TcpListener;

use chaincast::devnode::{DevNode, DevOptions, SharedChain};
use serde_json::json;
use tokio::io::AsyncReadExt;

use super::client::Client;
use super::gateway::{Gateway, GatewayOptions};
use super::http;
use super::tls::Files;
use super::until::until;
use super::view::Watcher;

/// The name that a chain has where only `--upstream` is given.
pub(crate) const CHAIN: &str = "default";

/// A chain, its node, and a gateway that is ready.
pub(crate) struct Stage {
    pub(crate) chain: SharedChain,
    pub(crate) node: DevNode,
    pub(crate) gateway: Gateway,
}

/// A chain of genesis alone.
pub(crate) fn new_chain() -> SharedChain {
    SharedChain::new(DevOptions::default())
}

/// A node on a chain.
pub(crate) fn new_node(chain: &SharedChain) -> DevNode {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    DevNode::start(chain.clone(), listener).expect("the listener is usable")
}

impl Stage {
    /// With these keys set beside the harness's own.
    pub(crate) async fn start(keys: &[(&str, &str)]) -> Self {
        let chain = new_chain();
        let node = new_node(&chain);
        Self::with(chain, node, |options| options, keys).await
    }

    /// The same by TLS with these files.
    pub(crate) async fn start_tls(files: &Files, keys: &[(&str, &str)]) -> Self {
        let chain = new_chain();
        let node = new_node(&chain);
        Self::with(chain, node, |options| options.tls(files), keys).await
    }

    async fn with(
        chain: SharedChain,
        node: DevNode,
        also: impl FnOnce(GatewayOptions) -> GatewayOptions,
        keys: &[(&str, &str)],
    ) -> Self {
        let options = also(GatewayOptions::upstream(node.ws_url()));
        let gateway = Gateway::start(keys.iter().fold(options, |all, (key, value)| all.set(key, value))).await;
        gateway.ready().await;
        Self { chain, node, gateway }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.gateway.ws_url()).await
    }

    /// Where `limits.handshakes_max` is 2, and one client is there: two that say nothing keep a third out, and when they
    /// have gone another gets in.
    pub(crate) async fn refuses_a_third_handshake(&self) {
        let silent = [http::connect(self.gateway.address()).await, http::connect(self.gateway.address()).await];
        let mut third = http::connect(self.gateway.address()).await;
        assert!(matches!(third.read(&mut [0]).await, Ok(0) | Err(_)), "it is dropped without a word");
        assert_eq!(self.gateway.refused("handshakes", "server"), 1);
        drop(silent);
        until("the silent ones have gone", async || self.gateway.metrics.connections.get() == 1).await;
        assert_eq!(self.client().await.call("eth_chainId", json!([])).await["result"], "0x539");
    }

    pub(crate) async fn watcher(&self) -> Watcher {
        Watcher::start(&self.gateway.ws_url()).await
    }

    /// Ends the gateway, which must end well.
    pub(crate) async fn stop(self) {
        self.gateway.stop().await;
    }
}

impl Gateway {
    /// Waits until it says that it is ready, and has told the logs of its first head: who subscribes before that is sent
    /// them without their head.
    pub(crate) async fn ready(&self) {
        until("the gateway is ready", async || self.readiness().await.0 == 200).await;
        let waiting = self.metrics.logs_waiting.with_label_values(&[CHAIN]);
        until("its first logs are there", async || waiting.get() == 0).await;
    }

    /// The status of `/readyz`, and its words.
    pub(crate) async fn readiness(&self) -> (u16, String) {
        let reply = http::get(self.admin_address(), "/readyz").await;
        (reply.status, reply.body)
    }

    /// The admin address.
    pub(crate) fn admin_address(&self) -> std::net::SocketAddr {
        self.admin_url().trim_start_matches("http://").parse().expect("it is an address")
    }

    /// Refusals so far.
    pub(crate) fn refused(&self, limit: &str, scope: &str) -> u64 {
        self.metrics.refusals.with_label_values(&[limit, scope]).get()
    }

    /// Gaps of a chain so far, whatever their cause.
    pub(crate) fn gaps(&self, chain: &str) -> u64 {
        let text = self.metrics.text();
        let label = format!("chain=\"{chain}\"");
        let series = text.lines().filter(|line| line.starts_with("chaincast_gaps_total{") && line.contains(&label));
        let values = series.filter_map(|line| line.split(' ').next_back());
        values.map(|value| value.parse::<u64>().expect("a counter is a number")).sum()
    }

    /// Connections that ended for this reason so far.
    pub(crate) fn closed(&self, reason: &str) -> u64 {
        self.metrics.closes.with_label_values(&[CHAIN, reason]).get()
    }
}
