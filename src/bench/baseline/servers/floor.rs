//! The floor: what a fan-out costs if it is nothing but `send` calls. One thread, blocking sockets, ready bytes.
//!
//! It takes a fixed number of clients, answers whatever they ask with one subscription, and reads them no more.

use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::Context as _;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{ID, Node, SEND_BUFFER_BYTES, answer, listen, notification};

/// Sends each head to each client by a `send` of its own.
pub(super) async fn serve_heads(upstream: &str, clients: usize) -> anyhow::Result<()> {
    let mut node = Node::connect(upstream).await?;
    let mut sockets = take_clients(clients)?;
    loop {
        let frame = text(&notification(ID, node.head().await?.get()));
        for socket in &mut sockets {
            socket.write_all(&frame)?;
        }
    }
}

/// Sends all logs of a block to each client in one write.
pub(super) async fn serve_logs(upstream: &str, clients: usize) -> anyhow::Result<()> {
    let mut node = Node::connect(upstream).await?;
    let mut sockets = take_clients(clients)?;
    loop {
        let head = node.head().await?;
        let logs = node.logs(&head).await?;
        let frames: Vec<u8> = logs.iter().flat_map(|log| text(&notification(ID, log.get()))).collect();
        for socket in &mut sockets {
            socket.write_all(&frames)?;
        }
    }
}

fn take_clients(clients: usize) -> anyhow::Result<Vec<TcpStream>> {
    let listener = listen()?;
    (0..clients).map(|_| take(listener.accept()?.0)).collect()
}

/// One client's upgrade and subscription.
fn take(mut socket: TcpStream) -> anyhow::Result<TcpStream> {
    socket.set_nodelay(true)?;
    socket2::SockRef::from(&socket).set_send_buffer_size(SEND_BUFFER_BYTES)?;
    let request = read_until(&mut socket, |bytes| bytes.ends_with(b"\r\n\r\n"))?;
    let request = String::from_utf8(request)?;
    let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).context("no key")?;
    let accept = derive_accept_key(key.as_bytes());
    write!(
        socket,
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )?;
    read_until(&mut socket, |bytes| bytes.ends_with(b"]}"))?;
    socket.write_all(&text(&answer(ID)))?;
    Ok(socket)
}

fn read_until(socket: &mut TcpStream, end: impl Fn(&[u8]) -> bool) -> anyhow::Result<Vec<u8>> {
    let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
    while !end(&bytes) {
        let n = socket.read(&mut chunk)?;
        anyhow::ensure!(n > 0, "a client left");
        bytes.extend_from_slice(&chunk[..n]);
    }
    Ok(bytes)
}

/// An unmasked text frame (RFC 6455 §5.2).
fn text(payload: &str) -> Vec<u8> {
    let mut frame = match u16::try_from(payload.len()).expect("heads and logs are short") {
        short @ 0..126 => vec![0x81, u8::try_from(short).expect("below 126")],
        long => [&[0x81, 126][..], &long.to_be_bytes()].concat(),
    };
    frame.extend_from_slice(payload.as_bytes());
    frame
}
