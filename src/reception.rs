//! A request's arrival: its head is admitted, its body read, its exchange made, and it is settled who carries it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::HeaderValue;
use pingora::proxy::Session;

use crate::{
    arrival,
    conductor::Conductor,
    config::{Limits, headers::Directives},
    context::{Call, Context},
    downstream::{self, unless_gone},
    error::Error,
    exchange::{Replay, Road, Seed, Work},
    gateway::{Admission, Completing},
    gather::Gather,
    proxy::Gateway,
    upstream::{total_timeout, unix_now},
};

/// What follows `request_filter`.
pub enum Next {
    /// Pingora's phases.
    Proxy,
    /// Nothing: the answer is out.
    Answered,
}

impl Gateway {
    /// Admits the request; what needs the conductor, or is answered here, is over when this returns.
    pub(crate) async fn receive(
        &self,
        session: &mut Session,
        context: &mut Context,
    ) -> Result<Next, Error> {
        let edition = context.edition.clone();
        downstream::prepare(session, edition.upstream.timeouts().write);
        context.ticket.adopt(&session.req_header().headers);
        match edition.state.admit(downstream::head(session))? {
            Admission::Answer(text) => {
                context.call = Call::Own;
                downstream::write_own(session, &mut context.ticket, text).await?;
                Ok(Next::Answered)
            }
            Admission::Pass(mut passage) => {
                context.ticket.name(&passage.target.provider.name);
                if passage.target.signs() {
                    passage.body = Some(hold(session, &edition.state.config.limits).await?);
                }
                if let Some(token) = self.tokens.settle(&passage.target).await? {
                    passage.settle(token)?;
                }
                context.ticket.target = Some(Arc::new(passage.target.clone()));
                // What fails is a head that was read and cannot be written.
                arrival::keep_protected(session.req_header_mut())
                    .map_err(|error| arrival::failure(&error))?;
                context.call = Call::Pass(passage);
                Ok(Next::Proxy)
            }
            Admission::Complete(directives) => self.complete(session, context, *directives).await,
        }
    }

    async fn complete(
        &self,
        session: &mut Session,
        context: &mut Context,
        directives: Directives,
    ) -> Result<Next, Error> {
        let edition = context.edition.clone();
        let limits = &edition.state.config.limits;
        let (body, replay) = arrival::read_body(session, limits).await?;
        // From here on, an upstream's 1xx is the upstream's own business.
        session.as_downstream_mut().set_ignore_info_resp(true);
        if let Ok(option) = HeaderValue::try_from(directives.option.as_str()) {
            context.ticket.option = option;
        }
        let headers = &session.req_header().headers;
        let Completing { mut work, settled } =
            edition.state.complete(directives, headers, body, seed())?;
        let provider = &work.target().provider;
        context.ticket.name(&provider.name);
        context.ticket.sent_as = Some(provider.dialect.prompt_form().sent_as(settled.approach));
        context.ticket.tell(&settled);
        context.begin_call();
        if work.target().grant().is_some() {
            let total = edition.upstream.timeouts().total;
            self.settle(session, &mut work, total).await?;
        }
        context.ticket.target = Some(work.target().clone());
        let (ticket, upstream) = (&mut context.ticket, &edition.upstream);
        // Boxed: the carriers' states are large, and would be moved with this phase's for every plain request too.
        let (next, call) = match work {
            Work::One(exchange) if exchange.road(replay) == Road::Phases => {
                (Ok(Next::Proxy), Call::Complete(exchange))
            }
            Work::One(mut exchange) => {
                let conductor = Conductor::new(session, ticket, upstream, &exchange);
                let carried = Box::pin(conductor.carry(&mut exchange)).await;
                (carried.map(|()| Next::Answered), Call::Complete(exchange))
            }
            Work::Many(mut fan_out) => {
                let gather = Gather::new(session, ticket, upstream, &fan_out);
                let carried = Box::pin(gather.carry(&mut fan_out, upstream)).await;
                (carried.map(|()| Next::Answered), Call::Many(fan_out))
            }
        };
        context.call = call;
        next
    }

    /// Gets the token that a target's credential stands for; nearly always one is held.
    async fn settle(
        &self,
        session: &mut Session,
        work: &mut Work,
        total: Duration,
    ) -> Result<(), Error> {
        let patience = work.timeout().map_or(total, |own| own.min(total));
        let settling = tokio::time::timeout(patience, self.tokens.settle(work.target()));
        let settled = unless_gone(session, Box::pin(settling)).await?;
        if let Some(token) = settled.map_err(|_| total_timeout())?? {
            work.settle(token);
        }
        Ok(())
    }
}

/// Reads the body of a passage that is signed: the signature covers it, and stands before it.
async fn hold(session: &mut Session, limits: &Limits) -> Result<Bytes, Error> {
    match arrival::read_body(session, limits).await? {
        (body, Replay::Held) => Ok(body),
        (_, Replay::Lost) => {
            let message = "The body of a signed call is sent with its `content-length`.";
            Err(Error::invalid("content-length", message))
        }
    }
}

fn seed() -> Seed {
    Seed {
        now: unix_now(),
        draw: fastrand::u128(..),
    }
}
