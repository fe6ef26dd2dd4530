//! What the gateway does where a provider does not: lists of prompts, `n`, stop sequences, `echo`.

use std::{
    io::Write,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    providers::{demo, listed, send, streamed},
    support::{
        Gateway, PATIENCE,
        client::{Answer, Client, ask, post},
        providers_at,
        upstream::{
            After, CHAT, LAST_CHUNK, Request, STREAM, Upstream, chunk, json, wait_for_close,
        },
    },
};

/// Chat only.
const GROQ: (&str, &str) = ("x-portkey-provider", "groq");

/// The prompt of a chat request.
fn prompt(request: &Request) -> String {
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    body["messages"][0]["content"].as_str().unwrap().to_owned()
}

fn is_stream(request: &Request) -> bool {
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    body["stream"] == true
}

fn piece(text: &str, finish: &str) -> Vec<u8> {
    chunk(format!(
        "data: {{\"id\":\"chat-{text}\",\"model\":\"m-1\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}},\"finish_reason\":{finish}}}]}}\n\n"
    ))
}

const COUNTS: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// One chat answer that repeats its prompt, whole or streamed.
fn repeat(request: &Request, stream: &mut std::net::TcpStream) {
    let text = prompt(request);
    if is_stream(request) {
        let sent = [
            STREAM,
            &piece(&text, "null"),
            &piece("!", "\"stop\""),
            &chunk(COUNTS),
            &chunk(DONE),
            LAST_CHUNK,
        ];
        stream.write_all(&sent.concat()).unwrap();
    } else {
        let reply = format!(
            r#"{{"id":"chat-{text}","model":"m-1","choices":[{{"index":0,"message":{{"content":"{text}!"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}}}"#
        );
        stream.write_all(&json(200, &reply)).unwrap();
    }
}

/// The events of a stream, without its end marker.
fn events(answer: &Answer) -> Vec<Value> {
    let data = answer
        .text()
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("data: "));
    data.filter(|data| *data != "[DONE]")
        .map(|data| serde_json::from_str(data).unwrap())
        .collect()
}

/// Each choice's text and reason, by index, from whole and streamed answers alike.
fn choices(answer: &Answer) -> Vec<(String, String)> {
    let events = match answer.header("content-type") {
        Some("text/event-stream") => events(answer),
        _ => vec![answer.json()],
    };
    let mut choices: Vec<(String, String)> = Vec::new();
    for choice in events
        .iter()
        .flat_map(|event| event["choices"].as_array().unwrap())
    {
        let index = choice["index"].as_u64().unwrap() as usize;
        choices.resize(choices.len().max(index + 1), Default::default());
        choices[index].0 += choice["text"].as_str().unwrap();
        choices[index].1 += choice["finish_reason"].as_str().unwrap_or_default();
    }
    choices
}

/// 8 prompts with 3 choices each.
fn twenty_four(more: &str) -> String {
    let prompts: Vec<String> = (0..8).map(|at| format!("p{at}")).collect();
    format!(r#"{{"model":"m","prompt":{prompts:?},"n":3{more}}}"#)
}

const STREAMED: &str = r#","stream":true,"stream_options":{"include_usage":true}"#;

/// A conf whose `groq` takes one choice of one prompt.
fn before(upstream: &Upstream, limits: &str) -> Gateway {
    Gateway::start(&(providers_at(&upstream.address) + limits))
}

#[test]
fn every_choice_of_every_prompt_comes_in_its_place_with_the_counts_of_all() {
    let in_flight = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (now, peak) = (in_flight.clone(), most.clone());
    let upstream = Upstream::start(move |request, stream| {
        peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        // The later a prompt, the sooner its answer.
        let late = 8 - prompt(request)[1..].parse::<u64>().unwrap();
        std::thread::sleep(Duration::from_millis(late * 3));
        repeat(request, stream);
        now.fetch_sub(1, Ordering::SeqCst);
        After::Keep
    });
    let gateway = before(&upstream, "  limits: { concurrent_calls: 5 }\n");
    for more in ["", STREAMED] {
        let answer = ask(&gateway.address, &[GROQ], &twenty_four(more));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let wanted: Vec<_> = (0..24)
            .map(|at| (format!("p{}!", at / 3), "stop".to_owned()))
            .collect();
        assert_eq!(choices(&answer), wanted);
        let emulated = answer.header("x-completions-emulated").unwrap();
        assert!(emulated.starts_with("prompt, n"), "{emulated}");
        let usage = if more.is_empty() {
            answer.json()["usage"].clone()
        } else {
            assert!(answer.text().ends_with(DONE) && answer.text().matches(DONE).count() == 1);
            let events = events(&answer);
            let ids: Vec<_> = events.iter().map(|event| event["id"].clone()).collect();
            assert!(
                ids.iter()
                    .all(|id| *id == ids[0] && id.as_str().unwrap().starts_with("cmpl-"))
            );
            assert!(events.iter().all(|event| event["model"] == "m-1"));
            events.last().unwrap()["usage"].clone()
        };
        assert_eq!(
            usage,
            serde_json::json!({"prompt_tokens": 72, "completion_tokens": 48, "total_tokens": 120})
        );
    }
    assert_eq!(upstream.seen().len(), 48);
    assert!(most.load(Ordering::SeqCst) <= 5, "{most:?}");
    gateway.wait_for_log("calls=24");
}

#[test]
fn the_calls_of_all_requests_to_one_host_are_bounded_too() {
    let in_flight = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (now, peak) = (in_flight.clone(), most.clone());
    let upstream = Upstream::start(move |request, stream| {
        peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(5));
        repeat(request, stream);
        now.fetch_sub(1, Ordering::SeqCst);
        After::Keep
    });
    let gateway = before(&upstream, "  limits: { upstream_calls: 3 }\n");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let answer = ask(&gateway.address, &[GROQ], &twenty_four(""));
                assert_eq!(choices(&answer).len(), 24);
            });
        }
    });
    assert!(most.load(Ordering::SeqCst) <= 3, "{most:?}");
}

#[test]
fn one_part_that_fails_fails_the_request_with_its_own_error() {
    let upstream = Upstream::start(|request, stream| {
        if prompt(request) == "p5" {
            let answer = json(429, r#"{"error":{"message":"slow down","type":"rate"}}"#);
            let head = String::from_utf8(answer).unwrap();
            let head = head.replacen("\r\n", "\r\nretry-after: 7\r\n", 1);
            stream.write_all(head.as_bytes()).unwrap();
            return After::Keep;
        }
        // Nothing of the others is out before the error is.
        std::thread::sleep(Duration::from_millis(200));
        repeat(request, stream);
        After::Keep
    });
    let gateway = before(&upstream, "");
    for more in ["", STREAMED] {
        let answer = ask(&gateway.address, &[GROQ], &twenty_four(more));
        assert_eq!(answer.status, 429, "{}", answer.text());
        assert_eq!(answer.json()["error"]["message"], "slow down");
        assert_eq!(answer.header("retry-after"), Some("7"));
    }
}

#[test]
fn a_part_that_fails_in_an_open_stream_ends_it_with_an_error_and_no_end_marker() {
    let upstream = Upstream::start(|request, stream| {
        stream.write_all(STREAM).unwrap();
        stream.write_all(&piece("a", "null")).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        if prompt(request) == "p5" {
            return After::Close;
        }
        std::thread::sleep(Duration::from_millis(100));
        After::Close
    });
    let gateway = before(&upstream, "");
    let answer = ask(&gateway.address, &[GROQ], &twenty_four(STREAMED));
    assert_eq!(answer.status, 200);
    assert!(!answer.text().contains("[DONE]"));
    let last = events(&answer).pop().unwrap();
    assert_eq!(last["error"]["code"], "broken_upstream", "{last}");
    assert_eq!(answer.text().matches("\"error\"").count(), 1);
}

#[test]
fn a_client_that_leaves_cancels_every_call_at_once() {
    let (closed, closing) = mpsc::channel();
    let closed = Mutex::new(closed);
    let upstream = Upstream::start(move |request, stream| {
        if is_stream(request) {
            stream.write_all(STREAM).unwrap();
            stream.write_all(&piece("a", "null")).unwrap();
        }
        if wait_for_close(stream).is_some() {
            closed.lock().unwrap().send(Instant::now()).unwrap();
        }
        After::Close
    });
    let gateway = before(&upstream, "");
    for (turn, more) in ["", STREAMED].into_iter().enumerate() {
        let mut client = Client::connect(&gateway.address);
        client.send(post(&[GROQ], &twenty_four(more)));
        upstream.wait_for_requests(24 * (turn + 1));
        let left = Instant::now();
        drop(client);
        for _ in 0..24 {
            let took = closing.recv_timeout(PATIENCE).unwrap() - left;
            assert!(took < Duration::from_millis(100), "{took:?}");
        }
    }
    gateway.wait_for_log("failure=client_gone");
}

#[test]
fn a_seed_is_another_one_for_each_choice() {
    let upstream = Upstream::answering(json(200, CHAT));
    let gateway = before(&upstream, "");
    let body = r#"{"model":"m","prompt":"p","n":3,"seed":41}"#;
    assert_eq!(choices(&ask(&gateway.address, &[GROQ], body)).len(), 3);
    let mut seeds: Vec<i64> = upstream
        .seen()
        .iter()
        .map(|request| {
            serde_json::from_slice::<Value>(&request.body).unwrap()["seed"]
                .as_i64()
                .unwrap()
        })
        .collect();
    seeds.sort_unstable();
    assert_eq!(seeds, [41, 42, 43]);
}

#[test]
fn more_calls_than_the_limit_are_refused_before_any_is_made() {
    let upstream = Upstream::answering(json(200, CHAT));
    let gateway = before(&upstream, "  limits: { calls: 23 }\n");
    let answer = ask(&gateway.address, &[GROQ], &twenty_four(""));
    assert_eq!(
        (answer.status, &answer.json()["error"]["param"]),
        (400, &"prompt".into())
    );
    assert!(upstream.seen().is_empty());
}

/// The page's prompt, and what the emulator answers: " Sweet treats for every occasion!".
const PAGE: &str = "Write a tagline for an ice cream shop.";

/// A list of prompts, `n`, `echo` and `stop` of every provider at once: whoever does which of them, the client cannot tell.
#[test]
fn every_provider_brings_all_choices_echoed_and_stopped() {
    let gateway = demo();
    for provider in listed()
        .iter()
        .filter(|provider| provider["retired"].is_null())
    {
        let name = &provider["name"];
        for parameter in ["prompt: list", "n", "echo", "stop"] {
            assert_ne!(
                provider["parameters"][parameter], "refused",
                "{name} {parameter}"
            );
        }
        for more in ["", streamed(provider)] {
            let fields = format!(
                r#""prompt":["{PAGE}","x"],"n":2,"echo":true,"stop":["r every","zz"],"max_tokens":20{more}"#
            );
            let answer = send(&gateway, provider, "sk-demo", &fields);
            assert_eq!(answer.status, 200, "{name}: {}", answer.text());
            let choices = choices(&answer);
            assert_eq!(choices.len(), 4, "{name}: {}", answer.text());
            assert_eq!(choices[0].1, "stop", "{name}");
            let text = choices[0]
                .0
                .strip_prefix(PAGE)
                .unwrap_or_else(|| panic!("{name}: {choices:?}"));
            assert!(text.ends_with("Sweet treats fo"), "{name}: {text:?}");
            assert!(choices[1].0.starts_with(PAGE), "{name}: {choices:?}");
            for (text, reason) in &choices[2..] {
                assert!(text.starts_with('x') && text.len() > 1, "{name}: {text:?}");
                assert!(
                    ["stop", "length"].contains(&reason.as_str()),
                    "{name}: {reason}"
                );
            }
        }
    }
}

#[test]
fn every_provider_that_tells_log_probabilities_has_a_best_of_several() {
    let gateway = demo();
    let mut emulated = 0;
    for provider in listed()
        .iter()
        .filter(|provider| provider["retired"].is_null())
    {
        let (name, parameters) = (&provider["name"], &provider["parameters"]);
        let fields = r#""prompt":"x","best_of":3,"n":2,"max_tokens":5"#;
        let answer = send(&gateway, provider, "sk-demo", fields);
        if parameters["best_of"] == "refused" {
            assert_eq!(parameters["logprobs"], "refused", "{name}");
            assert_eq!(
                (answer.status, &answer.json()["error"]["param"]),
                (400, &"best_of".into())
            );
            continue;
        }
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        assert_eq!(choices(&answer).len(), 2, "{name}");
        assert!(answer.json()["choices"][0]["logprobs"].is_null(), "{name}");
        emulated += u32::from(parameters["best_of"] == "emulated");
    }
    assert!(emulated > 20, "{emulated}");
}

#[test]
fn candidates_can_be_echoed_and_stopped_and_their_scores_stay_the_gateway_s() {
    let gateway = demo();
    let providers = listed();
    for name in ["nvidia", "google"] {
        let provider = providers
            .iter()
            .find(|provider| provider["name"] == name)
            .unwrap();
        let asked = r#""prompt":"Write a tagline for an ice cream shop.","best_of":2,"echo":true,"stop":["every"],"max_tokens":9"#;
        let answer = send(&gateway, provider, "sk-demo", asked);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let [(text, reason)] = <[_; 1]>::try_from(choices(&answer)).unwrap();
        assert_eq!(
            (text.starts_with(PAGE), text.contains("every")),
            (true, false)
        );
        assert!(["stop", "length"].contains(&reason.as_str()), "{reason}");
        assert!(answer.json()["choices"][0]["logprobs"].is_null());
        let both = format!(r#"{asked},"logprobs":1"#);
        assert_eq!(send(&gateway, provider, "sk-demo", &both).status, 400);
    }
}

/// A chat choice of two tokens.
fn scored(text: &str, logprob: &str) -> String {
    format!(
        r#"{{"index":0,"message":{{"content":"{text}!"}},"finish_reason":"stop","logprobs":{{"content":[{{"token":"{text}","bytes":null,"logprob":{logprob},"top_logprobs":[]}},{{"token":"!","bytes":null,"logprob":-0.5,"top_logprobs":[]}}]}}}}"#
    )
}

#[test]
fn the_best_of_the_candidates_are_the_client_s_choices() {
    // Takes no `n`: a call for each candidate. Their seeds tell them apart.
    let upstream = Upstream::start(|request, stream| {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(
            (&body["logprobs"], &body["n"]),
            (&Value::Bool(true), &Value::Null)
        );
        let seed = body["seed"].as_u64().unwrap();
        let logprob = ["-3.0", "-0.25", "-1.0"][seed as usize];
        let reply = format!(
            r#"{{"id":"c","model":"m-1","choices":[{}],"usage":{{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}}}"#,
            scored(&format!("{}{seed}", prompt(request)), logprob)
        );
        stream.write_all(&json(200, &reply)).unwrap();
        After::Keep
    });
    let lines = format!(
        "  providers:\n    nvidia: {{ base_url: \"http://{}/v1\" }}\n",
        upstream.address
    );
    let gateway = Gateway::start(&lines);
    let nvidia = [("x-portkey-provider", "nvidia")];
    for (logprobs, shown) in [("", false), (r#","logprobs":0"#, true)] {
        let body =
            format!(r#"{{"model":"m","prompt":["a","b"],"n":2,"best_of":3,"seed":0{logprobs}}}"#);
        let answer = ask(&gateway.address, &nvidia, &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let texts: Vec<_> = choices(&answer).into_iter().map(|(text, _)| text).collect();
        assert_eq!(texts, ["a1!", "a2!", "b1!", "b2!"]);
        // What the candidates cost that nobody gets is in the bill.
        assert_eq!(answer.json()["usage"]["total_tokens"], 18);
        assert_eq!(answer.json()["choices"][0]["logprobs"].is_object(), shown);
    }
    let plain = ask(
        &gateway.address,
        &[GROQ],
        r#"{"model":"m","prompt":"a","best_of":2}"#,
    );
    assert_eq!(
        (plain.status, &plain.json()["error"]["param"]),
        (400, &"best_of".into())
    );
}

#[test]
fn a_call_that_brings_a_choice_more_than_was_asked_for_is_broken() {
    let upstream = Upstream::start(|request, stream| {
        if is_stream(request) {
            let second = String::from_utf8(piece("b", "\"stop\"")).unwrap();
            let second = second.replace("\"index\":0", "\"index\":1");
            let sent = [STREAM, &piece("a", "null"), second.as_bytes()].concat();
            stream.write_all(&sent).unwrap();
            stream
                .write_all(&[&chunk(DONE), LAST_CHUNK].concat())
                .unwrap();
        } else {
            let choice = |at: u32| {
                format!(r#"{{"index":{at},"message":{{"content":"{at}"}},"finish_reason":"stop"}}"#)
            };
            let reply = format!(
                r#"{{"id":"c","model":"m","choices":[{},{}]}}"#,
                choice(0),
                choice(1)
            );
            stream.write_all(&json(200, &reply)).unwrap();
        }
        After::Keep
    });
    let gateway = before(&upstream, "");
    for more in ["", STREAMED] {
        let body = format!(r#"{{"model":"m","prompt":["a","b"]{more}}}"#);
        let answer = ask(&gateway.address, &[GROQ], &body);
        assert!(!answer.text().contains("[DONE]"), "{}", answer.text());
        assert!(
            answer.text().contains("broken_upstream"),
            "{}",
            answer.text()
        );
    }
}

#[test]
fn a_deadline_comes_up_though_the_upstream_always_has_more() {
    let upstream = Upstream::start(|_, stream| {
        stream.write_all(STREAM).unwrap();
        while stream.write_all(&piece("a", "null")).is_ok() {}
        After::Close
    });
    let gateway = before(&upstream, "");
    let soon = ("x-portkey-request-timeout", "300");
    for prompt in [r#""a""#, r#"["a","b"]"#] {
        let body = format!(r#"{{"model":"m","prompt":{prompt}{STREAMED}}}"#);
        let began = Instant::now();
        let answer = ask(&gateway.address, &[GROQ, soon], &body);
        assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
        let last = events(&answer).pop().unwrap();
        assert_eq!(last["error"]["code"], "attempt_timeout", "{last}");
    }
}
