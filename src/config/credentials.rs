//! A provider's credential as a conf names it: one key, or the parts of something more.

use std::{collections::BTreeMap, sync::Arc};

use serde::Deserialize;

use crate::{
    config::{
        ConfigError,
        keys::{NAME, is_name},
        schema::Step,
        source::{PLAIN_TEXT, Source, is_plain},
    },
    error::Error,
    provider::{
        Credential, FreshSecret, Provider, Secret,
        pool::{KeyPool, MAX_KEYS, PooledKey},
        scheme::{Own, Part, Parts},
    },
};

/// `api_key`, or `api_keys`.
pub enum KeysFile {
    None,
    One(String),
    Several(Vec<KeyFile>),
}

/// One of `api_keys`.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a key, or `key` with `weight` and `name`"
)]
pub enum KeyFile {
    Plain(String),
    Full(FullKeyFile),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FullKeyFile {
    key: String,
    weight: Option<u32>,
    name: Option<String>,
}

/// Reads `api_key` or `api_keys`, and `credentials`, which counts where both make one.
pub fn read(
    keys: KeysFile,
    credentials: &BTreeMap<String, String>,
    provider: &Provider,
    source: &Source<'_>,
) -> Result<Option<Credential>, ConfigError> {
    let path = |key| ["gateway", "providers", &provider.name, key];
    let parts = read_parts(credentials, provider, source)?;
    let named = |part: &Part| Ok::<_, Error>(parts.get(part.name).cloned());
    let region = provider.options.get("aws_region");
    let made = provider.scheme.read(&Parts {
        named: &named,
        own: Some(Own {
            variable: &|name| source.surroundings.variable(name),
            file: &|file| fresh(file, source),
        }),
        region: region.map_or(DEFAULT_REGION, String::as_str),
    });
    let made =
        made.map_err(|error| source.error(&path("credentials")[..], error.message().to_owned()))?;
    match (made, keys) {
        (Some(made), _) => Ok(Some(made)),
        (None, KeysFile::One(reference)) => {
            let key = source.secret(&path("api_key"), &reference)?;
            Ok(key.map(Credential::Key))
        }
        (None, KeysFile::Several(keys)) => read_pool(keys, &provider.name, source).map(Some),
        (None, KeysFile::None) => Ok(None),
    }
}

fn read_pool(
    files: Vec<KeyFile>,
    provider: &str,
    source: &Source<'_>,
) -> Result<Credential, ConfigError> {
    let at = ["gateway", "providers", provider, "api_keys"];
    if !(1..=MAX_KEYS).contains(&files.len()) {
        return Err(source.error(&at, format!("from 1 to {MAX_KEYS} keys are needed")));
    }
    let mut keys: Vec<PooledKey> = Vec::with_capacity(files.len());
    for (place, file) in files.into_iter().enumerate() {
        let told = |message| {
            let list = at.map(|step| Step::Field(step.to_owned()));
            source.error_at(&[&list[..], &[Step::Item(place)]].concat(), message)
        };
        let is_plain = is_plain(file.key());
        keys.push(file.read(source, &keys).map_err(told)?);
        if is_plain {
            source.warn(&told(PLAIN_TEXT.to_owned()));
        }
    }
    Ok(match keys.as_slice() {
        [only] => Credential::Key(only.secret.clone()),
        _ => Credential::Pool(Arc::new(KeyPool::new(keys))),
    })
}

impl KeyFile {
    fn key(&self) -> &str {
        match self {
            Self::Plain(key) => key,
            Self::Full(file) => &file.key,
        }
    }

    fn read(self, source: &Source<'_>, before: &[PooledKey]) -> Result<PooledKey, String> {
        let file = match self {
            Self::Full(file) => file,
            Self::Plain(key) => FullKeyFile {
                key,
                weight: None,
                name: None,
            },
        };
        let secret = source.resolve(&file.key)?;
        let secret = secret.ok_or("the key is empty")?;
        let is_same = |other: &PooledKey| other.secret.expose() == secret.expose();
        if before.iter().any(is_same) {
            return Err("this key is in the list already".to_owned());
        }
        if file.weight == Some(0) {
            return Err("`weight` must be at least 1".to_owned());
        }
        if file.name.as_deref().is_some_and(|name| !is_name(name)) {
            return Err(NAME.to_owned());
        }
        let named = |other: &PooledKey| other.name.is_some() && other.name == file.name;
        if before.iter().any(named) {
            return Err("another key has this name".to_owned());
        }
        Ok(PooledKey {
            name: file.name,
            secret,
            weight: file.weight.unwrap_or(1),
        })
    }
}

fn read_parts(
    credentials: &BTreeMap<String, String>,
    provider: &Provider,
    source: &Source<'_>,
) -> Result<BTreeMap<&'static str, Secret>, ConfigError> {
    let known = provider.scheme.parts();
    let mut parts = BTreeMap::new();
    for (name, reference) in credentials {
        let path = ["gateway", "providers", &provider.name, "credentials", name];
        let Some(part) = known.iter().find(|part| part.name == name) else {
            let known: Vec<_> = known.iter().map(|part| part.name).collect();
            let known = known.join(", ");
            let message = format!("no part of this provider's credentials, which have: {known}");
            return Err(source.error(&path, message));
        };
        if let Some(secret) = source.secret(&path, reference)? {
            parts.insert(part.name, secret);
        }
    }
    Ok(parts)
}

/// What reads a file as it stands at that moment; a file that does not exist yet is no failure before it is needed.
fn fresh(file: &str, source: &Source<'_>) -> FreshSecret {
    let reader = source.surroundings.reader(file);
    FreshSecret::new(file, move || Secret::try_new(&reader.as_ref()?()?))
}

/// What AWS's own tools take where nobody names one.
const DEFAULT_REGION: &str = "us-east-1";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Surroundings};

    struct Nothing;

    impl Surroundings for Nothing {
        fn variable(&self, name: &str) -> Option<String> {
            (name == "B").then(|| "sk-canary-b".to_owned())
        }

        fn file(&self, _: &str) -> Result<String, String> {
            Err("no such file".to_owned())
        }
    }

    fn read(lines: &str) -> Result<Config, ConfigError> {
        Config::read(&Source {
            file: "conf.yaml",
            text: &format!("gateway:\n  providers:\n    openai:\n{lines}"),
            server_keys: &[],
            surroundings: &Nothing,
            secret_file_mode: 0,
        })
    }

    #[test]
    fn keys_are_a_list_of_texts_and_of_rows() {
        let config = read(concat!(
            "      api_keys:\n        - sk-canary-a\n        - env:B\n",
            "        - { key: sk-canary-c, weight: 3, name: team }\n",
        ))
        .unwrap();
        assert!(config.has_pools);
        let pool = config.pool("openai").unwrap();
        assert_eq!(pool.named("team").unwrap().expose(), "sk-canary-c");
        assert!(pool.named("other").is_none() && config.pool("groq").is_none());
        let one = read("      api_keys: [sk-canary-a]\n").unwrap();
        let credential = &one.providers["openai"].credential;
        assert!(matches!(credential, Some(Credential::Key(_))) && !one.has_pools);
    }

    #[test]
    fn mistakes_in_a_list_of_keys_are_told_at_their_place() {
        let many = "      api_keys: [".to_owned() + &"x, ".repeat(65) + "]\n";
        for (lines, line, path, part) in [
            ("      api_keys: []\n", 4, "", "from 1 to 64"),
            (many.as_str(), 4, "", "from 1 to 64"),
            (
                "      api_key: sk-canary-a\n      api_keys: [sk-canary-b]\n",
                5,
                "",
                "not both",
            ),
            (
                "      api_keys:\n        - sk-canary-b\n        - env:B\n",
                6,
                "[1]",
                "in the list already",
            ),
            (
                "      api_keys:\n        - env:NONE\n",
                5,
                "[0]",
                "no variable `NONE`",
            ),
            (
                "      api_keys:\n        - sk-canary-a\n        - { key: sk-canary-b, weight: 0 }\n",
                6,
                "[1]",
                "at least 1",
            ),
            (
                "      api_keys:\n        - { key: sk-canary-a, name: a b }\n",
                5,
                "[0]",
                "a name is of",
            ),
            (
                "      api_keys:\n        - { key: sk-canary-a, name: a }\n        - { key: sk-canary-b, name: a }\n",
                6,
                "[1]",
                "another key has this name",
            ),
        ] {
            let error = read(lines).expect_err(lines);
            assert_eq!(
                error.path,
                format!("gateway.providers.openai.api_keys{path}")
            );
            assert_eq!(error.line, line, "{error}");
            assert!(error.message.contains(part), "{error}");
            assert!(!error.to_string().contains("canary"), "{error}");
        }
        for lines in [
            "      api_keys:\n        - { kye: sk-canary-a }\n",
            "      api_keys: sk-canary-a\n",
            "      api_keys:\n        - [sk-canary-a]\n",
        ] {
            let error = read(lines).expect_err(lines);
            assert!(!error.to_string().contains("canary"), "{error}");
        }
    }
}
