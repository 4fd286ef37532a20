//! From a client's bytes to whole messages, by RFC 6455 and within bounds.
//!
//! Holds bytes only while a message is incomplete. Never answers anything: the session decides. Pure.

use std::io::Cursor;

use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use crate::close::Reason;
use crate::deflate;

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A whole message, text or binary; valid UTF-8 if it was text.
    Message(Vec<u8>),
    /// A whole message that is compressed. What is in a few bytes may be large: it is inflated when its turn comes.
    Deflated(Deflated),
    /// A ping with its payload.
    Ping(Vec<u8>),
    /// A pong with its payload.
    Pong(Vec<u8>),
    /// The client closes, with its code.
    Close(Option<u16>),
    /// The connection must end for this reason; nothing follows.
    Broken(Reason),
}

/// A whole message, text or binary, as it was compressed.
#[derive(Debug, PartialEq, Eq)]
pub struct Deflated {
    text: bool,
    bytes: Vec<u8>,
}

impl Deflated {
    /// The message, of at most so many bytes; valid UTF-8 if it was text.
    pub fn inflate(self, most: usize) -> Result<Vec<u8>, Reason> {
        match deflate::inflate(&self.bytes, most) {
            Ok(bytes) if self.text && std::str::from_utf8(&bytes).is_err() => Err(Reason::NotUtf8),
            Ok(bytes) => Ok(bytes),
            Err(deflate::Fault::TooBig) => Err(Reason::TooBig),
            Err(deflate::Fault::Corrupt) => Err(Reason::Corrupt),
        }
    }
}

/// Bounds of a message.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Most bytes of a message.
    pub message: usize,
    /// Most frames of a message.
    pub fragments: usize,
}

/// A message under way.
#[derive(Debug)]
struct Partial {
    text: bool,
    deflated: bool,
    bytes: Vec<u8>,
    fragments: usize,
}

/// The reading side of one connection.
#[derive(Debug)]
pub struct Reader {
    bounds: Bounds,
    /// Messages may be compressed (RFC 7692): the first bit behind FIN says so on the first frame of one.
    deflate: bool,
    /// Bytes of a frame that is not whole yet.
    held: Vec<u8>,
    partial: Option<Partial>,
    /// A message became whole in the last piece.
    completed: bool,
    ended: bool,
}

/// A frame as it was cut out of the bytes.
struct Frame {
    header: FrameHeader,
    payload: Vec<u8>,
}

impl Reader {
    /// Nothing was read yet. `deflate` is whether permessage-deflate was negotiated.
    #[must_use]
    pub fn new(bounds: Bounds, deflate: bool) -> Self {
        Self { bounds, deflate, held: Vec::new(), partial: None, completed: false, ended: false }
    }

    /// Whether a message has begun and is not whole.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        !self.held.is_empty() || self.partial.is_some()
    }

    /// Whether the message that is not whole had begun before the last piece came.
    #[must_use]
    pub fn is_same_partial(&self) -> bool {
        self.is_partial() && !self.completed
    }

    /// Takes bytes in and returns what they complete. After [`Event::Close`] or [`Event::Broken`] nothing more comes.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Event> {
        self.completed = false;
        let mut held = std::mem::take(&mut self.held);
        if held.is_empty() {
            let (events, used) = self.read(bytes);
            held.extend_from_slice(&bytes[used..]);
            self.held = held;
            return events;
        }
        held.extend_from_slice(bytes);
        let (events, used) = self.read(&held);
        // A frame that is not whole yet stays where it is: many small pieces cost no copy each.
        if used > 0 {
            held = held.split_off(used);
        }
        self.held = held;
        events
    }

    /// Reads whole frames; returns what they complete, and how many bytes need not be kept.
    fn read(&mut self, bytes: &[u8]) -> (Vec<Event>, usize) {
        let mut events = Vec::new();
        let mut rest = bytes;
        while !self.ended {
            match self.cut(&mut rest) {
                Ok(Some(frame)) => events.extend(self.frame(frame)),
                Ok(None) => return (events, bytes.len() - rest.len()),
                Err(reason) => events.push(Event::Broken(reason)),
            }
            self.ended = matches!(events.last(), Some(Event::Close(_) | Event::Broken(_)));
        }
        (events, bytes.len())
    }

    /// Cuts the next whole frame off `rest`. Refuses by the header alone what it can.
    fn cut(&self, rest: &mut &[u8]) -> Result<Option<Frame>, Reason> {
        let mut cursor = Cursor::new(*rest);
        let Some((header, length)) = FrameHeader::parse(&mut cursor).map_err(|_| Reason::Protocol)? else {
            return Ok(None);
        };
        let mask = header.mask.ok_or(Reason::Protocol)?;
        let begins = matches!(header.opcode, OpCode::Data(Data::Text | Data::Binary));
        if (header.rsv1 && !(self.deflate && begins)) || header.rsv2 || header.rsv3 {
            return Err(Reason::Protocol);
        }
        let control = matches!(header.opcode, OpCode::Control(_));
        if control && (length > 125 || !header.is_final) {
            return Err(Reason::Protocol);
        }
        let so_far = if control { 0 } else { self.partial.as_ref().map_or(0, |p| p.bytes.len()) };
        let length = usize::try_from(length).map_err(|_| Reason::TooBig)?;
        if length.saturating_add(so_far) > self.bounds.message.max(125) {
            return Err(Reason::TooBig);
        }
        let start = usize::try_from(cursor.position()).expect("a header is short");
        let Some(masked) = rest.get(start..start + length) else { return Ok(None) };
        let payload = masked.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        *rest = &rest[start + length..];
        Ok(Some(Frame { header, payload }))
    }

    fn frame(&mut self, Frame { header, payload }: Frame) -> Option<Event> {
        match header.opcode {
            OpCode::Control(Control::Ping) => Some(Event::Ping(payload)),
            OpCode::Control(Control::Pong) => Some(Event::Pong(payload)),
            OpCode::Control(Control::Close) => Some(close(&payload)),
            OpCode::Data(Data::Continue) => {
                let Some(partial) = &mut self.partial else { return Some(Event::Broken(Reason::Protocol)) };
                partial.bytes.extend_from_slice(&payload);
                partial.fragments += 1;
                self.fragment(header.is_final)
            }
            OpCode::Data(Data::Text | Data::Binary) if self.partial.is_none() => {
                let text = header.opcode == OpCode::Data(Data::Text);
                self.partial = Some(Partial { text, deflated: header.rsv1, bytes: payload, fragments: 1 });
                self.fragment(header.is_final)
            }
            OpCode::Data(_) | OpCode::Control(_) => Some(Event::Broken(Reason::Protocol)),
        }
    }

    fn fragment(&mut self, last: bool) -> Option<Event> {
        let partial = self.partial.as_ref().expect("a fragment belongs to a message");
        if partial.fragments > self.bounds.fragments {
            return Some(Event::Broken(Reason::Fragments));
        }
        if !last {
            return None;
        }
        let Partial { text, deflated, bytes, .. } = self.partial.take()?;
        self.completed = true;
        if deflated {
            return Some(Event::Deflated(Deflated { text, bytes }));
        }
        if text && std::str::from_utf8(&bytes).is_err() {
            return Some(Event::Broken(Reason::NotUtf8));
        }
        Some(Event::Message(bytes))
    }
}

/// Reads the payload of a close frame (RFC 6455 §5.5.1 and §7.4).
fn close(payload: &[u8]) -> Event {
    match payload {
        [] => Event::Close(None),
        [_] => Event::Broken(Reason::Protocol),
        [high, low, text @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !CloseCode::from(code).is_allowed() {
                Event::Broken(Reason::Protocol)
            } else if std::str::from_utf8(text).is_err() {
                Event::Broken(Reason::NotUtf8)
            } else {
                Event::Close(Some(code))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds { message: 300, fragments: 4 };

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut out = vec![first];
        match payload.len() {
            n @ 0..=125 => out.push(0x80 | u8::try_from(n).unwrap()),
            n => {
                out.push(0x80 | 0x7e);
                out.extend(u16::try_from(n).unwrap().to_be_bytes());
            }
        }
        out.extend(mask);
        out.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, k)| b ^ k));
        out
    }

    fn read(bytes: &[u8]) -> Vec<Event> {
        Reader::new(BOUNDS, false).feed(bytes)
    }

    #[test]
    fn messages_whole_and_in_fragments_with_control_frames_between() {
        let bytes = [
            frame(0x81, b"one"),
            frame(0x01, b"t"),
            frame(0x89, b"p"),
            frame(0x00, b"w"),
            frame(0x80, b"o"),
            frame(0x82, &[0xff]),
        ]
        .concat();
        let want = vec![
            Event::Message(b"one".to_vec()),
            Event::Ping(b"p".to_vec()),
            Event::Message(b"two".to_vec()),
            Event::Message(vec![0xff]),
        ];
        assert_eq!(read(&bytes), want);
    }

    #[test]
    fn what_breaks_the_protocol_names_its_reason() {
        let huge = [0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        for (bytes, reason) in [
            (vec![0x81, 1, b'x'], Reason::Protocol),
            (frame(0xc1, b"rsv"), Reason::Protocol),
            (frame(0x83, b"reserved opcode"), Reason::Protocol),
            (frame(0x09, b"fragmented ping"), Reason::Protocol),
            (frame(0x89, &[0; 126]), Reason::Protocol),
            (frame(0x80, b"nothing to continue"), Reason::Protocol),
            ([frame(0x01, b"a"), frame(0x81, b"b")].concat(), Reason::Protocol),
            (frame(0x81, &[0xff]), Reason::NotUtf8),
            (frame(0x81, &[b'x'; 301]), Reason::TooBig),
            ([frame(0x01, &[b'x'; 200]), frame(0x80, &[b'x'; 101])].concat(), Reason::TooBig),
            (huge.to_vec(), Reason::TooBig),
            (
                [frame(0x01, b"a"), frame(0x00, b"a"), frame(0x00, b"a"), frame(0x00, b"a"), frame(0x80, b"a")]
                    .concat(),
                Reason::Fragments,
            ),
            (frame(0x88, &[3]), Reason::Protocol),
            (frame(0x88, &[0x03, 0xed]), Reason::Protocol),
        ] {
            assert_eq!(read(&bytes).pop(), Some(Event::Broken(reason)), "{bytes:?}");
        }
    }

    #[test]
    fn a_partial_message_is_told_from_the_one_before_it() {
        let two = [frame(0x81, b"one"), frame(0x81, b"two")].concat();
        let mut reader = Reader::new(BOUNDS, false);
        reader.feed(&two[..3]);
        reader.feed(&two[3..6]);
        assert!(reader.is_same_partial());
        reader.feed(&two[6..12]);
        assert!(reader.is_partial() && !reader.is_same_partial(), "the first is whole, the second has begun");
        reader.feed(&two[12..]);
        assert!(!reader.is_partial());
    }

    #[test]
    fn nothing_follows_a_close() {
        let bytes = [frame(0x88, &[0x03, 0xe8]), frame(0x81, b"late")].concat();
        let mut reader = Reader::new(BOUNDS, false);
        assert_eq!(reader.feed(&bytes), vec![Event::Close(Some(1000))]);
        assert_eq!(reader.feed(&frame(0x81, b"later")), vec![]);
    }

    /// What comes of bytes where compression was negotiated, as the session takes it.
    fn read_compressed(bytes: &[u8]) -> Vec<Event> {
        let inflated = |event| match event {
            Event::Deflated(message) => message.inflate(BOUNDS.message).map_or_else(Event::Broken, Event::Message),
            other => other,
        };
        Reader::new(BOUNDS, true).feed(bytes).into_iter().map(inflated).collect()
    }

    fn compressed(message: &[u8]) -> Vec<u8> {
        deflate::Deflater::default().message(message).expect("it is worth it").to_vec()
    }

    #[test]
    fn compressed_messages_whole_and_in_fragments_with_control_frames_between() {
        let text = [b'z'; 300];
        let bytes = compressed(&text);
        let (head, tail) = bytes.split_at(3);
        let frames = [
            frame(0xc1, &bytes),
            frame(0x41, head),
            frame(0x89, b"p"),
            frame(0x00, &tail[..1]),
            frame(0x8a, b""),
            frame(0x80, &tail[1..]),
            frame(0x81, b"plain"),
            frame(0xc2, &bytes),
        ]
        .concat();
        let message = || Event::Message(text.to_vec());
        let between = [Event::Ping(b"p".to_vec()), Event::Pong(Vec::new())];
        let plain = Event::Message(b"plain".to_vec());
        let want: Vec<Event> = [message()].into_iter().chain(between).chain([message(), plain, message()]).collect();
        assert_eq!(read_compressed(&frames), want);
        let mut reader = Reader::new(BOUNDS, true);
        let pieces = frames.iter().flat_map(|byte| reader.feed(&[*byte]));
        assert_eq!(pieces.count(), want.len());
    }

    #[test]
    fn what_breaks_the_rules_of_compression_names_its_reason() {
        let text = compressed(&[b'z'; 300]);
        for (bytes, reason) in [
            (frame(0xc1, &compressed(&[b'z'; 301])), Reason::TooBig),
            (frame(0xc1, &compressed(&vec![b' '; 1 << 20])[..300]), Reason::TooBig),
            (frame(0xc1, &[0xff; 20]), Reason::Corrupt),
            (frame(0xc1, &text[..text.len() - 3]), Reason::Corrupt),
            (frame(0xc1, &[]), Reason::Corrupt),
            (frame(0xc1, &compressed(&[0xff; 300])), Reason::NotUtf8),
            (frame(0xc9, b"a ping"), Reason::Protocol),
            (frame(0xc8, &[3, 0xe8]), Reason::Protocol),
            (frame(0xa1, b"another bit"), Reason::Protocol),
            (frame(0xe1, &text), Reason::Protocol),
            ([frame(0x41, &text[..2]), frame(0xc0, &text[2..])].concat(), Reason::Protocol),
            ([frame(0x01, b"plain"), frame(0xc0, &text)].concat(), Reason::Protocol),
        ] {
            assert_eq!(read_compressed(&bytes).pop(), Some(Event::Broken(reason)), "{bytes:?}");
        }
        let unbidden = frame(0xc1, &text);
        assert_eq!(read(&unbidden), [Event::Broken(Reason::Protocol)], "it was not negotiated");
    }

    proptest! {
        /// However the bytes are cut, the same events come out.
        #[test]
        fn cuts_do_not_matter(payloads in prop::collection::vec("[a-z]{0,140}", 1..5), cuts in prop::collection::vec(0usize..600, 0..6)) {
            let bytes: Vec<u8> = payloads.iter().flat_map(|p| frame(0x81, p.as_bytes())).collect();
            let whole = read(&bytes);
            prop_assert_eq!(whole.len(), payloads.len());
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c % (bytes.len() + 1)).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let mut reader = Reader::new(BOUNDS, false);
            let pieces: Vec<Event> = cuts.windows(2).flat_map(|w| reader.feed(&bytes[w[0]..w[1]])).collect();
            prop_assert_eq!(pieces, whole);
            prop_assert!(!reader.is_partial());
        }

        /// Any bytes at all: no panic, and never more held than a message and a frame.
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut reader = Reader::new(BOUNDS, false);
            for piece in bytes.chunks(7) {
                reader.feed(piece);
                prop_assert!(reader.held.len() <= BOUNDS.message + 32);
            }
        }
    }
}
