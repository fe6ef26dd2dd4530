//! The operator's own listener: `/healthz`, `/readyz` and `/metrics`. No key and no prompt is known here.
//! A process that has been told to stop takes no more connections here either: that is how it says that it is not ready.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use http::{Method, Response, StatusCode, header};
use pingora::{apps::http_app::ServeHttp, protocols::http::ServerSession};
use tokio::net::TcpStream;

use crate::metrics::Metrics;

/// Answers the operator.
pub struct Admin {
    /// The client listeners' addresses.
    pub listen: Vec<String>,
    pub metrics: Arc<Metrics>,
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let request = session.req_header();
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, b"use GET\n".to_vec());
        }
        match request.uri.path() {
            "/healthz" => answer(StatusCode::OK, TEXT, b"ok\n".to_vec()),
            "/readyz" if self.listens().await => answer(StatusCode::OK, TEXT, b"ready\n".to_vec()),
            "/readyz" => answer(
                StatusCode::SERVICE_UNAVAILABLE,
                TEXT,
                b"not listening\n".to_vec(),
            ),
            "/metrics" => answer(StatusCode::OK, METRICS, self.metrics.text()),
            _ => answer(
                StatusCode::NOT_FOUND,
                TEXT,
                b"/healthz, /readyz or /metrics\n".to_vec(),
            ),
        }
    }
}

impl Admin {
    /// Whether clients can connect. Each service binds in its own time, so that this one can be up before they are.
    async fn listens(&self) -> bool {
        for address in &self.listen {
            let connecting = tokio::time::timeout(PATIENCE, TcpStream::connect(address));
            if !matches!(connecting.await, Ok(Ok(_))) {
                return false;
            }
        }
        true
    }
}

fn answer(status: StatusCode, content_type: &str, body: Vec<u8>) -> Response<Vec<u8>> {
    let length = body.len();
    let answer = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, content_type)
        .header(header::CONTENT_LENGTH, length)
        .body(body);
    // Both header values are well formed, so that building cannot fail.
    answer.unwrap_or_default()
}

/// How long a look at a listener of our own may take.
const PATIENCE: Duration = Duration::from_secs(1);
const TEXT: &str = "text/plain; charset=utf-8";
/// The exposition format that Prometheus scrapes.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
