//! The own API of Hugging Face's Text Generation Inference: `POST {base}/generate` and `/generate_stream`.
//!
//! Sources: <https://huggingface.co/docs/text-generation-inference/reference/api_reference>,
//! [its schema](https://github.com/huggingface/text-generation-inference/blob/main/docs/openapi.json),
//! [streaming](https://huggingface.co/docs/text-generation-inference/conceptual/streaming),
//! [`/invocations`](https://github.com/huggingface/text-generation-inference/blob/main/router/src/sagemaker.rs). A true text
//! completion: the prompt goes to the model as it is. One server has one model, so that no model is sent.
//!
//! * Sampling follows the page and the server's own OpenAI-shaped address: on, unless `temperature` is 0.
//! * The stream has no end marker; the event that holds the whole `generated_text` is its last.
//! * The server leaves the stop sequence that ended a text in it; it is taken off here.
//! * Tokens come with `details`, their alternatives for `top_n_tokens`; more than the server's own limit it refuses itself.
//! * Prompt tokens stand in a header of a whole reply, and in the last event of a stream of newer servers. Where neither is
//!   told there is no usage. They are not asked for by `decoder_input_details`, which version 3 has switched off.

use std::borrow::Cow;

use http::{HeaderMap, StatusCode};
use serde::{Deserialize, de::IgnoredAny};

use crate::{
    completion::{
        Choice, Completion, CompletionRequest, Finish, Logprobs, Parameter, Partial, Support,
        Usage, logprobs::Reach,
    },
    dialect::{
        Dialect, Extras, PromptForm, Step, UpstreamRequest,
        lenient::Field,
        not_the_shape, openai_error,
        tgi_request::Body,
        tgi_tokens::{Told, read_tokens, said},
        to_body,
    },
    error::{Error, Kind},
    wire::{Form, Frame, Framing},
};

/// Text Generation Inference's generate.
#[derive(Debug)]
pub struct Tgi {
    address: Address,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// One for whole replies, one for streams.
    Generate,
    /// SageMaker's `POST /invocations`: the body says whether to stream, and the prompt is repeated unless it says not to.
    Invocations,
}

pub static TGI: Tgi = Tgi {
    address: Address::Generate,
};
pub static TGI_INVOCATIONS: Tgi = Tgi {
    address: Address::Invocations,
};

impl Dialect for Tgi {
    fn name(&self) -> &'static str {
        "tgi"
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
            | Parameter::FrequencyPenalty
            | Parameter::Echo
            | Parameter::BestOf
            | Parameter::Logprobs
            | Parameter::Seed => Support::Native,
            Parameter::Suffix | Parameter::StreamOptions => Support::Emulated,
            Parameter::Prompts
            | Parameter::TokenIds
            | Parameter::N
            | Parameter::PresencePenalty
            | Parameter::User
            | Parameter::LogitBias => Support::Refused,
        }
    }

    fn carries(&self, parameter: Parameter, request: &CompletionRequest) -> bool {
        parameter != Parameter::Echo || !request.stream
    }

    fn extras(&self) -> Extras {
        Extras::Only(EXTRAS)
    }

    fn prompt_form(&self) -> PromptForm {
        PromptForm::Text
    }

    fn write_request(&self, request: &CompletionRequest) -> Result<UpstreamRequest, Error> {
        let path = match self.address {
            Address::Invocations => "/invocations",
            Address::Generate if request.stream => "/generate_stream",
            Address::Generate => "/generate",
        };
        Ok(UpstreamRequest {
            path: Cow::Borrowed(path),
            headers: &[],
            body: to_body(&Body::try_new(request, self.address)?)?,
        })
    }

    fn read_headers(&self, headers: &HeaderMap, partial: &mut Partial) {
        let count = |name| headers.get(name)?.to_str().ok()?.parse().ok();
        if let (Some(prompt), Some(generated)) =
            (count("x-prompt-tokens"), count("x-generated-tokens"))
        {
            partial.usage = Some(Usage::new(prompt, generated));
        }
    }

    fn read_reply<'b>(
        &self,
        body: &'b [u8],
        partial: &mut Partial,
    ) -> Result<Completion<'b>, Error> {
        // The address that older clients use, and SageMaker's, puts the reply into a list.
        let reply: Reply<'b> = match body.trim_ascii_start().first() {
            Some(b'[') => serde_json::from_slice(body).map(|[reply]: [Reply<'b>; 1]| reply),
            _ => serde_json::from_slice(body),
        }
        .map_err(not_the_shape)?;
        if let Some(error) = reply.told_error() {
            return Err(error);
        }
        let Some(text) = reply.generated_text else {
            return Err(Error::broken("The provider's answer holds no text."));
        };
        let details = reply.details.unwrap_or_default();
        let tokens = || read_tokens(details.tokens, details.top_tokens);
        let logprobs = partial.logprobs.place(0, &text, tokens);
        Ok(Completion {
            choices: vec![details.end(text, logprobs, partial)],
        })
    }

    fn read_frame<'f>(&self, frame: &'f Frame, partial: &mut Partial) -> Result<Step<'f>, Error> {
        if frame.form == Form::Comment {
            return Ok(Step::Skip);
        }
        let event: Reply<'f> = serde_json::from_slice(&frame.data).map_err(not_the_shape)?;
        if let Some(error) = event.told_error() {
            return Err(error);
        }
        let (text, tokens) = said(event.token, event.top_tokens);
        let logprobs = partial.logprobs.place(0, &text, || tokens);
        Ok(Step::from(vec![match event.generated_text {
            Some(_) => event
                .details
                .unwrap_or_default()
                .end(text, logprobs, partial),
            None => piece(text, logprobs, partial),
        }]))
    }

    fn read_error(&self, status: StatusCode, body: &[u8]) -> Error {
        let reply = serde_json::from_slice::<Reply<'_>>(body).ok();
        reply
            .and_then(|reply| reply.error_of(status))
            .unwrap_or_else(|| openai_error::read_error(status, body))
    }
}

/// A whole reply or one event; an error in its place is read too.
#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow, default)]
    token: Option<Told<'a>>,
    #[serde(borrow, default)]
    top_tokens: Field<'a>,
    #[serde(borrow, default)]
    generated_text: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    details: Option<Details<'a>>,
    #[serde(borrow, default)]
    error: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    error_type: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
struct Details<'a> {
    #[serde(borrow, default)]
    finish_reason: Option<Cow<'a, str>>,
    #[serde(default)]
    generated_tokens: u64,
    /// LoRAX, a copy of the server, calls it `prompt_tokens`.
    #[serde(default, alias = "prompt_tokens")]
    input_length: Option<u64>,
    #[serde(default)]
    best_of_sequences: Option<Vec<Sequence>>,
    #[serde(default)]
    prefill: Option<Vec<IgnoredAny>>,
    #[serde(borrow, default)]
    tokens: Field<'a>,
    /// For each of them.
    #[serde(borrow, default)]
    top_tokens: Field<'a>,
}

/// A text that another was better than.
#[derive(Deserialize)]
struct Sequence {
    #[serde(default)]
    generated_tokens: u64,
}

impl Reply<'_> {
    /// An error inside a 200 counts as the HTTP error of its type.
    fn told_error(&self) -> Option<Error> {
        let told = self.error_type.as_deref();
        let status = STATUSES
            .iter()
            .find(|(kind, _)| Some(*kind) == told)
            .and_then(|&(_, status)| StatusCode::from_u16(status).ok())
            .unwrap_or(StatusCode::BAD_GATEWAY);
        self.error_of(status)
    }

    fn error_of(&self, status: StatusCode) -> Option<Error> {
        let message = self.error.as_deref()?.to_owned();
        let error = Error::new(Kind::Upstream(status), message);
        Some(match self.error_type.as_deref() {
            Some(api_type) => error.with_type(api_type),
            None => error,
        })
    }
}

/// A piece that others follow. What may be a stop sequence waits, and with it its tokens.
fn piece<'a>(
    text: Cow<'a, str>,
    logprobs: Option<Logprobs<'a>>,
    partial: &mut Partial,
) -> Choice<'a> {
    let text = partial.tail.push(text);
    Choice {
        logprobs: partial.logprobs.hold(0, &text, logprobs, Reach::Open),
        text,
        ..Choice::default()
    }
}

impl<'a> Details<'a> {
    /// The end of a text, whose last piece is `text`.
    fn end(
        self,
        text: Cow<'a, str>,
        logprobs: Option<Logprobs<'a>>,
        partial: &mut Partial,
    ) -> Choice<'a> {
        partial.finished.end(0);
        self.count(partial);
        let stopped = self.finish_reason.as_deref() == Some("stop_sequence");
        let mut text = partial.tail.push(text);
        let (rest, reach) = if stopped {
            (partial.tail.end_stopped(), Reach::Stopped)
        } else {
            (partial.tail.end(), Reach::Ended)
        };
        if !rest.is_empty() {
            text.to_mut().push_str(&rest);
        }
        Choice {
            logprobs: partial.logprobs.hold(0, &text, logprobs, reach),
            text,
            finish: Some(
                self.finish_reason
                    .map_or(Finish::UNTOLD, Finish::from_native),
            ),
            ..Choice::default()
        }
    }

    fn count(&self, partial: &mut Partial) {
        let prefill = self.prefill.as_ref().map(Vec::len);
        let prefill = prefill.and_then(|count| u64::try_from(count).ok());
        let prompt = self
            .input_length
            .or(partial.usage.map(|usage| usage.prompt_tokens))
            .or(prefill.filter(|&count| count > 0));
        let others = self.best_of_sequences.iter().flatten();
        let generated = others
            .map(|sequence| sequence.generated_tokens)
            .fold(self.generated_tokens, u64::saturating_add);
        partial.usage = prompt.map(|prompt| Usage::new(prompt, generated));
    }
}

/// The server's error types and the statuses they come with outside a stream.
const STATUSES: &[(&str, u16)] = &[
    ("validation", 422),
    ("template_error", 422),
    ("tool_error", 422),
    ("generation", 424),
    ("overloaded", 429),
    ("incomplete_generation", 500),
    ("incomplete_generation_stream", 500),
    ("stream_serialization_error", 500),
];

/// Parameters of the API that the page lacks and that leave the answer a text.
const EXTRAS: &[&str] = &[
    "adapter_id",
    "grammar",
    "repetition_penalty",
    "top_k",
    "truncate",
    "typical_p",
    "watermark",
];

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        completion::{FinishReason, Tail, logprobs::Running},
        dialect::settle,
    };

    fn write(fields: &str) -> Result<(String, String), Error> {
        let body = format!(r#"{{"model":"m","prompt":"a\n\u00e9",{fields}}}"#);
        let mut request = CompletionRequest::read(Bytes::from(body)).unwrap();
        settle(&mut request, &TGI, &[], "tgi")?;
        let upstream = TGI.write_request(&request)?;
        assert!(upstream.headers.is_empty());
        let body = String::from_utf8(upstream.body.to_vec()).unwrap();
        Ok((upstream.path.into_owned(), body))
    }

    #[test]
    fn every_parameter_has_its_place_in_the_request() {
        let fields = r#""max_tokens":9,"temperature":0.5,"top_p":0.9,"stop":["\n\nQ:","END"],"seed":7,"frequency_penalty":-0.5,
            "best_of":2,"echo":true,"top_k":4,"grammar":{"type":"regex","value":"a+"}"#;
        let (path, body) = write(fields).unwrap();
        assert_eq!(path, "/generate");
        assert_eq!(
            body,
            concat!(
                r#"{"inputs":"a\n\u00e9","parameters":{"max_new_tokens":9,"details":true,"do_sample":true,"temperature":0.5,"top_p":0.9,"#,
                r#""stop":["\n\nQ:","END"],"seed":7,"frequency_penalty":-0.5,"best_of":2,"return_full_text":true,"#,
                r#""grammar":{"type":"regex","value":"a+"},"top_k":4}}"#,
            )
        );
        let stream = r#""stream":true,"stream_options":{"include_usage":true}"#;
        assert_eq!(write(stream).unwrap().0, "/generate_stream");
        for (count, top) in [(0, ""), (5, r#","top_n_tokens":5"#)] {
            let (_, body) = write(&format!(r#""logprobs":{count}"#)).unwrap();
            assert!(
                body.ends_with(&format!(r#""do_sample":true{top}}}}}"#)),
                "{body}"
            );
        }
    }

    #[test]
    fn nothing_is_sent_that_was_not_asked_for() {
        let neutral = r#""n":1,"best_of":1,"echo":false,"top_p":1,"presence_penalty":0,"frequency_penalty":0,"logit_bias":{},"suffix":"","stop":null,"top_k":null"#;
        assert_eq!(
            write(neutral).unwrap().1,
            r#"{"inputs":"a\n\u00e9","parameters":{"max_new_tokens":16,"details":true,"do_sample":true}}"#
        );
    }

    #[test]
    fn temperature_zero_takes_the_likeliest_token() {
        assert_eq!(
            write(r#""temperature":0,"top_p":0.5"#).unwrap().1,
            r#"{"inputs":"a\n\u00e9","parameters":{"max_new_tokens":16,"details":true,"do_sample":false}}"#
        );
    }

    #[test]
    fn what_the_api_cannot_carry_is_refused_by_name() {
        let cases = [
            (r#""max_tokens":0"#, "max_tokens"),
            (r#""top_p":0"#, "top_p"),
            (r#""seed":-1"#, "seed"),
            (r#""echo":true,"stream":true"#, "echo"),
            (r#""n":2"#, "n"),
            (r#""presence_penalty":0.1"#, "presence_penalty"),
            (r#""suffix":"x""#, "suffix"),
            (r#""logprobs":0,"echo":true"#, "logprobs"),
            (r#""logit_bias":{"1":2}"#, "logit_bias"),
            (r#""user":"u""#, "user"),
            (r#""details":false"#, "details"),
            (r#""decoder_input_details":true"#, "decoder_input_details"),
            (r#""return_full_text":true"#, "return_full_text"),
        ];
        for (fields, param) in cases {
            let error = write(fields).expect_err(fields);
            assert_eq!(error.param(), Some(param), "{fields}");
            assert_eq!(error.status(), 400, "{fields}");
        }
    }

    fn read(body: &str, partial: &mut Partial) -> (String, Finish<'static>) {
        let mut reply = TGI.read_reply(body.as_bytes(), partial).unwrap();
        let choice = reply.choices.remove(0);
        let finish = choice.finish.unwrap();
        let finish = Finish {
            native: finish.native.into_owned().into(),
            ..finish
        };
        (choice.text.into_owned(), finish)
    }

    #[test]
    fn every_finish_reason_becomes_one_of_the_pages() {
        for (native, reason) in [
            ("eos_token", FinishReason::Stop),
            ("stop_sequence", FinishReason::Stop),
            ("length", FinishReason::Length),
        ] {
            let body = format!(
                r#"{{"generated_text":"a","details":{{"finish_reason":"{native}","generated_tokens":1}}}}"#
            );
            let mut partial = Partial::default();
            let (_, finish) = read(&body, &mut partial);
            assert_eq!((finish.reason, &*finish.native), (reason, native));
            assert_eq!((partial.finished.count(), partial.usage), (1, None));
        }
        let (text, finish) = read(r#"[{"generated_text":"a"}]"#, &mut Partial::default());
        assert_eq!((&*text, finish), ("a", Finish::UNTOLD));
    }

    #[test]
    fn prompt_tokens_are_read_wherever_they_are_told() {
        let head = |prompt: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-prompt-tokens", prompt.parse().unwrap());
            headers.insert("x-generated-tokens", "2".parse().unwrap());
            headers
        };
        let others = r#""generated_tokens":2,"best_of_sequences":[{"generated_tokens":3}]"#;
        for (prompt, details, usage) in [
            ("7", r#""generated_tokens":2"#, Some((7, 2))),
            ("7", others, Some((7, 5))),
            ("many", r#""generated_tokens":2"#, None),
            (
                "many",
                r#""generated_tokens":2,"input_length":4"#,
                Some((4, 2)),
            ),
            (
                "many",
                r#""generated_tokens":2,"prompt_tokens":4"#,
                Some((4, 2)),
            ),
            ("many", r#""generated_tokens":2,"prefill":[]"#, None),
            (
                "many",
                r#""generated_tokens":2,"prefill":[{"id":1},{"id":2}]"#,
                Some((2, 2)),
            ),
        ] {
            let mut partial = Partial::default();
            TGI.read_headers(&head(prompt), &mut partial);
            let body = format!(
                r#"{{"generated_text":"a","details":{{"finish_reason":"length",{details}}}}}"#
            );
            read(&body, &mut partial);
            let usage = usage.map(|(prompt, generated)| Usage::new(prompt, generated));
            assert_eq!(partial.usage, usage, "{prompt} {details}");
        }
    }

    #[test]
    fn the_stop_sequence_is_not_in_the_text() {
        let stopped = |text: &str, reason: &str| {
            let body = format!(
                r#"{{"generated_text":"{text}","details":{{"finish_reason":"{reason}","generated_tokens":1}}}}"#
            );
            let mut partial = Partial {
                tail: Tail::new(&["END".to_owned()]),
                ..Partial::default()
            };
            read(&body, &mut partial).0
        };
        assert_eq!(stopped("a END", "stop_sequence"), "a ");
        assert_eq!(stopped("a END", "length"), "a END");
        assert_eq!(stopped("a EN", "eos_token"), "a EN");
    }

    #[test]
    fn a_stream_holds_back_what_may_be_its_stop_sequence() {
        let mut partial = Partial {
            tail: Tail::new(&["END".to_owned()]),
            ..Partial::default()
        };
        let last = r#""generated_text":"a EN END","details":{"finish_reason":"stop_sequence"}"#;
        for (token, rest, text) in [
            ("a E", r#""details":null"#, Some("a ")),
            ("N", r#""details":null"#, None),
            (" EN", r#""details":null"#, Some("EN ")),
            ("D", last, Some("")),
        ] {
            let data = format!(r#"{{"token":{{"text":"{token}","special":false}},{rest}}}"#);
            let frame = Frame {
                raw: Bytes::new(),
                event: Bytes::new(),
                data: Bytes::from(data),
                form: Form::Other,
            };
            let told = match TGI.read_frame(&frame, &mut partial).unwrap() {
                Step::Chunk(mut chunk) | Step::Last(mut chunk) => {
                    Some(chunk.choices.remove(0).text.into_owned())
                }
                Step::Skip | Step::Unknown | Step::Done => None,
            };
            assert_eq!(told.as_deref(), text, "{token}");
        }
        assert_eq!(partial.finished.count(), 1);
    }

    #[test]
    fn the_tokens_of_a_stop_sequence_are_not_told() {
        let asked = CompletionRequest::read(Bytes::from_static(br#"{"logprobs":0}"#)).unwrap();
        let partial = Partial {
            tail: Tail::new(&["END".to_owned()]),
            logprobs: Running::of(&asked),
            ..Partial::default()
        };
        let tokens = ["é ", "E", "N", "b EN", "D"];
        let token = |text: &&str| format!(r#"{{"text":"{text}","logprob":-0.5,"special":false}}"#);
        let told = |choices: Vec<Choice<'_>>| {
            let page = serde_json::to_value(choices[0].logprobs.as_ref()).unwrap();
            let told = page["tokens"].as_array().cloned().unwrap_or_default();
            (choices[0].text.to_string(), told)
        };
        let details = r#""generated_text":"é ENb END","details":{"finish_reason":"stop_sequence""#;
        let list = tokens.iter().map(token).collect::<Vec<_>>().join(",");
        let whole = format!(r#"{{{details},"tokens":[{list}]}}}}"#);
        let reply = TGI.read_reply(whole.as_bytes(), &mut partial.clone());
        let (text, whole) = told(reply.unwrap().choices);
        assert_eq!((&*text, whole.len()), ("é ENb ", 4));
        let (mut partial, mut streamed) = (partial, Vec::new());
        for text in tokens {
            let end = if text == "D" {
                details
            } else {
                r#""details":{"x":0"#
            };
            let data = format!(r#"{{"token":{},{end}}}}}"#, token(&text));
            let frame = Frame {
                raw: Bytes::new(),
                event: Bytes::new(),
                data: Bytes::from(data),
                form: Form::Other,
            };
            if let Step::Chunk(chunk) = TGI.read_frame(&frame, &mut partial).unwrap() {
                streamed.extend(told(chunk.choices).1);
            }
        }
        assert_eq!(streamed, whole);
    }

    #[test]
    fn an_error_keeps_its_type_and_gets_the_status_it_stands_for() {
        for (kind, status) in STATUSES.iter().copied().chain([("new_error", 502)]) {
            let body = format!(r#"{{"error":"Sorry","error_type":"{kind}"}}"#);
            let error = TGI
                .read_reply(body.as_bytes(), &mut Partial::default())
                .unwrap_err();
            assert_eq!(
                (error.status().as_u16(), error.message()),
                (status, "Sorry")
            );
            let told = String::from_utf8(error.body()).unwrap();
            assert!(told.contains(&format!(r#""type":"{kind}""#)), "{told}");
        }
    }

    #[test]
    fn an_error_reply_keeps_its_status_and_its_words() {
        let body = br#"{"error":"Model is overloaded","error_type":"overloaded"}"#;
        let error = TGI.read_error(StatusCode::TOO_MANY_REQUESTS, body);
        assert_eq!(error.kind(), Kind::Upstream(StatusCode::TOO_MANY_REQUESTS));
        assert_eq!(error.message(), "Model is overloaded");
        let error = TGI.read_error(StatusCode::UNAUTHORIZED, br#"{"error":"Unauthorized"}"#);
        assert_eq!(error.message(), "Unauthorized");
        for body in ["", "<html>", "{}", r#"{"error":null}"#, "[]", "null"] {
            let error = TGI.read_error(StatusCode::BAD_GATEWAY, body.as_bytes());
            assert_eq!(error.status(), 502, "{body}");
            assert!(error.message().contains("502"), "{body}");
        }
    }

    #[test]
    fn a_reply_without_text_is_broken() {
        for body in [
            "",
            "{}",
            "[]",
            "null",
            r#"{"generated_text":1}"#,
            r#"{"details":{}}"#,
        ] {
            let read = TGI.read_reply(body.as_bytes(), &mut Partial::default());
            assert_eq!(read.unwrap_err().kind(), Kind::Broken, "{body}");
        }
    }
}
