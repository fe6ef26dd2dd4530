//! What one target of a config says of itself: fields of its own, and those that it inherits.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc, time::Duration};

use http::HeaderName;
use serde_json::value::RawValue;

use crate::{
    completion::PromptAs,
    dialect::settle::Unsupported,
    provider::{Provider, Secret},
    route::{hedge::Hedge, plan::Breaker, retry::Retry},
};

/// A target's own word on its calls. A request's headers beat `custom_host`, `forward` and `timeout`.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// Where it stands in its config: `config`, or `config.targets[0]` and deeper.
    pub place: Cow<'static, str>,
    /// `None`: the header's, else the model map's, else the conf's default.
    pub provider: Option<String>,
    /// The provider as the conf's own config has it: with its host, options and key. `None` for a client's config.
    pub held: Option<Arc<Provider>>,
    /// A client's own key for it.
    pub key: Option<Secret>,
    /// A host that a client chose; the conf's is in `held`.
    pub custom_host: Option<String>,
    /// Request headers to send on; empty: none are named here.
    pub forward: Vec<HeaderName>,
    pub timeout: Option<Duration>,
    /// Only `Some(false)` has an effect.
    pub strict: Option<bool>,
    /// A client's values for the slots of the provider's place; the conf's are in `held`.
    pub options: BTreeMap<String, String>,
    /// Body fields that beat the client's own.
    pub overrides: BTreeMap<String, Box<RawValue>>,
    pub unsupported: Option<Unsupported>,
    pub prompt_as: Option<PromptAs>,
    pub retry: Retry,
    /// When it is called once more beside a call that keeps silent.
    pub hedge: Option<Hedge>,
    pub breaker: Option<Breaker>,
    /// Calls to it at a time.
    pub max_concurrent: Option<u32>,
    /// Whether it gets the key that came beside its config, where it has none of its own.
    pub client_key: ClientKey,
    /// `overrides` name a model.
    pub names_model: bool,
    /// What is remembered of the target is remembered under this; 0: nothing is.
    pub id: u64,
}

/// Whether the key that a client sent beside its config is meant for a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientKey {
    /// All targets are of one provider.
    Sent,
    /// There are several: only if the request's own header names that of the target.
    IfNamed,
    /// The operator gave the target a key of its own.
    Never,
}

impl Default for Leaf {
    /// The target of a request without a config: all is said by its headers and the conf.
    fn default() -> Self {
        Self {
            place: Cow::Borrowed(ROOT),
            provider: None,
            held: None,
            key: None,
            custom_host: None,
            forward: Vec::new(),
            timeout: None,
            strict: None,
            options: BTreeMap::new(),
            overrides: BTreeMap::new(),
            unsupported: None,
            prompt_as: None,
            retry: Retry::default(),
            hedge: None,
            breaker: None,
            max_concurrent: None,
            client_key: ClientKey::Sent,
            names_model: false,
            id: 0,
        }
    }
}

/// What `x-portkey-last-used-option-index` calls a config's root.
pub const ROOT: &str = "config";
