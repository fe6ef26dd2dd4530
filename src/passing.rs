//! A passage in Pingora's phases: the request as its upstream gets it, and what of the answer is looked at.
//!
//! Bodies stream both ways and are not looked at; a websocket's frames are such bodies. Two things of HTTP/1.1 are not
//! passed, because Pingora does not carry them: trailers, and upgrades to anything but websockets.

use std::net::IpAddr;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, Uri, header, uri::PathAndQuery};
use pingora::{
    ErrorType,
    http::{RequestHeader, ResponseHeader},
    proxy::Session,
    upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy},
};

use crate::{
    downstream,
    error::Error,
    front::{App, Came, Forwarded, HostField},
    gateway::State,
    head,
    passage::{Passage, is_foreign},
    upstream::pass_request,
};

/// The session's request as a passage, if the conf has a rule for it.
pub fn front(state: &State, session: &Session) -> Result<Option<Passage>, Error> {
    if state.config.front.is_empty() {
        return Ok(None);
    }
    state.front(downstream::head(session), came(session))
}

fn came(session: &Session) -> Came<'_> {
    let address = session.server_addr().and_then(|address| address.as_inet());
    Came {
        host: host(session.req_header()),
        port: address.map(|address| address.port()),
    }
}

/// The host that a client named. HTTP/2 and a target in absolute form name it beside the path.
fn host(request: &RequestHeader) -> &str {
    match request.uri.authority() {
        Some(authority) => authority.as_str(),
        None => {
            let field = request.headers.get(header::HOST);
            field
                .and_then(|host| host.to_str().ok())
                .unwrap_or_default()
        }
    }
}

/// Settings of the client's session for a passage.
pub fn prepare(session: &mut Session, passage: &Passage) {
    if let Some(idle) = passage.upgrade {
        session.set_read_timeout(Some(idle));
        // What comes behind the request belongs to it.
        session.as_downstream_mut().set_pipelining_enabled(false);
    }
}

/// Makes `peer` one for this passage.
pub fn suit(peer: &mut HttpPeer, passage: &Passage) {
    if let Some(read) = passage.read() {
        peer.options.read_timeout = Some(read);
    }
    if let Some(idle) = passage.upgrade {
        peer.options.read_timeout = Some(idle);
        // Websockets alone.
        peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::standard();
    }
}

/// Turns the client's head into the upstream's, all but a signature.
pub fn write_head(
    session: &Session,
    request: &mut RequestHeader,
    passage: &Passage,
) -> pingora::Result<()> {
    match &passage.app {
        Some(app) => write_apps_head(session, request, passage, app),
        None => pass_request(request, passage),
    }
}

fn write_apps_head(
    session: &Session,
    request: &mut RequestHeader,
    passage: &Passage,
    app: &App,
) -> pingora::Result<()> {
    let named = HeaderValue::try_from(host(session.req_header())).ok();
    let named = named.filter(|host| !host.is_empty());
    // A target that stays as it is, is not read and written again: its bytes may be none that a URL has.
    let path = request.uri.path_and_query().map(PathAndQuery::as_str);
    if request.uri.authority().is_some() || path != Some(passage.path.as_str()) {
        let wrong = |_| pingora::Error::explain(ErrorType::InvalidHTTPHeader, "not a path");
        let uri: Uri = passage.path.parse().map_err(wrong)?;
        request.set_uri(uri);
    }
    forward(session, request, app, named.as_ref())?;
    let host = match &app.host {
        HostField::Client => named,
        HostField::Upstream => None,
        HostField::Named(host) => Some(host.clone()),
    };
    let host = host.unwrap_or_else(|| app.target.base.host_header().clone());
    request.insert_header(header::HOST, host)?;
    for (name, value) in &app.headers {
        request.insert_header(name, value)?;
    }
    Ok(())
}

/// Sets the fields that tell an app of the client.
fn forward(
    session: &Session,
    request: &mut RequestHeader,
    app: &App,
    host: Option<&HeaderValue>,
) -> pingora::Result<()> {
    let is_new = |request: &RequestHeader, name: &HeaderName| match app.forwarded {
        Forwarded::Set => true,
        Forwarded::Append => !request.headers.contains_key(name),
        Forwarded::Off => false,
    };
    if app.forwarded == Forwarded::Off {
        return Ok(());
    }
    if app.forwarded == Forwarded::Set {
        request.remove_header(&header::FORWARDED);
    }
    let address = session.client_addr().and_then(|address| address.as_inet());
    if let Some(client) = address.map(|address| address.ip().to_canonical()) {
        let before = request.headers.get_all(&FORWARDED_FOR).iter();
        let before = before.filter(|_| app.forwarded == Forwarded::Append);
        let chain = chain(before, client);
        request.insert_header(FORWARDED_FOR, chain)?;
    }
    if is_new(request, &FORWARDED_PROTO) {
        let secure = session
            .digest()
            .is_some_and(|digest| digest.ssl_digest.is_some());
        let scheme = if secure { "https" } else { "http" };
        request.insert_header(FORWARDED_PROTO, HeaderValue::from_static(scheme))?;
    }
    if is_new(request, &FORWARDED_HOST) {
        match host {
            Some(host) => request.insert_header(FORWARDED_HOST, host.clone())?,
            None => drop(request.remove_header(&FORWARDED_HOST)),
        }
    }
    Ok(())
}

/// The addresses that others saw, and the one that we see.
fn chain<'v>(before: impl Iterator<Item = &'v HeaderValue>, client: IpAddr) -> Vec<u8> {
    let mut chain = Vec::new();
    for value in before {
        chain.extend_from_slice(value.as_bytes());
        chain.extend_from_slice(b", ");
    }
    chain.extend_from_slice(client.to_string().as_bytes());
    chain
}

/// The next piece of the request's body, as it goes on.
pub fn write_body(passage: &Passage, body: &mut Option<Bytes>, end_of_stream: bool) {
    if passage.body.is_some() {
        // What a signature covers takes the place of what the client sent, in one piece.
        let held = passage.body.clone().filter(|held| !held.is_empty());
        *body = held.filter(|_| end_of_stream);
    } else if end_of_stream && body.as_ref().is_some_and(Bytes::is_empty) {
        // An empty last piece, as HTTP/2 clients send it, would be written as a second end of a chunked body.
        *body = None;
    }
}

/// Looks at the answer's head.
pub fn answered(passage: &Passage, head: &ResponseHeader) -> Result<(), Error> {
    passage.target.heed(head.status, &head.headers);
    let unasked = head.status == StatusCode::SWITCHING_PROTOCOLS && passage.upgrade.is_none();
    match unasked {
        true => Err(unasked_upgrade()),
        false => Ok(()),
    }
}

/// Takes out of an answer what ends here. An app's is its own, but for what its connection alone is told.
pub fn clean(passage: &Passage, head: &mut ResponseHeader) {
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    let mut names = head::nominated(&head.headers);
    if !passage.is_for_own_server() {
        let foreign = head.headers.keys().filter(|name| is_foreign(name));
        names.extend(foreign.cloned());
    }
    head.remove_header(KEEP_ALIVE);
    for name in &names {
        head.remove_header(name);
    }
}

fn unasked_upgrade() -> Error {
    Error::broken("The provider switched to a protocol that nobody had asked for.")
}

const KEEP_ALIVE: &str = "keep-alive";
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_address_is_the_one_that_we_see() {
        let before = ["1.2.3.4", "5.6.7.8, ::1"].map(HeaderValue::from_static);
        let client: IpAddr = "10.0.0.1".parse().unwrap();
        assert_eq!(
            chain(before.iter(), client),
            b"1.2.3.4, 5.6.7.8, ::1, 10.0.0.1"
        );
        assert_eq!(chain([].iter(), client), b"10.0.0.1");
    }
}
