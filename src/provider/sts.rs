//! AWS STS: keys, or a workload's federated token, are exchanged for a role's temporary keys.
//!
//! Sources: <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html> and
//! <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html>.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use roxmltree::{Document, ParsingOptions};

use crate::{
    error::{Error, Kind},
    provider::{
        Base, FreshSecret, Secret,
        credential::three,
        grant::{Grant, Issued, Token, TokenReply, TokenRequest, refused},
        sigv4::{Credentials, Scope, Unsigned},
    },
};

/// A role, and what may take it.
#[derive(Debug)]
pub struct AssumeRole {
    proof: Proof,
    role_arn: String,
    external_id: Option<String>,
    session_name: String,
    scope: Scope,
    endpoint: Arc<Base>,
}

/// What shows that a role may be taken.
#[derive(Debug)]
pub enum Proof {
    Keys(Credentials),
    /// Keys that another grant is exchanged for: a chain of roles, or a machine's own keys.
    Granted(Grant),
    /// An OpenID Connect token of a workload.
    Federated(FreshSecret),
}

impl From<Credentials> for Proof {
    fn from(keys: Credentials) -> Self {
        Self::Keys(keys)
    }
}

impl AssumeRole {
    /// STS is asked in `region`, where the role's keys will be used.
    pub fn try_new(proof: impl Into<Proof>, role_arn: &str, region: &str) -> Result<Self, Error> {
        let scope = Scope::try_new(region, "sts")?;
        let plain = |byte: u8| byte.is_ascii_graphic();
        let is_arn = role_arn.starts_with("arn:") && role_arn.contains(":role/");
        if !is_arn || role_arn.len() > MAX_ARN_BYTES || !role_arn.bytes().all(plain) {
            let message = "The AWS role must be like `arn:aws:iam::123456789012:role/name`.";
            return Err(Error::new(Kind::Invalid, message));
        }
        let domain = match region {
            china if china.starts_with("cn-") => "amazonaws.com.cn",
            _ => "amazonaws.com",
        };
        let endpoint = Base::try_new(&format!("https://sts.{region}.{domain}"), "endpoint")?;
        Ok(Self {
            proof: proof.into(),
            role_arn: role_arn.to_owned(),
            external_id: None,
            session_name: env!("CARGO_PKG_NAME").to_owned(),
            scope,
            endpoint: Arc::new(endpoint),
        })
    }

    pub fn with_external_id(mut self, external_id: Option<&str>) -> Self {
        self.external_id = external_id.map(str::to_owned);
        self
    }

    /// The same role, whose calls stand under `name` in AWS's logs: `[\w+=,.@-]{2,64}`.
    pub fn with_session_name(mut self, name: &str) -> Result<Self, Error> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte);
        if !(2..=64).contains(&name.len()) || !name.bytes().all(plain) {
            let message =
                "The AWS role's session name must be 2 to 64 of letters, digits and `_+=,.@-`.";
            return Err(Error::new(Kind::Invalid, message));
        }
        name.clone_into(&mut self.session_name);
        Ok(self)
    }

    /// The same role with another endpoint, which a conf named.
    pub fn at(mut self, endpoint: Base) -> Self {
        self.endpoint = Arc::new(endpoint);
        self
    }

    pub(super) fn source(&self) -> Option<Grant> {
        match &self.proof {
            Proof::Granted(source) => Some(source.clone()),
            Proof::Keys(_) | Proof::Federated(_) => None,
        }
    }

    /// `source`: what [`AssumeRole::source`] was exchanged for.
    pub(super) fn request(&self, now: u64, source: Option<&Token>) -> Result<TokenRequest, Error> {
        match (&self.proof, source) {
            (Proof::Keys(keys), _) | (Proof::Granted(_), Some(Token::Aws(keys))) => {
                let external = self.external_id.as_deref();
                let external = external.map(|id| ("ExternalId", id));
                self.signed(self.form("AssumeRole", external), keys, now)
            }
            (Proof::Granted(_), _) => {
                let message = "The keys that take the role were not fetched.";
                Err(Error::new(Kind::Internal, message))
            }
            (Proof::Federated(token), _) => {
                let message = "The workload's federated token cannot be read.";
                let token = token
                    .read()
                    .ok_or_else(|| Error::new(Kind::Internal, message))?;
                let token = ("WebIdentityToken", token.expose());
                Ok(self.form("AssumeRoleWithWebIdentity", Some(token)))
            }
        }
    }

    fn form(&self, action: &str, more: Option<(&str, &str)>) -> TokenRequest {
        let mut pairs = vec![
            ("Action", action),
            ("Version", "2011-06-15"),
            ("RoleArn", &self.role_arn),
            ("RoleSessionName", &self.session_name),
        ];
        pairs.extend(more);
        let path = format!("{}/", self.endpoint.path);
        let mut request = TokenRequest::form(&self.endpoint, path, &pairs);
        // XML is the one form that the page documents.
        request.headers.remove(http::header::ACCEPT);
        request
    }

    fn signed(
        &self,
        mut request: TokenRequest,
        keys: &Credentials,
        now: u64,
    ) -> Result<TokenRequest, Error> {
        let unsigned = Unsigned {
            method: &request.method,
            path: &request.path,
            headers: &request.headers,
            body: &request.body,
        };
        let signature = self.scope.sign(keys, unsigned, now)?;
        request.headers.extend(signature);
        Ok(request)
    }

    pub(super) fn identify<'s>(&'s self, parts: &mut Vec<&'s [u8]>) {
        let (host, path) = (self.endpoint.host_header(), &self.endpoint.path);
        let external = self.external_id.as_deref().unwrap_or_default();
        parts.extend([
            b"sts",
            host.as_bytes(),
            path.as_bytes(),
            self.role_arn.as_bytes(),
            external.as_bytes(),
            self.session_name.as_bytes(),
        ]);
        match &self.proof {
            Proof::Keys(keys) => {
                parts.push(b"keys");
                parts.extend(keys.secrets().map(|secret| secret.expose().as_bytes()));
            }
            Proof::Granted(source) => {
                parts.push(b"granted");
                source.identify(parts);
            }
            Proof::Federated(token) => {
                parts.extend([b"federated", token.place().as_bytes()]);
            }
        }
    }

    pub(super) fn secrets(&self) -> [Option<&Secret>; 3] {
        match &self.proof {
            Proof::Keys(keys) => three(keys.secrets()),
            Proof::Granted(source) => source.secrets(),
            Proof::Federated(_) => [None; 3],
        }
    }
}

pub(super) fn read_reply(reply: TokenReply<'_>) -> Result<Issued, Error> {
    let odd = || Error::broken("The token endpoint's answer holds no credentials.");
    let options = ParsingOptions {
        nodes_limit: MAX_NODES,
        ..ParsingOptions::default()
    };
    let text = std::str::from_utf8(reply.body).unwrap_or_default();
    let document = Document::parse_with_options(text, options).ok();
    let element = |name| {
        document
            .as_ref()
            .and_then(|document| element(document, name))
    };
    if reply.status != StatusCode::OK {
        return Err(refused(reply.status, element("Code"), element("Message")));
    }
    let secret = |name| element(name).and_then(Secret::try_new);
    let expires = element("Expiration")
        .and_then(unix_seconds)
        .ok_or_else(odd)?;
    Ok(Issued {
        token: Token::Aws(Credentials {
            access_key: secret("AccessKeyId").ok_or_else(odd)?,
            secret_key: secret("SecretAccessKey").ok_or_else(odd)?,
            session_token: Some(secret("SessionToken").ok_or_else(odd)?),
        }),
        lifetime: Duration::from_secs(expires.saturating_sub(reply.now)),
    })
}

fn element<'d>(document: &'d Document<'_>, name: &str) -> Option<&'d str> {
    let mut nodes = document.descendants();
    nodes.find(|node| node.tag_name().name() == name)?.text()
}

/// `2011-07-15T23:28:33.359Z`, as RFC 9557 has it and STS writes it, always in UTC.
pub(super) fn unix_seconds(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let is_sane = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second)
        && text.ends_with('Z');
    let days = days(year, month, day);
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    u64::try_from(seconds).ok().filter(|_| is_sane)
}

/// Days since 1970-01-01 of the Gregorian calendar. Years begin in March here, so that a leap day is the last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leaps = year / 4 - year / 100 + year / 400;
    year * 365 + leaps + (month * 153 + 2) / 5 + day - 1 - DAYS_BEFORE_1970
}

/// IAM's limit.
const MAX_ARN_BYTES: usize = 2048;
/// An answer has some 20.
const MAX_NODES: u32 = 1000;
/// From March of the year 0.
const DAYS_BEFORE_1970: i64 = 719_468;

#[cfg(test)]
mod tests {
    use super::*;

    /// What botocore asks, and what moto answers: tests/fixtures/credentials/sts.py.
    const REQUEST: &str = include_str!("../../tests/fixtures/credentials/sts_request.txt");
    const GRANTED: &str = include_str!("../../tests/fixtures/credentials/sts_granted.xml");
    const REFUSED: &str = include_str!("../../tests/fixtures/credentials/sts_refused.xml");

    fn read(status: StatusCode, body: &str) -> Result<Issued, Error> {
        read_reply(TokenReply {
            status,
            body: body.as_bytes(),
            now: 1_795_530_798,
        })
    }

    fn source() -> Credentials {
        Credentials {
            access_key: Secret::try_new("AKIDEXAMPLE").unwrap(),
            secret_key: Secret::try_new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY").unwrap(),
            session_token: None,
        }
    }

    #[test]
    fn the_keys_of_a_role_are_read() {
        let issued = read(StatusCode::OK, GRANTED).unwrap();
        assert_eq!(issued.lifetime, Duration::from_secs(3600));
        let told = issued.token.secrets();
        let told: Vec<&str> = told.iter().map(|secret| secret.expose()).collect();
        let [access_key, secret_key, session_token] = told[..] else {
            panic!("{} parts", told.len());
        };
        assert_eq!(access_key, "ASIARZPUZDIKKQZXLDOR");
        assert_eq!(secret_key, "L2X2ADe0T+ADZ2ZXslhQSruqAn6GGBPfGk0VixV2");
        assert!(session_token.starts_with("FQoGZX") && session_token.ends_with("vgLKA="));
        for name in [
            "AccessKeyId",
            "SecretAccessKey",
            "SessionToken",
            "Expiration",
        ] {
            let without = GRANTED.replace(name, "Other");
            assert_eq!(read(StatusCode::OK, &without).unwrap_err().status(), 502);
        }
        for odd in ["", "{}", "<a>", "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>"] {
            assert_eq!(
                read(StatusCode::OK, odd).unwrap_err().status(),
                502,
                "{odd}"
            );
        }
    }

    #[test]
    fn a_refusal_keeps_its_words() {
        let error = read(StatusCode::BAD_REQUEST, REFUSED).unwrap_err();
        assert_eq!(error.status(), 401);
        let told = "The token endpoint refused the credential: ValidationError: 1 validation error";
        assert!(error.message().starts_with(told), "{error}");
        let denied = "<ErrorResponse><Error><Code>AccessDenied</Code><Message>not &quot;r&quot;</Message></Error></ErrorResponse>";
        let error = read(StatusCode::FORBIDDEN, denied).unwrap_err();
        assert_eq!(error.status(), 403);
        assert!(error.message().ends_with("AccessDenied: not \"r\""));
    }

    #[test]
    fn botocore_asks_the_same_and_it_is_signed_for_its_region() {
        let role = AssumeRole::try_new(source(), "arn:aws:iam::123456789012:role/r", "us-east-1");
        let request = role
            .unwrap()
            .with_external_id(Some("x/1"))
            .request(1_766_592_000, None)
            .unwrap();
        assert_eq!(request.headers["host"], "sts.us-east-1.amazonaws.com");
        assert_eq!(request.body, REQUEST.trim());
        let authorization = request.headers["authorization"].to_str().unwrap();
        assert!(authorization.contains("/20251224/us-east-1/sts/aws4_request"));
        let china =
            AssumeRole::try_new(source(), "arn:aws-cn:iam::1:role/r", "cn-north-1").unwrap();
        assert_eq!(china.endpoint.host, "sts.cn-north-1.amazonaws.com.cn");
        for wrong in ["", "r", "arn:aws:iam::1:user/u", "arn:aws:iam::1:role/a b"] {
            assert!(
                AssumeRole::try_new(source(), wrong, "us-east-1").is_err(),
                "{wrong}"
            );
        }
        assert!(AssumeRole::try_new(source(), "arn:aws:iam::1:role/r", "x.evil").is_err());
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T12:00:00Z", Some(951_825_600)),
            ("2024-03-01T00:00:00.359Z", Some(1_709_251_200)),
            ("2025-12-31T23:59:59Z", Some(1_767_225_599)),
            ("2025-12-31T23:59:59+01:00", None),
            ("2025-13-31T23:59:59Z", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(unix_seconds(text), seconds, "{text}");
        }
    }
}
