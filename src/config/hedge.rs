//! `hedge` of a config: `{after: 300ms}`, or `{quantile: 0.95, min: 50ms, max: 5s}`. A bare number is milliseconds.

use std::time::Duration;

use super::{node::Node, text::read_duration, tree::Tree};
use crate::route::hedge::{Hedge, MAX_DELAY, MIN_DELAY};

impl Tree<'_> {
    pub(super) fn hedge(&mut self, node: &Node) -> Option<Hedge> {
        self.only(node, &["after", "quantile", "min", "max"]);
        let mut time = |name: &str| {
            let value = node.get(name)?;
            let time = delay(value);
            if time.is_none() {
                self.tell_of(name, "It must be a time up to 60s, such as 300ms.");
            }
            time
        };
        let (after, min, max) = (time("after"), time("min"), time("max"));
        let quantile = node.get("quantile");
        match (node.get("after"), quantile) {
            (Some(_), None) if min.or(max).is_none() => after.map(Hedge::After),
            (None, Some(share)) => {
                let quantile = share.number().filter(|share| (0.5..1.0).contains(share));
                if quantile.is_none() {
                    self.tell_of("quantile", "It must be a number from 0.5 to below 1.");
                }
                let (min, max) = (min.unwrap_or(MIN_DELAY), max.unwrap_or(MAX_DELAY));
                if min > max {
                    self.tell_of("min", "It must not be above `max`.");
                }
                quantile.map(|quantile| Hedge::Quantile { quantile, min, max })
            }
            _ => {
                self.tell("It needs either `after` alone, or `quantile` with `min` and `max`.");
                None
            }
        }
    }
}

fn delay(node: &Node) -> Option<Duration> {
    let time = match (node.number(), node.text()) {
        (Some(millis), _) => Duration::try_from_secs_f64(millis / 1_000.0).ok()?,
        (None, text) => read_duration(text?).ok()?,
    };
    Some(time).filter(|time| *time <= MAX)
}

/// Who waits longer wants a deadline.
const MAX: Duration = Duration::from_secs(60);
