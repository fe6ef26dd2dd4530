//! A report as one HTML file: no script, nothing fetched. Everything from outside is escaped.

use std::{
    fmt::Write,
    time::{Duration, UNIX_EPOCH},
};

use super::{
    plot::{Axis, COLOURS, Plot, Series, Shape, svg},
    summary::{Figures, Report},
    table,
    tally::{SLOT, Times},
};

/// The page.
pub fn page(report: &Report) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/><title>{}</title><style>{STYLE}</style></head><body><main>",
        escaped(&title(report))
    );
    let _ = write!(
        page,
        "<h1>{}</h1><p>{}</p><p class=\"small\">{}, pingora-completions {}</p>",
        escaped(&title(report)),
        escaped(&table::load(&report.settings)),
        escaped(&date(report.started)),
        report.version,
    );
    page += &figures(report);
    page += &ratios(report);
    if let Some(note) = table::note(report) {
        let _ = write!(page, "<p>{}</p>", escaped(&note));
    }
    let legend = legend(report);
    let (distributed, distribution) = distribution(report);
    for (title, plot) in [
        ("Latency by percentile", percentiles(report)),
        ("Requests per second over time", throughput(report)),
        (distributed, distribution),
    ] {
        let _ = write!(page, "<h2>{title}</h2>{legend}{plot}");
    }
    page += NOTES;
    page + "</main></body></html>\n"
}

fn title(report: &Report) -> String {
    let names: Vec<&str> = report
        .targets
        .iter()
        .map(|target| target.name.as_str())
        .collect();
    format!("/v1/completions: {}", names.join(", "))
}

fn date(unix: u64) -> String {
    let moment = UNIX_EPOCH.checked_add(Duration::from_secs(unix.min(YEAR_9999)));
    httpdate::fmt_http_date(moment.unwrap_or(UNIX_EPOCH))
}

fn figures(report: &Report) -> String {
    let mut html = "<div class=\"wide\"><table><thead><tr><th></th>".to_owned();
    for target in &report.targets {
        let _ = write!(
            html,
            "<th title=\"{}\">{}</th>",
            escaped(&target.url),
            escaped(&target.name)
        );
    }
    html += "</tr></thead><tbody>";
    for row in table::rows(report) {
        let depth = (row.label.len() - row.label.trim_start().len()) / 2;
        let _ = write!(
            html,
            "<tr><th scope=\"row\" class=\"d{depth}\">{}</th>",
            escaped(row.label.trim_start())
        );
        for cell in &row.cells {
            let _ = write!(html, "<td>{}</td>", escaped(cell));
        }
        html += "</tr>";
    }
    html + "</tbody></table></div>"
}

fn ratios(report: &Report) -> String {
    let Some(first) = report.ratios.first() else {
        return String::new();
    };
    let mut html = format!(
        "<h2>Ratios to {}</h2><p class=\"small\">Median of the rounds, and their least and greatest.</p><div class=\"wide\"><table><thead><tr><th></th>",
        escaped(&first.to)
    );
    for ratios in &report.ratios {
        let (name, to) = (escaped(&ratios.name), escaped(&ratios.to));
        let _ = write!(html, "<th>{name} / {to}</th>");
    }
    html += "</tr></thead><tbody>";
    for row in table::ratio_rows(&report.ratios) {
        let _ = write!(html, "<tr><th scope=\"row\">{}</th>", row.label);
        for cell in &row.cells {
            let _ = write!(html, "<td>{cell}</td>");
        }
        html += "</tr>";
    }
    html + "</tbody></table></div>"
}

fn legend(report: &Report) -> String {
    let mut html = "<p class=\"legend\">".to_owned();
    for (at, target) in report.targets.iter().enumerate() {
        let _ = write!(
            html,
            "<span class=\"c{}\">\u{25a0}</span> {} ",
            at % COLOURS,
            escaped(&target.name)
        );
    }
    html + "</p>"
}

/// Latency over the share of requests, the last ones drawn out: each 9 more of the share is as wide as the one before.
fn percentiles(report: &Report) -> String {
    let counted = || {
        report
            .targets
            .iter()
            .map(|target| &target.tally.total)
            .filter(|times| times.count() > 0)
    };
    let most = counted().map(Times::count).max().unwrap_or_default();
    if most == 0 {
        return MISSING.to_owned();
    }
    let nines = (most as f64).log10().clamp(1.0, MAX_NINES);
    let least = counted()
        .map(|times| milliseconds(times.min()))
        .fold(f64::INFINITY, f64::min);
    let greatest = counted()
        .map(|times| milliseconds(times.max()))
        .fold(0.0, f64::max);
    let plot = Plot {
        x: share_axis(nines),
        y: Axis::logarithmic("ms", least, greatest),
        series: report
            .targets
            .iter()
            .map(|target| curve(&target.tally.total, nines))
            .collect(),
        shape: Shape::Line,
    };
    svg(&plot, "Latency by percentile")
}

fn share_axis(nines: f64) -> Axis {
    let ticks = [
        (0.0, "0"),
        (0.5, "50"),
        (0.9, "90"),
        (0.99, "99"),
        (0.999, "99.9"),
        (0.9999, "99.99"),
        (0.99999, "99.999"),
    ];
    let ticks = ticks.map(|(share, text)| (-f64::log10(1.0 - share), format!("{text} %")));
    Axis {
        label: "share of the requests",
        from: 0.0,
        to: nines,
        ticks: ticks
            .into_iter()
            .filter(|(place, _)| *place <= nines + 0.01)
            .collect(),
    }
}

/// As far as there are requests to tell one nine more.
fn curve(times: &Times, nines: f64) -> Series {
    let own = (times.count() as f64).log10().min(nines);
    let place = |turn: u32| f64::from(turn) / f64::from(CURVE_POINTS) * own;
    let height = |nines: f64| milliseconds(times.percentile(1.0 - 10f64.powf(-nines))).log10();
    let points = match times.count() {
        0 => Vec::new(),
        _ => (0..=CURVE_POINTS)
            .map(|turn| (place(turn), height(place(turn))))
            .collect(),
    };
    Series { points }
}

fn throughput(report: &Report) -> String {
    let slots = report
        .targets
        .iter()
        .map(|target| target.tally.ended.len())
        .max()
        .unwrap_or_default();
    let group = slots.div_ceil(MAX_TIME_POINTS).max(1);
    let width = SLOT.as_secs_f64() * group as f64;
    let line = |target: &Figures| Series {
        points: (0..)
            .zip(target.tally.ended.chunks_exact(group))
            .map(|(turn, slots)| {
                let ended: u64 = slots.iter().copied().map(u64::from).sum();
                ((f64::from(turn) + 0.5) * width, ended as f64 / width)
            })
            .collect(),
    };
    let series: Vec<Series> = report.targets.iter().map(line).collect();
    if series.iter().all(|series| series.points.len() < 2) {
        return "<p class=\"small\">Too short for a line.</p>".to_owned();
    }
    let greatest = series
        .iter()
        .flat_map(|series| &series.points)
        .map(|point| point.1)
        .fold(0.0, f64::max);
    let seconds = slots as f64 * SLOT.as_secs_f64();
    let mut x = Axis::linear("seconds, rounds one after the other", seconds);
    x.to = seconds;
    x.ticks.retain(|(place, _)| *place <= seconds);
    let plot = Plot {
        x,
        y: Axis::linear("requests/s", greatest),
        series,
        shape: Shape::Line,
    };
    svg(&plot, "Requests per second over time")
}

/// Of first tokens, or of latencies where nothing streamed.
fn distribution(report: &Report) -> (&'static str, String) {
    let streams = report
        .targets
        .iter()
        .any(|target| target.tally.first_token.count() > 0);
    let title = match streams {
        true => "Time to first token",
        false => "Latency",
    };
    let of = |target: &'_ Figures| match streams {
        true => target.tally.first_token.clone(),
        false => target.tally.total.clone(),
    };
    let all: Vec<Times> = report.targets.iter().map(of).collect();
    let counted = || all.iter().filter(|times| times.count() > 0);
    let least = counted()
        .map(|times| milliseconds(times.min()))
        .fold(f64::INFINITY, f64::min);
    let greatest = counted()
        .map(|times| milliseconds(times.percentile(0.999)))
        .fold(0.0, f64::max);
    if counted().count() == 0 {
        return (title, MISSING.to_owned());
    }
    let x = Axis::logarithmic("ms", least, greatest);
    let bin = (x.to - x.from) / f64::from(BINS);
    let place = |turn: u32| x.from + f64::from(turn) * bin;
    let steps = |times: &Times| {
        let mut points = Vec::new();
        for turn in 0..BINS {
            let (from, to) = (duration(place(turn)), duration(place(turn + 1)));
            let count = times.between(from, to.saturating_sub(Duration::from_nanos(1)));
            let share = 100.0 * count as f64 / times.count().max(1) as f64;
            points.extend([(place(turn), share), (place(turn + 1), share)]);
        }
        Series { points }
    };
    let series: Vec<Series> = all.iter().map(steps).collect();
    let most = series
        .iter()
        .flat_map(|series| &series.points)
        .map(|point| point.1)
        .fold(0.0, f64::max);
    let y = Axis::linear("% of the requests", most);
    let shape = Shape::Area;
    let plot = Plot {
        x,
        y,
        series,
        shape,
    };
    (title, svg(&plot, title))
}

/// Of a logarithm of milliseconds.
fn duration(place: f64) -> Duration {
    Duration::try_from_secs_f64(10f64.powf(place) / 1e3).unwrap_or_default()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// For text and for attributes in double quotes.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            '\'' => safe += "&#39;",
            // Not allowed in HTML in any form.
            letter if letter.is_control() && letter != '\n' => safe.push('\u{fffd}'),
            letter => safe.push(letter),
        }
    }
    safe
}

/// The last second that a date is written of.
const YEAR_9999: u64 = 253_402_300_799;
const MAX_NINES: f64 = 5.0;
const CURVE_POINTS: u32 = 200;
const MAX_TIME_POINTS: usize = 100;
const BINS: u32 = 60;
const MISSING: &str = "<p class=\"small\">No answer was read to its end.</p>";

const NOTES: &str = "<h2>What the figures are</h2><ul class=\"small\"><li>Latency: from when a request was due (open loop) or begun (closed loop) to its answer's last byte; requests that went well alone.</li><li>First token: from the same moment to the first event with text.</li><li>Between events: two events with text of one stream; 0 if they came in one read.</li><li>Sent late: from when a request was due to when it was begun.</li><li>A stream that ends without [DONE] has failed.</li></ul>";

const STYLE: &str = ":root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--soft:#5c6570;--grid:#e3e6ea;--c0:#0b62c4;--c1:#c2410c;--c2:#15803d;--c3:#9333ea;--c4:#b91c5c;--c5:#0e7490;--c6:#111827;--c7:#475569}@media(prefers-color-scheme:dark){:root{--bg:#14171b;--fg:#e6e9ed;--soft:#9aa4b0;--grid:#2c323a;--c0:#6db3ff;--c1:#ff9d5c;--c2:#5fd38a;--c3:#c79bff;--c4:#ff86b3;--c5:#5fd0e6;--c6:#ffffff;--c7:#a3b3c9}}body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}main{max-width:1320px;margin:0 auto;padding:24px 16px 48px}h1{font-size:22px;overflow-wrap:anywhere}h2{font-size:17px;margin:32px 0 8px}.small{color:var(--soft);font-size:13px}.wide{overflow-x:auto}@media print{.wide{overflow:visible}}table{border-collapse:collapse;font-variant-numeric:tabular-nums}p,ul,svg{max-width:760px}th,td{padding:3px 12px 3px 0;text-align:right;border-bottom:1px solid var(--grid);white-space:nowrap}th[scope=row]{text-align:left;font-weight:400}th.d1{padding-left:16px}th.d2{padding-left:32px}.legend span:not(:first-child){margin-left:12px}svg{width:100%;height:auto;display:block}svg text{fill:var(--soft);font-size:11px;font-family:system-ui,sans-serif}.grid{stroke:var(--grid)}.axis{stroke:var(--soft)}.line{fill:none;stroke:currentColor;stroke-width:1.8;stroke-linejoin:round}.fill{fill:currentColor;opacity:.15}.c0{color:var(--c0)}.c1{color:var(--c1)}.c2{color:var(--c2)}.c3{color:var(--c3)}.c4{color:var(--c4)}.c5{color:var(--c5)}.c6{color:var(--c6)}.c7{color:var(--c7)}";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{
        fixtures::report,
        summary::{Settings, Subject},
    };

    /// The page as XML: every element closed, every attribute quoted.
    fn check(page: &str) {
        let page = page.strip_prefix("<!doctype html>\n").unwrap();
        if let Err(error) = roxmltree::Document::parse(page) {
            panic!("{error} in {page}");
        }
    }

    #[test]
    fn a_page_is_well_formed_and_fetches_nothing() {
        let page = page(&report(["direct", "gateway"]));
        check(&page);
        assert_eq!(page.matches("<svg").count(), 3);
        assert!(
            page.contains("Time to first token") && page.contains("Tue, 14 Nov 2023 22:13:20 GMT")
        );
        for word in ["src=", "href=", "url(", "@import", "<script", "NaN", "inf,"] {
            assert!(!page.contains(word), "{word}");
        }
    }

    #[test]
    fn what_comes_from_outside_is_escaped() {
        let mut report = report(["a\"><script>alert(1)</script>", "b & 'c'\u{1}"]);
        report.settings.model = Some("<img src=x>".to_owned());
        report.targets[0].url = "http://h/\"onload=\"x".to_owned();
        let page = page(&report);
        check(&page);
        assert!(!page.contains("<script>") && !page.contains("<img") && !page.contains("\"onload"));
        assert!(page.contains("b &amp; &#39;c&#39;\u{fffd}"));
    }

    #[test]
    fn a_load_without_an_answer_has_a_page_too() {
        let subject = Subject {
            name: "x".into(),
            url: "http://x".into(),
            rounds: Vec::new(),
        };
        let page = page(&Report::new(0, Settings::default(), vec![subject], &[]));
        check(&page);
        assert!(page.contains("No answer was read to its end.") && page.contains("Too short"));
    }
}
