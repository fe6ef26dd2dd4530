//! Several keys of one provider: whose turn it is, and which are left alone for a while because the provider refused them.
//!
//! Keys take turns in proportion to their weights, smoothly (as nginx's upstreams do). One that the provider refused is set aside:
//!
//! | answer | for |
//! |---|---|
//! | 401 | 60 s: it is wrong or was taken back |
//! | 403 | 10 s: it lacks a right, though some providers say it of a prompt |
//! | 429 | as the answer says, from 1 s to 10 min; 10 s where it does not |
//!
//! When all are set aside, the one that is back first is used: no key is worse than none. No clock of its own: `now` is an
//! argument.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::provider::Secret;

/// The keys of one provider, at most [`MAX_KEYS`].
#[derive(Debug)]
pub struct KeyPool {
    keys: Box<[PooledKey]>,
    /// By place. It is locked for a few comparisons at a time.
    memory: Mutex<Box<[Memory]>>,
}

#[derive(Clone, Debug)]
pub struct PooledKey {
    /// For `provider_keys` of a client's key.
    pub name: Option<String>,
    pub secret: Secret,
    /// At least 1.
    pub weight: u32,
}

#[derive(Clone, Debug, Default)]
struct Memory {
    /// How much of a turn it is owed.
    credit: i64,
    aside: Option<Aside>,
    calls: u64,
    refusals: u64,
}

#[derive(Clone, Copy, Debug)]
struct Aside {
    since: Instant,
    until: Instant,
    refusal: Refusal,
}

/// How a provider refuses a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Wrong,
    Forbidden,
    /// And when it may be used again, if the answer says so.
    Limited(Option<Duration>),
}

impl Refusal {
    /// `None`: an answer of this status says nothing of the key.
    pub fn of(status: u16, retry_after: Option<Duration>) -> Option<Self> {
        match status {
            401 => Some(Self::Wrong),
            403 => Some(Self::Forbidden),
            429 => Some(Self::Limited(retry_after)),
            _ => None,
        }
    }

    fn rest(self) -> Duration {
        match self {
            Self::Wrong => WRONG,
            Self::Forbidden | Self::Limited(None) => SHORT,
            Self::Limited(Some(asked)) => asked.clamp(LEAST, MOST),
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Wrong => "wrong",
            Self::Forbidden => "forbidden",
            Self::Limited(_) => "limited",
        }
    }
}

/// A set of a pool's keys, by place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeySet(u64);

impl KeySet {
    fn has(self, place: usize) -> bool {
        self.0 & bit(place) != 0
    }

    fn add(&mut self, place: usize) {
        self.0 |= bit(place);
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

fn bit(place: usize) -> u64 {
    let place = u32::try_from(place).unwrap_or(u32::MAX);
    1_u64.checked_shl(place).unwrap_or_default()
}

/// A key in use for one call.
#[derive(Clone, Debug)]
pub struct TakenKey {
    pool: Arc<KeyPool>,
    place: usize,
    since: Instant,
    pub secret: Secret,
}

/// What the operator is shown of a key.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KeyView {
    /// The provider.
    pub target: String,
    /// The key's fingerprint.
    pub key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub state: &'static str,
    /// How long it stays set aside.
    pub back_in_ms: Option<u64>,
    pub calls: u64,
    pub refusals: u64,
}

impl KeyPool {
    /// Keys beyond [`MAX_KEYS`] are left out.
    pub fn new(mut keys: Vec<PooledKey>) -> Self {
        keys.truncate(MAX_KEYS);
        let memory = vec![Memory::default(); keys.len()].into();
        Self {
            keys: keys.into(),
            memory: Mutex::new(memory),
        }
    }

    /// The key of this name.
    pub fn named(&self, name: &str) -> Option<&Secret> {
        let mut keys = self.keys.iter();
        let key = keys.find(|key| key.name.as_deref() == Some(name));
        key.map(|key| &key.secret)
    }

    /// The key whose turn it is, of those that are not in `tried`; if all of these are set aside, the one that is back first.
    pub fn take(self: &Arc<Self>, tried: KeySet, now: Instant) -> Option<TakenKey> {
        let mut memory = self.memory();
        let place = self.turn(&mut memory, tried, now);
        let place = place.or_else(|| first_back(&memory, tried, now))?;
        let own = memory.get_mut(place)?;
        own.calls = own.calls.saturating_add(1);
        Some(TakenKey {
            pool: Arc::clone(self),
            place,
            since: now,
            secret: self.keys.get(place)?.secret.clone(),
        })
    }

    fn turn(&self, memory: &mut [Memory], tried: KeySet, now: Instant) -> Option<usize> {
        let mut sum = 0;
        let mut first: Option<(i64, usize)> = None;
        for (place, (key, own)) in self.keys.iter().zip(memory.iter_mut()).enumerate() {
            if tried.has(place) || own.is_aside(now) {
                continue;
            }
            own.credit += i64::from(key.weight);
            sum += i64::from(key.weight);
            if first.is_none_or(|(credit, _)| own.credit > credit) {
                first = Some((own.credit, place));
            }
        }
        let (_, place) = first?;
        memory.get_mut(place)?.credit -= sum;
        Some(place)
    }

    /// Whether there is a key that is neither in `tried` nor set aside.
    fn has_spare(&self, tried: KeySet, now: Instant) -> bool {
        let memory = self.memory();
        let mut keys = memory.iter().enumerate();
        keys.any(|(place, own)| !tried.has(place) && !own.is_aside(now))
    }

    /// Takes over what is known of the keys that `old` has too.
    pub fn adopt(&self, old: &Self) {
        let known = old.memory().clone();
        let mut memory = self.memory();
        for (key, own) in self.keys.iter().zip(memory.iter_mut()) {
            let is_same = |other: &PooledKey| other.secret.expose() == key.secret.expose();
            let place = old.keys.iter().position(is_same);
            if let Some(before) = place.and_then(|place| known.get(place)) {
                *own = Memory {
                    credit: 0,
                    ..before.clone()
                };
            }
        }
    }

    /// `fingerprint`: what stands for a key where people see it.
    pub fn views(
        &self,
        provider: &str,
        fingerprint: &dyn Fn(&Secret) -> String,
        now: Instant,
    ) -> Vec<KeyView> {
        let memory = self.memory();
        let view = |(key, own): (&PooledKey, &Memory)| {
            let aside = own.aside.filter(|aside| aside.until > now);
            let left = aside.map(|aside| aside.until.saturating_duration_since(now));
            KeyView {
                target: provider.to_owned(),
                key: fingerprint(&key.secret),
                name: key.name.clone(),
                state: aside.map_or("ready", |aside| aside.refusal.title()),
                back_in_ms: left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
                calls: own.calls,
                refusals: own.refusals,
            }
        };
        self.keys.iter().zip(memory.iter()).map(view).collect()
    }

    fn memory(&self) -> MutexGuard<'_, Box<[Memory]>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn is_aside(&self, now: Instant) -> bool {
        self.aside.is_some_and(|aside| aside.until > now)
    }
}

fn first_back(memory: &[Memory], tried: KeySet, now: Instant) -> Option<usize> {
    let keys = memory.iter().enumerate();
    let untried = keys.filter(|(place, _)| !tried.has(*place));
    let back = |own: &Memory| own.aside.map_or(now, |aside| aside.until);
    let first = untried.min_by_key(|(_, own)| back(own));
    first.map(|(place, _)| place)
}

impl TakenKey {
    /// The provider refused the key: it is set aside. Adds it to `tried`, and says whether another may be tried at once.
    pub fn refused(&self, refusal: Refusal, tried: &mut KeySet, now: Instant) -> bool {
        tried.add(self.place);
        self.set_aside(refusal, now);
        self.pool.has_spare(*tried, now)
    }

    fn set_aside(&self, refusal: Refusal, now: Instant) {
        let mut memory = self.pool.memory();
        let Some(own) = memory.get_mut(self.place) else {
            return;
        };
        own.refusals = own.refusals.saturating_add(1);
        let until = now.checked_add(refusal.rest()).unwrap_or(now);
        // Of calls at the same time, the one that asks for the longest wait counts.
        if own.aside.is_none_or(|aside| aside.until < until) {
            own.aside = Some(Aside {
                since: now,
                until,
                refusal,
            });
        }
    }

    /// The provider took the key. What it said of calls that began later still counts.
    pub fn worked(&self) {
        let mut memory = self.pool.memory();
        if let Some(own) = memory.get_mut(self.place) {
            own.aside.take_if(|aside| aside.since <= self.since);
        }
    }
}

/// As many as a [`KeySet`] holds.
pub const MAX_KEYS: usize = 64;
const WRONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_secs(10);
/// Bounds of what an answer may ask for: a provider's day must not take a key out for one.
const LEAST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(weights: &[u32]) -> Arc<KeyPool> {
        let key = |(place, weight): (usize, &u32)| PooledKey {
            name: Some(format!("k{place}")),
            secret: Secret::try_new(&format!("sk-{place}")).unwrap(),
            weight: *weight,
        };
        let keys = weights.iter().enumerate().map(key).collect();
        Arc::new(KeyPool::new(keys))
    }

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    /// The places of the next keys.
    fn turns(pool: &Arc<KeyPool>, count: usize, now: Instant) -> Vec<usize> {
        let take = |_| pool.take(KeySet::default(), now).unwrap().place;
        (0..count).map(take).collect()
    }

    fn refuse(pool: &Arc<KeyPool>, place: usize, status: u16, asked: Option<u64>, now: Instant) {
        let key = TakenKey {
            pool: pool.clone(),
            place,
            since: now,
            secret: pool.keys[place].secret.clone(),
        };
        let refusal = Refusal::of(status, asked.map(Duration::from_millis)).unwrap();
        key.refused(refusal, &mut KeySet::default(), now);
    }

    #[test]
    fn keys_take_turns_by_their_weights() {
        let now = Instant::now();
        assert_eq!(turns(&pool(&[1, 1, 1]), 7, now), [0, 1, 2, 0, 1, 2, 0]);
        // Spread, not in a row.
        assert_eq!(turns(&pool(&[5, 1, 1]), 7, now), [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn a_refused_key_is_set_aside_for_its_time_and_comes_back() {
        let start = Instant::now();
        for (status, asked, millis) in [
            (401, None, 60_000),
            (401, Some(5_000), 60_000),
            (403, None, 10_000),
            (429, None, 10_000),
            (429, Some(3_000), 3_000),
            (429, Some(0), 1_000),
            (429, Some(86_400_000), 600_000),
        ] {
            let pool = pool(&[1, 1]);
            refuse(&pool, 0, status, asked, start);
            let told = format!("{status} {asked:?}");
            assert_eq!(turns(&pool, 3, at(start, millis - 1)), [1, 1, 1], "{told}");
            let back = turns(&pool, 2, at(start, millis));
            assert!(back.contains(&0) && back.contains(&1), "{told}");
        }
        for status in [200, 400, 404, 408, 500, 503, 529] {
            assert_eq!(Refusal::of(status, None), None, "{status}");
        }
    }

    #[test]
    fn one_request_tries_each_key_once_and_none_that_is_set_aside() {
        let (pool, now) = (pool(&[1, 1, 1]), Instant::now());
        refuse(&pool, 1, 429, None, now);
        let mut tried = KeySet::default();
        let first = pool.take(tried, now).unwrap();
        assert!(first.refused(Refusal::Wrong, &mut tried, now));
        let second = pool.take(tried, now).unwrap();
        assert_eq!((first.place, second.place), (0, 2));
        assert!(
            !second.refused(Refusal::Wrong, &mut tried, now),
            "the last one is set aside"
        );
    }

    #[test]
    fn when_all_are_set_aside_the_first_to_be_back_is_used() {
        let (pool, now) = (pool(&[1, 1, 1]), Instant::now());
        refuse(&pool, 0, 401, None, now);
        refuse(&pool, 1, 429, Some(5_000), now);
        refuse(&pool, 2, 429, Some(7_000), now);
        assert_eq!(turns(&pool, 3, now), [1, 1, 1]);
        assert_eq!(turns(&pool, 2, at(now, 5_000)), [1, 1]);
        let back = turns(&pool, 2, at(now, 7_000));
        assert!(back.contains(&1) && back.contains(&2));
    }

    #[test]
    fn what_a_call_says_counts_from_its_begin() {
        let (pool, start) = (pool(&[1, 1]), Instant::now());
        let early = pool.take(KeySet::default(), start).unwrap();
        refuse(&pool, 0, 429, None, at(start, 10));
        early.worked();
        assert_eq!(turns(&pool, 2, at(start, 20)), [1, 1], "it began before");
        refuse(&pool, 0, 429, Some(1_000), at(start, 20));
        assert_eq!(
            turns(&pool, 2, at(start, 5_000)),
            [1, 1],
            "the longest counts"
        );
        refuse(&pool, 1, 401, None, at(start, 20));
        let late = pool.take(KeySet::default(), at(start, 30)).unwrap();
        assert_eq!(late.place, 0);
        late.worked();
        assert_eq!(turns(&pool, 2, at(start, 40)), [0, 0]);
    }

    #[test]
    fn a_reload_keeps_what_is_known_of_the_keys_that_stay() {
        let (old, now) = (pool(&[1, 1, 1]), Instant::now());
        refuse(&old, 0, 401, None, now);
        refuse(&old, 2, 401, None, now);
        let new = pool(&[1, 1]);
        new.adopt(&old);
        assert_eq!(turns(&new, 2, now), [1, 1]);
    }

    #[test]
    fn the_operator_sees_fingerprints() {
        let (pool, now) = (pool(&[1, 1]), Instant::now());
        turns(&pool, 3, now);
        refuse(&pool, 1, 429, Some(2_000), now);
        let views = pool.views("openai", &|_| "f00d".to_owned(), at(now, 500));
        let json = serde_json::to_value(&views).unwrap();
        let rows = serde_json::json!([
            {"target": "openai", "key": "f00d", "name": "k0", "state": "ready", "back_in_ms": null, "calls": 2, "refusals": 0},
            {"target": "openai", "key": "f00d", "name": "k1", "state": "limited", "back_in_ms": 1500, "calls": 1, "refusals": 1},
        ]);
        assert_eq!(json, rows);
        assert!(!format!("{pool:?}").contains("sk-"));
    }

    #[test]
    fn a_request_comes_to_an_end_with_as_many_keys_as_there_can_be() {
        let (full, now) = (pool(&[1; 65]), Instant::now());
        let mut tried = KeySet::default();
        let mut count = 0;
        while let Some(key) = full.take(tried, now) {
            count += 1;
            if !key.refused(Refusal::Forbidden, &mut tried, now) {
                break;
            }
        }
        assert_eq!(count, 64);
    }
}
