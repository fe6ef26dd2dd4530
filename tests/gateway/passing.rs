//! The transparent proxy: every other path goes upstream as it is.

use std::io::Write;

use crate::support::{
    Gateway,
    client::{Client, PLAIN, ROADS, STREAMED, ask, post, request},
    upstream::{After, LAST_CHUNK, STREAM, TEXT, Upstream, chunk, events, json, wait_for_close},
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
        assert_eq!(sent.header("accept-encoding"), Some("identity"));
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
    let gateway = Gateway::start("  default: { provider: none }\n");
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

#[test]
fn a_body_that_comes_behind_its_head_is_not_taken_for_a_client_that_leaves() {
    // A name, not an address: its look-up is what the body arrives during.
    let upstream = Upstream::answering(json(200, "{}"));
    let (_, port) = upstream.address.split_once(':').unwrap();
    let lines = format!(
        "  providers: {{ app: {{ base_url: \"http://localhost:{port}\", auth: none }} }}\n  default: {{ upstream: app }}\n"
    );
    for _ in 0..5 {
        let gateway = Gateway::start(&lines);
        let mut client = Client::connect(&gateway.address);
        client.send("POST /v1/x HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n");
        client.send("hello");
        assert_eq!(client.read().status, 200);
        assert_eq!(upstream.seen().pop().unwrap().text(), "hello");
    }
}

#[test]
fn an_http_1_0_client_gets_no_chunks() {
    let upstream = Upstream::answering([STREAM, &chunk("data: 1\n\n"), LAST_CHUNK].concat());
    let gateway = Gateway::before(&upstream.address);
    let mut client = Client::connect(&gateway.address);
    client.send("GET /v1/models HTTP/1.0\r\n\r\n");
    let answer = client.read();
    assert_eq!(answer.header("transfer-encoding"), None);
    assert_eq!(answer.text(), "data: 1\n\n");
}

#[test]
fn what_the_conf_sends_never_goes_to_a_host_of_the_client() {
    let (ours, theirs) = (
        Upstream::answering(json(200, "{}")),
        Upstream::answering(json(200, "{}")),
    );
    let gateway = Gateway::start(&format!(
        "  providers: {{ openai: {{ base_url: \"http://{}/v1\", api_key: sk-conf, headers: {{ x-secret: conf }} }} }}\n  allowed_hosts: [ \"{}\" ]\n",
        ours.address, theirs.address
    ));
    let custom = format!("http://{}/v1", theirs.address);
    let mut client = Client::connect(&gateway.address);
    client.send(request("GET", "/v1/models", &[], ""));
    client.read();
    client.send(request(
        "GET",
        "/v1/models",
        &[("x-portkey-custom-host", &custom)],
        "",
    ));
    client.read();
    ask(
        &gateway.address,
        &[("x-portkey-custom-host", &custom)],
        crate::support::client::PLAIN,
    );
    assert_eq!(ours.sole().header("x-secret"), Some("conf"));
    assert_eq!(theirs.seen().len(), 2);
    for request in theirs.seen() {
        assert_eq!(request.header("x-secret"), None);
        assert_eq!(request.header("authorization"), None);
    }
}

#[test]
fn a_connection_field_cannot_take_what_a_request_needs() {
    let upstream = Upstream::answering(json(200, "{}"));
    let gateway = Gateway::before(&upstream.address);
    for named in [
        "close, host",
        "Host,  X-Forwarded-For",
        "authorization, host, x-own",
    ] {
        let mut client = Client::connect(&gateway.address);
        let headers = [
            ("connection", named),
            ("authorization", "Bearer sk-1"),
            ("x-own", "1"),
        ];
        client.send(request("GET", "/v1/models", &headers, ""));
        assert_eq!(client.read().status, 200, "{named}");
        let sent = upstream.seen().pop().unwrap();
        assert_eq!(sent.header("host"), Some(upstream.address.as_str()));
        assert_eq!(sent.header("authorization"), Some("Bearer sk-1"));
        assert_eq!(sent.header("x-own").is_some(), !named.contains("x-own"));
        assert_eq!(sent.header("connection"), None);
    }
}

#[test]
fn what_is_malformed_is_a_400() {
    let upstream = Upstream::answering(json(200, "{}"));
    let gateway = Gateway::before(&upstream.address);
    for path in ["/v1/completions", "/v1/embeddings"] {
        for body in ["zz\r\n", "5\r\nhelloX", "fffffffffffffffff\r\n"] {
            let mut client = Client::connect(&gateway.address);
            client.send(format!(
                "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n{body}"
            ));
            let answer = client.read();
            assert_eq!(answer.status, 400, "{path} {body}");
            assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
            assert_eq!(answer.header("connection"), Some("close"));
            assert!(client.is_closed());
        }
    }
    let mut client = Client::connect(&gateway.address);
    client.send(request("GET", "/v1/models", &[("connection", "\"x\"")], ""));
    assert_eq!(client.read().status, 400);
    assert!(!gateway.logged().contains("client_gone"));
}

#[test]
fn a_target_in_absolute_form_is_the_path_in_it() {
    let upstream = Upstream::answering(json(200, "{}"));
    let gateway = Gateway::before(&upstream.address);
    let mut client = Client::connect(&gateway.address);
    client.send(request("GET", "http://gateway/v1/models?limit=2", &[], ""));
    assert_eq!(client.read().status, 200);
    assert_eq!(upstream.sole().path, "/v1/models?limit=2");
    assert_eq!(
        upstream.sole().header("host"),
        Some(upstream.address.as_str())
    );
}

#[test]
fn an_http_1_0_client_that_asks_to_stay_is_told_where_it_cannot() {
    let upstream = Upstream::start(|request, stream| {
        let answer = match request.text().contains("stream") || request.path.contains("stream") {
            true => [STREAM, &chunk(events()), LAST_CHUNK].concat(),
            false => json(200, TEXT),
        };
        stream.write_all(&answer).unwrap();
        After::Keep
    });
    let gateway = Gateway::before(&upstream.address);
    let completions = [PLAIN, STREAMED].map(|body| ROADS.map(|road| post(road, body)));
    let passed = ["/v1/stream", "/v1/models"].map(|path| request("GET", path, &[], ""));
    for post in completions.into_iter().flatten().chain(passed) {
        let mut client = Client::connect(&gateway.address);
        let stay = "HTTP/1.0\r\nconnection: keep-alive\r\n";
        client.send(post.replace("HTTP/1.1\r\n", stay));
        let answer = client.read();
        let stays = answer.header("content-length").is_some();
        let told = if stays { "keep-alive" } else { "close" };
        assert_eq!(
            (answer.status, answer.header("connection")),
            (200, Some(told)),
            "{post}"
        );
        assert_eq!(answer.header("transfer-encoding"), None);
        if !stays {
            assert!(answer.text() == events() && client.is_closed());
        }
    }
}
