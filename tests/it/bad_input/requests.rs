//! Text that is no request, and requests that ask for nothing there is; on a WebSocket and by POST alike.

use serde_json::{Value, json};

use super::{Scene, error};
use crate::harness::http;

/// Text, and the id, code and beginning of the message that must come back.
fn texts() -> Vec<(String, Value, i64, &'static str)> {
    let null = || Value::Null;
    let deep = format!("{}1{}", "[".repeat(17), "]".repeat(17));
    let long_id = format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"eth_chainId"}}"#, "i".repeat(127));
    let long_method = format!(r#"{{"jsonrpc":"2.0","id":3,"method":"{}"}}"#, "m".repeat(65));
    let of = |text: &str| text.to_owned();
    vec![
        (of("nonsense"), null(), -32700, "parse error"),
        (of(r#"{"jsonrpc":"2.0","id":1,"method":"eth_chainId""#), null(), -32700, "parse error"),
        (of(r#"{"jsonrpc":"2.0","id":1,"method":"eth_chainId"} more"#), null(), -32700, "parse error"),
        (of(r#"{"jsonrpc":"2.0","id":1e,"method":"eth_chainId"}"#), null(), -32700, "parse error"),
        (of(r#"[{"jsonrpc":"2.0","id":1,"method":"eth_chainId"},]"#), null(), -32700, "parse error"),
        (of("17"), null(), -32600, "invalid request"),
        (of("null"), null(), -32600, "invalid request"),
        (of(r#""eth_chainId""#), null(), -32600, "invalid request"),
        (of("{}"), null(), -32600, "invalid request"),
        (of("[]"), null(), -32600, "empty batch"),
        (of(r#"{"id":1,"method":"eth_chainId"}"#), json!(1), -32600, "invalid request"),
        (of(r#"{"jsonrpc":"1.0","id":1,"method":"eth_chainId"}"#), json!(1), -32600, "invalid request"),
        (of(r#"{"jsonrpc":"2.0","id":1}"#), json!(1), -32600, "invalid request"),
        (of(r#"{"jsonrpc":"2.0","id":1,"method":7}"#), json!(1), -32600, "invalid request"),
        (of(r#"{"jsonrpc":"2.0","id":{},"method":"eth_chainId"}"#), null(), -32600, "invalid request"),
        (of(r#"{"jsonrpc":"2.0","id":[1],"method":"eth_chainId"}"#), null(), -32600, "invalid request"),
        (deep, null(), -32600, "nested deeper than 16 levels"),
        (long_id, null(), -32600, "id longer than 128 bytes"),
        (long_method, json!(3), -32600, "method name longer than 64 bytes"),
        (call("eth_foo", "[]"), json!(1), -32601, "the method eth_foo does not exist/is not available"),
        (call("admin_peers", "[]"), json!(1), -32601, "the method admin_peers does not exist/is not available"),
        (call("eth_sign", r#"["0x","0x"]"#), json!(1), -32601, "the method eth_sign does not exist/is not available"),
        (call("eth_chainId", "{}"), json!(1), -32602, "non-array args"),
        (call("eth_chainId", "5"), json!(1), -32602, "non-array args"),
    ]
}

fn call(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#)
}

#[tokio::test]
async fn text_that_is_no_good_request_is_answered_with_its_error() {
    let mut scene = Scene::start(&[]).await;
    let mut client = scene.stage.client().await;
    let address = scene.stage.gateway.address();
    for (text, id, code, words) in texts() {
        for answer in [client.exchange(text.clone()).await, http::post(address, &text).await.json()] {
            let (got_id, got_code, message) = error(&answer);
            assert_eq!((got_id, got_code), (id.clone(), code), "{text:.80} got {message}");
            assert!(message.starts_with(words), "{text:.80} got {message}");
        }
    }
    scene.goes_on().await;
    assert_eq!(client.call("eth_chainId", json!([])).await["result"], "0x539", "the connection works as before");
    scene.end().await;
}

#[tokio::test]
async fn a_batch_answers_each_of_its_members() {
    let scene = Scene::start(&[]).await;
    let mut client = scene.stage.client().await;
    let batch =
        format!("[5,{},{},{{}}]", call("eth_chainId", "[]").replace(":1,", ":7,"), call("eth_subscribe", "[\"x\"]"));
    let answer = client.exchange(batch).await;
    let answers = answer.as_array().expect("a batch is answered by an array");
    assert_eq!(answers.len(), 4);
    assert_eq!(error(&answers[0]), (Value::Null, -32600, "invalid request".to_owned()));
    assert_eq!(answers[1], json!({"jsonrpc": "2.0", "id": 7, "result": "0x539"}));
    assert_eq!(error(&answers[2]), (json!(1), -32601, "no \"x\" subscription in eth namespace".to_owned()));
    assert_eq!(error(&answers[3]), (Value::Null, -32600, "invalid request".to_owned()));
    scene.end().await;
}

#[tokio::test]
async fn ten_megabytes_of_brackets_end_one_connection_and_nothing_else() {
    let brackets = "[".repeat(10_000_000);
    let scene = Scene::start(&[]).await;
    let mut client = scene.stage.client().await;
    // The gateway closes at the header of the frame, so that the rest may find nobody to read it.
    drop(futures_util::SinkExt::send(client.socket(), brackets.as_str().into()).await);
    let address = scene.stage.gateway.address();
    let posted = http::exchange(address, http::posting(address, "application/json", &brackets).as_bytes()).await;
    // A reset may swallow the answer of a side that does not read on; what counts is that nothing else came.
    assert!(posted.is_none_or(|reply| reply.status == 413));
    crate::harness::until("the connection is closed", async || scene.stage.gateway.closed("too_big") == 1).await;
    scene.end().await;

    let scene = Scene::start(&[("limits.message_max_bytes", "16777216")]).await;
    let mut client = scene.stage.client().await;
    let refused = error(&client.exchange(brackets.clone()).await);
    assert_eq!(refused, (Value::Null, -32600, "nested deeper than 16 levels".to_owned()));
    let posted = http::post(scene.stage.gateway.address(), &brackets).await;
    assert_eq!(error(&posted.json()), refused);
    scene.end().await;
}

#[tokio::test]
async fn a_subscription_of_another_connection_is_not_there() {
    let mut scene = Scene::start(&[]).await;
    let mut other = scene.stage.client().await;
    let filter = json!(["logs", { "address": "0x00000000000000000000000000000000000000aa" }]);
    let mut owner = scene.stage.client().await;
    let id = owner.subscribe(filter.clone()).await;
    let refused = error(&other.call("eth_unsubscribe", json!([id])).await);
    assert_eq!((refused.1, refused.2.as_str()), (-32000, "subscription not found"));

    // Ids of equal streams are equal on all connections; an end concerns the own one only.
    let heads = other.subscribe(json!(["newHeads"])).await;
    assert_eq!(owner.subscribe(json!(["newHeads"])).await, heads);
    assert_eq!(other.call("eth_unsubscribe", json!([heads])).await["result"], true);
    assert_eq!(error(&other.call("eth_unsubscribe", json!([heads])).await).2, "subscription not found");
    scene.goes_on().await;
    assert_eq!(owner.notification().await.expect("its subscription stands").0, heads);
    assert_eq!(owner.call("eth_unsubscribe", json!([id])).await["result"], true);

    for (params, code, message) in [
        (json!([]), -32602, "missing value for required argument 0"),
        (json!([5]), -32602, "invalid argument 0: "),
        (json!(["0x1", "0x2"]), -32602, "too many arguments, want at most 1"),
        (json!({}), -32602, "non-array args"),
        (json!(["0x1"]), -32000, "subscription not found"),
        (json!(["nonsense"]), -32000, "subscription not found"),
    ] {
        let (_, got, words) = error(&other.call("eth_unsubscribe", params.clone()).await);
        assert!(got == code && words.starts_with(message), "{params}: {got} {words}");
    }
    scene.end().await;
}

#[tokio::test]
async fn over_http_there_is_nothing_to_subscribe_to() {
    let scene = Scene::start(&[]).await;
    let reply = http::post(scene.stage.gateway.address(), &call("eth_subscribe", r#"["newHeads"]"#)).await;
    assert_eq!(error(&reply.json()), (json!(1), -32601, "notifications not supported".to_owned()));
    scene.end().await;
}
