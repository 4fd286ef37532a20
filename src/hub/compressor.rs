//! Frames compressed for clients that negotiated it: once for all of a stream, or for a client that alone gets them.
//!
//! Owns the shard's deflater and the bound on how much is given to it. Compressing takes several times as long as a
//! write, so it goes in portions too. Beyond the bound frames stay as they are, as any message may (RFC 7692 §6).

use bytes::Bytes;

use super::frame::BatchBuilder;
use super::items::Items;
use super::plan::{Plan, Source};
use crate::deflate::Deflater;

/// Bytes that are compressed for a slice of an entry: some 25 ms, for which all others wait. Few in tests, so that they are
/// used up.
const SLICE_MAX: usize = if cfg!(test) { 12_000 } else { 1 << 20 };

/// Bytes that are compressed between two yields, a millisecond or two. Few in tests, so that much happens in between.
const TURN: usize = if cfg!(test) { 2_000 } else { 64 * 1024 };

/// Bytes that are compressed at a stretch at most, where what one client gets is written in one step.
const TURN_MAX: usize = 4 * TURN;

/// What compresses.
#[derive(Debug, Default)]
pub(super) struct Compressor {
    deflater: Deflater,
    /// Bytes that may still be compressed for this slice.
    left: usize,
    /// Bytes that were compressed since the last yield.
    in_turn: usize,
}

impl Compressor {
    /// A slice begins: encodes ahead what several connections get compressed.
    pub(super) async fn ahead(&mut self, plan: &mut Plan, items: &Items<'_>) {
        self.left = SLICE_MAX;
        while let Some(number) = plan.next_to_compress() {
            let source = plan.source(number);
            let mut frames = BatchBuilder::default();
            for item in plan.items(source) {
                self.push(&mut frames, source, items.result(item));
                if self.had_its_turn() {
                    self.next_turn();
                    tokio::task::yield_now().await;
                }
            }
            plan.put_ahead(number, frames);
        }
    }

    /// Adds a notification as the source's connections get it. Returns how many bytes there are.
    pub(super) fn push(&mut self, frames: &mut BatchBuilder, source: &Source, result: &[Bytes]) -> usize {
        let length = frames.push(&source.id, result);
        if !source.compressed || self.left == 0 || self.in_turn >= TURN_MAX {
            return length;
        }
        let given = frames.compress_last(&mut self.deflater);
        self.left = self.left.saturating_sub(given);
        self.in_turn += given;
        frames.bytes.len()
    }

    /// Whether it is time to let others go on.
    pub(super) fn had_its_turn(&self) -> bool {
        self.in_turn >= TURN
    }

    /// Others were let go on.
    pub(super) fn next_turn(&mut self) {
        self.in_turn = 0;
    }
}
