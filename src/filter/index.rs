//! From a log to the filters that want it, at a cost that does not grow with their number.
//!
//! Filters are grouped by shape: which of address and topics they fix, and how many topics they need. Within a shape
//! every combination of fixed values is a key of one hash table, so a log costs one look-up a shape in use (at most
//! 32 × 5). A filter whose lists multiply to too many combinations is keyed by fewer positions. A hit is always
//! checked with [`Filter::matches`], so keys may be digests and may cover only part of a filter. Pure.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;

use super::Filter;
use crate::chain::Log;

/// Most keys of one filter before a position is left out of its shape.
const MOST_KEYS: usize = 256;

/// Which positions are keyed: bit 0 is the address, bits 1 to 4 the topics; and the number of topics needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    mask: u8,
    needed: u8,
}

impl Shape {
    fn fixes(self, position: usize) -> bool {
        self.mask & (1 << position) != 0
    }
}

/// The index. Ids are the caller's, dense small numbers.
#[derive(Debug)]
pub struct Index {
    hasher: RandomState,
    filters: HashMap<u32, Arc<Filter>>,
    shapes: Vec<(Shape, HashTable<(u64, u32)>)>,
}

impl Index {
    /// An empty index; the hasher's keys keep clients from choosing values that collide.
    #[must_use]
    pub fn new(hasher: RandomState) -> Self {
        Self { hasher, filters: HashMap::new(), shapes: Vec::new() }
    }

    /// Number of filters held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.filters.len()
    }

    /// Whether no filter is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// Adds a filter under an id that is not in use.
    pub fn insert(&mut self, id: u32, filter: Arc<Filter>) {
        let shape = shape_of(&filter);
        let at = self.shapes.iter().position(|(s, _)| *s == shape).unwrap_or_else(|| {
            self.shapes.push((shape, HashTable::new()));
            self.shapes.len() - 1
        });
        let table = &mut self.shapes[at].1;
        for key in keys(&filter, shape, &self.hasher) {
            table.insert_unique(key, (key, id), |entry| entry.0);
        }
        let previous = self.filters.insert(id, filter);
        assert!(previous.is_none(), "filter id {id} is in use");
    }

    /// Takes a filter out again; unknown ids are ignored.
    pub fn remove(&mut self, id: u32) {
        let Some(filter) = self.filters.remove(&id) else { return };
        let shape = shape_of(&filter);
        let at = self.shapes.iter().position(|(s, _)| *s == shape).expect("its shape was made when it came");
        let table = &mut self.shapes[at].1;
        for key in keys(&filter, shape, &self.hasher) {
            if let Ok(entry) = table.find_entry(key, |entry| *entry == (key, id)) {
                entry.remove();
            }
        }
        if table.is_empty() {
            self.shapes.swap_remove(at);
        }
    }

    /// Calls `hit` once with the id of each filter that wants the log, in no order.
    pub fn matching(&self, log: &Log, mut hit: impl FnMut(u32)) {
        for (shape, table) in &self.shapes {
            if log.topics.len() < usize::from(shape.needed) {
                continue;
            }
            let key = digest(&self.hasher, *shape, |position| match position {
                0 => log.address.as_slice(),
                n => log.topics[n - 1].as_slice(),
            });
            for (_, id) in table.iter_hash(key).filter(|entry| entry.0 == key) {
                if self.filters[id].matches(log) {
                    hit(*id);
                }
            }
        }
    }
}

/// How many alternatives a filter has at a position; 0 for any.
fn alternatives(filter: &Filter, position: usize) -> usize {
    match position {
        0 => filter.addresses.len(),
        n => filter.topics.get(n - 1).map_or(0, |any| any.len()),
    }
}

/// The shape under which a filter is kept: its fixed positions, less the longest lists while there are too many keys.
fn shape_of(filter: &Filter) -> Shape {
    let mut fixed: Vec<(usize, usize)> = (0..5).map(|p| (alternatives(filter, p), p)).filter(|(n, _)| *n > 0).collect();
    fixed.sort_unstable();
    while fixed.len() > 1 && fixed.iter().map(|(n, _)| *n).product::<usize>() > MOST_KEYS {
        fixed.pop();
    }
    let needed = u8::try_from(filter.topics.len()).expect("at most four positions are read");
    Shape { mask: fixed.iter().fold(0, |mask, (_, p)| mask | 1 << p), needed }
}

/// The keys of a filter: one for every combination of the values that its shape fixes.
fn keys(filter: &Filter, shape: Shape, hasher: &RandomState) -> Vec<u64> {
    let fixed: Vec<usize> = (0..5).filter(|p| shape.fixes(*p)).collect();
    let total: usize = fixed.iter().map(|p| alternatives(filter, *p)).product();
    let key = |mut combination: usize| {
        digest(hasher, shape, |position| {
            let n = alternatives(filter, position);
            let choice = combination % n;
            combination /= n;
            match position {
                0 => filter.addresses[choice].as_slice(),
                n => filter.topics[n - 1][choice].as_slice(),
            }
        })
    };
    (0..total).map(key).collect()
}

/// Digest of the values at a shape's fixed positions, asked for in ascending order.
fn digest<'a>(hasher: &RandomState, shape: Shape, mut value: impl FnMut(usize) -> &'a [u8]) -> u64 {
    let mut state = hasher.build_hasher();
    for position in (0..5).filter(|p| shape.fixes(*p)) {
        state.write(value(position));
    }
    state.finish()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{any_filter, any_log};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        /// Equal to the naive matcher, also after half of the filters were taken out again.
        #[test]
        fn finds_what_the_naive_matcher_finds(
            filters in prop::collection::vec(any_filter(), 0..30),
            logs in prop::collection::vec(any_log(), 0..30),
        ) {
            let mut index = Index::new(RandomState::new());
            for (id, filter) in filters.iter().enumerate() {
                index.insert(u32::try_from(id).unwrap(), Arc::new(filter.clone()));
            }
            for keep in [1, 2] {
                for log in &logs {
                    let mut found = Vec::new();
                    index.matching(log, |id| found.push(id as usize));
                    found.sort_unstable();
                    let naive: Vec<usize> = (0..filters.len()).filter(|id| id % keep == 0 && filters[*id].matches(log)).collect();
                    prop_assert_eq!(found, naive);
                }
                for id in (0..filters.len()).filter(|id| id % 2 == 1) {
                    index.remove(u32::try_from(id).unwrap());
                }
            }
            for id in 0..filters.len() {
                index.remove(u32::try_from(id).unwrap());
            }
            prop_assert!(index.is_empty() && index.shapes.is_empty());
        }
    }

    #[test]
    fn long_lists_are_keyed_by_fewer_positions() {
        let any = |n: u16| (0..n).map(|i| alloy_primitives::B256::left_padding_from(&i.to_be_bytes())).collect();
        let filter = Filter::new(vec![], vec![any(400), any(3), any(1000)]);
        let shape = shape_of(&filter);
        assert_eq!((shape.mask, shape.needed), (0b00100, 3));
        assert_eq!(keys(&filter, shape, &RandomState::new()).len(), 3);
    }
}
