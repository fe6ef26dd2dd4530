//! `pingora-completions bench` against the gateway, its emulator, and upstreams that fail in a known way.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
    sync::{Mutex, mpsc},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::support::{
    BINARY, Gateway, PATIENCE, free_address, providers_at, scratch,
    upstream::{
        After, DONE, LAST_CHUNK, STREAM, TEXT, Upstream, chunk, event, events, json, wait_for_close,
    },
    wait_for,
};

/// What a run printed, wrote and ended with.
struct Run {
    status: i32,
    table: String,
    said: String,
    /// Null if it was not written.
    json: Value,
}

impl Run {
    /// A figure of the first target.
    fn of(&self, pointer: &str) -> &Value {
        let found = self.json.pointer(&format!("/targets/0/{pointer}"));
        found.unwrap_or_else(|| panic!("no {pointer} in {}", self.json))
    }

    fn count(&self, pointer: &str) -> u64 {
        self.of(pointer).as_u64().unwrap()
    }

    fn number(&self, pointer: &str) -> f64 {
        self.of(pointer).as_f64().unwrap()
    }
}

/// Without a warm-up, unless the arguments say another.
fn bench(arguments: &[&str]) -> Run {
    let file = scratch("json");
    let mut all = vec!["bench", "--quiet", "--json", file.to_str().unwrap()];
    if !arguments.contains(&"--warmup") {
        all.extend(["--warmup", "0"]);
    }
    all.extend(arguments);
    let output = Command::new(BINARY)
        .args(&all)
        .env("BENCH_KEY", "sk-demo-canary")
        .output()
        .unwrap();
    let json = fs::read_to_string(&file).unwrap_or_default();
    Run {
        status: output.status.code().unwrap(),
        table: String::from_utf8(output.stdout).unwrap(),
        said: String::from_utf8(output.stderr).unwrap(),
        json: serde_json::from_str(&json).unwrap_or_default(),
    }
}

/// A gateway before its emulator, and the emulator's address.
fn emulated() -> (Gateway, String) {
    let emulator = free_address();
    let gateway = Gateway::start(&format!(
        "  emulator: {{ listen: \"{emulator}\", all: true }}\n  default: {{ provider: openai, model: m }}\n"
    ));
    (gateway, emulator)
}

const KEY: &[&str] = &["--key", "env:BENCH_KEY"];

fn upstream_of(whole: &'static str) -> Upstream {
    Upstream::start(move |request, stream| {
        let answer = match request.text().contains("\"stream\":true") {
            true => [STREAM, &chunk(events()), LAST_CHUNK].concat(),
            false => json(200, whole),
        };
        stream.write_all(&answer).unwrap();
        After::Keep
    })
}

/// Closes a connection at its second request, without a word; from the `last`th request on, at the first.
fn closing(last: usize) -> Upstream {
    let served = Mutex::new(Vec::new());
    Upstream::start(move |_, stream| {
        let (from, mut served) = (stream.peer_addr().unwrap(), served.lock().unwrap());
        if served.contains(&from) || served.len() >= last {
            return After::Close;
        }
        served.push(from);
        stream.write_all(&json(200, TEXT)).unwrap();
        After::Keep
    })
}

#[test]
fn a_kept_connection_that_its_server_had_closed_is_no_failure() {
    let upstream = closing(usize::MAX);
    let url = format!("http://{}", upstream.address);
    let run = bench(&[&url, "--requests", "4", "--concurrency", "1"]);
    assert_eq!(run.status, 0, "{}", run.table);
    let counts = ["succeeded", "sent_again", "connections"].map(|name| run.count(name));
    assert_eq!(counts, [4, 3, 4]);
    assert!(run.table.contains("sent again"), "{}", run.table);
}

#[test]
fn what_a_new_connection_does_not_bring_either_is_cut() {
    let upstream = closing(1);
    let url = format!("http://{}", upstream.address);
    let run = bench(&[&url, "--requests", "3", "--concurrency", "1"]);
    assert_eq!(run.status, 1);
    let counts = ["succeeded", "sent_again", "errors/cut"].map(|name| run.count(name));
    assert_eq!(counts, [1, 1, 2]);
    // One answered, one on that connection and on a new one, and one on its own.
    assert_eq!(upstream.seen().len(), 4);
}

#[test]
fn counts_are_those_of_the_servers_own_metrics() {
    let (gateway, _) = emulated();
    let url = format!("http://{}", gateway.address);
    let tokens = || gateway.metric("completions_tokens_total", &["side=\"completion\""]);
    let mut counted = 0.0;
    for (stream, kind) in [
        (&["--stream"][..], "kind=\"stream\""),
        (&[], "kind=\"whole\""),
    ] {
        let load = [
            &url,
            "--requests",
            "40",
            "--concurrency",
            "4",
            "--warmup",
            "4",
        ];
        let run = bench(&[&load[..], KEY, stream].concat());
        assert_eq!(run.status, 0, "{}{}", run.table, run.said);
        assert_eq!((run.count("requests"), run.count("succeeded")), (40, 40));
        assert_eq!(run.count("latency_ms/count"), 40);
        let labels = [kind, "status=\"200\""];
        // The line of a request's end may come a moment after its answer.
        let settled = wait_for(|| {
            let served = gateway.metric("completions_requests_total", &labels);
            (served == 44.0).then_some(())
        });
        assert!(settled.is_some(), "{kind}");
        // Each answer has as many tokens as any other.
        let here = run.number("completion_tokens") / 40.0 * 44.0;
        assert_eq!(tokens() - counted, here);
        counted = tokens();
        if !stream.is_empty() {
            assert_eq!(run.count("first_token_ms/count"), 40);
            let events = run.count("events");
            assert_eq!(run.count("between_events_ms/count"), events - 40);
            assert_eq!(run.number("completion_tokens"), events as f64);
        }
    }
}

#[test]
fn failures_are_told_by_kind_and_by_the_exit_status() {
    let (_gateway, emulator) = emulated();
    let cases = [
        ("status-503", &[][..], "status 503"),
        ("status-429", &["--stream"], "status 429"),
        ("html", &[], "status 502"),
        ("redirect", &[], "status 302"),
        ("empty", &[], "invalid: no completion"),
        ("gzip", &[], "invalid: no completion"),
        ("sse", &[], "invalid: no completion"),
        ("json", &["--stream"], "invalid: no stream"),
        ("garbage", &["--stream"], "invalid: an event is no chunk"),
        ("error-event", &["--stream"], "error event"),
        ("error-first", &["--stream"], "error event"),
        ("no-done", &["--stream"], "cut"),
        ("cut", &["--stream"], "cut"),
        ("cut-event", &["--stream"], "cut"),
        ("cut", &[], "cut"),
        ("hang", &["--timeout", "0.2"], "timeout"),
        ("stall", &["--stream", "--timeout", "0.2"], "timeout"),
    ];
    for (fault, more, kind) in cases {
        let url = format!("http://{emulator}/~fault={fault}/v1");
        let load = [
            &url,
            "--requests",
            "6",
            "--concurrency",
            "3",
            "--model",
            "m",
        ];
        let run = bench(&[&load[..], KEY, more].concat());
        assert_eq!(run.status, 1, "{fault}: {}", run.said);
        assert_eq!(*run.of("errors"), serde_json::json!({kind: 6}), "{fault}");
        assert_eq!((run.count("succeeded"), run.count("failed")), (0, 6));
        assert!(run.table.contains(&format!("    {kind}")), "{}", run.table);
        let run = bench(&[&load[..], KEY, more, &["--tolerate-errors"]].concat());
        assert_eq!((run.status, run.count("failed")), (0, 6), "{fault}");
    }
    for good in ["split", "crlf", "comments", "filter"] {
        let url = format!("http://{emulator}/~fault={good}/v1");
        let run = bench(
            &[
                &[url.as_str(), "--requests", "2", "--model", "m", "--stream"],
                KEY,
            ]
            .concat(),
        );
        assert_eq!(
            (run.status, run.count("succeeded")),
            (0, 2),
            "{good}: {}",
            run.table
        );
    }
    let nobody = format!("http://{}", free_address());
    let run = bench(&[&nobody, "--requests", "3"]);
    assert_eq!(
        (run.status, run.of("errors")),
        (1, &serde_json::json!({"connect": 3}))
    );
}

#[test]
fn a_storm_of_aborts_ends_every_upstream_call() {
    let (closed, closing) = mpsc::channel();
    let closed = Mutex::new(closed);
    let upstream = Upstream::start(move |_, stream| {
        for text in [" a", " b"] {
            let event = [
                if text == " a" { STREAM } else { b"" },
                &chunk(event(text, None)),
            ];
            stream.write_all(&event.concat()).unwrap();
        }
        if wait_for_close(stream).is_some() {
            closed.lock().unwrap().send(()).unwrap();
        }
        After::Close
    });
    let gateway = Gateway::before(&upstream.address);
    let url = format!("http://{}", gateway.address);
    for (after, aborted) in [("2", 30), ("1", 60), ("0", 90)] {
        let run = bench(&[
            &url,
            "--stream",
            "--abort-after",
            after,
            "--requests",
            "30",
            "--concurrency",
            "5",
        ]);
        assert_eq!(
            (run.status, run.count("aborted"), run.count("succeeded")),
            (0, 30, 0),
            "{}",
            run.table
        );
        assert!(after != "0" || *run.of("first_token_ms") == Value::Null);
        // A client that has left at once may have left before its call was made.
        if after != "0" {
            assert!(run.count("events") >= after.parse::<u64>().unwrap() * 30);
            assert_eq!(upstream.seen().len(), aborted);
            for _ in 0..30 {
                closing.recv_timeout(PATIENCE).expect("each call ends");
            }
        }
    }
    let idle = wait_for(|| (gateway.metric("completions_in_flight", &[]) == 0.0).then_some(()));
    assert!(idle.is_some());
}

#[test]
fn an_open_loop_has_a_stall_in_its_percentiles_and_a_closed_one_hides_it() {
    let stalling = || {
        Upstream::start(|request, stream| {
            if request.turn == 20 {
                thread::sleep(Duration::from_millis(400));
            }
            stream.write_all(&json(200, TEXT)).unwrap();
            After::Keep
        })
    };
    let load = ["--requests", "100", "--concurrency", "1"];
    let upstream = stalling();
    let url = format!("http://{}", upstream.address);
    let closed = bench(&[&[url.as_str()], &load[..]].concat());
    let upstream = stalling();
    let url = format!("http://{}", upstream.address);
    let open = bench(&[&[url.as_str()], &load[..], &["--rate", "100"]].concat());
    assert_eq!((closed.status, open.status), (0, 0));
    // Requests 20 to 59 were due in the 400 ms, evenly: the 10th of the slowest waited for some 300 ms.
    assert!(open.number("latency_ms/p90") > 200.0, "{}", open.table);
    assert!(open.number("sent_late_ms/p90") > 200.0, "{}", open.table);
    assert!(closed.number("latency_ms/p90") < 200.0, "{}", closed.table);
    assert!(closed.number("latency_ms/max") >= 400.0);
    assert_eq!(*closed.of("sent_late_ms"), Value::Null);
    assert!(open.number("seconds") >= 0.99, "{}", open.table);
}

#[test]
fn a_time_limit_ends_a_turn() {
    let upstream = Upstream::answering(json(200, TEXT));
    let url = format!("http://{}", upstream.address);
    let run = bench(&[&url, "--max-seconds", "0.3"]);
    assert!(run.status == 0 && run.number("seconds") >= 0.3 && run.count("requests") > 8);
    let run = bench(&[&url, "--max-seconds", "0.3", "--rate", "50"]);
    assert_eq!((run.status, run.count("requests")), (0, 15));
}

#[test]
fn a_request_is_what_was_asked_for() {
    let upstream = Upstream::answering(json(200, &TEXT.replace("[{", "[{},{},{},{")));
    let url = format!("http://{}/deep/v1", upstream.address);
    let run = bench(&[
        &url,
        "--requests",
        "1",
        "--model",
        "m",
        "--prompt-bytes",
        "50",
        "--prompts",
        "2",
        "--n",
        "2",
        "--max-tokens",
        "9",
        "--key",
        "env:BENCH_KEY",
        "-H",
        "x-a: b",
        "-H",
        "accept: x/y",
        "--body",
        r#"{"ignore_eos":true}"#,
        "--unique",
    ]);
    assert_eq!(run.status, 0, "{}{}", run.table, run.said);
    let seen = upstream.sole();
    assert_eq!(seen.path, "/deep/v1/completions");
    for (name, value) in [
        ("authorization", "Bearer sk-demo-canary"),
        ("x-a", "b"),
        ("accept", "x/y"),
        ("host", upstream.address.as_str()),
    ] {
        assert_eq!(
            seen.headers
                .iter()
                .filter(|(known, _)| known == name)
                .count(),
            1
        );
        assert_eq!(seen.header(name), Some(value));
    }
    let body: Value = serde_json::from_str(seen.text()).unwrap();
    assert_eq!(body["prompt"][1].as_str().unwrap().len(), 50 + 13);
    assert_ne!(body["prompt"][0], body["prompt"][1]);
    assert_eq!(
        (&body["n"], &body["max_tokens"], &body["ignore_eos"]),
        (&2.into(), &9.into(), &true.into())
    );
    // Neither the key nor the prompt is in what is told.
    let told = format!("{}{}{}", run.table, run.said, run.json);
    assert!(
        !told.contains("canary") && !told.contains("ice cream"),
        "{told}"
    );
}

#[test]
fn connections_are_kept_as_long_as_the_server_keeps_them() {
    let kept = upstream_of(TEXT);
    let closing = Upstream::start(|request, stream| {
        let answer = String::from_utf8(json(200, TEXT)).unwrap();
        // Every second time without a word.
        let answer = match request.connection % 2 {
            0 => answer.replace("content-type", "connection: close\r\ncontent-type"),
            _ => answer.replace("content-length", "x-length"),
        };
        stream.write_all(answer.as_bytes()).unwrap();
        After::Close
    });
    for (upstream, more, connections) in [(&kept, "--no-usage", 3), (&closing, "", 30)] {
        let url = format!("http://{}", upstream.address);
        let mut load = vec![url.as_str(), "--requests", "30", "--concurrency", "3"];
        load.extend(
            Some(["--stream", more])
                .filter(|_| !more.is_empty())
                .into_iter()
                .flatten(),
        );
        let run = bench(&load);
        assert_eq!(
            (run.status, run.count("succeeded")),
            (0, 30),
            "{}",
            run.table
        );
        assert_eq!(run.count("connections"), connections, "{}", run.table);
    }
    assert!(
        !kept
            .seen()
            .iter()
            .any(|request| request.text().contains("stream_options"))
    );
    let (sent, received) = {
        let url = format!("http://{}", kept.address);
        let run = bench(&[&url, "--requests", "10"]);
        (run.count("bytes_sent"), run.count("bytes_received"))
    };
    assert_eq!(received, json(200, TEXT).len() as u64 * 10);
    assert!(sent > 10 * 200);
}

#[test]
fn servers_are_compared_round_by_round() {
    let fast = upstream_of(TEXT);
    let slow = Upstream::start(|_, stream| {
        thread::sleep(Duration::from_millis(20));
        stream.write_all(&json(200, TEXT)).unwrap();
        After::Keep
    });
    let gateway = Gateway::start(&providers_at(&fast.address));
    let [first, second, third] =
        [&fast.address, &slow.address, &gateway.address].map(|address| format!("http://{address}"));
    let (html, pid) = (scratch("html"), format!("gateway={}", gateway.child.id()));
    let run = bench(&[
        &first,
        "--compare",
        &format!("{second}=slow"),
        "--compare",
        &format!("{third}=gateway"),
        "--rounds",
        "3",
        "--requests",
        "20",
        "--concurrency",
        "1",
        "--pid",
        &pid,
        "--html",
        html.to_str().unwrap(),
    ]);
    assert_eq!(run.status, 0, "{}{}", run.table, run.said);
    assert_eq!(run.count("requests"), 60);
    assert_eq!(run.of("rounds").as_array().unwrap().len(), 3);
    let ratio = &run.json["ratios"][0];
    assert_eq!(
        (&ratio["name"], &ratio["to"]),
        (&"slow".into(), &fast.address.as_str().into())
    );
    let [min, median, max] =
        ["min", "median", "max"].map(|of| ratio["latency_p50"][of].as_f64().unwrap());
    assert!(1.0 < min && min <= median && median <= max, "{ratio}");
    assert!(ratio["requests_per_second"]["median"].as_f64().unwrap() < 1.0);
    let process = &run.json["targets"][2]["processes"][0];
    assert!(
        process["peak_bytes"].as_u64().unwrap() > 1 << 20,
        "{process}"
    );
    assert!(
        process["cpu_seconds"].is_number() && run.table.contains("its process: CPU, µs/request")
    );
    // In turn: each round asks one after the other.
    assert_eq!(fast.seen().len(), 120);
    let page = fs::read_to_string(&html).unwrap();
    assert!(page.contains("<svg") && page.contains("gateway / ") && page.ends_with("</html>\n"));
}

#[test]
fn a_server_behind_tls_is_asked_and_its_certificate_checked() {
    let upstream = upstream_of(TEXT);
    let address = free_address();
    let fixture = |name: &str| format!("{}/tests/fixtures/tls/{name}", env!("CARGO_MANIFEST_DIR"));
    let entry = format!(
        "{{ address: \"{address}\", tls: {{ cert: \"{}\", key: \"{}\" }} }}",
        fixture("one.pem"),
        fixture("one.key")
    );
    let _gateway = Gateway::start_on(&[&entry], &providers_at(&upstream.address));
    let url = format!("https://{address}/v1");
    let ca = fixture("ca.pem");
    for stream in [&[][..], &["--stream"]] {
        let load = [
            &[
                url.as_str(),
                "--requests",
                "10",
                "--concurrency",
                "2",
                "--ca",
                &ca,
            ],
            stream,
        ];
        let run = bench(&load.concat());
        assert_eq!(
            (run.status, run.count("succeeded")),
            (0, 10),
            "{}{}",
            run.table,
            run.said
        );
        assert_eq!(run.count("connections"), 2);
    }
    let run = bench(&[&url, "--requests", "2", "--ca", &fixture("two.pem")]);
    assert_eq!(
        (run.status, run.of("errors")),
        (1, &serde_json::json!({"connect": 2}))
    );
}

#[test]
fn a_wrong_command_is_told_and_sends_nothing() {
    let upstream = upstream_of(TEXT);
    let url = format!("http://{}", upstream.address);
    let own = std::process::id().to_string();
    let cases: &[(&[&str], &str)] = &[
        (&["nonsense"], "http://127.0.0.1:8787/v1/completions"),
        (&[], "URL"),
        (&[&url, "--concurrency", "0"], "concurrency"),
        (&[&url, "--rate", "0"], "requests per second"),
        (&[&url, "--rate", "1", "--max-seconds", "0"], "seconds"),
        (&[&url, "--abort-after", "1"], "--stream"),
        (&[&url, "--key", "sk-canary"], "env:NAME"),
        (&[&url, "--key", "env:NOT_SET_ANYWHERE"], "NOT_SET_ANYWHERE"),
        (&[&url, "-H", "nothing"], "name: value"),
        (&[&url, "--body", "[]"], "JSON object"),
        (&[&url, "--body", "{\"stream\":true}"], "option of its own"),
        (
            &[&url, "--prompt", "a", "--prompt-bytes", "5"],
            "cannot be used",
        ),
        (&[&url, "--prompt-file", "/nowhere"], "/nowhere"),
        (&[&url, "--ca", "/nowhere"], "/nowhere"),
        (&[&url, "--pid", "gateway=0"], "no such process"),
        (&[&url, "--pid", &own], "gateway=4711"),
        (&[&url, "--compare", &url], "URL=name"),
        (&["http://nowhere.invalid"], "nowhere.invalid"),
    ];
    for (arguments, told) in cases {
        let run = bench(arguments);
        assert_eq!(run.status, 2, "{arguments:?}: {}", run.said);
        assert!(
            run.said.contains(told) && !run.said.contains("canary"),
            "{arguments:?}: {}",
            run.said
        );
        assert_eq!(run.table, "");
    }
    assert!(upstream.seen().is_empty());
    // The flags of the server are the server's.
    let mixed = Command::new(BINARY)
        .args(["-c", "conf/demo.yaml", "bench", &url])
        .output()
        .unwrap();
    assert_eq!(mixed.status.code(), Some(2));
    let help = Command::new(BINARY).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("bench") && help.contains("--conf"), "{help}");
}

#[test]
fn a_report_that_cannot_be_written_is_told_behind_the_table() {
    let upstream = upstream_of(TEXT);
    let url = format!("http://{}", upstream.address);
    let run = bench(&[&url, "--requests", "1", "--html", "/nowhere/report.html"]);
    assert_eq!((run.status, run.count("succeeded")), (1, 1));
    assert!(run.said.contains("/nowhere/report.html") && run.table.contains("went well"));
}

#[test]
fn progress_is_a_line_each_second() {
    let upstream = Upstream::start(|_, stream| {
        thread::sleep(Duration::from_millis(50));
        let answer = [
            STREAM,
            &chunk([event(" a", Some("stop")), DONE.to_owned()].concat()),
            LAST_CHUNK,
        ];
        stream.write_all(&answer.concat()).unwrap();
        After::Keep
    });
    let url = format!("http://{}=name", upstream.address);
    let output = Command::new(BINARY)
        .args([
            "bench",
            &url,
            "--stream",
            "--max-seconds",
            "1.3",
            "--concurrency",
            "1",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(
        said.starts_with("   1 s  name  ") && said.lines().count() == 1,
        "{said}"
    );
}

#[test]
fn an_interrupted_run_tells_what_it_has_measured() {
    let upstream = upstream_of(TEXT);
    let url = format!("http://{}", upstream.address);
    for more in [&[][..], &["--rate", "20"]] {
        let file = scratch("json");
        let before = upstream.seen().len();
        let mut child = Command::new(BINARY)
            .args([
                "bench",
                "-q",
                &url,
                "--max-seconds",
                "300",
                "--warmup",
                "1",
                "--concurrency",
                "2",
            ])
            .args(["--json", file.to_str().unwrap()])
            .args(more)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        upstream.wait_for_requests(before + 4);
        let id = child.id().to_string();
        let kill = Command::new("kill").args(["-s", "INT", &id]).status();
        assert!(kill.unwrap().success());
        let ended = wait_for(|| child.try_wait().unwrap());
        assert_eq!(ended.map(|status| status.code()), Some(Some(1)));
        let json: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!(json["interrupted"], true);
        assert!(
            json["targets"][0]["succeeded"].as_u64().unwrap() > 2,
            "{json}"
        );
    }
}
