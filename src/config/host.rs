//! Hosts that a client may choose, and which addresses they may have.
//!
//! A name in the list is a name, not an address: whoever runs its DNS says where it leads, and can say another thing a
//! second later. So a name is held to public addresses, by the one function that opens connections, unless the conf says
//! which others it is trusted with. An address in the list is trusted as itself.

use core::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::{
    error::Error,
    provider::{Base, Reach, base::Scheme, place::Grammar},
};

/// One line of `allowed_hosts`: a host, the port if it is not the scheme's own, and the addresses that it may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedHost {
    name: Name,
    port: Option<u16>,
    reach: Reach,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    Exact(String),
    /// Every name that ends like this, which starts with a dot.
    Below(String),
}

impl AllowedHost {
    /// Reads `host`, `host:port`, `[v6]:port` or `*.domain`.
    pub fn try_new(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a host, host:port or *.domain");
        let (below, host) = match text.strip_prefix("*.") {
            Some(domain) => (true, domain),
            None => (false, text),
        };
        let base = Base::try_new(&format!("http://{host}"), "allowed_hosts");
        let base = base.map_err(|_| wrong())?;
        let named = text
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let literal = base.host.parse::<IpAddr>();
        // `*.com` would be half of the internet.
        let broad = below && (literal.is_ok() || !base.host.contains('.'));
        let broad = broad && base.host != LOCALHOST;
        if !base.path.is_empty() || host.contains('*') || base.host.ends_with('.') || broad {
            return Err(wrong());
        }
        let own = literal.map(|address| vec![IpNet::from(address)]);
        let own = own.unwrap_or_else(|_| loopback(&base.host));
        Ok(Self {
            port: named.then_some(base.port),
            name: match below {
                true => Name::Below(format!(".{}", base.host)),
                false => Name::Exact(base.host),
            },
            reach: match own.as_slice() {
                [] => Reach::Public,
                _ => Reach::Also(own.into()),
            },
        })
    }

    /// The same, trusted with more addresses.
    fn trusting(self, addresses: Addresses) -> Self {
        let reach = match (self.reach, addresses) {
            (_, Addresses::Any) => Reach::Trusted,
            (Reach::Also(own), Addresses::Nets(nets)) => {
                Reach::Also(own.iter().copied().chain(nets).collect())
            }
            (_, Addresses::Nets(nets)) => Reach::Also(nets.into()),
        };
        Self { reach, ..self }
    }

    fn allows(&self, base: &Base) -> bool {
        self.names(&base.host) && self.port.unwrap_or(base.scheme.default_port()) == base.port
    }

    fn names(&self, host: &str) -> bool {
        match &self.name {
            Name::Exact(name) => name == host,
            Name::Below(end) => host.strip_suffix(end.as_str()).is_some_and(are_labels),
        }
    }
}

/// RFC 6761: `localhost` and what is below it is this machine, by no other's word.
fn loopback(host: &str) -> Vec<IpNet> {
    if host != LOCALHOST && !host.ends_with(".localhost") {
        return Vec::new();
    }
    let nets = ["127.0.0.0/8", "::1/128"];
    nets.iter().filter_map(|net| net.parse().ok()).collect()
}

fn are_labels(text: &str) -> bool {
    text.split('.').all(|label| Grammar::Label.allows(label))
}

impl<'de> Deserialize<'de> for AllowedHost {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "expected a host, host:port, *.domain, or `host` with `addresses`"
        )]
        enum Either {
            Text(String),
            Entry(Entry),
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Entry {
            host: String,
            addresses: Option<AddressesFile>,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum AddressesFile {
            Word(String),
            Nets(Vec<String>),
        }
        let (host, addresses) = match Either::deserialize(deserializer)? {
            Either::Text(host) => (host, None),
            Either::Entry(entry) => (entry.host, entry.addresses),
        };
        let host = Self::try_new(&host).map_err(D::Error::custom)?;
        let addresses = match addresses {
            None => return Ok(host),
            Some(AddressesFile::Word(word)) if word == "any" => Addresses::Any,
            Some(AddressesFile::Word(word)) => Addresses::read([word]).map_err(D::Error::custom)?,
            Some(AddressesFile::Nets(nets)) => Addresses::read(nets).map_err(D::Error::custom)?,
        };
        Ok(host.trusting(addresses))
    }
}

/// What a conf trusts a host with, beside public addresses.
enum Addresses {
    Any,
    Nets(Vec<IpNet>),
}

impl Addresses {
    /// Reads networks and addresses.
    fn read(texts: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let read = |text: String| {
            let net = text.parse::<IpNet>().ok();
            net.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
                .ok_or_else(|| {
                    format!(
                        "`{text}` is no address or network; `any` or a list of them is expected"
                    )
                })
        };
        let nets: Result<Vec<_>, _> = texts.into_iter().map(read).collect();
        nets.map(Self::Nets)
    }
}

/// A base URL that a client chose, if the conf allows its host.
pub fn custom_base(url: &str, allowed: &[AllowedHost]) -> Result<Base, Error> {
    let base = Base::try_new(url, "x-portkey-custom-host").map_err(|_| refused())?;
    let plain = matches!(base.scheme, Scheme::Http | Scheme::Https)
        && !base.host.ends_with('.')
        && base.host.split('.').count() <= MAX_LABELS;
    let reach = reach(&base, allowed).filter(|_| plain);
    reach.map(|reach| base.within(reach)).ok_or_else(refused)
}

/// The addresses with which the conf trusts a host that a client named, if it names that host.
pub fn reach(base: &Base, allowed: &[AllowedHost]) -> Option<Reach> {
    let entry = allowed.iter().find(|host| host.allows(base));
    entry.map(|entry| entry.reach.clone())
}

fn refused() -> Error {
    Error::invalid(
        "x-portkey-custom-host",
        "Invalid custom host: it must be an http(s) base URL whose host the gateway's conf allows.",
    )
}

const LOCALHOST: &str = "localhost";
/// Portkey's limit.
const MAX_LABELS: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the entry lets a client name `url`, and that lead to `address`.
    fn leads(entry: &str, url: &str, address: &str) -> (bool, bool) {
        let entry: AllowedHost = serde_yaml::from_str(entry).unwrap();
        let base = custom_base(url, &[entry]);
        let address = address.parse().unwrap();
        (
            base.is_ok(),
            base.is_ok_and(|base| base.reach.admits(address)),
        )
    }

    #[test]
    fn a_name_is_held_to_public_addresses_unless_the_conf_trusts_it_with_more() {
        let url = "https://api.example.com/v1";
        let any = "{host: api.example.com, addresses: any}";
        let nets = "{host: api.example.com, addresses: [10.0.0.0/8, 192.168.1.1]}";
        let local = "http://127.0.0.1:9000/v1";
        for (entry, url, address, found) in [
            ("api.example.com", url, "8.8.8.8", (true, true)),
            ("api.example.com", url, "10.0.0.1", (true, false)),
            ("api.example.com", url, "127.0.0.1", (true, false)),
            ("api.example.com", url, "169.254.169.254", (true, false)),
            ("api.example.com", url, "::ffff:10.0.0.1", (true, false)),
            (any, url, "10.0.0.1", (true, true)),
            (any, url, "127.0.0.1", (true, true)),
            (any, url, "169.254.169.254", (true, false)),
            (nets, url, "10.9.9.9", (true, true)),
            (nets, url, "192.168.1.1", (true, true)),
            (nets, url, "192.168.1.2", (true, false)),
            (nets, url, "8.8.8.8", (true, true)),
            ("127.0.0.1:9000", local, "127.0.0.1", (true, true)),
            ("127.0.0.1:9000", local, "127.0.0.2", (true, false)),
            (
                "127.0.0.1:9000",
                "http://2130706433:9000",
                "127.0.0.1",
                (true, true),
            ),
            (
                "127.0.0.1:9000",
                "http://0x7f.1:9000/",
                "127.0.0.1",
                (true, true),
            ),
            (
                "localhost:9000",
                "http://localhost:9000",
                "::1",
                (true, true),
            ),
            (
                "localhost:9000",
                "http://localhost:9000",
                "10.0.0.1",
                (true, false),
            ),
            (
                "'*.localhost'",
                "http://a.localhost",
                "127.0.0.1",
                (true, true),
            ),
            (
                "api.localhost",
                "http://api.localhost",
                "127.0.0.1",
                (true, true),
            ),
            (
                "localhost.example",
                "http://localhost.example",
                "127.0.0.1",
                (true, false),
            ),
            ("'*.example.com'", url, "8.8.8.8", (true, true)),
            ("'*.example.com'", url, "10.0.0.1", (true, false)),
            (
                "{host: '*.example.com', addresses: 10.0.0.0/8}",
                url,
                "10.0.0.1",
                (true, true),
            ),
            (
                "'*.example.com:8443'",
                "https://a.b.example.com:8443",
                "8.8.8.8",
                (true, true),
            ),
            (
                "'*.example.com:8443'",
                "https://a.b.example.com",
                "8.8.8.8",
                (false, false),
            ),
            (
                "'*.example.com'",
                "https://example.com",
                "8.8.8.8",
                (false, false),
            ),
            (
                "'*.example.com'",
                "https://-a.example.com",
                "8.8.8.8",
                (false, false),
            ),
            (
                "'*.example.com'",
                "https://evilexample.com",
                "8.8.8.8",
                (false, false),
            ),
        ] {
            assert_eq!(
                leads(entry, url, address),
                found,
                "{entry}: {url} at {address}"
            );
        }
        for wrong in [
            "'*'",
            "'*.com'",
            "'*.*.example.com'",
            "'a.*.example.com'",
            "'*.0.0.1'",
            "a/b",
            "example.com.",
            "{host: a, addresses: some}",
            "{host: a, addresses: [10.0.0.0/33]}",
            "{host: a, adresses: any}",
            "{addresses: any}",
        ] {
            assert!(
                serde_yaml::from_str::<AllowedHost>(wrong).is_err(),
                "{wrong}"
            );
        }
    }

    /// `portkey-contract.md`, section 10: what its text check refuses is refused here even by a list that names nearly all.
    #[test]
    fn what_a_custom_host_may_not_be_is_refused_by_its_text() {
        let entries = ["'*.example.com'", "127.0.0.1", "'[::1]'", "'*.localhost'"];
        let allowed: Vec<AllowedHost> = entries
            .iter()
            .map(|entry| serde_yaml::from_str(entry).unwrap())
            .collect();
        for url in [
            "https://api.example.com",
            "https://API.Example.COM/v1",
            "https://xn--mnchen-3ya.example.com",
            "http://127.0.0.1",
            "http://127.1",
            "http://[0:0:0:0:0:0:0:1]",
            "http://a.localhost",
            "https://1.2.3.4.5.6.7.8.example.com",
        ] {
            assert!(custom_base(url, &allowed).is_ok(), "{url}");
        }
        for url in REFUSED {
            let error = custom_base(url, &allowed).expect_err(url);
            assert_eq!(error.status(), 400, "{url}");
            assert_eq!(error.param(), Some("x-portkey-custom-host"));
            assert!(error.message().starts_with("Invalid custom host"));
            assert!(url.len() < 5 || !error.message().contains(url), "{url}");
        }
    }

    const REFUSED: &[&str] = &[
        "",
        " ",
        "api.example.com",
        "//api.example.com",
        "file:///etc/passwd",
        "data:text/plain,x",
        "gopher://api.example.com",
        "ftp://api.example.com",
        "ftps://api.example.com",
        "ws://api.example.com",
        "javascript:alert(1)",
        "https://",
        "https:///v1",
        "https://?x",
        "https://user@api.example.com",
        "https://user:pass@api.example.com",
        "https://:pass@api.example.com",
        "https://api.example.com/a@b",
        "https://api.example.com@evil.test",
        "https://evil.test#.example.com",
        "https://evil.test?.example.com",
        "https://evil.test\\.example.com",
        "https://evil.test/.example.com",
        "https://api.example.com/v1?x=1",
        "https://api.example.com/v1#x",
        "https://api.example.com\\@evil.test",
        "https://api.example.com\r\nx: y",
        "https://api.example.com\t",
        "https://api.example.com\u{0}",
        "https://api.example.com\u{7f}",
        "https://api .example.com",
        "https://api%2eexample.com",
        "https://api%00.example.com",
        "https://api.example.com%2f.evil.test",
        "https://a<b.example.com",
        "https://a{b.example.com",
        "https://a|b.example.com",
        "https://a^b.example.com",
        "https://a`b.example.com",
        "https://a_b.example.com",
        "https://api.example.com.",
        "https://.example.com",
        "https://..example.com",
        "https://a..example.com",
        "https://a.b.c.d.e.f.g.h.i.example.com",
        "https://example.com",
        "https://api.example.com:0",
        "https://api.example.com:70000",
        "https://api.example.com:8443",
        "https://api.example.com:x",
        "https://api.example.com/../x",
        "https://ａpi.example.com",
        "https://api。example.com",
        "https://api.example.com.evil.test",
        "https://api.portkey.ai",
        "http://0.0.0.0",
        "http://0",
        "http://127.0.0.2",
        "http://2130706434",
        "http://0x7f000002",
        "http://0177.0.0.2",
        "http://127.2",
        "http://127.0.0.1:81",
        "http://127.0.0.08",
        "http://127.0.0.256",
        "http://1.2.3.4.5",
        "http://169.254.169.254",
        "http://0xa9fea9fe",
        "http://2852039166",
        "http://metadata.google.internal",
        "http://metadata",
        "http://instance-data",
        "http://[::]",
        "http://[::2]",
        "http://[::ffff:127.0.0.1]",
        "http://[::ffff:7f00:1]",
        "http://[::127.0.0.1]",
        "http://[64:ff9b::7f00:1]",
        "http://[fd00:ec2::254]",
        "http://[fe80::1%25eth0]",
        "http://[fe80::1%eth0]",
        "http://[::1",
        "http://::1",
        "http://[localhost]",
        "http://localhost",
        "http://a.local",
        "http://a.internal",
    ];
}
