//! A client's socket: non-blocking reads and writes, and the wait for either.
//!
//! Owns the descriptor. The seam between what carries a connection and who uses it: plain TCP, TLS, and the tests'
//! connections in memory.

use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll};

use rustls::ServerConnection;
use tokio::net::TcpStream;

use super::tls::Tls;

/// An accepted connection, past its handshake.
#[derive(Debug)]
pub struct Socket(Carrier);

#[derive(Debug)]
enum Carrier {
    Tcp(TcpStream),
    /// Boxed, so that a plain connection is no larger.
    Tls(Box<Encrypted>),
    #[cfg(test)]
    Memory(Box<dyn InMemory>),
}

/// A connection that is encrypted. No task and no buffer stands between what a shard writes and the socket.
#[derive(Debug)]
struct Encrypted {
    tcp: TcpStream,
    tls: RefCell<Tls>,
}

/// The TCP socket as the synchronous half of TLS sees it: never waits.
struct Now<'a>(&'a TcpStream);

impl io::Read for Now<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buf)
    }
}

impl io::Write for Now<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Encrypted {
    fn with<T>(&self, act: impl FnOnce(&mut Tls, &mut Now<'_>) -> T) -> T {
        act(&mut self.tls.borrow_mut(), &mut Now(&self.tcp))
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.tls.borrow().is_readable() { Poll::Ready(Ok(())) } else { self.tcp.poll_read_ready(cx) }
    }
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
    ($self:ident, $tcp:ident => $on_tcp:expr, $tls:ident => $over_tls:expr, $memory:ident => $in_memory:expr) => {
        match &$self.0 {
            Carrier::Tcp($tcp) => $on_tcp,
            Carrier::Tls($tls) => $over_tls,
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

    /// Takes a connected socket over whose TLS handshake is done, with what was read and what is unsent by now.
    #[must_use]
    pub fn encrypted(tcp: TcpStream, conn: ServerConnection) -> Self {
        Self(Carrier::Tls(Box::new(Encrypted { tcp, tls: RefCell::new(Tls::new(conn)) })))
    }

    /// Takes a connection in memory over.
    #[cfg(test)]
    pub(crate) fn in_memory(end: Box<dyn InMemory>) -> Self {
        Self(Carrier::Memory(end))
    }

    /// Whether bytes may be read; else wakes the one task that reads.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, tcp => tcp.poll_read_ready(cx), tls => tls.poll_readable(cx), memory => memory.poll_readable(cx).map(Ok))
    }

    /// Whether bytes may be written; else wakes the one task that writes.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, tcp => tcp.poll_write_ready(cx), tls => tls.tcp.poll_write_ready(cx), memory => memory.poll_writable(cx).map(Ok))
    }

    /// Reads what is there; `WouldBlock` if nothing is.
    pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        each!(self, tcp => tcp.try_read(buf), tls => tls.with(|tls, tcp| tls.read(tcp, buf)), memory => memory.try_read(buf))
    }

    /// Writes as much as the socket takes; `WouldBlock` if nothing, and then [`Socket::poll_writable`] may be
    /// ready once more.
    ///
    /// The fan-out's own call: the system call and nothing else. Over TLS also the encryption, and the last bytes taken
    /// may be unsent.
    pub fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
        each!(
            self,
            tcp => Ok(rustix::net::send(tcp, bytes, flags)?),
            tls => tls.with(|tls, tcp| tls.write(tcp, bytes)),
            memory => memory.try_write(bytes)
        )
    }

    /// Writes as much as the socket takes of some parts; `WouldBlock` if nothing, and then
    /// [`Socket::poll_writable`] waits.
    pub fn try_write(&self, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        each!(
            self,
            tcp => tcp.try_write_vectored(parts),
            tls => tls.with(|tls, tcp| tls.write_record(tcp, parts)),
            memory => memory.try_write(parts.first().map_or(&[], |p| p))
        )
    }

    /// Whether bytes that were taken are not in the kernel yet: then they wait for [`Socket::flush`].
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        each!(self, _tcp => false, tls => tls.tls.borrow().has_unsent(), _memory => false)
    }

    /// Gives the kernel what was taken before. Returns how many bytes it took; `WouldBlock` if none of what is left.
    pub fn flush(&self) -> io::Result<usize> {
        each!(self, _tcp => Ok(0), tls => tls.with(|tls, tcp| tls.flush(tcp)), _memory => Ok(0))
    }

    /// Says that no more bytes will come. Over TLS that takes bytes too: where they are unsent by then, this is to be called
    /// again when they are sent.
    pub fn finish(&self) {
        let said = each!(self, _tcp => true, tls => tls.with(|tls, tcp| tls.finish(tcp)), _memory => true);
        if said {
            self.shutdown(std::net::Shutdown::Write);
        }
    }

    /// Ends both directions at once; the reader sees the end.
    pub fn abort(&self) {
        self.shutdown(std::net::Shutdown::Both);
    }

    fn shutdown(&self, how: std::net::Shutdown) {
        let shut = |tcp: &TcpStream| {
            // A socket that is already gone is what is wanted.
            let _gone = socket2::SockRef::from(tcp).shutdown(how);
        };
        each!(self, tcp => shut(tcp), tls => shut(&tls.tcp), memory => memory.shutdown(how));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_makes_no_plain_socket_larger() {
        assert!(size_of::<Socket>() <= size_of::<TcpStream>());
    }
}
