//! Reads laid end to end, as far as no frame has taken them. What every framing stands on.

use bytes::{Buf, Bytes, BytesMut};

/// Bytes that came in and are in no frame yet.
///
/// Invariant: `current` is empty or `tail` is. A read that holds whole frames is sliced, never copied; only the unfinished
/// frame at its end moves into `tail`.
#[derive(Debug, Default)]
pub struct Unread {
    current: Bytes,
    tail: BytesMut,
}

impl Unread {
    /// Takes one read.
    pub fn push(&mut self, input: Bytes) {
        if self.bytes().is_empty() {
            self.current = input;
        } else {
            self.keep();
            self.tail.extend_from_slice(&input);
        }
    }

    pub fn bytes(&self) -> &[u8] {
        if self.tail.is_empty() {
            &self.current
        } else {
            &self.tail
        }
    }

    /// Takes the first `length` bytes, at most all.
    pub fn take(&mut self, length: usize) -> Bytes {
        let length = length.min(self.bytes().len());
        if self.tail.is_empty() {
            self.current.split_to(length)
        } else {
            self.tail.split_to(length).freeze()
        }
    }

    /// Drops the first `length` bytes, at most all.
    pub fn skip(&mut self, length: usize) {
        let length = length.min(self.bytes().len());
        if self.tail.is_empty() {
            self.current.advance(length);
        } else {
            self.tail.advance(length);
        }
    }

    /// Stores what is left of the last read, so that its memory can go.
    pub fn keep(&mut self) {
        let rest = std::mem::take(&mut self.current);
        self.tail.extend_from_slice(&rest);
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }
}
