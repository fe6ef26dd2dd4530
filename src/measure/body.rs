//! The framing of an answer's body, RFC 9112 §6 and §7, cut anywhere: a length, chunks, or the connection's end.

use bytes::{Buf, Bytes, BytesMut};

use super::answer::Failure;

/// How much of a body is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    Length(u64),
    Chunked(Chunk),
    /// "The message body length is determined by the number of octets received prior to the server closing the connection."
    UntilClose,
}

/// Where in a chunked body the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    Size,
    Data(u64),
    /// The line end behind a chunk's data.
    DataEnd,
    /// Trailer fields, and the blank line behind them.
    Trailer,
    End,
}

impl Body {
    pub fn is_over(self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunk::End))
    }

    /// The next piece of what is in `input`. `None`: more is needed, or the body is over.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Bytes>, Failure> {
        match self {
            Self::Length(left) => Ok(take(input, left)),
            Self::UntilClose => Ok((!input.is_empty()).then(|| input.split().freeze())),
            Self::Chunked(chunk) => chunk.next(input),
        }
    }
}

impl Chunk {
    fn next(&mut self, input: &mut BytesMut) -> Result<Option<Bytes>, Failure> {
        loop {
            match self {
                Self::Data(left) => {
                    let piece = take(input, left);
                    if *left == 0 {
                        *self = Self::DataEnd;
                    }
                    return Ok(piece);
                }
                Self::End => return Ok(None),
                Self::Size | Self::DataEnd | Self::Trailer => {
                    let Some(end) = memchr::memchr(b'\n', input) else {
                        let is_long = input.len() > MAX_LINE_BYTES;
                        return if is_long { Err(BROKEN) } else { Ok(None) };
                    };
                    let line = input.get(..end).unwrap_or_default().trim_ascii();
                    *self = self.after(line)?;
                    input.advance(end + 1);
                }
            }
        }
    }

    fn after(self, line: &[u8]) -> Result<Self, Failure> {
        match self {
            Self::Size => match size(line).ok_or(BROKEN)? {
                0 => Ok(Self::Trailer),
                size => Ok(Self::Data(size)),
            },
            Self::DataEnd if line.is_empty() => Ok(Self::Size),
            Self::DataEnd => Err(BROKEN),
            Self::Trailer if line.is_empty() => Ok(Self::End),
            Self::Trailer => Ok(Self::Trailer),
            Self::Data(_) | Self::End => Ok(self),
        }
    }
}

/// `chunk-size [ chunk-ext ]`, in hexadecimal digits.
fn size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|&byte| byte == b';').next()?.trim_ascii();
    let digits = std::str::from_utf8(digits).ok()?;
    u64::from_str_radix(digits, 16).ok()
}

fn take(input: &mut BytesMut, left: &mut u64) -> Option<Bytes> {
    let length = usize::try_from(*left)
        .unwrap_or(usize::MAX)
        .min(input.len());
    *left -= length as u64;
    (length > 0).then(|| input.split_to(length).freeze())
}

const BROKEN: Failure = Failure::Invalid("a chunk is not framed as one");

/// A chunk's size, or a trailer field.
const MAX_LINE_BYTES: usize = 16 << 10;
