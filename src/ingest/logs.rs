//! Whether the logs that a node gave for a block are all of them.
//!
//! A node may answer `[]` or a part for a block that it has announced. The header's bloom and the log indexes tell.
//! Owns the judgement whether a chain's blooms can be trusted: some L2s have zero blooms. Pure.

use alloy_primitives::Bloom;

use crate::chain::{Header, Log, accrue};
use crate::planted::{self, Bug};

/// What is known of a chain's header blooms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Blooms {
    /// Only zero blooms were seen so far, and no logs beside them.
    #[default]
    Unknown,
    /// Logs were seen under their own bloom: blooms are true.
    Real,
    /// Logs were seen under a zero bloom: blooms say nothing.
    Empty,
}

/// Why a set of logs is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incomplete {
    /// The node could not say.
    Absent,
    /// A log of another block is among them.
    Foreign,
    /// The indexes are not 0, 1, 2, …
    Indexes,
    /// The bloom of the logs is not the header's.
    Bloom,
}

impl Incomplete {
    /// The value of the `cause` label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Foreign => "foreign",
            Self::Indexes => "indexes",
            Self::Bloom => "bloom",
        }
    }
}

fn bloom_of(logs: &[Log]) -> Bloom {
    let mut bloom = Bloom::ZERO;
    logs.iter().for_each(|log| accrue(&mut bloom, log));
    bloom
}

impl Blooms {
    /// Whether a header can be used: where blooms are true, one without a bloom lacks what its logs are judged by.
    #[must_use]
    pub fn fits(self, header: &Header) -> bool {
        self != Self::Real || header.bloom.is_some()
    }

    /// Whether the header alone proves that its block has no logs.
    #[must_use]
    pub fn proves_none(self, header: &Header) -> bool {
        self == Self::Real && header.bloom.as_ref().is_some_and(|bloom| bloom.is_zero())
    }

    /// Checks that `logs` are all logs of the header's block, in order. Learns from logs what blooms are: a header alone may
    /// be any node's invention.
    pub fn check(&mut self, header: &Header, logs: &[Log]) -> Result<(), Incomplete> {
        if logs.iter().any(|log| log.block_hash != header.hash || log.block_number != header.number) {
            return Err(Incomplete::Foreign);
        }
        if logs.iter().enumerate().any(|(at, log)| log.index != at as u64) {
            return Err(Incomplete::Indexes);
        }
        let Some(bloom) = &header.bloom else { return Ok(()) };
        let trusted = logs.is_empty() && planted::is(Bug::TrustEmptyLogs);
        let equal = **bloom == bloom_of(logs);
        if equal && !bloom.is_zero() {
            *self = Self::Real;
        }
        if trusted || equal || *self == Self::Empty {
            return Ok(());
        }
        if *self == Self::Unknown && bloom.is_zero() {
            *self = Self::Empty;
            return Ok(());
        }
        Err(Incomplete::Bloom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::{Address, B256};
    use bytes::Bytes;

    fn log(index: u64) -> Log {
        Log {
            address: Address::repeat_byte(1),
            topics: vec![B256::repeat_byte(u8::try_from(index).unwrap())],
            block_hash: B256::repeat_byte(9),
            block_number: 5,
            index,
            json: Bytes::new(),
        }
    }

    fn header(bloom: Bloom) -> Header {
        Header {
            number: 5,
            hash: B256::repeat_byte(9),
            parent: B256::ZERO,
            timestamp: 0,
            bloom: Some(Box::new(bloom)),
            json: Bytes::new(),
        }
    }

    #[test]
    fn a_part_is_never_taken_for_the_whole() {
        let all = [log(0), log(1), log(2)];
        let header = header(bloom_of(&all));
        let mut blooms = Blooms::Real;
        assert_eq!(blooms.check(&header, &all), Ok(()));
        assert_eq!(blooms.check(&header, &[]), Err(Incomplete::Bloom));
        assert_eq!(blooms.check(&header, &all[..2]), Err(Incomplete::Bloom));
        assert_eq!(blooms.check(&header, &[log(0), log(2)]), Err(Incomplete::Indexes));
        assert_eq!(blooms.check(&header, &[log(0), log(1), log(1)]), Err(Incomplete::Indexes));
        let foreign = Log { block_hash: B256::ZERO, ..log(0) };
        assert_eq!(blooms.check(&header, &[foreign]), Err(Incomplete::Foreign));
    }

    #[test]
    fn zero_blooms_are_recognised_only_where_no_other_was_seen() {
        let zero = header(Bloom::ZERO);
        let mut blooms = Blooms::Unknown;
        assert_eq!(blooms.check(&zero, &[]), Ok(()));
        assert_eq!(blooms, Blooms::Unknown);
        assert!(!blooms.proves_none(&zero));
        assert_eq!(blooms.check(&zero, &[log(0)]), Ok(()));
        assert_eq!(blooms, Blooms::Empty);
        let mut blooms = Blooms::Unknown;
        assert_eq!(blooms.check(&header(bloom_of(&[log(0)])), &[log(0)]), Ok(()));
        assert!(blooms.proves_none(&zero));
        assert_eq!(blooms.check(&zero, &[log(0)]), Err(Incomplete::Bloom));
    }
}
