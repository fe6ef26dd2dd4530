//! The one shape that clients see: a `text_completion`, whole or as a stream's chunk, and its writer.
//!
//! Source: the API page of `POST /v1/completions`. A chunk and a whole reply share one type.

pub mod approach;
pub mod around;
mod asked;
pub mod fields;
pub mod fim;
pub mod finished;
pub mod infill;
pub mod logprobs;
pub mod parameter;
pub mod prompt;
pub mod repeat;
pub mod request;
pub mod stop;
pub mod tail;
pub mod tokenizer;
mod writing;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

pub use self::{
    approach::{Approach, Mark, PromptAs},
    around::Around,
    fim::Shape,
    finished::Finished,
    logprobs::Logprobs,
    parameter::{Parameter, Support},
    prompt::Prompt,
    request::CompletionRequest,
    tail::Tail,
    writing::{drawn_id, write_data},
};

/// What one upstream reply or event adds to the answer.
#[derive(Debug, Default)]
pub struct Completion<'a> {
    pub choices: Vec<Choice<'a>>,
}

/// One choice, or a piece of one.
#[derive(Debug, Default)]
pub struct Choice<'a> {
    pub index: u32,
    pub text: Cow<'a, str>,
    pub logprobs: Option<Logprobs<'a>>,
    pub finish: Option<Finish<'a>>,
}

impl Choice<'_> {
    /// The same, apart from the bytes it was read from, among which its log-probabilities stay.
    pub fn into_owned(self) -> Choice<'static> {
        Choice {
            index: self.index,
            text: Cow::Owned(self.text.into_owned()),
            logprobs: None,
            finish: self.finish.map(|finish| Finish {
                reason: finish.reason,
                native: Cow::Owned(finish.native.into_owned()),
            }),
        }
    }
}

/// Why a choice ended: the page's word, and the provider's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finish<'a> {
    pub reason: FinishReason,
    /// Empty: it told none.
    pub native: Cow<'a, str>,
}

/// The page's closed set of reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    Stop,
    Length,
    ContentFilter,
}

impl<'a> Finish<'a> {
    /// Of a text that has ended, whose provider does not say why.
    pub const UNTOLD: Self = Self {
        reason: FinishReason::Stop,
        native: Cow::Borrowed(""),
    };

    /// Of a text that a filter has ended, or taken the place of.
    pub fn filtered(native: impl Into<Cow<'a, str>>) -> Self {
        Self {
            reason: FinishReason::ContentFilter,
            native: native.into(),
        }
    }

    /// Maps a provider's own word. What no table knows counts as `stop`: the text ended, and nothing says it was cut.
    pub fn from_native(native: impl Into<Cow<'a, str>>) -> Self {
        let native = native.into();
        let reason = match &*native {
            "length"
            | "max_tokens"
            | "MAX_TOKENS"
            | "model_length"
            | "LENGTH"
            | "ERROR_LIMIT"
            | "model_context_window_exceeded"
            | "token_limit"
            | "time_limit"
            | "CONTINUATION" => FinishReason::Length,
            "content_filter"
            | "sensitive"
            | "CONTENT_FILTER"
            | "content_filtered"
            | "guardrail_intervened"
            | "refusal"
            | "CONTENT_FILTERED"
            | "ERROR_TOXIC"
            | "INTERVENED" => FinishReason::ContentFilter,
            "SAFETY"
            | "RECITATION"
            | "LANGUAGE"
            | "BLOCKLIST"
            | "PROHIBITED_CONTENT"
            | "SPII"
            | "MODEL_ARMOR"
            | "ESCALATION"
            | "PUP_LIMITED_DISABLED"
            | "IMAGE_SAFETY"
            | "IMAGE_PROHIBITED_CONTENT"
            | "IMAGE_RECITATION" => FinishReason::ContentFilter,
            _ => FinishReason::Stop,
        };
        Self { reason, native }
    }
}

/// Token counts. Sums saturate: a provider's absurd figure never wraps into a small one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Usage {
    pub prompt_tokens: u64,
    #[serde(default)]
    pub completion_tokens: u64,
    pub total_tokens: u64,
}

impl Usage {
    pub fn new(prompt_tokens: u64, completion_tokens: u64) -> Self {
        let total_tokens = prompt_tokens.saturating_add(completion_tokens);
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens,
        }
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            prompt_tokens: self.prompt_tokens.saturating_add(other.prompt_tokens),
            completion_tokens: self
                .completion_tokens
                .saturating_add(other.completion_tokens),
            total_tokens: self.total_tokens.saturating_add(other.total_tokens),
        }
    }
}

/// What an exchange has learnt of its answer so far. `id` and `created` are seeded by the carrier, so that output is a
/// function of input; a dialect replaces `id` and `model` where the provider names them.
#[derive(Clone, Debug, Default)]
pub struct Partial {
    pub id: String,
    /// Unix time, seconds.
    pub created: u64,
    pub model: String,
    /// `max_tokens` of the request, for providers that do not say whether it cut a text off. 0: not known.
    pub limit: u64,
    /// The last valid count seen; `None` while the provider has told none.
    pub usage: Option<Usage>,
    /// Choices whose finish reason has been seen.
    pub finished: Finished,
    /// Choices that are a refusal, or the words of a guardrail, whatever reason they tell.
    pub refused: Finished,
    /// The provider's end marker has been seen.
    pub done: bool,
    /// `id`, `created` and `model` are the upstream's.
    pub headed: bool,
    /// The client has been told the token counts.
    pub usage_told: bool,
    /// Events of a kind that the dialect does not know.
    pub unknown: u64,
    /// What an API that leaves stop sequences in its text has not let go yet.
    pub tail: Tail,
    /// Where the tokens of each choice stand in its text.
    pub logprobs: logprobs::Running,
    /// What stood around the text of the last event that passed.
    pub around: Around,
    /// What the client wants to read.
    pub shape: Shape,
    /// What an answer of [`Shape::Fim`] remembers.
    pub fim: fim::Progress,
}

/// How far an answer shows what the provider itself said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compliance {
    /// The page's fields alone.
    Strict,
    /// `native_finish_reason` beside the page's `finish_reason`.
    Loose,
}

impl Partial {
    /// Why choice `index` ended: a refusal is a filter's work, also where the provider calls it a stop.
    pub fn judge<'a>(&self, index: u32, finish: Finish<'a>) -> Finish<'a> {
        if self.refused.contains(index) {
            Finish::filtered(finish.native)
        } else {
            finish
        }
    }

    /// Appends a whole reply as one JSON object.
    pub fn write_reply(&self, reply: &Completion<'_>, how: Compliance, out: &mut Vec<u8>) {
        match self.shape {
            Shape::Text => self.write(&reply.choices, self.usage, how, out),
            Shape::Fim => self.write_fim_reply(&reply.choices, how, out),
        }
    }

    /// Appends one stream event.
    pub fn write_chunk(&mut self, chunk: &Completion<'_>, how: Compliance, out: &mut Vec<u8>) {
        self.write_one(chunk, None, how, out);
    }

    /// The same, with the counts so far.
    pub fn write_counted_chunk(
        &mut self,
        chunk: &Completion<'_>,
        how: Compliance,
        out: &mut Vec<u8>,
    ) {
        self.write_one(chunk, self.usage, how, out);
    }

    fn write_one(
        &mut self,
        chunk: &Completion<'_>,
        usage: Option<Usage>,
        how: Compliance,
        out: &mut Vec<u8>,
    ) {
        if self.shape == Shape::Fim {
            return self.write_fim_chunk(&chunk.choices, how, out);
        }
        write_data(out, |out| self.write(&chunk.choices, usage, how, out));
    }

    /// Appends the usage event: `choices` is empty, as OpenAI sends it. Nothing if the provider did not count: a zero would
    /// be taken for a count. Nothing in the other shape either, whose last event has the counts.
    pub fn write_usage(&self, out: &mut Vec<u8>) {
        if self.usage.is_some() && self.shape == Shape::Text {
            write_data(out, |out| {
                self.write(&[], self.usage, Compliance::Strict, out)
            });
        }
    }

    /// Appends what an answer's shape keeps for the end of its stream.
    pub fn write_end(&self, out: &mut Vec<u8>) {
        match self.shape {
            Shape::Text => {}
            Shape::Fim => self.write_fim_end(out),
        }
    }

    fn write(
        &self,
        choices: &[Choice<'_>],
        usage: Option<Usage>,
        how: Compliance,
        out: &mut Vec<u8>,
    ) {
        let body = Body {
            id: &self.id,
            object: OBJECT,
            created: self.created,
            model: &self.model,
            choices: Choices { choices, how },
            usage,
        };
        // A `Vec` takes every write and the fields are strings and numbers: this cannot fail.
        let _ = serde_json::to_writer(out, &body);
    }
}

/// Copies JSON of the page's own shape, and says each finish reason that it tells once more as `native_finish_reason`.
///
/// A scan: the quoted names cannot occur inside a JSON string unescaped. A provider that tells its own reasons is a router
/// that knows them better.
pub fn tell_native(page: &[u8], out: &mut Vec<u8>) {
    const NAME: &[u8] = b"\"finish_reason\"";
    const NATIVE: &[u8] = b"\"native_finish_reason\"";
    let mut natives = memchr::memmem::find_iter(page, NATIVE);
    if natives.any(|at| value_behind(page, at + NATIVE.len()).is_some()) {
        out.extend_from_slice(page);
        return;
    }
    let mut copied = 0;
    for at in memchr::memmem::find_iter(page, NAME) {
        let Some(value) = told_value(page, at + NAME.len()) else {
            continue;
        };
        out.extend_from_slice(page.get(copied..value.end).unwrap_or_default());
        out.extend_from_slice(b",\"native_finish_reason\":");
        out.extend_from_slice(page.get(value.clone()).unwrap_or_default());
        copied = value.end;
    }
    out.extend_from_slice(page.get(copied..).unwrap_or_default());
}

/// The value behind the colon at `from`, and all that follows it; `None`: no colon is there.
fn value_behind(json: &[u8], from: usize) -> Option<&[u8]> {
    let rest = json.get(from..)?.trim_ascii_start();
    Some(rest.strip_prefix(b":")?.trim_ascii_start())
}

/// Where the string behind the colon at `from` stands; `None`: it is no string.
fn told_value(json: &[u8], from: usize) -> Option<std::ops::Range<usize>> {
    let value = value_behind(json, from)?;
    let mut rest = value.strip_prefix(b"\"")?;
    // An escaped quote ends no string.
    while let Some(at) = memchr::memchr2(b'"', b'\\', rest) {
        if rest.get(at) == Some(&b'"') {
            let end = json.len() - rest.len() + at + 1;
            return Some(json.len() - value.len()..end);
        }
        rest = rest.get(at + 2..)?;
    }
    None
}

/// `object` of every reply and every chunk.
pub const OBJECT: &str = "text_completion";

#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Choices<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

struct Choices<'a> {
    choices: &'a [Choice<'a>],
    how: Compliance,
}

impl Serialize for Choices<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.choices.iter().map(|choice| {
            WrittenChoice {
                text: &choice.text,
                index: choice.index,
                logprobs: choice.logprobs.as_ref(),
                finish_reason: choice.finish.as_ref().map(|finish| finish.reason),
                native_finish_reason: match self.how {
                    Compliance::Strict => None,
                    Compliance::Loose => choice
                        .finish
                        .as_ref()
                        .map(|finish| &*finish.native)
                        .filter(|native| !native.is_empty()),
                },
            }
        }))
    }
}

#[derive(Serialize)]
struct WrittenChoice<'a> {
    text: &'a str,
    index: u32,
    logprobs: Option<&'a Logprobs<'a>>,
    finish_reason: Option<FinishReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    native_finish_reason: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partial() -> Partial {
        Partial {
            id: "cmpl-1".into(),
            created: 7,
            model: "m".into(),
            usage: Some(Usage::new(2, 3)),
            ..Partial::default()
        }
    }

    #[test]
    fn a_whole_reply_has_the_fields_of_the_page_in_its_order() {
        let reply = Completion {
            choices: vec![Choice {
                text: "hi".into(),
                finish: Some(Finish::from_native("max_tokens")),
                ..Choice::default()
            }],
        };
        let mut out = Vec::new();
        partial().write_reply(&reply, Compliance::Strict, &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"id":"cmpl-1","object":"text_completion","created":7,"model":"m","choices":[{"text":"hi","index":0,"logprobs":null,"finish_reason":"length"}],"usage":{"prompt_tokens":2,"completion_tokens":3,"total_tokens":5}}"#
        );
    }

    #[test]
    fn loose_compliance_shows_the_native_reason() {
        let chunk = Completion {
            choices: vec![Choice {
                finish: Some(Finish::from_native("end_turn")),
                ..Choice::default()
            }],
        };
        let mut out = Vec::new();
        partial().write_chunk(&chunk, Compliance::Loose, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains(r#""finish_reason":"stop","native_finish_reason":"end_turn""#));
        assert!(text.starts_with("data: {") && text.ends_with("}\n\n"));
        assert!(!text.contains("usage"));
    }

    #[test]
    fn a_reason_of_the_page_is_told_as_the_native_one_too() {
        for (page, told) in [
            (
                r#"{"choices":[{"text":"\"finish_reason\":\"x\"","finish_reason": "stop","a":1},{"finish_reason":"length"}]}"#,
                r#"{"choices":[{"text":"\"finish_reason\":\"x\"","finish_reason": "stop","native_finish_reason":"stop","a":1},{"finish_reason":"length","native_finish_reason":"length"}]}"#,
            ),
            (
                r#"{"native_finish_reason":"eos","finish_reason":"stop"}"#,
                r#"{"native_finish_reason":"eos","finish_reason":"stop"}"#,
            ),
            (
                r#"{"text":"native_finish_reason","finish_reason":"stop"}"#,
                r#"{"text":"native_finish_reason","finish_reason":"stop","native_finish_reason":"stop"}"#,
            ),
            (r#"{"finish_reason":null}"#, r#"{"finish_reason":null}"#),
            (r#"{"finish_reason":"sto"#, r#"{"finish_reason":"sto"#),
            // Found by fuzzing: a reason with a quote in it.
            (
                r#"{"finish_reason":"a\"b\\"}"#,
                r#"{"finish_reason":"a\"b\\","native_finish_reason":"a\"b\\"}"#,
            ),
            (r#"{"finish_reason":"a\"}"#, r#"{"finish_reason":"a\"}"#),
        ] {
            let mut out = Vec::new();
            tell_native(page.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), told);
        }
    }

    #[test]
    fn the_usage_event_has_empty_choices() {
        let mut out = Vec::new();
        partial().write_usage(&mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains(r#""choices":[],"usage":{"prompt_tokens":2"#));
    }
}
