//! A Google service account: its key signs a JWT, which is exchanged for an access token.
//!
//! Source: <https://developers.google.com/identity/protocols/oauth2/service-account#httprest>.

use std::{borrow::Cow, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Kind},
    provider::{Base, grant::TokenRequest, rsa::RsaKey},
};

/// An account's key file, read.
#[derive(Debug)]
pub struct ServiceAccount {
    email: String,
    key_id: Option<String>,
    key: RsaKey,
    endpoint: Arc<Base>,
}

impl ServiceAccount {
    /// Reads a key file. Its `token_uri` is not called: whoever may send a key file would choose a host for us to call. It
    /// is refused where it is not Google's.
    pub fn read(json: &str) -> Result<Self, Error> {
        let file: KeyFile<'_> =
            serde_json::from_str(json).map_err(|_| wrong("it is not the JSON of a key file"))?;
        if file
            .kind
            .as_deref()
            .is_some_and(|kind| kind != "service_account")
        {
            return Err(wrong("its `type` is not `service_account`"));
        }
        if file
            .token_uri
            .is_some_and(|uri| !ENDPOINTS.contains(&&*uri))
        {
            return Err(wrong("its `token_uri` is not Google's"));
        }
        let email = file.client_email.filter(|email| !email.is_empty());
        let key = file
            .private_key
            .ok_or_else(|| wrong("it has no `private_key`"))?;
        Ok(Self {
            email: email
                .ok_or_else(|| wrong("it has no `client_email`"))?
                .into_owned(),
            key_id: file.private_key_id.map(Cow::into_owned),
            key: RsaKey::read(key.expose_secret(), "private_key")?,
            endpoint: Arc::new(Base::try_new(ENDPOINT, "token_uri")?),
        })
    }

    /// The same account with another token endpoint, which a conf named.
    pub fn at(mut self, endpoint: Base) -> Self {
        self.endpoint = Arc::new(endpoint);
        self
    }

    pub(super) fn request(&self, now: u64) -> Result<TokenRequest, Error> {
        let assertion = self.assertion(now)?;
        let pairs = [
            ("grant_type", JWT_BEARER),
            ("assertion", assertion.expose_secret()),
        ];
        let path = self.endpoint.path.clone();
        Ok(TokenRequest::form(&self.endpoint, path, &pairs))
    }

    /// RFC 7519, signed as RFC 7518's `RS256`.
    fn assertion(&self, now: u64) -> Result<SecretString, Error> {
        let head = Head {
            alg: "RS256",
            kid: self.key_id.as_deref(),
            typ: "JWT",
        };
        let claims = Claims {
            iss: &self.email,
            scope: SCOPE,
            aud: ENDPOINT,
            iat: now,
            exp: now.saturating_add(ASSERTED_SECONDS),
        };
        let text = format!("{}.{}", part(&head)?, part(&claims)?);
        let signature = URL_SAFE_NO_PAD.encode(self.key.sign(text.as_bytes())?);
        Ok(SecretString::from(format!("{text}.{signature}")))
    }

    pub(super) fn identify<'s>(&'s self, parts: &mut Vec<&'s [u8]>) {
        let (host, path) = (self.endpoint.host_header(), &self.endpoint.path);
        parts.extend([
            b"google",
            self.email.as_bytes(),
            self.key.digest(),
            host.as_bytes(),
            path.as_bytes(),
        ]);
    }
}

fn part(value: &impl Serialize) -> Result<String, Error> {
    let json = serde_json::to_vec(value);
    let json = json.map_err(|_| Error::new(Kind::Internal, "The assertion could not be made."))?;
    Ok(URL_SAFE_NO_PAD.encode(json))
}

fn wrong(why: &str) -> Error {
    Error::new(
        Kind::Invalid,
        format!("The Google service account cannot be used: {why}."),
    )
}

#[derive(Deserialize)]
struct KeyFile<'f> {
    #[serde(borrow, rename = "type", default)]
    kind: Option<Cow<'f, str>>,
    #[serde(borrow, default)]
    client_email: Option<Cow<'f, str>>,
    #[serde(borrow, default)]
    private_key_id: Option<Cow<'f, str>>,
    #[serde(default)]
    private_key: Option<SecretString>,
    #[serde(borrow, default)]
    token_uri: Option<Cow<'f, str>>,
}

#[derive(Serialize)]
struct Head<'a> {
    alg: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<&'a str>,
    typ: &'static str,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    scope: &'static str,
    aud: &'static str,
    iat: u64,
    exp: u64,
}

const ENDPOINT: &str = "https://oauth2.googleapis.com/token";
/// The second stands in old key files.
const ENDPOINTS: [&str; 2] = [ENDPOINT, "https://accounts.google.com/o/oauth2/token"];
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// The longest that Google takes.
const ASSERTED_SECONDS: u64 = 3600;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const KEY: &str = include_str!("../../tests/fixtures/credentials/rsa.pem");
    /// Made by google-auth and by PyJWT from the same key at the same second: tests/fixtures/credentials/peers.py.
    const GOOGLE_AUTH: &str = include_str!("../../tests/fixtures/credentials/google_assertion.txt");
    const PYJWT: &str = include_str!("../../tests/fixtures/credentials/jwt.txt");

    fn file() -> Value {
        json!({
            "type": "service_account",
            "project_id": "p",
            "private_key_id": "kid-1",
            "private_key": KEY,
            "client_email": "robot@p.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": ENDPOINT,
        })
    }

    fn parts(assertion: &str) -> (Value, Value) {
        let part = |at| {
            let text = assertion.trim().split('.').nth(at).unwrap();
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap()
        };
        (part(0), part(1))
    }

    #[test]
    fn google_auth_and_pyjwt_assert_the_same() {
        let account = ServiceAccount::read(&file().to_string()).unwrap();
        let ours = account.assertion(1_766_592_000).unwrap();
        // google-auth writes its JSON in another order, PyJWT in ours.
        assert_eq!(parts(ours.expose_secret()), parts(GOOGLE_AUTH));
        assert_eq!(ours.expose_secret(), PYJWT.trim());
    }

    #[test]
    fn the_request_is_a_form_and_shows_nothing() {
        let account = ServiceAccount::read(&file().to_string()).unwrap();
        let request = account.request(1).unwrap();
        assert_eq!(request.path, "/token");
        let body = String::from_utf8(request.body.to_vec()).unwrap();
        let start =
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=eyJ";
        assert!(body.starts_with(start), "{body}");
        assert!(!format!("{request:?} {account:?}").contains("eyJ"));
    }

    #[test]
    fn what_a_key_file_lacks_is_named() {
        for (field, value, told) in [
            ("type", json!("external_account"), "`type`"),
            (
                "token_uri",
                json!("https://evil.example/token"),
                "`token_uri`",
            ),
            ("client_email", Value::Null, "`client_email`"),
            ("private_key", Value::Null, "`private_key`"),
            ("private_key", json!("sk-secret"), "`private_key`"),
            ("private_key", json!(7), "JSON"),
        ] {
            let mut file = file();
            file[field] = value;
            let error = ServiceAccount::read(&file.to_string()).unwrap_err();
            assert_eq!(error.status(), 400);
            assert!(error.message().contains(told), "{error}");
            assert!(!error.message().contains("sk-") && !error.message().contains("evil"));
        }
    }
}
