//! Anthropic's `POST /v1/messages`.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Ask, Vendor,
    chat::{Message, One, begun, said, write},
    player::{Reply, Script, Whole},
    text::{Ending, Text, count},
};

pub struct Anthropic;

/// The API refuses what it does not know.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    dead_code,
    reason = "fields that are only known, so that others can be refused"
)]
struct Request {
    model: Option<String>,
    messages: Option<Vec<Message>>,
    max_tokens: Option<u64>,
    stop_sequences: Option<Vec<String>>,
    stream: Option<bool>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<u64>,
    system: Option<Value>,
    metadata: Option<Value>,
    thinking: Option<Value>,
    service_tier: Option<String>,
}

impl Vendor for Anthropic {
    fn answer(&self, ask: &Ask<'_>) -> Result<Reply, Whole> {
        // The SDK sends a key that does not start with `sk-ant-` as a bearer token.
        // On Azure, `api-key` is a name for it too.
        let keys = ["x-api-key", "api-key", "authorization"];
        let key = keys.iter().find_map(|name| ask.header(name));
        if key.is_none_or(str::is_empty) {
            return Err(self.error(401, "x-api-key header is required"));
        }
        if ask.header("anthropic-version").is_none() {
            return Err(self.error(400, "anthropic-version: header is required"));
        }
        self.converse(ask)
    }

    fn error(&self, status: u16, message: &str) -> Whole {
        let mut whole = Whole::json(status, &error(status, message));
        whole
            .headers
            .push(("request-id", "req_emulated".to_owned()));
        whole
    }
}

impl Anthropic {
    /// What it answers to a caller it knows.
    pub fn converse(&self, ask: &Ask<'_>) -> Result<Reply, Whole> {
        let request: Request = serde_json::from_slice(ask.body)
            .map_err(|error| self.error(400, &error.to_string()))?;
        self.check(&request)?;
        let messages = request.messages.unwrap_or_default();
        let stops = request.stop_sequences.unwrap_or_default();
        let one = One {
            choice: 0,
            limit: request.max_tokens,
            stops: &stops,
            knobs: &ask.knobs,
        };
        let answer = Answer {
            id: format!("msg_{:024x}", ask.now),
            model: request.model.unwrap_or_default(),
            input_tokens: count(&said(&messages)),
            text: write(&messages, &one),
        };
        Ok(if ask.streams(request.stream == Some(true)) {
            Reply::Stream(answer.script())
        } else {
            Reply::Whole(Whole::json(200, &answer.whole()))
        })
    }
}

fn error(status: u16, message: &str) -> Value {
    let kind = match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    };
    json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_emulated"})
}

impl Anthropic {
    fn check(&self, request: &Request) -> Result<(), Whole> {
        let wrong = |message: &str| Err(self.error(400, message));
        if request.model.is_none() {
            return wrong("model: Field required");
        }
        let messages = request.messages.as_deref().unwrap_or_default();
        if messages.is_empty() {
            return wrong("messages: at least one message is required");
        }
        if let Some(last) = begun(messages) {
            let model = request.model.as_deref().unwrap_or_default();
            if NO_PREFILL.iter().any(|name| model.contains(name)) {
                return wrong(
                    "This model does not support assistant message prefill. The conversation must end with a user message.",
                );
            }
            if last.text().ends_with(char::is_whitespace) {
                return wrong(
                    "messages: final assistant content cannot end with trailing whitespace",
                );
            }
        }
        match request.max_tokens {
            None => return wrong("max_tokens: Field required"),
            Some(0) => return wrong("max_tokens: must be greater than or equal to 1"),
            Some(_) => {}
        }
        if request
            .temperature
            .is_some_and(|temperature| !(0.0..=1.0).contains(&temperature))
        {
            return wrong("temperature: range: 0..1");
        }
        let blank = |stop: &String| stop.trim().is_empty();
        if request.stop_sequences.iter().flatten().any(blank) {
            return wrong("stop_sequences: each stop sequence must contain non-whitespace");
        }
        Ok(())
    }
}

const NO_PREFILL: [&str; 2] = ["opus-4-6", "sonnet-4-6"];

struct Answer {
    id: String,
    model: String,
    input_tokens: u64,
    text: Text,
}

impl Answer {
    fn reason(&self) -> (&'static str, Option<&str>) {
        match &self.text.ending {
            Ending::Stop => ("end_turn", None),
            Ending::Sequence(stop) => ("stop_sequence", Some(stop)),
            Ending::Length => ("max_tokens", None),
            Ending::Filter => ("refusal", None),
            Ending::Own => ("pause_turn", None),
        }
    }

    fn message(&self, content: &Value, output_tokens: usize) -> Value {
        json!({
            "id": self.id, "type": "message", "role": "assistant", "model": self.model, "content": content,
            "stop_reason": null, "stop_sequence": null,
            "usage": {"input_tokens": self.input_tokens, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": output_tokens},
        })
    }

    fn whole(&self) -> Value {
        let content = json!([{"type": "text", "text": self.text.joined()}]);
        let mut whole = self.message(&content, self.text.tokens.len());
        let (reason, sequence) = self.reason();
        whole["stop_reason"] = reason.into();
        whole["stop_sequence"] = sequence.into();
        whole
    }

    fn script(&self) -> Script {
        let event = |name: &str, mut data: Value| {
            data["type"] = name.into();
            format!("event: {name}\ndata: {data}\n\n")
        };
        let block = json!({"index": 0, "content_block": {"type": "text", "text": ""}});
        let mut events = vec![
            event(
                "message_start",
                json!({"message": self.message(&json!([]), 1)}),
            ),
            event("content_block_start", block),
            event("ping", json!({})),
        ];
        for token in &self.text.tokens {
            let delta = json!({"index": 0, "delta": {"type": "text_delta", "text": token}});
            events.push(event("content_block_delta", delta));
        }
        events.push(event("content_block_stop", json!({"index": 0})));
        let finish = events.len();
        let (reason, sequence) = self.reason();
        let usage = json!({"output_tokens": self.text.tokens.len()});
        let delta = json!({"stop_reason": reason, "stop_sequence": sequence});
        events.push(event(
            "message_delta",
            json!({"delta": delta, "usage": usage}),
        ));
        let done = events.len();
        events.push(event("message_stop", json!({})));
        Script {
            events,
            finish,
            done,
            error: event("error", error(529, "Overloaded")),
        }
    }
}
