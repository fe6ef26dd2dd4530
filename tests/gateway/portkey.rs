//! What Portkey's own gateway does with a config, this one does too: the cases of `tests/fixtures/portkey`, each with
//! the upstreams it was recorded with, scripted again. Where this gateway differs on purpose, the case says why.

use std::{
    collections::{BTreeMap, HashMap},
    io::Write,
    net::TcpStream,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::support::{
    Gateway,
    client::{Answer, Client},
    free_address,
    upstream::{After, Request, Upstream},
};

const CASES: &str = include_str!("../fixtures/portkey/cases.json");
/// Cases that share a gateway: each has upstreams of its own, whose ports the conf must allow.
const BATCH: usize = 100;
const AT_ONCE: usize = 12;

#[derive(Clone, Deserialize)]
struct Case {
    name: String,
    /// As it is written: a condition's keys have an order.
    config: Option<Box<RawValue>>,
    #[serde(default)]
    headers: BTreeMap<String, Option<String>>,
    path: Option<String>,
    #[serde(default)]
    body: Value,
    repeat: Option<usize>,
    #[serde(default)]
    upstreams: HashMap<String, Vec<Said>>,
    /// What Portkey's gateway did.
    portkey: serde_json::Map<String, Value>,
    /// Why this gateway differs, and what of the above is another thing here; null: nothing is held.
    bug: Option<String>,
    #[serde(default)]
    ours: serde_json::Map<String, Value>,
}

/// One answer of an upstream.
#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Said {
    status: Option<u16>,
    headers: BTreeMap<String, String>,
    delay_ms: u64,
    pause_ms: u64,
    #[serde(rename = "type")]
    kind: Option<String>,
    body: Option<String>,
    reset: bool,
}

/// A case's upstreams, and what they got, in order.
struct Stage {
    upstreams: Vec<(String, Upstream)>,
    dead: String,
    deliveries: Arc<Mutex<Vec<(String, Request)>>>,
}

impl Stage {
    fn of(case: &Case) -> Self {
        let deliveries = Arc::new(Mutex::new(Vec::new()));
        let upstreams = ["a", "b", "c", "d"].map(|name| {
            let said = case.upstreams.get(name).cloned().unwrap_or_default();
            let (log, own) = (deliveries.clone(), name.to_owned());
            let turns = Mutex::new(said.into_iter());
            let last = Mutex::new(Said::default());
            let upstream = Upstream::start(move |request, stream| {
                log.lock().unwrap().push((own.clone(), request.clone()));
                let mut last = last.lock().unwrap();
                if let Some(next) = turns.lock().unwrap().next() {
                    *last = next;
                }
                let said = last.clone();
                drop(last);
                let _ = said.write(&own, request, stream);
                After::Close
            });
            (name.to_owned(), upstream)
        });
        Self {
            upstreams: upstreams.into(),
            dead: free_address(),
            deliveries,
        }
    }

    fn addresses(&self) -> impl Iterator<Item = (&str, &str)> {
        let live = self.upstreams.iter();
        live.map(|(name, upstream)| (name.as_str(), upstream.address.as_str()))
            .chain([("dead", self.dead.as_str())])
    }

    /// `text` with the addresses that it leaves open.
    fn fill(&self, text: &str) -> String {
        self.addresses()
            .fold(text.to_owned(), |text, (name, address)| {
                text.replace(&format!("${{{name}}}"), address)
            })
    }
}

impl Said {
    fn write(&self, name: &str, request: &Request, stream: &mut TcpStream) -> std::io::Result<()> {
        if self.reset {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(self.delay_ms));
        let status = self.status.unwrap_or(200);
        let streamed = request.text().replace(' ', "").contains("\"stream\":true");
        let (kind, body) = usual(name, status, streamed);
        let kind = self.kind.as_deref().unwrap_or(kind);
        let body = self.body.as_ref().unwrap_or(&body);
        let mut head =
            format!("HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\nconnection: close\r\n");
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if status == 204 {
            return stream.write_all((head + "\r\n").as_bytes());
        }
        head += &format!("content-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes())?;
        thread::sleep(Duration::from_millis(self.pause_ms));
        stream.write_all(body.as_bytes())
    }
}

fn usual(name: &str, status: u16, streamed: bool) -> (&'static str, String) {
    let text = json!({
        "id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m",
        "choices": [{"text": name, "index": 0, "logprobs": null, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    });
    match (status, streamed) {
        (200, true) => (
            "text/event-stream",
            format!("data: {text}\n\ndata: [DONE]\n\n"),
        ),
        (200, false) => ("application/json", text.to_string()),
        _ => {
            let message = format!("{name} says {status}");
            let error =
                json!({"message": message, "type": "server_error", "param": null, "code": null});
            ("application/json", json!({ "error": error }).to_string())
        }
    }
}

impl Case {
    /// What is held, by name.
    fn held(&self) -> serde_json::Map<String, Value> {
        let mut held = self.portkey.clone();
        held.extend(self.ours.clone());
        held
    }

    fn ask(&self, gateway: &Gateway, stage: &Stage) -> Answer {
        let mut client = Client::connect(&gateway.address);
        client.send(self.request(stage));
        client.read()
    }

    fn request(&self, stage: &Stage) -> String {
        let mut headers = BTreeMap::from([(
            "content-type".to_owned(),
            Some("application/json".to_owned()),
        )]);
        // A text is the header itself.
        let config = self.config.as_ref().map(|config| {
            serde_json::from_str(config.get()).unwrap_or_else(|_| config.get().to_owned())
        });
        headers.extend(config.map(|config| ("x-portkey-config".to_owned(), Some(config))));
        headers.extend(self.headers.clone());
        let mut usual = json!({"model": "m", "prompt": "hi"});
        let body = match &self.body {
            Value::String(text) => text.clone(),
            Value::Object(more) => {
                usual.as_object_mut().unwrap().extend(more.clone());
                usual.to_string()
            }
            _ => usual.to_string(),
        };
        let path = self.path.as_deref().unwrap_or("/v1/completions");
        let mut text = format!(
            "POST {path} HTTP/1.1\r\nhost: gateway\r\ncontent-length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            if let Some(value) = value {
                text += &format!("{name}: {}\r\n", stage.fill(&value));
            }
        }
        text + "\r\n" + &body
    }

    /// Everything that is not as it is held to be.
    fn difference(&self, gateway: &Gateway, stage: &Stage) -> Option<String> {
        let turns = self.repeat.unwrap_or(1);
        let answers: Vec<_> = (0..turns).map(|_| self.ask(gateway, stage)).collect();
        let answer = answers.last().unwrap();
        let deliveries = stage.deliveries.lock().unwrap().clone();
        let tried: Vec<&str> = deliveries.iter().map(|(name, _)| name.as_str()).collect();
        let seen = |name: &str, wanted: &Value| match name {
            "status" => json!(answer.status),
            "option_index" => json!(answer.header("x-portkey-last-used-option-index")),
            "retry_count" => {
                let count = answer.header("x-portkey-retry-attempt-count");
                json!(count.and_then(|count| count.parse::<i64>().ok()))
            }
            "trace_id" => json!(answer.header("x-portkey-trace-id")),
            "tried" if self.repeat.is_some() && shares_agree(wanted, &tried) => wanted.clone(),
            "tried" => json!(tried),
            "sent" => sent(&deliveries),
            "message" | "text" | "errors" if !tells(answer, wanted) => json!("other words"),
            _ => wanted.clone(),
        };
        let held = self.held();
        let held = held.iter().filter(|(_, wanted)| !wanted.is_null());
        let found: Vec<_> = held
            .map(|(name, wanted)| (name, wanted, seen(name, wanted)))
            .filter(|(_, wanted, seen)| seen != *wanted)
            .map(|(name, wanted, seen)| format!("{name} {seen}, not {wanted}"))
            .collect();
        let told = || format!("{}: {}", answer.status, answer.text());
        (!found.is_empty()).then(|| format!("{}: {}; {}", self.name, found.join("; "), told()))
    }
}

/// Weights are held to what 200 draws can show: 50 is more than four deviations of the difference.
fn shares_agree(wanted: &Value, tried: &[&str]) -> bool {
    let shares = wanted.as_object().unwrap();
    shares.iter().all(|(name, wanted)| {
        let seen = tried.iter().filter(|tried| *tried == name).count() as i64;
        (seen - wanted.as_i64().unwrap()).abs() < 50
    })
}

/// Whether the answer says `wanted`, a text or a list of them, in whatever form: the two gateways' bodies have another
/// shape. Which provider it was is told by a header here, not by the message.
fn tells(answer: &Answer, wanted: &Value) -> bool {
    let said = serde_json::from_slice(&answer.body)
        .map_or_else(|_| answer.text().to_owned(), |body: Value| words(&body));
    let wanted: Vec<&str> = match wanted {
        Value::String(text) => vec![text],
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    wanted.iter().all(|text| {
        let text = text.strip_prefix("openai error: ").unwrap_or(text);
        // A stream's first event stands for the stream.
        let text = match text.starts_with("data: ") {
            true => "\"text\"",
            // Each gateway names the providers it has.
            false => text.split(", anyscale").next().unwrap_or(text),
        };
        said.contains(text)
    })
}

/// The texts of a JSON value, a line each.
fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone() + "\n",
        Value::Array(list) => list.iter().map(words).collect(),
        Value::Object(fields) => fields.values().map(words).collect(),
        _ => String::new(),
    }
}

/// In the form of the recorder's `sent`.
fn sent(deliveries: &[(String, Request)]) -> Value {
    const SHOWN: [&str; 4] = ["authorization", "x-one", "x-two", "openai-organization"];
    let sent = deliveries.iter().map(|(_, request)| {
        let headers: BTreeMap<&str, &str> = SHOWN
            .into_iter()
            .filter_map(|name| Some((name, request.header(name)?)))
            .collect();
        let mut body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        // What an absent `max_tokens` means is said to the upstream here: some mean another thing by it.
        if let Some(fields) = body.as_object_mut()
            && fields.get("max_tokens") == Some(&json!(16))
        {
            fields.remove("max_tokens");
        }
        json!({"path": request.path, "headers": headers, "body": body})
    });
    sent.collect()
}

fn batch_s_differences(cases: &[Case]) -> Vec<String> {
    let stages: Vec<Stage> = cases.iter().map(Stage::of).collect();
    let hosts: Vec<_> = stages
        .iter()
        .flat_map(Stage::addresses)
        .map(|(_, address)| format!("\"{address}\""))
        .collect();
    let gateway = Gateway::start(&format!("  allowed_hosts: [{}]\n", hosts.join(", ")));
    let queue = Mutex::new(cases.iter().zip(&stages));
    let found = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some((case, stage)) = queue.lock().unwrap().next() else {
                        return;
                    };
                    let difference = case.difference(&gateway, stage);
                    found.lock().unwrap().extend(difference);
                }
            });
        }
    });
    found.into_inner().unwrap()
}

fn cases() -> Vec<Case> {
    serde_json::from_str(CASES).unwrap()
}

#[test]
fn a_difference_from_portkey_has_its_reason() {
    for case in cases() {
        let differs = !case.ours.is_empty();
        assert_eq!(case.bug.is_some(), differs, "{}", case.name);
    }
}

#[test]
fn each_config_is_served_as_portkey_serves_it() {
    // One case at a time, by its name, while working on it.
    let only = std::env::var("CASE").unwrap_or_default();
    let cases: Vec<_> = cases()
        .into_iter()
        .filter(|case| case.name.starts_with(&only))
        .collect();
    let found: Vec<_> = cases.chunks(BATCH).flat_map(batch_s_differences).collect();
    assert!(found.is_empty(), "{}\n{found:#?}", found.len());
}
