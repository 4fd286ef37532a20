//! A certificate that a server under test is given, made for one run.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// Files of a self-signed certificate and its key; they go when it is dropped.
#[derive(Debug)]
pub(super) struct Certificate {
    folder: PathBuf,
    files: [String; 2],
}

impl Certificate {
    pub(super) fn new() -> anyhow::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        let folder = std::env::temp_dir().join(format!("chaincast-bench-{}-{number}", std::process::id()));
        std::fs::create_dir(&folder)?;
        let file = |name: &str| folder.join(name).to_string_lossy().into_owned();
        let files = [file("certificate.pem"), file("key.pem")];
        let certificate = Self { folder, files };
        std::fs::write(&certificate.files[0], made.cert.pem())?;
        std::fs::write(&certificate.files[1], made.signing_key.serialize_pem())?;
        Ok(certificate)
    }

    /// The gateway's configuration with it.
    pub(super) fn env(&self) -> [(&str, &str); 2] {
        let [certificate, key] = &self.files;
        [("CHAINCAST__SERVER__TLS_CERTIFICATE_FILE", certificate), ("CHAINCAST__SERVER__TLS_KEY_FILE", key)]
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            eprintln!("{} is left: {error}", self.folder.display());
        }
    }
}
