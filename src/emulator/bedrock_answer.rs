//! What Amazon Bedrock answers: Converse's form, and that of each family behind InvokeModel.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::{
    messages::message,
    player::{Framed, MESSAGES, Whole},
    text::{Ending, Text},
};

/// Whose form it is.
#[derive(Clone, Copy)]
pub enum Style {
    Converse,
    Llama,
    Mistral,
    Titan,
}

/// What a model said.
pub struct Answer {
    pub style: Style,
    pub input_tokens: u64,
    pub text: Text,
}

impl Answer {
    fn reason(&self) -> &'static str {
        match (self.style, &self.text.ending) {
            (Style::Converse, Ending::Stop | Ending::Own) => "end_turn",
            (Style::Converse, Ending::Sequence(_)) => "stop_sequence",
            (Style::Converse, Ending::Length) => "max_tokens",
            (Style::Converse, Ending::Filter) => "guardrail_intervened",
            (Style::Titan, Ending::Stop | Ending::Own) => "FINISH",
            (Style::Titan, Ending::Sequence(_)) => "STOP_CRITERIA_MET",
            (Style::Titan, Ending::Length) => "LENGTH",
            (Style::Titan, Ending::Filter) => "CONTENT_FILTERED",
            (Style::Llama | Style::Mistral, Ending::Length) => "length",
            (Style::Llama | Style::Mistral, _) => "stop",
        }
    }

    fn said(&self) -> u64 {
        self.text.tokens.len().try_into().unwrap_or(u64::MAX)
    }

    pub fn whole(&self) -> Whole {
        let (text, reason, read, said) = (
            self.text.joined(),
            self.reason(),
            self.input_tokens,
            self.said(),
        );
        let body = match self.style {
            Style::Converse => json!({
                "metrics": {"latencyMs": 500}, "output": {"message": {"content": [{"text": text}], "role": "assistant"}},
                "stopReason": reason, "usage": self.usage(),
            }),
            Style::Llama => {
                json!({"generation": text, "prompt_token_count": read, "generation_token_count": said, "stop_reason": reason})
            }
            Style::Mistral => json!({"outputs": [{"text": text, "stop_reason": reason}]}),
            Style::Titan => {
                json!({"inputTextTokenCount": read, "results": [{"tokenCount": said, "outputText": text, "completionReason": reason}]})
            }
        };
        let mut whole = Whole::json(200, &self.guarded(body));
        if !matches!(self.style, Style::Converse) {
            whole
                .headers
                .push(("x-amzn-bedrock-input-token-count", read.to_string()));
            whole
                .headers
                .push(("x-amzn-bedrock-output-token-count", said.to_string()));
        }
        whole
    }

    fn usage(&self) -> Value {
        let (read, said) = (self.input_tokens, self.said());
        json!({"inputTokens": read, "outputTokens": said, "totalTokens": read.saturating_add(said)})
    }

    pub fn script(&self) -> Framed {
        let mut frames = match self.style {
            Style::Converse => vec![event("messageStart", json!({"role": "assistant"}))],
            Style::Llama | Style::Mistral | Style::Titan => vec![],
        };
        let pieces = self.text.tokens.iter().enumerate();
        frames.extend(pieces.map(|(at, token)| self.piece(at, token)));
        let finish = frames.len();
        match self.style {
            Style::Converse => frames.extend([
                event("contentBlockStop", json!({"contentBlockIndex": 0})),
                event("messageStop", json!({"stopReason": self.reason()})),
                event(
                    "metadata",
                    json!({"metrics": {"latencyMs": 500}, "usage": self.usage()}),
                ),
            ]),
            Style::Llama | Style::Mistral | Style::Titan => frames.push(self.last()),
        }
        let mut garbage = event("chunk", json!({}));
        if let Some(byte) = garbage.last_mut() {
            *byte ^= 0xFF;
        }
        let busy = json!({"message": "Too many requests, please wait before trying again."});
        Framed {
            media: MESSAGES,
            done: frames.len(),
            finish,
            frames,
            error: message(
                &[
                    (":exception-type", "throttlingException"),
                    (":content-type", "application/json"),
                    (":message-type", "exception"),
                ],
                &busy,
            ),
            garbage,
        }
    }

    fn piece(&self, at: usize, token: &str) -> Vec<u8> {
        let first = (at == 0).then_some(self.input_tokens);
        match self.style {
            Style::Converse => event(
                "contentBlockDelta",
                json!({"contentBlockIndex": 0, "delta": {"text": token}}),
            ),
            Style::Llama => chunk(
                &json!({"generation": token, "prompt_token_count": first, "generation_token_count": at + 1, "stop_reason": null}),
            ),
            Style::Mistral => chunk(&json!({"outputs": [{"text": token, "stop_reason": null}]})),
            Style::Titan => chunk(
                &json!({"outputText": token, "index": 0, "totalOutputTextTokenCount": null, "completionReason": null, "inputTextTokenCount": first}),
            ),
        }
    }

    fn last(&self) -> Vec<u8> {
        let (reason, said) = (self.reason(), self.said());
        let mut last = match self.style {
            Style::Converse | Style::Llama => {
                json!({"generation": "", "prompt_token_count": null, "generation_token_count": said, "stop_reason": reason})
            }
            Style::Mistral => json!({"outputs": [{"text": "", "stop_reason": reason}]}),
            Style::Titan => {
                json!({"outputText": "", "index": 0, "totalOutputTextTokenCount": said, "completionReason": reason, "inputTextTokenCount": null})
            }
        };
        last["amazon-bedrock-invocationMetrics"] = json!({
            "inputTokenCount": self.input_tokens, "outputTokenCount": said, "invocationLatency": 833, "firstByteLatency": 102,
        });
        chunk(&self.guarded(last))
    }

    /// A guardrail says for itself that it has intervened, where the model has no word for it.
    fn guarded(&self, mut body: Value) -> Value {
        let speechless = matches!(self.style, Style::Llama | Style::Mistral);
        if speechless && self.text.ending == Ending::Filter {
            body["amazon-bedrock-guardrailAction"] = "INTERVENED".into();
        }
        body
    }
}

/// A piece of InvokeModel's stream.
fn chunk(piece: &Value) -> Vec<u8> {
    event(
        "chunk",
        json!({"bytes": BASE64_STANDARD.encode(piece.to_string())}),
    )
}

/// An event; Bedrock pads its payload, against those who would read a text from lengths.
fn event(name: &str, mut payload: Value) -> Vec<u8> {
    payload["p"] = "abcdefghij".into();
    message(
        &[
            (":event-type", name),
            (":content-type", "application/json"),
            (":message-type", "event"),
        ],
        &payload,
    )
}
