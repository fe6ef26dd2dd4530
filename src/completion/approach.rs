//! In which way a prompt is put to a model that answers messages. A model that takes a text continues it in any case.

use serde::Deserialize;

/// What a client or a conf asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptAs {
    /// A user's message, and nothing else.
    #[default]
    Message,
    /// A user's message, under the instruction to continue it rather than answer it.
    Continue,
    /// The start of the model's own message.
    Prefill,
}

impl PromptAs {
    pub const ALL: [Self; 3] = [Self::Message, Self::Continue, Self::Prefill];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Continue => "continue",
            Self::Prefill => "prefill",
        }
    }

    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|way| way.as_str() == name)
    }
}

/// What became of it for one provider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Approach {
    #[default]
    Message,
    Continue,
    Prefill(Mark),
}

impl Approach {
    /// Whether the answer's text begins with the prompt.
    pub fn repeats_prompt(self) -> bool {
        self == Self::Prefill(Mark::RepeatedPrefix)
    }
}

/// How an API is told that the last message, the assistant's, goes on where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// By its place and role alone.
    Role,
    /// By the message's `prefix: true`.
    Prefix,
    /// The same, and the answer says the prompt again before it goes on.
    RepeatedPrefix,
    /// By the message's `partial: true`.
    Partial,
    /// By the request's `continue_final_message: true` and `add_generation_prompt: false`.
    ContinueFinalMessage,
}

/// The header by which a client chooses.
pub const PROMPT_AS: &str = "x-completions-prompt-as";
