//! The errors of OpenAI-shaped servers, in the forms that its copies have given them.

use std::borrow::Cow;

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    completion::Finish,
    depth::is_too_deep,
    dialect::{
        lenient::{Field, Text},
        unreadable_error,
    },
    error::{Error, Kind},
    surrogates::has_half,
    wire::sse::Events,
};

/// The error that an answer is: `{"error":…}`, or `{"object":"error",…}` as older servers of the open models write it.
pub fn read_told_error(
    error: Option<&RawValue>,
    object: Field<'_>,
    answer: &[u8],
) -> Option<Error> {
    match error {
        Some(error) => Some(read_stream_error(error)),
        None => (object.word()? == "error").then(|| read_error_event(answer)),
    }
}

/// Reads what stands in place of a completion: an error inside a 200, whole or streamed. It counts as the HTTP error it
/// stands for where it names one, else as a failure of the provider.
pub fn read_stream_error(error: &RawValue) -> Error {
    let status = serde_json::from_str::<Object<'_>>(error.get())
        .ok()
        .and_then(|object| object.status())
        .unwrap_or(StatusCode::BAD_GATEWAY);
    read_error_value(status, error.get()).unwrap_or_else(nameless_error)
}

fn nameless_error() -> Error {
    unreadable_error(StatusCode::BAD_GATEWAY)
}

/// Reads why a choice ended. `Err`: it has failed. Its text is a fragment: a client that took it for complete would never
/// try again.
pub fn read_finish(native: Cow<'_, str>) -> Result<Finish<'_>, Error> {
    let failed = FAILURES.iter().find(|(word, _)| *word == native);
    let Some(status) = failed.and_then(|&(_, status)| StatusCode::from_u16(status).ok()) else {
        return Ok(Finish::from_native(native));
    };
    let message = format!("The provider's generation ended with the reason `{native}`.");
    Err(Error::new(Kind::Upstream(status), message).with_code(native.into_owned()))
}

/// Reads an event that is named `error`, whose data is the error or holds it.
pub fn read_error_event(data: &[u8]) -> Error {
    let status = StatusCode::BAD_GATEWAY;
    match read_json_error(data) {
        Some(error) => read_stream_error(error),
        None => read_sentence_body(data).map_or_else(nameless_error, |sentence| {
            Error::new(Kind::Upstream(status), sentence)
        }),
    }
}

/// Reads the error forms of OpenAI-shaped servers: `{"error":{…}}`, `{"error":"…"}`, `{"message":…}`, `{"detail":…}`, any of
/// them as an event of a stream that has not begun, or a plain sentence.
pub fn read_error(status: StatusCode, body: &[u8]) -> Error {
    let event = first_event(body);
    let body = event.as_deref().unwrap_or(body);
    let told = match read_json_error(body) {
        Some(error) => read_error_value(status, error.get()),
        None => read_sentence_body(body).map(|text| Error::new(Kind::Upstream(status), text)),
    };
    told.unwrap_or_else(|| unreadable_error(status))
}

/// The error that a JSON body holds, or is.
fn read_json_error(body: &[u8]) -> Option<&RawValue> {
    #[derive(Deserialize)]
    struct Reply<'a> {
        #[serde(borrow, default)]
        error: Option<&'a RawValue>,
        #[serde(borrow, default)]
        detail: Option<&'a RawValue>,
    }
    let text = std::str::from_utf8(body).ok()?;
    let whole: &RawValue = serde_json::from_str(text).ok()?;
    let held = serde_json::from_str::<Reply<'_>>(text).ok();
    let held = held.and_then(|reply| reply.error.or(reply.detail));
    Some(held.unwrap_or(whole))
}

/// The data of the event that a body starts with; `None`: it is no stream.
fn first_event(body: &[u8]) -> Option<Bytes> {
    let names: [&[u8]; 2] = [b"data:", b"event:"];
    if !names.iter().any(|name| body.starts_with(name)) {
        return None;
    }
    let mut events = Events::new(body.len());
    events.push(Bytes::copy_from_slice(body));
    let frame = match events.next() {
        Some(frame) => frame.ok(),
        None => events.rest(),
    };
    Some(frame?.data)
}

/// A body that is a plain sentence, as proxies and load balancers send it; `None`: it is a page, or nothing to be read.
fn read_sentence_body(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?.trim();
    let is_plain = !text.is_empty()
        && !text.starts_with(['<', '{', '['])
        && text
            .chars()
            .all(|char| !char.is_control() || char.is_whitespace());
    let end = text.floor_char_boundary(MAX_SENTENCE_BYTES);
    let text = text.get(..end).filter(|_| is_plain)?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn read_error_value(status: StatusCode, value: &str) -> Option<Error> {
    let kind = Kind::Upstream(status);
    if let Ok(Text(message)) = serde_json::from_str::<Text<'_>>(value) {
        return Some(Error::new(kind, message.into_owned()));
    }
    if let Some(message) = read_findings(value) {
        return Some(Error::new(kind, message));
    }
    let object: Object<'_> = serde_json::from_str(value).ok()?;
    let mut error = Error::new(kind, read_sentence(object.message.told()?)?);
    if let Some(api_type) = object.api_type.word() {
        error = error.with_type(api_type.into_owned());
    }
    if let Some(param) = object.param() {
        error = error.with_param(param.into_owned());
    }
    let inner = object.innererror.object();
    // It passes as it stands, to readers of every kind.
    let passes = |json: &[u8]| !is_too_deep(json) && !has_half(json);
    if let Some(inner) = inner.filter(|inner| passes(inner.get().as_bytes())) {
        error = error.with_inner(inner);
    }
    match (object.code.word(), object.code.figure::<i64>()) {
        (Some(word), _) => Some(error.with_code(word.into_owned())),
        (None, Some(number)) => Some(error.with_code(number.to_string())),
        (None, None) => Some(error),
    }
}

/// An error's sentence, or what a validator found, bare or below `detail` or another `message`.
fn read_sentence(message: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Nested<'a> {
        #[serde(borrow, default)]
        detail: Field<'a>,
        #[serde(borrow, default)]
        message: Field<'a>,
    }
    let read = |told: &RawValue| {
        let text = told.get();
        let sentence = serde_json::from_str::<Text<'_>>(text).ok();
        sentence
            .map(|sentence| sentence.0.into_owned())
            .or_else(|| read_findings(text))
    };
    read(message).or_else(|| {
        let nested: Nested<'_> = serde_json::from_str(message.get()).ok()?;
        read(nested.detail.told().or(nested.message.told())?)
    })
}

/// Reads `[{"loc":["body","n"],"msg":"…"}]`, as servers written in Python tell what is wrong with a request. What stands
/// beside it may quote the prompt, and is left out.
fn read_findings(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Finding<'a> {
        #[serde(borrow)]
        msg: Cow<'a, str>,
        #[serde(default)]
        loc: Vec<Piece>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Piece {
        Name(String),
        Index(u64),
    }
    let findings: Vec<Finding<'_>> = serde_json::from_str(text).ok()?;
    let told = findings.into_iter().map(|finding| {
        let place: Vec<String> = finding
            .loc
            .into_iter()
            .map(|piece| match piece {
                Piece::Name(name) => name,
                Piece::Index(index) => index.to_string(),
            })
            .collect();
        match place.join(".") {
            place if place.is_empty() => finding.msg.into_owned(),
            place => format!("{place}: {}", finding.msg),
        }
    });
    let told: Vec<String> = told.collect();
    (!told.is_empty()).then(|| told.join("; "))
}

#[derive(Deserialize)]
struct Object<'a> {
    #[serde(borrow, default)]
    message: Field<'a>,
    #[serde(borrow, default, rename = "type")]
    api_type: Field<'a>,
    #[serde(borrow, default)]
    param: Field<'a>,
    #[serde(borrow, default)]
    code: Field<'a>,
    #[serde(borrow, default)]
    innererror: Field<'a>,
    #[serde(borrow, default, alias = "http_status_code", alias = "raw_status_code")]
    status_code: Field<'a>,
}

impl<'a> Object<'a> {
    /// The status that an error inside a 200 stands for: in figures, else by its code or its type.
    fn status(&self) -> Option<StatusCode> {
        let told = |field: Field<'_>| {
            let status = StatusCode::from_u16(field.figure()?).ok()?;
            (status.is_client_error() || status.is_server_error()).then_some(status)
        };
        let named = |field: Field<'_>| {
            let word = field.word()?;
            let (_, status) = STATUSES.iter().find(|(known, _)| *known == word)?;
            StatusCode::from_u16(*status).ok()
        };
        told(self.code)
            .or_else(|| told(self.status_code))
            .or_else(|| named(self.code))
            .or_else(|| named(self.api_type))
    }

    /// The parameter at fault; the first, where it is a list of them.
    fn param(&self) -> Option<Cow<'a, str>> {
        let listed = || {
            let list: Vec<Text<'a>> = serde_json::from_str(self.param.told()?.get()).ok()?;
            list.into_iter().next().map(|Text(name)| name)
        };
        self.param.word().or_else(listed)
    }
}

/// Finish reasons that tell a failure, and the status it stands for: Mistral's and OpenRouter's `error`, DeepSeek's and
/// Zhipu's own, what vLLM and SGLang say when their engine drops a request, TensorRT-LLM's `cancelled` and `timeout`.
const FAILURES: &[(&str, u16)] = &[
    ("error", 502),
    ("network_error", 502),
    ("insufficient_system_resource", 503),
    ("abort", 503),
    ("cancelled", 503),
    ("timeout", 504),
];
/// OpenAI's error codes and types, and the statuses they come with outside a stream:
/// <https://platform.openai.com/docs/guides/error-codes>.
const STATUSES: &[(&str, u16)] = &[
    ("content_filter", 400),
    ("invalid_request_error", 400),
    ("invalid_api_key", 401),
    ("authentication_error", 401),
    ("permission_error", 403),
    ("insufficient_quota", 429),
    ("rate_limit_error", 429),
    ("rate_limit_exceeded", 429),
    ("server_error", 500),
    ("server_is_overloaded", 503),
    ("service_unavailable_error", 503),
    ("slow_down", 429),
];
/// Enough for a sentence of a proxy's.
const MAX_SENTENCE_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_validator_found_is_told_and_the_input_is_not() {
        let findings = r#"[{"type":"extra_forbidden","loc":["body","messages",0,"x"],"msg":"Extra inputs are not permitted","input":"secret"},{"msg":"also"}]"#;
        for body in [
            format!(r#"{{"detail":{findings}}}"#),
            format!(
                r#"{{"object":"error","message":{{"detail":{findings}}},"type":"invalid_request_error","param":null,"code":null}}"#
            ),
            format!(
                r#"{{"object":"Error","message":{findings},"type":"invalid_request_error","code":3001}}"#
            ),
        ] {
            let error = read_error(StatusCode::UNPROCESSABLE_ENTITY, body.as_bytes());
            assert_eq!(
                error.message(),
                "body.messages.0.x: Extra inputs are not permitted; also"
            );
        }
        for body in [
            r#"{"detail":[]}"#,
            r#"{"message":{"detail":{"detail":[]}}}"#,
            r#"{"message":7}"#,
            r#"{"message":null}"#,
        ] {
            let error = read_error(StatusCode::BAD_GATEWAY, body.as_bytes());
            assert!(error.message().contains("502"), "{body}");
        }
    }

    #[test]
    fn every_form_that_errors_come_in_is_read() {
        let status = StatusCode::TOO_MANY_REQUESTS;
        let long = "é".repeat(200);
        for (body, message, param) in [
            (
                r#"{"error":{"message":"no","param":["a","b"]}}"#,
                "no",
                Some("a"),
            ),
            (
                r#"{"error":{"message":"no","type":{"x":1},"param":{}}}"#,
                "no",
                None,
            ),
            (r#"{"error":{"message":{"message":"no"}}}"#, "no", None),
            (r#"{"message":{"detail":"no"}}"#, "no", None),
            (r#"{"error":"no"}"#, "no", None),
            (r#""no""#, "no", None),
            (
                "upstream connect error\r\n or reset\n",
                "upstream connect error or reset",
                None,
            ),
            (&long, &long[..256], None),
            ("data: {\"error\":{\"message\":\"no\"}}\n\n", "no", None),
            ("event: error\ndata: {\"message\":\"no\"}", "no", None),
            ("data: no\n\n", "no", None),
        ] {
            let error = read_error(status, body.as_bytes());
            assert_eq!((error.message(), error.param()), (message, param), "{body}");
            assert_eq!(error.status(), status);
        }
        for body in [
            &b"<html>no</html>"[..],
            b"",
            b"\xff",
            b"a\0b",
            b"{\"a\":1}",
            b"[",
            b"{",
            b"7",
            b"null",
        ] {
            let error = read_error(status, body);
            assert!(error.message().contains("no readable error"), "{body:?}");
        }
    }

    #[test]
    fn azures_account_of_its_filter_passes_as_one_line() {
        let filters = r#"{"code":"ResponsibleAIPolicyViolation","content_filter_result":{"jailbreak":{"filtered":true}}}"#;
        let told = |inner: &str| {
            let body = format!(r#"{{"error":{{"message":"no","innererror":{inner}}}}}"#);
            let error = read_error(StatusCode::BAD_REQUEST, body.as_bytes());
            String::from_utf8(error.event()).unwrap()
        };
        let event = told(&filters.replace(",", ",\r\n\n  "));
        assert_eq!(event.matches('\n').count(), 2, "{event}");
        assert!(event.contains(r#""innererror":{"code":"ResponsibleAIPolicyViolation","#));
        let deep = "{\"a\":".repeat(200) + "1" + &"}".repeat(200);
        for odd in [
            &deep,
            "null",
            "7",
            "\"a\"",
            "[]",
            &format!("{{\"a\":\"{}\"}}", "b".repeat(5000)),
        ] {
            assert!(!told(odd).contains("innererror"), "{odd}");
        }
    }

    #[test]
    fn an_event_named_error_is_one_with_the_status_it_tells() {
        for (data, message, status) in [
            (r#"{"message":"busy","code":503}"#, "busy", 503),
            (r#"{"message":"busy","code":"429"}"#, "busy", 429),
            (r#"{"error":{"message":"busy","code":"slow"}}"#, "busy", 502),
            ("busy", "busy", 502),
        ] {
            let error = read_error_event(data.as_bytes());
            assert_eq!(
                (error.message(), error.status().as_u16()),
                (message, status)
            );
        }
        assert_eq!(read_error_event(b"{}").status().as_u16(), 502);
    }
}
