//! One place to call: a provider, the base URL in force, and the credential to use there.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, StatusCode, header::HOST};

use crate::{
    error::{Error, Kind},
    provider::{
        Base, Credential, Provider, Secret, Wish,
        base::Scheme,
        credential::Header,
        grant::Grant,
        live::LiveToken,
        place::{Filled, NamedBy},
        pool::{KeyPool, TakenKey},
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
    /// Which of several keys it has.
    key: Option<TakenKey>,
    /// Who chose whose host it is.
    chosen_by: NamedBy,
}

/// What one call asks of its target.
pub struct Choice<'a> {
    /// A host of the client's own.
    pub custom: Option<Base>,
    /// The client's own.
    pub credential: Option<Credential>,
    /// A credential of the conf's that takes the place of the provider's.
    pub held: Option<Credential>,
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
            held: None,
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
        let held = conf.and_then(|conf| choice.held.or_else(|| conf.credential.clone()));
        let credential = choice.credential.or(held);
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
            key: None,
            chosen_by: filled.by,
            provider,
        })
    }

    /// What has to be exchanged for a token, given to [`Target::settle`], before a call.
    pub fn grant(&self) -> Option<Grant> {
        self.credential.as_ref().and_then(Credential::grant)
    }

    /// What a key has to be taken from, given to [`Target::take`], before a call.
    pub fn pool(&self) -> Option<&Arc<KeyPool>> {
        match &self.credential {
            Some(Credential::Pool(pool)) => Some(pool),
            _ => None,
        }
    }

    pub fn take(&mut self, key: TakenKey) {
        self.credential = Some(Credential::Key(key.secret.clone()));
        self.key = Some(key);
    }

    /// The key that was taken, if there were several.
    pub fn taken(&self) -> Option<&TakenKey> {
        self.key.as_ref()
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

    /// The target that `url`, of this one's answer, names, and the query that it ends in. What goes here goes there too, so
    /// that `url` has to be of this origin or, if this is one of `hosts`, of another of them by HTTPS.
    pub fn followed(&self, url: &str, hosts: &[&str]) -> Result<(Self, String), Error> {
        let strange =
            || Error::broken("The provider's answer goes on at an address that is not its own.");
        let (place, query) = url.split_once('?').unwrap_or((url, ""));
        let plain = query
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'#');
        let there = Base::try_new(place, "url").map_err(|_| strange())?;
        let here = &*self.base;
        let is_vendors = |base: &Base| {
            let default = base.scheme == Scheme::Https && base.port == HTTPS_PORT;
            default && hosts.contains(&base.host.as_str())
        };
        let same = (there.scheme, &there.host, there.port) == (here.scheme, &here.host, here.port);
        if !plain || !(same || is_vendors(here) && is_vendors(&there)) {
            return Err(strange());
        }
        let base = Arc::new(there.within(here.reach.clone()));
        Ok((
            Self {
                base,
                ..self.clone()
            },
            query.to_owned(),
        ))
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
        secrets.any(|secret| {
            // Most values are too short, and a search takes its preparations.
            secret.len() <= value.len() && memchr::memmem::find(value, secret.as_bytes()).is_some()
        })
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

const HTTPS_PORT: u16 = 443;
/// A key that is shorter is a placeholder for an upstream that wants none; any header may hold it by chance, the lengths and
/// types among them.
const MIN_KEY_BYTES: usize = 8;
/// A header of the conf that is shorter is a word, not a secret.
const MIN_SECRET_BYTES: usize = 12;
/// The slot whose value a signature has to name too.
const REGION: &str = "aws_region";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const HOSTS: &[&str] = &["api.replicate.com", "stream.replicate.com"];

    fn target(host: Option<&str>) -> Target {
        let provider = Config::default().providers["replicate"].clone();
        let choice = Choice {
            custom: host.map(|host| Base::try_new(host, "host").unwrap()),
            credential: None,
            held: None,
            model: "m",
            option: &|_| Ok(None),
        };
        Target::try_new(provider, choice).unwrap()
    }

    #[test]
    fn an_answer_leads_to_its_own_host_and_the_vendors() {
        let own = target(None);
        for url in [
            "https://stream.replicate.com/v1/files/bcwr-1",
            "https://STREAM.replicate.com:443/v1",
            "https://api.replicate.com/v1/predictions/p/cancel",
        ] {
            assert!(own.followed(url, HOSTS).is_ok(), "{url}");
        }
        let (there, query) = own
            .followed("https://stream.replicate.com/a?b=c", HOSTS)
            .unwrap();
        assert_eq!((there.base.path.as_str(), query.as_str()), ("/a", "b=c"));
        let moved = target(Some("http://127.0.0.1:81/v1"));
        assert!(moved.followed("http://127.0.0.1:81/x", HOSTS).is_ok());
        for url in STRANGE {
            assert_eq!(own.followed(url, HOSTS).unwrap_err().status(), 502, "{url}");
            assert_eq!(
                moved.followed(url, HOSTS).unwrap_err().status(),
                502,
                "{url}"
            );
        }
        assert!(
            moved
                .followed("https://stream.replicate.com/v1", HOSTS)
                .is_err()
        );
    }

    const STRANGE: &[&str] = &[
        "",
        "/v1/files/1",
        "stream.replicate.com",
        "https://evil.example/v1",
        "https://stream.replicate.com.evil.example/v1",
        "https://evil-stream.replicate.com/v1",
        "https://replicate.com/v1",
        "http://stream.replicate.com/v1",
        "https://stream.replicate.com:8443/v1",
        "https://stream.replicate.com@evil.example/v1",
        "https://evil.example#@stream.replicate.com/v1",
        "https://stream.replicate.com/v1#x",
        "https://stream.replicate.com/v1?a#b",
        "https://stream.replicate.com/v1?a b",
        "https://stream.replicate.com\\@evil.example/v1",
        "https://stream.replicate.com./v1",
        "https://127.0.0.1/v1",
        "https://127.0.0.1:81/v1",
        "https://[::1]/v1",
        "http://127.0.0.1:82/v1",
        "http://169.254.169.254/latest",
        "file:///etc/passwd",
        "https://stream.replicate.com/v1\r\nx: y",
    ];
}
