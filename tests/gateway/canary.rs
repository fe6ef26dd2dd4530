//! Canaries: unique texts in every place a secret can stand, then a look into every place where it must not be, in each form that
//! a secret takes on its way.

use std::{fmt::Write as _, io::Write};

use base64::{Engine, engine::general_purpose};

use crate::support::{
    Gateway,
    app::digest,
    client::{Answer, CONDUCTED, Client, PLAIN, ask, post, request},
    free_address,
    upstream::{After, LAST_CHUNK, STREAM, TEXT, Upstream, chunk, json, wait_for_close},
};

/// What no log, metric or error may hold. Upstreams do get keys, prompts and what is forwarded.
const CLIENT_KEY: &str = "sk-7fQx2mZv-client-Lw83kTbR";
const OTHER_KEY: &str = "pk-1cHd9sWe-other-Xn46pGyA";
const CONFIG_KEY: &str = "ck-5vRj8uNo-config-Km27zBqS";
const CONF_KEY: &str = "gk-3yTb6iPl-conf-Vd95xMcE";
const AWS_SECRET: &str = "aw-8nUk4eQz-secret-Jr61hFoD";
const SESSION: &str = "st-2wGa7oXs-session-Pq38cLvI";
const YAML_HEADER: &str = "yh-6bMx1rCt-header-Zk74wNfU";
const COOKIE: &str = "co-9pEv5dHy-cookie-Tj52gSaQ";
const QUERY: &str = "qu-4kLw3fJn-query-Bh89mRxO";
const FORWARDED: &str = "fw-1zSo8cVg-forward-Yd63tKiW";
const METADATA: &str = "me-5tAq2hBu-metadata-Gx17nPeM";
const PROMPT: &str = "pr-8eRf6jKd-prompt-Cw94yTvL";
const ADMIN_TOKEN: &str = "ad-3gXz9vTm-console-Hn26bWkP";
/// What a model says is the client's, and nobody's else.
const REPLY: &str = "re-7uIy4wPc-reply-Qs15dFjX";

const CANARIES: &[&str] = &[
    CLIENT_KEY,
    OTHER_KEY,
    CONFIG_KEY,
    CONF_KEY,
    AWS_SECRET,
    SESSION,
    YAML_HEADER,
    COOKIE,
    QUERY,
    FORWARDED,
    METADATA,
    PROMPT,
    ADMIN_TOKEN,
];

/// How a text can show that is not told as it is.
fn forms(canary: &str) -> Vec<String> {
    let bearer = format!("Bearer {canary}");
    let (first, last) = (&canary[..11], &canary[canary.len() - 8..]);
    let mut forms = vec![
        canary.to_owned(),
        first.to_owned(),
        last.to_owned(),
        canary.chars().rev().collect(),
        digest(canary.as_bytes()),
        digest(bearer.as_bytes()),
        canary.replace('-', "%2D"),
        canary.replace('-', "%2d"),
    ];
    let encode = |byte: u8, text: &mut String, how: &str| match how {
        "%" => write!(text, "%{byte:02X}").unwrap(),
        "\\u" => write!(text, "\\u{byte:04x}").unwrap(),
        _ => write!(text, "{byte:02x}").unwrap(),
    };
    for how in ["%", "\\u", ""] {
        let mut text = String::new();
        canary.bytes().for_each(|byte| encode(byte, &mut text, how));
        forms.push(text);
    }
    for before in ["", "x", "xx", "Bearer "] {
        let text = format!("{before}{canary}");
        for engine in [
            &general_purpose::STANDARD_NO_PAD,
            &general_purpose::URL_SAFE_NO_PAD,
        ] {
            let encoded = engine.encode(&text);
            // Without the letters that what stands around it has a part in.
            forms.push(encoded[before.len().div_ceil(3) * 4..encoded.len() - 2].to_owned());
        }
    }
    forms
}

/// An upstream that fails in every way, and says again what it was told.
fn upstream() -> Upstream {
    Upstream::start(|request, stream| {
        let headers: Vec<&str> = request.headers.iter().map(|(_, value)| &**value).collect();
        let echo = headers.join(" ").replace(['"', '\\'], " ");
        let ours = ["authorization", "x-secret"].map(|name| request.header(name).unwrap_or("-"));
        let ours = ours.join(" ").replace('"', " ");
        let error = format!(
            r#"{{"error":{{"message":"refused {ours}","type":"{ours}"}},"told":"{echo}"}}"#
        );
        let text = request.text();
        let is = |model: &str| text.contains(&format!("\"{model}\""));
        let page = |status: &str, body: &str| {
            let length = body.len();
            format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
        };
        let answer = if is("teapot") {
            json(418, &error)
        } else if is("page") {
            page("500 X", &format!("<html>{echo} {text}</html>"))
        } else if is("odd") {
            page(
                "200 X",
                &format!("{{\"choices\":\"{echo} {}\"", text.replace('"', " ")),
            )
        } else if is("head") {
            format!("HTTP/1.1 2x0 {echo}\r\n{text}\r\n\r\n").into_bytes()
        } else if is("length") {
            format!("HTTP/1.1 200 X\r\ncontent-length: {echo}\r\n\r\n").into_bytes()
        } else if is("redirect") {
            format!(
                "HTTP/1.1 302 X\r\nlocation: /{}\r\ncontent-length: 0\r\n\r\n",
                echo.replace(' ', "/")
            )
            .into_bytes()
        } else if is("cut") {
            [
                STREAM,
                &chunk(format!("data: {{\"choices\":[{{\"text\":\"{REPLY}\"")),
                b"zz",
            ]
            .concat()
        } else if is("inside") {
            [STREAM, &chunk(format!("data: {error}\n\n")), LAST_CHUNK].concat()
        } else if is("silent") {
            wait_for_close(stream);
            return After::Close;
        } else {
            json(200, &TEXT.replace(" hello", REPLY))
        };
        stream.write_all(&answer).unwrap();
        match ["cut", "head", "length"].iter().any(|model| is(model)) {
            true => After::Close,
            false => After::Keep,
        }
    })
}

const MODELS: [&str; 11] = [
    "fine", "teapot", "page", "odd", "head", "length", "redirect", "cut", "inside", "silent",
    "wrong",
];

/// What levels and targets an operator in need might set: everything, and each library by name.
const LEVELS: [&str; 2] = [
    "trace",
    "trace,pingora=trace,pingora_core=trace,pingora_proxy=trace,h2=trace,rustls=trace,hyper=trace,tokio=trace,mio=trace",
];

#[test]
fn no_secret_is_in_any_log_metric_error_or_argument() {
    let upstream = upstream();
    for levels in LEVELS {
        sweep(&upstream, levels);
    }
}

fn sweep(upstream: &Upstream, levels: &str) {
    let lines = format!(
        "  admin: {{ listen: \"ADMIN\", token: \"env:CANARY_TOKEN\" }}\n  allowed_hosts: [\"{0}\", \"{1}\"]\n  providers:\n    openai: {{ base_url: \"http://{0}/v1\", api_key: \"env:CANARY_KEY\", headers: {{ x-secret: {YAML_HEADER} }} }}\n    groq: {{ base_url: \"http://{0}/v1\", api_key: {CONF_KEY} }}\n    own: {{ base_url: \"http://{0}\", dialect: bedrock }}\n    secure: {{ base_url: \"https://{0}/v1\", api_key: {CONF_KEY} }}\n    down: {{ base_url: \"http://{1}/v1\", api_key: {CONF_KEY} }}\n  default: {{ provider: openai }}\n  timeouts: {{ read: 200ms }}\n",
        upstream.address,
        free_address(),
    );
    let variables = [
        ("CANARY_KEY", CONF_KEY),
        ("CANARY_TOKEN", ADMIN_TOKEN),
        ("RUST_LOG", levels),
        ("RUST_BACKTRACE", "full"),
    ];
    let gateway = Gateway::start_with(&lines, &variables);
    let mut told = Vec::new();
    for provider in ["openai", "groq", "own", "secure", "down", "nobody"] {
        for model in MODELS {
            for stream in [false, true] {
                for own_key in [false, true] {
                    told.push(call(&gateway, provider, model, stream, own_key));
                }
            }
        }
    }
    for model in MODELS {
        told.push(call_by_config(&gateway, upstream, model));
    }
    odd_requests(&gateway, &mut told);
    let operated = operator(&gateway);
    let arguments = format!("/proc/{}/cmdline", gateway.child.id());
    let arguments = std::fs::read_to_string(arguments).unwrap();
    gateway.signal("TERM");
    let logged = gateway.wait_for_log("draining");
    assert!(logged.contains(" DEBUG ") || logged.contains("[DEBUG") || logged.contains("DEBUG"));
    keeps_to_its_own(&logged);
    look(&logged, "the log", &[CANARIES, &[REPLY]].concat());
    look(&arguments, "the arguments", CANARIES);
    look(
        &operated,
        "the operator's port",
        &[CANARIES, &[REPLY]].concat(),
    );
    for body in &told {
        // A good answer holds the reply; an error holds nothing.
        look(body, "an answer", CANARIES);
        let is_error = body.contains("\"error\"");
        look(body, "an error", if is_error { &[REPLY] } else { &[] });
    }
}

/// Other crates print heads and bodies below `info`.
fn keeps_to_its_own(logged: &str) {
    for line in logged.lines().filter(|line| line.starts_with('[')) {
        let mut words = line.trim_start_matches('[').split_whitespace().skip(1);
        let (level, target) = (words.next().unwrap(), words.next().unwrap());
        let own = target.starts_with("pingora_completions") || target.starts_with("access");
        assert!(own || !["DEBUG", "TRACE"].contains(&level), "{line}");
        assert!(!line.contains('?'), "a query, perhaps: {line}");
    }
}

fn show(answer: &Answer) -> String {
    let body = String::from_utf8_lossy(&answer.body);
    format!("{:?}\n{body}", answer.headers)
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
        ("x-portkey-forward-headers", "x-own"),
        ("x-own", FORWARDED),
        ("proxy-authorization", OTHER_KEY),
    ];
    match (own_key, provider) {
        (true, "own") => headers.extend([
            ("x-portkey-aws-access-key-id", "AKIDEXAMPLE"),
            ("x-portkey-aws-secret-access-key", AWS_SECRET),
            ("x-portkey-aws-session-token", SESSION),
        ]),
        (true, _) => headers.extend([("authorization", &*key), CONDUCTED]),
        (false, "groq") => headers.push(("x-portkey-api-key", OTHER_KEY)),
        (false, _) => {}
    }
    let path = format!("/v1/completions?api_key={QUERY}");
    let mut client = Client::connect(&gateway.address);
    client.send(request("POST", &path, &headers, &body));
    show(&client.read())
}

/// What is remembered of a target, and told to the operator, is remembered for configs alone.
fn call_by_config(gateway: &Gateway, upstream: &Upstream, model: &str) -> String {
    let config = format!(
        r#"{{"strategy":{{"mode":"fallback","cb_config":{{"failure_threshold":2}}}},"retry":{{"attempts":1}},"targets":[{{"provider":"openai","api_key":"{CONFIG_KEY}","custom_host":"http://{}/v1"}}]}}"#,
        upstream.address
    );
    let body = format!(r#"{{"model":"{model}","prompt":"{PROMPT}","max_tokens":5}}"#);
    show(&ask(
        &gateway.address,
        &[("x-portkey-config", &config)],
        &body,
    ))
}

/// Requests that are broken where a secret stands, and other paths.
fn odd_requests(gateway: &Gateway, told: &mut Vec<String>) {
    let key = format!("Bearer {CLIENT_KEY}");
    let config = format!(r#"{{"provider":"openai","api_key":"{CLIENT_KEY}","retry":{{}}}}"#);
    let twice = format!(r#"{{"{CLIENT_KEY}":1,"{CLIENT_KEY}":1}}"#);
    let broken = format!(r#"{{"api_key":"{CLIENT_KEY}",,}}"#);
    let host = format!("https://{CLIENT_KEY}@host/");
    for headers in [
        vec![("x-portkey-config", config.as_str())],
        vec![("x-portkey-config", broken.as_str())],
        vec![("x-portkey-config", twice.as_str())],
        vec![("x-portkey-metadata", twice.as_str())],
        vec![("x-portkey-custom-host", host.as_str())],
        vec![
            ("authorization", key.as_str()),
            ("authorization", key.as_str()),
        ],
        vec![("x-portkey-metadata", METADATA)],
    ] {
        let answer = ask(&gateway.address, &headers, PLAIN);
        assert_eq!(answer.status, 400);
        told.push(show(&answer));
    }
    for body in [
        format!(r#"{{"model":"m","prompt":"{PROMPT}" {CLIENT_KEY}"#),
        format!(r#"{{"model":"m","prompt":{{"{PROMPT}":1}},"{CLIENT_KEY}":2}}"#),
        format!(r#"{{"model":"m","{PROMPT}":1,"{PROMPT}":1}}"#),
        format!(r#"{{"model":"m","prompt":"{PROMPT} \ud83d"}}"#),
        format!(
            r#"{{"model":"m","prompt":"{PROMPT}","logit_bias":{{"{CLIENT_KEY}":"{PROMPT}"}}}}"#
        ),
    ] {
        told.push(show(&ask(&gateway.address, &[], &body)));
    }
    let path = format!("/v1/models?key={QUERY}");
    let mut client = Client::connect(&gateway.address);
    client.send(request(
        "GET",
        &path,
        &[("authorization", &key), ("cookie", COOKIE)],
        "",
    ));
    told.push(show(&client.read()));
    for sent in [
        // Not HTTP from the middle of the head on.
        format!(
            "POST /v1/completions HTTP/1.1\r\nauthorization: {key}\r\nbad header {CLIENT_KEY}\r\n\r\n"
        ),
        format!("POST /v1/completions?key={QUERY} HTTP/9.9\r\nauthorization: {key}\r\n\r\n"),
        format!(
            "POST http://{CLIENT_KEY}@gateway/v1/completions HTTP/1.1\r\nhost: {CLIENT_KEY}\r\nauthorization: {key}\r\n\r\n"
        ),
    ] {
        let mut client = Client::connect(&gateway.address);
        client.send(sent);
        told.push(show(&client.read()));
    }
    let half = post(
        &[("authorization", &key)],
        &format!(r#"{{"prompt":"{PROMPT}","model":"m"}}"#),
    );
    for sent in [
        half.as_bytes()[..half.len() - 10].to_vec(),
        format!(
            "POST /v1/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz{PROMPT}\r\n"
        )
        .into_bytes(),
        // HTTP/2, and then none.
        [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
            key.as_bytes(),
        ]
        .concat(),
        // TLS, by its first bytes.
        [b"\x16\x03\x01\x02\0", key.as_bytes()].concat(),
    ] {
        let mut client = Client::connect(&gateway.address);
        client.send(sent);
        drop(client);
    }
}

/// All that the operator's port says.
fn operator(gateway: &Gateway) -> String {
    let bearer = format!("Bearer {ADMIN_TOKEN}");
    let wrong = format!("Bearer {CLIENT_KEY}");
    let mut told = String::new();
    for (method, path) in [
        ("GET", "/metrics"),
        ("GET", "/targets"),
        ("GET", "/healthz"),
        ("GET", "/other"),
        ("POST", "/reload"),
    ] {
        for shown in [&bearer, &wrong] {
            let mut operator = Client::connect(&gateway.admin);
            let path = format!("{path}?token={QUERY}");
            operator.send(request(method, &path, &[("authorization", shown)], ""));
            told += &show(&operator.read());
        }
    }
    assert!(told.contains("completions_requests_total") && told.contains("\"state\""));
    told
}

fn look(sink: &str, name: &str, canaries: &[&str]) {
    for canary in canaries {
        for form in forms(canary) {
            if let Some(at) = sink.find(&form) {
                let start = sink[..at].rfind('\n').map_or(0, |line| line + 1);
                let line = sink[start..].lines().next().unwrap_or_default();
                panic!("{canary} as {form} is in {name}: {line}");
            }
        }
    }
}
