//! The operator's own listener: `/healthz`, `/readyz`, `/metrics`, `/targets`, `/reload`. No key and no prompt is known here.
//! A process that has been told to stop takes no more connections here either: that is how it says that it is not ready.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use http::{Method, Response, StatusCode, header};
use pingora::{apps::http_app::ServeHttp, http::RequestHeader, protocols::http::ServerSession};
use serde::Serialize;
use tokio::net::TcpStream;

use crate::{
    config::ConfigError,
    health::{Health, standing::View},
    metrics::Metrics,
    provider::{Secret, pool::KeyView},
    proxy::Gateway,
    reload::{Reloaded, Reloader},
};

/// Answers the operator.
pub struct Admin {
    /// The client listeners' addresses.
    pub listen: Vec<String>,
    pub metrics: Arc<Metrics>,
    pub health: Arc<Health>,
    pub gateway: Gateway,
    pub reloader: Arc<Reloader>,
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let request = session.req_header();
        if request.uri.path() == "/reload" {
            return self.reload(request).await;
        }
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
            "/targets" => answer(StatusCode::OK, JSON, self.targets()),
            "/metrics" => {
                let states = self.health.states(Instant::now());
                self.metrics.note_targets(&states);
                answer(StatusCode::OK, METRICS, self.metrics.text())
            }
            _ => answer(
                StatusCode::NOT_FOUND,
                TEXT,
                b"/healthz, /readyz, /metrics, /targets or /reload\n".to_vec(),
            ),
        }
    }
}

impl Admin {
    async fn reload(&self, request: &RequestHeader) -> Response<Vec<u8>> {
        if request.method != Method::POST {
            let told = b"use POST\n".to_vec();
            return answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, told);
        }
        // A page in the operator's browser can send a POST here, but not without this header.
        if request.headers.contains_key(header::ORIGIN) {
            let told = b"not from a browser\n".to_vec();
            return answer(StatusCode::FORBIDDEN, TEXT, told);
        }
        if self.reloader.is_retiring() {
            let told = b"another process takes over: ask again\n".to_vec();
            return answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, told);
        }
        match self.reloader.reload().await {
            Ok(Reloaded { needs_restart }) => json(
                StatusCode::OK,
                &Told {
                    status: "reloaded",
                    needs_restart: &needs_restart,
                    error: None,
                },
            ),
            Err(error) => json(
                StatusCode::UNPROCESSABLE_ENTITY,
                &Told {
                    status: "refused",
                    needs_restart: &[],
                    error: Some(&error),
                },
            ),
        }
    }

    /// What is remembered of the targets of configs and routes, and of providers' keys where there are several.
    fn targets(&self) -> Vec<u8> {
        let now = Instant::now();
        let targets = self.health.views(now).into_iter().map(Row::Target);
        let edition = self.gateway.edition.load();
        let fingerprint = |secret: &Secret| self.gateway.tokens.fingerprint(secret);
        let pools = edition.state.config.pools();
        let keys = pools.flat_map(|(name, pool)| pool.views(name, &fingerprint, now));
        let rows: Vec<Row> = targets.chain(keys.map(Row::Key)).collect();
        // Texts and numbers alone: serialising them cannot fail.
        serde_json::to_vec(&rows).unwrap_or_default()
    }

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

/// How a reload went.
#[derive(Serialize)]
struct Told<'a> {
    status: &'static str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    needs_restart: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a ConfigError>,
}

fn json(status: StatusCode, body: &impl Serialize) -> Response<Vec<u8>> {
    // Text alone, which is always written.
    let mut body = serde_json::to_vec(body).unwrap_or_default();
    body.push(b'\n');
    answer(status, JSON, body)
}

/// A row of `/targets`.
#[derive(Serialize)]
#[serde(untagged)]
enum Row {
    Target(View),
    Key(KeyView),
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
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
/// The exposition format that Prometheus scrapes.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
