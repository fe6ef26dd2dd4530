//! An upstream of thousands of connections: it plays each request's [`Part`], and watches who leaves.

use std::{
    io::{Error, ErrorKind, Result},
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};

use super::Part;
use crate::support::upstream::{DONE, LAST_CHUNK, STREAM, TEXT, chunk, event, json};

/// The upstream. Its connections end with the runtime.
pub struct Upstream {
    pub address: String,
    pub state: Arc<State>,
}

#[derive(Default)]
pub struct State {
    /// Connections.
    pub open: AtomicUsize,
    /// Requests that have come and whose answers are not over.
    pub serving: AtomicUsize,
    /// Requests that have come.
    pub begun: AtomicU64,
    /// All that has come, in bytes.
    pub received: AtomicU64,
    /// Whose connections closed while they were served, and when.
    pub left: Mutex<Vec<(u64, Instant)>>,
}

impl Upstream {
    pub fn start(runtime: &Runtime) -> Self {
        let state = Arc::new(State::default());
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = state.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = shared.clone();
                tokio::spawn(async move {
                    let _open = Counted::new(&state.open);
                    // Whoever leaves is in the book already.
                    let _ = serve(stream, &state).await;
                });
            }
        });
        Self { address, state }
    }
}

/// One of those counted, for as long as it lives.
struct Counted<'c>(&'c AtomicUsize);

impl<'c> Counted<'c> {
    fn new(counter: &'c AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::SeqCst);
        Self(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn serve(mut stream: TcpStream, state: &State) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(1024);
    loop {
        let request = read_request(&mut stream, &mut buffer, state).await?;
        let _serving = Counted::new(&state.serving);
        state.begun.fetch_add(1, Ordering::SeqCst);
        let part = Part::find(&request).unwrap_or_else(|| panic!("no part in {request}"));
        if let Err(error) = play(&mut stream, &request, &part).await {
            state.left.lock().unwrap().push((part.id, Instant::now()));
            return Err(error);
        }
    }
}

/// Head and body, as one text.
async fn read_request(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    state: &State,
) -> Result<String> {
    loop {
        if let Some(end) = request_end(buffer) {
            let request = buffer.drain(..end).collect();
            return String::from_utf8(request).map_err(Error::other);
        }
        match stream.read_buf(buffer).await? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => state.received.fetch_add(count as u64, Ordering::Relaxed),
        };
    }
}

fn request_end(buffer: &[u8]) -> Option<usize> {
    let head = memchr::memmem::find(buffer, b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&buffer[..head]).unwrap();
    let length = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize = length.map_or(0, |(_, length)| length.trim().parse().unwrap());
    (buffer.len() >= head + length).then_some(head + length)
}

/// `Err`: the other side has left.
async fn play(stream: &mut TcpStream, request: &str, part: &Part) -> Result<()> {
    pause(stream, part.wait).await?;
    let messages = request.lines().next().unwrap().contains("/messages");
    if !request.contains("\"stream\":true") {
        let body = if messages { MESSAGE } else { TEXT };
        return stream.write_all(&json(200, body)).await;
    }
    stream.write_all(STREAM).await?;
    if messages {
        stream.write_all(&chunk(MESSAGE_START)).await?;
    }
    for number in 0..part.events {
        let text = format!(" {}.{number}.{}", part.id, since_start().as_micros());
        let told = match messages {
            true => delta(&text),
            false => event(&text, None),
        };
        stream.write_all(&chunk(told)).await?;
        pause(stream, part.pause).await?;
    }
    let end = match messages {
        true => MESSAGE_END.to_owned(),
        false => event("", Some("stop")) + DONE,
    };
    stream.write_all(&[&chunk(end), LAST_CHUNK].concat()).await
}

/// A pause in which the other side may leave, and does nothing else.
async fn pause(stream: &mut TcpStream, pause: Duration) -> Result<()> {
    if pause.is_zero() {
        return Ok(());
    }
    let mut byte = [0];
    tokio::select! {
        () = tokio::time::sleep(pause) => Ok(()),
        read = stream.read(&mut byte) => match read? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => panic!("a second request before the first one's answer"),
        },
    }
}

/// Since some moment that is the same for all.
pub fn since_start() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

fn delta(text: &str) -> String {
    format!(
        "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{{\"type\":\"text_delta\",\"text\":\"{text}\"}}}}\n\n"
    )
}

const MESSAGE: &str = r#"{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":" hello"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":2}}"#;
const MESSAGE_START: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"content\":[],\"model\":\"m\",\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{\"input_tokens\":1,\"output_tokens\":1}}}\n\nevent: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n";
const MESSAGE_END: &str = "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\nevent: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":9}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
