//! What the emulated models write: words that follow from the prompt and the choice's number, the same on every machine.

use std::collections::BTreeSet;

use super::{Fault, Knobs};

/// A finished text. A token is a word with the space before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    pub tokens: Vec<String>,
    pub ending: Ending,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    Stop,
    /// This stop sequence came up.
    Sequence(String),
    Length,
    Filter,
    /// A reason that only this vendor has.
    Own,
}

impl Text {
    /// Continues `prompt`.
    pub fn write(
        prompt: &str,
        choice: u64,
        limit: Option<u64>,
        stops: &[String],
        knobs: &Knobs,
    ) -> Self {
        let mut tokens = words(prompt, choice, knobs.length());
        let mut ending = match knobs.fault {
            Some(Fault::Filter | Fault::Refusal | Fault::Blocked) => Ending::Filter,
            Some(Fault::Eos) => Ending::Own,
            _ => Ending::Stop,
        };
        let limit = limit.map_or(usize::MAX, |limit| {
            usize::try_from(limit).unwrap_or(usize::MAX)
        });
        if tokens.len() > limit {
            tokens.truncate(limit);
            ending = Ending::Length;
        }
        let mut text = Self { tokens, ending };
        text.cut_at(stops);
        text
    }

    /// Takes the first stop sequence that comes up, and all behind it, out.
    fn cut_at(&mut self, stops: &[String]) {
        let whole = self.tokens.concat();
        let found = stops.iter().filter(|stop| !stop.is_empty());
        let first = found
            .filter_map(|stop| Some((whole.find(stop.as_str())?, stop)))
            .min();
        let Some((at, stop)) = first else { return };
        let kept = whole.get(..at).unwrap_or_default();
        self.tokens = kept
            .split_inclusive(' ')
            .fold(Vec::new(), |mut tokens, piece| {
                // `split_inclusive` leaves the space at the end of the word before.
                let (word, space) = piece
                    .strip_suffix(' ')
                    .map_or((piece, ""), |word| (word, " "));
                match tokens.last_mut() {
                    Some(last) => *last += word,
                    None => tokens.push(word.to_owned()),
                }
                if !space.is_empty() {
                    tokens.push(space.to_owned());
                }
                tokens
            });
        self.tokens.retain(|token| !token.is_empty());
        self.ending = Ending::Sequence(stop.clone());
    }

    pub fn joined(&self) -> String {
        self.tokens.concat()
    }

    /// As chat models write: no space before the first word.
    pub fn into_chat(mut self) -> Self {
        if let Some(first) = self.tokens.first_mut() {
            *first = first.trim_start().to_owned();
        }
        self
    }
}

/// What the model might have written in place of `token`, the likeliest first, and the log-probability of each: the token
/// itself before all others.
pub fn candidates(token: &str, count: u64) -> impl Iterator<Item = (String, f64)> {
    let mut state = seed(token);
    let mut others = BTreeSet::from([token.to_owned()]);
    let other = std::iter::repeat_with(move || format!(" {}", pick(&mut state)));
    let others = other.filter(move |word| others.insert(word.clone()));
    let words = std::iter::once(token.to_owned()).chain(others);
    let count = usize::try_from(count)
        .unwrap_or(usize::MAX)
        .min(WORDS.len() - 1);
    let mut figure = logprob(token);
    words.take(count).map(move |word| {
        let own = figure;
        figure -= 1.0;
        (word, own)
    })
}

/// The log-probability of a token that was chosen: an eighth, or some.
pub fn logprob(token: &str) -> f64 {
    let eighths = u8::try_from(seed(token) % 16).unwrap_or_default();
    -(f64::from(eighths) + 1.0) / 8.0
}

/// Tokens of a prompt: its words.
pub fn count(prompt: &str) -> u64 {
    prompt
        .split_whitespace()
        .count()
        .try_into()
        .unwrap_or(u64::MAX)
}

fn words(prompt: &str, choice: u64, length: usize) -> Vec<String> {
    if prompt.trim() == PAGE_PROMPT && choice == 0 {
        return PAGE_ANSWER
            .split(' ')
            .map(|word| format!(" {word}"))
            .collect();
    }
    let mut state = seed(prompt) ^ choice.wrapping_mul(GOLDEN);
    (1..=length)
        .map(|number| {
            let dot = if number % 8 == 0 { "." } else { "" };
            format!(" {}{dot}", pick(&mut state))
        })
        .collect()
}

/// FNV-1a, 64 bits.
fn seed(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// SplitMix64.
fn pick(state: &mut u64) -> &'static str {
    *state = state.wrapping_add(GOLDEN);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let count = u64::try_from(WORDS.len()).unwrap_or(1);
    let index = usize::try_from((mixed ^ (mixed >> 31)) % count).unwrap_or_default();
    WORDS.get(index).copied().unwrap_or("word")
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
/// The API page's example, and an answer that fits it.
const PAGE_PROMPT: &str = "Write a tagline for an ice cream shop.";
const PAGE_ANSWER: &str = "Sweet treats for every occasion!";
const WORDS: &[&str] = &[
    "river", "stone", "quiet", "morning", "light", "over", "the", "hills", "a", "small", "boat",
    "drifts", "past", "old", "mills", "and", "every", "window", "holds", "its", "own", "weather",
    "until", "evening", "comes", "with", "salt", "bread", "new", "letters", "from", "café",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn write(limit: Option<u64>, stops: &[&str]) -> Text {
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        Text::write(PAGE_PROMPT, 0, limit, &stops, &Knobs::default())
    }

    #[test]
    fn the_same_prompt_gets_the_same_text_and_each_choice_its_own() {
        let text = |choice| Text::write("x", choice, None, &[], &Knobs::default());
        assert_eq!(text(1), text(1));
        assert_ne!(text(1), text(2));
        assert_eq!(text(1).tokens.len(), 16);
    }

    #[test]
    fn a_limit_and_a_stop_sequence_end_a_text_early() {
        assert_eq!(write(None, &[]).ending, Ending::Stop);
        let short = write(Some(2), &[]);
        assert_eq!(
            (short.joined().as_str(), short.ending),
            (" Sweet treats", Ending::Length)
        );
        let stopped = write(None, &["occasion", " every"]);
        assert_eq!(stopped.joined(), " Sweet treats for");
        assert_eq!(stopped.ending, Ending::Sequence(" every".to_owned()));
        assert_eq!(write(None, &["ery"]).tokens.last().unwrap(), " ev");
        assert!(write(None, &[" Sweet"]).tokens.is_empty());
    }
}
