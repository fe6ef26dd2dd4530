//! The messages of OpenAI-shaped chat, and how its providers are told that the last one goes on.
//!
//! The page has no way to give the start of the answer; some who copied it have, each its own mark: Groq
//! (<https://console.groq.com/docs/prefilling>) and OpenRouter (<https://openrouter.ai/docs/api-reference/overview>) none but the
//! role, DeepSeek's beta (<https://api-docs.deepseek.com/guides/chat_prefix_completion>) `prefix`, Moonshot
//! (<https://platform.kimi.ai/docs/guide/use-partial-mode-feature-of-kimi-api>) and Model Studio
//! (<https://www.alibabacloud.com/help/en/model-studio/partial-mode>) `partial`, vLLM
//! (<https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html>) and SGLang two fields of the request.

use serde::Serialize;

use crate::{
    completion::{Approach, CompletionRequest, Mark},
    dialect::turns::{Speaker, Turn, Words, instruction, turns},
    error::Error,
};

#[derive(Serialize)]
pub struct Message<'a> {
    role: &'static str,
    content: Words<'a>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    prefix: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    partial: bool,
}

pub fn messages(request: &CompletionRequest) -> Result<Vec<Message<'_>>, Error> {
    let system = instruction(request, "messages")?.map(|content| Message {
        role: "system",
        content,
        prefix: false,
        partial: false,
    });
    let turns = turns(request)?;
    let told = turns
        .into_iter()
        .map(|turn| Message::of(turn, request.approach));
    Ok(system.into_iter().chain(told).collect())
}

impl<'a> Message<'a> {
    fn of(turn: Turn<'a>, approach: Approach) -> Self {
        let mark = match approach {
            Approach::Prefill(mark) if turn.speaker == Speaker::Assistant => Some(mark),
            _ => None,
        };
        Self {
            role: turn.speaker.role(),
            content: turn.words,
            prefix: matches!(mark, Some(Mark::Prefix | Mark::RepeatedPrefix)),
            partial: mark == Some(Mark::Partial),
        }
    }
}

/// Whether the request's own fields say that the last message goes on. The client's of the same names cannot stand beside.
pub fn goes_on(request: &CompletionRequest) -> Result<bool, Error> {
    if request.approach != Approach::Prefill(Mark::ContinueFinalMessage) {
        return Ok(false);
    }
    let own = GOING_ON
        .iter()
        .find(|name| request.extra.contains_key(**name));
    own.map_or(Ok(true), |name| {
        let message = format!("`{name}` is set by `prefill`; send one of the two.");
        Err(Error::invalid(*name, message))
    })
}

/// vLLM's and SGLang's: the first "cannot be used at the same time as" the second, which is on by default.
const GOING_ON: [&str; 2] = ["continue_final_message", "add_generation_prompt"];
