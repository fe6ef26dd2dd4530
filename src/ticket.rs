//! What every answer to one request carries, whoever makes it.

use std::{
    borrow::Cow,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue};
use pingora::http::ResponseHeader;
use uuid::Uuid;

use crate::{
    completion::drawn_id,
    config::headers,
    dialect::settle::Settled,
    error::Error,
    keys::VirtualKey,
    provider::{Target, pool::TakenKey},
};

/// What every answer to one request carries: who it came from, and by which ids it can be found again.
#[derive(Debug)]
pub struct Ticket {
    pub started: Instant,
    /// When the request was complete, and its call could begin.
    pub called: Option<Instant>,
    /// When the present try of it began.
    pub attempted: Instant,
    /// What came of those before it.
    pub tried: Vec<Tried>,
    /// Retries of the present target; -1: they were used up.
    pub retries: i32,
    pub trace_id: HeaderValue,
    pub request_id: HeaderValue,
    /// Who asks, if the gateway gave them a key.
    pub client: Option<Arc<VirtualKey>>,
    pub provider: Option<HeaderValue>,
    /// Whom the call goes to, for what must not come back from there.
    pub target: Option<Arc<Target>>,
    /// Which of a config's targets answers.
    pub option: HeaderValue,
    /// In which form the prompt went upstream.
    pub sent_as: Option<&'static str>,
    /// What the gateway did in the provider's place.
    emulated: Option<HeaderValue>,
    /// What was left out of the request.
    dropped: Option<HeaderValue>,
    /// From the request's head to the answer's first body byte.
    pub first_byte: Option<Duration>,
}

/// A try that is not the answer.
#[derive(Debug)]
pub struct Tried {
    /// Where its target stands in its config.
    pub place: String,
    pub provider: String,
    /// Until the request went on without it: beside another call, until that one had ended too.
    pub elapsed: Duration,
    /// [`Error::label`], and the status. `None`: it was cancelled, as another one answered before it.
    pub failure: Option<(&'static str, u16)>,
}

/// The tries that are not the answer, as the access log has them.
pub struct Tries<'a>(pub &'a [Tried]);

impl fmt::Display for Tries<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, tried) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            let ms = tried.elapsed.as_millis();
            let (place, provider) = (&tried.place, &tried.provider);
            write!(f, "{separator}{place} {provider} ")?;
            match tried.failure {
                Some((failure, status)) => write!(f, "{status} {failure} {ms}ms")?,
                None => write!(f, "- cancelled {ms}ms")?,
            }
        }
        Ok(())
    }
}

/// How a try failed, as [`Tried`] tells it.
pub fn told(error: &Error) -> (&'static str, u16) {
    (error.label(), error.status().as_u16())
}

impl Ticket {
    pub fn new(draw: u128) -> Self {
        let trace_id = uuid::Builder::from_random_bytes(draw.to_be_bytes()).into_uuid();
        let mut trace = Uuid::encode_buffer();
        let trace = trace_id.hyphenated().encode_lower(&mut trace);
        let or_empty = |text: &str| {
            HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
        };
        let now = Instant::now();
        Self {
            started: now,
            called: None,
            attempted: now,
            tried: Vec::new(),
            retries: 0,
            trace_id: or_empty(trace),
            request_id: or_empty(&drawn_id("req_", draw)),
            client: None,
            provider: None,
            target: None,
            option: HeaderValue::from_static("config"),
            sent_as: None,
            emulated: None,
            dropped: None,
            first_byte: None,
        }
    }

    /// Takes over the client's own trace id.
    pub fn adopt(&mut self, given: &http::HeaderMap) {
        let given = given.get(TRACE_ID).filter(|value| {
            !value.is_empty() && value.len() <= MAX_TRACE_ID && value.to_str().is_ok()
        });
        if let Some(given) = given {
            self.trace_id = given.clone();
        }
    }

    pub fn name(&mut self, provider: &str) {
        self.provider = HeaderValue::try_from(provider).ok();
    }

    /// A target's turn has come; `place`: where it stands in its config.
    pub fn turn(&mut self, place: Cow<'static, str>) {
        self.attempted = Instant::now();
        match place {
            Cow::Borrowed(place) => self.option = HeaderValue::from_static(place),
            Cow::Owned(place) => {
                if let Ok(option) = HeaderValue::try_from(place) {
                    self.option = option;
                }
            }
        }
    }

    /// The present try failed, or was cancelled (`None`), and another takes its place.
    pub fn passed(&mut self, failure: Option<&Error>) {
        let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
        self.tried.push(Tried {
            place: text(&self.option),
            provider: self.provider.as_ref().map(text).unwrap_or_default(),
            elapsed: self.attempted.elapsed(),
            failure: failure.map(told),
        });
        // What the next one is about to say of itself.
        (self.provider, self.sent_as) = (None, None);
        (self.emulated, self.dropped) = (None, None);
    }

    /// Whom the present try goes to, and what of the request is not its doing.
    pub fn goes_to(&mut self, target: &Arc<Target>, settled: &Settled) {
        let provider = &target.provider;
        self.name(&provider.name);
        self.sent_as = Some(provider.dialect.prompt_form().sent_as(settled.approach));
        self.target = Some(target.clone());
        self.tell(settled);
    }

    fn tell(&mut self, settled: &Settled) {
        if *settled == Settled::default() {
            return;
        }
        // Two forms of `prompt` are one field.
        let mut emulated: Vec<&str> = Vec::new();
        for field in settled.emulated.iter().map(|done| done.field()) {
            if !emulated.contains(&field) {
                emulated.push(field);
            }
        }
        self.emulated = list(emulated.into_iter());
        self.dropped = list(settled.dropped.iter().map(String::as_str));
    }

    /// The key that the present try took, if its provider has several.
    pub fn key(&self) -> Option<&TakenKey> {
        self.target.as_deref()?.taken()
    }

    /// How long the present try's answer took to begin.
    pub fn first_token(&self) -> Option<Duration> {
        let before = self.attempted.saturating_duration_since(self.started);
        Some(self.first_byte?.saturating_sub(before))
    }

    pub fn mark_first_byte(&mut self) {
        if self.first_byte.is_none() {
            self.first_byte = Some(self.started.elapsed());
        }
    }

    /// The headers of an upstream that repeat a credential, and are taken out: some echo what they were sent.
    fn betraying(&self, headers: &HeaderMap) -> Vec<HeaderName> {
        let Some(target) = &self.target else {
            return Vec::new();
        };
        let betraying = headers.iter().filter(|(_, value)| target.betrays(value));
        betraying.map(|(name, _)| name.clone()).collect()
    }

    /// The gateway's own headers of an answer. An upstream's `x-request-id` stays: its support asks for that one.
    fn own_headers(
        &self,
        headers: &HeaderMap,
    ) -> impl Iterator<Item = (HeaderName, HeaderValue)> + use<> {
        let request_id = (!headers.contains_key(&REQUEST_ID)).then(|| self.request_id.clone());
        let option = self.provider.as_ref().map(|_| self.option.clone());
        let retries = self.provider.as_ref().map(|_| match self.retries {
            0 => HeaderValue::from_static("0"),
            more => HeaderValue::from(more),
        });
        let all = [
            (TRACE_ID, Some(self.trace_id.clone())),
            (REQUEST_ID, request_id),
            (PROVIDER, self.provider.clone()),
            (RETRIES, retries),
            (OPTION, option),
            (SENT_AS, self.sent_as.map(HeaderValue::from_static)),
            (EMULATED, self.emulated.clone()),
            (DROPPED, self.dropped.clone()),
        ];
        all.into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
    }

    /// Puts the gateway's own headers on an answer.
    pub fn stamp(&self, headers: &mut HeaderMap) {
        for name in self.betraying(headers) {
            headers.remove(name);
        }
        for (name, value) in self.own_headers(headers) {
            headers.insert(name, value);
        }
    }

    /// The same of a head of Pingora's, which may keep the letters of names as they came.
    pub fn stamp_passed(&self, head: &mut ResponseHeader) -> pingora::Result<()> {
        for name in self.betraying(&head.headers) {
            head.remove_header(&name);
        }
        for (name, value) in self.own_headers(&head.headers) {
            head.insert_header(name, value)?;
        }
        Ok(())
    }
}

/// Field names as one header's value. A client's own name for a field can be anything, and there can be many: `?` stands for
/// what is none to show, and for the rest.
fn list<'f>(fields: impl Iterator<Item = &'f str>) -> Option<HeaderValue> {
    let is_plain = |field: &str| {
        let plain = |byte: u8| byte.is_ascii_graphic() && byte != b',';
        (1..=MAX_NAME).contains(&field.len()) && field.bytes().all(plain)
    };
    let mut list = String::new();
    for field in fields {
        if !list.is_empty() {
            list.push_str(", ");
        }
        if list.len() > MAX_LIST {
            list.push('?');
            break;
        }
        list.push_str(if is_plain(field) { field } else { "?" });
    }
    HeaderValue::try_from(list)
        .ok()
        .filter(|list| !list.is_empty())
}

/// Bytes of a field's name in a header, and of all of them: clients take heads of 8 KiB, some of 4.
const MAX_NAME: usize = 64;
const MAX_LIST: usize = 1_024;
const TRACE_ID: HeaderName = HeaderName::from_static(headers::TRACE_ID);
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const PROVIDER: HeaderName = HeaderName::from_static(headers::PROVIDER);
const RETRIES: HeaderName = HeaderName::from_static("x-portkey-retry-attempt-count");
const SENT_AS: HeaderName = HeaderName::from_static("x-completions-sent-as");
const EMULATED: HeaderName = HeaderName::from_static("x-completions-emulated");
const DROPPED: HeaderName = HeaderName::from_static("x-completions-dropped");
const OPTION: HeaderName = HeaderName::from_static("x-portkey-last-used-option-index");
/// A trace id is echoed and logged; W3C's has 55 bytes, a UUID 36.
const MAX_TRACE_ID: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_fields_is_short_and_plain() {
        let told = |fields: &[&str]| list(fields.iter().copied());
        assert_eq!(told(&[]), None);
        assert_eq!(told(&["n", "stop"]).unwrap(), "n, stop");
        assert_eq!(told(&["a\r\nx: y", "b", "c,d", "é"]).unwrap(), "?, b, ?, ?");
        let long = "x".repeat(64);
        let many = told(&vec![long.as_str(); 256]).unwrap();
        assert!(many.len() < 1_200 && many.to_str().unwrap().ends_with(", ?"));
    }
}
