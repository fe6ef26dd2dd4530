//! An emulator of the vendors: demo peer, test peer, and the benchmark's upstream. It listens only where a conf says so.
//!
//! It answers as each vendor documents its API, whole and streamed, mistakes included, with text that depends on nothing
//! but the request. It shares no code with the dialects: it is a witness against them. What stands at the end of a path
//! names the API; whatever stands before is a provider's own path. [`knobs`] change what it does.

mod anthropic;
mod bedrock;
mod bedrock_answer;
mod chat;
mod cohere;
mod fim;
mod gemini;
mod knobs;
mod messages;
mod oci;
mod ollama;
mod openai;
mod player;
mod replicate;
mod sagemaker;
mod text;
mod tgi;
mod triton;
mod vertex;
mod watsonx;
mod workers_ai;

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use http::{HeaderMap, Method};
use pingora::{
    apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream},
    protocols::http::ServerSession,
    server::ShutdownWatch,
    services::listening::Service,
};
use serde_json::{Value, json};

use self::{
    knobs::{Fault, Knobs},
    player::{Played, Reply, Whole},
};
use crate::{config, drain::Leaving};

/// The listening service of a conf's emulator.
pub fn service(settings: &config::Emulator, leaving: &Arc<Leaving>) -> Service<Emulator> {
    let emulator = Emulator {
        knobs: Knobs::from(settings),
        leaving: leaving.clone(),
    };
    let mut service = Service::new("emulator".to_owned(), emulator);
    service.add_tcp(&settings.listen);
    service
}

/// Every vendor at once.
pub struct Emulator {
    knobs: Knobs,
    leaving: Arc<Leaving>,
}

/// One request as a vendor's API sees it.
pub struct Ask<'a> {
    pub method: &'a Method,
    /// Without the segment that holds knobs.
    pub path: String,
    pub query: &'a str,
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
    pub knobs: Knobs,
    /// Unix time, seconds.
    pub now: u64,
}

impl Ask<'_> {
    /// The same request with another body, of the same knobs.
    fn with_body<'b>(&'b self, body: &'b [u8]) -> Ask<'b> {
        Ask {
            path: self.path.clone(),
            body,
            ..*self
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Whether a client that asked for a stream, or did not, gets one.
    pub fn streams(&self, asked: bool) -> bool {
        match self.knobs.fault {
            Some(Fault::Json) => false,
            Some(Fault::Sse) => true,
            _ => asked,
        }
    }
}

/// What one vendor's API has to say to a request.
trait Vendor {
    /// Its answer, or its error's status and body.
    fn answer(&self, ask: &Ask<'_>) -> Result<Reply, Whole>;

    /// An error in its form.
    fn error(&self, status: u16, message: &str) -> Whole;
}

fn vendor(path: &str) -> Option<&'static dyn Vendor> {
    match path {
        _ if sagemaker::is_path(path) => Some(&sagemaker::Sagemaker),
        _ if vertex::is_vertex(path) => Some(&vertex::Vertex),
        _ if path.ends_with("/chat/completions") => Some(&chat::Chat),
        _ if path.ends_with("/fim/completions") => Some(&fim::Fim),
        _ if path.ends_with("/completions") => Some(&openai::OpenAi),
        _ if bedrock::is_path(path) => Some(&bedrock::Bedrock),
        _ if path.ends_with("/api/generate") => Some(&ollama::Ollama),
        _ if path.ends_with("/actions/chat") => Some(&oci::Oci),
        _ if path.ends_with("/chat") => Some(&cohere::Cohere),
        _ if path.contains("/v2/models/") && path.contains("/generate") => Some(&triton::Triton),
        _ if path.ends_with("/generate") || path.ends_with("/generate_stream") => Some(&tgi::Tgi),
        _ if path.contains("/ai/run/") => Some(&workers_ai::WorkersAi),
        _ if path.contains("/text/generation") => Some(&watsonx::Watsonx),
        _ if path.ends_with("/predictions") || replicate::is_begun(path) => {
            Some(&replicate::Replicate)
        }
        _ if path.ends_with("/messages") => Some(&anthropic::Anthropic),
        _ if path.contains(":generateContent") || path.contains(":streamGenerateContent") => {
            Some(&gemini::Gemini)
        }
        _ => None,
    }
}

fn answer(ask: &Ask<'_>) -> Reply {
    if let Some(whole) = ask.knobs.fault.and_then(player::answer_of) {
        return Reply::Whole(whole);
    }
    let is_spoken = ask.method == Method::POST || replicate::is_begun(&ask.path);
    let Some(vendor) = vendor(&ask.path).filter(|_| is_spoken) else {
        return Reply::Whole(other(ask));
    };
    if let Some(Fault::Status(status)) = ask.knobs.fault {
        return Reply::Whole(vendor.error(status, "This error was asked for."));
    }
    vendor.answer(ask).unwrap_or_else(Reply::Whole)
}

/// The paths that no dialect speaks: for what passes a gateway untouched.
fn other(ask: &Ask<'_>) -> Whole {
    let path = ask.path.as_str();
    if path.ends_with("/models") {
        let model =
            json!({"id": "emulated-1", "object": "model", "created": 1, "owned_by": "emulator"});
        return Whole::json(200, &json!({"object": "list", "data": [model]}));
    }
    if path.ends_with("/embeddings") {
        let vector = json!({"object": "embedding", "index": 0, "embedding": [0.5, -0.5, 0.25]});
        let usage = json!({"prompt_tokens": 1, "total_tokens": 1});
        return Whole::json(
            200,
            &json!({"object": "list", "data": [vector], "model": "emulated-1", "usage": usage}),
        );
    }
    if path.ends_with("/echo") {
        let headers: Value = ask
            .headers
            .iter()
            .map(|(name, value)| {
                (
                    name.to_string(),
                    String::from_utf8_lossy(value.as_bytes()).into(),
                )
            })
            .collect::<serde_json::Map<_, _>>()
            .into();
        let body = String::from_utf8_lossy(ask.body);
        return Whole::json(
            200,
            &json!({"method": ask.method.as_str(), "path": path, "query": ask.query, "headers": headers, "body": body}),
        );
    }
    openai::error(
        404,
        &format!("Unknown request URL: {} {path}.", ask.method),
        None,
    )
}

#[async_trait]
impl HttpServerApp for Emulator {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        if !session.read_request().await.ok()? {
            return None;
        }
        // Of another process's gateway, perhaps.
        let _guest = self.leaving.guest();
        let keepalive = (!*shutdown.borrow()).then_some(60);
        session.set_keepalive(keepalive);
        let body = read_body(&mut session).await?;
        let request = session.req_header();
        let (path, knobs) = self.knobs.turned_by(request.uri.path(), &request.headers);
        let ask = Ask {
            method: &request.method,
            path,
            query: request.uri.query().unwrap_or_default(),
            headers: &request.headers,
            body: &body,
            knobs,
            now: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs(),
        };
        let (reply, knobs) = (answer(&ask), ask.knobs);
        match player::play(&mut session, reply, knobs).await {
            Ok(Played::Whole) => {
                let settings = HttpPersistentSettings::for_session(&session);
                let stream = session.finish().await.ok()??;
                Some(ReusedHttpStream::from_reusable_stream(stream, settings))
            }
            // Dropping the session closes its connection in the middle of the answer.
            Ok(Played::Cut) | Err(_) => None,
        }
    }
}

async fn read_body(session: &mut ServerSession) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(piece) = session.read_request_body().await.ok()? {
        if body.len() + piece.len() > MAX_BODY {
            return None;
        }
        body.extend_from_slice(&piece);
    }
    Some(body)
}

/// Prompts of tests and benchmarks are below it.
const MAX_BODY: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(path: &str, key: (&'static str, &str), body: &Value) -> Reply {
        let mut headers = HeaderMap::new();
        headers.insert(key.0, key.1.parse().unwrap());
        headers.insert("anthropic-version", "2023-06-01".parse().unwrap());
        headers.insert("prefer", "wait".parse().unwrap());
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let (path, knobs) = Knobs::default().turned_by(path, &headers);
        answer(&Ask {
            method: &Method::POST,
            path,
            query,
            headers: &headers,
            body: body.to_string().as_bytes(),
            knobs,
            now: 7,
        })
    }

    fn whole(reply: Reply) -> (u16, Value) {
        match reply {
            Reply::Whole(whole) => (whole.status, serde_json::from_slice(&whole.body).unwrap()),
            Reply::Stream(_) | Reply::Framed(_) => panic!("a stream"),
        }
    }

    const BEARER: (&str, &str) = ("authorization", "Bearer k");
    const PROMPT: &str = "Write a tagline for an ice cream shop.";

    #[test]
    fn every_vendor_completes_the_page_s_prompt() {
        let messages = json!([{"role": "user", "content": PROMPT}]);
        let (_, text) = whole(ask(
            "/v1/completions",
            BEARER,
            &json!({"model": "m", "prompt": PROMPT}),
        ));
        assert_eq!(
            text["choices"][0]["text"],
            " Sweet treats for every occasion!"
        );
        let (_, chat) = whole(ask(
            "/x/chat/completions",
            BEARER,
            &json!({"model": "m", "messages": messages}),
        ));
        assert_eq!(
            chat["choices"][0]["message"]["content"],
            "Sweet treats for every occasion!"
        );
        let (_, claude) = whole(ask(
            "/v1/messages",
            ("x-api-key", "k"),
            &json!({"model": "m", "max_tokens": 9, "messages": messages}),
        ));
        assert_eq!(
            claude["content"][0]["text"],
            "Sweet treats for every occasion!"
        );
        let (_, cohere) = whole(ask(
            "/v2/chat",
            BEARER,
            &json!({"model": "m", "messages": messages, "stream": false}),
        ));
        assert_eq!(
            cohere["message"]["content"][0]["text"],
            "Sweet treats for every occasion!"
        );
        let inputs =
            json!({"inputs": PROMPT, "parameters": {"max_new_tokens": 2, "details": true}});
        let (_, tgi) = whole(ask("/generate", BEARER, &inputs));
        assert_eq!(tgi["generated_text"], " Sweet treats");
        assert_eq!(tgi["details"]["finish_reason"], "length");
        let input = json!({"text_input": PROMPT, "max_tokens": 9, "exclude_input_in_output": true});
        let (_, triton) = whole(ask("/v2/models/ensemble/generate", BEARER, &input));
        assert_eq!(triton["text_output"], " Sweet treats for every occasion!");
        assert_eq!(triton["model_name"], "ensemble");
        let input = json!({"model_id": "m", "input": PROMPT, "project_id": "p"});
        let path = "/ml/v1/text/generation?version=2025-02-11";
        let (_, watsonx) = whole(ask(path, BEARER, &input));
        assert_eq!(watsonx["results"][0]["generated_token_count"], 5);
        let input = json!({"input": {"prompt": PROMPT, "max_tokens": 2}});
        let (status, replicate) = whole(ask("/v1/models/a/b/predictions", BEARER, &input));
        assert_eq!(status, 201);
        assert_eq!(replicate["status"], "succeeded");
        assert_eq!(replicate["output"], json!(["Sweet", " treats"]));
        let (_, gemini) = whole(ask(
            "/v1beta/models/g:generateContent",
            ("x-goog-api-key", "k"),
            &json!({"contents": [{"parts": [{"text": PROMPT}]}]}),
        ));
        assert_eq!(
            gemini["candidates"][0]["content"]["parts"][0]["text"],
            "Sweet treats for every occasion!"
        );
    }

    #[test]
    fn ollama_streams_lines_unless_told_not_to() {
        let path = "/api/generate";
        let body = json!({"model": "m", "prompt": PROMPT, "raw": true});
        let Reply::Framed(framed) = ask(path, BEARER, &body) else {
            panic!("no lines")
        };
        let text = String::from_utf8(framed.frames.concat()).unwrap();
        let lines = text.lines().map(serde_json::from_str::<Value>);
        let lines: Vec<Value> = lines.map(Result::unwrap).collect();
        let said: String = lines
            .iter()
            .filter_map(|line| line["response"].as_str())
            .collect();
        assert_eq!(said, " Sweet treats for every occasion!");
        let last = lines.last().unwrap();
        assert_eq!(
            (&last["done"], &last["done_reason"]),
            (&json!(true), &json!("stop"))
        );
        let body =
            json!({"model": "m", "prompt": "x", "stream": false, "options": {"num_predict": 2}});
        let (_, reply) = whole(ask(path, BEARER, &body));
        assert_eq!(
            (&reply["eval_count"], &reply["done_reason"]),
            (&json!(2), &json!("length"))
        );
        let (status, error) = whole(ask(path, BEARER, &json!({"prompt": "x"})));
        assert_eq!(
            (status, &error["error"]),
            (400, &json!("model is required"))
        );
    }

    #[test]
    fn refusals_and_blocked_prompts_have_the_form_of_each_vendor() {
        let turned = |fault: &str| format!("Bearer sk-emulator?fault={fault}");
        let messages = json!([{"role": "user", "content": PROMPT}]);
        let chat = json!({"model": "m", "messages": messages});
        let path = "/v1/chat/completions";
        let (_, refused) = whole(ask(path, ("authorization", &turned("refusal")), &chat));
        let choice = &refused["choices"][0];
        assert_eq!(choice["message"]["content"], Value::Null);
        assert_eq!(
            choice["message"]["refusal"],
            "Sweet treats for every occasion!"
        );
        assert_eq!(choice["finish_reason"], "stop");
        let (status, blocked) = whole(ask(path, ("authorization", &turned("blocked")), &chat));
        assert_eq!(
            (status, &blocked["error"]["code"]),
            (400, &json!("content_filter"))
        );
        let contents = json!({"contents": [{"parts": [{"text": PROMPT}]}]});
        let key = ("x-goog-api-key", "sk-emulator?fault=blocked");
        let (status, blocked) = whole(ask("/v1beta/models/g:generateContent", key, &contents));
        assert_eq!((status, &blocked["candidates"]), (200, &Value::Null));
        assert_eq!(
            blocked["promptFeedback"]["blockReason"],
            "PROHIBITED_CONTENT"
        );
    }

    #[test]
    fn bedrock_answers_in_the_form_of_each_model() {
        let converse = json!({"messages": [{"role": "user", "content": [{"text": PROMPT}]}], "inferenceConfig": {"maxTokens": 2}});
        let (_, reply) = whole(ask(
            "/model/us.amazon.nova-lite-v1%3A0/converse",
            BEARER,
            &converse,
        ));
        assert_eq!(
            reply["output"]["message"]["content"][0]["text"],
            "Sweet treats"
        );
        assert_eq!(
            (&reply["stopReason"], &reply["usage"]["totalTokens"]),
            (&json!("max_tokens"), &json!(10))
        );
        let prompted = json!({"prompt": PROMPT, "max_gen_len": 2});
        let (_, reply) = whole(ask(
            "/model/meta.llama3-8b-instruct-v1%3A0/invoke",
            BEARER,
            &prompted,
        ));
        assert_eq!(
            (&reply["generation"], &reply["stop_reason"]),
            (&json!(" Sweet treats"), &json!("length"))
        );
        let (_, reply) = whole(ask(
            "/model/mistral.mistral-7b-instruct-v0%3A2/invoke",
            BEARER,
            &json!({"prompt": PROMPT, "max_tokens": 2}),
        ));
        assert_eq!(reply["outputs"][0]["text"], " Sweet treats");
        let titan = json!({"inputText": PROMPT, "textGenerationConfig": {"maxTokenCount": 2}});
        let (_, reply) = whole(ask(
            "/model/amazon.titan-text-lite-v1/invoke",
            BEARER,
            &titan,
        ));
        assert_eq!(reply["results"][0]["completionReason"], "LENGTH");
        let (status, error) = whole(ask("/model/m/converse", ("x-nothing", ""), &converse));
        assert_eq!(
            (status, &error["message"]),
            (403, &json!("Missing Authentication Token"))
        );
        for (operation, body) in [
            ("converse-stream", &converse),
            ("invoke-with-response-stream", &prompted),
        ] {
            let path = format!("/model/meta.llama3-8b-instruct-v1%3A0/{operation}");
            let Reply::Framed(framed) = ask(&path, BEARER, body) else {
                panic!("no messages")
            };
            assert_eq!(framed.media, "application/vnd.amazon.eventstream");
            assert!(framed.frames.len() > 2 && framed.finish < framed.done);
        }
    }

    #[test]
    fn a_message_that_is_begun_is_gone_on_with_as_its_vendor_documents() {
        let begun = |mark: Value| {
            let mut last = json!({"role": "assistant", "content": PROMPT});
            last.as_object_mut()
                .unwrap()
                .extend(mark.as_object().unwrap().clone());
            json!([{"role": "user", "content": "x"}, last])
        };
        let rest = " Sweet treats for every occasion!";
        let chat = |model: &str, mark: Value, more: Value| {
            let mut body = json!({"model": model, "messages": begun(mark)});
            body.as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            let (status, reply) = whole(ask("/v1/chat/completions", BEARER, &body));
            (status, reply["choices"][0]["message"]["content"].clone())
        };
        assert_eq!(chat("m", json!({}), json!({})), (200, json!(rest)));
        let again = json!(format!("{PROMPT}{rest}"));
        let prefix = json!({"prefix": true});
        assert_eq!(chat("mistral-small", prefix, json!({})), (200, again));
        assert_eq!(chat("mistral-small", json!({}), json!({})).0, 400);
        let both = json!({"continue_final_message": true});
        assert_eq!(chat("m", json!({}), both).0, 400);
        let claude = |model: &str| {
            let body = json!({"model": model, "max_tokens": 9, "messages": begun(json!({}))});
            whole(ask("/v1/messages", ("x-api-key", "k"), &body))
        };
        assert_eq!(claude("claude-sonnet-4-5").1["content"][0]["text"], rest);
        let (status, error) = claude("claude-opus-4-6");
        assert_eq!(
            (status, &error["error"]["type"]),
            (400, &json!("invalid_request_error"))
        );
        let path = "/model/anthropic.claude-3-5-haiku-20241022-v1%3A0/converse";
        let last = json!({"role": "assistant", "content": [{"text": PROMPT}]});
        let first = json!({"role": "user", "content": [{"text": "x"}]});
        let (_, reply) = whole(ask(path, BEARER, &json!({"messages": [first, last]})));
        assert_eq!(reply["output"]["message"]["content"][0]["text"], rest);
        let (status, _) = whole(ask(path, BEARER, &json!({"messages": [last]})));
        assert_eq!(status, 400);
    }

    #[test]
    fn sagemaker_wants_a_signature_and_speaks_for_its_container() {
        let key = (
            "authorization",
            "AWS4-HMAC-SHA256 Credential=A/20260101/us-east-1/sagemaker/aws4_request, SignedHeaders=host, Signature=a",
        );
        let dated = |path: &str, key: (&'static str, &str), body: &Value| {
            let mut headers = HeaderMap::new();
            headers.insert(key.0, key.1.parse().unwrap());
            headers.insert("x-amz-date", "20260101T000000Z".parse().unwrap());
            answer(&Ask {
                method: &Method::POST,
                path: path.to_owned(),
                query: "",
                headers: &headers,
                body: body.to_string().as_bytes(),
                knobs: Knobs::default(),
                now: 7,
            })
        };
        let path = "/endpoints/demo/invocations";
        let inputs = |more: &str| {
            let parameters: Value = serde_json::from_str(more).unwrap();
            json!({"inputs": PROMPT, "parameters": parameters, "stream": false})
        };
        let (_, reply) = whole(dated(path, key, &inputs(r#"{"max_new_tokens":2}"#)));
        assert_eq!(reply[0]["generated_text"], format!("{PROMPT} Sweet treats"));
        let text = json!({"model": "m", "prompt": PROMPT});
        let (_, reply) = whole(dated(path, key, &text));
        assert_eq!(reply["usage"]["completion_tokens"], 5);
        let (status, reply) = whole(dated(path, key, &inputs(r#"{"top_p":1}"#)));
        assert_eq!((status, &reply["OriginalStatusCode"]), (424, &json!(422)));
        let (status, reply) = whole(dated("/endpoints/missing/invocations", key, &text));
        assert!(status == 400 && reply["Message"].is_string());
        assert_eq!(whole(dated(path, BEARER, &text)).0, 403);
        let streamed = json!({"model": "m", "prompt": PROMPT, "stream": true});
        assert_eq!(whole(dated(path, key, &streamed)).0, 400);
        let Reply::Framed(framed) = dated(&format!("{path}-response-stream"), key, &streamed)
        else {
            panic!("no messages")
        };
        // The first part ends inside the first event.
        assert!(!framed.frames[0].windows(2).any(|two| two == b"\n\n"));
        assert!(framed.finish < framed.done && framed.done < framed.frames.len());
    }

    #[test]
    fn every_vendor_refuses_in_its_own_form() {
        let nobody = ("x-nothing", "");
        let (status, openai) = whole(ask("/v1/completions", nobody, &json!({})));
        assert_eq!(
            (status, &openai["error"]["code"]),
            (401, &json!("invalid_api_key"))
        );
        let (status, claude) = whole(ask("/v1/messages", nobody, &json!({})));
        assert_eq!(
            (status, &claude["error"]["type"]),
            (401, &json!("authentication_error"))
        );
        let (status, cohere) = whole(ask("/v2/chat", nobody, &json!({})));
        assert_eq!(
            (status, &cohere["message"]),
            (401, &json!("no api key supplied"))
        );
        let hot = json!({"inputs": "x", "parameters": {"top_p": 1}});
        let (status, tgi) = whole(ask("/generate", BEARER, &hot));
        assert_eq!((status, &tgi["error_type"]), (422, &json!("validation")));
        let (status, triton) = whole(ask("/v2/models/m/generate", nobody, &json!({})));
        assert!(status == 400 && triton["error"].is_string(), "{triton}");
        let path = "/ml/v1/text/generation?version=2025-02-11";
        let (status, watsonx) = whole(ask(path, BEARER, &json!({"model_id": "m", "input": "x"})));
        assert_eq!((status, &watsonx["status_code"]), (400, &json!(400)));
        let (status, replicate) = whole(ask("/v1/models/a/b/predictions", nobody, &json!({})));
        assert_eq!((status, &replicate["status"]), (401, &json!(401)));
        let (status, gemini) = whole(ask("/v1beta/models/g:generateContent", nobody, &json!({})));
        assert_eq!(
            (status, &gemini["error"]["status"]),
            (403, &json!("PERMISSION_DENIED"))
        );
        let (status, claude) = whole(ask(
            "/v1/messages",
            ("x-api-key", "k"),
            &json!({"model": "m", "messages": []}),
        ));
        assert_eq!(
            (status, &claude["error"]["type"]),
            (400, &json!("invalid_request_error"))
        );
    }

    #[test]
    fn vertex_speaks_for_its_publishers() {
        let base = "/v1/projects/p/locations/us-east5";
        let messages = json!([{"role": "user", "content": PROMPT}]);
        let claude = format!("{base}/publishers/anthropic/models/c:rawPredict");
        let body = json!({"anthropic_version": "vertex-2023-10-16", "max_tokens": 9, "messages": messages});
        let (status, reply) = whole(ask(&claude, BEARER, &body));
        let said = "Sweet treats for every occasion!";
        assert_eq!((status, &reply["content"][0]["text"]), (200, &json!(said)));
        let named = json!({"model": "c", "max_tokens": 9, "messages": messages});
        assert_eq!(whole(ask(&claude, BEARER, &named)).0, 400);
        let (status, reply) = whole(ask(&claude, ("x-api-key", "k"), &body));
        assert_eq!(
            (status, &reply["error"]["status"]),
            (401, &json!("UNAUTHENTICATED"))
        );
        for path in [
            "/publishers/mistralai/models/m:rawPredict",
            "/endpoints/openapi/chat/completions",
            "/endpoints/7/chat/completions",
        ] {
            let body = json!({"model": "m", "messages": messages});
            let (_, reply) = whole(ask(&format!("{base}{path}"), BEARER, &body));
            assert_eq!(reply["choices"][0]["message"]["content"], said, "{path}");
        }
        let gemini = format!("{base}/publishers/google/models/g:generateContent");
        let body = json!({"contents": [{"parts": [{"text": PROMPT}]}]});
        let (_, reply) = whole(ask(&gemini, BEARER, &body));
        assert_eq!(reply["candidates"][0]["content"]["parts"][0]["text"], said);
        let (status, _) = whole(ask(&gemini.replace("google", "other"), BEARER, &body));
        assert_eq!(status, 404);
    }

    #[test]
    fn oci_wants_a_signature_and_speaks_both_formats() {
        let key = (
            "authorization",
            r#"Signature version="1",keyId="t/u/f",algorithm="rsa-sha256",headers="date host",signature="a""#,
        );
        let path = "/20231130/actions/chat";
        let body = |model: &str, chat: Value| json!({"compartmentId": "ocid1.compartment.oc1..a", "servingMode": {"servingType": "ON_DEMAND", "modelId": model}, "chatRequest": chat});
        let generic = json!({"apiFormat": "GENERIC", "messages": [{"role": "USER", "content": [{"type": "TEXT", "text": PROMPT}]}]});
        let generic = body("meta.llama-3.3-70b-instruct", generic);
        let (_, reply) = whole(ask(path, key, &generic));
        let said = json!("Sweet treats for every occasion!");
        let choice = &reply["chatResponse"]["choices"][0];
        assert_eq!(choice["message"]["content"][0]["text"], said);
        assert_eq!(reply["chatResponse"]["usage"]["completionTokens"], 5);
        let cohere = json!({"apiFormat": "COHERE", "message": PROMPT, "maxTokens": 2});
        let (_, reply) = whole(ask(path, key, &body("cohere.command-a", cohere)));
        assert_eq!(reply["chatResponse"]["finishReason"], "MAX_TOKENS");
        let (status, reply) = whole(ask(path, BEARER, &generic));
        assert_eq!((status, &reply["code"]), (401, &json!("NotAuthenticated")));
        let unknown = json!({"apiFormat": "COHERE", "message": PROMPT, "user": "u"});
        assert_eq!(whole(ask(path, key, &body("cohere.c", unknown))).0, 400);
    }

    #[test]
    fn workers_ai_continues_a_raw_prompt() {
        let path = "/client/v4/accounts/a/ai/run/@cf/meta/llama-3.1-8b-instruct";
        let body = |raw: bool| json!({"prompt": PROMPT, "raw": raw, "max_tokens": 2});
        let (_, reply) = whole(ask(path, BEARER, &body(true)));
        assert_eq!(reply["result"]["response"], " Sweet treats");
        assert_eq!(reply["result"]["usage"]["completion_tokens"], 2);
        let (_, reply) = whole(ask(path, BEARER, &body(false)));
        assert_eq!(reply["result"]["response"], "Sweet treats");
        let (status, reply) = whole(ask(path, ("x-nothing", ""), &body(true)));
        assert_eq!((status, &reply["errors"][0]["code"]), (401, &json!(10000)));
        let unknown = json!({"prompt": PROMPT, "stop": ["x"]});
        assert_eq!(whole(ask(path, BEARER, &unknown)).0, 400);
    }

    #[test]
    fn fim_fills_the_middle_in_the_form_of_chat() {
        let path = "/v1/fim/completions";
        let fill =
            |suffix: &str| json!({"model": "codestral-2501", "prompt": PROMPT, "suffix": suffix});
        let text = |suffix: &str| {
            let (_, reply) = whole(ask(path, BEARER, &fill(suffix)));
            reply["choices"][0]["message"]["content"].clone()
        };
        assert_eq!(text(""), " Sweet treats for every occasion!");
        assert_ne!(text("x"), text("y"));
        let unknown = json!({"model": "codestral-2501", "prompt": PROMPT, "n": 1});
        assert_eq!(whole(ask(path, BEARER, &unknown)).0, 422);
        let (status, reply) = whole(ask(path, BEARER, &json!({"model": "m", "prompt": "x"})));
        assert_eq!((status, &reply["object"]), (400, &json!("error")));
        assert_eq!(whole(ask(path, ("x-nothing", ""), &fill(""))).0, 401);
    }

    #[test]
    fn knobs_come_in_the_path_and_in_the_key() {
        let body = json!({"model": "m", "prompt": "x", "max_tokens": 99});
        let (_, long) = whole(ask("/~tokens=40/v1/completions", BEARER, &body));
        assert_eq!(long["usage"]["completion_tokens"], 40);
        let key = ("authorization", "Bearer sk-emulator?fault=status-429");
        assert_eq!(whole(ask("/v1/completions", key, &body)).0, 429);
    }

    #[test]
    fn lists_echo_stops_and_probabilities_are_answered() {
        let body = json!({"model": "m", "prompt": ["one", "two"], "n": 2, "echo": true, "logprobs": 1, "max_tokens": 3});
        let (_, reply) = whole(ask("/v1/completions", BEARER, &body));
        let choices = reply["choices"].as_array().unwrap();
        assert_eq!(choices.len(), 4);
        assert!(choices[3]["text"].as_str().unwrap().starts_with("two"));
        assert_eq!(choices[3]["index"], 3);
        assert_eq!(choices[0]["finish_reason"], "length");
        let offsets = &choices[0]["logprobs"]["text_offset"];
        assert_eq!(
            offsets.as_array().unwrap().len(),
            choices[0]["logprobs"]["tokens"].as_array().unwrap().len()
        );
        let messages = json!([{"role": "user", "content": PROMPT}]);
        let body = json!({"model": "m", "messages": messages, "max_tokens": 2, "logprobs": true, "top_logprobs": 2});
        let (_, chat) = whole(ask("/v1/chat/completions", BEARER, &body));
        let content = &chat["choices"][0]["logprobs"]["content"];
        assert_eq!(content[0]["token"], "Sweet");
        let others = content[1]["top_logprobs"].as_array().unwrap();
        assert_eq!((others.len(), &others[0]["token"]), (2, &" treats".into()));
        assert_eq!(others[0]["logprob"], content[1]["logprob"]);
        let alone = json!({"model": "m", "messages": messages, "top_logprobs": 2});
        let (status, refused) = whole(ask("/v1/chat/completions", BEARER, &alone));
        assert_eq!(
            (status, &refused["error"]["param"]),
            (400, &"logprobs".into())
        );
        let stop = json!({"model": "m", "prompt": PROMPT, "stop": [" every"]});
        let (_, reply) = whole(ask("/v1/completions", BEARER, &stop));
        assert_eq!(reply["choices"][0]["text"], " Sweet treats for");
    }
}
