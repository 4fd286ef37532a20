//! The index against the plain matcher on random filters; and what it costs, counted, under crowds made to hurt.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256};
use proptest::prelude::*;

use super::super::tests::{Lists, any_lists, any_log, filter, log};
use super::*;

/// One step of a walk.
#[derive(Debug, Clone)]
enum Step {
    Insert(u32, Lists),
    Remove(u32),
    Advance(u64),
    Match(Log),
}

/// Ids; few, so that they are used again.
const IDS: std::ops::Range<u32> = 0..24;

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (IDS, any_lists()).prop_map(|(id, lists)| Step::Insert(id, lists)),
        2 => IDS.prop_map(Step::Remove),
        1 => (0..8u64).prop_map(Step::Advance),
        6 => any_log().prop_map(Step::Match),
    ]
}

fn found(index: &Index, log: &Log) -> Vec<u32> {
    let mut found = Vec::new();
    index.matching(&[log], usize::MAX, |_, id| found.push(id));
    found.sort_unstable();
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn finds_what_the_plain_matcher_finds(steps in prop::collection::vec(any_step(), 0..120)) {
        let mut index = Index::new(RandomState::new());
        let mut model: BTreeMap<u32, Lists> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Insert(id, lists) => {
                    index.remove(id);
                    index.insert(id, lists.filter());
                    model.insert(id, lists);
                }
                Step::Remove(id) => {
                    index.remove(id);
                    model.remove(&id);
                }
                Step::Advance(number) => prop_assert!(!index.advance(number)),
                Step::Match(log) => {
                    let naive: Vec<u32> = model.iter().filter(|(_, l)| l.matches(&log)).map(|(id, _)| *id).collect();
                    prop_assert_eq!(found(&index, &log), naive);
                }
            }
            prop_assert_eq!(index.len(), model.len());
        }
        for id in IDS {
            index.remove(id);
        }
        prop_assert!(index.is_empty() && index.shelves.is_empty() && index.filters.is_empty());
        prop_assert!(!index.advance(u64::MAX));
    }
}

/// Values at a place that nothing else has.
fn topic(place: u8, n: u32) -> B256 {
    let mut value = B256::left_padding_from(&n.to_be_bytes());
    value.0[0] = 0x80 | place;
    value
}

fn topics(place: u8, numbers: impl IntoIterator<Item = u32>) -> Vec<B256> {
    numbers.into_iter().map(|n| topic(place, n)).collect()
}

fn address(n: u32) -> Address {
    Address::left_padding_from(&n.to_be_bytes())
}

fn indexed(filters: impl IntoIterator<Item = Filter>) -> Index {
    let mut index = Index::new(RandomState::new());
    (0..).zip(filters).for_each(|(id, filter)| index.insert(id, filter));
    index
}

/// Steps for a log, and how many filters want it.
fn cost(index: &Index, log: &Log) -> (usize, usize) {
    (index.candidates(log, &index.digests(log), |_| ()), found(index, log).len())
}

const CROWD: u32 = 20_000;
/// A crowd of filters with long lists.
const LISTED: u32 = 1_600;

/// A log of the contract that everyone watches.
fn popular() -> Log {
    Log { address: address(7), topics: vec![topic(0, 0), topic(1, 0), topic(2, 0)], ..log(0, &[]) }
}

#[test]
fn a_log_costs_the_same_among_few_and_among_many() {
    let distinct = |n: u32| {
        let of = |n: u32| match n % 4 {
            0 => Filter::new(vec![address(n)], vec![]),
            1 => Filter::new(vec![], vec![topics(0, [n])]),
            2 => Filter::new(vec![address(7)], vec![topics(0, [n])]),
            _ => Filter::new(vec![], vec![topics(0, [0]), topics(1, [n])]),
        };
        indexed((100..100 + n).map(of))
    };
    let (few, many) = (distinct(100), distinct(CROWD));
    assert_eq!(cost(&few, &popular()), (4, 0));
    assert_eq!(cost(&many, &popular()), (4, 0));
}

#[test]
fn filters_for_other_blocks_cost_nothing() {
    let base = || Filter::new(vec![address(7)], vec![]);
    let mut index = indexed((0..CROWD).map(|n| match n % 3 {
        0 => base().between(Some(1_000 + u64::from(n)), None),
        1 => base().between(None, Some(u64::from(n % 7))),
        _ => base().between(Some(500), Some(500 + u64::from(n))),
    }));
    // Nothing was said of the tip: slow, and right.
    assert_eq!(found(&index, &popular()).len(), 0);
    while index.advance(7) {}
    assert_eq!(cost(&index, &popular()), (0, 0));
    // In a reorg to a lower block, those that ended after it are asked.
    let ended = (0..CROWD).filter(|n| n % 3 == 1 && n % 7 == 6).count();
    assert_eq!(cost(&index, &Log { block_number: 6, ..popular() }), (ended, ended));
    while index.advance(100_000) {}
    let open = (0..CROWD).filter(|n| n % 3 == 0).count();
    assert_eq!(cost(&index, &Log { block_number: 100_000, ..popular() }), (1 + open, open));
    (0..CROWD).for_each(|id| index.remove(id));
    assert!(index.is_empty() && index.shelves.is_empty());
}

#[test]
fn a_call_moves_a_bounded_number_of_filters() {
    let mut index = indexed((0..CROWD).map(|n| Filter::new(vec![address(n)], vec![]).between(Some(9), None)));
    let calls = 1 + std::iter::repeat_with(|| index.advance(9)).take_while(|more| *more).count();
    assert_eq!(calls, CROWD as usize / MOST_TURNS + 1);
    assert_eq!(cost(&index, &Log { block_number: 9, ..popular() }), (2, 1));
}

/// A pool of values at each place that filters draw their lists from, so that all places of each filter are crowded.
fn drawn(place: u32, filter: u32) -> impl Iterator<Item = u32> {
    (0..200).filter(move |n| (filter.wrapping_mul(2_654_435_761) >> ((n + 7 * place) % 29)) & 1 == 0)
}

#[test]
fn a_crowd_that_shares_every_place_is_crossed_word_by_word() {
    // Each place is fixed by a list of some 100, the popular contract and its topics on all of them but the last, where
    // all have the same values, none of which a log ever has together with the others.
    let filters = (0..LISTED).map(|n| {
        let addresses = drawn(0, n).map(|a| address(1_000 + a)).chain([address(7)]).collect();
        let lists = |place: u8| drawn(u32::from(place) + 1, n).map(move |t| topic(place, 1_000 + t));
        let first = lists(0).chain([topic(0, 0)]).collect();
        let second = lists(1).chain([topic(1, 0)]).collect();
        let third = topics(2, (2_000..2_050).chain([1 + n % 2]));
        Filter::new(addresses, vec![first, second, third])
    });
    let index = indexed(filters);
    let words = LISTED as usize / 32;
    let (steps, wanted) = cost(&index, &popular());
    assert!(wanted == 0 && steps < 10, "{steps} steps");
    // One half of them has the last topic too.
    let log = Log { topics: vec![topic(0, 0), topic(1, 0), topic(2, 1)], ..popular() };
    let (steps, wanted) = cost(&index, &log);
    assert!(wanted == LISTED as usize / 2 && steps < wanted + 16 * words + 10, "{steps} steps");
    // Two lists of half of them each that have nothing in common.
    let halves = (0..LISTED).map(|n| {
        let third = topics(2, (3_000..3_100).chain([n % 2]));
        let first = topics(0, (3_000..3_100).chain([(n + 1) % 2]));
        Filter::new(vec![address(7)], vec![first, topics(1, [0]), third])
    });
    let (steps, wanted) = cost(&indexed(halves), &popular());
    assert!(wanted == 0 && steps < 16 * words + 10, "{steps} steps");
}

#[test]
fn popular_keys_with_long_lists_elsewhere_are_not_scanned() {
    // Everyone watches one contract, each with 300 topics of its own.
    let own = |n: u32| Filter::new(vec![address(7)], vec![vec![], topics(1, n * 300 + 1..=n * 300 + 300)]);
    let index = indexed((0..200).map(own));
    assert_eq!(cost(&index, &popular()), (1, 0));
    let two = |n: u32| Filter::new(vec![address(7), address(8)], vec![vec![], topics(1, n * 300 + 1..=n * 300 + 300)]);
    let index = indexed((0..200).map(two));
    assert!(cost(&index, &popular()).0 <= 3);
    let hers = Log { topics: vec![topic(0, 0), topic(1, 301)], ..popular() };
    let (steps, wanted) = cost(&index, &hers);
    assert!(wanted == 1 && steps <= 4, "{steps} steps");
}

#[test]
fn shapes_are_few_and_entries_are_at_most_as_many_as_values() {
    let values: [&[u8]; 3] = [&[], &[1], &[1, 2, 3]];
    let mut shapes: Vec<Shape> = Vec::new();
    let index = Index::new(RandomState::new());
    for n in 0..3usize.pow(5) {
        let choice = |place: u32| values[n / 3usize.pow(place) % 3];
        for needed in 0..=4 {
            let lists: Vec<&[u8]> = (1..=needed).map(choice).collect();
            let filter = filter(choice(0), &lists);
            let parts = filter.parts();
            let shape = Shape::of(&parts);
            let count: usize = (0..PLACES).map(|place| parts.alternatives(place)).sum();
            assert!(index.keys(shape, &parts).len() <= count.max(MOST_KEYS));
            let shape = Shape { crossed: false, ..shape };
            if !shapes.contains(&shape) {
                shapes.push(shape);
            }
        }
    }
    assert_eq!(shapes.len(), 62);
}

/// Bytes that an index holds, less the filters' own, which are one allocation each.
fn held_bytes(index: &Index) -> usize {
    let shelf = |(_, shelf): &(Shape, Shelf)| match shelf {
        Shelf::Keyed(table) => table.held_bytes(),
        Shelf::Crossed(crossed) => crossed.held_bytes(),
    };
    index.filters.capacity() * size_of::<Option<Filter>>() + index.shelves.iter().map(shelf).sum::<usize>()
}

#[test]
fn a_filter_is_small_and_its_memory_goes_back() {
    type Case = (&'static str, usize, fn(u32) -> Filter);
    let cases: [Case; 4] = [
        ("one address", 22, |n| Filter::new(vec![address(n)], vec![])),
        ("one topic", 35, |n| Filter::new(vec![], vec![topics(0, [n])])),
        ("address and topic", 55, |n| Filter::new(vec![address(7)], vec![topics(0, [n])])),
        ("topic and indexed topic", 68, |n| Filter::new(vec![], vec![topics(0, [0]), topics(1, [n])])),
    ];
    for (name, bytes, filter) in cases {
        assert_eq!(filter(1).canonical_bytes().len(), bytes, "{name}");
        let mut index = indexed((0..CROWD).map(filter));
        let each = held_bytes(&index) / CROWD as usize;
        assert!(each <= 60, "{name}: {each} bytes in the index");
        (1..CROWD).for_each(|id| index.remove(id));
        assert!(held_bytes(&index) < 10_000, "{name}: {} bytes are left", held_bytes(&index));
    }
    let long = |place: u8, n: u32| topics(place, n * 100..(n + 1) * 100);
    let index = indexed((0..100).map(|n| {
        let addresses = (0..100).map(|a| address(n * 100 + a)).collect();
        Filter::new(addresses, (0..4).map(|place| long(place, n)).collect())
    }));
    assert!(held_bytes(&index) / 100 <= 500 * 24, "{} bytes of 500 values", held_bytes(&index) / 100);
}

#[test]
fn logs_that_are_looked_up_together_have_the_hits_that_each_has_alone() {
    let mut index = Index::new(RandomState::new());
    let topics = [None, Some(1), Some(2), None, Some(1)];
    for (id, topic) in (0u32..).zip(topics) {
        let topics = topic.map(|topic| vec![alloy_primitives::B256::repeat_byte(topic)]);
        index.insert(id, Filter::new(Vec::new(), topics.into_iter().collect()));
    }
    let logs = [log(1, &[1]), log(1, &[3]), log(2, &[2]), log(2, &[1, 2])];
    let logs: Vec<&Log> = logs.iter().collect();
    let alone: Vec<(usize, Vec<u32>)> = logs.iter().map(|log| found(&index, log)).enumerate().collect();
    for (most, want) in [(usize::MAX, 4), (1, 1), (5, 2), (6, 2), (7, 3)] {
        let mut together = vec![Vec::new(); logs.len()];
        let done = index.matching(&logs, most, |at, id| together[at].push(id));
        together.iter_mut().for_each(|ids| ids.sort_unstable());
        assert_eq!(done, want, "{most}");
        assert_eq!(together.into_iter().enumerate().take(done).collect::<Vec<_>>(), alone[..done]);
    }
}
