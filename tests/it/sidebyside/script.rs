//! The exchanges of `tests/sidebyside/exchanges.json`, and what stands for `$NAMES` in them. Sends nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Deserializer};
use serde_json::json;
use serde_json::value::RawValue;

use crate::harness::geth::{Geth, TICK_TOPIC, tick_call};

/// One exchange: what is sent, and how the two sides' answers are compared.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Exchange {
    pub(super) name: String,
    #[serde(default)]
    pub(super) over: Over,
    /// The only message; `steps` where there are several, or where it needs more than its text.
    #[serde(default, deserialize_with = "even_null")]
    send: Option<Box<RawValue>>,
    #[serde(default)]
    steps: Vec<Step>,
    /// How many times the text is sent in a row, as one message.
    #[serde(default = "once")]
    times: usize,
    #[serde(default)]
    pub(super) http: Http,
    #[serde(default)]
    pub(super) moving: Vec<String>,
    #[serde(default)]
    pub(super) ids: Vec<String>,
}

/// The transport.
#[derive(Clone, Copy, Default, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Over {
    #[default]
    Ws,
    Http,
}

/// One message on a WebSocket, and what is waited for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    send: Box<RawValue>,
    /// The connection, by a name of the exchange's own.
    #[serde(default = "first_connection")]
    pub(super) on: String,
    #[serde(default)]
    pub(super) frame: Frame,
    /// How many answers are due.
    #[serde(default = "once")]
    pub(super) answers: usize,
    /// Whether the first notification is compared too.
    #[serde(default)]
    pub(super) notification: bool,
}

/// The kind of WebSocket message.
#[derive(Clone, Copy, Default, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Frame {
    #[default]
    Text,
    Binary,
}

/// The HTTP request around the text.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Http {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) headers: BTreeMap<String, String>,
}

impl Default for Http {
    fn default() -> Self {
        let headers = BTreeMap::from([("content-type".to_owned(), "application/json".to_owned())]);
        Self { method: "POST".to_owned(), path: "/".to_owned(), headers }
    }
}

/// An `Option` takes `null` for nothing; here it is a message like any other.
fn even_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::deserialize(deserializer).map(Some)
}

fn once() -> usize {
    1
}

fn first_connection() -> String {
    "a".to_owned()
}

/// Reads the script; a mistake in it is a panic that names the exchange.
pub(super) fn exchanges() -> Vec<Exchange> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sidebyside/exchanges.json");
    let text = std::fs::read_to_string(&path).expect("the script is readable");
    let mut exchanges: Vec<Exchange> = serde_json::from_str(&text).expect("the script is a list of exchanges");
    let mut names = BTreeSet::new();
    for exchange in &mut exchanges {
        assert!(names.insert(exchange.name.clone()), "two exchanges are named {:?}", exchange.name);
        assert!(exchange.send.is_some() == exchange.steps.is_empty(), "{:?}: one of send, steps", exchange.name);
        if let Some(send) = exchange.send.take() {
            let (on, frame) = (first_connection(), Frame::Text);
            exchange.steps.push(Step { send, on, frame, answers: 1, notification: false });
        }
    }
    exchanges
}

impl Exchange {
    pub(super) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The text of a step: a JSON string stands for its own text, anything else for itself as it is written.
    /// `subscription` is the last subscription's id, for `$SUB`.
    pub(super) async fn text(&self, step: &Step, world: &World<'_>, subscription: &str) -> String {
        let raw = step.send.get();
        let mut text = serde_json::from_str(raw).unwrap_or_else(|_| raw.to_owned()).repeat(self.times);
        if !text.contains('$') {
            return text;
        }
        if text.contains("$FRESH_TX") {
            text = text.replace("$FRESH_TX", &world.fresh_transaction().await);
        }
        text = text.replace("$SUB", subscription);
        // Longest first: $CONTRACT is the beginning of $CONTRACT_CAPITALS.
        for (name, value) in world.values.iter().rev() {
            text = text.replace(name, value);
        }
        assert!(!text.contains('$'), "{:?} names something unknown: {text:.300}", self.name);
        text
    }
}

/// The node's state that the exchanges refer to.
pub(super) struct World<'a> {
    geth: &'a Geth,
    contract: String,
    values: BTreeMap<&'static str, String>,
}

impl<'a> World<'a> {
    /// Puts the contract and some transactions on the chain, and writes down where they are.
    pub(super) async fn build(geth: &'a Geth) -> Self {
        let contract = geth.deploy_tick().await;
        for class in 0..2 {
            let raw = geth.signed(json!({ "to": contract, "data": tick_call(2, class) })).await;
            geth.ask("eth_sendRawTransaction", json!([raw])).await;
        }
        let receipt = geth.send_and_wait(json!({ "to": contract, "data": tick_call(2, 2) })).await;
        let member = |name: &str| receipt[name].as_str().expect("a receipt has texts").to_owned();
        let raw = geth.ask("eth_getRawTransactionByHash", json!([member("transactionHash")])).await;
        let mut values = BTreeMap::from([
            ("$NUMBER", member("blockNumber")),
            ("$HASH", member("blockHash")),
            ("$TX", member("transactionHash")),
            ("$RAW_TX", raw.as_str().expect("a raw transaction is a text").to_owned()),
            ("$CONTRACT", contract.clone()),
            ("$CONTRACT_CAPITALS", format!("0x{}", contract[2..].to_uppercase())),
            ("$SENDER", geth.account().to_owned()),
            ("$TOPIC0", TICK_TOPIC.to_owned()),
            ("$CALL_DATA", tick_call(1, 1)),
        ]);
        values.extend(bulk());
        Self { geth, contract, values }
    }

    async fn fresh_transaction(&self) -> String {
        self.geth.signed(json!({ "to": self.contract, "data": tick_call(1, 2) })).await
    }
}

/// What is too long to be written into the script.
fn bulk() -> [(&'static str, String); 11] {
    let many =
        |count: u64, digits: usize| (0..count).map(|n| format!("0x{n:0digits$x}")).collect::<Vec<_>>().join("\",\"");
    let call = |id| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"eth_chainId"}}"#);
    let batch = |size| format!("[{}]", (0..size).map(call).collect::<Vec<_>>().join(","));
    let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
    [
        ("$TOPICS_1000", many(1000, 64)),
        ("$TOPICS_1001", many(1001, 64)),
        ("$ADDRESSES_1000", many(1000, 40)),
        ("$ADDRESSES_1001", many(1001, 40)),
        ("$BATCH_100", batch(100)),
        ("$BATCH_1000", batch(1000)),
        ("$BATCH_1001", batch(1001)),
        ("$NESTED_200", nested(200)),
        ("$NESTED_20000", nested(20_000)),
        ("$LONG_NAME", "x".repeat(10_000)),
        ("$DIGITS_5000", "1".repeat(5000)),
    ]
}
