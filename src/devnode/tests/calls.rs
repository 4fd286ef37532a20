//! Calls: the answers are in Geth's form, and strict clients accept them.

use alloy::consensus::Transaction as _;
use alloy::consensus::proofs::calculate_transaction_root;
use alloy::rpc::types::{Block as RpcBlock, Log as RpcLog, TransactionReceipt};
use alloy_primitives::{U256, logs_bloom};
use serde_json::json;

use super::*;

#[tokio::test]
async fn blocks_hash_to_what_they_say_in_a_strict_clients_eyes() {
    let (chain, node) = chain_and_node();
    let client = connect(&node).await;
    chain.mine(30);
    let mined = chain.mine(75);
    soon(node.caught_up()).await;
    let text = call(&client, "eth_getBlockByNumber", rpc_params!["latest", true]).await;
    let parsed: RpcBlock = serde_json::from_value(text).expect("a block");
    assert_eq!(parsed.header.inner.hash_slow(), mined.hash);
    let envelopes: Vec<_> = parsed.transactions.txns().map(|tx| tx.inner.inner().clone()).collect();
    assert!(envelopes.iter().all(|tx| tx.chain_id() == Some(1337)));
    assert_eq!(calculate_transaction_root(&envelopes), parsed.header.transactions_root);

    let logs: Vec<RpcLog> = serde_json::from_value(
        call(&client, "eth_getLogs", rpc_params![json!({"blockHash": mined.hash.to_string()})]).await,
    )
    .expect("logs");
    assert_eq!(logs.len(), 75);
    assert_eq!(logs_bloom(logs.iter().map(|log| &log.inner)), parsed.header.logs_bloom);
    let receipts: Vec<TransactionReceipt> =
        serde_json::from_value(call(&client, "eth_getBlockReceipts", rpc_params![mined.hash.to_string()]).await)
            .expect("receipts");
    assert_eq!(receipts.iter().flat_map(TransactionReceipt::logs).count(), 75);
    assert_eq!(receipts.last().map(|r| r.inner.cumulative_gas_used()), Some(parsed.header.gas_used));
}

#[tokio::test]
async fn blocks_are_found_by_number_tag_and_hash() {
    let (chain, node) = chain_and_node();
    let client = connect(&node).await;
    let blocks: Vec<BlockRef> = (0..30).map(|_| chain.mine(2)).collect();
    soon(node.caught_up()).await;
    let number = |value: Value| value["number"].as_str().expect("a number").to_owned();
    for (tag, expected) in [
        ("latest", "0x1e"),
        ("pending", "0x1e"),
        ("safe", "0x16"),
        ("finalized", "0xe"),
        ("earliest", "0x0"),
        ("0x7", "0x7"),
    ] {
        let header = call(&client, "eth_getHeaderByNumber", rpc_params![tag]).await;
        assert_eq!(number(header), expected, "{tag}");
    }
    let hash = blocks[4].hash.to_string();
    let by_hash = call(&client, "eth_getBlockByHash", rpc_params![&hash, false]).await;
    assert_eq!(by_hash, serde_json::from_str::<Value>(&block(&chain, blocks[4].hash).block_json(false)).expect("JSON"));
    assert_eq!(call(&client, "eth_getBlockTransactionCountByHash", rpc_params![&hash]).await, {
        json!(format!("{:#x}", block(&chain, blocks[4].hash).transactions().len()))
    });
    assert_eq!(call(&client, "eth_getBlockByNumber", rpc_params!["0xffff", false]).await, Value::Null);
    assert_eq!(call(&client, "eth_getBlockByHash", rpc_params![B256::ZERO.to_string(), false]).await, Value::Null);
}

#[tokio::test]
async fn an_orphan_is_found_by_hash_but_no_longer_by_number_and_its_transactions_move() {
    let (chain, node) = chain_and_node();
    let client = connect(&node).await;
    let old = chain.mine(60);
    let new = chain.replace(1, &[60])[0];
    soon(node.caught_up()).await;
    let found = call(&client, "eth_getBlockByHash", rpc_params![old.hash.to_string(), false]).await;
    assert_eq!(found["hash"], old.hash.to_string());
    let found = call(&client, "eth_getBlockByNumber", rpc_params!["0x1", false]).await;
    assert_eq!(found["hash"], new.hash.to_string());
    let moved = block(&chain, old.hash)
        .transactions()
        .map(|tx| tx.hash())
        .find(|tx| block(&chain, new.hash).transactions().any(|other| other.hash() == *tx));
    let moved = moved.expect("some are mined again").to_string();
    let receipt = call(&client, "eth_getTransactionReceipt", rpc_params![&moved]).await;
    assert_eq!(receipt["blockHash"], new.hash.to_string());
    let index = receipt["transactionIndex"].clone();
    let by_index =
        call(&client, "eth_getTransactionByBlockHashAndIndex", rpc_params![new.hash.to_string(), index]).await;
    assert_eq!(by_index["hash"], moved);
}

#[tokio::test]
async fn logs_are_found_by_block_and_range() {
    let (chain, node) = chain_and_node();
    let client = connect(&node).await;
    let blocks: Vec<BlockRef> = (0..5).map(|n| chain.mine(10 * n)).collect();
    soon(node.caught_up()).await;
    let expected = |blocks: &[BlockRef]| -> Value {
        logs(&chain, blocks, false).iter().map(|l| serde_json::from_str::<Value>(l).expect("JSON")).collect()
    };
    let get = async |filter: Value| call(&client, "eth_getLogs", rpc_params![filter]).await;
    assert_eq!(get(json!({"blockHash": blocks[3].hash.to_string()})).await, expected(&blocks[3..4]));
    assert_eq!(get(json!({"fromBlock": "0x2", "toBlock": "0x4"})).await, expected(&blocks[1..4]));
    assert_eq!(get(json!({"fromBlock": "earliest", "toBlock": "latest"})).await, expected(&blocks));
    assert_eq!(get(json!({})).await, expected(&blocks[4..]));
    let refused = async |filter: Value| call_error(&client, "eth_getLogs", rpc_params![filter]).await;
    assert_eq!(refused(json!({"blockHash": B256::ZERO.to_string()})).await, (-32_000, "unknown block".into()));
    assert_eq!(
        refused(json!({"fromBlock": "0x4", "toBlock": "0x2"})).await,
        (-32_602, "invalid block range params".into())
    );
    let beyond = (-32_602, "block range extends beyond current head block".into());
    assert_eq!(refused(json!({"fromBlock": "0x4", "toBlock": "0xff"})).await, beyond);
}

#[tokio::test]
async fn tokens_answer_their_read_only_functions() {
    let (chain, node) = chain_and_node();
    let client = connect(&node).await;
    let economy = chain.economy();
    let token = &economy.tokens()[1];
    let eth_call = async |data: String| -> String {
        let call_object = json!({"to": token.address.to_string(), "data": data});
        call(&client, "eth_call", rpc_params![call_object, "latest"]).await.as_str().expect("hex").to_owned()
    };
    assert_eq!(eth_call("0x313ce567".into()).await, format!("0x{:064x}", token.decimals));
    assert!(eth_call("0x95d89b41".into()).await.contains(&alloy_primitives::hex::encode(&token.symbol)));
    let balance = async |holder: usize| -> U256 {
        let owner = alloy_primitives::hex::encode(economy.holders()[holder].into_word());
        eth_call(format!("0x70a08231{owner}")).await.parse().expect("a word")
    };
    let mut before = Vec::new();
    for holder in 0..48 {
        before.push(balance(holder).await);
    }
    assert_eq!(eth_call("0x18160ddd".into()).await, format!("0x{:064x}", before.iter().sum::<U256>()));
    let mined = chain.mine(1);
    soon(node.caught_up()).await;
    let mined = block(&chain, mined.hash);
    let transfer = mined.logs().next().expect("one log").transfer;
    let moved = if transfer.token == 1 { U256::from(transfer.amount) } else { U256::ZERO };
    let (from, to) = (usize::from(transfer.from), usize::from(transfer.to));
    if from != to {
        assert_eq!(balance(from).await, before[from] - moved);
        assert_eq!(balance(to).await, before[to] + moved);
    }
}

#[tokio::test]
async fn a_raw_transaction_is_announced_and_mined_without_logs() {
    let (chain, node) = chain_and_node();
    let client = connect(&node).await;
    // Composed on a chain of another seed, so this one does not have it.
    let other = SharedChain::new(DevOptions { seed: 99, ..DevOptions::default() });
    let mut raw = Vec::new();
    let foreign = other.mine(1);
    block(&other, foreign.hash).transactions().next().expect("one").encode(&mut raw);
    let mut pending = subscribe(&client, rpc_params!["newPendingTransactions"]).await;
    let hash = call(&client, "eth_sendRawTransaction", rpc_params![alloy_primitives::hex::encode_prefixed(&raw)]).await;
    assert_eq!(next(&mut pending).await, hash.to_string());
    assert_eq!(call(&client, "eth_getTransactionReceipt", rpc_params![hash.clone()]).await, Value::Null);
    let mined = chain.mine(5);
    soon(node.caught_up()).await;
    let receipt = call(&client, "eth_getTransactionReceipt", rpc_params![hash]).await;
    assert_eq!((&receipt["blockHash"], &receipt["logs"]), (&json!(mined.hash.to_string()), &json!([])));
    assert_eq!(block(&chain, mined.hash).log_count(), 5);
}

#[tokio::test]
async fn small_calls_and_refusals_are_in_geths_words() {
    let (chain, node) = chain_and_node();
    let client = connect(&node).await;
    chain.mine(4);
    soon(node.caught_up()).await;
    for (method, expected) in [
        ("eth_chainId", json!("0x539")),
        ("net_version", json!("1337")),
        ("net_listening", json!(true)),
        ("eth_blockNumber", json!("0x1")),
        ("eth_syncing", json!(false)),
        ("eth_accounts", json!([])),
        ("eth_gasPrice", json!("0x3b9aca01")),
        ("eth_blobBaseFee", json!("0x1")),
    ] {
        assert_eq!(call(&client, method, rpc_params![]).await, expected, "{method}");
    }
    let history = call(&client, "eth_feeHistory", rpc_params!["0x2", "latest", [25, 75]]).await;
    assert_eq!((&history["oldestBlock"], history["baseFeePerGas"].as_array().map(Vec::len)), (&json!("0x0"), Some(3)));
    let refused = async |method: &str, params: ArrayParams| call_error(&client, method, params).await;
    let missing = (-32_602, "missing value for required argument 0".to_owned());
    assert_eq!(refused("eth_getBalance", rpc_params![]).await, missing);
    assert_eq!(refused("eth_getBalance", rpc_params![B256::ZERO.to_string()]).await.0, -32_602);
    let unknown = (-32_601, "the method foo_bar does not exist/is not available".to_owned());
    assert_eq!(refused("foo_bar", rpc_params![]).await, unknown);
    assert_eq!(refused("eth_unsubscribe", rpc_params!["0x1234"]).await, (-32_000, "subscription not found".into()));
    let kind = (-32_601, "no \"foo\" subscription in eth namespace".to_owned());
    assert_eq!(refused("eth_subscribe", rpc_params!["foo"]).await, kind);
    assert_eq!(node.counters().calls("eth_chainId"), 1);
}

#[tokio::test]
async fn http_on_the_same_port_answers_calls_and_refuses_subscriptions() {
    use jsonrpsee::http_client::HttpClientBuilder;
    let (chain, node) = chain_and_node();
    chain.mine(1);
    soon(node.caught_up()).await;
    let client = HttpClientBuilder::default().build(node.http_url()).expect("a client");
    let mut batch = jsonrpsee::core::params::BatchRequestBuilder::new();
    batch.insert("eth_blockNumber", rpc_params![]).expect("JSON");
    batch.insert("foo_bar", rpc_params![]).expect("JSON");
    let answers: Vec<_> = soon(client.batch_request::<Value>(batch)).await.expect("answers").into_iter().collect();
    assert_eq!(answers[0].as_ref().expect("an answer"), "0x1");
    assert_eq!(answers[1].as_ref().expect_err("a refusal").code(), -32_601);
    let refused = soon(client.request::<Value, _>("eth_subscribe", rpc_params!["newHeads"])).await;
    assert!(refused.expect_err("not over HTTP").to_string().contains("notifications not supported"));
}
