//! The other endpoint for the same question: Mistral's `POST /v1/fim/completions`, as its clients ask it and as they want it
//! answered, whichever provider answers.
//!
//! Source: <https://docs.mistral.ai/api/endpoint/fim>. Its request is a text completion with a suffix in other words; its
//! answer has the form of Mistral's chat. A stream's last event has the finish reason and the counts together, which a
//! provider need not tell at once: the reason waits for the end.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    completion::{
        Choice, CompletionRequest, Compliance, Finish, FinishReason, Parameter, Partial, Prompt,
        Usage, write_data,
    },
    error::Error,
};

/// Which of the two endpoints was asked: what its answer looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// `/v1/completions`: `text_completion`.
    #[default]
    Text,
    /// `/v1/fim/completions`: `chat.completion`.
    Fim,
}

/// How far an answer of this form has come.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// The first event, which names the role, has been written.
    opened: bool,
    /// The finish reason that waits for the end, and the provider's own word for it.
    ending: Option<(FinishReason, Option<String>)>,
}

impl CompletionRequest {
    /// Reads a body of the endpoint. Its own name for the seed is `random_seed`.
    pub fn read_fim(
        body: Bytes,
        overrides: &BTreeMap<String, Box<RawValue>>,
    ) -> Result<Self, Error> {
        let mut request = Self::read_with(body, overrides)?;
        request.shape = Shape::Fim;
        if let Some(told) = request.extra.remove(SEED) {
            let seed: i64 = serde_json::from_str(told.get())
                .map_err(|_| Error::invalid(SEED, format!("`{SEED}` must be a whole number.")))?;
            if request.seed.is_some_and(|other| other != seed) {
                let message = format!("`{SEED}` and `seed` name the same figure and differ.");
                return Err(Error::invalid(SEED, message));
            }
            request.seed = Some(seed);
        }
        check(&request)?;
        Ok(request)
    }

    /// What the client calls `parameter`.
    pub fn field(&self, parameter: Parameter) -> &'static str {
        match (self.shape, parameter) {
            (Shape::Fim, Parameter::Seed) => SEED,
            (Shape::Fim | Shape::Text, other) => other.field(),
        }
    }
}

/// What a completion may ask and this endpoint cannot answer.
fn check(request: &CompletionRequest) -> Result<(), Error> {
    if let Some(parameter) = BEYOND.iter().find(|&&parameter| request.asks(parameter)) {
        let field = parameter.field();
        let message = format!("`{field}` has no place in an answer of this endpoint.");
        return Err(Error::invalid(field, message));
    }
    match &request.prompt {
        Prompt::Text(_) => Ok(()),
        Prompt::Absent | Prompt::Texts(_) | Prompt::Tokens(_) | Prompt::TokenLists(_) => {
            let message = "`prompt` must be one text for this endpoint.";
            Err(Error::invalid("prompt", message))
        }
    }
}

impl Partial {
    pub(super) fn write_fim_reply(
        &self,
        choices: &[Choice<'_>],
        how: Compliance,
        out: &mut Vec<u8>,
    ) {
        let choices = choices.iter().map(|choice| Whole {
            index: choice.index,
            message: Message {
                role: ROLE,
                content: &choice.text,
            },
            finish_reason: choice.finish.as_ref().map(|finish| finish.reason),
            native_finish_reason: choice
                .finish
                .as_ref()
                .and_then(|finish| native(finish, how)),
        });
        // Its clients need the object; one without figures says that nobody counted.
        let usage = Counts::Whole(self.usage);
        self.write_fim(REPLY, choices.collect(), Some(usage), out);
    }

    pub(super) fn write_fim_chunk(
        &mut self,
        choices: &[Choice<'_>],
        how: Compliance,
        out: &mut Vec<u8>,
    ) {
        for choice in choices {
            if let Some(finish) = &choice.finish {
                let native = native(finish, how).map(str::to_owned);
                self.fim.ending = Some((finish.reason, native));
            }
            if !choice.text.is_empty() {
                let piece = self.piece(&choice.text);
                self.write_event(piece, None, out);
                self.fim.opened = true;
            }
        }
    }

    /// Appends the event that waited for the end. Nothing where the provider's own events passed.
    pub(super) fn write_fim_end(&self, out: &mut Vec<u8>) {
        let Some((reason, native)) = &self.fim.ending else {
            return;
        };
        let last = Piece {
            finish_reason: Some(*reason),
            native_finish_reason: native.as_deref(),
            ..self.piece("")
        };
        self.write_event(last, self.usage.map(Counts::Event), out);
    }

    fn piece<'a>(&self, content: &'a str) -> Piece<'a> {
        Piece {
            index: 0,
            delta: Delta {
                role: (!self.fim.opened).then_some(ROLE),
                content,
            },
            finish_reason: None,
            native_finish_reason: None,
        }
    }

    fn write_event(&self, piece: Piece<'_>, usage: Option<Counts>, out: &mut Vec<u8>) {
        write_data(out, |out| self.write_fim(CHUNK, vec![piece], usage, out));
    }

    fn write_fim<C: Serialize>(
        &self,
        object: &'static str,
        choices: Vec<C>,
        usage: Option<Counts>,
        out: &mut Vec<u8>,
    ) {
        let body = Body {
            id: &self.id,
            object,
            created: self.created,
            model: &self.model,
            choices,
            usage,
        };
        // A `Vec` takes every write and the fields are strings and numbers: this cannot fail.
        let _ = serde_json::to_writer(out, &body);
    }
}

fn native<'f>(finish: &'f Finish<'_>, how: Compliance) -> Option<&'f str> {
    let told = Some(&*finish.native).filter(|native| !native.is_empty());
    told.filter(|_| how == Compliance::Loose)
}

#[derive(Serialize)]
struct Body<'a, C> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<C>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Counts>,
}

#[derive(Serialize)]
struct Whole<'a> {
    index: u32,
    message: Message<'a>,
    finish_reason: Option<FinishReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    native_finish_reason: Option<&'a str>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

#[derive(Serialize)]
struct Piece<'a> {
    index: u32,
    delta: Delta<'a>,
    finish_reason: Option<FinishReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    native_finish_reason: Option<&'a str>,
}

#[derive(Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    content: &'a str,
}

enum Counts {
    /// Always an object, which may be empty.
    Whole(Option<Usage>),
    Event(Usage),
}

impl Serialize for Counts {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Whole(Some(usage)) | Self::Event(usage) => usage.serialize(serializer),
            Self::Whole(None) => serializer.collect_map::<(), (), _>([]),
        }
    }
}

/// What `max_tokens` is where a client of this endpoint names none, and the provider has to be told: what fits into a gap.
/// Mistral itself is told nothing then.
pub const MAX_TOKENS: u64 = 256;

pub(super) const SEED: &str = "random_seed";
/// The endpoint's answer holds one text, and its tokens' probabilities nowhere.
const BEYOND: &[Parameter] = &[
    Parameter::N,
    Parameter::BestOf,
    Parameter::Echo,
    Parameter::Logprobs,
];
const ROLE: &str = "assistant";
const REPLY: &str = "chat.completion";
const CHUNK: &str = "chat.completion.chunk";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dialect::{Dialect, chat::CHAT, fim::VERBATIM, openai::OPENAI},
        exchange::relay::{Answer, Counts, Relay, Wishes},
    };

    fn read(fields: &str) -> Result<CompletionRequest, Error> {
        let body = format!(r#"{{"model":"m",{fields}}}"#);
        CompletionRequest::read_fim(Bytes::from(body), &BTreeMap::new())
    }

    #[test]
    fn the_endpoints_own_words_are_read() {
        let request = read(r#""prompt":"a","suffix":"b","random_seed":7,"min_tokens":1"#).unwrap();
        assert_eq!((request.seed, request.max_tokens()), (Some(7), MAX_TOKENS));
        assert_eq!(request.suffix.as_deref(), Some("b"));
        assert_eq!(request.extra.keys().collect::<Vec<_>>(), ["min_tokens"]);
        assert!(request.source().is_none() && request.fim_source().is_some());
        let plain = CompletionRequest::read(Bytes::from_static(b"{}")).unwrap();
        assert_eq!((plain.max_tokens(), plain.fim_source()), (16, None));
    }

    #[test]
    fn what_the_answer_has_no_place_for_is_refused_by_name() {
        for (fields, param) in [
            (r#""prompt":"a","n":2"#, "n"),
            (r#""prompt":"a","best_of":2"#, "best_of"),
            (r#""prompt":"a","echo":true"#, "echo"),
            (r#""prompt":"a","logprobs":0"#, "logprobs"),
            (r#""prompt":["a","b"]"#, "prompt"),
            (r#""prompt":[1]"#, "prompt"),
            (r#""suffix":"b""#, "prompt"),
            (r#""prompt":"a","random_seed":"x""#, "random_seed"),
            (r#""prompt":"a","random_seed":1,"seed":2"#, "random_seed"),
        ] {
            let error = read(fields).expect_err(fields);
            assert_eq!(
                (error.status().as_u16(), error.param()),
                (400, Some(param)),
                "{fields}"
            );
        }
    }

    const TEXT: &str = concat!(
        "data: {\"id\":\"c\",\"object\":\"text_completion\",\"created\":1,\"model\":\"m\",\"choices\":[{\"text\":\"é\",\"index\":0,\"logprobs\":null,\"finish_reason\":null}]}\n\n",
        "data: {\"id\":\"c\",\"object\":\"text_completion\",\"created\":1,\"model\":\"m\",\"choices\":[{\"text\":\"b\",\"index\":0,\"logprobs\":null,\"finish_reason\":\"length\"}]}\n\n",
        "data: {\"id\":\"c\",\"object\":\"text_completion\",\"created\":1,\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2,\"total_tokens\":3}}\n\n",
        "data: [DONE]\n\n",
    );
    const CHAT_EVENTS: &str = concat!(
        "data: {\"id\":\"c\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
        "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"é\"}}]}\n\n",
        "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"b\"},\"finish_reason\":\"length\"}]}\n\n",
        "data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2,\"total_tokens\":3}}\n\n",
        "data: [DONE]\n\n",
    );
    const FIM: &str = concat!(
        "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"é\"},\"finish_reason\":null}]}\n\n",
        "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"b\"},\"finish_reason\":null}]}\n\n",
        "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"},\"finish_reason\":\"length\"}],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2,\"total_tokens\":3}}\n\n",
        "data: [DONE]\n\n",
    );

    fn relay(dialect: &'static dyn Dialect, answer: Answer, pieces: &[&[u8]]) -> (String, Relay) {
        let wishes = Wishes {
            compliance: Compliance::Strict,
            // What the other shape tells in an event of its own has no place in this one.
            counts: Counts::Final,
            choices: 1,
            max_event_bytes: 1 << 20,
        };
        let partial = Partial {
            id: "seed".to_owned(),
            shape: Shape::Fim,
            ..Partial::default()
        };
        let mut relay = Relay::new(dialect, partial, wishes, answer);
        let mut out = Vec::new();
        for piece in pieces {
            out.extend(relay.push(Bytes::copy_from_slice(piece)));
        }
        out.extend(relay.finish().unwrap());
        (String::from_utf8(out).unwrap(), relay)
    }

    #[test]
    fn a_stream_of_any_dialect_becomes_mistrals_at_every_cut() {
        for (dialect, stream) in [
            (&OPENAI as &'static dyn Dialect, TEXT),
            (&CHAT, CHAT_EVENTS),
            (&VERBATIM, FIM),
        ] {
            let bytes = stream.as_bytes();
            for at in 0..bytes.len() {
                let (out, relay) = relay(dialect, Answer::Stream, &[&bytes[..at], &bytes[at..]]);
                assert_eq!(out, FIM, "{} {at}", dialect.name());
                assert_eq!(relay.partial().usage, Some(Usage::new(1, 2)));
            }
        }
    }

    #[test]
    fn a_cut_stream_ends_with_an_error_and_without_its_end() {
        for (dialect, stream) in [(&OPENAI as &'static dyn Dialect, TEXT), (&VERBATIM, FIM)] {
            let end = stream.find("length").unwrap();
            let (out, relay) = relay(dialect, Answer::Stream, &[&stream.as_bytes()[..end - 60]]);
            assert!(relay.failure().is_some());
            assert!(
                out.contains("\"error\":") && !out.contains("[DONE]"),
                "{out}"
            );
        }
    }

    #[test]
    fn a_whole_answer_becomes_mistrals() {
        let text = r#"{"id":"c","object":"text_completion","created":1,"model":"m","choices":[{"text":"é","index":0,"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}"#;
        let chat = r#"{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"é"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}"#;
        for (dialect, reply) in [
            (&OPENAI as &'static dyn Dialect, text),
            (&CHAT, chat),
            (&VERBATIM, chat),
        ] {
            let (out, _) = relay(dialect, Answer::Whole, &[reply.as_bytes()]);
            assert_eq!(out, chat);
            let (out, _) = relay(dialect, Answer::WholeAsStream, &[reply.as_bytes()]);
            let events: Vec<_> = out.split_terminator("\n\n").collect();
            assert_eq!(events.len(), 3, "{out}");
            assert!(
                events[1].contains(r#""finish_reason":"stop"}],"usage":{"#),
                "{out}"
            );
        }
    }

    #[test]
    fn mistrals_own_answer_passes_to_the_byte() {
        let reply = "{\"id\": \"c\",\n\"new\": [1], \"choices\": [{\"index\": 0, \"message\": {\"content\": \"a\", \"tool_calls\": null}, \"finish_reason\": \"model_length\"}]}";
        assert_eq!(
            relay(&VERBATIM, Answer::Whole, &[reply.as_bytes()]).0,
            reply
        );
        let stream = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}],\"p\":\"abc\",\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2,\"total_tokens\":3}}\n\ndata: [DONE]\n\n";
        assert_eq!(
            relay(&VERBATIM, Answer::Stream, &[stream.as_bytes()]).0,
            stream
        );
    }

    #[test]
    fn nobody_is_told_counts_that_nobody_made() {
        let reply = r#"{"choices":[{"index":0,"message":{"content":"a"},"finish_reason":"stop"}]}"#;
        let (out, _) = relay(&CHAT, Answer::Whole, &[reply.as_bytes()]);
        assert!(out.ends_with(r#""usage":{}}"#), "{out}");
    }
}
