//! One request's life, from an admitted request to the last byte of its answer. No IO: a carrier moves the bytes.
//!
//! ```text
//!  CompletionRequest ─▶ Ready ──head()/body()──▶ upstream
//!                         │
//!                         │ answer(upstream head)
//!                         ▼
//!                      Relaying ──relay_mut().push()/finish()──▶ client
//!                         │
//!                         ▼
//!                      report()
//! ```

mod alike;
pub mod edits;
mod events;
pub mod fan_out;
#[cfg(test)]
pub mod faulty;
#[cfg(test)]
mod fixtures;
pub mod follow;
mod output;
pub mod relay;
pub mod reply;
mod report;
pub mod split;
mod terms;
#[cfg(test)]
mod vendor_errors;
mod wishes;
mod work;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::{
    completion::{CompletionRequest, Partial, Tail, drawn_id, logprobs::Running},
    dialect::UpstreamRequest,
    error::Error,
    exchange::{
        edits::Plan,
        relay::{Answer, Counts, Relay, Wishes},
        split::Share,
    },
    provider::{Target, sigv4::Unsigned},
    wire::Framing,
};

pub use {
    report::Report,
    terms::{Deadlines, Seed, Terms},
    work::Work,
};

/// One request to `/v1/completions` and its answer.
#[derive(Debug)]
pub struct Exchange {
    target: Arc<Target>,
    request: UpstreamRequest,
    method: Method,
    forwarded: HeaderMap,
    reply: ReplyForm,
    deadlines: Deadlines,
    wishes: Wishes,
    /// What the gateway does to the answer's choices.
    plan: Plan,
    seed: Partial,
    relay: Option<Relay>,
}

/// What the client wants its answer to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyForm {
    Whole,
    Stream,
}

impl ReplyForm {
    fn asked(request: &CompletionRequest) -> Self {
        if request.stream {
            Self::Stream
        } else {
            Self::Whole
        }
    }
}

/// Whether Pingora's phases can send the request body again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    Held,
    /// Not kept in the framework's 64 KiB buffer, or read past it: only the conductor still has the bytes.
    Lost,
}

/// Which carrier takes an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Road {
    /// Pingora's own phases.
    Phases,
    Conductor,
}

/// What an upstream's response head says that matters here.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamHead<'a> {
    pub status: StatusCode,
    pub headers: &'a HeaderMap,
}

impl Exchange {
    /// The exchange of a request that takes one call.
    pub fn try_new(
        share: Share,
        target: Arc<Target>,
        terms: &Terms,
        seed: Seed,
    ) -> Result<Self, Error> {
        let request = target.provider.dialect.write_request(&share.request)?;
        let seed = seeded(&share.request, seed);
        Ok(Self::part(share, request, target, terms, seed))
    }

    /// One call's exchange.
    fn part(
        share: Share,
        request: UpstreamRequest,
        target: Arc<Target>,
        terms: &Terms,
        seed: Partial,
    ) -> Self {
        Self {
            target,
            request,
            method: Method::POST,
            forwarded: terms.forwarded.clone(),
            reply: ReplyForm::asked(&share.request),
            deadlines: terms.deadlines,
            wishes: Wishes {
                compliance: terms.compliance,
                counts: Counts::asked(&share.request),
                choices: share.plan.choices,
                max_event_bytes: terms.max_event_bytes,
            },
            plan: share.plan,
            seed,
            relay: None,
        }
    }

    /// Changes the target: before a head is written.
    pub fn change_target(&mut self, change: impl FnOnce(&mut Target)) {
        change(Arc::make_mut(&mut self.target));
    }

    /// The carrier that can do what this exchange needs. The conductor can do all of it; Pingora's phases carry streams, unless
    /// * a heartbeat or a deadline is set: they look at the clock only when the upstream says something, or is silent for
    ///   `timeouts.read`,
    /// * the request body is past what they can send again, or their one deadline for all of it would end an upload that moves,
    /// * its texts may be ended here, which has to end the upstream's call too, or the answer is the second of two calls.
    ///
    /// A whole reply is the conductor's: its status line cannot be known before its last byte, since a 200 that turns out
    /// to hold an error or half an object has to reach the client as that error.
    ///
    /// Streams have a heartbeat unless the conf takes it away, so that most are the conductor's, whose calls cost less too.
    pub fn road(&self, replay: Replay) -> Road {
        let is_plain = replay == Replay::Held
            && self.request.body.len() <= MAX_PHASES_BYTES
            && self.deadlines == Deadlines::default()
            && self.plan.is_empty()
            && !self.follows();
        match self.reply {
            ReplyForm::Stream if is_plain => Road::Phases,
            ReplyForm::Stream | ReplyForm::Whole => Road::Conductor,
        }
    }

    pub fn target(&self) -> &Arc<Target> {
        &self.target
    }

    pub fn deadlines(&self) -> &Deadlines {
        &self.deadlines
    }

    pub fn reply(&self) -> ReplyForm {
        self.reply
    }

    /// The upstream's body.
    pub fn body(&self) -> &Bytes {
        &self.request.body
    }

    /// The upstream's path and query.
    pub fn path(&self) -> String {
        let path = [self.target.base.path.as_str(), &self.request.path];
        self.target.with_query(path.concat())
    }

    /// Every header of the upstream request. An allow-list: what a client sent is not in it, but for what it asked to
    /// have forwarded.
    pub fn headers(&self) -> Result<HeaderMap, Error> {
        let accept = match self.reply {
            ReplyForm::Stream if !self.follows() => {
                self.target.provider.dialect.framing().media_type()
            }
            ReplyForm::Stream | ReplyForm::Whole => "application/json",
        };
        let mut headers = HeaderMap::with_capacity(12);
        for (name, value) in [
            (header::ACCEPT, accept),
            (header::ACCEPT_ENCODING, "identity"),
            (header::USER_AGENT, USER_AGENT),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if self.method == Method::POST {
            let json = HeaderValue::from_static("application/json");
            headers.insert(header::CONTENT_TYPE, json);
            headers.insert(header::CONTENT_LENGTH, self.request.body.len().into());
        }
        for &(name, value) in self.request.headers {
            headers.insert(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        headers.extend(self.forwarded.clone());
        for (name, value) in self.target.headers()? {
            headers.insert(name, value);
        }
        Ok(headers)
    }

    /// Sets the signature of a target that wants one over `headers`. `now`: Unix time, seconds.
    pub fn sign(&self, headers: &mut HeaderMap, now: u64) -> Result<(), Error> {
        let unsigned = Unsigned {
            method: &self.method,
            path: &self.path(),
            headers,
            body: self.body(),
        };
        for (name, value) in self.target.sign(unsigned, now)? {
            headers.insert(name, value);
        }
        Ok(())
    }

    /// Takes the upstream's response head and decides how its body is read. `Err`: the client gets this instead.
    pub fn answer(&mut self, head: UpstreamHead<'_>) -> Result<&Relay, Error> {
        self.target.heed(head.status, head.headers);
        let answer = self
            .read_head(head)
            .map_err(|error| self.target.attribute(error))?;
        let dialect = self.target.provider.dialect;
        let mut partial = self.seed.clone();
        if !matches!(answer, Answer::Error(_)) {
            dialect.read_headers(head.headers, &mut partial);
        }
        let mut relay = Relay::new(dialect, partial, self.wishes, answer);
        if !self.plan.is_empty() {
            relay = relay.with_edits(self.plan.clone());
        }
        Ok(self.relay.insert(relay.for_target(self.target.clone())))
    }

    fn read_head(&self, head: UpstreamHead<'_>) -> Result<Answer, Error> {
        let text = |name| {
            head.headers
                .get(name)
                .and_then(|value: &HeaderValue| value.to_str().ok())
        };
        let is_coded = text(header::CONTENT_ENCODING)
            .is_some_and(|coding| !coding.eq_ignore_ascii_case("identity"));
        let is_empty = text(header::CONTENT_LENGTH) == Some("0");
        let is_odd = !is_plainly_framed(head.headers);
        match head.status.as_u16() {
            200 | 201 => {}
            // No body follows, so no carrier would come back for one; or one that cannot be read.
            400..=599 if is_empty || is_coded || is_odd => {
                return Err(self.target.provider.dialect.read_error(head.status, b""));
            }
            400..=599 => return Ok(Answer::Error(head.status)),
            _ => return Err(self.target.provider.dialect.read_error(head.status, b"")),
        }
        if is_coded {
            return Err(Error::broken(
                "The provider compressed an answer that was asked for uncompressed.",
            ));
        }
        if is_odd {
            return Err(Error::broken(
                "The provider's answer is framed in an unknown way.",
            ));
        }
        if is_empty {
            return Err(Error::broken("The provider's answer is empty."));
        }
        let media = text(header::CONTENT_TYPE)
            .and_then(|value| value.split(';').next())
            .unwrap_or_default();
        let media = media.trim().to_ascii_lowercase();
        match (self.reply, media.as_str()) {
            (_, "text/html" | "application/xhtml+xml") => {
                Err(Error::broken("The provider answered with a web page."))
            }
            (ReplyForm::Stream, "application/json") => Ok(Answer::WholeAsStream),
            (ReplyForm::Stream, _) => Ok(Answer::Stream),
            (ReplyForm::Whole, media) if STREAMS.contains(&media) => Err(Error::broken(
                "The provider streamed an answer that was asked for whole.",
            )),
            (ReplyForm::Whole, _) => Ok(Answer::Whole),
        }
    }

    pub fn relay(&self) -> Option<&Relay> {
        self.relay.as_ref()
    }

    pub fn relay_mut(&mut self) -> Option<&mut Relay> {
        self.relay.as_mut()
    }

    /// Whether the client gets a stream: it asked for one, and the upstream's answer is one or can become one.
    pub fn is_streaming(&self) -> bool {
        self.relay.as_ref().is_some_and(Relay::is_stream)
    }

    pub fn report(&self) -> Report<'_> {
        let partial = self.relay.as_ref().map_or(&self.seed, Relay::partial);
        Report {
            model: &self.seed.model,
            reply: self.reply,
            calls: 1,
            usage: partial.usage,
            unknown: partial.unknown,
            failure: self.relay.as_ref().and_then(Relay::failure),
        }
    }
}

/// Whether an answer is chunked, and nothing else, if it names a transfer coding at all. Under any other its end, and with it
/// the connection's next answer, would be a matter of opinion.
fn is_plainly_framed(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(header::TRANSFER_ENCODING);
    let is_chunked = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    codings.iter().count() < 2 && codings.iter().all(is_chunked)
}

/// Whether an upstream's response header is for the client. An allow-list.
pub fn is_for_client(name: &HeaderName) -> bool {
    name.as_str().starts_with("x-ratelimit-") || FOR_CLIENT.contains(&name.as_str())
}

/// What an answer starts from, before its provider has said a word.
fn seeded(request: &CompletionRequest, seed: Seed) -> Partial {
    Partial {
        id: drawn_id("cmpl-", seed.draw),
        created: seed.now,
        model: request.model().to_owned(),
        tail: Tail::new(&request.stop),
        limit: request.max_tokens(),
        logprobs: Running::of(request),
        shape: request.shape,
        ..Partial::default()
    }
}

const FOR_CLIENT: &[&str] = &[
    "openai-model",
    "openai-organization",
    "openai-processing-ms",
    "openai-version",
    "request-id",
    "retry-after",
    "retry-after-ms",
    "x-amzn-requestid",
    "x-ms-retry-after-ms",
    "x-request-id",
];

/// What comes piece by piece, whichever dialect speaks.
const STREAMS: &[&str] = &[
    Framing::Sse.media_type(),
    Framing::JsonLines.media_type(),
    Framing::EventStream.media_type(),
];

/// The largest request body for Pingora's phases.
const MAX_PHASES_BYTES: usize = 1 << 20;

/// The gateway's own; a client's is not sent on.
const USER_AGENT: &str = concat!("pingora-completions/", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        config::Config,
        dialect::settle::Settled,
        provider::{Credential, Secret, target::Choice},
    };

    fn exchange(provider: &str, body: &'static str) -> Exchange {
        let request = CompletionRequest::read(Bytes::from_static(body.as_bytes())).unwrap();
        let provider = Config::default().providers[provider].clone();
        let choice = Choice {
            custom: None,
            credential: Secret::try_new("sk-1").map(Credential::Key),
            held: None,
            model: request.model(),
            option: &|_| Ok(None),
        };
        let target = Target::try_new(provider, choice).unwrap();
        let terms = Terms::plain();
        let mut shares = split::split(request, &Settled::default(), 1).unwrap();
        let (share, seed) = (shares.next().unwrap().unwrap(), Seed { now: 1, draw: 2 });
        Exchange::try_new(share, Arc::new(target), &terms, seed).unwrap()
    }

    const PLAIN: &str = r#"{"model":"m","prompt":"hi","max_tokens":5}"#;

    #[test]
    fn a_plain_native_request_goes_upstream_byte_for_byte() {
        let exchange = exchange("openai", PLAIN);
        assert_eq!(exchange.body(), PLAIN);
        assert_eq!(exchange.path(), "/v1/completions");
        let headers = exchange.headers().unwrap();
        assert_eq!(headers[header::HOST], "api.openai.com");
        assert_eq!(headers[header::AUTHORIZATION], "Bearer sk-1");
        assert_eq!(headers[header::CONTENT_LENGTH], &*PLAIN.len().to_string());
    }

    #[test]
    fn a_stream_asks_upstream_for_usage() {
        let exchange = exchange(
            "openai",
            r#"{"model":"m","prompt":"hi","max_tokens":5,"stream":true,"top_k":3}"#,
        );
        let body = std::str::from_utf8(exchange.body()).unwrap();
        assert!(
            body.contains(r#""stream_options":{"include_usage":true}"#)
                && body.contains(r#""top_k":3"#),
            "{body}"
        );
    }

    #[test]
    fn the_page_s_max_tokens_goes_upstream_where_none_was_named() {
        let exchange = exchange("groq", r#"{"model":"m","prompt":"hi"}"#);
        assert_eq!(
            exchange.body(),
            r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":16}"#
        );
        assert_eq!(exchange.path(), "/openai/v1/chat/completions");
    }

    #[test]
    fn heads_that_are_no_answer_are_refused() {
        let head = |status: u16, content_type: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
            (StatusCode::from_u16(status).unwrap(), headers)
        };
        for (status, content_type) in [
            (200, "text/html; charset=utf-8"),
            (200, "text/event-stream"),
            (204, ""),
            (302, "text/html"),
            (206, "application/json"),
        ] {
            let (status, headers) = head(status, content_type);
            let told = exchange("openai", PLAIN)
                .answer(UpstreamHead {
                    status,
                    headers: &headers,
                })
                .unwrap_err();
            assert_eq!(told.status(), 502, "{status} {content_type}");
        }
        let (status, mut headers) = head(200, "application/json");
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert!(
            exchange("openai", PLAIN)
                .answer(UpstreamHead {
                    status,
                    headers: &headers
                })
                .is_err()
        );
        headers.remove(header::CONTENT_ENCODING);
        for (codings, plain) in [
            (&["chunked"][..], true),
            (&["Chunked"], true),
            (&["gzip, chunked"], false),
            (&["identity"], false),
            (&["chunked", "chunked"], false),
        ] {
            headers.remove(header::TRANSFER_ENCODING);
            for coding in codings {
                headers.append(header::TRANSFER_ENCODING, HeaderValue::from_static(coding));
            }
            let headers = &headers;
            let mut exchange = exchange("openai", PLAIN);
            let told = exchange.answer(UpstreamHead { status, headers });
            assert_eq!(told.is_ok(), plain, "{codings:?}");
        }
    }

    #[test]
    fn the_road_is_the_conductors_only_where_the_phases_cannot() {
        let stream = r#"{"model":"m","prompt":"hi","stream":true}"#;
        for provider in ["openai", "groq"] {
            let road = |body, replay| exchange(provider, body).road(replay);
            assert_eq!(road(stream, Replay::Held), Road::Phases);
            assert_eq!(road(stream, Replay::Lost), Road::Conductor);
            assert_eq!(road(PLAIN, Replay::Held), Road::Conductor);
            let large = stream.replace("hi", &"x".repeat(MAX_PHASES_BYTES));
            let large: &'static str = large.leak();
            assert_eq!(road(large, Replay::Held), Road::Conductor);
            let mut beating = exchange(provider, stream);
            beating.deadlines.heartbeat = Some(Duration::from_secs(15));
            assert_eq!(beating.road(Replay::Held), Road::Conductor);
        }
    }
}
