//! A shard whose clients speak TLS. The client of the other tests stays as it is: a thread stands between that decrypts,
//! holds nothing, and reads only as fast as the client does.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use rustls::version::{TLS12, TLS13};
use rustls::{ClientConnection, StreamOwned};

use super::*;
use crate::hub::tls::tests::handshaken;

/// Reads what is encrypted and passes it on, until either side ends.
fn decrypt(mut from: StreamOwned<ClientConnection, TcpStream>, mut to: TcpStream) {
    let mut piece = [0; 2_048];
    // An end without close_notify is an error, and is passed on as no end: the client must not take it for one.
    while let Ok(n) = from.read(&mut piece) {
        if n == 0 {
            to.shutdown(Shutdown::Write).expect("the client is there until the end");
            return;
        }
        if to.write_all(&piece[..n]).is_err() {
            return;
        }
    }
}

impl World {
    fn connect_by_tls(&mut self) -> Client {
        let version = if self.rng.random() { &TLS13 } else { &TLS12 };
        let (server, client) = handshaken(version);
        let (encrypted, theirs) = client::pair();
        let (plain, end) = client::pair();
        theirs.set_nonblocking(false).unwrap();
        plain.set_nonblocking(false).unwrap();
        let door = plain.try_clone().unwrap();
        std::thread::spawn(move || decrypt(StreamOwned::new(client, theirs), plain));
        let socket = Socket::encrypted(tokio::net::TcpStream::from_std(encrypted).unwrap(), server);
        let compressed = self.rng.random_ratio(1, 3);
        Client::new(self.shard.attach(socket, compressed), compressed, (door, end))
    }

    /// Whether a client's connection has an outbox, and whether its socket is owed bytes.
    fn owes(&self, key: ConnKey) -> (bool, bool) {
        let mut state = self.shard.state.borrow_mut();
        state.conn(key).map_or((false, false), |conn| (conn.outbox.is_some(), conn.socket.has_unsent()))
    }
}

async fn walk_by_tls(seed: u64) {
    let mut world = World::new(seed, options());
    for _ in 0..CLIENTS {
        let client = world.connect_by_tls();
        world.clients.push(client);
    }
    let mut unsent = 0;
    for _ in 0..STEPS {
        world.step();
        for key in world.clients.iter().map(|client| client.key) {
            let (outbox, owed) = world.owes(key);
            assert!(outbox || !owed, "nobody sees to what is unsent");
            unsent += usize::from(owed);
        }
        for _ in 0..world.rng.random_range(0..3) {
            tokio::task::yield_now().await;
        }
    }
    let (behind, cut) = (world.behind, world.cut);
    assert!(behind > STEPS / 50 && cut > 0 && unsent > 0, "too good: {behind} behind, {cut} cut, {unsent} unsent");
    world.settle().await;
    world.model.gap(&world.journal);
    world.clients.iter_mut().filter(|client| client.is_owed_the_chain()).for_each(|client| {
        client.closed_by.get_or_insert(1013);
    });
    world.settle().await;
    world.end().await;
}

#[test]
fn every_client_gets_exactly_what_it_is_owed_by_tls() {
    in_a_shard_thread(async {
        for seed in 0..3 {
            println!("seed {seed}");
            walk_by_tls(seed).await;
        }
    });
}

/// All that a client was owed is encrypted and nothing else follows: what the socket did not take then still arrives.
#[test]
fn the_last_record_does_not_wait_for_more() {
    in_a_shard_thread(async {
        let mut world = World::new(1, options());
        let client = world.connect_by_tls();
        world.clients.push(client);
        let key = world.clients[0].key;
        let mut at_the_end = 0;
        while at_the_end < 20 {
            let answer = world.clients[0].answered(world.rng.random_range(1..9_000));
            world.shard.send(key, answer.as_bytes());
            let held = world.shard.held(key);
            let (outbox, owed) = world.owes(key);
            assert_eq!(outbox, owed || held > 0);
            if owed && held == 0 {
                at_the_end += 1;
                world.settle().await;
                assert_eq!(world.shard.held(key), 0);
            }
        }
        world.clients[0].closed_by = Some(1013);
        world.shard.close(key, Reason::SlowConsumer);
        world.settle().await;
        world.end().await;
    });
}
