//! Parts of a request's way that no caller of the crate has by themselves, for `benches/instructions.rs`. In no release.

use bytes::Bytes;
use http::{HeaderMap, Method};

use crate::{
    config::{Config, Surroundings, source::Source},
    error::Error,
    exchange::{Exchange, Seed, Work},
    gateway::{Admission, COMPLETIONS, Completing, Head, State},
    head::{Limits, check},
    wire::sse::Events,
};

/// Whether a head of HTTP/1, from its request line to its empty line, is let through.
pub fn passes(head: &[u8]) -> bool {
    check(head, LIMITS).is_ok()
}

/// How many events a read of a stream has, from its start on.
pub fn events(read: Bytes) -> usize {
    let mut events = Events::new(MAX_EVENT_BYTES);
    events.push(read);
    let mut count = 0_usize;
    while let Some(Ok(_)) = events.next() {
        count = count.saturating_add(1);
    }
    count
}

/// A gateway without sockets.
#[derive(Debug)]
pub struct Gateway(State);

impl Gateway {
    /// Of a conf's text, in which every secret is `surroundings`' to tell.
    pub fn of(conf: &str, surroundings: &dyn Surroundings) -> Result<Self, String> {
        let source = Source {
            file: "conf.yaml",
            text: conf,
            server_keys: &[],
            surroundings,
            secret_file_mode: 0,
        };
        let config = Config::read(&source).map_err(|error| error.to_string())?;
        let state = State::try_new(config).map_err(|error| error.to_string())?;
        Ok(Self(state))
    }

    /// Whether a request has a key of the gateway's.
    pub fn identifies(&self, headers: &HeaderMap) -> bool {
        let identity = self.0.config.keys.identify(headers, NOW);
        identity.is_ok_and(|identity| identity.is_some())
    }

    /// From a completion's head and body to all that goes upstream, at the first target of its plan. Gives how many bytes its
    /// body has.
    pub fn call(&self, headers: &HeaderMap, body: &Bytes) -> Result<usize, Error> {
        let head = Head {
            method: &Method::POST,
            path: COMPLETIONS,
            query: None,
            headers,
        };
        let Admission::Complete(directives) = self.0.admit(head, None)? else {
            return Ok(0);
        };
        let plan = self.0.plan(&directives, head, body, &mut |_, _| 0)?;
        let Some(attempt) = plan.first() else {
            return Ok(0);
        };
        let seed = Seed { now: NOW, draw: 7 };
        let completing =
            self.0
                .complete(&directives, &attempt.leaf, headers, body.clone(), seed)?;
        goes_out(&completing)
    }
}

fn goes_out(completing: &Completing) -> Result<usize, Error> {
    match &completing.work {
        Work::One(exchange) => upstream_bytes(exchange),
        Work::Many(_) => Ok(0),
    }
}

fn upstream_bytes(exchange: &Exchange) -> Result<usize, Error> {
    let (path, headers) = (exchange.path(), exchange.headers()?);
    let is_whole = !path.is_empty() && !headers.is_empty();
    Ok(if is_whole { exchange.body().len() } else { 0 })
}

const NOW: u64 = 1_700_000_000;
const MAX_EVENT_BYTES: usize = 1 << 20;
const LIMITS: Limits = Limits {
    bytes: 64 << 10,
    fields: 100,
};
