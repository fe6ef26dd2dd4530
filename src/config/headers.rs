//! What a request's headers say to the gateway: Portkey's headers, one row each.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, value::RawValue};

use crate::{
    completion::{Compliance, PromptAs, Shape, approach::PROMPT_AS},
    config::{
        Config,
        host::custom_base,
        node::{NoNode, Node},
        portkey,
        timeouts::Asked,
    },
    dialect::settle::Unsupported,
    error::Error,
    keys::VirtualKey,
    provider::Secret,
    route::{
        Route,
        plan::{Facts, Traits, identity},
    },
};

/// The word of a request's headers on all of its calls. The targets of its config have a word of their own.
#[derive(Clone, Debug)]
pub struct Directives {
    /// Who asks; `None`: nobody whom the gateway gave a key.
    pub client: Option<Arc<VirtualKey>>,
    /// The config that the request brought or named.
    pub route: Option<Arc<Route>>,
    /// The name of the conf's config, if that is it.
    pub saved: Option<String>,
    pub provider: Option<String>,
    pub key: Option<Secret>,
    pub custom_host: Option<String>,
    /// Request headers to send on to the upstream; `None`: what the target names.
    pub forward: Option<Vec<HeaderName>>,
    /// The deadline of each call.
    pub timeout: Option<Duration>,
    /// The request's other deadlines.
    pub asked: Asked,
    pub compliance: Compliance,
    /// What becomes of a parameter that nobody can carry; `None`: what the target or the conf says.
    pub unsupported: Option<Unsupported>,
    /// How the prompt is put to a model that answers messages; `None`: what the target or the conf says.
    pub prompt_as: Option<PromptAs>,
    /// What the client tells of the request, for choices.
    pub metadata: BTreeMap<String, Value>,
    /// Which endpoint was asked; the path's word, not a header's.
    pub shape: Shape,
}

impl Directives {
    pub fn read(headers: &HeaderMap, conf: &Config) -> Result<Self, Error> {
        let (bearer, own) = (bearer(headers)?, Own::of(headers));
        if own.0.is_empty() {
            return Ok(Self::of_key(bearer));
        }
        let provider = own.text(PROVIDER)?;
        let custom_host = own.text(CUSTOM_HOST)?;
        let config = own.text(CONFIG)?;
        let saved = config.filter(|name| conf.configs.contains_key(*name));
        let route = match config {
            Some(config) => {
                // Portkey says first what is wrong with these.
                provider.map_or(Ok(()), |name| conf.check_provider(name))?;
                let base = custom_host.map(|url| custom_base(url, &conf.allowed_hosts));
                base.transpose()?;
                Some(portkey::route(config, provider, conf)?)
            }
            None => None,
        };
        let forward = own
            .text(FORWARD)?
            .map(|list| list.split(',').map(str::trim));
        let forward = forward.map(|names| names.map(read_forward).collect::<Result<_, _>>());
        refuse_guardrails(&own)?;
        let strict = own.text(STRICT)? != Some("false");
        Ok(Self {
            route,
            saved: saved.map(str::to_owned),
            provider: provider.map(str::to_owned),
            custom_host: custom_host.map(str::to_owned),
            forward: forward.transpose()?,
            timeout: read_timeout(own.text(TIMEOUT)?)?,
            compliance: if strict {
                Compliance::Strict
            } else {
                Compliance::Loose
            },
            asked: Asked::read(&own)?,
            unsupported: read_unsupported(&own)?,
            prompt_as: read_prompt_as(&own)?,
            metadata: own
                .text(METADATA)?
                .map_or(Ok(BTreeMap::new()), read_metadata)?,
            ..Self::of_key(client_key(bearer, &own)?)
        })
    }

    /// The same of `client`. Err: the config that it names is none of its own.
    pub fn of(mut self, client: Option<&Arc<VirtualKey>>) -> Result<Self, Error> {
        if let (Some(key), Some(name)) = (client, &self.saved) {
            key.check_config(name)
                .map_err(|error| error.with_param(CONFIG))?;
        }
        self.client = client.cloned();
        Ok(self)
    }

    /// Whether the config came with the request.
    pub fn is_inline(&self) -> bool {
        self.route.is_some() && self.saved.is_none()
    }

    /// What of a request makes the same leaf another target.
    pub fn traits(&self, facts: &Facts<'_>) -> Traits {
        let own = self.key.as_ref().map(Secret::expose);
        // Keys of its own at providers.
        let clients = self
            .client
            .as_ref()
            .filter(|client| !client.provider_keys.is_empty());
        let key = own.or(clients.map(|client| client.name.as_str()));
        let host = self.custom_host.as_ref();
        let model = facts.param("model").map(RawValue::get);
        Traits {
            key: key.map_or(0, |key| identity(&key)),
            host: host.map_or(0, identity),
            model: model.map_or(0, |model| identity(&model)),
        }
    }

    /// Those of an app that knows nothing of this gateway: its key, and that is all.
    fn of_key(key: Option<Secret>) -> Self {
        Self {
            client: None,
            route: None,
            saved: None,
            provider: None,
            key,
            custom_host: None,
            forward: None,
            timeout: None,
            asked: Asked::default(),
            compliance: Compliance::Strict,
            unsupported: None,
            prompt_as: None,
            metadata: BTreeMap::new(),
            shape: Shape::default(),
        }
    }
}

/// The headers that are for the gateway. They are looked for once: most requests have one or none, and to ask a map for each
/// that there can be takes longer.
pub struct Own<'h>(Vec<(&'h str, &'h HeaderValue)>);

impl<'h> Own<'h> {
    pub fn of(headers: &'h HeaderMap) -> Self {
        let named = headers.iter().map(|(name, value)| (name.as_str(), value));
        let ours = |name: &str| name.starts_with(PREFIX) || name.starts_with(OWN_PREFIX);
        Self(named.filter(|(name, _)| ours(name)).collect())
    }

    /// As [`text`] has it.
    pub fn text(&self, name: &'static str) -> Result<Option<&'h str>, Error> {
        let named = self.0.iter().filter(|(own, _)| *own == name);
        text_of(named.map(|&(_, value)| value), name)
    }
}

/// The key, first that applies: `Authorization`, `x-portkey-api-key`. An empty one counts as absent.
fn client_key(bearer: Option<Secret>, own: &Own<'_>) -> Result<Option<Secret>, Error> {
    match bearer {
        Some(key) => Ok(Some(key)),
        None => Ok(own.text(API_KEY)?.and_then(Secret::try_new)),
    }
}

fn bearer(headers: &HeaderMap) -> Result<Option<Secret>, Error> {
    let key = text(headers, "authorization")?.and_then(Secret::from_authorization);
    Ok(key.filter(|key| key.expose() != NO_KEY))
}

/// A header's value: `None` if absent or blank. Given twice, or not text, it is refused: two readers could disagree.
pub fn text<'h>(headers: &'h HeaderMap, name: &'static str) -> Result<Option<&'h str>, Error> {
    text_of(headers.get_all(name).iter(), name)
}

fn text_of<'h>(
    mut values: impl Iterator<Item = &'h HeaderValue>,
    name: &'static str,
) -> Result<Option<&'h str>, Error> {
    let value = values.next();
    if values.next().is_some() {
        return Err(Error::invalid(
            name,
            format!("The header `{name}` is given more than once."),
        ));
    }
    let text = value.map(|value| value.to_str()).transpose();
    let text =
        text.map_err(|_| Error::invalid(name, format!("The header `{name}` is not plain text.")))?;
    Ok(text.map(str::trim).filter(|text| !text.is_empty()))
}

fn read_timeout(value: Option<&str>) -> Result<Option<Duration>, Error> {
    let Some(value) = value else { return Ok(None) };
    match value.parse::<u64>() {
        Ok(0) => Ok(None),
        Ok(millis) => Ok(Some(Duration::from_millis(millis))),
        Err(_) => Err(Error::invalid(
            TIMEOUT,
            format!("`{TIMEOUT}` must be a whole number of milliseconds."),
        )),
    }
}

fn read_unsupported(own: &Own<'_>) -> Result<Option<Unsupported>, Error> {
    match own.text(UNSUPPORTED)? {
        None => Ok(None),
        Some("reject") => Ok(Some(Unsupported::Reject)),
        Some("drop") => Ok(Some(Unsupported::Drop)),
        Some(_) => Err(Error::invalid(
            UNSUPPORTED,
            format!("`{UNSUPPORTED}` must be `reject` or `drop`."),
        )),
    }
}

fn read_prompt_as(own: &Own<'_>) -> Result<Option<PromptAs>, Error> {
    let Some(value) = own.text(PROMPT_AS)? else {
        return Ok(None);
    };
    let names = PromptAs::ALL.map(|way| format!("`{}`", way.as_str()));
    let wrong = || {
        let message = format!("`{PROMPT_AS}` must be one of {}.", names.join(", "));
        Error::invalid(PROMPT_AS, message)
    };
    PromptAs::by_name(value).map(Some).ok_or_else(wrong)
}

/// It is held to be an object, so that a typo is found where it is made.
fn read_metadata(json: &str) -> Result<BTreeMap<String, Value>, Error> {
    match Node::read_json(json) {
        Ok(Node::Map(fields)) => {
            let values = fields.into_iter();
            Ok(values.map(|(name, node)| (name, node.to_value())).collect())
        }
        Err(NoNode::Refused(why)) => {
            let message = format!("`{METADATA}` is not to be read: {why}.");
            Err(Error::invalid(METADATA, message))
        }
        Ok(_) | Err(NoNode::NoJson) => {
            let message = format!("`{METADATA}` must be a JSON object.");
            Err(Error::invalid(METADATA, message))
        }
    }
}

fn read_forward(name: &str) -> Result<HeaderName, Error> {
    forwardable(name).map_err(|why| Error::invalid(FORWARD, why))
}

/// A header that a client may have sent on. Err: why it may not.
pub fn forwardable(name: &str) -> Result<HeaderName, &'static str> {
    let Ok(header) = name.parse::<HeaderName>() else {
        return Err("A name in `forward_headers` is no header's name.");
    };
    if header.as_str() == FORWARD {
        return Err("forward_headers must not contain the 'x-portkey-forward-headers' header");
    }
    if header.as_str().starts_with(PREFIX) || NEVER_FORWARDED.contains(&header.as_str()) {
        return Err(
            "A name in `forward_headers` belongs to the connection, the credentials or the gateway.",
        );
    }
    Ok(header)
}

/// Portkey adds these to every target; what asks for checks is not served without them.
fn refuse_guardrails(own: &Own<'_>) -> Result<(), Error> {
    for name in GUARDRAILS {
        if own.text(name)?.is_some_and(|list| list != "[]") {
            let message = format!("`{name}`: guardrails are not run here.");
            return Err(Error::invalid(*name, message));
        }
    }
    Ok(())
}

/// What Portkey's Python SDK sends where its user gave `x-portkey-api-key` alone.
const NO_KEY: &str = "OPENAI_API_KEY";
/// Of every header that is for the gateway.
const PREFIX: &str = "x-portkey-";
/// Of what this gateway has beyond Portkey's.
const OWN_PREFIX: &str = "x-completions-";
pub const PROVIDER: &str = "x-portkey-provider";
pub const CONFIG: &str = "x-portkey-config";
pub const API_KEY: &str = "x-portkey-api-key";
pub const CUSTOM_HOST: &str = "x-portkey-custom-host";
pub const FORWARD: &str = "x-portkey-forward-headers";
pub const TIMEOUT: &str = "x-portkey-request-timeout";
pub const TRACE_ID: &str = "x-portkey-trace-id";
pub const METADATA: &str = "x-portkey-metadata";
/// Not Portkey's: what becomes of a parameter that nobody can carry.
pub const UNSUPPORTED: &str = "x-completions-unsupported";
const GUARDRAILS: &[&str] = &[
    "x-portkey-default-input-guardrails",
    "x-portkey-default-output-guardrails",
];
pub const STRICT: &str = "x-portkey-strict-open-ai-compliance";

/// Framing, hop-by-hop, credentials, and the headers that open cloud metadata services.
const NEVER_FORWARDED: &[&str] = &[
    "accept-encoding",
    "api-key",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "metadata",
    "metadata-flavor",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-api-key",
    "x-aws-ec2-metadata-token",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-goog-api-key",
    "x-google-metadata-request",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::AllowedHost, route::leaf::Leaf};

    fn read(pairs: &[(&'static str, &str)]) -> Result<Directives, Error> {
        let conf = Config {
            allowed_hosts: vec![
                AllowedHost::try_new("a").unwrap(),
                AllowedHost::try_new("b").unwrap(),
            ],
            ..Config::default()
        };
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        Directives::read(&headers, &conf)
    }

    fn key(pairs: &[(&'static str, &str)]) -> Option<String> {
        read(pairs).unwrap().key.map(|key| key.expose().to_owned())
    }

    fn leaf(directives: &Directives) -> &Leaf {
        match directives.route.as_deref() {
            Some(Route::Leaf(leaf)) => leaf,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_key_that_applies_is_taken() {
        let config = (CONFIG, r#"{"provider":"openai","api_key":"c"}"#);
        let bearer = ("authorization", "Bearer a");
        let portkey = (API_KEY, "p");
        let own = leaf(&read(&[config, bearer, portkey]).unwrap()).key.clone();
        assert_eq!(own.unwrap().expose(), "c");
        assert_eq!(key(&[bearer, portkey]).as_deref(), Some("a"));
        assert_eq!(
            key(&[("authorization", "Bearer "), portkey]).as_deref(),
            Some("p")
        );
        let placeholder = ("authorization", "Bearer OPENAI_API_KEY");
        assert_eq!(key(&[placeholder, portkey]).as_deref(), Some("p"));
        assert_eq!(key(&[(API_KEY, "")]), None);
    }

    #[test]
    fn a_header_beats_the_configs_field() {
        let directives = read(&[
            (CONFIG, r#"{"provider":"groq","custom_host":"https://a","request_timeout":5,"override_params":{"n":2}}"#),
            (PROVIDER, "openai"),
            (CUSTOM_HOST, "https://b"),
            (TIMEOUT, "70"),
        ])
        .unwrap();
        assert_eq!(leaf(&directives).provider.as_deref(), Some("groq"));
        assert_eq!(directives.custom_host.as_deref(), Some("https://b"));
        assert_eq!(directives.timeout, Some(Duration::from_millis(70)));
        assert_eq!(leaf(&directives).overrides["n"].get(), "2");
    }

    #[test]
    fn a_single_target_is_unfolded() {
        let directives = read(&[(
            CONFIG,
            r#"{"strategy":{"mode":"single"},"request_timeout":9,"targets":[{"provider":"groq","api_key":"k"}]}"#,
        )])
        .unwrap();
        let leaf = leaf(&directives);
        assert_eq!(leaf.provider.as_deref(), Some("groq"));
        assert_eq!(leaf.timeout, Some(Duration::from_millis(9)));
        assert_eq!(leaf.place, "config.targets[0]");
    }

    #[test]
    fn wrong_headers_are_refused_by_name_without_an_echo() {
        for (name, value) in [
            (CONFIG, "pc-saved"),
            (CONFIG, "{"),
            (
                CONFIG,
                r#"{"provider":"openai","retry":{"attempts":"canary"}}"#,
            ),
            (CONFIG, r#"{"api_key":{"canary":1}}"#),
            (CONFIG, r#"{"strategy":{"mode":"fallback"},"targets":[]}"#),
            (CONFIG, r#"{"provider":5,"api_key":"canary"}"#),
            (CONFIG, r#"{"request_timeout":"canary"}"#),
            (CONFIG, r#"{"api_key":"canary","api_key":"b"}"#),
            (CONFIG, r#"{"canary-1":1,"canary-1":2}"#),
            (TIMEOUT, "soon"),
            (METADATA, "[1]"),
            (METADATA, r#"{"canary-1":"canary","canary-1":"b"}"#),
            (PROMPT_AS, "canary"),
            (FORWARD, "x-portkey-forward-headers"),
            (FORWARD, "x-a, Authorization"),
            (FORWARD, "bad name"),
        ] {
            let error = read(&[(name, value)]).expect_err(value);
            assert_eq!(error.status(), 400, "{value}");
            assert!(error.param().unwrap().starts_with(name), "{value}");
            assert!(!error.message().contains("canary"), "{}", error.message());
        }
        assert!(read(&[(PROVIDER, "a"), (PROVIDER, "b")]).is_err());
        for header in [CONFIG, METADATA] {
            let twice = r#"{"api_key":"a","api_key":"b"}"#;
            let error = read(&[(header, twice)]).unwrap_err();
            assert!(error.message().contains("`api_key` is named twice"));
        }
    }

    #[test]
    fn only_the_word_false_loosens_compliance() {
        assert_eq!(
            read(&[(STRICT, "false")]).unwrap().compliance,
            Compliance::Loose
        );
        assert_eq!(
            read(&[(STRICT, "0")]).unwrap().compliance,
            Compliance::Strict
        );
        assert_eq!(read(&[]).unwrap().compliance, Compliance::Strict);
    }
}
