//! What the end-to-end tests share: a gateway in this process, real nodes, stock clients.
//!
//! Every port is chosen by the system, everything started is ended by its owner, and nothing waits by sleeping.

pub(crate) mod client;
pub(crate) mod gateway;
pub(crate) mod geth;
pub(crate) mod tools;

pub(crate) use client::Client;
pub(crate) use gateway::{Gateway, GatewayOptions};
