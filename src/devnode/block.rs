//! One block of a development chain: header with a true hash, transactions, logs with a true bloom, receipts.
//!
//! Owns how a block is put together from its parent and what can be read off it. Does not know branches or heads, nor how
//! anything is spelled in JSON. Pure.

use std::sync::Arc;

use alloy_consensus::constants::{EMPTY_OMMER_ROOT_HASH, EMPTY_WITHDRAWALS};
use alloy_consensus::proofs::{calculate_receipt_root, ordered_trie_root_with_encoder};
use alloy_consensus::{Header, Receipt, ReceiptEnvelope, ReceiptWithBloom};
use alloy_primitives::{Address, B64, B256, Bloom, Bytes, Log, U256, b256, keccak256};

use super::economy::{Balances, Economy, Transfer};
use super::transaction::{BASE_FEE_WEI, Transaction};

/// The hash of no execution requests: SHA-256 of nothing (EIP-7685).
const EMPTY_REQUESTS_HASH: B256 = b256!("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
/// The gas limit of a block that does not need more.
const GAS_LIMIT: u64 = 36_000_000;

/// What names a block: its height and its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockRef {
    /// Distance from genesis.
    pub number: u64,
    /// The hash of its header.
    pub hash: B256,
}

/// A block. Its hash is the keccak of the RLP of its header, and its parent hash is its parent's.
#[derive(Debug)]
pub struct Block {
    header: Header,
    hash: B256,
    transactions: Vec<Mined>,
    economy: Arc<Economy>,
    balances: Arc<Balances>,
}

/// A transaction in its place.
#[derive(Debug)]
pub(super) struct Mined {
    pub(super) tx: Arc<Transaction>,
    /// The block-wide index of its first log.
    pub(super) first_log: usize,
    /// Gas used in the block up to and with it.
    pub(super) cumulative_gas: u64,
    /// The bloom of its own logs.
    pub(super) bloom: Bloom,
}

/// One log in its place.
#[derive(Clone, Copy)]
pub struct LogAt<'a> {
    /// What happened.
    pub transfer: &'a Transfer,
    /// The place of its transaction in the block.
    pub transaction_index: usize,
    /// The hash of its transaction.
    pub transaction_hash: B256,
    /// Its place among all logs of the block.
    pub log_index: usize,
}

impl Block {
    /// Block 0.
    pub(super) fn genesis(economy: Arc<Economy>, chain_id: u64, timestamp: u64) -> Self {
        let header = Header {
            state_root: keccak256(format!("chaincast development chain {chain_id}")),
            timestamp,
            gas_limit: GAS_LIMIT,
            ..common_header()
        };
        let balances = Arc::new(Balances::initial(&economy));
        Self { hash: header.hash_slow(), header, transactions: Vec::new(), economy, balances }
    }

    /// The next block after `parent`. `salt` makes it differ from its siblings.
    pub(super) fn after(parent: &Self, transactions: Vec<Arc<Transaction>>, timestamp: u64, salt: B256) -> Self {
        let economy = Arc::clone(&parent.economy);
        let transactions = place(&economy, transactions);
        let gas_used = transactions.last().map_or(0, |m| m.cumulative_gas);
        let logs_bloom = transactions.iter().fold(Bloom::ZERO, |all, m| all | m.bloom);
        let header = Header {
            parent_hash: parent.hash,
            beneficiary: Address::from_word(keccak256("chaincast miner")),
            state_root: keccak256([parent.header.state_root, salt].concat()),
            transactions_root: ordered_trie_root_with_encoder(&transactions, |m, out| m.tx.encode(out)),
            receipts_root: receipts_root(&economy, &transactions),
            logs_bloom,
            number: parent.header.number + 1,
            gas_limit: GAS_LIMIT.max(gas_used),
            gas_used,
            timestamp,
            mix_hash: salt,
            parent_beacon_block_root: Some(keccak256(salt)),
            ..common_header()
        };
        let balances = balances_after(parent, &transactions);
        Self { hash: header.hash_slow(), header, transactions, economy, balances }
    }

    /// Height and hash.
    #[must_use]
    pub fn reference(&self) -> BlockRef {
        BlockRef { number: self.header.number, hash: self.hash }
    }

    /// Distance from genesis.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.header.number
    }

    /// The hash of the header.
    #[must_use]
    pub fn hash(&self) -> B256 {
        self.hash
    }

    /// The hash of the block before.
    #[must_use]
    pub fn parent_hash(&self) -> B256 {
        self.header.parent_hash
    }

    /// When it was made, in seconds of Unix time.
    #[must_use]
    pub fn timestamp(&self) -> u64 {
        self.header.timestamp
    }

    /// The whole header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The tokens and holders of its chain.
    #[must_use]
    pub fn economy(&self) -> &Economy {
        &self.economy
    }

    /// Its transactions in order.
    pub fn transactions(&self) -> impl ExactSizeIterator<Item = &Arc<Transaction>> {
        self.transactions.iter().map(|m| &m.tx)
    }

    /// How many logs it has.
    #[must_use]
    pub fn log_count(&self) -> usize {
        self.transactions.last().map_or(0, |m| m.first_log + m.tx.transfers().len())
    }

    /// Its logs in order.
    pub fn logs(&self) -> impl Iterator<Item = LogAt<'_>> {
        (0..self.transactions.len()).flat_map(|index| self.logs_of(index))
    }

    /// The logs of one transaction of it.
    pub(super) fn logs_of(&self, index: usize) -> impl Iterator<Item = LogAt<'_>> {
        let mined = &self.transactions[index];
        let transaction_hash = mined.tx.hash();
        mined.tx.transfers().iter().enumerate().map(move |(n, transfer)| LogAt {
            transfer,
            transaction_index: index,
            transaction_hash,
            log_index: mined.first_log + n,
        })
    }

    pub(super) fn mined(&self) -> &[Mined] {
        &self.transactions
    }

    pub(super) fn balances(&self) -> &Balances {
        &self.balances
    }
}

/// The fields that every block has alike: those of a post-merge header without withdrawals, blobs and requests.
fn common_header() -> Header {
    Header {
        ommers_hash: EMPTY_OMMER_ROOT_HASH,
        extra_data: Bytes::from_static(b"chaincast"),
        nonce: B64::ZERO,
        difficulty: U256::ZERO,
        base_fee_per_gas: Some(BASE_FEE_WEI),
        withdrawals_root: Some(EMPTY_WITHDRAWALS),
        blob_gas_used: Some(0),
        excess_blob_gas: Some(0),
        parent_beacon_block_root: Some(B256::ZERO),
        requests_hash: Some(EMPTY_REQUESTS_HASH),
        ..Header::default()
    }
}

/// Gives each transaction its logs' indices, its gas and its bloom.
fn place(economy: &Economy, transactions: Vec<Arc<Transaction>>) -> Vec<Mined> {
    let (mut first_log, mut cumulative_gas) = (0, 0);
    let place_one = |tx: Arc<Transaction>| {
        cumulative_gas += tx.gas_used();
        let mut bloom = Bloom::ZERO;
        for transfer in tx.transfers() {
            economy.add_to_bloom(transfer, &mut bloom);
        }
        let mined = Mined { tx, first_log, cumulative_gas, bloom };
        first_log += mined.tx.transfers().len();
        mined
    };
    transactions.into_iter().map(place_one).collect()
}

fn balances_after(parent: &Block, transactions: &[Mined]) -> Arc<Balances> {
    if transactions.is_empty() {
        return Arc::clone(&parent.balances);
    }
    let mut balances = Balances::clone(&parent.balances);
    for mined in transactions {
        if let Some(holder) = mined.tx.holder() {
            balances.count_transaction(holder);
        }
        for transfer in mined.tx.transfers() {
            balances.apply(transfer);
        }
    }
    Arc::new(balances)
}

fn receipts_root(economy: &Economy, transactions: &[Mined]) -> B256 {
    let receipt = |mined: &Mined| {
        let log = |t: &Transfer| Log::new_unchecked(t.address(economy), t.topics(economy).to_vec(), t.data().into());
        let logs: Vec<Log> = mined.tx.transfers().iter().map(log).collect();
        let receipt = Receipt { status: true.into(), cumulative_gas_used: mined.cumulative_gas, logs };
        ReceiptEnvelope::Eip1559(ReceiptWithBloom { receipt, logs_bloom: mined.bloom })
    };
    let receipts: Vec<_> = transactions.iter().map(receipt).collect();
    calculate_receipt_root(&receipts)
}
