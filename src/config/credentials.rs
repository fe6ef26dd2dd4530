//! A provider's credential as a conf names it: one key, or the parts of something more.

use std::{collections::BTreeMap, sync::Arc};

use serde::Deserialize;

use crate::{
    config::{
        ConfigError,
        keys::{NAME, is_name},
        schema::Step,
        source::Source,
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
        let key = file.read(source, &keys).map_err(|message| {
            let list = at.map(|step| Step::Field(step.to_owned()));
            source.error_at(&[&list[..], &[Step::Item(place)]].concat(), message)
        })?;
        keys.push(key);
    }
    Ok(match keys.as_slice() {
        [only] => Credential::Key(only.secret.clone()),
        _ => Credential::Pool(Arc::new(KeyPool::new(keys))),
    })
}

impl KeyFile {
    fn read(self, source: &Source<'_>, before: &[PooledKey]) -> Result<PooledKey, String> {
        let file = match self {
            Self::Full(file) => file,
            Self::Plain(key) => FullKeyFile {
                key,
                weight: None,
                name: None,
            },
        };
        let secret = source
            .secret(&[], &file.key)
            .map_err(|error| error.message)?;
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
