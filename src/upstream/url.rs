//! Node URLs: checked when read, and secret afterwards (they carry keys in path, query or user part).
//!
//! Nothing here prints more than host and port, `Debug` included.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use hyper::Uri;

/// A checked node URL. Shows only host and port.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeUrl {
    text: String,
    uri: Uri,
}

impl NodeUrl {
    /// The URL itself, for the connection only.
    pub(crate) fn secret(&self) -> &str {
        &self.text
    }

    /// Whether heads can be subscribed to here (`ws`, `wss`); `http` nodes are only called.
    #[must_use]
    pub fn is_websocket(&self) -> bool {
        matches!(self.uri.scheme_str(), Some("ws" | "wss"))
    }

    /// Host, and port if it was given.
    #[must_use]
    pub fn host(&self) -> String {
        let host = self.uri.host().unwrap_or_default();
        self.uri.port_u16().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// The text with every part of this URL that may be a secret taken out.
    pub(crate) fn redact(&self, text: &str) -> String {
        let user = self.uri.authority().and_then(|a| a.as_str().rsplit_once('@')).map_or("", |(user, _)| user);
        let path = self.uri.path_and_query().map_or("", |p| p.as_str()).trim_matches('/');
        let mut text = text.replace(&self.text, &self.host());
        for secret in [user, path]
            .into_iter()
            .chain(user.split(':'))
            .chain(path.split(['/', '?', '&', '=']))
            .filter(|s| s.len() >= 4)
        {
            text = text.replace(secret, "…");
        }
        text
    }
}

impl fmt::Debug for NodeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeUrl({})", self.host())
    }
}

impl fmt::Display for NodeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host())
    }
}

impl FromStr for NodeUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The parser's error would quote nothing of the text, but says little either; ours names the usual slips.
        let uri: Uri = text.parse().map_err(|e| format!("not a URL: {e}"))?;
        match uri.scheme_str() {
            Some("ws" | "wss" | "http" | "https") => {}
            Some(other) => return Err(format!("scheme {other:?} is none of ws, wss, http, https")),
            None => return Err("no scheme; write ws://host:port".into()),
        }
        if uri.host().is_none_or(str::is_empty) {
            return Err("no host".into());
        }
        if port_text(&uri).is_some_and(|port| port.parse::<u16>().is_err()) {
            return Err("the port is not a number up to 65535".into());
        }
        Ok(Self { text: text.to_owned(), uri })
    }
}

/// What stands behind the host and a colon; an IPv6 host has colons of its own in its brackets.
fn port_text(uri: &Uri) -> Option<&str> {
    let host = uri.authority()?.as_str().rsplit('@').next()?;
    host.rsplit(']').next()?.rsplit_once(':').map(|(_, port)| port)
}

/// One label a node: its host, with a number behind it where the same host stands more than once.
pub(crate) fn labels(urls: &[NodeUrl]) -> Vec<Arc<str>> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let label = |url: &NodeUrl| {
        let host = url.host();
        let count = seen.entry(host.clone()).or_default();
        *count += 1;
        if *count == 1 { host.into() } else { format!("{host}#{count}").into() }
    };
    urls.iter().map(label).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_host_is_shown() {
        let url: NodeUrl = "wss://user:hunter2@node.example:8546/v3/0123456789abcdef?key=topsecret".parse().unwrap();
        let shown = format!(
            "{url} {url:?} {}",
            url.redact(&format!("failed at {} (0123456789abcdef, hunter2 topsecret)", url.secret()))
        );
        for secret in ["hunter2", "0123456789abcdef", "topsecret"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        assert!(shown.starts_with("node.example:8546 NodeUrl(node.example:8546)"));
    }

    #[test]
    fn bad_urls_say_why() {
        for (text, why) in [
            ("localhost:8546", "scheme"),
            ("ftp://x", "ftp"),
            ("ws://", "not a URL"),
            ("", "not a URL"),
            ("/x", "no scheme"),
            ("ws://h:99999", "port"),
            ("ws://h:", "port"),
            ("ws://[::1]:x", "port"),
        ] {
            let error = text.parse::<NodeUrl>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn equal_hosts_get_different_labels() {
        let urls: Vec<NodeUrl> = ["ws://a:1/x", "ws://a:1/y", "ws://b"].iter().map(|u| u.parse().unwrap()).collect();
        assert_eq!(labels(&urls).iter().map(AsRef::as_ref).collect::<Vec<&str>>(), ["a:1", "a:1#2", "b"]);
    }
}
