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
use crate::route::retry::Allowance;

/// The calls of the last ten seconds: left the first ones, right the retries.
#[derive(Debug, Default)]
pub struct Budget(Mutex<Window>);

impl Budget {
    /// A first call is made.
    pub fn deposit(&self, now: Instant) {
        self.with(|calls| calls.add(Side::Left, now));
    }

    /// Takes one retry, if there is one.
    pub fn withdraw(&self, allowance: Allowance, now: Instant) -> bool {
        self.with(|calls| {
            let allowed = has_room(allowance, calls.sums(now));
            if allowed {
                calls.add(Side::Right, now);
            }
            allowed
        })
    }

    /// Whether [`Budget::withdraw`] would give one.
    pub fn has_some(&self, allowance: Allowance, now: Instant) -> bool {
        self.with(|calls| has_room(allowance, calls.sums(now)))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Window) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn has_room(allowance: Allowance, (first, again): (u64, u64)) -> bool {
    // Parts per thousand: whole numbers have no rounding.
    let earned = first.saturating_mul(allowance.per_mille.into()) / 1_000;
    let reserve = u64::from(allowance.reserve).saturating_mul(SPAN);
    again < earned.saturating_add(reserve)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ALLOWANCE: Allowance = Allowance {
        per_mille: 200,
        reserve: 10,
    };

    #[test]
    fn a_storm_adds_a_fifth_and_the_reserve() {
        let start = Instant::now();
        let budget = Budget::default();
        let (mut calls, mut retries) = (0_u32, 0_u32);
        // 1,000 requests per second for 60 s; all fail, and each would be tried three times more.
        for millis in 0..60_000 {
            let now = start + Duration::from_millis(millis);
            budget.deposit(now);
            calls += 1;
            for _ in 0..3 {
                retries += u32::from(budget.withdraw(ALLOWANCE, now));
            }
        }
        assert!(retries <= calls / 5 + 60 * 10, "{retries} beside {calls}");
        assert!(retries >= calls / 5, "{retries}: what is allowed is given");
        // When the storm is over, what few fail are tried again as if it had not been.
        let calm = start + Duration::from_secs(75);
        assert!((0..100).all(|_| budget.withdraw(ALLOWANCE, calm)));
    }

    #[test]
    fn little_traffic_may_retry() {
        let start = Instant::now();
        let budget = Budget::default();
        for second in 0..100 {
            let now = start + Duration::from_secs(second);
            budget.deposit(now);
            assert!(
                budget.has_some(ALLOWANCE, now) && budget.withdraw(ALLOWANCE, now),
                "{second}"
            );
        }
    }

    #[test]
    fn an_old_calm_saves_nothing_up() {
        let start = Instant::now();
        let none_spare = Allowance {
            per_mille: 500,
            reserve: 0,
        };
        let budget = Budget::default();
        for _ in 0..1_000 {
            budget.deposit(start);
        }
        let later = start + Duration::from_secs(10);
        assert!(!budget.withdraw(none_spare, later));
        budget.deposit(later);
        budget.deposit(later);
        let taken = (0..3).filter(|_| budget.withdraw(none_spare, later));
        assert_eq!(taken.count(), 1);
    }
}
