//! A line of the log, and a client's text in it.

use std::fmt::{self, Write as _};

/// `key=value`, one behind the other. The machinery of `write!` would cost more than all that is written.
pub struct Line(String);

impl Line {
    pub fn new() -> Self {
        Self(String::with_capacity(LINE_BYTES))
    }

    fn key(&mut self, key: &str) {
        if !self.0.is_empty() {
            self.0.push(' ');
        }
        self.0.push_str(key);
        self.0.push('=');
    }

    /// What is no client's, and has no space in it.
    pub fn word(&mut self, key: &str, word: &str) {
        self.key(key);
        self.0.push_str(word);
    }

    pub fn number(&mut self, key: &str, number: impl itoa::Integer) {
        self.key(key);
        self.0.push_str(itoa::Buffer::new().format(number));
    }

    pub fn quoted(&mut self, key: &str, text: &str) {
        self.key(key);
        // A `String` takes all that it is given.
        let _ = Quoted(text).write_to(&mut self.0);
    }

    pub fn shown(&mut self, key: &str, value: fmt::Arguments<'_>) {
        self.key(key);
        let _ = self.0.write_fmt(value);
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The start of a client's text, in quotes: it can neither end a line nor make it endless.
pub struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_to(f)
    }
}

impl Quoted<'_> {
    fn write_to(&self, f: &mut impl fmt::Write) -> fmt::Result {
        let end = (0..=MAX_LOGGED_BYTES.min(self.0.len()))
            .rev()
            .find(|&at| self.0.is_char_boundary(at));
        let text = self.0.get(..end.unwrap_or_default()).unwrap_or_default();
        let plain = |byte: u8| PLAIN.get(usize::from(byte)).is_some_and(|plain| *plain);
        if text.bytes().all(plain) {
            // What `{:?}` would write, character by character.
            f.write_str("\"")?;
            f.write_str(text)?;
            f.write_str("\"")
        } else {
            write!(f, "{text:?}")
        }
    }
}

/// Bytes that stand for themselves between quotes.
#[expect(clippy::indexing_slicing, reason = "computed while compiling")]
static PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = b' ';
    while byte <= b'~' {
        plain[byte as usize] = byte != b'"' && byte != b'\\';
        byte += 1;
    }
    plain
};
/// Bytes of a client's text in a line of the log.
const MAX_LOGGED_BYTES: usize = 128;
/// Bytes of most lines.
const LINE_BYTES: usize = 512;
