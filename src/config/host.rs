//! Hosts that a client may choose.

use crate::{
    error::Error,
    provider::{Base, base::Scheme},
};

/// One line of `allowed_hosts`: a host, and the port if it is not the scheme's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedHost {
    host: String,
    port: Option<u16>,
}

impl AllowedHost {
    /// Reads `host`, `host:port` or `[v6]:port`.
    pub fn try_new(text: &str) -> Result<Self, String> {
        let base = Base::try_new(&format!("http://{text}"), "allowed_hosts")
            .map_err(|_| format!("`{text}` is not a host or host:port"))?;
        let named = text
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        if !base.path.is_empty() || text.contains('*') {
            return Err(format!("`{text}` is not a host or host:port"));
        }
        Ok(Self {
            port: named.then_some(base.port),
            host: base.host,
        })
    }

    fn allows(&self, base: &Base) -> bool {
        self.host == base.host && self.port.unwrap_or(base.scheme.default_port()) == base.port
    }
}

/// A base URL that a client chose, if the conf allows its host.
pub fn custom_base(url: &str, allowed: &[AllowedHost]) -> Result<Base, Error> {
    let base = Base::try_new(url, "x-portkey-custom-host").map_err(|_| refused())?;
    let known = matches!(base.scheme, Scheme::Http | Scheme::Https)
        && allowed.iter().any(|host| host.allows(&base));
    if known { Ok(base) } else { Err(refused()) }
}

fn refused() -> Error {
    Error::invalid(
        "x-portkey-custom-host",
        "Invalid custom host: it must be an http(s) base URL whose host the gateway's conf allows.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_of_the_conf_are_allowed() {
        let allowed = ["api.example.com", "127.0.0.1:9000", "[::1]:9000"]
            .map(|text| AllowedHost::try_new(text).unwrap());
        for url in [
            "https://api.example.com/v1",
            "http://api.example.com",
            "http://127.0.0.1:9000/v1",
            "http://[::1]:9000/v1",
        ] {
            assert!(custom_base(url, &allowed).is_ok(), "{url}");
        }
        for url in [
            "https://api.example.com:8443/v1",
            "http://127.0.0.1/v1",
            "http://127.0.0.1:9001/v1",
            "http://2130706433:9000/v1",
            "http://localhost:9000/v1",
            "https://api.example.com@evil.com/v1",
            "https://evil.com#api.example.com",
            "https://api.example.com.evil.com",
            "file:///etc/passwd",
            "",
        ] {
            assert!(custom_base(url, &allowed).is_err(), "{url}");
        }
        assert!(AllowedHost::try_new("*.example.com").is_err());
        assert!(AllowedHost::try_new("a/b").is_err());
    }
}
