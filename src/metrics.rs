//! Every metric of the daemon, as one table. The registry is a value that is passed, never a global.
//!
//! Names follow the Prometheus conventions: base units, `_total` for counters. No label takes a value from a client,
//! so the number of series is bounded by the configuration.

use std::ops::Deref;
use std::sync::Arc;

use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

/// Buckets for the time from a node's socket to the last client, in seconds.
const DELIVERY_BUCKETS: &[f64] =
    &[0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Buckets for calls to nodes, in seconds.
const CALL_BUCKETS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

macro_rules! metrics {
    ($($(#[$meta:meta])* $field:ident : $kind:ident ( $name:literal, $help:literal $(, $arg:expr)* );)*) => {
        /// The metrics, one field each.
        #[derive(Debug)]
        pub struct Table {
            registry: Registry,
            $(#[doc = $help] pub $field: $kind,)*
        }

        impl Table {
            fn new() -> Self {
                let registry = Registry::new();
                $(let $field = metrics!(@make $kind $name, $help $(, $arg)*);
                registry.register(Box::new($field.clone())).expect("the names in the table differ");)*
                Self { registry, $($field,)* }
            }
        }
    };
    (@make IntCounter $n:expr, $h:expr) => { IntCounter::new($n, $h).expect("a valid name") };
    (@make IntGauge $n:expr, $h:expr) => { IntGauge::new($n, $h).expect("a valid name") };
    (@make IntCounterVec $n:expr, $h:expr, $l:expr) => { IntCounterVec::new(Opts::new($n, $h), $l).expect("valid names") };
    (@make IntGaugeVec $n:expr, $h:expr, $l:expr) => { IntGaugeVec::new(Opts::new($n, $h), $l).expect("valid names") };
    (@make GaugeVec $n:expr, $h:expr, $l:expr) => { GaugeVec::new(Opts::new($n, $h), $l).expect("valid names") };
    (@make Histogram $n:expr, $h:expr, $b:expr) => {
        Histogram::with_opts(HistogramOpts::new($n, $h).buckets($b.to_vec())).expect("a valid name")
    };
    (@make HistogramVec $n:expr, $h:expr, $l:expr, $b:expr) => {
        HistogramVec::new(HistogramOpts::new($n, $h).buckets($b.to_vec()), $l).expect("valid names")
    };
}

metrics! {
    build_info: IntGaugeVec("chaincast_build_info", "1, labelled with the version of the running binary", &["version"]);
    ready: IntGauge("chaincast_ready", "1 while /readyz answers 200");

    upstream_up: IntGaugeVec("chaincast_upstream_up", "1 while the node is connected, on the right chain, and subscribed if it is to be", &["chain", "upstream"]);
    upstream_head: IntGaugeVec("chaincast_upstream_head_block", "Number of the last head that the node announced", &["chain", "upstream"]);
    upstream_seen: GaugeVec("chaincast_upstream_head_timestamp_seconds", "When the node last announced a head, seconds since 1970", &["chain", "upstream"]);
    upstream_connects: IntCounterVec("chaincast_upstream_connects_total", "Connection attempts to the node by outcome", &["chain", "upstream", "outcome"]);
    upstream_calls: IntCounterVec("chaincast_upstream_calls_total", "Calls sent to the node by outcome", &["chain", "upstream", "outcome"]);
    upstream_call_seconds: HistogramVec("chaincast_upstream_call_duration_seconds", "Time until the node answered a call", &["chain", "upstream"], CALL_BUCKETS);
    upstream_malformed: IntCounterVec("chaincast_upstream_malformed_total", "Messages of the node that could not be read", &["chain", "upstream"]);

    upstream_stalled: IntGaugeVec("chaincast_upstream_stalled", "1 while the node is behind the others", &["chain", "upstream"]);
    upstream_stalls: IntCounterVec("chaincast_upstream_stalls_total", "Times the node fell behind the others", &["chain", "upstream"]);
    upstream_breaker: IntGaugeVec("chaincast_upstream_breaker_open", "1 while the node fails calls and gets single ones only", &["chain", "upstream"]);
    upstream_set_aside: IntCounterVec("chaincast_upstream_set_aside_total", "Times the node was not believed and left alone for a while, by reason", &["chain", "upstream", "reason"]);

    head_block: IntGaugeVec("chaincast_head_block", "Number of the head that was published last", &["chain"]);
    head_seen: GaugeVec("chaincast_head_published_timestamp_seconds", "When the last head was published, seconds since 1970", &["chain"]);
    heads: IntCounterVec("chaincast_heads_published_total", "Heads published", &["chain"]);
    logs: IntCounterVec("chaincast_logs_published_total", "Logs published", &["chain"]);
    logs_removed: IntCounterVec("chaincast_logs_removed_total", "Logs of undone blocks that had been published", &["chain"]);
    reorgs: IntCounterVec("chaincast_reorgs_total", "Reorgs by depth", &["chain", "depth"]);
    gaps: IntCounterVec("chaincast_gaps_total", "Times the stream could not be kept exact and subscribers were closed, by cause", &["chain", "cause"]);
    logs_retries: IntCounterVec("chaincast_logs_retries_total", "Times the logs of a block were asked for again, by cause", &["chain", "cause"]);
    logs_waiting: IntGaugeVec("chaincast_logs_waiting_blocks", "Published heads whose logs are not published yet", &["chain"]);
    logs_late: IntGaugeVec("chaincast_logs_late", "1 while the logs of a block stay incomplete and hold back those after it", &["chain"]);
    blooms_empty: IntGaugeVec("chaincast_blooms_empty", "1 where header blooms say nothing about the logs", &["chain"]);
    silent: IntGaugeVec("chaincast_silent", "1 while no node has announced a head for four block times", &["chain"]);
    block_time: GaugeVec("chaincast_block_time_seconds", "The usual time between blocks, learnt from the last ones", &["chain"]);
    final_block: IntGaugeVec("chaincast_final_block", "Number of the safe or finalized block, by tag", &["chain", "tag"]);
    feed_events: IntCounterVec("chaincast_feed_events_total", "Best-effort events (pending transactions, syncing, passed kinds) by outcome; refused: the node refuses the subscription", &["chain", "outcome"]);

    connections: IntGauge("chaincast_connections", "Open TCP connections on the public listener");
    clients: IntGaugeVec("chaincast_clients", "Open WebSocket clients", &["chain"]);
    compressed_clients: IntGaugeVec("chaincast_compressed_clients", "Open WebSocket clients that negotiated compression", &["chain"]);
    connections_total: IntCounter("chaincast_connections_accepted_total", "TCP connections taken on the public listener");
    handshakes: IntCounterVec("chaincast_handshakes_total", "WebSocket upgrades by outcome", &["outcome"]);
    tls_handshakes: IntCounterVec("chaincast_tls_handshakes_total", "TLS handshakes on the public listener by outcome", &["outcome"]);
    subscriptions: IntGaugeVec("chaincast_subscriptions", "Open subscriptions by kind", &["chain", "kind"]);
    streams: IntGaugeVec("chaincast_streams", "Distinct streams (equal subscriptions share one)", &["chain"]);
    deliveries: IntCounterVec("chaincast_deliveries_total", "Notifications handed to sockets, by kind", &["chain", "kind"]);
    bytes_out: IntCounterVec("chaincast_sent_bytes_total", "Bytes taken by client sockets", &["chain"]);
    delivery_seconds: HistogramVec("chaincast_delivery_duration_seconds", "Time from reading an event off the node to having written it to the last client that takes bytes", &["chain", "kind"], DELIVERY_BUCKETS);
    closes: IntCounterVec("chaincast_closes_total", "Ended WebSocket connections by reason", &["chain", "reason"]);
    refusals: IntCounterVec("chaincast_refusals_total", "Requests and connections refused, by limit and scope", &["limit", "scope"]);
    outbox_bytes: IntGaugeVec("chaincast_outbox_bytes", "Bytes held for clients whose sockets are full", &["chain"]);
    outbox_clients: IntGaugeVec("chaincast_outbox_clients", "Clients whose sockets are full", &["chain"]);
    feed_dropped: IntCounterVec("chaincast_feed_dropped_total", "Best-effort events not sent, by cause", &["chain", "cause"]);

    calls: IntCounterVec("chaincast_calls_total", "Requests of clients by class of method and outcome", &["chain", "class", "outcome"]);
    call_cache: IntCounterVec("chaincast_call_cache_total", "Cacheable calls by how they were answered", &["chain", "outcome"]);
    call_cache_bytes: IntGaugeVec("chaincast_call_cache_bytes", "Bytes of answers kept", &["chain"]);
    journal_entries: IntGaugeVec("chaincast_journal_entries", "Chain updates held in memory", &["chain"]);
    panics: IntCounter("chaincast_panics_total", "Panics of tasks; any is a bug");
    broadcast_seconds: Histogram("chaincast_broadcast_duration_seconds", "Time that one shard spent on one chain update", DELIVERY_BUCKETS);
}

/// A handle of the metrics. One pointer: every connection holds some.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Table>);

impl Deref for Metrics {
    type Target = Table;

    fn deref(&self) -> &Table {
        &self.0
    }
}

/// Now, for the gauges that hold a time: seconds since 1970.
#[must_use]
pub fn unix_seconds() -> f64 {
    // A clock before 1970 is a clock that was never set; then there is no better answer than 0.
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A fresh set in a registry of its own.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Table::new()))
    }

    /// The text exposition format.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = Vec::with_capacity(16 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut out).expect("writing to memory does not fail");
        String::from_utf8(out).expect("the exposition format is UTF-8")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_registers_and_every_name_is_ours() {
        let metrics = Metrics::new();
        metrics.build_info.with_label_values(&["test"]).set(1);
        let text = metrics.text();
        assert!(text.contains("chaincast_build_info{version=\"test\"} 1"));
        for line in text.lines().filter(|l| l.starts_with("# TYPE")) {
            assert!(line.starts_with("# TYPE chaincast_"), "{line}");
        }
    }

    #[test]
    fn two_sets_do_not_share() {
        let (a, b) = (Metrics::new(), Metrics::new());
        a.connections.inc();
        assert_eq!(b.connections.get(), 0);
    }
}
