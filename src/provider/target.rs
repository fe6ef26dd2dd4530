//! One place to call: a provider, the base URL in force, and the credential to use there.

use std::sync::Arc;

use http::header::HOST;

use crate::{
    error::{Error, Kind},
    provider::{
        Base, Credential, Provider,
        credential::Header,
        grant::{Grant, Token},
        sigv4::Unsigned,
    },
};

#[derive(Clone, Debug)]
pub struct Target {
    pub provider: Arc<Provider>,
    pub base: Arc<Base>,
    pub credential: Option<Credential>,
    /// What the credential was exchanged for.
    token: Option<Token>,
    chosen_by: ChosenBy,
}

/// Who named the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChosenBy {
    Conf,
    Client,
}

impl Target {
    /// The target for `provider` with the client's wishes. A secret that the conf holds is for the host the conf names: to
    /// a host that the client chose, only the client's own goes.
    pub fn try_new(
        provider: Arc<Provider>,
        custom: Option<Base>,
        credential: Option<Credential>,
    ) -> Result<Self, Error> {
        let chosen_by = match custom {
            None => ChosenBy::Conf,
            Some(_) => ChosenBy::Client,
        };
        let name = &provider.name;
        let base = custom.map(Arc::new).or_else(|| provider.base.clone()).ok_or_else(|| {
            let message = format!("{name} has no public host: name one in `x-portkey-custom-host` or in the gateway's conf.");
            Error::invalid("x-portkey-custom-host", message)
        })?;
        let conf = Some(&*provider).filter(|_| chosen_by == ChosenBy::Conf);
        Ok(Self {
            base,
            credential: credential.or_else(|| conf?.credential.clone()),
            token: None,
            chosen_by,
            provider,
        })
    }

    /// What has to be exchanged for a token, given to [`Target::settle`], before a call.
    pub fn grant(&self) -> Option<Grant> {
        self.credential.as_ref().and_then(Credential::grant)
    }

    pub fn settle(&mut self, token: Token) {
        self.token = Some(token);
    }

    /// Whether calls are signed: see [`Target::sign`].
    pub fn signs(&self) -> bool {
        self.credential.as_ref().is_some_and(Credential::signs)
    }

    /// What every call to this target carries: its host, the conf's headers, the credential. Each name once.
    pub fn headers(&self) -> Result<Vec<Header>, Error> {
        let mut headers = vec![(HOST, self.base.host_header().clone())];
        if self.chosen_by == ChosenBy::Conf {
            headers.extend(self.provider.headers.iter().cloned());
        }
        if let Some(credential) = &self.credential {
            headers.extend(credential.header(&self.provider.auth, self.token.as_ref())?);
        }
        Ok(headers)
    }

    /// The headers that sign a call, to be set over its others. `now`: Unix time, seconds.
    pub fn sign(&self, request: Unsigned<'_>, now: u64) -> Result<Vec<Header>, Error> {
        match &self.credential {
            Some(credential) => credential.sign(self.token.as_ref(), request, now),
            None => Ok(Vec::new()),
        }
    }

    /// `error` as the client may see it: an upstream's own under the provider's name, and no error with a secret in it.
    pub fn attribute(&self, mut error: Error) -> Error {
        if let Some(credential) = &self.credential {
            error = credential.redact(error);
        }
        for secret in self.token.iter().flat_map(Token::secrets) {
            error = error.without(secret.expose());
        }
        match error.kind() {
            Kind::Upstream(_) => error.with_provider(&self.provider.name),
            _ => error,
        }
    }
}
