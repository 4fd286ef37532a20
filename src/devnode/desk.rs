//! Where one connection's requests are answered: counted, spoilt where a fault says so, and passed to the methods.
//!
//! Owns the order of these steps and the subscribe and unsubscribe calls. It stands in front of jsonrpsee's own service,
//! which keeps the subscriptions of a connection.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use alloy_primitives::B256;
use jsonrpsee::core::server::BatchResponseBuilder;
use jsonrpsee::server::middleware::rpc::{
    Batch, BatchEntry, MethodResponse, Notification, Request, RpcService, RpcServiceT,
};
use jsonrpsee::server::{Extensions, Methods, PendingSubscriptionSink, ResponsePayload, RpcModule};
use jsonrpsee::types::{ErrorObjectOwned, Id, Params};
use serde_json::Value;
use serde_json::value::RawValue;

use super::args::{Args, RpcError};
use super::methods;
use super::node::Node;
use super::spoil::Spoil;
use super::subscribers::Interest;
use super::view::View;
use super::wire::Valve;

/// The most names of methods that are counted one by one; names beyond it count as `other`.
const MAX_COUNTED_METHODS: usize = 256;

/// Calls by method.
#[derive(Debug, Default)]
pub(super) struct Calls(Mutex<BTreeMap<String, u64>>);

impl Calls {
    fn count(&self, method: &str) {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = calls.contains_key(method) || calls.len() < MAX_COUNTED_METHODS;
        *calls.entry(if known { method } else { "other" }.to_owned()).or_default() += 1;
    }

    pub(super) fn all(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl From<RpcError> for ErrorObjectOwned {
    fn from(error: RpcError) -> Self {
        Self::owned(error.code, error.message, None::<()>)
    }
}

/// Answers the requests of one connection.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) node: Arc<Node>,
    /// jsonrpsee's own service.
    pub(super) subscriptions: RpcService,
    /// Whether the connection can carry subscriptions.
    pub(super) websocket: bool,
}

impl Desk {
    async fn answer(self, request: Request<'_>) -> MethodResponse {
        let method = request.method_name().to_owned();
        let id = request.id.clone().into_owned();
        self.node.calls.count(&counted_name(&method, request.params.as_deref().map(RawValue::get)));
        let spoils = self.node.faults.spoils(&method);
        for spoil in &spoils {
            match spoil {
                Spoil::Delay(delay) => tokio::time::sleep(*delay).await,
                // Ends with the connection.
                Spoil::Silent => std::future::pending().await,
                Spoil::Error(code, message) => return failure(id, RpcError::new(*code, message.as_str())),
                _ => {}
            }
        }
        match method.as_str() {
            "eth_subscribe" | "eth_unsubscribe" if !self.websocket => {
                failure(id, RpcError::new(-32_601, "notifications not supported"))
            }
            "eth_subscribe" => self.subscriptions.call(request).await,
            "eth_unsubscribe" => self.unsubscribe(id, request).await,
            _ => {
                let params = request.params.as_deref().map(RawValue::get);
                match answer_call(&self.node.view, &method, params, &spoils) {
                    Ok(json) => MethodResponse::response(id, ResponsePayload::success(json), usize::MAX),
                    Err(error) => failure(id, error),
                }
            }
        }
    }

    /// jsonrpsee answers `false` for an id it does not know; Geth answers an error.
    async fn unsubscribe(&self, id: Id<'static>, request: Request<'_>) -> MethodResponse {
        let params = request.params.as_deref().map(RawValue::get);
        if let Err(error) = Args::parse(params).and_then(|args| args.required(0).map(drop)) {
            return failure(id, error);
        }
        let answer = self.subscriptions.call(request).await;
        if answer.as_ref().contains("\"result\":false") {
            return failure(id, RpcError::failed("subscription not found"));
        }
        answer
    }

    async fn answer_batch(self, batch: Batch<'_>) -> MethodResponse {
        let mut answers = BatchResponseBuilder::new_with_limit(usize::MAX);
        let mut only_notifications = false;
        for entry in batch {
            let answer = match entry {
                Ok(BatchEntry::Call(request)) => self.clone().answer(request).await,
                Ok(BatchEntry::Notification(_)) => {
                    only_notifications = true;
                    continue;
                }
                Err(error) => {
                    let (error, id) = error.into_parts();
                    MethodResponse::error(id, error)
                }
            };
            if let Err(too_large) = answers.append(answer) {
                return too_large;
            }
        }
        if answers.is_empty() && only_notifications {
            return MethodResponse::notification();
        }
        MethodResponse::from_batch(answers.finish())
    }
}

impl RpcServiceT for Desk {
    type MethodResponse = MethodResponse;
    type BatchResponse = MethodResponse;
    type NotificationResponse = MethodResponse;

    fn call<'a>(&self, request: Request<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        self.clone().answer(request)
    }

    fn batch<'a>(&self, batch: Batch<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        self.clone().answer_batch(batch)
    }

    fn notification<'a>(&self, _: Notification<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        std::future::ready(MethodResponse::notification())
    }
}

fn failure(id: Id<'static>, error: RpcError) -> MethodResponse {
    MethodResponse::error(id, ErrorObjectOwned::from(error))
}

/// The name under which a call is counted: that of its method, but blocks asked for by the tags of finality count apart.
fn counted_name<'a>(method: &'a str, params: Option<&str>) -> Cow<'a, str> {
    let params = params.unwrap_or_default();
    let tag = ["safe", "finalized"].into_iter().find(|tag| params.contains(&format!("\"{tag}\"")));
    match tag.filter(|_| method == "eth_getBlockByNumber") {
        Some(tag) => format!("{method} {tag}").into(),
        None => method.into(),
    }
}

/// Answers a call and spoils the answer.
fn answer_call(view: &View, method: &str, params: Option<&str>, spoils: &[Spoil]) -> Result<Box<RawValue>, RpcError> {
    let mut args = Args::parse(params)?;
    if spoils.iter().any(|spoil| matches!(spoil, Spoil::OtherBlock)) {
        for value in args.values_mut() {
            ask_for_parent(view, value);
        }
    }
    let empty_for_error = spoils.iter().any(|spoil| matches!(spoil, Spoil::EmptyForError));
    let mut json = match methods::answer(view, method, &args) {
        Err(_) if empty_for_error => "[]".into(),
        answer => answer?,
    };
    if !spoils.is_empty() {
        let mut value: Value = serde_json::from_str(&json).expect("what this node writes is JSON");
        for spoil in spoils {
            spoil.apply(&mut value);
        }
        json = value.to_string();
    }
    Ok(RawValue::from_string(json).expect("what this node writes is JSON"))
}

/// Replaces the hashes of known blocks by their parents'.
fn ask_for_parent(view: &View, value: &mut Value) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(|field| ask_for_parent(view, field)),
        Value::String(text) => {
            if let Some(block) = text.parse::<B256>().ok().and_then(|hash| view.by_hash(hash)) {
                *text = block.parent_hash().to_string();
            }
        }
        _ => {}
    }
}

/// The subscribe and unsubscribe methods, for jsonrpsee to keep.
pub(super) fn subscription_methods(node: Arc<Node>) -> Methods {
    let mut module = RpcModule::new(node);
    let open = |params: Params<'static>, pending, node: Arc<Arc<Node>>, extensions| async move {
        subscribe(&node, &params, pending, &extensions).await;
    };
    module
        .register_subscription("eth_subscribe", "eth_subscription", "eth_unsubscribe", open)
        .expect("the names differ and are the only ones");
    module.into()
}

async fn subscribe(node: &Node, params: &Params<'static>, pending: PendingSubscriptionSink, extensions: &Extensions) {
    let interest = match Args::parse(params.as_str()).and_then(|args| Interest::parse(&args)) {
        Ok(interest) => interest,
        Err(error) => return pending.reject(error).await,
    };
    let Some(valve) = extensions.get::<Arc<Valve>>() else { return };
    let key = node.subscribers.reserve(interest, Arc::clone(valve));
    match pending.accept().await {
        Ok(sink) => node.subscribers.open(key, sink),
        // The connection is gone.
        Err(_) => node.subscribers.forget(key),
    }
}
