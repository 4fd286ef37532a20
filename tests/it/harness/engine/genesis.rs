//! The genesis block of a chain under test, and the one account that signs its transactions.
//!
//! Owns the key, the contract's place, and the form of a transaction. Knows no blocks.

use alloy::consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_primitives::{Address, Signature, TxKind, U256};
use k256::ecdsa::SigningKey;
use serde_json::{Value, json};

use super::super::geth::{TICK_CODE, tick_call};

pub(super) const CHAIN_ID: u64 = 1337;
/// Where the tick contract stands from the start.
pub(super) const CONTRACT: Address = Address::repeat_byte(0x71);
/// Where EIP-4788 has each block's beacon root given to.
const BEACON_ROOTS: &str = "0x000f3df6d732807ef1319fb7b8bb8522d0beac02";
/// Keeps what it is given: `PUSH0 CALLDATALOAD PUSH0 SSTORE STOP`. So no two blocks have the same state, as on a real chain;
/// Geth's path scheme mixes up branches that come to equal states.
const KEEPING: &str = "0x5f355f5500";
/// Length of the part of [`TICK_CODE`] that deploys the rest, with `0x`, in characters.
const DEPLOYING: usize = 22;
/// Enough for any block that a test makes.
const GAS: u64 = 2_000_000;
const MAX_FEE_WEI: u128 = 10_000_000_000;
const TIP_WEI: u128 = 1_000_000;

/// All forks up to Prague from the start.
pub(super) fn json() -> Value {
    let mut config = json!({
        "chainId": CHAIN_ID, "terminalTotalDifficulty": 0, "shanghaiTime": 0, "cancunTime": 0, "pragueTime": 0,
        "blobSchedule": {
            "cancun": {"target": 3, "max": 6, "baseFeeUpdateFraction": 3_338_477},
            "prague": {"target": 6, "max": 9, "baseFeeUpdateFraction": 5_007_716},
        },
    });
    let forks = ["homestead", "eip150", "eip155", "eip158", "byzantium", "constantinople", "petersburg", "istanbul"];
    for fork in forks.into_iter().chain(["berlin", "london"]) {
        config[format!("{fork}Block")] = json!(0);
    }
    let code = format!("0x{}", &TICK_CODE[DEPLOYING..]);
    json!({
        "config": config, "difficulty": "0x0", "gasLimit": "0x1c9c380", "timestamp": "0x0", "extraData": "0x",
        "baseFeePerGas": "0x3b9aca00",
        "alloc": {
            sender().to_string(): {"balance": "0x33b2e3c9fd0803ce8000000"},
            CONTRACT.to_string(): {"balance": "0x0", "code": code},
            // A nonce, as an account without one may be taken for none.
            BEACON_ROOTS: {"balance": "0x0", "nonce": "0x1", "code": KEEPING},
        },
    })
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[0x71; 32].into()).expect("any such number is a key")
}

/// The only account with money.
pub(super) fn sender() -> Address {
    Address::from_private_key(&key())
}

/// A call of the contract: this many ticks of class `class`, and its log without topics.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tick {
    pub(super) nonce: u64,
    pub(super) ticks: u64,
    pub(super) class: u64,
}

impl Tick {
    /// As `eth_simulateV1` wants it.
    pub(super) fn call(self) -> Value {
        json!({
            "from": sender(), "to": CONTRACT, "input": tick_call(self.ticks, self.class), "gas": format!("{GAS:#x}"),
            "nonce": format!("{:#x}", self.nonce), "maxFeePerGas": format!("{MAX_FEE_WEI:#x}"),
            "maxPriorityFeePerGas": format!("{TIP_WEI:#x}"),
        })
    }

    pub(super) fn signed(self) -> TxEnvelope {
        let transaction = TxEip1559 {
            chain_id: CHAIN_ID,
            nonce: self.nonce,
            gas_limit: GAS,
            max_fee_per_gas: MAX_FEE_WEI,
            max_priority_fee_per_gas: TIP_WEI,
            to: TxKind::Call(CONTRACT),
            value: U256::ZERO,
            access_list: <_>::default(),
            input: tick_call(self.ticks, self.class).parse().expect("it is hex"),
        };
        let hash = transaction.signature_hash();
        let (signature, parity) = key().sign_prehash_recoverable(hash.as_slice()).expect("any hash can be signed");
        transaction.into_signed(Signature::from((signature, parity))).into()
    }
}
