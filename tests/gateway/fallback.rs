//! A target that is dead, slow, busy, or that begins with an error is passed over before the client sees a byte, whatever
//! its dialect and whatever the next one's: whole and streamed. The access log tells of each attempt.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};

use crate::support::{
    Gateway,
    client::{Answer, ask},
    free_address,
    upstream::{
        After, DONE, LAST_CHUNK, STREAM, TEXT, Upstream, chunk, event, json as answer,
        wait_for_close,
    },
};

/// A text endpoint, a chat endpoint and one of another vendor's; and where their API begins.
const PROVIDERS: [(&str, &str); 3] = [("openai", "/v1"), ("groq", "/openai/v1"), ("anthropic", "")];
const GOOD: &str = "sk-emulator?tokens=4";

struct Stage {
    gateway: Gateway,
    dead: String,
}

impl Stage {
    fn new() -> Self {
        let (emulator, dead) = (free_address(), free_address());
        let gateway = Gateway::start(&format!(
            "  emulator: {{ listen: \"{emulator}\", all: true }}\n  allowed_hosts: [\"{dead}\"]\n"
        ));
        Self { gateway, dead }
    }

    /// A target that the emulator plays badly.
    fn faulty(&self, provider: (&str, &str), fault: &str) -> Value {
        let (name, base) = provider;
        match fault {
            "dead" => json!({
                "provider": name, "api_key": "sk-dead",
                "custom_host": format!("http://{}{base}", self.dead),
            }),
            fault => json!({
                "provider": name, "api_key": format!("sk-emulator?fault={fault}"),
                "request_timeout": 400,
            }),
        }
    }

    fn ask(&self, config: &Value, streamed: bool) -> Answer {
        ask_with(&self.gateway, config, streamed)
    }
}

fn ask_with(gateway: &Gateway, config: &Value, streamed: bool) -> Answer {
    let body =
        json!({"model": "claude-x", "prompt": "Say it.", "max_tokens": 20, "stream": streamed});
    let config = config.to_string();
    let headers = [("x-portkey-config", config.as_str())];
    ask(&gateway.address, &headers, &body.to_string())
}

fn fallback(targets: &[Value]) -> Value {
    json!({"strategy": {"mode": "fallback"}, "targets": targets})
}

fn good(provider: (&str, &str)) -> Value {
    json!({"provider": provider.0, "api_key": GOOD})
}

fn is_whole_and_good(answer: &Answer, streamed: bool) -> bool {
    let text = answer.text();
    let told = match streamed {
        true => text.ends_with(DONE) && !text.contains("\"error\""),
        false => answer.json()["choices"][0]["text"].is_string(),
    };
    answer.status == 200 && answer.complete && told
}

const FAULTS: [&str; 5] = ["dead", "hang", "status-429", "status-500", "error-first"];

#[test]
fn a_failing_target_is_passed_over_before_the_client_sees_a_byte() {
    let stage = Stage::new();
    for fault in FAULTS {
        for streamed in [false, true] {
            // Nothing precedes a whole answer.
            if fault == "error-first" && !streamed {
                continue;
            }
            for (turn, bad) in PROVIDERS.into_iter().enumerate() {
                let next = PROVIDERS[(turn + 1) % PROVIDERS.len()];
                let config = fallback(&[stage.faulty(bad, fault), good(next)]);
                let answer = stage.ask(&config, streamed);
                let told = format!("{fault} of {}: {answer:?}", bad.0);
                assert!(is_whole_and_good(&answer, streamed), "{told}");
                let header = |name| answer.header(name);
                assert_eq!(
                    header("x-portkey-last-used-option-index"),
                    Some("config.targets[1]"),
                    "{told}"
                );
                assert_eq!(header("x-portkey-provider"), Some(next.0), "{told}");
                assert_eq!(header("x-portkey-retry-attempt-count"), Some("0"), "{told}");
            }
        }
    }
}

#[test]
fn the_last_failure_is_told_when_nothing_answers() {
    let stage = Stage::new();
    for streamed in [false, true] {
        let targets = ["dead", "status-500", "hang", "status-429"]
            .map(|fault| stage.faulty(PROVIDERS[0], fault));
        let answer = stage.ask(&fallback(&targets), streamed);
        assert_eq!(answer.status, 429, "{}", answer.text());
        let option = answer.header("x-portkey-last-used-option-index");
        assert_eq!(option, Some("config.targets[3]"));
        assert!(answer.json()["error"]["message"].is_string());
    }
}

/// An upstream that answers with `bytes`, and then closes.
fn saying(bytes: Vec<u8>) -> Upstream {
    Upstream::start(move |_, stream| {
        stream.write_all(&bytes).unwrap();
        After::Close
    })
}

fn at(upstream: &Upstream) -> Value {
    json!({
        "provider": "openai", "api_key": "sk-x",
        "custom_host": format!("http://{}/v1", upstream.address),
    })
}

fn gateway_before(upstreams: &[&Upstream]) -> Gateway {
    let hosts: Vec<_> = upstreams
        .iter()
        .map(|upstream| format!("\"{}\"", upstream.address))
        .collect();
    Gateway::start(&format!("  allowed_hosts: [{}]\n", hosts.join(", ")))
}

fn text_stream() -> Vec<u8> {
    let events = [event(" b", None), event("", Some("stop")), DONE.to_owned()].concat();
    [STREAM, &chunk(events), LAST_CHUNK].concat()
}

#[test]
fn a_200_that_holds_an_error_is_that_error() {
    let told = r#"{"error":{"message":"overloaded","type":"server_error","code":503}}"#;
    let event = format!("data: {told}\n\n");
    for (bytes, streamed) in [
        ([STREAM, &chunk(&event), LAST_CHUNK].concat(), true),
        // Comments and heads are no output.
        (
            [STREAM, &chunk(": ping\n\n"), &chunk(&event), LAST_CHUNK].concat(),
            true,
        ),
        ([STREAM, LAST_CHUNK].concat(), true),
        (answer(200, told), true),
        (answer(200, told), false),
        (answer(200, "<html>"), false),
        (answer(200, ""), false),
    ] {
        let bad = saying(bytes);
        let next = match streamed {
            true => text_stream(),
            false => answer(200, TEXT),
        };
        let next = saying(next);
        let gateway = gateway_before(&[&bad, &next]);
        let answer = ask_with(&gateway, &fallback(&[at(&bad), at(&next)]), streamed);
        assert!(is_whole_and_good(&answer, streamed), "{answer:?}");
        assert_eq!((bad.seen().len(), next.seen().len()), (1, 1));
        // The second gets what the first got.
        assert_eq!(bad.sole().body, next.sole().body);
    }
}

#[test]
fn a_stream_that_has_begun_stays_with_its_target() {
    let told = "data: {\"error\":{\"message\":\"overloaded\",\"code\":503}}\n\n";
    for rest in [chunk(told), LAST_CHUNK.to_vec(), b"zzz\r\n".to_vec()] {
        // In two reads: what comes in one with its failure has not gone out yet.
        let late = Upstream::start(move |_, stream| {
            stream
                .write_all(&[STREAM, &chunk(event(" a", None))].concat())
                .unwrap();
            std::thread::sleep(std::time::Duration::from_millis(150));
            stream.write_all(&rest).unwrap();
            After::Close
        });
        let next = saying(text_stream());
        let gateway = gateway_before(&[&late, &next]);
        let config = json!({
            "strategy": {"mode": "fallback"}, "retry": {"attempts": 2},
            "targets": [at(&late), at(&next)],
        });
        let answer = ask_with(&gateway, &config, true);
        assert_eq!(answer.status, 200);
        assert!(answer.text().contains(" a"), "{answer:?}");
        assert!(answer.text().contains("\"error\""), "{answer:?}");
        assert!(!answer.text().contains("[DONE]"), "{answer:?}");
        assert_eq!((late.seen().len(), next.seen().len()), (1, 0));
    }
}

#[test]
fn a_target_that_is_given_up_is_hung_up_on() {
    let closed = Arc::new(AtomicUsize::new(0));
    let count = closed.clone();
    let slow = Upstream::start(move |_, stream| {
        if wait_for_close(stream).is_some() {
            count.fetch_add(1, Ordering::Relaxed);
        }
        After::Close
    });
    let next = saying(text_stream());
    let gateway = gateway_before(&[&slow, &next]);
    let mut first = at(&slow);
    first["request_timeout"] = json!(200);
    let answer = ask_with(&gateway, &fallback(&[first, at(&next)]), true);
    assert!(is_whole_and_good(&answer, true), "{answer:?}");
    let hung_up = crate::support::wait_for(|| (closed.load(Ordering::Relaxed) == 1).then_some(()));
    assert!(hung_up.is_some());
}

#[test]
fn a_list_of_prompts_goes_over_as_a_whole() {
    let stage = Stage::new();
    let config = fallback(&[stage.faulty(PROVIDERS[1], "status-429"), good(PROVIDERS[0])]);
    let config = config.to_string();
    for (bad, streamed) in [("groq", false), ("groq", true)] {
        let body =
            json!({"model": "m", "prompt": ["one", "two"], "max_tokens": 5, "stream": streamed});
        let headers = [("x-portkey-config", config.as_str())];
        let answer = ask(&stage.gateway.address, &headers, &body.to_string());
        assert_eq!(answer.status, 200, "{bad}: {}", answer.text());
        let provider = answer.header("x-portkey-provider");
        assert_eq!(provider, Some("openai"), "{}", answer.text());
        for index in ["\"index\":0", "\"index\":1"] {
            assert!(answer.text().contains(index), "{}", answer.text());
        }
    }
}
