//! The figures of one run, and the clocks that they are read from.
//!
//! Owns which figures there are, when a run is void for the generator's sake, and how a run reads as text.

use std::fmt::{self, Display, Formatter};
use std::time::Instant;

use serde::Serialize;

use super::load::Fleet;
use super::process::Usage;

/// Above this share of a core the generator may be what is measured.
const GENERATOR_SHARE_MAX: f64 = 0.9;

/// The figures of one run, as far as the kind of run has them. CPU time is user and system time of the server.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Measure {
    /// Connections that are measured.
    pub clients: usize,
    /// Measured blocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocks: Option<usize>,
    /// Events of all clients in those blocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deliveries: Option<u64>,
    /// How long what is measured took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall_seconds: Option<f64>,
    /// The server's CPU time in that span.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<f64>,
    /// Deliveries by the server's CPU time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deliveries_per_cpu_second: Option<f64>,
    /// Bytes that the clients read for one delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_delivery: Option<f64>,
    /// From the making of a block, or from the first client that had the event where others make the blocks, to a
    /// client's reading it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<Latency>,
    /// What the server's memory grew by for each subscribed client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rss_per_client_bytes: Option<f64>,
    /// The same after all clients have gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rss_left_per_client_bytes: Option<f64>,
    /// Connects with upgrade and subscription, by the time they took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connects_per_second: Option<f64>,
    /// The same by the server's CPU time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connects_per_cpu_second: Option<f64>,
    /// Clients that do not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stuck: Option<Stuck>,
    /// Figures of one kind of run only, by name.
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub more: std::collections::BTreeMap<&'static str, f64>,
    /// The share of one core that the generator used, and the node where it is in the same process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generator_share: Option<f64>,
    /// Why the figures do not count.
    pub void: Option<String>,
}

/// Latencies in milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Latency {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Of the last event of all.
    pub max: f64,
    /// Until the last client has a block, median of the blocks; where the generator makes them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<f64>,
}

/// Clients that subscribe and never read.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Stuck {
    /// How many.
    pub clients: usize,
    /// How many of them the server surely holds bytes for, or has given up.
    pub full: usize,
    /// Bytes in the receive buffer of each, which it does not read.
    pub unread_bytes: u64,
}

impl Measure {
    /// CPU time of one delivery, in seconds.
    pub(super) fn cpu_per_delivery(&self) -> Option<f64> {
        self.deliveries_per_cpu_second.map(f64::recip)
    }
}

impl Display for Measure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.clients {
            0 => f.write_str("no clients")?,
            1 => f.write_str("1 client")?,
            many => write!(f, "{many} clients")?,
        }
        if let (Some(deliveries), Some(wall)) = (self.deliveries, self.wall_seconds) {
            write!(f, ", {deliveries} deliveries in {wall:.2} s")?;
        }
        let figure = |f: &mut Formatter<'_>, value: Option<f64>, decimals: usize, words: &str| match value {
            Some(value) => write!(f, ", {value:.decimals$} {words}"),
            None => Ok(()),
        };
        let kib = |bytes: Option<f64>| bytes.map(|bytes| bytes / 1024.0);
        figure(f, self.deliveries_per_cpu_second, 0, "per CPU-second of the server")?;
        figure(f, self.bytes_per_delivery, 0, "bytes each")?;
        figure(f, self.connects_per_second, 0, "connects a second")?;
        figure(f, self.connects_per_cpu_second, 0, "connects per CPU-second of the server")?;
        figure(f, kib(self.rss_per_client_bytes), 2, "KiB a client")?;
        figure(f, kib(self.rss_left_per_client_bytes), 2, "KiB a client left after all have gone")?;
        if let Some(Latency { p50, p99, max, last }) = self.latency_ms {
            write!(f, ", p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.2} ms")?;
            figure(f, last, 2, "ms to the last client")?;
        }
        if let Some(Stuck { clients, full, unread_bytes }) = self.stuck {
            write!(f, ", {full} of {clients} stuck clients full ({unread_bytes} bytes unread each)")?;
        }
        self.more.iter().try_for_each(|(name, value)| write!(f, ", {name} {value:.2}"))?;
        figure(f, self.generator_share.map(|share| share * 100.0), 0, "% of a core for the generator")?;
        match &self.void {
            Some(why) => write!(f, ": VOID, {why}"),
            None => Ok(()),
        }
    }
}

/// Both sides' use of the machine at one time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    at: Instant,
    server: Option<Usage>,
    generator: Usage,
    deliveries: u64,
    bytes: u64,
}

impl Reading {
    /// Reads the clocks of the server, if its process is known, and of this process.
    pub(super) fn take(pid: Option<u32>, fleet: &Fleet) -> Result<Self, String> {
        let usage = |pid: u32| Usage::of(pid).map_err(|e| format!("{e:#}"));
        let (deliveries, bytes) = fleet.received();
        let server = pid.map(usage).transpose()?;
        Ok(Self { at: Instant::now(), server, generator: usage(std::process::id())?, deliveries, bytes })
    }

    /// What the server's memory has grown by since an earlier reading, in bytes for each of so many.
    pub(super) fn growth_each(&self, before: &Self, count: usize) -> Option<f64> {
        let (now, then) = (self.server?.rss_bytes, before.server?.rss_bytes);
        Some(now.saturating_sub(then) as f64 / count.max(1) as f64)
    }

    /// Seconds and the server's CPU-seconds since an earlier reading.
    pub(super) fn since(&self, before: &Self) -> (f64, Option<f64>) {
        let cpu = self.server.zip(before.server).map(|(now, then)| now.cpu_seconds - then.cpu_seconds);
        ((self.at - before.at).as_secs_f64(), cpu)
    }

    /// Fills in what was delivered since an earlier reading, and judges the generator.
    pub(super) fn deliveries_since(&self, before: &Self, measure: &mut Measure) {
        let (wall, cpu) = self.since(before);
        let deliveries = self.deliveries - before.deliveries;
        measure.deliveries = Some(deliveries);
        measure.wall_seconds = Some(wall);
        measure.bytes_per_delivery = Some((self.bytes - before.bytes) as f64 / deliveries as f64);
        measure.cpu_seconds = cpu;
        measure.deliveries_per_cpu_second = cpu.filter(|cpu| *cpu > 0.0).map(|cpu| deliveries as f64 / cpu);
        self.judge_generator(before, measure);
    }

    /// A generator that was busy all the time may be what was measured.
    pub(super) fn judge_generator(&self, before: &Self, measure: &mut Measure) {
        let wall = (self.at - before.at).as_secs_f64();
        let share = (self.generator.cpu_seconds - before.generator.cpu_seconds) / wall;
        measure.generator_share = Some(share);
        if share > GENERATOR_SHARE_MAX {
            measure.void.get_or_insert(format!("the generator was {:.0} % busy", share * 100.0));
        }
    }
}
