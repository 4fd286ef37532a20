//! The bytes of outgoing WebSocket frames and of notifications.
//!
//! Knows nothing of connections. Headers are written by tungstenite's codec. Pure.

use bytes::{BufMut, Bytes, BytesMut};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader};

use super::streams::IdText;
use crate::close::Reason;
use crate::deflate::Deflater;

const BEFORE_ID: &[u8] = br#"{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":""#;
const BEFORE_RESULT: &[u8] = br#"","result":"#;
pub(super) const AFTER_RESULT: &[u8] = b"}}";

/// Appends the header of an unmasked, final frame.
fn header(out: &mut BytesMut, opcode: OpCode, len: usize) {
    put_header(out, &FrameHeader { opcode, ..FrameHeader::default() }, len);
}

fn put_header(out: &mut BytesMut, header: &FrameHeader, len: usize) {
    header.format(len as u64, &mut out.writer()).expect("writing to memory does not fail");
}

/// Appends a text frame.
pub(super) fn text(out: &mut BytesMut, payload: &[u8]) {
    out.reserve(payload.len() + 10);
    header(out, OpCode::Data(Data::Text), payload.len());
    out.put_slice(payload);
}

/// Bytes of a notification's frame that are not its result, at most.
pub(super) const AROUND_RESULT: usize =
    10 + BEFORE_ID.len() + size_of::<IdText>() + BEFORE_RESULT.len() + AFTER_RESULT.len();

/// Appends the notification of a result, given in parts, for the subscription.
pub(super) fn notification(out: &mut BytesMut, id: &IdText, result: &[Bytes]) {
    let len = result.iter().map(Bytes::len).sum();
    out.reserve(AROUND_RESULT + len);
    before_result(out, id, len);
    result.iter().for_each(|part| out.put_slice(part));
    out.put_slice(AFTER_RESULT);
}

/// Appends what precedes a result of `len` bytes in its notification; [`AFTER_RESULT`] follows it.
pub(super) fn before_result(out: &mut BytesMut, id: &IdText, len: usize) {
    let parts = [BEFORE_ID, id.as_str().as_bytes(), BEFORE_RESULT];
    let around = parts.iter().map(|part| part.len()).sum::<usize>() + AFTER_RESULT.len();
    header(out, OpCode::Data(Data::Text), around + len);
    parts.iter().for_each(|part| out.put_slice(part));
}

/// Replaces the text frame at the end of `out` by the compressed one, from `start` on, if that is shorter (RFC 7692 §6).
/// Returns how many bytes were given to the deflater.
fn compress(out: &mut BytesMut, start: usize, deflater: &mut Deflater) -> usize {
    // The header of an unmasked frame (RFC 6455 §5.2).
    let long = match out[start + 1] {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let payload = &out[start + 2 + long..];
    let given = payload.len();
    if let Some(bytes) = deflater.message(payload) {
        out.truncate(start);
        let opcode = OpCode::Data(Data::Text);
        put_header(out, &FrameHeader { rsv1: true, opcode, ..FrameHeader::default() }, bytes.len());
        out.put_slice(bytes);
    }
    given
}

/// Appends a pong (RFC 6455 §5.5.3).
pub(super) fn pong(out: &mut BytesMut, payload: &[u8]) {
    header(out, OpCode::Control(Control::Pong), payload.len());
    out.put_slice(payload);
}

/// An empty ping.
pub(super) fn ping() -> Bytes {
    let mut out = BytesMut::new();
    header(&mut out, OpCode::Control(Control::Ping), 0);
    out.freeze()
}

/// Appends the close frame for a reason, or an echo of the client's own code where the reason has none.
pub(super) fn close(out: &mut BytesMut, reason: Reason, echo: Option<u16>) {
    let frame = match (reason.code(), echo) {
        (Some(code), _) => Some(CloseFrame { code, reason: reason.text().into() }),
        (None, Some(code)) => Some(CloseFrame { code: code.into(), reason: "".into() }),
        (None, None) => None,
    };
    Frame::close(frame).format(&mut out.writer()).expect("writing to memory does not fail");
}

/// Frames one after the other, with where each ends.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) bytes: Bytes,
    pub(super) ends: Vec<u32>,
}

impl Batch {
    /// The frame with this number.
    pub(super) fn frame(&self, number: usize) -> &[u8] {
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        &self.bytes[start..self.ends[number] as usize]
    }
}

/// Collects a [`Batch`], or frames that are written at once.
#[derive(Debug, Default)]
pub(super) struct BatchBuilder {
    pub(super) bytes: BytesMut,
    pub(super) ends: Vec<u32>,
}

impl BatchBuilder {
    /// Adds a notification. Returns how many bytes there are.
    pub(super) fn push(&mut self, id: &IdText, result: &[Bytes]) -> usize {
        notification(&mut self.bytes, id, result);
        self.ends.push(u32::try_from(self.bytes.len()).expect("a node's message is bounded far below 4 GiB"));
        self.bytes.len()
    }

    /// Adds a frame that there is already. Returns how many bytes there are.
    pub(super) fn copy(&mut self, frame: &[u8]) -> usize {
        self.bytes.put_slice(frame);
        self.ends.push(u32::try_from(self.bytes.len()).expect("it is bounded as a batch is"));
        self.bytes.len()
    }

    /// Compresses the frame that was added last, if that makes it shorter. Returns how many bytes were given to the
    /// deflater.
    pub(super) fn compress_last(&mut self, deflater: &mut Deflater) -> usize {
        let Some(last) = self.ends.pop() else { return 0 };
        let start = self.ends.last().map_or(0, |end| *end as usize);
        debug_assert_eq!(last as usize, self.bytes.len());
        let given = compress(&mut self.bytes, start, deflater);
        self.ends.push(u32::try_from(self.bytes.len()).expect("it is no longer than it was"));
        given
    }

    /// Empties it; its memory is used again.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    pub(super) fn build(self) -> Batch {
        Batch { bytes: self.bytes.freeze(), ends: self.ends }
    }
}

/// How many frames are begun in the first `n` bytes, and where the last of those ends.
pub(super) fn begun(ends: &[u32], n: usize) -> (usize, usize) {
    let ended = ends.partition_point(|end| *end as usize <= n);
    let start = ended.checked_sub(1).map_or(0, |last| ends[last] as usize);
    if n > start { (ended + 1, ends[ended] as usize) } else { (ended, start) }
}

#[cfg(test)]
mod tests {
    use super::super::SubId;
    use super::*;

    #[test]
    fn a_notification_is_in_geths_form() {
        let mut out = BytesMut::new();
        let id = SubId::new(&[0; 32], "c", b"newHeads", 0).text();
        notification(&mut out, &id, &[Bytes::from_static(br#"{"number":"0x1"}"#)]);
        let text = std::str::from_utf8(&out[4..]).unwrap();
        assert_eq!((out[0], out[1]), (0x81, 126));
        assert_eq!(usize::from(u16::from_be_bytes([out[2], out[3]])), text.len());
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(value["method"], "eth_subscription");
        assert_eq!(value["params"]["result"]["number"], "0x1");
        assert!(text.starts_with(r#"{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":"0x"#));
    }

    #[test]
    fn control_frames() {
        assert_eq!(ping().as_ref(), [0x89, 0]);
        let mut out = BytesMut::new();
        pong(&mut out, b"ab");
        close(&mut out, Reason::Restart, None);
        close(&mut out, Reason::ClientClosed, Some(1000));
        close(&mut out, Reason::ClientClosed, None);
        assert_eq!(
            out.as_ref(),
            [&[0x8a, 2][..], b"ab", &[0x88, 9, 0x03, 0xf4], b"restart", &[0x88, 2, 0x03, 0xe8, 0x88, 0]].concat()
        );
    }

    #[test]
    fn what_is_begun_ends_with_its_frame() {
        for (n, want) in [(0, (0, 0)), (1, (1, 4)), (4, (1, 4)), (5, (2, 9)), (8, (2, 9)), (9, (2, 9))] {
            assert_eq!(begun(&[4, 9], n), want, "{n}");
        }
    }
}
