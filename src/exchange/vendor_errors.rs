//! Every error that a vendor documents, as `tests/fixtures/<dialect>/errors/` holds it, and what a client is told of it.
//!
//! A fixture's name says where it stands and which status it means: `429.json` is the body of an answer of that status,
//! `whole-503.json` stands in a 200, `stream-529.sse` between the events of a stream. Each is fed whole, byte by byte and
//! at every two-way cut.

use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;

use crate::{
    completion::{Compliance, Partial},
    dialect::{
        Dialect, anthropic, bedrock, bedrock_invoke, chat, cohere, fim, gemini, mistral, oci,
        ollama, openai, replicate, sagemaker, tgi, triton, vertex, watsonx, workers_ai,
    },
    exchange::relay::{Answer, Counts, Relay, Wishes},
    wire::Framing,
};

struct Told {
    dialect: &'static dyn Dialect,
    /// A stream of the same dialect.
    stream: &'static [u8],
    name: &'static str,
    body: &'static [u8],
    api_type: &'static str,
    /// Empty: null.
    code: &'static str,
    message: &'static str,
}

macro_rules! told {
    ($($dialect:path, $stream:literal: [$($name:literal => $api_type:literal, $code:literal, $message:literal;)*])*) => {
        &[$($(Told {
            dialect: &$dialect,
            stream: include_bytes!(concat!("../../tests/fixtures/", $stream)),
            name: $name,
            body: include_bytes!(concat!("../../tests/fixtures/", $name)),
            api_type: $api_type,
            code: $code,
            message: $message,
        },)*)*]
    };
}

const WISHES: Wishes = Wishes {
    compliance: Compliance::Loose,
    counts: Counts::Final,
    choices: 1,
    max_event_bytes: 1 << 20,
};

/// Where an error stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The body of an answer of its own status.
    Answer,
    /// In place of a whole reply.
    Whole,
    /// Between the events of a stream.
    Stream,
}

impl Told {
    fn file(&self) -> &str {
        self.name.rsplit('/').next().unwrap()
    }

    fn place(&self) -> Place {
        match self.file().split_once('-') {
            Some(("whole", _)) => Place::Whole,
            Some(("stream", _)) => Place::Stream,
            _ => Place::Answer,
        }
    }

    fn status(&self) -> StatusCode {
        let digits = self
            .file()
            .trim_start_matches(|c: char| !c.is_ascii_digit());
        StatusCode::from_bytes(&digits.as_bytes()[..3]).unwrap()
    }

    /// The status of the answer that holds it: SageMaker tells every error of a model's container with this one.
    fn answered(&self) -> StatusCode {
        if self.file().contains("-model") {
            StatusCode::FAILED_DEPENDENCY
        } else {
            self.status()
        }
    }

    /// What a client gets for `pieces`: the bytes of a stream, and the error that is told.
    fn feed<'p>(
        &self,
        answer: Answer,
        pieces: impl IntoIterator<Item = &'p [u8]>,
    ) -> (String, Option<crate::Error>) {
        let mut relay = Relay::new(self.dialect, Partial::default(), WISHES, answer);
        let mut out = Vec::new();
        for piece in pieces {
            out.extend(relay.push(Bytes::copy_from_slice(piece)));
        }
        match relay.finish() {
            Ok(rest) => out.extend(rest),
            Err(error) => {
                assert_eq!(relay.failure().unwrap().body(), error.body());
                assert!(out.is_empty());
            }
        }
        (String::from_utf8(out).unwrap(), relay.failure().cloned())
    }

    /// Feeds `body` in every way, and checks that each tells this error; `out` is what a client has of it.
    fn hold(&self, answer: Answer, body: &[u8], out: &str) {
        let cuts = (0..=body.len()).map(|at| vec![&body[..at], &body[at..]]);
        for pieces in cuts.chain([vec![body], body.chunks(1).collect()]) {
            let (told, error) = self.feed(answer, pieces);
            let error = error.unwrap_or_else(|| panic!("{}: {told}", self.name));
            self.check(&error);
            assert!(!told.contains("[DONE]"), "{}: {told}", self.name);
            if !told.is_empty() {
                let event = String::from_utf8(error.event()).unwrap();
                assert_eq!(told, [out, &event].concat(), "{}", self.name);
            }
        }
    }

    fn check(&self, error: &crate::Error) {
        let body: Value = serde_json::from_slice(&error.body()).unwrap();
        let told = &body["error"];
        assert_eq!(error.status(), self.status(), "{}: {told}", self.name);
        assert_eq!(told["message"], self.message, "{}", self.name);
        assert_eq!(told["type"], self.api_type, "{}", self.name);
        let code = told["code"].as_str().unwrap_or_default();
        assert_eq!(code, self.code, "{}", self.name);
    }

    /// A stream's frames up to the first that says something, and the rest of it.
    fn begun(&self) -> (&'static [u8], &'static [u8]) {
        let ends: Vec<usize> = match self.dialect.framing() {
            Framing::EventStream | Framing::PayloadParts => message_ends(self.stream),
            Framing::JsonLines => ends_of(self.stream, b"\n"),
            Framing::Sse => [
                ends_of(self.stream, b"\n\n"),
                ends_of(self.stream, b"\r\n\r\n"),
            ]
            .concat(),
        };
        let says = |end: &usize| {
            let mut relay = Relay::new(self.dialect, Partial::default(), WISHES, Answer::Stream);
            let out = relay.push(Bytes::from_static(&self.stream[..*end]));
            out.windows(6).any(|six| six == b"\"text\"")
        };
        let first = ends.into_iter().find(says).unwrap();
        self.stream.split_at(first)
    }
}

fn ends_of(stream: &[u8], blank: &[u8]) -> Vec<usize> {
    memchr::memmem::find_iter(stream, blank)
        .map(|at| at + blank.len())
        .collect()
}

/// Where each message of an event stream ends: its first four bytes are its length.
fn message_ends(stream: &[u8]) -> Vec<usize> {
    let mut ends = vec![];
    let mut at = 0;
    while let Some(length) = stream[at..].first_chunk() {
        at += u32::from_be_bytes(*length) as usize;
        ends.push(at);
    }
    ends
}

fn standing(place: Place) -> impl Iterator<Item = &'static Told> {
    ERRORS.iter().filter(move |told| told.place() == place)
}

#[test]
fn an_error_answer_keeps_its_status_its_type_its_code_and_its_sentence() {
    for told in standing(Place::Answer) {
        told.hold(Answer::Error(told.answered()), told.body, "");
    }
}

#[test]
fn an_error_answer_that_is_cut_keeps_its_status() {
    for told in standing(Place::Answer) {
        for at in 0..told.body.len() {
            let (_, error) = told.feed(Answer::Error(told.answered()), [&told.body[..at]]);
            let error = error.unwrap();
            assert_eq!(error.status(), told.answered(), "{} at {at}", told.name);
            assert!(!error.message().is_empty());
        }
    }
}

#[test]
fn an_error_inside_a_200_is_told_with_the_status_it_stands_for() {
    for told in standing(Place::Whole) {
        told.hold(Answer::Whole, told.body, "");
        told.hold(Answer::WholeAsStream, told.body, "");
    }
}

#[test]
fn an_error_within_a_stream_ends_it_with_the_status_it_stands_for() {
    for told in standing(Place::Stream) {
        let (begun, rest) = told.begun();
        let stream = [begun, told.body, rest].concat();
        let mut relay = Relay::new(told.dialect, Partial::default(), WISHES, Answer::Stream);
        let out = relay.push(Bytes::from_static(begun)).to_vec();
        assert!(relay.failure().is_none(), "{}", told.name);
        told.hold(Answer::Stream, &stream, std::str::from_utf8(&out).unwrap());
    }
}

#[test]
fn an_error_that_a_stream_begins_with_comes_before_any_output() {
    for told in standing(Place::Stream) {
        told.hold(Answer::Stream, told.body, "");
    }
}

#[test]
fn every_fixture_of_an_error_is_in_the_table() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    let list = |path: &std::path::Path| -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(path).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let mut count = 0;
    for file in list(folder.as_ref())
        .iter()
        .flat_map(|dialect| list(&dialect.join("errors")))
    {
        let name = file.strip_prefix(folder).unwrap().to_str().unwrap();
        assert!(ERRORS.iter().any(|told| told.name == name), "{name}");
        count += 1;
    }
    assert!(count > 150, "{count}");
}

#[rustfmt::skip] // A table: one error a line.
const ERRORS: &[Told] = told!(
    openai::OPENAI, "openai/text.sse": [
        "openai/errors/401.json" => "invalid_request_error", "invalid_api_key", "Incorrect API key provided: demo. You can find your API key at https://platform.openai.com/account/api-keys.";
        "openai/errors/403.json" => "request_forbidden", "unsupported_country_region_territory", "Country, region, or territory not supported";
        "openai/errors/429.json" => "requests", "rate_limit_exceeded", "Rate limit reached for gpt-3.5-turbo-instruct on requests per min (RPM): Limit 3, Used 3, Requested 1. Please try again in 20s.";
        "openai/errors/429-quota.json" => "insufficient_quota", "insufficient_quota", "You exceeded your current quota, please check your plan and billing details.";
        "openai/errors/500.json" => "server_error", "", "The server had an error while processing your request. Sorry about that!";
        "openai/errors/503.json" => "service_unavailable_error", "server_is_overloaded", "The engine is currently overloaded, please try again later";
        "openai/errors/400-azure.json" => "invalid_request_error", "content_filter", "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. Please modify your prompt and retry. To learn more about our content filtering policies please read our documentation: https://go.microsoft.com/fwlink/?linkid=2198766";
        "openai/errors/401-azure.json" => "authentication_error", "401", "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an active subscription and use a correct regional API endpoint for your resource.";
        "openai/errors/429-azure.json" => "rate_limit_error", "429", "Requests to the Completions_Create Operation under Azure OpenAI API version 2024-10-21 have exceeded call rate limit of your current OpenAI S0 pricing tier. Please retry after 9 seconds.";
        "openai/errors/503-llama-cpp.json" => "unavailable_error", "503", "Loading model";
        "openai/errors/400-vllm.json" => "BadRequestError", "400", "This model's maximum context length is 2048 tokens. However, you requested 4012 tokens.";
        "openai/errors/401-vllm.json" => "authentication_error", "", "Unauthorized";
        "openai/errors/stream-500.sse" => "server_error", "", "The server had an error while processing your request. Sorry about that!";
        "openai/errors/stream-429.sse" => "requests", "rate_limit_exceeded", "Rate limit reached for requests";
        "openai/errors/stream-500-vllm.sse" => "InternalServerError", "500", "EngineCore encountered an issue. See stack trace (above) for the root cause.";
        "openai/errors/stream-400-vllm.sse" => "BadRequestError", "400", "This model's maximum context length is 2048 tokens.";
        "openai/errors/stream-422-tgi.sse" => "invalid_request_error", "", "Input validation error: `inputs` must have less than 1024 tokens.";
        "openai/errors/stream-503-abort.sse" => "server_error", "abort", "The provider's generation ended with the reason `abort`.";
        "openai/errors/stream-400-azure.sse" => "invalid_request_error", "content_filter", "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. Please modify your prompt and retry. To learn more about our content filtering policies please read our documentation: https://go.microsoft.com/fwlink/?linkid=2198766";
        "openai/errors/whole-503.json" => "server_error", "503", "busy";
    ]
    chat::CHAT, "chat/text.sse": [
        "chat/errors/401.json" => "invalid_request_error", "invalid_api_key", "Invalid API Key";
        "chat/errors/402-deepseek.json" => "unknown_error", "invalid_request_error", "Insufficient Balance";
        "chat/errors/403-openrouter.json" => "permission_error", "403", "openai/gpt-4o requires moderation on OpenAI. Your input was flagged for \"violence\". No credits were charged.";
        "chat/errors/429.json" => "tokens", "rate_limit_exceeded", "Rate limit reached for model `llama-3.1-8b-instant` on tokens per minute (TPM): Limit 6000, Used 5990, Requested 300. Please try again in 2.9s.";
        "chat/errors/429-moonshot.json" => "engine_overloaded_error", "", "The engine is currently overloaded, please try again later";
        "chat/errors/400-zhipu.json" => "invalid_request_error", "1301", "系统检测到输入或生成内容可能包含不安全或敏感内容，请您避免输入易产生敏感内容的提示语，感谢您的配合。";
        "chat/errors/429-zhipu.json" => "rate_limit_error", "1302", "您的账户已达到速率限制，请您控制请求频率";
        "chat/errors/400-azure.json" => "invalid_request_error", "content_filter", "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. Please modify your prompt and retry. To learn more about our content filtering policies please read our documentation: https://go.microsoft.com/fwlink/?linkid=2198766";
        "chat/errors/498-groq.json" => "invalid_request_error", "capacity_exceeded", "Flex tier capacity exceeded";
        "chat/errors/503.json" => "service_unavailable", "", "Service temporarily unavailable. Please try again later.";
        "chat/errors/stream-502-openrouter.sse" => "server_error", "502", "Provider returned error";
        "chat/errors/stream-503-groq.sse" => "internal_server_error", "over_capacity", "Over capacity, please try again later.";
        "chat/errors/stream-429.sse" => "rate_limit_error", "", "Rate limit reached";
        "chat/errors/stream-500-vllm.sse" => "InternalServerError", "500", "Internal server error";
        "chat/errors/stream-503-deepseek.sse" => "server_error", "insufficient_system_resource", "The provider's generation ended with the reason `insufficient_system_resource`.";
        "chat/errors/stream-502-zhipu.sse" => "server_error", "network_error", "The provider's generation ended with the reason `network_error`.";
        "chat/errors/stream-504-trtllm.sse" => "timeout_error", "timeout", "The provider's generation ended with the reason `timeout`.";
        "chat/errors/whole-502-openrouter.json" => "server_error", "502", "Provider returned error";
        "chat/errors/whole-503-deepseek.json" => "server_error", "insufficient_system_resource", "The provider's generation ended with the reason `insufficient_system_resource`.";
    ]
    mistral::MISTRAL, "chat/mistral.sse": [
        "mistral/errors/401.json" => "authentication_error", "", "Unauthorized";
        "mistral/errors/401-gateway.json" => "authentication_error", "", "Unauthorized";
        "mistral/errors/403.json" => "forbidden", "1910", "This model is not available on your plan.";
        "mistral/errors/422.json" => "invalid_request_error", "", "body.best_of: Extra inputs are not permitted";
        "mistral/errors/429.json" => "rate_limited", "1300", "Rate limit exceeded";
        "mistral/errors/503.json" => "service_tier_capacity_exceeded", "3505", "Service tier capacity exceeded for this model.";
        "mistral/errors/stream-429.sse" => "rate_limited", "1300", "Rate limit exceeded";
        "mistral/errors/stream-502.sse" => "server_error", "error", "The provider's generation ended with the reason `error`.";
        "mistral/errors/whole-502.json" => "server_error", "error", "The provider's generation ended with the reason `error`.";
    ]
    fim::FIM, "fim/text.sse": [
        "fim/errors/401.json" => "authentication_error", "", "Unauthorized";
        "fim/errors/401-gateway.json" => "authentication_error", "", "Unauthorized";
        "fim/errors/403.json" => "forbidden", "1910", "This model is not available on your plan.";
        "fim/errors/422.json" => "invalid_request_error", "", "body.best_of: Extra inputs are not permitted";
        "fim/errors/429.json" => "rate_limited", "1300", "Rate limit exceeded";
        "fim/errors/503.json" => "service_tier_capacity_exceeded", "3505", "Service tier capacity exceeded for this model.";
        "fim/errors/stream-429.sse" => "rate_limited", "1300", "Rate limit exceeded";
        "fim/errors/stream-502.sse" => "server_error", "error", "The provider's generation ended with the reason `error`.";
        "fim/errors/whole-502.json" => "server_error", "error", "The provider's generation ended with the reason `error`.";
    ]
    anthropic::ANTHROPIC, "anthropic/text.sse": [
        "anthropic/errors/400-filter.json" => "invalid_request_error", "", "Output blocked by content filtering policy";
        "anthropic/errors/401.json" => "authentication_error", "", "invalid x-api-key";
        "anthropic/errors/402.json" => "billing_error", "", "Your credit balance is too low to access the Anthropic API.";
        "anthropic/errors/403.json" => "permission_error", "", "Your API key does not have permission to use the specified resource.";
        "anthropic/errors/409.json" => "conflict_error", "", "The request conflicts with another one.";
        "anthropic/errors/413.json" => "request_too_large", "", "Request exceeds the maximum allowed number of bytes.";
        "anthropic/errors/429.json" => "rate_limit_error", "", "This request would exceed your organization's rate limit of 50,000 input tokens per minute.";
        "anthropic/errors/500.json" => "api_error", "", "Internal server error";
        "anthropic/errors/504.json" => "timeout_error", "", "The request timed out.";
        "anthropic/errors/529.json" => "overloaded_error", "", "Overloaded";
        "anthropic/errors/stream-429.sse" => "rate_limit_error", "", "Rate limited";
        "anthropic/errors/stream-500.sse" => "api_error", "", "Internal server error";
        "anthropic/errors/stream-529.sse" => "overloaded_error", "", "Overloaded";
        "anthropic/errors/stream-504.sse" => "timeout_error", "", "The request timed out.";
        "anthropic/errors/whole-529.json" => "overloaded_error", "", "Overloaded";
    ]
    gemini::GEMINI, "gemini/text.sse": [
        "gemini/errors/400-key.json" => "INVALID_ARGUMENT", "", "API key not valid. Please pass a valid API key.";
        "gemini/errors/403.json" => "PERMISSION_DENIED", "", "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or other form of API consumer identity to call this API.";
        "gemini/errors/429.json" => "RESOURCE_EXHAUSTED", "", "You exceeded your current quota, please check your plan and billing details.\nPlease retry in 37.8s.";
        "gemini/errors/500.json" => "INTERNAL", "", "An internal error has occurred. Please retry or report in https://developers.generativeai.google/guide/troubleshooting";
        "gemini/errors/503.json" => "UNAVAILABLE", "", "The model is overloaded. Please try again later.";
        "gemini/errors/503-list.json" => "UNAVAILABLE", "", "The model is overloaded. Please try again later.";
        "gemini/errors/504.json" => "DEADLINE_EXCEEDED", "", "The service was unable to finish processing within the deadline.";
        "gemini/errors/stream-503.sse" => "UNAVAILABLE", "", "The model is overloaded. Please try again later.";
        "gemini/errors/stream-503-list.sse" => "UNAVAILABLE", "", "The model is overloaded. Please try again later.";
        "gemini/errors/stream-429-bare.sse" => "RESOURCE_EXHAUSTED", "", "Resource has been exhausted (e.g. check quota).";
        "gemini/errors/whole-503.json" => "UNAVAILABLE", "", "The model is overloaded. Please try again later.";
    ]
    vertex::VERTEX, "vertex/gemini.sse": [
        "vertex/errors/401.json" => "UNAUTHENTICATED", "", "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential.";
        "vertex/errors/403.json" => "PERMISSION_DENIED", "", "Permission 'aiplatform.endpoints.predict' denied on resource '//aiplatform.googleapis.com/projects/p/locations/l' (or it may not exist).";
        "vertex/errors/429.json" => "RESOURCE_EXHAUSTED", "", "Resource exhausted. Please try again later. Please refer to https://cloud.google.com/vertex-ai/generative-ai/docs/error-code-429 for more details.";
        "vertex/errors/503.json" => "UNAVAILABLE", "", "The service is currently unavailable.";
        "vertex/errors/stream-503.sse" => "UNAVAILABLE", "", "The service is currently unavailable.";
        "vertex/errors/stream-429-list.sse" => "RESOURCE_EXHAUSTED", "", "Resource exhausted.";
        "vertex/errors/whole-503.json" => "UNAVAILABLE", "", "The service is currently unavailable.";
    ]
    vertex::VERTEX_ANTHROPIC, "vertex/anthropic.sse": [
        "vertex/errors/401.json" => "UNAUTHENTICATED", "", "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential.";
        "vertex/errors/403.json" => "PERMISSION_DENIED", "", "Permission 'aiplatform.endpoints.predict' denied on resource '//aiplatform.googleapis.com/projects/p/locations/l' (or it may not exist).";
        "vertex/errors/429.json" => "RESOURCE_EXHAUSTED", "", "Resource exhausted. Please try again later. Please refer to https://cloud.google.com/vertex-ai/generative-ai/docs/error-code-429 for more details.";
        "vertex/errors/503.json" => "UNAVAILABLE", "", "The service is currently unavailable.";
        "vertex/errors/stream-503.sse" => "UNAVAILABLE", "", "The service is currently unavailable.";
        "vertex/errors/stream-429-list.sse" => "RESOURCE_EXHAUSTED", "", "Resource exhausted.";
        "vertex/errors/whole-503.json" => "UNAVAILABLE", "", "The service is currently unavailable.";
        "vertex/errors/529-anthropic.json" => "overloaded_error", "", "Overloaded";
        "vertex/errors/stream-529-anthropic.sse" => "overloaded_error", "", "Overloaded";
    ]
    vertex::VERTEX_MISTRAL, "vertex/mistral.sse": [
        "vertex/errors/401.json" => "UNAUTHENTICATED", "", "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential.";
        "vertex/errors/403.json" => "PERMISSION_DENIED", "", "Permission 'aiplatform.endpoints.predict' denied on resource '//aiplatform.googleapis.com/projects/p/locations/l' (or it may not exist).";
        "vertex/errors/429.json" => "RESOURCE_EXHAUSTED", "", "Resource exhausted. Please try again later. Please refer to https://cloud.google.com/vertex-ai/generative-ai/docs/error-code-429 for more details.";
        "vertex/errors/503.json" => "UNAVAILABLE", "", "The service is currently unavailable.";
        "vertex/errors/stream-503.sse" => "UNAVAILABLE", "", "The service is currently unavailable.";
        "vertex/errors/stream-429-list.sse" => "RESOURCE_EXHAUSTED", "", "Resource exhausted.";
        "vertex/errors/whole-503.json" => "UNAVAILABLE", "", "The service is currently unavailable.";
        "vertex/errors/429-mistral.json" => "rate_limited", "1300", "Rate limit exceeded";
    ]
    vertex::VERTEX_OPEN, "vertex/open.sse": [
        "vertex/errors/401.json" => "UNAUTHENTICATED", "", "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential.";
        "vertex/errors/403.json" => "PERMISSION_DENIED", "", "Permission 'aiplatform.endpoints.predict' denied on resource '//aiplatform.googleapis.com/projects/p/locations/l' (or it may not exist).";
        "vertex/errors/429.json" => "RESOURCE_EXHAUSTED", "", "Resource exhausted. Please try again later. Please refer to https://cloud.google.com/vertex-ai/generative-ai/docs/error-code-429 for more details.";
        "vertex/errors/503.json" => "UNAVAILABLE", "", "The service is currently unavailable.";
        "vertex/errors/stream-503.sse" => "UNAVAILABLE", "", "The service is currently unavailable.";
        "vertex/errors/stream-429-list.sse" => "RESOURCE_EXHAUSTED", "", "Resource exhausted.";
        "vertex/errors/whole-503.json" => "UNAVAILABLE", "", "The service is currently unavailable.";
        "vertex/errors/stream-500-open.sse" => "InternalServerError", "500", "Internal server error";
    ]
    vertex::VERTEX_ENDPOINT, "chat/text.sse": [
        "vertex/errors/401.json" => "UNAUTHENTICATED", "", "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential.";
        "vertex/errors/403.json" => "PERMISSION_DENIED", "", "Permission 'aiplatform.endpoints.predict' denied on resource '//aiplatform.googleapis.com/projects/p/locations/l' (or it may not exist).";
        "vertex/errors/429.json" => "RESOURCE_EXHAUSTED", "", "Resource exhausted. Please try again later. Please refer to https://cloud.google.com/vertex-ai/generative-ai/docs/error-code-429 for more details.";
        "vertex/errors/503.json" => "UNAVAILABLE", "", "The service is currently unavailable.";
        "vertex/errors/stream-503.sse" => "UNAVAILABLE", "", "The service is currently unavailable.";
        "vertex/errors/stream-429-list.sse" => "RESOURCE_EXHAUSTED", "", "Resource exhausted.";
        "vertex/errors/whole-503.json" => "UNAVAILABLE", "", "The service is currently unavailable.";
        "vertex/errors/stream-500-endpoint.sse" => "InternalServerError", "500", "Internal server error";
    ]
    cohere::COHERE, "cohere/text.sse": [
        "cohere/errors/401.json" => "authentication_error", "", "invalid api token";
        "cohere/errors/403.json" => "permission_error", "", "you are not allowed to use this model";
        "cohere/errors/429.json" => "rate_limit_error", "", "You are past the per minute request limit, please wait and try again later.";
        "cohere/errors/498.json" => "invalid_request_error", "", "your request was blocked because its token is not valid";
        "cohere/errors/499.json" => "invalid_request_error", "", "request cancelled";
        "cohere/errors/500.json" => "server_error", "", "internal server error, this has been reported to our developers. id 1b2c";
        "cohere/errors/503.json" => "server_error", "", "the service is temporarily unavailable";
        "cohere/errors/stream-500.sse" => "ERROR", "", "the model failed to answer";
        "cohere/errors/stream-504.sse" => "TIMEOUT", "", "The provider's generation took too long.";
        "cohere/errors/stream-502.sse" => "server_error", "", "internal server error";
        "cohere/errors/whole-500.json" => "ERROR", "", "The provider's generation failed.";
        "cohere/errors/whole-504.json" => "TIMEOUT", "", "The provider's generation took too long.";
    ]
    bedrock::BEDROCK, "bedrock/text.eventstream": [
        "bedrock/errors/403.json" => "permission_error", "", "You don't have access to the model with the specified model ID.";
        "bedrock/errors/403-key.json" => "permission_error", "", "API Key is not valid";
        "bedrock/errors/429.json" => "rate_limit_error", "", "Too many tokens, please wait before trying again.";
        "bedrock/errors/429-not-ready.json" => "ModelNotReadyException", "", "The model is not ready for inference.";
        "bedrock/errors/503.json" => "server_error", "", "Bedrock is unable to process your request.";
        "bedrock/errors/500.json" => "server_error", "", "The system encountered an unexpected error during processing. Try your request again.";
        "bedrock/errors/408.json" => "timeout_error", "", "The request took too long to process.";
        "bedrock/errors/424.json" => "invalid_request_error", "", "The request failed due to an error while processing the model.";
        "bedrock/errors/400.json" => "invalid_request_error", "", "The provided model identifier is invalid.";
        "bedrock/errors/stream-429.eventstream" => "throttlingException", "", "busy";
        "bedrock/errors/stream-500.eventstream" => "internalServerException", "", "busy";
        "bedrock/errors/stream-424.eventstream" => "modelStreamErrorException", "", "busy";
        "bedrock/errors/stream-400.eventstream" => "validationException", "", "busy";
        "bedrock/errors/stream-503.eventstream" => "serviceUnavailableException", "", "busy";
        "bedrock/errors/stream-502-error.eventstream" => "InternalError", "", "busy";
    ]
    bedrock_invoke::BEDROCK_INVOKE, "bedrock-invoke/llama.eventstream": [
        "bedrock-invoke/errors/403.json" => "permission_error", "", "You don't have access to the model with the specified model ID.";
        "bedrock-invoke/errors/403-key.json" => "permission_error", "", "API Key is not valid";
        "bedrock-invoke/errors/429.json" => "rate_limit_error", "", "Too many tokens, please wait before trying again.";
        "bedrock-invoke/errors/429-not-ready.json" => "ModelNotReadyException", "", "The model is not ready for inference.";
        "bedrock-invoke/errors/503.json" => "server_error", "", "Bedrock is unable to process your request.";
        "bedrock-invoke/errors/500.json" => "server_error", "", "The system encountered an unexpected error during processing. Try your request again.";
        "bedrock-invoke/errors/408.json" => "timeout_error", "", "The request took too long to process.";
        "bedrock-invoke/errors/424.json" => "invalid_request_error", "", "The request failed due to an error while processing the model.";
        "bedrock-invoke/errors/400.json" => "invalid_request_error", "", "The provided model identifier is invalid.";
        "bedrock-invoke/errors/stream-429.eventstream" => "throttlingException", "", "busy";
        "bedrock-invoke/errors/stream-500.eventstream" => "internalServerException", "", "busy";
        "bedrock-invoke/errors/stream-424.eventstream" => "modelStreamErrorException", "", "busy";
        "bedrock-invoke/errors/stream-400.eventstream" => "validationException", "", "busy";
        "bedrock-invoke/errors/stream-503.eventstream" => "serviceUnavailableException", "", "busy";
        "bedrock-invoke/errors/stream-408.eventstream" => "modelTimeoutException", "", "busy";
        "bedrock-invoke/errors/stream-502-error.eventstream" => "InternalError", "", "busy";
    ]
    ollama::OLLAMA, "ollama/text.ndjson": [
        "ollama/errors/401.json" => "authentication_error", "", "unauthorized";
        "ollama/errors/403.json" => "permission_error", "", "this model requires a subscription, upgrade for access: https://ollama.com/upgrade";
        "ollama/errors/404.json" => "not_found_error", "", "model 'llama3.2' not found";
        "ollama/errors/429.json" => "rate_limit_error", "", "you have reached your session usage limit, upgrade for higher limits: https://ollama.com/upgrade";
        "ollama/errors/500.json" => "server_error", "", "the model failed to generate a response";
        "ollama/errors/502.json" => "server_error", "", "cloud model cannot be reached";
        "ollama/errors/503.json" => "server_error", "", "server busy, please try again.  maximum pending requests exceeded";
        "ollama/errors/stream-502.ndjson" => "server_error", "", "an error was encountered while running the model";
        "ollama/errors/whole-502.json" => "server_error", "", "an error was encountered while running the model";
    ]
    tgi::TGI, "tgi/text.sse": [
        "tgi/errors/401.json" => "authentication_error", "", "Invalid username or password.";
        "tgi/errors/422.json" => "validation", "", "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. Given: 2000 `inputs` tokens and 100 `max_new_tokens`";
        "tgi/errors/424.json" => "generation", "", "Request failed during generation: Server error: out of memory";
        "tgi/errors/429.json" => "overloaded", "", "Model is overloaded";
        "tgi/errors/500.json" => "incomplete_generation", "", "Incomplete generation";
        "tgi/errors/503.json" => "server_error", "", "503 Service Unavailable";
        "tgi/errors/stream-424.sse" => "generation", "", "Request failed during generation: Server error: out of memory";
        "tgi/errors/stream-429.sse" => "overloaded", "", "Model is overloaded";
        "tgi/errors/stream-500.sse" => "incomplete_generation_stream", "", "Incomplete generation stream";
        "tgi/errors/whole-424.json" => "generation", "", "Request failed during generation: Server error: out of memory";
    ]
    sagemaker::SAGEMAKER, "sagemaker/flushed.eventstream": [
        "sagemaker/errors/400.json" => "invalid_request_error", "", "Endpoint demo of account 123456789012 not found.";
        "sagemaker/errors/403.json" => "permission_error", "", "User: arn:aws:iam::123456789012:user/demo is not authorized to perform: sagemaker:InvokeEndpoint on resource: arn:aws:sagemaker:us-east-1:123456789012:endpoint/demo because no identity-based policy allows the sagemaker:InvokeEndpoint action";
        "sagemaker/errors/429.json" => "rate_limit_error", "", "Either a serverless endpoint variant's resources are still being provisioned, or a multi-model endpoint is still downloading or loading the target model. Wait and try your request again.";
        "sagemaker/errors/500.json" => "server_error", "", "An internal failure occurred.";
        "sagemaker/errors/503.json" => "server_error", "", "The service is unavailable. Try your call again.";
        "sagemaker/errors/530.json" => "server_error", "", "Your request caused an exception with an internal dependency. Contact customer support.";
        "sagemaker/errors/424-model-silent.json" => "invalid_request_error", "", "Received server error (500) from primary with message \"Out of memory\". See https://us-east-1.console.aws.amazon.com/cloudwatch for more information.";
        "sagemaker/errors/422-model.json" => "validation", "", "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. Given: 2000 `inputs` tokens and 100 `max_new_tokens`";
        "sagemaker/errors/429-model.json" => "overloaded", "", "Model is overloaded";
        "sagemaker/errors/stream-424-model.eventstream" => "generation", "", "Request failed during generation: Server error: out of memory";
        "tgi/errors/whole-424.json" => "generation", "", "Request failed during generation: Server error: out of memory";
        "sagemaker/errors/stream-424.eventstream" => "ModelStreamError", "", "busy";
        "sagemaker/errors/stream-500.eventstream" => "InternalStreamFailure", "", "busy";
        "sagemaker/errors/stream-502-error.eventstream" => "InternalError", "", "busy";
    ]
    sagemaker::SAGEMAKER_OPENAI, "sagemaker/openai.eventstream": [
        "sagemaker/errors/400.json" => "invalid_request_error", "", "Endpoint demo of account 123456789012 not found.";
        "sagemaker/errors/403.json" => "permission_error", "", "User: arn:aws:iam::123456789012:user/demo is not authorized to perform: sagemaker:InvokeEndpoint on resource: arn:aws:sagemaker:us-east-1:123456789012:endpoint/demo because no identity-based policy allows the sagemaker:InvokeEndpoint action";
        "sagemaker/errors/429.json" => "rate_limit_error", "", "Either a serverless endpoint variant's resources are still being provisioned, or a multi-model endpoint is still downloading or loading the target model. Wait and try your request again.";
        "sagemaker/errors/500.json" => "server_error", "", "An internal failure occurred.";
        "sagemaker/errors/503.json" => "server_error", "", "The service is unavailable. Try your call again.";
        "sagemaker/errors/530.json" => "server_error", "", "Your request caused an exception with an internal dependency. Contact customer support.";
        "sagemaker/errors/424-model-silent.json" => "invalid_request_error", "", "Received server error (500) from primary with message \"Out of memory\". See https://us-east-1.console.aws.amazon.com/cloudwatch for more information.";
        "sagemaker/errors/400-model-vllm.json" => "BadRequestError", "400", "This model's maximum context length is 2048 tokens. However, you requested 4012 tokens.";
        "openai/errors/whole-503.json" => "server_error", "503", "busy";
        "sagemaker/errors/stream-424.eventstream" => "ModelStreamError", "", "busy";
        "sagemaker/errors/stream-500.eventstream" => "InternalStreamFailure", "", "busy";
        "sagemaker/errors/stream-502-error.eventstream" => "InternalError", "", "busy";
    ]
    sagemaker::SAGEMAKER_CHAT, "sagemaker/chat.eventstream": [
        "sagemaker/errors/400.json" => "invalid_request_error", "", "Endpoint demo of account 123456789012 not found.";
        "sagemaker/errors/403.json" => "permission_error", "", "User: arn:aws:iam::123456789012:user/demo is not authorized to perform: sagemaker:InvokeEndpoint on resource: arn:aws:sagemaker:us-east-1:123456789012:endpoint/demo because no identity-based policy allows the sagemaker:InvokeEndpoint action";
        "sagemaker/errors/429.json" => "rate_limit_error", "", "Either a serverless endpoint variant's resources are still being provisioned, or a multi-model endpoint is still downloading or loading the target model. Wait and try your request again.";
        "sagemaker/errors/500.json" => "server_error", "", "An internal failure occurred.";
        "sagemaker/errors/503.json" => "server_error", "", "The service is unavailable. Try your call again.";
        "sagemaker/errors/530.json" => "server_error", "", "Your request caused an exception with an internal dependency. Contact customer support.";
        "sagemaker/errors/424-model-silent.json" => "invalid_request_error", "", "Received server error (500) from primary with message \"Out of memory\". See https://us-east-1.console.aws.amazon.com/cloudwatch for more information.";
        "sagemaker/errors/400-model-vllm.json" => "BadRequestError", "400", "This model's maximum context length is 2048 tokens. However, you requested 4012 tokens.";
        "chat/errors/whole-503-deepseek.json" => "server_error", "insufficient_system_resource", "The provider's generation ended with the reason `insufficient_system_resource`.";
        "sagemaker/errors/stream-424.eventstream" => "ModelStreamError", "", "busy";
        "sagemaker/errors/stream-500.eventstream" => "InternalStreamFailure", "", "busy";
        "sagemaker/errors/stream-502-error.eventstream" => "InternalError", "", "busy";
    ]
    triton::TRITON, "triton/text.sse": [
        "triton/errors/400.json" => "invalid_request_error", "", "failed to parse the request JSON buffer: Invalid value. at 0";
        "triton/errors/404.json" => "not_found_error", "", "Request for unknown model: 'ensemble' is not found";
        "triton/errors/500.json" => "server_error", "", "failed to run the model: out of memory";
        "triton/errors/503.json" => "server_error", "", "Exceeds maximum queue size";
        "triton/errors/stream-502.sse" => "server_error", "", "Executor failed process requestId 1 due to the following error: out of memory";
        "triton/errors/whole-502.json" => "server_error", "", "Executor failed process requestId 1 due to the following error: out of memory";
    ]
    watsonx::WATSONX, "watsonx/text.sse": [
        "watsonx/errors/401.json" => "authentication_error", "authentication_token_expired", "Failed to authenticate the request due to an expired token";
        "watsonx/errors/403.json" => "permission_error", "token_quota_reached", "This Watson Machine Learning instance has reached its token quota";
        "watsonx/errors/404.json" => "not_found_error", "model_not_supported", "Model 'm' is not supported";
        "watsonx/errors/429.json" => "rate_limit_error", "rate_limit_reached_requests", "Rate limit of 2 requests per 1s was reached for instance id i";
        "watsonx/errors/500.json" => "server_error", "downstream_request_failed", "Downstream vllm request failed: internal server error";
        "watsonx/errors/503.json" => "server_error", "service_unavailable", "The service is temporarily unavailable";
        "watsonx/errors/stream-403.sse" => "permission_error", "token_quota_reached", "quota reached";
        "watsonx/errors/stream-500.sse" => "server_error", "downstream_request_failed", "Downstream vllm request failed";
        "watsonx/errors/stream-500-reason.sse" => "server_error", "", "The provider's generation failed.";
        "watsonx/errors/whole-500.json" => "server_error", "", "The provider's generation failed.";
        "watsonx/errors/whole-429.json" => "rate_limit_error", "rate_limit_reached_requests", "slow down";
    ]
    workers_ai::WORKERS_AI, "workers-ai/text.sse": [
        "workers-ai/errors/400.json" => "invalid_request_error", "5007", "AiError: No such model @cf/a/b or task";
        "workers-ai/errors/401.json" => "authentication_error", "10000", "Authentication error";
        "workers-ai/errors/403.json" => "permission_error", "5018", "AiError: The account is not allowed to access this model";
        "workers-ai/errors/403-terms.json" => "permission_error", "5016", "AiError: User has not agreed to Llama3.2 model terms";
        "workers-ai/errors/405.json" => "invalid_request_error", "5005", "AiError: The model does not support LoRa inference";
        "workers-ai/errors/408.json" => "timeout_error", "3007", "AiError: Request timeout";
        "workers-ai/errors/413.json" => "invalid_request_error", "3006", "AiError: Request is too large";
        "workers-ai/errors/429-quota.json" => "rate_limit_error", "3036", "AiError: You have used up your daily free allocation of 10,000 neurons";
        "workers-ai/errors/429.json" => "rate_limit_error", "3040", "AiError: Capacity temporarily exceeded, please try again.";
        "workers-ai/errors/500.json" => "server_error", "3043", "AiError: Internal server error";
        "workers-ai/errors/stream-429.sse" => "rate_limit_error", "3040", "AiError: Capacity temporarily exceeded, please try again.";
        "workers-ai/errors/stream-408.sse" => "timeout_error", "3007", "AiError: Request timeout";
        "workers-ai/errors/stream-500.sse" => "server_error", "3043", "AiError: Internal server error";
        "workers-ai/errors/stream-503-open.sse" => "overloaded", "503", "busy";
        "workers-ai/errors/whole-429.json" => "rate_limit_error", "3040", "AiError: Capacity temporarily exceeded, please try again.";
    ]
    oci::OCI, "oci/generic.sse": [
        "oci/errors/400-filter.json" => "invalid_request_error", "InvalidParameter", "Inappropriate content detected!!!";
        "oci/errors/401.json" => "authentication_error", "NotAuthenticated", "The required information to complete authentication was not provided or was incorrect.";
        "oci/errors/403.json" => "permission_error", "NotAllowed", "The tenancy is not allowed to use this service.";
        "oci/errors/404.json" => "not_found_error", "NotAuthorizedOrNotFound", "Authorization failed or requested resource not found.";
        "oci/errors/429.json" => "rate_limit_error", "TooManyRequests", "Tenancy request-rate limit exceeded.";
        "oci/errors/500.json" => "server_error", "InternalServerError", "Internal error occurred";
        "oci/errors/503.json" => "server_error", "ServiceUnavailable", "The service is currently unavailable.";
        "oci/errors/stream-429.sse" => "rate_limit_error", "TooManyRequests", "busy";
        "oci/errors/stream-503.sse" => "server_error", "ServiceUnavailable", "busy";
        "oci/errors/stream-400.sse" => "invalid_request_error", "InvalidParameter", "Inappropriate content detected!!!";
        "oci/errors/whole-429.json" => "rate_limit_error", "TooManyRequests", "busy";
    ]
    oci::OCI_COHERE, "oci/cohere.sse": [
        "oci/errors/400-filter.json" => "invalid_request_error", "InvalidParameter", "Inappropriate content detected!!!";
        "oci/errors/401.json" => "authentication_error", "NotAuthenticated", "The required information to complete authentication was not provided or was incorrect.";
        "oci/errors/403.json" => "permission_error", "NotAllowed", "The tenancy is not allowed to use this service.";
        "oci/errors/404.json" => "not_found_error", "NotAuthorizedOrNotFound", "Authorization failed or requested resource not found.";
        "oci/errors/429.json" => "rate_limit_error", "TooManyRequests", "Tenancy request-rate limit exceeded.";
        "oci/errors/500.json" => "server_error", "InternalServerError", "Internal error occurred";
        "oci/errors/503.json" => "server_error", "ServiceUnavailable", "The service is currently unavailable.";
        "oci/errors/stream-429.sse" => "rate_limit_error", "TooManyRequests", "busy";
        "oci/errors/stream-503.sse" => "server_error", "ServiceUnavailable", "busy";
        "oci/errors/stream-400.sse" => "invalid_request_error", "InvalidParameter", "Inappropriate content detected!!!";
        "oci/errors/stream-502-cohere.sse" => "server_error", "", "the model failed";
        "oci/errors/whole-429.json" => "rate_limit_error", "TooManyRequests", "busy";
    ]
    replicate::REPLICATE, "replicate/text.json": [
        "replicate/errors/401.json" => "authentication_error", "", "You did not pass a valid authentication token";
        "replicate/errors/402.json" => "invalid_request_error", "", "You have insufficient credit to run this model. Go to https://replicate.com/account/billing#billing to purchase credit.";
        "replicate/errors/404.json" => "not_found_error", "", "The requested resource could not be found.";
        "replicate/errors/422.json" => "invalid_request_error", "", "- input.max_tokens: Invalid type. Expected: integer, given: string\n";
        "replicate/errors/429.json" => "rate_limit_error", "", "Request was throttled. Your rate limit for creating predictions is reduced to 6 requests per minute.";
        "replicate/errors/503.json" => "server_error", "", "The service is temporarily unavailable.";
        "replicate/errors/whole-500.json" => "server_error", "", "Prediction failed: out of memory";
        "replicate/errors/whole-400-filter.json" => "invalid_request_error", "content_filter", "The input or output was flagged as sensitive. Please try again with different inputs. (E005)";
        "replicate/errors/whole-504.json" => "timeout_error", "", "The prediction did not finish while the provider held the request open.";
    ]
);
