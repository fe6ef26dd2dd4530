//! A text with a gap, and a prompt of token ids, at providers that know neither; and Mistral's endpoint for gaps.

use std::io::Write;

use crate::support::{
    Gateway,
    client::{Answer, Client, request},
    upstream::{After, DONE, LAST_CHUNK, STREAM, TEXT, Upstream, chunk, event, json},
};

/// A gateway whose `vllm` is at `upstream`, with a prompt and a vocabulary of the conf's own.
fn before(upstream: &Upstream) -> Gateway {
    let tiny = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/tokenizers/tiny.json"
    );
    Gateway::start(&format!(
        concat!(
            "  providers:\n    vllm: {{ base_url: \"http://{}/v1\", auth: none }}\n    groq: {{ base_url: \"http://{}\" }}\n",
            "  infill:\n    - {{ models: \"acme-*\", prompt: \"<B>{{suffix}}<A>{{prefix}}\", stop: [\"<E>\"] }}\n",
            "  tokenizers: {{ \"acme-*\": {} }}\n",
        ),
        upstream.address, upstream.address, tiny
    ))
}

fn ask(gateway: &Gateway, path: &str, provider: &str, body: &str) -> Answer {
    let headers = [("x-portkey-provider", provider)];
    let mut client = Client::connect(&gateway.address);
    client.send(request("POST", path, &headers, body));
    client.read()
}

const FIM: &str = "/v1/fim/completions";

#[test]
fn a_confs_prompt_and_vocabulary_reach_the_upstream() {
    let upstream = Upstream::answering(json(200, TEXT));
    let gateway = before(&upstream);
    let ids = r#"{"model":"acme-1","prompt":[1,2],"suffix":"é","max_tokens":5}"#;
    let answer = ask(&gateway, "/v1/completions", "vllm", ids);
    assert_eq!((answer.status, answer.text()), (200, TEXT));
    assert_eq!(
        upstream.sole().text(),
        r#"{"model":"acme-1","prompt":"<B>é<A>Hello world","max_tokens":5,"stop":["<E>"]}"#
    );
    ask(
        &gateway,
        "/v1/completions",
        "groq",
        r#"{"model":"acme-1","prompt":[0,1]}"#,
    );
    let sent = upstream.seen()[1].clone();
    assert!(
        sent.text().contains(r#""content":"<|endoftext|>Hello""#),
        "{}",
        sent.text()
    );
    for (body, param) in [
        (r#"{"model":"acme-1","prompt":[7]}"#, "prompt"),
        (r#"{"model":"other","prompt":[1]}"#, "prompt"),
        (r#"{"model":"acme-1","prompt":"a","suffix":"b"}"#, "suffix"),
    ] {
        let answer = ask(&gateway, "/v1/completions", "groq", body);
        assert_eq!(answer.status, 400, "{body}");
        assert_eq!(answer.json()["error"]["param"], param, "{body}");
    }
    assert_eq!(upstream.seen().len(), 2);
}

#[test]
fn mistrals_endpoint_is_answered_in_its_shape_whole_and_streamed() {
    let upstream = Upstream::start(|request, stream| {
        if request.text().contains(r#""stream":true"#) {
            let events = [event(" a", None), event("b", Some("length"))].concat();
            let counts = r#"data: {"id":"cmpl-1","object":"text_completion","created":1,"model":"m","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}"#;
            let events = format!("{events}{counts}\n\n{DONE}");
            let answer = [STREAM, &chunk(events), LAST_CHUNK].concat();
            stream.write_all(&answer).unwrap();
        } else {
            stream.write_all(&json(200, TEXT)).unwrap();
        }
        After::Keep
    });
    let gateway = before(&upstream);
    let body = r#"{"model":"acme-1","prompt":"a","suffix":"b""#;
    let whole = ask(&gateway, FIM, "vllm", &format!("{body}}}"));
    assert_eq!(
        whole.text(),
        r#"{"id":"cmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":" hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}"#
    );
    let stream = ask(&gateway, FIM, "vllm", &format!(r#"{body},"stream":true}}"#));
    let head = r#"data: {"id":"cmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":"#;
    let expected = [
        r#"[{"index":0,"delta":{"role":"assistant","content":" a"},"finish_reason":null}]}"#,
        r#"[{"index":0,"delta":{"content":"b"},"finish_reason":null}]}"#,
        r#"[{"index":0,"delta":{"content":""},"finish_reason":"length"}],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}"#,
    ];
    let expected = expected
        .map(|choices| format!("{head}{choices}\n\n"))
        .concat();
    assert_eq!(stream.text(), expected + DONE);
    assert!(upstream.seen().iter().all(|request| {
        request.path == "/v1/completions" && request.text().contains("<B>b<A>a")
    }));
}

#[test]
fn mistrals_endpoint_tells_failures_as_the_other_does() {
    let upstream = Upstream::start(|request, stream| {
        if request.text().contains(r#""stream":true"#) {
            let answer = [STREAM, &chunk(event(" a", None)), LAST_CHUNK].concat();
            stream.write_all(&answer).unwrap();
        } else {
            let busy = r#"{"error":{"message":"busy","type":"x"}}"#;
            stream.write_all(&json(429, busy)).unwrap();
        }
        After::Keep
    });
    let gateway = before(&upstream);
    let body = r#"{"model":"acme-1","prompt":"a","suffix":"b""#;
    let busy = ask(&gateway, FIM, "vllm", &format!("{body}}}"));
    assert_eq!(busy.status, 429);
    assert_eq!(busy.json()["error"]["message"], "busy");
    let cut = ask(&gateway, FIM, "vllm", &format!(r#"{body},"stream":true}}"#));
    let events: Vec<_> = cut.text().split_terminator("\n\n").collect();
    assert_eq!(events.len(), 2, "{}", cut.text());
    assert!(events[0].contains(r#""content":" a""#) && events[1].contains(r#""error":{"#));
    assert!(!cut.text().contains("[DONE]"));
}
