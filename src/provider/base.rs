//! A base URL, taken apart once: scheme, host, port and the path that every API path is appended to.

use http::{HeaderValue, Uri, header::InvalidHeaderValue};

use crate::error::Error;

/// `scheme://host[:port][/path]`, checked. No user, query or fragment; the path has no trailing slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    pub scheme: Scheme,
    /// Lower case; an IPv6 address without its brackets.
    pub host: String,
    pub port: u16,
    pub path: String,
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
        let host = uri.host().unwrap_or_default().to_ascii_lowercase();
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(&host);
        if host.is_empty()
            || !host
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte))
        {
            return Err(wrong("it has no valid host"));
        }
        if uri
            .path()
            .split('/')
            .any(|part| part == "." || part == "..")
        {
            return Err(wrong("its path leaves itself"));
        }
        let port = uri.port_u16().unwrap_or(scheme.default_port());
        let path = uri.path().trim_end_matches('/');
        Self::at(scheme, host, port, path).map_err(|_| wrong("it has no valid host"))
    }

    fn at(scheme: Scheme, host: &str, port: u16, path: &str) -> Result<Self, InvalidHeaderValue> {
        Ok(Self {
            scheme,
            host: host.to_owned(),
            port,
            path: path.to_owned(),
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
        ] {
            assert!(Base::try_new(url, "base_url").is_err(), "{url}");
        }
    }
}
