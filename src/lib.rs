//! chaincast: the events of Ethereum-style nodes, fanned out to very many clients.
//!
//! The modules below stand in the order of an event's path and of their dependencies: a module may use
//! only those above it, and `tests/it/tidy.rs` checks that. `docs/ARCHITECTURE.md` explains the map.

pub mod app;
pub mod calls;
pub mod chain;
pub mod cli;
pub mod close;
pub mod config;
pub mod devnode;
pub mod filter;
pub mod hub;
pub mod ingest;
pub mod journal;
pub mod metrics;
pub mod rpc;
pub mod server;
pub mod session;
pub mod upstream;
