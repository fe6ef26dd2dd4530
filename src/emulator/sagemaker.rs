//! Amazon SageMaker's runtime: `POST /endpoints/{name}/invocations` and `/invocations-response-stream`, before containers of three
//! kinds. The body tells which one stands behind an endpoint.

use serde_json::{Map, Value, json};

use super::{
    Ask, Vendor,
    chat::Chat,
    messages::{message, message_of},
    openai::OpenAi,
    player::{Framed, MESSAGES, Reply, Script, Whole},
    tgi::Tgi,
};

pub struct Sagemaker;

/// Whether a path is one of an endpoint's, wherever the endpoint is named.
pub fn is_path(path: &str) -> bool {
    path.ends_with("/invocations") || path.ends_with(STREAMED)
}

impl Vendor for Sagemaker {
    fn answer(&self, ask: &Ask<'_>) -> Result<Reply, Whole> {
        self.authenticate(ask)?;
        let name = endpoint(&ask.path).ok_or_else(|| self.error(404, "Unknown operation."))?;
        if name == "missing" {
            let message = "Endpoint missing of account 123456789012 not found.";
            return Err(self.error(400, message));
        }
        let body: Map<String, Value> = serde_json::from_slice(ask.body).map_err(|error| {
            of_container(&Whole::json(400, &json!({"error": error.to_string()})))
        })?;
        let streamed = ask.path.ends_with(STREAMED);
        if streamed != (body.get("stream") == Some(&Value::Bool(true))) {
            // No container says so; a caller for whom the operation and the body differ has made a mistake.
            return Err(self.error(400, "The operation and the body's `stream` differ."));
        }
        let reply = if body.contains_key("inputs") {
            Tgi.invoke(ask)
        } else if body.contains_key("messages") {
            Chat.complete(ask)
        } else {
            OpenAi.complete(ask)
        };
        match reply.map_err(|error| of_container(&error))? {
            Reply::Stream(script) => Ok(Reply::Framed(in_parts(script))),
            Reply::Whole(whole) => Ok(Reply::Whole(invoked(whole))),
            Reply::Framed(framed) => Ok(Reply::Framed(framed)),
        }
    }

    fn error(&self, status: u16, message: &str) -> Whole {
        let name = match status {
            403 => "AccessDeniedException",
            424 => "ModelError",
            429 => "ModelNotReadyException",
            500 => "InternalFailure",
            503 => "ServiceUnavailable",
            530 => "InternalDependencyException",
            _ => "ValidationError",
        };
        let mut whole = Whole::json(status, &json!({"Message": message}));
        whole.headers.push(("x-amzn-errortype", name.to_owned()));
        whole
    }
}

impl Sagemaker {
    /// A signature for this service, whose value is not checked here.
    fn authenticate(&self, ask: &Ask<'_>) -> Result<(), Whole> {
        let signature = ask.header("authorization").unwrap_or_default();
        let is_signed = signature.starts_with("AWS4-HMAC-SHA256 ")
            && signature.contains("/sagemaker/aws4_request")
            && ask.header("x-amz-date").is_some();
        if is_signed {
            Ok(())
        } else {
            Err(self.error(403, "Missing Authentication Token"))
        }
    }
}

fn endpoint(path: &str) -> Option<&str> {
    let (rest, _) = path.rsplit_once('/')?;
    let (rest, name) = rest.rsplit_once('/')?;
    rest.ends_with("/endpoints").then_some(name)
}

/// An error of the container's, inside one of SageMaker's.
fn of_container(error: &Whole) -> Whole {
    let said = String::from_utf8_lossy(&error.body);
    let side = if error.status < 500 {
        "client"
    } else {
        "server"
    };
    let message = format!(
        "Received {side} error ({}) from primary with message \"{said}\". See https://us-east-1.console.aws.amazon.com/cloudwatch for more information.",
        error.status
    );
    let mut whole = Whole::json(
        424,
        &json!({
            "ErrorCode": if error.status < 500 { "CLIENT_ERROR_FROM_MODEL" } else { "SERVER_ERROR_FROM_MODEL" },
            "LogStreamArn": "arn:aws:logs:us-east-1:123456789012:log-group:/aws/sagemaker/Endpoints/demo",
            "Message": message, "OriginalMessage": said, "OriginalStatusCode": error.status,
        }),
    );
    whole
        .headers
        .push(("x-amzn-errortype", "ModelError".to_owned()));
    whole
}

/// Of a container's headers only its type comes through.
fn invoked(mut whole: Whole) -> Whole {
    whole.headers.retain(|(name, _)| *name == "content-type");
    let variant = ("x-amzn-invoked-production-variant", "AllTraffic".to_owned());
    whole.headers.push(variant);
    whole
}

/// A container's events in parts that begin and end inside them, as long as they are texts.
fn in_parts(script: Script) -> Framed {
    let mut rest = Vec::new();
    let mut frames = Vec::new();
    for (at, event) in (1..).zip(&script.events) {
        rest.extend_from_slice(event.as_bytes());
        let kept = if at < script.finish {
            event.len() / 2
        } else {
            0
        };
        let next = rest.split_off(rest.len() - kept);
        frames.push(part(&rest));
        rest = next;
    }
    let mut garbage = part(b"data: {}");
    if let Some(byte) = garbage.last_mut() {
        *byte ^= 0xFF;
    }
    let broken =
        json!({"Message": "The connection to the model was reset.", "ErrorCode": "StreamBroken"});
    Framed {
        media: MESSAGES,
        frames,
        finish: script.finish,
        done: script.done,
        error: message(
            &[
                (":exception-type", "ModelStreamError"),
                (":content-type", "application/json"),
                (":message-type", "exception"),
            ],
            &broken,
        ),
        garbage,
    }
}

fn part(payload: &[u8]) -> Vec<u8> {
    let kind = [
        (":event-type", "PayloadPart"),
        (":content-type", "application/octet-stream"),
        (":message-type", "event"),
    ];
    message_of(&kind, payload)
}

const STREAMED: &str = "/invocations-response-stream";
