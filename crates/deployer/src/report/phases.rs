//! The phases of a deployment as steps.

use maud::{Markup, html};

use crate::{
    deployment::phase::Phase,
    report::{
        page::{clock, short_digest, since},
        record::Record,
    },
};

/// The phases in order with their times, and those that follow if the deployment goes well.
pub(crate) fn phases(record: &Record) -> Markup {
    let began = record.phases.first().map(|first| first.at);
    let last = record.phase();
    let ahead = std::iter::successors(last.and_then(Phase::on_success), |phase| phase.on_success());
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

/// The questions for approval, and how each was decided.
pub(crate) fn approvals(record: &Record) -> Markup {
    html! {
        @if !record.approvals.is_empty() {
            ul.approvals {
                @for asked in &record.approvals {
                    li {
                        @match asked.decision {
                            Some(decision) => {
                                strong { (decision) }
                                " before the phase " (asked.before)
                                @if let Some(by) = &asked.by { " by " (by) }
                                @if let Some(decided) = asked.decided { " at " (clock(decided)) " UTC" }
                                @if let Some(reason) = &asked.reason { ": " (reason) }
                            }
                            None => {
                                "asked before the phase " (asked.before) " at " (clock(asked.asked)) " UTC, until "
                                (clock(asked.expires)) " UTC"
                            }
                        }
                        p.hint { "Evidence " (short_digest(&asked.evidence)) }
                    }
                }
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
