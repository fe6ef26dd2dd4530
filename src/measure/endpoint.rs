//! Where a server is: a URL as people write it, down to what a connection and a request line need.

use http::Uri;

/// One server's completions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub is_tls: bool,
    pub host: String,
    pub port: u16,
    /// The `Host` header.
    pub authority: String,
    /// Path and query.
    pub path: String,
    /// For people: without a query.
    pub shown: String,
}

impl Endpoint {
    /// `http://host:port` and `…/v1` lead to their `/v1/completions`, any other path is taken as it is.
    pub fn parse(url: &str) -> Result<Self, String> {
        let expected =
            || "expected is a URL such as http://127.0.0.1:8787/v1/completions".to_owned();
        let uri: Uri = url.parse().map_err(|_| expected())?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(expected()),
        };
        let authority = uri.authority().ok_or_else(expected)?;
        if authority.as_str().contains('@') {
            return Err("a URL holds no credentials here: see --key and -H".to_owned());
        }
        let path = match uri.path() {
            "" | "/" => "/v1/completions".to_owned(),
            path if path.ends_with("/v1") || path.ends_with("/v1/") => {
                format!("{}/completions", path.trim_end_matches('/'))
            }
            path => path.to_owned(),
        };
        let scheme = if is_tls { "https" } else { "http" };
        let query = uri.query().map(|query| format!("?{query}"));
        Ok(Self {
            is_tls,
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority
                .port_u16()
                .unwrap_or(if is_tls { 443 } else { 80 }),
            authority: authority.as_str().to_owned(),
            shown: format!("{scheme}://{authority}{path}"),
            path: path + &query.unwrap_or_default(),
        })
    }
}

/// `URL` or `URL=name`. A URL with `=` in its query needs a name.
pub fn named(text: &str) -> Result<(Endpoint, String), String> {
    let (url, name) = match text.rsplit_once('=') {
        Some((url, name)) if is_name(name) => (url, name.to_owned()),
        _ => (text, String::new()),
    };
    let endpoint = Endpoint::parse(url)?;
    let name = if name.is_empty() {
        endpoint.authority.clone()
    } else {
        name
    };
    Ok((endpoint, name))
}

/// What a target, or a process, may be called.
pub fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_NAME_BYTES
        && text
            .chars()
            .all(|letter| letter.is_alphanumeric() || " ._-".contains(letter))
}

/// A column's head.
const MAX_NAME_BYTES: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_leads_to_the_completions_of_its_server() {
        let cases = [
            ("http://h:1", "h", 1, "/v1/completions"),
            ("http://h/", "h", 80, "/v1/completions"),
            ("https://h/v1", "h", 443, "/v1/completions"),
            ("http://h:1/openai/v1/", "h", 1, "/openai/v1/completions"),
            (
                "http://[::1]:1/v1/completions?a=b",
                "::1",
                1,
                "/v1/completions?a=b",
            ),
            ("http://h:1/completions", "h", 1, "/completions"),
        ];
        for (url, host, port, path) in cases {
            let found = Endpoint::parse(url).unwrap();
            assert_eq!(
                (found.host.as_str(), found.port, found.path.as_str()),
                (host, port, path),
                "{url}"
            );
            assert!(!found.shown.contains('?'));
        }
        assert_eq!(
            Endpoint::parse("http://[::1]:1").unwrap().authority,
            "[::1]:1"
        );
        for url in [
            "h:1",
            "ftp://h",
            "http://",
            "http://u:p@h/v1",
            "http:///v1",
            "",
        ] {
            assert!(Endpoint::parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_name_stands_behind_the_url() {
        let name = |text: &str| named(text).unwrap().1;
        assert_eq!(name("http://h:1=direct one"), "direct one");
        assert_eq!(name("http://h:1/v1"), "h:1");
        assert_eq!(name("http://h:1/v1?a=b=c"), "c");
        assert_eq!(
            named("http://h:1/v1/completions?a=b=c").unwrap().0.path,
            "/v1/completions?a=b"
        );
        assert!(!is_name("a/b") && !is_name("") && !is_name("<b>") && is_name("1"));
    }
}
