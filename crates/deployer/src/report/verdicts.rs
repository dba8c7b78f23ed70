//! The gates of a deployment as rows: verdict, reason, figures with their limits, and the evidence to unfold.

use maud::{Markup, html};

use crate::{
    evidence::{details::Flip, verdict::Conclusion},
    report::{
        bars::bars,
        charts,
        figures::{figure, name_in_words},
        page::{clock, since},
        progress::{BakeProgress, Progress, RunningGate},
        record::{GateRecord, Record},
    },
};

/// The style of a conclusion, and its mark. The word beside it says the same.
fn signs(conclusion: Conclusion) -> (&'static str, &'static str) {
    match conclusion {
        Conclusion::Pass => ("good", "✓"),
        Conclusion::Fail => ("bad", "✗"),
        Conclusion::Inconclusive => ("open", "?"),
        Conclusion::Skipped => ("skipped", "–"),
    }
}

/// All gates in order, and the one that runs.
pub(super) fn gates(record: &Record) -> Markup {
    html! { (judged(record)) (running(record)) }
}

/// The gates that have a verdict, in order.
pub(crate) fn judged(record: &Record) -> Markup {
    let Progress {
        gate: running,
        bake,
        ..
    } = &record.progress;
    let is_empty = record.gates.is_empty() && running.is_none() && bake.is_none();
    html! {
        @if is_empty { p.hint { "No gate ran." } }
        @for (place, judged) in record.gates.iter().enumerate() { (gate(judged, place)) }
    }
}

/// The gate or the bake that runs.
pub(crate) fn running(record: &Record) -> Markup {
    html! {
        @if let Some(gate) = &record.progress.gate { (running_gate(gate)) }
        @if let Some(bake) = &record.progress.bake { (running_bake(bake)) }
    }
}

fn gate(judged: &GateRecord, place: usize) -> Markup {
    let (tone, mark) = signs(judged.verdict);
    html! {
        section class={ "gate " (tone) "-edge" } {
            h3 {
                span.name { (judged.gate) }
                span.verdict.(tone) { (mark) " " (judged.verdict) }
                @if let Some(started) = judged.started { span.took { (since(Some(started), judged.finished)) } }
            }
            p.summary { (judged.summary) }
            @for warning in &judged.warnings { p.warning { "⚠ " (warning) } }
            (bars(&judged.numbers))
            @if has_evidence(judged) { (evidence(judged, place)) }
        }
    }
}

fn running_gate(running: &RunningGate) -> Markup {
    html! {
        section.gate.running-edge {
            h3 {
                span.name { (running.gate) }
                span.verdict.open { "… running" }
                span.took { "since " (clock(running.since)) " UTC" }
            }
        }
    }
}

fn running_bake(bake: &BakeProgress) -> Markup {
    let BakeProgress {
        elapsed,
        of,
        requests,
        failed,
        trouble,
    } = bake;
    html! {
        section.gate.running-edge {
            h3 {
                span.name { "bake" }
                span.verdict.open { "… running" }
                span.took { (format!("{elapsed:.0} of {of:.0} s")) }
            }
            progress max=(of.ceil()) value=(elapsed.min(*of).floor()) aria-label="Progress of the bake" {}
            p.summary { (requests) " requests for the candidate, " (failed) " failed" }
            @if let Some(trouble) = trouble { p.warning { "⚠ the last check failed: " (trouble) } }
        }
    }
}

fn has_evidence(judged: &GateRecord) -> bool {
    let GateRecord {
        numbers,
        active_latency,
        candidate_latency,
        curve,
        errors,
        flips,
        ..
    } = judged;
    !(numbers.is_empty()
        && active_latency.is_empty()
        && candidate_latency.is_empty()
        && curve.is_empty()
        && errors.is_empty()
        && flips.is_empty())
}

/// The evidence, which a click unfolds. No `details` element: most browsers do not print what is closed.
fn evidence(judged: &GateRecord, place: usize) -> Markup {
    let flips = judged.flips.len();
    html! {
        label.more {
            input type="checkbox" id={ "evidence-" (place) };
            span {
                "Evidence" span.hidden { " of " (judged.gate) }
                @if flips > 0 { ", " (flips) @if flips == 1 { " disagreement" } @else { " disagreements" } }
            }
        }
        div.unfolded {
            @if let Some(drawing) = charts::latencies(&judged.active_latency, &judged.candidate_latency) { (drawing) }
            @if let Some(drawing) = charts::curve(&judged.curve) { (drawing) }
            @if !judged.errors.is_empty() {
                table {
                    thead { tr { th scope="col" { "Error" } th.number scope="col" { "Requests" } } }
                    tbody { @for (kind, count) in &judged.errors { tr { td.text { (kind) } td.number { (count) } } } }
                }
            }
            @if flips > 0 { (disagreements(&judged.flips)) }
            @if !judged.numbers.is_empty() {
                dl.numbers {
                    @for (name, value) in &judged.numbers {
                        div { dt { (name_in_words(name)) } dd { (figure(name, *value)) } }
                    }
                }
            }
        }
    }
}

/// Inputs that the releases disagree on, with both answers side by side.
fn disagreements(flips: &[Flip]) -> Markup {
    let sure = |confidence: Option<f64>| {
        confidence.map_or_else(String::new, |it| format!(" ({:.0}\u{a0}%)", it * 100.0))
    };
    html! {
        h4 { "Inputs that the releases disagree on" }
        p.hint { "The ones of which both are surest come first; " (flips.len()) " are listed." }
        table.flips {
            thead {
                tr {
                    th scope="col" { "Input" } th scope="col" { "Active" } th scope="col" { "Candidate" } th scope="col" { "Right" }
                }
            }
            tbody {
                @for flip in flips {
                    tr {
                        td.input { (flip.input) }
                        td data-label="Active" { (flip.active) (sure(flip.active_confidence)) }
                        td data-label="Candidate" { (flip.candidate) (sure(flip.candidate_confidence)) }
                        td data-label="Right" { (flip.expect.as_deref().unwrap_or("not known")) }
                    }
                }
            }
        }
    }
}
