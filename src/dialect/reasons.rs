//! Every reason that a vendor documents for the end of a text, and the page's word for it, whole and streamed.
//!
//! Sources: the finish reasons of [OpenAI](https://platform.openai.com/docs/api-reference/chat/object) and of those who copied
//! it ([DeepSeek](https://api-docs.deepseek.com/api/create-chat-completion), [Mistral](https://docs.mistral.ai/api/),
//! [OpenRouter](https://openrouter.ai/docs/api/reference/overview), [Zhipu](https://docs.z.ai/api-reference/llm/chat-completion),
//! vLLM's `FinishReason`, TensorRT-LLM's), [Anthropic](https://docs.anthropic.com/en/api/handling-stop-reasons),
//! [Gemini](https://ai.google.dev/api/generate-content#FinishReason) with what Google's client knows beyond it,
//! [Vertex AI](https://cloud.google.com/vertex-ai/generative-ai/docs/reference/rest/v1/GenerateContentResponse#FinishReason),
//! [Cohere](https://docs.cohere.com/reference/chat) with those of its first API,
//! [Bedrock](https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_MessageStopEvent.html), the pages that
//! `bedrock_invoke` names, [Ollama](https://github.com/ollama/ollama/blob/main/llm/server.go), TGI's schema,
//! [watsonx](https://cloud.ibm.com/apidocs/watsonx-ai#text-generation), and OCI's `CohereChatResponse` and `ChatChoice`.
//!
//! SageMaker tells what its containers do. Triton and Replicate tell no reason, Workers AI one only where a model answers in OpenAI's form.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;

use crate::{
    completion::{Completion, FinishReason, Partial},
    dialect::{
        Dialect, Step, anthropic::ANTHROPIC, bedrock::BEDROCK, bedrock_invoke::BEDROCK_INVOKE,
        chat::CHAT, cohere::COHERE, fim::FIM, gemini::GEMINI, mistral::MISTRAL, oci::OCI,
        oci::OCI_COHERE, ollama::OLLAMA, openai::OPENAI, sagemaker::SAGEMAKER,
        sagemaker::SAGEMAKER_CHAT, sagemaker::SAGEMAKER_OPENAI, tgi::TGI, vertex::VERTEX,
        vertex::VERTEX_ANTHROPIC, vertex::VERTEX_MISTRAL, vertex::VERTEX_OPEN, watsonx::WATSONX,
        workers_ai::WORKERS_AI,
    },
    error::Error,
    wire::{Form, Frame},
};

use Means::{Fails, Filter, Length, Nothing, Stop};

/// What a reason says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Means {
    Stop,
    Length,
    Filter,
    /// The text is a fragment: an error of this status.
    Fails(u16),
    /// The text goes on.
    Nothing,
}

struct Table {
    dialect: &'static dyn Dialect,
    /// With the reason at `$`.
    whole: &'static str,
    event: &'static str,
    /// A stream's event as the framing names it.
    name: &'static str,
    reasons: &'static [(&'static str, Means)],
}

const fn table(
    dialect: &'static dyn Dialect,
    (whole, name, event): (&'static str, &'static str, &'static str),
    reasons: &'static [(&'static str, Means)],
) -> Table {
    Table {
        dialect,
        whole,
        event,
        name,
        reasons,
    }
}

impl Table {
    fn frame(&self, reason: &str) -> Frame {
        let mut data = self.event.replace('$', reason);
        if self.name == "chunk" {
            data = format!(r#"{{"bytes":"{}"}}"#, BASE64_STANDARD.encode(data));
        }
        let raw = Bytes::from(format!("data: {data}\n\n"));
        Frame {
            data: Bytes::from(data),
            event: Bytes::from(self.name),
            form: Form::Other,
            raw,
        }
    }
}

/// What a read came to; the provider's own word stands beside the page's.
fn told(read: Result<Option<Completion<'_>>, Error>, reason: &str) -> Means {
    let completion = match read {
        Err(error) => return Fails(error.status().as_u16()),
        Ok(completion) => completion.unwrap_or_default(),
    };
    let mut finishes = completion
        .choices
        .iter()
        .filter_map(|choice| choice.finish.as_ref());
    let Some(finish) = finishes.next() else {
        return Nothing;
    };
    assert!(finish.native.eq_ignore_ascii_case(reason), "{reason}");
    match finish.reason {
        FinishReason::Stop => Stop,
        FinishReason::Length => Length,
        FinishReason::ContentFilter => Filter,
    }
}

#[test]
fn every_documented_reason_becomes_the_pages_whole_and_streamed() {
    for table in TABLES {
        for &(reason, means) in table.reasons {
            let place = format!("{} {reason:?}", table.dialect.name());
            let whole = table.whole.replace('$', reason);
            let mut partial = Partial::default();
            let read = table.dialect.read_reply(whole.as_bytes(), &mut partial);
            // A whole reply that tells no end is none, unless its form lacks a place for it.
            match told(read.map(Some), reason) {
                Fails(502) if means == Nothing => {}
                found => assert_eq!(found, means, "whole {place}"),
            }
            let frame = table.frame(reason);
            let mut partial = Partial::default();
            let step = table.dialect.read_frame(&frame, &mut partial);
            let read = step.map(|step| match step {
                Step::Chunk(chunk) | Step::Last(chunk) => Some(chunk),
                Step::Done | Step::Skip | Step::Unknown => None,
            });
            assert_eq!(told(read, reason), means, "streamed {place}");
            let goes_on = partial.finished.is_empty();
            assert!(
                goes_on == (means == Nothing) || matches!(means, Fails(_)),
                "{place}"
            );
        }
    }
}

const TABLES: &[Table] = &[
    table(&OPENAI, TEXT, OPENAIS),
    table(&OPENAI, TEXT, TEXT_SERVERS),
    table(&CHAT, MESSAGE, OPENAIS),
    table(&CHAT, MESSAGE, CHAT_VENDORS),
    table(&VERTEX_OPEN, MESSAGE, OPENAIS),
    table(&WORKERS_AI, WORKERS, OPENAIS),
    table(&MISTRAL, MESSAGE, MISTRALS),
    table(&VERTEX_MISTRAL, MESSAGE, MISTRALS),
    table(&FIM, MESSAGE, MISTRALS),
    table(&ANTHROPIC, CLAUDE, ANTHROPICS),
    table(&VERTEX_ANTHROPIC, CLAUDE, ANTHROPICS),
    table(&GEMINI, CANDIDATE, GOOGLES),
    table(&VERTEX, CANDIDATE, GOOGLES),
    table(&GEMINI, BLOCKED, BLOCKS),
    table(&VERTEX, BLOCKED, BLOCKS),
    table(&COHERE, COMMAND, COHERES),
    table(&BEDROCK, CONVERSE, BEDROCKS),
    table(
        &BEDROCK_INVOKE,
        LLAMA,
        &[("stop", Stop), ("length", Length)],
    ),
    table(
        &BEDROCK_INVOKE,
        MISTRAL_TEXT,
        &[("stop", Stop), ("length", Length)],
    ),
    table(&BEDROCK_INVOKE, TITAN, TITANS),
    table(
        &OLLAMA,
        GENERATE,
        &[
            ("stop", Stop),
            ("length", Length),
            ("load", Stop),
            ("unload", Stop),
        ],
    ),
    table(&TGI, DETAILS, TGIS),
    table(&SAGEMAKER, DETAILS, TGIS),
    table(&SAGEMAKER_OPENAI, TEXT, OPENAIS),
    table(&SAGEMAKER_OPENAI, TEXT, TEXT_SERVERS),
    table(&SAGEMAKER_CHAT, MESSAGE, OPENAIS),
    table(&SAGEMAKER_CHAT, MESSAGE, CHAT_VENDORS),
    table(&WATSONX, RESULT, WATSONXES),
    table(&OCI, CHOICE, OPENAIS),
    table(&OCI_COHERE, CHAT_RESPONSE, OCI_COHERES),
];

const TEXT: (&str, &str, &str) = (
    r#"{"choices":[{"index":0,"text":"a","finish_reason":"$"}]}"#,
    "",
    r#"{"choices":[{"index":0,"text":"","finish_reason":"$"}]}"#,
);
const MESSAGE: (&str, &str, &str) = (
    r#"{"choices":[{"index":0,"message":{"content":"a"},"finish_reason":"$"}]}"#,
    "",
    r#"{"choices":[{"index":0,"delta":{},"finish_reason":"$"}]}"#,
);
const WORKERS: (&str, &str, &str) = (
    r#"{"result":{"choices":[{"index":0,"message":{"content":"a"},"finish_reason":"$"}]},"success":true}"#,
    "",
    r#"{"choices":[{"index":0,"delta":{},"finish_reason":"$"}]}"#,
);
const CLAUDE: (&str, &str, &str) = (
    r#"{"content":[],"stop_reason":"$"}"#,
    "message_delta",
    r#"{"type":"message_delta","delta":{"stop_reason":"$"}}"#,
);
const CANDIDATE: (&str, &str, &str) = (
    r#"{"candidates":[{"finishReason":"$"}]}"#,
    "",
    r#"{"candidates":[{"finishReason":"$"}]}"#,
);
const BLOCKED: (&str, &str, &str) = (
    r#"{"promptFeedback":{"blockReason":"$"}}"#,
    "",
    r#"{"promptFeedback":{"blockReason":"$"}}"#,
);
const COMMAND: (&str, &str, &str) = (
    r#"{"message":{"content":[]},"finish_reason":"$"}"#,
    "message-end",
    r#"{"type":"message-end","delta":{"finish_reason":"$"}}"#,
);
const CONVERSE: (&str, &str, &str) = (
    r#"{"output":{"message":{"content":[]}},"stopReason":"$"}"#,
    "messageStop",
    r#"{"stopReason":"$"}"#,
);
const LLAMA: (&str, &str, &str) = (
    r#"{"generation":"a","stop_reason":"$"}"#,
    "chunk",
    r#"{"generation":"","stop_reason":"$"}"#,
);
const MISTRAL_TEXT: (&str, &str, &str) = (
    r#"{"outputs":[{"text":"a","stop_reason":"$"}]}"#,
    "chunk",
    r#"{"outputs":[{"text":"","stop_reason":"$"}]}"#,
);
const TITAN: (&str, &str, &str) = (
    r#"{"results":[{"outputText":"a","completionReason":"$"}]}"#,
    "chunk",
    r#"{"outputText":"","completionReason":"$"}"#,
);
const GENERATE: (&str, &str, &str) = (
    r#"{"response":"a","done":true,"done_reason":"$"}"#,
    "",
    r#"{"response":"","done":true,"done_reason":"$"}"#,
);
const DETAILS: (&str, &str, &str) = (
    r#"{"generated_text":"a","details":{"finish_reason":"$"}}"#,
    "",
    r#"{"token":{"text":""},"generated_text":"a","details":{"finish_reason":"$"}}"#,
);
const RESULT: (&str, &str, &str) = (
    r#"{"results":[{"generated_text":"a","stop_reason":"$"}]}"#,
    "message",
    r#"{"results":[{"generated_text":"","stop_reason":"$"}]}"#,
);
const CHOICE: (&str, &str, &str) = (
    r#"{"chatResponse":{"choices":[{"message":{"content":[]},"finishReason":"$"}]}}"#,
    "",
    r#"{"message":{"content":[]},"finishReason":"$"}"#,
);
const CHAT_RESPONSE: (&str, &str, &str) = (
    r#"{"chatResponse":{"text":"a","finishReason":"$"}}"#,
    "",
    r#"{"apiFormat":"COHERE","text":"","finishReason":"$"}"#,
);

const OPENAIS: &[(&str, Means)] = &[
    ("stop", Stop),
    ("length", Length),
    ("content_filter", Filter),
    ("tool_calls", Stop),
    ("function_call", Stop),
];
/// Together's, and those of the servers of open models.
const TEXT_SERVERS: &[(&str, Means)] = &[
    ("eos", Stop),
    ("repetition", Stop),
    ("error", Fails(502)),
    ("abort", Fails(503)),
    ("cancelled", Fails(503)),
    ("timeout", Fails(504)),
    ("insufficient_system_resource", Fails(503)),
];
const CHAT_VENDORS: &[(&str, Means)] = &[
    ("error", Fails(502)),
    ("abort", Fails(503)),
    ("cancelled", Fails(503)),
    ("timeout", Fails(504)),
    ("insufficient_system_resource", Fails(503)),
    ("sensitive", Filter),
    ("network_error", Fails(502)),
    ("model_context_window_exceeded", Length),
];
const MISTRALS: &[(&str, Means)] = &[
    ("stop", Stop),
    ("length", Length),
    ("model_length", Length),
    ("error", Fails(502)),
    ("tool_calls", Stop),
];
const ANTHROPICS: &[(&str, Means)] = &[
    ("end_turn", Stop),
    ("max_tokens", Length),
    ("stop_sequence", Stop),
    ("tool_use", Stop),
    ("pause_turn", Stop),
    ("refusal", Filter),
    ("model_context_window_exceeded", Length),
];
const GOOGLES: &[(&str, Means)] = &[
    ("FINISH_REASON_UNSPECIFIED", Nothing),
    ("STOP", Stop),
    ("MAX_TOKENS", Length),
    ("SAFETY", Filter),
    ("RECITATION", Filter),
    ("LANGUAGE", Filter),
    ("OTHER", Stop),
    ("BLOCKLIST", Filter),
    ("PROHIBITED_CONTENT", Filter),
    ("SPII", Filter),
    ("MALFORMED_FUNCTION_CALL", Stop),
    ("IMAGE_SAFETY", Filter),
    ("IMAGE_PROHIBITED_CONTENT", Filter),
    ("IMAGE_OTHER", Stop),
    ("NO_IMAGE", Stop),
    ("IMAGE_RECITATION", Filter),
    ("UNEXPECTED_TOOL_CALL", Stop),
    ("TOO_MANY_TOOL_CALLS", Stop),
    ("MISSING_THOUGHT_SIGNATURE", Stop),
    ("MALFORMED_RESPONSE", Stop),
    ("MODEL_ARMOR", Filter),
    ("ESCALATION", Filter),
    ("PUP_LIMITED_DISABLED", Filter),
    ("CONTINUATION", Length),
];
/// Of a prompt that is refused as a whole.
const BLOCKS: &[(&str, Means)] = &[
    ("SAFETY", Filter),
    ("OTHER", Filter),
    ("BLOCKLIST", Filter),
    ("PROHIBITED_CONTENT", Filter),
    ("IMAGE_SAFETY", Filter),
    ("MODEL_ARMOR", Filter),
    ("JAILBREAK", Filter),
];
const COHERES: &[(&str, Means)] = &[
    ("COMPLETE", Stop),
    ("STOP_SEQUENCE", Stop),
    ("MAX_TOKENS", Length),
    ("TOOL_CALL", Stop),
    ("ERROR", Fails(500)),
    ("TIMEOUT", Fails(504)),
    ("ERROR_TOXIC", Filter),
    ("ERROR_LIMIT", Length),
];
const BEDROCKS: &[(&str, Means)] = &[
    ("end_turn", Stop),
    ("tool_use", Stop),
    ("max_tokens", Length),
    ("stop_sequence", Stop),
    ("guardrail_intervened", Filter),
    ("content_filtered", Filter),
    ("malformed_model_output", Stop),
    ("malformed_tool_use", Stop),
    ("model_context_window_exceeded", Length),
];
const TITANS: &[(&str, Means)] = &[
    ("FINISH", Stop),
    ("FINISHED", Stop),
    ("LENGTH", Length),
    ("STOP_CRITERIA_MET", Stop),
    ("RAG_QUERY_WHEN_RAG_DISABLED", Stop),
    ("CONTENT_FILTERED", Filter),
];
const TGIS: &[(&str, Means)] = &[
    ("eos_token", Stop),
    ("stop_sequence", Stop),
    ("length", Length),
];
const WATSONXES: &[(&str, Means)] = &[
    ("not_finished", Nothing),
    ("max_tokens", Length),
    ("eos_token", Stop),
    ("cancelled", Fails(502)),
    ("time_limit", Length),
    ("stop_sequence", Stop),
    ("token_limit", Length),
    ("error", Fails(500)),
    ("NOT_FINISHED", Nothing),
    ("MAX_TOKENS", Length),
    ("EOS_TOKEN", Stop),
];
const OCI_COHERES: &[(&str, Means)] = &[
    ("COMPLETE", Stop),
    ("ERROR_TOXIC", Filter),
    ("ERROR_LIMIT", Length),
    ("ERROR", Fails(502)),
    ("USER_CANCEL", Stop),
    ("MAX_TOKENS", Length),
    ("STOP_SEQUENCE", Stop),
    ("TOOL_CALL", Stop),
];
