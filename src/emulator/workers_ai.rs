//! Cloudflare's `POST /client/v4/accounts/{account}/ai/run/{model}`.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Ask, Vendor,
    chat::{Message, said},
    openai::usage,
    player::{Reply, Script, Whole},
    text::{Text, count},
};

pub struct WorkersAi;

/// "required properties at '/' are 'prompt'": one of two, and nothing that the schema lacks.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    dead_code,
    reason = "fields that are only known, so that others can be refused"
)]
struct Request {
    prompt: Option<String>,
    messages: Option<Vec<Message>>,
    raw: Option<bool>,
    stream: Option<bool>,
    max_tokens: Option<u64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<u64>,
    seed: Option<i64>,
    repetition_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    presence_penalty: Option<f64>,
    lora: Option<String>,
}

impl Vendor for WorkersAi {
    fn answer(&self, ask: &Ask<'_>) -> Result<Reply, Whole> {
        let token = ask
            .header("authorization")
            .and_then(|value| value.strip_prefix("Bearer "));
        if token.is_none_or(str::is_empty) {
            return Err(envelope(401, 10000, "Authentication error"));
        }
        let model = ask
            .path
            .split_once("/ai/run/")
            .map_or("", |(_, model)| model);
        if !model.starts_with('@') {
            return Err(envelope(400, 7000, "No route for that URI"));
        }
        let request: Request = serde_json::from_slice(ask.body)
            .map_err(|error| self.error(400, &format!("AiError: Bad input: {error}")))?;
        let prompt = match (&request.prompt, &request.messages) {
            (Some(prompt), _) => prompt.clone(),
            (None, Some(messages)) => said(messages),
            (None, None) => {
                let message = "AiError: Bad input: required properties at '/' are 'prompt'";
                return Err(self.error(400, message));
            }
        };
        let limit = Some(request.max_tokens.unwrap_or(256));
        let mut text = Text::write(&prompt, 0, limit, &[], &ask.knobs);
        if request.raw != Some(true) {
            text = text.into_chat();
        }
        let said = u64::try_from(text.tokens.len()).unwrap_or_default();
        let counts = usage(count(&prompt), said);
        Ok(if ask.streams(request.stream == Some(true)) {
            Reply::Stream(script(&text, &counts))
        } else {
            let result = json!({"response": text.joined(), "tool_calls": [], "usage": counts});
            let whole = json!({"result": result, "success": true, "errors": [], "messages": []});
            Reply::Whole(Whole::json(200, &whole))
        })
    }

    fn error(&self, status: u16, message: &str) -> Whole {
        let code = match status {
            400 => 5006,
            404 => 5007,
            429 => 3040,
            _ => 3043,
        };
        envelope(status, code, message)
    }
}

fn envelope(status: u16, code: u64, message: &str) -> Whole {
    let errors = json!([{"message": message, "code": code}]);
    let body = json!({"errors": errors, "success": false, "result": {}, "messages": []});
    Whole::json(status, &body)
}

/// No event tells why the text ended: the end marker is the end.
fn script(text: &Text, counts: &Value) -> Script {
    let mut events: Vec<String> = text
        .tokens
        .iter()
        .map(|token| format!("data: {}\n\n", json!({"response": token, "p": "abdefgh"})))
        .collect();
    events.push(format!(
        "data: {}\n\n",
        json!({"response": "", "usage": counts})
    ));
    let done = events.len();
    events.push("data: [DONE]\n\n".to_owned());
    let error = json!({"errors": [{"message": "AiError: the model is busy", "code": 3040}]});
    Script {
        events,
        finish: done,
        done,
        error: format!("data: {error}\n\n"),
    }
}
