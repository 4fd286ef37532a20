//! Filters against Geth's rules and against lists in any order; and random filters and logs for the index's tests.

use alloy_primitives::{Address, B256};
use proptest::prelude::*;

use super::Filter;
use crate::chain::Log;

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

pub(crate) fn filter(addresses: &[u8], topics: &[&[u8]]) -> Filter {
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
        (filter(&[], &[&[9], &[], &[]]), log(1, &[9, 8]), false),
        (filter(&[], &[&[9], &[], &[]]), log(1, &[9, 8, 7]), true),
        (filter(&[], &[&[], &[], &[], &[]]), log(1, &[1, 2, 3]), false),
        (filter(&[], &[]).between(Some(7), Some(7)), log(1, &[]), true),
        (filter(&[], &[]).between(Some(8), None), log(1, &[]), false),
        (filter(&[], &[]).between(None, Some(6)), log(1, &[]), false),
    ] {
        assert_eq!(filter.matches(&log), want, "{filter:?} {log:?}");
    }
}

#[test]
fn bounds_replace_each_other() {
    let plain = filter(&[1], &[&[2], &[]]);
    let bounded = plain.clone().between(Some(5), Some(9));
    assert_ne!(plain, bounded);
    assert_eq!(bounded.clone().between(Some(0), Some(u64::MAX)), plain);
    assert_eq!(bounded.clone().between(None, Some(9)), plain.clone().between(None, Some(9)));
    assert_ne!(plain.clone().between(None, Some(9)), plain.clone().between(Some(9), None));
    assert_eq!(format!("{bounded:?}").matches("5..=9").count(), 1);
}

/// A filter as lists, and Geth's rule read off them.
#[derive(Debug, Clone)]
pub(crate) struct Lists {
    addresses: Vec<Address>,
    topics: Vec<Vec<B256>>,
    from: Option<u64>,
    to: Option<u64>,
}

impl Lists {
    pub(crate) fn filter(&self) -> Filter {
        Filter::new(self.addresses.clone(), self.topics.clone()).between(self.from, self.to)
    }

    pub(crate) fn matches(&self, log: &Log) -> bool {
        let wanted = |(at, any): (usize, &Vec<B256>)| any.is_empty() || any.contains(&log.topics[at]);
        self.from.is_none_or(|from| from <= log.block_number)
            && self.to.is_none_or(|to| log.block_number <= to)
            && (self.addresses.is_empty() || self.addresses.contains(&log.address))
            && self.topics.len() <= log.topics.len()
            && self.topics.iter().enumerate().all(wanted)
    }
}

/// Few distinct values, so that matches are frequent.
const VALUES: std::ops::Range<u8> = 0..4;
/// Few blocks, so that bounds matter.
const BLOCKS: std::ops::Range<u64> = 0..8;

/// A list of topics: mostly short; now and then as long as the default limit allows, or longer than a byte counts.
fn any_topics() -> impl Strategy<Value = Vec<B256>> {
    let long = prop_oneof![8 => Just(0u16), 1 => Just(97u16), 1 => 200..400u16];
    (prop::collection::vec(VALUES, 0..4), long).prop_map(|(few, long)| {
        let long = (0..long).map(|n| B256::left_padding_from(&(n + 1).to_be_bytes()));
        few.iter().map(|topic| B256::repeat_byte(*topic)).chain(long).collect()
    })
}

prop_compose! {
    pub(crate) fn any_lists()(
        addresses in prop::collection::vec(VALUES, 0..4),
        other_addresses in prop_oneof![4 => Just(0u8), 1 => Just(97u8)],
        topics in prop::collection::vec(any_topics(), 0..5),
        from in prop::option::weighted(0.2, BLOCKS),
        to in prop::option::weighted(0.2, BLOCKS),
    ) -> Lists {
        let others = (0..other_addresses).map(|n| Address::left_padding_from(&[1, n]));
        Lists { addresses: addresses.iter().map(|a| Address::repeat_byte(*a)).chain(others).collect(), topics, from, to }
    }
}

prop_compose! {
    pub(crate) fn any_log()(address in VALUES, topics in prop::collection::vec(VALUES, 0..5), number in BLOCKS) -> Log {
        Log { block_number: number, ..log(address, &topics) }
    }
}

proptest! {
    #[test]
    fn a_filter_is_what_its_lists_say(lists in any_lists(), log in any_log()) {
        prop_assert_eq!(lists.filter().matches(&log), lists.matches(&log), "{:?}", lists.filter());
    }

    #[test]
    fn equal_filters_are_those_with_equal_lists(a in any_lists(), b in any_lists()) {
        let sorted = |lists: &Lists| {
            let mut lists = lists.clone();
            lists.addresses.sort_unstable();
            lists.addresses.dedup();
            lists.topics.iter_mut().for_each(|any| { any.sort_unstable(); any.dedup(); });
            (lists.addresses, lists.topics, lists.from.filter(|n| *n > 0), lists.to)
        };
        let mut reversed = a.clone();
        reversed.addresses.reverse();
        reversed.topics.iter_mut().for_each(|any| { any.reverse(); any.extend(any.clone()); });
        prop_assert_eq!(a.filter(), reversed.filter());
        prop_assert_eq!(a.filter() == b.filter(), sorted(&a) == sorted(&b));
        prop_assert_eq!(a.filter() == b.filter(), a.filter().canonical_bytes() == b.filter().canonical_bytes());
    }
}
