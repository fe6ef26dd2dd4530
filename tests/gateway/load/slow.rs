//! Clients that do harm by being slow, or by what they send: others are served as before, and none costs much more than it
//! sends.

use std::{
    fmt,
    io::Result,
    sync::{Mutex, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use pingora_completions::bench::Times;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    runtime::Runtime,
    task::JoinSet,
};

use super::{Part, Road, gateway_before, runtime, upstream::Upstream};
use crate::support::{
    Gateway,
    client::{Client, request},
    wait_for,
};

/// How much of everything.
#[derive(Clone, Copy, Debug)]
struct Round {
    /// Connections that say nothing.
    idle: usize,
    /// Heads, and bodies, of which a byte comes each [`DRIP`].
    heads: usize,
    bodies: usize,
    /// Streams without an end, of which [`SIP`] bytes are read each [`DRIP`].
    readers: usize,
    /// Without the attackers and with them, in turns.
    turns: usize,
    turn: Duration,
}

#[test]
fn good_clients_are_served_beside_slow_ones() {
    let found = play(Round {
        idle: 200,
        heads: 20,
        bodies: 20,
        readers: 5,
        turns: 1,
        turn: Duration::from_secs(1),
    });
    // Beside other tests a ratio says nothing: all were answered, and none of them had to wait for an attacker.
    assert!(found.with[0].max() < Duration::from_secs(5), "{found}");
}

#[test]
#[ignore = "a minute of load, and a ratio of times"]
fn five_thousand_slow_clients_do_not_slow_down_good_ones() {
    let found = play(Round {
        idle: 5_000,
        heads: 500,
        bodies: 500,
        readers: 100,
        turns: 8,
        turn: Duration::from_secs(5),
    });
    assert!(found.ratio() <= 2.0, "{found}");
}

/// What came of a round.
struct Found {
    round: Round,
    /// The good clients' times of each turn.
    without: Vec<Times>,
    with: Vec<Times>,
    /// Resident bytes for each attacker.
    each: usize,
    /// Processor time in turns.
    cpu: [Duration; 2],
}

impl Found {
    /// Of the 99th percentiles: each is the median of its turns, as a neighbour's burst is in one turn and not in the next.
    fn ratio(&self) -> f64 {
        median(&self.with) / median(&self.without)
    }
}

fn median(turns: &[Times]) -> f64 {
    let mut found: Vec<_> = turns.iter().map(|times| times.percentile(0.99)).collect();
    found.sort();
    found[found.len() / 2].as_secs_f64()
}

impl fmt::Display for Found {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |turns: &[Times]| {
            let told = turns.iter().map(|times| {
                let share = |share| times.percentile(share).as_secs_f64() * 1e3;
                format!("{:.2}/{:.2}/{:.2}", share(0.5), share(0.99), share(1.0))
            });
            told.collect::<Vec<_>>().join(" ")
        };
        write!(
            out,
            "{:?}: p50/p99/most ms without {}, with {}; ratio of p99 {:.2}; CPU {:?} without, {:?} with; {:.1} KiB resident for each attacker",
            self.round,
            millis(&self.without),
            millis(&self.with),
            self.ratio(),
            self.cpu[0],
            self.cpu[1],
            self.each as f64 / 1024.0
        )
    }
}

fn play(round: Round) -> Found {
    let attackers = runtime();
    // Its own, so that the good clients' upstream does not wait for the attackers'.
    let calm = runtime();
    let (upstream, flooding) = (Upstream::start(&calm), Upstream::start(&attackers));
    let flood = format!(
        "    groq: {{ base_url: \"http://{}/v1\", api_key: sk-load }}\n",
        flooding.address
    );
    let gateway = gateway_before(&upstream.address, &flood);
    ask_well(&gateway, Duration::from_millis(500));
    let mut found = Found {
        round,
        without: Vec::new(),
        with: Vec::new(),
        each: 0,
        cpu: [Duration::ZERO; 2],
    };
    let resident = gateway.resident();
    for _ in 0..round.turns {
        let times = measured(&gateway, round.turn, &mut found.cpu[0]);
        found.without.push(times);
        let mut attack = JoinSet::new();
        start(&attackers, &mut attack, round, &gateway);
        wait_until_calm(&gateway);
        let count = round.idle + round.heads + round.bodies + round.readers;
        let grown = gateway.resident().saturating_sub(resident);
        found.each = found.each.max(grown / count);
        let times = measured(&gateway, round.turn, &mut found.cpu[1]);
        found.with.push(times);
        let open = gateway.metric("completions_connections", &[]);
        // Some have just been turned away.
        assert!(
            open >= count as f64 * 0.9,
            "{open} of {count} attackers are left"
        );
        drop(attack);
        let gone = wait_for(|| {
            let open = gateway.metric("completions_connections", &[]);
            (open == 0.0).then_some(())
        });
        assert!(gone.is_some(), "attackers stay");
    }
    println!("{found}");
    found
}

/// The times of good clients in a turn.
fn measured(gateway: &Gateway, turn: Duration, cpu: &mut Duration) -> Times {
    let before = gateway.reading().cpu;
    let times = ask_well(gateway, turn);
    *cpu += gateway.reading().cpu - before;
    times
}

/// Requests at a steady rate, on a few connections, each of which has to be answered. A time counts from when its request was
/// due.
fn ask_well(gateway: &Gateway, turn: Duration) -> Times {
    let all = Mutex::new(Times::default());
    let started = Instant::now();
    thread::scope(|scope| {
        for number in 0..GOOD {
            let all = &all;
            scope.spawn(move || {
                let mut client = Client::connect(&gateway.address);
                let request = Road::Verbatim.request(&Part::default(), false);
                let mut due = started + PERIOD * number / GOOD;
                while started.elapsed() < turn {
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    client.send(&request);
                    assert_eq!(client.read().status, 200);
                    all.lock().unwrap().add(due.elapsed());
                    due += PERIOD;
                }
            });
        }
    });
    all.into_inner().unwrap()
}

/// Good clients, and how often each of them asks.
const GOOD: u32 = 4;
const PERIOD: Duration = Duration::from_millis(10);

/// Has all attackers connect.
fn start(runtime: &Runtime, attack: &mut JoinSet<()>, round: Round, gateway: &Gateway) {
    let part = Part {
        events: u64::MAX,
        ..Part::default()
    };
    let stream = Road::Verbatim.request(&part, true);
    let stream = stream.replace("provider: openai", "provider: groq");
    let whole = Road::Verbatim.request(&Part::default(), false);
    let head = whole.find("\r\n\r\n").unwrap() + 4;
    let long = whole[..head].replace("content-length: ", "content-length: 9");
    for (count, kind, said) in [
        (round.idle, Kind::Idle, ""),
        (round.heads, Kind::Drip, &whole[..30]),
        (round.bodies, Kind::Drip, &long),
        (round.readers, Kind::Sip, &stream),
    ] {
        for number in 0..count {
            let (address, said) = (gateway.address.clone(), said.to_owned());
            let begin = SPREAD * number as u32 / count as u32;
            attack.spawn_on(
                async move {
                    tokio::time::sleep(begin).await;
                    loop {
                        // Whoever is turned away comes again.
                        let _ = harm(&address, kind, said.as_bytes()).await;
                        tokio::time::sleep(DRIP).await;
                    }
                },
                runtime.handle(),
            );
        }
    }
}

/// What an attacker does once it has said its first words.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Idle,
    Drip,
    Sip,
}

async fn harm(address: &str, kind: Kind, said: &[u8]) -> Result<()> {
    let socket = TcpSocket::new_v4()?;
    // What the system holds for it is not the gateway's.
    socket.set_recv_buffer_size(4 << 10)?;
    let mut stream = socket.connect(address.parse().unwrap()).await?;
    stream.write_all(said).await?;
    let mut piece = [0; SIP];
    loop {
        match kind {
            Kind::Idle => {
                // Until it is closed.
                let _ = stream.read(&mut piece).await?;
                return Ok(());
            }
            Kind::Drip => stream.write_all(b"x").await?,
            Kind::Sip if stream.read(&mut piece).await? == 0 => return Ok(()),
            Kind::Sip => {}
        }
        tokio::time::sleep(DRIP).await;
    }
}

/// Waits until the attackers are there and their streams held back, so that what is measured is their slowness.
fn wait_until_calm(gateway: &Gateway) {
    let is_calm = || {
        let before = gateway.reading().cpu;
        thread::sleep(Duration::from_secs(1));
        gateway.reading().cpu - before <= Duration::from_millis(200)
    };
    thread::sleep(SPREAD);
    assert!(
        wait_for(|| is_calm().then_some(())).is_some(),
        "it never rests"
    );
}

const DRIP: Duration = Duration::from_millis(250);
/// Over how long the attackers come, so that those that are turned away after a time are not all at once.
const SPREAD: Duration = Duration::from_secs(2);
const SIP: usize = 256;

/// A request that should cost more than it is long.
struct Shape {
    name: &'static str,
    /// The field of the body that has it.
    field: fn(usize) -> String,
}

const SHAPES: [Shape; 6] = [
    Shape {
        name: "text",
        field: |size| format!(r#""prompt":"{}""#, "a".repeat(size)),
    },
    Shape {
        name: "escapes",
        field: |size| format!(r#""prompt":"{}""#, r"\u00e9".repeat(size / 6)),
    },
    Shape {
        name: "texts",
        field: |size| format!(r#""prompt":["",{}""]"#, r#""","#.repeat(size / 3)),
    },
    Shape {
        name: "tokens",
        field: |size| format!(r#""prompt":[{}1]"#, "1,".repeat(size / 2)),
    },
    Shape {
        name: "token lists",
        field: |size| format!(r#""prompt":[{}[1]]"#, "[1],".repeat(size / 4)),
    },
    Shape {
        name: "unknown field",
        field: |size| format!(r#""prompt":"x","x":[{}[]]"#, "[],".repeat(size / 3)),
    },
];

/// As the attackers' bound is: a client that sends a byte has the gateway hold this many, at most, beside what a connection
/// costs anyway.
const DEAR: f64 = 20.0;

#[test]
fn no_request_is_held_in_much_more_memory_than_it_was_sent_in() {
    weigh(256 << 10, 8);
}

#[test]
#[ignore = "a gigabyte of memory, should it fail"]
fn no_large_request_is_held_in_much_more_memory_than_it_was_sent_in() {
    weigh(4 << 20, 8);
}

/// Has `count` requests of some `size` bytes wait at the upstream, of each shape on each road.
fn weigh(size: usize, count: usize) {
    let runtime = runtime();
    for shape in &SHAPES {
        for road in Road::SINGLE {
            let held = hold(&runtime, shape, road, size, count);
            println!("{}, {road:?}: {held:?}", shape.name);
            assert!(held.upstream <= DEAR, "{}", shape.name);
            assert!(held.memory <= DEAR, "{}", shape.name);
        }
    }
}

/// What requests cost, each as a multiple of what was sent.
#[derive(Debug)]
struct Cost {
    memory: f64,
    upstream: f64,
}

fn hold(runtime: &Runtime, shape: &Shape, road: Road, size: usize, count: usize) -> Cost {
    let upstream = Upstream::start(runtime);
    let gateway = gateway_before(&upstream.address, "");
    let mut first = Client::connect(&gateway.address);
    first.send(road.request(&Part::default(), false));
    assert_eq!(first.read().status, 200);
    let request = heavy(shape, road, size);
    let answered = || gateway.metric("completions_requests_total", &[]);
    // It is counted behind its answer's last byte.
    assert!(wait_for(|| (answered() >= 1.0).then_some(())).is_some());
    let (before, received) = (gateway.resident(), &upstream.state.received);
    let (passed, done) = (received.load(Ordering::Relaxed), answered());
    let (mut held, mut refused) = (Vec::new(), false);
    while held.len() < count && !refused {
        let mut client = Client::connect(&gateway.address);
        client.send(&request);
        held.push(client);
        let serving = &upstream.state.serving;
        let arrived = wait_for(|| {
            refused = answered() > done;
            (refused || serving.load(Ordering::SeqCst) == held.len()).then_some(())
        });
        assert!(arrived.is_some(), "it never arrives");
    }
    let sent = (request.len() * held.len()) as f64;
    let grown = gateway.reading().peak - before as u64;
    Cost {
        memory: grown as f64 / sent,
        upstream: (received.load(Ordering::Relaxed) - passed) as f64 / sent,
    }
}

/// A request whose answer is waited for.
fn heavy(shape: &Shape, road: Road, size: usize) -> String {
    let part = Part {
        wait: Duration::from_secs(600),
        ..Part::default()
    };
    let plain = road.request(&part, false);
    let (head, body) = plain.split_once("\r\n\r\n").unwrap();
    let header = head.lines().find(|line| line.starts_with("x-portkey"));
    let field = (shape.field)(size);
    let body = body.replace(&format!(r#""prompt":"{part}""#), &field);
    let body = body.replacen('{', &format!(r#"{{"user":"{part}","#), 1);
    let header = header.unwrap().split_once(": ").unwrap();
    request("POST", "/v1/completions", &[header], &body)
}

/// Heads and bodies of which the last byte never comes.
#[test]
fn what_is_not_whole_is_held_in_much_less_memory_than_twenty_times_its_size() {
    let runtime = runtime();
    let upstream = Upstream::start(&runtime);
    let long = "a".repeat(48 << 10);
    let heads = format!("POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-a: {long}");
    let bodies = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99999\r\n\r\n{{\"prompt\":\"{long}"
    );
    for said in [heads, bodies] {
        let gateway = gateway_before(&upstream.address, "");
        let before = gateway.resident();
        let held: Vec<_> = (0..200)
            .map(|_| {
                let mut client = Client::connect(&gateway.address);
                client.send(&said);
                client
            })
            .collect();
        let all = wait_for(|| {
            let open = gateway.metric("completions_connections", &[]);
            (open == held.len() as f64).then_some(())
        });
        assert!(all.is_some());
        let grown = gateway.resident().saturating_sub(before) as f64;
        let times = grown / (said.len() * held.len()) as f64;
        println!("{}... x {}: memory x {times:.1}", &said[..20], held.len());
        assert!(times <= DEAR, "{times}");
    }
}
