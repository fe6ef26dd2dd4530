//! One place to call: a provider, the base URL in force, and the key to use there.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, header::HOST};

use crate::{
    error::{Error, Kind},
    provider::{
        Base, Provider, Secret,
        place::{Filled, NamedBy, Slot},
    },
};

#[derive(Clone, Debug)]
pub struct Target {
    pub provider: Arc<Provider>,
    pub base: Arc<Base>,
    /// What the place adds to every path's query; empty: nothing.
    pub query: String,
    pub key: Option<Secret>,
    /// Who chose whose host it is.
    chosen_by: NamedBy,
}

/// What one call asks of its target.
pub struct Choice<'a> {
    /// A host of the client's own.
    pub custom: Option<Base>,
    pub key: Option<Secret>,
    pub model: &'a str,
    /// The client's value for a slot of the provider's place.
    pub option: &'a dyn Fn(&Slot) -> Result<Option<String>, Error>,
}

impl Target {
    /// The target for `provider` with the client's wishes. A secret that the conf holds is for the host the conf names: to
    /// a host that the client chose, only the client's own key goes.
    pub fn try_new(provider: Arc<Provider>, choice: Choice<'_>) -> Result<Self, Error> {
        let filled = match choice.custom {
            Some(base) => Filled {
                by: NamedBy::Client,
                ..Filled::from(base)
            },
            None => provider.locate(choice.model, choice.option)?,
        };
        let conf = Some(&*provider).filter(|_| filled.by == NamedBy::Conf);
        Ok(Self {
            base: Arc::new(filled.base),
            query: filled.query,
            key: choice.key.or_else(|| conf?.key.clone()),
            chosen_by: filled.by,
            provider,
        })
    }

    /// What every call to this target carries: its host, the conf's headers, the credential. Each name once.
    pub fn headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>, Error> {
        let mut headers = vec![(HOST, self.base.host_header().clone())];
        if self.chosen_by == NamedBy::Conf {
            headers.extend(self.provider.headers.iter().cloned());
        }
        headers.extend(self.provider.auth.header(self.key.as_ref())?);
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

    /// `error` as the client may see it: an upstream's own under the provider's name, and no error with the key in it.
    pub fn attribute(&self, error: Error) -> Error {
        let error = match &self.key {
            Some(key) => error.without(key.expose()),
            None => error,
        };
        match error.kind() {
            Kind::Upstream(_) => error.with_provider(&self.provider.name),
            _ => error,
        }
    }
}
