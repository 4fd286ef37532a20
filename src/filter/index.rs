//! From a log to the filters that want it, at a cost that does not grow with their number.
//!
//! Filters are grouped by shape: which of address and topics they fix, and how many topics they need; there are 62. In
//! most filters the fixed values have few combinations, and each is a key of the shape's table: a log costs one look-up
//! a shape in use, and what it finds wants the log. Where the combinations are more than the values, values are listed
//! one by one and crossed ([`Crossed`]). So a filter has at most as many entries as it has values, or [`MOST_KEYS`], and
//! which lists it shares with others does not matter. Ranges of blocks are a matter of [`Ranges`].
//!
//! What bounds the cost of a log, whatever filters there are: 62 look-ups; for each shape with long lists a word for 32
//! filters and place; and one check for each filter that is found, which wants the log unless bits of a digest collide.
//! Digests are made with a secret key, so nobody can choose values that collide: a value's own is `SipHash`, and that of a
//! combination is the sum of those of its values. A check reads the filter itself, so a collision costs time and is
//! never a wrong answer. Pure.

use std::hash::{BuildHasher, Hasher, RandomState};

use super::canonical::{Filter, Parts};
use super::crossed::Crossed;
use super::ranges::{Ranges, Turn};
use super::table::Table;
use crate::chain::Log;

/// Keys of a filter that are always taken, although it has fewer values.
const MOST_KEYS: usize = 16;

/// Filters that one call of [`Index::advance`] moves: about a millisecond.
const MOST_TURNS: usize = 1_024;

/// Places of values: the address and four topics.
const PLACES: usize = 5;

/// Which places are fixed: bit 0 is the address, bits 1 to 4 the topics; and the number of topics needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    mask: u8,
    needed: u8,
    /// Whether values are listed one by one.
    crossed: bool,
}

impl Shape {
    fn of(parts: &Parts<'_>) -> Self {
        let lengths = || (0..PLACES).map(|place| parts.alternatives(place)).filter(|n| *n > 0);
        let combinations = lengths().fold(1, usize::saturating_mul);
        Self {
            mask: (0..PLACES).filter(|place| parts.alternatives(*place) > 0).fold(0, |mask, place| mask | 1 << place),
            needed: u8::try_from(parts.needed).expect("at most four"),
            crossed: combinations > MOST_KEYS.max(lengths().sum()),
        }
    }

    fn places(self) -> impl Iterator<Item = usize> {
        (0..PLACES).filter(move |place| self.mask & (1 << place) != 0)
    }
}

/// The filters of a shape.
#[derive(Debug)]
enum Shelf {
    /// Keyed by every combination of their values.
    Keyed(Table),
    /// Keyed by their values.
    Crossed(Crossed),
}

/// The index. Ids are the caller's, dense small numbers.
#[derive(Debug)]
pub struct Index {
    hasher: RandomState,
    /// By id.
    filters: Vec<Option<Filter>>,
    len: usize,
    shelves: Vec<(Shape, Shelf)>,
    ranges: Ranges,
}

impl Index {
    /// An empty index; the hasher's keys keep clients from choosing values that collide.
    #[must_use]
    pub fn new(hasher: RandomState) -> Self {
        Self { hasher, filters: Vec::new(), len: 0, shelves: Vec::new(), ranges: Ranges::default() }
    }

    /// Number of filters held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no filter is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a filter under an id that is not in use.
    pub fn insert(&mut self, id: u32, filter: Filter) {
        let at = id as usize;
        if at >= self.filters.len() {
            self.filters.resize(at + 1, None);
        }
        assert!(self.filters[at].is_none(), "filter id {id} is in use");
        self.len += 1;
        self.admit(id, &filter);
        self.filters[at] = Some(filter);
    }

    /// Takes a filter out again; unknown ids are ignored.
    pub fn remove(&mut self, id: u32) {
        let Some(filter) = self.filters.get_mut(id as usize).and_then(Option::take) else { return };
        self.len -= 1;
        let parts = filter.parts();
        if self.ranges.dismiss(id, parts.first, parts.last) {
            self.withdraw(id, &filter);
        }
        while let Some(None) = self.filters.last() {
            self.filters.pop();
        }
        if self.filters.len() * 4 < self.filters.capacity() {
            self.filters.shrink_to(self.filters.len() * 2);
        }
    }

    /// Hears that the chain has reached a block, and moves filters that begin there or have ended. Returns whether more
    /// are left to move: call again, others first if they wait. Never calling it costs time but no log.
    pub fn advance(&mut self, number: u64) -> bool {
        self.ranges.hear(number);
        for _ in 0..MOST_TURNS {
            let Some(turn) = self.ranges.turn() else { return false };
            let (Turn::Begins(id) | Turn::Ends(id)) = turn;
            let filter = self.filters[id as usize].clone().expect("what has a range is held");
            match turn {
                Turn::Begins(_) => self.admit(id, &filter),
                Turn::Ends(_) => self.withdraw(id, &filter),
            }
        }
        true
    }

    /// Calls `hit` once for each log and filter that wants it, with the log's place in `logs` and the filter's id; by log,
    /// and in no order for one log. Returns for how many logs that was: fewer than all where those have `most` hits.
    ///
    /// With very many filters the time goes into waiting for memory. So each kind of reading is done for all logs before
    /// the next: the processor then waits for several at once.
    pub fn matching(&self, logs: &[&Log], most: usize, mut hit: impl FnMut(usize, u32)) -> usize {
        let digests: Vec<_> = logs.iter().map(|log| self.digests(log)).collect();
        let (mut found, mut done) = (Vec::new(), 0);
        while done < logs.len() && found.len() < most {
            self.candidates(logs[done], &digests[done], |id| found.push((done, id)));
            done += 1;
        }
        let filter = |(_, id): &(usize, u32)| self.filters[*id as usize].as_ref();
        let filters: Vec<Option<&Filter>> = found.iter().map(filter).collect();
        // The first byte of each brings the rest of it near.
        std::hint::black_box(
            filters.iter().flatten().map(|filter| usize::from(filter.canonical_bytes()[0])).sum::<usize>(),
        );
        for ((at, id), filter) in found.into_iter().zip(filters) {
            if filter.is_some_and(|filter| filter.matches(logs[at])) {
                hit(at, id);
            }
        }
        done
    }

    /// The digests of a log's values.
    fn digests(&self, log: &Log) -> [u64; PLACES] {
        let mut digests = [0; PLACES];
        digests[0] = self.digest(0, log.address.as_slice());
        for (place, topic) in (1..PLACES).zip(&log.topics) {
            digests[place] = self.digest(place, topic.as_slice());
        }
        digests
    }

    /// Calls `see` once with the id of each filter that may want the log. Returns the steps that this took: look-ups,
    /// words of crowds, and filters seen.
    fn candidates(&self, log: &Log, digests: &[u64; PLACES], mut see: impl FnMut(u32)) -> usize {
        let (mut steps, mut seen) = (0, 0);
        let mut see = |id| {
            seen += 1;
            see(id);
        };
        for (shape, shelf) in self.shelves.iter().filter(|(shape, _)| usize::from(shape.needed) <= log.topics.len()) {
            let values = shape.places().map(|place| digests[place]);
            steps += 1;
            match shelf {
                Shelf::Keyed(table) => table.get(values.fold(0, u64::wrapping_add)).for_each(&mut see),
                Shelf::Crossed(crossed) => steps += crossed.candidates(values, &mut see),
            }
        }
        self.ranges.others(log.block_number).for_each(&mut see);
        steps + seen
    }

    /// Lists a filter if its blocks are those of now.
    fn admit(&mut self, id: u32, filter: &Filter) {
        let parts = filter.parts();
        if !self.ranges.admit(id, parts.first, parts.last) {
            return;
        }
        let shape = Shape::of(&parts);
        let at = self.shelves.iter().position(|(other, _)| *other == shape).unwrap_or_else(|| {
            let empty = if shape.crossed { Shelf::Crossed(Crossed::new()) } else { Shelf::Keyed(Table::new()) };
            self.shelves.push((shape, empty));
            self.shelves.len() - 1
        });
        let keys = self.keys(shape, &parts);
        match &mut self.shelves[at].1 {
            Shelf::Keyed(table) => keys.for_each(|key| table.add(key, id)),
            Shelf::Crossed(crossed) => crossed.add(id, keys),
        }
    }

    /// Takes a listed filter out of its lists.
    fn withdraw(&mut self, id: u32, filter: &Filter) {
        let parts = filter.parts();
        let shape = Shape::of(&parts);
        let at = self.shelves.iter().position(|(other, _)| *other == shape).expect("its shelf was made when it came");
        let keys = self.keys(shape, &parts);
        let is_empty = match &mut self.shelves[at].1 {
            Shelf::Keyed(table) => {
                keys.for_each(|key| table.take(key, id));
                table.is_empty()
            }
            Shelf::Crossed(crossed) => {
                crossed.take(id, keys);
                crossed.is_empty()
            }
        };
        if is_empty {
            self.shelves.swap_remove(at);
        }
    }

    /// What a filter is listed under: its values, or their combinations.
    fn keys(&self, shape: Shape, parts: &Parts<'_>) -> std::vec::IntoIter<u64> {
        let values = |place| parts.values(place).map(move |value| self.digest(place, value));
        if shape.crossed {
            return shape.places().flat_map(values).collect::<Vec<_>>().into_iter();
        }
        let combine = |keys: Vec<u64>, place| {
            values(place).flat_map(|value| keys.iter().map(move |key| value.wrapping_add(*key))).collect()
        };
        shape.places().fold(vec![0], combine).into_iter()
    }

    /// The digest of a value at a place.
    fn digest(&self, place: usize, value: &[u8]) -> u64 {
        let mut state = self.hasher.build_hasher();
        state.write_usize(place);
        state.write(value);
        state.finish()
    }
}

#[cfg(test)]
mod tests;
