//! Where a provider is. Most have one base URL; some have one with variables in it, such as a region or an account, whose
//! values come from the client or the conf. A few of its variables are headers rather than parts of its URL.
//!
//! A value that lands in a URL has a grammar, and none of them has a character that could end its place: no `/`, `#`, `@`,
//! `?`, `%`, `:` or `\`, no run of dots, nothing outside ASCII. The built URL is parsed again all the same, and its host
//! compared with the one that was meant. A value that is a whole URL has to be on one of the vendor's hosts.

use crate::{
    completion::Parameter,
    dialect::Dialect,
    error::Error,
    provider::{Base, Reach, slot::host_of},
};

pub use super::slot::{Default, Grammar, Named, NamedBy, Owner, Slot};

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
    /// `name={slot}`, or empty. It is left out where that slot has no value.
    pub query: &'static str,
    pub only_if: Condition,
    pub slots: &'static [Slot],
    /// The API that stands there, where it is not the row's.
    pub speaks: Option<Speech>,
}

/// When a template counts.
#[derive(Clone, Copy, Debug)]
pub enum Condition {
    Always,
    /// This slot has this value.
    Is(&'static str, &'static str),
    /// This slot has a value that sorts before this one: an older date.
    Before(&'static str, &'static str),
    /// This slot has a value. The conf's gives way to a client that names another customer's place.
    Named(&'static str),
    /// The same, with a value that ends like this.
    Ends(&'static str, &'static str),
}

/// What an address speaks.
#[derive(Clone, Copy, Debug)]
pub struct Speech {
    pub dialect: &'static dyn Dialect,
    /// What it lacks of its dialect.
    pub refuses: &'static [Parameter],
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
    /// A template that always counts, whose API is its row's.
    pub const fn at(url: &'static str, slots: &'static [Slot]) -> Self {
        Self {
            url,
            query: "",
            only_if: Condition::Always,
            slots,
            speaks: None,
        }
    }

    /// Fills the slots with what `named` knows of them.
    pub fn fill(&self, model: &str, named: Asked<'_>) -> Result<Filled, Error> {
        let (mut url, mut query) = (self.url.to_owned(), self.query.to_owned());
        let mut host = host_of(self.url).to_owned();
        let mut by = NamedBy::Conf;
        let mut values = Vec::with_capacity(self.slots.len());
        for slot in self.slots.iter().filter(|slot| slot.sent_as.is_none()) {
            let named = named(slot)?;
            if let Some(named) = &named
                && slot.owner == Owner::Tenant
                && named.by == NamedBy::Client
            {
                by = NamedBy::Client;
            }
            let place = format!("{{{}}}", slot.name);
            let Some(value) = slot.checked(named.map(|named| named.value), model)? else {
                query = query.replace(&format!("{}={place}", slot.key()), "");
                continue;
            };
            for text in [&mut url, &mut query] {
                *text = text.replace(&place, &value);
            }
            host = host.replace(&place, slot.host(&value));
            values.push((slot.name, value));
        }
        let mut base = Base::try_new(&url, "x-portkey-provider")?;
        if by == NamedBy::Client {
            base.reach = Reach::Public;
        }
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
    pub fn choose(templates: &'static [Self], named: Asked<'_>) -> Result<&'static Self, Error> {
        for template in templates {
            if template.only_if.holds(templates, named)? {
                return Ok(template);
            }
        }
        let message = "The provider has no address for these values.";
        Err(Error::invalid("x-portkey-provider", message))
    }
}

/// What is known of a slot.
pub type Asked<'a> = &'a dyn Fn(&Slot) -> Result<Option<Named>, Error>;

impl Condition {
    fn holds(self, templates: &'static [Template], named: Asked<'_>) -> Result<bool, Error> {
        let slots = || templates.iter().flat_map(|template| template.slots);
        let value = |name| {
            let slot = slots().find(|slot| slot.name == name);
            slot.map_or(Ok(None), named)
        };
        Ok(match self {
            Self::Always => true,
            Self::Is(name, wanted) => value(name)?.is_some_and(|named| named.value == wanted),
            Self::Before(name, date) => value(name)?.is_some_and(|named| *named.value < *date),
            Self::Named(name) => Self::Ends(name, "").holds(templates, named)?,
            Self::Ends(name, end) => match value(name)? {
                Some(told) if told.value.trim_end_matches('/').ends_with(end) => {
                    told.by == NamedBy::Client || !names_a_tenant(slots(), named)?
                }
                Some(_) | None => false,
            },
        })
    }
}

/// Whether the client names a customer of the vendor's.
fn names_a_tenant(
    slots: impl Iterator<Item = &'static Slot>,
    named: Asked<'_>,
) -> Result<bool, Error> {
    for slot in slots.filter(|slot| slot.owner == Owner::Tenant) {
        if named(slot)?.is_some_and(|named| named.by == NamedBy::Client) {
            return Ok(true);
        }
    }
    Ok(false)
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

#[cfg(test)]
mod tests {
    use super::*;

    const REGION: Slot = Slot {
        default: Default::Value("us-east-1"),
        ..Slot::new("region", "x-portkey-region")
    };
    const RESOURCE: Slot = Slot {
        owner: Owner::Tenant,
        ..Slot::new("resource", "x-portkey-resource")
    };
    const DEPLOYMENT: Slot = Slot {
        grammar: Grammar::Name,
        default: Default::Model,
        ..Slot::new("deployment", "x-portkey-deployment")
    };
    const VERSION: Slot = Slot {
        grammar: Grammar::Name,
        default: Default::Absent,
        ..Slot::new("api_version", "x-portkey-api-version")
    };
    const SESSION: Slot = Slot {
        grammar: Grammar::Text,
        default: Default::Absent,
        sent_as: Some("x-session"),
        ..Slot::new("session", "x-portkey-session")
    };
    const TEMPLATE: Template = Template {
        query: "v={region}",
        ..Template::at(
            "https://{resource}.{region}.vendor.example/d/{deployment}",
            &[REGION, RESOURCE, DEPLOYMENT, SESSION],
        )
    };
    const WHOLE: Slot = Slot {
        grammar: Grammar::Url(&[".vendor.example", ".vendor.test"]),
        owner: Owner::Tenant,
        default: Default::Absent,
        ..Slot::new("url", "x-portkey-url")
    };
    const TEMPLATES: &[Template] = &[
        Template {
            query: "api-version={api_version}",
            only_if: Condition::Named("url"),
            ..Template::at("{url}", &[WHOLE, VERSION])
        },
        Template {
            only_if: Condition::Is("api_version", "v1"),
            ..Template::at("https://{resource}.vendor.example/v1", &[RESOURCE])
        },
        Template {
            only_if: Condition::Before("api_version", "2024-09"),
            ..Template::at(
                "https://{resource}.vendor.example/old",
                &[RESOURCE, VERSION],
            )
        },
        Template::at(
            "https://{resource}.vendor.example/new",
            &[RESOURCE, VERSION],
        ),
    ];

    fn named(value: &str, by: NamedBy) -> Named {
        let value = value.to_owned();
        Named { value, by }
    }

    /// Where the template that counts leads.
    fn choose(values: &[(&str, &str, NamedBy)]) -> Result<(String, NamedBy), Error> {
        let known = |slot: &Slot| {
            let value = values.iter().find(|(name, ..)| *name == slot.name);
            Ok(value.map(|(_, value, by)| named(value, *by)))
        };
        let filled = Template::choose(TEMPLATES, &known)?.fill("m", &known)?;
        Ok((format!("{}?{}", filled.base, filled.query), filled.by))
    }

    fn fill(values: &[(&str, &str)]) -> Result<Filled, Error> {
        TEMPLATE.fill("gpt-4", &|slot| {
            let value = values.iter().find(|(name, _)| *name == slot.name);
            Ok(value.map(|(_, value)| named(value, NamedBy::Client)))
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
        const TEMPLATE: Template = Template::at("https://x.{region}.vendor.example", &[REGION]);
        let client = |_: &Slot| Ok(Some(named("eu-west-1", NamedBy::Client)));
        let filled = TEMPLATE.fill("m", &client).unwrap();
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

    #[test]
    fn the_first_template_whose_condition_holds_counts() {
        use NamedBy::{Client, Conf};
        let url = "https://a.b.Vendor.example/models/x";
        let whole = "https://a.b.vendor.example/models/x?";
        let resource = ("resource", "r", Client);
        for (values, at, by) in [
            (vec![resource], "https://r.vendor.example/new?", Client),
            (
                vec![("resource", "r", Conf), ("api_version", "v1", Client)],
                "https://r.vendor.example/v1?",
                Conf,
            ),
            (
                vec![resource, ("api_version", "2024-08-01-preview", Client)],
                "https://r.vendor.example/old?",
                Client,
            ),
            (
                vec![resource, ("api_version", "2024-09-01-preview", Client)],
                "https://r.vendor.example/new?",
                Client,
            ),
            (vec![("url", url, Client)], whole, Client),
            (vec![("url", url, Conf)], whole, Conf),
            (
                vec![("url", url, Conf), ("api_version", "v2", Client)],
                "https://a.b.vendor.example/models/x?api-version=v2",
                Conf,
            ),
            // The client names a place of its own, and the conf's is not it.
            (
                vec![("url", url, Conf), resource],
                "https://r.vendor.example/new?",
                Client,
            ),
        ] {
            let chosen = choose(&values).unwrap();
            assert_eq!(chosen, (at.to_owned(), by), "{values:?}");
        }
        let error = choose(&[]).unwrap_err();
        assert_eq!(error.param(), Some("x-portkey-resource"));
    }

    #[test]
    fn a_whole_url_is_on_a_host_of_the_vendors_or_refused() {
        for url in [
            "http://a.vendor.example",
            "https://a.vendor.example:8443",
            "https://vendor.example",
            "https://.vendor.example",
            "https://a..vendor.example",
            "https://-a.vendor.example",
            "https://a.vendor.example.evil.test",
            "https://evil.test/a.vendor.example",
            "https://evil.test#.vendor.example",
            "https://evil.test?.vendor.example",
            "https://evil.test\\.vendor.example",
            "https://evil@a.vendor.example",
            "https://a.vendor.example@evil.test",
            "https://a%2evendor.example",
            "https://a.vendor.example/x?y=1",
            "https://a.vendor.example/x//y",
            "https://a.vendor.example/../y",
            "https://a.vendor.example/%2e%2e/y",
            "https://a.vendor.example/{region}",
            "https://xvendor.example",
            "a.vendor.example",
            "https://127.0.0.1/",
            "https://a.vendor。example",
            "",
        ] {
            let error = choose(&[("url", url, NamedBy::Client)]).expect_err(url);
            assert_eq!(error.param(), Some("x-portkey-url"), "{url}");
            assert_eq!(error.status(), 400);
        }
    }

    #[test]
    fn a_slot_of_a_header_is_no_part_of_the_url() {
        let sent = |slot: &Slot, value: &str| slot.sent(Some(named(value, NamedBy::Client)));
        let (name, value) = sent(&SESSION, "a/b#c ?").unwrap().unwrap();
        assert_eq!(
            (name.as_str(), value.to_str().unwrap()),
            ("x-session", "a/b#c ?")
        );
        assert!(SESSION.sent(None).unwrap().is_none());
        assert!(sent(&REGION, "eu-west-1").unwrap().is_none());
        for value in ["", "a\r\nb: c", "a\0", "é", &"a".repeat(1025)] {
            let error = sent(&SESSION, value).unwrap_err();
            assert_eq!(error.param(), Some("x-portkey-session"));
        }
        let filled = fill(&[("resource", "ok"), ("session", "a/b")]).unwrap();
        assert!(filled.values.iter().all(|(name, _)| *name != "session"));
    }
}
