//! A writer of flat JSON objects in the forms Ethereum nodes use: quantities, hex bytes, nested text.
//!
//! Owns how a value is spelled. Does not know which keys an answer has. Keys and raw text are written as given, so they
//! must need no escaping; nothing a peer sent passes through here.

use std::fmt::Write as _;

use alloy_primitives::{U256, hex};

/// An object under construction.
pub(super) struct Object {
    text: String,
}

impl Object {
    /// An empty object with room for about so many bytes of text.
    pub(super) fn with_capacity(bytes: usize) -> Self {
        let mut text = String::with_capacity(bytes);
        text.push('{');
        Self { text }
    }

    fn key(&mut self, key: &str) {
        if self.text.len() > 1 {
            self.text.push(',');
        }
        self.text.push('"');
        self.text.push_str(key);
        self.text.push_str("\":");
    }

    /// A value that is JSON already.
    pub(super) fn raw(mut self, key: &str, json: &str) -> Self {
        self.key(key);
        self.text.push_str(json);
        self
    }

    /// Bytes of a fixed or any length, as `0x…`.
    pub(super) fn bytes(mut self, key: &str, bytes: impl AsRef<[u8]>) -> Self {
        self.key(key);
        push_bytes(&mut self.text, bytes.as_ref());
        self
    }

    /// A number, as `0x…` without leading zeros.
    pub(super) fn quantity(mut self, key: &str, number: impl Into<u128>) -> Self {
        self.key(key);
        self.text.push_str(&quantity(number));
        self
    }

    /// A number of up to 256 bits, as `0x…` without leading zeros.
    pub(super) fn wide_quantity(mut self, key: &str, number: U256) -> Self {
        self.key(key);
        self.text.push_str(&wide_quantity(number));
        self
    }

    /// The finished text.
    pub(super) fn end(mut self) -> String {
        self.text.push('}');
        self.text
    }
}

/// A quantity as a JSON string.
pub(super) fn quantity(number: impl Into<u128>) -> String {
    format!("\"{:#x}\"", number.into())
}

/// A quantity of up to 256 bits as a JSON string.
pub(super) fn wide_quantity(number: U256) -> String {
    format!("\"{number:#x}\"")
}

/// Bytes as a JSON string.
pub(super) fn bytes(bytes: impl AsRef<[u8]>) -> String {
    let mut text = String::with_capacity(bytes.as_ref().len() * 2 + 4);
    push_bytes(&mut text, bytes.as_ref());
    text
}

/// A list of values that are JSON already.
pub(super) fn list<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let mut text = String::from("[");
    for (place, item) in items.into_iter().enumerate() {
        if place > 0 {
            text.push(',');
        }
        text.push_str(item.as_ref());
    }
    text.push(']');
    text
}

fn push_bytes(text: &mut String, bytes: &[u8]) {
    write!(text, "\"0x{}\"", hex::encode(bytes)).expect("a String takes any text");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_spelled_as_nodes_spell_them() {
        let text = Object::with_capacity(64)
            .quantity("zero", 0_u64)
            .quantity("some", 0x2e_u64)
            .wide_quantity("wide", U256::from(1) << 200)
            .bytes("none", [])
            .bytes("two", [0, 0xab])
            .raw("deep", "{\"a\":null}")
            .end();
        let wide = format!("0x1{}", "0".repeat(50));
        assert_eq!(
            text,
            format!(r#"{{"zero":"0x0","some":"0x2e","wide":"{wide}","none":"0x","two":"0x00ab","deep":{{"a":null}}}}"#)
        );
    }

    #[test]
    fn lists_have_commas_between_items_only() {
        assert_eq!(list(Vec::<String>::new()), "[]");
        assert_eq!(list(["1", "2"]), "[1,2]");
    }
}
