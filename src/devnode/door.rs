//! The listening port of a node: open, or closed so that a connect is refused, while the port stays the node's own.
//! In the simulation a node has no port; its door says only whether it is open.
//!
//! Owns the listening socket's life. Does not accept connections itself; it hands listeners to the one who does.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::sync::{Mutex, MutexGuard, PoisonError};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::sync::Notify;

/// How many connections the kernel keeps for a node that is slow to accept.
const BACKLOG: i32 = 1_024;

#[derive(Debug)]
enum State {
    /// A second handle to the listener in use.
    Open(TcpListener),
    /// Bound, but not listening: connects are refused and nobody else gets the port.
    Closed(Socket),
    /// The port is nobody's; for good.
    GivenUp,
    /// There is no port, and this tells whether connects are taken.
    #[cfg(test)]
    Portless { open: bool },
}

/// The port.
#[derive(Debug)]
pub(super) struct Door {
    address: SocketAddr,
    state: Mutex<State>,
    /// A listener that waits for the accepting task.
    fresh: Mutex<Option<TcpListener>>,
    opened: Notify,
}

impl Door {
    /// An open door.
    pub(super) fn new(listener: TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self {
            address: listener.local_addr()?,
            state: Mutex::new(State::Open(listener.try_clone()?)),
            fresh: Mutex::new(Some(listener)),
            opened: Notify::new(),
        })
    }

    /// An open door without a port.
    #[cfg(test)]
    pub(super) fn portless() -> Self {
        Self {
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
            state: Mutex::new(State::Portless { open: true }),
            fresh: Mutex::new(None),
            opened: Notify::new(),
        }
    }

    /// Whether a connect past any port is taken.
    #[cfg(test)]
    pub(super) fn takes_portless(&self) -> bool {
        matches!(*self.lock(), State::Portless { open: true })
    }

    /// Does what there is to do where there is no port.
    #[cfg(test)]
    fn set_portless(&self, now: bool) {
        if let State::Portless { open } = &mut *self.lock() {
            *open = now;
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Refuses connects from now on. Those in the kernel's queue are reset.
    pub(super) fn close(&self) -> io::Result<()> {
        #[cfg(test)]
        self.set_portless(false);
        let mut state = self.lock();
        if let State::Open(listener) = &*state {
            // Ends listening for every handle to the socket, at once.
            SockRef::from(listener).shutdown(Shutdown::Both)?;
            *state = State::Closed(bound(self.address)?);
            self.fresh.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        Ok(())
    }

    /// Listens again on the same port.
    pub(super) fn open(&self) -> io::Result<()> {
        #[cfg(test)]
        self.set_portless(true);
        let mut state = self.lock();
        if let State::Closed(socket) = &*state {
            socket.listen(BACKLOG)?;
            let listener: TcpListener = socket.try_clone()?.into();
            *self.fresh.lock().unwrap_or_else(PoisonError::into_inner) = Some(listener.try_clone()?);
            *state = State::Open(listener);
            self.opened.notify_one();
        }
        Ok(())
    }

    /// Gives the port back for good. Whoever binds it next may do so at once.
    pub(super) fn give_up(&self) {
        let mut state = self.lock();
        if let State::Open(listener) = &*state {
            // Fails only where the socket listens no longer, which is what is wanted.
            drop(SockRef::from(listener).shutdown(Shutdown::Both));
        }
        *state = State::GivenUp;
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// The next listener to accept from, when the one before has ended.
    pub(super) async fn listener(&self) -> io::Result<tokio::net::TcpListener> {
        loop {
            let fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner).take();
            match fresh {
                Some(listener) => return tokio::net::TcpListener::from_std(listener),
                None => self.opened.notified().await,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn a_closed_door_refuses_and_opens_again_on_the_same_port() {
        let door = Door::new(TcpListener::bind("127.0.0.1:0").expect("a free port")).expect("a door");
        assert!(TcpStream::connect(door.address()).is_ok());
        door.close().expect("closed");
        let refused = TcpStream::connect(door.address()).expect_err("nobody listens");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        door.open().expect("open");
        assert!(TcpStream::connect(door.address()).is_ok());
    }

    #[test]
    fn a_port_given_up_can_be_bound_while_handles_to_the_door_remain() {
        let door = Door::new(TcpListener::bind("127.0.0.1:0").expect("a free port")).expect("a door");
        door.give_up();
        assert!(TcpStream::connect(door.address()).is_err());
        let next = TcpListener::bind(door.address()).expect("free again");
        assert!(TcpStream::connect(door.address()).is_ok());
        drop(next);
    }
}
