//! Cohere's chat, version 2: `POST {base}/chat`.
//!
//! Sources: <https://docs.cohere.com/reference/chat>, [streaming](https://docs.cohere.com/v2/docs/streaming),
//! [errors](https://docs.cohere.com/reference/errors). The prompt becomes one user message, the reply's text parts become
//! `text`; thoughts are left out. The stream's last event tells reason and counts: it is complete when it ends after that,
//! with or without the `[DONE]` that is not in the page.
//!
//! `ERROR` and `TIMEOUT` stand where a reason would, but say that the generation failed: the text is a fragment, and a client
//! that took it for complete would never try again. They are errors here, of the statuses 500 and 504.
//!
//! `top_p` 1 asks for nothing, so that Cohere's own default (0.75, as of its page) holds, as for a client who sends none.

use std::{borrow::Cow, collections::BTreeMap};

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Number, value::RawValue};

use crate::{
    completion::{
        Choice, Completion, CompletionRequest, Finish, Parameter, Partial, Support, Usage,
    },
    dialect::{
        Dialect, Extras, Step, UpstreamRequest, extras, join, not_the_shape,
        openai::learn_head,
        openai_error::read_error,
        positive_max_tokens, to_body,
        turns::{Said, Words, instruction},
        unsigned_seed,
    },
    error::{Error, Kind},
    wire::{Form, Frame, Framing},
};

/// Cohere's Chat API v2.
#[derive(Debug)]
pub struct Cohere;

pub static COHERE: Cohere = Cohere;

impl Dialect for Cohere {
    fn name(&self) -> &'static str {
        "cohere"
    }

    fn framing(&self) -> Framing {
        Framing::Sse
    }

    fn support(&self, parameter: Parameter) -> Support {
        match parameter {
            Parameter::MaxTokens
            | Parameter::Temperature
            | Parameter::TopP
            | Parameter::Stream
            | Parameter::Stop
            | Parameter::PresencePenalty
            | Parameter::FrequencyPenalty
            | Parameter::Seed => Support::Native,
            Parameter::StreamOptions => Support::Emulated,
            // Its log-probabilities stand beside pieces of text that may be made of several tokens, of which it tells the ids
            // alone: the page's object is made of the tokens' own texts.
            Parameter::Logprobs
            | Parameter::Prompts
            | Parameter::TokenIds
            | Parameter::N
            | Parameter::Suffix
            | Parameter::Echo
            | Parameter::BestOf
            | Parameter::User
            | Parameter::LogitBias => Support::Refused,
        }
    }

    fn extras(&self) -> Extras {
        Extras::Only(EXTRAS)
    }

    fn write_request(&self, request: &CompletionRequest) -> Result<UpstreamRequest, Error> {
        Ok(UpstreamRequest {
            path: Cow::Borrowed("/chat"),
            headers: &[],
            body: to_body(&Body::try_new(request)?)?,
        })
    }

    fn read_reply<'b>(
        &self,
        body: &'b [u8],
        partial: &mut Partial,
    ) -> Result<Completion<'b>, Error> {
        let reply: Reply<'b> = serde_json::from_slice(body).map_err(not_the_shape)?;
        let (Some(message), Some(reason)) = (reply.message, reply.finish_reason) else {
            return Err(Error::broken(
                "The provider's answer holds no message or no finish reason.",
            ));
        };
        let message: Message<'b> = serde_json::from_str(message.get()).map_err(not_the_shape)?;
        learn_head(partial, reply.id, None, None);
        partial.usage = read_usage(reply.usage);
        Ok(Completion {
            choices: vec![Choice {
                text: message.into_text()?,
                finish: Some(finish(reason, None, partial)?),
                ..Choice::default()
            }],
        })
    }

    fn read_frame<'f>(&self, frame: &'f Frame, partial: &mut Partial) -> Result<Step<'f>, Error> {
        if frame.form == Form::Comment {
            return Ok(Step::Skip);
        }
        if frame.data.trim_ascii() == b"[DONE]" {
            return Ok(Step::Done);
        }
        let event: Event<'f> = serde_json::from_slice(&frame.data).map_err(not_the_shape)?;
        match (&*event.kind, event.delta) {
            ("message-start", _) => {
                learn_head(partial, event.id, None, None);
                Ok(Step::Skip)
            }
            ("content-start" | "content-delta", Some(delta)) => read_piece(delta),
            ("message-end", Some(delta)) => read_end(delta, partial),
            // An error that comes up within a stream has the form of an error reply.
            ("", None) if event.message.is_some() => {
                Err(read_error(StatusCode::BAD_GATEWAY, &frame.data))
            }
            (
                "content-start" | "content-delta" | "content-end" | "message-end"
                | "tool-plan-delta" | "tool-call-start" | "tool-call-delta" | "tool-call-end"
                | "citation-start" | "citation-end" | "debug",
                _,
            ) => Ok(Step::Skip),
            _ => Ok(Step::Unknown),
        }
    }

    /// `{"message":"…"}`, at times with an `id`.
    fn read_error(&self, status: StatusCode, body: &[u8]) -> Error {
        read_error(status, body)
    }
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    messages: Vec<Said<'a>>,
    max_tokens: u64,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop_sequences: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    presence_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency_penalty: Option<f64>,
    /// Always sent: the page says it is required.
    stream: bool,
    #[serde(flatten)]
    extra: BTreeMap<&'a str, &'a RawValue>,
}

fn messages(request: &CompletionRequest) -> Result<Vec<Said<'_>>, Error> {
    let system = instruction(request, "messages")?.map(|words| ("system", words));
    let user = ("user", Words::Prompt(request.sole_text()?));
    let said = system.into_iter().chain([user]);
    Ok(said.map(|(role, content)| Said { role, content }).collect())
}

impl<'a> Body<'a> {
    fn try_new(request: &'a CompletionRequest) -> Result<Self, Error> {
        // "min value of 0.01, max value of 0.99".
        let p = request.top_p.filter(|&p| p < 1.0);
        within("top_p", p, 0.01, 0.99)?;
        // "min value of 0.0, max value of 1.0", both of them.
        let presence_penalty = request.presence_penalty.filter(|&p| p != 0.0);
        within("presence_penalty", presence_penalty, 0.0, 1.0)?;
        let frequency_penalty = request.frequency_penalty.filter(|&p| p != 0.0);
        within("frequency_penalty", frequency_penalty, 0.0, 1.0)?;
        Ok(Self {
            model: request.model(),
            messages: messages(request)?,
            max_tokens: positive_max_tokens(request)?,
            stop_sequences: &request.stop,
            temperature: request.temperature,
            p,
            seed: unsigned_seed(request)?,
            presence_penalty,
            frequency_penalty,
            stream: request.stream,
            extra: extras(request).collect(),
        })
    }
}

fn within(name: &'static str, value: Option<f64>, least: f64, most: f64) -> Result<(), Error> {
    match value {
        Some(value) if !(least..=most).contains(&value) => Err(Error::invalid(
            name,
            format!("`{name}` must be from {least} to {most} for this provider."),
        )),
        _ => Ok(()),
    }
}

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    finish_reason: Option<Cow<'a, str>>,
    /// An object; in an error reply a string.
    #[serde(borrow, default)]
    message: Option<&'a RawValue>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
}

/// A message, or what an event adds to it: a list of parts, or one.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
}

/// A part of a message. Thoughts stand in a field of their own, so that they have no text.
#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
}

impl<'a> Message<'a> {
    fn into_text(self) -> Result<Cow<'a, str>, Error> {
        let content = self.content.map_or("null", RawValue::get);
        let parts: Vec<Part<'a>> = match content.as_bytes().first() {
            Some(b'{') => serde_json::from_str(content).map(|part| vec![part]),
            Some(b'n') => Ok(Vec::new()),
            _ => serde_json::from_str(content),
        }
        .map_err(not_the_shape)?;
        Ok(join(parts.into_iter().filter_map(|part| part.text)))
    }
}

/// Any event of a stream. What belongs to one type alone stays unread, so that a new type cannot fail the stream.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    delta: Option<&'a RawValue>,
    #[serde(borrow, default)]
    message: Option<&'a RawValue>,
}

fn read_piece(delta: &RawValue) -> Result<Step<'_>, Error> {
    #[derive(Deserialize)]
    struct Delta<'a> {
        #[serde(borrow, default)]
        message: Option<Message<'a>>,
    }
    let delta: Delta<'_> = serde_json::from_str(delta.get()).map_err(not_the_shape)?;
    let text = delta
        .message
        .map_or(Ok(Cow::Borrowed("")), Message::into_text)?;
    Ok(Step::from(vec![Choice {
        text,
        ..Choice::default()
    }]))
}

fn read_end<'a>(delta: &'a RawValue, partial: &mut Partial) -> Result<Step<'a>, Error> {
    #[derive(Deserialize)]
    struct Delta<'a> {
        #[serde(borrow, default)]
        finish_reason: Option<Cow<'a, str>>,
        #[serde(borrow, default)]
        usage: Option<&'a RawValue>,
        #[serde(borrow, default)]
        error: Option<Cow<'a, str>>,
    }
    let delta: Delta<'a> = serde_json::from_str(delta.get()).map_err(not_the_shape)?;
    partial.usage = read_usage(delta.usage).or(partial.usage);
    match (delta.finish_reason, delta.error) {
        (None, None) => Ok(Step::Skip),
        (reason, error) => Ok(Step::from(vec![Choice {
            finish: Some(finish(reason.unwrap_or("ERROR".into()), error, partial)?),
            ..Choice::default()
        }])),
    }
}

/// Reads why the generation ended; `told` is the sentence that comes with an error.
fn finish<'a>(
    reason: Cow<'a, str>,
    told: Option<Cow<'_, str>>,
    partial: &mut Partial,
) -> Result<Finish<'a>, Error> {
    let (status, message) = match &*reason {
        "ERROR" => (StatusCode::INTERNAL_SERVER_ERROR, FAILED),
        "TIMEOUT" => (StatusCode::GATEWAY_TIMEOUT, TIMED_OUT),
        _ => {
            partial.finished.end(0);
            return Ok(Finish::from_native(reason));
        }
    };
    let message = told.map_or(Cow::Borrowed(message), |told| Cow::Owned(told.into_owned()));
    Err(Error::new(Kind::Upstream(status), message).with_type(reason))
}

/// Reads the token counts: what the model took in and gave out, else what is billed of it.
fn read_usage(usage: Option<&RawValue>) -> Option<Usage> {
    #[derive(Deserialize)]
    struct Counts {
        #[serde(default)]
        tokens: Option<Tokens>,
        #[serde(default)]
        billed_units: Option<Tokens>,
    }
    #[derive(Deserialize)]
    struct Tokens {
        #[serde(default)]
        input_tokens: Option<Number>,
        #[serde(default)]
        output_tokens: Option<Number>,
    }
    impl Tokens {
        fn read(self) -> Option<Usage> {
            let input = count(&self.input_tokens?)?;
            Some(Usage::new(input, count(&self.output_tokens?)?))
        }
    }
    let counts: Counts = serde_json::from_str(usage?.get()).ok()?;
    let billed = counts.billed_units.and_then(Tokens::read);
    counts.tokens.and_then(Tokens::read).or(billed)
}

/// The page calls counts "double": `5.0` is a count too.
fn count(number: &Number) -> Option<u64> {
    let whole = || number.to_string().strip_suffix(".0")?.parse().ok();
    number.as_u64().or_else(whole)
}

const FAILED: &str = "The provider's generation failed.";
const TIMED_OUT: &str = "The provider's generation took too long.";

/// Fields of the API that the page lacks and that leave the answer a text.
const EXTRAS: &[&str] = &[
    "k",
    "priority",
    "response_format",
    "safety_mode",
    "thinking",
];

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{completion::FinishReason, dialect::settle};

    fn request(fields: &str) -> CompletionRequest {
        let body = format!(r#"{{"model":"command-a","prompt":"a\n\u00e9",{fields}}}"#);
        CompletionRequest::read(Bytes::from(body)).unwrap()
    }

    fn write(fields: &str) -> Result<String, Error> {
        let mut request = request(fields);
        settle(&mut request, &COHERE, &[], "cohere")?;
        let upstream = COHERE.write_request(&request)?;
        assert_eq!(upstream.path, "/chat");
        assert!(upstream.headers.is_empty());
        Ok(String::from_utf8(upstream.body.to_vec()).unwrap())
    }

    #[test]
    fn every_parameter_has_its_place_in_the_request() {
        let fields = r#""max_tokens":9,"temperature":0.5,"top_p":0.9,"stop":["\n\nQ:","END"],"seed":7,"presence_penalty":0.25,
            "frequency_penalty":1,"stream":true,"stream_options":{"include_usage":true},"k":4,"safety_mode":"STRICT","thinking":{"type":"disabled"}"#;
        assert_eq!(
            write(fields).unwrap(),
            concat!(
                r#"{"model":"command-a","messages":[{"role":"user","content":"a\n\u00e9"}],"max_tokens":9,"#,
                r#""stop_sequences":["\n\nQ:","END"],"temperature":0.5,"p":0.9,"seed":7,"presence_penalty":0.25,"#,
                r#""frequency_penalty":1.0,"stream":true,"k":4,"safety_mode":"STRICT","thinking":{"type":"disabled"}}"#,
            )
        );
    }

    #[test]
    fn nothing_is_sent_that_was_not_asked_for() {
        let neutral = r#""n":1,"best_of":1,"echo":false,"top_p":1,"presence_penalty":0,"frequency_penalty":0,"logit_bias":{},"suffix":"","stop":null,"k":null"#;
        assert_eq!(
            write(neutral).unwrap(),
            r#"{"model":"command-a","messages":[{"role":"user","content":"a\n\u00e9"}],"max_tokens":16,"stream":false}"#
        );
    }

    #[test]
    fn what_the_api_cannot_carry_is_refused_by_name() {
        let cases = [
            (r#""max_tokens":0"#, "max_tokens"),
            (r#""top_p":0.995"#, "top_p"),
            (r#""top_p":0"#, "top_p"),
            (r#""presence_penalty":-0.1"#, "presence_penalty"),
            (r#""presence_penalty":1.1"#, "presence_penalty"),
            (r#""frequency_penalty":-0.1"#, "frequency_penalty"),
            (r#""frequency_penalty":2"#, "frequency_penalty"),
            (r#""seed":-1"#, "seed"),
            (r#""n":2"#, "n"),
            (r#""best_of":2"#, "best_of"),
            (r#""echo":true"#, "echo"),
            (r#""suffix":"x""#, "suffix"),
            (r#""logprobs":0"#, "logprobs"),
            (r#""logit_bias":{"1":2}"#, "logit_bias"),
            (r#""user":"u""#, "user"),
            (r#""tools":[]"#, "tools"),
            (r#""messages":[]"#, "messages"),
            (r#""p":0.5"#, "p"),
        ];
        for (fields, param) in cases {
            let error = write(fields).expect_err(fields);
            assert_eq!(error.param(), Some(param), "{fields}");
            assert_eq!(error.status(), 400, "{fields}");
        }
    }

    #[test]
    fn every_finish_reason_becomes_one_of_the_pages() {
        for (native, reason) in [
            ("COMPLETE", FinishReason::Stop),
            ("STOP_SEQUENCE", FinishReason::Stop),
            ("TOOL_CALL", FinishReason::Stop),
            ("A_NEW_ONE", FinishReason::Stop),
            ("MAX_TOKENS", FinishReason::Length),
            ("ERROR_TOXIC", FinishReason::ContentFilter),
        ] {
            let body = format!(r#"{{"message":{{"content":[]}},"finish_reason":"{native}"}}"#);
            let mut partial = Partial::default();
            let reply = COHERE.read_reply(body.as_bytes(), &mut partial).unwrap();
            let finish = reply.choices[0].finish.as_ref().unwrap();
            assert_eq!((finish.reason, &*finish.native), (reason, native));
            assert_eq!((partial.finished.count(), partial.usage), (1, None));
        }
    }

    #[test]
    fn a_failed_generation_is_an_error_and_no_finish() {
        for (native, status) in [("ERROR", 500), ("TIMEOUT", 504)] {
            let body = format!(
                r#"{{"message":{{"content":[{{"type":"text","text":"half"}}]}},"finish_reason":"{native}"}}"#
            );
            let mut partial = Partial::default();
            let error = COHERE
                .read_reply(body.as_bytes(), &mut partial)
                .unwrap_err();
            assert_eq!(
                (error.status().as_u16(), partial.finished.count()),
                (status, 0)
            );
            let told = String::from_utf8(error.body()).unwrap();
            assert!(told.contains(&format!(r#""type":"{native}""#)), "{told}");
        }
    }

    #[test]
    fn tokens_count_before_billed_units_and_may_be_doubles() {
        for (usage, counts) in [
            (
                r#"{"billed_units":{"input_tokens":5,"output_tokens":8},"tokens":{"input_tokens":71.0,"output_tokens":9}}"#,
                Some((71, 9)),
            ),
            (
                r#"{"billed_units":{"input_tokens":5,"output_tokens":8}}"#,
                Some((5, 8)),
            ),
            (
                r#"{"billed_units":{"input_tokens":5,"output_tokens":8},"tokens":{"input_tokens":71}}"#,
                Some((5, 8)),
            ),
            (r#"{"tokens":{"input_tokens":1.5,"output_tokens":9}}"#, None),
            (r#"{"tokens":{"input_tokens":-1,"output_tokens":9}}"#, None),
            (r#"{"tokens":"many"}"#, None),
            ("{}", None),
        ] {
            let told: &RawValue = serde_json::from_str(usage).unwrap();
            let counts = counts.map(|(input, output)| Usage::new(input, output));
            assert_eq!(read_usage(Some(told)), counts, "{usage}");
        }
    }

    #[test]
    fn an_error_reply_keeps_its_status_and_its_words() {
        let body = br#"{"id":"e-1","message":"invalid api token"}"#;
        let error = COHERE.read_error(StatusCode::UNAUTHORIZED, body);
        assert_eq!(error.kind(), Kind::Upstream(StatusCode::UNAUTHORIZED));
        assert_eq!(error.message(), "invalid api token");
        for body in ["", "<html>", "{}", r#"{"message":null}"#, "[]", "null"] {
            let error = COHERE.read_error(StatusCode::BAD_GATEWAY, body.as_bytes());
            assert_eq!(error.status(), 502, "{body}");
            assert!(error.message().contains("502"), "{body}");
        }
    }

    #[test]
    fn a_reply_without_message_or_reason_is_broken() {
        for body in [
            "",
            "{}",
            "[]",
            r#"{"message":{"content":[{"type":"text","text":"a"}]}}"#,
            r#"{"finish_reason":"COMPLETE"}"#,
            r#"{"message":"no","finish_reason":"COMPLETE"}"#,
            r#"{"message":{"content":"a"},"finish_reason":"COMPLETE"}"#,
        ] {
            let read = COHERE.read_reply(body.as_bytes(), &mut Partial::default());
            assert_eq!(read.unwrap_err().kind(), Kind::Broken, "{body}");
        }
    }
}
