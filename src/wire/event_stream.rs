//! `application/vnd.amazon.eventstream`, cut incrementally.
//!
//! Source: <https://docs.aws.amazon.com/lexv2/latest/dg/event-stream-encoding.html>; the ten header types and the meaning of the
//! headers: <https://smithy.io/2.0/aws/amazon-eventstream.html>. All numbers are big-endian, all lengths count bytes:
//!
//! ```text
//!  0        4        8        12             12+H                 N-4      N
//!  ├────────┼────────┼────────┼── … ──────────┼── … ───────────────┼────────┤
//!  │ N: u32 │ H: u32 │ CRC32  │ headers       │ payload            │ CRC32  │
//!  │        │        │ of 0‥8 │               │ N - H - 16 bytes   │ of 0‥N-4
//!  └────────┴────────┴────────┴── … ──────────┴── … ───────────────┴────────┘
//!                             │
//!                             └▶ name length: u8 ≥ 1 │ name │ type: u8 │ value, and so on until H is used up
//!
//!  type  0 true   1 false   2 u8   3 u16   4 u32   5 u64   6 u16 length, bytes   7 u16 length, text   8 u64 time   9 16 bytes
//! ```
//!
//! Invariants: `16 + H ≤ N ≤ max_message_bytes` is checked, after the CRC that vouches for both, before a byte beyond the prelude is
//! waited for. Nothing of a message is told before its last CRC has been checked. There is no way to find the next message behind a
//! broken one: the first error is the last word.

use bytes::Bytes;

use crate::{
    error::Error,
    wire::{Form, Frame, unread::Unread},
};

/// Cuts a byte stream into messages.
#[derive(Debug)]
pub struct EventStream {
    unread: Unread,
    /// Of the message at the start of `unread`, once it is known.
    prelude: Option<Prelude>,
    max_message_bytes: usize,
}

/// Checked: `16 + headers ≤ total`.
#[derive(Clone, Copy, Debug)]
struct Prelude {
    total: usize,
    headers: usize,
}

impl EventStream {
    pub fn new(max_message_bytes: usize) -> Self {
        Self {
            unread: Unread::default(),
            prelude: None,
            max_message_bytes,
        }
    }

    /// Takes one read. Call [`EventStream::next`] until it answers `None` before the next push.
    pub fn push(&mut self, input: Bytes) {
        self.unread.push(input);
    }

    /// The next complete message. `None`: more bytes are needed.
    pub fn next(&mut self) -> Option<Result<Frame, Error>> {
        let frame = self.try_next();
        if frame.is_err() {
            self.unread.clear();
            self.prelude = None;
        }
        frame.transpose()
    }

    /// What is left when the stream has ended: half a message is no message.
    pub fn rest(&mut self) -> Option<Error> {
        let cut = !self.unread.bytes().is_empty();
        self.unread.clear();
        self.prelude = None;
        cut.then(|| Error::broken("The provider's stream ended inside a message."))
    }

    fn try_next(&mut self) -> Result<Option<Frame>, Error> {
        if self.prelude.is_none() {
            self.prelude = Prelude::read(self.unread.bytes(), self.max_message_bytes)?;
        }
        let whole = |prelude: &Prelude| prelude.total <= self.unread.bytes().len();
        match self.prelude.take_if(|prelude| whole(prelude)) {
            Some(prelude) => read_message(self.unread.take(prelude.total), prelude).map(Some),
            None => {
                self.unread.keep();
                Ok(None)
            }
        }
    }
}

impl Prelude {
    /// `None`: more bytes are needed.
    fn read(bytes: &[u8], max_message_bytes: usize) -> Result<Option<Self>, Error> {
        let Some((prelude, _)) = bytes.split_first_chunk::<PRELUDE>() else {
            return Ok(None);
        };
        let [total, headers] = [0, 4].map(|at| u32_at(prelude, at).map_or(0, to_usize));
        // "The prelude has its own CRC so that corrupted byte-length information can be detected immediately."
        check_sum(prelude)?;
        if total > max_message_bytes {
            return Err(Error::broken(format!(
                "The provider sent a stream message of more than {max_message_bytes} bytes."
            )));
        }
        if headers
            .checked_add(OVERHEAD)
            .is_none_or(|least| least > total)
        {
            return Err(malformed());
        }
        Ok(Some(Self { total, headers }))
    }
}

fn read_message(raw: Bytes, prelude: Prelude) -> Result<Frame, Error> {
    check_sum(&raw)?;
    let end = PRELUDE + prelude.headers;
    let headers = raw.get(PRELUDE..end).ok_or_else(malformed)?;
    let payload = raw.get(end..raw.len() - SUM).ok_or_else(malformed)?;
    let told = Told::read(headers)?;
    let text = |text: Option<&[u8]>| text.map_or_else(Bytes::new, |text| raw.slice_ref(text));
    // ":message-type: always one of event, exception, error."
    let (event, data, form) = match told.message_type {
        Some(b"event") => (told.event_type, payload, Form::Other),
        Some(b"exception") => (told.exception_type, payload, Form::Exception),
        // "Unmodeled errors … are represented by :error-code and :error-message"; their payload is empty.
        Some(b"error") => (
            told.error_code,
            told.error_message.unwrap_or_default(),
            Form::Error,
        ),
        _ => return Err(malformed()),
    };
    Ok(Frame {
        event: text(event),
        data: text(Some(data)),
        form,
        raw: raw.clone(),
    })
}

/// The headers that mean something here, as text.
#[derive(Default)]
struct Told<'a> {
    message_type: Option<&'a [u8]>,
    event_type: Option<&'a [u8]>,
    exception_type: Option<&'a [u8]>,
    error_code: Option<&'a [u8]>,
    error_message: Option<&'a [u8]>,
}

impl<'a> Told<'a> {
    /// Reads a message's headers, all of them: one of a type that does not exist hides where the next begins.
    fn read(mut headers: &'a [u8]) -> Result<Self, Error> {
        let mut told = Self::default();
        while !headers.is_empty() {
            let name = read_name(&mut headers).ok_or_else(malformed)?;
            let value = read_value(&mut headers).ok_or_else(malformed)?;
            let place = match name {
                b":message-type" => &mut told.message_type,
                b":event-type" => &mut told.event_type,
                b":exception-type" => &mut told.exception_type,
                b":error-code" => &mut told.error_code,
                b":error-message" => &mut told.error_message,
                _ => continue,
            };
            // "Any given header may appear only once": two readers could take different ones.
            if place.replace(value).is_some() {
                return Err(malformed());
            }
        }
        Ok(told)
    }
}

fn read_name<'a>(headers: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = *headers.split_off_first()?;
    headers
        .split_off(..usize::from(length))
        .filter(|name| !name.is_empty())
}

/// The bytes of a header's value; of a boolean none.
fn read_value<'a>(headers: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = match *headers.split_off_first()? {
        TRUE | FALSE => 0,
        BYTE => 1,
        SHORT => 2,
        INTEGER => 4,
        LONG | TIMESTAMP => 8,
        BYTES | TEXT => {
            let (length, rest) = headers.split_first_chunk()?;
            *headers = rest;
            usize::from(u16::from_be_bytes(*length))
        }
        UUID => 16,
        _ => return None,
    };
    headers.split_off(..length)
}

/// Checks that `bytes` end in the CRC32 of what stands before.
fn check_sum(bytes: &[u8]) -> Result<(), Error> {
    let (bytes, sum) = bytes.split_last_chunk::<SUM>().ok_or_else(malformed)?;
    if crc32fast::hash(bytes) == u32::from_be_bytes(*sum) {
        Ok(())
    } else {
        Err(Error::broken(
            "The provider's stream was corrupted on its way.",
        ))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let (number, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u32::from_be_bytes(*number))
}

/// What does not fit is over every limit.
fn to_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn malformed() -> Error {
    Error::broken("The provider's stream holds a message that its framing does not allow.")
}

const SUM: usize = 4;
/// Two lengths and their sum.
const PRELUDE: usize = 8 + SUM;
/// "Total message overhead, including the prelude and both checksums, is 16 bytes."
const OVERHEAD: usize = PRELUDE + SUM;

const TRUE: u8 = 0;
const FALSE: u8 = 1;
const BYTE: u8 = 2;
const SHORT: u8 = 3;
const INTEGER: u8 = 4;
const LONG: u8 = 5;
const BYTES: u8 = 6;
const TEXT: u8 = 7;
const TIMESTAMP: u8 = 8;
const UUID: u8 = 9;

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1 << 20;

    fn message(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, value) in headers {
            block.push(u8::try_from(name.len()).unwrap());
            block.extend(name.as_bytes());
            block.push(TEXT);
            block.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
            block.extend(value.as_bytes());
        }
        framed(&block, payload)
    }

    fn framed(headers: &[u8], payload: &[u8]) -> Vec<u8> {
        let total = u32::try_from(headers.len() + payload.len() + OVERHEAD).unwrap();
        let mut bytes = total.to_be_bytes().to_vec();
        bytes.extend(u32::try_from(headers.len()).unwrap().to_be_bytes());
        bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
        bytes.extend(headers);
        bytes.extend(payload);
        bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
        bytes
    }

    fn stream() -> Vec<u8> {
        [
            message(
                &[
                    (":event-type", "contentBlockDelta"),
                    (":content-type", "application/json"),
                    (":message-type", "event"),
                ],
                "{\"delta\":{\"text\":\"é\"}}".as_bytes(),
            ),
            message(
                &[
                    (":message-type", "exception"),
                    (":exception-type", "throttlingException"),
                ],
                b"{\"message\":\"busy\"}",
            ),
            message(&[(":message-type", "event")], b""),
        ]
        .concat()
    }

    type Seen = (String, String, Form);

    /// The messages up to the first error, and whether there was one.
    fn cut(pieces: &[&[u8]]) -> (Vec<Seen>, bool) {
        let mut messages = EventStream::new(LIMIT);
        let mut seen = Vec::new();
        for piece in pieces {
            messages.push(Bytes::copy_from_slice(piece));
            while let Some(frame) = messages.next() {
                let Ok(frame) = frame else {
                    return (seen, true);
                };
                let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
                seen.push((text(&frame.event), text(&frame.data), frame.form));
            }
        }
        (seen, messages.rest().is_some())
    }

    #[test]
    fn every_two_way_cut_gives_the_same_messages() {
        let stream = stream();
        let whole = cut(&[&stream]);
        let told = |event: &str, data: &str, form| (event.to_owned(), data.to_owned(), form);
        assert_eq!(
            whole,
            (
                vec![
                    told(
                        "contentBlockDelta",
                        "{\"delta\":{\"text\":\"é\"}}",
                        Form::Other
                    ),
                    told(
                        "throttlingException",
                        "{\"message\":\"busy\"}",
                        Form::Exception
                    ),
                    told("", "", Form::Other),
                ],
                false
            )
        );
        for at in 0..=stream.len() {
            let (head, tail) = stream.split_at(at);
            assert_eq!(cut(&[head, tail]), whole, "cut at {at}");
        }
        assert_eq!(cut(&stream.chunks(1).collect::<Vec<_>>()), whole);
    }

    #[test]
    fn a_stream_that_ends_inside_a_message_is_an_error() {
        let stream = stream();
        let (whole, _) = cut(&[&stream]);
        let lengths =
            std::iter::successors(Some(0), |&end| Some(end + to_usize(u32_at(&stream, end)?)));
        let ends: Vec<usize> = lengths.take(3).collect();
        for at in 0..stream.len() {
            let (seen, failed) = cut(&[&stream[..at]]);
            assert!(whole.starts_with(&seen));
            assert_eq!(failed, !ends.contains(&at), "ended at {at}");
        }
    }

    #[test]
    fn a_corrupted_byte_is_an_error_and_never_another_message() {
        let stream = stream();
        let (whole, _) = cut(&[&stream]);
        for at in 0..stream.len() {
            for flip in [0x01, 0x80, 0xFF] {
                let mut corrupted = stream.clone();
                corrupted[at] ^= flip;
                for pieces in [vec![&corrupted[..]], corrupted.chunks(1).collect()] {
                    let (seen, failed) = cut(&pieces);
                    assert!(failed, "byte {at} ^ {flip}");
                    assert!(whole.starts_with(&seen), "byte {at} ^ {flip}");
                }
            }
        }
    }

    #[test]
    fn hostile_lengths_are_refused_with_the_prelude() {
        for (total, headers) in [
            (0, 0),
            (15, 0),
            (16, 1),
            (u32::MAX, 0),
            (u32::MAX, u32::MAX),
            (1 << 20, u32::MAX),
            (64, 49),
            ((1 << 20) + 1, 0),
        ] {
            let mut prelude = u32::to_be_bytes(total).to_vec();
            prelude.extend(headers.to_be_bytes());
            prelude.extend(crc32fast::hash(&prelude).to_be_bytes());
            let mut messages = EventStream::new(LIMIT);
            messages.push(Bytes::from(prelude));
            assert!(messages.next().unwrap().is_err(), "{total} {headers}");
            assert!(messages.unread.bytes().is_empty());
        }
    }

    #[test]
    fn headers_that_break_their_grammar_are_an_error() {
        let typed: &[u8] = b"\x0d:message-type\x07\x00\x05event";
        for more in [
            &b"\x00\x07\x00\x00"[..],
            b"\x01a",
            b"\x01a\x0A",
            b"\x01a\xFF",
            b"\xFFa\x00",
            b"\x01a\x07\x00",
            b"\x01a\x07\xFF\xFFb",
            b"\x01a\x09short",
            b"\x01a\x05\x00",
            typed,
        ] {
            let bytes = framed(&[typed, more].concat(), b"{}");
            assert_eq!(cut(&[&bytes]), (vec![], true), "{more:?}");
        }
        for untold in [
            &b""[..],
            b"\x0d:message-type\x07\x00\x05other",
            b"\x0d:message-type\x00",
        ] {
            assert_eq!(cut(&[&framed(untold, b"{}")]), (vec![], true));
        }
    }

    /// From the test vectors that the AWS SDKs share, as botocore's `tests/unit/test_eventstream.py` has them.
    #[test]
    fn the_vectors_of_the_sdks_are_read() {
        let all_types = b"\x00\x00\x00\x62\x00\x00\x00\x52\x03\xb5\xcb\x9c\
            \x010\x00\x011\x01\x012\x02\x02\x013\x03\x00\x03\x014\x04\x00\x00\x00\x04\x015\x05\x00\x00\x00\x00\x00\x00\x00\x05\
            \x016\x06\x00\x05bytes\x017\x07\x00\x04utf8\x018\x08\x00\x00\x00\x00\x00\x00\x00\x08\x019\x090123456789abcdef\x63\x35\x36\x71";
        let prelude = Prelude::read(all_types, LIMIT).unwrap().unwrap();
        assert_eq!((prelude.total, prelude.headers), (0x62, 0x52));
        check_sum(all_types).unwrap();
        Told::read(&all_types[PRELUDE..PRELUDE + prelude.headers]).unwrap();

        let error =
            b"\x00\x00\x00\x52\x00\x00\x00\x42\xbf\x23\x63\x7e\x0d:message-type\x07\x00\x05error\
            \x0b:error-code\x07\x00\x04code\x0e:error-message\x07\x00\x07message\x6b\x6c\xea\x3d";
        let told = ("code".to_owned(), "message".to_owned(), Form::Error);
        assert_eq!(cut(&[error]), (vec![told], false));

        let initial = b"\x00\x00\x00~\x00\x00\x00O\xc5\xa3\xdd\xc6\r:message-type\x07\x00\x05event\
            \x0b:event-type\x07\x00\x10initial-response\r:content-type\x07\x00\ttext/json{\"InitialResponse\": \"sometext\"}\xf6\x98$\x83";
        assert_eq!(cut(&[initial]).0[0].0, "initial-response");
    }

    #[test]
    fn a_message_in_one_read_is_not_copied() {
        let read = Bytes::from(stream());
        let mut messages = EventStream::new(LIMIT);
        messages.push(read.clone());
        let frame = messages.next().unwrap().unwrap();
        assert_eq!(frame.raw.as_ptr(), read.as_ptr());
    }

    #[test]
    fn a_message_is_stored_up_to_its_limit() {
        let long = message(&[(":message-type", "event")], &[b'x'; 100]);
        let mut messages = EventStream::new(long.len());
        messages.push(Bytes::from(long.clone()));
        assert!(messages.next().unwrap().is_ok());
        let mut messages = EventStream::new(long.len() - 1);
        messages.push(Bytes::from(long));
        assert!(messages.next().unwrap().is_err());
    }
}
