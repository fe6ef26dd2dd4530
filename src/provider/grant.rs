//! What fetches a token: the request to a token endpoint, and what its reply holds.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use ring::hmac;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::{
    error::{Error, Kind},
    provider::{Base, Secret, aws_metadata, azure, google, sigv4::Credentials, sts},
};

/// A credential that is not sent itself, but exchanged for a token.
#[derive(Clone, Debug)]
pub enum Grant {
    Google(Arc<google::ServiceAccount>),
    Azure(Arc<azure::Identity>),
    AssumeRole(Arc<sts::AssumeRole>),
    Metadata(Arc<aws_metadata::Metadata>),
}

/// What a grant is exchanged for.
#[derive(Clone, Debug)]
pub enum Token {
    Bearer(Secret),
    Aws(Credentials),
}

/// A token and the time it is good for.
#[derive(Clone, Debug)]
pub struct Issued {
    pub token: Token,
    pub lifetime: Duration,
}

/// What an answer leads to.
pub enum Step {
    /// To the next question.
    Ask(TokenRequest),
    Issued(Issued),
}

/// One request to a token endpoint. Its body may hold a secret: it does not print.
pub struct TokenRequest {
    pub base: Arc<Base>,
    pub method: Method,
    /// Path and query.
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A token endpoint's answer, whole.
#[derive(Clone, Copy)]
pub struct TokenReply<'r> {
    pub status: StatusCode,
    pub body: &'r [u8],
    /// Unix time, seconds.
    pub now: u64,
}

/// A grant in a cache. Made from all of it, the secret too: whoever knows an identity but not its secret gets no token
/// that another client fetched. A keyed hash, so that it says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GrantId([u8; 32]);

impl Grant {
    /// The grant whose token [`Grant::request`] needs.
    pub fn source(&self) -> Option<Grant> {
        match self {
            Self::AssumeRole(role) => role.source(),
            Self::Google(_) | Self::Azure(_) | Self::Metadata(_) => None,
        }
    }

    /// The first request. `now`: Unix time, seconds. `source`: what the source was exchanged for.
    pub fn request(&self, now: u64, source: Option<&Token>) -> Result<TokenRequest, Error> {
        match self {
            Self::Google(account) => account.request(now),
            Self::Azure(identity) => identity.request(),
            Self::AssumeRole(role) => role.request(now, source),
            Self::Metadata(metadata) => metadata.request(),
        }
    }

    /// Reads the answer to `asked`. `Err`: told to the client, the grant's secrets taken out.
    pub fn read_reply(&self, asked: &TokenRequest, reply: TokenReply<'_>) -> Result<Step, Error> {
        let read = match self {
            Self::Google(_) | Self::Azure(_) => read_oauth(reply).map(Step::Issued),
            Self::AssumeRole(_) => sts::read_reply(reply).map(Step::Issued),
            Self::Metadata(metadata) => metadata.read_reply(asked, reply),
        };
        read.map_err(|error| self.redact(error))
    }

    pub fn id(&self, key: &hmac::Key) -> GrantId {
        let mut hash = hmac::Context::with_key(key);
        let mut parts: Vec<&[u8]> = Vec::new();
        self.identify(&mut parts);
        for part in parts {
            hash.update(&part.len().to_be_bytes());
            hash.update(part);
        }
        let mut id = [0; 32];
        id.copy_from_slice(hash.sign().as_ref());
        GrantId(id)
    }

    pub(super) fn identify<'s>(&'s self, parts: &mut Vec<&'s [u8]>) {
        match self {
            Self::Google(account) => account.identify(parts),
            Self::Azure(identity) => identity.identify(parts),
            Self::AssumeRole(role) => role.identify(parts),
            Self::Metadata(metadata) => metadata.identify(parts),
        }
    }

    /// Who is asked, for a log.
    pub fn title(&self) -> &'static str {
        match self {
            Self::Google(_) => "Google",
            Self::Azure(_) => "Azure",
            Self::AssumeRole(_) => "AWS STS",
            Self::Metadata(_) => "AWS metadata",
        }
    }

    pub fn redact(&self, error: Error) -> Error {
        let secrets = self.secrets().into_iter().flatten();
        secrets.fold(error, |error, secret| error.without(secret.expose()))
    }

    /// All that it holds and that goes to a token endpoint as it is, or signs what goes there.
    pub(super) fn secrets(&self) -> [Option<&Secret>; 3] {
        match self {
            Self::Google(_) | Self::Metadata(_) => [None; 3],
            Self::Azure(identity) => [identity.secret(), None, None],
            Self::AssumeRole(role) => role.secrets(),
        }
    }
}

impl Token {
    /// All that must not be told.
    pub fn secrets(&self) -> Vec<&Secret> {
        match self {
            Self::Bearer(secret) => vec![secret],
            Self::Aws(credentials) => credentials.secrets().collect(),
        }
    }
}

impl TokenRequest {
    /// A form, posted to `path` of `base`.
    pub fn form(base: &Arc<Base>, path: String, pairs: &[(&str, &str)]) -> Self {
        let mut request = Self {
            base: base.clone(),
            method: Method::POST,
            path,
            headers: HeaderMap::new(),
            body: Bytes::from(encode(pairs)),
        };
        request.set(header::CONTENT_TYPE, FORM);
        request.set(header::ACCEPT, "application/json");
        request.frame();
        request
    }

    /// A question without a body.
    pub fn get(base: &Arc<Base>, path: String) -> Self {
        Self::bare(Method::GET, base, path)
    }

    pub fn bare(method: Method, base: &Arc<Base>, path: String) -> Self {
        let mut request = Self {
            base: base.clone(),
            method,
            path,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        };
        request.set(header::ACCEPT, "application/json");
        request.frame();
        request
    }

    pub fn set(&mut self, name: HeaderName, value: &'static str) {
        self.headers.insert(name, HeaderValue::from_static(value));
    }

    fn frame(&mut self) {
        let host = self.base.host_header().clone();
        self.headers.insert(header::HOST, host);
        if self.method != Method::GET {
            let length = HeaderValue::from(self.body.len());
            self.headers.insert(header::CONTENT_LENGTH, length);
        }
    }
}

impl fmt::Debug for TokenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.base)
    }
}

/// `application/x-www-form-urlencoded`, for a body or a query.
pub fn encode(pairs: &[(&str, &str)]) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.extend_pairs(pairs).finish()
}

/// RFC 6749, sections 5.1 and 5.2.
fn read_oauth(reply: TokenReply<'_>) -> Result<Issued, Error> {
    if reply.status != StatusCode::OK {
        let fault: OauthFault = serde_json::from_slice(reply.body).unwrap_or_default();
        let (error, why) = (fault.error.as_deref(), fault.error_description.as_deref());
        return Err(refused(reply.status, error, why));
    }
    let odd = || Error::broken("The token endpoint's answer holds no token.");
    let read: OauthReply = serde_json::from_slice(reply.body).map_err(|_| odd())?;
    let bearer = read
        .token_type
        .is_none_or(|kind| kind.eq_ignore_ascii_case("bearer"));
    let token = Secret::try_new(read.access_token.expose_secret()).filter(|_| bearer);
    Ok(Issued {
        token: Token::Bearer(token.ok_or_else(odd)?),
        lifetime: read.expires_in.duration().ok_or_else(odd)?,
    })
}

/// A refusal of a token endpoint as the client is told it. Who refuses a credential says 400 as often as 401, and the
/// request that the client made is not at fault.
pub fn refused(status: StatusCode, code: Option<&str>, why: Option<&str>) -> Error {
    let told = match status.as_u16() {
        403 | 408 | 429 | 500..=599 => status,
        400..=499 => StatusCode::UNAUTHORIZED,
        _ => StatusCode::BAD_GATEWAY,
    };
    let parts: Vec<&str> = [code, why].into_iter().flatten().collect();
    let detail: String = parts.join(": ").chars().take(MAX_TOLD_CHARS).collect();
    let message = match detail.as_str() {
        "" => format!(
            "The token endpoint answered with status {}.",
            status.as_u16()
        ),
        detail => format!("The token endpoint refused the credential: {detail}"),
    };
    Error::new(Kind::Upstream(told), message)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OauthFault<'r> {
    #[serde(borrow)]
    error: Option<Cow<'r, str>>,
    #[serde(borrow)]
    error_description: Option<Cow<'r, str>>,
}

#[derive(Deserialize)]
struct OauthReply<'r> {
    access_token: SecretString,
    #[serde(borrow, default)]
    token_type: Option<Cow<'r, str>>,
    #[serde(borrow)]
    expires_in: Seconds<'r>,
}

/// A number, or, from Azure's metadata service, a number in quotes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds<'r> {
    Number(u64),
    Text(#[serde(borrow)] Cow<'r, str>),
}

impl Seconds<'_> {
    fn duration(&self) -> Option<Duration> {
        let seconds = match self {
            Self::Number(seconds) => Some(*seconds),
            Self::Text(text) => text.parse().ok(),
        };
        seconds.map(|seconds| Duration::from_secs(seconds.min(MAX_LIFETIME_SECONDS)))
    }
}

const FORM: &str = "application/x-www-form-urlencoded";
/// Of a token endpoint's own words.
const MAX_TOLD_CHARS: usize = 512;
/// A week. A longer life is not believed: it costs one more fetch.
const MAX_LIFETIME_SECONDS: u64 = 7 * 24 * 3600;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn read(status: u16, body: &str) -> Result<Issued, Error> {
        read_oauth(TokenReply {
            status: StatusCode::from_u16(status).unwrap(),
            body: body.as_bytes(),
            now: 1,
        })
    }

    fn entra(tenant: &str, client_id: &str, secret: &str) -> azure::Identity {
        let secret = Secret::try_new(secret).unwrap();
        azure::Identity::entra(tenant, client_id, secret).unwrap()
    }

    fn role(secret_key: &str, arn: &str) -> sts::AssumeRole {
        let source = Credentials {
            access_key: Secret::try_new("AKID").unwrap(),
            secret_key: Secret::try_new(secret_key).unwrap(),
            session_token: None,
        };
        sts::AssumeRole::try_new(source, arn, "us-east-1").unwrap()
    }

    #[test]
    fn every_part_of_a_grant_tells_it_from_others() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"key");
        let other = Base::try_new("https://login.microsoftonline.us/x", "authority").unwrap();
        let machine = |id| azure::Identity::managed(id).unwrap();
        let azures = [
            entra("t", "app", "s"),
            entra("t", "app", "s2"),
            entra("t", "ap", "ps"),
            entra("t", "app2", "s"),
            entra("t2", "app", "s"),
            entra("t", "app", "s").with_scope("other"),
            entra("t", "app", "s").at(other),
            machine(None),
            machine(Some("app")),
        ];
        let arn = "arn:aws:iam::1:role/r";
        let roles = [
            role("s", arn),
            role("s2", arn),
            role("s", "arn:aws:iam::1:role/r2"),
            role("s", arn).with_external_id(Some("x")),
        ];
        let azures = azures.map(|identity| Grant::Azure(Arc::new(identity)));
        let roles = roles.map(|role| Grant::AssumeRole(Arc::new(role)));
        let grants: Vec<Grant> = azures.into_iter().chain(roles).collect();
        let ids: HashSet<GrantId> = grants.iter().map(|grant| grant.id(&key)).collect();
        assert_eq!(ids.len(), grants.len());
        let again = Grant::Azure(Arc::new(entra("t", "app", "s")));
        assert!(ids.contains(&again.id(&key)));
        let elsewhere = hmac::Key::new(hmac::HMAC_SHA256, b"other");
        assert!(!ids.contains(&again.id(&elsewhere)));
    }

    #[test]
    fn a_token_and_its_life_are_read() {
        for body in [
            r#"{"access_token":"t-1","expires_in":3599,"token_type":"Bearer"}"#,
            r#"{"access_token":"t-1","client_id":"c","expires_in":"3599","expires_on":"1","token_type":"bearer"}"#,
            r#"{"access_token":"t\u002d1","expires_in":3599,"scope":"x"}"#,
        ] {
            let issued = read(200, body).unwrap();
            assert_eq!(issued.lifetime, Duration::from_secs(3599));
            assert_eq!(issued.token.secrets()[0].expose(), "t-1");
            assert!(!format!("{issued:?}").contains("t-1"));
        }
    }

    #[test]
    fn an_answer_without_a_token_is_broken() {
        for body in [
            "",
            "<html>",
            "{}",
            r#"{"access_token":"t"}"#,
            r#"{"access_token":" ","expires_in":1}"#,
            r#"{"access_token":"t","expires_in":-1}"#,
            r#"{"access_token":"t","expires_in":"soon"}"#,
            r#"{"access_token":"t","expires_in":1,"token_type":"mac"}"#,
        ] {
            assert_eq!(read(200, body).unwrap_err().status(), 502, "{body}");
        }
    }

    #[test]
    fn a_refusal_is_the_credential_s_fault_not_the_request_s() {
        let body = r#"{"error":"invalid_grant","error_description":"Invalid JWT Signature."}"#;
        let error = read(400, body).unwrap_err();
        assert_eq!(error.status(), 401);
        let told =
            "The token endpoint refused the credential: invalid_grant: Invalid JWT Signature.";
        assert_eq!(error.message(), told);
        for (status, told) in [
            (401, 401),
            (403, 403),
            (404, 401),
            (429, 429),
            (503, 503),
            (302, 502),
        ] {
            let error = read(status, "{}").unwrap_err();
            assert_eq!(error.status(), told, "{status}");
        }
        let long = format!(r#"{{"error":"{}"}}"#, "é".repeat(9999));
        assert!(read(400, &long).unwrap_err().message().len() < 1200);
    }
}
