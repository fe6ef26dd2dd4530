//! Anthropic Messages: `POST {base}/messages`.
//!
//! Sources: <https://docs.anthropic.com/en/api/messages>, [streaming](https://docs.anthropic.com/en/api/messages-streaming),
//! [errors](https://docs.anthropic.com/en/api/errors). The prompt becomes one user message, the reply's text blocks become
//! `text`; thoughts and tool calls are left out. The page's default of 16 tokens holds here too, although the API has none.
//!
//! The start of the answer can be given as its last message, in text that does not end with whitespace
//! ([prefill](https://docs.anthropic.com/en/docs/build-with-claude/prompt-engineering/prefill-claudes-response)). Claude 4.6 and
//! later [refuse it](https://platform.claude.com/docs/en/about-claude/models/migration-guide), and so does thinking.
//!
//! The API's `metadata` is not taken from a client: its one field is what the page calls `user`, and OpenAI gives the same
//! name another meaning.

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    completion::{
        Choice, Completion, CompletionRequest, Finish, Mark, Parameter, Partial, Support, Usage,
    },
    dialect::{
        Dialect, Extras, Step, UpstreamRequest, extras, join, not_the_shape,
        openai::learn_head,
        openai_error::read_error,
        positive_max_tokens, to_body,
        turns::{Said, Words, check_trailing_space, instruction, turns},
    },
    error::Error,
    wire::{Form, Frame, Framing},
};

/// Anthropic's Messages API.
#[derive(Debug)]
pub struct Anthropic;

pub static ANTHROPIC: Anthropic = Anthropic;

impl Dialect for Anthropic {
    fn name(&self) -> &'static str {
        "anthropic"
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
            | Parameter::User => Support::Native,
            Parameter::StreamOptions => Support::Emulated,
            Parameter::Prompts
            | Parameter::TokenIds
            | Parameter::N
            | Parameter::PresencePenalty
            | Parameter::FrequencyPenalty
            | Parameter::Suffix
            | Parameter::Echo
            | Parameter::BestOf
            | Parameter::Logprobs
            | Parameter::Seed
            | Parameter::LogitBias => Support::Refused,
        }
    }

    fn carries(&self, parameter: Parameter, request: &CompletionRequest) -> bool {
        parameter != Parameter::Stop || request.stop.iter().all(|stop| !stop.trim().is_empty())
    }

    fn extras(&self) -> Extras {
        Extras::Only(EXTRAS)
    }

    fn prefill(&self, _told: Option<Mark>, _model: Option<&str>) -> Option<Mark> {
        Some(Mark::Role)
    }

    fn write_request(&self, request: &CompletionRequest) -> Result<UpstreamRequest, Error> {
        Ok(UpstreamRequest {
            path: Cow::Borrowed("/messages"),
            headers: &[("anthropic-version", "2023-06-01")],
            body: to_body(&Body {
                model: Some(request.model()),
                ..Body::try_new(request)?
            })?,
        })
    }

    fn read_reply<'b>(
        &self,
        body: &'b [u8],
        partial: &mut Partial,
    ) -> Result<Completion<'b>, Error> {
        let reply: Reply<'b> = serde_json::from_slice(body).map_err(not_the_shape)?;
        if let Some(error) = reply.error {
            return Err(read_told_error(&error, body));
        }
        // "In non-streaming mode this value is always non-null."
        let (Some(content), Some(reason)) = (reply.content, reply.stop_reason) else {
            return Err(Error::broken(
                "The provider's answer holds no content or no stop reason.",
            ));
        };
        learn_head(partial, reply.id, None, reply.model);
        count(reply.usage, partial);
        Ok(Completion {
            choices: vec![Choice {
                text: join(content.into_iter().filter_map(Piece::into_text)),
                finish: Some(finish(reason, partial)),
                ..Choice::default()
            }],
        })
    }

    fn read_frame<'f>(&self, frame: &'f Frame, partial: &mut Partial) -> Result<Step<'f>, Error> {
        if frame.form == Form::Comment {
            return Ok(Step::Skip);
        }
        let event: Event<'f> = serde_json::from_slice(&frame.data).map_err(not_the_shape)?;
        match &*event.kind {
            "message_start" => event.start(partial),
            "content_block_start" => event.content_block.map_or(Ok(Step::Skip), read_piece),
            "content_block_delta" => event.delta.map_or(Ok(Step::Skip), read_piece),
            "message_delta" => event.change(partial),
            "message_stop" => Ok(Step::Done),
            "error" => Err(match event.error {
                Some(error) => read_told_error(&error, &frame.data),
                None => read_error(StatusCode::BAD_GATEWAY, &frame.data),
            }),
            "ping" | "content_block_stop" => Ok(Step::Skip),
            // "New event types may be added."
            _ => Ok(Step::Unknown),
        }
    }

    fn tells_alike(&self) -> bool {
        true
    }

    fn read_error(&self, status: StatusCode, body: &[u8]) -> Error {
        read_error(status, body)
    }
}

/// The body as other clouds take it: the address names the model, and the body the API's version.
pub(super) fn write_cloud_body(
    request: &CompletionRequest,
    version: &'static str,
) -> Result<Bytes, Error> {
    to_body(&Body {
        anthropic_version: Some(version),
        ..Body::try_new(request)?
    })
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    anthropic_version: Option<&'static str>,
    max_tokens: u64,
    messages: Vec<Said<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<Words<'a>>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop_sequences: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata<'a>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stream: bool,
    #[serde(flatten)]
    extra: BTreeMap<&'a str, &'a RawValue>,
}

#[derive(Serialize)]
struct Metadata<'a> {
    user_id: &'a str,
}

impl<'a> Body<'a> {
    fn try_new(request: &'a CompletionRequest) -> Result<Self, Error> {
        // "Ranges from 0.0 to 1.0."
        if request.temperature.is_some_and(|t| t > 1.0) {
            return Err(Error::invalid(
                "temperature",
                "`temperature` must be from 0 to 1 for this provider.",
            ));
        }
        // "stop_sequences: each stop sequence must contain non-whitespace."
        if request.stop.iter().any(|stop| stop.trim().is_empty()) {
            return Err(Error::invalid(
                "stop",
                "`stop` must hold more than whitespace for this provider.",
            ));
        }
        check_trailing_space(request)?;
        Ok(Self {
            model: None,
            anthropic_version: None,
            max_tokens: positive_max_tokens(request)?,
            messages: turns(request)?.into_iter().map(Said::from).collect(),
            system: instruction(request, "system")?,
            stop_sequences: &request.stop,
            temperature: request.temperature,
            // Some models refuse the two together; 1 cuts nothing off.
            top_p: request.top_p.filter(|&p| p < 1.0),
            metadata: request.user.as_deref().map(|user_id| Metadata { user_id }),
            stream: request.stream,
            extra: extras(request).collect(),
        })
    }
}

/// A `Message`; an error in its place is read too.
#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    model: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    content: Option<Vec<Piece<'a>>>,
    #[serde(borrow, default)]
    stop_reason: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<ToldError<'a>>,
}

/// A content block, or a delta of one.
#[derive(Deserialize)]
struct Piece<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    text: Cow<'a, str>,
}

impl<'a> Piece<'a> {
    fn into_text(self) -> Option<Cow<'a, str>> {
        matches!(&*self.kind, "text" | "text_delta").then_some(self.text)
    }
}

/// Any event of a stream. What belongs to one type alone stays unread, so that a new type cannot fail the stream.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    message: Option<&'a RawValue>,
    #[serde(borrow, default)]
    content_block: Option<&'a RawValue>,
    #[serde(borrow, default)]
    delta: Option<&'a RawValue>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<ToldError<'a>>,
}

#[derive(Deserialize)]
struct Change<'a> {
    #[serde(borrow, default)]
    stop_reason: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct ToldError<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Cow<'a, str>,
}

impl<'a> Event<'a> {
    fn start(self, partial: &mut Partial) -> Result<Step<'a>, Error> {
        if let Some(message) = self.message {
            let message: Reply<'_> = serde_json::from_str(message.get()).map_err(not_the_shape)?;
            learn_head(partial, message.id, None, message.model);
            count(message.usage, partial);
        }
        Ok(Step::Skip)
    }

    fn change(self, partial: &mut Partial) -> Result<Step<'a>, Error> {
        count(self.usage, partial);
        let Some(delta) = self.delta else {
            return Ok(Step::Skip);
        };
        let change: Change<'a> = serde_json::from_str(delta.get()).map_err(not_the_shape)?;
        // "One or more message_delta events": the reason is told once.
        let reason = change.stop_reason.filter(|_| partial.finished.is_empty());
        Ok(Step::from(vec![Choice {
            finish: reason.map(|reason| finish(reason, partial)),
            ..Choice::default()
        }]))
    }
}

fn read_piece(piece: &RawValue) -> Result<Step<'_>, Error> {
    let piece: Piece<'_> = serde_json::from_str(piece.get()).map_err(not_the_shape)?;
    Ok(Step::from(vec![Choice {
        text: piece.into_text().unwrap_or_default(),
        ..Choice::default()
    }]))
}

fn finish<'a>(reason: Cow<'a, str>, partial: &mut Partial) -> Finish<'a> {
    partial.finished.end(0);
    Finish::from_native(reason)
}

/// Takes over token counts. They are cumulative and those of the input may be told once, at the start: none ever sinks.
fn count(usage: Option<&RawValue>, partial: &mut Partial) {
    #[derive(Deserialize)]
    struct Counts {
        #[serde(default)]
        input_tokens: Option<u64>,
        #[serde(default)]
        cache_creation_input_tokens: Option<u64>,
        #[serde(default)]
        cache_read_input_tokens: Option<u64>,
        #[serde(default)]
        output_tokens: Option<u64>,
    }
    let Some(Ok(counts)) = usage.map(|usage| serde_json::from_str::<Counts>(usage.get())) else {
        return;
    };
    // "Total input tokens is the summation of input_tokens, cache_creation_input_tokens, and cache_read_input_tokens."
    let input = [
        counts.input_tokens,
        counts.cache_creation_input_tokens,
        counts.cache_read_input_tokens,
    ];
    let input = input.into_iter().flatten().fold(0, u64::saturating_add);
    let before = partial.usage.unwrap_or_default();
    partial.usage = Some(Usage::new(
        input.max(before.prompt_tokens),
        counts
            .output_tokens
            .unwrap_or_default()
            .max(before.completion_tokens),
    ));
}

/// Reads an error told inside a 200: it has the form of an error reply, and the status of its type.
fn read_told_error(error: &ToldError<'_>, body: &[u8]) -> Error {
    let status = STATUSES
        .iter()
        .find(|(kind, _)| *kind == error.kind)
        .and_then(|&(_, status)| StatusCode::from_u16(status).ok())
        .unwrap_or(StatusCode::BAD_GATEWAY);
    read_error(status, body)
}

/// The API's error types and the statuses they come with outside a stream.
const STATUSES: &[(&str, u16)] = &[
    ("invalid_request_error", 400),
    ("authentication_error", 401),
    ("billing_error", 402),
    ("permission_error", 403),
    ("not_found_error", 404),
    ("conflict_error", 409),
    ("request_too_large", 413),
    ("rate_limit_error", 429),
    ("api_error", 500),
    ("timeout_error", 504),
    ("overloaded_error", 529),
];

/// Fields of the API that the page lacks and that leave the answer a text.
const EXTRAS: &[&str] = &[
    "cache_control",
    "inference_geo",
    "output_config",
    "service_tier",
    "system",
    "thinking",
    "top_k",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{completion::FinishReason, dialect::settle, error::Kind};

    fn request(fields: &str) -> CompletionRequest {
        let body = format!(r#"{{"model":"claude","prompt":"a\n\u00e9",{fields}}}"#);
        CompletionRequest::read(Bytes::from(body)).unwrap()
    }

    fn write(fields: &str) -> Result<String, Error> {
        let mut request = request(fields);
        settle(&mut request, &ANTHROPIC, &[], "anthropic")?;
        let upstream = ANTHROPIC.write_request(&request)?;
        assert_eq!(upstream.path, "/messages");
        assert_eq!(upstream.headers, [("anthropic-version", "2023-06-01")]);
        Ok(String::from_utf8(upstream.body.to_vec()).unwrap())
    }

    #[test]
    fn every_parameter_has_its_place_in_the_request() {
        let fields = r#""max_tokens":9,"temperature":0.5,"top_p":0.9,"stop":["\n\nQ:","END"],"user":"u-1","stream":true,
            "stream_options":{"include_usage":true},"top_k":4,"system":"Be brief.","thinking":{"type":"disabled"}"#;
        assert_eq!(
            write(fields).unwrap(),
            concat!(
                r#"{"model":"claude","max_tokens":9,"messages":[{"role":"user","content":"a\n\u00e9"}],"#,
                r#""stop_sequences":["\n\nQ:","END"],"temperature":0.5,"top_p":0.9,"metadata":{"user_id":"u-1"},"#,
                r#""stream":true,"system":"Be brief.","thinking":{"type":"disabled"},"top_k":4}"#,
            )
        );
    }

    #[test]
    fn nothing_is_sent_that_was_not_asked_for() {
        let neutral = r#""n":1,"best_of":1,"echo":false,"top_p":1,"presence_penalty":0,"frequency_penalty":0,"logit_bias":{},"suffix":"","stop":null,"system":null,"unknown":null"#;
        assert_eq!(
            write(neutral).unwrap(),
            r#"{"model":"claude","max_tokens":16,"messages":[{"role":"user","content":"a\n\u00e9"}]}"#
        );
    }

    #[test]
    fn what_the_api_cannot_carry_is_refused_by_name() {
        let cases = [
            (r#""max_tokens":0"#, "max_tokens"),
            (r#""temperature":1.01"#, "temperature"),
            (r#""stop":" \n""#, "stop"),
            (r#""stop":["END",""]"#, "stop"),
            (r#""n":2"#, "n"),
            (r#""best_of":2"#, "best_of"),
            (r#""echo":true"#, "echo"),
            (r#""suffix":"x""#, "suffix"),
            (r#""logprobs":0"#, "logprobs"),
            (r#""seed":1"#, "seed"),
            (r#""logit_bias":{"1":2}"#, "logit_bias"),
            (r#""presence_penalty":0.1"#, "presence_penalty"),
            (r#""frequency_penalty":-0.1"#, "frequency_penalty"),
            (r#""metadata":{"user_id":"u"}"#, "metadata"),
            (r#""tools":[]"#, "tools"),
            (r#""messages":[]"#, "messages"),
            (r#""top_kk":1"#, "top_kk"),
        ];
        for (fields, param) in cases {
            let error = write(fields).expect_err(fields);
            assert_eq!(error.param(), Some(param), "{fields}");
            assert_eq!(error.status(), 400, "{fields}");
        }
    }

    #[test]
    fn a_prompt_is_one_text() {
        for (body, carried) in [
            (r#"{"prompt":"a"}"#, true),
            (r#"{"prompt":["a"]}"#, true),
            (r#"{"prompt":["a","b"]}"#, false),
            (r#"{"prompt":[1,2]}"#, false),
            (r#"{"prompt":[[1],[2]]}"#, false),
            (r#"{}"#, false),
        ] {
            let mut request = CompletionRequest::read(Bytes::from_static(body.as_bytes())).unwrap();
            let checked = settle(&mut request, &ANTHROPIC, &[], "anthropic");
            assert_eq!(checked.is_ok(), carried, "{body}");
            assert!(checked.err().is_none_or(|e| e.param() == Some("prompt")));
        }
    }

    #[test]
    fn every_stop_reason_becomes_one_of_the_pages() {
        for (native, reason) in [
            ("end_turn", FinishReason::Stop),
            ("stop_sequence", FinishReason::Stop),
            ("pause_turn", FinishReason::Stop),
            ("tool_use", FinishReason::Stop),
            ("a_new_one", FinishReason::Stop),
            ("max_tokens", FinishReason::Length),
            ("model_context_window_exceeded", FinishReason::Length),
            ("refusal", FinishReason::ContentFilter),
        ] {
            let body = format!(r#"{{"content":[],"stop_reason":"{native}"}}"#);
            let mut partial = Partial::default();
            let reply = ANTHROPIC.read_reply(body.as_bytes(), &mut partial).unwrap();
            let finish = reply.choices[0].finish.as_ref().unwrap();
            assert_eq!((finish.reason, &*finish.native), (reason, native));
            assert_eq!((partial.finished.count(), partial.usage), (1, None));
        }
    }

    #[test]
    fn tokens_of_the_cache_count_as_prompt_and_no_count_sinks() {
        let mut partial = Partial::default();
        let mut told = |usage: &str| {
            let usage: &RawValue = serde_json::from_str(usage).unwrap();
            count(Some(usage), &mut partial);
            let usage = partial.usage.unwrap();
            (
                usage.prompt_tokens,
                usage.completion_tokens,
                usage.total_tokens,
            )
        };
        let start = r#"{"input_tokens":3,"cache_creation_input_tokens":40,"cache_read_input_tokens":500,"output_tokens":1}"#;
        assert_eq!(told(start), (543, 1, 544));
        assert_eq!(told(r#"{"output_tokens":7}"#), (543, 7, 550));
        assert_eq!(
            told(r#"{"input_tokens":null,"output_tokens":9}"#),
            (543, 9, 552)
        );
        assert_eq!(told(r#"{"output_tokens":"many"}"#), (543, 9, 552));
        let vast = format!(
            r#"{{"input_tokens":{0},"cache_read_input_tokens":{0}}}"#,
            u64::MAX
        );
        assert_eq!(told(&vast), (u64::MAX, 9, u64::MAX));
    }

    #[test]
    fn an_error_keeps_its_type_and_gets_the_status_it_stands_for() {
        for (kind, status) in STATUSES.iter().copied().chain([("new_error", 502)]) {
            let body =
                format!(r#"{{"type":"error","error":{{"type":"{kind}","message":"Sorry"}}}}"#);
            let error = ANTHROPIC
                .read_reply(body.as_bytes(), &mut Partial::default())
                .unwrap_err();
            assert_eq!(
                (error.status().as_u16(), error.message()),
                (status, "Sorry")
            );
            let told = String::from_utf8(error.body()).unwrap();
            assert!(told.contains(&format!(r#""type":"{kind}""#)), "{told}");
        }
    }

    #[test]
    fn an_error_reply_keeps_its_status_and_its_words() {
        let body = br#"{"type":"error","error":{"type":"not_found_error","message":"model: claude-9"},"request_id":"req_1"}"#;
        let error = ANTHROPIC.read_error(StatusCode::NOT_FOUND, body);
        assert_eq!(error.kind(), Kind::Upstream(StatusCode::NOT_FOUND));
        assert_eq!(error.message(), "model: claude-9");
        for body in ["", "<html>", "{}", r#"{"type":"error"}"#, "[]", "null"] {
            let error = ANTHROPIC.read_error(StatusCode::BAD_GATEWAY, body.as_bytes());
            assert_eq!(error.status(), 502, "{body}");
            assert!(error.message().contains("502"), "{body}");
        }
    }

    #[test]
    fn a_reply_without_content_or_reason_is_broken() {
        for body in [
            "",
            "{}",
            "[]",
            r#"{"content":[{"type":"text","text":"a"}]}"#,
            r#"{"stop_reason":"end_turn"}"#,
            r#"{"content":[{"text":"a"}],"stop_reason":"end_turn"}"#,
        ] {
            let read = ANTHROPIC.read_reply(body.as_bytes(), &mut Partial::default());
            assert_eq!(read.unwrap_err().kind(), Kind::Broken, "{body}");
        }
    }
}
