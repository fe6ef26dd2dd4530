//! One request as the upstream calls that carry it: one where the provider does it all, else one for each prompt, and for
//! each of its `n` choices.
//!
//! The client's order of choices is prompt-major: `index = prompt * n + k`.

use std::sync::Arc;

use super::{
    edits::{Plan, Role},
    relay::MAX_REPLY_BYTES,
};
use crate::{
    completion::{CompletionRequest, Parameter, Prompt, request::MAX_STOPS},
    dialect::settle::Settled,
    error::Error,
};

/// One upstream call.
#[derive(Debug)]
pub struct Share {
    /// One and the same for calls that ask the very same.
    pub request: Arc<CompletionRequest>,
    /// What its answer needs before it is the client's.
    pub plan: Plan,
    /// It asks the very same as the one before.
    pub repeats: bool,
}

/// Splits a settled request. `max_calls`: more are refused.
///
/// The shares come one by one, so that only one copy of what they have in common is held at a time: a thousand copies of a
/// large request would fill the memory before anyone had seen that their bodies are too large together.
pub fn split(
    mut request: CompletionRequest,
    settled: &Settled,
    max_calls: u32,
) -> Result<impl Iterator<Item = Result<Share, Error>> + use<>, Error> {
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
    check_echo(&request, echo, n)?;
    let prompts = each(request, apart).map(move |request| {
        let plan = around(&request, echo, plan.clone())?;
        Ok((Arc::new(request), plan))
    });
    let shares = prompts.flat_map(move |prompt: Result<_, Error>| {
        (0..repeats).map(move |k| {
            let (request, plan) = prompt.clone()?;
            Ok(repetition(request, plan, k))
        })
    });
    Ok((0_u32..).zip(shares).map(|(call, share)| {
        let mut share = share?;
        share.plan.shift = call.saturating_mul(share.plan.choices);
        Ok(share)
    }))
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
fn each(mut request: CompletionRequest, apart: bool) -> impl Iterator<Item = CompletionRequest> {
    let prompts = if apart {
        std::mem::take(&mut request.prompt).into_each()
    } else {
        Vec::new()
    };
    let (whole, common) = if apart {
        (None, Some(request))
    } else {
        (Some(request), None)
    };
    let apart = prompts
        .into_iter()
        .filter_map(move |prompt| common.as_ref().map(|common| common.with_prompt(prompt)));
    whole.into_iter().chain(apart)
}

/// The call for choice `k` of one prompt. A seed stands for one text: each repetition gets one of its own.
fn repetition(request: Arc<CompletionRequest>, plan: Plan, k: u32) -> Share {
    let seed = request.seed.filter(|_| k > 0);
    let repeats = k > 0 && seed.is_none();
    let request = match seed {
        Some(seed) => {
            let next = seed.checked_add(i64::from(k)).unwrap_or(i64::from(k));
            Arc::new(request.with_seed(next))
        }
        None => request,
    };
    Share {
        request,
        plan,
        repeats,
    }
}

/// An echo stands before each choice: a short request could ask for an endless answer.
fn check_echo(request: &CompletionRequest, echo: Option<Parameter>, n: u32) -> Result<(), Error> {
    let each = usize::try_from(n).unwrap_or(usize::MAX);
    if echo.is_some() && request.prompt.bytes().saturating_mul(each) > MAX_REPLY_BYTES {
        let message = format!("`echo` would make an answer larger than {MAX_REPLY_BYTES} bytes.");
        return Err(Error::invalid("echo", message));
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn shares(body: &'static str, emulated: &[Parameter]) -> Vec<Share> {
        let request = CompletionRequest::read(Bytes::from_static(body.as_bytes())).unwrap();
        let settled = Settled {
            emulated: emulated.to_vec(),
            ..Settled::default()
        };
        let shares = split(request, &settled, 1_024).unwrap();
        shares.collect::<Result<_, _>>().unwrap()
    }

    const LIST: &str = r#"{"model":"m","prompt":["a","b"],"n":3}"#;

    #[test]
    fn choices_are_in_the_order_of_prompts_and_their_repetitions() {
        for (emulated, wanted) in [
            (
                &[Parameter::Prompts, Parameter::N] as &[_],
                vec![(0, 1), (1, 1), (2, 1), (3, 1), (4, 1), (5, 1)],
            ),
            (&[Parameter::Prompts], vec![(0, 3), (3, 3)]),
            (&[], vec![(0, 6)]),
        ] {
            let shares = shares(LIST, emulated);
            let places: Vec<_> = shares
                .iter()
                .map(|share| (share.plan.shift, share.plan.choices))
                .collect();
            assert_eq!(places, wanted, "{emulated:?}");
        }
    }

    #[test]
    fn calls_that_ask_the_same_hold_one_request() {
        let same = shares(LIST, &[Parameter::Prompts, Parameter::N]);
        for (at, share) in same.iter().enumerate() {
            assert_eq!(share.repeats, at % 3 > 0);
            assert!(Arc::ptr_eq(&share.request, &same[at / 3 * 3].request));
        }
        let body = r#"{"model":"m","prompt":"a","n":3,"seed":9223372036854775807}"#;
        let seeded = shares(body, &[Parameter::N]);
        let seeds: Vec<_> = seeded.iter().map(|share| share.request.seed).collect();
        assert_eq!(seeds, [Some(i64::MAX), Some(1), Some(2)]);
        assert!(seeded.iter().all(|share| !share.repeats));
    }

    #[test]
    fn stop_sequences_beyond_the_pages_number_end_the_text_here() {
        let body = r#"{"model":"m","prompt":"a","stop":["a","b","c","d","e","f"]}"#;
        let share = shares(body, &[]).remove(0);
        assert_eq!(share.request.stop, ["a", "b", "c", "d"]);
        assert_eq!(*share.plan.stops, ["e".to_owned(), "f".to_owned()]);
    }

    #[test]
    fn the_whole_of_a_plain_request_goes_on_as_it_came() {
        let plain = shares(r#"{"model":"m","prompt":"a"}"#, &[]);
        assert!(plain[0].request.source().is_some() && plain[0].plan.is_empty());
    }
}
