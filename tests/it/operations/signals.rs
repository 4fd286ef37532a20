//! SIGTERM and SIGINT with clients and a call under way, and the demo from its first line to its end.

use std::time::{Duration, Instant};

use chaincast::devnode::{Span, Spoil};
use serde_json::json;

use super::daemon::{Daemon, chaincast};
use crate::harness::client::{Client, End};
use crate::harness::stage::{new_chain, new_node};
use crate::harness::{Watcher, http, until};

/// How long the slow node takes: long enough to look around meanwhile, and less than `server.drain_calls_max`.
const SLOW: Duration = Duration::from_millis(1_500);
/// Longest time from the signal to the end.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

async fn stops_well(signal: &str) {
    let chain = new_chain();
    let node = new_node(&chain);
    node.faults().spoil("eth_call", Spoil::Delay(SLOW), Span::Always);
    let mut daemon = Daemon::run(&[&node.ws_url()], &[]).await;
    daemon.ready().await;
    let mut watcher = Watcher::start(&daemon.ws_url()).await;
    watcher.lives(&chain).await;
    let mut caller = Client::connect(&daemon.ws_url()).await;
    let call = json!([{ "to": chain.economy().tokens()[0].address, "data": "0x18160ddd" }, "latest"]);
    caller.send(json!({"jsonrpc": "2.0", "id": 7, "method": "eth_call", "params": call}).to_string()).await;
    until("the call is under way", async || node.counters().calls("eth_call") == 1).await;

    let told = Instant::now();
    daemon.signal(signal);
    until("it is not ready", async || http::get(daemon.admin, "/readyz").await.status == 503).await;
    assert!(told.elapsed() < SLOW, "readiness goes first, not {:?} later", told.elapsed());
    assert_eq!(http::get(daemon.admin, "/readyz").await.body, "draining\n");
    until("nobody can connect", async || tokio::net::TcpStream::connect(daemon.public).await.is_err()).await;
    assert_eq!(http::get(daemon.admin, "/livez").await.status, 200);
    let answer: serde_json::Value = serde_json::from_str(&caller.text().await.expect("an answer")).expect("JSON");
    assert_eq!(answer["id"], 7);
    assert!(answer["result"].is_string(), "the call is answered: {answer}");
    for client in [&mut caller, &mut watcher.client] {
        assert_eq!(client.end().await, End::Closed(1012, "restart".to_owned()));
    }
    drop((caller, watcher));
    let status = daemon.ended().await;
    assert_eq!(status.code(), Some(0), "{}", daemon.stderr());
    assert!(told.elapsed() < ENDS_WITHIN, "it took {:?}", told.elapsed());
    assert!(!daemon.stderr().contains("ERROR"), "{}", daemon.stderr());
}

#[tokio::test]
async fn sigterm_answers_what_is_under_way_and_sends_clients_away() {
    stops_well("TERM").await;
}

#[tokio::test]
async fn sigint_does_the_same() {
    stops_well("INT").await;
}

#[tokio::test]
async fn a_client_that_does_not_go_is_not_waited_for() {
    let chain = new_chain();
    let node = new_node(&chain);
    node.faults().spoil("eth_call", Spoil::Silent, Span::Always);
    let mut daemon = Daemon::run(&[&node.ws_url()], &[]).await;
    daemon.ready().await;
    let mut stuck = Client::connect(&daemon.ws_url()).await;
    stuck.subscribe(json!(["newHeads"])).await;
    stuck.send(json!({"jsonrpc": "2.0", "id": 7, "method": "eth_call", "params": [{}, "latest"]}).to_string()).await;
    until("the call is under way", async || node.counters().calls("eth_call") == 1).await;
    let told = Instant::now();
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.code(), Some(0), "{}", daemon.stderr());
    assert!(told.elapsed() < ENDS_WITHIN, "it took {:?}", told.elapsed());
    assert_eq!(stuck.end().await, End::Closed(1012, "restart".to_owned()), "what it would have read is there");
}

#[tokio::test]
async fn the_demo_serves_where_it_says() {
    let args = ["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--period", "100ms"];
    let mut daemon = Daemon::start(&mut chaincast(&args));
    until("it has said how it ends", async || daemon.stdout().contains("Ctrl-C ends it.")).await;
    let said = daemon.stdout();
    let address = |start: &str, end: &str| {
        let (_, rest) = said.split_once(start).unwrap_or_else(|| panic!("no {start} in\n{said}"));
        rest.split_once(end).expect("it ends").0.trim().parse().expect("an address")
    };
    (daemon.public, daemon.admin) = (address("http://", "/"), address("metrics     http://", "/metrics"));
    assert!(said.contains(&format!("websocat --no-close {}/", daemon.ws_url())), "{said}");
    daemon.ready().await;
    let mut client = Client::connect(&daemon.ws_url()).await;
    client.subscribe(json!(["newHeads"])).await;
    client.subscribe(json!(["logs", {}])).await;
    let (mut heads, mut logs) = (0, 0);
    while heads < 5 || logs == 0 {
        let (_, event) = client.notification().await.expect("events come");
        if event.get("parentHash").is_some() { heads += 1 } else { logs += 1 }
    }
    assert!(http::get(daemon.public, "/").await.body.contains("<html"), "the live page is there");
    assert_eq!(http::get(daemon.admin, "/metrics").await.status, 200);
    daemon.signal("INT");
    assert_eq!(client.end().await, End::Closed(1012, "restart".to_owned()));
    drop(client);
    assert_eq!(daemon.ended().await.code(), Some(0), "{}", daemon.stderr());
    assert_eq!(daemon.stderr(), "", "a demo that goes well has nothing to complain of");
}
