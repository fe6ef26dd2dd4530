//! TLS listeners: HTTP/1.1 and HTTP/2 over them, the certificate for each name, new certificates without a restart, and what
//! is no handshake.

use std::{fs, path::PathBuf, sync::Arc, time::Instant};

use h2::client::SendRequest;
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, RootCertStore, crypto::ring},
};

use crate::{
    http2::{self, run},
    support::{
        Gateway, PATIENCE, app,
        client::{CONDUCTED, Client, PLAIN, STREAMED, post, request},
        free_address, providers_at, scratch,
        upstream::{LAST_CHUNK, STREAM, TEXT, Upstream, chunk, events, json},
        wait_for,
    },
};

fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A listener's entry with the certificates of these names.
fn secure(address: &str, names: &[&str]) -> String {
    let pair = |name: &&str| {
        let [cert, key] = ["pem", "key"].map(|kind| fixture(&format!("{name}.{kind}")));
        format!("{{ cert: \"{cert}\", key: \"{key}\" }}")
    };
    let pairs: Vec<_> = names.iter().map(pair).collect();
    format!(
        "{{ address: \"{address}\", tls: [ {} ] }}",
        pairs.join(", ")
    )
}

/// A client of the tests' own authority.
async fn connect(
    address: &str,
    name: &str,
    alpn: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_file(fixture("ca.pem")).unwrap();
    roots.add(root).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

/// The whole answer to a request that closes the connection.
async fn talk(address: &str, name: &str, text: &str) -> String {
    let mut stream = connect(address, name, &["http/1.1"]).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    // It may close without a word of TLS's own.
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

/// Which certificate is shown for `name`; the text is the fixture's name.
async fn shown(address: &str, name: &str) -> Option<String> {
    let stream = connect(address, name, &[]).await.ok()?;
    let (_, session) = stream.get_ref();
    let der = session.peer_certificates().unwrap()[0].clone();
    let known = ["one", "two"].into_iter();
    let mut known = known.filter(|known| {
        CertificateDer::from_pem_file(fixture(&format!("{known}.pem"))).unwrap() == der
    });
    known.next().map(str::to_owned)
}

async fn http2(address: &str) -> SendRequest<bytes::Bytes> {
    let stream = connect(address, "one.test", &["h2", "http/1.1"])
        .await
        .unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

#[test]
fn completions_are_served_over_tls_by_either_protocol() {
    let upstream = Upstream::start(|request, stream| {
        let answer = match request.text().contains("stream") {
            true => [STREAM, &chunk(events()), LAST_CHUNK].concat(),
            false => json(200, TEXT),
        };
        std::io::Write::write_all(stream, &answer).unwrap();
        crate::support::upstream::After::Keep
    });
    let address = free_address();
    let gateway = Gateway::start_on(
        &[&secure(&address, &["one"])],
        &providers_at(&upstream.address),
    );
    run(async {
        let sender = http2(&address).await;
        for headers in [&[][..], &[CONDUCTED]] {
            let (status, _, text) = http2::ask(&sender, headers, PLAIN.to_owned()).await;
            assert_eq!((status, text.as_str()), (200, TEXT));
            let (status, _, text) = http2::ask(&sender, headers, STREAMED.to_owned()).await;
            assert_eq!((status, text), (200, events()));
            let large = format!(r#"{{"model":"m","prompt":"{}"}}"#, "x".repeat(3_000_000));
            let (status, _, text) = http2::ask(&sender, headers, large).await;
            assert_eq!((status, text.as_str()), (200, TEXT));
            let close = [headers, &[("connection", "close")]].concat();
            let answer = talk(&address, "127.0.0.1", &post(&close, PLAIN)).await;
            assert!(
                answer.starts_with("HTTP/1.1 200") && answer.ends_with(TEXT),
                "{answer}"
            );
            let answer = talk(&address, "localhost", &post(&close, STREAMED)).await;
            assert!(answer.contains(&events()), "{answer}");
        }
    });
    // The plain listener beside it is what it was.
    let mut client = Client::connect(&gateway.address);
    client.send(post(&[], PLAIN));
    assert_eq!(client.read().text(), TEXT);
}

#[test]
fn an_app_behind_a_tls_listener_is_told_of_it() {
    let app = app::start();
    let address = free_address();
    let _gateway = Gateway::start_on(
        &[&secure(&address, &["one"])],
        &format!(
            "  upstreams: {{ app: {{ url: \"http://{}\" }} }}\n",
            app.address
        ),
    );
    run(async {
        let close = [("connection", "close")];
        let answer = talk(&address, "one.test", &request("GET", "/echo", &close, "")).await;
        assert!(answer.contains("x-forwarded-proto: https"), "{answer}");
        let sender = http2(&address).await;
        let request = http::Request::get("https://one.test:8443/echo?x=1")
            .body(())
            .unwrap();
        let mut sender = sender.ready().await.unwrap();
        let (answer, _) = sender.send_request(request, true).unwrap();
        let (head, mut body) = answer.await.unwrap().into_parts();
        assert_eq!(head.status, 200);
        let text = body.data().await.unwrap().unwrap();
        let text = std::str::from_utf8(&text).unwrap();
        for line in [
            "GET /echo?x=1\n",
            "host: one.test:8443\n",
            "x-forwarded-host: one.test:8443\n",
            "x-forwarded-proto: https\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    });
    run(async {
        // A websocket over TLS.
        let mut stream = connect(&address, "one.test", &["http/1.1"]).await.unwrap();
        let upgrade = [("connection", "Upgrade"), ("upgrade", "websocket")];
        let text = request("GET", "/socket", &upgrade, "");
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101"));
        stream.write_all(b"hello").await.unwrap();
        let mut said = [0; 5];
        stream.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"hello");
    });
}

// faults.md, P13.
#[test]
fn the_keys_of_connections_are_written_to_no_file() {
    let keys = scratch("keys");
    let (address, file) = (free_address(), keys.to_str().unwrap());
    let entry = secure(&address, &["one"]);
    let _gateway = Gateway::launch(&[&entry], "", &[("SSLKEYLOGFILE", file)]);
    let close = [("connection", "close")];
    let health = request("GET", "/health", &close, "");
    run(async {
        let answer = talk(&address, "one.test", &health).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    });
    assert!(!keys.exists());
}

#[test]
fn each_name_gets_its_certificate() {
    let address = free_address();
    let _gateway = Gateway::start_on(&[&secure(&address, &["one", "two"])], "");
    run(async {
        for (name, certificate) in [
            ("one.test", Some("one")),
            ("two.test", Some("two")),
            ("a.two.test", Some("two")),
            ("127.0.0.1", Some("one")),
            // The first is shown, which is not for this name.
            ("three.test", None),
        ] {
            assert_eq!(
                shown(&address, name).await.as_deref(),
                certificate,
                "{name}"
            );
        }
    });
}

#[test]
fn a_new_certificate_is_used_without_a_restart_and_a_broken_one_is_not() {
    let files: [PathBuf; 2] = [scratch("pem"), scratch("key")];
    let put = |name: &str| {
        for (file, kind) in files.iter().zip(["pem", "key"]) {
            fs::copy(fixture(&format!("{name}.{kind}")), file).unwrap();
        }
    };
    put("one");
    let address = free_address();
    let [cert, key] = files.each_ref().map(|file| file.display());
    let entry =
        format!("{{ address: \"{address}\", tls: {{ cert: \"{cert}\", key: \"{key}\" }} }}");
    let gateway = Gateway::start_on(&[&entry], "");
    let shown = || {
        let mut certificate = None;
        run(async { certificate = shown(&address, "localhost").await });
        certificate
    };
    assert_eq!(shown().as_deref(), Some("one"));
    fs::write(&files[0], "-----BEGIN CERTIFICATE-----\nbroken").unwrap();
    let line = gateway.wait_for_log("is not used");
    assert!(line.contains("is not in PEM"), "{line}");
    assert_eq!(shown().as_deref(), Some("one"));
    put("two");
    assert!(wait_for(|| (shown().as_deref() == Some("two")).then_some(())).is_some());
    gateway.wait_for_log("is in use now");
}

#[test]
fn what_is_no_handshake_ends_with_a_line_at_debug() {
    let address = free_address();
    let debug = [("RUST_LOG", "info,pingora_completions=debug")];
    let entry = secure(&address, &["one"]);
    let gateway = Gateway::launch(&[&entry], "", &debug);
    let silent = std::net::TcpStream::connect(&address).unwrap();
    for bytes in [
        &b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b"\x16\x03\x01\x00\x05hello",
        b"\x16\x03\x01\xff\xff",
        b"SSH-2.0-x\r\n",
    ] {
        let started = Instant::now();
        let mut client = Client::connect(&address);
        client.send(bytes);
        let _ = client.stream.shutdown(std::net::Shutdown::Write);
        let mut rest = Vec::new();
        let _ = std::io::Read::read_to_end(&mut client.stream, &mut rest);
        assert!(!rest.starts_with(b"HTTP"), "{rest:?}");
        assert!(started.elapsed() < PATIENCE / 4);
    }
    // A slow one does not keep others waiting.
    run(async { assert_eq!(shown(&address, "one.test").await.as_deref(), Some("one")) });
    let mut plain = Client::connect(&gateway.address);
    plain.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    assert!(plain.is_closed());
    gateway.wait_for_log("came to a port that does not");
    // Each line is written once its client has seen the end.
    let all = |logged: &String| logged.matches("received corrupt message").count() == 6;
    let logged = wait_for(|| std::fs::read_to_string(&gateway.log).ok().filter(all));
    let logged = logged.expect("not all of them were logged");
    assert!(
        !logged.contains("ERROR") && !logged.contains("panicked"),
        "{logged}"
    );
    drop(silent);
}

#[test]
fn a_handshake_that_never_comes_ends_in_time() {
    let address = free_address();
    let gateway = Gateway::launch(
        &[&secure(&address, &["one"])],
        "",
        &[("RUST_LOG", "info,pingora_completions=debug")],
    );
    let mut silent = Client::connect(&address);
    assert!(silent.is_closed());
    gateway.wait_for_log("it took too long");
}

#[test]
fn a_reload_changes_certificates_of_open_ports_and_never_whether_they_are_tls() {
    let address = free_address();
    let gateway = Gateway::start_on(&[&secure(&address, &["one"])], "");
    let conf = fs::read_to_string(&gateway.conf).unwrap();
    let reload = |conf: &str| {
        fs::write(&gateway.conf, conf).unwrap();
        let mut operator = Client::connect(&gateway.admin);
        operator.send(request("POST", "/reload", &[], ""));
        operator.read().json()
    };
    run(async {
        // Another port, and no TLS at all: both need a restart, and until then the open port is what it was.
        let moved = conf.replace(
            &secure(&address, &["one"]),
            &secure("127.0.0.1:1", &["one"]),
        );
        let plain = conf.replace(&secure(&address, &["one"]), &format!("\"{address}\""));
        for other in [moved, plain] {
            assert_ne!(other, conf);
            let told = reload(&other);
            assert_eq!(told["needs_restart"], serde_json::json!(["gateway.listen"]));
            assert_eq!(shown(&address, "one.test").await.as_deref(), Some("one"));
        }
        let other = conf.replace(&secure(&address, &["one"]), &secure(&address, &["two"]));
        let told = reload(&other);
        assert_eq!(told, serde_json::json!({ "status": "reloaded" }));
        assert_eq!(shown(&address, "two.test").await.as_deref(), Some("two"));
    });
}
