//! Transparent mode: an app behind the gateway is what it is without it, but for completions.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener},
    time::{Duration, Instant},
};

use crate::support::{
    Gateway, PATIENCE, app,
    client::{Answer, Client, PLAIN, ask, request},
    free_address,
    upstream::{After, TEXT, Upstream, json, wait_for_close},
    wait_for,
};

fn before(app: &Upstream) -> Gateway {
    Gateway::start(&format!(
        "  upstreams: {{ app: {{ url: \"http://{}\" }} }}\n",
        app.address
    ))
}

/// What of an answer is the app's, not its connection's.
fn own(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let of_connection = ["connection", "date", "transfer-encoding", "keep-alive"];
    let mut headers = answer.headers.clone();
    headers.retain(|(name, _)| !of_connection.contains(&name.as_str()));
    (
        answer.status,
        headers,
        String::from_utf8_lossy(&answer.body).into_owned(),
    )
}

#[test]
fn an_app_answers_through_us_as_it_does_alone() {
    let app = app::start();
    let gateway = before(&app);
    let cookies = [("cookie", "a=1; b=2"), ("authorization", "Basic dTpw")];
    let keys = [
        ("x-portkey-provider", "groq"),
        ("x-api-key", "k"),
        ("x-portkey-config", "pc-own"),
    ];
    let odd = [
        ("x-odd", "caf\u{e9}"),
        ("accept-encoding", "gzip, br"),
        ("x-twice", "1"),
        ("x-twice", "2"),
    ];
    for (method, path, headers, body) in [
        ("GET", "/echo?a=b&c=%20d", &cookies[..], ""),
        ("PATCH", "/echo", &keys[..], r#"{"odd":  "spacing"}"#),
        ("GET", "/echo?", &[], ""),
        ("PUT", "/echo?q=|^{}'%zz%%&&==", &odd[..], "some text"),
        ("POST", "/upload", &[], "text"),
        ("GET", "/login", &[], ""),
        ("GET", "/file", &[], ""),
        ("GET", "/file", &[("range", "bytes=2-4")], ""),
        ("GET", "/gzip", &odd[..], ""),
        ("GET", "/stream", &[], ""),
        ("GET", "/error", &[], ""),
        ("OPTIONS", "/v1/completions", &[("origin", "http://a")], ""),
        ("GET", "/v1/completions", &[], ""),
        ("GET", "/health", &[], ""),
        ("GET", "/", &[], ""),
        (
            "POST",
            "/v1/chat/completions",
            &keys[..],
            r#"{"stream":true}"#,
        ),
        ("GET", "/socket", &[], ""),
        ("GET", "/until-close", &[], ""),
    ] {
        let [alone, through] = [&app.address, &gateway.address].map(|address| {
            let mut client = Client::connect(address);
            client.send(request(method, path, headers, body));
            client.read()
        });
        assert!(alone.complete && through.complete, "{method} {path}");
        let (mut alone, mut through) = (own(&alone), own(&through));
        if path.starts_with("/echo") {
            let sent = [
                "x-forwarded-for: 127.0.0.1\n",
                "x-forwarded-proto: http\n",
                "x-forwarded-host: gateway\n",
            ];
            for line in sent {
                assert!(through.2.contains(line), "{}", through.2);
                through.2 = through.2.replace(line, "");
            }
            through.1.retain(|(name, _)| name != "content-length");
            alone.1.retain(|(name, _)| name != "content-length");
        }
        assert_eq!(alone, through, "{method} {path}");
    }
}

#[test]
fn answers_without_a_body_leave_the_connection_as_it_was() {
    let app = app::start();
    let gateway = before(&app);
    let mut client = Client::connect(&gateway.address);
    for (method, path, header, status) in [
        ("HEAD", "/file", ("x-a", "b"), 200),
        ("HEAD", "/stream", ("x-a", "b"), 200),
        ("DELETE", "/file", ("x-a", "b"), 204),
        ("GET", "/file", ("if-none-match", "\"1\""), 304),
    ] {
        client.send(request(method, path, &[header], ""));
        let answer = client.read_head();
        assert_eq!(answer.status, status, "{method} {path}");
        let length = answer.header("content-length");
        assert_eq!(
            length,
            (path == "/file" && method == "HEAD").then_some("12345")
        );
        client.send(request("GET", "/file", &[], ""));
        assert_eq!(client.read().text(), "0123456789", "behind {method} {path}");
    }
    client.send(request("GET", "/hints", &[], ""));
    let hints = client.read_head();
    assert_eq!(
        (hints.status, hints.header("link")),
        (103, Some("</a.css>; rel=preload"))
    );
    assert_eq!(client.read().text(), "hinted");
}

#[test]
fn completions_alone_are_ours() {
    let (app, provider) = (app::start(), Upstream::answering(json(200, TEXT)));
    let gateway = Gateway::start(&format!(
        "  providers: {{ openai: {{ base_url: \"http://{}/v1\" }} }}\n  upstreams: {{ app: {{ url: \"http://{}\" }} }}\n",
        provider.address, app.address
    ));
    assert_eq!(ask(&gateway.address, &[], PLAIN).text(), TEXT);
    assert_eq!(provider.sole().path, "/v1/completions");
    assert!(app.seen().is_empty());
}

#[test]
fn which_app_is_asked_is_told_by_path_host_and_port() {
    let upstream = app::start();
    let other = free_address();
    let lines = format!(
        concat!(
            "  upstreams:\n    all: {{ url: \"http://{0}\" }}\n",
            "    path: {{ url: \"http://{0}/echo\", path: /in, strip_prefix: true, headers: {{ x-app: path }} }}\n",
            "    host: {{ url: \"http://{0}\", host: \"*.b.test\", headers: {{ x-app: host }}, host_header: upstream, forwarded: \"off\" }}\n",
            "    port: {{ url: \"http://{0}\", port: {1}, headers: {{ x-app: port }}, host_header: named.test, forwarded: append }}\n",
        ),
        upstream.address,
        other.rsplit_once(':').unwrap().1,
    );
    let gateway = Gateway::start_on(&[&other], &lines);
    let seen = |address: &str, path: &str, host: &str| {
        let mut client = Client::connect(address);
        let spoofed =
            "x-forwarded-for: 1.1.1.1\r\nx-forwarded-proto: https\r\nforwarded: for=1.1.1.1\r\n";
        client.send(format!(
            "GET {path} HTTP/1.1\r\nhost: {host}\r\n{spoofed}\r\n"
        ));
        assert_eq!(client.read().status, 200);
        let sent = upstream.seen().pop().unwrap();
        let field = |name| sent.header(name).unwrap_or("-").to_owned();
        [
            sent.path.clone(),
            field("x-app"),
            field("host"),
            field("x-forwarded-for"),
            field("x-forwarded-proto"),
            field("forwarded"),
        ]
    };
    let main = &gateway.address;
    let told = |fields: [&str; 6]| fields.map(str::to_owned);
    assert_eq!(
        seen(main, "/echo?x", "a.test:1"),
        told(["/echo?x", "-", "a.test:1", "127.0.0.1", "http", "-"])
    );
    assert_eq!(
        seen(main, "/in?x=/in", "a.test"),
        told(["/echo?x=/in", "path", "a.test", "127.0.0.1", "http", "-"])
    );
    let own = upstream.address.as_str();
    assert_eq!(
        seen(main, "/echo", "A.b.test"),
        told(["/echo", "host", own, "1.1.1.1", "https", "for=1.1.1.1"])
    );
    assert_eq!(
        seen(&other, "/echo", "a.b.test"),
        told([
            "/echo",
            "port",
            "named.test",
            "1.1.1.1, 127.0.0.1",
            "https",
            "for=1.1.1.1"
        ])
    );
    let mut client = Client::connect(main);
    client.send(request("GET", "/in/%2e%2E/echo", &[], ""));
    assert_eq!(client.read().status, 400);
}

#[test]
fn an_upload_streams_and_is_not_held() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (arrived, arriving) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut line, mut chunked) = (String::new(), false);
            while line != "\r\n" {
                line.clear();
                reader.read_line(&mut line).unwrap();
                chunked |= line
                    .to_ascii_lowercase()
                    .starts_with("transfer-encoding: chunked");
            }
            let mut count = 0;
            let mut piece = vec![0; 1 << 16];
            let target = if chunked { usize::MAX } else { UPLOAD };
            let mut tail = Vec::new();
            while count < target && !tail.ends_with(b"0\r\n\r\n") {
                let read = reader.read(&mut piece).unwrap();
                if count == 0 {
                    arrived.send(()).unwrap();
                }
                count += read;
                if chunked {
                    tail = piece[read.saturating_sub(5)..read].to_vec();
                }
            }
            let body = count.to_string();
            let head = format!(
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all((head + &body).as_bytes()).unwrap();
        }
    });
    let gateway = Gateway::start(&format!(
        "  upstreams: {{ app: {{ url: \"http://{address}\" }} }}\n"
    ));
    let before = gateway.reading().peak;
    for head in [
        format!("content-length: {UPLOAD}"),
        "transfer-encoding: chunked".to_owned(),
    ] {
        let chunked = head.starts_with("transfer");
        let mut client = Client::connect(&gateway.address);
        client.send(format!("POST /files HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n"));
        let block = vec![b'z'; 1 << 20];
        let framed = [format!("{:x}\r\n", block.len()).as_bytes(), &block, b"\r\n"].concat();
        for turn in 0..UPLOAD >> 20 {
            client.send(if chunked { &framed } else { &block });
            if turn == 0 {
                // The app has the first bytes while the last are not sent yet.
                arriving.recv_timeout(PATIENCE).unwrap();
            }
        }
        if chunked {
            client.send("0\r\n\r\n");
        }
        let answer = client.read();
        let count: usize = answer.text().parse().unwrap();
        assert!(answer.status == 200 && count >= UPLOAD, "{count}");
    }
    let grown = gateway.reading().peak - before;
    assert!(grown < 32 << 20, "{grown} bytes");
}

const UPLOAD: usize = 100 << 20;

#[test]
fn an_upload_waits_for_the_apps_go_ahead() {
    // The scripted upstream reads bodies unasked, so that this one is a listener of its own.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let (mut line, mut expects) = (String::new(), false);
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line).unwrap();
            expects |= line
                .to_ascii_lowercase()
                .starts_with("expect: 100-continue");
        }
        assert!(expects);
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        let mut body = [0; 5];
        reader.read_exact(&mut body).unwrap();
        stream
            .write_all(&json(200, std::str::from_utf8(&body).unwrap()))
            .unwrap();
        wait_for_close(&mut stream);
    });
    let gateway = Gateway::start(&format!(
        "  upstreams: {{ app: {{ url: \"http://{address}\" }} }}\n"
    ));
    let mut client = Client::connect(&gateway.address);
    client.send("POST /x HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n");
    assert_eq!(client.read_head().status, 100);
    client.send("hello");
    assert_eq!(client.read().text(), "hello");
}

const UPGRADE: [(&str, &str); 4] = [
    ("connection", "keep-alive, Upgrade"),
    ("upgrade", "WebSocket"),
    ("sec-websocket-key", "x"),
    ("sec-websocket-protocol", "chat"),
];

#[test]
fn a_websocket_passes_both_ways_until_one_side_closes() {
    let app = app::start();
    let gateway = before(&app);
    let mut client = Client::connect(&gateway.address);
    client.send(request("GET", "/socket?room=1", &UPGRADE, ""));
    let head = client.read_head();
    assert_eq!(
        (head.status, head.header("upgrade")),
        (101, Some("websocket"))
    );
    assert_eq!(head.header("sec-websocket-accept"), Some("x"));
    let sent = app.sole();
    assert_eq!(sent.header("sec-websocket-protocol"), Some("chat"));
    for size in [1, 100, 70_000, 3] {
        let frame = vec![b'f'; size];
        client.send(&frame);
        assert!(client.read_exact(size) == frame);
    }
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert!(client.is_closed());
    let line = gateway.wait_for_log("status=101");
    assert!(line.contains("provider=app"), "{line}");

    let mut client = Client::connect(&gateway.address);
    client.send(request("GET", "/bye", &UPGRADE, ""));
    assert_eq!(client.read_head().status, 101);
    assert_eq!(client.read_exact(3), b"bye");
    assert!(client.is_closed());
}

#[test]
fn what_an_app_says_at_once_is_not_lost() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let app = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // Before the request: as early as an app can.
            stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n").unwrap();
            let mut head = BufReader::new(&stream);
            let mut line = String::new();
            while head.read_line(&mut line).unwrap() > 2 {
                line.clear();
            }
            stream.write_all(b"bye").unwrap();
        }
    });
    let gateway = Gateway::start(&format!(
        "  upstreams: {{ app: {{ url: \"http://{app}\" }} }}\n"
    ));
    for _ in 0..20 {
        let mut client = Client::connect(&gateway.address);
        client.send(request("GET", "/socket", &UPGRADE, ""));
        assert_eq!(client.read_head().status, 101);
        assert_eq!(client.read_exact(3), b"bye");
        assert!(client.is_closed());
    }
}

#[test]
fn an_app_may_decline_a_websocket() {
    for (answer, text) in [
        (&b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 5\r\nwww-authenticate: Basic\r\n\r\nlogin"[..], "login"),
        (&b"HTTP/1.1 401 Unauthorized\r\ntransfer-encoding: chunked\r\nwww-authenticate: Basic\r\n\r\n5\r\nchunk\r\n0\r\n\r\n"[..], "chunk"),
        (&b"HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Basic\r\n\r\nto its end"[..], "to its end"),
    ] {
        let app = Upstream::start(move |_, stream| {
            stream.write_all(answer).unwrap();
            After::Close
        });
        let gateway = before(&app);
        let mut client = Client::connect(&gateway.address);
        client.send(request("GET", "/socket", &UPGRADE, ""));
        let told = client.read();
        assert_eq!((told.status, told.text()), (401, text));
        assert!(told.complete);
        assert_eq!(told.header("www-authenticate"), Some("Basic"));
        assert!(client.is_closed());
        assert_eq!(app.sole().header("connection"), Some("Upgrade"));
    }
    let app = Upstream::start(|_, stream| {
        stream
            .write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 50\r\n\r\nhalf")
            .unwrap();
        After::Close
    });
    let gateway = before(&app);
    let mut client = Client::connect(&gateway.address);
    client.send(request("GET", "/socket", &UPGRADE, ""));
    assert!(!client.read().complete);
}

#[test]
fn a_websocket_has_an_idle_time_of_its_own_and_counts_as_in_flight() {
    let app = app::start();
    let gateway = Gateway::start(&format!(
        "  timeouts: {{ read: 200ms }}\n  upstreams:\n    app: {{ url: \"http://{0}\", websocket_idle: 1500ms }}\n    shut: {{ url: \"http://{0}\", host: shut.test, websocket: false }}\n",
        app.address
    ));
    let mut client = Client::connect(&gateway.address);
    client.send(request("GET", "/socket", &UPGRADE, ""));
    assert_eq!(client.read_head().status, 101);
    let opened = Instant::now();
    let metrics = || {
        let mut admin = Client::connect(&gateway.admin);
        admin.send(request("GET", "/metrics", &[], ""));
        admin.read().text().to_owned()
    };
    assert!(
        metrics().contains("completions_in_flight 1"),
        "{}",
        metrics()
    );
    while opened.elapsed() < Duration::from_millis(700) {
        std::thread::sleep(Duration::from_millis(350));
        client.send("still here");
        assert_eq!(client.read_exact(10), b"still here");
    }
    let quiet = Instant::now();
    assert!(client.is_closed());
    assert!(
        quiet.elapsed() > Duration::from_millis(1000),
        "{:?}",
        quiet.elapsed()
    );
    assert!(wait_for(|| metrics().contains("completions_in_flight 0").then_some(())).is_some());

    // Where they are not allowed, nobody hears of it.
    let mut client = Client::connect(&gateway.address);
    client
        .send(request("GET", "/socket", &UPGRADE, "").replace("host: gateway", "host: shut.test"));
    assert_eq!(client.read().status, 400);
    let hosts = app.seen();
    assert!(
        hosts
            .iter()
            .all(|seen| seen.header("host") != Some("shut.test"))
    );
}

#[test]
fn a_websocket_that_ends_for_silence_gets_no_answer_of_http() {
    let upstream = Upstream::start(|_, stream| {
        stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n")
            .unwrap();
        while matches!(stream.read(&mut [0; 64]), Ok(1..)) {}
        After::Close
    });
    let gateway = Gateway::start(&format!(
        "  upstreams: {{ app: {{ url: \"http://{}\", websocket_idle: 500ms }} }}\n",
        upstream.address
    ));
    let mut client = Client::connect(&gateway.address);
    client.send(request("GET", "/", &UPGRADE, ""));
    assert_eq!(client.read_head().status, 101);
    // One side alone keeps it open.
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(100));
        client.send("x");
    }
    let mut said = Vec::new();
    let _ = client.stream.read_to_end(&mut said);
    assert_eq!(said, b"");
    gateway.wait_for_log("status=101");
}

#[test]
fn nobody_is_upgraded_who_did_not_ask_or_asked_for_another_protocol() {
    let upstream = Upstream::start(|request, stream| {
        let other = request.header("upgrade").is_some();
        assert!(!other, "{request:?}");
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\nhello").unwrap();
        After::Close
    });
    let gateway = before(&upstream);
    for headers in [&[][..], &[("connection", "Upgrade"), ("upgrade", "h2c")]] {
        let mut client = Client::connect(&gateway.address);
        client.send(request("GET", "/x", headers, ""));
        let answer = client.read();
        assert_eq!(answer.status, 502);
        assert!(!answer.text().contains("hello"));
    }
    // Nor by a provider.
    let gateway = Gateway::before(&upstream.address);
    let mut client = Client::connect(&gateway.address);
    client.send(request("GET", "/v1/x", &UPGRADE, ""));
    assert_eq!(client.read().status, 400);
}

#[test]
fn an_app_that_is_down_is_a_502() {
    let gateway = Gateway::start(&format!(
        "  upstreams: {{ app: {{ url: \"http://{}\" }} }}\n",
        free_address()
    ));
    let mut client = Client::connect(&gateway.address);
    client.send(request("GET", "/x", &[], ""));
    let answer = client.read();
    assert_eq!(
        (answer.status, answer.header("x-portkey-provider")),
        (502, Some("app"))
    );
}

#[test]
fn an_app_may_take_its_own_time() {
    let upstream = Upstream::start(|_, stream| {
        std::thread::sleep(Duration::from_millis(400));
        stream.write_all(&json(200, "{}")).unwrap();
        After::Keep
    });
    for (own, status) in [("", 504), (", read_timeout: 5s", 200)] {
        let gateway = Gateway::start(&format!(
            "  timeouts: {{ read: 100ms }}\n  upstreams: {{ app: {{ url: \"http://{}\"{own} }} }}\n",
            upstream.address
        ));
        let mut client = Client::connect(&gateway.address);
        client.send(request("GET", "/x", &[], ""));
        assert_eq!(client.read().status, status);
    }
}

#[test]
fn a_path_may_be_a_providers() {
    let (app, provider) = (app::start(), Upstream::answering(json(200, "{}")));
    let gateway = Gateway::start(&format!(
        "  providers: {{ groq: {{ base_url: \"http://{0}/openai/v1\", api_key: sk-conf }}, openai: {{ base_url: \"http://{0}/v1\" }} }}\n  upstreams:\n    app: {{ url: \"http://{1}\" }}\n    chat: {{ provider: groq, path: /v1/embeddings }}\n",
        provider.address, app.address
    ));
    let mut client = Client::connect(&gateway.address);
    for (headers, path, key) in [
        (&[][..], "/openai/v1/embeddings", Some("Bearer sk-conf")),
        (&[("x-portkey-provider", "openai")], "/v1/embeddings", None),
    ] {
        client.send(request("POST", "/v1/embeddings", headers, "{}"));
        assert_eq!(client.read().text(), "{}");
        let sent = provider.seen().pop().unwrap();
        assert_eq!(
            (sent.path.as_str(), sent.header("authorization")),
            (path, key)
        );
    }
    client.send(request("GET", "/file", &[], ""));
    assert_eq!(client.read().text(), "0123456789");
}

#[test]
fn an_app_may_refuse_an_upload_before_its_end() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut start = [0; 64];
        stream.read_exact(&mut start).unwrap();
        stream
            .write_all(
                b"HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 3\r\n\r\nbig",
            )
            .unwrap();
        wait_for_close(&mut stream);
    });
    let gateway = Gateway::start(&format!(
        "  upstreams: {{ app: {{ url: \"http://{address}\" }} }}\n"
    ));
    let mut client = Client::connect(&gateway.address);
    client.send("POST /files HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\nstart");
    let answer = client.read();
    assert_eq!((answer.status, answer.text()), (413, "big"));
}

#[test]
fn a_process_that_is_told_to_stop_waits_for_its_websockets() {
    let app = app::start();
    let mut gateway = before(&app);
    let mut client = Client::connect(&gateway.address);
    client.send(request("GET", "/socket", &UPGRADE, ""));
    assert_eq!(client.read_head().status, 101);
    gateway.signal("TERM");
    gateway.wait_for_log("draining");
    client.send("still here");
    assert_eq!(client.read_exact(10), b"still here");
    assert!(gateway.child.try_wait().unwrap().is_none());
    drop(client);
    let ended = wait_for(|| gateway.child.try_wait().unwrap());
    assert!(ended.unwrap().success());
}
