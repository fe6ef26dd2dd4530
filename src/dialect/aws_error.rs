//! The errors of AWS's runtimes, Bedrock's and SageMaker's, as a reply's body and as a message in a stream.
//!
//! Source: <https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStreamOutput.html>,
//! <https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_InvokeModelWithResponseStream.html#API_runtime_InvokeModelWithResponseStream_Errors>
//! and <https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_ResponseStream.html>.
//! Of a whole error reply the exception's name stands in the header `x-amzn-errortype` alone, which no dialect sees: its type is
//! the one that OpenAI gives its status.

use std::borrow::Cow;

use http::StatusCode;
use serde::Deserialize;

use crate::{
    dialect::unreadable_error,
    error::{Error, Kind},
    wire::{Form, Frame},
};

/// The error that a message is by its own headers.
pub fn read_message(frame: &Frame) -> Option<Error> {
    let name = String::from_utf8_lossy(&frame.event);
    let status = status_of(&name);
    let error = match frame.form {
        Form::Exception => read_error(status, &frame.data),
        Form::Error => {
            let message = String::from_utf8_lossy(&frame.data);
            Error::new(Kind::Upstream(status), message.into_owned())
        }
        Form::Canonical | Form::Other | Form::Comment => return None,
    };
    Some(match &*name {
        "" => error,
        name => error.with_type(name),
    })
}

/// Reads `{"message":"…"}`; SageMaker, and what stands before Bedrock, capitalises it, and may name the exception.
pub fn read_error(status: StatusCode, body: &[u8]) -> Error {
    #[derive(Deserialize)]
    struct Reply<'a> {
        #[serde(borrow, alias = "Message")]
        message: Cow<'a, str>,
        #[serde(borrow, default, rename = "__type")]
        name: Option<Cow<'a, str>>,
    }
    let Ok(reply) = serde_json::from_slice::<Reply<'_>>(body) else {
        return unreadable_error(status);
    };
    let error = Error::new(Kind::Upstream(status), reply.message.into_owned());
    // "com.amazon.coral.service#AccessDeniedException": the name is what stands behind the namespace.
    match reply
        .name
        .as_deref()
        .and_then(|name| name.rsplit('#').next())
    {
        None | Some("") => error,
        Some(name) => error.with_type(name),
    }
}

/// The status an exception comes with outside a stream. A stream's names begin in lower case.
fn status_of(name: &str) -> StatusCode {
    STATUSES
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .and_then(|&(_, status)| StatusCode::from_u16(status).ok())
        .unwrap_or(StatusCode::BAD_GATEWAY)
}

/// "HTTP Status Code" of each exception. Those of SageMaker's streams have none: a model's failure counts as its `ModelError`.
const STATUSES: &[(&str, u16)] = &[
    ("AccessDeniedException", 403),
    ("ConflictException", 400),
    ("InternalServerException", 500),
    ("InternalStreamFailure", 500),
    ("ModelErrorException", 424),
    ("ModelNotReadyException", 429),
    ("ModelStreamError", 424),
    ("ModelStreamErrorException", 424),
    ("ModelTimeoutException", 408),
    ("ResourceNotFoundException", 404),
    ("ServiceQuotaExceededException", 400),
    ("ServiceUnavailableException", 503),
    ("ThrottlingException", 429),
    ("ValidationException", 400),
];

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(
        event: &'static str,
        data: &'static str,
        form: Form,
    ) -> Option<(u16, String, String)> {
        let frame = Frame {
            raw: Bytes::new(),
            event: Bytes::from_static(event.as_bytes()),
            data: Bytes::from_static(data.as_bytes()),
            form,
        };
        read_message(&frame).map(|error| {
            let told: serde_json::Value = serde_json::from_slice(&error.body()).unwrap();
            let api_type = told["error"]["type"].as_str().unwrap().to_owned();
            (
                error.status().as_u16(),
                error.message().to_owned(),
                api_type,
            )
        })
    }

    #[test]
    fn an_exception_has_the_status_its_name_stands_for() {
        let told =
            |status, message: &str, name: &str| Some((status, message.to_owned(), name.to_owned()));
        for (name, status) in [
            ("internalServerException", 500),
            ("modelStreamErrorException", 424),
            ("modelTimeoutException", 408),
            ("validationException", 400),
            ("throttlingException", 429),
            ("serviceUnavailableException", 503),
            ("newException", 502),
        ] {
            let busy = message(
                name,
                r#"{"message":"busy","originalStatusCode":500}"#,
                Form::Exception,
            );
            assert_eq!(busy, told(status, "busy", name));
        }
        let plain = message(
            "InternalError",
            "An internal server error occurred",
            Form::Error,
        );
        assert_eq!(
            plain,
            told(502, "An internal server error occurred", "InternalError")
        );
        assert_eq!(message("chunk", "{}", Form::Other), None);
        let untold = message("throttlingException", "", Form::Exception).unwrap();
        assert_eq!(untold.0, 429);
    }

    #[test]
    fn an_error_reply_keeps_its_words() {
        for (body, message) in [
            (r#"{"message":"Too many tokens."}"#, "Too many tokens."),
            (
                r#"{"Message":"User is not authorized"}"#,
                "User is not authorized",
            ),
            (r#"{"__type":"a.b#X","message":"no"}"#, "no"),
        ] {
            let error = read_error(StatusCode::FORBIDDEN, body.as_bytes());
            assert_eq!((error.status().as_u16(), error.message()), (403, message));
        }
        for body in ["", "<html>", "{}", "[]", r#"{"message":null}"#] {
            let error = read_error(StatusCode::BAD_GATEWAY, body.as_bytes());
            assert!(error.message().contains("502"), "{body}");
        }
    }
}
