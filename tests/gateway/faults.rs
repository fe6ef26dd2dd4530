//! What upstreams do wrong, and what the client gets for it: always an OpenAI-shaped error, never a clean end of half an
//! answer, on both roads.

use std::{
    io::Write,
    sync::{Mutex, mpsc},
    thread,
    time::Duration,
};

use crate::support::{
    Gateway, PATIENCE,
    client::{Answer, Client, PLAIN, ROADS, STREAMED, ask, post, request},
    free_address, providers_at,
    upstream::{
        After, CHAT, DONE, LAST_CHUNK, STREAM, TEXT, Upstream, chunk, event, json, wait_for_close,
    },
};

const GROQ: (&str, &str) = ("x-portkey-provider", "groq");

fn sending(bytes: impl Into<Vec<u8>>) -> Upstream {
    let bytes = bytes.into();
    Upstream::start(move |_, stream| {
        stream.write_all(&bytes).unwrap();
        After::Close
    })
}

/// `headers` and `body` on both roads.
fn on_both(gateway: &Gateway, headers: &[(&str, &str)], body: &str) -> Vec<Answer> {
    let answers = ROADS.map(|road| ask(&gateway.address, &[headers, road].concat(), body));
    answers.to_vec()
}

fn error_code(answer: &Answer) -> String {
    answer.json()["error"]["code"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn a_stream_that_breaks_ends_with_an_error_event_and_no_end_marker() {
    let first = event(" a", None);
    let half = &event(" b", None)[..40];
    for rest in [
        Vec::new(),
        chunk(half),
        // A clean end of the body, with the answer cut all the same.
        LAST_CHUNK.to_vec(),
        [chunk(DONE), LAST_CHUNK.to_vec()].concat(),
        chunk("data: {\"choices\":\n\n"),
        b"zzz\r\n".to_vec(),
    ] {
        let (go, wait) = mpsc::channel::<()>();
        let wait = Mutex::new(wait);
        let (start, end) = ([STREAM, &chunk(&first)].concat(), rest.clone());
        let upstream = Upstream::start(move |_, stream| {
            stream.write_all(&start).unwrap();
            // What follows must find an open stream.
            wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            stream.write_all(&end).unwrap();
            After::Close
        });
        let gateway = Gateway::before(&upstream.address);
        for road in ROADS {
            let mut client = Client::connect(&gateway.address);
            client.send(post(road, STREAMED));
            client.read_head();
            assert_eq!(client.read_chunk().unwrap(), first.as_bytes());
            go.send(()).unwrap();
            let told = String::from_utf8(client.read_chunk().unwrap()).unwrap();
            assert!(
                told.starts_with("data: {\"error\":{") && told.ends_with("}\n\n"),
                "{told}"
            );
            assert!(told.contains(r#""code":"broken_upstream""#), "{told}");
            assert!(!told.contains("[DONE]"));
            // The body ends well-formed: the error event must reach every client's parser.
            assert_eq!(client.read_chunk().unwrap(), b"");
        }
    }
}

#[test]
fn a_stream_that_fails_before_its_first_output_has_the_failure_s_own_status() {
    let role = "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
    let busy = "data: {\"error\":{\"message\":\"busy\",\"code\":503}}\n\n";
    // Each piece is a read of its own.
    for (pieces, status) in [
        (vec![STREAM.to_vec(), chunk(role), chunk(busy)], 503),
        (vec![STREAM.to_vec(), chunk(busy)], 503),
        (vec![STREAM.to_vec(), chunk(role)], 502),
        (vec![STREAM.to_vec(), LAST_CHUNK.to_vec()], 502),
        (
            vec![json(200, r#"{"error":{"message":"slow down","code":429}}"#)],
            429,
        ),
    ] {
        let sent = pieces.clone();
        let upstream = Upstream::start(move |_, stream| {
            for piece in &sent {
                stream.write_all(piece).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(30));
            }
            After::Close
        });
        let gateway = Gateway::before(&upstream.address);
        for answer in on_both(&gateway, &[GROQ], STREAMED) {
            assert_eq!(answer.status, status, "{}", answer.text());
        }
    }
}

#[test]
fn a_connection_lives_on_after_an_error_or_is_announced_to_close() {
    let told = r#"{"error":{"message":"busy"}}"#;
    for upstream in [
        Upstream::answering(json(429, told)),
        Upstream::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
    ] {
        let gateway = Gateway::before(&upstream.address);
        for post in every_post() {
            let mut client = Client::connect(&gateway.address);
            client.send(&post);
            if client.read().header("connection") == Some("close") {
                assert!(client.is_closed(), "{post}");
            } else {
                client.send(&post);
                client.read();
            }
        }
    }
}

#[test]
fn a_stream_that_fails_in_its_first_read_has_the_failure_s_own_status() {
    let told = "data: {\"error\":{\"message\":\"busy\",\"code\":503}}\n\n";
    let upstream = Upstream::answering([STREAM, &chunk(told), LAST_CHUNK].concat());
    let gateway = Gateway::before(&upstream.address);
    let answer = ask(&gateway.address, &[ROADS[1][0]], STREAMED);
    assert_eq!(
        (answer.status, &answer.json()["error"]["message"]),
        (503, &"busy".into())
    );
}

#[test]
fn an_error_inside_a_stream_reaches_the_client_in_one_shape() {
    let told = "data: {\"error\":{\"message\":\"overloaded\",\"type\":\"overloaded_error\"}}\n\n";
    // In the forms of both APIs at once, as Together sends it.
    let both = r#"{"delta":{"content":" a"},"text""#;
    let first = event(" a", None).replacen("{\"text\"", both, 1);
    let upstream = Upstream::start(move |_, stream| {
        stream
            .write_all(&[STREAM, &chunk(&first), &chunk(told)].concat())
            .unwrap();
        // The upstream goes on saying nothing; the gateway must not wait for it.
        wait_for_close(stream).unwrap();
        After::Close
    });
    let gateway = Gateway::before(&upstream.address);
    for provider in ["openai", "groq"] {
        for answer in on_both(&gateway, &[("x-portkey-provider", provider)], STREAMED) {
            assert!(
                answer
                    .text()
                    .contains(r#"{"error":{"message":"overloaded","type":"overloaded_error""#)
            );
            assert!(!answer.text().contains("[DONE]") && answer.complete);
            // Text that came with it is not lost, unless the error is the answer.
            assert_eq!(answer.text().contains("\" a\""), answer.status == 200);
        }
    }
}

#[test]
fn text_that_comes_in_one_read_with_a_failure_is_told_before_it() {
    let failure = chunk("data: {\"error\":{\"message\":\"overloaded\"}}\n\n");
    let no_reason = chunk(DONE);
    for last in [failure, no_reason] {
        let upstream = Upstream::start(move |_, stream| {
            let text = |text: &str| chunk(event(text, None));
            stream.write_all(&[STREAM, &text(" a")].concat()).unwrap();
            // The client has it: the stream is open.
            thread::sleep(Duration::from_millis(100));
            let rest = [&text(" b")[..], &text(" c"), &text(" d"), &last].concat();
            stream.write_all(&rest).unwrap();
            wait_for_close(stream);
            After::Close
        });
        let gateway = Gateway::before(&upstream.address);
        for answer in on_both(&gateway, &[], STREAMED) {
            for text in ["\" a\"", "\" b\"", "\" c\"", "\" d\"", "\"error\""] {
                assert_eq!(
                    answer.text().matches(text).count(),
                    1,
                    "{text} {}",
                    answer.text()
                );
            }
            assert!(answer.complete && !answer.text().contains("[DONE]"));
        }
    }
}

#[test]
fn a_whole_answer_that_breaks_off_is_never_complete() {
    let cut = &json(200, TEXT)[..200];
    let upstream = sending(cut);
    let gateway = Gateway::before(&upstream.address);
    for provider in ["openai", "groq"] {
        for answer in on_both(&gateway, &[("x-portkey-provider", provider)], PLAIN) {
            assert_eq!(
                (answer.status, error_code(&answer).as_str()),
                (502, "broken_upstream")
            );
        }
    }
}

#[test]
fn upstream_errors_keep_their_status_and_are_translated() {
    let openai = r#"{"error":{"message":"Rate limit reached","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#;
    let retry = format!(
        "HTTP/1.1 429 X\r\nretry-after: 7\r\ncontent-length: {}\r\n\r\n{openai}",
        openai.len()
    );
    let upstream = Upstream::answering(retry);
    let gateway = Gateway::before(&upstream.address);
    for provider in ["openai", "groq"] {
        for body in [PLAIN, STREAMED] {
            for answer in on_both(&gateway, &[("x-portkey-provider", provider)], body) {
                assert_eq!(
                    (answer.status, answer.header("retry-after")),
                    (429, Some("7"))
                );
                assert_eq!(answer.header("content-type"), Some("application/json"));
                let json = answer.json();
                assert_eq!(json["error"]["message"], "Rate limit reached");
                assert_eq!(json["error"]["code"], "rate_limit_exceeded");
                assert_eq!(json["provider"], provider);
            }
        }
    }
}

#[test]
fn an_error_whose_body_cannot_be_read_keeps_its_status() {
    let gzip = "HTTP/1.1 429 X\r\nretry-after: 7\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nzzz";
    let cut = "HTTP/1.1 429 X\r\nretry-after: 7\r\ncontent-length: 300\r\n\r\n{\"error\":";
    let chunked = "HTTP/1.1 429 X\r\nretry-after: 7\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n";
    for sent in [gzip, cut, chunked] {
        let upstream = sending(sent);
        let gateway = Gateway::before(&upstream.address);
        for body in [PLAIN, STREAMED] {
            for answer in on_both(&gateway, &[], body) {
                assert_eq!(
                    (answer.status, answer.header("retry-after")),
                    (429, Some("7")),
                    "{sent}"
                );
                assert_eq!(answer.json()["provider"], "openai", "{sent}");
            }
        }
    }
}

#[test]
fn unreadable_errors_become_a_sentence_and_odd_statuses_a_502() {
    let page = "<html>nginx</html>";
    for (status, head, body, told) in [
        (
            500,
            "content-type: text/html\r\ncontent-length: 18\r\n",
            page,
            500,
        ),
        (503, "content-length: 0\r\n", "", 503),
        (529, "content-length: 2\r\n", "{}", 529),
        (522, "content-length: 18\r\n", page, 502),
        (
            302,
            "location: http://elsewhere/\r\ncontent-length: 0\r\n",
            "",
            502,
        ),
        (204, "", "", 502),
        (206, "content-length: 2\r\n", "{}", 502),
    ] {
        let upstream = Upstream::answering(format!("HTTP/1.1 {status} X\r\n{head}\r\n{body}"));
        let gateway = Gateway::before(&upstream.address);
        for body in [PLAIN, STREAMED] {
            for answer in on_both(&gateway, &[], body) {
                assert_eq!(answer.status, told, "{status}: {}", answer.text());
                assert!(answer.json()["error"]["message"].is_string());
                assert!(!answer.text().contains("nginx") && !answer.text().contains("elsewhere"));
            }
        }
    }
}

#[test]
fn answers_in_the_wrong_form_are_a_502() {
    for (head, body) in [
        (
            "content-type: text/html\r\ncontent-length: 15\r\n",
            "<html>ok</html>",
        ),
        (
            "content-type: application/json\r\ncontent-length: 0\r\n",
            "",
        ),
        (
            "content-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n",
            "{}",
        ),
    ] {
        let upstream = Upstream::answering(format!("HTTP/1.1 200 OK\r\n{head}\r\n{body}"));
        let gateway = Gateway::before(&upstream.address);
        for body in [PLAIN, STREAMED] {
            for answer in on_both(&gateway, &[], body) {
                assert_eq!(
                    (answer.status, error_code(&answer).as_str()),
                    (502, "broken_upstream")
                );
            }
        }
    }
}

#[test]
fn a_whole_answer_to_a_stream_s_request_becomes_a_stream() {
    let upstream = Upstream::answering(json(200, CHAT));
    let gateway = Gateway::before(&upstream.address);
    for answer in on_both(&gateway, &[GROQ], STREAMED) {
        assert_eq!(answer.header("content-type"), Some("text/event-stream"));
        assert!(answer.text().contains("\"text\":\" hello\"") && answer.text().ends_with(DONE));
        assert!(answer.complete);
    }
}

#[test]
fn interim_heads_are_skipped() {
    let hints = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
    let upstream = Upstream::answering([hints, json(200, TEXT).as_slice()].concat());
    let gateway = Gateway::before(&upstream.address);
    for answer in on_both(&gateway, &[], PLAIN) {
        assert_eq!((answer.status, answer.text()), (200, TEXT));
    }
}

#[test]
fn a_switch_of_protocols_is_a_502_and_nothing_of_it_reaches_the_client() {
    let switch = "HTTP/1.1 101 S\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nRAW";
    let upstream = sending(switch);
    let gateway = Gateway::before(&upstream.address);
    let upgrade = [("connection", "upgrade"), ("upgrade", "h2c")];
    let passed = [&[], &upgrade[..]].map(|asked| request("GET", "/v1/models", asked, ""));
    for request in every_post().into_iter().chain(passed) {
        let mut client = Client::connect(&gateway.address);
        client.send(&request);
        let answer = client.read();
        assert_eq!(answer.status, 502, "{request}");
        assert!(answer.json()["error"]["message"].is_string());
        assert!(!answer.text().contains("RAW"));
    }
}

#[test]
fn a_flood_of_interim_heads_ends_in_a_502() {
    let upstream = Upstream::start(|_, stream| {
        while stream.write_all(b"HTTP/1.1 103 X\r\n\r\n").is_ok() {}
        After::Close
    });
    let gateway = Gateway::before(&upstream.address);
    for request in every_post() {
        let mut client = Client::connect(&gateway.address);
        client.send(&request);
        let mut heads = 0;
        let status = loop {
            match client.read_head().status {
                103 => heads += 1,
                status => break status,
            }
        };
        assert!(heads <= 8 && status == 502, "{heads} {status} {request}");
    }
}

#[test]
fn a_pooled_connection_that_died_costs_nobody_an_answer() {
    // Each connection takes one request; at the second it is gone, as after a server's own idle time.
    let upstream = Upstream::start(|request, stream| {
        if request.turn > 0 {
            return After::Close;
        }
        stream.write_all(&json(200, TEXT)).unwrap();
        After::Keep
    });
    let gateway = Gateway::before(&upstream.address);
    for road in ROADS {
        for _ in 0..3 {
            assert_eq!(ask(&gateway.address, road, PLAIN).status, 200);
        }
    }
}

/// What a request can take: a completion on each road and form, and a path that passes.
fn every_post() -> Vec<String> {
    let completions = [PLAIN, STREAMED].map(|body| ROADS.map(|road| post(road, body)));
    let passed = request("POST", "/v1/embeddings", &[], PLAIN);
    completions.into_iter().flatten().chain([passed]).collect()
}

/// Four connections in the pool, and what `dying` does to the next request on one of them and on any after it. The
/// connections of all further requests, and the last answer.
fn on_pooled_connections(post: &str, dying: &'static [u8]) -> (Vec<usize>, u16) {
    let together = std::sync::Barrier::new(4);
    let upstream = Upstream::start(move |request, stream| {
        if request.connection < 4 && request.turn == 0 {
            together.wait();
            let body = [event(" a", Some("stop")).as_str(), DONE].concat();
            let answer = match request.text().contains("stream") {
                true => [STREAM, &chunk(body), LAST_CHUNK].concat(),
                false => json(200, TEXT),
            };
            stream.write_all(&answer).unwrap();
            return After::Keep;
        }
        stream.write_all(dying).unwrap();
        After::Close
    });
    let gateway = Gateway::before(&upstream.address);
    let mut clients: Vec<_> = (0..4).map(|_| Client::connect(&gateway.address)).collect();
    for client in &mut clients {
        client.send(post);
    }
    for client in &mut clients {
        assert_eq!(client.read().status, 200);
    }
    // The pool takes a connection after the client has its last byte.
    std::thread::sleep(std::time::Duration::from_millis(50));
    let mut last = Client::connect(&gateway.address);
    last.send(post);
    let mut status = last.read_head().status;
    if status == 103 {
        // A path that passes has its interim heads passed on.
        status = last.read_head().status;
    }
    let seen = upstream.seen().split_off(4);
    (
        seen.iter().map(|request| request.connection).collect(),
        status,
    )
}

#[test]
fn a_silent_death_of_a_pooled_connection_is_repeated_once_and_on_a_new_one() {
    for post in every_post() {
        let (connections, status) = on_pooled_connections(&post, b"");
        assert_eq!(status, 502, "{post}");
        let [pooled, fresh] = connections[..] else {
            panic!("{connections:?} {post}")
        };
        assert!(pooled < 4 && fresh == 4, "{connections:?} {post}");
    }
}

#[test]
fn an_answer_that_has_begun_is_never_asked_for_again() {
    for post in every_post() {
        for begun in ["HTTP/1.1 2", "HTTP/1.1 103 X\r\n\r\n", "H"] {
            let (connections, status) = on_pooled_connections(&post, begun.as_bytes());
            assert_eq!((connections.len(), status), (1, 502), "{begun:?} {post}");
        }
    }
}

#[test]
fn a_fresh_connection_that_dies_is_not_tried_again() {
    let upstream = Upstream::start(|_, _| After::Close);
    let gateway = Gateway::before(&upstream.address);
    for (count, road) in ROADS.iter().enumerate() {
        let answer = ask(&gateway.address, road, PLAIN);
        assert_eq!(
            (answer.status, error_code(&answer).as_str()),
            (502, "broken_upstream")
        );
        assert_eq!(
            upstream.seen().len(),
            count + 1,
            "a completion must not be paid for twice"
        );
    }
}

#[test]
fn silence_is_a_504_before_the_head_and_an_error_event_after_it() {
    let upstream = Upstream::start(|request, stream| {
        if request.text().contains("stream") {
            stream
                .write_all(&[STREAM, &chunk(event(" a", None))].concat())
                .unwrap();
        }
        wait_for_close(stream);
        After::Close
    });
    let gateway =
        Gateway::start(&(providers_at(&upstream.address) + "  timeouts: { read: 200ms }\n"));
    for answer in on_both(&gateway, &[], PLAIN) {
        assert_eq!(
            (answer.status, error_code(&answer).as_str()),
            (504, "read_timeout")
        );
    }
    for answer in on_both(&gateway, &[], STREAMED) {
        assert!(answer.text().contains(r#""code":"read_timeout""#) && answer.complete);
    }
}

#[test]
fn the_client_s_own_deadline_holds_for_the_whole_call() {
    let upstream = Upstream::start(|request, stream| {
        if request.text().contains("stream") {
            stream.write_all(STREAM).unwrap();
            // Never silent, never done.
            while stream.write_all(&chunk(event(" a", None))).is_ok() {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
        wait_for_close(stream);
        After::Close
    });
    let gateway = Gateway::before(&upstream.address);
    let deadline = ("x-portkey-request-timeout", "200");
    let whole = ask(&gateway.address, &[deadline], PLAIN);
    assert_eq!(
        (whole.status, error_code(&whole).as_str()),
        (504, "attempt_timeout")
    );
    let streamed = ask(&gateway.address, &[deadline], STREAMED);
    assert!(streamed.text().contains(r#""code":"attempt_timeout""#) && streamed.complete);
}

#[test]
fn the_gateway_s_own_deadline_holds_too() {
    let upstream = Upstream::start(|_, stream| {
        stream.write_all(STREAM).unwrap();
        while stream.write_all(&chunk(event(" a", None))).is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        After::Close
    });
    let gateway =
        Gateway::start(&(providers_at(&upstream.address) + "  timeouts: { total: 300ms }\n"));
    for answer in on_both(&gateway, &[], STREAMED) {
        assert!(answer.text().contains(r#""code":"total_timeout""#) && answer.complete);
    }
}

#[test]
fn the_gateway_s_own_deadline_holds_for_a_silent_upstream_too() {
    let upstream = Upstream::start(|_, stream| {
        wait_for_close(stream);
        After::Close
    });
    let gateway = Gateway::start(
        &(providers_at(&upstream.address) + "  timeouts: { total: 300ms, read: 15s }\n"),
    );
    for body in [PLAIN, STREAMED] {
        for answer in on_both(&gateway, &[], body) {
            assert_eq!(
                (answer.status, error_code(&answer).as_str()),
                (504, "total_timeout")
            );
        }
    }
}

#[test]
fn a_client_that_stops_reading_is_given_up() {
    let upstream = Upstream::start(|_, stream| {
        stream.write_all(STREAM).unwrap();
        let event = chunk(event(&"x".repeat(60_000), None));
        while stream.write_all(&event).is_ok() {}
        After::Close
    });
    let gateway =
        Gateway::start(&(providers_at(&upstream.address) + "  timeouts: { write: 200ms }\n"));
    for (count, road) in (1..).zip(ROADS) {
        let mut client = Client::connect(&gateway.address);
        client.send(post(road, STREAMED));
        // It stays connected, and reads nothing.
        let given_up = crate::support::wait_for(|| {
            let ended = gateway.logged().matches(" kind=stream ").count();
            (ended == count).then_some(())
        });
        assert!(given_up.is_some(), "{}", gateway.logged());
    }
    let mut operator = Client::connect(&gateway.admin);
    operator.send(request("GET", "/metrics", &[], ""));
    let metrics = operator.read();
    assert!(
        metrics.text().contains("completions_in_flight 0"),
        "{}",
        metrics.text()
    );
}

#[test]
fn unreachable_and_unknown_hosts_are_502() {
    let lines = providers_at(&free_address()).replace(
        "  default:",
        "    lost: { base_url: \"http://nowhere.invalid/v1\" }\n  default:",
    );
    let gateway = Gateway::start(&lines);
    for (provider, code) in [
        ("openai", "connect_error"),
        ("groq", "connect_error"),
        ("lost", "dns_error"),
    ] {
        for body in [PLAIN, STREAMED] {
            for answer in on_both(&gateway, &[("x-portkey-provider", provider)], body) {
                assert_eq!((answer.status, error_code(&answer).as_str()), (502, code));
                assert!(
                    !answer.text().contains("127.0.0.1") && !answer.text().contains("invalid/")
                );
            }
        }
    }
}

#[test]
fn an_event_over_the_limit_is_an_error_and_one_below_it_passes() {
    let large = event(&"x".repeat(300_000), Some("stop"));
    let upstream = Upstream::answering([STREAM, &chunk(&large), &chunk(DONE), LAST_CHUNK].concat());
    let gateway = Gateway::before(&upstream.address);
    for answer in on_both(&gateway, &[], STREAMED) {
        let (got, wanted) = (answer.text(), large.clone() + DONE);
        let same = got
            .bytes()
            .zip(wanted.bytes())
            .take_while(|(got, wanted)| got == wanted)
            .count();
        assert!(
            got == wanted,
            "{} of {} bytes as they came, then: {:.300}\n{}",
            same,
            wanted.len(),
            got.get(same..).unwrap_or_default(),
            gateway.logged()
        );
    }
    let strict =
        Gateway::start(&(providers_at(&upstream.address) + "  limits: { event_bytes: 100000 }\n"));
    for answer in on_both(&strict, &[], STREAMED) {
        assert!(
            answer.text().contains(r#""code":"broken_upstream""#)
                && !answer.text().contains("[DONE]"),
            "{} {:.300}\n{}",
            answer.status,
            answer.text(),
            strict.logged()
        );
    }
}

#[test]
fn a_slow_reader_loses_nothing() {
    let many: String = (0..20_000)
        .map(|count| event(&format!(" {count}"), None))
        .collect();
    let all = many + &event("", Some("stop")) + DONE;
    let pieces: Vec<u8> = all.as_bytes().chunks(9_973).flat_map(chunk).collect();
    let upstream = Upstream::answering([STREAM, &pieces, LAST_CHUNK].concat());
    let gateway = Gateway::before(&upstream.address);
    for road in ROADS {
        let mut client = Client::connect(&gateway.address);
        client.send(post(road, STREAMED));
        // Everything is sent before the first byte is read, as far as the buffers between allow.
        upstream.wait_for_requests(1);
        assert!(client.read().text() == all);
    }
}

#[test]
fn a_key_that_the_provider_echoes_is_taken_out() {
    let echo = r#"{"error":{"message":"Incorrect API key provided: sk-echo-1","type":"invalid_request_error"}}"#;
    let event = format!("data: {echo}\n\n");
    let upstream = Upstream::start(move |request, stream| {
        if request.text().contains("stream") {
            stream
                .write_all(&[STREAM, &chunk(&event), LAST_CHUNK].concat())
                .unwrap();
        } else {
            stream.write_all(&json(401, echo)).unwrap();
        }
        After::Keep
    });
    let gateway = Gateway::before(&upstream.address);
    for body in [PLAIN, STREAMED] {
        for answer in on_both(&gateway, &[("authorization", "Bearer sk-echo-1")], body) {
            assert!(
                answer
                    .text()
                    .contains("Incorrect API key provided: [redacted]"),
                "{}",
                answer.text()
            );
        }
    }
}

#[test]
fn a_key_in_an_upstream_s_header_reaches_neither_the_client_nor_the_log() {
    let upstream = sending(
        "HTTP/1.1 429 X\r\nx-request-id: for sk-echo-1\r\nrequest-id: r-1\r\ncontent-length: 2\r\n\r\n{}",
    );
    let gateway = Gateway::before(&upstream.address);
    for body in [PLAIN, STREAMED] {
        for answer in on_both(&gateway, &[("authorization", "Bearer sk-echo-1")], body) {
            assert!(answer.header("x-request-id").unwrap().starts_with("req_"));
            assert_eq!(answer.header("request-id"), Some("r-1"));
        }
    }
    let passed = |key| {
        let mut client = Client::connect(&gateway.address);
        client.send(request("GET", "/v1/models", &[("authorization", key)], ""));
        client.read()
    };
    let echoed = passed("Bearer sk-echo-1");
    assert!(echoed.header("x-request-id").unwrap().starts_with("req_"));
    let logged = gateway.wait_for_log("kind=pass");
    assert!(!logged.contains("sk-echo"), "{logged}");
    // A placeholder is no secret, and stands in any header by chance.
    let placeholder = passed("Bearer 2");
    assert_eq!(placeholder.header("content-length"), Some("2"));
    assert_eq!(placeholder.text(), "{}");
}
