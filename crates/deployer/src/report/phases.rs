//! The phases of a deployment as steps.

use maud::{Markup, html};

use crate::{
    deployment::phase::Phase,
    report::{
        page::{clock, since},
        record::Record,
    },
};

/// The phases in order with their times, and those that follow if the deployment goes well.
pub(crate) fn phases(record: &Record) -> Markup {
    let began = record.phases.first().map(|first| first.at);
    let last = record.phase();
    let ahead = std::iter::successors(last.and_then(Phase::on_success), |phase| {
        phase.on_success()
    });
    let current = last.is_some_and(|last| !last.is_end());
    let place_of_last = record.phases.len().saturating_sub(1);
    html! {
        ol.phases {
            @for (place, reached) in record.phases.iter().enumerate() {
                @let is_now = current && place == place_of_last;
                li class=(if is_now { "now" } else { tone(reached.phase) }) aria-current=[is_now.then_some("step")] {
                    span.name { (mark(reached.phase, is_now)) " " (reached.phase) }
                    time datetime=(reached.at) { (clock(reached.at)) }
                    span.took { "after " (since(began, reached.at)) }
                }
            }
            @for phase in ahead {
                li.ahead { span.name { "○ " (phase) } span.took { "not yet" } }
            }
        }
    }
}

/// The style of a step. Its mark says the same.
fn tone(phase: Phase) -> &'static str {
    match phase {
        Phase::Refused | Phase::RolledBack | Phase::Halted => "bad",
        _ => "good",
    }
}

fn mark(phase: Phase, is_now: bool) -> &'static str {
    match phase {
        Phase::Refused | Phase::Halted => "✗",
        Phase::RolledBack => "↩",
        _ if is_now => "●",
        _ => "✓",
    }
}
