//! What can be wrong with an answer or an announcement, and for how long.
//!
//! Owns the kinds of spoiling, the rules that are in force, and the change each makes to a JSON value. Does not know nodes or
//! sockets. Pure but for the clock that ends a [`Span::For`].

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

/// A change of an answer's or announcement's JSON.
pub type Rewrite = Arc<dyn Fn(&mut Value) + Send + Sync>;

/// One way to be wrong. What has no meaning for the thing it is applied to changes nothing.
#[derive(Clone)]
pub enum Spoil {
    /// `[]` for a list, `null` for anything else.
    Empty,
    /// A JSON-RPC error instead of the answer.
    Error(i32, String),
    /// The answer comes so much later. For announcements see [`Faults::set_lag`](super::Faults::set_lag).
    Delay(Duration),
    /// No answer ever, or no announcement.
    Silent,
    /// The announcement is sent twice.
    Twice,
    /// `[]` where the answer would be an error, as when a node is asked for the logs of a block that it lacks.
    EmptyForError,
    /// The answer is about the parent of the block that was asked for by hash.
    OtherBlock,
    /// The middle log is missing.
    LogHole,
    /// The second log has the index of the first; a single log comes twice.
    DoubledLogIndex,
    /// The header or block has no `parentHash`.
    NoParentHash,
    /// Anything else.
    Rewrite(Rewrite),
}

impl fmt::Debug for Spoil {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Empty => "Empty",
            Self::Error(code, message) => return write!(f, "Error({code}, {message:?})"),
            Self::Delay(delay) => return write!(f, "Delay({delay:?})"),
            Self::Silent => "Silent",
            Self::Twice => "Twice",
            Self::EmptyForError => "EmptyForError",
            Self::OtherBlock => "OtherBlock",
            Self::LogHole => "LogHole",
            Self::DoubledLogIndex => "DoubledLogIndex",
            Self::NoParentHash => "NoParentHash",
            Self::Rewrite(_) => "Rewrite(…)",
        };
        f.write_str(name)
    }
}

impl Spoil {
    /// A rewrite by any function.
    pub fn rewrite(change: impl Fn(&mut Value) + Send + Sync + 'static) -> Self {
        Self::Rewrite(Arc::new(change))
    }

    /// Changes a value: an answer, an announced header, or the list of one block's announced logs.
    pub(super) fn apply(&self, value: &mut Value) {
        match self {
            Self::Empty => *value = if value.is_array() { Value::Array(Vec::new()) } else { Value::Null },
            Self::LogHole => {
                if let Some(logs) = value.as_array_mut().filter(|logs| !logs.is_empty()) {
                    logs.remove(logs.len() / 2);
                }
            }
            Self::DoubledLogIndex => {
                if let Some(logs) = value.as_array_mut() {
                    double_index(logs);
                }
            }
            Self::NoParentHash => {
                if let Some(fields) = value.as_object_mut() {
                    fields.remove("parentHash");
                }
            }
            Self::Rewrite(change) => change(value),
            Self::Error(..) | Self::Delay(_) | Self::Silent | Self::Twice | Self::EmptyForError | Self::OtherBlock => {}
        }
    }
}

fn double_index(logs: &mut Vec<Value>) {
    match logs.as_mut_slice() {
        [] => {}
        [only] => {
            let twin = only.clone();
            logs.push(twin);
        }
        [first, second, ..] => second["logIndex"] = first["logIndex"].clone(),
    }
}

/// How long something stays wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// Until it is cleared.
    Always,
    /// So many answers or announcements.
    Times(u32),
    /// So long from now.
    For(Duration),
}

#[derive(Debug)]
struct Rule {
    subject: String,
    spoil: Spoil,
    left: Left,
}

#[derive(Debug)]
enum Left {
    Always,
    Times(u32),
    Until(Instant),
}

impl Left {
    fn is_over(&self, now: Instant) -> bool {
        match self {
            Self::Always => false,
            Self::Times(left) => *left == 0,
            Self::Until(end) => *end <= now,
        }
    }
}

/// The rules in force.
#[derive(Debug, Default)]
pub(super) struct Rules(Mutex<Vec<Rule>>);

impl Rules {
    pub(super) fn add(&self, subject: &str, spoil: Spoil, span: Span) {
        let left = match span {
            Span::Always => Left::Always,
            Span::Times(times) => Left::Times(times),
            Span::For(time) => Left::Until(Instant::now() + time),
        };
        self.lock().push(Rule { subject: subject.to_owned(), spoil, left });
    }

    /// Ends the rules about this subject, or about all.
    pub(super) fn clear(&self, subject: Option<&str>) {
        self.lock().retain(|rule| subject.is_some_and(|subject| rule.subject != subject));
    }

    /// What is wrong with the next answer or announcement of this subject, in the order the rules were made. Counts it.
    pub(super) fn next(&self, subject: &str) -> Vec<Spoil> {
        let mut rules = self.lock();
        if rules.is_empty() {
            return Vec::new();
        }
        let now = Instant::now();
        rules.retain(|rule| !rule.left.is_over(now));
        let mut spoils = Vec::new();
        for rule in rules.iter_mut().filter(|rule| rule.subject == subject) {
            if let Left::Times(left) = &mut rule.left {
                *left -= 1;
            }
            spoils.push(rule.spoil.clone());
        }
        rules.retain(|rule| !rule.left.is_over(now));
        spoils
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Rule>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spoilt(spoil: &Spoil, mut value: Value) -> Value {
        spoil.apply(&mut value);
        value
    }

    #[test]
    fn each_kind_changes_what_it_names() {
        assert_eq!(spoilt(&Spoil::Empty, json!([1])), json!([]));
        assert_eq!(spoilt(&Spoil::Empty, json!({"a": 1})), Value::Null);
        assert_eq!(spoilt(&Spoil::NoParentHash, json!({"parentHash": 1, "hash": 2})), json!({"hash": 2}));
        assert_eq!(spoilt(&Spoil::LogHole, json!([1, 2, 3])), json!([1, 3]));
        let logs = json!([{"logIndex": "0x0"}, {"logIndex": "0x1"}]);
        assert_eq!(spoilt(&Spoil::DoubledLogIndex, logs)[1], json!({"logIndex": "0x0"}));
        assert_eq!(spoilt(&Spoil::DoubledLogIndex, json!([7])), json!([7, 7]));
        assert_eq!(spoilt(&Spoil::rewrite(|v| *v = json!("new")), json!(1)), json!("new"));
    }

    #[test]
    fn rules_end_by_count_time_or_clearing() {
        let rules = Rules::default();
        rules.add("a", Spoil::Empty, Span::Times(2));
        rules.add("a", Spoil::Delay(Duration::ZERO), Span::For(Duration::ZERO));
        rules.add("a", Spoil::Silent, Span::For(Duration::from_hours(1)));
        rules.add("b", Spoil::Twice, Span::Always);
        assert_eq!(rules.next("a").len(), 2, "the one without any time is over");
        assert_eq!(rules.next("a").len(), 2);
        assert_eq!(rules.next("a").len(), 1, "the counted one is used up");
        rules.clear(Some("a"));
        assert!(rules.next("a").is_empty());
        assert_eq!(rules.next("b").len(), 1);
        rules.clear(None);
        assert!(rules.next("b").is_empty());
    }
}
