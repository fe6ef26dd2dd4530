//! `gateway.limits` and `gateway.timeouts` as a conf file writes them.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error as _};

use super::{
    Limits, Timeouts,
    text::{DurationText, MaybeDuration},
};

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsFile {
    body_bytes: Option<usize>,
    header_bytes: Option<usize>,
    header_count: Option<HeaderCount>,
    header_seconds: Option<Seconds>,
    request_seconds: Option<u64>,
    event_bytes: Option<usize>,
    calls: Option<u32>,
    concurrent_calls: Option<usize>,
    upstream_calls: Option<usize>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TimeoutsFile {
    connect: Option<DurationText>,
    read: Option<DurationText>,
    write: Option<DurationText>,
    first_token: Option<DurationText>,
    idle: Option<DurationText>,
    heartbeat: Option<MaybeDuration>,
    total: Option<DurationText>,
}

/// A number of headers that Pingora's parser can hold.
struct HeaderCount(usize);

impl<'de> Deserialize<'de> for HeaderCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match usize::deserialize(deserializer)? {
            count @ 1..=MAX_HEADER_COUNT => Ok(Self(count)),
            _ => Err(D::Error::custom("expected a number from 1 to 256")),
        }
    }
}

/// A time that is not none.
struct Seconds(Duration);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u64::deserialize(deserializer)? {
            seconds @ 1..=MAX_SECONDS => Ok(Self(Duration::from_secs(seconds))),
            _ => Err(D::Error::custom("expected seconds, from 1 to 3600")),
        }
    }
}

impl LimitsFile {
    pub fn apply(self, limits: &mut Limits) {
        limits.body_bytes = self.body_bytes.unwrap_or(limits.body_bytes);
        limits.header_bytes = self.header_bytes.unwrap_or(limits.header_bytes);
        limits.header_count = self
            .header_count
            .map_or(limits.header_count, |count| count.0);
        limits.header = self.header_seconds.map_or(limits.header, |time| time.0);
        limits.event_bytes = self.event_bytes.unwrap_or(limits.event_bytes);
        limits.calls = self.calls.unwrap_or(limits.calls).max(1);
        let or = |new: Option<usize>, old| new.unwrap_or(old);
        limits.concurrent_calls = or(self.concurrent_calls, limits.concurrent_calls);
        limits.upstream_calls = or(self.upstream_calls, limits.upstream_calls);
        limits.request = self
            .request_seconds
            .map_or(limits.request, Duration::from_secs);
    }
}

impl TimeoutsFile {
    pub fn apply(self, timeouts: &mut Timeouts) {
        let or = |new: Option<DurationText>, old| new.map_or(old, |duration| duration.0);
        timeouts.connect = or(self.connect, timeouts.connect);
        timeouts.read = or(self.read, timeouts.read);
        timeouts.write = or(self.write, timeouts.write);
        timeouts.total = or(self.total, timeouts.total);
        timeouts.first_token = self.first_token.map(|duration| duration.0);
        timeouts.idle = self.idle.map(|duration| duration.0);
        if let Some(MaybeDuration(period)) = self.heartbeat {
            timeouts.heartbeat = period;
        }
    }
}

/// Fixed in Pingora.
const MAX_HEADER_COUNT: usize = 256;
const MAX_SECONDS: u64 = 3_600;
