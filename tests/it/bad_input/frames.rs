//! Bytes that break RFC 6455 or its bounds, and unusual ones that do not: each breach has its close code and reason.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;

use super::Scene;
use crate::harness::client::{Client, End};
use crate::harness::until;

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const PING: u8 = 0x89;
const CHAIN_ID: &str = r#"{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}"#;

/// A frame with any first byte (FIN and opcode, RFC 6455 section 5.2), masked as a client's must be.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x11, 0x22, 0x33, 0x44];
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..=125 => bytes.push(0x80 | u8::try_from(short).expect("at most 125")),
        middle @ 126..=0xffff => {
            bytes.push(0xfe);
            bytes.extend(u16::try_from(middle).expect("at most 65,535").to_be_bytes());
        }
        long => {
            bytes.push(0xff);
            bytes.extend((long as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

fn unmasked() -> Vec<u8> {
    let length = u8::try_from(CHAIN_ID.len()).expect("it is short");
    [&[TEXT, length], CHAIN_ID.as_bytes()].concat()
}

/// A message in so many frames.
fn fragments(count: usize) -> Vec<u8> {
    let last = count - 1;
    let one = |at: usize| frame(if at == 0 { 0x01 } else { 0x80 * u8::from(at == last) }, b" ");
    (0..count).flat_map(one).collect()
}

async fn put(client: &mut Client, bytes: &[u8]) {
    client.socket().get_mut().write_all(bytes).await.expect("the connection stands");
}

/// What, its bytes, and the close code, reason and label that it leads to.
fn breaches() -> Vec<(&'static str, Vec<u8>, u16, &'static str, &'static str)> {
    let huge = [TEXT, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
    let of_protocol = |what, bytes| (what, bytes, 1002, "protocol error", "protocol");
    vec![
        of_protocol("an unmasked frame", unmasked()),
        of_protocol("a reserved bit", frame(0xc1, b"x")),
        of_protocol("a reserved opcode", frame(0x83, b"x")),
        of_protocol("a reserved control opcode", frame(0x8b, b"x")),
        of_protocol("a ping in fragments", frame(0x09, b"x")),
        of_protocol("a ping of 126 bytes", frame(PING, &[b'x'; 126])),
        of_protocol("a continuation of nothing", frame(0x80, b"x")),
        of_protocol("a message within a message", [frame(0x01, b"x"), frame(TEXT, b"x")].concat()),
        of_protocol("a close of one byte", frame(0x88, &[3])),
        of_protocol("a close with a code that is never sent", frame(0x88, &1005u16.to_be_bytes())),
        ("text that is not UTF-8", frame(TEXT, &[b'"', 0xff, b'"']), 1007, "not UTF-8", "not_utf8"),
        ("a close that is not UTF-8", frame(0x88, &[0x03, 0xe8, 0xff]), 1007, "not UTF-8", "not_utf8"),
        ("a message too big", frame(TEXT, &vec![b' '; 131_073]), 1009, "message too big", "too_big"),
        ("a frame of 2^63 - 1 bytes", huge.to_vec(), 1009, "message too big", "too_big"),
        ("a message in 65 frames", fragments(65), 1008, "too many fragments", "fragments"),
    ]
}

#[tokio::test]
async fn each_breach_of_the_protocol_has_its_close_code() {
    let mut scene = Scene::start(&[]).await;
    for (what, bytes, code, reason, label) in breaches() {
        let before = scene.stage.gateway.closed(label);
        let mut client = scene.stage.client().await;
        client.subscribe(json!(["newHeads"])).await;
        // What the gateway reads no more may meet a closed socket; the close frame is what counts.
        drop(client.socket().get_mut().write_all(&bytes).await);
        assert_eq!(client.end().await, End::Closed(code, reason.to_owned()), "{what}");
        drop(client);
        until(what, async || scene.stage.gateway.closed(label) == before + 1).await;
        scene.goes_on().await;
    }
    scene.end().await;
}

#[tokio::test]
async fn text_that_is_not_utf8_in_a_binary_frame_is_no_json() {
    let scene = Scene::start(&[]).await;
    let mut client = scene.stage.client().await;
    put(&mut client, &frame(BINARY, &[b'"', 0xff, b'"'])).await;
    let answer: serde_json::Value = serde_json::from_str(&client.text().await.expect("an answer")).expect("JSON");
    assert_eq!(super::error(&answer).1, -32700);
    scene.end().await;
}

#[tokio::test]
async fn binary_frames_and_fragments_are_taken_and_answered_in_text() {
    let scene = Scene::start(&[]).await;
    let mut client = scene.stage.client().await;
    let (head, rest) = CHAIN_ID.as_bytes().split_at(20);
    let (middle, tail) = rest.split_at(1);
    let cut = [frame(0x01, head), frame(PING, b"between"), frame(0x00, middle), frame(0x00, b""), frame(0x80, tail)];
    for bytes in [frame(BINARY, CHAIN_ID.as_bytes()), cut.concat(), fragments(60), frame(TEXT, CHAIN_ID.as_bytes())] {
        put(&mut client, &bytes).await;
    }
    let mut got = Vec::new();
    while got.len() < 5 {
        match client.socket().next().await.expect("the connection stands").expect("it keeps to the protocol") {
            Message::Text(text) => got.push(text.as_str().to_owned()),
            Message::Pong(payload) => got.push(format!("pong {}", String::from_utf8_lossy(&payload))),
            other => panic!("{other:?} came"),
        }
    }
    let answer = r#"{"jsonrpc":"2.0","id":1,"result":"0x539"}"#;
    let blank = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"parse error"}}"#;
    assert_eq!(got, [answer, "pong between", answer, blank, answer]);
    scene.end().await;
}

#[tokio::test]
async fn bytes_that_come_one_by_one_are_a_message_too() {
    let scene = Scene::start(&[]).await;
    let mut client = scene.stage.client().await;
    for byte in frame(TEXT, CHAIN_ID.as_bytes()) {
        put(&mut client, &[byte]).await;
    }
    assert_eq!(client.text().await.expect("an answer"), r#"{"jsonrpc":"2.0","id":1,"result":"0x539"}"#);
    scene.end().await;
}

#[tokio::test]
async fn a_message_that_never_ends_is_closed_in_time() {
    let mut scene = Scene::start(&[("limits.message_timeout", "1s")]).await;
    let whole = frame(TEXT, CHAIN_ID.as_bytes());
    let halves = [&whole[..1], &whole[..5], &whole[..20], &frame(0x01, CHAIN_ID.as_bytes())];
    let mut clients = Vec::new();
    let begun = Instant::now();
    for half in halves {
        let mut client = scene.stage.client().await;
        put(&mut client, half).await;
        clients.push(client);
    }
    for client in &mut clients {
        assert_eq!(client.end().await, End::Closed(1008, "message not complete in time".to_owned()));
    }
    let took = begun.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(4)).contains(&took), "closed after {took:?}");
    scene.goes_on().await;
    until("all are counted", async || scene.stage.gateway.closed("message_timeout") == halves.len() as u64).await;
    scene.end().await;
}

#[tokio::test]
async fn a_client_that_vanishes_in_the_middle_of_a_frame_is_forgotten() {
    let mut scene = Scene::start(&[]).await;
    for _ in 0..20 {
        let mut client = scene.stage.client().await;
        client.subscribe(json!(["logs", {}])).await;
        put(&mut client, &frame(TEXT, CHAIN_ID.as_bytes())[..9]).await;
    }
    scene.goes_on().await;
    let clients = scene.stage.gateway.metrics.clients.with_label_values(&[crate::harness::stage::CHAIN]);
    until("only the client beside is left", async || clients.get() == 1).await;
    assert_eq!(scene.stage.gateway.closed("peer_gone"), 20);
    scene.end().await;
}

#[tokio::test]
async fn the_clients_own_close_is_echoed() {
    let scene = Scene::start(&[]).await;
    for (payload, end) in [
        (1000u16.to_be_bytes().to_vec(), End::Closed(1000, String::new())),
        (4321u16.to_be_bytes().to_vec(), End::Closed(4321, String::new())),
        (Vec::new(), End::Lost),
    ] {
        let mut client = scene.stage.client().await;
        put(&mut client, &frame(0x88, &payload)).await;
        assert_eq!(client.end().await, end, "{payload:?}");
    }
    until("all are counted", async || scene.stage.gateway.closed("client_closed") == 3).await;
    scene.end().await;
}
