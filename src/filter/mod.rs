//! What a client asked to see of a block's logs: the canonical form of a filter, and the plain matcher.
//!
//! Owns the reading of filters with Geth's semantics, and [`Index`], which finds the matching ones among very many.
//! Does not know who subscribed. Pure.

mod index;
mod parse;

use alloy_primitives::{Address, B256};

use crate::chain::Log;

pub use index::Index;
pub use parse::{Bounds, Refusal, parse};

/// A log filter in canonical form: equal requests compare equal however their lists were ordered.
///
/// A list with several entries means "any of these". An empty list means "anything".
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Filter {
    /// Sorted, without duplicates; empty for any address.
    addresses: Box<[Address]>,
    /// One sorted list a position; empty for any topic. A log needs at least as many topics as there are positions.
    topics: Box<[Box<[B256]>]>,
    /// First block whose logs are wanted; 0 for any.
    from: u64,
    /// Last block whose logs are wanted; the largest number for any.
    to: u64,
}

impl Default for Filter {
    /// The filter that wants everything.
    fn default() -> Self {
        Self { addresses: Box::default(), topics: Box::default(), from: 0, to: u64::MAX }
    }
}

impl Filter {
    /// Brings lists into canonical form.
    #[must_use]
    pub fn new(mut addresses: Vec<Address>, topics: Vec<Vec<B256>>) -> Self {
        addresses.sort_unstable();
        addresses.dedup();
        let canonical = |mut list: Vec<B256>| {
            list.sort_unstable();
            list.dedup();
            list.into_boxed_slice()
        };
        Self { addresses: addresses.into(), topics: topics.into_iter().map(canonical).collect(), ..Self::default() }
    }

    /// Bounds the blocks whose logs are wanted, both ends included. Live logs outside are not sent; nothing is replayed.
    #[must_use]
    pub fn between(self, from: Option<u64>, to: Option<u64>) -> Self {
        Self { from: from.unwrap_or(0), to: to.unwrap_or(u64::MAX), ..self }
    }

    /// Whether the filter wants this log.
    #[must_use]
    pub fn matches(&self, log: &Log) -> bool {
        (self.from..=self.to).contains(&log.block_number)
            && (self.addresses.is_empty() || self.addresses.binary_search(&log.address).is_ok())
            && self.topics.len() <= log.topics.len()
            && self
                .topics
                .iter()
                .zip(&log.topics)
                .all(|(any, topic)| any.is_empty() || any.binary_search(topic).is_ok())
    }

    /// The canonical form as bytes: equal for equal filters and only for them.
    #[must_use]
    pub fn canonical_bytes(&self) -> Vec<u8> {
        let length = |n: usize| u32::try_from(n).expect("lists are bounded far below").to_be_bytes();
        let mut bytes = Vec::with_capacity(64);
        bytes.extend(length(self.addresses.len()));
        self.addresses.iter().for_each(|a| bytes.extend(a.as_slice()));
        bytes.extend(length(self.topics.len()));
        for any in &self.topics {
            bytes.extend(length(any.len()));
            any.iter().for_each(|t| bytes.extend(t.as_slice()));
        }
        bytes.extend(self.from.to_be_bytes());
        bytes.extend(self.to.to_be_bytes());
        bytes
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn log(address: u8, topics: &[u8]) -> Log {
        Log {
            address: Address::repeat_byte(address),
            topics: topics.iter().map(|t| B256::repeat_byte(*t)).collect(),
            block_hash: B256::ZERO,
            block_number: 7,
            index: 0,
            json: bytes::Bytes::new(),
        }
    }

    fn filter(addresses: &[u8], topics: &[&[u8]]) -> Filter {
        let topic = |t: &u8| B256::repeat_byte(*t);
        Filter::new(
            addresses.iter().map(|a| Address::repeat_byte(*a)).collect(),
            topics.iter().map(|any| any.iter().map(topic).collect()).collect(),
        )
    }

    #[test]
    fn geths_semantics() {
        for (filter, log, want) in [
            (filter(&[], &[]), log(1, &[]), true),
            (filter(&[1], &[]), log(1, &[9]), true),
            (filter(&[1], &[]), log(2, &[9]), false),
            (filter(&[1, 2], &[]), log(2, &[]), true),
            (filter(&[], &[&[9]]), log(1, &[9, 8]), true),
            (filter(&[], &[&[9]]), log(1, &[]), false),
            (filter(&[], &[&[], &[8]]), log(1, &[9, 8]), true),
            (filter(&[], &[&[], &[8]]), log(1, &[8, 9]), false),
            (filter(&[], &[&[9, 7]]), log(1, &[7]), true),
            (filter(&[], &[&[9], &[]]), log(1, &[9]), false),
            (filter(&[], &[&[], &[], &[], &[]]), log(1, &[1, 2, 3]), false),
        ] {
            assert_eq!(filter.matches(&log), want, "{filter:?} {log:?}");
        }
    }

    prop_compose! {
        /// Few distinct values, so that matches are frequent; long lists now and then.
        pub(crate) fn any_filter()(
            addresses in prop::collection::vec(0u8..4, 0..4),
            topics in prop::collection::vec(prop::collection::vec(0u8..4, 0..3), 0..5),
            long in prop::option::weighted(0.1, (0usize..4, 200u16..400)),
        ) -> Filter {
            let mut topics: Vec<Vec<B256>> =
                topics.iter().map(|any| any.iter().map(|t| B256::repeat_byte(*t)).collect()).collect();
            if let Some((position, extra)) = long.filter(|(position, _)| *position < topics.len()) {
                topics[position].extend((0..extra).map(|n| B256::left_padding_from(&n.to_be_bytes())));
            }
            Filter::new(addresses.iter().map(|a| Address::repeat_byte(*a)).collect(), topics)
        }
    }

    prop_compose! {
        pub(crate) fn any_log()(address in 0u8..4, topics in prop::collection::vec(0u8..4, 0..5)) -> Log {
            log(address, &topics)
        }
    }

    proptest! {
        #[test]
        fn canonical_bytes_tell_filters_apart(a in any_filter(), b in any_filter()) {
            prop_assert_eq!(a == b, a.canonical_bytes() == b.canonical_bytes());
        }
    }
}
