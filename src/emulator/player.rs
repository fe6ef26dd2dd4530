//! Plays an answer over a session: at its pace, and with the fault that was asked for.

use std::time::Duration;

use bytes::Bytes;
use pingora::{http::ResponseHeader, protocols::http::ServerSession};
use serde_json::Value;

use super::{Fault, Knobs};

/// A vendor's answer.
pub enum Reply {
    Whole(Whole),
    Stream(Script),
}

/// An answer with a length.
pub struct Whole {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Whole {
    pub fn json(status: u16, body: &Value) -> Self {
        let mut headers = vec![
            ("content-type", "application/json".to_owned()),
            ("x-ratelimit-remaining-requests", "59".to_owned()),
        ];
        if matches!(status, 429 | 503) {
            headers.push(("retry-after", "1".to_owned()));
        }
        Self {
            status,
            headers,
            body: body.to_string().into_bytes(),
        }
    }

    fn plain(status: u16, header: (&'static str, &str), body: &[u8]) -> Self {
        Self {
            status,
            headers: vec![(header.0, header.1.to_owned())],
            body: body.to_vec(),
        }
    }
}

/// A stream's events, framed as the vendor frames them.
pub struct Script {
    /// Texts first, one token each.
    pub events: Vec<String>,
    /// Events from here on tell that the text has ended.
    pub finish: usize,
    /// The end marker from here on.
    pub done: usize,
    /// What the vendor would say in place of an event.
    pub error: String,
}

/// How a play ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Played {
    Whole,
    /// The connection has to close now.
    Cut,
}

/// The faults that are the same for every vendor.
pub fn answer_of(fault: Fault) -> Option<Whole> {
    match fault {
        Fault::Html => Some(Whole::plain(
            502,
            HTML,
            b"<html><h1>502 Bad Gateway</h1></html>",
        )),
        Fault::Empty => Some(Whole::plain(200, ("content-type", "application/json"), b"")),
        Fault::Redirect => Some(Whole::plain(302, ("location", "http://127.0.0.1:9/"), b"")),
        Fault::Gzip => Some(Whole::plain(200, ("content-encoding", "gzip"), GZIP)),
        _ => None,
    }
}

pub async fn play(
    session: &mut ServerSession,
    reply: Reply,
    knobs: Knobs,
) -> pingora::Result<Played> {
    if !knobs.latency.is_zero() {
        tokio::time::sleep(knobs.latency).await;
    }
    if knobs.fault == Some(Fault::Hang) {
        return silence(session).await;
    }
    match reply {
        Reply::Whole(whole) => play_whole(session, whole, knobs).await,
        Reply::Stream(script) => play_stream(session, script, knobs).await,
    }
}

async fn play_whole(
    session: &mut ServerSession,
    whole: Whole,
    knobs: Knobs,
) -> pingora::Result<Played> {
    let mut head = ResponseHeader::build(whole.status, Some(whole.headers.len() + 1))?;
    for (name, value) in whole.headers {
        head.insert_header(name, value)?;
    }
    head.insert_header("content-length", whole.body.len())?;
    session.write_response_header(Box::new(head)).await?;
    let mut body = Bytes::from(whole.body);
    match knobs.fault {
        Some(Fault::Cut | Fault::CutEvent) => {
            session
                .write_response_body(body.split_to(body.len() / 2), false)
                .await?;
            Ok(Played::Cut)
        }
        Some(Fault::Stall) => {
            session
                .write_response_body(body.split_to(body.len() / 2), false)
                .await?;
            silence(session).await
        }
        _ => {
            session.write_response_body(body, true).await?;
            Ok(Played::Whole)
        }
    }
}

async fn play_stream(
    session: &mut ServerSession,
    script: Script,
    knobs: Knobs,
) -> pingora::Result<Played> {
    let mut head = ResponseHeader::build(200, Some(3))?;
    head.insert_header("content-type", "text/event-stream; charset=utf-8")?;
    head.insert_header("cache-control", "no-cache")?;
    head.insert_header("transfer-encoding", "chunked")?;
    session.write_response_header(Box::new(head)).await?;
    let (pieces, end) = staged(script, knobs.fault);
    let pause = pause(knobs);
    if pause.is_none() && knobs.fault != Some(Fault::Split) {
        session
            .write_response_body(pieces.concat().into(), false)
            .await?;
    } else {
        for piece in pieces {
            session.write_response_body(piece.into(), false).await?;
            wait(session, pause.unwrap_or(Duration::ZERO)).await?;
        }
    }
    match end {
        Curtain::Falls => {
            session.write_response_body(Bytes::new(), true).await?;
            Ok(Played::Whole)
        }
        Curtain::Torn => Ok(Played::Cut),
        Curtain::Stuck => silence(session).await,
    }
}

/// How a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Curtain {
    Falls,
    Torn,
    Stuck,
}

/// The pieces to write one by one, with the fault worked in.
fn staged(script: Script, fault: Option<Fault>) -> (Vec<String>, Curtain) {
    let Script {
        mut events,
        finish,
        done,
        error,
    } = script;
    let half = finish / 2;
    let mut end = Curtain::Falls;
    match fault {
        Some(Fault::ErrorEvent) => {
            events.truncate(half);
            events.push(error);
        }
        Some(Fault::Cut) => {
            events.truncate(half.max(1));
            end = Curtain::Torn;
        }
        Some(Fault::CutEvent) => {
            let torn = events
                .get(half)
                .map(|event| event.chars().take(12).collect());
            events.truncate(half);
            events.extend(torn.into_iter().collect::<Vec<String>>());
            end = Curtain::Torn;
        }
        Some(Fault::Stall) => {
            events.truncate(half.max(1));
            end = Curtain::Stuck;
        }
        Some(Fault::NoDone) => events.truncate(done),
        Some(Fault::NoFinish) => events.truncate(finish),
        Some(Fault::Garbage) => events.insert(half, "data: {\"half\": \n\n".to_owned()),
        Some(Fault::Split) => {
            events = events.concat().chars().map(String::from).collect();
        }
        Some(Fault::Crlf) => {
            for event in &mut events {
                *event = event.replace("\r\n", "\n").replace('\n', "\r\n");
            }
        }
        Some(Fault::Comments) => {
            for event in &mut events {
                event.insert_str(0, ": PROCESSING\n\n");
            }
        }
        _ => {}
    }
    (events, end)
}

fn pause(knobs: Knobs) -> Option<Duration> {
    (knobs.rate > 0).then(|| Duration::from_secs(1) / knobs.rate)
}

/// Pauses, unless the client leaves.
async fn wait(session: &mut ServerSession, pause: Duration) -> pingora::Result<()> {
    tokio::select! {
        () = tokio::time::sleep(pause) => Ok(()),
        left = session.read_body_or_idle(true) => left.map(drop),
    }
}

/// Says nothing more until the client has left.
async fn silence(session: &mut ServerSession) -> pingora::Result<Played> {
    session.read_body_or_idle(true).await?;
    Ok(Played::Cut)
}

const HTML: (&str, &str) = ("content-type", "text/html");
/// `{}`, compressed.
const GZIP: &[u8] = &[
    0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xab, 0xae, 5, 0, 0x43, 0xbf, 0xa6, 0xa3, 2, 0, 0, 0,
];
