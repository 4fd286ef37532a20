//! The metrics of a shard that every connection or event moves.
//!
//! Owns no figure: they are the chain's own, shared by all of its shards.

use prometheus::{IntCounter, IntGauge};

use super::StreamKey;
use crate::metrics::Metrics;

/// The metrics that every connection or event moves, looked up once.
pub(super) struct Meters {
    pub(super) clients: IntGauge,
    pub(super) compressed: IntGauge,
    pub(super) streams: IntGauge,
    pub(super) bytes_out: IntCounter,
    /// Subscriptions and deliveries by [`StreamKey::LABELS`].
    kinds: [(IntGauge, IntCounter); StreamKey::LABELS.len()],
}

impl Meters {
    pub(super) fn new(metrics: &Metrics, chain: &str) -> Self {
        let kind = |kind| {
            let labels = &[chain, kind];
            (metrics.subscriptions.with_label_values(labels), metrics.deliveries.with_label_values(labels))
        };
        Self {
            clients: metrics.clients.with_label_values(&[chain]),
            compressed: metrics.compressed_clients.with_label_values(&[chain]),
            streams: metrics.streams.with_label_values(&[chain]),
            bytes_out: metrics.bytes_out.with_label_values(&[chain]),
            kinds: StreamKey::LABELS.map(kind),
        }
    }

    /// Subscriptions and deliveries of a kind.
    pub(super) fn kind(&self, label: &str) -> &(IntGauge, IntCounter) {
        let at = StreamKey::LABELS.iter().position(|known| *known == label).expect("there are no other labels");
        &self.kinds[at]
    }
}
