//! TLS on the public listener: the certificate and its key from their files, and the handshake.
//!
//! Owns what a handshake is made with. What follows it is the hub's: no task of TLS stays behind.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// What handshakes are made with. It is looked up for each, so another certificate takes effect with the next handshake
/// and touches no connection.
#[derive(Debug, Clone)]
pub struct Tls(watch::Sender<Arc<ServerConfig>>);

/// Which of the two files is wrong, and why. Nothing of a file's content is in the words.
#[derive(Debug, PartialEq, Eq)]
pub enum WrongFile {
    /// The file of the certificate.
    Certificate(String),
    /// The file of its key.
    Key(String),
}

impl Tls {
    /// Reads both files: PEM, the certificate of the listener first, then those between it and a root.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, WrongFile> {
        let provider = Arc::new(ring::default_provider());
        let own = certified(certificate, key, &provider)?;
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = config
            .expect("the provider has what TLS 1.2 and 1.3 need")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
        // A WebSocket begins as HTTP/1.1 (RFC 6455, section 4.1), and nothing else is spoken here.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A client that comes back is spared the signature by a ticket that it keeps, sealed with a key that changes every
        // six hours: nothing is kept here for those who might come back.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = ring::Ticketer::new().expect("the system gives random bytes");
        config.send_tls13_tickets = 1;
        Ok(Self(watch::Sender::new(Arc::new(config))))
    }

    /// Makes the handshake on the shard's own thread, between whose tasks events go out. With TLS 1.3 one took 0.15 ms of
    /// CPU with an ECDSA key on P-256, 0.9 ms with an RSA key of 2,048 bits, and 0.12 to 0.16 ms with a ticket.
    ///
    /// Boxed: it is more than a kilobyte, and each future on its way would have room for it.
    pub(super) async fn handshake(&self, stream: TcpStream) -> io::Result<Box<TlsStream<TcpStream>>> {
        let config = self.0.borrow().clone();
        TlsAcceptor::from(config).accept(stream).await.map(Box::new)
    }
}

fn certified(certificate: &Path, key: &Path, provider: &CryptoProvider) -> Result<CertifiedKey, WrongFile> {
    let chain = chain(certificate).map_err(WrongFile::Certificate)?;
    let key_der = private_key(key).map_err(WrongFile::Key)?;
    let signing = provider.key_provider.load_private_key(key_der);
    let signing =
        signing.map_err(|_| WrongFile::Key(format!("the private key in {} is of no known kind", shown(key))))?;
    let own = CertifiedKey::new(chain, signing);
    match own.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(own),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err(WrongFile::Key(format!("the key in {} does not belong to the certificate", shown(key))))
        }
        Err(_) => Err(WrongFile::Certificate(format!("the first certificate in {} is damaged", shown(certificate)))),
    }
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = read(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(format!("no certificate in {}", shown(path))),
        Ok(chain) => Ok(chain),
        Err(_) => Err(format!("{} is damaged PEM", shown(path))),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| match error {
        pem::Error::NoItemsFound => format!("no private key in {} (an encrypted one cannot be read)", shown(path)),
        // The words of the others may quote the file.
        _ => format!("{} is damaged PEM", shown(path)),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", shown(path)))
}

fn shown(path: &Path) -> std::path::Display<'_> {
    path.display()
}
