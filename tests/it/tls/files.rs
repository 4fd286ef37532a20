//! What can be wrong with the files of the certificate: each mistake is one line that names its key and the cause.

use chaincast::config::{self, Flags};

use super::*;
use crate::operations::daemon::{Daemon, chaincast};

const CERTIFICATE: &str = "server.tls_certificate_file";
const KEY: &str = "server.tls_key_file";

fn environment(certificate: Option<&str>, key: Option<&str>) -> Vec<(String, String)> {
    let mut all = vec![("CHAINCAST__CHAIN__A__UPSTREAMS".to_owned(), "ws://127.0.0.1:1".to_owned())];
    for (name, path) in [(CERTIFICATE, certificate), (KEY, key)] {
        let name = format!("CHAINCAST__{}", name.to_uppercase().replace('.', "__"));
        all.extend(path.map(|path| (name, path.to_owned())));
    }
    all
}

fn load(certificate: Option<&str>, key: Option<&str>) -> Vec<String> {
    config::load(&Flags::default(), environment(certificate, key).into_iter()).map_or_else(|wrong| wrong.0, |_| vec![])
}

#[test]
fn each_mistake_is_named_by_its_key() {
    let files = Files::new("mistakes");
    let path = |name: &str| files.path(name);
    let (certificate, key) = (&*path("certificate.pem"), &*path("key.pem"));
    let read = |name: &str| std::fs::read_to_string(files.path(name)).expect("it is there");
    files.write("empty.pem", "");
    files.write("cut.pem", &read("certificate.pem").replace("-----END CERTIFICATE-----", ""));
    files.write("garbage.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    files.write("garbage-key.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    files.write("cut-key.pem", &read("key.pem").replace("-----END", "-----AND"));
    let secret = read("key.pem").lines().nth(1).expect("it has lines").to_owned();
    for (given, names, cause) in [
        ((Some(certificate), None), KEY, "must be set, as server.tls_certificate_file is".to_owned()),
        ((None, Some(key)), CERTIFICATE, "must be set, as server.tls_key_file is".to_owned()),
        ((Some(&*path("none")), Some(key)), CERTIFICATE, format!("cannot read {}: No such file", path("none"))),
        ((Some(certificate), Some(&*path("none"))), KEY, format!("cannot read {}: No such file", path("none"))),
        ((Some(&*path("")), Some(key)), CERTIFICATE, "cannot read ".to_owned()),
        ((Some(&*path("empty.pem")), Some(key)), CERTIFICATE, "no certificate in ".to_owned()),
        ((Some(key), Some(key)), CERTIFICATE, "no certificate in ".to_owned()),
        ((Some(&*path("cut.pem")), Some(key)), CERTIFICATE, format!("{} is damaged PEM", path("cut.pem"))),
        ((Some(&*path("garbage.pem")), Some(key)), CERTIFICATE, "the first certificate in ".to_owned()),
        ((Some(certificate), Some(&*path("empty.pem"))), KEY, "no private key in ".to_owned()),
        ((Some(certificate), Some(certificate)), KEY, "no private key in ".to_owned()),
        ((Some(certificate), Some(&*path("cut-key.pem"))), KEY, format!("{} is damaged PEM", path("cut-key.pem"))),
        ((Some(certificate), Some(&*path("garbage-key.pem"))), KEY, "the private key in ".to_owned()),
        ((Some(certificate), Some(&*path("other-key.pem"))), KEY, "the key in ".to_owned()),
    ] {
        let mistakes = load(given.0, given.1);
        assert_eq!(mistakes.len(), 1, "{given:?}: {mistakes:?}");
        assert!(mistakes[0].starts_with(&format!("{names}: {cause}")), "{given:?}: {mistakes:?}");
        assert!(!mistakes[0].contains(&secret) && !mistakes[0].contains('\n'), "{mistakes:?}");
    }
    assert_eq!(load(Some(certificate), Some(key)), Vec::<String>::new());
}

#[tokio::test]
async fn the_check_reads_the_files() {
    let files = Files::new("check");
    let with = |key: &str| {
        let (certificate, key) = (files.path("certificate.pem"), files.path(key));
        let text = format!(
            "[server]\ntls_certificate_file = \"{certificate}\"\ntls_key_file = \"{key}\"\n[chain.a]\nupstreams = [\"ws://127.0.0.1:1\"]\n"
        );
        files.write("config.toml", &text);
        files.path("config.toml")
    };
    let right = with("key.pem");
    let mut process = Daemon::start(&mut chaincast(&["check", "--config", &right]));
    assert_eq!(process.ended().await.code(), Some(0), "{}", process.stderr());
    let wrong = with("other-key.pem");
    let mut process = Daemon::start(&mut chaincast(&["check", "--config", &wrong]));
    assert_eq!(process.ended().await.code(), Some(2));
    assert!(process.stderr().starts_with("server.tls_key_file: the key in "), "{}", process.stderr());
}
