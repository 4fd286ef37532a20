//! What the end-to-end tests share: a gateway in this process, real nodes, stock clients.
//!
//! Every port is chosen by the system, everything started is ended by its owner, and nothing waits by sleeping.

pub(crate) mod anvil;
pub(crate) mod client;
pub(crate) mod crowd;
pub(crate) mod engine;
pub(crate) mod gateway;
pub(crate) mod geth;
pub(crate) mod http;
pub(crate) mod stage;
pub(crate) mod tls;
pub(crate) mod tools;
pub(crate) mod until;
pub(crate) mod view;
pub(crate) mod wanted;

pub(crate) use client::Client;
pub(crate) use crowd::Crowd;
pub(crate) use gateway::{Gateway, GatewayOptions};
pub(crate) use stage::Stage;
pub(crate) use until::until;
pub(crate) use view::Watcher;

/// A number from the environment.
pub(crate) fn asked(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is no number")))
}
