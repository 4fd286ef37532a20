//! The floor: what a fan-out costs if it is nothing but `send` calls. One thread, blocking sockets, ready bytes.
//!
//! It takes a fixed number of clients, answers whatever they ask with one subscription to heads, and reads them no more.
//! No server for use: no limits, no bounds on time, the first mistake ends it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use anyhow::Context as _;
use jsonrpsee::core::client::SubscriptionClientT;
use jsonrpsee::rpc_params;
use jsonrpsee::ws_client::WsClientBuilder;
use serde_json::value::RawValue;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// As long as the gateway's ids, so that the bytes are as many.
const ID: &str = "0xf10000000000000000000000000000f1";
/// The gateway's default for `SO_SNDBUF`.
const SEND_BUFFER_BYTES: usize = 131_072;

/// Listens to a node and sends its heads to so many clients, until the process is ended.
pub fn serve(upstream: &str, clients: usize) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let node = WsClientBuilder::default().build(upstream).await?;
        let mut heads =
            node.subscribe::<Box<RawValue>, _>("eth_subscribe", rpc_params!["newHeads"], "eth_unsubscribe").await?;
        let mut sockets = take_clients(clients)?;
        while let Some(head) = heads.next().await {
            let frame = frame(head?.get());
            for socket in &mut sockets {
                socket.write_all(&frame)?;
            }
        }
        anyhow::bail!("the node ended the subscription")
    })
}

fn take_clients(clients: usize) -> anyhow::Result<Vec<TcpStream>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    eprintln!(r#"{{"public":"{}"}}"#, listener.local_addr()?);
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
    read_until(&mut socket, |bytes| bytes.ends_with(b"}"))?;
    let answer = format!(r#"{{"jsonrpc":"2.0","id":1,"result":"{ID}"}}"#);
    socket.write_all(&text(&answer))?;
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

fn frame(head: &str) -> Vec<u8> {
    text(&format!(
        r#"{{"jsonrpc":"2.0","method":"eth_subscription","params":{{"subscription":"{ID}","result":{head}}}}}"#
    ))
}

/// An unmasked text frame (RFC 6455 §5.2).
fn text(payload: &str) -> Vec<u8> {
    let mut frame = match u16::try_from(payload.len()).expect("a head is short") {
        short @ 0..126 => vec![0x81, u8::try_from(short).expect("below 126")],
        long => [&[0x81, 126][..], &long.to_be_bytes()].concat(),
    };
    frame.extend_from_slice(payload.as_bytes());
    frame
}
