//! Bytes to frames: what stands between a socket and a dialect. Pure, incremental, bounded.

pub mod event_stream;
pub mod json_lines;
pub mod payload_parts;
pub mod sse;
mod unread;

use bytes::Bytes;

use self::{
    event_stream::EventStream, json_lines::JsonLines, payload_parts::PayloadParts, sse::Events,
};
use crate::error::Error;

/// How an upstream cuts its stream into frames. Adding one means a variant here and in [`Frames`], and a file beside `sse`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Server-sent events, <https://html.spec.whatwg.org/multipage/server-sent-events.html>.
    Sse,
    /// One JSON value a line, <https://github.com/ndjson/ndjson-spec>.
    JsonLines,
    /// `application/vnd.amazon.eventstream`: binary messages with headers and checksums.
    EventStream,
    /// Server-sent events, or JSON lines, in the messages of such a stream, cut at any byte.
    PayloadParts,
}

impl Framing {
    /// The media type of such a stream.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Sse => "text/event-stream",
            Self::JsonLines => "application/x-ndjson",
            Self::EventStream | Self::PayloadParts => "application/vnd.amazon.eventstream",
        }
    }
}

/// Cuts one stream into frames.
#[derive(Debug)]
pub enum Frames {
    Sse(Events),
    JsonLines(JsonLines),
    EventStream(EventStream),
    PayloadParts(PayloadParts),
}

impl Frames {
    /// `max_frame_bytes` is what one frame may have, its framing included.
    pub fn new(framing: Framing, max_frame_bytes: usize) -> Self {
        match framing {
            Framing::Sse => Self::Sse(Events::new(max_frame_bytes)),
            Framing::JsonLines => Self::JsonLines(JsonLines::new(max_frame_bytes)),
            Framing::EventStream => Self::EventStream(EventStream::new(max_frame_bytes)),
            Framing::PayloadParts => Self::PayloadParts(PayloadParts::new(max_frame_bytes)),
        }
    }

    /// Takes one read. Call [`Frames::next`] until it answers `None` before the next push.
    pub fn push(&mut self, input: Bytes) {
        match self {
            Self::Sse(events) => events.push(input),
            Self::JsonLines(lines) => lines.push(input),
            Self::EventStream(messages) => messages.push(input),
            Self::PayloadParts(parts) => parts.push(input),
        }
    }

    /// The next complete frame. `None`: more bytes are needed. After an error there is no next.
    pub fn next(&mut self) -> Option<Result<Frame, Error>> {
        match self {
            Self::Sse(events) => events.next(),
            Self::JsonLines(lines) => lines.next(),
            Self::EventStream(messages) => messages.next(),
            Self::PayloadParts(parts) => parts.next(),
        }
    }

    /// What is left when the stream has ended. Text may lack its last line end; whether it is whole, its reader finds out.
    pub fn rest(&mut self) -> Option<Result<Frame, Error>> {
        match self {
            Self::Sse(events) => events.rest().map(Ok),
            Self::JsonLines(lines) => lines.rest().map(Ok),
            Self::EventStream(messages) => messages.rest().map(Err),
            Self::PayloadParts(parts) => parts.rest(),
        }
    }
}

/// One complete frame. `raw` is what came over the wire, so that a relay can pass it on untouched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub raw: Bytes,
    /// The event's name, or the exception's; empty where the stream gave none.
    pub event: Bytes,
    pub data: Bytes,
    pub form: Form,
}

/// What a frame's bytes look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `data: …` LF LF and nothing else: may be passed on as it is.
    Canonical,
    /// Legal, but not what every client parses: CRLF, several lines, other fields, another framing.
    Other,
    /// The framing itself calls it an error of the API: `event` is its name, `data` its JSON.
    Exception,
    /// The framing itself calls it an error that the API does not know: `event` is its code, `data` a plain sentence.
    Error,
    /// No data: a comment, or fields that mean nothing to us.
    Comment,
}
