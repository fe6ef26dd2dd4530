//! IBM watsonx.ai text generation: `POST {base}/ml/v1/text/generation` and `/ml/v1/text/generation_stream`.
//!
//! Sources: <https://cloud.ibm.com/apidocs/watsonx-ai#text-generation>,
//! [parameters](https://ibm.github.io/watsonx-ai-node-sdk/interfaces/1_1_x.WatsonXAI.DeploymentTextGenProperties-1.html),
//! [stop reasons](https://ibm.github.io/watsonx-ai-node-sdk/interfaces/0_1_x.WatsonXAI.TextGenResult-1.html). A true text
//! completion: the prompt goes to the model as it is. IBM calls the API legacy and points to its chat; models that have no
//! text generation answer 404 or 400 themselves.
//!
//! * "Either space_id or project_id has to be given": as fields of the client's body, or of an override in the conf.
//! * Tokens and their figures are [asked for](https://ibm.github.io/watsonx-ai-node-sdk/interfaces/0_1_x.WatsonXAI.ReturnOptionProperties.html)
//!   in `return_options`. Their texts are told as they come: where a model's are those of its vocabulary (`▁word`), so are the
//!   page's.
//! * Sampling follows the page: on, unless `temperature` is 0.
//! * The stream has no end marker: it is complete when it ends after a stop reason. Its counts are cumulative, that of the
//!   prompt is told once; where it never is, there is no usage.

use std::{borrow::Cow, collections::BTreeMap};

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    completion::{
        Choice, Completion, CompletionRequest, Finish, Parameter, Partial, Support, Usage,
        logprobs::{Score, Scored, Token},
    },
    dialect::{
        Dialect, Extras, PromptForm, Step, UpstreamRequest, extras,
        lenient::{Field, Text},
        not_the_shape,
        openai::learn_head,
        openai_error, positive_max_tokens, to_body,
        token_logprobs::alternatives,
    },
    error::{Error, Kind},
    wire::{Form, Frame, Framing},
};

/// IBM's text generation.
#[derive(Debug)]
pub struct Watsonx;

pub static WATSONX: Watsonx = Watsonx;

impl Dialect for Watsonx {
    fn name(&self) -> &'static str {
        "watsonx"
    }

    fn framing(&self) -> Framing {
        Framing::Sse
    }

    fn support(&self, parameter: Parameter) -> Support {
        match parameter {
            Parameter::MaxTokens
            | Parameter::Temperature
            | Parameter::TopP
            | Parameter::Stream
            | Parameter::Stop
            | Parameter::Logprobs
            | Parameter::Seed => Support::Native,
            Parameter::Suffix | Parameter::StreamOptions => Support::Emulated,
            Parameter::Prompts
            | Parameter::TokenIds
            | Parameter::N
            | Parameter::PresencePenalty
            | Parameter::FrequencyPenalty
            | Parameter::Echo
            | Parameter::BestOf
            | Parameter::User
            | Parameter::LogitBias => Support::Refused,
        }
    }

    fn extras(&self) -> Extras {
        Extras::Only(EXTRAS)
    }

    fn prompt_form(&self) -> PromptForm {
        PromptForm::Text
    }

    fn write_request(&self, request: &CompletionRequest) -> Result<UpstreamRequest, Error> {
        // "The version date for the API of the form YYYY-MM-DD."
        let path = if request.stream {
            "/ml/v1/text/generation_stream?version=2025-02-11"
        } else {
            "/ml/v1/text/generation?version=2025-02-11"
        };
        Ok(UpstreamRequest {
            path: Cow::Borrowed(path),
            headers: &[],
            body: to_body(&Body::try_new(request)?)?,
        })
    }

    fn read_reply<'b>(
        &self,
        body: &'b [u8],
        partial: &mut Partial,
    ) -> Result<Completion<'b>, Error> {
        match read(body)?.into_choice(partial)? {
            Some(choice) if choice.finish.is_some() => Ok(Completion {
                choices: vec![choice],
            }),
            _ => Err(Error::broken(
                "The provider's answer holds no result or no stop reason.",
            )),
        }
    }

    fn read_frame<'f>(&self, frame: &'f Frame, partial: &mut Partial) -> Result<Step<'f>, Error> {
        if frame.form == Form::Comment {
            return Ok(Step::Skip);
        }
        let choice = read(&frame.data)?.into_choice(partial)?;
        // The first event may be an empty object.
        Ok(choice.map_or(Step::Skip, |choice| Step::from(vec![choice])))
    }

    fn read_error(&self, status: StatusCode, body: &[u8]) -> Error {
        let reply = read(body).ok().and_then(|reply| reply.errors);
        reply
            .and_then(|errors| told_error(errors, status))
            .unwrap_or_else(|| openai_error::read_error(status, body))
    }
}

#[derive(Serialize)]
struct Body<'a> {
    model_id: &'a str,
    input: &'a RawValue,
    parameters: Parameters<'a>,
    #[serde(flatten)]
    extra: Fields<'a>,
}

type Fields<'a> = BTreeMap<&'a str, &'a RawValue>;

#[derive(Serialize)]
struct Parameters<'a> {
    max_new_tokens: u64,
    decoding_method: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    random_seed: Option<i64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop_sequences: &'a [String],
    /// "The default is true, meaning that the output will end with the stop sequence text when matched."
    #[serde(skip_serializing_if = "Option::is_none")]
    include_stop_sequence: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    return_options: Option<ReturnOptions>,
    #[serde(flatten)]
    extra: Fields<'a>,
}

#[derive(Serialize)]
struct ReturnOptions {
    generated_tokens: bool,
    token_logprobs: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_n_tokens: Option<u32>,
}

impl<'a> Body<'a> {
    fn try_new(request: &'a CompletionRequest) -> Result<Self, Error> {
        let (of_body, of_parameters) =
            extras(request).partition(|(name, _)| OF_BODY.contains(name));
        let greedy = request.temperature == Some(0.0);
        Ok(Self {
            model_id: request.model(),
            input: request.sole_text()?,
            parameters: Parameters {
                max_new_tokens: positive_max_tokens(request)?,
                decoding_method: if greedy { "greedy" } else { "sample" },
                temperature: request.temperature.filter(|_| !greedy),
                top_p: top_p(request)?.filter(|_| !greedy),
                random_seed: random_seed(request)?,
                stop_sequences: &request.stop,
                include_stop_sequence: (!request.stop.is_empty()).then_some(false),
                return_options: return_options(request)?,
                extra: of_parameters,
            },
            extra: of_body,
        })
    }
}

fn return_options(request: &CompletionRequest) -> Result<Option<ReturnOptions>, Error> {
    let count = alternatives(request, MAX_TOP_TOKENS)?;
    Ok(count.map(|count| ReturnOptions {
        generated_tokens: true,
        token_logprobs: true,
        top_n_tokens: Some(count).filter(|&count| count > 0),
    }))
}

/// "Possible values: 0 < value ≤ 1".
fn top_p(request: &CompletionRequest) -> Result<Option<f64>, Error> {
    match request.top_p {
        Some(p) if p <= 0.0 => Err(Error::invalid(
            "top_p",
            "`top_p` must be above 0 for this provider.",
        )),
        p => Ok(p),
    }
}

/// "Possible values: value ≥ 1".
fn random_seed(request: &CompletionRequest) -> Result<Option<i64>, Error> {
    match request.seed {
        Some(seed) if seed < 1 => Err(Error::invalid(
            "seed",
            "`seed` must be at least 1 for this provider.",
        )),
        seed => Ok(seed),
    }
}

/// A whole reply or one event; an error in its place is read too.
#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow, default, alias = "modelId")]
    model_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    results: Option<Vec<Generated<'a>>>,
    #[serde(borrow, default)]
    errors: Option<Vec<ToldError<'a>>>,
    #[serde(default)]
    status_code: Option<u16>,
}

#[derive(Deserialize)]
struct Generated<'a> {
    #[serde(borrow, default)]
    generated_text: Cow<'a, str>,
    #[serde(default)]
    generated_token_count: u64,
    #[serde(default)]
    input_token_count: u64,
    #[serde(borrow, default)]
    stop_reason: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    generated_tokens: Field<'a>,
}

#[derive(Deserialize)]
struct ToldError<'a> {
    #[serde(borrow, default)]
    code: Cow<'a, str>,
    #[serde(borrow)]
    message: Cow<'a, str>,
}

fn read(body: &[u8]) -> Result<Reply<'_>, Error> {
    serde_json::from_slice(body).map_err(not_the_shape)
}

impl<'a> Reply<'a> {
    fn into_choice(self, partial: &mut Partial) -> Result<Option<Choice<'a>>, Error> {
        let status = self.status_code.map(StatusCode::from_u16);
        let status = status
            .and_then(Result::ok)
            .filter(|status| status.is_client_error() || status.is_server_error())
            .unwrap_or(StatusCode::BAD_GATEWAY);
        if let Some(error) = self.errors.and_then(|errors| told_error(errors, status)) {
            return Err(error);
        }
        if self.model_id.is_some() {
            learn_head(partial, None, None, self.model_id);
        }
        let result = self.results.and_then(|results| results.into_iter().next());
        result.map(|result| result.into_choice(partial)).transpose()
    }
}

impl<'a> Generated<'a> {
    fn into_choice(self, partial: &mut Partial) -> Result<Choice<'a>, Error> {
        self.count(partial);
        let tokens = || self.generated_tokens.told().and_then(read_tokens);
        Ok(Choice {
            logprobs: partial.logprobs.place(0, &self.generated_text, tokens),
            text: self.generated_text,
            finish: self
                .stop_reason
                .map_or(Ok(None), |reason| read_reason(&reason, partial))?,
            ..Choice::default()
        })
    }

    /// No count ever sinks; a prompt of no tokens is one that has not been counted.
    fn count(&self, partial: &mut Partial) {
        let before = partial.usage.unwrap_or_default();
        let prompt = self.input_token_count.max(before.prompt_tokens);
        let generated = self.generated_token_count.max(before.completion_tokens);
        partial.usage = (prompt > 0).then(|| Usage::new(prompt, generated));
    }
}

/// Reads the generated tokens. What is of another form counts as absent.
fn read_tokens(list: &RawValue) -> Option<Vec<Token<'_>>> {
    let told: Vec<Told<'_>> = serde_json::from_str(list.get()).ok()?;
    let tokens = told.into_iter().map(|mut told| {
        let top = told.top_tokens.take().unwrap_or_default().into_iter();
        Token {
            top: top.map(Scored::from).collect(),
            chosen: told.into(),
        }
    });
    Some(tokens.collect())
}

#[derive(Deserialize)]
struct Told<'a> {
    #[serde(borrow, default)]
    text: Text<'a>,
    #[serde(borrow, default)]
    logprob: Score<'a>,
    #[serde(borrow, default)]
    top_tokens: Option<Vec<Told<'a>>>,
}

impl<'a> From<Told<'a>> for Scored<'a> {
    fn from(told: Told<'a>) -> Self {
        Self::new(told.text.0, told.logprob)
    }
}

/// "These values will be lower-cased so test for values case insensitive."
fn read_reason(reason: &str, partial: &mut Partial) -> Result<Option<Finish<'static>>, Error> {
    let reason = reason.to_ascii_lowercase();
    match reason.as_str() {
        "" | "not_finished" => Ok(None),
        // The text is a fragment: a client that took it for complete would never try again.
        "error" => Err(Error::new(
            Kind::Upstream(StatusCode::INTERNAL_SERVER_ERROR),
            "The provider's generation failed.",
        )),
        "cancelled" => Err(Error::broken("The provider cancelled the generation.")),
        _ => {
            partial.finished.end(0);
            Ok(Some(Finish::from_native(reason)))
        }
    }
}

/// The first of the errors; the others are consequences of it.
fn told_error(errors: Vec<ToldError<'_>>, status: StatusCode) -> Option<Error> {
    let told = errors.into_iter().next()?;
    let error = Error::new(Kind::Upstream(status), told.message.into_owned());
    Some(match &*told.code {
        "" => error,
        code => error.with_code(code.to_owned()),
    })
}

/// "The maximum value permitted is 5, but more may be returned if there is a tie for nth place."
const MAX_TOP_TOKENS: u32 = 5;

/// Fields of the API that the page lacks and that leave the answer a text.
const EXTRAS: &[&str] = &[
    "length_penalty",
    "min_new_tokens",
    "project_id",
    "repetition_penalty",
    "space_id",
    "time_limit",
    "top_k",
    "truncate_input_tokens",
];
/// Those of them that stand beside `parameters`, not in it.
const OF_BODY: &[&str] = &["project_id", "space_id"];

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{completion::FinishReason, dialect::settle};

    fn write(fields: &str) -> Result<(String, String), Error> {
        let body = format!(r#"{{"model":"ibm/granite","prompt":"a\n\u00e9",{fields}}}"#);
        let mut request = CompletionRequest::read(Bytes::from(body)).unwrap();
        settle(&mut request, &WATSONX, &[], "watsonx")?;
        let upstream = WATSONX.write_request(&request)?;
        assert!(upstream.headers.is_empty());
        let body = String::from_utf8(upstream.body.to_vec()).unwrap();
        Ok((upstream.path.into_owned(), body))
    }

    #[test]
    fn every_parameter_has_its_place_in_the_request() {
        let fields = r#""max_tokens":9,"temperature":0.5,"top_p":0.9,"stop":["\n\nQ:","END"],"seed":7,"project_id":"p-1",
            "top_k":4,"min_new_tokens":2,"repetition_penalty":1.5,"logprobs":5"#;
        let (path, body) = write(fields).unwrap();
        assert_eq!(path, "/ml/v1/text/generation?version=2025-02-11");
        assert_eq!(
            body,
            concat!(
                r#"{"model_id":"ibm/granite","input":"a\n\u00e9","parameters":{"max_new_tokens":9,"decoding_method":"sample","#,
                r#""temperature":0.5,"top_p":0.9,"random_seed":7,"stop_sequences":["\n\nQ:","END"],"include_stop_sequence":false,"#,
                r#""return_options":{"generated_tokens":true,"token_logprobs":true,"top_n_tokens":5},"#,
                r#""min_new_tokens":2,"repetition_penalty":1.5,"top_k":4},"project_id":"p-1"}"#,
            )
        );
        let stream = r#""stream":true,"stream_options":{"include_usage":true}"#;
        let (path, _) = write(stream).unwrap();
        assert_eq!(path, "/ml/v1/text/generation_stream?version=2025-02-11");
    }

    #[test]
    fn nothing_is_sent_that_was_not_asked_for() {
        let neutral = r#""n":1,"best_of":1,"echo":false,"presence_penalty":0,"frequency_penalty":0,"logit_bias":{},"suffix":"","stop":null,"space_id":null"#;
        assert_eq!(
            write(neutral).unwrap().1,
            r#"{"model_id":"ibm/granite","input":"a\n\u00e9","parameters":{"max_new_tokens":16,"decoding_method":"sample"}}"#
        );
        let greedy = r#""temperature":0,"top_p":0.5"#;
        assert_eq!(
            write(greedy).unwrap().1,
            r#"{"model_id":"ibm/granite","input":"a\n\u00e9","parameters":{"max_new_tokens":16,"decoding_method":"greedy"}}"#
        );
        let (_, chosen_alone) = write(r#""logprobs":0"#).unwrap();
        let options = r#""return_options":{"generated_tokens":true,"token_logprobs":true}"#;
        assert!(chosen_alone.contains(options), "{chosen_alone}");
    }

    #[test]
    fn what_the_api_cannot_carry_is_refused_by_name() {
        let cases = [
            (r#""max_tokens":0"#, "max_tokens"),
            (r#""top_p":0"#, "top_p"),
            (r#""seed":0"#, "seed"),
            (r#""n":2"#, "n"),
            (r#""best_of":2"#, "best_of"),
            (r#""echo":true"#, "echo"),
            (r#""suffix":"x""#, "suffix"),
            (r#""logprobs":6"#, "logprobs"),
            (r#""logit_bias":{"1":2}"#, "logit_bias"),
            (r#""presence_penalty":0.1"#, "presence_penalty"),
            (r#""frequency_penalty":0.1"#, "frequency_penalty"),
            (r#""user":"u""#, "user"),
            (r#""input":"x""#, "input"),
            (r#""decoding_method":"greedy""#, "decoding_method"),
            (r#""return_options":{}"#, "return_options"),
        ];
        for (fields, param) in cases {
            let error = write(fields).expect_err(fields);
            assert_eq!(error.param(), Some(param), "{fields}");
            assert_eq!(error.status(), 400, "{fields}");
        }
    }

    fn result(reason: &str) -> String {
        format!(
            r#"{{"model_id":"m","results":[{{"generated_text":"a","generated_token_count":2,"input_token_count":5,"stop_reason":"{reason}"}}]}}"#
        )
    }

    #[test]
    fn every_stop_reason_becomes_one_of_the_pages() {
        for (native, reason) in [
            ("eos_token", FinishReason::Stop),
            ("EOS_TOKEN", FinishReason::Stop),
            ("stop_sequence", FinishReason::Stop),
            ("a_new_one", FinishReason::Stop),
            ("max_tokens", FinishReason::Length),
            ("token_limit", FinishReason::Length),
            ("TIME_LIMIT", FinishReason::Length),
        ] {
            let mut partial = Partial::default();
            let body = result(native);
            let reply = WATSONX.read_reply(body.as_bytes(), &mut partial).unwrap();
            let finish = reply.choices[0].finish.as_ref().unwrap();
            assert_eq!(finish.reason, reason, "{native}");
            assert_eq!(finish.native, native.to_ascii_lowercase());
            assert_eq!(
                (partial.finished.count(), partial.usage),
                (1, Some(Usage::new(5, 2)))
            );
        }
    }

    #[test]
    fn a_failed_generation_is_an_error_and_no_finish() {
        for (native, status) in [("error", 500), ("cancelled", 502), ("not_finished", 502)] {
            let mut partial = Partial::default();
            let body = result(native);
            let read = WATSONX.read_reply(body.as_bytes(), &mut partial);
            assert_eq!(read.unwrap_err().status(), status, "{native}");
            assert_eq!(partial.finished.count(), 0, "{native}");
        }
    }

    #[test]
    fn a_prompt_that_was_not_counted_leaves_no_usage() {
        let mut partial = Partial::default();
        let body = result("eos_token").replace("\"input_token_count\":5", "\"x\":0");
        WATSONX.read_reply(body.as_bytes(), &mut partial).unwrap();
        assert_eq!(partial.usage, None);
    }

    #[test]
    fn an_error_keeps_its_code_and_its_status() {
        let body = br#"{"errors":[{"code":"token_quota_reached","message":"Too many","more_info":"https://x"},{"code":"b","message":"c"}],"trace":"t","status_code":403}"#;
        let error = WATSONX.read_error(StatusCode::FORBIDDEN, body);
        assert_eq!(error.kind(), Kind::Upstream(StatusCode::FORBIDDEN));
        assert_eq!(error.message(), "Too many");
        let told = String::from_utf8(error.body()).unwrap();
        assert!(told.contains(r#""code":"token_quota_reached""#), "{told}");
        let inside = WATSONX.read_reply(body, &mut Partial::default());
        assert_eq!(inside.unwrap_err().status(), 403);
        for body in ["", "<html>", "{}", r#"{"errors":[]}"#, "[]", "null"] {
            let error = WATSONX.read_error(StatusCode::BAD_GATEWAY, body.as_bytes());
            assert_eq!(error.status(), 502, "{body}");
            assert!(error.message().contains("502"), "{body}");
        }
    }

    #[test]
    fn a_reply_without_result_or_reason_is_broken() {
        for body in [
            "",
            "{}",
            "[]",
            r#"{"results":[]}"#,
            r#"{"results":[{"generated_text":"a"}]}"#,
            r#"{"results":[{"generated_text":1,"stop_reason":"eos_token"}]}"#,
        ] {
            let read = WATSONX.read_reply(body.as_bytes(), &mut Partial::default());
            assert_eq!(read.unwrap_err().kind(), Kind::Broken, "{body}");
        }
    }
}
