//! From tallies to figures: what a report says, whether as a table, as JSON or as HTML. docs/bench.md defines each.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::{
    process::Reading,
    tally::{Tally, Times},
};

/// One turn of one target.
#[derive(Clone, Debug)]
pub struct Round {
    pub tally: Tally,
    /// CPU time of each process that was named, in their order; `None`: it could not be read.
    pub cpu: Vec<Option<Duration>>,
    /// Of the load generator itself.
    pub own_cpu: Option<Duration>,
}

impl Round {
    /// Adds another turn of the same round.
    pub fn merge(&mut self, turn: &Self) {
        let add =
            |one: Option<Duration>, other: Option<Duration>| Some(one?.saturating_add(other?));
        self.tally.merge(&turn.tally);
        self.own_cpu = add(self.own_cpu, turn.own_cpu);
        for (own, other) in self.cpu.iter_mut().zip(&turn.cpu) {
            *own = add(*own, *other);
        }
    }
}

/// One target and all that was measured of it.
#[derive(Clone, Debug)]
pub struct Subject {
    pub name: String,
    /// Without a query.
    pub url: String,
    pub rounds: Vec<Round>,
}

/// What the load was.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Settings {
    pub concurrency: usize,
    /// Requests per second; `None`: a closed loop.
    pub rate: Option<f64>,
    /// Of each turn.
    pub requests: Option<u64>,
    pub max_seconds: Option<f64>,
    pub warmup: u64,
    pub timeout_seconds: f64,
    pub rounds: u32,
    pub stream: bool,
    pub abort_after: Option<u32>,
    pub model: Option<String>,
    pub prompt_bytes: usize,
    /// 0: a string.
    pub prompts: usize,
    pub unique: bool,
    pub max_tokens: Option<u32>,
    pub n: Option<u32>,
}

/// Everything that was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub version: &'static str,
    /// Unix time, seconds.
    pub started: u64,
    pub settings: Settings,
    pub targets: Vec<Figures>,
    /// Of each target but the first to the first.
    pub ratios: Vec<Ratios>,
    /// CPU time of the load generator, as a share of one core. Near 1, it is the generator that was measured.
    pub generator_busy: Option<f64>,
    /// It ended before its time; what was under way is not counted.
    pub interrupted: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    pub name: String,
    pub url: String,
    pub requests: u64,
    pub sent_again: u64,
    pub succeeded: u64,
    pub aborted: u64,
    pub failed: u64,
    pub errors: BTreeMap<String, u64>,
    pub seconds: f64,
    pub requests_per_second: f64,
    pub events: u64,
    pub events_per_second: f64,
    /// `None`: no server told them.
    pub completion_tokens: Option<u64>,
    pub tokens_per_second: Option<f64>,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub connections: u64,
    pub latency_ms: Option<Percentiles>,
    pub first_token_ms: Option<Percentiles>,
    pub between_events_ms: Option<Percentiles>,
    pub sent_late_ms: Option<Percentiles>,
    pub processes: Vec<Process>,
    pub rounds: Vec<RoundFigures>,
    /// For plots.
    #[serde(skip)]
    pub tally: Tally,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Percentiles {
    pub count: u64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub max: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Process {
    pub name: String,
    pub cpu_seconds: Option<f64>,
    pub cpu_microseconds_per_request: Option<f64>,
    pub peak_bytes: Option<u64>,
}

#[derive(Clone, Debug, Serialize)]
pub struct RoundFigures {
    pub requests_per_second: f64,
    pub latency_p50_ms: Option<f64>,
    pub latency_p99_ms: Option<f64>,
    pub first_token_p50_ms: Option<f64>,
    pub between_events_p50_ms: Option<f64>,
    /// Of the process that has the target's name.
    pub cpu_microseconds_per_request: Option<f64>,
}

/// One target against the first, round by round.
#[derive(Clone, Debug, Serialize)]
pub struct Ratios {
    pub name: String,
    pub to: String,
    pub requests_per_second: Option<Spread>,
    pub latency_p50: Option<Spread>,
    pub latency_p99: Option<Spread>,
    pub first_token_p50: Option<Spread>,
    pub between_events_p50: Option<Spread>,
    pub cpu_per_request: Option<Spread>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Report {
    /// `processes` have their last reading, in the order of [`Round::cpu`].
    pub fn new(
        started: u64,
        settings: Settings,
        subjects: Vec<Subject>,
        processes: &[(String, Option<Reading>)],
    ) -> Self {
        let generator_busy = busy(&subjects);
        let targets: Vec<Figures> = subjects
            .into_iter()
            .map(|subject| Figures::new(subject, processes))
            .collect();
        let ratios = match targets.split_first() {
            Some((first, others)) => others
                .iter()
                .map(|other| Ratios::new(other, first))
                .collect(),
            None => Vec::new(),
        };
        Self {
            version: env!("CARGO_PKG_VERSION"),
            started,
            settings,
            targets,
            ratios,
            generator_busy,
            interrupted: false,
        }
    }

    pub fn failed(&self) -> u64 {
        self.targets.iter().map(|target| target.failed).sum()
    }
}

fn busy(subjects: &[Subject]) -> Option<f64> {
    let rounds = || subjects.iter().flat_map(|subject| &subject.rounds);
    let used: Duration = rounds().map(|round| round.own_cpu).sum::<Option<_>>()?;
    let passed: Duration = rounds().map(|round| round.tally.elapsed).sum();
    (!passed.is_zero()).then(|| used.as_secs_f64() / passed.as_secs_f64())
}

impl Figures {
    fn new(subject: Subject, processes: &[(String, Option<Reading>)]) -> Self {
        let mut all = Tally::default();
        for round in &subject.rounds {
            all.merge(&round.tally);
        }
        let well = all.succeeded + all.aborted;
        let own = processes.iter().position(|(name, _)| *name == subject.name);
        let rounds = subject
            .rounds
            .iter()
            .map(|round| RoundFigures::new(round, own));
        let told = (all.told > 0).then_some(all.tokens);
        let processes = processes.iter().enumerate().map(|(at, (name, last))| {
            let cpu = subject.rounds.iter().map(|round| *round.cpu.get(at)?);
            let cpu = cpu.sum::<Option<Duration>>();
            Process {
                name: name.clone(),
                cpu_seconds: cpu.map(|cpu| cpu.as_secs_f64()),
                cpu_microseconds_per_request: cpu.and_then(|cpu| per_request(cpu, all.sent)),
                peak_bytes: last.map(|reading| reading.peak),
            }
        });
        Self {
            requests: all.sent,
            sent_again: all.sent_again,
            succeeded: all.succeeded,
            aborted: all.aborted,
            failed: all.failed(),
            errors: all
                .failures
                .iter()
                .map(|(failure, count)| (failure.to_string(), *count))
                .collect(),
            seconds: all.elapsed.as_secs_f64(),
            requests_per_second: all.per_second(well),
            events: all.events,
            events_per_second: all.per_second(all.events),
            completion_tokens: told,
            tokens_per_second: told.map(|tokens| all.per_second(tokens)),
            bytes_sent: all.bytes_sent,
            bytes_received: all.bytes_received,
            connections: all.connections,
            latency_ms: Percentiles::of(&all.total),
            first_token_ms: Percentiles::of(&all.first_token),
            between_events_ms: Percentiles::of(&all.between),
            sent_late_ms: Percentiles::of(&all.late),
            processes: processes.collect(),
            rounds: rounds.collect(),
            name: subject.name,
            url: subject.url,
            tally: all,
        }
    }

    /// Requests per second of the rounds.
    pub fn throughput(&self) -> Option<Spread> {
        Spread::of(
            self.rounds
                .iter()
                .map(|round| round.requests_per_second)
                .collect(),
        )
    }
}

impl RoundFigures {
    fn new(round: &Round, own: Option<usize>) -> Self {
        let tally = &round.tally;
        let cpu = own.and_then(|at| *round.cpu.get(at)?);
        Self {
            requests_per_second: tally.per_second(tally.succeeded + tally.aborted),
            latency_p50_ms: percentile(&tally.total, 0.5),
            latency_p99_ms: percentile(&tally.total, 0.99),
            first_token_p50_ms: percentile(&tally.first_token, 0.5),
            between_events_p50_ms: percentile(&tally.between, 0.5),
            cpu_microseconds_per_request: cpu.and_then(|cpu| per_request(cpu, tally.sent)),
        }
    }
}

impl Percentiles {
    /// `None`: nothing was counted.
    pub fn of(times: &Times) -> Option<Self> {
        Some(Self {
            count: times.count(),
            mean: milliseconds(times.mean()),
            p50: percentile(times, 0.5)?,
            p90: percentile(times, 0.9)?,
            p99: percentile(times, 0.99)?,
            p99_9: percentile(times, 0.999)?,
            max: milliseconds(times.max()),
        })
    }

    /// Without the count, in the order of the fields.
    pub fn values(self) -> [f64; 6] {
        [
            self.mean, self.p50, self.p90, self.p99, self.p99_9, self.max,
        ]
    }
}

impl Ratios {
    fn new(other: &Figures, first: &Figures) -> Self {
        let of = |value: fn(&RoundFigures) -> Option<f64>| {
            let pairs = other.rounds.iter().zip(&first.rounds);
            Spread::of(
                pairs
                    .filter_map(|(other, first)| Some(value(other)? / value(first)?))
                    .filter(|ratio| ratio.is_finite())
                    .collect(),
            )
        };
        Self {
            name: other.name.clone(),
            to: first.name.clone(),
            requests_per_second: of(|round| Some(round.requests_per_second)),
            latency_p50: of(|round| round.latency_p50_ms),
            latency_p99: of(|round| round.latency_p99_ms),
            first_token_p50: of(|round| round.first_token_p50_ms),
            between_events_p50: of(|round| round.between_events_p50_ms),
            cpu_per_request: of(|round| round.cpu_microseconds_per_request),
        }
    }
}

impl Spread {
    /// `None` of nothing. The median of an even count is the mean of the middle two.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let upper = *values.get(middle)?;
        let lower = *values.get(values.len().checked_sub(1)? / 2)?;
        Some(Self {
            median: f64::midpoint(lower, upper),
            min: *values.first()?,
            max: *values.last()?,
        })
    }
}

fn percentile(times: &Times, share: f64) -> Option<f64> {
    (times.count() > 0).then(|| milliseconds(times.percentile(share)))
}

fn per_request(cpu: Duration, requests: u64) -> Option<f64> {
    (requests > 0).then(|| cpu.as_secs_f64() * 1e6 / requests as f64)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::fixtures::report;

    #[test]
    fn figures_are_sums_of_rounds() {
        let report = report(["direct", "gateway"]);
        let direct = &report.targets[0];
        assert_eq!(
            (direct.requests, direct.succeeded, direct.failed),
            (703, 700, 3)
        );
        assert_eq!(direct.errors["cut"], 3);
        assert!((direct.requests_per_second - 700.0 / 3.0).abs() < 0.01);
        assert_eq!(direct.tokens_per_second, None);
        assert_eq!(report.failed(), 6);
        assert_eq!(report.generator_busy, Some(0.25));
        let process = &report.targets[1].processes[0];
        let per_request = process.cpu_microseconds_per_request.unwrap();
        assert!(
            (per_request - 60_000.0 / 203.0).abs() < 0.1,
            "{per_request}"
        );
        assert_eq!(process.peak_bytes, Some(40 << 20));
    }

    #[test]
    fn ratios_are_of_rounds_and_have_their_spread() {
        let report = report(["direct", "gateway"]);
        let ratios = &report.ratios[0];
        assert_eq!(
            (ratios.name.as_str(), ratios.to.as_str()),
            ("gateway", "direct")
        );
        // 50/100, 50/200, 100/400.
        assert_eq!(
            ratios.requests_per_second,
            Some(Spread {
                median: 0.25,
                min: 0.25,
                max: 0.5
            })
        );
        let p50 = ratios.latency_p50.unwrap();
        assert!(
            p50.min > 1.7 && p50.median > 2.4 && p50.max < 3.4,
            "{p50:?}"
        );
        // Only one of the two has a process of its own name.
        assert_eq!(ratios.cpu_per_request, None);
        assert!(
            report.targets[1].rounds[0]
                .cpu_microseconds_per_request
                .is_some()
        );
    }

    #[test]
    fn medians_are_of_odd_and_even_counts() {
        let median = |values: &[f64]| Spread::of(values.to_vec()).map(|spread| spread.median);
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn json_has_every_figure_and_no_infinity() {
        let json = serde_json::to_value(report(["a", "b"])).unwrap();
        assert_eq!(json["targets"][0]["latency_ms"]["count"], 700);
        assert_eq!(json["ratios"][0]["requests_per_second"]["max"], 0.5);
        assert_eq!(json["settings"]["rate"], serde_json::Value::Null);
        assert!(json["targets"][0].get("tally").is_none());
        let none = Subject {
            name: "x".into(),
            url: "http://x".into(),
            rounds: Vec::new(),
        };
        let empty = Report::new(0, Settings::default(), vec![none.clone(), none], &[]);
        let json = serde_json::to_value(&empty).unwrap();
        assert_eq!(json["targets"][0]["requests_per_second"], 0.0);
        assert_eq!(
            json["ratios"][0]["requests_per_second"],
            serde_json::Value::Null
        );
    }
}
