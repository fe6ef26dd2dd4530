//! A provider's credential as a conf names it: one key, or the parts of something more.

use std::collections::BTreeMap;

use crate::{
    config::{ConfigError, source::Source},
    error::Error,
    provider::{
        Credential, FreshSecret, Provider, Secret,
        scheme::{Own, Part, Parts},
    },
};

/// Reads `api_key` and `credentials`; the second counts where both make one.
pub fn read(
    api_key: Option<&str>,
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
    match (made, api_key) {
        (Some(made), _) => Ok(Some(made)),
        (None, Some(reference)) => {
            let key = source.secret(&path("api_key"), reference)?;
            Ok(key.map(Credential::Key))
        }
        (None, None) => Ok(None),
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
