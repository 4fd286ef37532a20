//! `chaincast bench`: each mode against a gateway or an endpoint that does wrong, and the comparison with few clients.

use std::net::TcpListener;
use std::process::Output;
use std::time::Duration;

use chaincast::devnode::{DevNode, DevOptions, Miner, MinerOptions, SharedChain, Span, Spoil};
use serde_json::Value;

use crate::operations::daemon::{Daemon, chaincast};

fn node(chain: &SharedChain) -> DevNode {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    DevNode::start(chain.clone(), listener).expect("the node starts")
}

fn miner(chain: &SharedChain) -> Miner {
    let options = MinerOptions { period: Duration::from_millis(10), reorg_probability: 0.0, ..MinerOptions::default() };
    Miner::start(chain.clone(), options)
}

async fn bench(args: &[&str]) -> Output {
    let mut command = chaincast(&[&["bench", "--json"], args].concat());
    tokio::task::spawn_blocking(move || command.output().expect("the binary runs")).await.expect("it ends")
}

/// What a run printed, which is one JSON document.
fn report(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("not one JSON document: {e}; it said {said}"))
}

/// The report of a run in which nothing is void.
async fn good(args: &[&str]) -> Value {
    let output = bench(args).await;
    let report = report(&output);
    assert_eq!(report["void"], Value::Null, "{args:?}: {report}");
    assert!(output.status.success(), "{args:?}: {report}");
    report
}

fn assert_positive(report: &Value, figures: &[&str]) {
    for figure in figures {
        let value = report.pointer(figure).and_then(Value::as_f64);
        assert!(value.is_some_and(|value| value > 0.0), "{figure} is not positive in {report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_is_measured_in_every_mode() {
    let chain = SharedChain::new(DevOptions::default());
    let (node, _miner) = (node(&chain), miner(&chain));
    let gateway = Daemon::run(&[&node.ws_url()], &[]).await;
    let (url, pid) = (format!("ws://{}", gateway.public), gateway.pid().to_string());
    let base = ["--url", &url, "--pid", &pid, "--clients", "60"];
    for logs in [&[][..], &["--logs", "--filter", r#"{"topics":[]}"#][..]] {
        let measure = good(&[&base[..], &["--blocks", "5"], logs].concat()).await;
        assert!(measure["deliveries"].as_u64() >= Some(4 * 60), "{measure}");
        let figures = ["/deliveries_per_cpu_second", "/bytes_per_delivery", "/latency_ms/max", "/generator_share"];
        assert_positive(&measure, &figures);
    }
    let storm = good(&[&base[..], &["--storm"]].concat()).await;
    assert_positive(&storm, &["/connects_per_second", "/connects_per_cpu_second"]);
    let idle = good(&[&base[..], &["--idle"]].concat()).await;
    assert!(idle["rss_per_client_bytes"].is_f64() && idle["rss_left_per_client_bytes"].is_f64(), "{idle}");
    let stuck = good(&[&base[..], &["--stuck", "10"]].concat()).await["stuck"].take();
    assert_eq!((stuck["clients"].as_u64(), stuck["full"].as_u64()), (Some(6), Some(6)), "{stuck}");
    assert!(stuck["unread_bytes"].as_u64() > Some(1_000), "they do not read: {stuck}");
}

/// What a run against a node says that announces heads in a wrong way.
async fn void_by(spoil: Spoil, span: Span) -> String {
    let chain = SharedChain::new(DevOptions::default());
    let (node, _miner) = (node(&chain), miner(&chain));
    node.faults().spoil("newHeads", spoil, span);
    let output = bench(&["--url", &node.ws_url(), "--clients", "60", "--blocks", "5"]).await;
    assert_eq!(output.status.code(), Some(1));
    report(&output)["void"].as_str().expect("the run is void").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_comes_twice_voids_the_run() {
    let why = void_by(Spoil::Twice, Span::Always).await;
    assert!(why.contains("twice") || why.contains("again"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_does_not_come_voids_the_run() {
    // The parent of each head is one that nobody was told of.
    let orphaned = Spoil::rewrite(|head| head["parentHash"] = head["stateRoot"].clone());
    let why = void_by(orphaned, Span::Always).await;
    assert!(why.contains("missed by all clients"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_measured_is_said() {
    for (args, word) in [
        (&["--url", "wss://127.0.0.1:1"][..], "--insecure"),
        (&["--url", "ftp://127.0.0.1"], "ws://"),
        (&["--url", "ws://127.0.0.1:1", "--blocks", "0"], "at least 1"),
        (&["--url", "ws://127.0.0.1:1", "--logs", "--filter", "[]"], "a JSON object"),
        (&["--baseline", "--only", "nothing"], "heads-5000"),
        (&["--baseline", "--scale", "2"], "--scale"),
        (&["--baseline", "--url", "ws://127.0.0.1:1"], "cannot be used"),
        (&[], "--url"),
    ] {
        let output = bench(args).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(word), "{args:?}: {said}");
    }
    let output = bench(&["--url", "ws://127.0.0.1:1"]).await;
    assert!(report(&output)["void"].as_str().is_some_and(|why| why.contains("cannot connect")));
}

/// Runs that the gateway cannot serve yet, and the word with which it says so.
const NOT_YET: [(&str, &str); 1] = [("deflate-5000", "unknown key")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_comparison_has_a_figure_for_every_row() {
    let output = bench(&["--baseline", "--rounds", "1", "--scale", "0.004"]).await;
    let (report, said) = (report(&output), String::from_utf8_lossy(&output.stderr));
    assert!(
        said.contains("round 1: floor-5000: ") && said.contains("cores of "),
        "each run is told as it ends: {said}"
    );
    let runs = report["runs"].as_array().expect("there are runs");
    let mut missing = Vec::new();
    for run in runs {
        let (name, void) = (run["run"].as_str().expect("it has a name"), run["void"].as_str());
        match void {
            Some(why) if NOT_YET.iter().any(|(run, word)| *run == name && why.contains(word)) => missing.push(name),
            Some(why) => panic!("{name} is void: {why}"),
            None => {}
        }
        if name == "stuck-5000" {
            assert!(run["stuck"]["full"] == run["stuck"]["clients"] && run["stuck"]["full"] != 0, "{run}");
        }
    }
    for row in report["rows"].as_array().expect("there are rows") {
        let name = row["name"].as_str().expect("it has a name");
        let unserved = name.starts_with("compress") && missing.contains(&"deflate-5000");
        // So few clients may fit into the memory that the server has.
        let least = if name.starts_with("idle") || name == "filters-rss" { 0.0 } else { f64::MIN_POSITIVE };
        let median = row.pointer("/measured/median").and_then(Value::as_f64);
        assert!(unserved || median.is_some_and(|median| median >= least), "{row}");
    }
}
