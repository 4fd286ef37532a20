//! File, environment and flags, checked and turned into the components' own `Options`.
//!
//! Later layers win: defaults, file, `CHAINCAST__SECTION__KEY`, flags. Every mistake is found in one go and named by
//! its key; no value that may be a secret is shown. Opens nothing but the files it is told to read.

mod build;
mod keys;

use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::Serialized;
use serde_json::Value;

pub use keys::{Keys, LogFormat};

use crate::app;
use crate::upstream::NodeUrl;

/// What the command line says; it overrides the rest.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--upstream`
    pub upstreams: Vec<String>,
    /// `--listen`
    pub listen: Option<String>,
    /// `--admin`
    pub admin: Option<String>,
    /// `--data-dir`
    pub data_dir: Option<PathBuf>,
}

/// What is wrong, one line a mistake, each naming its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes(pub Vec<String>);

impl std::fmt::Display for Mistakes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Mistakes {}

/// The checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// How to log.
    pub log: keys::Log,
    /// What to run.
    pub app: app::Options,
}

/// Reads all layers. `environment` is the process's, or a test's.
pub fn load(flags: &Flags, environment: impl Iterator<Item = (String, String)>) -> Result<Config, Mistakes> {
    let file = flags.config.as_deref().map_or_else(|| Ok(Value::Object(serde_json::Map::new())), read_file)?;
    let (mut keys, mut mistakes) = layers(file, environment)?;
    apply(&mut keys, flags, &mut mistakes);
    let app = build::options(&keys, &mut mistakes);
    if mistakes.is_empty() { Ok(Config { log: keys.log, app }) } else { Err(Mistakes(mistakes)) }
}

fn read_file(path: &Path) -> Result<Value, Mistakes> {
    let text =
        std::fs::read_to_string(path).map_err(|e| Mistakes(vec![format!("--config {}: {e}", path.display())]))?;
    parse(&text).map_err(|e| Mistakes(vec![format!("{}: {e}", path.display())]))
}

/// Reads TOML. The error says where and what, and quotes nothing: a line of the file may hold a secret.
fn parse(text: &str) -> Result<Value, String> {
    let table: toml::Table = toml::from_str(text).map_err(|e| {
        let line = e.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        format!("line {line}: {}", e.message().lines().next().unwrap_or_default())
    })?;
    serde_json::to_value(table).map_err(|e| e.to_string())
}

/// Lays the environment over the file and reads the result key by key; what cannot be read is a mistake and its
/// default stands in, so that the mistakes after it are found too.
fn layers(file: Value, environment: impl Iterator<Item = (String, String)>) -> Result<(Keys, Vec<String>), Mistakes> {
    let ours = environment.filter_map(|(name, value)| Some((name.strip_prefix("CHAINCAST__")?.to_owned(), value)));
    let mut figment = Figment::from(Serialized::defaults(file));
    for (name, value) in ours {
        let key = name.to_lowercase().replace("__", ".");
        // The provider reads numbers, booleans and lists as people write them.
        let value = value.parse::<figment::value::Value>().expect("any text is a value");
        figment = figment.merge(Serialized::default(&key, value));
    }
    let mut value: Value = figment.extract().map_err(|e| Mistakes(vec![e.to_string()]))?;
    let mut mistakes = Vec::new();
    loop {
        let mut unknown = Vec::new();
        let mut track = serde_path_to_error::Track::new();
        let tracked = serde_path_to_error::Deserializer::new(value.clone(), &mut track);
        match serde_ignored::deserialize::<_, _, Keys>(tracked, |path| unknown.push(path.to_string())) {
            Ok(keys) => {
                mistakes.extend(unknown.into_iter().map(|key| format!("{key}: unknown key")));
                return Ok((keys, mistakes));
            }
            Err(error) => {
                let path = track.path().to_string();
                mistakes.push(format!("{path}: {error}"));
                if !remove(&mut value, &path) {
                    return Err(Mistakes(mistakes));
                }
            }
        }
    }
}

/// Takes the value at a dotted path out. Returns whether there was one.
fn remove(value: &mut Value, path: &str) -> bool {
    let (parents, last) = path.rsplit_once('.').map_or(("", path), |(parents, last)| (parents, last));
    let parent = parents.split('.').filter(|part| !part.is_empty()).try_fold(value, |value, part| value.get_mut(part));
    parent.and_then(Value::as_object_mut).and_then(|object| object.remove(last)).is_some()
}

fn apply(keys: &mut Keys, flags: &Flags, mistakes: &mut Vec<String>) {
    let mut address =
        |flag: &str, text: &Option<String>, key: &mut std::net::SocketAddr| match text.as_ref().map(|t| t.parse()) {
            Some(Ok(address)) => *key = address,
            Some(Err(_)) => mistakes.push(format!("--{flag}: not an address like 127.0.0.1:8080")),
            None => {}
        };
    address("listen", &flags.listen, &mut keys.server.listen);
    address("admin", &flags.admin, &mut keys.server.admin);
    if let Some(dir) = &flags.data_dir {
        keys.data_dir = Some(dir.clone());
    }
    if flags.upstreams.is_empty() {
        return;
    }
    let only = keys.chain.keys().next().filter(|_| keys.chain.len() == 1).cloned();
    let name = keys.default_chain.clone().or(only).unwrap_or_else(|| "default".into());
    let mut urls: Vec<NodeUrl> = Vec::new();
    for (at, text) in flags.upstreams.iter().enumerate() {
        match text.parse() {
            Ok(url) => urls.push(url),
            Err(e) => mistakes.push(format!("--upstream: bad URL at place {}: {e}", at + 1)),
        }
    }
    keys.chain.entry(name).or_default().upstreams = keys::Upstreams(urls);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_text(text: &str, environment: &[(&str, &str)]) -> Result<Config, Vec<String>> {
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let file = parse(text).map_err(|e| vec![e])?;
        let (keys, mut mistakes) = layers(file, environment).map_err(|m| m.0)?;
        let app = build::options(&keys, &mut mistakes);
        if mistakes.is_empty() { Ok(Config { log: keys.log, app }) } else { Err(mistakes) }
    }

    const NODE: &str = "[chain.a]\nupstreams = [\"ws://127.0.0.1:1/key0123456789\"]\n";

    #[test]
    fn later_layers_win() {
        let text = format!("[server]\nping_interval = \"7s\"\n[limits]\nbatch_max = 3\n{NODE}");
        let config = load_text(&text, &[("CHAINCAST__LIMITS__BATCH_MAX", "4"), ("OTHER", "x")]).unwrap();
        assert_eq!(config.app.session.bounds.text.batch, 4);
        assert_eq!(config.app.hub.ping_interval.as_secs(), 7);
        let nodes = [("CHAINCAST__CHAIN__MAINNET__UPSTREAMS", "ws://a:1, ws://b:2")];
        assert_eq!(load_text("", &nodes).unwrap().app.chains[0].upstream.urls.len(), 2);
        let nodes = [("CHAINCAST__CHAIN__MAINNET__UPSTREAMS", "[\"ws://a:1\", \"ws://b:2\"]")];
        assert_eq!(load_text("", &nodes).unwrap().app.chains[0].upstream.urls.len(), 2);
    }

    #[test]
    fn every_mistake_is_named_by_its_key_and_no_secret_is_shown() {
        let text = "colour = 1\n[server]\nlisten = \"nowhere\"\nping_interval = \"soon\"\n[limits]\nbatch_max = \"many\"\ncalls_per_second = 0\nfoo = 1\n[chain.a]\nupstreams = [\"ftp://secret@h/topsecret\"]\n[chain.\"B C\"]\nupstreams = []\n";
        let mistakes = load_text(text, &[("CHAINCAST__LOG__FORMAT", "xml")]).unwrap_err();
        for key in [
            "colour: unknown key",
            "server.listen: ",
            "server.ping_interval: bad duration \"soon\"",
            "limits.batch_max: ",
            "limits.calls_per_second: ",
            "limits.foo: unknown key",
            "chain.a.upstreams: bad URL at place 1: scheme \"ftp\"",
            "chain.B C: ",
            "log.format: ",
        ] {
            assert!(mistakes.iter().any(|m| m.starts_with(key)), "{key} is not in {mistakes:#?}");
        }
        assert!(!mistakes.concat().contains("secret"));
        assert!(mistakes.iter().all(|m| !m.contains('\n')));
    }

    #[test]
    fn what_contradicts_itself_is_a_mistake() {
        let twice = "[chain.a]\nupstreams = [\"ws://h:1\"]\n[chain.a]\nupstreams = [\"ws://h:2\"]\n";
        assert!(load_text(twice, &[]).unwrap_err()[0].contains("line 3"), "{:?}", load_text(twice, &[]));
        for (text, key) in [
            (String::new(), "chain: "),
            (
                "[chain.a]\nupstreams = [\"ws://h:1\"]\n[chain.b]\nupstreams = [\"ws://h:1\"]\n".into(),
                "chain.b.upstreams: ",
            ),
            (
                "[chain.a]\nupstreams = [\"ws://h:1\"]\n[chain.b]\nupstreams = [\"ws://h:2\"]\n".into(),
                "default_chain: ",
            ),
            (format!("default_chain = \"x\"\n{NODE}"), "default_chain: "),
            ("[chain.a]\nupstreams = [\"http://h:1\"]\n".into(), "chain.a.upstreams: "),
            ("[chain.a]\nchain_id = 1\n".into(), "chain.a.upstreams: "),
            (format!("[server]\nlisten = \"127.0.0.1:9464\"\n{NODE}"), "server.admin: "),
            (format!("[limits]\ncalls_burst = 19\n{NODE}"), "limits.calls_burst: "),
        ] {
            let mistakes = load_text(&text, &[]).unwrap_err();
            assert!(mistakes.iter().any(|m| m.starts_with(key)), "{key} is not in {mistakes:?}");
        }
        let bad = load_text("[chain.a]\nupstreams = [\"ws://u:hunter2@h\n", &[]).unwrap_err();
        assert!(bad[0].starts_with("line 2: ") && !bad[0].contains("hunter2"), "{bad:?}");
    }

    #[test]
    fn the_shipped_file_is_complete_and_shows_the_defaults() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/chaincast.toml");
        let (file, text) = (read_file(&path).unwrap(), std::fs::read_to_string(&path).unwrap());
        let (keys, mistakes) = layers(file.clone(), std::iter::empty()).unwrap();
        assert_eq!(mistakes, Vec::<String>::new());
        let shown = Keys { chain: std::collections::BTreeMap::new(), default_chain: None, ..keys };
        assert_eq!(shown, Keys::default(), "the file shows the defaults");
        let defaults = serde_json::to_value(Keys::default()).unwrap();
        for (section, members) in
            defaults.as_object().unwrap().iter().filter(|(_, m)| m.is_object() && !m.as_object().unwrap().is_empty())
        {
            for (key, default) in members.as_object().unwrap() {
                let without = default.is_null() && text.contains(&format!("\n# {key} = "));
                assert!(without || file[section].get(key).is_some(), "{section}.{key} is not in the file");
            }
        }
        let flags = Flags { config: Some(path), ..Flags::default() };
        load(&flags, std::iter::empty()).unwrap();
    }
}
