//! The rows of the fault catalogue (docs/faults.md) that no other file has: what an upstream does to its connection, to its
//! frames and to its headers, in each framing, on both roads.

use std::{
    io::Write,
    net::{Shutdown, SocketAddr, TcpStream},
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use rlimit::{Resource, prlimit};
use serde_json::json;
use socket2::{Domain, SockRef, Socket, Type};

use crate::support::{
    Gateway, PATIENCE,
    client::{Answer, Client, PLAIN, ROADS, STREAMED, ask, post, request},
    free_address, providers_at,
    upstream::{
        After, DONE, LAST_CHUNK, STREAM, TEXT, Upstream, chunk, event, events, json as whole,
        wait_for_close,
    },
    wait_for,
};

/// What a client was told in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// A whole answer, or a stream to its end marker.
    Good,
    /// An error event in an open stream, which it ended.
    Event,
    /// An error of its own status.
    Status(u16),
}

/// Fails for an answer that is neither, or more than one.
fn told(answer: &Answer, place: &str) -> Told {
    let text = String::from_utf8_lossy(&answer.body);
    let place = format!("{place}: {} {text}", answer.status);
    assert!(answer.complete, "{place}");
    if answer.status != 200 {
        assert!(answer.json()["error"]["message"].is_string(), "{place}");
        return Told::Status(answer.status);
    }
    if answer.header("content-type") == Some("application/json") {
        assert!(answer.json()["choices"][0]["text"].is_string(), "{place}");
        return Told::Good;
    }
    let (errors, ends) = (
        text.matches("{\"error\":").count(),
        text.matches("[DONE]").count(),
    );
    assert_eq!(errors + ends, 1, "{place}");
    let last = text.trim_end().rsplit("\n\n").next().unwrap();
    match errors {
        0 => assert_eq!(last, "data: [DONE]", "{place}"),
        _ => assert!(last.starts_with("data: {\"error\":{"), "{place}"),
    }
    if errors == 0 { Told::Good } else { Told::Event }
}

/// One of each framing, and of each way that an answer takes: passed as it came, and translated.
const FRAMINGS: [(&str, &str); 5] = [
    ("openai", "m"),
    ("groq", "m"),
    ("own-lines", "m"),
    ("own-messages", "us.amazon.nova-lite-v1:0"),
    ("own-payloads", "meta.llama3-8b-instruct-v1:0"),
];

fn emulated(more: &str) -> Gateway {
    let own = [
        ("lines", "ollama"),
        ("messages", "bedrock"),
        ("payloads", "bedrock-invoke"),
    ];
    let own: String = own
        .iter()
        .map(|(name, dialect)| {
            format!("    own-{name}: {{ base_url: \"http://own.example\", dialect: {dialect} }}\n")
        })
        .collect();
    let emulator = free_address();
    Gateway::start(&format!(
        "  emulator: {{ listen: \"{emulator}\", all: true }}\n  providers:\n{own}{more}"
    ))
}

/// Asks in every framing, on both roads; says what each was told.
fn in_every_framing(gateway: &Gateway, fault: &str, streamed: bool, check: impl Fn(Told, &str)) {
    let key = format!("Bearer sk-emulator?tokens=12&{fault}");
    for (provider, model) in FRAMINGS {
        for road in ROADS {
            let headers = [("x-portkey-provider", provider), ("authorization", &*key)];
            let body = json!({
                "model": model, "prompt": "Say it.", "max_tokens": 30, "stream": streamed,
            });
            let answer = ask(
                &gateway.address,
                &[&headers, road].concat(),
                &body.to_string(),
            );
            let place = format!("{fault} of {provider}, {} headers, {streamed}", road.len());
            check(told(&answer, &place), &place);
        }
    }
}

// Rows 9, 10 and 11: however a good stream is cut and written, it arrives.
#[test]
fn a_good_stream_arrives_however_it_is_written() {
    let gateway = emulated("");
    for fault in ["split", "crlf", "comments", "no-done"] {
        in_every_framing(&gateway, &format!("fault={fault}"), true, |told, place| {
            assert_eq!(told, Told::Good, "{place}");
        });
    }
}

// Rows 5, 6, 12, 13 and 14: one that breaks, lacks its end, or says what is no answer never looks complete.
#[test]
fn a_stream_that_goes_wrong_is_an_error_in_every_framing() {
    let gateway = emulated("");
    for fault in ["cut", "cut-event", "no-finish", "garbage", "error-event"] {
        // At a pace that opens the client's stream before the fault, and without: then the status is the failure's own.
        for rate in ["", "&rate=200"] {
            let fault = format!("fault={fault}{rate}");
            in_every_framing(&gateway, &fault, true, |told, place| match told {
                Told::Event => {}
                Told::Status(status) => assert!(status >= 400, "{place}"),
                Told::Good => panic!("{place}"),
            });
        }
    }
    in_every_framing(&gateway, "fault=error-first", true, |told, place| {
        assert!(matches!(told, Told::Status(400..)), "{place}: {told:?}");
    });
}

// Rows 4, 17, 18, 21 and 22: heads and bodies that are no answer, and silence.
#[test]
fn what_is_no_answer_is_an_error_in_every_framing() {
    let gateway = emulated("  timeouts: { read: 300ms }\n");
    for streamed in [false, true] {
        for (fault, status) in [
            ("html", 502),
            ("empty", 502),
            ("redirect", 502),
            ("gzip", 502),
            ("hang", 504),
            ("status-529", 529),
        ] {
            let fault = format!("fault={fault}");
            in_every_framing(&gateway, &fault, streamed, |told, place| {
                assert_eq!(told, Told::Status(status), "{place}");
            });
        }
    }
    for fault in ["cut", "cut-event"] {
        in_every_framing(&gateway, &format!("fault={fault}"), false, |told, place| {
            assert_eq!(told, Told::Status(502), "{place}");
        });
    }
    in_every_framing(&gateway, "fault=stall", false, |told, place| {
        assert_eq!(told, Told::Status(504), "{place}");
    });
    in_every_framing(&gateway, "fault=stall&rate=200", true, |told, place| {
        assert!(matches!(told, Told::Event | Told::Status(504)), "{place}");
    });
}

// Row 22: a stream for a whole, a whole for a stream.
#[test]
fn an_answer_in_the_other_form_is_converted_or_refused() {
    let gateway = emulated("");
    in_every_framing(&gateway, "fault=json", true, |told, place| {
        assert_eq!(told, Told::Good, "{place}");
    });
    in_every_framing(&gateway, "fault=sse", false, |told, place| {
        assert_eq!(told, Told::Status(502), "{place}");
    });
}

fn is_streamed(text: &str) -> bool {
    text.contains("\"stream\":true")
}

fn good(text: &str) -> Vec<u8> {
    match is_streamed(text) {
        true => [STREAM, &chunk(events()), LAST_CHUNK].concat(),
        false => whole(200, TEXT),
    }
}

/// A completion in each form on each road, and a path that passes.
fn every_post() -> Vec<String> {
    let completions = [PLAIN, STREAMED].map(|body| ROADS.map(|road| post(road, body)));
    let passed = request("POST", "/v1/embeddings", &[], PLAIN);
    completions.into_iter().flatten().chain([passed]).collect()
}

fn say(gateway: &Gateway, post: &str) -> Answer {
    let mut client = Client::connect(&gateway.address);
    client.send(post);
    client.read()
}

/// Closes `stream` by a reset.
fn reset(stream: &TcpStream) {
    SockRef::from(stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

// Row 2: a host that takes no connection costs a call its time for that, and the next target is called.
#[test]
fn a_target_that_takes_no_connection_is_given_up_in_time() {
    // A full queue of connections that nobody accepts answers no further one.
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    let mut queue = Vec::new();
    while let Ok(queued) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        queue.push(queued);
    }
    let next = Upstream::start(|request, stream| {
        stream.write_all(&good(request.text())).unwrap();
        After::Keep
    });
    let lines = format!(
        "{}  allowed_hosts: [\"{address}\", \"{}\"]\n  timeouts: {{ connect: 300ms }}\n",
        providers_at(&address.to_string()),
        next.address
    );
    let gateway = Gateway::start(&lines);
    for post in every_post() {
        let asked = Instant::now();
        let answer = say(&gateway, &post);
        assert_eq!(answer.status, 504, "{post}: {}", answer.text());
        assert_eq!(answer.json()["error"]["code"], "connect_timeout");
        assert!(asked.elapsed() < Duration::from_secs(2), "{post}");
    }
    let target = |host: &str| json!({"provider": "openai", "api_key": "sk-x", "custom_host": format!("http://{host}/v1")});
    let targets = [target(&address.to_string()), target(&next.address)];
    let config = json!({"strategy": {"mode": "fallback"}, "targets": targets}).to_string();
    for body in [PLAIN, STREAMED] {
        let answer = ask(&gateway.address, &[("x-portkey-config", &config)], body);
        assert_eq!(told(&answer, body), Told::Good);
    }
}

/// The limit under which `gateway` can open `more` descriptors.
fn limit_for(gateway: &Gateway, more: usize) -> u64 {
    let open = gateway.descriptors();
    let mut free = (0..).filter(|number| !open.contains(number));
    free.nth(more).unwrap()
}

// Row 2: the gateway itself is out of descriptors.
#[test]
fn a_gateway_without_descriptors_says_so_does_not_spin_and_recovers() {
    let upstream = Upstream::start(|request, stream| {
        stream.write_all(&good(request.text())).unwrap();
        After::Close
    });
    let gateway = Gateway::before(&upstream.address);
    let id = i32::try_from(gateway.child.id()).unwrap();
    let limit = |soft| prlimit(id, Resource::NOFILE, Some((soft, 1 << 10)), None).unwrap();
    for post in every_post() {
        // A connection of the last turn may still be closing.
        let refused = wait_for(|| {
            limit(limit_for(&gateway, 1));
            let mut client = Client::connect(&gateway.address);
            client.send(&post);
            let answer = client.read();
            limit(1 << 10);
            (answer.status == 503).then_some(answer)
        });
        let answer = refused.unwrap_or_else(|| panic!("{post}"));
        assert_eq!(
            answer.json()["error"]["code"],
            "gateway_exhausted",
            "{post}"
        );
        assert_eq!(answer.header("retry-after"), Some("1"), "{post}");
    }
    // Connections that cannot be accepted wait; nothing turns in circles for them.
    let waited = wait_for(|| {
        limit(limit_for(&gateway, 0));
        let mut waiting = Client::connect(&gateway.address);
        waiting.send(post(&[], PLAIN));
        gateway.wait_for_log("Accept() failed");
        let before = gateway.reading().cpu;
        thread::sleep(Duration::from_secs(1));
        let used = gateway.reading().cpu - before;
        assert!(used < Duration::from_millis(200), "{used:?} in a second");
        limit(1 << 10);
        // A connection of the last turn that closed meanwhile had made room for this one, and for no call.
        (waiting.read().status == 200).then_some(())
    });
    assert!(waited.is_some());
}

// Row 5: a reset where the other tests close.
#[test]
fn a_reset_is_an_error_wherever_it_comes() {
    let first = || chunk(event(" a", None));
    let ended = || chunk([event(" a", None), event("", Some("stop"))].concat());
    for (sent, status) in [
        (Vec::new(), 502),
        (STREAM.to_vec(), 502),
        ([STREAM, &first()[..30]].concat(), 502),
        ([STREAM, &first()].concat(), 200),
        // The texts have ended, but the body has not: its end may hold more.
        ([STREAM, &ended()].concat(), 200),
    ] {
        let (bytes, opens) = (sent.clone(), status == 200);
        let (go, wait) = mpsc::channel::<()>();
        let wait = Mutex::new(wait);
        let upstream = Upstream::start(move |_, stream| {
            stream.write_all(&bytes).unwrap();
            if opens {
                wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            }
            reset(stream);
            After::Close
        });
        let gateway = Gateway::before(&upstream.address);
        for road in ROADS {
            let mut client = Client::connect(&gateway.address);
            client.send(post(road, STREAMED));
            if opens {
                let head = client.read_head();
                assert_eq!(head.status, 200);
                client.read_chunk().unwrap();
                go.send(()).unwrap();
                let rest = String::from_utf8(client.read_chunk().unwrap()).unwrap();
                assert!(
                    rest.contains("broken_upstream") && !rest.contains("[DONE]"),
                    "{rest}"
                );
                assert_eq!(client.read_chunk().unwrap(), b"");
            } else {
                let answer = client.read();
                assert_eq!(told(&answer, "reset"), Told::Status(status));
            }
            if !opens {
                assert_eq!(
                    told(&ask(&gateway.address, road, PLAIN), "reset"),
                    Told::Status(502)
                );
            }
        }
    }
}

// Row 7: what follows an answer is nobody's.
#[test]
fn surplus_bytes_are_never_the_next_client_s_answer() {
    let evil = whole(200, &TEXT.replace(" hello", " stolen"));
    for late in [false, true] {
        let surplus = evil.clone();
        let (done, written) = mpsc::channel();
        let done = Mutex::new(done);
        let upstream = Upstream::start(move |request, stream| {
            let answer = good(request.text());
            if late {
                stream.write_all(&answer).unwrap();
                // On a connection that lies in the pool by then, or on its way there.
                thread::sleep(Duration::from_millis(50));
                let _ = stream.write_all(&surplus);
            } else {
                stream.write_all(&[&answer[..], &surplus].concat()).unwrap();
            }
            done.lock().unwrap().send(()).unwrap();
            After::Keep
        });
        let gateway = Gateway::before(&upstream.address);
        for post in every_post() {
            let before = upstream.seen().len();
            for _ in 0..2 {
                let answer = say(&gateway, &post);
                assert_eq!(answer.status, 200, "{post}");
                assert!(
                    !answer.text().contains("stolen"),
                    "{post}: {}",
                    answer.text()
                );
                written.recv_timeout(PATIENCE).unwrap();
            }
            let seen = upstream.seen().split_off(before);
            let connections: Vec<_> = seen.iter().map(|request| request.connection).collect();
            assert!(
                connections[0] != connections[1],
                "{late} {post}: {connections:?}"
            );
        }
    }
}

// Row 11: one end marker, nothing behind it, and the connection of what went on is not used again.
#[test]
fn a_stream_ends_once() {
    let rest = [DONE, "data:  [DONE] \n\n", &event(" late", None), DONE].concat();
    let stream = [&events()[..], &rest].concat();
    let upstream = Upstream::start(move |_, stream_out| {
        stream_out
            .write_all(&[STREAM, &chunk(&stream)].concat())
            .unwrap();
        // The body goes on.
        wait_for_close(stream_out);
        After::Close
    });
    let gateway = Gateway::before(&upstream.address);
    for road in [ROADS[0], ROADS[1], ROADS[0], ROADS[1]] {
        let mut client = Client::connect(&gateway.address);
        client.send(post(road, STREAMED));
        client.read_head();
        let mut text = String::new();
        while !text.contains("[DONE]") {
            text += std::str::from_utf8(&client.read_chunk().unwrap()).unwrap();
        }
        assert_eq!(text.matches("[DONE]").count(), 1, "{text}");
        assert!(text.ends_with(DONE) && !text.contains("late"), "{text}");
    }
    let seen = upstream.seen();
    let connections: Vec<_> = seen.iter().map(|request| request.connection).collect();
    assert_eq!(connections, [0, 1, 2, 3]);
}

/// By how much a process may grow in all of a test's floods. The first call alone fetches it some 14 MiB of its own, and its
/// allocator gives nothing back at once; what is not bounded is past this in a second.
const GROWN: usize = 64 << 20;

// Row 15: what a client does not read is not read from the upstream either, be it events or comments.
#[test]
fn a_flood_is_held_back_and_not_stored() {
    for piece in [event(" a", None).repeat(200), ": ping\n\n".repeat(2_000)] {
        let (told, written) = mpsc::channel();
        let told = Mutex::new(told);
        let flood = chunk(&piece);
        let upstream = Upstream::start(move |_, stream| {
            stream
                .write_all(&[STREAM, &chunk(event(" a", None))].concat())
                .unwrap();
            stream
                .set_write_timeout(Some(Duration::from_millis(300)))
                .unwrap();
            let mut sent = 0;
            while let Ok(count @ 1..) = stream.write(&flood[sent % flood.len()..]) {
                sent += count;
                if sent > ENOUGH {
                    break;
                }
            }
            told.lock().unwrap().send(sent).unwrap();
            After::Close
        });
        let gateway = Gateway::before(&upstream.address);
        let before = gateway.resident();
        for road in ROADS {
            let mut client = Client::connect(&gateway.address);
            client.send(post(road, STREAMED));
            client.read_head();
            let sent = written.recv_timeout(PATIENCE).unwrap();
            let grown = gateway.resident().saturating_sub(before);
            assert!(grown < GROWN, "{grown} bytes for {sent}");
            // Comments are not kept for the client; events are what the kernel's buffers hold.
            let is_events = piece.starts_with("data");
            assert!(!is_events || sent < ENOUGH, "{sent}");
        }
    }
}

/// More than the buffers of two loopback connections.
const ENOUGH: usize = 48 << 20;

// Row 15: a million of the smallest events, and as many comments.
#[test]
fn a_million_events_pass() {
    let tiny = ["data: {\"choices\":[]}\n\n", ": x\n\n"].concat();
    let upstream = Upstream::start(move |_, stream| {
        stream.write_all(STREAM).unwrap();
        let piece = chunk(tiny.repeat(1_000));
        for _ in 0..MILLION / 1_000 {
            stream.write_all(&piece).unwrap();
        }
        stream
            .write_all(&[&chunk(events())[..], LAST_CHUNK].concat())
            .unwrap();
        After::Keep
    });
    let gateway = Gateway::before(&upstream.address);
    for road in ROADS {
        let before = gateway.resident();
        let answer = ask(&gateway.address, &[road, &[GROQ]].concat(), STREAMED);
        assert_eq!(
            answer.status,
            502,
            "a text's events are none of chat's: {}",
            answer.text()
        );
        let answer = ask(&gateway.address, road, STREAMED);
        assert!(answer.complete && answer.text().ends_with(DONE));
        assert!(gateway.resident().saturating_sub(before) < GROWN);
    }
}

const GROQ: (&str, &str) = ("x-portkey-provider", "groq");
const MILLION: usize = 1_000_000;

// Row 15: a line without an end.
#[test]
fn an_endless_line_is_an_error_event_in_every_framing() {
    for (dialect, media) in [
        ("openai", "text/event-stream"),
        ("chat", "text/event-stream"),
        ("ollama", "application/x-ndjson"),
    ] {
        let head = String::from_utf8(STREAM.to_vec()).unwrap();
        let head = head.replace("text/event-stream", media);
        let start = match media {
            "text/event-stream" => "data: {\"x\":\"",
            _ => "{\"x\":\"",
        };
        let upstream = Upstream::start(move |_, stream| {
            let _ = stream.write_all(head.as_bytes());
            let _ = stream.write_all(&chunk(start));
            let endless = chunk("x".repeat(64 << 10));
            while stream.write_all(&endless).is_ok() {}
            After::Close
        });
        let gateway = Gateway::start(&format!(
            "  providers:\n    own: {{ base_url: \"http://{}\", dialect: {dialect}, auth: none }}\n  default: {{ provider: own, model: m }}\n",
            upstream.address
        ));
        let before = gateway.resident();
        for road in [ROADS, ROADS, ROADS].concat() {
            let answer = ask(&gateway.address, road, STREAMED);
            assert_eq!(told(&answer, dialect), Told::Status(502));
            let grown = gateway.resident().saturating_sub(before);
            assert!(grown < GROWN, "{grown} bytes, {dialect}");
        }
    }
}

// Row 16: who writes slowly lives.
#[test]
fn a_drip_is_alive() {
    let stream = [event("é", Some("stop")), DONE.to_owned()].concat();
    let upstream = Upstream::start(move |_, out| {
        out.write_all(STREAM).unwrap();
        for byte in stream.bytes() {
            out.write_all(&chunk([byte])).unwrap();
            thread::sleep(Duration::from_millis(5));
        }
        out.write_all(LAST_CHUNK).unwrap();
        After::Keep
    });
    // The whole takes a second: no pause in it does.
    let lines = providers_at(&upstream.address) + "  timeouts: { read: 500ms }\n";
    let gateway = Gateway::start(&lines);
    for road in ROADS {
        let asked = Instant::now();
        let answer = ask(&gateway.address, road, STREAMED);
        assert_eq!(told(&answer, "a drip"), Told::Good);
        assert!(asked.elapsed() > Duration::from_millis(500));
    }
}

// Row 16: a client that resets its connection, or closes its half of it, has left.
#[test]
fn a_client_that_resets_or_half_closes_stops_the_upstream_at_once() {
    let (closed, closing) = mpsc::channel();
    let closed = Mutex::new(closed);
    let upstream = Upstream::start(move |request, stream| {
        if is_streamed(request.text()) {
            stream
                .write_all(&[STREAM, &chunk(event(" a", None))].concat())
                .unwrap();
        }
        if wait_for_close(stream).is_some() {
            closed.lock().unwrap().send(Instant::now()).unwrap();
        }
        After::Close
    });
    let gateway = Gateway::before(&upstream.address);
    let mut asked = 0;
    for body in [PLAIN, STREAMED] {
        for road in ROADS {
            for resets in [true, false] {
                let mut client = Client::connect(&gateway.address);
                client.send(post(road, body));
                asked += 1;
                upstream.wait_for_requests(asked);
                if body == STREAMED {
                    client.read_head();
                }
                let left = Instant::now();
                if resets {
                    reset(&client.stream);
                    client.stream.shutdown(Shutdown::Both).unwrap();
                    drop(client);
                } else {
                    client.stream.shutdown(Shutdown::Write).unwrap();
                }
                let took = closing.recv_timeout(PATIENCE).unwrap() - left;
                assert!(
                    took < Duration::from_millis(100),
                    "{took:?} {resets} {road:?} {body}"
                );
            }
        }
    }
}

// Row 17: answers of other times and kinds.
#[test]
fn odd_versions_and_statuses() {
    let until_close = |version: &str, media: &str, body: &str| {
        format!("{version} 200 OK\r\ncontent-type: {media}\r\n\r\n{body}")
    };
    let (json, sse) = ("application/json", "text/event-stream");
    for (sent, body, expected) in [
        (until_close("HTTP/1.0", json, TEXT), PLAIN, Told::Good),
        (until_close("HTTP/1.1", json, TEXT), PLAIN, Told::Good),
        (
            until_close("HTTP/1.0", json, &TEXT[..90]),
            PLAIN,
            Told::Status(502),
        ),
        (
            until_close("HTTP/1.0", sse, &events()),
            STREAMED,
            Told::Good,
        ),
        (
            until_close("HTTP/1.0", sse, &event(" a", None)),
            STREAMED,
            Told::Event,
        ),
        (TEXT.to_owned(), PLAIN, Told::Status(502)),
        (
            "HTTP/1.1 999 X\r\ncontent-length: 2\r\n\r\n{}".to_owned(),
            PLAIN,
            Told::Status(502),
        ),
        (
            "HTTP/1.1 600 X\r\ncontent-length: 2\r\n\r\n{}".to_owned(),
            PLAIN,
            Told::Status(502),
        ),
        (
            "HTTP/1.1 304 X\r\n\r\n".to_owned(),
            PLAIN,
            Told::Status(502),
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\n".to_owned(),
            PLAIN,
            Told::Status(502),
        ),
    ] {
        let bytes = sent.clone();
        let upstream = Upstream::start(move |_, stream| {
            stream.write_all(bytes.as_bytes()).unwrap();
            After::Close
        });
        let gateway = Gateway::before(&upstream.address);
        for road in ROADS {
            let answer = ask(&gateway.address, road, body);
            let got = told(&answer, &sent);
            // Text and its break may come in one read: then nothing had been said before it.
            let alike = expected == Told::Event && got == Told::Status(502);
            assert!(
                got == expected || alike,
                "{sent}: {got:?} {}",
                answer.text()
            );
        }
    }
}

// Row 20: whatever a provider writes, the client reads whole seconds.
#[test]
fn a_client_is_told_to_come_back_in_whole_seconds() {
    for (asked, told) in [
        ("1.2", Some("2")),
        ("7", Some("7")),
        ("Wed, 21 Oct 2015 07:28:00 GMT", Some("0")),
        ("soon", None),
        ("-1", None),
    ] {
        let upstream = Upstream::answering(format!(
            "HTTP/1.1 429 X\r\nretry-after: {asked}\r\ncontent-length: 2\r\n\r\n{{}}"
        ));
        let gateway = Gateway::before(&upstream.address);
        for body in [PLAIN, STREAMED] {
            for road in ROADS {
                let answer = ask(&gateway.address, road, body);
                assert_eq!(
                    (answer.status, answer.header("retry-after")),
                    (429, told),
                    "{asked}"
                );
            }
        }
    }
}

// Row 21: compressed answers are not asked for and not read.
#[test]
fn a_compressed_answer_is_refused_unread() {
    for coding in ["gzip", "br", "zstd", "deflate", "gzip, gzip", "x-unknown"] {
        let head = format!("content-encoding: {coding}\r\n");
        let sent = String::from_utf8(whole(200, TEXT)).unwrap();
        let sent = sent.replace("content-type", &format!("{head}content-type"));
        let upstream = Upstream::answering(sent);
        let gateway = Gateway::before(&upstream.address);
        for body in [PLAIN, STREAMED] {
            for road in ROADS {
                let answer = ask(&gateway.address, road, body);
                assert_eq!(told(&answer, coding), Told::Status(502));
            }
        }
        for request in upstream.seen() {
            assert_eq!(request.header("accept-encoding"), Some("identity"));
        }
    }
}

// Row 25: heads that could be read in two ways, or are none.
#[test]
fn an_abused_head_is_a_502_and_its_connection_is_not_used_again() {
    let length = TEXT.len();
    let long = format!("x-long: {}\r\n", "x".repeat(2 << 20));
    let many = "x-many: 1\r\n".repeat(5_000);
    let heads = [
        format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\ncontent-length: 3\r\n"),
        format!("HTTP/1.1 200 OK\r\ncontent-length: {length}, 3\r\n"),
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n"
            .to_owned(),
        format!("HTTP/1.1 200 OK\r\nx-bare: a\rb\r\ncontent-length: {length}\r\n"),
        format!("HTTP/1.1 200 OK\r\n: nameless\r\ncontent-length: {length}\r\n"),
        format!("HTTP/1.1 200 OK\r\n{long}content-length: {length}\r\n"),
        format!("HTTP/1.1 200 OK\r\n{many}content-length: {length}\r\n"),
        format!("HTTP/1.1 20 OK\r\ncontent-length: {length}\r\n"),
        format!("HTTP/1.1 abc OK\r\ncontent-length: {length}\r\n"),
        format!("HTTP/9.9 200 OK\r\ncontent-length: {length}\r\n"),
        format!("ICY 200 OK\r\ncontent-length: {length}\r\n"),
    ];
    for head in heads {
        let sent = format!("{head}content-type: application/json\r\n\r\n{TEXT}");
        let upstream = Upstream::start(move |_, stream| {
            let _ = stream.write_all(sent.as_bytes());
            After::Keep
        });
        let gateway = Gateway::before(&upstream.address);
        let mut asked = 0;
        for body in [PLAIN, STREAMED] {
            for road in ROADS {
                let answer = ask(&gateway.address, road, body);
                assert_eq!(
                    told(&answer, &head[..head.len().min(80)]),
                    Told::Status(502)
                );
                asked += 1;
            }
        }
        let seen = upstream.seen();
        let connections: Vec<_> = seen.iter().map(|request| request.connection).collect();
        assert_eq!(connections, (0..asked).collect::<Vec<_>>(), "{:.80}", head);
    }
}

// Row 25. With `heartbeat: none` Pingora's phases carry such a stream, and cannot see it: docs/faults.md.
#[test]
fn a_length_beside_chunks_is_a_502_and_its_connection_is_not_used_again() {
    for (name, refused) in [
        ("content-length", true),
        ("Content-Length", true),
        ("content-length-range", false),
    ] {
        let head = format!("HTTP/1.1 200 OK\r\n{name}: 3\r\ntransfer-encoding: chunked\r\n");
        let sent = [
            format!("{head}content-type: application/json\r\n\r\n").into_bytes(),
            chunk(TEXT),
            LAST_CHUNK.to_vec(),
        ]
        .concat();
        let upstream = Upstream::start(move |_, stream| {
            let _ = stream.write_all(&sent);
            After::Keep
        });
        let lines = providers_at(&upstream.address) + "  timeouts: { heartbeat: 15s }\n";
        let gateway = Gateway::start(&lines);
        for (turn, body) in [PLAIN, STREAMED].into_iter().enumerate() {
            let answer = ask(&gateway.address, &[], body);
            if refused {
                assert_eq!(told(&answer, name), Told::Status(502));
                assert_eq!(upstream.seen()[turn].connection, turn);
            } else {
                assert_eq!(answer.status, 200, "{name}");
            }
        }
    }
}

// Row 27: a provider that has not begun yet says so, and its client hears of it.
#[test]
fn a_providers_comment_opens_a_stream_that_nobody_else_can_answer() {
    const TWO: (&str, &str) = (
        "x-portkey-config",
        r#"{"strategy":{"mode":"fallback"},"targets":[{"provider":"openai"},{"provider":"openai"}]}"#,
    );
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::start(move |_, stream| {
        let comment = chunk(": PROCESSING\n\n");
        stream.write_all(&[STREAM, &comment].concat()).unwrap();
        wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        let rest = [event(" a", Some("stop")), DONE.to_owned()].concat();
        stream
            .write_all(&[&chunk(rest)[..], LAST_CHUNK].concat())
            .unwrap();
        After::Keep
    });
    let lines = providers_at(&upstream.address) + "  timeouts: { heartbeat: 15s }\n";
    let gateway = Gateway::start(&lines);
    let mut client = Client::connect(&gateway.address);
    client.send(post(&[], STREAMED));
    assert_eq!(client.read_head().status, 200);
    let first = client.read_chunk().unwrap();
    assert!(first.starts_with(b":"), "{first:?}");
    go.send(()).unwrap();
    assert!(client.read_chunk().unwrap().starts_with(b"data: "));
    // Where another can be asked, the status waits for an event.
    let mut client = Client::connect(&gateway.address);
    client.send(post(&[TWO], STREAMED));
    upstream.wait_for_requests(2);
    go.send(()).unwrap();
    assert_eq!(client.read_head().status, 200);
    assert!(client.read_chunk().unwrap().starts_with(b"data: "));
}

// Row 27: an open stream shows that it lives.
#[test]
fn an_open_stream_that_brings_nothing_has_a_pulse() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::start(move |_, stream| {
        stream
            .write_all(&[STREAM, &chunk(event(" a", None))].concat())
            .unwrap();
        wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        let rest = [event("", Some("stop")), DONE.to_owned()].concat();
        stream
            .write_all(&[&chunk(rest)[..], LAST_CHUNK].concat())
            .unwrap();
        After::Keep
    });
    let lines = providers_at(&upstream.address) + "  timeouts: { heartbeat: 50ms }\n";
    let gateway = Gateway::start(&lines);
    for road in ROADS {
        let mut client = Client::connect(&gateway.address);
        client.send(post(road, STREAMED));
        client.read_head();
        client.read_chunk().unwrap();
        for _ in 0..3 {
            assert_eq!(client.read_chunk().unwrap(), b": waiting\n\n");
        }
        go.send(()).unwrap();
        let mut rest = Vec::new();
        while let Some(piece) = client.read_chunk().filter(|piece| !piece.is_empty()) {
            rest.extend(piece);
        }
        assert!(String::from_utf8(rest).unwrap().ends_with(DONE));
    }
}

// Row 30: nobody reads the log, or it can't be written.
#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    let upstream = Upstream::answering(whole(200, TEXT));
    let gateway = Gateway::logging_to(&providers_at(&upstream.address), "/dev/full");
    for road in ROADS {
        for _ in 0..20 {
            assert_eq!(ask(&gateway.address, road, PLAIN).status, 200);
        }
    }
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let upstream = Upstream::answering(whole(200, TEXT));
    let (reader, writer) = std::io::pipe().unwrap();
    let pipe = format!("/proc/self/fd/{}", writer.as_raw_fd());
    let mut gateway = Gateway::logging_to(&providers_at(&upstream.address), &pipe);
    drop(writer);
    // Refused here, so that they are many: the pipe is full, and so is what waits for it.
    let mut client = Client::connect(&gateway.address);
    let long = "x".repeat(200);
    let dropped = wait_for(|| {
        for _ in 0..500 {
            client.send(post(&[("x-portkey-trace-id", &long)], "no JSON"));
            assert_eq!(client.read().status, 400);
        }
        let metrics = metrics(&gateway);
        let mut lines = metrics.lines();
        let count =
            lines.find_map(|line| line.strip_prefix("completions_log_lines_dropped_total "));
        count.filter(|count| *count != "0").map(str::to_owned)
    });
    assert!(dropped.is_some());
    for road in ROADS {
        assert_eq!(ask(&gateway.address, road, PLAIN).status, 200);
    }
    // Nor does it keep the process from ending.
    gateway.signal("TERM");
    let status = wait_for(|| gateway.child.try_wait().unwrap()).expect("the process goes on");
    assert!(status.success());
    drop(reader);
}

// Row 31: who was in a storm is served as soon as it is over.
#[test]
fn a_target_that_was_down_under_retries_serves_as_soon_as_it_is_back() {
    let is_up = Arc::new(AtomicBool::new(false));
    let state = is_up.clone();
    let upstream = Upstream::start(move |_, stream| {
        let answer = match state.load(Ordering::Relaxed) {
            true => whole(200, TEXT),
            false => whole(503, r#"{"error":{"message":"no"}}"#),
        };
        stream.write_all(&answer).unwrap();
        After::Keep
    });
    let lines = format!(
        "  allowed_hosts: [\"{}\"]\n  retries: {{ backoff: 1ms, cap: 5ms, reserve: 0 }}\n",
        upstream.address
    );
    let gateway = Gateway::start(&lines);
    let config = json!({
        "provider": "openai", "api_key": "sk-x", "retry": {"attempts": 3},
        "custom_host": format!("http://{}/v1", upstream.address),
    });
    let config = config.to_string();
    let call = || ask(&gateway.address, &[("x-portkey-config", &config)], PLAIN).status;
    for _ in 0..100 {
        assert_eq!(call(), 503);
    }
    let calls = upstream.seen().len();
    assert!(calls <= 100 + 20 + 1, "{calls}");
    is_up.store(true, Ordering::Relaxed);
    for _ in 0..20 {
        assert_eq!(call(), 200);
    }
}

// Row 14: what a vendor adds to its streams is left out, and somebody hears of it.
#[test]
fn events_of_unknown_kinds_are_counted() {
    let events = concat!(
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"model\":\"c\",\"usage\":{\"input_tokens\":1,\"output_tokens\":1}}}\n\n",
        "event: brand_new\ndata: {\"type\":\"brand_new\"}\n\n",
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"a\"}}\n\n",
        "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":4}}\n\n",
        "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
    );
    let upstream = Upstream::answering([STREAM, &chunk(events), LAST_CHUNK].concat());
    let address = &upstream.address;
    let gateway = Gateway::start(&format!(
        "  providers:\n    anthropic: {{ base_url: \"http://{address}\", api_key: sk-x }}\n  default: {{ provider: anthropic }}\n"
    ));
    for road in ROADS {
        assert_eq!(
            told(&ask(&gateway.address, road, STREAMED), "new"),
            Told::Good
        );
    }
    let line = "completions_unknown_events_total{provider=\"anthropic\"} 2\n";
    let counted = wait_for(|| metrics(&gateway).contains(line).then_some(()));
    assert!(counted.is_some(), "{}", metrics(&gateway));
}

fn metrics(gateway: &Gateway) -> String {
    let mut operator = Client::connect(&gateway.admin);
    operator.send(request("GET", "/metrics", &[], ""));
    operator.read().text().to_owned()
}

// Row 14: bytes that are no text, and indices that nobody asked for.
#[test]
fn what_leaves_is_valid_whatever_came() {
    let invalid = [
        b"data: {\"choices\":[{\"text\":\"",
        &b"\xff\xfe"[..],
        b"\"}]}\n\n",
    ]
    .concat();
    for (sent, expected) in [
        (invalid, Told::Status(502)),
        (
            b"data: {\"choices\":[{\"index\":-1,\"text\":\"a\"}]}

"
            .to_vec(),
            Told::Good,
        ),
        (b"data: {\"choices\":{}}\n\n".to_vec(), Told::Status(502)),
        (b"data: []\n\n".to_vec(), Told::Status(502)),
        (b"data: 5\n\n".to_vec(), Told::Status(502)),
        (b"data: {}\n\n".to_vec(), Told::Good),
        (b"data: {\"choices\":[]}\n\n".to_vec(), Told::Good),
    ] {
        let shown = String::from_utf8_lossy(&sent).into_owned();
        let stream = [&sent[..], events().as_bytes()].concat();
        let upstream = Upstream::answering([STREAM, &chunk(stream), LAST_CHUNK].concat());
        let gateway = Gateway::before(&upstream.address);
        for road in ROADS {
            let answer = ask(&gateway.address, road, STREAMED);
            assert_eq!(
                told(&answer, &shown),
                expected,
                "{shown}: {}",
                answer.text()
            );
            for event in answer.text().split_terminator("\n\n") {
                let Some(data) = event
                    .strip_prefix("data: ")
                    .filter(|data| *data != "[DONE]")
                else {
                    continue;
                };
                serde_json::from_str::<serde_json::Value>(data).unwrap();
            }
        }
    }
}

// Row 1: a name without an address is passed over.
#[test]
fn a_target_without_an_address_is_passed_over() {
    let next = Upstream::start(|request, stream| {
        stream.write_all(&good(request.text())).unwrap();
        After::Keep
    });
    let hosts = format!(
        "  allowed_hosts: [\"nowhere.invalid\", \"{}\"]\n",
        next.address
    );
    let gateway = Gateway::start(&hosts);
    let target = |host: &str| json!({"provider": "openai", "api_key": "sk-x", "custom_host": format!("http://{host}/v1")});
    let targets = [target("nowhere.invalid"), target(&next.address)];
    let config = json!({"strategy": {"mode": "fallback"}, "targets": targets}).to_string();
    for body in [PLAIN, STREAMED] {
        let answer = ask(&gateway.address, &[("x-portkey-config", &config)], body);
        assert_eq!(told(&answer, body), Told::Good);
        let option = answer.header("x-portkey-last-used-option-index");
        assert_eq!(option, Some("config.targets[1]"));
    }
}

// Row 8: many connections that close under a request: nobody sees one, and no request is served twice.
#[test]
fn a_thousand_closes_under_the_gateway_cost_nobody_an_answer() {
    let answered = Arc::new(AtomicUsize::new(0));
    let count = answered.clone();
    let upstream = Upstream::start(move |request, stream| {
        // As a server that closes at the moment at which the next request is on its way.
        if request.turn > 0 {
            return After::Close;
        }
        count.fetch_add(1, Ordering::Relaxed);
        stream.write_all(&good(request.text())).unwrap();
        After::Keep
    });
    let gateway = Gateway::before(&upstream.address);
    for turn in 0..1_000 {
        let (road, body) = (ROADS[turn % 2], [PLAIN, STREAMED][turn / 2 % 2]);
        let answer = ask(&gateway.address, road, body);
        assert_eq!(told(&answer, "a race"), Told::Good);
    }
    assert_eq!(answered.load(Ordering::Relaxed), 1_000);
    assert!(upstream.seen().len() > 1_300, "few met a close");
}

// Row 23: what is no count is none.
#[test]
fn odd_counts_are_never_a_credit() {
    for (usage, expected) in [
        (
            r#"{"prompt_tokens":-5,"completion_tokens":2,"total_tokens":3}"#,
            None,
        ),
        (
            r#"{"prompt_tokens":"5","completion_tokens":2,"total_tokens":7}"#,
            None,
        ),
        (r#"{"prompt_tokens":5}"#, Some((5, 0))),
        ("null", None),
        ("[]", None),
        ("\"many\"", None),
    ] {
        let reply = TEXT.replace(
            r#"{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}"#,
            usage,
        );
        assert_ne!(reply, TEXT);
        let upstream = Upstream::answering(whole(200, &reply));
        let gateway = Gateway::before(&upstream.address);
        let answer = ask(&gateway.address, &[], PLAIN);
        assert_eq!(answer.status, 200);
        let logged = gateway.wait_for_log("kind=whole");
        let counted = expected.map(|(prompt, completion)| {
            format!("prompt_tokens={prompt} completion_tokens={completion}")
        });
        match counted {
            Some(counted) => assert!(logged.contains(&counted), "{usage}: {logged}"),
            None => assert!(!logged.contains("prompt_tokens="), "{usage}: {logged}"),
        }
    }
}

// Row 4: each deadline is its own, and is told by its name.
#[test]
fn the_first_token_and_each_pause_have_their_own_time() {
    let upstream = Upstream::start(|request, stream| {
        let is_late = request.text().contains("late");
        let first = if is_late {
            Vec::new()
        } else {
            chunk(event(" a", None))
        };
        stream.write_all(&[STREAM, &first].concat()).unwrap();
        // Signs of life that are no tokens.
        while stream.write_all(&chunk(": ping\n\n")).is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
        After::Close
    });
    let gateway = Gateway::before(&upstream.address);
    let late = STREAMED.replace("hi", "late");
    for (times, body, expected, code) in [
        (
            "first_token=200",
            &*late,
            Told::Status(504),
            "first_token_timeout",
        ),
        ("idle=200", STREAMED, Told::Event, "idle_timeout"),
        (
            "first_token=200, total=700",
            STREAMED,
            Told::Event,
            "total_timeout",
        ),
    ] {
        let answer = ask(&gateway.address, &[("x-completions-timeouts", times)], body);
        assert_eq!(told(&answer, times), expected, "{}", answer.text());
        assert!(answer.text().contains(code), "{times}: {}", answer.text());
    }
}

// Row 12: an error inside a 200 opens a circuit as one with its own status does.
#[test]
fn a_stream_that_tells_an_error_counts_against_its_target() {
    let told_inside = "data: {\"error\":{\"message\":\"overloaded\",\"code\":503}}\n\n";
    for opens in [false, true] {
        let bad = Upstream::start(move |_, stream| {
            stream.write_all(STREAM).unwrap();
            if opens {
                stream.write_all(&chunk(event(" a", None))).unwrap();
                thread::sleep(Duration::from_millis(100));
            }
            stream
                .write_all(&[&chunk(told_inside)[..], LAST_CHUNK].concat())
                .unwrap();
            After::Close
        });
        let good = Upstream::answering([STREAM, &chunk(events()), LAST_CHUNK].concat());
        let hosts = format!(
            "  allowed_hosts: [\"{}\", \"{}\"]\n",
            bad.address, good.address
        );
        let gateway = Gateway::start(&hosts);
        let target = |upstream: &Upstream| {
            json!({
                "provider": "openai", "api_key": "sk-x",
                "custom_host": format!("http://{}/v1", upstream.address),
            })
        };
        let config = json!({
            "strategy": {
                "mode": "fallback",
                "cb_config": {"failure_threshold": 2, "cooldown_interval": 60_000},
            },
            "targets": [target(&bad), target(&good)],
        });
        let config = config.to_string();
        for turn in 0..4 {
            let answer = ask(&gateway.address, &[("x-portkey-config", &config)], STREAMED);
            let expected = if opens && turn < 2 {
                Told::Event
            } else {
                Told::Good
            };
            assert_eq!(told(&answer, "inside"), expected, "{turn} {opens}");
        }
        assert_eq!(bad.seen().len(), 2, "{opens}");
    }
}
