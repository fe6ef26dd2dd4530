//! Clients that leave, anywhere: nothing of their requests stays, and the upstream is left at once.

use std::{
    collections::HashMap,
    io::Result,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use fastrand::Rng;
use pingora_completions::bench::Times;
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Runtime,
};

use super::{Part, Road, gateway_before, runtime, upstream::Upstream};
use crate::support::{Gateway, wait_for};

/// How much of everything.
#[derive(Clone, Copy, Debug)]
struct Round {
    leavings: u64,
    /// At the same time.
    clients: u64,
    /// How soon the upstream is left, in 99 of 100 cases.
    within: Duration,
}

#[test]
fn clients_that_leave_anywhere_leave_nothing_behind() {
    play(Round {
        leavings: 1_000,
        clients: 16,
        // Other tests run beside this one.
        within: Duration::from_secs(1),
    });
}

#[test]
#[ignore = "minutes of load"]
fn a_hundred_thousand_clients_leave_nothing_behind() {
    play(Round {
        leavings: 100_000,
        clients: 32,
        within: Duration::from_millis(50),
    });
}

/// Where a client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    /// A part of its head is out, or nothing.
    Head,
    /// Its head and a part of its body are.
    Body,
    /// The upstream says nothing.
    Waiting,
    /// A stream goes on.
    Streaming,
    /// It has its answer.
    End,
}

const PLACES: [Place; 5] = [
    Place::Head,
    Place::Body,
    Place::Waiting,
    Place::Streaming,
    Place::End,
];

/// When clients left, by their number.
type Book = Mutex<HashMap<u64, Instant>>;

fn play(round: Round) {
    let runtime = runtime();
    let upstream = Upstream::start(&runtime);
    let gateway = gateway_before(&upstream.address, "");
    // What the process opens once and keeps.
    for road in Road::ALL {
        let part = Part::default();
        runtime
            .block_on(ask(&gateway.address, &road.request(&part, false)))
            .unwrap();
    }
    assert!(is_idle(&gateway, &upstream));
    let (before, memory) = (gateway.descriptors().len(), gateway.resident());
    let (book, started) = (Arc::new(Book::default()), Instant::now());
    let sent = leave_all(&runtime, &gateway, round, &book);
    let lasted = started.elapsed();
    let idle = is_idle(&gateway, &upstream);
    let state = &upstream.state;
    let counts = [
        (
            "requests in flight",
            gateway.metric("completions_in_flight", &[]),
        ),
        (
            "client connections",
            gateway.metric("completions_connections", &[]),
        ),
        (
            "upstream connections",
            state.open.load(Ordering::SeqCst) as f64,
        ),
        (
            "upstream requests",
            state.serving.load(Ordering::SeqCst) as f64,
        ),
    ];
    let descriptors = wait_for(|| (gateway.descriptors().len() <= before).then_some(()));
    let (left, book) = (state.left.lock().unwrap(), book.lock().unwrap());
    let mut took = Times::default();
    for (id, closed) in left.iter() {
        let gone = book.get(id);
        let gone = gone.unwrap_or_else(|| panic!("{id} was left at the upstream alone"));
        took.add(closed.saturating_duration_since(*gone));
    }
    let share = |share| took.percentile(share).as_secs_f64() * 1e3;
    println!(
        "{round:?}: {sent:?} in {lasted:?}; {} of them at {} requests of the upstream's, which was left in \
         p50 {:.2} ms, p99 {:.2} ms, at most {:.2} ms; left over: {counts:?}; descriptors {} before, {} after; \
         resident {} KiB before, {} after",
        took.count(),
        state.begun.load(Ordering::SeqCst),
        share(0.5),
        share(0.99),
        share(1.0),
        before,
        gateway.descriptors().len(),
        memory >> 10,
        gateway.resident() >> 10,
    );
    assert!(idle && descriptors.is_some(), "{counts:?}");
    assert!(
        took.percentile(0.99) <= round.within,
        "{:.2} ms",
        share(0.99)
    );
    assert!(
        took.count() * 5 >= round.leavings,
        "{} are too few",
        took.count()
    );
    assert!(!gateway.logged().contains("panicked"));
}

/// Waits until nothing of a request is left. Connections that wait for the next call are closed after some seconds.
fn is_idle(gateway: &Gateway, upstream: &Upstream) -> bool {
    let state = &upstream.state;
    let idle = wait_for(|| {
        let upstream = state.open.load(Ordering::SeqCst) + state.serving.load(Ordering::SeqCst);
        let gauges = ["completions_in_flight", "completions_connections"];
        let is_zero = |name: &&str| gateway.metric(name, &[]) == 0.0;
        (upstream == 0 && gauges.iter().all(is_zero)).then_some(())
    });
    idle.is_some()
}

/// How many left where.
fn leave_all(
    runtime: &Runtime,
    gateway: &Gateway,
    round: Round,
    book: &Arc<Book>,
) -> HashMap<Place, u64> {
    let next = Arc::new(AtomicU64::new(1));
    let clients: Vec<_> = (0..round.clients)
        .map(|_| {
            let (next, book, address) = (next.clone(), book.clone(), gateway.address.clone());
            runtime.spawn(async move {
                let mut sent = Vec::new();
                loop {
                    let id = next.fetch_add(1, Ordering::Relaxed);
                    if id > round.leavings {
                        return sent;
                    }
                    sent.push(leave(&address, id, &book).await.unwrap());
                }
            })
        })
        .collect();
    let mut places = HashMap::new();
    for client in clients {
        for place in runtime.block_on(client).unwrap() {
            *places.entry(place).or_default() += 1;
        }
    }
    places
}

/// One client's life; all of it follows from its number.
async fn leave(address: &str, id: u64, book: &Book) -> Result<Place> {
    let mut rng = Rng::with_seed(id);
    let place = PLACES[rng.usize(..PLACES.len())];
    let road = Road::ALL[rng.usize(..Road::ALL.len())];
    let streams = place == Place::Streaming || place != Place::End && rng.bool();
    let part = Part {
        id,
        wait: Duration::from_secs(u64::from(place == Place::Waiting) * 600),
        events: u64::MAX * u64::from(place == Place::Streaming),
        pause: Duration::from_millis(rng.u64(1..10)),
    };
    let request = road.request(&part, streams);
    let body = request.find("\r\n\r\n").unwrap() + 4;
    let cut = match place {
        Place::Head => rng.usize(..body),
        Place::Body => rng.usize(body..request.len()),
        Place::Waiting | Place::Streaming | Place::End => request.len(),
    };
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&request.as_bytes()[..cut]).await?;
    match place {
        Place::Streaming => while !is_event(&mut stream).await? {},
        Place::End => read_answer(&mut stream).await?,
        Place::Head | Place::Body | Place::Waiting => {}
    }
    tokio::time::sleep(Duration::from_millis(rng.u64(..10))).await;
    if rng.bool() {
        // A reset, where the others say goodbye.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    }
    book.lock().unwrap().insert(id, Instant::now());
    drop(stream);
    Ok(place)
}

async fn ask(address: &str, request: &str) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    read_answer(&mut stream).await
}

/// Whether what came has an event in it.
async fn is_event(stream: &mut TcpStream) -> Result<bool> {
    let mut piece = [0; 4096];
    let read = stream.read(&mut piece).await?;
    assert!(read > 0, "the stream is over");
    Ok(memchr::memmem::find(&piece[..read], b"data: ").is_some())
}

/// Reads a whole answer, which has a length.
async fn read_answer(stream: &mut TcpStream) -> Result<()> {
    let mut answer = Vec::new();
    loop {
        assert!(stream.read_buf(&mut answer).await? > 0, "no answer");
        let Some(end) = memchr::memmem::find(&answer, b"\r\n\r\n") else {
            continue;
        };
        let head = std::str::from_utf8(&answer[..end])
            .unwrap()
            .to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.unwrap().parse().unwrap();
        if answer.len() >= end + 4 + length {
            return Ok(());
        }
    }
}
