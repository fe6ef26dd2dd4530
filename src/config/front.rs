//! `gateway.listen` and `gateway.upstreams` as a conf file writes them: where clients come in, and the apps behind.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::HeaderValue;
use serde::Deserialize;

use crate::{
    config::{
        Config, ConfigError,
        source::Source,
        text::{DurationText, UrlText},
    },
    front::{App, Forwarded, Front, HostField, PathRule, Rule, Way},
    provider::{Auth, Base, Provider, Target, target::Choice},
    tls::{Pair, PemFile, Tls},
};

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected host:port, or `address` and `tls`, or a list of them"
)]
pub enum ListenFile {
    One(ListenerFile),
    Many(Vec<ListenerFile>),
}

#[derive(Deserialize)]
#[serde(untagged)]
pub enum ListenerFile {
    Plain(String),
    Full(FullListenerFile),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FullListenerFile {
    address: String,
    tls: Option<TlsFile>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TlsFile {
    One(PairFile),
    Many(Vec<PairFile>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PairFile {
    cert: String,
    key: String,
}

const LISTEN: [&str; 2] = ["gateway", "listen"];

impl ListenFile {
    pub fn apply(self, source: &Source<'_>, config: &mut Config) -> Result<(), ConfigError> {
        let listeners = match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        };
        config.listen.clear();
        for listener in listeners {
            let (address, tls) = match listener {
                ListenerFile::Plain(address) => (address, None),
                ListenerFile::Full(full) => (full.address, full.tls),
            };
            source.check_address(&LISTEN, &address)?;
            if let Some(tls) = tls {
                let tls = Arc::new(tls.read(source)?);
                config.tls.insert(port_of(&address), tls);
            }
            config.listen.push(address);
        }
        check_ports(source, config)
    }
}

/// A connection shows by its port which listener it came to, and so whether it has to be TLS.
fn check_ports(source: &Source<'_>, config: &Config) -> Result<(), ConfigError> {
    for port in config.tls.keys() {
        let count = |address: &&String| port_of(address) == *port;
        let message = match (*port, config.listen.iter().filter(count).count()) {
            (0, _) => "with `tls`, the port has to be named".to_owned(),
            (_, 1) => continue,
            _ => format!("port {port} is named twice, and with `tls`: one address of it can be"),
        };
        return Err(source.error(&LISTEN, message));
    }
    Ok(())
}

fn port_of(address: &str) -> u16 {
    let port = address.rsplit_once(':').map(|(_, port)| port);
    port.and_then(|port| port.parse().ok()).unwrap_or_default()
}

impl TlsFile {
    fn read(self, source: &Source<'_>) -> Result<Tls, ConfigError> {
        let files = match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        };
        let refused = |message| source.error(&LISTEN, message);
        if files.is_empty() {
            return Err(refused("`tls` needs `cert` and `key`".to_owned()));
        }
        let file = |name: String| match source.surroundings.reader(&name) {
            Some(read) => Ok(PemFile { name, read }),
            None => Err(refused(format!("`{name}` cannot be read"))),
        };
        let pair = |files: PairFile| {
            // What issues certificates often leaves their keys open to a group: that is no reason not to start.
            let read = source.surroundings.secret_file(&files.key);
            let open = read
                .ok()
                .and_then(|(_, mode)| source.is_open(&files.key, mode));
            if let Some(open) = open {
                source.warn(&refused(open));
            }
            Pair::try_new(file(files.cert)?, file(files.key)?).map_err(refused)
        };
        let pairs: Result<_, _> = files.into_iter().map(pair).collect();
        Tls::try_new(pairs?).map_err(refused)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamFile {
    url: Option<UrlText>,
    provider: Option<String>,
    path: Option<Texts>,
    host: Option<Texts>,
    port: Option<u16>,
    #[serde(default)]
    strip_prefix: bool,
    host_header: Option<String>,
    #[serde(default)]
    forwarded: Forwarded,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    read_timeout: Option<DurationText>,
    #[serde(default)]
    require_key: bool,
    websocket: Option<bool>,
    websocket_idle: Option<DurationText>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of them")]
enum Texts {
    One(String),
    Many(Vec<String>),
}

impl Texts {
    /// Each, or `None` alone, which stands for any.
    fn each(texts: Option<Self>) -> Vec<Option<String>> {
        match texts {
            None => vec![None],
            Some(Self::One(one)) => vec![Some(one)],
            Some(Self::Many(many)) => many.into_iter().map(Some).collect(),
        }
    }
}

/// Reads `gateway.upstreams`.
pub fn read(
    files: BTreeMap<String, UpstreamFile>,
    source: &Source<'_>,
    config: &Config,
) -> Result<Front, ConfigError> {
    let mut rules = Vec::new();
    for (name, file) in files {
        file.read(&name, source, config, &mut rules)?;
    }
    Ok(Front::new(rules))
}

impl UpstreamFile {
    fn read(
        mut self,
        name: &str,
        source: &Source<'_>,
        config: &Config,
        rules: &mut Vec<Rule>,
    ) -> Result<(), ConfigError> {
        let wrong = |key, message| source.error(&["gateway", "upstreams", name, key], message);
        let hosts = Texts::each(self.host.take())
            .into_iter()
            .map(|host| match host {
                Some(host) if host.is_empty() || host.contains(['/', ' ']) => Err(wrong(
                    "host",
                    format!("`{host}` is no host, nor a pattern of hosts"),
                )),
                host => Ok(host.map(|host| host.to_ascii_lowercase())),
            });
        let hosts: Vec<Option<String>> = hosts.collect::<Result<_, _>>()?;
        let strip = self.strip_prefix;
        let paths = Texts::each(self.path.take())
            .into_iter()
            .map(|path| match path {
                Some(path) => path_rule(path, strip).map(Some),
                None if strip => Err("`strip_prefix` needs the prefix, a `path`".to_owned()),
                None => Ok(None),
            });
        let paths: Result<Vec<Option<PathRule>>, String> = paths.collect();
        let paths = paths.map_err(|message| wrong("path", message))?;
        let listens = |port: &u16| config.listen.iter().any(|own| port_of(own) == *port);
        if let Some(port) = self.port.filter(|port| !listens(port)) {
            let message = format!("no address of gateway.listen has port {port}");
            return Err(wrong("port", message));
        }
        let port = self.port;
        let way = self.way(name, source, config)?;
        for host in hosts {
            rules.extend(paths.iter().map(|path| Rule {
                port,
                host: host.clone(),
                path: path.clone(),
                way: way.clone(),
            }));
        }
        Ok(())
    }

    fn way(mut self, name: &str, source: &Source<'_>, config: &Config) -> Result<Way, ConfigError> {
        let path = ["gateway", "upstreams", name, "provider"];
        match (self.url.take(), self.provider.take()) {
            (Some(url), None) => Ok(Way::App(Arc::new(self.app(name, url.0, source)?))),
            (None, Some(provider)) if self.strip_prefix => {
                let message =
                    format!("`strip_prefix` is for apps: `{provider}` has paths of its own");
                Err(source.error(&path, message))
            }
            (None, Some(provider)) => {
                source.check_provider(&path, &provider, config)?;
                Ok(Way::Provider(provider))
            }
            (None, None) | (Some(_), Some(_)) => {
                let message =
                    "`url`, an app's address, or `provider` is needed, not both".to_owned();
                Err(source.error(&path[..3], message))
            }
        }
    }

    fn app(self, name: &str, url: Base, source: &Source<'_>) -> Result<App, ConfigError> {
        let path = |key| ["gateway", "upstreams", name, key];
        let host = match self.host_header.as_deref() {
            None | Some("client") => HostField::Client,
            Some("upstream") => HostField::Upstream,
            Some(named) => HostField::Named(HeaderValue::try_from(named).map_err(|_| {
                source.error(
                    &path("host_header"),
                    "it is no host that can be sent".to_owned(),
                )
            })?),
        };
        let headers: Result<_, _> = self
            .headers
            .iter()
            .map(|(header, value)| source.header(&path("headers"), header, value))
            .collect();
        let provider = Provider {
            base: Some(Arc::new(url)),
            auth: Auth::None,
            ..super::file::declared(name)
        };
        let choice = Choice {
            custom: None,
            credential: None,
            held: None,
            model: "",
            option: &|_| Ok(None),
        };
        let target = Target::try_new(Arc::new(provider), choice);
        let idle = self.websocket_idle.map_or(WEBSOCKET_IDLE, |idle| idle.0);
        Ok(App {
            name: name.to_owned(),
            target: target
                .map_err(|error| source.error(&path("url"), error.message().to_owned()))?,
            host,
            forwarded: self.forwarded,
            headers: headers?,
            read: self.read_timeout.map(|timeout| timeout.0),
            requires_key: self.require_key,
            websocket: self.websocket.unwrap_or(true).then_some(idle),
        })
    }
}

fn path_rule(path: String, strip: bool) -> Result<PathRule, String> {
    if path.contains('*') {
        return match strip {
            true => Err(format!(
                "`{path}` is a pattern: only a prefix can be stripped"
            )),
            false => Ok(PathRule::Pattern(path)),
        };
    }
    if !path.starts_with('/') {
        return Err(format!("`{path}` does not start with `/`"));
    }
    let path = path.trim_end_matches('/').to_owned();
    Ok(PathRule::Prefix { path, strip })
}

/// Long enough for a tab left open over lunch, short enough that what has died without a word is noticed.
const WEBSOCKET_IDLE: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Reader, Surroundings};

    const CERT: &str = include_str!("../../tests/fixtures/tls/one.pem");
    const KEY: &str = include_str!("../../tests/fixtures/tls/one.key");

    struct Files;

    impl Surroundings for Files {
        fn variable(&self, name: &str) -> Option<String> {
            (name == "SECRET").then(|| "s3cret".to_owned())
        }

        fn file(&self, path: &str) -> Result<String, String> {
            self.reader(path)
                .and_then(|read| read())
                .ok_or("none".to_owned())
        }

        fn reader(&self, path: &str) -> Option<Reader> {
            let text = match path {
                "cert" => Some(CERT.to_owned()),
                "key" => Some(KEY.to_owned()),
                _ => None,
            };
            Some(Box::new(move || text.clone()))
        }
    }

    fn read(text: &str) -> Result<Config, String> {
        let source = Source {
            file: "conf.yaml",
            text: &format!("gateway:\n{text}"),
            server_keys: &[],
            surroundings: &Files,
            secret_file_mode: 0,
        };
        Config::read(&source).map_err(|error| error.to_string())
    }

    #[test]
    fn a_listener_may_be_tls() {
        let config = read(concat!(
            "  listen:\n    - 127.0.0.1:1\n    - { address: \"127.0.0.1:2\" }\n",
            "    - { address: \"[::]:3\", tls: { cert: cert, key: key } }\n",
            "    - { address: \"0.0.0.0:4\", tls: [ { cert: cert, key: key }, { cert: cert, key: key } ] }\n",
        ))
        .unwrap();
        assert_eq!(
            config.listen,
            ["127.0.0.1:1", "127.0.0.1:2", "[::]:3", "0.0.0.0:4"]
        );
        assert_eq!(config.tls.keys().copied().collect::<Vec<_>>(), [3, 4]);
        let one = read("  listen: { address: \"a:3\", tls: { cert: cert, key: key } }\n");
        assert_eq!(one.unwrap().listen, ["a:3"]);
    }

    #[test]
    fn a_listener_that_cannot_be_is_refused() {
        let tls = "tls: { cert: cert, key: key }";
        for (listen, message) in [
            ("[]".to_owned(), "an address is needed"),
            ("{ address: x }".to_owned(), "`x` is not host:port"),
            (
                format!("{{ address: \"a:0\", {tls} }}"),
                "the port has to be named",
            ),
            (
                format!("[ \"a:1\", {{ address: \"b:1\", {tls} }} ]"),
                "port 1 is named twice",
            ),
            (
                "{ address: \"a:1\", tls: [] }".to_owned(),
                "`tls` needs `cert` and `key`",
            ),
            (
                "{ address: \"a:1\", tls: { cert: cert, key: no } }".to_owned(),
                "`no` cannot be read",
            ),
            (
                "{ address: \"a:1\", tls: { cert: key, key: key } }".to_owned(),
                "`key` holds no certificate",
            ),
            (
                "{ address: \"a:1\", tls: { cert: cert } }".to_owned(),
                "expected host:port, or",
            ),
            (
                "{ address: \"a:1\", tsl: {} }".to_owned(),
                "expected host:port, or",
            ),
        ] {
            let error = read(&format!("  listen: {listen}\n")).unwrap_err();
            assert!(error.starts_with("conf.yaml:2: gateway.listen"), "{error}");
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn an_app_is_one_row_of_yaml() {
        let config = read(concat!(
            "  upstreams:\n    plain: { url: \"http://a:3000\" }\n",
            "    full: { url: \"https://b/base/\", path: /x, host: h, port: 8787, strip_prefix: true, host_header: upstream,",
            " forwarded: append, headers: { x-front: env:SECRET }, read_timeout: 5m, websocket: false }\n",
        ))
        .unwrap();
        let came = crate::front::Came {
            host: "h",
            port: Some(8787),
        };
        let (Way::App(full), path) = config.front.find(came, "/x/y").unwrap().unwrap() else {
            panic!("a provider");
        };
        assert_eq!((full.name.as_str(), path), ("full", "/y"));
        assert_eq!(full.target.base.to_string(), "https://b/base");
        assert_eq!(full.headers[0].1, "s3cret");
        assert_eq!(
            (full.host.clone(), full.forwarded),
            (HostField::Upstream, Forwarded::Append)
        );
        assert_eq!(
            (full.read, full.websocket),
            (Some(Duration::from_secs(300)), None)
        );
        let found = config.front.find(Default::default(), "/x");
        let Some((Way::App(plain), _)) = found.unwrap() else {
            panic!("no app");
        };
        assert_eq!(
            (plain.host.clone(), plain.forwarded),
            (HostField::Client, Forwarded::Set)
        );
        assert_eq!((plain.read, plain.websocket), (None, Some(WEBSOCKET_IDLE)));
    }

    #[test]
    fn an_app_that_cannot_be_is_refused_by_name() {
        for (app, path, message) in [
            ("url: ftp://a", "upstreams.app", "neither http nor https"),
            (
                "url: http://a, path: x",
                "upstreams.app.path",
                "does not start with `/`",
            ),
            (
                "url: http://a, path: \"/*\", strip_prefix: true",
                "upstreams.app.path",
                "a pattern",
            ),
            (
                "url: http://a, strip_prefix: true",
                "upstreams.app.path",
                "needs the prefix",
            ),
            (
                "url: http://a, host: http://b",
                "upstreams.app.host",
                "is no host",
            ),
            ("url: http://a, port: 1", "upstreams.app.port", "has port 1"),
            (
                "url: http://a, headers: { host: x }",
                "upstreams.app.headers",
                "set by the gateway",
            ),
            (
                "url: http://a, forwarded: maybe",
                "upstreams.app",
                "unknown variant",
            ),
            ("path: /x", "upstreams.app", "is needed"),
            (
                "url: http://a, provider: openai",
                "upstreams.app",
                "not both",
            ),
            (
                "provider: nobody",
                "upstreams.app.provider",
                "unknown provider",
            ),
            (
                "provider: openai, path: /x, strip_prefix: true",
                "upstreams.app.provider",
                "is for apps",
            ),
            ("url: http://a, ulr: x", "upstreams.app", "unknown field"),
        ] {
            let error = read(&format!("  upstreams:\n    app: {{ {app} }}\n")).unwrap_err();
            assert!(error.contains(path) && error.contains(message), "{error}");
        }
    }
}
