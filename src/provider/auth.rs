//! As whom a call goes upstream: the credential's type, and the header that carries it.

use std::{fmt, sync::Arc};

use http::{HeaderName, HeaderValue, header::AUTHORIZATION};
use secrecy::{ExposeSecret, SecretString};

use crate::error::{Error, Kind};

/// A credential. It prints as nothing and is wiped when dropped; [`Secret::expose`] is the only way in.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// `None` for an empty or blank text, which clients send for "no key".
    pub fn try_new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(SecretString::from(text)))
    }

    /// A key from an `Authorization` value, with or without `Bearer `.
    pub fn from_authorization(value: &str) -> Option<Self> {
        let value = value.trim();
        let bearer = value
            .get(..BEARER.len())
            .filter(|scheme| scheme.eq_ignore_ascii_case(BEARER))
            .and_then(|_| value.get(BEARER.len()..));
        // `Bearer` alone is a client without a key, and two words are another scheme.
        let is_bare = !value.eq_ignore_ascii_case(BEARER.trim_end()) && !value.contains(' ');
        Self::try_new(bearer.or(is_bare.then_some(value))?)
    }

    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// A secret that somebody else keeps fresh, such as a file that Kubernetes rewrites about once an hour: read anew for every
/// use.
#[derive(Clone)]
pub struct FreshSecret {
    /// What tells it from others; the secret itself, if it is one that does not change.
    place: Secret,
    read: Arc<dyn Fn() -> Option<Secret> + Send + Sync>,
}

impl FreshSecret {
    /// `place` tells it from others.
    pub fn new(place: &str, read: impl Fn() -> Option<Secret> + Send + Sync + 'static) -> Self {
        Self {
            place: Secret(SecretString::from(place)),
            read: Arc::new(read),
        }
    }

    pub fn fixed(secret: Secret) -> Self {
        Self {
            place: secret.clone(),
            read: Arc::new(move || Some(secret.clone())),
        }
    }

    /// As it is now; `None`: it cannot be read.
    pub fn read(&self) -> Option<Secret> {
        (self.read)()
    }

    pub fn place(&self) -> &str {
        self.place.expose()
    }
}

impl fmt::Debug for FreshSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// How a provider wants its credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// `Authorization: Bearer <key>`.
    Bearer,
    /// The key alone in a header of the provider's.
    Header(HeaderName),
    /// No credential is sent.
    None,
}

impl Auth {
    /// The header to send; its value prints as "Sensitive" and never enters an HPACK table.
    pub fn header(&self, key: Option<&Secret>) -> Result<Option<(HeaderName, HeaderValue)>, Error> {
        let Some(key) = key else { return Ok(None) };
        let (name, text) = match self {
            Self::Bearer => (AUTHORIZATION, [BEARER, key.expose()].concat()),
            Self::Header(name) => (name.clone(), key.expose().to_owned()),
            Self::None => return Ok(None),
        };
        let mut value = HeaderValue::try_from(text).map_err(|_| {
            Error::new(
                Kind::Invalid,
                "The API key holds characters that no header can carry.",
            )
        })?;
        value.set_sensitive(true);
        Ok(Some((name, value)))
    }

    /// How tables and YAML call it.
    pub fn title(&self) -> String {
        match self {
            Self::Bearer => "bearer".to_owned(),
            Self::Header(name) => format!("header {name}"),
            Self::None => "none".to_owned(),
        }
    }
}

const BEARER: &str = "Bearer ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_taken_with_or_without_bearer() {
        for value in ["sk-1", "Bearer sk-1", "bearer sk-1", "  Bearer  sk-1 "] {
            assert_eq!(
                Secret::from_authorization(value).unwrap().expose(),
                "sk-1",
                "{value}"
            );
        }
        for empty in ["", " ", "Bearer", "Bearer ", "Basic dTpw"] {
            assert!(Secret::from_authorization(empty).is_none(), "{empty:?}");
        }
    }

    #[test]
    fn a_secret_never_prints() {
        let secret = Secret::try_new("sk-1").unwrap();
        let (_, value) = Auth::Bearer.header(Some(&secret)).unwrap().unwrap();
        assert!(!format!("{secret:?} {value:?}").contains("sk-1"));
        assert_eq!(value, "Bearer sk-1");
    }
}
