//! Holds one exchange with one side, over WebSocket or HTTP, and writes down what came back. Compares nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use super::script::{Exchange, Frame, Over, Step, World};

/// Longest time for an answer; the gateway may hold a call about a new head for 2 s.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// Sent after each message. Its answer shows that the connection still works, and ends the wait where none is due.
const PROBE: &str = r#"{"jsonrpc":"2.0","id":"probe","method":"eth_chainId"}"#;

/// What one message led to.
pub(super) struct Outcome {
    pub(super) sent: String,
    pub(super) answers: Vec<String>,
    pub(super) notification: Option<String>,
    /// How the connection ended, or what did not come.
    pub(super) end: Option<String>,
}

/// Holds the exchange with the side that listens at `address`, host and port.
pub(super) async fn hold(exchange: &Exchange, address: &str, world: &World<'_>) -> Vec<Outcome> {
    match exchange.over {
        Over::Ws => hold_ws(exchange, address, world).await,
        Over::Http => {
            let step = &exchange.steps()[0];
            let body = exchange.text(step, world, "").await;
            vec![post(exchange, address, body).await]
        }
    }
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn hold_ws(exchange: &Exchange, address: &str, world: &World<'_>) -> Vec<Outcome> {
    let mut sockets: BTreeMap<&str, Socket> = BTreeMap::new();
    let mut outcomes: Vec<Outcome> = Vec::new();
    for step in exchange.steps() {
        if !sockets.contains_key(step.on.as_str()) {
            sockets.insert(&step.on, connect(address).await);
        }
        let socket = sockets.get_mut(step.on.as_str()).expect("opened above");
        let subscription = outcomes.iter().flat_map(|outcome| &outcome.answers).rev().find_map(|text| subscribed(text));
        let text = exchange.text(step, world, &subscription.unwrap_or_default()).await;
        outcomes.push(converse(socket, step, text).await);
    }
    for (_, mut socket) in sockets {
        // The other side may have closed already.
        let _ = socket.close(None).await;
    }
    outcomes
}

async fn connect(address: &str) -> Socket {
    // The messages sent are up to 10 MiB, and Geth sends big answers too.
    let config = WebSocketConfig::default().max_message_size(Some(64 << 20)).max_frame_size(Some(64 << 20));
    let url = format!("ws://{address}/");
    connect_async_with_config(url, Some(config), false).await.expect("the side accepts a WebSocket").0
}

/// The text result of an answer, which is the id where it answers a subscribe.
fn subscribed(answer: &str) -> Option<String> {
    let answer: Value = serde_json::from_str(answer).ok()?;
    answer["result"].as_str().map(str::to_owned)
}

async fn converse(socket: &mut Socket, step: &Step, text: String) -> Outcome {
    let message = match step.frame {
        Frame::Text => Message::text(text.clone()),
        Frame::Binary => Message::binary(text.clone().into_bytes()),
    };
    let mut outcome = Outcome { sent: text, answers: Vec::new(), notification: None, end: None };
    // A side may close before it has read everything; the close is then what is read below.
    if socket.send(message).await.is_ok() {
        let _ = socket.send(Message::text(PROBE)).await;
    }
    let deadline = Instant::now() + ANSWER_DEADLINE;
    let mut probed = false;
    while !probed || outcome.answers.len() < step.answers || (step.notification && outcome.notification.is_none()) {
        match timeout_at(deadline, socket.next()).await {
            Ok(Some(Ok(Message::Text(text)))) => sort(text.as_str(), &mut outcome, &mut probed),
            Ok(Some(Ok(Message::Binary(_)))) => outcome.answers.push("a binary message".to_owned()),
            Ok(Some(Ok(Message::Close(frame)))) => {
                outcome.end = Some(frame.map_or("closed without a code".to_owned(), |frame| {
                    format!("closed with {} {:?}", u16::from(frame.code), frame.reason.as_str())
                }));
                return outcome;
            }
            Ok(Some(Ok(_))) => {}
            Ok(Some(Err(Error::Protocol(_) | Error::Io(_) | Error::ConnectionClosed)) | None) => {
                outcome.end = Some("dropped".to_owned());
                return outcome;
            }
            Ok(Some(Err(error))) => {
                outcome.end = Some(format!("broken: {error}"));
                return outcome;
            }
            Err(_) => {
                outcome.end = Some(if probed { "nothing more" } else { "no sign of life" }.to_owned());
                return outcome;
            }
        }
    }
    outcome
}

fn sort(text: &str, outcome: &mut Outcome, probed: &mut bool) {
    // Geth ends each message with a newline.
    let text = text.trim_end_matches('\n');
    if text.contains(r#""id":"probe""#) {
        *probed = true;
    } else if text.contains(r#""method":"eth_subscription""#) {
        outcome.notification.get_or_insert_with(|| text.to_owned());
    } else {
        outcome.answers.push(text.to_owned());
    }
}

/// Raw HTTP: a client library would not send what some of the exchanges need.
async fn post(exchange: &Exchange, address: &str, body: String) -> Outcome {
    let http = &exchange.http;
    let headers: String = http.headers.iter().flat_map(|(name, value)| [name, ": ", value, "\r\n"]).collect();
    let request = format!(
        "{} {} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n",
        http.method,
        http.path,
        body.len()
    );
    let stream = TcpStream::connect(address).await.expect("the side accepts TCP");
    let (mut reader, mut writer) = stream.into_split();
    let whole = [request.as_bytes(), body.as_bytes()].concat();
    // Both ways at once: a side may refuse a body before it has read it.
    let writing = tokio::spawn(async move { writer.write_all(&whole).await.map(|()| writer) });
    let mut reply = Vec::new();
    let read = timeout_at(Instant::now() + ANSWER_DEADLINE, reader.read_to_end(&mut reply)).await;
    writing.abort();
    let reply = String::from_utf8_lossy(&reply).into_owned();
    let end = match read {
        Ok(_) if !reply.is_empty() => None,
        Ok(_) => Some("dropped".to_owned()),
        Err(_) => Some("no sign of life".to_owned()),
    };
    Outcome { sent: body, answers: http_answer(&reply), notification: None, end }
}

/// The status and those headers that clients act on, then the body.
fn http_answer(reply: &str) -> Vec<String> {
    let Some((head, body)) = reply.split_once("\r\n\r\n") else {
        return Vec::new();
    };
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or("no status").to_owned();
    let headers: BTreeMap<_, _> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let chunked = headers.get("transfer-encoding").is_some_and(|value| value == "chunked");
    let body = if chunked { unchunked(body) } else { body.to_owned() };
    let told: Vec<_> = ["content-type", "access-control-allow-origin", "access-control-allow-methods"]
        .iter()
        .filter_map(|name| headers.get(*name).map(|value| format!(" {name}: {value}")))
        .collect();
    vec![format!("HTTP {status}{}", told.join(",")), body.trim_end_matches('\n').to_owned()]
}

fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 || rest.len() < size {
            break;
        }
        whole += &rest[..size];
        body = rest[size..].trim_start_matches("\r\n");
    }
    whole
}
