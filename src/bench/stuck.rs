//! Clients that subscribe and never read, so that their sockets fill and the server has to hold or drop what is theirs.
//!
//! Owns how much each of them asks for and when its sockets are surely full.

use super::endpoint::Endpoint;
use super::load::{Fleet, Plan};
use super::measure::Stuck;
use super::progress::Progress;

/// Subscriptions of each, so that few blocks are many bytes.
pub(super) const SUBSCRIPTIONS: usize = 16;
/// Addresses that the clients that do read may have.
const SOURCES_AFTER: u32 = 512;
/// `SO_RCVBUF` of each; the kernel doubles it.
const RECEIVE_BUFFER_BYTES: usize = 4096;
/// What the kernel holds at most for a socket of the server where its limit cannot be read.
const SEND_BUFFER_MAX_BYTES: u64 = 4 << 20;

/// The clients that never read.
pub(super) struct StuckClients {
    /// Never waited with, once it is connected, and so never read.
    fleet: Fleet,
    send_buffer_max: u64,
}

impl StuckClients {
    /// Connects and subscribes them.
    pub(super) fn connect(target: &Endpoint, request: &str, clients: usize) -> Result<Self, String> {
        let plan = Plan {
            receive_buffer_bytes: Some(RECEIVE_BUFFER_BYTES),
            checked: false,
            sources_after: SOURCES_AFTER,
            ..Plan::new(target, vec![request.to_owned(); SUBSCRIPTIONS])
        };
        let mut fleet = Fleet::new(plan, Progress::new("stuck")).map_err(|e| format!("{e:#}"))?;
        fleet.connect(clients)?;
        let limits = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_wmem").unwrap_or_default();
        let send_buffer_max = limits.split_whitespace().nth(2).and_then(|most| most.parse().ok());
        Ok(Self { fleet, send_buffer_max: send_buffer_max.unwrap_or(SEND_BUFFER_MAX_BYTES) })
    }

    pub(super) fn len(&self) -> usize {
        self.fleet.len()
    }

    /// How they stand, if each was to get so many bytes by now: those are full whose bytes fit neither into what they
    /// have not read nor into what the kernel holds at most for a sender.
    pub(super) fn when_due(&self, bytes: u64) -> Stuck {
        let full = self.fleet.unread().filter(|unread| bytes.saturating_sub(*unread) > self.send_buffer_max).count();
        self.with_full(full)
    }

    /// How they stand, if the server says that so many are full.
    pub(super) fn with_full(&self, full: usize) -> Stuck {
        let unread: u64 = self.fleet.unread().sum();
        Stuck { clients: self.len(), full, unread_bytes: unread / (self.len().max(1) as u64) }
    }
}
