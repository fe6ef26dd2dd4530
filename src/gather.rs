//! Carries a fan-out from inside `request_filter`: several calls at once, their choices gathered into one answer.
//!
//! Every call is a future of the request's own task: when the client leaves, or one call fails, all of them are dropped and
//! with them their connections.

use std::{pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_util::{
    StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use http::StatusCode;
use pingora::{http::ResponseHeader, proxy::Session};
use tokio::{sync::OwnedSemaphorePermit, time::Sleep};

use crate::{
    call::Call,
    downstream::{self, End, Framing, answer_head},
    error::Error,
    exchange::{
        Exchange, ReplyForm,
        fan_out::FanOut,
        relay::Relay,
        reply::{Gathered, OwnedChoice},
    },
    opening::{self, Opened, Unopened},
    ticket::Ticket,
    upstream::{Upstream, broke_off, failure, total_timeout},
};

/// The calls of one request and their client.
pub struct Gather<'c> {
    pub session: &'c mut Session,
    pub ticket: &'c mut Ticket,
    /// One timer for all of them.
    deadline: Pin<Box<Sleep>>,
    opened: bool,
}

/// Why a call failed.
struct Failure {
    error: Error,
    /// The provider's head, for what it says to clients: when to come again, say.
    head: Option<Box<ResponseHeader>>,
    /// What an open stream gets for it.
    last: Bytes,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            last: Bytes::from(error.event()),
            error,
            head: None,
        }
    }
}

impl From<Unopened> for Failure {
    fn from(unopened: Unopened) -> Self {
        Self {
            head: unopened.head,
            ..Self::from(unopened.error)
        }
    }
}

impl<'c> Gather<'c> {
    pub fn new(
        session: &'c mut Session,
        ticket: &'c mut Ticket,
        upstream: &Upstream,
        fan_out: &FanOut,
    ) -> Self {
        let total = upstream.timeouts().total;
        let patience = fan_out.timeout().map_or(total, |own| own.min(total));
        let left = patience.saturating_sub(ticket.waited());
        Self {
            session,
            ticket,
            deadline: Box::pin(tokio::time::sleep(left)),
            opened: false,
        }
    }

    /// Makes the calls and writes the answer. `Err`: what went wrong before a stream was open. The client may have been told.
    pub async fn carry(
        mut self,
        fan_out: &mut FanOut,
        upstream: &Arc<Upstream>,
    ) -> Result<(), Error> {
        let carried = match fan_out.reply() {
            ReplyForm::Whole => self.whole(fan_out, upstream).await,
            ReplyForm::Stream => self.stream(fan_out, upstream).await,
        };
        match carried {
            Ok(()) => Ok(()),
            Err(failed) => {
                fan_out.fail(failed.error.clone());
                self.tell(failed).await
            }
        }
    }

    async fn whole(
        &mut self,
        fan_out: &mut FanOut,
        upstream: &Arc<Upstream>,
    ) -> Result<(), Failure> {
        let (limit, mut choices) = (fan_out.concurrent_calls(), Gathered::default());
        let parts = fan_out.parts_mut().iter_mut();
        let calls: Vec<_> = parts.map(|part| ask(part, upstream)).collect();
        let mut calls = stream::iter(calls).buffer_unordered(limit).boxed();
        while let Some(answer) = self.next(&mut calls).await? {
            choices.take(answer?)?;
        }
        drop(calls);
        let body = fan_out.write_reply(choices);
        let framing = Framing::Length(body.len());
        let head = answer_head(
            self.session,
            None,
            StatusCode::OK,
            downstream::JSON,
            framing,
        );
        let head = head.map_err(|_| Error::gone())?;
        downstream::write_whole(self.session, self.ticket, head, body).await?;
        Ok(())
    }

    async fn stream(
        &mut self,
        fan_out: &mut FanOut,
        upstream: &Arc<Upstream>,
    ) -> Result<(), Failure> {
        let limit = fan_out.concurrent_calls();
        let parts = fan_out.parts_mut().iter_mut();
        let calls: Vec<_> = parts.map(|part| events(part, upstream)).collect();
        let mut calls = stream::iter(calls).flatten_unordered(limit).boxed();
        while let Some(out) = self.next(&mut calls).await? {
            let out = out?;
            if !out.is_empty() {
                self.write(out, End::Open).await?;
            }
        }
        drop(calls);
        self.write(fan_out.end_stream(), End::Complete).await?;
        Ok(())
    }

    /// What one of the calls brings next, unless the client leaves or the time is over.
    async fn next<T>(&mut self, calls: &mut BoxStream<'_, T>) -> Result<Option<T>, Error> {
        tokio::select! {
            biased;
            // First: what always has something more would never let it come up.
            () = &mut self.deadline => Err(total_timeout()),
            brought = calls.next() => Ok(brought),
            _ = self.session.downstream_session.read_body_or_idle(true) => Err(Error::gone()),
        }
    }

    /// The head goes out with the first events, so that what fails before them has its own status.
    async fn write(&mut self, out: Bytes, end: End) -> Result<(), Error> {
        if !self.opened {
            let (kind, open) = (downstream::EVENT_STREAM, Framing::Open);
            let head = answer_head(self.session, None, StatusCode::OK, kind, open);
            let mut head = head.map_err(|_| Error::gone())?;
            self.ticket.stamp(&mut head).map_err(|_| Error::gone())?;
            let client = self.session.as_downstream_mut();
            let written = client.write_response_header(Box::new(head)).await;
            written.map_err(|_| Error::gone())?;
            self.opened = true;
        }
        self.ticket.mark_first_byte();
        downstream::write_until(self.session, out, end, &mut self.deadline).await
    }

    async fn tell(&mut self, failed: Failure) -> Result<(), Error> {
        if self.opened {
            return self.write(failed.last, End::Complete).await;
        }
        let head = failed.head.as_deref();
        downstream::refuse(self.session, self.ticket, &failed.error, head).await;
        Err(failed.error)
    }
}

/// One call on its way.
struct Leg<'p> {
    exchange: &'p mut Exchange,
    upstream: &'p Arc<Upstream>,
    opened: Opened,
    _lane: Option<OwnedSemaphorePermit>,
}

impl<'p> Leg<'p> {
    async fn open(
        exchange: &'p mut Exchange,
        upstream: &'p Arc<Upstream>,
    ) -> Result<Self, Failure> {
        let lane = upstream.lanes().enter(&exchange.target().base).await;
        let opened = opening::open(exchange, upstream).await?;
        Ok(Self {
            exchange,
            upstream,
            opened,
            _lane: lane,
        })
    }

    async fn read(&mut self) -> Result<Option<Bytes>, Failure> {
        match self.opened.call.read().await {
            Ok(piece) => Ok(piece),
            Err(error) => {
                let error = broke_off(self.exchange, failure(&error));
                Err(with_head(error, &self.opened.call))
            }
        }
    }

    fn relay(&mut self) -> Result<&mut Relay, Failure> {
        let relay = self.exchange.relay_mut();
        relay.ok_or_else(|| Failure::from(Error::broken("The provider's answer has no head.")))
    }

    /// One upstream read; `None`: there are no more.
    async fn relay_one(&mut self) -> Result<(Bytes, End), Failure> {
        let piece = self.read().await?;
        let relay = self.relay()?;
        let (out, end) = match piece {
            Some(piece) => (relay.push(piece), End::Open),
            None => match relay.finish() {
                Ok(out) => (out, End::Complete),
                Err(error) => return Err(with_head(error, &self.opened.call)),
            },
        };
        let is_over = relay.partial().done;
        match relay.failure().cloned() {
            Some(error) => Err(Failure {
                last: out,
                ..with_head(error, &self.opened.call)
            }),
            None if is_over => Ok((out, End::Complete)),
            None => Ok((out, end)),
        }
    }

    async fn close(self) {
        self.opened.close(self.exchange, self.upstream).await;
    }
}

fn with_head(error: Error, call: &Call) -> Failure {
    Failure {
        head: call.head().cloned().map(Box::new),
        ..Failure::from(error)
    }
}

/// The choices of one whole answer.
///
/// Boxed by name: the compiler cannot show that the plain future may change threads once it stands in a stream.
fn ask<'p>(
    exchange: &'p mut Exchange,
    upstream: &'p Arc<Upstream>,
) -> BoxFuture<'p, Result<Vec<OwnedChoice>, Failure>> {
    Box::pin(whole(exchange, upstream))
}

async fn whole(
    exchange: &mut Exchange,
    upstream: &Arc<Upstream>,
) -> Result<Vec<OwnedChoice>, Failure> {
    let mut leg = Leg::open(exchange, upstream).await?;
    while let Some(piece) = leg.read().await? {
        leg.relay()?.push(piece);
    }
    let finished = leg.relay()?.finish_part();
    let choices = finished.map_err(|error| with_head(error, &leg.opened.call))?;
    leg.close().await;
    Ok(choices)
}

/// The events of one streamed answer.
fn events<'p>(
    exchange: &'p mut Exchange,
    upstream: &'p Arc<Upstream>,
) -> BoxStream<'p, Result<Bytes, Failure>> {
    stream::try_unfold(Stage::Begin(exchange, upstream), advance).boxed()
}

fn advance(stage: Stage<'_>) -> BoxFuture<'_, Result<Option<(Bytes, Stage<'_>)>, Failure>> {
    Box::pin(async move {
        let mut leg = match stage {
            Stage::Begin(exchange, upstream) => Box::new(Leg::open(exchange, upstream).await?),
            Stage::Open(leg) => leg,
            Stage::Over(leg) => {
                leg.close().await;
                return Ok(None);
            }
        };
        let (out, end) = leg.relay_one().await?;
        let stage = match end {
            End::Open => Stage::Open(leg),
            End::Complete => Stage::Over(leg),
        };
        Ok(Some((out, stage)))
    })
}

enum Stage<'p> {
    Begin(&'p mut Exchange, &'p Arc<Upstream>),
    Open(Box<Leg<'p>>),
    Over(Box<Leg<'p>>),
}
