//! A set of small numbers, sorted, as words of bits: what many filters have in common.
//!
//! Ids are given out densely, so a crowd of 100,000 is some 3,000 words, and crowds are crossed word by word. Pure.

/// A word: the upper bits of its numbers, and which of the 32 are in the set. Never without any.
pub(super) type Word = (u32, u32);

/// The set.
#[derive(Debug, Default)]
pub(super) struct Crowd(Vec<Word>);

fn word_of(n: u32) -> Word {
    (n / 32, 1 << (n % 32))
}

/// The numbers of a word.
pub(super) fn numbers((upper, mut bits): Word) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let lowest = bits.trailing_zeros();
        bits &= bits.wrapping_sub(1);
        (lowest < 32).then_some(upper * 32 + lowest)
    })
}

impl Crowd {
    pub(super) fn insert(&mut self, n: u32) {
        let (upper, bit) = word_of(n);
        match self.0.binary_search_by_key(&upper, |word| word.0) {
            Ok(at) => self.0[at].1 |= bit,
            Err(at) => self.0.insert(at, (upper, bit)),
        }
    }

    /// Numbers that are not in the set are ignored.
    pub(super) fn remove(&mut self, n: u32) {
        let (upper, bit) = word_of(n);
        let Ok(at) = self.0.binary_search_by_key(&upper, |word| word.0) else { return };
        self.0[at].1 &= !bit;
        if self.0[at].1 == 0 {
            self.0.remove(at);
            if self.0.len() * 4 < self.0.capacity() {
                self.0.shrink_to(self.0.len() * 2);
            }
        }
    }

    /// The only number, if it is the only one.
    pub(super) fn sole(&self) -> Option<u32> {
        match self.0[..] {
            [word] if word.1.is_power_of_two() => numbers(word).next(),
            _ => None,
        }
    }

    pub(super) fn words(&self) -> &[Word] {
        &self.0
    }

    /// Bytes that it holds beside itself.
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.0.capacity() * size_of::<Word>()
    }
}
