//! What a client may do wrong, one line of the issue and of Geth's form after the other: each gets its clear answer or
//! close, and neither the process nor the client beside it notices.

mod filters;
mod frames;
mod posts;
mod requests;

use serde_json::Value;

use crate::harness::{Stage, Watcher};

/// A gateway and a client that does everything right, to be asked at the end whether it noticed anything.
struct Scene {
    stage: Stage,
    beside: Watcher,
}

impl Scene {
    async fn start(keys: &[(&str, &str)]) -> Self {
        let stage = Stage::start(keys).await;
        let beside = stage.watcher().await;
        let mut scene = Self { stage, beside };
        scene.goes_on().await;
        scene
    }

    /// The client beside gets another block, and its view has been the chain's all the time.
    async fn goes_on(&mut self) {
        self.beside.lives(&self.stage.chain).await;
    }

    /// The same at the end; the gateway must then end well too, and no task of it may have panicked.
    async fn end(mut self) {
        self.goes_on().await;
        assert_eq!(self.stage.gateway.metrics.panics.get(), 0);
        // A client that does not read does not answer the close frame either, and would be waited for.
        drop(self.beside);
        self.stage.stop().await;
    }
}

/// The id, code and message of an error answer, which must have the form of JSON-RPC 2.0 and no more.
fn error(answer: &Value) -> (Value, i64, String) {
    let members: Vec<_> = answer.as_object().expect("an answer is an object").keys().map(String::as_str).collect();
    assert_eq!(members, ["error", "id", "jsonrpc"], "{answer}");
    let code = answer["error"]["code"].as_i64().expect("a code is a number");
    let message = answer["error"]["message"].as_str().expect("a message is text");
    (answer["id"].clone(), code, message.to_owned())
}
