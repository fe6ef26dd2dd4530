//! Google's Gemini API: `POST {base}/models/{model}:generateContent`, or `:streamGenerateContent?alt=sse`.
//!
//! Source: <https://ai.google.dev/api/generate-content>. The prompt becomes one user content, each candidate a choice; thoughts
//! are left out of its text and counted with it. The stream has no end marker: it is complete when it ends after a finish
//! reason. The API's `BlockReason` stands for an answer that was never begun: an empty choice stopped by a filter.
//!
//! Log-probabilities are `logprobsResult` of <https://ai.google.dev/api/generate-content#LogprobsResult>; a model that has
//! none refuses them itself.
//!
//! A model that thinks does so within `max_tokens`: the page's default of 16 can leave it an empty text and `length`.

use std::borrow::Cow;

use http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    completion::{
        Choice, Completion, CompletionRequest, Finish, Parameter, Partial, Support, Usage,
        logprobs::Running,
    },
    dialect::{
        Dialect, Extras, Step, UpstreamRequest,
        gemini_request::{EXTRAS, candidate_count, write_body},
        gemini_tokens,
        google_error::{ToldError, read_told_error},
        join, not_the_shape,
        openai::learn_head,
        unreadable_error,
    },
    error::Error,
    wire::{Form, Frame, Framing},
};

/// Google's generateContent.
#[derive(Debug)]
pub struct Gemini;

pub static GEMINI: Gemini = Gemini;

impl Dialect for Gemini {
    fn name(&self) -> &'static str {
        "gemini"
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
            | Parameter::Seed
            | Parameter::Logprobs => Support::Native,
            Parameter::StreamOptions => Support::Emulated,
            Parameter::Prompts
            | Parameter::TokenIds
            | Parameter::Suffix
            | Parameter::Echo
            | Parameter::BestOf
            | Parameter::User
            | Parameter::LogitBias => Support::Refused,
        }
    }

    fn carries(&self, parameter: Parameter, request: &CompletionRequest) -> bool {
        parameter != Parameter::N || candidate_count(request).is_ok()
    }

    fn extras(&self) -> Extras {
        Extras::Only(EXTRAS)
    }

    fn write_request(&self, request: &CompletionRequest) -> Result<UpstreamRequest, Error> {
        let resource = read_resource(request.model())?;
        let method = method(request);
        Ok(UpstreamRequest {
            path: Cow::Owned(format!("/{resource}:{method}")),
            headers: &[],
            body: write_body(request)?,
        })
    }

    fn read_reply<'b>(
        &self,
        body: &'b [u8],
        partial: &mut Partial,
    ) -> Result<Completion<'b>, Error> {
        let choices = read(body)?.into_choices(partial)?;
        if choices.is_empty() {
            return Err(Error::broken("The provider's answer holds no candidates."));
        }
        Ok(Completion { choices })
    }

    fn read_frame<'f>(&self, frame: &'f Frame, partial: &mut Partial) -> Result<Step<'f>, Error> {
        if frame.form == Form::Comment {
            // An error that comes up within a stream may stand in it bare, without a field name.
            return read_told_error(&frame.raw).map_or(Ok(Step::Skip), |error| Err(error.told()));
        }
        let ended = !partial.finished.is_empty();
        let mut choices = read(&frame.data)?.into_choices(partial)?;
        // Only one candidate is ever streamed. Its reason can come again, with citations or counts.
        if let Some(choice) = choices.first_mut().filter(|_| ended) {
            choice.finish = None;
        }
        Ok(Step::from(choices))
    }

    fn tells_alike(&self) -> bool {
        true
    }

    fn read_error(&self, status: StatusCode, body: &[u8]) -> Error {
        read_told_error(body).map_or_else(
            || unreadable_error(status),
            |error| error.with_status(status),
        )
    }
}

/// What stands behind the model's name in the path.
pub(super) fn method(request: &CompletionRequest) -> &'static str {
    if request.stream {
        "streamGenerateContent?alt=sse"
    } else {
        "generateContent"
    }
}

/// The model's resource name, `models/…` where it names no collection. It becomes a piece of the path: nothing in it may
/// end the piece.
fn read_resource(model: &str) -> Result<String, Error> {
    let (collection, name) = model.split_once('/').unwrap_or(("models", model));
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let valid = matches!(collection, "models" | "tunedModels")
        && name.bytes().all(plain)
        && name.bytes().any(|byte| byte != b'.');
    let wrong = "`model` must be a name of letters, digits, `.`, `_` and `-` for this provider.";
    valid
        .then(|| format!("{collection}/{name}"))
        .ok_or_else(|| Error::invalid("model", wrong))
}

/// A whole reply or one event; an error in its place is read too.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reply<'a> {
    #[serde(borrow, default)]
    candidates: Option<Vec<Candidate<'a>>>,
    #[serde(borrow, default)]
    prompt_feedback: Option<PromptFeedback<'a>>,
    #[serde(borrow, default)]
    usage_metadata: Option<&'a RawValue>,
    #[serde(borrow, default)]
    model_version: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    response_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    error: Option<ToldError<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Candidate<'a> {
    #[serde(default)]
    index: u32,
    #[serde(borrow, default)]
    content: Option<Parts<'a>>,
    #[serde(borrow, default)]
    finish_reason: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    logprobs_result: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Parts<'a> {
    #[serde(borrow, default)]
    parts: Vec<Piece<'a>>,
}

/// A part of a candidate; what is no text has none.
#[derive(Deserialize)]
struct Piece<'a> {
    #[serde(borrow, default)]
    text: Cow<'a, str>,
    #[serde(default)]
    thought: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PromptFeedback<'a> {
    #[serde(borrow, default)]
    block_reason: Option<Cow<'a, str>>,
}

fn read(body: &[u8]) -> Result<Reply<'_>, Error> {
    serde_json::from_slice(body).map_err(|error| {
        read_told_error(body).map_or_else(|| not_the_shape(error), ToldError::told)
    })
}

impl<'a> Reply<'a> {
    fn into_choices(self, partial: &mut Partial) -> Result<Vec<Choice<'a>>, Error> {
        if let Some(error) = self.error {
            return Err(error.told());
        }
        learn_head(partial, self.response_id, None, self.model_version);
        partial.usage = read_usage(self.usage_metadata).or(partial.usage);
        let candidates = self.candidates.unwrap_or_default();
        let blocked = self.prompt_feedback.and_then(|told| told.block_reason);
        let running = &mut partial.logprobs;
        let candidates = candidates.into_iter();
        let choices = candidates.map(|candidate| candidate.into_choice(running));
        let mut choices: Vec<_> = choices.collect();
        // "If set, the prompt was blocked and no candidates are returned."
        if let Some(native) = blocked.filter(|_| choices.is_empty()) {
            choices.push(Choice {
                finish: Some(Finish::filtered(native)),
                ..Choice::default()
            });
        }
        for choice in choices.iter().filter(|choice| choice.finish.is_some()) {
            partial.finished.end(choice.index);
        }
        Ok(choices)
    }
}

impl<'a> Candidate<'a> {
    fn into_choice(self, running: &mut Running) -> Choice<'a> {
        let parts = self.content.map(|content| content.parts);
        let said = parts.into_iter().flatten().filter(|part| !part.thought);
        let text = join(said.map(|part| part.text));
        let tokens = || self.logprobs_result.and_then(gemini_tokens::read);
        Choice {
            index: self.index,
            logprobs: running.place(self.index, &text, tokens),
            text,
            finish: self
                .finish_reason
                .filter(|reason| !UNTOLD.contains(&&**reason))
                .map(Finish::from_native),
        }
    }
}

/// Reads the token counts. Events that tell other figures alone leave the last ones standing.
fn read_usage(usage: Option<&RawValue>) -> Option<Usage> {
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Counts {
        prompt_token_count: Option<u64>,
        candidates_token_count: u64,
        thoughts_token_count: u64,
        total_token_count: Option<u64>,
    }
    let counts: Counts = serde_json::from_str(usage?.get()).ok()?;
    let said = counts
        .candidates_token_count
        .saturating_add(counts.thoughts_token_count);
    let usage = Usage::new(counts.prompt_token_count?, said);
    Some(Usage {
        total_tokens: counts.total_token_count.unwrap_or(usage.total_tokens),
        ..usage
    })
}

/// "Default value. This value is unused."
const UNTOLD: &[&str] = &["", "FINISH_REASON_UNSPECIFIED"];

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{completion::FinishReason, dialect::settle, error::Kind};

    fn request(model: &str, fields: &str) -> CompletionRequest {
        let body = format!(r#"{{"model":"{model}","prompt":"a\n\u00e9",{fields}}}"#);
        CompletionRequest::read(Bytes::from(body)).unwrap()
    }

    fn write(fields: &str) -> Result<(String, String), Error> {
        let mut request = request("gemini-2.5-flash", fields);
        settle(&mut request, &GEMINI, &[], "google")?;
        let upstream = GEMINI.write_request(&request)?;
        assert!(upstream.headers.is_empty());
        let body = String::from_utf8(upstream.body.to_vec()).unwrap();
        Ok((upstream.path.into_owned(), body))
    }

    #[test]
    fn every_parameter_has_its_place_in_the_request() {
        let fields = r#""max_tokens":9,"temperature":1.5,"top_p":1,"n":8,"stop":["\n","END"],"seed":-7,"presence_penalty":0.5,
            "frequency_penalty":-0.5,"logprobs":20,"stream_options":null,"topK":4,"thinkingConfig":{"thinkingBudget":0},
            "systemInstruction":{"parts":[{"text":"Be brief."}]},"safetySettings":[]"#;
        let (path, body) = write(fields).unwrap();
        assert_eq!(path, "/models/gemini-2.5-flash:generateContent");
        assert_eq!(
            body,
            concat!(
                r#"{"contents":[{"role":"user","parts":[{"text":"a\n\u00e9"}]}],"#,
                r#""generationConfig":{"stopSequences":["\n","END"],"candidateCount":8,"maxOutputTokens":9,"temperature":1.5,"#,
                r#""topP":1.0,"seed":-7,"presencePenalty":0.5,"frequencyPenalty":-0.5,"responseLogprobs":true,"logprobs":20,"#,
                r#""thinkingConfig":{"thinkingBudget":0},"topK":4},"#,
                r#""safetySettings":[],"systemInstruction":{"parts":[{"text":"Be brief."}]}}"#,
            )
        );
    }

    #[test]
    fn nothing_is_sent_that_was_not_asked_for() {
        let neutral = r#""n":1,"best_of":1,"echo":false,"presence_penalty":0,"frequency_penalty":0,"logit_bias":{},"suffix":"","stop":null,"stream":true,"topK":null,"unknown":null"#;
        let (path, body) = write(neutral).unwrap();
        assert_eq!(
            path,
            "/models/gemini-2.5-flash:streamGenerateContent?alt=sse"
        );
        assert_eq!(
            body,
            r#"{"contents":[{"role":"user","parts":[{"text":"a\n\u00e9"}]}],"generationConfig":{"maxOutputTokens":16}}"#
        );
        let (_, chosen_alone) = write(r#""logprobs":0"#).unwrap();
        assert!(chosen_alone.ends_with(r#"{"maxOutputTokens":16,"responseLogprobs":true}}"#));
    }

    #[test]
    fn what_the_api_cannot_carry_is_refused_by_name() {
        let cases = [
            (r#""max_tokens":0"#, "max_tokens"),
            (r#""n":9"#, "n"),
            (r#""n":2,"stream":true"#, "n"),
            (r#""best_of":2"#, "best_of"),
            (r#""topK":1,"top_k":2"#, "top_k"),
            (r#""echo":true"#, "echo"),
            (r#""suffix":"x""#, "suffix"),
            (r#""logprobs":21"#, "logprobs"),
            (r#""user":"u""#, "user"),
            (r#""logit_bias":{"1":2}"#, "logit_bias"),
            (r#""generationConfig":{}"#, "generationConfig"),
            (r#""contents":[]"#, "contents"),
            (r#""tools":[]"#, "tools"),
        ];
        for (fields, param) in cases {
            let error = write(fields).expect_err(fields);
            assert_eq!(error.param(), Some(param), "{fields}");
            assert_eq!(error.status(), 400, "{fields}");
        }
    }

    #[test]
    fn a_model_is_one_piece_of_the_path() {
        for (model, resource) in [
            ("gemini-2.0-flash_1", Some("models/gemini-2.0-flash_1")),
            ("models/gemini-pro", Some("models/gemini-pro")),
            ("tunedModels/mine", Some("tunedModels/mine")),
            ("", None),
            ("models/", None),
            ("/", None),
            ("..", None),
            ("models/..", None),
            ("../models/x", None),
            ("models/x/../../y", None),
            ("files/x", None),
            ("x:generateContent", None),
            ("x?key=1", None),
            ("x#", None),
            ("x%2F..", None),
            ("x y", None),
            ("x\\ny", None),
            ("modèle", None),
        ] {
            match (GEMINI.write_request(&request(model, r#""n":1"#)), resource) {
                (Ok(upstream), Some(resource)) => {
                    assert_eq!(upstream.path, format!("/{resource}:generateContent"));
                }
                (Err(error), None) => assert_eq!(error.param(), Some("model"), "{model}"),
                (written, _) => panic!("{model}: {written:?}"),
            }
        }
    }

    #[test]
    fn every_finish_reason_becomes_one_of_the_pages() {
        use FinishReason::{ContentFilter, Length, Stop};
        for (native, reason) in [
            ("STOP", Some(Stop)),
            ("OTHER", Some(Stop)),
            ("MALFORMED_FUNCTION_CALL", Some(Stop)),
            ("A_NEW_ONE", Some(Stop)),
            ("MAX_TOKENS", Some(Length)),
            ("SAFETY", Some(ContentFilter)),
            ("RECITATION", Some(ContentFilter)),
            ("LANGUAGE", Some(ContentFilter)),
            ("BLOCKLIST", Some(ContentFilter)),
            ("PROHIBITED_CONTENT", Some(ContentFilter)),
            ("SPII", Some(ContentFilter)),
            ("IMAGE_SAFETY", Some(ContentFilter)),
            ("FINISH_REASON_UNSPECIFIED", None),
            ("", None),
        ] {
            let body = format!(r#"{{"candidates":[{{"finishReason":"{native}"}}]}}"#);
            let mut partial = Partial::default();
            let reply = GEMINI.read_reply(body.as_bytes(), &mut partial).unwrap();
            let finish = reply.choices[0].finish.as_ref();
            assert_eq!(finish.map(|finish| finish.reason), reason, "{native}");
            assert_eq!(
                partial.finished.count(),
                u32::from(reason.is_some()),
                "{native}"
            );
        }
    }

    #[test]
    fn a_reply_without_candidates_is_broken_unless_its_prompt_was_blocked() {
        for body in [
            "",
            "{}",
            "[]",
            r#"{"candidates":[]}"#,
            r#"{"promptFeedback":{"safetyRatings":[]}}"#,
            r#"{"candidates":[{"content":"a"}]}"#,
        ] {
            let read = GEMINI.read_reply(body.as_bytes(), &mut Partial::default());
            assert_eq!(read.unwrap_err().kind(), Kind::Broken, "{body}");
        }
        let blocked = br#"{"candidates":[],"promptFeedback":{"blockReason":"OTHER"}}"#;
        let mut partial = Partial::default();
        let reply = GEMINI.read_reply(blocked, &mut partial).unwrap();
        let finish = reply.choices[0].finish.as_ref().unwrap();
        assert_eq!(finish.reason, FinishReason::ContentFilter);
        assert_eq!(partial.finished.count(), 1);
    }

    #[test]
    fn an_error_reply_keeps_its_status_and_its_words() {
        let object = r#"{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT","details":[{"reason":"API_KEY_INVALID"}]}}"#;
        for body in [object.to_owned(), format!("[{object}]")] {
            let error = GEMINI.read_error(StatusCode::BAD_REQUEST, body.as_bytes());
            assert_eq!(error.message(), "API key not valid.");
            assert_eq!(error.kind(), Kind::Upstream(StatusCode::BAD_REQUEST));
            let told = String::from_utf8(error.body()).unwrap();
            assert!(told.contains(r#""type":"INVALID_ARGUMENT""#), "{told}");
            let inside = GEMINI.read_reply(body.as_bytes(), &mut Partial::default());
            assert_eq!(inside.unwrap_err().kind(), error.kind());
        }
        for body in ["", "<html>", "{}", "[]", r#"{"error":"x"}"#, "null"] {
            let error = GEMINI.read_error(StatusCode::BAD_GATEWAY, body.as_bytes());
            assert_eq!(error.status(), 502, "{body}");
            assert!(error.message().contains("502"), "{body}");
        }
    }
}
