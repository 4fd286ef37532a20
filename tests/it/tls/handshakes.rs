//! Handshakes that are slow, wrong, or of something else than TLS, beside a client that must not notice.

use rustls::{AlertDescription, HandshakeKind};

use super::*;

/// The first bytes of a hello: the header of a record of 512 bytes, and of the message in it.
const BEGUN: [u8; 9] = [22, 3, 1, 2, 0, 1, 0, 1, 252];

/// All is well beside, and nothing is left of who was refused.
async fn end(stage: Stage, mut beside: Watcher) {
    beside.lives(&stage.chain).await;
    until("only the client beside is left", async || stage.gateway.metrics.connections.get() == 1).await;
    assert_eq!(stage.gateway.metrics.panics.get(), 0);
    drop(beside);
    stage.stop().await;
}

#[tokio::test]
async fn slow_ones_are_cut() {
    let stage = Stage::start_tls(&Files::new("slow-handshakes"), &[("limits.tls_timeout", "300ms")]).await;
    let beside = stage.watcher().await;
    let mut silent = http::connect(stage.gateway.address()).await;
    let mut begun = http::connect(stage.gateway.address()).await;
    begun.write_all(&BEGUN).await.expect("it is taken");
    for stream in [&mut silent, &mut begun] {
        let cut = tokio::time::timeout(PATIENCE, stream.read(&mut [0])).await.expect("it is cut in time");
        assert!(matches!(cut, Ok(0) | Err(_)), "{cut:?}");
    }
    until("both are counted", async || handshakes(&stage, "timeout") == 2).await;
    assert_eq!(stage.gateway.refused("tls_timeout", "connection"), 2);
    end(stage, beside).await;
}

#[tokio::test]
async fn too_many_are_refused() {
    let keys = [("limits.handshakes_max", "2"), ("server.shards", "1"), ("limits.tls_timeout", "30s")];
    let stage = Stage::start_tls(&Files::new("many-handshakes"), &keys).await;
    let beside = stage.watcher().await;
    stage.refuses_a_third_handshake().await;
    end(stage, beside).await;
}

#[tokio::test]
async fn what_is_no_tls_is_answered_by_an_alert() {
    let stage = Stage::start_tls(&Files::new("plain"), &[]).await;
    let beside = stage.watcher().await;
    let wrong = [&b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"[..], &[0xff; 6_000], &[0; 100]];
    for (refused, bytes) in (1..).zip(wrong) {
        let mut stream = http::connect(stage.gateway.address()).await;
        stream.write_all(bytes).await.expect("it is taken");
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it ends in time");
        // Where not all was read that came, the alert may be lost to the reset.
        if read.is_ok() {
            assert_eq!((answer.len(), answer[0]), (7, 21), "an alert and nothing else: {answer:?}");
        }
        until("it is counted", async || handshakes(&stage, "failed") == refused).await;
    }
    end(stage, beside).await;
}

#[tokio::test]
async fn only_http_1_is_spoken() {
    let stage = Stage::start_tls(&Files::new("alpn"), &[]).await;
    let beside = stage.watcher().await;
    let offer = async |protocols: &[&str]| {
        let mut config = tls::trusting(rustls::DEFAULT_VERSIONS);
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        tls::connect(stage.gateway.address(), Arc::new(config)).await
    };
    let stream = offer(&["h2", "http/1.1"]).await.expect("there is one that both speak");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    drop(stream);
    let refused = offer(&["h2"]).await.expect_err("there is none");
    let refused = refused.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    let want = rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol);
    assert_eq!(refused, Some(&want));
    end(stage, beside).await;
}

#[tokio::test]
async fn who_comes_back_is_known_by_its_ticket() {
    let stage = Stage::start_tls(&Files::new("tickets"), &[]).await;
    let beside = stage.watcher().await;
    for version in [&TLS12, &TLS13] {
        let config = Arc::new(tls::trusting(&[version]));
        for want in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut stream = tls::connect(stage.gateway.address(), config.clone()).await.expect("it is let in");
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(want), "{:?}", version.version);
            stream.write_all(b"OPTIONS / HTTP/1.1\r\nconnection: close\r\n\r\n").await.expect("it is read");
            stream.read_to_end(&mut Vec::new()).await.expect("it is answered");
        }
    }
    end(stage, beside).await;
}
