//! The form in which OpenAI's chat tells its tokens, and that others took over: `{token, logprob, bytes, top_logprobs}`.
//!
//! Source: `logprobs.content` of <https://platform.openai.com/docs/api-reference/chat/object>.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    completion::{
        CompletionRequest,
        logprobs::{Score, Scored, Token},
    },
    dialect::lenient::{Field, Map, Text},
    error::Error,
};

/// One token of such a list, or one of its alternatives.
#[derive(Deserialize)]
struct Told<'a> {
    #[serde(borrow, default)]
    token: Text<'a>,
    #[serde(borrow, default)]
    logprob: Score<'a>,
    #[serde(borrow, default)]
    bytes: Field<'a>,
    #[serde(borrow, default)]
    top_logprobs: Option<Vec<Map<Told<'a>>>>,
}

/// Reads a list of tokens. `None`: it is none, in whatever way.
pub fn read_tokens(list: &RawValue) -> Option<Vec<Token<'_>>> {
    let told: Option<Vec<Map<Told<'_>>>> = serde_json::from_str(list.get()).ok()?;
    let tokens = told?.into_iter().map(|Map(told)| told.into_token());
    Some(tokens.collect())
}

/// The tokens of the text, and those of a refusal, which is the text where there is one.
pub fn read_said_tokens(logprobs: &RawValue) -> Option<Vec<Token<'_>>> {
    #[derive(Deserialize)]
    struct Logprobs<'a> {
        #[serde(borrow, default)]
        content: Field<'a>,
        #[serde(borrow, default)]
        refusal: Field<'a>,
    }
    let logprobs: Logprobs<'_> = serde_json::from_str(logprobs.get()).ok()?;
    let content = logprobs.content.told().and_then(read_tokens);
    let refusal = logprobs.refusal.told().and_then(read_tokens);
    match (content, refusal) {
        (Some(content), Some(refusal)) => Some(content.into_iter().chain(refusal).collect()),
        (content, refusal) => content.or(refusal),
    }
}

/// The number of alternatives that was asked for, where the API takes at most `most`.
pub fn alternatives(request: &CompletionRequest, most: u32) -> Result<Option<u32>, Error> {
    match request.logprobs {
        Some(count) if count > most => Err(Error::invalid(
            "logprobs",
            format!("`logprobs` must be at most {most} for this provider."),
        )),
        count => Ok(count),
    }
}

impl<'a> Told<'a> {
    fn into_token(mut self) -> Token<'a> {
        let top = self.top_logprobs.take().unwrap_or_default().into_iter();
        Token {
            top: top.map(|Map(told)| told.into_scored()).collect(),
            chosen: self.into_scored(),
        }
    }

    /// Bytes of nothing are untold ones.
    fn into_scored(self) -> Scored<'a> {
        let bytes = self.bytes.told();
        let bytes: Option<Vec<u8>> = bytes.and_then(|bytes| serde_json::from_str(bytes.get()).ok());
        Scored {
            bytes: bytes.filter(|bytes| !bytes.is_empty()),
            text: self.token.0,
            logprob: self.logprob,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Read = (String, Option<Vec<u8>>, usize);

    fn read(list: &str) -> Option<Vec<Read>> {
        let list: &RawValue = serde_json::from_str(list).unwrap();
        let read = |Token { chosen, top }| (chosen.text.into_owned(), chosen.bytes, top.len());
        Some(read_tokens(list)?.into_iter().map(read).collect())
    }

    #[test]
    fn an_odd_form_beside_a_good_text_counts_as_absent() {
        for odd in ["null", "5", "{}", r#"["a"]"#, "[5]", r#"[["a",-1]]"#] {
            assert_eq!(read(odd), None, "{odd}");
        }
        for (bytes, read_as) in [
            ("[195]", Some(vec![195])),
            ("[]", None),
            ("null", None),
            ("[256]", None),
            ("\"w6k=\"", None),
        ] {
            let list = format!(
                r#"[{{"id":7,"token":"a\ud83d","bytes":{bytes},"logprob":"x","top_logprobs":null}}]"#
            );
            let text = "a\u{FFFD}".to_owned();
            assert_eq!(read(&list), Some(vec![(text, read_as, 0)]), "{bytes}");
        }
    }
}
