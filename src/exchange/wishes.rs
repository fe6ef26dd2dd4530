//! How an answer comes, and what a client asked of it beside the text.

use http::StatusCode;

use crate::completion::{
    CompletionRequest, Compliance,
    request::{RUNNING_COUNTS, StreamOptions},
};

/// How the upstream answered, and how the client wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A stream for a client that wants a stream.
    Stream,
    /// One JSON object for a client that wants one: held until it is whole and understood.
    Whole,
    /// One JSON object for a client that wants a stream.
    WholeAsStream,
    /// A status that is no success.
    Error(StatusCode),
}

/// What the client asked of its answer, beside the text.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    pub compliance: Compliance,
    pub counts: Counts,
    /// Choices the answer must bring: prompts × `n`.
    pub choices: u32,
    /// Bytes that one stream event may have.
    pub max_event_bytes: usize,
}

/// Which token counts a stream's client gets to see: its `stream_options`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    None,
    /// `include_usage`: one event at the end.
    Final,
    /// `continuous_usage_stats` too: those that the upstream puts beside its choices.
    Running,
}

impl Counts {
    pub fn asked(request: &CompletionRequest) -> Self {
        let options = request.stream_options.as_ref();
        let running = |options: &StreamOptions| {
            let asked = options.extra.get(RUNNING_COUNTS);
            asked.is_some_and(|asked| asked.get() == "true")
        };
        match options.filter(|options| options.include_usage) {
            None => Self::None,
            Some(options) if running(options) => Self::Running,
            Some(_) => Self::Final,
        }
    }
}
