//! Replicate: `POST {base}/models/{owner}/{name}/predictions` of an official model, `/predictions` of a community model's version,
//! `/deployments/{owner}/{name}/predictions` of a customer's own, waiting for the output or for its stream.
//!
//! Sources: <https://replicate.com/docs/reference/http#models.predictions.create>, there `predictions.create` and
//! `deployments.predictions.create`, [versions](https://replicate.com/changelog/2025-08-05-run-all-models-with-the-same-api-endpoint),
//! [waiting](https://replicate.com/docs/topics/predictions/create-a-prediction). Each model declares its own inputs; the
//! names here are those of its Llama models (<https://replicate.com/meta/meta-llama-3-70b-instruct/api/schema>). Models take
//! no note of inputs that they do not have, which nobody is told.
//!
//! * A stream has an address of its own, `urls.stream` of the answer to `"stream": true`, with the events `output` (plain text),
//!   `error` and `done`: <https://replicate.com/docs/topics/predictions/streaming>. A model without streams tells none, which
//!   is an error. No event counts tokens.
//! * A prediction runs until it is done or its `urls.cancel` takes a POST, whoever is left to read it.
//! * "Synchronous predictions hold the request open for … 60 seconds": what takes longer is answered with 504, and goes on
//!   running at Replicate.
//! * No reason is told for the end of a text: a model that counts shows whether `max_tokens` has cut it, and what another
//!   has cut is told as `stop` too.

use std::{borrow::Cow, collections::BTreeMap};

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    completion::{Choice, Completion, CompletionRequest, Parameter, Partial, Support, Usage},
    dialect::{
        Dialect, Extras, FollowUp, PromptForm, Step, UpstreamRequest, extras, join, lenient::Text,
        not_the_shape, openai::learn_head, openai_error::read_error, positive_max_tokens,
        replicate_stream, to_body, untold_finish,
    },
    error::{Error, Kind},
    wire::{Frame, Framing},
};

/// Replicate's predictions.
#[derive(Debug)]
pub struct Replicate;

pub static REPLICATE: Replicate = Replicate;

impl Dialect for Replicate {
    fn name(&self) -> &'static str {
        "replicate"
    }

    fn framing(&self) -> Framing {
        Framing::Sse
    }

    fn support(&self, parameter: Parameter) -> Support {
        match parameter {
            Parameter::MaxTokens
            | Parameter::Temperature
            | Parameter::TopP
            | Parameter::Stop
            | Parameter::PresencePenalty
            | Parameter::FrequencyPenalty
            | Parameter::Seed
            | Parameter::Stream => Support::Native,
            Parameter::StreamOptions
            | Parameter::Prompts
            | Parameter::TokenIds
            | Parameter::N
            | Parameter::Suffix
            | Parameter::Echo
            | Parameter::BestOf
            | Parameter::Logprobs
            | Parameter::User
            | Parameter::LogitBias => Support::Refused,
        }
    }

    fn carries(&self, parameter: Parameter, request: &CompletionRequest) -> bool {
        parameter != Parameter::Stop || request.stop.iter().all(|stop| is_apart(stop))
    }

    fn extras(&self) -> Extras {
        Extras::Only(EXTRAS)
    }

    fn prompt_form(&self) -> PromptForm {
        PromptForm::Text
    }

    fn write_request(&self, request: &CompletionRequest) -> Result<UpstreamRequest, Error> {
        let model = Model::read(request.model())?;
        Ok(UpstreamRequest {
            path: model.path(),
            headers: if request.stream {
                &[]
            } else {
                &[("prefer", "wait")]
            },
            body: to_body(&Body {
                version: model.version(),
                stream: request.stream.then_some(true),
                input: Input::try_new(request)?,
            })?,
        })
    }

    fn read_reply<'b>(
        &self,
        body: &'b [u8],
        partial: &mut Partial,
    ) -> Result<Completion<'b>, Error> {
        let prediction: Prediction<'b> = serde_json::from_slice(body).map_err(not_the_shape)?;
        let output = prediction.output()?;
        learn_head(partial, prediction.id, None, prediction.model);
        partial.usage = prediction.metrics.and_then(read_usage);
        let finish = Some(untold_finish(partial));
        Ok(Completion {
            choices: vec![Choice {
                text: read_output(output)?,
                finish,
                ..Choice::default()
            }],
        })
    }

    fn stream_hosts(&self) -> Option<&'static [&'static str]> {
        Some(HOSTS)
    }

    fn read_follow_up(&self, reply: &[u8], partial: &mut Partial) -> Result<FollowUp, Error> {
        let prediction: Prediction<'_> = serde_json::from_slice(reply).map_err(not_the_shape)?;
        if prediction.status == "failed" {
            return Err(prediction.failure());
        }
        let urls = prediction.urls.unwrap_or_default();
        let stream = urls.stream.ok_or_else(|| {
            Error::broken("The provider's answer names no `urls.stream`: the model has no streams.")
        })?;
        learn_head(partial, prediction.id, None, prediction.model);
        Ok(FollowUp {
            stream: stream.into_owned(),
            cancel: urls.cancel.map(Cow::into_owned),
        })
    }

    fn read_frame<'f>(&self, frame: &'f Frame, partial: &mut Partial) -> Result<Step<'f>, Error> {
        replicate_stream::read_event(frame, partial)
    }

    /// `{"detail":"…"}`
    fn read_error(&self, status: StatusCode, body: &[u8]) -> Error {
        match status {
            // "The prediction has been created but does not yet have all outputs."
            StatusCode::ACCEPTED => unfinished(),
            _ => read_error(status, body),
        }
    }
}

/// What a request's `model` names.
#[derive(Clone, Copy)]
enum Model<'a> {
    /// `owner/name`.
    Official(&'a str),
    /// `owner/name:version`, or the version alone.
    Version(&'a str),
    /// `deployments/owner/name`.
    Deployment(&'a str),
}

impl<'a> Model<'a> {
    /// A name becomes two pieces of the path: nothing in it may end them.
    fn read(model: &'a str) -> Result<Self, Error> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let name = |name: &str| name.bytes().all(plain) && name.bytes().any(|byte| byte != b'.');
        let pair = |pair: &str| {
            let pair = pair.split_once('/');
            pair.is_some_and(|(owner, model)| name(owner) && name(model))
        };
        let version = |version: &str| {
            version.len() == VERSION && version.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        if pair(model) {
            return Ok(Self::Official(model));
        }
        if let Some(deployment) = model.strip_prefix("deployments/").filter(|name| pair(name)) {
            return Ok(Self::Deployment(deployment));
        }
        match model.split_once(':') {
            Some((name, number)) if pair(name) && version(number) => Ok(Self::Version(model)),
            None if version(model) => Ok(Self::Version(model)),
            Some(_) | None => {
                let wrong = "`model` must be `owner/name`, `owner/name:version`, a version or `deployments/owner/name` for this provider.";
                Err(Error::invalid("model", wrong))
            }
        }
    }

    fn path(self) -> Cow<'static, str> {
        match self {
            Self::Official(name) => Cow::Owned(format!("/models/{name}/predictions")),
            Self::Version(_) => Cow::Borrowed("/predictions"),
            Self::Deployment(name) => Cow::Owned(format!("/deployments/{name}/predictions")),
        }
    }

    fn version(self) -> Option<&'a str> {
        match self {
            Self::Version(version) => Some(version),
            Self::Official(_) | Self::Deployment(_) => None,
        }
    }
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<bool>,
    input: Input<'a>,
}

#[derive(Serialize)]
struct Input<'a> {
    prompt: &'a RawValue,
    max_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    stop_sequences: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    presence_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<i64>,
    #[serde(flatten)]
    extra: BTreeMap<&'a str, &'a RawValue>,
}

/// "A comma-separated list of sequences to stop generation at."
fn is_apart(stop: &str) -> bool {
    !stop.is_empty() && !stop.contains(',')
}

impl<'a> Input<'a> {
    fn try_new(request: &'a CompletionRequest) -> Result<Self, Error> {
        if !request.stop.iter().all(|stop| is_apart(stop)) {
            return Err(Error::invalid(
                "stop",
                "`stop` can hold neither a comma nor an empty sequence for this provider.",
            ));
        }
        Ok(Self {
            prompt: request.sole_text()?,
            max_tokens: positive_max_tokens(request)?,
            temperature: request.temperature,
            top_p: request.top_p,
            stop_sequences: request.stop.join(","),
            // The models' own defaults are not neutral: a 0 that was asked for is sent.
            presence_penalty: request.presence_penalty,
            frequency_penalty: request.frequency_penalty,
            seed: request.seed,
            extra: extras(request).collect(),
        })
    }
}

#[derive(Deserialize)]
struct Prediction<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    model: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    status: Cow<'a, str>,
    #[serde(borrow, default)]
    output: Option<&'a RawValue>,
    /// A sentence, or an object of some models.
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    metrics: Option<&'a RawValue>,
    #[serde(borrow, default)]
    urls: Option<Urls<'a>>,
}

#[derive(Default, Deserialize)]
struct Urls<'a> {
    #[serde(borrow, default)]
    stream: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    cancel: Option<Cow<'a, str>>,
}

impl<'a> Prediction<'a> {
    /// What the model wrote, if it is done.
    fn output(&self) -> Result<&'a RawValue, Error> {
        match &*self.status {
            "succeeded" => self
                .output
                .ok_or_else(|| Error::broken("The provider's answer holds no output.")),
            "starting" | "processing" => Err(unfinished()),
            "failed" => Err(self.failure()),
            // `canceled`, `aborted`, and no status at all.
            _ => Err(Error::broken(
                "The provider's prediction was neither finished nor failed.",
            )),
        }
    }
}

impl Prediction<'_> {
    fn failure(&self) -> Error {
        let told = self.error.map(RawValue::get).map(serde_json::from_str);
        failure(told.and_then(Result::ok))
    }
}

/// A failure has a sentence and no status. What a filter has refused would fail again: it is told as OpenAI's clouds tell it.
pub(super) fn failure(told: Option<String>) -> Error {
    let told = told.filter(|told| !told.is_empty());
    let message = told.map_or("The provider's prediction failed.".into(), Cow::Owned);
    if FILTERED.iter().any(|mark| message.contains(mark)) {
        return Error::new(Kind::Upstream(StatusCode::BAD_REQUEST), message)
            .with_code("content_filter");
    }
    Error::new(Kind::Upstream(StatusCode::INTERNAL_SERVER_ERROR), message)
}

fn unfinished() -> Error {
    let message = "The prediction did not finish while the provider held the request open.";
    Error::new(Kind::Upstream(StatusCode::GATEWAY_TIMEOUT), message)
}

/// A text, or the pieces of one.
fn read_output(output: &RawValue) -> Result<Cow<'_, str>, Error> {
    let output = output.get();
    let pieces: Vec<Text<'_>> = if output.starts_with('"') {
        serde_json::from_str(output).map(|text| vec![text])
    } else {
        serde_json::from_str(output)
    }
    .map_err(not_the_shape)?;
    Ok(join(pieces.into_iter().map(|piece| piece.0)))
}

fn read_usage(metrics: &RawValue) -> Option<Usage> {
    #[derive(Deserialize)]
    struct Counts {
        input_token_count: u64,
        output_token_count: u64,
    }
    let counts: Counts = serde_json::from_str(metrics.get()).ok()?;
    Some(Usage::new(
        counts.input_token_count,
        counts.output_token_count,
    ))
}

/// Its API, and where its answers and its documentation say that streams are.
const HOSTS: &[&str] = &[
    "api.replicate.com",
    "stream.replicate.com",
    "streaming.api.replicate.com",
];
/// How the sentences of models that filter are known: <https://github.com/pollinations/pollinations/pull/10801>.
const FILTERED: &[&str] = &["(E005)", "flagged as sensitive"];
/// "The 64-character version ID."
const VERSION: usize = 64;

/// Inputs of the models that the page lacks and that leave the answer a text.
const EXTRAS: &[&str] = &[
    "length_penalty",
    "max_new_tokens",
    "min_new_tokens",
    "min_tokens",
    "prompt_template",
    "system_prompt",
    "top_k",
];

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::dialect::settle;

    fn write_to(model: &str, fields: &str) -> Result<(String, String), Error> {
        let body = format!(r#"{{"model":"{model}","prompt":"a\n\u00e9",{fields}}}"#);
        let mut request = CompletionRequest::read(Bytes::from(body)).unwrap();
        settle(&mut request, &REPLICATE, &[], "replicate")?;
        let upstream = REPLICATE.write_request(&request)?;
        assert_eq!(upstream.headers.is_empty(), request.stream);
        let body = String::from_utf8(upstream.body.to_vec()).unwrap();
        Ok((upstream.path.into_owned(), body))
    }

    fn write(fields: &str) -> Result<(String, String), Error> {
        write_to("meta/meta-llama-3-8b", fields)
    }

    #[test]
    fn every_parameter_has_its_place_in_the_request() {
        let fields = r#""max_tokens":9,"temperature":0.5,"top_p":1,"stop":["\n\nQ:","END"],"seed":7,"presence_penalty":0,
            "frequency_penalty":-0.5,"top_k":4,"prompt_template":"{prompt}""#;
        let (path, body) = write(fields).unwrap();
        assert_eq!(path, "/models/meta/meta-llama-3-8b/predictions");
        assert_eq!(
            body,
            concat!(
                r#"{"input":{"prompt":"a\n\u00e9","max_tokens":9,"temperature":0.5,"top_p":1.0,"stop_sequences":"\n\nQ:,END","#,
                r#""presence_penalty":0.0,"frequency_penalty":-0.5,"seed":7,"prompt_template":"{prompt}","top_k":4}}"#,
            )
        );
    }

    #[test]
    fn nothing_is_sent_that_was_not_asked_for() {
        let neutral = r#""n":1,"best_of":1,"echo":false,"logit_bias":{},"suffix":"","stop":null,"stream":false,"top_k":null"#;
        assert_eq!(
            write(neutral).unwrap().1,
            r#"{"input":{"prompt":"a\n\u00e9","max_tokens":16}}"#
        );
    }

    #[test]
    fn a_stream_is_asked_for_and_not_waited_for() {
        let (_, body) = write(r#""stream":true,"max_tokens":2"#).unwrap();
        assert!(body.starts_with(r#"{"stream":true,"input":{"#), "{body}");
    }

    #[test]
    fn the_answer_to_a_stream_request_tells_where_it_is() {
        let read = |body: &str| REPLICATE.read_follow_up(body.as_bytes(), &mut Partial::default());
        let told = read(
            r#"{"id":"p","status":"starting","urls":{"stream":"https://s","cancel":"https://c","get":"x"}}"#,
        );
        let told = told.unwrap();
        assert_eq!(
            (told.stream.as_str(), told.cancel.as_deref()),
            ("https://s", Some("https://c"))
        );
        for (body, status, message) in [
            (
                r#"{"status":"starting","urls":{"get":"x"}}"#,
                502,
                "urls.stream",
            ),
            (r#"{"status":"starting"}"#, 502, "urls.stream"),
            (r#"{"status":"failed","error":"CUDA"}"#, 500, "CUDA"),
            ("", 502, "form"),
        ] {
            let error = read(body).unwrap_err();
            assert_eq!(error.status(), status, "{body}");
            assert!(error.message().contains(message), "{body}: {error}");
        }
    }

    #[test]
    fn events_are_text_an_error_or_the_end() {
        let read = |event: &'static str, data: &'static str| -> Result<String, Error> {
            let frame = Frame {
                event: Bytes::from_static(event.as_bytes()),
                data: Bytes::from_static(data.as_bytes()),
                form: crate::wire::Form::Other,
                raw: Bytes::new(),
            };
            let mut partial = Partial::default();
            match REPLICATE.read_frame(&frame, &mut partial)? {
                Step::Chunk(chunk) => Ok(chunk.choices[0].text.to_string()),
                Step::Last(_) => Ok("done".to_owned()),
                Step::Done | Step::Skip | Step::Unknown => Ok("skipped".to_owned()),
            }
        };
        assert_eq!(read("output", "\n").unwrap(), "\n");
        assert_eq!(read("output", "{}").unwrap(), "{}");
        assert_eq!(read("done", "{}").unwrap(), "done");
        for (event, data) in [("output", ""), ("", "x"), ("logs", "x")] {
            assert_eq!(read(event, data).unwrap(), "skipped");
        }
        for (event, data, status, message) in [
            ("error", r#"{"detail":"CUDA"}"#, 500, "CUDA"),
            ("error", "CUDA", 500, "CUDA"),
            ("error", "", 500, "failed"),
            ("error", "(E005)", 400, "E005"),
            ("done", r#"{"reason":"canceled"}"#, 502, "ended"),
            ("done", r#"{"reason":"error"}"#, 500, "failed"),
            ("done", "", 502, "form"),
        ] {
            let error = read(event, data).unwrap_err();
            assert_eq!(error.status(), status, "{event} {data}");
            assert!(error.message().contains(message), "{event} {data}: {error}");
        }
    }

    #[test]
    fn what_the_api_cannot_carry_is_refused_by_name() {
        let cases = [
            (r#""max_tokens":0"#, "max_tokens"),
            (r#""stop":"a,b""#, "stop"),
            (r#""stop":["a",""]"#, "stop"),
            (r#""n":2"#, "n"),
            (r#""best_of":2"#, "best_of"),
            (r#""echo":true"#, "echo"),
            (r#""suffix":"x""#, "suffix"),
            (r#""logprobs":0"#, "logprobs"),
            (r#""logit_bias":{"1":2}"#, "logit_bias"),
            (r#""user":"u""#, "user"),
            (
                r#""stream":true,"stream_options":{"include_usage":true}"#,
                "stream_options",
            ),
            (r#""input":{}"#, "input"),
            (r#""webhook":"https://x""#, "webhook"),
        ];
        for (fields, param) in cases {
            let error = write(fields).expect_err(fields);
            assert_eq!(error.param(), Some(param), "{fields}");
            assert_eq!(error.status(), 400, "{fields}");
        }
    }

    #[test]
    fn versions_and_deployments_have_addresses_of_their_own() {
        let version = "9dcd6d78e7c6560c340d916fe32e9f24aabfa331e5cce95fe31f77fb03121426";
        let named = format!("replicate/hello-world:{version}");
        for model in [version, &*named] {
            let (path, body) = write_to(model, r#""n":1"#).unwrap();
            assert_eq!(path, "/predictions");
            assert!(body.starts_with(&format!(r#"{{"version":"{model}","input":{{"#)));
        }
        let (path, body) = write_to("deployments/acme/llama", r#""n":1"#).unwrap();
        assert_eq!(path, "/deployments/acme/llama/predictions");
        assert!(body.starts_with(r#"{"input":"#));
    }

    #[test]
    fn a_model_is_two_names_and_no_way_out_of_the_path() {
        for model in [
            "",
            "llama",
            "meta/",
            "/llama",
            "../x",
            "meta/..",
            "meta/a/b",
            "meta/a:0123",
            "meta/a:../../x",
            "deployments/a/..",
            "deployments/a/b/c",
            "deployments/a/b:c",
            &"g".repeat(64),
            &format!("meta/a/b:{}", "0".repeat(64)),
            &format!("{}:{}", "0".repeat(64), "0".repeat(64)),
            "meta/a?b",
            "meta/a#b",
            "meta/%2e",
            "meta/\u{2024}a",
        ] {
            let error = write_to(model, r#""n":1"#).unwrap_err();
            assert_eq!(error.param(), Some("model"), "{model}");
        }
    }

    #[test]
    fn a_prediction_without_its_output_is_an_error() {
        for (body, status, message) in [
            (r#"{"status":"failed","error":"CUDA"}"#, 500, "CUDA"),
            (r#"{"status":"failed","error":null}"#, 500, "failed"),
            (r#"{"status":"starting","output":null}"#, 504, "held"),
            (r#"{"status":"processing","output":["a"]}"#, 504, "held"),
            (r#"{"status":"canceled","output":["a"]}"#, 502, "neither"),
            (r#"{"status":"succeeded","output":null}"#, 502, "no output"),
            (r#"{"status":"succeeded","output":{"a":1}}"#, 502, "form"),
            (r#"{"status":"succeeded","output":[1]}"#, 502, "form"),
            ("{}", 502, "neither"),
            ("", 502, "form"),
            ("[]", 502, "neither"),
        ] {
            let mut partial = Partial::default();
            let error = REPLICATE.read_reply(body.as_bytes(), &mut partial);
            let error = error.unwrap_err();
            assert_eq!(error.status(), status, "{body}");
            assert!(error.message().contains(message), "{body}: {error}");
        }
        let waited = REPLICATE.read_error(StatusCode::ACCEPTED, b"");
        assert_eq!(waited.status(), 504);
    }

    #[test]
    fn an_error_reply_keeps_its_status_and_its_words() {
        let body = br#"{"title":"Input validation failed","detail":"- input.prompt is required","status":422}"#;
        let error = REPLICATE.read_error(StatusCode::UNPROCESSABLE_ENTITY, body);
        assert_eq!(
            error.kind(),
            Kind::Upstream(StatusCode::UNPROCESSABLE_ENTITY)
        );
        assert_eq!(error.message(), "- input.prompt is required");
        for body in ["", "<html>", "{}", "[]", "null"] {
            let error = REPLICATE.read_error(StatusCode::BAD_GATEWAY, body.as_bytes());
            assert!(error.message().contains("502"), "{body}");
        }
    }
}
