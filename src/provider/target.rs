//! One place to call: a provider, the base URL in force, and the key to use there.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use crate::{
    error::{Error, Kind},
    provider::{Base, Provider, Secret},
};

#[derive(Clone, Debug)]
pub struct Target {
    pub provider: Arc<Provider>,
    pub base: Base,
    pub key: Option<Secret>,
}

impl Target {
    /// The target for `provider` with the client's wishes. A key that the conf holds is for the host the conf names: to a
    /// host that the client chose, only the client's own key goes.
    pub fn try_new(
        provider: Arc<Provider>,
        custom: Option<Base>,
        key: Option<Secret>,
    ) -> Result<Self, Error> {
        let chosen_by_conf = custom.is_none();
        let name = &provider.name;
        let base = custom.or_else(|| provider.base.clone()).ok_or_else(|| {
            let message = format!("{name} has no public host: name one in `x-portkey-custom-host` or in the gateway's conf.");
            Error::invalid("x-portkey-custom-host", message)
        })?;
        let key = key.or_else(|| provider.key.clone().filter(|_| chosen_by_conf));
        Ok(Self {
            provider,
            base,
            key,
        })
    }

    /// What every call to this target carries: the conf's headers, then the credential.
    pub fn headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>, Error> {
        let mut headers = self.provider.headers.clone();
        headers.extend(self.provider.auth.header(self.key.as_ref())?);
        Ok(headers)
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
