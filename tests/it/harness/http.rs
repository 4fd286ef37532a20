//! HTTP by hand: what a client library would refuse to send goes out as it is, and the answer comes back whole.
//! Knows requests and answers of HTTP/1.1 with `content-length` or `connection: close`, and nothing else.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::PATIENCE;

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// By their names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Reply {
    /// The body, which must be JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub(crate) fn read(text: &str) -> Option<Self> {
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.lines();
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        Some(Self { status, headers, body: body.to_owned() })
    }
}

/// A connection that takes any bytes.
pub(crate) async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("somebody listens")
}

/// All that comes until the other side ends the connection; `None` where that is no answer.
pub(crate) async fn rest(stream: &mut TcpStream) -> Option<Reply> {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes));
    // A reset is an end as well; what came before it counts.
    drop(read.await.expect("the connection is ended in time"));
    Reply::read(&String::from_utf8_lossy(&bytes))
}

/// Sends bytes and reads the answer to its end; the other side must end the connection.
pub(crate) async fn exchange(address: SocketAddr, bytes: &[u8]) -> Option<Reply> {
    let stream = connect(address).await;
    let (mut reader, mut writer) = stream.into_split();
    let bytes = bytes.to_vec();
    // Both ways at once: a side may answer before it has read everything.
    let writing = tokio::spawn(async move { writer.write_all(&bytes).await.map(|()| writer) });
    let mut reply = Vec::new();
    let read = tokio::time::timeout(PATIENCE, reader.read_to_end(&mut reply));
    drop(read.await.expect("the connection is ended in time"));
    writing.abort();
    Reply::read(&String::from_utf8_lossy(&reply))
}

/// `GET`.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Reply {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    exchange(address, request.as_bytes()).await.expect("an answer comes")
}

/// `POST` of JSON on `/`.
pub(crate) async fn post(address: SocketAddr, body: &str) -> Reply {
    exchange(address, posting(address, "application/json", body).as_bytes()).await.expect("an answer comes")
}

/// A whole `POST` as it goes out.
pub(crate) fn posting(address: SocketAddr, kind: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST / HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}
