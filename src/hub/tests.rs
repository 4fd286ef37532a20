//! A shard over real sockets against a naive model: random chains, random clients, every frame accounted for.
//!
//! The driver owns both ends: it appends to the journal, subscribes as a session does, and reads as much or as little
//! as each client's appetite allows. What a subscription is owed follows from the journal alone ([`model`]); what came
//! is judged frame by frame ([`client`]). Knows nothing of how the shard does it, but for the counts that show that
//! the hard paths were taken.

mod bounds;
mod client;
mod model;
mod tls;

use std::rc::Rc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::broadcast;
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

use self::client::{APPETITES, Client};
use self::model::{Model, Want};
use super::{ConnKey, Links, Options, Shard, Socket};
use crate::chain::FeedEvent;
use crate::close::Reason;
use crate::journal::{self, Journal};
use crate::metrics::Metrics;

const CLIENTS: usize = 24;
const STEPS: usize = 3_000;
/// How long what is on its way may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

fn options() -> Options {
    let never = Duration::from_secs(3_600);
    Options {
        outbox_max_bytes: usize::MAX,
        lag_max_blocks: u64::MAX,
        lag_max: never,
        write_stall_max: never,
        ping_interval: never,
        pong_timeout: never,
        close_timeout: never,
        id_secret: [7; 32],
    }
}

/// A shard, its chain and its clients.
struct World {
    rng: StdRng,
    shard: Rc<Shard>,
    journal: Journal,
    feeds: broadcast::Sender<FeedEvent>,
    model: Model,
    clients: Vec<Client>,
    stop: CancellationToken,
    /// How often a client was seen that had to be caught up.
    behind: usize,
    /// How often a client was seen with the rest of a frame before its place.
    cut: usize,
}

impl World {
    fn new(seed: u64, options: Options) -> Self {
        let journal = Journal::new(journal::Options { entries: 1_000_000, bytes: usize::MAX });
        let feeds = broadcast::Sender::new(64);
        let links = Links {
            chain: "test".into(),
            journal: journal.clone(),
            feeds: feeds.subscribe(),
            feed_listeners: Box::new(|_, _| {}),
            metrics: Metrics::new(),
        };
        let (shard, tail, receiver) = Shard::new(links, options);
        let stop = CancellationToken::new();
        tokio::task::spawn_local(shard.clone().run(tail, receiver, stop.clone()));
        let rng = StdRng::seed_from_u64(seed);
        Self { rng, shard, journal, feeds, model: Model::default(), clients: Vec::new(), stop, behind: 0, cut: 0 }
    }

    /// A third of them negotiate compression.
    fn connect(&mut self) -> Client {
        let compressed = self.rng.random_ratio(1, 3);
        let (ours, theirs) = client::pair();
        let socket = tokio::net::TcpStream::from_std(ours.try_clone().unwrap()).unwrap();
        let key = self.shard.attach(Socket::new(socket), compressed);
        Client::new(key, compressed, (ours, theirs))
    }

    fn pick(&mut self) -> usize {
        self.rng.random_range(0..self.clients.len())
    }

    /// Subscribes and answers in one step, as a session does.
    fn subscribe_to(&mut self, at: usize, want: Want) {
        let client = &mut self.clients[at];
        let since = self.shard.state.borrow().seq + 1;
        assert!(since <= self.journal.last() + 1, "what is committed after the subscription is owed");
        let id = self.shard.subscribe(client.key, want.key()).expect("the connection is there");
        let answer = client.subscribed(id.text().as_str(), want, since);
        self.shard.send(client.key, answer.as_bytes());
    }

    fn unsubscribe(&mut self, at: usize) {
        let client = &mut self.clients[at];
        let Some(sub) = client.any_live(&mut self.rng) else { return };
        assert!(self.shard.unsubscribe(client.key, client.id(sub)), "it was subscribed");
        assert!(!self.shard.unsubscribe(client.key, client.id(sub)), "it is so no more");
        let answer = client.unsubscribed(sub);
        self.shard.send(client.key, answer.as_bytes());
    }

    fn answer(&mut self, at: usize) {
        let size = if self.rng.random_ratio(1, 10) { 40_000 } else { 50 };
        let answer = self.clients[at].answered(size);
        self.shard.send(self.clients[at].key, answer.as_bytes());
    }

    /// The client goes without a word, and another one takes its slot.
    fn replace(&mut self, at: usize) {
        self.shard.detach(self.clients[at].key, Reason::PeerGone);
        self.clients[at] = self.connect();
    }

    /// One random thing happens.
    fn step(&mut self) {
        let at = self.pick();
        match self.rng.random_range(0..100) {
            0..14 => self.model.head(&mut self.rng, &self.journal),
            14..30 => self.model.logs(&self.journal),
            30..33 => self.model.undo(&mut self.rng, &self.journal),
            33..36 => self.feeds.send(self.model.feed_event(&mut self.rng)).map(drop).unwrap_or_default(),
            36..44 if self.clients[at].closed_by.is_none() => {
                let want = Want::any(&mut self.rng);
                self.subscribe_to(at, want);
            }
            44..48 => self.unsubscribe(at),
            48..51 => self.answer(at),
            51..56 => self.clients[at].appetite = APPETITES[self.rng.random_range(0..APPETITES.len())],
            56 if self.rng.random_ratio(1, 3) => self.replace(at),
            57 if self.rng.random_ratio(1, 6) => self.close(at),
            _ => self.clients[at].read(&self.model),
        }
        self.look(self.clients[at].key);
    }

    fn close(&mut self, at: usize) {
        self.shard.close(self.clients[at].key, Reason::SlowConsumer);
        self.clients[at].closed_by.get_or_insert(1013);
    }

    fn look(&mut self, key: ConnKey) {
        let mut state = self.shard.state.borrow_mut();
        let Some(outbox) = state.conn(key).and_then(|conn| conn.outbox.as_ref()) else { return };
        self.behind += usize::from(outbox.place.is_some());
        self.cut += usize::from(outbox.place.is_some_and(|place| place.item > 0 || place.n > 0));
    }

    /// Everybody reads until nothing more is owed to anyone.
    async fn settle(&mut self) {
        self.clients.iter_mut().for_each(Client::hunger);
        let all = async {
            loop {
                self.clients.iter_mut().for_each(|client| client.read(&self.model));
                let there = self.shard.state.borrow().seq == self.journal.last();
                if there && self.clients.iter().all(|client| client.has_all(&self.model)) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            let waiting = self.clients.iter().filter(|c| !c.has_all(&self.model)).map(ToString::to_string);
            panic!("never got all: {}", waiting.collect::<Vec<_>>().join("; "));
        }
    }

    /// Nothing is left behind when all are gone.
    async fn end(self) {
        for client in &self.clients {
            self.shard.detach(client.key, Reason::PeerGone);
        }
        assert!(self.shard.is_empty());
        {
            let state = self.shard.state.borrow();
            assert_eq!((state.streams.len(), state.streams.index.len(), state.attention.len()), (0, 0, 0));
            assert_eq!(state.compressed, 0);
        }
        let drained = async {
            // The run and the drain tasks hold the shard; they end by themselves.
            while Rc::strong_count(&self.shard) > 2 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, drained).await.expect("no drain task outlives its connection");
        self.stop.cancel();
    }
}

/// Returns how often clients were seen behind and in the middle of an entry, and how many notifications those that
/// negotiated compression got compressed and plain.
async fn walk(seed: u64) -> [usize; 4] {
    let mut world = World::new(seed, options());
    for _ in 0..CLIENTS {
        let client = world.connect();
        world.clients.push(client);
    }
    for _ in 0..STEPS {
        world.step();
        for _ in 0..world.rng.random_range(0..3) {
            tokio::task::yield_now().await;
        }
    }
    world.settle().await;
    let frames = |(short, plain), client: &Client| (short + client.frames.0, plain + client.frames.1);
    let (short, plain) = world.clients.iter().filter(|client| client.compressed).fold((0, 0), frames);
    let counts = [world.behind, world.cut, short, plain];
    world.model.gap(&world.journal);
    world.clients.iter_mut().filter(|client| client.is_owed_the_chain()).for_each(|client| {
        client.closed_by.get_or_insert(1013);
    });
    world.settle().await;
    world.end().await;
    counts
}

fn in_a_shard_thread(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

#[test]
fn every_client_gets_exactly_what_it_is_owed() {
    in_a_shard_thread(async {
        let mut all = [0; 4];
        for seed in 0..4 {
            println!("seed {seed}");
            all.iter_mut().zip(walk(seed).await).for_each(|(all, one)| *all += one);
        }
        let [behind, cut, short, plain] = all;
        assert!(behind > STEPS / 5 && cut > STEPS / 12, "the clients were too good: {behind} behind, {cut} cut");
        assert!(short > STEPS / 3 && plain > STEPS / 3, "{short} compressed frames and {plain} plain ones");
    });
}

/// The session of a client ends while its socket is full and it reads no more: the socket is ended too, so that the
/// drain task is woken and does not keep it open.
#[test]
fn a_forgotten_client_keeps_no_socket_open() {
    in_a_shard_thread(async {
        let mut world = World::new(1, options());
        let client = world.connect();
        world.shard.send(client.key, &vec![b'x'; 1_000_000]);
        assert!(world.shard.held(client.key) > 0);
        world.shard.detach(client.key, Reason::PeerGone);
        assert!(client.is_cut_off());
        world.end().await;
    });
}
