//! RSA-SHA256 signatures (PKCS #1 v1.5), as JWTs' `RS256` and Oracle's requests have them.

use std::{fmt, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::{
    digest,
    rand::SystemRandom,
    signature::{RSA_PKCS1_SHA256, RsaKeyPair},
};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use secrecy::{ExposeSecret, SecretString};

use crate::error::{Error, Kind};

/// A private key. Its numbers live in `ring`, which does not wipe them.
#[derive(Clone)]
pub struct RsaKey {
    pair: Arc<RsaKeyPair>,
    digest: [u8; 32],
}

impl RsaKey {
    /// Reads a PEM text, PKCS #8 or PKCS #1, unencrypted; `what` names it in the error. A `\n` in two letters counts as the
    /// end of a line: a header can hold no other.
    pub fn read(pem: &str, what: &'static str) -> Result<Self, Error> {
        let wrong = || {
            let message = format!(
                "`{what}` must be an unencrypted RSA key of 2048 to 4096 bits in PEM form."
            );
            Error::invalid(what, message)
        };
        let pem = SecretString::from(pem.replace("\\n", "\n"));
        let der = PrivateKeyDer::from_pem_slice(pem.expose_secret().as_bytes());
        let der = der.map_err(|_| wrong())?;
        let pair = match &der {
            PrivateKeyDer::Pkcs8(key) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()),
            PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der()),
            _ => return Err(wrong()),
        };
        let mut fingerprint = [0; 32];
        let hash = digest::digest(&digest::SHA256, der.secret_der());
        fingerprint.copy_from_slice(hash.as_ref());
        Ok(Self {
            pair: Arc::new(pair.map_err(|_| wrong())?),
            digest: fingerprint,
        })
    }

    pub fn sign(&self, text: &[u8]) -> Result<Vec<u8>, Error> {
        let mut signature = vec![0; self.pair.public().modulus_len()];
        let random = SystemRandom::new();
        self.pair
            .sign(&RSA_PKCS1_SHA256, &random, text, &mut signature)
            .map_err(|_| Error::new(Kind::Internal, "The private key could not sign."))?;
        Ok(signature)
    }

    /// What tells this key from others; never shown.
    pub fn digest(&self) -> &[u8] {
        &self.digest
    }
}

impl fmt::Debug for RsaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[key]")
    }
}

/// The SHA-256 of `bytes` in base64.
pub fn sha256_base64(bytes: &[u8]) -> String {
    STANDARD.encode(digest::digest(&digest::SHA256, bytes))
}

#[cfg(test)]
mod tests {
    use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

    use super::*;

    const PKCS8: &str = include_str!("../../tests/fixtures/credentials/rsa.pem");
    const PKCS1: &str = include_str!("../../tests/fixtures/credentials/rsa_pkcs1.pem");

    #[test]
    fn a_key_signs_in_either_form_and_on_one_line() {
        let on_one_line = PKCS8.replace('\n', "\\n");
        let first = RsaKey::read(PKCS8, "key").unwrap();
        let signature = first.sign(b"text").unwrap();
        for pem in [PKCS1, &on_one_line] {
            let key = RsaKey::read(pem, "key").unwrap();
            assert_eq!(key.sign(b"text").unwrap(), signature);
        }
        let public = first.pair.public();
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public)
            .verify(b"text", &signature)
            .unwrap();
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_told() {
        let cut = &PKCS8[..PKCS8.len() / 2];
        for pem in [
            "",
            "sk-secret",
            cut,
            "-----BEGIN PRIVATE KEY-----\nc2stc2VjcmV0\n-----END PRIVATE KEY-----",
        ] {
            let error = RsaKey::read(pem, "private_key").unwrap_err();
            assert_eq!(error.param(), Some("private_key"));
            assert!(!error.message().contains("c2s") && !error.message().contains("sk-"));
        }
        let key = RsaKey::read(PKCS8, "key").unwrap();
        assert_eq!(format!("{key:?}"), "[key]");
    }
}
