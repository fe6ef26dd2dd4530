//! The one error of the crate: what went wrong, whose fault it is, and what the client is told.
//!
//! Status, OpenAI `type` and `code` are derived from the [`Kind`] in one place. A message never holds a key, a prompt,
//! an internal address or a URL with its query: whoever builds an `Error` writes the text for the client's eyes.

use std::{borrow::Cow, fmt};

use http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;

/// What went wrong, which status the client sees, and the parameter or target at fault.
#[derive(Clone, Debug)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    kind: Kind,
    message: Cow<'static, str>,
    param: Option<Cow<'static, str>>,
    code: Option<Cow<'static, str>>,
    api_type: Option<String>,
    inner: Option<Box<RawValue>>,
    provider: Option<String>,
    problems: Vec<String>,
}

/// The closed set of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request breaks the endpoint's contract.
    Invalid,
    /// The chosen provider cannot do what a parameter asks for.
    Unsupported,
    /// The request body is over `limits.body_bytes`.
    BodyTooLarge,
    /// The request head is over `limits.header_bytes` or `limits.header_count`.
    HeadTooLarge,
    /// The request head asks for what is served to nobody; with the status that says so.
    Unserved(StatusCode),
    /// The request's head did not arrive within `limits.header_seconds`, or its body within `limits.request_seconds`.
    RequestTimeout,
    /// The upstream's name has no address.
    Dns,
    /// No connection to the upstream.
    Connect,
    /// The upstream's certificate or handshake was refused.
    Tls,
    /// A deadline of the upstream call ran out.
    Timeout(Deadline),
    /// The upstream's answer was cut, or is not what its API documents.
    Broken,
    /// The upstream answered with an error of its own; its status is kept.
    Upstream(StatusCode),
    /// The target has as many calls as it may, and no place became free.
    Full,
    /// The gateway's process has no file descriptor, or no memory for a socket, left for the call.
    Exhausted,
    /// The client left before its answer was complete. Nobody reads this error but the log.
    ClientGone,
    /// The gateway's process ends before the answer is complete.
    Stopping,
    /// A fault of the gateway.
    Internal,
}

/// Which deadline fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// TCP and TLS set-up.
    Connect,
    /// Silence of the upstream: before its head, or between two reads of its body.
    Read,
    /// The upstream takes no more of the request.
    Write,
    /// From a call's begin to the first token of its answer.
    FirstToken,
    /// Between two events of a stream.
    Idle,
    /// One call with its answer; others may follow it.
    Attempt,
    /// The whole request.
    Total,
}

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Client,
    Upstream,
    Gateway,
}

impl Error {
    pub fn new(kind: Kind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            param: None,
            code: None,
            api_type: None,
            inner: None,
            provider: None,
            problems: Vec::new(),
        }))
    }

    /// 400: `param` is missing, of the wrong type or out of range.
    pub fn invalid(
        param: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(Kind::Invalid, message).with_param(param)
    }

    /// 400: `provider` cannot carry `param`.
    pub fn unsupported(param: impl Into<Cow<'static, str>>, provider: &str) -> Self {
        let param = param.into();
        let message = format!("`{param}` is not supported by {provider}.");
        Self::new(Kind::Unsupported, message).with_param(param)
    }

    /// The upstream's answer or stream is not what its API documents, or ended early.
    pub fn broken(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Broken, message)
    }

    /// The client left.
    pub fn gone() -> Self {
        Self::new(
            Kind::ClientGone,
            "The client left before its answer was complete.",
        )
    }

    pub fn with_param(mut self, param: impl Into<Cow<'static, str>>) -> Self {
        self.0.param = Some(param.into());
        self
    }

    pub fn with_code(mut self, code: impl Into<Cow<'static, str>>) -> Self {
        self.0.code = Some(code.into());
        self
    }

    /// The upstream's own error type, told instead of the one derived from the kind.
    pub fn with_type(mut self, api_type: impl Into<String>) -> Self {
        self.0.api_type = Some(api_type.into());
        self
    }

    /// The upstream's own account of what is behind the error: Azure's `innererror`, which says what its filter found. One
    /// of more than 4 KiB is left out.
    pub fn with_inner(mut self, inner: &RawValue) -> Self {
        // One line: it may become a part of an event. JSON strings hold no bare line ends.
        let line = inner.get().replace(['\r', '\n'], " ");
        if line.len() <= MAX_INNER_BYTES {
            self.0.inner = RawValue::from_string(line).ok();
        }
        self
    }

    /// The provider whose answer this is: told beside `error`, as Portkey does.
    pub fn with_provider(mut self, provider: &str) -> Self {
        self.0.provider = Some(provider.to_owned());
        self
    }

    /// Everything that is wrong with a config: told beside `error`, as Portkey does, and in its message.
    pub fn with_problems(mut self, problems: Vec<String>) -> Self {
        self.0.problems = problems;
        self
    }

    /// Takes every occurrence of `secret` out of what is told: some providers echo the key they refuse.
    pub fn without(mut self, secret: &str) -> Self {
        let redacted = |text: &str| {
            let found = !secret.is_empty() && text.contains(secret);
            found.then(|| text.replace(secret, "[redacted]"))
        };
        let Inner {
            message,
            param,
            code,
            api_type,
            inner,
            ..
        } = &mut *self.0;
        for text in [Some(message), param.as_mut(), code.as_mut()] {
            if let Some(text) = text
                && let Some(clean) = redacted(text)
            {
                *text = Cow::Owned(clean);
            }
        }
        if let Some(clean) = api_type.as_deref().and_then(redacted) {
            *api_type = Some(clean);
        }
        // A piece of JSON may hold it in another spelling of its characters, but no vendor echoes a key there.
        inner.take_if(|inner| redacted(inner.get()).is_some());
        self
    }

    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    pub fn param(&self) -> Option<&str> {
        self.0.param.as_deref()
    }

    pub fn fault(&self) -> Fault {
        match self.0.kind {
            Kind::Invalid
            | Kind::Unsupported
            | Kind::BodyTooLarge
            | Kind::HeadTooLarge
            | Kind::Unserved(_)
            | Kind::RequestTimeout
            | Kind::ClientGone => Fault::Client,
            Kind::Dns | Kind::Connect | Kind::Tls | Kind::Timeout(_) | Kind::Broken => {
                Fault::Upstream
            }
            Kind::Upstream(status) if status.is_client_error() => Fault::Client,
            Kind::Upstream(_) => Fault::Upstream,
            Kind::Full | Kind::Exhausted | Kind::Stopping | Kind::Internal => Fault::Gateway,
        }
    }

    pub fn status(&self) -> StatusCode {
        match self.0.kind {
            Kind::Invalid | Kind::Unsupported => StatusCode::BAD_REQUEST,
            Kind::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Kind::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Kind::Unserved(status) => status,
            Kind::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Kind::Dns | Kind::Connect | Kind::Tls | Kind::Broken => StatusCode::BAD_GATEWAY,
            Kind::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
            Kind::Upstream(status) => told_status(status),
            Kind::ClientGone => {
                StatusCode::from_u16(CLIENT_GONE).unwrap_or(StatusCode::BAD_REQUEST)
            }
            Kind::Full | Kind::Exhausted | Kind::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// A short word for logs and metrics; a closed set.
    pub fn label(&self) -> &'static str {
        match self.0.kind {
            Kind::Invalid => "invalid_request",
            Kind::Unsupported => "unsupported_parameter",
            Kind::BodyTooLarge => "body_too_large",
            Kind::HeadTooLarge => "head_too_large",
            Kind::Unserved(_) => "not_served",
            Kind::RequestTimeout => "request_timeout",
            Kind::Dns => "dns_error",
            Kind::Connect => "connect_error",
            Kind::Tls => "tls_error",
            Kind::Timeout(Deadline::Connect) => "connect_timeout",
            Kind::Timeout(Deadline::Read) => "read_timeout",
            Kind::Timeout(Deadline::Write) => "write_timeout",
            Kind::Timeout(Deadline::FirstToken) => "first_token_timeout",
            Kind::Timeout(Deadline::Idle) => "idle_timeout",
            Kind::Timeout(Deadline::Attempt) => "attempt_timeout",
            Kind::Timeout(Deadline::Total) => "total_timeout",
            Kind::Broken => "broken_upstream",
            Kind::Upstream(_) => "upstream_error",
            Kind::Full => "target_full",
            Kind::Exhausted => "gateway_exhausted",
            Kind::ClientGone => "client_gone",
            Kind::Stopping => "gateway_stopping",
            Kind::Internal => "internal_error",
        }
    }

    /// The error as a response body.
    pub fn body(&self) -> Vec<u8> {
        let failure = (!matches!(self.0.kind, Kind::Upstream(_))).then_some("failure");
        to_json(&Envelope {
            error: self.object(),
            provider: self.0.provider.as_deref(),
            status: failure,
            message: failure.map(|_| &*self.0.message),
            errors: &self.0.problems,
        })
    }

    /// The error as an event that ends an open stream; no `[DONE]` may follow it.
    pub fn event(&self) -> Vec<u8> {
        let mut event = b"data: ".to_vec();
        event.extend(to_json(&Envelope {
            error: self.object(),
            provider: self.0.provider.as_deref(),
            status: None,
            message: None,
            errors: &[],
        }));
        event.extend(b"\n\n");
        event
    }

    fn object(&self) -> Object<'_> {
        let problems = &self.0.problems;
        let message = match problems.as_slice() {
            [] => Cow::Borrowed(&*self.0.message),
            _ => Cow::Owned(format!("{}: {}", self.0.message, problems.join("; "))),
        };
        Object {
            message,
            api_type: self
                .0
                .api_type
                .as_deref()
                .unwrap_or_else(|| self.openai_type()),
            param: self.0.param.as_deref(),
            code: self.0.code.as_deref().or_else(|| self.openai_code()),
            innererror: self.0.inner.as_deref(),
        }
    }

    fn openai_type(&self) -> &'static str {
        match self.status().as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            408 | 504 => "timeout_error",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        }
    }

    fn openai_code(&self) -> Option<&'static str> {
        match self.0.kind {
            Kind::Invalid | Kind::Upstream(_) => None,
            _ => Some(self.label()),
        }
    }
}

/// The status a client sees for an upstream's: the upstream's own, except where no client could read it
/// (redirects are never followed, 1xx and success are no errors, Cloudflare's 52x mean "bad gateway").
pub(crate) fn told_status(status: StatusCode) -> StatusCode {
    match status.as_u16() {
        520..=527 => StatusCode::BAD_GATEWAY,
        400..=599 => status,
        _ => StatusCode::BAD_GATEWAY,
    }
}

fn to_json(envelope: &Envelope<'_>) -> Vec<u8> {
    // Strings and nulls alone: serialising them cannot fail.
    serde_json::to_vec(envelope).unwrap_or_default()
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.label(), self.0.message)
    }
}

impl std::error::Error for Error {}

/// OpenAI's envelope, and Portkey's `status` and `message` beside it on errors that the gateway made.
#[derive(Serialize)]
struct Envelope<'a> {
    error: Object<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    errors: &'a [String],
}

#[derive(Serialize)]
struct Object<'a> {
    message: Cow<'a, str>,
    #[serde(rename = "type")]
    api_type: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    innererror: Option<&'a RawValue>,
}

/// Azure's accounts of its filters have a few hundred bytes.
const MAX_INNER_BYTES: usize = 4 << 10;
/// nginx's word in a log for "the client closed the connection".
pub(crate) const CLIENT_GONE: u16 = 499;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateway_errors_carry_both_shapes() {
        let body = Error::invalid("n", "`n` must be at least 1.").body();
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(json["error"]["param"], "n");
        assert_eq!(json["error"]["type"], "invalid_request_error");
        assert_eq!(json["error"]["code"], serde_json::Value::Null);
        assert_eq!(json["status"], "failure");
        assert_eq!(json["message"], json["error"]["message"]);
    }

    #[test]
    fn upstream_statuses_are_kept_unless_no_client_could_read_them() {
        for (upstream, told) in [
            (429, 429),
            (503, 503),
            (522, 502),
            (302, 502),
            (204, 502),
            (101, 502),
        ] {
            let status = StatusCode::from_u16(upstream).unwrap();
            assert_eq!(
                Error::new(Kind::Upstream(status), "x").status().as_u16(),
                told
            );
        }
    }

    #[test]
    fn an_echoed_key_is_taken_out() {
        let error = Error::new(Kind::Upstream(StatusCode::UNAUTHORIZED), "bad key sk-abc")
            .with_type("sk-abc")
            .with_code("no sk-abc")
            .with_param("sk-abc")
            .with_inner(&RawValue::from_string("{\n\"a\":\"sk-abc\"}".to_owned()).unwrap())
            .without("sk-abc");
        assert_eq!(error.message(), "bad key [redacted]");
        let body = String::from_utf8(error.body()).unwrap();
        assert!(!body.contains("sk-abc"), "{body}");
    }
}
