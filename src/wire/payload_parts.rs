//! What a model's own server streams, in the parts in which Amazon SageMaker passes it on: server-sent events, or JSON lines, inside
//! the messages of an AWS event stream.
//!
//! Source: <https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_ResponseStream.html>. A part's payload is bytes as
//! they came from the container; an event may begin in one part and end in another:
//!
//! ```text
//!  messages   │ head │ data: {"a":│ sum │ head │1}\n\ndata: {"a"│ sum │ head │:2}\n\n│ sum │
//!  events             └──────────────────────────┘└──────────────────────────────┘
//! ```
//!
//! Nothing of a part is read before its message's last CRC has been checked. A message that is no part and no error means nothing
//! here. Whether the container streams events or lines, its first byte that is not blank tells: a JSON object is a line.

use bytes::Bytes;

use crate::{
    error::Error,
    wire::{Form, Frame, event_stream::EventStream, json_lines::JsonLines, sse::Events},
};

/// Cuts a byte stream into the container's own frames.
#[derive(Debug)]
pub struct PayloadParts {
    messages: EventStream,
    container: Container,
    max_frame_bytes: usize,
}

/// The container's stream.
#[derive(Debug)]
enum Container {
    /// Nothing of it but blanks has come.
    Silent,
    Events(Events),
    Lines(JsonLines),
}

impl PayloadParts {
    /// `max_frame_bytes` counts for a message and for a frame of the container's.
    pub fn new(max_frame_bytes: usize) -> Self {
        Self {
            messages: EventStream::new(max_frame_bytes),
            container: Container::Silent,
            max_frame_bytes,
        }
    }

    /// Takes one read. Call [`PayloadParts::next`] until it answers `None` before the next push.
    pub fn push(&mut self, input: Bytes) {
        self.messages.push(input);
    }

    /// The container's next complete frame, or an error of SageMaker's own. `None`: more bytes are needed.
    pub fn next(&mut self) -> Option<Result<Frame, Error>> {
        loop {
            if let Some(frame) = self.container.next() {
                return Some(frame);
            }
            let message = match self.messages.next()? {
                Ok(message) => message,
                Err(error) => return Some(Err(error)),
            };
            match message.form {
                Form::Exception | Form::Error => return Some(Ok(message)),
                _ if &*message.event == PART => self.read(message.data),
                Form::Canonical | Form::Other | Form::Comment => {}
            }
        }
    }

    /// What is left when the stream has ended. Half a message is an error; half a frame of the container's, its reader finds out.
    pub fn rest(&mut self) -> Option<Result<Frame, Error>> {
        match self.messages.rest() {
            Some(error) => Some(Err(error)),
            None => self.container.rest().map(Ok),
        }
    }

    fn read(&mut self, payload: Bytes) {
        if let Container::Silent = self.container
            && let Some(first) = payload.trim_ascii_start().first()
        {
            self.container = match first {
                b'{' => Container::Lines(JsonLines::new(self.max_frame_bytes)),
                _ => Container::Events(Events::new(self.max_frame_bytes)),
            };
        }
        match &mut self.container {
            // Blanks before the first frame mean nothing in either form.
            Container::Silent => {}
            Container::Events(events) => events.push(payload),
            Container::Lines(lines) => lines.push(payload),
        }
    }
}

impl Container {
    fn next(&mut self) -> Option<Result<Frame, Error>> {
        match self {
            Self::Silent => None,
            Self::Events(events) => events.next(),
            Self::Lines(lines) => lines.next(),
        }
    }

    fn rest(&mut self) -> Option<Frame> {
        match self {
            Self::Silent => None,
            Self::Events(events) => events.rest(),
            Self::Lines(lines) => lines.rest(),
        }
    }
}

/// The event that holds a piece of the container's answer.
const PART: &[u8] = b"PayloadPart";

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1 << 20;
    const EVENTS: &str = "data:{\"a\":\"é\"}\n\n: ping\n\ndata: {\"a\":2}\r\n\r\nevent: error\ndata: x\n\ndata: [DONE]\n\n";
    const LINES: &str = "\n{\"a\":\"é\"}\r\n{\"a\":2}\n\n{\"a\":3}";

    fn message(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, value) in headers {
            block.push(u8::try_from(name.len()).unwrap());
            block.extend(name.as_bytes());
            block.push(7);
            block.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
            block.extend(value.as_bytes());
        }
        let total = u32::try_from(block.len() + payload.len() + 16).unwrap();
        let mut bytes = total.to_be_bytes().to_vec();
        bytes.extend(u32::try_from(block.len()).unwrap().to_be_bytes());
        bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
        bytes.extend(block);
        bytes.extend(payload);
        bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
        bytes
    }

    fn part(payload: &[u8]) -> Vec<u8> {
        let kind = [(":message-type", "event"), (":event-type", "PayloadPart")];
        message(&kind, payload)
    }

    fn exception() -> Vec<u8> {
        let kind = [
            (":message-type", "exception"),
            (":exception-type", "ModelStreamError"),
        ];
        message(&kind, b"{\"Message\":\"busy\"}")
    }

    type Seen = (String, String, Form);

    /// The frames up to the first error, and whether there was one.
    fn cut<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> (Vec<Seen>, bool) {
        let mut parts = PayloadParts::new(LIMIT);
        let mut seen = Vec::new();
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let tell = |frame: Frame| (text(&frame.event), text(&frame.data), frame.form);
        for piece in pieces {
            parts.push(Bytes::copy_from_slice(piece));
            while let Some(frame) = parts.next() {
                let Ok(frame) = frame else {
                    return (seen, true);
                };
                seen.push(tell(frame));
            }
        }
        match parts.rest() {
            Some(Err(_)) => return (seen, true),
            rest => seen.extend(rest.map(|frame| tell(frame.unwrap()))),
        }
        (seen, false)
    }

    fn data(seen: &[Seen]) -> Vec<&str> {
        let told = seen.iter().filter(|(_, _, form)| *form != Form::Comment);
        told.map(|(_, data, _)| data.as_str()).collect()
    }

    #[test]
    fn every_cut_of_the_containers_bytes_into_parts_gives_the_same_frames() {
        let events = vec!["{\"a\":\"é\"}", "{\"a\":2}", "x", "[DONE]"];
        let lines = vec!["{\"a\":\"é\"}", "{\"a\":2}", "{\"a\":3}"];
        for (stream, told) in [(EVENTS, events), (LINES, lines)] {
            let whole = cut([&*part(stream.as_bytes())]);
            assert_eq!(data(&whole.0), told);
            assert!(!whole.1);
            for at in 0..=stream.len() {
                let (head, tail) = stream.as_bytes().split_at(at);
                let split = [part(head), part(tail)].concat();
                assert_eq!(cut([&*split]), whole, "parts cut at {at}");
            }
            let bytes: Vec<u8> = stream.bytes().flat_map(|byte| part(&[byte])).collect();
            assert_eq!(cut([&*bytes]), whole);
            assert_eq!(cut(bytes.chunks(1)), whole);
        }
    }

    /// Parts that begin and end inside events, an event that is unknown, an exception behind them.
    fn stream() -> Vec<u8> {
        let (head, tail) = EVENTS.as_bytes().split_at(9);
        let (middle, tail) = tail.split_at(30);
        let unknown = [(":message-type", "event"), (":event-type", "Other")];
        [
            part(b""),
            part(head),
            message(&unknown, b"data: no\n\n"),
            part(middle),
            part(tail),
            exception(),
        ]
        .concat()
    }

    #[test]
    fn every_cut_of_the_read_gives_the_same_frames() {
        let stream = stream();
        let whole = cut([&*stream]);
        assert_eq!(whole.0.len(), 6);
        let (event, told, form) = whole.0.last().unwrap();
        assert_eq!((&**event, *form), ("ModelStreamError", Form::Exception));
        assert_eq!(told, "{\"Message\":\"busy\"}");
        for at in 0..=stream.len() {
            let (head, tail) = stream.split_at(at);
            assert_eq!(cut([head, tail]), whole, "cut at {at}");
        }
        assert_eq!(cut(stream.chunks(1)), whole);
    }

    #[test]
    fn a_corrupted_byte_is_an_error_and_never_another_frame() {
        let stream = stream();
        let (whole, _) = cut([&*stream]);
        for at in 0..stream.len() {
            let mut corrupted = stream.clone();
            corrupted[at] ^= 0x20;
            let (seen, failed) = cut([&*corrupted]);
            assert!(failed && whole.starts_with(&seen), "byte {at}");
        }
    }

    #[test]
    fn an_end_inside_a_message_is_an_error_whatever_was_in_it() {
        let stream = part(b"data: [DONE]\n\n");
        for at in 1..stream.len() {
            assert_eq!(cut([&stream[..at]]), (vec![], true), "ended at {at}");
        }
        assert_eq!(cut([&[][..]]), (vec![], false));
        assert_eq!(cut([&*part(b" \n")]), (vec![], false));
    }

    #[test]
    fn an_error_comes_out_though_an_event_is_unfinished() {
        let stream = [part(b"data: {\"a\""), exception()].concat();
        let (seen, failed) = cut([&*stream]);
        assert_eq!((seen[0].2, failed), (Form::Exception, false));
        let unmodeled = [
            (":message-type", "error"),
            (":error-code", "InternalStreamFailure"),
            (":error-message", "sorry"),
        ];
        let (seen, _) = cut([&*message(&unmodeled, b"")]);
        let told = (
            "InternalStreamFailure".to_owned(),
            "sorry".to_owned(),
            Form::Error,
        );
        assert_eq!(seen, [told]);
    }

    #[test]
    fn a_frame_is_stored_up_to_its_limit() {
        for start in ["data: ", "{"] {
            let mut parts = PayloadParts::new(200);
            let long = [start.as_bytes(), &[b'x'; 90]].concat();
            for _ in 0..2 {
                parts.push(Bytes::from(part(&long)));
                assert!(parts.next().is_none());
            }
            parts.push(Bytes::from(part(&long)));
            assert!(parts.next().unwrap().is_err());
        }
    }
}
