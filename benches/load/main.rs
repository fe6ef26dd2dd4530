//! What the gateway costs, as ratios in one run: the same requests straight to an upstream, through a bare Pingora proxy,
//! through proxies and AI gateways of others that are there, and through the gateway. And what a call costs that is one of
//! many of its request.
//!
//! `cargo bench --bench load`. Everything is on loopback: an upstream of canned answers, a proxy that does nothing, the
//! [`peers`] and the gateway's binary run as processes of their own; this process is the client, with the engine of
//! `pingora-completions bench`. They take short turns, so that a noisy neighbour meets all of them; figures are medians of
//! rounds. `cargo bench --bench load -- all`, or names of [`scenario::scenarios`], compares the ways at more than a plain
//! request. `LOAD_SECONDS` is the length of a round; `LOAD_HTML` names a folder for a report of each scenario, with plots.

mod bare;
mod peers;
mod scenario;
mod upstream;
mod way;

use std::{
    env, fs,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use pingora_completions::bench::{
    Asked, Load, Rate, Times, html,
    summary::{Figures, Report, Round, RoundFigures, Settings, Spread, Subject},
};
use tokio::runtime::Runtime;

use scenario::{ROUNDS, Scenario, scenarios};
use upstream::PROMPTS;
use way::{Asking, Kind, Way, reading, start};

const FIRST_TOKENS: u64 = 2_000;

fn main() {
    let role = env::args().nth(1).unwrap_or_default();
    match (role.as_str(), env::args().nth(2), env::args().nth(3)) {
        ("--upstream", Some(address), _) => upstream::serve(&address),
        ("--bare", Some(address), Some(upstream)) => bare::serve(&address, &upstream),
        _ => client(&env::args().skip(1).collect::<Vec<_>>()),
    }
}

/// A plain request and what is measured beside it, or the scenarios that are named.
fn client(names: &[String]) {
    // A crowd's: of this process, and of those that it starts.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let seconds = env::var("LOAD_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(4);
    let round = Duration::from_secs(seconds);
    let all = scenarios();
    // Cargo says `--bench` too.
    let mut names = names
        .iter()
        .filter(|name| !name.starts_with("--"))
        .peekable();
    let beside = |ways: &[Way]| {
        fan_out(ways, &runtime, round);
        streams(ways, &runtime);
    };
    if names.peek().is_none() {
        let ways = start();
        compare(&ways, &Scenario::named("plain"), &runtime, round);
        beside(&ways);
        return;
    }
    for name in names {
        let chosen: Vec<&Scenario> = all
            .iter()
            .filter(|scenario| name == "all" || scenario.name == name)
            .collect();
        let known: Vec<&str> = all.iter().map(|scenario| scenario.name).collect();
        assert!(!chosen.is_empty(), "all, or some of: {}", known.join(", "));
        for scenario in chosen {
            compare(&start(), scenario, &runtime, round);
        }
        if name == "all" {
            beside(&start());
        }
    }
}

fn compare(ways: &[Way], scenario: &Scenario, runtime: &Runtime, round: Duration) {
    let mut asked = asked(ways, scenario, runtime);
    asked.retain(|asking| {
        let warmup = Duration::from_millis(500);
        let warm = runtime.block_on(asking.load(warmup, scenario.connections));
        if warm.is_err() {
            println!("{} cannot keep up: left out", asking.way.name);
            // What it still does is nobody else's.
            asking.way.stop();
        }
        warm.is_ok()
    });
    println!(
        "{}: {}; {} connections, 1 proxy thread, median of {} rounds of {} s, each in {} turns",
        scenario.name,
        scenario.told,
        scenario.connections,
        scenario.rounds,
        round.as_secs(),
        scenario.turns
    );
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut rounds: Vec<Vec<Round>> = asked.iter().map(|_| Vec::new()).collect();
    for _ in 0..scenario.rounds {
        let taken = take_turns(&asked, scenario, round, runtime);
        for (rounds, round) in rounds.iter_mut().zip(taken) {
            rounds.extend(round);
        }
    }
    let subjects = asked.iter().zip(rounds).map(|(asking, rounds)| Subject {
        name: asking.way.name.to_owned(),
        url: format!("http://{}", asking.way.address),
        rounds,
    });
    let processes: Vec<_> = asked
        .iter()
        .map(|asking| (asking.way.name.to_owned(), asking.way.reading()))
        .collect();
    let settings = settings(scenario, round);
    let report = Report::new(started.as_secs(), settings, subjects.collect(), &processes);
    tell(&report, scenario);
}

/// Those that can do it.
fn asked<'a>(ways: &'a [Way], scenario: &Scenario, runtime: &Runtime) -> Vec<Asking<'a>> {
    let upstream = &ways[0].address;
    ways.iter()
        .filter_map(|way| runtime.block_on(Asking::new(way, scenario, upstream)))
        .collect()
}

/// A round of each, in short turns one after the other: how fast a machine is changes from one second to the next, and all of
/// them have to meet the same one.
fn take_turns(
    all: &[Asking<'_>],
    scenario: &Scenario,
    round: Duration,
    runtime: &Runtime,
) -> Vec<Option<Round>> {
    let mut rounds: Vec<Option<Round>> = all.iter().map(|_| None).collect();
    for at in 0..scenario.turns {
        for (asking, round_so_far) in all.iter().zip(&mut rounds) {
            let turns = if asking.way.is_slow() {
                1
            } else {
                scenario.turns
            };
            if at >= turns {
                continue;
            }
            let taken = turn(all, asking, scenario.connections, round / turns, runtime);
            match round_so_far {
                Some(so_far) => so_far.merge(&taken),
                None => *round_so_far = Some(taken),
            }
        }
    }
    rounds
}

/// One turn of one way, with the CPU time of all of them.
fn turn(
    all: &[Asking<'_>],
    asking: &Asking<'_>,
    connections: usize,
    time: Duration,
    runtime: &Runtime,
) -> Round {
    let readings = || -> Vec<_> {
        let ways = all.iter().map(|asking| asking.way.reading());
        std::iter::once(reading("self")).chain(ways).collect()
    };
    let before = readings();
    let tally = runtime.block_on(asking.load(time, connections));
    let tally = tally.unwrap_or_else(|tally| tally);
    let mut cpu = before
        .into_iter()
        .zip(readings())
        .map(|(before, after)| Some(after?.cpu.saturating_sub(before?.cpu)));
    Round {
        tally,
        own_cpu: cpu.next().flatten(),
        cpu: cpu.collect(),
    }
}

fn settings(scenario: &Scenario, round: Duration) -> Settings {
    let question = &scenario.question;
    Settings {
        concurrency: scenario.connections,
        max_seconds: Some(round.as_secs_f64()),
        rounds: scenario.rounds,
        rate: scenario.rate.map(Rate::per_second),
        stream: question.stream,
        abort_after: scenario.abort_after,
        model: question.model.clone(),
        prompt_bytes: question.prompt.len(),
        prompts: question.prompts,
        max_tokens: question.max_tokens,
        ..Settings::default()
    }
}

fn tell(report: &Report, scenario: &Scenario) {
    for (at, figures) in report.targets.iter().enumerate() {
        let of = |value: fn(&RoundFigures) -> Option<f64>| median(figures, value);
        // Of a stream that is left there is a first token and no end.
        let (p50, p99) = match (scenario.abort_after, figures.first_token_ms) {
            (Some(_), Some(first)) => (first.p50, first.p99),
            _ => (
                of(|round| round.latency_p50_ms),
                of(|round| round.latency_p99_ms),
            ),
        };
        let memory = figures.processes[at].peak_bytes.unwrap_or_default();
        print!(
            "  {:<13} {:>8.0} requests/s   p50 {:>8.0} us   p99 {:>8.0} us   CPU {:>7.1} us/request   {:>4.0} MB",
            figures.name,
            of(|round| Some(round.requests_per_second)),
            p50 * 1e3,
            p99 * 1e3,
            of(|round| round.cpu_microseconds_per_request),
            memory as f64 / 1e6,
        );
        if let (Some(first), Some(between)) = (figures.first_token_ms, figures.between_events_ms)
            && !scenario.lasts.is_zero()
        {
            print!(
                "   first event {:.0}/{:.0} us, pause {:.0}/{:.0}",
                first.p50 * 1e3,
                first.p99 * 1e3,
                between.p50 * 1e3,
                between.p99 * 1e3
            );
        }
        match figures.failed {
            0 => println!(),
            failed => println!("   failed: {failed} {:?}", figures.errors),
        }
    }
    let named = |name: &str| {
        let mut all = report.targets.iter();
        all.find(|figures| figures.name == name).unwrap()
    };
    let ratio = |value: fn(&RoundFigures) -> Option<f64>| {
        median(named("gateway"), value) / median(named("bare Pingora"), value)
    };
    println!(
        "  gateway / bare Pingora: {:.2} of its requests/s, {:.2} of its CPU",
        ratio(|round| Some(round.requests_per_second)),
        ratio(|round| round.cpu_microseconds_per_request)
    );
    if let Some(folder) = env::var_os("LOAD_HTML") {
        fs::create_dir_all(&folder).unwrap();
        let path = std::path::Path::new(&folder).join(format!("{}.html", scenario.name));
        fs::write(&path, html::page(report)).unwrap();
        println!("  report: {}", path.display());
    }
}

/// Of the rounds that have it; 0: none has.
fn median(figures: &Figures, value: fn(&RoundFigures) -> Option<f64>) -> f64 {
    let values = figures.rounds.iter().filter_map(value).collect();
    Spread::of(values).map_or(0.0, |spread| spread.median)
}

/// Times from a request's write to its first event's arrival.
fn streams(ways: &[Way], runtime: &Runtime) {
    println!(
        "stream: first event, 1 connection, one request after the other, up to {FIRST_TOKENS} each"
    );
    let asked = asked(ways, &Scenario::named("streamed"), runtime);
    let mut all: Vec<Times> = asked.iter().map(|_| Times::default()).collect();
    for _ in 0..10 {
        for (asking, first) in asked.iter().zip(&mut all) {
            let mut load = Load::closed(Asked::Stream, 1, Duration::from_secs(1));
            load.schedule.requests = Some(FIRST_TOKENS / 10);
            let tally = runtime.block_on(asking.drive(load, Duration::from_secs(10)));
            first.merge(&tally.unwrap_or_else(|tally| tally).first_token);
        }
    }
    let direct = microseconds(all[0].percentile(0.5));
    for (asking, first) in asked.iter().zip(&all) {
        let (p50, p99) = (
            microseconds(first.percentile(0.5)),
            microseconds(first.percentile(0.99)),
        );
        println!(
            "  {:<13} p50 {p50:>6.0} us   p99 {p99:>6.0} us   added at p50 {:>6.0} us",
            asking.way.name,
            p50 - direct
        );
    }
}

/// What a call costs that is one of many of its request, against one that is its request's only one.
fn fan_out(ways: &[Way], runtime: &Runtime, round: Duration) {
    println!(
        "fan-out: the gateway before a provider that takes one prompt, {PROMPTS} prompts a request, median of {ROUNDS} rounds"
    );
    let kinds = [
        (1, Scenario::alone()),
        (PROMPTS, Scenario::named("fan-out")),
    ];
    let kinds = kinds.map(|(calls, scenario)| {
        let mut asked = asked(ways, &scenario, runtime);
        asked.retain(|asking| asking.way.kind == Kind::Gateway);
        (calls, scenario.connections, asked)
    });
    let mut per_call = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for ((calls, connections, asked), found) in kinds.iter().zip(&mut per_call) {
            let round = turn(asked, &asked[0], *connections, round, runtime);
            let cpu = microseconds(round.cpu[0].unwrap_or_default());
            found.push(cpu / (round.tally.sent as f64 * *calls as f64));
        }
    }
    let [alone, one_of_many] =
        per_call.map(|found| Spread::of(found).map_or(0.0, |spread| spread.median));
    println!(
        "  CPU per upstream call: alone {alone:.1} us, one of {PROMPTS} {one_of_many:.1} us, ratio {:.2}",
        one_of_many / alone
    );
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
