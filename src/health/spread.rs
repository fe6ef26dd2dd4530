//! How a target's first-token times are spread: after which of them a second call is worth its price.
//!
//! Two histograms take turns: one fills, the full one before it answers. So that what is said is never older than two turns,
//! and never made of a few calls.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// What a call is waited for. Their times are not of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// A stream's first token.
    Token,
    Whole,
}

#[derive(Debug, Default)]
pub struct Spread {
    filling: Option<Turn>,
    full: Option<Turn>,
}

#[derive(Debug)]
struct Turn {
    /// Milliseconds.
    times: Histogram<u16>,
    since: Instant,
}

impl Spread {
    pub fn add(&mut self, took: Duration, now: Instant) {
        let is_over = |turn: &Turn| {
            let age = now.saturating_duration_since(turn.since);
            turn.times.len() >= TURN_CALLS || (age >= TURN && turn.times.len() >= FEW)
        };
        if self.filling.as_ref().is_some_and(is_over) {
            self.full = self.filling.take();
        }
        let turn = match &mut self.filling {
            Some(turn) => turn,
            none => {
                // Two digits: 1 % is far below what first tokens differ by.
                let Ok(times) = Histogram::new_with_max(MAX_MILLIS, 2) else {
                    return;
                };
                none.insert(Turn { times, since: now })
            }
        };
        let millis = u64::try_from(took.as_millis()).unwrap_or(MAX_MILLIS);
        turn.times.saturating_record(millis.clamp(1, MAX_MILLIS));
    }

    /// The time that a share of `quantile` stayed below; `None`: too few are known.
    pub fn within(&self, quantile: f64) -> Option<Duration> {
        let known = |turn: &&Turn| turn.times.len() >= FEW;
        let turn = self.full.as_ref().or(self.filling.as_ref());
        let turn = turn.filter(known)?;
        let millis = turn.times.value_at_quantile(quantile.clamp(0.0, 1.0));
        Some(Duration::from_millis(millis))
    }
}

/// Calls below which no quantile is told.
const FEW: u64 = 20;
/// Calls and time after which a histogram is full.
const TURN_CALLS: u64 = 1_000;
const TURN: Duration = Duration::from_secs(60);
/// Longer ones count as this long.
const MAX_MILLIS: u64 = 60_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_of_the_last_calls() {
        let now = Instant::now();
        let mut spread = Spread::default();
        for millis in 1..20 {
            spread.add(Duration::from_millis(millis), now);
        }
        assert_eq!(spread.within(0.5), None, "19 are too few");
        for millis in 20..=100 {
            spread.add(Duration::from_millis(millis), now);
        }
        let within = |quantile| spread.within(quantile).unwrap().as_millis();
        assert_eq!((within(0.5), within(0.95), within(1.0)), (50, 95, 100));
    }

    #[test]
    fn old_times_are_forgotten() {
        let start = Instant::now();
        let mut spread = Spread::default();
        let mut fill = |millis, from| {
            for call in 0_u64..40 {
                let now = start + Duration::from_secs(from + call);
                spread.add(Duration::from_millis(millis), now);
            }
            spread.within(0.9).unwrap().as_millis()
        };
        assert_eq!(fill(10, 0), 10);
        assert_eq!(fill(500, 60), 10, "the full histogram answers");
        assert!(fill(500, 130) >= 500);
    }

    #[test]
    fn absurd_times_fit() {
        let now = Instant::now();
        let mut spread = Spread::default();
        for _ in 0..200_000 {
            spread.add(Duration::MAX, now);
            spread.add(Duration::ZERO, now);
        }
        assert!(spread.within(1.0).unwrap() >= Duration::from_millis(MAX_MILLIS));
        assert_eq!(
            spread.within(f64::NAN.max(0.0)),
            Some(Duration::from_millis(1))
        );
    }
}
