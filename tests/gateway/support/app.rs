//! An app of the ordinary kind, for the gateway to stand in front of.

use std::{
    fmt::Write as _,
    io::{Read, Write},
    net::TcpStream,
};

use super::upstream::{After, LAST_CHUNK, Request, STREAM, Upstream, chunk};

/// The app. What it is asked is in [`Upstream::seen`].
pub fn start() -> Upstream {
    Upstream::start(serve)
}

fn serve(request: &Request, stream: &mut TcpStream) -> After {
    let path = request.path.split('?').next().unwrap();
    if let Some(answer) = answer(request, path) {
        stream.write_all(&answer).unwrap();
        return After::Keep;
    }
    match path {
        "/stream" => {
            stream.write_all(STREAM).unwrap();
            for event in EVENTS {
                stream.write_all(&chunk(event)).unwrap();
            }
            stream.write_all(LAST_CHUNK).unwrap();
            After::Keep
        }
        "/until-close" => {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nto the end")
                .unwrap();
            After::Close
        }
        "/socket" => socket(stream),
        "/bye" => {
            stream.write_all(SWITCHED).unwrap();
            stream.write_all(b"bye").unwrap();
            After::Close
        }
        _ => panic!("{request:?}"),
    }
}

fn answer(request: &Request, path: &str) -> Option<Vec<u8>> {
    let told = |head: &str, body: &str| {
        let length = body.len();
        format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
    };
    let body = request.body.as_slice();
    Some(match (request.method.as_str(), path) {
        (_, "/echo") => told("200 OK\r\nContent-Type: text/plain", &print(request)),
        (_, "/upload") => told(
            "201 Created\r\nlocation: /files/1",
            &format!("{} {}", body.len(), digest(body)),
        ),
        ("HEAD", "/file") => {
            b"HTTP/1.1 200 OK\r\ncontent-length: 12345\r\netag: \"1\"\r\n\r\n".to_vec()
        }
        ("HEAD", "/stream") => b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec(),
        ("DELETE", "/file") => b"HTTP/1.1 204 No Content\r\nx-gone: yes\r\n\r\n".to_vec(),
        ("GET", "/file") => file(request),
        ("GET", "/login") => told(
            "302 Found\r\nLocation: http://app.test/\r\nSet-Cookie: a=1; Path=/; HttpOnly\r\nSet-Cookie: b=2\r\nX-Request-Id: own\r\nServer: app/1",
            "",
        ),
        ("GET", "/gzip") => told(
            "200 OK\r\ncontent-encoding: gzip\r\nvary: accept-encoding",
            "\x1f not really",
        ),
        ("GET", "/hints") => [
            b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n".to_vec(),
            told("200 OK", "hinted"),
        ]
        .concat(),
        ("GET", "/error") => told(
            "500 Internal Server Error\r\ncontent-type: text/html",
            "<h1>own page</h1>",
        ),
        ("OPTIONS", "/v1/completions") => told(
            "200 OK\r\nallow: GET, POST\r\naccess-control-allow-origin: *",
            "",
        ),
        ("GET", "/v1/completions" | "/health" | "/") => told("200 OK", path),
        ("POST", "/v1/chat/completions") => told(
            "200 OK\r\ncontent-type: application/json",
            "{\"own\": true}",
        ),
        ("GET", "/socket") if request.header("upgrade").is_none() => {
            told("426 Upgrade Required\r\nx-up: no", "")
        }
        _ => return None,
    })
}

/// A file of ten bytes, with an `ETag`, in parts if wanted.
fn file(request: &Request) -> Vec<u8> {
    match (request.header("if-none-match"), request.header("range")) {
        (Some("\"1\""), _) => b"HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\n\r\n".to_vec(),
        (_, Some("bytes=2-4")) => b"HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 2-4/10\r\ncontent-length: 3\r\n\r\n234".to_vec(),
        _ => b"HTTP/1.1 200 OK\r\naccept-ranges: bytes\r\netag: \"1\"\r\ncontent-length: 10\r\n\r\n0123456789".to_vec(),
    }
}

/// Says what it hears.
fn socket(stream: &mut TcpStream) -> After {
    stream.write_all(SWITCHED).unwrap();
    let mut piece = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut piece) {
        stream.write_all(&piece[..read]).unwrap();
    }
    After::Close
}

/// A request as the app sees it, but for the fields that are each connection's own.
fn print(request: &Request) -> String {
    let mut text = format!("{} {}\n", request.method, request.path);
    for (name, value) in &request.headers {
        if !["connection", "transfer-encoding", "content-length"].contains(&name.as_str()) {
            writeln!(text, "{name}: {value}").unwrap();
        }
    }
    text + request.text()
}

pub fn digest(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest
        .as_ref()
        .iter()
        .fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
}

const SWITCHED: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: x\r\n\r\n";
const EVENTS: [&str; 3] = [
    "event: x\r\ndata: 1\r\n\r\n",
    ": ping\n\n",
    "data: \u{e9}\n\n",
];
