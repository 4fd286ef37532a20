//! One node: an endpoint for JSON-RPC over WebSocket and HTTP, with its own view of a shared chain and its own faults.
//!
//! Owns the node's tasks: one follows the chain, one accepts connections, one serves each connection. All end when the
//! handle is dropped. Does not know methods, and the chain goes on without it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jsonrpsee::server::middleware::rpc::{RpcService, RpcServiceBuilder};
use jsonrpsee::server::{
    ConnectionGuard, ConnectionState, HttpBody, HttpRequest, HttpResponse, Methods, ServerConfig, ServerHandle,
    StopHandle, http, stop_channel, ws,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::announce;
use super::block::BlockRef;
use super::desk::{Calls, Desk, subscription_methods};
use super::door::Door;
use super::faults::{Faults, Handshake};
use super::methods::sync_status;
use super::shared::{Happening, SharedChain, What};
use super::subscribers::{Kind, OUTBOX, Subscribers, SubscriptionIds};
use super::view::View;
use super::wire::{Connections, Valve};

/// The most connections at a time.
const MAX_CONNECTIONS: usize = 16_384;
/// The most subscriptions on one connection.
const MAX_SUBSCRIPTIONS: u32 = 65_536;
/// The largest request, and the largest answer jsonrpsee lets through.
const MAX_MESSAGE_BYTES: u32 = 256 << 20;
/// What a wrong port or a captive proxy shows.
const WEB_PAGE: &str =
    "<!doctype html><html><head><title>Welcome</title></head><body>This is not a node.</body></html>";

/// What the tasks of one node share.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) view: View,
    pub(super) faults: Faults,
    pub(super) subscribers: Subscribers,
    pub(super) calls: Calls,
    connections: Arc<Connections>,
    /// The number of the chain's happenings this node has dealt with.
    followed: watch::Sender<u64>,
}

/// A handle to a running node. Dropping it ends the node: connections are cut and the port is given back.
#[derive(Debug)]
pub struct DevNode {
    node: Arc<Node>,
    #[cfg(test)]
    front: Arc<Front>,
    address: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
    _sessions: ServerHandle,
}

/// What a node has counted. Clones count the same.
#[derive(Debug, Clone)]
pub struct Counters(Arc<Node>);

impl DevNode {
    /// Starts a node on a chain, up to date with it. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// If the listener is not usable.
    pub fn start(chain: SharedChain, listener: TcpListener) -> io::Result<Self> {
        Ok(Self::behind(Arc::new(Door::new(listener)?), chain))
    }

    /// Starts a node without a port, for connections in memory.
    #[cfg(test)]
    pub(crate) fn portless(chain: SharedChain) -> Self {
        Self::behind(Arc::new(Door::portless()), chain)
    }

    fn behind(door: Arc<Door>, chain: SharedChain) -> Self {
        let address = door.address();
        let connections = Arc::new(Connections::default());
        let faults = Faults::new(Arc::clone(&connections), Arc::clone(&door));
        let ids = SubscriptionIds::new(chain.options().seed, chain.number_node());
        let (view, followed) = View::new(chain, faults.clone());
        let (subscribers, calls) = (Subscribers::default(), Calls::default());
        let followed = watch::Sender::new(followed);
        let node = Arc::new(Node { view, faults, subscribers, calls, connections, followed });
        let (stop_handle, sessions) = stop_channel();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let front = Arc::new(Front {
            node: Arc::clone(&node),
            methods: subscription_methods(Arc::clone(&node)),
            config: config(ids),
            guard: ConnectionGuard::new(MAX_CONNECTIONS),
            next_connection: AtomicU32::new(0),
            stop_handle,
            stop: stop.clone(),
            tasks: tasks.clone(),
        });
        tasks.spawn(stop.clone().run_until_cancelled_owned(follow(Arc::clone(&node))));
        tasks.spawn(stop.clone().run_until_cancelled_owned(accept(Arc::clone(&front), door)));
        Self {
            node,
            #[cfg(test)]
            front,
            address,
            stop,
            tasks,
            _sessions: sessions,
        }
    }

    /// Serves a connection in memory, unless the node refuses connections.
    #[cfg(test)]
    pub(crate) fn take(&self, stream: impl Stream) -> io::Result<()> {
        if !self.node.faults.takes_portless() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let serving = serve(Arc::clone(&self.front), stream);
        self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(serving));
        Ok(())
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its WebSocket endpoint.
    #[must_use]
    pub fn ws_url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Its HTTP endpoint, on the same port.
    #[must_use]
    pub fn http_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What can be made to go wrong.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.node.faults
    }

    /// What it has counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters(Arc::clone(&self.node))
    }

    /// Its own head.
    #[must_use]
    pub fn head(&self) -> BlockRef {
        self.node.view.head().reference()
    }

    /// Announces its own head once more, as a node does whose head was set to what it is.
    pub fn announce_head_again(&self) {
        announce::head(&self.node.subscribers, &self.node.faults, &self.node.view.head());
    }

    /// Waits until it has followed and announced all that has happened on the chain up to now.
    ///
    /// # Panics
    /// If the node has ended, which it does not while this handle lives.
    pub async fn caught_up(&self) {
        let now = self.node.view.chain().with(|_, happened| happened);
        let mut followed = self.node.followed.subscribe();
        followed.wait_for(|followed| *followed >= now).await.expect("the sender is in the node");
    }

    /// Ends the node and waits until its tasks are over.
    pub async fn stop(self) {
        self.end();
        self.tasks.wait().await;
    }

    fn end(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.node.faults.end();
    }
}

impl Drop for DevNode {
    fn drop(&mut self) {
        self.end();
    }
}

impl Counters {
    /// Calls of one method. `eth_getBlockByNumber safe` and `eth_getBlockByNumber finalized` are counted as such.
    #[must_use]
    pub fn calls(&self, method: &str) -> u64 {
        self.all_calls().get(method).copied().unwrap_or(0)
    }

    /// Calls by method.
    #[must_use]
    pub fn all_calls(&self) -> BTreeMap<String, u64> {
        self.0.calls.all()
    }

    /// Subscriptions of a kind that are open now.
    #[must_use]
    pub fn subscriptions(&self, kind: Kind) -> usize {
        self.0.subscribers.count(kind)
    }

    /// Connections that are open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.0.connections.count()
    }

    /// Connections there have been.
    #[must_use]
    pub fn connections_accepted(&self) -> u64 {
        self.0.connections.accepted()
    }

    /// Connections cut because a subscriber did not read.
    #[must_use]
    pub fn overflows(&self) -> u64 {
        self.0.subscribers.overflows()
    }
}

/// Follows the chain, after the node's lag, and announces what happens.
async fn follow(node: Arc<Node>) {
    let mut happened = node.view.chain().happened();
    let (mut lag, mut syncing) = (node.faults.lag(), node.faults.syncing());
    loop {
        tokio::select! {
            biased;
            Ok(()) = syncing.changed() => {
                let status = syncing.borrow_and_update().then(|| sync_status(&node.view));
                announce::syncing(&node.subscribers, status.as_deref());
            }
            (number, what) = next_due(&node, &mut happened, &mut lag) => {
                match what {
                    What::Head { block, head_changes } => {
                        let change = node.view.move_to(&block, head_changes);
                        announce::head_change(&node.subscribers, &node.faults, &block, &change);
                    }
                    What::Pending(tx) => announce::pending(&node.subscribers, &node.faults, &tx),
                }
                node.followed.send_replace(number + 1);
            }
        }
    }
}

/// The next happening and its number, once the node's lag is over. May be dropped at any time without losing anything.
async fn next_due(
    node: &Node,
    happened: &mut watch::Receiver<u64>,
    lag: &mut watch::Receiver<std::time::Duration>,
) -> (u64, What) {
    loop {
        happened.borrow_and_update();
        let next = *node.followed.borrow();
        let Some((number, Happening { at, what })) = node.view.chain().happening(next) else {
            wait(happened.changed()).await;
            continue;
        };
        let delay = *lag.borrow_and_update();
        let due = at.checked_add(delay);
        if delay.is_zero() || due.is_some_and(|due| due <= Instant::now()) {
            return (number, what);
        }
        tokio::select! {
            () = wait(lag.changed()) => {}
            () = async { match due { Some(due) => sleep_until(due).await, None => std::future::pending().await } } => {}
        }
    }
}

/// Waits for a change; without a sender there will be none.
async fn wait(changed: impl Future<Output = Result<(), watch::error::RecvError>>) {
    if changed.await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// What a connection can run over.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

/// What is needed to serve connections.
#[derive(Debug)]
struct Front {
    node: Arc<Node>,
    methods: Methods,
    config: ServerConfig,
    guard: ConnectionGuard,
    next_connection: AtomicU32,
    stop_handle: StopHandle,
    stop: CancellationToken,
    tasks: TaskTracker,
}

fn config(ids: SubscriptionIds) -> ServerConfig {
    ServerConfig::builder()
        .max_request_body_size(MAX_MESSAGE_BYTES)
        .max_response_body_size(MAX_MESSAGE_BYTES)
        .max_subscriptions_per_connection(MAX_SUBSCRIPTIONS)
        .set_message_buffer_capacity(u32::try_from(OUTBOX).expect("a fixed number"))
        .set_id_provider(ids)
        .build()
}

async fn accept(front: Arc<Front>, door: Arc<Door>) {
    // A door that fails to give a listener has nothing more to accept from.
    while let Ok(listener) = door.listener().await {
        // Accepting fails once the door has closed.
        while let Ok((socket, _)) = listener.accept().await {
            // Without it small frames would wait for the peer's acknowledgement; a socket that refuses is gone already.
            if socket.set_nodelay(true).is_ok() {
                let serving = serve(Arc::clone(&front), socket);
                front.tasks.spawn(front.stop.clone().run_until_cancelled_owned(serving));
            }
        }
    }
}

async fn serve(front: Arc<Front>, stream: impl Stream) {
    let wire = front.node.connections.adopt(stream);
    let valve = wire.valve();
    let service = service_fn(move |request| {
        let (front, valve) = (Arc::clone(&front), Arc::clone(&valve));
        async move { Ok::<_, Infallible>(front.respond(request, valve).await) }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(wire), service).with_upgrades();
    // How a connection ends is the peer's or a fault's doing.
    drop(connection.await);
}

impl Front {
    async fn respond(self: Arc<Self>, mut request: HttpRequest<Incoming>, valve: Arc<Valve>) -> HttpResponse {
        let Some(permit) = self.guard.try_acquire() else { return http::response::too_many_requests() };
        let number = self.next_connection.fetch_add(1, Ordering::Relaxed);
        let state = ConnectionState::new(self.stop_handle.clone(), number, permit);
        let websocket = ws::is_upgrade_request(&request);
        let node = Arc::clone(&self.node);
        let desk = RpcServiceBuilder::new().layer_fn(move |subscriptions: RpcService| Desk {
            node: Arc::clone(&node),
            subscriptions,
            websocket,
        });
        if !websocket {
            return http::call_with_service_builder(request, self.config.clone(), state, self.methods.clone(), desk)
                .await;
        }
        let handshake = self.node.faults.handshake();
        if handshake == Handshake::Html {
            return web_page();
        }
        request.extensions_mut().insert(valve);
        match ws::connect(request, self.config.clone(), self.methods.clone(), state, desk).await {
            Ok((response, session)) => {
                // A session that is dropped instead of run closes the connection after the answer.
                if handshake == Handshake::Accept {
                    self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(session));
                }
                response
            }
            Err(response) => response,
        }
    }
}

fn web_page() -> HttpResponse {
    let mut page = HttpResponse::new(HttpBody::from(WEB_PAGE));
    page.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("text/html"));
    page
}
