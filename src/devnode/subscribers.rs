//! Who subscribed to what on one node, and the sending of announcements.
//!
//! Owns the list of subscriptions. A subscription is in the list before its answer goes out and keeps what is announced
//! meanwhile, so nothing that happens after the answer is missed. Whoever reads too slowly loses the connection, never a
//! message. Does not know what is announced.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use alloy_primitives::{hex, keccak256};
use jsonrpsee::server::{IdProvider, SubscriptionSink};
use jsonrpsee::types::SubscriptionId;
use serde_json::Value;
use serde_json::value::RawValue;

use super::args::{Args, RpcError};
use super::filter::{self, LogFilter};
use super::wire::Valve;

/// Messages that may wait for one connection. Beyond it the connection is cut.
pub(super) const OUTBOX: usize = 131_072;

/// What can be subscribed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Headers of new heads.
    NewHeads,
    /// Logs that match a filter, and their removal.
    Logs,
    /// Transactions that wait for a block.
    NewPendingTransactions,
    /// Whether the node is syncing.
    Syncing,
}

/// What one subscriber wants.
#[derive(Debug)]
pub(super) enum Interest {
    NewHeads,
    Logs(LogFilter),
    NewPendingTransactions { full: bool },
    Syncing,
}

impl Interest {
    /// Reads the parameters of `eth_subscribe`.
    pub(super) fn parse(args: &Args) -> Result<Self, RpcError> {
        let missing = || RpcError::invalid("expected subscription name as first argument");
        match args.optional(0).and_then(Value::as_str).ok_or_else(missing)? {
            "newHeads" => Ok(Self::NewHeads),
            "logs" => Ok(Self::Logs(filter::parse(args.required(1)?, 1)?.0)),
            "newPendingTransactions" => Ok(Self::NewPendingTransactions {
                full: args.optional(1).is_some_and(|full| *full == Value::Bool(true)),
            }),
            "syncing" => Ok(Self::Syncing),
            other => Err(RpcError::new(-32_601, format!("no \"{other}\" subscription in eth namespace"))),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::NewHeads => Kind::NewHeads,
            Self::Logs(_) => Kind::Logs,
            Self::NewPendingTransactions { .. } => Kind::NewPendingTransactions,
            Self::Syncing => Kind::Syncing,
        }
    }
}

#[derive(Debug)]
enum Outlet {
    /// The answer is not out yet; these follow it.
    Waiting(Vec<Box<RawValue>>),
    Open(SubscriptionSink),
}

#[derive(Debug)]
struct Subscription {
    key: u64,
    interest: Interest,
    outlet: Outlet,
    valve: Arc<Valve>,
}

impl Subscription {
    fn is_closed(&self) -> bool {
        matches!(&self.outlet, Outlet::Open(sink) if sink.is_closed())
    }

    /// Whether all were taken.
    fn push(&mut self, messages: Vec<Box<RawValue>>) -> bool {
        match &mut self.outlet {
            Outlet::Waiting(waiting) => {
                waiting.extend(messages);
                waiting.len() <= OUTBOX
            }
            Outlet::Open(sink) => messages.into_iter().all(|message| sink.try_send(message).is_ok()),
        }
    }
}

/// The subscriptions of one node.
#[derive(Debug, Default)]
pub(super) struct Subscribers {
    list: Mutex<Vec<Subscription>>,
    keys: AtomicU64,
    overflows: AtomicU64,
}

impl Subscribers {
    /// Puts a subscription in the list before its answer is sent.
    pub(super) fn reserve(&self, interest: Interest, valve: Arc<Valve>) -> u64 {
        let key = self.keys.fetch_add(1, Ordering::Relaxed);
        self.lock().push(Subscription { key, interest, outlet: Outlet::Waiting(Vec::new()), valve });
        key
    }

    /// The answer is out: sends what has been kept and goes on.
    pub(super) fn open(&self, key: u64, sink: SubscriptionSink) {
        let mut list = self.lock();
        let Some(place) = list.iter().position(|s| s.key == key) else { return };
        let subscription = &mut list[place];
        let kept = std::mem::replace(&mut subscription.outlet, Outlet::Open(sink));
        if let Outlet::Waiting(kept) = kept {
            self.push_or_cut(subscription, kept);
        }
    }

    /// The answer could not be sent.
    pub(super) fn forget(&self, key: u64) {
        self.lock().retain(|subscription| subscription.key != key);
    }

    /// Gives each subscriber the messages chosen for its interest.
    pub(super) fn announce(&self, mut choose: impl FnMut(&Interest) -> Vec<Box<RawValue>>) {
        self.lock().retain_mut(|subscription| {
            if subscription.is_closed() {
                return false;
            }
            let messages = choose(&subscription.interest);
            messages.is_empty() || self.push_or_cut(subscription, messages)
        });
    }

    /// Whether anybody wants this kind.
    pub(super) fn any(&self, kind: Kind) -> bool {
        self.lock().iter().any(|s| s.interest.kind() == kind)
    }

    /// How many are open.
    pub(super) fn count(&self, kind: Kind) -> usize {
        self.lock().iter().filter(|s| s.interest.kind() == kind && !s.is_closed()).count()
    }

    /// How many connections were cut because a subscriber did not read.
    pub(super) fn overflows(&self) -> u64 {
        self.overflows.load(Ordering::Relaxed)
    }

    fn push_or_cut(&self, subscription: &mut Subscription, messages: Vec<Box<RawValue>>) -> bool {
        let taken = subscription.push(messages);
        if !taken && !subscription.is_closed() {
            self.overflows.fetch_add(1, Ordering::Relaxed);
            subscription.valve.cut();
        }
        taken
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Subscription>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Geth's form of subscription ids: a random quantity of up to 128 bits. Drawn from the chain's seed and the node's number.
#[derive(Debug)]
pub(super) struct SubscriptionIds {
    seed: u64,
    node: u64,
    given: AtomicU64,
}

impl SubscriptionIds {
    pub(super) fn new(seed: u64, node: u64) -> Self {
        Self { seed, node, given: AtomicU64::new(0) }
    }
}

impl IdProvider for SubscriptionIds {
    fn next_id(&self) -> SubscriptionId<'static> {
        let given = self.given.fetch_add(1, Ordering::Relaxed);
        let hash = keccak256(format!("subscription {} {} {given}", self.seed, self.node));
        let digits = hex::encode(&hash[..16]);
        SubscriptionId::Str(format!("0x{}", digits.trim_start_matches('0')).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_quantities_that_depend_on_seed_node_and_place() {
        let ids = |seed, node| -> Vec<SubscriptionId<'static>> {
            let provider = SubscriptionIds::new(seed, node);
            (0..100).map(|_| provider.next_id()).collect()
        };
        assert_eq!(ids(1, 0), ids(1, 0));
        assert_ne!(ids(1, 0), ids(1, 1));
        for id in ids(1, 0) {
            let SubscriptionId::Str(text) = id else { panic!("ids are strings") };
            assert!(text.starts_with("0x") && !text.starts_with("0x0") && text.len() <= 34);
        }
    }

    #[test]
    fn parameters_are_refused_in_geths_words() {
        let message = |text| Interest::parse(&Args::parse(Some(text)).expect("a list")).unwrap_err().message;
        assert_eq!(message("[]"), "expected subscription name as first argument");
        assert_eq!(message(r#"["foo"]"#), "no \"foo\" subscription in eth namespace");
        assert_eq!(message(r#"["logs"]"#), "missing value for required argument 1");
    }
}
