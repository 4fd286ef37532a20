//! Where the programs lie that `tests/setup.sh` installs, and how a client program is run. Installs nothing, skips
//! nothing: a missing program is a failure that says how to get it.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::JoinHandle;

use serde_json::Value;
use tokio::sync::mpsc;

/// The Geth that the tests run beside the gateway.
pub(crate) fn geth() -> PathBuf {
    installed("bin/geth")
}

/// The Anvil that the tests run beside the gateway.
pub(crate) fn anvil() -> PathBuf {
    installed("npm/node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil")
}

/// The six client programs, less alloy, which runs in the test's own process.
pub(crate) const CLIENT_PROGRAMS: [&str; 5] = ["viem", "ethers", "web3js", "web3py", "ethclient"];

/// How to run one of [`CLIENT_PROGRAMS`]; its arguments are in `tests/clients/README.md`.
pub(crate) fn client(name: &str) -> Command {
    match name {
        "ethclient" => Command::new(installed("bin/ethclient")),
        "web3py" => program("web3py.py"),
        _ => program(&format!("{name}.mjs")),
    }
}

/// How to run a file of `tests/clients`, in Python or for Node by its ending.
pub(crate) fn program(file: &str) -> Command {
    let python = Path::new(file).extension().is_some_and(|ending| ending == "py");
    let mut command = if python {
        Command::new(installed("python/bin/python"))
    } else {
        // Node finds the packages by the link that setup.sh puts beside the programs.
        installed("npm/node_modules");
        Command::new("node")
    };
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(file));
    command
}

/// A path in the cache, by the same rule as in `tests/setup.sh`.
fn installed(path: &str) -> PathBuf {
    let home = |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = home("CHAINCAST_CACHE")
        .or_else(|| home("XDG_CACHE_HOME").map(|base| base.join("chaincast")))
        .or_else(|| home("HOME").map(|base| base.join(".cache/chaincast")))
        .expect("one of CHAINCAST_CACHE, XDG_CACHE_HOME, HOME says where the test tools lie");
    let found = cache.join(path);
    assert!(found.exists(), "{} is missing: run tests/setup.sh, or `make setup`", found.display());
    found
}

/// A running client program: it says `ready`, is told the first block that counts, and ends with a document.
pub(crate) struct Program {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
    complaints: Option<JoinHandle<String>>,
}

impl Program {
    /// Starts `command`, with its three streams held here.
    pub(crate) fn start(name: &str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}; run tests/setup.sh"));
        let (sender, lines) = mpsc::channel(16);
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        let mut stderr = child.stderr.take().expect("stderr is piped");
        let complaints = std::thread::spawn(move || {
            let mut text = Vec::new();
            // What was read before an error is still worth showing.
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Self { name: name.to_owned(), stdin: child.stdin.take(), child, lines, complaints: Some(complaints) }
    }

    /// Waits until each of its subscriptions has brought something.
    pub(crate) async fn ready(&mut self) {
        let line = self.line().await;
        assert_eq!(line, "ready", "{} speaks out of turn", self.name);
    }

    /// Tells it the first block that counts.
    pub(crate) fn begin(&mut self, first: u64) {
        let mut stdin = self.stdin.take().expect("begin is called once");
        writeln!(stdin, "{first}").unwrap_or_else(|error| panic!("{} does not read: {error}", self.name));
    }

    /// Waits for its end and gives what it printed.
    pub(crate) async fn document(mut self) -> Value {
        let line = self.line().await;
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{} prints no document: {error}: {line}", self.name))
    }

    async fn line(&mut self) -> String {
        if let Some(line) = self.lines.recv().await {
            return line;
        }
        let complaints = self.complaints.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        panic!("{} ended without an answer:\n{complaints}", self.name);
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only where the program has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
