//! What one read turns into: a slice of that read while everything in it passes, a buffer of its own from the first byte
//! that does not.

use bytes::Bytes;

use crate::completion::write_data;

/// Client bytes in the making.
#[derive(Debug)]
pub struct Output {
    /// The read being worked on.
    input: Bytes,
    /// The part of `input` that passes, while it is one piece.
    slice: std::ops::Range<usize>,
    buffer: Vec<u8>,
}

impl Output {
    pub fn new(input: Bytes) -> Self {
        Self {
            input,
            slice: 0..0,
            buffer: Vec::new(),
        }
    }

    /// Passes `raw` on. No byte is copied while all that passes lies side by side in the read.
    pub fn pass(&mut self, raw: &Bytes) {
        match self.place(raw) {
            Some(place) if self.buffer.is_empty() && self.slice.is_empty() => self.slice = place,
            Some(place) if self.buffer.is_empty() && self.slice.end == place.start => {
                self.slice.end = place.end
            }
            _ => self.buffer().extend_from_slice(raw),
        }
    }

    /// See [`write_data`].
    pub fn write_data(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write_data(self.buffer(), write);
    }

    /// The buffer to write to; what passed so far is in it.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        if let Some(passed) = self.input.get(std::mem::take(&mut self.slice)) {
            self.buffer.extend_from_slice(passed);
        }
        &mut self.buffer
    }

    pub fn into_bytes(self) -> Bytes {
        if self.buffer.is_empty() {
            self.input.slice(self.slice)
        } else {
            Bytes::from(self.buffer)
        }
    }

    /// Where `raw` lies in the read; `None` for bytes from elsewhere.
    fn place(&self, raw: &Bytes) -> Option<std::ops::Range<usize>> {
        let start = raw
            .as_ptr()
            .addr()
            .checked_sub(self.input.as_ptr().addr())?;
        let place = start..start.checked_add(raw.len())?;
        (place.end <= self.input.len()).then_some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_pass_as_one_slice_of_the_read() {
        let input = Bytes::from_static(b"aabbcc");
        let mut out = Output::new(input.clone());
        out.pass(&input.slice(0..2));
        out.pass(&input.slice(2..4));
        let bytes = out.into_bytes();
        assert_eq!((&*bytes, bytes.as_ptr()), (&b"aabb"[..], input.as_ptr()));
    }

    #[test]
    fn a_gap_or_a_foreign_piece_makes_a_copy_in_order() {
        let input = Bytes::from_static(b"aabbcc");
        let mut out = Output::new(input.clone());
        out.pass(&input.slice(0..2));
        out.pass(&input.slice(4..6));
        out.pass(&Bytes::from(b"xx".to_vec()));
        out.buffer().extend(b"yy");
        assert_eq!(out.into_bytes(), "aaccxxyy");
        assert!(Output::new(input).into_bytes().is_empty());
    }
}
