//! Best-effort events on their way to everyone who listens: who is behind does not get them.
//!
//! Owns nothing between two events.

use std::rc::Rc;
use std::slice::from_ref;

use bytes::BytesMut;
use tokio::time::Instant;

use super::conn::Written;
use super::shard::State;
use super::streams::{IdText, Member};
use super::{Shard, StreamKey, frame};
use crate::chain::FeedEvent;

/// Writes between two yields.
const PORTION: usize = if cfg!(test) { 4 } else { 128 };

/// Passes an event on.
pub(super) async fn pass(shard: &Rc<Shard>, event: &FeedEvent) {
    let key = StreamKey::Feed(event.feed.clone());
    let groups: Vec<(IdText, Vec<Member>)> = {
        let state = shard.state.borrow();
        let Some(stream) = state.streams.find(&key) else { return };
        state.streams.get(stream).groups().map(|group| (group.id.text(), group.members.clone())).collect()
    };
    for (id, members) in groups {
        let mut bytes = BytesMut::new();
        frame::notification(&mut bytes, &id, from_ref(&event.json));
        for portion in members.chunks(PORTION) {
            let (mut sent, mut frames) = (0, 0);
            for member in portion {
                let taken = pass_one(shard, &mut shard.state.borrow_mut(), &bytes, member);
                sent += taken;
                frames += usize::from(taken > 0);
            }
            shard.count_bytes(sent);
            shard.meters.kind(key.label()).1.inc_by(frames as u64);
            shard.count_dropped("client_behind", (portion.len() - frames) as u64);
            tokio::task::yield_now().await;
        }
    }
}

/// Writes one frame. Returns the bytes that were taken: none if the client is behind or gone, and then it never gets it.
fn pass_one(shard: &Rc<Shard>, state: &mut State, bytes: &BytesMut, to: &Member) -> usize {
    let now = Instant::now();
    let free = state.conn(to.conn).filter(|c| c.outbox.is_none() && c.closing.is_none() && c.has(to.n));
    let Some(conn) = free else { return 0 };
    match conn.write(bytes) {
        Written::All => bytes.len(),
        Written::Gone => {
            conn.lost(now);
            0
        }
        Written::Some(0) => 0,
        Written::Some(n) => {
            conn.outbox(now).bytes.copy(&bytes[n..]);
            shard.attend(state, to.conn);
            n
        }
    }
}
