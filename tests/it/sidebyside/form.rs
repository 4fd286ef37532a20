//! One form for two answers that mean the same: members in their order, numbers as written, and what moves with time
//! replaced by its shape. Pure.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// What of an answer is not compared as it stands, by JSON pointer.
#[derive(Clone, Copy)]
pub(super) struct Loose<'a> {
    /// Values that change from call to call; their shape is compared.
    pub(super) moving: &'a [String],
    /// Subscription ids: any quantity of more than 64 bits.
    pub(super) ids: &'a [String],
}

/// The answer in canonical form; text that is no JSON stays as it is.
pub(super) fn canonical(text: &str, loose: Loose<'_>) -> String {
    match serde_json::from_str::<&RawValue>(text) {
        Ok(raw) => member(raw.get(), "", loose),
        Err(_) => text.to_owned(),
    }
}

/// Whether JSON text has no blank outside its strings: web3.js takes messages apart at `}{`.
pub(super) fn is_compact(text: &str) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    text.chars().all(|letter| {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        quoted || !letter.is_ascii_whitespace()
    })
}

fn member(raw: &str, pointer: &str, loose: Loose<'_>) -> String {
    let named = |list: &[String]| list.iter().any(|listed| listed == pointer);
    if named(loose.ids) && raw.starts_with('"') {
        return if is_subscription_id(raw) { "<subscription id>".to_owned() } else { format!("<no id: {raw}>") };
    }
    if named(loose.moving) {
        return shape(raw);
    }
    rebuilt(raw, |key, value| member(value, &format!("{pointer}/{key}"), loose))
}

/// Takes a value apart by one level and puts it together again from its changed members.
fn rebuilt(raw: &str, mut change: impl FnMut(&str, &str) -> String) -> String {
    if let Ok(Members(members)) = serde_json::from_str(raw) {
        let changed: Vec<_> = members
            .iter()
            .map(|(key, value)| format!("{}:{}", serde_json::Value::from(key.as_str()), change(key, value.get())))
            .collect();
        return format!("{{{}}}", changed.join(","));
    }
    if let Ok(values) = serde_json::from_str::<Vec<&RawValue>>(raw) {
        let changed: Vec<_> = values.iter().enumerate().map(|(i, value)| change(&i.to_string(), value.get())).collect();
        return format!("[{}]", changed.join(","));
    }
    // Texts are written in one way whatever the escapes; a lone surrogate cannot be, and stays.
    serde_json::from_str::<String>(raw)
        .map_or_else(|_| raw.to_owned(), |text| serde_json::Value::from(text).to_string())
}

/// The kind of a value: members by name and order, no values, no lengths.
fn shape(raw: &str) -> String {
    match raw.as_bytes().first() {
        Some(b'{') => rebuilt(raw, |_, value| shape(value)),
        Some(b'[') => "<list>".to_owned(),
        Some(b'"') if raw.starts_with("\"0x") => "<hex>".to_owned(),
        Some(b'"') => "<text>".to_owned(),
        Some(b't' | b'f') => "<bool>".to_owned(),
        Some(b'n') => "null".to_owned(),
        _ => "<number>".to_owned(),
    }
}

/// viem, web3.js and web3.py need a text that is a quantity; more than 64 bits keeps it from being guessed.
fn is_subscription_id(raw: &str) -> bool {
    let digits = raw.trim_matches('"').strip_prefix("0x").unwrap_or_default();
    let hex = |letter: char| letter.is_ascii_digit() || ('a'..='f').contains(&letter);
    (17..=32).contains(&digits.len()) && !digits.starts_with('0') && digits.chars().all(hex)
}

/// An object's members in the order in which they stand.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &str) -> String {
        let (moving, ids) = (["/result".to_owned()], ["/params/subscription".to_owned(), "/0/result".to_owned()]);
        canonical(text, Loose { moving: &moving, ids: &ids })
    }

    #[test]
    fn what_means_the_same_has_one_form() {
        let pairs = [
            (r#"{"message":"a \u003e b"}"#, r#"{"message":"a > b"}"#),
            (r#"{"result":{"a":"0x1","b":[1]}}"#, r#"{"result":{"a":"0xffff","b":[]}}"#),
            (r#"{"result":7}"#, r#"{"result":8.5}"#),
            (r#"[{"result":"0x12345678901234567"}]"#, r#"[{"result":"0xabcdef0123456789abcdef"}]"#),
        ];
        for (left, right) in pairs {
            assert_eq!(form(left), form(right));
        }
    }

    #[test]
    fn what_differs_keeps_differing() {
        let pairs = [
            (r#"{"id":12345678901234567890123}"#, r#"{"id":1.2345678901234568e22}"#),
            (r#"{"id":1.0}"#, r#"{"id":1}"#),
            (r#"{"id":"1"}"#, r#"{"id":1}"#),
            (r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#),
            (r#"{"result":{"a":"0x1"}}"#, r#"{"result":{"a":null}}"#),
            (r#"{"result":{"a":"0x1","b":"0x2"}}"#, r#"{"result":{"b":"0x2","a":"0x1"}}"#),
            (r#"{"result":"0x1"}"#, r#"{"error":{"code":-32601}}"#),
            (
                r#"{"params":{"subscription":"0x12345678901234567"}}"#,
                r#"{"params":{"subscription":"0x02345678901234567"}}"#,
            ),
            (r#"{"params":{"subscription":"0x12345678901234567"}}"#, r#"{"params":{"subscription":7}}"#),
            ("hello", "hallo"),
        ];
        for (left, right) in pairs {
            assert_ne!(form(left), form(right));
        }
    }

    #[test]
    fn blanks_count_outside_strings_only() {
        assert!(is_compact(r#"{"a":"b \" c","d":[1,2]}"#));
        for text in [r#"{"a": 1}"#, "{\"a\":1}\n", "[1, 2]"] {
            assert!(!is_compact(text));
        }
    }
}
