//! The conversation that a prompt becomes for APIs that take messages, whichever way it is put. Their own names for its
//! parts are each dialect's matter.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    completion::{Approach, CompletionRequest},
    error::Error,
};

/// One message.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'a> {
    pub speaker: Speaker,
    pub words: Words<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    User,
    Assistant,
}

impl Speaker {
    /// The name that nearly all APIs have for it.
    pub fn role(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// A message's text: the prompt as its client wrote it, or our own.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
pub enum Words<'a> {
    Prompt(&'a RawValue),
    Own(&'static str),
}

/// A message in the form that most APIs have for it.
#[derive(Serialize)]
pub struct Said<'a> {
    pub role: &'static str,
    pub content: Words<'a>,
}

impl<'a> From<Turn<'a>> for Said<'a> {
    fn from(turn: Turn<'a>) -> Self {
        Self {
            role: turn.speaker.role(),
            content: turn.words,
        }
    }
}

/// The messages of users and assistants. The instruction has a place of its own in most APIs.
pub fn turns(request: &CompletionRequest) -> Result<Vec<Turn<'_>>, Error> {
    let turn = |speaker, words| Turn { speaker, words };
    let prompt = Words::Prompt(request.sole_text()?);
    Ok(match request.approach {
        Approach::Message | Approach::Continue => vec![turn(Speaker::User, prompt)],
        // A conversation begins with a user in all of these APIs.
        Approach::Prefill(_) => vec![
            turn(Speaker::User, Words::Own(OPENING)),
            turn(Speaker::Assistant, prompt),
        ],
    })
}

/// What the system says. `own`: the client's field for the same place, which cannot stand beside it.
pub fn instruction(
    request: &CompletionRequest,
    own: &'static str,
) -> Result<Option<Words<'static>>, Error> {
    if request.approach != Approach::Continue {
        return Ok(None);
    }
    if request.extra.contains_key(own) {
        let message = format!(
            "`{own}` has the place of the instruction to continue the prompt; send one of the two."
        );
        return Err(Error::invalid(own, message));
    }
    Ok(Some(Words::Own(INSTRUCTION)))
}

/// "The prefill content cannot end with trailing whitespace": cutting it off would change the prompt.
pub fn check_trailing_space(request: &CompletionRequest) -> Result<(), Error> {
    if !matches!(request.approach, Approach::Prefill(_)) {
        return Ok(());
    }
    let prompt: Option<String> = serde_json::from_str(request.sole_text()?.get()).ok();
    match prompt {
        Some(prompt) if prompt.ends_with(char::is_whitespace) => Err(Error::invalid(
            "prompt",
            "`prompt` must not end with whitespace where this provider is sent it as the start of its answer.",
        )),
        _ => Ok(()),
    }
}

const OPENING: &str = "Continue the text.";
const INSTRUCTION: &str = "You complete texts. The user's message is not addressed to you: it is the beginning of a text. \
Write what comes next in it, from the very character after its last one. Output the continuation and nothing else: do not \
repeat any of the text, do not answer or comment on it, do not introduce or explain what you write, and put no quotation marks \
or code fences around it. Keep its language, style and format. If a space or a line break comes next, begin with it; if the \
text stops in the middle of a word, begin with the rest of that word.";

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        completion::{Mark, PromptAs},
        dialect::{
            Dialect, PromptForm,
            anthropic::ANTHROPIC,
            bedrock::BEDROCK,
            chat::CHAT,
            cohere::COHERE,
            gemini::GEMINI,
            mistral::MISTRAL,
            oci::OCI,
            openai::OPENAI,
            sagemaker::SAGEMAKER_CHAT,
            settle::{self, Unsupported},
            vertex::VERTEX,
        },
    };

    /// A prompt put to a model in one way.
    struct Put<'a> {
        dialect: &'static dyn Dialect,
        model: &'a str,
        told: Option<Mark>,
        way: PromptAs,
        fields: &'a str,
    }

    impl Put<'_> {
        /// What goes upstream, our own instruction shortened to `…`, and the answer's name for it.
        fn send(&self) -> Result<(String, &'static str), Error> {
            let body = format!(
                r#"{{"model":"{}","prompt":"a\n\u00e9","max_tokens":9{}}}"#,
                self.model, self.fields
            );
            let mut request = CompletionRequest::read(Bytes::from(body)).unwrap();
            let dialect = self.dialect.for_request(&request).unwrap_or(self.dialect);
            let terms = settle::Terms {
                dialect,
                refused: &[],
                provider: "it",
                unsupported: Unsupported::Reject,
                prompt_as: self.way,
                prefill: self.told,
            };
            let settled = settle::settle(&mut request, terms)?;
            let body = dialect.write_request(&request)?.body;
            let body = String::from_utf8(body.to_vec()).unwrap();
            let sent_as = dialect.prompt_form().sent_as(settled.approach);
            Ok((body.replace(INSTRUCTION, "…"), sent_as))
        }
    }

    /// Dialect, model or fields, the row's mark, the way, and what is wanted.
    type Case = (
        &'static dyn Dialect,
        &'static str,
        Option<Mark>,
        PromptAs,
        &'static str,
    );

    const CLAUDE: &str = "anthropic.claude-3-5-haiku-20241022-v1:0";
    const COMPARTMENT: &str = r#","compartmentId":"c""#;

    /// `message` is what each dialect's own tests hold; here are the other ways.
    #[test]
    fn each_way_has_each_vendors_own_place() {
        use PromptAs::{Continue, Prefill};
        let cases: &[Case] = &[
            (
                &CHAT,
                "m",
                None,
                Continue,
                r#"{"model":"m","messages":[{"role":"system","content":"…"},{"role":"user","content":"a\n\u00e9"}],"max_tokens":9}"#,
            ),
            (
                &CHAT,
                "m",
                Some(Mark::Role),
                Prefill,
                r#"{"model":"m","messages":[{"role":"user","content":"Continue the text."},{"role":"assistant","content":"a\n\u00e9"}],"max_tokens":9}"#,
            ),
            (
                &CHAT,
                "m",
                Some(Mark::Prefix),
                Prefill,
                r#"{"model":"m","messages":[{"role":"user","content":"Continue the text."},{"role":"assistant","content":"a\n\u00e9","prefix":true}],"max_tokens":9}"#,
            ),
            (
                &CHAT,
                "m",
                Some(Mark::Partial),
                Prefill,
                r#"{"model":"m","messages":[{"role":"user","content":"Continue the text."},{"role":"assistant","content":"a\n\u00e9","partial":true}],"max_tokens":9}"#,
            ),
            (
                &CHAT,
                "m",
                Some(Mark::ContinueFinalMessage),
                Prefill,
                r#"{"model":"m","messages":[{"role":"user","content":"Continue the text."},{"role":"assistant","content":"a\n\u00e9"}],"continue_final_message":true,"add_generation_prompt":false,"max_tokens":9}"#,
            ),
            (
                &MISTRAL,
                "m",
                None,
                Continue,
                r#"{"model":"m","messages":[{"role":"system","content":"…"},{"role":"user","content":"a\n\u00e9"}],"max_tokens":9}"#,
            ),
            (
                &MISTRAL,
                "m",
                None,
                Prefill,
                r#"{"model":"m","messages":[{"role":"user","content":"Continue the text."},{"role":"assistant","content":"a\n\u00e9","prefix":true}],"max_tokens":9}"#,
            ),
            (
                &SAGEMAKER_CHAT,
                "m",
                Some(Mark::ContinueFinalMessage),
                Prefill,
                r#"{"model":"m","messages":[{"role":"user","content":"Continue the text."},{"role":"assistant","content":"a\n\u00e9"}],"continue_final_message":true,"add_generation_prompt":false,"max_tokens":9}"#,
            ),
            (
                &ANTHROPIC,
                "c",
                None,
                Continue,
                r#"{"model":"c","max_tokens":9,"messages":[{"role":"user","content":"a\n\u00e9"}],"system":"…"}"#,
            ),
            (
                &ANTHROPIC,
                "c",
                None,
                Prefill,
                r#"{"model":"c","max_tokens":9,"messages":[{"role":"user","content":"Continue the text."},{"role":"assistant","content":"a\n\u00e9"}]}"#,
            ),
            (
                &GEMINI,
                "g",
                None,
                Continue,
                r#"{"contents":[{"role":"user","parts":[{"text":"a\n\u00e9"}]}],"systemInstruction":{"parts":[{"text":"…"}]},"generationConfig":{"maxOutputTokens":9}}"#,
            ),
            (
                &VERTEX,
                "gemini-2.5-flash",
                None,
                Continue,
                r#"{"contents":[{"role":"user","parts":[{"text":"a\n\u00e9"}]}],"systemInstruction":{"parts":[{"text":"…"}]},"generationConfig":{"maxOutputTokens":9}}"#,
            ),
            (
                &VERTEX,
                "anthropic.claude-3-5-haiku",
                None,
                Prefill,
                r#"{"anthropic_version":"vertex-2023-10-16","max_tokens":9,"messages":[{"role":"user","content":"Continue the text."},{"role":"assistant","content":"a\n\u00e9"}]}"#,
            ),
            (
                &VERTEX,
                "mistralai.codestral-2501",
                None,
                Prefill,
                r#"{"model":"codestral-2501","messages":[{"role":"user","content":"Continue the text."},{"role":"assistant","content":"a\n\u00e9","prefix":true}],"max_tokens":9}"#,
            ),
            (
                &VERTEX,
                "meta/llama-3.3-70b-instruct-maas",
                None,
                Continue,
                r#"{"model":"meta/llama-3.3-70b-instruct-maas","messages":[{"role":"system","content":"…"},{"role":"user","content":"a\n\u00e9"}],"max_tokens":9}"#,
            ),
            (
                &COHERE,
                "c",
                None,
                Continue,
                r#"{"model":"c","messages":[{"role":"system","content":"…"},{"role":"user","content":"a\n\u00e9"}],"max_tokens":9,"stream":false}"#,
            ),
            (
                &BEDROCK,
                "amazon.nova-lite-v1:0",
                None,
                Continue,
                r#"{"messages":[{"role":"user","content":[{"text":"a\n\u00e9"}]}],"system":[{"text":"…"}],"inferenceConfig":{"maxTokens":9}}"#,
            ),
            (
                &BEDROCK,
                CLAUDE,
                None,
                Prefill,
                r#"{"messages":[{"role":"user","content":[{"text":"Continue the text."}]},{"role":"assistant","content":[{"text":"a\n\u00e9"}]}],"inferenceConfig":{"maxTokens":9}}"#,
            ),
            (
                &OCI,
                "meta.llama-3.3-70b-instruct",
                None,
                Continue,
                r#"{"compartmentId":"c","servingMode":{"servingType":"ON_DEMAND","modelId":"meta.llama-3.3-70b-instruct"},"chatRequest":{"apiFormat":"GENERIC","messages":[{"role":"SYSTEM","content":[{"type":"TEXT","text":"…"}]},{"role":"USER","content":[{"type":"TEXT","text":"a\n\u00e9"}]}],"maxTokens":9}}"#,
            ),
            (
                &OCI,
                "cohere.command-r-08-2024",
                None,
                Continue,
                r#"{"compartmentId":"c","servingMode":{"servingType":"ON_DEMAND","modelId":"cohere.command-r-08-2024"},"chatRequest":{"apiFormat":"COHERE","message":"a\n\u00e9","preambleOverride":"…","maxTokens":9}}"#,
            ),
        ];
        for &(dialect, model, told, way, wanted) in cases {
            let fields = if dialect.name() == "oci" {
                COMPARTMENT
            } else {
                ""
            };
            let put = Put {
                dialect,
                model,
                told,
                way,
                fields,
            };
            let (body, sent_as) = put.send().unwrap();
            assert_eq!(body, wanted, "{model} {told:?}");
            assert_eq!(sent_as, format!("chat-{}", way.as_str()));
        }
    }

    #[test]
    fn a_way_that_a_provider_does_not_document_is_refused_by_the_headers_name() {
        for (dialect, model) in [
            (&CHAT as &'static dyn Dialect, "m"),
            (&GEMINI, "g"),
            (&COHERE, "c"),
            (&OCI, "cohere.command-r-08-2024"),
            (&OCI, "meta.llama-3.3-70b-instruct"),
            (&VERTEX, "gemini-2.5-flash"),
            (&VERTEX, "meta/llama-3.3-70b-instruct-maas"),
            (&VERTEX, "endpoints/1"),
            (&BEDROCK, "amazon.nova-lite-v1:0"),
        ] {
            let put = Put {
                dialect,
                model,
                told: None,
                way: PromptAs::Prefill,
                fields: "",
            };
            let error = put.send().unwrap_err();
            assert_eq!(error.param(), Some("x-completions-prompt-as"), "{model}");
            assert_eq!(error.status(), 400, "{model}");
        }
    }

    #[test]
    fn what_cannot_stand_together_is_refused_by_name() {
        use PromptAs::{Continue, Prefill};
        let going_on = Some(Mark::ContinueFinalMessage);
        let cases: &[Case] = &[
            (&ANTHROPIC, r#","system":"x""#, None, Continue, "system"),
            (&BEDROCK, r#","system":[]"#, None, Continue, "system"),
            (
                &GEMINI,
                r#","systemInstruction":{}"#,
                None,
                Continue,
                "systemInstruction",
            ),
            (
                &CHAT,
                r#","add_generation_prompt":true"#,
                going_on,
                Prefill,
                "add_generation_prompt",
            ),
            (
                &CHAT,
                r#","continue_final_message":true"#,
                going_on,
                Prefill,
                "continue_final_message",
            ),
            (
                &CHAT,
                r#","logprobs":1"#,
                Some(Mark::RepeatedPrefix),
                Prefill,
                "logprobs",
            ),
        ];
        for &(dialect, fields, told, way, param) in cases {
            let put = Put {
                dialect,
                model: "m",
                told,
                way,
                fields,
            };
            assert_eq!(put.send().unwrap_err().param(), Some(param));
        }
        for (end, refused) in [
            (" ", true),
            ("\\n", true),
            ("\\u0020", true),
            ("\\\\n", false),
        ] {
            let body = format!(r#"{{"model":"m","prompt":"a{end}"}}"#);
            let mut request = CompletionRequest::read(Bytes::from(body)).unwrap();
            assert!(ANTHROPIC.write_request(&request).is_ok(), "a message");
            request.approach = Approach::Prefill(Mark::Role);
            let written = ANTHROPIC.write_request(&request);
            let param = written
                .err()
                .and_then(|error| error.param().map(str::to_owned));
            assert_eq!(param.as_deref(), refused.then_some("prompt"), "{end}");
        }
    }

    #[test]
    fn a_text_is_sent_as_it_is_in_every_way() {
        for way in PromptAs::ALL {
            let put = Put {
                dialect: &OPENAI,
                model: "m",
                told: Some(Mark::Role),
                way,
                fields: "",
            };
            let (body, sent_as) = put.send().unwrap();
            assert_eq!(body, r#"{"model":"m","prompt":"a\n\u00e9","max_tokens":9}"#);
            assert_eq!(sent_as, PromptForm::Text.as_str());
        }
    }
}
