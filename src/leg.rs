//! One upstream call of an exchange, from its opening to its answer's last byte. It knows nothing of the client.
//!
//! What it brings goes to the client as it comes; why it failed is for the caller to tell, or to try again. Dropping it closes
//! its connection, which is how an HTTP/1 call is cancelled.

use std::sync::Arc;

use bytes::Bytes;
use pingora::http::ResponseHeader;

use crate::{
    downstream::End,
    error::{Deadline, Error, Kind},
    exchange::{Deadlines, Exchange, relay::Relay},
    mishap::contain_now,
    opening::{self, Opened, Unopened},
    pulse::{Pulse, is_comment},
    upstream::{Upstream, broke_off, failure},
};

/// A call whose answer's head is here.
pub struct Leg<'e> {
    exchange: &'e mut Exchange,
    upstream: &'e Arc<Upstream>,
    opened: Opened,
}

/// What an answer has begun with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opens {
    /// An event. Comments are no token: with them alone, the answer can still turn out to be an error, after which another is
    /// asked for.
    ByEvent,
    /// A comment, too: nobody else will be asked, and its client is shown that somebody is there.
    ByAnything,
}

/// Why a call failed.
#[derive(Debug)]
pub struct Failed {
    pub error: Error,
    /// The provider's head, for what it says to clients: when to come again, say.
    pub head: Option<Box<ResponseHeader>>,
    /// What a stream still gets for it, if it is open.
    pub last: Bytes,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self {
            last: Bytes::from(error.event()),
            error,
            head: None,
        }
    }
}

impl From<Unopened> for Failed {
    fn from(unopened: Unopened) -> Self {
        Self {
            head: unopened.head,
            ..Self::from(unopened.error)
        }
    }
}

impl<'e> Leg<'e> {
    pub async fn open(
        exchange: &'e mut Exchange,
        upstream: &'e Arc<Upstream>,
    ) -> Result<Self, Failed> {
        let opened = opening::open(exchange, upstream).await?;
        Ok(Self {
            exchange,
            upstream,
            opened,
        })
    }

    /// Makes the call and reads its whole answer, which the relay then has.
    pub async fn whole(
        exchange: &'e mut Exchange,
        upstream: &'e Arc<Upstream>,
    ) -> Result<Self, Failed> {
        let mut leg = Self::open(exchange, upstream).await?;
        while let Some(piece) = leg.read().await? {
            leg.contained(|relay| relay.push(piece))?;
        }
        Ok(leg)
    }

    /// Makes the call and reads on until there is something for the client, or no more to come.
    pub async fn begun(
        exchange: &'e mut Exchange,
        upstream: &'e Arc<Upstream>,
        opens: Opens,
    ) -> Result<(Self, Bytes, End), Failed> {
        let patience = exchange.deadlines().first_token;
        let opens = patience.map_or(opens, |_| Opens::ByEvent);
        let begin = async {
            let mut leg = Self::open(exchange, upstream).await?;
            loop {
                let (out, end) = leg.relay_some().await?;
                if end == End::Complete || opens == Opens::ByAnything || !is_comment(&out) {
                    return Ok((leg, out, end));
                }
            }
        };
        match patience {
            None => begin.await,
            Some(patience) => match tokio::time::timeout(patience, begin).await {
                Ok(begun) => begun,
                Err(_) => Err(Failed::from(no_token())),
            },
        }
    }

    /// The answer's head.
    pub fn head(&self) -> Option<&ResponseHeader> {
        self.opened.call.head()
    }

    pub fn deadlines(&self) -> &Deadlines {
        self.exchange.deadlines()
    }

    /// The pauses of its stream.
    pub fn pulse(&self) -> Pulse {
        Pulse::of(self.deadlines())
    }

    pub fn relay(&mut self) -> Result<&mut Relay, Failed> {
        let relay = self.exchange.relay_mut();
        relay.ok_or_else(|| Failed::from(Error::broken("The provider's answer has no head.")))
    }

    /// What the relay makes of something. A fault of ours in that is how this answer fails.
    fn contained<T>(&mut self, work: impl FnOnce(&mut Relay) -> T) -> Result<T, Failed> {
        let relay = self.relay()?;
        contain_now(|| work(relay)).map_err(|broken| Failed {
            last: self.end_with(broken.clone()),
            ..self.with_head(broken)
        })
    }

    async fn read(&mut self) -> Result<Option<Bytes>, Failed> {
        if let Err(stopping) = self.upstream.leaving().check() {
            return Err(self.fail(stopping));
        }
        match self.opened.call.read().await {
            Ok(piece) => Ok(piece),
            Err(error) => Err(self.fail(failure(&error))),
        }
    }

    /// One upstream read of a stream, which becomes one write.
    pub async fn relay_one(&mut self) -> Result<(Bytes, End), Failed> {
        let piece = self.read().await?;
        let relayed = self.contained(|relay| match piece {
            Some(piece) => Ok((relay.push(piece), End::Open)),
            None => relay.finish().map(|out| (out, End::Complete)),
        })?;
        let (out, end) = relayed.map_err(|error| self.with_head(error))?;
        let relay = self.relay()?;
        let is_over = relay.partial().done;
        match relay.failure().cloned() {
            Some(error) => Err(Failed {
                last: out,
                ..self.with_head(error)
            }),
            None if is_over => Ok((out, End::Complete)),
            None => Ok((out, end)),
        }
    }

    /// The next piece that is something for the client.
    pub async fn relay_some(&mut self) -> Result<(Bytes, End), Failed> {
        loop {
            let (out, end) = self.relay_one().await?;
            if !out.is_empty() || end == End::Complete {
                return Ok((out, end));
            }
        }
    }

    /// What an open stream gets that ends here with `error`.
    pub fn end_with(&mut self, error: Error) -> Bytes {
        let last = self
            .exchange
            .relay_mut()
            .and_then(|relay| relay.fail(error));
        last.unwrap_or_default()
    }

    /// The call ends here with `error`, unless it broke off an error of the provider's own, which then is what counts.
    pub fn fail(&mut self, error: Error) -> Failed {
        let error = broke_off(self.exchange, error);
        self.with_head(error)
    }

    pub fn with_head(&self, error: Error) -> Failed {
        Failed {
            head: self.head().cloned().map(Box::new),
            ..Failed::from(error)
        }
    }

    /// Gives the connection back, unless its provider is still writing what nobody wants.
    pub async fn close(self) {
        self.opened.close(self.exchange, self.upstream).await;
    }
}

fn no_token() -> Error {
    let message = "The provider's answer did not begin in time.";
    Error::new(Kind::Timeout(Deadline::FirstToken), message)
}

#[cfg(test)]
mod tests {
    use pingora::server::configuration::ServerConf;

    use super::*;
    use crate::{config::Timeouts, exchange::faulty};

    // faults.md, row 30.
    #[tokio::test]
    async fn a_panic_in_the_middle_of_a_stream_is_how_it_fails() {
        let (base, provider) = faulty::provider(b"data: worse\n\n").await;
        let upstream = Upstream::new(&ServerConf::default(), Timeouts::default(), 1);
        let upstream = Arc::new(upstream);
        let mut exchange = faulty::exchange(&base);
        let begun = Leg::begun(&mut exchange, &upstream, Opens::ByEvent).await;
        let failed = match begun {
            Err(failed) => failed,
            Ok((mut leg, _, _)) => {
                let failed = leg.relay_some().await.unwrap_err();
                leg.close().await;
                failed
            }
        };
        assert_eq!(failed.error.kind(), Kind::Internal);
        let last = std::str::from_utf8(&failed.last).unwrap();
        assert!(last.starts_with("data: {\"error\":"), "{last}");
        assert!(!last.contains("worse"));
        let told = exchange.report().failure.map(Error::kind);
        assert_eq!(told, Some(Kind::Internal));
        // Its connection is no other call's.
        provider.await.unwrap();
    }
}
