//! Tokens as Text Generation Inference tells them: `{id, text, logprob, special}`, the alternatives in lists beside them.
//! `tgi.rs` names the sources.

use std::borrow::Cow;

use serde::Deserialize;

use crate::{
    completion::logprobs::{Score, Scored, Token},
    dialect::lenient::Field,
};

#[derive(Deserialize)]
pub struct Told<'a> {
    #[serde(borrow, default)]
    text: Cow<'a, str>,
    #[serde(borrow, default)]
    logprob: Score<'a>,
    #[serde(default)]
    special: bool,
}

/// What an event says. The end of a text is a token too, which is not of the text.
pub fn said<'a>(token: Option<Told<'a>>, top: Field<'a>) -> (Cow<'a, str>, Option<Vec<Token<'a>>>) {
    let Some(token) = token.filter(|token| !token.special) else {
        return (Cow::Borrowed(""), None);
    };
    let top = read_list(top).unwrap_or_default();
    (token.text.clone(), Some(vec![token.beside(top)]))
}

/// Alternatives in an odd form count as absent.
fn read_list<'a, T: Deserialize<'a>>(list: Field<'a>) -> Option<Vec<T>> {
    serde_json::from_str(list.told()?.get()).ok()
}

/// The tokens of a whole text, and for each of them its alternatives. `None`: they are not told.
pub fn read_tokens<'a>(tokens: Field<'a>, tops: Field<'a>) -> Option<Vec<Token<'a>>> {
    let tokens: Vec<Told<'a>> = read_list(tokens)?;
    let tops: Vec<Vec<Told<'a>>> = read_list(tops).unwrap_or_default();
    let tops = tops.into_iter().chain(std::iter::repeat_with(Vec::new));
    let tokens = tokens.into_iter().zip(tops);
    let tokens = tokens.filter(|(token, _)| !token.special);
    Some(tokens.map(|(token, top)| token.beside(top)).collect())
}

impl<'a> Told<'a> {
    fn beside(self, top: Vec<Told<'a>>) -> Token<'a> {
        Token {
            chosen: self.into(),
            top: top.into_iter().map(Scored::from).collect(),
        }
    }
}

impl<'a> From<Told<'a>> for Scored<'a> {
    fn from(told: Told<'a>) -> Self {
        Self::new(told.text, told.logprob)
    }
}
