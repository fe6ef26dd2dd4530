//! An upstream that does exactly what a test tells it to: it reads requests and hands its socket to a script.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use super::{PATIENCE, wait_for};

/// A request as it arrived.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The how manyth connection it came on, and the how manyth request of that.
    pub connection: usize,
    pub turn: usize,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// What becomes of a connection after a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    Keep,
    Close,
}

pub type Script = dyn Fn(&Request, &mut TcpStream) -> After + Send + Sync;

/// The upstream; its threads end with the test's process.
pub struct Upstream {
    pub address: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Upstream {
    pub fn start(
        script: impl Fn(&Request, &mut TcpStream) -> After + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (script, log): (Arc<Script>, _) = (Arc::new(script), seen.clone());
        thread::spawn(move || {
            for (connection, stream) in listener.incoming().enumerate() {
                let (script, log) = (script.clone(), log.clone());
                thread::spawn(move || serve(stream.unwrap(), connection, &*script, &log));
            }
        });
        Self { address, seen }
    }

    /// One that answers every request with `answer`, and keeps its connections.
    pub fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start(move |_, stream| {
            stream.write_all(&answer).unwrap();
            After::Keep
        })
    }

    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    /// The only request so far.
    pub fn sole(&self) -> Request {
        let seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen[0].clone()
    }

    pub fn wait_for_requests(&self, count: usize) {
        assert!(wait_for(|| (self.seen().len() >= count).then_some(())).is_some());
    }
}

pub fn serve(stream: TcpStream, connection: usize, script: &Script, log: &Mutex<Vec<Request>>) {
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    for turn in 0.. {
        let Some(mut request) = read_request(&mut reader) else {
            return;
        };
        (request.connection, request.turn) = (connection, turn);
        log.lock().unwrap().push(request.clone());
        if script(&request, &mut stream) == After::Close {
            return;
        }
    }
}

/// A line of a head, which need not be UTF-8.
fn read_line(reader: &mut impl BufRead) -> Option<String> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).ok()?;
    Some(String::from_utf8_lossy(&line).into_owned())
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut request = Request::default();
    let line = read_line(reader)?;
    let mut words = line.split_whitespace();
    request.method = words.next()?.to_owned();
    request.path = words.next()?.to_owned();
    loop {
        let line = read_line(reader)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        request
            .headers
            .push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    if request.header("transfer-encoding") == Some("chunked") {
        while let Some(piece) = read_chunk(reader).filter(|piece| !piece.is_empty()) {
            request.body.extend(piece);
        }
        return Some(request);
    }
    let length = request.header("content-length").unwrap_or("0");
    request.body = vec![0; length.parse().unwrap()];
    reader.read_exact(&mut request.body).ok()?;
    Some(request)
}

/// The next chunk of a body; empty: the last one. `None`: the connection broke.
pub fn read_chunk(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let length = usize::from_str_radix(line.trim_end(), 16).ok()?;
    let mut chunk = vec![0; length + 2];
    reader.read_exact(&mut chunk).ok()?;
    chunk.truncate(length);
    Some(chunk)
}

/// A whole JSON answer.
pub fn json(status: u16, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The head of a chunked stream.
pub const STREAM: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// One chunk of a body.
pub fn chunk(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// A text completion's event.
pub fn event(text: &str, finish: Option<&str>) -> String {
    let finish = finish.map_or("null".to_owned(), |finish| format!("\"{finish}\""));
    format!(
        "data: {{\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":1,\"model\":\"m\",\"choices\":[{{\"text\":\"{text}\",\"index\":0,\"logprobs\":null,\"finish_reason\":{finish}}}]}}\n\n"
    )
}

pub const DONE: &str = "data: [DONE]\n\n";

/// A whole text completion.
pub const TEXT: &str = r#"{"id":"cmpl-1","object":"text_completion","created":1,"model":"m","choices":[{"text":" hello","index":0,"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}"#;

/// A whole chat completion.
pub const CHAT: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":" hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}"#;

/// A whole stream's events: two texts, the end.
pub fn events() -> String {
    [
        event(" a", None),
        event(" b", None),
        event("", Some("stop")),
        DONE.to_owned(),
    ]
    .concat()
}

/// Waits until the peer closes, and says how long that took.
pub fn wait_for_close(stream: &mut TcpStream) -> Option<Duration> {
    let started = Instant::now();
    let mut byte = [0];
    match stream.read(&mut byte) {
        Ok(0) => Some(started.elapsed()),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
            Some(started.elapsed())
        }
        _ => None,
    }
}

/// An upstream that sends `sent` and then reports when its connection was closed.
pub fn watching(sent: impl Into<Vec<u8>>) -> (Upstream, mpsc::Receiver<Instant>) {
    let (closed, closing) = mpsc::channel();
    let (closed, sent) = (Mutex::new(closed), sent.into());
    let upstream = Upstream::start(move |_, stream| {
        stream.write_all(&sent).unwrap();
        if wait_for_close(stream).is_some() {
            let _ = closed.lock().unwrap().send(Instant::now());
        }
        After::Close
    });
    (upstream, closing)
}

/// An address whose connections do not come to stand: the queue of those that wait to be accepted is full.
pub struct Unaccepting {
    pub address: String,
    _listener: TcpListener,
    _queued: TcpStream,
}

impl Unaccepting {
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap();
        let listener = runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            // The standard library's queue takes thousands.
            socket.listen(0).unwrap().into_std().unwrap()
        });
        let address = listener.local_addr().unwrap().to_string();
        Self {
            _queued: TcpStream::connect(&address).unwrap(),
            _listener: listener,
            address,
        }
    }
}
