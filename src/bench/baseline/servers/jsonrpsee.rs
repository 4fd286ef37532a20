//! A gateway as jsonrpsee's server makes it: a subscription for each client, its task fed by a broadcast.

use std::sync::Arc;

use jsonrpsee::RpcModule;
use jsonrpsee::core::server::SubscriptionMessage;
use jsonrpsee::server::{Server, ServerConfig};
use serde_json::value::RawValue;
use tokio::sync::broadcast;

use super::{BEHIND_MAX, Node, listen};

pub(super) async fn serve(upstream: &str) -> anyhow::Result<()> {
    let mut node = Node::connect(upstream).await?;
    let (heads, _) = broadcast::channel::<Arc<RawValue>>(BEHIND_MAX);
    let mut module = RpcModule::new(heads.clone());
    module.register_subscription(
        "eth_subscribe",
        "eth_subscription",
        "eth_unsubscribe",
        |_, pending, heads, _| async move {
            let mut heads = heads.subscribe();
            let sink = pending.accept().await?;
            // A client that lags ends, and with it the run is void.
            while let Ok(head) = heads.recv().await {
                let message = SubscriptionMessage::new(sink.method_name(), sink.subscription_id(), &&*head)?;
                sink.send(message).await?;
            }
            Ok(())
        },
    )?;
    let config = ServerConfig::builder().max_connections(u32::MAX >> 8).build();
    let server = Server::builder().set_config(config).build_from_tcp(nonblocking()?)?;
    let _running = server.start(module);
    loop {
        // Nobody listening yet is no mistake.
        let _listeners = heads.send(node.head().await?.into());
    }
}

fn nonblocking() -> anyhow::Result<std::net::TcpListener> {
    let listener = listen()?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
