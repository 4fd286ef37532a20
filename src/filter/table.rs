//! A table from digests to the ids that are listed under each.
//!
//! It is made of parts that grow and shrink by themselves, so that no single change of a table of a million takes
//! longer than a part does, and memory goes back after a storm. An entry has the digest with it, so that growing reads
//! nothing else. Ids that share a digest are a [`Crowd`]: the table itself never has two equal digests, whose number
//! would be the length of each probe. 38 bits of the digest are kept, so a rare stranger is among what is found.
//! Does not know what the digests are of; who chooses them must not be able to make them collide. Pure.

use hashbrown::HashTable;

use super::crowd::{Crowd, Word, numbers};

/// Parts of a table: the upper bits of a digest choose one.
const PARTS: usize = 64;

/// What is listed under one digest.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ids<'a> {
    None,
    One(u32),
    Many(&'a [Word]),
}

/// The table.
#[derive(Debug)]
pub(super) struct Table {
    parts: Box<[Part]>,
    /// Number of digests.
    len: usize,
}

/// A digest is in one of the two.
#[derive(Debug, Default)]
struct Part {
    ones: HashTable<(u32, u32)>,
    crowds: HashTable<(u32, Crowd)>,
}

/// The part of a digest, and what is kept of it there.
#[allow(clippy::cast_possible_truncation, reason = "both are cuts of the digest's bits")]
fn cut(digest: u64) -> (usize, u32) {
    ((digest >> 58) as usize % PARTS, digest as u32)
}

/// What hashbrown takes for a hash: it reads both ends.
fn spread(kept: u32) -> u64 {
    u64::from(kept) << 32 | u64::from(kept)
}

/// Gives memory back where a quarter of it would do.
fn shrink<T>(table: &mut HashTable<(u32, T)>) {
    if table.len() * 4 < table.capacity() {
        table.shrink_to(table.len() * 2, |entry| spread(entry.0));
    }
}

impl Table {
    pub(super) fn new() -> Self {
        Self { parts: (0..PARTS).map(|_| Part::default()).collect(), len: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Lists an id under a digest. It is listed once, however often it is added.
    pub(super) fn add(&mut self, digest: u64, id: u32) {
        let (part, kept) = cut(digest);
        let Part { ones, crowds } = &mut self.parts[part];
        if let Some((_, crowd)) = crowds.find_mut(spread(kept), |entry| entry.0 == kept) {
            crowd.insert(id);
        } else if let Ok(entry) = ones.find_entry(spread(kept), |entry| entry.0 == kept) {
            let other = entry.get().1;
            if other != id {
                entry.remove();
                let mut crowd = Crowd::default();
                crowd.insert(other);
                crowd.insert(id);
                crowds.insert_unique(spread(kept), (kept, crowd), |entry| spread(entry.0));
            }
        } else {
            ones.insert_unique(spread(kept), (kept, id), |entry| spread(entry.0));
            self.len += 1;
        }
    }

    /// Takes an id out from under a digest; one that is not there is ignored.
    pub(super) fn take(&mut self, digest: u64, id: u32) {
        let (part, kept) = cut(digest);
        let Part { ones, crowds } = &mut self.parts[part];
        if let Ok(entry) = ones.find_entry(spread(kept), |entry| *entry == (kept, id)) {
            entry.remove();
            shrink(ones);
            self.len -= 1;
        } else if let Ok(mut entry) = crowds.find_entry(spread(kept), |entry| entry.0 == kept) {
            let crowd = &mut entry.get_mut().1;
            crowd.remove(id);
            if let Some(sole) = crowd.sole() {
                entry.remove();
                shrink(crowds);
                ones.insert_unique(spread(kept), (kept, sole), |entry| spread(entry.0));
            }
        }
    }

    pub(super) fn get(&self, digest: u64) -> Ids<'_> {
        let (part, kept) = cut(digest);
        let Part { ones, crowds } = &self.parts[part];
        if let Some((_, id)) = ones.find(spread(kept), |entry| entry.0 == kept) {
            return Ids::One(*id);
        }
        let crowd = crowds.find(spread(kept), |entry| entry.0 == kept);
        crowd.map_or(Ids::None, |(_, crowd)| Ids::Many(crowd.words()))
    }

    /// Bytes that it holds beside itself.
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        let part = |part: &Part| {
            let crowds: usize = part.crowds.iter().map(|(_, crowd)| crowd.held_bytes()).sum();
            size_of::<Part>() + part.ones.allocation_size() + part.crowds.allocation_size() + crowds
        };
        self.parts.iter().map(part).sum()
    }
}

impl Ids<'_> {
    /// Calls `see` with each.
    pub(super) fn for_each(self, mut see: impl FnMut(u32)) {
        match self {
            Ids::None => {}
            Ids::One(id) => see(id),
            Ids::Many(words) => words.iter().for_each(|word| numbers(*word).for_each(&mut see)),
        }
    }
}
