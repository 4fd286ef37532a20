//! Several chains in one process: each path serves its own, and one chain's trouble is its own.
//!
//! Owns the scene: two chains that have nothing in common, each with a node, behind one gateway.

mod serving;
mod trouble;

use chaincast::devnode::{DevNode, DevOptions, SharedChain};

use crate::harness::stage::new_node;
use crate::harness::{Gateway, GatewayOptions, Watcher};

/// The chain on `/`, and the other one.
const NAMES: [&str; 2] = ["red", "blue"];

/// A chain and its node.
struct Side {
    chain: SharedChain,
    node: DevNode,
}

impl Side {
    /// With its own chain id, so also with its own first block.
    fn start(chain_id: u64) -> Self {
        let options = DevOptions { chain_id, seed: chain_id, pending_per_block: 0, ..DevOptions::default() };
        let chain = SharedChain::new(options);
        let node = new_node(&chain);
        Self { chain, node }
    }
}

struct Scene {
    red: Side,
    blue: Side,
    gateway: Gateway,
}

impl Scene {
    async fn start(keys: &[(&str, &str)]) -> Self {
        let (red, blue) = (Side::start(1), Side::start(2));
        let options = GatewayOptions::upstreams(Vec::<String>::new())
            .set("chain.red.upstreams", &red.node.ws_url())
            .set("chain.blue.upstreams", &blue.node.ws_url())
            .set("default_chain", "red")
            .set("upstream.backoff_max", "200ms");
        let gateway = Gateway::start(keys.iter().fold(options, |all, (key, value)| all.set(key, value))).await;
        let scene = Self { red, blue, gateway };
        scene.reads("blue: ready\n").await;
        scene.reads("red: ready\n").await;
        scene
    }

    fn url(&self, chain: &str) -> String {
        format!("{}/{chain}", self.gateway.ws_url())
    }

    async fn watcher(&self, chain: &str) -> Watcher {
        Watcher::start(&self.url(chain)).await
    }

    /// Waits until `/readyz` says so; some chain is ready, so the gateway is.
    async fn reads(&self, line: &str) {
        let what = format!("/readyz says {line:?}");
        crate::harness::until(&what, async || {
            let (status, words) = self.gateway.readiness().await;
            status == 200 && words.contains(line)
        })
        .await;
    }

    fn is_up(&self, chain: &str, side: &Side) -> bool {
        self.gateway.metrics.upstream_up.with_label_values(&[chain, &side.node.address().to_string()]).get() == 1
    }

    async fn stop(self) {
        assert_eq!(self.gateway.metrics.panics.get(), 0);
        self.gateway.stop().await;
    }
}
