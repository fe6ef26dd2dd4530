//! What is remembered of targets, and the choices made from it. No clock and no chance of its own: both are arguments.
//!
//! Only targets of configs and routes that balance, hedge, or have a breaker are remembered. A plain request costs nothing here.
//!
//! | file | what it holds |
//! |---|---|
//! | `circuit` | when a target is left alone; the essay and the diagram |
//! | `standing` | all that is known of one target, and a call under way |
//! | `pace`, `spread` | its first-token times: their average, and how they are spread |
//! | `budget` | what retries may add to the load |
//! | `choice`, `prefixes` | which of several targets is called |
//! | `window`, `hash` | counts over ten seconds; numbers that look like chance |

pub mod budget;
mod choice;
pub mod circuit;
mod hash;
mod pace;
mod prefixes;
pub mod spread;
pub mod standing;
mod window;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use self::{
    budget::Budget,
    choice::Turns,
    prefixes::Prefixes,
    standing::{STATES, Standing, View},
};
use crate::route::{leaf::Leaf, retry::Allowance};

/// Of one process; it outlives its confs.
#[derive(Debug)]
pub struct Health {
    /// Targets that are remembered. Clients can name keys and hosts, so that there is no end to how many are seen.
    capacity: usize,
    targets: Mutex<HashMap<u64, Known>>,
    /// Grows with every use.
    uses: AtomicU64,
    /// What retries may add to the load of the whole process.
    pub budget: Budget,
    turns: Mutex<Turns>,
    prefixes: Mutex<Prefixes>,
}

#[derive(Debug)]
struct Known {
    standing: Arc<Standing>,
    used: u64,
}

impl Default for Health {
    fn default() -> Self {
        Self::new(CAPACITY)
    }
}

impl Health {
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            targets: Mutex::default(),
            uses: AtomicU64::new(0),
            budget: Budget::default(),
            turns: Mutex::default(),
            prefixes: Mutex::default(),
        }
    }

    /// What is known of the target `id`. `label`: for the operator, without secrets; the first one counts.
    pub fn of(&self, id: u64, label: &str) -> Arc<Standing> {
        self.known(id, || Standing::new(label))
    }

    fn known(&self, id: u64, make: impl FnOnce() -> Standing) -> Arc<Standing> {
        let used = self.uses.fetch_add(1, Ordering::Relaxed);
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = targets.get_mut(&id) {
            known.used = used;
            return Arc::clone(&known.standing);
        }
        let standing = Arc::new(make());
        if targets.len() >= self.capacity {
            forget(&mut targets);
        }
        // All of them are in use: this call goes unremembered.
        if targets.len() < self.capacity {
            let standing = Arc::clone(&standing);
            targets.insert(id, Known { standing, used });
        }
        standing
    }

    /// Whether a call may be made that its request's first one has not paid for: a retry, or a hedge. Each target has its
    /// own budget beside the process's.
    pub fn may_retry(&self, standing: &Standing, allowance: Allowance, now: Instant) -> bool {
        self.budget.has_some(allowance, now)
            && standing.budget.withdraw(allowance, now)
            && self.budget.withdraw(allowance, now)
    }

    /// A request's first call to a target begins.
    pub fn first_call(&self, standing: &Standing, now: Instant) {
        self.budget.deposit(now);
        standing.budget.deposit(now);
    }

    /// How many targets are in which state. Their names are no labels: clients can make up as many as they like.
    pub fn states(&self, now: Instant) -> [(&'static str, i64); 3] {
        let views = self.views(now);
        STATES.map(|state| {
            let count = views.iter().filter(|view| view.state == state).count();
            (state, i64::try_from(count).unwrap_or(i64::MAX))
        })
    }

    /// What is known of every target, by label.
    pub fn views(&self, now: Instant) -> Vec<View> {
        let standings: Vec<Arc<Standing>> = {
            let targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
            let standings = targets.values().map(|known| &known.standing);
            standings.cloned().collect()
        };
        let mut views: Vec<View> = standings.iter().map(|one| one.view(now)).collect();
        views.sort_by(|one, other| one.label.cmp(&other.label));
        views
    }
}

/// Lets go of the quarter of the idle ones that was used longest ago: at once, so that not every new one has to look.
fn forget(targets: &mut HashMap<u64, Known>) {
    let is_idle = |known: &Known| Arc::strong_count(&known.standing) == 1;
    let idle = targets.values().filter(|known| is_idle(known));
    let mut uses: Vec<u64> = idle.map(|known| known.used).collect();
    let quarter = uses.len() / 4;
    if quarter < uses.len() {
        let (_, &mut last, _) = uses.select_nth_unstable(quarter);
        targets.retain(|_, known| known.used > last || !is_idle(known));
    }
}

/// The provider, and the model if the target names one.
pub fn label(leaf: &Leaf) -> String {
    let provider = leaf.provider.as_deref().unwrap_or("default");
    let model = leaf.overrides.get("model");
    let model = model.and_then(|model| serde_json::from_str::<String>(model.get()).ok());
    match model {
        Some(model) => format!("{provider}/{model}"),
        None => provider.to_owned(),
    }
}

/// Some hundred bytes each, and up to 5 KiB of first-token times.
const CAPACITY: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_known_again() {
        let (health, now) = (Health::default(), Instant::now());
        let call = health.of(1, "openai").begin(None, now);
        assert_eq!(health.of(1, "another word").outstanding(), 1);
        assert_eq!(health.of(2, "groq").outstanding(), 0);
        drop(call);
        let labels: Vec<String> = health
            .views(now)
            .into_iter()
            .map(|view| view.label)
            .collect();
        assert_eq!(labels, ["groq", "openai"]);
    }

    #[test]
    fn the_idle_ones_used_longest_ago_are_forgotten() {
        let (health, now) = (Health::new(8), Instant::now());
        let busy = health.of(0, "busy").begin(None, now);
        for id in 1..8 {
            health.of(id, "idle");
        }
        health.of(1, "used again");
        health.of(8, "new");
        let known = |id| health.targets.lock().unwrap().contains_key(&id);
        assert!(known(0), "busy");
        assert!(known(1), "used lately");
        assert!(known(8));
        assert!(!known(2));
        for id in 100..100_000 {
            health.of(id, "flood");
            assert!(health.targets.lock().unwrap().len() <= 8);
        }
        assert!(known(0));
        drop(busy);
    }

    #[test]
    fn where_all_are_busy_the_next_goes_unremembered() {
        let (health, now) = (Health::new(2), Instant::now());
        let calls: Vec<_> = (0..2)
            .map(|id| health.of(id, "").begin(None, now))
            .collect();
        let third = health.of(9, "").begin(None, now);
        assert_eq!(health.targets.lock().unwrap().len(), 2);
        drop((calls, third));
    }

    #[test]
    fn a_retry_is_paid_by_the_target_and_by_the_process() {
        let (health, now) = (Health::default(), Instant::now());
        let spare = Allowance {
            per_mille: 500,
            reserve: 0,
        };
        let (one, other) = (health.of(1, ""), health.of(2, ""));
        for _ in 0..4 {
            health.first_call(&one, now);
        }
        assert!(!health.may_retry(&other, spare, now), "it has had no calls");
        let paid = (0..9)
            .filter(|_| health.may_retry(&one, spare, now))
            .count();
        assert_eq!(paid, 2);
    }
}
