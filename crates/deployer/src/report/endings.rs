//! How the requests of a deployment ended, as a table. It is the legend of the chart of endings, and its text alternative.

use maud::{Markup, html};

use crate::{
    color::Color,
    evidence::ending_counts::EndingCounts,
    report::record::{Record, TrafficSecond},
};

/// The kinds of endings that a chart stacks, from the bottom: those that a release is blamed for come first.
pub(super) const UNANSWERED: [&str; 7] = [
    "failed",
    "cut",
    "gave_up",
    "refused",
    "both_failed",
    "left",
    "by_router",
];

/// Counts of all endings by kind; `None` if the report has none.
pub(super) fn table(record: &Record) -> Option<Markup> {
    let sum = |counts: &dyn Fn(&TrafficSecond) -> Option<&EndingCounts>| {
        let mut sum = EndingCounts::default();
        let counts = record.traffic.iter().filter_map(counts);
        counts.for_each(|counts| sum.add(counts));
        sum
    };
    let (active, candidate) = (record.plan.active, record.plan.idle);
    let of_clients = |color: Color| {
        sum(&move |second: &TrafficSecond| (second.color == color).then_some(&second.endings))
    };
    let columns = [
        of_clients(active),
        of_clients(candidate),
        sum(&|second| Some(&second.own_endings)),
    ];
    let occurred = |kind: &str| columns.iter().any(|counts| counts.of(kind) > 0);
    let kinds: Vec<&str> = std::iter::once("answered")
        .chain(UNANSWERED)
        .filter(|kind| occurred(kind))
        .collect();
    if kinds.is_empty() {
        return None;
    }
    Some(html! {
        table.endings {
            thead {
                tr {
                    th { "Ending" }
                    th.number { "Clients of " (active) }
                    th.number { "Clients of " (candidate) ", the candidate" }
                    th.number { "The deployer itself" }
                }
            }
            tbody {
                @for kind in kinds {
                    tr {
                        th scope="row" { (swatch(kind)) (kind.replace('_', " ")) p.hint { (meaning(kind)) } }
                        @for counts in &columns { td.number { (counts.of(kind)) } }
                    }
                }
                tr {
                    th scope="row" { "all" }
                    @for counts in &columns { td.number { (counts.total()) } }
                }
            }
        }
    })
}

/// The pattern of a kind in the chart.
fn swatch(kind: &str) -> Markup {
    html! {
        svg.swatch viewBox="0 0 20 14" aria-hidden="true" {
            path class={ "ending " (kind) } style="stroke-width:20" d="M10 14L10 0" {}
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
