//! Triton's generate extension: `POST {base}/generate` and `/generate_stream`.
//!
//! Sources: [the extension](https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_generate.md);
//! for the names of the parameters, which each model declares for itself, those that TensorRT-LLM's models
//! [have](https://github.com/triton-inference-server/tensorrtllm_backend/blob/main/docs/model_config.md). The model stands
//! in the base URL (`http://host/v2/models/ensemble`), so that no model is sent.
//!
//! * **The stream has neither a finish reason nor an end marker.** A clean end of its body after at least one event is its
//!   completion, told as `stop`; there is nothing else that could be. A body that breaks off is an error here as anywhere,
//!   but a server, or a proxy before it, that ends the body early and cleanly cannot be told from one that was done.
//! * Tokens are counted on request, by models of 2025 and later
//!   ([inputs and outputs](https://github.com/NVIDIA/TensorRT-LLM/blob/main/triton_backend/all_models/inflight_batcher_llm/ensemble/config.pbtxt)).
//!   A stream's events count what each brings, as NVIDIA's own OpenAI front end
//!   [adds them up](https://github.com/triton-inference-server/server/blob/main/python/openai/openai_frontend/engine/utils/triton.py).
//!   An older model takes the request for parameters that mean nothing: there is no `usage` then, and a text cut at
//!   `max_tokens` is told as `stop`.
//! * The text comes without the prompt if the model knows `exclude_input_in_output`; one that does not echoes it as it is
//!   configured to.
//! * Some models leave the stop sequence that ended a text in it; it is taken off here.

use std::{borrow::Cow, collections::BTreeMap};

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    completion::{Choice, Completion, CompletionRequest, Parameter, Partial, Support, Usage},
    dialect::{
        Dialect, Extras, PromptForm, Step, UpstreamRequest, extras, lenient::Field, not_the_shape,
        openai::learn_head, openai_error::read_error, positive_max_tokens, to_body, unsigned_seed,
        untold_finish,
    },
    error::Error,
    wire::{Form, Frame, Framing},
};

/// Triton's generate.
#[derive(Debug)]
pub struct Triton;

pub static TRITON: Triton = Triton;

impl Dialect for Triton {
    fn name(&self) -> &'static str {
        "triton"
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
            | Parameter::PresencePenalty
            | Parameter::FrequencyPenalty
            | Parameter::Echo
            | Parameter::Seed => Support::Native,
            Parameter::Suffix | Parameter::StreamOptions => Support::Emulated,
            Parameter::Prompts
            | Parameter::TokenIds
            | Parameter::N
            | Parameter::BestOf
            | Parameter::Logprobs
            | Parameter::User
            | Parameter::LogitBias => Support::Refused,
        }
    }

    fn carries(&self, parameter: Parameter, request: &CompletionRequest) -> bool {
        parameter != Parameter::Echo || !request.stream
    }

    fn extras(&self) -> Extras {
        Extras::Only(EXTRAS)
    }

    fn prompt_form(&self) -> PromptForm {
        PromptForm::Text
    }

    fn write_request(&self, request: &CompletionRequest) -> Result<UpstreamRequest, Error> {
        let path = if request.stream {
            "/generate_stream"
        } else {
            "/generate"
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
        let text = read_text(body, partial)?;
        let mut text = partial.tail.push(text);
        let rest = partial.tail.end_stopped();
        if !rest.is_empty() {
            text.to_mut().push_str(&rest);
        }
        Ok(finished(text, partial))
    }

    fn read_frame<'f>(&self, frame: &'f Frame, partial: &mut Partial) -> Result<Step<'f>, Error> {
        if frame.form == Form::Comment {
            return Ok(Step::Skip);
        }
        let text = read_text(&frame.data, partial)?;
        Ok(Step::from(vec![Choice {
            text: partial.tail.push(text),
            ..Choice::default()
        }]))
    }

    fn read_end(&self, partial: &mut Partial) -> Option<Completion<'static>> {
        // Every answer has at least one event: a body without any is none.
        partial.headed.then(|| {
            let rest = partial.tail.end_stopped();
            finished(Cow::Owned(rest), partial)
        })
    }

    /// `{"error":"…"}`
    fn read_error(&self, status: StatusCode, body: &[u8]) -> Error {
        read_error(status, body)
    }
}

#[derive(Serialize)]
struct Body<'a> {
    text_input: &'a RawValue,
    max_tokens: u64,
    exclude_input_in_output: bool,
    return_num_input_tokens: bool,
    return_num_output_tokens: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop_words: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    presence_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    random_seed: Option<u64>,
    /// Models that answer token by token need it beside the address.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stream: bool,
    #[serde(flatten)]
    extra: BTreeMap<&'a str, &'a RawValue>,
}

impl<'a> Body<'a> {
    fn try_new(request: &'a CompletionRequest) -> Result<Self, Error> {
        let echo = request.echo == Some(true);
        // Each event of a stream would hold the prompt, or the server refuses it: the models do not agree.
        if echo && request.stream {
            return Err(Error::invalid(
                "echo",
                "`echo` cannot be streamed by this provider.",
            ));
        }
        // TensorRT-LLM takes the likeliest token, whatever the temperature, unless `top_p` or `top_k` is set.
        let sampled = request.temperature.filter(|&t| t > 0.0).map(|_| 1.0);
        Ok(Self {
            text_input: request.sole_text()?,
            max_tokens: positive_max_tokens(request)?,
            exclude_input_in_output: !echo,
            return_num_input_tokens: true,
            return_num_output_tokens: true,
            temperature: request.temperature,
            top_p: request.top_p.or(sampled),
            stop_words: &request.stop,
            presence_penalty: request.presence_penalty.filter(|&p| p != 0.0),
            frequency_penalty: request.frequency_penalty.filter(|&p| p != 0.0),
            random_seed: unsigned_seed(request)?,
            stream: request.stream,
            extra: extras(request).collect(),
        })
    }
}

/// A whole reply or one event; an error in its place is read too.
#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow, default)]
    model_name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    text_output: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    num_input_tokens: Field<'a>,
    #[serde(borrow, default)]
    num_output_tokens: Field<'a>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

/// "The user must always check whether an error object is received": it names no status.
fn read_text<'a>(data: &'a [u8], partial: &mut Partial) -> Result<Cow<'a, str>, Error> {
    let reply: Reply<'a> = serde_json::from_slice(data).map_err(not_the_shape)?;
    if reply.error.is_some() {
        return Err(read_error(StatusCode::BAD_GATEWAY, data));
    }
    let missing = || Error::broken("The provider's answer holds no text.");
    let text = reply.text_output.ok_or_else(missing)?;
    learn_head(partial, None, None, reply.model_name);
    if let (Some(prompt), Some(said)) = (
        reply.num_input_tokens.figure(),
        reply.num_output_tokens.figure::<u64>(),
    ) {
        let before = partial.usage.map_or(0, |usage| usage.completion_tokens);
        partial.usage = Some(Usage::new(prompt, before.saturating_add(said)));
    }
    Ok(text)
}

fn finished<'a>(text: Cow<'a, str>, partial: &mut Partial) -> Completion<'a> {
    Completion {
        choices: vec![Choice {
            text,
            finish: Some(untold_finish(partial)),
            ..Choice::default()
        }],
    }
}

/// Parameters of TensorRT-LLM's models that the page lacks and that leave the answer one text.
const EXTRAS: &[&str] = &[
    "bad_words",
    "end_id",
    "length_penalty",
    "lora_task_id",
    "min_length",
    "pad_id",
    "repetition_penalty",
    "top_k",
];

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        completion::{Finish, FinishReason, Tail},
        dialect::settle,
        error::Kind,
    };

    fn write(fields: &str) -> Result<(String, String), Error> {
        let body = format!(r#"{{"model":"m","prompt":"a\n\u00e9",{fields}}}"#);
        let mut request = CompletionRequest::read(Bytes::from(body)).unwrap();
        settle(&mut request, &TRITON, &[], "triton")?;
        let upstream = TRITON.write_request(&request)?;
        assert!(upstream.headers.is_empty());
        let body = String::from_utf8(upstream.body.to_vec()).unwrap();
        Ok((upstream.path.into_owned(), body))
    }

    #[test]
    fn every_parameter_has_its_place_in_the_request() {
        let fields = r#""max_tokens":9,"temperature":0.5,"top_p":1,"stop":["\n\nQ:","END"],"seed":7,"presence_penalty":0.5,
            "frequency_penalty":-0.5,"stream":true,"stream_options":{"include_usage":true},"top_k":4,"bad_words":["x"]"#;
        let (path, body) = write(fields).unwrap();
        assert_eq!(path, "/generate_stream");
        assert_eq!(
            body,
            concat!(
                r#"{"text_input":"a\n\u00e9","max_tokens":9,"exclude_input_in_output":true,"return_num_input_tokens":true,"return_num_output_tokens":true,"temperature":0.5,"top_p":1.0,"#,
                r#""stop_words":["\n\nQ:","END"],"presence_penalty":0.5,"frequency_penalty":-0.5,"random_seed":7,"stream":true,"#,
                r#""bad_words":["x"],"top_k":4}"#,
            )
        );
        let (_, sampled) = write(r#""temperature":0.5"#).unwrap();
        assert!(sampled.contains(r#""temperature":0.5,"top_p":1.0"#));
        let (_, greedy) = write(r#""temperature":0"#).unwrap();
        assert!(greedy.ends_with(r#""temperature":0.0}"#), "{greedy}");
        let (path, body) = write(r#""echo":true"#).unwrap();
        assert_eq!(path, "/generate");
        assert!(
            body.contains(r#""exclude_input_in_output":false"#),
            "{body}"
        );
    }

    #[test]
    fn nothing_is_sent_that_was_not_asked_for() {
        let neutral = r#""n":1,"best_of":1,"echo":false,"presence_penalty":0,"frequency_penalty":0,"logit_bias":{},"suffix":"","stop":null,"top_k":null"#;
        assert_eq!(
            write(neutral).unwrap().1,
            r#"{"text_input":"a\n\u00e9","max_tokens":16,"exclude_input_in_output":true,"return_num_input_tokens":true,"return_num_output_tokens":true}"#
        );
    }

    #[test]
    fn what_the_api_cannot_carry_is_refused_by_name() {
        let cases = [
            (r#""max_tokens":0"#, "max_tokens"),
            (r#""seed":-1"#, "seed"),
            (r#""echo":true,"stream":true"#, "echo"),
            (r#""n":2"#, "n"),
            (r#""best_of":2"#, "best_of"),
            (r#""suffix":"x""#, "suffix"),
            (r#""logprobs":0"#, "logprobs"),
            (r#""logit_bias":{"1":2}"#, "logit_bias"),
            (r#""user":"u""#, "user"),
            (r#""text_input":"x""#, "text_input"),
            (r#""beam_width":2"#, "beam_width"),
        ];
        for (fields, param) in cases {
            let error = write(fields).expect_err(fields);
            assert_eq!(error.param(), Some(param), "{fields}");
            assert_eq!(error.status(), 400, "{fields}");
        }
    }

    #[test]
    fn a_text_ends_without_its_stop_sequence_and_without_counts() {
        for (told, text) in [("a END", "a "), ("a EN", "a EN"), ("", "")] {
            let mut partial = Partial {
                tail: Tail::new(&["END".to_owned()]),
                ..Partial::default()
            };
            let body = format!(r#"{{"model_name":"ensemble","text_output":"{told}"}}"#);
            let reply = TRITON.read_reply(body.as_bytes(), &mut partial).unwrap();
            assert_eq!(reply.choices[0].text, text);
            assert_eq!(reply.choices[0].finish, Some(Finish::UNTOLD));
            assert_eq!((partial.finished.count(), partial.usage), (1, None));
            assert_eq!(partial.model, "ensemble");
        }
    }

    #[test]
    fn counts_of_a_streams_events_add_up_and_show_a_cut() {
        for (limit, reason) in [(3, FinishReason::Length), (4, FinishReason::Stop)] {
            let mut partial = Partial {
                limit,
                ..Partial::default()
            };
            for said in [1, 2] {
                let event = format!(
                    r#"{{"text_output":"a","num_input_tokens":5,"num_output_tokens":{said}}}"#
                );
                read_text(event.as_bytes(), &mut partial).unwrap();
            }
            let end = TRITON.read_end(&mut partial).unwrap();
            assert_eq!(end.choices[0].finish.as_ref().unwrap().reason, reason);
            assert_eq!(partial.usage, Some(Usage::new(5, 3)));
        }
    }

    #[test]
    fn a_clean_end_finishes_a_stream_that_has_begun() {
        let mut partial = Partial::default();
        assert!(TRITON.read_end(&mut partial).is_none());
        read_text(br#"{"text_output":""}"#, &mut partial).unwrap();
        let end = TRITON.read_end(&mut partial).unwrap();
        assert_eq!(end.choices[0].finish, Some(Finish::UNTOLD));
        assert_eq!(partial.finished.count(), 1);
    }

    #[test]
    fn an_error_keeps_its_status_and_its_words() {
        let body = br#"{"error":"Request for unknown model: 'm' is not found"}"#;
        let error = TRITON.read_error(StatusCode::BAD_REQUEST, body);
        assert_eq!(error.kind(), Kind::Upstream(StatusCode::BAD_REQUEST));
        assert!(error.message().starts_with("Request for unknown model"));
        let told = TRITON.read_reply(body, &mut Partial::default());
        assert_eq!(told.unwrap_err().status(), 502);
        for body in ["", "<html>", "{}", "[]", "null"] {
            let error = TRITON.read_error(StatusCode::BAD_GATEWAY, body.as_bytes());
            assert!(error.message().contains("502"), "{body}");
        }
    }

    #[test]
    fn a_reply_that_is_no_one_text_is_broken() {
        for body in [
            "",
            "{}",
            "[]",
            "null",
            r#"{"text_output":["a","b"]}"#,
            r#"{"text_output":null}"#,
        ] {
            let read = TRITON.read_reply(body.as_bytes(), &mut Partial::default());
            assert_eq!(read.unwrap_err().kind(), Kind::Broken, "{body}");
        }
    }
}
