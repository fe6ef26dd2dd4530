//! What is said of one call: by its request's headers, and by the target of its config. A header beats the config's field of
//! the same meaning, at every target.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    completion::{Compliance, PromptAs},
    config::headers::{self, Directives},
    dialect::settle::Unsupported,
    error::Error,
    provider::{
        Auth, Credential, Provider, Secret, Target,
        place::Slot,
        scheme::{Part, Parts},
    },
    route::leaf::{ClientKey, Leaf},
};

/// Both words on one call.
#[derive(Clone, Copy, Debug)]
pub struct Word<'a> {
    pub directives: &'a Directives,
    pub leaf: &'a Leaf,
    pub headers: &'a HeaderMap,
}

impl<'a> Word<'a> {
    /// The name of the provider; `None`: the conf's to say.
    pub fn provider(self) -> Option<&'a str> {
        let named = self.leaf.provider.as_ref();
        named
            .or(self.directives.provider.as_ref())
            .map(String::as_str)
    }

    /// A host of the client's own.
    pub fn custom_host(self) -> Option<&'a str> {
        let host = self.directives.custom_host.as_ref();
        host.or(self.leaf.custom_host.as_ref()).map(String::as_str)
    }

    pub fn timeout(self) -> Option<Duration> {
        self.directives.timeout.or(self.leaf.timeout)
    }

    pub fn compliance(self) -> Compliance {
        match self.leaf.strict {
            Some(false) => Compliance::Loose,
            Some(true) | None => self.directives.compliance,
        }
    }

    pub fn unsupported(self) -> Option<Unsupported> {
        self.directives.unsupported.or(self.leaf.unsupported)
    }

    pub fn prompt_as(self) -> Option<PromptAs> {
        self.directives.prompt_as.or(self.leaf.prompt_as)
    }

    /// The client's value for a slot of the provider's place.
    pub fn option(self, slot: &Slot) -> Result<Option<String>, Error> {
        match self.leaf.options.get(slot.name) {
            Some(value) => Ok(Some(value.clone())),
            None => headers::text(self.headers, slot.header).map(|text| text.map(str::to_owned)),
        }
    }

    /// Whether the client's key allows a provider, and a model by the client's name for it. What a saved config says itself is
    /// the operator's word, if the key names that config.
    pub fn check_allowed(self, provider: &Provider, model: Option<&str>) -> Result<(), Error> {
        let Some(key) = &self.directives.client else {
            return Ok(());
        };
        let saved = self.directives.saved.as_deref();
        let trusted = saved.is_some_and(|name| key.trusts_config(name));
        if !(trusted && self.leaf.provider.is_some()) {
            let named = |error: Error| error.with_param(self.place());
            key.check_provider(&provider.name).map_err(named)?;
        }
        if let Some(model) = model.filter(|_| !(trusted && self.leaf.names_model)) {
            key.check_model(model)?;
        }
        let slots = provider.place.slots().filter(|slot| slot.names_model());
        for slot in slots.filter(|_| key.models.is_some()) {
            if let Some(value) = self.option(slot)? {
                let named = |error: Error| error.with_param(slot.header);
                key.check_model(&value).map_err(named)?;
            }
        }
        Ok(())
    }

    /// Whether the client's key allows the fields of a body that no page knows.
    pub fn check_fields<'n>(self, names: impl Iterator<Item = &'n String>) -> Result<(), Error> {
        let Some(key) = &self.directives.client else {
            return Ok(());
        };
        let inline = self.directives.is_inline();
        let is_operators = |name: &str| !inline && self.leaf.overrides.contains_key(name);
        let mut clients = names.filter(|name| !is_operators(name));
        clients.try_for_each(|name| key.check_field(name))
    }

    /// The conf's credential for a provider that is the client's alone, unless the target has one of its own.
    pub fn held(self, provider: &Provider) -> Option<Credential> {
        let key = self.directives.client.as_ref()?;
        let held = key.provider_keys.get(&provider.name);
        held.filter(|_| self.leaf.client_key != ClientKey::Never)
            .cloned()
    }

    /// What of the request chose the target.
    fn place(self) -> String {
        match self.directives.route {
            Some(_) => format!("{}: {}", headers::CONFIG, self.leaf.place),
            None => headers::PROVIDER.to_owned(),
        }
    }

    /// The client's own credential: the parts of one that is more than a key, or its key.
    pub fn credential(self, provider: &Provider) -> Result<Option<Credential>, Error> {
        let sent = self.sends_key();
        let named = |part: &Part| match (self.leaf.options.get(part.name), part.header) {
            (_, "") => Ok(None),
            (Some(value), _) => Ok(Secret::try_new(value)),
            (None, _) if !sent => Ok(None),
            (None, header) => {
                headers::text(self.headers, header).map(|text| Secret::try_new(text?))
            }
        };
        let region = provider.options.get("aws_region");
        let made = provider.scheme.read(&Parts {
            named: &named,
            own: None,
            region: region.map_or("us-east-1", String::as_str),
        })?;
        Ok(made.or_else(|| self.key(provider).map(Credential::Key)))
    }

    /// The client's key: the target's own, else the one that came beside the config, if it is meant for this provider.
    fn key(self, provider: &Provider) -> Option<Secret> {
        let sent = || {
            let sent = self.directives.key.clone();
            sent.or_else(|| native_key(provider, self.headers))
        };
        let own = self.leaf.key.clone();
        own.or_else(|| self.sends_key().then(sent).flatten())
    }

    /// Whether the key that came beside the config is for this target.
    fn sends_key(self) -> bool {
        match self.leaf.client_key {
            ClientKey::Sent => true,
            ClientKey::IfNamed => {
                let named =
                    self.leaf.provider.is_none() || self.leaf.provider == self.directives.provider;
                named && self.directives.provider.is_some()
            }
            // The operator's stays behind where the client chooses the host.
            ClientKey::Never => self.directives.custom_host.is_some(),
        }
    }

    /// A target to which nothing goes that would let it in, because the key that was sent is another provider's.
    pub fn check_key(self, target: &Target) -> Result<(), Error> {
        let keyless = target.credential.is_none() && target.provider.auth != Auth::None;
        if !keyless || self.sends_key() || self.directives.key.is_none() {
            return Ok(());
        }
        Err(Error::invalid(self.place(), NO_KEY))
    }

    /// The client's headers that go upstream: those it asked to forward, and OpenAI's own account headers to OpenAI.
    pub fn forwarded(self, provider: &Provider) -> HeaderMap {
        let names = self.directives.forward.as_ref();
        let mut forwarded = HeaderMap::new();
        for name in names.unwrap_or(&self.leaf.forward) {
            for value in self.headers.get_all(name) {
                forwarded.append(name, value.clone());
            }
        }
        if provider.name == "openai" {
            for account in OPENAI_ACCOUNT {
                let own = self.leaf.options.get(account.option);
                let own = own.and_then(|value| HeaderValue::from_str(value).ok());
                let sent = self.headers.get(account.plain);
                let sent = sent.or_else(|| self.headers.get(account.portkey));
                if let Some(value) = own.or_else(|| sent.cloned()) {
                    forwarded.insert(account.header(), value);
                }
            }
        }
        forwarded
    }
}

/// The key in the header in which the provider itself would look for it, as its own SDK sends it.
fn native_key(provider: &Provider, headers: &HeaderMap) -> Option<Secret> {
    match &provider.auth {
        Auth::Header(name) => headers.get(name)?.to_str().ok().and_then(Secret::try_new),
        Auth::Bearer | Auth::None => None,
    }
}

const NO_KEY: &str = "This target has no `api_key`, the gateway holds none for its provider, and the request's own key is for the provider that `x-portkey-provider` names: targets of several providers need keys of their own.";

/// A header of OpenAI's that says whose account is charged, and what it is called on the way here.
pub struct Account {
    pub plain: &'static str,
    pub portkey: &'static str,
    /// In a config.
    pub option: &'static str,
}

impl Account {
    pub fn header(&self) -> HeaderName {
        HeaderName::from_static(self.plain)
    }
}

pub const OPENAI_ACCOUNT: &[Account] = &[
    Account {
        plain: "openai-organization",
        portkey: "x-portkey-openai-organization",
        option: "openai_organization",
    },
    Account {
        plain: "openai-project",
        portkey: "x-portkey-openai-project",
        option: "openai_project",
    },
    Account {
        plain: "openai-beta",
        portkey: "x-portkey-openai-beta",
        option: "openai_beta",
    },
];
