//! Calls that keep their client waiting are made a second time: the first that brings something is the answer, the other is
//! hung up on at once, and neither its target nor the budget of retries suffers for it.

use std::{
    io::Write,
    net::TcpStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{
    Gateway, PATIENCE,
    client::{Answer, Client, PLAIN, STREAMED, ask, request},
    free_address,
    targets::{at, before},
    upstream::{
        After, LAST_CHUNK, Request, STREAM, TEXT, Upstream, chunk, event, events, json as answer,
        wait_for_close, watching,
    },
    wait_for,
};

/// Above all waits of these tests, below the patience of their clients.
const LONG: Duration = Duration::from_secs(10);
const AT_ONCE: Duration = Duration::from_secs(2);

fn ask_with(gateway: &Gateway, config: &Value, body: &str) -> Answer {
    let config = config.to_string();
    ask(&gateway.address, &[("x-portkey-config", &config)], body)
}

fn fallback(hedge: Value, targets: &[Value]) -> Value {
    json!({"strategy": {"mode": "fallback"}, "hedge": hedge, "targets": targets})
}

/// Writes a whole and good answer, of the form that was asked for.
fn answer_well(request: &Request, stream: &mut TcpStream) -> After {
    let told = match request.text().contains("\"stream\":true") {
        true => [STREAM, &chunk(events()), LAST_CHUNK].concat(),
        false => answer(200, TEXT),
    };
    let _ = stream.write_all(&told);
    After::Close
}

fn good() -> Upstream {
    Upstream::start(answer_well)
}

/// An upstream that answers, well or with a 500, when it is told to.
fn told(status: u16) -> (Upstream, mpsc::Sender<()>) {
    let (go, told) = mpsc::channel();
    let told = Mutex::new(told);
    let upstream = Upstream::start(move |request, stream| {
        told.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        match status {
            200 => answer_well(request, stream),
            status => {
                let error = answer(status, r#"{"error":{"message":"no"}}"#);
                let _ = stream.write_all(&error);
                After::Close
            }
        }
    });
    (upstream, go)
}

fn is_good(answer: &Answer) -> bool {
    answer.status == 200 && answer.complete && !answer.text().contains("\"error\"")
}

fn option(answer: &Answer) -> &str {
    let option = answer.header("x-portkey-last-used-option-index");
    option.unwrap_or_default()
}

fn targets(gateway: &Gateway) -> Value {
    let mut client = Client::connect(&gateway.admin);
    client.send(request("GET", "/targets", &[], ""));
    client.read().json()
}

#[test]
fn the_same_target_is_called_again_and_the_silent_call_is_hung_up_on() {
    for body in [PLAIN, STREAMED] {
        let (closed, closing) = mpsc::channel();
        let closed = Mutex::new(closed);
        let upstream = Upstream::start(move |request, stream| {
            if request.connection == 0 {
                wait_for_close(stream).unwrap();
                closed.lock().unwrap().send(Instant::now()).unwrap();
                return After::Close;
            }
            answer_well(request, stream)
        });
        let gateway = before(&[&upstream], "");
        let mut config = at(&upstream);
        config["hedge"] = json!({"after": 100});
        let answer = ask_with(&gateway, &config, body);
        assert!(is_good(&answer), "{answer:?}");
        let done = Instant::now();
        let closed = closing.recv_timeout(LONG).unwrap();
        assert!(closed < done + AT_ONCE);
        let retries = answer.header("x-portkey-retry-attempt-count");
        assert_eq!((option(&answer), retries), ("config", Some("0")));
        let seen = upstream.seen();
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[0].body, seen[1].body);
        gateway.wait_for_log("attempts=2 tried=\"config openai - cancelled ");
    }
}

#[test]
fn of_several_keys_the_second_call_takes_another() {
    let upstream = Upstream::start(|request, stream| {
        if request.connection == 0 {
            wait_for_close(stream).unwrap();
            return After::Close;
        }
        answer_well(request, stream)
    });
    let gateway = Gateway::start(&format!(
        "  providers:\n    openai: {{ base_url: \"http://{}/v1\", api_keys: [sk-key-one, sk-key-two] }}\n",
        upstream.address
    ));
    let config = json!({"provider": "openai", "hedge": {"after": 100}});
    let answer = ask_with(&gateway, &config, PLAIN);
    assert!(is_good(&answer), "{answer:?}");
    let mut keys: Vec<String> = upstream
        .seen()
        .iter()
        .map(|request| {
            request
                .header("authorization")
                .unwrap_or_default()
                .to_owned()
        })
        .collect();
    keys.sort_unstable();
    assert_eq!(keys, ["Bearer sk-key-one", "Bearer sk-key-two"]);
}

#[test]
fn the_next_target_of_a_fallback_is_called_and_the_silent_one_has_not_failed() {
    for body in [PLAIN, STREAMED] {
        let ((silent, closing), next) = (watching([]), good());
        let gateway = before(&[&silent, &next], "");
        let mut config = fallback(json!({"after": 50}), &[at(&silent), at(&next)]);
        config["cb_config"] = json!({"failure_threshold": 1});
        for count in 1..=3 {
            let answer = ask_with(&gateway, &config, body);
            assert!(is_good(&answer), "{answer:?}");
            assert_eq!(option(&answer), "config.targets[1]");
            closing.recv_timeout(LONG).expect("it is hung up on");
            assert_eq!((silent.seen().len(), next.seen().len()), (count, count));
        }
        // A call ends a moment after its client has the answer.
        let quiet = |targets: &Value| {
            let mut targets = targets.as_array().unwrap().iter();
            targets.all(|target| target["outstanding"] == 0)
        };
        let targets = wait_for(|| Some(targets(&gateway)).filter(quiet)).unwrap();
        for target in targets.as_array().unwrap() {
            let told = (&target["state"], &target["failures"]);
            assert_eq!(told, (&json!("closed"), &json!(0)), "{targets}");
        }
        gateway.wait_for_log("tried=\"config.targets[0] openai - cancelled ");
    }
}

#[test]
fn a_first_call_that_answers_after_all_is_the_answer() {
    for body in [PLAIN, STREAMED] {
        let ((first, go), (second, closing)) = (told(200), watching([]));
        let gateway = before(&[&first, &second], "");
        let config = fallback(json!({"after": 50}), &[at(&first), at(&second)]);
        thread::scope(|scope| {
            let asked = scope.spawn(|| ask_with(&gateway, &config, body));
            second.wait_for_requests(1);
            go.send(()).unwrap();
            let answer = asked.join().unwrap();
            assert!(is_good(&answer), "{answer:?}");
            assert_eq!(option(&answer), "config.targets[0]");
        });
        closing.recv_timeout(LONG).expect("it is hung up on");
        gateway.wait_for_log("attempts=2 tried=\"config.targets[1] openai - cancelled ");
    }
}

#[test]
fn who_answers_in_time_is_called_once() {
    let (first, second) = (good(), good());
    let gateway = before(&[&first, &second], "");
    let config = fallback(json!({"after": 10_000}), &[at(&first), at(&second)]);
    for body in [PLAIN, STREAMED] {
        assert_eq!(
            option(&ask_with(&gateway, &config, body)),
            "config.targets[0]"
        );
    }
    assert_eq!((first.seen().len(), second.seen().len()), (2, 0));
}

#[test]
fn a_stream_that_has_begun_is_not_called_again() {
    let (go, told) = mpsc::channel::<()>();
    let told = Mutex::new(told);
    let first = Upstream::start(move |_, stream| {
        let begun = [STREAM, &chunk(event(" a", None))].concat();
        stream.write_all(&begun).unwrap();
        let _ = told
            .lock()
            .unwrap()
            .recv_timeout(Duration::from_millis(400));
        let _ = stream.write_all(&[&chunk(events()), LAST_CHUNK].concat());
        After::Close
    });
    let second = good();
    let gateway = before(&[&first, &second], "");
    let config = fallback(json!({"after": 100}), &[at(&first), at(&second)]);
    let answer = ask_with(&gateway, &config, STREAMED);
    drop(go);
    assert!(is_good(&answer), "{answer:?}");
    assert_eq!((first.seen().len(), second.seen().len()), (1, 0));
}

#[test]
fn a_failure_leaves_the_answer_to_the_other_call() {
    for body in [PLAIN, STREAMED] {
        // Both ways round.
        for (statuses, answers) in [((500, 200), 1), ((200, 500), 0)] {
            let (first, go_first) = told(statuses.0);
            let (second, go_second) = told(statuses.1);
            let gateway = before(&[&first, &second], "");
            let config = fallback(json!({"after": 50}), &[at(&first), at(&second)]);
            let (go_bad, go_good) = match answers {
                1 => (go_first, go_second),
                _ => (go_second, go_first),
            };
            thread::scope(|scope| {
                let asked = scope.spawn(|| ask_with(&gateway, &config, body));
                second.wait_for_requests(1);
                go_bad.send(()).unwrap();
                // It has come to the gateway before the other is told to answer.
                thread::sleep(Duration::from_millis(100));
                go_good.send(()).unwrap();
                let answer = asked.join().unwrap();
                assert!(is_good(&answer), "{answer:?}");
                assert_eq!(option(&answer), format!("config.targets[{answers}]"));
            });
            let bad = 1 - answers;
            let tried = format!("tried=\"config.targets[{bad}] openai 500 upstream_error ");
            gateway.wait_for_log(&tried);
            assert_eq!((first.seen().len(), second.seen().len()), (1, 1));
        }
    }
}

#[test]
fn when_both_fail_the_request_goes_on_from_the_first() {
    let bad = |status| Upstream::answering(answer(status, r#"{"error":{"message":"no"}}"#));
    let (first, go) = told(500);
    let (second, third) = (bad(429), good());
    let gateway = before(&[&first, &second, &third], "");
    let targets = [at(&first), at(&second), at(&third)];
    let config = fallback(json!({"after": 50}), &targets);
    thread::scope(|scope| {
        let asked = scope.spawn(|| ask_with(&gateway, &config, PLAIN));
        second.wait_for_requests(1);
        go.send(()).unwrap();
        let answer = asked.join().unwrap();
        assert!(is_good(&answer), "{answer:?}");
        assert_eq!(option(&answer), "config.targets[2]");
    });
    assert_eq!(second.seen().len(), 2, "beside the first, and after it");
    gateway.wait_for_log("attempts=4 ");
    // Without anything to go on to, the first one's failure is told.
    let (alone, go) = told(503);
    let gateway = before(&[&alone], "");
    let mut config = at(&alone);
    config["hedge"] = json!({"after": 50});
    thread::scope(|scope| {
        let asked = scope.spawn(|| ask_with(&gateway, &config, STREAMED));
        alone.wait_for_requests(2);
        (0..2).for_each(|_| go.send(()).unwrap());
        assert_eq!(asked.join().unwrap().status, 503);
    });
}

#[test]
fn another_target_of_a_balance_is_called() {
    let asked = Arc::new(AtomicUsize::new(0));
    // Whichever is called first keeps silent.
    let [one, other] = [asked.clone(), asked].map(|asked| {
        Upstream::start(move |request, stream| {
            if asked.fetch_add(1, Ordering::Relaxed) % 2 == 0 {
                wait_for_close(stream);
                return After::Close;
            }
            answer_well(request, stream)
        })
    });
    let gateway = before(&[&one, &other], "");
    for balance in ["weighted", "round_robin", "least_outstanding", "latency"] {
        let (ones, others) = (one.seen().len(), other.seen().len());
        let config = json!({
            "strategy": {"mode": "loadbalance", "balance": balance},
            "hedge": {"after": 50}, "targets": [at(&one), at(&other)],
        });
        let answer = ask_with(&gateway, &config, STREAMED);
        assert!(is_good(&answer), "{answer:?}");
        let more = (one.seen().len() - ones, other.seen().len() - others);
        assert_eq!(more, (1, 1), "{balance}");
    }
}

/// Holds that a first call which takes its time is not joined by a second one.
fn is_not_hedged(lines: &str, change: impl Fn(&mut Value)) {
    let slow = Upstream::start(|request, stream| {
        thread::sleep(Duration::from_millis(250));
        answer_well(request, stream)
    });
    let gateway = before(&[&slow], lines);
    let mut config = at(&slow);
    config["hedge"] = json!({"after": 50});
    change(&mut config);
    let answer = ask_with(&gateway, &config, PLAIN);
    assert!(is_good(&answer), "{answer:?}");
    assert_eq!(slow.seen().len(), 1, "{config}");
}

#[test]
fn what_forbids_a_second_call() {
    is_not_hedged("  retries: { budget_percent: 0, reserve: 0 }\n", |_| {});
    is_not_hedged("", |config| config["max_concurrent"] = json!(1));
    // How long its calls take is not known yet.
    is_not_hedged("", |config| config["hedge"] = json!({"quantile": 0.5}));
    is_not_hedged("", |config| {
        config["hedge"] = json!({"quantile": 0.5, "after": 50});
    });
}

#[test]
fn a_target_that_is_left_alone_is_no_second_one() {
    let slow = Upstream::start(|request, stream| {
        thread::sleep(Duration::from_millis(200));
        answer_well(request, stream)
    });
    let bad = Upstream::answering(answer(500, r#"{"error":{"message":"no"}}"#));
    let gateway = before(&[&slow, &bad], "");
    let breaker = json!({"failure_threshold": 1, "cooldown_interval": 60_000});
    let mut open = at(&bad);
    open["cb_config"] = breaker;
    let alone = json!({"strategy": {"mode": "fallback"}, "targets": [open.clone(), at(&slow)]});
    assert!(is_good(&ask_with(&gateway, &alone, PLAIN)));
    let config = fallback(json!({"after": 20}), &[at(&slow), open]);
    assert!(is_good(&ask_with(&gateway, &config, PLAIN)));
    assert_eq!(bad.seen().len(), 1);
}

#[test]
fn a_call_that_takes_longer_than_nearly_all_is_made_again() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let (closed, closing) = mpsc::channel();
    let closed = Mutex::new(closed);
    let upstream = Upstream::start(move |request, stream| {
        if counted.fetch_add(1, Ordering::Relaxed) == 30 {
            wait_for_close(stream).unwrap();
            closed.lock().unwrap().send(()).unwrap();
            return After::Close;
        }
        answer_well(request, stream)
    });
    let gateway = before(&[&upstream], "");
    let mut config = at(&upstream);
    config["hedge"] = json!({"after": 100, "quantile": 0.9});
    for _ in 0..31 {
        let answer = ask_with(&gateway, &config, STREAMED);
        assert!(is_good(&answer), "{answer:?}");
    }
    closing.recv_timeout(LONG).expect("it is hung up on");
    assert!(calls.load(Ordering::Relaxed) >= 32);
}

#[test]
fn each_call_has_its_own_deadline() {
    let (silent, closing) = watching([]);
    let late = Upstream::start(|request, stream| {
        thread::sleep(Duration::from_millis(300));
        answer_well(request, stream)
    });
    let gateway = before(&[&silent, &late], "");
    // The first one's time is over before the second one answers, whose own is not.
    let mut config = fallback(json!({"after": 200}), &[at(&silent), at(&late)]);
    config["request_timeout"] = json!(400);
    for body in [PLAIN, STREAMED] {
        let answer = ask_with(&gateway, &config, body);
        assert!(is_good(&answer), "{answer:?}");
        assert_eq!(option(&answer), "config.targets[1]");
        closing.recv_timeout(LONG).expect("it is hung up on");
        gateway.wait_for_log("tried=\"config.targets[0] openai 504 attempt_timeout ");
        assert_eq!(late.seen().len(), if body == PLAIN { 1 } else { 2 });
    }
}

#[test]
fn a_client_that_leaves_stops_both_calls() {
    let ((one, one_closing), (other, other_closing)) = (watching([]), watching([]));
    let gateway = before(&[&one, &other], "");
    let config = fallback(json!({"after": 50}), &[at(&one), at(&other)]).to_string();
    let mut client = Client::connect(&gateway.address);
    let headers = [("x-portkey-config", config.as_str())];
    client.send(request("POST", "/v1/completions", &headers, STREAMED));
    other.wait_for_requests(1);
    drop(client);
    one_closing.recv_timeout(LONG).unwrap();
    other_closing.recv_timeout(LONG).unwrap();
    gateway.wait_for_log("failure=client_gone");
}

#[test]
fn every_vendors_slow_answer_is_overtaken_by_another_vendors() {
    let emulator = free_address();
    let gateway = Gateway::start(&format!(
        "  emulator: {{ listen: \"{emulator}\", all: true }}\n"
    ));
    let vendors = ["openai", "groq", "anthropic"];
    for (turn, slow) in vendors.into_iter().enumerate() {
        let quick = vendors[(turn + 1) % vendors.len()];
        let config = fallback(
            json!({"after": 100}),
            &[
                json!({"provider": slow, "api_key": "sk-emulator?latency_ms=15000&tokens=4"}),
                json!({"provider": quick, "api_key": "sk-emulator?tokens=4"}),
            ],
        );
        for body in [PLAIN, STREAMED] {
            let started = Instant::now();
            let answer = ask_with(&gateway, &config, body);
            assert!(is_good(&answer), "{slow} {quick}: {answer:?}");
            assert!(started.elapsed() < LONG);
            assert_eq!(answer.header("x-portkey-provider"), Some(quick));
        }
    }
}
