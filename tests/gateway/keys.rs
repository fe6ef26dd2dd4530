//! Keys: those that the gateway gives to its clients, and those that it holds for providers. Rows G7 and G9 of the fault list,
//! and 5 and 10 of its requirements on secrets.

use std::process::{Command, Stdio};

use pingora_completions::KeyHash;
use serde_json::{Value, json};

use crate::support::{
    BINARY, Gateway,
    client::{Answer, Client, PLAIN, ROADS, STREAMED, ask, request},
    upstream::{After, LAST_CHUNK, Request, STREAM, TEXT, Upstream, chunk, events, json as answer},
};

use std::io::Write;

/// Of no limits, with a tenant.
const ALL: &str = "pc-canary-all";
/// Of one provider, some models and one config.
const SOME: &str = "pc-canary-some";
/// With keys of its own at providers.
const TEAM: &str = "pc-canary-team";
/// Of one config alone.
const ONLY: &str = "pc-canary-only";
const OLD: &str = "pc-canary-old";
const CONF_KEYS: [&str; 5] = [
    "sk-canary-openai",
    "sk-canary-groq",
    "sk-canary-azure",
    "sk-canary-saved",
    "sk-canary-team",
];

/// Providers and a host that clients may choose.
struct Stage {
    gateway: Gateway,
    openai: Upstream,
    groq: Upstream,
    chosen: Upstream,
}

fn upstream() -> Upstream {
    Upstream::start(|request, stream| {
        let whole = match request.text().contains("\"stream\":true") {
            true => [STREAM, &chunk(events()), LAST_CHUNK].concat(),
            false => answer(200, TEXT),
        };
        stream.write_all(&whole).unwrap();
        After::Keep
    })
}

impl Stage {
    fn new() -> Self {
        Self::with("")
    }

    fn with(lines: &str) -> Self {
        let (openai, groq, chosen) = (upstream(), upstream(), upstream());
        let conf = conf(&openai.address, &groq.address, &chosen.address) + lines;
        let variables = [("TEAM_KEY", CONF_KEYS[4]), ("RUST_LOG", "trace")];
        let gateway = Gateway::start_with(&conf, &variables);
        Self {
            gateway,
            openai,
            groq,
            chosen,
        }
    }

    fn ask(&self, headers: &[(&str, &str)], body: &str) -> Answer {
        ask(&self.gateway.address, headers, body)
    }

    fn pass(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut client = Client::connect(&self.gateway.address);
        client.send(request(method, path, headers, ""));
        client.read()
    }

    fn seen(&self) -> Vec<Request> {
        let all = [&self.openai, &self.groq, &self.chosen];
        all.into_iter().flat_map(Upstream::seen).collect()
    }
}

fn conf(openai: &str, groq: &str, chosen: &str) -> String {
    let hash = |key| KeyHash::of(key).to_string();
    let [for_openai, for_groq, for_azure, for_saved, _] = CONF_KEYS;
    format!(
        "\x20 providers:
    openai: {{ base_url: \"http://{openai}/v1\", api_key: {for_openai} }}
    groq: {{ base_url: \"http://{groq}/openai/v1\", dialect: openai, api_key: {for_groq} }}
    azure-openai: {{ api_key: {for_azure}, options: {{ resource_name: ours }} }}
  default: {{ provider: openai, model: m }}
  models: {{ \"llama-*\": {{ provider: groq }} }}
  allowed_hosts: [\"{chosen}\"]
  configs:
    saved:
      strategy: {{ mode: fallback }}
      targets: [{{ provider: groq, api_key: {for_saved}, override_params: {{ model: big }} }}]
    other: {{ provider: groq }}
    keyed: {{ provider: openai, api_key: {for_saved} }}
  virtual_keys:
    all: {{ key_hash: \"{}\", tenant: search }}
    some: {{ key_hash: \"{}\", providers: [openai], models: [m, \"gpt-*\"], configs: [saved] }}
    team: {{ key_hash: \"{}\", provider_keys: {{ openai: \"env:TEAM_KEY\" }} }}
    only: {{ key_hash: \"{}\", providers: [], configs: [saved] }}
    old: {{ key_hash: \"{}\", expires: 2020-01-01 }}
",
        hash(ALL),
        hash(SOME),
        hash(TEAM),
        hash(ONLY),
        hash(OLD),
    )
}

fn bearer(key: &str) -> String {
    format!("Bearer {key}")
}

fn config(targets: &[Value]) -> String {
    json!({"strategy": {"mode": "fallback"}, "targets": targets}).to_string()
}

/// Every place of a request in which something could stand.
fn all_of(request: &Request) -> String {
    format!("{} {:?} {}", request.path, request.headers, request.text())
}

#[test]
fn nothing_goes_to_a_provider_without_a_key() {
    let stage = Stage::new();
    let expired = bearer(OLD);
    for (headers, message) in [
        (&[][..], "You didn't provide an API key."),
        (
            &[("authorization", "Bearer sk-own")],
            "Incorrect API key provided.",
        ),
        (
            &[("authorization", "Bearer pc-nobody")],
            "Incorrect API key provided.",
        ),
        (
            &[("x-portkey-api-key", "pc-nobody")],
            "Incorrect API key provided.",
        ),
        (
            &[("authorization", expired.as_str())],
            "The API key has expired.",
        ),
        (
            &[(
                "x-portkey-config",
                r#"{"provider":"openai","api_key":"sk-own"}"#,
            )],
            "You didn't",
        ),
    ] {
        let mut answers = vec![
            stage.pass("GET", "/v1/models", headers),
            stage.pass("POST", "/v1/chat/completions", headers),
            stage.pass("POST", "/v1/fim/completions", headers),
            stage.pass("DELETE", "/", headers),
            stage.pass("GET", "/v1/completions", headers),
        ];
        for road in ROADS {
            answers.push(stage.ask(&[headers, road].concat(), PLAIN));
            answers.push(stage.ask(&[headers, road].concat(), STREAMED));
        }
        for answer in answers {
            assert_eq!(answer.status, 401, "{headers:?} {}", answer.text());
            let error = &answer.json()["error"];
            assert!(
                error["message"].as_str().unwrap().starts_with(message),
                "{error}"
            );
            assert_eq!(error["type"], "invalid_request_error");
            assert_eq!(error["code"], "invalid_api_key");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        }
    }
    for path in ["/", "/health"] {
        assert_eq!(stage.pass("GET", path, &[]).status, 200, "{path}");
    }
    assert!(stage.seen().is_empty());
}

// Row G9.
#[test]
fn where_a_client_says_that_it_comes_from_opens_nothing() {
    let stage = Stage::new();
    let admin = stage.gateway.admin.clone();
    for forged in [
        "x-forwarded-for: 127.0.0.1\r\n",
        "x-forwarded-host: localhost\r\n",
        "x-forwarded-host: ADMIN\r\n",
        "x-real-ip: 127.0.0.1\r\n",
        "forwarded: for=127.0.0.1;host=localhost\r\n",
        "x-original-url: /health\r\n",
        "x-rewrite-url: /health\r\n",
        "",
    ] {
        for host in ["localhost", "127.0.0.1", "ADMIN", "gateway"] {
            for asking in [
                request("POST", "/v1/completions", &[], PLAIN),
                request("GET", "/v1/models", &[], ""),
            ] {
                let lines = format!("host: {host}\r\n{forged}").replace("ADMIN", &admin);
                let asking = asking.replace("host: gateway\r\n", &lines);
                let mut client = Client::connect(&stage.gateway.address);
                client.send(&asking);
                assert_eq!(client.read().status, 401, "{asking}");
            }
        }
    }
    assert!(stage.seen().is_empty());
}

#[test]
fn a_key_stands_for_the_confs_and_goes_nowhere() {
    let stage = Stage::new();
    let with_bearer = bearer(ALL);
    let carriers = [
        ("authorization", with_bearer.as_str()),
        ("authorization", ALL),
        ("x-portkey-api-key", ALL),
        ("x-api-key", ALL),
        ("api-key", ALL),
    ];
    for carrier in carriers {
        for road in ROADS {
            for body in [PLAIN, STREAMED] {
                let answer = stage.ask(&[&[carrier], road].concat(), body);
                assert_eq!(answer.status, 200, "{}", answer.text());
                assert!(!format!("{answer:?}").contains("canary"));
            }
        }
        let passed = stage.pass("GET", "/v1/models", &[carrier]);
        assert_eq!(passed.status, 200);
    }
    assert_eq!(stage.openai.seen().len(), carriers.len() * 5);
    for seen in stage.openai.seen() {
        assert_eq!(
            seen.header("authorization"),
            Some("Bearer sk-canary-openai")
        );
        assert!(!all_of(&seen).contains("pc-canary"), "{seen:?}");
    }
}

/// Which of the conf's keys a request has.
fn conf_keys(request: &Request) -> Vec<&'static str> {
    let all = all_of(request);
    let held = CONF_KEYS.into_iter().filter(|key| all.contains(key));
    held.collect()
}

/// G7: who chooses the host gets no key but his own. Every source of a key, at every source of a host, on every way.
#[test]
fn a_key_of_the_confs_goes_to_the_confs_host_alone() {
    let stage = Stage::with("  require_key: false\n");
    let host = format!("http://{}/v1", stage.chosen.address);
    let inline = config(&[json!({"provider": "openai", "custom_host": host})]);
    let single = json!({"provider": "openai", "custom_host": host}).to_string();
    let named = json!({"virtual_key": "openai", "custom_host": host}).to_string();
    let hosts = [
        vec![("x-portkey-custom-host", host.as_str())],
        vec![
            ("x-portkey-provider", "groq"),
            ("x-portkey-custom-host", host.as_str()),
        ],
        vec![("x-portkey-config", inline.as_str())],
        vec![("x-portkey-config", single.as_str())],
        vec![("x-portkey-config", named.as_str())],
        vec![
            ("x-portkey-config", "saved"),
            ("x-portkey-custom-host", host.as_str()),
        ],
        vec![
            ("x-portkey-config", "other"),
            ("x-portkey-custom-host", host.as_str()),
        ],
    ];
    let (all, team, own) = (bearer(ALL), bearer(TEAM), bearer("sk-own"));
    let keys = [
        vec![],
        vec![("authorization", own.as_str())],
        vec![("authorization", all.as_str())],
        vec![("authorization", team.as_str())],
        vec![("x-portkey-api-key", TEAM), ("authorization", own.as_str())],
    ];
    let mut count = 0;
    for place in &hosts {
        for key in &keys {
            let headers = [key.clone(), place.clone()].concat();
            let owns = key.iter().any(|(_, value)| *value == own);
            for road in ROADS {
                for body in [PLAIN, STREAMED] {
                    let answer = stage.ask(&[&headers, road].concat(), body);
                    assert_eq!(answer.status, 200, "{headers:?} {}", answer.text());
                    count += 1;
                }
            }
            stage.pass("GET", "/v1/models", &headers);
            count += 1;
            let seen = stage.chosen.seen();
            assert_eq!(seen.len(), count, "{headers:?}");
            for seen in &seen[count - 5..] {
                assert!(conf_keys(seen).is_empty(), "{headers:?} {seen:?}");
                assert!(!all_of(seen).contains("pc-canary"), "{headers:?} {seen:?}");
                let sent = seen.header("authorization");
                assert_eq!(sent, owns.then_some(own.as_str()), "{headers:?} {seen:?}");
            }
        }
    }
    assert!(stage.openai.seen().is_empty() && stage.groq.seen().is_empty());
}

/// The other half of G7: a place at a vendor's that the client names is no host of the conf's.
#[test]
fn a_resource_of_the_clients_gets_no_key() {
    let stage = Stage::new();
    let key = bearer(ALL);
    let headers = [
        ("authorization", key.as_str()),
        ("x-portkey-provider", "azure-openai"),
        ("x-portkey-azure-resource-name", "canary-theirs"),
        ("x-portkey-request-timeout", "1000"),
    ];
    let answer = stage.ask(&headers, PLAIN);
    // No such host, or no way there.
    assert!(
        [408, 502, 504].contains(&answer.status),
        "{}",
        answer.text()
    );
    assert!(!answer.text().contains("sk-canary"));
}

#[test]
fn a_clients_key_in_a_config_goes_nowhere() {
    let stage = Stage::new();
    let all = bearer(ALL);
    for field in [
        json!({"provider": "openai", "api_key": ALL}),
        json!({"provider": "openai", "api_key": "pc-canary-gone"}),
        json!({"virtual_key": ALL}),
        json!({"virtual_key": "all"}),
    ] {
        let config = field.to_string();
        let headers = [
            ("authorization", all.as_str()),
            ("x-portkey-config", &config),
        ];
        let answer = stage.ask(&headers, PLAIN);
        assert_eq!(answer.status, 400, "{config}: {}", answer.text());
        assert!(!answer.text().contains("canary"), "{}", answer.text());
    }
    assert!(stage.seen().is_empty());
}

#[test]
fn what_a_key_does_not_allow_is_refused_before_anything_goes_out() {
    let stage = Stage::new();
    let some = bearer(SOME);
    let ours = json!({"provider": "openai"});
    let theirs = config(&[ours.clone(), json!({"provider": "groq"})]);
    let renamed = config(&[
        ours.clone(),
        json!({"provider": "openai", "override_params": {"model": "big"}}),
    ]);
    let drawn = json!({
        "strategy": {"mode": "loadbalance"},
        "targets": [{"provider": "openai", "weight": 1}, {"provider": "groq", "weight": 0}],
    });
    let drawn = drawn.to_string();
    let hidden = config(&[
        ours.clone(),
        json!({"provider": "openai", "override_params": {"models": ["big"]}}),
    ]);
    let big = r#"{"model":"big","prompt":"x"}"#;
    let llama = r#"{"model":"llama-3","prompt":"x"}"#;
    let list = r#"{"model":"m","models":["big"],"prompt":"x"}"#;
    let provider = |name| ("x-portkey-provider", name);
    let config = |text| ("x-portkey-config", text);
    for (headers, body, told) in [
        (vec![provider("groq")], PLAIN, "provider `groq`"),
        (vec![], big, "model `big`"),
        (vec![], llama, "provider `groq`"),
        (vec![provider("openai")], llama, "model `llama-3`"),
        (vec![], list, "`models`"),
        (vec![config("other")], PLAIN, "config `other`"),
        (vec![config(&theirs)], PLAIN, "provider `groq`"),
        (vec![config(&renamed)], PLAIN, "model `big`"),
        (vec![config(&drawn)], PLAIN, "provider `groq`"),
        (vec![config(&hidden)], PLAIN, "`models`"),
    ] {
        let headers = [vec![("authorization", some.as_str())], headers].concat();
        for road in ROADS {
            let answer = stage.ask(&[&headers, road].concat(), body);
            assert_eq!(answer.status, 403, "{headers:?} {}", answer.text());
            let error = &answer.json()["error"];
            assert!(error["message"].as_str().unwrap().contains(told), "{error}");
            assert_eq!(
                (&error["type"], &error["code"]),
                (&json!("permission_error"), &json!("not_allowed"))
            );
        }
    }
    // Passed on unread: nobody knows what they ask for.
    for (method, path, status) in [
        ("POST", "/v1/chat/completions", 403),
        ("GET", "/v1/files", 403),
        ("GET", "/v1/models", 200),
    ] {
        let answer = stage.pass(method, path, &[("authorization", &some)]);
        assert_eq!(answer.status, status, "{path} {}", answer.text());
    }
    let only = bearer(ONLY);
    let answer = stage.pass("GET", "/v1/models", &[("authorization", &only)]);
    assert_eq!(answer.status, 403);
    assert_eq!(stage.seen().len(), 1, "the list of models alone");
}

#[test]
fn a_deployment_counts_as_a_model() {
    let stage = Stage::with(&format!(
        "    azure: {{ key_hash: \"{}\", models: [m] }}\n",
        KeyHash::of("pc-canary-azure")
    ));
    let headers = [
        ("authorization", "Bearer pc-canary-azure"),
        ("x-portkey-provider", "azure-openai"),
        ("x-portkey-azure-deployment-id", "big"),
    ];
    let answer = stage.ask(&headers, PLAIN);
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert_eq!(
        answer.json()["error"]["param"],
        "x-portkey-azure-deployment-id"
    );
}

#[test]
fn a_config_that_a_key_names_is_used_as_it_is() {
    let stage = Stage::with(&format!(
        "    held: {{ key_hash: \"{}\", providers: [openai] }}\n",
        KeyHash::of("pc-canary-held")
    ));
    for key in [SOME, ONLY] {
        let key = bearer(key);
        let headers = [
            ("authorization", key.as_str()),
            ("x-portkey-config", "saved"),
        ];
        let answer = stage.ask(&headers, r#"{"model":"anything","prompt":"x"}"#);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let seen = stage.groq.seen();
    assert_eq!(seen.len(), 2);
    for seen in seen {
        assert_eq!(seen.header("authorization"), Some("Bearer sk-canary-saved"));
        assert!(seen.text().contains(r#""model":"big""#), "{}", seen.text());
    }
    // A key without a list may name every config, whose targets are then held to its other lists.
    let held = [("authorization", "Bearer pc-canary-held")];
    for (name, status) in [("keyed", 200), ("other", 403), ("saved", 403)] {
        let headers = [&held[..], &[("x-portkey-config", name)]].concat();
        assert_eq!(stage.ask(&headers, PLAIN).status, status, "{name}");
    }
    let all = bearer(ALL);
    let answer = stage.ask(
        &[
            ("authorization", all.as_str()),
            ("x-portkey-config", "other"),
        ],
        PLAIN,
    );
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn a_team_has_its_own_key_at_a_provider() {
    let stage = Stage::new();
    let team = bearer(TEAM);
    for road in ROADS {
        let answer = stage.ask(&[&[("authorization", team.as_str())], road].concat(), PLAIN);
        assert_eq!(answer.status, 200);
    }
    stage.pass("GET", "/v1/models", &[("authorization", &team)]);
    for seen in stage.openai.seen() {
        assert_eq!(seen.header("authorization"), Some("Bearer sk-canary-team"));
    }
    let groq = [
        ("authorization", team.as_str()),
        ("x-portkey-provider", "groq"),
    ];
    stage.ask(&groq, PLAIN);
    assert_eq!(
        stage.groq.sole().header("authorization"),
        Some("Bearer sk-canary-groq")
    );
    // A config's target may have a key of its own, and the client's own comes first.
    stage.ask(
        &[
            ("authorization", team.as_str()),
            ("x-portkey-config", "keyed"),
        ],
        PLAIN,
    );
    let seen = stage.openai.seen();
    assert_eq!(
        seen.last().unwrap().header("authorization"),
        Some("Bearer sk-canary-saved")
    );
    let own = [
        ("x-portkey-api-key", TEAM),
        ("authorization", "Bearer sk-own"),
    ];
    stage.ask(&own, PLAIN);
    let seen = stage.openai.seen();
    assert_eq!(
        seen.last().unwrap().header("authorization"),
        Some("Bearer sk-own")
    );
}

#[test]
fn keys_come_and_go_with_the_conf() {
    let stage = Stage::new();
    let status = |key: &str| stage.ask(&[("authorization", &bearer(key))], PLAIN).status;
    assert_eq!((status(ALL), status("pc-canary-new")), (200, 401));
    let (openai, groq) = (&stage.openai.address, &stage.groq.address);
    let conf = conf(openai, groq, &stage.chosen.address);
    let hash = |key| KeyHash::of(key).to_string();
    let conf = conf.replace(&hash(ALL), &hash("pc-canary-new"));
    stage
        .gateway
        .rewrite(&conf.replace("env:TEAM_KEY", "env:PATH"));
    stage.gateway.signal("HUP");
    stage.gateway.wait_for_log("the conf was reloaded");
    assert_eq!((status(ALL), status("pc-canary-new")), (401, 200));
}

#[test]
fn names_stand_in_the_log_and_in_metrics_and_keys_nowhere() {
    let stage = Stage::new();
    let (all, some) = (bearer(ALL), bearer(SOME));
    stage.ask(&[("authorization", &all)], PLAIN);
    stage.ask(
        &[("authorization", &some), ("x-portkey-provider", "groq")],
        PLAIN,
    );
    stage.ask(&[("authorization", "Bearer pc-canary-nobody")], PLAIN);
    stage.gateway.wait_for_log("failure=not_allowed");
    let log = stage.gateway.wait_for_log("failure=invalid_api_key");
    assert!(log.contains(" key=all tenant=search "), "{log}");
    assert!(
        log.contains(" key=some ") && log.contains("failure=not_allowed"),
        "{log}"
    );
    let mut operator = Client::connect(&stage.gateway.admin);
    operator.send(request("GET", "/metrics", &[], ""));
    let metrics = operator.read().text().to_owned();
    for line in [
        r#"completions_key_requests_total{key="all",status="200",tenant="search"} 1"#,
        r#"completions_key_requests_total{key="some",status="403",tenant=""} 1"#,
        r#"completions_failures_total{provider="none",reason="invalid_api_key"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} not in {metrics}");
    }
    for sink in [log, metrics] {
        assert!(!sink.contains("canary"), "{sink}");
        for key in [ALL, SOME, "pc-canary-nobody"] {
            let hash = KeyHash::of(key).to_string();
            assert!(!sink.contains(&hash["sha256:".len()..][..8]), "{sink}");
        }
    }
}

#[test]
fn apps_see_to_their_own_keys_unless_they_leave_it_to_the_gateway() {
    let (open, closed) = (upstream(), upstream());
    let stage = Stage::with(&format!(
        "  require_key: false\n  upstreams:\n    open: {{ url: \"http://{}\", path: /open }}\n    closed: {{ url: \"http://{}\", path: /closed, require_key: true }}\n    chat: {{ provider: groq, path: /v1/chat }}\n",
        open.address, closed.address,
    ));
    let all = bearer(ALL);
    let own = ("authorization", "Bearer app-own");
    assert_eq!(stage.pass("GET", "/open", &[own]).status, 200);
    assert_eq!(open.sole().header("authorization"), Some("Bearer app-own"));
    assert_eq!(stage.pass("GET", "/closed", &[own]).status, 401);
    assert!(closed.seen().is_empty());
    let both = [own, ("x-portkey-api-key", ALL), ("cookie", "a=b")];
    assert_eq!(stage.pass("GET", "/closed", &both).status, 200);
    let seen = closed.sole();
    assert_eq!(seen.header("authorization"), Some("Bearer app-own"));
    assert_eq!(seen.header("cookie"), Some("a=b"));
    assert!(!all_of(&seen).contains("pc-canary"));
    let some = bearer(SOME);
    let chat = stage.pass("GET", "/v1/chat/x", &[("authorization", &some)]);
    assert_eq!(chat.status, 403);
    let chat = stage.pass("GET", "/v1/chat/x", &[("authorization", &all)]);
    assert_eq!(chat.status, 200);
    assert_eq!(
        stage.groq.sole().header("authorization"),
        Some("Bearer sk-canary-groq")
    );
}

#[test]
fn where_keys_are_not_required_they_still_count() {
    let stage = Stage::with("  require_key: false\n");
    let some = bearer(SOME);
    let groq = ("x-portkey-provider", "groq");
    for (headers, status) in [
        (vec![groq], 200),
        (vec![groq, ("authorization", "Bearer sk-own")], 200),
        (vec![groq, ("authorization", some.as_str())], 403),
        (vec![groq, ("authorization", "Bearer pc-nobody")], 401),
    ] {
        assert_eq!(stage.ask(&headers, PLAIN).status, status, "{headers:?}");
    }
    let sent: Vec<_> = stage.groq.seen().into_iter().collect();
    let sent: Vec<_> = sent
        .iter()
        .map(|seen| seen.header("authorization").unwrap())
        .collect();
    assert_eq!(sent, ["Bearer sk-canary-groq", "Bearer sk-own"]);
}

#[test]
fn the_binary_makes_keys_and_hashes() {
    let run = |argument: &str, input: &str| {
        let mut child = Command::new(BINARY)
            .arg(argument)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.success(), text)
    };
    let (ok, made) = run("--new-key", "");
    let (key, line) = made.trim_end().split_once('\n').unwrap();
    assert!(ok && key.starts_with("pc-") && key.len() == 46, "{made}");
    let hash = KeyHash::of(key).to_string();
    assert_eq!(line, format!("my-client: {{ key_hash: \"{hash}\" }}"));
    assert_ne!(run("--new-key", "").1, made);
    assert_eq!(run("--hash-key", &format!("{key}\n")), (true, hash + "\n"));
    let (ok, told) = run("--hash-key", "secret-canary\n");
    assert!(
        !ok && told.contains("32 random characters") && !told.contains("canary"),
        "{told}"
    );
}
