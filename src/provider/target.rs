//! One place to call: a provider, the base URL in force, and the credential to use there.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, StatusCode, header::HOST};

use crate::{
    error::{Error, Kind},
    provider::{
        Base, Credential, Provider, Secret, Wish,
        credential::Header,
        grant::Grant,
        live::LiveToken,
        place::{Filled, NamedBy},
        sigv4::Unsigned,
    },
};

#[derive(Clone, Debug)]
pub struct Target {
    pub provider: Arc<Provider>,
    pub base: Arc<Base>,
    /// What the place adds to every path's query; empty: nothing.
    pub query: String,
    pub credential: Option<Credential>,
    /// What the place's slots are sent as.
    place_headers: Vec<Header>,
    /// What the credential was exchanged for.
    token: Option<LiveToken>,
    /// Who chose whose host it is.
    chosen_by: NamedBy,
}

/// What one call asks of its target.
pub struct Choice<'a> {
    /// A host of the client's own.
    pub custom: Option<Base>,
    pub credential: Option<Credential>,
    pub model: &'a str,
    /// The client's value for a slot of the provider's place.
    pub option: Wish<'a>,
}

#[cfg(test)]
impl Choice<'static> {
    /// Nothing but a credential.
    pub fn of(credential: Credential) -> Self {
        Self {
            custom: None,
            credential: Some(credential),
            model: "m",
            option: &|_| Ok(None),
        }
    }
}

impl Target {
    /// The target for `provider` with the client's wishes. A secret that the conf holds is for the host the conf names: to
    /// a host that the client chose, only the client's own goes.
    pub fn try_new(provider: Arc<Provider>, choice: Choice<'_>) -> Result<Self, Error> {
        let place_headers = provider.place_headers(choice.option)?;
        let filled = match choice.custom {
            Some(base) => Filled {
                by: NamedBy::Client,
                ..Filled::from(base)
            },
            None => provider.locate(choice.model, choice.option)?,
        };
        let conf = Some(&*provider).filter(|_| filled.by == NamedBy::Conf);
        let credential = choice.credential.or_else(|| conf?.credential.clone());
        let region = filled.values.iter().find(|(name, _)| *name == REGION);
        let credential = match (credential, region) {
            (Some(credential), Some((_, region))) => Some(credential.in_region(region)?),
            (credential, _) => credential,
        };
        Ok(Self {
            base: Arc::new(filled.base),
            query: filled.query,
            credential,
            place_headers,
            token: None,
            chosen_by: filled.by,
            provider,
        })
    }

    /// What has to be exchanged for a token, given to [`Target::settle`], before a call.
    pub fn grant(&self) -> Option<Grant> {
        self.credential.as_ref().and_then(Credential::grant)
    }

    pub fn settle(&mut self, token: impl Into<LiveToken>) {
        self.token = Some(token.into());
    }

    /// Notes an answer's head: one that refuses the token is the last that was asked for with it.
    pub fn heed(&self, status: StatusCode, headers: &HeaderMap) {
        if let Some(token) = &self.token {
            token.heed(status, headers);
        }
    }

    /// Whether calls are signed: see [`Target::sign`].
    pub fn signs(&self) -> bool {
        self.credential.as_ref().is_some_and(Credential::signs)
    }

    /// What every call to this target carries: its host, the conf's headers, the credential. Each name once.
    pub fn headers(&self) -> Result<Vec<Header>, Error> {
        let mut headers = vec![(HOST, self.base.host_header().clone())];
        headers.extend(self.place_headers.iter().cloned());
        if self.chosen_by == NamedBy::Conf {
            headers.extend(self.provider.headers.iter().cloned());
        }
        if let Some(credential) = &self.credential {
            let token = self.token.as_ref().map(LiveToken::token);
            headers.extend(credential.header(&self.provider.auth, token)?);
        }
        Ok(headers)
    }

    /// `path`, which may have a query, with the place's own query.
    pub fn with_query(&self, path: String) -> String {
        match (self.query.as_str(), path.contains('?')) {
            ("", _) => path,
            (query, true) => format!("{path}&{query}"),
            (query, false) => format!("{path}?{query}"),
        }
    }

    /// The headers that sign a call, to be set over its others. `now`: Unix time, seconds.
    pub fn sign(&self, request: Unsigned<'_>, now: u64) -> Result<Vec<Header>, Error> {
        match &self.credential {
            Some(credential) => {
                let token = self.token.as_ref().map(LiveToken::token);
                credential.sign(token, request, now)
            }
            None => Ok(Vec::new()),
        }
    }

    /// `error` as the client may see it: an upstream's own under the provider's name, and no error with a secret in it.
    pub fn attribute(&self, mut error: Error) -> Error {
        for secret in self.secrets() {
            error = error.without(secret);
        }
        match error.kind() {
            Kind::Upstream(_) => error.with_provider(&self.provider.name),
            _ => error,
        }
    }

    /// Whether `value`, of an upstream's header, repeats what was sent to it in confidence.
    pub fn betrays(&self, value: &HeaderValue) -> bool {
        let value = value.as_bytes();
        let mut secrets = self
            .secrets()
            .filter(|secret| secret.len() >= MIN_KEY_BYTES);
        secrets.any(|secret| memchr::memmem::find(value, secret.as_bytes()).is_some())
    }

    fn secrets(&self) -> impl Iterator<Item = &str> {
        let credential = self.credential.iter().flat_map(Credential::secrets);
        let token = self.token.iter().flat_map(|live| live.token().secrets());
        let told = self.provider.headers.iter();
        let headers = told.filter_map(|(_, value)| value.to_str().ok());
        let headers = headers.filter(|value| value.len() >= MIN_SECRET_BYTES);
        credential.chain(token).map(Secret::expose).chain(headers)
    }
}

/// A key that is shorter is a placeholder for an upstream that wants none; any header may hold it by chance, the lengths and
/// types among them.
const MIN_KEY_BYTES: usize = 8;
/// A header of the conf that is shorter is a word, not a secret.
const MIN_SECRET_BYTES: usize = 12;
/// The slot whose value a signature has to name too.
const REGION: &str = "aws_region";
