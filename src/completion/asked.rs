//! What a request asks for, parameter by parameter, and how one is taken out of it.

use super::{CompletionRequest, Parameter, Prompt};

impl CompletionRequest {
    /// Whether the request asks `parameter` to change anything. A neutral value (`n: 1`, a penalty of 0, no stop) asks
    /// nothing: it can be left out for a provider that lacks the parameter, and the answer is the same.
    pub fn asks(&self, parameter: Parameter) -> bool {
        match parameter {
            Parameter::Prompts => match &self.prompt {
                Prompt::Texts(list) | Prompt::TokenLists(list) => list.len() > 1,
                Prompt::Absent | Prompt::Text(_) | Prompt::Tokens(_) => false,
            },
            Parameter::TokenIds => matches!(self.prompt, Prompt::Tokens(_) | Prompt::TokenLists(_)),
            Parameter::MaxTokens => self.max_tokens.is_some(),
            Parameter::Temperature => self.temperature.is_some(),
            Parameter::TopP => self.top_p.is_some_and(|p| p < 1.0),
            Parameter::N => self.n.is_some_and(|n| n > 1),
            Parameter::Stream => self.stream,
            Parameter::Stop => !self.stop.is_empty(),
            Parameter::PresencePenalty => self.presence_penalty.is_some_and(|p| p != 0.0),
            Parameter::FrequencyPenalty => self.frequency_penalty.is_some_and(|p| p != 0.0),
            Parameter::Suffix => self
                .suffix
                .as_ref()
                .is_some_and(|suffix| !suffix.is_empty()),
            Parameter::Echo => self.echo == Some(true),
            // Where all candidates are returned there is nothing to choose.
            Parameter::BestOf => self.best_of.is_some_and(|of| of > self.n.unwrap_or(1)),
            Parameter::Logprobs => self.logprobs.is_some(),
            Parameter::User => self.user.as_ref().is_some_and(|user| !user.is_empty()),
            Parameter::Seed => self.seed.is_some(),
            Parameter::LogitBias => self
                .logit_bias
                .as_ref()
                .is_some_and(|bias| !bias.is_empty()),
            Parameter::StreamOptions => self.stream_options.is_some(),
        }
    }

    /// Takes `parameter` out where it asks for nothing, for a provider that would refuse even its neutral value.
    pub fn leave_out(&mut self, parameter: Parameter) {
        if self.asks(parameter) {
            return;
        }
        let was_there = match parameter {
            Parameter::Prompts => self.unlist_prompt(),
            // Forms and switches that are not there unless they ask for something.
            Parameter::TokenIds
            | Parameter::MaxTokens
            | Parameter::Temperature
            | Parameter::Logprobs
            | Parameter::Seed
            | Parameter::StreamOptions => false,
            Parameter::User => self.user.take().is_some(),
            Parameter::TopP => self.top_p.take().is_some(),
            Parameter::N => self.n.take().is_some(),
            Parameter::Stop | Parameter::Stream => true,
            Parameter::Echo => self.echo.take().is_some(),
            Parameter::PresencePenalty => self.presence_penalty.take().is_some(),
            Parameter::FrequencyPenalty => self.frequency_penalty.take().is_some(),
            Parameter::Suffix => self.suffix.take().is_some(),
            Parameter::BestOf => self.best_of.take().is_some(),
            Parameter::LogitBias => self.logit_bias.take().is_some(),
        };
        if was_there {
            self.source = None;
        }
    }

    /// Takes `parameter` out although it asks for something.
    pub fn forget(&mut self, parameter: Parameter) {
        self.source = None;
        match parameter {
            Parameter::Prompts | Parameter::TokenIds => self.prompt = Prompt::Absent,
            Parameter::MaxTokens => self.max_tokens = None,
            Parameter::Temperature => self.temperature = None,
            Parameter::TopP => self.top_p = None,
            Parameter::N => self.n = None,
            Parameter::Stream => self.stream = false,
            Parameter::Stop => self.stop = Vec::new(),
            Parameter::PresencePenalty => self.presence_penalty = None,
            Parameter::FrequencyPenalty => self.frequency_penalty = None,
            Parameter::Suffix => self.suffix = None,
            Parameter::Echo => self.echo = None,
            Parameter::BestOf => self.best_of = None,
            Parameter::Logprobs => self.logprobs = None,
            Parameter::User => self.user = None,
            Parameter::Seed => self.seed = None,
            Parameter::LogitBias => self.logit_bias = None,
            Parameter::StreamOptions => self.stream_options = None,
        }
    }

    /// Takes out a field that the page does not know.
    pub fn forget_extra(&mut self, name: &str) {
        self.source = None;
        self.extra.remove(name);
    }

    /// A list of one text is that text.
    fn unlist_prompt(&mut self) -> bool {
        match &mut self.prompt {
            Prompt::Texts(list) if list.len() == 1 => {
                self.prompt = list.pop().map_or(Prompt::Absent, Prompt::Text);
                true
            }
            Prompt::TokenLists(list) if list.len() == 1 => {
                self.prompt = list.pop().map_or(Prompt::Absent, Prompt::Tokens);
                true
            }
            Prompt::Absent
            | Prompt::Text(_)
            | Prompt::Tokens(_)
            | Prompt::Texts(_)
            | Prompt::TokenLists(_) => false,
        }
    }
}
