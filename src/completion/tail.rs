//! Takes the stop sequence off the end of a text, for APIs that leave it there. The page: "The returned text will not
//! contain the stop sequence."

use std::{borrow::Cow, sync::Arc};

/// The end of a text in the making, as far as it may be the start of a stop sequence.
///
/// Invariant: `held` is a prefix of one of `stops`, so that it is never longer than the longest of them.
#[derive(Clone, Debug, Default)]
pub struct Tail {
    /// Shared: each call of a request has a tail.
    stops: Arc<[String]>,
    held: String,
}

impl Tail {
    pub fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty());
        Self {
            stops: stops.cloned().collect(),
            held: String::new(),
        }
    }

    /// Takes the next piece of the text and gives what can leave.
    pub fn push<'t>(&mut self, text: Cow<'t, str>) -> Cow<'t, str> {
        if self.stops.is_empty() {
            return text;
        }
        self.held += &text;
        let starts = |at: &usize| {
            let rest = self.held.get(*at..).unwrap_or_default();
            self.stops.iter().any(|stop| stop.starts_with(rest))
        };
        let mut places = self.held.char_indices().map(|(at, _)| at);
        let at = places.find(starts).unwrap_or(self.held.len());
        let rest = self.held.split_off(at);
        Cow::Owned(std::mem::replace(&mut self.held, rest))
    }

    /// The rest of a text that nothing stopped.
    pub fn end(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// The rest of a text that one of the sequences stopped, without it.
    pub fn end_stopped(&mut self) -> String {
        let mut rest = self.end();
        let ends = self.stops.iter().filter(|stop| rest.ends_with(*stop));
        let length = ends.map(String::len).max().unwrap_or_default();
        rest.truncate(rest.len() - length);
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(stops: &[&str]) -> Tail {
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        Tail::new(&stops)
    }

    #[test]
    fn what_may_be_a_stop_sequence_is_held_until_it_is_none() {
        let mut tail = tail(&["\n\nQ:", "END"]);
        for (piece, leaves) in [
            ("one\n", "one"),
            ("\ntwo", "\n\ntwo"),
            (" E", " "),
            ("NE", "EN"),
            ("ND", ""),
            ("ED\n", "ENDED"),
            ("é", "\né"),
        ] {
            assert_eq!(tail.push(piece.into()), leaves, "{piece:?}");
        }
        assert_eq!(tail.end(), "");
    }

    #[test]
    fn the_sequence_that_stopped_a_text_is_not_in_it() {
        for (pieces, text) in [
            (&["a E", "ND"][..], "a "),
            (&["a\n\nQ", ":"], "a"),
            (&["END"], ""),
            // A token before the end of it: nothing is taken that is no stop sequence.
            (&["a EN"], "a EN"),
        ] {
            let mut tail = tail(&["\n\nQ:", "END", ""]);
            let mut out: String = pieces
                .iter()
                .map(|&piece| tail.push(piece.into()))
                .collect();
            out += &tail.end_stopped();
            assert_eq!(out, text, "{pieces:?}");
        }
    }

    #[test]
    fn without_stop_sequences_a_text_passes_unheld() {
        let mut tail = tail(&[""]);
        assert!(matches!(tail.push("a".into()), Cow::Borrowed("a")));
        assert_eq!(tail.end_stopped(), "");
    }
}
