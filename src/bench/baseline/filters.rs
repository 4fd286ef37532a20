//! Very many distinct filters of the usual shapes, and for each the log that only it wants.
//!
//! Owns their making, and the measure of the filter index by itself, in this process.

use std::hash::RandomState;
use std::time::{Duration, Instant};

use alloy_primitives::{Address, B256, U256};
use bytes::Bytes;

use crate::bench::measure::Measure;
use crate::chain::Log;
use crate::devnode::TRANSFER_TOPIC;
use crate::filter::{Bounds, Filter, Index, parse};

/// Logs of a block.
const LOGS: u32 = 200;
/// How often each index has its turn in a run.
const TURNS: u32 = 100;
/// From one log's filter to the next.
const STEP: u32 = 7_919;
/// Memory that is passed over between two blocks, as a broadcast does: the caches then hold neither index.
const PASSED_BYTES: usize = 64 << 20;

fn address(n: u32) -> Address {
    Address::from_word(word(n))
}

fn word(n: u32) -> B256 {
    // Spread, as hashes are.
    B256::from(U256::from(n).wrapping_mul(U256::from(0x9e37_79b9_7f4a_7c15_u64)) | (U256::from(n) << 200))
}

/// The parameters of a filter that no other number has.
pub(super) fn filter_json(n: u32) -> String {
    match n % 4 {
        0 => format!(r#"{{"address":"{}"}}"#, address(n)),
        1 => format!(r#"{{"topics":["{}"]}}"#, word(n)),
        2 => format!(r#"{{"address":"{}","topics":["{TRANSFER_TOPIC}"]}}"#, address(n)),
        _ => format!(r#"{{"topics":["{TRANSFER_TOPIC}","{}"]}}"#, word(n)),
    }
}

/// A log that the filter of this number wants, and no other.
fn log(n: u32) -> Log {
    let nobody = Address::repeat_byte(0xee);
    let (address, topics) = match n % 4 {
        0 => (address(n), vec![B256::repeat_byte(0xee)]),
        1 => (nobody, vec![word(n)]),
        2 => (address(n), vec![TRANSFER_TOPIC, B256::repeat_byte(0xee)]),
        _ => (nobody, vec![TRANSFER_TOPIC, word(n)]),
    };
    Log { address, topics, block_hash: B256::ZERO, block_number: 1, index: 0, json: Bytes::new() }
}

fn filter(n: u32) -> Filter {
    let bounds = Bounds { addresses: 100, topics: 100 };
    parse(&filter_json(n), &bounds).expect("it is a filter")
}

/// Logs that are looked up together, as in a broadcast.
const AT_ONCE: usize = 32;

/// An index of the first so many filters.
fn index_of(filters: u32) -> Index {
    let mut index = Index::new(RandomState::new());
    (0..filters).for_each(|n| index.insert(n, filter(n)));
    index
}

/// Nanoseconds a log of each index: the one with few filters and the one with very many, in turns, a block at a time and a
/// match a log. No log comes twice where there are as many filters, as on a chain.
pub(super) fn matching(few: u32, many: u32) -> Result<Measure, String> {
    let mut measure = Measure::default();
    let mut sides = [("ns_a_log_few", few), ("ns_a_log_many", many)].map(|(name, filters)| {
        // A step that is prime reaches every filter.
        let logs: Vec<Log> = (0..LOGS * TURNS).map(|n| log(n.wrapping_mul(STEP) % filters)).collect();
        (name, index_of(filters), logs, Duration::ZERO)
    });
    let mut passed = vec![0_u8; PASSED_BYTES];
    for turn in 0..TURNS {
        for (_, index, logs, spent) in &mut sides {
            passed.fill(u8::try_from(turn % 256).expect("a byte"));
            std::hint::black_box(&mut passed);
            // They have just been read.
            let block = logs[(turn * LOGS) as usize..][..LOGS as usize].to_vec();
            let (mut hits, started) = (0, Instant::now());
            for logs in block.chunks(AT_ONCE) {
                index.matching(&logs.iter().collect::<Vec<_>>(), usize::MAX, |_, _| hits += 1);
            }
            *spent += started.elapsed();
            if hits != LOGS {
                return Err(format!("{LOGS} logs had {hits} matches"));
            }
        }
    }
    for (name, _, _, spent) in sides {
        measure.more.insert(name, spent.as_nanos() as f64 / f64::from(LOGS * TURNS));
    }
    Ok(measure)
}

/// Microseconds to read, insert and remove a filter, out of so many.
pub(super) fn upkeep(filters: u32) -> Measure {
    let mut measure = Measure::default();
    let mut timed = |name, work: &mut dyn FnMut()| {
        let started = Instant::now();
        work();
        measure.more.insert(name, started.elapsed().as_secs_f64() * 1e6 / f64::from(filters));
    };
    let texts: Vec<String> = (0..filters).map(filter_json).collect();
    let bounds = Bounds { addresses: 100, topics: 100 };
    let (mut index, mut parsed) = (Index::new(RandomState::new()), Vec::with_capacity(texts.len()));
    timed("parse_us", &mut || parsed.extend(texts.iter().map(|text| parse(text, &bounds).expect("it is a filter"))));
    let mut parsed = parsed.into_iter();
    timed("insert_us", &mut || (0..filters).zip(&mut parsed).for_each(|(n, filter)| index.insert(n, filter)));
    timed("remove_us", &mut || (0..filters).for_each(|n| index.remove(n)));
    measure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_log_is_wanted_by_its_filter_alone() {
        let index = index_of(400);
        for n in 0..400 {
            let mut found = Vec::new();
            index.matching(&[&log(n)], usize::MAX, |_, id| found.push(id));
            assert_eq!(found, [n]);
        }
    }

    #[test]
    fn both_are_measured() {
        let matching = matching(50, 1_000).unwrap();
        assert!(matching.more.len() == 2 && matching.more.values().all(|ns| *ns > 0.0), "{matching}");
        let upkeep = upkeep(200);
        assert!(upkeep.more.len() == 3 && upkeep.more.values().all(|us| *us > 0.0), "{upkeep}");
    }
}
