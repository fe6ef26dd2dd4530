//! Google's Vertex AI: the publishers' own APIs behind Google's addresses and credentials.

use serde_json::{Map, Value};

use super::{
    Ask, Vendor,
    anthropic::Anthropic,
    chat::Chat,
    gemini::Gemini,
    player::{Reply, Whole},
};

pub struct Vertex;

/// Whether a path is one of Vertex AI's.
pub fn is_vertex(path: &str) -> bool {
    path.contains("/publishers/") || path.contains("/endpoints/")
}

impl Vendor for Vertex {
    fn answer(&self, ask: &Ask<'_>) -> Result<Reply, Whole> {
        let token = ask
            .header("authorization")
            .and_then(|value| value.strip_prefix("Bearer "));
        if token.is_none_or(str::is_empty) {
            let message = "Request is missing required authentication credential. Expected OAuth 2 access token, login cookie or other valid authentication credential.";
            return Err(self.error(401, message));
        }
        let Some((publisher, model, method)) = target(&ask.path) else {
            return Chat.answer(ask);
        };
        let body = || {
            serde_json::from_slice::<Map<String, Value>>(ask.body)
                .map_err(|error| self.error(400, &error.to_string()))
        };
        match (publisher, method) {
            ("google", "generateContent" | "streamGenerateContent") => Gemini.generate(ask),
            ("anthropic", "rawPredict" | "streamRawPredict") => {
                let body = self.claude(body()?, model, method)?;
                Anthropic.converse(&ask.with_body(&body))
            }
            ("mistralai", "rawPredict" | "streamRawPredict") => {
                self.check_method(&body()?, method)?;
                Chat.answer(ask)
            }
            _ => Err(self.error(
                404,
                "Publisher Model was not found or your project does not have access to it.",
            )),
        }
    }

    fn error(&self, status: u16, message: &str) -> Whole {
        Gemini.error(status, message)
    }
}

/// Publisher, model and method of a path.
fn target(path: &str) -> Option<(&str, &str, &str)> {
    let (_, rest) = path.split_once("/publishers/")?;
    let (publisher, rest) = rest.split_once("/models/")?;
    let (model, method) = rest.split_once(':')?;
    Some((publisher, model, method))
}

impl Vertex {
    /// "`model` is not passed in the request body", and the version is.
    fn claude(
        &self,
        mut body: Map<String, Value>,
        model: &str,
        method: &str,
    ) -> Result<Vec<u8>, Whole> {
        self.check_method(&body, method)?;
        if body.remove("anthropic_version") != Some("vertex-2023-10-16".into()) {
            return Err(self.error(400, "anthropic_version: Field required"));
        }
        if body.insert("model".to_owned(), model.into()).is_some() {
            return Err(self.error(400, "model: Extra inputs are not permitted"));
        }
        Ok(Value::from(body).to_string().into_bytes())
    }

    fn check_method(&self, body: &Map<String, Value>, method: &str) -> Result<(), Whole> {
        let streams = body.get("stream") == Some(&Value::Bool(true));
        if streams == (method == "streamRawPredict") {
            Ok(())
        } else {
            Err(self.error(400, "`stream` does not fit the method."))
        }
    }
}
