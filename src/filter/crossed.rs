//! Filters of one shape whose lists are too long to be keyed by every combination of their values.
//!
//! Each value is listed by itself with the filters that have it, and a log's lists are crossed: what is on all of them
//! wants the log. A value that few filters have ends the crossing at once; where a crowd has all of a log's values at
//! each place but no filter has them together, it costs a word for 32 filters and place, not a check for each.
//! Within a shape filters have numbers of their own, so that those words are dense. Pure.

use std::collections::HashMap;

use slab::Slab;

use super::crowd::{Word, numbers};
use super::table::{Ids, Table};

/// The filters of one shape, at most five places.
#[derive(Debug)]
pub(super) struct Crossed {
    /// From the digest of a value at its place to numbers of filters.
    lists: Table,
    /// From numbers to ids.
    ids: Slab<u32>,
    /// From ids to numbers.
    numbers: HashMap<u32, u32>,
}

impl Crossed {
    pub(super) fn new() -> Self {
        Self { lists: Table::new(), ids: Slab::new(), numbers: HashMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Lists a filter under the digest of each of its values.
    pub(super) fn add(&mut self, id: u32, digests: impl Iterator<Item = u64>) {
        let number = u32::try_from(self.ids.insert(id)).expect("subscriptions are bounded");
        self.numbers.insert(id, number);
        digests.for_each(|digest| self.lists.add(digest, number));
    }

    /// Takes out a filter that was added with these digests.
    pub(super) fn take(&mut self, id: u32, digests: impl Iterator<Item = u64>) {
        let number = self.numbers.remove(&id).expect("it was added");
        self.ids.remove(number as usize);
        digests.for_each(|digest| self.lists.take(digest, number));
        if self.numbers.len() * 4 < self.numbers.capacity() {
            self.numbers.shrink_to(self.numbers.len() * 2);
            self.ids.shrink_to_fit();
        }
    }

    /// Calls `see` with each filter that has all of these values, and perhaps with a stranger. Returns the steps taken:
    /// lists and words looked at.
    pub(super) fn candidates(&self, digests: impl Iterator<Item = u64>, mut see: impl FnMut(u32)) -> usize {
        let mut crowds: [&[Word]; 5] = [&[]; 5];
        let (mut found, mut steps) = (0, 0);
        let mut only: Option<u32> = None;
        for digest in digests {
            steps += 1;
            match self.lists.get(digest) {
                Ids::None => return steps,
                Ids::One(number) if only.is_some_and(|only| only != number) => return steps,
                Ids::One(number) => only = Some(number),
                Ids::Many(words) => {
                    crowds[found] = words;
                    found += 1;
                }
            }
        }
        let mut see = |number: u32| see(self.ids[number as usize]);
        if let Some(number) = only {
            see(number);
            return steps;
        }
        let crowds = &mut crowds[..found];
        crowds.sort_unstable_by_key(|words| words.len());
        steps + cross(crowds, |word| numbers(word).for_each(&mut see))
    }

    /// Bytes that it holds beside itself.
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.lists.held_bytes() + self.ids.capacity() * 16 + self.numbers.capacity() * 9 * 8 / 7
    }
}

/// Calls `see` with the words that are in all of the crowds, the shortest of which comes first. Returns the number of
/// words looked at.
fn cross(crowds: &mut [&[Word]], mut see: impl FnMut(Word)) -> usize {
    let Some((shortest, others)) = crowds.split_first_mut() else { return 0 };
    let mut steps = 0;
    for (upper, mut bits) in shortest.iter().copied() {
        steps += 1;
        for words in &mut *others {
            steps += skip(words, upper);
            bits &= words.first().filter(|word| word.0 == upper).map_or(0, |word| word.1);
            if bits == 0 {
                break;
            }
        }
        if bits != 0 {
            see((upper, bits));
        }
    }
    steps
}

/// Skips the words below `upper`, in leaps that double: few steps whether there are few or many. Returns their number.
fn skip(words: &mut &[Word], upper: u32) -> usize {
    let (mut leap, mut steps) = (1, 1);
    while words.get(leap - 1).is_some_and(|word| word.0 < upper) {
        *words = &words[leap..];
        leap *= 2;
        steps += 1;
    }
    let within = &words[..words.len().min(leap)];
    *words = &words[within.partition_point(|word| word.0 < upper)..];
    steps + leap.ilog2() as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::crowd::Crowd;
    use super::*;

    /// Sets that are dense, sparse, or both in turn.
    fn any_set() -> impl Strategy<Value = BTreeSet<u32>> {
        let run = (0..6_000u32, 1..400u32, 1..90usize);
        prop::collection::vec(run, 1..5).prop_map(|runs| {
            runs.into_iter().flat_map(|(from, length, step)| (from..from + length).step_by(step)).collect()
        })
    }

    proptest! {
        #[test]
        fn crossing_finds_what_is_in_all(sets in prop::collection::vec(any_set(), 1..5)) {
            let mut crowds = Vec::new();
            for set in &sets {
                let mut crowd = Crowd::default();
                set.iter().chain(&[10_000]).rev().for_each(|n| crowd.insert(*n));
                crowd.remove(10_000);
                prop_assert_eq!(crowd.words().iter().copied().flat_map(numbers).collect::<BTreeSet<_>>(), set.clone());
                crowds.push(crowd);
            }
            let mut words: Vec<&[Word]> = crowds.iter().map(Crowd::words).collect();
            let mut found = BTreeSet::new();
            cross(&mut words, |word| found.extend(numbers(word)));
            let in_all = sets[0].iter().copied().filter(|n| sets.iter().all(|set| set.contains(n))).collect();
            prop_assert_eq!(found, in_all);
        }
    }
}
