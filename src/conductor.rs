//! Carries an exchange from inside `request_filter`: nearly all of them; [`Exchange::road`] says which.
//!
//! Everything runs in the request's own task: when the client leaves, the future is dropped and with it the upstream's
//! connection, which is how an HTTP/1 call is cancelled.

use std::{pin::pin, sync::Arc};

use bytes::Bytes;

use crate::{
    client::{Client, Limit},
    downstream::End,
    error::Kind,
    exchange::{Deadlines, Exchange, ReplyForm},
    leg::{Failed, Leg, Opens},
    upstream::Upstream,
};

/// A call that has brought something for the client.
pub enum Answering<'e> {
    /// A whole answer, understood.
    Whole(Leg<'e>, Bytes),
    /// A stream, and what its client gets first.
    Stream(Leg<'e>, Bytes, End),
}

impl Answering<'_> {
    pub fn deadlines(&self) -> &Deadlines {
        match self {
            Self::Whole(leg, _) | Self::Stream(leg, ..) => leg.deadlines(),
        }
    }
}

/// Makes the call and writes its answer. `Err`: what went wrong before a byte of an answer was written.
pub async fn carry(
    client: &mut Client<'_>,
    (exchange, opens): (&mut Exchange, Opens),
    upstream: &Arc<Upstream>,
    limit: &mut Limit,
) -> Result<(), Failed> {
    let begun = Box::pin(begin(exchange, upstream, opens));
    let answering = client.wait(limit, begun).await??;
    answer(client, answering, limit).await
}

/// Makes the call, and waits for what its answer begins with.
pub async fn begin<'e>(
    exchange: &'e mut Exchange,
    upstream: &'e Arc<Upstream>,
    opens: Opens,
) -> Result<Answering<'e>, Failed> {
    match exchange.reply() {
        ReplyForm::Whole => {
            let mut leg = Leg::whole(exchange, upstream).await?;
            match leg.relay()?.finish() {
                Ok(body) => Ok(Answering::Whole(leg, body)),
                Err(error) => Err(leg.with_head(error)),
            }
        }
        ReplyForm::Stream => {
            let (leg, out, end) = Leg::begun(exchange, upstream, opens).await?;
            Ok(Answering::Stream(leg, out, end))
        }
    }
}

/// Writes an answer to its end.
pub async fn answer(
    client: &mut Client<'_>,
    answering: Answering<'_>,
    limit: &mut Limit,
) -> Result<(), Failed> {
    match answering {
        Answering::Whole(leg, body) => {
            client.write_whole(leg.head(), body).await?;
            leg.close().await;
            Ok(())
        }
        Answering::Stream(leg, out, end) => stream(client, leg, (out, end), limit).await,
    }
}

/// Writes a stream to its end, whichever that is: what goes wrong once it is open is told inside it.
async fn stream(
    client: &mut Client<'_>,
    mut leg: Leg<'_>,
    (mut out, mut end): (Bytes, End),
    limit: &mut Limit,
) -> Result<(), Failed> {
    client.open(leg.head()).await?;
    let mut pulse = leg.pulse();
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use pingora::{proxy::Session, server::configuration::ServerConf};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::{config::Timeouts, error::Error, exchange::faulty, ticket::Ticket};

    // faults.md, row 30.
    #[tokio::test]
    async fn a_panic_beside_the_relay_is_told_in_the_open_stream() {
        let (base, provider) = faulty::provider(b"").await;
        let (mut remote, server) = duplex(1 << 16);
        let request = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
        remote.write_all(request).await.unwrap();
        let mut session = Session::new_h1(Box::new(server));
        assert!(session.read_request().await.unwrap());
        let mut ticket = Ticket::new(1);
        let upstream = Upstream::new(&ServerConf::default(), Timeouts::default(), 1);
        let upstream = Arc::new(upstream);
        // A conf cannot say so: the sum of a time and this breaks the timer of the stream's pauses.
        let deadlines = Deadlines {
            idle: Some(Duration::MAX),
            ..Deadlines::default()
        };
        let mut exchange = faulty::exchange_within(&base, deadlines);
        let minute = Duration::from_secs(60);
        let mut limit = Limit::new((None, minute), (Instant::now(), None));
        let mut client = Client::new(&mut session, &mut ticket, upstream.leaving());
        let call = (exchange.as_mut(), Opens::ByEvent);
        carry(&mut client, call, &upstream, &mut limit)
            .await
            .unwrap();
        let told = exchange.report().failure.map(Error::kind);
        assert_eq!(told, Some(Kind::Internal));
        drop(session);
        let mut heard = String::new();
        remote.read_to_string(&mut heard).await.unwrap();
        let (_, told) = heard.split_once("\"text\":\"a\"").unwrap();
        assert!(told.contains("data: {\"error\":"), "{heard}");
        assert!(!told.contains("[DONE]"), "{heard}");
        provider.await.unwrap();
    }
}
