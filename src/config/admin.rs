//! `gateway.admin` as a conf file writes it: where the operator's port listens, and the token that it asks for.

use core::net::IpAddr;

use serde::Deserialize;

use super::{Config, ConfigError, source::Source};
use crate::provider::Secret;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminFile {
    listen: Option<String>,
    token: Option<String>,
}

impl AdminFile {
    pub fn apply(self, source: &Source<'_>, config: &mut Config) -> Result<(), ConfigError> {
        if let Some(listen) = self.listen {
            config.admin = (listen != "none").then_some(listen);
        }
        let place = ["gateway", "admin", "token"];
        if let Some(reference) = self.token {
            config.admin_token = source.secret(&place, &reference)?;
            let strong = config.admin_token.as_ref().is_some_and(is_strong);
            if !strong {
                return Err(source.error(&place, WEAK.to_owned()));
            }
        }
        let Some(address) = &config.admin else {
            return Ok(());
        };
        source.check_address(&["gateway", "admin", "listen"], address)?;
        if config.admin_token.is_none() && !is_loopback(address) {
            let message = format!("`{address}` can be reached by others: a `token` is needed");
            return Err(source.error(&["gateway", "admin", "listen"], message));
        }
        Ok(())
    }
}

/// Whether `host:port` is this machine's alone. A name can stand for anything.
pub fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or("", |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let address = host.parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Whether a token is none that is tried first.
fn is_strong(token: &Secret) -> bool {
    let token = token.expose();
    let mut different: Vec<char> = token.chars().collect();
    different.sort_unstable();
    different.dedup();
    let mut rest = token.to_ascii_lowercase();
    for word in COMMON {
        rest = rest.replace(word, "");
    }
    let own = rest.bytes().filter(u8::is_ascii_alphanumeric).count();
    token.len() >= MIN_BYTES && different.len() >= MIN_DIFFERENT && own >= MIN_OWN
}

const WEAK: &str = "too easily guessed: at least 16 characters are needed, 8 of them different, and no common words; `openssl rand -hex 24` makes one";
const MIN_BYTES: usize = 16;
const MIN_DIFFERENT: usize = 8;
/// Letters and digits that must be left without these.
const MIN_OWN: usize = 8;
/// What stands in examples, in lists of defaults and on keyboards.
const COMMON: &[&str] = &[
    "0123456789",
    "123456",
    "654321",
    "abcdef",
    "admin",
    "bearer",
    "change",
    "default",
    "demo",
    "example",
    "gateway",
    "key",
    "letmein",
    "master",
    "operator",
    "passw0rd",
    "password",
    "pingora",
    "placeholder",
    "qwerty",
    "replace",
    "root",
    "sample",
    "secret",
    "sk-1234",
    "test",
    "this",
    "token",
    "uiop",
    "your",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_guessed_first_is_no_token() {
        for (token, strong) in [
            ("sk-1234", false),
            ("k3Jq9vXw2LmZ8tR", false),
            ("k3Jq9vXw2LmZ8tRb", true),
            ("aaaaaaaaaaaaaaaaaaaaaaaa", false),
            ("abababababababababababab", false),
            ("changeme-changeme-changeme", false),
            ("Your-Secret-Admin-Token-1", false),
            ("0123456789abcdef", false),
            ("qwertyuiop-password", false),
            ("9f86d081884c7d659a2feaa0c55ad015", true),
            ("correct horse battery staple", true),
        ] {
            let secret = Secret::try_new(token).unwrap();
            assert_eq!(is_strong(&secret), strong, "{token}");
        }
    }

    #[test]
    fn only_loopback_is_this_machine_s_alone() {
        for (address, own) in [
            ("127.0.0.1:1", true),
            ("127.8.8.8:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("localhost:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("10.0.0.1:1", false),
            ("localhost.example:1", false),
        ] {
            assert_eq!(is_loopback(address), own, "{address}");
        }
    }
}
