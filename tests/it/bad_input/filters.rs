//! Parameters of `eth_subscribe` and `eth_getLogs` that name no stream: refused in Geth's words, and never taken for a
//! filter that wants everything.

use serde_json::{Value, json};

use super::{Scene, error};

const ADDRESS_19: &str = "0x11111111111111111111111111111111111111";
const ADDRESS_21: &str = "0x111111111111111111111111111111111111111111";

/// Parameters of `eth_subscribe`, and the code and beginning of the message.
fn parameters() -> Vec<(Value, i64, &'static str)> {
    vec![
        (json!({}), -32602, "non-array args"),
        (json!([]), -32602, "expected subscription name as first argument"),
        (json!([null]), -32602, "expected subscription name as first argument"),
        (json!([5]), -32602, "expected subscription name as first argument"),
        (json!(["foo"]), -32601, "no \"foo\" subscription in eth namespace"),
        (json!(["NEWHEADS"]), -32601, "no \"NEWHEADS\" subscription in eth namespace"),
        (json!(["logs"]), -32602, "missing value for required argument 1"),
        (json!(["newHeads", 5]), -32602, "invalid argument 1"),
        (json!(["newHeads", {"cursors": true}]), -32602, "invalid argument 1: unknown option \"cursors\""),
        (json!(["newHeads", {}, {}]), -32602, "too many arguments, want at most 2"),
        (json!(["logs", {}, {}, {}]), -32602, "too many arguments, want at most 3"),
        (json!(["newPendingTransactions", "yes"]), -32602, "invalid argument 1"),
    ]
}

/// Filters, and the beginning of the message of their -32602.
fn filters() -> Vec<(Value, &'static str)> {
    let topic = format!("0x{}", "22".repeat(32));
    vec![
        (json!("all"), "invalid argument 1: json: cannot unmarshal string"),
        (
            json!({"address": ADDRESS_19}),
            "invalid argument 1: invalid address: hex has invalid length 19 after decoding",
        ),
        (
            json!({"address": ADDRESS_21}),
            "invalid argument 1: invalid address: hex has invalid length 21 after decoding",
        ),
        (json!({"address": "0x1"}), "invalid argument 1: invalid address: hex string of odd length"),
        (json!({"address": "11"}), "invalid argument 1: invalid address: hex string without 0x prefix"),
        (json!({"address": ["0xzz"]}), "invalid argument 1: invalid address at index 0"),
        (json!({"address": [7]}), "invalid argument 1: non-string address at index 0"),
        (json!({"address": {}}), "invalid argument 1: invalid addresses in query"),
        (json!({"topics": "0x1"}), "invalid argument 1: json: cannot unmarshal string"),
        (json!({"topics": [ADDRESS_19]}), "invalid argument 1: "),
        (json!({"topics": ["0x123"]}), "invalid argument 1: hex string of odd length"),
        (json!({"topics": [7]}), "invalid argument 1: invalid topic(s)"),
        (json!({"topics": [[7]]}), "invalid argument 1: invalid topic(s)"),
        (json!({"topics": [topic, topic, topic, topic, topic]}), "invalid argument 1: exceed max topics"),
        (json!({"topics": [null, null, null, null, null]}), "invalid argument 1: exceed max topics"),
        (json!({"fromBlock": "0x10000000000000000"}), "invalid argument 1: hex number > 64 bits"),
        (json!({"toBlock": "0x8000000000000000"}), "invalid argument 1: block number larger than int64"),
        (json!({"fromBlock": "0xzz"}), "invalid argument 1: invalid hex string"),
        (json!({"fromBlock": 1}), "invalid argument 1: hex string without 0x prefix"),
        (json!({"fromBlock": 1e30}), "invalid argument 1: hex string without 0x prefix"),
        (json!({"adress": ADDRESS_19}), "invalid argument 1: unknown filter key \"adress\""),
        (json!({"Address": ADDRESS_19}), "invalid argument 1: unknown filter key \"Address\""),
        (json!({"topic": []}), "invalid argument 1: unknown filter key \"topic\""),
        (json!({"fromBlock": "0x2", "toBlock": "0x1"}), "invalid block range params"),
        (json!({"blockHash": topic}), "invalid argument 1: a subscription takes no blockHash"),
    ]
}

#[tokio::test]
async fn parameters_that_name_no_stream_open_none() {
    let scene = Scene::start(&[]).await;
    let mut client = scene.stage.client().await;
    let logs = filters().into_iter().map(|(filter, words)| (json!(["logs", filter]), -32602, words));
    for (params, code, words) in parameters().into_iter().chain(logs) {
        let (_, got, message) = error(&client.call("eth_subscribe", params.clone()).await);
        assert!(got == code && message.starts_with(words), "{params}: {got} {message}");
    }
    // The 1,000 are Geth's own bound; what is between ours and that is a limit (see the limits' tests).
    let many = vec!["0x1111111111111111111111111111111111111111"; 1001];
    let (_, code, message) = error(&client.call("eth_subscribe", json!(["logs", { "address": many }])).await);
    assert_eq!((code, message.as_str()), (-32000, "exceed max addresses or topics per search position"));

    // One good subscription shows that none of those above is there: nothing else comes before its event.
    let id = client.subscribe(json!(["newHeads"])).await;
    let block = scene.stage.chain.mine(5);
    let (told, head) = client.notification().await.expect("the connection stands");
    assert_eq!((told, &head["hash"]), (id.clone(), &json!(block.hash)));
    scene.stage.chain.mine(5);
    assert_eq!(client.notification().await.expect("the connection stands").0, id, "no log came between");
    scene.end().await;
}

#[tokio::test]
async fn a_subscribe_without_an_id_is_refused_as_nobody_could_end_it() {
    let scene = Scene::start(&[]).await;
    let mut client = scene.stage.client().await;
    let refused = client.exchange(r#"{"jsonrpc":"2.0","method":"eth_subscribe","params":["newHeads"]}"#).await;
    assert_eq!(error(&refused), (Value::Null, -32600, "a subscription needs a request id".to_owned()));
    scene.stage.chain.mine(0);
    scene.stage.node.caught_up().await;
    assert_eq!(client.call("eth_chainId", json!([])).await["result"], "0x539");
    scene.end().await;
}

#[tokio::test]
async fn get_logs_refuses_the_same_mistakes() {
    let scene = Scene::start(&[("limits.calls_burst", "1000")]).await;
    let mut client = scene.stage.client().await;
    for filter in [
        json!({"address": ADDRESS_19}),
        json!({"address": ADDRESS_21}),
        json!({"address": "0x1"}),
        json!({"topics": [null, null, null, null, null]}),
        json!({"fromBlock": "0x10000000000000000"}),
        json!({"fromBlock": "latest", "toBlock": "0x0"}),
        json!("all"),
    ] {
        let (_, code, message) = error(&client.call("eth_getLogs", json!([filter])).await);
        assert!([-32602, -32000].contains(&code), "{filter}: {code} {message}");
    }
    scene.end().await;
}
