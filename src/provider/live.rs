//! A token in use, and the word of the service it was shown to that it is not taken any more.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use http::{HeaderMap, HeaderValue, StatusCode};

use crate::provider::grant::Token;

/// A token of a cache. Clones share the mark that it was refused.
#[derive(Clone, Debug)]
pub struct LiveToken {
    token: Token,
    refused: Arc<AtomicBool>,
}

impl LiveToken {
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// Notes an answer's head: one that refuses the token makes the cache fetch another for the next request.
    pub fn heed(&self, status: StatusCode, headers: &HeaderMap) {
        if is_refusal(status, headers) {
            self.refuse();
        }
    }

    pub fn refuse(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    pub fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }
}

impl From<Token> for LiveToken {
    fn from(token: Token) -> Self {
        Self {
            token,
            refused: Arc::default(),
        }
    }
}

/// Google and Azure say 401. AWS says 403, which otherwise means that an identity lacks a right, and names the fault in a
/// header: `ExpiredTokenException:http://internal.amazon.com/coral/com.amazon.coral.service/`.
fn is_refusal(status: StatusCode, headers: &HeaderMap) -> bool {
    let fault = headers.get("x-amzn-errortype");
    let fault = fault.and_then(|value: &HeaderValue| value.to_str().ok());
    let fault = fault.unwrap_or_default();
    match status {
        StatusCode::UNAUTHORIZED => true,
        StatusCode::FORBIDDEN => OF_KEYS.iter().any(|known| fault.starts_with(known)),
        _ => false,
    }
}

/// AWS's faults of keys, by
/// <https://docs.aws.amazon.com/IAM/latest/APIReference/CommonErrors.html>: expired, and unknown.
const OF_KEYS: [&str; 4] = [
    "ExpiredToken",
    "UnrecognizedClient",
    "InvalidClientTokenId",
    "InvalidToken",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::Secret;

    #[test]
    fn a_refusal_of_the_token_is_told_from_other_failures() {
        let coral = "http://internal.amazon.com/coral/com.amazon.coral.service/";
        for (status, fault, refused) in [
            (401, "", true),
            (403, "", false),
            (403, "AccessDeniedException", false),
            (403, &format!("ExpiredTokenException:{coral}"), true),
            (403, "UnrecognizedClientException", true),
            (400, "ExpiredTokenException", false),
            (200, "", false),
            (429, "", false),
        ] {
            let token = Token::Bearer(Secret::try_new("t-1").unwrap());
            let token = LiveToken::from(token);
            let mut headers = HeaderMap::new();
            headers.insert("x-amzn-errortype", fault.parse().unwrap());
            token
                .clone()
                .heed(StatusCode::from_u16(status).unwrap(), &headers);
            assert_eq!(token.is_refused(), refused, "{status} {fault}");
        }
    }
}
