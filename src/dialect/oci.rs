//! Oracle's OCI Generative AI: `POST {base}/20231130/actions/chat`.
//!
//! Sources: <https://docs.oracle.com/en-us/iaas/api/#/en/generative-ai-inference/20231130/ChatResult/Chat>, its types
//! `GenericChatRequest`, `CohereChatRequest`, `Logprobs` and `StreamOptions`, and
//! [errors](https://docs.oracle.com/en-us/iaas/Content/API/References/apierrors.htm). The prompt becomes one user message.
//!
//! The API has two formats: `COHERE` for models called `cohere.…`, `GENERIC` for all others. A model that is an endpoint's
//! OCID is a dedicated one, and counts as generic: one that hosts a Cohere model of that format is refused by the service,
//! as are the few Cohere models that want its `COHEREV2`. The compartment to bill is the client's field `compartmentId`.
//!
//! A `COHERE` stream has no end marker, and its last event says the whole text again: there it is complete when it ends
//! after a finish reason, and that text is left out.

use std::{borrow::Cow, fmt};

use http::StatusCode;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{
    completion::{
        Choice, Completion, CompletionRequest, Finish, Parameter, Partial, Support, Usage,
        logprobs::{Score, Scored, Token},
    },
    dialect::{
        Dialect, Extras, Step, UpstreamRequest, join,
        lenient::{Field, Text},
        not_the_shape,
        oci_request::{Format, write_body},
        openai::learn_head,
        openai_error::read_error,
    },
    error::{Error, Kind},
    wire::{Form, Frame, Framing},
};

/// The chat action, in one of its formats.
#[derive(Debug)]
pub struct Oci {
    format: Format,
}

pub static OCI: Oci = Oci {
    format: Format::Generic,
};
pub static OCI_COHERE: Oci = Oci {
    format: Format::Cohere,
};

impl Dialect for Oci {
    fn name(&self) -> &'static str {
        "oci"
    }

    fn for_request(&self, request: &CompletionRequest) -> Option<&'static dyn Dialect> {
        if request.model().starts_with("cohere.") {
            Some(&OCI_COHERE)
        } else {
            Some(&OCI)
        }
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
            Parameter::N | Parameter::LogitBias | Parameter::Logprobs
                if self.format == Format::Generic =>
            {
                Support::Native
            }
            Parameter::StreamOptions => Support::Emulated,
            Parameter::Prompts
            | Parameter::TokenIds
            | Parameter::N
            | Parameter::Suffix
            | Parameter::Echo
            | Parameter::BestOf
            | Parameter::Logprobs
            | Parameter::User
            | Parameter::LogitBias => Support::Refused,
        }
    }

    fn extras(&self) -> Extras {
        Extras::Only(self.format.extras())
    }

    fn write_request(&self, request: &CompletionRequest) -> Result<UpstreamRequest, Error> {
        Ok(UpstreamRequest {
            path: Cow::Borrowed("/20231130/actions/chat"),
            headers: &[],
            body: write_body(request, self.format)?,
        })
    }

    fn read_reply<'b>(
        &self,
        body: &'b [u8],
        partial: &mut Partial,
    ) -> Result<Completion<'b>, Error> {
        let reply: Reply<'b> = serde_json::from_slice(body).map_err(not_the_shape)?;
        let Some(response) = reply.chat_response else {
            return Err(told_error(reply.code, body).unwrap_or_else(no_choices));
        };
        learn_head(partial, None, None, reply.model_id);
        count(response.usage, partial);
        // `COHERE` tells its one choice where `GENERIC` has the list.
        let choices = match response.choices {
            Some(choices) => choices,
            None if response.finish_reason.is_some() => vec![response],
            None => Vec::new(),
        };
        let choices: Result<Vec<_>, Error> = choices
            .into_iter()
            .map(|choice| choice.read(partial))
            .collect();
        let choices = choices?;
        if choices.is_empty() {
            return Err(no_choices());
        }
        Ok(Completion { choices })
    }

    fn read_frame<'f>(&self, frame: &'f Frame, partial: &mut Partial) -> Result<Step<'f>, Error> {
        if frame.form == Form::Comment {
            return Ok(Step::Skip);
        }
        if frame.data.trim_ascii() == b"[DONE]" {
            return Ok(Step::Done);
        }
        let event: Event<'f> = serde_json::from_slice(&frame.data).map_err(not_the_shape)?;
        if let Some(error) = told_error(event.code, &frame.data) {
            return Err(error);
        }
        count(event.usage, partial);
        let repeats = self.format == Format::Cohere && event.finish_reason.is_some();
        let mut choice = event.read(partial)?;
        if repeats && partial.headed {
            choice.text = Cow::Borrowed("");
        }
        // From the first text on, nothing of the head is to come.
        partial.headed |= !choice.text.is_empty();
        Ok(Step::from(vec![choice]))
    }

    fn read_error(&self, status: StatusCode, body: &[u8]) -> Error {
        read_error(status, body)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reply<'a> {
    #[serde(borrow, default)]
    model_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    chat_response: Option<Event<'a>>,
    /// Of an error in a reply's place.
    #[serde(borrow, default)]
    code: Option<&'a RawValue>,
}

/// One event, one choice of a whole reply, or the reply around the choices.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    #[serde(borrow, default)]
    choices: Option<Vec<Event<'a>>>,
    #[serde(default)]
    index: u32,
    /// `GENERIC`: a message; of an error: its sentence.
    #[serde(borrow, default)]
    message: Option<&'a RawValue>,
    /// `COHERE`.
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    finish_reason: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    error_message: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    code: Option<&'a RawValue>,
    #[serde(borrow, default)]
    logprobs: Field<'a>,
}

#[derive(Deserialize)]
struct Said<'a> {
    #[serde(borrow, default)]
    content: Option<Vec<Piece<'a>>>,
    /// "The refusal message by the assistant."
    #[serde(borrow, default)]
    refusal: Option<Cow<'a, str>>,
}

/// A piece of content; what is no text has none.
#[derive(Deserialize)]
struct Piece<'a> {
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
}

impl<'a> Event<'a> {
    fn read(self, partial: &mut Partial) -> Result<Choice<'a>, Error> {
        let finish = self.finish_reason.filter(|reason| !reason.is_empty());
        let told = self.error_message.filter(|message| !message.is_empty());
        if told.is_some() || finish.as_deref() == Some("ERROR") {
            let message = told.unwrap_or(Cow::Borrowed("The provider failed to generate a text."));
            let kind = Kind::Upstream(StatusCode::BAD_GATEWAY);
            return Err(Error::new(kind, message.into_owned()));
        }
        if finish.is_some() {
            partial.finished.end(self.index);
        }
        let said = self.message.map(read_message).transpose()?;
        let (said, refused) = said.unzip();
        if refused == Some(true) {
            partial.refused.end(self.index);
        }
        let text = said.or(self.text).unwrap_or_default();
        let tokens = || self.logprobs.object().and_then(read_tokens);
        Ok(Choice {
            index: self.index,
            logprobs: partial.logprobs.place(self.index, &text, tokens),
            text,
            finish: finish.map(|reason| partial.judge(self.index, Finish::from_native(reason))),
        })
    }
}

/// What a message says, and whether that is a refusal.
fn read_message(message: &RawValue) -> Result<(Cow<'_, str>, bool), Error> {
    let said: Option<Said<'_>> = serde_json::from_str(message.get()).map_err(not_the_shape)?;
    let (pieces, refusal) = said.map_or((None, None), |said| (said.content, said.refusal));
    let refusal = refusal.filter(|text| !text.is_empty());
    let refused = refusal.is_some();
    let pieces = pieces.into_iter().flatten();
    let text = join(pieces.filter_map(|piece| piece.text).chain(refusal));
    Ok((text, refused))
}

/// Reads the type `Logprobs`: the page's lists under names of its own, the figures of one of them in quotes. Its offsets
/// are counted anew, so that they are those of a stream too. What is of another form counts as absent.
fn read_tokens(logprobs: &RawValue) -> Option<Vec<Token<'_>>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Logprobs<'a> {
        #[serde(borrow)]
        tokens: Vec<Text<'a>>,
        #[serde(borrow)]
        token_logprobs: Vec<Score<'a>>,
        #[serde(borrow, default)]
        top_logprobs: Option<Vec<Option<Alternatives<'a>>>>,
    }
    let told: Logprobs<'_> = serde_json::from_str(logprobs.get()).ok()?;
    let tops = told.top_logprobs.unwrap_or_default().into_iter();
    let tops = tops.chain(std::iter::repeat_with(|| None));
    let chosen = told.tokens.into_iter().zip(told.token_logprobs);
    let tokens = chosen.zip(tops).map(|((text, logprob), top)| Token {
        chosen: Scored::new(text.0, logprob),
        top: top.unwrap_or_default().0,
    });
    Some(tokens.collect())
}

/// A map of texts to figures, in its order.
#[derive(Default)]
struct Alternatives<'a>(Vec<Scored<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Alternatives<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(AlternativesVisitor)
    }
}

struct AlternativesVisitor;

impl<'de> Visitor<'de> for AlternativesVisitor {
    type Value = Alternatives<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of tokens to figures")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut alternatives = Vec::new();
        while let Some((text, logprob)) = map.next_entry::<String, Score<'de>>()? {
            alternatives.push(Scored::new(Cow::Owned(text), logprob));
        }
        Ok(Alternatives(alternatives))
    }
}

/// Takes over token counts; the event that brings them brings nothing else.
fn count(usage: Option<&RawValue>, partial: &mut Partial) {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Counts {
        prompt_tokens: u64,
        #[serde(default)]
        completion_tokens: u64,
        #[serde(default)]
        total_tokens: Option<u64>,
    }
    let Some(Ok(counts)) = usage.map(|usage| serde_json::from_str::<Counts>(usage.get())) else {
        return;
    };
    let usage = Usage::new(counts.prompt_tokens, counts.completion_tokens);
    partial.usage = Some(Usage {
        total_tokens: counts.total_tokens.unwrap_or(usage.total_tokens),
        ..usage
    });
}

/// An error in place of an answer, `{"code":…,"message":…}`: it counts as the HTTP error it stands for.
fn told_error(code: Option<&RawValue>, body: &[u8]) -> Option<Error> {
    let code = code.filter(|code| code.get() != "null")?;
    let word = serde_json::from_str::<Text<'_>>(code.get())
        .unwrap_or_default()
        .0;
    let number = word.parse().or_else(|_| code.get().parse::<u16>()).ok();
    let named = CODES.iter().find(|(name, _)| *name == word);
    let status = number
        .or(named.map(|&(_, status)| status))
        .and_then(|status| StatusCode::from_u16(status).ok())
        .filter(|status| status.is_client_error() || status.is_server_error());
    Some(read_error(status.unwrap_or(StatusCode::BAD_GATEWAY), body))
}

fn no_choices() -> Error {
    Error::broken("The provider's answer holds no choices.")
}

/// The API's error codes and the statuses they come with outside a stream.
const CODES: &[(&str, u16)] = &[
    ("InvalidParameter", 400),
    ("NotAuthenticated", 401),
    ("NotAllowed", 403),
    ("NotAuthorizedOrNotFound", 404),
    ("TooManyRequests", 429),
    ("InternalServerError", 500),
    ("ServiceUnavailable", 503),
];

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{completion::FinishReason, dialect::settle};

    const COMPARTMENT: &str = r#""compartmentId":"ocid1.compartment.oc1..a""#;

    fn dialect(model: &str) -> &'static dyn Dialect {
        let body = format!(r#"{{"model":"{model}","prompt":"a"}}"#);
        let request = CompletionRequest::read(Bytes::from(body)).unwrap();
        OCI.for_request(&request).unwrap()
    }

    fn write(model: &str, fields: &str) -> Result<String, Error> {
        let body = format!(r#"{{"model":"{model}","prompt":"a\n\u00e9",{fields}}}"#);
        let mut request = CompletionRequest::read(Bytes::from(body))?;
        settle(&mut request, dialect(model), &[], "oracle")?;
        let upstream = dialect(model).write_request(&request)?;
        assert_eq!(upstream.path, "/20231130/actions/chat");
        Ok(String::from_utf8(upstream.body.to_vec()).unwrap())
    }

    #[test]
    fn every_parameter_has_its_place_in_the_request() {
        let shared = r#""max_tokens":9,"temperature":0.5,"top_p":0.5,"stop":["\n","END"],"seed":-7,"presence_penalty":0.5,"frequency_penalty":0.25,"topK":4,"stream":true"#;
        let generic = format!(
            r#"{COMPARTMENT},{shared},"n":2,"logit_bias":{{"5":-1}},"logprobs":0,"reasoningEffort":"LOW""#
        );
        assert_eq!(
            write("meta.llama-3.3-70b-instruct", &generic).unwrap(),
            concat!(
                r#"{"compartmentId":"ocid1.compartment.oc1..a","servingMode":{"servingType":"ON_DEMAND","modelId":"meta.llama-3.3-70b-instruct"},"#,
                r#""chatRequest":{"apiFormat":"GENERIC","messages":[{"role":"USER","content":[{"type":"TEXT","text":"a\n\u00e9"}]}],"#,
                r#""maxTokens":9,"temperature":0.5,"topP":0.5,"frequencyPenalty":0.25,"presencePenalty":0.5,"seed":-7,"#,
                r#""stop":["\n","END"],"numGenerations":2,"logitBias":{"5":-1},"logProbs":0,"isStream":true,"#,
                r#""streamOptions":{"isIncludeUsage":true},"reasoningEffort":"LOW","topK":4}}"#,
            )
        );
        let cohere = format!(r#"{COMPARTMENT},{shared},"safetyMode":"OFF""#);
        assert_eq!(
            write("cohere.command-a-03-2025", &cohere).unwrap(),
            concat!(
                r#"{"compartmentId":"ocid1.compartment.oc1..a","servingMode":{"servingType":"ON_DEMAND","modelId":"cohere.command-a-03-2025"},"#,
                r#""chatRequest":{"apiFormat":"COHERE","message":"a\n\u00e9","#,
                r#""maxTokens":9,"temperature":0.5,"topP":0.5,"frequencyPenalty":0.25,"presencePenalty":0.5,"seed":-7,"#,
                r#""stopSequences":["\n","END"],"isStream":true,"streamOptions":{"isIncludeUsage":true},"safetyMode":"OFF","topK":4}}"#,
            )
        );
    }

    #[test]
    fn nothing_is_sent_that_was_not_asked_for() {
        let neutral = format!(
            r#"{COMPARTMENT},"n":1,"best_of":1,"echo":false,"presence_penalty":0,"frequency_penalty":0,"logit_bias":{{}},"suffix":"","stop":null,"stream":false,"topK":null"#
        );
        let endpoint = "ocid1.generativeaiendpoint.oc1.us-chicago-1.a";
        assert_eq!(
            write(endpoint, &neutral).unwrap(),
            concat!(
                r#"{"compartmentId":"ocid1.compartment.oc1..a","servingMode":{"servingType":"DEDICATED","endpointId":"ocid1.generativeaiendpoint.oc1.us-chicago-1.a"},"#,
                r#""chatRequest":{"apiFormat":"GENERIC","messages":[{"role":"USER","content":[{"type":"TEXT","text":"a\n\u00e9"}]}],"maxTokens":16}}"#,
            )
        );
    }

    #[test]
    fn what_the_api_cannot_carry_is_refused_by_name() {
        for (model, fields, param) in [
            ("meta.l", r#""max_tokens":0"#, "max_tokens"),
            ("meta.l", r#""best_of":2"#, "best_of"),
            ("meta.l", r#""echo":true"#, "echo"),
            ("meta.l", r#""suffix":"x""#, "suffix"),
            ("cohere.c", r#""logprobs":0"#, "logprobs"),
            ("meta.l", r#""user":"u""#, "user"),
            ("meta.l", r#""safetyMode":"OFF""#, "safetyMode"),
            ("meta.l", r#""servingMode":{}"#, "servingMode"),
            ("cohere.c", r#""n":2"#, "n"),
            ("cohere.c", r#""logit_bias":{"1":2}"#, "logit_bias"),
            ("cohere.c", r#""temperature":1.5"#, "temperature"),
            ("cohere.c", r#""presence_penalty":-0.5"#, "presence_penalty"),
            (
                "cohere.c",
                r#""frequency_penalty":1.5"#,
                "frequency_penalty",
            ),
            ("cohere.c", r#""reasoningEffort":"LOW""#, "reasoningEffort"),
        ] {
            let error = write(model, &format!("{COMPARTMENT},{fields}")).expect_err(fields);
            assert_eq!(error.param(), Some(param), "{fields}");
            assert_eq!(error.status(), 400, "{fields}");
        }
        for missing in [
            r#""n":1"#,
            r#""compartmentId":null"#,
            r#""compartmentId":{"a":1}"#,
        ] {
            let error = write("meta.l", missing).expect_err(missing);
            assert_eq!(error.param(), Some("compartmentId"));
        }
    }

    #[test]
    fn every_finish_reason_becomes_one_of_the_pages() {
        use FinishReason::{ContentFilter, Length, Stop};
        for (native, reason) in [
            ("stop", Stop),
            ("length", Length),
            ("MAX_TOKENS", Length),
            ("content_filter", ContentFilter),
            ("COMPLETE", Stop),
            ("ERROR_LIMIT", Length),
            ("ERROR_TOXIC", ContentFilter),
            ("USER_CANCEL", Stop),
        ] {
            for body in [
                format!(r#"{{"chatResponse":{{"text":"a","finishReason":"{native}"}}}}"#),
                format!(
                    r#"{{"chatResponse":{{"choices":[{{"message":{{"content":[{{"type":"TEXT","text":"a"}}]}},"finishReason":"{native}"}}]}}}}"#
                ),
            ] {
                let mut partial = Partial::default();
                let reply = OCI.read_reply(body.as_bytes(), &mut partial).unwrap();
                let choice = &reply.choices[0];
                assert_eq!(choice.text, "a");
                assert_eq!(choice.finish.as_ref().unwrap().reason, reason, "{native}");
                assert_eq!(partial.finished.count(), 1, "{native}");
            }
        }
    }

    #[test]
    fn a_failed_generation_is_an_error_with_the_words_of_the_provider() {
        for body in [
            r#"{"chatResponse":{"text":"","finishReason":"ERROR"}}"#,
            r#"{"chatResponse":{"text":"a","finishReason":"COMPLETE","errorMessage":"no"}}"#,
        ] {
            let error = OCI
                .read_reply(body.as_bytes(), &mut Partial::default())
                .unwrap_err();
            assert_eq!(
                error.kind(),
                Kind::Upstream(StatusCode::BAD_GATEWAY),
                "{body}"
            );
        }
    }

    #[test]
    fn an_error_keeps_its_status_and_its_words() {
        let body = br#"{"code":"NotAuthorizedOrNotFound","message":"Authorization failed."}"#;
        let error = OCI.read_error(StatusCode::NOT_FOUND, body);
        assert_eq!(error.message(), "Authorization failed.");
        let told = String::from_utf8(error.body()).unwrap();
        assert!(told.contains("NotAuthorizedOrNotFound"), "{told}");
        for (code, status) in [
            (r#""TooManyRequests""#, 429),
            (r#""400""#, 400),
            ("503", 503),
            (r#""Odd""#, 502),
            ("200", 502),
        ] {
            let body = format!(r#"{{"code":{code},"message":"no"}}"#);
            let error = OCI
                .read_reply(body.as_bytes(), &mut Partial::default())
                .unwrap_err();
            assert_eq!(error.status(), status, "{code}");
            assert_eq!(error.message(), "no", "{code}");
        }
    }

    #[test]
    fn a_reply_without_choices_is_broken() {
        for body in [
            "",
            "{}",
            "[]",
            r#"{"chatResponse":null}"#,
            r#"{"chatResponse":{"choices":[]}}"#,
            r#"{"chatResponse":{"text":"a"}}"#,
            r#"{"chatResponse":{"choices":[{"message":"a","finishReason":"stop"}]}}"#,
        ] {
            let read = OCI.read_reply(body.as_bytes(), &mut Partial::default());
            assert_eq!(read.unwrap_err().kind(), Kind::Broken, "{body}");
        }
    }
}
