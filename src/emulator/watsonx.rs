//! IBM watsonx.ai's `POST /ml/v1/text/generation` and `/ml/v1/text/generation_stream`.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Ask, Vendor,
    player::{Reply, Script, Whole},
    text::{Ending, Text, candidates, count, logprob},
};

pub struct Watsonx;

#[derive(Deserialize)]
struct Request {
    model_id: Option<String>,
    input: Option<String>,
    project_id: Option<String>,
    space_id: Option<String>,
    #[serde(default)]
    parameters: Parameters,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Parameters {
    max_new_tokens: Option<u64>,
    decoding_method: Option<String>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    random_seed: Option<i64>,
    stop_sequences: Vec<String>,
    include_stop_sequence: Option<bool>,
    return_options: ReturnOptions,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ReturnOptions {
    generated_tokens: bool,
    token_logprobs: bool,
    top_n_tokens: u64,
}

impl Vendor for Watsonx {
    fn answer(&self, ask: &Ask<'_>) -> Result<Reply, Whole> {
        let key = ask.header("authorization").unwrap_or_default();
        if key.strip_prefix("Bearer ").is_none_or(str::is_empty) {
            return Err(self.error(401, "Failed to authenticate the request: no token"));
        }
        let mut query = ask.query.split('&');
        if !query.any(|pair| pair.starts_with("version=20")) {
            return Err(self.error(400, "Missing query parameter: version"));
        }
        let request: Request = serde_json::from_slice(ask.body).map_err(|error| {
            self.error(400, &format!("Json document validation error: {error}"))
        })?;
        self.check(&request)?;
        let answer = Answer::write(request, ask);
        let streamed = ask.path.ends_with("_stream");
        Ok(if ask.streams(streamed) {
            Reply::Stream(answer.script())
        } else {
            Reply::Whole(Whole::json(200, &answer.whole()))
        })
    }

    fn error(&self, status: u16, message: &str) -> Whole {
        Whole::json(status, &error(status, message))
    }
}

fn error(status: u16, message: &str) -> Value {
    let code = match status {
        401 => "authentication_token_not_valid",
        403 => "token_quota_reached",
        404 => "model_not_supported",
        429 => "too_many_requests",
        500.. => "downstream_request_failed",
        _ => "invalid_request_entity",
    };
    let error = json!({"code": code, "message": message, "more_info": "https://cloud.ibm.com/apidocs/watsonx-ai"});
    json!({"errors": [error], "trace": "0123456789abcdef0123456789abcdef", "status_code": status})
}

impl Watsonx {
    fn check(&self, request: &Request) -> Result<(), Whole> {
        let wrong = |message: &str| Err(self.error(400, message));
        if request.model_id.is_none() || request.input.is_none() {
            return wrong("Json document validation error: model_id and input are required");
        }
        if request.project_id.is_none() && request.space_id.is_none() {
            return wrong("Either space_id or project_id has to be given");
        }
        let parameters = &request.parameters;
        let method = parameters.decoding_method.as_deref();
        if !matches!(method, None | Some("greedy" | "sample")) {
            return wrong("decoding_method should be greedy or sample");
        }
        if parameters
            .temperature
            .is_some_and(|t| !(0.0..=2.0).contains(&t))
        {
            return wrong("temperature should be from 0 to 2");
        }
        if parameters.top_p.is_some_and(|p| p <= 0.0 || p > 1.0) {
            return wrong("top_p should be > 0 and <= 1");
        }
        if parameters.random_seed.is_some_and(|seed| seed < 1) {
            return wrong("random_seed should be >= 1");
        }
        if parameters.return_options.top_n_tokens > 5 {
            return wrong("return_options.top_n_tokens should be <= 5");
        }
        if parameters.stop_sequences.len() > 6 {
            return wrong("stop_sequences should have at most 6 items");
        }
        Ok(())
    }
}

struct Answer {
    model: String,
    input_tokens: u64,
    text: Text,
    options: ReturnOptions,
}

impl Answer {
    fn write(request: Request, ask: &Ask<'_>) -> Self {
        let Parameters {
            max_new_tokens,
            stop_sequences,
            include_stop_sequence,
            return_options,
            ..
        } = request.parameters;
        let input = request.input.unwrap_or_default();
        let limit = max_new_tokens.or(Some(20));
        let mut text = Text::write(&input, 0, limit, &stop_sequences, &ask.knobs);
        if let Ending::Sequence(stop) = &text.ending
            && include_stop_sequence != Some(false)
        {
            text.tokens.push(stop.clone());
        }
        Self {
            model: request.model_id.unwrap_or_default(),
            input_tokens: count(&input),
            text,
            options: return_options,
        }
    }

    fn reason(&self) -> &'static str {
        match self.text.ending {
            Ending::Stop | Ending::Filter => "eos_token",
            Ending::Sequence(_) => "stop_sequence",
            Ending::Length => "max_tokens",
            Ending::Own => "time_limit",
        }
    }

    fn reply(&self, text: &str, counts: (u64, usize), reason: &str) -> Value {
        let result = json!({"generated_text": text, "generated_token_count": counts.1, "input_token_count": counts.0, "stop_reason": reason});
        json!({"model_id": self.model, "model_version": "1.0.0", "created_at": "2025-01-01T00:00:00.000Z", "results": [result]})
    }

    /// The same, with the tokens of its text where they were asked for.
    fn with_tokens(&self, mut reply: Value, tokens: &[String]) -> Value {
        let ReturnOptions {
            generated_tokens,
            token_logprobs,
            top_n_tokens,
        } = self.options;
        let scored = |text: &str, figure: f64| {
            let figure = token_logprobs.then_some(figure);
            json!({"text": text, "logprob": figure})
        };
        let token = |token: &String| {
            let tops = candidates(token, top_n_tokens);
            let mut told = scored(token, logprob(token));
            told["top_tokens"] = tops.map(|(word, figure)| scored(&word, figure)).collect();
            told
        };
        if generated_tokens {
            reply["results"][0]["generated_tokens"] = tokens.iter().map(token).collect();
        }
        reply
    }

    fn whole(&self) -> Value {
        let counts = (self.input_tokens, self.text.tokens.len());
        let reply = self.reply(&self.text.joined(), counts, self.reason());
        self.with_tokens(reply, &self.text.tokens)
    }

    /// The prompt's tokens are told once, those of the text add up.
    fn script(&self) -> Script {
        let mut replies = vec![
            json!({}),
            self.reply("", (self.input_tokens, 0), "not_finished"),
        ];
        for (before, token) in self.text.tokens.iter().enumerate() {
            let reply = self.reply(token, (0, before + 1), "not_finished");
            replies.push(self.with_tokens(reply, std::slice::from_ref(token)));
        }
        let finish = replies.len();
        replies.push(self.reply("", (0, self.text.tokens.len()), self.reason()));
        let events = (1..)
            .zip(replies)
            .map(|(id, reply)| format!("id: {id}\nevent: message\ndata: {reply}\n\n"));
        let error = error(500, "Downstream request failed");
        Script {
            finish,
            done: finish + 1,
            events: events.collect(),
            error: format!("id: 9\nevent: error\ndata: {error}\n\n"),
        }
    }
}
