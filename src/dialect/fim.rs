//! Mistral's fill-in-the-middle: `POST {base}/fim/completions`.
//!
//! Source: <https://docs.mistral.ai/api/endpoint/fim>. A true text completion, with a suffix or without one; it is answered
//! in the form of Mistral's chat. Only the Codestral models take it.
//!
//! A client of [the same endpoint](crate::completion::fim) speaks this API already: its bytes pass, and so does the answer.

use std::{borrow::Cow, collections::BTreeMap};

use http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    completion::{Completion, CompletionRequest, Parameter, Partial, Shape, Support},
    dialect::{
        Dialect, Extras, PromptForm, Step, Tap, UpstreamRequest, chat::MISTRAL_CHAT, extras,
        positive_max_tokens, to_body,
    },
    error::Error,
    wire::{Frame, Framing},
};

/// Mistral's fill-in-the-middle.
#[derive(Debug)]
pub struct Fim {
    client: Shape,
}

pub static FIM: Fim = Fim {
    client: Shape::Text,
};

/// The same for clients that speak it themselves.
pub static VERBATIM: Fim = Fim { client: Shape::Fim };

impl Dialect for Fim {
    fn name(&self) -> &'static str {
        "fim"
    }

    fn framing(&self) -> Framing {
        MISTRAL_CHAT.framing()
    }

    fn support(&self, parameter: Parameter) -> Support {
        match parameter {
            Parameter::MaxTokens
            | Parameter::Temperature
            | Parameter::TopP
            | Parameter::Stream
            | Parameter::Stop
            | Parameter::Suffix
            | Parameter::Seed => Support::Native,
            Parameter::StreamOptions => Support::Emulated,
            Parameter::Prompts
            | Parameter::TokenIds
            | Parameter::N
            | Parameter::PresencePenalty
            | Parameter::FrequencyPenalty
            | Parameter::Echo
            | Parameter::BestOf
            | Parameter::Logprobs
            | Parameter::User
            | Parameter::LogitBias => Support::Refused,
        }
    }

    fn extras(&self) -> Extras {
        match self.client {
            Shape::Text => Extras::Only(&["metadata", "min_tokens"]),
            // What its own clients say is between them and Mistral.
            Shape::Fim => Extras::Pass,
        }
    }

    fn prompt_form(&self) -> PromptForm {
        PromptForm::Text
    }

    fn for_request(&self, request: &CompletionRequest) -> Option<&'static dyn Dialect> {
        (request.shape == Shape::Fim).then_some(&VERBATIM)
    }

    fn write_request(&self, request: &CompletionRequest) -> Result<UpstreamRequest, Error> {
        let body = match request.fim_source().filter(|_| self.client == Shape::Fim) {
            Some(source) => source.clone(),
            None => to_body(&self.body(request)?)?,
        };
        Ok(UpstreamRequest {
            path: Cow::Borrowed("/fim/completions"),
            headers: &[],
            body,
        })
    }

    fn tap_reply(&self, body: &[u8], partial: &mut Partial) -> Tap {
        if self.client != Shape::Fim {
            return Tap::Translate;
        }
        let read = MISTRAL_CHAT.read_reply(body, partial);
        read.map_or(Tap::Translate, |reply| pass(&reply))
    }

    fn read_reply<'b>(
        &self,
        body: &'b [u8],
        partial: &mut Partial,
    ) -> Result<Completion<'b>, Error> {
        MISTRAL_CHAT.read_reply(body, partial)
    }

    fn tap(&self, frame: &Frame, partial: &mut Partial) -> Tap {
        if self.client != Shape::Fim {
            return Tap::Translate;
        }
        match MISTRAL_CHAT.read_frame(frame, partial) {
            Ok(Step::Chunk(chunk) | Step::Last(chunk)) => pass(&chunk),
            Ok(Step::Skip | Step::Unknown) => Tap::Pass { finished: 0 },
            Ok(Step::Done) => Tap::Done,
            Err(_) => Tap::Translate,
        }
    }

    fn read_frame<'f>(&self, frame: &'f Frame, partial: &mut Partial) -> Result<Step<'f>, Error> {
        MISTRAL_CHAT.read_frame(frame, partial)
    }

    fn read_error(&self, status: StatusCode, body: &[u8]) -> Error {
        MISTRAL_CHAT.read_error(status, body)
    }
}

impl Fim {
    fn body<'a>(&self, request: &'a CompletionRequest) -> Result<Body<'a>, Error> {
        // A client of this very API that names no limit gets the API's own.
        let own_limit = self.client == Shape::Fim && request.max_tokens.is_none();
        let limit = (!own_limit).then(|| positive_max_tokens(request));
        let suffix = request.suffix.as_deref();
        Ok(Body {
            model: request.model(),
            prompt: request.sole_text()?,
            suffix: suffix.filter(|suffix| !suffix.is_empty()),
            max_tokens: limit.transpose()?,
            temperature: request.temperature,
            top_p: request.top_p,
            stop: &request.stop,
            random_seed: request.seed,
            stream: request.stream,
            extra: extras(request).collect(),
        })
    }
}

fn pass(told: &Completion<'_>) -> Tap {
    let finished = told.choices.iter().filter(|choice| choice.finish.is_some());
    Tap::Pass {
        finished: u32::try_from(finished.count()).unwrap_or(u32::MAX),
    }
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    prompt: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    suffix: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    random_seed: Option<i64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stream: bool,
    #[serde(flatten)]
    extra: BTreeMap<&'a str, &'a RawValue>,
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{completion::FinishReason, dialect::settle};

    fn write(fields: &str) -> Result<String, Error> {
        let body = format!(r#"{{"model":"codestral-2501","prompt":"a\n\u00e9",{fields}}}"#);
        let mut request = CompletionRequest::read(Bytes::from(body))?;
        settle(&mut request, &FIM, &[], "codestral")?;
        let upstream = FIM.write_request(&request)?;
        assert_eq!(upstream.path, "/fim/completions");
        Ok(String::from_utf8(upstream.body.to_vec()).unwrap())
    }

    #[test]
    fn every_parameter_has_its_place_in_the_request() {
        let fields = r#""suffix":"\n}","max_tokens":9,"temperature":0.5,"top_p":0.5,"stop":"END","seed":7,"stream":true,"min_tokens":1"#;
        assert_eq!(
            write(fields).unwrap(),
            concat!(
                r#"{"model":"codestral-2501","prompt":"a\n\u00e9","suffix":"\n}","max_tokens":9,"temperature":0.5,"#,
                r#""top_p":0.5,"stop":["END"],"random_seed":7,"stream":true,"min_tokens":1}"#,
            )
        );
    }

    #[test]
    fn nothing_is_sent_that_was_not_asked_for() {
        let neutral = r#""n":1,"best_of":1,"echo":false,"presence_penalty":0,"frequency_penalty":0,"logit_bias":{},"suffix":"","stop":[],"stream":false,"metadata":null"#;
        let body = r#"{"model":"codestral-2501","prompt":"a\n\u00e9","max_tokens":16}"#;
        assert_eq!(write(neutral).unwrap(), body);
    }

    #[test]
    fn what_the_api_cannot_carry_is_refused_by_name() {
        for (fields, param) in [
            (r#""max_tokens":0"#, "max_tokens"),
            (r#""n":2"#, "n"),
            (r#""best_of":2"#, "best_of"),
            (r#""echo":true"#, "echo"),
            (r#""logprobs":0"#, "logprobs"),
            (r#""user":"u""#, "user"),
            (r#""presence_penalty":1"#, "presence_penalty"),
            (r#""frequency_penalty":1"#, "frequency_penalty"),
            (r#""logit_bias":{"1":2}"#, "logit_bias"),
            (r#""messages":[]"#, "messages"),
            (r#""random_seed":1"#, "random_seed"),
        ] {
            let error = write(fields).expect_err(fields);
            assert_eq!(error.param(), Some(param), "{fields}");
            assert_eq!(error.status(), 400, "{fields}");
        }
    }

    #[test]
    fn an_answer_in_the_form_of_chat_is_read() {
        let body = br#"{"id":"c","model":"codestral-2501","choices":[{"index":0,"message":{"content":" b"},"finish_reason":"length"}],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}"#;
        let mut partial = Partial::default();
        let reply = FIM.read_reply(body, &mut partial).unwrap();
        assert_eq!(reply.choices[0].text, " b");
        let finish = reply.choices[0].finish.as_ref().unwrap();
        assert_eq!(finish.reason, FinishReason::Length);
        assert_eq!(partial.usage.unwrap().total_tokens, 3);
        let told = br#"{"object":"error","message":"Invalid model","type":"invalid_model","param":null,"code":"1500"}"#;
        let error = FIM.read_error(StatusCode::BAD_REQUEST, told);
        assert_eq!(error.message(), "Invalid model");
    }
}
