//! The conf file: a serde mirror of its YAML, and the way from there to a [`Config`].
//!
//! Pingora's `ServerConf` keys stand at the top of the same file; this module reads `gateway:` alone. An error names file,
//! line, path and what would be accepted. A secret is `env:NAME`, `file:PATH` or plain text; it is resolved here, once.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc, time::Duration};

use serde::Deserialize;

use crate::{
    completion::{Mark, PromptAs},
    config::{
        AllowedHost, Config, ConfigError, Emulator,
        admin::AdminFile,
        credentials::{self, KeyFile, KeysFile},
        front::{self, ListenFile, UpstreamFile},
        keys::{self, VirtualKeyFile},
        limits::{LimitsFile, TimeoutsFile},
        node::Node,
        prompt::PromptKeys,
        resilience::{HealthFile, RetriesFile},
        routes,
        source::Source,
        substitutes::{self, InfillFile},
        text::{AuthText, BaseText, DialectText, ModeText, ParameterText, Unique},
    },
    dialect::{openai::OPENAI, settle::Unsupported},
    provider::{Auth, Base, Provider, place::Place, scheme::Scheme},
    route::{ModelRule, Models},
};

impl Config {
    /// Reads and resolves a conf.
    pub fn read(source: &Source<'_>) -> Result<Self, ConfigError> {
        let file: File =
            serde_yaml::from_str(source.text).map_err(|error| source.syntax_error(&error))?;
        if let Some(key) = file
            .rest
            .keys()
            .find(|key| !source.server_keys.contains(key))
        {
            let known = "expected `gateway` or a key of Pingora's server conf, such as `threads`";
            return Err(source.error(&[key], format!("unknown key, {known}")));
        }
        let mut config = Self::default();
        let mode = file.gateway.secret_file_mode.as_ref();
        let source = Source {
            secret_file_mode: mode.map_or(source.secret_file_mode, |mode| mode.0),
            ..*source
        };
        file.gateway.apply(&source, &mut config)?;
        Ok(config)
    }
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    gateway: GatewayFile,
    #[serde(flatten)]
    rest: BTreeMap<String, serde::de::IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct GatewayFile {
    listen: Option<ListenFile>,
    admin: AdminFile,
    default: DefaultFile,
    providers: Unique<ProviderFile>,
    models: Unique<ModelFile>,
    upstreams: Unique<UpstreamFile>,
    configs: Unique<Node>,
    routes: Vec<Node>,
    virtual_keys: Unique<VirtualKeyFile>,
    require_key: Option<bool>,
    infill: Vec<InfillFile>,
    tokenizers: Unique<String>,
    allowed_hosts: Vec<AllowedHost>,
    limits: LimitsFile,
    timeouts: TimeoutsFile,
    health: HealthFile,
    retries: RetriesFile,
    unsupported: Unsupported,
    prompt_as: PromptAs,
    secret_file_mode: Option<ModeText>,
    emulator: Option<EmulatorFile>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct DefaultFile {
    provider: Option<String>,
    model: Option<String>,
    upstream: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ProviderFile {
    base_url: Option<BaseText>,
    dialect: Option<DialectText>,
    auth: Option<AuthText>,
    api_key: Option<String>,
    api_keys: Option<Vec<KeyFile>>,
    credentials: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    options: BTreeMap<String, String>,
    refuses: Option<Vec<ParameterText>>,
    prompt_as: Option<PromptAs>,
    prefill: Option<Mark>,
    default_model: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelFile {
    provider: String,
    model: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EmulatorFile {
    listen: String,
    /// Every provider's base URL becomes the emulator's, its path kept.
    #[serde(default)]
    all: bool,
    #[serde(default)]
    latency_ms: u64,
    #[serde(default = "default_tokens")]
    tokens: u32,
    #[serde(default)]
    tokens_per_second: u32,
}

fn default_tokens() -> u32 {
    16
}

impl GatewayFile {
    fn apply(self, source: &Source<'_>, config: &mut Config) -> Result<(), ConfigError> {
        if let Some(listen) = self.listen {
            listen.apply(source, config)?;
        }
        self.admin.apply(source, config)?;
        if config.listen.is_empty() {
            let message = "an address is needed".to_owned();
            return Err(source.error(&["gateway", "listen"], message));
        }
        for (name, provider) in self.providers.0 {
            let resolved = provider.resolve(&name, source, config)?;
            config.providers.insert(name, Arc::new(resolved));
        }
        config.allowed_hosts = self.allowed_hosts;
        config.substitutes = substitutes::read(self.infill, &self.tokenizers.0, source)?;
        self.limits.apply(&mut config.limits);
        self.timeouts.apply(&mut config.timeouts);
        self.health.apply(&mut config.resilience);
        self.retries.apply(&mut config.resilience);
        config.unsupported = self.unsupported;
        config.prompt_as = self.prompt_as;
        if let Some(emulator) = self.emulator {
            emulator.apply(source, config)?;
        }
        config.front = front::read(self.upstreams.0, source, config)?;
        apply_default(self.default, source, config)?;
        apply_models(self.models.0, source, config)?;
        routes::apply(self.configs.0, &self.routes, source, config)?;
        keys::apply(self.virtual_keys.0, self.require_key, source, config)?;
        let has_pools = config.pools().next().is_some();
        config.has_pools = has_pools;
        Ok(())
    }
}

impl ProviderFile {
    fn resolve(
        self,
        name: &str,
        source: &Source<'_>,
        config: &Config,
    ) -> Result<Provider, ConfigError> {
        let path = |key| ["gateway", "providers", name, key];
        let built_in = config.providers.get(name);
        let mut provider = match built_in {
            Some(provider) => Provider::clone(provider),
            None => declared(name),
        };
        if built_in.is_none() && self.base_url.is_none() {
            let message = format!("`{name}` is no built-in provider: `base_url` is needed");
            return Err(source.error(&path("base_url")[..3], message));
        }
        if !is_provider_name(name) {
            return Err(source.error(
                &path("")[..3],
                "a provider's name is of a-z, 0-9, `-`, `_` and `.`".to_owned(),
            ));
        }
        if let Some(dialect) = self.dialect {
            if dialect.0.name() != provider.dialect.name() {
                provider.refuses = Cow::Borrowed(&[]);
            }
            provider.dialect = dialect.0;
            provider.is_redefined = true;
        }
        if let Some(refuses) = self.refuses {
            provider.refuses = refuses.into_iter().map(|parameter| parameter.0).collect();
        }
        PromptKeys(self.prompt_as, self.prefill).apply(&mut provider, source)?;
        provider.base = self.base_url.map(|base| Arc::new(base.0)).or(provider.base);
        provider.auth = self.auth.map_or(provider.auth, |auth| auth.0);
        provider.default_model = self.default_model;
        check_options(&self.options, &provider, source)?;
        provider.options = self.options;
        let keys = match (self.api_key, self.api_keys) {
            (None, None) => KeysFile::None,
            (Some(key), None) => KeysFile::One(key),
            (None, Some(keys)) => KeysFile::Several(keys),
            (Some(_), Some(_)) => {
                let message = "`api_key` or `api_keys` is needed, not both".to_owned();
                return Err(source.error(&path("api_keys"), message));
            }
        };
        provider.credential = credentials::read(keys, &self.credentials, &provider, source)?;
        for (header, value) in &self.headers {
            provider
                .headers
                .push(source.header(&path("headers"), header, value)?);
        }
        Ok(provider)
    }
}

/// A provider that no row knows: OpenAI-shaped, unless the conf says more.
pub(super) fn declared(name: &str) -> Provider {
    Provider {
        name: name.to_owned(),
        base: None,
        place: &Place::Own("/v1"),
        options: BTreeMap::new(),
        moved_to: None,
        dialect: &OPENAI,
        is_redefined: true,
        auth: Auth::Bearer,
        scheme: Scheme::Key,
        credential: None,
        headers: Vec::new(),
        refuses: Cow::Borrowed(&[]),
        prefill: None,
        prompt_as: None,
        default_model: None,
    }
}

fn check_options(
    options: &BTreeMap<String, String>,
    provider: &Provider,
    source: &Source<'_>,
) -> Result<(), ConfigError> {
    let known: Vec<_> = provider.place.slots().map(|slot| slot.name).collect();
    let unknown = options.keys().find(|name| !known.contains(&name.as_str()));
    unknown.map_or(Ok(()), |name| {
        let path = ["gateway", "providers", &provider.name, "options", name];
        let known = known.join(", ");
        let message = format!("no option of this provider, which has: {known}");
        Err(source.error(&path, message))
    })
}

fn is_provider_name(name: &str) -> bool {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    !name.is_empty() && name.len() <= 64 && name.bytes().all(allowed)
}

impl EmulatorFile {
    fn apply(self, source: &Source<'_>, config: &mut Config) -> Result<(), ConfigError> {
        let path = ["gateway", "emulator", "listen"];
        source.check_address(&path, &self.listen)?;
        if self.all {
            let home = Base::try_new(&format!("http://{}/v1", self.listen), "listen")
                .map_err(|error| source.error(&path, error.message().to_owned()))?;
            for provider in config.providers.values_mut() {
                move_to(&home, Arc::make_mut(provider));
            }
        }
        config.emulator = Some(Emulator {
            listen: self.listen,
            latency: Duration::from_millis(self.latency_ms),
            tokens: self.tokens,
            rate: self.tokens_per_second,
        });
        Ok(())
    }
}

/// Puts a provider where the emulator is; its path stays. What has closed stays closed.
fn move_to(home: &Base, provider: &mut Provider) {
    provider.base = match (&provider.base, provider.place) {
        (Some(base), _) => Some(Arc::new(base.moved_to(home))),
        (None, Place::Own(path)) => Some(Arc::new(home.with_path(path))),
        (None, Place::At(_) | Place::With(_) | Place::Retired(_)) => None,
    };
    provider.moved_to = Some(Arc::new(home.clone()));
    for slot in provider.place.slots().filter(|slot| slot.is_needed()) {
        let option = provider.options.entry(slot.name.to_owned());
        option.or_insert_with(|| slot.example.to_owned());
    }
}

fn apply_default(
    file: DefaultFile,
    source: &Source<'_>,
    config: &mut Config,
) -> Result<(), ConfigError> {
    let named = file.provider.as_ref().filter(|name| *name != "none");
    for (key, name) in [("provider", named), ("upstream", file.upstream.as_ref())] {
        if let Some(name) = name {
            source.check_provider(&["gateway", "default", key], name, config)?;
        }
    }
    if file.provider.is_some() {
        config.default.provider = named.cloned();
    }
    config.default.model = file.model;
    config.default.upstream = file.upstream;
    Ok(())
}

fn apply_models(
    files: BTreeMap<String, ModelFile>,
    source: &Source<'_>,
    config: &mut Config,
) -> Result<(), ConfigError> {
    let mut rules = Vec::with_capacity(files.len());
    for (pattern, file) in files {
        source.check_provider(
            &["gateway", "models", &pattern, "provider"],
            &file.provider,
            config,
        )?;
        rules.push(ModelRule {
            pattern,
            provider: file.provider,
            model: file.model,
        });
    }
    config.models = Models::new(rules);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{completion::Parameter, config::Surroundings, provider::Credential};

    struct Nothing;

    impl Surroundings for Nothing {
        fn variable(&self, name: &str) -> Option<String> {
            (name == "KEY").then(|| "sk-env".to_owned())
        }

        fn file(&self, path: &str) -> Result<String, String> {
            if path == "/key" {
                Ok("sk-file\n".to_owned())
            } else {
                Err("no such file".to_owned())
            }
        }
    }

    fn read(text: &str) -> Result<Config, ConfigError> {
        Config::read(&Source {
            file: "conf.yaml",
            text,
            server_keys: &["version".to_owned(), "threads".to_owned()],
            surroundings: &Nothing,
            secret_file_mode: 0,
        })
    }

    #[test]
    fn an_empty_conf_is_the_default() {
        for text in ["", "version: 1\nthreads: 2\n", "gateway: {}\n"] {
            let config = read(text).unwrap();
            assert_eq!(config.listen, ["127.0.0.1:8787"], "{text:?}");
            assert!(config.providers.contains_key("openai"));
            assert!(config.emulator.is_none());
        }
    }

    #[test]
    fn a_provider_is_one_row_of_yaml() {
        let config = read(concat!(
            "gateway:\n  providers:\n    mine: { base_url: \"http://127.0.0.1:1/v1\", dialect: chat, auth: { header: x-key }, api_key: \"file:/key\" }\n",
            "    openai: { api_key: \"env:KEY\" }\n  models: { \"tiny*\": { provider: mine, model: t } }\n",
        ))
        .unwrap();
        let mine = &config.providers["mine"];
        assert_eq!(mine.dialect.name(), "chat");
        assert_eq!(mine.auth.title(), "header x-key");
        let key = |provider: &Provider| match provider.credential.as_ref() {
            Some(Credential::Key(key)) => key.expose().to_owned(),
            other => panic!("{other:?}"),
        };
        assert_eq!(key(mine), "sk-file");
        assert_eq!(key(&config.providers["openai"]), "sk-env");
        assert_eq!(
            config.models.find("tiny-1").unwrap().model.as_deref(),
            Some("t")
        );
    }

    #[test]
    fn what_a_provider_lacks_is_the_confs_to_say() {
        let config = read(concat!(
            "gateway:\n  providers:\n    vllm: { base_url: \"http://h/v1\", refuses: [] }\n",
            "    mine: { base_url: \"http://h/v1\", refuses: [suffix, \"prompt: token ids\"] }\n",
        ))
        .unwrap();
        let refuses = |name: &str| config.providers[name].refuses.clone();
        assert!(refuses("vllm").is_empty());
        assert_eq!(*refuses("mine"), [Parameter::Suffix, Parameter::TokenIds]);
        assert!(refuses("sglang").contains(&Parameter::Suffix));
    }

    #[test]
    fn how_prompts_are_put_is_said_for_all_and_for_each() {
        let config = read(concat!(
            "gateway:\n  prompt_as: continue\n  providers:\n    groq: { prompt_as: prefill }\n",
            "    openai: { prompt_as: prefill }\n    bedrock: { prompt_as: prefill }\n",
            "    deepseek: { dialect: chat, prompt_as: prefill }\n",
            "    mine: { base_url: \"http://a/v1\", dialect: chat, prefill: continue_final_message, prompt_as: message }\n",
        ))
        .unwrap();
        assert_eq!(config.prompt_as, PromptAs::Continue);
        for (name, way, mark) in [
            ("groq", Some(PromptAs::Prefill), Some(Mark::Role)),
            ("openai", Some(PromptAs::Prefill), None),
            ("bedrock", Some(PromptAs::Prefill), None),
            ("deepseek", Some(PromptAs::Prefill), Some(Mark::Prefix)),
            (
                "mine",
                Some(PromptAs::Message),
                Some(Mark::ContinueFinalMessage),
            ),
            ("moonshot", None, Some(Mark::Partial)),
        ] {
            let provider = &config.providers[name];
            assert_eq!(
                (provider.prompt_as, provider.prefill),
                (way, mark),
                "{name}"
            );
        }
    }

    #[test]
    fn the_emulator_takes_every_providers_place_and_keeps_its_path() {
        let config = read("gateway: { emulator: { listen: \"127.0.0.1:9\", all: true } }").unwrap();
        assert_eq!(
            config.providers["groq"].base.as_ref().unwrap().to_string(),
            "http://127.0.0.1:9/openai/v1"
        );
        assert!(
            config
                .providers
                .values()
                .filter_map(|provider| provider.locate("m", &|_| Ok(None)).ok())
                .all(|filled| filled.base.port == 9)
        );
    }

    #[test]
    fn errors_name_file_line_path_and_what_is_accepted() {
        let cases = [
            (
                "gateway:\n  listn: x\n",
                2,
                "gateway.listn",
                "unknown field `listn`",
            ),
            ("gatway: {}\n", 1, "gatway", "unknown key"),
            (
                "gateway:\n  listen: []\n",
                2,
                "gateway.listen",
                "an address is needed",
            ),
            (
                "gateway:\n  listen: \"::1:8787\"\n",
                2,
                "gateway.listen",
                "is not host:port",
            ),
            (
                "gateway:\n  providers:\n    openai: {}\n    openai: {}\n",
                3,
                "gateway.providers.openai",
                "named twice",
            ),
            (
                "gateway:\n  providers:\n    openai:\n      headers: { content-length: \"5\" }\n",
                4,
                "gateway.providers.openai.headers",
                "set by the gateway",
            ),
            (
                "gateway:\n  listen: here\n",
                2,
                "gateway.listen",
                "is not host:port",
            ),
            (
                "gateway:\n  providers:\n    openai:\n      dialect: morse\n",
                4,
                "gateway.providers.openai.dialect",
                "expected one of openai, chat",
            ),
            (
                "gateway:\n  providers:\n    openai:\n      refuses: [sufix]\n",
                4,
                "gateway.providers.openai.refuses",
                "expected one of prompt: list",
            ),
            (
                "gateway:\n  prompt_as: prefil\n",
                2,
                "gateway.prompt_as",
                "expected one of `message`, `continue`, `prefill`",
            ),
            (
                "gateway:\n  providers:\n    openai: {}\n    cohere:\n      prompt_as: prefill\n",
                5,
                "gateway.providers.cohere.prompt_as",
                "expected `message` or `continue`",
            ),
            (
                "gateway:\n  providers:\n    groq:\n      dialect: gemini\n      prompt_as: prefill\n",
                5,
                "gateway.providers.groq.prompt_as",
                "documents no way",
            ),
            (
                "gateway:\n  providers:\n    vllm:\n      prefill: role\n",
                4,
                "gateway.providers.vllm.prefill",
                "the dialect `openai` has no such way",
            ),
            (
                "gateway:\n  providers:\n    groq:\n      prefill: vllm\n",
                4,
                "gateway.providers.groq.prefill",
                "expected one of `role`, `prefix`",
            ),
            (
                "gateway:\n  providers:\n    mine:\n      dialect: chat\n",
                3,
                "gateway.providers.mine",
                "`base_url` is needed",
            ),
            (
                "gateway:\n  providers:\n    mine:\n      base_url: ftp://x\n",
                4,
                "gateway.providers.mine.base_url",
                "neither http nor https",
            ),
            (
                "gateway:\n  providers:\n    openai:\n      api_key: env:NOPE\n",
                4,
                "gateway.providers.openai.api_key",
                "no variable `NOPE`",
            ),
            (
                "gateway:\n  providers:\n    azure-openai:\n      options:\n        region: x\n",
                5,
                "gateway.providers.azure-openai.options.region",
                "resource_name",
            ),
            (
                "gateway:\n  timeouts:\n    read: 5\n",
                3,
                "gateway.timeouts.read",
                "not a time",
            ),
            (
                "gateway:\n  timeouts:\n    idle: 18446744073709551615s\n",
                3,
                "gateway.timeouts.idle",
                "longer than a year",
            ),
            (
                "gateway:\n  default:\n    provider: opnai\n",
                3,
                "gateway.default.provider",
                "openai",
            ),
            (
                "gateway:\n  models:\n    m:\n      provider: x\n",
                4,
                "gateway.models.m.provider",
                "unknown provider",
            ),
        ];
        for (text, line, path, part) in cases {
            let error = read(text).expect_err(text);
            assert_eq!((error.line, &*error.path), (line, path), "{error}");
            assert!(error.message.contains(part), "{error}");
            assert!(error.to_string().starts_with("conf.yaml:"), "{error}");
        }
    }
}
