//! Faults of nodes before a crowd: 200 clients on heads and 200 on logs, and in the end the counts of what was missing,
//! doubled, disordered and wrong with any of them, which must all be 0.
//!
//! Owns the scene: a chain, its nodes, the gateway, the crowd and a strict watcher beside it.

mod outages;
mod reorgs;
mod shrink;

use std::time::{Duration, Instant};

use chaincast::devnode::{BlockRef, DevNode, DevOptions, SharedChain};
use tokio::time::{MissedTickBehavior, interval};

use crate::harness::stage::new_node;
use crate::harness::{Crowd, Gateway, GatewayOptions, Watcher};

/// Clients on heads, and as many on logs.
const EACH: usize = 200;
/// Logs of the blocks, in turn.
const LOGS: [usize; 6] = [3, 0, 5, 1, 0, 9];

/// A chain, its nodes, a gateway that follows them, and who listens to it.
struct Scene {
    chain: SharedChain,
    nodes: Vec<DevNode>,
    gateway: Gateway,
    watcher: Watcher,
    crowd: Crowd,
}

impl Scene {
    async fn start(nodes: usize) -> Self {
        // Both ends of every connection are in this process.
        let limit = rlimit::increase_nofile_limit(8192).expect("the limit can be read");
        assert!(limit >= 4096, "the crowd needs 4,096 descriptors, the hard limit here is {limit}");
        // Reorgs of 40 blocks must not go below what is final.
        let deep = DevOptions { pending_per_block: 0, safe_depth: 60, finalized_depth: 100, ..DevOptions::default() };
        let chain = SharedChain::new(deep);
        let nodes: Vec<DevNode> = (0..nodes).map(|_| new_node(&chain)).collect();
        let options = GatewayOptions::upstreams(nodes.iter().map(DevNode::ws_url));
        let gateway = Gateway::start(options.set("upstream.backoff_max", "500ms")).await;
        gateway.ready().await;
        let mut watcher = Watcher::start(&gateway.ws_url()).await;
        watcher.lives(&chain).await;
        let crowd = Crowd::start(&gateway.ws_url(), &chain, EACH).await;
        Self { chain, nodes, gateway, watcher, crowd }
    }

    /// The last block is mined and comes; then nobody may have anything to complain of.
    async fn ends_exact(mut self, name: &str) {
        self.watcher.lives(&self.chain).await;
        let tally = self.crowd.ends_exact(name).await;
        assert!(tally.heads > 0 && tally.logs > 0, "{name}: {tally}");
        assert_eq!(self.gateway.gaps("default"), 0);
        assert_eq!(self.gateway.metrics.panics.get(), 0);
        self.gateway.stop().await;
    }
}

/// A node is lost: connections are cut, and new ones refused.
fn kill(node: &DevNode) {
    node.faults().refuse_connections(true).expect("the port is given back");
    node.faults().cut_connections();
}

/// And is back.
fn revive(node: &DevNode) {
    node.faults().refuse_connections(false).expect("the port is free");
}

/// Mines so many blocks, one a period; says which and when.
async fn mine(chain: &SharedChain, blocks: usize, period: Duration) -> Vec<(BlockRef, Instant)> {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut mined = Vec::new();
    for logs in LOGS.into_iter().cycle().take(blocks) {
        ticks.tick().await;
        let at = Instant::now();
        mined.push((chain.mine(logs), at));
    }
    mined
}

/// The longest time from a block until the last client had its head.
fn slowest(crowd: &Crowd, mined: &[(BlockRef, Instant)]) -> Duration {
    let late = |(block, at): &(BlockRef, Instant)| {
        let arrival = crowd.arrival(*block).unwrap_or_else(|| panic!("head {} has come to nobody", block.number));
        arrival.saturating_duration_since(*at)
    };
    mined.iter().map(late).max().expect("blocks were mined")
}
