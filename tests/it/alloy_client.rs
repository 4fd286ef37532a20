//! Follows a chain through alloy's pubsub provider, on one WebSocket: `subscribe_blocks`, `subscribe_logs`, calls.
//! Gives the same document as the programs in `tests/clients`; judges nothing.

use std::sync::{Arc, Mutex};

use alloy::primitives::{Address, B256, hex};
use alloy::providers::{DynProvider, Provider, ProviderBuilder, WsConnect};
use alloy::pubsub::Subscription;
use alloy::rpc::types::{Filter, Header, Log, TransactionRequest};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::harness::geth::COUNTER_CALL;

/// What to follow; the meaning is that of the programs' arguments.
pub(crate) struct Options {
    pub(crate) url: String,
    pub(crate) contract: String,
    pub(crate) class_topic: String,
    pub(crate) blocks: u64,
}

/// The start that all clients have in common: says when every subscription has brought something, and is told the
/// first block that counts.
pub(crate) struct Start {
    pub(crate) ready: oneshot::Sender<()>,
    pub(crate) first: oneshot::Receiver<u64>,
}

/// Events that alloy keeps until they are read, before it drops some; its own 16 are few on a machine that is busy.
const KEPT: usize = 1_024;

/// Follows to the block after the last one, unsubscribes, watches three more blocks, gives the document.
pub(crate) async fn follow(options: Options, start: Start) -> Value {
    let connect = WsConnect::new(&options.url);
    let provider = ProviderBuilder::new().connect_ws(connect).await.expect("alloy connects").erased();
    let contract: Address = options.contract.parse().expect("the contract is an address");
    let class: B256 = options.class_topic.parse().expect("the class is a topic");
    // Equal subscriptions are one in alloy, so the control is another one: everything from the contract.
    let everything = Filter::new().address(contract);
    let logs = |filter: &Filter| provider.subscribe_logs(filter).channel_size(KEPT);
    let run = Run {
        blocks: options.blocks,
        control: logs(&everything).await.expect("alloy subscribes to all logs"),
        logs: logs(&everything.clone().topic3(class)).await.expect("alloy subscribes to logs"),
        heads: provider.subscribe_blocks().channel_size(KEPT).await.expect("alloy subscribes to heads"),
        asker: Asker { provider, contract, entries: Arc::default() },
        seen: Seen::default(),
    };
    run.finish(start).await
}

#[derive(Default)]
struct Seen {
    heads: Vec<Header>,
    logs: Vec<Log>,
    control: Vec<Log>,
    errors: Vec<String>,
}

struct Run {
    blocks: u64,
    control: Subscription<Log>,
    logs: Subscription<Log>,
    heads: Subscription<Header>,
    asker: Asker,
    seen: Seen,
}

impl Run {
    async fn finish(mut self, start: Start) -> Value {
        let asking = self.collect(start).await;
        for id in [*self.heads.local_id(), *self.logs.local_id()] {
            self.asker.provider.unsubscribe(id).await.expect("alloy unsubscribes");
        }
        let after = self.silence().await;
        asking.join_all().await;
        let calls = std::mem::take(&mut *self.asker.entries.lock().expect("no call panics"));
        let (answered, failed): (Vec<_>, Vec<_>) = calls.into_iter().partition(Result::is_ok);
        self.seen.errors.extend(failed.into_iter().filter_map(Result::err));
        let heads = self.seen.heads.iter().map(plain_head).collect::<Vec<_>>();
        json!({
            "client": "alloy",
            "heads": { "subscribe_blocks": heads },
            "logs": { "class": self.seen.logs, "contract": self.seen.control },
            "calls": answered.into_iter().filter_map(Result::ok).collect::<Vec<_>>(),
            "afterUnsubscribe": after,
            "errors": self.seen.errors,
        })
    }

    /// Reads until the block after the last one: by then the last one's logs are here too.
    async fn collect(&mut self, start: Start) -> JoinSet<()> {
        let (mut ready, mut first, mut last) = (Some(start.ready), start.first, u64::MAX);
        let mut asking = JoinSet::new();
        loop {
            tokio::select! {
                head = self.heads.recv() => {
                    let head = head.expect("the heads subscription stays");
                    asking.spawn(self.asker.clone().ask(head.number));
                    let number = head.number;
                    self.seen.heads.push(head);
                    if number > last {
                        return asking;
                    }
                }
                log = self.logs.recv() => self.seen.logs.push(log.expect("the logs subscription stays")),
                log = self.control.recv() => self.seen.control.push(log.expect("the control subscription stays")),
                number = &mut first, if last == u64::MAX => {
                    last = number.expect("someone names the first block") + self.blocks - 1;
                }
            }
            let seen = &self.seen;
            if !seen.heads.is_empty()
                && !seen.logs.is_empty()
                && !seen.control.is_empty()
                && let Some(ready) = ready.take()
            {
                ready.send(()).expect("someone waits for all clients");
            }
        }
    }

    /// Waits for three blocks on the control, the first of them a barrier; counts what comes besides.
    async fn silence(&mut self) -> Value {
        let (mut heads, mut logs, mut blocks) = (0, 0, Vec::new());
        // Ended subscriptions answer at once, for ever; they are asked no more.
        let (mut heads_open, mut logs_open) = (true, true);
        while blocks.len() < 4 {
            let past_barrier = usize::from(blocks.len() >= 2);
            tokio::select! {
                log = self.control.recv() => {
                    let number = log.expect("the control subscription stays").block_number;
                    if !blocks.contains(&number) {
                        blocks.push(number);
                    }
                }
                head = self.heads.recv(), if heads_open => match head {
                    Ok(_) => heads += past_barrier,
                    Err(_) => heads_open = false,
                },
                log = self.logs.recv(), if logs_open => match log {
                    Ok(_) => logs += past_barrier,
                    Err(_) => logs_open = false,
                },
            }
        }
        json!({ "heads": heads, "logs": logs, "control": blocks.len() - 2 })
    }
}

#[derive(Clone)]
struct Asker {
    provider: DynProvider,
    contract: Address,
    entries: Arc<Mutex<Vec<Result<Value, String>>>>,
}

impl Asker {
    async fn ask(self, number: u64) {
        let outcome = self.entries_at(number).await;
        let mut entries = self.entries.lock().expect("no call panics");
        match outcome {
            Ok(list) => entries.extend(list.into_iter().map(Ok)),
            Err(error) => entries.push(Err(format!("calls at {number}: {error}"))),
        }
    }

    async fn entries_at(&self, number: u64) -> Result<Vec<Value>, String> {
        let text = |error: alloy::transports::TransportError| error.to_string();
        let latest = self.provider.get_block_number().await.map_err(text)?;
        let block = self.provider.get_block_by_number(number.into()).await.map_err(text)?;
        let block = block.ok_or("eth_getBlockByNumber answers null")?;
        let input = hex::decode(COUNTER_CALL).expect("the selector is hex");
        let request = TransactionRequest::default().to(self.contract).input(input.into());
        let result = self.provider.call(request).block(number.into()).await.map_err(text)?;
        Ok(vec![
            json!({ "method": "eth_blockNumber", "after": number, "block": latest }),
            json!({
                "method": "eth_getBlockByNumber", "block": number, "hash": block.header.hash,
                "transactions": block.transactions.hashes().collect::<Vec<_>>(),
            }),
            json!({ "method": "eth_call", "block": number, "result": result }),
        ])
    }
}

fn plain_head(head: &Header) -> Value {
    json!({ "number": head.number, "hash": head.hash, "parentHash": head.parent_hash })
}
