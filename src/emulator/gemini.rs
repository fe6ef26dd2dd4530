//! Google's `POST /v1beta/models/{model}:generateContent` and `:streamGenerateContent`.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Ask, Fault, Vendor,
    player::{Reply, Script, Whole},
    text::{Ending, Text, candidates, count, logprob},
};

pub struct Gemini;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    contents: Option<Vec<Content>>,
    #[serde(default)]
    generation_config: GenerationConfig,
}

#[derive(Deserialize)]
struct Content {
    #[serde(default)]
    parts: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    text: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GenerationConfig {
    max_output_tokens: Option<u64>,
    stop_sequences: Vec<String>,
    candidate_count: Option<u64>,
    temperature: Option<f64>,
    response_logprobs: bool,
    logprobs: u64,
}

impl Vendor for Gemini {
    fn answer(&self, ask: &Ask<'_>) -> Result<Reply, Whole> {
        let in_query = ask.query.split('&').any(|pair| pair.starts_with("key="));
        if ask.header("x-goog-api-key").is_none_or(str::is_empty) && !in_query {
            let message =
                "Method doesn't allow unregistered callers (callers without established identity).";
            return Err(self.error(403, message));
        }
        self.generate(ask)
    }

    fn error(&self, status: u16, message: &str) -> Whole {
        Whole::json(status, &error(status, message))
    }
}

impl Gemini {
    /// What it answers to a caller it knows.
    pub fn generate(&self, ask: &Ask<'_>) -> Result<Reply, Whole> {
        let request: Request = serde_json::from_slice(ask.body)
            .map_err(|error| self.error(400, &format!("Invalid JSON payload received. {error}")))?;
        let config = request.generation_config;
        if config
            .temperature
            .is_some_and(|temperature| !(0.0..=2.0).contains(&temperature))
        {
            return Err(self.error(400, "temperature must be in the range [0.0, 2.0]."));
        }
        if config.logprobs > 20 {
            return Err(self.error(400, "logprobs must be in the range [0, 20]."));
        }
        if config.logprobs > 0 && !config.response_logprobs {
            return Err(self.error(400, "logprobs requires response_logprobs to be true."));
        }
        let contents = request.contents.filter(|contents| !contents.is_empty());
        let contents = contents.ok_or_else(|| self.error(400, "contents is not specified"))?;
        let parts = contents.iter().flat_map(|content| &content.parts);
        let prompt: String = parts.map(|part| part.text.as_str()).collect();
        let (limit, stops) = (config.max_output_tokens, &config.stop_sequences);
        let answer = Answer {
            model: model(&ask.path),
            prompt_tokens: count(&prompt),
            logprobs: config.response_logprobs.then_some(config.logprobs),
            texts: (0..config.candidate_count.unwrap_or(1))
                .map(|choice| Text::write(&prompt, choice, limit, stops, &ask.knobs).into_chat())
                .collect(),
        };
        let streamed = ask.path.ends_with(":streamGenerateContent");
        let blocked = ask.knobs.fault == Some(Fault::Blocked);
        Ok(
            match (ask.streams(streamed), ask.query.contains("alt=sse")) {
                (true, true) if blocked => Reply::Stream(ended(vec![answer.blocked()])),
                (false, _) if blocked => Reply::Whole(Whole::json(200, &answer.blocked())),
                (true, true) => Reply::Stream(answer.script()),
                (true, false) => Reply::Whole(Whole::json(200, &json!([answer.whole()]))),
                (false, _) => Reply::Whole(Whole::json(200, &answer.whole())),
            },
        )
    }
}

fn error(status: u16, message: &str) -> Value {
    let name = match status {
        400 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        429 => "RESOURCE_EXHAUSTED",
        503 => "UNAVAILABLE",
        _ => "INTERNAL",
    };
    json!({"error": {"code": status, "message": message, "status": name}})
}

fn model(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.split(':').next().unwrap_or_default().to_owned()
}

struct Answer {
    model: String,
    prompt_tokens: u64,
    texts: Vec<Text>,
    /// Alternatives to tell beside each token's log-probability.
    logprobs: Option<u64>,
}

impl Answer {
    fn event(&self, candidates: &Value, tokens: usize) -> Value {
        let tokens = u64::try_from(tokens).unwrap_or_default();
        let usage = json!({"promptTokenCount": self.prompt_tokens, "candidatesTokenCount": tokens, "totalTokenCount": self.prompt_tokens + tokens});
        json!({"candidates": candidates, "usageMetadata": usage, "modelVersion": self.model, "responseId": "emulated"})
    }

    /// "If set, the prompt was blocked and no candidates are returned."
    fn blocked(&self) -> Value {
        let usage =
            json!({"promptTokenCount": self.prompt_tokens, "totalTokenCount": self.prompt_tokens});
        json!({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": usage, "modelVersion": self.model, "responseId": "emulated"})
    }

    fn with_tokens(&self, mut candidate: Value, tokens: &[String]) -> Value {
        let Some(top) = self.logprobs else {
            return candidate;
        };
        let scored = |token: &str, figure: f64| json!({"token": token, "tokenId": 7, "logProbability": figure});
        let chosen = tokens.iter().map(|token| scored(token, logprob(token)));
        let mut result = json!({"chosenCandidates": chosen.collect::<Vec<_>>()});
        if top > 0 {
            let step = |token: &String| {
                let words = candidates(token, top).map(|(word, figure)| scored(&word, figure));
                json!({"candidates": words.collect::<Vec<_>>()})
            };
            result["topCandidates"] = tokens.iter().map(step).collect();
        }
        candidate["logprobsResult"] = result;
        candidate
    }

    fn whole(&self) -> Value {
        let candidates: Vec<Value> = (0_u64..)
            .zip(&self.texts)
            .map(|(index, text)| {
                let candidate = candidate(index, &text.joined(), Some(&text.ending));
                self.with_tokens(candidate, &text.tokens)
            })
            .collect();
        let tokens = self.texts.iter().map(|text| text.tokens.len()).sum();
        self.event(&candidates.into(), tokens)
    }

    fn script(&self) -> Script {
        let mut events = Vec::new();
        let mut ends = Vec::new();
        for (index, text) in (0..).zip(&self.texts) {
            for (count, token) in text.tokens.iter().enumerate() {
                let candidate = candidate(index, token, None);
                let candidate = self.with_tokens(candidate, std::slice::from_ref(token));
                events.push(self.event(&json!([candidate]), count + 1));
            }
            let end = candidate(index, "", Some(&text.ending));
            ends.push(self.event(&json!([end]), text.tokens.len()));
        }
        let finish = events.len();
        events.extend(ends);
        Script {
            finish,
            ..ended(events)
        }
    }
}

/// The vendor ends lines with CRLF and has no end marker.
fn ended(events: Vec<Value>) -> Script {
    let sse = |event: &Value| format!("data: {event}\r\n\r\n");
    let error = error(503, "The model is overloaded. Please try again later.");
    Script {
        finish: 0,
        done: events.len(),
        events: events.iter().map(sse).collect(),
        error: sse(&error),
    }
}

fn candidate(index: u64, text: &str, ending: Option<&Ending>) -> Value {
    let mut candidate =
        json!({"content": {"parts": [{"text": text}], "role": "model"}, "index": index});
    if let Some(ending) = ending {
        candidate["finishReason"] = match ending {
            Ending::Stop | Ending::Sequence(_) => "STOP",
            Ending::Length => "MAX_TOKENS",
            Ending::Filter => "SAFETY",
            Ending::Own => "OTHER",
        }
        .into();
    }
    candidate
}
