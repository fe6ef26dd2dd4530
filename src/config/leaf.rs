//! One target of a config becomes a leaf: whose key it takes, and, for the operator's, the provider as the config has it.

use std::{collections::BTreeMap, sync::Arc};

use http::HeaderValue;

use super::{
    inherit::Inherited,
    node::Node,
    schema::{Author, Step},
    source::Source,
    tree::{NO_FIELD, Tree},
    word::OPENAI_ACCOUNT,
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
                key: key.and_then(Secret::try_new),
                custom_host: here.custom_host,
                options,
                ..leaf
            },
            Author::Operator(source) => {
                let own = Own {
                    key,
                    host: here.custom_host.as_deref(),
                    options: &options,
                };
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
        let account = OPENAI_ACCOUNT.iter().find(|account| account.option == name);
        let secret = || {
            let secret = source.secret(&[], text);
            secret.map_err(|error| (name.clone(), error.message))
        };
        if provider.place.slots().any(|slot| slot.name == name) {
            held.options.insert(name.clone(), text.clone());
        } else if let Some(part) = provider
            .scheme
            .parts()
            .iter()
            .find(|part| part.name == name)
        {
            parts.extend(secret()?.map(|secret| (part.name, secret)));
        } else if let Some(account) = account.filter(|_| provider.name == "openai") {
            let value = HeaderValue::from_str(text);
            let value = value.map_err(|_| (name.clone(), "It cannot be sent.".to_owned()))?;
            held.headers.push((account.header(), value));
        } else {
            return Err((
                name.clone(),
                "This is no option of this provider.".to_owned(),
            ));
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
            .secret(&[], reference)
            .map_err(|error| ("api_key".to_owned(), error.message))?,
        None => None,
    };
    let credential = made.or(key.map(Credential::Key));
    let keyed = credential.is_some();
    held.credential = credential.or(held.credential);
    Ok((held, keyed))
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
