//! Clients that go in every wrong way while blocks come: without a word, by a reset, in the middle of a frame, behind a full
//! socket, or not at all.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::MaybeTlsStream;

use super::Scene;
use super::reader::Reader;
use super::script::Wish;
use crate::harness::client::End;

/// Clients of each kind.
const EACH: usize = 12;
const MORE_MIB: u64 = 24;

/// A frame of text without its end, as clients mask it.
const HALF_FRAME: &[u8] = b"\x81\xfe\x00\x80\x00\x00\x00\x00{\"jsonrpc\":\"2.0\",";
/// A close frame with code 1000, and its beginning.
const CLOSE: &[u8] = b"\x88\x82\x00\x00\x00\x00\x03\xe8";
const HALF_CLOSE: &[u8] = b"\x88\x82\x00\x00\x00";

fn tcp(reader: &mut Reader) -> &mut TcpStream {
    match reader.client().socket().get_mut() {
        MaybeTlsStream::Plain(stream) => stream,
        _ => panic!("loopback is plain"),
    }
}

async fn write(reader: &mut Reader, bytes: &[u8]) {
    tcp(reader).write_all(bytes).await.expect("the connection stands");
}

/// Ends a connection by a reset.
fn reset(mut reader: Reader) {
    socket2::SockRef::from(&*tcp(&mut reader)).set_linger(Some(Duration::ZERO)).expect("it is a socket");
}

/// Clients with subscriptions to everything; those over narrow sockets are soon behind.
async fn readers(scene: &Scene, narrow: bool) -> Vec<Reader> {
    let mut readers = Vec::new();
    for _ in 0..EACH {
        let mut reader = if narrow { scene.narrow_reader().await } else { scene.reader().await };
        let many = if narrow { 24 } else { 1 };
        reader.subscribe([vec![Wish::Heads], vec![Wish::all_logs(); many]].concat()).await;
        readers.push(reader);
    }
    readers
}

/// A socket that stays open on a host that is gone answers no ping; a reset or an end is seen at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_vanish() {
    let keys = [("server.ping_interval", "3s"), ("server.pong_timeout", "3s"), ("server.close_timeout", "10s")];
    let mut scene = Scene::start(80, &keys).await;
    let (resets, drops) = (readers(&scene, false).await, readers(&scene, true).await);
    let mut mute = Vec::new();
    for _ in 0..EACH {
        let mut reader = scene.reader().await;
        // Little enough that its socket takes all of it.
        reader.subscribe(vec![Wish::Heads]).await;
        mute.push(reader);
    }
    for (one, other) in resets.into_iter().zip(drops) {
        scene.chain.mine(30);
        reset(one);
        drop(other);
        scene.block(5).await;
    }
    // Those that still answer are asked again and again meanwhile: nobody but the mute may be given up.
    for _ in 0..20 {
        scene.block(3).await;
    }
    scene.all_given_up().await;
    for reader in &mut mute {
        assert_eq!(reader.end().await, End::Closed(1008, "no pong".to_owned()));
        assert!(reader.received > 0, "its socket took everything");
    }
    drop(mute);
    scene.closed(&[("peer_gone", 2 * EACH), ("pong_timeout", EACH)]).await;
    scene.ends("vanish", MORE_MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_end_in_the_middle_of_a_frame() {
    let keys = [("limits.message_timeout", "2s"), ("server.close_timeout", "5s")];
    let mut scene = Scene::start(80, &keys).await;
    let mut late = readers(&scene, false).await;
    for reader in &mut late {
        write(reader, HALF_FRAME).await;
    }
    for half in [HALF_FRAME, HALF_CLOSE, &HALF_FRAME[..1]] {
        let (drops, resets, halves) =
            (readers(&scene, true).await, readers(&scene, false).await, readers(&scene, false).await);
        for ((mut one, mut other), mut third) in drops.into_iter().zip(resets).zip(halves) {
            scene.chain.mine(20);
            write(&mut one, half).await;
            drop(one);
            write(&mut other, half).await;
            reset(other);
            // This one still reads, but has said its last.
            write(&mut third, half).await;
            tcp(&mut third).shutdown().await.expect("the connection stands");
            assert_eq!(third.end().await, End::Lost);
            scene.block(5).await;
        }
    }
    for reader in &mut late {
        assert_eq!(reader.end().await, End::Closed(1008, "message not complete in time".to_owned()));
    }
    drop(late);
    scene.closed(&[("peer_gone", 9 * EACH), ("message_timeout", EACH)]).await;
    scene.ends("half a frame", MORE_MIB).await;
}

/// What is held for a client when its close frame comes is still sent, and the echo last; if it does not read that, it is
/// gone after `server.close_timeout`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_close_while_they_are_behind() {
    let keys = [("server.close_timeout", "6s"), ("limits.write_stall_max", "60s"), ("limits.lag_max", "60s")];
    let mut scene = Scene::start(80, &keys).await;
    let (mut polite, mut silent, mut wrong) =
        (readers(&scene, true).await, readers(&scene, true).await, readers(&scene, true).await);
    for _ in 0..6 {
        scene.block(40).await;
    }
    scene.behind(3 * EACH).await;
    for ((one, other), third) in polite.iter_mut().zip(&mut silent).zip(&mut wrong) {
        scene.chain.mine(20);
        write(one, CLOSE).await;
        write(other, CLOSE).await;
        // A frame without a mask.
        write(third, b"\x81\x02{}").await;
    }
    scene.all_given_up().await;
    for (one, third) in polite.iter_mut().zip(&mut wrong) {
        assert_eq!(one.end().await, End::Closed(1000, String::new()));
        assert_eq!(third.end().await, End::Closed(1002, "protocol error".to_owned()));
        assert!(one.received > 0 && third.received > 0, "they read what was held");
    }
    drop((polite, wrong));
    scene.closed(&[("client_closed", 2 * EACH), ("protocol", EACH)]).await;
    scene.ends("close behind", MORE_MIB).await;
    drop(silent);
}
