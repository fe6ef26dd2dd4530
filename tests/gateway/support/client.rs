//! A client of exact bytes: what it sends is written out, what it gets is kept as it came.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
};

use super::{PATIENCE, upstream::read_chunk};

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The body's framing came to its own end: the length was reached, or the last chunk arrived.
    pub complete: bool,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }
}

/// One connection to the gateway.
pub struct Client {
    pub stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        Self { stream, reader }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Reads a head; its body is left.
    pub fn read_head(&mut self) -> Answer {
        let mut answer = Answer::default();
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        let status = line.split_whitespace().nth(1);
        answer.status = status
            .unwrap_or_else(|| panic!("no answer: {line:?}"))
            .parse()
            .unwrap();
        loop {
            line.clear();
            self.reader.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim_end().split_once(':') else {
                return answer;
            };
            answer
                .headers
                .push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// Reads a whole answer.
    pub fn read(&mut self) -> Answer {
        let mut answer = self.read_head();
        if let Some(length) = answer.header("content-length") {
            let length: u64 = length.parse().unwrap();
            let read = (&mut self.reader)
                .take(length)
                .read_to_end(&mut answer.body);
            answer.complete = read.is_ok_and(|read| read as u64 == length);
        } else if answer.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.read_chunk() {
                answer.complete = chunk.is_empty();
                answer.body.extend(chunk);
                if answer.complete {
                    break;
                }
            }
        } else {
            answer.complete = self.reader.read_to_end(&mut answer.body).is_ok();
        }
        answer
    }

    /// The next `count` bytes.
    pub fn read_exact(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.reader.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// The next chunk; empty: the last one. `None`: the connection broke.
    pub fn read_chunk(&mut self) -> Option<Vec<u8>> {
        read_chunk(&mut self.reader)
    }

    /// Whether the gateway has closed the connection.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.reader.read(&mut [0]), Ok(0) | Err(_))
    }
}

/// A `POST /v1/completions`.
pub fn post(headers: &[(&str, &str)], body: &str) -> String {
    request("POST", "/v1/completions", headers, body)
}

pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: gateway\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        text += &format!(
            "content-type: application/json\r\ncontent-length: {}\r\n",
            body.len()
        );
    }
    text + "\r\n" + body
}

/// One request on a connection of its own.
pub fn ask(address: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut client = Client::connect(address);
    client.send(post(headers, body));
    client.read()
}

pub const PLAIN: &str = r#"{"model":"m","prompt":"hi","max_tokens":5}"#;
pub const STREAMED: &str = r#"{"model":"m","prompt":"hi","max_tokens":5,"stream":true}"#;
/// The header that sends a call down the conductor's road.
pub const CONDUCTED: (&str, &str) = ("x-portkey-request-timeout", "15000");
/// The same call on both roads, by a gateway without heartbeats.
pub const ROADS: [&[(&str, &str)]; 2] = [&[], &[CONDUCTED]];
