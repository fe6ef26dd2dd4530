//! A whole answer that is put together from several calls' choices.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::completion::{Choice, Finish};

/// A choice that outlives the upstream bytes it was read from.
#[derive(Debug)]
pub struct OwnedChoice {
    pub index: u32,
    text: String,
    logprobs: Option<Box<RawValue>>,
    finish: Option<Finish<'static>>,
}

impl From<Choice<'_>> for OwnedChoice {
    fn from(choice: Choice<'_>) -> Self {
        Self {
            index: choice.index,
            text: choice.text.into_owned(),
            logprobs: choice.logprobs.map(ToOwned::to_owned),
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
            logprobs: self.logprobs.as_deref(),
            finish: self.finish.clone(),
        }
    }
}
