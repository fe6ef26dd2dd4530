//! Ends a text at its first stop sequence, for providers that would write on. The page: "The returned text will not contain
//! the stop sequence."
//!
//! What the client gets is a function of the text alone, however it was cut on its way: the text up to the first place at
//! which one of the sequences starts, as a plain search over the whole of it would find.

use std::{borrow::Cow, sync::Arc};

/// One choice's text in the making.
///
/// Invariant: `held` holds no start of a stop sequence that has not been ruled out before its first character, so that it
/// is never longer than the longest of them.
#[derive(Clone, Debug)]
pub struct StopScan {
    stops: Arc<[String]>,
    held: String,
}

/// What a piece of the text lets go.
#[derive(Debug, PartialEq, Eq)]
pub enum Scanned<'t> {
    Open(Cow<'t, str>),
    /// The last of it: a stop sequence follows.
    Stopped(Cow<'t, str>),
}

/// What stands at one place of a text.
enum Place {
    Stop,
    /// The start of one, as far as the text goes.
    Start,
}

impl StopScan {
    /// Empty sequences stop nothing.
    pub fn new(stops: Arc<[String]>) -> Self {
        Self {
            stops,
            held: String::new(),
        }
    }

    /// Takes the next piece of the text and gives what can leave.
    pub fn push<'t>(&mut self, text: Cow<'t, str>) -> Scanned<'t> {
        let text = if self.held.is_empty() {
            text
        } else {
            Cow::Owned(std::mem::take(&mut self.held) + &text)
        };
        match self.first_place(&text) {
            None => Scanned::Open(text),
            Some((at, Place::Stop)) => Scanned::Stopped(cut(text, at)),
            Some((at, Place::Start)) => {
                self.held = text.get(at..).unwrap_or_default().to_owned();
                Scanned::Open(cut(text, at))
            }
        }
    }

    /// The rest of a text that has ended: what looked like the start of a sequence is none.
    pub fn end(&mut self) -> Scanned<'static> {
        let rest = std::mem::take(&mut self.held);
        let places = self.stops.iter().filter(|stop| !stop.is_empty());
        match places.filter_map(|stop| rest.find(stop.as_str())).min() {
            Some(at) => Scanned::Stopped(cut(rest.into(), at)),
            None => Scanned::Open(rest.into()),
        }
    }

    fn first_place(&self, text: &str) -> Option<(usize, Place)> {
        text.char_indices().find_map(|(at, _)| {
            let rest = text.get(at..)?;
            let mut stops = self.stops.iter().filter(|stop| !stop.is_empty());
            let is_start = |stop: &&String| stop.starts_with(rest);
            if stops.clone().any(|stop| rest.starts_with(stop.as_str())) {
                Some((at, Place::Stop))
            } else {
                stops.find(is_start).map(|_| (at, Place::Start))
            }
        })
    }
}

/// The first `length` bytes.
fn cut(text: Cow<'_, str>, length: usize) -> Cow<'_, str> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.get(..length).unwrap_or_default()),
        Cow::Owned(mut text) => {
            text.truncate(length);
            Cow::Owned(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(stops: &[&str]) -> StopScan {
        StopScan::new(stops.iter().map(|stop| (*stop).to_owned()).collect())
    }

    /// What leaves of a text that comes in these pieces, and whether it was stopped.
    fn run<'t>(stops: &[&str], pieces: impl IntoIterator<Item = &'t str>) -> (String, bool) {
        let mut scan = scan(stops);
        let mut out = String::new();
        for piece in pieces {
            match scan.push(piece.into()) {
                Scanned::Open(text) => out += &text,
                Scanned::Stopped(text) => return (out + &text, true),
            }
        }
        match scan.end() {
            Scanned::Open(text) => (out + &text, false),
            Scanned::Stopped(text) => (out + &text, true),
        }
    }

    /// The definition: a plain search over the whole text.
    fn find(stops: &[&str], text: &str) -> (String, bool) {
        let stops = stops.iter().filter(|stop| !stop.is_empty());
        match stops.filter_map(|stop| text.find(stop)).min() {
            Some(at) => (text[..at].to_owned(), true),
            None => (text.to_owned(), false),
        }
    }

    #[test]
    fn only_what_may_still_become_a_sequence_is_held() {
        let mut scan = scan(&["\n\nQ:", "END"]);
        for (piece, leaves) in [
            ("one\n", "one"),
            ("\ntwo", "\n\ntwo"),
            (" E", " "),
            ("NE", "EN"),
            ("NT", "ENT"),
            ("é", "é"),
        ] {
            assert_eq!(scan.push(piece.into()), Scanned::Open(leaves.into()));
        }
        assert_eq!(scan.push("x\n\n".into()), Scanned::Open("x".into()));
        assert_eq!(scan.push("Q:more".into()), Scanned::Stopped("".into()));
    }

    #[test]
    fn an_earlier_start_wins_over_a_sequence_that_is_complete_sooner() {
        for (text, wanted) in [
            ("xabc", ("x", true)),
            ("xabd", ("xa", true)),
            ("xab", ("xa", true)),
        ] {
            let pieces = text.split("").filter(|piece| !piece.is_empty());
            let (got, stopped) = run(&["abc", "b"], pieces);
            assert_eq!((got.as_str(), stopped), wanted, "{text}");
        }
    }

    /// Random texts over a small alphabet, so that starts of sequences are common, cut at random places.
    #[test]
    fn whatever_the_cuts_the_text_is_what_a_plain_search_leaves() {
        let mut random = fastrand::Rng::with_seed(7);
        let letters = ["a", "b", "é", "日", "\n", "😀"];
        let word = |random: &mut fastrand::Rng, most: usize| -> String {
            let length = random.usize(0..=most);
            (0..length)
                .map(|_| letters[random.usize(..letters.len())])
                .collect()
        };
        for _ in 0..20_000 {
            let stops: Vec<String> = (0..random.usize(0..=4))
                .map(|_| word(&mut random, 4))
                .collect();
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let text = word(&mut random, 24);
            let mut pieces = Vec::new();
            let mut rest = text.as_str();
            while !rest.is_empty() {
                let places: Vec<usize> = rest.char_indices().map(|(at, _)| at).skip(1).collect();
                let at = random.choice(places).unwrap_or(rest.len());
                pieces.push(&rest[..at]);
                rest = &rest[at..];
            }
            assert_eq!(
                run(&stops, pieces.clone()),
                find(&stops, &text),
                "{stops:?} {pieces:?}"
            );
        }
    }
}
