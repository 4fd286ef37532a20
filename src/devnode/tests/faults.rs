//! Faults: each is switched on, seen by a client, and switched off again.

use futures_util::{SinkExt as _, StreamExt as _};
use jsonrpsee::core::ClientError;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::*;

#[tokio::test]
async fn cut_connections_end_at_once_and_new_ones_are_fine() {
    let (chain, node) = chain_and_node();
    let clients = [connect(&node).await, connect(&node).await];
    let mut heads = subscribe(&clients[0], rpc_params!["newHeads"]).await;
    assert_eq!(node.faults().cut_connections(), 2);
    for client in &clients {
        soon(client.on_disconnect()).await;
    }
    assert!(soon(heads.next()).await.is_none());
    let client = connect(&node).await;
    let mut heads = subscribe(&client, rpc_params!["newHeads"]).await;
    let mined = chain.mine(0);
    assert_eq!(next(&mut heads).await, block(&chain, mined.hash).header_json());
    assert_eq!(node.counters().connections_accepted(), 3);
}

#[tokio::test]
async fn refused_connects_fail_while_open_connections_stay() {
    let (_chain, node) = chain_and_node();
    let client = connect(&node).await;
    for _ in 0..3 {
        node.faults().refuse_connections(true).expect("the port");
        let refused = TcpStream::connect(node.address()).await.expect_err("nobody listens");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        call(&client, "eth_chainId", rpc_params![]).await;
        node.faults().refuse_connections(false).expect("the port");
        call(&connect(&node).await, "eth_chainId", rpc_params![]).await;
    }
}

#[tokio::test]
async fn a_node_may_close_right_after_the_handshake() {
    let (_chain, node) = chain_and_node();
    node.faults().set_handshake(Handshake::AcceptAndClose);
    let client = soon(WsClientBuilder::default().build(node.ws_url())).await.expect("the upgrade is accepted");
    soon(client.on_disconnect()).await;
    node.faults().set_handshake(Handshake::Accept);
    call(&connect(&node).await, "eth_chainId", rpc_params![]).await;
}

#[tokio::test]
async fn a_node_may_answer_a_web_page() {
    let (_chain, node) = chain_and_node();
    node.faults().set_handshake(Handshake::Html);
    let refused = soon(WsClientBuilder::default().build(node.ws_url())).await.expect_err("no upgrade");
    assert!(matches!(refused, ClientError::Transport(_)), "{refused:?}");
    node.faults().set_handshake(Handshake::Accept);
    call(&connect(&node).await, "eth_chainId", rpc_params![]).await;
}

/// A masked WebSocket ping from a client, with an empty payload.
const CLIENT_PING: [u8; 6] = [0x89, 0x80, 0, 0, 0, 0];
const SERVER_PONG: [u8; 2] = [0x8a, 0];

async fn bare_websocket(node: &DevNode) -> TcpStream {
    let mut socket = TcpStream::connect(node.address()).await.expect("a connection");
    let request = "GET / HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(soon(socket.read_u8()).await.expect("an answer"));
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"));
    socket
}

#[tokio::test]
async fn a_stalled_node_answers_not_even_pings_and_goes_on_where_it_stopped() {
    let (chain, node) = chain_and_node();
    let client = connect(&node).await;
    let mut heads = subscribe(&client, rpc_params!["newHeads"]).await;
    let mut bare = bare_websocket(&node).await;
    bare.write_all(&CLIENT_PING).await.expect("sent");
    let mut pong = [0; 2];
    soon(bare.read_exact(&mut pong)).await.expect("a pong");
    assert_eq!(pong, SERVER_PONG);

    node.faults().stall(true);
    bare.write_all(&CLIENT_PING).await.expect("the socket is open");
    let mined: Vec<BlockRef> = (0..3).map(|_| chain.mine(1)).collect();
    soon(node.caught_up()).await;
    let mut late = TcpStream::connect(node.address()).await.expect("the kernel accepts");
    late.write_all(b"GET / HTTP/1.0\r\n\r\n").await.expect("sent");
    let quiet = Duration::from_millis(100);
    let mut byte = [0];
    assert!(tokio::time::timeout(quiet, bare.read(&mut byte)).await.is_err(), "no pong");
    assert!(tokio::time::timeout(quiet, late.read(&mut byte)).await.is_err(), "no answer");
    assert!(tokio::time::timeout(quiet, heads.next()).await.is_err(), "no head");

    node.faults().stall(false);
    assert_eq!(take(&mut heads, 3).await, headers(&chain, &mined));
    soon(bare.read_exact(&mut pong)).await.expect("a pong");
    assert_eq!(pong, SERVER_PONG);
    assert_eq!(soon(late.read(&mut byte)).await.expect("an answer"), 1);
}

#[tokio::test]
async fn a_stalled_connection_can_still_be_cut() {
    let (chain, node) = chain_and_node();
    let client = connect(&node).await;
    let _heads = subscribe(&client, rpc_params!["newHeads"]).await;
    node.faults().stall(true);
    chain.mine(1);
    soon(node.caught_up()).await;
    node.faults().cut_connections();
    soon(client.on_disconnect()).await;
}

#[tokio::test]
async fn a_lagging_node_neither_tells_nor_knows_what_is_new() {
    let (chain, node) = chain_and_node();
    let client = connect(&node).await;
    let mut heads = subscribe(&client, rpc_params!["newHeads"]).await;
    node.faults().set_lag(Duration::MAX);
    let mined = chain.mine(2);
    let by_hash = rpc_params![json!({"blockHash": mined.hash.to_string()})];
    assert_eq!(call(&client, "eth_blockNumber", rpc_params![]).await, "0x0");
    assert_eq!(call_error(&client, "eth_getLogs", by_hash).await.1, "unknown block");
    nothing_before_an_answer(&client, &mut heads).await;
    node.faults().set_lag(Duration::ZERO);
    assert_eq!(next(&mut heads).await, block(&chain, mined.hash).header_json());
    assert_eq!(call(&client, "eth_blockNumber", rpc_params![]).await, "0x1");

    let lag = Duration::from_millis(50);
    node.faults().set_lag(lag);
    let start = Instant::now();
    let mined = [chain.mine(0), chain.mine(0)];
    assert_eq!(take(&mut heads, 2).await, headers(&chain, &mined));
    assert!(start.elapsed() >= lag);
}

#[tokio::test]
async fn heads_may_be_silent_doubled_or_without_a_parent() {
    let (chain, node) = chain_and_node();
    let client = connect(&node).await;
    let mut heads = subscribe(&client, rpc_params!["newHeads"]).await;
    let faults = node.faults();

    faults.spoil("newHeads", Spoil::Silent, Span::Always);
    chain.mine(1);
    soon(node.caught_up()).await;
    nothing_before_an_answer(&client, &mut heads).await;
    assert_eq!(call(&client, "eth_blockNumber", rpc_params![]).await, "0x1", "calls still work");

    faults.unspoil("newHeads");
    faults.spoil("newHeads", Spoil::Twice, Span::Times(1));
    faults.spoil("newHeads", Spoil::NoParentHash, Span::Times(2));
    let mined = [chain.mine(0), chain.mine(0), chain.mine(0)];
    let got: Vec<Value> = take(&mut heads, 4).await.iter().map(|h| serde_json::from_str(h).expect("JSON")).collect();
    let hashes: Vec<_> = got.iter().map(|h| h["hash"].as_str().expect("a hash").to_owned()).collect();
    assert_eq!(hashes, [0, 0, 1, 2].map(|n: usize| mined[n].hash.to_string()));
    assert!(got[..3].iter().all(|h| h.get("parentHash").is_none()));
    assert_eq!(got[3].to_string().len(), block(&chain, mined[2].hash).header_json().len());
}

#[tokio::test]
async fn answers_may_be_empty_wrong_or_incomplete() {
    let (chain, node) = chain_and_node();
    let client = connect(&node).await;
    let blocks = [chain.mine(6), chain.mine(6)];
    soon(node.caught_up()).await;
    let faults = node.faults();
    let by_hash = || rpc_params![json!({"blockHash": blocks[1].hash.to_string()})];
    let get = async || call(&client, "eth_getLogs", by_hash()).await;
    let whole = get().await;
    assert_eq!(whole.as_array().map(Vec::len), Some(6));

    faults.spoil("eth_getLogs", Spoil::Empty, Span::Times(2));
    assert_eq!((get().await, get().await, get().await), (json!([]), json!([]), whole.clone()));
    faults.spoil("eth_getLogs", Spoil::OtherBlock, Span::Times(1));
    assert_eq!(get().await[0]["blockHash"], blocks[0].hash.to_string());
    faults.spoil("eth_getLogs", Spoil::LogHole, Span::Times(1));
    assert_eq!(get().await.as_array().map(Vec::len), Some(5));
    faults.spoil("eth_getLogs", Spoil::DoubledLogIndex, Span::Times(1));
    assert_eq!(get().await[1]["logIndex"], "0x0");
    faults.spoil("eth_getLogs", Spoil::rewrite(|v| v.as_array_mut().expect("logs").reverse()), Span::Times(1));
    assert_eq!(get().await[0], whole[5]);
    assert_eq!(get().await, whole);

    faults.spoil("eth_getBlockByHash", Spoil::Empty, Span::Always);
    let block = || rpc_params![blocks[1].hash.to_string(), false];
    assert_eq!(call(&client, "eth_getBlockByHash", block()).await, Value::Null);
    faults.unspoil_all();
    assert_eq!(call(&client, "eth_getBlockByHash", block()).await["hash"], blocks[1].hash.to_string());
}

#[tokio::test]
async fn a_block_that_a_node_lacks_may_have_no_logs_instead_of_an_error() {
    let (_chain, node) = chain_and_node();
    let client = connect(&node).await;
    let unknown = || rpc_params![json!({"blockHash": format!("0x{:064x}", 7)})];
    assert_eq!(call_error(&client, "eth_getLogs", unknown()).await.1, "unknown block");
    node.faults().spoil("eth_getLogs", Spoil::EmptyForError, Span::Times(1));
    assert_eq!(call(&client, "eth_getLogs", unknown()).await, json!([]));
}

#[tokio::test]
async fn a_head_may_be_announced_again() {
    let (chain, node) = chain_and_node();
    let client = connect(&node).await;
    let mut heads = subscribe(&client, rpc_params!["newHeads"]).await;
    let mined = chain.mine(1);
    soon(node.caught_up()).await;
    node.announce_head_again();
    assert_eq!(take(&mut heads, 2).await, headers(&chain, &[mined, mined]));
}

#[tokio::test]
async fn safe_and_finalized_stand_as_deep_as_the_chain_says_and_are_counted_apart() {
    let chain = SharedChain::new(DevOptions { safe_depth: 2, finalized_depth: 5, ..DevOptions::default() });
    let node = node(&chain);
    let client = connect(&node).await;
    chain.extend(&[0; 9]);
    soon(node.caught_up()).await;
    for (tag, number) in [("safe", "0x7"), ("finalized", "0x4"), ("latest", "0x9")] {
        assert_eq!(call(&client, "eth_getBlockByNumber", rpc_params![tag, false]).await["number"], number);
    }
    let calls = |name: &str| node.counters().calls(name);
    let counted = ["", " safe", " finalized"].map(|tag| calls(&format!("eth_getBlockByNumber{tag}")));
    assert_eq!(counted, [1, 1, 1]);
}

#[tokio::test]
async fn calls_may_fail_or_take_long_or_never_be_answered() {
    let (_chain, node) = chain_and_node();
    let client = connect(&node).await;
    let faults = node.faults();
    faults.spoil("eth_chainId", Spoil::Error(-32_000, "header not found".into()), Span::Times(1));
    assert_eq!(call_error(&client, "eth_chainId", rpc_params![]).await, (-32_000, "header not found".into()));

    let delay = Duration::from_millis(150);
    faults.spoil("eth_chainId", Spoil::Delay(delay), Span::Times(1));
    let start = Instant::now();
    call(&client, "eth_chainId", rpc_params![]).await;
    assert!(start.elapsed() >= delay);

    faults.spoil("eth_chainId", Spoil::Silent, Span::Times(1));
    let mut silent = Box::pin(client.request::<Value, _>("eth_chainId", rpc_params![]));
    assert!(futures_util::poll!(silent.as_mut()).is_pending());
    call(&client, "eth_blockNumber", rpc_params![]).await;
    assert!(futures_util::poll!(silent.as_mut()).is_pending(), "overtaken, as it will never come");
    faults.cut_connections();
    assert!(soon(silent).await.is_err());
}

#[tokio::test]
async fn a_node_may_belong_to_another_chain() {
    let (chain, node) = chain_and_node();
    let client = connect(&node).await;
    let faults = node.faults();
    faults.set_chain_id(Some(10));
    assert_eq!(call(&client, "eth_chainId", rpc_params![]).await, "0xa");
    assert_eq!(call(&client, "net_version", rpc_params![]).await, "10");
    faults.set_chain_id(None);
    assert_eq!(call(&client, "eth_chainId", rpc_params![]).await, "0x539");

    let genesis = async || call(&client, "eth_getBlockByNumber", rpc_params!["0x0", false]).await["hash"].clone();
    let own = chain.canonical_blocks()[0].hash().to_string();
    assert_eq!(genesis().await, own);
    faults.set_foreign_genesis(true);
    let foreign = genesis().await;
    assert_ne!(foreign, own);
    let found = call(&client, "eth_getBlockByHash", rpc_params![foreign.clone(), false]).await;
    assert_eq!(found["hash"], foreign);
    faults.set_foreign_genesis(false);
    assert_eq!(genesis().await, own);
}

#[tokio::test]
async fn a_node_may_say_that_it_is_syncing() {
    let (_chain, node) = chain_and_node();
    let client = connect(&node).await;
    let mut syncing = subscribe(&client, rpc_params!["syncing"]).await;
    node.faults().set_syncing(true);
    let told: Value = serde_json::from_str(&next(&mut syncing).await).expect("JSON");
    assert_eq!(told["syncing"], true);
    assert_eq!(call(&client, "eth_syncing", rpc_params![]).await, told["status"]);
    node.faults().set_syncing(false);
    assert_eq!(next(&mut syncing).await, "false");
    assert_eq!(call(&client, "eth_syncing", rpc_params![]).await, false);
}

#[tokio::test]
async fn any_text_can_be_put_between_the_nodes_own_frames() {
    let (chain, node) = chain_and_node();
    let (mut socket, _) = soon(Box::pin(tokio_tungstenite::connect_async(node.ws_url()))).await.expect("a connection");
    let mut read = async || soon(socket.next()).await.expect("open").expect("a whole frame").into_text().expect("text");
    assert_eq!(node.faults().send_text("no JSON"), 1);
    assert_eq!(read().await, "no JSON");

    let request = r#"{"jsonrpc":"2.0","id":1,"method":"eth_subscribe","params":["logs",{}]}"#;
    soon(socket.send(request.into())).await.expect("sent");
    let mut read = async || soon(socket.next()).await.expect("open").expect("a whole frame").into_text().expect("text");
    assert!(read().await.contains("\"id\":1,\"result\":\"0x"));
    // A frame of more than what a socket takes at once, among small ones.
    let large = "x".repeat(8 << 20);
    for _ in 0..10 {
        chain.mine(200);
        node.faults().send_text("never asked for");
    }
    node.faults().send_text(&large);
    let (mut logs, mut extra) = (0, 0);
    while logs < 2_000 || extra < 11 {
        let text = read().await;
        match text.as_str() {
            "never asked for" => extra += 1,
            text if text == large => extra += 1,
            text => {
                serde_json::from_str::<Value>(text).expect("the node's own frames are whole");
                logs += 1;
            }
        }
    }
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_is_cut_and_the_others_go_on() {
    let (chain, node) = chain_and_node();
    let reader = connect(&node).await;
    let mut heads = subscribe(&reader, rpc_params!["newHeads"]).await;
    let mut stuck = bare_websocket(&node).await;
    let request = br#"{"jsonrpc":"2.0","id":1,"method":"eth_subscribe","params":["logs",{}]}"#;
    // A masked text frame whose mask is zero, so the payload stands as it is.
    stuck.write_all(&[0x81, 0x80 | u8::try_from(request.len()).expect("short"), 0, 0, 0, 0]).await.expect("sent");
    stuck.write_all(request).await.expect("sent");
    let mut answer = [0; 2];
    soon(stuck.read_exact(&mut answer)).await.expect("an answer");
    let full = chain.mine(20_000);
    next(&mut heads).await;
    for flip in 0.. {
        assert!(flip < 20, "the outbox is bounded");
        let head = if flip % 2 == 0 { chain.canonical_blocks()[0].reference() } else { full };
        chain.set_head(head.hash);
        next(&mut heads).await;
        soon(node.caught_up()).await;
        if node.counters().overflows() > 0 {
            break;
        }
    }
    soon(node.caught_up()).await;
    assert_eq!(node.counters().subscriptions(Kind::Logs), 0);
    let mined = chain.mine(1);
    assert_eq!(next(&mut heads).await, block(&chain, mined.hash).header_json());
}
