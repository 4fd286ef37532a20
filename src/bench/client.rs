//! One client of the load: its socket, its handshake, and the frames out of its bytes.
//!
//! As cheap as can be: an idle client holds no buffer, and frames are read where they lie in the fleet's one buffer. Owns
//! the half of a frame that a read has left. Does not judge events.

use std::io::{self, Read, Write};

use memchr::memmem;
use mio::net::TcpStream;

use super::stream::Place;

/// The sample key of RFC 6455; the server's proof is not checked, its 101 is.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// Longest answer to the upgrade.
const ANSWER_MAX: usize = 16 << 10;
/// Longest message.
const MESSAGE_MAX: usize = 64 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Connecting,
    Upgrading,
    Subscribing,
    Live,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) socket: TcpStream,
    pub(super) stage: Stage,
    pub(super) place: Place,
    /// Its subscription's id, as the server writes it, with quotes where it has them.
    id: Box<[u8]>,
    partial: Vec<u8>,
    /// The beginning of a message that comes in several frames.
    message: Vec<u8>,
}

/// What a client got.
pub(super) enum Got<'a> {
    /// It may have events from now on.
    Subscribed,
    /// The `result` of a notification.
    Event(&'a [u8]),
}

impl Client {
    pub(super) fn new(socket: TcpStream) -> Self {
        let id = Box::default();
        Self { socket, stage: Stage::Connecting, place: None, id, partial: Vec::new(), message: Vec::new() }
    }

    /// The connection stands: asks for the upgrade.
    pub(super) fn upgrade(&mut self, host: &str, path: &str) -> Result<(), String> {
        if let Some(error) = self.socket.take_error().map_err(|e| e.to_string())? {
            return Err(format!("cannot connect: {error}"));
        }
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
        );
        self.stage = Stage::Upgrading;
        self.send(request.as_bytes())
    }

    /// Sends a few bytes, which a socket that sends next to nothing always takes.
    fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.socket.write_all(bytes).map_err(|e| format!("cannot send: {e}"))
    }

    /// Reads all there is and hands over what it means. `subscribe` is the request that follows the upgrade.
    pub(super) fn read(
        &mut self,
        buffer: &mut [u8],
        subscribe: &[u8],
        mut got: impl FnMut(&mut Place, Got<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        loop {
            let n = match self.socket.read(buffer) {
                Ok(0) => return Err("the server ended the connection".into()),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(format!("the connection is lost: {e}")),
            };
            if self.partial.is_empty() {
                let used = self.consume(&buffer[..n], subscribe, &mut got)?;
                self.partial.extend_from_slice(&buffer[used..n]);
            } else {
                let mut bytes = std::mem::take(&mut self.partial);
                bytes.extend_from_slice(&buffer[..n]);
                let used = self.consume(&bytes, subscribe, &mut got)?;
                // Nothing left is the usual case, and gives the memory back.
                self.partial = bytes[used..].to_vec();
            }
            // A short read has emptied the socket: the next bytes are a new edge (epoll(7)).
            if n < buffer.len() {
                return Ok(());
            }
        }
    }

    /// Takes whole answers and frames off the front; how many bytes those were.
    fn consume(
        &mut self,
        bytes: &[u8],
        subscribe: &[u8],
        got: &mut impl FnMut(&mut Place, Got<'_>) -> Result<(), String>,
    ) -> Result<usize, String> {
        let mut used = 0;
        if self.stage == Stage::Upgrading {
            let Some(end) = memmem::find(bytes, b"\r\n\r\n") else {
                return if bytes.len() > ANSWER_MAX {
                    Err("the answer to the upgrade has no end".into())
                } else {
                    Ok(0)
                };
            };
            if !bytes.starts_with(b"HTTP/1.1 101 ") {
                let line = String::from_utf8_lossy(bytes.split(|b| *b == b'\r').next().unwrap_or_default());
                return Err(format!("no upgrade: {line}"));
            }
            used = end + 4;
            self.stage = Stage::Subscribing;
            self.send(subscribe)?;
        }
        while let Some(frame) = Frame::read(&bytes[used..])? {
            used += frame.len;
            self.frame(&frame, got)?;
        }
        Ok(used)
    }

    fn frame(
        &mut self,
        frame: &Frame<'_>,
        got: &mut impl FnMut(&mut Place, Got<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        match frame.opcode {
            0..=2 if frame.fin && self.message.is_empty() => self.message(frame.payload, got),
            0..=2 => {
                self.message.extend_from_slice(frame.payload);
                if self.message.len() > MESSAGE_MAX {
                    return Err("a message has no end".into());
                }
                if !frame.fin {
                    return Ok(());
                }
                let whole = std::mem::take(&mut self.message);
                self.message(&whole, got)
            }
            8 => {
                let code = frame.payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                let reason = String::from_utf8_lossy(frame.payload.get(2..).unwrap_or_default()).into_owned();
                Err(format!("closed with {code} {reason}"))
            }
            9 => self.send(&masked(10, frame.payload)),
            _ => Ok(()),
        }
    }

    fn message(
        &mut self,
        text: &[u8],
        got: &mut impl FnMut(&mut Place, Got<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        if self.stage == Stage::Subscribing {
            let id = value_of(text, b"\"result\":").ok_or_else(|| refused(text))?;
            self.id = id.into();
            self.stage = Stage::Live;
            return got(&mut self.place, Got::Subscribed);
        }
        let (Some(id), Some(at)) = (value_of(text, b"\"subscription\":"), memmem::find(text, b"\"result\":")) else {
            return Err(format!("not a notification: {}", String::from_utf8_lossy(text)));
        };
        if *id != *self.id {
            return Err("a notification for another subscription".into());
        }
        // What follows the result is the same for all clients of a server, so it may count as part of it.
        let result = text[at + b"\"result\":".len()..].trim_ascii_end();
        let result = result.strip_suffix(b"}}").unwrap_or(result);
        got(&mut self.place, Got::Event(result))
    }
}

fn refused(text: &[u8]) -> String {
    format!("the subscription was refused: {}", String::from_utf8_lossy(text))
}

/// The string or number after a key.
fn value_of<'a>(text: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let value = text[memmem::find(text, key)? + key.len()..].trim_ascii_start();
    let end = value.iter().position(|b| matches!(b, b',' | b'}'))?;
    Some(value[..end].trim_ascii_end())
}

/// A frame from a server (RFC 6455 §5.2).
struct Frame<'a> {
    fin: bool,
    opcode: u8,
    payload: &'a [u8],
    /// With its header, in bytes.
    len: usize,
}

impl<'a> Frame<'a> {
    /// The frame at the front, if it is whole.
    fn read(bytes: &'a [u8]) -> Result<Option<Self>, String> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        if second & 0x80 != 0 || first & 0x70 != 0 {
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
        Ok(payload.map(|payload| Self { fin: first & 0x80 != 0, opcode: first & 0x0f, payload, len: header + size }))
    }
}

/// A frame to a server. Its mask is zero, which leaves the payload as it is; a mask protects proxies from what a browser
/// is made to send (RFC 6455 §10.3), and here is neither.
pub(super) fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_all_lengths_are_read_when_they_are_whole() {
        for len in [0usize, 125, 126, 65_535, 65_536] {
            let mut bytes = vec![0x81];
            match len {
                0..126 => bytes.push(u8::try_from(len).unwrap()),
                126..65_536 => bytes.extend([&[126][..], &u16::try_from(len).unwrap().to_be_bytes()].concat()),
                _ => bytes.extend([&[127][..], &(len as u64).to_be_bytes()].concat()),
            }
            bytes.resize(bytes.len() + len, b'x');
            assert!(Frame::read(&bytes[..bytes.len() - 1]).unwrap().is_none_or(|_| len == 0), "{len}");
            let frame = Frame::read(&bytes).unwrap().expect("it is whole");
            assert_eq!((frame.fin, frame.opcode, frame.payload.len(), frame.len), (true, 1, len, bytes.len()));
        }
        assert!(Frame::read(&[0x81, 0x80, 0, 0, 0, 0]).is_err(), "masked");
        assert!(Frame::read(&[0x81, 127, 255, 255, 255, 255, 255, 255, 255, 255]).is_err(), "endless");
    }

    #[test]
    fn values_are_found_behind_their_keys() {
        let text = br#"{"jsonrpc":"2.0","params":{"subscription":"0xa1","result":{"x":1}}}"#;
        assert_eq!(value_of(text, b"\"subscription\":"), Some(&b"\"0xa1\""[..]));
        assert_eq!(value_of(br#"{"id":1,"result": 17}"#, b"\"result\":"), Some(&b"17"[..]));
        assert_eq!(value_of(br#"{"id":1,"error":{}}"#, b"\"result\":"), None);
    }
}
