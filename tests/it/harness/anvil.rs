//! A real Anvil of this test's own, on a port it chooses itself. Mines only when told to.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use jsonrpsee::http_client::{HttpClient, HttpClientBuilder};
use serde_json::{Value, json};

use super::geth::{TICK_CODE, ask, tick_call};
use super::tools;

/// A running Anvil; ended when dropped.
pub(crate) struct Anvil {
    child: Child,
    address: String,
    rpc: HttpClient,
    account: String,
}

impl Anvil {
    /// Starts one and waits until it listens.
    pub(crate) async fn start() -> Self {
        let mut child = Command::new(tools::anvil())
            .args(["--port", "0", "--host", "127.0.0.1", "--no-mining", "--order", "fifo"])
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("Anvil starts; run tests/setup.sh if it is missing");
        let stdout = child.stdout.take().expect("stdout is piped");
        let address = tokio::task::spawn_blocking(move || {
            let mut lines = BufReader::new(stdout).lines();
            let found = lines.find_map(|line| line.ok()?.strip_prefix("Listening on ").map(str::to_owned));
            // Anvil ends when nobody reads what it prints.
            std::thread::spawn(move || lines.for_each(drop));
            found
        });
        let address = address.await.expect("the reader does not panic").expect("Anvil says where it listens");
        let rpc = HttpClientBuilder::default().build(format!("http://{address}")).expect("it is a URL");
        let accounts = ask(&rpc, "eth_accounts", json!([])).await;
        let account = accounts[0].as_str().expect("Anvil has accounts").to_owned();
        Self { child, address, rpc, account }
    }

    pub(crate) fn ws_url(&self) -> String {
        format!("ws://{}", self.address)
    }

    pub(crate) async fn ask(&self, method: &str, params: Value) -> Value {
        ask(&self.rpc, method, params).await
    }

    /// Deploys the contract that emits logs, in a block of its own.
    pub(crate) async fn deploy_tick(&self) -> String {
        let hash = self
            .ask("eth_sendTransaction", json!([{"from": self.account, "data": TICK_CODE, "gas": "0x100000"}]))
            .await;
        self.mine().await;
        let receipt = self.ask("eth_getTransactionReceipt", json!([hash])).await;
        receipt["contractAddress"].as_str().expect("it is deployed").to_owned()
    }

    /// Mines a block with a transaction that emits `logs` logs.
    pub(crate) async fn mine_ticks(&self, contract: &str, logs: u64) {
        let call = json!({"from": self.account, "to": contract, "data": tick_call(logs, 1), "gas": "0x100000"});
        self.ask("eth_sendTransaction", json!([call])).await;
        self.mine().await;
    }

    pub(crate) async fn mine(&self) {
        self.ask("evm_mine", json!([])).await;
    }

    /// The canonical blocks from `first` on, and all of their logs.
    pub(crate) async fn chain(&self, first: u64) -> (Vec<Value>, Vec<Value>) {
        let (mut hashes, mut logs) = (Vec::new(), Vec::new());
        for number in first.. {
            let block = self.ask("eth_getBlockByNumber", json!([format!("{number:#x}"), false])).await;
            if block.is_null() {
                break;
            }
            let of_block = self.ask("eth_getLogs", json!([{"blockHash": block["hash"]}])).await;
            logs.extend(of_block.as_array().expect("it is a list").iter().cloned());
            hashes.push(block["hash"].clone());
        }
        (hashes, logs)
    }
}

impl Drop for Anvil {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to end.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
