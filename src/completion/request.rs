//! The request of `POST /v1/completions`, read once and checked: if a [`CompletionRequest`] exists, its types and ranges
//! are those of the API page.
//!
//! `null` counts as absent everywhere, as clients send it for "not set". A field named twice is refused: two readers of
//! one body could disagree on which of them counts, and the provider is one that may get the very bytes. So is a name that is a
//! known one but for its case, which servers written in Go take for that. Fields the page does not know are kept as they came,
//! in `extra`.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Number, value::RawValue};

use crate::{
    completion::{
        Approach, Parameter,
        fields::{self, Distinct, MAX_ENTRIES},
        fim::{self, SEED, Shape},
        prompt::Prompt,
    },
    error::Error,
};

/// A checked request.
#[derive(Clone, Debug, Default)]
pub struct CompletionRequest {
    pub model: Option<String>,
    pub prompt: Prompt,
    pub max_tokens: Option<u64>,
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub n: Option<u32>,
    pub stream: bool,
    /// At most [`MAX_TAKEN_STOPS`], of which [`MAX_STOPS`] go upstream; empty means none.
    pub stop: Vec<String>,
    pub presence_penalty: Option<f64>,
    pub frequency_penalty: Option<f64>,
    pub suffix: Option<String>,
    pub echo: Option<bool>,
    pub best_of: Option<u32>,
    /// `Some(0)` is a request for the chosen tokens' log-probabilities alone, not "off".
    pub logprobs: Option<u32>,
    pub user: Option<String>,
    pub seed: Option<i64>,
    pub logit_bias: Option<BTreeMap<String, Number>>,
    pub stream_options: Option<StreamOptions>,
    /// How the prompt is put to a model that answers messages: no field of the body.
    pub approach: Approach,
    /// Fields the page does not know, by name.
    pub extra: BTreeMap<String, Box<RawValue>>,
    /// Which endpoint was asked.
    pub shape: Shape,
    /// The bytes this request was read from, while they still say the same as the fields.
    pub(super) source: Option<Bytes>,
}

/// `stream_options`: OpenAI's own, and what its copies have added.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StreamOptions {
    pub include_usage: bool,
    #[serde(flatten)]
    pub extra: BTreeMap<String, Box<RawValue>>,
}

impl StreamOptions {
    /// An option that is switched on, or set to something, beside `include_usage`.
    pub fn extra_asked(&self) -> Option<&str> {
        let asked = |value: &RawValue| !matches!(value.get(), "null" | "false");
        let mut extra = self.extra.iter();
        extra
            .find(|(_, value)| asked(value))
            .map(|(name, _)| name.as_str())
    }

    /// The same for a provider that does not know them.
    pub fn without_running_counts(mut self) -> Self {
        self.extra.remove(RUNNING_COUNTS);
        self
    }

    fn read(value: &RawValue) -> Result<Option<Self>, Error> {
        let wanted = "an object that names nothing twice";
        let fields: Option<Distinct<Box<RawValue>>> = read("stream_options", value, wanted)?;
        let Some(Distinct(mut extra)) = fields else {
            return Ok(None);
        };
        let include_usage = match extra.remove("include_usage") {
            Some(value) => read("stream_options", &value, "an object of true or false")?,
            None => None,
        };
        extra.retain(|_, value| value.get() != "null");
        Ok(Some(Self {
            include_usage: include_usage.unwrap_or_default(),
            extra,
        }))
    }
}

impl CompletionRequest {
    /// Reads a body. An error's message says what is wrong with which field and never quotes the input.
    pub fn read(body: Bytes) -> Result<Self, Error> {
        Self::read_with(body, &BTreeMap::new())
    }

    /// Reads a body whose fields are overridden by `overrides` first.
    pub fn read_with(
        body: Bytes,
        overrides: &BTreeMap<String, Box<RawValue>>,
    ) -> Result<Self, Error> {
        let fields = fields::read(&body)?;
        let mut request = Self::default();
        let mut nulls = false;
        for (name, value) in &fields {
            if !is_overridden(name, overrides) {
                request.set(name, value)?;
                nulls |= value.get() == "null";
            }
        }
        for (name, value) in overrides {
            request.set(name, value)?;
        }
        request.settle_limit()?;
        request.check()?;
        // Null is absent here, but an error to some servers.
        let renamed = fields.iter().any(|(name, _)| name == LIMIT);
        request.source = (overrides.is_empty() && !nulls && !renamed).then_some(body);
        Ok(request)
    }

    /// The same request for another prompt.
    pub fn with_prompt(&self, prompt: Prompt) -> Self {
        Self {
            prompt,
            source: None,
            ..self.clone()
        }
    }

    /// The same request with another seed.
    pub fn with_seed(&self, seed: i64) -> Self {
        Self {
            seed: Some(seed),
            source: None,
            ..self.clone()
        }
    }

    /// The client's own bytes, if the request still says what they say.
    pub fn source(&self) -> Option<&Bytes> {
        self.source.as_ref().filter(|_| self.shape == Shape::Text)
    }

    /// The same of a request to the endpoint of [`fim`], for an API that speaks it.
    pub fn fim_source(&self) -> Option<&Bytes> {
        self.source.as_ref().filter(|_| self.shape == Shape::Fim)
    }

    /// Puts another prompt in place of the client's.
    pub fn replace_prompt(&mut self, prompt: Prompt) {
        self.prompt = prompt;
        self.source = None;
    }

    /// Settles the model to ask for. The source stays valid only if the client named the same.
    pub fn settle_model(&mut self, named: Option<&str>, model: &str) {
        if named != Some(model) {
            self.source = None;
        }
        self.model = Some(model.to_owned());
    }

    /// The model; empty where none was named (the gateway refuses that before a dialect sees it).
    pub fn model(&self) -> &str {
        self.model.as_deref().unwrap_or_default()
    }

    /// `max_tokens`, with the endpoint's default.
    pub fn max_tokens(&self) -> u64 {
        self.max_tokens.unwrap_or(match self.shape {
            Shape::Text => DEFAULT_MAX_TOKENS,
            Shape::Fim => fim::MAX_TOKENS,
        })
    }

    pub fn include_usage(&self) -> bool {
        self.stream_options
            .as_ref()
            .is_some_and(|options| options.include_usage)
    }

    /// The one text of the prompt, for a dialect that takes no other form.
    pub fn sole_text(&self) -> Result<&RawValue, Error> {
        let one = match &self.prompt {
            Prompt::Text(text) => Some(text),
            Prompt::Texts(texts) => texts.first().filter(|_| texts.len() == 1),
            Prompt::Absent | Prompt::Tokens(_) | Prompt::TokenLists(_) => None,
        };
        one.map(|text| &**text)
            .ok_or_else(|| Error::invalid("prompt", "`prompt` must be one text for this provider."))
    }

    fn set(&mut self, name: &str, value: &RawValue) -> Result<(), Error> {
        match name {
            "model" => self.model = read(name, value, "a string")?,
            "prompt" => self.prompt = Prompt::read(value)?,
            "max_tokens" => self.max_tokens = read(name, value, "a whole number of at least 0")?,
            "temperature" => self.temperature = read(name, value, "a number")?,
            "top_p" => self.top_p = read(name, value, "a number")?,
            "n" => self.n = read(name, value, "a whole number")?,
            "stream" => self.stream = read(name, value, "true or false")?.unwrap_or_default(),
            "stop" => self.stop = read_stop(value)?,
            "presence_penalty" => self.presence_penalty = read(name, value, "a number")?,
            "frequency_penalty" => self.frequency_penalty = read(name, value, "a number")?,
            "suffix" => self.suffix = read(name, value, "a string")?,
            "echo" => self.echo = read(name, value, "true or false")?,
            "best_of" => self.best_of = read(name, value, "a whole number")?,
            "logprobs" => self.logprobs = read(name, value, "a whole number of at least 0")?,
            "user" => self.user = read(name, value, "a string")?,
            "seed" => self.seed = read(name, value, "a whole number")?,
            "logit_bias" => self.logit_bias = read_bias(value)?,
            "stream_options" => self.stream_options = StreamOptions::read(value)?,
            other if let Some(known) = twin(other) => {
                let message = format!("`{known}` is written in small letters.");
                return Err(Error::invalid(known, message));
            }
            // To a server that refuses what it does not know, a null is a field too.
            _ if value.get() == "null" => {}
            other => {
                self.extra.insert(other.to_owned(), value.to_owned());
            }
        }
        Ok(())
    }

    /// `max_completion_tokens` is chat's word for `max_tokens`: beside another figure it is a contradiction.
    fn settle_limit(&mut self) -> Result<(), Error> {
        let Some(told) = self.extra.remove(LIMIT) else {
            return Ok(());
        };
        let limit = read(LIMIT, &told, "a whole number of at least 0")?;
        if self.max_tokens.is_some_and(|tokens| Some(tokens) != limit) {
            let message = format!("`{LIMIT}` and `max_tokens` name the same limit and differ.");
            return Err(Error::invalid(LIMIT, message));
        }
        self.max_tokens = limit;
        Ok(())
    }

    fn check(&self) -> Result<(), Error> {
        if self.model().len() > MAX_MODEL_BYTES {
            let message = format!("`model` must be at most {MAX_MODEL_BYTES} bytes long.");
            return Err(Error::invalid("model", message));
        }
        if self
            .user
            .as_ref()
            .is_some_and(|user| user.len() > MAX_USER_BYTES)
        {
            let message = format!("`user` must be at most {MAX_USER_BYTES} bytes long.");
            return Err(Error::invalid("user", message));
        }
        within("temperature", self.temperature, 0.0, 2.0)?;
        within("top_p", self.top_p, 0.0, 1.0)?;
        within("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?;
        within("n", self.n.map(f64::from), 1.0, f64::from(MAX_N))?;
        within(
            "best_of",
            self.best_of.map(f64::from),
            0.0,
            f64::from(MAX_BEST_OF),
        )?;
        for bias in self.logit_bias.iter().flat_map(BTreeMap::values) {
            within("logit_bias", bias.as_f64(), -100.0, 100.0)?;
        }
        if self
            .best_of
            .is_some_and(|best| best.max(1) < self.n.unwrap_or(1))
        {
            return Err(Error::invalid("best_of", "`best_of` must be at least `n`."));
        }
        if self.stream && self.best_of.is_some_and(|best| best > self.n.unwrap_or(1)) {
            return Err(Error::invalid(
                "best_of",
                "`best_of` above `n` cannot be streamed.",
            ));
        }
        Ok(())
    }
}

/// An override of a limit wins over the client's, whichever of its two names either used.
fn is_overridden(name: &str, overrides: &BTreeMap<String, Box<RawValue>>) -> bool {
    let limits = ["max_tokens", LIMIT];
    let is_limit = limits.contains(&name);
    overrides.contains_key(name)
        || is_limit && limits.iter().any(|limit| overrides.contains_key(*limit))
}

fn read<T: DeserializeOwned>(
    name: &str,
    value: &RawValue,
    wanted: &str,
) -> Result<Option<T>, Error> {
    serde_json::from_str(value.get())
        .map_err(|_| Error::invalid(name.to_owned(), format!("`{name}` must be {wanted}.")))
}

fn read_stop(value: &RawValue) -> Result<Vec<String>, Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Stop {
        One(String),
        Many(Vec<String>),
    }
    let stop = match read("stop", value, "a string or a list of strings")? {
        None => Vec::new(),
        Some(Stop::One(one)) => vec![one],
        Some(Stop::Many(many)) => many,
    };
    if stop.len() > MAX_TAKEN_STOPS || stop.iter().any(|one| one.len() > MAX_STOP_BYTES) {
        let message = format!(
            "`stop` takes at most {MAX_TAKEN_STOPS} sequences of at most {MAX_STOP_BYTES} bytes."
        );
        return Err(Error::invalid("stop", message));
    }
    Ok(stop)
}

fn read_bias(value: &RawValue) -> Result<Option<BTreeMap<String, Number>>, Error> {
    let wanted = format!("an object of numbers, at most {MAX_ENTRIES}, that names nothing twice");
    let read: Option<Distinct<Number>> = read("logit_bias", value, &wanted)?;
    Ok(read.map(|Distinct(biases)| biases))
}

/// The field that a server whose reader does not look at case takes `name` for. Nearly every name is settled by its first look.
fn twin(name: &str) -> Option<&'static str> {
    let is_plain = |byte: u8| byte.is_ascii() && !byte.is_ascii_uppercase();
    if name.bytes().all(is_plain) {
        return None;
    }
    // Go's folding: the Kelvin sign is a k, the long s an s.
    let fold = |name: &str| -> String {
        let small = name.chars().flat_map(char::to_lowercase);
        small.flat_map(char::to_uppercase).collect()
    };
    let name = fold(name);
    let fields = Parameter::ALL.iter().map(|parameter| parameter.field());
    let mut known = fields.chain(["model", LIMIT, SEED]);
    known.find(|known| fold(known) == name)
}

fn within(name: &'static str, value: Option<f64>, least: f64, most: f64) -> Result<(), Error> {
    match value {
        Some(value) if !(least..=most).contains(&value) => Err(Error::invalid(
            name,
            format!("`{name}` must be from {least} to {most}."),
        )),
        _ => Ok(()),
    }
}

/// vLLM's addition to `stream_options`: the counts so far, in every event.
pub const RUNNING_COUNTS: &str = "continuous_usage_stats";
/// The page's default for `max_tokens`.
pub const DEFAULT_MAX_TOKENS: u64 = 16;
const LIMIT: &str = "max_completion_tokens";
/// Editors send a dozen: what is beyond the page's number ends the text here.
pub const MAX_TAKEN_STOPS: usize = 32;
/// The page: "up to 4 sequences".
pub const MAX_STOPS: usize = 4;
/// Every call of a request, and every event of its answer, names the model.
const MAX_MODEL_BYTES: usize = 1024;
/// A name for a person or an account.
const MAX_USER_BYTES: usize = 1024;
/// Of a text that may be the beginning of one, so much is held back.
const MAX_STOP_BYTES: usize = 1024;
/// OpenAI's limits.
const MAX_N: u32 = 128;
const MAX_BEST_OF: u32 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn read_str(body: &str) -> Result<CompletionRequest, Error> {
        CompletionRequest::read(Bytes::copy_from_slice(body.as_bytes()))
    }

    #[test]
    fn a_model_s_name_has_an_end() {
        let read = |length: usize| read_str(&format!(r#"{{"model":"{}"}}"#, "m".repeat(length)));
        assert!(read(MAX_MODEL_BYTES).is_ok());
        let error = read(MAX_MODEL_BYTES + 1).unwrap_err();
        assert_eq!(
            (error.status().as_u16(), error.param()),
            (400, Some("model"))
        );
    }

    #[test]
    fn wrong_types_and_ranges_name_their_field() {
        let cases = [
            (r#"{"n":"1"}"#, "n"),
            (r#"{"n":0}"#, "n"),
            (r#"{"n":1.5}"#, "n"),
            (r#"{"temperature":2.1}"#, "temperature"),
            (r#"{"temperature":"hot"}"#, "temperature"),
            (r#"{"top_p":-0.1}"#, "top_p"),
            (r#"{"max_tokens":-1}"#, "max_tokens"),
            (r#"{"stream":"true"}"#, "stream"),
            (r#"{"stop":5}"#, "stop"),
            (
                r#"{"stop":["","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","",""]}"#,
                "stop",
            ),
            (r#"{"presence_penalty":-2.5}"#, "presence_penalty"),
            (r#"{"frequency_penalty":3}"#, "frequency_penalty"),
            (r#"{"suffix":1}"#, "suffix"),
            (r#"{"echo":1}"#, "echo"),
            (r#"{"best_of":21}"#, "best_of"),
            (r#"{"best_of":2,"n":3}"#, "best_of"),
            (r#"{"best_of":1,"n":3}"#, "best_of"),
            (r#"{"max_completion_tokens":-1}"#, "max_completion_tokens"),
            (
                r#"{"max_completion_tokens":1,"max_tokens":2}"#,
                "max_completion_tokens",
            ),
            (r#"{"best_of":2,"stream":true}"#, "best_of"),
            (r#"{"logprobs":-1}"#, "logprobs"),
            (r#"{"user":{}}"#, "user"),
            (r#"{"seed":0.5}"#, "seed"),
            (r#"{"logit_bias":{"50256":-101}}"#, "logit_bias"),
            (r#"{"stream_options":true}"#, "stream_options"),
            (r#"{"prompt":5}"#, "prompt"),
            (r#"{"prompt":[]}"#, "prompt"),
            (r#"{"prompt":["a",1]}"#, "prompt"),
            (r#"{"prompt":[1,-2]}"#, "prompt"),
            (r#"{"prompt":[[1],[]]}"#, "prompt"),
            (r#"{"model":1}"#, "model"),
        ];
        for (body, param) in cases {
            let error = read_str(body).expect_err(body);
            assert_eq!(error.param(), Some(param), "{body}");
            assert_eq!(error.status(), 400, "{body}");
        }
    }

    #[test]
    fn broken_bodies_are_refused_without_an_echo() {
        for body in [
            "",
            "{",
            "[1]",
            "\"x\"",
            "null",
            "{\"secret\": nonsense}",
            r#"{"model":"a","model":"b"}"#,
        ] {
            let error = read_str(body).expect_err(body);
            assert_eq!(error.status(), 400, "{body}");
            assert!(!error.message().contains("secret"));
        }
    }

    #[test]
    fn a_field_named_twice_is_refused_by_its_name() {
        for (body, param) in [
            (r#"{"model":"a","model":"b"}"#, Some("model")),
            (r#"{"model":"a","mod\u0065l":"b"}"#, Some("model")),
            (r#"{"prompt":"a","n":1,"prompt":"a"}"#, Some("prompt")),
            (r#"{"x_own":1,"x_own":1}"#, Some("x_own")),
            (r#"{"sk-SECRET":1,"sk-SECRET":1}"#, None),
            (
                r#"{"stream_options":{"include_usage":true,"include_usage":false}}"#,
                Some("stream_options"),
            ),
            (r#"{"logit_bias":{"1":5,"1":-5}}"#, Some("logit_bias")),
            // To a reader that does not look at case, and Go's is one.
            (r#"{"model":"a","Model":"b"}"#, Some("model")),
            (r#"{"MODEL":"b"}"#, Some("model")),
            (r#"{"model":"a","Stream":true}"#, Some("stream")),
            ("{\"\u{17f}tream\":true}", Some("stream")),
            ("{\"max_to\u{212a}ens\":1}", Some("max_tokens")),
            (r#"{"Random_Seed":1}"#, Some("random_seed")),
        ] {
            let error = read_str(body).expect_err(body);
            assert_eq!(
                (error.status().as_u16(), error.param()),
                (400, param),
                "{body}"
            );
            assert!(!error.message().contains("SECRET"));
        }
        // What is not read is the provider's to judge.
        assert!(read_str(r#"{"guided":{"a":1,"a":2},"Metadata":{}}"#).is_ok());
    }

    #[test]
    fn what_is_no_text_is_refused_by_the_field_it_stands_in() {
        for (body, param) in [
            (r#"{"prompt":"a \ud83d"}"#, Some("prompt")),
            (r#"{"prompt":["a","\ude00"]}"#, Some("prompt")),
            (r#"{"suffix":"\ud83d b"}"#, Some("suffix")),
            (r#"{"model":"\ud83d"}"#, Some("model")),
            (r#"{"x_own":{"a":["\ud83d"]}}"#, Some("x_own")),
            (r#"{"X Own":"\ud83d"}"#, None),
        ] {
            let error = read_str(body).expect_err(body);
            assert_eq!(
                (error.status().as_u16(), error.param()),
                (400, param),
                "{body}"
            );
        }
        let whole = r#"{"prompt":"\ud83d\ude00 \\ud83d"}"#;
        assert!(read_str(whole).unwrap().source().is_some());
        for body in [
            &b"{\"prompt\":\"\xff\"}"[..],
            b"{\"prompt\":\"\xed\xa0\xbd\"}",
            b"{\"prompt\":\"\xc0\xaf\"}",
            b"{\"x\xff\":1}",
            b"{\"x\":{\"y\":\"\xf8\"}}",
            b"\xef\xbb\xbf{}",
            b"{\0\"\0m\0\"\0}\0",
            b"{\"prompt\":\"\n\"}",
        ] {
            let error = CompletionRequest::read(Bytes::from_static(body)).expect_err("no text");
            assert_eq!(error.status(), 400, "{body:?}");
            assert!(error.message().contains("not valid JSON"), "{body:?}");
        }
    }

    #[test]
    fn texts_that_are_names_have_an_end() {
        for (body, param) in [
            (format!(r#"{{"user":"{}"}}"#, "u".repeat(1_025)), "user"),
            (format!(r#"{{"stop":"{}"}}"#, "s".repeat(1_025)), "stop"),
            (
                format!(r#"{{"stop":["a","{}"]}}"#, "s".repeat(1_025)),
                "stop",
            ),
        ] {
            assert_eq!(read_str(&body).unwrap_err().param(), Some(param));
            assert!(read_str(&body.replacen("uu", "u", 1).replacen("ss", "s", 1)).is_ok());
        }
        let biases = |count: usize| {
            let biases: Vec<_> = (0..count).map(|token| format!("\"{token}\":1")).collect();
            read_str(&format!(r#"{{"logit_bias":{{{}}}}}"#, biases.join(",")))
        };
        assert!(biases(MAX_ENTRIES).is_ok());
        assert_eq!(
            biases(MAX_ENTRIES + 1).unwrap_err().param(),
            Some("logit_bias")
        );
        let many: Vec<_> = (0..300).map(|field| format!("\"x{field}\":1")).collect();
        let error = read_str(&format!("{{{}}}", many.join(","))).unwrap_err();
        assert!(
            error.message().contains("256 fields"),
            "{}",
            error.message()
        );
    }

    #[test]
    fn a_body_nested_too_deep_is_refused_wherever_it_is() {
        for name in ["zz", "prompt", "logit_bias"] {
            let nested = |depth: usize| {
                let (open, close) = ("[".repeat(depth), "]".repeat(depth));
                format!(r#"{{"{name}":{open}{close}}}"#)
            };
            let error = read_str(&nested(1_000_000)).unwrap_err();
            assert_eq!(error.status(), 400);
            assert!(error.message().contains("64 levels"), "{name}");
        }
        let extra = format!(r#"{{"zz":{}{}}}"#, "[".repeat(63), "]".repeat(63));
        assert!(read_str(&extra).is_ok());
    }

    #[test]
    fn null_is_absent() {
        let request = read_str(
            r#"{"n":null,"stop":null,"logprobs":null,"stream":null,"echo":null,"seed":null,"suffix":null,"prompt":null}"#,
        )
        .unwrap();
        assert!(
            Parameter::ALL
                .iter()
                .all(|&parameter| !request.asks(parameter))
        );
        assert!(matches!(request.prompt, Prompt::Absent));
        assert!(request.source().is_none());
    }

    #[test]
    fn chats_word_for_max_tokens_stands_for_it() {
        for (body, limit, is_source) in [
            (r#"{"max_completion_tokens":5}"#, Some(5), false),
            (
                r#"{"max_completion_tokens":5,"max_tokens":5}"#,
                Some(5),
                false,
            ),
            (
                r#"{"max_completion_tokens":5,"max_tokens":null}"#,
                Some(5),
                false,
            ),
            (r#"{"max_completion_tokens":null}"#, None, false),
            (r#"{"max_tokens":5}"#, Some(5), true),
        ] {
            let request = read_str(body).unwrap();
            assert_eq!(request.max_tokens, limit, "{body}");
            assert_eq!(request.source().is_some(), is_source, "{body}");
            assert!(request.extra.is_empty());
        }
        let overrides =
            BTreeMap::from([(LIMIT.to_owned(), RawValue::from_string("7".into()).unwrap())]);
        for body in [r#"{"max_completion_tokens":5}"#, r#"{"max_tokens":5}"#] {
            let body = Bytes::from_static(body.as_bytes());
            let request = CompletionRequest::read_with(body, &overrides).unwrap();
            assert_eq!(request.max_tokens, Some(7));
        }
    }

    #[test]
    fn unknown_nulls_are_left_out() {
        let body = r#"{"messages":null,"x":null,"y":1,"stream_options":{"z":null}}"#;
        let request = read_str(body).unwrap();
        assert_eq!(request.extra.keys().collect::<Vec<_>>(), ["y"]);
        assert!(request.stream_options.unwrap().extra.is_empty());
        assert!(request.source.is_none());
    }

    #[test]
    fn stream_options_keep_what_servers_have_added() {
        let options = |text: &str| {
            let body = format!(r#"{{"stream":true,"stream_options":{text}}}"#);
            read_str(&body).map(|request| request.stream_options.unwrap_or_default())
        };
        let running = options(r#"{"include_usage":true,"continuous_usage_stats":true}"#).unwrap();
        assert!(running.include_usage);
        assert_eq!(running.extra_asked(), Some("continuous_usage_stats"));
        let neutral = options(r#"{"include_usage":null,"include_obfuscation":false}"#).unwrap();
        assert!(!neutral.include_usage);
        assert_eq!(neutral.extra_asked(), None);
        for wrong in [r#"{"include_usage":1}"#, "[]", "true"] {
            let error = options(wrong).unwrap_err();
            assert_eq!(error.param(), Some("stream_options"), "{wrong}");
        }
    }

    #[test]
    fn neutral_values_can_be_left_out_and_the_others_cannot() {
        let neutral = r#"{"prompt":["a"],"n":1,"top_p":1,"best_of":1,"presence_penalty":0,"frequency_penalty":0,"logit_bias":{},"suffix":"","user":""}"#;
        let mut request = read_str(neutral).unwrap();
        for parameter in Parameter::ALL {
            request.leave_out(parameter);
        }
        assert!(matches!(request.prompt, Prompt::Text(_)));
        assert!(request.n.is_none() && request.top_p.is_none() && request.best_of.is_none());
        assert!(request.presence_penalty.is_none() && request.frequency_penalty.is_none());
        assert!(request.logit_bias.is_none() && request.suffix.is_none());
        assert!(request.user.is_none());
        assert!(request.source().is_none());
        let mut request = read_str(r#"{"n":2,"logit_bias":{"1":-100}}"#).unwrap();
        request.leave_out(Parameter::N);
        request.leave_out(Parameter::LogitBias);
        assert_eq!((request.n, request.source().is_some()), (Some(2), true));
        let bias = serde_json::to_string(&request.logit_bias).unwrap();
        assert_eq!(bias, r#"{"1":-100}"#);
    }

    #[test]
    fn neutral_values_ask_for_nothing() {
        let request = read_str(
            r#"{"user":"","n":1,"best_of":1,"echo":false,"top_p":1,"presence_penalty":0,"frequency_penalty":0.0,"logit_bias":{},"stop":[],"suffix":""}"#,
        )
        .unwrap();
        assert!(
            Parameter::ALL
                .iter()
                .all(|&parameter| !request.asks(parameter))
        );
    }

    #[test]
    fn every_form_of_prompt_is_told_apart() {
        let prompt = |body: &str| read_str(body).unwrap().prompt;
        assert!(matches!(prompt(r#"{"prompt":"a"}"#), Prompt::Text(_)));
        assert!(
            matches!(prompt(r#"{"prompt":["a","b"]}"#), Prompt::Texts(list) if list.len() == 2)
        );
        assert!(matches!(prompt(r#"{"prompt":[1,2]}"#), Prompt::Tokens(_)));
        assert!(
            matches!(prompt(r#"{"prompt":[[1],[2,3]]}"#), Prompt::TokenLists(list) if list.len() == 2)
        );
        assert_eq!(
            read_str(r#"{"prompt":["a"]}"#)
                .unwrap()
                .sole_text()
                .unwrap()
                .get(),
            "\"a\""
        );
    }

    #[test]
    fn overrides_win_and_drop_the_source() {
        let overrides = BTreeMap::from([(
            "temperature".to_owned(),
            RawValue::from_string("0.5".into()).unwrap(),
        )]);
        let body = Bytes::from_static(br#"{"model":"m","temperature":9,"top_k":4}"#);
        let request = CompletionRequest::read_with(body, &overrides).unwrap();
        assert_eq!(request.temperature, Some(0.5));
        assert_eq!(request.extra["top_k"].get(), "4");
        assert!(request.source().is_none());
    }

    #[test]
    fn the_source_lives_while_the_model_is_the_clients() {
        let mut request = read_str(r#"{"model":"m"}"#).unwrap();
        request.settle_model(Some("m"), "m");
        assert!(request.source().is_some());
        request.settle_model(Some("m"), "other");
        assert!(request.source().is_none());
        assert_eq!(request.model(), "other");
    }
}
