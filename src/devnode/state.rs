//! The answers to calls about accounts and contracts: balances, code, and the read-only functions of the tokens.
//!
//! Owns the few ABI forms this needs. Does not know blocks beyond whose state is meant.

use alloy_primitives::{Address, B256, U256};
use serde_json::Value;

use super::args::{self, Args, RpcError, at};
use super::block::Block;
use super::hexjson;
use super::view::View;

/// What every holder has of the chain's own coin, whatever it did: 1,000 units.
const HOLDER_WEI: u128 = 1_000 * 10_u128.pow(18);
/// Stands for the code of a token. Nothing runs it.
const TOKEN_CODE: &[u8] = b"\x60\x80\x60\x40\x52chaincast token";
/// What a plain payment costs, and what a call costs about.
const GAS_PAYMENT: u64 = 21_000;
const GAS_CALL: u64 = 51_000;

/// Answers one call, or says that there is no such method.
pub(super) fn answer(view: &View, method: &str, args: &Args) -> Result<String, RpcError> {
    match method {
        "eth_getBalance" => {
            let (address, block) = (args.address(0)?, view.state_at(args, 1)?);
            let holder = block.economy().holder_at(address);
            Ok(hexjson::quantity(holder.map_or(0, |_| HOLDER_WEI)))
        }
        "eth_getTransactionCount" => {
            let (address, block) = (args.address(0)?, view.state_at(args, 1)?);
            let holder = block.economy().holder_at(address);
            Ok(hexjson::quantity(holder.map_or(0, |holder| block.balances().sent(holder))))
        }
        "eth_getCode" => {
            let (address, block) = (args.address(0)?, view.state_at(args, 1)?);
            let is_token = block.economy().token_at(address).is_some();
            Ok(hexjson::bytes(if is_token { TOKEN_CODE } else { &[] }))
        }
        "eth_getStorageAt" => {
            args.address(0)?;
            args.required(1)?;
            view.state_at(args, 2)?;
            Ok(hexjson::bytes(B256::ZERO))
        }
        "eth_call" => {
            let call = Call::parse(args.required(0)?)?;
            let block = if args.optional(1).is_some() { view.state_at(args, 1)? } else { view.head() };
            call_token(&block, &call)
        }
        "eth_estimateGas" => {
            let call = Call::parse(args.required(0)?)?;
            Ok(hexjson::quantity(if call.data.is_empty() { GAS_PAYMENT } else { GAS_CALL }))
        }
        _ => Err(RpcError::new(-32_601, format!("the method {method} does not exist/is not available"))),
    }
}

/// The parts of a call object that matter here.
struct Call {
    to: Option<Address>,
    data: Vec<u8>,
}

impl Call {
    fn parse(value: &Value) -> Result<Self, RpcError> {
        let field = |name: &str| value.get(name).filter(|v| !v.is_null());
        let to = field("to").map(args::address).transpose().map_err(|why| at(0, &why))?;
        let data = field("input")
            .or_else(|| field("data"))
            .map(|v| args::bytes(v, "hexutil.Bytes"))
            .transpose()
            .map_err(|why| at(0, &why))?;
        Ok(Self { to, data: data.unwrap_or_default() })
    }
}

fn call_token(block: &Block, call: &Call) -> Result<String, RpcError> {
    let economy = block.economy();
    let Some(place) = call.to.and_then(|to| economy.token_at(to)) else { return Ok("\"0x\"".into()) };
    let token = &economy.tokens()[place];
    let reverted = || RpcError::new(3, "execution reverted");
    let (selector, rest) = call.data.split_first_chunk::<4>().ok_or_else(reverted)?;
    match selector {
        // balanceOf(address)
        [0x70, 0xa0, 0x82, 0x31] => {
            let owner = Address::from_word(rest.first_chunk::<32>().ok_or_else(reverted)?.into());
            let holder = economy.holder_at(owner);
            Ok(word(U256::from(holder.map_or(0, |holder| block.balances().amount(place, holder)))))
        }
        // totalSupply()
        [0x18, 0x16, 0x0d, 0xdd] => Ok(word(economy.total_supply())),
        // decimals()
        [0x31, 0x3c, 0xe5, 0x67] => Ok(word(U256::from(token.decimals))),
        // symbol()
        [0x95, 0xd8, 0x9b, 0x41] => Ok(abi_string(&token.symbol)),
        // name()
        [0x06, 0xfd, 0xde, 0x03] => Ok(abi_string(&token.name)),
        _ => Err(reverted()),
    }
}

fn word(number: U256) -> String {
    hexjson::bytes(B256::from(number))
}

/// A single string as the ABI returns it: offset, length, and the text in whole words.
fn abi_string(text: &str) -> String {
    let mut bytes = [U256::from(32), U256::from(text.len())].map(B256::from).concat();
    bytes.extend(text.as_bytes());
    bytes.resize(64 + text.len().next_multiple_of(32), 0);
    hexjson::bytes(bytes)
}
