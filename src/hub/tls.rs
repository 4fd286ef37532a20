//! The synchronous half of TLS: from plaintext to records that a socket takes, and back.
//!
//! Owns a connection past its handshake. Knows no socket: where bytes come from and go to is given with each call, so
//! nothing here can wait. Plaintext is encrypted only when nothing is unsent, one record at a time, so what is held for
//! a client that does not read is that record; an idle connection holds no plaintext and no record, but the 4 KiB into
//! which rustls reads.

use std::io::{self, ErrorKind, IoSlice, Read, Write};

use rustls::ServerConnection;

/// Plaintext that is encrypted at a time: one record (RFC 8446, section 5.1).
const RECORD: usize = 16 * 1024;

/// Times that a read takes what the socket has, until there is plaintext. A peer may send records without any for ever.
const ROUNDS: usize = 8;

/// A connection past its handshake.
#[derive(Debug)]
pub(super) struct Tls {
    conn: ServerConnection,
    /// We said that nothing more will come.
    finished: bool,
}

impl Tls {
    /// Takes a connection over. What rustls holds of it by now, in either direction, is not lost.
    pub(super) fn new(mut conn: ServerConnection) -> Self {
        conn.set_buffer_limit(Some(RECORD));
        Self { conn, finished: false }
    }

    /// Whether a read gives something, be it the peer's end, whatever the socket has.
    pub(super) fn is_readable(&self) -> bool {
        !self.finished && !self.conn.wants_read()
    }

    /// Whether something was encrypted that the socket has not taken.
    pub(super) fn has_unsent(&self) -> bool {
        self.conn.wants_write()
    }

    /// Reads plaintext; `WouldBlock` if there is none, 0 at the peer's end, `Interrupted` if the peer sends much that is
    /// none: then others are to go on first. What the peer does wrong is answered with an
    /// alert, and is an error.
    pub(super) fn read(&mut self, socket: &mut (impl Read + Write), buf: &mut [u8]) -> io::Result<usize> {
        if self.finished {
            return read_past_end(socket, buf);
        }
        for _ in 0..ROUNDS {
            match self.conn.reader().read(buf) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                // An end without close_notify. What a WebSocket holds says itself where it ends.
                Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                done => return done,
            }
            // Also where nothing comes: rustls lets go of a large buffer only when it reads into it again.
            self.conn.read_tls(socket)?;
            let processed = self.conn.process_new_packets();
            // An alert, if anything. It is a record of its own, behind those that are unsent.
            let sent = self.flush(socket);
            processed.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            sent.or_else(|e| if e.kind() == ErrorKind::WouldBlock { Ok(0) } else { Err(e) })?;
        }
        Err(ErrorKind::Interrupted.into())
    }

    /// Takes as much plaintext as the socket takes records, and perhaps one record more, which is then unsent;
    /// `WouldBlock` if none.
    pub(super) fn write(&mut self, socket: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
        let mut taken = 0;
        while taken < bytes.len() && (taken == 0 || !self.has_unsent()) {
            taken += self.write_record(socket, &[IoSlice::new(&bytes[taken..])])?;
        }
        Ok(taken)
    }

    /// Takes one record's plaintext of some parts and offers the record to the socket; `WouldBlock` while one is unsent.
    pub(super) fn write_record(&mut self, socket: &mut impl Write, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.flush(socket)?;
        if self.has_unsent() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let taken = self.conn.writer().write_vectored(parts)?;
        if !self.has_unsent() {
            // TLS 1.2 cannot change its keys: rustls ends the connection when they are used up, and drops the rest.
            return Err(io::Error::new(ErrorKind::BrokenPipe, "the keys of the connection are used up"));
        }
        match self.flush(socket) {
            Err(e) if e.kind() != ErrorKind::WouldBlock => Err(e),
            _ => Ok(taken),
        }
    }

    /// Writes what is unsent. Returns how many bytes the socket took; `WouldBlock` if none of what is left.
    pub(super) fn flush(&mut self, socket: &mut impl Write) -> io::Result<usize> {
        let mut sent = 0;
        while self.has_unsent() {
            match self.conn.write_tls(socket) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock && sent > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(sent)
    }

    /// Says that no more bytes will come (`close_notify`), once however often it is called. Returns whether that is sent,
    /// or nothing can be sent any more.
    pub(super) fn finish(&mut self, socket: &mut impl Write) -> bool {
        self.finished = true;
        self.conn.send_close_notify();
        match self.flush(socket) {
            Err(e) => e.kind() != ErrorKind::WouldBlock,
            Ok(_) => !self.has_unsent(),
        }
    }
}

/// After our own end only the peer's is of interest: nothing is decrypted any more, and no alert is due.
fn read_past_end(socket: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    match socket.read(buf)? {
        0 => Ok(0),
        _ => Err(ErrorKind::WouldBlock.into()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;

    use rustls::crypto::ring;
    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use rustls::version::{TLS12, TLS13};
    use rustls::{AlertDescription, ClientConfig, ClientConnection, RootCertStore, ServerConfig};

    use super::*;

    /// Room for the headers of a record, and for an alert or a key update beside it.
    const OVERHEAD: usize = 128;

    /// Two ends whose handshake is done.
    pub(in crate::hub) fn handshaken(
        version: &'static rustls::SupportedProtocolVersion,
    ) -> (ServerConnection, ClientConnection) {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(own.cert.der().clone()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let server = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[version]).unwrap();
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
        let server = server.with_no_client_auth().with_single_cert(vec![own.cert.der().clone()], key).unwrap();
        let client = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
        let client = client.with_root_certificates(roots).with_no_client_auth();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        let mut client = ClientConnection::new(Arc::new(client), ServerName::try_from("localhost").unwrap()).unwrap();
        let mut wire = Vec::new();
        while client.wants_write() || server.wants_write() {
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets().unwrap();
            wire.clear();
            server.write_tls(&mut wire).unwrap();
            hear(&mut client, &wire);
            wire.clear();
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        (server, client)
    }

    fn both() -> [(Tls, ClientConnection); 2] {
        [&TLS12, &TLS13].map(|version| {
            let (server, client) = handshaken(version);
            (Tls::new(server), client)
        })
    }

    /// The client takes records in: what it reads, and whether that is the end.
    pub(in crate::hub) fn hear(client: &mut ClientConnection, mut wire: &[u8]) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        loop {
            match client.reader().read_to_end(&mut bytes) {
                Ok(_) => return (bytes, true),
                Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
            }
            if wire.is_empty() {
                return (bytes, false);
            }
            client.read_tls(&mut wire).unwrap();
            client.process_new_packets().unwrap();
        }
    }

    /// The client's records for this.
    fn say(client: &mut ClientConnection, mut bytes: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        loop {
            bytes = &bytes[client.writer().write(bytes).unwrap()..];
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            if bytes.is_empty() {
                return wire;
            }
        }
    }

    /// A socket: what has arrived, and how much it takes.
    #[derive(Debug, Default)]
    struct Wire {
        arrived: VecDeque<u8>,
        ended: bool,
        taken: Vec<u8>,
        room: usize,
    }

    impl Read for Wire {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            if self.arrived.is_empty() && !self.ended {
                return Err(ErrorKind::WouldBlock.into());
            }
            self.arrived.read(buf)
        }
    }

    impl Write for Wire {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = bytes.len().min(self.room);
            self.room -= n;
            self.taken.extend_from_slice(&bytes[..n]);
            if n == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(n) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn plaintext(size: usize) -> Vec<u8> {
        (0u8..251).cycle().take(size).collect()
    }

    /// All that can be read at once; the last is why no more.
    fn read_all(tls: &mut Tls, wire: &mut Wire, most: usize) -> (Vec<u8>, io::Result<usize>) {
        let (mut bytes, mut buf) = (Vec::new(), vec![0; most]);
        loop {
            match tls.read(wire, &mut buf) {
                Ok(n) if n > 0 => bytes.extend_from_slice(&buf[..n]),
                end => return (bytes, end),
            }
        }
    }

    fn is_nothing(end: &io::Result<usize>) -> bool {
        end.as_ref().is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
    }

    #[test]
    fn records_arrive_in_pieces() {
        for (mut tls, mut client) in both() {
            for (said, piece, most) in [(60, 1, 7), (17_000, 1, 16_384), (40_000, 4_093, 700), (40_000, 50_000, 9_000)]
            {
                let said = plaintext(said);
                let mut wire = Wire::default();
                let mut read = Vec::new();
                for piece in say(&mut client, &said).chunks(piece) {
                    wire.arrived.extend(piece);
                    assert!(!tls.is_readable());
                    let (bytes, end) = read_all(&mut tls, &mut wire, most);
                    assert!(is_nothing(&end) && wire.arrived.is_empty());
                    read.extend(bytes);
                }
                assert!(read == said);
            }
        }
    }

    #[test]
    fn what_is_decrypted_and_not_read_makes_it_readable() {
        for (mut tls, mut client) in both() {
            let mut wire = Wire { arrived: say(&mut client, b"abc").into(), ..Wire::default() };
            let mut buf = [0; 2];
            assert_eq!(tls.read(&mut wire, &mut buf).unwrap(), 2);
            assert!(tls.is_readable(), "the socket has nothing more, and yet there is a byte");
            assert_eq!((tls.read(&mut wire, &mut buf).unwrap(), buf[0]), (1, b'c'));
            assert!(!tls.is_readable());
        }
    }

    #[test]
    fn a_socket_that_takes_little_gets_every_byte() {
        for (mut tls, mut client) in both() {
            let said = plaintext(100_000);
            for room in [1, 21, 1_000, 16_383, 17_000, 70_000, 1_000_000] {
                let (mut wire, mut left, mut got) = (Wire::default(), said.as_slice(), Vec::new());
                while !left.is_empty() || tls.has_unsent() {
                    wire.room = room;
                    let done =
                        if left.is_empty() { tls.flush(&mut wire).map(|_| 0) } else { tls.write(&mut wire, left) };
                    match done {
                        Ok(n) => left = &left[n..],
                        Err(e) => assert!(e.kind() == ErrorKind::WouldBlock && tls.has_unsent()),
                    }
                    got.extend(hear(&mut client, &std::mem::take(&mut wire.taken)).0);
                    let unsent = said.len() - left.len() - got.len();
                    assert!(unsent <= RECORD, "{unsent} bytes were taken and are not sent");
                    assert!(tls.has_unsent() || unsent == 0);
                }
                assert!(got == said);
            }
        }
    }

    #[test]
    fn parts_go_out_in_their_order() {
        for (mut tls, mut client) in both() {
            let said = plaintext(60_000);
            let mut wire = Wire { room: 1_000_000, ..Wire::default() };
            let mut at = 0;
            while at < said.len() {
                let parts: Vec<_> = said[at..].chunks(5_000).take(16).map(IoSlice::new).collect();
                at += tls.write_record(&mut wire, &parts).unwrap();
            }
            assert!(hear(&mut client, &wire.taken) == (said, false));
        }
    }

    #[test]
    fn a_full_socket_is_owed_one_record_at_most() {
        for (mut tls, mut client) in both() {
            let mut wire = Wire::default();
            assert_eq!(tls.write(&mut wire, b"abc").unwrap(), 3);
            assert!(tls.has_unsent());
            assert!(tls.write(&mut wire, b"def").is_err_and(|e| e.kind() == ErrorKind::WouldBlock));
            assert!(is_nothing(&tls.flush(&mut wire)));
            wire.room = 10;
            assert_eq!((tls.flush(&mut wire).unwrap(), tls.has_unsent()), (10, true));
            wire.room = RECORD + OVERHEAD;
            assert_eq!((tls.flush(&mut wire).unwrap(), tls.has_unsent()), (wire.taken.len() - 10, false));
            assert_eq!(tls.flush(&mut wire).unwrap(), 0);
            assert_eq!(hear(&mut client, &wire.taken), (b"abc".to_vec(), false));
        }
    }

    #[test]
    fn the_peers_end() {
        for (mut tls, mut client) in both() {
            let mut arrived = say(&mut client, b"abc");
            client.send_close_notify();
            arrived.extend(say(&mut client, b""));
            // What follows an end is not looked at.
            arrived.extend([0xff; 50]);
            let mut wire = Wire { arrived: arrived.into(), room: 10_000, ..Wire::default() };
            let (bytes, end) = read_all(&mut tls, &mut wire, 100);
            assert_eq!((bytes.as_slice(), end.unwrap()), (&b"abc"[..], 0));
            assert!(tls.is_readable(), "the end can be read again");
            assert_eq!(tls.read(&mut wire, &mut [0; 9]).unwrap(), 0);
        }
        for (mut tls, mut client) in both() {
            let arrived = say(&mut client, b"abc");
            let mut wire =
                Wire { arrived: arrived[..arrived.len() - 1].to_vec().into(), ended: true, ..Wire::default() };
            assert_eq!(tls.read(&mut wire, &mut [0; 9]).unwrap(), 0, "cut in a record, without a word");
        }
    }

    #[test]
    fn our_end() {
        for (mut tls, mut client) in both() {
            let mut wire = Wire { room: 10_000, ..Wire::default() };
            assert_eq!(tls.write(&mut wire, b"abc").unwrap(), 3);
            wire.room = 10;
            assert!(!tls.finish(&mut wire) && tls.has_unsent());
            wire.room = 10_000;
            assert!(tls.finish(&mut wire) && !tls.has_unsent());
            let sent = wire.taken.len();
            assert!(tls.finish(&mut wire) && wire.taken.len() == sent, "it is said once");
            assert_eq!(hear(&mut client, &wire.taken), (b"abc".to_vec(), true));
            wire.arrived.extend([0xff; 50]);
            assert!(!tls.is_readable());
            assert!(is_nothing(&tls.read(&mut wire, &mut [0; 99])), "what comes then is not looked at");
            wire.ended = true;
            assert_eq!(tls.read(&mut wire, &mut [0; 99]).unwrap(), 0);
        }
    }

    #[test]
    fn garbage_is_answered_with_an_alert() {
        let mut spoilt = Vec::new();
        for (tls, mut client) in both() {
            let mut record = say(&mut client, b"abc");
            *record.last_mut().unwrap() ^= 1;
            spoilt.push((tls, client, record, AlertDescription::BadRecordMac));
        }
        for (tls, client) in both() {
            spoilt.push((tls, client, b"GET / HTTP/1.1\r\n\r\n".to_vec(), AlertDescription::DecodeError));
        }
        for (mut tls, mut client, arrived, alert) in spoilt {
            let mut wire = Wire { arrived: arrived.into(), room: 10_000, ..Wire::default() };
            assert_eq!(tls.read(&mut wire, &mut [0; 9]).unwrap_err().kind(), ErrorKind::InvalidData);
            client.read_tls(&mut wire.taken.as_slice()).unwrap();
            assert_eq!(client.process_new_packets(), Err(rustls::Error::AlertReceived(alert)));
            let sent = wire.taken.len();
            wire.arrived.extend([0xff; 50]);
            assert_eq!(tls.read(&mut wire, &mut [0; 9]).unwrap_err().kind(), ErrorKind::InvalidData);
            assert!(tls.write(&mut wire, b"abc").is_err());
            assert!(tls.finish(&mut wire));
            assert_eq!(wire.taken.len(), sent, "one alert is all");
        }
    }

    #[test]
    fn new_keys_that_the_peer_asks_for() {
        let (server, mut client) = handshaken(&TLS13);
        let mut tls = Tls::new(server);
        for round in 0..100 {
            client.refresh_traffic_keys().unwrap();
            let mut wire = Wire { arrived: say(&mut client, b"").into(), room: round * 40, ..Wire::default() };
            assert!(is_nothing(&tls.read(&mut wire, &mut [0; 9])));
            wire.arrived.extend(say(&mut client, b"x"));
            assert_eq!(tls.read(&mut wire, &mut [0; 9]).unwrap(), 1);
            assert_eq!(tls.write(&mut wire, b"abc").unwrap(), 3);
            wire.room = 10_000;
            tls.flush(&mut wire).unwrap();
            assert!(!tls.has_unsent());
            assert_eq!(hear(&mut client, &wire.taken), (b"abc".to_vec(), false));
        }
    }
}
