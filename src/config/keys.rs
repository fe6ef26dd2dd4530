//! `gateway.virtual_keys` as a conf file writes them.

use std::collections::BTreeMap;

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use serde::Deserialize;

use super::{Config, ConfigError, source::Source};
use crate::{
    keys::{KeyHash, VirtualKey},
    provider::Credential,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VirtualKeyFile {
    key_hash: String,
    tenant: Option<String>,
    expires: Option<String>,
    providers: Option<Vec<String>>,
    models: Option<Vec<String>>,
    configs: Option<Vec<String>>,
    #[serde(default)]
    provider_keys: BTreeMap<String, String>,
}

/// Reads `gateway.virtual_keys` and `gateway.require_key`; providers, configs and apps are settled before.
pub fn apply(
    files: BTreeMap<String, VirtualKeyFile>,
    require: Option<bool>,
    source: &Source<'_>,
    config: &mut Config,
) -> Result<(), ConfigError> {
    for (name, file) in files {
        let hash: KeyHash = file
            .key_hash
            .parse()
            .map_err(|wrong: &str| source.error(&path(&name, "key_hash"), wrong.to_owned()))?;
        let key = file.read(&name, source, config)?;
        config.keys.insert(hash, key).map_err(|other| {
            let message = format!("this is the key of `{other}` too");
            source.error(&path(&name, "key_hash"), message)
        })?;
    }
    let app = config.front.keyed_app();
    config.require_key = require.unwrap_or(!config.keys.is_empty());
    if config.keys.is_empty() && (config.require_key || app.is_some()) {
        let message = "there are no keys: gateway.virtual_keys is needed".to_owned();
        return Err(match app {
            Some(app) => source.error(&["gateway", "upstreams", app, "require_key"], message),
            None => source.error(&["gateway", "require_key"], message),
        });
    }
    Ok(())
}

impl VirtualKeyFile {
    fn read(
        self,
        name: &str,
        source: &Source<'_>,
        config: &Config,
    ) -> Result<VirtualKey, ConfigError> {
        let wrong = |key, message| Err(source.error(&path(name, key), message));
        if !is_name(name) {
            return Err(source.error(&path(name, "")[..3], NAME.to_owned()));
        }
        if self
            .tenant
            .as_deref()
            .is_some_and(|tenant| !is_name(tenant))
        {
            return wrong("tenant", NAME.to_owned());
        }
        for provider in self.providers.iter().flatten() {
            source.check_provider(&path(name, "providers"), provider, config)?;
        }
        let mut configs = self.configs.iter().flatten();
        if let Some(other) = configs.find(|name| !config.configs.contains_key(*name)) {
            return wrong("configs", format!("gateway.configs has no `{other}`"));
        }
        let mut provider_keys = BTreeMap::new();
        for (provider, reference) in self.provider_keys {
            let at = ["gateway", "virtual_keys", name, "provider_keys", &provider];
            source.check_provider(&at, &provider, config)?;
            let is_reference = ["env:", "file:"]
                .iter()
                .any(|kind| reference.starts_with(kind));
            let secret = match config.pool(&provider) {
                _ if is_reference => source.secret(&at, &reference)?,
                pool => pool.and_then(|pool| pool.named(&reference)).cloned(),
            };
            let secret = secret.ok_or_else(|| source.error(&at, NO_SECRET.to_owned()))?;
            provider_keys.insert(provider, Credential::Key(secret));
        }
        let expires = self.expires.as_deref().map(read_expiry).transpose();
        Ok(VirtualKey {
            name: name.to_owned(),
            tenant: self.tenant,
            expires: expires.map_err(|message| source.error(&path(name, "expires"), message))?,
            providers: self.providers,
            models: self.models,
            configs: self.configs,
            provider_keys,
        })
    }
}

/// A day, whose begin in UTC counts, or a moment as RFC 3339 has it, as Unix seconds.
fn read_expiry(text: &str) -> Result<u64, String> {
    let begin = |day: Date| day.to_zoned(TimeZone::UTC).map(|begin| begin.timestamp());
    let moment = match text.parse::<Timestamp>() {
        Ok(moment) => Ok(moment),
        // A day alone: a time without an offset could be anybody's.
        Err(_) if text.len() == DAY => text.parse::<Date>().and_then(begin),
        unread => unread,
    };
    let seconds = moment.ok().map(Timestamp::as_second);
    let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
    seconds.ok_or_else(|| {
        format!("`{text}` is no date, expected one such as 2027-01-31 or 2027-01-31T12:00:00Z")
    })
}

fn path<'p>(name: &'p str, key: &'p str) -> [&'p str; 4] {
    ["gateway", "virtual_keys", name, key]
}

/// What may stand in a log and as a metric's label.
pub(super) fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(allowed)
}

/// The length of `2027-01-31`.
const DAY: usize = 10;
const NO_SECRET: &str =
    "expected `env:NAME`, `file:PATH`, or the name of one of the provider's `api_keys`";
pub(super) const NAME: &str = "a name is of a-z, A-Z, 0-9, `-`, `_` and `.`, at most 64 of them";

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::{config::Surroundings, keys::KeyHash};

    struct Team;

    impl Surroundings for Team {
        fn variable(&self, name: &str) -> Option<String> {
            (name == "TEAM").then(|| "sk-team".to_owned())
        }

        fn file(&self, _: &str) -> Result<String, String> {
            Err("no such file".to_owned())
        }
    }

    fn read(lines: &str) -> Result<Config, ConfigError> {
        Config::read(&Source {
            file: "conf.yaml",
            text: &format!("gateway:\n{lines}"),
            server_keys: &[],
            surroundings: &Team,
            secret_file_mode: 0,
        })
    }

    fn one(fields: &str) -> String {
        let hash = KeyHash::of("pc-1");
        format!("  virtual_keys:\n    ide:\n      key_hash: {hash}\n{fields}")
    }

    fn key(fields: &str) -> VirtualKey {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", "Bearer pc-1".parse().unwrap());
        let config = read(&one(fields)).unwrap();
        let identity = config.keys.identify(&headers, 0).unwrap().unwrap();
        VirtualKey::clone(&identity.key)
    }

    #[test]
    fn a_key_is_a_row_of_yaml() {
        let key = key(concat!(
            "      tenant: search\n      expires: 2027-01-31\n      providers: [openai]\n",
            "      models: [\"gpt-*\"]\n      configs: []\n      provider_keys: { openai: \"env:TEAM\" }\n",
        ));
        assert_eq!((&*key.name, key.tenant.as_deref()), ("ide", Some("search")));
        assert_eq!(key.expires, Some(1_801_353_600));
        assert_eq!(key.configs.as_deref(), Some(&[][..]));
        let held = key.provider_keys["openai"].secrets().next().unwrap();
        assert_eq!(held.expose(), "sk-team");
    }

    #[test]
    fn an_expiry_is_a_day_or_a_moment() {
        for (text, seconds) in [
            ("1970-01-02", 86_400),
            ("1970-01-01T00:00:10Z", 10),
            ("2000-02-29T23:59:59Z", 951_868_799),
            ("2100-03-01", 4_107_542_400),
            ("1970-01-01T01:00:10+01:00", 10),
        ] {
            assert_eq!(
                key(&format!("      expires: {text}\n")).expires,
                Some(seconds)
            );
        }
    }

    #[test]
    fn what_is_no_day_or_moment_is_refused() {
        for text in [
            "",
            "2027",
            "2027-1-31",
            "2027-13-01",
            "2027-00-01",
            "2027-02-29",
            "2027-04-31",
            "2027-01-00",
            "2027-01-31-01",
            "+027-01-31",
            "1969-12-31",
            "2027-01-31T12:00:00",
            "2027-01-31T24:00:00Z",
            "2027-01-31T12:60:00Z",
        ] {
            assert!(read_expiry(text).is_err(), "{text}");
        }
    }

    #[test]
    fn one_key_is_enough_to_ask_for_keys() {
        assert!(!read("  unsupported: drop\n").unwrap().require_key);
        assert!(read(&one("")).unwrap().require_key);
        let free = read(&format!("  require_key: false\n{}", one(""))).unwrap();
        assert!(!free.require_key && !free.keys.is_empty());
    }

    #[test]
    fn mistakes_are_told_at_their_place() {
        let hash = KeyHash::of("pc-1");
        for (lines, line, path, part) in [
            (
                "  virtual_keys:\n    ide: { key_hash: pc-canary }\n".to_owned(),
                3,
                "gateway.virtual_keys.ide.key_hash",
                "expected `sha256:` and 64",
            ),
            (
                "  virtual_keys:\n    ide: {}\n".to_owned(),
                3,
                "gateway.virtual_keys",
                "missing field `key_hash`",
            ),
            (
                one("      expires: soon\n"),
                5,
                "gateway.virtual_keys.ide.expires",
                "no date",
            ),
            (
                one("      expires: 1969-01-01\n"),
                5,
                "gateway.virtual_keys.ide.expires",
                "no date",
            ),
            (
                one("      tenant: a b\n"),
                5,
                "gateway.virtual_keys.ide.tenant",
                "a-z",
            ),
            (
                one("      providers: [opnai]\n"),
                5,
                "gateway.virtual_keys.ide.providers",
                "openai",
            ),
            (
                one("      configs: [x]\n"),
                5,
                "gateway.virtual_keys.ide.configs",
                "no `x`",
            ),
            (
                one("      budget: 1\n"),
                5,
                "gateway.virtual_keys.ide.budget",
                "unknown field",
            ),
            (
                one("      provider_keys:\n        opnai: env:TEAM\n"),
                6,
                "gateway.virtual_keys.ide.provider_keys.opnai",
                "unknown provider",
            ),
            (
                one("      provider_keys:\n        openai: sk-canary\n"),
                6,
                "gateway.virtual_keys.ide.provider_keys.openai",
                "expected `env:NAME`",
            ),
            (
                one(&format!("    other:\n      key_hash: {hash}\n")),
                6,
                "gateway.virtual_keys.other.key_hash",
                "the key of `ide` too",
            ),
            (
                "  require_key: true\n".to_owned(),
                2,
                "gateway.require_key",
                "virtual_keys is needed",
            ),
            (
                "  upstreams:\n    app:\n      url: http://a\n      require_key: true\n".to_owned(),
                5,
                "gateway.upstreams.app.require_key",
                "virtual_keys is needed",
            ),
        ] {
            let error = read(&lines).expect_err(&lines);
            assert!(error.path.starts_with(path), "{error}");
            assert_eq!(error.line, line, "{error}");
            assert!(error.message.contains(part), "{error}");
            assert!(!error.to_string().contains("canary"), "{error}");
        }
    }
}
