//! The frames of an HTTP/2 client, followed as far as to know whether a head has begun and is not there yet. What is in them is
//! read elsewhere.
//!
//! ```text
//!  preface (24) │ length (24 bits) type flags stream (32 bits) │ payload of that length │ …
//! ```
//!
//! A head is a HEADERS frame and the CONTINUATION frames behind it, up to the one with END_HEADERS; no other frame stands
//! between them. RFC 9113, sections 4.1, 4.3 and 6.10.

/// Where in its frames a connection is.
#[derive(Debug)]
pub struct Frames {
    /// Of the present frame's own nine bytes, those that are here.
    start: [u8; START],
    have: usize,
    /// Bytes of the present frame's payload, or of the preface, that are to come.
    left: usize,
    head: Head,
    /// Heads that are complete.
    complete: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Head {
    None,
    /// More frames of it follow the present one.
    Open,
    /// The present frame is its last.
    Last,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            start: [0; START],
            have: 0,
            left: PREFACE_BYTES,
            head: Head::None,
            complete: 0,
        }
    }
}

impl Frames {
    /// Which head is on its way, by its number.
    pub fn head(&self) -> Option<u64> {
        (self.head != Head::None).then_some(self.complete)
    }

    /// Takes note of what was read.
    pub fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let payload = self.left.min(bytes.len());
            self.left = self.left.saturating_sub(payload);
            bytes = bytes.get(payload..).unwrap_or_default();
            if self.left == 0 && self.head == Head::Last {
                self.head = Head::None;
                self.complete = self.complete.saturating_add(1);
            }
            bytes = self.take_start(bytes);
        }
    }

    /// Takes a frame's own bytes, if one begins here; what is left.
    fn take_start<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        if self.left > 0 || bytes.is_empty() {
            return bytes;
        }
        let space = self.start.get_mut(self.have..).unwrap_or_default();
        let taken = space.len().min(bytes.len());
        let (own, rest) = bytes.split_at_checked(taken).unwrap_or_default();
        for (place, byte) in space.iter_mut().zip(own) {
            *place = *byte;
        }
        self.have = self.have.saturating_add(taken);
        if self.have == START {
            self.have = 0;
            self.begin();
        }
        rest
    }

    fn begin(&mut self) {
        let [high, middle, low, kind, flags, ..] = self.start;
        self.left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.head = match (kind, flags & END_HEADERS) {
            (HEADERS | CONTINUATION, 0) => Head::Open,
            (HEADERS | CONTINUATION, _) => Head::Last,
            // Between the frames of a head it is an error, which ends the connection.
            _ => Head::None,
        };
        if self.left == 0 && self.head == Head::Last {
            self.head = Head::None;
            self.complete = self.complete.saturating_add(1);
        }
    }
}

/// RFC 9113, section 3.4.
const PREFACE_BYTES: usize = 24;
/// Of a frame's own.
const START: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let start = [&length[1..], &[kind, flags, 0, 0, 0, 1]].concat();
        [start, vec![0xff; payload]].concat()
    }

    /// The head that is on its way behind `wire`, which comes in pieces of `size`.
    fn head(wire: &[u8], size: usize) -> Option<u64> {
        let mut frames = Frames::default();
        wire.chunks(size).for_each(|piece| frames.take(piece));
        frames.head()
    }

    #[test]
    fn a_head_is_on_its_way_from_its_first_frame_to_the_last_byte_of_its_last() {
        let settings = frame(4, 0, 6);
        let open = frame(HEADERS, 0, 40);
        let more = frame(CONTINUATION, 0, 3);
        let last = frame(CONTINUATION, END_HEADERS, 5);
        let whole = frame(HEADERS, END_HEADERS | 1, 300);
        let data = frame(0, 0, 16_384);
        let cut = |frame: &[u8]| frame[..frame.len() - 1].to_vec();
        for (parts, expected) in [
            (vec![], None),
            (vec![&settings, &whole], None),
            (vec![&cut(&whole)], Some(0)),
            (vec![&open], Some(0)),
            (vec![&open, &more, &more], Some(0)),
            (vec![&open, &more, &cut(&last)], Some(0)),
            (vec![&open, &more, &last], None),
            (vec![&open, &last, &data, &open], Some(1)),
            (vec![&whole, &whole, &cut(&data)], None),
            (vec![&frame(HEADERS, END_HEADERS, 0), &open], Some(1)),
            (vec![&open, &frame(CONTINUATION, END_HEADERS, 0)], None),
        ] {
            let wire = [
                PREFACE.to_vec(),
                parts.into_iter().flatten().copied().collect(),
            ]
            .concat();
            for size in [1, 2, 7, 9, 10, 4_096, 1 << 20] {
                assert_eq!(head(&wire, size), expected, "{size}");
            }
        }
    }
}
