//! Ollama's `POST /api/generate`.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Ask, Vendor,
    chat::told,
    player::{Framed, LINES, Reply, Whole},
    text::{Ending, Text, count},
};

pub struct Ollama;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Request {
    model: String,
    prompt: String,
    suffix: String,
    system: String,
    raw: bool,
    stream: Option<bool>,
    logprobs: bool,
    top_logprobs: u64,
    options: Options,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Options {
    num_predict: Option<i64>,
    stop: Vec<String>,
    temperature: Option<f64>,
}

impl Vendor for Ollama {
    /// There are no keys.
    fn answer(&self, ask: &Ask<'_>) -> Result<Reply, Whole> {
        let request: Request = serde_json::from_slice(ask.body)
            .map_err(|error| self.error(400, &error.to_string()))?;
        self.check(&request)?;
        if request.prompt.is_empty() {
            let loaded = json!({"model": request.model, "created_at": CREATED_AT, "response": "", "done": true, "done_reason": "load"});
            return Ok(Reply::Whole(Whole::json(200, &loaded)));
        }
        // Without a template, the suffix is not read.
        let behind = if request.raw { "" } else { &request.suffix };
        let prompt = format!("{}{behind}", request.prompt);
        // "-1 = infinite"; 0 limits nothing either.
        let limit = request.options.num_predict.filter(|&limit| limit > 0);
        let limit = limit.and_then(|limit| limit.try_into().ok());
        let answer = Answer {
            model: request.model,
            prompt_tokens: count(&prompt),
            text: Text::write(&prompt, 0, limit, &request.options.stop, &ask.knobs),
            top_logprobs: request.logprobs.then_some(request.top_logprobs),
        };
        Ok(if ask.streams(request.stream != Some(false)) {
            Reply::Framed(answer.script())
        } else {
            let whole = answer.last(&answer.text.joined());
            Reply::Whole(Whole::json(
                200,
                &answer.with_tokens(whole, &answer.text.tokens),
            ))
        })
    }

    fn error(&self, status: u16, message: &str) -> Whole {
        Whole::json(status, &json!({"error": message}))
    }
}

impl Ollama {
    fn check(&self, request: &Request) -> Result<(), Whole> {
        if request.model.is_empty() {
            return Err(self.error(400, "model is required"));
        }
        if request.top_logprobs > 20 {
            return Err(self.error(400, "top_logprobs must be between 0 and 20"));
        }
        if request.raw && !request.system.is_empty() {
            let message = "raw mode does not support template, system, or context";
            return Err(self.error(400, message));
        }
        if request
            .options
            .temperature
            .is_some_and(f64::is_sign_negative)
        {
            return Err(self.error(500, "temperature must not be negative"));
        }
        Ok(())
    }
}

struct Answer {
    model: String,
    prompt_tokens: u64,
    text: Text,
    /// Alternatives to tell beside each token's log-probability.
    top_logprobs: Option<u64>,
}

impl Answer {
    fn with_tokens(&self, mut reply: Value, tokens: &[String]) -> Value {
        if let Some(top) = self.top_logprobs {
            reply["logprobs"] = tokens.iter().map(|token| told(token, top)).collect();
        }
        reply
    }

    fn last(&self, response: &str) -> Value {
        let reason = match self.text.ending {
            Ending::Length => "length",
            // The API has no filter and no other reason.
            Ending::Stop | Ending::Sequence(_) | Ending::Filter | Ending::Own => "stop",
        };
        json!({
            "model": self.model, "created_at": CREATED_AT, "response": response, "done": true, "done_reason": reason,
            "total_duration": 5_043_500_667_u64, "load_duration": 5_025_959, "prompt_eval_count": self.prompt_tokens,
            "prompt_eval_duration": 325_953_000, "eval_count": self.text.tokens.len(), "eval_duration": 4_709_213_000_u64,
        })
    }

    fn script(&self) -> Framed {
        let line = |value: &Value| format!("{value}\n").into_bytes();
        let mut frames: Vec<Vec<u8>> = self
            .text
            .tokens
            .iter()
            .map(|token| {
                let said = json!({"model": self.model, "created_at": CREATED_AT, "response": token, "done": false});
                line(&self.with_tokens(said, std::slice::from_ref(token)))
            })
            .collect();
        let finish = frames.len();
        frames.push(line(&self.last("")));
        Framed {
            media: LINES,
            done: frames.len(),
            finish,
            frames,
            error: line(&json!({"error": "an error was encountered while running the model"})),
            garbage: b"{\"half\": \n".to_vec(),
        }
    }
}

const CREATED_AT: &str = "2023-08-04T19:22:45.499127Z";
