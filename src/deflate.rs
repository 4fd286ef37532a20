//! Messages compressed and inflated by permessage-deflate (RFC 7692), each by itself: no context is taken over.
//!
//! Owns the one use of the compression library, its level and its window. Knows neither frames nor connections. Pure.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Bits of the window that a receiver of ours needs at most: JSON of one event seldom repeats what is further back, and
/// a client that offers any window of at least this size is served (RFC 7692 §7.1.2.1).
pub const WINDOW_BITS: u8 = 12;

/// The fastest level that adapts its code to the message. With the fixed code of level 1, hex digits hardly shrink.
const LEVEL: u32 = 2;

/// Fewer bytes are not worth the work of either side.
const WORTH_MIN: usize = 128;

/// What ends the compressed form of every message, and is not sent (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// The tail and, behind it, an empty last block: a decoder that is told both says whether the message was whole.
const END: [u8; 6] = [0, 0, 0xff, 0xff, 3, 0];

/// Why a message cannot be inflated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is larger than the bound.
    TooBig,
    /// It is not whole, not compressed data at all, or refers to an earlier message.
    Corrupt,
}

/// Compresses messages. Holds no memory before the first.
#[derive(Debug, Default)]
pub struct Deflater {
    state: Option<Box<Compress>>,
    out: Vec<u8>,
}

impl Deflater {
    /// The message as it is sent compressed; `None` if that would not be shorter, or is not worth it.
    pub fn message(&mut self, message: &[u8]) -> Option<&[u8]> {
        if message.len() < WORTH_MIN {
            return None;
        }
        let new = || Box::new(Compress::new_with_window_bits(Compression::new(LEVEL), false, WINDOW_BITS));
        let state = self.state.get_or_insert_with(new);
        state.reset();
        // What fills all of this is not shorter than the message, or not whole.
        let room = message.len() + TAIL.len();
        if self.out.len() < room {
            self.out.resize(room, 0);
        }
        let done = state.compress(message, &mut self.out[..room], FlushCompress::Sync);
        done.expect("compressing from memory to memory does not fail");
        let length = usize::try_from(state.total_out()).expect("it is not longer than the room");
        let whole = &self.out[..length];
        if length == room { None } else { whole.strip_suffix(&TAIL) }
    }
}

/// The message that was compressed, of at most `most` bytes. No more is ever held of it but the byte that is too many.
pub fn inflate(message: &[u8], most: usize) -> Result<Vec<u8>, Fault> {
    let mut out = Vec::new();
    let mut state = Decompress::new(false);
    let whole = match feed(&mut state, message, &mut out, most)? {
        // It was its sender's last block, padded by an empty one or not (RFC 7692 §7.2.3.4).
        Some(rest) => matches!(rest, [] | [0]),
        None => feed(&mut state, &END, &mut out, most)?.is_some_and(<[u8]>::is_empty),
    };
    if whole { Ok(out) } else { Err(Fault::Corrupt) }
}

/// Inflates a part of a message. Returns what is left of it if its last block has ended.
fn feed<'a>(
    state: &mut Decompress,
    mut part: &'a [u8],
    out: &mut Vec<u8>,
    most: usize,
) -> Result<Option<&'a [u8]>, Fault> {
    loop {
        if out.len() == out.capacity() {
            // The byte beyond the bound is what tells that there is one.
            let more = out.len().max(4 * part.len()).max(WORTH_MIN).min(most.saturating_add(1) - out.len());
            out.reserve_exact(more);
        }
        let before = state.total_in();
        let status = state.decompress_vec(part, out, FlushDecompress::None).map_err(|_| Fault::Corrupt)?;
        part = &part[usize::try_from(state.total_in() - before).expect("it is a part of the part")..];
        if out.len() > most {
            return Err(Fault::TooBig);
        }
        match status {
            Status::StreamEnd => return Ok(Some(part)),
            // It would take more room.
            _ if out.len() == out.capacity() => {}
            _ if part.is_empty() => return Ok(None),
            Status::Ok => {}
            Status::BufError => return Err(Fault::Corrupt),
        }
    }
}

/// The same by another library: what an independent client makes of a compressed message.
#[cfg(test)]
pub(crate) fn inflated_by_another(message: &[u8]) -> Vec<u8> {
    miniz_oxide::inflate::decompress_to_vec_with_limit(&[message, &END].concat(), 1 << 24).expect("it is whole")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the library makes of a message, behind others with their context or not.
    fn with_context(state: &mut Compress, message: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(message.len() + 1_000);
        state.compress_vec(message, &mut out, FlushCompress::Sync).unwrap();
        out.strip_suffix(&TAIL).unwrap().to_vec()
    }

    fn compressed(message: &[u8]) -> Vec<u8> {
        with_context(&mut Compress::new(Compression::best(), false), message)
    }

    /// The examples of RFC 7692 §7.2.3.
    #[test]
    fn what_the_rfc_shows() {
        let hello = b"Hello".to_vec();
        for (what, bytes) in [
            ("one block", &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..]),
            ("no compression", &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00]),
            ("a last block", &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00]),
            ("two blocks", &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00]),
        ] {
            assert_eq!(inflate(bytes, 5), Ok(hello.clone()), "{what}");
            assert_eq!(inflate(bytes, 4), Err(Fault::TooBig), "{what}");
        }
        assert_eq!(inflate(&[0], 0), Ok(Vec::new()), "an empty message");
        // The second of two equal messages, which refers to the first: nobody may take its context over.
        assert_eq!(inflate(&[0xf2, 0x00, 0x11, 0x00, 0x00], 100), Err(Fault::Corrupt));
    }

    #[test]
    fn what_is_not_whole_or_not_compressed_is_corrupt() {
        let text = br#"{"jsonrpc":"2.0","id":1,"method":"eth_subscribe","params":["newHeads"]}"#.repeat(3);
        let bytes = compressed(&text);
        assert_eq!(inflate(&bytes, 1_000), Ok(text.clone()));
        for cut in 0..bytes.len() - 1 {
            assert_eq!(inflate(&bytes[..cut], 1_000), Err(Fault::Corrupt), "{cut} of {}", bytes.len());
        }
        assert_eq!(inflate(&[0xff; 50], 1_000), Err(Fault::Corrupt));
        assert_eq!(inflate(&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x48], 1_000), Err(Fault::Corrupt));
        let mut state = Compress::new(Compression::best(), false);
        with_context(&mut state, &text);
        let second = with_context(&mut state, &text);
        assert_eq!(inflate(&second, 1_000), Err(Fault::Corrupt), "it refers to the first");
    }

    #[test]
    fn a_bomb_is_never_held() {
        let bomb = compressed(&vec![b' '; 50_000_000]);
        assert!(bomb.len() < 131_072);
        let (mut out, mut state) = (Vec::new(), Decompress::new(false));
        assert_eq!(feed(&mut state, &bomb, &mut out, 131_072), Err(Fault::TooBig));
        assert!(out.capacity() <= 131_073, "{} bytes were held", out.capacity());
        let fits = compressed(&vec![b' '; 131_072]);
        assert_eq!(inflate(&fits, 131_072).map(|out| out.len()), Ok(131_072));
        assert_eq!(inflate(&fits, 131_071), Err(Fault::TooBig));
    }

    #[test]
    fn what_would_not_be_shorter_is_not_compressed() {
        let mut deflater = Deflater::default();
        assert_eq!(deflater.message(&[b'x'; WORTH_MIN - 1]), None);
        assert!(deflater.state.is_none());
        assert!(deflater.message(&[b'x'; WORTH_MIN]).is_some_and(|bytes| bytes.len() < 10));
        let noise: Vec<u8> = (0..40u64).flat_map(|n| alloy_primitives::keccak256(n.to_be_bytes())).collect();
        assert_eq!(deflater.message(&noise), None);
    }

    proptest! {
        /// Each message by itself, whatever came before it, and read by another library as by this one.
        #[test]
        fn what_is_compressed_comes_back(messages in prop::collection::vec("[a-f0-9\"]{0,9}[0-9a-f]{100,9000}", 1..5), most in 0usize..9_100) {
            let mut deflater = Deflater::default();
            for message in &messages {
                let Some(bytes) = deflater.message(message.as_bytes()).map(<[u8]>::to_vec) else { continue };
                prop_assert!(bytes.len() < message.len());
                prop_assert_eq!(&inflated_by_another(&bytes), message.as_bytes());
                let want = if message.len() > most { Err(Fault::TooBig) } else { Ok(message.clone().into_bytes()) };
                prop_assert_eq!(inflate(&bytes, most), want);
            }
        }

        /// Any bytes at all: no panic, no endless loop, and never more than the bound.
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400), most in 0usize..2_000) {
            if let Ok(out) = inflate(&bytes, most) {
                prop_assert!(out.len() <= most);
            }
        }
    }
}
