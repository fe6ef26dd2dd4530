//! Whole replies that already have the page's shape: they pass as they came, with whatever stands beside it.

use std::borrow::Cow;

use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use crate::{
    completion::{FinishReason, OBJECT, Partial, Usage},
    dialect::{Tap, read_usage},
};

/// Reads a reply's token counts, and whether all that the page promises is there.
pub fn tap(body: &[u8], partial: &mut Partial) -> Tap {
    let reply = serde_json::from_slice::<PageReply<'_>>(body).ok();
    let Some(reply) = reply.filter(PageReply::keeps_to_the_page) else {
        partial.usage = count(body).or(partial.usage);
        return Tap::Translate;
    };
    partial.usage = Some(reply.usage);
    Tap::Pass {
        finished: u32::try_from(reply.choices.len()).unwrap_or(u32::MAX),
    }
}

#[derive(Deserialize)]
struct PageReply<'a> {
    #[serde(borrow, rename = "id")]
    _id: Cow<'a, str>,
    #[serde(borrow)]
    object: Cow<'a, str>,
    #[serde(rename = "created")]
    _created: u64,
    #[serde(borrow, rename = "model")]
    _model: Cow<'a, str>,
    #[serde(borrow)]
    choices: Vec<PageChoice<'a>>,
    usage: Usage,
    #[serde(default)]
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct PageChoice<'a> {
    #[serde(borrow)]
    text: &'a RawValue,
    #[serde(rename = "index")]
    _index: u32,
    #[serde(borrow)]
    logprobs: &'a RawValue,
    #[serde(rename = "finish_reason")]
    _finish_reason: FinishReason,
}

impl PageReply<'_> {
    fn keeps_to_the_page(&self) -> bool {
        self.object == OBJECT
            && self.error.is_none()
            && !self.choices.is_empty()
            && self.choices.iter().all(PageChoice::keeps_to_the_page)
    }
}

impl PageChoice<'_> {
    fn keeps_to_the_page(&self) -> bool {
        let logprobs = self.logprobs.get();
        self.text.get().starts_with('"') && (logprobs == "null" || logprobs.contains(LEGACY))
    }
}

/// The token counts of a reply or an event, whatever else is in it.
pub fn count(body: &[u8]) -> Option<Usage> {
    #[derive(Deserialize)]
    struct Reply<'a> {
        #[serde(borrow, default)]
        usage: Option<&'a RawValue>,
    }
    read_usage(serde_json::from_slice::<Reply<'_>>(body).ok()?.usage)
}

/// A field of the page's log-probabilities that those of chat do not have.
const LEGACY: &str = "\"token_logprobs\"";

#[cfg(test)]
mod tests {
    use super::*;

    const REPLY: &str = r#"{"id":"c","object":"text_completion","created":1,"model":"m","system_fingerprint":"f","choices":[{"text":"a","index":0,"logprobs":null,"finish_reason":"stop","stop_reason":null}],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}"#;

    #[test]
    fn a_reply_with_all_that_the_page_promises_passes() {
        let mut partial = Partial::default();
        let passes = Tap::Pass { finished: 1 };
        assert_eq!(tap(REPLY.as_bytes(), &mut partial), passes);
        assert_eq!(partial.usage.unwrap().total_tokens, 3);
    }

    #[test]
    fn a_reply_that_strays_from_the_page_is_read_and_counted_all_the_same() {
        for (page, strays) in [
            ("\"stop\"", "\"eos\""),
            ("\"stop\"", "null"),
            ("\"text\":\"a\"", "\"text\":null"),
            ("\"text\":\"a\",", ""),
            ("\"index\":0,", ""),
            ("\"logprobs\":null,", ""),
            ("\"logprobs\":null", "\"logprobs\":{\"content\":[]}"),
            ("text_completion", "chat.completion"),
            ("\"id\":\"c\",", ""),
            ("\"created\":1", "\"created\":\"now\""),
            ("{\"id\"", "{\"error\":{\"message\":\"no\"},\"id\""),
        ] {
            let reply = REPLY.replacen(page, strays, 1);
            assert_ne!(reply, REPLY, "{page}");
            let mut partial = Partial::default();
            assert_eq!(
                tap(reply.as_bytes(), &mut partial),
                Tap::Translate,
                "{reply}"
            );
            assert_eq!(partial.usage.unwrap().total_tokens, 3, "{reply}");
        }
        let mut partial = Partial::default();
        for broken in ["", "{", "[]", r#"{"choices":[]}"#] {
            assert_eq!(tap(broken.as_bytes(), &mut partial), Tap::Translate);
        }
        assert!(partial.usage.is_none());
    }
}
