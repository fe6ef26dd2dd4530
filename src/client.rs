//! The client of a completion that is carried from inside `request_filter`: waited with, written to, told of failures.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::StatusCode;
use pingora::{http::ResponseHeader, proxy::Session};
use tokio::time::Sleep;

use crate::{
    downstream::{self, End, Framing, answer_head},
    drain::{Leaving, Vigil},
    error::{self, Error},
    mishap::contain,
    pulse::{Pulse, is_comment},
    ticket::Ticket,
    upstream::out_of_time,
};

/// A client that waits for its answer.
pub struct Client<'c> {
    pub session: &'c mut Session,
    pub ticket: &'c mut Ticket,
    /// Its stream's head is out.
    opened: bool,
    vigil: Vigil,
}

/// The end of the time that an answer has, and what it is called.
pub struct Limit {
    sleep: Pin<Box<Sleep>>,
    kind: error::Deadline,
}

impl Limit {
    /// What is left of the whole request's time or of this try's, whichever is less; each with its begin.
    pub fn new(total: (Option<Instant>, Duration), attempt: (Instant, Option<Duration>)) -> Self {
        let (began, total) = total;
        let spent = began.map_or(Duration::ZERO, |began| began.elapsed());
        let left = total.saturating_sub(spent);
        let own = attempt.1.map(|own| own.saturating_sub(attempt.0.elapsed()));
        let (patience, kind) = match own.filter(|own| *own < left) {
            Some(own) => (own, error::Deadline::Attempt),
            None => (left, error::Deadline::Total),
        };
        Self {
            sleep: Box::pin(tokio::time::sleep(patience)),
            kind,
        }
    }

    fn error(&self) -> Error {
        out_of_time(self.kind)
    }
}

impl<'c> Client<'c> {
    pub fn new(session: &'c mut Session, ticket: &'c mut Ticket, leaving: &Arc<Leaving>) -> Self {
        Self {
            session,
            ticket,
            opened: false,
            vigil: leaving.vigil(),
        }
    }

    /// `work`, unless the time is over, the process's is, or the client leaves first.
    ///
    /// It is boxed: a future is moved whole into each that wraps it, and those of calls have kilobytes.
    pub async fn wait<T>(
        &mut self,
        limit: &mut Limit,
        mut work: Pin<Box<impl Future<Output = T>>>,
    ) -> Result<T, Error> {
        self.wait_for(limit, work.as_mut()).await
    }

    async fn wait_for<T>(
        &mut self,
        limit: &mut Limit,
        work: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Error> {
        tokio::select! {
            biased;
            // First: work that always has something more would never let it come up.
            () = &mut limit.sleep => Err(limit.error()),
            done = work => Ok(done),
            _ = self.session.downstream_session.read_body_or_idle(true) => Err(Error::gone()),
            stopping = poll_fn(|context| self.vigil.poll(context)) => Err(stopping),
        }
    }

    /// The same; a client whose stream is open gets comments as long as `work` takes. A fault of ours in that is an error, which
    /// an open stream can still be told; what writes is not contained, as nobody could know where in a piece it stopped.
    pub async fn wait_with<T>(
        &mut self,
        limit: &mut Limit,
        pulse: &mut Pulse,
        mut work: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Error> {
        let is_open = self.opened;
        loop {
            let beat = tokio::select! {
                biased;
                waited = contain(self.wait_for(limit, work.as_mut())) => return waited,
                beat = contain(pulse.beat()), if is_open => beat?,
            };
            downstream::write_until(self.session, beat, End::Open, &mut limit.sleep).await?;
        }
    }

    /// Writes a whole answer. `upstream`: the head of the provider's.
    pub async fn write_whole(
        &mut self,
        upstream: Option<&ResponseHeader>,
        body: Bytes,
    ) -> Result<(), Error> {
        let framing = Framing::Length(body.len());
        let (ok, json) = (StatusCode::OK, downstream::JSON);
        let head = answer_head(self.session, upstream, ok, json, framing);
        downstream::write_whole(self.session, self.ticket, head, body).await
    }

    /// Writes a stream's head. It goes out with the first events, so that what fails before them has its own status.
    pub async fn open(&mut self, upstream: Option<&ResponseHeader>) -> Result<(), Error> {
        let (kind, framing) = (downstream::EVENT_STREAM, Framing::Open);
        let head = answer_head(self.session, upstream, StatusCode::OK, kind, framing);
        self.opened = true;
        downstream::write_head(self.session, self.ticket, head).await
    }

    pub fn is_open(&self) -> bool {
        self.opened
    }

    /// Writes a piece of a stream.
    pub async fn write(&mut self, out: Bytes, end: End, limit: &mut Limit) -> Result<(), Error> {
        if !is_comment(&out) {
            self.ticket.mark_first_byte();
        }
        downstream::write_until(self.session, out, end, &mut limit.sleep).await
    }
}
