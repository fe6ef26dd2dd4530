//! What the gateway costs, as ratios in one run: the same requests straight to an upstream, through a bare Pingora proxy,
//! and through the gateway. And what a call costs that is one of many of its request.
//!
//! `cargo bench --bench load`. Everything is on loopback: an upstream of canned answers, a proxy that does nothing, and
//! the gateway's binary run as processes of their own; this process is the client, with the engine of
//! `pingora-completions bench`. Rounds alternate, so that a noisy
//! neighbour meets all three; figures are medians of rounds. `LOAD_SECONDS` is the length of a round.

use std::{
    env, fs,
    net::{SocketAddr, TcpListener},
    ops::ControlFlow,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use pingora::{
    prelude::{HttpPeer, Server},
    proxy::{ProxyHttp, Session, http_proxy_service},
    server::configuration::ServerConf,
};
use pingora_completions::bench::{
    Asked, Endpoint, Load, Question, Reading, Tally, Target, Template, Times, drive, template,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Runtime,
};

const CONNECTIONS: usize = 32;
const ROUNDS: usize = 5;
const FIRST_TOKENS: u64 = 2_000;
/// In one request of a fan-out.
const PROMPTS: usize = 24;

fn main() {
    let role = env::args().nth(1).unwrap_or_default();
    match (role.as_str(), env::args().nth(2), env::args().nth(3)) {
        ("--upstream", Some(address), _) => upstream(&address),
        ("--bare", Some(address), Some(upstream)) => bare(&address, &upstream),
        _ => client(),
    }
}

// --- The upstream ----------------------------------------------------------------------------------------------------

/// Answers a completion with 290 bytes of JSON, and one that streams with its first event at once and the rest behind it.
fn upstream(address: &str) {
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
    let (whole, streamed) = answers();
    let mut buffer = Vec::with_capacity(64 << 10);
    loop {
        let Some(request) = read_message(&mut stream, &mut buffer).await else {
            return;
        };
        let streams = find(&request, b"\"stream\":true").is_some();
        let answer = if streams { &streamed } else { &whole };
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

fn answers() -> (Vec<u8>, Vec<u8>) {
    let text = "Sweet treats for every occasion, ".repeat(3);
    let body = format!(
        r#"{{"id":"cmpl-123","object":"text_completion","created":1677652288,"model":"gpt-3.5-turbo-instruct","choices":[{{"text":" {text}","index":0,"logprobs":null,"finish_reason":"stop"}}],"usage":{{"prompt_tokens":10,"completion_tokens":7,"total_tokens":17}}}}"#
    );
    let whole = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let event = |text: &str, finish: &str| {
        format!(
            "data: {{\"id\":\"cmpl-123\",\"object\":\"text_completion\",\"created\":1677652288,\"model\":\"gpt-3.5-turbo-instruct\",\"choices\":[{{\"text\":\"{text}\",\"index\":0,\"logprobs\":null,\"finish_reason\":{finish}}}]}}\n\n"
        )
    };
    let mut events = event(" Sweet", "null");
    for _ in 0..15 {
        events += &event(" treats", "null");
    }
    events += &event("", "\"stop\"");
    events += "data: [DONE]\n\n";
    let streamed = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{events}\r\n0\r\n\r\n",
        events.len()
    );
    (whole.into_bytes(), streamed.into_bytes())
}

// --- The bare proxy --------------------------------------------------------------------------------------------------

struct Bare(SocketAddr);

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> pingora::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.0, false, String::new())))
    }
}

fn bare(address: &str, upstream: &str) {
    let conf = ServerConf {
        threads: 1,
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Bare(upstream.parse().unwrap()));
    service.add_tcp(address);
    server.add_service(service);
    server.run_forever();
}

// --- The client ------------------------------------------------------------------------------------------------------

/// One of the three ways to the upstream.
struct Way {
    name: &'static str,
    address: String,
    process: Option<Child>,
}

impl Drop for Way {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// What a round found.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    per_second: f64,
    p50: f64,
    p99: f64,
    /// CPU of the way's own process for one request, in microseconds.
    cpu: f64,
}

fn client() {
    let ways = start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let seconds = env::var("LOAD_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(4);
    let round = Duration::from_secs(seconds);
    plain(&ways, &runtime, round);
    fan_out(&ways[2], &runtime, round);
    streams(&ways, &runtime);
}

fn plain(ways: &[Way; 3], runtime: &Runtime, round: Duration) {
    let asked: Vec<Asking> = ways
        .iter()
        .map(|way| runtime.block_on(Asking::new(way, Kind::Whole)))
        .collect();
    for asking in &asked {
        runtime.block_on(asking.load(Duration::from_millis(500), CONNECTIONS));
    }
    println!(
        "plain: 100-byte prompt, {CONNECTIONS} connections, 1 proxy thread, median of {ROUNDS} rounds of {} s",
        round.as_secs()
    );
    let mut found = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        for (asking, found) in asked.iter().zip(&mut found) {
            found.push(runtime.block_on(asking.load(round, CONNECTIONS)));
        }
    }
    let medians = found.map(|rounds| median(&rounds));
    for (way, found) in ways.iter().zip(&medians) {
        println!(
            "  {:<13} {:>8.0} requests/s   p50 {:>6.0} us   p99 {:>6.0} us   CPU {:>5.1} us/request",
            way.name, found.per_second, found.p50, found.p99, found.cpu
        );
    }
    let ratio = medians[2].per_second / medians[1].per_second;
    println!(
        "  gateway / bare Pingora: {ratio:.2} of its requests/s, {:.2} of its CPU",
        medians[2].cpu / medians[1].cpu
    );
}

/// Times from a request's write to its first event's arrival.
fn streams(ways: &[Way; 3], runtime: &Runtime) {
    println!("stream: first event, 1 connection, one request after the other, {FIRST_TOKENS} each");
    let mut all = [(); 3].map(|()| Times::default());
    let asked: Vec<Asking> = ways
        .iter()
        .map(|way| runtime.block_on(Asking::new(way, Kind::Stream)))
        .collect();
    for _ in 0..10 {
        for (asking, first) in asked.iter().zip(&mut all) {
            let mut load = Load::closed(Asked::Stream, 1, Duration::MAX);
            load.schedule.requests = Some(FIRST_TOKENS / 10);
            first.merge(&runtime.block_on(asking.drive(load)).first_token);
        }
    }
    let direct = microseconds(all[0].percentile(0.5));
    for (way, first) in ways.iter().zip(&all) {
        let (p50, p99) = (
            microseconds(first.percentile(0.5)),
            microseconds(first.percentile(0.99)),
        );
        println!(
            "  {:<13} p50 {p50:>6.0} us   p99 {p99:>6.0} us   added at p50 {:>5.0} us",
            way.name,
            p50 - direct
        );
    }
}

/// What a call costs that is one of many of its request, against one that is its request's only one.
fn fan_out(gateway: &Way, runtime: &Runtime, round: Duration) {
    println!(
        "fan-out: the gateway before a provider that takes one prompt, {PROMPTS} prompts a request, median of {ROUNDS} rounds"
    );
    let kinds = [(CONNECTIONS, 1, Kind::Single), (2, PROMPTS, Kind::List)];
    let kinds = kinds.map(|(connections, calls, kind)| {
        let asking = runtime.block_on(Asking::new(gateway, kind));
        (connections, calls, asking)
    });
    let mut found = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for ((connections, _, asking), found) in kinds.iter().zip(&mut found) {
            found.push(runtime.block_on(asking.load(round, *connections)));
        }
    }
    let per_call: Vec<f64> = kinds
        .iter()
        .zip(&found)
        .map(|((_, calls, _), rounds)| median(rounds).cpu / *calls as f64)
        .collect();
    println!(
        "  CPU per upstream call: alone {:.1} us, one of {PROMPTS} {:.1} us, ratio {:.2}",
        per_call[0],
        per_call[1],
        per_call[1] / per_call[0]
    );
}

fn start() -> [Way; 3] {
    let this = env::current_exe().unwrap();
    let (upstream, bare, gateway) = (free_address(), free_address(), free_address());
    let conf = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("load.yaml");
    let text = format!(
        "threads: 1\ngateway:\n  listen: {gateway}\n  admin: {{ listen: none }}\n  providers: {{ openai: {{ base_url: \"http://{upstream}/v1\", api_key: sk-load }}, single: {{ base_url: \"http://{upstream}/v1\", refuses: [\"prompt: list\"] }} }}\n  default: {{ provider: openai }}\n"
    );
    fs::write(&conf, text).unwrap();
    let mut direct = Command::new(&this);
    direct.args(["--upstream", &upstream]);
    let mut bare_proxy = Command::new(&this);
    bare_proxy.args(["--bare", &bare, &upstream]);
    let mut own = Command::new(env!("CARGO_BIN_EXE_pingora-completions"));
    own.args(["-c", conf.to_str().unwrap()]);
    [
        way("direct", upstream, direct),
        way("bare Pingora", bare, bare_proxy),
        way("gateway", gateway, own),
    ]
}

fn way(name: &'static str, address: String, mut command: Command) -> Way {
    // The access log is on, as a user has it; only its reader is missing.
    let process = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn();
    let way = Way {
        name,
        address,
        process: Some(process.unwrap()),
    };
    let listens = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        std::net::TcpStream::connect(&way.address).is_ok()
    });
    assert!(listens, "{name} does not listen");
    way
}

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Whole,
    Stream,
    /// Of a provider that takes one prompt at a time.
    Single,
    List,
}

/// One way, asked one thing.
struct Asking<'a> {
    way: &'a Way,
    target: Arc<Target>,
    asked: Asked,
}

impl<'a> Asking<'a> {
    async fn new(way: &'a Way, kind: Kind) -> Self {
        let endpoint = Endpoint::parse(&format!("http://{}", way.address)).unwrap();
        let question = Question {
            model: Some("gpt-3.5-turbo-instruct".to_owned()),
            prompt: template::prompt(100),
            prompts: if kind == Kind::List { PROMPTS } else { 0 },
            max_tokens: Some(20),
            stream: kind == Kind::Stream,
            usage: true,
            ..Question::default()
        };
        let mut headers = vec!["authorization: Bearer sk-load"];
        if matches!(kind, Kind::Single | Kind::List) {
            headers.push("x-portkey-provider: single");
        }
        let headers: Vec<_> = headers
            .into_iter()
            .map(|text| template::header(text).unwrap())
            .collect();
        let template = Template::new(&endpoint, &question, &headers);
        Self {
            way,
            target: Target::find(&endpoint, template, None).await.unwrap(),
            asked: question.asked(),
        }
    }

    async fn drive(&self, load: Load) -> Tally {
        let tally = drive(&self.target, load, &mut |_| ControlFlow::Continue(())).await;
        assert_eq!(tally.failed(), 0, "{:?}", tally.failures);
        tally
    }

    async fn load(&self, round: Duration, connections: usize) -> Found {
        let cpu = cpu_of(self.way);
        let tally = self
            .drive(Load::closed(self.asked, connections, round))
            .await;
        let used = cpu_of(self.way) - cpu;
        Found {
            per_second: tally.per_second(tally.succeeded),
            p50: microseconds(tally.total.percentile(0.5)),
            p99: microseconds(tally.total.percentile(0.99)),
            cpu: microseconds(used) / tally.succeeded as f64,
        }
    }
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

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn median(rounds: &[Found]) -> Found {
    let of = |value: fn(&Found) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Found {
        per_second: of(|found| found.per_second),
        p50: of(|found| found.p50),
        p99: of(|found| found.p99),
        cpu: of(|found| found.cpu),
    }
}

/// User and system time of the way's process so far. It is Linux that tells; elsewhere it stays 0.
fn cpu_of(way: &Way) -> Duration {
    let Some(process) = &way.process else {
        return Duration::ZERO;
    };
    let text = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", process.id()));
    let texts = text("stat").and_then(|stat| Ok((stat, text("status")?)));
    let reading = texts
        .ok()
        .and_then(|(stat, status)| Reading::of(&stat, &status));
    reading.map_or(Duration::ZERO, |reading| reading.cpu)
}
