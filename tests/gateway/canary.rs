//! Canaries: unique texts in every place a secret can stand, then a look into every place where it must not be.

use std::io::Write;

use crate::support::{
    Gateway,
    client::{CONDUCTED, Client, PLAIN, ask, post, request},
    free_address,
    upstream::{After, LAST_CHUNK, STREAM, Upstream, chunk, json, wait_for_close},
};

/// What no log, metric or error may hold. The upstream does get the first two.
const CLIENT_KEY: &str = "sk-canary-client-4f9a";
const PROMPT: &str = "canary-prompt-7d21";
const CONF_KEY: &str = "sk-canary-conf-b3c8";
const YAML_HEADER: &str = "canary-header-9e55";
const COOKIE: &str = "canary-cookie-1b60";
const QUERY: &str = "canary-query-c0de";
const METADATA: &str = "canary-metadata-52aa";
const REPLY: &str = "canary-reply-88fe";

const CANARIES: &[&str] = &[
    CLIENT_KEY,
    PROMPT,
    CONF_KEY,
    YAML_HEADER,
    COOKIE,
    QUERY,
    METADATA,
    REPLY,
];

/// An upstream that fails in every way, and says again what it was told.
fn upstream() -> Upstream {
    Upstream::start(|request, stream| {
        let key = request
            .header("authorization")
            .unwrap_or_default()
            .to_owned();
        let error = format!(r#"{{"error":{{"message":"refused {key}","type":"t"}}}}"#);
        let text = request.text();
        let answer = if text.contains("\"teapot\"") {
            json(418, &error)
        } else if text.contains("\"page\"") {
            format!(
                "HTTP/1.1 500 X\r\ncontent-length: {}\r\n\r\n{text}",
                text.len()
            )
            .into_bytes()
        } else if text.contains("\"cut\"") {
            [
                STREAM,
                &chunk(format!("data: {{\"choices\":[{{\"text\":\"{REPLY}\"")),
                b"zz",
            ]
            .concat()
        } else if text.contains("\"inside\"") {
            [STREAM, &chunk(format!("data: {error}\n\n")), LAST_CHUNK].concat()
        } else if text.contains("\"silent\"") {
            wait_for_close(stream);
            return After::Close;
        } else {
            json(
                200,
                &crate::support::upstream::TEXT.replace(" hello", REPLY),
            )
        };
        stream.write_all(&answer).unwrap();
        if text.contains("\"cut\"") {
            After::Close
        } else {
            After::Keep
        }
    })
}

#[test]
fn no_key_and_no_prompt_is_in_any_log_metric_or_error() {
    let upstream = upstream();
    let lines = format!(
        "  providers:\n    openai: {{ base_url: \"http://{0}/v1\", api_key: \"env:CANARY_KEY\", headers: {{ x-secret: {YAML_HEADER} }} }}\n    groq: {{ base_url: \"http://{0}/v1\", api_key: {CONF_KEY} }}\n    down: {{ base_url: \"http://{1}/v1\", api_key: {CONF_KEY} }}\n  default: {{ provider: openai }}\n  timeouts: {{ read: 300ms }}\n",
        upstream.address,
        free_address(),
    );
    let variables = [
        ("CANARY_KEY", CONF_KEY),
        ("RUST_LOG", "trace"),
        ("RUST_BACKTRACE", "1"),
    ];
    let gateway = Gateway::start_with(&lines, &variables);
    let mut told = Vec::new();
    for provider in ["openai", "groq", "down", "nobody"] {
        for model in ["fine", "teapot", "page", "cut", "inside", "silent", "wrong"] {
            for stream in [false, true] {
                for own_key in [false, true] {
                    told.push(call(&gateway, provider, model, stream, own_key));
                }
            }
        }
    }
    odd_requests(&gateway, &mut told);
    gateway.signal("TERM");
    gateway.wait_for_log("draining");
    look(&gateway.logged(), "the log", CANARIES);
    for body in &told {
        // An answer may hold the reply; an error holds nothing.
        let may = if body.contains("\"error\"") {
            CANARIES
        } else {
            &CANARIES[..7]
        };
        look(body, "an answer", may);
    }
}

fn call(gateway: &Gateway, provider: &str, model: &str, stream: bool, own_key: bool) -> String {
    let temperature = if model == "wrong" { 9 } else { 1 };
    let body = format!(
        r#"{{"model":"{model}","prompt":"{PROMPT}","max_tokens":5,"temperature":{temperature},"stream":{stream}}}"#
    );
    let key = format!("Bearer {CLIENT_KEY}");
    let metadata = format!(r#"{{"user":"{METADATA}"}}"#);
    let mut headers = vec![
        ("x-portkey-provider", provider),
        ("cookie", COOKIE),
        ("x-portkey-metadata", metadata.as_str()),
    ];
    if own_key {
        headers.push(("authorization", &key));
        headers.push(CONDUCTED);
    }
    let answer = ask(&gateway.address, &headers, &body);
    format!(
        "{:?}\n{}",
        answer.headers,
        String::from_utf8_lossy(&answer.body)
    )
}

/// Requests that are broken where a secret stands, other paths, and the operator's port.
fn odd_requests(gateway: &Gateway, told: &mut Vec<String>) {
    let key = format!("Bearer {CLIENT_KEY}");
    let config = format!(r#"{{"provider":"openai","api_key":"{CLIENT_KEY}","retry":{{}}}}"#);
    let broken = format!(r#"{{"api_key":"{CLIENT_KEY}",,}}"#);
    let host = format!("https://{CLIENT_KEY}@host/");
    for headers in [
        vec![("x-portkey-config", config.as_str())],
        vec![("x-portkey-config", broken.as_str())],
        vec![("x-portkey-custom-host", host.as_str())],
        vec![
            ("authorization", key.as_str()),
            ("authorization", key.as_str()),
        ],
        vec![("x-portkey-metadata", METADATA)],
    ] {
        let answer = ask(&gateway.address, &headers, PLAIN);
        assert_eq!(answer.status, 400);
        told.push(answer.text().to_owned());
    }
    let not_json = format!(r#"{{"model":"m","prompt":"{PROMPT}" {CLIENT_KEY}"#);
    told.push(ask(&gateway.address, &[], &not_json).text().to_owned());
    let wrong = format!(r#"{{"model":"m","prompt":{{"{PROMPT}":1}},"{CLIENT_KEY}":2}}"#);
    told.push(ask(&gateway.address, &[], &wrong).text().to_owned());
    let mut client = Client::connect(&gateway.address);
    client.send(request(
        "GET",
        &format!("/v1/models?key={QUERY}"),
        &[("authorization", &key)],
        "",
    ));
    client.read();
    let mut client = Client::connect(&gateway.address);
    // Not HTTP from the middle of the head on.
    client.send(format!(
        "POST /v1/completions HTTP/1.1\r\nauthorization: {key}\r\nbad header {CLIENT_KEY}\r\n\r\n"
    ));
    client.read();
    let mut client = Client::connect(&gateway.address);
    let half = post(
        &[("authorization", &key)],
        &format!(r#"{{"prompt":"{PROMPT}","model":"m"}}"#),
    );
    client.send(&half[..half.len() - 10]);
    drop(client);
    let mut client = Client::connect(&gateway.address);
    client.send(format!(
        "POST /v1/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz{PROMPT}\r\n"
    ));
    drop(client);
    let mut operator = Client::connect(&gateway.admin);
    operator.send(request("GET", "/metrics", &[], ""));
    let metrics = operator.read();
    assert!(metrics.text().contains("completions_requests_total"));
    told.push(metrics.text().to_owned() + "\"error\"");
}

fn look(sink: &str, name: &str, canaries: &[&str]) {
    for canary in canaries {
        if let Some(at) = sink.find(canary) {
            let start = sink[..at].rfind('\n').map_or(0, |line| line + 1);
            let line = sink[start..].lines().next().unwrap_or_default();
            panic!("{canary} is in {name}: {line}");
        }
    }
}
