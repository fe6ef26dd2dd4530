//! How quick a target is: the moving average of its first-token times.
//!
//! The average forgets with time, not with calls: a sample's weight falls to a third in ten seconds, so that a target that is
//! asked a thousand times a second and one that is asked once a minute are known equally well. And what is known fades: a slow
//! target that nobody has asked for a while looks quicker and quicker, until it is asked again. One call is enough for
//! that: while it is under way, the figure is what it was.
//!
//! The cost of a call is the figure times the calls in flight, the new one among them, as in finagle's "peak EWMA". Not its peak
//! part: the first token of a long prompt takes long everywhere, and one such must not send everybody elsewhere.

use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// Seconds; `None`: nothing is known.
    figure: Option<f64>,
    sampled: Option<Instant>,
    /// When the target was last asked, or answered.
    touched: Option<Instant>,
}

impl Pace {
    /// A call begins.
    pub fn touch(&mut self, now: Instant) {
        // A figure that has faded is what the call is chosen by; it is restored, not forgotten.
        self.touched = Some(now);
    }

    pub fn sample(&mut self, took: Duration, now: Instant) {
        let took = took.min(MAX_SAMPLE).as_secs_f64();
        let old = self.figure.unwrap_or(took);
        let kept = remains(self.sampled, now);
        self.figure = Some(old * kept + took * (1.0 - kept));
        self.sampled = Some(now);
        self.touched = Some(now);
    }

    /// A call failed after `took`: what fails at once must not look quick.
    pub fn penalise(&mut self, took: Duration, now: Instant) {
        let twice = Duration::try_from_secs_f64(self.figure.unwrap_or_default() * 2.0);
        let twice = twice.unwrap_or(MAX_SAMPLE);
        self.sample(took.max(twice).max(PENALTY), now);
    }

    /// The cost of one more call beside the `outstanding` ones.
    pub fn cost(&self, outstanding: u32, now: Instant) -> f64 {
        let calls = f64::from(outstanding) + 1.0;
        match self.figure {
            Some(figure) => figure * remains(self.touched, now) * calls,
            // The first call is for free; the second does not know yet what it would cost.
            None if outstanding == 0 => 0.0,
            None => PENALTY.as_secs_f64() * calls,
        }
    }

    /// The average as it was last known.
    pub fn figure(&self) -> Option<Duration> {
        self.figure
            .and_then(|figure| Duration::try_from_secs_f64(figure).ok())
    }
}

/// What is left at `now` of what was known at `then`.
fn remains(then: Option<Instant>, now: Instant) -> f64 {
    let age = then.map_or(Duration::MAX, |then| now.saturating_duration_since(then));
    (-age.as_secs_f64() / DECAY.as_secs_f64()).exp()
}

/// The time after which a third is left of what was known.
const DECAY: Duration = Duration::from_secs(10);
/// What a failure, or a target of which nothing is known, is taken for at least.
const PENALTY: Duration = Duration::from_secs(5);
/// No sample counts for more.
const MAX_SAMPLE: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_average_follows_and_forgets_with_time() {
        let start = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.figure(), None);
        pace.sample(millis(100), start);
        assert_eq!(pace.figure(), Some(millis(100)));
        // Many at the same instant are one instant's worth.
        for _ in 0..1_000 {
            pace.sample(millis(900), start);
        }
        assert_eq!(pace.figure(), Some(millis(100)));
        // 2 s at 900 ms: a sixth of the way; 30 s: nearly all.
        let mut at = |seconds: u64| {
            for step in 0..10 {
                pace.sample(
                    millis(900),
                    start + Duration::from_millis(seconds * 1_000 + step),
                );
            }
            pace.figure().unwrap().as_millis()
        };
        let early = at(2);
        assert!((200..300).contains(&early), "{early}");
        let late = at(32);
        assert!((850..=900).contains(&late), "{late}");
    }

    #[test]
    fn what_is_known_fades_until_it_is_asked_again() {
        let start = Instant::now();
        let mut slow = Pace::default();
        slow.sample(millis(1_000), start);
        let quick = 0.1;
        let later = start + Duration::from_secs(30);
        assert!(slow.cost(0, start) > quick);
        assert!(slow.cost(0, later) < quick, "it is tried again");
        slow.touch(later);
        assert!(slow.cost(1, later) > quick, "by one call at a time");
    }

    #[test]
    fn calls_in_flight_cost() {
        let now = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.cost(0, now), 0.0, "the unknown is tried first");
        assert!(pace.cost(1, now) >= 10.0, "once");
        pace.sample(millis(200), now);
        assert!((pace.cost(4, now) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn failing_at_once_is_not_quick() {
        let now = Instant::now();
        let mut pace = Pace::default();
        pace.penalise(millis(1), now);
        assert_eq!(pace.figure(), Some(PENALTY));
        let later = now + Duration::from_secs(1_000);
        pace.penalise(millis(1), later);
        assert_eq!(pace.figure(), Some(PENALTY * 2));
        for second in 0..100_000 {
            pace.penalise(Duration::MAX, later + Duration::from_secs(second * 100));
        }
        assert!(pace.figure().unwrap() <= MAX_SAMPLE);
    }
}
