//! Plots as inline SVG. Colours are variables of the page's style sheet, so that they suit light and dark.

use std::fmt::Write;

use super::table::number;

/// Lines over two linear axes; who wants another scale gives points and ticks in it.
pub struct Plot {
    pub x: Axis,
    pub y: Axis,
    pub series: Vec<Series>,
    pub shape: Shape,
}

pub struct Axis {
    pub label: &'static str,
    pub from: f64,
    pub to: f64,
    /// Places and what is written there.
    pub ticks: Vec<(f64, String)>,
}

pub struct Series {
    pub points: Vec<(f64, f64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Line,
    /// Steps down to the axis, filled.
    Area,
}

/// The drawing; nothing in it comes from outside but numbers.
pub fn svg(plot: &Plot, title: &str) -> String {
    let mut svg = format!(
        r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}" xmlns="http://www.w3.org/2000/svg">"#
    );
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    for (place, text) in &plot.y.ticks {
        let y = down(plot, *place);
        let _ = write!(
            svg,
            r#"<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1}" y2="{y:.1}"/><text x="{x}" y="{text_y:.1}" text-anchor="end">{text}</text>"#,
            x = LEFT - 8.0,
            text_y = y + 4.0,
        );
    }
    for (place, text) in &plot.x.ticks {
        let x = along(plot, *place);
        let _ = write!(
            svg,
            r#"<line class="grid" x1="{x:.1}" x2="{x:.1}" y1="{TOP}" y2="{bottom}"/><text x="{x:.1}" y="{y}" text-anchor="middle">{text}</text>"#,
            y = bottom + 18.0,
        );
    }
    for (at, series) in plot.series.iter().enumerate() {
        draw(&mut svg, plot, series, at % COLOURS);
    }
    let _ = write!(
        svg,
        r#"<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/><text x="{LEFT}" y="{y}">{}</text><text x="{right}" y="{label}" text-anchor="end">{}</text></svg>"#,
        plot.y.label,
        plot.x.label,
        y = TOP - 10.0,
        label = HEIGHT - 6.0,
    );
    svg
}

fn draw(svg: &mut String, plot: &Plot, series: &Series, colour: usize) {
    let mut points = String::new();
    for (x, y) in &series.points {
        let _ = write!(points, "{:.1},{:.1} ", along(plot, *x), down(plot, *y));
    }
    let points = points.trim_end();
    if let (Shape::Area, Some(first), Some(last)) =
        (plot.shape, series.points.first(), series.points.last())
    {
        let (start, end) = (along(plot, first.0), along(plot, last.0));
        let bottom = HEIGHT - BOTTOM;
        let _ = write!(
            svg,
            r#"<polygon class="c{colour} fill" points="{start:.1},{bottom} {points} {end:.1},{bottom}"/>"#
        );
    }
    let _ = write!(
        svg,
        r#"<polyline class="c{colour} line" points="{points}"/>"#
    );
}

fn along(plot: &Plot, value: f64) -> f64 {
    LEFT + plot.x.share(value) * (WIDTH - LEFT - RIGHT)
}

fn down(plot: &Plot, value: f64) -> f64 {
    HEIGHT - BOTTOM - plot.y.share(value) * (HEIGHT - TOP - BOTTOM)
}

impl Axis {
    /// Where a value is between the ends, 0 to 1.
    fn share(&self, value: f64) -> f64 {
        let share = (value - self.from) / (self.to - self.from);
        if share.is_finite() {
            share.clamp(0.0, 1.0)
        } else {
            0.0
        }
    }

    /// From 0 to at least `max`, with four to eight round ticks.
    pub fn linear(label: &'static str, max: f64) -> Self {
        let max = if max.is_finite() && max > 0.0 {
            max
        } else {
            1.0
        };
        let step = round_step(max / 5.0);
        let count = (max / step).ceil().max(1.0);
        let decimals = decimals(step);
        let ticks = (0..=count as u32)
            .map(|turn| f64::from(turn) * step)
            .map(|place| (place, plain(place, decimals)))
            .collect();
        Self {
            label,
            from: 0.0,
            to: count * step,
            ticks,
        }
    }

    /// Logarithms to base 10, with ticks at 1, 2 and 5 of each power, or at powers alone where they are many.
    pub fn logarithmic(label: &'static str, min: f64, max: f64) -> Self {
        let min = if min.is_finite() && min > 0.0 {
            min
        } else {
            0.001
        };
        let max = if max.is_finite() && max > min {
            max
        } else {
            min * 10.0
        };
        let powers = min.log10().floor() as i32..=max.log10().ceil() as i32;
        let steps: &[f64] = if powers.clone().count() > 4 {
            &[1.0]
        } else {
            &[1.0, 2.0, 5.0]
        };
        let all: Vec<f64> = powers
            .flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)))
            .collect();
        let from = all
            .iter()
            .rev()
            .find(|place| **place <= min)
            .copied()
            .unwrap_or(min);
        let to = all
            .iter()
            .find(|place| **place >= max)
            .copied()
            .unwrap_or(max);
        let ticks = all
            .into_iter()
            .filter(|place| (from..=to).contains(place))
            .map(|place| (place.log10(), plain(place, decimals(place))))
            .collect();
        Self {
            label,
            from: from.log10(),
            to: to.log10(),
            ticks,
        }
    }
}

/// As many as tell a power of ten, and its double, by themselves.
fn decimals(value: f64) -> usize {
    (-value.log10().floor()).clamp(0.0, 6.0) as usize
}

/// With commas between thousands.
fn plain(value: f64, decimals: usize) -> String {
    match decimals {
        0 => number(value.round() as u64),
        _ => format!("{value:.decimals$}"),
    }
}

/// 1, 2 or 5 times a power of ten, at least `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let first = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|first| first * power >= step * 0.999);
    first.unwrap_or(10.0) * power
}

/// Classes `c0` to `c7` of the style sheet.
pub const COLOURS: usize = 8;
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 28.0;
const BOTTOM: f64 = 44.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_reach_the_greatest_value() {
        let ends = |axis: &Axis| {
            [
                axis.ticks[0].1.clone(),
                axis.ticks.last().unwrap().1.clone(),
            ]
        };
        for (max, expected) in [
            (0.0, ["0.0", "1.0"]),
            (7.0, ["0", "8"]),
            (23_456.0, ["0", "25,000"]),
            (0.037, ["0.00", "0.04"]),
            (f64::NAN, ["0.0", "1.0"]),
        ] {
            let axis = Axis::linear("", max);
            assert_eq!(ends(&axis), expected, "{max}");
            assert!(
                (4..=9).contains(&axis.ticks.len()),
                "{max}: {}",
                axis.ticks.len()
            );
        }
        let axis = Axis::logarithmic("", 0.4, 31.0);
        assert_eq!(ends(&axis), ["0.2", "50"]);
        let axis = Axis::logarithmic("", 0.004, 31_000.0);
        assert_eq!(ends(&axis), ["0.001", "100,000"]);
        assert!(Axis::logarithmic("", 0.0, 0.0).ticks.len() > 1);
    }

    #[test]
    fn what_is_beyond_the_axes_is_drawn_at_their_ends() {
        let plot = Plot {
            x: Axis::linear("x", 10.0),
            y: Axis::linear("y", 10.0),
            series: vec![Series {
                points: vec![(-5.0, 20.0), (f64::NAN, 5.0), (10.0, 0.0)],
            }],
            shape: Shape::Area,
        };
        let svg = svg(&plot, "t");
        assert!(
            svg.contains(r#"class="c0 line" points="64.0,28.0 64.0,142.0 704.0,256.0""#),
            "{svg}"
        );
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }
}
