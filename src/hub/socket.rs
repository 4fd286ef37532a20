//! A client's socket: non-blocking reads and writes, and the wait for either.
//!
//! Owns the descriptor. The seam for other transports than plain TCP: the tests' connections in memory are one.

use std::io;
use std::task::{Context, Poll};

use tokio::net::TcpStream;

/// An accepted connection, past its handshake.
#[derive(Debug)]
pub struct Socket(Carrier);

#[derive(Debug)]
enum Carrier {
    Tcp(TcpStream),
    #[cfg(test)]
    Memory(Box<dyn InMemory>),
}

/// A connection in memory that behaves as a socket does.
#[cfg(test)]
pub(crate) trait InMemory:
    tokio::io::AsyncRead + tokio::io::AsyncWrite + std::fmt::Debug + Send + Unpin + 'static
{
    fn poll_readable(&self, cx: &Context<'_>) -> Poll<()>;
    fn poll_writable(&self, cx: &Context<'_>) -> Poll<()>;
    fn try_read(&self, buf: &mut [u8]) -> io::Result<usize>;
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;
    fn shutdown(&self, how: std::net::Shutdown);
}

/// Does the same on whatever carries the bytes.
macro_rules! each {
    ($self:ident, $tcp:ident => $on_tcp:expr, $memory:ident => $in_memory:expr) => {
        match &$self.0 {
            Carrier::Tcp($tcp) => $on_tcp,
            #[cfg(test)]
            Carrier::Memory($memory) => $in_memory,
        }
    };
}

impl Socket {
    /// Takes a connected socket over.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        Self(Carrier::Tcp(stream))
    }

    /// Takes a connection in memory over.
    #[cfg(test)]
    pub(crate) fn in_memory(end: Box<dyn InMemory>) -> Self {
        Self(Carrier::Memory(end))
    }

    /// Whether bytes may be read; else wakes the one task that reads.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, tcp => tcp.poll_read_ready(cx), memory => memory.poll_readable(cx).map(Ok))
    }

    /// Whether bytes may be written; else wakes the one task that writes.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, tcp => tcp.poll_write_ready(cx), memory => memory.poll_writable(cx).map(Ok))
    }

    /// Reads what is there; `WouldBlock` if nothing is.
    pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        each!(self, tcp => tcp.try_read(buf), memory => memory.try_read(buf))
    }

    /// Writes as much as the socket takes; `WouldBlock` if nothing, and then [`Socket::poll_writable`] may be
    /// ready once more.
    ///
    /// The fan-out's own call: the system call and nothing else.
    pub fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
        each!(self, tcp => Ok(rustix::net::send(tcp, bytes, flags)?), memory => memory.try_write(bytes))
    }

    /// Writes as much as the socket takes of some parts; `WouldBlock` if nothing, and then
    /// [`Socket::poll_writable`] waits.
    pub fn try_write(&self, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        each!(self, tcp => tcp.try_write_vectored(parts), memory => memory.try_write(parts.first().map_or(&[], |p| p)))
    }

    /// Whether bytes that were taken are not in the kernel yet: then they wait for [`Socket::flush`].
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        false
    }

    /// Gives the kernel what was taken before. Returns how many bytes it took; `WouldBlock` while some are left.
    pub fn flush(&self) -> io::Result<usize> {
        Ok(0)
    }

    /// Says that no more bytes will come.
    pub fn finish(&self) {
        self.shutdown(std::net::Shutdown::Write);
    }

    /// Ends both directions at once; the reader sees the end.
    pub fn abort(&self) {
        self.shutdown(std::net::Shutdown::Both);
    }

    fn shutdown(&self, how: std::net::Shutdown) {
        each!(self, tcp => {
            // A socket that is already gone is what is wanted.
            let _gone = socket2::SockRef::from(tcp).shutdown(how);
        }, memory => memory.shutdown(how));
    }
}
