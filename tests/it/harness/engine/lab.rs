//! Blocks on any parent: a builder node works out what a block leads to, and executes it like any other node.
//!
//! `eth_simulateV1` on a parent gives all of a header that needs the state; the transactions are put under it signed.
//! So the builder needs no head, no pool, and no waiting. Owns the builder and the form of a payload.

use std::sync::Arc;

use alloy::consensus::{Header, TxEnvelope, proofs::calculate_transaction_root};
use alloy::eips::Encodable2718;
use alloy_primitives::hex;
use serde_json::{Value, json};

use super::genesis::Tick;
use super::{EngineNode, KEEPING_STATES, Oracle};
use crate::harness::geth::quantity;

/// Seconds between a block and its parent, as the blocks say.
const BLOCK_TIME: u64 = 12;

/// A block: what a node is given, and what clients are to get.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) number: u64,
    pub(crate) hash: String,
    pub(crate) parent: String,
    pub(super) payload: Value,
    /// As `newHeads` tells it.
    pub(crate) header: Value,
    pub(crate) logs: Vec<Value>,
    timestamp: u64,
    /// The sender's next nonce.
    nonce: u64,
}

/// The maker of blocks.
pub(crate) struct Lab {
    builder: EngineNode,
    /// What is true of each block.
    pub(crate) oracle: Arc<Oracle>,
    /// Makes each block different from all others.
    serial: u64,
}

impl Lab {
    /// Starts the builder; it keeps the state of every block.
    pub(crate) async fn start() -> Self {
        let builder = EngineNode::start(KEEPING_STATES).await;
        Self { builder, oracle: Arc::default(), serial: 0 }
    }

    /// The genesis block, which every node has.
    pub(crate) async fn genesis(&self) -> Arc<Block> {
        let header = self.builder.ask("eth_getBlockByNumber", json!(["0x0", false])).await;
        self.known(&header, Value::Null, 0).await
    }

    /// A block on `parent`: a transaction for each entry of `ticks`, with so many logs and one more.
    pub(crate) async fn build(&mut self, parent: &Block, ticks: &[u64]) -> Arc<Block> {
        self.serial += 1;
        let call = |(nonce, ticks): (u64, &u64)| Tick { nonce, ticks: *ticks, class: nonce % 4 };
        let calls: Vec<Tick> = (parent.nonce..).zip(ticks).map(call).collect();
        let simulated = self.simulate(parent, &calls).await;
        let signed: Vec<TxEnvelope> = calls.iter().map(|call| call.signed()).collect();
        let mut header: Header = serde_json::from_value(simulated.clone()).expect("a block has a header");
        header.transactions_root = calculate_transaction_root(&signed);
        let hash = header.hash_slow().to_string();
        let payload = payload(&simulated, &hash, &signed);
        self.builder.give_payload(&payload, &simulated["parentBeaconBlockRoot"]).await;
        let block = self.builder.ask("eth_getBlockByHash", json!([hash, false])).await;
        self.known(&block, payload, parent.nonce + ticks.len() as u64).await
    }

    /// Blocks on each other, the first of them on `parent`.
    pub(crate) async fn branch(&mut self, parent: &Arc<Block>, ticks: &[&[u64]]) -> Vec<Arc<Block>> {
        let mut blocks = Vec::with_capacity(ticks.len());
        for ticks in ticks {
            let parent = blocks.last().unwrap_or(parent).clone();
            blocks.push(self.build(&parent, ticks).await);
        }
        blocks
    }

    async fn simulate(&self, parent: &Block, calls: &[Tick]) -> Value {
        let overrides = json!({
            "time": format!("{:#x}", parent.timestamp + BLOCK_TIME),
            "beaconRoot": format!("{:#066x}", self.serial),
        });
        let calls: Vec<Value> = calls.iter().map(|call| call.call()).collect();
        let block = json!({"blockOverrides": overrides, "calls": calls});
        let request = json!({"blockStateCalls": [block], "validation": true});
        let answer = self.builder.ask("eth_simulateV1", json!([request, {"blockHash": parent.hash}])).await;
        let good = |call: &Value| call["status"] == "0x1";
        assert!(answer[0]["calls"].as_array().expect("it is a list").iter().all(good), "a call fails: {answer}");
        answer[0].clone()
    }

    /// Keeps what the builder says of a block that it has.
    async fn known(&self, block: &Value, payload: Value, nonce: u64) -> Arc<Block> {
        let logs = self.builder.ask("eth_getLogs", json!([{ "blockHash": block["hash"] }])).await;
        let mut header = block.clone();
        let members = header.as_object_mut().expect("a block is an object");
        for of_blocks_only in ["transactions", "uncles", "withdrawals", "size"] {
            members.remove(of_blocks_only).expect("a block has it");
        }
        let text = |name: &str| block[name].as_str().expect("it is a hash").to_owned();
        let block = Arc::new(Block {
            number: quantity(&block["number"]),
            hash: text("hash"),
            parent: text("parentHash"),
            payload,
            header,
            logs: logs.as_array().expect("it is a list").clone(),
            timestamp: quantity(&block["timestamp"]),
            nonce,
        });
        self.oracle.add(&block);
        block
    }
}

/// The members of a payload and their names in a block.
const PAYLOAD: [(&str, &str); 14] = [
    ("parentHash", "parentHash"),
    ("feeRecipient", "miner"),
    ("stateRoot", "stateRoot"),
    ("receiptsRoot", "receiptsRoot"),
    ("logsBloom", "logsBloom"),
    ("prevRandao", "mixHash"),
    ("blockNumber", "number"),
    ("gasLimit", "gasLimit"),
    ("gasUsed", "gasUsed"),
    ("timestamp", "timestamp"),
    ("extraData", "extraData"),
    ("baseFeePerGas", "baseFeePerGas"),
    ("blobGasUsed", "blobGasUsed"),
    ("excessBlobGas", "excessBlobGas"),
];

fn payload(block: &Value, hash: &str, transactions: &[TxEnvelope]) -> Value {
    let raw: Vec<String> = transactions.iter().map(|one| hex::encode_prefixed(one.encoded_2718())).collect();
    let mut payload = json!({"blockHash": hash, "transactions": raw, "withdrawals": []});
    for (name, in_block) in PAYLOAD {
        payload[name] = block[in_block].clone();
    }
    payload
}
