//! What Gemini's generateContent is asked. `gemini.rs` tells the sources.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    completion::CompletionRequest,
    dialect::{
        extras, positive_max_tokens, to_body,
        token_logprobs::alternatives,
        turns::{Words, instruction},
    },
    error::Error,
};

pub fn write_body(request: &CompletionRequest) -> Result<Bytes, Error> {
    to_body(&Body::try_new(request)?)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    contents: [Content<'a>; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    system_instruction: Option<Instruction>,
    generation_config: GenerationConfig<'a>,
    #[serde(flatten)]
    extra: Fields<'a>,
}

type Fields<'a> = BTreeMap<&'a str, &'a RawValue>;

#[derive(Serialize)]
struct Content<'a> {
    role: &'static str,
    parts: [Part<'a>; 1],
}

#[derive(Serialize)]
struct Part<'a> {
    text: Words<'a>,
}

/// A content whose role is its place.
#[derive(Serialize)]
struct Instruction {
    parts: [Part<'static>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GenerationConfig<'a> {
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop_sequences: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    candidate_count: Option<u32>,
    max_output_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    presence_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency_penalty: Option<f64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    response_logprobs: bool,
    /// "Only valid if responseLogprobs=True. This sets the number of top logprobs to return at each decoding step".
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<u32>,
    #[serde(flatten)]
    extra: Fields<'a>,
}

impl<'a> Body<'a> {
    fn try_new(request: &'a CompletionRequest) -> Result<Self, Error> {
        if TOP_K.iter().all(|name| request.extra.contains_key(*name)) {
            let message = "`topK` and `top_k` name the same figure; send one.";
            return Err(Error::invalid("top_k", message));
        }
        let logprobs = alternatives(request, MAX_LOGPROBS)?;
        let (of_body, of_config) = extras(request).partition(|(name, _)| OF_BODY.contains(name));
        let system = instruction(request, "systemInstruction")?;
        Ok(Self {
            contents: [Content {
                role: "user",
                parts: [Part {
                    text: Words::Prompt(request.sole_text()?),
                }],
            }],
            system_instruction: system.map(|text| Instruction {
                parts: [Part { text }],
            }),
            generation_config: GenerationConfig {
                stop_sequences: &request.stop,
                candidate_count: candidate_count(request)?,
                max_output_tokens: positive_max_tokens(request)?,
                temperature: request.temperature,
                top_p: request.top_p,
                seed: request.seed,
                presence_penalty: request.presence_penalty.filter(|&p| p != 0.0),
                frequency_penalty: request.frequency_penalty.filter(|&p| p != 0.0),
                response_logprobs: logprobs.is_some(),
                logprobs: logprobs.filter(|&count| count > 0),
                extra: of_config,
            },
            extra: of_body,
        })
    }
}

pub fn candidate_count(request: &CompletionRequest) -> Result<Option<u32>, Error> {
    match request.n {
        None | Some(1) => Ok(None),
        // "Multiple candidates … works with generateContent (streamGenerateContent is not supported)."
        Some(_) if request.stream => Err(Error::invalid(
            "n",
            "`n` above 1 cannot be streamed by this provider.",
        )),
        Some(n) if n > MAX_CANDIDATES => Err(Error::invalid(
            "n",
            format!("`n` must be at most {MAX_CANDIDATES} for this provider."),
        )),
        n => Ok(n),
    }
}

/// "This value must be between [1, 8], inclusive."
const MAX_CANDIDATES: u32 = 8;
/// "The number must be in the range of [0, 20]."
const MAX_LOGPROBS: u32 = 20;

/// Fields of the API that the page lacks and that leave the answer a text.
pub const EXTRAS: &[&str] = &[
    "cachedContent",
    "responseMimeType",
    "responseSchema",
    "safetySettings",
    "systemInstruction",
    "thinkingConfig",
    "topK",
    "top_k",
];
/// Google's JSON takes either spelling, but not both at once.
const TOP_K: &[&str] = &["topK", "top_k"];
/// Those of them that stand beside `generationConfig`, not in it.
const OF_BODY: &[&str] = &["cachedContent", "safetySettings", "systemInstruction"];
