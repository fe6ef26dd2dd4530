//! Cohere's `POST /v2/chat`.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Ask, Vendor,
    chat::{Message, One, said, write},
    player::{Reply, Script, Whole},
    text::{Ending, Text, count},
};

pub struct Cohere;

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
    stream: Option<bool>,
    max_tokens: Option<u64>,
    stop_sequences: Option<Vec<String>>,
    temperature: Option<f64>,
    p: Option<f64>,
    k: Option<u64>,
    seed: Option<u64>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    safety_mode: Option<String>,
    response_format: Option<Value>,
    thinking: Option<Value>,
    priority: Option<u64>,
    logprobs: Option<bool>,
}

impl Vendor for Cohere {
    fn answer(&self, ask: &Ask<'_>) -> Result<Reply, Whole> {
        let key = ask.header("authorization").unwrap_or_default();
        if key.strip_prefix("Bearer ").is_none_or(str::is_empty) {
            return Err(self.error(401, "no api key supplied"));
        }
        let request: Request = serde_json::from_slice(ask.body)
            .map_err(|error| self.error(400, &format!("invalid request: {error}")))?;
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
            id: format!("00000000-0000-4000-8000-{:012x}", ask.now),
            input_tokens: count(&said(&messages)),
            text: write(&messages, &one),
        };
        Ok(if ask.streams(request.stream == Some(true)) {
            Reply::Stream(answer.script())
        } else {
            Reply::Whole(Whole::json(200, &answer.whole()))
        })
    }

    fn error(&self, status: u16, message: &str) -> Whole {
        Whole::json(
            status,
            &json!({"id": "00000000-0000-4000-8000-000000000000", "message": message}),
        )
    }
}

impl Cohere {
    fn check(&self, request: &Request) -> Result<(), Whole> {
        let wrong = |message: &str| Err(self.error(400, message));
        if request.model.is_none() {
            return wrong("invalid request: model is required");
        }
        if request.messages.as_ref().is_none_or(Vec::is_empty) {
            return wrong("invalid request: at least one message is required");
        }
        if request.max_tokens == Some(0) {
            return wrong("invalid request: max_tokens must be greater than 0");
        }
        if request.p.is_some_and(|p| !(0.01..=0.99).contains(&p)) {
            return wrong("invalid request: p must be between 0.01 and 0.99 inclusive");
        }
        let penalties = [request.presence_penalty, request.frequency_penalty];
        let outside = |penalty: &f64| !(0.0..=1.0).contains(penalty);
        if penalties.iter().flatten().any(outside) {
            return wrong("invalid request: penalties must be between 0 and 1 inclusive");
        }
        if request.stop_sequences.iter().flatten().count() > 5 {
            return wrong("invalid request: too many stop sequences");
        }
        Ok(())
    }
}

struct Answer {
    id: String,
    input_tokens: u64,
    text: Text,
}

impl Answer {
    fn reason(&self) -> &'static str {
        match self.text.ending {
            Ending::Stop | Ending::Own => "COMPLETE",
            Ending::Sequence(_) => "STOP_SEQUENCE",
            Ending::Length => "MAX_TOKENS",
            Ending::Filter => "ERROR_TOXIC",
        }
    }

    /// What is billed leaves the vendor's own preamble out.
    fn usage(&self) -> Value {
        let output = self.text.tokens.len();
        json!({
            "billed_units": {"input_tokens": self.input_tokens.saturating_sub(1), "output_tokens": output},
            "tokens": {"input_tokens": self.input_tokens, "output_tokens": output},
        })
    }

    fn whole(&self) -> Value {
        let content = json!([{"type": "text", "text": self.text.joined()}]);
        json!({
            "id": self.id, "finish_reason": self.reason(), "message": {"role": "assistant", "content": content}, "usage": self.usage(),
        })
    }

    fn script(&self) -> Script {
        let event = |name: &str, mut data: Value| {
            data["type"] = name.into();
            format!("event: {name}\ndata: {data}\n\n")
        };
        let content =
            |content: Value| json!({"index": 0, "delta": {"message": {"content": content}}});
        let message = json!({"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []});
        let start = json!({"id": self.id, "delta": {"message": message}});
        let mut events = vec![
            event("message-start", start),
            event(
                "content-start",
                content(json!({"type": "text", "text": ""})),
            ),
        ];
        for token in &self.text.tokens {
            events.push(event("content-delta", content(json!({"text": token}))));
        }
        events.push(event("content-end", json!({"index": 0})));
        let finish = events.len();
        let end = json!({"finish_reason": self.reason(), "usage": self.usage()});
        events.push(event("message-end", json!({"delta": end})));
        let failed = json!({"finish_reason": "ERROR", "error": "the model failed to answer"});
        Script {
            finish,
            done: events.len(),
            events,
            error: event("message-end", json!({"delta": failed})),
        }
    }
}
