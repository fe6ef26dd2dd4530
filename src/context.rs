//! What one request carries from phase to phase, and what is said of it when it is over.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use pingora::{ErrorType, http::ResponseHeader, proxy::Session};

use crate::{
    completion::Parameter,
    downstream::{self, is_answered},
    edition::Edition,
    error::{CLIENT_GONE, Error, Kind},
    exchange::{Exchange, ReplyForm, Report, fan_out::FanOut},
    metrics::{Counted, Ended},
    passage::Passage,
    provider::Target,
    quoted::Line,
    ticket::{Ticket, Tries},
    upstream::{broke_off, total_timeout},
};

/// The state of one request; Pingora carries it from phase to phase.
pub struct Context {
    pub(crate) ticket: Ticket,
    pub(crate) call: Call,
    /// What went wrong, as the client is told.
    pub(crate) failure: Option<Error>,
    /// The upstream's head, kept where an error takes its place.
    pub(crate) refused: Option<Box<ResponseHeader>>,
    /// The client's head, until there is something to send behind it.
    pub(crate) held: Option<Box<ResponseHeader>>,
    /// Bytes that a stream still gets although its call was stopped.
    pub(crate) last_words: Option<Bytes>,
    pub(crate) handed: Handed,
    /// Heads of the upstream's answer, interim ones among them.
    pub(crate) heads: u32,
    /// The call is on its second and last connection.
    pub(crate) repeated: bool,
    /// The time that a whole completion has.
    pub(crate) total: Duration,
    /// The conf it met.
    pub(crate) edition: Arc<Edition>,
    _in_flight: Counted,
}

/// What is done for a request.
pub enum Call {
    /// Answered or refused here.
    Own,
    Pass(Box<Passage>),
    Complete(Box<Exchange>),
    /// Answered by several calls.
    Many(Box<FanOut>),
}

impl Call {
    pub fn target(&self) -> Option<&Target> {
        match self {
            Self::Own => None,
            Self::Pass(passage) => Some(&passage.target),
            Self::Complete(exchange) => Some(exchange.target()),
            Self::Many(fan_out) => Some(fan_out.target()),
        }
    }

    pub fn is_for_app(&self) -> bool {
        matches!(self, Self::Pass(passage) if passage.app.is_some())
    }

    /// What a completion came to.
    fn report(&self) -> Option<Report<'_>> {
        match self {
            Self::Own | Self::Pass(_) => None,
            Self::Complete(exchange) => Some(exchange.report()),
            Self::Many(fan_out) => Some(fan_out.report()),
        }
    }
}

/// What of a client's stream Pingora was given to write and may not have written: it filters all that it has read at once
/// before it writes any of it.
#[derive(Debug, Default)]
pub(crate) struct Handed {
    /// Bytes before the first of `pieces`.
    before: usize,
    pieces: VecDeque<Bytes>,
}

impl Handed {
    /// Takes note of a piece. `written`: bytes of the body that the client has been sent.
    pub(crate) fn note(&mut self, written: usize, piece: Option<&Bytes>) {
        while let Some(first) = self.pieces.pop_front() {
            let end = self.before.saturating_add(first.len());
            if end > written {
                self.pieces.push_front(first);
                break;
            }
            self.before = end;
        }
        self.pieces.extend(piece.cloned());
    }

    /// All that is not written, and `last` behind it.
    pub(crate) fn rest(&mut self, written: usize, last: Bytes) -> Bytes {
        self.note(written, Some(&last));
        let pieces = std::mem::take(&mut self.pieces);
        match pieces.len() {
            1 => last,
            _ => pieces.into_iter().flatten().collect(),
        }
    }
}

impl Context {
    pub(crate) fn new(draw: u128, edition: Arc<Edition>) -> Self {
        Self {
            ticket: Ticket::new(draw),
            call: Call::Own,
            failure: None,
            refused: None,
            held: None,
            last_words: None,
            handed: Handed::default(),
            heads: 0,
            repeated: false,
            total: edition.upstream.timeouts().total,
            _in_flight: Counted::new(&edition.state.metrics.in_flight),
            edition,
        }
    }

    /// Keeps `error` for `fail_to_proxy`, and makes Pingora go there.
    pub(crate) fn stop(&mut self, error: Error) -> Box<pingora::Error> {
        self.failure = Some(error);
        pingora::Error::explain(ErrorType::Custom("Stopped"), "by the gateway")
    }

    /// The present try failed, and another follows: what it left does not count.
    pub(crate) fn note_failed(&mut self, error: &Error) {
        self.ticket.passed(Some(error));
        self.call = Call::Own;
    }

    /// From here on the deadline of a whole completion runs.
    pub(crate) fn begin_call(&mut self, total: Duration) {
        self.ticket.called = Some(Instant::now());
        self.total = total;
    }

    /// What is left of `total` for a completion; `None`: nothing limits it.
    pub(crate) fn left(&self) -> Option<Duration> {
        Some(self.total.saturating_sub(self.ticket.called?.elapsed()))
    }

    /// Why a call that still goes on has to end, if it has.
    pub(crate) fn overdue(&self) -> Option<Error> {
        if let Err(stopping) = self.edition.upstream.leaving().check() {
            return Some(stopping);
        }
        let left = self.left()?;
        left.is_zero().then(total_timeout)
    }

    /// What a failure of the phases is told as: `error`, unless it was the end of the whole call's time that made it, or
    /// broke off an error of the provider's own.
    pub(crate) fn failed(&mut self, session: &Session, error: Error) -> Error {
        let over = self.left().is_some_and(|left| left.is_zero());
        if over && matches!(error.kind(), Kind::Timeout(_)) {
            return total_timeout();
        }
        match &mut self.call {
            Call::Complete(exchange) if !is_answered(session) => broke_off(exchange, error),
            Call::Complete(_) | Call::Many(_) | Call::Own | Call::Pass(_) => error,
        }
    }

    /// Answers with the failure. `Err`: the client's answer has begun and cannot be ended well, so that its connection has
    /// to close.
    pub(crate) async fn refuse(
        &mut self,
        session: &mut Session,
        error: Error,
    ) -> pingora::Result<()> {
        let cut = matches!(error.kind(), Kind::ClientGone | Kind::Internal) && is_answered(session);
        if cut {
            return Err(self.stop(error));
        }
        let upstream = self.refused.as_deref().or(self.held.as_deref());
        downstream::refuse(session, &mut self.ticket, &error, upstream).await;
        self.failure = Some(error);
        Ok(())
    }

    /// What a client whose head is out gets for `error`; `None`: its answer cannot end well.
    pub(crate) fn last_words(&mut self, error: &Error) -> Option<Bytes> {
        if self.last_words.is_some() {
            return self.last_words.take();
        }
        match &mut self.call {
            Call::Complete(exchange) => exchange.relay_mut()?.fail(error.clone()),
            Call::Own | Call::Pass(_) | Call::Many(_) => None,
        }
    }

    /// Counts the request and writes its line.
    pub(crate) fn log(&self, session: &Session) {
        let answer = session.response_written();
        // The one that the client has, which can be the provider's own.
        let request_id = answer.and_then(|head| head.headers.get("x-request-id"));
        let request_id = request_id.unwrap_or(&self.ticket.request_id);
        let entry = Entry {
            context: self,
            status: answer.map_or(CLIENT_GONE, |head| head.status.as_u16()),
            request_id: request_id.to_str().unwrap_or_default(),
            bytes: session.body_bytes_sent(),
            head: downstream::head(session),
        };
        let ended = entry.ended();
        self.edition.state.metrics.count(&ended);
        if log::log_enabled!(target: "access", log::Level::Info) {
            log::info!(target: "access", "{}", entry.line(&ended).as_str());
        }
    }
}

/// One line of the access log: `key=value`, no query, no header, no body.
struct Entry<'a> {
    context: &'a Context,
    status: u16,
    request_id: &'a str,
    bytes: usize,
    head: crate::gateway::Head<'a>,
}

impl Entry<'_> {
    fn kind(&self) -> &'static str {
        let reply = self.context.call.report().map(|report| report.reply);
        match (&self.context.call, reply) {
            (_, Some(ReplyForm::Whole)) => "whole",
            (_, Some(ReplyForm::Stream)) => "stream",
            (Call::Pass(_), None) => "pass",
            (Call::Own | Call::Complete(_) | Call::Many(_), None) => "own",
        }
    }

    fn failure(&self) -> Option<&Error> {
        let told = self.context.call.report().and_then(|report| report.failure);
        self.context.failure.as_ref().or(told)
    }

    fn provider(&self) -> &str {
        let target = self.context.call.target();
        target.map_or("none", |target| &target.provider.name)
    }

    fn client(&self) -> Option<(&str, &str)> {
        let key = self.context.ticket.client.as_deref()?;
        Some((&key.name, key.tenant.as_deref().unwrap_or_default()))
    }

    fn ended(&self) -> Ended<'_> {
        let report = self.context.call.report();
        Ended {
            provider: self.provider(),
            client: self.client(),
            kind: self.kind(),
            status: self.status,
            failure: self.failure().map(Error::label),
            usage: report.and_then(|report| report.usage),
            unknown: report.map_or(0, |report| report.unknown),
            total: self.context.ticket.started.elapsed(),
            first_byte: self.context.ticket.first_byte,
        }
    }
}

impl Entry<'_> {
    fn line(&self, ended: &Ended<'_>) -> Line {
        let ticket = &self.context.ticket;
        let mut line = Line::new();
        line.number("status", ended.status);
        line.quoted("method", self.head.method.as_str());
        line.quoted("path", self.head.path);
        line.word("provider", ended.provider);
        line.word("kind", ended.kind);
        line.number("ms", whole_millis(ended.total));
        line.number("bytes", self.bytes);
        line.quoted("trace_id", ticket.trace_id.to_str().unwrap_or_default());
        line.quoted("request_id", self.request_id);
        if let Some((key, tenant)) = ended.client {
            line.word("key", key);
            if !tenant.is_empty() {
                line.word("tenant", tenant);
            }
        }
        if let Some(first_byte) = ended.first_byte {
            line.number("first_byte_ms", whole_millis(first_byte));
        }
        if let Some(report) = self.context.call.report() {
            line.quoted("model", report.model);
            if report.calls > 1 {
                line.number("calls", report.calls);
            }
        }
        if !ticket.tried.is_empty() {
            line.number("attempts", ticket.tried.len() + 1);
            line.shown("tried", format_args!("\"{}\"", Tries(&ticket.tried)));
        }
        if let Some(usage) = ended.usage {
            line.number("prompt_tokens", usage.prompt_tokens);
            line.number("completion_tokens", usage.completion_tokens);
        }
        if let Some(error) = self.failure() {
            let param = error.param().filter(|name| is_known(name));
            line.word("failure", error.label());
            line.shown("param", format_args!("{:?}", param.unwrap_or_default()));
        }
        line
    }
}

fn whole_millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Whether an error's `param` may stand in a log. The name of a field that nobody knows is the client's own text.
fn is_known(name: &str) -> bool {
    let of_body = Parameter::ALL
        .iter()
        .any(|parameter| parameter.field() == name);
    of_body || name == "model" || name == "content-type" || name.starts_with("x-portkey-")
}
