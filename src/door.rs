//! The first look at a client's connection: HTTP/1 or HTTP/2?
//!
//! Pingora's own look waits for as many bytes as HTTP/2's preface has, for ever. An HTTP/1.0 health check is shorter than
//! that and would hang, and so would a connection that never says a word.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use pingora::{
    apps::{HttpServerOptions, ServerApp},
    protocols::{Stream, http::v2::server::default_h2_options},
    proxy::{HttpProxy, http_proxy},
    server::{ShutdownWatch, configuration::ServerConf},
};

use crate::{drain::Leaving, proxy::Gateway};

/// The gateway, once for each protocol.
pub struct Door {
    http1: Arc<HttpProxy<Gateway>>,
    http2: Arc<HttpProxy<Gateway>>,
    leaving: Arc<Leaving>,
}

impl Door {
    pub fn new(gateway: Gateway, conf: &Arc<ServerConf>) -> Self {
        let leaving = gateway.edition.load().upstream.leaving().clone();
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
        }
    }
}

#[async_trait]
impl ServerApp for Door {
    async fn process_new(
        self: &Arc<Self>,
        mut stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        let speaks_http2 = tokio::time::timeout(PATIENCE, starts_with_preface(&mut stream));
        if !speaks_http2.await.ok()?.ok()? {
            return self.http1.process_new(stream, shutdown).await;
        }
        // Its answers are written by the connection's own task, after their requests have ended.
        let _guest = self.leaving.guest();
        self.http2.process_new(stream, shutdown).await
    }

    /// Pingora would shut idle connections here, and with them those whose client is sending its next request. They end
    /// with that one's answer, or with the process.
    async fn cleanup(&self) {}
}

/// "PRI" is a method of HTTP/2's preface alone, and every HTTP/1 request is longer than it. Only behind it is the whole
/// preface waited for.
async fn starts_with_preface(stream: &mut Stream) -> std::io::Result<bool> {
    let mut first = [0; 3];
    if !stream.try_peek(&mut first).await? || first != PREFACE[..3] {
        return Ok(false);
    }
    let mut preface = [0; PREFACE.len()];
    Ok(stream.try_peek(&mut preface).await? && preface == *PREFACE)
}

/// RFC 9113, section 3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a new connection may take to say which protocol it speaks.
const PATIENCE: Duration = Duration::from_secs(60);
/// Clients of HTTP/2 leave connections open for minutes; dead ones must not stay for ever.
const H2_IDLE: Duration = Duration::from_secs(300);
/// Prompts of megabytes would wait for a round trip every 64 KiB with h2's own default.
const H2_WINDOW: u32 = 1 << 20;
