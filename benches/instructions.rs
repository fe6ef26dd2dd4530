//! How many instructions each step of a request takes: what neither neighbours nor the machine's speed move, so that a change
//! of a few percent is seen.
//!
//! `.ci/count` builds it and compares with `benches/instructions.txt`; docs/bench.md says more. Valgrind's callgrind counts: this
//! program runs itself under it, and each case is one call of [`counted_case`], which is what callgrind is told to look at.

mod samples;

use std::{
    collections::BTreeMap,
    env,
    fmt::Write,
    fs,
    hint::black_box,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use pingora_completions::{
    KeyHash, Surroundings,
    completion::CompletionRequest,
    counting::{Gateway, events, passes},
    dialect::{Dialect, anthropic, chat, gemini, openai},
    relay::Answer,
};

use samples::{relay, samples};

/// As in the gateway's binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The name of [`counted_case`] in the program.
const MARK: &str = "instructions::counted_case";
const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.txt");
/// In percent: more than that, and `--check` fails.
const TOLERANCE: f64 = 5.0;

fn main() -> ExitCode {
    // Cargo says `--bench` too.
    let asked = env::args().skip(1).find(|argument| argument != "--bench");
    match asked.as_deref() {
        Some("--under-valgrind") => run(),
        Some("--renew") => {
            fs::write(BASELINE, Counts::measured().text()).unwrap();
            println!("written: {BASELINE}");
        }
        Some("--check") => return compare(true),
        _ => return compare(false),
    }
    ExitCode::SUCCESS
}

// --- What is counted -------------------------------------------------------------------------------------------------

struct Case {
    name: String,
    /// What a run is divided by: events, keys.
    units: usize,
    run: Box<dyn FnMut()>,
}

fn case(name: impl Into<String>, units: usize, run: impl FnMut() + 'static) -> Case {
    Case {
        name: name.into(),
        units,
        run: Box::new(run),
    }
}

/// Runs each case twice: what is made once, at its first use, is not counted.
fn run() {
    for mut case in cases() {
        (case.run)();
        counted_case(&mut case.run);
        println!("{}\t{}", case.units, case.name);
    }
}

/// Callgrind counts from here to the end, and writes down what it was.
#[inline(never)]
fn counted_case(run: &mut dyn FnMut()) {
    run();
    black_box(());
}

fn cases() -> Vec<Case> {
    let mut cases = vec![
        case("head: check of an SDK's", 1, || {
            assert!(passes(black_box(HEAD.as_bytes())));
        }),
        case("request: read, 100-byte prompt", 1, || {
            black_box(request(BODY));
        }),
    ];
    cases.extend(written());
    cases.extend(calls());
    cases.extend(confs());
    cases.extend(relays());
    cases
}

/// The provider's request from the client's.
fn written() -> impl Iterator<Item = Case> {
    let dialects: [&'static dyn Dialect; 4] = [
        &openai::OPENAI,
        &chat::CHAT,
        &anthropic::ANTHROPIC,
        &gemini::GEMINI,
    ];
    dialects.into_iter().map(|dialect| {
        let request = request(BODY);
        case(
            format!("request: written for {}", dialect.name()),
            1,
            move || {
                assert!(black_box(dialect.write_request(&request)).is_ok());
            },
        )
    })
}

/// From head and body to the call upstream.
fn calls() -> impl Iterator<Item = Case> {
    let config = r#"{"strategy":{"mode":"fallback"},"retry":{"attempts":2},"targets":[{"provider":"openai"},{"provider":"anthropic","override_params":{"model":"claude-sonnet-4-5"}}]}"#;
    let asked = [
        ("call: openai", "x-portkey-provider", "openai"),
        ("call: anthropic", "x-portkey-provider", "anthropic"),
        ("call: gemini", "x-portkey-provider", "google"),
        (
            "call: openai, by a config of two targets",
            "x-portkey-config",
            config,
        ),
    ];
    asked.into_iter().map(|(name, header, value)| {
        let gateway = gateway(CONF);
        let mut headers = headers("sk-client");
        headers.insert(header, HeaderValue::from_static(value));
        let body = Bytes::from_static(BODY.as_bytes());
        case(name, 1, move || {
            assert!(black_box(gateway.call(&headers, &body)).is_ok_and(|bytes| bytes > 0));
        })
    })
}

/// Confs read, and keys found in a large one.
fn confs() -> [Case; 3] {
    let mut providers = "gateway:\n  providers:\n".to_owned();
    for number in 0..PROVIDERS {
        let _ = writeln!(
            providers,
            "    vllm-{number}: {{ base_url: 'http://vllm-{number}.example:8000/v1', dialect: openai, api_key: 'env:KEY' }}"
        );
    }
    let mut keys = "gateway:\n  virtual_keys:\n".to_owned();
    for number in 0..KEYS {
        let hash = KeyHash::of(&key(number));
        let _ = writeln!(
            keys,
            "    key-{number}: {{ key_hash: '{hash}', models: ['gpt-*'] }}"
        );
    }
    let many = gateway(&keys);
    let asking = headers(&key(KEYS / 2));
    [
        case(format!("conf: read, {PROVIDERS} providers"), 1, move || {
            black_box(gateway(&providers));
        }),
        case(
            format!("conf: read, each of {KEYS} virtual keys"),
            KEYS,
            move || {
                black_box(gateway(&keys));
            },
        ),
        case(format!("key: found among {KEYS}"), 1, move || {
            assert!(many.identifies(black_box(&asking)));
        }),
    ]
}

/// What comes back.
fn relays() -> Vec<Case> {
    let mut cases = Vec::new();
    for sample in samples() {
        let (name, dialect) = (sample.name, sample.dialect);
        let stream = sample.events(EVENTS);
        if name == "openai" {
            let read = Bytes::from(stream.concat());
            cases.push(case("stream: cut into events, each", EVENTS, move || {
                assert!(black_box(events(read.clone())) > EVENTS);
            }));
        }
        cases.push(case(
            format!("stream: {name}, each event"),
            EVENTS,
            move || {
                relay(dialect, Answer::Stream, &stream);
            },
        ));
        let stream = sample.unlike_events(EVENTS);
        cases.push(case(
            format!("stream: {name}, each event, unlike the one before"),
            EVENTS,
            move || {
                relay(dialect, Answer::Stream, &stream);
            },
        ));
        let whole = [Bytes::from(sample.whole.clone())];
        cases.push(case(format!("whole: {name}, 4 KB"), 1, move || {
            relay(dialect, Answer::Whole, &whole);
        }));
    }
    cases
}

fn request(body: &'static str) -> CompletionRequest {
    CompletionRequest::read(Bytes::from_static(body.as_bytes())).unwrap()
}

fn gateway(conf: &str) -> Gateway {
    Gateway::of(conf, &Keys).unwrap()
}

/// Of [`HEAD`], with a key.
fn headers(key: &str) -> HeaderMap {
    let lines = HEAD
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(": "));
    let mut headers: HeaderMap = lines
        .map(|(name, value)| {
            let name: HeaderName = name.parse().unwrap();
            (name, HeaderValue::from_static(value))
        })
        .collect();
    let value = format!("Bearer {key}");
    headers.insert("authorization", value.parse().unwrap());
    headers
}

fn key(number: usize) -> String {
    format!("pc-0123456789abcdefghijklmnopqrstuvwxyz-{number:06}")
}

struct Keys;

impl Surroundings for Keys {
    fn variable(&self, _: &str) -> Option<String> {
        Some("sk-conf".to_owned())
    }

    fn file(&self, _: &str) -> Result<String, String> {
        Err("there is none".to_owned())
    }
}

// --- How it is counted -----------------------------------------------------------------------------------------------

/// What was counted, and with what.
struct Counts {
    tools: String,
    /// In the order of the cases.
    cases: Vec<(String, u64)>,
}

impl Counts {
    fn measured() -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("instructions");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let out = folder.join("out");
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--quiet"])
            .args(["--toggle-collect", "--dump-after"].map(|option| format!("{option}={MARK}")))
            .arg(format!("--callgrind-out-file={}", out.display()))
            .arg(env::current_exe().unwrap())
            .arg("--under-valgrind")
            .output()
            .expect("valgrind is missing");
        let told = String::from_utf8(output.stdout).unwrap();
        let failed = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{failed}");
        let lines = told.lines().filter_map(|line| line.split_once('\t'));
        let cases = (1..).zip(lines).map(|(number, (units, name))| {
            let units: u64 = units.parse().unwrap();
            (name.to_owned(), total(&out, number).div_ceil(units))
        });
        Self {
            cases: cases.collect(),
            tools: tools(),
        }
    }

    /// As the baseline holds it: the tools, then a line for each case.
    fn text(&self) -> String {
        let mut text = format!("# {}\n", self.tools);
        for (name, count) in &self.cases {
            let _ = writeln!(text, "{count:>10}  {name}");
        }
        text
    }

    fn read(text: &str) -> Self {
        let mut lines = text.lines();
        let tools = lines.next().unwrap_or_default();
        let cases = lines.filter_map(|line| {
            let (count, name) = line.trim_start().split_once("  ")?;
            Some((name.to_owned(), count.parse().ok()?))
        });
        Self {
            cases: cases.collect(),
            tools: tools.trim_start_matches("# ").to_owned(),
        }
    }
}

/// The instructions of one case, as callgrind wrote them down.
fn total(out: &Path, number: u32) -> u64 {
    let file = PathBuf::from(format!("{}.{number}", out.display()));
    let text = fs::read_to_string(&file).unwrap();
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix("summary: "));
    line.unwrap().trim().parse().unwrap()
}

/// What a count depends on beside the code.
fn tools() -> String {
    let version = |program: &str| {
        let output = Command::new(program).arg("--version").output();
        let output = output.map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&output).trim().to_owned()
    };
    format!(
        "{}, {}, {}",
        version("rustc"),
        version("valgrind"),
        env::consts::ARCH
    )
}

/// Tells each count beside the baseline's. It can only fail where the same tools counted both.
fn compare(fails: bool) -> ExitCode {
    let now = Counts::measured();
    let baseline = Counts::read(&fs::read_to_string(BASELINE).unwrap_or_default());
    let mut before: BTreeMap<_, _> = baseline.cases.iter().cloned().collect();
    let mut wrong = Vec::new();
    for (name, count) in &now.cases {
        let told = match before.remove(name) {
            Some(before) => {
                let change = (*count as f64 / before as f64 - 1.0) * 100.0;
                if change > TOLERANCE {
                    wrong.push(format!("{name}: {change:+.1} %"));
                }
                format!("{change:+6.1} %")
            }
            None => {
                wrong.push(format!("{name}: it is not in the baseline"));
                "     new".to_owned()
            }
        };
        println!("{count:>10}  {told}  {name}");
    }
    wrong.extend(
        before
            .keys()
            .map(|name| format!("{name}: it is not counted any more")),
    );
    if baseline.tools != now.tools {
        println!(
            "Counted with {}; the baseline with {}.",
            now.tools, baseline.tools
        );
        println!("Nothing can be said of the difference.");
        return ExitCode::SUCCESS;
    }
    if wrong.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("\nMore than {TOLERANCE} % above benches/instructions.txt, or not the same cases:");
    for line in &wrong {
        println!("  {line}");
    }
    println!("If that is meant: sh .ci/count --renew, and say why in the commit.");
    ExitCode::from(u8::from(fails))
}

const EVENTS: usize = 500;
const PROVIDERS: usize = 80;
const KEYS: usize = 10_000;
const CONF: &str = "
gateway:
  providers:
    openai: { api_key: 'env:KEY' }
    anthropic: { api_key: 'env:KEY' }
    google: { api_key: 'env:KEY' }
";
const BODY: &str = r#"{"model":"gpt-3.5-turbo-instruct","prompt":"Write a tagline for an ice cream shop. Write a tagline for an ice cream shop. Write a tagline for an ice","max_tokens":20,"temperature":0.5,"stream":true}"#;
/// OpenAI's Python SDK has these.
const HEAD: &str = "POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1:8787\r\naccept-encoding: gzip, deflate\r\nconnection: keep-alive\r\naccept: application/json\r\ncontent-type: application/json\r\nuser-agent: OpenAI/Python 2.9.0\r\nx-stainless-lang: python\r\nx-stainless-package-version: 2.9.0\r\nx-stainless-os: Linux\r\nx-stainless-arch: x64\r\nx-stainless-runtime: CPython\r\nx-stainless-runtime-version: 3.11.7\r\nauthorization: Bearer sk-0123456789abcdef0123456789abcdef0123456789abcdef\r\nx-stainless-async: false\r\nx-stainless-retry-count: 0\r\nx-stainless-read-timeout: 600\r\ncontent-length: 190\r\n\r\n";
