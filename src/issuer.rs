//! Asks a token endpoint: from question to question, as the grant reads the answers.

use std::time::Duration;

use http::StatusCode;
use pingora::http::RequestHeader;

use crate::{
    call::Call,
    error::{Deadline, Error, Kind},
    provider::{
        grant::{Grant, Issued, Step, TokenReply, TokenRequest},
        live::LiveToken,
    },
    upstream::{Upstream, failure, unix_now},
};

/// Exchanges `grant` for a token that lives. `source`: what [`Grant::source`] was exchanged for.
pub async fn fetch(
    upstream: &Upstream,
    grant: &Grant,
    source: Option<&LiveToken>,
) -> Result<Issued, Error> {
    let issued = match tokio::time::timeout(PATIENCE, walk(upstream, grant, source)).await {
        Ok(walked) => walked.map_err(|error| of_source(error, source))?,
        Err(_) => {
            let late = Kind::Timeout(Deadline::Total);
            let late = Error::new(late, "It did not answer in time.");
            return Err(unreachable_endpoint(&late));
        }
    };
    if issued.lifetime.is_zero() {
        let message = "The token endpoint's token had ended when it came.";
        return Err(Error::broken(message));
    }
    Ok(issued)
}

async fn walk(
    upstream: &Upstream,
    grant: &Grant,
    source: Option<&LiveToken>,
) -> Result<Issued, Error> {
    let mut request = grant.request(unix_now(), source.map(LiveToken::token))?;
    loop {
        let asked = ask(upstream, &request).await;
        let (status, body) = asked.map_err(|error| unreachable_endpoint(&error))?;
        let reply = TokenReply {
            status,
            body: &body,
            now: unix_now(),
        };
        request = match grant.read_reply(&request, reply)? {
            Step::Issued(issued) => return Ok(issued),
            Step::Ask(next) => next,
        };
    }
}

async fn ask(upstream: &Upstream, request: &TokenRequest) -> Result<(StatusCode, Vec<u8>), Error> {
    let peer = upstream.peer(&request.base).await?;
    let head = request_head(request)?;
    let calling = upstream.call(&request.base, &peer, &head, &request.body);
    let mut call = calling.await?;
    let status = call.head().map(|head| head.status);
    let status = status.ok_or_else(|| Error::broken("It answered without a head."))?;
    let body = read_body(&mut call).await?;
    upstream.release(call).await;
    Ok((status, body))
}

async fn read_body(call: &mut Call) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    while let Some(piece) = call.read().await.map_err(|error| failure(&error))? {
        if body.len() + piece.len() > MAX_REPLY_BYTES {
            return Err(Error::broken("Its answer is too large."));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

fn request_head(request: &TokenRequest) -> Result<RequestHeader, Error> {
    let wrong = |_| Error::new(Kind::Internal, "The token request could not be written.");
    let head = http::Request::builder()
        .method(&request.method)
        .uri(&request.path);
    let (mut parts, ()) = head.body(()).map_err(wrong)?.into_parts();
    parts.headers = request.headers.clone();
    Ok(RequestHeader::from(parts))
}

/// A failure of a grant that was asked for with `source`, which is let go if it was that which was refused.
fn of_source(error: Error, source: Option<&LiveToken>) -> Error {
    let Some(source) = source else { return error };
    if EXPIRED.iter().any(|code| error.message().contains(code)) {
        source.refuse();
    }
    let secrets = source.token().secrets().into_iter();
    secrets.fold(error, |error, secret| error.without(secret.expose()))
}

/// The failure is the token endpoint's, not that of the provider's API.
fn unreachable_endpoint(error: &Error) -> Error {
    let message = format!("No token could be fetched. {}", error.message());
    Error::new(error.kind(), message)
}

/// A token has some kilobytes.
const MAX_REPLY_BYTES: usize = 64 << 10;
/// How long one fetch may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How STS says that it does not take a role's keys any more.
const EXPIRED: [&str; 2] = [": ExpiredToken", ": InvalidClientTokenId"];
