//! A client's socket: non-blocking reads and writes, and the wait for either.
//!
//! Owns the descriptor. The seam between what carries a connection and who uses it: plain TCP, TLS, and the tests'
//! connections in memory.

use std::cell::RefCell;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::ServerConnection;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use super::tls::Tls;

/// Bytes read at a time.
const READ_BYTES: usize = 16 * 1024;

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

    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.tls.borrow().is_readable() {
                ready!(self.tcp.poll_read_ready(cx))?;
            }
            match self.with(|tls, tcp| tls.read(tcp, buf.initialize_unfilled())) {
                Ok(n) => {
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }
}

/// A connection in memory that behaves as a socket does.
#[cfg(test)]
pub(crate) trait InMemory:
    tokio::io::AsyncRead + tokio::io::AsyncWrite + std::fmt::Debug + Send + Unpin + 'static
{
    fn poll_writable(&self, cx: &Context<'_>) -> Poll<()>;
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

    /// Reads what there is; nothing at the peer's end. Wakes the one task that reads when there is something.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Vec<u8>>> {
        // On the stack, and only while it is read: not in each connection.
        let mut room = [MaybeUninit::uninit(); READ_BYTES];
        let mut buf = ReadBuf::uninit(&mut room);
        match &mut self.0 {
            Carrier::Tcp(tcp) => ready!(Pin::new(tcp).poll_read(cx, &mut buf))?,
            Carrier::Tls(tls) => ready!(tls.poll_read(cx, &mut buf))?,
            #[cfg(test)]
            Carrier::Memory(memory) => ready!(Pin::new(memory).poll_read(cx, &mut buf))?,
        }
        Poll::Ready(Ok(buf.filled().to_vec()))
    }

    /// Whether bytes may be written; else wakes the one task that writes.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, tcp => tcp.poll_write_ready(cx), tls => tls.tcp.poll_write_ready(cx), memory => memory.poll_writable(cx).map(Ok))
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
