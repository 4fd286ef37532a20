//! One JSON-RPC connection to a node, over WebSocket or HTTP, on jsonrpsee's clients.
//!
//! Owns every buffer size and deadline of the connection. Results stay the node's own bytes. Errors are worded without
//! the node's URL.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use jsonrpsee::core::client::{ClientT, Error as RpcError, Subscription, SubscriptionClientT};
use jsonrpsee::core::traits::ToRpcParams;
use jsonrpsee::http_client::{HttpClient, HttpClientBuilder};
use jsonrpsee::types::ErrorObjectOwned;
use jsonrpsee::ws_client::{PingConfig, WsClient, WsClientBuilder};
use serde_json::value::RawValue;

use super::{Dial, NodeUrl, Options};

/// Notifications that jsonrpsee holds for one subscription of ours. Beyond that it ends the subscription, which is
/// seen and mended by a reconnect.
const SUBSCRIPTION_BUFFER: usize = 16_384;

/// Why a call has no result.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// The node answered with an error.
    #[error("{}", .0.message())]
    Node(ErrorObjectOwned),
    /// No answer before the deadline.
    #[error("no answer in time")]
    Timeout,
    /// The node could not be asked.
    #[error("{0}")]
    Unavailable(Cow<'static, str>),
    /// The node has been sent as many calls as it is to be sent; there is room after this time.
    #[error("over the budget of calls to the node")]
    OverBudget(Duration),
}

/// Error codes by which a node says that it cannot answer anybody now: internal error, limit exceeded (EIP-1474), and
/// 429 as some providers pass HTTP's on.
const NODE_TROUBLE: [i32; 3] = [-32603, -32005, 429];

impl CallError {
    /// Whether the node failed, as opposed to having answered that the call does.
    pub(crate) fn is_trouble(&self) -> bool {
        match self {
            Self::Node(error) => NODE_TROUBLE.contains(&error.code()),
            Self::Timeout | Self::Unavailable(_) => true,
            Self::OverBudget(_) => false,
        }
    }

    /// The value of the `outcome` label.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Node(_) => "error",
            Self::Timeout => "timeout",
            Self::Unavailable(_) => "unavailable",
            Self::OverBudget(_) => "over_budget",
        }
    }
}

/// A connection that can be shared: calls on it run side by side.
#[derive(Debug, Clone)]
pub(crate) enum Client {
    Ws(Arc<WsClient>),
    Http(HttpClient),
}

/// Params as they came from a client, or from us as JSON text.
struct RawParams<'a>(Option<&'a RawValue>);

impl ToRpcParams for RawParams<'_> {
    fn to_rpc_params(self) -> Result<Option<Box<RawValue>>, serde_json::Error> {
        Ok(self.0.map(ToOwned::to_owned))
    }
}

impl Client {
    /// Connects within `timeout`. An `http` node is not contacted before the first call.
    pub(crate) async fn connect(url: &NodeUrl, options: &Options, timeout: Duration) -> Result<Self, CallError> {
        if !url.is_websocket() {
            let builder = HttpClientBuilder::default()
                .max_response_size(options.message_max_bytes)
                .request_timeout(options.call_timeout);
            return builder.build(url.secret()).map(Self::Http).map_err(|e| unavailable(url, &e));
        }
        let ping = PingConfig::new()
            .ping_interval(options.silence_max / 2)
            .inactive_limit(options.silence_max)
            .max_failures(1);
        let builder = WsClientBuilder::default()
            .connection_timeout(timeout)
            .request_timeout(options.call_timeout)
            .max_response_size(options.message_max_bytes)
            .max_frame_size(options.message_max_bytes)
            .max_concurrent_requests(options.calls.in_flight + 64)
            .max_buffer_capacity_per_subscription(SUBSCRIPTION_BUFFER)
            .enable_ws_ping(ping);
        let connecting = async {
            match &options.dial {
                Dial::Network => builder.build(url.secret()).await,
                Dial::By(dial) => {
                    let stream = dial(url).await.map_err(|e| RpcError::Transport(e.into()))?;
                    builder.build_with_stream(url.secret(), stream).await
                }
            }
        };
        match tokio::time::timeout(timeout, connecting).await {
            Ok(Ok(client)) => Ok(Self::Ws(Arc::new(client))),
            Ok(Err(e)) => Err(unavailable(url, &e)),
            Err(_) => Err(CallError::Timeout),
        }
    }

    /// One call. The result is the node's own JSON.
    pub(crate) async fn call(
        &self,
        url: &NodeUrl,
        method: &str,
        params: Option<&RawValue>,
        deadline: Duration,
    ) -> Result<Box<RawValue>, CallError> {
        let params = RawParams(params);
        let answer = async {
            match self {
                Self::Ws(client) => client.request::<Box<RawValue>, _>(method, params).await,
                Self::Http(client) => client.request::<Box<RawValue>, _>(method, params).await,
            }
        };
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(RpcError::Call(error))) => Err(CallError::Node(redacted(url, &error))),
            Ok(Err(RpcError::RequestTimeout)) | Err(_) => Err(CallError::Timeout),
            Ok(Err(e)) => Err(unavailable(url, &e)),
        }
    }

    /// Subscribes with these raw params of `eth_subscribe`.
    pub(crate) async fn subscribe(
        &self,
        url: &NodeUrl,
        params: &str,
    ) -> Result<Subscription<Box<RawValue>>, CallError> {
        let Self::Ws(client) = self else {
            return Err(CallError::Unavailable("an http node takes no subscriptions".into()));
        };
        let params = RawValue::from_string(params.to_owned()).expect("params are JSON");
        match client.subscribe("eth_subscribe", RawParams(Some(&params)), "eth_unsubscribe").await {
            Ok(subscription) => Ok(subscription),
            Err(RpcError::Call(error)) => Err(CallError::Node(redacted(url, &error))),
            Err(RpcError::RequestTimeout) => Err(CallError::Timeout),
            Err(e) => Err(unavailable(url, &e)),
        }
    }

    /// Waits until the connection is gone and says why. Never ends for `http`.
    pub(crate) async fn gone(&self, url: &NodeUrl) -> CallError {
        match self {
            Self::Ws(client) => unavailable(url, &client.on_disconnect().await),
            Self::Http(_) => std::future::pending().await,
        }
    }
}

/// A node may quote its own URL, or that of a node behind it which has the same key.
fn redacted(url: &NodeUrl, error: &ErrorObjectOwned) -> ErrorObjectOwned {
    let text = url.redact(error.message());
    // What cannot be shown whole is not shown: taking pieces out of JSON may leave none.
    let data = error.data().filter(|data| url.redact(data.get()) == data.get()).map(ToOwned::to_owned);
    ErrorObjectOwned::owned(error.code(), text, data)
}

/// The error with its causes, less anything of the URL.
fn unavailable(url: &NodeUrl, error: &RpcError) -> CallError {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    CallError::Unavailable(url.redact(&text).into())
}
