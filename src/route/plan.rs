//! One request's targets, in a row: what a config's tree comes to once its choices are made, so that the loop which tries them
//! needs no tree.
//!
//! ```text
//!  fallback                     0  config.targets[0]             failure -> 1
//!  ├─ openai                    1  config.targets[1].targets[0]  429 -> 2, failure -> 3
//!  ├─ fallback on 429     ──▶   2  config.targets[1].targets[1]  failure -> 3
//!  │  ├─ groq                   3  config.targets[2]
//!  │  └─ together-ai
//!  └─ vllm
//! ```

use std::{
    borrow::Cow,
    collections::BTreeMap,
    hash::{BuildHasher, Hash, RandomState},
    ops::Deref,
    sync::{Arc, LazyLock},
    time::Duration,
};

use http::HeaderMap;
use serde_json::{Value, value::RawValue};

use crate::{
    completion::fields::Field,
    error::Error,
    route::{
        Balance, Balanced, Route, Weighed,
        hedge::Hedge,
        leaf::{ClientKey, Leaf, ROOT},
        retry::{Outcome, Retry},
    },
};

/// A target, and what follows when it fails.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub leaf: Arc<Leaf>,
    /// What `x-portkey-last-used-option-index` tells.
    pub place: Cow<'static, str>,
    pub retry: Retry,
    /// Innermost strategy first: the first whose trigger fires says which attempt is next. An answer of 2xx ends the plan
    /// whatever stands here.
    pub jumps: Vec<Jump>,
    /// What is remembered of the target is remembered under this; 0: nothing is.
    pub id: u64,
    pub breaker: Option<Breaker>,
    /// The call that is made beside it if it keeps silent.
    pub spare: Option<Box<Spare>>,
}

/// A second call, and when it is made.
#[derive(Clone, Debug)]
pub struct Spare {
    pub hedge: Hedge,
    /// Whom it goes to: without retries, nor anything that follows it.
    pub attempt: Attempt,
}

impl Attempt {
    /// The same target without anything that follows its call.
    fn alone(&self) -> Self {
        Self {
            leaf: Arc::clone(&self.leaf),
            place: self.place.clone(),
            retry: Retry::default(),
            jumps: Vec::new(),
            id: self.id,
            breaker: self.breaker.clone(),
            spare: None,
        }
    }

    /// Has `other` called beside it, unless the target itself, or a strategy that stands nearer to it, says who is.
    fn hedge(&mut self, hedge: Hedge, other: &Self) {
        if self.spare.is_none() {
            let attempt = other.alone();
            self.spare = Some(Box::new(Spare { hedge, attempt }));
        }
    }

    /// Nothing that could be remembered of the only target of a request would change what is done with it.
    fn needs_no_memory(&self) -> bool {
        let Leaf { max_concurrent, .. } = *self.leaf;
        self.breaker.is_none()
            && self.retry.attempts == 0
            && max_concurrent.is_none()
            && self.spare.is_none()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jump {
    pub on: Trigger,
    /// The attempt that is next.
    pub to: usize,
}

/// What makes a strategy go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Any status that is not 2xx, and calls that bring none.
    Failure,
    Statuses(Arc<[u16]>),
}

impl Trigger {
    pub fn fires(&self, outcome: &Outcome) -> bool {
        let failed = !(200..300).contains(&outcome.status);
        match self {
            Self::Failure => failed,
            Self::Statuses(statuses) => failed && outcome.is_one_of(statuses),
        }
    }
}

/// `cb_config`: when a target is left alone for a while.
#[derive(Clone, Debug, PartialEq)]
pub struct Breaker {
    /// Failures in a row.
    pub failures: Option<u32>,
    /// Share of failures among the last calls, of 100.
    pub percentage: Option<f64>,
    /// Calls below which the share says nothing.
    pub minimum: Option<u32>,
    pub cooldown: Duration,
    /// `None`: 5xx.
    pub statuses: Option<Arc<[u16]>>,
}

/// A request's attempts, in the order of their places; never empty. One needs no allocation.
#[derive(Clone, Debug)]
pub enum Plan {
    One(Attempt),
    Many(Vec<Attempt>),
}

impl Plan {
    /// The plan of a request without a config.
    pub fn plain() -> Self {
        static PLAIN: LazyLock<Arc<Leaf>> = LazyLock::new(Arc::default);
        Self::One(Attempt {
            leaf: Arc::clone(&PLAIN),
            place: Cow::Borrowed(ROOT),
            retry: Retry::default(),
            jumps: Vec::new(),
            id: 0,
            breaker: None,
            spare: None,
        })
    }

    /// The attempt that every plan has.
    pub fn first(&self) -> Option<&Attempt> {
        <[Attempt]>::first(self)
    }

    /// The attempt after number `at`; `None`: its outcome is the request's answer.
    pub fn next(&self, at: usize, outcome: &Outcome) -> Option<usize> {
        let jumps = &self.get(at)?.jumps;
        let jump = jumps.iter().find(|jump| jump.on.fires(outcome));
        jump.map(|jump| jump.to)
    }
}

impl Deref for Plan {
    type Target = [Attempt];

    fn deref(&self) -> &[Attempt] {
        match self {
            Self::One(attempt) => std::slice::from_ref(attempt),
            Self::Many(attempts) => attempts,
        }
    }
}

/// What a request says that choices are made by.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub metadata: &'a BTreeMap<String, Value>,
    /// The body's fields, as the client sent them.
    pub params: &'a [Field<'a>],
    pub path: &'a str,
    pub headers: &'a HeaderMap,
    pub traits: Traits,
}

/// What of a request makes the same leaf another target.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traits {
    /// The client's key, for a leaf that takes it; 0: there is none.
    pub key: u64,
    /// The host that the client chose.
    pub host: u64,
    /// The model that the client asks for.
    pub model: u64,
}

impl<'a> Facts<'a> {
    /// A field of the body, unread.
    pub fn param(&self, name: &str) -> Option<&'a RawValue> {
        let mut params = self.params.iter();
        params.find(|(own, _)| own == name).map(|(_, value)| *value)
    }

    /// A field of the body that holds a text.
    pub fn text(&self, name: &str) -> Option<String> {
        let value = self.param(name)?;
        serde_json::from_str(value.get()).ok()
    }
}

/// Says which of a balanced node's targets is called.
pub type Choose<'a> = &'a mut dyn FnMut(&Balanced, &Facts<'_>) -> usize;

/// A number for a thing, the same for the same thing as long as the process lives, and not to be guessed outside: what one
/// client does must not count against another's targets.
pub fn identity(thing: &impl Hash) -> u64 {
    static SECRET: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    SECRET.hash_one(thing)
}

/// The attempts that `route` comes to. Err: no target is left to call.
pub fn plan(route: &Route, facts: &Facts<'_>, choose: Choose<'_>) -> Result<Plan, Error> {
    let mut attempts = Vec::new();
    flatten(route, facts, choose, &mut attempts)?;
    if let (Route::Leaf(_), [only]) = (route, attempts.as_mut_slice())
        && only.needs_no_memory()
    {
        only.id = 0;
    }
    match <[Attempt; 1]>::try_from(attempts) {
        Ok([one]) => Ok(Plan::One(one)),
        Err(many) => Ok(Plan::Many(many)),
    }
}

/// Adds the attempts of a node, at least one.
fn flatten(
    route: &Route,
    facts: &Facts<'_>,
    choose: Choose<'_>,
    attempts: &mut Vec<Attempt>,
) -> Result<(), Error> {
    match route {
        Route::Leaf(leaf) => attempts.push(attempt(leaf, facts.traits)),
        Route::Balance(balanced) => {
            let balanced = balanced.told(facts.traits);
            let at = choose(&balanced, facts);
            let chosen = balanced.targets.get(at);
            let chosen = chosen.or(balanced.targets.first()).ok_or_else(no_target)?;
            let start = attempts.len();
            flatten(&chosen.route, facts, choose, attempts)?;
            if let Some(hedge) = balanced.hedge
                && let Some(other) = another(&balanced, at, facts, choose)
            {
                let below = attempts.iter_mut().skip(start);
                below.for_each(|attempt| attempt.hedge(hedge, &other));
            }
        }
        Route::Conditional {
            conditions,
            default,
            targets,
        } => {
            let mut held = conditions.iter().filter(|(query, _)| query.holds(facts));
            let chosen = held.next().map(|(_, target)| *target).or(*default);
            let chosen = chosen.and_then(|target| targets.get(target));
            flatten(chosen.ok_or_else(unresolved)?, facts, choose, attempts)?;
        }
        Route::Fallback { on, targets, hedge } => {
            let (mut behind, mut failure) = (None, None);
            for target in targets {
                let start = attempts.len();
                // A choice that fails here is a failure of this target alone.
                if let Err(error) = flatten(target, facts, choose, attempts) {
                    failure = failure.or(Some(error));
                    continue;
                }
                let (before, added) = attempts.split_at_mut(start);
                for before in before.iter_mut().skip(behind.unwrap_or(start)) {
                    before.jumps.push(Jump {
                        on: on.clone(),
                        to: start,
                    });
                    if let (Some(hedge), Some(next)) = (hedge, added.first()) {
                        before.hedge(*hedge, next);
                    }
                }
                behind = Some(start);
            }
            if behind.is_none() {
                return Err(failure.unwrap_or_else(no_target));
            }
        }
    }
    Ok(())
}

/// A target beside the one at `but`, chosen among the others by chance: whatever the choice was made by, it made that one.
fn another(
    balanced: &Balanced,
    but: usize,
    facts: &Facts<'_>,
    choose: Choose<'_>,
) -> Option<Attempt> {
    let all = balanced.targets.iter().enumerate();
    let others = all.filter(|(at, target)| *at != but && target.weight > 0.0);
    let others = Balanced {
        mode: Balance::Weighted,
        targets: others.map(|(_, target)| target.clone()).collect(),
        ..*balanced
    };
    let chosen = others.targets.get(choose(&others, facts))?;
    let mut attempts = Vec::new();
    flatten(&chosen.route, facts, choose, &mut attempts).ok()?;
    attempts.into_iter().next()
}

impl Balanced {
    /// The same, each target under the identity that it has for a request of such traits.
    fn told(&self, traits: Traits) -> Self {
        let told = |target: &Weighed| Weighed {
            id: target.route.id_with(traits),
            ..target.clone()
        };
        Self {
            targets: self.targets.iter().map(told).collect(),
            ..self.clone()
        }
    }
}

impl Route {
    /// The identity of its first leaf.
    pub fn id_with(&self, traits: Traits) -> u64 {
        match self {
            Self::Leaf(leaf) => id_of(leaf, traits),
            Self::Fallback { targets, .. } | Self::Conditional { targets, .. } => {
                targets.first().map_or(0, |target| target.id_with(traits))
            }
            Self::Balance(balanced) => {
                let first = balanced.targets.first();
                first.map_or(0, |target| target.route.id_with(traits))
            }
        }
    }
}

/// What is remembered of a leaf for a request of such traits is remembered under this.
fn id_of(leaf: &Leaf, traits: Traits) -> u64 {
    let takes_key = leaf.key.is_none() && leaf.client_key != ClientKey::Never;
    let key = if takes_key { traits.key } else { 0 };
    let model = if leaf.names_model { 0 } else { traits.model };
    match (key, traits.host, model) {
        (0, 0, 0) => leaf.id,
        traits => identity(&(leaf.id, traits)),
    }
}

fn unresolved() -> Error {
    let message = "Query router did not resolve to any valid target";
    Error::invalid("x-portkey-config", message)
}

fn attempt(leaf: &Arc<Leaf>, traits: Traits) -> Attempt {
    let mut attempt = Attempt {
        leaf: Arc::clone(leaf),
        place: leaf.place.clone(),
        retry: leaf.retry.clone(),
        jumps: Vec::new(),
        id: id_of(leaf, traits),
        breaker: leaf.breaker.clone(),
        spare: None,
    };
    if let Some(hedge) = leaf.hedge {
        let again = attempt.alone();
        attempt.hedge(hedge, &again);
    }
    attempt
}

/// What a tree without a leaf comes to.
pub fn no_target() -> Error {
    Error::invalid("x-portkey-config", "The config has no target to call.")
}
