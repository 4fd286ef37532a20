//! A client with many subscriptions that holds each to the script: nothing missing, doubled, out of order or unasked for,
//! no notification before the answer that tells its subscription or after the one that ends it, no id twice.
//!
//! Breaches panic. What it is to hold comes from [`Script`]; it reads only when it is told to.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Value, json};

use super::script::{List, Script, Wish};
use crate::harness::client::{Client, End};
use crate::harness::crowd::notification;

/// A subscription.
#[derive(Debug)]
struct Sub {
    wish: Wish,
    /// In the order of subscribing.
    n: u32,
    /// The block from which on it is owed everything; what came before it may still reach it.
    since: u64,
    /// The place from which on nothing may be missing, once something has come.
    next: Option<usize>,
}

impl Sub {
    fn next(&self, script: &Script) -> usize {
        self.next.unwrap_or_else(|| script.start_of(self.wish.list(), self.since))
    }
}

/// The client.
pub(super) struct Reader {
    client: Client,
    script: Arc<Script>,
    subs: HashMap<String, Sub>,
    /// Every id that it was ever given.
    ids: HashSet<String>,
    subscribed: u32,
    /// What came last of each list, and to which subscription.
    last: [Option<(usize, u32)>; 2],
    /// Notifications so far.
    pub(super) received: usize,
}

impl Reader {
    pub(super) fn new(client: Client, script: Arc<Script>) -> Self {
        let (subs, ids, last) = (HashMap::new(), HashSet::new(), [None; 2]);
        Self { client, script, subs, ids, subscribed: 0, last, received: 0 }
    }

    /// Subscribes to all of these by one message; the ids.
    pub(super) async fn subscribe(&mut self, wishes: Vec<Wish>) -> Vec<String> {
        let call = |wish: &Wish| json!({"jsonrpc": "2.0", "id": 1, "method": "eth_subscribe", "params": wish.params()});
        let batch: Vec<Value> = wishes.iter().map(call).collect();
        let answers = self.exchange(&json!(batch).to_string()).await;
        // Whatever is mined from now on was mined after the gateway had answered.
        let since = self.script.next_block();
        let answers = answers.as_array().unwrap_or_else(|| panic!("no subscriptions: {answers}"));
        assert_eq!(answers.len(), wishes.len());
        let mut ids = Vec::new();
        for (wish, answer) in wishes.into_iter().zip(answers) {
            let id = answer["result"].as_str().unwrap_or_else(|| panic!("no subscription to {wish:?}: {answer}"));
            assert!(self.ids.insert(id.to_owned()), "{id} was given before");
            self.subs.insert(id.to_owned(), Sub { wish, n: self.subscribed, since, next: None });
            self.subscribed += 1;
            ids.push(id.to_owned());
        }
        ids
    }

    /// Ends subscriptions by one message. What they were owed before they ended must have come.
    pub(super) async fn unsubscribe(&mut self, ids: &[String]) {
        let call = |id: &String| json!({"jsonrpc": "2.0", "id": 1, "method": "eth_unsubscribe", "params": [id]});
        let batch: Vec<Value> = ids.iter().map(call).collect();
        let answers = self.exchange(&json!(batch).to_string()).await;
        assert_eq!(answers, json!(vec![json!({"jsonrpc": "2.0", "id": 1, "result": true}); ids.len()]));
        for id in ids {
            let sub = self.subs.remove(id).expect("it is its own");
            // What came later than this to another subscription was written while this one was there.
            let Some((last, _)) = self.last[at(sub.wish.list())] else { continue };
            self.lacks_nothing(&sub, last);
        }
    }

    /// Ids of what it is subscribed to.
    pub(super) fn ids(&self) -> Vec<String> {
        self.subs.keys().cloned().collect()
    }

    /// Sends text and reads on until its answer.
    async fn exchange(&mut self, text: &str) -> Value {
        self.client.send(text).await;
        loop {
            if let Some(answer) = self.step().await.expect("the connection stands") {
                return answer;
            }
        }
    }

    /// Takes the next message in; returns it if it is no notification.
    pub(super) async fn step(&mut self) -> Result<Option<Value>, End> {
        let text = self.client.text().await?;
        let Some((id, result)) = notification(&text) else {
            return Ok(Some(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))));
        };
        self.take(id, result);
        Ok(None)
    }

    fn take(&mut self, id: &str, result: &str) {
        let sub = self.subs.get(id).unwrap_or_else(|| panic!("{id} is no subscription that stands: {result}"));
        let list = sub.wish.list();
        let place = self.script.place(list, result).unwrap_or_else(|| panic!("not of this chain: {result}"));
        assert!(self.script.is_wanted(&sub.wish, place), "{:?} does not take {result}", sub.wish);
        let before = self.last[at(list)].replace((place, sub.n));
        assert!(before < Some((place, sub.n)), "{:?} comes after {before:?}", (place, sub.n));
        self.lacks_nothing(&self.subs[id], place);
        self.subs.get_mut(id).expect("it is there").next = Some(place + 1);
        self.received += 1;
    }

    /// Everything that a subscription was owed before this place has come.
    fn lacks_nothing(&self, sub: &Sub, before: usize) {
        let next = sub.next(&self.script);
        if next < before {
            let missing = self.script.owed(&sub.wish, next..before);
            assert_eq!(missing, 0, "missing to {sub:?} between {next} and {before}");
        }
    }

    /// Reads on until each subscription has got all there is, then asks a last call: nothing else may have been sent.
    pub(super) async fn reach(&mut self) {
        let last_of = |sub: &Sub| {
            let list = sub.wish.list();
            self.script.last_owed(&sub.wish, sub.next(&self.script)..self.script.end(list))
        };
        let mut rest: Vec<(String, usize)> =
            self.subs.iter().filter_map(|(id, sub)| Some((id.clone(), last_of(sub)?))).collect();
        while let Some((id, last)) = rest.last() {
            if self.subs[id].next > Some(*last) {
                rest.pop();
                continue;
            }
            let stray = self.step().await.unwrap_or_else(|end| panic!("{end:?}, and {} have not all", rest.len()));
            assert_eq!(stray, None, "an answer to nothing");
        }
        let answer = self.exchange(r#"{"jsonrpc":"2.0","id":"last","method":"net_version"}"#).await;
        assert_eq!(answer["id"], "last", "{answer}");
    }

    /// Reads what was sent, which must be right as far as it goes, until the connection ends.
    pub(super) async fn end(&mut self) -> End {
        loop {
            if let Err(end) = self.step().await {
                return end;
            }
        }
    }

    /// The connection, to do what a client may not.
    pub(super) fn client(&mut self) -> &mut Client {
        &mut self.client
    }
}

fn at(list: List) -> usize {
    usize::from(list == List::Logs)
}
