//! Test cases to start from: what the repository's fixtures and confs become as input of each target.

use serde_json::Value;

use super::{frames::told, input::APART, relays::ALL};
use crate::dialect::Dialect;

type Cases = Vec<Vec<u8>>;

pub fn sse(path: &str, text: &[u8]) -> Cases {
    of(path, ".sse", &[1, 0], text)
}

pub fn json_lines(path: &str, text: &[u8]) -> Cases {
    of(path, ".ndjson", &[1, 0], text)
}

pub fn event_stream(path: &str, text: &[u8]) -> Cases {
    of(path, ".eventstream", &[1, 0], text)
}

pub fn message(path: &str, text: &[u8]) -> Cases {
    of(path, ".eventstream", &[1, 0], &told(text))
}

/// Single frames of a stream.
pub fn frame(path: &str, text: &[u8]) -> Cases {
    let mut cases = Vec::new();
    for dialect in speakers(path) {
        if path.ends_with(".eventstream") {
            for part in told(text).split(|&byte| byte == APART).take(6) {
                let line = [part.get(1..).unwrap_or_default()].concat();
                let space = memchr::memchr(b' ', &line).unwrap_or_default();
                let (event, data) = line.split_at(space);
                cases.push([&[dialect, 1], event, b"\n", data.trim_ascii_start()].concat());
            }
        }
        if path.ends_with(".sse") || path.ends_with(".ndjson") {
            for line in text.split(|&byte| byte == b'\n').take(12) {
                let data = line.strip_prefix(b"data:").unwrap_or(line).trim_ascii();
                cases.push([&[dialect, 1, b'\n'], data].concat());
            }
        }
    }
    cases
}

pub fn failure(path: &str, text: &[u8]) -> Cases {
    let mut cases = Vec::new();
    for dialect in speakers(path)
        .into_iter()
        .filter(|_| path.contains("errors"))
    {
        cases.push([&[dialect, 15], text].concat());
    }
    cases
}

pub fn reply(path: &str, text: &[u8]) -> Cases {
    let mut cases = Vec::new();
    for dialect in speakers(path)
        .into_iter()
        .filter(|_| path.ends_with(".json"))
    {
        for head in [
            [dialect, 0, 0, 1],
            [dialect, 1, 0x12, 9],
            [dialect, 0x20, 0, 200],
        ] {
            cases.push([&head, text].concat());
        }
    }
    cases
}

pub fn stream(path: &str, text: &[u8]) -> Cases {
    let mut cases = Vec::new();
    let text = match path.rsplit('.').next() {
        Some("eventstream") => told(text),
        Some("sse" | "ndjson" | "json") => text.to_vec(),
        _ => return cases,
    };
    let whole = if path.ends_with(".json") { 0x80 } else { 0 };
    for dialect in speakers(path) {
        for head in [
            [dialect, 0, 0, 1],
            [dialect, 3, 0x12, 9],
            [dialect, 4, 0x1b, 200],
            [dialect, 0x22, 0, 3],
        ] {
            let [dialect, how, edits, cuts] = head;
            cases.push([&[dialect | whole, how, edits, cuts], &*text].concat());
        }
    }
    cases
}

pub fn request(path: &str, _: &[u8]) -> Cases {
    let bodies = [
        r#"{"model":"m","prompt":"Say \u00e9","max_tokens":7,"temperature":0.5,"top_p":1,"n":2,"stream":true,"stop":["a","b"],"user":"u"}"#,
        r#"{"model":"m","prompt":["a","b"],"presence_penalty":1,"frequency_penalty":-1,"best_of":3,"logprobs":2,"echo":true,"seed":-5,"logit_bias":{"50256":-100}}"#,
        r#"{"model":"m","prompt":[1,2,3],"stream_options":{"include_usage":true,"continuous_usage_stats":true},"top_k":3,"max_completion_tokens":4}"#,
        r#"{"model":"codestral-latest","prompt":"def f(","suffix":"return 1","random_seed":4,"min_tokens":1,"max_tokens":null}"#,
        r#"{"model":"meta/llama-3","prompt":[[1],[2,3]],"metadata":{"a":"b"},"extra":{"deep":[[[[1]]]]}}"#,
    ];
    let is_first = path.ends_with("conf/gateway.yaml");
    let heads = (0..80_u8).filter(|_| is_first);
    heads
        .flat_map(|at| bodies.map(|body| [&[at, at % 16], body.as_bytes()].concat()))
        .collect()
}

pub fn head(path: &str, text: &[u8]) -> Cases {
    let mut cases = Vec::new();
    for case in recorded(path, text) {
        let headers = case.get("headers").and_then(Value::as_object);
        let lines = headers
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some(format!("{name}: {}", value.as_str()?)));
        let config = case
            .get("config")
            .map(|config| format!("x-portkey-config: {config}"));
        let lines: Vec<String> = lines.chain(config).collect();
        for first in ["POST /v1/completions", "GET /v1/models?a=b"] {
            cases.push(format!("{first}\nhost: a.app.example\n{}", lines.join("\n")).into_bytes());
        }
    }
    if path.ends_with("conf/gateway.yaml") {
        let heads = [
            "POST /v1/fim/completions\ncontent-type: application/json; a=b\nx-portkey-provider: mistral-ai\nx-portkey-forward-headers: x-a, x-b\nx-a: 1",
            "POST /app/../x\nhost: a.app.example:8787\nx-portkey-metadata: {\"a\":\"b\"}",
            "GET /static/a.js?b\nupgrade: websocket\nconnection: upgrade",
            "POST /v1/completions\nx-portkey-provider: azure-openai\nx-portkey-azure-resource-name: other\nx-portkey-azure-deployment-id: d\nx-portkey-azure-api-version: 2024-06-01",
            "POST /v1/completions\nx-portkey-provider: bedrock\nx-portkey-aws-access-key-id: AKIAEXAMPLE\nx-portkey-aws-secret-access-key: s\nx-portkey-aws-region: eu-west-1",
            "POST /v1/completions\nx-portkey-provider: openai\nx-portkey-custom-host: https://a.models.example/v1\nauthorization: Bearer sk-client-0123456789",
            "POST /v1/completions\nx-portkey-request-timeout: 100\nx-portkey-strict-open-ai-compliance: false\nx-completions-unsupported: drop\nx-completions-prompt-as: prefill",
        ];
        cases.extend(heads.map(|head| head.as_bytes().to_vec()));
    }
    cases
}

pub fn raw_head(path: &str, _: &[u8]) -> Cases {
    let heads = [
        "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nabcdGET / HTTP/1.1\r\n",
        "POST /a?b HTTP/1.1\r\nhost: a:1\r\ntransfer-encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nx: y\r\n\r\nGET",
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        "GET http://a/b HTTP/1.0\r\n\r\n",
        "POST / HTTP/1.1\nhost: a\ncontent-length: 0\n\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ];
    listed(path, &heads, &[3])
}

pub fn config(path: &str, text: &[u8]) -> Cases {
    let cases = recorded(path, text);
    let configs = cases.iter().filter_map(|case| case.get("config"));
    configs
        .map(|config| config.to_string().into_bytes())
        .collect()
}

/// The configs of the recorded cases stand in one file.
fn recorded(path: &str, text: &[u8]) -> Vec<Value> {
    let is_one = path.ends_with("portkey/cases.json");
    let cases = is_one.then(|| serde_json::from_slice(text).unwrap_or_default());
    cases.unwrap_or_default()
}

pub fn fan_out(path: &str, text: &[u8]) -> Cases {
    let is_one = path.ends_with(".json") || path.ends_with(".sse");
    let heads =
        (0..70_u8).filter(|_| is_one && (path.contains("/chat/") || path.contains("/openai/")));
    heads
        .map(|at| [&[at, at % 7, 1], text, &[APART], text].concat())
        .collect()
}

pub fn conf(path: &str, text: &[u8]) -> Cases {
    let mut cases = of(path, ".yaml", &[], text);
    // Its top-level keys one by one: a mutation of a whole conf fails at the first.
    let text = str::from_utf8(text).unwrap_or_default();
    let plain = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    let plain = plain.collect::<Vec<_>>().join("\n");
    for part in plain
        .split("\n\n")
        .filter(|part| part.starts_with("  ") && path.ends_with(".yaml"))
    {
        cases.push(format!("gateway:\n{part}\n").into_bytes());
    }
    cases
}

pub fn pause(path: &str, _: &[u8]) -> Cases {
    let texts = [
        "120",
        "1.5",
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "-1",
        "1e9",
        "99999999999999999999",
    ];
    listed(path, &texts, &[0, 50])
}

pub fn base(path: &str, _: &[u8]) -> Cases {
    let urls = [
        "https://api.client.example/v1",
        "http://127.0.0.1:9000/v1/",
        "https://a.models.example:443",
        "https://[::1]:8080/a/b",
        "https://user@host/",
        "https://a.models.example.evil.example",
        "HTTPS://API.CLIENT.EXAMPLE",
        "http://0x7f.1/",
        "https://xn--e1afmkfd.models.example/%2e%2e/a",
    ];
    listed(path, &urls, &[])
}

pub fn place(path: &str, _: &[u8]) -> Cases {
    let values = [
        "gpt-4\nmy-resource\n2024-06-01",
        "m\nhttps://x.openai.azure.com/openai/v1\nv1",
        "google/gemini-2\nproject\nus-central1",
        "m\neu-west-1",
        "m\na.b\n../x\n%2e",
        "m\nhttps://x.services.ai.azure.com/models\n2024-05-01-preview\ndeployment",
    ];
    let heads = (0..90_u8).filter(|_| path.ends_with("conf/gateway.yaml"));
    heads
        .flat_map(|at| values.map(|value| [&[at], value.as_bytes()].concat()))
        .collect()
}

pub fn follow(path: &str, _: &[u8]) -> Cases {
    let urls = [
        "https://stream.replicate.com/v1/files/bcwr-1",
        "https://api.replicate.com/v1/predictions/p/cancel?a=b",
        "https://stream.replicate.com:443",
        "https://stream.replicate.com.evil.example/v1",
        "http://169.254.169.254/latest",
    ];
    listed(path, &urls, &[])
}

pub fn reach(path: &str, _: &[u8]) -> Cases {
    let addresses = [
        "\u{7f}\0\0\u{1}",
        "\u{a}\0\0\u{1}",
        "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\u{1}",
    ];
    listed(path, &addresses, &[])
}

pub fn json(path: &str, text: &[u8]) -> Cases {
    of(path, ".json", &[], text)
}

pub fn stars(path: &str, _: &[u8]) -> Cases {
    listed(
        path,
        &["gpt-*\ngpt-4o", "a*b*c\naxxbyyc", "*a*\nbab", "**\n"],
        &[],
    )
}

/// Texts of no file: given once, with the conf that each key stands in.
fn listed(path: &str, texts: &[&str], head: &[u8]) -> Cases {
    let texts = texts.iter().filter(|_| path.ends_with("conf/gateway.yaml"));
    texts.map(|text| [head, text.as_bytes()].concat()).collect()
}

/// The file behind `head`, if its path ends so.
fn of(path: &str, end: &str, head: &[u8], text: &[u8]) -> Cases {
    let is_one = path.ends_with(end);
    is_one.then(|| [head, text].concat()).into_iter().collect()
}

/// The places in [`ALL`] of the dialects that a fixture's folder is of, and of those whose names begin so.
fn speakers(path: &str) -> Vec<u8> {
    let folder = |dialect: &&dyn Dialect| {
        let family = dialect.name().split('-').next().unwrap_or_default();
        path.contains(&format!("/{family}"))
    };
    let all = (0..).zip(ALL);
    all.filter(|(_, dialect)| folder(dialect))
        .map(|(at, _)| at)
        .collect()
}
