//! Carries an exchange from inside `request_filter`, for what Pingora's phases cannot do; [`Exchange::road`] says when.
//!
//! Everything runs in the request's own task: when the client leaves, the future is dropped and with it the upstream's
//! connection, which is how an HTTP/1 call is cancelled.

use std::{pin::pin, sync::Arc};

use crate::{
    client::{Client, Limit},
    downstream::End,
    error::Kind,
    exchange::{Exchange, ReplyForm},
    leg::{Failed, Leg},
    pulse::Pulse,
    upstream::Upstream,
};

/// Makes the call and writes its answer. `Err`: what went wrong before a byte of an answer was written.
pub async fn carry(
    client: &mut Client<'_>,
    exchange: &mut Exchange,
    upstream: &Arc<Upstream>,
    limit: &mut Limit,
) -> Result<(), Failed> {
    match exchange.reply() {
        ReplyForm::Whole => whole(client, exchange, upstream, limit).await,
        ReplyForm::Stream => stream(client, exchange, upstream, limit).await,
    }
}

async fn whole(
    client: &mut Client<'_>,
    exchange: &mut Exchange,
    upstream: &Arc<Upstream>,
    limit: &mut Limit,
) -> Result<(), Failed> {
    let mut leg = client
        .wait(limit, Box::pin(Leg::whole(exchange, upstream)))
        .await??;
    let body = match leg.relay()?.finish() {
        Ok(body) => body,
        Err(error) => return Err(leg.with_head(error)),
    };
    client.write_whole(leg.head(), body).await?;
    leg.close().await;
    Ok(())
}

/// Writes a stream to its end, whichever that is: what goes wrong once it is open is told inside it.
async fn stream(
    client: &mut Client<'_>,
    exchange: &mut Exchange,
    upstream: &Arc<Upstream>,
    limit: &mut Limit,
) -> Result<(), Failed> {
    let idle = exchange.deadlines().idle;
    let begun = Box::pin(Leg::begun(exchange, upstream));
    let (mut leg, mut out, mut end) = client.wait(limit, begun).await??;
    client.open(leg.head()).await?;
    let mut pulse = Pulse::new(upstream.timeouts().heartbeat, idle);
    loop {
        client.write(out.clone(), end, limit).await?;
        if end == End::Complete {
            break;
        }
        pulse.wrote(&out);
        let next = {
            let relaying = pin!(leg.relay_some());
            client.wait_with(limit, &mut pulse, relaying).await
        };
        (out, end) = match next {
            Ok(Ok(relayed)) => relayed,
            Ok(Err(failed)) => (failed.last, End::Complete),
            Err(error) if error.kind() == Kind::ClientGone => return Err(error.into()),
            Err(error) => (leg.end_with(error), End::Complete),
        };
    }
    leg.close().await;
    Ok(())
}
