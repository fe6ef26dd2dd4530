//! One HTTP/1.1 call over a connection of Pingora's pool.
//!
//! Head and body leave in one write. Pingora's own client session writes them apart, which costs a system call and wakes
//! the upstream twice; all that follows the request is its work.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use pingora::{
    ErrorType,
    http::{RequestHeader, ResponseHeader},
    protocols::{Stream, http::v1::client::HttpSession},
    upstreams::peer::HttpPeer,
};
use tokio::{
    io::AsyncWriteExt,
    time::{Instant, Sleep},
};

use crate::{
    config::Timeouts,
    downstream::SLICE,
    idle::Place,
    upstream::{MAX_INTERIM, is_interim, is_unanswered},
};

/// A call whose request is out. Dropping it closes the connection, which is how an HTTP/1 call is cancelled.
pub struct Call {
    /// Boxed: it is large, and handed up through every future that waits for it.
    session: Box<HttpSession>,
    /// Where its connection waits for the next call; `None`: it is not kept.
    home: Option<Place>,
    /// What the last read found behind the piece that it brought.
    broken: Option<Box<pingora::Error>>,
    silence: Silence,
}

/// How long a head, and each pause of its body, may take. One timer for all of them, which goes with the call: Pingora would set
/// one for each read, for the sake of a pause that most answers never have, and leave those of heads in its list until their
/// time comes, long after the answer. Few bytes each, but a wave's lie all over its memory, and hold it back.
struct Silence {
    limit: Duration,
    /// Set when a read had to wait for the first time. When it fires, it is set anew by when the present one began.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Silence {
    async fn limit<T>(
        &mut self,
        reading: impl Future<Output = pingora::Result<T>>,
    ) -> pingora::Result<T> {
        let mut reading = pin!(reading);
        let mut due = None;
        poll_fn(|context| {
            if let Poll::Ready(read) = reading.as_mut().poll(context) {
                return Poll::Ready(read);
            }
            let due = *due.get_or_insert_with(|| Instant::now() + self.limit);
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            while timer.as_mut().poll(context).is_ready() {
                if due <= Instant::now() {
                    let silent = pingora::Error::explain(ErrorType::ReadTimedout, "the answer");
                    return Poll::Ready(Err(silent));
                }
                timer.as_mut().reset(due);
            }
            Poll::Pending
        })
        .await
    }
}

impl Call {
    /// Sends the request and waits for the answer's final head.
    pub async fn ask(
        mut stream: Stream,
        (peer, home): (&HttpPeer, Option<Place>),
        head: &RequestHeader,
        body: &Bytes,
        timeouts: &Timeouts,
    ) -> pingora::Result<Self> {
        let sent = send(&mut stream, head, body, timeouts.write).await;
        let mut session = Box::new(HttpSession::new_with_options(stream, peer));
        session.read_timeout = None;
        let mut call = Self {
            session,
            home,
            broken: None,
            silence: Silence {
                limit: timeouts.read,
                timer: None,
            },
        };
        // An upstream that refuses early stops reading: its answer counts, not the failed write.
        if let Err(unsent) = sent {
            call.silence.limit = EARLY_ANSWER.min(timeouts.read);
            let read = call.read_head().await;
            read.map_err(|unread| match unread.etype() {
                ErrorType::ReadTimedout => unsent,
                _ if is_unanswered(&unread) => unsent,
                _ => unread,
            })?;
        } else {
            call.read_head().await?;
        }
        Ok(call)
    }

    async fn read_head(&mut self) -> pingora::Result<()> {
        for heads in 0..=MAX_INTERIM {
            let reading = self.session.read_response();
            self.silence.limit(reading).await.map_err(|mut error| {
                if heads > 0 {
                    // An interim head is a sign of life: the request has arrived.
                    error.set_retry(false);
                }
                error
            })?;
            if self.is_framed_twice() {
                return pingora::Error::e_explain(ErrorType::InvalidHTTPHeader, "two framings");
            }
            if self.head().is_some_and(|head| !is_interim(head.status)) {
                return Ok(());
            }
        }
        pingora::Error::e_explain(ErrorType::InvalidHTTPHeader, "no final response head")
    }

    /// Whether the head has a length beside a transfer coding, so that two readers of it could disagree about where the
    /// answer ends. Pingora takes the length out of what it parsed; the head's bytes still have it.
    fn is_framed_twice(&self) -> bool {
        let is_coded = |head: &ResponseHeader| head.headers.contains_key(TRANSFER_ENCODING);
        self.head().is_some_and(is_coded) && {
            let raw = self.session.get_headers_raw_bytes();
            raw.split(|&byte| byte == b'\n').any(|line| {
                let name = line.split(|&byte| byte == b':').next();
                let name = name.unwrap_or_default().trim_ascii_end();
                name.eq_ignore_ascii_case(CONTENT_LENGTH.as_str().as_bytes())
            })
        }
    }

    /// The answer's head.
    pub fn head(&self) -> Option<&ResponseHeader> {
        self.session.resp_header()
    }

    /// The next piece of the answer's body; `None`: it is whole.
    ///
    /// Pingora gives a body chunk by chunk, and providers put each event in one of its own: those that are here already are one
    /// piece, so that what came in one read leaves in one write.
    pub async fn read(&mut self) -> pingora::Result<Option<Bytes>> {
        if let Some(broken) = self.broken.take() {
            return Err(broken);
        }
        let reading = self.session.read_body_bytes();
        let Some(first) = self.silence.limit(reading).await? else {
            return Ok(None);
        };
        if first.len() >= MAX_JOINED_BYTES {
            return Ok(Some(first));
        }
        let Some(second) = self.read_now() else {
            return Ok(Some(first));
        };
        let mut joined = BytesMut::with_capacity(2 * (first.len() + second.len()));
        joined.put(first);
        joined.put(second);
        while joined.len() < MAX_JOINED_BYTES {
            let Some(next) = self.read_now() else { break };
            joined.put(next);
        }
        Ok(Some(joined.freeze()))
    }

    /// The next chunk, if it is here.
    fn read_now(&mut self) -> Option<Bytes> {
        let read = tokio::task::unconstrained(self.session.read_body_bytes()).now_or_never();
        match read? {
            Ok(piece) => piece,
            Err(broken) => {
                self.broken = Some(broken);
                None
            }
        }
    }

    /// The connection, for the next call, if this one's answer came to its end; and where it waits.
    pub async fn into_stream(mut self) -> Option<(Place, Stream)> {
        let home = self.home?;
        if !self.session.is_body_done() {
            // Behind a stream's end marker stands the body's own end.
            let rest = async { while let Ok(Some(_)) = self.session.read_body_bytes().await {} };
            let _ = tokio::time::timeout(REST, rest).await;
        }
        self.session.respect_keepalive();
        Some((home, self.session.reuse().await?))
    }
}

async fn send(
    stream: &mut Stream,
    head: &RequestHeader,
    body: &Bytes,
    patience: Duration,
) -> pingora::Result<()> {
    let together = body.len() <= MAX_TOGETHER_BYTES;
    let mut wire = BytesMut::with_capacity(512 + if together { body.len() } else { 0 });
    wire.put_slice(head.method.as_str().as_bytes());
    wire.put_slice(b" ");
    wire.put_slice(head.raw_path());
    wire.put_slice(b" HTTP/1.1\r\n");
    head.header_to_h1_wire(&mut wire);
    wire.put_slice(b"\r\n");
    if together {
        wire.put_slice(body);
        return in_time(patience, write_out(stream, &wire)).await;
    }
    in_time(patience, stream.write_all(&wire)).await?;
    for slice in body.chunks(SLICE) {
        in_time(patience, stream.write_all(slice)).await?;
    }
    in_time(patience, stream.flush()).await
}

async fn write_out(stream: &mut Stream, wire: &[u8]) -> io::Result<()> {
    stream.write_all(wire).await?;
    stream.flush().await
}

/// One write's deadline: the upstream's time to take some of a request, not all.
async fn in_time(
    patience: Duration,
    writing: impl Future<Output = io::Result<()>>,
) -> pingora::Result<()> {
    match tokio::time::timeout(patience, writing).await {
        Ok(written) => written
            .map_err(|cause| pingora::Error::because(ErrorType::WriteError, "the request", cause)),
        Err(_) => pingora::Error::e_explain(ErrorType::WriteTimedout, "the request"),
    }
}

/// Bodies up to this size are copied behind their head: cheaper than a second system call.
const MAX_TOGETHER_BYTES: usize = 16 << 10;
/// From this size on, copying a piece behind another would cost more than it saves.
const MAX_JOINED_BYTES: usize = 16 << 10;
/// How long a complete answer's connection may take to end its body.
const REST: Duration = Duration::from_millis(50);
/// How long an upstream that stopped reading has for saying why.
const EARLY_ANSWER: Duration = Duration::from_secs(1);
