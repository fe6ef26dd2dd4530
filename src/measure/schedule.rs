//! When requests are sent, and from when their time counts.
//!
//! In a closed loop each of a number of callers sends its next request when its last one has ended: a server that stalls
//! is asked less, and the stall is one slow request for each caller. In an open loop requests are due at fixed times,
//! whatever the server does, and each one's time counts from when it was due: a stall is in the time of every request
//! that would have been sent meanwhile ("coordinated omission" is the name of the mistake of leaving those out).

use std::time::Duration;

/// How much is asked, and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Requests under way at the same time: all the time in a closed loop, at most in an open one. At least 1.
    pub concurrency: usize,
    /// `None`: a closed loop.
    pub rate: Option<Rate>,
    /// `None`: no end but `time`.
    pub requests: Option<u64>,
    /// After it nothing new is sent; what is under way is read to its end. `None`: no end but `requests`.
    pub time: Option<Duration>,
}

impl Schedule {
    /// How many requests are sent in all. `None`: as many as the server lets.
    pub fn total(&self) -> Option<u64> {
        let by_time = self.rate.zip(self.time).map(|(rate, time)| rate.owed(time));
        match (self.requests, by_time) {
            (Some(requests), Some(due)) => Some(requests.min(due)),
            (requests, due) => requests.or(due),
        }
    }

    /// Whether request `number` (from 0) is sent at `elapsed` since the start.
    pub fn includes(&self, number: u64, elapsed: Duration) -> bool {
        let in_time = self.rate.is_some() || self.time.is_none_or(|time| elapsed < time);
        in_time && self.total().is_none_or(|total| number < total)
    }
}

/// Requests per second: above 0, finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate(f64);

impl Rate {
    pub fn per_second(self) -> f64 {
        self.0
    }

    /// When request `number` (from 0) is due, since the start.
    pub fn due(self, number: u64) -> Duration {
        Duration::try_from_secs_f64(number as f64 / self.0).unwrap_or(Duration::MAX)
    }

    /// How many requests are due until `elapsed`, its moment not counted.
    pub fn owed(self, elapsed: Duration) -> u64 {
        // Saturates; a request that is due at the end itself is left out.
        (elapsed.as_secs_f64() * self.0).ceil() as u64
    }
}

impl std::str::FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rate = text.parse::<f64>().ok();
        rate.filter(|rate| rate.is_finite() && (MIN_RATE..=MAX_RATE).contains(rate))
            .map(Self)
            .ok_or_else(|| format!("a number of requests per second, {MIN_RATE} to {MAX_RATE}"))
    }
}

/// One in some 17 minutes.
const MIN_RATE: f64 = 0.001;
/// More than any one machine sends.
const MAX_RATE: f64 = 10_000_000.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::tally::Tally;

    fn schedule(rate: Option<&str>, requests: Option<u64>, seconds: Option<u64>) -> Schedule {
        Schedule {
            concurrency: 1,
            rate: rate.map(|rate| rate.parse().unwrap()),
            requests,
            time: seconds.map(Duration::from_secs),
        }
    }

    #[test]
    fn a_schedule_ends_by_what_comes_first() {
        let cases = [
            (None, None, Some(1), None),
            (None, Some(7), Some(1), Some(7)),
            (Some("10"), Some(7), Some(1), Some(7)),
            (Some("10"), Some(70), Some(1), Some(10)),
            (Some("10"), None, Some(2), Some(20)),
            (Some("0.4"), None, Some(5), Some(2)),
            (Some("0.4"), None, Some(6), Some(3)),
            (Some("10"), Some(3), None, Some(3)),
        ];
        for (rate, requests, seconds, total) in cases {
            assert_eq!(
                schedule(rate, requests, seconds).total(),
                total,
                "{rate:?} {requests:?} {seconds:?}"
            );
        }
    }

    #[test]
    fn a_closed_loop_stops_at_its_time_and_an_open_one_at_its_count() {
        let closed = schedule(None, Some(2), Some(1));
        assert!(closed.includes(1, Duration::from_millis(999)));
        assert!(!closed.includes(2, Duration::ZERO));
        assert!(!closed.includes(0, Duration::from_secs(1)));
        // A request that was due in time is sent, however late.
        let open = schedule(Some("10"), None, Some(1));
        assert!(open.includes(9, Duration::from_secs(5)));
        assert!(!open.includes(10, Duration::ZERO));
    }

    #[test]
    fn requests_are_due_at_even_distances() {
        let rate: Rate = "1000".parse().unwrap();
        assert_eq!(rate.due(0), Duration::ZERO);
        assert_eq!(rate.due(1), Duration::from_millis(1));
        assert_eq!(rate.due(90_000), Duration::from_secs(90));
        for (number, elapsed) in [(0, 0), (1, 1), (1, 1_000), (2, 1_001), (5_000, 5_000_000)] {
            assert_eq!(rate.owed(Duration::from_micros(elapsed)), number);
        }
    }

    #[test]
    fn a_rate_is_a_number_above_nothing() {
        for text in ["0", "-1", "NaN", "inf", "1e9", "fast", ""] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
        assert_eq!("0.5".parse::<Rate>().unwrap().per_second(), 0.5);
    }

    /// A server of one place that takes 1 ms for each request, and stands still for a second after the 1,000th.
    fn stalled(rate: Option<Rate>) -> Tally {
        let (mut tally, mut free) = (Tally::default(), Duration::ZERO);
        for number in 0..10_000 {
            let since = rate.map_or(free, |rate| rate.due(number));
            let stall = if number == 1_000 { 1_000 } else { 0 };
            free = free.max(since) + Duration::from_millis(1 + stall);
            tally.total.add(free - since);
        }
        tally
    }

    #[test]
    fn a_stall_is_in_the_percentiles_of_an_open_loop_and_hidden_in_a_closed_one() {
        let p99 = |tally: &Tally| tally.total.percentile(0.99);
        let closed = stalled(None);
        assert_eq!(p99(&closed).as_millis(), 1);
        let open = stalled(Some("500".parse().unwrap()));
        // At 500 requests/s a second's stall is made up for after another: some 1,000 of 10,000 requests are late, evenly
        // from 0 to 1 s.
        let millis = p99(&open).as_millis();
        assert!((850..=950).contains(&millis), "{millis}");
        assert!((0..=2).contains(&open.total.percentile(0.5).as_millis()));
    }
}
