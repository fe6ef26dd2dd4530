//! How much of what comes behind a head is still its request's. RFC 9112, sections 6.3 and 7.1.

use super::Framing;

/// What is left of a request on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// So many bytes; 0: it is over.
    Bytes(u64),
    Chunks(Chunks),
    /// All that comes.
    Open,
}

/// Where in a body of chunks the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunks {
    /// In a chunk's size, of which so much was read.
    Size {
        size: u64,
        digits: u8,
    },
    /// Behind a size, up to its line's end.
    Extension {
        size: u64,
    },
    SizeEnd {
        size: u64,
    },
    Data {
        left: u64,
    },
    /// Between a chunk's data and the end of its line.
    DataEnd,
    DataLineEnd,
    /// At a line behind the last chunk.
    Trailer,
    InTrailer,
    TrailerEnd,
    LastEnd,
    /// It is no body of chunks: whoever reads it will say so, and nothing behind it is a request.
    Broken,
}

impl From<Framing> for Extent {
    fn from(framing: Framing) -> Self {
        match framing {
            Framing::Length(length) => Self::Bytes(length),
            Framing::Chunked => Self::Chunks(FIRST),
            Framing::Websocket => Self::Open,
        }
    }
}

impl Extent {
    pub fn is_over(&self) -> bool {
        *self == Self::Bytes(0)
    }

    /// How many of the bytes that come next belong to the request; they are then counted off.
    pub fn take(&mut self, bytes: &[u8]) -> usize {
        match self {
            Self::Bytes(left) => {
                let own = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left = left.saturating_sub(own as u64);
                own
            }
            Self::Chunks(chunks) => {
                let own = chunks.take(bytes);
                if let Some(own) = own {
                    *self = Self::Bytes(0);
                    return own;
                }
                bytes.len()
            }
            Self::Open => bytes.len(),
        }
    }
}

impl Chunks {
    /// Goes over `bytes`; where the body ends among them, if it does.
    fn take(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut rest = bytes;
        while let Some((&byte, behind)) = rest.split_first() {
            rest = behind;
            match *self {
                Self::Broken => return None,
                Self::LastEnd if byte == b'\n' => return Some(bytes.len() - rest.len()),
                Self::Data { left } => {
                    // One byte of it has been taken off.
                    let more = usize::try_from(left.saturating_sub(1)).unwrap_or(usize::MAX);
                    let more = more.min(rest.len());
                    rest = rest.get(more..).unwrap_or_default();
                    let left = left.saturating_sub(1).saturating_sub(more as u64);
                    *self = match left {
                        0 => Self::DataEnd,
                        left => Self::Data { left },
                    };
                }
                state => *self = state.after(byte),
            }
        }
        None
    }

    /// The state behind `byte`, outside of data.
    fn after(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::Size { size, digits }, _) => size_after(size, digits, byte),
            (Self::Extension { size }, b'\r') => Self::SizeEnd { size },
            (Self::Extension { size }, byte) if byte != b'\n' => Self::Extension { size },
            (Self::SizeEnd { size: 0 }, b'\n') => Self::Trailer,
            (Self::SizeEnd { size }, b'\n') => Self::Data { left: size },
            (Self::DataEnd, b'\r') => Self::DataLineEnd,
            (Self::DataLineEnd, b'\n') => FIRST,
            (Self::Trailer, b'\r') => Self::LastEnd,
            (Self::InTrailer, b'\r') => Self::TrailerEnd,
            (Self::Trailer | Self::InTrailer, byte) if byte != b'\n' => Self::InTrailer,
            (Self::TrailerEnd, b'\n') => Self::Trailer,
            _ => Self::Broken,
        }
    }
}

fn size_after(size: u64, digits: u8, byte: u8) -> Chunks {
    let digit = char::from(byte).to_digit(16);
    match (digit, byte) {
        (Some(digit), _) if digits < MAX_DIGITS => Chunks::Size {
            size: (size << 4) | u64::from(digit),
            digits: digits.saturating_add(1),
        },
        (None, b'\r') if digits > 0 => Chunks::SizeEnd { size },
        (None, b';' | b' ' | b'\t') if digits > 0 => Chunks::Extension { size },
        _ => Chunks::Broken,
    }
}

const FIRST: Chunks = Chunks::Size { size: 0, digits: 0 };
/// Of a chunk's size: 16 would be as many as a number holds.
const MAX_DIGITS: u8 = 15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_of_chunks_ends_at_its_own_end_wherever_it_is_cut() {
        for body in [
            &b"0\r\n\r\n"[..],
            b"5\r\nhello\r\n0\r\n\r\n",
            b"5;name=\"value\";x\r\nhello\r\n00\r\n\r\n",
            b"0a\r\n0123456789\r\n1 \r\nx\r\n0;last\r\ntrailer: a\r\nb: c\r\n\r\n",
        ] {
            let wire = [body, b"GET /next HTTP/1.1\r\n\r\n"].concat();
            for cut in 0..wire.len() {
                let mut extent = Extent::from(Framing::Chunked);
                let (first, second) = wire.split_at(cut);
                let own = extent.take(first);
                let own = own
                    + if extent.is_over() {
                        0
                    } else {
                        extent.take(second)
                    };
                assert_eq!(own, body.len(), "{cut}");
                assert!(extent.is_over());
            }
        }
    }

    #[test]
    fn nothing_is_a_request_behind_broken_chunks() {
        for body in [
            &b"\r\n\r\n"[..],
            b"5\nhello\r\n0\r\n\r\n",
            b"5;a\nhello\r\n0\r\n\r\n",
            b"-5\r\nhello\r\n0\r\n\r\n",
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b"5\r\nhelloX\r\n0\r\n\r\n",
            b"ffffffffffffffff\r\n",
            b"0\r\n\n",
        ] {
            let mut extent = Extent::from(Framing::Chunked);
            assert_eq!(extent.take(body), body.len());
            assert!(!extent.is_over());
        }
    }

    #[test]
    fn a_length_is_counted_off() {
        let mut extent = Extent::from(Framing::Length(7));
        assert_eq!((extent.take(b"1234"), extent.is_over()), (4, false));
        assert_eq!((extent.take(b"567GET"), extent.is_over()), (3, true));
        assert_eq!(extent.take(b"GET"), 0);
        let mut open = Extent::from(Framing::Websocket);
        assert_eq!((open.take(b"abc"), open.is_over()), (3, false));
    }
}
