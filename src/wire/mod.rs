//! Bytes to frames: what stands between a socket and a dialect. Pure, incremental, bounded.

pub mod sse;

use bytes::Bytes;

/// How an upstream cuts its stream into frames. Adding one means a variant here and a file beside `sse`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Server-sent events, <https://html.spec.whatwg.org/multipage/server-sent-events.html>.
    Sse,
}

/// One complete frame. `raw` is what came over the wire, so that a relay can pass it on untouched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub raw: Bytes,
    /// The event's name; empty where the stream gave none.
    pub event: Bytes,
    pub data: Bytes,
    pub form: Form,
}

/// What a frame's bytes look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `data: …` LF LF and nothing else: may be passed on as it is.
    Canonical,
    /// Legal, but not what every client parses: CRLF, several lines, other fields.
    Other,
    /// No data: a comment, or fields that mean nothing to us.
    Comment,
}
