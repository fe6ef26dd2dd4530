//! Deadlines, as the conf sets them and as a client shortens them: the one that has come is told by name, on both roads, and
//! the provider's connection is closed at once.

use std::{
    io::Write,
    net::{TcpListener, TcpStream},
    sync::{Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{
    Gateway, PATIENCE,
    client::{Answer, CONDUCTED, Client, PLAIN, ROADS, STREAMED, ask, post},
    providers_at,
    upstream::{
        After, DONE, LAST_CHUNK, STREAM, TEXT, Unaccepting, Upstream, chunk, event, json as answer,
        wait_for_close, watching,
    },
};

const DEADLINE: Duration = Duration::from_millis(200);
/// What a deadline of 200 ms never takes, on a machine however busy, and all others are longer than.
const LONG: Duration = Duration::from_secs(10);
const TIMEOUTS: &str = "x-completions-timeouts";
const GROQ: (&str, &str) = ("x-portkey-provider", "groq");

/// A gateway and a client's header, which together set one deadline.
struct Way {
    gateway: Gateway,
    header: Option<String>,
}

impl Way {
    /// By the conf alone, and by a header that shortens what the conf allows.
    fn both(deadline: &str, upstream: &str) -> [Self; 2] {
        [("200ms", None), ("15s", Some(format!("{deadline}=200")))].map(|(time, header)| {
            let lines = format!("  timeouts: {{ {deadline}: {time} }}\n");
            Self {
                gateway: Gateway::start(&(providers_at(upstream) + &lines)),
                header,
            }
        })
    }

    fn ask(&self, headers: &[(&str, &str)], body: &str) -> Answer {
        let own = self.header.as_deref().map(|header| (TIMEOUTS, header));
        let headers: Vec<_> = headers.iter().copied().chain(own).collect();
        ask(&self.gateway.address, &headers, body)
    }
}

/// Holds that `ask` is told of the deadline `code`, not before it came nor much later.
fn tells(code: &str, ask: impl FnOnce() -> Answer) -> Answer {
    let started = Instant::now();
    let answer = ask();
    let took = started.elapsed();
    assert!(DEADLINE <= took && took < LONG, "{took:?}: {answer:?}");
    let text = answer.text();
    assert!(answer.complete && !text.contains("[DONE]"), "{answer:?}");
    let told = match answer.status {
        504 => answer.json(),
        200 => {
            let event = text.trim_end().rsplit("\n\n").next().unwrap_or_default();
            let event = event.strip_prefix("data: ").unwrap_or_default();
            serde_json::from_str(event).unwrap_or_else(|_| panic!("{answer:?}"))
        }
        _ => panic!("{answer:?}"),
    };
    assert_eq!(told["error"]["code"], code, "{answer:?}");
    assert_eq!(told["error"]["type"], "timeout_error", "{answer:?}");
    answer
}

fn hung_up(closing: &mpsc::Receiver<Instant>) {
    closing.recv_timeout(LONG).expect("it is hung up on");
}

#[test]
fn a_connection_that_does_not_come_to_stand() {
    let full = Unaccepting::start();
    for way in Way::both("connect", &full.address) {
        for body in [PLAIN, STREAMED] {
            for road in ROADS {
                let answer = tells("connect_timeout", || way.ask(road, body));
                assert_eq!(answer.status, 504);
            }
        }
    }
}

#[test]
fn a_tls_handshake_that_nobody_answers() {
    // The kernel takes connections in its stead.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let https = providers_at(&silent.local_addr().unwrap().to_string()).replace("http:", "https:");
    let gateway = Gateway::start(&(https + "  timeouts: { connect: 200ms }\n"));
    for body in [PLAIN, STREAMED] {
        for road in ROADS {
            let answer = tells("connect_timeout", || ask(&gateway.address, road, body));
            assert_eq!(answer.status, 504);
        }
    }
}

/// The head of a stream, a comment, and what is no text yet.
fn no_token() -> Vec<u8> {
    let role = r#"data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#;
    [STREAM, &chunk(": ping\n\n"), &chunk(format!("{role}\n\n"))].concat()
}

#[test]
fn a_stream_whose_first_token_does_not_come() {
    for (sent, headers) in [
        (Vec::new(), &[][..]),
        ([STREAM, &chunk(": ping\n\n")].concat(), &[]),
        (no_token(), &[GROQ]),
    ] {
        let (upstream, closing) = watching(sent);
        for way in Way::both("first_token", &upstream.address) {
            for road in ROADS {
                let headers = [headers, road].concat();
                let answer = tells("first_token_timeout", || way.ask(&headers, STREAMED));
                assert_eq!(answer.status, 504);
                hung_up(&closing);
            }
        }
    }
}

#[test]
fn a_whole_answer_has_no_first_token() {
    let slow = Upstream::start(|_, stream| {
        thread::sleep(2 * DEADLINE);
        stream.write_all(&answer(200, TEXT)).unwrap();
        After::Keep
    });
    for way in Way::both("first_token", &slow.address) {
        assert_eq!(way.ask(&[], PLAIN).status, 200);
    }
}

#[test]
fn an_event_that_does_not_come() {
    let (silent, closing) = watching([STREAM, &chunk(event(" a", None))].concat());
    for way in Way::both("idle", &silent.address) {
        for road in ROADS {
            let answer = tells("idle_timeout", || way.ask(road, STREAMED));
            assert!(answer.text().starts_with(&event(" a", None)), "{answer:?}");
            hung_up(&closing);
        }
    }
}

/// Writes `sent`, and then `more` again and again until it is hung up on.
fn trickling(sent: Vec<u8>, more: Vec<u8>) -> (Upstream, mpsc::Receiver<Instant>) {
    let (closed, closing) = mpsc::channel();
    let closed = Mutex::new(closed);
    let upstream = Upstream::start(move |_, stream| {
        stream.write_all(&sent).unwrap();
        let started = Instant::now();
        while stream.write_all(&more).is_ok() && started.elapsed() < LONG {
            thread::sleep(Duration::from_millis(20));
        }
        let _ = closed.lock().unwrap().send(Instant::now());
        After::Close
    });
    (upstream, closing)
}

#[test]
fn comments_are_no_events() {
    let begun = [STREAM, &chunk(event(" a", None))].concat();
    let (upstream, closing) = trickling(begun, chunk(": ping\n\n"));
    for way in Way::both("idle", &upstream.address) {
        tells("idle_timeout", || way.ask(&[], STREAMED));
        hung_up(&closing);
    }
    let (upstream, closing) = trickling(STREAM.into(), chunk(": ping\n\n"));
    for way in Way::both("first_token", &upstream.address) {
        tells("first_token_timeout", || way.ask(&[], STREAMED));
        hung_up(&closing);
    }
}

/// Half of a whole answer.
fn half() -> Vec<u8> {
    let whole = answer(200, TEXT);
    whole[..whole.len() - 20].into()
}

#[test]
fn an_answer_that_is_not_whole_in_time() {
    let a = chunk(event(" a", None));
    let begun = [STREAM, &a].concat();
    for (sent, body, status) in [
        (Vec::new(), PLAIN, 504),
        (half(), PLAIN, 504),
        (Vec::new(), STREAMED, 504),
        (begun.clone(), STREAMED, 200),
    ] {
        let (upstream, closing) = watching(sent);
        for way in Way::both("total", &upstream.address) {
            for road in ROADS {
                let answer = tells("total_timeout", || way.ask(road, body));
                assert_eq!(answer.status, status);
                hung_up(&closing);
            }
        }
    }
    let (upstream, closing) = trickling(begun, a);
    for way in Way::both("total", &upstream.address) {
        for road in ROADS {
            tells("total_timeout", || way.ask(road, STREAMED));
            hung_up(&closing);
        }
    }
}

#[test]
fn the_whole_time_is_over_while_a_connection_is_made() {
    let full = Unaccepting::start();
    let lines = providers_at(&full.address) + "  timeouts: { connect: 15s, total: 200ms }\n";
    let gateway = Gateway::start(&lines);
    for body in [PLAIN, STREAMED] {
        for road in ROADS {
            tells("total_timeout", || ask(&gateway.address, road, body));
        }
    }
}

/// A stream that speaks late must not get the whole time anew for its next silence.
#[test]
fn a_clients_own_time_is_not_counted_from_the_last_event() {
    let (left, patience) = mpsc::channel();
    let left = Mutex::new(left);
    let upstream = Upstream::start(move |_, stream| {
        thread::sleep(Duration::from_millis(600));
        let late = [STREAM, &chunk(event(" a", None))].concat();
        stream.write_all(&late).unwrap();
        let waited = wait_for_close(stream).unwrap();
        left.lock().unwrap().send(waited).unwrap();
        After::Close
    });
    let gateway = Gateway::before(&upstream.address);
    let own = (TIMEOUTS, "total=800");
    for road in ROADS {
        let headers = [road, &[own]].concat();
        tells("total_timeout", || {
            ask(&gateway.address, &headers, STREAMED)
        });
        let waited = patience.recv_timeout(PATIENCE).unwrap();
        assert!(waited < Duration::from_millis(600), "{waited:?}");
    }
}

#[test]
fn a_calls_own_deadline() {
    let own = ("x-portkey-request-timeout", "200");
    for (sent, body, status) in [
        (Vec::new(), PLAIN, 504),
        (half(), PLAIN, 504),
        (Vec::new(), STREAMED, 504),
        ([STREAM, &chunk(event(" a", None))].concat(), STREAMED, 200),
    ] {
        let (upstream, closing) = watching(sent);
        let gateway = Gateway::before(&upstream.address);
        let answer = tells("attempt_timeout", || ask(&gateway.address, &[own], body));
        assert_eq!(answer.status, status);
        hung_up(&closing);
    }
}

#[test]
fn a_client_makes_no_deadline_longer() {
    let (silent, _closing) = watching(Vec::new());
    let (begun, _closing) = watching([STREAM, &chunk(event(" a", None))].concat());
    let full = Unaccepting::start();
    for (deadline, upstream) in [
        ("connect", &full.address),
        ("first_token", &silent.address),
        ("idle", &begun.address),
        ("total", &silent.address),
    ] {
        let lines = format!("  timeouts: {{ {deadline}: 200ms }}\n");
        let gateway = Gateway::start(&(providers_at(upstream) + &lines));
        let longer = format!("{deadline}=15000");
        tells(&format!("{deadline}_timeout"), || {
            ask(&gateway.address, &[(TIMEOUTS, &longer)], STREAMED)
        });
    }
}

#[test]
fn a_header_that_is_no_list_of_deadlines_is_named() {
    let (upstream, _closing) = watching(Vec::new());
    let gateway = Gateway::before(&upstream.address);
    for value in [
        "first_token",
        "read=5",
        "total=0",
        "idle=1s",
        "connect=1, connect=1",
    ] {
        for body in [PLAIN, STREAMED] {
            let answer = ask(&gateway.address, &[(TIMEOUTS, value)], body);
            let error = &answer.json()["error"];
            assert_eq!(answer.status, 400, "{value}: {error}");
            assert_eq!(error["param"], TIMEOUTS, "{value}: {error}");
        }
    }
    let both = [(TIMEOUTS, "total=1"), (TIMEOUTS, "total=1")];
    let answer = ask(&gateway.address, &both, PLAIN);
    assert_eq!(
        (answer.status, &answer.json()["error"]["param"]),
        (400, &TIMEOUTS.into())
    );
    assert!(upstream.seen().is_empty());
}

#[test]
fn a_target_whose_deadline_has_come_is_passed_over() {
    let full = Unaccepting::start();
    let (silent, closing) = watching([STREAM, &chunk(": ping\n\n")].concat());
    let stream = [event(" b", None), event("", Some("stop")), DONE.to_owned()].concat();
    let next = Upstream::start(move |request, out| {
        let told = match request.text().contains("\"stream\":true") {
            true => [STREAM, &chunk(&stream), LAST_CHUNK].concat(),
            false => answer(200, TEXT),
        };
        out.write_all(&told).unwrap();
        After::Close
    });
    let hosts = [&full.address, &silent.address, &next.address];
    let hosts = hosts.map(|address| format!("\"{address}\"")).join(", ");
    let gateway = Gateway::start(&format!("  allowed_hosts: [{hosts}]\n"));
    let at = |address: &str| {
        json!({
            "provider": "openai", "api_key": "sk-x",
            "custom_host": format!("http://{address}/v1"),
        })
    };
    for (deadline, bad, body) in [
        ("connect", &full.address, PLAIN),
        ("connect", &full.address, STREAMED),
        ("first_token", &silent.address, STREAMED),
    ] {
        let config = json!({
            "strategy": {"mode": "fallback"}, "targets": [at(bad), at(&next.address)],
        });
        let (config, timeouts) = (config.to_string(), format!("{deadline}=200"));
        let headers = [("x-portkey-config", config.as_str()), (TIMEOUTS, &timeouts)];
        let answer = ask(&gateway.address, &headers, body);
        assert_eq!(answer.status, 200, "{answer:?}");
        let option = answer.header("x-portkey-last-used-option-index");
        assert_eq!(option, Some("config.targets[1]"));
        let tried = format!("tried=\"config.targets[0] openai 504 {deadline}_timeout ");
        gateway.wait_for_log(&tried);
        if deadline == "first_token" {
            hung_up(&closing);
        }
    }
}

/// Events of text and of chat alike.
fn both_shapes(text: &str, finish: Option<&str>) -> String {
    let delta = format!(r#"{{"delta":{{"content":"{text}"}},"text""#);
    event(text, finish).replacen("{\"text\"", &delta, 1)
}

/// A stream that stops inside of its second event until it is told to go on.
fn cut_inside_an_event() -> (Upstream, mpsc::Sender<()>) {
    let (go, told) = mpsc::channel();
    let told = Mutex::new(told);
    let upstream = Upstream::start(move |_, stream: &mut TcpStream| {
        let cut = both_shapes(" b", None);
        let (start, rest) = cut.split_at(30);
        let begun = [STREAM, &chunk(both_shapes(" a", None)), &chunk(start)].concat();
        stream.write_all(&begun).unwrap();
        told.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        let end = [rest, &both_shapes("", Some("stop")), DONE].concat();
        let _ = stream.write_all(&[&chunk(end), LAST_CHUNK].concat());
        After::Close
    });
    (upstream, go)
}

#[test]
fn a_heartbeat_stands_between_events() {
    let (upstream, go) = cut_inside_an_event();
    let lines = "  timeouts: { heartbeat: 60ms }\n";
    let gateway = Gateway::start(&(providers_at(&upstream.address) + lines));
    let two = STREAMED.replace("\"hi\"", r#"["hi", "ho"]"#);
    for (headers, body, calls) in [
        (&[][..], STREAMED, 1),
        (&[CONDUCTED], STREAMED, 1),
        (&[CONDUCTED, GROQ], STREAMED, 1),
        (&[GROQ], &two, 2),
    ] {
        let mut client = Client::connect(&gateway.address);
        client.send(post(headers, body));
        assert_eq!(client.read_head().status, 200);
        let (mut text, mut waits) = (String::new(), true);
        while let Some(piece) = client.read_chunk().filter(|piece| !piece.is_empty()) {
            text += std::str::from_utf8(&piece).unwrap();
            assert!(text.len() < 10_000, "{text}");
            if waits && text.matches(": waiting\n\n").count() >= 2 {
                (0..calls).for_each(|_| go.send(()).unwrap());
                waits = false;
            }
        }
        let is_well_formed = |event: &str| match event.strip_prefix("data: ") {
            None => event == ": waiting",
            Some("[DONE]") => true,
            Some(json) => serde_json::from_str::<serde_json::Value>(json).is_ok(),
        };
        let events: Vec<&str> = text.trim_end().split("\n\n").collect();
        assert!(events.iter().all(|event| is_well_formed(event)), "{text}");
        assert_eq!(text.matches("\"text\":\" b\"").count(), calls, "{text}");
        assert!(text.ends_with(DONE), "{text}");
    }
}

#[test]
fn a_heartbeat_does_not_put_the_end_off() {
    let (upstream, closing) = watching([STREAM, &chunk(event(" a", None))].concat());
    let lines = "  timeouts: { heartbeat: 50ms, idle: 200ms }\n";
    let gateway = Gateway::start(&(providers_at(&upstream.address) + lines));
    let answer = tells("idle_timeout", || ask(&gateway.address, &[], STREAMED));
    assert!(answer.text().contains(": waiting\n\n"), "{answer:?}");
    hung_up(&closing);
}
