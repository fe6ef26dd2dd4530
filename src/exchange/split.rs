//! One request as the upstream calls that carry it: one where the provider does it all, else one for each prompt, and for
//! each of its `n` choices.
//!
//! The client's order of choices is prompt-major: `index = prompt * n + k`.

use std::sync::Arc;

use super::edits::{Plan, Role};
use crate::{
    completion::{CompletionRequest, Parameter, Prompt, request::MAX_STOPS},
    dialect::settle::Settled,
    error::Error,
};

/// One upstream call.
#[derive(Debug)]
pub struct Share {
    pub request: CompletionRequest,
    /// What its answer needs before it is the client's.
    pub plan: Plan,
    /// It asks the very same as the one before.
    pub repeats: bool,
}

/// Splits a settled request. `max_calls`: more are refused.
pub fn split(
    mut request: CompletionRequest,
    settled: &Settled,
    max_calls: u32,
) -> Result<Vec<Share>, Error> {
    let (n, prompts) = (request.n.unwrap_or(1), request.prompt.count());
    let emulates = |parameter| settled.emulates(parameter);
    let repeats = if emulates(Parameter::N) { n } else { 1 };
    let apart = prompts > 1
        && [Parameter::Prompts, Parameter::N, Parameter::Echo]
            .into_iter()
            .any(emulates);
    let calls = repeats.saturating_mul(if apart { prompts } else { 1 });
    check_calls(&request, calls, max_calls)?;
    let plan = Plan {
        shift: 0,
        choices: if calls > 1 {
            n / repeats
        } else {
            prompts.saturating_mul(n)
        },
        repeated: None,
        echo: None,
        stops: take_stops(&mut request, settled),
        role: if calls > 1 || settled.best.is_some() {
            Role::Part
        } else {
            Role::Whole
        },
    };
    if repeats > 1 {
        request.forget(Parameter::N);
    }
    let echo = take_echo(&mut request, settled);
    let mut shares = Vec::new();
    for request in each(request, apart) {
        let plan = around(&request, echo, plan.clone())?;
        repeat(request, &plan, repeats, &mut shares);
    }
    Ok(shares)
}

/// The plan for the answer to one prompt, which that answer may have to begin with, or not to.
fn around(request: &CompletionRequest, echo: Option<Parameter>, plan: Plan) -> Result<Plan, Error> {
    let prompt = || text(&request.prompt);
    Ok(Plan {
        repeated: request.approach.repeats_prompt().then(prompt).transpose()?,
        echo: echo.map(|_| prompt()).transpose()?,
        ..plan
    })
}

/// The request for each of its prompts, if they are asked for apart.
fn each(mut request: CompletionRequest, apart: bool) -> Vec<CompletionRequest> {
    if !apart {
        return vec![request];
    }
    let prompts = std::mem::take(&mut request.prompt).into_each();
    prompts
        .into_iter()
        .map(|prompt| request.with_prompt(prompt))
        .collect()
}

/// `times` calls for the next choices of one prompt. A seed stands for one text: each repetition gets one of its own.
fn repeat(request: CompletionRequest, plan: &Plan, times: u32, shares: &mut Vec<Share>) {
    let seed = request.seed;
    let mut share = |mut request: CompletionRequest, k: u32| {
        if k > 0
            && let Some(seed) = seed
        {
            request.seed = Some(seed.checked_add(i64::from(k)).unwrap_or(i64::from(k)));
        }
        let before = shares.last().map(|share: &Share| &share.plan);
        let shift = before.map_or(0, |plan| plan.shift.saturating_add(plan.choices));
        shares.push(Share {
            request,
            plan: Plan {
                shift,
                ..plan.clone()
            },
            repeats: k > 0 && seed.is_none(),
        });
    };
    for k in 1..times {
        share(request.clone(), k - 1);
    }
    share(request, times.saturating_sub(1));
}

fn check_calls(request: &CompletionRequest, calls: u32, max_calls: u32) -> Result<(), Error> {
    if calls > max_calls {
        let field = if request.prompt.count() > 1 {
            "prompt"
        } else {
            "n"
        };
        let message = format!(
            "The request takes {calls} calls of this provider, one for each prompt and choice; at most {max_calls} are made."
        );
        return Err(Error::invalid(field, message));
    }
    if calls > 1
        && let Some(name) = request
            .stream_options
            .as_ref()
            .and_then(|options| options.extra_asked())
    {
        // Running counts of one call say nothing of the others.
        let message = format!(
            "`stream_options.{name}` is not for requests that take several calls of this provider."
        );
        return Err(Error::invalid(format!("stream_options.{name}"), message));
    }
    Ok(())
}

/// The sequences that end a text here: those that the provider does not take, and those beyond what it takes.
fn take_stops(request: &mut CompletionRequest, settled: &Settled) -> Arc<[String]> {
    let native = if settled.emulates(Parameter::Stop) {
        0
    } else {
        MAX_STOPS
    };
    if request.stop.len() <= native {
        return Arc::default();
    }
    let mut upstream = std::mem::take(&mut request.stop);
    request.forget(Parameter::Stop);
    let ours = upstream.split_off(native);
    request.stop = upstream;
    ours.into()
}

/// `Some` if the gateway is to echo.
fn take_echo(request: &mut CompletionRequest, settled: &Settled) -> Option<Parameter> {
    let echo = Some(Parameter::Echo).filter(|echo| settled.emulates(*echo));
    if let Some(echo) = echo {
        request.forget(echo);
    }
    echo
}

/// A prompt's text, decoded.
fn text(prompt: &Prompt) -> Result<Arc<str>, Error> {
    let raw = match prompt {
        Prompt::Text(raw) => Some(raw),
        Prompt::Texts(list) => list.first().filter(|_| list.len() == 1),
        Prompt::Absent | Prompt::Tokens(_) | Prompt::TokenLists(_) => None,
    };
    let text = raw.and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
    text.map(Arc::from).ok_or_else(|| {
        // A lone surrogate, say: JSON can write it, text cannot hold it.
        Error::invalid(
            "prompt",
            "`prompt` holds what is no Unicode text and cannot be echoed, or told from what follows it.",
        )
    })
}
