//! Where the bytes go: addresses, peers and connections of upstream calls, and what their failures mean.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use pingora::{ErrorSource, ErrorType, RetryType};
use pingora::{
    connectors::{ConnectorOptions, TransportConnector},
    http::{RequestHeader, ResponseHeader},
    protocols::{ALPN, Stream},
    server::configuration::ServerConf,
    upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy},
};

use crate::{
    arrival,
    call::Call,
    config::Timeouts,
    drain::Leaving,
    error::{Deadline, Error, Kind},
    exchange::{Exchange, UpstreamHead},
    guard,
    idle::{IDLE, Place, Pool},
    lanes::Lanes,
    passage::{CREDENTIALS, Passage, is_withheld},
    provider::{Base, base::Scheme},
    resolver::Resolver,
};

/// The way to every upstream.
pub struct Upstream {
    resolver: Arc<Resolver>,
    connector: Arc<TransportConnector>,
    idle: Arc<Pool>,
    timeouts: Timeouts,
    lanes: Arc<Lanes>,
    leaving: Arc<Leaving>,
}

impl Upstream {
    pub fn new(conf: &ServerConf, timeouts: Timeouts, lanes: usize) -> Self {
        Self {
            resolver: Arc::default(),
            connector: Arc::new(TransportConnector::new(Some(
                ConnectorOptions::from_server_conf(conf),
            ))),
            idle: Pool::new(conf.upstream_keepalive_pool_size),
            timeouts,
            lanes: Arc::new(Lanes::new(lanes)),
            leaving: Arc::default(),
        }
    }

    /// The same connections and addresses under other settings.
    pub fn under(&self, timeouts: Timeouts, lanes: usize) -> Self {
        Self {
            resolver: self.resolver.clone(),
            connector: self.connector.clone(),
            idle: self.idle.clone(),
            timeouts,
            lanes: Lanes::resized(&self.lanes, lanes),
            leaving: self.leaving.clone(),
        }
    }

    pub fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    pub fn resolver(&self) -> &Arc<Resolver> {
        &self.resolver
    }

    /// The process that all of it is in.
    pub fn leaving(&self) -> &Arc<Leaving> {
        &self.leaving
    }

    pub fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    /// The peer of `base`: an address, and how to talk to it.
    pub async fn peer(&self, base: &Base) -> Result<Box<HttpPeer>, Error> {
        let address = self.resolver.resolve(base, self.timeouts.connect).await?;
        guard::check(base, address)?;
        let tls = base.scheme == Scheme::Https;
        // An empty name would switch the certificate check off; a base URL's host never is.
        let name = if tls {
            base.host.clone()
        } else {
            String::new()
        };
        let mut peer = Box::new(HttpPeer::new(address, tls, name));
        let options = &mut peer.options;
        options.alpn = ALPN::H1;
        options.connection_timeout = Some(self.timeouts.connect);
        options.total_connection_timeout = Some(self.timeouts.connect.saturating_mul(2));
        options.read_timeout = Some(self.timeouts.read);
        options.write_timeout = Some(self.timeouts.write);
        options.idle_timeout = Some(IDLE);
        options.http_upstream_request_policy = HttpUpstreamRequestPolicy::deny_upgrades();
        Ok(peer)
    }

    /// A new connection to `base`, of no pool.
    pub async fn connect(&self, base: &Base, peer: &HttpPeer) -> Result<Stream, Error> {
        let fresh = self.connector.new_stream(peer).await;
        fresh.map_err(|error| {
            self.avoid(base);
            failure(&error)
        })
    }

    /// Sends a request and reads its answer's head. A pooled connection that turns out to be closed is replaced, once and by
    /// a new one: its server had gone before the request could reach it.
    pub async fn call(
        &self,
        base: &Base,
        peer: &HttpPeer,
        head: &RequestHeader,
        body: &Bytes,
    ) -> Result<Call, Error> {
        // Boxed: a connection in the making has kilobytes, and most calls find one that is made.
        let home = Place::of(peer);
        let waiting = home.and_then(|home| self.idle.take(&home));
        let (stream, reused) = match waiting {
            Some(stream) => (stream, true),
            None => (Box::pin(self.connect(base, peer)).await?, false),
        };
        match Call::ask(stream, (peer, home), head, body, &self.timeouts).await {
            Err(error) if reused && is_unanswered(&error) => {}
            asked => return asked.map_err(|error| failure(&error)),
        }
        let stream = Box::pin(self.connect(base, peer)).await?;
        let asked = Call::ask(stream, (peer, home), head, body, &self.timeouts).await;
        asked.map_err(|error| failure(&error))
    }

    /// Gives a connection back after a complete answer.
    pub async fn release(&self, call: Call) {
        if let Some((home, stream)) = call.into_stream().await {
            self.idle.keep(home, stream);
        }
    }

    /// `base` took no connection: the next call tries its next address.
    pub fn avoid(&self, base: &Base) {
        self.resolver.turn(base);
    }
}

/// The upstream request's head.
pub fn request_head(exchange: &Exchange) -> Result<Box<RequestHeader>, Error> {
    let wrong = |_| Error::new(Kind::Internal, "The upstream request could not be written.");
    let (mut parts, ()) = http::Request::builder()
        .method(exchange.method().clone())
        .uri(exchange.path())
        .body(())
        .map_err(wrong)?
        .into_parts();
    parts.headers = exchange.headers()?;
    if exchange.target().signs() {
        exchange.sign(&mut parts.headers, unix_now())?;
    }
    Ok(Box::new(RequestHeader::from(parts)))
}

/// Hands an answer's head to its exchange.
pub fn take_head(exchange: &mut Exchange, head: Option<&ResponseHeader>) -> Result<(), Error> {
    let head = head.ok_or_else(|| Error::broken("The provider's answer has no head."))?;
    let answer = UpstreamHead {
        status: head.status,
        headers: &head.headers,
    };
    exchange.answer(answer).map(drop)
}

/// Unix time, seconds.
pub fn unix_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

/// The transparent proxy's request: the client's, with the provider's host, path and credential.
pub fn pass_request(request: &mut RequestHeader, passage: &Passage) -> pingora::Result<()> {
    let wrong = |_| pingora::Error::explain(ErrorType::InvalidHTTPHeader, "not a path");
    request.set_uri(passage.path.parse().map_err(wrong)?);
    let is_own_server = passage.is_for_own_server();
    let ends_here = |name: &HeaderName| {
        let ours = ["x-portkey-", "x-completions-"];
        let is_ours = ours.iter().any(|prefix| name.as_str().starts_with(prefix));
        is_ours || !is_own_server && is_withheld(name)
    };
    let names = request.headers.keys().filter(|name| ends_here(name));
    for name in names.cloned().collect::<Vec<_>>() {
        request.remove_header(&name);
    }
    if passage.replaces_credentials() {
        for name in CREDENTIALS {
            request.remove_header(*name);
        }
    }
    if !is_own_server {
        let identity = HeaderValue::from_static("identity");
        request.insert_header(header::ACCEPT_ENCODING, identity)?;
    }
    for (name, value) in &passage.headers {
        request.insert_header(name, value)?;
    }
    Ok(())
}

/// Puts its signature on a request that [`pass_request`] made, if its target wants one. What the client signed with keys of
/// its own is taken off.
pub fn sign_passage(request: &mut RequestHeader, passage: &Passage) -> Result<(), Error> {
    let Some(body) = &passage.body else {
        return Ok(());
    };
    let wrong = |_| Error::new(Kind::Internal, "The upstream request could not be written.");
    // Its body is here: nobody has to be asked for it.
    request.remove_header(&header::EXPECT);
    for name in SIGNATURE {
        request.remove_header(name);
    }
    let has_body = matches!(request.method.as_str(), "POST" | "PUT" | "PATCH");
    if has_body || !body.is_empty() {
        request.remove_header(&header::TRANSFER_ENCODING);
        request
            .insert_header(header::CONTENT_LENGTH, HeaderValue::from(body.len()))
            .map_err(wrong)?;
    }
    if has_body && !request.headers.contains_key(header::CONTENT_TYPE) {
        let json = HeaderValue::from_static("application/json");
        request
            .insert_header(header::CONTENT_TYPE, json)
            .map_err(wrong)?;
    }
    let signed = passage.sign(&request.method, &request.headers, unix_now())?;
    for (name, value) in signed {
        request.insert_header(name, value).map_err(wrong)?;
    }
    Ok(())
}

/// Whether a final head follows this one. A 101 is a final one: what follows is another protocol, or an error if it was not
/// asked for.
pub fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}

/// More interim heads than an honest answer has.
pub fn interim_flood() -> Error {
    Error::broken("The provider sent no final head.")
}

/// Lets no step of a call take longer than `left`.
pub fn limit(peer: &mut HttpPeer, left: Duration) {
    let options = &mut peer.options;
    for step in [
        &mut options.connection_timeout,
        &mut options.total_connection_timeout,
        &mut options.write_timeout,
        &mut options.read_timeout,
    ] {
        *step = Some(step.map_or(left, |own| own.min(left)));
    }
}

/// Makes `peer` one that the pool holds no connection of: Pingora's phases cannot be told to open a new one.
pub fn make_fresh(peer: &mut HttpPeer) {
    peer.group_key = fastrand::u64(..);
    // Nobody will ask the pool for it.
    peer.options.idle_timeout = Some(Duration::ZERO);
}

/// Whether a call failed before a byte of its answer was seen, so that its connection may be taken for one that its server
/// had closed before the request came. A request that could not be written to its end was not served either.
///
/// Pingora tells how many bytes of a head it had in the error's text alone; what is not understood is not repeated.
pub fn is_unanswered(error: &pingora::Error) -> bool {
    match error.etype() {
        ErrorType::WriteError => *error.esource() != ErrorSource::Downstream,
        ErrorType::ConnectionClosed | ErrorType::ReadError => {
            let told = error.context.as_ref().map(|context| context.as_str());
            matches!(error.retry, RetryType::ReusedOnly)
                && told.is_some_and(|told| told.ends_with(NOTHING_READ))
        }
        _ => false,
    }
}

/// What a failed call means to the client. Never quotes an address: it is ours, not the client's.
pub fn failure(error: &pingora::Error) -> Error {
    use ErrorType::{
        BindError, ConnectError, ConnectNoRoute, ConnectRefused, ConnectTimedout, InternalError,
        InvalidCert, ReadTimedout, SocketError, TLSHandshakeFailure, TLSHandshakeTimedout,
        TLSWantX509Lookup, WriteTimedout,
    };
    if matches!(error.esource(), ErrorSource::Downstream) {
        return arrival::failure(error);
    }
    let timeout = |deadline, message| Error::new(Kind::Timeout(deadline), message);
    let etype = match error.etype() {
        // Pingora's word for what went wrong on this side of a connection in the making.
        InternalError => error.root_etype(),
        other => other,
    };
    match etype {
        ConnectTimedout | TLSHandshakeTimedout => timeout(
            Deadline::Connect,
            "The provider took no connection in time.",
        ),
        ReadTimedout => timeout(Deadline::Read, "The provider did not answer in time."),
        WriteTimedout => timeout(
            Deadline::Write,
            "The provider did not take the request in time.",
        ),
        SocketError => Error::new(
            Kind::Exhausted,
            "The gateway has no connection left for this request.",
        ),
        ConnectRefused | ConnectError | ConnectNoRoute | BindError => {
            Error::new(Kind::Connect, "The provider cannot be reached.")
        }
        TLSHandshakeFailure | InvalidCert | TLSWantX509Lookup => Error::new(
            Kind::Tls,
            "No trusted connection to the provider could be made.",
        ),
        _ => Error::broken("The provider broke the connection before its answer was complete."),
    }
}

/// What a client that has nothing of an answer is told of its break: a provider's own error, if it is one that broke off.
pub fn broke_off(exchange: &mut Exchange, error: Error) -> Error {
    let Some(relay) = exchange.relay_mut() else {
        return error;
    };
    if error.kind() == Kind::ClientGone {
        return error;
    }
    // Its bytes would go into an open answer, and there is none.
    let _ = relay.fail(error.clone());
    let own = relay.failure();
    let own = own.filter(|own| matches!(own.kind(), Kind::Upstream(_)));
    own.cloned().unwrap_or(error)
}

/// The deadline of a call or of the whole request has come.
pub fn out_of_time(deadline: Deadline) -> Error {
    let message = "The provider's answer was not complete within the request's deadline.";
    Error::new(Kind::Timeout(deadline), message)
}

pub fn total_timeout() -> Error {
    out_of_time(Deadline::Total)
}

/// Of AWS's and Oracle's signatures, beside `Authorization`.
const SIGNATURE: [&str; 4] = [
    "x-amz-content-sha256",
    "x-amz-date",
    "x-amz-security-token",
    "x-content-sha256",
];
/// 1xx heads before the final one.
pub const MAX_INTERIM: u32 = 8;
/// The end of Pingora's text for a connection that closed without a byte.
const NOTHING_READ: &str = "bytes already read: 0";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::target::Choice;
    use crate::{
        completion::CompletionRequest,
        config::Config,
        dialect::settle::Settled,
        exchange::{Seed, Terms, Work, split::split},
        provider::{
            Auth, Credential, Secret, Target,
            azure::Identity,
            credential::{Aws, AwsKeys},
            grant::{Grant, Token},
            oci::Signer,
            sigv4::{Credentials, Scope},
            sts::AssumeRole,
        },
    };

    const RSA: &str = include_str!("../tests/fixtures/credentials/rsa.pem");

    fn secret(text: &str) -> Secret {
        Secret::try_new(text).unwrap()
    }

    fn keys(access_key: &str) -> Credentials {
        Credentials {
            access_key: secret(access_key),
            secret_key: secret("SECRET"),
            session_token: Some(secret("SESSION")),
        }
    }

    fn aws(keys: AwsKeys) -> Credential {
        let scope = Scope::try_new("us-east-1", "bedrock").unwrap();
        Credential::Aws(Arc::new(Aws { scope, keys }))
    }

    /// An exchange with a provider whose keys have a header of their own.
    fn exchange(credential: Credential) -> Exchange {
        let body = Bytes::from_static(br#"{"model":"m","prompt":"hi"}"#);
        let request = CompletionRequest::read(body).unwrap();
        let mut provider = Config::default().providers["openai"].clone();
        Arc::make_mut(&mut provider).auth = Auth::Header("api-key".parse().unwrap());
        let target = Target::try_new(provider, Choice::of(credential)).unwrap();
        let terms = Terms {
            forwarded: [(header::DATE, "forged".parse().unwrap())]
                .into_iter()
                .collect(),
            ..Terms::plain()
        };
        let shares = split(request, &Settled::default(), 1).unwrap();
        let seed = Seed { now: 1, draw: 2 };
        match Work::try_new(shares, target, terms, seed).unwrap() {
            Work::One(exchange) => *exchange,
            Work::Many(_) => panic!("one call"),
        }
    }

    fn text<'h>(head: &'h RequestHeader, name: &str) -> &'h str {
        let value = head.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    #[test]
    fn a_key_goes_where_the_provider_wants_it() {
        let head = request_head(&exchange(Credential::Key(secret("sk-1")))).unwrap();
        assert_eq!(text(&head, "api-key"), "sk-1");
        assert_eq!(text(&head, "authorization"), "");
        assert_eq!(text(&head, "x-amz-date"), "");
    }

    #[test]
    fn a_token_is_a_bearer_and_no_call_goes_without_it() {
        let identity = Identity::entra("contoso.com", "app-1", secret("s-1")).unwrap();
        let mut exchange = exchange(Credential::Azure(Arc::new(identity)));
        assert_eq!(request_head(&exchange).unwrap_err().kind(), Kind::Internal);
        exchange.change_target(|target| target.settle(Token::Bearer(secret("t-1"))));
        let head = request_head(&exchange).unwrap();
        assert_eq!(text(&head, "authorization"), "Bearer t-1");
        assert_eq!(text(&head, "api-key"), "");
        let told = exchange.target().attribute(Error::broken("t-1 is bad"));
        assert_eq!(told.message(), "[redacted] is bad");
    }

    #[test]
    fn aws_keys_sign_the_call_and_are_not_in_it() {
        let head = request_head(&exchange(aws(AwsKeys::Held(keys("AKID"))))).unwrap();
        let authorization = text(&head, "authorization");
        assert!(authorization.starts_with("AWS4-HMAC-SHA256 Credential=AKID/"));
        let signed =
            "SignedHeaders=content-type;host;x-amz-content-sha256;x-amz-date;x-amz-security-token,";
        assert!(authorization.contains(signed), "{authorization}");
        assert_eq!(text(&head, "x-amz-security-token"), "SESSION");
        assert!(!format!("{:?}", head.headers).contains("SE"));
    }

    #[test]
    fn an_assumed_role_signs_with_its_own_keys() {
        let role = AssumeRole::try_new(keys("AKID"), "arn:aws:iam::1:role/r", "us-east-1");
        let mut exchange = exchange(aws(AwsKeys::Granted(Grant::AssumeRole(Arc::new(
            role.unwrap(),
        )))));
        assert_eq!(request_head(&exchange).unwrap_err().kind(), Kind::Internal);
        exchange.change_target(|target| target.settle(Token::Aws(keys("ASIA"))));
        let head = request_head(&exchange).unwrap();
        assert!(text(&head, "authorization").contains("Credential=ASIA/"));
        let told = exchange
            .target()
            .attribute(Error::broken("AKID ASIA SECRET"));
        assert_eq!(told.message(), "[redacted] [redacted] [redacted]");
    }

    #[test]
    fn an_oracle_key_signs_the_call_over_what_a_client_forwards() {
        let signer = Signer::try_new("t", "u", "f", &secret(RSA)).unwrap();
        let head = request_head(&exchange(Credential::Oci(Arc::new(signer)))).unwrap();
        assert!(text(&head, "authorization").contains(r#"keyId="t/u/f""#));
        assert!(text(&head, "date").ends_with(" GMT"));
        assert_eq!(head.headers.get_all("date").iter().count(), 1);
    }

    fn base(url: &str) -> Base {
        Base::try_new(url, "base_url").unwrap()
    }

    #[tokio::test]
    async fn a_peer_is_never_without_the_name_that_its_certificate_must_have() {
        let upstream = Upstream::new(&ServerConf::default(), Timeouts::default(), 1);
        for url in ["https://127.0.0.1", "https://[::1]:8443/v1"] {
            let peer = upstream.peer(&base(url)).await.unwrap();
            assert!(!peer.sni.is_empty() && peer.options.verify_cert);
        }
    }
}
