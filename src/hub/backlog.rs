//! Bytes that wait for a client's socket, in the order in which it must get them.
//!
//! What is small is copied, for this client alone. A large result is not copied: its bytes are the journal's own, so that
//! it is in memory once, however many clients do not take it. Knows no connection. Pure.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::frame;
use super::streams::IdText;

/// Bytes that are shared if they are at least so many; fewer are cheaper to copy. Few in tests, so that both happen.
const SHARED_MIN: usize = if cfg!(test) { 2_000 } else { 16 * 1024 };

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// Goes first.
    parts: VecDeque<Part>,
    /// Copied, and goes last.
    tail: BytesMut,
}

#[derive(Debug)]
struct Part {
    bytes: Bytes,
    shared: bool,
}

impl Backlog {
    /// Appends a copy.
    pub(super) fn copy(&mut self, bytes: &[u8]) {
        self.tail.put_slice(bytes);
    }

    /// Appends the notification of a result that is given in parts.
    pub(super) fn notification(&mut self, id: &IdText, result: &[Bytes]) {
        frame::before_result(&mut self.tail, id, result.iter().map(Bytes::len).sum());
        result.iter().for_each(|part| self.share(part));
        self.tail.put_slice(frame::AFTER_RESULT);
    }

    /// Appends bytes that are in memory for others as well, or copies them if they are few.
    pub(super) fn share(&mut self, bytes: &Bytes) {
        if bytes.len() < SHARED_MIN {
            return self.copy(bytes);
        }
        if !self.tail.is_empty() {
            let before = self.tail.split().freeze();
            self.parts.push_back(Part { bytes: before, shared: false });
        }
        self.parts.push_back(Part { bytes: bytes.clone(), shared: true });
    }

    /// What goes first, as many parts as there is room for. Returns those that are not empty.
    pub(super) fn parts<'a, 'b>(&'a self, room: &'b mut [IoSlice<'a>]) -> &'b [IoSlice<'a>] {
        let parts = self.parts.iter().map(|part| &part.bytes[..]).chain([&self.tail[..]]);
        let mut count = 0;
        for (slot, part) in room.iter_mut().zip(parts.filter(|part| !part.is_empty())) {
            *slot = IoSlice::new(part);
            count += 1;
        }
        &room[..count]
    }

    /// The first `n` bytes need not wait any more.
    pub(super) fn advance(&mut self, mut n: usize) {
        while let Some(part) = self.parts.front_mut() {
            if n < part.bytes.len() {
                return part.bytes.advance(n);
            }
            n -= part.bytes.len();
            self.parts.pop_front();
        }
        self.tail.advance(n);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.tail.is_empty()
    }

    /// All bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.bytes.len()).sum::<usize>() + self.tail.len()
    }

    /// Those that are in memory for this client alone.
    pub(super) fn own(&self) -> usize {
        self.parts.iter().filter(|part| !part.shared).map(|part| part.bytes.len()).sum::<usize>() + self.tail.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_result_is_shared_and_the_bytes_are_the_same() {
        let id = super::super::SubId::new(&[0; 32], "c", b"x", 0).text();
        let (small, large) = (Bytes::from_static(b"{}"), Bytes::from(vec![b'x'; SHARED_MIN]));
        let mut want = BytesMut::new();
        let mut backlog = Backlog::default();
        for result in [vec![&small], vec![&large], vec![&small, &large, &small], vec![&large, &large], vec![&small]] {
            let parts: Vec<Bytes> = result.into_iter().cloned().collect();
            frame::notification(&mut want, &id, &parts);
            backlog.notification(&id, &parts);
        }
        backlog.copy(b"answer");
        want.put_slice(b"answer");
        assert_eq!((backlog.len(), backlog.own()), (want.len(), want.len() - 4 * SHARED_MIN));
        let shared = backlog.parts.iter().filter(|part| part.bytes.as_ptr() == large.as_ptr());
        assert_eq!(shared.count(), 4);
        for step in [0, 1, 100, SHARED_MIN - 50, SHARED_MIN + 300, 1, 700].into_iter().cycle() {
            let mut room = [IoSlice::new(&[]); 3];
            let parts = backlog.parts(&mut room);
            assert!(
                want.starts_with(&parts.iter().flat_map(|part| part.iter().copied()).collect::<Vec<u8>>())
                    && (want.is_empty() || !parts.is_empty())
            );
            let step = step.min(want.len());
            want.advance(step);
            backlog.advance(step);
            assert_eq!((backlog.len(), backlog.is_empty()), (want.len(), want.is_empty()));
            if want.is_empty() {
                break;
            }
        }
        assert_eq!(backlog.own(), 0);
    }
}
