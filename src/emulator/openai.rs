//! OpenAI's `POST /v1/completions`, as its own servers answer it.

use std::ops::Range;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    Ask, Fault, Vendor,
    player::{Reply, Script, Whole},
    text::{Ending, Text, candidates, count, logprob},
};

pub struct OpenAi;

#[derive(Deserialize)]
struct Request {
    model: Option<String>,
    #[serde(default)]
    prompt: Prompt,
    suffix: Option<String>,
    max_tokens: Option<u64>,
    n: Option<u64>,
    best_of: Option<u64>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    stop: Option<Stop>,
    echo: Option<bool>,
    logprobs: Option<u64>,
    temperature: Option<f64>,
}

#[derive(Default, Deserialize)]
#[serde(untagged)]
enum Prompt {
    #[default]
    Absent,
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u64>),
    TokenLists(Vec<Vec<u64>>),
}

#[derive(Deserialize)]
#[serde(untagged)]
pub enum Stop {
    One(String),
    Many(Vec<String>),
}

impl Stop {
    pub fn list(stop: Option<&Self>) -> Vec<String> {
        match stop {
            None => Vec::new(),
            Some(Self::One(one)) => vec![one.clone()],
            Some(Self::Many(many)) => many.clone(),
        }
    }
}

#[derive(Deserialize)]
pub struct StreamOptions {
    pub include_usage: Option<bool>,
}

impl Vendor for OpenAi {
    fn answer(&self, ask: &Ask<'_>) -> Result<Reply, Whole> {
        check_key(ask)?;
        self.complete(ask)
    }

    fn error(&self, status: u16, message: &str) -> Whole {
        error(status, message, None)
    }
}

impl OpenAi {
    /// The answer to whoever asks.
    pub fn complete(&self, ask: &Ask<'_>) -> Result<Reply, Whole> {
        if ask.knobs.fault == Some(Fault::Blocked) {
            return Err(blocked());
        }
        let request: Request = read(ask)?;
        let model = request
            .model
            .clone()
            .ok_or_else(|| error(400, "you must provide a model parameter", None))?;
        request.check()?;
        let answer = Answer::write(&request, model, ask);
        if !ask.streams(request.stream == Some(true)) {
            return Ok(Reply::Whole(Whole::json(200, &answer.whole())));
        }
        let usage = request
            .stream_options
            .and_then(|options| options.include_usage);
        Ok(Reply::Stream(answer.script(usage == Some(true))))
    }
}

/// Anything in `Authorization`, or in Azure's header, is a key here.
pub fn check_key(ask: &Ask<'_>) -> Result<(), Whole> {
    let bearer = ask
        .header("authorization")
        .and_then(|value| value.strip_prefix("Bearer "));
    let key = bearer.or(ask.header("api-key"));
    if key.is_some_and(|key| !key.is_empty()) {
        return Ok(());
    }
    let message = "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth.";
    let mut refusal = error(401, message, None);
    refusal.body = json!({"error": {"message": message, "type": "invalid_request_error", "param": null, "code": "invalid_api_key"}})
        .to_string()
        .into_bytes();
    Err(refusal)
}

pub fn read<'de, T: Deserialize<'de>>(ask: &Ask<'de>) -> Result<T, Whole> {
    serde_json::from_slice(ask.body).map_err(|_| {
        error(
            400,
            "We could not parse the JSON body of your request.",
            None,
        )
    })
}

/// A prompt that Azure's filter does not let through.
pub fn blocked() -> Whole {
    let filters = json!({"violence": {"filtered": true, "severity": "medium"}});
    let inner = json!({"code": "ResponsibleAIPolicyViolation", "content_filter_result": filters});
    let message = "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. Please modify your prompt and retry.";
    let error = json!({"message": message, "type": null, "param": "prompt", "code": "content_filter", "status": 400, "innererror": inner});
    Whole::json(400, &json!({"error": error}))
}

pub fn error(status: u16, message: &str, param: Option<&str>) -> Whole {
    let kind = match status {
        401 => "invalid_request_error",
        429 => "requests",
        500.. => "server_error",
        _ => "invalid_request_error",
    };
    Whole::json(
        status,
        &json!({"error": {"message": message, "type": kind, "param": param, "code": null}}),
    )
}

impl Request {
    fn check(&self) -> Result<(), Whole> {
        let n = self.n.unwrap_or(1);
        if n == 0 || n > 128 {
            return Err(error(400, "n must be between 1 and 128", Some("n")));
        }
        if self
            .best_of
            .is_some_and(|best_of| best_of > 0 && best_of < n)
        {
            return Err(error(400, "best_of must be at least n", Some("best_of")));
        }
        if self
            .temperature
            .is_some_and(|temperature| !(0.0..=2.0).contains(&temperature))
        {
            return Err(error(
                400,
                "temperature must be between 0 and 2",
                Some("temperature"),
            ));
        }
        match &self.stop {
            Some(Stop::Many(stops)) if stops.len() > 4 => {
                Err(error(400, "stop has too many sequences", Some("stop")))
            }
            _ => Ok(()),
        }
    }

    fn prompts(&self) -> Vec<String> {
        let ids = |ids: &Vec<u64>| {
            let words: Vec<String> = ids.iter().map(|id| format!("t{id}")).collect();
            words.join(" ")
        };
        match &self.prompt {
            Prompt::Absent => vec!["<|endoftext|>".to_owned()],
            Prompt::Text(text) => vec![text.clone()],
            Prompt::Texts(texts) => texts.clone(),
            Prompt::Tokens(tokens) => vec![ids(tokens)],
            Prompt::TokenLists(lists) => lists.iter().map(ids).collect(),
        }
    }
}

/// The written choices: of prompt `i` and choice `j`, the one at `i * n + j`.
struct Answer {
    id: String,
    created: u64,
    model: String,
    choices: Vec<Written>,
    prompt_tokens: u64,
    logprobs: Option<u64>,
}

struct Written {
    /// The echoed prompt, or nothing.
    echo: String,
    /// Characters before the first token in what the model saw.
    offset: usize,
    text: Text,
}

impl Answer {
    fn write(request: &Request, model: String, ask: &Ask<'_>) -> Self {
        let stops = Stop::list(request.stop.as_ref());
        let limit = Some(request.max_tokens.unwrap_or(16));
        let prompts = request.prompts();
        // The words between depend on what stands on both sides.
        let suffix = request.suffix.as_deref().unwrap_or_default();
        let mut choices = Vec::new();
        for prompt in &prompts {
            for choice in 0..request.n.unwrap_or(1) {
                let echo = request.echo == Some(true);
                choices.push(Written {
                    echo: if echo { prompt.clone() } else { String::new() },
                    offset: if echo { 0 } else { prompt.chars().count() },
                    text: Text::write(
                        &format!("{prompt}{suffix}"),
                        choice,
                        limit,
                        &stops,
                        &ask.knobs,
                    ),
                });
            }
        }
        Self {
            id: format!("cmpl-{:024x}", ask.now),
            created: ask.now,
            model,
            choices,
            prompt_tokens: prompts
                .iter()
                .map(|prompt| count(prompt) + count(suffix))
                .sum(),
            logprobs: request.logprobs,
        }
    }

    fn event(&self, choices: &Value) -> Value {
        json!({"id": self.id, "object": "text_completion", "created": self.created, "model": self.model, "choices": choices})
    }

    fn usage(&self) -> Value {
        let completion: usize = self
            .choices
            .iter()
            .map(|choice| choice.text.tokens.len())
            .sum();
        let completion = u64::try_from(completion).unwrap_or_default();
        usage(self.prompt_tokens, completion)
    }

    fn whole(&self) -> Value {
        let choices: Vec<Value> = (0..)
            .zip(&self.choices)
            .map(|(index, choice)| {
                let text = choice.echo.clone() + &choice.text.joined();
                let logprobs = self.logprobs.map(|top| choice.logprobs(top));
                piece(index, &text, logprobs.as_ref(), Some(&choice.text.ending))
            })
            .collect();
        let mut whole = self.event(&choices.into());
        whole["usage"] = self.usage();
        whole
    }

    fn script(&self, include_usage: bool) -> Script {
        let sse = |event: &Value| format!("data: {event}\n\n");
        let mut events = Vec::new();
        for (index, choice) in (0..).zip(&self.choices) {
            for (text, logprobs) in choice.pieces(self.logprobs) {
                let choice = piece(index, &text, logprobs.as_ref(), None);
                events.push(sse(&self.event(&json!([choice]))));
            }
        }
        let finish = events.len();
        for (index, choice) in (0..).zip(&self.choices) {
            events.push(sse(&self.event(&json!([piece(
                index,
                "",
                None,
                Some(&choice.text.ending)
            )]))));
        }
        if include_usage {
            let mut counts = self.event(&json!([]));
            counts["usage"] = self.usage();
            events.push(sse(&counts));
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

pub fn usage(prompt: u64, completion: u64) -> Value {
    json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
}

pub fn stream_error() -> String {
    "data: {\"error\":{\"message\":\"The server had an error while processing your request.\",\"type\":\"server_error\",\"param\":null,\"code\":null}}\n\n".to_owned()
}

pub fn reason(ending: &Ending) -> &'static str {
    match ending {
        Ending::Stop | Ending::Sequence(_) => "stop",
        Ending::Length => "length",
        Ending::Filter => "content_filter",
        Ending::Own => "eos",
    }
}

fn piece(index: u64, text: &str, logprobs: Option<&Value>, ending: Option<&Ending>) -> Value {
    json!({"text": text, "index": index, "logprobs": logprobs, "finish_reason": ending.map(reason)})
}

impl Written {
    fn echoed(&self) -> impl Iterator<Item = &str> {
        self.echo.split_inclusive(' ')
    }

    /// The legacy form: parallel lists. An echoed prompt's first token has no probability.
    fn logprobs(&self, top: u64) -> Value {
        let tokens: Vec<&str> = self
            .echoed()
            .chain(self.text.tokens.iter().map(String::as_str))
            .collect();
        let mut offset = self.offset;
        let mut lists = (Vec::new(), Vec::new(), Vec::new());
        for (number, token) in tokens.iter().enumerate() {
            let unknown = number == 0 && !self.echo.is_empty();
            lists.0.push(json!((!unknown).then(|| logprob(token))));
            // The chosen token is told with no alternative too.
            let others =
                || candidates(token, top.max(1)).map(|(word, figure)| (word, figure.into()));
            let others = (!unknown).then(|| others().collect::<Map<String, Value>>());
            lists.1.push(json!(others));
            lists.2.push(offset);
            offset += token.chars().count();
        }
        json!({"tokens": tokens, "token_logprobs": lists.0, "top_logprobs": lists.1, "text_offset": lists.2})
    }

    /// The same in pieces: of the echoed prompt, then of each token.
    fn pieces(&self, top: Option<u64>) -> Vec<(String, Option<Value>)> {
        let all = top.map(|top| self.logprobs(top));
        let cut = |places: Range<usize>| all.as_ref().map(|all| part(all, &places));
        let echoed = self.echoed().count();
        let echo = (echoed > 0).then(|| (self.echo.clone(), cut(0..echoed)));
        let tokens = (echoed..).zip(&self.text.tokens);
        let tokens = tokens.map(|(place, token)| (token.clone(), cut(place..place + 1)));
        echo.into_iter().chain(tokens).collect()
    }
}

/// A part of the parallel lists.
fn part(lists: &Value, places: &Range<usize>) -> Value {
    let lists = lists.as_object().into_iter().flatten();
    let part = |list: &Value| list.as_array()?.get(places.clone()).map(<[Value]>::to_vec);
    lists
        .map(|(name, list)| (name.clone(), json!(part(list))))
        .collect::<Map<String, Value>>()
        .into()
}
