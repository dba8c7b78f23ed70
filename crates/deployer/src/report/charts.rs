//! Charts as plain SVG. They are readable without color, and the figures stand beside them.

use std::collections::BTreeMap;

use maud::{Markup, html};

use crate::{
    color::Color,
    evidence::{
        ending_counts::EndingCounts,
        latency::{Bin, milliseconds},
    },
    report::{
        axes::{Axes, HEIGHT, TOP, WIDTH, number, path},
        record::TrafficSecond,
    },
};

/// A bin as it is drawn.
struct Bar {
    /// The bounds, as powers of ten of seconds.
    from: f64,
    to: f64,
    /// The share of all requests, 0–1.
    share: f64,
}

fn bars(bins: &[Bin]) -> Vec<Bar> {
    let count: u64 = bins.iter().map(|bin| bin.count).sum();
    let bar = |bin: &Bin| Bar {
        from: bin.from.log10(),
        to: bin.to.log10(),
        share: bin.count as f64 / count.max(1) as f64,
    };
    bins.iter().map(bar).collect()
}

/// The line around the bars. It falls to zero over a gap and at both ends.
fn outline(axes: &Axes, bars: &[Bar]) -> String {
    let mut points = Vec::new();
    let mut end = f64::NEG_INFINITY;
    for Bar { from, to, share } in bars {
        if from - end > 1e-6 {
            points.extend(end.is_finite().then(|| (axes.x(end), axes.y(0.0))));
            points.push((axes.x(*from), axes.y(0.0)));
        }
        points.extend([
            (axes.x(*from), axes.y(*share)),
            (axes.x(*to), axes.y(*share)),
        ]);
        end = *to;
    }
    points.extend(end.is_finite().then(|| (axes.x(end), axes.y(0.0))));
    path(points)
}

/// Round latencies in seconds on an axis that reaches between these powers of ten.
fn round_latencies(from: f64, to: f64) -> Vec<f64> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "powers of ten of seconds are few"
    )]
    let decades = from.floor() as i32..=to.floor() as i32;
    // Within two decades, the ends of the axis alone would say too little.
    let steps: &[f64] = if to - from < 2.0 {
        &[1.0, 2.0, 5.0]
    } else {
        &[1.0]
    };
    decades
        .flat_map(|decade| steps.iter().map(move |step| step * 10_f64.powi(decade)))
        .filter(|seconds| (from..=to).contains(&seconds.log10()))
        .collect()
}

/// Two latency distributions on a logarithmic axis; `None` if both are empty.
pub(super) fn latencies(active: &[Bin], candidate: &[Bin]) -> Option<Markup> {
    let (active, candidate) = (bars(active), bars(candidate));
    let all = || active.iter().chain(&candidate);
    let from = all().map(|bar| bar.from).fold(f64::INFINITY, f64::min);
    let to = all().map(|bar| bar.to).fold(f64::NEG_INFINITY, f64::max);
    if from >= to {
        return None;
    }
    let most = all().map(|bar| bar.share).fold(0.0, f64::max);
    let axes = Axes {
        from,
        to,
        most,
        height: HEIGHT,
    };
    Some(html! {
        figure {
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" {
                title { "Distribution of latencies" }
                (axes.grid(percent))
                @for seconds in round_latencies(from, to) { (axes.tick(seconds.log10(), &milliseconds(seconds))) }
                path.candidate.area d=(outline(&axes, &candidate)) {}
                path.active d=(outline(&axes, &active)) {}
            }
            figcaption {
                "Share of requests by latency, on a logarithmic axis: "
                @if !active.is_empty() { span.active { "dashed: active release" } }
                @if !active.is_empty() && !candidate.is_empty() { ", " }
                @if !candidate.is_empty() { span.candidate { "filled: candidate" } }
                "."
            }
        }
    })
}

/// Latencies in the order of their requests; `None` if they are fewer than two.
pub(super) fn curve(seconds: &[f64]) -> Option<Markup> {
    if seconds.len() < 2 {
        return None;
    }
    let last = (seconds.len() - 1) as f64;
    let axes = Axes {
        from: 0.0,
        to: last,
        most: seconds.iter().copied().fold(0.0, f64::max),
        height: HEIGHT,
    };
    let points = seconds.iter().enumerate();
    let points = points.map(|(place, seconds)| (axes.x(place as f64), axes.y(*seconds)));
    Some(html! {
        figure {
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" {
                title { "Latency of each request" }
                (axes.grid(milliseconds))
                (axes.tick(0.0, "first"))
                (axes.tick(last, "last"))
                path.candidate d=(path(points)) {}
            }
            figcaption { "Latency of the candidate's requests, from the first to the last one." }
        }
    })
}

/// A value over time.
pub(super) struct OverTime<'a> {
    pub(super) title: &'a str,
    pub(super) seconds: &'a [TrafficSecond],
    /// The candidate's color.
    pub(super) candidate: Color,
    /// When traffic moved to the candidate, in seconds since 1970.
    pub(super) switched: Option<f64>,
    /// When traffic returned, in seconds since 1970.
    pub(super) rolled_back: Option<f64>,
}

impl OverTime<'_> {
    /// Draws a value for each second, on an axis that reaches at least `scale`; `None` if empty.
    pub(super) fn draw(
        &self,
        scale: f64,
        value: impl Fn(&TrafficSecond) -> f64,
        words: impl Fn(f64) -> String,
    ) -> Option<Markup> {
        let most = self.seconds.iter().map(&value).fold(scale, f64::max);
        let axes = self.axes(most)?;
        let line = |color: Color| {
            let of_color = self
                .seconds
                .iter()
                .filter(move |second| second.color == color);
            let mut drawn = String::new();
            let mut run = Vec::new();
            let mut before = f64::NEG_INFINITY;
            for second in of_color {
                // In the middle of its second.
                let at = self.since_start(second.second) + 0.5;
                // A second without requests interrupts the line.
                if at - before > 1.5 {
                    drawn += &path(std::mem::take(&mut run));
                }
                run.push((axes.x(at), axes.y(value(second))));
                before = at;
            }
            drawn + &path(run)
        };
        let lines = html! {
            path.active d=(line(self.candidate.other())) {}
            path.candidate d=(line(self.candidate)) {}
        };
        let caption = html! {
            (self.title) ", by the color that they were meant for: "
            span.active { "dashed: " (self.candidate.other()) } ", "
            span.candidate { "solid: " (self.candidate) ", the candidate" } "."
        };
        Some(self.figure(&axes, words, &lines, &caption))
    }

    /// Draws the share of each of these kinds of endings, second by second, one above the other; `None` without them.
    pub(super) fn stack(&self, kinds: &[&str]) -> Option<Markup> {
        let mut seconds = BTreeMap::<i64, EndingCounts>::new();
        for second in self.seconds {
            let counts = seconds.entry(second.second).or_default();
            counts.add(&second.endings);
        }
        let share = |counts: &EndingCounts, kinds: &[&str]| {
            let ended: u64 = kinds.iter().map(|kind| counts.of(kind)).sum();
            ended as f64 / counts.total().max(1) as f64
        };
        let most = seconds.values().map(|counts| share(counts, kinds));
        let most = most.fold(0.0, f64::max);
        let axes = self.axes(most).filter(|_| most > 0.0)?;
        let width = (axes.x(1.0) - axes.x(0.0)).max(1.0);
        // Each second is a line as wide as the second, because lines can be dashed, so that not color alone tells the kinds.
        let layer = |place: usize, kind: &str| {
            let bars = seconds.iter().filter(|(_, counts)| counts.of(kind) > 0);
            let bars = bars.map(|(second, counts)| {
                let below = share(counts, &kinds[..place]);
                let x = axes.x(self.since_start(*second) + 0.5);
                let ends = [below, below + share(counts, &[kind])];
                path(ends.map(|share| (x, axes.y(share))))
            });
            bars.collect::<String>()
        };
        let layers = html! {
            @for (place, kind) in kinds.iter().enumerate() {
                path class={ "ending " (kind) } stroke-width=(number(width)) d=(layer(place, kind)) {}
            }
        };
        let caption = html! { (self.title) ", second by second, one above the other. The table names the patterns." };
        Some(self.figure(&axes, percent, &layers, &caption))
    }

    /// Axes that reach from the first second to the end of the last one; `None` without a second.
    fn axes(&self, most: f64) -> Option<Axes> {
        let last = self.seconds.last()?.second;
        Some(Axes {
            from: 0.0,
            to: self.since_start(last) + 1.0,
            most,
            height: HEIGHT,
        })
    }

    /// The seconds from the first second to this one.
    fn since_start(&self, second: i64) -> f64 {
        let first = self.seconds.first().map_or(second, |first| first.second);
        (second - first) as f64
    }

    /// A drawing on its axes, with the moments at which traffic moved.
    fn figure(
        &self,
        axes: &Axes,
        words: impl Fn(f64) -> String,
        drawing: &Markup,
        caption: &Markup,
    ) -> Markup {
        let first = self.seconds.first().map_or(0.0, |it| it.second as f64);
        html! {
            figure {
                svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" {
                    title { (self.title) }
                    (axes.grid(words))
                    (axes.tick(0.0, "0 s"))
                    (axes.tick(axes.to, &format!("{:.0} s", axes.to)))
                    (drawing)
                    (axes.moment(self.switched.map(|at| at - first), "switch", ("middle", TOP - 4.0)))
                    // Inside the chart and below the other label, which may be close.
                    (axes.moment(self.rolled_back.map(|at| at - first), "rolled back\u{a0}", ("end", TOP + 18.0)))
                }
                figcaption { (caption) }
            }
        }
    }
}

/// A share on an axis.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}
