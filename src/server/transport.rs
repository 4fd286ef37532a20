//! What a client's connection runs over: for HTTP as a stream, and past the upgrade as the hub's socket.
//!
//! Owns the table of transports. What is said on them is no concern here.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

#[cfg(test)]
use crate::hub::InMemory;
use crate::hub::Socket;

/// A stream that hyper can serve and a shard can take over.
pub(super) trait Transport: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// What the shard writes to. Nothing that the stream has read is held back in it.
    fn into_socket(self) -> Socket;
}

impl Transport for TcpStream {
    fn into_socket(self) -> Socket {
        Socket::new(self)
    }
}

impl Transport for Box<TlsStream<TcpStream>> {
    fn into_socket(self) -> Socket {
        let (tcp, conn) = (*self).into_inner();
        Socket::encrypted(tcp, conn)
    }
}

#[cfg(test)]
impl Transport for Box<dyn InMemory> {
    fn into_socket(self) -> Socket {
        Socket::in_memory(self)
    }
}

/// An accepted connection between two threads, so on no thread's reactor.
#[derive(Debug)]
pub(super) enum Carrier {
    Tcp(std::net::TcpStream),
    #[cfg(test)]
    Memory(Box<dyn InMemory>),
}
