//! The bytes of outgoing WebSocket frames and of notifications.
//!
//! Knows nothing of connections. Headers are written by tungstenite's codec. Pure.

use bytes::{BufMut, Bytes, BytesMut};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader};

use super::streams::SubId;
use crate::close::Reason;

const BEFORE_ID: &[u8] = br#"{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":""#;
const BEFORE_RESULT: &[u8] = br#"","result":"#;
pub(super) const AFTER_RESULT: &[u8] = b"}}";

/// Appends the header of an unmasked, final frame.
fn header(out: &mut BytesMut, opcode: OpCode, len: usize) {
    let header = FrameHeader { opcode, ..FrameHeader::default() };
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
    10 + BEFORE_ID.len() + size_of::<SubId>() + BEFORE_RESULT.len() + AFTER_RESULT.len();

/// Appends the notification of `result` for the subscription.
pub(super) fn notification(out: &mut BytesMut, id: &SubId, result: &[u8]) {
    out.reserve(AROUND_RESULT + result.len());
    before_result(out, id, result.len());
    out.put_slice(result);
    out.put_slice(AFTER_RESULT);
}

/// Appends what precedes a result of `len` bytes in its notification; [`AFTER_RESULT`] follows it.
pub(super) fn before_result(out: &mut BytesMut, id: &SubId, len: usize) {
    let parts = [BEFORE_ID, id.text().as_bytes(), BEFORE_RESULT];
    let around = parts.iter().map(|part| part.len()).sum::<usize>() + AFTER_RESULT.len();
    header(out, OpCode::Data(Data::Text), around + len);
    parts.iter().for_each(|part| out.put_slice(part));
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

/// Frames of one stream for one entry, one after the other, with where each ends.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) bytes: Bytes,
    pub(super) ends: Vec<(u32, u32)>,
}

/// Collects a [`Batch`].
#[derive(Debug, Default)]
pub(super) struct BatchBuilder {
    bytes: BytesMut,
    ends: Vec<(u32, u32)>,
}

impl BatchBuilder {
    /// Adds the notification of item `item`.
    pub(super) fn push(&mut self, item: u32, id: &SubId, result: &[u8]) {
        notification(&mut self.bytes, id, result);
        let end = u32::try_from(self.bytes.len()).expect("a node's message is bounded far below 4 GiB");
        self.ends.push((item, end));
    }

    pub(super) fn build(self) -> Batch {
        Batch { bytes: self.bytes.freeze(), ends: self.ends }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_is_in_geths_form() {
        let mut out = BytesMut::new();
        notification(&mut out, &SubId::new(&[0; 32], "c", b"newHeads", 0), br#"{"number":"0x1"}"#);
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
}
