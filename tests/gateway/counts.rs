//! Every provider's counts, reasons and errors come back as its vendor told them, whole and streamed, through the demo's
//! emulator. Each family of models behind one provider is a provider here.

use serde_json::{Value, json};

use crate::{
    providers::{counts_streams, demo_with, listed, send, streamed as asked},
    support::{Gateway, client::Answer},
};

/// The living providers, and models that make one speak another dialect.
fn providers() -> Vec<Value> {
    let listed = listed();
    let others = MODELS.iter().map(|(name, model)| {
        let known = listed.iter().find(|provider| provider["name"] == *name);
        let mut provider = known.unwrap().clone();
        provider["model"] = (*model).into();
        // The body of this family alone has no place for it.
        if model.starts_with("meta.llama") {
            provider["parameters"]["stop"] = "refused".into();
        }
        provider
    });
    let own = json!({"name": "own-tgi", "dialect": "tgi", "parameters": {"stop": "native"}});
    let others: Vec<Value> = others.chain([own]).collect();
    let living = listed.into_iter();
    living
        .filter(|provider| provider["retired"].is_null())
        .chain(others)
        .collect()
}

const MODELS: &[(&str, &str)] = &[
    ("bedrock-invoke", "meta.llama3-8b-instruct-v1:0"),
    ("bedrock-invoke", "amazon.titan-text-lite-v1"),
    ("vertex-ai", "anthropic.claude-3-5-haiku@20241022"),
    ("vertex-ai", "mistralai.codestral-2501"),
    ("vertex-ai", "meta/llama-3.3-70b-instruct-maas"),
    ("vertex-ai", "endpoints/1234567890"),
    ("oracle", "cohere.command-r-plus-08-2024"),
];

fn demo() -> Gateway {
    demo_with("  providers:\n    own-tgi: { base_url: \"http://tgi.example\", dialect: tgi }\n")
}

/// What an answer came to, whole or streamed.
#[derive(Debug, PartialEq)]
struct Outcome {
    text: String,
    reason: String,
    usage: Value,
}

fn whole(answer: &Answer, place: &str) -> Outcome {
    assert_eq!(answer.status, 200, "{place}: {}", answer.text());
    let reply = answer.json();
    let choice = &reply["choices"][0];
    Outcome {
        text: choice["text"].as_str().unwrap().to_owned(),
        reason: choice["finish_reason"].as_str().unwrap().to_owned(),
        usage: reply["usage"].clone(),
    }
}

fn streamed(answer: &Answer, place: &str) -> Outcome {
    assert_eq!(answer.status, 200, "{place}: {}", answer.text());
    let told = answer.text().strip_suffix("data: [DONE]\n\n");
    let told = told.unwrap_or_else(|| panic!("{place}: {}", answer.text()));
    let events: Vec<Value> = told
        .split_terminator("\n\n")
        .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
        .collect();
    let all = |field: &str| -> Vec<&str> {
        let told = events
            .iter()
            .filter_map(|event| event["choices"][0][field].as_str());
        told.collect()
    };
    let reasons = all("finish_reason");
    assert_eq!(reasons.len(), 1, "{place}: {told}");
    Outcome {
        text: all("text").concat(),
        reason: reasons.concat(),
        usage: events.last().unwrap()["usage"].clone(),
    }
}

/// Whole answers of these have no `usage`; their streams do.
///
/// Text Generation Inference tells a prompt's tokens in a stream's last event, and of a whole answer in its headers, which
/// SageMaker does not pass on.
const WHOLE_WITHOUT_COUNTS: &[&str] = &["sagemaker"];

/// Both ways of asking, which must come to the same.
fn ask_both(gateway: &Gateway, provider: &Value, key: &str, fields: &str) -> Outcome {
    let place = format!("{} {} {key} {fields}", provider["name"], provider["model"]);
    let fields = format!(r#""prompt":"Write a tagline for an ice cream shop.",{fields}"#);
    let mut whole = whole(&send(gateway, provider, key, &fields), &place);
    let stream = format!("{fields}{}", asked(provider));
    let mut streamed = streamed(&send(gateway, provider, key, &stream), &place);
    if WHOLE_WITHOUT_COUNTS.contains(&provider["dialect"].as_str().unwrap()) {
        assert_eq!(whole.usage, Value::Null, "{place}");
        whole.usage = streamed.usage.clone();
    }
    if !counts_streams(provider) {
        assert_eq!(streamed.usage, Value::Null, "{place}");
        streamed.usage = whole.usage.clone();
        // The count is what tells a cut text.
        assert_eq!(streamed.reason, "stop", "{place}");
        streamed.reason = whole.reason.clone();
    }
    assert_eq!(whole, streamed, "{place}");
    whole
}

fn usage(completion: u64) -> Value {
    json!({"prompt_tokens": 8, "completion_tokens": completion, "total_tokens": 8 + completion})
}

fn check(outcome: &Outcome, (text, reason, said): (&str, &str, u64), provider: &Value) {
    let place = format!("{} {}: {outcome:?}", provider["name"], provider["model"]);
    assert_eq!(outcome.text.trim_start(), text, "{place}");
    assert_eq!(outcome.reason, reason, "{place}");
    assert_eq!(outcome.usage, usage(said), "{place}");
}

const ANSWER: &str = "Sweet treats for every occasion!";

#[test]
fn every_provider_tells_its_exact_counts_and_why_its_text_ended() {
    let gateway = demo();
    for provider in providers() {
        let ask = |fields| ask_both(&gateway, &provider, "sk-demo", fields);
        check(&ask(r#""max_tokens":20"#), (ANSWER, "stop", 5), &provider);
        check(
            &ask(r#""max_tokens":2"#),
            ("Sweet treats", "length", 2),
            &provider,
        );
        if provider["parameters"]["stop"] == "native" {
            // These engines stop behind the sequence, and count it.
            let behind =
                ["sagemaker", "tgi", "triton"].contains(&provider["dialect"].as_str().unwrap());
            let said = if behind { 4 } else { 3 };
            let stopped = ask(r#""max_tokens":20,"stop":" every""#);
            check(&stopped, ("Sweet treats for", "stop", said), &provider);
        }
    }
}

/// These document no filter and no refusal: a text that a model refuses with is a text.
///
/// Triton's generate tells no reason at all; TGI's `FinishReason`, at SageMaker too, has `length`, `eos_token` and
/// `stop_sequence`; watsonx's
/// `stop_reason` has none for its moderations, which are off unless asked for, and are not asked for here; Workers AI tells
/// no reason in its own form.
const WITHOUT_FILTER: &[&str] = &["sagemaker", "tgi", "triton", "watsonx", "workers-ai"];

#[test]
fn what_a_filter_or_a_refusal_ended_is_told_as_content_filter() {
    let gateway = demo();
    for provider in providers() {
        let dialect = provider["dialect"].as_str().unwrap();
        for fault in ["content-filter", "refusal"] {
            let key = format!("sk-emulator?fault={fault}");
            if dialect == "replicate" {
                is_filtered(&gateway, &provider, &key);
                continue;
            }
            let outcome = ask_both(&gateway, &provider, &key, r#""max_tokens":20"#);
            let unfiltered = WITHOUT_FILTER.contains(&dialect);
            let reason = if unfiltered { "stop" } else { "content_filter" };
            check(&outcome, (ANSWER, reason, 5), &provider);
        }
    }
}

/// An error, since there is no output.
fn is_filtered(gateway: &Gateway, provider: &Value, key: &str) {
    for stream in ["", r#","stream":true"#] {
        let answer = send(gateway, provider, key, &format!(r#""prompt":"a"{stream}"#));
        assert_eq!(answer.status, 400, "{}", answer.text());
        let error = &answer.json()["error"];
        assert_eq!(error["code"], "content_filter");
        // Azure says what its filter has found.
        let own = &error["innererror"]["content_filter_result"]["violence"]["filtered"];
        assert_eq!(own == true, provider["dialect"] != "replicate", "{error}");
    }
}

#[test]
fn a_prompt_that_is_blocked_is_a_content_filter_s_work() {
    let gateway = demo();
    let key = "sk-emulator?fault=blocked";
    for provider in providers() {
        let dialect = provider["dialect"].as_str().unwrap();
        match (dialect, provider["model"].as_str()) {
            ("gemini", _) | ("vertex", None) => {
                let outcome = ask_both(&gateway, &provider, key, r#""max_tokens":20"#);
                check(&outcome, ("", "content_filter", 0), &provider);
            }
            ("openai" | "chat" | "mistral" | "replicate", _)
            | ("sagemaker-openai" | "sagemaker-chat", _) => {
                is_filtered(&gateway, &provider, key);
            }
            _ => {}
        }
    }
}

#[test]
fn every_class_of_errors_keeps_its_status_and_its_sentence() {
    let gateway = demo();
    for provider in providers() {
        for status in [401, 403, 404, 408, 429, 500, 503, 529] {
            let key = format!("sk-emulator?fault=status-{status}");
            for stream in ["", r#","stream":true"#] {
                let answer = send(
                    &gateway,
                    &provider,
                    &key,
                    &format!(r#""prompt":"a"{stream}"#),
                );
                let place = format!("{} {status}: {}", provider["name"], answer.text());
                assert_eq!(answer.status, status, "{place}");
                let error = &answer.json()["error"];
                assert_eq!(error["message"], "This error was asked for.", "{place}");
                assert!(
                    error["type"].as_str().is_some_and(|told| !told.is_empty()),
                    "{place}"
                );
            }
        }
    }
}

#[test]
fn an_error_inside_a_stream_ends_it_without_an_end_marker() {
    let gateway = demo();
    for provider in providers() {
        for fault in ["error-event", "error-first"] {
            let key = format!("sk-emulator?fault={fault}&rate=1000");
            let fields = r#""prompt":"Write a tagline for an ice cream shop.","max_tokens":20,"stream":true"#;
            let answer = send(&gateway, &provider, &key, fields);
            let place = format!(
                "{} {} {fault}: {}",
                provider["name"],
                provider["model"],
                answer.text()
            );
            // On a busy machine text and error come in one read: then nothing was told before the error, which has its own status.
            let told = if answer.status == 200 {
                assert_eq!(fault, "error-event", "{place}");
                assert!(answer.text().contains("Sweet"), "{place}");
                let last = answer.text().trim_end().rsplit("\n\n").next().unwrap();
                serde_json::from_str(last.strip_prefix("data: ").unwrap()).unwrap()
            } else {
                // Nothing had been said: the answer is the error's own.
                assert!(answer.status >= 400, "{place}");
                answer.json()
            };
            assert!(!answer.text().contains("[DONE]"), "{place}");
            let told = told["error"]["message"].as_str().unwrap_or_default();
            let own = ["", "The provider's stream ended before it was complete."];
            assert!(!own.contains(&told), "{place}");
        }
    }
}
