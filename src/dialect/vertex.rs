//! Google's Vertex AI: one address, several vendors' APIs, told apart by the model's publisher.
//!
//! Sources: [Gemini](https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference),
//! [Claude](https://cloud.google.com/vertex-ai/generative-ai/docs/partner-models/claude/use-claude),
//! [Mistral](https://cloud.google.com/vertex-ai/generative-ai/docs/partner-models/mistral),
//! [open models](https://cloud.google.com/vertex-ai/generative-ai/docs/maas/call-open-model-apis),
//! [own endpoints](https://cloud.google.com/vertex-ai/generative-ai/docs/multimodal/call-vertex-using-openai-library).
//!
//! The base URL ends with `/projects/{project}/locations/{region}`. A model is called `publisher/name` or `publisher.name`;
//! without a publisher it is Google's own. Bodies and answers are those of the publisher's own API, errors may be
//! Google's in every case.
//!
//! A publisher that is not named here is one of the open models behind `endpoints/openapi`, in the form `publisher/name`
//! alone: a dot may belong to a model's name.

use std::borrow::Cow;

use bytes::Bytes;
use http::StatusCode;

use crate::{
    completion::{Completion, CompletionRequest, Mark, Parameter, Partial, Support},
    dialect::{
        Dialect, Extras, Step, UpstreamRequest,
        anthropic::{self, ANTHROPIC},
        chat::{CHAT, MISTRAL_CHAT},
        gemini::{self, GEMINI},
        gemini_request,
        google_error::{ToldError, read_told_error},
    },
    error::Error,
    wire::{Frame, Framing},
};

/// One publisher's API at Vertex AI's address.
#[derive(Debug)]
pub struct Vertex {
    publisher: Publisher,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Publisher {
    Google,
    Anthropic,
    Mistral,
    /// Llama, DeepSeek, Qwen and their like, served by Google behind one OpenAI-shaped address.
    Open,
    /// A model that its user has deployed: its name is an endpoint's.
    Endpoint,
}

/// Vertex AI itself: what it can do is what Google's own models can.
pub static VERTEX: Vertex = Vertex::of(Publisher::Google);
pub static VERTEX_ANTHROPIC: Vertex = Vertex::of(Publisher::Anthropic);
pub static VERTEX_MISTRAL: Vertex = Vertex::of(Publisher::Mistral);
pub static VERTEX_OPEN: Vertex = Vertex::of(Publisher::Open);
pub static VERTEX_ENDPOINT: Vertex = Vertex::of(Publisher::Endpoint);

impl Dialect for Vertex {
    fn name(&self) -> &'static str {
        "vertex"
    }

    fn for_request(&self, request: &CompletionRequest) -> Option<&'static dyn Dialect> {
        Some(match publisher(request.model()).0 {
            Publisher::Google => &VERTEX,
            Publisher::Anthropic => &VERTEX_ANTHROPIC,
            Publisher::Mistral => &VERTEX_MISTRAL,
            Publisher::Open => &VERTEX_OPEN,
            Publisher::Endpoint => &VERTEX_ENDPOINT,
        })
    }

    fn framing(&self) -> Framing {
        self.own().framing()
    }

    fn support(&self, parameter: Parameter) -> Support {
        match parameter {
            // Mistral's own address for it is not among Google's.
            Parameter::Suffix => Support::Refused,
            other => self.own().support(other),
        }
    }

    fn carries(&self, parameter: Parameter, request: &CompletionRequest) -> bool {
        self.own().carries(parameter, request)
    }

    fn extras(&self) -> Extras {
        self.own().extras()
    }

    /// Some of the publishers' models take it; which, the model says.
    fn prefill(&self, _told: Option<Mark>, model: Option<&str>) -> Option<Mark> {
        match model {
            None => Some(Mark::Role),
            Some(_) => self.own().prefill(None, model),
        }
    }

    fn write_request(&self, request: &CompletionRequest) -> Result<UpstreamRequest, Error> {
        let (_, name) = publisher(request.model());
        Ok(UpstreamRequest {
            path: Cow::Owned(self.path(request, read_segment(name)?)),
            headers: &[],
            body: self.body(request, name)?,
        })
    }

    fn read_reply<'b>(
        &self,
        body: &'b [u8],
        partial: &mut Partial,
    ) -> Result<Completion<'b>, Error> {
        let read = self.own().read_reply(body, partial);
        read.map_err(|error| googles(body).map_or(error, ToldError::told))
    }

    fn read_frame<'f>(&self, frame: &'f Frame, partial: &mut Partial) -> Result<Step<'f>, Error> {
        // Google's own words between a publisher's events.
        if *frame.event == *b"vertex_event" {
            return Ok(Step::Skip);
        }
        let read = self.own().read_frame(frame, partial);
        read.map_err(|error| googles(&frame.data).map_or(error, ToldError::told))
    }

    fn read_error(&self, status: StatusCode, body: &[u8]) -> Error {
        match googles(body) {
            Some(error) => error.with_status(status),
            None => self.own().read_error(status, body),
        }
    }
}

impl Vertex {
    const fn of(publisher: Publisher) -> Self {
        Self { publisher }
    }

    /// The publisher's API where it stands alone.
    fn own(&self) -> &'static dyn Dialect {
        match self.publisher {
            Publisher::Google => &GEMINI,
            Publisher::Anthropic => &ANTHROPIC,
            Publisher::Mistral => &MISTRAL_CHAT,
            Publisher::Open | Publisher::Endpoint => &CHAT,
        }
    }

    fn path(&self, request: &CompletionRequest, name: &str) -> String {
        let predict = if request.stream {
            "streamRawPredict"
        } else {
            "rawPredict"
        };
        match self.publisher {
            Publisher::Google => {
                let method = gemini::method(request);
                format!("/publishers/google/models/{name}:{method}")
            }
            Publisher::Anthropic => format!("/publishers/anthropic/models/{name}:{predict}"),
            Publisher::Mistral => format!("/publishers/mistralai/models/{name}:{predict}"),
            Publisher::Open => "/endpoints/openapi/chat/completions".to_owned(),
            Publisher::Endpoint => format!("/endpoints/{name}/chat/completions"),
        }
    }

    fn body(&self, request: &CompletionRequest, name: &str) -> Result<Bytes, Error> {
        match self.publisher {
            Publisher::Google => gemini_request::write_body(request),
            Publisher::Anthropic => anthropic::write_cloud_body(request, ANTHROPIC_VERSION),
            // The body names the model without the version that its address may have: `mistral-small@2503`.
            Publisher::Mistral => {
                let bare = name.split_once('@').map_or(name, |(bare, _)| bare);
                MISTRAL_CHAT.write_body(request, bare)
            }
            Publisher::Open => CHAT.write_body(request, &open_model(request.model(), name)?),
            // The endpoint holds one model: no name is needed, and another one's is refused by its server.
            Publisher::Endpoint => CHAT.write_body(request, ""),
        }
    }
}

/// A model's publisher, and its name there.
fn publisher(model: &str) -> (Publisher, &str) {
    for (prefix, publisher) in PUBLISHERS {
        let name = model.strip_prefix(prefix);
        if let Some(name) = name.and_then(|name| name.strip_prefix(['.', '/'])) {
            return (*publisher, name);
        }
    }
    match model.split_once('/') {
        Some((_, name)) => (Publisher::Open, name),
        None => (Publisher::Google, model),
    }
}

/// An open model's name in a body, `publisher/name` in either way of writing it.
fn open_model(model: &str, name: &str) -> Result<String, Error> {
    let prefix = model
        .strip_suffix(name)
        .and_then(|prefix| prefix.get(..prefix.len().saturating_sub(1)));
    let publisher = read_segment(prefix.unwrap_or_default())?;
    Ok(format!("{publisher}/{name}"))
}

/// A name that becomes a piece of the path: nothing in it may end the piece.
fn read_segment(name: &str) -> Result<&str, Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte);
    let valid = name.bytes().all(plain) && name.bytes().any(|byte| byte != b'.');
    let wrong = "`model` must be a name of letters, digits, `.`, `_`, `-` and `@` for this provider, with or without `publisher/` before it.";
    valid
        .then_some(name)
        .ok_or_else(|| Error::invalid("model", wrong))
}

/// An error in Google's own form.
fn googles(body: &[u8]) -> Option<ToldError<'_>> {
    read_told_error(body).filter(ToldError::is_named)
}

const PUBLISHERS: &[(&str, Publisher)] = &[
    ("google", Publisher::Google),
    ("anthropic", Publisher::Anthropic),
    ("mistralai", Publisher::Mistral),
    ("meta", Publisher::Open),
    ("endpoints", Publisher::Endpoint),
];
/// "Must be set to the value `vertex-2023-10-16`."
const ANTHROPIC_VERSION: &str = "vertex-2023-10-16";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dialect::settle, error::Kind};

    fn dialect(model: &str) -> &'static dyn Dialect {
        let body = format!(r#"{{"model":"{model}","prompt":"a"}}"#);
        let request = CompletionRequest::read(Bytes::from(body)).unwrap();
        VERTEX.for_request(&request).unwrap()
    }

    fn write(model: &str, fields: &str) -> Result<(String, String), Error> {
        let body = format!(r#"{{"model":"{model}","prompt":"a\n\u00e9",{fields}}}"#);
        let mut request = CompletionRequest::read(Bytes::from(body))?;
        settle(&mut request, dialect(model), &[], "vertex-ai")?;
        let upstream = dialect(model).write_request(&request)?;
        assert!(upstream.headers.is_empty());
        let body = String::from_utf8(upstream.body.to_vec()).unwrap();
        Ok((upstream.path.into_owned(), body))
    }

    #[test]
    fn each_publisher_has_its_own_path_and_body() {
        let google = r#"{"contents":[{"role":"user","parts":[{"text":"a\n\u00e9"}]}],"generationConfig":{"maxOutputTokens":9}}"#;
        let claude = r#"{"anthropic_version":"vertex-2023-10-16","max_tokens":9,"messages":[{"role":"user","content":"a\n\u00e9"}]}"#;
        let chat = |model: &str| {
            format!(
                r#"{{"model":"{model}","messages":[{{"role":"user","content":"a\n\u00e9"}}],"max_tokens":9}}"#
            )
        };
        let own = "/publishers/google/models/gemini-2.5-flash:generateContent";
        let sonnet = "/publishers/anthropic/models/claude-sonnet-4@20250514:rawPredict";
        let small = "/publishers/mistralai/models/mistral-small-2503@001:rawPredict";
        let open = "/endpoints/openapi/chat/completions";
        for (model, path, body) in [
            ("gemini-2.5-flash", own, google.to_owned()),
            ("google.gemini-2.5-flash", own, google.to_owned()),
            ("google/gemini-2.5-flash", own, google.to_owned()),
            (
                "anthropic.claude-sonnet-4@20250514",
                sonnet,
                claude.to_owned(),
            ),
            (
                "anthropic/claude-sonnet-4@20250514",
                sonnet,
                claude.to_owned(),
            ),
            (
                "mistralai.mistral-small-2503@001",
                small,
                chat("mistral-small-2503"),
            ),
            (
                "meta.llama-3.3-70b-instruct-maas",
                open,
                chat("meta/llama-3.3-70b-instruct-maas"),
            ),
            (
                "meta/llama-3.3-70b-instruct-maas",
                open,
                chat("meta/llama-3.3-70b-instruct-maas"),
            ),
            (
                "deepseek-ai/deepseek-v3.1-maas",
                open,
                chat("deepseek-ai/deepseek-v3.1-maas"),
            ),
            (
                "endpoints.5464397967697903616",
                "/endpoints/5464397967697903616/chat/completions",
                chat(""),
            ),
        ] {
            assert_eq!(
                write(model, r#""max_tokens":9"#).unwrap(),
                (path.to_owned(), body),
                "{model}"
            );
        }
    }

    #[test]
    fn each_publisher_streams_in_its_own_way() {
        for (model, path, streams) in [
            (
                "gemini-2.5-flash",
                "/publishers/google/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
                "",
            ),
            (
                "anthropic.claude-opus-4",
                "/publishers/anthropic/models/claude-opus-4:streamRawPredict",
                r#""stream":true"#,
            ),
            (
                "mistralai.codestral-2",
                "/publishers/mistralai/models/codestral-2:streamRawPredict",
                r#""stream":true"#,
            ),
            (
                "qwen/q-maas",
                "/endpoints/openapi/chat/completions",
                r#""stream":true,"stream_options":{"include_usage":true}"#,
            ),
            (
                "endpoints/7",
                "/endpoints/7/chat/completions",
                r#""stream":true"#,
            ),
        ] {
            let (written, body) = write(model, r#""stream":true"#).unwrap();
            assert_eq!(written, path);
            assert!(body.contains(streams), "{body}");
        }
    }

    #[test]
    fn each_publisher_carries_what_its_own_api_does() {
        for (model, fields, param) in [
            (
                "gemini-2.5-flash",
                r#""logit_bias":{"1":2}"#,
                Some("logit_bias"),
            ),
            ("gemini-2.5-flash", r#""seed":1,"topK":4"#, None),
            ("anthropic.c", r#""seed":1"#, Some("seed")),
            ("anthropic.c", r#""user":"u","top_k":4"#, None),
            ("anthropic.c", r#""temperature":1.5"#, Some("temperature")),
            ("anthropic.c", r#""max_tokens":0"#, Some("max_tokens")),
            ("mistralai.m", r#""suffix":"x""#, Some("suffix")),
            ("meta.l", r#""echo":true"#, Some("echo")),
            ("meta.l", r#""seed":1,"top_k":4"#, None),
            ("endpoints.1", r#""messages":[]"#, Some("messages")),
        ] {
            let error = write(model, fields).err();
            assert_eq!(
                error.as_ref().and_then(Error::param),
                param,
                "{model} {fields}"
            );
        }
        let (_, body) = write("mistralai.m", r#""seed":1"#).unwrap();
        assert!(body.contains(r#""random_seed":1"#), "{body}");
    }

    #[test]
    fn nothing_in_a_model_leaves_its_piece_of_the_path() {
        let names = [
            "",
            ".",
            "..",
            "../x",
            "a:rawPredict",
            "a?key=1",
            "a#",
            "a%2f..",
            "a b",
            "a\\\\b",
            "a\\nb",
            "modèle",
            "․․",
            "x/../y",
            "x/y/z",
        ];
        for publisher in [
            "",
            "google.",
            "google/",
            "anthropic.",
            "mistralai/",
            "meta.",
            "x/",
            "endpoints/",
            "../",
            "/",
            "a?b/",
        ] {
            for name in names {
                let model = format!("{publisher}{name}");
                let error = write(&model, r#""n":1"#).expect_err(&model);
                assert_eq!(error.param(), Some("model"), "{model}");
                assert_eq!(error.status(), 400, "{model}");
            }
        }
    }

    #[test]
    fn googles_errors_are_read_whoever_answers() {
        let object =
            r#"{"error":{"code":429,"message":"Quota exceeded.","status":"RESOURCE_EXHAUSTED"}}"#;
        let status = StatusCode::TOO_MANY_REQUESTS;
        for model in ["g", "anthropic.c", "mistralai.m", "meta.l", "endpoints.1"] {
            for body in [object.to_owned(), format!("[{object}]")] {
                let error = dialect(model).read_error(status, body.as_bytes());
                assert_eq!(error.message(), "Quota exceeded.", "{model}");
                let told = String::from_utf8(error.body()).unwrap();
                assert!(told.contains(r#""type":"RESOURCE_EXHAUSTED""#), "{told}");
                let inside = dialect(model).read_reply(body.as_bytes(), &mut Partial::default());
                assert_eq!(
                    inside.unwrap_err().kind(),
                    Kind::Upstream(status),
                    "{model}"
                );
            }
        }
    }

    #[test]
    fn a_publishers_own_errors_are_read_too() {
        let claude = br#"{"type":"error","error":{"type":"invalid_request_error","message":"no"},"request_id":"req_vrtx_1"}"#;
        let mistral = br#"{"object":"error","message":"no","type":"invalid_model","param":null,"code":"1500"}"#;
        for (model, body, api_type) in [
            ("anthropic.c", &claude[..], "invalid_request_error"),
            ("mistralai.m", &mistral[..], "invalid_model"),
        ] {
            let error = dialect(model).read_error(StatusCode::BAD_REQUEST, body);
            assert_eq!(error.message(), "no");
            let told = String::from_utf8(error.body()).unwrap();
            assert!(told.contains(api_type), "{told}");
        }
        for body in ["", "<html>", "{}", "[]", "null"] {
            let error = dialect("anthropic.c").read_error(StatusCode::BAD_GATEWAY, body.as_bytes());
            assert!(error.message().contains("502"), "{body}");
        }
    }
}
