//! The attempts of one completion: a target is called; when it fails, the same one again or the next, until an answer has begun.
//!
//! ```text
//!             ┌── wait ◀── again ◀──┐
//!             ▼                     │
//!  plan ──▶ call ──▶ answered     failed, and nothing of an answer is written
//!             ▲                     │
//!             └─ next target ◀──────┼──▶ refused: the last failure is the client's
//! ```
//!
//! What follows a failure is decided here, without IO; [`crate::reception`] makes the calls.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    config::headers::Directives,
    error::{Deadline, Error, Kind},
    exchange::Replay,
    leg::Failed,
    route::{
        plan::{Attempt, Plan},
        retry::{Backoff, Outcome, Tries, retry_after},
    },
};

/// A request on its way from target to target.
pub struct Pursuit {
    pub directives: Box<Directives>,
    pub body: Bytes,
    pub replay: Replay,
    plan: Plan,
    at: usize,
    tries: Tries,
}

/// What follows a failure.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The same target, after this time.
    Again(Duration),
    /// Another target, at once.
    Turn,
    /// Nothing: the failure is the request's.
    End,
}

impl Pursuit {
    pub fn new(
        directives: Box<Directives>,
        plan: Plan,
        (body, replay): (Bytes, Replay),
        backoff: Backoff,
    ) -> Self {
        Self {
            directives,
            body,
            replay,
            plan,
            at: 0,
            tries: Tries::new(backoff),
        }
    }

    /// What is tried now; `None`: a plan without a target, which is none.
    pub fn attempt(&self) -> Option<&Attempt> {
        self.plan.get(self.at)
    }

    /// Leaves out the targets of which `is_open` says that they are left alone, unless nothing else is left: then the present
    /// one is called as if none were.
    pub fn pass_over(&mut self, is_open: impl Fn(&Attempt) -> bool) {
        let mut at = self.at;
        while let Some(attempt) = self.plan.get(at) {
            if !is_open(attempt) {
                if self.at != at {
                    self.at = at;
                    self.tries.turn();
                }
                return;
            }
            match attempt.jumps.first() {
                Some(jump) => at = jump.to,
                None => return,
            }
        }
    }

    /// Whether the present target was called before.
    pub fn is_again(&self) -> bool {
        self.tries.told() != 0
    }

    /// Whether a failure of the present attempt may be followed by another.
    pub fn may_go_on(&self) -> bool {
        let more = |attempt: &Attempt| attempt.retry.attempts > 0 || !attempt.jumps.is_empty();
        self.attempt().is_some_and(more)
    }

    /// Takes note of a failure. `draw`: of [0, 1).
    pub fn after(&mut self, failed: &Failed, outcome: &Outcome, draw: f64) -> Step {
        if is_final(&failed.error) {
            return Step::End;
        }
        let Some(attempt) = self.plan.get(self.at) else {
            return Step::End;
        };
        if let Some(wait) = self.tries.after(&attempt.retry, outcome, draw) {
            return Step::Again(wait);
        }
        self.turn(outcome)
    }

    fn turn(&mut self, outcome: &Outcome) -> Step {
        match self.plan.next(self.at, outcome) {
            Some(next) => {
                self.at = next;
                self.tries.turn();
                Step::Turn
            }
            None => Step::End,
        }
    }

    /// The retry that was allowed is not made: the budget forbids it. What follows instead.
    pub fn forgo(&mut self, outcome: &Outcome) -> Step {
        self.tries.forgo();
        self.turn(outcome)
    }

    /// What `x-portkey-retry-attempt-count` says.
    pub fn retries(&self) -> i32 {
        self.tries.told()
    }
}

/// Whether no other call could help: the client has left, its time is over, or there is no socket for one.
fn is_final(error: &Error) -> bool {
    matches!(
        error.kind(),
        Kind::ClientGone | Kind::Timeout(Deadline::Total) | Kind::Exhausted
    )
}

/// A failure as retries and strategies see it. Lists of statuses are written for Portkey's gateway, which tells failures of
/// connections as 500 and 503, and those of time as 408: lists that name those mean ours.
pub fn outcome(failed: &Failed, now: u64) -> Outcome {
    let error = &failed.error;
    let head = failed.head.as_deref();
    let (status, alias, transport) = match error.kind() {
        // A status that is no answer and no error either, a 204 say, is told as one.
        Kind::Upstream(status) if status.as_u16() < 400 => (error.status().as_u16(), None, false),
        Kind::Upstream(status) => (status.as_u16(), None, false),
        Kind::Dns | Kind::Connect | Kind::Tls | Kind::Broken => (502, Some(500), true),
        Kind::Timeout(Deadline::Connect) => (504, Some(503), true),
        // A limit that the client set for the call is Portkey's 408, which is not tried again unless it is listed.
        Kind::Timeout(Deadline::Attempt) => (408, Some(504), false),
        Kind::Timeout(_) => (504, Some(408), true),
        // Lists are written for providers, which say it with 429.
        Kind::Full => (503, Some(429), false),
        _ => (error.status().as_u16(), None, false),
    };
    Outcome {
        status,
        alias,
        transport,
        retry_after: head.and_then(|head| retry_after(&head.headers, now)),
    }
}
