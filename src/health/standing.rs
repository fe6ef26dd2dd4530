//! What is remembered of one target.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    budget::Budget,
    circuit::{Admits, Circuit, Part, Passed, Verdict},
    pace::Pace,
    spread::{Awaited, Spread},
};
use serde::{Serialize, Serializer};

use crate::route::{plan::Breaker, retry::Outcome};

/// One target: shared by all requests that may call it.
#[derive(Debug)]
pub struct Standing {
    /// Provider and model, for the operator.
    pub label: Box<str>,
    /// Calls under way.
    outstanding: AtomicU32,
    /// Calls that ended, and those of them that failed.
    calls: AtomicU64,
    failures: AtomicU64,
    /// What retries may add to this target's load.
    pub budget: Budget,
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    circuit: Circuit,
    pace: Pace,
    /// Where a hedge asks for them.
    tokens: Spread,
    wholes: Spread,
}

impl Memory {
    fn spread(&mut self, awaited: Awaited) -> &mut Spread {
        match awaited {
            Awaited::Token => &mut self.tokens,
            Awaited::Whole => &mut self.wholes,
        }
    }
}

/// What the operator is shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct View {
    /// The provider, and the model if the target names one.
    #[serde(rename = "target")]
    pub label: String,
    pub state: &'static str,
    /// How long it will be left alone yet.
    #[serde(rename = "probed_in_ms", serialize_with = "millis")]
    pub probed_in: Option<Duration>,
    pub outstanding: u32,
    pub calls: u64,
    pub failures: u64,
    /// The moving average of its first-token times.
    #[serde(rename = "first_token_ms", serialize_with = "millis")]
    pub first_token: Option<Duration>,
}

fn millis<S: Serializer>(time: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs_f64() * 1e3).serialize(to)
}

impl Standing {
    pub fn new(label: &str) -> Self {
        Self {
            label: label.chars().take(MAX_LABEL).collect::<String>().into(),
            outstanding: AtomicU32::new(0),
            calls: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            budget: Budget::default(),
            memory: Mutex::default(),
        }
    }

    /// Whether the target may be called, without taking anything.
    pub fn admits(&self, now: Instant) -> Admits {
        self.memory().circuit.admits(now)
    }

    /// Begins a call, if `breaker` lets it through; Err: not before then. Without one, nothing is in its way.
    pub fn enter(
        self: &Arc<Self>,
        breaker: Option<&Breaker>,
        now: Instant,
    ) -> Result<Begun, Instant> {
        let admits = match breaker {
            Some(_) => self.memory().circuit.claim(now),
            None => Admits::Closed,
        };
        match admits {
            Admits::Closed => Ok(self.start(Part::Plain, breaker, now)),
            Admits::Probe => Ok(self.start(Part::Probe, breaker, now)),
            Admits::Open(until) => Err(until),
        }
    }

    /// Begins a call whatever the circuit says: all of its request's targets are open.
    pub fn begin(self: &Arc<Self>, breaker: Option<&Breaker>, now: Instant) -> Begun {
        let entered = self.enter(breaker, now);
        entered.unwrap_or_else(|_| self.start(Part::Plain, breaker, now))
    }

    fn start(self: &Arc<Self>, part: Part, breaker: Option<&Breaker>, now: Instant) -> Begun {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
        self.memory().pace.touch(now);
        Begun {
            standing: Arc::clone(self),
            breaker: breaker.cloned(),
            call: Passed { part, since: now },
            verdict: None,
        }
    }

    pub fn outstanding(&self) -> u32 {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// What one more call costs here, to be compared with others'.
    pub fn cost(&self, now: Instant) -> f64 {
        self.memory().pace.cost(self.outstanding(), now)
    }

    /// The time that a share of its calls stay below; `None`: too few are known.
    pub fn within(&self, awaited: Awaited, quantile: f64) -> Option<Duration> {
        self.memory().spread(awaited).within(quantile)
    }

    pub fn view(&self, now: Instant) -> View {
        let (admits, figure) = {
            let memory = self.memory();
            (memory.circuit.admits(now), memory.pace.figure())
        };
        let (state, probed_in) = match admits {
            Admits::Closed => (CLOSED, None),
            Admits::Probe => (PROBING, None),
            Admits::Open(until) => (OPEN, Some(until.saturating_duration_since(now))),
        };
        View {
            label: self.label.to_string(),
            state,
            probed_in,
            outstanding: self.outstanding(),
            calls: self.calls.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            first_token: figure,
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call under way. Dropped without a verdict, it was given up, and says nothing of its target.
#[derive(Debug)]
#[must_use = "the call counts as under way while this lives"]
pub struct Begun {
    standing: Arc<Standing>,
    breaker: Option<Breaker>,
    call: Passed,
    /// And when it was found.
    verdict: Option<(Verdict, Instant)>,
}

impl Begun {
    /// The first token is there, `elapsed` after the call began. A target that was probed is back: its stream may last.
    pub fn first_token(&mut self, elapsed: Duration) {
        let now = self.at(elapsed);
        let mut memory = self.standing.memory();
        memory.pace.sample(elapsed, now);
        if self.breaker.is_some() {
            memory.circuit.works(self.call);
        }
    }

    /// How long it took, for hedges that ask how long calls take.
    pub fn took(&self, awaited: Awaited, elapsed: Duration) {
        let now = self.at(elapsed);
        self.standing.memory().spread(awaited).add(elapsed, now);
    }

    /// Another call of its request answered before it had said anything. That it took longer than `elapsed` is known all the
    /// same, and nothing else.
    pub fn outrun(self, elapsed: Duration) {
        let now = self.at(elapsed);
        self.standing.memory().pace.sample(elapsed, now);
    }

    fn at(&self, elapsed: Duration) -> Instant {
        let since = self.call.since;
        since.checked_add(elapsed).unwrap_or(since)
    }

    pub fn ended(mut self, verdict: Verdict, now: Instant) {
        self.verdict = Some((verdict, now));
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let standing = &self.standing;
        standing.outstanding.fetch_sub(1, Ordering::Relaxed);
        let mut memory = standing.memory();
        let Some((verdict, now)) = self.verdict else {
            memory.circuit.dropped(self.call);
            return;
        };
        standing.calls.fetch_add(1, Ordering::Relaxed);
        if verdict.is_failure() {
            standing.failures.fetch_add(1, Ordering::Relaxed);
            let took = now.saturating_duration_since(self.call.since);
            memory.pace.penalise(took, now);
        }
        if let Some(breaker) = &self.breaker {
            memory.circuit.ended(self.call, verdict, breaker, now);
        }
    }
}

impl Verdict {
    /// Whether another target would have been the better choice: not for what is the client's own fault.
    fn is_failure(self) -> bool {
        match self {
            Self::Success => false,
            Self::Failure(status) => status >= 500 || status == 429,
            Self::NoAnswer | Self::KeyRefused(_) => true,
        }
    }
}

impl From<&Outcome> for Verdict {
    fn from(outcome: &Outcome) -> Self {
        match outcome.status {
            _ if outcome.transport => Self::NoAnswer,
            status @ (401 | 403) => Self::KeyRefused(status),
            200..=299 => Self::Success,
            status => Self::Failure(status),
        }
    }
}

const CLOSED: &str = "closed";
const PROBING: &str = "probing";
const OPEN: &str = "open";
/// The words for a circuit's state.
pub const STATES: [&str; 3] = [CLOSED, PROBING, OPEN];
/// Characters of a label: a client's own model name may be a part of it.
const MAX_LABEL: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Breaker {
        Breaker {
            failures: Some(2),
            percentage: None,
            minimum: None,
            cooldown: Duration::from_secs(30),
            statuses: None,
        }
    }

    fn standing() -> Arc<Standing> {
        Arc::new(Standing::new("openai/gpt"))
    }

    #[test]
    fn calls_under_way_are_counted_however_they_end() {
        let (standing, now) = (standing(), Instant::now());
        let one = standing.begin(None, now);
        let two = standing.begin(None, now);
        let three = standing.begin(None, now);
        assert_eq!(standing.outstanding(), 3);
        one.ended(Verdict::Success, now);
        two.ended(Verdict::Failure(500), now);
        drop(three);
        let view = standing.view(now);
        assert_eq!((view.outstanding, view.calls, view.failures), (0, 2, 1));
    }

    #[test]
    fn cancelled_calls_do_not_open_it() {
        let (standing, now) = (standing(), Instant::now());
        let breaker = breaker();
        for _ in 0..50 {
            drop(standing.enter(Some(&breaker), now).unwrap());
        }
        assert_eq!(standing.admits(now), Admits::Closed);
    }

    #[test]
    fn an_open_target_lets_one_probe_in_and_is_back_at_its_first_token() {
        let (standing, start) = (standing(), Instant::now());
        let breaker = breaker();
        for _ in 0..2 {
            let call = standing.enter(Some(&breaker), start).unwrap();
            call.ended(Verdict::NoAnswer, start);
        }
        let until = standing.enter(Some(&breaker), start).unwrap_err();
        assert_eq!(standing.view(start).state, "open");
        assert!(
            standing.enter(None, start).is_ok(),
            "who has no breaker is not stopped"
        );
        let mut probe = standing.enter(Some(&breaker), until).unwrap();
        assert!(standing.enter(Some(&breaker), until).is_err());
        probe.first_token(Duration::from_millis(10));
        assert_eq!(standing.view(until).state, "closed");
        // The stream that it was breaks later: a failure like any other.
        probe.ended(Verdict::NoAnswer, until + Duration::from_secs(20));
        assert_eq!(standing.admits(until), Admits::Closed);
    }

    #[test]
    fn who_was_outrun_is_known_to_be_slow_and_has_not_failed() {
        let (standing, now) = (standing(), Instant::now());
        let breaker = breaker();
        let second = Duration::from_secs(1);
        for _ in 0..40 {
            let call = standing.enter(Some(&breaker), now).unwrap();
            call.took(Awaited::Token, second);
            call.outrun(second);
        }
        let view = standing.view(now);
        assert_eq!(
            (view.state, view.calls, view.failures, view.outstanding),
            (CLOSED, 0, 0, 0)
        );
        assert_eq!(view.first_token, Some(second));
        assert!(standing.within(Awaited::Token, 0.9) >= Some(second));
        assert_eq!(standing.within(Awaited::Whole, 0.9), None);
    }

    #[test]
    fn all_open_are_called_all_the_same() {
        let (standing, now) = (standing(), Instant::now());
        let breaker = breaker();
        for _ in 0..2 {
            let call = standing.begin(Some(&breaker), now);
            call.ended(Verdict::Failure(500), now);
        }
        assert!(standing.enter(Some(&breaker), now).is_err());
        let call = standing.begin(Some(&breaker), now);
        call.ended(Verdict::Success, now);
        assert_eq!(standing.admits(now), Admits::Closed);
    }

    #[test]
    fn outcomes_become_verdicts() {
        let verdict = |status, transport| {
            Verdict::from(&Outcome {
                status,
                alias: None,
                transport,
                retry_after: None,
            })
        };
        assert_eq!(verdict(200, false), Verdict::Success);
        assert_eq!(verdict(204, false), Verdict::Success);
        assert_eq!(verdict(401, false), Verdict::KeyRefused(401));
        assert_eq!(verdict(403, false), Verdict::KeyRefused(403));
        assert_eq!(verdict(429, false), Verdict::Failure(429));
        assert_eq!(verdict(504, true), Verdict::NoAnswer);
        assert_eq!(verdict(200, true), Verdict::NoAnswer);
    }
}
