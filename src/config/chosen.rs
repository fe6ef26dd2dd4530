//! Which provider and model a call comes to, and whether the client's key allows them.

use std::sync::Arc;

use super::{
    Config,
    headers::{self, Directives},
    word::Word,
};
use crate::{
    completion::CompletionRequest,
    error::{Error, Kind},
    keys::VirtualKey,
    provider::Provider,
    route::{Route, leaf::Leaf, plan::Facts},
};

impl Config {
    /// The provider, first that applies: the client's word, the model map, the default. Settles the model on the way.
    pub fn choose(
        &self,
        word: Word<'_>,
        request: &mut CompletionRequest,
    ) -> Result<Arc<Provider>, Error> {
        word.check_fields(request.extra.keys())?;
        let named = request.model.take().filter(|model| is_model(model));
        let named = named.as_deref();
        let (provider, renamed) = self.allowed(word, named)?;
        let model = renamed.or(named).or_else(|| self.default_model(&provider));
        let model = model.ok_or_else(|| Error::invalid("model", "`model` is required."))?;
        request.settle_model(named, model);
        Ok(provider)
    }

    /// Whether the client's key allows every target of `route`: also those that this request would not come to, so that it is
    /// the same each time.
    pub fn check_targets(
        &self,
        directives: &Directives,
        route: &Route,
        facts: &Facts<'_>,
    ) -> Result<(), Error> {
        let limited = directives.client.as_deref();
        if !limited.is_some_and(VirtualKey::limits_targets) {
            return Ok(());
        }
        let asked = facts.text("model");
        route.each_leaf(&mut |leaf: &Leaf| {
            let word = Word {
                directives,
                leaf,
                headers: facts.headers,
            };
            word.check_fields(leaf.overrides.keys())?;
            let own = leaf.overrides.get("model");
            let own = own.map(|json| serde_json::from_str(json.get()).unwrap_or_default());
            let named: Option<String> = own.unwrap_or_else(|| asked.clone());
            let named = named.as_deref().filter(|model| is_model(model));
            match self.allowed(word, named) {
                Err(error) if error.kind() == Kind::NotAllowed => Err(error),
                // What else is wrong with a target is told when its turn comes.
                Ok(_) | Err(_) => Ok(()),
            }
        })
    }

    /// The provider for the model that the client names, and what the conf calls the model there.
    fn allowed(
        &self,
        word: Word<'_>,
        named: Option<&str>,
    ) -> Result<(Arc<Provider>, Option<&str>), Error> {
        let rule = named.and_then(|model| self.models.find(model));
        let rule = rule.filter(|_| word.provider().is_none());
        let provider = match rule {
            Some(rule) => self.provider(&rule.provider)?,
            None => self.named(word)?,
        };
        let asked = named.or_else(|| self.default_model(&provider));
        word.check_allowed(&provider, asked)?;
        Ok((provider, rule.and_then(|rule| rule.model.as_deref())))
    }

    /// The provider that the client or its target names, as the target has it; else the default.
    pub fn named(&self, word: Word<'_>) -> Result<Arc<Provider>, Error> {
        let default = self.default.provider.as_deref();
        match (&word.leaf.held, word.provider(), default) {
            (Some(held), _, _) => Ok(Arc::clone(held)),
            (None, Some(name), _) | (None, None, Some(name)) => self.provider(name),
            (None, None, None) => Err(Error::invalid(
                headers::PROVIDER,
                "Either x-portkey-config or x-portkey-provider header is required",
            )),
        }
    }

    fn default_model<'s>(&'s self, provider: &'s Provider) -> Option<&'s str> {
        let is_default = self.default.provider.as_deref() == Some(provider.name.as_str());
        let general = self.default.model.as_deref().filter(|_| is_default);
        provider.default_model.as_deref().or(general)
    }
}

fn is_model(name: &str) -> bool {
    !name.is_empty() && name != NO_MODEL
}

/// What Portkey's SDK sends where its user named no model.
const NO_MODEL: &str = "portkey-default";
