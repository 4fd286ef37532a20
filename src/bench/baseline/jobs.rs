//! The runs of the comparison, one of each in a round. Says what they are; `ground` does them.

use super::servers::Peer;

/// Clients of a run with the load that most rows have.
const MANY: usize = 5_000;

/// Who serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Chaincast,
    Peer(Peer),
}

/// What is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Traffic {
    /// A head a block.
    Heads,
    /// So many logs a block, to clients with one filter or with one of their own each.
    Logs { a_block: usize, own_filters: bool },
}

/// What is delivered by whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deliveries {
    pub(super) side: Side,
    pub(super) traffic: Traffic,
    /// Compressed.
    pub(super) deflate: bool,
}

/// What a run does.
#[derive(Debug, Clone, Copy)]
pub(super) enum Work {
    Deliveries(Deliveries),
    /// Deliveries of heads with so many per cent of further clients that never read.
    Stuck {
        percent: usize,
    },
    Idle {
        tls: bool,
    },
    Storm {
        side: Side,
    },
    Extra,
    Filters {
        each: usize,
    },
    Matching {
        few: u32,
        many: u32,
    },
    Upkeep {
        filters: u32,
    },
}

/// A run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job {
    pub(super) name: &'static str,
    pub(super) clients: usize,
    pub(super) work: Work,
}

const fn heads(name: &'static str, side: Side, clients: usize) -> Job {
    Job { name, clients, work: Work::Deliveries(Deliveries { side, traffic: Traffic::Heads, deflate: false }) }
}

const fn burst(name: &'static str, side: Side, own_filters: bool) -> Job {
    let traffic = Traffic::Logs { a_block: 200, own_filters };
    Job { name, clients: 1_000, work: Work::Deliveries(Deliveries { side, traffic, deflate: false }) }
}

const fn job(name: &'static str, clients: usize, work: Work) -> Job {
    Job { name, clients, work }
}

/// All runs, in the order of a round; what is compared stands side by side.
pub(super) const JOBS: [Job; 22] = [
    heads("floor-1000", Side::Peer(Peer::Floor), 1_000),
    heads("chaincast-1000", Side::Chaincast, 1_000),
    heads("tungstenite-5000", Side::Peer(Peer::Tungstenite), MANY),
    heads("floor-5000", Side::Peer(Peer::Floor), MANY),
    heads("chaincast-5000", Side::Chaincast, MANY),
    job(
        "deflate-5000",
        MANY,
        Work::Deliveries(Deliveries { side: Side::Chaincast, traffic: Traffic::Heads, deflate: true }),
    ),
    heads("jsonrpsee-5000", Side::Peer(Peer::Jsonrpsee), MANY),
    heads("floor-15000", Side::Peer(Peer::Floor), 15_000),
    heads("chaincast-15000", Side::Chaincast, 15_000),
    burst("burst", Side::Chaincast, false),
    burst("floor-burst", Side::Peer(Peer::FloorBurst), false),
    burst("burst-own", Side::Chaincast, true),
    job("healthy-5000", MANY, Work::Stuck { percent: 0 }),
    job("stuck-5000", MANY, Work::Stuck { percent: 5 }),
    job("extra", 2, Work::Extra),
    job("upgrades", 10_000, Work::Storm { side: Side::Chaincast }),
    job("accept", 10_000, Work::Storm { side: Side::Peer(Peer::Accept) }),
    job("idle", 18_000, Work::Idle { tls: false }),
    job("idle-tls", 2_000, Work::Idle { tls: true }),
    job("filters", 1_000, Work::Filters { each: 100 }),
    job("upkeep", 0, Work::Upkeep { filters: 100_000 }),
    job("matching", 0, Work::Matching { few: 1_000, many: 1_000_000 }),
];
