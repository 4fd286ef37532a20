//! The admin listener: metrics, liveness, readiness. Never on the public one.
//!
//! Owns no state: it shows that of others.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Most connections to the admin listener; a scraper needs one.
const CONNECTIONS_MAX: usize = 64;

/// Whether the gateway should get traffic, and why not.
pub trait Readiness: Send + Sync + 'static {
    /// `Err` with one line a cause.
    fn check(&self) -> Result<String, String>;
}

/// Serves the admin listener until stopped.
pub async fn serve_admin(
    listener: TcpListener,
    metrics: Metrics,
    readiness: Arc<dyn Readiness>,
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            Some(_ended) = connections.join_next() => continue,
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an admin connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let (metrics, readiness) = (metrics.clone(), readiness.clone());
        let answer = move |request: Request<Incoming>| {
            let answer = answer(&request, &metrics, &*readiness);
            async move { Ok::<_, Infallible>(answer) }
        };
        connections.spawn(async move {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(5));
            if let Err(error) = builder.serve_connection(TokioIo::new(stream), service_fn(answer)).await {
                tracing::debug!(%error, "an admin connection ended early");
            }
        });
    }
}

fn answer(request: &Request<Incoming>, metrics: &Metrics, readiness: &dyn Readiness) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n".into());
    }
    match request.uri().path() {
        "/metrics" => {
            let ready = readiness.check().is_ok();
            metrics.ready.set(i64::from(ready));
            let mut answer = text(StatusCode::OK, metrics.text());
            let kind = HeaderValue::from_static(prometheus::TEXT_FORMAT);
            answer.headers_mut().insert(header::CONTENT_TYPE, kind);
            answer
        }
        "/livez" => text(StatusCode::OK, "ok\n".into()),
        "/readyz" => match readiness.check() {
            Ok(words) => text(StatusCode::OK, words),
            Err(words) => text(StatusCode::SERVICE_UNAVAILABLE, words),
        },
        _ => text(StatusCode::NOT_FOUND, "/metrics, /livez or /readyz\n".into()),
    }
}

fn text(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}
