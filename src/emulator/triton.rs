//! Triton's `POST /v2/models/{model}/generate` and `/generate_stream`, as an ensemble of TensorRT-LLM answers. It has no key.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Ask, Vendor,
    player::{Reply, Script, Whole},
    text::{Ending, Text},
};

pub struct Triton;

/// The inputs that the model declares; what else comes is taken for a parameter.
#[derive(Deserialize)]
struct Request {
    text_input: Option<String>,
    max_tokens: Option<u64>,
    #[serde(default)]
    stop_words: Words,
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    exclude_input_in_output: bool,
}

/// The empty string stands for none.
#[derive(Default, Deserialize)]
#[serde(untagged)]
enum Words {
    #[default]
    None,
    One(String),
    Many(Vec<String>),
}

impl Vendor for Triton {
    fn answer(&self, ask: &Ask<'_>) -> Result<Reply, Whole> {
        let request: Request = serde_json::from_slice(ask.body).map_err(|error| {
            self.error(400, &format!("failed to parse the request JSON: {error}"))
        })?;
        let missing = || {
            self.error(
                400,
                "expected 1 inputs but got 0 inputs: 'text_input' is required",
            )
        };
        let prompt = request.text_input.as_deref().ok_or_else(missing)?;
        if request.max_tokens.is_none_or(|tokens| tokens == 0) {
            return Err(self.error(400, "max_tokens must be a positive number"));
        }
        let stops = match request.stop_words {
            Words::None => Vec::new(),
            Words::One(word) => vec![word],
            Words::Many(words) => words,
        };
        let mut text = Text::write(prompt, 0, request.max_tokens, &stops, &ask.knobs);
        // The engine stops behind the word, not before it.
        if let Ending::Sequence(stop) = &text.ending {
            text.tokens.push(stop.clone());
        }
        if !request.exclude_input_in_output {
            text.tokens.insert(0, prompt.to_owned());
        }
        let model = model(&ask.path);
        let streamed = ask.path.ends_with("/generate_stream");
        Ok(match (ask.streams(streamed), request.stream) {
            (true, true) => Reply::Stream(script(model, &text.tokens)),
            (true, false) => Reply::Stream(script(model, &[text.joined()])),
            (false, _) => Reply::Whole(Whole::json(200, &output(model, &text.joined()))),
        })
    }

    fn error(&self, status: u16, message: &str) -> Whole {
        Whole::json(status, &json!({"error": message}))
    }
}

fn model(path: &str) -> &str {
    let rest = path.split("/v2/models/").nth(1).unwrap_or_default();
    rest.split('/').next().unwrap_or_default()
}

fn output(model: &str, text: &str) -> Value {
    json!({
        "model_name": model, "model_version": "1", "sequence_start": false, "sequence_id": 0, "sequence_end": false, "text_output": text,
    })
}

/// No event tells the end.
fn script(model: &str, pieces: &[String]) -> Script {
    let events = pieces.iter().map(|piece| output(model, piece));
    let events: Vec<String> = events.map(|event| format!("data: {event}\n\n")).collect();
    let error = json!({"error": "Failed to process the request: out of memory"});
    Script {
        finish: events.len(),
        done: events.len(),
        events,
        error: format!("data: {error}\n\n"),
    }
}
