//! The errors of OpenAI-shaped servers, in the forms that its copies have given them.

use std::borrow::Cow;

use http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    dialect::unreadable_error,
    error::{Error, Kind},
};

/// Reads what stands in place of a completion: an error inside a 200, whole or streamed. It counts as the HTTP error it
/// stands for where it names one, else as a failure of the provider.
pub fn read_stream_error(error: &RawValue) -> Error {
    let status = serde_json::from_str::<Object<'_>>(error.get())
        .ok()
        .and_then(|object| object.status())
        .unwrap_or(StatusCode::BAD_GATEWAY);
    read_error_value(status, error.get()).unwrap_or_else(nameless_error)
}

pub fn nameless_error() -> Error {
    unreadable_error(StatusCode::BAD_GATEWAY)
}

/// Reads the error forms of OpenAI-shaped servers: `{"error":{…}}`, `{"error":"…"}`, `{"message":…}`, `{"detail":…}`.
pub fn read_error(status: StatusCode, body: &[u8]) -> Error {
    #[derive(Deserialize)]
    struct Reply<'a> {
        #[serde(borrow, default)]
        error: Option<&'a RawValue>,
        #[serde(borrow, default)]
        detail: Option<&'a RawValue>,
    }
    let read = || {
        let text = std::str::from_utf8(body).ok()?;
        let reply: Reply<'_> = serde_json::from_str(text).ok()?;
        let value = reply.error.or(reply.detail).map_or(text, RawValue::get);
        read_error_value(status, value)
    };
    read().unwrap_or_else(|| unreadable_error(status))
}

fn read_error_value(status: StatusCode, value: &str) -> Option<Error> {
    let kind = Kind::Upstream(status);
    if let Ok(message) = serde_json::from_str::<String>(value) {
        return Some(Error::new(kind, message));
    }
    if let Some(message) = read_findings(value) {
        return Some(Error::new(kind, message));
    }
    let object: Object<'_> = serde_json::from_str(value).ok()?;
    let mut error = Error::new(kind, read_sentence(object.message?)?);
    if let Some(api_type) = object.api_type {
        error = error.with_type(api_type.into_owned());
    }
    if let Some(param) = object.param {
        error = error.with_param(param.into_owned());
    }
    match object.code {
        Some(Code::Word(word)) => Some(error.with_code(word)),
        Some(Code::Number(number)) => Some(error.with_code(number.to_string())),
        Some(Code::Other(_)) | None => Some(error),
    }
}

/// An error's sentence, or what a validator found, bare or below `detail`.
fn read_sentence(message: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Nested<'a> {
        #[serde(borrow)]
        detail: &'a RawValue,
    }
    let text = message.get();
    serde_json::from_str(text)
        .ok()
        .or_else(|| read_findings(text))
        .or_else(|| read_findings(serde_json::from_str::<Nested<'_>>(text).ok()?.detail.get()))
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
    message: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "type")]
    api_type: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    param: Option<Cow<'a, str>>,
    #[serde(default)]
    code: Option<Code>,
}

impl Object<'_> {
    fn status(&self) -> Option<StatusCode> {
        match self.code {
            Some(Code::Number(number)) => StatusCode::from_u16(u16::try_from(number).ok()?)
                .ok()
                .filter(|status| status.is_client_error() || status.is_server_error()),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Code {
    Word(String),
    Number(i64),
    Other(serde::de::IgnoredAny),
}

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
}
