//! WebSocket frames as a client reads and writes them, and the few words that it looks for in their text.
//!
//! Knows no sockets. Pure.

/// Longest message.
pub(super) const MESSAGE_MAX: usize = 64 << 20;

/// A frame from a server (RFC 6455 §5.2).
pub(super) struct Frame<'a> {
    pub(super) fin: bool,
    /// The first reserved bit: the message is compressed (RFC 7692 §6).
    pub(super) packed: bool,
    pub(super) opcode: u8,
    pub(super) payload: &'a [u8],
    /// With its header, in bytes.
    pub(super) len: usize,
}

impl<'a> Frame<'a> {
    /// The frame at the front, if it is whole.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Option<Self>, String> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        if second & 0x80 != 0 || first & 0x30 != 0 {
            return Err("a frame that a server must not send".into());
        }
        let (size, header) = match second & 0x7f {
            126 => match rest.first_chunk() {
                Some(size) => (u64::from(u16::from_be_bytes(*size)), 4),
                None => return Ok(None),
            },
            127 => match rest.first_chunk() {
                Some(size) => (u64::from_be_bytes(*size), 10),
                None => return Ok(None),
            },
            size => (u64::from(size), 2),
        };
        let size = usize::try_from(size).ok().filter(|size| *size <= MESSAGE_MAX).ok_or("a frame that is too long")?;
        let payload = bytes.get(header..header + size);
        let (fin, packed, opcode) = (first & 0x80 != 0, first & 0x40 != 0, first & 0x0f);
        Ok(payload.map(|payload| Self { fin, packed, opcode, payload, len: header + size }))
    }
}

/// A frame to a server. Its mask is zero, which leaves the payload as it is; a mask protects proxies from what a browser
/// is made to send (RFC 6455 §10.3), and here is neither.
pub(in crate::bench) fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match u16::try_from(payload.len()).expect("requests are short") {
        short @ 0..126 => frame.push(0x80 | u8::try_from(short).expect("below 126")),
        long => {
            frame.push(0xfe);
            frame.extend(long.to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// Where the string or number after a key stands, quotes included.
pub(super) fn value_of(text: &[u8], key: &[u8]) -> Option<std::ops::Range<usize>> {
    let mut from = memchr::memmem::find(text, key)? + key.len();
    from += text[from..].iter().position(|b| !b.is_ascii_whitespace())?;
    let end = from + text[from..].iter().position(|b| matches!(b, b',' | b'}'))?;
    Some(from..from + text[from..end].trim_ascii_end().len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_all_lengths_are_read_when_they_are_whole() {
        for len in [0usize, 125, 126, 65_535, 65_536] {
            let mut bytes = vec![0xc1];
            match len {
                0..126 => bytes.push(u8::try_from(len).unwrap()),
                126..65_536 => bytes.extend([&[126][..], &u16::try_from(len).unwrap().to_be_bytes()].concat()),
                _ => bytes.extend([&[127][..], &(len as u64).to_be_bytes()].concat()),
            }
            bytes.resize(bytes.len() + len, b'x');
            assert!(Frame::read(&bytes[..bytes.len() - 1]).unwrap().is_none_or(|_| len == 0), "{len}");
            let frame = Frame::read(&bytes).unwrap().expect("it is whole");
            assert_eq!((frame.fin, frame.packed, frame.opcode), (true, true, 1));
            assert_eq!((frame.payload.len(), frame.len), (len, bytes.len()));
        }
        assert!(Frame::read(&[0x81, 0x80, 0, 0, 0, 0]).is_err(), "masked");
        assert!(Frame::read(&[0xa1, 0]).is_err(), "a reserved bit");
        assert!(Frame::read(&[0x81, 127, 255, 255, 255, 255, 255, 255, 255, 255]).is_err(), "endless");
    }

    #[test]
    fn values_are_found_behind_their_keys() {
        let found = |text: &'static [u8], key| value_of(text, key).map(|at| &text[at]);
        let text = br#"{"jsonrpc":"2.0","params":{"subscription":"0xa1","result":{"x":1}}}"#;
        assert_eq!(found(text, b"\"subscription\":"), Some(&b"\"0xa1\""[..]));
        assert_eq!(found(br#"{"id":1,"result": 17 }"#, b"\"result\":"), Some(&b"17"[..]));
        assert_eq!(found(br#"{"id":1,"error":{}}"#, b"\"result\":"), None);
    }
}
