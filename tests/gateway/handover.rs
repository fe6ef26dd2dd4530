//! A new binary takes over from a running one, under load and while confs are reloaded: no request fails, no stream is cut.
//!
//! The small round runs with the other tests. The one that is documented takes about two minutes and is run by
//! `cargo test --release --test gateway handover -- --ignored --nocapture`.

use std::{
    io::Write,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::support::{
    Gateway, PATIENCE,
    client::{self, Client, PLAIN, ROADS, STREAMED, post},
    providers_at,
    upstream::{After, DONE, LAST_CHUNK, STREAM, TEXT, Upstream, chunk, event, json, watching},
    wait_for,
};

/// How much of everything.
#[derive(Clone, Copy, Debug)]
struct Round {
    upgrades: usize,
    /// During each upgrade.
    reloads: usize,
    requests_per_second: usize,
    streams: usize,
    /// Of the longest stream, a quarter of a second each.
    events: usize,
}

#[test]
fn a_new_binary_takes_over_without_a_failed_request_or_a_cut_stream() {
    play(Round {
        upgrades: 1,
        reloads: 3,
        requests_per_second: 100,
        streams: 20,
        events: 12,
    });
}

#[test]
#[ignore = "two minutes of load"]
fn ten_upgrades_and_fifty_reloads_under_load() {
    play(Round {
        upgrades: 10,
        reloads: 5,
        requests_per_second: 500,
        streams: 200,
        events: 40,
    });
}

#[test]
fn a_quit_without_a_successor_ends_nothing() {
    let upstream = Upstream::answering(json(200, TEXT));
    let gateway = Gateway::before(&upstream.address);
    gateway.signal("QUIT");
    gateway.wait_for_log("no process started with -u waits");
    let answer = client::ask(&gateway.address, &[], r#"{"prompt":"x"}"#);
    assert_eq!(answer.status, 200);
}

#[test]
fn a_stream_that_outlasts_the_drain_is_told_so() {
    let upstream = Upstream::start(|_, stream| {
        stream.write_all(STREAM).unwrap();
        while stream.write_all(&chunk(event(" a", None))).is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
        After::Close
    });
    for road in ROADS {
        let lines = providers_at(&upstream.address) + "grace_period_seconds: 1\n";
        let mut gateway = Gateway::start(&lines);
        let mut client = Client::connect(&gateway.address);
        client.send(post(road, STREAMED));
        client.read_head();
        client.read_chunk().unwrap();
        gateway.signal("TERM");
        let (mut last, mut whole) = (Vec::new(), false);
        while let Some(piece) = client.read_chunk().filter(|_| !whole) {
            whole = piece.is_empty();
            if !whole {
                last = piece;
            }
        }
        let last = String::from_utf8(last).unwrap();
        assert!(whole && last.contains("gateway_stopping"), "{last}");
        let status = wait_for(|| gateway.child.try_wait().unwrap()).expect("it goes on");
        assert!(status.success());
        assert!(gateway.logged().contains("1 in flight are cut"));
    }
}

#[test]
fn what_is_silent_at_the_end_of_the_drain_is_told_so() {
    let (silent, _closing) = watching([STREAM, &chunk(event(" a", None))].concat());
    let (mute, _closing) = watching([]);
    for (upstream, road, body, lines) in [
        (&silent, ROADS[1], STREAMED, ""),
        (
            &silent,
            ROADS[0],
            STREAMED,
            "  timeouts: { heartbeat: 15s }\n",
        ),
        (&mute, ROADS[1], STREAMED, ""),
        (&mute, ROADS[0], PLAIN, ""),
    ] {
        let lines = providers_at(&upstream.address) + lines + "grace_period_seconds: 1\n";
        let mut gateway = Gateway::start(&lines);
        let mut client = Client::connect(&gateway.address);
        let before = upstream.seen().len();
        client.send(post(road, body));
        upstream.wait_for_requests(before + 1);
        gateway.signal("TERM");
        let answer = client.read();
        assert!(answer.complete, "{answer:?}");
        assert!(answer.text().contains("gateway_stopping"), "{answer:?}");
        let status = if upstream.address == mute.address {
            503
        } else {
            200
        };
        assert_eq!(answer.status, status);
        let status = wait_for(|| gateway.child.try_wait().unwrap()).expect("it goes on");
        assert!(status.success());
    }
}

/// What the clients saw.
#[derive(Default)]
struct Tally {
    over: AtomicBool,
    requests: AtomicUsize,
    streams: AtomicUsize,
    failures: Mutex<Vec<String>>,
    /// The request that took longest, in milliseconds.
    slowest: AtomicUsize,
}

impl Tally {
    fn count(&self, counter: &AtomicUsize, result: std::io::Result<()>) {
        counter.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = result {
            self.failures.lock().unwrap().push(error.to_string());
        }
    }

    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }
}

fn play(round: Round) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let upstream = runtime.block_on(upstream());
    let mut gateway = Gateway::start(&providers_at(&upstream));
    let tally = Arc::new(Tally::default());
    let mut clients = Vec::new();
    let workers = round.requests_per_second.div_ceil(10);
    for number in 0..workers {
        let pause = Duration::from_secs(1) * workers as u32 / round.requests_per_second as u32;
        let (address, tally) = (gateway.address.clone(), tally.clone());
        clients.push(match number % 5 {
            0 => runtime.spawn(ask_by_http2(address, pause, tally)),
            _ => runtime.spawn(ask(address, pause, tally)),
        });
    }
    for number in 0..round.streams {
        let events = round.events / 4 + number * round.events * 3 / 4 / round.streams;
        clients.push(runtime.spawn(listen(
            gateway.address.clone(),
            number,
            events,
            tally.clone(),
        )));
    }
    let started = Instant::now();
    let mut retired = Vec::new();
    for _ in 0..round.upgrades {
        let next = gateway.successor();
        gateway.signal("QUIT");
        next.wait_for_log("Bootstrap done");
        for _ in 0..round.reloads {
            std::thread::sleep(Duration::from_secs(6) / round.reloads as u32);
            next.signal("HUP");
        }
        gateway.wait_for_log("draining");
        retired.push(std::mem::replace(&mut gateway, next));
        let last = &gateway;
        let reloads = wait_for(|| {
            let count = last.logged().matches("the conf was reloaded").count();
            Some(count).filter(|count| *count >= round.reloads)
        });
        assert_eq!(reloads, Some(round.reloads), "{}", last.logged());
    }
    for old in &mut retired {
        let status = wait_for(|| old.child.try_wait().unwrap()).expect("it goes on");
        assert!(status.success());
        assert!(old.logged().contains("drained"), "{}", old.logged());
    }
    let lasted = started.elapsed();
    tally.over.store(true, Ordering::Relaxed);
    runtime.block_on(async {
        for client in clients {
            client.await.unwrap();
        }
    });
    let failures = tally.failures.lock().unwrap();
    // What the last process holds, which has read its conf again and again.
    let memory = std::fs::read_to_string(format!("/proc/{}/status", gateway.child.id()));
    let memory = memory.unwrap_or_default();
    let memory = memory.lines().find(|line| line.starts_with("VmRSS"));
    println!(
        "{round:?}: {} requests, the slowest in {} ms, {} streams in {:?}, {} failed, {memory:?}",
        tally.requests.load(Ordering::Relaxed),
        tally.slowest.load(Ordering::Relaxed),
        tally.streams.load(Ordering::Relaxed),
        lasted,
        failures.len(),
    );
    assert!(failures.is_empty(), "{failures:?}");
}

/// Requests on one connection after another, each used for as long as the gateway allows.
async fn ask(address: String, pause: Duration, tally: Arc<Tally>) {
    let mut connection = None;
    let mut tick = tokio::time::interval(pause);
    let mut road = 0;
    while tally.goes_on() {
        tick.tick().await;
        road += 1;
        let started = Instant::now();
        let asked = ask_once(&address, &mut connection, ROADS[road % ROADS.len()]);
        let asked = tokio::time::timeout(PATIENCE, asked).await;
        let asked = asked.unwrap_or_else(|_| Err(std::io::Error::other("no answer")));
        if asked.is_err() {
            connection = None;
        }
        let took = started.elapsed().as_millis() as usize;
        tally.slowest.fetch_max(took, Ordering::Relaxed);
        tally.count(&tally.requests, asked);
    }
}

/// Requests on a connection of HTTP/2, until the gateway says that it goes away.
async fn ask_by_http2(address: String, pause: Duration, tally: Arc<Tally>) {
    let mut tick = tokio::time::interval(pause);
    while tally.goes_on() {
        let stream = TcpStream::connect(&address).await.unwrap();
        let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        while tally.goes_on() {
            tick.tick().await;
            // Gone, in good time: nothing was asked yet.
            sender = match sender.ready().await {
                Ok(sender) => sender,
                Err(_) => break,
            };
            let started = Instant::now();
            let asked = tokio::time::timeout(PATIENCE, ask_stream(&mut sender));
            let asked = asked.await.unwrap_or_else(|_| Err("no answer".to_owned()));
            let took = started.elapsed().as_millis() as usize;
            tally.slowest.fetch_max(took, Ordering::Relaxed);
            let asked = asked.map_err(|why| std::io::Error::other(format!("HTTP/2: {why}")));
            tally.count(&tally.requests, asked);
        }
    }
}

async fn ask_stream(sender: &mut h2::client::SendRequest<bytes::Bytes>) -> Result<(), String> {
    let request = http::Request::post("http://gateway/v1/completions")
        .body(())
        .unwrap();
    let sent = sender.send_request(request, false);
    let (answer, mut stream) = sent.map_err(|error| error.to_string())?;
    let sent = stream.send_data(PLAIN.into(), true);
    sent.map_err(|error| error.to_string())?;
    let answer = answer.await.map_err(|error| error.to_string())?;
    let (head, mut body) = answer.into_parts();
    let mut length = 0;
    while let Some(piece) = body.data().await {
        length += piece.map_err(|error| error.to_string())?.len();
    }
    match head.status.as_u16() {
        200 if length > 0 => Ok(()),
        status => Err(format!("{status} of {length} bytes")),
    }
}

type Connection = BufReader<TcpStream>;

async fn connect(address: &str) -> std::io::Result<Connection> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

async fn ask_once(
    address: &str,
    kept: &mut Option<Connection>,
    road: &[(&str, &str)],
) -> std::io::Result<()> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => connect(address).await?,
    };
    connection.write_all(post(road, PLAIN).as_bytes()).await?;
    let head = read_head(&mut connection).await?;
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length = length.and_then(|length| length.trim().parse::<usize>().ok());
    let mut body = vec![0; length.ok_or_else(|| std::io::Error::other(head.clone()))?];
    connection.read_exact(&mut body).await?;
    if !head.starts_with("http/1.1 200") {
        return Err(std::io::Error::other(head));
    }
    if !head.contains("connection: close") {
        *kept = Some(connection);
    }
    Ok(())
}

/// A head, in lower case.
async fn read_head(connection: &mut Connection) -> std::io::Result<String> {
    let mut head = String::new();
    loop {
        let before = head.len();
        if connection.read_line(&mut head).await? == 0 {
            return Err(std::io::Error::other(format!("no answer: {head:?}")));
        }
        if head.len() == before + 2 {
            return Ok(head.to_ascii_lowercase());
        }
    }
}

/// One stream after another, read to its end.
async fn listen(address: String, number: usize, events: usize, tally: Arc<Tally>) {
    while tally.goes_on() {
        let heard = hear(&address, ROADS[number % ROADS.len()], events).await;
        tally.count(&tally.streams, heard);
    }
}

async fn hear(address: &str, road: &[(&str, &str)], events: usize) -> std::io::Result<()> {
    let mut connection = connect(address).await?;
    let body = STREAMED.replace("\"max_tokens\":5", &format!("\"max_tokens\":{events}"));
    connection.write_all(post(road, &body).as_bytes()).await?;
    let head = read_head(&mut connection).await?;
    let (mut seen, mut line) = (0, String::new());
    loop {
        line.clear();
        if connection.read_line(&mut line).await? == 0 {
            let message = format!("a stream was cut after {seen} of {events}: {head}");
            return Err(std::io::Error::other(message));
        }
        seen += usize::from(line.contains("\"finish_reason\":null"));
        if line.starts_with("0\r") {
            break;
        }
    }
    match seen == events {
        true => Ok(()),
        false => Err(std::io::Error::other(format!("{seen} of {events}: {head}"))),
    }
}

/// An upstream that streams `max_tokens` events, four a second.
async fn upstream() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

async fn serve(stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = BufReader::new(stream);
    while let Ok(head) = read_head(&mut connection).await {
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.unwrap().parse().unwrap()];
        connection.read_exact(&mut body).await?;
        let asked: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let events = asked["max_tokens"].as_u64();
        match events.filter(|_| asked["stream"] == true) {
            None => connection.write_all(&json(200, TEXT)).await?,
            Some(events) => {
                connection.write_all(STREAM).await?;
                for _ in 0..events {
                    connection.write_all(&chunk(event(" a", None))).await?;
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
                let last = event("", Some("stop")) + DONE;
                connection.write_all(&chunk(last)).await?;
                connection.write_all(LAST_CHUNK).await?;
            }
        }
    }
    Ok(())
}
