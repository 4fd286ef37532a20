//! Which streams there are on a shard and who listens to each.
//!
//! Owns subscription ids, the members of every stream, and the filter index. There may be a million streams with one
//! member each, so a stream is small. Knows nothing of sockets. Pure.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

use alloy_primitives::keccak256;
use hashbrown::HashTable;

use super::StreamKey;
use super::conn::ConnKey;
use crate::filter::Index;

/// A subscription id: `0x` and 32 hex digits, the first never 0 (stock clients take ids for quantities).
///
/// It is a keyed hash of the stream and of the ordinal of this same stream on its connection, so that the bytes of a
/// notification are equal for all connections. Unique within a connection, which is all that JSON-RPC needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SubId([u8; 16]);

/// A subscription id as clients see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdText([u8; 34]);

impl SubId {
    /// The id of the `ordinal`-th such stream on a connection.
    #[must_use]
    pub fn new(secret: &[u8; 32], chain: &str, stream: &[u8], ordinal: u32) -> Self {
        let hash = keccak256([secret, chain.as_bytes(), &[0], stream, &ordinal.to_be_bytes()].concat());
        let mut id = *hash.first_chunk().expect("a hash is longer");
        id[0] |= 0x80;
        Self(id)
    }

    /// The id as clients see it.
    #[must_use]
    pub fn text(&self) -> IdText {
        let mut text = [b'0'; 34];
        text[1] = b'x';
        for (digits, byte) in text[2..].chunks_exact_mut(2).zip(self.0) {
            digits.copy_from_slice(&[byte >> 4, byte & 15].map(|nibble| b"0123456789abcdef"[usize::from(nibble)]));
        }
        IdText(text)
    }
}

impl IdText {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("it is made of hex digits")
    }
}

/// One subscriber of a group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) conn: ConnKey,
    /// Number of the subscription on its connection.
    pub(super) n: u32,
    /// Whether its connection negotiated compression.
    pub(super) compressed: bool,
    /// First entry that it is owed.
    pub(super) since: u64,
}

/// The subscribers that share a subscription id, and so share frames.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) id: SubId,
    pub(super) members: Vec<Member>,
}

/// A stream and its subscribers.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) key: StreamKey,
    /// Those for whom it is the first such stream of their connection: nearly all.
    first: Option<Group>,
    /// The others, by ordinal.
    #[allow(clippy::box_collection, reason = "a pointer in each of a million streams")]
    more: Option<Box<BTreeMap<u32, Group>>>,
}

impl Stream {
    pub(super) fn groups(&self) -> impl Iterator<Item = &Group> {
        self.first.iter().chain(self.more.iter().flat_map(|more| more.values()))
    }

    fn group(&self, ordinal: u32) -> Option<&Group> {
        match ordinal {
            0 => self.first.as_ref(),
            _ => self.more.as_ref()?.get(&ordinal),
        }
    }

    fn group_mut(&mut self, ordinal: u32) -> Option<&mut Group> {
        match ordinal {
            0 => self.first.as_mut(),
            _ => self.more.as_mut()?.get_mut(&ordinal),
        }
    }

    fn open(&mut self, ordinal: u32, id: impl FnOnce() -> SubId) -> &mut Group {
        let group = || Group { id: id(), members: Vec::with_capacity(1) };
        match ordinal {
            0 => self.first.get_or_insert_with(group),
            _ => self.more.get_or_insert_default().entry(ordinal).or_insert_with(group),
        }
    }

    fn close(&mut self, ordinal: u32) {
        if ordinal == 0 {
            self.first = None;
        } else if let Some(more) = &mut self.more {
            more.remove(&ordinal);
            self.more.take_if(|more| more.is_empty());
        }
    }
}

/// Where a subscription is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) stream: u32,
    pub(super) ordinal: u32,
    pub(super) at: u32,
}

/// A stream under the hash of its key. The hash is kept so that a table of a million grows without reading them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Keyed {
    hash: u32,
    stream: u32,
}

impl Keyed {
    /// Spread over all bits of what the table takes as a hash.
    fn spread(self) -> u64 {
        u64::from(self.hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// All streams of a shard.
#[derive(Debug)]
pub(super) struct Streams {
    hasher: RandomState,
    /// Streams by the hash of their key.
    by_key: HashTable<Keyed>,
    all: slab::Slab<Stream>,
    pub(super) index: Index,
}

impl Streams {
    pub(super) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            by_key: HashTable::new(),
            all: slab::Slab::new(),
            index: Index::new(RandomState::new()),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// The stream's number, if anyone listens to it.
    pub(super) fn find(&self, key: &StreamKey) -> Option<u32> {
        self.find_hashed(key, self.keyed(key, 0))
    }

    fn find_hashed(&self, key: &StreamKey, like: Keyed) -> Option<u32> {
        let is_it = |other: &Keyed| other.hash == like.hash && self.get(other.stream).key == *key;
        self.by_key.find(like.spread(), is_it).map(|found| found.stream)
    }

    #[allow(clippy::cast_possible_truncation, reason = "half of the hash's bits are enough")]
    fn keyed(&self, key: &StreamKey, stream: u32) -> Keyed {
        Keyed { hash: self.hasher.hash_one(key) as u32, stream }
    }

    pub(super) fn get(&self, stream: u32) -> &Stream {
        &self.all[stream as usize]
    }

    /// The id of a subscription.
    pub(super) fn id(&self, seat: Seat) -> SubId {
        self.get(seat.stream).group(seat.ordinal).expect("a seat is in a group").id
    }

    /// The stream for a key; a new one has no members yet and must get one.
    pub(super) fn open(&mut self, key: StreamKey) -> u32 {
        let stream = u32::try_from(self.all.vacant_key()).expect("subscriptions are bounded");
        let keyed = self.keyed(&key, stream);
        if let Some(stream) = self.find_hashed(&key, keyed) {
            return stream;
        }
        if let StreamKey::Logs(filter) = &key {
            self.index.insert(stream, filter.clone());
        }
        self.all.insert(Stream { key, first: None, more: None });
        self.by_key.insert_unique(keyed.spread(), keyed, |keyed| keyed.spread());
        stream
    }

    /// Adds a member under an ordinal; `id` makes the id if this ordinal is new.
    pub(super) fn join(
        &mut self,
        stream: u32,
        ordinal: u32,
        member: Member,
        id: impl FnOnce() -> SubId,
    ) -> (Seat, SubId) {
        let group = self.all[stream as usize].open(ordinal, id);
        group.members.push(member);
        let at = u32::try_from(group.members.len() - 1).expect("connections are bounded");
        (Seat { stream, ordinal, at }, group.id)
    }

    /// Takes a member out. Returns the member that took over its place, if any.
    pub(super) fn leave(&mut self, seat: Seat) -> Option<Member> {
        let stream = &mut self.all[seat.stream as usize];
        let group = stream.group_mut(seat.ordinal).expect("a seat is in a group");
        group.members.swap_remove(seat.at as usize);
        let moved = group.members.get(seat.at as usize).copied();
        if group.members.capacity() > 64.max(8 * group.members.len()) {
            group.members.shrink_to(2 * group.members.len());
        }
        if group.members.is_empty() {
            stream.close(seat.ordinal);
            if stream.groups().next().is_none() {
                self.end(seat.stream);
            }
        }
        moved
    }

    /// A stream that nobody listens to is forgotten, and the memory of a crowd that has gone is given back.
    fn end(&mut self, stream: u32) {
        let keyed = self.keyed(&self.get(stream).key, stream);
        self.by_key.find_entry(keyed.spread(), |other| *other == keyed).expect("it is there under its key").remove();
        self.index.remove(stream);
        self.all.remove(stream as usize);
        if self.by_key.capacity() > 1_024.max(8 * self.by_key.len()) {
            self.by_key.shrink_to(2 * self.by_key.len(), |keyed| keyed.spread());
            self.all.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_quantities_and_differ_by_all_that_goes_in() {
        let id = |secret: u8, chain, stream: &[u8], ordinal| SubId::new(&[secret; 32], chain, stream, ordinal);
        let base = id(0, "a", b"newHeads", 0);
        assert_eq!(base, id(0, "a", b"newHeads", 0));
        for other in
            [id(1, "a", b"newHeads", 0), id(0, "b", b"newHeads", 0), id(0, "a", b"logs", 0), id(0, "a", b"newHeads", 1)]
        {
            assert_ne!(base, other);
            let text = other.text();
            assert!(text.as_str().starts_with("0x") && !text.as_str().starts_with("0x0") && text.as_str().len() == 34);
        }
    }

    #[test]
    fn members_come_and_go() {
        let mut streams = Streams::new();
        let member = |n| Member { conn: ConnKey { slot: n, generation: 0 }, n, compressed: false, since: 1 };
        let stream = streams.open(StreamKey::Heads);
        let id = || SubId::new(&[0; 32], "c", b"x", 0);
        let (a, _) = streams.join(stream, 0, member(1), id);
        let (b, _) = streams.join(stream, 0, member(2), id);
        let (c, _) = streams.join(stream, 1, member(1), id);
        assert_eq!(streams.leave(a).map(|m| m.n), Some(2));
        assert_eq!(streams.leave(Seat { at: a.at, ..b }).map(|m| m.n), None);
        assert_eq!(streams.find(&StreamKey::Heads), Some(stream));
        assert!(streams.leave(c).is_none());
        assert_eq!((streams.len(), streams.find(&StreamKey::Heads)), (0, None));
    }
}
