//! What retries may add to the load, so that a storm of them dies.
//!
//! When everything fails, every request is tried again, and what has just broken under its load gets twice as much of it: that is
//! how an outage outlives its cause. So retries are a share of the calls that need none: each first call of a request allows a
//! fifth of a retry, for ten seconds. A small reserve lets a process with little traffic retry at all.
//!
//! Hedges are retries too. A fallback is not: it goes to another target, once, and refusing it would turn one target's outage into
//! the client's.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use super::window::{SPAN, Side, Window};

/// How much retries may add.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Allowance {
    /// Retries per first call. 0: only the reserve.
    pub ratio: f64,
    /// Retries per second that need no first calls.
    pub reserve: u32,
}

impl Default for Allowance {
    /// Finagle's and linkerd's figures.
    fn default() -> Self {
        Self {
            ratio: 0.2,
            reserve: 10,
        }
    }
}

/// The calls of the last ten seconds: left the first ones, right the retries.
#[derive(Debug)]
pub struct Budget {
    allowance: Allowance,
    calls: Mutex<Window>,
}

impl Budget {
    pub fn new(allowance: Allowance, now: Instant) -> Self {
        Self {
            allowance,
            calls: Mutex::new(Window::new(now)),
        }
    }

    /// A first call is made.
    pub fn deposit(&self, now: Instant) {
        self.with(|calls| calls.add(Side::Left, now));
    }

    /// Takes one retry, if there is one.
    pub fn withdraw(&self, now: Instant) -> bool {
        self.with(|calls| {
            let allowed = has_room(self.allowance, calls.sums(now));
            if allowed {
                calls.add(Side::Right, now);
            }
            allowed
        })
    }

    /// Whether [`Budget::withdraw`] would give one.
    pub fn has_some(&self, now: Instant) -> bool {
        self.with(|calls| has_room(self.allowance, calls.sums(now)))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Window) -> T) -> T {
        act(&mut self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of ten seconds are far below 2^52")]
fn has_room(allowance: Allowance, (first, again): (u64, u64)) -> bool {
    let reserve = u64::from(allowance.reserve) * SPAN;
    let allowed = first as f64 * allowance.ratio + reserve as f64;
    again as f64 + 1.0 <= allowed
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_storm_adds_a_fifth_and_the_reserve() {
        let start = Instant::now();
        let budget = Budget::new(Allowance::default(), start);
        let (mut calls, mut retries) = (0_u32, 0_u32);
        // 1,000 requests per second for 60 s; all fail, and each would be tried three times more.
        for millis in 0..60_000 {
            let now = start + Duration::from_millis(millis);
            budget.deposit(now);
            calls += 1;
            for _ in 0..3 {
                retries += u32::from(budget.withdraw(now));
            }
        }
        assert!(retries <= calls / 5 + 60 * 10, "{retries} beside {calls}");
        assert!(retries >= calls / 5, "{retries}: what is allowed is given");
        // When the storm is over, what few fail are tried again as if it had not been.
        let calm = start + Duration::from_secs(75);
        assert!((0..100).all(|_| budget.withdraw(calm)));
    }

    #[test]
    fn little_traffic_may_retry() {
        let start = Instant::now();
        let budget = Budget::new(Allowance::default(), start);
        for second in 0..100 {
            let now = start + Duration::from_secs(second);
            budget.deposit(now);
            assert!(budget.has_some(now) && budget.withdraw(now), "{second}");
        }
    }

    #[test]
    fn an_old_calm_saves_nothing_up() {
        let start = Instant::now();
        let none_spare = Allowance {
            ratio: 0.5,
            reserve: 0,
        };
        let budget = Budget::new(none_spare, start);
        for _ in 0..1_000 {
            budget.deposit(start);
        }
        let later = start + Duration::from_secs(10);
        assert!(!budget.withdraw(later));
        budget.deposit(later);
        budget.deposit(later);
        assert_eq!((budget.withdraw(later), budget.withdraw(later)), (true, false));
    }
}
