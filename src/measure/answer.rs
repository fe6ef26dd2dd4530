//! Reads one answer of a completions server, over HTTP/1.1, and judges it. Pure: bytes in, what they brought out.
//!
//! A whole answer is good if it is a 200 whose JSON has the choices that were asked for. A stream is good if it is a 200 of
//! server-sent events that are JSON, none of them an error, with `data: [DONE]` at the end: one that just ends is cut.

use bytes::{Buf, BytesMut};
use serde::{Deserialize, de::IgnoredAny};

use super::body::{Body, Chunk};
use crate::wire::{Form, Frame, sse::Events};

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// No connection, or no TLS session.
    Connect,
    /// Not within the time limit.
    Timeout,
    /// The connection ended, or the stream without `[DONE]`, before the answer was complete.
    Cut,
    /// A stream told an error.
    ErrorEvent,
    /// Any other status than 200.
    Status(u16),
    /// A 200 that is not what was asked for.
    Invalid(&'static str),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connect => f.write_str("connect"),
            Self::Timeout => f.write_str("timeout"),
            Self::Cut => f.write_str("cut"),
            Self::ErrorEvent => f.write_str("error event"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Invalid(why) => write!(f, "invalid: {why}"),
        }
    }
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// With this many choices.
    Whole(usize),
    Stream,
}

/// One answer, as far as it has come.
#[derive(Debug)]
pub struct Answer {
    asked: Asked,
    part: Part,
    keeps_alive: bool,
    /// As the server counted them; `None`: it did not.
    pub completion_tokens: Option<u64>,
}

#[derive(Debug)]
enum Part {
    Head,
    Body(Body, Content),
}

#[derive(Debug)]
enum Content {
    Json(Vec<u8>),
    Events {
        events: Events,
        is_done: bool,
    },
    /// Of an error: read so that the connection can go on.
    Refusal(u16),
}

/// What one read brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Brought {
    /// Events of a stream that have text.
    pub texts: u32,
    /// The answer is complete, and good.
    pub is_whole: bool,
}

impl Answer {
    pub fn new(asked: Asked) -> Self {
        Self {
            asked,
            part: Part::Head,
            keeps_alive: false,
            completion_tokens: None,
        }
    }

    /// Whether the connection can be asked again, once the answer is whole or a refusal ([`Failure::Status`]).
    pub fn keeps_alive(&self) -> bool {
        let is_framed = match &self.part {
            Part::Head => false,
            Part::Body(body, _) => body.is_over(),
        };
        self.keeps_alive && is_framed
    }

    /// Takes what `input` has. What is left in it belongs to the next read.
    pub fn read(&mut self, input: &mut BytesMut) -> Result<Brought, Failure> {
        if matches!(self.part, Part::Head) && !self.read_head(input)? {
            return Ok(Brought::default());
        }
        let Part::Body(body, content) = &mut self.part else {
            return Ok(Brought::default());
        };
        let mut brought = Brought::default();
        while let Some(piece) = body.next(input)? {
            match content {
                Content::Refusal(_) => {}
                Content::Json(whole) if whole.len() + piece.len() > MAX_WHOLE_BYTES => {
                    return Err(Failure::Invalid("too large"));
                }
                Content::Json(whole) => whole.extend_from_slice(&piece),
                Content::Events { events, is_done } => {
                    events.push(piece);
                    while let Some(frame) = events.next() {
                        let frame = frame.map_err(|_| Failure::Invalid("an endless event"))?;
                        read_event(&frame, is_done, &mut self.completion_tokens, &mut brought)?;
                    }
                }
            }
        }
        if body.is_over() {
            self.judge()?;
            brought.is_whole = true;
        }
        Ok(brought)
    }

    /// The server has closed the connection. Fails if that came too early.
    pub fn close(&mut self) -> Result<(), Failure> {
        match &self.part {
            Part::Body(Body::UntilClose, _) => self.judge(),
            Part::Body(_, Content::Refusal(status)) => Err(Failure::Status(*status)),
            // A client has the whole text by then.
            Part::Body(_, Content::Events { is_done: true, .. }) => Ok(()),
            Part::Head | Part::Body(..) => Err(Failure::Cut),
        }
    }

    /// Reads a head, and those of interim answers before it. `false`: more is needed.
    fn read_head(&mut self, input: &mut BytesMut) -> Result<bool, Failure> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut head = httparse::Response::new(&mut headers);
            let length = match head.parse(input) {
                Ok(httparse::Status::Complete(length)) => length,
                Ok(httparse::Status::Partial) if input.len() <= MAX_HEAD_BYTES => return Ok(false),
                Ok(httparse::Status::Partial) => return Err(Failure::Invalid("an endless head")),
                Err(_) => return Err(Failure::Invalid("no HTTP")),
            };
            let status = head.code.unwrap_or_default();
            let fields = Fields::of(&head)?;
            input.advance(length);
            if (100..200).contains(&status) && status != 101 {
                continue;
            }
            self.keeps_alive = fields.keeps_alive;
            self.part = Part::Body(fields.body(status), fields.content(status, self.asked)?);
            return Ok(true);
        }
    }

    /// The body is over.
    fn judge(&mut self) -> Result<(), Failure> {
        match &self.part {
            Part::Body(_, Content::Refusal(status)) => Err(Failure::Status(*status)),
            Part::Body(_, Content::Events { is_done: true, .. }) => Ok(()),
            Part::Body(_, Content::Events { .. }) | Part::Head => Err(Failure::Cut),
            Part::Body(_, Content::Json(whole)) => {
                let whole: Whole =
                    serde_json::from_slice(whole).map_err(|_| Failure::Invalid("no completion"))?;
                self.completion_tokens = whole.usage.and_then(|usage| usage.completion_tokens);
                match self.asked {
                    Asked::Whole(choices) if whole.choices.len() != choices => {
                        Err(Failure::Invalid("another number of choices"))
                    }
                    Asked::Whole(_) | Asked::Stream => Ok(()),
                }
            }
        }
    }
}

/// The header fields that say how to read on.
struct Fields {
    length: Option<u64>,
    is_chunked: bool,
    is_stream: bool,
    keeps_alive: bool,
}

impl Fields {
    fn of(head: &httparse::Response<'_, '_>) -> Result<Self, Failure> {
        let mut fields = Self {
            length: None,
            is_chunked: false,
            is_stream: false,
            keeps_alive: head.version == Some(1),
        };
        for header in head.headers.iter() {
            let value = header.value.trim_ascii();
            if header.name.eq_ignore_ascii_case("content-length") {
                let length = std::str::from_utf8(value)
                    .ok()
                    .and_then(|text| text.parse().ok());
                fields.length = Some(length.ok_or(Failure::Invalid("no length"))?);
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                fields.is_chunked = value.eq_ignore_ascii_case(b"chunked");
            } else if header.name.eq_ignore_ascii_case("content-type") {
                let start = value.get(..EVENTS.len()).unwrap_or_default();
                fields.is_stream = start.eq_ignore_ascii_case(EVENTS);
            } else if header.name.eq_ignore_ascii_case("connection") {
                fields.keeps_alive = value.eq_ignore_ascii_case(b"keep-alive")
                    || fields.keeps_alive && !value.eq_ignore_ascii_case(b"close");
            }
        }
        Ok(fields)
    }

    /// RFC 9112 §6.3: no body, chunks, a length, or up to the connection's end, in this order.
    fn body(&self, status: u16) -> Body {
        match self.length {
            _ if matches!(status, 204 | 304) => Body::Length(0),
            _ if self.is_chunked => Body::Chunked(Chunk::Size),
            Some(length) => Body::Length(length),
            None => Body::UntilClose,
        }
    }

    fn content(&self, status: u16, asked: Asked) -> Result<Content, Failure> {
        match asked {
            _ if status != 200 => Ok(Content::Refusal(status)),
            Asked::Whole(_) => Ok(Content::Json(Vec::new())),
            Asked::Stream if self.is_stream => Ok(Content::Events {
                events: Events::new(MAX_EVENT_BYTES),
                is_done: false,
            }),
            Asked::Stream => Err(Failure::Invalid("no stream")),
        }
    }
}

fn read_event(
    frame: &Frame,
    is_done: &mut bool,
    completion_tokens: &mut Option<u64>,
    brought: &mut Brought,
) -> Result<(), Failure> {
    if frame.form == Form::Comment || *is_done {
        return Ok(());
    }
    if frame.data.trim_ascii() == b"[DONE]" {
        *is_done = true;
        return Ok(());
    }
    let event: Option<Event<'_>> = serde_json::from_slice(&frame.data)
        .map_err(|_| Failure::Invalid("an event is no chunk"))?;
    // llama.cpp begins the stream of a list of prompts with `null`.
    let Some(event) = event else {
        return Ok(());
    };
    if event.error.is_some() || &*frame.event == b"error" {
        return Err(Failure::ErrorEvent);
    }
    let told = event.usage.and_then(|usage| usage.completion_tokens);
    *completion_tokens = told.or(*completion_tokens);
    // An empty text is escaped by nobody.
    let has_text = |choice: &Choice<'_>| {
        choice
            .text
            .is_some_and(|text| text.get() != "\"\"" && text.get() != "null")
    };
    brought.texts += u32::from(event.choices.iter().any(has_text));
    Ok(())
}

#[derive(Deserialize)]
struct Whole {
    choices: Vec<IgnoredAny>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, default)]
    choices: Vec<Choice<'a>>,
    error: Option<IgnoredAny>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    text: Option<&'a serde_json::value::RawValue>,
}

#[derive(Deserialize)]
struct Usage {
    completion_tokens: Option<u64>,
}

const EVENTS: &[u8] = b"text/event-stream";
const MAX_HEADERS: usize = 100;
const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_EVENT_BYTES: usize = 16 << 20;
/// A thousand long choices with log-probabilities.
const MAX_WHOLE_BYTES: usize = 256 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = r#"{"choices":[{"text":"a"}],"usage":{"completion_tokens":7}}"#;

    fn whole(status: &str, fields: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{fields}\r\n{body}")
    }

    fn sized(status: &str, body: &str) -> String {
        whole(status, &format!("content-length: {}\r\n", body.len()), body)
    }

    fn streamed(events: &[&str]) -> String {
        let mut text = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
        for event in events {
            text += &format!("{:x};ext=1\r\n{event}\r\n", event.len());
        }
        text + "0\r\ntrailer: x\r\n\r\n"
    }

    const TEXT: &str = "data: {\"choices\":[{\"text\":\" a\"}]}\n\n";
    const NULL: &str = "data: null\n\n";
    const FINISH: &str = "data: {\"choices\":[{\"text\":\"\",\"finish_reason\":\"stop\"}]}\n\n";
    const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"completion_tokens\":2}}\n\n";
    const DONE: &str = "data: [DONE]\n\n";

    /// Reads pieces, then the connection's end if the answer was not whole by then.
    fn read(asked: Asked, pieces: &[&[u8]]) -> (Result<u32, Failure>, Answer) {
        let (mut answer, mut input, mut texts) = (Answer::new(asked), BytesMut::new(), 0);
        for (turn, piece) in pieces.iter().enumerate() {
            input.extend_from_slice(piece);
            match answer.read(&mut input) {
                Ok(brought) => {
                    texts += brought.texts;
                    if brought.is_whole {
                        let rest = pieces[turn + 1..].concat().len() + input.len();
                        assert_eq!(rest, 0, "it is whole with its last byte");
                        return (Ok(texts), answer);
                    }
                }
                Err(failure) => return (Err(failure), answer),
            }
        }
        (answer.close().map(|()| texts), answer)
    }

    fn verdict(asked: Asked, text: &str) -> Result<u32, Failure> {
        read(asked, &[text.as_bytes()]).0
    }

    #[test]
    fn every_cut_of_a_good_answer_reads_the_same() {
        let stream = streamed(&[NULL, TEXT, ": ping\n\n", TEXT, FINISH, USAGE, DONE]);
        let chunked = whole(
            "200 OK",
            "transfer-encoding: chunked\r\n",
            &format!("{:x}\r\n{BODY}\r\n0\r\n\r\n", BODY.len()),
        );
        let cases = [
            (Asked::Stream, stream, 2, 2),
            (Asked::Whole(1), sized("200 OK", BODY), 0, 7),
            (Asked::Whole(1), chunked, 0, 7),
            (
                Asked::Whole(1),
                format!("HTTP/1.1 100 Continue\r\n\r\n{}", sized("200 OK", BODY)),
                0,
                7,
            ),
        ];
        for (asked, text, texts, tokens) in cases {
            let bytes = text.as_bytes();
            for at in 0..=bytes.len() {
                let (read, answer) = read(asked, &[&bytes[..at], &bytes[at..]]);
                assert_eq!(read, Ok(texts), "cut at {at} of {text}");
                assert_eq!(answer.completion_tokens, Some(tokens));
                assert!(answer.keeps_alive());
            }
        }
    }

    #[test]
    fn an_answer_that_ends_early_is_cut_wherever_it_ends() {
        let stream = streamed(&[TEXT, TEXT, FINISH, DONE]);
        let done = stream.find("[DONE]\n\n").unwrap() + "[DONE]\n\n".len();
        let sized = sized("200 OK", BODY);
        for (asked, text, end) in [
            (Asked::Stream, &stream, done),
            (Asked::Whole(1), &sized, sized.len()),
        ] {
            for at in 0..end {
                assert_eq!(
                    verdict(asked, &text[..at]),
                    Err(Failure::Cut),
                    "{at} of {text}"
                );
            }
        }
        // The stream's end marker is there, its last chunk is not.
        assert_eq!(verdict(Asked::Stream, &stream[..done]), Ok(2));
    }

    #[test]
    fn failures_have_their_kind() {
        let error = "data: {\"error\":{\"message\":\"m\"}}\n\n";
        let named = "event: error\ndata: {\"message\":\"m\"}\n\n";
        let cases = [
            (Asked::Stream, streamed(&[TEXT, FINISH]), Failure::Cut),
            (Asked::Stream, streamed(&[TEXT, error]), Failure::ErrorEvent),
            (
                Asked::Stream,
                streamed(&[TEXT, named, DONE]),
                Failure::ErrorEvent,
            ),
            (
                Asked::Stream,
                streamed(&["data: {\"half\": \n\n", DONE]),
                Failure::Invalid("an event is no chunk"),
            ),
            (
                Asked::Stream,
                sized("200 OK", BODY),
                Failure::Invalid("no stream"),
            ),
            (Asked::Stream, sized("429 Slow", "{}"), Failure::Status(429)),
            (
                Asked::Whole(1),
                sized("502 Bad", "<html>"),
                Failure::Status(502),
            ),
            (
                Asked::Whole(1),
                "HTTP/1.1 204 None\r\n\r\n".to_owned(),
                Failure::Status(204),
            ),
            (
                Asked::Whole(1),
                whole("503 No", "content-length: 90\r\n", "{"),
                Failure::Status(503),
            ),
            (
                Asked::Whole(1),
                sized("200 OK", "<html>"),
                Failure::Invalid("no completion"),
            ),
            (
                Asked::Whole(1),
                sized("200 OK", "{\"error\":1}"),
                Failure::Invalid("no completion"),
            ),
            (
                Asked::Whole(2),
                sized("200 OK", BODY),
                Failure::Invalid("another number of choices"),
            ),
            (
                Asked::Whole(1),
                streamed(&[TEXT, DONE]),
                Failure::Invalid("no completion"),
            ),
            (
                Asked::Whole(1),
                "SSH-2.0-x\r\n\r\n".to_owned(),
                Failure::Invalid("no HTTP"),
            ),
            (
                Asked::Whole(1),
                whole("200 OK", "transfer-encoding: chunked\r\n", "zz\r\n"),
                Failure::Invalid("a chunk is not framed as one"),
            ),
            (
                Asked::Whole(1),
                whole("200 OK", "content-length: x\r\n", BODY),
                Failure::Invalid("no length"),
            ),
        ];
        for (asked, text, failure) in cases {
            assert_eq!(verdict(asked, &text), Err(failure), "{text}");
        }
    }

    #[test]
    fn a_connection_goes_on_when_the_server_says_so_and_the_body_was_framed() {
        let close = whole(
            "200 OK",
            &format!("Connection: close\r\ncontent-length: {}\r\n", BODY.len()),
            BODY,
        );
        let old = sized("200 OK", BODY).replace("1.1", "1.0");
        let until_close = whole("200 OK", "", BODY);
        let refused = sized("429 Slow", "{}");
        for (text, goes_on) in [
            (close, false),
            (old, false),
            (until_close, false),
            (refused, true),
        ] {
            let (_, answer) = read(Asked::Whole(1), &[text.as_bytes()]);
            assert_eq!(answer.keeps_alive(), goes_on, "{text}");
        }
    }

    #[test]
    fn only_events_with_text_count() {
        let null = "data: {\"choices\":[{\"text\":null}]}\n\n";
        let two = "data: {\"choices\":[{\"text\":\"\"},{\"text\":\"b\"}]}\n\n";
        assert_eq!(
            verdict(
                Asked::Stream,
                &streamed(&[null, FINISH, two, USAGE, DONE, TEXT])
            ),
            Ok(1)
        );
    }
}
