//! From a claimed tip down its parents to the known chain.
//!
//! Owns the bounded memory of headers by hash. Parent hash and number must both fit: a node's word about either alone
//! is not enough. Decides nothing about whether the claim counts. Pure.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use alloy_primitives::B256;

use super::window::Window;
use crate::chain::{BlockRef, Header};

/// Fetched blocks remembered as fetched a second time.
const DOUBTED: usize = 64;
/// Most blocks asked for at a time.
pub(super) const BATCH: u64 = 64;
/// A reorg's blocks are asked for one by one, as its depth is not known, but not those of one so deep.
const ONE_BY_ONE: usize = 64;

/// Headers by hash, the newest of them. One that was fetched outweighs one that was announced: a node announces without
/// being asked, and may announce nonsense about a block that another one knows.
#[derive(Debug, Default)]
pub(super) struct Headers {
    by_hash: HashMap<B256, Known>,
    order: VecDeque<B256>,
    /// What was fetched a second time.
    doubted: VecDeque<B256>,
}

#[derive(Debug)]
struct Known {
    header: Arc<Header>,
    fetched: bool,
}

impl Headers {
    /// Remembers an announced header; where another was announced under this hash, neither is believed.
    pub(super) fn announced(&mut self, header: &Arc<Header>, most: usize) {
        match self.by_hash.get(&header.hash) {
            Some(known) if known.header.parent == header.parent && known.header.number == header.number => {}
            Some(known) if known.fetched => {}
            Some(_) => self.forget(header.hash),
            None => self.put(header.clone(), false, most),
        }
    }

    /// Remembers a header that was asked for by its hash or number.
    pub(super) fn fetched(&mut self, header: Arc<Header>, most: usize) {
        self.put(header, true, most);
    }

    fn put(&mut self, header: Arc<Header>, fetched: bool, most: usize) {
        let hash = header.hash;
        if self.by_hash.insert(hash, Known { header, fetched }).is_none() {
            self.order.push_back(hash);
        }
        while self.order.len() > most {
            let oldest = self.order.pop_front().expect("it is not empty");
            self.by_hash.remove(&oldest);
        }
    }

    pub(super) fn get(&self, hash: B256) -> Option<&Arc<Header>> {
        self.by_hash.get(&hash).map(|known| &known.header)
    }

    /// The header, if it was asked for.
    pub(super) fn checked(&self, hash: B256) -> Option<&Arc<Header>> {
        self.by_hash.get(&hash).filter(|known| known.fetched).map(|known| &known.header)
    }

    fn forget(&mut self, hash: B256) {
        self.by_hash.remove(&hash);
        self.order.retain(|known| *known != hash);
    }

    /// The way from `target` down leads nowhere: forgets what was only announced of it, and once its lowest block, which
    /// a node may have given falsely. Returns whether there was any.
    pub(super) fn doubt(&mut self, target: &Header) -> bool {
        let mut hash = target.parent;
        let mut doubtful = Vec::new();
        let mut lowest = None;
        for _ in 0..self.order.len() {
            let Some(known) = self.by_hash.get(&hash) else { break };
            if !known.fetched {
                doubtful.push(hash);
            }
            lowest = Some(hash);
            hash = known.header.parent;
        }
        if let Some(lowest) = lowest.filter(|lowest| !self.doubted.contains(lowest)) {
            doubtful.push(lowest);
            self.doubted.push_back(lowest);
            if self.doubted.len() > DOUBTED {
                self.doubted.pop_front();
            }
        }
        doubtful.iter().for_each(|hash| self.forget(*hash));
        !doubtful.is_empty()
    }
}

/// Blocks that are needed: the one with this hash, and with it so many in all, downwards by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Need {
    pub(super) block: BlockRef,
    pub(super) count: u64,
}

/// How a claimed tip relates to the known chain.
#[derive(Debug)]
pub(super) enum Link {
    /// It stands on the entry at this place (none: there is no chain yet) by these blocks, parents first.
    To(Option<usize>, Vec<Arc<Header>>),
    /// These blocks are needed to tell.
    Missing(Need),
    /// It leaves our chain below the oldest block of a window that can still grow down.
    Below,
    /// It leaves our chain at or below the finalized block.
    Final,
    /// Its numbers contradict its parents.
    Broken,
    /// It is further from the chain than the window is long.
    Far,
}

/// Walks from `target` to the chain. Nothing at or below the number `floor` is undone.
pub(super) fn link(window: &Window, headers: &Headers, floor: Option<u64>, most: usize, target: &Arc<Header>) -> Link {
    let (Some(first), Some(tip)) = (window.first(), window.tip()) else { return Link::To(None, vec![target.clone()]) };
    if target.number > tip.number.saturating_add(most as u64) {
        return far(headers, target);
    }
    let mut path = vec![target.clone()];
    loop {
        let lowest = path.last().expect("it starts with the target");
        if floor.is_some_and(|floor| lowest.number <= floor) {
            return Link::Final;
        }
        if path.len() > most {
            return Link::Far;
        }
        if lowest.number <= first.number {
            return if window.may_grow_down() { Link::Below } else { Link::Far };
        }
        let parent = BlockRef { number: lowest.number - 1, hash: lowest.parent };
        if let Some(at) = window.position(parent.number, parent.hash) {
            path.reverse();
            return Link::To(Some(at), path);
        }
        match headers.get(parent.hash) {
            Some(header) if header.number == parent.number => path.push(header.clone()),
            Some(_) => return Link::Broken,
            None => {
                let count = match parent.number.checked_sub(tip.number) {
                    Some(above) if above > 0 => above.min(BATCH),
                    _ if path.len() > ONE_BY_ONE => BATCH / 2,
                    _ => 1,
                };
                return Link::Missing(Need { block: parent, count });
            }
        }
    }
}

/// A tip that is too far to be walked to ends the stream: it must at least be what its node gives when it is asked for that
/// block, and have a parent. A slip of the tongue has not.
fn far(headers: &Headers, target: &Arc<Header>) -> Link {
    let Some(checked) = headers.checked(target.hash) else {
        return Link::Missing(Need { block: target.block(), count: 1 });
    };
    if (checked.number, checked.parent) != (target.number, target.parent) {
        return Link::Broken;
    }
    let parent = BlockRef { number: target.number - 1, hash: target.parent };
    match headers.get(parent.hash) {
        Some(header) if header.number == parent.number => Link::Far,
        Some(_) => Link::Broken,
        None => Link::Missing(Need { block: parent, count: 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn header(parent: u8) -> Arc<Header> {
        let (hash, parent) = (B256::repeat_byte(1), B256::repeat_byte(parent));
        Arc::new(Header { number: 7, hash, parent, timestamp: 0, bloom: None, json: Bytes::new() })
    }

    #[test]
    fn what_was_fetched_outweighs_what_is_announced_and_contradictions_are_not_believed() {
        let mut headers = Headers::default();
        headers.announced(&header(2), 9);
        headers.announced(&header(3), 9);
        assert_eq!(headers.get(header(2).hash), None);
        headers.announced(&header(3), 9);
        headers.fetched(header(2), 9);
        headers.announced(&header(3), 9);
        assert_eq!(headers.get(header(2).hash), Some(&header(2)));
        assert_eq!(headers.checked(header(2).hash), Some(&header(2)));
    }
}
