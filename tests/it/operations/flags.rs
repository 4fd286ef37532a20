//! The command line and the configuration: each mistake is one line that names its key, with exit code 2.

use super::daemon::{Daemon, chaincast};
use std::net::TcpListener;
use std::path::PathBuf;

/// A file of this test alone, which goes with it.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("chaincast-flags-{}-{name}.toml", std::process::id()));
        std::fs::write(&path, text).expect("the folder for temporary files can be written");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("it is UTF-8")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // It fails only where the file is gone.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// How a command ended, and what it said.
struct Output {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

async fn output(args: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut process = Daemon::start(chaincast(args).envs(environment.iter().copied()));
    let code = process.ended().await.code();
    Output { code, stdout: process.stdout(), stderr: process.stderr() }
}

/// It ends with code 2, says nothing on standard output, and one line a mistake, each beginning as given.
async fn is_wrong(args: &[&str], environment: &[(&str, &str)], lines: &[&str]) {
    let Output { code, stdout, stderr: said } = output(args, environment).await;
    assert_eq!((code, stdout.as_str()), (Some(2), ""), "{args:?}: {said}");
    assert_eq!(said.lines().count(), lines.len(), "{args:?}:\n{said}");
    for (line, start) in said.lines().zip(lines) {
        assert!(line.starts_with(start), "{line:?} does not begin with {start:?}");
    }
}

const NODE: &str = "ws://127.0.0.1:1";

#[tokio::test]
async fn mistakes_of_flags_and_environment() {
    let run = ["run", "--upstream", NODE];
    is_wrong(&["run"], &[], &["chain: no chain is configured"]).await;
    is_wrong(&["run", "--upstream", "localhost:8546"], &[], &["--upstream: bad URL at place 1: "]).await;
    is_wrong(&["run", "--upstream", "ftp://127.0.0.1"], &[], &["--upstream: bad URL at place 1: scheme \"ftp\""]).await;
    is_wrong(&["run", "--upstream", "http://127.0.0.1:1"], &[], &["chain.default.upstreams: at least one ws://"]).await;
    is_wrong(&[&run[..], &["--listen", "nowhere"]].concat(), &[], &["--listen: not an address"]).await;
    is_wrong(&[&run[..], &["--admin", "127.0.0.1"]].concat(), &[], &["--admin: not an address"]).await;
    is_wrong(&[&run[..], &["--config", "/no/such/file.toml"]].concat(), &[], &["--config /no/such/file.toml: "]).await;
    for (name, value, line) in [
        ("CHAINCAST__SERVER__PING_INTERVAL", "soon", "server.ping_interval: bad duration \"soon\""),
        ("CHAINCAST__SERVER__PING_INTERVAL", "10", "server.ping_interval: "),
        ("CHAINCAST__SERVER__PINGS", "10s", "server.pings: unknown key"),
        ("CHAINCAST__LIMITS__BATCH_MAX", "many", "limits.batch_max: "),
        ("CHAINCAST__LIMITS__BATCH_MAX", "-1", "limits.batch_max: "),
        ("CHAINCAST__LIMITS__CALLS_PER_SECOND", "0", "limits.calls_per_second: "),
        ("CHAINCAST__LOG__LEVEL", "chaincast=loud", "log.level: "),
        ("CHAINCAST__LOG__FORMAT", "xml", "log.format: "),
    ] {
        is_wrong(&run, &[(name, value)], &[line]).await;
    }
}

#[tokio::test]
async fn mistakes_of_a_file_are_all_found_at_once() {
    let many = File::new(
        "many",
        "colour = 1\n[server]\nping_interval = \"soon\"\n[limits]\nbatch_maxx = 1\n\
         [chain.a]\nupstreams = [\"nonsense\"]\n[chain.b]\nupstreams = [\"ws://127.0.0.1:1\"]\n",
    );
    let output = output(&["check", "--config", many.path()], &[]).await;
    let said = output.stderr;
    assert_eq!(output.code, Some(2));
    for key in ["colour: ", "server.ping_interval: ", "limits.batch_maxx: ", "chain.a.upstreams: ", "default_chain: "] {
        assert_eq!(said.lines().filter(|line| line.starts_with(key)).count(), 1, "{key} in\n{said}");
    }

    let twice = File::new("twice", "[chain.a]\nupstreams = [\"ws://h:1\"]\n[chain.a]\nupstreams = [\"ws://h:2\"]\n");
    is_wrong(&["check", "--config", twice.path()], &[], &[&format!("{}: line 3: ", twice.path())]).await;
    let same = File::new(
        "same",
        "default_chain = \"a\"\n[chain.a]\nupstreams = [\"ws://h:1\"]\n[chain.b]\nupstreams = [\"ws://h:1\"]\n",
    );
    is_wrong(&["run", "--config", same.path()], &[], &["chain.b.upstreams: duplicate chain"]).await;
    let broken = File::new("broken", "[chain.a\n");
    is_wrong(&["run", "--config", broken.path()], &[], &[&format!("{}: line 1: ", broken.path())]).await;
}

#[tokio::test]
async fn a_port_in_use_names_its_key() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    for (flag, other, key) in [("--listen", "--admin", "server.listen"), ("--admin", "--listen", "server.admin")] {
        let args = ["run", "--upstream", NODE, flag, &address, other, "127.0.0.1:0"];
        is_wrong(&args, &[("CHAINCAST__LOG__LEVEL", "error")], &[&format!("{key}: cannot listen on {address}: ")])
            .await;
    }
    let args = ["demo", "--listen", &address, "--admin", "127.0.0.1:0"];
    is_wrong(&args, &[], &[&format!("server.listen: cannot listen on {address}: ")]).await;
    is_wrong(&["demo", "--period", "1ms"], &[], &["--period: "]).await;
}

#[tokio::test]
async fn the_shipped_file_is_right() {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/config/chaincast.toml");
    let output = output(&["check", "--config", shipped], &[]).await;
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""));
    assert_eq!(output.stdout, format!("{shipped}: the configuration is right\n"));
    is_wrong(&["check", "--config", shipped], &[("CHAINCAST__LIMITS__FOO", "1")], &["limits.foo: unknown key"]).await;
}

#[tokio::test]
async fn what_fails_later_has_another_code() {
    let args = ["run", "--upstream", NODE, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let output = output(&[&args[..], &["--data-dir", "/dev/null/state"]].concat(), &[]).await;
    let said = output.stderr;
    assert_eq!(output.code, Some(1), "{said}");
    assert!(said.contains("data_dir: cannot make /dev/null/state"), "{said}");
}

#[tokio::test]
async fn a_wrong_command_line_has_code_two_and_says_how_it_goes() {
    for args in [&["fly"][..], &["run", "--colour", "red"], &["check"], &[]] {
        let output = output(args, &[]).await;
        assert_eq!(output.code, Some(2), "{args:?}");
        assert!(output.stderr.contains("Usage: chaincast"), "{args:?}");
    }
}
