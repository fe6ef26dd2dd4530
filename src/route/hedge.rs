//! When a second call is made beside one that keeps its client waiting: whichever brings something first is the answer, and the
//! other is cancelled. (J. Dean, L. A. Barroso, "The Tail at Scale", 2013.)

use std::time::Duration;

/// How long a call may bring nothing before it is made a second time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hedge {
    /// In any case.
    pub after: Duration,
    /// And as long as this share of its target's calls take. 0.95: one call in twenty is made twice.
    pub quantile: Option<f64>,
}

impl Hedge {
    /// The wait; `None`: it is not known yet. `seen`: the time that a share of the target's calls stay below.
    pub fn delay(&self, seen: impl FnOnce(f64) -> Option<Duration>) -> Option<Duration> {
        match self.quantile {
            None => Some(self.after),
            Some(quantile) => Some(seen(quantile)?.max(self.after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_counts_from_the_least_wait_on_and_once_it_is_known() {
        let millis = Duration::from_millis;
        let hedge = |after, quantile| Hedge {
            after: millis(after),
            quantile,
        };
        for (hedge, seen, expected) in [
            (hedge(300, None), None, Some(300)),
            (hedge(300, None), Some(1), Some(300)),
            (hedge(0, Some(0.9)), None, None),
            (hedge(50, Some(0.9)), None, None),
            (hedge(50, Some(0.9)), Some(10), Some(50)),
            (hedge(50, Some(0.9)), Some(700), Some(700)),
        ] {
            let delay = hedge.delay(|quantile| {
                assert_eq!(quantile, 0.9);
                seen.map(millis)
            });
            assert_eq!(delay, expected.map(millis), "{hedge:?} {seen:?}");
        }
    }
}
