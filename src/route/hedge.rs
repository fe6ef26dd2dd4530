//! When a second call is made beside one that keeps its client waiting: whichever brings a token first is the answer, and the
//! other is cancelled.

use std::time::Duration;

/// After which time without a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Hedge {
    After(Duration),
    /// The time that so many of the target's calls stay below. 0.95: one call in twenty is made twice.
    Quantile {
        quantile: f64,
        min: Duration,
        max: Duration,
    },
}

impl Hedge {
    /// The wait. `seen`: the quantile, if enough calls are known; else the longest that is allowed.
    pub fn delay(&self, seen: impl FnOnce(f64) -> Option<Duration>) -> Duration {
        match *self {
            Self::After(delay) => delay,
            Self::Quantile { quantile, min, max } => {
                let seen = seen(quantile).unwrap_or(max);
                seen.max(min).min(max)
            }
        }
    }
}

/// Where a quantile is asked for, and nothing else is said.
pub const MIN_DELAY: Duration = Duration::from_millis(50);
pub const MAX_DELAY: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_stay_between_their_bounds() {
        let quantile = Hedge::Quantile {
            quantile: 0.95,
            min: MIN_DELAY,
            max: MAX_DELAY,
        };
        let millis = Duration::from_millis;
        for (seen, expected) in [
            (None, MAX_DELAY),
            (Some(millis(10)), MIN_DELAY),
            (Some(millis(700)), millis(700)),
            (Some(millis(60_000)), MAX_DELAY),
        ] {
            assert_eq!(quantile.delay(|_| seen), expected, "{seen:?}");
        }
        let fixed = Hedge::After(millis(300));
        assert_eq!(fixed.delay(|_| Some(millis(1))), millis(300));
    }
}
