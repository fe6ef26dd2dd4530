//! Replicate's `POST /v1/models/{owner}/{name}/predictions`, `/v1/predictions` and `/v1/deployments/{owner}/{name}/predictions`, of a
//! language model; the stream of one, and its cancellation.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Ask, Vendor,
    player::{Reply, Script, Whole},
    text::{Ending, Text, count},
};

pub struct Replicate;

#[derive(Deserialize)]
struct Request {
    input: Value,
    /// Of `/v1/predictions`, which names the model in no other way.
    version: Option<String>,
    #[serde(default)]
    stream: bool,
}

#[derive(Clone, Deserialize)]
struct Input {
    prompt: String,
    max_tokens: Option<u64>,
    /// Apart by commas.
    #[serde(default)]
    stop_sequences: String,
}

impl Vendor for Replicate {
    fn answer(&self, ask: &Ask<'_>) -> Result<Reply, Whole> {
        let key = ask.header("authorization").unwrap_or_default();
        if key.strip_prefix("Bearer ").is_none_or(str::is_empty) {
            return Err(self.error(401, "You did not pass a valid authentication token"));
        }
        if is_begun(&ask.path) {
            return self.go_on(ask);
        }
        let request: Request = serde_json::from_slice(ask.body)
            .map_err(|error| self.error(400, &format!("invalid body: {error}")))?;
        let named = ask.path.contains("/models/") || ask.path.contains("/deployments/");
        if named == request.version.is_some() {
            return Err(self.error(422, "- version: is required here and nowhere else"));
        }
        let input = Input::deserialize(&request.input)
            .map_err(|error| self.error(422, &format!("- input: {error}")))?;
        let mut prediction = started(ask, &request.input);
        if request.stream {
            begin(&mut prediction, input.clone(), ask);
        }
        if ask
            .header("prefer")
            .is_some_and(|prefer| prefer.starts_with("wait"))
        {
            finish(&mut prediction, &input, ask);
        }
        Ok(Reply::Whole(Whole::json(201, &prediction)))
    }

    fn error(&self, status: u16, message: &str) -> Whole {
        let title = match status {
            401 => "Unauthenticated",
            422 => "Input validation failed",
            _ => "Request failed",
        };
        let error = json!({"title": title, "detail": message, "status": status});
        Whole::json(status, &error)
    }
}

impl Replicate {
    /// What is asked of a prediction that was begun.
    fn go_on(&self, ask: &Ask<'_>) -> Result<Reply, Whole> {
        let missing = || self.error(404, "The requested resource could not be found.");
        let mut rest = ask.path.rsplit('/');
        let (what, id) = (rest.next(), rest.next().unwrap_or_default());
        let input = take(id).ok_or_else(missing)?;
        match (ask.method, what) {
            (&Method::POST, Some("cancel")) => {
                let canceled = json!({"id": id, "status": "canceled"});
                Ok(Reply::Whole(Whole::json(200, &canceled)))
            }
            (&Method::GET, Some("stream")) if ask.streams(true) => {
                Ok(Reply::Stream(script(&input, ask)))
            }
            (&Method::GET, Some("stream")) => {
                let mut prediction = json!({"id": id});
                finish(&mut prediction, &input, ask);
                Ok(Reply::Whole(Whole::json(200, &prediction)))
            }
            _ => Err(missing()),
        }
    }
}

/// Whether a path is of a prediction that was begun.
pub fn is_begun(path: &str) -> bool {
    path.contains("/predictions/") && (path.ends_with("/stream") || path.ends_with("/cancel"))
}

/// Predictions whose streams nobody has read.
static BEGUN: Mutex<VecDeque<(String, Input)>> = Mutex::new(VecDeque::new());
const MAX_BEGUN: usize = 256;

/// Gives a prediction an id of its own and the addresses at which it goes on.
fn begin(prediction: &mut Value, input: Input, ask: &Ask<'_>) {
    let id = format!("{:032x}", fastrand::u128(..));
    let host = ask.header("host").unwrap_or_default();
    let root = ["/models/", "/deployments/", "/predictions"]
        .iter()
        .find_map(|end| ask.path.split_once(end));
    let root = root.map_or("", |(root, _)| root);
    for what in ["stream", "cancel"] {
        prediction["urls"][what] = format!("http://{host}{root}/predictions/{id}/{what}").into();
    }
    prediction["id"] = id.clone().into();
    let mut begun = BEGUN.lock().unwrap_or_else(PoisonError::into_inner);
    begun.push_back((id, input));
    if begun.len() > MAX_BEGUN {
        begun.pop_front();
    }
}

fn take(id: &str) -> Option<Input> {
    let mut begun = BEGUN.lock().unwrap_or_else(PoisonError::into_inner);
    let at = begun.iter().position(|(known, _)| known == id)?;
    begun.remove(at).map(|(_, input)| input)
}

fn script(input: &Input, ask: &Ask<'_>) -> Script {
    let event = |name: &str, data: &str| {
        let lines: Vec<_> = data
            .split('\n')
            .map(|line| format!("data: {line}\n"))
            .collect();
        format!("event: {name}\nid: {}:0\n{}\n", ask.now, lines.concat())
    };
    let failed = |why: &str| {
        let told = event("error", &json!({"detail": why}).to_string());
        told + &event("done", r#"{"reason":"error"}"#)
    };
    let text = write(input, ask);
    let mut events: Vec<_> = match text.ending {
        Ending::Filter => vec![failed(FLAGGED)],
        _ => text
            .tokens
            .iter()
            .map(|token| event("output", token))
            .collect(),
    };
    let finish = events.len();
    events.push(event("done", "{}"));
    Script {
        events,
        finish,
        done: finish,
        error: failed("the model failed to answer"),
    }
}

fn write(input: &Input, ask: &Ask<'_>) -> Text {
    let stops = input.stop_sequences.split(',').map(str::to_owned);
    let stops: Vec<String> = stops.filter(|stop| !stop.is_empty()).collect();
    let limit = input.max_tokens.or(Some(512));
    Text::write(&input.prompt, 0, limit, &stops, &ask.knobs).into_chat()
}

const FLAGGED: &str = "The input or output was flagged as sensitive.";

fn started(ask: &Ask<'_>, input: &Value) -> Value {
    let id = format!("{:026x}", ask.now);
    let urls = json!({
        "get": format!("https://api.replicate.com/v1/predictions/{id}"),
        "cancel": format!("https://api.replicate.com/v1/predictions/{id}/cancel"),
    });
    let model = ask.path.split("/models/").nth(1).unwrap_or_default();
    let model = model.trim_end_matches("/predictions");
    json!({
        "id": id, "model": model, "version": "hidden", "input": input, "logs": "", "output": null, "data_removed": false,
        "error": null, "status": "starting", "created_at": "2025-01-01T00:00:00.000Z", "urls": urls,
    })
}

fn finish(prediction: &mut Value, input: &Input, ask: &Ask<'_>) {
    let text = write(input, ask);
    if text.ending == Ending::Filter {
        prediction["status"] = "failed".into();
        prediction["error"] = FLAGGED.into();
        return;
    }
    prediction["status"] = "succeeded".into();
    prediction["completed_at"] = "2025-01-01T00:00:00.200Z".into();
    let counts = (count(&input.prompt), text.tokens.len());
    prediction["metrics"] =
        json!({"input_token_count": counts.0, "output_token_count": counts.1, "predict_time": 0.2});
    prediction["output"] = text.tokens.into();
}
