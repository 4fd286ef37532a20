//! The rows of the table: what each compares, of which runs, and its goal. Pure.

use std::collections::HashMap;

use crate::bench::measure::Measure;

/// The runs of one round that count, by name.
pub(super) type Round<'a> = HashMap<&'a str, &'a Measure>;

/// What a figure is to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// Nothing: the figure explains another.
    Free,
}

impl Goal {
    pub(super) fn met(self, figure: f64) -> Option<bool> {
        match self {
            Self::AtLeast(least) => Some(figure >= least),
            Self::AtMost(most) => Some(figure <= most),
            Self::Free => None,
        }
    }
}

impl std::fmt::Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "≥ {least}"),
            Self::AtMost(most) => write!(f, "≤ {most}"),
            Self::Free => f.write_str("–"),
        }
    }
}

/// A row.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    pub(super) goal: Goal,
    /// Decimals of the figure.
    pub(super) decimals: usize,
    /// The runs that the figure is made of.
    pub(super) runs: &'static [&'static str],
    pub(super) figure: fn(&Round) -> Option<f64>,
}

fn rate(round: &Round, run: &str) -> Option<f64> {
    round.get(run)?.deliveries_per_cpu_second
}

fn cost(round: &Round, run: &str) -> Option<f64> {
    round.get(run)?.cpu_per_delivery()
}

fn more(round: &Round, run: &str, name: &str) -> Option<f64> {
    round.get(run)?.more.get(name).copied()
}

fn kib(bytes: Option<f64>) -> Option<f64> {
    Some(bytes? / 1024.0)
}

fn p99(round: &Round, run: &str) -> Option<f64> {
    Some(round.get(run)?.latency_ms?.p99)
}

/// All rows, in the order of the table.
pub(super) const ROWS: [Row; 22] = [
    Row {
        name: "heads-1000",
        what: "deliveries per CPU-second, heads, 1,000 clients / a bare `send` loop",
        goal: Goal::Free,
        decimals: 2,
        runs: &["floor-1000", "chaincast-1000"],
        figure: |round| Some(rate(round, "chaincast-1000")? / rate(round, "floor-1000")?),
    },
    Row {
        name: "heads-5000",
        what: "deliveries per CPU-second, heads, 5,000 clients / a bare `send` loop",
        goal: Goal::AtLeast(0.95),
        decimals: 2,
        runs: &["floor-5000", "chaincast-5000"],
        figure: |round| Some(rate(round, "chaincast-5000")? / rate(round, "floor-5000")?),
    },
    Row {
        name: "heads-15000",
        what: "deliveries per CPU-second, heads, 15,000 clients / a bare `send` loop",
        goal: Goal::AtLeast(0.95),
        decimals: 2,
        runs: &["floor-15000", "chaincast-15000"],
        figure: |round| Some(rate(round, "chaincast-15000")? / rate(round, "floor-15000")?),
    },
    Row {
        name: "jsonrpsee",
        what: "deliveries per CPU-second, heads, 5,000 clients / jsonrpsee's server, a subscription per client",
        goal: Goal::AtLeast(1.4),
        decimals: 2,
        runs: &["chaincast-5000", "jsonrpsee-5000"],
        figure: |round| Some(rate(round, "chaincast-5000")? / rate(round, "jsonrpsee-5000")?),
    },
    Row {
        name: "tungstenite",
        what: "deliveries per CPU-second, heads, 5,000 clients / tokio-tungstenite, a task and a receiver per client",
        goal: Goal::AtLeast(1.5),
        decimals: 2,
        runs: &["tungstenite-5000", "chaincast-5000"],
        figure: |round| Some(rate(round, "chaincast-5000")? / rate(round, "tungstenite-5000")?),
    },
    Row {
        name: "burst",
        what: "deliveries per CPU-second, 200 logs a block, 1,000 clients / a bare loop of one write a client",
        goal: Goal::AtLeast(0.7),
        decimals: 2,
        runs: &["burst", "floor-burst"],
        figure: |round| Some(rate(round, "burst")? / rate(round, "floor-burst")?),
    },
    Row {
        name: "burst-own",
        what: "deliveries per CPU-second, 200 logs a block, each of 1,000 clients its own filter / that bare loop",
        goal: Goal::AtLeast(0.4),
        decimals: 2,
        runs: &["floor-burst", "burst-own"],
        figure: |round| Some(rate(round, "burst-own")? / rate(round, "floor-burst")?),
    },
    Row {
        name: "rise",
        what: "CPU per delivery, 15,000 clients / 1,000, over the bare loop's own rise",
        goal: Goal::AtMost(1.15),
        decimals: 2,
        runs: &["floor-1000", "chaincast-1000", "floor-15000", "chaincast-15000"],
        figure: |round| {
            let rise = |many, few| Some(cost(round, many)? / cost(round, few)?);
            Some(rise("chaincast-15000", "chaincast-1000")? / rise("floor-15000", "floor-1000")?)
        },
    },
    Row {
        name: "idle",
        what: "RSS per idle connection with a subscription, 18,000 of them, KiB",
        goal: Goal::AtMost(2.0),
        decimals: 2,
        runs: &["idle"],
        figure: |round| kib(round.get("idle")?.rss_per_client_bytes),
    },
    Row {
        name: "idle-left",
        what: "what is left of RSS per idle connection when all have gone, KiB",
        goal: Goal::Free,
        decimals: 2,
        runs: &["idle"],
        figure: |round| kib(round.get("idle")?.rss_left_per_client_bytes),
    },
    Row {
        name: "idle-tls",
        what: "RSS per idle TLS connection with a subscription, KiB",
        goal: Goal::AtMost(14.0),
        decimals: 2,
        runs: &["idle-tls"],
        figure: |round| kib(round.get("idle-tls")?.rss_per_client_bytes),
    },
    Row {
        name: "filters-rss",
        what: "RSS per distinct filter, 100,000 of 1,000 clients, bytes",
        goal: Goal::AtMost(400.0),
        decimals: 0,
        runs: &["filters"],
        figure: |round| more(round, "filters", "rss_bytes"),
    },
    Row {
        name: "match",
        what: "match time per log, 1,000,000 filters / 1,000, one match a log",
        goal: Goal::AtMost(3.0),
        decimals: 2,
        runs: &["matching"],
        figure: |round| Some(more(round, "matching", "ns_a_log_many")? / more(round, "matching", "ns_a_log_few")?),
    },
    Row {
        name: "filters-subscribe",
        what: "subscribe 100,000 distinct filters, in batches of 20: CPU of each, µs",
        goal: Goal::AtMost(10.0),
        decimals: 2,
        runs: &["filters"],
        figure: |round| more(round, "filters", "cpu_us"),
    },
    Row {
        name: "filters-index",
        what: "the filter index alone: insert, then remove, of 100,000 filters: CPU of each, µs",
        goal: Goal::Free,
        decimals: 2,
        runs: &["upkeep"],
        figure: |round| Some(more(round, "upkeep", "insert_us")? + more(round, "upkeep", "remove_us")?),
    },
    Row {
        name: "stuck",
        what: "p99 of 5,000 healthy clients with 5 % stuck ones / without",
        goal: Goal::AtMost(1.1),
        decimals: 2,
        runs: &["healthy-5000", "stuck-5000"],
        figure: |round| Some(p99(round, "stuck-5000")? / p99(round, "healthy-5000")?),
    },
    Row {
        name: "last",
        what: "last client's latency / (5,000 clients × the bare loop's cost of a send)",
        goal: Goal::AtMost(1.3),
        decimals: 2,
        runs: &["floor-5000", "chaincast-5000"],
        figure: |round| {
            let ours = round.get("chaincast-5000")?;
            Some(ours.latency_ms?.last? / (cost(round, "floor-5000")? * 1000.0 * ours.clients as f64))
        },
    },
    Row {
        name: "last-floor",
        what: "the bare loop's last client / (5,000 clients × its cost of a send)",
        goal: Goal::Free,
        decimals: 2,
        runs: &["floor-5000"],
        figure: |round| {
            let floor = round.get("floor-5000")?;
            Some(floor.latency_ms?.last? / (floor.cpu_per_delivery()? * 1000.0 * floor.clients as f64))
        },
    },
    Row {
        name: "extra",
        what: "extra latency of a head with 1 client, over the node's own write, p50, ms",
        goal: Goal::AtMost(0.3),
        decimals: 3,
        runs: &["extra"],
        figure: |round| more(round, "extra", "extra_ms_p50"),
    },
    Row {
        name: "upgrades",
        what: "connects + subscribes per CPU-second / a bare tokio-tungstenite accept loop",
        goal: Goal::AtLeast(0.8),
        decimals: 2,
        runs: &["upgrades", "accept"],
        figure: |round| {
            let rate = |run: &str| round.get(run)?.connects_per_cpu_second;
            Some(rate("upgrades")? / rate("accept")?)
        },
    },
    Row {
        name: "compress",
        what: "CPU per delivery, compressed / plain, 5,000 clients",
        goal: Goal::AtMost(1.1),
        decimals: 2,
        runs: &["chaincast-5000", "deflate-5000"],
        figure: |round| Some(cost(round, "deflate-5000")? / cost(round, "chaincast-5000")?),
    },
    Row {
        name: "compress-bytes",
        what: "bytes on the wire, compressed / plain",
        goal: Goal::AtMost(0.6),
        decimals: 2,
        runs: &["chaincast-5000", "deflate-5000"],
        figure: |round| {
            let bytes = |run: &str| round.get(run)?.bytes_per_delivery;
            Some(bytes("deflate-5000")? / bytes("chaincast-5000")?)
        },
    },
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::jobs::JOBS;
    use super::*;
    use crate::bench::measure::Latency;

    #[test]
    fn names_differ_and_every_run_is_there_and_wanted() {
        let names: HashSet<&str> = ROWS.iter().map(|row| row.name).collect();
        let runs: HashSet<&str> = JOBS.iter().map(|job| job.name).collect();
        let wanted: HashSet<&str> = ROWS.iter().flat_map(|row| row.runs).copied().collect();
        assert_eq!((names.len(), runs.len()), (ROWS.len(), JOBS.len()));
        assert_eq!(runs, wanted);
    }

    #[test]
    fn a_row_has_its_figure_from_its_own_runs_and_none_if_one_is_missing() {
        let all = Measure {
            clients: 10,
            deliveries_per_cpu_second: Some(1.0),
            bytes_per_delivery: Some(1.0),
            latency_ms: Some(Latency { p50: 1.0, p99: 1.0, max: 1.0, last: Some(1.0) }),
            rss_per_client_bytes: Some(1.0),
            rss_left_per_client_bytes: Some(1.0),
            connects_per_cpu_second: Some(1.0),
            more: ["rss_bytes", "cpu_us", "ns_a_log_few", "ns_a_log_many", "insert_us", "remove_us", "extra_ms_p50"]
                .map(|name| (name, 1.0))
                .into(),
            ..Measure::default()
        };
        for row in &ROWS {
            let round: Round<'_> = row.runs.iter().map(|run| (*run, &all)).collect();
            assert!((row.figure)(&round).is_some_and(|figure| figure > 0.0), "{}", row.name);
            for run in row.runs {
                let mut less = round.clone();
                less.remove(run);
                assert_eq!((row.figure)(&less), None, "{} without {run}", row.name);
            }
        }
    }

    #[test]
    fn goals_are_judged_and_written() {
        assert_eq!(Goal::AtLeast(0.95).met(0.95), Some(true));
        assert_eq!(Goal::AtMost(1.1).met(1.2), Some(false));
        assert_eq!(Goal::Free.met(1.0), None);
        assert_eq!(format!("{} {} {}", Goal::AtLeast(0.7), Goal::AtMost(2.0), Goal::Free), "≥ 0.7 ≤ 2 –");
    }
}
