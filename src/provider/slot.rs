//! A variable of a provider's address, and what its value may hold.

use http::{HeaderName, HeaderValue};

use crate::{
    error::Error,
    provider::{Base, base::Scheme, credential::Header},
};

/// A variable of a base URL, or of the headers that its calls carry.
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
    /// The upstream's header that holds the value; `None`: it has its place in the URL.
    pub sent_as: Option<&'static str>,
}

/// What a value may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grammar {
    /// One part of a host name: letters, digits and inner `-`, at most 63.
    Label,
    /// One part of a path: letters, digits, `-`, `_` and single dots, at most 128.
    Name,
    /// A base URL below one of these hosts, such as `.example.com`.
    Url(&'static [&'static str]),
    /// The same, of which only the host counts: a path of `/v1`, which is the API's own, is left out.
    Origin(&'static [&'static str]),
    /// A header's value: printable ASCII, at most 1024.
    Text,
    /// The address has no place for it; the text says why.
    Unused(&'static str),
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
    /// A value is needed.
    None,
    /// The place does without it.
    Absent,
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

impl Slot {
    /// A customer-independent part of a host name, which has to be named.
    pub const fn new(name: &'static str, header: &'static str) -> Self {
        Self {
            name,
            header,
            grammar: Grammar::Label,
            owner: Owner::Vendor,
            default: Default::None,
            example: "demo",
            sent_as: None,
        }
    }

    /// Whether the place cannot do without a value.
    pub fn is_needed(&self) -> bool {
        self.default != Default::Absent
    }

    /// Whether its value stands for a model: a deployment, an endpoint, or what an endpoint chooses among.
    pub fn names_model(&self) -> bool {
        MODELS.contains(&self.name)
    }

    /// The header that the slot's calls carry for `named`, if it is one of those.
    pub fn sent(&self, named: Option<Named>) -> Result<Option<Header>, Error> {
        let Some(name) = self.sent_as else {
            return Ok(None);
        };
        let Some(value) = self.checked(named.map(|named| named.value), "")? else {
            return Ok(None);
        };
        let value = HeaderValue::try_from(value).map_err(|_| self.wrong())?;
        Ok(Some((HeaderName::from_static(name), value)))
    }

    /// `None`: the place does without.
    pub fn checked(&self, named: Option<String>, model: &str) -> Result<Option<String>, Error> {
        let value = match (named, self.default) {
            (Some(named), _) => named,
            (None, Default::Value(value)) => value.to_owned(),
            (None, Default::Model) => model.to_owned(),
            (None, Default::Absent) => return Ok(None),
            (None, Default::None) => {
                let message = format!("`{}` is required.", self.header);
                return Err(Error::invalid(self.header, message));
            }
        };
        match self.grammar {
            Grammar::Url(hosts) => read_url(&value, hosts),
            Grammar::Origin(hosts) => read_origin(&value, hosts),
            grammar => grammar.allows(&value).then_some(value),
        }
        .map_or_else(|| Err(self.wrong()), |value| Ok(Some(value)))
    }

    fn wrong(&self) -> Error {
        let wanted = self.grammar.title();
        let message = format!("`{}` must be {wanted}.", self.header);
        Error::invalid(self.header, message)
    }

    /// What a value puts into the host's place.
    pub fn host<'v>(&self, value: &'v str) -> &'v str {
        match self.grammar {
            Grammar::Url(_) | Grammar::Origin(_) => host_of(value),
            Grammar::Label | Grammar::Name | Grammar::Text | Grammar::Unused(_) => value,
        }
    }

    /// Its key in a query.
    pub fn key(&self) -> String {
        self.name.replace('_', "-")
    }
}

impl Grammar {
    pub fn allows(self, value: &str) -> bool {
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
            Self::Url(hosts) => read_url(value, hosts).is_some(),
            Self::Origin(hosts) => read_origin(value, hosts).is_some(),
            Self::Text => {
                let plain = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
                (1..=1024).contains(&value.len()) && value.bytes().all(plain)
            }
            Self::Unused(_) => false,
        }
    }

    fn title(self) -> String {
        match self {
            Self::Label => "of letters, digits and inner hyphens, at most 63".to_owned(),
            Self::Name => "of letters, digits, `-`, `_` and single dots, at most 128".to_owned(),
            Self::Url(hosts) | Self::Origin(hosts) => {
                format!("an https base URL whose host is below {}", hosts.join(", "))
            }
            Self::Text => "printable ASCII, at most 1024 characters".to_owned(),
            Self::Unused(why) => format!("absent: {why}"),
        }
    }
}

/// A base URL as it is put in place, if it is on one of `hosts`: https at its own port, whose path holds plain names alone.
fn read_url(url: &str, hosts: &[&str]) -> Option<String> {
    let base = Base::try_new(url, "base_url").ok()?;
    let is_below = |suffix: &&str| {
        let labels = base.host.strip_suffix(suffix);
        labels.is_some_and(|labels| labels.split('.').all(|label| Grammar::Label.allows(label)))
    };
    let plain = |name: &str| Grammar::Name.allows(name);
    let is_plain = base.scheme == Scheme::Https
        && base.port == Scheme::Https.default_port()
        && hosts.iter().any(is_below)
        && base.path.split('/').skip(1).all(plain);
    is_plain.then(|| base.to_string())
}

fn read_origin(url: &str, hosts: &[&str]) -> Option<String> {
    let url = read_url(url, hosts)?;
    let origin = url.strip_suffix(VERSION).unwrap_or(&url);
    let is_bare = origin
        .split_once("://")
        .is_some_and(|(_, host)| !host.contains('/'));
    is_bare.then(|| origin.to_owned())
}

/// The host of a URL, or of a template for one.
pub fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

/// What users of OpenAI's SDKs put behind a base URL.
const VERSION: &str = "/v1";

/// A vendor's own APIs may take some of them and refuse others, so that it is the name which counts. The last four are of
/// SageMaker's endpoints that hold several models.
const MODELS: &[&str] = &[
    "deployment_id",
    "predibase_deployment",
    "sagemaker_endpoint",
    "amzn_sagemaker_target_model",
    "amzn_sagemaker_target_variant",
    "amzn_sagemaker_target_container_hostname",
    "amzn_sagemaker_inference_component",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::{place::Place, table::ROWS};

    #[test]
    fn a_slot_that_takes_the_models_name_stands_for_a_model() {
        let templates = ROWS.iter().filter_map(|row| match row.place {
            Place::With(templates) => Some(templates),
            Place::At(_) | Place::Own(_) | Place::Retired(_) => None,
        });
        let mut slots = templates.flatten().flat_map(|template| template.slots);
        assert!(slots.clone().any(|slot| slot.default == Default::Model));
        let takes = |slot: &&Slot| slot.default == Default::Model && !slot.names_model();
        assert_eq!(slots.find(takes).map(|slot| slot.name), None);
    }

    /// The ways out of a host's label that `x-portkey-azure-resource-name: evil#` once opened elsewhere.
    #[test]
    fn no_slot_of_any_row_lets_a_value_out_of_its_host() {
        let mut seen = 0;
        for row in ROWS.iter() {
            let Place::With(templates) = row.place else {
                continue;
            };
            for (template, slot) in templates.iter().flat_map(|template| {
                let in_host =
                    |slot: &&Slot| host_of(template.url).contains(&format!("{{{}}}", slot.name));
                let slots = template.slots.iter().filter(in_host);
                slots.map(move |slot| (template, slot))
            }) {
                seen += 1;
                let names_host = matches!(
                    slot.grammar,
                    Grammar::Label | Grammar::Name | Grammar::Url(_) | Grammar::Origin(_)
                );
                assert!(names_host, "{}: {}", row.name, slot.name);
                for evil in EVIL {
                    let checked = slot.checked(Some((*evil).to_owned()), "m");
                    let name = (row.name, template.url, slot.name);
                    assert!(checked.is_err(), "{name:?}: {evil:?}");
                }
            }
        }
        assert!(seen >= 8, "{seen}");
    }

    const EVIL: &[&str] = &[
        "evil#",
        "evil.test#",
        "evil.test/",
        "evil.test/x",
        "evil.test?",
        "evil.test\\",
        "evil@",
        "user:pass@evil",
        "evil:8443",
        "evil%23",
        "evil%2f",
        "a b",
        "a\tb",
        "a\r\nb",
        "a\0",
        "",
        ".",
        "..",
        ".evil",
        "a..b",
        "ａ",
        "a。b",
        "é",
        "[::1]",
        "{region}",
        "https://evil.test",
        "http://169.254.169.254",
        "https://evil.test#.openai.azure.com",
        "https://evil.test/.endpoints.huggingface.cloud",
        "https://x.endpoints.huggingface.cloud@evil.test",
        "https://x.endpoints.huggingface.cloud:8443",
        "http://x.endpoints.huggingface.cloud",
        "//evil.test",
        "javascript:x",
    ];

    #[test]
    fn of_an_origin_only_the_host_counts() {
        for (url, origin) in [
            ("https://a.vendor.test/v1/", Some("https://a.vendor.test")),
            ("https://a.vendor.test", Some("https://a.vendor.test")),
            ("https://a.vendor.test/x", None),
            ("https://a.vendor.test/x/v1", None),
        ] {
            assert_eq!(read_origin(url, &[".vendor.test"]).as_deref(), origin);
        }
    }

    #[test]
    fn a_value_without_a_place_is_refused() {
        let unused = Slot {
            grammar: Grammar::Unused("v1 has none"),
            default: Default::Absent,
            ..Slot::new("deployment", "x-portkey-deployment")
        };
        assert!(unused.checked(None, "m").unwrap().is_none());
        let error = unused.checked(Some("ok".to_owned()), "m").unwrap_err();
        assert!(error.message().contains("v1 has none"));
    }
}
