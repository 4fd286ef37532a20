//! permessage-deflate end to end: what is negotiated, with whom, and that nobody can tell from the events.
//!
//! Compressed connections are those of Node's ws and Python's websockets; what they must have is what plain connections
//! beside them got, to the byte. Requests that break the rules go out as bytes made here.

use std::fmt::Write as _;
use std::io::Write as _;

use flate2::write::DeflateEncoder;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::harness::client::{Client, End, PATIENCE};
use crate::harness::geth::quantity;
use crate::harness::stage::CHAIN;
use crate::harness::tools::{self, Program};
use crate::harness::{Stage, until};

const ON: (&str, &str) = ("server.compression", "true");
const OFFER: &str = "permessage-deflate; client_max_window_bits";
const ACCEPTED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
const CHAIN_ID: &str = r#"{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}"#;
/// The first byte of a text message in one frame that is compressed (RFC 7692 section 6).
const COMPRESSED: u8 = 0xc1;

/// What the answer to an upgrade with this offer says of extensions; `None` if nothing. The upgrade must succeed.
async fn negotiated(stage: &Stage, offer: &str) -> Option<String> {
    let mut stream = TcpStream::connect(stage.gateway.address()).await.expect("the gateway listens");
    let mut head = String::from("GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n");
    write!(head, "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{offer}\r\n").unwrap();
    stream.write_all(head.as_bytes()).await.expect("the connection stands");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(tokio::time::timeout(PATIENCE, stream.read_u8()).await.expect("in time").expect("it answers"));
    }
    let answer = String::from_utf8(answer).expect("a head is text");
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    let mut lines = answer.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-extensions")).map(|(_, value)| value.to_owned())
}

/// A client that negotiated compression, and whose library does not know: what it sends must be made by hand, and only
/// what comes plain can be read.
async fn compressed_client(stage: &Stage) -> Client {
    let mut request = stage.gateway.ws_url().into_client_request().expect("it is an address");
    request.headers_mut().insert("sec-websocket-extensions", HeaderValue::from_static(OFFER));
    let stream = TcpStream::connect(stage.gateway.address()).await.expect("the gateway listens");
    let (socket, answer): (WebSocketStream<MaybeTlsStream<TcpStream>>, _) =
        client_async(request, MaybeTlsStream::Plain(stream)).await.expect("the gateway takes WebSockets");
    assert_eq!(answer.headers()["sec-websocket-extensions"], ACCEPTED);
    Client::over(socket)
}

/// A message as a client compresses it.
fn deflated(message: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(message).expect("memory takes it");
    encoder.flush().expect("memory takes it");
    let bytes = encoder.get_ref();
    bytes.strip_suffix(&[0, 0, 0xff, 0xff]).expect("a flush ends so").to_vec()
}

/// A masked frame with this first byte; the mask is zero, so the payload is seen as it is.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = match u16::try_from(payload.len()).expect("it is short") {
        short @ 0..=125 => vec![0x80 | u8::try_from(short).expect("at most 125")],
        middle => [&[0xfe][..], &middle.to_be_bytes()].concat(),
    };
    [&[first][..], &length, &[0; 4], payload].concat()
}

async fn put(client: &mut Client, bytes: &[u8]) {
    client.socket().get_mut().write_all(bytes).await.expect("the connection stands");
}

#[tokio::test]
async fn it_is_negotiated_only_where_it_is_configured() {
    let stage = Stage::start(&[]).await;
    assert_eq!(negotiated(&stage, &format!("sec-websocket-extensions: {OFFER}\r\n")).await, None);
    let mut client = stage.client().await;
    put(&mut client, &frame(COMPRESSED, &deflated(CHAIN_ID.as_bytes()))).await;
    assert_eq!(client.end().await, End::Closed(1002, "protocol error".into()));
    stage.stop().await;

    let stage = Stage::start(&[ON]).await;
    let window = format!("{ACCEPTED}; server_max_window_bits=12");
    for (offer, want) in [
        (format!("sec-websocket-extensions: {OFFER}\r\n"), Some(ACCEPTED)),
        (format!("sec-websocket-extensions: x-other\r\nsec-websocket-extensions: {OFFER}\r\n"), Some(ACCEPTED)),
        ("sec-websocket-extensions: permessage-deflate; server_max_window_bits=15\r\n".into(), Some(&*window)),
        ("sec-websocket-extensions: permessage-deflate; server_max_window_bits=9\r\n".into(), None),
        ("sec-websocket-extensions: permessage-deflate; what_is=this\r\n".into(), None),
        (String::new(), None),
    ] {
        assert_eq!(negotiated(&stage, &offer).await.as_deref(), want, "{offer}");
    }
    stage.stop().await;
}

#[tokio::test]
async fn what_a_client_compresses_is_understood_and_bounded() {
    let stage = Stage::start(&[ON]).await;
    let mut client = compressed_client(&stage).await;
    let request = deflated(CHAIN_ID.as_bytes());
    let (one, two) = request.split_at(7);
    let fragments = [frame(0x41, one), frame(0x89, b"between"), frame(0x80, two)].concat();
    for bytes in [frame(COMPRESSED, &request), frame(0x81, CHAIN_ID.as_bytes()), fragments] {
        put(&mut client, &bytes).await;
        let answer: Value = serde_json::from_str(&client.text().await.expect("it is answered")).expect("it is JSON");
        assert!(answer["result"].is_string(), "{answer}");
    }
    let gauge = stage.gateway.metrics.compressed_clients.with_label_values(&[CHAIN]);
    assert_eq!(gauge.get(), 1);

    let bomb = deflated(&vec![b' '; 30_000_000]);
    let padded = format!("{CHAIN_ID}{}", " ".repeat(131_073 - CHAIN_ID.len()));
    let mut takeover = DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    takeover.write_all(CHAIN_ID.as_bytes()).expect("memory takes it");
    takeover.flush().expect("memory takes it");
    let first = takeover.get_ref().len();
    takeover.write_all(CHAIN_ID.as_bytes()).expect("memory takes it");
    takeover.flush().expect("memory takes it");
    let second = &takeover.get_ref()[first..takeover.get_ref().len() - 4];
    for (what, bytes, code, label) in [
        ("a bomb", frame(COMPRESSED, &bomb), 1009, "too_big"),
        ("one byte too many", frame(COMPRESSED, &deflated(padded.as_bytes())), 1009, "too_big"),
        ("what refers to an earlier message", frame(COMPRESSED, second), 1007, "corrupt"),
        ("what is no compressed data", frame(COMPRESSED, &[0xff; 40]), 1007, "corrupt"),
        ("what is not UTF-8", frame(COMPRESSED, &deflated(&[0xff; 40])), 1007, "not_utf8"),
        ("a compressed ping", frame(0xc9, b""), 1002, "protocol"),
        ("a compressed continuation", [frame(0x41, one), frame(0xc0, two)].concat(), 1002, "protocol"),
    ] {
        let before = stage.gateway.closed(label);
        let mut client = compressed_client(&stage).await;
        put(&mut client, &bytes).await;
        let End::Closed(got, _) = client.end().await else { panic!("{what}: the connection is lost") };
        assert_eq!(got, code, "{what}");
        drop(client);
        until("the close is counted", async || stage.gateway.closed(label) == before + 1).await;
    }
    drop(client);
    until("they are gone", async || gauge.get() == 0).await;
    assert_eq!(stage.gateway.metrics.panics.get(), 0);
    stage.stop().await;
}

/// A message of few bytes that is large when it is inflated counts as what it is then.
#[tokio::test]
async fn what_was_small_counts_as_large_as_it_is() {
    let keys = [ON, ("limits.messages_per_second", "5"), ("limits.messages_burst", "40")];
    let stage = Stage::start(&keys).await;
    let mut client = compressed_client(&stage).await;
    let large = format!("{CHAIN_ID}{}", " ".repeat(100_000 - CHAIN_ID.len()));
    for (message, refused) in [(CHAIN_ID, false), (&large, false), (&large, true)] {
        put(&mut client, &frame(COMPRESSED, &deflated(message.as_bytes()))).await;
        let answer: Value = serde_json::from_str(&client.text().await.expect("it is answered")).expect("it is JSON");
        assert!(answer["result"].is_string(), "{answer}");
        let waited = stage.gateway.refused("messages", "connection") > 0;
        assert_eq!(waited, refused, "{} bytes", message.len());
    }
    stage.stop().await;
}

/// Plain connections, one of each kind of those of the programs.
async fn plain_clients(stage: &Stage) -> Vec<Client> {
    let (heads, logs) = (json!(["newHeads"]), json!(["logs", {}]));
    let mut clients = Vec::new();
    for kind in [vec![&heads], vec![&logs], vec![&heads, &logs]] {
        let mut client = stage.client().await;
        for params in kind {
            client.subscribe(params.clone()).await;
        }
        clients.push(client);
    }
    clients
}

/// What comes until all of the last block is there: its head and its only log, as far as they were asked for.
async fn events(client: &mut Client, kind: usize, last: u64) -> Vec<String> {
    let mut events = Vec::new();
    let (mut head, mut log) = (kind == 1, kind == 0);
    while !(head && log) {
        let text = client.text().await.expect("the connection stands");
        let value: Value = serde_json::from_str(&text).expect("it is JSON");
        let result = &value["params"]["result"];
        head |= result["number"].is_string() && quantity(&result["number"]) == last;
        log |= result["blockNumber"].is_string() && quantity(&result["blockNumber"]) == last;
        events.push(text);
    }
    events
}

/// What the events would take uncompressed, with the header of each frame.
fn plain_bytes(events: &[String]) -> usize {
    events.iter().map(|text| text.len() + if text.len() < 126 { 2 } else { 4 }).sum()
}

/// Lets compressed connections of these programs and six plain ones follow what `happens`, which ends with a block of one
/// log. All must get the same bytes, whichever way. Returns how many events there were of each kind, and what share of
/// their bytes each socket of Node's took for them.
async fn follow(stage: &Stage, programs: &[(&str, usize)], happens: impl AsyncFnOnce() -> u64) -> Vec<(usize, f64)> {
    let url = stage.gateway.ws_url();
    let start = |(name, count): &(&str, usize)| {
        Program::start(name, tools::program(name).args([url.as_str(), &count.to_string()]))
    };
    let mut running: Vec<Program> = programs.iter().map(start).collect();
    let mut plain = [plain_clients(stage).await, plain_clients(stage).await];
    for program in &mut running {
        program.ready().await;
    }
    let gauge = stage.gateway.metrics.compressed_clients.with_label_values(&[CHAIN]);
    assert_eq!(usize::try_from(gauge.get()), Ok(programs.iter().map(|(_, count)| count).sum()));

    let last = happens().await;
    running.iter_mut().for_each(|program| program.begin(last));
    let mut want = Vec::new();
    for kind in 0..3 {
        want.push(events(&mut plain[0][kind], kind, last).await);
        assert_eq!(events(&mut plain[1][kind], kind, last).await, want[kind]);
    }
    let mut took = Vec::new();
    for program in running {
        for (n, connection) in program.document().await.as_array().expect("it is a list").iter().enumerate() {
            let want = &want[n % 3];
            assert_eq!(connection["extensions"], "permessage-deflate");
            assert!(connection["events"] == json!(want), "connection {n} got something else");
            #[expect(clippy::cast_precision_loss, reason = "they are few")]
            took.extend(connection["bytes"].as_f64().map(|bytes| (want.len(), bytes / plain_bytes(want) as f64)));
        }
    }
    took
}

/// Of twenty connections and the watcher, whose view of the chain is strict, twelve are compressed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_and_plain_clients_get_the_same_events_through_reorgs() {
    let stage = Stage::start(&[ON]).await;
    let mut watcher = stage.watcher().await;
    let mut late = [stage.watcher().await, stage.watcher().await];
    watcher.lives(&stage.chain).await;
    let reorgs = async || {
        for logs in [3, 40, 0, 200, 7, 120, 60, 1, 90, 0, 25, 300] {
            stage.chain.mine(logs);
        }
        for depth in [1, 4, 9] {
            watcher.reach(&stage.chain).await;
            stage.chain.replace(depth, &[30; 10]);
            stage.chain.mine(150);
        }
        watcher.reach(&stage.chain).await;
        stage.chain.mine(1).number
    };
    let took = Box::pin(follow(&stage, &[("deflate.mjs", 9), ("deflate.py", 3)], reorgs)).await;
    assert!(took.len() == 9 && took[2].0 > 1_000, "{took:?}");
    assert_eq!(watcher.view.replaced, 14);
    for client in [&mut watcher].into_iter().chain(&mut late) {
        client.reach(&stage.chain).await;
    }
    stage.stop().await;
}

/// So few that no socket is ever full: what is behind gets the rest uncompressed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_events_take_three_fifths_of_the_bytes() {
    let stage = Stage::start(&[ON]).await;
    let mut watcher = stage.watcher().await;
    let few_blocks = async || {
        for _ in 0..30 {
            stage.chain.mine(4);
            watcher.reach(&stage.chain).await;
        }
        stage.chain.mine(1).number
    };
    let took = Box::pin(follow(&stage, &[("deflate.mjs", 6)], few_blocks)).await;
    println!("{took:?}");
    assert!(took.len() == 6 && took.iter().all(|(_, share)| *share <= 0.6), "{took:?}");
    stage.stop().await;
}
