//! Six stock client libraries on one gateway at the same time, against a real Geth: what each received must be
//! exactly what the node itself says. Owns the run; the comparison is in `judge`.

mod judge;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use self::judge::{Oracle, plain_log};
use crate::alloy_client::{self, Options, Start};
use crate::harness::geth::{COUNTER_CALL, Geth, class_topic, hex};
use crate::harness::stage::CHAIN;
use crate::harness::tls::Files;
use crate::harness::tools::{self, Program};
use crate::harness::{Gateway, GatewayOptions, until};

/// Blocks that every client must have.
const BLOCKS: u64 = 20;
/// The class of ticks that the filters ask for: about a quarter of the contract's transactions.
const CLASS: u64 = 1;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_stock_clients_receive_exactly_the_chain() {
    receive_exactly_the_chain("false", 0).await;
}

/// viem, ethers, web3.js and web3.py offer compression by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_stock_clients_receive_exactly_the_chain_where_compression_is_on() {
    receive_exactly_the_chain("true", 4).await;
}

async fn receive_exactly_the_chain(compression: &str, compressed: i64) {
    let geth = Geth::start().await;
    let contract = geth.deploy_tick().await;
    let options = GatewayOptions::upstream(geth.ws_url()).set("server.compression", compression);
    let gateway = Gateway::start(options).await;
    let traffic = geth.traffic(&contract);

    let gauge = gateway.metrics.compressed_clients.with_label_values(&[CHAIN]);
    let url = gateway.ws_url();
    let all = follow(&geth, &url, &contract, None);
    let watched = async { until("those that can have negotiated it", async || gauge.get() == compressed).await };
    let ((first, documents), ()) = tokio::join!(all, watched);
    drop(traffic);
    assert_eq!(documents.len(), tools::CLIENT_PROGRAMS.len() + 1);
    are_exact(&geth, &contract, first, &documents).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_stock_clients_receive_exactly_the_chain_by_tls() {
    let geth = Geth::start().await;
    let contract = geth.deploy_tick().await;
    let files = Files::new("stock-clients");
    let gateway = Gateway::start(GatewayOptions::upstream(geth.ws_url()).tls(&files)).await;
    let traffic = geth.traffic(&contract);

    let authority = files.path("authority.pem");
    let (first, documents) = follow(&geth, &gateway.ws_url(), &contract, Some(&authority)).await;
    drop(traffic);
    assert_eq!(documents.len(), tools::CLIENT_PROGRAMS.len());
    are_exact(&geth, &contract, first, &documents).await;
    assert!(gateway.metrics.tls_handshakes.with_label_values(&["ok"]).get() >= 5);
    gateway.stop().await;
}

async fn are_exact(geth: &Geth, contract: &str, first: u64, documents: &[Value]) {
    let oracle = oracle(geth, contract, first, documents).await;
    let faults: Vec<_> = documents.iter().flat_map(|document| judge::faults(document, &oracle)).collect();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// Alloy, at work in this process.
struct Alloy {
    ready: oneshot::Receiver<()>,
    first: oneshot::Sender<u64>,
    document: JoinHandle<Value>,
}

impl Alloy {
    fn start(options: Options) -> Self {
        let (ready, is_ready) = oneshot::channel();
        let (first, begin) = oneshot::channel();
        let document = tokio::spawn(alloy_client::follow(options, Start { ready, first: begin }));
        Self { ready: is_ready, first, document }
    }
}

/// Runs all clients over the same blocks; gives the first of these, and the clients' documents. Where they are to trust
/// an authority of the tests' own, alloy is not among them: it knows the system's only.
async fn follow(geth: &Geth, url: &str, contract: &str, authority: Option<&str>) -> (u64, Vec<Value>) {
    let class = class_topic(CLASS);
    let blocks = BLOCKS.to_string();
    // Node reads the one, Python and Go the other.
    let trust = authority.into_iter().flat_map(|file| [("NODE_EXTRA_CA_CERTS", file), ("SSL_CERT_FILE", file)]);
    let start = |name: &&str| {
        let mut command = tools::client(name);
        command.args([url, contract, &class, &blocks]).envs(trust.clone());
        Program::start(name, &mut command)
    };
    let mut programs: Vec<_> = tools::CLIENT_PROGRAMS.iter().map(start).collect();
    let options =
        Options { url: url.to_owned(), contract: contract.to_owned(), class_topic: class.clone(), blocks: BLOCKS };
    let mut alloy = authority.is_none().then(|| Alloy::start(options));

    for program in &mut programs {
        program.ready().await;
    }
    if let Some(alloy) = &mut alloy {
        (&mut alloy.ready).await.expect("alloy subscribes");
    }
    let first = geth.head().await + 1;
    for program in &mut programs {
        program.begin(first);
    }
    let mut documents = Vec::new();
    let alloy = alloy.map(|alloy| {
        alloy.first.send(first).expect("alloy is still there");
        alloy.document
    });
    for program in programs {
        documents.push(program.document().await);
    }
    if let Some(document) = alloy {
        documents.push(document.await.expect("alloy ends well"));
    }
    (first, documents)
}

/// Asks the node for everything that any of the documents may hold.
async fn oracle(geth: &Geth, contract: &str, first: u64, documents: &[Value]) -> Oracle {
    let (lowest, _) = judge::span(documents);
    let mut oracle = Oracle {
        contract: contract.to_owned(),
        class: class_topic(CLASS),
        must_have: first..=first + BLOCKS - 1,
        blocks: BTreeMap::new(),
        logs: Vec::new(),
        counters: BTreeMap::new(),
    };
    for number in lowest..=geth.head().await {
        let block = geth.block(number).await;
        let logs = geth.logs(block["hash"].as_str().expect("a block has a hash")).await;
        oracle.logs.extend(logs.as_array().expect("logs are a list").iter().map(plain_log));
        let call = json!([{ "to": contract, "data": COUNTER_CALL }, hex(number)]);
        oracle.counters.insert(number, geth.ask("eth_call", call).await);
        oracle.blocks.insert(number, block);
    }
    oracle
}
