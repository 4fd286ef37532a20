//! Who may do how much: per connection, per address.
//!
//! Rates are governor's. Owns the table of addresses that have connections; an address without one costs nothing but
//! its share in the rate limiter, which is bounded. A refusal names the limit and when to come back.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::metrics::Metrics;
use crate::rpc::{self, Error};

/// A rate and how much of it may come at once.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Per second, sustained.
    pub per_second: NonZeroU32,
    /// At once.
    pub burst: NonZeroU32,
}

impl Rate {
    fn quota(self) -> Quota {
        Quota::per_second(self.per_second).allow_burst(self.burst)
    }
}

/// The limits of one listener.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Most connections of one IPv4 address or IPv6 /64.
    pub connections_per_address: usize,
    /// Most connections of one IPv6 /48.
    pub connections_per_site: usize,
    /// New connections of one IPv4 address or IPv6 /64.
    pub connect: Rate,
    /// Messages of one connection, free ones too; beyond that it is read no faster.
    pub messages: Rate,
    /// Weighted calls of one connection.
    pub calls: Rate,
    /// Calls of one connection under way; a batch is one.
    pub calls_in_flight: usize,
    /// Calls of one connection that wait for one of those to end.
    pub calls_waiting: usize,
    /// New subscriptions of one connection.
    pub subscribe: Rate,
    /// Most subscriptions of one connection.
    pub subscriptions_per_connection: usize,
    /// Most subscriptions of one IPv4 address or IPv6 /64.
    pub subscriptions_per_address: usize,
}

/// Addresses that the rate limiter remembers before it forgets the idle ones.
const KEYS_MAX: usize = 100_000;

/// An address as it is counted: IPv4 whole, IPv6 by its /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressKey(u64, bool);

impl AddressKey {
    /// The key of an address; IPv4 mapped into IPv6 counts as IPv4.
    #[must_use]
    pub fn new(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self(u64::from(v4.to_bits()), false),
            IpAddr::V6(v6) => Self(u64::try_from(v6.to_bits() >> 64).expect("64 bits are left"), true),
        }
    }

    /// The /48 that an IPv6 key lies in.
    fn site(self) -> Option<u64> {
        self.1.then_some(self.0 >> 16)
    }
}

#[derive(Debug, Default)]
struct Counts {
    connections: usize,
    subscriptions: usize,
}

#[derive(Debug, Default)]
struct Table {
    addresses: HashMap<AddressKey, Counts>,
    sites: HashMap<u64, usize>,
}

/// The addresses that are connected. Shared by all shards; touched when a connection or a subscription comes or goes.
#[derive(Debug)]
pub struct Addresses {
    table: Mutex<Table>,
    connects: DefaultKeyedRateLimiter<AddressKey>,
    limits: Limits,
}

/// A connection's place in the table; gives it back when dropped.
#[derive(Debug)]
pub struct Permit {
    addresses: Arc<Addresses>,
    key: AddressKey,
    subscriptions: usize,
    /// The limit that the connection is over, if it is: it may only be told so.
    pub over: Option<&'static str>,
}

impl Addresses {
    /// An empty table.
    #[must_use]
    pub fn new(limits: Limits) -> Arc<Self> {
        let connects = RateLimiter::keyed(limits.connect.quota());
        Arc::new(Self { table: Mutex::default(), connects, limits })
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a new connection in, over the limit or not.
    #[must_use]
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Permit {
        let key = AddressKey::new(address);
        let in_rate = self.connects.check_key(&key).is_ok();
        if self.connects.len() > KEYS_MAX {
            self.connects.retain_recent();
            self.connects.shrink_to_fit();
        }
        let mut table = self.table();
        let own = table.addresses.entry(key).or_default();
        own.connections += 1;
        let mut over = (own.connections > self.limits.connections_per_address).then_some("connections");
        if let Some(site) = key.site() {
            let count = table.sites.entry(site).or_default();
            *count += 1;
            over = over.or((*count > self.limits.connections_per_site).then_some("connections"));
        }
        drop(table);
        over = over.or((!in_rate).then_some("connect_rate"));
        Permit { addresses: self.clone(), key, subscriptions: 0, over }
    }
}

impl Permit {
    /// Counts a subscription in.
    fn subscribe(&mut self) -> bool {
        let mut table = self.addresses.table();
        let counts = table.addresses.get_mut(&self.key).expect("the connection is counted");
        let fits = counts.subscriptions < self.addresses.limits.subscriptions_per_address;
        counts.subscriptions += usize::from(fits);
        drop(table);
        self.subscriptions += usize::from(fits);
        fits
    }

    /// Counts a subscription out.
    pub fn unsubscribe(&mut self) {
        self.subscriptions -= 1;
        let mut table = self.addresses.table();
        table.addresses.get_mut(&self.key).expect("the connection is counted").subscriptions -= 1;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut table = self.addresses.table();
        if let Some(counts) = table.addresses.get_mut(&self.key) {
            counts.connections -= 1;
            counts.subscriptions -= self.subscriptions;
            if counts.connections == 0 {
                table.addresses.remove(&self.key);
                if table.addresses.capacity() > 64.max(8 * table.addresses.len()) {
                    let few = 2 * table.addresses.len();
                    table.addresses.shrink_to(few);
                }
            }
        }
        if let Some(site) = self.key.site()
            && let Some(count) = table.sites.get_mut(&site)
        {
            *count -= 1;
            if *count == 0 {
                table.sites.remove(&site);
            }
        }
    }
}

/// What a request asks of the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// A call of this weight.
    Call(u32),
    /// A message whose calls take time.
    Slot,
    /// A subscription.
    Subscribe,
    /// What is over this bound, counted over this scope: it is refused whatever else was asked.
    Over(&'static str, &'static str),
}

/// The limits of one connection.
#[derive(Debug)]
pub struct ConnLimits {
    permit: Permit,
    messages: DefaultDirectRateLimiter,
    calls: DefaultDirectRateLimiter,
    subscribes: DefaultDirectRateLimiter,
    /// Subscriptions held or being made.
    subscriptions: usize,
    /// Messages whose calls are under way or waiting.
    in_flight: usize,
    metrics: Metrics,
}

fn wait_ms(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1)
}

impl ConnLimits {
    /// Nothing was asked yet.
    #[must_use]
    pub fn new(permit: Permit, metrics: Metrics) -> Self {
        let limits = &permit.addresses.limits;
        Self {
            messages: RateLimiter::direct(limits.messages.quota()),
            calls: RateLimiter::direct(limits.calls.quota()),
            subscribes: RateLimiter::direct(limits.subscribe.quota()),
            subscriptions: 0,
            in_flight: 0,
            permit,
            metrics,
        }
    }

    /// Counts a message; how long to wait before the next is read.
    #[must_use]
    pub fn message(&self) -> Option<Duration> {
        let not_yet = self.messages.check().err()?;
        Some(not_yet.wait_time_from(DefaultClock::default().now()))
    }

    /// Whether the request may go on. What is granted is given back with [`ConnLimits::answered`] and
    /// [`ConnLimits::unsubscribed`].
    pub fn ask(&mut self, ask: Ask) -> Result<(), Error> {
        let refused = match self.permit.over {
            Some(limit) => Some((limit, "address", 2_000)),
            None => match ask {
                Ask::Call(weight) => self.call(weight),
                Ask::Slot => self.slot(),
                Ask::Subscribe => self.subscribe(),
                Ask::Over(limit, scope) => Some((limit, scope, 0)),
            },
        };
        let Some((limit, scope, after_ms)) = refused else { return Ok(()) };
        self.metrics.refusals.with_label_values(&[limit, scope]).inc();
        Err(rpc::limit(limit, scope, after_ms))
    }

    fn call(&mut self, weight: u32) -> Option<(&'static str, &'static str, u64)> {
        match self.calls.check_n(NonZeroU32::new(weight)?) {
            Ok(Ok(())) => None,
            Ok(Err(not_yet)) => {
                Some(("calls", "connection", wait_ms(not_yet.wait_time_from(DefaultClock::default().now()))))
            }
            // The burst is smaller than this one call weighs: no wait would help.
            Err(_) => Some(("calls", "connection", 0)),
        }
    }

    fn slot(&mut self) -> Option<(&'static str, &'static str, u64)> {
        let limits = &self.permit.addresses.limits;
        if self.in_flight >= limits.calls_in_flight + limits.calls_waiting {
            return Some(("calls_in_flight", "connection", 100));
        }
        self.in_flight += 1;
        None
    }

    fn subscribe(&mut self) -> Option<(&'static str, &'static str, u64)> {
        if self.subscriptions >= self.permit.addresses.limits.subscriptions_per_connection {
            return Some(("subscriptions", "connection", 0));
        }
        if let Err(not_yet) = self.subscribes.check() {
            return Some((
                "subscribe_rate",
                "connection",
                wait_ms(not_yet.wait_time_from(DefaultClock::default().now())),
            ));
        }
        if !self.permit.subscribe() {
            return Some(("subscriptions", "address", 0));
        }
        self.subscriptions += 1;
        None
    }

    /// The calls of a message have ended.
    pub fn answered(&mut self) {
        self.in_flight -= 1;
    }

    /// A subscription has ended.
    pub fn unsubscribed(&mut self) {
        self.subscriptions -= 1;
        self.permit.unsubscribe();
    }

    /// The limit that the connection as a whole is over.
    #[must_use]
    pub fn over(&self) -> Option<&'static str> {
        self.permit.over
    }

    /// The permit, for a connection that goes on otherwise.
    #[must_use]
    pub fn into_permit(self) -> Permit {
        self.permit
    }

    /// Counts the refusal of something that is bounded elsewhere.
    pub fn count_refusal(&self, limit: &str, scope: &str) {
        self.metrics.refusals.with_label_values(&[limit, scope]).inc();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn rate(per_second: u32, burst: u32) -> Rate {
        Rate { per_second: per_second.try_into().unwrap(), burst: burst.try_into().unwrap() }
    }

    pub(crate) fn limits() -> Limits {
        Limits {
            connections_per_address: 2,
            connections_per_site: 3,
            connect: rate(1, 100),
            messages: rate(1, 5),
            calls: rate(1, 30),
            calls_in_flight: 1,
            calls_waiting: 1,
            subscribe: rate(1, 4),
            subscriptions_per_connection: 3,
            subscriptions_per_address: 4,
        }
    }

    fn limit_of(result: Result<(), Error>) -> Option<String> {
        let error = result.err()?;
        assert_eq!(error.code(), rpc::LIMIT_CODE);
        let data: serde_json::Value = serde_json::from_str(error.data().unwrap().get()).unwrap();
        assert!(data["retryAfterMs"].is_u64());
        Some(format!("{}/{}", data["limit"].as_str().unwrap(), data["scope"].as_str().unwrap()))
    }

    #[test]
    fn connections_are_counted_by_address_and_by_ipv6_site() {
        let addresses = Addresses::new(limits());
        let over = |permit: &Permit| permit.over;
        let a = [1, 2, 3].map(|_| addresses.admit("192.0.2.1".parse().unwrap()));
        assert_eq!(a.each_ref().map(over), [None, None, Some("connections")]);
        assert_eq!(addresses.admit("::ffff:192.0.2.1".parse().unwrap()).over, Some("connections"));
        let six = ["2001:db8:0:1::1", "2001:db8:0:2::1", "2001:db8:0:3::1", "2001:db8:0:4::1", "2001:db8:1::"];
        let b = six.map(|text| addresses.admit(text.parse().unwrap()));
        assert_eq!(b.each_ref().map(over), [None, None, None, Some("connections"), None]);
        drop((a, b));
        assert!(addresses.table().addresses.is_empty() && addresses.table().sites.is_empty());
    }

    #[test]
    fn new_connections_have_a_rate() {
        let addresses = Addresses::new(Limits { connect: rate(1, 2), connections_per_address: 100, ..limits() });
        let over = [1, 2, 3].map(|_| addresses.admit("192.0.2.1".parse().unwrap()).over);
        assert_eq!(over, [None, None, Some("connect_rate")]);
        assert_eq!(addresses.admit("192.0.2.2".parse().unwrap()).over, None);
    }

    #[test]
    fn calls_are_weighted_and_bounded_in_flight() {
        let addresses = Addresses::new(limits());
        let mut conn = ConnLimits::new(addresses.admit("192.0.2.1".parse().unwrap()), Metrics::new());
        assert_eq!(limit_of(conn.ask(Ask::Call(20))), None);
        assert_eq!(limit_of(conn.ask(Ask::Call(20))).as_deref(), Some("calls/connection"));
        assert_eq!(limit_of(conn.ask(Ask::Call(0))), None, "free ones are free");
        assert_eq!(limit_of(conn.ask(Ask::Call(90))).as_deref(), Some("calls/connection"), "more than fits");
        assert_eq!([1, 2].map(|_| limit_of(conn.ask(Ask::Slot))), [None, None]);
        assert_eq!(limit_of(conn.ask(Ask::Slot)).as_deref(), Some("calls_in_flight/connection"));
        conn.answered();
        assert_eq!(limit_of(conn.ask(Ask::Slot)), None);
    }

    #[test]
    fn subscriptions_are_bounded_by_connection_rate_and_address() {
        let addresses = Addresses::new(limits());
        let new = || ConnLimits::new(addresses.admit("192.0.2.1".parse().unwrap()), Metrics::new());
        let (mut a, mut b) = (new(), new());
        assert_eq!([1, 2, 3].map(|_| limit_of(a.ask(Ask::Subscribe))), [None, None, None]);
        assert_eq!(limit_of(a.ask(Ask::Subscribe)).as_deref(), Some("subscriptions/connection"));
        assert_eq!(limit_of(b.ask(Ask::Subscribe)), None);
        assert_eq!(limit_of(b.ask(Ask::Subscribe)).as_deref(), Some("subscriptions/address"));
        a.unsubscribed();
        assert_eq!(limit_of(b.ask(Ask::Subscribe)), None);
        assert_eq!(
            limit_of(a.ask(Ask::Subscribe)).as_deref(),
            Some("subscriptions/address"),
            "the fourth of its burst"
        );
        assert_eq!(limit_of(a.ask(Ask::Subscribe)).as_deref(), Some("subscribe_rate/connection"));
        drop(a);
        assert_eq!(limit_of(b.ask(Ask::Subscribe)), None);
    }

    #[test]
    fn messages_beyond_the_rate_wait() {
        let addresses = Addresses::new(limits());
        let conn = ConnLimits::new(addresses.admit("192.0.2.1".parse().unwrap()), Metrics::new());
        assert!((0..5).all(|_| conn.message().is_none()));
        assert!(conn.message().is_some_and(|wait| wait <= Duration::from_secs(1)));
    }
}
