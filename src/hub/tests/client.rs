//! A client that reads as it likes and judges every frame: the right one, of the right subscription, at its time.
//!
//! Owns the client's end of a connection. Each subscription must get what it is owed from its first entry on without
//! a hole, until it is ended; and over all subscriptions of a connection the frames must come in the journal's order.

use std::collections::VecDeque;
use std::fmt;
use std::io::{ErrorKind, Read, Write};

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::Value;

use super::model::{At, Model, Want};
use crate::deflate::inflated_by_another;
use crate::hub::ConnKey;

/// Bytes that a client takes when it reads.
pub(super) const APPETITES: [usize; 5] = [0, 0, 700, 9_000, usize::MAX];

/// A connected pair with little room between: the shard's end, and the client's.
pub(super) fn pair() -> (std::net::TcpStream, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(8_192).unwrap();
    socket.connect(&listener.local_addr().unwrap().into()).unwrap();
    let theirs = std::net::TcpStream::from(socket);
    theirs.set_nonblocking(true).unwrap();
    let (ours, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    ours.set_nodelay(true).unwrap();
    socket2::SockRef::from(&ours).set_send_buffer_size(4_608).unwrap();
    (ours, theirs)
}

/// An answer that is on its way.
#[derive(Debug)]
enum Answer {
    Subscribed(usize),
    Unsubscribed(usize),
    Other(usize),
}

#[derive(Debug)]
struct Sub {
    id: String,
    want: Want,
    since: u64,
    at: At,
    /// Its answer was read.
    answered: bool,
    /// It was asked to end.
    ending: bool,
    /// The answer to that was read.
    ended: bool,
    event: u64,
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) key: ConnKey,
    pub(super) appetite: usize,
    /// Code of the close frame that must come.
    pub(super) closed_by: Option<u16>,
    /// It negotiated compression.
    pub(super) compressed: bool,
    /// Notifications that came compressed, and as they are.
    pub(super) frames: (usize, usize),
    socket: std::net::TcpStream,
    /// The shard's end, to widen it.
    door: std::net::TcpStream,
    bytes: Vec<u8>,
    subs: Vec<Sub>,
    answers: VecDeque<Answer>,
    /// Place of the last frame of the chain: entry, item, number of the subscription.
    last: Option<(At, usize)>,
    closed: Option<u16>,
    eof: bool,
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, last, closed, closed_by, answers, eof, bytes, .. } = self;
        write!(
            f,
            "{key:?} at {last:?}, {} bytes, {answers:?}, close {closed:?} of {closed_by:?}, eof {eof}",
            bytes.len()
        )
    }
}

impl Client {
    pub(super) fn new(
        key: ConnKey,
        compressed: bool,
        (door, socket): (std::net::TcpStream, std::net::TcpStream),
    ) -> Self {
        Self {
            key,
            appetite: 700,
            closed_by: None,
            compressed,
            frames: (0, 0),
            socket,
            door,
            bytes: Vec::new(),
            subs: Vec::new(),
            answers: VecDeque::new(),
            last: None,
            closed: None,
            eof: false,
        }
    }

    /// From now on it reads all there is, through a wider door.
    pub(super) fn hunger(&mut self) {
        self.appetite = usize::MAX;
        socket2::SockRef::from(&self.socket).set_recv_buffer_size(1 << 20).unwrap();
        socket2::SockRef::from(&self.door).set_send_buffer_size(1 << 20).unwrap();
    }

    /// Whether the shard's end takes no more bytes for good.
    pub(super) fn is_cut_off(&self) -> bool {
        (&self.door).write(b"x").is_err_and(|e| e.kind() == ErrorKind::BrokenPipe)
    }

    /// It was subscribed; the text of the answer.
    pub(super) fn subscribed(&mut self, id: &str, want: Want, since: u64) -> String {
        assert!(self.subs.iter().all(|sub| sub.id != id), "an id is given once on a connection");
        let (id, at) = (id.to_owned(), (since, 0));
        self.subs.push(Sub { id, want, since, at, answered: false, ending: false, ended: false, event: 0 });
        self.expect(Answer::Subscribed(self.subs.len() - 1), 0)
    }

    pub(super) fn unsubscribed(&mut self, sub: usize) -> String {
        self.subs[sub].ending = true;
        self.expect(Answer::Unsubscribed(sub), 0)
    }

    /// An answer of about this size to some call.
    pub(super) fn answered(&mut self, size: usize) -> String {
        self.expect(Answer::Other(size), size)
    }

    fn expect(&mut self, answer: Answer, size: usize) -> String {
        // Who is being closed gets no more answers.
        if self.closed_by.is_none() {
            self.answers.push_back(answer);
        }
        format!(r#"{{"answer":"{}"}}"#, "a".repeat(size))
    }

    pub(super) fn id(&self, sub: usize) -> &str {
        &self.subs[sub].id
    }

    pub(super) fn any_live(&self, rng: &mut StdRng) -> Option<usize> {
        let live: Vec<usize> = (0..self.subs.len()).filter(|n| !self.subs[*n].ending).collect();
        (!live.is_empty() && self.closed_by.is_none()).then(|| live[rng.random_range(0..live.len())])
    }

    pub(super) fn is_owed_the_chain(&self) -> bool {
        self.subs.iter().any(|sub| !sub.ending && sub.want != Want::Feed)
    }

    /// Whether all that it is owed has come.
    pub(super) fn has_all(&self, model: &Model) -> bool {
        let done = |sub: &Sub| sub.ending || model.next(sub.want, sub.since, sub.at).is_none();
        match self.closed_by {
            Some(_) => self.eof && self.closed == self.closed_by,
            None => self.answers.is_empty() && self.bytes.is_empty() && self.subs.iter().all(done),
        }
    }

    /// Reads what it likes and judges it.
    pub(super) fn read(&mut self, model: &Model) {
        let mut left = self.appetite;
        let mut piece = [0; 4_096];
        while left > 0 && !self.eof {
            let most = left.min(piece.len());
            match self.socket.read(&mut piece[..most]) {
                Ok(0) => self.eof = true,
                Ok(n) => {
                    left -= n;
                    self.bytes.extend_from_slice(&piece[..n]);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => panic!("{self}: {e}"),
            }
        }
        let bytes = std::mem::take(&mut self.bytes);
        let mut rest = bytes.as_slice();
        while let Some((first, payload)) = cut(&mut rest) {
            assert!(self.closed.is_none(), "{self}: a frame after the close frame");
            match first {
                1 => {
                    self.frames.1 += usize::from(!payload.starts_with(ANSWER.as_bytes()));
                    self.text(std::str::from_utf8(payload).unwrap(), model);
                }
                COMPRESSED_TEXT if self.compressed => {
                    let text = inflated_by_another(payload);
                    assert!(payload.len() < text.len(), "{self}: compressed for nothing");
                    self.frames.0 += 1;
                    self.text(std::str::from_utf8(&text).unwrap(), model);
                }
                8 => self.closed = Some(u16::from_be_bytes([payload[0], payload[1]])),
                9 => {}
                other => panic!("{self}: opcode {other}"),
            }
        }
        self.bytes = rest.to_vec();
        assert!(!self.eof || (self.bytes.is_empty() && self.closed.is_some()), "{self}: it ends in a frame");
        assert!(self.closed.is_none() || self.closed == self.closed_by, "{self}: an unexpected close");
    }

    fn text(&mut self, text: &str, model: &Model) {
        if text.starts_with(ANSWER) {
            return self.take_answer(text);
        }
        let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{self}: {e}: {text}"));
        let id = value["params"]["subscription"].as_str().unwrap();
        let n =
            self.subs.iter().position(|sub| sub.id == id).unwrap_or_else(|| panic!("{self}: never subscribed {id}"));
        let result = text.split_once(r#","result":"#).unwrap().1.strip_suffix("}}").unwrap();
        let sub = &self.subs[n];
        assert!(sub.answered && !sub.ended, "{self}: a notification outside of its subscription's time");
        if sub.want == Want::Feed {
            let event = result.trim().parse().unwrap();
            assert!(event > sub.event, "{self}: event {event} after {}", sub.event);
            self.subs[n].event = event;
            return;
        }
        let owed = model.next(sub.want, sub.since, sub.at);
        let (at, json) = owed.unwrap_or_else(|| panic!("{self}: {result:.60} is not owed to {sub:?}"));
        assert!(json == result, "{self}: got {result:.60}, owed is {json:.60} at {at:?} to {sub:?}");
        assert!(self.last.is_none_or(|last| last < (at, n)), "{self}: {at:?} of {n} is out of order");
        self.last = Some((at, n));
        self.subs[n].at = (at.0, at.1 + 1);
    }

    fn take_answer(&mut self, text: &str) {
        let answer = self.answers.pop_front().unwrap_or_else(|| panic!("{self}: an answer too many"));
        let size = text.len() - r#"{"answer":""}"#.len();
        match answer {
            Answer::Subscribed(n) => self.subs[n].answered = true,
            Answer::Unsubscribed(n) => self.subs[n].ended = true,
            Answer::Other(want) => assert_eq!(size, want),
        }
    }
}

/// What answers begin with.
const ANSWER: &str = r#"{"answer""#;

/// The first bit behind FIN (RFC 7692 §6), and the opcode of text.
const COMPRESSED_TEXT: u8 = 0x41;

/// Cuts the next whole frame off: its opcode with the bit for compression, and its payload.
fn cut<'a>(bytes: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    assert_eq!((first & 0xb0, second & 0x80), (0x80, 0), "a server's frame is final and unmasked");
    let long = match second {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let length = bytes.get(2..2 + long)?;
    let length = if long == 0 { usize::from(second) } else { length.iter().fold(0, |n, b| n << 8 | usize::from(*b)) };
    let payload = bytes.get(2 + long..2 + long + length)?;
    *bytes = &bytes[2 + long + length..];
    Some((first & 0x4f, payload))
}
