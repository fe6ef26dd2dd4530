//! One target of a config becomes a leaf: whose key it takes, and, for the operator's, the provider as the config has it.

use std::{collections::BTreeMap, sync::Arc};

use http::HeaderValue;

use super::{
    inherit::Inherited,
    node::Node,
    schema::{Author, Step},
    source::{Source, is_plain},
    tree::{NO_FIELD, Tree},
    word::{Account, OPENAI_ACCOUNT},
};
use crate::{
    error::Error,
    provider::{
        Base, Credential, Provider, Secret,
        scheme::{Part, Parts},
        table::is_option,
    },
    route::{
        leaf::{ClientKey, Leaf},
        plan::identity,
    },
};

impl Tree<'_> {
    pub(super) fn leaf(&mut self, node: &Node, here: Inherited) -> Leaf {
        let provider = self.provider(node);
        let options = self.options(node);
        let key = node.get("api_key").and_then(Node::text);
        let model = here
            .overrides
            .get("model")
            .map(|model| model.get().to_owned());
        let said = (&provider, &options, key, &here.custom_host, &model);
        let leaf = Leaf {
            place: self.place().into(),
            id: identity(&(matches!(self.author, Author::Client), said)),
            names_model: model.is_some(),
            provider,
            forward: here.forward,
            timeout: here.timeout,
            strict: here.strict,
            overrides: here.overrides,
            unsupported: here.unsupported,
            prompt_as: here.prompt_as,
            retry: here.retry,
            hedge: self.hedge(node),
            breaker: here.breaker,
            max_concurrent: here.max_concurrent,
            client_key: if self.several {
                ClientKey::IfNamed
            } else {
                ClientKey::Sent
            },
            ..Leaf::default()
        };
        match self.author {
            Author::Client => Leaf {
                key: self.client_key(leaf.provider.as_deref(), key, &options),
                custom_host: here.custom_host,
                options,
                ..leaf
            },
            Author::Operator { source, at } => {
                let own = Own {
                    key,
                    host: here.custom_host.as_deref(),
                    options: &options,
                };
                self.warn_of_plain(node, (source, at));
                self.held(source, own, leaf)
            }
        }
    }

    /// The name of a target's provider. `virtual_key` is Portkey's word for a provider whose key the gateway holds: here, a
    /// provider of the conf.
    fn provider(&mut self, node: &Node) -> Option<String> {
        let named = node.get("provider").and_then(Node::text);
        match node.get("virtual_key") {
            None => {}
            Some(_) if named.is_some() => {
                self.tell_of(
                    "virtual_key",
                    "A target names `provider` or `virtual_key`, not both.",
                );
            }
            Some(Node::Text(name)) if self.conf.providers.contains_key(name) => {
                return Some(name.clone());
            }
            Some(_) => {
                let message =
                    "It must be the name of a provider of the gateway's conf, which holds the key.";
                self.tell_of("virtual_key", message);
            }
        }
        named.map(str::to_owned)
    }

    /// The values of provider options.
    fn options(&mut self, node: &Node) -> BTreeMap<String, String> {
        let mut options = BTreeMap::new();
        for (name, value) in node.fields() {
            let name = option_name(name);
            if !is_known_option(name) {
                continue;
            }
            let text = match value {
                Node::Text(text) => text.clone(),
                Node::Flag(_) | Node::Number(_) => value.to_value().to_string(),
                // A service account's key.
                Node::Map(_) => value.to_value().to_string(),
                Node::Null | Node::List(_) => {
                    self.tell_of(name, "It must be a string.");
                    continue;
                }
            };
            options.insert(name.to_owned(), text);
        }
        options
    }

    /// The client's key. Options that its provider does not have, and a credential beside a key, would have no effect.
    fn client_key(
        &mut self,
        provider: Option<&str>,
        key: Option<&str>,
        options: &BTreeMap<String, String>,
    ) -> Option<Secret> {
        let key = key.and_then(Secret::try_new);
        if key
            .as_ref()
            .is_some_and(|key| self.conf.keys.holds(key.expose()))
        {
            self.tell_of("api_key", GATEWAYS_KEY);
        }
        let Some(provider) = provider.and_then(|name| self.conf.providers.get(name)) else {
            return key;
        };
        let mut credential = false;
        for name in options.keys() {
            let part = is_part(provider, name);
            credential |= part;
            if !part && !is_slot(provider, name) && account(provider, name).is_none() {
                self.tell_of(name, NO_OPTION);
            }
        }
        if credential && key.is_some() {
            self.tell_of("api_key", TWO_CREDENTIALS);
        }
        key
    }

    /// Warns of the operator's secrets that stand in the conf itself.
    fn warn_of_plain(&self, node: &Node, (source, at): (&Source<'_>, &[Step])) {
        let named = node.get("provider").and_then(Node::text);
        let provider = named.and_then(|name| self.conf.providers.get(name));
        let is_secret = |name: &str| {
            let part = provider.is_some_and(|provider| is_part(provider, option_name(name)));
            name == "api_key" || part
        };
        for (name, value) in node.fields() {
            if is_secret(name) && value.text().is_some_and(is_plain) {
                self.warn_of(name, source, at);
            }
        }
    }

    /// The operator's target: its provider, with what the config says of it.
    fn held(&mut self, source: &Source<'_>, own: Own<'_>, leaf: Leaf) -> Leaf {
        if own.key.is_none() && own.host.is_none() && own.options.is_empty() {
            return leaf;
        }
        let named = leaf
            .provider
            .as_ref()
            .and_then(|name| self.conf.providers.get(name));
        let Some(provider) = named else {
            let message = "A key, a host and options are a provider's: it has to be named here.";
            self.tell_of("provider", message);
            return leaf;
        };
        match hold(provider, own, source) {
            Ok((provider, keyed)) => Leaf {
                held: Some(Arc::new(provider)),
                client_key: if keyed {
                    ClientKey::Never
                } else {
                    leaf.client_key
                },
                ..leaf
            },
            Err((field, message)) => {
                self.tell_of(&field, message);
                leaf
            }
        }
    }

    /// Refuses what would have no effect.
    pub(super) fn refuse_unknown(&mut self, node: &Node) {
        for (name, value) in node.fields() {
            let known = FIELDS.contains(&name.as_str()) || is_known_option(option_name(name));
            let is_empty = matches!(value, Node::List(items) if items.is_empty());
            match name.as_str() {
                _ if known => {}
                name if HOOKS.contains(&name) && is_empty => {}
                name if HOOKS.contains(&name) => self.tell_of(name, NO_HOOKS),
                "on_status_codes" => self.tell_of(
                    name,
                    "It has no effect here; its place is in `strategy` or `retry`.",
                ),
                name if name.contains(|letter: char| letter.is_ascii_uppercase()) => {
                    self.tell_of(name, "Fields are named in snake_case.");
                }
                name => self.tell_of(name, NO_FIELD),
            }
        }
        for name in ["name", "id"] {
            if node.get(name).is_some_and(|value| value.text().is_none()) {
                self.tell_of(name, "It must be a string.");
            }
        }
        let cache = node.get("cache");
        if let Some(cache) = cache {
            self.enter(Step::Field("cache".to_owned()));
            self.only(cache, &["mode", "max_age"]);
            if cache
                .get("max_age")
                .and_then(Node::number)
                .is_some_and(|age| age < 0.0)
            {
                self.tell_of("max_age", "It must not be negative.");
            }
            self.leave();
        }
    }
}

/// What an operator's target says of its provider.
#[derive(Clone, Copy)]
struct Own<'a> {
    key: Option<&'a str>,
    host: Option<&'a str>,
    options: &'a BTreeMap<String, String>,
}

/// The provider with what the config says of it, and whether that is a credential. Err: the field at fault.
fn hold(
    provider: &Provider,
    own: Own<'_>,
    source: &Source<'_>,
) -> Result<(Provider, bool), (String, String)> {
    let mut held = provider.clone();
    let of = |field: &str, error: &Error| (field.to_owned(), error.message().to_owned());
    if let Some(host) = own.host {
        let base = Base::try_new(host, "custom_host").map_err(|error| of("custom_host", &error))?;
        held.base = Some(Arc::new(base));
    }
    let mut parts = BTreeMap::new();
    for (name, text) in own.options {
        let secret = || {
            let secret = source.resolve(text);
            secret.map_err(|message| (name.clone(), message))
        };
        if is_slot(provider, name) {
            held.options.insert(name.clone(), text.clone());
        } else if is_part(provider, name) {
            parts.extend(secret()?.map(|secret| (name.as_str(), secret)));
        } else if let Some(account) = account(provider, name) {
            let value = HeaderValue::from_str(text);
            let value = value.map_err(|_| (name.clone(), "It cannot be sent.".to_owned()))?;
            held.headers.push((account.header(), value));
        } else {
            return Err((name.clone(), NO_OPTION.to_owned()));
        }
    }
    let region = held.options.get("aws_region").cloned();
    let made = provider.scheme.read(&Parts {
        named: &|part: &Part| Ok(parts.get(part.name).cloned()),
        own: None,
        region: region.as_deref().unwrap_or("us-east-1"),
    });
    let made = made.map_err(|error| of(error.param().unwrap_or_default(), &error))?;
    let key = match own.key {
        Some(reference) => source
            .resolve(reference)
            .map_err(|message| ("api_key".to_owned(), message))?,
        None => None,
    };
    if made.is_some() && key.is_some() {
        return Err(("api_key".to_owned(), TWO_CREDENTIALS.to_owned()));
    }
    let credential = made.or(key.map(Credential::Key));
    let keyed = credential.is_some();
    held.credential = credential.or(held.credential);
    Ok((held, keyed))
}

/// Whether an option is a piece of the provider's URL.
fn is_slot(provider: &Provider, option: &str) -> bool {
    provider.place.slots().any(|slot| slot.name == option)
}

/// Whether an option is a part of the provider's credential.
fn is_part(provider: &Provider, option: &str) -> bool {
    let mut parts = provider.scheme.parts().iter();
    parts.any(|part| part.name == option)
}

/// The header of OpenAI's that an option is.
fn account(provider: &Provider, option: &str) -> Option<&'static Account> {
    let mut accounts = OPENAI_ACCOUNT.iter();
    accounts.find(|account| account.option == option && provider.name == "openai")
}

/// The name that an option has here: one of Portkey's two names for the version of Azure's API.
fn option_name(name: &str) -> &str {
    match name {
        "azure_api_version" => "api_version",
        other => other,
    }
}

fn is_known_option(name: &str) -> bool {
    let account = OPENAI_ACCOUNT.iter().any(|account| account.option == name);
    account || is_option(name)
}

/// Of a node, beside the options of providers.
const FIELDS: &[&str] = &[
    "strategy",
    "targets",
    "provider",
    "virtual_key",
    "api_key",
    "model",
    "name",
    "id",
    "weight",
    "custom_host",
    "forward_headers",
    "request_timeout",
    "override_params",
    "strict_open_ai_compliance",
    "retry",
    "hedge",
    "cache",
    "cb_config",
    "unsupported",
    "prompt_as",
    "max_concurrent",
];
/// Checks and changes of requests and answers.
const HOOKS: &[&str] = &[
    "before_request_hooks",
    "after_request_hooks",
    "input_guardrails",
    "output_guardrails",
    "default_input_guardrails",
    "default_output_guardrails",
    "input_mutators",
    "output_mutators",
];
const NO_HOOKS: &str = "Guardrails and hooks are not run here, and a request that asks for them is not served without them.";
const NO_OPTION: &str = "This is no option of this provider.";
const GATEWAYS_KEY: &str = "This is a key of this gateway's, which goes to no provider: it is sent as `Authorization: Bearer`.";
const TWO_CREDENTIALS: &str = "A target has a key or the parts of a credential, not both.";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{FIELDS, HOOKS, NO_OPTION, TWO_CREDENTIALS};
    use crate::config::{Config, portkey};

    /// What a client's config without effect is told.
    fn refusal(config: &str) -> String {
        let refused = portkey::route(config, None, &Config::default()).unwrap_err();
        let told: serde_json::Value = serde_json::from_slice(&refused.body()).unwrap();
        told["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; ")
    }

    #[test]
    fn what_a_provider_has_no_use_for_is_refused() {
        let wrong = refusal(r#"{"provider":"openai","aws_region":"eu-west-1"}"#);
        assert_eq!(wrong, format!("\"path: aws_region, message: {NO_OPTION}\""));
        let aws = r#""aws_access_key_id":"a","aws_secret_access_key":"s","aws_region":"eu-west-1""#;
        let both = refusal(&format!(r#"{{"provider":"bedrock","api_key":"k",{aws}}}"#));
        assert_eq!(
            both,
            format!("\"path: api_key, message: {TWO_CREDENTIALS}\"")
        );
        let one = format!(r#"{{"provider":"bedrock",{aws}}}"#);
        assert!(portkey::route(&one, None, &Config::default()).is_ok());
    }

    /// The page lists each field, and no other.
    #[test]
    fn page() {
        let page = include_str!("../../docs/config.md");
        let nodes = page.split("## Fields of a node").nth(1).unwrap();
        let nodes = nodes.split("## Strategies").next().unwrap();
        let rows = nodes.lines().filter(|line| line.starts_with("| `"));
        let named: BTreeSet<&str> = rows
            .flat_map(|row| {
                row.split(" | ")
                    .next()
                    .unwrap()
                    .split('`')
                    .skip(1)
                    .step_by(2)
            })
            .collect();
        let refused = ["on_status_codes"];
        let fields: BTreeSet<&str> = FIELDS.iter().chain(HOOKS).copied().chain(refused).collect();
        let options: Vec<&&str> = named.difference(&fields).collect();
        assert!(
            options.iter().all(|name| super::is_known_option(name)),
            "{options:?}"
        );
        assert_eq!(fields.difference(&named).next(), None);
    }
}
