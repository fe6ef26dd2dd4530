//! Streams that have an address of their own, as Replicate's do: the second call, and the cancellation of what nobody reads.

use std::{
    io::Write,
    sync::mpsc,
    time::{Duration, Instant},
};

use crate::support::{
    Gateway, PATIENCE,
    client::{Client, ask, post},
    upstream::{After, LAST_CHUNK, Request, STREAM, Upstream, chunk, json, wait_for_close},
    wait_for,
};

const HEADERS: &[(&str, &str)] = &[
    ("x-portkey-provider", "replicate"),
    ("authorization", "Bearer sk-1"),
];
const BODY: &str = r#"{"model":"meta/llama","prompt":"hi","max_tokens":5,"stream":true}"#;
const TWO: &str = r#"{"model":"meta/llama","prompt":"hi","max_tokens":5,"stream":true,"n":2}"#;
const AT_ONCE: Duration = Duration::from_millis(100);

fn created(request: &Request, stream: &str) -> Vec<u8> {
    let host = request.header("host").unwrap();
    let stream = stream.replace("{host}", host);
    let urls =
        format!(r#"{{"stream":"{stream}","cancel":"http://{host}/v1/predictions/p/cancel"}}"#);
    json(
        201,
        &format!(r#"{{"id":"p","status":"starting","urls":{urls}}}"#),
    )
}

fn output(text: &str) -> String {
    format!("event: output\nid: 1:0\ndata: {text}\n\n")
}

const DONE: &str = "event: done\ndata: {}\n\n";
const OWN: &str = "http://{host}/v1/files/s";

/// One that creates, with `stream` for the stream's address, and plays `script` there.
fn replicate(
    stream: &'static str,
    script: impl Fn(&mut std::net::TcpStream) -> After + Send + Sync + 'static,
) -> Upstream {
    Upstream::start(move |request, socket| {
        let answer = match (request.method.as_str(), request.path.as_str()) {
            ("GET", _) => return script(socket),
            (_, path) if path.ends_with("/cancel") => json(200, r#"{"status":"canceled"}"#),
            _ => created(request, stream),
        };
        socket.write_all(&answer).unwrap();
        After::Keep
    })
}

fn before(upstream: &Upstream) -> Gateway {
    let address = &upstream.address;
    Gateway::start(&format!(
        "  providers:\n    replicate: {{ base_url: \"http://{address}/v1\" }}\n"
    ))
}

fn cancels(upstream: &Upstream) -> usize {
    let seen = upstream.seen();
    let cancels = seen
        .iter()
        .filter(|call| call.path == "/v1/predictions/p/cancel");
    let counted = cancels.inspect(|call| {
        assert_eq!(call.method, "POST");
        assert_eq!(call.header("authorization"), Some("Bearer sk-1"));
    });
    counted.count()
}

fn wait_for_cancels(upstream: &Upstream, count: usize) {
    assert!(wait_for(|| (cancels(upstream) >= count).then_some(())).is_some());
    assert_eq!(cancels(upstream), count);
}

#[test]
fn a_stream_comes_as_it_is_written_and_what_is_done_is_not_cancelled() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let upstream = replicate(OWN, move |socket| {
        socket
            .write_all(&[STREAM, &chunk(output("a"))].concat())
            .unwrap();
        wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        let rest = chunk(output(" b") + DONE);
        socket.write_all(&[&rest, LAST_CHUNK].concat()).unwrap();
        After::Keep
    });
    let gateway = before(&upstream);
    let mut client = Client::connect(&gateway.address);
    client.send(post(HEADERS, BODY));
    client.read_head();
    let first = String::from_utf8(client.read_chunk().unwrap()).unwrap();
    assert!(
        first.contains(r#""text":"a""#) && first.contains(r#""id":"p""#),
        "{first}"
    );
    go.send(()).unwrap();
    let mut rest = String::new();
    while let Some(piece) = client.read_chunk().filter(|piece| !piece.is_empty()) {
        rest += std::str::from_utf8(&piece).unwrap();
    }
    assert!(
        rest.contains(r#""text":" b""#) && rest.ends_with("data: [DONE]\n\n"),
        "{rest}"
    );
    let seen = upstream.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].header("prefer"), None);
    assert!(seen[0].text().starts_with(r#"{"stream":true,"#));
    assert_eq!(
        (seen[1].method.as_str(), seen[1].path.as_str()),
        ("GET", "/v1/files/s")
    );
    assert_eq!(seen[1].header("accept"), Some("text/event-stream"));
    assert_eq!(seen[1].header("authorization"), Some("Bearer sk-1"));
    assert_eq!(seen[1].header("content-length"), None);
    std::thread::sleep(AT_ONCE);
    assert_eq!(cancels(&upstream), 0);
}

#[test]
fn a_client_that_leaves_cancels_what_it_began_at_once() {
    for (body, begun) in [(BODY, 1), (TWO, 2)] {
        for said in ["", "a"] {
            let upstream = replicate(OWN, move |socket| {
                let first = if said.is_empty() {
                    Vec::new()
                } else {
                    chunk(output(said))
                };
                socket.write_all(&[STREAM, &first].concat()).unwrap();
                wait_for_close(socket);
                After::Close
            });
            let gateway = before(&upstream);
            let mut client = Client::connect(&gateway.address);
            client.send(post(HEADERS, body));
            upstream.wait_for_requests(2 * begun);
            if !said.is_empty() {
                client.read_head();
                client.read_chunk().unwrap();
            }
            let left = Instant::now();
            drop(client);
            wait_for_cancels(&upstream, begun);
            assert!(left.elapsed() < AT_ONCE, "{:?}", left.elapsed());
        }
    }
}

#[test]
fn what_failed_or_took_too_long_is_cancelled() {
    let error = "event: error\ndata: {\"detail\":\"CUDA\"}\n\n";
    for (events, told) in [
        (output("a") + error, "CUDA"),
        (output("a"), "before it was complete"),
        (
            output("a") + "event: done\ndata: {\"reason\":\"canceled\"}\n\n",
            "ended before",
        ),
    ] {
        let upstream = replicate(OWN, move |socket| {
            let answer = [STREAM, &chunk(&events), LAST_CHUNK].concat();
            socket.write_all(&answer).unwrap();
            After::Keep
        });
        let gateway = before(&upstream);
        let answer = ask(&gateway.address, HEADERS, BODY);
        assert!(answer.text().contains(told), "{}", answer.text());
        assert!(!answer.text().contains("[DONE]"), "{}", answer.text());
        wait_for_cancels(&upstream, 1);
    }
    let upstream = replicate(OWN, |socket| {
        wait_for_close(socket);
        After::Close
    });
    let gateway = before(&upstream);
    let headers = [HEADERS, &[("x-portkey-request-timeout", "300")]].concat();
    let late = ask(&gateway.address, &headers, BODY);
    assert_eq!(late.status, 504, "{}", late.text());
    wait_for_cancels(&upstream, 1);
}

#[test]
fn a_text_that_is_ended_here_is_cancelled_there() {
    let upstream = replicate(OWN, |socket| {
        let said = output("a x,") + &output("y b");
        socket.write_all(&[STREAM, &chunk(said)].concat()).unwrap();
        wait_for_close(socket);
        After::Close
    });
    let gateway = before(&upstream);
    let body = BODY.replace("\"hi\"", r#""hi","stop":"x,y""#);
    let answer = ask(&gateway.address, HEADERS, &body);
    assert!(
        answer.text().ends_with("data: [DONE]\n\n"),
        "{}",
        answer.text()
    );
    let text = answer.text();
    assert!(
        text.contains(r#""text":"a "#) && !text.contains("x,"),
        "{text}"
    );
    wait_for_cancels(&upstream, 1);
}

#[test]
fn a_stream_elsewhere_is_not_called_and_what_was_begun_is_cancelled() {
    for stream in [
        "http://127.0.0.1:9/v1/files/s",
        "https://{host}/v1/files/s",
        "http://sk@{host}/v1/files/s",
        "http://{host}/v1/files/s#x",
        "http://169.254.169.254/latest",
        "https://stream.replicate.com.evil.example/s",
        "https://stream.replicate.com/s",
    ] {
        let upstream = replicate(stream, |_| After::Close);
        let gateway = before(&upstream);
        let answer = ask(&gateway.address, HEADERS, BODY);
        assert_eq!(answer.status, 502, "{stream}: {}", answer.text());
        assert!(answer.text().contains("not its own"), "{}", answer.text());
        wait_for_cancels(&upstream, 1);
        assert_eq!(upstream.seen().len(), 2, "{stream}");
    }
}

#[test]
fn an_answer_without_a_stream_is_told_as_that() {
    let upstream = Upstream::answering(json(201, r#"{"id":"p","status":"starting","urls":{}}"#));
    let answer = ask(&before(&upstream).address, HEADERS, BODY);
    assert_eq!(answer.status, 502);
    assert!(answer.text().contains("urls.stream"), "{}", answer.text());
    upstream.sole();
}
