//! What one HTTP request gets: an upgrade, an answer to a JSON-RPC POST, a preflight, the page.
//!
//! Never refuses an upgrade for a transient reason: one refused attempt makes some clients stay away for good. Knows
//! nothing of Ethereum.

use std::rc::Rc;
use std::sync::LazyLock;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;

use super::extensions;
use super::worker::{Local, Peer, Upgrade};
use crate::rpc;
use crate::session::{self, Context};

type Answer = Response<Full<Bytes>>;

/// The live page.
const PAGE: &str = include_str!("page.html");

/// What the page may do: run its own script and style, and connect back here.
static PAGE_POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self' ws: wss:; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        inline_hash("script"),
        inline_hash("style"),
    );
    HeaderValue::from_str(&policy).expect("it is ASCII")
});

/// The source expression for the page's one inline element of this name (Content Security Policy Level 3, §6.7.2).
fn inline_hash(element: &str) -> String {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let start = PAGE.find(&open).expect("the page has one") + open.len();
    let end = start + PAGE[start..].find(&close).expect("it is closed");
    let digest = ring::digest::digest(&ring::digest::SHA256, &PAGE.as_bytes()[start..end]);
    format!("sha256-{}", data_encoding::BASE64.encode(digest.as_ref()))
}

/// Answers a request.
pub(super) async fn answer(
    local: Rc<Local>,
    peer: Rc<Peer>,
    request: Request<Incoming>,
) -> Result<Answer, std::convert::Infallible> {
    let upgrades = request.method() == Method::GET && wants_websocket(request.headers());
    if !upgrades {
        // A whole request came: what follows on the connection is bounded by the time for its head.
        peer.handshake.take();
    }
    let name = request.uri().path().trim_start_matches('/');
    let context = if name.is_empty() { Some(&local.default) } else { local.by_name.get(name) };
    let Some(context) = context.cloned() else {
        peer.handshake.take();
        return Ok(plain(StatusCode::NOT_FOUND, "no such chain\n"));
    };
    let from_a_page = request.headers().contains_key(header::ORIGIN);
    let mut answer = route(&local, &peer, context, request).await;
    if from_a_page {
        let headers = answer.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
    Ok(answer)
}

async fn route(local: &Local, peer: &Peer, context: Rc<Context>, request: Request<Incoming>) -> Answer {
    match *request.method() {
        Method::GET if wants_websocket(request.headers()) => upgrade(local, context, peer, &request),
        Method::POST => post(local, &context, peer, request).await,
        Method::OPTIONS => preflight(request.headers()),
        Method::GET | Method::HEAD if local.options.page => page(),
        Method::GET | Method::HEAD => {
            plain(StatusCode::NOT_FOUND, "chaincast: connect by WebSocket, or POST JSON-RPC\n")
        }
        _ => plain(StatusCode::METHOD_NOT_ALLOWED, "GET, POST or OPTIONS\n"),
    }
}

fn wants_websocket(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

fn plain(status: StatusCode, text: &'static str) -> Answer {
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

fn page() -> Answer {
    let mut answer = Response::new(Full::from(PAGE));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CONTENT_SECURITY_POLICY, PAGE_POLICY.clone());
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    answer
}

const CORS: [(HeaderName, &str); 2] =
    [(header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS"), (header::ACCESS_CONTROL_MAX_AGE, "86400")];

fn preflight(asked: &HeaderMap) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let headers = answer.headers_mut();
    for (name, value) in CORS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // No cookie or other credential of the browser is ever used here, so any header may be sent.
    let wanted = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
    let allowed = wanted.cloned().unwrap_or(HeaderValue::from_static("content-type"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    headers.insert(header::VARY, HeaderValue::from_static("access-control-request-headers"));
    answer
}

fn json(status: StatusCode, text: String) -> Answer {
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// Content types that Geth takes (rpc/http.go: acceptedContentTypes).
fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    ["application/json", "application/json-rpc", "application/jsonrequest"].iter().any(|k| kind.eq_ignore_ascii_case(k))
}

async fn post(local: &Local, context: &Context, peer: &Peer, request: Request<Incoming>) -> Answer {
    if !is_json(request.headers()) {
        return plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid content type, only application/json is supported\n");
    }
    let Some(limits) = peer.limits.borrow_mut().take() else {
        return plain(StatusCode::BAD_REQUEST, "the connection is being upgraded\n");
    };
    let answer = answer_body(local, context, &limits, request).await;
    *peer.limits.borrow_mut() = Some(limits);
    answer
}

async fn answer_body(
    local: &Local,
    context: &Context,
    limits: &std::cell::RefCell<session::HttpLimits>,
    request: Request<Incoming>,
) -> Answer {
    let wait = limits.borrow().message();
    if let Some(wait) = wait {
        tokio::time::sleep(wait).await;
    }
    let body = Limited::new(request.into_body(), local.options.body_max_bytes).collect();
    let body = match tokio::time::timeout(local.options.body_timeout, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            let error = rpc::limit("message_bytes", "request", 0);
            local.metrics.refusals.with_label_values(&["message_bytes", "request"]).inc();
            return json(StatusCode::PAYLOAD_TOO_LARGE, rpc::answer_error("null", &error));
        }
        Ok(Err(_)) => return plain(StatusCode::BAD_REQUEST, "the body did not arrive whole\n"),
        Err(_) => return plain(StatusCode::REQUEST_TIMEOUT, "the body took too long\n"),
    };
    let text = session::answer_http(context, &body, limits).await;
    let mut answer = json(StatusCode::OK, text.unwrap_or_default());
    if limits.borrow().is_over() {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

/// The extension that a client gets, of those that it offers.
fn extension(local: &Local, headers: &HeaderMap) -> Option<HeaderValue> {
    let offered = headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS).iter();
    let accepted = local.options.compression.then(|| extensions::accept(offered.filter_map(|v| v.to_str().ok())))?;
    accepted.map(|value| HeaderValue::from_str(&value).expect("it is ASCII"))
}

/// Accepts a WebSocket; the session starts when the answer is out.
fn upgrade(local: &Local, context: Rc<Context>, peer: &Peer, request: &Request<Incoming>) -> Answer {
    match create_response_with_body(request, Full::default) {
        Ok(mut answer) => {
            let extension = extension(local, request.headers());
            *peer.upgrade.borrow_mut() = Some(Upgrade { context, compressed: extension.is_some() });
            answer.headers_mut().extend(extension.map(|value| (header::SEC_WEBSOCKET_EXTENSIONS, value)));
            answer
        }
        Err(error) => {
            local.metrics.handshakes.with_label_values(&["malformed"]).inc();
            peer.handshake.take();
            tracing::debug!(%error, "a malformed upgrade");
            plain(StatusCode::BAD_REQUEST, "malformed WebSocket handshake (RFC 6455 section 4.2.1)\n")
        }
    }
}
