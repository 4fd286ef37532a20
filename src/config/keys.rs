//! Every key of the configuration with its default. `config/chaincast.toml` shows the same, with words.
//!
//! Only types and defaults: no reading, no checking across keys.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::upstream::NodeUrl;

const LONGEST_SECS: u64 = 366 * 24 * 3600;

/// A span of time, written as `10s`, `250ms`, `1m 30s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let bad = |why: String| serde::de::Error::custom(format!("bad duration {text:?}: {why}"));
        match humantime::parse_duration(&text) {
            Ok(span) if span.as_secs() > LONGEST_SECS => Err(bad("more than a year".into())),
            Ok(span) => Ok(Self(span)),
            Err(e) => Err(bad(format!("{e} (write 10s, 250ms, 1m)"))),
        }
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&humantime::format_duration(self.0))
    }
}

/// One node URL, or several in a list or separated by commas. Never written back: they are secrets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Upstreams(pub Vec<NodeUrl>);

impl Serialize for Upstreams {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.0.iter().map(NodeUrl::host))
    }
}

impl<'de> Deserialize<'de> for Upstreams {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum OneOrMany {
            One(String),
            Many(Vec<String>),
        }
        let list = match OneOrMany::deserialize(d) {
            Ok(OneOrMany::One(text)) => text.split(',').map(|url| url.trim().to_owned()).collect(),
            Ok(OneOrMany::Many(list)) => list,
            Err(_) => return Err(serde::de::Error::custom("expected a URL or a list of URLs")),
        };
        let read = |(at, text): (usize, &String)| {
            text.parse().map_err(|e| serde::de::Error::custom(format!("bad URL at place {}: {e}", at + 1)))
        };
        list.iter().enumerate().map(read).collect::<Result<_, _>>().map(Self)
    }
}

macro_rules! section {
    ($(#[$meta:meta])* $name:ident { $($field:ident : $type:ty = $default:expr,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        #[allow(clippy::struct_field_names)] // The keys are named for who writes the file.
        #[allow(missing_docs)] // config/chaincast.toml explains each key; a test holds the two together.
        pub struct $name { $(pub $field: $type,)* }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    };
}

fn secs(n: u64) -> Span {
    Span(Duration::from_secs(n))
}

fn millis(n: u64) -> Span {
    Span(Duration::from_millis(n))
}

fn number(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).expect("the defaults are not zero")
}

section! {
    /// The whole file.
    Keys {
        default_chain: Option<String> = None,
        data_dir: Option<PathBuf> = None,
        server: Server = Server::default(),
        limits: Limits = Limits::default(),
        upstream: Upstream = Upstream::default(),
        calls: Calls = Calls::default(),
        history: History = History::default(),
        log: Log = Log::default(),
        chain: BTreeMap<String, Chain> = BTreeMap::new(),
    }
}

section! {
    /// `[server]`
    Server {
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 8080)),
        admin: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 9464)),
        tls_certificate_file: Option<PathBuf> = None,
        tls_key_file: Option<PathBuf> = None,
        shards: usize = 0,
        compression: bool = false,
        page: bool = true,
        ready_head_age_max: Span = secs(60),
        ping_interval: Span = secs(25),
        pong_timeout: Span = secs(10),
        close_timeout: Span = secs(2),
        drain_calls_max: Span = secs(3),
        drain_clients_max: Span = secs(4),
    }
}

section! {
    /// `[limits]`
    Limits {
        connections_max: usize = 0,
        connections_per_address: usize = 100,
        connections_per_ipv6_48: usize = 1_000,
        connects_per_second: NonZeroU32 = number(10),
        connects_burst: NonZeroU32 = number(50),
        handshakes_max: usize = 512,
        tls_timeout: Span = secs(5),
        header_timeout: Span = secs(5),
        header_max_bytes: usize = 8_192,
        headers_max: usize = 64,
        message_max_bytes: usize = 131_072,
        message_max_fragments: usize = 64,
        message_timeout: Span = secs(10),
        messages_per_second: NonZeroU32 = number(200),
        messages_burst: NonZeroU32 = number(1_000),
        json_depth: usize = 16,
        batch_max: usize = 20,
        batch_answer_max_bytes: usize = 2_097_152,
        method_max_bytes: usize = 64,
        id_max_bytes: usize = 128,
        subscriptions_per_connection: usize = 32,
        subscriptions_per_address: usize = 1_000,
        subscribes_per_second: NonZeroU32 = number(5),
        feeds: usize = 64,
        filter_addresses: usize = 100,
        filter_topics: usize = 100,
        calls_per_second: NonZeroU32 = number(20),
        calls_burst: NonZeroU32 = number(60),
        calls_in_flight: usize = 8,
        calls_waiting: usize = 64,
        logs_max_blocks: u64 = 1_000,
        logs_max_rows: usize = 10_000,
        outbox_max_bytes: usize = 1_048_576,
        lag_max_blocks: u64 = 64,
        lag_max: Span = secs(30),
        write_stall_max: Span = secs(10),
        send_buffer_bytes: usize = 131_072,
        tcp_user_timeout: Span = secs(40),
    }
}

section! {
    /// `[upstream]`
    Upstream {
        connect_timeout: Span = secs(10),
        call_timeout: Span = secs(10),
        subscribe_max: usize = 0,
        calls_in_flight: usize = 256,
        calls_per_second: NonZeroU32 = number(2_000),
        calls_burst: NonZeroU32 = number(4_000),
        message_max_bytes: u32 = 67_108_864,
        backoff_min: Span = millis(100),
        backoff_max: Span = secs(5),
        silence_max: Span = secs(20),
        logs_in_flight: usize = 8,
        logs_alarm: Span = secs(5),
        logs_wait_max: Span = secs(60),
        finality_interval: Span = secs(6),
        reorg_max_blocks: usize = 1_024,
        reorg_max_bytes: usize = 268_435_456,
    }
}

section! {
    /// `[calls]`
    Calls {
        deadline: Span = secs(10),
        logs_deadline: Span = secs(5),
        announced_wait: Span = secs(2),
        cache_max_bytes: usize = 67_108_864,
    }
}

section! {
    /// `[history]`
    History {
        entries: usize = 4_096,
        bytes: usize = 268_435_456,
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

section! {
    /// `[log]`
    Log {
        level: String = "info".into(),
        format: LogFormat = LogFormat::Text,
    }
}

/// What is known of a chain's header blooms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Blooms {
    /// Nothing: it is found out.
    Detect,
    /// They are true.
    Real,
    /// They are empty whatever logs there are, as on some L2s.
    Empty,
}

section! {
    /// `[chain.<name>]`
    Chain {
        upstreams: Upstreams = Upstreams::default(),
        chain_id: Option<u64> = None,
        blooms: Blooms = Blooms::Detect,
        pass_subscriptions: Vec<String> = Vec::new(),
    }
}
