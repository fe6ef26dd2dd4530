//! A request's arrival: its head is admitted, its body read, its exchange made, and it is settled who carries it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::HeaderValue;
use pingora::proxy::Session;

use crate::{
    arrival,
    client::{Client, Limit},
    conductor,
    config::{Limits, headers::Directives},
    context::{Call, Context},
    downstream::{self, unless_gone},
    error::Error,
    exchange::{Deadlines, Exchange, Replay, Road, Seed, Work, fan_out::FanOut},
    gateway::{Admission, Completing},
    gather,
    leg::Failed,
    proxy::Gateway,
    route::{
        Balanced,
        plan::{no_target, weighted},
    },
    upstream::{total_timeout, unix_now},
};

/// What follows `request_filter`.
pub enum Next {
    /// Pingora's phases.
    Proxy,
    /// Nothing: the answer is out.
    Answered,
}

/// Which carriers there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Roads {
    All,
    /// Inside a filter of somebody else's, whose phases are not ours.
    Inside,
}

impl Gateway {
    /// Admits the request; what needs the conductor, or is answered here, is over when this returns.
    pub(crate) async fn receive(
        &self,
        session: &mut Session,
        context: &mut Context,
        roads: Roads,
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
            Admission::Complete(directives) => {
                self.complete(session, context, *directives, roads).await
            }
        }
    }

    async fn complete(
        &self,
        session: &mut Session,
        context: &mut Context,
        directives: Directives,
        roads: Roads,
    ) -> Result<Next, Error> {
        let edition = context.edition.clone();
        let limits = &edition.state.config.limits;
        let (body, replay) = arrival::read_body(session, limits).await?;
        // From here on, an upstream's 1xx is the upstream's own business.
        session.as_downstream_mut().set_ignore_info_resp(true);
        let mut choose = |balanced: &Balanced| weighted(balanced, fastrand::f64());
        let head = downstream::head(session);
        let plan = edition.state.plan(&directives, head, &body, &mut choose)?;
        let attempt = plan.first().ok_or_else(no_target)?;
        if let Ok(option) = HeaderValue::try_from(&*attempt.place) {
            context.ticket.option = option;
        }
        let (leaf, headers) = (&attempt.leaf, head.headers);
        let Completing { mut work, settled } =
            edition
                .state
                .complete(&directives, leaf, headers, body, seed())?;
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
        let (carried, call) = match work {
            Work::One(exchange) if roads == Roads::All && exchange.road(replay) == Road::Phases => {
                context.call = Call::Complete(exchange);
                return Ok(Next::Proxy);
            }
            Work::One(mut exchange) => {
                let carried = context.conduct(session, &mut exchange).await;
                (carried, Call::Complete(exchange))
            }
            Work::Many(mut fan_out) => {
                let carried = context.gather(session, &mut fan_out).await;
                (carried, Call::Many(fan_out))
            }
        };
        context.call = call;
        match carried {
            Ok(()) => Ok(Next::Answered),
            Err(failed) => {
                context.refused = failed.head;
                Err(failed.error)
            }
        }
    }

    /// Gets the token that a target's credential stands for; nearly always one is held.
    async fn settle(
        &self,
        session: &mut Session,
        work: &mut Work,
        total: Duration,
    ) -> Result<(), Error> {
        let call = work.deadlines().call;
        let patience = call.map_or(total, |own| own.min(total));
        let settling = tokio::time::timeout(patience, self.tokens.settle(work.target()));
        let settled = unless_gone(session, Box::pin(settling)).await?;
        if let Some(token) = settled.map_err(|_| total_timeout())?? {
            work.settle(token);
        }
        Ok(())
    }
}

impl Context {
    /// Has one call carried by the conductor. `Err`: nothing of an answer was written.
    pub(crate) async fn conduct(
        &mut self,
        session: &mut Session,
        exchange: &mut Exchange,
    ) -> Result<(), Failed> {
        let mut limit = self.limit(exchange.deadlines());
        let upstream = &self.edition.upstream;
        let mut client = Client::new(session, &mut self.ticket);
        conductor::carry(&mut client, exchange, upstream, &mut limit).await
    }

    /// Has several calls carried.
    async fn gather(&mut self, session: &mut Session, fan_out: &mut FanOut) -> Result<(), Failed> {
        let mut limit = self.limit(fan_out.deadlines());
        let upstream = &self.edition.upstream;
        let mut client = Client::new(session, &mut self.ticket);
        // Boxed: few requests need it, and its state would be a part of all of them.
        Box::pin(gather::carry(&mut client, fan_out, upstream, &mut limit)).await
    }

    fn limit(&self, deadlines: &Deadlines) -> Limit {
        let total = self.edition.upstream.timeouts().total;
        Limit::new(self.ticket.called, total, deadlines.call)
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
