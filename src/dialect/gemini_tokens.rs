//! Tokens as Google's Gemini tells them: `LogprobsResult`.
//!
//! Source: <https://ai.google.dev/api/generate-content#LogprobsResult>.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    completion::logprobs::{Score, Scored, Token},
    dialect::lenient::Text,
};

/// Reads the chosen tokens, and beside each "candidates with top log probabilities at each decoding step". What is of
/// another form counts as absent.
pub fn read(result: &RawValue) -> Option<Vec<Token<'_>>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct LogprobsResult<'a> {
        #[serde(borrow)]
        chosen_candidates: Vec<Told<'a>>,
        #[serde(borrow, default)]
        top_candidates: Vec<Step<'a>>,
    }
    #[derive(Deserialize)]
    struct Step<'a> {
        #[serde(borrow, default)]
        candidates: Vec<Told<'a>>,
    }
    let result: LogprobsResult<'_> = serde_json::from_str(result.get()).ok()?;
    let steps = result
        .top_candidates
        .into_iter()
        .map(|step| step.candidates);
    let steps = steps.chain(std::iter::repeat_with(Vec::new));
    let tokens = result.chosen_candidates.into_iter().zip(steps);
    let tokens = tokens.map(|(chosen, top)| Token {
        chosen: chosen.into(),
        top: top.into_iter().map(Scored::from).collect(),
    });
    Some(tokens.collect())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told<'a> {
    #[serde(borrow, default)]
    token: Text<'a>,
    #[serde(borrow, default)]
    log_probability: Score<'a>,
}

impl<'a> From<Told<'a>> for Scored<'a> {
    fn from(told: Told<'a>) -> Self {
        Self::new(told.token.0, told.log_probability)
    }
}
