//! Keys that AWS gives the machine or the container that the gateway runs in.
//!
//! ```text
//!  container:  GET the URI ──▶ keys
//!  instance:   PUT /latest/api/token ──▶ session ──▶ GET …/security-credentials/ ──▶ role ──▶ GET …/<role> ──▶ keys
//! ```
//!
//! Sources: <https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html>,
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html> and
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-metadata-security-credentials.html>. The instance's service
//! is asked in its version 2 alone: version 1 gives keys to whoever can make the gateway send a GET.

use std::{borrow::Cow, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::{
    error::{Error, Kind},
    provider::{
        Base, FreshSecret, Secret,
        base::Scheme,
        grant::{Issued, Step, Token, TokenReply, TokenRequest, refused},
        sigv4::Credentials,
        sts::unix_seconds,
    },
};

/// A service that gives keys to those who can reach it.
#[derive(Debug)]
pub struct Metadata {
    base: Arc<Base>,
    kind: Service,
}

#[derive(Debug)]
enum Service {
    /// Path and query, and what is sent as `Authorization`.
    Container(String, Option<FreshSecret>),
    Instance,
}

impl Metadata {
    /// `uri`: a whole one, or a path of ECS's agent.
    pub fn container(uri: &str, authorization: Option<FreshSecret>) -> Result<Self, Error> {
        let (origin, path) = match uri.strip_prefix('/') {
            Some(_) => (ECS, uri),
            None => split(uri),
        };
        let base = Base::try_new(origin, CONTAINER_URI)?;
        let is_own = OWN_HOSTS.contains(&&*base.host);
        if base.scheme == Scheme::Http && !is_own {
            let message = "Keys come without TLS from this machine, ECS's agent or EKS's alone.";
            return Err(Error::invalid(CONTAINER_URI, message));
        }
        if path.contains('#') || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            let message = "The path of the container's credentials is malformed.";
            return Err(Error::invalid(CONTAINER_URI, message));
        }
        Ok(Self {
            base: Arc::new(base),
            kind: Service::Container(path.to_owned(), authorization),
        })
    }

    /// `endpoint`: where the instance's metadata are; link-local without one.
    pub fn instance(endpoint: Option<&str>) -> Result<Self, Error> {
        let endpoint = endpoint.unwrap_or(INSTANCE);
        Ok(Self {
            base: Arc::new(Base::try_new(endpoint, "aws_metadata_endpoint")?),
            kind: Service::Instance,
        })
    }

    pub(super) fn request(&self) -> Result<TokenRequest, Error> {
        match &self.kind {
            Service::Container(path, authorization) => {
                let mut request = TokenRequest::get(&self.base, path.clone());
                if let Some(authorization) = authorization {
                    let message = "The container's authorization token cannot be read.";
                    let token = authorization.read();
                    let token = token.ok_or_else(|| Error::new(Kind::Internal, message))?;
                    let value = sendable(token.expose())?;
                    request.headers.insert(header::AUTHORIZATION, value);
                }
                Ok(request)
            }
            Service::Instance => {
                let path = format!("{}{SESSION_PATH}", self.base.path);
                let mut request = TokenRequest::bare(Method::PUT, &self.base, path);
                request.set(SESSION_SECONDS, "21600");
                Ok(request)
            }
        }
    }

    pub(super) fn read_reply(
        &self,
        asked: &TokenRequest,
        reply: TokenReply<'_>,
    ) -> Result<Step, Error> {
        let roles = format!("{}{ROLES_PATH}", self.base.path);
        match &self.kind {
            Service::Container(..) => read_keys(reply).map(Step::Issued),
            Service::Instance if asked.method == Method::PUT => {
                let session = sendable(text(reply, "no session")?)?;
                Ok(Step::Ask(self.ask(roles, session)))
            }
            Service::Instance if asked.path == roles => {
                let role = text(reply, "the instance has no role")?;
                let role = role.lines().next().unwrap_or_default();
                let session = asked.headers.get(SESSION).cloned();
                let session = session.ok_or_else(|| Error::broken("The session was lost."))?;
                Ok(Step::Ask(self.ask(role_path(roles, role)?, session)))
            }
            Service::Instance => read_keys(reply).map(Step::Issued),
        }
    }

    fn ask(&self, path: String, session: HeaderValue) -> TokenRequest {
        let mut request = TokenRequest::get(&self.base, path);
        request.headers.insert(SESSION, session);
        request
    }

    pub(super) fn identify<'s>(&'s self, parts: &mut Vec<&'s [u8]>) {
        let (host, path) = (self.base.host_header(), &self.base.path);
        parts.extend([b"metadata", host.as_bytes(), path.as_bytes()]);
        match &self.kind {
            Service::Instance => parts.push(b"instance"),
            Service::Container(path, authorization) => {
                parts.extend([b"container", path.as_bytes()]);
                let place = authorization.as_ref().map(FreshSecret::place);
                parts.extend(place.map(str::as_bytes));
            }
        }
    }
}

/// A URL's origin, and its path as it stands.
fn split(uri: &str) -> (&str, &str) {
    let host = uri.find("://").map_or(0, |at| at + 3);
    let path = uri
        .get(host..)
        .and_then(|rest| rest.find('/'))
        .map(|at| host + at);
    match path.and_then(|at| uri.split_at_checked(at)) {
        Some((origin, path)) => (origin, path),
        None => (uri, "/"),
    }
}

/// An answer that is a text; `lack` says what another status means.
fn text<'r>(reply: TokenReply<'r>, lack: &str) -> Result<&'r str, Error> {
    match reply.status {
        StatusCode::OK => {
            let text = std::str::from_utf8(reply.body).unwrap_or_default();
            Ok(text.trim())
        }
        StatusCode::NOT_FOUND => Err(refused(reply.status, None, Some(lack))),
        status => Err(refused(status, None, None)),
    }
}

/// IAM's grammar of a role's name: <https://docs.aws.amazon.com/IAM/latest/APIReference/API_Role.html>.
fn role_path(roles: String, role: &str) -> Result<String, Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte);
    if role.is_empty() || role.len() > MAX_ROLE_BYTES || !role.bytes().all(plain) {
        return Err(Error::broken("The metadata service's role has no name."));
    }
    Ok(roles + role)
}

fn sendable(text: &str) -> Result<HeaderValue, Error> {
    let odd = || Error::broken("A token for the metadata service cannot be sent.");
    let text = Some(text).filter(|text| !text.is_empty());
    let value = HeaderValue::from_str(text.ok_or_else(odd)?);
    let mut value = value.map_err(|_| odd())?;
    value.set_sensitive(true);
    Ok(value)
}

fn read_keys(reply: TokenReply<'_>) -> Result<Issued, Error> {
    let odd = || Error::broken("The metadata service's answer holds no credentials.");
    let read: Option<Keys> = serde_json::from_slice(reply.body).ok();
    if reply.status != StatusCode::OK {
        let read = read.unwrap_or_default();
        return Err(refused(
            reply.status,
            read.code.as_deref(),
            read.message.as_deref(),
        ));
    }
    let read = read.ok_or_else(odd)?;
    // The instance's service says 200 of a role that it has no keys for.
    if let Some(code) = read.code.as_deref().filter(|code| *code != "Success") {
        let why = read.message.as_deref();
        return Err(refused(StatusCode::UNAUTHORIZED, Some(code), why));
    }
    let expires = read.expiration.as_deref().and_then(unix_seconds);
    let secret = |text: Option<SecretString>| Secret::try_new(text?.expose_secret());
    Ok(Issued {
        token: Token::Aws(Credentials {
            access_key: secret(read.access_key_id).ok_or_else(odd)?,
            secret_key: secret(read.secret_access_key).ok_or_else(odd)?,
            session_token: Some(secret(read.token).ok_or_else(odd)?),
        }),
        lifetime: Duration::from_secs(expires.ok_or_else(odd)?.saturating_sub(reply.now)),
    })
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Keys<'r> {
    access_key_id: Option<SecretString>,
    secret_access_key: Option<SecretString>,
    token: Option<SecretString>,
    #[serde(borrow)]
    expiration: Option<Cow<'r, str>>,
    #[serde(borrow, alias = "code")]
    code: Option<Cow<'r, str>>,
    #[serde(borrow, alias = "message")]
    message: Option<Cow<'r, str>>,
}

const CONTAINER_URI: &str = "aws_container_credentials_uri";
/// Link-local, without TLS: they never leave the machine.
const ECS: &str = "http://169.254.170.2";
const INSTANCE: &str = "http://169.254.169.254";
/// Loopback, ECS's agent, and EKS's by both versions of IP.
const OWN_HOSTS: [&str; 6] = [
    "localhost",
    "127.0.0.1",
    "::1",
    "169.254.170.2",
    "169.254.170.23",
    "fd00:ec2::23",
];
const SESSION_PATH: &str = "/latest/api/token";
const ROLES_PATH: &str = "/latest/meta-data/iam/security-credentials/";
const SESSION: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");
const SESSION_SECONDS: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");
/// IAM's limit.
const MAX_ROLE_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_766_592_000;
    /// The page's example, in which the instance's service has a `Code` and the container's a `RoleArn`.
    const KEYS: &str = r#"{"Code":"Success","LastUpdated":"2025-12-24T16:00:00Z","Type":"AWS-HMAC","AccessKeyId":"ASIAEXAMPLE","SecretAccessKey":"SECRET","Token":"SESSION","Expiration":"2025-12-24T22:00:00Z"}"#;

    fn fresh(text: &'static str) -> FreshSecret {
        FreshSecret::new("/token", move || Secret::try_new(text))
    }

    fn reply(status: u16, body: &str) -> TokenReply<'_> {
        TokenReply {
            status: StatusCode::from_u16(status).unwrap(),
            body: body.as_bytes(),
            now: NOW,
        }
    }

    fn issued(step: Result<Step, Error>) -> Issued {
        match step.unwrap() {
            Step::Issued(issued) => issued,
            Step::Ask(request) => panic!("{request:?}"),
        }
    }

    fn next(step: Result<Step, Error>) -> TokenRequest {
        match step.unwrap() {
            Step::Ask(request) => request,
            Step::Issued(issued) => panic!("{issued:?}"),
        }
    }

    #[test]
    fn a_container_s_agent_is_asked_where_the_platform_says() {
        for (uri, host, path) in [
            (
                "/v2/credentials/u-1",
                "169.254.170.2",
                "/v2/credentials/u-1",
            ),
            (
                "http://169.254.170.23/v1/credentials",
                "169.254.170.23",
                "/v1/credentials",
            ),
            (
                "http://[fd00:ec2::23]/v1/credentials",
                "[fd00:ec2::23]",
                "/v1/credentials",
            ),
            ("http://localhost:8080/a/?b=c", "localhost:8080", "/a/?b=c"),
            ("https://keys.example.com", "keys.example.com", "/"),
        ] {
            let request = Metadata::container(uri, Some(fresh("a-1")))
                .unwrap()
                .request();
            let request = request.unwrap();
            assert_eq!(
                (&*request.path, request.method.as_str()),
                (path, "GET"),
                "{uri}"
            );
            assert_eq!(request.headers["host"], host);
            assert_eq!(request.headers["authorization"], "a-1");
            assert!(request.headers["authorization"].is_sensitive());
        }
        let bare = Metadata::container("/v2/c", None)
            .unwrap()
            .request()
            .unwrap();
        assert!(!bare.headers.contains_key("authorization"));
    }

    #[test]
    fn keys_come_in_clear_from_the_platform_alone() {
        for uri in [
            "http://keys.example.com/a",
            "http://169.254.169.254/a",
            "http://127.0.0.1@evil.example/a",
            "ftp://127.0.0.1/a",
            "/a b",
            "/a#b",
            "nothing",
            "",
        ] {
            assert!(Metadata::container(uri, None).is_err(), "{uri}");
        }
        for token in ["", "two\nlines"] {
            let metadata = Metadata::container("/v2/c", Some(fresh(token))).unwrap();
            assert!(metadata.request().is_err(), "{token:?}");
        }
    }

    #[test]
    fn an_instance_is_asked_for_a_session_its_role_and_the_keys() {
        let metadata = Metadata::instance(Some("http://[fd00:ec2::254]")).unwrap();
        let session = metadata.request().unwrap();
        assert_eq!(
            (session.method.as_str(), &*session.path),
            ("PUT", "/latest/api/token")
        );
        assert_eq!(
            session.headers["x-aws-ec2-metadata-token-ttl-seconds"],
            "21600"
        );
        assert_eq!(session.headers["content-length"], "0");
        let roles = next(metadata.read_reply(&session, reply(200, "s-1")));
        assert_eq!(roles.path, "/latest/meta-data/iam/security-credentials/");
        let keys = next(metadata.read_reply(&roles, reply(200, "my-role\n")));
        assert_eq!(
            keys.path,
            "/latest/meta-data/iam/security-credentials/my-role"
        );
        for request in [&roles, &keys] {
            assert_eq!(request.method, "GET");
            assert_eq!(request.headers["x-aws-ec2-metadata-token"], "s-1");
        }
        let issued = issued(metadata.read_reply(&keys, reply(200, KEYS)));
        assert_eq!(issued.lifetime, Duration::from_secs(6 * 3600));
        let told = issued.token.secrets();
        let told: Vec<&str> = told.iter().map(|secret| secret.expose()).collect();
        assert_eq!(told, ["ASIAEXAMPLE", "SECRET", "SESSION"]);
        assert!(!format!("{issued:?} {keys:?}").contains("SE"));
    }

    #[test]
    fn what_a_metadata_service_lacks_is_told() {
        let metadata = Metadata::instance(None).unwrap();
        let session = metadata.request().unwrap();
        let roles = next(metadata.read_reply(&session, reply(200, "s-1")));
        let keys = next(metadata.read_reply(&roles, reply(200, "r")));
        let failed = r#"{"Code":"AssumeRoleUnauthorizedAccess","Message":"no trust"}"#;
        for (asked, status, body, told, why) in [
            (&session, 403, "", 403, "status 403"),
            (&session, 200, "", 502, "cannot be sent"),
            (&session, 200, "a\u{1}b", 502, "cannot be sent"),
            (&roles, 404, "<html>", 401, "the instance has no role"),
            (&roles, 401, "", 401, "status 401"),
            (&roles, 200, "", 502, "no name"),
            (&roles, 200, "../x", 502, "no name"),
            (
                &keys,
                200,
                failed,
                401,
                "AssumeRoleUnauthorizedAccess: no trust",
            ),
            (&keys, 200, "{}", 502, "no credentials"),
            (&keys, 200, "<html>", 502, "no credentials"),
            (&keys, 500, "", 500, "status 500"),
        ] {
            let read = metadata.read_reply(asked, reply(status, body));
            let error = read.map(|_| ()).unwrap_err();
            assert_eq!(error.status(), told, "{error}");
            assert!(error.message().contains(why), "{error}");
        }
        let container = Metadata::container("/v2/c", None).unwrap();
        let asked = container.request().unwrap();
        let refused = r#"{"code":"AccessDeniedException","message":"not you"}"#;
        let error = container
            .read_reply(&asked, reply(403, refused))
            .map(|_| ())
            .unwrap_err();
        assert!(
            error.message().ends_with("AccessDeniedException: not you"),
            "{error}"
        );
        for lacking in ["AccessKeyId", "SecretAccessKey", "Token", "Expiration"] {
            let without = KEYS.replace(lacking, "Other");
            let error = container
                .read_reply(&asked, reply(200, &without))
                .map(|_| ());
            assert_eq!(error.unwrap_err().status(), 502, "{lacking}");
        }
    }
}
