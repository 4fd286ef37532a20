//! A thousand clients and a hundred filters: each gets exactly its events, once, in order.
//!
//! What each is owed is worked out from the chain's own blocks by the harness's matcher. Owns the filters and the
//! judgement of what a client received.

use std::collections::{HashMap, HashSet};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use alloy_primitives::{Address, B256, Bytes};
use chaincast::devnode::{Block, DevNode, DevOptions, Economy, LogAt, SharedChain, TRANSFER_TOPIC};
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};
use tokio_util::sync::CancellationToken;

use crate::harness::client::PATIENCE;
use crate::harness::wanted::Wanted;
use crate::harness::{Client, Gateway, GatewayOptions};

const CLIENTS: usize = 1_000;
const FILTERS: usize = 100;
const BLOCKS: usize = 60;
/// Logs of the blocks, in turn.
const LOGS_OF_BLOCKS: [usize; 12] = [0, 1, 40, 200, 0, 7, 25, 3, 90, 0, 12, 60];
/// Blocks on their way at a time: enough that blocks meet clients that are still busy with the one before.
const IN_FLIGHT: usize = 4;
/// Connections being made at a time.
const CONNECTING: usize = 50;
/// The id of the call whose answer ends a client's record.
const LAST_CALL: u64 = 99;

/// A hundred different filters: five that take all or nothing, and ten families of narrower ones.
fn filters(economy: &Economy) -> Vec<Wanted> {
    let token = |n: usize| economy.tokens()[n % economy.tokens().len()].address;
    let holder = |n: usize| economy.holders()[n % economy.holders().len()].into_word();
    let holders = |from: usize, many: usize| (from..from + many).map(holder).collect::<Vec<_>>();
    let other = B256::repeat_byte(0x11);
    let transfer = vec![TRANSFER_TOPIC];
    let any = Vec::new;
    let wide = [
        (vec![], vec![]),
        (vec![], vec![transfer.clone()]),
        (vec![], vec![any(), any(), any()]),
        (vec![], vec![any(), any(), any(), any()]),
        (vec![], vec![vec![other]]),
    ];
    let narrow = |n: usize| {
        let k = n / 10;
        match n % 10 {
            0 => (vec![token(k), token(k + 1)], vec![any(), holders(k, 1)]),
            1 if k < economy.tokens().len() => (vec![token(k)], vec![]),
            1 => (vec![token(k)], vec![transfer.clone(), any(), holders(k, 2)]),
            2 => (vec![], vec![transfer.clone(), holders(k, 1)]),
            3 => (vec![], vec![any(), holders(k + 7, 1)]),
            4 => (vec![], vec![any(), any(), holders(k + 11, 1)]),
            5 => (vec![token(k)], vec![transfer.clone(), holders(k, 1)]),
            6 => (vec![token(k), token(k + 1)], vec![transfer.clone(), holders(k, 3)]),
            7 => (vec![], vec![transfer.clone(), holders(k + 3, 10), holders(k + 20, 12)]),
            8 => (vec![token(k)], vec![any(), any(), holders(k, 8)]),
            _ => (vec![], vec![vec![other, TRANSFER_TOPIC], holders(k, 16), any()]),
        }
    };
    let all = wide.into_iter().chain((0..FILTERS - 5).map(narrow));
    let all: Vec<_> = all.map(|(addresses, topics)| Wanted { addresses, topics }).collect();
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), FILTERS, "the filters are different");
    all
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeadEvent {
    hash: B256,
    parent_hash: B256,
    number: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LogEvent {
    block_hash: B256,
    transaction_hash: B256,
    log_index: String,
    address: Address,
    topics: Vec<B256>,
    data: Bytes,
    removed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    Head(HeadEvent),
    Log(LogEvent),
}

fn head_of(block: &Block) -> HeadEvent {
    HeadEvent { hash: block.hash(), parent_hash: block.parent_hash(), number: format!("{:#x}", block.number()) }
}

fn logs_of(block: &Block) -> Vec<LogEvent> {
    let log = |at: LogAt<'_>| LogEvent {
        block_hash: block.hash(),
        transaction_hash: at.transaction_hash,
        log_index: format!("{:#x}", at.log_index),
        address: at.transfer.address(block.economy()),
        topics: at.transfer.topics(block.economy()).to_vec(),
        data: at.transfer.data().into(),
        removed: false,
    };
    block.logs().map(log).collect()
}

/// What a client asks for.
#[derive(Debug, Clone, Copy)]
struct Plan {
    heads: bool,
    filter: Option<usize>,
}

/// Half want heads, half logs; every fifth of those wants heads as well.
fn plan(client: usize) -> Plan {
    match client % 2 {
        0 => Plan { heads: true, filter: None },
        _ => Plan { heads: client % 10 == 1, filter: Some(client / 2 % FILTERS) },
    }
}

/// What each kind of client is owed, filled block by block.
struct Owed {
    filters: Arc<Vec<Wanted>>,
    heads: Vec<HeadEvent>,
    logs: Vec<Vec<LogEvent>>,
}

impl Owed {
    fn new(filters: Arc<Vec<Wanted>>) -> Self {
        Self { heads: Vec::new(), logs: vec![Vec::new(); filters.len()], filters }
    }

    fn add(&mut self, block: &Block) {
        self.heads.push(head_of(block));
        let all = logs_of(block);
        for (filter, owed) in self.filters.iter().zip(&mut self.logs) {
            owed.extend(all.iter().filter(|log| filter.takes(&log.address, &log.topics)).cloned());
        }
    }

    fn heads(&self, plan: Plan) -> &[HeadEvent] {
        if plan.heads { &self.heads } else { &[] }
    }

    fn logs(&self, plan: Plan) -> &[LogEvent] {
        plan.filter.map_or(&[], |filter| &self.logs[filter])
    }

    /// Events of all clients together.
    fn total(&self) -> usize {
        (0..CLIENTS).map(plan).map(|plan| self.heads(plan).len() + self.logs(plan).len()).sum()
    }

    /// The heads from which the gateway began are events for who came before a shard took them up: cuts them off.
    fn cut_beginning(&self, record: &mut Vec<Event>) {
        let first = &self.heads[0];
        let before = |event: &Event| matches!(event, Event::Head(head) if (head.number.len(), &head.number) < (first.number.len(), &first.number));
        record.drain(..record.iter().take_while(|event| before(event)).count());
    }

    /// Whether a record is exactly what is owed: heads in order, logs in order, and no log before its head.
    fn judge(&self, plan: Plan, record: &[Event]) -> Result<(), String> {
        let (mut heads, mut logs) = (self.heads(plan).iter(), self.logs(plan).iter());
        let mut headed = HashSet::new();
        for (at, event) in record.iter().enumerate() {
            let fits = match event {
                Event::Head(head) => headed.insert(head.hash) && heads.next() == Some(head),
                Event::Log(log) => logs.next() == Some(log) && (!plan.heads || headed.contains(&log.block_hash)),
            };
            if !fits {
                return Err(format!("event {at} is not what was owed there: {event:?}"));
            }
        }
        match heads.len() + logs.len() {
            0 => Ok(()),
            missing => Err(format!("{missing} events are missing at the end")),
        }
    }
}

/// What all clients share.
#[derive(Default)]
struct Progress {
    /// Events that all clients together have received.
    received: AtomicUsize,
    more: Notify,
    finish: CancellationToken,
}

impl Progress {
    fn count(&self) {
        self.received.fetch_add(1, Ordering::Relaxed);
        self.more.notify_one();
    }

    /// Waits until so many events have come. Returns whether they did.
    async fn reaches(&self, goal: usize) -> bool {
        let reached = async {
            while self.received.load(Ordering::Relaxed) < goal {
                self.more.notified().await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.is_ok()
    }
}

struct Listener {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    plan: Plan,
    /// Whether a subscription is for heads.
    subscriptions: HashMap<String, bool>,
}

impl Listener {
    async fn start(url: String, plan: Plan, filters: Arc<Vec<Wanted>>) -> Self {
        // The default of 128 KiB for each client would be most of what this process holds.
        let config = WebSocketConfig::default().read_buffer_size(4096);
        let connected = connect_async_with_config(url, Some(config), true).await;
        let (socket, _) = connected.expect("the gateway takes a thousand clients");
        let mut listener = Self { socket, plan, subscriptions: HashMap::new() };
        // Logs first: a head must come before its logs whatever the order of subscribing.
        if let Some(filter) = plan.filter {
            listener.subscribe(json!(["logs", filters[filter].json()])).await;
        }
        if plan.heads {
            listener.subscribe(json!(["newHeads"])).await;
        }
        listener
    }

    async fn send(&mut self, call: Value) {
        self.socket.send(Message::text(call.to_string())).await.expect("the connection stands");
    }

    async fn subscribe(&mut self, params: Value) {
        let is_heads = params[0] == "newHeads";
        self.send(json!({"jsonrpc": "2.0", "id": 1, "method": "eth_subscribe", "params": params})).await;
        let answer: Value = serde_json::from_str(&self.text().await).expect("an answer is JSON");
        let id = answer["result"].as_str().unwrap_or_else(|| panic!("no subscription to {params}: {answer}"));
        self.subscriptions.insert(id.to_owned(), is_heads);
    }

    async fn text(&mut self) -> String {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return text.as_str().to_owned(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                end => panic!("a client was closed: {end:?}"),
            }
        }
    }

    /// Records all that comes until the answer to a last call, which follows everything that was sent before it.
    async fn record(mut self, progress: Arc<Progress>) -> (Plan, Vec<Event>) {
        let (mut record, mut asked) = (Vec::new(), false);
        loop {
            let text = tokio::select! {
                text = self.text() => text,
                () = progress.finish.cancelled(), if !asked => {
                    asked = true;
                    self.send(json!({"jsonrpc": "2.0", "id": LAST_CALL, "method": "net_version", "params": []})).await;
                    continue;
                }
            };
            match self.event(&text) {
                Some(event) => record.push(event),
                None => return (self.plan, record),
            }
            progress.count();
        }
    }

    /// The event in a message; `None` if it is the last call's answer.
    fn event(&self, text: &str) -> Option<Event> {
        #[derive(Deserialize)]
        struct Received<'a> {
            id: Option<u64>,
            #[serde(borrow)]
            params: Option<Params<'a>>,
        }
        #[derive(Deserialize)]
        struct Params<'a> {
            subscription: &'a str,
            #[serde(borrow)]
            result: &'a RawValue,
        }
        let message: Received<'_> = serde_json::from_str(text).expect("a message is JSON");
        let Some(params) = message.params else {
            assert_eq!(message.id, Some(LAST_CALL), "an answer that nothing asked for: {text}");
            return None;
        };
        let result = params.result.get();
        Some(if self.subscriptions[params.subscription] {
            Event::Head(serde_json::from_str(result).expect("a head has its fields"))
        } else {
            Event::Log(serde_json::from_str(result).expect("a log has its fields"))
        })
    }
}

/// Waits until the gateway follows the chain.
async fn is_following(gateway: &Gateway, chain: &SharedChain) {
    let mut first = Client::connect(&gateway.ws_url()).await;
    first.subscribe(json!(["newHeads"])).await;
    let head = chain.mine(0);
    while first.notification().await.expect("the connection stands").1["hash"] != json!(head.hash) {}
}

async fn connect_all(url: &str, filters: &Arc<Vec<Wanted>>, progress: &Arc<Progress>) -> JoinSet<(Plan, Vec<Event>)> {
    let mut records = JoinSet::new();
    let connecting = futures_util::stream::iter(0..CLIENTS)
        .map(|n| tokio::spawn(Listener::start(url.to_owned(), plan(n), filters.clone())))
        .buffered(CONNECTING);
    let mut connecting = std::pin::pin!(connecting);
    while let Some(listener) = connecting.next().await {
        records.spawn(listener.expect("every client subscribes").record(progress.clone()));
    }
    records
}

/// Mines the blocks as fast as the clients are served. Returns what they are owed.
async fn mine(chain: &SharedChain, filters: &Arc<Vec<Wanted>>, progress: &Progress) -> Owed {
    let mut owed = Owed::new(filters.clone());
    let mut goals = Vec::new();
    for logs in LOGS_OF_BLOCKS.into_iter().cycle().take(BLOCKS) {
        let block = chain.mine(logs);
        owed.add(&chain.block(block.hash).expect("it was just made"));
        goals.push(owed.total());
        let in_time = match goals.len().checked_sub(IN_FLIGHT + 1) {
            Some(behind) => progress.reaches(goals[behind]).await,
            None => true,
        };
        if !in_time {
            // The judge can say which client misses what.
            return owed;
        }
    }
    let _judged_anyway = progress.reaches(owed.total()).await;
    owed
}

/// Puts one mistake of each kind into a right record; the judge must find every one.
fn assert_mistakes_are_found(owed: &Owed, plan: Plan, record: &[Event]) {
    let at = record.len() / 2;
    let doctored = |change: &dyn Fn(&mut Vec<Event>)| {
        let mut record = record.to_vec();
        change(&mut record);
        record
    };
    let same_kind = (at + 1..record.len())
        .find(|n| std::mem::discriminant(&record[*n]) == std::mem::discriminant(&record[at]))
        .expect("the record has many events");
    let mut mistakes = vec![
        ("missing", doctored(&|r| drop(r.remove(at)))),
        ("missing at the end", doctored(&|r| drop(r.pop()))),
        ("doubled", doctored(&|r| r.insert(at, r[at].clone()))),
        ("doubled at the end", doctored(&|r| r.push(r[r.len() - 1].clone()))),
        ("swapped", doctored(&|r| r.swap(at, same_kind))),
        (
            "altered",
            doctored(&|r| match &mut r[at] {
                Event::Head(head) => head.parent_hash = B256::ZERO,
                Event::Log(log) => log.data = Bytes::new(),
            }),
        ),
    ];
    if plan.heads {
        let is_log = |event: &Event| matches!(event, Event::Log(_));
        let log = record.iter().position(is_log).expect("the record has logs");
        mistakes.push(("a log before its head", doctored(&|r| r[..=log].rotate_right(1))));
    }
    for (kind, record) in mistakes {
        assert!(owed.judge(plan, &record).is_err(), "{kind}: not found in a record of {plan:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_get_exactly_their_events() {
    // Both ends of every connection are in this process.
    let limit = rlimit::increase_nofile_limit(8192).expect("the limit can be read");
    assert!(limit >= 4096, "1,000 clients need 4,096 descriptors, the hard limit here is {limit}");
    let chain = SharedChain::new(DevOptions { tokens: 6, pending_per_block: 0, ..DevOptions::default() });
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let node = DevNode::start(chain.clone(), listener).expect("the node starts");
    let gateway = Gateway::start(GatewayOptions::upstream(node.ws_url())).await;
    is_following(&gateway, &chain).await;
    let filters = Arc::new(filters(&chain.economy()));
    let progress = Arc::new(Progress::default());
    let records = connect_all(&gateway.ws_url(), &filters, &progress).await;
    let owed = mine(&chain, &filters, &progress).await;
    progress.finish.cancel();
    let mut records = tokio::time::timeout(PATIENCE, records.join_all()).await.expect("every client ends in time");
    records.iter_mut().for_each(|(_, record)| owed.cut_beginning(record));

    let judge =
        |(plan, record): &(Plan, Vec<Event>)| owed.judge(*plan, record).map_err(|why| format!("{plan:?}: {why}"));
    let wrong: Vec<String> = records.iter().filter_map(|record| judge(record).err()).collect();
    assert!(wrong.is_empty(), "{} of {CLIENTS} clients: {}", wrong.len(), wrong[..wrong.len().min(5)].join("\n"));
    assert_eq!(records.len(), CLIENTS);
    let matched = owed.logs.iter().filter(|logs| !logs.is_empty()).count();
    assert!(matched >= 80, "only {matched} filters matched anything: the test would show little");
    for heads in [false, true] {
        let rich =
            |(plan, record): &&(Plan, Vec<Event>)| plan.filter.is_some() && plan.heads == heads && record.len() > 100;
        let (plan, record) = records.iter().find(rich).expect("some clients got many events");
        assert_mistakes_are_found(&owed, *plan, record);
    }
    gateway.stop().await;
    node.stop().await;
}
