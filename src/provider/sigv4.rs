//! AWS Signature Version 4 of one request, through AWS's own signer.
//!
//! Source: <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>. The path is encoded
//! once more for the canonical request, as AWS wants everywhere but in S3: a model id's `:` is `%3A` in the URL and
//! `%253A` under the signature.

use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::Credentials as Keys;
use aws_sigv4::{
    http_request::{PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use ring::digest;

use crate::{
    error::{Error, Kind},
    provider::Secret,
};

/// One set of AWS keys. All three are treated as secrets.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub access_key: Secret,
    pub secret_key: Secret,
    /// With temporary keys.
    pub session_token: Option<Secret>,
}

/// What a signature is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    region: String,
    service: &'static str,
}

/// A request as it will be sent, before its signature. `headers` holds its `host`.
#[derive(Clone, Copy, Debug)]
pub struct Unsigned<'r> {
    pub method: &'r Method,
    /// Path and query, encoded.
    pub path: &'r str,
    pub headers: &'r HeaderMap,
    pub body: &'r [u8],
}

impl Scope {
    /// `region` becomes part of a host name: `[a-z0-9-]{1,32}`.
    pub fn try_new(region: &str, service: &'static str) -> Result<Self, Error> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if region.is_empty() || region.len() > MAX_REGION_BYTES || !region.bytes().all(plain) {
            let message = "The AWS region must be like `us-east-1`.";
            return Err(Error::new(Kind::Invalid, message));
        }
        Ok(Self {
            region: region.to_owned(),
            service,
        })
    }

    pub fn region(&self) -> &str {
        &self.region
    }

    pub fn service(&self) -> &'static str {
        self.service
    }

    /// The headers that sign `request`, valid for 15 minutes around `now`, Unix seconds.
    pub fn sign(
        &self,
        credentials: &Credentials,
        request: Unsigned<'_>,
        now: u64,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, Error> {
        let identity = credentials.keys().into();
        let time = UNIX_EPOCH.checked_add(Duration::from_secs(now));
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(self.service)
            .time(time.ok_or_else(unsignable)?)
            .settings(settings())
            .build()
            .map_err(|_| unsignable())?
            .into();
        let signed = sign(signable(request)?, &parameters).map_err(|_| unsignable())?;
        let (headers, _) = signed.into_parts().0.into_parts();
        headers
            .into_iter()
            .map(|header| {
                let mut value = HeaderValue::from_str(header.value()).map_err(|_| unsignable())?;
                value.set_sensitive(SENSITIVE.contains(&header.name()));
                Ok((HeaderName::from_static(header.name()), value))
            })
            .collect()
    }
}

impl Credentials {
    fn keys(&self) -> Keys {
        let token = self.session_token.as_ref();
        Keys::new(
            self.access_key.expose(),
            self.secret_key.expose(),
            token.map(|token| token.expose().to_owned()),
            None,
            env!("CARGO_PKG_NAME"),
        )
    }

    /// All that must not be told.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        [&self.access_key, &self.secret_key]
            .into_iter()
            .chain(&self.session_token)
    }
}

fn settings() -> SigningSettings {
    let mut settings = SigningSettings::default();
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    settings
}

/// Of the headers, `content-type`, `host` and AWS's own are signed: what else we send, a proxy may change.
fn signable(request: Unsigned<'_>) -> Result<SignableRequest<'_>, Error> {
    let text = |name: HeaderName| request.headers.get(name)?.to_str().ok();
    let host = text(header::HOST).ok_or_else(unsignable)?;
    let media = text(header::CONTENT_TYPE).map(|media| ("content-type", media));
    let own = request.headers.iter().filter(|(name, _)| {
        let name = name.as_str();
        name.starts_with("x-amz-") && !SIGNER.contains(&name)
    });
    let own = own.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    let headers = media.into_iter().chain([("host", host)]).chain(own);
    let url = format!("https://{host}{}", request.path);
    // Not the body itself: the signer traces what it signs.
    let body = SignableBody::Precomputed(sha256_hex(request.body));
    SignableRequest::new(request.method.as_str(), url, headers, body).map_err(|_| unsignable())
}

fn sha256_hex(bytes: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, bytes);
    let digits = hash.as_ref().iter();
    digits.map(|byte| format!("{byte:02x}")).collect()
}

fn unsignable() -> Error {
    Error::new(Kind::Internal, "The upstream request could not be signed.")
}

/// The longest region's name has 14.
const MAX_REGION_BYTES: usize = 32;
/// What the signer sets itself.
const SIGNER: [&str; 3] = ["x-amz-content-sha256", "x-amz-date", "x-amz-security-token"];
const SENSITIVE: [&str; 2] = ["authorization", "x-amz-security-token"];

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Table {
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        method: String,
        host: String,
        path: String,
        media: String,
        body: String,
        region: String,
        service: String,
        token: Option<String>,
        now: u64,
        authorization: String,
    }

    const TABLE: &str = include_str!("../../tests/fixtures/credentials/sigv4.json");
    const SERVICES: [&str; 3] = ["bedrock", "sagemaker", "sts"];

    fn example(token: Option<&str>) -> Credentials {
        Credentials {
            access_key: Secret::try_new("AKIDEXAMPLE").unwrap(),
            secret_key: Secret::try_new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY").unwrap(),
            session_token: token.and_then(Secret::try_new),
        }
    }

    fn signed(case: &Case) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, case.host.parse().unwrap());
        headers.insert(header::CONTENT_TYPE, case.media.parse().unwrap());
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        let request = Unsigned {
            method: &case.method.parse().unwrap(),
            path: &case.path,
            headers: &headers,
            body: case.body.as_bytes(),
        };
        let service = SERVICES.iter().find(|known| **known == case.service);
        let scope = Scope::try_new(&case.region, service.unwrap()).unwrap();
        let keys = example(case.token.as_deref());
        scope
            .sign(&keys, request, case.now)
            .unwrap()
            .into_iter()
            .collect()
    }

    #[test]
    fn botocore_signs_the_same() {
        let table: Table = serde_json::from_str(TABLE).unwrap();
        assert!(table.cases.len() >= 12);
        for case in &table.cases {
            let headers = signed(case);
            let authorization = headers[header::AUTHORIZATION].to_str().unwrap();
            // botocore puts the parts apart with ", ", as this signer does.
            assert_eq!(authorization, case.authorization, "{}", case.path);
            let token = headers.get("x-amz-security-token");
            assert_eq!(
                token.map(|token| token.to_str().unwrap()),
                case.token.as_deref()
            );
        }
    }

    #[test]
    fn nothing_of_a_signature_prints() {
        let table: Table = serde_json::from_str(TABLE).unwrap();
        let case = table
            .cases
            .iter()
            .find(|case| case.token.is_some())
            .unwrap();
        let printed = format!(
            "{:?} {:?}",
            signed(case),
            example(case.token.as_deref()).keys()
        );
        for secret in ["AKID", "wJalr", "IQoJ", "Signature="] {
            // AWS's type shows the key's id, which is no secret; nothing here prints that type.
            assert!(secret == "AKID" || !printed.contains(secret), "{printed}");
        }
        assert!(!format!("{:?}", example(None)).contains("AKID"));
    }

    #[test]
    fn regions_keep_to_their_grammar() {
        for wrong in ["", "us east", "us-east-1.evil", "US", "a/b", "x@y", "é"] {
            assert!(Scope::try_new(wrong, "bedrock").is_err(), "{wrong}");
        }
        assert!(Scope::try_new(&"a".repeat(33), "bedrock").is_err());
    }
}
