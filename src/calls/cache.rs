//! Equal calls asked once, and their answers kept while they hold.
//!
//! Two scopes: answers about one block by its hash hold until they are pushed out by newer ones; all others hold until
//! the head changes. Errors and `null` are never kept. Bounded in bytes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use serde_json::value::RawValue;

use crate::metrics::Metrics;
use crate::rpc::Error;

type Answer = Result<Bytes, Error>;
type Asking = Shared<BoxFuture<'static, Answer>>;
/// Method and params.
type Key = (&'static str, Arc<RawValue>);

/// How long an answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Scope {
    /// While the head is the same.
    Head,
    /// As long as there is room: it is about one block by hash.
    Block,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Slot {
    scope: Scope,
    method: &'static str,
    params: Box<str>,
}

#[derive(Debug, Default)]
struct Store {
    asking: HashMap<Slot, (u64, Asking)>,
    kept: HashMap<Slot, Bytes>,
    order: VecDeque<Slot>,
    bytes: usize,
    head: u64,
    next: u64,
}

/// The cache of one chain.
#[derive(Debug)]
pub(super) struct Cache {
    store: Mutex<Store>,
    most: usize,
    chain: Arc<str>,
    metrics: Metrics,
}

impl Cache {
    pub(super) fn new(most: usize, chain: Arc<str>, metrics: Metrics) -> Self {
        Self { store: Mutex::default(), most, chain, metrics }
    }

    fn store(&self) -> std::sync::MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The head changed: what depended on it is forgotten.
    pub(super) fn next_head(&self) {
        let mut store = self.store();
        store.head += 1;
        store.asking.retain(|slot, _| slot.scope == Scope::Block);
        let Store { kept, order, bytes, .. } = &mut *store;
        order.retain(|slot| slot.scope == Scope::Block);
        kept.retain(|slot, answer| {
            let keep = slot.scope == Scope::Block;
            *bytes -= if keep { 0 } else { cost(slot, answer) };
            keep
        });
        self.gauge(&store);
    }

    /// The kept answer, or that of the question under way, or that of a new one.
    pub(super) async fn get_or_ask(
        &self,
        scope: Scope,
        key: Key,
        ask: impl FnOnce() -> BoxFuture<'static, Answer>,
    ) -> Answer {
        let slot = Slot { scope, method: key.0, params: key.1.get().into() };
        let (number, head, asking) = {
            let mut store = self.store();
            if let Some(answer) = store.kept.get(&slot) {
                self.count("hit");
                return Ok(answer.clone());
            }
            let known = store.asking.get(&slot).cloned();
            self.count(if known.is_some() { "joined" } else { "miss" });
            let (number, asking) = known.unwrap_or_else(|| {
                store.next += 1;
                let entry = (store.next, ask().shared());
                store.asking.insert(slot.clone(), entry.clone());
                entry
            });
            (number, store.head, asking)
        };
        let mut waiting = Waiting { cache: self, slot: &slot, number, asking: Some(asking) };
        let answer = waiting.asking.as_mut().expect("it is taken at the end").await;
        drop(waiting);
        self.store().settle(slot, number, head, &answer, self.most);
        self.gauge(&self.store());
        answer
    }

    fn count(&self, outcome: &str) {
        self.metrics.call_cache.with_label_values(&[&*self.chain, outcome]).inc();
    }

    fn gauge(&self, store: &Store) {
        let bytes = i64::try_from(store.bytes).unwrap_or(i64::MAX);
        self.metrics.call_cache_bytes.with_label_values(&[&*self.chain]).set(bytes);
    }
}

/// Waits for a question under way. The last one who leaves before the answer ends the question: nobody would drive it
/// on, and it holds one of its node's places for calls.
struct Waiting<'a> {
    cache: &'a Cache,
    slot: &'a Slot,
    number: u64,
    asking: Option<Asking>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut store = self.cache.store();
        self.asking = None;
        let ends = |(number, asking): &(u64, Asking)| {
            *number == self.number && asking.strong_count() == Some(1) && asking.peek().is_none()
        };
        let abandoned =
            if store.asking.get(self.slot).is_some_and(ends) { store.asking.remove(self.slot) } else { None };
        drop(store);
        drop(abandoned);
    }
}

fn cost(slot: &Slot, answer: &Bytes) -> usize {
    2 * slot.params.len() + answer.len() + 128
}

impl Store {
    /// The question `number` was answered. The first of those who waited for it settles it.
    fn settle(&mut self, slot: Slot, number: u64, head: u64, answer: &Answer, most: usize) {
        if self.asking.get(&slot).is_none_or(|(asked, _)| *asked != number) {
            return;
        }
        self.asking.remove(&slot);
        let holds = slot.scope == Scope::Block || head == self.head;
        let Some(answer) = answer.as_ref().ok().filter(|a| holds && a.as_ref() != b"null") else { return };
        self.bytes += cost(&slot, answer);
        if let Some(old) = self.kept.insert(slot.clone(), answer.clone()) {
            self.bytes -= cost(&slot, &old);
        } else {
            self.order.push_back(slot);
        }
        while self.bytes > most {
            let Some(oldest) = self.order.pop_front() else { break };
            let answer = self.kept.remove(&oldest).expect("both hold the same slots");
            self.bytes -= cost(&oldest, &answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn key(n: usize) -> Key {
        ("m", RawValue::from_string(format!("[{n}]")).unwrap().into())
    }

    fn cache(most: usize) -> Cache {
        Cache::new(most, "test".into(), Metrics::new())
    }

    #[tokio::test]
    async fn equal_calls_are_asked_once_and_kept_until_the_head_changes() {
        let (cache, asked) = (cache(10_000), Arc::new(AtomicUsize::new(0)));
        let ask = |text: &'static str| {
            let asked = asked.clone();
            move || -> BoxFuture<'static, Answer> {
                Box::pin(async move {
                    asked.fetch_add(1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    Ok(Bytes::from_static(text.as_bytes()))
                })
            }
        };
        let (a, b) = tokio::join!(
            cache.get_or_ask(Scope::Head, key(1), ask("1")),
            cache.get_or_ask(Scope::Head, key(1), ask("2"))
        );
        assert_eq!((a.unwrap(), b.unwrap()), (Bytes::from("1"), Bytes::from("1")));
        cache.get_or_ask(Scope::Head, key(1), ask("3")).await.unwrap();
        cache.get_or_ask(Scope::Block, key(1), ask("4")).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        cache.next_head();
        assert_eq!(cache.get_or_ask(Scope::Head, key(1), ask("5")).await.unwrap(), "5");
        assert_eq!(cache.get_or_ask(Scope::Block, key(1), ask("6")).await.unwrap(), "4");
        cache.get_or_ask(Scope::Head, key(2), ask("null")).await.unwrap();
        cache.get_or_ask(Scope::Head, key(2), ask("null")).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 5, "null is not kept");
    }

    #[tokio::test]
    async fn a_question_ends_with_the_last_who_waits() {
        let (cache, held) = (cache(1_000), Arc::new(()));
        let ask = || {
            let held = held.clone();
            move || -> BoxFuture<'static, Answer> {
                Box::pin(async move {
                    std::future::pending::<()>().await;
                    drop(held);
                    Ok(Bytes::new())
                })
            }
        };
        let mut first = Box::pin(cache.get_or_ask(Scope::Block, key(1), ask()));
        let mut second = Box::pin(cache.get_or_ask(Scope::Block, key(1), ask()));
        assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
        drop(first);
        assert_eq!((cache.store().asking.len(), Arc::strong_count(&held)), (1, 2), "the second still waits");
        drop(second);
        assert_eq!((cache.store().asking.len(), Arc::strong_count(&held)), (0, 1));
    }

    #[tokio::test]
    async fn bytes_are_bounded() {
        let cache = cache(1_000);
        for n in 0..50 {
            cache
                .get_or_ask(Scope::Block, key(n), || Box::pin(async { Ok(Bytes::from(vec![b'1'; 100])) }))
                .await
                .unwrap();
            assert!(cache.store().bytes <= 1_000);
        }
        cache.next_head();
        assert!(!cache.store().kept.is_empty());
    }
}
