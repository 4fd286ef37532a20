//! One client's conversation: bytes in, requests understood, limits kept, answers out through the shard.
//!
//! `protocol` decides, purely; the task here reads the socket and waits for calls. It never writes to the socket: the
//! shard does. Its memory is that of incomplete messages and of calls under way, both bounded.

mod limits;
mod protocol;
mod reader;
mod subscribe;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::{self, StreamExt};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::calls::Calls;
use crate::close::Reason;
use crate::hub::{ConnKey, Shard, Socket, StreamKey};
use crate::metrics::Metrics;
use crate::planted::{self, Bug};
use crate::rpc;
use crate::upstream::DemandHandle;

pub use limits::{AddressKey, Addresses, Limits, Permit, Rate};
pub use protocol::Bounds;

use limits::{Ask, ConnLimits};
use protocol::{Step, Transport, Work};
use reader::{Event, Reader};

/// So many bytes of a message that came compressed count as a message.
const INFLATED_MESSAGE: usize = 4 * 1024;
/// Calls of one batch that run side by side.
const BATCH_SIDE_BY_SIDE: usize = 4;
/// A connection over its address's limit is told so, then closed after this.
const OVER_LIMIT_STAY: Duration = Duration::from_millis(1_500);

/// Bounds of sessions.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bounds of requests.
    pub bounds: Bounds,
    /// Most bytes of a message.
    pub message_max_bytes: usize,
    /// Most frames of a message.
    pub message_max_fragments: usize,
    /// How long a message may take from its first byte to its last.
    pub message_timeout: Duration,
    /// Calls of one connection under way.
    pub calls_in_flight: usize,
    /// Distinct feeds that all clients of a chain may listen to.
    pub feeds_max: usize,
    /// Bytes held for a client beyond which nothing more is read from it.
    pub held_max_bytes: usize,
}

/// What all sessions of one shard share.
pub struct Context {
    /// Where the bytes go.
    pub shard: Rc<Shard>,
    /// Who answers calls.
    pub calls: Arc<Calls>,
    /// Bounds.
    pub options: Options,
    /// Metrics.
    pub metrics: Metrics,
    /// Which best-effort feeds are listened to, by all of the chain's clients.
    pub demand: DemandHandle,
    /// Messages whose answers are being waited for.
    pub busy: Cell<usize>,
}

/// Counts a message as being answered while it lives.
struct Busy<'a>(&'a Context);

impl<'a> Busy<'a> {
    fn new(context: &'a Context) -> Self {
        context.busy.set(context.busy.get() + 1);
        Self(context)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get() - 1);
    }
}

/// What the tasks of one session share.
struct Session {
    context: Rc<Context>,
    key: ConnKey,
    limits: RefCell<ConnLimits>,
}

/// What is going on in a session that is not idle.
struct Talk {
    reader: Reader,
    /// Messages that wait for calls.
    tasks: JoinSet<()>,
    /// Room for calls under way.
    room: Rc<Semaphore>,
}

/// Serves a WebSocket whose handshake is done. `first` are bytes that were read behind the handshake.
///
/// What waits is small, as there may be very many: while nothing is going on, a session is its limits and the wait for
/// its socket. All else is in memory only while it is needed.
/// `compressed` is whether permessage-deflate was negotiated in it.
pub fn serve(
    context: Rc<Context>,
    socket: Socket,
    compressed: bool,
    first: Vec<u8>,
    permit: Permit,
) -> impl Future<Output = ()> {
    let key = context.shard.attach(socket, compressed);
    let limits = RefCell::new(ConnLimits::new(permit, context.metrics.clone()));
    let session = Rc::new(Session { context, key, limits });
    async move {
        let why = session.wait(first).await;
        session.context.shard.detach(session.key, why);
    }
}

/// Answers a message that came by HTTP; `None` where nothing is to be answered.
pub async fn answer_http(context: &Context, text: &[u8], limits: &RefCell<HttpLimits>) -> Option<String> {
    let _busy = Busy::new(context);
    if text.trim_ascii().is_empty() {
        return None;
    }
    let bounds = &context.options.bounds;
    let work = protocol::plan(text, bounds, Transport::Http, &mut |ask| limits.borrow_mut().0.ask(ask));
    let answers = call_all(&context.calls, work.steps).await;
    let answers = answers.into_iter().filter_map(|step| match step {
        Step::Answer(text) => Some(text),
        _ => None,
    });
    let over = || limits.borrow().0.count_refusal("batch_answer_bytes", "batch");
    protocol::join(work.batch, answers.collect(), bounds.batch_answer, over)
}

/// The limits of one HTTP connection.
pub struct HttpLimits(ConnLimits);

impl HttpLimits {
    /// Nothing was asked yet.
    #[must_use]
    pub fn new(permit: Permit, metrics: Metrics) -> Self {
        Self(ConnLimits::new(permit, metrics))
    }

    /// The permit, for a connection that is upgraded.
    #[must_use]
    pub fn into_permit(self) -> Permit {
        self.0.into_permit()
    }

    /// How long to wait before the next message is read.
    #[must_use]
    pub fn message(&self) -> Option<Duration> {
        self.0.message()
    }

    /// Whether the connection as a whole is over a limit.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.over().is_some()
    }
}

/// Turns calls into answers; the other steps stay as they are, in their order.
async fn call_all(calls: &Calls, steps: Vec<Step>) -> Vec<Step> {
    let run = |step| async move {
        match step {
            Step::Call { id, method, params } => {
                let result = calls.call(&method, params.as_deref()).await;
                let id = id?;
                Some(Step::Answer(match result {
                    Ok(json) => rpc::answer(&id, std::str::from_utf8(&json).expect("JSON is UTF-8")),
                    Err(error) => rpc::answer_error(&id, &error),
                }))
            }
            other => Some(other),
        }
    };
    stream::iter(steps.into_iter().map(run)).buffered(BATCH_SIDE_BY_SIDE).filter_map(std::future::ready).collect().await
}

impl Session {
    /// Waits for the client until the connection ends, and says why it did.
    async fn wait(self: &Rc<Self>, first: Vec<u8>) -> Reason {
        let mut piece = first;
        loop {
            // Who is over a limit is told so in time, though it says nothing.
            if (!piece.is_empty() || self.limits.borrow().over().is_some())
                && let Some(end) = Box::pin(self.talk(piece)).await
            {
                return end;
            }
            piece = match self.read().await {
                Some(bytes) => bytes,
                None => return Reason::PeerGone,
            };
        }
    }

    /// What the client has sent, once it has; nothing if it is gone.
    async fn read(&self) -> Option<Vec<u8>> {
        self.context.shard.read(self.key).await.ok().filter(|bytes| !bytes.is_empty())
    }

    /// Acts on a piece that was read, and on what follows, until nothing is under way any more. Returns why the
    /// connection ends, if it does.
    async fn talk(self: &Rc<Self>, mut piece: Vec<u8>) -> Option<Reason> {
        let options = &self.context.options;
        let bounds = reader::Bounds { message: options.message_max_bytes, fragments: options.message_max_fragments };
        let deflate = self.context.shard.is_compressed(self.key);
        let room = Rc::new(Semaphore::new(options.calls_in_flight));
        let mut talk = Talk { reader: Reader::new(bounds, deflate), tasks: JoinSet::new(), room };
        let over = self.limits.borrow().over().map(|_| Instant::now() + OVER_LIMIT_STAY);
        let mut whole_by: Option<Instant> = None;
        loop {
            self.context.shard.heard(self.key);
            if let Some(end) = self.take(&mut talk, &piece).await {
                return Some(self.linger(end).await);
            }
            if self.context.shard.is_closing(self.key) {
                return Some(self.linger(Reason::PeerGone).await);
            }
            // What is partial after a whole message began just now.
            let begun = whole_by.filter(|_| talk.reader.is_same_partial());
            let waits = Instant::now();
            self.context.shard.drained(self.key, options.held_max_bytes).await;
            // While we do not read, the client is not late.
            let begun = begun.map_or_else(|| Instant::now() + options.message_timeout, |by| by + waits.elapsed());
            whole_by = talk.reader.is_partial().then_some(begun);
            let deadline = [over, whole_by].into_iter().flatten().min();
            piece = loop {
                if deadline.is_none() && talk.tasks.is_empty() {
                    return None;
                }
                tokio::select! {
                    piece = self.read() => match piece {
                        Some(piece) => break piece,
                        None => return Some(Reason::PeerGone),
                    },
                    Some(_done) = talk.tasks.join_next() => {}
                    () = sleep_until(deadline) => {
                        let reason = if over == deadline { Reason::AddressLimit } else { Reason::MessageTimeout };
                        self.context.shard.close(self.key, reason);
                        return Some(self.linger(reason).await);
                    }
                }
            };
        }
    }

    /// A close frame is out: waits for the client's end of the connection. The shard's clock bounds the wait.
    async fn linger(&self, why: Reason) -> Reason {
        while self.read().await.is_some() {}
        why
    }

    /// Acts on bytes that were read. Returns why the connection ends, if it does.
    async fn take(self: &Rc<Self>, talk: &mut Talk, bytes: &[u8]) -> Option<Reason> {
        let shard = &self.context.shard;
        for event in talk.reader.feed(bytes) {
            match event {
                Event::Message(text) => {
                    self.pace().await;
                    self.message(&text, talk);
                }
                Event::Deflated(message) => {
                    self.pace().await;
                    match message.inflate(self.context.options.message_max_bytes) {
                        Ok(text) => {
                            // What was few bytes counts as what it is now.
                            for _ in 0..text.len() / INFLATED_MESSAGE {
                                self.pace().await;
                            }
                            tokio::task::yield_now().await;
                            self.message(&text, talk);
                        }
                        Err(reason) => {
                            shard.close(self.key, reason);
                            return Some(reason);
                        }
                    }
                }
                Event::Ping(payload) => {
                    self.pace().await;
                    shard.pong(self.key, &payload);
                }
                Event::Pong(_) => {}
                Event::Close(code) => {
                    shard.echo_close(self.key, code);
                    return Some(Reason::ClientClosed);
                }
                Event::Broken(reason) => {
                    shard.close(self.key, reason);
                    return Some(reason);
                }
            }
        }
        None
    }

    /// Reads no faster than the limit of messages.
    async fn pace(&self) {
        loop {
            let wait = self.limits.borrow().message();
            let Some(wait) = wait else { return };
            self.limits.borrow().count_refusal("messages", "connection");
            tokio::time::sleep(wait).await;
        }
    }

    fn message(self: &Rc<Self>, text: &[u8], talk: &mut Talk) {
        let options = &self.context.options;
        let mut limits = self.limits.borrow_mut();
        let mut work = protocol::plan(text, &options.bounds, Transport::WebSocket, &mut |ask| limits.ask(ask));
        let calls = &self.context.calls;
        let waits = work.steps.iter().any(|step| matches!(step, Step::Call { method, .. } if !calls.is_own(method)));
        let refused = if waits { limits.ask(Ask::Slot).err() } else { None };
        drop(limits);
        if waits && refused.is_none() {
            talk.tasks.spawn_local(self.clone().work_later(work, talk.room.clone()));
            return;
        }
        if let Some(error) = refused {
            work.steps = work.steps.into_iter().filter_map(|step| refuse_call(step, &error)).collect();
        }
        // Own answers are ready at once.
        let steps = call_all(calls, work.steps).now_or_never().expect("own answers do not wait");
        self.finish(work.batch, steps);
    }

    async fn work_later(self: Rc<Self>, work: Work, room: Rc<Semaphore>) {
        let _busy = Busy::new(&self.context);
        let permit = room.acquire().await.expect("it is never closed");
        let steps = call_all(&self.context.calls, work.steps).await;
        // An answer that waits for the client to read keeps its place: no more of them are made meanwhile.
        // A large one waits until it fits: a client that reads, if slowly, gets all that it asked for.
        let most = self.context.options.held_max_bytes.saturating_sub(protocol::answers_bytes(&steps));
        self.context.shard.drained(self.key, most).await;
        self.finish(work.batch, steps);
        drop(permit);
        self.limits.borrow_mut().answered();
    }

    /// Whether this would be another subscription at the nodes, beyond those that clients may cause.
    fn is_one_feed_too_many(&self, stream: &StreamKey) -> bool {
        let context = &self.context;
        matches!(stream, StreamKey::Feed(feed) if context.demand.is_full_for(feed, context.options.feeds_max))
    }

    /// The answer to a batch is too large, or nearly: subscriptions whose ids nobody might learn are refused instead.
    fn give_up(&self, steps: &mut [Step]) {
        for step in steps {
            if let Step::Subscribe { id, .. } = step {
                self.limits.borrow_mut().unsubscribed();
                *step = Step::Answer(rpc::answer_error(id, &rpc::limit("batch_answer_bytes", "batch", 0)));
            }
        }
    }

    /// Opens and ends subscriptions and sends the answer, all in one step: no notification comes between.
    fn finish(&self, batch: bool, mut steps: Vec<Step>) {
        let shard = &self.context.shard;
        let most = self.context.options.bounds.batch_answer;
        if batch && protocol::answers_bytes(&steps) > most {
            self.give_up(&mut steps);
        }
        let answers = steps.into_iter().filter_map(|step| match step {
            Step::Answer(text) => Some(text),
            Step::Subscribe { id, stream } if self.is_one_feed_too_many(&stream) => {
                let mut limits = self.limits.borrow_mut();
                limits.unsubscribed();
                limits.count_refusal("feeds", "chain");
                Some(rpc::answer_error(&id, &rpc::limit("feeds", "chain", 0)))
            }
            Step::Subscribe { id, stream } => {
                let subscription = shard.subscribe(self.key, stream)?;
                Some(rpc::answer(&id, &format!("\"{}\"", subscription.text().as_str())))
            }
            Step::Unsubscribe { id, subscription } => {
                let ended = shard.unsubscribe(self.key, &subscription);
                if ended {
                    self.limits.borrow_mut().unsubscribed();
                }
                let id = id?;
                Some(if ended {
                    rpc::answer(&id, "true")
                } else {
                    rpc::answer_error(&id, &rpc::server_error("subscription not found"))
                })
            }
            Step::Call { .. } => None,
        });
        let answers = answers.collect();
        let over = || self.limits.borrow().count_refusal("batch_answer_bytes", "batch");
        if let Some(text) = protocol::join(batch, answers, most, over) {
            if planted::is(Bug::NotifyBeforeAnswer) {
                let (shard, key) = (shard.clone(), self.key);
                let late = async move { tokio::time::sleep(OVER_LIMIT_STAY).await };
                return drop(tokio::task::spawn_local(late.map(move |()| shard.send(key, text.as_bytes()))));
            }
            shard.send(self.key, text.as_bytes());
        }
    }
}

/// Calls are answered with the error, and those that want no answer are dropped: none may be run.
fn refuse_call(step: Step, error: &rpc::Error) -> Option<Step> {
    match step {
        Step::Call { id, .. } => Some(Step::Answer(rpc::answer_error(&id?, error))),
        other => Some(other),
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_refused_call_is_run() {
        let call = |id: Option<&str>| Step::Call { id: id.map(Into::into), method: "eth_call".into(), params: None };
        let error = rpc::limit("calls_in_flight", "connection", 100);
        assert!(matches!(refuse_call(call(Some("1")), &error), Some(Step::Answer(text)) if text.contains("-32005")));
        assert!(refuse_call(call(None), &error).is_none(), "nobody waits for its answer");
        assert!(matches!(refuse_call(Step::Answer("x".into()), &error), Some(Step::Answer(text)) if text == "x"));
    }
}
