//! Carries an exchange from inside `request_filter`, for what Pingora's phases cannot do; [`Exchange::road`] says when.
//!
//! Everything runs in the request's own task: when the client leaves, the future is dropped and with it the upstream's
//! connection, which is how an HTTP/1 call is cancelled.

use std::{pin::Pin, sync::Arc};

use bytes::Bytes;
use http::StatusCode;
use pingora::proxy::Session;
use tokio::time::Sleep;

use crate::{
    call::Call,
    downstream::{self, End, Framing, answer_head, unless_gone},
    error::Error,
    exchange::{Exchange, relay::Relay},
    opening::{self, Opened},
    ticket::Ticket,
    upstream::{Upstream, broke_off, failure, total_timeout},
};

/// One call and its client.
pub struct Conductor<'c> {
    pub session: &'c mut Session,
    pub ticket: &'c mut Ticket,
    pub upstream: &'c Arc<Upstream>,
    /// One timer for the whole call.
    deadline: Pin<Box<Sleep>>,
}

impl<'c> Conductor<'c> {
    pub fn new(
        session: &'c mut Session,
        ticket: &'c mut Ticket,
        upstream: &'c Arc<Upstream>,
        exchange: &Exchange,
    ) -> Self {
        let total = upstream.timeouts().total;
        let patience = exchange.timeout().map_or(total, |own| own.min(total));
        // A wait for the credential's token was a part of it.
        let waited = ticket.waited();
        Self {
            session,
            ticket,
            upstream,
            deadline: Box::pin(tokio::time::sleep(patience.saturating_sub(waited))),
        }
    }

    /// Makes the call and writes the answer. `Err`: what went wrong before a stream was open. The client may have been told:
    /// an answer that says so is only written where there is none.
    pub async fn carry(mut self, exchange: &mut Exchange) -> Result<(), Error> {
        let mut opened = self.open(exchange).await?;
        if exchange.is_streaming() {
            self.stream(exchange, &mut opened.call).await?;
        } else {
            self.whole(exchange, &mut opened.call).await?;
        }
        opened.close(exchange, self.upstream).await;
        Ok(())
    }

    async fn open(&mut self, exchange: &mut Exchange) -> Result<Opened, Error> {
        let opening = Box::pin(opening::open(exchange, self.upstream));
        let opening = unless_gone(self.session, opening);
        match within(&mut self.deadline, opening).await?? {
            Ok(opened) => Ok(opened),
            Err(failed) => {
                // What has a head of the provider's is told with it; the rest by the caller.
                if let Some(head) = &failed.head {
                    let head = Some(&**head);
                    downstream::refuse(self.session, self.ticket, &failed.error, head).await;
                }
                Err(failed.error)
            }
        }
    }

    async fn read(&mut self, call: &mut Call) -> Result<Option<Bytes>, Error> {
        let reading = unless_gone(self.session, Box::pin(call.read()));
        let read = within(&mut self.deadline, reading).await??;
        read.map_err(|error| failure(&error))
    }

    async fn whole(&mut self, exchange: &mut Exchange, call: &mut Call) -> Result<(), Error> {
        let mut body = Vec::new();
        if let Err(error) = self.fill(&mut body, exchange, call).await {
            let error = broke_off(exchange, error);
            self.refuse(&error, call).await;
            return Err(error);
        }
        let framing = Framing::Length(body.len());
        let head = answer_head(
            self.session,
            call.head(),
            StatusCode::OK,
            downstream::JSON,
            framing,
        );
        let head = head.map_err(|_| Error::gone())?;
        downstream::write_whole(self.session, self.ticket, head, Bytes::from(body)).await
    }

    async fn fill(
        &mut self,
        body: &mut Vec<u8>,
        exchange: &mut Exchange,
        call: &mut Call,
    ) -> Result<(), Error> {
        loop {
            let piece = self.read(call).await?;
            let Some(relay) = exchange.relay_mut() else {
                return Ok(());
            };
            let Some(piece) = piece else {
                body.extend_from_slice(&relay.finish()?);
                return Ok(());
            };
            body.extend_from_slice(&relay.push(piece));
        }
    }

    /// Tells an error in place of the upstream's answer.
    async fn refuse(&mut self, error: &Error, call: &Call) {
        downstream::refuse(self.session, self.ticket, error, call.head()).await;
    }

    /// Writes a stream to its end, whichever that is. Its head goes out with its first events, so that an answer that fails
    /// before them still has its own status; what goes wrong after that is told inside the stream.
    async fn stream(&mut self, exchange: &mut Exchange, call: &mut Call) -> Result<(), Error> {
        let (mut out, mut end) = self.first_output(exchange, call).await?;
        let mut written = self.open_stream(call).await;
        loop {
            if written.is_ok() {
                written = self.write(out, end).await;
            }
            if written.is_err() || end == End::Complete {
                break;
            }
            (out, end) = match self.relay_one(exchange, call).await {
                Ok(relayed) => relayed,
                Err(error) => (last_words(exchange, error), End::Complete),
            };
        }
        written
    }

    /// Reads on until there is something for the client, or nothing more to come.
    async fn first_output(
        &mut self,
        exchange: &mut Exchange,
        call: &mut Call,
    ) -> Result<(Bytes, End), Error> {
        loop {
            let relayed = self.relay_one(exchange, call).await;
            let failure = exchange.relay().and_then(Relay::failure).cloned();
            match failure.map_or(relayed, Err) {
                Err(error) => {
                    self.refuse(&error, call).await;
                    return Err(error);
                }
                Ok((out, end)) if !out.is_empty() || end == End::Complete => return Ok((out, end)),
                Ok(_) => {}
            }
        }
    }

    async fn open_stream(&mut self, call: &Call) -> Result<(), Error> {
        let (kind, open) = (downstream::EVENT_STREAM, Framing::Open);
        let head = answer_head(self.session, call.head(), StatusCode::OK, kind, open);
        let mut head = head.map_err(|_| Error::gone())?;
        self.ticket.stamp(&mut head).map_err(|_| Error::gone())?;
        let client = self.session.as_downstream_mut();
        let written = client.write_response_header(Box::new(head)).await;
        written.map_err(|_| Error::gone())
    }

    /// One upstream read, which becomes one write.
    async fn relay_one(
        &mut self,
        exchange: &mut Exchange,
        call: &mut Call,
    ) -> Result<(Bytes, End), Error> {
        let piece = self.read(call).await?;
        let Some(relay) = exchange.relay_mut() else {
            return Ok((Bytes::new(), End::Complete));
        };
        let Some(piece) = piece else {
            return Ok((relay.finish()?, End::Complete));
        };
        let out = relay.push(piece);
        let is_over = relay.failure().is_some() || relay.partial().done;
        Ok((out, if is_over { End::Complete } else { End::Open }))
    }

    async fn write(&mut self, out: Bytes, end: End) -> Result<(), Error> {
        if !out.is_empty() {
            self.ticket.mark_first_byte();
        }
        downstream::write_until(self.session, out, end, &mut self.deadline).await
    }
}

/// What an open stream still gets for `error`.
fn last_words(exchange: &mut Exchange, error: Error) -> Bytes {
    let last = exchange.relay_mut().and_then(|relay| relay.fail(error));
    last.unwrap_or_default()
}

async fn within<T>(
    deadline: &mut Pin<Box<Sleep>>,
    work: impl Future<Output = T>,
) -> Result<T, Error> {
    tokio::select! {
        biased;
        // First: work that always has something more would never let it come up.
        () = deadline => Err(total_timeout()),
        done = work => Ok(done),
    }
}
