//! How the requests of a deployment ended, as a table. It is the legend of the chart of endings, and its text alternative.

use jiff::Timestamp;
use maud::{Markup, html};

use crate::{
    color::Color,
    evidence::ending_counts::EndingCounts,
    report::record::{Record, TrafficSecond},
};

/// The kinds of endings that a chart stacks, from the bottom: those that a release is blamed for come first.
pub(crate) const UNANSWERED: [&str; 7] = [
    "failed",
    "cut",
    "gave_up",
    "refused",
    "both_failed",
    "left",
    "by_router",
];

/// Counts of endings by kind; `None` if the report has none.
pub(super) fn table(record: &Record) -> Option<Markup> {
    let (active, candidate) = (record.plan.active, record.plan.idle);
    let columns = [
        of_clients(record, active, None),
        record.switched.map_or_else(EndingCounts::default, |at| {
            of_clients(record, candidate, Some(at))
        }),
        own(record),
    ];
    // The chart shows the release before the candidate too, and the table is its legend.
    let charted = sum(record.traffic.iter().map(|second| &second.endings));
    let [of_active, of_candidate, own] = columns;
    let columns = [
        (html! { "Clients of " (active) }, of_active),
        (
            html! { "Clients of " (candidate) ", the candidate, since the switch" },
            of_candidate,
        ),
        (html! { "The deployer itself" }, own),
    ];
    let occurred = columns.iter().map(|(_, counts)| counts).chain([&charted]);
    let is_empty = occurred.map(EndingCounts::total).sum::<u64>() == 0;
    (!is_empty).then(|| kinds_table(&columns, &charted))
}

/// Counts of endings by kind, with the pattern and the meaning of each. A kind that occurs neither in a column nor in `charted`
/// has no row.
pub(crate) fn kinds_table(columns: &[(Markup, EndingCounts)], charted: &EndingCounts) -> Markup {
    let occurred = |kind: &str| {
        let mut counts = columns.iter().map(|(_, counts)| counts).chain([charted]);
        counts.any(|counts| counts.of(kind) > 0)
    };
    let kinds = std::iter::once("answered").chain(UNANSWERED);
    html! {
        table.endings {
            thead {
                tr {
                    th scope="col" { "Ending" }
                    @for (head, _) in columns { th.number scope="col" { (head) } }
                }
            }
            tbody {
                @for kind in kinds.filter(|kind| occurred(kind)) {
                    tr {
                        th scope="row" { (swatch(kind)) (kind.replace('_', " ")) p.hint { (meaning(kind)) } }
                        @for (_, counts) in columns { td.number { (counts.of(kind)) } }
                    }
                }
                tr {
                    th scope="row" { "all" }
                    @for (_, counts) in columns { td.number { (counts.total()) } }
                }
            }
        }
    }
}

/// How the clients' requests for a color ended, from a moment on. An earlier release may have run on the color before.
fn of_clients(record: &Record, color: Color, from: Option<Timestamp>) -> EndingCounts {
    let seconds = record.traffic.iter();
    let seconds = seconds.filter(|second| second.color == color && is_from(second, from));
    sum(seconds.map(|second| &second.endings))
}

/// How the own requests of this deployment ended. Those of an earlier one may be among the first seconds.
fn own(record: &Record) -> EndingCounts {
    let began = record.phases.first().map(|first| first.at);
    let seconds = record.traffic.iter();
    let seconds = seconds.filter(|second| is_from(second, began));
    sum(seconds.map(|second| &second.own_endings))
}

/// Whether a part of the second is not before `from`.
fn is_from(second: &TrafficSecond, from: Option<Timestamp>) -> bool {
    from.is_none_or(|from| second.second >= from.as_second())
}

fn sum<'a>(counts: impl Iterator<Item = &'a EndingCounts>) -> EndingCounts {
    let mut sum = EndingCounts::default();
    for counts in counts {
        sum.add(counts);
    }
    sum
}

/// The pattern of a kind in the chart.
fn swatch(kind: &str) -> Markup {
    html! {
        svg.swatch viewBox="0 0 20 14" aria-hidden="true" {
            path class={ "ending " (kind) } stroke-width="20" d="M10 14L10 0" {}
        }
    }
}

fn meaning(kind: &str) -> &'static str {
    match kind {
        "answered" => "The color answered with a status below 400.",
        "failed" => {
            "The color answered with 5xx or 429, or not at all. The standby may have answered in its place."
        }
        "cut" => "The color began an answer and did not end it.",
        "gave_up" => "The client disconnected before an answer.",
        "refused" => "The color answered with another 4xx.",
        "both_failed" => "The color failed, and the standby answered with 5xx.",
        "left" => "The client disconnected during the answer.",
        "by_router" => "The router answered itself, and asked no color.",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::request::Ending;

    #[test]
    fn each_kind_of_ending_is_drawn_and_explained() {
        for kind in Ending::KINDS {
            assert!(kind == "answered" || UNANSWERED.contains(&kind), "{kind}");
            assert!(!meaning(kind).is_empty(), "{kind}");
        }
    }
}
