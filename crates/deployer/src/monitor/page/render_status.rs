//! What happens now, in a headline and a sentence, and the notes.

use maud::{Markup, html};

use crate::{
    deployment::phase::Phase,
    monitor::page::{possible::awaited, view::PageView},
    report::{
        page::{clock, facts, mark, moment, tone},
        phases::{approvals, phases},
        record::Record,
        verdicts,
    },
};

/// What happens now. It changes only when the situation does, because a screen reader reads each change.
pub(super) fn status(view: &PageView) -> Markup {
    let (tone, title, sentence) = situation(view);
    html! {
        p.kicker { "Now" }
        h1 class=(tone) { (title) }
        p.lead { (sentence) }
    }
}

fn situation(view: &PageView) -> (&'static str, String, String) {
    let Some(record) = view.deployment.as_deref() else {
        return (
            "open",
            "Nothing was deployed yet".to_owned(),
            "The first `deployer deploy VERSION` appears here as soon as it begins.".to_owned(),
        );
    };
    let phase = record.phase();
    let release = release(record);
    if let Some(end) = phase.filter(|phase| phase.is_end()) {
        let sentence = record.reason.clone().unwrap_or_default();
        return (
            tone(phase),
            format!("{} {release} is {end}", mark(phase)),
            sentence,
        );
    }
    if view.under_way().is_none() {
        let title = format!("✗ The deployment of {release} was interrupted");
        let last = phase.map_or("planned", Phase::as_str);
        return (
            "bad",
            title,
            format!("It was last seen {last}. `deployer recover` completes it."),
        );
    }
    if let Some(asked) = awaited(record) {
        let sentence = format!(
            "It waits before the phase {}, until {} UTC. It is {} then, unless a person decides.",
            asked.before,
            clock(asked.expires),
            if asked.before == Phase::Promoted {
                "rolled back"
            } else {
                "refused"
            },
        );
        return ("open", format!("{release} waits for approval"), sentence);
    }
    let (title, sentence) = of_phase(record);
    ("open", title, sentence)
}

/// What happens in the phase of a deployment that is under way.
fn of_phase(record: &Record) -> (String, String) {
    let release = release(record);
    let idle = record.plan.idle;
    match record.phase() {
        None | Some(Phase::Planned) => (
            format!("{release} is about to be deployed"),
            format!("{idle} receives it. No server was touched yet."),
        ),
        Some(Phase::Starting) => (
            format!("{release} starts on {idle}"),
            "Clients are served by the other color.".to_owned(),
        ),
        Some(Phase::Healthy) => (
            format!("{release} is tested on {idle}"),
            "Traffic moves when every gate is passed.".to_owned(),
        ),
        Some(Phase::Validated) => (
            format!("{release} passed every gate"),
            format!("All traffic moves to {idle} next."),
        ),
        Some(_) => (
            format!("{release} has all traffic and bakes"),
            format!(
                "It goes back to {} if clients are served worse.",
                record.plan.active
            ),
        ),
    }
}

/// The release of a deployment by model and version.
fn release(record: &Record) -> String {
    let release = &record.plan.release;
    format!("{} {}", release.model, release.version)
}

/// The holder of the lock.
pub(super) fn at_work(view: &PageView) -> Markup {
    html! {
        p.work {
            @match &view.holder {
                Some(holder) => {
                    strong { "At work: " }
                    code { (holder.command) } " by " (holder.by) ", since " (moment(holder.since)) " UTC"
                }
                None => { "No deployer is at work." }
            }
        }
    }
}

/// The deployment with its phases.
pub(super) fn deployment(view: &PageView) -> Markup {
    html! {
        @if let Some(record) = view.deployment.as_deref() {
            h2 { @if view.running().is_some() { "This deployment" } @else { "The last deployment" } }
            (facts(record))
            (phases(record))
            (approvals(record))
            (health(record))
            p.hint {
                "Deployment " (record.plan.id) ". "
                a href={ "/deployments/" (record.plan.id) } { "Its report" }
            }
        }
    }
}

fn health(record: &Record) -> Markup {
    // After the end the idle color gets its earlier release back, which is not healthy at once either.
    let starts = record.phase() == Some(Phase::Starting);
    html! {
        @if let Some(health) = record.progress.health.as_ref().filter(|_| starts) {
            p.warning {
                "The candidate is not healthy yet after " (format!("{:.0} s", health.elapsed)) ", and made progress "
                (format!("{:.0} s", health.without_progress)) " ago (it is refused after "
                (format!("{:.0} s", health.stall)) "): " (health.reason)
            }
            @if let Some(line) = &health.last_line { p.hint { "It logged: " code { (line) } } }
        }
    }
}

/// The gates that have a verdict.
pub(super) fn gates(view: &PageView) -> Markup {
    html! {
        @if let Some(record) = view.deployment.as_deref() {
            h2 { "Evidence" }
            (verdicts::judged(record))
        }
    }
}

/// The gate that runs.
pub(super) fn running(view: &PageView) -> Markup {
    html! {
        @if let Some(record) = view.deployment.as_deref() { (verdicts::running(record)) }
    }
}

/// The last notes.
pub(super) fn notes(view: &PageView) -> Markup {
    let Some(record) = view.deployment.as_deref().filter(|it| !it.notes.is_empty()) else {
        return html! {};
    };
    let forgotten = record.progress.forgotten_notes;
    let surplus = record
        .notes
        .len()
        .saturating_sub(super::stream::SHOWN_NOTES);
    html! {
        h2 { "Notes" }
        @if forgotten + surplus > 0 {
            p.hint {
                "The last " (record.notes.len() - surplus) " of " (record.notes.len() + forgotten) ". The report has all of them."
            }
        }
        ul.notes { @for note in &record.notes[surplus..] { li { (note) } } }
    }
}

/// When the monitor last checked.
pub(super) fn checked(view: &PageView) -> Markup {
    html! {
        p {
            @match view.round.checked {
                Some(checked) => { "Checked at " (moment(checked)) " UTC. All times are in UTC." }
                None => { "The monitor has not checked the colors yet." }
            }
        }
    }
}
