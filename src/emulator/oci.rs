//! Oracle's `POST /20231130/actions/chat`, in its formats `GENERIC` and `COHERE`.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    Ask, Fault, Vendor,
    player::{Reply, Script, Whole},
    text::{Ending, Text, candidates, count, logprob},
};

pub struct Oci;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    compartment_id: Option<String>,
    serving_mode: Option<ServingMode>,
    chat_request: Option<ChatRequest>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServingMode {
    serving_type: String,
    model_id: Option<String>,
    endpoint_id: Option<String>,
}

/// The service refuses what a format does not know.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(
    dead_code,
    reason = "fields that are only known, so that others can be refused"
)]
struct ChatRequest {
    api_format: String,
    messages: Option<Vec<Message>>,
    message: Option<String>,
    max_tokens: Option<u64>,
    num_generations: Option<u64>,
    stop: Option<Vec<String>>,
    stop_sequences: Option<Vec<String>>,
    is_stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i64>,
    seed: Option<i64>,
    frequency_penalty: Option<f64>,
    presence_penalty: Option<f64>,
    logit_bias: Option<Value>,
    log_probs: Option<u64>,
    reasoning_effort: Option<String>,
    response_format: Option<Value>,
    is_raw_prompting: Option<bool>,
    preamble_override: Option<String>,
    safety_mode: Option<String>,
    verbosity: Option<String>,
    service_tier: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StreamOptions {
    is_include_usage: Option<bool>,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: String,
}

impl Vendor for Oci {
    fn answer(&self, ask: &Ask<'_>) -> Result<Reply, Whole> {
        let signed = ask.header("authorization").is_some_and(is_signature);
        if !signed {
            return Err(self.error(401, "The required information to complete authentication was not provided or was incorrect."));
        }
        let request: Request = serde_json::from_slice(ask.body)
            .map_err(|error| self.error(400, &error.to_string()))?;
        let wrong = |message: &str| self.error(400, message);
        if !request
            .compartment_id
            .is_some_and(|id| id.starts_with("ocid1."))
        {
            return Err(wrong("compartmentId must not be null"));
        }
        let mode = request
            .serving_mode
            .ok_or_else(|| wrong("servingMode must not be null"))?;
        let model = match mode.serving_type.as_str() {
            "ON_DEMAND" => mode.model_id,
            "DEDICATED" => mode.endpoint_id,
            _ => None,
        };
        let model = model.ok_or_else(|| wrong("servingMode is not valid"))?;
        let chat = request
            .chat_request
            .ok_or_else(|| wrong("chatRequest must not be null"))?;
        let prompt = chat
            .prompt()
            .ok_or_else(|| wrong("messages must not be empty"))?;
        if chat.max_tokens == Some(0) {
            return Err(wrong("maxTokens must be at least 1"));
        }
        let answer = Answer::write(&chat, model, &prompt, ask);
        Ok(
            match (ask.streams(chat.is_stream == Some(true)), answer.cohere) {
                (false, _) => Reply::Whole(Whole::json(200, &answer.whole())),
                (true, true) => Reply::Stream(answer.cohere_script()),
                (true, false) => Reply::Stream(answer.generic_script(chat.wants_usage())),
            },
        )
    }

    fn error(&self, status: u16, message: &str) -> Whole {
        Whole::json(status, &error(status, message))
    }
}

/// Whether a header has the parts of OCI's signature. Their truth is another witness's matter.
fn is_signature(header: &str) -> bool {
    header.starts_with("Signature ")
        && [
            "version=\"1\"",
            "keyId=\"",
            "algorithm=\"rsa-sha256\"",
            "headers=\"",
            "signature=\"",
        ]
        .iter()
        .all(|part| header.contains(part))
}

fn error(status: u16, message: &str) -> Value {
    let code = match status {
        400 => "InvalidParameter",
        401 => "NotAuthenticated",
        404 => "NotAuthorizedOrNotFound",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        _ => "InternalServerError",
    };
    json!({"code": code, "message": message})
}

impl ChatRequest {
    fn prompt(&self) -> Option<String> {
        match self.api_format.as_str() {
            "COHERE" => self.message.clone(),
            "GENERIC" => {
                let messages = self
                    .messages
                    .as_ref()
                    .filter(|messages| !messages.is_empty())?;
                let asked = messages.iter().filter(|message| message.role != "SYSTEM");
                let parts = asked.flat_map(|message| &message.content);
                Some(
                    parts
                        .filter(|part| part.kind == "TEXT")
                        .map(|part| part.text.as_str())
                        .collect(),
                )
            }
            _ => None,
        }
    }

    fn wants_usage(&self) -> bool {
        let asked = self
            .stream_options
            .as_ref()
            .and_then(|options| options.is_include_usage);
        asked == Some(true)
    }
}

struct Answer {
    model: String,
    prompt: String,
    texts: Vec<Text>,
    cohere: bool,
    refuses: bool,
    log_probs: Option<u64>,
}

impl Answer {
    fn write(chat: &ChatRequest, model: String, prompt: &str, ask: &Ask<'_>) -> Self {
        let stops = chat.stop.as_ref().or(chat.stop_sequences.as_ref());
        let stops = stops.map_or(&[][..], Vec::as_slice);
        let texts = (0..chat.num_generations.unwrap_or(1))
            .map(|choice| {
                Text::write(prompt, choice, chat.max_tokens, stops, &ask.knobs).into_chat()
            })
            .collect();
        Self {
            model,
            prompt: prompt.to_owned(),
            texts,
            cohere: chat.api_format == "COHERE",
            refuses: ask.knobs.fault == Some(Fault::Refusal),
            log_probs: chat.log_probs,
        }
    }

    fn usage(&self) -> Value {
        let prompt = count(&self.prompt);
        let said: usize = self.texts.iter().map(|text| text.tokens.len()).sum();
        let said = u64::try_from(said).unwrap_or_default();
        json!({"promptTokens": prompt, "completionTokens": said, "totalTokens": prompt + said})
    }

    fn whole(&self) -> Value {
        let response = match self.texts.first().filter(|_| self.cohere) {
            Some(text) => {
                json!({"apiFormat": "COHERE", "text": text.joined(), "chatHistory": self.history(text), "finishReason": cohere_reason(&text.ending), "usage": self.usage()})
            }
            None => {
                let choices: Vec<Value> = (0_u64..)
                    .zip(&self.texts)
                    .map(|(index, text)| json!({"index": index, "message": self.message(&text.joined()), "finishReason": self.reason(text), "logprobs": self.logprobs(&text.tokens)}))
                    .collect();
                json!({"apiFormat": "GENERIC", "timeCreated": "2025-03-05T10:00:00.000Z", "choices": choices, "usage": self.usage()})
            }
        };
        json!({"modelId": self.model, "modelVersion": "1.0.0", "chatResponse": response})
    }

    fn message(&self, text: &str) -> Value {
        if self.refuses {
            return json!({"role": "ASSISTANT", "content": null, "refusal": text});
        }
        json!({"role": "ASSISTANT", "content": [{"type": "TEXT", "text": text}]})
    }

    /// A refusal is a stop of the model's own.
    fn reason(&self, text: &Text) -> &'static str {
        if self.refuses {
            return "stop";
        }
        reason(&text.ending)
    }

    /// The type `Logprobs`, whose alternatives have their figures in quotes. Nothing is in it that was not asked for.
    fn logprobs(&self, tokens: &[String]) -> Value {
        let Some(top) = self.log_probs else {
            return json!({});
        };
        let tops = tokens.iter().map(|token| {
            let words = candidates(token, top.max(1));
            words
                .map(|(word, figure)| (word, json!(figure).to_string().into()))
                .collect::<Map<String, Value>>()
        });
        let figures: Vec<f64> = tokens.iter().map(|token| logprob(token)).collect();
        let offsets = tokens.iter().scan(0, |offset, token| {
            let start = *offset;
            *offset += token.chars().count();
            Some(start)
        });
        json!({
            "tokens": tokens, "tokenLogprobs": figures, "topLogprobs": tops.collect::<Vec<_>>(),
            "textOffset": offsets.collect::<Vec<usize>>(),
        })
    }

    fn history(&self, text: &Text) -> Value {
        json!([{"role": "USER", "message": self.prompt}, {"role": "CHATBOT", "message": text.joined()}])
    }

    fn generic_script(&self, include_usage: bool) -> Script {
        let mut events = Vec::new();
        for (index, text) in (0_u64..).zip(&self.texts) {
            for token in &text.tokens {
                let mut said = json!({"index": index, "message": self.message(token)});
                if self.log_probs.is_some() {
                    said["logprobs"] = self.logprobs(std::slice::from_ref(token));
                }
                events.push(event(said));
            }
        }
        let finish = events.len();
        for (index, text) in (0_u64..).zip(&self.texts) {
            events.push(event(json!({"index": index, "message": self.message(""), "finishReason": self.reason(text)})));
        }
        if include_usage {
            events.push(event(json!({"usage": self.usage()})));
        }
        let done = events.len();
        events.push("data: [DONE]\n\n".to_owned());
        Script {
            events,
            finish,
            done,
            error: stream_error(),
        }
    }

    /// The last event repeats the text; no end marker follows.
    fn cohere_script(&self) -> Script {
        let tokens = self.texts.iter().flat_map(|text| &text.tokens);
        let mut events: Vec<String> = tokens
            .map(|token| event(json!({"apiFormat": "COHERE", "text": token})))
            .collect();
        let finish = events.len();
        events.extend(self.texts.iter().map(|text| {
            event(json!({"apiFormat": "COHERE", "text": text.joined(), "chatHistory": self.history(text), "finishReason": cohere_reason(&text.ending), "usage": self.usage()}))
        }));
        Script {
            done: events.len(),
            events,
            finish,
            error: stream_error(),
        }
    }
}

fn event(mut data: Value) -> String {
    data["pad"] = "aaaa".into();
    format!("data: {data}\n\n")
}

fn stream_error() -> String {
    format!("data: {}\n\n", error(429, "The model is busy."))
}

fn reason(ending: &Ending) -> &'static str {
    match ending {
        Ending::Stop | Ending::Sequence(_) => "stop",
        Ending::Length => "length",
        Ending::Filter => "content_filter",
        Ending::Own => "eos",
    }
}

fn cohere_reason(ending: &Ending) -> &'static str {
    match ending {
        Ending::Stop | Ending::Sequence(_) => "COMPLETE",
        Ending::Length => "MAX_TOKENS",
        Ending::Filter => "ERROR_TOXIC",
        Ending::Own => "USER_CANCEL",
    }
}
