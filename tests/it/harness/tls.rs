//! A certificate authority of the tests' own, made anew in each run; what it certifies, and clients that trust it alone.
//!
//! One authority for the whole binary, so that a URL is all that a client of the harness needs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config};

static AUTHORITY: LazyLock<CertifiedIssuer<'static, KeyPair>> = LazyLock::new(|| {
    let mut params = CertificateParams::new(Vec::new()).expect("no names are right names");
    params.distinguished_name.push(DnType::CommonName, "the tests' authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, key()).expect("it signs itself")
});

/// What a client of the harness trusts. Shared, so that tickets of one connection serve the next.
static TRUSTING: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| Arc::new(trusting(rustls::DEFAULT_VERSIONS)));

fn key() -> KeyPair {
    KeyPair::generate().expect("the system gives random bytes")
}

/// A client that trusts the authority and speaks these versions.
pub(crate) fn trusting(versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(AUTHORITY.der().clone()).expect("it is a certificate");
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_protocol_versions(versions).expect("the provider has them");
    builder.with_root_certificates(roots).with_no_client_auth()
}

/// A certificate for loopback, its key, and the authority that it is from, as files.
pub(crate) struct Files(PathBuf);

impl Files {
    /// In a folder of this name.
    pub(crate) fn new(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("tls-{name}"));
        std::fs::create_dir_all(&folder).expect("target is writable");
        let files = Self(folder);
        let own = key();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).expect("they are names");
        // Else both would be named alike, and clients take it for signed by itself.
        params.distinguished_name.push(DnType::CommonName, "the tests' gateway");
        let certificate = params.signed_by(&own, &AUTHORITY).expect("the authority signs it");
        files.write("authority.pem", &AUTHORITY.pem());
        files.write("certificate.pem", &certificate.pem());
        files.write("key.pem", &own.serialize_pem());
        files.write("other-key.pem", &key().serialize_pem());
        files
    }

    /// The path of a file, there or not.
    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("it is UTF-8").to_owned()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).expect("target is writable");
    }
}

/// Opens a WebSocket at a `ws://` or `wss://` URL.
pub(crate) async fn websocket(
    url: &str,
    config: Option<WebSocketConfig>,
) -> Result<WebSocketStream<MaybeTlsStream<TcpStream>>, Error> {
    let authority = url.split("://").nth(1).and_then(|rest| rest.split('/').next()).expect("the URL has a host");
    let stream = TcpStream::connect(authority).await?;
    stream.set_nodelay(true)?;
    websocket_on(stream, url, config).await
}

/// The same on a connection that is there.
pub(crate) async fn websocket_on(
    stream: TcpStream,
    url: &str,
    config: Option<WebSocketConfig>,
) -> Result<WebSocketStream<MaybeTlsStream<TcpStream>>, Error> {
    let connector = Connector::Rustls(TRUSTING.clone());
    client_async_tls_with_config(url, stream, config, Some(connector)).await.map(|(socket, _)| socket)
}

/// Opens a TLS connection.
pub(crate) async fn connect(address: SocketAddr, config: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(config).connect(ServerName::from(address.ip()), stream).await
}
