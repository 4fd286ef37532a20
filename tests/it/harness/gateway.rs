//! A gateway in this process, on ports chosen by the system, through the same door as the binary.

use std::net::TcpListener;
use std::time::Duration;

use chaincast::app::{self, Listeners};
use chaincast::config::{self, Flags};
use chaincast::metrics::Metrics;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::tls::Files;

/// How a gateway is to be started: the defaults, but for the number of connections from one address, which a test
/// makes from loopback alone.
#[derive(Debug, Clone)]
pub(crate) struct GatewayOptions {
    upstreams: Vec<String>,
    keys: Vec<(String, String)>,
}

impl GatewayOptions {
    /// Beside one node.
    pub(crate) fn upstream(url: impl Into<String>) -> Self {
        Self::upstreams([url])
    }

    /// Beside several nodes.
    pub(crate) fn upstreams(urls: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let options = Self { upstreams: urls.into_iter().map(Into::into).collect(), keys: Vec::new() };
        options
            .set("limits.connections_per_address", "20000")
            .set("limits.connects_per_second", "20000")
            .set("limits.connects_burst", "20000")
            .set("limits.subscriptions_per_address", "100000")
    }

    /// Speaking TLS with these files.
    pub(crate) fn tls(self, files: &Files) -> Self {
        self.set("server.tls_certificate_file", &files.path("certificate.pem"))
            .set("server.tls_key_file", &files.path("key.pem"))
    }

    /// Sets a key of the configuration.
    pub(crate) fn set(mut self, key: &str, value: &str) -> Self {
        let name = format!("CHAINCAST__{}", key.to_uppercase().replace('.', "__"));
        self.keys.retain(|(known, _)| *known != name);
        self.keys.push((name, value.to_owned()));
        self
    }
}

/// A running gateway. Dropping it ends it, if not gently.
#[derive(Debug)]
pub(crate) struct Gateway {
    public: std::net::SocketAddr,
    admin: std::net::SocketAddr,
    tls: bool,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<anyhow::Result<()>>,
    /// What it counts.
    pub(crate) metrics: Metrics,
}

impl Gateway {
    /// Starts one; it accepts connections from now on.
    #[expect(clippy::unused_async, reason = "it spawns: being async, it cannot be called outside of a runtime")]
    pub(crate) async fn start(options: GatewayOptions) -> Self {
        let flags = Flags { upstreams: options.upstreams, ..Flags::default() };
        let tls = options.keys.iter().any(|(name, _)| name == "CHAINCAST__SERVER__TLS_KEY_FILE");
        let config = config::load(&flags, options.keys.into_iter()).expect("the test's configuration is right");
        let bind = || TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let listeners = Listeners { public: bind(), admin: bind() };
        let (public, admin) = (listeners.public.local_addr().unwrap(), listeners.admin.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let metrics = Metrics::new();
        let running = app::run(config.app, listeners, metrics.clone(), async {
            // A dropped sender stops it as well.
            drop(stopped.await);
        });
        Self { public, admin, tls, stop: Some(stop), task: tokio::spawn(running), metrics }
    }

    pub(crate) fn ws_url(&self) -> String {
        format!("{}://{}", if self.tls { "wss" } else { "ws" }, self.public)
    }

    pub(crate) fn http_url(&self) -> String {
        format!("http://{}", self.public)
    }

    pub(crate) fn admin_url(&self) -> String {
        format!("http://{}", self.admin)
    }

    /// The public address.
    pub(crate) fn address(&self) -> std::net::SocketAddr {
        self.public
    }

    /// Stops it and waits until it has; it must end well and in time.
    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        let ended = tokio::time::timeout(Duration::from_secs(15), self.task);
        ended.await.expect("it ends in time").expect("it does not panic").expect("it ends well");
    }
}
