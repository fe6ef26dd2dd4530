//! What the gateway costs, as ratios in one run: the same requests straight to an upstream, through a bare Pingora proxy,
//! and through the gateway. And what a call costs that is one of many of its request.
//!
//! `cargo bench --bench load`. Everything is on loopback: an upstream of canned answers, a proxy that does nothing, and
//! the gateway's binary run as processes of their own; this process is the client, with the engine of
//! `pingora-completions bench`. Rounds alternate, so that a noisy neighbour meets all three; figures are medians of
//! rounds. `LOAD_SECONDS` is the length of a round. `cargo bench --bench load -- all`, or names of [`scenarios`], compares
//! the three ways at more than a plain request.

use std::{
    env, fs,
    net::{SocketAddr, TcpListener},
    ops::ControlFlow,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
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
const FALLBACK: &str = r#"x-portkey-config: {"strategy":{"mode":"fallback"},"targets":[{"provider":"flaky"},{"provider":"openai"}]}"#;

fn main() {
    let role = env::args().nth(1).unwrap_or_default();
    match (role.as_str(), env::args().nth(2), env::args().nth(3)) {
        ("--upstream", Some(address), _) => upstream(&address),
        ("--bare", Some(address), Some(upstream)) => bare(&address, &upstream),
        _ => client(&env::args().skip(1).collect::<Vec<_>>()),
    }
}

// --- The upstream ----------------------------------------------------------------------------------------------------

/// Answers a completion with 290 bytes of JSON, and one that streams with its first event at once and the rest behind it; on
/// the paths of Anthropic and Gemini in their words. Under `/list` it has an answer for each of [`PROMPTS`], under `/flaky`
/// each tenth answer is a 503.
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
    let answers = Answers::new();
    let mut buffer = Vec::with_capacity(64 << 10);
    loop {
        let Some(request) = read_message(&mut stream, &mut buffer).await else {
            return;
        };
        if stream.write_all(answers.to(&request)).await.is_err() {
            return;
        }
    }
}

struct Answers {
    whole: Vec<u8>,
    list: Vec<u8>,
    streamed: Vec<u8>,
    anthropic: Vec<u8>,
    gemini: Vec<u8>,
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
            streamed: streamed(),
            anthropic: sized("200 OK", &anthropic),
            gemini: sized("200 OK", &gemini),
            unavailable: sized("503 Service Unavailable", error),
        }
    }

    fn to(&self, request: &[u8]) -> &[u8] {
        static TURNS: AtomicU64 = AtomicU64::new(0);
        let path = request
            .split(|&byte| byte == b' ')
            .nth(1)
            .unwrap_or_default();
        match path {
            _ if path.starts_with(b"/flaky")
                && TURNS.fetch_add(1, Ordering::Relaxed).is_multiple_of(10) =>
            {
                &self.unavailable
            }
            _ if path.starts_with(b"/list") => &self.list,
            _ if path.ends_with(b"/messages") => &self.anthropic,
            _ if find(path, b":generateContent").is_some() => &self.gemini,
            _ if find(request, b"\"stream\":true").is_some() => &self.streamed,
            _ => &self.whole,
        }
    }
}

fn sized(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

fn streamed() -> Vec<u8> {
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
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{events}\r\n0\r\n\r\n",
        events.len()
    )
    .into_bytes()
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

/// All of it, or the scenarios that are named.
fn client(names: &[String]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let seconds = env::var("LOAD_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(4);
    let round = Duration::from_secs(seconds);
    let all = scenarios();
    // Cargo says `--bench` too.
    let mut names = names
        .iter()
        .filter(|name| !name.starts_with("--"))
        .peekable();
    if names.peek().is_none() {
        let ways = start();
        compare(&ways, &scenario("plain"), &runtime, round);
        fan_out(&ways[2], &runtime, round);
        streams(&ways, &runtime);
        return;
    }
    for name in names {
        let chosen: Vec<&Scenario> = all
            .iter()
            .filter(|scenario| name == "all" || scenario.name == name)
            .collect();
        let known: Vec<&str> = all.iter().map(|scenario| scenario.name).collect();
        assert!(!chosen.is_empty(), "all, or some of: {}", known.join(", "));
        for scenario in chosen {
            compare(&start(), scenario, &runtime, round);
        }
    }
}

/// What all three ways are asked. Direct and through the bare proxy it is the upstream's text completion; the gateway has to
/// do more for it.
struct Scenario {
    name: &'static str,
    told: &'static str,
    connections: usize,
    question: Question,
    /// Before the path, of the two that do nothing.
    path: &'static str,
    /// To the gateway.
    header: &'static str,
    abort_after: Option<u32>,
}

fn scenarios() -> Vec<Scenario> {
    let plain = |name, told| Scenario {
        name,
        told,
        connections: CONNECTIONS,
        question: question(),
        path: "",
        header: "x-portkey-provider: openai",
        abort_after: None,
    };
    let streamed = Question {
        stream: true,
        ..question()
    };
    vec![
        plain("plain", "100-byte prompt, answered whole"),
        Scenario {
            question: streamed.clone(),
            ..plain("streamed", "16 tokens in one write")
        },
        Scenario {
            header: "x-portkey-provider: anthropic",
            ..plain(
                "anthropic",
                "the gateway translates to the Messages API and back",
            )
        },
        Scenario {
            header: "x-portkey-provider: google",
            ..plain("gemini", "the gateway translates to Gemini and back")
        },
        Scenario {
            connections: 2,
            question: Question {
                prompts: PROMPTS,
                ..question()
            },
            path: "/list",
            header: "x-portkey-provider: single",
            ..plain(
                "fan-out",
                "24 prompts: one call, but 24 of the gateway's, to a provider that takes one prompt",
            )
        },
        Scenario {
            header: FALLBACK,
            ..plain(
                "fallback",
                "each tenth call of the gateway's fails and is made elsewhere",
            )
        },
        Scenario {
            connections: 8,
            question: Question {
                prompt: template::prompt(1 << 20),
                ..question()
            },
            ..plain("megabyte", "prompts of 1 MB")
        },
        Scenario {
            question: streamed,
            abort_after: Some(1),
            ..plain(
                "aborts",
                "streams that are left at their first event, each with a connection of its own",
            )
        },
    ]
}

fn scenario(name: &str) -> Scenario {
    let mut all = scenarios().into_iter();
    all.find(|scenario| scenario.name == name).unwrap()
}

fn question() -> Question {
    Question {
        model: Some("gpt-3.5-turbo-instruct".to_owned()),
        prompt: template::prompt(100),
        max_tokens: Some(20),
        usage: true,
        ..Question::default()
    }
}

fn compare(ways: &[Way; 3], scenario: &Scenario, runtime: &Runtime, round: Duration) {
    let asked: Vec<Asking> = ways
        .iter()
        .map(|way| runtime.block_on(Asking::new(way, scenario)))
        .collect();
    for asking in &asked {
        runtime.block_on(asking.load(Duration::from_millis(500), scenario.connections));
    }
    println!(
        "{}: {}; {} connections, 1 proxy thread, median of {ROUNDS} rounds of {} s",
        scenario.name,
        scenario.told,
        scenario.connections,
        round.as_secs()
    );
    let mut found = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        for (asking, found) in asked.iter().zip(&mut found) {
            found.push(runtime.block_on(asking.load(round, scenario.connections)));
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
        .map(|way| runtime.block_on(Asking::new(way, &scenario("streamed"))))
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
    let list = scenario("fan-out");
    let alone = Scenario {
        question: question(),
        ..scenario("fan-out")
    };
    let kinds = [(CONNECTIONS, 1, alone), (list.connections, PROMPTS, list)];
    let kinds = kinds.map(|(connections, calls, scenario)| {
        let asking = runtime.block_on(Asking::new(gateway, &scenario));
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
    let provider = |name: &str, base: &str, more: &str| {
        format!("    {name}: {{ base_url: \"http://{upstream}{base}\", api_key: sk-load{more} }}\n")
    };
    let providers = [
        provider("openai", "/v1", ""),
        provider("single", "/v1", ", refuses: [\"prompt: list\"]"),
        provider("flaky", "/flaky/v1", ""),
        provider("anthropic", "/v1", ""),
        provider("google", "/v1beta", ""),
    ];
    let text = format!(
        "threads: 1\ngateway:\n  listen: {gateway}\n  admin: {{ listen: none }}\n  default: {{ provider: openai }}\n  providers:\n{}",
        providers.concat()
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

/// One way, asked one thing.
struct Asking<'a> {
    way: &'a Way,
    target: Arc<Target>,
    asked: Asked,
    abort_after: Option<u32>,
}

impl<'a> Asking<'a> {
    async fn new(way: &'a Way, scenario: &Scenario) -> Self {
        let is_gateway = way.name == "gateway";
        let path = if is_gateway { "" } else { scenario.path };
        let endpoint = Endpoint::parse(&format!("http://{}{path}/v1", way.address)).unwrap();
        let mut headers = vec![template::header("authorization: Bearer sk-load").unwrap()];
        headers.extend(is_gateway.then(|| template::header(scenario.header).unwrap()));
        let template = Template::new(&endpoint, &scenario.question, &headers);
        Self {
            way,
            target: Target::find(&endpoint, template, None).await.unwrap(),
            asked: scenario.question.asked(),
            abort_after: scenario.abort_after,
        }
    }

    async fn drive(&self, load: Load) -> Tally {
        let tally = drive(&self.target, load, &mut |_| ControlFlow::Continue(())).await;
        assert_eq!(tally.failed(), 0, "{:?}", tally.failures);
        tally
    }

    async fn load(&self, round: Duration, connections: usize) -> Found {
        let cpu = cpu_of(self.way);
        let load = Load {
            abort_after: self.abort_after,
            ..Load::closed(self.asked, connections, round)
        };
        let tally = self.drive(load).await;
        let count = tally.succeeded + tally.aborted;
        // Of a stream that is left there is a first token and no end.
        let times = match self.abort_after {
            Some(_) => &tally.first_token,
            None => &tally.total,
        };
        let used = cpu_of(self.way) - cpu;
        Found {
            per_second: tally.per_second(count),
            p50: microseconds(times.percentile(0.5)),
            p99: microseconds(times.percentile(0.99)),
            cpu: microseconds(used) / count as f64,
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
