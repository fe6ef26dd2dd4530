//! The other endpoint for the same question: Mistral's `POST /v1/fim/completions`, as its clients ask it and as they want it
//! answered, whichever provider answers.
//!
//! Source: <https://docs.mistral.ai/api/endpoint/fim>. Its request is a text completion with a suffix in other words; its
//! answer has the form of Mistral's chat. A stream's last event has the finish reason and the counts together, which a
//! provider need not tell at once: the reason waits for the end.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    completion::{
        Choice, CompletionRequest, Compliance, Finish, FinishReason, Parameter, Partial, Prompt,
        Usage,
    },
    error::Error,
};

/// Which of the two endpoints was asked: what its answer looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// `/v1/completions`: `text_completion`.
    #[default]
    Text,
    /// `/v1/fim/completions`: `chat.completion`.
    Fim,
}

/// How far an answer of this form has come.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// The first event, which names the role, has been written.
    opened: bool,
    /// The finish reason that waits for the end, and the provider's own word for it.
    ending: Option<(FinishReason, Option<String>)>,
}

impl CompletionRequest {
    /// Reads a body of the endpoint. Its own name for the seed is `random_seed`.
    pub fn read_fim(
        body: Bytes,
        overrides: &BTreeMap<String, Box<RawValue>>,
    ) -> Result<Self, Error> {
        let mut request = Self::read_with(body, overrides)?;
        request.shape = Shape::Fim;
        if let Some(told) = request.extra.remove(SEED) {
            let seed: i64 = serde_json::from_str(told.get())
                .map_err(|_| Error::invalid(SEED, format!("`{SEED}` must be a whole number.")))?;
            if request.seed.is_some_and(|other| other != seed) {
                let message = format!("`{SEED}` and `seed` name the same figure and differ.");
                return Err(Error::invalid(SEED, message));
            }
            request.seed = Some(seed);
        }
        check(&request)?;
        Ok(request)
    }
}

/// What a completion may ask and this endpoint cannot answer.
fn check(request: &CompletionRequest) -> Result<(), Error> {
    if let Some(parameter) = BEYOND.iter().find(|&&parameter| request.asks(parameter)) {
        let field = parameter.field();
        let message = format!("`{field}` has no place in an answer of this endpoint.");
        return Err(Error::invalid(field, message));
    }
    match &request.prompt {
        Prompt::Text(_) => Ok(()),
        Prompt::Absent | Prompt::Texts(_) | Prompt::Tokens(_) | Prompt::TokenLists(_) => {
            let message = "`prompt` must be one text for this endpoint.";
            Err(Error::invalid("prompt", message))
        }
    }
}

impl Partial {
    pub(super) fn write_fim_reply(
        &self,
        choices: &[Choice<'_>],
        how: Compliance,
        out: &mut Vec<u8>,
    ) {
        let choices = choices.iter().map(|choice| Whole {
            index: choice.index,
            message: Message {
                role: ROLE,
                content: &choice.text,
            },
            finish_reason: choice.finish.as_ref().map(|finish| finish.reason),
            native_finish_reason: choice
                .finish
                .as_ref()
                .and_then(|finish| native(finish, how)),
        });
        // Its clients need the object; one without figures says that nobody counted.
        let usage = Counts::Whole(self.usage);
        self.write_fim(REPLY, choices.collect(), Some(usage), out);
    }

    pub(super) fn write_fim_chunk(
        &mut self,
        choices: &[Choice<'_>],
        how: Compliance,
        out: &mut Vec<u8>,
    ) {
        for choice in choices {
            if let Some(finish) = &choice.finish {
                let native = native(finish, how).map(str::to_owned);
                self.fim.ending = Some((finish.reason, native));
            }
            if !choice.text.is_empty() {
                let piece = self.piece(&choice.text);
                self.write_event(piece, None, out);
                self.fim.opened = true;
            }
        }
    }

    /// Appends the event that waited for the end. Nothing where the provider's own events passed.
    pub(super) fn write_fim_end(&self, out: &mut Vec<u8>) {
        let Some((reason, native)) = &self.fim.ending else {
            return;
        };
        let last = Piece {
            finish_reason: Some(*reason),
            native_finish_reason: native.as_deref(),
            ..self.piece("")
        };
        self.write_event(last, self.usage.map(Counts::Event), out);
    }

    fn piece<'a>(&self, content: &'a str) -> Piece<'a> {
        Piece {
            index: 0,
            delta: Delta {
                role: (!self.fim.opened).then_some(ROLE),
                content,
            },
            finish_reason: None,
            native_finish_reason: None,
        }
    }

    fn write_event(&self, piece: Piece<'_>, usage: Option<Counts>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"data: ");
        self.write_fim(CHUNK, vec![piece], usage, out);
        out.extend_from_slice(b"\n\n");
    }

    fn write_fim<C: Serialize>(
        &self,
        object: &'static str,
        choices: Vec<C>,
        usage: Option<Counts>,
        out: &mut Vec<u8>,
    ) {
        let body = Body {
            id: &self.id,
            object,
            created: self.created,
            model: &self.model,
            choices,
            usage,
        };
        // A `Vec` takes every write and the fields are strings and numbers: this cannot fail.
        let _ = serde_json::to_writer(out, &body);
    }
}

fn native<'f>(finish: &'f Finish<'_>, how: Compliance) -> Option<&'f str> {
    let told = Some(&*finish.native).filter(|native| !native.is_empty());
    told.filter(|_| how == Compliance::Loose)
}

#[derive(Serialize)]
struct Body<'a, C> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<C>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Counts>,
}

#[derive(Serialize)]
struct Whole<'a> {
    index: u32,
    message: Message<'a>,
    finish_reason: Option<FinishReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    native_finish_reason: Option<&'a str>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

#[derive(Serialize)]
struct Piece<'a> {
    index: u32,
    delta: Delta<'a>,
    finish_reason: Option<FinishReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    native_finish_reason: Option<&'a str>,
}

#[derive(Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    content: &'a str,
}

enum Counts {
    /// Always an object, which may be empty.
    Whole(Option<Usage>),
    Event(Usage),
}

impl Serialize for Counts {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Whole(Some(usage)) | Self::Event(usage) => usage.serialize(serializer),
            Self::Whole(None) => serializer.collect_map::<(), (), _>([]),
        }
    }
}

/// What `max_tokens` is where a client of this endpoint names none, and the provider has to be told: what fits into a gap.
/// Mistral itself is told nothing then.
pub const MAX_TOKENS: u64 = 256;

const SEED: &str = "random_seed";
/// The endpoint's answer holds one text, and its tokens' probabilities nowhere.
const BEYOND: &[Parameter] = &[
    Parameter::N,
    Parameter::BestOf,
    Parameter::Echo,
    Parameter::Logprobs,
];
const ROLE: &str = "assistant";
const REPLY: &str = "chat.completion";
const CHUNK: &str = "chat.completion.chunk";
