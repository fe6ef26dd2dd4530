//! Request bodies of every size and framing.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use crate::support::{
    Gateway,
    client::{CONDUCTED, Client, PLAIN, ask, post},
    providers_at,
    upstream::{TEXT, Upstream, json},
};

fn prompt_of(bytes: usize) -> String {
    format!(
        r#"{{"model":"m","prompt":"{}","max_tokens":5}}"#,
        "x".repeat(bytes)
    )
}

#[test]
fn bodies_around_every_limit_of_the_framework_arrive_whole() {
    let upstream = Upstream::answering(json(200, TEXT));
    let gateway = Gateway::before(&upstream.address);
    let sizes = [
        10, 65_400, 65_535, 65_536, 65_537, 131_072, 200_000, 5_000_000,
    ];
    for size in sizes {
        let body = prompt_of(size);
        assert_eq!(ask(&gateway.address, &[], &body).status, 200, "{size}");
        assert_eq!(
            ask(&gateway.address, &[CONDUCTED], &body).status,
            200,
            "{size}"
        );
    }
    let seen = upstream.seen();
    for (request, size) in seen.iter().zip(sizes.iter().flat_map(|size| [size, size])) {
        assert!(request.text() == prompt_of(*size), "{size}");
    }
    assert_eq!(seen.len(), 2 * sizes.len());
}

#[test]
fn a_body_may_be_rewritten_to_another_length() {
    let upstream = Upstream::answering(json(200, crate::support::upstream::CHAT));
    let gateway = Gateway::before(&upstream.address);
    for size in [10, 70_000, 5_000_000] {
        let body = format!(
            r#"{{"model":"m","stream":false,"prompt":"{}"}}"#,
            "y".repeat(size)
        );
        let answer = ask(&gateway.address, &[("x-portkey-provider", "groq")], &body);
        assert_eq!(answer.status, 200);
        let sent = upstream.seen().pop().unwrap();
        assert!(sent.text().ends_with(r#""}],"max_tokens":16}"#));
        assert!(sent.text().len() > size);
    }
}

#[test]
fn chunked_bodies_arrive_whole_whatever_their_size() {
    let upstream = Upstream::answering(json(200, TEXT));
    let gateway = Gateway::before(&upstream.address);
    for size in [10, 200_000, 5_000_000] {
        let body = prompt_of(size);
        let mut client = Client::connect(&gateway.address);
        client
            .send("POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
        for piece in body.as_bytes().chunks(40_000) {
            client.send(crate::support::upstream::chunk(piece));
        }
        client.send("0\r\n\r\n");
        assert_eq!(client.read().status, 200, "{size}");
        assert!(upstream.seen().pop().unwrap().text() == body, "{size}");
    }
}

#[test]
fn a_declared_body_over_the_limit_is_413_before_it_is_sent() {
    let upstream = Upstream::answering(json(200, TEXT));
    let gateway = Gateway::before(&upstream.address);
    let mut client = Client::connect(&gateway.address);
    client.send("POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 41943040\r\n\r\n");
    let answer = client.read();
    assert_eq!(answer.status, 413);
    assert_eq!(answer.json()["error"]["code"], "body_too_large");
    assert!(upstream.seen().is_empty());
}

#[test]
fn a_client_that_sends_40_megabytes_all_the_same_can_read_its_413() {
    let upstream = Upstream::answering(json(200, TEXT));
    let gateway = Gateway::before(&upstream.address);
    let mut client = Client::connect(&gateway.address);
    let mut sender = client.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        let head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 41943040\r\n\r\n";
        sender.write_all(head.as_bytes()).unwrap();
        let megabyte = vec![b'x'; 1 << 20];
        // The gateway stops reading some time after its answer.
        (0..40)
            .take_while(|_| sender.write_all(&megabyte).is_ok())
            .count()
    });
    assert_eq!(client.read().status, 413);
    sending.join().unwrap();
}

#[test]
fn a_client_whose_head_is_refused_can_send_its_body_and_read_why() {
    let gateway = Gateway::start("");
    let mut client = Client::connect(&gateway.address);
    let mut sender = client.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        let head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\ncontent-length: 8388608\r\n\r\n";
        sender.write_all(head.as_bytes()).unwrap();
        sender.write_all(&vec![b'x'; 8 << 20])
    });
    let answer = client.read();
    assert_eq!(answer.json()["error"]["param"], "content-type");
    sending.join().unwrap().unwrap();
}

#[test]
fn a_chunked_body_over_the_limit_is_413() {
    let upstream = Upstream::answering(json(200, TEXT));
    let lines =
        crate::support::providers_at(&upstream.address) + "  limits: { body_bytes: 100000 }\n";
    let gateway = Gateway::start(&lines);
    let mut client = Client::connect(&gateway.address);
    client.send("POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    client.send(crate::support::upstream::chunk(vec![b' '; 100_001]));
    client.send("0\r\n\r\n");
    assert_eq!(client.read().status, 413);
    assert!(client.is_closed());
}

#[test]
fn a_client_that_waits_for_100_continue_gets_it() {
    let upstream = Upstream::answering(json(200, TEXT));
    let gateway = Gateway::before(&upstream.address);
    for headers in [
        &[("expect", "100-continue")][..],
        &[("expect", "100-continue"), CONDUCTED],
    ] {
        let request = post(headers, PLAIN);
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let mut client = Client::connect(&gateway.address);
        client.send(format!("{head}\r\n\r\n"));
        assert_eq!(client.read_head().status, 100);
        client.send(body);
        assert_eq!(client.read().status, 200);
    }
    assert!(
        upstream
            .seen()
            .iter()
            .all(|request| request.header("expect").is_none())
    );
}

#[test]
fn a_body_that_never_arrives_is_408() {
    let upstream = Upstream::answering(json(200, TEXT));
    let lines =
        crate::support::providers_at(&upstream.address) + "  limits: { request_seconds: 1 }\n";
    let gateway = Gateway::start(&lines);
    let mut client = Client::connect(&gateway.address);
    client.send("POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{");
    assert_eq!(client.read().status, 408);
}

#[test]
fn the_shortest_request_there_is_gets_an_answer() {
    let gateway = Gateway::start("");
    let mut client = Client::connect(&gateway.address);
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.read_head().status, 200);
}

#[test]
fn an_http_1_0_client_gets_an_answer_it_can_read() {
    let upstream = Upstream::answering(json(200, TEXT));
    let gateway = Gateway::before(&upstream.address);
    for (provider, body) in [
        ("openai", PLAIN),
        ("openai", crate::support::client::STREAMED),
    ] {
        let mut client = Client::connect(&gateway.address);
        let length = body.len();
        client.send(format!("POST /v1/completions HTTP/1.0\r\nx-portkey-provider: {provider}\r\ncontent-length: {length}\r\n\r\n{body}"));
        let answer = client.read();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("transfer-encoding"), None);
    }
}

/// Reads `bytes` at some 3 MB/s, never pausing for long.
fn read_slowly(stream: &mut TcpStream, bytes: usize) -> usize {
    let mut piece = vec![0; 64 << 10];
    let mut read = 0;
    while read < bytes {
        match stream.read(&mut piece).unwrap() {
            0 => break,
            more => read += more,
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    read
}

/// More than the sockets' own buffers hold.
const LARGE: usize = 15_000_000;
const SHORT_WRITES: &str = "  timeouts: { write: 1s }\n";

#[test]
fn a_client_may_read_a_large_answer_for_longer_than_a_write_may_take() {
    let text = TEXT.replace(" hello", &"x".repeat(LARGE));
    let upstream = Upstream::answering(json(200, &text));
    let gateway = Gateway::start(&(providers_at(&upstream.address) + SHORT_WRITES));
    let mut client = Client::connect(&gateway.address);
    client.send(post(&[("connection", "close")], PLAIN));
    assert!(read_slowly(&mut client.stream, usize::MAX) > text.len());
}

#[test]
fn an_upstream_may_read_a_large_request_for_longer_than_a_write_may_take() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_slowly(&mut stream, LARGE);
        stream.write_all(&json(200, TEXT)).unwrap();
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let gateway = Gateway::start(&(providers_at(&address) + SHORT_WRITES));
    let answer = ask(&gateway.address, &[CONDUCTED], &prompt_of(LARGE));
    assert_eq!(answer.status, 200, "{}", answer.text());
}
