//! Mistral's `POST /v1/fim/completions`.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Ask, Vendor,
    chat::Answer,
    openai::{Stop, check_key},
    player::{Reply, Script, Whole},
    text::{Text, count},
};

pub struct Fim;

/// The API refuses what it does not know.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    dead_code,
    reason = "fields that are only known, so that others can be refused"
)]
struct Request {
    model: String,
    prompt: String,
    suffix: Option<String>,
    max_tokens: Option<u64>,
    min_tokens: Option<u64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    stop: Option<Stop>,
    random_seed: Option<i64>,
    stream: Option<bool>,
    metadata: Option<Value>,
}

impl Vendor for Fim {
    fn answer(&self, ask: &Ask<'_>) -> Result<Reply, Whole> {
        check_key(ask)?;
        let request: Request = serde_json::from_slice(ask.body)
            .map_err(|error| self.error(422, &error.to_string()))?;
        if !request.model.contains("codestral") {
            return Err(self.error(400, &format!("Invalid model: {}", request.model)));
        }
        // The words between depend on what stands on both sides.
        let around = format!(
            "{}{}",
            request.prompt,
            request.suffix.as_deref().unwrap_or_default()
        );
        let stops = Stop::list(request.stop.as_ref());
        let text = Text::write(&around, 0, request.max_tokens, &stops, &ask.knobs);
        let answer = Answer {
            now: ask.now,
            model: request.model,
            texts: vec![text],
            prompt_tokens: count(&around),
            says: "content",
            lead: None,
            top_logprobs: None,
        };
        Ok(if ask.streams(request.stream == Some(true)) {
            Reply::Stream(script(&answer))
        } else {
            Reply::Whole(Whole::json(200, &answer.whole()))
        })
    }

    fn error(&self, status: u16, message: &str) -> Whole {
        let kind = match status {
            429 => "rate_limited",
            500.. => "internal_server_error",
            _ => "invalid_request_error",
        };
        let body = json!({"object": "error", "message": message, "type": kind, "param": null, "code": "1500"});
        Whole::json(status, &body)
    }
}

/// Chat's events, but for the last: Mistral counts beside the finish reason.
fn script(answer: &Answer) -> Script {
    let mut script = answer.script(false);
    if let Some(last) = script.events.get_mut(script.finish) {
        let data = last.trim_start_matches("data: ");
        let mut event: Value = serde_json::from_str(data).unwrap_or_default();
        event["choices"][0]["delta"] = json!({"content": ""});
        event["usage"] = answer.usage();
        *last = format!("data: {event}\n\n");
    }
    script
}
