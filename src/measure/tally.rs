//! What is counted while a load runs, and how much of it.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;

use super::answer::Failure;

/// Durations, to three digits, from 1 ns up.
#[derive(Clone, Debug)]
pub struct Times(Option<Histogram<u64>>);

impl Default for Times {
    fn default() -> Self {
        // Three digits are within what the histogram takes: this is never `None`.
        Self(Histogram::new(DIGITS).ok())
    }
}

impl Times {
    pub fn add(&mut self, time: Duration) {
        self.add_many(time, 1);
    }

    pub fn add_many(&mut self, time: Duration, count: u64) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        if let Some(histogram) = &mut self.0 {
            // It grows with what it is given, and this bound is far below its own.
            let _ = histogram.record_n(nanoseconds.min(MAX_NANOSECONDS), count);
        }
    }

    pub fn merge(&mut self, other: &Self) {
        if let (Some(own), Some(other)) = (&mut self.0, &other.0) {
            // Both grow: nothing is out of range.
            let _ = own.add(other);
        }
    }

    pub fn count(&self) -> u64 {
        self.0.as_ref().map_or(0, Histogram::len)
    }

    /// The time that this share of all were not slower than. 0 if there are none.
    pub fn percentile(&self, share: f64) -> Duration {
        let nanoseconds = self.0.as_ref().map(|all| all.value_at_quantile(share));
        Duration::from_nanos(nanoseconds.unwrap_or_default())
    }

    pub fn mean(&self) -> Duration {
        let mean = self.0.as_ref().map_or(0.0, Histogram::mean);
        Duration::try_from_secs_f64(mean / 1e9).unwrap_or_default()
    }

    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.0.as_ref().map_or(0, Histogram::max))
    }

    pub fn min(&self) -> Duration {
        Duration::from_nanos(
            self.0
                .as_ref()
                .filter(|all| !all.is_empty())
                .map_or(0, Histogram::min),
        )
    }

    /// How many are in `from..=to`.
    pub fn between(&self, from: Duration, to: Duration) -> u64 {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.as_ref().map_or(0, |all| {
            all.count_between(nanoseconds(from), nanoseconds(to))
        })
    }
}

/// What came of the requests of one target, in one round or in all.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// From the moment a request was due (open loop) or begun (closed loop) to its answer's last byte. Good answers only.
    pub total: Times,
    /// From the same moment to the first event with text.
    pub first_token: Times,
    /// Between two events with text of one stream; 0 if they came in one read.
    pub between: Times,
    /// From when a request was due to when it was begun. Open loop only.
    pub late: Times,
    pub sent: u64,
    /// Of those, the ones that were sent on a new connection too: the one that was kept ended before a byte came.
    pub sent_again: u64,
    pub succeeded: u64,
    /// Left by the client after the number of events that it was told.
    pub aborted: u64,
    pub failures: BTreeMap<Failure, u64>,
    /// With text, of streams.
    pub events: u64,
    /// Of completions, as servers counted them.
    pub tokens: u64,
    /// Good answers that told their tokens.
    pub told: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub connections: u64,
    /// Ended requests in each `SLOT` since the start.
    pub ended: Vec<u32>,
    /// From the first request to the last answer.
    pub elapsed: Duration,
}

impl Tally {
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// A request has ended, at `at` since the start.
    pub fn end(&mut self, at: Duration) {
        let slot = usize::try_from(at.as_nanos() / SLOT.as_nanos()).unwrap_or(usize::MAX);
        if slot >= MAX_SLOTS {
            return;
        }
        if self.ended.len() <= slot {
            self.ended.resize(slot + 1, 0);
        }
        if let Some(count) = self.ended.get_mut(slot) {
            *count += 1;
        }
    }

    /// Adds another round.
    pub fn merge(&mut self, other: &Self) {
        self.total.merge(&other.total);
        self.first_token.merge(&other.first_token);
        self.between.merge(&other.between);
        self.late.merge(&other.late);
        self.sent += other.sent;
        self.sent_again += other.sent_again;
        self.succeeded += other.succeeded;
        self.aborted += other.aborted;
        for (failure, count) in &other.failures {
            *self.failures.entry(*failure).or_default() += count;
        }
        self.events += other.events;
        self.tokens += other.tokens;
        self.told += other.told;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.connections += other.connections;
        // The last slot of a round is not a whole one.
        let whole = other
            .ended
            .len()
            .saturating_sub(1)
            .max(usize::from(other.ended.len() == 1));
        self.ended.extend(other.ended.iter().take(whole));
        self.elapsed += other.elapsed;
    }

    /// How often something that was counted happened in a second.
    pub fn per_second(&self, count: u64) -> f64 {
        if self.elapsed.is_zero() {
            return 0.0;
        }
        count as f64 / self.elapsed.as_secs_f64()
    }
}

/// Of the line of throughput over time.
pub const SLOT: Duration = Duration::from_millis(100);
/// Ten days.
const MAX_SLOTS: usize = 10 * 24 * 36_000;
/// Of the times kept: an error of at most 0.1 %.
const DIGITS: u8 = 3;
/// Ten days: longer times count as that.
const MAX_NANOSECONDS: u64 = 864_000_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_a_thousandth() {
        let mut times = Times::default();
        for milliseconds in 1..=1000 {
            times.add(Duration::from_millis(milliseconds));
        }
        for (share, expected) in [
            (0.5, 500),
            (0.9, 900),
            (0.99, 990),
            (0.999, 999),
            (1.0, 1000),
        ] {
            let found = times.percentile(share).as_secs_f64() * 1e3;
            assert!(
                (found / f64::from(expected) - 1.0).abs() < 0.002,
                "{share}: {found}"
            );
        }
        assert!((times.mean().as_secs_f64() - 0.5005).abs() < 0.001);
        assert!(times.max() >= Duration::from_secs(1) && times.max() < Duration::from_millis(1002));
        assert_eq!(times.count(), 1000);
        assert!(
            times.min() <= Duration::from_millis(1) && times.min() > Duration::from_micros(990)
        );
    }

    #[test]
    fn times_of_any_length_are_kept() {
        let mut times = Times::default();
        times.add(Duration::ZERO);
        times.add(Duration::from_secs(3_600));
        times.add(Duration::MAX);
        assert_eq!(times.count(), 3);
        assert!((times.percentile(0.6).as_secs_f64() / 3_600.0 - 1.0).abs() < 0.002);
        assert!(times.max() >= Duration::from_secs(800_000));
        let nothing = Times::default();
        assert_eq!(
            (
                nothing.mean(),
                nothing.max(),
                nothing.min(),
                nothing.percentile(0.5)
            ),
            Default::default()
        );
    }

    #[test]
    fn rounds_add_up() {
        let mut round = Tally::default();
        (round.sent, round.succeeded, round.elapsed) = (3, 1, Duration::from_secs(2));
        round.total.add(Duration::from_millis(5));
        round.failures.insert(Failure::Cut, 1);
        round.failures.insert(Failure::Status(503), 1);
        for at in [0, 99, 100, 250] {
            round.end(Duration::from_millis(at));
        }
        assert_eq!(round.ended, [2, 1, 1]);
        let mut all = Tally::default();
        all.merge(&round);
        all.merge(&round);
        assert_eq!((all.sent, all.succeeded, all.failed()), (6, 2, 4));
        assert_eq!(all.failures[&Failure::Status(503)], 2);
        assert_eq!(all.ended, [2, 1, 2, 1]);
        assert_eq!(all.total.percentile(0.5).as_millis(), 5);
        assert_eq!(all.per_second(all.sent), 1.5);
        assert_eq!(Tally::default().per_second(5), 0.0);
    }
}
