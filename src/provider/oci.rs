//! Oracle's request signature, with a user's API key.
//!
//! Source: <https://docs.oracle.com/iaas/Content/API/Concepts/signingrequests.htm> (draft-cavage-http-signatures-08). The
//! headers stand in the order of Oracle's own SDKs.

use std::time::{Duration, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderName, HeaderValue, header};

use crate::{
    error::{Error, Kind},
    provider::{
        Secret,
        rsa::{RsaKey, sha256_base64},
        sigv4::Unsigned,
    },
};

/// A user's API key.
#[derive(Debug)]
pub struct Signer {
    key_id: String,
    key: RsaKey,
}

impl Signer {
    /// `user` and `tenancy` are OCIDs; `fingerprint` is the one that the console shows for the key.
    pub fn try_new(
        tenancy: &str,
        user: &str,
        fingerprint: &str,
        key: &Secret,
    ) -> Result<Self, Error> {
        for (name, value) in [
            ("tenancy", tenancy),
            ("user", user),
            ("fingerprint", fingerprint),
        ] {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
            if value.is_empty() || value.len() > MAX_OCID_BYTES || !value.bytes().all(plain) {
                let message = format!("The Oracle {name} is missing or malformed.");
                return Err(Error::new(Kind::Invalid, message));
            }
        }
        Ok(Self {
            key_id: format!("{tenancy}/{user}/{fingerprint}"),
            key: RsaKey::read(key.expose(), "private_key")?,
        })
    }

    /// The headers that sign `request`, valid for 5 minutes around `now`, Unix seconds.
    pub fn sign(
        &self,
        request: Unsigned<'_>,
        now: u64,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, Error> {
        let date = date(now)?;
        let target = format!(
            "{} {}",
            request.method.as_str().to_ascii_lowercase(),
            request.path
        );
        let text = |name| {
            request
                .headers
                .get(name)
                .and_then(|value: &HeaderValue| value.to_str().ok())
        };
        let host = text(header::HOST).ok_or_else(unsignable)?;
        let mut signed = vec![
            ("date", &*date),
            ("(request-target)", &target),
            ("host", host),
        ];
        let (length, hash) = (request.body.len().to_string(), sha256_base64(request.body));
        let has_body = matches!(request.method.as_str(), "POST" | "PUT" | "PATCH");
        if has_body {
            let media = text(header::CONTENT_TYPE).ok_or_else(unsignable)?;
            signed.extend([
                ("content-length", &*length),
                ("content-type", media),
                (HASH, &hash),
            ]);
        }
        let mut headers = vec![
            (header::DATE, value(&date)?),
            (header::AUTHORIZATION, self.authorization(&signed)?),
        ];
        if has_body {
            headers.push((HeaderName::from_static(HASH), value(&hash)?));
        }
        Ok(headers)
    }

    fn authorization(&self, signed: &[(&str, &str)]) -> Result<HeaderValue, Error> {
        let lines: Vec<String> = signed
            .iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        let names: Vec<&str> = signed.iter().map(|(name, _)| *name).collect();
        let signature = STANDARD.encode(self.key.sign(lines.join("\n").as_bytes())?);
        let mut header = value(&format!(
            r#"Signature algorithm="rsa-sha256",headers="{}",keyId="{}",signature="{signature}",version="1""#,
            names.join(" "),
            self.key_id,
        ))?;
        header.set_sensitive(true);
        Ok(header)
    }
}

/// RFC 9110's form, 29 letters.
fn date(now: u64) -> Result<String, Error> {
    // Later than the year 9999, `httpdate` panics.
    let seconds = Some(now)
        .filter(|now| *now < YEAR_10000)
        .ok_or_else(unsignable)?;
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    Ok(httpdate::fmt_http_date(time.ok_or_else(unsignable)?))
}

fn value(text: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_str(text).map_err(|_| unsignable())
}

fn unsignable() -> Error {
    Error::new(Kind::Internal, "The upstream request could not be signed.")
}

const HASH: &str = "x-content-sha256";
/// Oracle's limit for an OCID is 255.
const MAX_OCID_BYTES: usize = 255;
const YEAR_10000: u64 = 253_402_300_800;

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};
    use serde::Deserialize;

    use super::*;

    const KEY: &str = include_str!("../../tests/fixtures/credentials/rsa.pem");
    /// Made by Oracle's own SDK: tests/fixtures/credentials/peers.py.
    const TABLE: &str = include_str!("../../tests/fixtures/credentials/oci.json");

    #[derive(Deserialize)]
    struct Case {
        method: String,
        host: String,
        path: String,
        body: String,
        now: u64,
        headers: std::collections::BTreeMap<String, String>,
    }

    fn signer() -> Signer {
        let key = Secret::try_new(KEY).unwrap();
        let (tenancy, user) = ("ocid1.tenancy.oc1..aaaa", "ocid1.user.oc1..bbbb");
        Signer::try_new(tenancy, user, "20:3b:97:13:55:1c", &key).unwrap()
    }

    #[test]
    fn oracle_s_sdk_signs_the_same() {
        let table: Vec<Case> = serde_json::from_str(TABLE).unwrap();
        assert!(table.len() >= 4);
        for case in &table {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, case.host.parse().unwrap());
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/json"),
            );
            let request = Unsigned {
                method: &case.method.parse::<Method>().unwrap(),
                path: &case.path,
                headers: &headers,
                body: case.body.as_bytes(),
            };
            let signed: HeaderMap = signer()
                .sign(request, case.now)
                .unwrap()
                .into_iter()
                .collect();
            for name in ["date", "x-content-sha256", "authorization"] {
                let ours = signed.get(name).map(|value| value.to_str().unwrap());
                assert_eq!(
                    ours,
                    case.headers.get(name).map(String::as_str),
                    "{} {name}",
                    case.path
                );
            }
            assert!(!format!("{signed:?}").contains("signature"));
        }
    }

    #[test]
    fn what_a_key_lacks_is_named() {
        let key = Secret::try_new(KEY).unwrap();
        for (parts, told) in [
            (["", "u", "f"], "tenancy"),
            (["t", "u\"x", "f"], "user"),
            (["t", "u", "f/g"], "fingerprint"),
        ] {
            let [tenancy, user, fingerprint] = parts;
            let error = Signer::try_new(tenancy, user, fingerprint, &key).unwrap_err();
            assert!(error.message().contains(told));
        }
        let none = Secret::try_new("no key").unwrap();
        let error = Signer::try_new("t", "u", "f", &none).unwrap_err();
        assert_eq!(error.param(), Some("private_key"));
        assert!(date(u64::MAX).is_err());
    }
}
