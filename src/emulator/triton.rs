//! Triton's `POST /v2/models/{model}/generate` and `/generate_stream`, as an ensemble of TensorRT-LLM answers. It has no key.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Ask, Vendor,
    player::{Reply, Script, Whole},
    text::{Ending, Text, count},
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
    #[serde(default)]
    return_num_input_tokens: bool,
    #[serde(default)]
    return_num_output_tokens: bool,
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
        let counted = request.return_num_input_tokens && request.return_num_output_tokens;
        let answer = Answer {
            model: model(&ask.path),
            prompt: prompt.to_owned(),
            echoes: !request.exclude_input_in_output,
            counted,
        };
        let streamed = ask.path.ends_with("/generate_stream");
        let tokens = text.tokens.len();
        let whole = answer.output(&text.joined(), tokens);
        Ok(match (ask.streams(streamed), request.stream) {
            (true, true) => {
                let pieces = text.tokens.iter().map(|token| answer.output(token, 1));
                Reply::Stream(script(pieces.collect()))
            }
            (true, false) => Reply::Stream(script(vec![whole])),
            (false, _) => Reply::Whole(Whole::json(200, &whole)),
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

struct Answer<'a> {
    model: &'a str,
    prompt: String,
    echoes: bool,
    counted: bool,
}

impl Answer<'_> {
    /// An event counts what it brings, and the prompt anew each time. Each of them echoes the prompt, if any does.
    fn output(&self, text: &str, tokens: usize) -> Value {
        let echo = if self.echoes {
            self.prompt.as_str()
        } else {
            ""
        };
        let mut output = json!({
            "model_name": self.model, "model_version": "1", "sequence_start": false, "sequence_id": 0, "sequence_end": false,
            "text_output": format!("{echo}{text}"),
        });
        if self.counted {
            output["num_input_tokens"] = count(&self.prompt).into();
            output["num_output_tokens"] = tokens.into();
        }
        output
    }
}

/// No event tells the end.
fn script(outputs: Vec<Value>) -> Script {
    let events = outputs.iter().map(|event| format!("data: {event}\n\n"));
    let events: Vec<String> = events.collect();
    let error = json!({"error": "Failed to process the request: out of memory"});
    Script {
        finish: events.len(),
        done: events.len(),
        events,
        error: format!("data: {error}\n\n"),
    }
}
