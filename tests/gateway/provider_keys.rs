//! Several keys of one provider: they take turns, and when one is refused another is tried before the client sees a byte. Row 19
//! of the fault list: 401 and 403 are no retry on the same key.

use std::{
    collections::BTreeMap,
    io::Write,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

use crate::support::{
    Gateway,
    client::{Answer, Client, PLAIN, ROADS, STREAMED, ask, request},
    upstream::{After, LAST_CHUNK, Request, STREAM, TEXT, Upstream, chunk, events, json as answer},
    wait_for,
};

const A: &str = "sk-canary-a";
const B: &str = "sk-canary-b";
const C: &str = "sk-canary-c";

/// What becomes of a key at the upstream: a status, and when it says to come back.
type Fates = Arc<Mutex<BTreeMap<&'static str, (u16, &'static str)>>>;

/// A provider with three keys, and another without refusals.
struct Stage {
    gateway: Gateway,
    upstream: Upstream,
    spare: Upstream,
    fates: Fates,
}

impl Stage {
    fn new() -> Self {
        let fates = Fates::default();
        let told = fates.clone();
        let upstream = Upstream::start(move |request, stream| {
            stream.write_all(&reply(request, &told)).unwrap();
            After::Keep
        });
        let spare = Upstream::answering(answer(200, TEXT));
        let gateway = Gateway::start(&conf(&upstream, &spare, &[A, B, C]));
        Self {
            gateway,
            upstream,
            spare,
            fates,
        }
    }

    fn refuse(&self, key: &'static str, status: u16, retry_after: &'static str) {
        self.fates
            .lock()
            .unwrap()
            .insert(key, (status, retry_after));
    }

    fn ask(&self, headers: &[(&str, &str)], body: &str) -> Answer {
        ask(&self.gateway.address, headers, body)
    }

    /// The keys that the upstream has been shown since `from`.
    fn keys(&self, from: usize) -> Vec<String> {
        let seen = self.upstream.seen();
        let key = |request: &Request| request.header("authorization").unwrap()[7..].to_owned();
        seen.iter().skip(from).map(key).collect()
    }

    fn states(&self) -> Vec<String> {
        let state = |row: &Value| row["state"].as_str().unwrap().to_owned();
        self.rows().iter().map(state).collect()
    }

    fn rows(&self) -> Vec<Value> {
        let mut operator = Client::connect(&self.gateway.admin);
        operator.send(request("GET", "/targets", &[], ""));
        let answer = operator.read();
        assert!(!answer.text().contains("canary"), "{}", answer.text());
        let rows = answer.json().as_array().unwrap().clone();
        rows.into_iter()
            .filter(|row| row.get("key").is_some())
            .collect()
    }
}

fn conf(upstream: &Upstream, spare: &Upstream, keys: &[&str]) -> String {
    let keys = keys.join(", ");
    format!(
        "  providers:
    openai: {{ base_url: \"http://{}/v1\", api_keys: [{keys}] }}
    spare: {{ base_url: \"http://{}/v1\", api_key: sk-spare }}
  default: {{ provider: openai, model: m }}
",
        upstream.address, spare.address
    )
}

fn reply(request: &Request, fates: &Fates) -> Vec<u8> {
    let key = request.header("authorization").unwrap_or_default();
    let key = key.trim_start_matches("Bearer ");
    if let Some((status, retry_after)) = fates.lock().unwrap().get(key) {
        let body = format!(r#"{{"error":{{"message":"refused {key}"}}}}"#);
        let refused = String::from_utf8(answer(*status, &body)).unwrap();
        let after = format!("\r\nretry-after: {retry_after}\r\ncontent-type");
        return refused.replacen("\r\ncontent-type", &after, 1).into_bytes();
    }
    match request.text().contains("\"stream\":true") {
        true => [STREAM, &chunk(events()), LAST_CHUNK].concat(),
        false => answer(200, TEXT),
    }
}

#[test]
fn keys_take_turns_on_every_road() {
    let stage = Stage::new();
    for road in ROADS {
        for body in [PLAIN, STREAMED] {
            assert_eq!(stage.ask(road, body).status, 200);
        }
    }
    for _ in 0..2 {
        let mut client = Client::connect(&stage.gateway.address);
        client.send(request("GET", "/v1/models", &[], ""));
        assert_eq!(client.read().status, 200);
    }
    assert_eq!(stage.keys(0), [A, B, C, A, B, C]);
}

#[test]
fn another_key_is_tried_before_the_client_sees_a_byte() {
    for status in [401, 403, 429] {
        for road in ROADS {
            for body in [PLAIN, STREAMED] {
                let stage = Stage::new();
                stage.refuse(A, status, "30");
                for _ in 0..3 {
                    let answer = stage.ask(road, body);
                    assert_eq!(answer.status, 200, "{status}: {}", answer.text());
                    // The target's own retries are not what this is.
                    let retries = answer.header("x-portkey-retry-attempt-count");
                    assert_eq!(retries, Some("0"));
                }
                // The refused one is asked once, and left alone from then on.
                assert_eq!(stage.keys(0), [A, B, C, B], "{status}");
                let log = stage.gateway.wait_for_log("attempts=2");
                let told = format!("openai {status} upstream_error");
                assert!(log.contains(&told) && !log.contains("canary"), "{log}");
            }
        }
    }
}

#[test]
fn what_is_no_fault_of_the_key_stays_with_it() {
    let stage = Stage::new();
    for status in [400, 404, 500, 503] {
        for key in [A, B, C] {
            stage.refuse(key, status, "1");
        }
        let before = stage.upstream.seen().len();
        assert_eq!(stage.ask(&[], PLAIN).status, status);
        assert_eq!(stage.upstream.seen().len(), before + 1, "{status}");
    }
    assert_eq!(stage.states(), ["ready"; 3]);
}

#[test]
fn when_every_key_is_refused_the_last_word_is_the_clients() {
    let stage = Stage::new();
    stage.refuse(A, 429, "40");
    stage.refuse(B, 429, "20");
    stage.refuse(C, 429, "30");
    let answer = stage.ask(&[], PLAIN);
    assert_eq!(
        (answer.status, answer.header("retry-after")),
        (429, Some("30"))
    );
    assert!(!answer.text().contains("canary"), "{}", answer.text());
    assert_eq!(stage.keys(0), [A, B, C]);
    // All are set aside: the one that is back first is used, once.
    assert_eq!(stage.ask(&[], STREAMED).status, 429);
    assert_eq!(stage.keys(3), [B]);
    // What works is back at once.
    stage.fates.lock().unwrap().clear();
    assert_eq!(stage.ask(&[], PLAIN).status, 200);
    // The answer is out a little before that is noted.
    let is_back = || (stage.states() == ["limited", "ready", "limited"]).then_some(());
    assert!(wait_for(is_back).is_some(), "{:?}", stage.states());
    assert_eq!(stage.ask(&[], PLAIN).status, 200);
    assert_eq!(stage.keys(4), [B, B]);
}

#[test]
fn keys_come_before_retries_and_retries_before_the_next_target() {
    let stage = Stage::new();
    for key in [A, B, C] {
        stage.refuse(key, 429, "30");
    }
    let config = json!({
        "strategy": {"mode": "fallback"},
        "targets": [
            {"provider": "openai", "retry": {"attempts": 1, "on_status_codes": [429]}, "cb_config": {"failure_threshold": 9}},
            {"provider": "spare"},
        ],
    });
    let config = config.to_string();
    let answer = stage.ask(&[("x-portkey-config", &config)], PLAIN);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        answer.header("x-portkey-last-used-option-index"),
        Some("config.targets[1]")
    );
    // Three keys, and then one retry with the first that will be back.
    assert_eq!(stage.keys(0).len(), 4);
    assert_eq!(stage.spare.seen().len(), 1);
}

/// A 401 opens a circuit at once: not while there is another key.
#[test]
fn a_circuit_stays_closed_as_long_as_a_key_works() {
    let stage = Stage::new();
    stage.refuse(A, 401, "");
    let config = json!({
        "strategy": {"mode": "fallback"}, "cb_config": {"failure_threshold": 1},
        "targets": [{"provider": "openai"}, {"provider": "spare"}],
    });
    let config = config.to_string();
    for _ in 0..3 {
        let answer = stage.ask(&[("x-portkey-config", &config)], PLAIN);
        assert_eq!(
            answer.header("x-portkey-last-used-option-index"),
            Some("config.targets[0]")
        );
    }
    assert!(stage.spare.seen().is_empty());
}

#[test]
fn a_request_of_several_calls_has_one_key_at_a_time() {
    let stage = Stage::new();
    stage.refuse(A, 401, "");
    let lines = conf(&stage.upstream, &stage.spare, &[A, B, C]);
    let one_by_one = lines.replace("api_keys", "refuses: [\"prompt: list\"], api_keys");
    let gateway = Gateway::start(&one_by_one);
    let body = r#"{"model":"m","prompt":["a","b","c"],"max_tokens":5}"#;
    let answer = ask(&gateway.address, &[], body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let keys = stage.keys(0);
    let count = |key: &str| keys.iter().filter(|shown| *shown == key).count();
    assert!((1..=3).contains(&count(A)), "{keys:?}");
    assert_eq!((count(B), count(C)), (3, 0), "{keys:?}");
}

#[test]
fn a_passed_request_is_called_once_and_its_key_noted() {
    let stage = Stage::new();
    stage.refuse(A, 429, "30");
    let status = || {
        let mut client = Client::connect(&stage.gateway.address);
        client.send(request("GET", "/v1/models", &[], ""));
        client.read().status
    };
    assert_eq!(
        [status(), status(), status(), status()],
        [429, 200, 200, 200]
    );
    assert_eq!(stage.keys(0), [A, B, C, B]);
}

#[test]
fn the_operator_sees_which_keys_are_set_aside_and_a_reload_keeps_it() {
    let stage = Stage::new();
    stage.refuse(B, 429, "30");
    for _ in 0..2 {
        stage.ask(&[], PLAIN);
    }
    let rows = stage.rows();
    assert_eq!(stage.states(), ["ready", "limited", "ready"]);
    let back = rows[1]["back_in_ms"].as_u64().unwrap();
    assert!((1..=30_000).contains(&back), "{back}");
    let mut prints: Vec<_> = rows
        .iter()
        .map(|row| row["key"].as_str().unwrap())
        .collect();
    for (print, key) in prints.iter().zip([A, B, C]) {
        let digest = ring::digest::digest(&ring::digest::SHA256, key.as_bytes());
        let plain = format!("{:02x}{:02x}", digest.as_ref()[0], digest.as_ref()[1]);
        assert!(print.len() == 8 && !print.starts_with(&plain), "{print}");
    }
    let before = rows[1]["key"].clone();
    prints.sort();
    prints.dedup();
    assert_eq!(prints.len(), 3);

    stage
        .gateway
        .rewrite(&conf(&stage.upstream, &stage.spare, &[C, B]));
    stage.gateway.signal("HUP");
    stage.gateway.wait_for_log("the conf was reloaded");
    let rows = stage.rows();
    assert_eq!(rows.len(), 2);
    assert_eq!(
        (&rows[1]["key"], rows[1]["state"].as_str()),
        (&before, Some("limited"))
    );
    let count = stage.upstream.seen().len();
    stage.ask(&[], PLAIN);
    stage.ask(&[], PLAIN);
    assert_eq!(stage.keys(count), [C, C]);
}

/// G7 for pools: a host that the client chose gets none of them.
#[test]
fn no_key_of_a_list_goes_to_a_host_that_the_client_chose() {
    let chosen = Upstream::answering(answer(200, TEXT));
    let stage = Stage::new();
    let lines = conf(&stage.upstream, &stage.spare, &[A, B]);
    let gateway = Gateway::start(&format!(
        "{lines}  allowed_hosts: [\"{}\"]\n",
        chosen.address
    ));
    let host = format!("http://{}/v1", chosen.address);
    for road in ROADS {
        let headers = [&[("x-portkey-custom-host", host.as_str())], road].concat();
        assert_eq!(ask(&gateway.address, &headers, PLAIN).status, 200);
    }
    let own = [
        ("x-portkey-custom-host", host.as_str()),
        ("authorization", "Bearer sk-own"),
    ];
    assert_eq!(ask(&gateway.address, &own, PLAIN).status, 200);
    let sent: Vec<_> = chosen.seen();
    let sent: Vec<_> = sent
        .iter()
        .map(|seen| seen.header("authorization"))
        .collect();
    assert_eq!(sent, [None, None, Some("Bearer sk-own")]);
}
