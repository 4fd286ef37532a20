//! `chaincast demo`: the gateway on an embedded development chain.
//!
//! Owns nothing that `run` does not: the demo node stands behind a real WebSocket on loopback, and the gateway is
//! configured as it would be beside any node.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;

use super::{block_on, init_logs, stop_signal, wrong};
use crate::app::{self, Listeners};
use crate::config::{self, Config, Flags};
use crate::devnode::{BlockTime, DevNode, DevOptions, Miner, MinerOptions, SharedChain};
use crate::metrics::Metrics;

/// The demo's flags.
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Where clients connect.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: String,
    /// Where /metrics, /livez and /readyz are.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9464")]
    admin: String,
    /// Time from block to block.
    #[arg(long, value_name = "SPAN", default_value = "1s", value_parser = humantime::parse_duration)]
    period: Duration,
}

/// Runs the demo until a signal.
pub(super) fn run(demo: &Demo) -> ExitCode {
    if demo.period < Duration::from_millis(10) {
        return wrong(&"--period: at least 10ms");
    }
    let node_listener = match std::net::TcpListener::bind(("127.0.0.1", 0)) {
        Ok(listener) => listener,
        Err(error) => return wrong(&format!("the demo node cannot listen on loopback: {error}")),
    };
    let url = match node_listener.local_addr() {
        Ok(address) => format!("ws://{address}"),
        Err(error) => return wrong(&format!("the demo node has no address: {error}")),
    };
    let flags = Flags {
        upstreams: vec![url],
        listen: Some(demo.listen.clone()),
        admin: Some(demo.admin.clone()),
        ..Flags::default()
    };
    let config = match config::load(&flags, std::iter::once(("CHAINCAST__LOG__LEVEL".into(), "warn".into()))) {
        Ok(config) => config,
        Err(mistakes) => return wrong(&mistakes),
    };
    if let Err(why) = init_logs(&config) {
        return wrong(&why);
    }
    let listeners = match Listeners::bind(&config.app) {
        Ok(listeners) => listeners,
        Err(why) => return wrong(&why),
    };
    block_on(serve(demo.period, node_listener, config, listeners))
}

async fn serve(
    period: Duration,
    node_listener: std::net::TcpListener,
    config: Config,
    listeners: Listeners,
) -> anyhow::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let chain =
        SharedChain::new(DevOptions { genesis_time: now, block_time: BlockTime::Wall, ..DevOptions::default() });
    let node = DevNode::start(chain.clone(), node_listener)?;
    let miner = Miner::start(chain, MinerOptions { period, seed: rand::random(), ..MinerOptions::default() });
    greet(listeners.public.local_addr()?, listeners.admin.local_addr()?);
    let result = app::run(config.app, listeners, Metrics::new(), stop_signal()?).await;
    miner.stop().await;
    node.stop().await;
    result
}

fn greet(public: SocketAddr, admin: SocketAddr) {
    println!(
        "chaincast demo: an embedded chain with ERC-20 transfers, and a reorg now and then.

  live page   http://{public}/
  WebSocket   ws://{public}/
  JSON-RPC    http://{public}/   (POST)
  metrics     http://{admin}/metrics

Subscribe from another terminal:
  echo '{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"eth_subscribe\",\"params\":[\"newHeads\"]}}' | websocat --no-close ws://{public}/

Ctrl-C ends it."
    );
}
