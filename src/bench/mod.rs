//! Measures what an endpoint spends on fanning events out: many clients, every event checked, CPU and memory beside it.
//!
//! Owns the load generator, the exactly-once check, the measures, and the baselines: servers of its own that the gateway is
//! compared with. Knows the gateway by its command line, its sockets and its metrics. Of the library it uses the
//! development chain, as the node that all servers listen to, and the filter index, which is also measured by itself.
//!
//! ```text
//!             core A                                  core B
//! Node ─ heads ─▶ [ server in a process of its own ] ─ frames ─▶ Fleet ─▶ Stream (exactly once?) ─▶ Measure
//!   ▲                                                              │
//!   └──────────── next block, once every client has this one ◀─────┘        (Node and Fleet share core A)
//! ```
//!
//! `load` is the clients, `drive` the course of a run, `run` a run against any endpoint, `baseline` the comparison.

#![allow(clippy::cast_precision_loss, reason = "figures for a report, far below 2^52")]

mod baseline;
mod drive;
mod endpoint;
mod load;
mod measure;
mod process;
mod progress;
mod run;
mod stuck;

use std::time::Duration;

pub use baseline::{Baseline, Peer, Report, baseline, row_names, serve};
pub use measure::{Latency, Measure, Stuck};
pub use run::{Mode, Run, Subscription, measure};

/// How long anything may stand still before a run is void.
const PATIENCE: Duration = Duration::from_secs(120);
