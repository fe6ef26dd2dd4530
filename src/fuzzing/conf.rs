//! A conf's text; and the gateway of one conf, which the other targets ask.

use std::sync::LazyLock;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    check::{self, CONF_KEY},
    input::Input,
};
use crate::{
    config::{Config, ConfigError, Surroundings, source::Source},
    gateway::State,
    route::retry::retry_after,
};

/// A whole conf file, which may name secrets. No refusal tells one, and each names a line that there is.
pub fn conf(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    match read(text) {
        Ok(config) => {
            check::hides(format!("{config:?}").as_bytes(), CONF_KEY);
            assert!(State::try_new(config).is_ok());
        }
        Err(error) => {
            check::hides(error.to_string().as_bytes(), CONF_KEY);
            // YAML knows more line ends than Rust does.
            let ends = ['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'];
            assert!(error.line <= text.split(ends).count() + 1, "{error}");
            assert!(!error.message.is_empty(), "{error}");
        }
    }
}

fn read(text: &str) -> Result<Config, ConfigError> {
    Config::read(&Source {
        file: "conf.yaml",
        text,
        server_keys: &["threads".to_owned(), "version".to_owned()],
        surroundings: &Secrets,
        secret_file_mode: 0,
    })
}

/// Every variable and file holds the same.
struct Secrets;

impl Surroundings for Secrets {
    fn variable(&self, _: &str) -> Option<String> {
        Some(CONF_KEY.to_owned())
    }

    fn file(&self, _: &str) -> Result<String, String> {
        Ok(CONF_KEY.to_owned())
    }
}

/// The gateway whose conf is [`CONF`].
pub fn state() -> &'static State {
    static STATE: LazyLock<State> =
        LazyLock::new(|| check::made(State::try_new(check::made(read(CONF)))));
    &STATE
}

const CONF: &str = "
gateway:
  default: { provider: openai, model: m }
  providers:
    openai: { api_key: env:KEY }
    azure-openai: { api_key: env:KEY, options: { resource_name: my-resource } }
    my-vllm: { base_url: 'https://vllm.example/v1', dialect: openai, api_key: env:KEY, headers: { x-own: env:KEY } }
  upstreams:
    app: { url: 'http://app.example:3000/base', path: [/app, '/static/*.js'], host: '*.app.example' }
    chat: { provider: openai, path: /v1/chat/completions }
  models: { 'llama-*': { provider: my-vllm, model: tiny } }
  configs:
    spare:
      strategy: { mode: fallback }
      targets: [{ provider: openai }, { provider: my-vllm }]
  routes: [{ match: { model: 'tiny*' }, config: spare }]
  allowed_hosts: [api.client.example, '*.models.example', '127.0.0.1:9000']
";
/// The hosts of [`CONF`] that its key is for.
pub const KEYED: &[&str] = &[
    "api.openai.com",
    "my-resource.openai.azure.com",
    "vllm.example",
];

/// The headers by which an answer asks for a pause: never more than a day, and less the later it is read.
pub fn pause(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let names = ["retry-after", "retry-after-ms", "x-ms-retry-after-ms"];
    let Some(name) = input.pick(&names) else {
        return;
    };
    let now = u64::from(input.byte()) << 24;
    let mut headers = HeaderMap::new();
    for value in input.rest().split(|&byte| byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(HeaderName::from_static(name), value);
        }
    }
    let soon = retry_after(&headers, now);
    let later = retry_after(&headers, now.saturating_add(3600));
    assert!(soon.is_none_or(|wait| wait.as_secs() <= 24 * 60 * 60));
    assert!(later <= soon, "{soon:?}, later {later:?}");
}
