//! What every answer to one request carries, whoever makes it.

use std::{
    borrow::Cow,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderName, HeaderValue};
use pingora::http::ResponseHeader;

use crate::{config::headers, dialect::settle::Settled, error::Error, provider::Target};

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
        let or_empty = |text: String| {
            HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
        };
        Self {
            started: Instant::now(),
            called: None,
            attempted: Instant::now(),
            tried: Vec::new(),
            retries: 0,
            trace_id: or_empty(trace_id.to_string()),
            request_id: or_empty(format!("req_{draw:032x}")),
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

    /// Takes out the headers of an upstream that repeat a credential: some echo what they were sent.
    fn withhold(&self, head: &mut ResponseHeader) {
        let Some(target) = &self.target else {
            return;
        };
        let betraying = |(name, value): (&HeaderName, &HeaderValue)| {
            target.betrays(value).then(|| name.clone())
        };
        let betraying: Vec<_> = head.headers.iter().filter_map(betraying).collect();
        for name in &betraying {
            head.remove_header(name);
        }
    }

    /// Puts the gateway's own headers on an answer. An upstream's `x-request-id` stays: its support asks for that one.
    pub fn stamp(&self, head: &mut ResponseHeader) -> pingora::Result<()> {
        self.withhold(head);
        head.insert_header(TRACE_ID, self.trace_id.clone())?;
        if !head.headers.contains_key(REQUEST_ID) {
            head.insert_header(REQUEST_ID, self.request_id.clone())?;
        }
        if let Some(provider) = &self.provider {
            head.insert_header(PROVIDER, provider.clone())?;
            let retries = match self.retries {
                0 => HeaderValue::from_static("0"),
                more => HeaderValue::from(more),
            };
            head.insert_header(RETRIES, retries)?;
            head.insert_header(OPTION, self.option.clone())?;
        }
        if let Some(form) = self.sent_as {
            head.insert_header(SENT_AS, HeaderValue::from_static(form))?;
        }
        for (name, list) in [(EMULATED, &self.emulated), (DROPPED, &self.dropped)] {
            if let Some(list) = list {
                head.insert_header(name, list.clone())?;
            }
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
