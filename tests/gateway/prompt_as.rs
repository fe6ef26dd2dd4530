//! The ways in which a prompt is put to a model: by the client's header, by the conf, and what the answer says of it.

use serde_json::Value;

use crate::{
    providers::{demo, listed, send_with},
    support::{
        Gateway,
        client::{Answer, ask},
        upstream::{CHAT, Upstream, json},
    },
};

const HEADER: &str = "x-completions-prompt-as";
const SENT_AS: &str = "x-completions-sent-as";
const PROMPT: &str = r#""prompt":"Write a tagline for an ice cream shop.","max_tokens":20"#;

fn put(gateway: &Gateway, provider: &Value, way: &str, fields: &str) -> Answer {
    send_with(gateway, provider, "sk-demo", fields, &[(HEADER, way)])
}

fn text(answer: &Answer) -> String {
    answer.json()["choices"][0]["text"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn streamed(answer: &Answer) -> String {
    assert!(
        answer.text().ends_with("data: [DONE]\n\n"),
        "{}",
        answer.text()
    );
    let data = answer
        .text()
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("data: {"));
    let events = data.map(|data| serde_json::from_str::<Value>(&format!("{{{data}")).unwrap());
    events
        .filter_map(|event| event["choices"][0]["text"].as_str().map(str::to_owned))
        .collect()
}

#[test]
fn every_provider_takes_the_ways_it_is_listed_with_and_no_other() {
    let gateway = demo();
    let mut prefilled = Vec::new();
    for provider in listed()
        .iter()
        .filter(|provider| provider["retired"].is_null())
    {
        let name = provider["name"].as_str().unwrap();
        let is_text = provider["prompt"] == "text";
        for way in ["message", "continue", "prefill"] {
            let listed = provider["prompt_as"]
                .as_array()
                .unwrap()
                .contains(&way.into());
            // There it depends on the model, and this one is Google's.
            let takes = listed && (name, way) != ("vertex-ai", "prefill");
            let answer = put(&gateway, provider, way, PROMPT);
            if !takes {
                assert_eq!(answer.status, 400, "{name} {way}: {}", answer.text());
                assert_eq!(answer.json()["error"]["param"], HEADER, "{name} {way}");
                continue;
            }
            assert_eq!(answer.status, 200, "{name} {way}: {}", answer.text());
            let sent_as = match way {
                _ if is_text => "text".to_owned(),
                "message" => "chat".to_owned(),
                way => format!("chat-{way}"),
            };
            assert_eq!(answer.header(SENT_AS), Some(&*sent_as), "{name} {way}");
            let whole = text(&answer);
            let stream = put(
                &gateway,
                provider,
                way,
                &format!(r#"{PROMPT},"stream":true"#),
            );
            assert_eq!(streamed(&stream), whole, "{name} {way}");
            if sent_as == "chat-prefill" {
                // The continuation alone, its leading space kept.
                assert_eq!(whole, " Sweet treats for every occasion!", "{name}");
                prefilled.push(name.to_owned());
            }
        }
    }
    let known = [
        "anthropic",
        "bedrock",
        "dashscope",
        "groq",
        "mistral-ai",
        "moonshot",
    ];
    assert_eq!(prefilled, known);
}

#[test]
fn a_prompt_that_an_answer_repeats_is_taken_off_each_choice_of_each_prompt() {
    let gateway = demo();
    let listed = listed();
    let mistral = listed
        .iter()
        .find(|provider| provider["name"] == "mistral-ai")
        .unwrap();
    let fields = r#""prompt":["Once upon ","The end "],"n":2,"max_tokens":5,"echo":true"#;
    let answer = put(&gateway, mistral, "prefill", fields);
    let reply = answer.json();
    let choices = reply["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 4, "{reply}");
    for (index, choice) in choices.iter().enumerate() {
        let prompt = ["Once upon ", "The end "][index / 2];
        let text = choice["text"].as_str().unwrap();
        let rest = text
            .strip_prefix(prompt)
            .unwrap_or_else(|| panic!("{text}"));
        assert!(!rest.contains(prompt.trim_end()), "{text}");
        assert_eq!(rest.split_whitespace().count(), 5, "{text}");
    }
}

#[test]
fn the_vendors_own_rules_come_back_as_its_own_errors_or_before_a_call() {
    let gateway = demo();
    let listed = listed();
    let claude = listed
        .iter()
        .find(|provider| provider["name"] == "anthropic")
        .unwrap();
    let answer = put(&gateway, claude, "prefill", r#""prompt":"It was ""#);
    assert_eq!(
        (answer.status, &answer.json()["error"]["param"]),
        (400, &"prompt".into())
    );
    let newest = r#"{"model":"claude-opus-4-6","prompt":"It was"}"#;
    let headers = [
        ("x-portkey-provider", "anthropic"),
        ("authorization", "Bearer k"),
        (HEADER, "prefill"),
    ];
    let answer = ask(&gateway.address, &headers, newest);
    assert_eq!(answer.status, 400);
    let told = answer.json();
    let message = told["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("does not support assistant message prefill"),
        "{message}"
    );
    assert_eq!(told["provider"], "anthropic");
    for wrong in ["Prefill", "prefix", "message, continue"] {
        let headers = [("x-portkey-provider", "anthropic"), (HEADER, wrong)];
        let answer = ask(&gateway.address, &headers, newest);
        assert_eq!(answer.json()["error"]["param"], HEADER, "{wrong}");
        assert!(!answer.text().contains(wrong), "{}", answer.text());
    }
}

#[test]
fn the_client_beats_the_provider_and_the_provider_the_default() {
    let upstream = Upstream::answering(json(200, CHAT));
    let address = &upstream.address;
    let gateway = Gateway::start(&format!(
        "  prompt_as: continue\n  providers:\n    groq: {{ base_url: \"http://{address}/v1\", prompt_as: prefill }}\n    mine: {{ base_url: \"http://{address}/v1\", dialect: chat }}\n"
    ));
    let roles = |provider: &str, header: Option<&str>| {
        let mut headers = vec![("x-portkey-provider", provider)];
        headers.extend(header.map(|way| (HEADER, way)));
        let answer = ask(&gateway.address, &headers, r#"{"model":"m","prompt":"x"}"#);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let body = &upstream.seen().pop().unwrap().body;
        let body: Value = serde_json::from_slice(body).unwrap();
        let messages = body["messages"].as_array().unwrap().clone();
        let roles: Vec<String> = messages
            .iter()
            .map(|message| message["role"].as_str().unwrap().to_owned())
            .collect();
        (roles.join(" "), answer.header(SENT_AS).unwrap().to_owned())
    };
    let wanted = |roles: &str, sent_as: &str| (roles.to_owned(), sent_as.to_owned());
    assert_eq!(
        roles("groq", None),
        wanted("user assistant", "chat-prefill")
    );
    assert_eq!(roles("mine", None), wanted("system user", "chat-continue"));
    assert_eq!(
        roles("groq", Some("continue")),
        wanted("system user", "chat-continue")
    );
    assert_eq!(roles("mine", Some("message")), wanted("user", "chat"));
}
