//! JSON lines, cut incrementally: one JSON value a line.
//!
//! Implements <https://github.com/ndjson/ndjson-spec> as a reader that is as lenient as the spec allows: lines end in LF or CRLF,
//! the last one may lack its end, blank lines are skipped. A line end cannot stand inside a JSON value that is written on one line: a
//! string holds it escaped. Whether a line is JSON is for its reader to find out.

use bytes::Bytes;
use memchr::memchr;

use crate::{
    error::Error,
    wire::{Form, Frame, unread::Unread},
};

/// Cuts a byte stream into lines.
#[derive(Debug)]
pub struct JsonLines {
    unread: Unread,
    /// Bytes of the unfinished line that are known to hold no line end: no byte is searched twice.
    searched: usize,
    max_line_bytes: usize,
}

impl JsonLines {
    pub fn new(max_line_bytes: usize) -> Self {
        Self {
            unread: Unread::default(),
            searched: 0,
            max_line_bytes,
        }
    }

    /// Takes one read. Call [`JsonLines::next`] until it answers `None` before the next push.
    pub fn push(&mut self, input: Bytes) {
        self.unread.push(input);
    }

    /// The next line that is not blank. `None`: more bytes are needed.
    pub fn next(&mut self) -> Option<Result<Frame, Error>> {
        loop {
            let Some(end) = self.find_end() else {
                return self.keep_rest();
            };
            self.searched = 0;
            let raw = self.unread.take(end);
            if raw.len() > self.max_line_bytes {
                return Some(Err(self.too_long()));
            }
            if let Some(frame) = read_line(raw) {
                return Some(Ok(frame));
            }
        }
    }

    /// What is left when the stream has ended: a line whose end is missing.
    pub fn rest(&mut self) -> Option<Frame> {
        self.searched = 0;
        read_line(self.unread.take(usize::MAX))
    }

    /// The length of the first line, its end included.
    fn find_end(&mut self) -> Option<usize> {
        let unread = self.unread.bytes();
        let found = memchr(b'\n', unread.get(self.searched..)?);
        let end = found.map(|offset| self.searched + offset + 1);
        self.searched = unread.len();
        end
    }

    fn keep_rest(&mut self) -> Option<Result<Frame, Error>> {
        if self.unread.bytes().len() > self.max_line_bytes {
            return Some(Err(self.too_long()));
        }
        self.unread.keep();
        None
    }

    fn too_long(&mut self) -> Error {
        self.unread.clear();
        self.searched = 0;
        let limit = self.max_line_bytes;
        Error::broken(format!(
            "The provider sent a stream line of more than {limit} bytes."
        ))
    }
}

/// `None`: the line is blank.
fn read_line(raw: Bytes) -> Option<Frame> {
    let data = raw.trim_ascii();
    (!data.is_empty()).then(|| Frame {
        event: Bytes::new(),
        data: raw.slice_ref(data),
        form: Form::Other,
        raw: raw.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1 << 20;
    const STREAMS: &[&str] = &[
        "{\"a\":1}\n{\"a\":\"é\"}\n",
        "{\"a\":1}\r\n\r\n{\"a\":2}\r\n",
        "\n\n {\"a\":1} \n\t\n[2]\nnull",
        "{\"a\":\"\u{2028}\\n\"}\r\n{\"b\":{}}",
    ];

    fn cut(pieces: &[&[u8]]) -> Vec<String> {
        let mut lines = JsonLines::new(LIMIT);
        let mut seen = Vec::new();
        for piece in pieces {
            lines.push(Bytes::copy_from_slice(piece));
            while let Some(frame) = lines.next() {
                seen.push(frame.unwrap());
            }
        }
        seen.extend(lines.rest());
        assert!(lines.rest().is_none());
        seen.iter()
            .map(|frame| String::from_utf8(frame.data.to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn every_two_way_cut_gives_the_same_lines() {
        for stream in STREAMS {
            let bytes = stream.as_bytes();
            let whole = cut(&[bytes]);
            let expected: Vec<&str> = stream.lines().map(str::trim).collect();
            let expected: Vec<&str> = expected.into_iter().filter(|s| !s.is_empty()).collect();
            assert_eq!(whole, expected);
            for at in 0..=bytes.len() {
                assert_eq!(cut(&[&bytes[..at], &bytes[at..]]), whole, "{at} {stream:?}");
            }
            assert_eq!(cut(&bytes.chunks(1).collect::<Vec<_>>()), whole);
        }
    }

    #[test]
    fn a_truncated_stream_gives_a_part_of_its_lines_and_half_of_the_next() {
        for stream in STREAMS {
            let whole = cut(&[stream.as_bytes()]);
            for at in 0..stream.len() {
                let Some(head) = stream.get(..at) else {
                    continue;
                };
                let mut lines = cut(&[head.as_bytes()]);
                let last = lines.pop();
                assert!(whole.starts_with(&lines));
                assert!(last.is_none_or(|last| whole[lines.len()].starts_with(&last)));
            }
        }
    }

    #[test]
    fn a_line_is_out_with_its_end_and_not_copied() {
        let read = Bytes::from_static(b"{\"a\":1}\r\n{\"b\"");
        let mut lines = JsonLines::new(LIMIT);
        lines.push(read.clone());
        let frame = lines.next().unwrap().unwrap();
        assert_eq!(
            (&*frame.raw, &*frame.data),
            (&b"{\"a\":1}\r\n"[..], &b"{\"a\":1}"[..])
        );
        assert_eq!(frame.data.as_ptr(), read.as_ptr());
        assert!(lines.next().is_none());
        lines.push(Bytes::from_static(b":2}\n"));
        assert_eq!(&*lines.next().unwrap().unwrap().data, b"{\"b\":2}");
    }

    #[test]
    fn an_endless_line_is_an_error_before_it_is_stored() {
        let mut lines = JsonLines::new(64);
        let mut failed = false;
        for _ in 0..10 {
            lines.push(Bytes::from_static(b"{\"a\":\"0123456789"));
            failed |= matches!(lines.next(), Some(Err(_)));
            assert!(lines.unread.bytes().len() <= 64 + 16);
        }
        assert!(failed);
        let mut lines = JsonLines::new(64);
        lines.push(Bytes::from(format!("{}\n", "x".repeat(64))));
        assert!(lines.next().unwrap().is_err());
    }

    #[test]
    fn no_byte_is_searched_twice() {
        let mut lines = JsonLines::new(LIMIT);
        for length in 1..100 {
            lines.push(Bytes::from_static(b"x"));
            assert!(lines.next().is_none());
            assert_eq!(lines.searched, length);
        }
    }
}
