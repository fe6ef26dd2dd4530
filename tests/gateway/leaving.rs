//! Clients that leave before their answer is complete: the upstream call must stop at once, since it costs money.

use std::{
    io::Write,
    sync::{Mutex, mpsc},
    time::{Duration, Instant},
};

use crate::support::{
    Gateway, PATIENCE,
    client::{CONDUCTED, Client, PLAIN, ROADS, STREAMED, post, request},
    upstream::{After, LAST_CHUNK, STREAM, TEXT, Upstream, chunk, event, events, json, watching},
};

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

#[test]
fn what_a_client_sends_while_it_waits_is_its_next_request() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::start(move |request, stream| {
        wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        let answer = match request.text().contains("stream") {
            true => [STREAM, &chunk(events()), LAST_CHUNK].concat(),
            false => json(200, TEXT),
        };
        stream.write_all(&answer).unwrap();
        After::Keep
    });
    let gateway = Gateway::before(&upstream.address);
    let mut asked = 0;
    for body in [PLAIN, STREAMED] {
        for road in ROADS {
            for early in ["\r\n".to_owned(), post(road, body)] {
                let mut client = Client::connect(&gateway.address);
                client.send(post(road, body));
                asked += 1;
                upstream.wait_for_requests(asked);
                client.send(&early);
                if early.len() == 2 {
                    client.send(post(road, body));
                }
                // The second is not begun before the first has its answer.
                std::thread::sleep(AT_ONCE);
                assert_eq!(upstream.seen().len(), asked);
                go.send(()).unwrap();
                assert_eq!(client.read().status, 200, "{early:?} {road:?} {body}");
                asked += 1;
                upstream.wait_for_requests(asked);
                go.send(()).unwrap();
                assert_eq!(client.read().status, 200, "{early:?} {road:?} {body}");
            }
        }
    }
}

#[test]
fn two_requests_in_one_write_are_both_answered() {
    let upstream = Upstream::answering(json(200, TEXT));
    let gateway = Gateway::before(&upstream.address);
    for body in [PLAIN, STREAMED] {
        for road in ROADS {
            let mut client = Client::connect(&gateway.address);
            client.send(post(road, body).repeat(3));
            for _ in 0..3 {
                assert_eq!(client.read().status, 200);
            }
        }
    }
    let mut client = Client::connect(&gateway.address);
    client.send(request("GET", "/v1/models", &[], "").repeat(3));
    for _ in 0..3 {
        assert_eq!(client.read().status, 200);
    }
}
