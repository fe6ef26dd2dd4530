//! OpenAI's `POST /v1/chat/completions`, and that of the many who copied it.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Ask, Fault, Knobs, Vendor,
    openai::{Stop, StreamOptions, blocked, check_key, error, read, reason, stream_error, usage},
    player::{Reply, Script, Whole},
    text::{Text, candidates, count, logprob},
};

pub struct Chat;

#[derive(Deserialize)]
struct Request {
    model: Option<String>,
    messages: Option<Vec<Message>>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    n: Option<u64>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    stop: Option<Stop>,
    continue_final_message: Option<bool>,
    add_generation_prompt: Option<bool>,
    logprobs: Option<bool>,
    top_logprobs: Option<u64>,
}

#[derive(Deserialize)]
pub struct Message {
    #[serde(default)]
    pub role: String,
    content: Content,
    prefix: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    text: String,
}

impl Message {
    pub fn text(&self) -> String {
        match &self.content {
            Content::Text(text) => text.clone(),
            Content::Parts(parts) => parts.iter().map(|part| part.text.as_str()).collect(),
        }
    }
}

/// The texts of a conversation, one after the other.
pub fn said(messages: &[Message]) -> String {
    let texts = messages.iter().map(Message::text);
    texts.collect::<Vec<String>>().join("\n")
}

/// The message of the model's own that a conversation ends with, to be gone on with.
pub fn begun(messages: &[Message]) -> Option<&Message> {
    messages
        .last()
        .filter(|message| message.role == "assistant")
}

/// What a model writes at a conversation's end: the rest of the message it has begun, or a new one.
pub fn write(messages: &[Message], one: &One<'_>) -> Text {
    let write = |prompt: &str| Text::write(prompt, one.choice, one.limit, one.stops, one.knobs);
    if let Some(message) = begun(messages) {
        return write(&message.text());
    }
    let asked = messages.iter().filter(|message| message.role != "system");
    let asked: Vec<String> = asked.map(Message::text).collect();
    write(&asked.join("\n")).into_chat()
}

/// One choice, as it is asked for.
pub struct One<'a> {
    pub choice: u64,
    pub limit: Option<u64>,
    pub stops: &'a [String],
    pub knobs: &'a Knobs,
}

impl Vendor for Chat {
    fn answer(&self, ask: &Ask<'_>) -> Result<Reply, Whole> {
        check_key(ask)?;
        self.complete(ask)
    }

    fn error(&self, status: u16, message: &str) -> Whole {
        error(status, message, None)
    }
}

impl Chat {
    /// The answer to whoever asks.
    pub fn complete(&self, ask: &Ask<'_>) -> Result<Reply, Whole> {
        let request: Request = read(ask)?;
        request.check()?;
        let missing = |name: &str| {
            error(
                400,
                &format!("Missing required parameter: '{name}'."),
                Some(name),
            )
        };
        if ask.knobs.fault == Some(Fault::Blocked) {
            return Err(blocked());
        }
        let model = request.model.ok_or_else(|| missing("model"))?;
        let messages = request.messages.filter(|messages| !messages.is_empty());
        let messages = messages.ok_or_else(|| missing("messages"))?;
        // Mistral's models (…stral…) count without being asked, and say a prefix again.
        let is_mistral = model.contains("stral");
        let lead = if is_mistral {
            read_prefix(&messages)?
        } else {
            None
        };
        let limit = request.max_completion_tokens.or(request.max_tokens);
        let stops = Stop::list(request.stop.as_ref());
        let texts = (0..request.n.unwrap_or(1))
            .map(|choice| One {
                choice,
                limit,
                stops: &stops,
                knobs: &ask.knobs,
            })
            .map(|one| write(&messages, &one))
            .collect();
        let answer = Answer {
            now: ask.now,
            model,
            texts,
            prompt_tokens: count(&said(&messages)),
            lead,
            says: says(ask),
            top_logprobs: (request.logprobs == Some(true))
                .then(|| request.top_logprobs.unwrap_or_default()),
        };
        if !ask.streams(request.stream == Some(true)) {
            return Ok(Reply::Whole(Whole::json(200, &answer.whole())));
        }
        let usage = request
            .stream_options
            .and_then(|options| options.include_usage);
        Ok(Reply::Stream(
            answer.script(usage == Some(true) || is_mistral),
        ))
    }
}

impl Request {
    /// Fields that contradict each other, or go too far.
    fn check(&self) -> Result<(), Whole> {
        let goes_on = self.continue_final_message == Some(true);
        if goes_on && self.add_generation_prompt != Some(false) {
            let message =
                "Cannot set both `continue_final_message` and `add_generation_prompt` to True.";
            return Err(error(400, message, None));
        }
        if self.top_logprobs.is_some_and(|top| top > 20) {
            let message = "Invalid 'top_logprobs': integer above maximum value.";
            return Err(error(400, message, Some("top_logprobs")));
        }
        if self.top_logprobs.is_some() && self.logprobs != Some(true) {
            let message = "'logprobs' must be true if 'top_logprobs' is set.";
            return Err(error(400, message, Some("logprobs")));
        }
        Ok(())
    }
}

/// Mistral's `prefix`, without which no conversation may end with an assistant's message.
fn read_prefix(messages: &[Message]) -> Result<Option<String>, Whole> {
    match begun(messages) {
        Some(message) if message.prefix == Some(true) => Ok(Some(message.text())),
        Some(_) => Err(error(
            400,
            "Expected last role User or Tool (or Assistant with prefix True) for serving but got assistant",
            None,
        )),
        None => Ok(None),
    }
}

/// What a model said, in chat's form.
pub struct Answer {
    pub now: u64,
    pub model: String,
    pub texts: Vec<Text>,
    pub prompt_tokens: u64,
    /// The field of a message that holds the text.
    pub says: &'static str,
    /// What stands before each text.
    pub lead: Option<String>,
    /// Alternatives to tell beside each token's log-probability.
    pub top_logprobs: Option<u64>,
}

/// "The refusal message generated by the model" takes the place of the content.
pub fn says(ask: &Ask<'_>) -> &'static str {
    match ask.knobs.fault {
        Some(Fault::Refusal) => "refusal",
        _ => "content",
    }
}

impl Answer {
    fn head(&self, object: &str, choices: &Value) -> Value {
        let id = format!("chatcmpl-{:024x}", self.now);
        json!({"id": id, "object": object, "created": self.now, "model": self.model, "choices": choices})
    }

    /// A refusal is a stop of the model's own.
    fn reason(&self, text: &Text) -> &'static str {
        match self.says {
            "refusal" => "stop",
            _ => reason(&text.ending),
        }
    }

    pub fn usage(&self) -> Value {
        let tokens: usize = self.texts.iter().map(|text| text.tokens.len()).sum();
        usage(
            self.prompt_tokens,
            u64::try_from(tokens).unwrap_or_default(),
        )
    }

    pub fn whole(&self) -> Value {
        let choices: Vec<Value> = (0_u64..)
            .zip(&self.texts)
            .map(|(index, text)| {
                let said = self.lead.clone().unwrap_or_default() + &text.joined();
                let mut message = json!({"role": "assistant", "content": null, "refusal": null});
                message[self.says] = said.into();
                let logprobs = self.logprobs(&text.tokens);
                json!({"index": index, "message": message, "logprobs": logprobs, "finish_reason": self.reason(text)})
            })
            .collect();
        let mut whole = self.head("chat.completion", &choices.into());
        whole["usage"] = self.usage();
        whole
    }

    fn logprobs(&self, tokens: &[String]) -> Value {
        let Some(top) = self.top_logprobs else {
            return Value::Null;
        };
        let mut logprobs = json!({"content": null, "refusal": null});
        logprobs[self.says] = tokens.iter().map(|token| told(token, top)).collect();
        logprobs
    }

    pub fn script(&self, include_usage: bool) -> Script {
        let event = |index: u64, delta: Value, logprobs: Value, reason: Option<&str>| {
            let choice = json!([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}]);
            format!("data: {}\n\n", self.head("chat.completion.chunk", &choice))
        };
        let mut events = Vec::new();
        for (index, text) in (0..).zip(&self.texts) {
            events.push(event(
                index,
                json!({"role": "assistant", self.says: ""}),
                Value::Null,
                None,
            ));
            // The whitespace at its end comes with the text.
            let lead = self.lead.as_deref().unwrap_or_default();
            let (lead, space) = lead.split_at(lead.trim_end().len());
            for token in [lead, space].into_iter().filter(|piece| !piece.is_empty()) {
                events.push(event(index, json!({self.says: token}), Value::Null, None));
            }
            for token in &text.tokens {
                let logprobs = self.logprobs(std::slice::from_ref(token));
                events.push(event(index, json!({self.says: token}), logprobs, None));
            }
        }
        let finish = events.len();
        for (index, text) in (0..).zip(&self.texts) {
            let reason = Some(self.reason(text));
            events.push(event(index, json!({}), Value::Null, reason));
        }
        if include_usage {
            let mut counts = self.head("chat.completion.chunk", &json!([]));
            counts["usage"] = self.usage();
            events.push(format!("data: {counts}\n\n"));
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
}

/// A token as chat tells it, with its alternatives.
pub fn told(token: &str, top: u64) -> Value {
    let scored = |token: &str, logprob: f64| json!({"token": token, "logprob": logprob, "bytes": token.as_bytes()});
    let others = candidates(token, top);
    let mut told = scored(token, logprob(token));
    told["top_logprobs"] = others
        .map(|(token, logprob)| scored(&token, logprob))
        .collect();
    told
}
