//! A request's arrival: its head is admitted, its body read, its exchange made, and it is settled who carries it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
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
    health::circuit::Verdict,
    leg::{Failed, Opens},
    passing,
    places::Place,
    provider::pool::KeySet,
    proxy::Gateway,
    pursuit::{Means, Pursuit, Step, outcome},
    regard::{self, Held, Turn},
    route::{
        Balanced,
        plan::{Facts, no_target},
    },
    tunnel,
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
    /// Inside a filter of somebody else's, whose phases are not ours; or a call of which is remembered how it ended.
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
        if edition.upstream.leaving().is_retiring() {
            session.set_keepalive(None);
        }
        context.ticket.adopt(&session.req_header().headers);
        match arrival::admit(session, &mut context.ticket, self.heads, &edition.state)? {
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
                let pool = passage.target.pool();
                if let Some(key) =
                    pool.and_then(|pool| pool.take(KeySet::default(), Instant::now()))
                {
                    passage.take_key(key)?;
                }
                if let Some(token) = self.tokens.settle(&passage.target).await? {
                    passage.settle(token)?;
                }
                context.ticket.target = Some(Arc::new(passage.target.clone()));
                // What fails is a head that was read and cannot be written.
                arrival::keep_protected(session.req_header_mut())
                    .map_err(|error| arrival::failure(&error))?;
                passing::prepare(session, &passage);
                let socket = passage.upgrade;
                if let Some(idle) = socket.filter(|_| session.as_downstream_mut().is_body_empty()) {
                    let asked = (&*passage, idle);
                    let upstream = &edition.upstream;
                    let carried = tunnel::carry(session, &mut context.ticket, asked, upstream);
                    let carried = Box::pin(carried).await;
                    context.call = Call::Pass(passage);
                    return carried.map(|()| Next::Answered);
                }
                context.call = Call::Pass(passage);
                Ok(Next::Proxy)
            }
            Admission::Complete(directives) => {
                self.complete(session, context, directives, roads).await
            }
        }
    }

    /// Calls one target after the other until an answer has begun.
    async fn complete(
        &self,
        session: &mut Session,
        context: &mut Context,
        directives: Box<Directives>,
        roads: Roads,
    ) -> Result<Next, Error> {
        let heartbeat = context.edition.state.config.timeouts.heartbeat;
        let wanted = match roads == Roads::All && heartbeat.is_none() {
            true => Replay::Held,
            false => Replay::Lost,
        };
        let mut pursuit = pursue(session, context, (directives, wanted)).await?;
        let edition = context.edition.clone();
        let health = &edition.state.health;
        let resilience = &edition.state.config.resilience;
        loop {
            regard::pass_over(health, &mut pursuit);
            let (tried, held) = self.call(session, context, &mut pursuit, roads).await;
            let failed = match tried {
                Ok(next) => return Ok(next),
                Err(failed) => failed,
            };
            let outcome = outcome(&failed, unix_now());
            if regard::changes_key(context, &mut pursuit, &failed, &outcome) {
                // Of the target, this says nothing: it has another key.
                context.note_failed(&failed.error);
                continue;
            }
            let means = Means {
                draw: fastrand::f64(),
                left: context.left(),
                budget: &|attempt| regard::may_retry(health, attempt, resilience.allowance),
            };
            let step = pursuit.after(&failed.error, &outcome, means);
            held.failed(&failed.error, &outcome);
            context.ticket.retries = pursuit.retries();
            if step == Step::End {
                context.refused = failed.head;
                return Err(failed.error);
            }
            context.note_failed(&failed.error);
            if let Step::Again(wait) = step {
                context.pause(session, wait).await?;
            }
        }
    }

    /// Calls the present target, in its place and in what is remembered of it. A failure comes with these: what it says of the
    /// target is yet to be told there.
    async fn call(
        &self,
        session: &mut Session,
        context: &mut Context,
        pursuit: &mut Pursuit,
        roads: Roads,
    ) -> (Result<Next, Failed>, Held) {
        let mut held = match self.hold(session, context, pursuit).await {
            Ok(held) => held,
            // One that got no place was no call.
            Err(error) => return (Err(error.into()), Held::default()),
        };
        // Phases end elsewhere.
        let roads = held.begun.as_ref().map_or(roads, |_| Roads::Inside);
        let tried = self.attempt(session, context, pursuit, (roads, &mut held));
        let tried = tried.await;
        if let (Ok(_), Some(key)) = (&tried, context.ticket.key()) {
            key.worked();
        }
        if tried.is_ok()
            && let Some(mut begun) = held.begun.take()
        {
            if let Some(took) = context.ticket.first_token() {
                begun.first_token(took);
            }
            begun.ended(context.verdict(), Instant::now());
        }
        (tried, held)
    }

    /// Takes what a call of the present target needs there.
    async fn hold(
        &self,
        session: &mut Session,
        context: &mut Context,
        pursuit: &Pursuit,
    ) -> Result<Held, Error> {
        let attempt = pursuit.attempt().ok_or_else(no_target)?;
        let place = match regard::limited(attempt) {
            None => None,
            // Boxed: few requests need it.
            Some(limited) => Some(Box::pin(context.place(session, limited)).await?),
        };
        let turn = match pursuit.is_again() {
            true => Turn::Again,
            false => Turn::First,
        };
        let begun = regard::begin(&context.edition.state.health, attempt, turn);
        Ok(Held::new(place, begun))
    }

    /// Calls the present target. `Err`: nothing of an answer was written.
    async fn attempt(
        &self,
        session: &mut Session,
        context: &mut Context,
        pursuit: &mut Pursuit,
        (roads, held): (Roads, &mut Held),
    ) -> Result<Next, Failed> {
        let edition = context.edition.clone();
        let may_go_on = pursuit.may_go_on();
        let body = match may_go_on || edition.state.config.has_pools {
            true => pursuit.body.clone(),
            false => std::mem::take(&mut pursuit.body),
        };
        let attempt = pursuit.attempt().ok_or_else(no_target)?;
        context.ticket.turn(attempt.place.clone());
        let headers = &session.req_header().headers;
        let state = &edition.state;
        let Completing { mut work, settled } =
            state.complete(&pursuit.directives, &attempt.leaf, headers, body, seed())?;
        work.take_key(|pool| pool.take(pursuit.refused_keys(), Instant::now()));
        context.ticket.goes_to(work.target(), &settled);
        if work.target().grant().is_some() {
            let left = context.left().unwrap_or_default();
            self.settle(session, &mut work, left).await?;
            context.ticket.target = Some(work.target().clone());
        }
        // What may be called again, with another key too, has to come back here when it fails.
        let phases = roads == Roads::All && !may_go_on && work.target().taken().is_none();
        let (carried, call) = match work {
            Work::One(exchange) if phases && exchange.road(pursuit.replay) == Road::Phases => {
                context.call = Call::Complete(exchange);
                return Ok(Next::Proxy);
            }
            Work::One(mut exchange) => {
                let (carried, exchange) = match pursuit.spare() {
                    None => {
                        let opens = match may_go_on {
                            true => Opens::ByEvent,
                            false => Opens::ByAnything,
                        };
                        let carried = context.conduct(session, &mut exchange, opens).await;
                        (carried, exchange)
                    }
                    Some(spare) => {
                        let race = (&*pursuit, spare);
                        // Boxed: few requests need it.
                        Box::pin(self.race(session, context, race, held, exchange)).await
                    }
                };
                (carried, Call::Complete(exchange))
            }
            Work::Many(mut fan_out) => {
                let carried = context.gather(session, &mut fan_out).await;
                (carried, Call::Many(fan_out))
            }
        };
        context.call = call;
        carried.map(|()| Next::Answered)
    }

    /// Gets the token that a target's credential stands for; nearly always one is held.
    async fn settle(
        &self,
        session: &mut Session,
        work: &mut Work,
        left: Duration,
    ) -> Result<(), Error> {
        let call = work.deadlines().call;
        let patience = call.map_or(left, |own| own.min(left));
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
        opens: Opens,
    ) -> Result<(), Failed> {
        let mut limit = self.limit(exchange.deadlines());
        let upstream = &self.edition.upstream;
        let mut client = Client::new(session, &mut self.ticket, self.edition.upstream.leaving());
        conductor::carry(&mut client, (exchange, opens), upstream, &mut limit).await
    }

    /// Has several calls carried.
    async fn gather(&mut self, session: &mut Session, fan_out: &mut FanOut) -> Result<(), Failed> {
        let mut limit = self.limit(fan_out.deadlines());
        let upstream = &self.edition.upstream;
        let mut client = Client::new(session, &mut self.ticket, self.edition.upstream.leaving());
        // Boxed: few requests need it, and its state would be a part of all of them.
        Box::pin(gather::carry(&mut client, fan_out, upstream, &mut limit)).await
    }

    /// What an answer that has begun says of its target.
    fn verdict(&self) -> Verdict {
        match &self.call {
            Call::Complete(exchange) if exchange.report().failure.is_some() => Verdict::NoAnswer,
            Call::Many(fan_out) if fan_out.report().failure.is_some() => Verdict::NoAnswer,
            _ => Verdict::Success,
        }
    }

    pub(crate) fn limit(&self, deadlines: &Deadlines) -> Limit {
        let began = self.ticket.attempted;
        Limit::new((self.ticket.called, self.total), (began, deadlines.call))
    }

    /// Takes one of the places of a target.
    async fn place(
        &mut self,
        session: &mut Session,
        (id, most): (u64, u32),
    ) -> Result<Place, Error> {
        let edition = self.edition.clone();
        let queue = edition.state.config.resilience.queue;
        let mut limit = self.limit(&Deadlines::default());
        let mut client = Client::new(session, &mut self.ticket, self.edition.upstream.leaving());
        let entering = Box::pin(edition.places.enter(id, most, queue));
        client.wait(&mut limit, entering).await?
    }

    /// Waits before the next try.
    async fn pause(&mut self, session: &mut Session, wait: Duration) -> Result<(), Error> {
        let mut limit = self.limit(&Deadlines::default());
        let mut client = Client::new(session, &mut self.ticket, self.edition.upstream.leaving());
        let waiting = Box::pin(tokio::time::sleep(wait));
        client.wait(&mut limit, waiting).await
    }
}

/// Reads the body, and makes the plan.
async fn pursue(
    session: &mut Session,
    context: &mut Context,
    (directives, wanted): (Box<Directives>, Replay),
) -> Result<Pursuit, Error> {
    let edition = context.edition.clone();
    let config = &edition.state.config;
    let (body, replay) = arrival::read_body(session, &config.limits, wanted).await?;
    // From here on, an upstream's 1xx is the upstream's own business.
    session.as_downstream_mut().set_ignore_info_resp(true);
    context.begin_call(directives.asked.total(edition.upstream.timeouts()));
    let health = &edition.state.health;
    let mut choose = |balanced: &Balanced, facts: &Facts<'_>| {
        health.choose(balanced, facts, Instant::now(), fastrand::u64(..))
    };
    let head = downstream::head(session);
    let plan = edition.state.plan(&directives, head, &body, &mut choose)?;
    let backoff = config.resilience.backoff;
    Ok(Pursuit::new(directives, plan, (body, replay), backoff))
}

/// Reads the body of a passage that is signed: the signature covers it, and stands before it.
async fn hold(session: &mut Session, limits: &Limits) -> Result<Bytes, Error> {
    match arrival::read_body(session, limits, Replay::Held).await? {
        (body, Replay::Held) => Ok(body),
        (_, Replay::Lost) => {
            let message = "The body of a signed call is sent with its `content-length`.";
            Err(Error::invalid("content-length", message))
        }
    }
}

pub fn seed() -> Seed {
    Seed {
        now: unix_now(),
        draw: fastrand::u128(..),
    }
}
