//! OpenAI-shaped chat: `POST {base}/chat/completions`, for providers that have no text completions.
//!
//! Source: <https://platform.openai.com/docs/api-reference/chat>. The prompt becomes one user message, the message's content
//! becomes `text`. The model answers the prompt rather than continuing it: that is what chat models do.

use std::borrow::Cow;

use http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    completion::{
        Choice, Completion, CompletionRequest, Mark, Parameter, Partial, Support,
        logprobs::behind_thoughts,
    },
    dialect::{
        Dialect, Extras, Step, UpstreamRequest,
        lenient::{Field, Map, Text, learn, read_object},
        not_the_shape,
        openai_error::{read_error, read_error_event, read_finish, read_told_error},
        read_usage,
        token_logprobs::read_said_tokens,
    },
    error::Error,
    wire::{Form, Frame, Framing},
};

/// OpenAI-shaped chat, with the few words in which vendors differ.
#[derive(Debug)]
pub struct Chat {
    name: &'static str,
    pub(super) seed: Seed,
    pub(super) stream_usage: StreamUsage,
    logprobs: Support,
    extras: Extras,
    /// Its own way; `None`: each provider's.
    prefill: Option<Mark>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seed {
    Seed,
    RandomSeed,
}

/// Whether a stream's token counts have to be asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StreamUsage {
    OnRequest,
    Always,
}

pub static CHAT: Chat = Chat {
    name: "chat",
    seed: Seed::Seed,
    stream_usage: StreamUsage::OnRequest,
    logprobs: Support::Native,
    extras: Extras::Pass,
    prefill: None,
};

/// Mistral's chat: `random_seed`, counts in every stream, no log-probabilities, unknown fields refused by its server too.
/// Source: <https://docs.mistral.ai/api/#operation/createChatCompletion>. A [prefix](https://docs.mistral.ai/guides/prefix/) stands
/// in the answer too.
pub static MISTRAL_CHAT: Chat = Chat {
    name: "mistral-chat",
    seed: Seed::RandomSeed,
    stream_usage: StreamUsage::Always,
    logprobs: Support::Refused,
    extras: Extras::Pass,
    prefill: Some(Mark::RepeatedPrefix),
};

impl Dialect for Chat {
    fn name(&self) -> &'static str {
        self.name
    }

    fn framing(&self) -> Framing {
        Framing::Sse
    }

    fn support(&self, parameter: Parameter) -> Support {
        match parameter {
            Parameter::MaxTokens
            | Parameter::Temperature
            | Parameter::TopP
            | Parameter::N
            | Parameter::Stream
            | Parameter::Stop
            | Parameter::PresencePenalty
            | Parameter::FrequencyPenalty
            | Parameter::User
            | Parameter::Seed
            | Parameter::LogitBias => Support::Native,
            Parameter::StreamOptions => Support::Emulated,
            Parameter::Prompts
            | Parameter::TokenIds
            | Parameter::Suffix
            | Parameter::Echo
            | Parameter::BestOf => Support::Refused,
            Parameter::Logprobs => self.logprobs,
        }
    }

    fn extras(&self) -> Extras {
        self.extras
    }

    fn prefill(&self, told: Option<Mark>, _model: Option<&str>) -> Option<Mark> {
        self.prefill.or(told)
    }

    fn write_request(&self, request: &CompletionRequest) -> Result<UpstreamRequest, Error> {
        Ok(UpstreamRequest {
            path: Cow::Borrowed("/chat/completions"),
            headers: &[],
            body: self.write_body(request, request.model())?,
        })
    }

    fn read_reply<'b>(
        &self,
        body: &'b [u8],
        partial: &mut Partial,
    ) -> Result<Completion<'b>, Error> {
        let reply: Event<'b> = read_object(body)?;
        if let Some(error) = read_told_error(reply.error, reply.object, body) {
            return Err(error);
        }
        reply.check_whole()?;
        let choices = reply.read(partial)?;
        if choices.is_empty() {
            return Err(Error::broken("The provider's answer holds no choices."));
        }
        Ok(Completion { choices })
    }

    fn read_frame<'f>(&self, frame: &'f Frame, partial: &mut Partial) -> Result<Step<'f>, Error> {
        if &*frame.event == b"error" && frame.form == Form::Other {
            return Err(read_error_event(&frame.data));
        }
        if frame.form == Form::Comment {
            return Ok(Step::Skip);
        }
        if frame.data.trim_ascii() == b"[DONE]" {
            return Ok(Step::Done);
        }
        let event: Event<'f> = read_object(&frame.data)?;
        if let Some(error) = read_told_error(event.error, event.object, &frame.data) {
            return Err(error);
        }
        event.read(partial).map(Step::from)
    }

    fn tells_alike(&self) -> bool {
        true
    }

    fn read_error(&self, status: StatusCode, body: &[u8]) -> Error {
        read_error(status, body)
    }
}

/// A whole reply or one event; an error in its place is read too.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, default)]
    id: Field<'a>,
    #[serde(borrow, default)]
    created: Field<'a>,
    #[serde(borrow, default)]
    model: Field<'a>,
    #[serde(borrow, default)]
    object: Field<'a>,
    #[serde(borrow, default)]
    choices: Option<Vec<Map<EventChoice<'a>>>>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct EventChoice<'a> {
    #[serde(borrow, default)]
    index: Field<'a>,
    /// Whole replies.
    #[serde(borrow, default)]
    message: Option<Content<'a>>,
    /// Streams.
    #[serde(borrow, default)]
    delta: Option<Content<'a>>,
    /// The form of text completions: whoever sends it does not speak this API.
    #[serde(borrow, default)]
    text: Field<'a>,
    #[serde(borrow, default)]
    logprobs: Field<'a>,
    #[serde(borrow, default)]
    finish_reason: Field<'a>,
}

#[derive(Default, Deserialize)]
struct Content<'a> {
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    /// "The refusal message generated by the model", in place of a content.
    #[serde(borrow, default)]
    refusal: Field<'a>,
    /// Thoughts, which are left out, under either name that servers have for them.
    #[serde(borrow, default)]
    reasoning: Field<'a>,
    #[serde(borrow, default)]
    reasoning_content: Field<'a>,
}

/// One part of a content list; reasoning models send thoughts beside the text.
#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow, default)]
    text: Option<Text<'a>>,
}

impl<'a> Event<'a> {
    /// A whole reply without the field for its text has it elsewhere. An event may be a finish reason alone.
    fn check_whole(&self) -> Result<(), Error> {
        let mut choices = self.choices.iter().flatten().map(|Map(choice)| choice);
        match choices.find(|choice| choice.message.is_none() && choice.delta.is_none()) {
            Some(_) => Err(Error::broken(NO_MESSAGE)),
            None => Ok(()),
        }
    }

    fn read(self, partial: &mut Partial) -> Result<Vec<Choice<'a>>, Error> {
        learn(partial, self.id, self.created, self.model);
        partial.usage = read_usage(self.usage).or(partial.usage);
        let choices = self.choices.into_iter().flatten();
        (0..)
            .zip(choices)
            .map(|(place, Map(choice))| choice.read(place, partial))
            .collect()
    }
}

impl<'a> EventChoice<'a> {
    /// `place`: its index where it tells none.
    fn read(self, place: u32, partial: &mut Partial) -> Result<Choice<'a>, Error> {
        let index = self.index.figure().unwrap_or(place);
        let finish = self
            .finish_reason
            .word()
            .filter(|reason| !reason.is_empty());
        if finish.is_some() {
            partial.finished.end(index);
        }
        let said = self.message.or(self.delta);
        if said.is_none() && self.text.told().is_some() {
            return Err(Error::broken(NO_MESSAGE));
        }
        let finish = finish.map(read_finish).transpose()?;
        let said = said.unwrap_or_default();
        let thinks = said.thinks();
        let text = said.read(index, partial)?;
        let tokens = || {
            let tokens = self.logprobs.object().and_then(read_said_tokens)?;
            Some(match thinks {
                true => behind_thoughts(tokens, &text),
                false => tokens,
            })
        };
        Ok(Choice {
            index,
            logprobs: partial.logprobs.place(index, &text, tokens),
            text,
            finish: finish.map(|finish| partial.judge(index, finish)),
        })
    }
}

impl<'a> Content<'a> {
    fn thinks(&self) -> bool {
        let mut thoughts = [self.reasoning, self.reasoning_content].into_iter();
        thoughts.any(|thought| thought.told().is_some_and(|told| told.get() != "\"\""))
    }

    /// What is said. A refusal is an answer too: it is the text, and a content filter its reason, as a text client knows it.
    fn read(self, index: u32, partial: &mut Partial) -> Result<Cow<'a, str>, Error> {
        let text = self.content.map_or(Ok(Cow::Borrowed("")), read_content)?;
        Ok(match self.refusal.word().filter(|text| !text.is_empty()) {
            Some(refusal) => {
                partial.refused.end(index);
                text + refusal
            }
            None => text,
        })
    }
}

fn read_content(content: &RawValue) -> Result<Cow<'_, str>, Error> {
    if content.get().starts_with('[') {
        let parts: Vec<Part<'_>> = serde_json::from_str(content.get()).map_err(not_the_shape)?;
        return Ok(Cow::Owned(
            parts
                .into_iter()
                .filter_map(|part| part.text.map(|text| text.0))
                .collect::<String>(),
        ));
    }
    let text: Option<Text<'_>> = serde_json::from_str(content.get()).map_err(not_the_shape)?;
    Ok(text.unwrap_or_default().0)
}

const NO_MESSAGE: &str =
    "The provider's answer is no chat completion: a choice of it has no message.";

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{completion::logprobs::Running, dialect::settle};

    fn write(dialect: &Chat, fields: &str) -> Result<String, Error> {
        let body = format!(r#"{{"model":"m","prompt":"a",{fields}}}"#);
        let mut request = CompletionRequest::read(Bytes::from(body))?;
        settle(&mut request, dialect, &[Parameter::User], "mistral")?;
        let body = dialect.write_request(&request)?.body;
        Ok(String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn a_contradiction_is_refused_by_name_and_nothing_is_sent_twice() {
        let error = write(&MISTRAL_CHAT, r#""seed":1,"random_seed":2"#).unwrap_err();
        assert_eq!(
            (error.status().as_u16(), error.param()),
            (400, Some("random_seed"))
        );
        let sent = |dialect, fields| write(dialect, fields).unwrap();
        assert!(sent(&MISTRAL_CHAT, r#""random_seed":2"#).contains(r#""random_seed":2"#));
        let limited = sent(&CHAT, r#""max_completion_tokens":500"#);
        assert!(limited.ends_with(r#""max_tokens":500}"#), "{limited}");
        let neutral = sent(&MISTRAL_CHAT, r#""messages":null,"user":"","unknown":null"#);
        assert!(neutral.ends_with(r#""max_tokens":16}"#), "{neutral}");
    }

    #[test]
    fn an_odd_figure_beside_a_good_text_counts_as_absent() {
        for (good, odd) in [
            ("\"created\":7", "\"created\":7.5"),
            ("\"created\":7", "\"created\":\"now\""),
            ("\"id\":\"c\"", "\"id\":5"),
            ("\"model\":\"m\"", "\"model\":{}"),
            ("\"index\":0", "\"index\":null"),
            ("\"index\":0", "\"index\":\"0\""),
            ("\"index\":0", "\"index\":-1"),
            ("\"usage\":null", "\"usage\":null,\"usage\":{}"),
            ("\"usage\":null", "\"usage\":[]"),
        ] {
            let body = r#"{"id":"c","created":7,"model":"m","choices":[{"index":0,"message":{"content":"\ud83d"},"finish_reason":"stop"}],"usage":null}"#;
            let body = body.replacen(good, odd, 1);
            assert!(body.contains(odd));
            let mut partial = Partial::default();
            let reply = CHAT.read_reply(body.as_bytes(), &mut partial).unwrap();
            let choice = &reply.choices[0];
            assert_eq!((choice.index, &*choice.text), (0, "\u{FFFD}"), "{odd}");
            assert!(partial.finished.covers(1) && partial.usage.is_none());
        }
    }

    #[test]
    fn log_probabilities_are_asked_for_in_chats_words() {
        let sent = |fields| write(&CHAT, fields).unwrap();
        assert!(sent(r#""logprobs":0"#).ends_with(r#""logprobs":true}"#));
        assert!(sent(r#""logprobs":20"#).ends_with(r#""logprobs":true,"top_logprobs":20}"#));
        assert!(!sent(r#""logprobs":null"#).contains("logprobs"));
        for (dialect, fields, param) in [
            (&CHAT, r#""logprobs":21"#, "logprobs"),
            (&CHAT, r#""logprobs":1,"top_logprobs":2"#, "top_logprobs"),
            (&MISTRAL_CHAT, r#""logprobs":0"#, "logprobs"),
        ] {
            let error = write(dialect, fields).unwrap_err();
            assert_eq!((error.status().as_u16(), error.param()), (400, Some(param)));
        }
    }

    #[test]
    fn the_tokens_of_thoughts_are_not_told() {
        let asked = Bytes::from_static(br#"{"logprobs":0}"#);
        let asked = Running::of(&CompletionRequest::read(asked).unwrap());
        let token = |text| format!(r#"{{"token":"{text}","logprob":-1}}"#);
        let list = [token("hm"), token("."), token("é"), token("b")].join(",");
        for (message, offsets) in [
            (r#""content":"éb","reasoning_content":"hm.""#, Some("[0,1]")),
            (r#""content":null,"reasoning":"hm.éb""#, None),
            (r#""content":"hm.éb","reasoning":"""#, Some("[0,2,3,4]")),
        ] {
            let body = format!(
                r#"{{"choices":[{{"message":{{{message}}},"logprobs":{{"content":[{list}]}}}}]}}"#
            );
            let mut partial = Partial {
                logprobs: asked.clone(),
                ..Partial::default()
            };
            let reply = CHAT.read_reply(body.as_bytes(), &mut partial).unwrap();
            let told = serde_json::to_value(&reply.choices[0].logprobs).unwrap();
            let told = told.get("text_offset").map(ToString::to_string);
            assert_eq!(told.as_deref(), offsets, "{message}");
        }
    }

    #[test]
    fn choices_without_an_index_are_told_apart_by_their_place() {
        let body = br#"{"choices":[{"message":{"content":"a"}},{"message":{"content":"b"}}]}"#;
        let reply = CHAT.read_reply(body, &mut Partial::default()).unwrap();
        assert_eq!((reply.choices[0].index, reply.choices[1].index), (0, 1));
    }

    #[test]
    fn an_answer_of_text_completions_is_broken_rather_than_empty() {
        for choice in [r#"{"text":"lost"}"#, "{}", r#"{"message":null}"#] {
            let body = format!(r#"{{"choices":[{choice}]}}"#);
            let error = CHAT.read_reply(body.as_bytes(), &mut Partial::default());
            assert_eq!(error.unwrap_err().status(), 502, "{choice}");
        }
        for (choice, broken) in [
            (r#"{"text":"lost","finish_reason":"stop"}"#, true),
            (r#"{"finish_reason":"stop"}"#, false),
            (r#"{"delta":{}}"#, false),
        ] {
            let body = format!(r#"{{"choices":[{choice}]}}"#);
            let event: Event<'_> = serde_json::from_str(&body).unwrap();
            assert_eq!(
                event.read(&mut Partial::default()).is_err(),
                broken,
                "{choice}"
            );
        }
    }
}
