//! Amazon Bedrock's InvokeModel with a raw prompt: `POST {base}/model/{modelId}/invoke`, or `/invoke-with-response-stream`.
//!
//! Sources: <https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_InvokeModel.html> and
//! [InvokeModelWithResponseStream](https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_InvokeModelWithResponseStream.html);
//! the bodies of [Llama](https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-meta.html),
//! [Mistral](https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-mistral-text-completion.html) and
//! [Titan](https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-titan-text.html). Only these families take a prompt
//! as it is; the others speak through [`bedrock`].
//!
//! Counts stand in the body, in the headers of a whole reply, or in the metrics that Bedrock puts into a stream's last message:
//! it is the end marker. A message's payload is the model's own JSON in base64.

use std::borrow::Cow;

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use crate::{
    completion::{
        Choice, Completion, CompletionRequest, Finish, Parameter, Partial, Support, Usage,
    },
    dialect::{
        Dialect, Extras, PromptForm, Step, UpstreamRequest,
        aws_error::{read_error, read_message},
        bedrock,
        bedrock_invoke_request::Body,
        not_the_shape, to_body,
    },
    error::Error,
    wire::{Frame, Framing},
};

/// Bedrock's InvokeModel, for the models that complete a prompt.
#[derive(Debug)]
pub struct BedrockInvoke;

pub static BEDROCK_INVOKE: BedrockInvoke = BedrockInvoke;

impl Dialect for BedrockInvoke {
    fn name(&self) -> &'static str {
        "bedrock-invoke"
    }

    fn framing(&self) -> Framing {
        Framing::EventStream
    }

    fn support(&self, parameter: Parameter) -> Support {
        bedrock::support(parameter)
    }

    fn carries(&self, parameter: Parameter, request: &CompletionRequest) -> bool {
        parameter != Parameter::Stop || !request.stop.iter().any(String::is_empty)
    }

    fn extras(&self) -> Extras {
        Extras::Only(&["top_k"])
    }

    fn prompt_form(&self) -> PromptForm {
        PromptForm::Text
    }

    fn write_request(&self, request: &CompletionRequest) -> Result<UpstreamRequest, Error> {
        let operation = if request.stream {
            "invoke-with-response-stream"
        } else {
            "invoke"
        };
        let path = Cow::Owned(bedrock::path(request.model(), operation)?);
        Ok(UpstreamRequest {
            path,
            headers: &[],
            body: to_body(&Body::try_new(request)?)?,
        })
    }

    fn read_headers(&self, headers: &HeaderMap, partial: &mut Partial) {
        let read = |name| headers.get(name)?.to_str().ok()?.parse().ok();
        count(read(INPUT_COUNT), read(OUTPUT_COUNT), partial);
    }

    fn read_reply<'b>(
        &self,
        body: &'b [u8],
        partial: &mut Partial,
    ) -> Result<Completion<'b>, Error> {
        let reply: Reply<'b> = serde_json::from_slice(body).map_err(not_the_shape)?;
        let mut choices = reply.into_choices(partial);
        end_refused(&mut choices, partial);
        if choices.is_empty() || choices.iter().any(|choice| choice.finish.is_none()) {
            return Err(Error::broken(
                "The provider's answer holds no text or no stop reason.",
            ));
        }
        Ok(Completion { choices })
    }

    fn read_frame<'f>(&self, frame: &'f Frame, partial: &mut Partial) -> Result<Step<'f>, Error> {
        if let Some(error) = read_message(frame) {
            return Err(error);
        }
        if &*frame.event != b"chunk" {
            return Ok(Step::Unknown);
        }
        let decoded = decode(&frame.data)?;
        let reply: Reply<'_> = serde_json::from_slice(&decoded).map_err(not_the_shape)?;
        let is_last = reply.metrics.is_some();
        let choices = reply.into_choices(partial);
        let mut choices: Vec<_> = choices.into_iter().map(Choice::into_owned).collect();
        if is_last {
            end_refused(&mut choices, partial);
        }
        Ok(if is_last && !partial.finished.is_empty() {
            Step::Last(Completion { choices })
        } else {
            Step::from(choices)
        })
    }

    fn read_error(&self, status: StatusCode, body: &[u8]) -> Error {
        read_error(status, body)
    }
}

/// A whole reply or one piece of a stream, of any family: their fields have no name in common.
#[derive(Deserialize)]
struct Reply<'a> {
    /// Llama's.
    #[serde(borrow, default)]
    generation: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    stop_reason: Option<Cow<'a, str>>,
    #[serde(default)]
    prompt_token_count: Option<u64>,
    #[serde(default)]
    generation_token_count: Option<u64>,
    /// Mistral's.
    #[serde(borrow, default)]
    outputs: Option<Vec<Piece<'a>>>,
    /// Titan's: a whole reply has `results`, a stream's piece `outputText`.
    #[serde(borrow, default)]
    results: Option<Vec<Piece<'a>>>,
    #[serde(borrow, default, rename = "outputText")]
    output_text: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "completionReason")]
    completion_reason: Option<Cow<'a, str>>,
    #[serde(default, rename = "inputTextTokenCount")]
    input_text_token_count: Option<u64>,
    #[serde(default, rename = "totalOutputTextTokenCount")]
    total_output_text_token_count: Option<u64>,
    /// Bedrock's, in the last message of a stream.
    #[serde(default, rename = "amazon-bedrock-invocationMetrics")]
    metrics: Option<Metrics>,
    /// "INTERVENED | NONE": the text may be a guardrail's, whatever reason the model tells.
    #[serde(borrow, default, rename = "amazon-bedrock-guardrailAction")]
    guardrail: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
struct Piece<'a> {
    #[serde(borrow, default, alias = "outputText")]
    text: Cow<'a, str>,
    #[serde(borrow, default, alias = "completionReason")]
    stop_reason: Option<Cow<'a, str>>,
    #[serde(default, rename = "tokenCount")]
    token_count: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metrics {
    input_token_count: Option<u64>,
    output_token_count: Option<u64>,
}

impl<'a> Reply<'a> {
    fn into_choices(self, partial: &mut Partial) -> Vec<Choice<'a>> {
        let results = self.results.unwrap_or_default();
        let said = results.iter().filter_map(|piece| piece.token_count);
        let said = said.reduce(u64::saturating_add);
        let output = self
            .generation_token_count
            .or(self.total_output_text_token_count);
        let input = self.prompt_token_count.or(self.input_text_token_count);
        count(input, output.or(said), partial);
        if let Some(metrics) = self.metrics {
            count(
                metrics.input_token_count,
                metrics.output_token_count,
                partial,
            );
        }
        if self.guardrail.as_deref() == Some(INTERVENED) {
            partial.refused.end(0);
        }
        let llama = Piece::told(self.generation, self.stop_reason);
        let titan = Piece::told(self.output_text, self.completion_reason);
        let mistral = self.outputs.unwrap_or_default();
        let pieces = llama.into_iter().chain(titan).chain(mistral).chain(results);
        (0..)
            .zip(pieces)
            .map(|(index, piece)| piece.into_choice(index, partial))
            .collect()
    }
}

impl<'a> Piece<'a> {
    /// `None`: this family has not spoken.
    fn told(text: Option<Cow<'a, str>>, stop_reason: Option<Cow<'a, str>>) -> Option<Self> {
        (text.is_some() || stop_reason.is_some()).then(|| Self {
            text: text.unwrap_or_default(),
            stop_reason,
            token_count: None,
        })
    }

    fn into_choice(self, index: u32, partial: &mut Partial) -> Choice<'a> {
        let reason = self.stop_reason.filter(|reason| !reason.is_empty());
        if reason.is_some() {
            partial.finished.end(index);
        }
        Choice {
            index,
            text: self.text,
            finish: reason.map(|reason| partial.judge(index, Finish::from_native(reason))),
            ..Choice::default()
        }
    }
}

/// A text that is a guardrail's may tell no reason of the model's.
fn end_refused(choices: &mut Vec<Choice<'_>>, partial: &mut Partial) {
    if !partial.refused.contains(0) || !partial.finished.is_empty() {
        return;
    }
    partial.finished.end(0);
    let finish = Some(Finish::filtered(INTERVENED));
    match choices.last_mut() {
        Some(choice) => choice.finish = finish,
        None => choices.push(Choice {
            finish,
            ..Choice::default()
        }),
    }
}

/// Takes over counts that are told. Those of the prompt may come with the first piece, those of the answer with the last.
fn count(input: Option<u64>, output: Option<u64>, partial: &mut Partial) {
    let before = partial.usage;
    if let Some(input) = input.or(before.map(|usage| usage.prompt_tokens)) {
        let output = output.or(before.map(|usage| usage.completion_tokens));
        partial.usage = Some(Usage::new(input, output.unwrap_or_default()));
    }
}

fn decode(data: &[u8]) -> Result<Vec<u8>, Error> {
    #[derive(Deserialize)]
    struct Part<'a> {
        #[serde(borrow)]
        bytes: Cow<'a, str>,
    }
    let part: Part<'_> = serde_json::from_slice(data).map_err(not_the_shape)?;
    BASE64_STANDARD
        .decode(&*part.bytes)
        .map_err(|_| Error::broken("The provider's stream holds a message that is no base64."))
}

const INTERVENED: &str = "INTERVENED";
/// Of a whole reply: the one place where counts of Mistral's models stand.
const INPUT_COUNT: &str = "x-amzn-bedrock-input-token-count";
const OUTPUT_COUNT: &str = "x-amzn-bedrock-output-token-count";

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{completion::FinishReason, dialect::settle, error::Kind, wire::Form};

    fn write(model: &str, fields: &str) -> Result<(String, String), Error> {
        let body = format!(r#"{{"model":"{model}","prompt":"a\n\u00e9",{fields}}}"#);
        let mut request = CompletionRequest::read(Bytes::from(body)).unwrap();
        settle(&mut request, &BEDROCK_INVOKE, &[], "bedrock")?;
        let upstream = BEDROCK_INVOKE.write_request(&request)?;
        let body = String::from_utf8(upstream.body.to_vec()).unwrap();
        Ok((upstream.path.into_owned(), body))
    }

    const LLAMA: &str = "us.meta.llama3-1-8b-instruct-v1:0";
    const MISTRAL: &str = "mistral.mistral-7b-instruct-v0:2";
    const TITAN: &str = "amazon.titan-text-express-v1";

    #[test]
    fn every_family_has_its_own_body() {
        let fields = r#""max_tokens":9,"temperature":0.5,"top_p":0.9"#;
        for (model, fields, path, body) in [
            (
                LLAMA,
                fields.to_owned() + r#","stream":true"#,
                "/model/us.meta.llama3-1-8b-instruct-v1%3A0/invoke-with-response-stream",
                r#"{"prompt":"a\n\u00e9","max_gen_len":9,"temperature":0.5,"top_p":0.9}"#,
            ),
            (
                MISTRAL,
                fields.to_owned() + r#","stop":["END"],"top_k":4"#,
                "/model/mistral.mistral-7b-instruct-v0%3A2/invoke",
                r#"{"prompt":"a\n\u00e9","max_tokens":9,"stop":["END"],"temperature":0.5,"top_p":0.9,"top_k":4}"#,
            ),
            (
                TITAN,
                fields.to_owned() + r#","stop":"END""#,
                "/model/amazon.titan-text-express-v1/invoke",
                r#"{"inputText":"a\n\u00e9","textGenerationConfig":{"maxTokenCount":9,"temperature":0.5,"topP":0.9,"stopSequences":["END"]}}"#,
            ),
        ] {
            assert_eq!(
                write(model, &fields).unwrap(),
                (path.to_owned(), body.to_owned())
            );
        }
    }

    #[test]
    fn nothing_is_sent_that_was_not_asked_for() {
        let neutral = r#""n":1,"best_of":1,"echo":false,"presence_penalty":0,"suffix":"","stop":null,"top_k":null"#;
        for (model, body) in [
            (LLAMA, r#"{"prompt":"a\n\u00e9","max_gen_len":16}"#),
            (MISTRAL, r#"{"prompt":"a\n\u00e9","max_tokens":16}"#),
            (
                TITAN,
                r#"{"inputText":"a\n\u00e9","textGenerationConfig":{"maxTokenCount":16}}"#,
            ),
        ] {
            assert_eq!(write(model, neutral).unwrap().1, body);
        }
    }

    #[test]
    fn what_a_family_cannot_carry_is_refused_by_name() {
        for (model, fields, param) in [
            (LLAMA, r#""stop":"x""#, "stop"),
            (LLAMA, r#""top_k":1"#, "top_k"),
            (TITAN, r#""top_k":1"#, "top_k"),
            (MISTRAL, r#""top_kk":1"#, "top_kk"),
            (MISTRAL, r#""seed":1"#, "seed"),
            (MISTRAL, r#""max_tokens":0"#, "max_tokens"),
            (TITAN, r#""temperature":1.5"#, "temperature"),
            (TITAN, r#""n":2"#, "n"),
            (
                "anthropic.claude-3-haiku-20240307-v1:0",
                r#""n":1"#,
                "model",
            ),
            (
                "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1",
                r#""n":1"#,
                "model",
            ),
            ("meta.llama3/../x", r#""n":1"#, "model"),
        ] {
            let error = write(model, fields).expect_err(fields);
            assert_eq!((error.param(), error.status().as_u16()), (Some(param), 400));
        }
    }

    #[test]
    fn every_reason_becomes_one_of_the_pages() {
        for (body, reason, native, usage) in [
            (
                r#"{"generation":"a","prompt_token_count":2,"generation_token_count":3,"stop_reason":"length"}"#,
                FinishReason::Length,
                "length",
                Some(Usage::new(2, 3)),
            ),
            (
                r#"{"outputs":[{"text":"a","stop_reason":"stop"}]}"#,
                FinishReason::Stop,
                "stop",
                None,
            ),
            (
                r#"{"inputTextTokenCount":2,"results":[{"tokenCount":3,"outputText":"a","completionReason":"FINISH"}]}"#,
                FinishReason::Stop,
                "FINISH",
                Some(Usage::new(2, 3)),
            ),
            (
                r#"{"results":[{"outputText":"a","completionReason":"LENGTH"}]}"#,
                FinishReason::Length,
                "LENGTH",
                None,
            ),
            (
                r#"{"results":[{"outputText":"a","completionReason":"CONTENT_FILTERED"}]}"#,
                FinishReason::ContentFilter,
                "CONTENT_FILTERED",
                None,
            ),
        ] {
            let mut partial = Partial::default();
            let reply = BEDROCK_INVOKE
                .read_reply(body.as_bytes(), &mut partial)
                .unwrap();
            let choice = &reply.choices[0];
            let finish = choice.finish.as_ref().unwrap();
            assert_eq!(
                (&*choice.text, finish.reason, &*finish.native),
                ("a", reason, native)
            );
            assert_eq!((partial.finished.count(), partial.usage), (1, usage));
        }
    }

    #[test]
    fn headers_count_where_the_body_does_not() {
        let mut headers = HeaderMap::new();
        let mut partial = Partial::default();
        BEDROCK_INVOKE.read_headers(&headers, &mut partial);
        assert_eq!(partial.usage, None);
        headers.insert(INPUT_COUNT, "11".parse().unwrap());
        headers.insert(OUTPUT_COUNT, "many".parse().unwrap());
        BEDROCK_INVOKE.read_headers(&headers, &mut partial);
        headers.insert(OUTPUT_COUNT, "16".parse().unwrap());
        BEDROCK_INVOKE.read_headers(&headers, &mut partial);
        let body = br#"{"outputs":[{"text":"a","stop_reason":"stop"}]}"#;
        BEDROCK_INVOKE.read_reply(body, &mut partial).unwrap();
        assert_eq!(partial.usage, Some(Usage::new(11, 16)));
    }

    #[test]
    fn a_reply_or_message_of_another_shape_is_broken() {
        for body in [
            "",
            "{}",
            "[]",
            r#"{"generation":"a"}"#,
            r#"{"outputs":[]}"#,
            r#"{"outputs":[{"text":"a"}]}"#,
        ] {
            let read = BEDROCK_INVOKE.read_reply(body.as_bytes(), &mut Partial::default());
            assert_eq!(read.unwrap_err().kind(), Kind::Broken, "{body}");
        }
        for data in [
            "",
            "{}",
            r#"{"bytes":"*"}"#,
            r#"{"bytes":"e30"}"#,
            r#"{"bytes":"e3s="}"#,
        ] {
            let frame = Frame {
                raw: Bytes::new(),
                event: Bytes::from_static(b"chunk"),
                data: Bytes::from_static(data.as_bytes()),
                form: Form::Other,
            };
            let read = BEDROCK_INVOKE.read_frame(&frame, &mut Partial::default());
            assert_eq!(read.unwrap_err().kind(), Kind::Broken, "{data}");
        }
    }
}
