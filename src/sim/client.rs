//! A simulated client: comes, subscribes, reads at its pace, leaves, comes back; and judges all that it is told.
//!
//! Speaks HTTP and WebSocket itself, over the simulated network and through the gateway's own upgrade. Owns its end of the
//! connection. What it may be told is judged by [`View`]; how a connection may end is judged here.

use std::rc::Rc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::net::{End, Host};
use super::trace::What;
use super::view::{Event, View, Want};
use super::world::World;

/// How a client behaves.
#[derive(Debug, Clone)]
pub(super) struct Character {
    pub(super) wants: Vec<Want>,
    /// Bytes that are under way to it or wait for it to read them.
    pub(super) room: usize,
    /// What it reads at a time, and how long it pauses then. `None` reads all that comes.
    pub(super) slow: Option<(usize, Duration)>,
    pub(super) comes: Duration,
    /// How long it stays before it leaves, if it leaves, and how long it is away.
    pub(super) stays: Option<(Duration, Duration)>,
    /// Whether it ends one subscription and makes another while it stays.
    pub(super) changes: bool,
    pub(super) seed: u64,
}

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    Left,
    /// By the gateway: its code and reason.
    Closed(u16, String),
    Lost,
}

const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
/// How every notification begins and goes on; what comes in another form is read as an answer.
const OPENING: &[u8] = br#"{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":""#;
const MIDDLE: &[u8] = br#"","result":"#;
/// Bytes read at a time by a client that reads all.
const READ: usize = 8_192;
/// Longest pause before a client that was sent away comes back.
const BACK_MS: u64 = 2_000;

/// Lives until the end of the seed.
pub(super) async fn live(world: Rc<World>, number: usize, character: Character) {
    let mut rng = StdRng::seed_from_u64(character.seed);
    world.calm_or(character.comes).await;
    loop {
        let Some(mut connection) = Connection::open(&world, number, &character).await else {
            world.note_client(number, "was refused");
            world.fail(&format!("client {number} was refused"));
            return;
        };
        let stays = character.stays.map(|(stays, _)| stays.mul_f64(rng.random_range(0.5..1.5)));
        let ending = match connection.stay(stays).await {
            Ok(ending) => ending,
            Err(why) => {
                world.note_client(number, &why);
                return world.fail(&format!("client {number}: {why}"));
            }
        };
        drop(connection);
        world.leave(number);
        world.note_client(number, &format!("{ending:?}"));
        let away = match (&ending, character.stays) {
            (Ending::Left, Some((_, away))) => away.mul_f64(rng.random_range(0.2..1.5)),
            _ => Duration::from_millis(rng.random_range(0..BACK_MS)),
        };
        judge(&world, number, &character, &ending);
        world.calm_or(away).await;
    }
}

/// Only a slow client may be sent away, or anyone for a gap that has a cause.
fn judge(world: &World, number: usize, character: &Character, ending: &Ending) {
    let text = format!("client {number} ended with {ending:?}");
    match ending {
        Ending::Left => {}
        Ending::Closed(1013, reason) if reason == "gap" => world.gap(&text),
        // One that reads slowly may not even get to read that it is sent away.
        Ending::Closed(1013 | 1008, _) | Ending::Lost if character.slow.is_some() => {
            world.count(|tally| tally.slow += 1);
        }
        Ending::Closed(..) | Ending::Lost => world.fail(&text),
    }
}

/// One connection.
struct Connection<'a> {
    world: &'a Rc<World>,
    number: usize,
    character: &'a Character,
    end: End,
    read: Vec<u8>,
    /// Subscription ids in the order of the view's numbers; an ended one has none.
    ids: Vec<Option<String>>,
    /// Subscriptions that are asked for, by the id of the request.
    asked: Vec<(u64, Want)>,
    ending: Vec<(u64, usize)>,
    next_id: u64,
}

impl<'a> Connection<'a> {
    async fn open(world: &'a Rc<World>, number: usize, character: &'a Character) -> Option<Connection<'a>> {
        let (mut end, theirs) = world.net.connect(Host::Client(number), Host::Gateway, [16_384, character.room]).await;
        world.hand_over(number, theirs).await;
        end.write_all(UPGRADE).await.ok()?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(end.read_u8().await.ok()?);
        }
        if !head.starts_with(b"HTTP/1.1 101 ") {
            return None;
        }
        world.enter(number);
        world.note_client(number, "came");
        let mut connection = Self {
            world,
            number,
            character,
            end,
            read: Vec::new(),
            ids: Vec::new(),
            asked: Vec::new(),
            ending: Vec::new(),
            next_id: 1,
        };
        for want in &character.wants {
            connection.subscribe(want).await?;
        }
        Some(connection)
    }

    async fn subscribe(&mut self, want: &Want) -> Option<()> {
        let params = match want {
            Want::Heads => r#"["newHeads"]"#.into(),
            Want::Logs(wanted) => {
                format!(r#"["logs",{}]"#, serde_json::json!({"address": wanted.addresses, "topics": wanted.topics}))
            }
        };
        let id = self.next_id;
        self.asked.push((id, want.clone()));
        self.request("eth_subscribe", &params).await
    }

    async fn request(&mut self, method: &str, params: &str) -> Option<()> {
        let text = format!(r#"{{"jsonrpc":"2.0","id":{},"method":"{method}","params":{params}}}"#, self.next_id);
        self.next_id += 1;
        self.send(1, text.as_bytes()).await
    }

    /// Sends a masked frame (RFC 6455, section 5.2). `None` if the connection is gone.
    async fn send(&mut self, opcode: u8, payload: &[u8]) -> Option<()> {
        const MASK: [u8; 4] = [0x5a, 0xa5, 0x0f, 0xf0];
        let mut frame = vec![0x80 | opcode];
        if let Some(length) = u8::try_from(payload.len()).ok().filter(|length| *length < 126) {
            frame.push(0x80 | length);
        } else {
            frame.push(0xfe);
            frame.extend(u16::try_from(payload.len()).expect("requests are short").to_be_bytes());
        }
        frame.extend(MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.end.write_all(&frame).await.ok()
    }

    /// Reads until it leaves or is sent away.
    async fn stay(&mut self, stays: Option<Duration>) -> Result<Ending, String> {
        let leaves = stays.map(|stays| Instant::now() + stays);
        let mut changes = stays.filter(|_| self.character.changes).map(|stays| Instant::now() + stays / 2);
        let world = self.world;
        loop {
            let calm = world.is_calm();
            tokio::select! {
                biased;
                read = self.read_some() => match read {
                    Some(frames) => if let Some(ending) = self.take(frames).await? { return Ok(ending) },
                    None => return Ok(Ending::Lost),
                },
                () = world.becomes_calm(), if !calm => {}
                () = until(leaves), if !calm => return Ok(Ending::Left),
                () = until(changes), if !calm && changes.is_some() => {
                    changes = None;
                    self.change().await;
                }
            }
        }
    }

    /// Ends one subscription and makes the same again.
    async fn change(&mut self) {
        let Some(at) = self.ids.iter().position(Option::is_some) else { return };
        let id = self.ids[at].clone().expect("it has one");
        let want = self.character.wants[at % self.character.wants.len()].clone();
        self.ending.push((self.next_id, at));
        // A connection that is gone is seen by the next read.
        let _gone = self.request("eth_unsubscribe", &format!("[\"{id}\"]")).await;
        let _gone = self.subscribe(&want).await;
    }

    /// The next bytes as whole frames; `None` at the end. Safe to drop while waiting.
    async fn read_some(&mut self) -> Option<Vec<(u8, Vec<u8>)>> {
        let mut most = READ;
        if let Some((bite, pause)) = self.character.slow.filter(|_| !self.world.is_calm()) {
            most = bite;
            tokio::select! {
                biased;
                () = self.world.becomes_calm() => most = READ,
                () = tokio::time::sleep(pause) => {}
            }
        }
        let mut bytes = vec![0; most];
        let n = self.end.read(&mut bytes).await.ok().filter(|n| *n > 0)?;
        self.read.extend_from_slice(&bytes[..n]);
        let mut frames = Vec::new();
        let mut from = 0;
        while let Some((opcode, payload, to)) = frame(&self.read, from) {
            frames.push((opcode, self.read[payload..to].to_vec()));
            from = to;
        }
        self.read.drain(..from);
        Some(frames)
    }

    async fn take(&mut self, frames: Vec<(u8, Vec<u8>)>) -> Result<Option<Ending>, String> {
        for (opcode, payload) in frames {
            match opcode {
                1 => self.message(&payload)?,
                8 => {
                    let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                    let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default()).into_owned();
                    return Ok(Some(Ending::Closed(code, reason)));
                }
                // A connection that is gone is seen by the next read.
                9 => drop(self.send(10, &payload).await),
                other => return Err(format!("a frame with opcode {other}")),
            }
        }
        Ok(None)
    }

    fn message(&mut self, text: &[u8]) -> Result<(), String> {
        let Some((id, body)) = notification(text) else { return self.answer(text) };
        let sub = self.ids.iter().position(|known| known.as_deref().is_some_and(|known| known.as_bytes() == id));
        let sub = sub.ok_or_else(|| format!("a notification of an unknown subscription: {}", shown(text)))?;
        let event = self.world.read(body).ok_or_else(|| format!("cannot be read: {}", shown(body)))?;
        let client = self.number;
        self.world.note(match &*event {
            Event::Head(head) => What::Head { client, number: head.number, hash: head.hash },
            Event::Log { log, removed } => {
                What::Log { client, sub, number: log.number, hash: log.block, index: log.index, removed: *removed }
            }
        });
        if let (Event::Head(head), None) = (&*event, &self.character.slow) {
            self.world.told(head.hash);
        }
        self.world.with_view(client, |view| view.take(sub, &event))
    }

    fn answer(&mut self, text: &[u8]) -> Result<(), String> {
        let answer: serde_json::Value = serde_json::from_slice(text).map_err(|_| shown(text))?;
        let id = answer["id"].as_u64();
        if let Some(at) = self.ending.iter().position(|(asked, _)| Some(*asked) == id) {
            let (_, sub) = self.ending.remove(at);
            self.ids[sub] = None;
            self.world.with_view(self.number, |view| view.end(sub));
            return if answer["result"] == true { Ok(()) } else { Err(shown(text)) };
        }
        let at = self.asked.iter().position(|(asked, _)| Some(*asked) == id).ok_or_else(|| shown(text))?;
        let (_, want) = self.asked.remove(at);
        self.ids.push(Some(answer["result"].as_str().ok_or_else(|| shown(text))?.to_owned()));
        let since = self.world.now();
        self.world.with_view(self.number, |view: &mut View| view.subscribe(want, since));
        Ok(())
    }
}

fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().take(400).collect()
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Opcode, begin and end of the payload of the frame at `from`, if it is whole.
fn frame(bytes: &[u8], from: usize) -> Option<(u8, usize, usize)> {
    let (opcode, length) = (bytes.get(from)? & 0x0f, *bytes.get(from + 1)?);
    let at = from + 2;
    let (payload, length) = match length {
        126 => (at + 2, usize::from(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))),
        127 => (at + 8, usize::try_from(u64::from_be_bytes(*bytes.get(at..)?.first_chunk()?)).ok()?),
        short => (at, usize::from(short)),
    };
    (bytes.len() >= payload + length).then_some((opcode, payload, payload + length))
}

/// The subscription and the result of a notification.
fn notification(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = text.strip_prefix(OPENING)?;
    let end = rest.iter().position(|byte| *byte == b'"')?;
    let body = rest[end..].strip_prefix(MIDDLE)?.strip_suffix(b"}}")?;
    Some((&rest[..end], body))
}
