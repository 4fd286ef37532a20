//! Compares one client's document with what the node says, and names every fault. Pure; knows no client library.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde_json::{Value, json};

/// The truth for all blocks that a document may touch, as the node told it.
pub(super) struct Oracle {
    pub(super) contract: String,
    pub(super) class: String,
    /// The blocks that every client must have.
    pub(super) must_have: RangeInclusive<u64>,
    /// Blocks by number, with transaction hashes.
    pub(super) blocks: BTreeMap<u64, Value>,
    /// All logs of these blocks in order, each as [`plain_log`] gives it.
    pub(super) logs: Vec<Value>,
    /// What `counter()` answers at each block.
    pub(super) counters: BTreeMap<u64, Value>,
}

/// The lowest and the highest block that the documents' events name.
pub(super) fn span(documents: &[Value]) -> (u64, u64) {
    let numbers = documents.iter().flat_map(|document| {
        let heads = streams(document, "heads").into_iter().flat_map(|(_, heads)| heads);
        let logs = streams(document, "logs").into_iter().flat_map(|(_, logs)| logs);
        heads.map(|head| number(&head["number"])).chain(logs.map(|log| number(&log["blockNumber"]))).collect::<Vec<_>>()
    });
    numbers.fold((u64::MAX, 0), |(low, high), number| (low.min(number), high.max(number)))
}

/// A log with plain numbers, in the members that every library passes on.
pub(super) fn plain_log(log: &Value) -> Value {
    json!({
        "blockNumber": number(&log["blockNumber"]),
        "blockHash": log["blockHash"],
        "transactionHash": log["transactionHash"],
        "transactionIndex": number(&log["transactionIndex"]),
        "logIndex": number(&log["logIndex"]),
        "address": log["address"].as_str().unwrap_or_default().to_lowercase(),
        "topics": log["topics"],
        "data": log["data"],
        "removed": log["removed"].as_bool().unwrap_or(false),
    })
}

/// Everything that is wrong with the document; empty when it is exactly the chain.
pub(super) fn faults(document: &Value, oracle: &Oracle) -> Vec<String> {
    let mut faults = Vec::new();
    let heads = streams(document, "heads");
    if heads.is_empty() {
        faults.push("has no stream of heads".to_owned());
    }
    for (name, heads) in heads {
        faults.extend(head_faults(heads, oracle).into_iter().map(|fault| format!("heads {name}: {fault}")));
    }
    let logs = streams(document, "logs");
    if !logs.iter().any(|(name, _)| name == "class") {
        faults.push("has no filtered logs".to_owned());
    }
    for (name, logs) in logs {
        faults.extend(log_faults(&name, logs, oracle).into_iter().map(|fault| format!("logs {name}: {fault}")));
    }
    faults.extend(call_faults(list(&document["calls"]), oracle));
    faults.extend(silence_faults(&document["afterUnsubscribe"]));
    faults.extend(list(&document["errors"]).iter().map(|error| format!("reports {error}")));
    faults.into_iter().map(|fault| format!("{}: {fault}", document["client"])).collect()
}

/// Heads must follow each other without a gap or a step back, and cover the blocks that all must have.
fn head_faults(heads: &[Value], oracle: &Oracle) -> Vec<String> {
    let mut faults = Vec::new();
    for head in heads {
        let Some(block) = oracle.blocks.get(&number(&head["number"])) else {
            faults.push(format!("{head} is not on the chain"));
            continue;
        };
        for member in ["hash", "parentHash"] {
            // ethers passes on the number only.
            if !head[member].is_null() && head[member] != block[member] {
                faults.push(format!("{head} has another {member} than the node's {}", block[member]));
            }
        }
    }
    let numbers: Vec<_> = heads.iter().map(|head| number(&head["number"])).collect();
    for pair in numbers.windows(2) {
        if pair[1] != pair[0] + 1 {
            faults.push(format!("{} comes after {}", pair[1], pair[0]));
        }
    }
    let (first, last) = (*oracle.must_have.start(), *oracle.must_have.end());
    if numbers.first().is_none_or(|number| *number > first) || numbers.last().is_none_or(|number| *number < last) {
        faults.push(format!("{:?} to {:?} does not cover {first} to {last}", numbers.first(), numbers.last()));
    }
    faults
}

/// Logs must be the node's own, in its order, complete from the first one's block to the last block that counts.
/// After that block the client unsubscribes, so only a part of what follows may be there.
fn log_faults(stream: &str, logs: &[Value], oracle: &Oracle) -> Vec<String> {
    let received: Vec<_> = logs.iter().map(plain_log).collect();
    let Some(from) = received.first().map(|log| number(&log["blockNumber"])) else {
        return vec!["empty".to_owned()];
    };
    let (first, last) = (*oracle.must_have.start(), *oracle.must_have.end());
    let expected: Vec<_> = oracle
        .logs
        .iter()
        .filter(|log| log["address"] == oracle.contract)
        .filter(|log| stream != "class" || log["topics"][3] == oracle.class)
        .filter(|log| number(&log["blockNumber"]) >= from.min(first))
        .collect();
    for (place, log) in received.iter().enumerate() {
        match expected.get(place) {
            Some(expected) if *expected == log => {}
            Some(expected) => {
                return vec![format!("number {place} is {log} where the node has {expected}")];
            }
            None => {
                return vec![format!("number {place} is {log} where the node has no more")];
            }
        }
    }
    let due = expected.iter().filter(|log| number(&log["blockNumber"]) <= last).count();
    if received.len() < due {
        return vec![format!("ends after {} of {due} logs", received.len())];
    }
    Vec::new()
}

/// Each block that counts needs each of the calls, with the node's own answer.
fn call_faults(calls: &[Value], oracle: &Oracle) -> Vec<String> {
    let mut faults = Vec::new();
    let mut answered = BTreeMap::new();
    for call in calls {
        let method = call["method"].as_str().unwrap_or_default();
        let block = number(&call["block"]);
        let right = match method {
            "eth_blockNumber" => block >= number(&call["after"]) && oracle.blocks.contains_key(&block),
            "eth_getBlockByNumber" => oracle
                .blocks
                .get(&block)
                .is_some_and(|truth| call["hash"] == truth["hash"] && call["transactions"] == truth["transactions"]),
            "eth_call" => oracle.counters.get(&block) == Some(&call["result"]),
            _ => false,
        };
        if !right {
            faults.push(format!("{call} is not what the node answers"));
        }
        let asked_at = if method == "eth_blockNumber" { number(&call["after"]) } else { block };
        *answered.entry((method, asked_at)).or_insert(0) += 1;
    }
    for block in oracle.must_have.clone() {
        for method in ["eth_blockNumber", "eth_getBlockByNumber", "eth_call"] {
            if !answered.contains_key(&(method, block)) {
                faults.push(format!("{method} at {block} is not answered"));
            }
        }
    }
    faults
}

fn silence_faults(after: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    for kind in ["heads", "logs", "wire"] {
        // Not every program can see its socket.
        if after[kind].as_u64().unwrap_or(u64::from(kind != "wire")) != 0 {
            faults.push(format!("after the unsubscribe: {} of {kind}", after[kind]));
        }
    }
    if after["control"].as_u64().unwrap_or(0) < 2 {
        faults.push(format!("after the unsubscribe the control saw {} blocks", after["control"]));
    }
    faults
}

/// The named lists under a member of the document.
fn streams<'a>(document: &'a Value, member: &str) -> Vec<(String, &'a [Value])> {
    let Some(streams) = document[member].as_object() else {
        return Vec::new();
    };
    streams.iter().map(|(name, events)| (name.clone(), list(events))).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A plain number or a hex quantity.
fn number(value: &Value) -> u64 {
    let hex = value.as_str().and_then(|text| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok());
    value.as_u64().or(hex).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTRACT: &str = "0x00000000000000000000000000000000000000c0";

    fn hash(kind: u64, number: u64) -> String {
        format!("0x{kind:032x}{number:032x}")
    }

    fn log(block: u64, index: u64, class: &str) -> Value {
        json!({
            "blockNumber": format!("{block:#x}"), "blockHash": hash(1, block), "transactionHash": hash(2, index),
            "transactionIndex": "0x0", "logIndex": format!("{index:#x}"), "address": CONTRACT,
            "topics": [hash(3, 0), hash(3, 1), hash(3, 2), class], "data": hash(4, index), "removed": false,
        })
    }

    /// Blocks 10 to 16, of which 11 to 14 count; two logs a block, the second one of the class.
    fn truth() -> (Oracle, Value) {
        let class = hash(9, 1);
        let block = |n: u64| json!({ "hash": hash(1, n), "parentHash": hash(1, n - 1), "transactions": [hash(2, n)] });
        let all: Vec<_> = (10..=16).flat_map(|n| [log(n, 0, &hash(9, 2)), log(n, 1, &class)]).collect();
        let oracle = Oracle {
            contract: CONTRACT.to_owned(),
            class: class.clone(),
            must_have: 11..=14,
            blocks: (10..=16).map(|n| (n, block(n))).collect(),
            logs: all.iter().map(plain_log).collect(),
            counters: (10..=16).map(|n| (n, json!(hash(5, n)))).collect(),
        };
        let heads: Vec<_> =
            (10..=15).map(|n| json!({ "number": n, "hash": hash(1, n), "parentHash": hash(1, n - 1) })).collect();
        let calls: Vec<_> = (10..=15)
            .flat_map(|n| {
                [
                    json!({ "method": "eth_blockNumber", "after": n, "block": n }),
                    json!({ "method": "eth_getBlockByNumber", "block": n, "hash": hash(1, n), "transactions": [hash(2, n)] }),
                    json!({ "method": "eth_call", "block": n, "result": hash(5, n) }),
                ]
            })
            .collect();
        let document = json!({
            "client": "doctored",
            "heads": { "all": heads },
            "logs": { "class": (10..=15).map(|n| log(n, 1, &class)).collect::<Vec<_>>(), "contract": all[..11] },
            "calls": calls,
            "afterUnsubscribe": { "heads": 0, "logs": 0, "control": 2, "wire": 0 },
            "errors": [],
        });
        (oracle, document)
    }

    #[test]
    fn the_exact_document_has_no_fault() {
        let (oracle, document) = truth();
        assert_eq!(faults(&document, &oracle), Vec::<String>::new());
        assert_eq!(span(&[document]), (10, 15));
    }

    /// A way of spoiling a list, by places in it, or any value.
    enum Doctor {
        Remove(usize),
        Repeat(usize),
        Swap(usize, usize),
        Keep(std::ops::Range<usize>),
        Set(&'static str),
    }
    use Doctor::{Keep, Remove, Repeat, Set, Swap};

    fn spoil(value: &mut Value, doctor: &Doctor) {
        if let Set(json) = doctor {
            *value = serde_json::from_str(json).expect("the case holds JSON");
            return;
        }
        let list = value.as_array_mut().expect("the case names a list");
        match doctor {
            Remove(place) => drop(list.remove(*place)),
            Repeat(place) => list.insert(*place, list[*place].clone()),
            Swap(one, other) => list.swap(*one, *other),
            Keep(places) => *list = list[places.clone()].to_vec(),
            Set(_) => {}
        }
    }

    fn assert_found(cases: &[(&str, &str, Doctor)]) {
        for (fault, pointer, doctor) in cases {
            let (oracle, mut document) = truth();
            spoil(document.pointer_mut(pointer).expect("the case names a value"), doctor);
            let found = faults(&document, &oracle).join("\n");
            assert!(found.contains(fault), "{pointer}: {fault:?} is not in {found:?}");
        }
    }

    #[test]
    fn spoiled_heads_are_found() {
        assert_found(&[
            ("13 comes after 11", "/heads/all", Remove(2)),
            ("12 comes after 12", "/heads/all", Repeat(2)),
            ("12 comes after 13", "/heads/all", Swap(2, 3)),
            ("does not cover 11 to 14", "/heads/all", Keep(2..6)),
            ("does not cover 11 to 14", "/heads/all", Keep(0..4)),
            ("another hash", "/heads/all/2/hash", Set(r#""0x7""#)),
            ("another parentHash", "/heads/all/2/parentHash", Set(r#""0x7""#)),
            ("is not on the chain", "/heads/all/5/number", Set("99")),
            ("does not cover 11 to 14", "/heads/all", Set("[]")),
            ("no stream of heads", "/heads", Set("{}")),
        ]);
    }

    #[test]
    fn spoiled_logs_are_found() {
        assert_found(&[
            ("logs class: number 2", "/logs/class", Remove(2)),
            ("logs class: number 3", "/logs/class", Repeat(2)),
            ("logs class: number 2", "/logs/class", Swap(2, 3)),
            ("logs class: number 0", "/logs/class", Keep(2..6)),
            ("logs class: ends after 4 of 5", "/logs/class", Keep(0..4)),
            ("logs class: empty", "/logs/class", Set("[]")),
            ("logs class: number 2", "/logs/class/2/data", Set(r#""0x""#)),
            ("logs class: number 2", "/logs/class/2/topics/0", Set(r#""0x7""#)),
            ("logs class: number 2", "/logs/class/2/logIndex", Set(r#""0x0""#)),
            ("logs class: number 2", "/logs/class/2/blockHash", Set("null")),
            ("logs class: number 2", "/logs/class/2/removed", Set("true")),
            ("logs class: number 5", "/logs/class/5/address", Set(r#""0x7""#)),
            ("logs contract: number 3", "/logs/contract", Remove(3)),
            ("no filtered logs", "/logs", Set("{}")),
        ]);
    }

    #[test]
    fn spoiled_answers_are_found() {
        assert_found(&[
            ("is not what the node answers", "/calls/6/block", Set("11")),
            ("is not what the node answers", "/calls/7/hash", Set(r#""0x7""#)),
            ("is not what the node answers", "/calls/7/transactions", Set("[]")),
            ("is not what the node answers", "/calls/8/result", Set(r#""0x""#)),
            ("is not what the node answers", "/calls/8/method", Set(r#""eth_foo""#)),
            ("eth_blockNumber at 12 is not answered", "/calls", Remove(6)),
            ("eth_getBlockByNumber at 12 is not answered", "/calls", Remove(7)),
            ("eth_call at 12 is not answered", "/calls", Remove(8)),
            ("reports \"lost\"", "/errors", Set(r#"["lost"]"#)),
        ]);
    }

    #[test]
    fn events_after_the_unsubscribe_are_found() {
        assert_found(&[
            ("after the unsubscribe: 1 of heads", "/afterUnsubscribe/heads", Set("1")),
            ("after the unsubscribe: 1 of logs", "/afterUnsubscribe/logs", Set("1")),
            ("after the unsubscribe: 1 of wire", "/afterUnsubscribe/wire", Set("1")),
            ("after the unsubscribe: null of heads", "/afterUnsubscribe/heads", Set("null")),
            ("the control saw 1", "/afterUnsubscribe/control", Set("1")),
        ]);
    }
}
