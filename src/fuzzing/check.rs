//! What holds for everything that leaves the gateway.

use serde_json::Value;

use crate::error::Error;

/// A body is JSON, of one line, and as deep as other readers bear.
pub fn json(body: &[u8]) -> Value {
    let value = serde_json::from_slice(body);
    assert!(value.is_ok(), "no JSON: {}", show(body));
    value.unwrap_or_default()
}

/// An error as a client gets it: a status of failure, an object of OpenAI's, and `secret` nowhere in it.
pub fn error(error: &Error, secret: &str) {
    let status = error.status().as_u16();
    assert!((400..=599).contains(&status), "{error:?}");
    let body = error.body();
    assert!(body.len() <= MAX_ERROR_BYTES, "{} bytes", body.len());
    let told = json(&body);
    let told = told.get("error");
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
            Some(data) => {
                let data = json(data);
                match data.get("error") {
                    Some(_) if data.get("choices").is_none() => Event::Failed,
                    Some(_) | None => Event::Data(data),
                }
            }
            None => {
                assert_eq!(event, b":", "{}", show(event));
                Event::Comment
            }
        });
    }
    events
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
