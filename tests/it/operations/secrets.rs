//! Node URLs carry keys: whatever happens to the nodes, no part of them but the host is said anywhere.

use chaincast::devnode::{DevNode, Handshake, Span, Spoil};
use serde_json::json;

use super::daemon::Daemon;
use crate::harness::stage::{new_chain, new_node};
use crate::harness::{Watcher, http, until};

/// Every part of the URLs that is a secret, and the user part as an HTTP header would carry it.
const SECRETS: [&str; 8] = [
    "hunter2user",
    "hunter2word",
    "topsecretpath",
    "topsecretquery",
    "bottomsecretpath",
    "tailsecret",
    "aHVudGVyMnVzZXI6aHVudGVyMndvcmQ",
    "wrongsecretpath",
];

fn secret_url(scheme: &str, node: &DevNode, rest: &str) -> String {
    format!("{scheme}://hunter2user:hunter2word@{}/{rest}", node.address())
}

/// Attempts to connect that failed, over all nodes.
fn failures(metrics: &str) -> u64 {
    let lines = metrics.lines().filter(|line| line.contains("connects_total") && line.contains("failed"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

#[tokio::test]
async fn nothing_of_a_node_url_but_its_host_is_said_even_at_trace_level() {
    let chain = new_chain();
    let (node, calls_only, wrong) = (new_node(&chain), new_node(&chain), new_node(&chain));
    wrong.faults().set_handshake(Handshake::Html);
    let urls = [
        secret_url("ws", &node, "v3/topsecretpath?key=topsecretquery"),
        secret_url("http", &calls_only, "bottomsecretpath/tailsecret"),
        secret_url("ws", &wrong, "wrongsecretpath"),
    ];
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let environment = [("CHAINCAST__LOG__LEVEL", "trace"), ("CHAINCAST__UPSTREAM__BACKOFF_MAX", "200ms")];
    let mut daemon = Daemon::run(&urls, &environment).await;
    daemon.ready().await;
    let mut watcher = Watcher::start(&daemon.ws_url()).await;
    watcher.lives(&chain).await;
    let mut said = vec![watcher.client.call("chaincast_status", json!([])).await.to_string()];
    node.faults().spoil("eth_call", Spoil::Error(-32_000, "no such key".into()), Span::Always);
    said.push(watcher.client.call("eth_call", json!([{}, "latest"])).await.to_string());

    for fault in [Handshake::Html, Handshake::AcceptAndClose] {
        node.faults().set_handshake(fault);
        let before = failures(&http::get(daemon.admin, "/metrics").await.body);
        node.faults().cut_connections();
        until("it has failed with that", async || {
            failures(&http::get(daemon.admin, "/metrics").await.body) >= before + 4
        })
        .await;
    }
    calls_only.faults().refuse_connections(true).expect("the port is given back");
    node.faults().refuse_connections(true).expect("the port is given back");
    calls_only.faults().cut_connections();
    said.push(watcher.client.call("eth_call", json!([{}, "latest"])).await.to_string());
    node.faults().set_handshake(Handshake::Accept);
    node.faults().refuse_connections(false).expect("the port is free");
    watcher.lives(&chain).await;
    for path in ["/metrics", "/readyz"] {
        said.push(http::get(daemon.admin, path).await.body);
    }
    drop(watcher);
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.code(), Some(0));

    said.extend([daemon.stderr(), daemon.stdout()]);
    assert!(daemon.stderr().contains(" DEBUG chaincast"), "it says all that it has to say");
    assert!(said.concat().contains(&node.address().to_string()), "the host is said");
    for secret in SECRETS {
        for text in &said {
            let lines: Vec<_> = text.lines().filter(|line| line.contains(secret)).take(3).collect();
            assert!(lines.is_empty(), "{secret} is said:\n{}", lines.join("\n"));
        }
    }
}
