//! The upstream of a load: canned answers, in a process of its own.

use std::{
    io,
    net::TcpListener,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Answers a completion with 290 bytes of JSON, and one that streams with its first event at once and the rest behind it; on
/// the paths of Anthropic and Gemini in their words. Under `/list` it has an answer for each of [`PROMPTS`], under `/flaky`
/// each tenth answer is a 503, under `/paced` and `/crowd/` a stream takes its time.
pub fn serve(address: &str) {
    let listener = TcpListener::bind(address).unwrap();
    listener.set_nonblocking(true).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            tokio::spawn(answer(stream));
        }
    });
}

async fn answer(mut stream: TcpStream) {
    let answers = Answers::new();
    let mut buffer = Vec::with_capacity(64 << 10);
    loop {
        let Some(request) = read_message(&mut stream, &mut buffer).await else {
            return;
        };
        let written = match Pace::of(path(&request)) {
            Some(pace) => pace.stream(&mut stream).await,
            None => stream.write_all(answers.to(&request)).await,
        };
        if written.is_err() {
            return;
        }
    }
}

struct Answers {
    whole: Vec<u8>,
    list: Vec<u8>,
    streamed: Vec<u8>,
    anthropic: Vec<u8>,
    anthropic_streamed: Vec<u8>,
    gemini: Vec<u8>,
    gemini_streamed: Vec<u8>,
    unavailable: Vec<u8>,
}

impl Answers {
    fn new() -> Self {
        let text = format!(" {}", "Sweet treats for every occasion, ".repeat(3));
        let body = |count: usize| {
            let choices: Vec<String> = (0..count)
                .map(|index| {
                    format!(
                        r#"{{"text":"{text}","index":{index},"logprobs":null,"finish_reason":"stop"}}"#
                    )
                })
                .collect();
            format!(
                r#"{{"id":"cmpl-123","object":"text_completion","created":1677652288,"model":"gpt-3.5-turbo-instruct","choices":[{}],"usage":{{"prompt_tokens":10,"completion_tokens":7,"total_tokens":17}}}}"#,
                choices.join(",")
            )
        };
        let anthropic = format!(
            r#"{{"id":"msg_123","type":"message","role":"assistant","model":"m","content":[{{"type":"text","text":"{text}"}}],"stop_reason":"end_turn","stop_sequence":null,"usage":{{"input_tokens":10,"output_tokens":7}}}}"#
        );
        let gemini = format!(
            r#"{{"candidates":[{{"content":{{"parts":[{{"text":"{text}"}}],"role":"model"}},"finishReason":"STOP","index":0}}],"usageMetadata":{{"promptTokenCount":10,"candidatesTokenCount":7,"totalTokenCount":17}},"modelVersion":"m","responseId":"r"}}"#
        );
        let error =
            r#"{"error":{"message":"Try later.","type":"server_error","param":null,"code":null}}"#;
        Self {
            whole: sized("200 OK", &body(1)),
            list: sized("200 OK", &body(PROMPTS)),
            streamed: Words::openai().at_once(),
            anthropic: sized("200 OK", &anthropic),
            anthropic_streamed: Words::anthropic().at_once(),
            gemini: sized("200 OK", &gemini),
            gemini_streamed: Words::gemini().at_once(),
            unavailable: sized("503 Service Unavailable", error),
        }
    }

    fn to(&self, request: &[u8]) -> &[u8] {
        static TURNS: AtomicU64 = AtomicU64::new(0);
        let path = path(request);
        let is_streamed = find(request, b"\"stream\":true").is_some();
        match path {
            _ if path.starts_with(b"/flaky")
                && TURNS.fetch_add(1, Ordering::Relaxed).is_multiple_of(10) =>
            {
                &self.unavailable
            }
            _ if path.starts_with(b"/list") => &self.list,
            _ if path.ends_with(b"/messages") && is_streamed => &self.anthropic_streamed,
            _ if path.ends_with(b"/messages") => &self.anthropic,
            _ if find(path, b":streamGenerateContent").is_some() => &self.gemini_streamed,
            _ if find(path, b":generateContent").is_some() => &self.gemini,
            _ if is_streamed => &self.streamed,
            _ => &self.whole,
        }
    }
}

fn sized(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

fn event(text: &str, finish: &str) -> String {
    format!(
        "data: {{\"id\":\"cmpl-123\",\"object\":\"text_completion\",\"created\":1677652288,\"model\":\"gpt-3.5-turbo-instruct\",\"choices\":[{{\"text\":\"{text}\",\"index\":0,\"logprobs\":null,\"finish_reason\":{finish}}}]}}\n\n"
    )
}

fn chunk(bytes: &str) -> String {
    format!("{:x}\r\n{bytes}\r\n", bytes.len())
}

/// A stream that takes its time.
struct Pace {
    tokens: u32,
    pause: Duration,
    words: Words,
}

/// The events of a stream, in one provider's words.
struct Words {
    begin: String,
    /// Said one after the other, and over again.
    tokens: Vec<String>,
    end: String,
}

impl Words {
    fn openai() -> Self {
        Self {
            begin: String::new(),
            tokens: vec![event(" treats", "null")],
            end: event("", "\"stop\"") + "data: [DONE]\n\n",
        }
    }

    /// Those of the Messages API.
    fn anthropic() -> Self {
        let named = |name: &str, data: &str| format!("event: {name}\ndata: {data}\n\n");
        let start = named(
            "message_start",
            r#"{"type":"message_start","message":{"id":"msg_123","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":10,"output_tokens":1}}}"#,
        );
        let block = named(
            "content_block_start",
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
        );
        let token = named(
            "content_block_delta",
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" treats"}}"#,
        );
        let block_end = named(
            "content_block_stop",
            r#"{"type":"content_block_stop","index":0}"#,
        );
        let reason = named(
            "message_delta",
            r#"{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":16}}"#,
        );
        let end = named("message_stop", r#"{"type":"message_stop"}"#);
        Self {
            begin: start + &block,
            tokens: vec![token],
            end: block_end + &reason + &end,
        }
    }

    /// Each of them has the counts so far, so that none is like the one before.
    fn gemini() -> Self {
        let event = |said: usize, finish: &str| {
            let total = 10 + said;
            format!(
                "data: {{\"candidates\":[{{\"content\":{{\"parts\":[{{\"text\":\" treats\"}}],\"role\":\"model\"}},{finish}\"index\":0}}],\"usageMetadata\":{{\"promptTokenCount\":10,\"candidatesTokenCount\":{said},\"totalTokenCount\":{total}}},\"modelVersion\":\"m\",\"responseId\":\"r\"}}\r\n\r\n"
            )
        };
        Self {
            begin: String::new(),
            tokens: (1..=TOKENS).map(|said| event(said, "")).collect(),
            end: event(TOKENS, "\"finishReason\":\"STOP\","),
        }
    }

    fn tokens(&self) -> impl Iterator<Item = &str> {
        self.tokens.iter().map(String::as_str).cycle()
    }

    /// All of a stream, in one chunk.
    fn at_once(&self) -> Vec<u8> {
        let tokens: String = self.tokens().take(TOKENS).collect();
        let events = chunk(&[self.begin.as_str(), &tokens, &self.end].concat());
        format!("{STREAM}{events}0\r\n\r\n").into_bytes()
    }
}

impl Pace {
    /// Fifty tokens, one each 20 ms; or forty of a crowd, with the milliseconds that the path names.
    fn of(path: &[u8]) -> Option<Self> {
        let path = std::str::from_utf8(path).ok()?;
        let (tokens, pause) = match path.strip_prefix("/crowd/") {
            Some(rest) => (40, rest.split('/').next()?.parse().ok()?),
            None if path.starts_with("/paced") => (50, 20),
            None => return None,
        };
        let words = match path.ends_with("/messages") {
            true => Words::anthropic(),
            false => Words::openai(),
        };
        Some(Self {
            tokens,
            pause: Duration::from_millis(pause),
            words,
        })
    }

    async fn stream(&self, stream: &mut TcpStream) -> io::Result<()> {
        stream.write_all(STREAM.as_bytes()).await?;
        let words = &self.words;
        let first = words.tokens().next().unwrap_or_default();
        let token = chunk(first);
        let first = chunk(&[words.begin.as_str(), first].concat());
        let mut due = tokio::time::interval(self.pause);
        for at in 0..self.tokens {
            due.tick().await;
            let event = if at == 0 { &first } else { &token };
            stream.write_all(event.as_bytes()).await?;
        }
        let end = format!("{}0\r\n\r\n", chunk(&words.end));
        stream.write_all(end.as_bytes()).await
    }
}

fn path(request: &[u8]) -> &[u8] {
    let mut words = request.split(|&byte| byte == b' ');
    words.nth(1).unwrap_or_default()
}

/// Reads one message with a `content-length`.
async fn read_message(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Some(end) = message_end(buffer) {
            return Some(buffer.drain(..end).collect());
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

fn message_end(buffer: &[u8]) -> Option<usize> {
    let head = find(buffer, b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&buffer[..head])
        .ok()?
        .to_ascii_lowercase();
    let length = text
        .split("content-length:")
        .nth(1)?
        .lines()
        .next()?
        .trim()
        .parse::<usize>()
        .ok()?;
    (buffer.len() >= head + length).then_some(head + length)
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, needle)
}

/// Of a stream in one write.
const TOKENS: usize = 16;
/// In one request of a fan-out.
pub const PROMPTS: usize = 24;
const STREAM: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
