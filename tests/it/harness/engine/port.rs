//! A port that stays with its owner while the process that listens on it is down.
//!
//! Owns the reservation alone: it never listens and never accepts.

use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};

/// A socket bound to a port of the system's choosing. It does not listen, so a process that sets `SO_REUSEADDR`, as Go's
/// listeners do, may listen on the port; nobody else is given it, and a connection made while nobody listens is refused.
pub(super) struct HeldPort {
    address: SocketAddr,
    _socket: Socket,
}

impl HeldPort {
    pub(super) fn take() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket can be made");
        socket.set_reuse_address(true).expect("the option is known");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("loopback has a free port");
        let address = socket.local_addr().expect("it is bound").as_socket().expect("it is an internet address");
        Self { address, _socket: socket }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}
