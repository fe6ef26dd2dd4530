//! Streams by the thousand through one process: no event is lost, doubled or out of order, a stream costs little memory, and
//! that comes back.

use std::{
    fmt,
    io::{Error, ErrorKind, Result},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use pingora_completions::bench::Times;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use super::{
    Part, Road, gateway_before, runtime,
    upstream::{Upstream, since_start},
};
use crate::support::Gateway;

/// How much of everything.
#[derive(Clone, Copy, Debug)]
struct Round {
    /// They take turns.
    roads: &'static [Road],
    streams: usize,
    /// Of each.
    events: u64,
    /// Between two of them.
    pause: Duration,
    /// Between the first stream's begin and the last one's.
    ramp: Duration,
}

#[test]
fn streams_in_a_crowd_arrive_whole_and_in_order() {
    let round = Round {
        roads: &Road::SINGLE,
        streams: 300,
        events: 20,
        pause: Duration::from_millis(50),
        ramp: Duration::from_millis(200),
    };
    // Of so few, and of a debug build, memory tells whether it is bounded, and no more.
    let found = play(round);
    found.check(256 << 10);
}

#[test]
#[ignore = "a minute of load for each road"]
fn nine_thousand_streams_on_each_road() {
    for roads in [&Road::SINGLE[..1], &Road::SINGLE[1..2], &Road::SINGLE[2..]] {
        play(Round {
            roads,
            events: 20,
            ..NINE_THOUSAND
        })
        .check(EACH);
    }
}

#[test]
#[ignore = "ten minutes of load"]
fn nine_thousand_streams_for_ten_minutes() {
    play(NINE_THOUSAND).check(EACH);
}

const NINE_THOUSAND: Round = Round {
    roads: &Road::SINGLE,
    streams: 9_000,
    events: 300,
    pause: Duration::from_secs(2),
    ramp: Duration::from_secs(10),
};
/// Resident bytes for each stream, at most.
const EACH: usize = 48 << 10;
/// What a process that rests may have over what it had at its start.
const RETURNED: usize = 32 << 20;
/// How long after the last stream's end its memory may take to come back.
const SETTLED: Duration = Duration::from_secs(30);

/// What came of a round.
struct Found {
    round: Round,
    heard: Heard,
    /// Resident bytes of the gateway's process: before the first stream, at most, and [`SETTLED`] after the last.
    before: usize,
    most: usize,
    after: usize,
    /// Until there were no more than [`RETURNED`] over those before, if that came.
    settled: Option<Duration>,
    cpu: Duration,
    lasted: Duration,
}

impl Found {
    fn each(&self) -> usize {
        self.most.saturating_sub(self.before) / self.round.streams
    }

    /// `each`: the most resident bytes for each stream.
    fn check(&self, each: usize) {
        println!("{self}");
        let complaints = &self.heard.complaints;
        let first = &complaints[..complaints.len().min(20)];
        assert!(complaints.is_empty(), "{} of {first:#?}", complaints.len());
        let expected = self.round.streams as u64 * self.round.events;
        assert_eq!(self.heard.events, expected);
        assert!(self.each() <= each, "{self}");
        assert!(self.settled.is_some(), "{self}");
    }
}

impl fmt::Display for Found {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = |bytes: usize| bytes as f64 / (1 << 20) as f64;
        let delay = |share| self.heard.delays.percentile(share).as_secs_f64() * 1e3;
        let (round, heard) = (&self.round, &self.heard);
        write!(
            out,
            "{:?}: {} streams of {} events each {:?}: {} events, {} complaints; {:.1} KiB resident each \
             ({:.1} MiB before, {:.1} at most, {:.1} after{}); delay p50 {:.2} ms, p99 {:.2} ms, at most {:.2} ms; \
             CPU {:.1} us an event, {:.1} % of a core",
            round.roads,
            round.streams,
            round.events,
            round.pause,
            heard.events,
            heard.complaints.len(),
            self.each() as f64 / 1024.0,
            mebibytes(self.before),
            mebibytes(self.most),
            mebibytes(self.after),
            self.settled.map_or(String::new(), |time| format!(
                ", within 32 MiB of before in {:.1} s",
                time.as_secs_f64()
            )),
            delay(0.5),
            delay(0.99),
            delay(1.0),
            self.cpu.as_secs_f64() * 1e6 / heard.events as f64,
            self.cpu.as_secs_f64() * 1e2 / self.lasted.as_secs_f64(),
        )
    }
}

/// What the clients got.
#[derive(Default)]
struct Heard {
    events: u64,
    /// From the upstream's write to the client's read.
    delays: Times,
    complaints: Vec<String>,
}

fn play(round: Round) -> Found {
    let runtime = runtime();
    let upstream = Upstream::start(&runtime);
    let gateway = gateway_before(&upstream.address, "");
    let (before, cpu, started) = (gateway.resident(), gateway.reading().cpu, Instant::now());
    let heard = Arc::new(Mutex::new(Heard::default()));
    let clients: Vec<_> = (0..round.streams)
        .map(|number| {
            let (address, heard) = (gateway.address.clone(), heard.clone());
            runtime.spawn(async move {
                let begin = round.ramp * number as u32 / round.streams as u32;
                tokio::time::sleep(begin).await;
                let road = round.roads[number % round.roads.len()];
                let part = Part {
                    id: number as u64,
                    events: round.events,
                    pause: round.pause,
                    ..Part::default()
                };
                if let Err(error) = listen(&address, road, part, &heard).await {
                    let complaint = format!("{number} on {road:?}: {error}");
                    heard.lock().unwrap().complaints.push(complaint);
                }
            })
        })
        .collect();
    let mut most = before;
    while !clients.iter().all(tokio::task::JoinHandle::is_finished) {
        std::thread::sleep(LOOK);
        most = most.max(gateway.resident());
    }
    let (cpu, lasted) = (gateway.reading().cpu - cpu, started.elapsed());
    let (after, settled) = settle(&gateway, before + RETURNED);
    let heard = std::mem::take(&mut *heard.lock().unwrap());
    Found {
        round,
        heard,
        before,
        most,
        after,
        settled,
        cpu,
        lasted,
    }
}

/// What is resident when it has fallen to `bound`, or once the time for that is up; and when it fell.
fn settle(gateway: &Gateway, bound: usize) -> (usize, Option<Duration>) {
    let ended = Instant::now();
    loop {
        let (resident, waited) = (gateway.resident(), ended.elapsed());
        if resident <= bound {
            return (resident, Some(waited));
        }
        if waited >= SETTLED {
            return (resident, None);
        }
        std::thread::sleep(LOOK);
    }
}

const LOOK: Duration = Duration::from_millis(100);

/// Reads one stream to its end. `Err`: it is not what the upstream said.
async fn listen(address: &str, road: Road, part: Part, heard: &Mutex<Heard>) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    stream
        .write_all(road.request(&part, true).as_bytes())
        .await?;
    let mut reader = BufReader::with_capacity(1024, stream);
    read_head(&mut reader).await?;
    let (mut text, mut next) = (Vec::new(), 0);
    loop {
        let end = text.windows(2).position(|pair| pair == b"\n\n");
        let Some(end) = end else {
            if !read_chunk(&mut reader, &mut text).await? {
                return Err(Error::other(format!("it ends behind event {next}")));
            }
            continue;
        };
        let event: Vec<u8> = text.drain(..end + 2).collect();
        let event = String::from_utf8(event).map_err(Error::other)?;
        let data = event.trim_end().strip_prefix("data: ");
        let data = data.ok_or_else(|| Error::other(event.clone()))?;
        if data == "[DONE]" {
            break;
        }
        let said: Value = serde_json::from_str(data)?;
        let said = said["choices"][0]["text"].as_str().unwrap_or("none");
        if said.is_empty() {
            continue;
        }
        let delay = delay(said, part.id, next)
            .ok_or_else(|| Error::other(format!("{said:?} in the place of event {next}")))?;
        next += 1;
        let mut heard = heard.lock().unwrap();
        heard.events += 1;
        heard.delays.add(delay);
    }
    if next != part.events {
        return Err(Error::other(format!("it is over behind event {next}")));
    }
    match read_chunk(&mut reader, &mut text).await? || !text.is_empty() {
        true => Err(Error::other("something follows its end marker")),
        false => Ok(()),
    }
}

/// How old an event is, if it is the one that comes next.
fn delay(said: &str, id: u64, number: u64) -> Option<Duration> {
    let mut numbers = said.trim_start().split('.').map(str::parse::<u64>);
    let mut next = || numbers.next()?.ok();
    let is_next = (next()?, next()?) == (id, number);
    let sent = Duration::from_micros(next()?);
    is_next.then(|| since_start().saturating_sub(sent))
}

async fn read_head(reader: &mut BufReader<TcpStream>) -> Result<()> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
    match head.starts_with("HTTP/1.1 200 ") {
        true => Ok(()),
        false => Err(Error::other(head)),
    }
}

/// Adds the next chunk to `text`. `false`: it is the last one.
async fn read_chunk(reader: &mut BufReader<TcpStream>, text: &mut Vec<u8>) -> Result<bool> {
    let mut line = String::new();
    reader.read_line(&mut line).await?;
    let length = usize::from_str_radix(line.trim_end(), 16).map_err(Error::other)?;
    let before = text.len();
    text.resize(before + length + 2, 0);
    reader.read_exact(&mut text[before..]).await?;
    text.truncate(before + length);
    Ok(length > 0)
}
