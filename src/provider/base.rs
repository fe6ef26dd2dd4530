//! A base URL, taken apart once: scheme, host, port and the path that every API path is appended to.

use core::net::{Ipv4Addr, Ipv6Addr};

use http::{HeaderValue, Uri, header::InvalidHeaderValue};

use crate::{error::Error, provider::Reach};

/// `scheme://host[:port][/path]`, checked. No user, query or fragment; the path has no trailing slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    pub scheme: Scheme,
    /// Lower case; an address in its usual form, an IPv6 one without its brackets.
    pub host: String,
    pub port: u16,
    pub path: String,
    /// Which addresses the host may have; all, unless a client named it.
    pub reach: Reach,
    /// `host[:port]`, as the `Host` header has it.
    host_header: HeaderValue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

impl Base {
    /// Reads a base URL; `what` names it in the error.
    pub fn try_new(url: &str, what: &'static str) -> Result<Self, Error> {
        let wrong = |why: &str| {
            Error::invalid(
                what,
                format!("`{what}` must be http(s)://host[:port][/path]: {why}."),
            )
        };
        if url.contains(['#', '@', '\\', '?'])
            || url
                .bytes()
                .any(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control())
        {
            return Err(wrong("it holds a character that a base URL cannot have"));
        }
        let uri: Uri = url.parse().map_err(|_| wrong("it is not a URL"))?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            _ => return Err(wrong("the scheme is neither http nor https")),
        };
        let host = uri.host().unwrap_or_default();
        // Of a port that is none, the parser would say nothing.
        let port = uri.authority().map_or("", |told| told.as_str());
        let port = match port.strip_prefix(host) {
            Some("") => Some(scheme.default_port()),
            _ => uri.port_u16(),
        };
        let port = port.ok_or_else(|| wrong("it has no valid port"))?;
        let host = read_host(host).ok_or_else(|| wrong("it has no valid host"))?;
        if uri
            .path()
            .split('/')
            .any(|part| part == "." || part == "..")
        {
            return Err(wrong("its path leaves itself"));
        }
        let path = uri.path().trim_end_matches('/');
        Self::at(scheme, &host, port, path).map_err(|_| wrong("it has no valid host"))
    }

    fn at(scheme: Scheme, host: &str, port: u16, path: &str) -> Result<Self, InvalidHeaderValue> {
        Ok(Self {
            scheme,
            host: host.to_owned(),
            port,
            path: path.to_owned(),
            reach: Reach::default(),
            host_header: HeaderValue::try_from(authority(scheme, host, port))?,
        })
    }

    /// The same origin, with another path.
    pub fn with_path(&self, path: &str) -> Self {
        Self {
            path: path.to_owned(),
            ..self.clone()
        }
    }

    /// This path at the origin of `other`: how a conf points every provider at the emulator.
    pub fn moved_to(&self, other: &Self) -> Self {
        Self {
            path: self.path.clone(),
            ..other.clone()
        }
    }

    /// The same, held to other addresses.
    pub fn within(self, reach: Reach) -> Self {
        Self { reach, ..self }
    }

    pub fn authority(&self) -> String {
        authority(self.scheme, &self.host, self.port)
    }

    pub fn host_header(&self) -> &HeaderValue {
        &self.host_header
    }
}

fn authority(scheme: Scheme, host: &str, port: u16) -> String {
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    if port == scheme.default_port() {
        host
    } else {
        format!("{host}:{port}")
    }
}

/// A URL's host in its one form. What is an address in any spelling becomes that address: what is compared, looked up and
/// connected to must not be three different things.
fn read_host(text: &str) -> Option<String> {
    if let Some(inner) = text.strip_prefix('[') {
        let address: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
        return Some(address.to_string());
    }
    if ends_in_number(text) {
        return read_v4(text).map(|address| address.to_string());
    }
    let host = text.to_ascii_lowercase();
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    (!host.is_empty() && host.bytes().all(known)).then_some(host)
}

/// <https://url.spec.whatwg.org/#ends-in-a-number-checker>: such a host is an IPv4 address or nothing.
fn ends_in_number(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let last = host.rsplit('.').next().unwrap_or_default();
    let digits = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
    digits || read_number(last).is_some()
}

/// <https://url.spec.whatwg.org/#concept-ipv4-parser>: 127.1, 2130706433, 0x7f.0.0.1 and 0177.0.0.1 are one address, and
/// the system's resolver takes them for it.
fn read_v4(host: &str) -> Option<Ipv4Addr> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let numbers: Option<Vec<u64>> = host.split('.').map(read_number).collect();
    let numbers = numbers.filter(|numbers| numbers.len() <= 4)?;
    let (last, heads) = numbers.split_last()?;
    let rest = 8 * (4 - u32::try_from(heads.len()).ok()?);
    let fits = heads.iter().all(|&head| head <= 0xff) && *last < 1_u64 << rest;
    let bits = heads.iter().zip([24, 16, 8]);
    let bits = bits.fold(*last, |bits, (head, shift)| bits | head << shift);
    u32::try_from(bits)
        .ok()
        .filter(|_| fits)
        .map(Ipv4Addr::from)
}

fn read_number(text: &str) -> Option<u64> {
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, radix) = match hex {
        Some("") => return Some(0),
        Some(hex) => (hex, 16),
        None if text.len() > 1 && text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    // The parser would take a sign.
    let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(digits, radix).ok().filter(|_| plain)
}

impl std::fmt::Display for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

impl Scheme {
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_is_taken_apart() {
        let base = Base::try_new("https://API.groq.com/openai/v1/", "base_url").unwrap();
        assert_eq!(
            (&*base.host, base.port, &*base.path),
            ("api.groq.com", 443, "/openai/v1")
        );
        assert_eq!(base.authority(), "api.groq.com");
        let other = Base::try_new("http://127.0.0.1:8788/v1", "x").unwrap();
        let moved = base.moved_to(&other);
        assert_eq!(moved.to_string(), "http://127.0.0.1:8788/openai/v1");
        assert_eq!(moved.host_header(), "127.0.0.1:8788");
        assert_eq!(
            Base::try_new("http://[::1]:9/v1", "x").unwrap().authority(),
            "[::1]:9"
        );
    }

    #[test]
    fn an_address_is_itself_in_every_spelling() {
        for (url, host) in [
            ("http://127.0.0.1/", "127.0.0.1"),
            ("http://2130706433/", "127.0.0.1"),
            ("http://0x7f000001/", "127.0.0.1"),
            ("http://0X7F.1/", "127.0.0.1"),
            ("http://0177.0.0.1/", "127.0.0.1"),
            ("http://017700000001/", "127.0.0.1"),
            ("http://127.1/", "127.0.0.1"),
            ("http://127.0.1/", "127.0.0.1"),
            ("http://127.0.0.1./", "127.0.0.1"),
            ("http://0/", "0.0.0.0"),
            ("http://0x/", "0.0.0.0"),
            ("http://169.254.43518/", "169.254.169.254"),
            ("http://0xa9fea9fe/", "169.254.169.254"),
            ("http://4294967295/", "255.255.255.255"),
            ("http://[::1]/", "::1"),
            ("http://[0:0:0:0:0:0:0:1]/", "::1"),
            ("http://[::FFFF:7f00:1]/", "::ffff:127.0.0.1"),
            ("http://127.0.0.1.nip.io/", "127.0.0.1.nip.io"),
            ("http://1.example/", "1.example"),
            ("http://node.b1/", "node.b1"),
        ] {
            assert_eq!(Base::try_new(url, "x").unwrap().host, host, "{url}");
        }
        for url in [
            "http://256.0.0.1/",
            "http://1.2.3.4.5/",
            "http://127.0.0.08/",
            "http://4294967296/",
            "http://1.2.3.256/",
            "http://a.0x1/",
            "http://1..2/",
            "http://0x1ffffffff/",
            "http://[fe80::1%25eth0]/",
            "http://[fe80::1%eth0]/",
            "http://[example.com]/",
            "http://[::1/",
            "http://[127.0.0.1]/",
            "http://99999999999999999999/",
            "http://+7/",
            "http://0x+7/",
        ] {
            assert!(Base::try_new(url, "x").is_err(), "{url}");
        }
    }

    #[test]
    fn ways_out_of_a_host_are_refused() {
        for url in [
            "",
            "api.x.com",
            "ftp://x",
            "http://",
            "https://a@b",
            "https://a#b",
            "https://a?b",
            "https://a\\b",
            "https://a b",
            "https://a/../b",
            "https://a%2eb/",
            "https://a!b/",
            "https://a,b/",
            "https://a;b/",
            "https://a*b/",
            "https://:443/",
        ] {
            assert!(Base::try_new(url, "base_url").is_err(), "{url}");
        }
    }
}
