//! A client's socket as the hub and the session share it: non-blocking reads and writes, and the wait for either.
//!
//! Owns the descriptor. The seam for other transports than plain TCP.

use std::io;

use tokio::net::TcpStream;

/// An accepted connection, past its handshake.
#[derive(Debug)]
pub struct Socket(TcpStream);

impl Socket {
    /// Takes a connected socket over.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        Self(stream)
    }

    /// Waits until bytes may be read.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable().await
    }

    /// Waits until bytes may be written.
    pub async fn writable(&self) -> io::Result<()> {
        self.0.writable().await
    }

    /// Reads what is there; `WouldBlock` if nothing is.
    pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buf)
    }

    /// Writes as much as the socket takes; `WouldBlock` if nothing.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    /// Says that no more bytes will come.
    pub fn finish(&self) {
        // A socket that is already gone is what is wanted.
        let _gone = socket2::SockRef::from(&self.0).shutdown(std::net::Shutdown::Write);
    }

    /// Ends both directions at once; the reader sees the end.
    pub fn abort(&self) {
        let _gone = socket2::SockRef::from(&self.0).shutdown(std::net::Shutdown::Both);
    }
}
