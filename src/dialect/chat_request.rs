//! What OpenAI-shaped chat is asked. `chat.rs` tells the sources.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Number, value::RawValue};

use crate::{
    completion::{CompletionRequest, request::StreamOptions},
    dialect::{
        chat::{Chat, Seed, StreamUsage},
        chat_turns::{Message, goes_on, messages},
        openai::stream_options,
        to_body,
        token_logprobs::alternatives,
    },
    error::Error,
};

impl Chat {
    /// The body, with the model under the name that its address knows.
    pub(super) fn write_body(
        &self,
        request: &CompletionRequest,
        model: &str,
    ) -> Result<Bytes, Error> {
        if request.extra.contains_key("messages") {
            return Err(Error::invalid(
                "messages",
                "`messages` belongs to chat completions; send `prompt`.",
            ));
        }
        let seeds = (request.seed, request.extra.contains_key(RANDOM_SEED));
        if let (Some(_), true) = seeds
            && self.seed == Seed::RandomSeed
        {
            let message = format!("`{RANDOM_SEED}` and `seed` name the same figure; send one.");
            return Err(Error::invalid(RANDOM_SEED, message));
        }
        if request.logprobs.is_some() && request.extra.contains_key(TOP_LOGPROBS) {
            let message = format!("`{TOP_LOGPROBS}` is chat's word for `logprobs`; send one.");
            return Err(Error::invalid(TOP_LOGPROBS, message));
        }
        to_body(&Body {
            model,
            ..self.body(request)?
        })
    }

    fn body<'a>(&self, request: &'a CompletionRequest) -> Result<Body<'a>, Error> {
        let top_logprobs = alternatives(request, MAX_TOP_LOGPROBS)?;
        let seed = |name: Seed| request.seed.filter(|_| self.seed == name);
        let goes_on = goes_on(request)?;
        Ok(Body {
            model: request.model(),
            messages: messages(request)?,
            continue_final_message: goes_on,
            add_generation_prompt: goes_on.then_some(false),
            max_tokens: request.max_tokens(),
            temperature: request.temperature,
            top_p: request.top_p,
            n: request.n.filter(|&n| n > 1),
            stream: request.stream,
            stream_options: stream_options(request)
                .map(StreamOptions::without_running_counts)
                .filter(|_| self.stream_usage == StreamUsage::OnRequest),
            stop: &request.stop,
            presence_penalty: request.presence_penalty.filter(|&p| p != 0.0),
            frequency_penalty: request.frequency_penalty.filter(|&p| p != 0.0),
            user: &request.user,
            seed: seed(Seed::Seed),
            random_seed: seed(Seed::RandomSeed),
            logit_bias: request.logit_bias.as_ref().filter(|bias| !bias.is_empty()),
            logprobs: top_logprobs.is_some(),
            top_logprobs: top_logprobs.filter(|&count| count > 0),
            extra: &request.extra,
        })
    }
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    messages: Vec<Message<'a>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    continue_final_message: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    add_generation_prompt: Option<bool>,
    max_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<u32>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    presence_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: &'a Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    random_seed: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logit_bias: Option<&'a BTreeMap<String, Number>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    logprobs: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<u32>,
    #[serde(flatten)]
    extra: &'a BTreeMap<String, Box<RawValue>>,
}

/// Mistral's word for `seed`.
const RANDOM_SEED: &str = "random_seed";
const TOP_LOGPROBS: &str = "top_logprobs";
/// "An integer between 0 and 20".
const MAX_TOP_LOGPROBS: u32 = 20;
