//! JSON-RPC 2.0 text: reads requests without copying, writes answers, names the error codes.
//!
//! Knows nothing of Ethereum, of sockets or of limits other than those of the text itself. Pure.
//!
//! Request ids are echoed as the bytes that came: clients send numbers beyond 2^53, UUIDs and `null`.

use std::borrow::Cow;

pub use jsonrpsee::types::ErrorObjectOwned as Error;
use jsonrpsee::types::error::{
    CALL_EXECUTION_FAILED_CODE, INTERNAL_ERROR_CODE, INVALID_PARAMS_CODE, INVALID_REQUEST_CODE, METHOD_NOT_FOUND_CODE,
    PARSE_ERROR_CODE,
};
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// An error answer of ours that a client may branch on: a limit was hit (as Infura and Geth's own limits use it).
pub const LIMIT_CODE: i32 = -32005;
/// The call took longer than its deadline.
pub const TIMEOUT_CODE: i32 = -32002;

/// Bounds on the text of one message. Lengths in bytes of the raw JSON.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Deepest nesting of arrays and objects.
    pub depth: usize,
    /// Most requests in one batch.
    pub batch: usize,
    /// Longest method name.
    pub method: usize,
    /// Longest request id, quotes included.
    pub id: usize,
}

/// One well-formed request. `id` is `None` for a notification, `Some("null")` for an explicit null.
#[derive(Debug)]
pub struct Request<'a> {
    /// The id as it came.
    pub id: Option<&'a RawValue>,
    /// The method name, unescaped.
    pub method: Cow<'a, str>,
    /// The params as they came; an absent member and `null` are both `None`.
    pub params: Option<&'a RawValue>,
}

/// A request that can only be refused: the id to answer to (raw JSON) and why.
#[derive(Debug)]
pub struct Refused {
    /// Raw id for the answer: `null` where the request had none that can be used; `None` where nothing is answered,
    /// because what came is itself an answer.
    pub id: Option<String>,
    /// What to answer.
    pub error: Error,
    /// The bound on the text that it is over, if that is why.
    pub over: Option<&'static str>,
}

/// What one message holds.
#[derive(Debug)]
pub enum Message<'a> {
    /// A single request.
    Single(Result<Request<'a>, Refused>),
    /// A batch of at least one request, in order.
    Batch(Vec<Result<Request<'a>, Refused>>),
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow, default)]
    jsonrpc: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<&'a RawValue>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(default)]
    result: Option<IgnoredAny>,
    #[serde(default)]
    error: Option<IgnoredAny>,
}

/// A JSON string, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Keeps an explicit `null` apart from an absent member.
fn present<'de, D: Deserializer<'de>>(d: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(d).map(Some)
}

/// Reads one message. The error is for a message that is no request at all; its id is `null`.
pub fn read<'a>(text: &'a [u8], bounds: &Bounds) -> Result<Message<'a>, Refused> {
    let text = std::str::from_utf8(text).map_err(|_| Refused::anonymous(parse_error()))?;
    if depth_exceeds(text, bounds.depth) {
        let error = invalid_request(&format!("nested deeper than {} levels", bounds.depth));
        return Err(Refused { over: Some("json_depth"), ..Refused::anonymous(error) });
    }
    let body = text.trim_ascii_start();
    if !body.starts_with('[') {
        let raw: &RawValue = serde_json::from_str(text).map_err(|_| Refused::anonymous(parse_error()))?;
        return Ok(Message::Single(request(raw, bounds)));
    }
    let mut de = serde_json::Deserializer::from_str(text);
    let list = de
        .deserialize_seq(BatchVisitor { most: bounds.batch })
        .and_then(|list| de.end().map(|()| list))
        .map_err(|_| Refused::anonymous(parse_error()))?;
    if list.items.is_empty() {
        return Err(Refused::anonymous(invalid_request("empty batch")));
    }
    if list.more {
        let id = request(list.items[0], bounds).ok().and_then(|r| r.id.map(|id| id.get().to_owned()));
        let id = Some(id.unwrap_or_else(|| "null".into()));
        return Ok(Message::Batch(vec![Err(Refused {
            id,
            error: invalid_request("batch too large"),
            over: Some("batch"),
        })]));
    }
    Ok(Message::Batch(list.items.into_iter().map(|raw| request(raw, bounds)).collect()))
}

struct BatchVisitor {
    most: usize,
}

struct BatchItems<'a> {
    items: Vec<&'a RawValue>,
    more: bool,
}

impl<'de> Visitor<'de> for BatchVisitor {
    type Value = BatchItems<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a batch of requests")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut list = BatchItems { items: Vec::new(), more: false };
        while list.items.len() < self.most {
            match seq.next_element()? {
                Some(item) => list.items.push(item),
                None => return Ok(list),
            }
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {
            list.more = true;
        }
        Ok(list)
    }
}

/// Reads one request out of its raw JSON.
fn request<'a>(raw: &'a RawValue, bounds: &Bounds) -> Result<Request<'a>, Refused> {
    let Ok(wire) = serde_json::from_str::<Wire<'a>>(raw.get()) else {
        return Err(Refused::anonymous(invalid_request("invalid request")));
    };
    let usable = wire.id.filter(|id| !id.get().starts_with(['{', '[']));
    let refuse = |id: Option<&RawValue>, error| {
        Err(Refused { id: Some(id.map_or_else(|| "null".into(), |id| id.get().to_owned())), error, over: None })
    };
    if wire.method.is_none() && usable.is_some() && (wire.result.is_some() || wire.error.is_some()) {
        return Err(Refused { id: None, error: invalid_request("an answer to nothing"), over: None });
    }
    if wire.id.is_some_and(|id| id.get().len() > bounds.id) {
        let error = invalid_request(&format!("id longer than {} bytes", bounds.id));
        return Err(Refused { over: Some("id_bytes"), ..Refused::anonymous(error) });
    }
    let version_ok = wire.jsonrpc.is_some_and(|v| v.get() == r#""2.0""#);
    let method = wire.method.and_then(|raw| serde_json::from_str::<Text<'a>>(raw.get()).ok());
    let (Some(Text(method)), true, true) = (method, version_ok, wire.id.is_none() == usable.is_none()) else {
        return refuse(usable, invalid_request("invalid request"));
    };
    if method.is_empty() {
        return refuse(usable, invalid_request("invalid request"));
    }
    if method.len() > bounds.method {
        let refused = refuse(usable, invalid_request(&format!("method name longer than {} bytes", bounds.method)));
        return refused.map_err(|refused| Refused { over: Some("method_bytes"), ..refused });
    }
    Ok(Request { id: usable, method, params: wire.params })
}

/// Whether brackets outside of strings nest deeper than `most`.
fn depth_exceeds(text: &str, most: usize) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > most {
                    return true;
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

impl Refused {
    fn anonymous(error: Error) -> Self {
        Self { id: Some("null".into()), error, over: None }
    }
}

impl Request<'_> {
    /// The positional parameters as raw JSON, at most `most` of them looked at. `Err` carries Geth's wording.
    pub fn positional(&self) -> Result<Vec<&RawValue>, Error> {
        match self.params {
            None => Ok(Vec::new()),
            Some(raw) if raw.get().starts_with('[') => {
                serde_json::from_str(raw.get()).map_err(|e| invalid_params(e.to_string()))
            }
            Some(_) => Err(invalid_params("non-array args")),
        }
    }
}

/// The answer with a result. `id` and `result` are raw JSON.
#[must_use]
pub fn answer(id: &str, result: &str) -> String {
    let mut text = String::with_capacity(id.len() + result.len() + 40);
    text.push_str(r#"{"jsonrpc":"2.0","id":"#);
    text.push_str(id);
    text.push_str(r#","result":"#);
    text.push_str(result);
    text.push('}');
    text
}

/// The answer with an error. `id` is raw JSON.
#[must_use]
pub fn answer_error(id: &str, error: &Error) -> String {
    let body = serde_json::to_string(error).expect("an error object is always JSON");
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{body}}}"#)
}

fn plain(code: i32, text: impl Into<String>) -> Error {
    Error::owned(code, text, None::<()>)
}

/// -32700.
#[must_use]
pub fn parse_error() -> Error {
    plain(PARSE_ERROR_CODE, "parse error")
}

/// -32600 with the given text.
#[must_use]
pub fn invalid_request(text: &str) -> Error {
    plain(INVALID_REQUEST_CODE, text)
}

/// -32602 with the given text.
#[must_use]
pub fn invalid_params(text: impl Into<String>) -> Error {
    plain(INVALID_PARAMS_CODE, text)
}

/// -32601 in Geth's wording.
#[must_use]
pub fn method_not_found(method: &str) -> Error {
    plain(METHOD_NOT_FOUND_CODE, format!("the method {method} does not exist/is not available"))
}

/// -32601 with other words.
#[must_use]
pub fn not_supported(text: impl Into<String>) -> Error {
    plain(METHOD_NOT_FOUND_CODE, text)
}

/// -32000 with the given text.
#[must_use]
pub fn server_error(text: impl Into<String>) -> Error {
    plain(CALL_EXECUTION_FAILED_CODE, text)
}

/// -32603: nothing upstream can answer.
#[must_use]
pub fn internal_error(text: impl Into<String>) -> Error {
    plain(INTERNAL_ERROR_CODE, text)
}

/// -32002: the deadline passed.
#[must_use]
pub fn timeout() -> Error {
    plain(TIMEOUT_CODE, "request timed out")
}

/// -32005 with what was hit, over which scope it is counted, and when to come back.
#[must_use]
pub fn limit(limit: &'static str, scope: &'static str, retry_after_ms: u64) -> Error {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Hit {
        limit: &'static str,
        scope: &'static str,
        retry_after_ms: u64,
    }
    Error::owned(LIMIT_CODE, format!("limit exceeded: {limit} per {scope}"), Some(Hit { limit, scope, retry_after_ms }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { depth: 16, batch: 3, method: 64, id: 128 };

    fn single(text: &str) -> Result<(Option<String>, String), (String, i32, String)> {
        let refused = |r: Refused| (r.id.unwrap_or("none".into()), r.error.code(), r.error.message().to_owned());
        match read(text.as_bytes(), &BOUNDS).map_err(refused)? {
            Message::Single(Ok(r)) => Ok((r.id.map(|i| i.get().to_owned()), r.method.into_owned())),
            Message::Single(Err(r)) => Err(refused(r)),
            Message::Batch(_) => panic!("a batch"),
        }
    }

    #[test]
    fn ids_are_echoed_raw() {
        for id in ["1", "9007199254740993123", "\"6e8bc430-9c3a-11d9-9669-0800200c9a66\"", "null", "1.5"] {
            let got = single(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"eth_chainId"}}"#)).unwrap();
            assert_eq!(got, (Some(id.to_owned()), "eth_chainId".to_owned()));
        }
        assert_eq!(single(r#"{"jsonrpc":"2.0","method":"x"}"#).unwrap().0, None);
    }

    #[test]
    fn what_is_no_request_is_refused_with_its_reason() {
        let deep = "[".repeat(10_000_000);
        let long_id = format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"x"}}"#, "a".repeat(200));
        let long_method = format!(r#"{{"jsonrpc":"2.0","id":7,"method":"{}"}}"#, "a".repeat(65));
        for (text, id, code) in [
            ("", "null", -32700),
            ("nonsense", "null", -32700),
            (r#"{"jsonrpc":"2.0","id":1,"method":"x"} trailing"#, "null", -32700),
            (deep.as_str(), "null", -32600),
            ("1", "null", -32600),
            ("[]", "null", -32600),
            (r#"{"id":1,"method":"x"}"#, "1", -32600),
            (r#"{"jsonrpc":"1.0","id":1,"method":"x"}"#, "1", -32600),
            (r#"{"jsonrpc":"2.0","id":1}"#, "1", -32600),
            (r#"{"jsonrpc":"2.0","id":1,"result":"0x1"}"#, "none", -32600),
            (r#"{"jsonrpc":"2.0","id":1,"error":{}}"#, "none", -32600),
            (r#"{"jsonrpc":"2.0","id":{},"method":"x"}"#, "null", -32600),
            (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"x"}"#, "null", -32600),
            (long_id.as_str(), "null", -32600),
            (long_method.as_str(), "7", -32600),
        ] {
            let (got_id, got_code, message) = single(text).unwrap_err();
            assert_eq!((got_id.as_str(), got_code), (id, code), "{} -> {message}", &text[..text.len().min(60)]);
        }
    }

    #[test]
    fn brackets_in_strings_do_not_count() {
        assert!(!depth_exceeds(r#"{"a":"[[[[\"[["}"#, 1));
        assert!(depth_exceeds("[[1]]", 1));
    }

    #[test]
    fn a_batch_is_bounded_and_keeps_its_order() {
        let call = |id: u32| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m{id}"}}"#);
        let text = format!("[{},5,{}]", call(1), call(3));
        let Ok(Message::Batch(items)) = read(text.as_bytes(), &BOUNDS) else { panic!() };
        assert_eq!(items[0].as_ref().unwrap().method, "m1");
        assert_eq!(items[1].as_ref().unwrap_err().error.code(), -32600);
        assert_eq!(items[2].as_ref().unwrap().method, "m3");
        let text = format!("[{},{},{},{}]", call(9), call(2), call(3), call(4));
        let Ok(Message::Batch(items)) = read(text.as_bytes(), &BOUNDS) else { panic!() };
        let refused = items[0].as_ref().unwrap_err();
        assert_eq!((items.len(), refused.id.as_deref(), refused.error.message()), (1, Some("9"), "batch too large"));
    }

    #[test]
    fn a_limit_says_which_and_when() {
        let text = answer_error("7", &limit("calls", "connection", 250));
        assert_eq!(
            text,
            r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32005,"message":"limit exceeded: calls per connection","data":{"limit":"calls","scope":"connection","retryAfterMs":250}}}"#
        );
    }
}
