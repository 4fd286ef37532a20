//! The closed list of methods, how each is answered, and what it weighs against the call limit.
//!
//! A method that is not here does not exist: `admin_*`, `debug_*`, `personal_*`, `miner_*`, `engine_*`, `txpool_*` and
//! `eth_sign*` among them. Pure.

/// How a method is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// From own state, at once.
    Own,
    /// By a node, once for all who ask the same while it holds.
    Cached,
    /// By a node, each time.
    Forward,
    /// By one node, once: it has an effect.
    Send,
}

impl Class {
    /// The value of the `class` label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Cached => "cached",
            Self::Forward => "forward",
            Self::Send => "send",
        }
    }
}

/// A method of the list.
#[derive(Debug, Clone, Copy)]
pub struct Method {
    /// Its name.
    pub name: &'static str,
    /// How it is answered.
    pub class: Class,
    /// What it counts against the call limit; 0 is free.
    pub weight: u32,
}

const fn method(name: &'static str, class: Class, weight: u32) -> Method {
    Method { name, class, weight }
}

/// Sorted by name.
const METHODS: [Method; 42] = [
    method("chaincast_status", Class::Own, 0),
    method("eth_accounts", Class::Own, 0),
    method("eth_blobBaseFee", Class::Cached, 1),
    method("eth_blockNumber", Class::Own, 0),
    method("eth_call", Class::Forward, 1),
    method("eth_chainId", Class::Own, 0),
    method("eth_createAccessList", Class::Forward, 5),
    method("eth_estimateGas", Class::Forward, 2),
    method("eth_feeHistory", Class::Cached, 2),
    method("eth_gasPrice", Class::Cached, 1),
    method("eth_getBalance", Class::Forward, 1),
    method("eth_getBlockByHash", Class::Cached, 1),
    method("eth_getBlockByNumber", Class::Cached, 1),
    method("eth_getBlockReceipts", Class::Cached, 5),
    method("eth_getBlockTransactionCountByHash", Class::Cached, 1),
    method("eth_getBlockTransactionCountByNumber", Class::Cached, 1),
    method("eth_getCode", Class::Forward, 1),
    method("eth_getHeaderByHash", Class::Cached, 1),
    method("eth_getHeaderByNumber", Class::Cached, 1),
    method("eth_getLogs", Class::Cached, 20),
    method("eth_getProof", Class::Forward, 5),
    method("eth_getRawTransactionByBlockHashAndIndex", Class::Cached, 1),
    method("eth_getRawTransactionByBlockNumberAndIndex", Class::Cached, 1),
    method("eth_getRawTransactionByHash", Class::Forward, 1),
    method("eth_getStorageAt", Class::Forward, 1),
    method("eth_getTransactionByBlockHashAndIndex", Class::Cached, 1),
    method("eth_getTransactionByBlockNumberAndIndex", Class::Cached, 1),
    method("eth_getTransactionByHash", Class::Cached, 1),
    method("eth_getTransactionCount", Class::Forward, 1),
    method("eth_getTransactionReceipt", Class::Cached, 1),
    method("eth_getUncleByBlockHashAndIndex", Class::Cached, 1),
    method("eth_getUncleByBlockNumberAndIndex", Class::Cached, 1),
    method("eth_getUncleCountByBlockHash", Class::Cached, 1),
    method("eth_getUncleCountByBlockNumber", Class::Cached, 1),
    method("eth_maxPriorityFeePerGas", Class::Cached, 1),
    method("eth_sendRawTransaction", Class::Send, 1),
    method("eth_sendRawTransactionSync", Class::Send, 1),
    method("eth_simulateV1", Class::Forward, 20),
    method("eth_syncing", Class::Own, 0),
    method("net_listening", Class::Own, 0),
    method("net_version", Class::Own, 0),
    method("web3_clientVersion", Class::Own, 0),
];

/// The method of this name, if it exists here.
#[must_use]
pub fn class(name: &str) -> Option<Method> {
    METHODS.binary_search_by_key(&name, |m| m.name).ok().map(|at| METHODS[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_closed() {
        assert!(METHODS.is_sorted_by_key(|m| m.name));
        for name in METHODS.map(|m| m.name) {
            assert_eq!(class(name).map(|m| m.name), Some(name));
            assert!(name.len() <= 64);
        }
        for name in [
            "admin_peers",
            "debug_traceTransaction",
            "personal_sign",
            "miner_stop",
            "engine_newPayloadV4",
            "txpool_content",
            "eth_sign",
            "eth_signTransaction",
            "eth_sendTransaction",
            "eth_newFilter",
            "",
            "ETH_CALL",
        ] {
            assert!(class(name).is_none(), "{name}");
        }
    }
}
