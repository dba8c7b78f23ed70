//! Two deployments side by side.

use std::collections::BTreeSet;

use maud::{Markup, html};

use crate::{
    deployment::phase::Phase,
    report::{
        figures::{figure, name_in_words},
        page::{mark, moment, short_digest, since, tone},
        record::{GateRecord, Record},
    },
};

/// Two deployments side by side: release, end, verdicts, and figures.
pub(super) fn comparison(left: &Record, right: &Record) -> Markup {
    let both = [left, right];
    html! {
        header {
            p.kicker { "Two deployments" }
            h1 { (left.plan.release.version) " and " (right.plan.release.version) }
        }
        h2 { "Deployments" }
        table.compare {
            (head(both))
            tbody {
                (row("Release", both.map(|it| html! { (it.plan.release.model) " " (it.plan.release.version) })))
                (row("Digest", both.map(|it| {
                    it.plan.release.digest.as_deref().map_or_else(unknown, short_digest)
                })))
                (row("Color", both.map(|it| html! { (it.plan.idle) })))
                (row("Began (UTC)", both.map(|it| {
                    it.phases.first().map_or_else(unknown, |first| moment(first.at))
                })))
                (row("Took", both.map(took)))
                (row("End", both.map(|it| html! {
                    span class=(tone(it.phase())) { (mark(it.phase())) " " (it.phase().map_or("not begun", Phase::as_str)) }
                })))
                (row("Why", both.map(|it| html! { (it.reason.as_deref().unwrap_or("–")) })))
            }
        }
        h2 { "Verdicts" }
        table.compare {
            (head(both))
            tbody { @for gate in gates(both) { (row(gate, both.map(|it| verdict(of(it, gate))))) } }
        }
        h2 { "Figures" }
        p.hint { "Limits are figures too. A figure that differs is bold." }
        @for gate in gates(both) { (figures(gate, both.map(|it| of(it, gate)), both)) }
    }
}

fn head(both: [&Record; 2]) -> Markup {
    html! {
        thead {
            tr {
                td {}
                @for record in both {
                    th scope="col" { a href={ "/deployments/" (record.plan.id) } { (record.plan.id) } }
                }
            }
        }
    }
}

fn row(name: &str, cells: [Markup; 2]) -> Markup {
    html! { tr { th scope="row" { (name) } @for cell in cells { td.text { (cell) } } } }
}

fn took(record: &Record) -> Markup {
    let ends = record.phases.first().zip(record.phases.last());
    html! { @if let Some((first, last)) = ends { (since(Some(first.at), last.at)) } @else { "–" } }
}

/// The gates of both, in the order in which they ran.
fn gates(both: [&Record; 2]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for judged in both.iter().flat_map(|record| &record.gates) {
        if !names.contains(&judged.gate.as_str()) {
            names.push(&judged.gate);
        }
    }
    names
}

/// The last verdict of a gate.
fn of<'a>(record: &'a Record, gate: &str) -> Option<&'a GateRecord> {
    record.gates.iter().rev().find(|judged| judged.gate == gate)
}

fn verdict(judged: Option<&GateRecord>) -> Markup {
    html! {
        @match judged {
            Some(judged) => { strong { (judged.verdict) } span.why { (judged.summary) } }
            None => { "did not run" }
        }
    }
}

fn figures(gate: &str, judged: [Option<&GateRecord>; 2], both: [&Record; 2]) -> Markup {
    let numbers = judged.map(|judged| judged.map(|it| &it.numbers));
    let names: BTreeSet<&String> = numbers.iter().flatten().flat_map(|it| it.keys()).collect();
    html! {
        @if !names.is_empty() {
            h3 { (gate) }
            table.compare {
                (head(both))
                tbody {
                    @for name in names {
                        @let values = numbers.map(|numbers| numbers.and_then(|it| it.get(name)).copied());
                        @let words = values.map(|value| value.map_or_else(|| "–".to_owned(), |value| figure(name, value)));
                        @let differs = words[0] != words[1];
                        (row(&name_in_words(name), words.map(|words| html! {
                            @if differs { strong { (words) } } @else { (words) }
                        })))
                    }
                }
            }
        }
    }
}

fn unknown() -> Markup {
    html! { "not known" }
}
