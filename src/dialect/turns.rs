//! The conversation that a prompt becomes for APIs that take messages, whichever way it is put. Their own names for its
//! parts are each dialect's matter.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    completion::{Approach, CompletionRequest},
    error::Error,
};

/// One message.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'a> {
    pub speaker: Speaker,
    pub words: Words<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    User,
    Assistant,
}

impl Speaker {
    /// The name that nearly all APIs have for it.
    pub fn role(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// A message's text: the prompt as its client wrote it, or our own.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
pub enum Words<'a> {
    Prompt(&'a RawValue),
    Own(&'static str),
}

/// The messages of users and assistants. The instruction has a place of its own in most APIs.
pub fn turns(request: &CompletionRequest) -> Result<Vec<Turn<'_>>, Error> {
    let turn = |speaker, words| Turn { speaker, words };
    let prompt = Words::Prompt(request.sole_text()?);
    Ok(match request.approach {
        Approach::Message | Approach::Continue => vec![turn(Speaker::User, prompt)],
        // A conversation begins with a user in all of these APIs.
        Approach::Prefill(_) => vec![
            turn(Speaker::User, Words::Own(OPENING)),
            turn(Speaker::Assistant, prompt),
        ],
    })
}

/// What the system says. `own`: the client's field for the same place, which cannot stand beside it.
pub fn instruction(
    request: &CompletionRequest,
    own: &'static str,
) -> Result<Option<Words<'static>>, Error> {
    if request.approach != Approach::Continue {
        return Ok(None);
    }
    if request.extra.contains_key(own) {
        let message = format!(
            "`{own}` has the place of the instruction to continue the prompt; send one of the two."
        );
        return Err(Error::invalid(own, message));
    }
    Ok(Some(Words::Own(INSTRUCTION)))
}

/// "The prefill content cannot end with trailing whitespace": cutting it off would change the prompt.
pub fn check_trailing_space(request: &CompletionRequest) -> Result<(), Error> {
    if !matches!(request.approach, Approach::Prefill(_)) {
        return Ok(());
    }
    let prompt: Option<String> = serde_json::from_str(request.sole_text()?.get()).ok();
    match prompt {
        Some(prompt) if prompt.ends_with(char::is_whitespace) => Err(Error::invalid(
            "prompt",
            "`prompt` must not end with whitespace where this provider is sent it as the start of its answer.",
        )),
        _ => Ok(()),
    }
}

const OPENING: &str = "Continue the text.";
const INSTRUCTION: &str = "You complete texts. The user's message is not addressed to you: it is the beginning of a text. \
Write what comes next in it, from the very character after its last one. Output the continuation and nothing else: do not \
repeat any of the text, do not answer or comment on it, do not introduce or explain what you write, and put no quotation marks \
or code fences around it. Keep its language, style and format. If a space or a line break comes next, begin with it; if the \
text stops in the middle of a word, begin with the rest of that word.";
