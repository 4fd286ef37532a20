//! A gateway as tokio-tungstenite makes it: a task and a broadcast receiver for each client, the text shared.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, accept_async_with_config};

use super::{BEHIND_MAX, ID, Node, SEND_BUFFER_BYTES, answer, listen, notification};

/// Its default is 128 KiB for each connection, which would be the greater part of the cost of an upgrade.
const READ_BUFFER_BYTES: usize = 4096;

pub(super) async fn serve(upstream: &str) -> anyhow::Result<()> {
    let mut node = Node::connect(upstream).await?;
    let (heads, _) = broadcast::channel::<Utf8Bytes>(BEHIND_MAX);
    let listener = nonblocking()?;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                tokio::spawn(client(accepted?.0, heads.clone()));
            }
            head = node.head() => {
                // Nobody listening yet is no mistake.
                let _listeners = heads.send(notification(ID, head?.get()).into());
            }
        }
    }
}

/// Serves a client until it goes or lags.
async fn client(socket: TcpStream, heads: broadcast::Sender<Utf8Bytes>) -> anyhow::Result<()> {
    let (mut client, mut heads) = subscribe(socket, || heads.subscribe()).await?;
    loop {
        tokio::select! {
            head = heads.recv() => client.send(Message::Text(head?)).await?,
            message = client.next() => match message {
                Some(message) => drop(message?),
                None => return Ok(()),
            },
        }
    }
}

/// The upgrade, one request and its answer. What is answered holds from just before the answer on.
pub(super) async fn subscribe<T>(
    socket: TcpStream,
    open: impl FnOnce() -> T,
) -> anyhow::Result<(WebSocketStream<TcpStream>, T)> {
    socket.set_nodelay(true)?;
    socket2::SockRef::from(&socket).set_send_buffer_size(SEND_BUFFER_BYTES)?;
    let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER_BYTES).write_buffer_size(0);
    let mut client = accept_async_with_config(socket, Some(config)).await?;
    anyhow::ensure!(matches!(client.next().await, Some(Ok(Message::Text(_)))), "a client did not ask");
    let opened = open();
    client.send(Message::Text(answer(ID).into())).await?;
    Ok((client, opened))
}

pub(super) fn nonblocking() -> anyhow::Result<TcpListener> {
    let listener = listen()?;
    listener.set_nonblocking(true)?;
    Ok(TcpListener::from_std(listener)?)
}
