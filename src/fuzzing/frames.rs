//! The framings: any bytes, cut anywhere, are the same frames; and they are those that a plain reading of the standard finds.

use bytes::Bytes;

use super::input::{APART, Input, parts, pieces};
use crate::wire::{Form, Frame, Frames, Framing};

/// What a stream's reader saw: event, data and form of each frame; and whether it failed.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    frames: Vec<(Bytes, Bytes, Form)>,
    failed: bool,
}

pub fn sse(bytes: &[u8]) {
    let seen = same_at_every_cut(Framing::Sse, bytes);
    let found: Vec<_> = seen
        .frames
        .iter()
        .filter(|(.., form)| *form != Form::Comment)
        .map(|(event, data, _)| (event.to_vec(), data.to_vec()))
        .collect();
    let wanted = standard_events(Input::new(bytes).skip(2));
    if seen.failed {
        assert!(wanted.starts_with(&found), "{found:?} of {wanted:?}");
    } else {
        assert_eq!(found, wanted);
    }
}

pub fn json_lines(bytes: &[u8]) {
    let seen = same_at_every_cut(Framing::JsonLines, bytes);
    let lines = Input::new(bytes).skip(2).split(|&byte| byte == b'\n');
    let lines: Vec<_> = lines
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty())
        .collect();
    let found: Vec<&[u8]> = seen.frames.iter().map(|(_, data, _)| &**data).collect();
    if seen.failed {
        assert!(lines.starts_with(&found));
    } else {
        assert_eq!(found, lines);
    }
}

/// Messages as they come: nearly all of them are refused by a sum.
pub fn event_stream(bytes: &[u8]) {
    same_at_every_cut(Framing::EventStream, bytes);
    same_at_every_cut(Framing::PayloadParts, bytes);
}

/// Messages whose sums are right: see [`messages`].
pub fn message(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let head = [input.byte(), input.byte()];
    let framed = [&head, &*messages(input.rest())].concat();
    same_at_every_cut(Framing::EventStream, &framed);
    same_at_every_cut(Framing::PayloadParts, &framed);
}

/// Reads the bytes behind two that choose the cuts and the limit.
fn same_at_every_cut(framing: Framing, bytes: &[u8]) -> Seen {
    let mut input = Input::new(bytes);
    let (cuts, limit) = (input.byte(), LIMITS.get(usize::from(input.byte() & 3)));
    let (stream, limit) = (input.rest(), limit.copied().unwrap_or(usize::MAX));
    let whole = read(framing, limit, &[stream]);
    assert_eq!(whole, read(framing, limit, &pieces(cuts, stream)));
    whole
}

fn read(framing: Framing, limit: usize, pieces: &[&[u8]]) -> Seen {
    let mut frames = Frames::new(framing, limit);
    let mut seen = Seen {
        frames: Vec::new(),
        failed: false,
    };
    for piece in pieces {
        frames.push(Bytes::copy_from_slice(piece));
        while let Some(frame) = frames.next() {
            if !seen.take(frame.ok(), limit) {
                return seen;
            }
        }
    }
    if let Some(frame) = frames.rest() {
        seen.take(frame.ok(), limit);
    }
    seen
}

impl Seen {
    /// `None`: the stream has failed.
    fn take(&mut self, frame: Option<Frame>, limit: usize) -> bool {
        let Some(frame) = frame else {
            self.failed = true;
            return false;
        };
        // The LF of a last CRLF may come apart from it, and does not count.
        assert!(
            frame.raw.len() <= limit.saturating_add(1),
            "a frame over its limit"
        );
        if frame.form == Form::Canonical {
            let canonical = [b"data: ", &*frame.data, b"\n\n"].concat();
            assert_eq!(frame.raw, canonical);
        }
        self.frames.push((frame.event, frame.data, frame.form));
        true
    }
}

/// The events of the standard's own procedure, line by line; at the end what a reader that takes an unended event for one sees.
fn standard_events(stream: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let stream = stream.strip_prefix(b"\xef\xbb\xbf").unwrap_or(stream);
    let (mut events, mut event, mut data) = (Vec::new(), Vec::new(), None::<Vec<u8>>);
    let ended = [stream, b"\n\n"].concat();
    for line in lines(&ended) {
        let colon = memchr::memchr(b':', line).unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"" if line.is_empty() => {
                let data = data.take().filter(|data| !data.is_empty());
                let event = std::mem::take(&mut event);
                events.extend(data.map(|data| (event, data)));
            }
            b"data" => match &mut data {
                Some(data) => {
                    data.push(b'\n');
                    data.extend(value);
                }
                None => data = Some(value.to_vec()),
            },
            b"event" => event = value.to_vec(),
            _ => {}
        }
    }
    events
}

/// "Lines must be separated by either CR LF, a single LF, or a single CR."
fn lines(bytes: &[u8]) -> Vec<&[u8]> {
    let (mut lines, mut start) = (Vec::new(), 0);
    let mut ends = memchr::memchr2_iter(b'\n', b'\r', bytes).peekable();
    while let Some(end) = ends.next() {
        lines.push(bytes.get(start..end).unwrap_or_default());
        let crlf = bytes.get(end..end + 2) == Some(b"\r\n");
        start = end + if crlf { 2 } else { 1 };
        if crlf {
            ends.next();
        }
    }
    lines
}

/// AWS messages with right sums out of a test case: one for each part, which is a letter, a name up to a space, and a payload.
/// `E`: an event, `X`: an exception, `R`: an error of the framing; anything else goes out as it is, with wrong ones.
pub fn messages(bytes: &[u8]) -> Vec<u8> {
    parts(bytes).flat_map(message_of).collect()
}

fn message_of(part: &[u8]) -> Vec<u8> {
    let Some((kind, told)) = part.split_first() else {
        return Vec::new();
    };
    let space = memchr::memchr(b' ', told).unwrap_or(told.len());
    let (name, payload) = told.split_at(space);
    let payload = payload.get(1..).unwrap_or_default();
    let (head, payload) = match kind {
        b'E' => (headers("event", ":event-type", name), payload),
        b'X' => (headers("exception", ":exception-type", name), payload),
        b'R' => {
            let mut head = headers("error", ":error-code", name);
            head.extend(header(":error-message", payload));
            (head, &[][..])
        }
        _ => return part.to_vec(),
    };
    framed(&head, payload)
}

fn headers(kind: &str, field: &str, name: &[u8]) -> Vec<u8> {
    let mut head = header(":message-type", kind.as_bytes());
    head.extend(header(field, name));
    head
}

fn header(name: &str, value: &[u8]) -> Vec<u8> {
    let value = value.get(..LONGEST).unwrap_or(value);
    let length = u8::try_from(name.len()).unwrap_or_default();
    let mut header = vec![length];
    header.extend(name.as_bytes());
    header.push(7);
    header.extend(u16::try_from(value.len()).unwrap_or_default().to_be_bytes());
    header.extend(value);
    header
}

fn framed(headers: &[u8], payload: &[u8]) -> Vec<u8> {
    let length = |bytes: usize| u32::try_from(bytes).unwrap_or_default().to_be_bytes();
    let mut message = Vec::new();
    message.extend(length(headers.len() + payload.len() + 16));
    message.extend(length(headers.len()));
    message.extend(crc32fast::hash(&message).to_be_bytes());
    message.extend(headers);
    message.extend(payload);
    message.extend(crc32fast::hash(&message).to_be_bytes());
    message
}

/// The parts that [`messages`] makes a fixture of again.
pub fn told(stream: &[u8]) -> Vec<u8> {
    let mut frames = Frames::new(Framing::EventStream, usize::MAX);
    frames.push(Bytes::copy_from_slice(stream));
    let mut told = Vec::new();
    while let Some(Ok(frame)) = frames.next() {
        let kind = match frame.form {
            Form::Exception => b'X',
            Form::Error => b'R',
            Form::Canonical | Form::Other | Form::Comment => b'E',
        };
        told.push([&[kind], &*frame.event, b" ", &*frame.data].concat());
    }
    told.join(&APART)
}

const LIMITS: [usize; 4] = [1 << 20, 4096, 64, 24];
/// The longest value of a header.
const LONGEST: usize = 1 << 15;
