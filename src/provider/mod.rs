//! Where a call goes and as whom: one row per provider, built in or declared in YAML.

pub mod address;
pub mod auth;
pub mod aws;
pub mod aws_metadata;
pub mod azure;
pub mod base;
pub mod credential;
pub mod google;
pub mod grant;
pub mod listing;
pub mod live;
pub mod oci;
pub mod place;
pub mod pool;
mod rsa;
pub mod scheme;
pub mod sigv4;
mod slot;
pub mod sts;
pub mod table;
pub mod target;
mod templates;

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use http::{HeaderName, HeaderValue};

use crate::{
    completion::{CompletionRequest, Mark, Parameter, PromptAs},
    dialect::Dialect,
    error::Error,
};

pub use self::{
    address::Reach,
    auth::{Auth, FreshSecret, Secret},
    base::Base,
    credential::{Credential, Header},
    place::{Filled, Named, NamedBy, Place, Slot, Template},
    scheme::Scheme,
    target::Target,
};

/// One built-in provider.
#[derive(Debug)]
pub struct Row {
    /// Portkey's slug.
    pub name: &'static str,
    pub place: Place,
    pub dialect: &'static dyn Dialect,
    pub auth: Auth,
    /// Its credentials that are more than a key.
    pub scheme: Scheme,
    /// What this provider lacks of its dialect.
    pub refuses: &'static [Parameter],
    /// See [`Dialect::prefill`].
    pub prefill: Option<Mark>,
}

/// A provider as the gateway calls it: a row, with the conf's word over it.
#[derive(Clone, Debug)]
pub struct Provider {
    pub name: String,
    /// Where it is; `None`: its place says.
    pub base: Option<Arc<Base>>,
    pub place: &'static Place,
    /// Values for the slots of its place.
    pub options: BTreeMap<String, String>,
    /// The demo's: the place keeps its path, and is at this host.
    pub moved_to: Option<Arc<Base>>,
    pub dialect: &'static dyn Dialect,
    /// The dialect is the conf's word, not the row's.
    pub is_redefined: bool,
    pub auth: Auth,
    pub scheme: Scheme,
    /// The conf's; it goes to the conf's host alone.
    pub credential: Option<Credential>,
    /// Sent with every call.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub refuses: Cow<'static, [Parameter]>,
    /// See [`Dialect::prefill`].
    pub prefill: Option<Mark>,
    /// How prompts are put where the client does not say; `None`: as the conf says of all.
    pub prompt_as: Option<PromptAs>,
    /// For requests that name no model.
    pub default_model: Option<String>,
}

/// What a client says of a place's slots.
pub type Wish<'a> = &'a dyn Fn(&Slot) -> Result<Option<String>, Error>;

impl Provider {
    /// Where a call for `model` goes, with what `client` says of the place's slots.
    pub fn locate(&self, model: &str, client: Wish<'_>) -> Result<Filled, Error> {
        if let Some(base) = &self.base {
            return Ok(Filled::from(Base::clone(base)));
        }
        match self.place {
            Place::With(templates) => self.fill(templates, model, client),
            Place::Retired(instead) => Err(Error::invalid("x-portkey-provider", *instead)),
            Place::At(_) | Place::Own(_) => {
                let name = &self.name;
                let message = format!(
                    "{name} has no public host: name one in `x-portkey-custom-host` or in the gateway's conf."
                );
                Err(Error::invalid("x-portkey-custom-host", message))
            }
        }
    }

    /// The same provider as it is at its place: an address may have an API of its own. A conf's dialect stays.
    pub fn at(mut self: Arc<Self>, client: Wish<'_>) -> Result<Arc<Self>, Error> {
        let (Place::With(templates), None) = (self.place, &self.base) else {
            return Ok(self);
        };
        let named = |slot: &Slot| self.named(slot, client);
        let speech = Template::choose(templates, &named)?.speaks;
        if let Some(speech) = speech.filter(|_| !self.is_redefined) {
            let provider = Arc::make_mut(&mut self);
            provider.dialect = speech.dialect;
            provider.refuses = Cow::Borrowed(speech.refuses);
        }
        Ok(self)
    }

    /// The same provider as it speaks for `request`: behind one address several APIs may stand.
    pub fn speaking_for(mut self: Arc<Self>, request: &CompletionRequest) -> Arc<Self> {
        if let Some(dialect) = self.dialect.for_request(request) {
            Arc::make_mut(&mut self).dialect = dialect;
        }
        self
    }

    /// The headers that its place's slots are sent as.
    pub fn place_headers(&self, client: Wish<'_>) -> Result<Vec<Header>, Error> {
        let slots = self.place.slots().filter(|slot| slot.sent_as.is_some());
        let sent = slots.map(|slot| slot.sent(self.named(slot, client)?));
        sent.filter_map(Result::transpose).collect()
    }

    fn fill(
        &self,
        templates: &'static [Template],
        model: &str,
        client: Wish<'_>,
    ) -> Result<Filled, Error> {
        let named = |slot: &Slot| self.named(slot, client);
        let mut filled = Template::choose(templates, &named)?.fill(model, &named)?;
        if let Some(home) = &self.moved_to {
            filled.base = filled.base.moved_to(home);
        }
        Ok(filled)
    }

    /// A slot's value: the client's, else the conf's.
    fn named(&self, slot: &Slot, client: Wish<'_>) -> Result<Option<Named>, Error> {
        if let Some(value) = client(slot)? {
            let by = NamedBy::Client;
            return Ok(Some(Named { value, by }));
        }
        let value = self.options.get(slot.name).cloned();
        Ok(value.map(|value| Named {
            value,
            by: NamedBy::Conf,
        }))
    }
}
