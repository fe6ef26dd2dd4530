//! A request of the transparent proxy, on its way to the provider that was chosen for it.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::{
    error::Error,
    provider::{Auth, Base, Credential, Target, live::LiveToken, sigv4::Unsigned},
};

/// A request of the transparent proxy: unchanged but for credentials, host and the path's prefix.
#[derive(Debug)]
pub struct Passage {
    pub target: Target,
    /// The upstream's path and query.
    pub path: String,
    /// What is set over the client's headers. Empty until the credential of a target with a grant is settled.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The client's body, whole, where a signature has to cover it.
    pub body: Option<Bytes>,
}

impl Passage {
    /// The headers that sign it, to be set over `headers`. `now`: Unix time, seconds.
    pub fn sign(
        &self,
        method: &Method,
        headers: &HeaderMap,
        now: u64,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, Error> {
        let unsigned = Unsigned {
            method,
            path: &self.path,
            headers,
            body: self.body.as_deref().unwrap_or_default(),
        };
        self.target.sign(unsigned, now)
    }

    /// Whether the client's own `Authorization` must not go upstream: it held a key that goes there in the provider's
    /// form, or the conf's key takes its place. An upstream without a scheme of its own gets what the client sent.
    pub fn replaces_credentials(&self) -> bool {
        match &self.target.credential {
            Some(Credential::Key(_)) => self.target.provider.auth != Auth::None,
            Some(_) => true,
            None => false,
        }
    }

    /// Takes the token that the credential was exchanged for.
    pub fn settle(&mut self, token: impl Into<LiveToken>) -> Result<(), Error> {
        self.target.settle(token);
        self.headers = self.target.headers()?;
        Ok(())
    }
}

/// `/v1/x` means "x of this API": it goes below the base URL's own path. Any other path, and every path to a base URL
/// without one, stays as it is.
pub fn passed_path(base: &Base, path: &str, query: Option<&str>) -> String {
    let path = match path.strip_prefix("/v1") {
        Some(rest) if !base.path.is_empty() && (rest.is_empty() || rest.starts_with('/')) => {
            format!("{}{rest}", base.path)
        }
        _ => path.to_owned(),
    };
    match query {
        Some(query) => format!("{path}?{query}"),
        None => path,
    }
}
