//! `POST /v1/completions` as a client sees it.

use std::{
    io::{Read, Write},
    sync::mpsc,
};

use crate::support::{
    Gateway,
    client::{CONDUCTED, Client, PLAIN, ROADS, STREAMED, ask, post, request},
    upstream::{After, CHAT, DONE, LAST_CHUNK, STREAM, TEXT, Upstream, chunk, event, json},
};

const GROQ: (&str, &str) = ("x-portkey-provider", "groq");

#[test]
fn a_text_completion_passes_byte_for_byte_on_both_roads() {
    let upstream = Upstream::answering(json(200, TEXT));
    let gateway = Gateway::before(&upstream.address);
    for road in ROADS {
        let answer = ask(&gateway.address, road, PLAIN);
        assert_eq!((answer.status, answer.text()), (200, TEXT));
        assert!(answer.complete);
    }
    for request in upstream.seen() {
        assert_eq!(
            (request.path.as_str(), request.text()),
            ("/v1/completions", PLAIN)
        );
    }
}

#[test]
fn a_chat_answer_becomes_a_text_completion_on_both_roads() {
    let upstream = Upstream::answering(json(200, CHAT));
    let gateway = Gateway::before(&upstream.address);
    for road in ROADS {
        let answer = ask(&gateway.address, &[&[GROQ], road].concat(), PLAIN);
        let expected = CHAT.replace("chat.completion", "text_completion").replace(
            r#"{"index":0,"message":{"role":"assistant","content":" hello"},"#,
            r#"{"text":" hello","index":0,"logprobs":null,"#,
        );
        assert_eq!((answer.status, answer.text()), (200, expected.as_str()));
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    let request = &upstream.seen()[0];
    assert_eq!(request.path, "/openai/v1/chat/completions");
    assert_eq!(
        request.text(),
        r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":5}"#
    );
}

/// Of what came in one read, however many chunks of its provider's it was, nothing is sent by itself: neither head, nor event,
/// nor end.
#[test]
fn what_came_in_one_read_leaves_in_one_write() {
    let events = [
        event(" a", None),
        event(" b", Some("stop")),
        DONE.to_owned(),
    ];
    let chunks = events.each_ref().map(chunk).concat();
    let upstream = Upstream::answering([STREAM, &chunks, LAST_CHUNK].concat());
    let gateway = Gateway::before(&upstream.address);
    for _ in 0..10 {
        let mut client = Client::connect(&gateway.address);
        client.send(post(&[CONDUCTED], STREAMED));
        let mut space = vec![0; 64 << 10];
        let read = client.stream.read(&mut space).unwrap();
        let answer = String::from_utf8_lossy(&space[..read]);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        let body = events.concat();
        let own = format!("\r\n\r\n{:X}\r\n{body}\r\n0\r\n\r\n", body.len());
        assert!(answer.ends_with(&own), "{answer}");
    }
}

#[test]
fn each_event_reaches_the_client_before_the_next_is_sent() {
    // The upstream sends an event only after the client has the one before it: a held-back event would stop both.
    let (got, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let upstream = Upstream::start(move |_, stream| {
        let wait = wait.lock().unwrap();
        stream.write_all(STREAM).unwrap();
        for text in [" a", " b", " c"] {
            stream.write_all(&chunk(event(text, None))).unwrap();
            wait.recv_timeout(crate::support::PATIENCE).unwrap();
        }
        stream
            .write_all(&chunk(event("", Some("stop")) + DONE))
            .unwrap();
        stream.write_all(LAST_CHUNK).unwrap();
        After::Keep
    });
    let gateway = Gateway::before(&upstream.address);
    for road in ROADS {
        let mut client = Client::connect(&gateway.address);
        client.send(post(road, STREAMED));
        let head = client.read_head();
        assert_eq!(head.header("content-type"), Some("text/event-stream"));
        for text in [" a", " b", " c"] {
            assert_eq!(client.read_chunk().unwrap(), event(text, None).as_bytes());
            got.send(()).unwrap();
        }
        let mut rest = Vec::new();
        while let Some(piece) = client.read_chunk().filter(|piece| !piece.is_empty()) {
            rest.extend(piece);
        }
        assert_eq!(
            String::from_utf8(rest).unwrap(),
            event("", Some("stop")) + DONE
        );
    }
}

#[test]
fn a_chat_stream_becomes_a_text_stream_on_both_roads() {
    let deltas = concat!(
        "data: {\"id\":\"c\",\"created\":7,\"model\":\"big\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
        "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" hello\"}}]}\n\n",
        "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
        "data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2,\"total_tokens\":3}}\n\n",
        "data: [DONE]\n\n",
    );
    let upstream = Upstream::answering([STREAM, &chunk(deltas), LAST_CHUNK].concat());
    let gateway = Gateway::before(&upstream.address);
    let chunk_of = |text: &str, finish: &str| {
        format!(
            "data: {{\"id\":\"c\",\"object\":\"text_completion\",\"created\":7,\"model\":\"big\",\"choices\":[{{\"text\":\"{text}\",\"index\":0,\"logprobs\":null,\"finish_reason\":{finish}}}]}}\n\n"
        )
    };
    for road in ROADS {
        let answer = ask(&gateway.address, &[&[GROQ], road].concat(), STREAMED);
        let expected = chunk_of(" hello", "null") + &chunk_of("", "\"stop\"") + DONE;
        assert_eq!(answer.text(), expected);
        assert!(answer.complete);
    }
    assert!(
        upstream.seen()[0]
            .text()
            .contains(r#""stream_options":{"include_usage":true}"#)
    );
    // The client did not ask for the counts; the log has them all the same.
    gateway.wait_for_log("completion_tokens=2");
}

#[test]
fn usage_comes_to_those_who_ask() {
    let counts = "data: {\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":1,\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2,\"total_tokens\":3}}\n\n";
    let stream = [event(" a", Some("length")).as_str(), counts, DONE].concat();
    let upstream = Upstream::answering([STREAM, &chunk(&stream), LAST_CHUNK].concat());
    let gateway = Gateway::before(&upstream.address);
    let asking = STREAMED.replace("true}", r#"true,"stream_options":{"include_usage":true}}"#);
    for road in ROADS {
        assert_eq!(ask(&gateway.address, road, &asking).text(), stream);
        let silent = ask(&gateway.address, road, STREAMED);
        assert_eq!(silent.text(), stream.replace(counts, ""));
    }
}

#[test]
fn the_upstream_gets_an_allow_list_of_headers_and_so_does_the_client() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nset-cookie: a=b\r\nserver: x\r\nx-ratelimit-remaining-requests: 7\r\nopenai-processing-ms: 5\r\n";
    let answer = format!("{head}content-length: {}\r\n\r\n{TEXT}", TEXT.len());
    let upstream = Upstream::answering(answer);
    let gateway = Gateway::before(&upstream.address);
    let sent = [
        ("authorization", "Bearer sk-mine"),
        ("cookie", "secret=1"),
        ("x-portkey-forward-headers", "x-team, x-cost"),
        ("x-team", "blue"),
        ("x-other", "1"),
        ("accept-encoding", "gzip"),
        ("openai-organization", "org-1"),
        ("x-portkey-trace-id", "trace-1"),
        ("x-forwarded-for", "10.0.0.1"),
    ];
    for road in ROADS {
        let answer = ask(&gateway.address, &[&sent, road].concat(), PLAIN);
        assert_eq!(answer.header("set-cookie"), None);
        assert_eq!(answer.header("server"), None);
        assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some("7"));
        assert_eq!(answer.header("openai-processing-ms"), Some("5"));
        assert_eq!(answer.header("x-portkey-trace-id"), Some("trace-1"));
        assert_eq!(answer.header("x-portkey-provider"), Some("openai"));
        assert_eq!(answer.header("x-portkey-retry-attempt-count"), Some("0"));
        assert_eq!(
            answer.header("x-portkey-last-used-option-index"),
            Some("config")
        );
        assert!(answer.header("x-request-id").unwrap().starts_with("req_"));
    }
    for request in upstream.seen() {
        let mut names: Vec<&str> = request
            .headers
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        names.sort_unstable();
        let expected = [
            "accept",
            "accept-encoding",
            "authorization",
            "content-length",
            "content-type",
            "host",
            "openai-organization",
            "user-agent",
            "x-team",
        ];
        assert_eq!(names, expected);
        assert_eq!(request.header("authorization"), Some("Bearer sk-mine"));
        assert_eq!(request.header("accept-encoding"), Some("identity"));
        assert_eq!(request.header("host"), Some(upstream.address.as_str()));
    }
}

#[test]
fn mistakes_are_400_with_the_parameter_and_nothing_goes_upstream() {
    let upstream = Upstream::answering(json(200, TEXT));
    let gateway = Gateway::before(&upstream.address);
    for (body, param) in [
        (
            r#"{"model":"m","prompt":"x","temperature":9}"#,
            "temperature",
        ),
        (
            r#"{"model":"m","prompt":"x","max_tokens":"many"}"#,
            "max_tokens",
        ),
        (
            r#"{"model":"m","prompt":"x","stop":["a","b","c","d",5]}"#,
            "stop",
        ),
        (r#"{"model":"m","prompt":{}}"#, "prompt"),
        (r#"{"model":7}"#, "model"),
    ] {
        let answer = ask(&gateway.address, &[], body);
        let json = answer.json();
        assert_eq!(answer.status, 400, "{body}");
        assert_eq!(json["error"]["param"], param, "{body}");
        assert_eq!(json["error"]["type"], "invalid_request_error");
        assert_eq!(json["status"], "failure");
        assert_eq!(json["message"], json["error"]["message"]);
    }
    let refused = ask(
        &gateway.address,
        &[GROQ],
        r#"{"model":"m","prompt":"x","suffix":"y"}"#,
    );
    assert_eq!(
        (refused.status, refused.json()["error"]["param"].as_str()),
        (400, Some("suffix"))
    );
    for body in ["", "nonsense", "[]", "\"x\""] {
        let answer = ask(&gateway.address, &[], body);
        assert_eq!(answer.status, 400, "{body:?}");
    }
    assert!(upstream.seen().is_empty());
}

// The upstream may get the very bytes: nothing in them may be read in two ways.
#[test]
fn a_body_that_could_be_read_in_two_ways_goes_nowhere() {
    let upstream = Upstream::answering(json(200, TEXT));
    let gateway = Gateway::before(&upstream.address);
    let deep = format!(
        r#"{{"model":"m","prompt":"SECRET","x":{}{}}}"#,
        "[".repeat(64),
        "]".repeat(64)
    );
    for (body, param) in [
        (
            r#"{"model":"m","prompt":"SECRET","model":"other"}"#,
            Some("model"),
        ),
        (
            r#"{"model":"m","prompt":"SECRET","\u006dodel":"other"}"#,
            Some("model"),
        ),
        (
            r#"{"model":"m","prompt":"SECRET","MODEL":"other"}"#,
            Some("model"),
        ),
        (
            r#"{"model":"m","prompt":"a","prompt":"SECRET"}"#,
            Some("prompt"),
        ),
        (r#"{"model":"m","prompt":"SECRET\ud83d"}"#, Some("prompt")),
        (
            r#"{"model":"m","prompt":"a","SECRET-1":1,"SECRET-1":2}"#,
            None,
        ),
        (r#"{"model":"m","prompt":"a","SECRET-1":"\ud83d"}"#, None),
        (r#"{"model":"m","prompt":"SECRET"} {"model":"n"}"#, None),
        (&deep, None),
    ] {
        for path in ["/v1/completions", "/v1/fim/completions"] {
            for road in ROADS {
                let mut client = Client::connect(&gateway.address);
                client.send(request("POST", path, road, body));
                let answer = client.read();
                assert_eq!(answer.status, 400, "{body}");
                assert_eq!(answer.json()["error"]["param"].as_str(), param, "{body}");
                assert!(!answer.text().contains("SECRET"), "{}", answer.text());
            }
        }
    }
    for (config, told) in [
        (
            r#"{"provider":"openai","api_key":"SECRET","api_key":"b"}"#,
            "`api_key` is named twice",
        ),
        (
            r#"{"provider":"openai","SECRET-1":1,"SECRET-1":2}"#,
            "a field is named twice",
        ),
    ] {
        let answer = ask(&gateway.address, &[("x-portkey-config", config)], PLAIN);
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert_eq!(answer.json()["error"]["param"], "x-portkey-config");
        assert!(answer.text().contains(told) && !answer.text().contains("SECRET"));
    }
    assert!(upstream.seen().is_empty());
    // Whole characters pass as they were written.
    let written = r#"{"model":"m","prompt":"\ud83d\ude00 \\ud83d","max_tokens":5,"x":[[]]}"#;
    assert_eq!(ask(&gateway.address, &[], written).status, 200);
    assert_eq!(upstream.sole().text(), written);
}

#[test]
fn a_connection_lives_on_after_answers_and_refusals() {
    let upstream = Upstream::answering(json(200, TEXT));
    let gateway = Gateway::before(&upstream.address);
    let mut client = Client::connect(&gateway.address);
    for (headers, body, status) in [
        (&[][..], PLAIN, 200),
        (&[], "nonsense", 400),
        (&[CONDUCTED], PLAIN, 200),
        (&[("x-portkey-provider", "nobody")], PLAIN, 400),
        (&[], PLAIN, 200),
    ] {
        client.send(post(headers, body));
        assert_eq!(client.read().status, status);
    }
    // Phases and conductor have a pool each; a connection of either is used again.
    assert!(upstream.seen().iter().all(|request| request.connection < 2));
}

#[test]
fn a_stream_s_native_finish_reason_is_told_to_lenient_clients() {
    let stream = [event(" a", None), event("", Some("eos")), DONE.to_owned()].concat();
    let upstream = Upstream::answering([STREAM, &chunk(stream), LAST_CHUNK].concat());
    let gateway = Gateway::before(&upstream.address);
    let lenient = ("x-portkey-strict-open-ai-compliance", "false");
    for road in ROADS {
        let strict = ask(&gateway.address, road, STREAMED);
        assert!(
            strict.text().contains(r#""finish_reason":"stop"}"#),
            "{}",
            strict.text()
        );
        let told = ask(&gateway.address, &[&[lenient], road].concat(), STREAMED);
        assert!(
            told.text().contains(r#""native_finish_reason":"eos""#),
            "{}",
            told.text()
        );
    }
}

#[test]
fn a_provider_declared_in_yaml_alone_answers() {
    let upstream = Upstream::answering(json(200, CHAT));
    let gateway = Gateway::start(&format!(
        "  providers:\n    my-llm: {{ base_url: \"http://{}/api\", dialect: chat, auth: {{ header: x-key }}, api_key: \"env:MY_LLM_KEY\", default_model: tiny }}\n  models: {{ \"tiny-*\": {{ provider: my-llm, model: tiny }} }}\n",
        upstream.address
    ).replace("env:MY_LLM_KEY", "sk-yaml"));
    let named = ask(
        &gateway.address,
        &[("x-portkey-provider", "my-llm")],
        r#"{"prompt":"hi"}"#,
    );
    let mapped = ask(&gateway.address, &[], r#"{"model":"tiny-2","prompt":"hi"}"#);
    for answer in [named, mapped] {
        assert_eq!(
            (answer.status, answer.header("x-portkey-provider")),
            (200, Some("my-llm"))
        );
        assert_eq!(answer.json()["choices"][0]["text"], " hello");
    }
    for request in upstream.seen() {
        assert_eq!(request.path, "/api/chat/completions");
        assert_eq!(request.header("x-key"), Some("sk-yaml"));
        assert!(request.text().contains(r#""model":"tiny""#));
    }
}

#[test]
fn lines_and_binary_messages_become_events_on_both_roads() {
    for (dialect, media, file, path) in [
        (
            "ollama",
            "application/x-ndjson",
            "ollama/text.ndjson",
            "/api/generate",
        ),
        (
            "bedrock",
            "application/vnd.amazon.eventstream",
            "bedrock/text.eventstream",
            "/model/us.amazon.nova-lite-v1%3A0/converse-stream",
        ),
        (
            "bedrock-invoke",
            "application/vnd.amazon.eventstream",
            "bedrock-invoke/llama.eventstream",
            "/model/meta.llama3-8b-instruct-v1%3A0/invoke-with-response-stream",
        ),
    ] {
        let fixture = format!("{}/tests/fixtures/{file}", env!("CARGO_MANIFEST_DIR"));
        let bytes = std::fs::read(fixture).unwrap();
        let head = String::from_utf8(STREAM.to_vec()).unwrap();
        let head = head.replace("text/event-stream", media).into_bytes();
        // In pieces that end where no message does.
        let pieces: Vec<u8> = bytes.chunks(100).flat_map(chunk).collect();
        let upstream = Upstream::answering([&head, &*pieces, LAST_CHUNK].concat());
        let gateway = Gateway::start(&format!(
            "  providers:\n    own: {{ base_url: \"http://{}\", dialect: {dialect}, auth: none }}\n  default: {{ provider: own, model: m }}\n",
            upstream.address
        ));
        let model = match dialect {
            "bedrock" => "us.amazon.nova-lite-v1:0",
            _ => "meta.llama3-8b-instruct-v1:0",
        };
        for road in ROADS {
            let body = format!(r#"{{"model":"{model}","prompt":"hi","stream":true}}"#);
            let answer = ask(&gateway.address, road, &body);
            assert_eq!(answer.header("content-type"), Some("text/event-stream"));
            let text = answer.text();
            assert!(
                text.contains("Crème") && text.ends_with(DONE),
                "{dialect}: {text}"
            );
        }
        for request in upstream.seen() {
            assert_eq!(
                (&*request.path, request.header("accept")),
                (path, Some(media))
            );
        }
    }
}
