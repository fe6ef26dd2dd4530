//! Server-sent events, cut incrementally.
//!
//! Implements the stream grammar of <https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream>.
//! An event is out as soon as its blank line is in. Bytes are decoded as bytes: a character split over two reads is whole
//! again before anybody looks at it.

use bytes::{Bytes, BytesMut};
use memchr::memchr2;

use crate::{
    error::Error,
    wire::{Form, Frame, unread::Unread},
};

/// Cuts a byte stream into events.
#[derive(Debug)]
pub struct Events {
    unread: Unread,
    scan: Scan,
    /// The last event ended in CR: an LF that follows belongs to that line end.
    skip_lf: bool,
    begun: bool,
    max_event_bytes: usize,
}

/// How far the unfinished event has been searched, so that no byte is searched twice.
#[derive(Clone, Copy, Debug, Default)]
struct Scan {
    at: usize,
    line_start: usize,
    /// Line ends so far.
    ends: usize,
}

impl Events {
    pub fn new(max_event_bytes: usize) -> Self {
        Self {
            unread: Unread::default(),
            scan: Scan::default(),
            skip_lf: false,
            begun: false,
            max_event_bytes,
        }
    }

    /// Takes one read. Call [`Events::next`] until it answers `None` before the next push.
    pub fn push(&mut self, input: Bytes) {
        self.unread.push(input);
    }

    /// The next complete event. `None`: more bytes are needed.
    pub fn next(&mut self) -> Option<Result<Frame, Error>> {
        loop {
            self.skip_leading();
            let Some(end) = self.scan.find_end(self.unread.bytes()) else {
                return self.keep_rest();
            };
            // Its own end, and the blank line's.
            let is_one_line = self.scan.ends == 2;
            let raw = self.take(end);
            self.skip_lf = raw.last() == Some(&b'\r');
            // The LF of a last CRLF may come in the next read, which must not make a difference.
            let length = raw
                .strip_suffix(b"\r\n")
                .map_or(raw.len(), |raw| raw.len() + 1);
            if length > self.max_event_bytes {
                return Some(Err(self.too_long()));
            }
            if !is_blank(&raw) {
                return Some(Ok(read_frame(raw, is_one_line)));
            }
        }
    }

    /// What is left when the stream has ended: an event whose final blank line is missing.
    pub fn rest(&mut self) -> Option<Frame> {
        let rest = self.take(self.unread.bytes().len());
        (!is_blank(&rest)).then(|| read_frame(rest, false))
    }

    fn take(&mut self, length: usize) -> Bytes {
        self.begun = true;
        self.scan = Scan::default();
        self.unread.take(length)
    }

    /// Drops a byte order mark at the start of the stream and the LF of a CRLF whose CR ended the last event.
    fn skip_leading(&mut self) {
        if self.skip_lf && !self.unread.bytes().is_empty() {
            self.skip_lf = false;
            if self.unread.bytes().first() == Some(&b'\n') {
                self.skip(1);
            }
        }
        if !self.begun && self.unread.bytes().len() >= BOM.len() {
            self.begun = true;
            if self.unread.bytes().starts_with(BOM) {
                self.skip(BOM.len());
            }
        }
    }

    fn skip(&mut self, length: usize) {
        self.unread.skip(length);
        self.scan = Scan::default();
    }

    fn keep_rest(&mut self) -> Option<Result<Frame, Error>> {
        if self.unread.bytes().len() > self.max_event_bytes {
            return Some(Err(self.too_long()));
        }
        self.unread.keep();
        None
    }

    fn too_long(&mut self) -> Error {
        self.unread.clear();
        self.scan = Scan::default();
        let limit = self.max_event_bytes;
        Error::broken(format!(
            "The provider sent a stream event of more than {limit} bytes."
        ))
    }
}

impl Scan {
    /// The length of the first event in `bytes`, its blank line included.
    fn find_end(&mut self, bytes: &[u8]) -> Option<usize> {
        while let Some(offset) = memchr2(b'\n', b'\r', bytes.get(self.at..)?) {
            let at = self.at + offset;
            self.at = at + 1;
            let lf_of_crlf = bytes.get(at) == Some(&b'\n')
                && at == self.line_start
                && at.checked_sub(1).and_then(|before| bytes.get(before)) == Some(&b'\r');
            let blank = at == self.line_start && !lf_of_crlf;
            self.line_start = at + 1;
            self.ends += 1;
            if blank {
                // CR LF is one line end: take the LF with it where it is already here.
                let crlf = bytes.get(at) == Some(&b'\r') && bytes.get(at + 1) == Some(&b'\n');
                return Some(at + 1 + usize::from(crlf));
            }
        }
        self.at = bytes.len();
        None
    }
}

/// `is_one_line`: all of it but the blank line is one.
fn read_frame(raw: Bytes, is_one_line: bool) -> Frame {
    if is_one_line && let Some(data) = canonical_data(&raw) {
        return Frame {
            event: Bytes::new(),
            data,
            form: Form::Canonical,
            raw,
        };
    }
    let mut event = Bytes::new();
    let mut data = BytesMut::new();
    let mut begun = false;
    for line in lines(&raw) {
        let (name, value) = field(line);
        match name {
            b"data" => {
                // "Append the field value to the data buffer, then append a single LF": the last LF is removed again.
                if std::mem::replace(&mut begun, true) {
                    data.extend_from_slice(b"\n");
                }
                data.extend_from_slice(value);
            }
            b"event" => event = raw.slice_ref(value),
            _ => {}
        }
    }
    Frame {
        event,
        // "If the data buffer is an empty string", the event is none, whatever its name.
        form: if data.is_empty() {
            Form::Comment
        } else {
            Form::Other
        },
        data: data.freeze(),
        raw,
    }
}

/// The payload of one line that is exactly `data: …` LF LF.
fn canonical_data(raw: &Bytes) -> Option<Bytes> {
    let line = raw.strip_prefix(b"data: ")?.strip_suffix(b"\n\n")?;
    (!line.is_empty()).then(|| raw.slice_ref(line))
}

fn lines(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let end = memchr2(b'\n', b'\r', bytes).unwrap_or(bytes.len());
        let (line, rest) = bytes.split_at(end);
        bytes = rest
            .strip_prefix(b"\r\n")
            .or_else(|| rest.strip_prefix(b"\n"))
            .or_else(|| rest.strip_prefix(b"\r"))
            .unwrap_or_default();
        Some(line)
    })
}

/// "If the line contains a colon: collect the characters before it as field, those after it as value; if value starts
/// with a space, remove it." A line that starts with a colon is a comment: its field name is empty.
fn field(line: &[u8]) -> (&[u8], &[u8]) {
    match line.iter().position(|&byte| byte == b':') {
        Some(colon) => {
            let (name, value) = line.split_at(colon);
            let value = value.strip_prefix(b":").unwrap_or(value);
            (name, value.strip_prefix(b" ").unwrap_or(value))
        }
        None => (line, b""),
    }
}

fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
}

const BOM: &[u8] = b"\xEF\xBB\xBF";

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1 << 20;

    fn cut(pieces: &[&[u8]]) -> Vec<(String, String)> {
        let mut events = Events::new(LIMIT);
        let mut seen = Vec::new();
        for piece in pieces {
            events.push(Bytes::copy_from_slice(piece));
            while let Some(frame) = events.next() {
                seen.push(frame.unwrap());
            }
        }
        seen.extend(events.rest());
        seen.iter()
            .filter(|frame| frame.form != Form::Comment)
            .map(|frame| {
                let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
                (text(&frame.event), text(&frame.data))
            })
            .collect()
    }

    const STREAMS: &[&str] = &[
        "data: {\"a\":1}\n\ndata: [DONE]\n\n",
        "event: ping\r\ndata: {}\r\n\r\nevent: x\r\ndata: é\u{2028}ü\r\n\r\n",
        "data:one\rdata: two\r\revent:e\rdata\r\r",
        "\u{FEFF}: PROCESSING\n\n\n\n\ndata: a\ndata: b\n\nid: 1\nretry: 5\n\ndata: [DONE]",
        "data: mixed\r\n\ndata: ends\n\r\ndata: x\n\n",
    ];

    #[test]
    fn every_two_way_cut_gives_the_same_events() {
        for stream in STREAMS {
            let bytes = stream.as_bytes();
            let whole = cut(&[bytes]);
            assert!(!whole.is_empty());
            for at in 0..=bytes.len() {
                assert_eq!(
                    cut(&[&bytes[..at], &bytes[at..]]),
                    whole,
                    "cut at {at} of {stream:?}"
                );
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(cut(&single), whole, "byte by byte: {stream:?}");
        }
    }

    #[test]
    fn fields_are_read_as_the_standard_says() {
        assert_eq!(
            cut(&[STREAMS[2].as_bytes()]),
            [("".into(), "one\ntwo".into())]
        );
        assert_eq!(
            cut(&[STREAMS[3].as_bytes()]),
            [("".into(), "a\nb".into()), ("".into(), "[DONE]".into())]
        );
        assert_eq!(
            cut(&[STREAMS[1].as_bytes()])[1],
            ("x".into(), "é\u{2028}ü".into())
        );
    }

    #[test]
    fn an_event_is_out_with_its_blank_line() {
        let mut events = Events::new(LIMIT);
        events.push(Bytes::from_static(b"data: 1\n\nda"));
        let frame = events.next().unwrap().unwrap();
        assert_eq!(
            (&*frame.raw, &*frame.data, frame.form),
            (&b"data: 1\n\n"[..], &b"1"[..], Form::Canonical)
        );
        assert!(events.next().is_none());
        events.push(Bytes::from_static(b"ta: 2\r\n\r"));
        assert_eq!(&*events.next().unwrap().unwrap().data, b"2");
        for none in ["\n: c\n\n", "data: \n\n", "event: e\ndata:\n\n"] {
            events.push(Bytes::from_static(none.as_bytes()));
            assert_eq!(events.next().unwrap().unwrap().form, Form::Comment);
        }
    }

    #[test]
    fn an_endless_event_is_an_error_before_it_is_stored() {
        let mut events = Events::new(64);
        let mut failed = false;
        for _ in 0..10 {
            events.push(Bytes::from_static(b"data: 0123456789"));
            failed |= matches!(events.next(), Some(Err(_)));
            assert!(events.unread.bytes().len() <= 64 + 16);
        }
        assert!(failed);
    }

    // Found by fuzzing: behind blank lines that had come alone, a byte order mark was taken for the stream's first.
    #[test]
    fn a_byte_order_mark_counts_at_the_start_alone() {
        let stream = "\r\n\u{FEFF}data: 1\n\ndata: 2\n\n".as_bytes();
        for at in 0..=stream.len() {
            let (first, rest) = stream.split_at(at);
            let seen = cut(&[first, rest]);
            let told: Vec<_> = seen.iter().map(|(_, data)| data.as_str()).collect();
            assert_eq!(told, ["2"], "cut at {at}");
        }
    }

    // Found by fuzzing.
    #[test]
    fn an_event_is_as_long_wherever_its_last_crlf_is_cut() {
        let event = b"data: 12\r\n\r\n";
        for (limit, fits) in [(event.len() - 1, true), (event.len() - 2, false)] {
            for at in 0..=event.len() {
                let mut events = Events::new(limit);
                let (first, rest) = event.split_at(at);
                let seen: Vec<_> = [first, rest]
                    .into_iter()
                    .filter_map(|piece| {
                        events.push(Bytes::from_static(piece));
                        events.next()
                    })
                    .collect();
                assert_eq!(seen.len(), 1, "cut at {at}");
                assert_eq!(seen[0].is_ok(), fits, "cut at {at}");
            }
        }
    }

    #[test]
    fn a_long_event_in_small_reads_is_searched_once() {
        let mut events = Events::new(8 << 20);
        let mut event = b"data: ".to_vec();
        event.resize(1 << 20, b'x');
        event.extend(b"\n\n");
        for piece in event.chunks(16) {
            events.push(Bytes::copy_from_slice(piece));
            if let Some(frame) = events.next() {
                assert_eq!(frame.unwrap().data.len(), (1 << 20) - 6);
                return;
            }
        }
        panic!("no event");
    }
}
