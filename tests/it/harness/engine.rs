//! A real Geth without a consensus client: its head goes where a test's forkchoice sends it, by the engine API.
//!
//! Owns the process, its folder, and its ports, which stay its own while it is down. Knows blocks only as payloads;
//! `engine/lab.rs` makes them.

mod follower;
mod genesis;
mod lab;
mod oracle;
mod port;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use jsonrpsee::core::ClientError;
use jsonrpsee::core::client::ClientT;
use jsonrpsee::core::params::ArrayParams;
use jsonrpsee::http_client::{HeaderMap, HttpClient, HttpClientBuilder};
use ring::hmac;
use serde_json::{Value, json};

pub(crate) use follower::{Follower, Reader};
pub(crate) use lab::{Block, Lab};
pub(crate) use oracle::{Event, Oracle};
use port::HeldPort;

use super::geth::ask;
use super::tools;
use super::until::until;

/// Flags with which the state of every block is on disk. Without, a Geth that is killed before it has written any state
/// wants a snap sync from peers, and takes no block.
pub(crate) const KEEPING_STATES: &[&str] = &["--state.scheme=hash", "--gcmode=archive"];
/// A hash of nothing: no safe and no finalized block.
const NONE: &str = "0x0000000000000000000000000000000000000000000000000000000000000000";
/// Bytes of Geth's log that a failure shows.
const LOG_TAIL: usize = 4_000;

/// One Geth, down or up. Dropping it kills it and clears its folder away.
pub(crate) struct EngineNode {
    child: Option<Child>,
    folder: PathBuf,
    flags: &'static [&'static str],
    secret: [u8; 32],
    public: HeldPort,
    authenticated: HeldPort,
    rpc: HttpClient,
}

impl EngineNode {
    /// Starts a node with nothing but the genesis block; returns when it answers.
    pub(crate) async fn start(flags: &'static [&'static str]) -> Self {
        let folder = fresh_folder();
        let secret = rand::random::<[u8; 32]>();
        std::fs::write(folder.join("jwt.hex"), HEXLOWER.encode(&secret)).expect("the folder can be written");
        std::fs::write(folder.join("genesis.json"), genesis::json().to_string()).expect("the folder can be written");
        let public = HeldPort::take();
        let rpc = HttpClientBuilder::default().build(format!("http://{}", public.address())).expect("it is a URL");
        let mut node = Self { child: None, folder, flags, secret, public, authenticated: HeldPort::take(), rpc };
        node.write_genesis();
        node.restart();
        node.ready().await;
        node
    }

    fn command(&self) -> Command {
        let mut command = Command::new(tools::geth());
        let log = File::options().create(true).append(true).open(self.folder.join("geth.log"));
        command
            .arg("--datadir")
            .arg(&self.folder)
            .args(self.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("the folder can be written"));
        command
    }

    fn write_genesis(&self) {
        let done = self.command().arg("init").arg(self.folder.join("genesis.json")).status().expect("geth starts");
        assert!(done.success(), "geth takes no genesis:\n{}", self.log_tail());
    }

    /// Starts the process again, on the same folder and ports. It does not answer yet.
    pub(crate) fn restart(&mut self) {
        assert!(self.child.is_none(), "it is up");
        let port = |held: &HeldPort| held.address().port().to_string();
        let (public, authenticated) = (port(&self.public), port(&self.authenticated));
        let mut command = self.command();
        command
            .args(["--networkid", &genesis::CHAIN_ID.to_string(), "--syncmode", "full", "--cache", "64"])
            .args(["--port", "0", "--nodiscover", "--maxpeers", "0", "--nat", "none", "--ipcdisable"])
            // WebSocket and HTTP on one port.
            .args(["--http", "--http.addr", "127.0.0.1", "--http.port", &public, "--http.api", "eth,net,web3"])
            .args(["--ws", "--ws.addr", "127.0.0.1", "--ws.port", &public, "--ws.api", "eth,net,web3"])
            .args(["--authrpc.addr", "127.0.0.1", "--authrpc.port", &authenticated, "--authrpc.jwtsecret"])
            .arg(self.folder.join("jwt.hex"));
        self.child = Some(command.spawn().expect("geth starts"));
    }

    /// Waits until it answers.
    pub(crate) async fn ready(&mut self) {
        until("geth answers", async || self.answers().await).await;
    }

    /// Whether it answers by now. The engine API is the last that Geth opens.
    pub(crate) async fn answers(&mut self) -> bool {
        let child = self.child.as_mut().expect("it was started");
        let ended = child.try_wait().expect("its state can be asked for");
        assert!(ended.is_none(), "geth ended with {ended:?}:\n{}", self.log_tail());
        self.try_engine("exchangeCapabilities", json!([[]])).await.is_ok()
    }

    /// `SIGKILL`, and waits for the end.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it is up");
        child.kill().expect("it has not ended by itself");
        child.wait().expect("its end can be waited for");
    }

    /// Stops the process without a word; its connections stay open.
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("it is up").id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status().expect("kill is everywhere");
        assert!(sent.success());
    }

    pub(crate) fn ws_url(&self) -> String {
        format!("ws://{}", self.public.address())
    }

    /// A call on the public port that must succeed.
    pub(crate) async fn ask(&self, method: &str, params: Value) -> Value {
        ask(&self.rpc, method, params).await
    }

    /// Gives the node a block. It executes it, and announces nothing.
    pub(crate) async fn give(&self, block: &Block) {
        self.give_payload(&block.payload, &block.header["parentBeaconBlockRoot"]).await;
    }

    /// Whether the node has a block, be it without its state.
    pub(crate) async fn has(&self, block: &Block) -> bool {
        !self.ask("eth_getBlockByHash", json!([block.hash, false])).await.is_null()
    }

    async fn give_payload(&self, payload: &Value, beacon_root: &Value) {
        let status = self.engine("newPayloadV4", json!([payload, [], beacon_root, []])).await;
        assert_eq!(status["status"], "VALID", "block {}: {status}\n{}", payload["blockNumber"], self.log_tail());
    }

    /// Makes a block that it was given its head. Geth agrees and does nothing where the block is an ancestor of its
    /// head.
    pub(crate) async fn set_head(&self, block: &Block) {
        let state = json!({"headBlockHash": block.hash, "safeBlockHash": NONE, "finalizedBlockHash": NONE});
        let answer = self.engine("forkchoiceUpdatedV3", json!([state, null])).await;
        assert_eq!(answer["payloadStatus"]["status"], "VALID", "head {}: {answer}\n{}", block.number, self.log_tail());
    }

    async fn engine(&self, method: &str, params: Value) -> Value {
        let answer = self.try_engine(method, params).await;
        answer.unwrap_or_else(|error| panic!("engine_{method}: {error}\n{}", self.log_tail()))
    }

    async fn try_engine(&self, method: &str, params: Value) -> Result<Value, ClientError> {
        let mut headers = HeaderMap::new();
        let bearer = format!("Bearer {}", token(&self.secret)).parse().expect("a token is a header");
        headers.insert("authorization", bearer);
        let url = format!("http://{}", self.authenticated.address());
        // A client a call, as a token is good for a minute only.
        let client = HttpClientBuilder::default().set_headers(headers).build(url).expect("the address is a URL");
        let mut list = ArrayParams::new();
        for param in params.as_array().expect("params are written as a list") {
            list.insert(param).expect("a JSON value is always a parameter");
        }
        client.request(&format!("engine_{method}"), list).await
    }

    fn log_tail(&self) -> String {
        let log = std::fs::read(self.folder.join("geth.log")).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_TAIL)..]).into_owned()
    }
}

impl Drop for EngineNode {
    fn drop(&mut self) {
        // Each fails only where there is nothing left to do; a drop must not panic.
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A JSON Web Token of HS256 that says only when it was made, as the engine API wants it.
fn token(secret: &[u8; 32]) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs();
    let part = |value: Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed = format!("{}.{}", part(json!({"alg": "HS256", "typ": "JWT"})), part(json!({ "iat": now })));
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", BASE64URL_NOPAD.encode(mac.as_ref()))
}

fn fresh_folder() -> PathBuf {
    static STARTED: AtomicU32 = AtomicU32::new(0);
    let name = format!("chaincast-engine-{}-{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
    let folder = Path::new(&std::env::temp_dir()).join(name);
    std::fs::create_dir_all(&folder).expect("the folder for temporary files can be written");
    folder
}
