//! Where a provider is. Most have one base URL; some have one with variables in it, such as a region or an account, whose
//! values come from the client or the conf.
//!
//! A value that lands in a URL has a grammar, and none of them has a character that could end its place: no `/`, `#`, `@`,
//! `?`, `%`, `:` or `\`, no run of dots, nothing outside ASCII. The built URL is parsed again all the same, and its host
//! compared with the one that was meant.

use crate::{error::Error, provider::Base};

/// Where a row is.
#[derive(Debug)]
pub enum Place {
    /// Scheme, host and the path below which the API's own paths start.
    At(&'static str),
    /// The first that holds counts; the last has no condition.
    With(&'static [Template]),
    /// Users run it themselves: a conf, or the client, names its host. The path is where such servers have their API.
    Own(&'static str),
    /// Its service has closed; the text says what to use instead. A conf may still name a host.
    Retired(&'static str),
}

impl Place {
    /// Its variables.
    pub fn slots(&self) -> impl Iterator<Item = &'static Slot> {
        let templates: &'static [Template] = match self {
            Self::With(templates) => templates,
            Self::At(_) | Self::Own(_) | Self::Retired(_) => &[],
        };
        let mut slots: Vec<&'static Slot> = Vec::new();
        for slot in templates.iter().flat_map(|template| template.slots) {
            if slots.iter().all(|seen| seen.name != slot.name) {
                slots.push(slot);
            }
        }
        slots.into_iter()
    }
}

/// A base URL with `{name}` for each of its slots.
#[derive(Debug)]
pub struct Template {
    pub url: &'static str,
    /// `name={slot}`, or empty.
    pub query: &'static str,
    /// Counts only if this slot has this value.
    pub only_if: Option<(&'static str, &'static str)>,
    pub slots: &'static [Slot],
}

/// A variable of a base URL.
#[derive(Debug)]
pub struct Slot {
    /// Its name in the URL, in an inline config, and in a conf's `options`.
    pub name: &'static str,
    /// The request header that sets it.
    pub header: &'static str,
    pub grammar: Grammar,
    pub owner: Owner,
    pub default: Default,
    /// What the demo takes where nobody names a value.
    pub example: &'static str,
}

/// What a value may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grammar {
    /// One part of a host name: letters, digits and inner `-`, at most 63.
    Label,
    /// One part of a path: letters, digits, `-`, `_` and single dots, at most 128.
    Name,
}

/// Whose a host is whose name holds the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The vendor's, whatever the value.
    Vendor,
    /// A customer's: who chooses the value chooses who gets the key.
    Tenant,
}

/// What holds where no value is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    None,
    Value(&'static str),
    /// The request's model.
    Model,
}

/// A slot's value, and who named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub value: String,
    pub by: NamedBy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedBy {
    Client,
    Conf,
}

/// A template with its slots filled.
#[derive(Clone, Debug)]
pub struct Filled {
    pub base: Base,
    pub query: String,
    /// A client chose whose host this is.
    pub by: NamedBy,
    /// The values of the slots, by name.
    pub values: Vec<(&'static str, String)>,
}

impl Template {
    /// Fills the slots with what `named` knows of them.
    pub fn fill(
        &self,
        model: &str,
        named: &dyn Fn(&Slot) -> Result<Option<Named>, Error>,
    ) -> Result<Filled, Error> {
        let (mut url, mut query) = (self.url.to_owned(), self.query.to_owned());
        let mut host = host_of(self.url).to_owned();
        let mut by = NamedBy::Conf;
        let mut values = Vec::with_capacity(self.slots.len());
        for slot in self.slots {
            let named = named(slot)?;
            if let Some(named) = &named
                && slot.owner == Owner::Tenant
                && named.by == NamedBy::Client
            {
                by = NamedBy::Client;
            }
            let value = slot.checked(named.map(|named| named.value), model)?;
            let place = format!("{{{}}}", slot.name);
            for text in [&mut url, &mut query, &mut host] {
                *text = text.replace(&place, &value);
            }
            values.push((slot.name, value));
        }
        let base = Base::try_new(&url, "x-portkey-provider")?;
        if base.host != host.to_ascii_lowercase() {
            let message = "The provider's address cannot be built from these values.";
            return Err(Error::invalid("x-portkey-provider", message));
        }
        Ok(Filled {
            base,
            query,
            by,
            values,
        })
    }

    /// The template of `templates` that counts.
    pub fn choose<'t>(
        templates: &'t [Self],
        named: &dyn Fn(&Slot) -> Result<Option<Named>, Error>,
    ) -> Result<&'t Self, Error> {
        for template in templates {
            let Some((name, wanted)) = template.only_if else {
                return Ok(template);
            };
            let slot = templates.iter().flat_map(|template| template.slots);
            let slot = slot.into_iter().find(|slot| slot.name == name);
            let value = slot.map(named).transpose()?.flatten();
            if value.is_some_and(|named| named.value == wanted) {
                return Ok(template);
            }
        }
        let message = "The provider has no address for these values.";
        Err(Error::invalid("x-portkey-provider", message))
    }
}

impl From<Base> for Filled {
    fn from(base: Base) -> Self {
        Self {
            base,
            query: String::new(),
            by: NamedBy::Conf,
            values: Vec::new(),
        }
    }
}

impl Slot {
    fn checked(&self, named: Option<String>, model: &str) -> Result<String, Error> {
        let default = || match self.default {
            Default::None => None,
            Default::Value(value) => Some(value.to_owned()),
            Default::Model => Some(model.to_owned()),
        };
        let value = named.or_else(default).ok_or_else(|| {
            Error::invalid(self.header, format!("`{}` is required.", self.header))
        })?;
        if self.grammar.allows(&value) {
            Ok(value)
        } else {
            let wanted = self.grammar.title();
            let message = format!("`{}` must be {wanted}.", self.header);
            Err(Error::invalid(self.header, message))
        }
    }
}

impl Grammar {
    fn allows(self, value: &str) -> bool {
        let inner = |extra: &'static [u8]| {
            move |byte: u8| byte.is_ascii_alphanumeric() || extra.contains(&byte)
        };
        match self {
            Self::Label => {
                (1..=63).contains(&value.len())
                    && value.bytes().all(inner(b"-"))
                    && !value.starts_with('-')
                    && !value.ends_with('-')
            }
            Self::Name => {
                (1..=128).contains(&value.len())
                    && value.bytes().all(inner(b"-_."))
                    && !value.starts_with('.')
                    && !value.contains("..")
            }
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Label => "of letters, digits and inner hyphens, at most 63",
            Self::Name => "of letters, digits, `-`, `_` and single dots, at most 128",
        }
    }
}

fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGION: Slot = Slot {
        name: "region",
        header: "x-portkey-region",
        grammar: Grammar::Label,
        owner: Owner::Vendor,
        default: Default::Value("us-east-1"),
        example: "us-east-1",
    };
    const RESOURCE: Slot = Slot {
        name: "resource",
        header: "x-portkey-resource",
        grammar: Grammar::Label,
        owner: Owner::Tenant,
        default: Default::None,
        example: "demo",
    };
    const DEPLOYMENT: Slot = Slot {
        name: "deployment",
        header: "x-portkey-deployment",
        grammar: Grammar::Name,
        owner: Owner::Vendor,
        default: Default::Model,
        example: "demo",
    };
    const TEMPLATE: Template = Template {
        url: "https://{resource}.{region}.vendor.example/d/{deployment}",
        query: "v={region}",
        only_if: None,
        slots: &[REGION, RESOURCE, DEPLOYMENT],
    };

    fn fill(values: &[(&str, &str)]) -> Result<Filled, Error> {
        TEMPLATE.fill("gpt-4", &|slot| {
            let value = values.iter().find(|(name, _)| *name == slot.name);
            Ok(value.map(|(_, value)| Named {
                value: (*value).to_owned(),
                by: NamedBy::Client,
            }))
        })
    }

    #[test]
    fn slots_are_filled_by_value_default_and_model() {
        let filled = fill(&[("resource", "Mine")]).unwrap();
        assert_eq!(
            filled.base.to_string(),
            "https://mine.us-east-1.vendor.example/d/gpt-4"
        );
        assert_eq!(filled.query, "v=us-east-1");
        assert_eq!(filled.by, NamedBy::Client);
        assert_eq!(
            fill(&[]).unwrap_err().param(),
            Some("x-portkey-resource"),
            "a slot without a default is asked for by its header"
        );
    }

    #[test]
    fn a_region_does_not_make_the_host_the_clients() {
        let template = Template {
            url: "https://x.{region}.vendor.example",
            query: "",
            only_if: None,
            slots: &[REGION],
        };
        let named = Named {
            value: "eu-west-1".into(),
            by: NamedBy::Client,
        };
        let filled = template.fill("m", &|_| Ok(Some(named.clone()))).unwrap();
        assert_eq!(filled.by, NamedBy::Conf);
    }

    #[test]
    fn no_value_breaks_out_of_its_place() {
        for value in [
            "",
            " ",
            "a b",
            "a/b",
            "a\\b",
            "a#",
            "a?b",
            "a@b",
            "a:b",
            "a%2fb",
            "a%2e",
            "..",
            ".",
            ".a",
            "a..b",
            "\"a",
            "'",
            "`",
            "a\n",
            "a\0",
            "ａ",
            "a。b",
            "a．b",
            "é",
            "a\u{202e}",
            "{region}",
            "x.evil.example/",
            "evil.example#",
            "user:pass@evil",
        ] {
            for slot in ["resource", "deployment", "region"] {
                let values = [("resource", "ok"), (slot, value)];
                let last: Vec<_> = values.iter().rev().copied().collect();
                let error = fill(&last).expect_err(value);
                assert_eq!(error.status(), 400, "{slot}={value:?}");
                assert_eq!(error.param(), Some(&*format!("x-portkey-{slot}")));
                assert!(value.len() < 3 || !error.message().contains(value));
            }
        }
        assert!(fill(&[("resource", "a.evil.example")]).is_err());
        assert!(fill(&[("resource", &"a".repeat(64))]).is_err());
        assert!(fill(&[("resource", "ok"), ("deployment", "gpt-3.5_turbo")]).is_ok());
    }
}
