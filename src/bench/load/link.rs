//! One connection of the load: its handshake, and the messages out of its bytes.
//!
//! As cheap as can be: an idle link holds no buffer, and messages are read where they lie in the fleet's one buffer. Owns
//! the half of a frame that a read has left. Does not know what messages mean.

use std::io;

use memchr::memmem;

use super::frame::{Frame, MESSAGE_MAX, masked};
use super::transport::Transport;

/// The sample key of RFC 6455; the server's proof is not checked, its 101 is.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// Every message stands for itself, so that equal messages have equal bytes (RFC 7692 §7.1).
const DEFLATE: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
/// Longest answer to the upgrade.
const ANSWER_MAX: usize = 16 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Connecting,
    Upgrading,
    Open,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) transport: Transport,
    pub(super) stage: Stage,
    partial: Vec<u8>,
    /// The beginning of a message that comes in several frames.
    message: Vec<u8>,
    message_packed: bool,
}

/// What a link got.
pub(super) enum Heard<'a> {
    /// The upgrade is done.
    Open,
    /// A message; packed is one that is still compressed.
    Message { bytes: &'a [u8], packed: bool },
}

/// What a link asks for with its upgrade.
#[derive(Debug, Clone)]
pub(super) struct Upgrade {
    request: Vec<u8>,
    /// Compression is offered, and must be taken.
    deflate: bool,
}

impl Upgrade {
    pub(super) fn new(host: &str, path: &str, deflate: bool) -> Self {
        let offer = if deflate { format!("Sec-WebSocket-Extensions: {DEFLATE}\r\n") } else { String::new() };
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{offer}\r\n"
        );
        Self { request: request.into_bytes(), deflate }
    }

    /// Whether the server's answer, up to its empty line, is an upgrade as asked for.
    fn check(&self, answer: &[u8]) -> Result<(), String> {
        if !answer.starts_with(b"HTTP/1.1 101 ") {
            let line = String::from_utf8_lossy(answer.split(|b| *b == b'\r').next().unwrap_or_default());
            return Err(format!("no upgrade: {line}"));
        }
        let taken = memmem::find(&answer.to_ascii_lowercase(), b"permessage-deflate").is_some();
        match (self.deflate, taken) {
            (true, false) => Err("the server does not compress: it declined permessage-deflate".into()),
            (false, true) => Err("the server compresses without having been asked to".into()),
            _ => Ok(()),
        }
    }
}

impl Link {
    pub(super) fn new(transport: Transport) -> Self {
        Self { transport, stage: Stage::Connecting, partial: Vec::new(), message: Vec::new(), message_packed: false }
    }

    /// The connection stands: asks for the upgrade.
    pub(super) fn upgrade(&mut self, upgrade: &Upgrade) -> Result<(), String> {
        if let Some(error) = self.transport.socket.take_error().map_err(|e| e.to_string())? {
            return Err(format!("cannot connect: {error}"));
        }
        self.stage = Stage::Upgrading;
        self.send(&upgrade.request)
    }

    /// Sends a few bytes.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.transport.write_all(bytes).map_err(|e| format!("cannot send: {e}"))
    }

    /// Reads all there is and hands over what it means. Returns the number of bytes.
    pub(super) fn read(
        &mut self,
        buffer: &mut [u8],
        upgrade: &Upgrade,
        mut heard: impl FnMut(&mut Self, Heard<'_>) -> Result<(), String>,
    ) -> Result<usize, String> {
        let mut total = 0;
        loop {
            let n = match self.transport.read(buffer) {
                Ok(0) => return Err("the server ended the connection".into()),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(total),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(format!("the connection is lost: {e}")),
            };
            total += n;
            if self.partial.is_empty() {
                let used = self.consume(&buffer[..n], upgrade, &mut heard)?;
                self.partial.extend_from_slice(&buffer[used..n]);
            } else {
                let mut bytes = std::mem::take(&mut self.partial);
                bytes.extend_from_slice(&buffer[..n]);
                let used = self.consume(&bytes, upgrade, &mut heard)?;
                // Nothing left is the usual case, and gives the memory back.
                self.partial = bytes[used..].to_vec();
            }
            if n < buffer.len() && self.transport.short_read_is_last() {
                return Ok(total);
            }
        }
    }

    /// Takes whole answers and frames off the front; how many bytes those were.
    fn consume(
        &mut self,
        bytes: &[u8],
        upgrade: &Upgrade,
        heard: &mut impl FnMut(&mut Self, Heard<'_>) -> Result<(), String>,
    ) -> Result<usize, String> {
        let mut used = 0;
        if self.stage == Stage::Upgrading {
            match memmem::find(bytes, b"\r\n\r\n") {
                Some(end) => used = end + 4,
                None if bytes.len() > ANSWER_MAX => return Err("the answer to the upgrade has no end".into()),
                None => return Ok(0),
            }
            upgrade.check(&bytes[..used])?;
            self.stage = Stage::Open;
            heard(self, Heard::Open)?;
        }
        while let Some(frame) = Frame::read(&bytes[used..])? {
            used += frame.len;
            self.frame(&frame, heard)?;
        }
        Ok(used)
    }

    fn frame(
        &mut self,
        frame: &Frame<'_>,
        heard: &mut impl FnMut(&mut Self, Heard<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        match frame.opcode {
            0..=2 if frame.fin && self.message.is_empty() => {
                heard(self, Heard::Message { bytes: frame.payload, packed: frame.packed })
            }
            0..=2 => {
                // Only the first frame of a message says whether it is compressed.
                self.message_packed |= frame.packed;
                self.message.extend_from_slice(frame.payload);
                if self.message.len() > MESSAGE_MAX {
                    return Err("a message has no end".into());
                }
                if !frame.fin {
                    return Ok(());
                }
                let (whole, packed) = (std::mem::take(&mut self.message), std::mem::take(&mut self.message_packed));
                heard(self, Heard::Message { bytes: &whole, packed })
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_is_as_asked_for() {
        let (plain, packed) = (Upgrade::new("h:1", "/x", false), Upgrade::new("h:1", "/x", true));
        let (bare, with) = (&b"HTTP/1.1 101 S\r\n\r\n"[..], &b"HTTP/1.1 101 S\r\nX: Permessage-Deflate\r\n\r\n"[..]);
        assert!(plain.check(bare).is_ok() && packed.check(with).is_ok());
        assert!(plain.check(with).is_err_and(|why| why.contains("without having been asked")));
        assert!(packed.check(bare).is_err_and(|why| why.contains("declined")));
        assert_eq!(plain.check(b"HTTP/1.1 403 Forbidden\r\n\r\n"), Err("no upgrade: HTTP/1.1 403 Forbidden".into()));
        assert!(String::from_utf8(packed.request).unwrap().contains("permessage-deflate"));
    }
}
