//! A request's arrival: its head is admitted, its body read, its exchange made, and it is settled who carries it.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;
use pingora::proxy::Session;

use crate::{
    arrival,
    conductor::Conductor,
    config::headers::Directives,
    context::{Call, Context},
    downstream::{self, unless_gone},
    error::Error,
    exchange::{Exchange, Replay, Road, Seed},
    gateway::Admission,
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
        downstream::prepare(session, self.upstream.timeouts().write);
        context.ticket.adopt(&session.req_header().headers);
        match self.state.admit(downstream::head(session))? {
            Admission::Answer(text) => {
                context.call = Call::Own;
                downstream::write_own(session, &mut context.ticket, text).await?;
                Ok(Next::Answered)
            }
            Admission::Pass(mut passage) => {
                context.ticket.name(&passage.target.provider.name);
                if passage.target.signs() {
                    passage.body = Some(self.hold(session).await?);
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

    /// Reads the body of a passage that is signed: the signature covers it, and stands before it.
    async fn hold(&self, session: &mut Session) -> Result<Bytes, Error> {
        let limits = &self.state.config.limits;
        match arrival::read_body(session, limits).await? {
            (body, Replay::Held) => Ok(body),
            (_, Replay::Lost) => {
                let message = "The body of a signed call is sent with its `content-length`.";
                Err(Error::invalid("content-length", message))
            }
        }
    }

    async fn complete(
        &self,
        session: &mut Session,
        context: &mut Context,
        directives: Directives,
    ) -> Result<Next, Error> {
        let limits = &self.state.config.limits;
        let (body, replay) = arrival::read_body(session, limits).await?;
        // From here on, an upstream's 1xx is the upstream's own business.
        session.as_downstream_mut().set_ignore_info_resp(true);
        if let Ok(option) = HeaderValue::try_from(directives.option.as_str()) {
            context.ticket.option = option;
        }
        let headers = &session.req_header().headers;
        let exchange = self.state.complete(directives, headers, body, seed())?;
        let mut exchange = Box::new(exchange);
        context.ticket.name(&exchange.provider().name);
        context.ticket.sent_as = Some(exchange.provider().dialect.prompt_form().as_str());
        context.begin_call();
        if exchange.target().grant().is_some() {
            self.settle(session, &mut exchange).await?;
        }
        context.ticket.target = Some(exchange.target().clone());
        let next = match exchange.road(replay) {
            Road::Phases => Ok(Next::Proxy),
            Road::Conductor => {
                let ticket = &mut context.ticket;
                let conductor = Conductor::new(session, ticket, &self.upstream, &exchange);
                // Boxed: its state is large, and would be moved with this phase's for every plain request too.
                let carried = Box::pin(conductor.carry(&mut exchange)).await;
                carried.map(|()| Next::Answered)
            }
        };
        context.call = Call::Complete(exchange);
        next
    }

    /// Gets the token that an exchange's credential stands for; nearly always one is held.
    async fn settle(&self, session: &mut Session, exchange: &mut Exchange) -> Result<(), Error> {
        let total = self.upstream.timeouts().total;
        let patience = exchange.timeout().map_or(total, |own| own.min(total));
        let settling = tokio::time::timeout(patience, self.tokens.settle(exchange.target()));
        let settled = unless_gone(session, Box::pin(settling)).await?;
        if let Some(token) = settled.map_err(|_| total_timeout())?? {
            exchange.settle(token);
        }
        Ok(())
    }
}

fn seed() -> Seed {
    Seed {
        now: unix_now(),
        draw: fastrand::u128(..),
    }
}
