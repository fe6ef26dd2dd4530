//! The apps that the gateway stands in front of, and which of them a request is for.
//!
//! Rules look at the listener's port, the host and the path, in this order, as nginx does: of those that fit, the one whose
//! port is named counts first, then the most exact host, then the most exact path. Rules choose an app; they guard nothing.

use std::{cmp::Reverse, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue};

use crate::{
    error::{Error, Kind},
    pattern,
    provider::Target,
};

/// An app, and how requests reach it.
#[derive(Clone, Debug)]
pub struct App {
    pub name: String,
    /// Its address. It has no credential: the client's own passes.
    pub target: Target,
    pub host: HostField,
    pub forwarded: Forwarded,
    /// Set over the client's.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Its longest silence; `None`: as of every upstream.
    pub read: Option<Duration>,
    /// Its requests need a key of the gateway's, which it does not get.
    pub requires_key: bool,
    /// How long a websocket may stay when neither side says anything; `None`: upgrades are not passed.
    pub websocket: Option<Duration>,
}

/// The `Host` that an app is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostField {
    /// The client's, so that links and cookies of the app stay right.
    Client,
    /// That of the app's own URL.
    Upstream,
    Named(HeaderValue),
}

/// What becomes of `X-Forwarded-For`, `-Proto` and `-Host`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Forwarded {
    /// They say what this gateway saw; a client's own are taken off.
    #[default]
    Set,
    /// For a gateway behind another proxy: the client's address is added to what that one said.
    Append,
    Off,
}

/// Who answers requests of one kind.
#[derive(Clone, Debug)]
pub enum Way {
    App(Arc<App>),
    /// The provider of this name, unless the request names another: as if there were no app.
    Provider(String),
}

/// Requests of one kind, and who answers them.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The port that the request came to; `None`: any.
    pub port: Option<u16>,
    /// Lower case, without port; `*` stands for any run of characters. `None`: any.
    pub host: Option<String>,
    /// `None`: any.
    pub path: Option<PathRule>,
    pub way: Way,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRule {
    /// This path and all below it.
    Prefix {
        /// Without a slash at its end.
        path: String,
        /// The app does not see it.
        strip: bool,
    },
    /// `*` stands for any run of characters, slashes too.
    Pattern(String),
}

impl PathRule {
    /// What the app is asked for; `None`: this is no such path.
    fn reach<'p>(&self, path: &'p str) -> Option<&'p str> {
        match self {
            Self::Prefix {
                path: prefix,
                strip,
            } => {
                let rest = path.strip_prefix(prefix.as_str())?;
                let below = rest.is_empty() || rest.starts_with('/');
                below.then_some(if *strip { rest } else { path })
            }
            Self::Pattern(pattern) => pattern::matches(pattern, path).then_some(path),
        }
    }

    fn rank(&self) -> (bool, Reverse<usize>) {
        match self {
            Self::Prefix { path, .. } => (false, Reverse(path.len())),
            Self::Pattern(pattern) => pattern::rank(pattern),
        }
    }
}

/// How a request came.
#[derive(Clone, Copy, Debug, Default)]
pub struct Came<'a> {
    /// As the client wrote it; empty: it named none.
    pub host: &'a str,
    pub port: Option<u16>,
}

/// All rules.
#[derive(Clone, Debug, Default)]
pub struct Front {
    rules: Vec<Rule>,
    /// It depends on the path who is asked, and for what.
    by_path: bool,
}

impl Front {
    /// Those of the apps.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().filter_map(|rule| match &rule.way {
            Way::App(app) => Some(&*app.target.base.host),
            Way::Provider(_) => None,
        })
    }

    pub fn new(mut rules: Vec<Rule>) -> Self {
        rules.sort_by_key(|rule| {
            let host = rule.host.as_deref().map(pattern::rank);
            let path = rule.path.as_ref().map(PathRule::rank);
            (
                rule.port.is_none(),
                (host.is_none(), host),
                (path.is_none(), path),
            )
        });
        let has_path = |way: &Way| match way {
            Way::App(app) => !app.target.base.path.is_empty(),
            Way::Provider(_) => false,
        };
        let by_path = rules
            .iter()
            .any(|rule| rule.path.is_some() || has_path(&rule.way));
        Self { rules, by_path }
    }

    /// The name of an app whose requests need a key.
    pub fn keyed_app(&self) -> Option<&str> {
        self.rules.iter().find_map(|rule| match &rule.way {
            Way::App(app) => app.requires_key.then_some(app.name.as_str()),
            Way::Provider(_) => None,
        })
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Who answers a request, and the path to ask them for.
    pub fn find<'p>(
        &self,
        came: Came<'_>,
        path: &'p str,
    ) -> Result<Option<(&Way, &'p str)>, Error> {
        if self.by_path && climbs(path) {
            let message = "The request's path leaves itself.";
            return Err(Error::new(Kind::Invalid, message));
        }
        let host = host_of(came.host).to_ascii_lowercase();
        let fits = |rule: &Rule| {
            rule.port.is_none_or(|port| came.port == Some(port))
                && rule
                    .host
                    .as_ref()
                    .is_none_or(|wanted| pattern::matches(wanted, &host))
        };
        let mut reached = self
            .rules
            .iter()
            .filter(|rule| fits(rule))
            .filter_map(|rule| {
                let path = match &rule.path {
                    Some(wanted) => wanted.reach(path)?,
                    None => path,
                };
                Some((&rule.way, path))
            });
        Ok(reached.next())
    }
}

/// A host without its port.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// Whether a path may mean another than it begins with, to whoever resolves it.
fn climbs(path: &str) -> bool {
    if !path.contains("..") && !path.contains('%') {
        return false;
    }
    let plain = path.to_ascii_lowercase().replace("%2e", ".");
    let plain = plain.replace("%2f", "/").replace("%5c", "/");
    plain.split(['/', '\\']).any(|part| part == "..")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Surroundings, source::Source};

    struct Nothing;

    impl Surroundings for Nothing {
        fn variable(&self, _: &str) -> Option<String> {
            None
        }

        fn file(&self, _: &str) -> Result<String, String> {
            Err("none".to_owned())
        }
    }

    fn front(lines: &str) -> Front {
        let source = Source {
            file: "conf.yaml",
            text: &format!("gateway:\n  listen: \"127.0.0.1:9000\"\n  upstreams:\n{lines}"),
            server_keys: &[],
            surroundings: &Nothing,
            secret_file_mode: 0,
        };
        Config::read(&source).unwrap().front
    }

    fn found(front: &Front, port: u16, host: &str, path: &str) -> String {
        let came = Came {
            host,
            port: Some(port),
        };
        match front.find(came, path) {
            Ok(Some((Way::App(app), path))) => format!("{} {path}", app.name),
            Ok(Some((Way::Provider(name), path))) => format!("{name}! {path}"),
            Ok(None) => "-".to_owned(),
            Err(error) => error.status().as_u16().to_string(),
        }
    }

    #[test]
    fn the_port_counts_first_then_the_host_then_the_path() {
        let front = front(concat!(
            "    all: { url: \"http://a\" }\n",
            "    api: { url: \"http://a\", path: /api }\n",
            "    deep: { url: \"http://a\", path: [/api/v2/, \"*.png\"] }\n",
            "    host: { url: \"http://a\", host: Admin.example.com }\n",
            "    wild: { url: \"http://a\", host: [\"*.example.com\", \"[::1]\"], path: /api }\n",
            "    port: { url: \"http://a\", port: 9000 }\n",
            "    none: { provider: groq, path: /v1/chat }\n",
        ));
        for (port, host, path, app) in [
            (1, "x", "/", "all /"),
            (1, "x", "/apix", "all /apix"),
            (1, "x", "/v1/chat/completions", "groq! /v1/chat/completions"),
            (1, "x", "/api", "api /api"),
            (1, "x", "/api/v1", "api /api/v1"),
            (1, "", "/api/v2/x", "deep /api/v2/x"),
            (1, "x", "/img/a.png", "deep /img/a.png"),
            (1, "admin.example.com:443", "/api/v2/x", "host /api/v2/x"),
            (1, "other.EXAMPLE.com", "/api/v2/x", "wild /api/v2/x"),
            (1, "other.example.com", "/", "all /"),
            (1, "[::1]:80", "/api", "wild /api"),
            (1, "[::1]", "/api", "wild /api"),
            (9000, "admin.example.com", "/api", "port /api"),
        ] {
            assert_eq!(found(&front, port, host, path), app, "{port} {host} {path}");
        }
    }

    #[test]
    fn a_prefix_may_be_the_gateways_alone() {
        let front = front("    app: { url: \"http://a/base\", path: /app/, strip_prefix: true }\n");
        for (path, reached) in [
            ("/app", "app "),
            ("/app/", "app /"),
            ("/app/x%2Fy", "app /x%2Fy"),
            ("/apps", "-"),
            ("/", "-"),
        ] {
            assert_eq!(found(&front, 1, "", path), reached, "{path}");
        }
    }

    #[test]
    fn where_paths_decide_none_may_climb() {
        let by_path = front("    app: { url: \"http://a\", path: /app }\n");
        for path in [
            "/app/../x",
            "/app/%2e%2E/x",
            "/app/.%2e",
            "/app/..%2fx",
            "/app\\..\\x",
        ] {
            assert_eq!(found(&by_path, 1, "", path), "400", "{path}");
        }
        for path in ["/app/a..b", "/app/...", "/app/%2e"] {
            assert_eq!(found(&by_path, 1, "", path), format!("app {path}"));
        }
        let all = front("    app: { url: \"http://a\" }\n");
        assert_eq!(found(&all, 1, "", "/app/../x"), "app /app/../x");
    }
}
