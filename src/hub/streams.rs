//! Which streams there are on a shard and who listens to each.
//!
//! Owns subscription ids, the members of every stream, and the filter index. Knows nothing of sockets. Pure.

use std::collections::HashMap;
use std::hash::RandomState;

use alloy_primitives::keccak256;

use super::StreamKey;
use super::conn::ConnKey;
use crate::filter::Index;

/// A subscription id: `0x` and 32 hex digits, the first never 0 (stock clients take ids for quantities).
///
/// It is a keyed hash of the stream and of the ordinal of this same stream on its connection, so that the bytes of a
/// notification are equal for all connections. Unique within a connection, which is all that JSON-RPC needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SubId([u8; 34]);

impl SubId {
    /// The id of the `ordinal`-th such stream on a connection.
    #[must_use]
    pub fn new(secret: &[u8; 32], chain: &str, stream: &[u8], ordinal: u32) -> Self {
        let hash = keccak256([secret, chain.as_bytes(), &[0], stream, &ordinal.to_be_bytes()].concat());
        let mut text = [b'0'; 34];
        text[1] = b'x';
        for (at, digit) in text[2..].iter_mut().enumerate() {
            let byte = hash[at / 2];
            let nibble = if at % 2 == 0 { byte >> 4 } else { byte & 15 };
            *digit = b"0123456789abcdef"[usize::from(if at == 0 { nibble | 8 } else { nibble })];
        }
        Self(text)
    }

    /// The id as clients see it.
    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.0).expect("it is made of hex digits")
    }
}

/// One subscriber of a group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) conn: ConnKey,
    /// Number of the subscription on its connection.
    pub(super) n: u32,
    /// First entry that it is owed.
    pub(super) since: u64,
}

/// The subscribers that share a subscription id, and so share frames.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) id: SubId,
    ordinal: u32,
    pub(super) members: Vec<Member>,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) key: StreamKey,
    pub(super) groups: Vec<Group>,
}

/// Where a subscription is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) stream: u32,
    pub(super) ordinal: u32,
    pub(super) at: u32,
}

/// All streams of a shard.
#[derive(Debug)]
pub(super) struct Streams {
    by_key: HashMap<StreamKey, u32>,
    all: slab::Slab<Stream>,
    pub(super) index: Index,
}

impl Streams {
    pub(super) fn new() -> Self {
        Self { by_key: HashMap::new(), all: slab::Slab::new(), index: Index::new(RandomState::new()) }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// The stream's number, if anyone listens to it.
    pub(super) fn find(&self, key: &StreamKey) -> Option<u32> {
        self.by_key.get(key).copied()
    }

    pub(super) fn get(&self, stream: u32) -> &Stream {
        &self.all[stream as usize]
    }

    /// The stream for a key; a new one has no members yet and must get one.
    pub(super) fn open(&mut self, key: StreamKey) -> u32 {
        if let Some(stream) = self.by_key.get(&key) {
            return *stream;
        }
        let stream = self.all.insert(Stream { key: key.clone(), groups: Vec::new() });
        let stream = u32::try_from(stream).expect("subscriptions are bounded");
        if let StreamKey::Logs(filter) = &key {
            self.index.insert(stream, filter.clone());
        }
        self.by_key.insert(key, stream);
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
        let groups = &mut self.all[stream as usize].groups;
        let at = groups.iter().position(|g| g.ordinal == ordinal).unwrap_or_else(|| {
            groups.push(Group { id: id(), ordinal, members: Vec::new() });
            groups.len() - 1
        });
        let group = &mut groups[at];
        group.members.push(member);
        let at = u32::try_from(group.members.len() - 1).expect("connections are bounded");
        (Seat { stream, ordinal, at }, group.id)
    }

    /// Takes a member out. Returns the member that took over its place, if any.
    pub(super) fn leave(&mut self, seat: Seat) -> Option<Member> {
        let stream = &mut self.all[seat.stream as usize];
        let at = stream.groups.iter().position(|g| g.ordinal == seat.ordinal).expect("a seat is in a group");
        let group = &mut stream.groups[at];
        group.members.swap_remove(seat.at as usize);
        let moved = group.members.get(seat.at as usize).copied();
        if group.members.is_empty() {
            stream.groups.swap_remove(at);
        }
        if stream.groups.is_empty() {
            let stream = self.all.remove(seat.stream as usize);
            self.by_key.remove(&stream.key);
            self.index.remove(seat.stream);
        }
        moved
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
            assert!(other.text().starts_with("0x") && !other.text().starts_with("0x0") && other.text().len() == 34);
        }
    }

    #[test]
    fn members_come_and_go() {
        let mut streams = Streams::new();
        let member = |n| Member { conn: ConnKey { slot: n, generation: 0 }, n, since: 1 };
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
