//! Where clients connect: the parts of a `ws` or `wss` URL.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use anyhow::Context as _;
use rustls::ClientConfig;

use super::load::any_certificate;

/// A WebSocket endpoint.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    /// As the URL has it, with its port.
    pub(super) host: String,
    pub(super) path: String,
    /// For `wss`.
    pub(super) tls: Option<Arc<ClientConfig>>,
}

impl Endpoint {
    /// Reads a URL. With TLS the certificate is not checked, which must be said: `insecure`.
    pub(super) fn parse(url: &str, insecure: bool) -> anyhow::Result<Self> {
        let (scheme, rest) = url.split_once("://").context("--url: ws://HOST or wss://HOST")?;
        let (port, tls) = match scheme {
            "ws" => (80, None),
            "wss" if insecure => (443, Some(any_certificate()?)),
            "wss" => anyhow::bail!("--url: wss:// needs --insecure, since no certificate is checked"),
            _ => anyhow::bail!("--url: only ws:// and wss:// can be measured"),
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let full = if has_port { host.to_owned() } else { format!("{host}:{port}") };
        let address = full.to_socket_addrs().context("--url: the host is not known")?.next();
        let address = address.context("--url: the host has no address")?;
        Ok(Self { address, host: host.into(), path: format!("/{path}"), tls })
    }

    /// The root of a server on this machine.
    pub(super) fn local(address: SocketAddr) -> Self {
        Self { address, host: address.to_string(), path: "/".into(), tls: None }
    }

    /// The host without its port.
    pub(super) fn name(&self) -> &str {
        let name = match self.host.rsplit_once(':') {
            Some((name, port)) if port.parse::<u16>().is_ok() => name,
            _ => &self.host,
        };
        name.trim_start_matches('[').trim_end_matches(']')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        let plain = Endpoint::parse("ws://127.0.0.1:77/mainnet", false).unwrap();
        assert_eq!(
            (plain.address.port(), &*plain.path, plain.name(), plain.tls.is_some()),
            (77, "/mainnet", "127.0.0.1", false)
        );
        let secure = Endpoint::parse("wss://[::1]", true).unwrap();
        assert_eq!(
            (secure.address.port(), &*secure.path, secure.name(), secure.tls.is_some()),
            (443, "/", "::1", true)
        );
        for (url, word) in [("wss://127.0.0.1", "--insecure"), ("http://127.0.0.1", "only ws://"), ("x", "--url")] {
            assert!(Endpoint::parse(url, false).is_err_and(|e| e.to_string().contains(word)), "{url}");
        }
    }
}
