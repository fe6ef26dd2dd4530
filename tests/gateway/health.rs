//! What is remembered of targets, and what follows from it: circuits, places, turns, the budget of retries.

use std::{io::Write, sync::mpsc, thread};

use serde_json::{Value, json};

use crate::support::{
    Gateway,
    client::{Answer, Client, ask, request},
    targets::{at, before},
    upstream::{After, TEXT, Upstream, json as answer},
    wait_for,
};

const BODY: &str = r#"{"model": "m", "prompt": "Say it.", "max_tokens": 5}"#;

fn ask_with(gateway: &Gateway, config: &Value) -> Answer {
    let config = config.to_string();
    ask(&gateway.address, &[("x-portkey-config", &config)], BODY)
}

fn good() -> Upstream {
    Upstream::answering(answer(200, TEXT))
}

fn bad() -> Upstream {
    Upstream::answering(answer(500, r#"{"error":{"message":"no"}}"#))
}

fn operator(gateway: &Gateway, path: &str) -> Answer {
    let mut client = Client::connect(&gateway.admin);
    client.send(request("GET", path, &[], ""));
    client.read()
}

fn breaking(millis: u64, targets: &[Value]) -> Value {
    json!({
        "strategy": {
            "mode": "fallback",
            "cb_config": {"failure_threshold": 2, "cooldown_interval": millis},
        },
        "targets": targets,
    })
}

#[test]
fn a_target_that_failed_in_a_row_is_left_alone_and_the_operator_sees_it() {
    let (bad, good) = (bad(), good());
    let gateway = before(&[&bad, &good], "");
    let config = breaking(60_000, &[at(&bad), at(&good)]);
    for _ in 0..6 {
        assert_eq!(ask_with(&gateway, &config).status, 200);
    }
    assert_eq!((bad.seen().len(), good.seen().len()), (2, 6));
    let targets = operator(&gateway, "/targets");
    assert!(!targets.text().contains("sk-x"), "{}", targets.text());
    let targets = targets.json();
    let states = targets.as_array().unwrap().iter();
    let mut states: Vec<&str> = states.map(|one| one["state"].as_str().unwrap()).collect();
    states.sort_unstable();
    assert_eq!(states, ["closed", "open"], "{targets}");
    let metrics = operator(&gateway, "/metrics");
    for line in [
        "completions_targets{state=\"open\"} 1",
        "completions_targets{state=\"closed\"} 1",
    ] {
        assert!(metrics.text().contains(line), "{}", metrics.text());
    }
}

#[test]
fn when_all_are_left_alone_they_are_called_all_the_same() {
    let (one, other) = (bad(), bad());
    let gateway = before(&[&one, &other], "");
    let config = breaking(60_000, &[at(&one), at(&other)]);
    for _ in 0..5 {
        assert_eq!(ask_with(&gateway, &config).status, 500);
    }
    assert_eq!(one.seen().len(), 5);
}

#[test]
fn a_target_that_is_back_is_found_by_a_probe() {
    let (bad, good) = (
        Upstream::start(|request, stream| {
            let status = if request.connection < 2 { 500 } else { 200 };
            stream.write_all(&answer(status, TEXT)).unwrap();
            After::Close
        }),
        good(),
    );
    let gateway = before(&[&bad, &good], "");
    let config = breaking(150, &[at(&bad), at(&good)]);
    for _ in 0..2 {
        ask_with(&gateway, &config);
    }
    let back = wait_for(|| {
        let answer = ask_with(&gateway, &config);
        assert_eq!(answer.status, 200);
        let option = answer.header("x-portkey-last-used-option-index");
        (option == Some("config.targets[0]")).then_some(())
    });
    assert!(back.is_some());
}

#[test]
fn a_refused_key_is_left_alone_at_once() {
    let (refusing, good) = (
        Upstream::answering(answer(401, r#"{"error":{"message":"no"}}"#)),
        good(),
    );
    let gateway = before(&[&refusing, &good], "");
    let config = breaking(60_000, &[at(&refusing), at(&good)]);
    for _ in 0..3 {
        assert_eq!(ask_with(&gateway, &config).status, 200);
    }
    assert_eq!(refusing.seen().len(), 1);
}

#[test]
fn the_confs_breaker_holds_for_targets_without_one() {
    let (bad, good) = (bad(), good());
    let lines = "  health: { breaker: { failure_threshold: 1, cooldown_interval: 60s } }\n";
    let gateway = before(&[&bad, &good], lines);
    // Balanced: whichever is chosen, the bad one is called once.
    let config = json!({
        "strategy": {"mode": "loadbalance"}, "targets": [at(&bad), at(&good)],
    });
    let statuses: Vec<u16> = (0..40)
        .map(|_| ask_with(&gateway, &config).status)
        .collect();
    assert_eq!(statuses.iter().filter(|status| **status != 200).count(), 1);
    assert_eq!(bad.seen().len(), 1);
}

#[test]
fn turns_are_taken() {
    let (one, other) = (good(), good());
    let gateway = before(&[&one, &other], "");
    let config = json!({
        "strategy": {"mode": "loadbalance", "balance": "round_robin"},
        "targets": [at(&one), at(&other)],
    });
    for _ in 0..6 {
        assert_eq!(ask_with(&gateway, &config).status, 200);
    }
    assert_eq!((one.seen().len(), other.seen().len()), (3, 3));
}

/// An upstream that answers when it is told to.
fn waiting() -> (Upstream, mpsc::Sender<()>) {
    let (go, told) = mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let upstream = Upstream::start(move |_, stream| {
        told.lock().unwrap().recv().unwrap();
        stream.write_all(&answer(200, TEXT)).unwrap();
        After::Close
    });
    (upstream, go)
}

#[test]
fn a_full_target_is_passed_over_or_told() {
    let ((busy, go), good) = (waiting(), good());
    let gateway = before(&[&busy, &good], "  health: { queue: { size: 0 } }\n");
    let mut first = at(&busy);
    first["max_concurrent"] = json!(1);
    let alone = first.clone();
    let config = json!({"strategy": {"mode": "fallback"}, "targets": [first, at(&good)]});
    thread::scope(|scope| {
        let holds = scope.spawn(|| ask_with(&gateway, &config));
        busy.wait_for_requests(1);
        let next = ask_with(&gateway, &config);
        let option = next.header("x-portkey-last-used-option-index");
        assert_eq!((next.status, option), (200, Some("config.targets[1]")));
        let told = ask_with(&gateway, &alone);
        assert_eq!((told.status, told.header("retry-after")), (503, Some("1")));
        assert_eq!(told.json()["error"]["code"], "target_full");
        go.send(()).unwrap();
        assert_eq!(holds.join().unwrap().status, 200);
    });
    assert_eq!(busy.seen().len(), 1);
}

#[test]
fn who_queues_is_served_when_a_place_is_free() {
    let (busy, go) = waiting();
    let gateway = before(&[&busy], "  health: { queue: { size: 4, wait: 20s } }\n");
    let mut config = at(&busy);
    config["max_concurrent"] = json!(1);
    thread::scope(|scope| {
        let asked: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| ask_with(&gateway, &config)))
            .collect();
        busy.wait_for_requests(1);
        for served in 1..=3 {
            go.send(()).unwrap();
            if served < 3 {
                busy.wait_for_requests(served + 1);
            }
        }
        for one in asked {
            assert_eq!(one.join().unwrap().status, 200);
        }
    });
}

#[test]
fn a_storm_of_retries_dies() {
    let bad = bad();
    let lines = "  retries: { backoff: 1ms, cap: 1ms, budget_percent: 20, reserve: 0 }\n";
    let gateway = before(&[&bad], lines);
    let mut config = at(&bad);
    config["retry"] = json!({"attempts": 3});
    for _ in 0..50 {
        assert_eq!(ask_with(&gateway, &config).status, 500);
    }
    let calls = bad.seen().len();
    assert!((55..=60).contains(&calls), "{calls}");
}
