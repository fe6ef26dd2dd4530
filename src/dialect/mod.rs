//! How one family of upstream APIs says "completion".
//!
//! A dialect is pure: no clock, no network, no randomness. Each file mirrors its vendor's API page with private structs.
//! To add one: one file here, one `mod` line, one name in [`DIALECTS`], one folder of fixtures.

pub mod anthropic;
mod aws_error;
pub mod bedrock;
pub mod bedrock_invoke;
mod bedrock_invoke_request;
pub mod chat;
mod chat_request;
mod chat_turns;
pub mod cohere;
pub mod fim;
pub mod gemini;
mod gemini_request;
mod gemini_tokens;
mod google_error;
mod lenient;
pub mod mistral;
pub mod oci;
mod oci_request;
pub mod ollama;
pub mod openai;
mod openai_error;
mod openai_page;
#[cfg(test)]
mod reasons;
pub mod replicate;
mod replicate_stream;
pub mod sagemaker;
pub mod settle;
pub mod substitute;
pub mod tgi;
mod tgi_request;
mod tgi_tokens;
mod token_logprobs;
pub mod triton;
mod turns;
pub mod vertex;
pub mod watsonx;
pub mod workers_ai;

use std::{borrow::Cow, fmt::Debug};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    completion::{
        Approach, Choice, Completion, CompletionRequest, Finish, FinishReason, Mark, Parameter,
        Partial, Support, Usage,
    },
    error::{Error, Kind},
    wire::{Frame, Framing},
};

/// One family of upstream APIs.
pub trait Dialect: Debug + Send + Sync {
    /// The name that a YAML conf uses.
    fn name(&self) -> &'static str;

    /// The dialect that takes this one's place for `request`: an address behind which several APIs stand.
    fn for_request(&self, _request: &CompletionRequest) -> Option<&'static dyn Dialect> {
        None
    }

    /// How its streams are cut.
    fn framing(&self) -> Framing;

    /// The capability table: how this API carries `parameter`.
    fn support(&self, parameter: Parameter) -> Support;

    /// Whether it carries `parameter`, which it supports, in this very request too.
    fn carries(&self, _parameter: Parameter, _request: &CompletionRequest) -> bool {
        true
    }

    /// What becomes of fields that the page does not know.
    fn extras(&self) -> Extras;

    /// What the provider's model gets to see of the prompt.
    fn prompt_form(&self) -> PromptForm {
        PromptForm::Chat
    }

    /// How it takes a prompt as the start of `model`'s own message, `None`: of any model's. `told`: what the provider's row
    /// or the conf says of an API that its providers differ in.
    fn prefill(&self, _told: Option<Mark>, _model: Option<&str>) -> Option<Mark> {
        None
    }

    /// Writes the upstream's request. Only called with what [`settle`] let through.
    fn write_request(&self, request: &CompletionRequest) -> Result<UpstreamRequest, Error>;

    /// Takes over what the headers of a successful answer tell, where its body does not.
    fn read_headers(&self, _headers: &HeaderMap, _partial: &mut Partial) {}

    /// Decides whether a whole reply may pass as it is. Only worth it for APIs of the page's own shape.
    fn tap_reply(&self, _body: &[u8], _partial: &mut Partial) -> Tap {
        Tap::Translate
    }

    /// Reads a whole reply of a successful call.
    fn read_reply<'b>(
        &self,
        body: &'b [u8],
        partial: &mut Partial,
    ) -> Result<Completion<'b>, Error>;

    /// Decides whether a stream frame may pass as it is. Only worth it for APIs of the page's own shape.
    fn tap(&self, _frame: &Frame, _partial: &mut Partial) -> Tap {
        Tap::Translate
    }

    /// Reads one stream frame. `Err` is the error that the upstream told inside its stream.
    fn read_frame<'f>(&self, frame: &'f Frame, partial: &mut Partial) -> Result<Step<'f>, Error>;

    /// Whether an event whose like came right before it, with another text, adds that text to the same choice as it stands, and
    /// nothing else: [`Dialect::read_frame`] neither looks into texts nor learns from the second what it had not from the first.
    fn tells_alike(&self) -> bool {
        false
    }

    /// Reads the clean end of a stream that told no finish reason. `None`: it was cut. Only for APIs whose streams tell
    /// neither a reason nor an end, so that the end of the body is all there is.
    fn read_end(&self, _partial: &mut Partial) -> Option<Completion<'static>> {
        None
    }

    /// The vendor's hosts at which a stream may be, for APIs whose answer to a stream request tells where it is. `None`: the
    /// answer is the stream.
    fn stream_hosts(&self) -> Option<&'static [&'static str]> {
        None
    }

    /// Reads the answer that tells where the stream is.
    fn read_follow_up(&self, _reply: &[u8], _partial: &mut Partial) -> Result<FollowUp, Error> {
        Err(Error::broken("The provider told of no stream."))
    }

    /// Reads the body of a reply whose status is no success. Never fails: what it cannot read becomes a plain sentence.
    fn read_error(&self, status: StatusCode, body: &[u8]) -> Error;
}

/// What goes to the upstream, below its base URL.
#[derive(Clone, Debug)]
pub struct UpstreamRequest {
    /// Path and query; starts with `/`.
    pub path: Cow<'static, str>,
    /// Headers the API wants beside `content-type` and its credentials.
    pub headers: &'static [(&'static str, &'static str)],
    pub body: Bytes,
}

/// Where an answer goes on, in a provider's words: nothing of it is to be believed before the target has looked at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FollowUp {
    pub stream: String,
    /// Takes the POST that ends the work.
    pub cancel: Option<String>,
}

/// What one frame meant.
#[derive(Debug)]
pub enum Step<'f> {
    Chunk(Completion<'f>),
    /// A piece that is the upstream's end marker too, or what such a marker means for the choices.
    Last(Completion<'f>),
    /// The upstream's end marker.
    Done,
    /// Nothing for the client: a ping, a role, a count.
    Skip,
    /// An event of a kind that is not known here. It is left out, as vendors ask for, and counted.
    Unknown,
}

impl<'f> From<Vec<Choice<'f>>> for Step<'f> {
    /// A piece that brings neither text, tokens nor a reason, a role say, means nothing to a text client.
    fn from(mut choices: Vec<Choice<'f>>) -> Self {
        choices.retain(|choice| {
            !choice.text.is_empty() || choice.finish.is_some() || choice.logprobs.is_some()
        });
        if choices.is_empty() {
            Self::Skip
        } else {
            Self::Chunk(Completion { choices })
        }
    }
}

/// What a look at one frame, or at a whole reply, found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tap {
    /// Already what the client should see; it tells this many finish reasons, which `Partial` has taken over.
    Pass { finished: u32 },
    /// The same, with counts beside its choices: for clients that asked for running counts.
    Counted { finished: u32 },
    /// A usage event: for clients that asked for one.
    Usage,
    /// The end marker.
    Done,
    /// Read it.
    Translate,
}

/// In which form a prompt reaches the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptForm {
    /// As it is, to be continued.
    Text,
    /// As a user's message, to be answered.
    Chat,
}

impl PromptForm {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Chat => "chat",
        }
    }

    /// The same, with the way a prompt took.
    pub fn sent_as(self, approach: Approach) -> &'static str {
        match (self, approach) {
            (Self::Text, _) | (Self::Chat, Approach::Message) => self.as_str(),
            (Self::Chat, Approach::Continue) => "chat-continue",
            (Self::Chat, Approach::Prefill(_)) => "chat-prefill",
        }
    }
}

/// Unknown fields of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extras {
    /// They go upstream as they came.
    Pass,
    /// Those named go upstream as they came; any other is a 400 naming it: this API would refuse or misread it.
    Only(&'static [&'static str]),
}

impl Extras {
    fn allow(self, name: &str) -> bool {
        match self {
            Self::Pass => true,
            Self::Only(names) => names.contains(&name),
        }
    }
}

/// The dialects a conf can name.
pub const DIALECTS: &[&dyn Dialect] = &[
    &openai::OPENAI,
    &chat::CHAT,
    &mistral::MISTRAL,
    &fim::FIM,
    &anthropic::ANTHROPIC,
    &gemini::GEMINI,
    &ollama::OLLAMA,
    &cohere::COHERE,
    &tgi::TGI,
    &triton::TRITON,
    &vertex::VERTEX,
    &oci::OCI,
    &workers_ai::WORKERS_AI,
    &bedrock::BEDROCK,
    &bedrock_invoke::BEDROCK_INVOKE,
    &watsonx::WATSONX,
    &replicate::REPLICATE,
    &sagemaker::SAGEMAKER,
    &sagemaker::SAGEMAKER_OPENAI,
    &sagemaker::SAGEMAKER_CHAT,
];

/// The dialect that a conf calls `name`.
pub fn by_name(name: &str) -> Option<&'static dyn Dialect> {
    DIALECTS
        .iter()
        .copied()
        .find(|dialect| dialect.name() == name)
}

#[cfg(test)]
use settle::settle_alone as settle;

/// Serialises an upstream body.
fn to_body(body: &impl serde::Serialize) -> Result<Bytes, Error> {
    serde_json::to_vec(body)
        .map(Bytes::from)
        .map_err(|_| Error::new(Kind::Internal, "The upstream request could not be written."))
}

/// An upstream's answer that is not the JSON its API documents.
fn not_the_shape(_: impl std::error::Error) -> Error {
    Error::broken("The provider's answer is not in the form its API documents.")
}

/// The fields that the page does not know and that ask for something: `null` counts as absent.
fn extras(request: &CompletionRequest) -> impl Iterator<Item = (&str, &RawValue)> {
    request
        .extra
        .iter()
        .map(|(name, value)| (name.as_str(), &**value))
        .filter(|(_, value)| value.get() != "null")
}

/// `max_tokens` for an API that has no answer of zero tokens.
fn positive_max_tokens(request: &CompletionRequest) -> Result<u64, Error> {
    match request.max_tokens() {
        0 => Err(Error::invalid(
            "max_tokens",
            "`max_tokens` must be at least 1 for this provider.",
        )),
        tokens => Ok(tokens),
    }
}

/// The seed of an API whose own starts at 0.
fn unsigned_seed(request: &CompletionRequest) -> Result<Option<u64>, Error> {
    let wrong = |_| Error::invalid("seed", "`seed` must be at least 0 for this provider.");
    request.seed.map(u64::try_from).transpose().map_err(wrong)
}

/// The pieces of a text as one; a sole piece stays borrowed.
fn join<'a>(pieces: impl Iterator<Item = Cow<'a, str>>) -> Cow<'a, str> {
    pieces
        .reduce(|text, piece| text + piece)
        .unwrap_or_default()
}

/// Why a text has ended whose provider does not say it: its counts tell whether `max_tokens` has cut it off.
fn untold_finish(partial: &mut Partial) -> Finish<'static> {
    partial.finished.end(0);
    let said = partial.usage.map_or(0, |usage| usage.completion_tokens);
    if partial.limit > 0 && said >= partial.limit {
        Finish {
            reason: FinishReason::Length,
            ..Finish::UNTOLD
        }
    } else {
        Finish::UNTOLD
    }
}

/// Reads OpenAI's `usage` object. Odd figures count as absent rather than fail the answer.
fn read_usage(usage: Option<&RawValue>) -> Option<Usage> {
    #[derive(Deserialize)]
    struct Counts {
        prompt_tokens: u64,
        #[serde(default)]
        completion_tokens: Option<u64>,
        #[serde(default)]
        total_tokens: Option<u64>,
    }
    let counts: Counts = serde_json::from_str(usage?.get()).ok()?;
    let usage = Usage::new(
        counts.prompt_tokens,
        counts.completion_tokens.unwrap_or_default(),
    );
    Some(Usage {
        total_tokens: counts.total_tokens.unwrap_or(usage.total_tokens),
        ..usage
    })
}

/// The plain sentence for an error body that nobody can read: an HTML page, an empty body, JSON of another shape.
fn unreadable_error(status: StatusCode) -> Error {
    let message = match status.as_u16() {
        code @ 400..=599 => {
            format!("The provider answered with status {code} and no readable error.")
        }
        code => format!("The provider answered with the unexpected status {code}."),
    };
    Error::new(Kind::Upstream(status), message)
}
