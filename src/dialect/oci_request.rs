//! What OCI's chat action is asked, in its formats. `oci.rs` tells the sources.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Number, value::RawValue};

use crate::{
    completion::CompletionRequest,
    dialect::{
        extras, positive_max_tokens, to_body,
        turns::{Words, instruction},
    },
    error::Error,
};

/// "The API format for the model's family group."
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Generic,
    Cohere,
}

impl Format {
    pub const fn extras(self) -> &'static [&'static str] {
        match self {
            Self::Generic => GENERIC_EXTRAS,
            Self::Cohere => COHERE_EXTRAS,
        }
    }
}

pub fn write_body(request: &CompletionRequest, format: Format) -> Result<Bytes, Error> {
    to_body(&Body {
        compartment_id: compartment(request)?,
        serving_mode: ServingMode::of(request.model()),
        chat_request: ChatRequest::try_new(request, format)?,
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    compartment_id: &'a RawValue,
    serving_mode: ServingMode<'a>,
    chat_request: ChatRequest<'a>,
}

#[derive(Serialize)]
#[serde(tag = "servingType", rename_all = "SCREAMING_SNAKE_CASE")]
enum ServingMode<'a> {
    #[serde(rename_all = "camelCase")]
    OnDemand { model_id: &'a str },
    #[serde(rename_all = "camelCase")]
    Dedicated { endpoint_id: &'a str },
}

impl<'a> ServingMode<'a> {
    fn of(model: &'a str) -> Self {
        if model.starts_with("ocid1.generativeaiendpoint.") {
            Self::Dedicated { endpoint_id: model }
        } else {
            Self::OnDemand { model_id: model }
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ChatRequest<'a> {
    api_format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<Vec<Message<'a>>>,
    /// The same in `COHERE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a RawValue>,
    /// What a system message is there, in `COHERE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    preamble_override: Option<Words<'a>>,
    max_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    presence_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<i64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop: &'a [String],
    /// The same in `COHERE`.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop_sequences: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    num_generations: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logit_bias: Option<&'a BTreeMap<String, Number>>,
    /// "The API returns the log probability of the sampled token", also for 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    log_probs: Option<u32>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
    #[serde(flatten)]
    extra: BTreeMap<&'a str, &'a RawValue>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: [Part<'a>; 1],
}

#[derive(Serialize)]
struct Part<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    text: Words<'a>,
}

impl<'a> Message<'a> {
    fn of(role: &'static str, text: Words<'a>) -> Self {
        let content = [Part { kind: "TEXT", text }];
        Self { role, content }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StreamOptions {
    is_include_usage: bool,
}

impl<'a> ChatRequest<'a> {
    fn try_new(request: &'a CompletionRequest, format: Format) -> Result<Self, Error> {
        let text = request.sole_text()?;
        if format == Format::Cohere {
            check_cohere(request)?;
        }
        let generic = format == Format::Generic;
        let (stop, stop_sequences) = match format {
            Format::Generic => (request.stop.as_slice(), [].as_slice()),
            Format::Cohere => ([].as_slice(), request.stop.as_slice()),
        };
        let system = instruction(request, PREAMBLE)?;
        let messages = || {
            let system = system.map(|words| Message::of("SYSTEM", words));
            let user = Message::of("USER", Words::Prompt(text));
            system.into_iter().chain([user]).collect()
        };
        Ok(Self {
            api_format: if generic { "GENERIC" } else { "COHERE" },
            messages: generic.then(messages),
            message: Some(text).filter(|_| !generic),
            preamble_override: system.filter(|_| !generic),
            max_tokens: positive_max_tokens(request)?,
            temperature: request.temperature,
            top_p: request.top_p,
            frequency_penalty: request.frequency_penalty.filter(|&p| p != 0.0),
            presence_penalty: request.presence_penalty.filter(|&p| p != 0.0),
            seed: request.seed,
            stop,
            stop_sequences,
            num_generations: request.n.filter(|&n| n > 1),
            logit_bias: request.logit_bias.as_ref().filter(|bias| !bias.is_empty()),
            log_probs: request.logprobs,
            is_stream: request.stream,
            stream_options: request.stream.then_some(StreamOptions {
                is_include_usage: true,
            }),
            extra: extras(request)
                .filter(|(name, _)| *name != COMPARTMENT)
                .collect(),
        })
    }
}

fn compartment(request: &CompletionRequest) -> Result<&RawValue, Error> {
    let value = request.extra.get(COMPARTMENT).map(|value| &**value);
    value
        .filter(|value| value.get().starts_with('"'))
        .ok_or_else(|| {
            let message =
                "`compartmentId`, the OCID of a compartment, is required by this provider.";
            Error::invalid(COMPARTMENT, message)
        })
}

/// "Minimum: 0, maximum: 1" for each.
fn check_cohere(request: &CompletionRequest) -> Result<(), Error> {
    for (name, value) in [
        ("temperature", request.temperature),
        ("presence_penalty", request.presence_penalty),
        ("frequency_penalty", request.frequency_penalty),
    ] {
        if value.is_some_and(|value| !(0.0..=1.0).contains(&value)) {
            let message = format!("`{name}` must be from 0 to 1 for this model.");
            return Err(Error::invalid(name, message));
        }
    }
    Ok(())
}

const COMPARTMENT: &str = "compartmentId";
const PREAMBLE: &str = "preambleOverride";
/// Fields of the formats that the page lacks and that leave the answer a text; and the compartment, which stands beside.
const GENERIC_EXTRAS: &[&str] = &[
    COMPARTMENT,
    "reasoningEffort",
    "responseFormat",
    "serviceTier",
    "topK",
    "verbosity",
];
const COHERE_EXTRAS: &[&str] = &[
    COMPARTMENT,
    "isRawPrompting",
    PREAMBLE,
    "responseFormat",
    "safetyMode",
    "topK",
];
