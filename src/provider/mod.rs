//! Where a call goes and as whom: one row per provider, built in or declared in YAML.

pub mod auth;
pub mod azure;
pub mod base;
pub mod credential;
pub mod google;
pub mod grant;
pub mod listing;
pub mod oci;
pub mod place;
mod rsa;
pub mod scheme;
pub mod sigv4;
pub mod sts;
pub mod table;
pub mod target;
mod templates;

use std::{collections::BTreeMap, sync::Arc};

use http::{HeaderName, HeaderValue};

use crate::{
    completion::{Mark, Parameter, PromptAs},
    dialect::Dialect,
    error::Error,
};

pub use self::{
    auth::{Auth, Secret},
    base::Base,
    credential::Credential,
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
    pub auth: Auth,
    pub scheme: Scheme,
    /// The conf's; it goes to the conf's host alone.
    pub credential: Option<Credential>,
    /// Sent with every call.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub refuses: &'static [Parameter],
    /// See [`Dialect::prefill`].
    pub prefill: Option<Mark>,
    /// How prompts are put where the client does not say; `None`: as the conf says of all.
    pub prompt_as: Option<PromptAs>,
    /// For requests that name no model.
    pub default_model: Option<String>,
}

impl Provider {
    /// Where a call for `model` goes, with what `client` says of the place's slots.
    pub fn locate(
        &self,
        model: &str,
        client: &dyn Fn(&Slot) -> Result<Option<String>, Error>,
    ) -> Result<Filled, Error> {
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

    fn fill(
        &self,
        templates: &[Template],
        model: &str,
        client: &dyn Fn(&Slot) -> Result<Option<String>, Error>,
    ) -> Result<Filled, Error> {
        let named = |slot: &Slot| {
            if let Some(value) = client(slot)? {
                let by = NamedBy::Client;
                return Ok(Some(Named { value, by }));
            }
            let value = self.options.get(slot.name).cloned();
            Ok(value.map(|value| Named {
                value,
                by: NamedBy::Conf,
            }))
        };
        let mut filled = Template::choose(templates, &named)?.fill(model, &named)?;
        if let Some(home) = &self.moved_to {
            filled.base = filled.base.moved_to(home);
        }
        Ok(filled)
    }
}
