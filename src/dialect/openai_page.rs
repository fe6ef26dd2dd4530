//! Replies and stream events that keep to the page: they pass as they came, with whatever stands beside it.
//!
//! Source: the API page. What passes is never written anew, so that this is all that stands between an upstream and a
//! client: every byte is read, as UTF-8 and as JSON, and every field that the page promises is looked at. An event is read
//! without an allocation.

use std::{borrow::Cow, ops::Range};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    completion::{Finished, Partial, Usage},
    dialect::{Tap, openai::learn_head, read_usage},
    scan::{Scan, is_inside_string},
};

/// Reads a whole reply's token counts, and whether all that the page promises is there.
pub fn tap_reply(body: &[u8], partial: &mut Partial) -> Tap {
    let page = read(body).filter(|page| page.choices.are_over());
    let Some((choices, usage)) = page.and_then(|page| Some((page.choices, page.usage?.0?))) else {
        partial.usage = count(body).or(partial.usage);
        return Tap::Translate;
    };
    partial.usage = Some(usage);
    // What was asked for and is not there is not to pass as it is.
    if choices.silent && partial.logprobs.is_wanted() {
        return Tap::Translate;
    }
    partial.finished.join(&choices.finished);
    Tap::Pass {
        finished: choices.told,
    }
}

/// The same of one stream event.
pub fn tap_event(data: &[u8], partial: &mut Partial) -> Tap {
    if partial.around.inside(data).is_some_and(is_inside_string) {
        return Tap::Pass { finished: 0 };
    }
    let Some(page) = read(data) else {
        return Tap::Translate;
    };
    let finished = page.choices.told;
    match page.usage {
        None if page.choices.count == 0 => return Tap::Translate,
        None => {}
        Some(Counts(None)) => return Tap::Translate,
        Some(Counts(usage)) => partial.usage = usage,
    }
    if page.choices.count == 0 {
        page.head(partial);
        return Tap::Usage;
    }
    if page.choices.count == 1 && finished == 0 && page.usage.is_none() {
        // It told nothing but its text.
        partial.around.learn(data, page.choices.text);
    }
    partial.finished.join(&page.choices.finished);
    if page.usage.is_some() {
        Tap::Counted { finished }
    } else {
        Tap::Pass { finished }
    }
}

/// The token counts of a reply or an event, whatever else is in it.
fn count(body: &[u8]) -> Option<Usage> {
    #[derive(Deserialize)]
    struct Reply<'a> {
        #[serde(borrow, default)]
        usage: Option<&'a RawValue>,
    }
    read_usage(serde_json::from_slice::<Reply<'_>>(body).ok()?.usage)
}

/// `None`: it strays from the page.
fn read(json: &[u8]) -> Option<Page<'_>> {
    let mut scan = Scan::new(std::str::from_utf8(json).ok()?);
    let (mut id, mut model, mut created) = (None, None, None);
    let (mut object, mut choices, mut usage) = (None, None, None);
    let mut error = None;
    scan.object(|name, scan| match name {
        b"id" => once(&mut id, scan.string()?),
        b"object" => once(
            &mut object,
            scan.value().filter(|it| *it == OBJECT_LITERAL)?,
        ),
        b"created" => once(&mut created, scan.whole()?),
        b"model" => once(&mut model, scan.string()?),
        b"choices" => once(&mut choices, read_choices(scan)?),
        b"usage" => once(&mut usage, scan.value()?),
        b"error" => once(&mut error, scan.value().filter(|it| *it == NULL)?),
        _ => scan.value().map(drop),
    })?;
    object.filter(|_| scan.is_over())?;
    Some(Page {
        id: id?,
        created: created?,
        model: model?,
        choices: choices?,
        usage: usage.filter(|usage| *usage != NULL).map(Counts::read),
    })
}

/// A field told twice strays from the page: which of the two counts is not for us to say.
fn once<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.replace(value).is_none().then_some(())
}

struct Page<'a> {
    /// A JSON string as it stands, as the model.
    id: &'a str,
    created: u64,
    model: &'a str,
    choices: Choices,
    usage: Option<Counts>,
}

impl Page<'_> {
    fn head(&self, partial: &mut Partial) {
        let decode = |literal| serde_json::from_str(literal).ok().map(Cow::Owned);
        let created = Some(self.created);
        learn_head(partial, decode(self.id), created, decode(self.model));
    }
}

/// Token counts; `None`: odd ones.
struct Counts(Option<Usage>);

impl Counts {
    fn read(json: &str) -> Self {
        let (mut prompt, mut completion, mut total) = (None, None, None);
        let read = Scan::new(json).object(|name, scan| match name {
            b"prompt_tokens" => once(&mut prompt, scan.whole()?),
            b"completion_tokens" => once(&mut completion, scan.whole()?),
            b"total_tokens" => once(&mut total, scan.whole()?),
            _ => scan.value().map(drop),
        });
        let (Some(()), Some(prompt_tokens), Some(total_tokens)) = (read, prompt, total) else {
            return Self(None);
        };
        Self(Some(Usage {
            prompt_tokens,
            completion_tokens: completion.unwrap_or_default(),
            total_tokens,
        }))
    }
}

/// What the choices come to; each of them has been looked at.
#[derive(Default)]
struct Choices {
    count: u32,
    /// Reasons told; more than `finished` where one choice tells two.
    told: u32,
    finished: Finished,
    /// One of them tells nothing of its tokens.
    silent: bool,
    /// Where the last one's text stands in what was read, without its quotes.
    text: Range<usize>,
}

impl Choices {
    /// Whether there are some and each has told why it ended.
    fn are_over(&self) -> bool {
        self.count > 0 && self.told == self.count
    }
}

fn read_choices(scan: &mut Scan<'_>) -> Option<Choices> {
    let mut choices = Choices::default();
    scan.list(|scan| {
        let choice = read_choice(scan)?;
        choices.count = choices.count.saturating_add(1);
        choices.silent |= choice.is_silent;
        choices.text = choice.text;
        if choice.is_over {
            choices.told = choices.told.saturating_add(1);
            choices.finished.end(choice.index);
        }
        Some(())
    })?;
    Some(choices)
}

struct Choice {
    index: u32,
    text: Range<usize>,
    /// It tells nothing of its tokens.
    is_silent: bool,
    /// It tells its reason.
    is_over: bool,
}

fn read_choice(scan: &mut Scan<'_>) -> Option<Choice> {
    let (mut text, mut index, mut is_silent, mut is_over) = (None, None, None, None);
    scan.object(|name, scan| match name {
        b"text" => {
            let length = scan.string()?.len();
            let end = scan.place();
            once(&mut text, end - length + 1..end - 1)
        }
        b"index" => once(&mut index, u32::try_from(scan.whole()?).ok()?),
        b"logprobs" => match scan.value()? {
            NULL => once(&mut is_silent, true),
            told if told.starts_with('{') && told.contains(LEGACY) => once(&mut is_silent, false),
            _ => None,
        },
        b"finish_reason" => match scan.value()? {
            NULL => once(&mut is_over, false),
            "\"stop\"" | "\"length\"" | "\"content_filter\"" => once(&mut is_over, true),
            _ => None,
        },
        _ => scan.value().map(drop),
    })?;
    Some(Choice {
        index: index?,
        text: text?,
        is_silent: is_silent?,
        is_over: is_over?,
    })
}

const NULL: &str = "null";
/// [`crate::completion::OBJECT`], as JSON.
const OBJECT_LITERAL: &str = "\"text_completion\"";
/// A field of the page's log-probabilities that those of chat do not have.
const LEGACY: &str = "\"token_logprobs\"";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::completion::Around;

    const REPLY: &str = r#"{"id":"c","object":"text_completion","created":1,"model":"m","system_fingerprint":"f","choices":[{"text":"a","index":0,"logprobs":null,"finish_reason":"stop","stop_reason":null}],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}"#;
    const EVENT: &str = r#"{"id":"c","object":"text_completion","created":1,"model":"m","choices":[{"text":"\u00e9 \ud83d","index":0,"logprobs":null,"finish_reason":null},{"text":"","index":1,"logprobs":{"token_logprobs":[]},"finish_reason":"stop"}],"usage":null,"x":[[{}]]}"#;

    #[test]
    fn a_reply_with_all_that_the_page_promises_passes() {
        let mut partial = Partial::default();
        let passes = Tap::Pass { finished: 1 };
        assert_eq!(tap_reply(REPLY.as_bytes(), &mut partial), passes);
        assert_eq!(partial.usage.unwrap().total_tokens, 3);
        assert!(partial.finished.covers(1));
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
                tap_reply(reply.as_bytes(), &mut partial),
                Tap::Translate,
                "{reply}"
            );
            assert_eq!(partial.usage.unwrap().total_tokens, 3, "{reply}");
        }
        let mut partial = Partial::default();
        for broken in ["", "{", "[]", r#"{"choices":[]}"#] {
            assert_eq!(tap_reply(broken.as_bytes(), &mut partial), Tap::Translate);
        }
        assert!(partial.usage.is_none());
    }

    #[test]
    fn what_is_no_utf8_does_not_pass_wherever_it_stands() {
        let mut partial = Partial::default();
        for (page, field) in [(REPLY, "\"f\""), (REPLY, "\"a\""), (EVENT, "\"\"")] {
            let (before, after) = page.split_once(field).unwrap();
            let broken = [before.as_bytes(), b"\"\xff\"", after.as_bytes()].concat();
            assert_eq!(tap_reply(&broken, &mut partial), Tap::Translate);
            assert_eq!(tap_event(&broken, &mut partial), Tap::Translate);
        }
    }

    #[test]
    fn an_event_that_keeps_to_the_page_passes_without_an_allocation() {
        let partial = std::cell::RefCell::new(Partial::default());
        let allocated = allocation_counter::measure(|| {
            let tapped = tap_event(EVENT.as_bytes(), &mut partial.borrow_mut());
            assert_eq!(tapped, Tap::Pass { finished: 1 });
        });
        assert_eq!(allocated.count_total, 0);
        let partial = partial.into_inner();
        assert!(!partial.finished.covers(2) && partial.finished.count() == 1);
    }

    #[test]
    fn an_event_that_strays_from_the_page_does_not_pass() {
        for (page, strays) in [
            ("\"id\":\"c\",", ""),
            ("\"id\":\"c\"", "\"id\":7"),
            ("text_completion", "completion.chunk"),
            ("\"created\":1,", ""),
            ("\"created\":1", "\"created\":1.5"),
            ("\"model\":\"m\",", ""),
            ("\"text\":\"\",", ""),
            ("\"text\":\"\"", "\"text\":null"),
            ("\"text\":\"\"", "\"text\":\"a\" oops"),
            ("\"text\":\"\"", "\"text\":\"\\x\""),
            ("\"text\":\"\"", "\"text\":\"a,"),
            ("\"index\":1,", ""),
            ("\"index\":1", "\"index\":\"1\""),
            ("\"index\":1", "\"index\":1,\"index\":1"),
            (",\"finish_reason\":\"stop\"", ""),
            ("\"stop\"", "\"eos\""),
            ("\"logprobs\":null,", ""),
            ("\"logprobs\":null", "\"logprobs\":5"),
            ("\"usage\":null", "\"usage\":{\"prompt_tokens\":1.5}"),
            ("\"usage\":null", "\"error\":{}"),
            ("{\"text\"", "[\"a\",0,null,null],{\"text\""),
            ("[[{}]]}", "[[{}]}"),
            ("[[{}]]}", "[[{}]]}{}"),
            ("[[{}]]}", "01}"),
        ] {
            let event = EVENT.replacen(page, strays, 1);
            assert_ne!(event, EVENT, "{page}");
            let tapped = tap_event(event.as_bytes(), &mut Partial::default());
            assert_eq!(tapped, Tap::Translate, "{event}");
        }
    }

    // What is known of the event before it changes nothing of what becomes of an event.
    #[test]
    fn an_event_like_the_one_before_it_is_read_as_if_it_were_the_first() {
        let sole = r#"{"id":"c","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":"a","logprobs":null,"finish_reason":null}],"usage":null}"#;
        let mut events = vec![sole.to_owned(), EVENT.to_owned()];
        for (page, other) in [
            ("\"a\"", "\"\""),
            ("\"a\"", "\" \\\"b\\\" \\u00e9 é\""),
            ("\"a\"", "\"\\\""),
            ("\"a\"", "\"\\\\\""),
            ("\"a\"", "\"\\u00e\""),
            ("\"a\"", "\"\\x\""),
            ("\"a\"", "\"\n\""),
            ("\"a\"", "null"),
            ("\"a\"", "\"a\",\"text\":\"b\""),
            (
                "\"a\"",
                "\"a\",\"logprobs\":null,\"finish_reason\":\"stop\"},{\"index\":1,\"text\":\"b\"",
            ),
            ("\"a\"", "\"a\",\"x\":\"b\""),
            ("\"finish_reason\":null", "\"finish_reason\":\"stop\""),
            (
                "\"usage\":null",
                "\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2,\"total_tokens\":3}",
            ),
            ("\"usage\":null", "\"error\":{}"),
            ("\"c\"", "\"d\""),
        ] {
            let event = sole.replacen(page, other, 1);
            assert_ne!(event, sole);
            events.push(event);
        }
        let tap = |event: &[u8], around: &Around| {
            let mut partial = Partial {
                around: around.clone(),
                ..Partial::default()
            };
            let tapped = tap_event(event, &mut partial);
            let read = format!("{tapped:?} {:?} {:?}", partial.usage, partial.finished);
            (read, partial.around)
        };
        let mut known = 0;
        for first in &events {
            let (_, around) = tap(first.as_bytes(), &Around::default());
            for second in &events {
                let second = second.as_bytes();
                known += u32::from(around.inside(second).is_some_and(is_inside_string));
                let (alone, _) = tap(second, &Around::default());
                let (behind, _) = tap(second, &around);
                assert_eq!(alone, behind, "{first} {}", String::from_utf8_lossy(second));
                for broken in [second.len() / 2, second.len() - 1] {
                    let cut = &second[..broken];
                    assert_eq!(tap(cut, &around).0, tap(cut, &Around::default()).0);
                }
            }
        }
        assert!(
            known > events.len() as u32,
            "{known} were like the one before"
        );
        // Bytes that are no UTF-8 are none in a text either.
        let (before, after) = sole.split_once("\"a\"").unwrap();
        let broken = [before.as_bytes(), b"\"\xff\"", after.as_bytes()].concat();
        let (_, around) = tap(sole.as_bytes(), &Around::default());
        assert!(around.inside(&broken).is_some());
        assert_eq!(tap(&broken, &around).0, tap(&broken, &Around::default()).0);
    }

    #[test]
    fn counts_are_told_apart_by_whether_choices_stand_beside_them() {
        let mut partial = Partial::default();
        let counted = EVENT.replace(
            "\"usage\":null",
            r#""usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}"#,
        );
        let tapped = tap_event(counted.as_bytes(), &mut partial);
        assert_eq!(tapped, Tap::Counted { finished: 1 });
        assert_eq!(partial.usage, Some(Usage::new(1, 2)));
        let (before, after) = REPLY.split_once("{\"text\"").unwrap();
        let (_, after) = after.split_once('}').unwrap();
        let alone = format!("{before}{after}");
        assert_eq!(tap_event(alone.as_bytes(), &mut partial), Tap::Usage);
        assert_eq!((&*partial.id, partial.created), ("c", 1));
        let nothing =
            r#"{"id":"c","object":"text_completion","created":1,"model":"m","choices":[]}"#;
        assert_eq!(tap_event(nothing.as_bytes(), &mut partial), Tap::Translate);
    }
}
