//! Clients that leave before their answer is complete: the upstream call must stop at once, since it costs money.

use std::{
    io::Write,
    sync::{Mutex, mpsc},
    time::{Duration, Instant},
};

use crate::support::{
    Gateway, PATIENCE,
    client::{CONDUCTED, Client, PLAIN, ROADS, STREAMED, post},
    upstream::{After, STREAM, Upstream, chunk, event, wait_for_close},
};

/// An upstream that sends `sent` and then reports when its connection was closed.
fn watching(sent: Vec<u8>) -> (Upstream, mpsc::Receiver<Instant>) {
    let (closed, closing) = mpsc::channel();
    let closed = Mutex::new(closed);
    let upstream = Upstream::start(move |_, stream| {
        stream.write_all(&sent).unwrap();
        if wait_for_close(stream).is_some() {
            closed.lock().unwrap().send(Instant::now()).unwrap();
        }
        After::Close
    });
    (upstream, closing)
}

const AT_ONCE: Duration = Duration::from_millis(100);

#[test]
fn a_client_that_leaves_mid_stream_stops_the_upstream_at_once() {
    let (upstream, closing) = watching([STREAM, &chunk(event(" a", None))].concat());
    let gateway = Gateway::before(&upstream.address);
    for road in ROADS {
        let mut client = Client::connect(&gateway.address);
        client.send(post(road, STREAMED));
        client.read_head();
        client.read_chunk().unwrap();
        let left = Instant::now();
        drop(client);
        let took = closing.recv_timeout(PATIENCE).unwrap() - left;
        assert!(took < AT_ONCE, "{took:?}");
    }
    gateway.wait_for_log("failure=client_gone");
}

#[test]
fn a_client_that_leaves_before_the_answer_stops_the_upstream_at_once() {
    let (upstream, closing) = watching(Vec::new());
    let gateway = Gateway::before(&upstream.address);
    for (count, body) in [PLAIN, STREAMED].into_iter().enumerate() {
        for (turn, road) in ROADS.iter().enumerate() {
            let mut client = Client::connect(&gateway.address);
            client.send(post(road, body));
            upstream.wait_for_requests(count * 2 + turn + 1);
            let left = Instant::now();
            drop(client);
            let took = closing.recv_timeout(PATIENCE).unwrap() - left;
            assert!(took < AT_ONCE, "{took:?}");
        }
    }
}

#[test]
fn a_client_that_leaves_a_whole_translated_answer_stops_the_upstream_at_once() {
    let half = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{"
        .to_vec();
    let (upstream, closing) = watching(half);
    let gateway = Gateway::before(&upstream.address);
    let mut client = Client::connect(&gateway.address);
    client.send(post(&[("x-portkey-provider", "groq"), CONDUCTED], PLAIN));
    upstream.wait_for_requests(1);
    let left = Instant::now();
    drop(client);
    assert!(closing.recv_timeout(PATIENCE).unwrap() - left < AT_ONCE);
}
