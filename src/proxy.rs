//! The gateway as a Pingora filter: each phase moves the bytes of one [`Exchange`] or [`Passage`] and decides nothing.
//!
//! | phase | here |
//! |---|---|
//! | `request_filter` | admits the head, reads the body, makes the exchange; what the phases cannot carry goes to the conductor |
//! | `upstream_peer`, `upstream_request_filter`, `request_body_filter` | the exchange's target, head and body |
//! | `upstream_response_filter`, `response_filter` | the exchange reads the upstream's head; the client gets ours |
//! | `response_body_filter` | the relay |
//! | `error_while_proxy`, `fail_to_proxy` | an OpenAI-shaped error, inside the stream if it is open |
//! | `logging` | one line, the metrics |

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::StatusCode;
use pingora::{
    ErrorType,
    http::{RequestHeader, ResponseHeader},
    modules::http::HttpModules,
    proxy::{FailToProxy, ProxyHttp, Session},
    server::configuration::ServerConf,
    upstreams::peer::HttpPeer,
};

use crate::{
    config::Config,
    context::{Call, Context},
    downstream::{self, is_answered, unless_gone},
    edition::Edition,
    error::{Error, Kind},
    exchange::UpstreamHead,
    gateway::asked,
    mishap::contain,
    passing,
    reception::{Next, Roads},
    relaying,
    tokens::Tokens,
    upstream::{
        MAX_INTERIM, failure, interim_flood, is_interim, is_unanswered, limit, make_fresh,
        request_head, sign_passage,
    },
};

/// `POST /v1/completions` for every provider, as a Pingora filter.
///
/// Run it as a service of its own with [`pingora::proxy::http_proxy_service`], or inside another filter with
/// [`Gateway::serve`]. Clones share their state.
#[derive(Clone)]
pub struct Gateway {
    pub(crate) edition: Arc<ArcSwap<Edition>>,
    pub(crate) tokens: Tokens,
    pub(crate) heads: Heads,
}

/// Whether the heads of HTTP/1 requests were checked before they came here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heads {
    Checked,
    Unchecked,
}

impl Gateway {
    /// A gateway under `config`; `conf` sizes the connection pool of its own calls.
    pub fn new(config: Config, conf: &ServerConf) -> Result<Self, Error> {
        let edition = Edition::first(config, conf)?;
        Ok(Self {
            tokens: Tokens::try_new(edition.upstream.clone())?,
            edition: Arc::new(ArcSwap::from_pointee(edition)),
            heads: Heads::Unchecked,
        })
    }

    /// Serves the session's request from its head to its answer's last byte if it is one for `POST /v1/completions` or
    /// `POST /v1/fim/completions`.
    /// For a `request_filter` of another proxy:
    ///
    /// ```ignore
    /// if self.gateway.serve(session).await? { return Ok(true) }
    /// ```
    ///
    /// `false`: not ours, nothing was read or written. `Err`: the client's answer is cut, and its connection must close.
    pub async fn serve(&self, session: &mut Session) -> pingora::Result<bool> {
        let head = downstream::head(session);
        if asked(head.method, head.path).is_none() {
            return Ok(false);
        }
        let mut context = self.new_ctx();
        let received = contain(self.receive(session, &mut context, Roads::Inside)).await;
        let served = match received {
            Ok(_) => Ok(true),
            Err(error) => context.refuse(session, error).await.map(|()| true),
        };
        context.log(session);
        served
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    /// Boxed: each of Pingora's futures for a request has room for it, some twice.
    type CTX = Box<Context>;

    fn new_ctx(&self) -> Box<Context> {
        let draw = fastrand::u128(..);
        Box::new(Context::new(draw, self.edition.load_full()))
    }

    /// No modules: the default one would hold a stream's events back to compress them.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn request_filter(
        &self,
        session: &mut Session,
        context: &mut Box<Context>,
    ) -> pingora::Result<bool> {
        match contain(self.receive(session, context, Roads::All)).await {
            Ok(Next::Proxy) => Ok(false),
            Ok(Next::Answered) => Ok(true),
            Err(error) => context.refuse(session, error).await.map(|()| true),
        }
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        context: &mut Box<Context>,
    ) -> pingora::Result<Box<HttpPeer>> {
        let Some(target) = context.call.target() else {
            return pingora::Error::e_explain(ErrorType::InternalError, "nothing to call");
        };
        let upstream = &context.edition.upstream;
        let peer = upstream.peer(&target.base);
        let peer = match &context.call {
            Call::Complete(_) => unless_gone(session, Box::pin(peer))
                .await
                .and_then(|resolved| resolved),
            // Its body has not been read: the first byte of it would be taken for a client that leaves.
            Call::Pass(_) | Call::Many(_) | Call::Own => peer.await,
        };
        let mut peer = peer.map_err(|error| context.stop(error))?;
        if let Call::Pass(passage) = &context.call {
            passing::suit(&mut peer, passage);
        }
        if context.repeated {
            make_fresh(&mut peer);
        }
        if let Some(left) = context.left() {
            limit(&mut peer, left);
        }
        Ok(peer)
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        context: &mut Box<Context>,
    ) -> pingora::Result<()> {
        match &context.call {
            Call::Complete(exchange) => {
                *request = *request_head(exchange).map_err(|error| context.stop(error))?;
                Ok(())
            }
            Call::Pass(passage) => {
                passing::write_head(session, request, passage)?;
                sign_passage(request, passage).map_err(|error| context.stop(error))
            }
            Call::Many(_) | Call::Own => Ok(()),
        }
    }

    /// The body the exchange wrote, or a signature covers, takes the place of what the client sent, in one piece.
    async fn request_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        context: &mut Box<Context>,
    ) -> pingora::Result<()> {
        match &context.call {
            Call::Complete(exchange) => *body = end_of_stream.then(|| exchange.body().clone()),
            Call::Pass(passage) => passing::write_body(passage, body, end_of_stream),
            Call::Many(_) | Call::Own => {}
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        _: &mut Session,
        head: &mut ResponseHeader,
        context: &mut Box<Context>,
    ) -> pingora::Result<()> {
        context.heads = context.heads.saturating_add(1);
        if is_interim(head.status) {
            return match context.heads {
                ..=MAX_INTERIM => Ok(()),
                _ => Err(context.stop(interim_flood())),
            };
        }
        if let Call::Pass(passage) = &context.call {
            let answered = passing::answered(passage, head);
            return answered.map_err(|error| context.stop(error));
        }
        let Call::Complete(exchange) = &mut context.call else {
            return Ok(());
        };
        let answer = UpstreamHead {
            status: head.status,
            headers: &head.headers,
        };
        let answered = exchange.answer(answer).map(drop);
        if answered.is_err() || !head.status.is_success() {
            context.refused = Some(Box::new(head.clone()));
        }
        answered.map_err(|error| context.stop(error))
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        context: &mut Box<Context>,
    ) -> pingora::Result<()> {
        if let Call::Pass(passage) = &context.call {
            passing::clean(passage, head);
        }
        if head.status.is_informational() {
            return Ok(());
        }
        let Call::Complete(exchange) = &context.call else {
            downstream::fit_version(session, head);
            // An app's answer is its own, as it is.
            return match context.call.is_for_app() {
                true => Ok(()),
                false => context.ticket.stamp_passed(head),
            };
        };
        let mut own = downstream::client_head(session, head, exchange);
        context.ticket.stamp(&mut own.headers);
        *head = own.into();
        // Its status is not known before its first events are, or its error. Of an interim head nothing is written.
        let interim = ResponseHeader::build(StatusCode::EARLY_HINTS, None)?;
        context.held = Some(Box::new(std::mem::replace(head, interim)));
        Ok(())
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        context: &mut Box<Context>,
    ) -> pingora::Result<Option<Duration>> {
        if body.is_some() {
            context.ticket.mark_first_byte();
        }
        if let Some(error) = context.overdue().filter(|_| !end_of_stream) {
            return Err(context.stop(error));
        }
        relaying::relay(session, body, end_of_stream, context)
            .map(|()| None)
            .map_err(|error| context.stop(error))
    }

    /// Replaces Pingora's policy, which never retries a POST. One case is safe, once: a pooled connection that its server had
    /// closed before the request could reach it, with nothing of an answer seen.
    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut error: Box<pingora::Error>,
        context: &mut Box<Context>,
        reused: bool,
    ) -> Box<pingora::Error> {
        let again = reused
            && !context.repeated
            && context.heads == 0
            && context.failure.is_none()
            && !session.as_ref().retry_buffer_truncated()
            && is_unanswered(&error);
        error.set_retry(again);
        context.repeated |= again;
        error
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        context: &mut Box<Context>,
        mut error: Box<pingora::Error>,
    ) -> Box<pingora::Error> {
        if let Some(target) = context.call.target() {
            context.edition.upstream.avoid(&target.base);
        }
        error.set_retry(false);
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        cause: &pingora::Error,
        context: &mut Box<Context>,
    ) -> FailToProxy {
        let error = match context.failure.take() {
            Some(told) => told,
            None => context.failed(session, failure(cause)),
        };
        let code = error.status().as_u16();
        if is_answered(session) {
            let last = context.last_words(&error);
            if let Some(last) = last.filter(|_| error.kind() != Kind::ClientGone) {
                // A client that cannot take its last bytes has left.
                let client = session.as_downstream_mut();
                let _ = client.write_response_body(last, true).await;
            }
            context.failure = Some(error);
        } else {
            // What cannot be told ends here all the same: the connection is not used again, and the client hears of that.
            session.set_keepalive(None);
            let _ = context.refuse(session, error).await;
        }
        FailToProxy {
            error_code: code,
            can_reuse_downstream: false,
        }
    }

    async fn logging(
        &self,
        session: &mut Session,
        _: Option<&pingora::Error>,
        context: &mut Box<Context>,
    ) {
        context.log(session);
    }

    /// The access line tells it, without the peer's address.
    fn suppress_error_log(&self, _: &Session, _: &Box<Context>, _: &pingora::Error) -> bool {
        true
    }

    /// Pingora's own would hold the query, in which some clients send keys.
    fn request_summary(&self, session: &Session, _: &Box<Context>) -> String {
        let head = downstream::head(session);
        format!("{} {}", head.method, head.path)
    }
}
