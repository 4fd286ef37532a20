//! Reads the parameters of `eth_subscribe` and `eth_unsubscribe`, and words refusals as Geth does.
//!
//! Knows what kinds there are. Pure.

use serde_json::Value;
use serde_json::value::RawValue;

use super::limits::Ask;
use crate::chain::Feed;
use crate::filter::{self, Refusal};
use crate::hub::StreamKey;
use crate::rpc::{self, Error, Request};

/// Longest parameters of a kind that is passed on.
const PASSED_MAX_BYTES: usize = 4_096;

fn json(raw: &RawValue) -> Value {
    serde_json::from_str(raw.get()).unwrap_or(Value::Null)
}

/// The list of parameters; unlike other methods, these do not take absent ones for an empty list.
fn list<'a>(request: &Request<'a>) -> Result<Vec<&'a RawValue>, Error> {
    match request.params {
        Some(raw) if raw.get().starts_with('[') => {
            serde_json::from_str(raw.get()).map_err(|e| rpc::invalid_params(e.to_string()))
        }
        _ => Err(rpc::invalid_params("non-array args")),
    }
}

/// What a subscription is asked for; `namespace` is the part of the method before `_subscribe`.
pub fn stream(
    namespace: &str,
    request: &Request<'_>,
    bounds: &filter::Bounds,
    passed: &[String],
    ask: &mut dyn FnMut(Ask) -> Result<(), Error>,
) -> Result<StreamKey, Error> {
    let params = list(request)?;
    let Some(Value::String(kind)) = params.first().map(|raw| json(raw)) else {
        return Err(rpc::invalid_params("expected subscription name as first argument"));
    };
    let rest = &params[1..];
    match (namespace, kind.as_str()) {
        ("eth", "newHeads" | "newBlockHeaders") => {
            options(rest, 0)?;
            Ok(StreamKey::Heads)
        }
        ("eth", "logs") => {
            let filter = rest.first().ok_or_else(|| rpc::invalid_params("missing value for required argument 1"))?;
            options(rest, 1)?;
            Ok(StreamKey::Logs(filter::parse(filter.get(), bounds).map_err(|refusal| refused(refusal, ask))?))
        }
        ("eth", "newPendingTransactions") => {
            let (full, at) = match rest.first().map(|raw| json(raw)) {
                None | Some(Value::Null) => (false, 1),
                Some(Value::Bool(full)) => (full, 1),
                Some(Value::Object(_)) => (false, 0),
                Some(_) => {
                    return Err(rpc::invalid_params(
                        "invalid argument 1: expected a boolean: full transactions or not",
                    ));
                }
            };
            options(rest, at)?;
            let params = if full { r#"["newPendingTransactions",true]"# } else { r#"["newPendingTransactions"]"# };
            Ok(StreamKey::Feed(Feed(params.into())))
        }
        ("eth", "syncing") => {
            options(rest, 0)?;
            Ok(StreamKey::Feed(Feed(r#"["syncing"]"#.into())))
        }
        ("eth", kind) if passed.iter().any(|known| known == kind) => passed_on(request),
        _ => Err(rpc::not_supported(format!("no {kind:?} subscription in {namespace} namespace"))),
    }
}

/// A kind that is handed to a node as it stands: equal params are one stream, however they are spaced and ordered.
fn passed_on(request: &Request<'_>) -> Result<StreamKey, Error> {
    let params = request.params.map_or(Value::Null, json).to_string();
    if params.len() > PASSED_MAX_BYTES {
        return Err(rpc::invalid_params(format!("more than {PASSED_MAX_BYTES} bytes of parameters")));
    }
    Ok(StreamKey::Feed(Feed(params.into())))
}

fn refused(refusal: Refusal, ask: &mut dyn FnMut(Ask) -> Result<(), Error>) -> Error {
    match refusal {
        Refusal::Invalid(text) => rpc::invalid_params(text),
        Refusal::Server(text) => rpc::server_error(text),
        Refusal::Limit(limit) => {
            ask(Ask::Over(limit, "filter")).err().unwrap_or_else(|| rpc::limit(limit, "filter", 0))
        }
    }
}

/// The object of options may stand at `rest[at]`, and nothing after it. Nothing can be asked for yet.
fn options(rest: &[&RawValue], at: usize) -> Result<(), Error> {
    if rest.len() > at + 1 {
        return Err(rpc::invalid_params(format!("too many arguments, want at most {}", at + 2)));
    }
    match rest.get(at).map(|raw| json(raw)) {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Object(members)) => match members.keys().next() {
            None => Ok(()),
            Some(key) => Err(rpc::invalid_params(format!("invalid argument {}: unknown option {key:?}", at + 1))),
        },
        Some(_) => Err(rpc::invalid_params(format!("invalid argument {}: expected an object of options", at + 1))),
    }
}

/// The id that is to be unsubscribed.
pub fn unsubscribe_id(request: &Request<'_>) -> Result<String, Error> {
    let params = request.positional()?;
    match params.as_slice() {
        [] => Err(rpc::invalid_params("missing value for required argument 0")),
        [one] => match json(one) {
            Value::String(id) => Ok(id),
            Value::Null => Ok(String::new()),
            _ => Err(rpc::invalid_params("invalid argument 0: expected the id of a subscription")),
        },
        _ => Err(rpc::invalid_params("too many arguments, want at most 1")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: filter::Bounds = filter::Bounds { addresses: 10, topics: 10 };

    fn ask(params: &str) -> Result<StreamKey, (i32, String)> {
        let raw = RawValue::from_string(params.into()).unwrap();
        let request = Request { id: None, method: "eth_subscribe".into(), params: Some(&raw) };
        let passed = ["transactionReceipts".to_owned()];
        stream("eth", &request, &BOUNDS, &passed, &mut |_| Ok(())).map_err(|e| (e.code(), e.message().to_owned()))
    }

    #[test]
    fn kinds_and_their_synonyms() {
        for heads in [r#"["newHeads"]"#, r#"["newBlockHeaders"]"#, r#"["newHeads",{}]"#, r#"["newHeads",null]"#] {
            assert_eq!(ask(heads), Ok(StreamKey::Heads), "{heads}");
        }
        assert_eq!(ask(r#"["logs",{}]"#), ask(r#"["logs",{"address":[]},{}]"#));
        assert_eq!(ask(r#"["newPendingTransactions"]"#), ask(r#"["newPendingTransactions",false]"#));
        assert_ne!(ask(r#"["newPendingTransactions"]"#), ask(r#"["newPendingTransactions",true]"#));
        assert_eq!(ask(r#"["newPendingTransactions",true,{}]"#), ask(r#"["newPendingTransactions",true]"#));
        assert!(ask(r#"["syncing"]"#).is_ok());
    }

    #[test]
    fn kinds_that_are_passed_on_are_shared_by_equal_params() {
        let one = ask(r#"["transactionReceipts",{"b":[1, 2],"a":null}]"#).unwrap();
        assert_eq!(one, ask(r#"[ "transactionReceipts", {"a":null, "b":[1,2]}]"#).unwrap());
        assert_eq!(one, StreamKey::Feed(Feed(r#"["transactionReceipts",{"a":null,"b":[1,2]}]"#.into())));
        assert_ne!(one, ask(r#"["transactionReceipts"]"#).unwrap());
        let long = "x".repeat(PASSED_MAX_BYTES);
        assert_eq!(ask(&format!(r#"["transactionReceipts","{long}"]"#)).unwrap_err().0, -32602);
    }

    #[test]
    fn refusals() {
        for (params, code, text) in [
            (r#"["foo"]"#, -32601, "no \"foo\" subscription in eth namespace"),
            (r#"["NewHeads"]"#, -32601, "no \"NewHeads\" subscription in eth namespace"),
            ("{}", -32602, "non-array args"),
            ("[]", -32602, "expected subscription name as first argument"),
            ("[5]", -32602, "expected subscription name as first argument"),
            (r#"["logs"]"#, -32602, "missing value for required argument 1"),
            (r#"["newHeads",{"foo":1}]"#, -32602, "invalid argument 1: unknown option \"foo\""),
            (r#"["logs",{},{"foo":1}]"#, -32602, "invalid argument 2: unknown option \"foo\""),
            (r#"["newHeads",{},{}]"#, -32602, "too many arguments, want at most 2"),
            (r#"["logs",{},{},{}]"#, -32602, "too many arguments, want at most 3"),
            (r#"["newHeads","x"]"#, -32602, "invalid argument 1: expected an object of options"),
            (
                r#"["newPendingTransactions","true"]"#,
                -32602,
                "invalid argument 1: expected a boolean: full transactions or not",
            ),
        ] {
            assert_eq!(ask(params), Err((code, text.to_owned())), "{params}");
        }
    }
}
