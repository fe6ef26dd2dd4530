//! The built-in providers, one row each.

use http::HeaderName;

use crate::{
    dialect::{chat, openai},
    provider::{Auth, Row},
};

/// Sorted by name.
pub static ROWS: &[Row] = &[
    Row {
        name: "groq",
        base_url: "https://api.groq.com/openai/v1",
        dialect: &chat::OPENAI,
        auth: Auth::Bearer,
        refuses: &[],
    },
    Row {
        name: "openai",
        base_url: "https://api.openai.com/v1",
        dialect: &openai::VERBATIM,
        auth: Auth::Bearer,
        refuses: &[],
    },
];

#[expect(dead_code, reason = "anthropic and google rows use it")]
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
