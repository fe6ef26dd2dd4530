//! What is remembered of a pursuit's targets and of their provider's keys: asked before a call, and what its failure adds.

use std::{sync::Arc, time::Instant};

use crate::{
    context::Context,
    error::{Error, Kind},
    health::{
        Health,
        circuit::Admits,
        label,
        standing::{Begun, Standing},
    },
    leg::Failed,
    pursuit::Pursuit,
    route::{
        plan::Attempt,
        retry::{Allowance, Outcome},
    },
};

/// Whether the call that failed is made again at once with another key of its provider's.
pub fn changes_key(
    context: &Context,
    pursuit: &mut Pursuit,
    failed: &Failed,
    outcome: &Outcome,
) -> bool {
    let is_answer = matches!(failed.error.kind(), Kind::Upstream(_));
    let key = context.ticket.key().filter(|_| is_answer);
    let changes = key.is_some_and(|key| pursuit.change_key(key, outcome, Instant::now()));
    changes && context.left().is_none_or(|left| !left.is_zero())
}

/// Goes on to the first target that is not left alone.
pub fn pass_over(health: &Health, pursuit: &mut Pursuit) {
    let now = Instant::now();
    pursuit.pass_over(|attempt| {
        let admits = || known(health, attempt).admits(now);
        attempt.breaker.is_some() && matches!(admits(), Admits::Open(_))
    });
}

/// The present target, if the number of its calls is limited, and to how many.
pub fn limited(pursuit: &Pursuit) -> Option<(u64, u32)> {
    let attempt = pursuit.attempt()?;
    Some((attempt.id, attempt.leaf.max_concurrent?))
}

/// Begins a call of the present target in what is remembered of it. Nothing is remembered where it would change nothing.
pub fn begin(health: &Health, pursuit: &mut Pursuit) -> Option<Begun> {
    let now = Instant::now();
    let attempt = pursuit.attempt().filter(|attempt| attempt.id != 0)?;
    let standing = known(health, attempt);
    if !pursuit.is_again() {
        health.first_call(&standing, now);
    }
    Some(standing.begin(attempt.breaker.as_ref(), now))
}

fn known(health: &Health, attempt: &Attempt) -> Arc<Standing> {
    health.of(attempt.id, &label(&attempt.leaf))
}

/// Whether a failure is the target's: not if the client left, or the call was refused before it was made.
pub fn speaks_of_target(error: &Error) -> bool {
    matches!(
        error.kind(),
        Kind::Dns | Kind::Connect | Kind::Tls | Kind::Timeout(_) | Kind::Broken | Kind::Upstream(_)
    )
}

/// Whether the budget has a retry left: storms must die.
pub fn may_retry(health: &Health, pursuit: &Pursuit, allowance: Allowance) -> bool {
    let Some(attempt) = pursuit.attempt().filter(|attempt| attempt.id != 0) else {
        return true;
    };
    let standing = known(health, attempt);
    health.may_retry(&standing, allowance, Instant::now())
}
