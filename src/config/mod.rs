//! The conf as the gateway uses it: if a [`Config`] exists, every name in it resolves and every secret was read.

pub mod admin;
mod chosen;
mod credentials;
pub mod file;
mod front;
pub mod headers;
mod hedge;
pub mod host;
mod inherit;
mod keys;
mod leaf;
mod limits;
mod node;
mod portkey;
mod prompt;
mod query;
pub mod resilience;
mod routes;
mod schema;
pub mod source;
mod substitutes;
mod text;
pub mod timeouts;
mod tree;
pub mod word;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use crate::{
    completion::PromptAs,
    dialect::{settle::Unsupported, substitute::Substitutes},
    error::Error,
    front::Front,
    head,
    keys::VirtualKeys,
    provider::{Base, Credential, Provider, Row, Secret, place::Place, pool::KeyPool, table::ROWS},
    route::{Models, Route, rules::Rules},
    tls::Tls,
};

pub use host::AllowedHost;
pub use resilience::Resilience;

#[derive(Clone, Debug)]
pub struct Config {
    /// `host:port` of each client listener.
    pub listen: Vec<String>,
    /// By port, of those listeners that are TLS.
    pub tls: BTreeMap<u16, Arc<Tls>>,
    /// `host:port` of the admin listener; `None` switches it off.
    pub admin: Option<String>,
    /// What the admin listener asks for; `None`: nothing, as only this machine can reach it.
    pub admin_token: Option<Secret>,
    pub default: Defaults,
    pub providers: BTreeMap<String, Arc<Provider>>,
    pub models: Models,
    /// The apps that the gateway stands in front of.
    pub front: Front,
    /// What `x-portkey-config` may name.
    pub configs: BTreeMap<String, Arc<Route>>,
    /// For requests that name neither a config nor a provider.
    pub routes: Rules,
    /// The keys that clients have of this gateway.
    pub keys: VirtualKeys,
    /// A provider has several keys.
    pub has_pools: bool,
    /// What goes to a provider needs one of them.
    pub require_key: bool,
    pub substitutes: Substitutes,
    /// Hosts that a client may choose by `x-portkey-custom-host`. Empty: none.
    pub allowed_hosts: Vec<AllowedHost>,
    pub limits: Limits,
    pub timeouts: Timeouts,
    pub resilience: Resilience,
    /// What becomes of a parameter that neither the provider nor the gateway can carry.
    pub unsupported: Unsupported,
    /// How prompts are put to models that answer messages, where neither the client nor their provider's row says.
    pub prompt_as: PromptAs,
    pub emulator: Option<Emulator>,
}

/// What a request gets that names nothing itself.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    pub provider: Option<String>,
    pub model: Option<String>,
    /// The provider that takes every other path: the app that we stand in front of.
    pub upstream: Option<String>,
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest request body of `/v1/completions`, and of a passed request that is signed.
    pub body_bytes: usize,
    /// Largest request head.
    pub header_bytes: usize,
    /// Most headers of a request.
    pub header_count: usize,
    /// Time within which a request's head must have arrived, from its first byte on.
    pub header: Duration,
    /// Time within which a request body must have arrived.
    pub request: Duration,
    /// Largest stream event of an upstream.
    pub event_bytes: usize,
    /// Upstream calls that one request may take, where its prompts or choices have to be asked for one by one.
    pub calls: u32,
    /// Of those, the ones in flight at a time.
    pub concurrent_calls: usize,
    /// Such calls in flight to one host at a time, of all requests together.
    pub upstream_calls: usize,
}

/// Deadlines of an upstream call.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    pub connect: Duration,
    /// Longest silence of the upstream, before its head or between two reads.
    pub read: Duration,
    pub write: Duration,
    /// From a call's begin to the first token of a stream; `None`: `read` alone limits it.
    pub first_token: Option<Duration>,
    /// Between two events of a stream; `None`: `read` alone limits it.
    pub idle: Option<Duration>,
    /// The whole request.
    pub total: Duration,
    /// How often the client of a stream that brings nothing is shown that somebody is there.
    pub heartbeat: Option<Duration>,
}

#[derive(Clone, Debug)]
pub struct Emulator {
    pub listen: String,
    pub latency: Duration,
    /// Tokens of an answer that nothing else ends.
    pub tokens: u32,
    /// Tokens per second of a stream; 0: no pause.
    pub rate: u32,
}

/// Why a conf was refused. Never quotes a secret.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ConfigError {
    pub file: String,
    /// 1 is the first; 0: the file as a whole.
    pub line: usize,
    /// Such as `gateway.providers.my-vllm.base_url`.
    pub path: String,
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for ConfigError {}

/// The world outside the conf file: where secrets are. Passed in, so that reading a conf needs no process.
pub trait Surroundings {
    fn variable(&self, name: &str) -> Option<String>;
    fn file(&self, path: &str) -> Result<String, String>;

    /// A file that holds a secret: its text, and its permissions as `chmod` has them (0: such a thing is not known here).
    fn secret_file(&self, path: &str) -> Result<(String, u32), String> {
        self.file(path).map(|text| (text, 0))
    }

    /// Tells whoever wrote the conf of what is in use, and should not be as it is.
    fn warn(&self, _warning: &str) {}

    /// What reads `path` anew each time, for a token that somebody else keeps fresh. `None`: no such file is read here.
    fn reader(&self, _path: &str) -> Option<Reader> {
        None
    }
}

/// Reads a file as it stands at that moment.
pub type Reader = Box<dyn Fn() -> Option<String> + Send + Sync>;

impl Config {
    /// Takes over what `old` knows of providers' keys.
    pub fn adopt_keys(&self, old: &Self) {
        for (name, pool) in self.pools() {
            if let Some(before) = old.pool(name) {
                pool.adopt(before);
            }
        }
    }

    /// The several keys of a provider.
    pub fn pool(&self, provider: &str) -> Option<&Arc<KeyPool>> {
        match &self.providers.get(provider)?.credential {
            Some(Credential::Pool(pool)) => Some(pool),
            _ => None,
        }
    }

    /// The providers that have several keys.
    pub fn pools(&self) -> impl Iterator<Item = (&str, &Arc<KeyPool>)> {
        let names = self.providers.keys().map(String::as_str);
        names.filter_map(|name| Some((name, self.pool(name)?)))
    }

    /// The hosts of upstreams that this conf says something about: not those of the built-in providers that it leaves alone.
    pub fn hosts(&self) -> BTreeSet<&str> {
        let default = [&self.default.provider, &self.default.upstream];
        let is_moved = |provider: &Provider| match (provider.place, &provider.base) {
            (Place::At(url), Some(base)) => !url.contains(&base.host),
            (Place::At(_) | Place::With(_) | Place::Own(_) | Place::Retired(_), _) => false,
        };
        let is_named = |provider: &&Arc<Provider>| {
            provider.is_redefined
                || provider.credential.is_some()
                || is_moved(provider)
                || default.contains(&&Some(provider.name.clone()))
        };
        let named = self.providers.values().filter(is_named);
        let bases = named.filter_map(|provider| provider.base.as_deref());
        let hosts = bases.map(|base| &*base.host);
        hosts.chain(self.front.hosts()).collect()
    }

    pub fn provider(&self, name: &str) -> Result<Arc<Provider>, Error> {
        self.check_provider(name)?;
        let unserved = || Error::unsupported("x-portkey-provider", name);
        self.providers.get(name).cloned().ok_or_else(unserved)
    }

    /// Whether a client may name the provider: Portkey's that have no completions are known, and lead nowhere.
    pub fn check_provider(&self, name: &str) -> Result<(), Error> {
        if self.providers.contains_key(name) || tree::is_elsewhere(name) {
            return Ok(());
        }
        Err(Error::invalid(
            "x-portkey-provider",
            "Invalid provider passed",
        ))
    }
}

impl Default for Config {
    /// The conf of a gateway that was started without one: loopback, all providers at their public URLs.
    fn default() -> Self {
        Self {
            listen: vec![DEFAULT_LISTEN.to_owned()],
            tls: BTreeMap::new(),
            admin: Some(DEFAULT_ADMIN.to_owned()),
            admin_token: None,
            default: Defaults {
                provider: Some(DEFAULT_PROVIDER.to_owned()),
                ..Defaults::default()
            },
            providers: ROWS
                .iter()
                .map(|row| (row.name.to_owned(), Arc::new(built_in(row))))
                .collect(),
            models: Models::default(),
            front: Front::default(),
            configs: BTreeMap::new(),
            routes: Rules::default(),
            keys: VirtualKeys::default(),
            has_pools: false,
            require_key: false,
            substitutes: Substitutes::default(),
            allowed_hosts: Vec::new(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            resilience: Resilience::default(),
            unsupported: Unsupported::default(),
            prompt_as: PromptAs::default(),
            emulator: None,
        }
    }
}

impl Limits {
    /// Those of a request's head.
    pub fn head(&self) -> head::Limits {
        head::Limits {
            bytes: self.header_bytes,
            fields: self.header_count,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 32 << 20,
            header_bytes: 64 << 10,
            header_count: 100,
            header: Duration::from_secs(10),
            request: Duration::from_secs(60),
            event_bytes: 1 << 20,
            calls: 1_024,
            concurrent_calls: 32,
            upstream_calls: 256,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            read: Duration::from_secs(120),
            write: Duration::from_secs(60),
            first_token: None,
            idle: None,
            heartbeat: Some(Duration::from_secs(15)),
            total: Duration::from_secs(600),
        }
    }
}

fn built_in(row: &'static Row) -> Provider {
    Provider {
        name: row.name.to_owned(),
        base: match row.place {
            // A test holds that every built-in URL is well formed.
            Place::At(url) => Base::try_new(url, "base_url").ok().map(Arc::new),
            Place::With(_) | Place::Own(_) | Place::Retired(_) => None,
        },
        place: &row.place,
        options: BTreeMap::new(),
        moved_to: None,
        dialect: row.dialect,
        is_redefined: false,
        auth: row.auth.clone(),
        scheme: row.scheme,
        credential: None,
        headers: Vec::new(),
        refuses: row.refuses.into(),
        prefill: row.prefill,
        prompt_as: None,
        default_model: None,
    }
}

/// Where an existing OpenAI app, which names no provider, goes.
const DEFAULT_PROVIDER: &str = "openai";
const DEFAULT_LISTEN: &str = "127.0.0.1:8787";
const DEFAULT_ADMIN: &str = "127.0.0.1:8789";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_those_that_the_conf_says_something_about() {
        let mut config = Config::default();
        assert_eq!(config.hosts(), BTreeSet::from(["api.openai.com"]));
        let moved = Base::try_new("http://models.example:8000/v1", "x").unwrap();
        let groq = config.providers.get_mut("groq").unwrap();
        Arc::make_mut(groq).base = Some(Arc::new(moved));
        let both = BTreeSet::from(["api.openai.com", "models.example"]);
        assert_eq!(config.hosts(), both);
    }
}
