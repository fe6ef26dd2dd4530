//! `gateway.health` and `gateway.retries` as a conf file writes them.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error as _};

use super::text::DurationText;
use crate::route::{
    plan::Breaker,
    retry::{Allowance, Backoff},
};

/// What holds for all targets of configs and routes.
#[derive(Clone, Debug, Default)]
pub struct Resilience {
    /// For targets that have no `cb_config`, their own or inherited.
    pub breaker: Option<Breaker>,
    /// Of targets with `max_concurrent`.
    pub queue: Queue,
    pub backoff: Backoff,
    pub allowance: Allowance,
}

/// Who may wait for a place at a target that has as many calls as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Requests that wait at a time; 0: none.
    pub size: u32,
    /// The longest that one waits.
    pub wait: Duration,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            size: 16,
            wait: Duration::from_secs(1),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthFile {
    breaker: Option<BreakerFile>,
    queue: QueueFile,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct BreakerFile {
    failure_threshold: Option<u32>,
    failure_threshold_percentage: Option<Share>,
    minimum_requests: Option<u32>,
    cooldown_interval: DurationText,
    failure_status_codes: Option<Vec<u16>>,
}

impl Default for BreakerFile {
    fn default() -> Self {
        Self {
            failure_threshold: None,
            failure_threshold_percentage: None,
            minimum_requests: None,
            cooldown_interval: DurationText(Duration::from_secs(30)),
            failure_status_codes: None,
        }
    }
}

/// Of 100.
struct Share(f64);

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let share = f64::deserialize(deserializer)?;
        match (0.0..=100.0).contains(&share) {
            true => Ok(Self(share)),
            false => Err(D::Error::custom("expected a number from 0 to 100")),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct QueueFile {
    size: Option<u32>,
    wait: Option<DurationText>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetriesFile {
    backoff: Option<DurationText>,
    cap: Option<DurationText>,
    budget_percent: Option<u32>,
    reserve: Option<u32>,
}

impl HealthFile {
    pub fn apply(self, resilience: &mut Resilience) {
        resilience.breaker = self.breaker.map(|file| Breaker {
            failures: file.failure_threshold.map(|failures| failures.max(1)),
            percentage: file.failure_threshold_percentage.map(|share| share.0),
            minimum: file.minimum_requests,
            cooldown: file.cooldown_interval.0,
            statuses: file.failure_status_codes.map(Into::into),
        });
        let queue = &mut resilience.queue;
        queue.size = self.queue.size.unwrap_or(queue.size);
        queue.wait = self.queue.wait.map_or(queue.wait, |wait| wait.0);
    }
}

impl RetriesFile {
    pub fn apply(self, resilience: &mut Resilience) {
        let Backoff { base, cap } = resilience.backoff;
        let cap = self.cap.map_or(cap, |cap| cap.0);
        resilience.backoff = Backoff {
            base: self.backoff.map_or(base, |base| base.0).min(cap),
            cap,
        };
        let allowance = &mut resilience.allowance;
        if let Some(percent) = self.budget_percent {
            allowance.per_mille = percent.saturating_mul(10);
        }
        allowance.reserve = self.reserve.unwrap_or(allowance.reserve);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_stays() {
        let mut resilience = Resilience::default();
        let health: HealthFile = serde_yaml::from_str(
            "breaker: { failure_threshold_percentage: 40, failure_status_codes: [500] }\nqueue: { size: 0 }",
        )
        .unwrap();
        health.apply(&mut resilience);
        let retries: RetriesFile =
            serde_yaml::from_str("{ cap: 100ms, budget_percent: 5 }").unwrap();
        retries.apply(&mut resilience);
        let breaker = resilience.breaker.unwrap();
        assert_eq!((breaker.failures, breaker.percentage), (None, Some(40.0)));
        assert_eq!(breaker.cooldown, Duration::from_secs(30));
        assert_eq!(breaker.statuses.as_deref(), Some(&[500][..]));
        let wait = Duration::from_secs(1);
        assert_eq!(resilience.queue, Queue { size: 0, wait });
        let cap = Duration::from_millis(100);
        assert_eq!(
            resilience.backoff,
            Backoff { base: cap, cap },
            "no wait is above the cap"
        );
        let Allowance { per_mille, reserve } = resilience.allowance;
        assert_eq!((per_mille, reserve), (50, 10));
    }

    #[test]
    fn no_breaker_is_the_default_and_nonsense_is_refused() {
        let mut resilience = Resilience::default();
        HealthFile::default().apply(&mut resilience);
        assert!(resilience.breaker.is_none());
        for text in [
            "breaker: { failure_threshold_percentage: 101 }",
            "breaker: { cooldown_interval: 30 }",
            "breaker: { cooldown: 30s }",
            "queue: { size: -1 }",
        ] {
            assert!(serde_yaml::from_str::<HealthFile>(text).is_err(), "{text}");
        }
    }
}
