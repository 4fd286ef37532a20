//! A client on heads and all logs that judges each event as it comes, and the task in which it reads.
//!
//! Owns what a client may be told of blocks from before its time. The rules of the stream are those of [`View`], what is
//! true of a block is the oracle's.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::{Block, Event, Oracle};
use crate::harness::client::{Client, End, PATIENCE};
use crate::harness::view::{Breach, View, place};

/// A client on heads and all logs that judges each event as it comes.
pub(crate) struct Follower {
    client: Client,
    heads: String,
    logs: String,
    oracle: Arc<Oracle>,
    /// Logs of blocks whose heads were told before this client came.
    before: Vec<Value>,
    pub(crate) view: View,
    /// The hashes of the heads in the order in which they came, and when.
    pub(crate) heads_at: Vec<(String, Instant)>,
}

impl Follower {
    pub(crate) async fn start(url: &str, oracle: &Arc<Oracle>) -> Self {
        let mut client = Client::connect(url).await;
        let heads = client.subscribe(json!(["newHeads"])).await;
        let logs = client.subscribe(json!(["logs", {}])).await;
        Self {
            client,
            heads,
            logs,
            oracle: oracle.clone(),
            before: Vec::new(),
            view: View::new(None),
            heads_at: Vec::new(),
        }
    }

    /// The next event, not judged.
    pub(crate) async fn event(&mut self) -> Result<Event, End> {
        let (id, event) = self.client.notification().await?;
        match id {
            id if id == self.heads => Ok(Event::Head(event)),
            id if id == self.logs => Ok(Event::Log(event)),
            id => panic!("{id} is no subscription of this client"),
        }
    }

    /// Takes an event in, if it is true and keeps the rules.
    pub(crate) fn take(&mut self, event: Event) -> Breach {
        self.oracle.check(&event)?;
        match event {
            Event::Head(head) => {
                self.heads_at.push((head["hash"].as_str().unwrap_or_default().to_owned(), Instant::now()));
                self.view.head(head)
            }
            Event::Log(log) => self.log(log),
        }
    }

    /// Logs follow their heads, so who comes between the two gets logs below its first head: they too come once, in order,
    /// and are removed newest first.
    fn log(&mut self, mut log: Value) -> Breach {
        if self.view.logs() > 0 || self.view.first().is_some_and(|first| place(&log).0 >= first) {
            return self.view.log(log);
        }
        let last = self.before.last();
        if log["removed"] == json!(true) {
            log["removed"] = json!(false);
            return self
                .before
                .pop_if(|last| *last == log)
                .map(drop)
                .ok_or_else(|| format!("{log} was not the newest"));
        }
        if last.is_some_and(|last| place(last) >= place(&log)) {
            return Err(format!("{log} does not follow {last:?}"));
        }
        self.before.push(log);
        Ok(())
    }

    /// Whether its view is the chain to `tip`, from its first head on.
    pub(crate) fn compare(&self, tip: &Arc<Block>) -> Breach {
        let (first, own) = self.view.first().zip(self.view.tip()).ok_or("no head has come")?;
        if own["hash"] != tip.hash.as_str() {
            return Err(format!("its tip is {} {}", own["number"], own["hash"]));
        }
        self.view.compare_blocks(self.oracle.chain(tip, first).iter().map(|block| (&block.header, &*block.logs)))
    }

    /// All that was sent to it so far must leave it at `tip`.
    async fn has_no_more(&mut self, tip: &Arc<Block>) -> Breach {
        // An answer follows all that was sent before it.
        self.client.call("net_version", json!([])).await;
        while self.client.has_early() {
            self.step().await?;
        }
        self.compare(tip)
    }

    async fn step(&mut self) -> Breach {
        let event = self.event().await.map_err(|end| format!("{end:?}"))?;
        self.take(event)
    }
}

/// Where a reader is to come: the how manieth goal, and the tip.
type Goal = Option<(usize, Arc<Block>)>;

/// A follower that reads in a task of its own, as fast as it can.
pub(crate) struct Reader {
    goal: watch::Sender<Goal>,
    /// Which goal it has reached, and where it stands.
    reached: watch::Receiver<(usize, String)>,
    task: AbortOnDropHandle<Result<Follower, String>>,
}

impl Reader {
    pub(crate) fn spawn(follower: Follower) -> Self {
        let (goal, goals) = watch::channel(None);
        let (reaching, reached) = watch::channel((0, String::new()));
        Self { goal, reached, task: AbortOnDropHandle::new(tokio::spawn(read(follower, goals, reaching))) }
    }

    /// Waits until its view is the chain to `tip`. An error is what was wrong with the stream.
    pub(crate) async fn reach(&mut self, tip: &Arc<Block>) -> Breach {
        let turn = self.reached.borrow().0 + 1;
        // The task ends only by a breach, which is told below.
        let _ = self.goal.send(Some((turn, tip.clone())));
        let came = async { self.reached.wait_for(|(reached, _)| *reached == turn).await.is_ok() };
        match tokio::time::timeout(PATIENCE, came).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.breach().await),
            Err(_) => Err(format!("not in time at {} {}: {}", tip.number, tip.hash, self.reached.borrow().1)),
        }
    }

    async fn breach(&mut self) -> String {
        let ended = (&mut self.task).await.expect("it does not panic");
        ended.err().unwrap_or_else(|| "it ended".to_owned())
    }

    /// Ends it where it stands, which must be at the last goal with nothing more to come.
    pub(crate) async fn finish(self) -> Result<Follower, String> {
        drop(self.goal);
        self.task.await.expect("it does not panic")
    }
}

async fn read(
    mut follower: Follower,
    mut goals: watch::Receiver<Goal>,
    reaching: watch::Sender<(usize, String)>,
) -> Result<Follower, String> {
    loop {
        let goal = goals.borrow_and_update().clone().filter(|(turn, _)| *turn > reaching.borrow().0);
        if let Some((turn, tip)) = goal {
            let there = follower.compare(&tip);
            reaching.send_modify(|(reached, state)| match there {
                Ok(()) => *reached = turn,
                Err(misses) => *state = misses,
            });
        }
        tokio::select! {
            event = follower.event() => follower.take(event.map_err(|end| format!("{end:?}"))?)?,
            changed = goals.changed() => if changed.is_err() { break },
        }
    }
    let last = goals.borrow().clone();
    if let Some((_, tip)) = last {
        follower.has_no_more(&tip).await?;
    }
    Ok(follower)
}
