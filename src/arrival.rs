//! A client's request on its way in: its body, and what of its head cannot stay as it is.

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, header, uri::PathAndQuery};
use pingora::{ErrorType, http::RequestHeader, proxy::Session};

use crate::{
    config::Limits,
    downstream,
    error::{Error, Kind},
    exchange::Replay,
    gateway::{Admission, State},
    head::{self, Refusal},
    passage::asks_for_websocket,
    passing,
    proxy::Heads,
    ticket::Ticket,
};

/// Settles who asks, and what becomes of a request by its head. One that is malformed ends its connection.
pub fn admit(
    session: &mut Session,
    ticket: &mut Ticket,
    heads: Heads,
    state: &State,
) -> Result<Admission, Error> {
    if let Err(error) = check_head(session, heads, &state.config.limits) {
        session.set_keepalive(None);
        return Err(error);
    }
    ticket.client = passing::identify(state, session)?;
    let client = ticket.client.as_ref();
    let admission = match passing::front(state, session, client)? {
        Some(passage) => Admission::Pass(Box::new(passage)),
        None => state.admit(downstream::head(session), client)?,
    };
    let gets_one = matches!(&admission, Admission::Pass(passage) if passage.upgrade.is_some());
    if !gets_one && asks_for_websocket(&session.req_header().headers) {
        session.set_keepalive(None);
        return Err(head::UPGRADE.error());
    }
    Ok(admission)
}

/// Checks a head that came by HTTP/2, or past the door. Of one that came past it, Pingora has written the target anew where it
/// had spaces in it, and may have read a bare line feed for a line's end.
fn check_head(session: &Session, heads: Heads, limits: &Limits) -> Result<(), Error> {
    let limits = limits.head();
    let client = session.as_downstream();
    let checked = if client.is_http2() {
        let request = session.req_header();
        let target = request
            .uri
            .path_and_query()
            .map_or("", PathAndQuery::as_str);
        let authority = request.uri.authority().map(|authority| authority.as_str());
        let method = request.method.as_str();
        head::check_fields(method, target, authority, &request.headers, limits)
    } else if heads == Heads::Unchecked {
        head::check(&client.to_h1_raw(), limits).map(drop)
    } else {
        Ok(())
    };
    checked.map_err(Refusal::error)
}

/// Reads the request's body, and says whether Pingora's phases could send it. `wanted`: whether they may have to, for which it
/// is copied.
pub async fn read_body(
    session: &mut Session,
    limits: &Limits,
    wanted: Replay,
) -> Result<(Bytes, Replay), Error> {
    let too_large = || {
        let message = format!(
            "The request's body is larger than {} bytes.",
            limits.body_bytes
        );
        Error::new(Kind::BodyTooLarge, message)
    };
    let length = content_length(session);
    if length.is_some_and(|length| length > limits.body_bytes) {
        return Err(too_large());
    }
    if session.get_header(header::EXPECT).is_some() {
        session
            .write_continue_response()
            .await
            .map_err(|_| Error::gone())?;
    }
    let arriving = arrive(session, length, limits.body_bytes, wanted);
    match tokio::time::timeout(limits.request, arriving).await {
        Ok(Ok(Some(arrived))) => Ok(arrived),
        Ok(Ok(None)) => Err(too_large()),
        Ok(Err(error)) => {
            // Where the body ends, and with it the request, is not known.
            session.set_keepalive(None);
            Err(failure(&error))
        }
        Err(_) => Err(Error::new(
            Kind::RequestTimeout,
            "The request's body did not arrive in time.",
        )),
    }
}

/// What a failure of the client's connection means.
pub fn failure(error: &pingora::Error) -> Error {
    match error.etype() {
        ErrorType::InvalidHTTPHeader => {
            Error::new(Kind::Invalid, "The request's head is malformed.")
        }
        ErrorType::Custom("InvalidChunk" | "InvalidTrailerEnd") => Error::new(
            Kind::Invalid,
            "The request's body is not in well-formed chunks.",
        ),
        _ => Error::gone(),
    }
}

/// `None`: the body is over `limit`.
///
/// Pingora's phases send what its retry buffer holds, and nothing at all once that has overflowed. So the buffer is
/// switched on as late as the declared length allows: then it holds the tail, which is enough, because the body filter
/// puts our own body in its place. Without a declared length it has to be on from the start and may overflow.
async fn arrive(
    session: &mut Session,
    length: Option<usize>,
    limit: usize,
    wanted: Replay,
) -> pingora::Result<Option<(Bytes, Replay)>> {
    let mut body = Body::default();
    let mut replay = Replay::Lost;
    loop {
        let fits = length.is_none_or(|length| length.saturating_sub(body.len()) <= RETRY_BUFFER);
        if fits && wanted == Replay::Held && replay == Replay::Lost {
            session.enable_retry_buffering();
            replay = Replay::Held;
        }
        let Some(piece) = session.read_request_body().await? else {
            break;
        };
        if body.len().saturating_add(piece.len()) > limit {
            return Ok(None);
        }
        body.push(piece, length);
    }
    if session.as_downstream().retry_buffer_truncated() {
        replay = Replay::Lost;
    }
    Ok(Some((body.into_bytes(), replay)))
}

/// A body in the making. One that came in one piece is that piece.
#[derive(Default)]
struct Body {
    only: Bytes,
    more: BytesMut,
}

impl Body {
    fn len(&self) -> usize {
        self.only.len().saturating_add(self.more.len())
    }

    fn push(&mut self, piece: Bytes, length: Option<usize>) {
        if self.only.is_empty() && self.more.is_empty() {
            self.only = piece;
            return;
        }
        if self.more.is_empty() {
            // The declared length is only believed as far as the client has shown that it sends.
            let sent = self.only.len().saturating_add(piece.len());
            let believed = sent.saturating_mul(BELIEVED);
            self.more.reserve(length.unwrap_or_default().min(believed));
            self.more.extend_from_slice(&std::mem::take(&mut self.only));
        }
        self.more.extend_from_slice(&piece);
    }

    fn into_bytes(self) -> Bytes {
        if self.more.is_empty() {
            self.only
        } else {
            self.more.freeze()
        }
    }
}

fn content_length(session: &Session) -> Option<usize> {
    session
        .get_header(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// Takes the fields that a client may not have taken out of its request on the way from the list of those that it may:
/// Pingora refuses the request for them.
pub fn keep_protected(request: &mut RequestHeader) -> pingora::Result<()> {
    let named = |value: &HeaderValue| -> Vec<String> {
        let text = String::from_utf8_lossy(value.as_bytes());
        text.split(',').map(|name| name.trim().to_owned()).collect()
    };
    let values = request.headers.get_all(header::CONNECTION);
    let names: Vec<_> = values.iter().flat_map(named).collect();
    let is_protected = |name: &String| PROTECTED.contains(&&*name.to_ascii_lowercase());
    if !names.iter().any(is_protected) {
        return Ok(());
    }
    let rest: Vec<_> = names
        .into_iter()
        .filter(|name| !is_protected(name))
        .collect();
    request.insert_header(header::CONNECTION, rest.join(", "))
}

/// What no `Connection` field may name.
const PROTECTED: &[&str] = &[
    "host",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];
/// No client costs more than so many times what it has sent: docs/resilience.md.
const BELIEVED: usize = 20;
/// What Pingora keeps of a request body for sending it (again); fixed there.
const RETRY_BUFFER: usize = 64 << 10;
