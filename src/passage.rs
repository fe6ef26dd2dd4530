//! A request of the transparent proxy, on its way to the provider or the app that was chosen for it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use crate::{
    error::Error,
    front::App,
    provider::{Auth, Base, Credential, Target, live::LiveToken, sigv4::Unsigned},
};

/// A request of the transparent proxy: unchanged but for credentials, host and the path's prefix. On its way to an app it
/// keeps its credentials too, and its `x-portkey-*` headers: they may be meant for it.
#[derive(Debug)]
pub struct Passage {
    pub target: Target,
    /// The upstream's path and query.
    pub path: String,
    /// What is set over the client's headers. Empty until the credential of a target with a grant is settled.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The client's body, whole, where a signature has to cover it.
    pub body: Option<Bytes>,
    /// `None`: its target is a provider.
    pub app: Option<Arc<App>>,
    /// It asks for a websocket, and may: how long that may stay when neither side says anything.
    pub upgrade: Option<Duration>,
}

impl Passage {
    /// One to an app. `path`: what of the request's own the app is asked for.
    pub fn to_app(app: &Arc<App>, path: &str, query: Option<&str>, headers: &HeaderMap) -> Self {
        let base = &app.target.base.path;
        let slash = if base.is_empty() && path.is_empty() {
            "/"
        } else {
            ""
        };
        let mut path = format!("{base}{slash}{path}");
        if let Some(query) = query {
            path.push('?');
            path.push_str(query);
        }
        Self {
            target: app.target.clone(),
            path,
            headers: Vec::new(),
            body: None,
            app: Some(app.clone()),
            upgrade: app.websocket.filter(|_| asks_for_websocket(headers)),
        }
    }

    /// The app's longest silence, where it has one of its own.
    pub fn read(&self) -> Option<Duration> {
        self.app.as_ref().and_then(|app| app.read)
    }

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

    /// Whether it goes to a server of the operator's own, which takes no key: like an app, it gets what the client sent.
    pub fn is_for_own_server(&self) -> bool {
        self.app.is_some() || self.target.provider.auth == Auth::None && !self.target.signs()
    }

    /// Takes the token that the credential was exchanged for.
    pub fn settle(&mut self, token: impl Into<LiveToken>) -> Result<(), Error> {
        self.target.settle(token);
        self.headers = self.target.headers()?;
        Ok(())
    }
}

/// Whether a header of the client's is kept from every provider: what it knows of its way here, of other sites, and what opens
/// the metadata of a cloud's machine.
pub fn is_withheld(name: &HeaderName) -> bool {
    name.as_str().starts_with("x-forwarded-") || WITHHELD.contains(&name.as_str())
}

/// Whether a header of a provider's is kept from the client: it is about the provider's own site, not ours.
pub fn is_foreign(name: &HeaderName) -> bool {
    name.as_str().starts_with("access-control-") || FOREIGN.contains(&name.as_str())
}

/// RFC 6455, section 4.1.
pub fn asks_for_websocket(headers: &HeaderMap) -> bool {
    let wanted = headers.get(header::UPGRADE);
    wanted.is_some_and(|wanted| wanted.as_bytes().eq_ignore_ascii_case(b"websocket"))
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

const WITHHELD: &[&str] = &[
    "cookie",
    "forwarded",
    "metadata",
    "metadata-flavor",
    "via",
    "x-aws-ec2-metadata-token",
    "x-google-metadata-request",
    "x-real-ip",
];
const FOREIGN: &[&str] = &[
    "alt-svc",
    "server",
    "set-cookie",
    "strict-transport-security",
];
/// Where clients put keys. Theirs is one of another provider's if it is not the one that goes there.
pub const CREDENTIALS: &[&str] = &["api-key", "authorization", "x-api-key", "x-goog-api-key"];
