//! Clients that speak HTTP/2 without TLS.

use std::future::poll_fn;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use tokio::net::TcpStream;

use crate::support::{
    Gateway, PATIENCE,
    client::{CONDUCTED, PLAIN, STREAMED},
    upstream::{CHAT, LAST_CHUNK, STREAM, TEXT, Upstream, chunk, events, json, wait_for_close},
};

pub async fn connect(gateway: &Gateway) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(&gateway.address).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Sends `body` in DATA frames, without `content-length`.
pub async fn ask(
    sender: &SendRequest<Bytes>,
    headers: &[(&str, &str)],
    body: String,
) -> (u16, http::HeaderMap, String) {
    let mut request = Request::post("http://gateway/v1/completions");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut sender = sender.clone().ready().await.unwrap();
    let (answer, mut stream) = sender
        .send_request(request.body(()).unwrap(), false)
        .unwrap();
    let sending = async {
        let mut left = Bytes::from(body);
        while !left.is_empty() {
            stream.reserve_capacity(left.len());
            let room = poll_fn(|context| stream.poll_capacity(context)).await;
            let room = room.unwrap().unwrap().min(left.len());
            stream
                .send_data(left.split_to(room), left.is_empty())
                .unwrap();
        }
    };
    let (answer, ()) = tokio::join!(answer, sending);
    let (head, mut body) = answer.unwrap().into_parts();
    let mut text = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        text.extend(piece);
    }
    (
        head.status.as_u16(),
        head.headers,
        String::from_utf8(text).unwrap(),
    )
}

pub fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.unwrap() });
}

#[test]
fn an_http2_client_without_content_length_is_served_on_both_roads() {
    let upstream = Upstream::answering(json(200, TEXT));
    let gateway = Gateway::before(&upstream.address);
    run(async {
        let sender = connect(&gateway).await;
        let large = format!(r#"{{"model":"m","prompt":"{}"}}"#, "x".repeat(5_000_000));
        for body in [PLAIN, &large] {
            for headers in [&[][..], &[CONDUCTED]] {
                let (status, head, text) = ask(&sender, headers, body.to_owned()).await;
                assert_eq!((status, text.as_str()), (200, TEXT));
                assert!(!head.contains_key("transfer-encoding"));
            }
        }
    });
}

#[test]
fn an_http2_client_gets_streams_and_errors() {
    let upstream = Upstream::answering([STREAM, &chunk(events()), LAST_CHUNK].concat());
    let gateway = Gateway::before(&upstream.address);
    run(async {
        let sender = connect(&gateway).await;
        for headers in [&[][..], &[CONDUCTED]] {
            let (status, head, text) = ask(&sender, headers, STREAMED.to_owned()).await;
            assert_eq!((status, text), (200, events()));
            assert_eq!(head["content-type"], "text/event-stream");
        }
        let (status, _, text) = ask(&sender, &[], "nonsense".to_owned()).await;
        assert!(status == 400 && text.contains("\"error\""));
    });
}

#[test]
fn an_http2_client_gets_translated_answers() {
    let upstream = Upstream::answering(json(200, CHAT));
    let gateway = Gateway::before(&upstream.address);
    run(async {
        let sender = connect(&gateway).await;
        let groq = [("x-portkey-provider", "groq")];
        let (status, _, text) = ask(&sender, &groq, PLAIN.to_owned()).await;
        assert!(status == 200 && text.contains(r#""text":" hello""#));
    });
}

#[test]
fn an_http2_client_that_resets_its_stream_stops_the_upstream() {
    let (closed, closing) = std::sync::mpsc::channel();
    let closed = std::sync::Mutex::new(closed);
    let upstream = Upstream::start(move |_, stream| {
        wait_for_close(stream).unwrap();
        closed.lock().unwrap().send(()).unwrap();
        crate::support::upstream::After::Close
    });
    let gateway = Gateway::before(&upstream.address);
    run(async {
        let sender = connect(&gateway).await;
        for (count, headers) in [&[][..], &[CONDUCTED]].iter().enumerate() {
            let mut asking = Box::pin(ask(&sender, headers, PLAIN.to_owned()));
            let reached = async {
                while upstream.seen().len() <= count {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! { _ = &mut asking => panic!("answered"), () = reached => {} }
            drop(asking);
            let waited = async {
                while closing.try_recv().is_err() {
                    tokio::task::yield_now().await;
                }
            };
            waited.await;
        }
    });
}

#[test]
fn an_empty_last_frame_is_one_end_of_the_body_upstream() {
    let upstream = Upstream::answering(json(200, "{}"));
    let gateway = Gateway::before(&upstream.address);
    run(async {
        let sender = connect(&gateway).await;
        for _ in 0..3 {
            let request = Request::post("http://gateway/v1/files").body(()).unwrap();
            let mut sender = sender.clone().ready().await.unwrap();
            let (answer, mut stream) = sender.send_request(request, false).unwrap();
            stream
                .send_data(Bytes::from_static(b"hello"), false)
                .unwrap();
            stream.send_data(Bytes::new(), true).unwrap();
            assert_eq!(answer.await.unwrap().status(), 200);
        }
    });
    // A second end would be read as the start of the pooled connection's next request.
    for request in upstream.seen() {
        assert_eq!((request.method.as_str(), request.text()), ("POST", "hello"));
    }
}

/// What a head of HTTP/2 is answered with, and with how many bytes.
async fn told(sender: &SendRequest<Bytes>, request: Request<()>) -> Result<u16, h2::Error> {
    let mut sender = sender.clone().ready().await?;
    let (answer, _) = sender.send_request(request, true)?;
    Ok(answer.await?.status().as_u16())
}

/// P4, P6 and L4 as far as HTTP/2 has them; L6: what is missing.
#[test]
fn heads_of_http2_are_held_to_the_same_rules() {
    let upstream = Upstream::answering(json(200, "{}"));
    let gateway = Gateway::before(&upstream.address);
    run(async {
        let plain = || Request::get("http://gateway/v1/models");
        let many = (0..101).fold(plain(), |request, _| request.header("x-own", "1"));
        for (name, request, status) in [
            ("plain", plain(), 200),
            (
                "cookies",
                plain().header("cookie", "a").header("cookie", "b"),
                200,
            ),
            ("underscore", plain().header("x_own", "a"), 200),
            ("101 fields", many, 431),
            (
                "two keys",
                plain()
                    .header("authorization", "a")
                    .header("authorization", "a"),
                400,
            ),
            (
                "two providers",
                plain()
                    .header("x-portkey-provider", "a")
                    .header("x-portkey-provider", "b"),
                400,
            ),
            ("disguised", plain().header("content_length", "5"), 400),
            (
                "obs-text",
                plain().header("authorization", &b"\xe9"[..]),
                400,
            ),
            ("a host beside", plain().header("host", "other"), 400),
            (
                "a list of lengths",
                plain().header("content-length", "0, 0"),
                400,
            ),
            ("an expectation", plain().header("expect", "a-miracle"), 417),
            ("TRACE", plain().method("TRACE"), 405),
            ("lower case", plain().method("get"), 400),
            (
                "an encoded line end",
                plain().uri("http://gateway/v1/a%0d%0a"),
                400,
            ),
        ] {
            let sender = connect(&gateway).await;
            let before = upstream.seen().len();
            let got = told(&sender, request.body(()).unwrap()).await;
            // What the framework refuses by itself, it may refuse by a reset.
            let refused = got.as_ref().map_or(400, |status| *status);
            assert_eq!(refused, status, "{name}: {got:?}");
            assert_eq!(
                upstream.seen().len() - before,
                usize::from(status == 200),
                "{name}"
            );
        }
    });
    assert!(!gateway.logged().contains("panicked"));
}

/// P7: an entry of the compressor's table is named by one byte of a head, and costs a hundred to hold.
#[test]
fn heads_that_grow_when_they_are_read_cost_no_memory() {
    let upstream = Upstream::answering(json(200, "{}"));
    let gateway = Gateway::before(&upstream.address);
    let before = gateway.resident();
    let mut held = Vec::new();
    for fields in [90, 1_900, 16_000] {
        let mut stream = std::net::TcpStream::connect(&gateway.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut wire = PREFACE.to_vec();
        for stream in 0..100_u32 {
            // A POST whose body never comes, so that it stays.
            let mut block = b"\x83\x86\x04\x0f/v1/completions\x01\x07gateway".to_vec();
            block.extend(b"\x40\x01x\x01y");
            block.extend(vec![0xbe; fields]);
            wire.extend(frame(HEADERS, 0x04, stream * 2 + 1, &block));
        }
        wire.extend(frame(PING, 0, 0, &[0; 8]));
        // A client that goes too far may be shut out before it has said all.
        let _ = std::io::Write::write_all(&mut stream, &wire);
        while ![PING, GOAWAY].contains(&next_frame(&mut stream).0) {}
        held.push(stream);
    }
    run(async {
        let asked = Request::get("http://gateway/v1/models").body(()).unwrap();
        let fresh = connect(&gateway).await;
        assert_eq!(told(&fresh, asked).await.unwrap(), 200);
    });
    let grown = gateway.resident().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes");
}

/// P7 and P12: the frames of a head have the time of one head together.
#[test]
fn a_head_of_http2_that_trickles_is_given_up() {
    let gateway = Gateway::start("  limits: { header_seconds: 1 }\n");
    let mut stream = std::net::TcpStream::connect(&gateway.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut trickling = stream.try_clone().unwrap();
    let started = std::time::Instant::now();
    let sending = std::thread::spawn(move || {
        let value = [
            &b"\x82\x86\x04\x01/\x01\x07gateway\x00\x01a\x7f\xe9\x06"[..],
            &[b'x'; 1_000],
        ];
        let head = frame(HEADERS, 0x05, 1, &value.concat());
        let mut sent = std::io::Write::write_all(&mut trickling, PREFACE);
        for byte in head {
            if sent.is_err() {
                break;
            }
            sent = std::io::Write::write_all(&mut trickling, &[byte]);
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    });
    while next_frame(&mut stream).0 != GOAWAY {}
    let given_up = started.elapsed().as_millis();
    assert!((900..10_000).contains(&given_up), "{given_up} ms");
    drop(stream);
    sending.join().unwrap();
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    frame.extend(payload);
    frame
}

/// The next frame's type and what it holds; the connection's end is one too.
pub fn next_frame(stream: &mut std::net::TcpStream) -> (u8, Vec<u8>) {
    let mut head = [0; 9];
    if std::io::Read::read_exact(stream, &mut head).is_err() {
        return (GOAWAY, Vec::new());
    }
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    std::io::Read::read_exact(stream, &mut payload).unwrap();
    (head[3], payload)
}

/// What a client begins with: RFC 9113, section 3.4, and settings that say nothing.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;

/// L6: each part of a head that there has to be, left out or twice. RFC 7541, appendix A, numbers the fields.
#[test]
fn a_head_of_http2_that_lacks_a_part_is_refused() {
    let upstream = Upstream::answering(json(200, "{}"));
    let gateway = Gateway::before(&upstream.address);
    let (get, scheme) = (&[0x82][..], &[0x86][..]);
    let (path, host) = (&b"\x04\x05/v1/x"[..], &b"\x01\x07gateway"[..]);
    let connect = &b"\x02\x07CONNECT"[..];
    for (name, parts, is_taken) in [
        ("all", &[get, scheme, path, host][..], true),
        ("no method", &[scheme, path, host], false),
        ("no scheme", &[get, path, host], false),
        ("no path", &[get, scheme, host], false),
        ("no authority", &[get, scheme, path], false),
        ("nothing", &[], false),
        ("two methods", &[get, get, scheme, path, host], false),
        ("two paths", &[get, scheme, path, path, host], false),
        ("two authorities", &[get, scheme, path, host, host], false),
        ("an empty path", &[get, scheme, b"\x04\x00", host], false),
        (
            "a path that is none",
            &[get, scheme, b"\x04\x01x", host],
            false,
        ),
        (
            "a URL as the path",
            &[get, scheme, b"\x04\x0ahttp://b/v1", host],
            false,
        ),
        (
            "a space in the path",
            &[get, scheme, b"\x04\x04/a b", host],
            false,
        ),
        ("a status", &[get, scheme, path, host, &[0x88]], false),
        ("CONNECT", &[connect, host], false),
        ("CONNECT without an authority", &[connect], false),
        (
            "a part behind a field",
            &[get, scheme, b"\x00\x01x\x01y", path, host],
            false,
        ),
        (
            "a name in capitals",
            &[get, scheme, path, host, b"\x00\x01X\x01y"],
            false,
        ),
        (
            "connection",
            &[get, scheme, path, host, b"\x00\x0aconnection\x05close"],
            false,
        ),
        (
            "chunks",
            &[
                get,
                scheme,
                path,
                host,
                b"\x00\x11transfer-encoding\x07chunked",
            ],
            false,
        ),
        (
            "an upgrade",
            &[get, scheme, path, host, b"\x00\x07upgrade\x09websocket"],
            false,
        ),
    ] {
        let before = upstream.seen().len();
        let mut stream = std::net::TcpStream::connect(&gateway.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = frame(HEADERS, 0x05, 1, &parts.concat());
        std::io::Write::write_all(&mut stream, &[PREFACE, &head].concat()).unwrap();
        let (kind, block) = loop {
            let (kind, payload) = next_frame(&mut stream);
            if [HEADERS, RST_STREAM, GOAWAY].contains(&kind) {
                break (kind, payload);
            }
        };
        // A status of 200 is one byte.
        let taken = kind == HEADERS && block.first() == Some(&0x88);
        assert_eq!(taken, is_taken, "{name}: {kind} {block:?}");
        assert_eq!(
            upstream.seen().len() - before,
            usize::from(is_taken),
            "{name}"
        );
    }
    assert!(!gateway.logged().contains("panicked"));
}
