//! chaincast: the events of Ethereum-style nodes, fanned out to very many clients.
//!
//! The modules below stand in the order of an event's path and of their dependencies: a module may use
//! only those above it, and `tests/it/tidy.rs` checks that. `docs/ARCHITECTURE.md` explains the map.

mod planted;
pub mod metrics;
pub mod rpc;
pub mod close;
pub mod deflate;
pub mod chain;
pub mod upstream;
pub mod ingest;
pub mod journal;
pub mod filter;
pub mod hub;
pub mod calls;
pub mod session;
pub mod server;
pub mod app;
pub mod config;
pub mod devnode;
pub mod bench;
pub mod cli;

#[cfg(test)]
mod sim;
