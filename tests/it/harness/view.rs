//! What a client can know: heads and logs applied strictly as they come, and compared with the chain itself.
//!
//! Owns the rules of the stream (see [`View`]) and the client that lives by them. Its own tests show that each breach
//! of a rule is found.

use chaincast::devnode::{Block, SharedChain};
use serde_json::{Value, json};

use super::client::{Client, End, PATIENCE};
use super::geth::quantity;

/// A client's view of the chain, from the first head that it got.
///
/// A head must follow the newest one, or replace heads all of whose logs were removed before, be it by itself alone (a step
/// back to it). A log must be of a head
/// that is there, and come after the logs before it. What is removed must be the newest log. What follows from the
/// rules: nothing comes twice, nothing out of order, nothing of a block that is not there.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// The only address whose logs were asked for.
    address: Option<String>,
    heads: Vec<Value>,
    logs: Vec<Value>,
    /// How many logs were taken back.
    pub(crate) removed: usize,
    /// How many heads gave way to others.
    pub(crate) replaced: usize,
}

/// What is wrong, in words.
pub(crate) type Breach = Result<(), String>;

fn height(head: &Value) -> u64 {
    quantity(&head["number"])
}

/// Where a log stands on its branch.
pub(crate) fn place(log: &Value) -> (u64, u64) {
    (quantity(&log["blockNumber"]), quantity(&log["logIndex"]))
}

impl View {
    pub(crate) fn new(address: Option<&str>) -> Self {
        Self { address: address.map(str::to_owned), ..Self::default() }
    }

    /// How many logs stand.
    pub(crate) fn logs(&self) -> usize {
        self.logs.len()
    }

    /// The height of the first head.
    pub(crate) fn first(&self) -> Option<u64> {
        self.heads.first().map(height)
    }

    /// The newest head.
    pub(crate) fn tip(&self) -> Option<&Value> {
        self.heads.last()
    }

    /// The place of a height among the heads; `Err` where it is below the first.
    fn at(&self, number: u64) -> Result<usize, u64> {
        let first = self.heads.first().map_or(number, height);
        let above = number.checked_sub(first).ok_or(first)?;
        Ok(usize::try_from(above).expect("tests have short chains"))
    }

    /// A head has come.
    pub(crate) fn head(&mut self, head: Value) -> Breach {
        let at = self.at(height(&head)).unwrap_or(0);
        let name = format!("head {} {}", height(&head), head["hash"]);
        if at > self.heads.len() {
            return Err(format!("{name} leaves a hole above {:?}", self.heads.last().map(height)));
        }
        if at > 0 && self.heads[at - 1]["hash"] != head["parentHash"] {
            return Err(format!("{name} has a parent that is not the head below it"));
        }
        // Below the newest it is a step back.
        if at + 1 == self.heads.len() && self.heads[at]["hash"] == head["hash"] {
            return Err(format!("{name} comes twice"));
        }
        let undone = self.heads.split_off(at);
        if let Some(log) = self.logs.iter().find(|log| undone.iter().any(|u| u["hash"] == log["blockHash"])) {
            return Err(format!("{name} replaces a head whose log {:?} was not removed", place(log)));
        }
        self.replaced += undone.len();
        self.heads.push(head);
        Ok(())
    }

    /// A log has come, be it that it is added or removed.
    pub(crate) fn log(&mut self, mut log: Value) -> Breach {
        let name = format!("log {:?} of {}", place(&log), log["blockHash"]);
        if log["removed"] == json!(true) {
            log["removed"] = json!(false);
            if self.logs.last() != Some(&log) {
                return Err(format!("{name} is removed and is not the newest"));
            }
            self.logs.pop();
            self.removed += 1;
            return Ok(());
        }
        let head = self.at(place(&log).0).ok().and_then(|at| self.heads.get(at));
        if head.is_none_or(|head| head["hash"] != log["blockHash"]) {
            return Err(format!("{name} is of no head that stands"));
        }
        if self.logs.last().is_some_and(|last| place(last) >= place(&log)) {
            return Err(format!("{name} does not follow {:?}", self.logs.last().map(place)));
        }
        if self.address.as_ref().is_some_and(|address| log["address"] != address.as_str()) {
            return Err(format!("{name} was not asked for"));
        }
        self.logs.push(log);
        Ok(())
    }

    /// The view must be the chain from its first head on, no more and no less.
    pub(crate) fn compare(&self, chain: &SharedChain) -> Breach {
        let Some(first) = self.heads.first().map(height) else { return Err("no head has come".to_owned()) };
        let blocks = chain.canonical_blocks();
        let blocks: Vec<_> = blocks.iter().filter(|block| block.number() >= first).collect();
        // Numbers first: this is asked for with each event, and reading all that JSON each time takes long.
        count("heads", self.heads.len(), blocks.len())?;
        count("logs", self.logs.len(), blocks.iter().map(|block| self.wanted_of(block)).sum())?;
        let read = |text: &String| serde_json::from_str::<Value>(text).expect("the chain writes JSON");
        let heads: Vec<Value> = blocks.iter().map(|block| read(&block.header_json())).collect();
        let wanted = |log: &Value| self.address.as_ref().is_none_or(|address| log["address"] == address.as_str());
        let logs_of = |block: &Block| block.logs_json(false).iter().map(read).filter(wanted).collect::<Vec<_>>();
        let logs: Vec<Value> = blocks.iter().flat_map(|block| logs_of(block)).collect();
        same("heads", &self.heads, &heads)?;
        same("logs", &self.logs, &logs)
    }

    /// The same, of blocks given as their headers and logs.
    pub(crate) fn compare_blocks<'a>(&self, blocks: impl Iterator<Item = (&'a Value, &'a [Value])> + Clone) -> Breach {
        same("heads", &self.heads, blocks.clone().map(|(head, _)| head))?;
        same("logs", &self.logs, blocks.flat_map(|(_, logs)| logs))
    }

    /// How many logs of a block were asked for.
    fn wanted_of(&self, block: &Block) -> usize {
        let Some(address) = &self.address else { return block.log_count() };
        block
            .logs()
            .filter(|log| log.transfer.address(block.economy()).to_string().eq_ignore_ascii_case(address))
            .count()
    }
}

fn count(what: &str, ours: usize, chain: usize) -> Breach {
    if ours == chain { Ok(()) } else { Err(format!("{ours} {what} instead of {chain}")) }
}

impl View {
    /// The view must have just these heads, by their hashes, and just these logs.
    fn compare_lists(&self, hashes: &[Value], logs: &[Value]) -> Breach {
        let ours: Vec<Value> = self.heads.iter().map(|head| head["hash"].clone()).collect();
        same("heads", &ours, hashes)?;
        same("logs", &self.logs, logs)
    }
}

fn same<'a>(what: &str, ours: &[Value], chain: impl IntoIterator<Item = &'a Value> + Clone) -> Breach {
    count(what, ours.len(), chain.clone().into_iter().count())?;
    match ours.iter().zip(chain).enumerate().find(|(_, (ours, chain))| ours != chain) {
        Some((at, (ours, chain))) => Err(format!("{what} differ at {at}:\n  got {ours}\n  is  {chain}")),
        None => Ok(()),
    }
}

/// A client that subscribes to heads and logs, and holds what comes against the rules.
pub(crate) struct Watcher {
    pub(crate) client: Client,
    pub(crate) view: View,
    heads: String,
    logs: String,
}

impl Watcher {
    /// Wants everything.
    pub(crate) async fn start(url: &str) -> Self {
        Self::of(url, None).await
    }

    /// Wants all heads, and the logs of one address or all.
    pub(crate) async fn of(url: &str, address: Option<&str>) -> Self {
        Self::on(Client::connect(url).await, address).await
    }

    /// The same on a connection that is there.
    pub(crate) async fn on(mut client: Client, address: Option<&str>) -> Self {
        let filter = address.map_or(json!({}), |address| json!({ "address": address }));
        let heads = client.subscribe(json!(["newHeads"])).await;
        let logs = client.subscribe(json!(["logs", filter])).await;
        Self { client, view: View::new(address), heads, logs }
    }

    /// Takes the next event in.
    pub(crate) async fn step(&mut self) -> Result<(), End> {
        let (id, event) = self.client.notification().await?;
        let taken = match id {
            id if id == self.heads => self.view.head(event),
            id if id == self.logs => self.view.log(event),
            id => Err(format!("{id} is no subscription of this client")),
        };
        taken.unwrap_or_else(|breach| panic!("{breach}"));
        Ok(())
    }

    /// Reads on until its view is the chain.
    pub(crate) async fn reach(&mut self, chain: &SharedChain) {
        self.reach_what(|view| view.compare(chain)).await;
    }

    /// Reads on until its view is these heads and logs, as another node tells them.
    pub(crate) async fn reach_lists(&mut self, (hashes, logs): (Vec<Value>, Vec<Value>)) {
        self.reach_what(|view| view.compare_lists(&hashes, &logs)).await;
    }

    async fn reach_what(&mut self, compare: impl Fn(&View) -> Breach) {
        let mut misses = Ok(());
        let reading = async {
            loop {
                misses = compare(&self.view);
                if misses.is_ok() {
                    return;
                }
                self.step().await.unwrap_or_else(|end| panic!("{end:?}, before this came: {misses:?}"));
            }
        };
        let read = tokio::time::timeout(PATIENCE / 2, reading).await;
        assert!(read.is_ok(), "the client does not get the chain: {}", misses.unwrap_err());
    }

    /// A block is mined and comes with its logs, after all that was owed before it and nothing else.
    pub(crate) async fn lives(&mut self, chain: &SharedChain) {
        chain.mine(3);
        self.reach(chain).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chaincast::devnode::{BlockRef, DevOptions};

    /// A chain of three blocks with four logs each, and a view of it from the first.
    fn followed() -> (SharedChain, View) {
        let chain = SharedChain::new(DevOptions::default());
        let mut view = View::new(None);
        for block in chain.extend(&[4, 4, 4]) {
            add(&chain, &mut view, block);
        }
        view.compare(&chain).expect("the view is the chain");
        (chain, view)
    }

    fn head(chain: &SharedChain, block: BlockRef) -> Value {
        serde_json::from_str(&chain.block(block.hash).expect("it is known").header_json()).expect("it is JSON")
    }

    fn logs(chain: &SharedChain, block: BlockRef, removed: bool) -> Vec<Value> {
        let logs = chain.block(block.hash).expect("it is known").logs_json(removed);
        logs.iter().map(|log| serde_json::from_str(log).expect("it is JSON")).collect()
    }

    fn add(chain: &SharedChain, view: &mut View, block: BlockRef) {
        view.head(head(chain, block)).expect("the head follows");
        logs(chain, block, false).into_iter().for_each(|log| view.log(log).expect("the log follows"));
    }

    fn breach(result: Breach, words: &str) {
        let breach = result.expect_err(words);
        assert!(breach.contains(words), "{breach:?} instead of {words:?}");
    }

    #[test]
    fn a_reorg_told_in_order_leads_to_the_chain() {
        let (chain, mut view) = followed();
        let gone: Vec<_> = chain.canonical_blocks()[2..].iter().rev().map(|block| block.reference()).collect();
        let new = chain.reorg(2, 3);
        for block in gone {
            logs(&chain, block, true).into_iter().rev().for_each(|log| view.log(log).expect("newest first"));
        }
        new.iter().for_each(|block| view.head(head(&chain, *block)).expect("in order"));
        breach(view.compare(&chain), "logs instead of");
        new.iter().flat_map(|block| logs(&chain, *block, false)).for_each(|log| view.log(log).expect("in order"));
        view.compare(&chain).expect("the view is the chain");
        assert_eq!((view.removed, view.replaced), (8, 2));
    }

    #[test]
    fn each_breach_of_a_head_is_found() {
        let (chain, mut view) = followed();
        let tip = chain.head();
        breach(view.head(head(&chain, tip)), "comes twice");
        let next = chain.extend(&[1, 1]);
        breach(view.head(head(&chain, next[1])), "leaves a hole");
        let rival = chain.branch(chain.canonical_blocks()[2].hash(), &[0, 0]);
        breach(view.head(head(&chain, rival[1])), "has a parent that is not");
        breach(view.head(head(&chain, rival[0])), "was not removed");
    }

    #[test]
    fn each_breach_of_a_log_is_found() {
        let (chain, mut view) = followed();
        let tip = chain.head();
        breach(view.log(logs(&chain, tip, false)[3].clone()), "does not follow");
        breach(view.log(logs(&chain, tip, true)[2].clone()), "is not the newest");
        let next = chain.mine(2);
        breach(view.log(logs(&chain, next, false)[0].clone()), "is of no head");
        view.head(head(&chain, next)).expect("the head follows");
        view.log(logs(&chain, next, false)[1].clone()).expect("a filter may leave some out");
        breach(view.log(logs(&chain, next, false)[0].clone()), "does not follow");
        breach(view.compare(&chain), "13 logs instead of 14");
        let mut other = View::new(Some("0x00"));
        other.head(head(&chain, tip)).expect("the first head may be any");
        breach(other.log(logs(&chain, tip, false)[0].clone()), "was not asked for");
    }

    #[test]
    fn a_view_that_lacks_or_alters_something_is_not_the_chain() {
        let (chain, view) = followed();
        breach(View::new(None).compare(&chain), "no head has come");
        chain.mine(0);
        breach(view.compare(&chain), "3 heads instead of 4");
        let (chain, mut view) = followed();
        view.logs[7]["data"] = json!("0x1");
        breach(view.compare(&chain), "logs differ at 7");
        view.heads[1]["gasUsed"] = json!("0x1");
        breach(view.compare(&chain), "heads differ at 1");
    }
}
