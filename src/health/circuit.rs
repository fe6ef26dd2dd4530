//! When a target is left alone.
//!
//! A target that has failed a while will fail the next request too, and each of these failures costs a client its time: a
//! connection that is refused little, one that stalls a whole deadline. So a few failures are enough to stop asking, and what
//! comes next goes to the others at once. Whether the target is back can only be learned by asking it, and one request is
//! enough for that: the others go on as if it were not.
//!
//! ```text
//!                    a failure that fills the row, or the share of the window;
//!                    a key that is refused
//!              ┌──────────────────────────────────────────────────┐
//!              │                                                  ▼
//!          ┌────────┐                                        ┌─────────┐
//!     ────▶│ closed │◀─── a success of a call that was ──────│  open   │◀────────────┐
//!          └────────┘     let through all the same           └─────────┘             │
//!              ▲                                                  │ the cooldown     │ it fails: the next cooldown
//!              │                                                  ▼ is over          │ is twice as long, up to 5 min
//!              │ its first token, or its end                 ┌─────────┐             │
//!              └─────────────────────────────────────────────│ probing │─────────────┘
//!                                                            └─────────┘
//!                                            one call at a time; what is cancelled leaves its place to the next
//! ```
//!
//! **What counts.** Failures are the statuses of `failure_status_codes` (5xx where none are named), and calls that brought no
//! answer. A 400 is the client's, and proof that the target lives. A cancelled call says nothing. 401 refuses the key, and so
//! every call of this target (the key is a part of what a target is): it opens at once. 403 counts as a failure, because some
//! providers say it of a prompt, and one client's must not shut the others out.
//!
//! **Two rules open it**, whichever is met first: so many failures in a row (`failure_threshold`), which catches the dead
//! quickly; such a share of the last ten seconds' calls (`failure_threshold_percentage`, from `minimum_requests` on), which
//! catches those that fail every third time and never five times in a row. Portkey's hosted service counts all failures since
//! the last opening instead of those in a row, which in the end opens on any target that is asked often enough.
//!
//! **Late news.** A call that began before the circuit opened, and ends after, says nothing about the target now.
//!
//! **All open.** When no target of a request is left, it goes on as if none were open: a gateway that refuses everything is
//! worse than one that tries. Such calls are not probes, but a success of theirs closes the circuit.
//!
//! **Cooldowns are spread** by up to a quarter, upwards only, so that many gateways do not probe in step.

use std::time::{Duration, Instant};

use super::{
    hash::mix,
    window::{Side, Window},
};
use crate::route::plan::Breaker;

/// Whether a target may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admits {
    Closed,
    /// By one call, to learn whether it is back.
    Probe,
    Open(Instant),
}

/// What came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Success,
    /// An answer that is none, by its status; whether it speaks against the target is the breaker's to say.
    Failure(u16),
    /// No connection, one that broke, or a deadline that passed.
    NoAnswer,
    /// 401 or 403.
    KeyRefused(u16),
}

/// As what a call was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Plain,
    Probe,
}

/// A call, as far as its circuit knows it.
#[derive(Clone, Copy, Debug)]
pub struct Passed {
    pub part: Part,
    pub since: Instant,
}

#[derive(Clone, Debug, Default)]
pub struct Circuit {
    state: State,
    /// Failures since the last success.
    row: u32,
    /// Left the good ones, right the bad ones.
    calls: Window,
    /// Openings since it was last closed.
    openings: u32,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Closed,
    Open {
        since: Instant,
        until: Instant,
        /// When the probe began that is under way.
        probe: Option<Instant>,
    },
}

impl Circuit {
    pub fn admits(&self, now: Instant) -> Admits {
        match self.state {
            State::Closed => Admits::Closed,
            State::Open { until, .. } if now < until => Admits::Open(until),
            State::Open { probe, .. } => {
                // A probe that hangs must not keep the next from being made.
                let hangs = probe.and_then(|began| began.checked_add(PROBE));
                hangs
                    .filter(|hangs| now < *hangs)
                    .map_or(Admits::Probe, Admits::Open)
            }
        }
    }

    /// As [`Circuit::admits`]; the probe is the caller's.
    pub fn claim(&mut self, now: Instant) -> Admits {
        let admits = self.admits(now);
        if let (Admits::Probe, State::Open { probe, .. }) = (admits, &mut self.state) {
            *probe = Some(now);
        }
        admits
    }

    /// The target answers: one that was left alone is back. Whether the answer comes to its end is yet to be seen.
    pub fn works(&mut self, call: Passed) {
        if let State::Open { since, .. } = self.state
            && call.since >= since
        {
            *self = Self::default();
        }
    }

    pub fn ended(&mut self, call: Passed, verdict: Verdict, breaker: &Breaker, now: Instant) {
        match (verdict, self.state) {
            (Verdict::Success, _) => self.good(call, now),
            (Verdict::Failure(status), _) if !fails(breaker, status) => self.good(call, now),
            (_, State::Open { probe, .. }) => {
                if call.part == Part::Probe && probe == Some(call.since) {
                    self.open(call, breaker, now);
                }
            }
            (verdict, State::Closed) => {
                self.row = self.row.saturating_add(1);
                self.calls.add(Side::Right, now);
                if verdict == Verdict::KeyRefused(401) || self.is_full(breaker, now) {
                    self.open(call, breaker, now);
                }
            }
        }
    }

    /// A call was given up: what it was to find out is not known.
    pub fn dropped(&mut self, call: Passed) {
        if let (Part::Probe, State::Open { probe, .. }) = (call.part, &mut self.state) {
            probe.take_if(|began| *began == call.since);
        }
    }

    fn good(&mut self, call: Passed, now: Instant) {
        self.works(call);
        self.row = 0;
        self.calls.add(Side::Left, now);
    }

    fn is_full(&self, breaker: &Breaker, now: Instant) -> bool {
        // Who names neither has the row.
        let row = match (breaker.failures, breaker.percentage) {
            (None, None) => Some(ROW),
            (row, _) => row,
        };
        row.is_some_and(|row| self.row >= row) || self.fails_too_often(breaker, now)
    }

    fn fails_too_often(&self, breaker: &Breaker, now: Instant) -> bool {
        let (good, bad) = self.calls.sums(now);
        let count = |count: u64| u32::try_from(count).map_or(f64::from(u32::MAX), f64::from);
        let all = good + bad;
        let is_enough = all >= breaker.minimum.unwrap_or(MINIMUM).into();
        let share = |limit: f64| count(bad) * 100.0 >= limit * count(all);
        is_enough && breaker.percentage.is_some_and(share)
    }

    fn open(&mut self, call: Passed, breaker: &Breaker, now: Instant) {
        let factor = 1_u32.checked_shl(self.openings).unwrap_or(u32::MAX);
        let base = breaker.cooldown.min(MAX_COOLDOWN);
        let cooldown = base.saturating_mul(factor).min(MAX_DOUBLED.max(base));
        // How long the call took, to the nanosecond, is as good a number as any drawn one.
        let took = now.saturating_duration_since(call.since).subsec_nanos();
        let spread = cooldown.mul_f64(SPREAD * mix(took.into()).unit());
        self.openings = self.openings.saturating_add(1);
        self.row = 0;
        self.calls.clear();
        self.state = State::Open {
            since: now,
            until: now.checked_add(cooldown + spread).unwrap_or(now),
            probe: None,
        };
    }
}

fn fails(breaker: &Breaker, status: u16) -> bool {
    match &breaker.statuses {
        Some(statuses) => statuses.contains(&status),
        None => status >= 500,
    }
}

/// Failures in a row, where a breaker names no rule.
const ROW: u32 = 5;
/// Calls below which a share says nothing, where a breaker does not say.
const MINIMUM: u32 = 10;
/// A cooldown is not doubled beyond this.
const MAX_DOUBLED: Duration = Duration::from_secs(300);
/// No conf's or client's cooldown is longer.
const MAX_COOLDOWN: Duration = Duration::from_secs(24 * 60 * 60);
/// Share of a cooldown that is added by chance, at most.
const SPREAD: f64 = 0.25;
/// A probe that has said nothing for so long has failed to prove anything.
const PROBE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker(seconds: u64) -> Breaker {
        Breaker {
            failures: Some(3),
            percentage: None,
            minimum: None,
            cooldown: Duration::from_secs(seconds),
            statuses: None,
        }
    }

    /// A circuit, the time, and what the table's steps do to them.
    struct Bench {
        circuit: Circuit,
        breaker: Breaker,
        now: Instant,
    }

    impl Bench {
        fn new(breaker: Breaker) -> Self {
            Self {
                circuit: Circuit::default(),
                breaker,
                now: Instant::now(),
            }
        }

        fn call(&mut self) -> Passed {
            let part = match self.circuit.claim(self.now) {
                Admits::Probe => Part::Probe,
                Admits::Closed | Admits::Open(_) => Part::Plain,
            };
            Passed {
                part,
                since: self.now,
            }
        }

        fn end(&mut self, call: Passed, verdict: Verdict) {
            self.circuit.ended(call, verdict, &self.breaker, self.now);
        }

        fn calls(&mut self, verdicts: &[Verdict]) {
            for verdict in verdicts {
                let call = self.call();
                self.end(call, *verdict);
            }
        }

        fn wait(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
        }

        fn is_open(&self) -> bool {
            matches!(self.circuit.admits(self.now), Admits::Open(_))
        }
    }

    const BAD: Verdict = Verdict::Failure(503);
    const GOOD: Verdict = Verdict::Success;

    #[test]
    fn what_opens_it() {
        let statuses = |statuses: &[u16]| Breaker {
            statuses: Some(statuses.into()),
            ..breaker(30)
        };
        let no_rule = Breaker {
            failures: None,
            ..breaker(30)
        };
        let limited = Verdict::Failure(429);
        let cases: [(Breaker, &[Verdict], bool); 14] = [
            (breaker(30), &[BAD, BAD], false),
            (breaker(30), &[BAD, BAD, BAD], true),
            (breaker(30), &[BAD, BAD, GOOD, BAD, BAD], false),
            (breaker(30), &[BAD, Verdict::NoAnswer, BAD], true),
            (breaker(30), &[Verdict::NoAnswer; 3], true),
            (breaker(30), &[Verdict::Failure(400); 9], false),
            (breaker(30), &[limited; 9], false),
            (breaker(30), &[BAD, BAD, Verdict::Failure(400), BAD], false),
            (statuses(&[429]), &[limited; 3], true),
            (statuses(&[429]), &[BAD; 9], false),
            (breaker(30), &[Verdict::KeyRefused(401)], true),
            (breaker(30), &[Verdict::KeyRefused(403); 2], false),
            (breaker(30), &[Verdict::KeyRefused(403); 3], true),
            (no_rule, &[BAD; 5], true),
        ];
        for (breaker, verdicts, opens) in cases {
            let about = format!("{breaker:?} {verdicts:?}");
            let mut bench = Bench::new(breaker);
            bench.calls(verdicts);
            assert_eq!(bench.is_open(), opens, "{about}");
        }
    }

    #[test]
    fn a_share_of_the_last_ten_seconds_opens_it() {
        let by_share = Breaker {
            failures: None,
            percentage: Some(50.0),
            minimum: Some(4),
            ..breaker(30)
        };
        let mut bench = Bench::new(by_share.clone());
        bench.calls(&[BAD, BAD, BAD]);
        assert!(!bench.is_open(), "three calls are too few");
        bench.calls(&[BAD]);
        assert!(bench.is_open());

        let mut bench = Bench::new(by_share.clone());
        bench.calls(&[GOOD, GOOD, GOOD, BAD, BAD]);
        assert!(!bench.is_open(), "two of five");
        bench.calls(&[BAD]);
        assert!(bench.is_open(), "three of six");

        let mut bench = Bench::new(by_share);
        bench.calls(&[GOOD, GOOD, GOOD, BAD, BAD]);
        bench.wait(11);
        bench.calls(&[BAD]);
        assert!(!bench.is_open(), "the others are past");
    }

    #[test]
    fn one_call_probes_and_closes_it() {
        let mut bench = Bench::new(breaker(30));
        bench.calls(&[BAD, BAD, BAD]);
        bench.wait(29);
        assert!(bench.is_open());
        bench.wait(9);
        let probe = bench.call();
        assert_eq!(probe.part, Part::Probe);
        assert!(bench.is_open(), "one is enough");
        bench.end(probe, GOOD);
        assert_eq!(bench.circuit.admits(bench.now), Admits::Closed);
        bench.calls(&[BAD, BAD]);
        assert!(!bench.is_open(), "the row begins anew");
    }

    #[test]
    fn each_failed_probe_doubles_the_cooldown_up_to_five_minutes() {
        let mut bench = Bench::new(breaker(30));
        bench.calls(&[BAD, BAD, BAD]);
        for seconds in [30, 60, 120, 240, 300, 300] {
            let Admits::Open(until) = bench.circuit.admits(bench.now) else {
                panic!("it is not open");
            };
            let cooldown = until - bench.now;
            let (least, most) = (seconds, seconds * 5 / 4);
            assert!(cooldown >= Duration::from_secs(least), "{cooldown:?}");
            assert!(cooldown <= Duration::from_secs(most), "{cooldown:?}");
            bench.now = until;
            bench.calls(&[BAD]);
        }
        bench.wait(400);
        bench.calls(&[GOOD, BAD, BAD, BAD]);
        bench.wait(38);
        assert!(!bench.is_open(), "a success forgets the doubling");
    }

    #[test]
    fn a_cancelled_probe_leaves_its_place_and_a_hanging_one_loses_it() {
        let mut bench = Bench::new(breaker(30));
        bench.calls(&[BAD, BAD, BAD]);
        bench.wait(40);
        let cancelled = bench.call();
        bench.circuit.dropped(cancelled);
        assert_eq!(bench.circuit.admits(bench.now), Admits::Probe);
        let hangs = bench.call();
        bench.wait(59);
        assert!(bench.is_open());
        bench.wait(1);
        let next = bench.call();
        assert_eq!(next.part, Part::Probe);
        bench.circuit.dropped(hangs);
        assert!(bench.is_open(), "the place is the next one's");
        bench.circuit.works(next);
        assert_eq!(bench.circuit.admits(bench.now), Admits::Closed);
    }

    #[test]
    fn late_news_is_no_news() {
        let mut bench = Bench::new(breaker(30));
        let (good, bad) = (bench.call(), bench.call());
        bench.wait(1);
        bench.calls(&[BAD, BAD, BAD]);
        bench.end(good, GOOD);
        assert!(bench.is_open(), "it began before");
        let Admits::Open(until) = bench.circuit.admits(bench.now) else {
            panic!("it is not open");
        };
        bench.wait(5);
        bench.end(bad, BAD);
        assert_eq!(bench.circuit.admits(bench.now), Admits::Open(until));
        // One that was let through because all were open.
        bench.calls(&[BAD]);
        assert_eq!(bench.circuit.admits(bench.now), Admits::Open(until));
        bench.calls(&[GOOD]);
        assert_eq!(bench.circuit.admits(bench.now), Admits::Closed);
    }

    #[test]
    fn a_probe_that_outlived_its_turn_is_late_news_too() {
        let mut bench = Bench::new(breaker(30));
        bench.calls(&[BAD, BAD, BAD]);
        bench.wait(40);
        let probe = bench.call();
        bench.circuit.works(probe);
        bench.wait(1);
        bench.calls(&[BAD, BAD, BAD]);
        let Admits::Open(until) = bench.circuit.admits(bench.now) else {
            panic!("it is not open");
        };
        bench.end(probe, BAD);
        bench.end(probe, GOOD);
        assert_eq!(bench.circuit.admits(bench.now), Admits::Open(until));
    }

    #[test]
    fn an_absurd_cooldown_is_bounded() {
        let mut bench = Bench::new(Breaker {
            cooldown: Duration::MAX,
            ..breaker(0)
        });
        bench.calls(&[BAD, BAD, BAD]);
        assert!(bench.is_open());
        bench.wait(2 * 24 * 60 * 60);
        assert!(!bench.is_open());
    }
}
