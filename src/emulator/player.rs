//! Plays an answer over a session: at its pace, and with the fault that was asked for.

use std::time::Duration;

use bytes::Bytes;
use pingora::{http::ResponseHeader, protocols::http::ServerSession};
use serde_json::Value;

use super::{Fault, Knobs};

/// A vendor's answer.
pub enum Reply {
    Whole(Whole),
    /// Server-sent events.
    Stream(Script),
    /// Any other stream.
    Framed(Framed),
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

/// Server-sent events, as the vendor writes them.
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

/// A stream's frames, whatever they look like.
pub struct Framed {
    pub media: &'static str,
    /// Texts first, one token each.
    pub frames: Vec<Vec<u8>>,
    /// Frames from here on tell that the text has ended.
    pub finish: usize,
    /// The end marker from here on.
    pub done: usize,
    /// What the vendor would say in place of a frame.
    pub error: Vec<u8>,
    /// What no vendor says.
    pub garbage: Vec<u8>,
}

impl From<Script> for Framed {
    fn from(script: Script) -> Self {
        Self {
            media: EVENTS,
            frames: script.events.into_iter().map(String::into_bytes).collect(),
            finish: script.finish,
            done: script.done,
            error: script.error.into_bytes(),
            garbage: b"data: {\"half\": \n\n".to_vec(),
        }
    }
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
        Reply::Stream(script) => play_stream(session, script.into(), knobs).await,
        Reply::Framed(framed) => play_stream(session, framed, knobs).await,
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
    framed: Framed,
    knobs: Knobs,
) -> pingora::Result<Played> {
    let mut head = ResponseHeader::build(200, Some(3))?;
    head.insert_header("content-type", framed.media)?;
    head.insert_header("cache-control", "no-cache")?;
    head.insert_header("transfer-encoding", "chunked")?;
    session.write_response_header(Box::new(head)).await?;
    let (pieces, end) = staged(framed, knobs.fault);
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
fn staged(framed: Framed, fault: Option<Fault>) -> (Vec<Vec<u8>>, Curtain) {
    let mut frames = framed.frames;
    let half = framed.finish / 2;
    let mut end = Curtain::Falls;
    match fault {
        Some(Fault::ErrorEvent) => {
            frames.truncate(half);
            frames.push(framed.error);
        }
        Some(Fault::ErrorFirst) => frames = vec![framed.error],
        Some(Fault::Cut) => {
            frames.truncate(half.max(1));
            end = Curtain::Torn;
        }
        Some(Fault::CutEvent) => {
            frames.truncate(half + 1);
            if let Some(torn) = frames.get_mut(half) {
                torn.truncate(12);
            }
            end = Curtain::Torn;
        }
        Some(Fault::Stall) => {
            frames.truncate(half.max(1));
            end = Curtain::Stuck;
        }
        Some(Fault::NoDone) => frames.truncate(framed.done),
        Some(Fault::NoFinish) => frames.truncate(framed.finish),
        Some(Fault::Garbage) => frames.insert(half, framed.garbage),
        Some(Fault::Split) => {
            frames = frames.concat().into_iter().map(|byte| vec![byte]).collect();
        }
        Some(Fault::Crlf) if framed.media != MESSAGES => {
            for frame in &mut frames {
                *frame = to_crlf(frame);
            }
        }
        Some(Fault::Comments) if framed.media == EVENTS => {
            for frame in &mut frames {
                frame.splice(..0, *b": PROCESSING\n\n");
            }
        }
        _ => {}
    }
    (frames, end)
}

fn to_crlf(text: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(text);
    text.replace("\r\n", "\n")
        .replace('\n', "\r\n")
        .into_bytes()
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

/// Media types of streams.
pub const EVENTS: &str = "text/event-stream; charset=utf-8";
pub const LINES: &str = "application/x-ndjson";
pub const MESSAGES: &str = "application/vnd.amazon.eventstream";

const HTML: (&str, &str) = ("content-type", "text/html");
/// `{}`, compressed.
const GZIP: &[u8] = &[
    0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xab, 0xae, 5, 0, 0x43, 0xbf, 0xa6, 0xa3, 2, 0, 0, 0,
];
