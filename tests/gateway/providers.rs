//! Every provider answers, whole, streamed and with its errors, through the demo's emulator; and no value of a client's
//! breaks out of a provider's URL.

use std::{
    cell::Cell,
    collections::BTreeMap,
    fs,
    io::Write,
    process::Command,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

use crate::support::{
    BINARY, Gateway,
    client::{Answer, ask},
    free_address,
    upstream::{self, After, TEXT, Upstream},
};

pub fn listed() -> Vec<Value> {
    let output = Command::new(BINARY)
        .arg("--providers=json")
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The gateway under `conf/demo.yaml`'s emulator.
pub fn demo() -> Gateway {
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
    let fields = [fields, if stream { streamed(provider) } else { "" }].concat();
    send(gateway, provider, key, &fields)
}

/// What asks `provider` for a stream, with counts where it has them.
pub fn streamed(provider: &Value) -> &'static str {
    if counts_streams(provider) {
        r#","stream":true,"stream_options":{"include_usage":true}"#
    } else {
        r#","stream":true"#
    }
}

/// No event of Replicate's counts.
pub fn counts_streams(provider: &Value) -> bool {
    provider["dialect"] != "replicate"
}

pub fn send(gateway: &Gateway, provider: &Value, key: &str, fields: &str) -> Answer {
    send_with(gateway, provider, key, fields, &[])
}

pub fn send_with(
    gateway: &Gateway,
    provider: &Value,
    key: &str,
    fields: &str,
    more: &[(&str, &str)],
) -> Answer {
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
    headers.extend(more);
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
    if name.starts_with("sagemaker") {
        headers.extend([
            ("x-portkey-aws-access-key-id", "AKIDEXAMPLE"),
            ("x-portkey-aws-secret-access-key", "secret-of-the-demo"),
        ]);
    }
    ask(&gateway.address, &headers, &body)
}

/// A model's name in the form that the provider wants, its `model` where it has one; one that fills gaps, where there is one.
fn model(provider: &Value) -> &str {
    if let Some(model) = provider["model"].as_str() {
        return model;
    }
    match provider["dialect"].as_str().unwrap() {
        "mistral" | "fim" => "codestral-latest",
        "workers-ai" => "@cf/qwen/qwen2.5-coder-32b-instruct",
        "bedrock" => "anthropic.claude-3-5-haiku-20241022-v1:0",
        "bedrock-invoke" => "mistral.mistral-7b-instruct-v0:2",
        "replicate" => "meta/meta-llama-3-8b",
        _ => "qwen2.5-coder-7b",
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
        let mut told = reply.clone();
        if !counts_streams(provider) {
            told["usage"].take();
        }
        streams_the_same(&call(&gateway, provider, "sk-demo", true), &told, name);
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
    // A provider may count in its streams alone.
    if whole["usage"].is_object() {
        assert_eq!(events.last().unwrap()["usage"], whole["usage"], "{name}");
    }
}

/// SageMaker's streams are streams within streams: what goes wrong in either is told, and what is only odd changes nothing.
#[test]
fn a_stream_within_a_stream_ends_as_it_does_alone() {
    let gateway = demo();
    let listed = listed();
    let is_sagemaker =
        |provider: &&Value| provider["name"].as_str().unwrap().starts_with("sagemaker");
    for provider in listed.iter().filter(is_sagemaker) {
        let name = provider["name"].as_str().unwrap();
        let whole = call(&gateway, provider, "sk-demo", false).json();
        for fault in ["no-done", "json"] {
            let key = format!("sk-emulator?fault={fault}");
            let stream = call(&gateway, provider, &key, true);
            let text = stream.text();
            assert!(text.ends_with("data: [DONE]\n\n"), "{name} {fault}: {text}");
            assert!(!text.contains("\"error\""), "{name} {fault}: {text}");
            let words = whole["choices"][0]["text"].as_str().unwrap();
            assert!(text.contains(words.split_whitespace().last().unwrap()));
        }
        for (fault, told) in [
            ("error-event", "The connection to the model was reset."),
            ("garbage", "corrupted"),
            ("cut", ""),
            ("cut-event", ""),
            ("no-finish", ""),
        ] {
            let key = format!("sk-emulator?fault={fault}");
            let text = call(&gateway, provider, &key, true).text().to_owned();
            assert!(text.contains("\"error\":{"), "{name} {fault}: {text}");
            assert!(
                text.contains(told) && !text.contains("[DONE]"),
                "{name} {fault}: {text}"
            );
        }
    }
}

/// Places of a provider where another API stands than in its row.
#[test]
fn an_address_with_an_api_of_its_own_answers() {
    let gateway = demo();
    let suffix = r#","suffix":"The end.""#;
    let dedicated = (
        "x-portkey-huggingface-base-url",
        "https://demo.us-east-1.aws.endpoints.huggingface.cloud/v1/",
    );
    let fim = ("x-portkey-mistral-fim-completion", "true");
    let serverless = (
        "x-portkey-azure-foundry-url",
        "https://demo.eastus2.models.ai.azure.com",
    );
    let claude = (
        "x-portkey-azure-foundry-url",
        "https://demo.services.ai.azure.com/anthropic",
    );
    let version = |version| ("x-portkey-azure-api-version", version);
    for (name, header, more, sent_as) in [
        ("mistral-ai", None, suffix, "text"),
        ("mistral-ai", Some(fim), "", "text"),
        ("huggingface", Some(dedicated), "", "text"),
        ("huggingface-tgi", Some(dedicated), "", "text"),
        ("azure-ai", Some(serverless), "", "chat"),
        ("azure-ai", Some(claude), "", "chat"),
        ("azure-openai", Some(version("v1")), "", "text"),
        ("azure-openai", Some(version("preview")), "", "text"),
        ("azure-openai", Some(version("2024-06-01")), "", "text"),
    ] {
        let asked = |stream: &str| {
            let mut headers = vec![
                ("x-portkey-provider", name),
                ("authorization", "Bearer sk-demo"),
            ];
            headers.extend(header);
            let prompt = r#""prompt":"Write a tagline for an ice cream shop.""#;
            let body = format!(r#"{{"model":"codestral-latest",{prompt}{more}{stream}}}"#);
            ask(&gateway.address, &headers, &body)
        };
        let whole = asked("");
        assert_eq!(whole.status, 200, "{name}: {}", whole.text());
        assert_eq!(whole.header("x-completions-sent-as"), Some(sent_as));
        let stream = asked(r#","stream":true"#);
        let events = stream.text().strip_suffix("data: [DONE]\n\n");
        let events = events.unwrap_or_else(|| panic!("{name}: {}", stream.text()));
        let texts = events.split_terminator("\n\n").map(|event| {
            let event: Value = serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
            event["choices"][0]["text"].as_str().unwrap().to_owned()
        });
        let text = whole.json()["choices"][0]["text"].clone();
        assert_eq!(texts.collect::<String>(), text, "{name}");
    }
}

#[test]
fn a_model_of_replicates_is_called_where_it_is() {
    let gateway = demo();
    let version = "9dcd6d78e7c6560c340d916fe32e9f24aabfa331e5cce95fe31f77fb03121426";
    let named = format!("replicate/hello-world:{version}");
    for model in [
        "meta/meta-llama-3-8b",
        &named,
        version,
        "deployments/acme/llama",
    ] {
        let headers = [
            ("x-portkey-provider", "replicate"),
            ("authorization", "Bearer sk-demo"),
        ];
        let body =
            format!(r#"{{"model":"{model}","prompt":"Write a tagline for an ice cream shop."}}"#);
        let answer = ask(&gateway.address, &headers, &body);
        assert_eq!(answer.status, 200, "{model}: {}", answer.text());
    }
}

/// Of every provider that tells log-probabilities, whole and streamed: the tokens are the text, each stands where its
/// offset says, and a stream tells what a whole reply tells.
#[test]
fn log_probabilities_are_of_the_text_they_stand_beside() {
    let emulator = free_address();
    let gateway = Gateway::start(&format!(
        "  emulator: {{ listen: \"{emulator}\", all: true }}\n  providers:\n{}{}",
        format_args!("    own-ollama: {{ base_url: \"http://{emulator}\", dialect: ollama }}\n"),
        format_args!("    own-tgi: {{ base_url: \"http://{emulator}\", dialect: tgi }}\n"),
    ));
    let own = |dialect: &str| json!({"name": format!("own-{dialect}"), "dialect": dialect});
    let mut carriers = listed();
    carriers.retain(|provider| provider["retired"].is_null());
    carriers.retain(|provider| provider["parameters"]["logprobs"] != "refused");
    carriers.extend([own("ollama"), own("tgi")]);
    for provider in &carriers {
        let name = provider["name"].as_str().unwrap();
        for count in [0_usize, 3] {
            let fields =
                format!(r#""prompt":"Once upon a time","max_tokens":40,"logprobs":{count}"#);
            let key = "sk-emulator?tokens=30";
            let whole = send(&gateway, provider, key, &fields);
            assert_eq!(whole.status, 200, "{name}: {}", whole.text());
            let whole = whole.json()["choices"][0].clone();
            let streamed = send(
                &gateway,
                provider,
                key,
                &format!("{fields},\"stream\":true"),
            );
            let streamed = joined(streamed.text());
            check(&whole, count, name);
            check(&streamed, count, name);
            assert_eq!(whole["logprobs"], streamed["logprobs"], "{name}");
        }
    }
    for dialect in ["openai", "chat", "gemini", "vertex", "watsonx", "oci"] {
        assert!(carriers.iter().any(|carrier| carrier["dialect"] == dialect));
    }
}

const LISTS: [&str; 4] = ["tokens", "token_logprobs", "top_logprobs", "text_offset"];

/// A stream's pieces as one choice.
fn joined(stream: &str) -> Value {
    let mut choice = json!({"text": "", "logprobs": {}});
    let events = stream.split_terminator("\n\n");
    let events = events.map(|event| event.strip_prefix("data: ").unwrap());
    for event in events.filter(|&event| event != "[DONE]") {
        let event: Value = serde_json::from_str(event).unwrap();
        let piece = &event["choices"][0];
        let text = piece["text"].as_str().unwrap_or_default();
        choice["text"] = (choice["text"].as_str().unwrap().to_owned() + text).into();
        for list in LISTS {
            let more = piece["logprobs"][list]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let so_far = choice["logprobs"][list]
                .as_array()
                .cloned()
                .unwrap_or_default();
            choice["logprobs"][list] = [so_far, more].concat().into();
        }
    }
    choice
}

fn check(choice: &Value, count: usize, name: &str) {
    let text = choice["text"].as_str().unwrap();
    assert!(text.contains("café"), "{name}: {text}");
    let list = |name| choice["logprobs"][name].as_array().unwrap();
    let tokens: Vec<&str> = list("tokens")
        .iter()
        .map(|token| token.as_str().unwrap())
        .collect();
    assert_eq!(tokens.len(), 30, "{name}");
    assert_eq!(tokens.concat(), text, "{name}");
    let offsets: Vec<_> = list("text_offset")
        .iter()
        .map(|at| at.as_u64().unwrap())
        .collect();
    // OpenAI's own servers count from the prompt's start, and what is theirs passes as it is.
    let first = offsets[0];
    for ((token, offset), index) in tokens.iter().zip(offsets).zip(0..) {
        let at = usize::try_from(offset - first).unwrap();
        let rest: String = text.chars().skip(at).collect();
        assert!(rest.starts_with(token), "{name}: {token} at {offset}");
        let top = list("top_logprobs")[index].as_object().unwrap();
        assert_eq!(top.len(), count.max(1), "{name}: {top:?}");
        assert_eq!(top[*token], list("token_logprobs")[index], "{name}");
    }
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
    let upstream = Upstream::answering(upstream::json(200, TEXT));
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
        let options = provider["options"].as_array().unwrap();
        for option in options.iter().filter(|option| option["sent_as"].is_null()) {
            let header = option["header"].as_str().unwrap();
            for value in hostile {
                let needed = options.iter().filter(|option| option["required"] == true);
                let mut headers: Vec<_> = needed
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
    // By the key it was asked with: a call that was dropped with its request may arrive late.
    let arrived = Arc::new(Mutex::new(BTreeMap::new()));
    let arrival = arrived.clone();
    let upstream = Upstream::start(move |request, stream| {
        let key = request.header("x-emulator").unwrap().to_owned();
        let told = (request.path.clone(), request.body.clone());
        arrival.lock().unwrap().insert(key, told);
        stream.write_all(&upstream::json(500, "{}")).unwrap();
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
    let count = Cell::new(0);
    let sent = |provider, fields| {
        count.set(count.get() + 1);
        let key = format!("sk-{}", count.get());
        let answer = send(&gateway, provider, &key, fields);
        (answer, arrived.lock().unwrap().remove(&key))
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
                "emulated" if field == "suffix" => told.is_some_and(|(_, body)| {
                    let body = String::from_utf8_lossy(&body);
                    body.contains("<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>")
                }),
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
