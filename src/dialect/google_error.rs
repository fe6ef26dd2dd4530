//! Google's error model, the `Status` of all its APIs.
//!
//! Source: <https://cloud.google.com/apis/design/errors>.

use std::borrow::Cow;

use http::StatusCode;
use serde::Deserialize;

use crate::error::{Error, Kind};

/// What went wrong.
#[derive(Deserialize)]
pub struct ToldError<'a> {
    #[serde(default)]
    code: u16,
    #[serde(borrow)]
    message: Cow<'a, str>,
    #[serde(borrow, default)]
    status: Cow<'a, str>,
}

impl ToldError<'_> {
    /// Whether it says so in Google's own word; other vendors' errors may have its other fields.
    pub fn is_named(&self) -> bool {
        !self.status.is_empty()
    }

    pub fn with_status(self, status: StatusCode) -> Error {
        let error = Error::new(Kind::Upstream(status), self.message.into_owned());
        match &*self.status {
            "" => error,
            api_type => error.with_type(api_type),
        }
    }

    /// An error inside a 200 counts as the HTTP error it names.
    pub fn told(self) -> Error {
        let status = StatusCode::from_u16(self.code)
            .ok()
            .filter(|status| status.is_client_error() || status.is_server_error())
            .unwrap_or(StatusCode::BAD_GATEWAY);
        self.with_status(status)
    }
}

/// Reads `{"error":{…}}`, also as the one element of a list, as the stream's address sends it.
pub fn read_told_error(body: &[u8]) -> Option<ToldError<'_>> {
    #[derive(Deserialize)]
    struct ErrorReply<'a> {
        #[serde(borrow)]
        error: ToldError<'a>,
    }
    let reply: ErrorReply<'_> = serde_json::from_slice(body)
        .or_else(|_| serde_json::from_slice(body).map(|[reply]: [ErrorReply<'_>; 1]| reply))
        .ok()?;
    Some(reply.error)
}
