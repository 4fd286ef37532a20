//! The answers to calls, as one node sees the chain.
//!
//! Owns which methods there are and what each answers when nothing is wrong. Does not know faults (beyond those that are
//! part of the view), transports or subscriptions.

use alloy_primitives::B256;
use serde_json::Value;

use super::args::{Args, RpcError, at};
use super::filter::{self, Scope};
use super::hexjson::{self, Object};
use super::state;
use super::transaction::{BASE_FEE_WEI, Transaction};
use super::view::{Found, View};

/// What `web3_clientVersion` answers.
const CLIENT_VERSION: &str = concat!("\"chaincast-devnode/v", env!("CARGO_PKG_VERSION"), "\"");
/// The most blocks `eth_feeHistory` covers (Geth's bound).
const MAX_FEE_HISTORY: u64 = 1_024;

type Answer = Result<String, RpcError>;

/// Answers one call with the JSON text of its result.
pub(super) fn answer(view: &View, method: &str, args: &Args) -> Answer {
    match method {
        "eth_chainId" => Ok(hexjson::quantity(view.chain_id())),
        "net_version" => Ok(format!("\"{}\"", view.chain_id())),
        "net_listening" => Ok("true".into()),
        "web3_clientVersion" => Ok(CLIENT_VERSION.into()),
        "eth_accounts" => Ok("[]".into()),
        "eth_blockNumber" => Ok(hexjson::quantity(view.head().number())),
        "eth_syncing" => Ok(syncing(view)),
        "eth_gasPrice" => Ok(hexjson::quantity(BASE_FEE_WEI + 1)),
        "eth_maxPriorityFeePerGas" | "eth_blobBaseFee" => Ok(hexjson::quantity(1_u8)),
        "eth_feeHistory" => fee_history(view, args),
        "eth_getBlockByNumber" => {
            let block = view.by_number(args.required(0)?, 0)?;
            let full = args.flag(1)?;
            Ok(or_null(block.map(|b| b.block_json(full))))
        }
        "eth_getBlockByHash" => {
            let (hash, full) = (args.hash(0)?, args.flag(1)?);
            Ok(or_null(view.by_hash(hash).map(|b| b.block_json(full))))
        }
        "eth_getHeaderByNumber" => Ok(or_null(view.by_number(args.required(0)?, 0)?.map(|b| b.sorted_header_json()))),
        "eth_getHeaderByHash" => Ok(or_null(view.by_hash(args.hash(0)?).map(|b| b.sorted_header_json()))),
        "eth_getBlockTransactionCountByNumber" => {
            let block = view.by_number(args.required(0)?, 0)?;
            Ok(or_null(block.map(|b| hexjson::quantity(b.transactions().len() as u128))))
        }
        "eth_getBlockTransactionCountByHash" => {
            Ok(or_null(view.by_hash(args.hash(0)?).map(|b| hexjson::quantity(b.transactions().len() as u128))))
        }
        "eth_getBlockReceipts" => {
            let block = view.by_any(args.required(0)?, 0)?;
            Ok(or_null(block.map(|b| hexjson::list((0..b.transactions().len()).filter_map(|n| b.receipt_json(n))))))
        }
        "eth_getTransactionByHash" => Ok(transaction(view, args.hash(0)?)),
        "eth_getTransactionReceipt" => Ok(receipt(view, args.hash(0)?)),
        "eth_getTransactionByBlockNumberAndIndex" => {
            let (block, index) = (view.by_number(args.required(0)?, 0)?, args.quantity(1)?);
            Ok(or_null(block.and_then(|b| b.transaction_json(usize::try_from(index).ok()?))))
        }
        "eth_getTransactionByBlockHashAndIndex" => {
            let (block, index) = (view.by_hash(args.hash(0)?), args.quantity(1)?);
            Ok(or_null(block.and_then(|b| b.transaction_json(usize::try_from(index).ok()?))))
        }
        "eth_getLogs" => logs(view, args),
        "eth_sendRawTransaction" => send(view, args),
        _ => state::answer(view, method, args),
    }
}

fn or_null(json: Option<String>) -> String {
    json.unwrap_or_else(|| "null".into())
}

/// What `eth_syncing` answers.
fn syncing(view: &View) -> String {
    if view.is_syncing() { sync_status(view) } else { "false".into() }
}

/// How far a syncing node says it is.
pub(super) fn sync_status(view: &View) -> String {
    let (current, highest) = (view.head().number(), view.chain().head().number);
    Object::with_capacity(128)
        .quantity("currentBlock", current)
        .quantity("highestBlock", highest.max(current + 1))
        .quantity("startingBlock", 0_u64)
        .end()
}

fn transaction(view: &View, hash: B256) -> String {
    or_null(view.transaction(hash).and_then(|found| match found {
        Found::Mined(block, index) => block.transaction_json(index),
        Found::Waiting(tx) => Some(tx.json(None)),
    }))
}

fn receipt(view: &View, hash: B256) -> String {
    or_null(view.transaction(hash).and_then(|found| match found {
        Found::Mined(block, index) => block.receipt_json(index),
        Found::Waiting(_) => None,
    }))
}

fn logs(view: &View, args: &Args) -> Answer {
    let (filter, scope) = filter::parse(args.required(0)?, 0)?;
    let blocks = match scope {
        Scope::Block(hash) => vec![view.by_hash(hash).ok_or_else(|| RpcError::failed("unknown block"))?],
        Scope::Range(from, to) => {
            let end = |value: Option<Value>| {
                value.map_or(Ok(view.head().number()), |v| view.number(&v)).map_err(|why| at(0, &why))
            };
            let (from, to) = (end(from)?, end(to)?);
            if from > to {
                return Err(RpcError::invalid("invalid block range params"));
            }
            if to > view.head().number() {
                return Err(RpcError::invalid("block range extends beyond current head block"));
            }
            (from..=to).filter_map(|number| view.at(number)).collect()
        }
    };
    let mut found = Vec::new();
    for block in &blocks {
        found.extend(block.logs().filter(|log| filter.matches(block, log)).map(|log| block.log_json(&log, false)));
    }
    Ok(hexjson::list(found))
}

/// Takes a type-2 transaction in: it is announced as pending and is in the next block mined on the head, without logs.
fn send(view: &View, args: &Args) -> Answer {
    let tx = Transaction::decode(&args.bytes(0)?).map_err(RpcError::failed)?;
    Ok(hexjson::bytes(view.chain().submit(tx)))
}

/// Fees do not move on this chain, so history is the same everywhere; blobs there are none.
fn fee_history(view: &View, args: &Args) -> Answer {
    let count = args.count(0)?.min(MAX_FEE_HISTORY);
    let newest = view.number(args.required(1)?).map_err(|why| at(1, &why))?;
    let head = view.head().number();
    if newest > head {
        let beyond = format!("request beyond head block: requested {newest}, head {head}");
        return Err(RpcError::failed(beyond));
    }
    let count = count.min(newest + 1);
    let percentiles = args.optional(2).and_then(Value::as_array).map_or(0, Vec::len);
    let blocks: Vec<_> = (newest + 1 - count..=newest).filter_map(|number| view.at(number)).collect();
    let mut object = Object::with_capacity(512).quantity("oldestBlock", newest + 1 - count);
    if percentiles > 0 {
        let tips = hexjson::list(vec![hexjson::quantity(1_u8); percentiles]);
        object = object.raw("reward", &hexjson::list(vec![tips; blocks.len()]));
    }
    #[expect(clippy::cast_precision_loss, reason = "a ratio for display")]
    let used = blocks.iter().map(|b| (b.header().gas_used as f64 / b.header().gas_limit as f64).to_string());
    let json = object
        .raw("baseFeePerGas", &hexjson::list(vec![hexjson::quantity(BASE_FEE_WEI); blocks.len() + 1]))
        .raw("gasUsedRatio", &hexjson::list(used))
        .raw("baseFeePerBlobGas", &hexjson::list(vec![hexjson::quantity(1_u8); blocks.len() + 1]))
        .raw("blobGasUsedRatio", &hexjson::list(vec!["0"; blocks.len()]))
        .end();
    Ok(json)
}
