//! The parameters of the page, as the closed set that every dialect answers for.

/// A parameter a client can ask for. Adding one makes the compiler ask every dialect about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Parameter {
    /// `prompt` with more than one text.
    Prompts,
    /// `prompt` as token ids.
    TokenIds,
    MaxTokens,
    Temperature,
    TopP,
    N,
    Stream,
    Stop,
    PresencePenalty,
    FrequencyPenalty,
    Suffix,
    Echo,
    BestOf,
    Logprobs,
    User,
    Seed,
    LogitBias,
    StreamOptions,
}

/// How a dialect carries a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// The provider does it.
    Native,
    /// The gateway does it.
    Emulated,
    /// Nobody does it: 400 naming the parameter.
    Refused,
}

impl Parameter {
    pub const ALL: [Parameter; 18] = [
        Parameter::Prompts,
        Parameter::TokenIds,
        Parameter::MaxTokens,
        Parameter::Temperature,
        Parameter::TopP,
        Parameter::N,
        Parameter::Stream,
        Parameter::Stop,
        Parameter::PresencePenalty,
        Parameter::FrequencyPenalty,
        Parameter::Suffix,
        Parameter::Echo,
        Parameter::BestOf,
        Parameter::Logprobs,
        Parameter::User,
        Parameter::Seed,
        Parameter::LogitBias,
        Parameter::StreamOptions,
    ];

    /// The request field that carries it: what an error's `param` says.
    pub fn field(self) -> &'static str {
        match self {
            Parameter::Prompts | Parameter::TokenIds => "prompt",
            Parameter::MaxTokens => "max_tokens",
            Parameter::Temperature => "temperature",
            Parameter::TopP => "top_p",
            Parameter::N => "n",
            Parameter::Stream => "stream",
            Parameter::Stop => "stop",
            Parameter::PresencePenalty => "presence_penalty",
            Parameter::FrequencyPenalty => "frequency_penalty",
            Parameter::Suffix => "suffix",
            Parameter::Echo => "echo",
            Parameter::BestOf => "best_of",
            Parameter::Logprobs => "logprobs",
            Parameter::User => "user",
            Parameter::Seed => "seed",
            Parameter::LogitBias => "logit_bias",
            Parameter::StreamOptions => "stream_options",
        }
    }

    /// Its name in tables: the field, but for the two forms of `prompt` that have columns of their own.
    pub fn title(self) -> &'static str {
        match self {
            Parameter::Prompts => "prompt: list",
            Parameter::TokenIds => "prompt: token ids",
            other => other.field(),
        }
    }
}

impl Support {
    pub fn as_str(self) -> &'static str {
        match self {
            Support::Native => "native",
            Support::Emulated => "emulated",
            Support::Refused => "refused",
        }
    }
}
