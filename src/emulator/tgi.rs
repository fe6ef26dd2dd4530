//! Text Generation Inference's `POST /generate` and `/generate_stream`, behind a key as on a dedicated endpoint.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Ask, Vendor,
    player::{Reply, Script, Whole},
    text::{Ending, Text, candidates, count, logprob},
};

pub struct Tgi;

#[derive(Deserialize)]
struct Request {
    inputs: String,
    /// Of a server's other address, at which it decides.
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    parameters: Parameters,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Parameters {
    max_new_tokens: Option<u64>,
    details: bool,
    do_sample: bool,
    temperature: Option<f64>,
    top_p: Option<f64>,
    stop: Vec<String>,
    seed: Option<u64>,
    frequency_penalty: Option<f64>,
    best_of: Option<u64>,
    return_full_text: Option<bool>,
    top_n_tokens: Option<u64>,
}

impl Vendor for Tgi {
    fn answer(&self, ask: &Ask<'_>) -> Result<Reply, Whole> {
        let key = ask.header("authorization").unwrap_or_default();
        if key.strip_prefix("Bearer ").is_none_or(str::is_empty) {
            return Err(Whole::json(401, &json!({"error": "Unauthorized"})));
        }
        let request = read(ask)?;
        self.complete(ask, &request, ask.path.ends_with("/generate_stream"))
    }

    fn error(&self, status: u16, message: &str) -> Whole {
        let kind = match status {
            422 => "validation",
            424 => "generation",
            429 => "overloaded",
            _ => "incomplete_generation",
        };
        Whole::json(status, &json!({"error": message, "error_type": kind}))
    }
}

fn read(ask: &Ask<'_>) -> Result<Request, Whole> {
    serde_json::from_slice(ask.body).map_err(|error| {
        let message = format!("Failed to deserialize the JSON body into the target type: {error}");
        Whole::json(422, &json!(message))
    })
}

impl Tgi {
    /// `POST /invocations`, the server's address for SageMaker: a whole reply is a list, and repeats its prompt unless told not to.
    pub fn invoke(&self, ask: &Ask<'_>) -> Result<Reply, Whole> {
        let mut request = read(ask)?;
        request.parameters.return_full_text.get_or_insert(true);
        let mut reply = self.complete(ask, &request, request.stream)?;
        if let Reply::Whole(whole) = &mut reply {
            whole.body = [b"[", &*whole.body, b"]"].concat();
        }
        Ok(reply)
    }

    fn complete(&self, ask: &Ask<'_>, request: &Request, streamed: bool) -> Result<Reply, Whole> {
        self.check(request, streamed)?;
        let answer = Answer::write(request, ask);
        Ok(if ask.streams(streamed) {
            Reply::Stream(answer.script())
        } else {
            Reply::Whole(answer.whole())
        })
    }

    fn check(&self, request: &Request, streamed: bool) -> Result<(), Whole> {
        let wrong = |what: &str| {
            let message = format!("Input validation error: {what}");
            Err(self.error(422, &message))
        };
        let parameters = &request.parameters;
        let best_of = parameters.best_of.unwrap_or(1);
        if best_of > 1 && parameters.seed.is_some() {
            return wrong("`seed` must not be set when `best_of` > 1");
        }
        if best_of > 1 && streamed {
            return wrong("`best_of` != 1 is not supported when streaming tokens");
        }
        if best_of > 1 && !parameters.do_sample && parameters.temperature.is_none() {
            return wrong("you must use sampling when `best_of` is > 1");
        }
        let top = parameters.top_n_tokens.unwrap_or_default();
        if top > 5 {
            return wrong(&format!(
                "`top_n_tokens` must be >= 0 and <= 5. Given: {top}"
            ));
        }
        if parameters.temperature.is_some_and(|t| t <= 0.0) {
            return wrong("`temperature` must be strictly positive");
        }
        if parameters.top_p.is_some_and(|p| p <= 0.0 || p >= 1.0) {
            return wrong("`top_p` must be > 0.0 and < 1.0");
        }
        let penalty = parameters.frequency_penalty.unwrap_or_default();
        if !(-2.0..=2.0).contains(&penalty) {
            return wrong("`frequency_penalty` must be >= -2.0 and <= 2.0");
        }
        if parameters.max_new_tokens == Some(0) {
            return wrong("`max_new_tokens` must be strictly positive");
        }
        if parameters.stop.len() > 4 {
            return wrong("`stop` supports up to 4 stop sequences");
        }
        if request.inputs.is_empty() {
            return wrong("`inputs` cannot be empty");
        }
        Ok(())
    }
}

struct Answer {
    prompt: Option<String>,
    prompt_tokens: u64,
    details: bool,
    seed: Option<u64>,
    top: u64,
    text: Text,
    /// Texts that were not the best.
    others: Vec<Text>,
}

impl Answer {
    fn write(request: &Request, ask: &Ask<'_>) -> Self {
        let parameters = &request.parameters;
        let text = |choice| {
            let limit = parameters.max_new_tokens.or(Some(100));
            let mut text =
                Text::write(&request.inputs, choice, limit, &parameters.stop, &ask.knobs);
            // The server stops behind the sequence, not before it.
            if let Ending::Sequence(stop) = &text.ending {
                text.tokens.push(stop.clone());
            }
            text
        };
        Self {
            prompt: (parameters.return_full_text == Some(true)).then(|| request.inputs.clone()),
            prompt_tokens: count(&request.inputs),
            details: parameters.details,
            seed: parameters.seed,
            top: parameters.top_n_tokens.unwrap_or_default(),
            text: text(0),
            others: (1..parameters.best_of.unwrap_or(1)).map(text).collect(),
        }
    }

    fn full_text(&self) -> String {
        self.prompt.clone().unwrap_or_default() + &self.text.joined()
    }

    fn details(&self, text: &Text) -> Value {
        let reason = match text.ending {
            Ending::Stop | Ending::Filter | Ending::Own => "eos_token",
            Ending::Sequence(_) => "stop_sequence",
            Ending::Length => "length",
        };
        json!({"finish_reason": reason, "generated_tokens": text.tokens.len(), "seed": self.seed})
    }

    fn whole(&self) -> Whole {
        let mut details = self.details(&self.text);
        details["prefill"] = json!([]);
        details["tokens"] = self.text.tokens.iter().map(|text| token(text)).collect();
        if self.top > 0 {
            let tops = self.text.tokens.iter().map(|text| self.tops(text));
            details["top_tokens"] = tops.collect();
        }
        if !self.others.is_empty() {
            let others = self.others.iter().map(|text| self.details(text));
            details["best_of_sequences"] = others.collect();
        }
        let details = self.details.then_some(details);
        let body = json!({"generated_text": self.full_text(), "details": details});
        let mut whole = Whole::json(200, &body);
        let generated = self.text.tokens.len().to_string();
        whole
            .headers
            .push(("x-prompt-tokens", self.prompt_tokens.to_string()));
        whole.headers.push(("x-generated-tokens", generated));
        whole
    }

    fn tops(&self, text: &str) -> Value {
        let words = candidates(text, self.top);
        words.map(|(word, figure)| scored(&word, figure)).collect()
    }

    /// The last token brings the whole text with it; there is no end marker.
    fn script(&self) -> Script {
        let event = |index: usize, token: Value, end: Option<Value>| {
            let text = end.is_some().then(|| self.full_text());
            let tops =
                (self.top > 0).then(|| self.tops(token["text"].as_str().unwrap_or_default()));
            let mut event =
                json!({"index": index, "token": token, "generated_text": text, "details": end});
            if let Some(tops) = tops {
                event["top_tokens"] = tops;
            }
            format!("data:{event}\n\n")
        };
        let mut tokens: Vec<Value> = self.text.tokens.iter().map(|text| token(text)).collect();
        if matches!(
            self.text.ending,
            Ending::Stop | Ending::Filter | Ending::Own
        ) || tokens.is_empty()
        {
            let mut end = token("</s>");
            end["special"] = true.into();
            tokens.push(end);
        }
        let mut end = self.details(&self.text);
        end["input_length"] = self.prompt_tokens.into();
        let last = tokens.len();
        let events: Vec<String> = (1..)
            .zip(tokens)
            .map(|(index, token)| event(index, token, (index == last).then(|| end.clone())))
            .collect();
        let error = json!({"error": "Request failed during generation: out of memory", "error_type": "generation"});
        Script {
            finish: events.len() - 1,
            done: events.len(),
            events,
            error: format!("data:{error}\n\n"),
        }
    }
}

fn token(text: &str) -> Value {
    scored(text, logprob(text))
}

fn scored(text: &str, figure: f64) -> Value {
    json!({"id": 1, "text": text, "logprob": figure, "special": false})
}
