//! The terms of a call: what a client and the conf say of it, beside the request itself.

use std::time::Duration;

use http::HeaderMap;

use super::fan_out::FanOutLimits;
use crate::{completion::Compliance, dialect::settle::Best};

/// What seeds the answer's own `id` and `created`.
#[derive(Clone, Copy, Debug)]
pub struct Seed {
    /// Unix time, seconds.
    pub now: u64,
    pub draw: u128,
}

/// How long the parts of one call may take. `None`: nothing is said, so that what holds for all calls holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadlines {
    pub connect: Option<Duration>,
    /// From its begin to the first token of a stream.
    pub first_token: Option<Duration>,
    /// Between two events of a stream.
    pub idle: Option<Duration>,
    /// The whole call with its answer.
    pub call: Option<Duration>,
    /// The whole request, where its client set that.
    pub total: Option<Duration>,
    /// A silent stream's client is shown so often that somebody is there.
    pub heartbeat: Option<Duration>,
}

/// What a client said of the call, beside its body.
#[derive(Clone, Debug)]
pub struct Terms {
    pub compliance: Compliance,
    pub deadlines: Deadlines,
    pub forwarded: HeaderMap,
    pub max_event_bytes: usize,
    pub fan_out: FanOutLimits,
    /// The choice among candidates that is made here.
    pub best: Option<Best>,
}

#[cfg(test)]
impl Terms {
    /// Of a call of which nobody says anything.
    pub fn plain() -> Self {
        Self {
            compliance: Compliance::Strict,
            deadlines: Deadlines::default(),
            forwarded: HeaderMap::new(),
            max_event_bytes: 1 << 20,
            fan_out: FanOutLimits {
                concurrent_calls: 1,
                bytes: 1 << 20,
            },
            best: None,
        }
    }
}
