//! The operator's own listener: `/healthz`, `/readyz`, `/metrics`, `/targets`, `/reload`. No key and no prompt is known here.
//! Where the conf has a token, all but the probes ask for it.
//! A process that has been told to stop takes no more connections here either: that is how it says that it is not ready.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::{HeaderValue, Method, Response, StatusCode, header};
use pingora::{apps::http_app::ServeHttp, http::RequestHeader, protocols::http::ServerSession};
use ring::{hmac, rand::SystemRandom};
use serde::Serialize;
use tokio::net::TcpStream;

use crate::{
    config::ConfigError,
    edition::Edition,
    health::Health,
    metrics::Metrics,
    reload::{Reloaded, Reloader},
};

/// Answers the operator.
pub struct Admin {
    /// The conf as it is now: its token may have been changed.
    pub edition: Arc<ArcSwap<Edition>>,
    pub lock: Lock,
    /// Only this machine reaches the listener, which stays where it is when a new conf is put to use.
    pub is_private: bool,
    /// The client listeners' addresses.
    pub listen: Vec<String>,
    pub metrics: Arc<Metrics>,
    pub health: Arc<Health>,
    pub reloader: Arc<Reloader>,
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let request = session.req_header();
        let is_probe = matches!(request.uri.path(), "/healthz" | "/readyz");
        if !is_probe && !self.admits(request) {
            return refusal();
        }
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
            "/targets" => answer(StatusCode::OK, JSON, targets(&self.health)),
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
    /// Whether whoever asks has the conf's token, where one is needed.
    fn admits(&self, request: &RequestHeader) -> bool {
        let edition = self.edition.load();
        let Some(token) = &edition.state.config.admin_token else {
            return self.is_private;
        };
        let mut shown = request.headers.get_all(header::AUTHORIZATION).iter();
        let bearer = shown.next().filter(|_| shown.next().is_none());
        let bearer = bearer.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        // Who shows none waits as long as who shows a wrong one.
        self.lock
            .opens(token.expose().as_bytes(), bearer.unwrap_or_default())
    }

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

/// Compares tokens in a time that tells nothing of where they differ, or of how long they are.
pub struct Lock(hmac::Key);

impl Lock {
    /// `None`: the system gives no random numbers.
    pub fn try_new() -> Option<Self> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        key.ok().map(Self)
    }

    fn opens(&self, token: &[u8], shown: &[u8]) -> bool {
        let tag = hmac::sign(&self.0, token);
        hmac::verify(&self.0, shown, tag.as_ref()).is_ok()
    }
}

fn refusal() -> Response<Vec<u8>> {
    let told = b"the operator's token is needed: Authorization: Bearer TOKEN\n".to_vec();
    let mut refusal = answer(StatusCode::UNAUTHORIZED, TEXT, told);
    let scheme = HeaderValue::from_static("Bearer");
    refusal
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, scheme);
    refusal
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

/// What is remembered of the targets of configs and routes.
fn targets(health: &Health) -> Vec<u8> {
    let views = health.views(Instant::now());
    // Texts and numbers alone: serialising them cannot fail.
    serde_json::to_vec(&views).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_alone_opens() {
        let lock = Lock::try_new().unwrap();
        let opens = |shown: &str| lock.opens(b"9f86d081884c7d65", shown.as_bytes());
        assert!(opens("9f86d081884c7d65"));
        for wrong in [
            "",
            "9",
            "9f86d081884c7d64",
            "9f86d081884c7d655",
            "9F86D081884C7D65",
        ] {
            assert!(!opens(wrong), "{wrong}");
        }
    }
}
