//! Events that differ in their text alone, one right behind the other: what became of the first is what becomes of the next.
//!
//! A model's tokens come in such rows. Reading an event and writing it anew costs several times what is done here: a comparison, and
//! a look at the text, which goes from one JSON string to the other as it stands.

use std::{borrow::Cow, ops::Range};

use memchr::memmem;

use crate::{
    completion::{Around, Choice, Completion},
    scan::is_inside_string,
    wire::{Form, Frame},
};

/// The event before, without its text: as it was read and as it was written.
#[derive(Clone, Debug, Default)]
pub struct Alike {
    /// Kept for the next one, so that a stream whose events all differ does not allocate for each.
    last: Option<Box<Last>>,
    is_known: bool,
}

#[derive(Clone, Debug)]
struct Last {
    event: Vec<u8>,
    form: Form,
    read: Around,
    written: Around,
}

impl Alike {
    /// What follows is not known by what came before.
    pub fn forget(&mut self) {
        self.is_known = false;
    }

    /// Takes over what `frame` was, whose text is `text`, and what it became.
    pub fn learn(&mut self, frame: &Frame, text: &str, written: &[u8]) {
        // In a string this name would have its quotes escaped.
        let there = memmem::find(written, TEXT).map(|at| at.saturating_add(TEXT.len()));
        let there = there.and_then(|at| quoted(written, at, text));
        let (Some(here), Some(there)) = (place(&frame.data, text), there) else {
            return;
        };
        let last = self.last.get_or_insert_with(|| {
            Box::new(Last {
                event: Vec::new(),
                form: frame.form,
                read: Around::default(),
                written: Around::default(),
            })
        });
        last.event.clear();
        last.event.extend_from_slice(&frame.event);
        last.form = frame.form;
        last.read.learn(&frame.data, here);
        last.written.learn(written, there);
        self.is_known = last.written.is_known();
    }

    /// Writes what becomes of `frame` if it is like the one before. `None`: it has to be read.
    pub fn write(&self, frame: &Frame) -> Option<impl FnOnce(&mut Vec<u8>)> {
        let last = self.last.as_deref().filter(|_| self.is_known)?;
        let is_same = frame.form == last.form && frame.event == last.event;
        let text = last.read.inside(&frame.data).filter(|_| is_same)?;
        // An empty one may be left out, and half of a surrogate is no text.
        let is_plain = !text.is_empty() && memmem::find(text, b"\\u").is_none();
        (is_plain && is_inside_string(text))
            .then_some(|out: &mut Vec<u8>| last.written.write(text, out))
    }
}

/// The text of a chunk that brings nothing else, if it stands in the event that it was read from.
pub fn sole_text<'f>(chunk: &Completion<'f>) -> Option<&'f str> {
    match chunk.choices.as_slice() {
        [
            Choice {
                text: Cow::Borrowed(text),
                logprobs: None,
                finish: None,
                ..
            },
        ] if !text.is_empty() => Some(text),
        _ => None,
    }
}

/// Where `text`, a part of `json`, stands as a string of its own, which then has no escapes.
fn place(json: &[u8], text: &str) -> Option<Range<usize>> {
    let at = text.as_ptr().addr().checked_sub(json.as_ptr().addr())?;
    let quote = at.checked_sub(1)?;
    (json.get(quote) == Some(&b'"')).then_some(())?;
    quoted(json, at, text)
}

/// The place of `text` in `json` if it stands at `at`, and a quote behind it.
fn quoted(json: &[u8], at: usize, text: &str) -> Option<Range<usize>> {
    let rest = json.get(at..)?.strip_prefix(text.as_bytes())?;
    rest.starts_with(b"\"").then_some(at..at + text.len())
}

const TEXT: &[u8] = b"\"text\":\"";

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::Value;

    use crate::{
        completion::{Compliance, Partial},
        dialect::{Dialect, anthropic::ANTHROPIC, chat::CHAT, gemini::GEMINI},
        exchange::relay::{Answer, Counts, Relay, Wishes},
    };

    /// A dialect, and one event of its streams with `$` for its text.
    const EVENTS: [(&dyn Dialect, &str); 3] = [
        (
            &ANTHROPIC,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"$"}}"#,
        ),
        (
            &CHAT,
            r#"{"id":"a \"text\":\"b\"","created":1,"model":"m","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"$"},"logprobs":null,"finish_reason":null}]}"#,
        ),
        (
            &GEMINI,
            r#"{"candidates":[{"content":{"parts":[{"text":"$"}],"role":"model"},"index":0}],"usageMetadata":{"promptTokenCount":1,"candidatesTokenCount":2},"modelVersion":"m","responseId":"r"}"#,
        ),
    ];
    /// As they stand between the quotes of a JSON string, or what is none.
    const TEXTS: &[&str] = &[
        "a",
        " treats",
        "é 😀",
        "",
        "\\n",
        "\\\"",
        "\\\\",
        "\\/",
        "\\u00e9",
        "\\ud83d\\ude00",
        "\\ud83d",
        "\\\\u",
        "\\",
        "\\x",
        "\u{1}",
        "a\",\"x\":\"b",
        "a\"},{\"text\":\"b",
        "[DONE]",
        "\u{7f}\u{2028}",
    ];

    fn events() -> impl Iterator<Item = (&'static dyn Dialect, Vec<String>)> {
        EVENTS.iter().map(|(dialect, event)| {
            let mut events: Vec<_> = TEXTS.iter().map(|text| event.replace('$', text)).collect();
            for (here, there) in [
                ("\"index\":0", "\"index\":1"),
                ("\"finish_reason\":null", "\"finish_reason\":\"stop\""),
                (
                    "\"role\":\"model\"},",
                    "\"role\":\"model\"},\"finishReason\":\"STOP\",",
                ),
                ("\"content\":\"$\"", "\"content\":\"\",\"refusal\":\"$\""),
                (
                    "\"content\":\"$\"",
                    "\"content\":[{\"type\":\"text\",\"text\":\"$\"}]",
                ),
                ("{\"text\":\"$\"}", "{\"text\":\"$\"},{\"text\":\"c\"}"),
                ("{\"text\":\"$\"}", "{\"text\":\"$\",\"thought\":true}"),
                ("\"candidatesTokenCount\":2", "\"candidatesTokenCount\":3"),
                ("\"text_delta\"", "\"thinking_delta\""),
                ("\"m\"", "\"n\""),
            ] {
                let other = event.replacen(here, there, 1);
                if other != *event {
                    events.extend(["a", "b\\n"].map(|text| other.replace('$', text)));
                }
            }
            (*dialect, events)
        })
    }

    fn relay(dialect: &'static dyn Dialect, counts: Counts) -> Relay {
        let wishes = Wishes {
            compliance: Compliance::Strict,
            counts,
            choices: 1,
            max_event_bytes: 1 << 20,
        };
        Relay::new(dialect, Partial::default(), wishes, Answer::Stream)
    }

    /// What is told of an event behind others, and how far the answer is then.
    fn tell(relay: &mut Relay, event: &str) -> (Vec<Value>, String) {
        let frame = format!("data: {event}\n\n");
        let out = relay.push(Bytes::from(frame));
        let out = std::str::from_utf8(&out).unwrap();
        let events = out.split_terminator("\n\n");
        let read = |event: &str| serde_json::from_str(event.strip_prefix("data: ").unwrap());
        let mut partial = relay.partial().clone();
        partial.around = Default::default();
        let told = events.map(|event| read(event).unwrap()).collect();
        (told, format!("{partial:?} {:?}", relay.failure()))
    }

    #[test]
    fn whatever_came_before_an_event_is_told_as_by_one_who_reads_each() {
        for (dialect, events) in events() {
            for first in &events {
                for second in &events {
                    for counts in [Counts::Final, Counts::Running] {
                        let (mut quick, mut slow) =
                            (relay(dialect, counts), relay(dialect, counts));
                        for event in [first, second, second] {
                            slow.alike.forget();
                            assert_eq!(
                                tell(&mut quick, event),
                                tell(&mut slow, event),
                                "{first} {event}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_text_goes_over_as_it_stands_where_the_event_before_it_was_alike() {
        for (dialect, event) in EVENTS {
            let mut relay = relay(dialect, Counts::Final);
            let mut push = |text: &str| {
                let event = format!("data: {}\n\n", event.replace('$', text));
                let out = relay.push(Bytes::from(event));
                String::from_utf8(out.to_vec()).unwrap()
            };
            let first = push("a");
            assert_eq!(
                push("\\/"),
                first.replacen("\"text\":\"a\"", "\"text\":\"\\/\"", 1)
            );
            // Read, and written anew.
            assert!(
                push("\\u002f").contains("\"text\":\"/\""),
                "{}",
                dialect.name()
            );
        }
    }
}
