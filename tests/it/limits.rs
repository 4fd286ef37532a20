//! Each limit of the configuration, reached by a client that asks too much: it is told which limit, over what, and when
//! to come back, or is closed with the reason; the count is in the metrics; and a client beside it stays exact.

mod asking;
mod connecting;
mod reading;

use serde_json::Value;

use crate::harness::{Stage, Watcher};

/// The limit and scope of an answer that refuses by -32005; such an answer also says when to come back.
fn limit(answer: &Value) -> (String, String) {
    let error = &answer["error"];
    assert_eq!(error["code"], -32005, "{answer}");
    let text = |key: &str| error["data"][key].as_str().unwrap_or_else(|| panic!("no {key} in {answer}")).to_owned();
    let (limit, scope) = (text("limit"), text("scope"));
    assert_eq!(error["message"], format!("limit exceeded: {limit} per {scope}"));
    assert!(error["data"]["retryAfterMs"].is_u64(), "{answer}");
    (limit, scope)
}

/// When a refused client is told to come back.
fn retry_after_ms(answer: &Value) -> u64 {
    answer["error"]["data"]["retryAfterMs"].as_u64().expect("it is told when")
}

/// Asserts what an answer refuses, and how often that is in the metrics by now.
fn refused(stage: &Stage, answer: &Value, name: &str, scope: &str, times: u64) {
    assert_eq!(limit(answer), (name.to_owned(), scope.to_owned()));
    assert_eq!(stage.gateway.refused(name, scope), times, "{name} per {scope} is counted");
}

/// The client beside must be exact; then all ends well.
async fn end(stage: Stage, mut beside: Watcher) {
    beside.lives(&stage.chain).await;
    assert_eq!(stage.gateway.metrics.panics.get(), 0);
    drop(beside);
    stage.stop().await;
}
