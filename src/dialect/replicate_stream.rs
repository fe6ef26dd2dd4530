//! The events of a prediction's stream: `output` (plain text), `error` and `done`.
//!
//! Source: <https://replicate.com/docs/topics/predictions/streaming>.

use std::borrow::Cow;

use serde::Deserialize;

use crate::{
    completion::{Choice, Completion, Partial},
    dialect::{Step, not_the_shape, replicate::failure, untold_finish},
    error::Error,
    wire::Frame,
};

pub fn read_event<'f>(frame: &'f Frame, partial: &mut Partial) -> Result<Step<'f>, Error> {
    match &*frame.event {
        b"output" if !frame.data.is_empty() => Ok(Step::Chunk(said(read_text(&frame.data)?))),
        b"error" => Err(failure(read_detail(read_text(&frame.data)?))),
        b"done" => {
            read_done(&frame.data)?;
            let finish = Some(untold_finish(partial));
            Ok(Step::Last(Completion {
                choices: vec![Choice {
                    finish,
                    ..Choice::default()
                }],
            }))
        }
        // An output without a word, and comments.
        b"output" | b"" => Ok(Step::Skip),
        _ => Ok(Step::Unknown),
    }
}

fn said(text: &str) -> Completion<'_> {
    Completion {
        choices: vec![Choice {
            text: Cow::Borrowed(text),
            ..Choice::default()
        }],
    }
}

fn read_text(data: &[u8]) -> Result<&str, Error> {
    let wrong = |_| Error::broken("The provider streamed text that is not UTF-8.");
    std::str::from_utf8(data).map_err(wrong)
}

/// An error is `{"detail":"…"}`, or a sentence.
fn read_detail(told: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Detail {
        detail: String,
    }
    let detail: Result<Detail, _> = serde_json::from_str(told);
    Some(detail.map_or_else(|_| told.to_owned(), |error| error.detail))
}

/// `{}`, or why there is no more: `{"reason":"canceled"}`, `{"reason":"error"}`.
fn read_done(data: &[u8]) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Done {
        #[serde(default)]
        reason: Option<String>,
    }
    let done: Done = serde_json::from_slice(data).map_err(not_the_shape)?;
    match done.reason.as_deref() {
        None => Ok(()),
        Some("error") => Err(failure(None)),
        Some(_) => Err(Error::broken(
            "The provider's prediction was ended before it was done.",
        )),
    }
}
