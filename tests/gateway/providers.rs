//! Every provider answers, whole, streamed and with its errors, through the demo's emulator; and no value of a client's
//! breaks out of a provider's URL.

use std::{
    fs,
    io::Write,
    process::Command,
    sync::{Arc, Mutex},
};

use serde_json::Value;

use crate::support::{
    BINARY, Gateway,
    client::{Answer, ask},
    free_address,
    upstream::{After, TEXT, Upstream, json},
};

pub fn listed() -> Vec<Value> {
    let output = Command::new(BINARY)
        .arg("--providers=json")
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The gateway under `conf/demo.yaml`'s emulator.
fn demo() -> Gateway {
    demo_with("")
}

/// The same, with more lines of a conf.
pub fn demo_with(more: &str) -> Gateway {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/demo.yaml");
    let conf = fs::read_to_string(file).unwrap();
    let (_, lines) = conf.split_once("  emulator:\n").unwrap();
    let lines = format!("  emulator:\n{lines}{more}");
    Gateway::start(&lines.replace("127.0.0.1:8788", &free_address()))
}

fn call(gateway: &Gateway, provider: &Value, key: &str, stream: bool) -> Answer {
    let fields = r#""prompt":"Write a tagline for an ice cream shop.","max_tokens":20"#;
    let streamed = r#","stream":true,"stream_options":{"include_usage":true}"#;
    let fields = [fields, if stream { streamed } else { "" }].concat();
    send(gateway, provider, key, &fields)
}

pub fn send(gateway: &Gateway, provider: &Value, key: &str, fields: &str) -> Answer {
    let (model, needed) = (model(provider), needed(provider));
    let body = format!(r#"{{"model":"{model}",{fields}{needed}}}"#);
    let bearer = format!("Bearer {key}");
    let name = provider["name"].as_str().unwrap();
    let mut headers = vec![
        ("x-portkey-provider", name),
        ("authorization", &bearer),
        // For providers that take no key.
        ("x-portkey-forward-headers", "x-emulator"),
        ("x-emulator", key),
    ];
    let pem = include_str!("../fixtures/credentials/rsa.pem").replace('\n', "\\n");
    if name == "oracle" {
        headers.extend([
            ("x-portkey-oracle-tenancy", "ocid1.tenancy.oc1..demo"),
            ("x-portkey-oracle-user", "ocid1.user.oc1..demo"),
            (
                "x-portkey-oracle-fingerprint",
                "20:3b:97:13:55:1c:5b:0d:d3:37:d8:50:4e:c5:3a:34",
            ),
            ("x-portkey-oracle-private-key", &pem),
        ]);
    }
    ask(&gateway.address, &headers, &body)
}

/// A model's name in the form that the provider wants; its `model`, where it has one.
fn model(provider: &Value) -> &str {
    if let Some(model) = provider["model"].as_str() {
        return model;
    }
    match provider["dialect"].as_str().unwrap() {
        "mistral" | "fim" => "codestral-latest",
        "workers-ai" => "@cf/meta/llama-3.1-8b-instruct",
        "bedrock" => "anthropic.claude-3-5-haiku-20241022-v1:0",
        "bedrock-invoke" => "mistral.mistral-7b-instruct-v0:2",
        "replicate" => "meta/meta-llama-3-8b",
        _ => "emulated-1",
    }
}

/// Body fields of the vendor's own that it cannot do without.
fn needed(provider: &Value) -> &'static str {
    match provider["dialect"].as_str().unwrap() {
        "oci" => r#","compartmentId":"ocid1.compartment.oc1..demo""#,
        "watsonx" => r#","project_id":"demo""#,
        _ => "",
    }
}

#[test]
fn every_provider_answers_whole_streamed_and_with_its_errors() {
    let gateway = demo();
    let mut answered = 0;
    for provider in listed()
        .iter()
        .filter(|provider| provider["retired"].is_null())
    {
        let name = provider["name"].as_str().unwrap();
        let whole = call(&gateway, provider, "sk-demo", false);
        assert_eq!(whole.status, 200, "{name}: {}", whole.text());
        let reply = whole.json();
        let choice = &reply["choices"][0];
        assert_eq!(reply["object"], "text_completion", "{name}");
        assert_eq!(choice["finish_reason"], "stop", "{name}");
        let text = choice["text"].as_str().unwrap();
        assert!(
            text.contains("Sweet treats for every occasion!"),
            "{name}: {text}"
        );
        let sent_as = whole.header("x-completions-sent-as");
        assert_eq!(sent_as, provider["prompt"].as_str(), "{name}");
        streams_the_same(&call(&gateway, provider, "sk-demo", true), &reply, name);
        for stream in [false, true] {
            let busy = call(&gateway, provider, "sk-emulator?fault=status-429", stream);
            assert_eq!(busy.status, 429, "{name}: {}", busy.text());
            let told = busy.json();
            assert_eq!(
                told["error"]["message"], "This error was asked for.",
                "{name}"
            );
            assert_eq!(told["provider"], name);
        }
        answered += 1;
    }
    assert!(answered >= 70, "{answered}");
}

fn streams_the_same(stream: &Answer, whole: &Value, name: &str) {
    assert_eq!(stream.status, 200, "{name}: {}", stream.text());
    let events = stream.text().strip_suffix("data: [DONE]\n\n");
    let events = events.unwrap_or_else(|| panic!("{name}: {}", stream.text()));
    let events: Vec<Value> = events
        .split_terminator("\n\n")
        .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
        .collect();
    let texts = events
        .iter()
        .filter_map(|event| event["choices"][0]["text"].as_str());
    assert_eq!(
        texts.collect::<String>(),
        whole["choices"][0]["text"],
        "{name}"
    );
    let reasons = events
        .iter()
        .filter_map(|event| event["choices"][0]["finish_reason"].as_str());
    assert_eq!(reasons.collect::<Vec<_>>(), ["stop"], "{name}");
    assert!(
        events
            .iter()
            .all(|event| event["object"] == "text_completion")
    );
    assert_eq!(events.last().unwrap()["usage"], whole["usage"], "{name}");
}

#[test]
fn a_provider_that_has_closed_says_what_took_its_place() {
    let gateway = demo();
    for provider in listed()
        .iter()
        .filter(|provider| !provider["retired"].is_null())
    {
        let answer = call(&gateway, provider, "sk-demo", false);
        assert_eq!(answer.status, 400);
        assert_eq!(answer.json()["error"]["message"], provider["retired"]);
    }
}

#[test]
fn no_value_breaks_out_of_its_place_in_a_url() {
    let upstream = Upstream::answering(json(200, TEXT));
    let gateway = Gateway::before(&upstream.address);
    let upstream_host = upstream.address.replace("127.0.0.1", "localhost");
    let hostile = [
        "a/b",
        "a#",
        "a?b",
        "a@b",
        "a:b",
        "a%2fb",
        "..",
        "a..b",
        "\"a\"",
        "a\\b",
        "a b",
        "{x}",
        "evil.example/",
        "evil.example#",
        "\u{fe52}",
        &upstream_host,
    ];
    for provider in listed() {
        for option in provider["options"].as_array().unwrap() {
            let header = option["header"].as_str().unwrap();
            for value in hostile {
                let mut headers: Vec<_> = provider["options"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|other| (other["header"].as_str().unwrap(), "ok"))
                    .filter(|(name, _)| *name != header)
                    .collect();
                headers.push((header, value));
                headers.push(("x-portkey-provider", provider["name"].as_str().unwrap()));
                let answer = ask(
                    &gateway.address,
                    &headers,
                    r#"{"model":"m","prompt":"x","max_tokens":1}"#,
                );
                let place = format!("{} {header}: {value}", provider["name"]);
                assert_eq!(answer.status, 400, "{place}: {}", answer.text());
                assert_eq!(answer.json()["error"]["param"], header, "{place}");
            }
        }
    }
    assert!(upstream.seen().is_empty());
}

/// Each parameter, a request without it, and the same with it.
const PARAMETERS: &[(&str, &str, &str)] = &[
    ("prompt: list", PLAIN, r#""prompt":["a","b"]"#),
    ("prompt: token ids", PLAIN, r#""prompt":[1,2]"#),
    ("max_tokens", PLAIN, r#""prompt":"a","max_tokens":21"#),
    ("temperature", PLAIN, r#""prompt":"a","temperature":0.5"#),
    ("top_p", PLAIN, r#""prompt":"a","top_p":0.5"#),
    ("n", PLAIN, r#""prompt":"a","n":2"#),
    ("stream", PLAIN, r#""prompt":"a","stream":true"#),
    ("stop", PLAIN, r#""prompt":"a","stop":["x"]"#),
    (
        "presence_penalty",
        PLAIN,
        r#""prompt":"a","presence_penalty":0.5"#,
    ),
    (
        "frequency_penalty",
        PLAIN,
        r#""prompt":"a","frequency_penalty":0.5"#,
    ),
    ("suffix", PLAIN, r#""prompt":"a","suffix":"b""#),
    ("echo", PLAIN, r#""prompt":"a","echo":true"#),
    ("best_of", PLAIN, r#""prompt":"a","best_of":2"#),
    ("logprobs", PLAIN, r#""prompt":"a","logprobs":1"#),
    ("user", PLAIN, r#""prompt":"a","user":"u-1""#),
    ("seed", PLAIN, r#""prompt":"a","seed":7"#),
    ("logit_bias", PLAIN, r#""prompt":"a","logit_bias":{"50":1}"#),
    (
        "stream_options",
        r#""prompt":"a","stream":true"#,
        r#""prompt":"a","stream":true,"stream_options":{"include_usage":true}"#,
    ),
];
const PLAIN: &str = r#""prompt":"a""#;

#[test]
fn the_table_says_what_happens_on_the_wire() {
    let listed = listed();
    let living = || {
        listed
            .iter()
            .filter(|provider| provider["retired"].is_null())
    };
    let arrived = Arc::new(Mutex::new(None));
    let arrival = arrived.clone();
    let upstream = Upstream::start(move |request, stream| {
        *arrival.lock().unwrap() = Some((request.path.clone(), request.body.clone()));
        stream.write_all(&json(500, "{}")).unwrap();
        After::Keep
    });
    let rows = living().map(|provider| {
        let name = provider["name"].as_str().unwrap();
        format!(
            "    {name}: {{ base_url: \"http://{}\" }}\n",
            upstream.address
        )
    });
    let gateway = Gateway::start(&format!("  providers:\n{}", rows.collect::<String>()));
    let sent = |provider, fields| {
        let answer = send(&gateway, provider, "sk-1", fields);
        (answer, arrived.lock().unwrap().take())
    };
    let mut wrong = Vec::new();
    for provider in living() {
        assert_eq!(
            provider["parameters"].as_object().unwrap().len(),
            PARAMETERS.len()
        );
        for &(parameter, without, with) in PARAMETERS {
            let field = parameter.split(':').next().unwrap();
            let (_, plain) = sent(provider, without);
            let (answer, told) = sent(provider, with);
            let holds = match provider["parameters"][parameter].as_str().unwrap() {
                // A stream's counts are asked for, whoever wants them: such a request looks the same without it.
                "native" if field == "stream_options" => told.is_some_and(|(_, body)| {
                    String::from_utf8_lossy(&body)
                        .contains(r#""stream_options":{"include_usage":true"#)
                }),
                "native" => told.is_some() && told != plain,
                "emulated" => told.is_some(),
                "refused" => {
                    told.is_none()
                        && answer.status == 400
                        && answer.json()["error"]["param"] == field
                }
                other => panic!("{other}"),
            };
            if !holds {
                wrong.push(format!(
                    "{} {parameter}: {}",
                    provider["name"],
                    answer.text()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
