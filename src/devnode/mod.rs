//! An embedded development chain, and nodes on it that can be made to fail.
//!
//! `chaincast demo` runs on it, and it is the tests' fault node. Owns everything a gateway sees of a node: JSON-RPC over
//! WebSocket and HTTP in Geth's form. Depends on no other module, so that tests compare two independent readings of the
//! rules. No consensus, no state execution, no signatures: a chain is made of what clients can check, that is hashes,
//! parent links, blooms, roots and log indices.
//!
//! The path of an event: [`SharedChain`] makes a block and records that the head moved; each [`DevNode`] follows that record
//! at its own pace, moves its own view, and announces. [`Faults`] is asked at each step.
//!
//! ```text
//! Miner ─▶ SharedChain ─ happenings ─▶ follow ─▶ View ─▶ announce ─▶ Subscribers ─▶ Wire ─▶ socket
//!                                                 ▲
//!                              socket ─▶ Wire ─▶ Desk ─▶ methods
//! ```
//!
//! ```no_run
//! # async fn f() -> std::io::Result<()> {
//! use chaincast::devnode::{DevNode, DevOptions, SharedChain, Span, Spoil};
//!
//! let chain = SharedChain::new(DevOptions::default());
//! let node = DevNode::start(chain.clone(), std::net::TcpListener::bind("127.0.0.1:0")?)?;
//! chain.mine(200);
//! chain.reorg(3, 4);
//! node.faults().spoil("eth_getLogs", Spoil::Empty, Span::Times(2));
//! node.faults().cut_connections();
//! # Ok(()) }
//! ```

mod announce;
mod args;
mod block;
mod branch;
mod chain;
mod desk;
mod door;
mod economy;
mod faults;
mod filter;
mod hexjson;
mod json;
mod methods;
mod miner;
mod node;
mod shared;
mod spoil;
mod state;
mod subscribers;
mod transaction;
mod view;
mod wire;

#[cfg(test)]
mod tests;

pub use block::{Block, BlockRef, LogAt};
pub use branch::HeadChange;
pub use chain::{BlockTime, DevChain, DevOptions};
pub use economy::{Economy, TRANSFER_TOPIC, Token, Transfer};
pub use faults::{Faults, Handshake};
pub use miner::{Miner, MinerOptions};
pub use node::{Counters, DevNode};
pub use shared::SharedChain;
pub use spoil::{Rewrite, Span, Spoil};
pub use subscribers::Kind;
pub use transaction::Transaction;
