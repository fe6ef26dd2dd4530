//! A whole answer that is put together from several calls' choices.

use std::{borrow::Cow, cmp::Ordering, collections::BTreeMap};

use serde_json::value::{RawValue, to_raw_value};

use crate::{
    completion::{Choice, Finish, logprobs::Logprobs},
    dialect::settle::Best,
    error::Error,
    exchange::relay::MAX_REPLY_BYTES,
};

/// A choice that outlives the upstream bytes it was read from.
#[derive(Debug)]
pub struct OwnedChoice {
    index: u32,
    text: String,
    logprobs: Option<Box<RawValue>>,
    /// The mean log-probability of its tokens.
    mean: Option<f64>,
    finish: Option<Finish<'static>>,
}

impl From<Choice<'_>> for OwnedChoice {
    fn from(choice: Choice<'_>) -> Self {
        let logprobs = choice.logprobs.as_ref();
        Self {
            index: choice.index,
            text: choice.text.into_owned(),
            mean: logprobs.and_then(Logprobs::mean),
            logprobs: logprobs.and_then(|logprobs| to_raw_value(logprobs).ok()),
            finish: choice.finish.map(|finish| Finish {
                reason: finish.reason,
                native: Cow::Owned(finish.native.into_owned()),
            }),
        }
    }
}

impl OwnedChoice {
    pub fn as_choice(&self) -> Choice<'_> {
        Choice {
            index: self.index,
            text: Cow::Borrowed(&self.text),
            logprobs: self.logprobs.as_deref().map(Logprobs::Page),
            finish: self.finish.clone(),
        }
    }

    fn bytes(&self) -> usize {
        let logprobs = self.logprobs.as_ref().map_or(0, |told| told.get().len());
        self.text.len().saturating_add(logprobs)
    }

    /// The likelier first; one whose tokens tell nothing comes last.
    fn by_likelihood(&self, other: &Self) -> Ordering {
        let mean = |choice: &Self| choice.mean.unwrap_or(f64::NEG_INFINITY);
        mean(other).total_cmp(&mean(self))
    }
}

/// The choices of several calls, as they come.
#[derive(Debug, Default)]
pub struct Gathered {
    choices: Vec<OwnedChoice>,
    bytes: usize,
}

impl Gathered {
    /// Takes the choices of one call. All of them are held until the last has come: together they may be as large as one
    /// call's reply.
    pub fn take(&mut self, choices: Vec<OwnedChoice>) -> Result<(), Error> {
        let bytes = choices.iter().map(OwnedChoice::bytes);
        self.bytes = bytes.fold(self.bytes, usize::saturating_add);
        if self.bytes > MAX_REPLY_BYTES {
            let message =
                format!("The provider's answers are larger than {MAX_REPLY_BYTES} bytes together.");
            return Err(Error::broken(message));
        }
        self.choices.extend(choices);
        Ok(())
    }

    /// See [`in_order`].
    pub fn in_order(self, best: Option<Best>) -> Vec<OwnedChoice> {
        in_order(self.choices, best)
    }
}

/// The choices in the client's order; of the candidates for each prompt the best ones, where it asked for these.
fn in_order(mut choices: Vec<OwnedChoice>, best: Option<Best>) -> Vec<OwnedChoice> {
    choices.sort_by_key(|choice| choice.index);
    let Some(best) = best else {
        return choices;
    };
    let mut by_prompt: BTreeMap<u32, Vec<OwnedChoice>> = BTreeMap::new();
    for choice in choices {
        let prompt = choice.index.checked_div(best.of).unwrap_or_default();
        by_prompt.entry(prompt).or_default().push(choice);
    }
    let mut chosen = Vec::new();
    for mut candidates in by_prompt.into_values() {
        candidates.sort_by(OwnedChoice::by_likelihood);
        candidates.truncate(usize::try_from(best.n).unwrap_or(usize::MAX));
        chosen.extend(candidates);
    }
    for (index, choice) in (0..).zip(&mut chosen) {
        choice.index = index;
        if !best.logprobs {
            choice.logprobs = None;
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(index: u32, mean: Option<f64>) -> OwnedChoice {
        OwnedChoice {
            index,
            text: format!("{index}"),
            logprobs: to_raw_value(&[1]).ok(),
            mean,
            finish: None,
        }
    }

    fn told(choices: &[OwnedChoice]) -> Vec<(u32, &str)> {
        choices
            .iter()
            .map(|choice| (choice.index, choice.text.as_str()))
            .collect()
    }

    #[test]
    fn the_likeliest_candidates_of_each_prompt_are_its_choices() {
        let means = [
            Some(-2.0),
            Some(-0.5),
            Some(-1.0),
            None,
            Some(-3.0),
            Some(-0.1),
        ];
        let candidates = || {
            (0..6_u32)
                .rev()
                .map(|index| candidate(index, means[index as usize]))
        };
        let best = Best {
            n: 2,
            of: 3,
            logprobs: false,
        };
        let chosen = in_order(candidates().collect(), Some(best));
        assert_eq!(told(&chosen), [(0, "1"), (1, "2"), (2, "5"), (3, "4")]);
        assert!(chosen.iter().all(|choice| choice.logprobs.is_none()));
        let all = in_order(candidates().collect(), None);
        let order: Vec<_> = all.iter().map(|choice| choice.index).collect();
        assert_eq!(order, [0, 1, 2, 3, 4, 5]);
        assert!(all.iter().all(|choice| choice.logprobs.is_some()));
    }

    #[test]
    fn all_choices_together_are_no_larger_than_one_reply() {
        let large = || OwnedChoice {
            text: "a".repeat(MAX_REPLY_BYTES / 2),
            logprobs: None,
            ..candidate(0, None)
        };
        let mut gathered = Gathered::default();
        gathered.take(vec![large(), large()]).unwrap();
        let error = gathered.take(vec![candidate(0, None)]).unwrap_err();
        assert_eq!(error.status(), 502);
    }

    #[test]
    fn a_choice_s_likelihood_is_the_mean_of_its_tokens() {
        let page = r#"{"tokens":["a","b","c"],"token_logprobs":[null,-1.0,-2.0]}"#;
        let page: Box<RawValue> = serde_json::from_str(page).unwrap();
        let choice = Choice {
            logprobs: Some(Logprobs::Page(&page)),
            ..Choice::default()
        };
        assert_eq!(OwnedChoice::from(choice).mean, Some(-1.5));
    }
}
