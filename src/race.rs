//! A call that keeps its client waiting is made a second time, beside it: whichever brings something first is the answer.
//!
//! ```text
//!  first   ──────────────┬───────────── ✗ cancelled
//!                      delay
//!  second                └───── first token ══▶ the answer
//! ```
//!
//! Both are futures of the request's own task. The one that loses is dropped, and its connection with it, which says nothing
//! against its target. One that fails leaves the answer to the other; when both have, the request goes on as if there had
//! been no second call.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::{Either, select};
use pingora::proxy::Session;
use tokio::time::timeout;

use crate::{
    client::{Client, Limit},
    conductor::{self, Answering},
    context::Context,
    dialect::settle::Settled,
    edition::Edition,
    error::Deadline,
    exchange::{Deadlines, Exchange, ReplyForm, Work},
    gateway::Completing,
    health::{Health, circuit::Admits, spread::Awaited},
    leg::{Failed, Opens},
    provider::Target,
    provider::pool::KeySet,
    proxy::Gateway,
    pursuit::{Pursuit, outcome},
    reception::seed,
    regard::{self, Held, Turn},
    route::plan::Spare,
    ticket::{Tried, told},
    tokens::Tokens,
    upstream::{Upstream, out_of_time, unix_now},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    First,
    Second,
}

/// What two calls come to; and how the other one failed, unless it was cancelled.
enum Ended<T> {
    First(T, Option<Failed>),
    Second(T, Option<Failed>),
    Neither { first: Failed, second: Failed },
}

impl Gateway {
    /// Has a call carried, and another beside it if it keeps silent. What comes back is the exchange of the call that
    /// answered, else the first one's; `held` is that call's too.
    pub(crate) async fn race(
        &self,
        session: &mut Session,
        context: &mut Context,
        (pursuit, spare): (&Pursuit, &Spare),
        held: &mut Held,
        mut first: Box<Exchange>,
    ) -> (Result<(), Failed>, Box<Exchange>) {
        let edition = context.edition.clone();
        let total = (context.ticket.called, context.total);
        let mut limit = context.limit(&Deadlines::default());
        let mut client = Client::new(session, &mut context.ticket, edition.upstream.leaving());
        let mut second = None;
        let race = Race {
            pursuit,
            spare,
            awaited: awaited(first.reply()),
            client: &mut client,
            limit: &mut limit,
            held,
        };
        let calls = (&mut *first, &mut second);
        let (side, answering) = match race.run(&self.tokens, &edition, calls).await {
            Ok(won) => won,
            Err(failed) => return (Err(failed), first),
        };
        let call = answering.deadlines().call;
        let mut limit = Limit::new(total, (client.ticket.attempted, call));
        let carried = conductor::answer(&mut client, answering, &mut limit).await;
        match (side, second) {
            (Side::Second, Some(second)) => (carried, second),
            _ => (carried, first),
        }
    }
}

/// Two calls of one request, of which the first is under way.
struct Race<'r, 'c> {
    pursuit: &'r Pursuit,
    spare: &'r Spare,
    awaited: Awaited,
    client: &'r mut Client<'c>,
    /// The whole request's time.
    limit: &'r mut Limit,
    held: &'r mut Held,
}

/// A second call.
struct Second {
    target: Arc<Target>,
    settled: Settled,
    held: Held,
    began: Instant,
}

impl Race<'_, '_> {
    /// Waits for the answer of either call.
    async fn run<'e>(
        mut self,
        tokens: &Tokens,
        edition: &'e Edition,
        (first, slot): (&'e mut Exchange, &'e mut Option<Box<Exchange>>),
    ) -> Result<(Side, Answering<'e>), Failed> {
        let upstream = &edition.upstream;
        let spent = self.client.ticket.attempted.elapsed();
        let patience = first.deadlines().call;
        let patience = patience.map(|own| own.saturating_sub(spent));
        let delay = self.delay(&edition.state.health).unwrap_or(Duration::MAX);
        let mut call = Box::pin(in_time(
            patience,
            conductor::begin(first, upstream, Opens::ByEvent),
        ));
        let early = Box::pin(timeout(delay, call.as_mut()));
        if let Ok(begun) = self.client.wait(self.limit, early).await? {
            return begun.map(|answering| self.first_won(answering));
        }
        let Some((second, exchange)) = self.second(edition) else {
            let begun = self.client.wait(self.limit, call).await?;
            return begun.map(|answering| self.first_won(answering));
        };
        let patience = exchange.deadlines().call;
        let late = late(tokens, slot.insert(exchange), upstream);
        let late = Box::pin(in_time(patience, late));
        match self
            .client
            .wait(self.limit, Box::pin(both(call, late)))
            .await
        {
            Ok(ended) => self.settle(ended, second),
            Err(over) => {
                self.tell(&second, None);
                Err(over.into())
            }
        }
    }

    /// How long the first call may keep silent; `None`: that is not known yet.
    fn delay(&self, health: &Health) -> Option<Duration> {
        let attempt = self.pursuit.attempt()?;
        self.spare.hedge.delay(|quantile| {
            let standing = regard::known(health, attempt);
            standing.within(self.awaited, quantile)
        })
    }

    /// The second call, if one may be made now: to a target that is known to work and has a place, and that the budget pays.
    fn second(&self, edition: &Edition) -> Option<(Second, Box<Exchange>)> {
        let (state, attempt) = (&edition.state, &self.spare.attempt);
        if regard::admits(&state.health, attempt, Instant::now()) != Admits::Closed {
            return None;
        }
        let headers = &self.client.session.req_header().headers;
        let (directives, body) = (&self.pursuit.directives, self.pursuit.body.clone());
        let completing = state.complete(directives, &attempt.leaf, headers, body, seed());
        let Completing { mut work, settled } = completing.ok()?;
        // Of several keys, a turn of its own.
        work.take_key(|pool| pool.take(KeySet::default(), Instant::now()));
        // Several calls at once are load enough.
        let Work::One(exchange) = work else {
            return None;
        };
        let place = match regard::limited(attempt) {
            Some((id, most)) => Some(edition.places.enter_now(id, most)?),
            None => None,
        };
        let (first, allowance) = (self.pursuit.attempt()?, state.config.resilience.allowance);
        if !regard::may_retry(&state.health, first, allowance) {
            return None;
        }
        let begun = regard::begin(&state.health, attempt, Turn::Again);
        let second = Second {
            target: exchange.target().clone(),
            settled,
            held: Held::new(place, begun),
            began: Instant::now(),
        };
        Some((second, exchange))
    }

    fn settle<T>(mut self, ended: Ended<T>, second: Second) -> Result<(Side, T), Failed> {
        match ended {
            Ended::First(answering, failed) => {
                self.tell(&second, failed.as_ref());
                second.held.lost(failed.as_ref());
                Ok(self.first_won(answering))
            }
            Ended::Second(answering, failed) => {
                self.second_won(second, failed.as_ref());
                Ok((Side::Second, answering))
            }
            Ended::Neither {
                first,
                second: failed,
            } => {
                self.tell(&second, Some(&failed));
                second.held.lost(Some(&failed));
                Err(first)
            }
        }
    }

    fn first_won<T>(&self, answering: T) -> (Side, T) {
        self.first_took(self.client.ticket.attempted.elapsed());
        (Side::First, answering)
    }

    /// Notes how long the first call took, or was waited for: what the next ones' delay is made of.
    fn first_took(&self, elapsed: Duration) {
        if let (Some(begun), Some(_)) = (&self.held.begun, self.spare.hedge.quantile) {
            begun.took(self.awaited, elapsed);
        }
    }

    /// From here on the request's present call is the second. `failed`: why it is not the first any more, but for its silence.
    fn second_won(&mut self, second: Second, failed: Option<&Failed>) {
        let elapsed = self.client.ticket.attempted.elapsed();
        if failed.is_none() {
            self.first_took(elapsed);
        }
        let first = std::mem::replace(self.held, second.held);
        if failed.is_some() {
            first.lost(failed);
        } else if let Some(begun) = first.begun {
            begun.outrun(elapsed);
        }
        let ticket = &mut *self.client.ticket;
        ticket.passed(failed.map(|failed| &failed.error));
        ticket.turn(self.spare.attempt.place.clone());
        ticket.attempted = second.began;
        ticket.retries = 0;
        ticket.goes_to(&second.target, &second.settled);
    }

    /// Has the access line name the second call. `None`: it was cancelled.
    fn tell(&mut self, second: &Second, failed: Option<&Failed>) {
        self.client.ticket.tried.push(Tried {
            place: self.spare.attempt.place.to_string(),
            provider: second.target.provider.name.clone(),
            elapsed: second.began.elapsed(),
            failure: failed.map(|failed| told(&failed.error)),
        });
    }
}

impl Held {
    /// Another call answered, or both failed. `None`: this one was cancelled, which says nothing of its target.
    fn lost(self, failed: Option<&Failed>) {
        if let Some(failed) = failed {
            self.failed(&failed.error, &outcome(failed, unix_now()));
        }
    }
}

/// Waits for what brings something first. It is there when this returns, and the other one is not any more.
async fn both<T>(
    first: impl Future<Output = Result<T, Failed>> + Unpin,
    second: impl Future<Output = Result<T, Failed>> + Unpin,
) -> Ended<T> {
    match select(first, second).await {
        Either::Left((Ok(answer), _)) => Ended::First(answer, None),
        Either::Right((Ok(answer), _)) => Ended::Second(answer, None),
        Either::Left((Err(failed), second)) => match second.await {
            Ok(answer) => Ended::Second(answer, Some(failed)),
            Err(second) => Ended::Neither {
                first: failed,
                second,
            },
        },
        Either::Right((Err(failed), first)) => match first.await {
            Ok(answer) => Ended::First(answer, Some(failed)),
            Err(first) => Ended::Neither {
                first,
                second: failed,
            },
        },
    }
}

/// A call within its own deadline.
async fn in_time<T>(
    patience: Option<Duration>,
    call: impl Future<Output = Result<T, Failed>>,
) -> Result<T, Failed> {
    match patience {
        None => call.await,
        Some(patience) => match timeout(patience, call).await {
            Ok(ended) => ended,
            Err(_) => Err(out_of_time(Deadline::Attempt).into()),
        },
    }
}

/// A call whose target's token is got first, if its credential stands for one.
async fn late<'e>(
    tokens: &Tokens,
    exchange: &'e mut Exchange,
    upstream: &'e Arc<Upstream>,
) -> Result<Answering<'e>, Failed> {
    if let Some(token) = tokens.settle(exchange.target()).await? {
        exchange.change_target(|target| target.settle(token));
    }
    conductor::begin(exchange, upstream, Opens::ByEvent).await
}

fn awaited(reply: ReplyForm) -> Awaited {
    match reply {
        ReplyForm::Stream => Awaited::Token,
        ReplyForm::Whole => Awaited::Whole,
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;
    use crate::error::{Error, Kind};

    fn call(
        millis: u64,
        ends: Result<u8, &'static str>,
    ) -> std::pin::Pin<Box<impl Future<Output = Result<u8, Failed>>>> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            ends.map_err(|text| Failed::from(Error::new(Kind::Broken, text)))
        })
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_answer_counts_and_the_first_calls_failure() {
        for (first, second, expected) in [
            (call(1, Ok(1)), call(2, Ok(2)), "first 1"),
            (call(2, Ok(1)), call(1, Ok(2)), "second 2"),
            (call(1, Err("a")), call(9, Ok(2)), "second 2 a"),
            (call(9, Ok(1)), call(1, Err("b")), "first 1 b"),
            (call(1, Err("a")), call(2, Err("b")), "a b"),
            (call(2, Err("a")), call(1, Err("b")), "a b"),
        ] {
            let message = |failed: Option<Failed>| {
                failed.map_or(String::new(), |failed| {
                    format!(" {}", failed.error.message())
                })
            };
            let told = match both(first, second).await {
                Ended::First(answer, other) => format!("first {answer}{}", message(other)),
                Ended::Second(answer, other) => format!("second {answer}{}", message(other)),
                Ended::Neither { first, second } => {
                    let (first, second) = (first.error, second.error);
                    format!("{} {}", first.message(), second.message())
                }
            };
            assert_eq!(told, expected);
        }
    }

    #[tokio::test]
    async fn who_loses_is_gone_at_once() {
        struct Gone(Arc<()>);
        let held = Arc::new(());
        let hangs = |held: &Arc<()>| {
            let gone = Gone(held.clone());
            Box::pin(async move {
                let _gone = gone.0;
                pending::<Result<u8, Failed>>().await
            })
        };
        let ended = both(hangs(&held), ready(Ok(2))).await;
        assert!(matches!(ended, Ended::Second(2, None)));
        assert_eq!(Arc::strong_count(&held), 1);
        let ended = both(ready(Ok(1)), hangs(&held)).await;
        assert!(matches!(ended, Ended::First(1, None)));
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
