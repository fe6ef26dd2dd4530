//! Cloudflare's Workers AI: `POST {base}/ai/run/{model}`.
//!
//! Sources: <https://developers.cloudflare.com/api/resources/ai/methods/run/>, a model's page (say
//! <https://developers.cloudflare.com/workers-ai/models/llama-3.1-8b-instruct/>) and
//! [errors](https://developers.cloudflare.com/workers-ai/platform/errors/). The base URL ends with the account. `raw` keeps
//! the model's chat template away from the prompt: the text is a true continuation.
//!
//! The API's own form tells no finish reason: the end marker ends a stream. A text that has as many tokens as were allowed
//! counts as cut by `max_tokens`, any other, and one that is not counted, as finished; a text that stops by itself at its
//! last allowed token is thus told as `length`. Newer models answer in OpenAI's form, with a reason, and are read as well.

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    completion::{Choice, Completion, CompletionRequest, Finish, Parameter, Partial, Support},
    dialect::{
        Dialect, Extras, PromptForm, Step, UpstreamRequest, extras,
        lenient::Text,
        not_the_shape,
        openai_error::{read_error, read_stream_error},
        positive_max_tokens, read_usage, to_body, untold_finish,
    },
    error::{Error, Kind},
    wire::{Form, Frame, Framing},
};

/// Cloudflare's text generation.
#[derive(Debug)]
pub struct WorkersAi;

pub static WORKERS_AI: WorkersAi = WorkersAi;

impl Dialect for WorkersAi {
    fn name(&self) -> &'static str {
        "workers-ai"
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
            | Parameter::PresencePenalty
            | Parameter::FrequencyPenalty
            | Parameter::Seed => Support::Native,
            Parameter::Suffix | Parameter::StreamOptions => Support::Emulated,
            Parameter::Prompts
            | Parameter::TokenIds
            | Parameter::N
            | Parameter::Stop
            | Parameter::Echo
            | Parameter::BestOf
            | Parameter::Logprobs
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
        Ok(UpstreamRequest {
            path: Cow::Owned(format!("/ai/run/{}", read_model(request.model())?)),
            headers: &[],
            body: write_body(request)?,
        })
    }

    fn read_reply<'b>(
        &self,
        body: &'b [u8],
        partial: &mut Partial,
    ) -> Result<Completion<'b>, Error> {
        let reply: Reply<'b> = serde_json::from_slice(body).map_err(not_the_shape)?;
        if let Some(error) = reply.errors.as_deref().and_then(told_inside) {
            return Err(error);
        }
        if let Some(error) = reply.error {
            return Err(read_stream_error(error));
        }
        let result = reply.result.filter(Said::says);
        let result = result.ok_or_else(|| Error::broken("The provider's answer holds no text."))?;
        let mut choices = result.read(partial)?;
        for choice in &mut choices {
            choice.finish.get_or_insert_with(|| untold_finish(partial));
        }
        Ok(Completion { choices })
    }

    fn read_frame<'f>(&self, frame: &'f Frame, partial: &mut Partial) -> Result<Step<'f>, Error> {
        if frame.form == Form::Comment {
            return Ok(Step::Skip);
        }
        if frame.data.trim_ascii() == b"[DONE]" {
            return Ok(end(partial));
        }
        let event: Said<'f> = serde_json::from_slice(&frame.data).map_err(not_the_shape)?;
        event.read(partial).map(Step::from)
    }

    fn read_error(&self, status: StatusCode, body: &[u8]) -> Error {
        let reply: Option<Reply<'_>> = serde_json::from_slice(body).ok();
        reply
            .and_then(|reply| Some(told(reply.errors?.first()?, status)))
            .unwrap_or_else(|| read_error(status, body))
    }
}

/// A model's name, `@cf/{author}/{model}`, all of which becomes a part of the path: nothing in it may leave it.
fn read_model(model: &str) -> Result<&str, Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let named = |piece: &str| piece.bytes().all(plain) && piece.bytes().any(|byte| byte != b'.');
    let mut pieces = model.split('/');
    let valid = matches!(pieces.next(), Some("@cf" | "@hf"))
        && pieces.next().is_some_and(named)
        && pieces.next().is_some_and(named)
        && pieces.next().is_none();
    let wrong = "`model` must have the form `@cf/author/model` for this provider, of letters, digits, `.`, `_` and `-`.";
    valid
        .then_some(model)
        .ok_or_else(|| Error::invalid("model", wrong))
}

#[derive(Serialize)]
struct Body<'a> {
    prompt: &'a RawValue,
    /// "If true, a chat template is not applied and you must adhere to the specific model's expected formatting."
    raw: bool,
    max_tokens: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    presence_penalty: Option<f64>,
    #[serde(flatten)]
    extra: BTreeMap<&'a str, &'a RawValue>,
}

fn write_body(request: &CompletionRequest) -> Result<Bytes, Error> {
    to_body(&Body {
        prompt: request.sole_text()?,
        raw: true,
        max_tokens: positive_max_tokens(request)?,
        stream: request.stream,
        temperature: request.temperature,
        top_p: request.top_p,
        seed: request.seed,
        frequency_penalty: request.frequency_penalty.filter(|&p| p != 0.0),
        presence_penalty: request.presence_penalty.filter(|&p| p != 0.0),
        extra: extras(request).collect(),
    })
}

/// Cloudflare's envelope around a whole reply and an error.
#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow, default)]
    result: Option<Said<'a>>,
    #[serde(borrow, default)]
    errors: Option<Vec<ToldError<'a>>>,
    /// The form of the models that answer as OpenAI's do.
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

/// What a model said: the `result` of a reply, or one event.
#[derive(Deserialize)]
struct Said<'a> {
    #[serde(borrow, default)]
    response: Option<&'a RawValue>,
    /// The same in OpenAI's form.
    #[serde(borrow, default)]
    choices: Option<Vec<EventChoice<'a>>>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    errors: Option<Vec<ToldError<'a>>>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct EventChoice<'a> {
    #[serde(default)]
    index: u32,
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow, default, alias = "delta")]
    message: Option<Content<'a>>,
    #[serde(borrow, default)]
    finish_reason: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Content<'a> {
    #[serde(borrow, default)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    refusal: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct ToldError<'a> {
    #[serde(default)]
    code: Option<u64>,
    #[serde(borrow)]
    message: Cow<'a, str>,
}

impl<'a> Said<'a> {
    fn says(&self) -> bool {
        self.response.is_some() || self.choices.as_ref().is_some_and(|list| !list.is_empty())
    }

    fn read(self, partial: &mut Partial) -> Result<Vec<Choice<'a>>, Error> {
        if let Some(error) = self.error {
            return Err(read_stream_error(error));
        }
        if let Some(error) = self.errors.as_deref().and_then(told_inside) {
            return Err(error);
        }
        partial.usage = read_usage(self.usage).or(partial.usage);
        if let Some(choices) = self.choices {
            return Ok(choices
                .into_iter()
                .map(|choice| choice.read(partial))
                .collect());
        }
        let text = self.response.map_or(Ok(Cow::Borrowed("")), read_text)?;
        Ok(vec![Choice {
            text,
            ..Choice::default()
        }])
    }
}

impl<'a> EventChoice<'a> {
    fn read(self, partial: &mut Partial) -> Choice<'a> {
        let finish = self.finish_reason.filter(|reason| !reason.is_empty());
        if finish.is_some() {
            partial.finished.end(self.index);
        }
        let (content, refusal) = self
            .message
            .map_or((None, None), |message| (message.content, message.refusal));
        let refusal = refusal.filter(|text| !text.is_empty());
        if refusal.is_some() {
            partial.refused.end(self.index);
        }
        let text = self.text.or(content).unwrap_or_default();
        Choice {
            index: self.index,
            text: text + refusal.unwrap_or_default(),
            logprobs: None,
            finish: finish.map(|reason| partial.judge(self.index, Finish::from_native(reason))),
        }
    }
}

/// A text; a token that is a number is sent as one.
fn read_text(response: &RawValue) -> Result<Cow<'_, str>, Error> {
    if response
        .get()
        .starts_with(|first: char| first.is_ascii_digit())
    {
        return Ok(Cow::Borrowed(response.get()));
    }
    let text: Option<Text<'_>> = serde_json::from_str(response.get()).map_err(not_the_shape)?;
    Ok(text.unwrap_or_default().0)
}

/// What the end marker means: all of the end, unless a reason came before.
fn end<'f>(partial: &mut Partial) -> Step<'f> {
    if !partial.finished.is_empty() {
        return Step::Done;
    }
    let finish = Some(untold_finish(partial));
    Step::Last(Completion {
        choices: vec![Choice {
            finish,
            ..Choice::default()
        }],
    })
}

/// An error inside a 200: it counts as the HTTP error that its code comes with elsewhere.
fn told_inside(errors: &[ToldError<'_>]) -> Option<Error> {
    let first = errors.first()?;
    let known = STATUSES.iter().find(|(code, _)| Some(*code) == first.code);
    let status = known.and_then(|&(_, status)| StatusCode::from_u16(status).ok());
    Some(told(first, status.unwrap_or(StatusCode::BAD_GATEWAY)))
}

fn told(error: &ToldError<'_>, status: StatusCode) -> Error {
    let told = Error::new(Kind::Upstream(status), error.message.clone().into_owned());
    match error.code {
        Some(code) => told.with_code(code.to_string()),
        None => told,
    }
}

/// The API's error codes and the statuses they come with.
const STATUSES: &[(u64, u16)] = &[
    (5007, 400),
    (5004, 400),
    (3039, 400),
    (3003, 400),
    (5018, 403),
    (5016, 403),
    (3023, 403),
    (3041, 403),
    (5019, 405),
    (5005, 405),
    (3042, 404),
    (3006, 413),
    (3007, 408),
    (3008, 408),
    (3036, 429),
    (3040, 429),
    // Not on the page.
    (3043, 500),
];

/// Fields of the API that the page lacks and that leave the answer a text.
const EXTRAS: &[&str] = &["lora", "repetition_penalty", "top_k"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{completion::FinishReason, dialect::settle};

    const MODEL: &str = "@cf/meta/llama-3.1-8b-instruct";

    fn write(model: &str, fields: &str) -> Result<(String, String), Error> {
        let body = format!(r#"{{"model":"{model}","prompt":"a\n\u00e9",{fields}}}"#);
        let mut request = CompletionRequest::read(Bytes::from(body))?;
        settle(&mut request, &WORKERS_AI, &[], "workers-ai")?;
        let upstream = WORKERS_AI.write_request(&request)?;
        let body = String::from_utf8(upstream.body.to_vec()).unwrap();
        Ok((upstream.path.into_owned(), body))
    }

    #[test]
    fn every_parameter_has_its_place_in_the_request() {
        let fields = r#""max_tokens":9,"temperature":1.5,"top_p":0.5,"seed":7,"presence_penalty":0.5,"frequency_penalty":-0.5,"stream":true,"top_k":4,"repetition_penalty":1.1,"lora":"x""#;
        let (path, body) = write(MODEL, fields).unwrap();
        assert_eq!(path, "/ai/run/@cf/meta/llama-3.1-8b-instruct");
        assert_eq!(
            body,
            concat!(
                r#"{"prompt":"a\n\u00e9","raw":true,"max_tokens":9,"stream":true,"temperature":1.5,"top_p":0.5,"seed":7,"#,
                r#""frequency_penalty":-0.5,"presence_penalty":0.5,"lora":"x","repetition_penalty":1.1,"top_k":4}"#,
            )
        );
    }

    #[test]
    fn nothing_is_sent_that_was_not_asked_for() {
        let neutral = r#""n":1,"best_of":1,"echo":false,"presence_penalty":0,"frequency_penalty":0,"logit_bias":{},"suffix":"","stop":[],"stream":false,"top_k":null"#;
        let (_, body) = write(MODEL, neutral).unwrap();
        assert_eq!(body, r#"{"prompt":"a\n\u00e9","raw":true,"max_tokens":16}"#);
    }

    #[test]
    fn what_the_api_cannot_carry_is_refused_by_name() {
        for (fields, param) in [
            (r#""max_tokens":0"#, "max_tokens"),
            (r#""stop":["x"]"#, "stop"),
            (r#""n":2"#, "n"),
            (r#""best_of":2"#, "best_of"),
            (r#""echo":true"#, "echo"),
            (r#""suffix":"x""#, "suffix"),
            (r#""logprobs":0"#, "logprobs"),
            (r#""user":"u""#, "user"),
            (r#""logit_bias":{"1":2}"#, "logit_bias"),
            (r#""raw":false"#, "raw"),
            (r#""messages":[]"#, "messages"),
        ] {
            let error = write(MODEL, fields).expect_err(fields);
            assert_eq!(error.param(), Some(param), "{fields}");
            assert_eq!(error.status(), 400, "{fields}");
        }
    }

    #[test]
    fn a_model_is_three_pieces_of_the_path() {
        assert!(write("@hf/thebloke/zephyr-7b-beta-awq", r#""n":1"#).is_ok());
        for model in [
            "",
            "llama",
            "meta/llama",
            "@cf/meta",
            "@cf/meta/",
            "@cf//llama",
            "@cf/meta/llama/x",
            "@cf/../llama",
            "@cf/meta/..",
            "@xx/meta/llama",
            "@cf/meta/llama?x=1",
            "@cf/meta/llama#",
            "@cf/meta/llama%2f",
            "@cf/meta/a@b",
            "@cf/meta/a b",
            "@cf/meta/modèle",
            "/@cf/meta/llama",
        ] {
            let error = write(model, r#""n":1"#).expect_err(model);
            assert_eq!(error.param(), Some("model"), "{model}");
        }
    }

    #[test]
    fn a_text_counts_as_cut_when_it_has_all_its_tokens() {
        for (limit, usage, reason) in [
            (
                2,
                r#","usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}"#,
                FinishReason::Length,
            ),
            (
                3,
                r#","usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}"#,
                FinishReason::Stop,
            ),
            (
                0,
                r#","usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}"#,
                FinishReason::Stop,
            ),
            (2, "", FinishReason::Stop),
        ] {
            let seeded = || Partial {
                limit,
                ..Partial::default()
            };
            let body = format!(
                r#"{{"result":{{"response":"a"{usage}}},"success":true,"errors":[],"messages":[]}}"#
            );
            let mut partial = seeded();
            let reply = WORKERS_AI
                .read_reply(body.as_bytes(), &mut partial)
                .unwrap();
            let finish = reply.choices[0].finish.as_ref().unwrap();
            assert_eq!(
                (finish.reason, partial.finished.count()),
                (reason, 1),
                "{limit} {usage}"
            );
            let mut partial = seeded();
            partial.usage = reply_usage(&body);
            let Step::Last(last) = end(&mut partial) else {
                panic!()
            };
            assert_eq!(
                last.choices[0].finish.as_ref().unwrap().reason,
                reason,
                "{limit} {usage}"
            );
        }
    }

    fn reply_usage(body: &str) -> Option<crate::completion::Usage> {
        let mut partial = Partial::default();
        WORKERS_AI
            .read_reply(body.as_bytes(), &mut partial)
            .unwrap();
        partial.usage
    }

    #[test]
    fn a_reply_in_openais_form_is_read_with_its_reason() {
        for choice in [
            r#"{"index":0,"text":"a","finish_reason":"length"}"#,
            r#"{"index":0,"message":{"role":"assistant","content":"a"},"finish_reason":"length"}"#,
        ] {
            let body =
                format!(r#"{{"result":{{"choices":[{choice}]}},"success":true,"errors":[]}}"#);
            let mut partial = Partial::default();
            let reply = WORKERS_AI
                .read_reply(body.as_bytes(), &mut partial)
                .unwrap();
            assert_eq!(reply.choices[0].text, "a");
            let finish = reply.choices[0].finish.as_ref().unwrap();
            assert_eq!(finish.reason, FinishReason::Length);
            assert_eq!(partial.finished.count(), 1);
        }
    }

    #[test]
    fn an_error_keeps_its_status_and_its_words() {
        let body = br#"{"result":null,"success":false,"errors":[{"code":5007,"message":"No such model"}],"messages":[]}"#;
        let error = WORKERS_AI.read_error(StatusCode::BAD_REQUEST, body);
        assert_eq!(error.kind(), Kind::Upstream(StatusCode::BAD_REQUEST));
        assert_eq!(error.message(), "No such model");
        let told = String::from_utf8(error.body()).unwrap();
        assert!(told.contains(r#""code":"5007""#), "{told}");
        let inside = |body: &str| {
            let read = WORKERS_AI.read_reply(body.as_bytes(), &mut Partial::default());
            read.unwrap_err().status()
        };
        for (code, status) in [(5007, 400), (3040, 429), (1, 502)] {
            let body =
                format!(r#"{{"success":false,"errors":[{{"code":{code},"message":"no"}}]}}"#);
            assert_eq!(inside(&body), status);
        }
        assert_eq!(
            inside(r#"{"error":{"code":"invalid_prompt","message":"no"}}"#),
            502
        );
        for body in ["", "<html>", "{}", "[]", "null", r#"{"errors":[]}"#] {
            let error = WORKERS_AI.read_error(StatusCode::BAD_GATEWAY, body.as_bytes());
            assert!(error.message().contains("502"), "{body}");
        }
    }

    #[test]
    fn a_reply_without_a_text_is_broken() {
        for body in [
            "",
            "{}",
            "[]",
            r#"{"result":null}"#,
            r#"{"result":{}}"#,
            r#"{"result":{"choices":[]}}"#,
            r#"{"result":{"response":{}}}"#,
        ] {
            let read = WORKERS_AI.read_reply(body.as_bytes(), &mut Partial::default());
            assert_eq!(read.unwrap_err().kind(), Kind::Broken, "{body}");
        }
    }
}
