//! Log-probabilities in the form of the text endpoint, made of those that other APIs tell token by token.
//!
//! Source: `logprobs` of <https://platform.openai.com/docs/api-reference/completions>: four lists of one length, `tokens`,
//! `token_logprobs`, `top_logprobs`, `text_offset`.
//!
//! * Figures are the upstream's own, digit by digit; one that is no number is null, as that of a first token is.
//! * "The API will always return the logprob of the sampled token, so there may be up to `logprobs+1` elements": an entry
//!   of `top_logprobs` holds the chosen token too, and with `logprobs: 0` it alone. Of alternatives of one name (pieces
//!   of vocabulary that decode to the same text) the likeliest, told first, is the one that a map can hold.
//! * Offsets count characters (Unicode code points) from the start of the returned text, an echoed prompt included.
//! * A token that is only a part of a character is written as OpenAI does, `bytes:\xe2\x80`, where the upstream tells its
//!   bytes; its offset is that of its character.

use std::{borrow::Cow, collections::BTreeMap};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    ser::{SerializeMap, SerializeStruct},
};
use serde_json::value::RawValue;

use crate::{
    completion::{Choice, Completion, CompletionRequest},
    error::Error,
};

/// What a choice, or a piece of one, tells of its tokens.
#[derive(Clone, Debug)]
pub enum Logprobs<'a> {
    /// The page's object, as the upstream wrote it.
    Page(&'a RawValue),
    Tokens(Vec<Placed<'a>>),
}

/// A token at its place in the text.
#[derive(Clone, Debug)]
pub struct Placed<'a> {
    /// Characters before it.
    offset: u64,
    token: Token<'a>,
}

/// A token that the model chose, and those it might have chosen, the likeliest first.
#[derive(Clone, Debug, Default)]
pub struct Token<'a> {
    pub chosen: Scored<'a>,
    pub top: Vec<Scored<'a>>,
}

/// A piece of vocabulary and its log-probability.
#[derive(Clone, Debug, Default)]
pub struct Scored<'a> {
    pub text: Cow<'a, str>,
    /// What it is made of, where that is told; it may be no text of its own.
    pub bytes: Option<Vec<u8>>,
    pub logprob: Score<'a>,
}

/// A figure as it was written; `None`: it was none.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Score<'a>(Option<Cow<'a, RawValue>>);

impl<'de: 'a, 'a> Deserialize<'de> for Score<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = <&'a RawValue>::deserialize(deserializer)?.get();
        // Some APIs put it in quotes.
        let value = value.trim_matches('"');
        let is_number = value.starts_with(|first: char| first == '-' || first.is_ascii_digit());
        let number = is_number.then(|| serde_json::from_str::<&'a RawValue>(value).ok());
        Ok(Self(number.flatten().map(Cow::Borrowed)))
    }
}

/// What it takes to place the tokens of one answer: whether they were asked for, and how far each choice has got.
#[derive(Clone, Debug, Default)]
pub struct Running {
    wanted: bool,
    /// Characters that the answer says before the model's own: an echoed prompt.
    shift: u64,
    /// By index. The indices are the upstream's: at most [`MAX_PLACES`] are kept.
    places: BTreeMap<u32, Place>,
}

/// How far one choice has got, in characters.
#[derive(Clone, Debug, Default)]
struct Place {
    /// Of its text.
    text: u64,
    /// Of its tokens.
    tokens: u64,
    /// The start of a character whose end a further token brings.
    half: Vec<u8>,
    /// Of its text, as far as the client has been told.
    told: u64,
    /// Tokens of text that the client has not been told, because a stop sequence may be in it.
    held: Vec<Placed<'static>>,
}

/// How far a text has got that is held back for a stop sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    Open,
    Ended,
    /// A stop sequence ended it: what was held of it is not told.
    Stopped,
}

impl Running {
    pub fn of(request: &CompletionRequest) -> Self {
        Self {
            wanted: request.logprobs.is_some(),
            ..Self::default()
        }
    }

    /// The same, of an answer whose every choice starts with this many characters that are not the model's.
    pub fn shifted(self, shift: u64) -> Self {
        Self { shift, ..self }
    }

    /// Whether the client asked for log-probabilities.
    pub fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// Lets a whole reply pass that tells what was asked for. One that has a text and nothing of its tokens comes from a
    /// provider that took no notice.
    pub fn check<'a>(&self, reply: Completion<'a>) -> Result<Completion<'a>, Error> {
        let silent = |choice: &Choice<'_>| !choice.text.is_empty() && choice.logprobs.is_none();
        if self.wanted && reply.choices.iter().any(silent) {
            return Err(Error::broken(
                "The provider's answer lacks the log-probabilities that were asked for by `logprobs`.",
            ));
        }
        Ok(reply)
    }

    /// Places the tokens of a piece of choice `index`, whose text is `text`. `None`: the client did not ask for them, and
    /// they are not read, or there are none.
    pub fn place<'a>(
        &mut self,
        index: u32,
        text: &str,
        read: impl FnOnce() -> Option<Vec<Token<'a>>>,
    ) -> Option<Logprobs<'a>> {
        let shift = self.shift;
        let place = self.at(index)?;
        let tokens = read().unwrap_or_default().into_iter();
        let placed: Vec<_> = tokens.map(|token| place.next(token, shift)).collect();
        place.meet(text);
        (!placed.is_empty()).then_some(Logprobs::Tokens(placed))
    }

    /// Keeps tokens back with the text they are of. `told` is what of the text goes to the client now; what comes back are
    /// the tokens that begin in the text told so far.
    pub fn hold(
        &mut self,
        index: u32,
        told: &str,
        logprobs: Option<Logprobs<'_>>,
        reach: Reach,
    ) -> Option<Logprobs<'static>> {
        let shift = self.shift;
        let place = self.at(index)?;
        place.told = place.told.saturating_add(characters(told.as_bytes()));
        if let Some(Logprobs::Tokens(tokens)) = logprobs {
            place
                .held
                .extend(tokens.into_iter().map(Placed::into_owned));
        }
        let end = place.told.saturating_add(shift);
        let fits = |placed: &Placed<'_>| reach == Reach::Ended || placed.offset < end;
        let count = place.held.iter().take_while(|&placed| fits(placed)).count();
        let placed: Vec<_> = place.held.drain(..count).collect();
        (!placed.is_empty()).then_some(Logprobs::Tokens(placed))
    }

    fn at(&mut self, index: u32) -> Option<&mut Place> {
        let has_room = self.places.len() < MAX_PLACES || self.places.contains_key(&index);
        (self.wanted && has_room).then(|| self.places.entry(index).or_default())
    }
}

impl Place {
    fn next<'a>(&mut self, token: Token<'a>, shift: u64) -> Placed<'a> {
        let bytes = token.chosen.bytes();
        // A character that has no end counts as one: it is U+FFFD in the text.
        if bytes.first().is_some_and(|&byte| !is_inner(byte)) && !self.half.is_empty() {
            self.half.clear();
            self.tokens = self.tokens.saturating_add(1);
        }
        let offset = self.tokens.saturating_add(shift);
        self.half.extend_from_slice(bytes);
        let (whole, half) = split(&self.half);
        self.tokens = self.tokens.saturating_add(whole);
        self.half.drain(..self.half.len().saturating_sub(half));
        Placed { offset, token }
    }

    /// Text whose tokens are not told counts too.
    fn meet(&mut self, text: &str) {
        self.text = self.text.saturating_add(characters(text.as_bytes()));
        if self.text > self.tokens {
            self.tokens = self.text;
            self.half.clear();
        }
    }
}

/// The tokens of `text` among those of a model that thought before it spoke: some APIs tell both in one list.
pub fn behind_thoughts<'a>(mut tokens: Vec<Token<'a>>, text: &str) -> Vec<Token<'a>> {
    let pieces = tokens.iter().map(|token| token.chosen.bytes());
    let said: Vec<u8> = pieces.flatten().copied().collect();
    if let Some(start) = memchr::memmem::rfind(&said, text.as_bytes()) {
        let mut end = 0_usize;
        tokens.retain(|token| {
            end = end.saturating_add(token.chosen.bytes().len());
            end > start
        });
    }
    tokens
}

/// The number of characters that are over in `bytes`, and the number of bytes of one behind them that is not.
fn split(bytes: &[u8]) -> (u64, usize) {
    let (mut count, mut rest) = (0_u64, bytes);
    while let Err(error) = std::str::from_utf8(rest) {
        let (valid, other) = rest
            .split_at_checked(error.valid_up_to())
            .unwrap_or_default();
        count = count.saturating_add(characters(valid));
        let Some(broken) = error.error_len() else {
            return (count, other.len());
        };
        count = count.saturating_add(1);
        rest = other.get(broken..).unwrap_or_default();
    }
    (count.saturating_add(characters(rest)), 0)
}

/// Of valid UTF-8.
fn characters(text: &[u8]) -> u64 {
    let starts = text.iter().filter(|&&byte| !is_inner(byte)).count();
    u64::try_from(starts).unwrap_or(u64::MAX)
}

/// Whether it is a byte of a character other than its first.
fn is_inner(byte: u8) -> bool {
    byte & 0b1100_0000 == 0b1000_0000
}

impl<'a> Scored<'a> {
    /// Of an API that tells no bytes.
    pub fn new(text: Cow<'a, str>, logprob: Score<'a>) -> Self {
        Self {
            text,
            bytes: None,
            logprob,
        }
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or(self.text.as_bytes())
    }

    /// Its name on the page.
    fn label(&self) -> Cow<'_, str> {
        match &self.bytes {
            Some(bytes) if std::str::from_utf8(bytes).is_err() => {
                let escaped = bytes.iter().map(|byte| format!("\\x{byte:02x}"));
                Cow::Owned(format!("bytes:{}", escaped.collect::<String>()))
            }
            _ => Cow::Borrowed(&self.text),
        }
    }

    fn into_owned(self) -> Scored<'static> {
        Scored {
            text: Cow::Owned(self.text.into_owned()),
            bytes: self.bytes,
            logprob: Score(self.logprob.0.map(|figure| Cow::Owned(figure.into_owned()))),
        }
    }
}

impl Placed<'_> {
    fn into_owned(self) -> Placed<'static> {
        let top = self.token.top.into_iter().map(Scored::into_owned);
        Placed {
            offset: self.offset,
            token: Token {
                top: top.collect(),
                chosen: self.token.chosen.into_owned(),
            },
        }
    }
}

impl Logprobs<'_> {
    /// The mean over the tokens, by which one text is likelier than another; `None`: there are no figures.
    pub fn mean(&self) -> Option<f64> {
        #[derive(Deserialize)]
        struct Page {
            token_logprobs: Vec<Option<f64>>,
        }
        let figures: Vec<f64> = match self {
            Self::Page(page) => {
                let page: Page = serde_json::from_str(page.get()).ok()?;
                page.token_logprobs.into_iter().flatten().collect()
            }
            Self::Tokens(placed) => {
                let figures = placed
                    .iter()
                    .map(|placed| placed.token.chosen.logprob.figure());
                figures.flatten().collect()
            }
        };
        let count = u32::try_from(figures.len())
            .ok()
            .filter(|&count| count > 0)?;
        Some(figures.iter().sum::<f64>() / f64::from(count))
    }
}

impl Score<'_> {
    fn figure(&self) -> Option<f64> {
        serde_json::from_str(self.0.as_ref()?.get()).ok()
    }
}

impl Serialize for Logprobs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let placed = match self {
            Self::Page(page) => return page.serialize(serializer),
            Self::Tokens(placed) => placed,
        };
        let tokens = || placed.iter().map(|placed| &placed.token);
        let mut page = serializer.serialize_struct("Logprobs", 4)?;
        let labels: Vec<_> = tokens().map(|token| token.chosen.label()).collect();
        page.serialize_field("tokens", &labels)?;
        let figures: Vec<_> = tokens().map(|token| &token.chosen.logprob).collect();
        page.serialize_field("token_logprobs", &figures)?;
        page.serialize_field("top_logprobs", &tokens().map(Top).collect::<Vec<_>>())?;
        let offsets: Vec<_> = placed.iter().map(|placed| placed.offset).collect();
        page.serialize_field("text_offset", &offsets)?;
        page.end()
    }
}

/// An entry of `top_logprobs`.
struct Top<'t, 'a>(&'t Token<'a>);

impl Serialize for Top<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Token { chosen, top } = self.0;
        let mut labels: Vec<Cow<'_, str>> = Vec::with_capacity(top.len().saturating_add(1));
        let mut map = serializer.serialize_map(None)?;
        for scored in top.iter().chain([chosen]) {
            let label = scored.label();
            if !labels.contains(&label) {
                map.serialize_entry(&label, &scored.logprob)?;
                labels.push(label);
            }
        }
        map.end()
    }
}

/// The choices of one answer: 2,048 prompts with 128 choices each, more than any API takes.
const MAX_PLACES: usize = 2_048 * 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Running {
        Running {
            wanted: true,
            ..Running::default()
        }
    }

    fn scored<'a>(text: &'a str, logprob: &'a str) -> Scored<'a> {
        Scored {
            text: text.into(),
            bytes: None,
            logprob: serde_json::from_str(logprob).unwrap(),
        }
    }

    fn token(text: &str) -> Token<'_> {
        Token {
            chosen: scored(text, "-0.5"),
            top: vec![],
        }
    }

    fn part(bytes: &[u8]) -> Token<'_> {
        let mut token = token("\u{FFFD}");
        token.chosen.bytes = Some(bytes.to_vec());
        token
    }

    fn written(logprobs: Option<Logprobs<'_>>) -> serde_json::Value {
        serde_json::to_value(&logprobs).unwrap()
    }

    fn offsets(logprobs: Option<Logprobs<'_>>) -> Vec<u64> {
        let page = written(logprobs);
        let list = page["text_offset"].as_array().cloned().unwrap_or_default();
        list.iter().filter_map(serde_json::Value::as_u64).collect()
    }

    #[test]
    fn tokens_become_the_pages_lists_with_every_digit() {
        let chosen = scored(" b", "-1.50e-3");
        let top = vec![
            scored(" a", "-0.10000000000000000001"),
            scored(" a", "-7"),
            scored(" b", "-1.50e-3"),
        ];
        let far = Token {
            chosen: scored("é", "-9999.0"),
            top: vec![
                scored("x", "\"-Infinity\""),
                scored("y", "\"-2.50\""),
                scored("z", "\"-2 \\\"\""),
            ],
        };
        let tokens = Some(vec![Token { chosen, top }, far]);
        let page = wanted().place(0, " bé", || tokens);
        assert_eq!(
            serde_json::to_string(&page).unwrap(),
            concat!(
                r#"{"tokens":[" b","é"],"token_logprobs":[-1.50e-3,-9999.0],"#,
                r#""top_logprobs":[{" a":-0.10000000000000000001," b":-1.50e-3},{"x":null,"y":-2.50,"z":null,"é":-9999.0}],"#,
                r#""text_offset":[0,2]}"#,
            )
        );
    }

    #[test]
    fn offsets_run_on_by_choice_behind_an_echo() {
        let mut running = wanted().shifted(7);
        let mut place = |index, text: &'static str| {
            offsets(running.place(index, text, || Some(vec![token(text)])))
        };
        assert_eq!(place(0, "né"), [7]);
        assert_eq!(place(1, "\u{1F600}"), [7]);
        assert_eq!(place(0, "x"), [9]);
        assert_eq!(place(1, "x"), [8]);
    }

    #[test]
    fn text_without_tokens_counts_too_and_nothing_counts_twice() {
        let mut running = wanted();
        assert!(running.place(0, "ab", || None).is_none());
        assert_eq!(
            offsets(running.place(0, "c", || Some(vec![token("c")]))),
            [2]
        );
        // The tokens first, their text with the next piece.
        assert_eq!(
            offsets(running.place(0, "", || Some(vec![token("de")]))),
            [3]
        );
        assert!(running.place(0, "de", || Some(vec![])).is_none());
        assert_eq!(
            offsets(running.place(0, "f", || Some(vec![token("f")]))),
            [5]
        );
    }

    #[test]
    fn the_parts_of_a_character_stand_where_it_stands() {
        let parts = vec![
            token("a"),
            part(b" \xf0\x9f"),
            part(b"\x98"),
            part(b"\x80"),
            token("b"),
        ];
        let page = wanted().place(0, "a \u{1F600}b", || Some(parts));
        let page = written(page);
        assert_eq!(page["text_offset"], serde_json::json!([0, 1, 2, 2, 3]));
        assert_eq!(page["tokens"][1], r"bytes:\x20\xf0\x9f");
        assert_eq!(page["top_logprobs"][2][r"bytes:\x98"], -0.5);
        // In a stream the text comes with the last of them.
        let mut running = wanted();
        assert_eq!(
            offsets(running.place(0, "", || Some(vec![part(b"\xc3")]))),
            [0]
        );
        let rest = Some(vec![part(b"\xa9")]);
        assert_eq!(offsets(running.place(0, "é", || rest)), [0]);
        // One that never gets its end, and one that is none, are U+FFFD in the text.
        let broken = vec![part(b"\xc3"), token("x"), part(b"\xff"), token("y")];
        assert_eq!(offsets(running.place(0, "", || Some(broken))), [1, 2, 3, 4]);
    }

    #[test]
    fn thoughts_are_told_apart_from_the_text_behind_them() {
        let told = |list: &[&'static str], text| {
            let tokens = list.iter().map(|text| token(text)).collect();
            let kept = behind_thoughts(tokens, text).into_iter();
            kept.map(|token| token.chosen.text).collect::<Vec<_>>()
        };
        let list = ["<think>", "é", "</think>", "\n\n", "é", "b"];
        assert_eq!(told(&list, "éb"), ["é", "b"]);
        assert_eq!(told(&list, "b"), ["b"]);
        assert_eq!(told(&list, "éb "), list);
        assert!(told(&list, "").is_empty());
        assert_eq!(told(&["a", "b"], "ab"), ["a", "b"]);
    }

    #[test]
    fn what_was_not_asked_for_is_not_told() {
        let mut running = Running::default();
        assert!(running.place(0, "a", || Some(vec![token("a")])).is_none());
        assert!(running.places.is_empty());
    }

    #[test]
    fn tokens_wait_for_the_text_they_begin_in() {
        let mut running = wanted();
        let mut hold = |text: &'static str, told: &str, reach| {
            let placed = running.place(0, text, || Some(vec![token(text)]));
            let told = written(running.hold(0, told, placed, reach));
            let tokens = told["tokens"].as_array().cloned().unwrap_or_default();
            tokens
                .iter()
                .map(|token| token.as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(hold("é ", "é ", Reach::Open), ["é "]);
        assert!(hold("E", "", Reach::Open).is_empty());
        assert_eq!(hold("Nx", "ENx", Reach::Open), ["E", "Nx"]);
        // Half of a token is before the stop sequence.
        assert_eq!(hold("yE", "y", Reach::Open), ["yE"]);
        assert!(hold("ND", "", Reach::Stopped).is_empty());
        // The end of a text that nothing stopped lets all go: a token without a text too.
        let rest = running.place(1, "E", || Some(vec![token("E"), token("")]));
        assert_eq!(offsets(running.hold(1, "E", rest, Reach::Ended)), [0, 1]);
    }
}
