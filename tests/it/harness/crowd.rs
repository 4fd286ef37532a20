//! Hundreds of clients at once, each held to the rules of the stream, and what was wrong with each counted.
//!
//! Owns the connections and the end of a scene: each client goes on until it holds the chain, then asks a last call,
//! whose answer follows everything that was sent before it. The rules themselves are in `crowd/sight.rs`.

mod known;
mod sight;

use std::sync::Arc;
use std::time::{Duration, Instant};

use chaincast::devnode::{BlockRef, SharedChain};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use tokio_util::sync::CancellationToken;

use known::{Filter, Known, filters};
use sight::{Goal, Sight};

use super::tls;

pub(crate) use sight::Tally;

/// Connections being made at a time.
const CONNECTING: usize = 50;
/// How long clients may take to get what is left once a scene is over.
const REST: Duration = Duration::from_secs(20);
/// The id of the call whose answer ends a client's record.
const LAST_CALL: u64 = 99;

/// What one client asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) heads: bool,
    /// Place in the list of filters.
    pub(crate) filter: Option<usize>,
}

/// As many clients on heads as on logs. Every fourth of the latter wants heads as well: only such a client can tell
/// whether a head comes before its logs.
fn plan(client: usize, filters: usize) -> Plan {
    match client % 2 {
        0 => Plan { heads: true, filter: None },
        _ => Plan { heads: client % 8 == 1, filter: Some(client / 2 % filters) },
    }
}

/// What the clients share.
struct Stage {
    known: Known,
    filters: Vec<Filter>,
    /// The head before which nothing counts: blocks up to it may come to who is early, and need not.
    base: BlockRef,
    /// What the chain holds, once nothing more is to come.
    goal: watch::Sender<Option<Arc<Goal>>>,
    give_up: CancellationToken,
}

/// The clients of a scene.
pub(crate) struct Crowd {
    chain: SharedChain,
    stage: Arc<Stage>,
    sights: JoinSet<Sight>,
}

impl Crowd {
    /// Connects `each` clients on heads and as many on logs. The gateway must follow the chain, whose head must stay
    /// until this returns; no reorg may go below that head.
    pub(crate) async fn start(url: &str, chain: &SharedChain, each: usize) -> Self {
        let filters = filters(&chain.economy());
        let (known, base) = (Known::new(chain.clone()), chain.head());
        let stage =
            Arc::new(Stage { known, filters, base, goal: watch::Sender::new(None), give_up: CancellationToken::new() });
        let sights = connect(url, &stage, 2 * each).await;
        Self { chain: chain.clone(), stage, sights }
    }

    /// When the last client so far that got this head did.
    pub(crate) fn arrival(&self, head: BlockRef) -> Option<Instant> {
        self.stage.known.arrival(head.hash)
    }

    /// Waits until every client holds what the chain holds now, or too long; says what was wrong with all of them
    /// together, and prints it. The chain must be at rest.
    pub(crate) async fn finish(mut self, scene: &str) -> Tally {
        let goal = Arc::new(Goal::of(&self.chain, self.stage.base, &self.stage.filters));
        self.stage.goal.send_replace(Some(Arc::clone(&goal)));
        let mut sights = Vec::new();
        let rest = async {
            while let Some(sight) = self.sights.join_next().await {
                sights.push(sight.expect("no client panics"));
            }
        };
        if tokio::time::timeout(REST, rest).await.is_err() {
            self.stage.give_up.cancel();
            sights.extend(self.sights.join_all().await);
        }
        let mut all = Tally::default();
        let clients = sights.len();
        for sight in sights {
            all.add(sight.judge(&goal));
        }
        println!("{scene}: {clients} clients, {all}");
        all
    }

    /// The same; nothing may be wrong with any.
    pub(crate) async fn ends_exact(self, scene: &str) -> Tally {
        let tally = self.finish(scene).await;
        assert!(tally.is_clean(), "{scene}: {tally}; {}", tally.words());
        tally
    }
}

async fn connect(url: &str, stage: &Arc<Stage>, clients: usize) -> JoinSet<Sight> {
    let mut sights = JoinSet::new();
    let connecting = futures_util::stream::iter(0..clients)
        .map(|n| tokio::spawn(Listener::start(url.to_owned(), plan(n, stage.filters.len()), Arc::clone(stage))))
        .buffered(CONNECTING);
    let mut connecting = std::pin::pin!(connecting);
    while let Some(listener) = connecting.next().await {
        sights.spawn(listener.expect("every client subscribes").watch());
    }
    sights
}

struct Listener {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// Subscriptions, and whether each is of heads.
    subscriptions: Vec<(String, bool)>,
    stage: Arc<Stage>,
    sight: Sight,
}

impl Listener {
    async fn start(url: String, plan: Plan, stage: Arc<Stage>) -> Self {
        // The default of 128 KiB for each client would be most of what this process holds.
        let config = WebSocketConfig::default().read_buffer_size(4096);
        let connected = tls::websocket(&url, Some(config)).await;
        let socket = connected.expect("the gateway takes the whole crowd");
        let sight = Sight::new(plan, stage.base);
        let mut listener = Self { socket, subscriptions: Vec::new(), stage, sight };
        // Logs first: a head must come before its logs whatever the order of subscribing.
        if let Some(filter) = plan.filter {
            let filter = listener.stage.filters[filter].json();
            listener.subscribe(json!(["logs", filter]), false).await;
        }
        if plan.heads {
            listener.subscribe(json!(["newHeads"]), true).await;
        }
        listener
    }

    async fn send(&mut self, call: Value) -> Result<(), String> {
        self.socket.send(Message::text(call.to_string())).await.map_err(|error| error.to_string())
    }

    async fn subscribe(&mut self, params: Value, heads: bool) {
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": "eth_subscribe", "params": params});
        self.send(call).await.expect("the connection stands");
        loop {
            let text = self.text().await.expect("the connection stands");
            if self.event(&text) {
                continue;
            }
            let answer: Value = serde_json::from_str(&text).expect("an answer is JSON");
            let id = answer["result"].as_str().unwrap_or_else(|| panic!("no subscription to {params}: {answer}"));
            return self.subscriptions.push((id.to_owned(), heads));
        }
    }

    /// The next text, or why there is none.
    async fn text(&mut self) -> Result<String, String> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return Ok(text.as_str().to_owned()),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                end => return Err(format!("the connection ended: {end:?}")),
            }
        }
    }

    /// Takes in all that comes, until the answer to the last call.
    async fn watch(mut self) -> Sight {
        let stage = Arc::clone(&self.stage);
        let mut goals = stage.goal.subscribe();
        let mut asked = false;
        loop {
            let holds = goals.borrow_and_update().as_ref().is_some_and(|goal| self.sight.holds(goal));
            if holds && !asked {
                asked = true;
                let last = json!({"jsonrpc": "2.0", "id": LAST_CALL, "method": "net_version", "params": []});
                if let Err(why) = self.send(last).await {
                    self.sight.ended(why);
                    return self.sight;
                }
            }
            let text = tokio::select! {
                text = self.text() => text,
                _ = goals.changed() => continue,
                () = stage.give_up.cancelled() => return self.sight,
            };
            match text {
                Ok(text) if self.event(&text) => {}
                Ok(_answer) if asked => return self.sight,
                Ok(other) => self.sight.stray(&other),
                Err(why) => {
                    self.sight.ended(why);
                    return self.sight;
                }
            }
        }
    }

    /// Takes a notification in. Returns whether it was one.
    fn event(&mut self, text: &str) -> bool {
        let Some((id, result)) = notification(text) else { return false };
        match self.subscriptions.iter().find(|(known, _)| known == id) {
            Some((_, heads)) => {
                let event = self.stage.known.event(result, *heads);
                self.sight.take(&event, &self.stage.filters);
            }
            None => self.sight.stray(text),
        }
        true
    }
}

/// The subscription and the result of a notification, in the compact form in which the gateway writes them.
pub(crate) fn notification(text: &str) -> Option<(&str, &str)> {
    let rest = text.strip_prefix(r#"{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":""#)?;
    let (id, rest) = rest.split_once(r#"","result":"#)?;
    Some((id, rest.strip_suffix("}}")?))
}
