//! How Geth spells blocks, headers, logs and receipts: same keys, same order, same quantities (seen on Geth 1.17.0).
//!
//! Owns these spellings, as methods of [`Block`], so that a test has the very text a node sends. Does not know methods or
//! faults. Geth sorts the keys of blocks and receipts by name, but not those of `newHeads` and logs.

use super::block::{Block, LogAt};
use super::hexjson::{self, Object};
use super::transaction::Place;

/// What RLP adds to the header's fields and the lists of a block, about: `size` is close to the truth, not exact.
const SIZE_WITHOUT_TRANSACTIONS: usize = 0x27f;

impl Block {
    /// The header as `newHeads` announces it.
    #[must_use]
    pub fn header_json(&self) -> String {
        let h = self.header();
        let base = Object::with_capacity(2_200)
            .bytes("parentHash", h.parent_hash)
            .bytes("sha3Uncles", h.ommers_hash)
            .bytes("miner", h.beneficiary)
            .bytes("stateRoot", h.state_root)
            .bytes("transactionsRoot", h.transactions_root)
            .bytes("receiptsRoot", h.receipts_root)
            .bytes("logsBloom", h.logs_bloom)
            .wide_quantity("difficulty", h.difficulty)
            .quantity("number", h.number)
            .quantity("gasLimit", h.gas_limit)
            .quantity("gasUsed", h.gas_used)
            .quantity("timestamp", h.timestamp)
            .bytes("extraData", &h.extra_data)
            .bytes("mixHash", h.mix_hash)
            .bytes("nonce", h.nonce);
        base.quantity("baseFeePerGas", h.base_fee_per_gas.unwrap_or_default())
            .bytes("withdrawalsRoot", h.withdrawals_root.unwrap_or_default())
            .quantity("blobGasUsed", h.blob_gas_used.unwrap_or_default())
            .quantity("excessBlobGas", h.excess_blob_gas.unwrap_or_default())
            .bytes("parentBeaconBlockRoot", h.parent_beacon_block_root.unwrap_or_default())
            .bytes("requestsHash", h.requests_hash.unwrap_or_default())
            .bytes("hash", self.hash())
            .end()
    }

    /// The block as `eth_getBlockBy…` answers it, with whole transactions or their hashes.
    #[must_use]
    pub fn block_json(&self, full: bool) -> String {
        let transactions = if full {
            hexjson::list((0..self.mined().len()).filter_map(|index| self.transaction_json(index)))
        } else {
            hexjson::list(self.transactions().map(|tx| hexjson::bytes(tx.hash())))
        };
        self.sorted_json(Some(&transactions))
    }

    /// The header as `eth_getHeaderBy…` answers it.
    #[must_use]
    pub fn sorted_header_json(&self) -> String {
        self.sorted_json(None)
    }

    fn sorted_json(&self, transactions: Option<&str>) -> String {
        let h = self.header();
        let mut object = Object::with_capacity(2_200 + transactions.map_or(0, str::len))
            .quantity("baseFeePerGas", h.base_fee_per_gas.unwrap_or_default())
            .quantity("blobGasUsed", h.blob_gas_used.unwrap_or_default())
            .wide_quantity("difficulty", h.difficulty)
            .quantity("excessBlobGas", h.excess_blob_gas.unwrap_or_default())
            .bytes("extraData", &h.extra_data)
            .quantity("gasLimit", h.gas_limit)
            .quantity("gasUsed", h.gas_used)
            .bytes("hash", self.hash())
            .bytes("logsBloom", h.logs_bloom)
            .bytes("miner", h.beneficiary)
            .bytes("mixHash", h.mix_hash)
            .bytes("nonce", h.nonce)
            .quantity("number", h.number)
            .bytes("parentBeaconBlockRoot", h.parent_beacon_block_root.unwrap_or_default())
            .bytes("parentHash", h.parent_hash)
            .bytes("receiptsRoot", h.receipts_root)
            .bytes("requestsHash", h.requests_hash.unwrap_or_default())
            .bytes("sha3Uncles", h.ommers_hash);
        if transactions.is_some() {
            object = object.quantity("size", self.size() as u128);
        }
        object = object.bytes("stateRoot", h.state_root).quantity("timestamp", h.timestamp);
        if let Some(transactions) = transactions {
            object = object.raw("transactions", transactions);
        }
        object = object.bytes("transactionsRoot", h.transactions_root);
        if transactions.is_some() {
            object = object.raw("uncles", "[]").raw("withdrawals", "[]");
        }
        object.bytes("withdrawalsRoot", h.withdrawals_root.unwrap_or_default()).end()
    }

    /// One transaction in its place; none if there are not so many.
    #[must_use]
    pub fn transaction_json(&self, index: usize) -> Option<String> {
        self.mined().get(index).map(|mined| mined.tx.json(Some(Place { block: self, index })))
    }

    /// All logs in order, as `eth_getLogs` answers and the `logs` subscription sends them.
    #[must_use]
    pub fn logs_json(&self, removed: bool) -> Vec<String> {
        self.logs().map(|log| self.log_json(&log, removed)).collect()
    }

    /// One log of this block.
    #[must_use]
    pub fn log_json(&self, log: &LogAt<'_>, removed: bool) -> String {
        let economy = self.economy();
        Object::with_capacity(800)
            .bytes("address", log.transfer.address(economy))
            .raw("topics", &hexjson::list(log.transfer.topics(economy).map(hexjson::bytes)))
            .bytes("data", log.transfer.data())
            .quantity("blockNumber", self.number())
            .bytes("transactionHash", log.transaction_hash)
            .quantity("transactionIndex", log.transaction_index as u128)
            .bytes("blockHash", self.hash())
            .quantity("blockTimestamp", self.timestamp())
            .quantity("logIndex", log.log_index as u128)
            .raw("removed", if removed { "true" } else { "false" })
            .end()
    }

    /// The receipt of one transaction; none if there are not so many.
    #[must_use]
    pub fn receipt_json(&self, index: usize) -> Option<String> {
        let mined = self.mined().get(index)?;
        let logs = hexjson::list(self.logs_of(index).map(|log| self.log_json(&log, false)));
        let receipt = Object::with_capacity(1_500 + logs.len())
            .bytes("blockHash", self.hash())
            .quantity("blockNumber", self.number())
            .raw("contractAddress", "null")
            .quantity("cumulativeGasUsed", mined.cumulative_gas)
            .quantity("effectiveGasPrice", mined.tx.effective_gas_price())
            .bytes("from", mined.tx.from())
            .quantity("gasUsed", mined.tx.gas_used())
            .raw("logs", &logs)
            .bytes("logsBloom", mined.bloom)
            .raw("status", "\"0x1\"")
            .raw("to", &mined.tx.to().map_or_else(|| "null".into(), hexjson::bytes))
            .bytes("transactionHash", mined.tx.hash())
            .quantity("transactionIndex", index as u128)
            .raw("type", "\"0x2\"")
            .end();
        Some(receipt)
    }

    fn size(&self) -> usize {
        SIZE_WITHOUT_TRANSACTIONS + self.transactions().map(|tx| tx.encoded_length() + 3).sum::<usize>()
    }
}
