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
    let object: Object<'_> = serde_json::from_str(value).ok()?;
    let mut error = Error::new(kind, object.message?.into_owned());
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

#[derive(Deserialize)]
struct Object<'a> {
    #[serde(borrow, default)]
    message: Option<Cow<'a, str>>,
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
