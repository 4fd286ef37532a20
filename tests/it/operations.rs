//! What who runs the gateway sees of it: probes and metrics, the command line and its mistakes, signals, the demo, and
//! that the secrets in node URLs are nowhere.

pub(crate) mod daemon;
mod flags;
mod metrics;
mod secrets;
mod signals;
