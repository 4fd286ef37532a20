//! The servers that the gateway is compared with. Each runs in a process of its own, and none is for use: no limits, no
//! bounds on time, the first mistake ends it.

mod accept;
mod floor;
mod jsonrpsee;
mod tungstenite;

use std::net::SocketAddr;

use ::jsonrpsee::core::client::{ClientT as _, Subscription, SubscriptionClientT as _};
use ::jsonrpsee::rpc_params;
use ::jsonrpsee::ws_client::{WsClient, WsClientBuilder};
use serde_json::value::RawValue;
use socket2::{Domain, Socket, Type};

/// A server to compare with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A loop of single `send` calls.
    Floor,
    /// A loop that sends all logs of a block to a client in one write.
    FloorBurst,
    /// jsonrpsee's server, a subscription for each client.
    Jsonrpsee,
    /// tokio-tungstenite, a task and a broadcast receiver for each client.
    Tungstenite,
    /// tokio-tungstenite, accepting and answering one request.
    Accept,
}

/// The words by which the peers are named on the command line.
const NAMES: [(&str, Peer); 5] = [
    ("floor", Peer::Floor),
    ("floor-burst", Peer::FloorBurst),
    ("jsonrpsee", Peer::Jsonrpsee),
    ("tungstenite", Peer::Tungstenite),
    ("accept", Peer::Accept),
];

impl Peer {
    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, peer)| *peer == self).map_or("", |(name, _)| name)
    }
}

impl std::str::FromStr for Peer {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, peer)| *peer).ok_or_else(|| "no such server".into())
    }
}

/// Connections that a listener queues, as those of tokio do.
const BACKLOG: i32 = 1024;
/// The gateway's default for `SO_SNDBUF`.
const SEND_BUFFER_BYTES: usize = 131_072;
/// Events of a node that wait for this server.
const NODE_BUFFER: usize = 4096;
/// Events that a client may be behind where each has a receiver.
const BEHIND_MAX: usize = 256;

/// Listens to a node and serves so many clients, until the process is ended. One thread, as a shard has.
pub fn serve(peer: Peer, upstream: &str, clients: usize) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match peer {
            Peer::Floor => floor::serve_heads(upstream, clients).await,
            Peer::FloorBurst => floor::serve_logs(upstream, clients).await,
            Peer::Jsonrpsee => jsonrpsee::serve(upstream).await,
            Peer::Tungstenite => tungstenite::serve(upstream).await,
            Peer::Accept => accept::serve().await,
        }
    })
}

/// A node and its heads.
struct Node {
    client: WsClient,
    heads: Subscription<Box<RawValue>>,
}

impl Node {
    async fn connect(url: &str) -> anyhow::Result<Self> {
        let client = WsClientBuilder::default().max_buffer_capacity_per_subscription(NODE_BUFFER).build(url).await?;
        let heads = client.subscribe("eth_subscribe", rpc_params!["newHeads"], "eth_unsubscribe").await?;
        Ok(Self { client, heads })
    }

    async fn head(&mut self) -> anyhow::Result<Box<RawValue>> {
        match self.heads.next().await {
            Some(head) => Ok(head?),
            None => anyhow::bail!("the node ended the subscription"),
        }
    }

    async fn logs(&self, head: &RawValue) -> anyhow::Result<Vec<Box<RawValue>>> {
        let head: serde_json::Value = serde_json::from_str(head.get())?;
        let filter = serde_json::json!({ "blockHash": head["hash"] });
        Ok(self.client.request("eth_getLogs", rpc_params![filter]).await?)
    }
}

/// Listens on a free port and says where.
fn listen() -> anyhow::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    socket.listen(BACKLOG)?;
    let listener = std::net::TcpListener::from(socket);
    eprintln!(r#"{{"public":"{}"}}"#, listener.local_addr()?);
    Ok(listener)
}

/// The notification of a result.
fn notification(id: &str, result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"eth_subscription","params":{{"subscription":"{id}","result":{result}}}}}"#)
}

/// The answer to `eth_subscribe`.
fn answer(id: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"result":"{id}"}}"#)
}

/// As long as the gateway's ids, so that the bytes are as many.
const ID: &str = "0xf10000000000000000000000000000f1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_known_by_their_names() {
        for (name, peer) in NAMES {
            assert_eq!((name.parse(), peer.name()), (Ok(peer), name));
        }
        assert!("x".parse::<Peer>().is_err());
    }
}
