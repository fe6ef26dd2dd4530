//! Who does what for one request: the provider, the gateway, or nobody.
//!
//! Each parameter is native, emulated exactly, or refused with a 400 that names it. Only a client or a conf that says so
//! gets a refused one left out, and is told.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Dialect, Extras, PromptForm, extras};
use crate::{
    completion::{
        Approach, CompletionRequest, Mark, Parameter, Prompt, PromptAs, Support,
        approach::PROMPT_AS,
        request::{MAX_STOPS, RUNNING_COUNTS},
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
            // Each call would choose among candidates of its own.
            Support::Native
                if parameter == Parameter::BestOf
                    && request.asks(Parameter::N)
                    && self.support(Parameter::N, request) == Support::Emulated =>
            {
                best_of_here(self.dialect, self.refused)
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

/// The gateway counts for a client by itself, as far as its provider has told; what else stands in `stream_options` takes the
/// provider.
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
    let running = options.extra.remove_entry(RUNNING_COUNTS);
    let asked = options
        .extra_asked()
        .map(|name| format!("stream_options.{name}"));
    if asked.is_some() && terms.unsupported == Unsupported::Drop {
        options.extra.clear();
    }
    options.extra.extend(running);
    match (asked, terms.unsupported) {
        (Some(field), Unsupported::Reject) => return Err(terms.unsupported(field)),
        (field, _) => settled.dropped.extend(field),
    }
    Ok(())
}

fn settle_extras(
    request: &mut CompletionRequest,
    terms: Terms<'_>,
    settled: &mut Settled,
) -> Result<(), Error> {
    let allowed = terms.dialect.extras();
    let names = |wanted: &dyn Fn(&str, &RawValue) -> bool| -> Vec<String> {
        let fields = extras(request).filter(|(name, value)| wanted(name, value));
        fields.map(|(name, _)| name.to_owned()).collect()
    };
    let is_neutral = |name: &str, value: &RawValue| {
        allowed != Extras::Pass && NEUTRAL.contains(&(name, value.get()))
    };
    let neutral = names(&is_neutral);
    let refused = names(&|name, value| !allowed.allow(name) && !is_neutral(name, value));
    for name in neutral {
        request.forget_extra(&name);
    }
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
    // Those that rank candidates are nobody's to see.
    let logprobs = settled
        .best
        .map_or(request.asks(Parameter::Logprobs), |best| best.logprobs);
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
    let stops_here = settled.emulates(Parameter::Stop) || request.stop.len() > MAX_STOPS;
    if stops_here && logprobs {
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
        Support::Refused if parameter == Parameter::BestOf => best_of_here(dialect, refused),
        own => own,
    }
}

/// The best of several is the one whose tokens are the likeliest.
fn best_of_here(dialect: &dyn Dialect, refused: &[Parameter]) -> Support {
    match own_support(dialect, refused, Parameter::Logprobs) {
        Support::Refused => Support::Refused,
        Support::Native | Support::Emulated => Support::Emulated,
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

/// Fields that other servers have added to the page, at the values that change nothing: benchmarks send them to everybody.
const NEUTRAL: &[(&str, &str)] = &[
    ("ignore_eos", "false"),
    ("include_stop_str_in_output", "false"),
    ("length_penalty", "1"),
    ("length_penalty", "1.0"),
    ("min_p", "0"),
    ("min_p", "0.0"),
    ("min_tokens", "0"),
    ("repetition_penalty", "1"),
    ("repetition_penalty", "1.0"),
    ("top_k", "-1"),
    ("use_beam_search", "false"),
];

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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::dialect::{
        anthropic::ANTHROPIC, chat::CHAT, gemini::GEMINI, openai::OPENAI, tgi::TGI,
    };

    fn terms(dialect: &dyn Dialect, unsupported: Unsupported) -> Terms<'_> {
        Terms {
            dialect,
            refused: &[],
            provider: "p",
            unsupported,
            prompt_as: PromptAs::Message,
            prefill: None,
        }
    }

    fn settled(terms: Terms<'_>, fields: &str) -> Result<(CompletionRequest, Settled), Error> {
        let body = format!(r#"{{"model":"m","prompt":"a",{fields}}}"#);
        let mut request = CompletionRequest::read(Bytes::from(body)).unwrap();
        settle(&mut request, terms).map(|settled| (request, settled))
    }

    #[test]
    fn what_a_provider_lacks_is_done_here_if_it_can_be() {
        use Parameter::{BestOf, Echo, N, Prompts, Stop};
        for (dialect, fields, emulated) in [
            (
                &OPENAI as &dyn Dialect,
                r#""n":2,"echo":true,"stop":"x","best_of":3"#,
                vec![],
            ),
            (&ANTHROPIC, r#""n":2,"echo":true,"stop":"x""#, vec![N, Echo]),
            (&ANTHROPIC, r#""stop":[" ","x"]"#, vec![Stop]),
            (&CHAT, r#""prompt":["a","b"],"n":2"#, vec![Prompts]),
            (&CHAT, r#""best_of":3"#, vec![BestOf]),
            (&CHAT, r#""n":2,"best_of":2,"stream":true"#, vec![]),
            (&TGI, r#""best_of":3"#, vec![]),
            (&TGI, r#""n":2,"best_of":3"#, vec![BestOf, N]),
            (&TGI, r#""n":2,"best_of":2"#, vec![N]),
            (&GEMINI, r#""n":2"#, vec![]),
            (&GEMINI, r#""n":2,"stream":true"#, vec![N]),
            (&GEMINI, r#""n":100"#, vec![N]),
            (&TGI, r#""echo":true"#, vec![]),
            (&TGI, r#""echo":true,"stream":true"#, vec![Echo]),
        ] {
            let fields = fields.replace(r#""prompt":["a","b"],"#, "");
            let body = match emulated.contains(&Prompts) {
                true => format!(r#"{{"model":"m","prompt":["a","b"],{fields}}}"#),
                false => format!(r#"{{"model":"m","prompt":"a",{fields}}}"#),
            };
            let mut request = CompletionRequest::read(Bytes::from(body)).unwrap();
            let settled = settle(&mut request, terms(dialect, Unsupported::Reject)).unwrap();
            assert_eq!(settled.emulated, emulated, "{} {fields}", dialect.name());
        }
    }

    #[test]
    fn what_nobody_can_do_is_refused_by_name_or_left_out_and_told() {
        for (dialect, fields, param) in [
            (&ANTHROPIC as &dyn Dialect, r#""seed":1"#, "seed"),
            (&ANTHROPIC, r#""suffix":"b""#, "suffix"),
            (&ANTHROPIC, r#""best_of":2"#, "best_of"),
            (&ANTHROPIC, r#""logit_bias":{"5":1}"#, "logit_bias"),
            (
                &ANTHROPIC,
                r#""repetition_penalty":1.2"#,
                "repetition_penalty",
            ),
            (
                &CHAT,
                r#""stream":true,"stream_options":{"include_usage":true,"x":1}"#,
                "stream_options.x",
            ),
        ] {
            let error = settled(terms(dialect, Unsupported::Reject), fields).unwrap_err();
            assert_eq!((error.status().as_u16(), error.param()), (400, Some(param)));
            let (request, settled) = settled(terms(dialect, Unsupported::Drop), fields).unwrap();
            assert_eq!(settled.dropped, [param], "{fields}");
            assert!(Parameter::ALL.iter().all(|&parameter| {
                let kept = matches!(parameter, Parameter::Stream | Parameter::StreamOptions);
                kept || !request.asks(parameter)
            }));
        }
        // Without its prompt it would be another request.
        let body = Bytes::from_static(br#"{"model":"m","prompt":[1,2]}"#);
        let mut request = CompletionRequest::read(body).unwrap();
        let error = settle(&mut request, terms(&CHAT, Unsupported::Drop)).unwrap_err();
        assert_eq!(error.param(), Some("prompt"));
    }

    #[test]
    fn what_changes_nothing_elsewhere_is_not_there_for_a_provider_that_lacks_it() {
        let fields = r#""repetition_penalty":1.0,"ignore_eos":false,"top_k":-1,"min_p":0"#;
        let (request, settled) = settled(terms(&ANTHROPIC, Unsupported::Reject), fields).unwrap();
        assert!(request.extra.is_empty() && settled.dropped.is_empty());
        let told = settled_source(fields);
        assert_eq!(told, 4, "an API that may know them gets them");
    }

    fn settled_source(fields: &str) -> usize {
        let (request, _) = settled(terms(&OPENAI, Unsupported::Reject), fields).unwrap();
        request.extra.len()
    }

    #[test]
    fn running_counts_are_told_as_far_as_the_provider_tells_them() {
        let fields = r#""stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true}"#;
        let (request, settled) = settled(terms(&CHAT, Unsupported::Reject), fields).unwrap();
        assert_eq!(settled.emulated, [Parameter::StreamOptions]);
        let upstream = CHAT.write_request(&request).unwrap();
        let body = std::str::from_utf8(&upstream.body).unwrap();
        assert!(
            body.contains(r#""stream_options":{"include_usage":true}"#),
            "{body}"
        );
    }

    #[test]
    fn what_cannot_be_done_together_is_refused() {
        for (fields, param) in [
            (r#""echo":true,"logprobs":1"#, "echo"),
            (r#""echo":true,"max_tokens":0"#, "max_tokens"),
        ] {
            let error = settled(terms(&CHAT, Unsupported::Reject), fields).unwrap_err();
            assert_eq!((error.status().as_u16(), error.param()), (400, Some(param)));
        }
        let many = r#""stop":["a","b","c","d","e"],"logprobs":1"#;
        let error = settled(terms(&OPENAI, Unsupported::Reject), many).unwrap_err();
        assert_eq!(error.param(), Some("stop"));
        let refused = Terms {
            refused: &[Parameter::Stop],
            ..terms(&OPENAI, Unsupported::Reject)
        };
        let error = settled(refused, r#""stop":"x","logprobs":1"#).unwrap_err();
        assert_eq!(error.param(), Some("stop"));
    }
}
