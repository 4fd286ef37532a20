//! The closed table of reasons for which a client's connection ends.
//!
//! Every end of a connection has one of these, in the close frame, in the metric label and in the log. Codes are
//! those of RFC 6455 §7.4 and its registry. 1000 and 1001 are never sent of our own accord: web3.js and web3.py
//! take them for a normal end and stay away for good.

use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The gateway restarts or drains.
    Restart,
    /// Events were lost that this client was owed; it must come back and start anew.
    Gap,
    /// The client did not keep up with its subscriptions.
    SlowConsumer,
    /// More answers are held for this client than the bound allows.
    OutboxFull,
    /// The socket took no byte for too long.
    WriteStalled,
    /// Too many connections, or too many new ones, from this address.
    AddressLimit,
    /// No pong came in time.
    PongTimeout,
    /// A message or frame did not arrive whole in time.
    MessageTimeout,
    /// A message in too many fragments.
    Fragments,
    /// The peer broke RFC 6455.
    Protocol,
    /// A message was not UTF-8.
    NotUtf8,
    /// A compressed message could not be inflated.
    Corrupt,
    /// A message was larger than the bound.
    TooBig,
    /// The client closed; its code is echoed.
    ClientClosed,
    /// The connection was lost without a close frame.
    PeerGone,
}

impl Reason {
    /// All of them, for the metrics' label set.
    pub const ALL: [Self; 15] = [
        Self::Restart,
        Self::Gap,
        Self::SlowConsumer,
        Self::OutboxFull,
        Self::WriteStalled,
        Self::AddressLimit,
        Self::PongTimeout,
        Self::MessageTimeout,
        Self::Fragments,
        Self::Protocol,
        Self::NotUtf8,
        Self::Corrupt,
        Self::TooBig,
        Self::ClientClosed,
        Self::PeerGone,
    ];

    /// The close code, or `None` where no frame of ours is sent.
    #[must_use]
    pub fn code(self) -> Option<CloseCode> {
        Some(match self {
            Self::Restart => CloseCode::Restart,
            Self::Gap | Self::SlowConsumer | Self::OutboxFull | Self::WriteStalled | Self::AddressLimit => {
                CloseCode::Again
            }
            Self::PongTimeout | Self::MessageTimeout | Self::Fragments => CloseCode::Policy,
            Self::Protocol => CloseCode::Protocol,
            Self::NotUtf8 | Self::Corrupt => CloseCode::Invalid,
            Self::TooBig => CloseCode::Size,
            Self::ClientClosed | Self::PeerGone => return None,
        })
    }

    /// The text in the close frame (at most 123 bytes, RFC 6455 §5.5).
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Gap => "gap",
            Self::SlowConsumer => "slow consumer",
            Self::OutboxFull => "answers not read",
            Self::WriteStalled => "socket not read",
            Self::AddressLimit => "too many connections from this address",
            Self::PongTimeout => "no pong",
            Self::MessageTimeout => "message not complete in time",
            Self::Fragments => "too many fragments",
            Self::Protocol => "protocol error",
            Self::NotUtf8 => "not UTF-8",
            Self::Corrupt => "compressed message not readable",
            Self::TooBig => "message too big",
            Self::ClientClosed => "closed by the client",
            Self::PeerGone => "connection lost",
        }
    }

    /// The value of the `reason` label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Gap => "gap",
            Self::SlowConsumer => "slow_consumer",
            Self::OutboxFull => "outbox_full",
            Self::WriteStalled => "write_stalled",
            Self::AddressLimit => "address_limit",
            Self::PongTimeout => "pong_timeout",
            Self::MessageTimeout => "message_timeout",
            Self::Fragments => "fragments",
            Self::Protocol => "protocol",
            Self::NotUtf8 => "not_utf8",
            Self::Corrupt => "corrupt",
            Self::TooBig => "too_big",
            Self::ClientClosed => "client_closed",
            Self::PeerGone => "peer_gone",
        }
    }

    /// Whether a well-made client should connect again.
    #[must_use]
    pub fn come_back(self) -> bool {
        matches!(self.code(), Some(CloseCode::Restart | CloseCode::Again)) || self == Self::PeerGone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_allowed_and_never_a_normal_end() {
        for reason in Reason::ALL {
            assert!(reason.text().len() <= 123);
            let Some(code) = reason.code() else { continue };
            assert!(code.is_allowed());
            assert!(!matches!(u16::from(code), 1000 | 1001), "{reason:?}");
            assert_eq!(reason.come_back(), matches!(u16::from(code), 1012 | 1013), "{reason:?}");
        }
    }

    #[test]
    fn labels_differ() {
        let labels: std::collections::HashSet<_> = Reason::ALL.iter().map(|r| r.label()).collect();
        assert_eq!(labels.len(), Reason::ALL.len());
    }
}
