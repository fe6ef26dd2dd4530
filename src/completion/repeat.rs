//! Takes a prompt that an answer repeats off its start, for providers whose answer to a prefilled message begins with it.
//!
//! Such an answer may leave out the whitespace at the prompt's end, as Mistral's own examples show by slicing at the prompt's
//! length and others' streams by a first piece without it. What does not begin with the prompt is no repetition: all of it
//! stays.

use std::{borrow::Cow, sync::Arc};

/// One choice's text in the making.
#[derive(Clone, Debug)]
pub struct RepeatScan {
    prompt: Arc<str>,
    /// Bytes of the prompt that came so far, and are held back; `None`: nothing more is taken off.
    matched: Option<usize>,
}

impl RepeatScan {
    pub fn new(prompt: Arc<str>) -> Self {
        Self {
            prompt,
            matched: Some(0),
        }
    }

    /// Takes the next piece of the text and gives what can leave.
    pub fn push<'t>(&mut self, text: Cow<'t, str>) -> Cow<'t, str> {
        let Some(matched) = self.matched else {
            return text;
        };
        let open = self.prompt.get(matched..).unwrap_or_default();
        let same = common_bytes(open, &text);
        if same == text.len() && same < open.len() {
            self.matched = Some(matched + same);
            return Cow::Borrowed("");
        }
        self.matched = None;
        if open.get(same..).is_some_and(is_blank) {
            return skip(text, same);
        }
        let held = self.prompt.get(..matched).unwrap_or_default();
        Cow::Owned([held, &*text].concat())
    }

    /// The rest of a text that has ended.
    pub fn end(&mut self) -> String {
        let matched = self.matched.take().unwrap_or_default();
        match self.prompt.split_at_checked(matched) {
            Some((held, open)) if !is_blank(open) => held.to_owned(),
            _ => String::new(),
        }
    }
}

/// How many bytes two texts begin with alike, in whole characters.
fn common_bytes(one: &str, other: &str) -> usize {
    let pairs = one.chars().zip(other.chars());
    let same = pairs.take_while(|(one, other)| one == other);
    same.map(|(one, _)| one.len_utf8()).sum()
}

fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}

/// The text without its first `bytes`.
fn skip(text: Cow<'_, str>, bytes: usize) -> Cow<'_, str> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.get(bytes..).unwrap_or_default()),
        Cow::Owned(text) => Cow::Owned(text.get(bytes..).unwrap_or_default().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What leaves of a text that comes in these pieces.
    fn run<'t>(prompt: &str, pieces: impl IntoIterator<Item = &'t str>) -> String {
        let mut scan = RepeatScan::new(prompt.into());
        let out: String = pieces
            .into_iter()
            .map(|piece| scan.push(piece.into()).into_owned())
            .collect();
        out + &scan.end()
    }

    #[test]
    fn the_prompt_is_taken_off_once_however_the_text_was_cut() {
        for (prompt, text, left) in [
            ("Once upon é", "Once upon é a time", " a time"),
            ("Once upon é", "Once upon éOnce upon é", "Once upon é"),
            ("Once upon é", "Once upon é", ""),
            // Without the whitespace at its end, which the text may begin with or not.
            ("def f():\n  ", "def f():\n  return", "return"),
            ("def f():\n  ", "def f():return", "return"),
            ("def f():\n  ", "def f():\n    return", "  return"),
            ("def f():\n  ", "def f():", ""),
            ("  ", "a", "a"),
            ("", "a", "a"),
            // No repetition, or one that ends in its midst.
            ("Once upon", "a time", "a time"),
            ("Once upon", "Once, a time", "Once, a time"),
            ("Once upon", "Once", "Once"),
            ("é", "è", "è"),
        ] {
            assert_eq!(run(prompt, [text]), left, "{text:?} in one");
            let each = text
                .char_indices()
                .map(|(at, c)| &text[at..at + c.len_utf8()]);
            assert_eq!(run(prompt, each), left, "{text:?} by characters");
            for (at, _) in text.char_indices() {
                let (one, next) = text.split_at(at);
                assert_eq!(run(prompt, [one, "", next]), left, "{text:?} at {at}");
            }
        }
    }
}
