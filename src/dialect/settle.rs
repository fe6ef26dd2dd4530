//! Who does what for one request: the provider, the gateway, or nobody.
//!
//! Each parameter is native, emulated exactly, or refused with a 400 that names it. Only a client or a conf that says so
//! gets a refused one left out, and is told.

use serde::Deserialize;

use super::{Dialect, PromptForm, extras};
use crate::{
    completion::{
        Approach, CompletionRequest, Mark, Parameter, Prompt, PromptAs, Support,
        approach::PROMPT_AS,
    },
    error::Error,
};

/// What becomes of a parameter that nobody can carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unsupported {
    /// 400 naming it.
    #[default]
    Reject,
    /// It is left out, and a header of the answer names it.
    Drop,
}

/// One provider as requests are settled for it.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    pub dialect: &'a dyn Dialect,
    /// What this provider lacks of its dialect.
    pub refused: &'a [Parameter],
    /// For the errors.
    pub provider: &'a str,
    pub unsupported: Unsupported,
    /// How a prompt is to be put to a model that answers messages.
    pub prompt_as: PromptAs,
    /// See [`Dialect::prefill`].
    pub prefill: Option<Mark>,
}

/// What the provider does not do of what a request asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// What the gateway does in its place.
    pub emulated: Vec<Parameter>,
    /// The fields that were left out.
    pub dropped: Vec<String>,
    pub approach: Approach,
    /// The choice among candidates that the gateway makes.
    pub best: Option<Best>,
}

/// `best_of`, done by the gateway: the candidates are choices to the provider, and their tokens' log-probabilities say which
/// are the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Best {
    /// How many of them the client gets.
    pub n: u32,
    /// The candidates for each prompt.
    pub of: u32,
    /// The client wants to see log-probabilities.
    pub logprobs: bool,
}

impl Settled {
    pub fn emulates(&self, parameter: Parameter) -> bool {
        self.emulated.contains(&parameter)
    }
}

/// Refuses what can be done by neither the provider nor the gateway, and takes the neutral values of such parameters out.
pub fn settle(request: &mut CompletionRequest, terms: Terms<'_>) -> Result<Settled, Error> {
    let mut settled = Settled::default();
    if terms.support(Parameter::BestOf, request) == Support::Emulated {
        settled.best = take_best(request);
        settled
            .emulated
            .extend(settled.best.map(|_| Parameter::BestOf));
    }
    for parameter in Parameter::ALL {
        match terms.support(parameter, request) {
            Support::Native => {}
            Support::Emulated | Support::Refused if !request.asks(parameter) => {
                request.leave_out(parameter);
            }
            // Only a prompt can say it there: what is left of it would be lost.
            Support::Emulated if parameter != Parameter::Suffix => {
                settled.emulated.push(parameter);
            }
            Support::Emulated | Support::Refused if terms.may_drop(parameter) => {
                request.forget(parameter);
                settled.dropped.push(parameter.field().to_owned());
            }
            Support::Emulated | Support::Refused => {
                return Err(terms.unsupported(request.field(parameter)));
            }
        }
    }
    settle_stream_options(request, terms, &mut settled)?;
    settle_extras(request, terms, &mut settled)?;
    check_prompt(request, terms)?;
    settled.approach = terms.approach(request.model())?;
    request.approach = settled.approach;
    check_together(request, terms, &settled)?;
    Ok(settled)
}

impl Terms<'_> {
    fn support(&self, parameter: Parameter, request: &CompletionRequest) -> Support {
        match support(self.dialect, self.refused, parameter) {
            Support::Native
                if is_emulated(parameter)
                    && request.asks(parameter)
                    && !self.dialect.carries(parameter, request) =>
            {
                Support::Emulated
            }
            other => other,
        }
    }

    fn unsupported(&self, field: impl Into<String>) -> Error {
        Error::unsupported(field.into(), self.provider)
    }

    /// A text is continued whatever is asked for. A way that the provider has not is never changed for another one.
    fn approach(&self, model: &str) -> Result<Approach, Error> {
        match (self.dialect.prompt_form(), self.prompt_as) {
            (PromptForm::Text, _) | (PromptForm::Chat, PromptAs::Message) => Ok(Approach::Message),
            (PromptForm::Chat, PromptAs::Continue) => Ok(Approach::Continue),
            (PromptForm::Chat, PromptAs::Prefill) => self
                .dialect
                .prefill(self.prefill, Some(model))
                .map(Approach::Prefill)
                .ok_or_else(|| self.no_prefill(model)),
        }
    }

    fn no_prefill(&self, model: &str) -> Error {
        let of_others = self.dialect.prefill(self.prefill, None).is_some();
        let model = if of_others {
            format!(" for the model {model}")
        } else {
            String::new()
        };
        let message = format!(
            "{} documents no way to have the model's own message begin with the prompt{model}; `continue` and `message` are other ways.",
            self.provider
        );
        Error::invalid(PROMPT_AS, message)
    }

    /// Without its prompt, or whole in place of streamed, a request is another one.
    fn may_drop(&self, parameter: Parameter) -> bool {
        self.unsupported == Unsupported::Drop
            && !matches!(
                parameter,
                Parameter::Prompts | Parameter::TokenIds | Parameter::Stream
            )
    }
}

/// Makes candidates of `best_of` choices, where it asks for any.
fn take_best(request: &mut CompletionRequest) -> Option<Best> {
    if !request.asks(Parameter::BestOf) {
        return None;
    }
    let of = request.best_of?;
    let best = Best {
        n: request.n.unwrap_or(1),
        of,
        logprobs: request.logprobs.is_some(),
    };
    request.forget(Parameter::BestOf);
    request.n = Some(of);
    request.logprobs.get_or_insert(0);
    Some(best)
}

/// The gateway counts for a client by itself; what else stands in `stream_options` takes the provider.
fn settle_stream_options(
    request: &mut CompletionRequest,
    terms: Terms<'_>,
    settled: &mut Settled,
) -> Result<(), Error> {
    if terms.dialect.support(Parameter::StreamOptions) == Support::Native {
        return Ok(());
    }
    let Some(options) = &mut request.stream_options else {
        return Ok(());
    };
    let Some(name) = options.extra_asked() else {
        return Ok(());
    };
    let field = format!("stream_options.{name}");
    if terms.unsupported == Unsupported::Reject {
        return Err(terms.unsupported(field));
    }
    options.extra.clear();
    settled.dropped.push(field);
    Ok(())
}

fn settle_extras(
    request: &mut CompletionRequest,
    terms: Terms<'_>,
    settled: &mut Settled,
) -> Result<(), Error> {
    let allowed = terms.dialect.extras();
    let refused: Vec<String> = extras(request)
        .map(|(name, _)| name.to_owned())
        .filter(|name| !allowed.allow(name))
        .collect();
    match (terms.unsupported, refused.into_iter()) {
        (Unsupported::Reject, mut refused) => refused
            .next()
            .map_or(Ok(()), |name| Err(terms.unsupported(name))),
        (Unsupported::Drop, refused) => {
            for name in refused {
                request.forget_extra(&name);
                settled.dropped.push(name);
            }
            Ok(())
        }
    }
}

fn check_prompt(request: &CompletionRequest, terms: Terms<'_>) -> Result<(), Error> {
    if matches!(request.prompt, Prompt::Absent)
        && terms.dialect.support(Parameter::TokenIds) != Support::Native
    {
        let message = format!("`prompt` is required by {}.", terms.provider);
        return Err(Error::invalid("prompt", message));
    }
    Ok(())
}

/// What each could be done alone, and cannot be done together.
fn check_together(
    request: &CompletionRequest,
    terms: Terms<'_>,
    settled: &Settled,
) -> Result<(), Error> {
    let together = |field: Parameter, with: &str| {
        let (field, provider) = (field.field(), terms.provider);
        let message = format!("{provider} cannot do `{field}` together with {with}.");
        Err(Error::invalid(field, message))
    };
    let echo = settled.emulates(Parameter::Echo);
    let logprobs = request.asks(Parameter::Logprobs);
    if echo && logprobs {
        // The prompt's own log-probabilities are what the two mean together.
        return together(Parameter::Echo, "`logprobs`");
    }
    if echo && request.asks(Parameter::TokenIds) {
        return together(Parameter::Echo, "token ids");
    }
    if echo && matches!(request.prompt, Prompt::Absent) {
        return together(Parameter::Echo, "no `prompt`");
    }
    if echo && request.max_tokens == Some(0) {
        return together(Parameter::MaxTokens, "`echo` if it is 0");
    }
    if settled.emulates(Parameter::Stop) && logprobs {
        return together(Parameter::Stop, "`logprobs`");
    }
    if settled.approach.repeats_prompt() && logprobs {
        // They are of the repeated prompt's tokens too.
        return together(Parameter::Logprobs, "a prompt that its answer repeats");
    }
    Ok(())
}

/// One cell of the capability table.
pub fn support(dialect: &dyn Dialect, refused: &[Parameter], parameter: Parameter) -> Support {
    match own_support(dialect, refused, parameter) {
        Support::Refused if is_emulated(parameter) => Support::Emulated,
        // Where prompts go raw, one with control tokens can say what a suffix would.
        Support::Refused
            if parameter == Parameter::Suffix
                && refused.contains(&parameter)
                && dialect.prompt_form() == PromptForm::Text =>
        {
            Support::Emulated
        }
        // The best of several is the one whose tokens are the likeliest.
        Support::Refused
            if parameter == Parameter::BestOf
                && own_support(dialect, refused, Parameter::Logprobs) != Support::Refused =>
        {
            Support::Emulated
        }
        own => own,
    }
}

/// What the provider itself does.
fn own_support(dialect: &dyn Dialect, refused: &[Parameter], parameter: Parameter) -> Support {
    if refused.contains(&parameter) {
        Support::Refused
    } else {
        dialect.support(parameter)
    }
}

/// What the gateway does for providers that do not.
fn is_emulated(parameter: Parameter) -> bool {
    match parameter {
        Parameter::Prompts | Parameter::N | Parameter::Stop | Parameter::Echo => true,
        Parameter::TokenIds
        | Parameter::BestOf
        | Parameter::MaxTokens
        | Parameter::Temperature
        | Parameter::TopP
        | Parameter::Stream
        | Parameter::PresencePenalty
        | Parameter::FrequencyPenalty
        | Parameter::Suffix
        | Parameter::Logprobs
        | Parameter::User
        | Parameter::Seed
        | Parameter::LogitBias
        | Parameter::StreamOptions => false,
    }
}

/// What a dialect's own tests hold it to: nothing is done in its place.
#[cfg(test)]
pub fn settle_alone(
    request: &mut CompletionRequest,
    dialect: &dyn Dialect,
    refused: &[Parameter],
    provider: &str,
) -> Result<(), Error> {
    let terms = Terms {
        dialect,
        refused,
        provider,
        unsupported: Unsupported::Reject,
        prompt_as: PromptAs::Message,
        prefill: None,
    };
    let mut lacking = Parameter::ALL.iter().filter(|&&parameter| {
        own_support(dialect, refused, parameter) == Support::Refused && request.asks(parameter)
    });
    match lacking.next() {
        Some(parameter) => Err(terms.unsupported(parameter.field())),
        None => settle(request, terms).map(drop),
    }
}
