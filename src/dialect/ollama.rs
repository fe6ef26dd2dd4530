//! Ollama's own API: `POST {base}/api/generate`, where the base is `http://host:port`.
//!
//! Source: <https://github.com/ollama/ollama/blob/main/docs/api.md#generate-a-completion>, `docs/openapi.yaml` beside it, and
//! `server/routes.go` for what the page leaves out. The prompt goes raw: no template is put around it. A prompt with a suffix
//! is the exception, since the server reads `suffix` in the model's own template alone. A stream is JSON lines.
//!
//! Log-probabilities are of version 0.12.11; older servers take no notice of them, so that a whole reply fails here.
//! The penalties are options of the API; versions of the server's own engine that lack them (`sample/samplers.go`) take no notice.

use std::{borrow::Cow, collections::BTreeMap};

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    completion::{
        Choice, Completion, CompletionRequest, Finish, Parameter, Partial, Support, Usage,
        logprobs::behind_thoughts,
    },
    dialect::{
        Dialect, Extras, PromptForm, Step, UpstreamRequest, extras,
        lenient::Field,
        not_the_shape,
        openai::learn_head,
        openai_error::{read_error, read_stream_error},
        positive_max_tokens, to_body,
        token_logprobs::{alternatives, read_tokens},
    },
    error::Error,
    wire::{Frame, Framing},
};

/// Ollama's generate endpoint.
#[derive(Debug)]
pub struct Ollama;

pub static OLLAMA: Ollama = Ollama;

impl Dialect for Ollama {
    fn name(&self) -> &'static str {
        "ollama"
    }

    fn framing(&self) -> Framing {
        Framing::JsonLines
    }

    fn support(&self, parameter: Parameter) -> Support {
        match parameter {
            Parameter::MaxTokens
            | Parameter::Temperature
            | Parameter::TopP
            | Parameter::Stream
            | Parameter::Stop
            | Parameter::PresencePenalty
            | Parameter::FrequencyPenalty
            | Parameter::Suffix
            | Parameter::Logprobs
            | Parameter::Seed => Support::Native,
            Parameter::StreamOptions => Support::Emulated,
            Parameter::Prompts
            | Parameter::TokenIds
            | Parameter::N
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
        Ok(UpstreamRequest {
            path: Cow::Borrowed("/api/generate"),
            headers: &[],
            body: to_body(&Body::try_new(request)?)?,
        })
    }

    fn read_reply<'b>(
        &self,
        body: &'b [u8],
        partial: &mut Partial,
    ) -> Result<Completion<'b>, Error> {
        let reply = Reply::read(body)?;
        if !reply.done || reply.response.is_none() {
            return Err(Error::broken(
                "The provider's answer holds no text or is not done.",
            ));
        }
        Ok(Completion {
            choices: vec![reply.into_choice(partial)],
        })
    }

    fn read_frame<'f>(&self, frame: &'f Frame, partial: &mut Partial) -> Result<Step<'f>, Error> {
        let reply = Reply::read(&frame.data)?;
        let done = reply.done;
        let choices = vec![reply.into_choice(partial)];
        Ok(if done {
            Step::Last(Completion { choices })
        } else {
            Step::from(choices)
        })
    }

    fn read_error(&self, status: StatusCode, body: &[u8]) -> Error {
        read_error(status, body)
    }
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    prompt: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    suffix: Option<&'a str>,
    raw: bool,
    /// Said either way: "default: true".
    stream: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    logprobs: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<u32>,
    options: Options<'a>,
    #[serde(flatten)]
    extra: Fields<'a>,
}

type Fields<'a> = BTreeMap<&'a str, &'a RawValue>;

#[derive(Serialize)]
struct Options<'a> {
    num_predict: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    presence_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency_penalty: Option<f64>,
    #[serde(flatten)]
    extra: Fields<'a>,
}

impl<'a> Body<'a> {
    fn try_new(request: &'a CompletionRequest) -> Result<Self, Error> {
        let suffix = request.suffix.as_deref().filter(|text| !text.is_empty());
        let logprobs = alternatives(request, MAX_TOP_LOGPROBS)?;
        let (of_body, of_options) = extras(request).partition(|(name, _)| OF_BODY.contains(name));
        Ok(Self {
            model: request.model(),
            prompt: read_prompt(request)?,
            suffix,
            raw: suffix.is_none(),
            stream: request.stream,
            logprobs: logprobs.is_some(),
            top_logprobs: logprobs.filter(|&count| count > 0),
            options: Options {
                // The server takes 0 for "no limit".
                num_predict: positive_max_tokens(request)?,
                temperature: request.temperature,
                top_p: request.top_p,
                stop: &request.stop,
                seed: request.seed,
                presence_penalty: request.presence_penalty,
                frequency_penalty: request.frequency_penalty,
                extra: of_options,
            },
            extra: of_body,
        })
    }
}

/// "If an empty prompt is provided, the model will be loaded into memory": nothing would be generated.
fn read_prompt(request: &CompletionRequest) -> Result<&RawValue, Error> {
    let prompt = request.sole_text()?;
    if prompt.get() == r#""""# {
        let message = "`prompt` must not be empty for this provider.";
        return Err(Error::invalid("prompt", message));
    }
    Ok(prompt)
}

/// A whole reply or one line of a stream; an error in its place is read too. Thoughts (`thinking`) are left out, and their
/// tokens with them.
#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow, default)]
    model: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    response: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    thinking: Field<'a>,
    #[serde(borrow, default)]
    logprobs: Field<'a>,
    #[serde(default)]
    done: bool,
    #[serde(borrow, default)]
    done_reason: Option<Cow<'a, str>>,
    #[serde(default)]
    prompt_eval_count: Option<u64>,
    #[serde(default)]
    eval_count: Option<u64>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

impl<'a> Reply<'a> {
    fn read(body: &'a [u8]) -> Result<Self, Error> {
        let reply: Self = serde_json::from_slice(body).map_err(not_the_shape)?;
        match reply.error {
            Some(error) => Err(read_stream_error(error)),
            None => Ok(reply),
        }
    }

    fn into_choice(self, partial: &mut Partial) -> Choice<'a> {
        learn_head(partial, None, None, self.model);
        // A count of 0 is left out; a prompt has at least one token, so that its count is untold then.
        if let Some(prompt_tokens) = self.prompt_eval_count {
            let said = self.eval_count.unwrap_or_default();
            partial.usage = Some(Usage::new(prompt_tokens, said));
        }
        if self.done {
            partial.finished.end(0);
        }
        let text = self.response.unwrap_or_default();
        let thinks = self.thinking.word().is_some_and(|word| !word.is_empty());
        let tokens = || {
            let tokens = self.logprobs.told().and_then(read_tokens)?;
            Some(match thinks {
                true => behind_thoughts(tokens, &text),
                false => tokens,
            })
        };
        Choice {
            logprobs: partial.logprobs.place(0, &text, tokens),
            text,
            finish: self.done.then(|| finish(self.done_reason)),
            ..Choice::default()
        }
    }
}

/// Older servers tell no reason.
fn finish(reason: Option<Cow<'_, str>>) -> Finish<'_> {
    reason
        .filter(|reason| !reason.is_empty())
        .map_or(Finish::UNTOLD, Finish::from_native)
}

/// Fields of the API that the page lacks and that leave the answer a text. Those that want a template (`system`,
/// `template`, `context`) are not among them: "raw mode does not support" them.
const EXTRAS: &[&str] = &[
    "format",
    "keep_alive",
    "min_p",
    "mirostat",
    "mirostat_eta",
    "mirostat_tau",
    "num_ctx",
    "num_keep",
    "repeat_last_n",
    "repeat_penalty",
    "shift",
    "think",
    "top_k",
    "truncate",
    "typical_p",
];
/// `server/routes.go`: "top_logprobs must be between 0 and 20".
const MAX_TOP_LOGPROBS: u32 = 20;
/// Those of them that stand beside `options`, not in it.
const OF_BODY: &[&str] = &["format", "keep_alive", "shift", "think", "truncate"];

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{completion::FinishReason, dialect::settle, error::Kind, wire::Form};

    fn write(fields: &str) -> Result<String, Error> {
        let body = format!(r#"{{"model":"qwen3:8b","prompt":"a\n\u00e9",{fields}}}"#);
        let mut request = CompletionRequest::read(Bytes::from(body)).unwrap();
        settle(&mut request, &OLLAMA, &[], "ollama")?;
        let upstream = OLLAMA.write_request(&request)?;
        assert_eq!(upstream.path, "/api/generate");
        Ok(String::from_utf8(upstream.body.to_vec()).unwrap())
    }

    #[test]
    fn every_parameter_has_its_place_in_the_request() {
        let fields = r#""max_tokens":9,"temperature":0.5,"top_p":0.9,"stop":["\n\nQ:","END"],"seed":-7,"stream":true,"presence_penalty":1,
            "frequency_penalty":-0.5,"suffix":"\nend","logprobs":20,"stream_options":{"include_usage":true},"top_k":4,"num_ctx":4096,"keep_alive":"5m","think":false"#;
        assert_eq!(
            write(fields).unwrap(),
            concat!(
                r#"{"model":"qwen3:8b","prompt":"a\n\u00e9","suffix":"\nend","raw":false,"stream":true,"logprobs":true,"top_logprobs":20,"#,
                r#""options":{"num_predict":9,"temperature":0.5,"top_p":0.9,"stop":["\n\nQ:","END"],"seed":-7,"#,
                r#""presence_penalty":1.0,"frequency_penalty":-0.5,"num_ctx":4096,"top_k":4},"keep_alive":"5m","think":false}"#,
            )
        );
    }

    #[test]
    fn nothing_is_sent_that_was_not_asked_for() {
        let neutral = r#""n":1,"best_of":1,"echo":false,"logit_bias":{},"suffix":"","stop":null,"format":null,"unknown":null"#;
        assert_eq!(
            write(neutral).unwrap(),
            r#"{"model":"qwen3:8b","prompt":"a\n\u00e9","raw":true,"stream":false,"options":{"num_predict":16}}"#
        );
        let chosen_alone = write(r#""logprobs":0"#).unwrap();
        assert!(chosen_alone.contains(r#""logprobs":true,"options""#));
    }

    #[test]
    fn what_the_api_cannot_carry_is_refused_by_name() {
        for (fields, param) in [
            (r#""max_tokens":0"#, "max_tokens"),
            (r#""n":2"#, "n"),
            (r#""best_of":2"#, "best_of"),
            (r#""echo":true"#, "echo"),
            (r#""logprobs":21"#, "logprobs"),
            (r#""logit_bias":{"1":2}"#, "logit_bias"),
            (r#""user":"u""#, "user"),
            (r#""system":"s""#, "system"),
            (r#""options":{}"#, "options"),
            (r#""raw":false"#, "raw"),
            (r#""images":[]"#, "images"),
        ] {
            let error = write(fields).expect_err(fields);
            assert_eq!((error.param(), error.status().as_u16()), (Some(param), 400));
        }
        for prompt in [r#""""#, r#"["a","b"]"#, "[1,2]", "[[1],[2]]", "null"] {
            let body = format!(r#"{{"model":"m","prompt":{prompt}}}"#);
            let mut request = CompletionRequest::read(Bytes::from(body)).unwrap();
            let settled = settle(&mut request, &OLLAMA, &[], "ollama");
            let error = settled.and_then(|()| OLLAMA.write_request(&request).map(drop));
            assert_eq!(error.unwrap_err().param(), Some("prompt"), "{prompt}");
        }
    }

    #[test]
    fn every_reason_becomes_one_of_the_pages() {
        for (told, reason, native) in [
            (r#","done_reason":"stop""#, FinishReason::Stop, "stop"),
            (r#","done_reason":"length""#, FinishReason::Length, "length"),
            (r#","done_reason":"""#, FinishReason::Stop, ""),
            ("", FinishReason::Stop, ""),
        ] {
            let body = format!(r#"{{"response":"a","done":true{told}}}"#);
            let mut partial = Partial::default();
            let reply = OLLAMA.read_reply(body.as_bytes(), &mut partial).unwrap();
            let finish = reply.choices[0].finish.as_ref().unwrap();
            assert_eq!((finish.reason, &*finish.native), (reason, native));
            assert_eq!((partial.finished.count(), partial.usage), (1, None));
        }
    }

    #[test]
    fn a_count_of_nothing_is_zero_and_an_untold_prompt_is_no_count() {
        for (counts, usage) in [
            (
                r#""prompt_eval_count":26,"eval_count":259"#,
                Some(Usage::new(26, 259)),
            ),
            (r#""prompt_eval_count":26"#, Some(Usage::new(26, 0))),
            (r#""eval_count":259"#, None),
        ] {
            let body = format!(r#"{{"model":"m","response":"","done":true,{counts}}}"#);
            let mut partial = Partial::default();
            OLLAMA.read_reply(body.as_bytes(), &mut partial).unwrap();
            assert_eq!((partial.usage, &*partial.model), (usage, "m"));
        }
    }

    #[test]
    fn an_error_keeps_its_words() {
        let body = br#"{"error":"model 'm' not found"}"#;
        let error = OLLAMA.read_error(StatusCode::NOT_FOUND, body);
        assert_eq!(
            (error.status().as_u16(), error.message()),
            (404, "model 'm' not found")
        );
        let frame = Frame {
            raw: Bytes::new(),
            event: Bytes::new(),
            data: Bytes::from_static(body),
            form: Form::Other,
        };
        let error = OLLAMA
            .read_frame(&frame, &mut Partial::default())
            .unwrap_err();
        assert_eq!(
            (error.status().as_u16(), error.message()),
            (502, "model 'm' not found")
        );
    }

    #[test]
    fn a_reply_that_is_not_done_or_has_no_text_is_broken() {
        for body in [
            "",
            "{}",
            "[]",
            r#"{"response":"a","done":false}"#,
            r#"{"response":"a"}"#,
            r#"{"done":true}"#,
        ] {
            let read = OLLAMA.read_reply(body.as_bytes(), &mut Partial::default());
            assert_eq!(read.unwrap_err().kind(), Kind::Broken, "{body}");
        }
    }
}
