//! What a request becomes: an answer of our own, a passage to an upstream, or an exchange. Shared by every carrier; no IO.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::{
    completion::{CompletionRequest, Shape, fields},
    config::{
        Config,
        headers::Directives,
        host::{custom_base, reach},
        word::Word,
    },
    dialect::settle::{self, Settled, settle},
    error::{Error, Kind},
    exchange::{Deadlines, Seed, Terms, Work, fan_out::FanOutLimits, split::split},
    front::{Came, Way},
    health::Health,
    keys::{Identity, VirtualKey, unidentified},
    metrics::Metrics,
    passage::{Passage, passed_path},
    provider::{Base, Provider, Reach, Target, target::Choice},
    route::{
        leaf::Leaf,
        plan::{Choose, Facts, Plan, Traits, no_target, plan},
    },
};

/// The state that all requests share.
#[derive(Debug)]
pub struct State {
    pub config: Config,
    pub metrics: Arc<Metrics>,
    pub health: Arc<Health>,
}

/// A request's head.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    pub method: &'a Method,
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
}

/// What a request's head decides.
#[derive(Debug)]
pub enum Admission {
    /// Answered here.
    Answer(&'static str),
    /// Carried to an upstream as it is.
    Pass(Box<Passage>),
    /// `POST /v1/completions`, or `/v1/fim/completions`: its body decides the rest.
    Complete(Box<Directives>),
}

/// What an admitted completion takes, and what of it is not its provider's doing.
#[derive(Debug)]
pub struct Completing {
    pub work: Work,
    pub settled: Settled,
}

impl State {
    pub fn try_new(config: Config) -> Result<Self, Error> {
        let metrics = Metrics::try_new()
            .map_err(|_| Error::new(Kind::Internal, "The metrics could not be set up."))?;
        Ok(Self {
            config,
            metrics: Arc::new(metrics),
            health: Arc::default(),
        })
    }

    /// What was counted and learned so far, under another conf.
    pub fn under(&self, config: Config) -> Self {
        config.adopt_keys(&self.config);
        Self {
            config,
            metrics: self.metrics.clone(),
            health: self.health.clone(),
        }
    }

    /// Who asks, where that matters: not for what the gateway says of itself, nor for apps that see to it themselves. `now`:
    /// Unix seconds.
    pub fn identify(
        &self,
        head: Head<'_>,
        came: Came<'_>,
        now: u64,
    ) -> Result<Option<Identity>, Error> {
        let fronted = match asked(head.method, head.path) {
            Some(_) => None,
            None => self.config.front.find(came, head.path)?,
        };
        let required = match fronted {
            Some((Way::App(app), _)) if !app.requires_key => return Ok(None),
            Some((Way::App(_), _)) => true,
            None if self.own_answer(head).is_some() => return Ok(None),
            Some((Way::Provider(_), _)) | None => self.config.require_key,
        };
        match self.config.keys.identify(head.headers, now)? {
            None if required => Err(unidentified(head.headers)),
            identity => Ok(identity),
        }
    }

    /// The passage of a request whose upstream the conf has a rule for. Completions never are: they are what the gateway
    /// stands in front for.
    pub fn front(
        &self,
        head: Head<'_>,
        came: Came<'_>,
        client: Option<&Arc<VirtualKey>>,
    ) -> Result<Option<Passage>, Error> {
        if asked(head.method, head.path).is_some() {
            return Ok(None);
        }
        match self.config.front.find(came, head.path)? {
            Some((Way::App(app), path)) => {
                let passage = Passage::to_app(app, path, head.query, head.headers);
                Ok(Some(passage))
            }
            Some((Way::Provider(name), _)) => self.pass(head, Some(name), client).map(Some),
            None => Ok(None),
        }
    }

    pub fn admit(
        &self,
        head: Head<'_>,
        client: Option<&Arc<VirtualKey>>,
    ) -> Result<Admission, Error> {
        if let Some(shape) = asked(head.method, head.path) {
            check_content_type(head.headers)?;
            check_coding(head.headers)?;
            let directives = Directives::read(head.headers, &self.config)?.of(client)?;
            let directives = Directives {
                shape,
                ..directives
            };
            return Ok(Admission::Complete(Box::new(directives)));
        }
        match self.own_answer(head) {
            Some(text) => Ok(Admission::Answer(text)),
            None => {
                let passage = self.pass(head, None, client)?;
                Ok(Admission::Pass(Box::new(passage)))
            }
        }
    }

    /// What the gateway says of itself, where no app stands behind that would.
    fn own_answer(&self, head: Head<'_>) -> Option<&'static str> {
        let own = match (head.method, head.path) {
            (&Method::GET | &Method::HEAD, "/") => {
                Some("pingora-completions: POST /v1/completions\n")
            }
            (&Method::GET | &Method::HEAD, "/health") => Some("ok\n"),
            _ => None,
        };
        own.filter(|_| self.config.default.upstream.is_none())
    }

    /// The targets of an admitted completion, in the order in which they are tried.
    pub fn plan(
        &self,
        directives: &Directives,
        head: Head<'_>,
        body: &[u8],
        choose: Choose<'_>,
    ) -> Result<Plan, Error> {
        let by_rule = directives.provider.is_none() && !self.config.routes.is_empty();
        if directives.route.is_none() && !by_rule {
            return Ok(Plan::plain());
        }
        let params = fields::read(body)?;
        let mut facts = Facts {
            metadata: &directives.metadata,
            params: &params,
            path: head.path,
            headers: head.headers,
            traits: Traits::default(),
        };
        let ruled = || self.config.routes.find(&facts);
        let Some(route) = directives.route.as_ref().or_else(ruled) else {
            return Ok(Plan::plain());
        };
        self.config.check_targets(directives, route, &facts)?;
        facts.traits = directives.traits(&facts);
        plan(route, &facts, choose)
    }

    /// Decides what a completion takes at one target of its plan.
    pub fn complete(
        &self,
        directives: &Directives,
        leaf: &Leaf,
        headers: &HeaderMap,
        body: Bytes,
        seed: Seed,
    ) -> Result<Completing, Error> {
        let word = Word {
            directives,
            leaf,
            headers,
        };
        let read = match directives.shape {
            Shape::Text => CompletionRequest::read_with,
            Shape::Fim => CompletionRequest::read_fim,
        };
        let mut request = read(body, &leaf.overrides)?;
        let mut provider = self.config.choose(word, &mut request)?;
        if word.custom_host().is_none() {
            provider = provider.at(&|slot| word.option(slot))?;
        }
        let provider = provider.speaking_for(&request);
        let policy = settle::Terms {
            dialect: provider.dialect,
            refused: &provider.refuses,
            provider: &provider.name,
            unsupported: word.unsupported().unwrap_or(self.config.unsupported),
            prompt_as: self.config.prompt_as(word.prompt_as(), &provider),
            prefill: provider.prefill,
        };
        let substituted = self.config.substitutes.apply(&mut request, policy)?;
        let mut settled = settle(&mut request, policy)?;
        settled.emulated.extend(substituted);
        let limits = &self.config.limits;
        let terms = Terms {
            compliance: word.compliance(),
            deadlines: self.deadlines(word),
            forwarded: word.forwarded(&provider),
            max_event_bytes: limits.event_bytes,
            fan_out: FanOutLimits {
                concurrent_calls: limits.concurrent_calls,
                bytes: limits.body_bytes.saturating_mul(BODIES),
            },
            best: settled.best,
        };
        let target = self.target(provider, request.model(), word)?;
        let shares = split(request, &settled, limits.calls)?;
        let work = Work::try_new(shares, target, terms, seed)?;
        Ok(Completing { work, settled })
    }

    fn deadlines(&self, word: Word<'_>) -> Deadlines {
        let conf = &self.config.timeouts;
        let asked = word.directives.asked.within(conf);
        Deadlines {
            connect: asked.connect,
            first_token: asked.first_token,
            idle: asked.idle,
            call: word.timeout(),
            total: asked.total,
            heartbeat: conf.heartbeat,
        }
    }

    fn target(
        &self,
        provider: Arc<Provider>,
        model: &str,
        word: Word<'_>,
    ) -> Result<Target, Error> {
        let custom = word.custom_host();
        let custom = custom.map(|url| custom_base(url, &self.config.allowed_hosts));
        let choice = Choice {
            custom: custom.transpose()?,
            credential: word.credential(&provider)?,
            held: word.held(&provider),
            model,
            option: &|slot| word.option(slot),
        };
        let mut target = Target::try_new(provider, choice)?;
        // A customer's place at a vendor's, which a client named and the conf trusts with more than public addresses.
        if target.base.reach == Reach::Public
            && let Some(reach) = reach(&target.base, &self.config.allowed_hosts)
        {
            target.base = Arc::new(Base::clone(&target.base).within(reach));
        }
        word.check_key(&target)?;
        Ok(target)
    }

    /// `named`: the provider that the conf names for such a request.
    fn pass(
        &self,
        head: Head<'_>,
        named: Option<&String>,
        client: Option<&Arc<VirtualKey>>,
    ) -> Result<Passage, Error> {
        let directives = Directives::read(head.headers, &self.config)?;
        // No body is read here, so that neither its fields nor a place which the model names count on this way.
        let plan = match &directives.route {
            Some(_) => self.plan(&directives, head, b"{}", &mut |_, _| 0)?,
            None => Plan::plain(),
        };
        let attempt = plan.first().ok_or_else(no_target)?;
        // Of a config, the one target that is called: what the others may be is not asked.
        let directives = directives.of(client)?;
        let word = Word {
            directives: &directives,
            leaf: &attempt.leaf,
            headers: head.headers,
        };
        let named = named.or(self.config.default.upstream.as_ref());
        let provider = match (word.provider(), named) {
            (None, Some(name)) => self.config.provider(name)?,
            (Some(_), _) | (None, None) => self.config.named(word)?,
        };
        if let Some(key) = client {
            key.check_passage(head.method, head.path)?;
            word.check_allowed(&provider, None)?;
        }
        let target = self.target(provider, "", word)?;
        let waits = target.grant().is_some() || target.pool().is_some();
        let headers = match waits {
            false => target.headers()?,
            true => Vec::new(),
        };
        Ok(Passage {
            path: target.with_query(passed_path(&target.base, head.path, head.query)),
            headers,
            target,
            body: None,
            app: None,
            upgrade: None,
        })
    }
}

/// The endpoint of completions that a request is for.
pub fn asked(method: &Method, path: &str) -> Option<Shape> {
    match path {
        _ if method != Method::POST => None,
        COMPLETIONS => Some(Shape::Text),
        FIM_COMPLETIONS => Some(Shape::Fim),
        _ => None,
    }
}

/// No `content-type` counts as JSON, as for Portkey.
fn check_content_type(headers: &HeaderMap) -> Result<(), Error> {
    let Some(value) = headers.get(http::header::CONTENT_TYPE) else {
        return Ok(());
    };
    let media = value
        .to_str()
        .ok()
        .and_then(|value| value.split(';').next())
        .map(str::trim);
    match media {
        Some(media) if media.eq_ignore_ascii_case("application/json") => Ok(()),
        _ => Err(Error::invalid(
            "content-type",
            "Invalid content type passed: it must be application/json.",
        )),
    }
}

/// Few bytes can stand for very many.
fn check_coding(headers: &HeaderMap) -> Result<(), Error> {
    let coding = headers.get(http::header::CONTENT_ENCODING);
    let plain = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"identity");
    if coding.is_none_or(plain) {
        return Ok(());
    }
    let kind = Kind::Unserved(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let message = "Compressed requests are not read: the body must come as it is.";
    Err(Error::new(kind, message).with_param("content-encoding"))
}

/// The path that this gateway exists for.
pub const COMPLETIONS: &str = "/v1/completions";
/// How much larger than a client's body the bodies of its calls may be together: each repeats what is not the prompt.
const BODIES: usize = 4;
/// Mistral's, for the same question.
pub const FIM_COMPLETIONS: &str = "/v1/fim/completions";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::{Base, Credential, Secret, azure, grant::Token, oci};
    use crate::{config::headers, dialect, exchange::Exchange};

    fn state(change: impl FnOnce(&mut Config)) -> State {
        let mut config = Config::default();
        change(&mut config);
        State::try_new(config).unwrap()
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn complete(
        state: &State,
        pairs: &[(&'static str, &str)],
        body: &str,
    ) -> Result<Exchange, Error> {
        let headers = headers(pairs);
        let head = Head {
            method: &Method::POST,
            path: COMPLETIONS,
            query: None,
            headers: &headers,
        };
        match state.admit(head, None)? {
            Admission::Complete(directives) => {
                let body = Bytes::copy_from_slice(body.as_bytes());
                let plan = state.plan(&directives, head, &body, &mut |_, _| 0)?;
                let leaf = &plan.first().unwrap().leaf;
                let seed = Seed { now: 1, draw: 1 };
                match state
                    .complete(&directives, leaf, &headers, body, seed)?
                    .work
                {
                    Work::One(exchange) => Ok(*exchange),
                    Work::Many(_) => panic!("one call"),
                }
            }
            other => panic!("{other:?}"),
        }
    }

    fn upstream_path_of(
        state: &State,
        method: Method,
        path: &str,
        pairs: &[(&'static str, &str)],
    ) -> String {
        let headers = headers(pairs);
        match state
            .admit(
                Head {
                    method: &method,
                    path,
                    query: Some("a=b"),
                    headers: &headers,
                },
                None,
            )
            .unwrap()
        {
            Admission::Pass(passage) => {
                format!("{}{}", passage.target.base.authority(), passage.path)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_provider_is_the_first_that_applies() {
        let state = state(|config| {
            config.default.provider = Some("openai".into());
            config.default.model = Some("base".into());
            config.models = crate::route::Models::new(vec![crate::route::ModelRule {
                pattern: "llama*".into(),
                provider: "groq".into(),
                model: Some("llama-3".into()),
            }]);
        });
        let chosen = |pairs: &[(&'static str, &str)], body: &str| {
            let exchange = complete(&state, pairs, body).unwrap();
            let report = exchange.report();
            (
                exchange.target().provider.name.clone(),
                report.model.to_owned(),
            )
        };
        let llama = r#"{"model":"llama","prompt":"x"}"#;
        let config = (headers::CONFIG, r#"{"provider":"groq"}"#);
        let openai = (headers::PROVIDER, "openai");
        assert_eq!(
            chosen(&[config, openai], llama),
            ("groq".into(), "llama".into())
        );
        assert_eq!(chosen(&[openai], llama), ("openai".into(), "llama".into()));
        assert_eq!(chosen(&[], llama), ("groq".into(), "llama-3".into()));
        assert_eq!(
            chosen(&[], r#"{"model":"x","prompt":"x"}"#),
            ("openai".into(), "x".into())
        );
        for missing in [
            r#"{"prompt":"x"}"#,
            r#"{"model":"portkey-default","prompt":"x"}"#,
            r#"{"model":"","prompt":"x"}"#,
        ] {
            assert_eq!(chosen(&[], missing), ("openai".into(), "base".into()));
        }
        let error =
            complete(&state, &[(headers::PROVIDER, "groq")], r#"{"prompt":"x"}"#).unwrap_err();
        assert_eq!(error.param(), Some("model"));
    }

    #[test]
    fn the_model_settles_the_dialect_where_one_address_has_several() {
        let state = state(|config| {
            let openai = Arc::make_mut(config.providers.get_mut("openai").unwrap());
            openai.dialect = &dialect::vertex::VERTEX;
        });
        let complete = |model: &str| {
            let body = format!(r#"{{"model":"{model}","prompt":"x","seed":1}}"#);
            complete(&state, &[(headers::PROVIDER, "openai")], &body)
        };
        assert!(complete("gemini-2.5-flash").is_ok());
        let error = complete("anthropic.claude-sonnet-4").unwrap_err();
        assert_eq!(error.param(), Some("seed"));
    }

    #[test]
    fn no_provider_at_all_is_a_400() {
        let state = state(|config| config.default.provider = None);
        let body = r#"{"model":"m","prompt":"x"}"#;
        assert_eq!(complete(&state, &[], body).unwrap_err().status(), 400);
        let error = complete(&state, &[(headers::PROVIDER, "OpenAI")], body).unwrap_err();
        assert_eq!(error.param(), Some(headers::PROVIDER));
    }

    #[test]
    fn a_passage_waits_for_its_token_or_its_signature() {
        let pass = |credential| {
            let state = state(|config| {
                let openai = Arc::make_mut(config.providers.get_mut("openai").unwrap());
                openai.credential = Some(credential);
            });
            let head = Head {
                method: &Method::GET,
                path: "/v1/models",
                query: None,
                headers: &HeaderMap::new(),
            };
            state.pass(head, None, None)
        };
        let identity = azure::Identity::managed(None).unwrap();
        let mut passage = pass(Credential::Azure(Arc::new(identity))).unwrap();
        assert!(passage.headers.is_empty() && passage.replaces_credentials());
        let token = Secret::try_new("t-1").map(Token::Bearer);
        passage.settle(token.unwrap()).unwrap();
        let sent: HeaderMap = passage.headers.into_iter().collect();
        assert_eq!(sent["authorization"], "Bearer t-1");
        let key = Secret::try_new(include_str!("../tests/fixtures/credentials/rsa.pem"));
        let signer = oci::Signer::try_new("t", "u", "f", &key.unwrap()).unwrap();
        let mut passage = pass(Credential::Oci(Arc::new(signer))).unwrap();
        assert!(passage.target.signs() && passage.replaces_credentials());
        passage.body = Some(Bytes::from_static(b"{}"));
        let sent: HeaderMap = passage.headers.iter().cloned().collect();
        let signed = passage.sign(&Method::GET, &sent, 1).unwrap();
        assert!(signed.iter().any(|(name, _)| name == "authorization"));
    }

    #[test]
    fn a_key_of_the_conf_never_goes_to_a_host_of_the_client() {
        let state = state(|config| {
            let openai = Arc::make_mut(config.providers.get_mut("openai").unwrap());
            openai.credential = Secret::try_new("sk-conf").map(Credential::Key);
            config.allowed_hosts =
                vec![crate::config::AllowedHost::try_new("other.example").unwrap()];
        });
        let body = r#"{"model":"m","prompt":"x"}"#;
        let key = |pairs: &[(&'static str, &str)]| {
            let exchange = complete(&state, pairs, body).unwrap();
            match &exchange.target().credential {
                Some(Credential::Key(key)) => Some(key.expose().to_owned()),
                Some(other) => panic!("{other:?}"),
                None => None,
            }
        };
        let openai = (headers::PROVIDER, "openai");
        let host = (headers::CUSTOM_HOST, "https://other.example/v1");
        assert_eq!(key(&[openai]).as_deref(), Some("sk-conf"));
        assert_eq!(
            key(&[openai, ("authorization", "sk-mine")]).as_deref(),
            Some("sk-mine")
        );
        assert_eq!(key(&[openai, host]), None);
        assert_eq!(
            key(&[openai, host, ("authorization", "Bearer sk-mine")]).as_deref(),
            Some("sk-mine")
        );
    }

    #[test]
    fn a_key_of_the_conf_goes_to_the_confs_own_resource_alone() {
        let state = state(|config| {
            let azure = Arc::make_mut(config.providers.get_mut("azure-openai").unwrap());
            azure.credential = Secret::try_new("sk-conf").map(Credential::Key);
            azure.options = [("resource_name".to_owned(), "mine".to_owned())].into();
        });
        let call = |pairs: &[(&'static str, &str)]| {
            let pairs = [pairs, &[(headers::PROVIDER, "azure-openai")]].concat();
            let exchange = complete(&state, &pairs, r#"{"model":"gpt","prompt":"x"}"#).unwrap();
            let target = exchange.target();
            let key = match &target.credential {
                Some(Credential::Key(key)) => Some(key.expose().to_owned()),
                _ => None,
            };
            (target.base.host.clone(), exchange.path(), key)
        };
        let path = "/openai/deployments/gpt/completions?api-version=2024-10-21".to_owned();
        let own = "mine.openai.azure.com".to_owned();
        assert_eq!(
            call(&[]),
            (own.clone(), path.clone(), Some("sk-conf".into()))
        );
        let other = ("x-portkey-azure-resource-name", "theirs");
        assert_eq!(
            call(&[other]),
            ("theirs.openai.azure.com".into(), path, None)
        );
        let v1 = ("x-portkey-azure-api-version", "v1");
        let path = "/openai/v1/completions".to_owned();
        assert_eq!(call(&[v1]), (own, path, Some("sk-conf".into())));
        let config = r#"{"provider":"azure-openai","resource_name":"theirs","api_key":"k"}"#;
        let (host, _, key) = call(&[(headers::CONFIG, config)]);
        assert_eq!(
            (&*host, key.as_deref()),
            ("theirs.openai.azure.com", Some("k"))
        );
    }

    #[test]
    fn a_key_of_the_conf_goes_to_no_whole_url_of_a_client() {
        let call = |name: &'static str, option: (&str, &str), pairs: &[(&'static str, &str)]| {
            let state = state(|config| {
                let provider = Arc::make_mut(config.providers.get_mut(name).unwrap());
                provider.credential = Secret::try_new("sk-conf").map(Credential::Key);
                provider.options = [(option.0.to_owned(), option.1.to_owned())].into();
            });
            let pairs = [pairs, &[(headers::PROVIDER, name)]].concat();
            let exchange = complete(&state, &pairs, r#"{"model":"m","prompt":"x"}"#).unwrap();
            let target = exchange.target();
            (target.base.host.clone(), target.credential.is_some())
        };
        let own = (
            "huggingface_base_url",
            "https://own.aws.endpoints.huggingface.cloud",
        );
        let theirs = (
            "x-portkey-huggingface-base-url",
            "https://theirs.aws.endpoints.huggingface.cloud",
        );
        for name in ["huggingface", "huggingface-tgi"] {
            let (host, keyed) = call(name, own, &[]);
            assert_eq!(
                (&*host, keyed),
                ("own.aws.endpoints.huggingface.cloud", true)
            );
            let (host, keyed) = call(name, own, &[theirs]);
            assert_eq!(
                (&*host, keyed),
                ("theirs.aws.endpoints.huggingface.cloud", false)
            );
        }
        let own = (
            "azure_foundry_url",
            "https://own.services.ai.azure.com/models",
        );
        let theirs = ("x-portkey-azure-resource-name", "theirs");
        assert_eq!(
            call("azure-ai", own, &[]),
            ("own.services.ai.azure.com".into(), true)
        );
        let other = ("theirs.services.ai.azure.com".into(), false);
        assert_eq!(call("azure-ai", own, &[theirs]), other);
    }

    /// Where a call goes, and in which form.
    fn route(pairs: &[(&'static str, &str)], body: &str) -> Result<(String, String), Error> {
        let exchange = complete(&state(|_| {}), pairs, body)?;
        let target = exchange.target();
        let sent_as = target.provider.dialect.prompt_form().as_str();
        let url = format!("{}{}", target.base.authority(), exchange.path());
        Ok((url, sent_as.to_owned()))
    }

    #[test]
    fn an_address_of_its_own_may_have_an_api_of_its_own() {
        let hf = "https://x.us-east-1.aws.endpoints.huggingface.cloud";
        let endpoint = ("x-portkey-huggingface-base-url", hf);
        let fim = ("x-portkey-mistral-fim-completion", "true");
        let foundry = (
            "x-portkey-azure-foundry-url",
            "https://x.eastus2.models.ai.azure.com",
        );
        let claude = (
            "x-portkey-azure-foundry-url",
            "https://x.services.ai.azure.com/anthropic/",
        );
        let (plain, suffix) = (
            r#"{"model":"m","prompt":"x"}"#,
            r#"{"model":"m","prompt":"x","suffix":"y"}"#,
        );
        for (provider, header, body, url, sent_as) in [
            (
                "huggingface",
                None,
                plain,
                "router.huggingface.co/v1/chat/completions",
                "chat",
            ),
            (
                "huggingface",
                Some(endpoint),
                plain,
                "x.us-east-1.aws.endpoints.huggingface.cloud/v1/completions",
                "text",
            ),
            (
                "huggingface-tgi",
                Some(endpoint),
                plain,
                "x.us-east-1.aws.endpoints.huggingface.cloud/generate",
                "text",
            ),
            (
                "mistral-ai",
                None,
                plain,
                "api.mistral.ai/v1/chat/completions",
                "chat",
            ),
            (
                "mistral-ai",
                None,
                suffix,
                "api.mistral.ai/v1/fim/completions",
                "text",
            ),
            (
                "mistral-ai",
                Some(fim),
                plain,
                "api.mistral.ai/v1/fim/completions",
                "text",
            ),
            (
                "azure-ai",
                Some(foundry),
                plain,
                "x.eastus2.models.ai.azure.com/chat/completions",
                "chat",
            ),
            (
                "azure-ai",
                Some(claude),
                plain,
                "x.services.ai.azure.com/anthropic/v1/messages",
                "chat",
            ),
            (
                "sagemaker",
                None,
                plain,
                "runtime.sagemaker.us-east-1.amazonaws.com/endpoints/m/invocations",
                "text",
            ),
        ] {
            let mut pairs = vec![(headers::PROVIDER, provider)];
            pairs.extend(header);
            let (to, form) = route(&pairs, body).unwrap();
            assert_eq!((&*to, &*form), (url, sent_as), "{provider}");
        }
    }

    #[test]
    fn what_an_address_lacks_is_refused_there_alone() {
        let hf = "https://x.us-east-1.aws.endpoints.huggingface.cloud";
        let endpoint = ("x-portkey-huggingface-base-url", hf);
        let penalized = r#"{"model":"m","prompt":"x","presence_penalty":1}"#;
        let router = (headers::PROVIDER, "huggingface");
        assert!(route(&[router], penalized).is_ok());
        assert_eq!(
            route(&[router, endpoint], penalized).unwrap_err().param(),
            Some("presence_penalty")
        );
        let counted =
            r#"{"model":"m","prompt":"x","stream":true,"stream_options":{"include_usage":true}}"#;
        let azure = [
            (headers::PROVIDER, "azure-openai"),
            ("x-portkey-azure-resource-name", "r"),
        ];
        let path = "r.openai.azure.com/openai";
        for (version, url) in [
            (
                "2024-10-21",
                Some("/deployments/m/completions?api-version=2024-10-21"),
            ),
            (
                "2024-09-01-preview",
                Some("/deployments/m/completions?api-version=2024-09-01-preview"),
            ),
            ("2024-08-01-preview", None),
            ("v1", Some("/v1/completions")),
            ("preview", Some("/v1/completions?api-version=preview")),
        ] {
            let version = ("x-portkey-azure-api-version", version);
            let routed = route(&[&azure[..], &[version]].concat(), counted);
            match url {
                Some(url) => assert_eq!(routed.unwrap().0, format!("{path}{url}")),
                None => assert_eq!(routed.unwrap_err().param(), Some("stream_options")),
            }
        }
        let deployment = ("x-portkey-azure-deployment-id", "d");
        let v1 = ("x-portkey-azure-api-version", "v1");
        let error = route(&[&azure[..], &[deployment, v1]].concat(), penalized).unwrap_err();
        assert_eq!(error.param(), Some("x-portkey-azure-deployment-id"));
    }

    #[test]
    fn a_confs_dialect_stays_at_an_address_of_its_own() {
        let state = state(|config| {
            let provider = Arc::make_mut(config.providers.get_mut("huggingface").unwrap());
            provider.dialect = &dialect::chat::CHAT;
            provider.is_redefined = true;
            let hf = "https://x.us-east-1.aws.endpoints.huggingface.cloud/v1";
            provider.options = [("huggingface_base_url".to_owned(), hf.to_owned())].into();
        });
        let pairs = [(headers::PROVIDER, "huggingface")];
        let exchange = complete(&state, &pairs, r#"{"model":"m","prompt":"x"}"#).unwrap();
        assert_eq!(exchange.path(), "/v1/chat/completions");
    }

    #[test]
    fn slots_of_headers_are_sent_wherever_the_call_goes() {
        let state = state(|config| {
            let provider = Arc::make_mut(config.providers.get_mut("sagemaker-openai").unwrap());
            let base = Base::try_new("https://vpce-1.example/endpoints/demo", "base_url").unwrap();
            provider.base = Some(Arc::new(base));
            let variant = ("amzn_sagemaker_target_variant", "blue");
            provider.options = [(variant.0.to_owned(), variant.1.to_owned())].into();
        });
        let pairs = [
            (headers::PROVIDER, "sagemaker-openai"),
            ("x-portkey-amzn-sagemaker-inference-component", "lora-1"),
            (
                "x-portkey-amzn-sagemaker-custom-attributes",
                "c000b4f9/df62",
            ),
        ];
        let exchange = complete(&state, &pairs, r#"{"model":"m","prompt":"x"}"#).unwrap();
        assert_eq!(exchange.path(), "/endpoints/demo/invocations");
        let sent = exchange.headers().unwrap();
        assert_eq!(sent["x-amzn-sagemaker-inference-component"], "lora-1");
        assert_eq!(sent["x-amzn-sagemaker-custom-attributes"], "c000b4f9/df62");
        assert_eq!(sent["x-amzn-sagemaker-target-variant"], "blue");
        assert!(!sent.contains_key("x-amzn-sagemaker-session-id"));
    }

    #[test]
    fn refused_parameters_are_named() {
        let state = state(|_| {});
        let error = complete(
            &state,
            &[(headers::PROVIDER, "groq")],
            r#"{"model":"m","prompt":[1,2]}"#,
        )
        .unwrap_err();
        assert_eq!(
            (error.status().as_u16(), error.param()),
            (400, Some("prompt"))
        );
    }

    /// The upstream's path and body for `body` at `path`.
    fn sent(path: &str, provider: &str, body: &str) -> Result<(String, String), Error> {
        let state = state(|config| {
            let vllm = Arc::make_mut(config.providers.get_mut("vllm").unwrap());
            vllm.base = Some(Arc::new(Base::try_new("http://h/v1", "base_url").unwrap()));
        });
        let headers = headers(&[(headers::PROVIDER, provider)]);
        let head = Head {
            method: &Method::POST,
            path,
            query: None,
            headers: &headers,
        };
        let Admission::Complete(directives) = state.admit(head, None)? else {
            panic!("{path} is passed");
        };
        let bytes = Bytes::copy_from_slice(body.as_bytes());
        let (leaf, seed) = (Leaf::default(), Seed { now: 1, draw: 1 });
        let completing = state.complete(&directives, &leaf, &headers, bytes, seed)?;
        let Work::One(exchange) = completing.work else {
            panic!("one call");
        };
        let body = String::from_utf8(exchange.body().to_vec()).unwrap();
        Ok((exchange.path(), body))
    }

    #[test]
    fn mistrals_own_clients_reach_mistral_byte_for_byte() {
        let body =
            r#"{"model":"codestral-latest","prompt":"a", "suffix":"b","random_seed":1,"x":{}}"#;
        for provider in ["mistral-ai", "codestral"] {
            let (path, sent) = sent(FIM_COMPLETIONS, provider, body).unwrap();
            assert_eq!((&*path, &*sent), ("/v1/fim/completions", body));
        }
    }

    #[test]
    fn a_gap_is_filled_by_whoever_can() {
        let fim = r#"{"model":"qwen2.5-coder-7b","prompt":"a","suffix":"b","random_seed":7}"#;
        let (path, body) = sent(FIM_COMPLETIONS, "vllm", fim).unwrap();
        assert_eq!(path, "/v1/completions");
        let filled = r#"{"model":"qwen2.5-coder-7b","prompt":"<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>","max_tokens":256,"#;
        assert!(
            body.starts_with(filled) && body.contains(r#""seed":7"#),
            "{body}"
        );
        let (_, body) = sent(
            FIM_COMPLETIONS,
            "deepseek",
            r#"{"model":"d","prompt":"a","suffix":"b"}"#,
        )
        .unwrap();
        assert_eq!(
            body,
            r#"{"model":"d","prompt":"a","max_tokens":256,"suffix":"b"}"#
        );
        let gap = r#"{"model":"codestral-latest","prompt":"a","suffix":"b"}"#;
        let (path, body) = sent(COMPLETIONS, "mistral-ai", gap).unwrap();
        assert_eq!(path, "/v1/fim/completions");
        assert_eq!(
            body,
            r#"{"model":"codestral-latest","prompt":"a","suffix":"b","max_tokens":16}"#
        );
        for provider in ["groq", "vllm"] {
            let error = sent(
                COMPLETIONS,
                provider,
                gap.replace("codestral-latest", "m").as_str(),
            )
            .unwrap_err();
            assert_eq!(
                (error.status().as_u16(), error.param()),
                (400, Some("suffix"))
            );
        }
    }

    #[test]
    fn other_paths_go_below_the_providers_own() {
        let state = state(|config| config.default.provider = Some("openai".into()));
        let groq = (headers::PROVIDER, "groq");
        let path = |method: Method, path: &str, pairs: &[(&'static str, &str)]| {
            upstream_path_of(&state, method, path, pairs)
        };
        assert_eq!(
            path(Method::GET, "/v1/models", &[]),
            "api.openai.com/v1/models?a=b"
        );
        assert_eq!(
            path(Method::POST, "/v1/chat/completions", &[groq]),
            "api.groq.com/openai/v1/chat/completions?a=b"
        );
        assert_eq!(
            path(Method::POST, "/tokenize", &[groq]),
            "api.groq.com/tokenize?a=b"
        );
        assert_eq!(
            path(Method::GET, "/v1/completions", &[]),
            "api.openai.com/v1/completions?a=b"
        );
        assert_eq!(path(Method::GET, "/v1x", &[groq]), "api.groq.com/v1x?a=b");
    }

    #[test]
    fn health_is_ours_unless_an_app_stands_behind() {
        let empty = HeaderMap::new();
        let head = |path| Head {
            method: &Method::GET,
            path,
            query: None,
            headers: &empty,
        };
        let alone = state(|config| config.default.provider = None);
        assert!(matches!(
            alone.admit(head("/health"), None),
            Ok(Admission::Answer(_))
        ));
        assert!(matches!(
            alone.admit(head("/"), None),
            Ok(Admission::Answer(_))
        ));
        assert!(alone.admit(head("/v1/models"), None).is_err());
        let fronting = state(|config| config.default.upstream = Some("openai".into()));
        assert!(matches!(
            fronting.admit(head("/health"), None),
            Ok(Admission::Pass(_))
        ));
    }

    #[test]
    fn other_content_types_and_codings_are_refused() {
        let state = state(|_| {});
        let gzip = headers(&[("content-encoding", "gzip")]);
        let head = Head {
            method: &Method::POST,
            path: COMPLETIONS,
            query: None,
            headers: &gzip,
        };
        assert_eq!(state.admit(head, None).unwrap_err().status(), 415);
        let error = complete(&state, &[("content-type", "text/plain")], "{}").unwrap_err();
        assert_eq!(error.param(), Some("content-type"));
        assert!(
            complete(
                &state,
                &[
                    ("content-type", "Application/JSON; charset=utf-8"),
                    (headers::PROVIDER, "openai")
                ],
                r#"{"model":"m"}"#
            )
            .is_ok()
        );
    }
}
