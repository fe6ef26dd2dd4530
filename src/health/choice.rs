//! Which of several targets is called.
//!
//! Targets whose circuit is open are left out, unless all are; a nested strategy is open when all its targets are. What is left
//! keeps its proportions. No choice looks at more than the node's own targets, so that each takes a few hundred nanoseconds.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
    time::Instant,
};

use super::{
    Health,
    circuit::Admits,
    hash::{Hash, Mixed, mix, unit},
    label,
    prefixes::Beginnings,
    standing::Standing,
};
use crate::route::{
    Balance, Balanced, Route, StickyBy,
    plan::{Facts, Traits},
};

/// A target that may be chosen.
struct Seat {
    /// Its place in the node.
    at: usize,
    /// Above 0.
    weight: f64,
    id: u64,
    standing: Arc<Standing>,
}

/// Whose turn it is at the nodes that go round: of each, the credits of its targets, by their places.
#[derive(Debug, Default)]
pub struct Turns {
    nodes: HashMap<u64, HashMap<usize, f64>>,
}

impl Health {
    /// The place of the target that is called; `draw`: evenly from all numbers.
    pub fn choose(&self, balanced: &Balanced, facts: &Facts<'_>, now: Instant, draw: u64) -> usize {
        let seats = self.seats(balanced, facts.traits, now);
        let at = match &balanced.mode {
            Balance::Weighted => weighted(&seats, draw),
            Balance::RoundRobin => self.next_turn(balanced.id, &seats),
            Balance::LeastOutstanding => least(&seats, draw, |seat| {
                (f64::from(seat.standing.outstanding()) + 1.0) / seat.weight
            }),
            Balance::Latency => quicker_of_two(&seats, draw, now),
            Balance::Sticky { by } => match who(by, facts) {
                Some(who) => rendezvous(&seats, Hash::START.then(who.as_bytes()).end()),
                None => weighted(&seats, draw),
            },
            Balance::PrefixAffinity => match facts.param("prompt") {
                Some(prompt) => self.by_prefix(balanced.id, &seats, prompt.get().as_bytes()),
                None => weighted(&seats, draw),
            },
        };
        at.unwrap_or_default()
    }

    /// The targets that may be called; never empty, if one has a weight.
    fn seats(&self, balanced: &Balanced, traits: Traits, now: Instant) -> Vec<Seat> {
        let targets = balanced.targets.iter().enumerate();
        let weighing = targets.filter(|(_, target)| target.weight > 0.0);
        let mut seats: Vec<Seat> = weighing
            .map(|(at, target)| Seat {
                at,
                weight: target.weight,
                id: target.id,
                standing: self.first_standing(&target.route, target.id),
            })
            .collect();
        let is_open = |seat: &Seat| {
            let target = balanced.targets.get(seat.at);
            target.is_some_and(|target| self.is_open(&target.route, traits, now))
        };
        if !seats.iter().all(is_open) {
            seats.retain(|seat| !is_open(seat));
        }
        seats
    }

    fn first_standing(&self, route: &Route, id: u64) -> Arc<Standing> {
        match route {
            Route::Leaf(leaf) => self.of(id, &label(leaf)),
            _ => self.of(id, "nested"),
        }
    }

    /// Whether none of its targets may be called. Those without a breaker always may.
    fn is_open(&self, route: &Route, traits: Traits, now: Instant) -> bool {
        match route {
            Route::Leaf(leaf) => {
                let standing = || self.of(route.id_with(traits), &label(leaf));
                leaf.breaker.is_some() && matches!(standing().admits(now), Admits::Open(_))
            }
            Route::Fallback { targets, .. } => {
                let mut targets = targets.iter();
                targets.all(|target| self.is_open(target, traits, now))
            }
            // Which of them is called depends on more than their health.
            Route::Conditional { .. } => false,
            Route::Balance(balanced) => {
                let mut routes = balanced.targets.iter().map(|target| &target.route);
                routes.all(|route| self.is_open(route, traits, now))
            }
        }
    }

    /// Smooth weighted round robin, as nginx has it: each turn credits every target with its weight, and the one with the most
    /// pays for all. Equal weights take strict turns; 5, 1, 1 never call the first five times in a row.
    fn next_turn(&self, node: u64, seats: &[Seat]) -> Option<usize> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if turns.nodes.len() >= MAX_NODES && !turns.nodes.contains_key(&node) {
            turns.nodes.clear();
        }
        let credits = turns.nodes.entry(node).or_default();
        credits.retain(|at, _| seats.iter().any(|seat| seat.at == *at));
        let (mut sum, mut best) = (0.0, None);
        for seat in seats {
            let credit = credits.entry(seat.at).or_default();
            *credit += seat.weight;
            sum += seat.weight;
            match best {
                Some((most, _)) if most >= *credit => {}
                _ => best = Some((*credit, seat)),
            }
        }
        let (_, chosen) = best?;
        if let Some(credit) = credits.get_mut(&chosen.at) {
            *credit -= sum;
        }
        Some(chosen.at)
    }

    /// The target that saw the prompt's beginning, unless it has more than its share to do: then the next in the order that the
    /// beginning's hash gives, which so becomes the second one that knows it.
    fn by_prefix(&self, node: u64, seats: &[Seat], prompt: &[u8]) -> Option<usize> {
        let beginnings = Beginnings::of(node, prompt);
        let mut prefixes = self.prefixes.lock().unwrap_or_else(PoisonError::into_inner);
        let known = prefixes.find(&beginnings);
        let home = known.and_then(|id| seats.iter().find(|seat| seat.id == id));
        let limit = Limit::of(seats);
        if let Some(home) = home.filter(|home| limit.admits(home)) {
            prefixes.note(&beginnings, home.id);
            return Some(home.at);
        }
        let by_hash = ranked(seats, beginnings.longest());
        let free = by_hash.iter().find(|seat| limit.admits(seat));
        let chosen = free.or(by_hash.first())?;
        match home {
            Some(_) => prefixes.note(&beginnings, chosen.id),
            None => prefixes.replace(&beginnings, chosen.id),
        }
        Some(chosen.at)
    }
}

/// Bounded load: no target gets a quarter more than its share of the calls under way. (Mirrokni, Thorup, Zadimoghaddam,
/// "Consistent Hashing with Bounded Loads", 2016.)
struct Limit {
    calls: f64,
    weights: f64,
}

impl Limit {
    fn of(seats: &[Seat]) -> Self {
        let outstanding = |seat: &Seat| f64::from(seat.standing.outstanding());
        Self {
            calls: seats.iter().map(outstanding).sum(),
            weights: seats.iter().map(|seat| seat.weight).sum(),
        }
    }

    fn admits(&self, seat: &Seat) -> bool {
        let share = (self.calls + 1.0) * seat.weight / self.weights;
        let limit = (share * OVER_SHARE).ceil().max(FREE_CALLS);
        f64::from(seat.standing.outstanding()) < limit
    }
}

/// Whom a sticky choice goes by.
fn who(by: &StickyBy, facts: &Facts<'_>) -> Option<String> {
    let who = match by {
        StickyBy::User => facts.text("user"),
        StickyBy::Header(name) => {
            let value = facts.headers.get(name)?;
            value.to_str().ok().map(str::to_owned)
        }
    };
    who.filter(|who| !who.is_empty())
}

fn weighted(seats: &[Seat], draw: u64) -> Option<usize> {
    let sum: f64 = seats.iter().map(|seat| seat.weight).sum();
    let mut left = unit(draw) * sum;
    let found = seats.iter().find(|seat| {
        left -= seat.weight;
        left < 0.0
    });
    found.or(seats.last()).map(|seat| seat.at)
}

/// The seat with the least `cost`; of equal ones, any.
fn least(seats: &[Seat], draw: u64, cost: impl Fn(&Seat) -> f64) -> Option<usize> {
    let least = seats.iter().map(&cost).fold(f64::INFINITY, f64::min);
    let equal: Vec<&Seat> = seats.iter().filter(|seat| cost(seat) <= least).collect();
    let equal = if equal.is_empty() {
        seats.iter().collect()
    } else {
        equal
    };
    equal.get(below(draw, equal.len())).map(|seat| seat.at)
}

/// Two by chance, and of these the one that costs less: nearly as good as looking at all, and no herd, for what everybody takes
/// for the best is not asked by everybody.
fn quicker_of_two(seats: &[Seat], draw: u64, now: Instant) -> Option<usize> {
    let first = below(draw, seats.len());
    let second = below(mix(draw).0, seats.len().saturating_sub(1));
    let second = if second >= first { second + 1 } else { second };
    let one = seats.get(first)?;
    let Some(other) = seats.get(second) else {
        return Some(one.at);
    };
    let cost = |seat: &Seat| seat.standing.cost(now) / seat.weight;
    let chosen = if cost(other) < cost(one) { other } else { one };
    Some(chosen.at)
}

/// A number below `count`.
fn below(draw: u64, count: usize) -> usize {
    let count = u64::try_from(count).unwrap_or(u64::MAX).max(1);
    usize::try_from(mix(draw).0 % count).unwrap_or_default()
}

/// Weighted rendezvous hashing: the target with the highest score of its own for this key. When one goes, only its keys move;
/// when one comes, it gets its share from all.
fn rendezvous(seats: &[Seat], key: Mixed) -> Option<usize> {
    let best = seats.iter().max_by(|one, other| {
        let (one, other) = (score(one, key), score(other, key));
        one.total_cmp(&other)
    });
    best.map(|seat| seat.at)
}

fn ranked(seats: &[Seat], key: Mixed) -> Vec<&Seat> {
    let mut ranked: Vec<&Seat> = seats.iter().collect();
    ranked.sort_by(|one, other| score(other, key).total_cmp(&score(one, key)));
    ranked
}

fn score(seat: &Seat, key: Mixed) -> f64 {
    // Of (0, 1), so that its logarithm is a number below 0.
    let unit = key.with(seat.id).unit().clamp(1e-12, 1.0 - 1e-12);
    -seat.weight / unit.ln()
}

/// How far above its share of the calls under way a target may go, as a factor.
const OVER_SHARE: f64 = 1.25;
/// Calls that a target takes whatever its share: a few are no crowd.
const FREE_CALLS: f64 = 4.0;
/// Nodes whose turn is remembered. Clients' configs are nodes too: when there are too many, all begin anew.
const MAX_NODES: usize = 1_024;

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use http::{HeaderMap, HeaderName};
    use serde_json::value::RawValue;

    use super::*;
    use crate::{
        completion::fields::Field,
        health::{circuit::Verdict, standing::Begun},
        route::{
            Weighed,
            leaf::Leaf,
            plan::{Breaker, Trigger},
        },
    };

    fn leaf(id: u64) -> Route {
        Route::Leaf(Arc::new(Leaf {
            id,
            breaker: Some(breaker()),
            ..Leaf::default()
        }))
    }

    fn breaker() -> Breaker {
        Breaker {
            failures: Some(1),
            percentage: None,
            minimum: None,
            cooldown: Duration::from_secs(30),
            statuses: None,
        }
    }

    /// A node of leaves with the ids 1, 2, … and these weights.
    fn node(mode: Balance, weights: &[f64]) -> Balanced {
        let weighed = |(at, weight): (usize, &f64)| Weighed {
            weight: *weight,
            route: Arc::new(leaf(at as u64 + 1)),
            id: at as u64 + 1,
        };
        Balanced {
            hedge: None,
            mode,
            targets: weights.iter().enumerate().map(weighed).collect(),
            id: 99,
        }
    }

    /// What requests say, and draws in a row that is the same each time.
    struct Bench {
        health: Health,
        headers: HeaderMap,
        params: Vec<(String, Box<RawValue>)>,
        now: Instant,
        draws: u64,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                health: Health::default(),
                headers: HeaderMap::new(),
                params: Vec::new(),
                now: Instant::now(),
                draws: 0,
            }
        }

        fn says(&mut self, name: &str, value: &str) {
            self.params.clear();
            let value = serde_json::value::to_raw_value(value).unwrap();
            self.params.push((name.to_owned(), value));
        }

        fn choose(&mut self, node: &Balanced) -> usize {
            self.draws += 1;
            let metadata = BTreeMap::new();
            let params: Vec<Field<'_>> = self
                .params
                .iter()
                .map(|(name, value)| (name.as_str().into(), &**value))
                .collect();
            let facts = Facts {
                metadata: &metadata,
                params: &params,
                path: "/v1/completions",
                headers: &self.headers,
                traits: Traits::default(),
            };
            let draw = mix(self.draws).0;
            self.health.choose(node, &facts, self.now, draw)
        }

        fn counts(&mut self, node: &Balanced, times: usize) -> Vec<usize> {
            let mut counts = vec![0; node.targets.len()];
            for _ in 0..times {
                counts[self.choose(node)] += 1;
            }
            counts
        }

        fn begin(&self, id: u64) -> Begun {
            self.health.of(id, "").begin(Some(&breaker()), self.now)
        }

        fn break_down(&self, id: u64) {
            self.begin(id).ended(Verdict::NoAnswer, self.now);
        }
    }

    fn modes() -> [Balance; 6] {
        let by = StickyBy::User;
        [
            Balance::Weighted,
            Balance::RoundRobin,
            Balance::LeastOutstanding,
            Balance::Latency,
            Balance::Sticky { by },
            Balance::PrefixAffinity,
        ]
    }

    #[test]
    fn chance_keeps_to_the_weights() {
        let mut bench = Bench::new();
        let counts = bench.counts(&node(Balance::Weighted, &[0.7, 0.2, 0.0, 0.1]), 10_000);
        for (count, expected) in counts.iter().zip([7_000, 2_000, 0, 1_000]) {
            assert!(count.abs_diff(expected) < 150, "{counts:?}");
        }
    }

    #[test]
    fn open_targets_are_left_out_of_every_mode_and_their_share_goes_to_the_others() {
        for mode in modes() {
            let mut bench = Bench::new();
            let node = node(mode.clone(), &[1.0, 1.0, 1.0]);
            bench.break_down(2);
            for user in 0..200 {
                let name = if user % 2 == 0 { "user" } else { "prompt" };
                bench.says(name, &format!("{user}"));
                assert_ne!(bench.choose(&node), 1, "{mode:?}");
            }
            // All open: as if none were.
            bench.break_down(1);
            bench.break_down(3);
            let mut seen = vec![0; 3];
            for user in 0..200 {
                bench.says(
                    if matches!(mode, Balance::Sticky { .. }) {
                        "user"
                    } else {
                        "prompt"
                    },
                    &format!("{user}"),
                );
                let at = bench.choose(&node);
                seen[at] += 1;
            }
            assert!(seen.iter().all(|count| *count > 0), "{mode:?} {seen:?}");
        }
    }

    #[test]
    fn no_mode_chooses_a_target_without_weight_or_fails_on_few() {
        for mode in modes() {
            let mut bench = Bench::new();
            bench.says("prompt", "x");
            let counts = bench.counts(&node(mode.clone(), &[0.0, 1.0]), 50);
            assert_eq!(counts, [0, 50], "{mode:?}");
            assert_eq!(bench.choose(&node(mode.clone(), &[3.0])), 0);
            assert_eq!(bench.choose(&node(mode, &[])), 0);
        }
    }

    #[test]
    fn turns_are_strict_for_equals_and_smooth_for_others() {
        let mut bench = Bench::new();
        let turns = |bench: &mut Bench, weights: &[f64], count| {
            let node = node(Balance::RoundRobin, weights);
            (0..count).map(|_| bench.choose(&node)).collect::<Vec<_>>()
        };
        assert_eq!(turns(&mut bench, &[1.0; 3], 6), [0, 1, 2, 0, 1, 2]);
        let mut bench = Bench::new();
        assert_eq!(
            turns(&mut bench, &[5.0, 1.0, 1.0], 7),
            [0, 0, 1, 0, 2, 0, 0]
        );
        let mut bench = Bench::new();
        assert_eq!(turns(&mut bench, &[0.5, 0.25, 0.25], 4), [0, 1, 2, 0]);
    }

    #[test]
    fn turns_go_on_around_an_open_target_and_without_a_burst_when_it_is_back() {
        let mut bench = Bench::new();
        let node = node(Balance::RoundRobin, &[1.0; 3]);
        bench.break_down(1);
        assert_eq!(bench.counts(&node, 100), [0, 50, 50]);
        bench.begin(1).ended(Verdict::Success, bench.now);
        assert_eq!(bench.counts(&node, 9), [3, 3, 3]);
    }

    #[test]
    fn the_idlest_target_for_its_weight_is_called() {
        let mut bench = Bench::new();
        let even = node(Balance::LeastOutstanding, &[1.0; 3]);
        let calls = [bench.begin(1), bench.begin(1), bench.begin(3)];
        assert_eq!(bench.counts(&even, 20), [0, 20, 0]);
        let heavy = node(Balance::LeastOutstanding, &[4.0, 1.0, 1.0]);
        assert_eq!(
            bench.counts(&heavy, 20),
            [20, 0, 0],
            "3/4 of a call against 1"
        );
        drop(calls);
        let counts = bench.counts(&even, 3_000);
        assert!(
            counts.iter().all(|count| (900..1_100).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn the_quicker_of_two_is_called_and_the_slow_one_tried_again_in_time() {
        let mut bench = Bench::new();
        let node = node(Balance::Latency, &[1.0; 3]);
        for (id, millis) in [(1, 100), (2, 110), (3, 2_000)] {
            let mut call = bench.begin(id);
            call.first_token(Duration::from_millis(millis));
            call.ended(Verdict::Success, bench.now);
        }
        let counts = bench.counts(&node, 3_000);
        assert_eq!(counts[2], 0, "{counts:?}: there always is a quicker one");
        assert!(counts[0] > 1_800 && counts[1] > 800, "{counts:?}");
        // A minute later, the two quick ones being called all the time.
        for second in 0..60 {
            bench.now += Duration::from_secs(1);
            for id in [1, 2] {
                let mut call = bench.begin(id);
                call.first_token(Duration::from_millis(100));
                call.ended(Verdict::Success, bench.now);
            }
            if second == 5 {
                assert_eq!(bench.counts(&node, 100)[2], 0);
            }
        }
        assert!(bench.counts(&node, 100)[2] > 30, "it may have recovered");
        let probing = bench.begin(3);
        assert_eq!(bench.counts(&node, 100)[2], 0, "one call finds that out");
        drop(probing);
    }

    #[test]
    fn two_quick_targets_share_by_their_load() {
        // Each call takes its target's time; the number under way is kept at 20.
        let mut bench = Bench::new();
        let node = node(Balance::Latency, &[1.0; 2]);
        let times = [100, 300];
        let mut under_way: Vec<(Instant, usize, Begun)> = Vec::new();
        let mut counts = [0_u32; 2];
        for _ in 0..20_000 {
            bench.now += Duration::from_millis(5);
            let now = bench.now;
            let (over, still): (Vec<_>, Vec<_>) =
                under_way.into_iter().partition(|call| call.0 <= now);
            under_way = still;
            for (_, at, mut call) in over {
                call.first_token(Duration::from_millis(times[at]));
                call.ended(Verdict::Success, now);
            }
            while under_way.len() < 20 {
                let at = bench.choose(&node);
                counts[at] += 1;
                let end = now + Duration::from_millis(times[at]);
                under_way.push((end, at, bench.begin(at as u64 + 1)));
            }
        }
        let share = f64::from(counts[0]) / f64::from(counts[0] + counts[1]);
        assert!((0.70..0.95).contains(&share), "{counts:?}");
    }

    #[test]
    fn the_same_client_stays_and_few_move_when_the_targets_change() {
        let mut bench = Bench::new();
        let by = StickyBy::User;
        let three = node(Balance::Sticky { by: by.clone() }, &[1.0, 1.0, 2.0]);
        let four = node(Balance::Sticky { by }, &[1.0, 1.0, 2.0, 1.0]);
        let (mut counts, mut moved) = ([0_u32; 3], 0);
        for user in 0..4_000 {
            bench.says("user", &format!("user-{user}"));
            let at = bench.choose(&three);
            assert_eq!(bench.choose(&three), at);
            counts[at] += 1;
            let then = bench.choose(&four);
            assert!(then == at || then == 3, "only to the new one");
            moved += u32::from(then == 3);
        }
        for (count, expected) in counts.iter().zip([1_000, 1_000, 2_000_u32]) {
            assert!(count.abs_diff(expected) < 120, "{counts:?}");
        }
        assert!(moved.abs_diff(800) < 100, "{moved}");
    }

    #[test]
    fn a_client_is_known_by_a_header_and_chance_serves_those_who_have_none() {
        let mut bench = Bench::new();
        let by = StickyBy::Header(HeaderName::from_static("x-tenant"));
        let node = node(Balance::Sticky { by }, &[1.0; 4]);
        let counts = bench.counts(&node, 400);
        assert!(counts.iter().all(|count| *count > 50), "{counts:?}");
        bench.headers.insert("x-tenant", "one".parse().unwrap());
        let counts = bench.counts(&node, 400);
        assert!(counts.contains(&400), "{counts:?}");
    }

    #[test]
    fn prompts_that_start_alike_meet_until_their_target_has_more_than_its_share() {
        let mut bench = Bench::new();
        let node = node(Balance::PrefixAffinity, &[1.0; 3]);
        let prompt = |tail: usize| format!("{}{tail}", "All about foxes. ".repeat(80));
        bench.says("prompt", &prompt(0));
        let home = bench.choose(&node);
        for tail in 0..20 {
            bench.says("prompt", &prompt(tail));
            assert_eq!(bench.choose(&node), home);
        }
        let mut calls = Vec::new();
        let mut counts = [0_usize; 3];
        for tail in 0..90 {
            bench.says("prompt", &prompt(tail));
            let at = bench.choose(&node);
            counts[at] += 1;
            calls.push(bench.begin(at as u64 + 1));
        }
        // 30 is a third of them; a quarter more is the limit.
        assert!(counts.iter().all(|count| *count <= 39), "{counts:?}");
        assert!(counts[home] >= 30, "{counts:?}");
        calls.clear();
        assert_eq!(bench.choose(&node), home, "the crowd has gone");
        // While it is away another learns the prompt, and keeps it.
        bench.break_down(home as u64 + 1);
        let second = bench.choose(&node);
        assert_ne!(second, home);
        bench
            .begin(home as u64 + 1)
            .ended(Verdict::Success, bench.now);
        assert_eq!(bench.choose(&node), second);
    }

    #[test]
    fn different_prompts_are_spread() {
        let mut bench = Bench::new();
        let node = node(Balance::PrefixAffinity, &[1.0, 1.0, 2.0]);
        let mut counts = [0_usize; 3];
        for number in 0..4_000 {
            bench.says("prompt", &format!("{number} {}", "words ".repeat(100)));
            counts[bench.choose(&node)] += 1;
        }
        for (count, expected) in counts.iter().zip([1_000, 1_000, 2_000]) {
            assert!(count.abs_diff(expected) < 120, "{counts:?}");
        }
    }

    #[test]
    fn a_nested_strategy_is_open_when_all_its_targets_are() {
        let mut bench = Bench::new();
        let nested = Route::Fallback {
            hedge: None,
            on: Trigger::Failure,
            targets: vec![leaf(1), leaf(2)],
        };
        let node = Balanced {
            hedge: None,
            mode: Balance::Weighted,
            targets: vec![
                Weighed {
                    weight: 1.0,
                    route: Arc::new(nested),
                    id: 1,
                },
                Weighed {
                    weight: 1.0,
                    route: Arc::new(leaf(3)),
                    id: 3,
                },
            ],
            id: 5,
        };
        bench.break_down(1);
        assert!(bench.counts(&node, 100)[0] > 20);
        bench.break_down(2);
        assert_eq!(bench.counts(&node, 100), [0, 100]);
    }
}
