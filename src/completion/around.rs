//! What stands around the text of a stream's event. Most streams say it again with each of them, and what has been read once
//! need not be read again: whoever comes to the same byte by the same bytes knows the same.

use std::ops::Range;

/// An event without its text; empty before the first.
#[derive(Clone, Debug, Default)]
pub struct Around {
    bytes: Vec<u8>,
    /// Where the text stood.
    cut: usize,
}

impl Around {
    /// Takes what stands around `text`, the place of a JSON string in `event` without its quotes.
    pub fn learn(&mut self, event: &[u8], text: Range<usize>) {
        self.bytes.clear();
        let (before, after) = (event.get(..text.start), event.get(text.end..));
        let (Some(before), Some(after)) = (before, after) else {
            return;
        };
        if before.len().saturating_add(after.len()) <= MAX_BYTES {
            self.bytes.extend_from_slice(before);
            self.bytes.extend_from_slice(after);
            self.cut = text.start;
        }
    }

    pub fn is_known(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// What stands in the text's place of an event that is the same around it. It is no text yet: a quote in it would end one.
    pub fn inside<'e>(&self, event: &'e [u8]) -> Option<&'e [u8]> {
        let known = self.bytes.split_at_checked(self.cut);
        let (before, after) = known.filter(|_| self.is_known())?;
        event.strip_prefix(before)?.strip_suffix(after)
    }

    /// Appends what was learned with `text` in the place of what stood there.
    pub fn write(&self, text: &[u8], out: &mut Vec<u8>) {
        let (before, after) = self.bytes.split_at_checked(self.cut).unwrap_or_default();
        out.reserve(self.bytes.len().saturating_add(text.len()));
        for piece in [before, text, after] {
            out.extend_from_slice(piece);
        }
    }
}

/// It is kept for as long as its stream lasts.
const MAX_BYTES: usize = 1 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_is_the_same_around_its_text_has_it_there() {
        let mut around = Around::default();
        assert_eq!(around.inside(b""), None);
        assert_eq!(around.inside(br#"{"text":"a","x":1}"#), None);
        around.learn(br#"{"text":"a","x":1}"#, 9..10);
        for (event, inside) in [
            (r#"{"text":"a","x":1}"#, Some("a")),
            (r#"{"text":"","x":1}"#, Some("")),
            (r#"{"text":"b \"c","x":1}"#, Some(r#"b \"c"#)),
            (
                r#"{"text":"b","x":2,"text":"c","x":1}"#,
                Some(r#"b","x":2,"text":"c"#),
            ),
            (r#"{"text":","x":1}"#, None),
            (r#"{"text":"a","x":2}"#, None),
            (r#"{"Text":"a","x":1}"#, None),
            (r#"{"text":"a","x":1} "#, None),
            ("", None),
        ] {
            let found = around.inside(event.as_bytes());
            assert_eq!(found, inside.map(str::as_bytes), "{event}");
        }
    }

    #[test]
    fn only_the_last_is_kept_and_nothing_large() {
        let mut around = Around::default();
        around.learn(b"(a)", 1..2);
        around.learn(b"[a]", 1..2);
        assert_eq!(around.inside(b"(b)"), None);
        assert_eq!(around.inside(b"[b]"), Some(&b"b"[..]));
        let large = [b"(a)".as_slice(), &[b' '; MAX_BYTES]].concat();
        around.learn(&large, 1..2);
        assert_eq!(around.inside(&large), None);
        assert_eq!(around.inside(b"[b]"), None);
    }
}
