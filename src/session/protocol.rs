//! What is to be done about one message: the pure part of a conversation.
//!
//! Reads the message, refuses what is wrong or over a limit, and says what remains to be done, in order. Does none of
//! it. Pure.

use serde_json::value::RawValue;

use super::limits::Ask;
use super::subscribe;
use crate::calls;
use crate::filter;
use crate::hub::StreamKey;
use crate::rpc::{self, Error, Message, Refused, Request};

/// Bounds of requests.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Of the text.
    pub text: rpc::Bounds,
    /// Of filters.
    pub filter: filter::Bounds,
    /// Most bytes of the answer to a batch.
    pub batch_answer: usize,
    /// Kinds of subscription that are handed to a node as they stand.
    pub passed: std::sync::Arc<[String]>,
}

/// How the message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// On a WebSocket: there may be subscriptions.
    WebSocket,
    /// By HTTP POST.
    Http,
}

/// One thing to do for a message.
#[derive(Debug)]
pub enum Step {
    /// The answer is known.
    Answer(String),
    /// Open a subscription and answer with its id.
    Subscribe {
        /// Raw request id.
        id: String,
        /// For what.
        stream: StreamKey,
    },
    /// End a subscription.
    Unsubscribe {
        /// Raw request id; `None`: no answer is wanted.
        id: Option<String>,
        /// The subscription's id.
        subscription: String,
    },
    /// Call a method.
    Call {
        /// Raw request id; `None`: no answer is wanted.
        id: Option<String>,
        /// Its name.
        method: String,
        /// Its raw params.
        params: Option<Box<RawValue>>,
    },
}

/// All that a message asks for.
#[derive(Debug)]
pub struct Work {
    /// The answers go out as one array.
    pub batch: bool,
    /// In the order of the requests.
    pub steps: Vec<Step>,
}

/// Reads a message. `ask` grants or refuses what is limited.
pub fn plan(text: &[u8], bounds: &Bounds, transport: Transport, ask: &mut dyn FnMut(Ask) -> Result<(), Error>) -> Work {
    let mut step = |request: Result<Request<'_>, Refused>| match request {
        Ok(request) => step(&request, bounds, transport, ask),
        Err(r) => refused(r, ask),
    };
    match rpc::read(text, &bounds.text) {
        Err(r) => Work { batch: false, steps: step(Err(r)).into_iter().collect() },
        Ok(Message::Single(request)) => Work { batch: false, steps: step(request).into_iter().collect() },
        Ok(Message::Batch(requests)) => Work { batch: true, steps: requests.into_iter().filter_map(step).collect() },
    }
}

/// The answer to what is no request of ours; the bound that it is over, if any, is counted.
fn refused(refused: Refused, ask: &mut dyn FnMut(Ask) -> Result<(), Error>) -> Option<Step> {
    if let Some(limit) = refused.over {
        // It is refused in the words of the protocol, whatever the limits say.
        drop(ask(Ask::Over(limit, "message")));
    }
    Some(Step::Answer(rpc::answer_error(&refused.id?, &refused.error)))
}

/// What one request asks for; nothing for a notification that asks for nothing.
fn step(
    request: &Request<'_>,
    bounds: &Bounds,
    transport: Transport,
    ask: &mut dyn FnMut(Ask) -> Result<(), Error>,
) -> Option<Step> {
    let id = request.id.map(|id| id.get().to_owned());
    let subscription = request.method.strip_suffix("_subscribe").map(|ns| (ns, true));
    let subscription = subscription.or_else(|| request.method.strip_suffix("_unsubscribe").map(|ns| (ns, false)));
    let result =
        match subscription {
            Some((_, true)) if transport == Transport::Http => Err(rpc::not_supported("notifications not supported")),
            Some((_, false)) if transport == Transport::Http => {
                subscribe::unsubscribe_id(request).and_then(|_| Err(rpc::server_error("subscription not found")))
            }
            // Nobody could read such a subscription, nor end it.
            Some((_, true)) if id.is_none() => {
                let error = rpc::invalid_request("a subscription needs a request id");
                return Some(Step::Answer(rpc::answer_error("null", &error)));
            }
            Some((namespace, true)) => subscribe::stream(namespace, request, &bounds.filter, &bounds.passed, ask)
                .and_then(|stream| {
                    ask(Ask::Subscribe)?;
                    Ok(Step::Subscribe { id: id.clone().unwrap_or_default(), stream })
                }),
            Some((_, false)) => subscribe::unsubscribe_id(request)
                .map(|subscription| Step::Unsubscribe { id: id.clone(), subscription }),
            None => call(request, id.clone(), ask),
        };
    match (result, id) {
        (Ok(step), _) => Some(step),
        (Err(error), Some(id)) => Some(Step::Answer(rpc::answer_error(&id, &error))),
        (Err(_), None) => None,
    }
}

fn call(
    request: &Request<'_>,
    id: Option<String>,
    ask: &mut dyn FnMut(Ask) -> Result<(), Error>,
) -> Result<Step, Error> {
    if let Some(params) = request.params
        && !params.get().starts_with('[')
    {
        return Err(rpc::invalid_params("non-array args"));
    }
    let method = calls::class(&request.method).ok_or_else(|| rpc::method_not_found(&request.method))?;
    ask(Ask::Call(method.weight))?;
    Ok(Step::Call { id, method: method.name.to_owned(), params: request.params.map(ToOwned::to_owned) })
}

/// Bytes that the answer to a batch of these steps will have, at least; a subscription's answer is about 90.
#[must_use]
pub fn answers_bytes(steps: &[Step]) -> usize {
    let bytes = |step: &Step| match step {
        Step::Answer(text) => text.len() + 1,
        Step::Subscribe { id, .. } | Step::Unsubscribe { id: Some(id), .. } => id.len() + 100,
        Step::Unsubscribe { id: None, .. } | Step::Call { .. } => 0,
    };
    steps.iter().map(bytes).sum()
}

/// Joins the answers of a message; `None` where nothing is to be answered. `over` is told if they are too long.
#[must_use]
pub fn join(batch: bool, answers: Vec<String>, most: usize, over: impl FnOnce()) -> Option<String> {
    if !batch {
        return answers.into_iter().next();
    }
    if answers.is_empty() {
        return None;
    }
    let mut text = String::from("[");
    for (at, answer) in answers.iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        text.push_str(answer);
        if text.len() > most {
            over();
            return Some(rpc::answer_error("null", &rpc::limit("batch_answer_bytes", "batch", 0)));
        }
    }
    text.push(']');
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds() -> Bounds {
        Bounds {
            text: rpc::Bounds { depth: 16, batch: 20, method: 64, id: 128 },
            filter: filter::Bounds { addresses: 10, topics: 10 },
            batch_answer: 1000,
            passed: [].into(),
        }
    }

    fn plan_with(text: &str, transport: Transport, mut ask: impl FnMut(Ask) -> Result<(), Error>) -> Vec<String> {
        let work = plan(text.as_bytes(), &bounds(), transport, &mut ask);
        let shown = work.steps.into_iter().map(|step| match step {
            Step::Answer(text) => text,
            Step::Subscribe { id, stream } => format!("{id} subscribe {}", stream.label()),
            Step::Unsubscribe { id, subscription } => format!("{id:?} unsubscribe {subscription}"),
            Step::Call { id, method, params } => {
                format!("{id:?} {method} {}", params.map_or(String::new(), |p| p.get().into()))
            }
        });
        shown.collect()
    }

    #[test]
    fn a_batch_is_planned_in_order() {
        let text = r#"[{"jsonrpc":"2.0","id":1,"method":"eth_subscribe","params":["newHeads"]},
            {"jsonrpc":"2.0","method":"eth_chainId"},
            {"jsonrpc":"2.0","id":"x","method":"eth_call","params":[{}]},
            {"jsonrpc":"2.0","id":2,"method":"eth_unsubscribe","params":["0xab"]},
            {"jsonrpc":"2.0","method":"eth_foo"},
            {"jsonrpc":"2.0","method":"eth_subscribe","params":["newHeads"]}]"#;
        let mut asked = Vec::new();
        let steps = plan_with(text, Transport::WebSocket, |ask| {
            asked.push(ask);
            Ok(())
        });
        assert_eq!(
            steps,
            [
                "1 subscribe newHeads",
                "None eth_chainId ",
                "Some(\"\\\"x\\\"\") eth_call [{}]",
                "Some(\"2\") unsubscribe 0xab",
                r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"a subscription needs a request id"}}"#,
            ]
        );
        assert_eq!(asked, [Ask::Subscribe, Ask::Call(0), Ask::Call(1)]);
    }

    #[test]
    fn refusals_are_answers() {
        let one =
            |text: &str, transport| plan_with(text, transport, |_| Err(rpc::limit("calls", "connection", 7))).concat();
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"eth_call","params":[]}"#;
        assert!(one(call, Transport::WebSocket).contains(r#""retryAfterMs":7"#));
        let subscribe = r#"{"jsonrpc":"2.0","id":1,"method":"eth_subscribe","params":["newHeads"]}"#;
        assert!(one(subscribe, Transport::Http).contains("notifications not supported"));
        let admin = r#"{"jsonrpc":"2.0","id":1,"method":"admin_peers"}"#;
        assert!(one(admin, Transport::WebSocket).contains("the method admin_peers does not exist/is not available"));
        let other = r#"{"jsonrpc":"2.0","id":1,"method":"net_subscribe","params":["peers"]}"#;
        assert!(one(other, Transport::WebSocket).contains(r#"no \"peers\" subscription in net namespace"#));
        let object = r#"{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":{}}"#;
        assert!(one(object, Transport::WebSocket).contains("non-array args"));
    }

    #[test]
    fn answers_of_a_batch_are_joined_and_bounded() {
        let answers = |n| (0..n).map(|i| rpc::answer(&i.to_string(), "true")).collect::<Vec<_>>();
        assert_eq!(join(false, answers(1), 1000, || ()).unwrap(), answers(1)[0]);
        assert_eq!(join(true, answers(0), 1000, || ()), None);
        assert_eq!(join(true, answers(2), 1000, || ()).unwrap(), format!("[{}]", answers(2).join(",")));
        let mut counted = 0;
        assert!(join(true, answers(100), 1000, || counted += 1).unwrap().contains("batch_answer_bytes"));
        assert_eq!(counted, 1);
    }
}
