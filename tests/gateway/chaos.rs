//! Three targets, one of which fails three times in ten, one stalls, one dies and returns, behind balance, retries and
//! fallback: no client gets an error that its config could have avoided, and no request is delivered twice without a
//! failure before.

use std::{
    collections::HashMap,
    io::Write,
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{
    Gateway, PATIENCE,
    client::{Answer, Client, post},
    free_address,
    upstream::{
        After, DONE, LAST_CHUNK, Request, STREAM, TEXT, Upstream, chunk, event, json as answer,
        serve, wait_for_close,
    },
};

/// In every run of the tests; `CHAOS=10000` is the whole.
const REQUESTS: usize = 1_000;
const CLIENTS: usize = 12;
/// A target's time for its first token.
const TIMEOUT: Duration = Duration::from_millis(400);
/// The mortal's life and death.
const UP: Duration = Duration::from_millis(700);
const DOWN: Duration = Duration::from_millis(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Flaky,
    Staller,
    Mortal,
}

/// What a target did with one request.
#[derive(Clone, Debug)]
struct Delivery {
    target: Target,
    at: Instant,
    /// A good answer went out in full.
    answered: bool,
}

/// Everything that the targets got, by the id in the prompt.
#[derive(Default)]
struct Book {
    deliveries: Mutex<HashMap<usize, Vec<Delivery>>>,
    /// When the mortal was dead.
    deaths: Mutex<Vec<(Instant, Instant)>>,
}

impl Book {
    /// Which delivery of the request it is to `target`.
    fn enter(&self, request: &Request, target: Target) -> (usize, usize) {
        let id = id_of(request);
        let mut deliveries = self.deliveries.lock().unwrap();
        let known = deliveries.entry(id).or_default();
        let before = known.iter().filter(|known| known.target == target).count();
        known.push(Delivery {
            target,
            at: Instant::now(),
            answered: false,
        });
        (id, before)
    }

    fn mark_answered(&self, id: usize, target: Target, turn: usize) {
        let mut deliveries = self.deliveries.lock().unwrap();
        let known = deliveries.get_mut(&id).unwrap();
        let mut own = known.iter_mut().filter(|known| known.target == target);
        own.nth(turn).unwrap().answered = true;
    }

    fn was_dead(&self, from: Instant, to: Instant) -> bool {
        let deaths = self.deaths.lock().unwrap();
        // What is written to a socket in its last moment is lost as well.
        let slack = Duration::from_millis(20);
        deaths
            .iter()
            .any(|(start, end)| *start <= to + slack && *end + slack >= from)
    }
}

fn id_of(request: &Request) -> usize {
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    let prompt = body["prompt"].as_str().unwrap();
    prompt.strip_prefix("request ").unwrap().parse().unwrap()
}

fn is_streamed(id: usize) -> bool {
    id.is_multiple_of(2)
}

fn good_answer(id: usize) -> Vec<u8> {
    if !is_streamed(id) {
        return answer(200, TEXT);
    }
    let events = [event(" a", None), event("", Some("stop")), DONE.to_owned()].concat();
    [STREAM, &chunk(events), LAST_CHUNK].concat()
}

/// Answers well, and books it: before the bytes go, so that whoever reads them finds it booked.
fn answer_well(book: &Book, target: Target, id: usize, turn: usize, stream: &mut TcpStream) {
    book.mark_answered(id, target, turn);
    let _ = stream.write_all(&good_answer(id));
}

/// Of [0, 1), the same for the same delivery.
fn draw(id: usize, turn: usize, salt: u64) -> f64 {
    let seed = (id as u64) << 24 | (turn as u64) << 8 | salt;
    let mut dice = fastrand::Rng::with_seed(seed);
    dice.f64();
    dice.f64()
}

fn flaky(book: &Arc<Book>) -> Upstream {
    let book = book.clone();
    Upstream::start(move |request, stream| {
        let (id, turn) = book.enter(request, Target::Flaky);
        let luck = draw(id, turn, 1);
        if luck >= 0.3 {
            answer_well(&book, Target::Flaky, id, turn, stream);
            return After::Keep;
        }
        let told = r#"{"error":{"message":"no","type":"server_error"}}"#;
        let failure = match (luck * 1_000.0) as u32 % 5 {
            0 => answer(500, told),
            1 => answer(503, told),
            2 => b"HTTP/1.1 429 X\r\nretry-after-ms: 20\r\ncontent-length: 0\r\n\r\n".to_vec(),
            3 if is_streamed(id) => {
                [STREAM, &chunk(format!("data: {told}\n\n")), LAST_CHUNK].concat()
            }
            3 => answer(200, told),
            // It hangs up without a word.
            _ => return After::Close,
        };
        let _ = stream.write_all(&failure);
        After::Keep
    })
}

fn staller(book: &Arc<Book>) -> Upstream {
    let book = book.clone();
    Upstream::start(move |request, stream| {
        let (id, turn) = book.enter(request, Target::Staller);
        if draw(id, turn, 2) >= 0.2 {
            answer_well(&book, Target::Staller, id, turn, stream);
            return After::Keep;
        }
        if is_streamed(id) {
            let _ = stream.write_all(STREAM);
        }
        wait_for_close(stream);
        After::Close
    })
}

/// An upstream whose process comes and goes: its port refuses, its connections break.
struct Mortal {
    address: String,
    over: Arc<AtomicBool>,
}

impl Mortal {
    fn start(book: &Arc<Book>) -> Self {
        let address = free_address();
        let over = Arc::new(AtomicBool::new(false));
        let (book, own, end) = (book.clone(), address.clone(), over.clone());
        thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                Self::live(&own, &book);
                let died = Instant::now();
                thread::sleep(DOWN);
                // Bound again a moment later: until then it is as good as dead.
                let returns = Instant::now() + Duration::from_millis(50);
                book.deaths.lock().unwrap().push((died, returns));
            }
        });
        Self { address, over }
    }

    fn live(address: &str, book: &Arc<Book>) {
        let listener = TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let born = Instant::now();
        let mut connections = Vec::new();
        while born.elapsed() < UP {
            let Ok((stream, _)) = listener.accept() else {
                thread::sleep(Duration::from_millis(1));
                continue;
            };
            stream.set_nonblocking(false).unwrap();
            connections.push(stream.try_clone().unwrap());
            let book = book.clone();
            thread::spawn(move || {
                let script = move |request: &Request, stream: &mut TcpStream| {
                    let (id, turn) = book.enter(request, Target::Mortal);
                    answer_well(&book, Target::Mortal, id, turn, stream);
                    After::Keep
                };
                serve(stream, 0, &script, &Mutex::default());
            });
        }
        for connection in connections {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Any of the three, and if that fails each of them, in a row.
fn config(addresses: [&str; 3]) -> String {
    let targets = addresses.map(|address| {
        json!({
            "provider": "openai", "api_key": "sk-x",
            "custom_host": format!("http://{address}/v1"),
        })
    });
    let [flaky, staller, mortal] = targets.clone();
    json!({
        "strategy": {"mode": "fallback"},
        "retry": {"attempts": RETRIES, "use_retry_after_header": true},
        "request_timeout": TIMEOUT.as_millis() as u64,
        "targets": [
            {"strategy": {"mode": "loadbalance"}, "targets": targets},
            mortal, staller, flaky,
        ],
    })
    .to_string()
}

const RETRIES: usize = 1;
/// Of one target: it may be the drawn one, and it is one of the row.
const MOST_DELIVERIES: usize = 2 * (1 + RETRIES);

/// A request, as its client saw it.
struct Told {
    id: usize,
    from: Instant,
    to: Instant,
    answer: Answer,
}

fn send_all(gateway: &Gateway, config: &str, count: usize) -> Vec<Told> {
    let next = AtomicUsize::new(0);
    let told = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = Client::connect(&gateway.address);
                loop {
                    let id = next.fetch_add(1, Ordering::Relaxed);
                    if id >= count {
                        return;
                    }
                    let body = json!({
                        "model": "m", "prompt": format!("request {id}"), "stream": is_streamed(id),
                    });
                    let from = Instant::now();
                    client.send(post(&[("x-portkey-config", config)], &body.to_string()));
                    let answer = client.read();
                    if answer.header("connection") == Some("close") || !answer.complete {
                        client = Client::connect(&gateway.address);
                    }
                    let to = Instant::now();
                    told.lock().unwrap().push(Told {
                        id,
                        from,
                        to,
                        answer,
                    });
                }
            });
        }
    });
    told.into_inner().unwrap()
}

fn is_good(told: &Told) -> bool {
    let text = told.answer.text();
    let whole = match is_streamed(told.id) {
        true => text.ends_with(DONE) && !text.contains("\"error\""),
        false => text.contains(" hello"),
    };
    told.answer.status == 200 && told.answer.complete && whole
}

/// What is wrong with how a request was served.
fn complaint(told: &Told, book: &Book) -> Option<String> {
    let deliveries = book.deliveries.lock().unwrap();
    let own = deliveries.get(&told.id).map_or(&[][..], Vec::as_slice);
    let of = |target| own.iter().filter(move |delivery| delivery.target == target);
    let complain = |what: &str| {
        let (status, text) = (told.answer.status, told.answer.text());
        Some(format!("{}: {what}: {status} {text} {own:?}", told.id))
    };
    for target in [Target::Flaky, Target::Staller, Target::Mortal] {
        if of(target).count() > MOST_DELIVERIES {
            return complain("delivered more often than the config says");
        }
    }
    let after_success = own.windows(2).any(|pair| pair[0].answered);
    // An answer that the mortal took with it into death was lost on the way.
    let lost = own[..own.len().saturating_sub(1)]
        .iter()
        .all(|delivery| !delivery.answered || delivery.target == Target::Mortal)
        && book.was_dead(told.from, told.to);
    // A machine that is busy may hold a good answer up for longer than the time that it has.
    let late = own
        .windows(2)
        .all(|pair| !pair[0].answered || pair[1].at - pair[0].at >= TIMEOUT);
    if after_success && !lost && !late {
        return complain("delivered again after a good answer");
    }
    if is_good(told) {
        return None;
    }
    let tried = of(Target::Flaky).count() > 0
        && of(Target::Staller).count() > 0
        && (of(Target::Mortal).count() > 0 || book.was_dead(told.from, told.to));
    (!tried).then(|| complain("an error with targets left"))?
}

#[test]
fn no_client_sees_an_error_that_its_config_could_have_avoided() {
    let count = std::env::var("CHAOS").map_or(REQUESTS, |count| count.parse().unwrap());
    let book = Arc::new(Book::default());
    let (flaky, staller, mortal) = (flaky(&book), staller(&book), Mortal::start(&book));
    let addresses = [&flaky.address, &staller.address, &mortal.address];
    let hosts = addresses.map(|address| format!("\"{address}\"")).join(", ");
    let gateway = Gateway::start(&format!("  allowed_hosts: [{hosts}]\n"));
    let config = config(addresses.map(String::as_str));
    let started = Instant::now();
    let told = send_all(&gateway, &config, count);
    // The mortal's last death is booked when it returns.
    thread::sleep(DOWN + UP);
    let complaints: Vec<_> = told
        .iter()
        .filter_map(|told| complaint(told, &book))
        .collect();
    assert!(
        complaints.is_empty(),
        "{} of {count}\n{}",
        complaints.len(),
        complaints[..complaints.len().min(20)].join("\n")
    );
    let errors = told.iter().filter(|told| !is_good(told)).count();
    // All three fail at once for about one in a thousand.
    assert!(errors * 100 <= count, "{errors} errors of {count}");
    // A hundred requests must not wait for a stalled target's sake longer than their config says.
    let slowest = told.iter().map(|told| told.to - told.from).max().unwrap();
    assert!(slowest < PATIENCE, "{slowest:?} in {:?}", started.elapsed());
}
