//! Amazon Bedrock's Converse: `POST {base}/model/{modelId}/converse`, or `/converse-stream`.
//!
//! Sources: <https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html>,
//! [ConverseStream](https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html), and the counts of
//! [prompt caching](https://docs.aws.amazon.com/bedrock/latest/userguide/prompt-caching.html). The prompt becomes one user message,
//! the reply's text blocks become `text`; thoughts and tool calls are left out. It speaks to every model that takes messages;
//! [`bedrock_invoke`](crate::dialect::bedrock_invoke) sends a prompt raw to those that take one. The start of the answer is
//! documented as a last message for
//! [Claude](https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-anthropic-claude-messages.html) alone.

use std::{borrow::Cow, collections::BTreeMap};

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    completion::{
        Choice, Completion, CompletionRequest, Finish, Mark, Parameter, Partial, Support, Usage,
    },
    dialect::{
        Dialect, Extras, Step, UpstreamRequest,
        aws_error::{read_error, read_message},
        extras, join, not_the_shape, positive_max_tokens, to_body,
        turns::{Turn, Words, check_trailing_space, instruction, turns},
    },
    error::Error,
    wire::{Frame, Framing},
};

/// Bedrock's Converse and ConverseStream.
#[derive(Debug)]
pub struct Bedrock;

pub static BEDROCK: Bedrock = Bedrock;

impl Dialect for Bedrock {
    fn name(&self) -> &'static str {
        "bedrock"
    }

    fn framing(&self) -> Framing {
        Framing::EventStream
    }

    fn support(&self, parameter: Parameter) -> Support {
        support(parameter)
    }

    fn carries(&self, parameter: Parameter, request: &CompletionRequest) -> bool {
        parameter != Parameter::Stop || !request.stop.iter().any(String::is_empty)
    }

    fn extras(&self) -> Extras {
        Extras::Only(EXTRAS)
    }

    /// An inference profile of the user's own tells no model, and counts as none of these.
    fn prefill(&self, _told: Option<Mark>, model: Option<&str>) -> Option<Mark> {
        let takes = model.is_none_or(|model| model.contains("anthropic.claude"));
        takes.then_some(Mark::Role)
    }

    fn write_request(&self, request: &CompletionRequest) -> Result<UpstreamRequest, Error> {
        let operation = if request.stream {
            "converse-stream"
        } else {
            "converse"
        };
        Ok(UpstreamRequest {
            path: Cow::Owned(path(request.model(), operation)?),
            headers: &[],
            body: to_body(&Body::try_new(request)?)?,
        })
    }

    fn read_reply<'b>(
        &self,
        body: &'b [u8],
        partial: &mut Partial,
    ) -> Result<Completion<'b>, Error> {
        let reply: Reply<'b> = serde_json::from_slice(body).map_err(not_the_shape)?;
        count(reply.usage, partial);
        partial.finished.end(0);
        let content = reply.output.message.content.into_iter();
        Ok(Completion {
            choices: vec![Choice {
                text: join(content.map(|piece| piece.text)),
                finish: Some(Finish::from_native(reply.stop_reason)),
                ..Choice::default()
            }],
        })
    }

    fn read_frame<'f>(&self, frame: &'f Frame, partial: &mut Partial) -> Result<Step<'f>, Error> {
        if let Some(error) = read_message(frame) {
            return Err(error);
        }
        match &*frame.event {
            b"contentBlockDelta" => read_delta(&frame.data),
            b"messageStop" => read_stop(&frame.data, partial),
            b"metadata" => read_metadata(&frame.data, partial),
            b"messageStart" | b"contentBlockStart" | b"contentBlockStop" => Ok(Step::Skip),
            _ => Ok(Step::Unknown),
        }
    }

    fn read_error(&self, status: StatusCode, body: &[u8]) -> Error {
        read_error(status, body)
    }
}

/// What Bedrock's runtime carries, whichever way it is called.
pub(super) fn support(parameter: Parameter) -> Support {
    match parameter {
        Parameter::MaxTokens
        | Parameter::Temperature
        | Parameter::TopP
        | Parameter::Stream
        | Parameter::Stop => Support::Native,
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
        | Parameter::User
        | Parameter::Seed
        | Parameter::LogitBias => Support::Refused,
    }
}

/// The path of `operation` on `model`: an id, an inference profile or an ARN, as one piece of the path. `:` and `/` are escaped
/// as the AWS SDKs escape them; no other character that means something in a URL is let in.
pub(super) fn path(model: &str, operation: &str) -> Result<String, Error> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte);
    let leaves = |piece: &str| matches!(piece, "." | ".." | "");
    if model.len() > MAX_MODEL_BYTES || !model.bytes().all(known) || model.split('/').any(leaves) {
        let message =
            "`model` must be a model id, an inference profile or an ARN for this provider.";
        return Err(Error::invalid("model", message));
    }
    let model = model.replace(':', "%3A").replace('/', "%2F");
    Ok(format!("/model/{model}/{operation}"))
}

/// Both operations take `temperature` from 0 to 1, and at least one token.
pub(super) fn check(request: &CompletionRequest) -> Result<u64, Error> {
    if request.temperature.is_some_and(|t| t > 1.0) {
        let message = "`temperature` must be from 0 to 1 for this provider.";
        return Err(Error::invalid("temperature", message));
    }
    if request.stop.iter().any(String::is_empty) {
        let message = "`stop` must not hold an empty text for this provider.";
        return Err(Error::invalid("stop", message));
    }
    positive_max_tokens(request)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    messages: Vec<Message<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<[Content<'a>; 1]>,
    inference_config: InferenceConfig<'a>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    additional_model_request_fields: Fields<'a>,
    #[serde(flatten)]
    extra: Fields<'a>,
}

type Fields<'a> = BTreeMap<&'a str, &'a RawValue>;

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: [Content<'a>; 1],
}

impl<'a> From<Turn<'a>> for Message<'a> {
    fn from(turn: Turn<'a>) -> Self {
        Self {
            role: turn.speaker.role(),
            content: [Content { text: turn.words }],
        }
    }
}

#[derive(Serialize)]
struct Content<'a> {
    text: Words<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct InferenceConfig<'a> {
    max_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    /// Sent as asked: "the default value is the default value for the model", and that may be below 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop_sequences: &'a [String],
}

impl<'a> Body<'a> {
    fn try_new(request: &'a CompletionRequest) -> Result<Self, Error> {
        let max_tokens = check(request)?;
        let (of_model, extra): (Fields<'_>, Fields<'_>) =
            extras(request).partition(|(name, _)| OF_MODEL.contains(name));
        if let Some((name, _)) = of_model.first_key_value()
            && extra.contains_key(MODEL_FIELDS)
        {
            let message =
                format!("`{name}` has its place in `{MODEL_FIELDS}` where that is given.");
            return Err(Error::invalid((*name).to_owned(), message));
        }
        check_trailing_space(request)?;
        Ok(Self {
            messages: turns(request)?.into_iter().map(Message::from).collect(),
            system: instruction(request, "system")?.map(|text| [Content { text }]),
            inference_config: InferenceConfig {
                max_tokens,
                temperature: request.temperature,
                top_p: request.top_p,
                stop_sequences: &request.stop,
            },
            additional_model_request_fields: of_model,
            extra,
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reply<'a> {
    #[serde(borrow)]
    output: Output<'a>,
    #[serde(borrow)]
    stop_reason: Cow<'a, str>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Output<'a> {
    #[serde(borrow)]
    message: Said<'a>,
}

#[derive(Deserialize)]
struct Said<'a> {
    #[serde(borrow)]
    content: Vec<Piece<'a>>,
}

/// A content block, or a delta of one. What is no text (`reasoningContent`, `toolUse`, …) has none.
#[derive(Default, Deserialize)]
struct Piece<'a> {
    #[serde(borrow, default)]
    text: Cow<'a, str>,
}

fn read_delta(data: &[u8]) -> Result<Step<'_>, Error> {
    #[derive(Deserialize)]
    struct Delta<'a> {
        #[serde(borrow)]
        delta: Piece<'a>,
    }
    let event: Delta<'_> = serde_json::from_slice(data).map_err(not_the_shape)?;
    Ok(Step::from(vec![Choice {
        text: event.delta.text,
        ..Choice::default()
    }]))
}

fn read_stop<'a>(data: &'a [u8], partial: &mut Partial) -> Result<Step<'a>, Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Stop<'a> {
        #[serde(borrow)]
        stop_reason: Cow<'a, str>,
    }
    let event: Stop<'a> = serde_json::from_slice(data).map_err(not_the_shape)?;
    partial.finished.end(0);
    Ok(Step::from(vec![Choice {
        finish: Some(Finish::from_native(event.stop_reason)),
        ..Choice::default()
    }]))
}

/// The last message of a stream: nothing follows it once the text has ended.
fn read_metadata<'a>(data: &'a [u8], partial: &mut Partial) -> Result<Step<'a>, Error> {
    #[derive(Deserialize)]
    struct Metadata<'a> {
        #[serde(borrow, default)]
        usage: Option<&'a RawValue>,
    }
    let event: Metadata<'a> = serde_json::from_slice(data).map_err(not_the_shape)?;
    count(event.usage, partial);
    Ok(if !partial.finished.is_empty() {
        Step::Done
    } else {
        Step::Skip
    })
}

fn count(usage: Option<&RawValue>, partial: &mut Partial) {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Counts {
        input_tokens: u64,
        output_tokens: u64,
        #[serde(default)]
        cache_read_input_tokens: Option<u64>,
        #[serde(default)]
        cache_write_input_tokens: Option<u64>,
    }
    let Some(Ok(counts)) = usage.map(|usage| serde_json::from_str::<Counts>(usage.get())) else {
        return;
    };
    // "total input tokens = inputTokens + cacheReadInputTokens + cacheWriteInputTokens"
    let cached = [
        counts.cache_read_input_tokens,
        counts.cache_write_input_tokens,
    ];
    let input = cached
        .into_iter()
        .flatten()
        .fold(counts.input_tokens, u64::saturating_add);
    partial.usage = Some(Usage::new(input, counts.output_tokens));
}

/// `modelId`: "Maximum length of 2048".
const MAX_MODEL_BYTES: usize = 2048;
const MODEL_FIELDS: &str = "additionalModelRequestFields";

/// Fields of the API that the page lacks and that leave the answer a text.
const EXTRAS: &[&str] = &[
    MODEL_FIELDS,
    "guardrailConfig",
    "outputConfig",
    "performanceConfig",
    "requestMetadata",
    "serviceTier",
    "system",
    "thinking",
    "top_k",
];
/// Those of them that are a model's own: they go into [`MODEL_FIELDS`].
const OF_MODEL: &[&str] = &["thinking", "top_k"];

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{completion::FinishReason, dialect::settle, error::Kind};

    fn write(model: &str, fields: &str) -> Result<(String, String), Error> {
        let body = format!(r#"{{"model":"{model}","prompt":"a\n\u00e9",{fields}}}"#);
        let mut request = CompletionRequest::read(Bytes::from(body)).unwrap();
        settle(&mut request, &BEDROCK, &[], "bedrock")?;
        let upstream = BEDROCK.write_request(&request)?;
        let body = String::from_utf8(upstream.body.to_vec()).unwrap();
        Ok((upstream.path.into_owned(), body))
    }

    const NOVA: &str = "us.amazon.nova-lite-v1:0";

    #[test]
    fn every_parameter_has_its_place_in_the_request() {
        let fields = r#""max_tokens":9,"temperature":0.5,"top_p":1,"stop":["\n\nQ:","END"],"stream":true,
            "stream_options":{"include_usage":true},"top_k":4,"system":[{"text":"Be brief."}],"thinking":{"type":"disabled"}"#;
        let (path, body) = write(NOVA, fields).unwrap();
        assert_eq!(path, "/model/us.amazon.nova-lite-v1%3A0/converse-stream");
        assert_eq!(
            body,
            concat!(
                r#"{"messages":[{"role":"user","content":[{"text":"a\n\u00e9"}]}],"#,
                r#""inferenceConfig":{"maxTokens":9,"temperature":0.5,"topP":1.0,"stopSequences":["\n\nQ:","END"]},"#,
                r#""additionalModelRequestFields":{"thinking":{"type":"disabled"},"top_k":4},"system":[{"text":"Be brief."}]}"#,
            )
        );
        let (_, body) = write(
            NOVA,
            r#""additionalModelRequestFields":{"inferenceConfig":{"topK":3}}"#,
        )
        .unwrap();
        assert!(
            body.ends_with(r#","additionalModelRequestFields":{"inferenceConfig":{"topK":3}}}"#)
        );
    }

    #[test]
    fn nothing_is_sent_that_was_not_asked_for() {
        let neutral = r#""n":1,"best_of":1,"echo":false,"presence_penalty":0,"frequency_penalty":0,"logit_bias":{},"suffix":"","stop":null,"system":null,"unknown":null"#;
        let (path, body) = write(NOVA, neutral).unwrap();
        assert_eq!(path, "/model/us.amazon.nova-lite-v1%3A0/converse");
        assert_eq!(
            body,
            r#"{"messages":[{"role":"user","content":[{"text":"a\n\u00e9"}]}],"inferenceConfig":{"maxTokens":16}}"#
        );
    }

    #[test]
    fn what_the_api_cannot_carry_is_refused_by_name() {
        for (fields, param) in [
            (r#""max_tokens":0"#, "max_tokens"),
            (r#""temperature":1.01"#, "temperature"),
            (r#""stop":["END",""]"#, "stop"),
            (r#""n":2"#, "n"),
            (r#""best_of":2"#, "best_of"),
            (r#""echo":true"#, "echo"),
            (r#""suffix":"x""#, "suffix"),
            (r#""logprobs":0"#, "logprobs"),
            (r#""seed":1"#, "seed"),
            (r#""user":"u""#, "user"),
            (r#""logit_bias":{"1":2}"#, "logit_bias"),
            (r#""presence_penalty":0.1"#, "presence_penalty"),
            (r#""frequency_penalty":-0.1"#, "frequency_penalty"),
            (r#""toolConfig":{}"#, "toolConfig"),
            (r#""messages":[]"#, "messages"),
            (r#""top_k":1,"additionalModelRequestFields":{}"#, "top_k"),
        ] {
            let error = write(NOVA, fields).expect_err(fields);
            assert_eq!((error.param(), error.status().as_u16()), (Some(param), 400));
        }
    }

    #[test]
    fn a_model_is_one_piece_of_the_path() {
        for (model, piece) in [
            (
                "meta.llama3-8b-instruct-v1:0",
                "meta.llama3-8b-instruct-v1%3A0",
            ),
            (
                "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2",
                "arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Aapplication-inference-profile%2Fa1b2",
            ),
            (
                "arn:aws:bedrock:us-east-1::foundation-model/x.y",
                "arn%3Aaws%3Abedrock%3Aus-east-1%3A%3Afoundation-model%2Fx.y",
            ),
        ] {
            assert_eq!(
                path(model, "converse").unwrap(),
                format!("/model/{piece}/converse")
            );
        }
        for model in [
            "",
            ".",
            "..",
            "a/..",
            "../a",
            "a//b",
            "/a",
            "a/",
            "a b",
            "a?b",
            "a#b",
            "a%2Fb",
            "a\\b",
            "é",
            &"a".repeat(2049),
        ] {
            let error = path(model, "converse").expect_err(model);
            assert_eq!(error.param(), Some("model"));
        }
    }

    #[test]
    fn every_stop_reason_becomes_one_of_the_pages() {
        for (native, reason) in [
            ("end_turn", FinishReason::Stop),
            ("stop_sequence", FinishReason::Stop),
            ("tool_use", FinishReason::Stop),
            ("malformed_model_output", FinishReason::Stop),
            ("max_tokens", FinishReason::Length),
            ("model_context_window_exceeded", FinishReason::Length),
            ("guardrail_intervened", FinishReason::ContentFilter),
            ("content_filtered", FinishReason::ContentFilter),
        ] {
            let body =
                format!(r#"{{"output":{{"message":{{"content":[]}}}},"stopReason":"{native}"}}"#);
            let mut partial = Partial::default();
            let reply = BEDROCK.read_reply(body.as_bytes(), &mut partial).unwrap();
            let finish = reply.choices[0].finish.as_ref().unwrap();
            assert_eq!((finish.reason, &*finish.native), (reason, native));
            assert_eq!((partial.finished.count(), partial.usage), (1, None));
        }
    }

    #[test]
    fn tokens_of_the_cache_count_as_prompt() {
        for (usage, counted) in [
            (
                r#"{"inputTokens":3,"outputTokens":7,"totalTokens":10}"#,
                Some((3, 7, 10)),
            ),
            (
                r#"{"inputTokens":3,"outputTokens":7,"totalTokens":550,"cacheReadInputTokens":500,"cacheWriteInputTokens":40}"#,
                Some((543, 7, 550)),
            ),
            (r#"{"inputTokens":"many"}"#, None),
        ] {
            let mut partial = Partial::default();
            count(Some(serde_json::from_str(usage).unwrap()), &mut partial);
            let told = partial.usage.map(|told| {
                (
                    told.prompt_tokens,
                    told.completion_tokens,
                    told.total_tokens,
                )
            });
            assert_eq!(told, counted);
        }
    }

    #[test]
    fn a_reply_without_content_or_reason_is_broken() {
        for body in [
            "",
            "{}",
            "[]",
            r#"{"output":{"message":{"content":[{"text":"a"}]}}}"#,
            r#"{"output":{},"stopReason":"end_turn"}"#,
            r#"{"stopReason":"end_turn"}"#,
        ] {
            let read = BEDROCK.read_reply(body.as_bytes(), &mut Partial::default());
            assert_eq!(read.unwrap_err().kind(), Kind::Broken, "{body}");
        }
    }
}
