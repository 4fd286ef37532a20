//! A plain WebSocket JSON-RPC client, on tokio-tungstenite, that hides nothing of what arrives.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, client_async};

use super::tls;

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A connected client.
pub(crate) struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    next_id: u64,
    /// Notifications that came while an answer was awaited.
    early: VecDeque<Value>,
}

/// What ended a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// A close frame with this code and reason.
    Closed(u16, String),
    /// No close frame.
    Lost,
}

impl Client {
    pub(crate) async fn connect(url: &str) -> Self {
        Self::over(tls::websocket(url, None).await.expect("the gateway takes WebSockets"))
    }

    /// Over a socket for which the kernel holds next to nothing, so that a client that does not read is noticed after
    /// kilobytes.
    pub(crate) async fn narrow(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("the size may be set before connecting");
        let stream = socket.connect(address).await.expect("the gateway listens");
        let upgraded = client_async(format!("ws://{address}"), MaybeTlsStream::Plain(stream)).await;
        Self::over(upgraded.expect("it takes WebSockets").0)
    }

    /// On a WebSocket whose handshake is done.
    pub(crate) fn over(socket: WebSocketStream<MaybeTlsStream<TcpStream>>) -> Self {
        Self { socket, next_id: 1, early: VecDeque::new() }
    }

    /// Sends text as it is.
    pub(crate) async fn send(&mut self, text: impl Into<String>) {
        self.socket.send(Message::text(text.into())).await.expect("the connection stands");
    }

    /// The next text message.
    pub(crate) async fn text(&mut self) -> Result<String, End> {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("something comes in time");
            match next {
                Some(Ok(Message::Text(text))) => return Ok(text.as_str().to_owned()),
                Some(Ok(Message::Close(Some(CloseFrame { code, reason })))) => {
                    return Err(End::Closed(code.into(), reason.as_str().to_owned()));
                }
                Some(Ok(Message::Close(None)) | Err(_)) | None => return Err(End::Lost),
                Some(Ok(_)) => {}
            }
        }
    }

    /// Sends text and returns the next message that is not a notification.
    pub(crate) async fn exchange(&mut self, text: impl Into<String>) -> Value {
        self.send(text).await;
        loop {
            let value: Value = serde_json::from_str(&self.text().await.expect("an answer comes")).expect("it is JSON");
            if value.get("method").is_none() {
                return value;
            }
            self.early.push_back(value);
        }
    }

    /// Calls a method; the whole answer.
    pub(crate) async fn call(&mut self, method: &str, params: Value) -> Value {
        let id = self.next_id;
        self.next_id += 1;
        let answer =
            self.exchange(json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string()).await;
        assert_eq!(answer["id"], id);
        answer
    }

    /// Subscribes; the id.
    pub(crate) async fn subscribe(&mut self, params: Value) -> String {
        let answer = self.call("eth_subscribe", params).await;
        answer["result"].as_str().unwrap_or_else(|| panic!("no subscription: {answer}")).to_owned()
    }

    /// The next notification's subscription and result.
    pub(crate) async fn notification(&mut self) -> Result<(String, Value), End> {
        let value = match self.early.pop_front() {
            Some(value) => value,
            None => serde_json::from_str(&self.text().await?).expect("it is JSON"),
        };
        assert_eq!(value["method"], "eth_subscription", "{value}");
        let id = value["params"]["subscription"].as_str().expect("it names its subscription").to_owned();
        Ok((id, value["params"]["result"].clone()))
    }

    /// Whether notifications came while an answer was awaited.
    pub(crate) fn has_early(&self) -> bool {
        !self.early.is_empty()
    }

    /// Reads on until the connection ends.
    pub(crate) async fn end(&mut self) -> End {
        loop {
            if let Err(end) = self.text().await {
                return end;
            }
        }
    }

    /// The socket below.
    pub(crate) fn socket(&mut self) -> &mut WebSocketStream<MaybeTlsStream<TcpStream>> {
        &mut self.socket
    }
}
