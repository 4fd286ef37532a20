//! Transactions of a development chain: real type-2 envelopes with true hashes, and the transfers they cause.
//!
//! Owns composing, decoding and the JSON form of a transaction. Does not know which block it is in, except as an argument.
//! Pure. Signatures are well-formed numbers that no key made, so a sender recovered from one is not the stated `from`.

use alloy_consensus::transaction::RlpEcdsaDecodableTx;
use alloy_consensus::{Signed, TxEip1559};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256};
use rand::Rng;

use super::block::Block;
use super::economy::{Economy, Transfer};
use super::hexjson::{self, Object};

/// What each block charges for gas at least. The chain's demand never changes it.
pub(super) const BASE_FEE_WEI: u64 = 1_000_000_000;
/// What a transaction costs before it does anything (the yellow paper's `Gtransaction`).
const GAS_PLAIN: u64 = 21_000;
/// What one transfer of a common ERC-20 contract adds.
const GAS_A_TRANSFER: u64 = 30_000;
/// The selector of `transfer(address,uint256)`.
const TRANSFER_SELECTOR: [u8; 4] = [0xa9, 0x05, 0x9c, 0xbb];
/// The most transfers one composed transaction causes.
const MAX_TRANSFERS: usize = 3;

/// One transaction, which may stand in blocks of several branches.
#[derive(Debug)]
pub struct Transaction {
    signed: Signed<TxEip1559>,
    from: Address,
    /// The sender's place in the economy; none for those that came by `eth_sendRawTransaction`.
    holder: Option<u16>,
    transfers: Vec<Transfer>,
}

/// Where a transaction stands in a block.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// The block.
    pub(super) block: &'a Block,
    /// Which transaction of it.
    pub(super) index: usize,
}

impl Transaction {
    /// A new token transfer with at most `room` logs (at least 1), different from all others of this chain.
    pub(super) fn compose(economy: &Economy, chain_id: u64, nonce: u64, room: usize, rng: &mut impl Rng) -> Self {
        let holders = u16::try_from(economy.holders().len()).expect("the economy is built of 16-bit counts");
        let tokens = u16::try_from(economy.tokens().len()).expect("the economy is built of 16-bit counts");
        let count = rng.random_range(1..=room.min(MAX_TRANSFERS));
        let (token, from) = (rng.random_range(0..tokens), rng.random_range(0..holders));
        let transfers: Vec<Transfer> = (0..count)
            .map(|_| Transfer {
                token,
                from,
                to: rng.random_range(0..holders),
                amount: rng.random_range(1..=10_u128.pow(21)),
            })
            .collect();
        let tx = TxEip1559 {
            chain_id,
            nonce,
            gas_limit: 2 * gas_used(count),
            max_fee_per_gas: u128::from(BASE_FEE_WEI) * 4,
            max_priority_fee_per_gas: rng.random_range(1..=u128::from(BASE_FEE_WEI)),
            to: TxKind::Call(transfers[0].address(economy)),
            value: U256::ZERO,
            access_list: <_>::default(),
            input: call_data(economy, &transfers[0]),
        };
        let signed = Signed::new_unhashed(tx, made_up_signature(rng));
        // The hash is computed on first use; doing it here keeps it off the announcing path.
        let _ = signed.hash();
        Self { signed, from: economy.holders()[usize::from(from)], holder: Some(from), transfers }
    }

    /// Reads a signed type-2 transaction. Its sender is made up from its hash: nothing here checks signatures.
    ///
    /// # Errors
    /// The text Geth has for the nearest mistake.
    pub(super) fn decode(raw: &[u8]) -> Result<Self, String> {
        match raw {
            [] | [_] => return Err("typed transaction too short".into()),
            [2, ..] => {}
            _ => return Err("transaction type not supported".into()),
        }
        let signed = TxEip1559::eip2718_decode(&mut &raw[..]).map_err(|e| format!("rlp: {e}"))?;
        let from = Address::from_word(*signed.hash());
        Ok(Self { signed, from, holder: None, transfers: Vec::new() })
    }

    /// The true hash of the envelope.
    #[must_use]
    pub fn hash(&self) -> B256 {
        *self.signed.hash()
    }

    /// What it moves, each one log.
    #[must_use]
    pub fn transfers(&self) -> &[Transfer] {
        &self.transfers
    }

    /// Who sent it.
    #[must_use]
    pub fn from(&self) -> Address {
        self.from
    }

    pub(super) fn holder(&self) -> Option<u16> {
        self.holder
    }

    pub(super) fn to(&self) -> Option<Address> {
        self.signed.tx().to.to().copied()
    }

    pub(super) fn gas_used(&self) -> u64 {
        gas_used(self.transfers.len())
    }

    /// What a unit of gas costs the sender in a block.
    pub(super) fn effective_gas_price(&self) -> u128 {
        let tx = self.signed.tx();
        tx.max_fee_per_gas.min(u128::from(BASE_FEE_WEI) + tx.max_priority_fee_per_gas)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.signed.eip2718_encode(out);
    }

    pub(super) fn encoded_length(&self) -> usize {
        self.signed.eip2718_encoded_length()
    }

    /// The transaction as Geth gives it, mined at a place or pending.
    pub(super) fn json(&self, place: Option<Place<'_>>) -> String {
        let (tx, signature) = (self.signed.tx(), self.signed.signature());
        let head = match place {
            Some(Place { block, .. }) => Object::with_capacity(1_200)
                .bytes("blockHash", block.hash())
                .quantity("blockNumber", block.number())
                .quantity("blockTimestamp", block.timestamp()),
            None => Object::with_capacity(1_200)
                .raw("blockHash", "null")
                .raw("blockNumber", "null")
                .raw("blockTimestamp", "null"),
        };
        let price = if place.is_some() { self.effective_gas_price() } else { tx.max_fee_per_gas };
        let parity = u8::from(signature.v());
        head.bytes("from", self.from)
            .quantity("gas", tx.gas_limit)
            .quantity("gasPrice", price)
            .quantity("maxFeePerGas", tx.max_fee_per_gas)
            .quantity("maxPriorityFeePerGas", tx.max_priority_fee_per_gas)
            .bytes("hash", self.hash())
            .bytes("input", &tx.input)
            .quantity("nonce", tx.nonce)
            .raw("to", &self.to().map_or_else(|| "null".into(), hexjson::bytes))
            .raw("transactionIndex", &place.map_or_else(|| "null".into(), |p| hexjson::quantity(p.index as u128)))
            .wide_quantity("value", tx.value)
            .quantity("type", 2_u8)
            .raw("accessList", &access_list_json(tx))
            .quantity("chainId", tx.chain_id)
            .quantity("v", parity)
            .wide_quantity("r", signature.r())
            .wide_quantity("s", signature.s())
            .quantity("yParity", parity)
            .end()
    }
}

fn gas_used(transfers: usize) -> u64 {
    GAS_PLAIN + GAS_A_TRANSFER * transfers as u64
}

fn call_data(economy: &Economy, transfer: &Transfer) -> Bytes {
    let mut input = TRANSFER_SELECTOR.to_vec();
    input.extend(transfer.topics(economy)[2]);
    input.extend(transfer.data());
    input.into()
}

/// Numbers below half the curve's order, which is what clients check before they take a transaction.
fn made_up_signature(rng: &mut impl Rng) -> Signature {
    let mut number = || (U256::from_be_bytes(rng.random::<[u8; 32]>()) >> 4) | U256::from(1);
    let (r, s) = (number(), number());
    Signature::new(r, s, rng.random())
}

fn access_list_json(tx: &TxEip1559) -> String {
    hexjson::list(tx.access_list.iter().map(|item| {
        Object::with_capacity(256)
            .bytes("address", item.address)
            .raw("storageKeys", &hexjson::list(item.storage_keys.iter().map(hexjson::bytes)))
            .end()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::keccak256;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn composed(seed: u64) -> Transaction {
        let economy = Economy::new(3, 5);
        Transaction::compose(&economy, 1337, 4, 2, &mut StdRng::seed_from_u64(seed))
    }

    #[test]
    fn the_hash_is_that_of_the_envelope_and_survives_decoding() {
        let tx = composed(1);
        let mut raw = Vec::new();
        tx.encode(&mut raw);
        assert_eq!(tx.hash(), keccak256(&raw));
        assert_eq!(raw.len(), tx.encoded_length());
        let decoded = Transaction::decode(&raw).expect("what was encoded decodes");
        assert_eq!(decoded.hash(), tx.hash());
        assert!(decoded.transfers().is_empty());
    }

    #[test]
    fn composition_depends_on_the_seed_alone() {
        assert_eq!(composed(7).hash(), composed(7).hash());
        assert_ne!(composed(7).hash(), composed(8).hash());
    }

    #[test]
    fn other_bytes_are_refused_with_a_reason() {
        assert_eq!(Transaction::decode(&[]).unwrap_err(), "typed transaction too short");
        assert_eq!(Transaction::decode(&[0xf8, 1]).unwrap_err(), "transaction type not supported");
        assert!(Transaction::decode(&[2, 0xc0]).unwrap_err().starts_with("rlp: "));
    }

    #[test]
    fn pending_and_mined_forms_have_the_same_keys_in_the_same_order() {
        let economy = std::sync::Arc::new(Economy::new(3, 5));
        let block = Block::genesis(economy, 1337, 0);
        let tx = composed(1);
        let keys = |json: String| -> Vec<String> {
            json.split('"').skip(1).step_by(2).filter(|k| !k.starts_with("0x")).map(Into::into).collect()
        };
        let mined = tx.json(Some(Place { block: &block, index: 0 }));
        assert_eq!(keys(mined).len(), 21);
        assert_eq!(keys(tx.json(None)).first().map(String::as_str), Some("blockHash"));
        let pending: serde_json::Value = serde_json::from_str(&tx.json(None)).expect("JSON");
        assert!(pending["blockHash"].is_null() && pending["transactionIndex"].is_null());
    }
}
