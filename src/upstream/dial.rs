//! How a connection to a WebSocket node is opened: over the network, or by a function that is given.
//!
//! Owns no connection. The handshake and all that follows are the client's.

use std::fmt;
use std::io;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use super::NodeUrl;

/// What a WebSocket can run over.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Opens a connection to a node.
pub type Dialer = dyn Fn(&NodeUrl) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> + Send + Sync;

/// How nodes are reached.
#[derive(Clone, Default)]
pub enum Dial {
    /// Over the network.
    #[default]
    Network,
    /// By this function, as in the simulation.
    By(Arc<Dialer>),
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Network => "Network",
            Self::By(_) => "By",
        })
    }
}
