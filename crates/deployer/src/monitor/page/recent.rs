//! The traffic of the last 15 minutes as charts on one time axis.

use jiff::Timestamp;
use maud::{Markup, html};

use crate::{
    color::Color,
    evidence::{ending_counts::EndingCounts, latency::milliseconds},
    monitor::page::traffic::{RecentTraffic, SHOWN, STEP, TrafficMoved},
    report::{
        axes::{Axes, LEFT, RIGHT, TOP, WIDTH, number, path},
        charts::percent,
        endings::{UNANSWERED, kinds_table},
        record::TrafficSecond,
    },
};

/// The width of a move's words, in units of the drawing, also on a phone.
const WORDS: f64 = 90.0;

pub(super) fn traffic(traffic: &RecentTraffic) -> Markup {
    html! {
        h2 { "Traffic of the last 15 minutes" }
        @if !traffic.is_known {
            p.hint { "This machine cannot read the router's log." }
        } @else if traffic.buckets.iter().all(|it| it.requests == 0) {
            p.hint { "Clients sent no request." }
        } @else {
            div.charts {
                @for color in Color::BOTH { (requests(traffic, color)) }
                (failures(traffic))
                (waits(traffic))
            }
            (legend(traffic))
        }
    }
}

/// The axes of a chart of this height, on the time axis that all share.
fn axes(traffic: &RecentTraffic, most: f64, height: f64) -> Axes {
    Axes {
        from: (traffic.now - SHOWN) as f64,
        to: traffic.now as f64,
        most,
        height,
    }
}

/// A drawing on its axes, with the moments at which traffic moved. Only the last chart names the times.
fn figure(
    traffic: &RecentTraffic,
    axes: &Axes,
    title: &Markup,
    summary: &str,
    words: impl Fn(f64) -> String,
    drawing: &Markup,
) -> Markup {
    html! {
        figure {
            figcaption { (title) }
            svg viewBox=(format!("0 0 {WIDTH} {}", axes.height)) role="img" aria-label=(summary) {
                (axes.grid(words))
                (drawing)
                @for (place, moved) in traffic.moves.iter().enumerate() { (moment(axes, moved, traffic.moves.get(place + 1))) }
                @for minutes in [15, 10, 5, 0] { (time(axes, minutes)) }
            }
        }
    }
}

/// The moment at which traffic moved. Without words if those of the next move need the place.
fn moment(axes: &Axes, moved: &TrafficMoved, next: Option<&TrafficMoved>) -> Markup {
    let seconds = |moved: &TrafficMoved| moved.at.as_millisecond() as f64 / 1e3;
    let at = seconds(moved);
    let place = next.map_or(f64::INFINITY, |next| axes.x(seconds(next)) - axes.x(at));
    let words = if place < WORDS {
        String::new()
    } else {
        format!("to {}", moved.to)
    };
    // The label of a moment near the right edge lies to its left.
    let anchor = if axes.x(at) > WIDTH - RIGHT - 40.0 {
        "end"
    } else {
        "middle"
    };
    axes.moment(Some(at), &words, (anchor, TOP - 4.0))
}

/// The time so many minutes before now.
fn time(axes: &Axes, minutes: i32) -> Markup {
    let at = axes.to - f64::from(minutes) * 60.0;
    #[expect(clippy::cast_possible_truncation, reason = "a second of our time fits")]
    let words = match minutes {
        0 => "now".to_owned(),
        _ => Timestamp::from_second(at as i64)
            .map_or_else(|_| String::new(), |at| at.strftime("%H:%M").to_string()),
    };
    let anchor = match minutes {
        0 => "end",
        15 => "start",
        _ => "middle",
    };
    html! {
        text.tick x=(number(axes.x(at))) y=(axes.height - 12.0) text-anchor=(anchor) { (words) }
    }
}

/// Requests per second for a color, stacked by how they ended.
fn requests(traffic: &RecentTraffic, color: Color) -> Markup {
    let kinds: Vec<&str> = std::iter::once("answered").chain(UNANSWERED).collect();
    let per_second = |count: u64| count as f64 / STEP as f64;
    // Both colors have one scale, so that their heights compare.
    let most = traffic.buckets.iter().map(|it| per_second(it.requests));
    let axes = axes(traffic, most.fold(1.0, f64::max), 120.0);
    let of_color = || traffic.buckets.iter().filter(move |it| it.color == color);
    let width = axes.x(axes.from + STEP as f64) - LEFT;
    let layer = |place: usize| {
        let bars = of_color().filter(|it| it.endings.of(kinds[place]) > 0);
        let bars = bars.map(|it| {
            let below: u64 = kinds[..place].iter().map(|kind| it.endings.of(kind)).sum();
            let x = axes.x(middle(it));
            let ends = [below, below + it.endings.of(kinds[place])];
            path(ends.map(|count| (x, axes.y(per_second(count)))))
        });
        bars.collect::<String>()
    };
    let drawing = html! {
        @for (place, kind) in kinds.iter().enumerate() {
            path class={ "ending " (kind) " " (color) } stroke-width=(number(width)) d=(layer(place)) {}
        }
    };
    let title = html! { span.dot.(color) aria-hidden="true" {} "Requests per second, " (color) };
    let all: u64 = of_color().map(|it| it.requests).sum();
    let summary = format!(
        "Requests per second for {color}: {all} in 15 minutes. The table below counts them by ending."
    );
    figure(
        traffic,
        &axes,
        &title,
        &summary,
        |count| format!("{count:.0}"),
        &drawing,
    )
}

/// The share of requests that a color failed, and the limit of the bake.
fn failures(traffic: &RecentTraffic) -> Markup {
    let share = |it: &TrafficSecond| it.failed as f64 / it.requests.max(1) as f64;
    let limit = traffic.limits.max_error_rate;
    let most = traffic
        .buckets
        .iter()
        .map(share)
        .fold(limit * 1.2, f64::max);
    let axes = axes(traffic, most.clamp(0.01, 1.0), 110.0);
    let drawing = html! {
        (line(traffic, &axes, Color::Blue, "p99", share))
        (line(traffic, &axes, Color::Green, "p99", share))
        line.limit x1=(LEFT) x2=(WIDTH - RIGHT) y1=(number(axes.y(limit))) y2=(number(axes.y(limit))) {}
    };
    let title = html! {
        "Failed requests: " (both())
        "; the dotted line is the limit of the bake, " (percent(limit))
    };
    let summary = format!(
        "Share of failed requests of both colors; the bake allows {}.",
        percent(limit)
    );
    figure(traffic, &axes, &title, &summary, percent, &drawing)
}

/// How long clients waited.
fn waits(traffic: &RecentTraffic) -> Markup {
    let most = traffic
        .buckets
        .iter()
        .map(|it| it.p99)
        .fold(0.001, f64::max);
    let axes = axes(traffic, most, 180.0);
    let drawing = html! {
        @for color in Color::BOTH {
            (line(traffic, &axes, color, "p50", |it| it.p50))
            (line(traffic, &axes, color, "p99", |it| it.p99))
        }
    };
    let title = html! { "Waiting times, p99 (thick) and p50 (thin): " (both()) };
    let last = |color| {
        let last = traffic
            .buckets
            .iter()
            .rev()
            .find(|it| it.color == color && it.requests > 0);
        last.map_or_else(
            || format!("{color}: none"),
            |it| {
                format!(
                    "{color}: p50 {}, p99 {}",
                    milliseconds(it.p50),
                    milliseconds(it.p99)
                )
            },
        )
    };
    let summary = format!(
        "Waiting times, lately {}; {}.",
        last(Color::Blue),
        last(Color::Green)
    );
    figure(traffic, &axes, &title, &summary, milliseconds, &drawing)
}

fn both() -> Markup {
    html! { span.blue { "blue dashed" } ", " span.green { "green solid" } }
}

/// The middle of a bucket.
fn middle(bucket: &TrafficSecond) -> f64 {
    bucket.second as f64 + STEP as f64 / 2.0
}

/// A line of a color. A bucket without requests interrupts it.
fn line(
    traffic: &RecentTraffic,
    axes: &Axes,
    color: Color,
    quantile: &str,
    value: impl Fn(&TrafficSecond) -> f64,
) -> Markup {
    let of_color = traffic.buckets.iter();
    let of_color = of_color.filter(|it| it.color == color && it.requests > 0);
    let mut drawn = String::new();
    let mut run: Vec<(f64, f64)> = Vec::new();
    let mut before = None;
    for bucket in of_color {
        if before.is_some_and(|before| bucket.second - before > STEP) {
            drawn += &neighbors(axes, std::mem::take(&mut run));
        }
        run.push((axes.x(middle(bucket)), axes.y(value(bucket))));
        before = Some(bucket.second);
    }
    drawn += &neighbors(axes, run);
    html! { path class={ "line " (color) " " (quantile) } d=(drawn) {} }
}

/// The path through buckets that follow one another. A path through one point would not be seen.
fn neighbors(axes: &Axes, buckets: Vec<(f64, f64)>) -> String {
    match buckets[..] {
        [(x, y)] => {
            let half = (axes.x(axes.from + STEP as f64) - LEFT) / 2.0;
            path([(x - half, y), (x + half, y)])
        }
        _ => path(buckets),
    }
}

/// The counts of both colors by ending, which are the legend and the text alternative of the charts.
fn legend(traffic: &RecentTraffic) -> Markup {
    let counts = Color::BOTH.map(|color| {
        let mut counts = EndingCounts::default();
        for bucket in traffic.buckets.iter().filter(|it| it.color == color) {
            counts.add(&bucket.endings);
        }
        counts
    });
    let [blue, green] = counts;
    let columns = [(html! { "blue" }, blue), (html! { "green" }, green)];
    html! {
        label.more { input type="checkbox" id="endings"; " Counts, and what the patterns mean" }
        div.unfolded { (kinds_table(&columns, &EndingCounts::default())) }
    }
}
