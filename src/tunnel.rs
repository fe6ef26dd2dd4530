//! A websocket between a client and an app.
//!
//! Pingora's phases carry upgrades too, but not an answer that is there before the request's empty body has gone through their
//! pipe: the end of that body is then taken for the client's end, and what the app says first is lost. An app on this machine
//! answers so soon.

use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, Version, header};
use pingora::{
    http::{RequestHeader, ResponseHeader},
    protocols::http::v1::client::HttpSession,
    proxy::Session,
};

use crate::{
    downstream::{self, End},
    error::Error,
    head::nominated,
    passage::Passage,
    passing,
    ticket::Ticket,
    upstream::{MAX_INTERIM, Upstream, failure, interim_flood, is_interim},
};

/// Asks the app, and passes what both sides say until one of them ends. `idle`: how long neither may say anything.
pub async fn carry(
    session: &mut Session,
    ticket: &mut Ticket,
    (passage, idle): (&Passage, Duration),
    upstream: &Upstream,
) -> Result<(), Error> {
    let base = &passage.target.base;
    let mut peer = upstream.peer(base).await?;
    passing::suit(&mut peer, passage);
    let stream = Box::pin(upstream.connect(base, &peer)).await?;
    let mut app = Box::new(HttpSession::new_with_options(stream, &*peer));
    app.read_timeout = Some(passage.read().unwrap_or(upstream.timeouts().read));
    let broken = |error: Box<pingora::Error>| failure(&error);
    let head = request_head(session, passage).map_err(broken)?;
    app.write_request_header(Box::new(head))
        .await
        .map_err(|error| broken(error.into_up()))?;
    let answer = read_head(&mut app).await?;
    passing::answered(passage, &answer)?;
    if answer.status != StatusCode::SWITCHING_PROTOCOLS {
        return decline(session, (ticket, passage), &mut app, answer).await;
    }
    ticket.mark_first_byte();
    let client = session.as_downstream_mut();
    let accepted = client.write_response_header(Box::new(answer)).await;
    accepted.map_err(|_| Error::gone())?;
    app.read_timeout = Some(idle);
    app.maybe_upgrade_body_writer();
    pass(session, &mut app).await;
    app.shutdown().await;
    Ok(())
}

/// The client's head as the app gets it. Of what is between two neighbours only the upgrade is passed.
fn request_head(session: &Session, passage: &Passage) -> pingora::Result<RequestHeader> {
    let mut head = session.req_header().clone();
    for name in nominated(&head.headers) {
        head.remove_header(&name);
    }
    for name in NEIGHBOURS {
        head.remove_header(name);
    }
    passing::write_head(session, &mut head, passage)?;
    head.insert_header(header::CONNECTION, "Upgrade")?;
    head.insert_header(header::UPGRADE, "websocket")?;
    head.set_version(Version::HTTP_11);
    Ok(head)
}

async fn read_head(app: &mut HttpSession) -> Result<ResponseHeader, Error> {
    for _ in 0..=MAX_INTERIM {
        let read = app.read_response().await;
        read.map_err(|error| failure(&error.into_up()))?;
        match app.resp_header() {
            Some(head) if !is_interim(head.status) => return Ok(head.clone()),
            _ => {}
        }
    }
    Err(interim_flood())
}

/// Passes an answer that is none to an upgrade: the app wants a login, say.
async fn decline(
    session: &mut Session,
    (ticket, passage): (&mut Ticket, &Passage),
    app: &mut HttpSession,
    mut head: ResponseHeader,
) -> Result<(), Error> {
    // Its body may last to the end of the connection, and the client's request may have been sent in the hope of a socket.
    session.set_keepalive(None);
    passing::clean(passage, &mut head);
    for name in ["connection", "proxy-connection"] {
        head.remove_header(name);
    }
    downstream::fit_version(session, &mut head);
    ticket.mark_first_byte();
    let client = session.as_downstream_mut();
    let told = client.write_response_header(Box::new(head)).await;
    told.map_err(|_| Error::gone())?;
    loop {
        match app.read_body_bytes().await {
            Ok(Some(piece)) => downstream::write_rest(session, piece, End::Open).await?,
            Ok(None) => break,
            Err(error) => return Err(failure(&error.into_up())),
        }
    }
    downstream::write_rest(session, Bytes::new(), End::Complete).await
}

/// Passes bytes both ways, until one side ends, or neither has said anything for the time of a read.
async fn pass(session: &mut Session, app: &mut HttpSession) {
    loop {
        let passed = tokio::select! {
            said = session.downstream_session.read_request_body() => match said {
                Ok(Some(said)) => app.write_body(&said).await.is_ok(),
                Ok(None) | Err(_) => false,
            },
            said = app.read_body_bytes() => match said {
                Ok(Some(said)) => downstream::write_rest(session, said, End::Open).await.is_ok(),
                Ok(None) | Err(_) => false,
            },
        };
        if !passed {
            return;
        }
    }
}

/// Fields of one connection that a client may send without naming them in `Connection`.
const NEIGHBOURS: [&str; 6] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "http2-settings",
];
