//! Heads that are refused before anything goes upstream, and those that only look odd.

use std::{
    io::{Read, Write},
    time::{Duration, Instant},
};

use crate::{
    heads,
    support::{
        Gateway,
        client::{Answer, Client, PLAIN, ROADS, STREAMED, ask, post, request},
        providers_at,
        upstream::{After, TEXT, Upstream, json},
    },
};

const SMUGGLED: &str = "GET /v1/smuggled HTTP/1.1\r\nhost: gateway\r\ncontent-length: 0\r\n\r\n";

/// What a head announces.
fn body_of(raw: &[u8]) -> &'static [u8] {
    let text = String::from_utf8_lossy(raw).to_ascii_lowercase();
    let has = |what: &str| text.contains(what);
    match () {
        () if has("transfer-encoding: chunked") => b"5\r\nhello\r\n0\r\n\r\n",
        () if has("content-length: 0\r\n") || !has("content-length:") => b"",
        () => b"hello",
    }
}

fn assert_refused(client: &mut Client, status: u16, name: &str) -> Answer {
    let answer = client.read();
    assert_eq!(answer.status, status, "{name}: {}", answer.text());
    assert!(answer.json()["error"]["message"].is_string(), "{name}");
    assert!(answer.json()["error"]["type"].is_string(), "{name}");
    assert_eq!(answer.header("connection"), Some("close"), "{name}");
    assert!(answer.header("x-request-id").is_some(), "{name}");
    assert!(client.is_closed(), "{name}");
    answer
}

/// P4, P6, L3, L4, L7.
#[test]
fn what_the_table_refuses_goes_nowhere_and_the_rest_arrives() {
    let upstream = Upstream::answering(json(200, "{}"));
    let gateway = Gateway::before(&upstream.address);
    for head in heads::all() {
        let before = upstream.seen().len();
        let mut client = Client::connect(&gateway.address);
        let taken = head.status == 0;
        let behind = if taken {
            body_of(&head.raw)
        } else {
            SMUGGLED.as_bytes()
        };
        client.send([&head.raw[..], behind].concat());
        if taken {
            let answer = match head.raw.starts_with(b"HEAD") {
                true => client.read_head(),
                false => client.read(),
            };
            assert_eq!(answer.status, 200, "{}: {}", head.name, answer.text());
        } else {
            assert_refused(&mut client, head.status, head.name);
        }
        let seen = upstream.seen();
        assert_eq!(seen.len() - before, usize::from(taken), "{}", head.name);
        assert!(seen.iter().all(|seen| seen.path != "/v1/smuggled"));
    }
    assert!(!gateway.logged().contains("panicked"));
}

#[test]
fn a_head_is_checked_on_every_turn_of_a_connection() {
    let upstream = Upstream::answering(json(200, "{}"));
    let gateway = Gateway::before(&upstream.address);
    let bad = "GET /v1/a#b HTTP/1.1\r\nhost: gateway\r\n\r\n";
    let chunked = "POST /v1/x HTTP/1.1\r\nhost: gateway\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let good = request("POST", "/v1/x", &[], "hello");
    for first in [good.as_str(), chunked] {
        // In one write, one behind the other, and each byte for itself.
        let both = [first, "\r\n", first, bad].concat();
        for size in [both.len(), 100, 1] {
            let mut client = Client::connect(&gateway.address);
            for piece in both.as_bytes().chunks(size) {
                client.send(piece);
            }
            assert_eq!(client.read().status, 200);
            assert_eq!(client.read().status, 200);
            assert_refused(&mut client, 400, "the third");
        }
    }
    assert_eq!(upstream.seen().len(), 12);
    assert!(
        upstream
            .seen()
            .iter()
            .all(|request| request.text() == "hello")
    );
}

/// P1. `rounds` times each.
fn answer_here(rounds: usize) {
    let upstream = Upstream::answering(json(200, TEXT));
    let lines = providers_at(&upstream.address) + "  limits: { body_bytes: 1000 }\n";
    let gateway = Gateway::start(&lines);
    let length = SMUGGLED.len();
    let framed = |head: &str| {
        let (sized, host) = (format!("content-length: {length}\r\n"), "host: gateway\r\n");
        let chunked =
            format!("transfer-encoding: chunked\r\n\r\n{length:x}\r\n{SMUGGLED}\r\n0\r\n\r\n");
        [
            format!("{head}{host}{sized}\r\n{SMUGGLED}"),
            format!("{head}{host}{chunked}"),
        ]
    };
    let asks = [
        "GET /health HTTP/1.1\r\n",
        "HEAD / HTTP/1.1\r\n",
        "POST /v1/completions HTTP/1.1\r\n",
        "POST /v1/completions HTTP/1.1\r\ncontent-type: text/plain\r\n",
        "POST /v1/completions HTTP/1.1\r\nx-portkey-provider: nobody\r\n",
        "GET /v1/models HTTP/1.1\r\nx-portkey-provider: nobody\r\n",
        "GET /v1/models HTTP/1.1\r\nupgrade: websocket\r\n",
        "GET /v1/models#a HTTP/1.1\r\n",
    ];
    let too_large = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: gateway\r\ncontent-length: {}\r\n\r\n",
        length * 20
    ) + &SMUGGLED.repeat(20);
    let asks = asks.iter().flat_map(|head| framed(head)).chain([too_large]);
    for ask in asks {
        for _ in 0..rounds {
            let mut client = Client::connect(&gateway.address);
            client.send(&ask);
            // One answer, to the one request; and none if there is nothing to say.
            client.send("GET /health HTTP/1.1\r\nhost: last\r\nconnection: close\r\n\r\n");
            let mut answers = String::new();
            let _ = client.stream.read_to_string(&mut answers);
            let count = answers.matches("HTTP/1.1 ").count();
            assert!((1..=2).contains(&count), "{ask}: {answers}");
            if count == 2 {
                assert!(answers.ends_with("\r\n\r\nok\n"), "{ask}: {answers}");
            }
        }
    }
    assert_eq!(upstream.seen().len(), 0);
}

#[test]
fn a_body_that_looks_like_a_request_is_none() {
    answer_here(12);
}

#[test]
#[ignore = "10,000 connections"]
fn a_body_that_looks_like_a_request_is_none_10_000_times() {
    answer_here(10_000 / 17 + 1);
}

/// P12.
#[test]
fn a_slow_head_has_one_deadline_from_its_first_byte_on() {
    let upstream = Upstream::answering(json(200, "{}"));
    let lines = providers_at(&upstream.address) + "  limits: { header_seconds: 1 }\n";
    let gateway = Gateway::start(&lines);
    let befores = ["", &SLOW[..1], &SLOW[..2], "PRI * HT", &SLOW[..20]];
    std::thread::scope(|scope| {
        for before in befores {
            for turn in 0..2 {
                let address = &gateway.address;
                scope.spawn(move || drip(address, before, turn));
            }
        }
    });
    assert_eq!(upstream.seen().len(), befores.len());
}

const SLOW: &str = "GET /v1/models HTTP/1.1\r\nhost: gateway\r\nx-own: 1234567890\r\n\r\n";

/// Sends a head byte by byte: as a connection's first, and as its second, which is waited for elsewhere.
fn drip(address: &str, before: &str, turn: usize) {
    let mut client = Client::connect(address);
    if turn == 1 {
        client.send(SLOW);
        assert_eq!(client.read().status, 200);
    }
    let mut writer = client.stream.try_clone().unwrap();
    let started = Instant::now();
    client.send(before);
    std::thread::spawn(move || {
        for byte in SLOW.bytes() {
            std::thread::sleep(Duration::from_millis(100));
            if writer.write_all(&[byte]).is_err() {
                break;
            }
        }
    });
    let answer = assert_refused(&mut client, 408, before);
    assert_eq!(answer.json()["error"]["code"], "request_timeout");
    let took = started.elapsed().as_millis();
    assert!((900..5_000).contains(&took), "{before:?} {took}");
}

#[test]
fn the_conf_limits_heads_on_both_protocols() {
    let upstream = Upstream::answering(json(200, "{}"));
    let lines =
        providers_at(&upstream.address) + "  limits: { header_bytes: 1000, header_count: 8 }\n";
    let gateway = Gateway::start(&lines);
    let many: Vec<_> = (0..8).map(|_| ("x-own", "1")).collect();
    let long = "y".repeat(1_000);
    for (headers, status) in [
        (&many[..7], 200),
        (&many[..], 431),
        (&[("x-own", &*long)][..], 431),
    ] {
        let mut client = Client::connect(&gateway.address);
        client.send(request("GET", "/v1/models", headers, ""));
        let answer = client.read();
        assert_eq!(answer.status, status);
        if status == 431 {
            assert_eq!(answer.json()["error"]["code"], "head_too_large");
        }
    }
}

/// P3, L3: an upgrade goes nowhere that has no websockets.
#[test]
fn nobody_gets_an_upgrade_from_a_provider() {
    let switched =
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
    let upstream = Upstream::start(move |_, stream| {
        stream.write_all(switched.as_bytes()).unwrap();
        After::Close
    });
    let gateway = Gateway::before(&upstream.address);
    let websocket = [("connection", "upgrade"), ("upgrade", "websocket")];
    for asked in [
        request("GET", "/v1/realtime", &websocket, ""),
        request("GET", "/v1/completions", &websocket, ""),
        request("GET", "/health", &websocket, ""),
        post(&websocket, PLAIN),
    ] {
        let mut client = Client::connect(&gateway.address);
        client.send(asked + SMUGGLED);
        assert_refused(&mut client, 400, "websocket");
    }
    assert_eq!(upstream.seen().len(), 0);
    let h2c = [("connection", "upgrade"), ("upgrade", "h2c")];
    for road in ROADS {
        let answer = ask(&gateway.address, &[&h2c[..], road].concat(), PLAIN);
        assert_eq!(answer.status, 502);
    }
    let seen = upstream.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|seen| seen.header("upgrade").is_none()));
}

/// Fault 17: nothing but a 200 and a shape that is known is an answer.
#[test]
fn statuses_that_are_no_answer_are_502_on_both_roads() {
    for status in [
        "101 Switching Protocols",
        "204 No Content",
        "206 Partial Content",
        "302 Found",
        "304 Not Modified",
        "600 X",
        "999 X",
    ] {
        let bare = ["101", "204", "304"]
            .iter()
            .any(|bare| status.starts_with(bare));
        let body = if bare { "" } else { TEXT };
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\nlocation: http://127.0.0.1/\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        let upstream = Upstream::answering(head);
        let gateway = Gateway::before(&upstream.address);
        for body in [PLAIN, STREAMED] {
            for road in ROADS {
                let answer = ask(&gateway.address, road, body);
                assert_eq!(answer.status, 502, "{status}: {}", answer.text());
                assert!(answer.json()["error"]["message"].is_string());
                assert_eq!(answer.header("location"), None);
            }
        }
        assert_eq!(upstream.seen().len(), 4, "{status}: not followed");
    }
}

/// P8.
#[test]
fn a_connection_field_takes_nothing_that_the_gateway_adds() {
    let upstream = Upstream::answering(json(200, TEXT));
    let lines = format!(
        "  providers: {{ own: {{ base_url: \"http://{}/v1\", dialect: openai, auth: {{ header: x-api-key }}, api_key: sk-conf, headers: {{ x-added: conf }} }} }}\n  default: {{ provider: own, model: m }}\n",
        upstream.address
    );
    let gateway = Gateway::start(&lines);
    let named = (
        "connection",
        "authorization, x-api-key, host, content-type, content-length, x-added, keep-alive",
    );
    for road in ROADS {
        let answer = ask(&gateway.address, &[road, &[named]].concat(), PLAIN);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let mut client = Client::connect(&gateway.address);
    client.send(request("POST", "/v1/embeddings", &[named], "{}"));
    assert_eq!(client.read().status, 200);
    let seen = upstream.seen();
    assert_eq!(seen.len(), 3);
    for sent in seen {
        assert_eq!(sent.header("x-api-key"), Some("sk-conf"));
        assert_eq!(sent.header("x-added"), Some("conf"));
        assert_eq!(sent.header("host"), Some(upstream.address.as_str()));
        assert!(
            sent.header("connection")
                .is_none_or(|own| own == "keep-alive")
        );
        assert!(!sent.body.is_empty());
    }
}
