//! Amazon Bedrock's runtime: Converse and InvokeModel, whole and streamed.

use serde::Deserialize;
use serde_json::json;

use super::{
    Ask, Vendor,
    bedrock_answer::{Answer, Style},
    player::{Reply, Whole},
    text::{Text, count},
};

pub struct Bedrock;

/// `/model/{model}/{operation}`, wherever it stands in a path.
pub fn is_path(path: &str) -> bool {
    path.contains("/model/") && read_path(path).is_some()
}

/// The model as the path has it, and the operation.
fn read_path(path: &str) -> Option<(&str, Operation)> {
    let (rest, operation) = path.rsplit_once('/')?;
    let (_, model) = rest.rsplit_once('/')?;
    let operation = match operation {
        "converse" | "converse-stream" => Operation::Converse,
        "invoke" | "invoke-with-response-stream" => Operation::Invoke,
        _ => return None,
    };
    Some((model, operation))
}

#[derive(Clone, Copy)]
enum Operation {
    Converse,
    Invoke,
}

impl Vendor for Bedrock {
    fn answer(&self, ask: &Ask<'_>) -> Result<Reply, Whole> {
        self.authenticate(ask)?;
        let (model, operation) =
            read_path(&ask.path).ok_or_else(|| self.error(404, "Unknown operation."))?;
        let model = model.replace("%3A", ":").replace("%2F", "/");
        let asked = match operation {
            Operation::Converse => self.read_converse(ask)?,
            Operation::Invoke => self.read_invoke(ask, &model)?,
        };
        let text = Text::write(&asked.prompt, 0, asked.limit, &asked.stops, &ask.knobs);
        let answer = Answer {
            style: asked.style,
            input_tokens: count(&asked.prompt),
            text: match asked.style {
                Style::Converse if !asked.begun => text.into_chat(),
                Style::Converse | Style::Llama | Style::Mistral | Style::Titan => text,
            },
        };
        Ok(if ask.streams(ask.path.ends_with("-stream")) {
            Reply::Framed(answer.script())
        } else {
            Reply::Whole(answer.whole())
        })
    }

    fn error(&self, status: u16, message: &str) -> Whole {
        let name = match status {
            403 => "AccessDeniedException",
            404 => "ResourceNotFoundException",
            408 => "ModelTimeoutException",
            424 => "ModelErrorException",
            429 => "ThrottlingException",
            500 => "InternalServerException",
            503 => "ServiceUnavailableException",
            _ => "ValidationException",
        };
        let mut whole = Whole::json(status, &json!({"message": message}));
        whole.headers.push(("x-amzn-errortype", name.to_owned()));
        whole
    }
}

impl Bedrock {
    /// A signature, whose value is not checked here, or an API key.
    fn authenticate(&self, ask: &Ask<'_>) -> Result<(), Whole> {
        match ask.header("authorization") {
            Some(key) if key.len() > 7 && key.starts_with("Bearer ") => Ok(()),
            Some(signature) if signature.starts_with("AWS4-HMAC-SHA256 ") => {
                match ask.header("x-amz-date") {
                    Some(_) => Ok(()),
                    None => Err(self.error(403, "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.")),
                }
            }
            _ => Err(self.error(403, "Missing Authentication Token")),
        }
    }

    fn read_converse(&self, ask: &Ask<'_>) -> Result<Asked, Whole> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Request {
            messages: Vec<Message>,
            #[serde(default)]
            inference_config: Config,
        }
        #[derive(Deserialize)]
        struct Message {
            role: String,
            content: Vec<Content>,
        }
        #[derive(Deserialize)]
        struct Content {
            text: String,
        }
        let request: Request = self.read(ask)?;
        let starts = request.messages.first().map(|message| &*message.role);
        if starts != Some("user") {
            let message = "A conversation must start with a user message. Try again with a conversation that starts with a user message.";
            return Err(self.error(400, message));
        }
        // A message that the model has begun is gone on with.
        let begun = |message: &&Message| message.role == "assistant";
        let begun = request.messages.last().filter(begun);
        let asked = begun.map_or(request.messages.as_slice(), std::slice::from_ref);
        let content = asked.iter().flat_map(|message| &message.content);
        let prompt: String = content.map(|content| content.text.as_str()).collect();
        if prompt.trim().is_empty() {
            let message = "The text field in the ContentBlock object at messages.0.content.0 is blank. Add text to the text field, and try again.";
            return Err(self.error(400, message));
        }
        let begun = begun.is_some();
        let asked = self.asked(Style::Converse, prompt, request.inference_config)?;
        Ok(Asked { begun, ..asked })
    }

    fn read_invoke(&self, ask: &Ask<'_>, model: &str) -> Result<Asked, Whole> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        struct Titan {
            input_text: String,
            #[serde(default)]
            text_generation_config: Config,
        }
        #[derive(Deserialize)]
        struct Prompted {
            prompt: String,
            #[serde(flatten)]
            config: Config,
        }
        let style = [
            ("meta.llama", Style::Llama),
            ("mistral.", Style::Mistral),
            ("titan-text", Style::Titan),
        ]
        .into_iter()
        .find(|(part, _)| model.contains(part));
        match style {
            Some((_, Style::Titan)) => {
                let request: Titan = self.read(ask)?;
                self.asked(
                    Style::Titan,
                    request.input_text,
                    request.text_generation_config,
                )
            }
            Some((_, style)) => {
                let request: Prompted = self.read(ask)?;
                if matches!(style, Style::Llama) && !request.config.stops.is_empty() {
                    return Err(self.error(400, "Malformed input request: extraneous key [stop] is not permitted, please reformat your input and try again."));
                }
                self.asked(style, request.prompt, request.config)
            }
            None => Err(self.error(400, "The provided model identifier is invalid.")),
        }
    }

    fn read<'b, T: Deserialize<'b>>(&self, ask: &Ask<'b>) -> Result<T, Whole> {
        serde_json::from_slice(ask.body).map_err(|error| {
            let message = format!(
                "Malformed input request: {error}, please reformat your input and try again."
            );
            self.error(400, &message)
        })
    }

    fn asked(&self, style: Style, prompt: String, config: Config) -> Result<Asked, Whole> {
        if config
            .temperature
            .is_some_and(|t| !(0.0..=1.0).contains(&t))
        {
            return Err(self.error(400, "temperature must be less than or equal to 1"));
        }
        if config.limit == Some(0) {
            return Err(self.error(400, "maxTokens must be greater than or equal to 1"));
        }
        Ok(Asked {
            style,
            prompt,
            begun: false,
            limit: config.limit,
            stops: config.stops,
        })
    }
}

/// Each family has names of its own for the same.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Config {
    #[serde(
        alias = "maxTokens",
        alias = "max_gen_len",
        alias = "max_tokens",
        alias = "maxTokenCount"
    )]
    limit: Option<u64>,
    #[serde(alias = "stopSequences", alias = "stop")]
    stops: Vec<String>,
    temperature: Option<f64>,
}

struct Asked {
    style: Style,
    prompt: String,
    /// Whether the prompt is the start of the model's own message.
    begun: bool,
    limit: Option<u64>,
    stops: Vec<String>,
}
