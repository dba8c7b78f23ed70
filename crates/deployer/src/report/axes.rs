//! The axes of a chart, in units of its drawing.

use maud::{Markup, html};

pub(crate) const WIDTH: f64 = 720.0;
pub(crate) const HEIGHT: f64 = 200.0;
pub(crate) const LEFT: f64 = 56.0;
pub(crate) const RIGHT: f64 = 26.0;
pub(crate) const TOP: f64 = 16.0;
pub(crate) const BOTTOM: f64 = 34.0;

/// The coordinates of a chart: a range on each axis.
pub(crate) struct Axes {
    pub(crate) from: f64,
    pub(crate) to: f64,
    pub(crate) most: f64,
    /// The height of the drawing.
    pub(crate) height: f64,
}

impl Axes {
    pub(crate) fn x(&self, value: f64) -> f64 {
        let span = (self.to - self.from).max(f64::MIN_POSITIVE);
        LEFT + (WIDTH - LEFT - RIGHT) * (value - self.from) / span
    }

    pub(crate) fn y(&self, value: f64) -> f64 {
        TOP + (self.height - TOP - BOTTOM) * (1.0 - value / self.most.max(f64::MIN_POSITIVE))
    }

    /// Horizontal lines at the ends and the middle of the vertical axis.
    pub(crate) fn grid(&self, words: impl Fn(f64) -> String) -> Markup {
        html! {
            @for share in [0.0, 0.5, 1.0] {
                @let y = self.y(self.most * share);
                line.grid x1=(LEFT) x2=(WIDTH - RIGHT) y1=(number(y)) y2=(number(y)) {}
                text.tick x=(LEFT - 6.0) y=(number(y + 4.0)) text-anchor="end" { (words(self.most * share)) }
            }
        }
    }

    /// A vertical line at an event. An event shortly after the last log line is drawn at the end, because nginx
    /// writes its log with a delay.
    pub(crate) fn moment(&self, at: Option<f64>, words: &str, (anchor, y): (&str, f64)) -> Markup {
        const LATE: f64 = 2.0;

        let shown = at.filter(|at| (self.from..=self.to + LATE).contains(at));
        html! {
            @if let Some(x) = shown.map(|at| number(self.x(at.min(self.to)))) {
                line.moment x1=(x) x2=(x) y1=(TOP) y2=(self.height - BOTTOM) {}
                text.tick.over x=(x) y=(y) text-anchor=(anchor) { (words) }
            }
        }
    }

    pub(crate) fn tick(&self, value: f64, words: &str) -> Markup {
        html! {
            text.tick x=(number(self.x(value))) y=(self.height - 10.0) text-anchor="middle" { (words) }
        }
    }
}

pub(crate) fn number(value: f64) -> String {
    format!("{value:.1}")
}

/// The path through these points; empty without one.
pub(crate) fn path(points: impl IntoIterator<Item = (f64, f64)>) -> String {
    let mut steps = String::new();
    for (x, y) in points {
        steps.push(if steps.is_empty() { 'M' } else { 'L' });
        steps.extend([number(x), " ".to_owned(), number(y)]);
    }
    steps
}
