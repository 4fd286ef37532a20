//! A log filter as lists of what is allowed, with a matcher that shares nothing with the gateway's.

use alloy_primitives::{Address, B256};
use serde::Serialize;
use serde_json::{Value, json};

/// A filter; an empty list allows anything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Wanted {
    pub(crate) addresses: Vec<Address>,
    pub(crate) topics: Vec<Vec<B256>>,
}

impl Wanted {
    pub(crate) fn takes(&self, address: &Address, topics: &[B256]) -> bool {
        let allowed = |list: &[B256], topic: &B256| list.is_empty() || list.contains(topic);
        (self.addresses.is_empty() || self.addresses.contains(address))
            && self.topics.len() <= topics.len()
            && self.topics.iter().zip(topics).all(|(list, topic)| allowed(list, topic))
    }

    /// As stock clients write it: `null`, a value, or a list.
    pub(crate) fn json(&self) -> Value {
        fn short<T: Serialize>(list: &[T]) -> Value {
            match list {
                [] => Value::Null,
                [one] => json!(one),
                several => json!(several),
            }
        }
        let mut filter = json!({});
        if !self.addresses.is_empty() {
            filter["address"] = short(&self.addresses);
        }
        if !self.topics.is_empty() {
            filter["topics"] = self.topics.iter().map(|list| short(list)).collect();
        }
        filter
    }
}
