//! The transparent proxy: every other path goes upstream as it is.

use std::io::Write;

use crate::support::{
    Gateway,
    client::{Client, ask, request},
    upstream::{After, LAST_CHUNK, STREAM, Upstream, chunk, json, wait_for_close},
};

#[test]
fn other_paths_pass_unchanged_but_for_host_and_key() {
    let upstream = Upstream::answering(json(200, r#"{"data":[]}"#));
    let gateway = Gateway::before(&upstream.address);
    let headers = [
        ("authorization", "sk-mine"),
        ("x-portkey-provider", "groq"),
        ("x-portkey-metadata", r#"{"a":1}"#),
        ("x-own", "kept"),
        ("accept-encoding", "gzip"),
    ];
    let mut client = Client::connect(&gateway.address);
    for (method, path, body) in [
        ("GET", "/v1/models?limit=2", ""),
        ("POST", "/v1/chat/completions", r#"{"odd":  "spacing"}"#),
        ("DELETE", "/v1/files/file-1", ""),
        ("GET", "/v1/completions", ""),
    ] {
        client.send(request(method, path, &headers, body));
        let answer = client.read();
        assert_eq!((answer.status, answer.text()), (200, r#"{"data":[]}"#));
        assert_eq!(answer.header("x-portkey-provider"), Some("groq"));
        let sent = upstream.seen().pop().unwrap();
        assert_eq!(sent.method, method);
        assert_eq!(sent.path, path.replace("/v1", "/openai/v1"));
        assert_eq!(sent.text(), body);
        assert_eq!(sent.header("authorization"), Some("Bearer sk-mine"));
        assert_eq!(sent.header("x-own"), Some("kept"));
        assert_eq!(sent.header("accept-encoding"), Some("gzip"));
        assert_eq!(sent.header("host"), Some(upstream.address.as_str()));
        assert!(
            sent.headers
                .iter()
                .all(|(name, _)| !name.starts_with("x-portkey-"))
        );
    }
}

#[test]
fn an_app_behind_us_keeps_its_own_paths_credentials_and_health() {
    let upstream = Upstream::answering(json(200, "{}"));
    let gateway = Gateway::start(&format!(
        "  providers: {{ app: {{ base_url: \"http://{}\", auth: none }} }}\n  default: {{ upstream: app }}\n",
        upstream.address
    ));
    let mut client = Client::connect(&gateway.address);
    for path in ["/", "/health", "/v1/models", "/login?next=%2Fa"] {
        client.send(request(
            "GET",
            path,
            &[("authorization", "Basic dTpw"), ("cookie", "a=b")],
            "",
        ));
        assert_eq!(client.read().status, 200);
        let sent = upstream.seen().pop().unwrap();
        assert_eq!(sent.path, path);
        assert_eq!(sent.header("authorization"), Some("Basic dTpw"));
        assert_eq!(sent.header("cookie"), Some("a=b"));
    }
}

#[test]
fn a_large_upload_passes_in_pieces() {
    let upstream = Upstream::answering(json(200, "{}"));
    let gateway = Gateway::before(&upstream.address);
    let file = "z".repeat(40 << 20);
    let mut client = Client::connect(&gateway.address);
    client.send(request("POST", "/v1/files", &[], &file));
    assert_eq!(client.read().status, 200);
    assert!(upstream.sole().text() == file);
}

#[test]
fn a_chat_stream_passes_untouched() {
    let sse = "event: x\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\r\n\r\n: ping\n\ndata: [DONE]\n\n";
    let upstream = Upstream::answering([STREAM, &chunk(sse), LAST_CHUNK].concat());
    let gateway = Gateway::before(&upstream.address);
    let mut client = Client::connect(&gateway.address);
    client.send(request(
        "POST",
        "/v1/chat/completions",
        &[],
        r#"{"stream":true}"#,
    ));
    let answer = client.read();
    assert_eq!((answer.text(), answer.complete), (sse, true));
}

#[test]
fn an_answer_that_breaks_off_does_not_look_complete() {
    let upstream = Upstream::start(|_, stream| {
        stream.write_all(STREAM).unwrap();
        stream.write_all(&chunk("data: {}\n\n")).unwrap();
        After::Close
    });
    let gateway = Gateway::before(&upstream.address);
    let mut client = Client::connect(&gateway.address);
    client.send(request(
        "POST",
        "/v1/chat/completions",
        &[],
        r#"{"stream":true}"#,
    ));
    assert!(!client.read().complete);
}

#[test]
fn a_client_that_leaves_stops_the_upstream() {
    let (closed, closing) = std::sync::mpsc::channel();
    let closed = std::sync::Mutex::new(closed);
    let upstream = Upstream::start(move |_, stream| {
        stream.write_all(STREAM).unwrap();
        wait_for_close(stream).unwrap();
        closed.lock().unwrap().send(()).unwrap();
        After::Close
    });
    let gateway = Gateway::before(&upstream.address);
    let mut client = Client::connect(&gateway.address);
    client.send(request(
        "POST",
        "/v1/chat/completions",
        &[],
        r#"{"stream":true}"#,
    ));
    client.read_head();
    drop(client);
    closing.recv_timeout(crate::support::PATIENCE).unwrap();
}

#[test]
fn without_an_app_behind_root_and_health_are_our_own() {
    let gateway = Gateway::start("");
    let mut client = Client::connect(&gateway.address);
    for path in ["/", "/health"] {
        client.send(request("GET", path, &[], ""));
        assert_eq!(client.read().status, 200);
    }
    client.send(request("HEAD", "/health", &[], ""));
    assert_eq!(client.read_head().status, 200);
    client.send(request("GET", "/v1/models", &[], ""));
    let answer = client.read();
    assert_eq!(
        (answer.status, answer.json()["error"]["param"].as_str()),
        (400, Some("x-portkey-provider"))
    );
}

#[test]
fn an_upstream_that_is_down_is_a_502_that_names_no_address() {
    let address = crate::support::free_address();
    let gateway = Gateway::before(&address);
    let mut client = Client::connect(&gateway.address);
    client.send(request("GET", "/v1/models", &[], ""));
    let passed = client.read();
    for answer in [
        passed,
        ask(&gateway.address, &[], crate::support::client::PLAIN),
    ] {
        assert_eq!(answer.status, 502);
        assert_eq!(answer.json()["error"]["code"], "connect_error");
        assert!(!answer.text().contains("127.0.0.1"));
    }
}
