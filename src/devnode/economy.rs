//! The tokens and holders of a development chain, the transfers between them, and what each holder has.
//!
//! Owns the ERC-20 form of a transfer (topics, data, bloom bits) and the balances after a block. Does not know blocks or
//! JSON. Pure. Addresses do not depend on chain or seed, so documents and tests may name them.

use alloy_primitives::{Address, B256, Bloom, U256, b256, keccak256};

/// The event signature of an ERC-20 transfer: keccak of `Transfer(address,address,uint256)`.
pub const TRANSFER_TOPIC: B256 = b256!("ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef");

/// What each holder of each token starts with, in the token's smallest unit.
const INITIAL_BALANCE: u128 = 10_u128.pow(30);

/// Names and decimals of the first tokens; later ones are numbered.
const NAMES: [(&str, &str, u8); 4] =
    [("CAST", "Cast Token", 18), ("DUSD", "Demo Dollar", 6), ("WDEM", "Wrapped Demo", 18), ("FISH", "Fish Points", 0)];

/// One ERC-20 contract.
#[derive(Debug, Clone)]
pub struct Token {
    /// Where the contract stands.
    pub address: Address,
    /// What `symbol()` answers.
    pub symbol: String,
    /// What `name()` answers.
    pub name: String,
    /// What `decimals()` answers.
    pub decimals: u8,
}

/// The bits one value sets in a logs bloom: three (byte, mask) pairs.
type BloomBits = [(usize, u8); 3];

/// All tokens and holders of one chain.
#[derive(Debug)]
pub struct Economy {
    tokens: Vec<Token>,
    holders: Vec<Address>,
    token_bits: Vec<BloomBits>,
    holder_bits: Vec<BloomBits>,
    signature_bits: BloomBits,
}

impl Economy {
    /// An economy of so many tokens and holders, at least one of each and at most 65,535.
    #[must_use]
    pub fn new(tokens: u16, holders: u16) -> Self {
        let tokens: Vec<Token> = (0..tokens.max(1)).map(token).collect();
        let holders: Vec<Address> = (0..holders.max(1)).map(|n| named_address("holder", n)).collect();
        Self {
            token_bits: tokens.iter().map(|t| bloom_bits(t.address.as_slice())).collect(),
            holder_bits: holders.iter().map(|h| bloom_bits(h.into_word().as_slice())).collect(),
            signature_bits: bloom_bits(TRANSFER_TOPIC.as_slice()),
            tokens,
            holders,
        }
    }

    /// The contracts, in the order transfers refer to them.
    #[must_use]
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// The accounts transfers go between.
    #[must_use]
    pub fn holders(&self) -> &[Address] {
        &self.holders
    }

    /// The place of this token, if there is one at the address.
    pub(super) fn token_at(&self, address: Address) -> Option<usize> {
        self.tokens.iter().position(|t| t.address == address)
    }

    /// The place of this holder.
    pub(super) fn holder_at(&self, address: Address) -> Option<usize> {
        self.holders.iter().position(|h| *h == address)
    }

    /// What all holders of any one token have together.
    pub(super) fn total_supply(&self) -> U256 {
        U256::from(INITIAL_BALANCE) * U256::from(self.holders.len())
    }

    /// Sets the bits of one transfer's log.
    pub(super) fn add_to_bloom(&self, transfer: &Transfer, bloom: &mut Bloom) {
        let parts = [
            &self.signature_bits,
            &self.token_bits[usize::from(transfer.token)],
            &self.holder_bits[usize::from(transfer.from)],
            &self.holder_bits[usize::from(transfer.to)],
        ];
        for (byte, mask) in parts.into_iter().flatten() {
            bloom.0[*byte] |= mask;
        }
    }
}

/// One movement of a token, by the places of its parts in the [`Economy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// Which token.
    pub token: u16,
    /// Which holder gives.
    pub from: u16,
    /// Which holder gets.
    pub to: u16,
    /// How much, in the token's smallest unit.
    pub amount: u128,
}

impl Transfer {
    /// The contract that emits the log.
    #[must_use]
    pub fn address(&self, economy: &Economy) -> Address {
        economy.tokens[usize::from(self.token)].address
    }

    /// The log's topics: signature, giver, receiver.
    #[must_use]
    pub fn topics(&self, economy: &Economy) -> [B256; 3] {
        let holder = |n: u16| economy.holders[usize::from(n)].into_word();
        [TRANSFER_TOPIC, holder(self.from), holder(self.to)]
    }

    /// The log's data: the amount as a word.
    #[must_use]
    pub fn data(&self) -> B256 {
        B256::from(U256::from(self.amount))
    }
}

/// What holders have after a block, and how many transactions each has sent.
#[derive(Debug, Clone)]
pub(super) struct Balances {
    /// By token, then by holder.
    amounts: Vec<u128>,
    /// By holder.
    sent: Vec<u64>,
}

impl Balances {
    /// The distribution at genesis.
    pub(super) fn initial(economy: &Economy) -> Self {
        let holders = economy.holders.len();
        Self { amounts: vec![INITIAL_BALANCE; economy.tokens.len() * holders], sent: vec![0; holders] }
    }

    /// Moves one transfer's amount. Wraps below zero, which the initial balances put out of reach.
    pub(super) fn apply(&mut self, transfer: &Transfer) {
        let row = usize::from(transfer.token) * self.sent.len();
        let (from, to) = (row + usize::from(transfer.from), row + usize::from(transfer.to));
        self.amounts[from] = self.amounts[from].wrapping_sub(transfer.amount);
        self.amounts[to] = self.amounts[to].wrapping_add(transfer.amount);
    }

    /// Counts a transaction of this holder.
    pub(super) fn count_transaction(&mut self, holder: u16) {
        self.sent[usize::from(holder)] += 1;
    }

    /// What this holder has of this token.
    pub(super) fn amount(&self, token: usize, holder: usize) -> u128 {
        self.amounts[token * self.sent.len() + holder]
    }

    /// How many transactions this holder has sent.
    pub(super) fn sent(&self, holder: usize) -> u64 {
        self.sent[holder]
    }
}

fn token(place: u16) -> Token {
    let address = named_address("token", place);
    match NAMES.get(usize::from(place)) {
        Some((symbol, name, decimals)) => {
            Token { address, symbol: (*symbol).into(), name: (*name).into(), decimals: *decimals }
        }
        None => Token { address, symbol: format!("TK{place}"), name: format!("Token {place}"), decimals: 18 },
    }
}

fn named_address(kind: &str, place: u16) -> Address {
    Address::from_word(keccak256(format!("chaincast {kind} {place}")))
}

/// The yellow paper's `M3:2048`: three bits out of the first three pairs of bytes of the hash.
fn bloom_bits(value: &[u8]) -> BloomBits {
    let hash = keccak256(value);
    std::array::from_fn(|n| {
        let bit = usize::from(u16::from_be_bytes([hash[2 * n], hash[2 * n + 1]]) & 0x7ff);
        (Bloom::len_bytes() - 1 - bit / 8, 1 << (bit % 8))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::{BloomInput, address};

    #[test]
    fn the_signature_is_the_keccak_of_its_text() {
        assert_eq!(TRANSFER_TOPIC, keccak256("Transfer(address,address,uint256)"));
    }

    #[test]
    fn bits_are_those_of_the_primitives_library() {
        let economy = Economy::new(3, 7);
        let transfer = Transfer { token: 2, from: 5, to: 6, amount: 1 };
        let (mut ours, mut theirs) = (Bloom::ZERO, Bloom::ZERO);
        economy.add_to_bloom(&transfer, &mut ours);
        theirs.accrue(BloomInput::Raw(transfer.address(&economy).as_slice()));
        transfer.topics(&economy).iter().for_each(|topic| theirs.accrue(BloomInput::Raw(topic.as_slice())));
        assert_eq!(ours, theirs);
    }

    #[test]
    fn a_transfer_moves_what_it_says() {
        let economy = Economy::new(2, 3);
        let mut balances = Balances::initial(&economy);
        balances.apply(&Transfer { token: 1, from: 0, to: 2, amount: 7 });
        assert_eq!(balances.amount(1, 0), INITIAL_BALANCE - 7);
        assert_eq!(balances.amount(1, 2), INITIAL_BALANCE + 7);
        assert_eq!(balances.amount(0, 0), INITIAL_BALANCE);
    }

    #[test]
    fn addresses_are_fixed() {
        let first = Economy::new(1, 1).tokens()[0].address;
        assert_eq!(first, Economy::new(4, 9).tokens()[0].address);
        assert_ne!(first, address!("0000000000000000000000000000000000000000"));
    }
}
