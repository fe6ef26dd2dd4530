//! The client's side of a session: answers and errors out, and whether it is still there.

use std::{
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, Version, header, response::Parts};
use pingora::{http::ResponseHeader, protocols::http::ServerSession, proxy::Session};
use tokio::time::Sleep;

use crate::{
    error::{Error, Kind, told_status},
    exchange::{Exchange, is_for_client},
    gateway::Head,
    head::nominated,
    intake::Intake,
    route::retry::whole_seconds,
    ticket::Ticket,
    upstream::{is_interim, unix_now},
};

/// Settings of the client's session that Pingora leaves open-ended.
pub fn prepare(session: &mut Session, write: Duration) {
    session.set_write_timeout(Some(write));
    // What comes behind a request is the next one; without this it would be taken for the client's leaving.
    session.as_downstream_mut().set_pipelining_enabled(true);
    session
        .as_downstream_mut()
        .set_total_drain_timeout(Some(DRAIN));
    if session.get_keepalive().is_some() {
        session.set_keepalive(Some(KEEPALIVE_SECONDS));
    }
}

/// A request's head as the rest of the crate reads it.
pub fn head(session: &Session) -> Head<'_> {
    let request = session.req_header();
    Head {
        method: &request.method,
        path: request.uri.path(),
        query: request.uri.query(),
        headers: &request.headers,
    }
}

/// How an answer's end is marked on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(usize),
    /// Chunked for HTTP/1.1, the connection's end for HTTP/1.0, the stream's for HTTP/2.
    Open,
}

/// The head of an answer that passes on an upstream's: its headers for clients, and the framing; our own are missing.
pub fn answer_head(
    session: &mut Session,
    upstream: Option<&ResponseHeader>,
    status: StatusCode,
    content_type: &'static str,
    framing: Framing,
) -> Parts {
    let (mut head, ()) = http::Response::new(()).into_parts();
    head.status = status;
    // Not by Pingora's `insert_header`, which reads each name anew.
    let headers = &mut head.headers;
    headers.reserve(USUAL_HEADERS);
    let passing = upstream.into_iter().flat_map(|head| head.headers.iter());
    let ends_here = upstream.map_or(Vec::new(), |head| nominated(&head.headers));
    let is_passed = |name: &HeaderName| is_for_client(name) && !ends_here.contains(name);
    for (name, value) in passing.filter(|(name, _)| is_passed(name)) {
        if name != header::RETRY_AFTER {
            headers.append(name, value.clone());
        } else if let Some(seconds) = whole_seconds(value, unix_now()) {
            headers.insert(name, seconds);
        }
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if content_type == EVENT_STREAM {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        // Reverse proxies in front of us hold a stream back unless told not to.
        headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    }
    match framing {
        Framing::Length(length) => {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        Framing::Open if session.req_header().version == Version::HTTP_10 => {
            session.set_keepalive(None);
        }
        Framing::Open => {
            let chunked = HeaderValue::from_static("chunked");
            headers.insert(header::TRANSFER_ENCODING, chunked);
        }
    }
    head
}

/// The client's head of a completion.
pub fn client_head(session: &mut Session, upstream: &ResponseHeader, exchange: &Exchange) -> Parts {
    let content_type = if exchange.is_streaming() {
        EVENT_STREAM
    } else {
        JSON
    };
    let status = if upstream.status.is_success() {
        StatusCode::OK
    } else {
        told_status(upstream.status)
    };
    answer_head(session, Some(upstream), status, content_type, Framing::Open)
}

/// A client of HTTP/1.0 cannot read chunks: the answer's end is the connection's.
pub fn fit_version(session: &mut Session, head: &mut ResponseHeader) {
    if session.req_header().version == Version::HTTP_10
        && head.remove_header(&header::TRANSFER_ENCODING).is_some()
    {
        session.set_keepalive(None);
    }
}

/// Writes a whole answer.
pub async fn write_whole(
    session: &mut Session,
    ticket: &mut Ticket,
    head: Parts,
    body: Bytes,
) -> Result<(), Error> {
    ticket.mark_first_byte();
    write_head(session, ticket, head).await?;
    write_rest(session, body, End::Complete).await
}

/// Writes an answer's head, with our own headers in it. Something of its body has to follow at once, and takes it along.
pub async fn write_head(
    session: &mut Session,
    ticket: &Ticket,
    mut head: Parts,
) -> Result<(), Error> {
    ticket.stamp(&mut head.headers);
    let client = session.as_downstream_mut();
    hold(client, true);
    let written = client.write_response_header(Box::new(head.into())).await;
    written.map_err(|_| Error::gone())
}

/// Writes a held head from a filter that cannot wait. It is small, and the client's connection takes it at once, unless it
/// is still full of an earlier answer that the client does not read. `refusal`: the status of an error that the answer turned
/// out to be, which an error inside it may have changed.
pub fn write_head_now(
    session: &mut Session,
    mut head: Box<ResponseHeader>,
    refusal: Option<StatusCode>,
) -> Result<(), Error> {
    if let Some(status) = refusal {
        head.set_status(status).map_err(|_| Error::gone())?;
    }
    let client = session.as_downstream_mut();
    let writing = tokio::task::unconstrained(client.write_response_header(head));
    let polled = pin!(writing).poll(&mut Context::from_waker(Waker::noop()));
    match polled {
        Poll::Ready(Ok(())) => Ok(()),
        Poll::Ready(Err(_)) | Poll::Pending => Err(Error::gone()),
    }
}

/// Writes a piece of an answer's body, slice by slice: the time for a write is the client's time to take some of it, not all.
pub async fn write_rest(session: &mut Session, mut out: Bytes, end: End) -> Result<(), Error> {
    let client = session.as_downstream_mut();
    loop {
        let slice = out.split_to(out.len().min(SLICE));
        let last = out.is_empty();
        let ends = last && end == End::Complete;
        // The end goes out with what is before it.
        if ends && !slice.is_empty() && hold(client, true) {
            let written = client.write_response_body(slice, false);
            written.await.map_err(|_| Error::gone())?;
            hold(client, false);
            let ended = client.write_response_body(Bytes::new(), true);
            return ended.await.map_err(|_| Error::gone());
        }
        hold(client, false);
        let written = client.write_response_body(slice, ends);
        written.await.map_err(|_| Error::gone())?;
        if last {
            return Ok(());
        }
    }
}

/// Whether what is written waits for what follows; `false`: this client's connection sends all of it as it comes.
fn hold(client: &ServerSession, holding: bool) -> bool {
    let intake = Intake::of(client);
    intake.inspect(|intake| intake.hold(holding)).is_some()
}

/// The same, of an answer whose time is over with `deadline`: a client that is not taking what there is by then has left. One
/// that reads gets it whole, so that what tells it of the deadline can follow.
pub async fn write_until(
    session: &mut Session,
    out: Bytes,
    end: End,
    deadline: &mut Pin<Box<Sleep>>,
) -> Result<(), Error> {
    let mut writing = pin!(write_rest(session, out, end));
    tokio::select! {
        biased;
        written = &mut writing => return written,
        () = deadline => {}
    }
    let written = tokio::time::timeout(GRACE, writing).await;
    written.map_err(|_| Error::gone())?
}

/// Whether more of an answer follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Open,
    Complete,
}

/// Writes an answer of our own.
pub async fn write_own(
    session: &mut Session,
    ticket: &mut Ticket,
    text: &'static str,
) -> Result<(), Error> {
    let framing = Framing::Length(text.len());
    let head = answer_head(session, None, StatusCode::OK, "text/plain", framing);
    // A HEAD's answer has the length of the GET's, and no body.
    let body = if session.req_header().method == Method::HEAD {
        Bytes::new()
    } else {
        Bytes::from_static(text.as_bytes())
    };
    write_here(session, ticket, head, body).await
}

/// Writes a whole answer of our own. Its connection lives on, unless the request's body was not read to its end.
async fn write_here(
    session: &mut Session,
    ticket: &mut Ticket,
    head: Parts,
    body: Bytes,
) -> Result<(), Error> {
    let unread = !session.as_downstream_mut().is_body_done();
    if unread {
        session.set_keepalive(None);
    }
    write_whole(session, ticket, head, body).await?;
    if unread {
        linger(session).await;
    }
    Ok(())
}

/// Writes `error` as the answer, with what the upstream's head, if there was one, has for clients. The connection lives
/// on, unless the request's body was not read to its end.
pub async fn refuse(
    session: &mut Session,
    ticket: &mut Ticket,
    error: &Error,
    upstream: Option<&ResponseHeader>,
) {
    if error.kind() == Kind::ClientGone {
        session.set_keepalive(None);
        return;
    }
    if is_answered(session) {
        // The carrier has told this very error.
        return;
    }
    let body = Bytes::from(error.body());
    let framing = Framing::Length(body.len());
    let mut head = answer_head(session, upstream, error.status(), JSON, framing);
    let told = match error.kind() {
        Kind::Full | Kind::Exhausted => Some((header::RETRY_AFTER, "1")),
        // RFC 9110, section 11.6.1: a 401 says how to come in.
        Kind::Unauthorized => Some((header::WWW_AUTHENTICATE, "Bearer")),
        Kind::Unserved(StatusCode::METHOD_NOT_ALLOWED) => Some((header::ALLOW, ALLOWED)),
        _ => None,
    };
    if let Some((name, value)) = told {
        head.headers.insert(name, HeaderValue::from_static(value));
    }
    // A client that cannot take it has left.
    let _ = write_here(session, ticket, head, body).await;
}

/// Reads on for a while after an early refusal. Closing on unread bytes would reset the connection, and the client would
/// lose the very answer that explains it.
async fn linger(session: &mut Session) {
    let drain = async {
        let mut left = LINGER_BYTES;
        while let Ok(Some(piece)) = session.read_request_body().await {
            left = left.saturating_sub(piece.len());
            if left == 0 {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, drain).await;
}

/// Whether the client has got a final head. That of an upgrade is one: what follows is no HTTP.
pub fn is_answered(session: &Session) -> bool {
    session
        .response_written()
        .is_some_and(|head| !is_interim(head.status))
}

/// `work`, unless the client leaves first. `work` must not use the session.
///
/// It is boxed: a future is moved whole into each that wraps it, and those of calls have kilobytes.
pub async fn unless_gone<T>(
    session: &mut Session,
    mut work: Pin<Box<impl Future<Output = T>>>,
) -> Result<T, Error> {
    tokio::select! {
        biased;
        done = &mut work => Ok(done),
        _ = session.downstream_session.read_body_or_idle(true) => Err(Error::gone()),
    }
}

/// Any method but the two that nobody is served.
pub const ALLOWED: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// Room for an answer's headers, before the map has to grow. For more than 12, it would have room for 24.
const USUAL_HEADERS: usize = 12;
pub const JSON: &str = "application/json";
pub const EVENT_STREAM: &str = "text/event-stream";
/// Bytes of a body that are written under one deadline.
pub const SLICE: usize = 64 << 10;
/// Bounds of reading what will not be used. Clients that send all of a body before they look for an answer lose it to a reset
/// where less is read: Node's `fetch` did in half of its uploads of 8 MB when this was 64 KiB, curl and httpx in none.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 64 << 20;
/// What a client's write has when the call's time is over.
const GRACE: Duration = Duration::from_secs(1);
/// How long an idle client's connection stays open.
pub const KEEPALIVE_SECONDS: u64 = 75;
/// How long a refused request's body is read for its connection's sake.
const DRAIN: Duration = Duration::from_secs(2);
