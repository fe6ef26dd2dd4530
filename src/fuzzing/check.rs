//! What holds for everything that leaves the gateway.

use serde::de::IgnoredAny;
use serde_json::Value;

use crate::error::Error;

/// A body is JSON in UTF-8. `None`: such as many readers refuse all the same (half a surrogate pair, a number beyond a double, 128
/// levels): where the page's own shape passes as it came, it may hold these in fields that nobody here reads.
pub fn json(body: &[u8]) -> Option<Value> {
    let valid = serde_json::from_slice::<IgnoredAny>(body).is_ok();
    assert!(
        valid && str::from_utf8(body).is_ok(),
        "no JSON: {}",
        show(body)
    );
    serde_json::from_slice(body).ok()
}

/// An error as a client gets it: a status of failure, an object of OpenAI's, and `secret` nowhere in it.
pub fn error(error: &Error, secret: &str) {
    let status = error.status().as_u16();
    assert!((400..=599).contains(&status), "{error:?}");
    let body = error.body();
    assert!(body.len() <= MAX_ERROR_BYTES, "{} bytes", body.len());
    let told = json(&body);
    let told = told.as_ref().and_then(|told| told.get("error"));
    for name in ["message", "type"] {
        let text = told.and_then(|error| error.get(name));
        assert!(text.is_some_and(Value::is_string), "{error:?}");
    }
    hides(&body, secret);
    let event = error.event();
    let data = event.strip_prefix(b"data: ");
    let data = data.and_then(|data| data.strip_suffix(b"\n\n"));
    json(data.unwrap_or_default());
    hides(&event, secret);
}

/// The bytes do not hold `secret`.
pub fn hides(bytes: &[u8], secret: &str) {
    let found = memchr::memmem::find(bytes, secret.as_bytes());
    assert!(found.is_none(), "a key in {}", show(bytes));
}

/// What a stream's bytes are, event by event.
pub enum Event {
    Comment,
    /// See [`json`].
    Unread,
    Done,
    Failed,
    Data(Value),
}

/// The events of a stream that left: each in the one form that every client parses.
pub fn events(stream: &[u8]) -> Vec<Event> {
    let mut rest = stream;
    let mut events = Vec::new();
    while !rest.is_empty() {
        let end = memchr::memmem::find(rest, b"\n\n");
        assert!(end.is_some(), "half an event: {}", show(rest));
        let (event, behind) = rest.split_at(end.unwrap_or_default());
        rest = behind.get(2..).unwrap_or_default();
        let plain = memchr::memchr2(b'\n', b'\r', event).is_none();
        assert!(plain, "a line end in {}", show(event));
        events.push(match event.strip_prefix(b"data: ") {
            Some(b"[DONE]") => Event::Done,
            Some(data) => match json(data) {
                Some(data) if is_failure(&data) => Event::Failed,
                Some(data) => Event::Data(data),
                None => Event::Unread,
            },
            None => {
                assert_eq!(event, b":", "{}", show(event));
                Event::Comment
            }
        });
    }
    events
}

fn is_failure(data: &Value) -> bool {
    data.get("error").is_some() && data.get("choices").is_none()
}

/// The depth of JSON, told byte by byte.
pub fn deepest(json: &[u8]) -> usize {
    let (mut depth, mut most, mut quoted, mut escaped) = (0_usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => {
                depth += 1;
                most = most.max(depth);
            }
            b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    most
}

/// What a target is set up with. Without it there is nothing to fuzz.
pub fn made<T, E: std::fmt::Display>(thing: Result<T, E>) -> T {
    thing.unwrap_or_else(|error| {
        eprintln!("a fuzz target could not be set up: {error}");
        std::process::abort()
    })
}

/// The start of what went wrong, readable.
pub fn show(bytes: &[u8]) -> String {
    let start = bytes.get(..400).unwrap_or(bytes);
    start.escape_ascii().to_string()
}

/// A provider's own sentence may be long; it is not the client's memory that it should fill.
const MAX_ERROR_BYTES: usize = 512 << 10;
/// The client's key: goes to the provider, whose answers may repeat it.
pub const CLIENT_KEY: &str = "sk-client-0123456789";
/// The conf's key. No test case has it, so that it can come from the gateway alone.
pub const CONF_KEY: &str = "sk-conf-9876543210";
