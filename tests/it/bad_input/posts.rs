//! HTTP that is wrong: kinds, sizes, halves, and handshakes that are none.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;

use super::{Scene, error};
use crate::harness::http::{self, connect, exchange, posting, rest};

const CHAIN_ID: &str = r#"{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}"#;

#[tokio::test]
async fn a_wrong_post_says_what_is_wrong() {
    let mut scene = Scene::start(&[]).await;
    let address = scene.stage.gateway.address();
    for kind in ["text/plain", "application/xml", "application/x-www-form-urlencoded", ""] {
        let reply = exchange(address, posting(address, kind, CHAIN_ID).as_bytes()).await.expect("an answer");
        assert_eq!(reply.status, 415, "{kind}");
        assert!(reply.body.contains("only application/json is supported"), "{}", reply.body);
    }
    for kind in ["application/json", "Application/JSON; charset=utf-8", "application/json-rpc"] {
        let reply = exchange(address, posting(address, kind, CHAIN_ID).as_bytes()).await.expect("an answer");
        assert_eq!((reply.status, reply.json()["result"].as_str()), (200, Some("0x539")), "{kind}");
    }
    let big = exchange(address, posting(address, "application/json", &" ".repeat(131_073)).as_bytes()).await;
    let big = big.expect("an answer");
    assert_eq!(big.status, 413);
    assert_eq!(error(&big.json()).1, -32005);
    assert_eq!(big.json()["error"]["data"]["limit"], "message_bytes");
    assert_eq!(scene.stage.gateway.refused("message_bytes", "request"), 1);
    scene.goes_on().await;
    scene.end().await;
}

/// A request line and headers, with nothing behind them.
fn request(address: SocketAddr, line: &str, headers: &str) -> String {
    format!("{line} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{headers}\r\n")
}

#[tokio::test]
async fn a_wrong_request_has_its_status() {
    let mut scene = Scene::start(&[]).await;
    let address = scene.stage.gateway.address();
    let many = "x: y\r\n".repeat(80);
    let long = format!("x: {}\r\n", "y".repeat(10_000));
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\n";
    let no_key = format!("{upgrade}sec-websocket-version: 13\r\n");
    let old = format!("{upgrade}sec-websocket-version: 8\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n");
    for (text, status) in [
        (request(address, "PUT /", ""), 405),
        (request(address, "DELETE /", ""), 405),
        (request(address, "GET /other", ""), 404),
        (request(address, "POST /other", "content-type: application/json\r\n"), 404),
        (request(address, "GET /", &no_key), 400),
        (request(address, "GET /", &old), 400),
        (request(address, "GET /", &many), 431),
        (request(address, "GET /", &long), 431),
        ("\u{16}\u{3}\u{1} this is TLS\r\n\r\n".to_owned(), 400),
        ("nonsense\r\n\r\n".to_owned(), 400),
    ] {
        let reply = exchange(address, text.as_bytes()).await;
        assert_eq!(reply.map(|reply| reply.status), Some(status), "{text:.60}");
    }
    scene.goes_on().await;
    scene.end().await;
}

#[tokio::test]
async fn half_a_body_is_not_waited_for_beyond_its_time() {
    let mut scene = Scene::start(&[("limits.message_timeout", "1s")]).await;
    let address = scene.stage.gateway.address();
    let whole = posting(address, "application/json", CHAIN_ID);
    let half = &whole.as_bytes()[..whole.len() - 20];

    let begun = Instant::now();
    let mut stream = connect(address).await;
    stream.write_all(half).await.expect("it goes out");
    let reply = rest(&mut stream).await.expect("an answer comes");
    assert_eq!((reply.status, reply.body.as_str()), (408, "the body took too long\n"));
    assert!(begun.elapsed() < Duration::from_secs(4), "after {:?}", begun.elapsed());

    let mut stream = connect(address).await;
    stream.write_all(half).await.expect("it goes out");
    stream.shutdown().await.expect("the half that is ours can be closed");
    let reply = rest(&mut stream).await;
    assert!(reply.is_none_or(|reply| reply.status == 400), "half a body was taken for a whole one");

    let mut stream = connect(address).await;
    stream.write_all(half).await.expect("it goes out");
    drop(stream);
    scene.goes_on().await;
    assert_eq!(http::post(address, CHAIN_ID).await.json()["result"], "0x539");
    scene.end().await;
}

#[tokio::test]
async fn half_a_head_is_not_waited_for_beyond_its_time() {
    let mut scene = Scene::start(&[("limits.header_timeout", "1s")]).await;
    let address = scene.stage.gateway.address();
    for half in ["", "G", "GET / HTTP/1.1\r\nhost: x\r\n"] {
        let begun = Instant::now();
        let mut stream = connect(address).await;
        stream.write_all(half.as_bytes()).await.expect("it goes out");
        let reply = rest(&mut stream).await;
        assert!(reply.is_none_or(|reply| reply.status == 408), "{half:?}");
        let took = begun.elapsed();
        assert!((Duration::from_millis(900)..Duration::from_secs(4)).contains(&took), "{half:?} ended after {took:?}");
    }
    scene.goes_on().await;
    scene.end().await;
}
