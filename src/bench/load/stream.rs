//! What all clients with one subscription receive, and whether each of them receives it once, whole and in order.
//!
//! The first client to get an event defines it; every other must get the same bytes at the same place, but for its own
//! subscription's id. That all of them missed an event shows in the parent hashes. Owns the events of one subscription.
//! Pure.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::io::Read as _;
use std::ops::Range;
use std::time::Instant;

use serde::Deserialize;

use super::frame::{MESSAGE_MAX, value_of};

/// One event as the first client got it.
#[derive(Debug)]
struct Event {
    /// The notification.
    message: Box<[u8]>,
    /// The same as it came, where it came compressed.
    packed: Option<Box<[u8]>>,
    /// Where the subscription's id stands, and where the result begins.
    id: Range<usize>,
    result: usize,
    /// From when its latency counts.
    since: Instant,
}

/// What a stream knows of a client.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// Its subscription's id, as the server writes it, with quotes where it has them.
    pub(super) id: Box<[u8]>,
    /// The number of the event that it gets next; `None` before its first.
    pub(super) place: Option<u32>,
}

/// The events of one subscription.
#[derive(Debug, Default)]
pub(super) struct Stream {
    events: Vec<Event>,
    /// The number of the first event of each block.
    starts: Vec<usize>,
    /// Blocks so far, by hash.
    blocks: HashSet<String>,
    /// Hashes of the events so far.
    seen: HashSet<u64>,
    hasher: RandomState,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Names<'a> {
    hash: Option<&'a str>,
    parent_hash: Option<&'a str>,
    block_hash: Option<&'a str>,
}

impl Event {
    /// Whether these bytes are this event for a client with this id: bytes are compared where they are expected, nothing
    /// is looked for.
    fn is(&self, bytes: &[u8], packed: bool, id: &[u8]) -> bool {
        let (at, message) = (&self.id, &self.message);
        if packed {
            return message[at.clone()] == *id && self.packed.as_deref() == Some(bytes);
        }
        let id_end = at.start + id.len();
        bytes.len() + at.len() == message.len() + id.len()
            && bytes[..at.start] == message[..at.start]
            && bytes[at.start..id_end] == *id
            && bytes[id_end..] == message[at.end..]
    }

    /// The result, and what follows it: the same for all clients of a server.
    fn result(&self) -> &[u8] {
        result_of(&self.message, self.result)
    }
}

/// The result of a notification, without the braces that close what is around it.
fn result_of(message: &[u8], from: usize) -> &[u8] {
    let result = message[from..].trim_ascii_end();
    result.strip_suffix(b"}}").unwrap_or(result)
}

/// Where id and result of a notification stand.
fn parts(message: &[u8]) -> Result<(Range<usize>, usize), String> {
    let id = value_of(message, b"\"subscription\":");
    match (id, memchr::memmem::find(message, b"\"result\":")) {
        (Some(id), Some(result)) => Ok((id, result + b"\"result\":".len())),
        _ => Err(format!("not a notification: {}", String::from_utf8_lossy(message))),
    }
}

/// A message without its compression. What ends it is left out when it is sent (RFC 7692 §7.2.1); an empty last block
/// after that is the end of the decoder's input.
pub(super) fn inflated(packed: &[u8]) -> Result<Vec<u8>, String> {
    let end = [0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff];
    let mut message = Vec::new();
    let most = MESSAGE_MAX as u64 + 1;
    let read = flate2::read::DeflateDecoder::new(packed.chain(&end[..])).take(most).read_to_end(&mut message);
    match read {
        Ok(size) if size <= MESSAGE_MAX => Ok(message),
        Ok(_) => Err("a compressed message that is too long".into()),
        Err(e) => Err(format!("a message that cannot be inflated: {e}")),
    }
}

impl Stream {
    /// Takes a notification that a client got. `since` is when it was sent, if a first client has it. Returns when it
    /// was sent, or what is wrong with it.
    pub(super) fn take(
        &mut self,
        reader: &mut Reader,
        bytes: &[u8],
        packed: bool,
        since: Instant,
    ) -> Result<Instant, String> {
        let at = match reader.place {
            Some(next) => next as usize,
            // Who comes while events flow begins with any of them.
            None => self.position(reader, bytes, packed)?.unwrap_or(self.events.len()),
        };
        let expected = self.events.get(at).is_some_and(|event| event.is(bytes, packed, &reader.id));
        if !expected {
            self.compare(at, reader, bytes, packed, since)?;
        }
        reader.place = Some(u32::try_from(at + 1).expect("a run has fewer events"));
        Ok(self.events[at].since)
    }

    /// The same by the result alone: for the first client, and where servers write what is around it in other ways.
    fn compare(
        &mut self,
        at: usize,
        reader: &Reader,
        bytes: &[u8],
        packed: bool,
        since: Instant,
    ) -> Result<(), String> {
        let message = if packed { inflated(bytes)? } else { bytes.to_vec() };
        let (id, from) = parts(&message)?;
        if message[id.clone()] != *reader.id {
            return Err("a notification for another subscription".into());
        }
        let result = result_of(&message, from);
        let Some(event) = self.events.get(at) else {
            self.define(result, bytes)?;
            let packed = packed.then(|| bytes.into());
            self.events.push(Event { packed, id, result: from, since, message: message.into() });
            return Ok(());
        };
        if *event.result() == *result {
            return Ok(());
        }
        Err(match self.events.iter().position(|e| *e.result() == *result) {
            Some(other) if other < at => format!("event {other} came again where {at} was due"),
            Some(other) => format!("event {other} came where {at} was due"),
            None => format!("an event came that nobody else got where {at} was due"),
        })
    }

    /// The last event with the result of this message.
    fn position(&self, reader: &Reader, bytes: &[u8], packed: bool) -> Result<Option<usize>, String> {
        if let Some(at) = self.events.iter().rposition(|e| e.is(bytes, packed, &reader.id)) {
            return Ok(Some(at));
        }
        let message = if packed { &inflated(bytes)? } else { bytes };
        let result = result_of(message, parts(message)?.1);
        Ok(self.events.iter().rposition(|e| *e.result() == *result))
    }

    /// Notes an event that nobody had before.
    fn define(&mut self, result: &[u8], bytes: &[u8]) -> Result<(), String> {
        // Whatever closes the notification may follow the result.
        let names = serde_json::Deserializer::from_slice(result).into_iter::<Names<'_>>().next();
        let Some(Ok(names)) = names else {
            return Err(format!("an event that cannot be read: {}", String::from_utf8_lossy(bytes)));
        };
        let block = names.block_hash.or(names.hash).ok_or("an event without a block hash")?;
        if !self.seen.insert(self.hasher.hash_one(result)) {
            return Err("an event came twice".into());
        }
        if let Some(parent) = names.parent_hash.filter(|_| names.block_hash.is_none())
            && !self.blocks.is_empty()
            && !self.blocks.contains(parent)
        {
            return Err(format!("a head was missed by all clients: the parent of {block} did not come"));
        }
        if self.blocks.insert(block.to_owned()) {
            self.starts.push(self.events.len());
        }
        Ok(())
    }

    /// The number of the first event after `blocks` blocks, once it is known. Heads are one a block, so that the end of
    /// a block is known with it; logs of a block end where those of another begin.
    pub(super) fn end_of(&self, blocks: usize, one_a_block: bool) -> Option<u32> {
        let end = match self.starts.get(blocks) {
            Some(end) => *end,
            None if one_a_block && self.starts.len() == blocks => self.events.len(),
            None => return None,
        };
        u32::try_from(end).ok()
    }

    /// Whether this block has begun.
    pub(super) fn has_block(&self, hash: &str) -> bool {
        self.blocks.contains(hash)
    }

    /// Number of blocks that have begun.
    pub(super) fn blocks(&self) -> usize {
        self.starts.len()
    }

    /// Number of events so far.
    pub(super) fn events(&self) -> u32 {
        u32::try_from(self.events.len()).expect("a run has fewer events")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(n: u64) -> String {
        format!(r#"{{"hash":"0x{n}","parentHash":"0x{}"}}"#, n - 1)
    }

    fn log(block: u64, index: u64) -> String {
        format!(r#"{{"blockHash":"0x{block}","logIndex":"0x{index}"}}"#)
    }

    fn notification(id: &str, result: &str) -> Vec<u8> {
        format!(r#"{{"jsonrpc":"2.0","params":{{"subscription":{id},"result":{result}}}}}"#).into_bytes()
    }

    fn reader(id: &str) -> Reader {
        Reader { id: id.as_bytes().into(), place: None }
    }

    /// Feeds each client its events; what is wrong with the last one.
    fn feed(clients: &[&[String]]) -> Result<(), String> {
        let (mut stream, now) = (Stream::default(), Instant::now());
        for (number, events) in clients.iter().enumerate() {
            // Ids of several lengths, as Geth's are.
            let id = format!("\"0x{}\"", 10_u32.pow(u32::try_from(number).unwrap()));
            let mut reader = reader(&id);
            for event in *events {
                stream.take(&mut reader, &notification(&id, event), false, now)?;
            }
        }
        Ok(())
    }

    #[test]
    fn equal_records_are_right_wherever_they_begin() {
        assert_eq!(feed(&[&[head(1), head(2), head(3)], &[head(1), head(2), head(3)], &[head(3), head(4)]]), Ok(()));
        assert_eq!(feed(&[&[log(1, 0), log(1, 1), log(5, 0)], &[log(1, 0), log(1, 1)]]), Ok(()));
    }

    #[test]
    fn every_mistake_is_found() {
        let whole = [head(1), head(2), head(3)];
        for (wrong, word) in [
            (vec![head(1), head(3)], "event 2 came where 1"),
            (vec![head(1), head(1)], "event 0 came again"),
            (vec![head(1), head(2), head(2)], "event 1 came again"),
            (vec![head(1), head(2), head(3), head(3)], "came twice"),
            (vec![head(2), head(1)], "event 0 came again"),
            (vec![head(1), log(7, 7)], "nobody else"),
            (vec![head(1), head(2), head(3), head(5)], "missed by all"),
        ] {
            let found = feed(&[&whole, &wrong]).expect_err(word);
            assert!(found.contains(word), "{found}");
        }
    }

    #[test]
    fn what_is_around_the_result_may_differ_but_not_the_id() {
        let (mut stream, now) = (Stream::default(), Instant::now());
        let (mut a, mut b) = (reader("17"), reader("18"));
        stream.take(&mut a, &notification("17", &head(1)), false, now).unwrap();
        let other = format!(r#"{{"params":{{"subscription": 18,"result":{}}}}}"#, head(1));
        stream.take(&mut b, other.as_bytes(), false, now).unwrap();
        let why = stream.take(&mut b, &notification("17", &head(2)), false, now).unwrap_err();
        assert!(why.contains("another subscription"), "{why}");
    }

    #[test]
    fn compressed_events_are_inflated_once_and_compared_with_plain_ones() {
        use std::io::Write as _;
        let packed = |message: &[u8]| {
            let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(message).unwrap();
            encoder.flush().unwrap();
            let bytes = encoder.get_ref().clone();
            bytes.strip_suffix(&[0, 0, 0xff, 0xff]).expect("a flush ends so").to_vec()
        };
        let (mut stream, now) = (Stream::default(), Instant::now());
        let (mut a, mut b, mut c) = (reader("1"), reader("1"), reader("2"));
        stream.take(&mut a, &packed(&notification("1", &head(1))), true, now).unwrap();
        assert!(stream.events[0].is(&packed(&notification("1", &head(1))), true, b"1"), "without inflating it");
        stream.take(&mut b, &notification("1", &head(1)), false, now).unwrap();
        stream.take(&mut c, &packed(&notification("2", &head(1))), true, now).unwrap();
        let wrong = stream.take(&mut c, &packed(&notification("1", &head(2))), true, now);
        assert!(wrong.is_err_and(|why| why.contains("another subscription")));
        assert!(inflated(&[0xff, 0xff]).is_err());
    }

    #[test]
    fn blocks_end_where_the_next_begins_or_with_their_head() {
        let (mut stream, now, mut logs) = (Stream::default(), Instant::now(), reader("1"));
        for event in [log(1, 0), log(1, 1), log(2, 0)] {
            stream.take(&mut logs, &notification("1", &event), false, now).unwrap();
        }
        assert_eq!((stream.end_of(1, false), stream.end_of(2, false), stream.blocks()), (Some(2), None, 2));
        let (mut stream, mut heads) = (Stream::default(), reader("1"));
        stream.take(&mut heads, &notification("1", &head(1)), false, now).unwrap();
        assert_eq!((stream.end_of(1, true), stream.end_of(2, true)), (Some(1), None));
    }
}
