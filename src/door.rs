//! The first look at a client's connection: TLS or not, HTTP/1 or HTTP/2?
//!
//! A connection shows by its port which listener it came to. The handshake is made here and not by Pingora's listener, which
//! waits a minute for it and writes a line at `error` for every port scan.
//!
//! Pingora's own look waits for as many bytes as HTTP/2's preface has, for ever. An HTTP/1.0 health check is shorter than
//! that and would hang, and so would a connection that never says a word.

use std::{convert::Infallible, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora::{
    apps::{HttpServerApp, HttpServerOptions, ServerApp},
    listeners::tls::Acceptor,
    protocols::{
        ALPN, Stream,
        http::{ServerSession, v2::server::default_h2_options},
        l4,
    },
    proxy::{HttpProxy, http_proxy},
    server::{ShutdownWatch, configuration::ServerConf},
    services::background::BackgroundService,
};

use rustls::ServerConfig;
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    downstream::KEEPALIVE_SECONDS,
    drain::Leaving,
    edition::Edition,
    error::Error,
    h2_intake::H2Intake,
    intake::Intake,
    metrics::Counted,
    proxy::{Gateway, Heads},
    refusal,
    tls::{Renewal, Tls},
};

/// The gateway, once for each protocol.
pub struct Door {
    http1: Arc<HttpProxy<Gateway>>,
    http2: Arc<HttpProxy<Gateway>>,
    leaving: Arc<Leaving>,
    edition: Arc<ArcSwap<Edition>>,
}

impl Door {
    pub fn new(mut gateway: Gateway, conf: &Arc<ServerConf>) -> Self {
        gateway.heads = Heads::Checked;
        let leaving = gateway.edition.load().upstream.leaving().clone();
        let edition = gateway.edition.clone();
        let http1 = http_proxy(conf, gateway.clone());
        let mut http2 = http_proxy(conf, gateway);
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        options.h2_idle_timeout = Some(H2_IDLE);
        http2.server_options = Some(options);
        let mut h2 = default_h2_options();
        h2.initial_window_size(H2_WINDOW);
        h2.initial_connection_window_size(H2_WINDOW.saturating_mul(2));
        http2.h2_options = Some(h2);
        Self {
            http1: Arc::new(http1),
            http2: Arc::new(http2),
            leaving,
            edition,
        }
    }

    /// Serves a connection to its end.
    async fn serve(&self, stream: Stream, shutdown: &ShutdownWatch) {
        let _open = Counted::new(&self.edition.load().state.metrics.connections);
        match self.enter(stream).await {
            None => {}
            Some((stream, Speaks::Http1(since))) => {
                self.serve_http1(stream, since, shutdown).await;
            }
            Some((stream, Speaks::Http2)) => {
                // Its answers are written by the connection's own task, after their requests have ended.
                let _guest = self.leaving.guest();
                let patience = self.edition.load().state.config.limits.header;
                let intake = Box::new(H2Intake::new(stream, patience));
                self.http2.process_new(intake, shutdown).await;
            }
        }
    }

    /// The connection as its requests are read from it, and how they are; `None`: it has ended.
    async fn enter(&self, mut stream: Stream) -> Option<(Stream, Speaks)> {
        if let Some((tls, port)) = self.tls(&stream) {
            let acceptor = Acceptor::from_server_config(tls);
            let secure = Box::pin(handshake(acceptor, stream, port)).await?;
            return Some(match secure.selected_alpn_proto() {
                Some(ALPN::H2) => (secure, Speaks::Http2),
                _ => (secure, Speaks::Http1(None)),
            });
        }
        let mut first = [0; 1];
        let begun = timeout(PATIENCE, stream.try_peek(&mut first));
        begun.await.ok()?.ok()?;
        let since = Instant::now();
        let patience = self.edition.load().state.config.limits.header;
        let looked = timeout_at(since + patience, first_look(&mut stream));
        match looked.await.unwrap_or(Ok(First::Http1)).ok()? {
            First::Http1 => Some((stream, Speaks::Http1(Some(since)))),
            First::Http2 => Some((stream, Speaks::Http2)),
            First::Tls => {
                log::debug!("a connection speaks TLS, and came to a port that does not");
                None
            }
        }
    }

    /// Serves the requests of a connection one after the other, each once its head is checked. `since`: when the first byte
    /// came, if it has. There is nothing to return in the end.
    async fn serve_http1(
        &self,
        stream: Stream,
        mut since: Option<Instant>,
        shutdown: &ShutdownWatch,
    ) -> Option<Infallible> {
        let mut intake = Box::new(Intake::new(stream));
        let mut idle = PATIENCE;
        loop {
            let limits = self.edition.load().state.config.limits;
            let request = match intake.next(&limits, since.take(), idle).await {
                Ok(request) => request?,
                Err(error) => {
                    self.turn_away(&mut intake, &error).await;
                    return None;
                }
            };
            let mut session = ServerSession::new_http1(intake);
            session.set_pipelined_prefix(request);
            let reused = self.http1.process_new_http(session, shutdown).await?;
            let (stream, _) = reused.consume();
            intake = stream.into_any().downcast::<Intake>().ok()?;
            if !intake.is_over() {
                return None;
            }
            idle = Duration::from_secs(KEEPALIVE_SECONDS);
        }
    }

    /// Refuses a request that nobody gets to see.
    async fn turn_away(&self, intake: &mut Intake, error: &Error) {
        let edition = self.edition.load_full();
        edition.state.metrics.count(&refusal::ended(error));
        log::debug!("a request was refused for its head: {error}");
        if let Ok(answer) = refusal::answer(error) {
            intake.refuse(&answer).await;
        }
    }

    /// What the listener that a connection came to does for TLS, and its port.
    fn tls(&self, stream: &Stream) -> Option<(Arc<ServerConfig>, u16)> {
        let edition = self.edition.load();
        let by_port = &edition.state.config.tls;
        if by_port.is_empty() {
            return None;
        }
        let port = local_port(stream)?;
        Some((by_port.get(&port)?.server.clone(), port))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaks {
    /// With the time of its first byte, if that has come.
    Http1(Option<Instant>),
    Http2,
}

fn local_port(stream: &Stream) -> Option<u16> {
    let digest = stream.get_socket_digest()?;
    digest.local_addr()?.as_inet().map(|address| address.port())
}

async fn handshake(acceptor: Acceptor, stream: Stream, port: u16) -> Option<Stream> {
    let stream = stream.into_any().downcast::<l4::stream::Stream>().ok()?;
    let made = tokio::time::timeout(HANDSHAKE, acceptor.tls_handshake(*stream));
    let why = match made.await {
        Ok(Ok(stream)) => return Some(Box::new(stream)),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it took too long".to_owned(),
    };
    log::debug!("no TLS handshake on port {port}: {why}");
    None
}

#[async_trait]
impl ServerApp for Door {
    /// Hands the connection to a task of its own. Pingora's has room for a TLS handshake of Pingora's, 8 KiB that would be held
    /// for as long as the connection is open.
    async fn process_new(
        self: &Arc<Self>,
        stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        let (door, shutdown) = (self.clone(), shutdown.clone());
        tokio::spawn(async move {
            // In a turn of its own. As the third in a row of tasks that wake each other it would have the next one, a pooled
            // connection's, moved to another thread, where Pingora fails to take the connection over.
            tokio::task::yield_now().await;
            door.serve(stream, &shutdown).await;
        });
        None
    }

    /// Pingora would shut idle connections here, and with them those whose client is sending its next request. They end
    /// with that one's answer, or with the process.
    async fn cleanup(&self) {}
}

/// Looks after the certificates of the listeners: what replaces their files is used without a restart.
pub struct Watch {
    pub edition: Arc<ArcSwap<Edition>>,
}

#[async_trait]
impl BackgroundService for Watch {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        loop {
            tokio::select! {
                _ = shutdown.changed() => return,
                () = tokio::time::sleep(RENEWAL) => {}
            }
            for tls in self.edition.load_full().state.config.tls.values() {
                renew(tls);
            }
        }
    }
}

/// Takes what stands in the certificates' files, and tells of it if it is new.
pub fn renew(tls: &Tls) {
    for renewal in tls.certificates.renew() {
        match renewal {
            Renewal::Renewed(file) => log::info!("the certificate in `{file}` is in use now"),
            Renewal::Refused(file, why) => {
                log::warn!(
                    "the new certificate in `{file}` is not used, the one before it is: {why}"
                );
            }
        }
    }
}

enum First {
    Http1,
    Http2,
    Tls,
}

/// "PRI" is a method of HTTP/2's preface alone, and every HTTP/1 request is longer than it. Only behind it is the whole
/// preface waited for. No request begins as a TLS record does.
async fn first_look(stream: &mut Stream) -> std::io::Result<First> {
    let mut first = [0; 3];
    if !stream.try_peek(&mut first).await? {
        return Ok(First::Http1);
    }
    if first[..2] == HANDSHAKE_RECORD {
        return Ok(First::Tls);
    }
    if first != PREFACE[..3] {
        return Ok(First::Http1);
    }
    let mut preface = [0; PREFACE.len()];
    match stream.try_peek(&mut preface).await? && preface == *PREFACE {
        true => Ok(First::Http2),
        false => Ok(First::Http1),
    }
}

/// RFC 9113, section 3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// RFC 8446, section 5.1: the content type, and the first byte of every version.
const HANDSHAKE_RECORD: [u8; 2] = [22, 3];
/// How long a TLS handshake may take, the client's first byte included.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How often the certificates' files are looked at.
const RENEWAL: Duration = Duration::from_secs(3);
/// How long a new connection may take to say its first word.
const PATIENCE: Duration = Duration::from_secs(60);
/// Clients of HTTP/2 leave connections open for minutes; dead ones must not stay for ever.
const H2_IDLE: Duration = Duration::from_secs(300);
/// Prompts of megabytes would wait for a round trip every 64 KiB with h2's own default.
const H2_WINDOW: u32 = 1 << 20;
