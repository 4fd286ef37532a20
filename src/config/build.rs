//! From keys to the components' `Options`, with the checks that concern more than one key.
//!
//! Reads no environment, and no file but those of the listener's certificate.

use std::collections::HashMap;

use super::keys::{Blooms, Keys, Limits, Server};
use crate::upstream::NodeUrl;
use crate::{app, calls, filter, hub, ingest, journal, rpc, server, session, upstream};

/// A share of the descriptors is left for nodes, files and the admin listener.
const DESCRIPTOR_SHARE: (u64, u64) = (4, 5);

/// More calls at a time than anyone can mean.
const CALLS_MOST: usize = 1_000_000;

/// All options. What is wrong is added to `mistakes`; the options are then not to be used.
pub(super) fn options(keys: &Keys, mistakes: &mut Vec<String>) -> app::Options {
    check(keys, mistakes);
    let default = default_chain(keys, mistakes);
    let mut chains: Vec<app::Chain> = keys.chain.keys().map(|name| chain(keys, name)).collect();
    chains.sort_by_key(|chain| chain.name != default);
    let limits = &keys.limits;
    app::Options {
        chains,
        listen: keys.server.listen,
        admin: keys.server.admin,
        data_dir: keys.data_dir.clone(),
        shards: match keys.server.shards {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        },
        ready_head_age_max: keys.server.ready_head_age_max.0,
        server: server_options(keys, mistakes),
        session: session_options(limits),
        limits: connection_limits(limits),
        hub: hub_options(keys),
    }
}

fn chain(keys: &Keys, name: &str) -> app::Chain {
    let (up, chain) = (&keys.upstream, &keys.chain[name]);
    app::Chain {
        name: name.to_owned(),
        upstream: upstream::Options {
            chain: name.into(),
            urls: chain.upstreams.0.clone(),
            dial: upstream::Dial::Network,
            chain_id: chain.chain_id,
            connect_timeout: up.connect_timeout.0,
            call_timeout: up.call_timeout.0,
            calls: upstream::Rates {
                per_second: up.calls_per_second,
                burst: up.calls_burst,
                in_flight: up.calls_in_flight,
            },
            subscribe_max: up.subscribe_max,
            seed: None,
            message_max_bytes: up.message_max_bytes,
            backoff_min: up.backoff_min.0,
            backoff_max: up.backoff_max.0,
            silence_max: up.silence_max.0,
        },
        ingest: ingest::Bounds {
            window: up.reorg_max_blocks,
            window_bytes: up.reorg_max_bytes,
            logs_in_flight: up.logs_in_flight,
            logs_alarm: up.logs_alarm.0,
            logs_wait: up.logs_wait_max.0,
            finality_every: up.finality_interval.0,
            blooms: match chain.blooms {
                Blooms::Detect => ingest::Blooms::Unknown,
                Blooms::Real => ingest::Blooms::Real,
                Blooms::Empty => ingest::Blooms::Empty,
            },
        },
        journal: journal::Options { entries: keys.history.entries, bytes: keys.history.bytes },
        calls: calls::Options {
            announced_wait: keys.calls.announced_wait.0,
            deadline: keys.calls.deadline.0,
            logs_deadline: keys.calls.logs_deadline.0,
            logs_max_blocks: keys.limits.logs_max_blocks,
            logs_max_rows: keys.limits.logs_max_rows,
            cache_max_bytes: keys.calls.cache_max_bytes,
            status: keys.server.page,
        },
        passed: chain.pass_subscriptions.clone().into(),
    }
}

fn server_options(keys: &Keys, mistakes: &mut Vec<String>) -> server::Options {
    let limits = &keys.limits;
    server::Options {
        connections_max: match limits.connections_max {
            0 => descriptors(),
            n => n,
        },
        handshakes_max: limits.handshakes_max,
        tls: tls(&keys.server).unwrap_or_else(|mistake| {
            mistakes.push(mistake);
            None
        }),
        tls_timeout: limits.tls_timeout.0,
        header_timeout: limits.header_timeout.0,
        header_max_bytes: limits.header_max_bytes,
        headers_max: limits.headers_max,
        body_max_bytes: limits.message_max_bytes,
        body_timeout: limits.message_timeout.0,
        send_buffer_bytes: limits.send_buffer_bytes,
        tcp_user_timeout: limits.tcp_user_timeout.0,
        compression: keys.server.compression,
        page: keys.server.page,
        drain_calls_max: keys.server.drain_calls_max.0,
        drain_clients_max: keys.server.drain_clients_max.0,
    }
}

/// What the public listener speaks TLS with. The mistake names its key.
fn tls(server: &Server) -> Result<Option<server::Tls>, String> {
    const KEYS: [&str; 2] = ["server.tls_certificate_file", "server.tls_key_file"];
    let lone = |given: &str, left: &str| Err(format!("{left}: must be set, as {given} is: both or neither"));
    let files = (server.tls_certificate_file.as_deref(), server.tls_key_file.as_deref());
    let tls = match files {
        (None, None) => return Ok(None),
        (Some(_), None) => return lone(KEYS[0], KEYS[1]),
        (None, Some(_)) => return lone(KEYS[1], KEYS[0]),
        (Some(certificate), Some(key)) => server::Tls::read(certificate, key),
    };
    tls.map(Some).map_err(|wrong| match wrong {
        server::WrongFile::Certificate(why) => format!("{}: {why}", KEYS[0]),
        server::WrongFile::Key(why) => format!("{}: {why}", KEYS[1]),
    })
}

/// The share of the process's descriptors that connections may have.
fn descriptors() -> usize {
    let soft = rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(1024, |(soft, _)| soft);
    usize::try_from(soft.min(u64::from(u32::MAX)) * DESCRIPTOR_SHARE.0 / DESCRIPTOR_SHARE.1).unwrap_or(usize::MAX)
}

fn session_options(limits: &Limits) -> session::Options {
    session::Options {
        bounds: session::Bounds {
            text: rpc::Bounds {
                depth: limits.json_depth,
                batch: limits.batch_max,
                method: limits.method_max_bytes,
                id: limits.id_max_bytes,
            },
            filter: filter::Bounds { addresses: limits.filter_addresses, topics: limits.filter_topics },
            batch_answer: limits.batch_answer_max_bytes,
            passed: [].into(),
        },
        message_max_bytes: limits.message_max_bytes,
        message_max_fragments: limits.message_max_fragments,
        message_timeout: limits.message_timeout.0,
        calls_in_flight: limits.calls_in_flight,
        feeds_max: limits.feeds,
        held_max_bytes: limits.outbox_max_bytes / 2,
    }
}

fn connection_limits(limits: &Limits) -> session::Limits {
    let rate = |per_second, burst| session::Rate { per_second, burst };
    let subscriptions = u32::try_from(limits.subscriptions_per_connection).unwrap_or(u32::MAX).max(1);
    session::Limits {
        connections_per_address: limits.connections_per_address,
        connections_per_site: limits.connections_per_ipv6_48,
        connect: rate(limits.connects_per_second, limits.connects_burst),
        messages: rate(limits.messages_per_second, limits.messages_burst),
        calls: rate(limits.calls_per_second, limits.calls_burst),
        calls_in_flight: limits.calls_in_flight,
        calls_waiting: limits.calls_waiting,
        // As many at once as a connection may have: viem subscribes anew all at once, and never tries again.
        subscribe: rate(limits.subscribes_per_second, subscriptions.try_into().expect("it is at least 1")),
        subscriptions_per_connection: limits.subscriptions_per_connection,
        subscriptions_per_address: limits.subscriptions_per_address,
    }
}

fn hub_options(keys: &Keys) -> hub::Options {
    let limits = &keys.limits;
    hub::Options {
        outbox_max_bytes: limits.outbox_max_bytes,
        lag_max_blocks: limits.lag_max_blocks,
        lag_max: limits.lag_max.0,
        write_stall_max: limits.write_stall_max.0,
        ping_interval: keys.server.ping_interval.0,
        pong_timeout: keys.server.pong_timeout.0,
        close_timeout: keys.server.close_timeout.0,
        id_secret: [0; 32],
    }
}

/// The chain on `/`.
fn default_chain(keys: &Keys, mistakes: &mut Vec<String>) -> String {
    let names = || keys.chain.keys().cloned().collect::<Vec<_>>().join(", ");
    match &keys.default_chain {
        Some(name) if keys.chain.contains_key(name) => name.clone(),
        Some(name) => {
            mistakes.push(format!("default_chain: {name:?} is none of the chains ({})", names()));
            name.clone()
        }
        None if keys.chain.len() > 1 => {
            mistakes.push(format!("default_chain: must be set, there are several chains ({})", names()));
            String::new()
        }
        None => names(),
    }
}

/// Alternatives at one position that a filter is kept with.
const ALTERNATIVES_MOST: usize = 65_535;

/// Keys that must not be zero, or not very large.
fn check_zeros(keys: &Keys, mistakes: &mut Vec<String>) {
    let mut wrong = |key: &str, why: String| mistakes.push(format!("{key}: {why}"));
    for (key, zero) in [
        ("limits.message_max_bytes", keys.limits.message_max_bytes == 0),
        ("limits.calls_in_flight", keys.limits.calls_in_flight == 0),
        ("limits.batch_max", keys.limits.batch_max == 0),
        ("limits.json_depth", keys.limits.json_depth == 0),
        ("limits.send_buffer_bytes", keys.limits.send_buffer_bytes == 0),
        ("history.entries", keys.history.entries == 0),
        ("upstream.reorg_max_blocks", keys.upstream.reorg_max_blocks == 0),
        ("upstream.logs_in_flight", keys.upstream.logs_in_flight == 0),
        ("upstream.calls_in_flight", keys.upstream.calls_in_flight == 0),
        ("upstream.backoff_min", keys.upstream.backoff_min.0.is_zero()),
        ("upstream.silence_max", keys.upstream.silence_max.0.is_zero()),
        ("upstream.finality_interval", keys.upstream.finality_interval.0.is_zero()),
        ("limits.message_max_fragments", keys.limits.message_max_fragments == 0),
        ("limits.handshakes_max", keys.limits.handshakes_max == 0),
        ("limits.tls_timeout", keys.limits.tls_timeout.0.is_zero()),
        ("limits.header_timeout", keys.limits.header_timeout.0.is_zero()),
        ("limits.message_timeout", keys.limits.message_timeout.0.is_zero()),
        ("history.bytes", keys.history.bytes == 0),
        ("upstream.connect_timeout", keys.upstream.connect_timeout.0.is_zero()),
        ("upstream.call_timeout", keys.upstream.call_timeout.0.is_zero()),
        ("calls.deadline", keys.calls.deadline.0.is_zero()),
        ("calls.logs_deadline", keys.calls.logs_deadline.0.is_zero()),
        ("server.ping_interval", keys.server.ping_interval.0.as_secs() == 0),
    ] {
        if zero {
            wrong(key, "must not be zero".into());
        }
    }
    for (key, count, most) in [
        ("limits.calls_in_flight", keys.limits.calls_in_flight, CALLS_MOST),
        ("limits.calls_waiting", keys.limits.calls_waiting, CALLS_MOST),
        ("upstream.calls_in_flight", keys.upstream.calls_in_flight, CALLS_MOST),
        ("limits.filter_addresses", keys.limits.filter_addresses, ALTERNATIVES_MOST),
        ("limits.filter_topics", keys.limits.filter_topics, ALTERNATIVES_MOST),
    ] {
        if count > most {
            wrong(key, format!("must not be more than {most}"));
        }
    }
}

/// The words of `log.level`: the filter's own reader takes any other for a module.
fn check_level(level: &str, mistakes: &mut Vec<String>) {
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    for part in level.split(',') {
        let word = part.rsplit('=').next().unwrap_or_default().trim().to_ascii_lowercase();
        if !levels.contains(&word.as_str()) {
            mistakes.push(format!("log.level: {word:?} is none of {}", levels.join(", ")));
        }
    }
}

fn check(keys: &Keys, mistakes: &mut Vec<String>) {
    check_zeros(keys, mistakes);
    check_level(&keys.log.level, mistakes);
    // A chain whose URLs could not be read is not told that it has none.
    let unread = mistakes.iter().any(|mistake| mistake.contains(": bad URL at place "));
    let mut wrong = |key: &str, why: String| mistakes.push(format!("{key}: {why}"));
    if keys.chain.is_empty() {
        wrong("chain", "no chain is configured; add [chain.<name>] with upstreams, or give --upstream".into());
    }
    if keys.server.listen == keys.server.admin && keys.server.listen.port() != 0 {
        wrong("server.admin", "is the same address as server.listen".into());
    }
    let heaviest = 20;
    if keys.limits.calls_burst.get() < heaviest {
        wrong("limits.calls_burst", format!("must be at least {heaviest}, the weight of one eth_getLogs"));
    }
    if keys.upstream.reorg_max_blocks.saturating_mul(2) > keys.history.entries {
        wrong("history.entries", "must be at least twice upstream.reorg_max_blocks".into());
    }
    let mut seen: HashMap<&str, &String> = HashMap::new();
    for (name, chain) in &keys.chain {
        for kind in &chain.pass_subscriptions {
            if ["newHeads", "newBlockHeaders", "logs", "newPendingTransactions", "syncing", ""].contains(&kind.as_str())
            {
                wrong(&format!("chain.{name}.pass_subscriptions"), format!("{kind:?} is served anyway, or is no kind"));
            }
        }
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if name.is_empty() || name.len() > 32 || !name.chars().all(plain) {
            wrong(&format!("chain.{name}"), "a chain's name is its path: a-z, 0-9, - and _, at most 32".into());
        }
        let key = format!("chain.{name}.upstreams");
        let told = unread && chain.upstreams.0.is_empty();
        if !told && !chain.upstreams.0.iter().any(NodeUrl::is_websocket) {
            wrong(&key, "at least one ws:// or wss:// node is needed".into());
        }
        if chain.upstreams.0.len() > 64 {
            wrong(&key, "at most 64 nodes".into());
        }
        for url in &chain.upstreams.0 {
            if let Some(other) = seen.insert(url.secret(), name) {
                let host = url.host();
                wrong(&key, format!("duplicate chain: the node at {host} is already one of chain.{other}"));
            }
        }
    }
}
