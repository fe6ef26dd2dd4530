//! Opens the call whose answer is the client's. Some providers answer with the stream's address: it is called then, and the work
//! is cancelled there unless its answer comes to its end.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use pingora::http::{RequestHeader, ResponseHeader};

use crate::{
    call::Call,
    error::Error,
    exchange::{Exchange, follow::Cancel, relay::Relay},
    upstream::{Upstream, broke_off, failure, request_head, take_head},
};

/// A call whose answer's head its exchange has taken.
pub struct Opened {
    pub call: Call,
    work: Option<Work>,
}

/// Why there is none.
pub struct Unopened {
    pub error: Error,
    /// The provider's head, for what it says to clients: when to come again, say.
    pub head: Option<Box<ResponseHeader>>,
}

impl From<Error> for Unopened {
    fn from(error: Error) -> Self {
        Self { error, head: None }
    }
}

impl Opened {
    /// Gives the connection back, unless its provider is still writing what nobody wants.
    pub async fn close(self, exchange: &Exchange, upstream: &Upstream) {
        let is_whole = |relay: &Relay| relay.failure().is_none() && !relay.is_cut_short();
        if !exchange.relay().is_some_and(is_whole) {
            return;
        }
        if let Some(work) = self.work {
            work.finish();
        }
        upstream.release(self.call).await;
    }
}

/// Makes the call, and the one that its answer leads to.
pub async fn open(exchange: &mut Exchange, upstream: &Arc<Upstream>) -> Result<Opened, Unopened> {
    if exchange.follows() {
        // Boxed: what few calls need would make the state of all of them larger.
        return Box::pin(open_followed(exchange, upstream)).await;
    }
    let call = ask(exchange, upstream).await?;
    take_head(exchange, call.head()).map_err(|error| with_head(error, &call))?;
    let work = None;
    Ok(Opened { call, work })
}

async fn open_followed(
    exchange: &mut Exchange,
    upstream: &Arc<Upstream>,
) -> Result<Opened, Unopened> {
    let mut call = ask(exchange, upstream).await?;
    if !tells(&call) {
        take_head(exchange, call.head()).map_err(|error| with_head(error, &call))?;
        let work = None;
        return Ok(Opened { call, work });
    }
    let told = read_short(exchange, &mut call).await?;
    let told = exchange.read_follow_up(&told)?;
    // First of all: what is refused below runs already.
    let work = match &told.cancel {
        Some(url) => Some(Work::begun(exchange.cancel(url)?, upstream)),
        None => None,
    };
    upstream.release(call).await;
    exchange.follow(&told.stream)?;
    let call = ask(exchange, upstream).await?;
    take_head(exchange, call.head()).map_err(|error| with_head(error, &call))?;
    Ok(Opened { call, work })
}

async fn ask(exchange: &Exchange, upstream: &Upstream) -> Result<Call, Error> {
    let base = &exchange.target().base;
    let mut peer = upstream.peer(base).await?;
    if let Some(connect) = exchange.deadlines().connect {
        peer.options.connection_timeout = Some(connect);
        peer.options.total_connection_timeout = Some(connect);
    }
    let request = request_head(exchange)?;
    upstream.call(base, &peer, &request, exchange.body()).await
}

/// Whether what is answered is more than an error.
fn tells(call: &Call) -> bool {
    let status = call.head().map(|head| head.status);
    matches!(status, Some(StatusCode::OK | StatusCode::CREATED))
}

async fn read_short(exchange: &mut Exchange, call: &mut Call) -> Result<Vec<u8>, Error> {
    let mut told = Vec::new();
    loop {
        let piece = call.read().await;
        let Some(piece) = piece.map_err(|error| broke_off(exchange, failure(&error)))? else {
            return Ok(told);
        };
        if told.len().saturating_add(piece.len()) > MAX_TOLD_BYTES {
            return Err(Error::broken("The provider's answer is too long."));
        }
        told.extend_from_slice(&piece);
    }
}

fn with_head(error: Error, call: &Call) -> Unopened {
    let head = call.head().cloned().map(Box::new);
    Unopened { error, head }
}

/// Work that goes on at the provider's, whoever reads it. Dropping it cancels it there.
struct Work {
    cancel: Option<(Cancel, Arc<Upstream>)>,
}

impl Work {
    fn begun(cancel: Cancel, upstream: &Arc<Upstream>) -> Self {
        let cancel = Some((cancel, upstream.clone()));
        Self { cancel }
    }

    fn finish(mut self) {
        self.cancel = None;
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let Some((cancel, upstream)) = self.cancel.take() else {
            return;
        };
        // Outside of a runtime, which is ending, nothing can be sent any more.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // Nobody is left to be told how it went.
                let _ = tokio::time::timeout(PATIENCE, send(cancel, &upstream)).await;
            });
        }
    }
}

async fn send(cancel: Cancel, upstream: &Upstream) -> Option<()> {
    let peer = upstream.peer(&cancel.base).await.ok()?;
    let request = http::Request::post(cancel.path).body(()).ok()?;
    let (mut parts, ()) = request.into_parts();
    parts.headers = cancel.headers;
    let head = RequestHeader::from(parts);
    let nothing = Bytes::new();
    let call = upstream.call(&cancel.base, &peer, &head, &nothing);
    upstream.release(call.await.ok()?).await;
    Some(())
}

/// How long a cancellation may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// A prediction repeats its input.
const MAX_TOLD_BYTES: usize = 16 << 20;
