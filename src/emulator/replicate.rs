//! Replicate's `POST /v1/models/{owner}/{name}/predictions`, `/v1/predictions` and `/v1/deployments/{owner}/{name}/predictions`, of a
//! language model.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Ask, Vendor,
    player::{Reply, Whole},
    text::{Ending, Text, count},
};

pub struct Replicate;

#[derive(Deserialize)]
struct Request {
    input: Value,
    /// Of `/v1/predictions`, which names the model in no other way.
    version: Option<String>,
}

#[derive(Deserialize)]
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
        let request: Request = serde_json::from_slice(ask.body)
            .map_err(|error| self.error(400, &format!("invalid body: {error}")))?;
        let named = ask.path.contains("/models/") || ask.path.contains("/deployments/");
        if named == request.version.is_some() {
            return Err(self.error(422, "- version: is required here and nowhere else"));
        }
        let input = Input::deserialize(&request.input)
            .map_err(|error| self.error(422, &format!("- input: {error}")))?;
        let mut prediction = started(ask, &request.input);
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
    let stops = input.stop_sequences.split(',').map(str::to_owned);
    let stops: Vec<String> = stops.filter(|stop| !stop.is_empty()).collect();
    let limit = input.max_tokens.or(Some(512));
    let text = Text::write(&input.prompt, 0, limit, &stops, &ask.knobs).into_chat();
    if text.ending == Ending::Filter {
        prediction["status"] = "failed".into();
        prediction["error"] = "The input or output was flagged as sensitive.".into();
        return;
    }
    prediction["status"] = "succeeded".into();
    prediction["completed_at"] = "2025-01-01T00:00:00.200Z".into();
    let counts = (count(&input.prompt), text.tokens.len());
    prediction["metrics"] =
        json!({"input_token_count": counts.0, "output_token_count": counts.1, "predict_time": 0.2});
    prediction["output"] = text.tokens.into();
}
