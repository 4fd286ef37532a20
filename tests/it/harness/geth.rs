//! A real Geth in development mode: started on ports of the system's choosing, filled with logs, asked for the
//! truth over HTTP, and killed by its id. Owns the node and the log-emitting contract; judges nothing.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jsonrpsee::core::client::ClientT;
use jsonrpsee::core::params::ArrayParams;
use jsonrpsee::http_client::{HttpClient, HttpClientBuilder};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::tools;

/// Longest time Geth may take to open its port.
const START_DEADLINE: Duration = Duration::from_mins(1);
/// Longest time a transaction may take to be mined, with a block a second.
const MINED_WITHIN_MS: u64 = 20_000;
/// Lines of Geth's log that a failure shows.
const LOG_TAIL: usize = 40;

/// The first topic of the contract's `Tick(uint256 indexed block, uint256 indexed counter, uint256 indexed class,
/// uint256 square)`: the Keccak-256 hash of `Tick(uint256,uint256,uint256,uint256)`.
pub(crate) const TICK_TOPIC: &str = "0x7bfea6d418fb00bb067e99ca77a9a0c06833d1099beaf2c7c6bc4be07c139a08";

/// The contract's `counter()`: how many ticks there were. Any call with less than 5 bytes of data answers that.
pub(crate) const COUNTER_CALL: &str = "0x61bc221a";

/// Deployment code of the contract, hand-written:
/// ```text
///         PUSH1 5e  PUSH1 0a  PUSH0  CODECOPY  PUSH1 5e  PUSH0  RETURN      deploy what follows
///         PUSH1 05  CALLDATASIZE  LT  PUSH1 @read  JUMPI                    no arguments: only read
///         PUSH0  SLOAD                                                      [counter]
///         PUSH1 04  CALLDATALOAD                                            [counter, left]
/// loop:   DUP1  ISZERO  PUSH1 @done  JUMPI
///         DUP2  DUP1  MUL  PUSH0  MSTORE                                    data = counter * counter
///         PUSH1 24  CALLDATALOAD  DUP3  NUMBER  PUSH32 TICK                 topics: TICK, block, counter, class
///         PUSH1 20  PUSH0  LOG4
///         SWAP1  PUSH1 01  ADD  SWAP1  PUSH1 01  SWAP1  SUB                 [counter + 1, left - 1]
///         PUSH1 @loop  JUMP
/// done:   POP  PUSH1 20  PUSH0  LOG0  PUSH0  SSTORE                         one log without topics; keep counter
/// read:   PUSH0  SLOAD  PUSH0  MSTORE  PUSH1 20  PUSH0  RETURN
/// ```
pub(crate) const TICK_CODE: &str = concat!(
    "0x605e600a5f39605e5ff3",
    "600536106055575f546004355b8015604d578180025f52602435824",
    "37f7bfea6d418fb00bb067e99ca77a9a0c06833d1099beaf2c7c6bc4be07c139a08",
    "60205fa4906001019060019003600c565b5060205fa05f555b5f545f5260205ff3"
);

/// A node of its own, with a block a second.
pub(crate) struct Geth {
    child: Child,
    address: String,
    account: String,
    rpc: HttpClient,
    folder: PathBuf,
}

impl Geth {
    /// Starts a node in an empty folder; returns when its port answers.
    pub(crate) async fn start() -> Self {
        let folder = fresh_folder();
        let mut child = command(&folder).spawn().expect("geth starts");
        let log = Arc::new(Mutex::new(VecDeque::with_capacity(LOG_TAIL)));
        let opened = read_log(child.stderr.take().expect("stderr is piped"), Arc::clone(&log));
        let Ok(Ok(address)) = tokio::time::timeout(START_DEADLINE, opened).await else {
            // Killed on the way out: a panic here must leave no node behind.
            let _ = child.kill();
            let _ = child.wait();
            let tail = log.lock().expect("no reader of the log panics").iter().cloned().collect::<Vec<_>>();
            panic!("geth opened no port:\n{}", tail.join("\n"));
        };
        let rpc = HttpClientBuilder::default().build(format!("http://{address}")).expect("the address is a URL");
        let mut geth = Self { child, address, account: String::new(), rpc, folder };
        geth.account = text(&geth.ask("eth_accounts", json!([])).await[0]);
        geth
    }

    /// Geth serves WebSocket and HTTP on one port when it chooses the port itself.
    pub(crate) fn ws_url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Host and port, for raw HTTP.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The development account, which Geth keeps unlocked.
    pub(crate) fn account(&self) -> &str {
        &self.account
    }

    /// A call over HTTP that must succeed.
    pub(crate) async fn ask(&self, method: &str, params: Value) -> Value {
        ask(&self.rpc, method, params).await
    }

    /// The newest block's number.
    pub(crate) async fn head(&self) -> u64 {
        quantity(&self.ask("eth_blockNumber", json!([])).await)
    }

    /// A block by its number, with transaction hashes.
    pub(crate) async fn block(&self, number: u64) -> Value {
        self.ask("eth_getBlockByNumber", json!([hex(number), false])).await
    }

    /// All logs of the block with this hash.
    pub(crate) async fn logs(&self, block_hash: &str) -> Value {
        self.ask("eth_getLogs", json!([{ "blockHash": block_hash }])).await
    }

    /// Puts the contract on the chain and gives its address.
    pub(crate) async fn deploy_tick(&self) -> String {
        let receipt = self.send_and_wait(json!({ "data": TICK_CODE })).await;
        assert_eq!(receipt["status"], "0x1", "the contract is deployed: {receipt}");
        text(&receipt["contractAddress"])
    }

    /// A signed transaction with the next nonce, not sent.
    pub(crate) async fn signed(&self, transaction: Value) -> String {
        let mut transaction = transaction;
        let nonce = self.ask("eth_getTransactionCount", json!([self.account, "pending"])).await;
        let extra = json!({
            "from": self.account, "nonce": nonce, "gas": hex(1_000_000),
            "maxFeePerGas": hex(10_000_000_000), "maxPriorityFeePerGas": hex(1_000_000),
        });
        for (key, value) in extra.as_object().expect("written as an object above") {
            transaction[key] = value.clone();
        }
        text(&self.ask("eth_signTransaction", json!([transaction])).await["raw"])
    }

    /// Sends a transaction of the development account; its receipt when it is mined.
    pub(crate) async fn send_and_wait(&self, transaction: Value) -> Value {
        let raw = self.signed(transaction).await;
        self.ask("eth_sendRawTransactionSync", json!([raw, MINED_WITHIN_MS])).await
    }

    /// Goes on calling the contract, about 4 times a block: classes 0 to 3 in turn, 1 to 3 ticks a call.
    pub(crate) fn traffic(&self, contract: &str) -> Traffic {
        let (rpc, from, to) = (self.rpc.clone(), self.account.clone(), contract.to_owned());
        Traffic(tokio::spawn(async move {
            let mut beat = tokio::time::interval(Duration::from_millis(250));
            for turn in 0u64.. {
                beat.tick().await;
                let data = tick_call(1 + turn % 3, turn % 4);
                let call = json!([{ "from": from, "to": to, "data": data, "gas": hex(1_000_000) }]);
                ask(&rpc, "eth_sendTransaction", call).await;
            }
        }))
    }
}

impl Drop for Geth {
    fn drop(&mut self) {
        // Each fails only where there is nothing left to do; a drop must not panic.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Transactions that keep coming until this is dropped.
pub(crate) struct Traffic(JoinHandle<()>);

impl Drop for Traffic {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Call data that makes the contract tick `ticks` times with this class.
pub(crate) fn tick_call(ticks: u64, class: u64) -> String {
    format!("0xcccfdf1e{ticks:064x}{class:064x}")
}

/// The fourth topic of a tick of this class.
pub(crate) fn class_topic(class: u64) -> String {
    format!("0x{class:064x}")
}

/// A JSON-RPC quantity.
pub(crate) fn hex(number: u64) -> String {
    format!("{number:#x}")
}

/// The number a JSON-RPC quantity stands for.
pub(crate) fn quantity(value: &Value) -> u64 {
    let digits = value.as_str().and_then(|text| text.strip_prefix("0x"));
    digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or_else(|| panic!("{value} is no quantity"))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

pub(crate) async fn ask(rpc: &HttpClient, method: &str, params: Value) -> Value {
    let mut list = ArrayParams::new();
    for param in params.as_array().expect("params are written as a list") {
        list.insert(param).expect("a JSON value is always a parameter");
    }
    rpc.request(method, list).await.unwrap_or_else(|error| panic!("geth answers {method} {params} with {error}"))
}

fn command(folder: &PathBuf) -> Command {
    let mut command = Command::new(tools::geth());
    command
        .args(["--dev", "--dev.period", "1", "--ipcdisable", "--cache", "64", "--datadir"])
        .arg(folder)
        // Port 0: the system chooses, so nodes of tests that run at once cannot collide.
        .args(["--http", "--http.addr", "127.0.0.1", "--http.port", "0", "--http.corsdomain", "*"])
        .args(["--ws", "--ws.addr", "127.0.0.1", "--ws.port", "0", "--ws.origins", "*"])
        .args(["--authrpc.port", "0", "--port", "0", "--nodiscover", "--maxpeers", "0", "--nat", "none"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

fn fresh_folder() -> PathBuf {
    static STARTED: AtomicU32 = AtomicU32::new(0);
    let name = format!("chaincast-geth-{}-{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder).expect("the folder for temporary files can be written");
    folder
}

/// Reads Geth's log to its end, as it would stop at a full pipe; sends the address that the log names.
fn read_log(stderr: ChildStderr, tail: Arc<Mutex<VecDeque<String>>>) -> oneshot::Receiver<String> {
    let (sender, opened) = oneshot::channel();
    std::thread::spawn(move || {
        let mut sender = Some(sender);
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if let Some(address) = opened_at(&line)
                && let Some(sender) = sender.take()
            {
                // Nobody waits any more where the deadline has passed.
                let _ = sender.send(address);
            }
            let mut tail = tail.lock().expect("no reader of the log panics");
            if tail.len() == LOG_TAIL {
                tail.pop_front();
            }
            tail.push_back(line);
        }
    });
    opened
}

/// The address in Geth's line "HTTP server started   endpoint=127.0.0.1:40000 …".
fn opened_at(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("HTTP server started")?;
    let (_, endpoint) = rest.split_once("endpoint=")?;
    endpoint.split_whitespace().next().map(str::to_owned)
}
