//! A report as lines of text, and the rows that it shares with the HTML report.

use super::summary::{Figures, Percentiles, Process, Ratios, Report, Settings, Spread};

/// A label and what each target has there.
pub struct Row {
    pub label: String,
    pub cells: Vec<String>,
}

impl Row {
    /// With a dash where a target has nothing; `None`: none has.
    fn of(label: &str, cells: Vec<Option<String>>) -> Option<Self> {
        let is_there = cells.iter().any(Option::is_some);
        let cells = cells.into_iter();
        is_there.then(|| Self {
            label: label.to_owned(),
            cells: cells
                .map(|cell| cell.unwrap_or_else(|| "–".to_owned()))
                .collect(),
        })
    }
}

/// The whole report.
pub fn text(report: &Report) -> String {
    let mut lines = vec![load(&report.settings), String::new()];
    let mut head = vec![Row {
        label: String::new(),
        cells: report
            .targets
            .iter()
            .map(|target| target.name.clone())
            .collect(),
    }];
    head.extend(rows(report));
    lines.extend(aligned(&head));
    for ratios in &report.ratios {
        lines.push(String::new());
        lines.push(format!(
            "{} / {} (median of rounds, min–max)",
            ratios.name, ratios.to
        ));
        lines.extend(aligned(&ratio_rows(std::slice::from_ref(ratios))));
    }
    if let Some(note) = note(report) {
        lines.extend([String::new(), note]);
    }
    lines.join("\n") + "\n"
}

/// What the load was, in a sentence.
pub fn load(settings: &Settings) -> String {
    let mut parts = vec![match settings.rate {
        Some(rate) => format!(
            "open loop, {rate} requests/s, {} connections at most",
            settings.concurrency
        ),
        None => format!("closed loop, {} at a time", settings.concurrency),
    }];
    let mut say = |part: Option<String>| parts.extend(part);
    say(settings
        .requests
        .map(|requests| format!("{} requests", number(requests))));
    say(settings.max_seconds.map(|seconds| format!("{seconds} s")));
    say((settings.rounds > 1).then(|| format!("{} rounds", settings.rounds)));
    say(Some(
        if settings.stream {
            "streams"
        } else {
            "whole answers"
        }
        .to_owned(),
    ));
    say(settings
        .model
        .as_ref()
        .map(|model| format!("model {model}")));
    say(Some(match settings.prompts {
        0 => format!("prompt of {} bytes", number(settings.prompt_bytes as u64)),
        count => format!(
            "{count} prompts of {} bytes",
            number(settings.prompt_bytes as u64)
        ),
    }));
    say(settings
        .max_tokens
        .map(|tokens| format!("max_tokens {tokens}")));
    say(settings.n.map(|n| format!("n {n}")));
    say(settings
        .abort_after
        .map(|events| format!("left after {events} events")));
    say((settings.warmup > 0).then(|| format!("warm-up {}", settings.warmup)));
    parts.join(", ")
}

/// The figures of all targets.
pub fn rows(report: &Report) -> Vec<Row> {
    let mut rows = Rows {
        report,
        rows: Vec::new(),
    };
    rows.push("requests", |target| Some(number(target.requests)));
    rows.push("  went well", |target| Some(number(target.succeeded)));
    rows.push("  left on purpose", |target| some(target.aborted));
    rows.push("  sent again", |target| some(target.sent_again));
    rows.push("  failed", |target| Some(number(target.failed)));
    rows.push_errors();
    rows.push("seconds", |target| Some(format!("{:.2}", target.seconds)));
    rows.push("requests/s", |target| {
        Some(decimal(target.requests_per_second))
    });
    if report.settings.rounds > 1 {
        rows.push("  of rounds", |target| {
            target.throughput().as_ref().map(throughput)
        });
    }
    rows.push("events/s", |target| {
        (target.events > 0).then(|| decimal(target.events_per_second))
    });
    rows.push("tokens/s", |target| target.tokens_per_second.map(decimal));
    rows.push("MB sent", |target| Some(megabytes(target.bytes_sent)));
    rows.push("MB received", |target| {
        Some(megabytes(target.bytes_received))
    });
    rows.push("connections opened", |target| {
        Some(number(target.connections))
    });
    rows.push_times("latency, ms", |target| target.latency_ms);
    rows.push_times("first token, ms", |target| target.first_token_ms);
    rows.push_times("between events, ms", |target| target.between_events_ms);
    rows.push_times("sent late, ms", |target| target.sent_late_ms);
    rows.push_processes();
    rows.rows
}

/// Ratios that any target has.
pub fn ratio_rows(all: &[Ratios]) -> Vec<Row> {
    type Of = fn(&Ratios) -> Option<Spread>;
    let ratios: [(&str, Of); 6] = [
        ("requests/s", |ratios| ratios.requests_per_second),
        ("latency p50", |ratios| ratios.latency_p50),
        ("latency p99", |ratios| ratios.latency_p99),
        ("first token p50", |ratios| ratios.first_token_p50),
        ("between events p50", |ratios| ratios.between_events_p50),
        ("CPU per request", |ratios| ratios.cpu_per_request),
    ];
    ratios
        .into_iter()
        .filter_map(|(label, of)| {
            let cells = all.iter().map(|ratios| of(ratios).as_ref().map(spread));
            Row::of(label, cells.collect())
        })
        .collect()
}

/// What makes the figures doubtful.
pub fn note(report: &Report) -> Option<String> {
    let mut notes = Vec::new();
    if report.interrupted {
        notes.push("Interrupted: what was under way is not counted.".to_owned());
    }
    if let Some(busy) = report.generator_busy {
        notes.push(format!("Load generator: {:.0} % of a core.", busy * 100.0));
        if busy > BUSY {
            notes.push(
                "It was the limit, or near it: a server may be faster than what is told here."
                    .to_owned(),
            );
        }
    }
    (!notes.is_empty()).then(|| notes.join(" "))
}

struct Rows<'a> {
    report: &'a Report,
    rows: Vec<Row>,
}

impl Rows<'_> {
    /// A row, if any target has something there.
    fn push(&mut self, label: &str, cell: impl Fn(&Figures) -> Option<String>) {
        let cells = self.report.targets.iter().map(cell);
        self.rows.extend(Row::of(label, cells.collect()));
    }

    fn push_errors(&mut self) {
        let mut kinds: Vec<&String> = self
            .report
            .targets
            .iter()
            .flat_map(|target| target.errors.keys())
            .collect();
        kinds.sort();
        kinds.dedup();
        for kind in kinds {
            self.push(&format!("    {kind}"), |target| {
                some(*target.errors.get(kind)?)
            });
        }
    }

    fn push_times(&mut self, label: &str, times: fn(&Figures) -> Option<Percentiles>) {
        if !self
            .report
            .targets
            .iter()
            .any(|target| times(target).is_some())
        {
            return;
        }
        self.push(label, |_| Some(String::new()));
        let labels = ["  mean", "  p50", "  p90", "  p99", "  p99.9", "  max"];
        for (at, label) in labels.into_iter().enumerate() {
            self.push(label, |target| {
                let values = times(target)?.values();
                values.get(at).copied().map(milliseconds)
            });
        }
    }

    /// Those that have a target's name are told beside it alone, in rows that they share.
    fn push_processes(&mut self) {
        let targets = &self.report.targets;
        let is_own = |name: &str| targets.iter().any(|target| target.name == name);
        let names = targets.first().into_iter().flat_map(|first| {
            let names = first.processes.iter().map(|process| process.name.as_str());
            names.enumerate()
        });
        let others: Vec<(usize, &str)> = names.filter(|(_, name)| !is_own(name)).collect();
        self.push_process("its process", |target| {
            let mut all = target.processes.iter();
            all.find(|process| process.name == target.name)
        });
        for (at, name) in others {
            self.push_process(name, |target| target.processes.get(at));
        }
    }

    fn push_process(&mut self, name: &str, find: impl Fn(&Figures) -> Option<&Process>) {
        self.push(&format!("{name}: CPU, µs/request"), |target| {
            let cpu = find(target)?.cpu_microseconds_per_request?;
            Some(match cpu {
                cpu if cpu < 1000.0 => format!("{cpu:.1}"),
                cpu => number(cpu.round() as u64),
            })
        });
        self.push(&format!("{name}: peak memory, MB"), |target| {
            find(target)?.peak_bytes.map(megabytes)
        });
    }
}

/// Labels to the left, cells to the right of their columns.
fn aligned(rows: &[Row]) -> Vec<String> {
    let width = |texts: &mut dyn Iterator<Item = &String>| {
        texts
            .map(|text| text.chars().count())
            .max()
            .unwrap_or_default()
    };
    let first = width(&mut rows.iter().map(|row| &row.label));
    let columns = rows
        .iter()
        .map(|row| row.cells.len())
        .max()
        .unwrap_or_default();
    let widths: Vec<usize> = (0..columns)
        .map(|at| width(&mut rows.iter().filter_map(|row| row.cells.get(at))))
        .collect();
    rows.iter()
        .map(|row| {
            let mut line = format!("{:<first$}", row.label);
            for (cell, width) in row.cells.iter().zip(&widths) {
                line += &format!("  {cell:>width$}", width = *width);
            }
            line.trim_end().to_owned()
        })
        .collect()
}

fn some(count: u64) -> Option<String> {
    (count > 0).then(|| number(count))
}

/// With commas between thousands.
pub fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn decimal(value: f64) -> String {
    match value {
        value if value < 100.0 => format!("{value:.2}"),
        value => number(value.round() as u64),
    }
}

/// To about three digits, and to the microsecond.
pub fn milliseconds(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.3}"),
        value if value < 100.0 => format!("{value:.2}"),
        value if value < 1000.0 => format!("{value:.1}"),
        value => number(value.round() as u64),
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.2}", bytes as f64 / 1e6)
}

fn throughput(spread: &Spread) -> String {
    format!(
        "{} ({}–{})",
        decimal(spread.median),
        decimal(spread.min),
        decimal(spread.max)
    )
}

fn spread(spread: &Spread) -> String {
    let [median, min, max] = [spread.median, spread.min, spread.max].map(ratio);
    format!("{median} ({min}–{max})")
}

/// To about three digits.
fn ratio(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.3}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => number(value.round() as u64),
    }
}

/// Of a core.
const BUSY: f64 = 0.85;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::fixtures::report;

    #[test]
    fn a_table_has_a_column_for_each_target() {
        let text = text(&report(["direct", "gateway"]));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "closed loop, 4 at a time, 100 requests, 3 rounds, streams, prompt of 100 bytes"
        );
        let line = |label: &str| {
            let found = lines.iter().find(|line| line.starts_with(label));
            found
                .unwrap_or_else(|| panic!("no {label} in {text}"))
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(line("requests "), "requests 703 203");
        assert_eq!(line("    cut"), "cut 3 3");
        assert_eq!(line("requests/s"), "requests/s 233 66.67");
        assert_eq!(
            line("  of rounds"),
            "of rounds 200 (100–400) 50.00 (50.00–100)"
        );
        assert_eq!(
            line("gateway / direct"),
            "gateway / direct (median of rounds, min–max)"
        );
        assert_eq!(
            line("its process: CPU"),
            "its process: CPU, µs/request – 295.6"
        );
        assert_eq!(
            line("its process: peak"),
            "its process: peak memory, MB – 41.94"
        );
        assert!(
            !text.contains("left on purpose")
                && !text.contains("tokens/s")
                && !text.contains("sent late")
        );
        assert!(text.contains("Load generator: 25 % of a core.\n"));
        let column = |line: &str| line.chars().count();
        assert_eq!(
            column(lines[2]),
            column(lines[3]),
            "columns end at one place"
        );
    }

    #[test]
    fn a_process_of_another_name_has_rows_of_its_own() {
        let mut report = report(["direct", "gateway"]);
        for target in &mut report.targets {
            target.processes[0].name = "upstream".to_owned();
        }
        let text = text(&report);
        let row = text.lines().find(|line| line.starts_with("upstream: CPU"));
        let cells: Vec<&str> = row.unwrap().split_whitespace().skip(3).collect();
        assert_eq!(cells, ["85.3", "295.6"]);
        assert!(!text.contains("its process"));
    }

    #[test]
    fn a_busy_generator_is_told() {
        let mut report = report(["a", "b"]);
        report.generator_busy = Some(0.97);
        assert!(text(&report).contains("97 % of a core. It was the limit"));
    }

    #[test]
    fn numbers_are_written_for_people() {
        let cases = [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
        assert_eq!(
            [0.0421, 12.345, 123.45, 12_345.6].map(milliseconds),
            ["0.042", "12.35", "123.5", "12,346"].map(String::from)
        );
        assert_eq!(
            [0.0421, 12.345, 1234.5].map(ratio),
            ["0.042", "12.3", "1,235"].map(String::from)
        );
    }
}
