//! A log filter in canonical form, as one run of bytes, and the plain matcher that reads them.
//!
//! A shard may hold a million filters, so a filter is one allocation and its bytes are all there is of it: equality,
//! hash, subscription id and matching need no second form. The layout is a byte of flags, the length of each list, the
//! addresses, the topics of each position, and the first and last block where they bound anything. Pure.

use std::fmt;
use std::sync::Arc;

use alloy_primitives::{Address, B256};

use super::POSITIONS;
use crate::chain::Log;

/// In the flags: how many topics a log needs.
const NEEDED: u8 = 0b0111;
/// In the flags: lengths of lists have two bytes, because one of them needs two.
const WIDE: u8 = 0b1000;
/// In the flags: there is a first block.
const FIRST: u8 = 0b1_0000;
/// In the flags: there is a last block.
const LAST: u8 = 0b10_0000;

/// A log filter in canonical form: equal requests compare equal however their lists were ordered. A clone shares the
/// bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Filter(Arc<[u8]>);

/// What a filter's bytes say. A list with several entries means "any of these", an empty one "anything".
#[derive(Debug)]
pub(super) struct Parts<'a> {
    /// Sorted, without duplicates.
    addresses: &'a [[u8; 20]],
    /// Each sorted, without duplicates.
    topics: [&'a [[u8; 32]]; POSITIONS],
    /// Topics that a log needs.
    pub(super) needed: usize,
    /// First block whose logs are wanted; 0 for any.
    pub(super) first: u64,
    /// Last block whose logs are wanted; the largest number for any.
    pub(super) last: u64,
}

impl Default for Filter {
    /// The filter that wants everything.
    fn default() -> Self {
        Self::new(Vec::new(), Vec::new())
    }
}

impl Filter {
    /// Brings lists into canonical form. There are at most four lists of topics, and none has more than 65,535 entries.
    #[must_use]
    pub fn new(mut addresses: Vec<Address>, mut topics: Vec<Vec<B256>>) -> Self {
        assert!(topics.len() <= POSITIONS, "a log has at most four topics");
        addresses.sort_unstable();
        addresses.dedup();
        for any in &mut topics {
            any.sort_unstable();
            any.dedup();
        }
        let lengths = || [addresses.len()].into_iter().chain(topics.iter().map(Vec::len));
        let wide = lengths().any(|length| length > usize::from(u8::MAX));
        let values: usize = addresses.len() * 20 + topics.iter().map(|any| any.len() * 32).sum::<usize>();
        let mut bytes = Vec::with_capacity(1 + 2 * (1 + topics.len()) + values);
        bytes.push(u8::try_from(topics.len()).expect("just bounded") | if wide { WIDE } else { 0 });
        for length in lengths() {
            let length = u16::try_from(length).expect("lists are bounded far below").to_be_bytes();
            bytes.extend_from_slice(if wide { &length } else { &length[1..] });
        }
        addresses.iter().for_each(|address| bytes.extend_from_slice(address.as_slice()));
        topics.iter().flatten().for_each(|topic| bytes.extend_from_slice(topic.as_slice()));
        Self(bytes.into())
    }

    /// Bounds the blocks whose logs are wanted, both ends included. Live logs outside are not sent; nothing is replayed.
    #[must_use]
    pub fn between(self, from: Option<u64>, to: Option<u64>) -> Self {
        let bounds = [(FIRST, from.filter(|n| *n > 0)), (LAST, to.filter(|n| *n < u64::MAX))];
        if self.0[0] & (FIRST | LAST) == 0 && bounds.iter().all(|(_, bound)| bound.is_none()) {
            return self;
        }
        let bounded = 8 * (self.0[0] & (FIRST | LAST)).count_ones() as usize;
        let mut bytes = Vec::with_capacity(self.0.len() + 16);
        bytes.extend_from_slice(&self.0[..self.0.len() - bounded]);
        bytes[0] &= !(FIRST | LAST);
        for (flag, bound) in bounds {
            if let Some(number) = bound {
                bytes[0] |= flag;
                bytes.extend_from_slice(&number.to_be_bytes());
            }
        }
        Self(bytes.into())
    }

    /// The canonical form: equal for equal filters and only for them.
    #[must_use]
    pub fn canonical_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether the filter wants this log.
    #[must_use]
    pub fn matches(&self, log: &Log) -> bool {
        let parts = self.parts();
        let has = |any: &[[u8; 32]], topic: &B256| any.is_empty() || any.binary_search(&topic.0).is_ok();
        (parts.first..=parts.last).contains(&log.block_number)
            && parts.needed <= log.topics.len()
            && (parts.addresses.is_empty() || parts.addresses.binary_search(&log.address.into_array()).is_ok())
            && parts.topics.iter().zip(&log.topics).all(|(any, topic)| has(any, topic))
    }

    /// Reads the bytes.
    pub(super) fn parts(&self) -> Parts<'_> {
        let flags = self.0[0];
        let needed = usize::from(flags & NEEDED);
        let width = if flags & WIDE == 0 { 1 } else { 2 };
        let (lengths, mut rest) = self.0[1..].split_at(width * (1 + needed));
        let length = |list: usize| match width {
            1 => usize::from(lengths[list]),
            _ => usize::from(u16::from_be_bytes([lengths[2 * list], lengths[2 * list + 1]])),
        };
        let mut take = |size: usize| {
            let (taken, left) = rest.split_at(size);
            rest = left;
            taken
        };
        let addresses = take(20 * length(0)).as_chunks().0;
        let mut topics: [&[[u8; 32]]; POSITIONS] = [&[]; POSITIONS];
        for (position, any) in topics[..needed].iter_mut().enumerate() {
            *any = take(32 * length(1 + position)).as_chunks().0;
        }
        let mut number = |flag: u8, none: u64| match flags & flag {
            0 => none,
            _ => u64::from_be_bytes(*take(8).first_chunk().expect("eight were taken")),
        };
        let (first, last) = (number(FIRST, 0), number(LAST, u64::MAX));
        Parts { addresses, topics, needed, first, last }
    }
}

impl<'a> Parts<'a> {
    /// How many alternatives there are at a place: the address is place 0, the topics follow. None for any value.
    pub(super) fn alternatives(&self, place: usize) -> usize {
        match place {
            0 => self.addresses.len(),
            n => self.topics[n - 1].len(),
        }
    }

    /// The alternatives at a place.
    pub(super) fn values(&self, place: usize) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (addresses, topics): (&[[u8; 20]], &[[u8; 32]]) = match place {
            0 => (self.addresses, &[]),
            n => (&[], self.topics[n - 1]),
        };
        addresses.iter().map(<[u8; 20]>::as_slice).chain(topics.iter().map(<[u8; 32]>::as_slice))
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.parts();
        let hex = |values: &[[u8; 32]]| values.iter().map(B256::from).collect::<Vec<_>>();
        f.debug_struct("Filter")
            .field("addresses", &parts.addresses.iter().map(Address::from).collect::<Vec<_>>())
            .field("topics", &parts.topics[..parts.needed].iter().map(|any| hex(any)).collect::<Vec<_>>())
            .field("blocks", &(parts.first..=parts.last))
            .finish()
    }
}
