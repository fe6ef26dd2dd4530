//! A client's text in a line of the log.

use std::fmt;

/// The start of a client's text, in quotes: it can neither end a line nor make it endless.
pub struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
