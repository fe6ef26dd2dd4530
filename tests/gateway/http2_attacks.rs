//! Known attacks on HTTP/2 servers (docs/faults.md, L1 and P2), frame by frame: whoever else asks is served meanwhile, and the
//! process stays as small as it was.

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use crate::{
    http2::{GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, frame, next_frame},
    support::{
        Gateway, PATIENCE,
        client::{PLAIN, ROADS, ask},
        upstream::{TEXT, Upstream, json},
    },
};

const DATA: u8 = 0;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `GET /v1/models`, and a POST of it (RFC 7541, appendix A, numbers the fields).
const GET: &[u8] = b"\x82\x86\x04\x0a/v1/models\x01\x07gateway";
const POST: &[u8] = b"\x83\x86\x04\x0a/v1/models\x01\x07gateway";

/// What a client does after its preface: the frames of one turn.
type Turn = fn(u32) -> Vec<u8>;

/// How a client takes what comes back.
#[derive(Clone, Copy, PartialEq)]
enum Reader {
    Greedy,
    /// Nothing is read: what is answered stays with the server.
    Deaf,
}

fn stream_id(turn: u32) -> u32 {
    turn * 2 + 1
}

fn rapid_reset(turn: u32) -> Vec<u8> {
    let id = stream_id(turn);
    let head = frame(HEADERS, END_STREAM | END_HEADERS, id, GET);
    [head, frame(RST_STREAM, 0, id, &8_u32.to_be_bytes())].concat()
}

/// CVE-2025-8671: the server itself is made to reset, by a window that cannot be.
fn made_reset(turn: u32) -> Vec<u8> {
    let id = stream_id(turn);
    let head = frame(HEADERS, END_STREAM | END_HEADERS, id, GET);
    [head, frame(WINDOW_UPDATE, 0, id, &[0; 4])].concat()
}

/// Heads that are no request: each stream is the server's to reset.
fn malformed(turn: u32) -> Vec<u8> {
    frame(
        HEADERS,
        END_STREAM | END_HEADERS,
        stream_id(turn),
        b"\x82\x86",
    )
}

fn continuation(turn: u32) -> Vec<u8> {
    match turn {
        0 => frame(HEADERS, END_STREAM, 1, GET),
        _ => frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b"),
    }
}

fn empty_continuation(turn: u32) -> Vec<u8> {
    match turn {
        0 => frame(HEADERS, END_STREAM, 1, GET),
        _ => frame(CONTINUATION, 0, 1, b""),
    }
}

fn empty_data(turn: u32) -> Vec<u8> {
    match turn {
        0 => frame(HEADERS, END_HEADERS, 1, POST),
        _ => frame(DATA, 0, 1, b""),
    }
}

fn ping(turn: u32) -> Vec<u8> {
    frame(PING, 0, 0, &u64::from(turn).to_be_bytes())
}

fn settings(_: u32) -> Vec<u8> {
    // HEADER_TABLE_SIZE, anew each time.
    frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 16, 0])
}

/// Windows are shut, and a stream is opened for each answer that has to wait for one.
fn shut_windows(turn: u32) -> Vec<u8> {
    match turn {
        // INITIAL_WINDOW_SIZE.
        0 => frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]),
        _ => frame(HEADERS, END_STREAM | END_HEADERS, stream_id(turn), GET),
    }
}

/// The attacks, and how many turns each has.
const ATTACKS: &[(&str, Turn, u32, Reader)] = &[
    ("rapid reset", rapid_reset, 100_000, Reader::Greedy),
    ("rapid reset, unread", rapid_reset, 100_000, Reader::Deaf),
    ("made to reset", made_reset, 100_000, Reader::Greedy),
    ("made to reset, unread", made_reset, 100_000, Reader::Deaf),
    ("malformed", malformed, 100_000, Reader::Greedy),
    ("continuation", continuation, 100_000, Reader::Greedy),
    (
        "empty continuation",
        empty_continuation,
        100_000,
        Reader::Greedy,
    ),
    ("empty data", empty_data, 100_000, Reader::Greedy),
    ("ping", ping, 100_000, Reader::Greedy),
    ("ping, unread", ping, 1_000_000, Reader::Deaf),
    ("settings", settings, 100_000, Reader::Greedy),
    ("settings, unread", settings, 1_000_000, Reader::Deaf),
    ("shut windows", shut_windows, 10_000, Reader::Greedy),
];

/// Sends an attack's turns until they are over, or nobody takes them. The connection, which is open as far as this side
/// knows, and whether all were taken.
fn attack(address: &str, turn: Turn, turns: u32, reader: Reader) -> (TcpStream, bool) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_write_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reading = stream.try_clone().unwrap();
    if reader == Reader::Greedy {
        thread::spawn(move || while matches!(reading.read(&mut [0; 65_536]), Ok(1..)) {});
    }
    let mut wire = PREFACE.to_vec();
    for number in 0..turns {
        wire.extend(turn(number));
        if wire.len() > 16_384 || number + 1 == turns {
            if stream.write_all(&wire).is_err() {
                return (stream, false);
            }
            wire.clear();
        }
    }
    (stream, true)
}

#[test]
fn attacks_on_http2_cost_nobody_else_anything() {
    let upstream = Upstream::answering(json(200, TEXT));
    let gateway = Gateway::before(&upstream.address);
    for road in ROADS {
        assert_eq!(ask(&gateway.address, road, PLAIN).status, 200);
    }
    let before = gateway.resident();
    let mut held = Vec::new();
    for (name, turn, turns, reader) in ATTACKS {
        let (turn, turns, reader) = (*turn, *turns, *reader);
        let address = gateway.address.clone();
        let attacking = thread::spawn(move || attack(&address, turn, turns, reader));
        let mut asked = 0;
        while !attacking.is_finished() || asked < 4 {
            let started = Instant::now();
            let answer = ask(&gateway.address, ROADS[asked % 2], PLAIN);
            assert_eq!(answer.status, 200, "{name}");
            assert!(started.elapsed() < Duration::from_secs(5), "{name}");
            asked += 1;
        }
        held.push(attacking.join().unwrap().0);
        let grown = gateway.resident().saturating_sub(before);
        assert!(grown < 64 << 20, "{name}: {grown} bytes");
    }
    assert!(!gateway.logged().contains("panic at"));
}

/// P2 and L1: these are told to go, and soon.
#[test]
fn who_attacks_by_resets_or_continuations_is_shut_out() {
    let upstream = Upstream::answering(json(200, TEXT));
    let gateway = Gateway::before(&upstream.address);
    for (name, turn, _, _) in ATTACKS.iter().filter(|(name, ..)| SHUT_OUT.contains(name)) {
        let before = gateway.resident();
        let mut stream = TcpStream::connect(&gateway.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut writing = stream.try_clone().unwrap();
        let turn = *turn;
        let started = Instant::now();
        let sending = thread::spawn(move || {
            let mut wire = PREFACE.to_vec();
            (0..100_000).for_each(|number| wire.extend(turn(number)));
            // Whoever is shut out cannot say all of it, unless it is in the socket's buffer by then.
            let _ = writing.write_all(&wire);
        });
        while next_frame(&mut stream).0 != GOAWAY {}
        let told = started.elapsed();
        drop(stream);
        sending.join().unwrap();
        assert!(told < Duration::from_secs(5), "{name}: {told:?}");
        let grown = gateway.resident().saturating_sub(before);
        assert!(grown < 16 << 20, "{name}: {grown} bytes");
    }
}

const SHUT_OUT: &[&str] = &[
    "rapid reset",
    "made to reset",
    "malformed",
    "continuation",
    "empty continuation",
];
