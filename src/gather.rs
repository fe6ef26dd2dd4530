//! Carries a fan-out from inside `request_filter`: several calls at once, their choices gathered into one answer.
//!
//! Every call is a future of the request's own task: when the client leaves, or one call fails, all of them are dropped and
//! with them their connections.

use std::{pin::pin, sync::Arc};

use bytes::Bytes;
use futures_util::{
    StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    client::{Client, Limit},
    downstream::End,
    error::Error,
    exchange::{
        Exchange, ReplyForm,
        fan_out::FanOut,
        reply::{Gathered, OwnedChoice},
    },
    leg::{Failed, Leg, Opens},
    pulse::Pulse,
    upstream::Upstream,
};

/// Makes the calls and writes the answer. `Err`: what went wrong before a byte of an answer was written.
pub async fn carry(
    client: &mut Client<'_>,
    fan_out: &mut FanOut,
    upstream: &Arc<Upstream>,
    limit: &mut Limit,
) -> Result<(), Failed> {
    let carried = match fan_out.reply() {
        ReplyForm::Whole => whole(client, fan_out, upstream, limit).await,
        ReplyForm::Stream => stream(client, fan_out, upstream, limit).await,
    };
    let Err(failed) = carried else {
        return Ok(());
    };
    fan_out.fail(failed.error.clone());
    if client.is_open() {
        return Ok(client.write(failed.last, End::Complete, limit).await?);
    }
    Err(failed)
}

async fn whole(
    client: &mut Client<'_>,
    fan_out: &mut FanOut,
    upstream: &Arc<Upstream>,
    limit: &mut Limit,
) -> Result<(), Failed> {
    let (lanes, mut choices) = (fan_out.concurrent_calls(), Gathered::default());
    let parts = fan_out.parts_mut().iter_mut();
    let calls: Vec<_> = parts.map(|part| ask(part, upstream)).collect();
    let mut calls = stream::iter(calls).buffer_unordered(lanes).boxed();
    while let Some(answer) = client.wait(limit, Box::pin(calls.next())).await? {
        choices.take(answer?)?;
    }
    drop(calls);
    let body = fan_out.write_reply(choices);
    Ok(client.write_whole(None, body).await?)
}

async fn stream(
    client: &mut Client<'_>,
    fan_out: &mut FanOut,
    upstream: &Arc<Upstream>,
    limit: &mut Limit,
) -> Result<(), Failed> {
    let lanes = fan_out.concurrent_calls();
    let mut pulse = Pulse::of(fan_out.deadlines());
    let parts = fan_out.parts_mut().iter_mut();
    let calls: Vec<_> = parts.map(|part| events(part, upstream)).collect();
    let mut calls = stream::iter(calls).flatten_unordered(lanes).boxed();
    loop {
        let mut next = pin!(calls.next());
        let Some(out) = client.wait_with(limit, &mut pulse, next.as_mut()).await? else {
            break;
        };
        let out = out?;
        if !out.is_empty() {
            open(client).await?;
            client.write(out.clone(), End::Open, limit).await?;
            pulse.wrote(&out);
        }
    }
    drop(calls);
    open(client).await?;
    let last = fan_out.end_stream();
    Ok(client.write(last, End::Complete, limit).await?)
}

async fn open(client: &mut Client<'_>) -> Result<(), Error> {
    match client.is_open() {
        true => Ok(()),
        false => client.open(None).await,
    }
}

/// The choices of one whole answer.
///
/// Boxed by name: the compiler cannot show that the plain future may change threads once it stands in a stream.
fn ask<'p>(
    exchange: &'p mut Exchange,
    upstream: &'p Arc<Upstream>,
) -> BoxFuture<'p, Result<Vec<OwnedChoice>, Failed>> {
    Box::pin(async move {
        let _lane = upstream.lanes().enter(&exchange.target().base).await;
        let mut leg = Leg::whole(exchange, upstream).await?;
        let finished = leg.relay()?.finish_part();
        let choices = finished.map_err(|error| leg.with_head(error))?;
        leg.close().await;
        Ok(choices)
    })
}

/// The events of one streamed answer.
fn events<'p>(
    exchange: &'p mut Exchange,
    upstream: &'p Arc<Upstream>,
) -> BoxStream<'p, Result<Bytes, Failed>> {
    stream::try_unfold(Stage::Begin(exchange, upstream), advance).boxed()
}

fn advance(stage: Stage<'_>) -> BoxFuture<'_, Result<Option<(Bytes, Stage<'_>)>, Failed>> {
    Box::pin(async move {
        let (leg, out, end, lane) = match stage {
            Stage::Begin(exchange, upstream) => {
                let lane = upstream.lanes().enter(&exchange.target().base).await;
                let (leg, out, end) = Leg::begun(exchange, upstream, Opens::ByEvent).await?;
                (Box::new(leg), out, end, lane)
            }
            Stage::Open(mut leg, lane) => {
                let (out, end) = leg.relay_some().await?;
                (leg, out, end, lane)
            }
            Stage::Over(leg) => {
                leg.close().await;
                return Ok(None);
            }
        };
        let stage = match end {
            End::Open => Stage::Open(leg, lane),
            End::Complete => Stage::Over(leg),
        };
        Ok(Some((out, stage)))
    })
}

enum Stage<'p> {
    Begin(&'p mut Exchange, &'p Arc<Upstream>),
    Open(Box<Leg<'p>>, Option<OwnedSemaphorePermit>),
    Over(Box<Leg<'p>>),
}
