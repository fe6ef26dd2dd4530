//! What a request's calls ask of what is remembered of their targets, and what they add to it.

use std::{sync::Arc, time::Instant};

use crate::{
    error::{Error, Kind},
    health::{
        Health,
        circuit::{Admits, Verdict},
        label,
        standing::{Begun, Standing},
    },
    places::Place,
    pursuit::Pursuit,
    route::{
        plan::Attempt,
        retry::{Allowance, Outcome},
    },
};

/// What a call has of its target, for as long as it lasts.
#[derive(Debug, Default)]
pub struct Held {
    /// Its part in what is remembered; `None`: nothing is.
    pub begun: Option<Begun>,
    _place: Option<Place>,
}

impl Held {
    /// `place`: one of the target's, where they are limited.
    pub fn new(place: Option<Place>, begun: Option<Begun>) -> Self {
        Self {
            begun,
            _place: place,
        }
    }

    /// The call failed.
    pub fn failed(self, error: &Error, outcome: &Outcome) {
        if let Some(begun) = self.begun.filter(|_| speaks_of_target(error)) {
            begun.ended(Verdict::from(outcome), Instant::now());
        }
    }
}

/// Goes on to the first target that is not left alone.
pub fn pass_over(health: &Health, pursuit: &mut Pursuit) {
    let now = Instant::now();
    pursuit.pass_over(|attempt| matches!(admits(health, attempt, now), Admits::Open(_)));
}

/// Whether the circuit of a target lets a call through. Without one, nothing is in its way.
pub fn admits(health: &Health, attempt: &Attempt, now: Instant) -> Admits {
    match attempt.breaker {
        Some(_) => known(health, attempt).admits(now),
        None => Admits::Closed,
    }
}

/// The present target, if the number of its calls is limited, and to how many.
pub fn limited(attempt: &Attempt) -> Option<(u64, u32)> {
    Some((attempt.id, attempt.leaf.max_concurrent?))
}

/// Begins a call of a target in what is remembered of it. Nothing is remembered where it would change nothing.
pub fn begin(health: &Health, attempt: &Attempt, turn: Turn) -> Option<Begun> {
    if attempt.id == 0 {
        return None;
    }
    let (standing, now) = (known(health, attempt), Instant::now());
    if turn == Turn::First {
        health.first_call(&standing, now);
    }
    Some(standing.begin(attempt.breaker.as_ref(), now))
}

/// Whether a call is one that retries are measured by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    First,
    /// A retry, or a hedge.
    Again,
}

pub fn known(health: &Health, attempt: &Attempt) -> Arc<Standing> {
    health.of(attempt.id, &label(&attempt.leaf))
}

/// Whether a failure is the target's: not if the client left, or the call was refused before it was made.
fn speaks_of_target(error: &Error) -> bool {
    matches!(
        error.kind(),
        Kind::Dns | Kind::Connect | Kind::Tls | Kind::Timeout(_) | Kind::Broken | Kind::Upstream(_)
    )
}

/// Takes what a retry or a hedge of a target costs from the budget, if that has it: storms must die.
pub fn may_retry(health: &Health, attempt: &Attempt, allowance: Allowance) -> bool {
    let paid = || health.may_retry(&known(health, attempt), allowance, Instant::now());
    attempt.id == 0 || paid()
}
